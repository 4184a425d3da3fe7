//! Child processes: which environment they get, where their output goes, how their failure is told.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a logged child that is still running says so.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How many lines of a failed child's log are repeated in the error.
const LOG_TAIL_LINES: usize = 12;

/// What cargo and rustup put into the environment of what they run, or what would choose another compiler: a guest
/// build must not inherit any of it. Settings of the user's network and cache (`CARGO_HOME`, `CARGO_NET_*`) stay.
fn steers_the_compiler(name: &str) -> bool {
    const EXACT: [&str; 12] = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "RUSTC_BOOTSTRAP",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "RUSTUP_TOOLCHAIN_SOURCE",
    ];
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
        "CARGO_INCREMENTAL",
    ];
    EXACT.contains(&name) || (name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept)))
}

/// A command whose environment is the user's, without what the `cargo run` above us added.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(steers_the_compiler) {
            command.env_remove(name);
        }
    }
    // `cargo run` puts its own libraries first; another compiler must not load them.
    if let Some(paths) = env::var_os("LD_LIBRARY_PATH") {
        let rustup = rustup_home();
        let ours = |dir: &PathBuf| {
            dir.starts_with(crate::cache::target_dir())
                || rustup.as_ref().is_some_and(|home| dir.starts_with(home))
        };
        let kept: Vec<PathBuf> = env::split_paths(&paths).filter(|dir| !ours(dir)).collect();
        match env::join_paths(kept) {
            Ok(kept) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", kept),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

/// The cargo of the active toolchain, for the main workspace and all else that runs on this machine. The user's
/// compiler settings stay; only what cargo told us about ourselves goes.
pub(crate) fn host_cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|own| name.starts_with(own))
                || matches!(name, "CARGO_PRIMARY_PACKAGE")
        }) {
            command.env_remove(name);
        }
    }
    command.current_dir(crate::cache::repo_root());
    command
}

/// A program of rustup's (`rustup`, or the `cargo` that understands `+TOOLCHAIN`), where rustup installs them or
/// in the path.
pub(crate) fn rustup_proxy(name: &str) -> OsString {
    let path = cargo_home().join("bin").join(name);
    if path.is_file() {
        path.into_os_string()
    } else {
        name.into()
    }
}

/// Cargo's directory: `CARGO_HOME` or `~/.cargo`.
pub(crate) fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"))
}

/// Rustup's directory, if it can be told.
pub(crate) fn rustup_home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")))
}

/// Runs a command on the terminal of the user.
///
/// # Errors
/// When it cannot be started or does not end well.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to standard output, without the white space around it.
///
/// # Errors
/// When it cannot be started or does not end well; what it wrote to standard error is part of the message.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", shown(command), output.status, told.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command with all of its output in the file `log`, and a line on the terminal now and then.
///
/// # Errors
/// When it cannot be started or does not end well; the message names the log and repeats its end.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let started = Instant::now();
    let shown = shown(command);
    let file = File::create(log).with_context(|| format!("make the log file {}", log.display()))?;
    let errors = file.try_clone().context("share the log file")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let mut next = HEARTBEAT;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for `{shown}`"))? {
            break status;
        }
        if started.elapsed() > next {
            next += HEARTBEAT;
            let line = tail(log, 1);
            println!("      {} s: {}", started.elapsed().as_secs(), line.trim());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        bail!(
            "`{shown}` failed ({status}); the whole log is {}, its end:\n{}",
            log.display(),
            tail(log, LOG_TAIL_LINES)
        );
    }
    Ok(())
}

/// The last lines of a file, as far as it can be read.
fn tail(path: &Path, lines_max: usize) -> String {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// A command as a person would type it, without its environment.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chooses_a_compiler_is_not_handed_on() {
        for name in [
            "RUSTUP_TOOLCHAIN",
            "RUSTC",
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
        ] {
            assert!(steers_the_compiler(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "RUSTUP_AUTO_INSTALL",
            "RUSTUP_HOME",
            "PATH",
            "CARGO_HTTP_TIMEOUT",
        ] {
            assert!(!steers_the_compiler(name), "{name}");
        }
    }

    #[test]
    fn a_failed_command_names_its_log_and_repeats_its_end() {
        let log = env::temp_dir().join(format!("cloudlet-xtask-{}.log", std::process::id()));
        let error = run_logged(Command::new("sh").args(["-c", "echo reason; exit 3"]), &log)
            .unwrap_err()
            .to_string();
        fs::remove_file(&log).unwrap();
        assert!(
            error.contains("reason") && error.contains(&log.display().to_string()),
            "{error}"
        );
    }
}
