//! An app's files as a deploy needs them: components and site files by content hash, and their way to the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cloudlet_base::ContentHash;
use http::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::api::Client;
use super::out;
use crate::apps::deploy::{DeployRequest, Plan};
use crate::apps::manifest::Manifest;
use crate::apps::records::{ComponentEntry, SiteEntry};

/// Files of a site; the node has the same limit.
const SITE_FILES_MAX: usize = 20_000;
/// Directories in directories of a site.
const SITE_DEPTH_MAX: usize = 32;

/// An app's files.
pub(super) struct Bundle {
    pub(super) request: DeployRequest,
    /// Where the content of each hash is.
    files: BTreeMap<ContentHash, PathBuf>,
}

impl Bundle {
    /// Reads and hashes what the manifest names.
    ///
    /// # Errors
    /// When a file or directory can't be read.
    pub(super) fn read(
        dir: &Path,
        text: String,
        manifest: &Manifest,
        env: Option<&str>,
    ) -> anyhow::Result<Self> {
        super::build::check_sources(dir, manifest)?;
        let mut files = BTreeMap::new();
        let mut components = Vec::new();
        for (name, function) in &manifest.functions {
            let path = dir.join(&function.source);
            let (hash, _) = hash_file(&path)?;
            files.insert(hash, path);
            components.push(ComponentEntry {
                function: name.clone(),
                hash: hash.to_string(),
            });
        }
        let mut site = Vec::new();
        if let Some(hosting) = &manifest.hosting {
            let root = dir.join(&hosting.dir);
            if !root.is_dir() {
                bail!(
                    "hosting.dir {} is not a directory; build the site first",
                    root.display()
                );
            }
            let mut paths = Vec::new();
            walk(&root, 0, &mut paths)?;
            for path in paths {
                let (hash, size) = hash_file(&path)?;
                site.push(SiteEntry {
                    path: site_path(&root, &path)?,
                    hash: hash.to_string(),
                    size: i64::try_from(size)?,
                    content_type: content_type(&path),
                });
                files.insert(hash, path);
            }
        }
        Ok(Self {
            request: DeployRequest {
                manifest: text,
                env: env.map(str::to_owned),
                components,
                site,
                dry_run: false,
                plan: Plan::default(),
            },
            files,
        })
    }

    /// Sends what the node does not have. Returns how many files that were.
    ///
    /// # Errors
    /// When the node refuses, or a file changed since it was read.
    pub(super) async fn upload(&self, client: &Client, app: &str) -> anyhow::Result<usize> {
        let hashes: Vec<String> = self.files.keys().map(ToString::to_string).collect();
        let plan = client
            .post(&format!("/v1/apps/{app}/plan"), &json!({ "hashes": hashes }))
            .await?;
        let missing = plan["missing"].as_array().cloned().unwrap_or_default();
        let bar = out::bar(missing.len() as u64, "uploading");
        for hash in &missing {
            let hash: ContentHash = hash.as_str().unwrap_or_default().parse()?;
            let path = self
                .files
                .get(&hash)
                .context("the node asks for a file that is not ours")?;
            let bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
            if hash_bytes(&bytes) != hash {
                bail!(
                    "{} changed while it was being deployed; deploy again",
                    path.display()
                );
            }
            client
                .value(
                    Method::PUT,
                    &format!("/v1/content/{hash}"),
                    Some(Bytes::from(bytes)),
                )
                .await
                .with_context(|| format!("can't upload {}", path.display()))?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(missing.len())
    }
}

fn hash_bytes(bytes: &[u8]) -> ContentHash {
    ContentHash::from_bytes(Sha256::digest(bytes).into())
}

fn hash_file(path: &Path) -> anyhow::Result<(ContentHash, u64)> {
    let bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok((hash_bytes(&bytes), bytes.len() as u64))
}

/// The files under `dir`, in order; hidden ones (`.git`, `.DS_Store`) are not a site's, but `.well-known` is.
fn walk(dir: &Path, depth: usize, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if depth > SITE_DEPTH_MAX {
        bail!("{} is more than {SITE_DEPTH_MAX} directories deep", dir.display());
    }
    let unreadable = || format!("can't read the directory {}", dir.display());
    let mut entries = std::fs::read_dir(dir)
        .with_context(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .with_context(unreadable)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name != ".well-known" {
            continue;
        }
        let path = entry.path();
        match std::fs::metadata(&path).with_context(|| format!("can't read {}", path.display()))? {
            found if found.is_dir() => walk(&path, depth + 1, into)?,
            found if found.is_file() => into.push(path),
            _ => {}
        }
        if into.len() > SITE_FILES_MAX {
            bail!("the site has more than {SITE_FILES_MAX} files; put the large mass into storage");
        }
    }
    Ok(())
}

fn site_path(root: &Path, path: &Path) -> anyhow::Result<String> {
    let relative = path.strip_prefix(root)?;
    let text = relative
        .to_str()
        .with_context(|| format!("the name of {} is not UTF-8", path.display()))?;
    Ok(format!("/{text}"))
}

fn content_type(path: &Path) -> String {
    let guessed = mime_guess::from_path(path).first_or_octet_stream();
    let text =
        guessed.type_() == "text" || ["javascript", "json", "xml"].contains(&guessed.subtype().as_str());
    match text {
        true => format!("{guessed}; charset=utf-8"),
        false => guessed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::manifest;

    #[test]
    fn a_bundle_has_every_component_and_visible_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let text = "manifest_version = 1\n[app]\nname = \"a\"\n[function.f]\nsource = \"f.wasm\"\n[hosting]\ndir = \"dist\"\n";
        let manifest = manifest::parse(manifest::FILE, text, None).unwrap();
        let read = || Bundle::read(dir.path(), text.to_owned(), &manifest, None);
        assert!(read().err().unwrap().to_string().contains("function \"f\""));
        write("f.wasm", "wasm");
        write("dist/index.html", "<p>");
        write("dist/a/b.js", "1");
        write("dist/.git/config", "");
        write("dist/.well-known/x", "y");
        let bundle = read().unwrap();
        let paths: Vec<&str> = bundle
            .request
            .site
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(paths, ["/.well-known/x", "/a/b.js", "/index.html"]);
        assert_eq!(
            bundle.request.site[1].content_type,
            "text/javascript; charset=utf-8"
        );
        assert_eq!(bundle.request.components[0].function, "f");
        assert_eq!(bundle.files.len(), 4);
    }
}
