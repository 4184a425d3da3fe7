//! What every command needs to know: where the app is, which node, which key, how to print. Reads the remembered
//! keys and the manifest.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cloudlet_base::AppId;
use serde::{Deserialize, Serialize};

use super::Told;
use super::api::Client;
use crate::apps::manifest::{self, Manifest};

/// Where a node's admin listener is by default.
pub(super) const DEFAULT_NODE: &str = "http://127.0.0.1:8081";

/// Where `dev` keeps its node's data, in the app's directory.
pub(super) const DEV_DIR: &str = ".cloudlet/dev";
/// How `dev` tells other commands of its node, in [`DEV_DIR`].
const DEV_NODE_FILE: &str = "node.json";

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(super) struct Global {
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Directory of the app
    #[arg(
        short = 'C',
        global = true,
        value_name = "DIR",
        default_value = ".",
        hide_default_value = true
    )]
    pub(super) dir: PathBuf,
    /// Admin address of the node [default: the one of the last login, or http://127.0.0.1:8081]
    #[arg(long, global = true, env = "CLOUDLET_NODE", value_name = "URL")]
    pub(super) node: Option<String>,
    /// Name of the app [default: as in the manifest]
    #[arg(long, global = true, env = "CLOUDLET_APP", value_name = "APP")]
    pub(super) app: Option<String>,
    /// Admin key [default: the one remembered by login]
    #[arg(
        long,
        global = true,
        env = "CLOUDLET_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub(super) key: Option<String>,
    /// Directory of remembered keys
    #[arg(
        long,
        global = true,
        env = "CLOUDLET_CONFIG_DIR",
        value_name = "DIR",
        hide = true
    )]
    pub(super) config_dir: Option<PathBuf>,
}

/// Remembered nodes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Credentials {
    /// The node of the last login.
    pub(super) current: Option<String>,
    /// Keys by address.
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, String>,
}

/// A node as `dev` tells of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DevNode {
    pub(super) node: String,
    pub(super) key: String,
}

/// What every command needs.
pub(super) struct Context {
    pub(super) json: bool,
    /// The app's directory.
    pub(super) dir: PathBuf,
    global: Global,
}

impl Context {
    /// Checks the global arguments.
    ///
    /// # Errors
    /// When the directory is none.
    pub(super) fn new(global: Global) -> anyhow::Result<Self> {
        if !global.dir.is_dir() {
            bail!(
                "{} is not a directory; name the app's with -C",
                global.dir.display()
            );
        }
        Ok(Self {
            json: global.json,
            dir: global.dir.clone(),
            global,
        })
    }

    /// The node's address.
    pub(super) fn node(&self) -> anyhow::Result<String> {
        let node = match &self.global.node {
            Some(node) => node.clone(),
            None => match self.credentials()?.current {
                Some(node) => node,
                None => self
                    .dev_node()
                    .map_or_else(|| DEFAULT_NODE.to_owned(), |dev| dev.node),
            },
        };
        Ok(node.trim_end_matches('/').to_owned())
    }

    /// A client of the node.
    ///
    /// # Errors
    /// When no key is known, or the address is none.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let node = self.node()?;
        let key = match &self.global.key {
            Some(key) => key.clone(),
            None => self.remembered_key(&node)?.with_context(|| {
                format!(
                    "no admin key is known for the node {node}; run: cloudlet login --node {node}, or set CLOUDLET_KEY"
                )
            })?,
        };
        Client::new(&node, &key)
    }

    fn remembered_key(&self, node: &str) -> anyhow::Result<Option<String>> {
        if let Some(key) = self.credentials()?.nodes.get(node) {
            return Ok(Some(key.clone()));
        }
        let dev = self.dev_node().filter(|dev| dev.node == node);
        Ok(dev.map(|dev| dev.key))
    }

    fn dev_node(&self) -> Option<DevNode> {
        let text = std::fs::read_to_string(self.dir.join(DEV_DIR).join(DEV_NODE_FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The key given by flag or environment.
    pub(super) fn given_key(&self) -> Option<&str> {
        self.global.key.as_deref()
    }

    /// The app that is meant.
    ///
    /// # Errors
    /// When neither `--app` nor a manifest names one.
    pub(super) fn app(&self) -> anyhow::Result<AppId> {
        if let Some(app) = &self.global.app {
            return Ok(app.parse()?);
        }
        let path = self.dir.join(manifest::FILE);
        if !path.exists() {
            bail!(
                "which app? there is no {} in {}; name it with --app, or the app's directory with -C",
                manifest::FILE,
                self.dir.display()
            );
        }
        Ok(self.manifest(None)?.1.app)
    }

    /// The manifest, as text and parsed.
    ///
    /// # Errors
    /// When it can't be read; [`Told`] when it has problems, which have been printed.
    pub(super) fn manifest(&self, env: Option<&str>) -> anyhow::Result<(String, Manifest)> {
        let path = self.dir.join(manifest::FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "can't read {}; start an app with: cloudlet new NAME",
                path.display()
            )
        })?;
        match manifest::parse(&shown(&path), &text, env) {
            Ok(manifest) => Ok((text, manifest)),
            Err(problems) => {
                if self.json {
                    let value = serde_json::json!({ "error": {
                        "code": "INVALID_MANIFEST",
                        "message": format!("the manifest has {} problem(s)", problems.len()),
                        "problems": problems,
                    } });
                    eprintln!("{value}");
                } else {
                    for problem in &problems {
                        eprintln!("{problem}");
                    }
                    eprintln!("error: the manifest has {} problem(s)", problems.len());
                }
                Err(Told.into())
            }
        }
    }

    fn credentials_path(&self) -> anyhow::Result<PathBuf> {
        let dir = match &self.global.config_dir {
            Some(dir) => dir.clone(),
            None => std::env::home_dir()
                .context("there is no home directory; name one for keys with CLOUDLET_CONFIG_DIR")?
                .join(".config/cloudlet"),
        };
        Ok(dir.join("credentials.json"))
    }

    /// The remembered keys.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub(super) fn credentials(&self) -> anyhow::Result<Credentials> {
        let path = self.credentials_path()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} is not what login writes; remove it and log in again",
                    path.display()
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Credentials::default()),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// Remembers keys, for the owner's eyes only.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(super) fn remember(&self, credentials: &Credentials) -> anyhow::Result<PathBuf> {
        let path = self.credentials_path()?;
        write_private(&path, &serde_json::to_vec_pretty(credentials)?)?;
        Ok(path)
    }
}

/// Tells other commands in `dir` of the node that `dev` runs. Returns the file, to be removed at the end.
///
/// # Errors
/// When it can't be written.
pub(super) fn announce_dev(dir: &Path, node: &DevNode) -> anyhow::Result<PathBuf> {
    let path = dir.join(DEV_DIR).join(DEV_NODE_FILE);
    write_private(&path, &serde_json::to_vec(node)?)?;
    Ok(path)
}

/// Writes a file that only its owner reads, whole or not at all.
///
/// # Errors
/// When it can't be written.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let partial = beside(path, ".new");
        // A left-over of a crash may have other rights.
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

/// The path of a file beside another: its name and a suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// A path as people write it: without a leading `./`.
pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}
