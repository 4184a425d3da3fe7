//! `cargo xtask fuzz [--seconds N] [TARGET ..]`: libFuzzer on the parsers of outside input.
//!
//! The targets are built by the compiler that is there, stable or not, without the address sanitizer: coverage is a pass
//! of LLVM's that every rustc can run, and libFuzzer itself comes as source in its crate. What a run finds is kept in
//! `runtime/fuzz/artifacts`, and the inputs that reached something new in `runtime/fuzz/corpus`, so that the next run
//! goes on from them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{files_in, repo_root, target_dir};
use crate::process;
use crate::tally::Tally;

/// How long each target runs unless told.
const SECONDS_DEFAULT: u64 = 60;
/// What libFuzzer needs in the code that it tests: counters of edges, their places, and the operands of comparisons.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1 --cfg fuzzing";
/// An input that takes longer has found something.
const INPUT_SECONDS_MAX: u64 = 20;
/// So has one that takes more memory.
const MEMORY_MIB_MAX: u64 = 2048;
/// Lines of libFuzzer's report that are repeated for a target that found something.
const REPORT_LINES: usize = 25;

/// Runs the command.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    let (seconds, wanted) = arguments(rest)?;
    let tally = fuzz(seconds, &wanted)?;
    ensure!(tally.failed == 0, "{} targets found something", tally.failed);
    println!(
        "{} targets ran for {seconds} s each and found nothing",
        tally.passed
    );
    Ok(())
}

fn arguments(rest: &[String]) -> Result<(u64, Vec<String>)> {
    match rest {
        [flag, seconds, wanted @ ..] if flag == "--seconds" => Ok((parse_seconds(seconds)?, wanted.to_vec())),
        [flag, ..] if flag.starts_with('-') => {
            bail!("unknown argument \"{flag}\"; known: --seconds N, then names of targets")
        }
        wanted => Ok((SECONDS_DEFAULT, wanted.to_vec())),
    }
}

/// How long each target is to run.
///
/// # Errors
/// When it is not a number above zero.
pub(crate) fn parse_seconds(text: &str) -> Result<u64> {
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => bail!("\"{text}\" is no number of seconds to fuzz each target for"),
    }
}

/// Whether the C++ compiler is there that libFuzzer is built with; if not, what to do about it.
///
/// # Errors
/// A text with the way out.
pub(crate) fn compiler() -> Result<(), String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let answers = Command::new(&compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match answers {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!(
            "libFuzzer is built by a C++ compiler, and {compiler:?} does not answer; install g++ or clang"
        )),
    }
}

/// Builds the targets and runs each for so long, as many at once as there are cores. Counts those that found nothing as
/// passed.
///
/// # Errors
/// When one is not known, can't be built or started.
pub(crate) fn fuzz(seconds: u64, wanted: &[String]) -> Result<Tally> {
    if let Err(remedy) = compiler() {
        bail!("{remedy}");
    }
    let targets = targets(wanted)?;
    let built = build()?;
    let jobs = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(targets.len());
    println!("{} targets, {seconds} s each, {jobs} at once", targets.len());
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Ok(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = run_target(&built, target, seconds);
                    let mut outcomes = outcomes.lock().expect("no thread panics with the lock");
                    match (&mut *outcomes, found) {
                        (Ok(tally), Ok(true)) => tally.passed += 1,
                        (Ok(tally), Ok(false)) => tally.failed += 1,
                        (Ok(_), Err(error)) => *outcomes = Err(error),
                        (Err(_), _) => {}
                    }
                }
            });
        }
    });
    outcomes.into_inner().expect("no thread panics with the lock")
}

fn fuzz_dir() -> PathBuf {
    repo_root().join("runtime/fuzz")
}

/// The names of all targets, or the wanted ones.
fn targets(wanted: &[String]) -> Result<Vec<String>> {
    let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let all: Vec<String> = files_in(&fuzz_dir().join("fuzz_targets"))?
        .iter()
        .filter_map(stem)
        .collect();
    if let Some(unknown) = wanted.iter().find(|wanted| !all.contains(wanted)) {
        bail!("no fuzz target \"{unknown}\"; there are {}", all.join(", "));
    }
    Ok(if wanted.is_empty() { all } else { wanted.to_vec() })
}

/// Builds all targets; returns the directory of their programs.
fn build() -> Result<PathBuf> {
    let triple = process::read(process::host_cargo().args(["--version", "--verbose"]))?
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("cargo does not tell the machine that it builds for")?;
    let dir = target_dir().join("fuzz");
    let mut command = process::host_cargo();
    // A target that is named keeps the flags from build scripts and macros.
    command
        .args(["build", "--release", "--locked", "--bins", "--target", &triple])
        .arg("--target-dir")
        .arg(&dir)
        .current_dir(fuzz_dir())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", COVERAGE);
    process::run(&mut command).context("build the fuzz targets")?;
    Ok(dir.join(triple).join("release"))
}

/// Runs one target. False when it found something.
fn run_target(built: &Path, target: &str, seconds: u64) -> Result<bool> {
    let dir = fuzz_dir();
    let (corpus, artifacts) = (
        dir.join("corpus").join(target),
        dir.join("artifacts").join(target),
    );
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let log = artifacts.join("log");
    let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let status = Command::new(built.join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus)
        .arg(dir.join("seeds").join(target))
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log file")?)
        .stderr(file)
        .status()
        .with_context(|| format!("start the fuzz target {target}"))?;
    let report = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let report = String::from_utf8_lossy(&report);
    let stat = |name: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", |line| line.trim_start_matches(':').trim())
    };
    if status.success() {
        println!(
            "fuzz {target}: nothing found by {} inputs, {} of them new",
            stat("stat::number_of_executed_units"),
            stat("stat::new_units_added")
        );
        return Ok(true);
    }
    let lines: Vec<&str> = report.lines().collect();
    println!(
        "fuzz {target}: FOUND SOMETHING ({status}); the input is in {}\n{}",
        artifacts.display(),
        lines[lines.len().saturating_sub(REPORT_LINES)..].join("\n")
    );
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_seconds_and_targets() {
        let of = |text: &str| arguments(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("").unwrap(), (SECONDS_DEFAULT, vec![]));
        assert_eq!(of("geo").unwrap(), (SECONDS_DEFAULT, vec!["geo".to_owned()]));
        assert_eq!(
            of("--seconds 5 geo bson").unwrap(),
            (5, vec!["geo".to_owned(), "bson".to_owned()])
        );
        for wrong in ["--seconds", "--seconds 0", "--seconds x", "--fast"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
        let targets = targets(&[]).unwrap();
        for target in &targets {
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
                "{target} is not in the manifest"
            );
            assert!(
                !files_in(&fuzz_dir().join("seeds").join(target))
                    .unwrap()
                    .is_empty()
            );
        }
        assert!(super::targets(&["nosuch".to_owned()]).is_err());
    }
}
