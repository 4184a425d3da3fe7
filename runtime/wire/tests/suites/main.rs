//! The test suites inside PyMongo's source distribution, run against the example server. They are downloaded, never
//! kept here. What is known to fail, and why, is in `known.txt`; a failure that is not there fails the test, and so
//! does a known one that passes, and so do fewer passes than there were.
//!
//! `known.txt`: `[suite] FILE ..` begins a suite (`[suite] FILE as replica set` one for which the server is the member of
//! a replica set, and not a router), `marker NAME` runs the tests that have this marker of pytest's and not `default`,
//! `passed N` says how many tests pass at least, `because WHY` explains
//! the lines after it: `fail CLASS::TEST`, or `skip CLASS::TEST` for one that is not even run.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test program: it may fail loudly, and reads where its cache is"
)]

#[path = "../harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Mongod, cached, python, run};

const SOURCES: &str = "pymongo==4.20.0";

/// What is known of a suite.
#[derive(Default)]
struct Suite {
    file: String,
    replica_set: bool,
    /// The marker of the tests that are run, if it is not that of all suites.
    marker: Option<String>,
    passed: usize,
    fail: Vec<String>,
    skip: Vec<String>,
}

fn known() -> BTreeMap<String, Suite> {
    let text = include_str!("known.txt");
    let mut suites: BTreeMap<String, Suite> = BTreeMap::new();
    let mut current = String::new();
    let mut explained = false;
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some((name, file)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) {
            current = name.to_owned();
            let replica_set = file.strip_suffix(" as replica set");
            let suite = suites.entry(current.clone()).or_default();
            suite.file = replica_set.unwrap_or(file).to_owned();
            suite.replica_set = replica_set.is_some();
            explained = false;
            continue;
        }
        let suite = suites.get_mut(&current).expect("a suite comes first");
        let (word, rest) = line.split_once(' ').expect("a word and its argument");
        match word {
            "marker" => suite.marker = Some(rest.to_owned()),
            "passed" => suite.passed = rest.parse().unwrap(),
            "because" => explained = true,
            "fail" => suite.fail.push(rest.to_owned()),
            "skip" => suite.skip.push(rest.to_owned()),
            other => panic!("known.txt: unknown word {other}"),
        }
        assert!(
            explained || word == "passed" || word == "marker",
            "known.txt: {line} is not explained"
        );
    }
    suites
}

/// PyMongo's sources, unpacked.
fn sources() -> PathBuf {
    // Before, not within: the cache makes one thing at a time.
    let python = python();
    let dir = cached("wire-suites", SOURCES, |dir| {
        run(Command::new(&python)
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-binary",
                ":all:",
                "--no-deps",
                SOURCES,
                "--dest",
            ])
            .arg(dir));
        let archive = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        run(Command::new("tar")
            .args(["--strip-components=1", "-xzf"])
            .arg(archive)
            .current_dir(dir));
    });
    assert!(dir.join("test").is_dir());
    dir
}

fn check(name: &str) {
    let suites = known();
    let suite = &suites[name];
    let (sources, python) = (sources(), python());
    let server = if suite.replica_set {
        Mongod::start(&["--test-commands", "--replica-set", "rs0"])
    } else {
        Mongod::start(&["--test-commands"])
    };
    let scratch = tempfile::TempDir::new().unwrap();
    let outcomes = scratch.path().join("outcomes");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites");
    let mut pytest = Command::new(python);
    pytest
        .args([
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "outcomes",
            "-m",
            suite.marker.as_deref().unwrap_or("default"),
        ])
        .args(["--timeout", "120", "-o", "faulthandler_timeout=0"])
        .arg(format!(
            "--junitxml={}",
            scratch.path().join("junit.xml").display()
        ))
        .args(
            suite
                .skip
                .iter()
                .map(|test| format!("--deselect={}::{test}", suite.file)),
        )
        .args(suite.file.split(' '))
        .current_dir(&sources)
        .env("PYTHONPATH", &here)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("OUTCOMES", &outcomes)
        .env("DB_IP", "127.0.0.1")
        .env("DB_PORT", server.port());
    let output = pytest.output().unwrap();
    let Ok(lines) = std::fs::read_to_string(&outcomes) else {
        panic!(
            "pytest did not run:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    judge(name, suite, &lines);
}

/// Compares what happened with what is known, and prints the score.
fn judge(name: &str, suite: &Suite, lines: &str) {
    let (mut passed, mut failed, mut skipped) = (0, 0, suite.skip.len());
    let mut wrong = String::new();
    let mut met = Vec::new();
    for line in lines.lines() {
        let mut parts = line.splitn(3, '\t');
        let outcome = parts.next().unwrap_or_default();
        let test = parts.next().unwrap_or_default();
        let why = parts.next().unwrap_or_default();
        let expected = suite.fail.iter().any(|known| known == test);
        if expected {
            met.push(test);
        }
        match outcome {
            "passed" => passed += 1,
            "failed" => failed += 1,
            _ => skipped += 1,
        }
        match (outcome, expected) {
            ("failed", false) => writeln!(wrong, "failed: {test}: {why}").unwrap(),
            ("passed" | "skipped", true) => writeln!(wrong, "no longer fails ({outcome}): {test}").unwrap(),
            _ => {}
        }
    }
    for known in suite.fail.iter().filter(|known| !met.contains(&&***known)) {
        writeln!(wrong, "is not there any more: {known}").unwrap();
    }
    // The score is what the suites are run for: written past the test harness, which keeps what is printed to itself.
    let score = format!("{name}: {passed} passed, {failed} failed, {skipped} skipped\n");
    std::io::stdout().write_all(score.as_bytes()).unwrap();
    if passed < suite.passed {
        writeln!(wrong, "{passed} passed, and {} did before", suite.passed).unwrap();
    }
    if let Some(file) = std::env::var_os("CLOUDLET_SUITE_OUTCOMES") {
        // For making known.txt anew: every outcome, as the plugin wrote it.
        std::fs::write(Path::new(&file).join(name), lines).unwrap();
    }
    assert!(wrong.is_empty(), "{name} differs from known.txt:\n{wrong}");
}

macro_rules! suites {
    ($($name:ident)*) => { $(#[test] fn $name() { check(stringify!($name)); })* };
}

suites! {
    crud crud_member collation collection bulk database database_member cursor cursor_member session sessions_unified run_command command_monitoring
    collection_management index_management retryable_reads retryable_reads_unified retryable_writes retryable_writes_unified
    transactions transactions_unified change_stream change_stream_member
    gridfs gridfs_bucket gridfs_unified grid_file types retryable_writes_unified_member
}
