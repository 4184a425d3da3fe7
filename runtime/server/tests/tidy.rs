//! The house's order, read from the sources: which crates may know which, who may use what, and that every file says
//! what it is.

#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Table;

/// The crates of the runtime and what of ours each may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("docdb", &["base"]),
    ("data", &["docdb", "base"]),
    ("blob", &["data", "base"]),
    ("auth", &["data", "base"]),
    ("host", &["auth", "blob", "data", "base"]),
    ("wire", &["data", "base"]),
    (
        "server",
        &["host", "wire", "auth", "blob", "data", "docdb", "base"],
    ),
    ("xtask", &[]),
];

/// Dependencies that only some may have; the name may be a prefix.
const WALLS: &[(&str, &[&str])] = &[
    ("wasmtime", &["host"]),
    ("wasmparser", &["host"]),
    ("redb", &["docdb"]),
    ("mongodb", &["data"]),
    ("object_store", &["blob"]),
    ("moka", &["blob"]),
    ("clap", &["server"]),
    ("notify", &["server"]),
    ("indicatif", &["server", "xtask"]),
    ("tokio", &["data", "blob", "auth", "host", "wire", "server"]),
    ("anyhow", &["server", "xtask"]),
];

fn runtime() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn manifest(name: &str) -> Table {
    let path = runtime().join(name).join("Cargo.toml");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{path:?}: {error}"))
        .parse()
        .unwrap()
}

fn dependencies(manifest: &Table, section: &str) -> BTreeSet<String> {
    let section = manifest.get(section).and_then(|section| section.as_table());
    section
        .map(|section| section.keys().cloned().collect())
        .unwrap_or_default()
}

#[test]
fn imports_go_down_only() {
    for (name, allowed) in ARROWS {
        for dependency in dependencies(&manifest(name), "dependencies") {
            if let Some(ours) = dependency.strip_prefix("cloudlet-") {
                assert!(allowed.contains(&ours), "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn every_crate_is_known() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(runtime()).unwrap() {
        let entry = entry.unwrap();
        // Fixtures and fuzz targets are workspaces of their own.
        let own = matches!(entry.file_name().to_str(), Some("fixtures" | "fuzz"));
        if !own && entry.path().join("Cargo.toml").exists() {
            found.insert(entry.file_name().into_string().unwrap());
        }
    }
    let known: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        found, known,
        "a new crate needs its place in ARROWS and in ARCHITECTURE.md"
    );
}

#[test]
fn walls_hold() {
    for (name, _) in ARROWS {
        let manifest = manifest(name);
        for dependency in dependencies(&manifest, "dependencies") {
            for (wall, allowed) in WALLS {
                let behind = dependency == *wall
                    || dependency
                        .strip_prefix(wall)
                        .is_some_and(|rest| rest.starts_with('-'));
                assert!(
                    !behind || allowed.contains(name),
                    "{name} must not use {dependency}"
                );
            }
        }
    }
    // Others may use hyper as a client; only the server serves, and only it ends TLS.
    for (name, _) in ARROWS.iter().filter(|(name, _)| *name != "server") {
        let manifest = manifest(name);
        for crate_name in ["hyper", "hyper-util"] {
            let features = manifest
                .get("dependencies")
                .and_then(|all| all.get(crate_name)?.get("features")?.as_array().cloned())
                .unwrap_or_default();
            let serves = features
                .iter()
                .filter_map(|f| f.as_str())
                .any(|f| f.starts_with("server"));
            assert!(!serves, "{name} must not serve HTTP");
        }
    }
}

#[test]
fn versions_live_in_the_workspace() {
    for (name, _) in ARROWS {
        let manifest = manifest(name);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(section) = manifest.get(section).and_then(|s| s.as_table()) else {
                continue;
            };
            for (dependency, value) in section {
                let inherits = value.get("workspace").and_then(|w| w.as_bool()) == Some(true);
                assert!(inherits, "{name}: {dependency} must be `workspace = true`");
            }
        }
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert!(lints.is_some(), "{name} must inherit the workspace's lints");
    }
}

#[test]
fn every_file_says_what_it_is() {
    let mut sources = BTreeMap::new();
    for (name, _) in ARROWS {
        collect(&runtime().join(name), &mut sources);
    }
    assert!(sources.len() > 50, "the sources were not found");
    let silent: Vec<_> = sources
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "these begin without `//!`: {silent:#?}");
}

#[test]
fn unsafe_code_is_forbidden_but_in_the_host() {
    for (name, _) in ARROWS.iter().filter(|(name, _)| *name != "host") {
        let root = ["src/lib.rs", "src/main.rs"].map(|file| runtime().join(name).join(file));
        let path = root.iter().find(|path| path.exists()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{path:?} must forbid unsafe code"
        );
    }
}

fn collect(dir: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("templates") {
                collect(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            into.insert(path, text);
        }
    }
}
