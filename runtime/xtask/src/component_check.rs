//! `cargo xtask component-check`: the examples also build with `cargo component build`.
//!
//! Not part of `cargo xtask test`, for installing cargo-component takes 20 CPU-minutes. It is installed below the cache
//! directory, once a version, and runs with rustup's download server pointed at a closed port: a guest toolchain
//! that is complete needs nothing from there.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cache;
use crate::fixtures;
use crate::guest::{GuestToolchain, guest_toolchain};
use crate::process;

const VERSION: &str = "0.21.1";

/// Runs the command.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    crate::no_arguments("component-check", rest)?;
    let guest = guest_toolchain()?;
    let bin = install()?;
    let closed = closed_port()?;
    let examples = fixtures::examples()?;
    ensure!(
        !examples.is_empty(),
        "no example to build: examples/*/Cargo.toml is missing"
    );
    for example in &examples {
        build(&guest, &bin, example, closed)?;
    }
    println!("{} examples build with cargo-component {VERSION}", examples.len());
    Ok(())
}

/// Installs cargo-component, unless it is there; returns the directory of its program.
fn install() -> Result<PathBuf> {
    let dir = cache::cache_dir()?.join(format!("cargo-component-{VERSION}"));
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let _lock = cache::lock(&dir.join("lock"), "cargo-component")?;
    let bin = dir.join("bin");
    if !bin.join("cargo-component").is_file() {
        let started = Instant::now();
        println!("[1/2] installing cargo-component {VERSION} (20 CPU-minutes, once)");
        let mut command = process::host_cargo();
        command
            .args([
                "install",
                "cargo-component",
                "--locked",
                "--version",
                VERSION,
                "--root",
            ])
            .arg(&dir);
        command.env("CARGO_TARGET_DIR", dir.join("build"));
        process::run_logged(&mut command, &dir.join("install.log")).context("install cargo-component")?;
        cache::remove_tree(&dir.join("build"))?;
        println!("      installed in {} s", started.elapsed().as_secs());
    }
    Ok(bin)
}

/// Builds one example into a directory of its own, so that the outputs of the ordinary build stay.
fn build(guest: &GuestToolchain, bin: &Path, example: &Path, closed: u16) -> Result<()> {
    let name = example
        .file_name()
        .context("the example's name")?
        .to_string_lossy()
        .into_owned();
    println!("[2/2] cargo component build in examples/{name}");
    let path = env::var_os("PATH").unwrap_or_default();
    let paths = [bin.to_path_buf()].into_iter().chain(env::split_paths(&path));
    let mut command = guest.cargo();
    command
        .args(["component", "build", "--release"])
        .current_dir(example)
        .env(
            "PATH",
            env::join_paths(paths).context("put cargo-component into the path")?,
        )
        .env(
            "CARGO_TARGET_DIR",
            cache::repo_root().join("target/component-check").join(&name),
        )
        .env("RUSTUP_DIST_SERVER", format!("http://127.0.0.1:{closed}"));
    process::run(&mut command).with_context(|| format!("build examples/{name} with cargo component"))
}

/// A port of this machine that nothing listens on.
fn closed_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("take a port")?;
    Ok(listener.local_addr().context("read the port")?.port())
}
