//! `cargo xtask test [--fuzz SECONDS]`: every check and test there is, in one run, and then the fuzz targets if told
//! to. Continuous integration runs the former and nothing else.
//!
//! Steps run one after another, each under a header line. One that fails does not keep the others from running, so that
//! a run tells all there is to tell; only without the components that tests need it ends early. The last line is
//! `N passed, M failed, K skipped`: tests, and steps that failed or could not run without a test of their own.
//!
//! Tests find in their environment `CLOUDLET_TEST_CACHE`, a directory for what they install themselves and want to keep
//! between runs, and `CLOUDLET_GUEST_TOOLCHAIN`, the rustup toolchain that compiles guests (unset: the active one).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cache::{cache_dir, repo_root};
use crate::fixtures;
use crate::fuzz;
use crate::guest::{GuestToolchain, guest_toolchain};
use crate::process;
use crate::tally::Tally;

/// Runs the command. Success is an exit code, for the closing line must be the last whatever happened.
pub(crate) fn run(rest: &[String]) -> Result<ExitCode> {
    let fuzz_seconds = match rest {
        [] => None,
        [flag, seconds] if flag == "--fuzz" => Some(fuzz::parse_seconds(seconds)?),
        _ => bail!("`cargo xtask test` takes no arguments but --fuzz SECONDS"),
    };
    let started = Instant::now();
    let mut report = Report::default();
    steps(&mut report);
    if let Some(seconds) = fuzz_seconds {
        report.step("fuzz targets", || fuzzing(seconds));
    }

    println!("\n== {} s in all", started.elapsed().as_secs());
    for note in &report.notes {
        println!("{note}");
    }
    println!("{}", report.tally);
    Ok(if report.tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn steps(report: &mut Report) {
    report.step("formatting", format_check);
    report.step("clippy", clippy);
    let Some(guest) = report.step("guest toolchain", || guest_toolchain().map(Outcome::Done)) else {
        return;
    };
    if report
        .step("test components and examples", || {
            fixtures::build_all(&guest).map(Outcome::Done)
        })
        .is_none()
    {
        return;
    }
    report.step("tests of the workspace", || {
        tests(&repo_root(), &["--workspace"], &guest)
    });
    let sdk = repo_root().join("guest-sdk");
    if sdk.join("Cargo.toml").is_file() {
        report.step("tests of the guest SDK", || tests(&sdk, &["--workspace"], &guest));
    }
}

/// How a step ended when it did not fail to run.
enum Outcome<T> {
    Done(T),
    /// Tests ran; some may have failed.
    Tested(Tally),
    /// The step could not run here; what to do about it.
    Skipped(String),
}

#[derive(Default)]
struct Report {
    tally: Tally,
    notes: Vec<String>,
}

impl Report {
    /// Runs a step under a header line and counts how it went. `None` unless it was done.
    fn step<T>(&mut self, name: &str, body: impl FnOnce() -> Result<Outcome<T>>) -> Option<T> {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = body();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Done(value)) => {
                println!("== {name}: done in {seconds:.1} s");
                return Some(value);
            }
            Ok(Outcome::Tested(tally)) => {
                println!(
                    "== {name}: {} passed and {} failed in {seconds:.1} s",
                    tally.passed, tally.failed
                );
                if tally.failed > 0 {
                    self.notes.push(format!(
                        "failed: {name}, {} of {} tests",
                        tally.failed,
                        tally.passed + tally.failed
                    ));
                }
                self.tally.add(tally);
            }
            Ok(Outcome::Skipped(remedy)) => {
                println!("== {name}: NOT RUN: {remedy}");
                self.notes.push(format!("not run: {name}: {remedy}"));
                self.tally.skipped += 1;
            }
            Err(error) => {
                println!("== {name}: FAILED after {seconds:.1} s: {error:#}");
                self.notes.push(format!("failed: {name}: {error:#}"));
                self.tally.failed += 1;
            }
        }
        None
    }
}

/// Every workspace of the repository is formatted.
fn format_check() -> Result<Outcome<()>> {
    if !answers(&["fmt", "--version"]) {
        return Ok(Outcome::Skipped(
            "rustfmt is missing; to get it: rustup component add rustfmt".to_owned(),
        ));
    }
    let mut unformatted = Vec::new();
    for dir in workspaces()? {
        let mut command = process::host_cargo();
        command.args(["fmt", "--all", "--check"]).current_dir(&dir);
        if process::run(&mut command).is_err() {
            unformatted.push(dir.display().to_string());
        }
    }
    if !unformatted.is_empty() {
        bail!(
            "not formatted: {}; `cargo fmt --all` there puts it right",
            unformatted.join(", ")
        );
    }
    Ok(Outcome::Done(()))
}

fn clippy() -> Result<Outcome<()>> {
    if !answers(&["clippy", "--version"]) {
        return Ok(Outcome::Skipped(
            "clippy is missing; to get it: rustup component add clippy".to_owned(),
        ));
    }
    let mut command = process::host_cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    process::run(&mut command).map(Outcome::Done)
}

/// The main workspace and the others that are there.
fn workspaces() -> Result<Vec<PathBuf>> {
    let root = repo_root();
    let mut dirs = vec![root.clone()];
    dirs.extend(
        [
            "runtime/fixtures",
            "guest-sdk",
            "bench",
            "bench/load",
            "bench/micro",
        ]
        .map(|dir| root.join(dir)),
    );
    dirs.extend(fixtures::examples()?);
    dirs.retain(|dir| dir.join("Cargo.toml").is_file());
    Ok(dirs)
}

fn answers(arguments: &[&str]) -> bool {
    let mut command = process::host_cargo();
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Each fuzz target counts as a test.
fn fuzzing(seconds: u64) -> Result<Outcome<()>> {
    Ok(match fuzz::compiler() {
        Ok(()) => Outcome::Tested(fuzz::fuzz(seconds, &[])?),
        Err(remedy) => Outcome::Skipped(remedy),
    })
}

/// Runs `cargo test` in a workspace.
fn tests(dir: &Path, arguments: &[&str], guest: &GuestToolchain) -> Result<Outcome<()>> {
    let mut command = process::host_cargo();
    command
        .args(["test", "--no-fail-fast"])
        .args(arguments)
        .current_dir(dir);
    command.env("CLOUDLET_TEST_CACHE", cache_dir()?);
    match guest.env() {
        Some((_, name)) => command.env("CLOUDLET_GUEST_TOOLCHAIN", name),
        None => command.env_remove("CLOUDLET_GUEST_TOOLCHAIN"),
    };
    let (tally, well) = count(&mut command, &mut std::io::stdout().lock())?;
    if !well && tally.failed == 0 {
        bail!(
            "cargo test failed before or after its tests ({} passed)",
            tally.passed
        );
    }
    Ok(Outcome::Tested(tally))
}

/// Runs a command whose standard output is shown as it comes and counted. Returns also whether it ended well.
fn count(command: &mut Command, terminal: &mut impl Write) -> Result<(Tally, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let stdout = child.stdout.take().expect("standard output was piped");
    let mut tally = Tally::default();
    let mut line = Vec::new();
    let mut reader = BufReader::new(stdout);
    while reader
        .read_until(b'\n', &mut line)
        .context("read the output of cargo test")?
        > 0
    {
        terminal
            .write_all(&line)
            .and_then(|()| terminal.flush())
            .context("write to standard output")?;
        tally.add(Tally::of_line(&String::from_utf8_lossy(&line)));
        line.clear();
    }
    let status = child.wait().context("wait for cargo test")?;
    Ok((tally, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_counts_as_one_failure() {
        let mut report = Report::default();
        assert_eq!(report.step("good", || Ok(Outcome::Done(7))), Some(7));
        assert_eq!(report.step::<()>("bad", || bail!("why")), None);
        assert_eq!(
            report.step::<()>("absent", || Ok(Outcome::Skipped("get it".to_owned()))),
            None
        );
        report.step::<()>("tested", || {
            Ok(Outcome::Tested(Tally {
                passed: 4,
                failed: 1,
                skipped: 1,
            }))
        });
        assert_eq!(
            report.tally,
            Tally {
                passed: 4,
                failed: 2,
                skipped: 2
            }
        );
        assert_eq!(report.notes.len(), 3);
    }

    #[test]
    fn output_is_counted_across_binaries() {
        let lines = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured'; \
                     echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured'; exit 101";
        // Not to the terminal: the run that runs this test counts what it finds there.
        let mut shown = Vec::new();
        let (tally, well) = count(Command::new("sh").args(["-c", lines]), &mut shown).unwrap();
        assert_eq!(shown.iter().filter(|&&byte| byte == b'\n').count(), 2);
        assert_eq!(
            tally,
            Tally {
                passed: 3,
                failed: 1,
                skipped: 1
            }
        );
        assert!(!well);
    }
}
