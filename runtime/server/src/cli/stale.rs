//! What `dev` has to build: which functions a change of files concerns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::dev::SECRETS_FILE;
use super::watch::is_ignored;
use super::{build, glob};
use crate::apps::manifest::{self, Function, Manifest};

/// The functions whose components are older than what they are built from.
#[derive(Debug)]
pub(super) struct Stale {
    /// All of them, also those that a later manifest has.
    all: bool,
    functions: BTreeSet<String>,
}

impl Stale {
    /// All functions: nothing was built yet.
    pub(super) fn all() -> Self {
        Self {
            all: true,
            functions: BTreeSet::new(),
        }
    }

    /// Their names; who builds one takes it out.
    pub(super) fn functions(&mut self, manifest: &Manifest) -> &mut BTreeSet<String> {
        if std::mem::take(&mut self.all) {
            self.functions = build::all(manifest);
        }
        &mut self.functions
    }

    /// Notes what a batch of changed files makes stale: paths relative to the app's directory, or whole ones of files
    /// elsewhere. Returns whether there is anything to build or deploy.
    pub(super) fn note(&mut self, dir: &Path, manifest: &Manifest, batch: &BTreeSet<PathBuf>) -> bool {
        let site = manifest
            .hosting
            .as_ref()
            .and_then(|hosting| dir.join(&hosting.dir).canonicalize().ok());
        let mut due = false;
        for path in batch {
            let whole = dir.join(path);
            if path == Path::new(manifest::FILE) {
                self.all = true;
                due = true;
            } else if let Some(function) = manifest.functions.values().find(|f| whole == component(dir, f)) {
                // What a build makes is no reason to build, and a deploy follows the build anyway.
                due |= function.build.is_none();
            } else if path == Path::new(SECRETS_FILE)
                || site.as_ref().is_some_and(|site| whole.starts_with(site))
            {
                due = true;
            } else if !is_ignored(path) {
                due |= self.add(manifest, path);
            }
        }
        due
    }

    /// Adds the functions that are built from `path`. Returns whether there are any.
    fn add(&mut self, manifest: &Manifest, path: &Path) -> bool {
        let text = path.to_string_lossy();
        let before = |function: &Function| {
            let build = function.build.as_ref();
            build.is_some_and(|build| {
                // Without patterns, every file of the app may be a source.
                (build.watch.is_empty() && path.is_relative())
                    || build.watch.iter().any(|pattern| glob::matches(pattern, &text))
            })
        };
        let touched = manifest.functions.iter().filter(|(_, function)| before(function));
        let touched: Vec<String> = touched.map(|(name, _)| name.clone()).collect();
        let any = !touched.is_empty();
        self.functions.extend(touched);
        any
    }
}

/// Where a function's component is, without links on the way to it, whether or not it is there just now.
fn component(dir: &Path, function: &Function) -> PathBuf {
    let path = dir.join(&function.source);
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"manifest_version = 1
[app]
name = "a"
[hosting]
dir = "../site"
[function.one]
source = "target/one.wasm"
build = { command = "true", watch = ["one/**"] }
[function.two]
source = "../out/two.wasm"
build = { command = "true" }
[function.ready]
source = "../out/ready.wasm"
"#;

    #[test]
    fn a_change_concerns_the_functions_that_are_built_from_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let dir = root.join("app");
        for made in ["app/target", "out", "site"] {
            std::fs::create_dir_all(root.join(made)).unwrap();
        }
        let manifest = manifest::parse(manifest::FILE, MANIFEST, None).unwrap();
        let check = |path: &str, due: bool, expected: &[&str]| {
            let mut stale = Stale::all();
            stale.functions(&manifest).clear();
            let path = match path.strip_prefix("../") {
                // As the watch tells what is elsewhere.
                Some(path) => root.join(path),
                None => path.into(),
            };
            let noted = stale.note(&dir, &manifest, &BTreeSet::from([path.clone()]));
            assert_eq!(noted, due, "{path:?}");
            let stale: Vec<&str> = stale.functions(&manifest).iter().map(String::as_str).collect();
            assert_eq!(stale, expected, "{path:?}");
        };
        check("one/src/lib.rs", true, &["one", "two"]);
        check("other.rs", true, &["two"]);
        check("cloudlet.toml", true, &["one", "ready", "two"]);
        check(".dev.secrets", true, &[]);
        check("target/debug/x", false, &[]);
        // What it makes itself does not make it stale, or it would be built for ever.
        check("target/one.wasm", false, &[]);
        check("../out/two.wasm", false, &[]);
        check("../out/something.d", false, &[]);
        // What others make is deployed, and so is the site, wherever they are.
        check("../out/ready.wasm", true, &[]);
        check("../site/index.html", true, &[]);
    }
}
