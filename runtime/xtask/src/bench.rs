//! `cargo xtask bench [--peers] [micro|documents|wire|load|crowd] [ARGUMENTS]`: builds what the benchmarks compare, then runs
//! them.
//!
//! What is measured and how is told in bench/README.md; this file only brings the pieces together. `--peers` also
//! gets the servers to compare with, under `.cache/peers`; nginx comes from the system's packages.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{repo_root, target_dir};
use crate::fixtures;
use crate::guest::guest_toolchain;
use crate::process;

/// The benchmarks, in the order in which they run.
const BENCHMARKS: [&str; 5] = ["micro", "documents", "wire", "load", "crowd"];

/// The peer that runs the same component: the command line of the engine that the host is built on.
const WASMTIME: &str = "48.0.8";

/// The peer that speaks MongoDB's protocol, from PyPI.
const SECANTUS: &str = "secantusdb==0.7.0b3";

/// Runs the command: one benchmark, or all.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    let (peers, rest) = match rest.split_first() {
        Some((flag, rest)) if flag == "--peers" => (true, rest),
        _ => (false, rest),
    };
    let (chosen, arguments) = match rest.split_first() {
        None => (&BENCHMARKS[..], rest),
        Some((name, arguments)) => match BENCHMARKS.iter().position(|known| known == name) {
            Some(at) => (&BENCHMARKS[at..=at], arguments),
            None => bail!(
                "unknown benchmark \"{name}\"; there are {}",
                BENCHMARKS.join(", ")
            ),
        },
    };
    if peers {
        get_peers()?;
    }
    let guest = guest_toolchain()?;
    fixtures::build_fixtures(&guest)?;
    fixtures::build_benchmark_guests(&guest)?;
    for name in chosen {
        println!("\n== bench/{name}");
        let mut command = match *name {
            "micro" => micro(),
            "documents" => bench_crate("cloudlet-bench-documents", &[]),
            "wire" => against_peers("cloudlet-bench-wire")?,
            "load" => against_peers("cloudlet-bench-load")?,
            _ => crowd()?,
        };
        process::run(command.args(arguments)).with_context(|| format!("run the benchmark {name}"))?;
    }
    Ok(())
}

/// The micro benchmark is an example of the host's crate, so that it shares the node's release build.
fn micro() -> Command {
    let mut command = process::host_cargo();
    command.args([
        "run",
        "--release",
        "--package",
        "cloudlet-host",
        "--example",
        "micro",
        "--",
    ]);
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Runs a crate of the benchmarks' own workspace, maybe another of its programs than the first.
fn bench_crate(package: &str, program: &[&str]) -> Command {
    let mut command = process::host_cargo();
    command
        .args(["run", "--release", "--manifest-path"])
        .arg(repo_root().join("bench/Cargo.toml"))
        .args(["--package", package])
        .args(program)
        .arg("--");
    command
}

/// Builds the node, and tells a crate of the benchmarks where it is.
fn against_the_node(package: &str, program: &[&str]) -> Result<Command> {
    let mut build = process::host_cargo();
    process::run(build.args(["build", "--release", "--package", "cloudlet-server"]))
        .context("build the node")?;
    let mut command = bench_crate(package, program);
    command
        .arg("--cloudlet")
        .arg(target_dir().join("release/cloudlet"));
    Ok(command)
}

/// A benchmark that starts the node beside its peers.
fn against_peers(package: &str) -> Result<Command> {
    let mut command = against_the_node(package, &[])?;
    command
        .arg("--app")
        .arg(repo_root().join("bench/app"))
        .arg("--peers")
        .arg(peers_dir());
    Ok(command)
}

/// The benchmark of many functions and many waiting requests.
fn crowd() -> Result<Command> {
    let mut command = against_the_node("cloudlet-bench-load", &["--bin", "crowd"])?;
    command
        .arg("--guests")
        .arg(repo_root().join("bench/guests/target/wasm32-wasip2/release"));
    Ok(command)
}

fn peers_dir() -> PathBuf {
    repo_root().join(".cache/peers")
}

/// Gets wasmtime's command line (built from source, some ten minutes), workerd (an npm package) and SecantusDB (a
/// Python package), once.
fn get_peers() -> Result<()> {
    let dir = peers_dir();
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    if !dir.join("bin/wasmtime").exists() {
        let mut install = process::host_cargo();
        install.args([
            "install",
            "wasmtime-cli",
            "--locked",
            "--version",
            WASMTIME,
            "--no-default-features",
        ]);
        install.args([
            "--features",
            "serve,run,cranelift,pooling-allocator,component-model,component-model-async,parallel-compilation",
        ]);
        process::run(install.arg("--root").arg(&dir)).context("build wasmtime's command line")?;
    }
    if !dir.join("node_modules/workerd").exists() {
        let mut install = Command::new("npm");
        install
            .args(["install", "--no-audit", "--no-fund", "workerd"])
            .current_dir(&dir);
        process::run(&mut install).context("install workerd; it needs Node.js with npm")?;
    }
    let python = dir.join("secantus");
    if !python.join("bin/secantusd-py").exists() {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&python))
            .context("make a Python environment; it needs Python 3 with venv")?;
        let mut install = Command::new(python.join("bin/pip"));
        process::run(install.args(["install", "--quiet", SECANTUS])).context("install SecantusDB")?;
    }
    Ok(())
}
