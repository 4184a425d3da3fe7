//! `cargo xtask fixtures`: compiles every guest of the repository for wasm32-wasip2.
//!
//! The test components of runtime/fixtures go to `target/guests/wasm32-wasip2/release/NAME.wasm`. An example is compiled
//! in its own directory, for its manifest's `source` names a path below its own `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cache::{remove_tree, repo_root};
use crate::guest::{GuestToolchain, guest_toolchain};
use crate::process;

/// Runs the command.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    crate::no_arguments("fixtures", rest)?;
    build_all(&guest_toolchain()?)
}

/// Compiles the test components and all examples.
///
/// # Errors
/// When one does not compile; the compiler's words are on the terminal.
pub(crate) fn build_all(guest: &GuestToolchain) -> Result<()> {
    build_fixtures(guest)?;
    build_examples(guest)
}

/// Compiles the test components.
///
/// # Errors
/// As [`build_all`].
pub(crate) fn build_fixtures(guest: &GuestToolchain) -> Result<()> {
    let root = repo_root();
    let fixtures = root.join("runtime/fixtures");
    if !fixtures.join("Cargo.toml").is_file() {
        println!("no test components: runtime/fixtures has no Cargo.toml");
        return Ok(());
    }
    build(guest, &fixtures, &root.join("target/guests"))
}

/// Compiles all examples.
///
/// # Errors
/// As [`build_all`].
pub(crate) fn build_examples(guest: &GuestToolchain) -> Result<()> {
    examples()?
        .iter()
        .try_for_each(|example| build(guest, example, &example.join("target")))
}

/// The directories below examples/ that are Rust packages or workspaces, sorted.
///
/// # Errors
/// When examples/ cannot be listed.
pub(crate) fn examples() -> Result<Vec<PathBuf>> {
    let dir = repo_root().join("examples");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut examples = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        if path.join("Cargo.toml").is_file() {
            examples.push(path);
        }
    }
    examples.sort();
    Ok(examples)
}

/// Compiles the guests of one directory.
fn build(guest: &GuestToolchain, dir: &Path, target_dir: &Path) -> Result<()> {
    let started = Instant::now();
    let shown = dir.strip_prefix(repo_root()).unwrap_or(dir).display().to_string();
    println!("compiling {shown}");
    forget_other_toolchains(guest, target_dir)?;
    let mut command = guest.cargo();
    command
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .current_dir(dir);
    command.env("CARGO_TARGET_DIR", target_dir);
    if is_workspace(dir) {
        command.arg("--workspace");
    }
    process::run(&mut command).with_context(|| format!("compile {shown}"))?;
    println!("compiled {shown} in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Empties a target directory that another toolchain filled. Cargo tells toolchains apart by what `rustc -vV` says
/// alone; with two of the same version it would go on with libraries that fit the other's std, and fail with "can't
/// find crate".
fn forget_other_toolchains(guest: &GuestToolchain, target_dir: &Path) -> Result<()> {
    let marker = target_dir.join(".guest-toolchain");
    let identity = guest.identity();
    if fs::read_to_string(&marker).is_ok_and(|filled_by| filled_by == identity) {
        return Ok(());
    }
    remove_tree(target_dir)?;
    fs::create_dir_all(target_dir).with_context(|| format!("make {}", target_dir.display()))?;
    fs::write(&marker, identity).with_context(|| format!("write {}", marker.display()))
}

/// Whether a directory's manifest has members of its own.
fn is_workspace(dir: &Path) -> bool {
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
    manifest.lines().any(|line| line.trim() == "[workspace]")
}
