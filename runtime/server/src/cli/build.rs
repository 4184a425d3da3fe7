//! `build`: runs the manifest's build commands, each once however many functions share it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use super::context::Context;
use crate::apps::manifest::{Build, Manifest};

/// The project's own toolchain, used when the active one has no wasm target.
pub(super) const GUEST_TOOLCHAIN: &str = "cloudlet-guest";
/// The target that functions are built for.
pub(super) const GUEST_TARGET: &str = "wasm32-wasip2";

/// Arguments of `build`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Build these functions alone
    functions: Vec<String>,
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let (_, manifest) = context.manifest(None)?;
    if let Some(unknown) = args
        .functions
        .iter()
        .find(|name| !manifest.functions.contains_key(*name))
    {
        bail!("there is no function {unknown:?} in the manifest");
    }
    let mut wanted = match args.functions.is_empty() {
        true => all(&manifest),
        false => args.functions.into_iter().collect(),
    };
    let built = build(&context.dir, &manifest, &mut wanted).await?;
    check_sources(&context.dir, &manifest)?;
    match context.json {
        true => println!("{}", serde_json::json!({ "commands": built })),
        false => println!(
            "{built} build command(s) run, {} component(s) ready",
            manifest.functions.len()
        ),
    }
    Ok(())
}

/// The names of all functions.
pub(super) fn all(manifest: &Manifest) -> BTreeSet<String> {
    manifest.functions.keys().cloned().collect()
}

/// Runs the build commands of the functions in `wanted`, and takes out of it what is built. Returns how many were run.
///
/// # Errors
/// When one fails, or the target it needs is missing; what is not built then is still in `wanted`.
pub(super) async fn build(
    dir: &Path,
    manifest: &Manifest,
    wanted: &mut BTreeSet<String>,
) -> anyhow::Result<usize> {
    let mut done: Vec<(&str, &str)> = Vec::new();
    for (name, function) in &manifest.functions {
        if let Some(Build {
            command, dir: under, ..
        }) = &function.build
            && wanted.contains(name)
            && !done.contains(&(command, under))
        {
            run_one(name, command, &dir.join(under)).await?;
            done.push((command, under));
        }
        wanted.remove(name);
    }
    Ok(done.len())
}

async fn run_one(function: &str, command: &str, dir: &Path) -> anyhow::Result<()> {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(command)
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // Standard output is for results; what the compiler says belongs to the progress.
    shell.stdout(std::io::stderr());
    if command.contains("cargo")
        && let Toolchain::Linked = toolchain(dir).await?
    {
        shell.env("RUSTUP_TOOLCHAIN", GUEST_TOOLCHAIN);
    }
    let status = shell
        .status()
        .await
        .with_context(|| format!("can't run the build command of function {function:?}, {command:?}"))?;
    if !status.success() {
        bail!("the build of function {function:?} failed ({status}): {command}");
    }
    Ok(())
}

/// Which toolchain builds functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// The active one.
    Active,
    /// The project's own, [`GUEST_TOOLCHAIN`].
    Linked,
}

/// Finds a toolchain that has the guest target.
///
/// # Errors
/// When there is none; tells how to get one.
pub(super) async fn toolchain(dir: &Path) -> anyhow::Result<Toolchain> {
    if has_target(dir, None).await {
        return Ok(Toolchain::Active);
    }
    if has_target(dir, Some(GUEST_TOOLCHAIN)).await {
        return Ok(Toolchain::Linked);
    }
    bail!(
        "no Rust toolchain here can build for {GUEST_TARGET}; run: rustup target add {GUEST_TARGET} \
         (or, in cloudlet's own checkout: cargo xtask guest-toolchain)"
    )
}

async fn has_target(dir: &Path, toolchain: Option<&str>) -> bool {
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--print", "sysroot"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if let Some(toolchain) = toolchain {
        rustc.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    let Ok(output) = rustc.output().await else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(GUEST_TARGET)
            .is_dir()
}

/// Checks that every component is there.
///
/// # Errors
/// Names those that are not.
pub(super) fn check_sources(dir: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let missing = manifest
        .functions
        .iter()
        .filter(|(_, function)| !dir.join(&function.source).is_file());
    let missing: Vec<String> = missing
        .map(|(name, function)| {
            let remedy = match function.build {
                Some(_) => "its build command makes another file; correct source, or unset CARGO_TARGET_DIR",
                None => "build it first, or give the function a build command",
            };
            format!(
                "\n  function {name:?}: there is no {}; {remedy}",
                dir.join(&function.source).display()
            )
        })
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => bail!("components are missing:{}", missing.concat()),
    }
}
