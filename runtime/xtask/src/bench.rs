//! `cargo xtask bench [micro|load] [ARGUMENTS]`: builds what the benchmarks compare, then runs them.
//!
//! What is measured and how is told in bench/README.md; this file only brings the pieces together.

use anyhow::{Context, Result, bail};

use crate::cache::{repo_root, target_dir};
use crate::fixtures;
use crate::guest::guest_toolchain;
use crate::process;

/// The benchmarks, in the order in which they run.
const BENCHMARKS: [&str; 2] = ["micro", "load"];

/// Runs the command: one benchmark, or all.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    let (chosen, arguments) = match rest.split_first() {
        None => (&BENCHMARKS[..], rest),
        Some((name, arguments)) => match BENCHMARKS.iter().position(|known| known == name) {
            Some(at) => (&BENCHMARKS[at..=at], arguments),
            None => bail!(
                "unknown benchmark \"{name}\"; there are {}",
                BENCHMARKS.join(" and ")
            ),
        },
    };
    fixtures::build_all(&guest_toolchain()?)?;
    let mut build = process::host_cargo();
    process::run(build.args(["build", "--release", "--package", "cloudlet-server"]))
        .context("build the node")?;
    let cloudlet = target_dir().join("release/cloudlet");
    for name in chosen {
        let manifest = repo_root().join("bench").join(name).join("Cargo.toml");
        if !manifest.is_file() {
            bail!("no benchmark at {}", manifest.display());
        }
        println!("\n== bench/{name}");
        let mut command = process::host_cargo();
        command
            .args(["run", "--release", "--manifest-path"])
            .arg(&manifest)
            .arg("--");
        command.arg("--cloudlet").arg(&cloudlet).args(arguments);
        process::run(&mut command).with_context(|| format!("run the benchmark {name}"))?;
    }
    Ok(())
}
