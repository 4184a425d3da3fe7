//! Debian's package tools, run: what is offered, what is installed, download, install, unpack. What they print is read by
//! [`super::apt`]; what is fetched with them is [`super::debian`]'s to know.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt;
use crate::cache;
use crate::process;

/// apt waits for another apt, gives up on a dead server, and asks nothing.
const APT_OPTIONS: [&str; 6] = [
    "-o",
    "DPkg::Lock::Timeout=600",
    "-o",
    "Acquire::http::Timeout=60",
    "-o",
    "Acquire::Retries=3",
];

/// Whether this system has Debian's packages.
pub(super) fn is_debian() -> bool {
    let tools = ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .all(|tool| Path::new("/usr/bin").join(tool).exists());
    tools && os_release("ID").is_some_and(|id| id == "debian")
}

/// An `apt-get` with our options; the command's words are to be added.
pub(super) fn apt_get() -> Command {
    let mut command = tool("apt-get");
    command.args(APT_OPTIONS);
    command
}

/// Runs apt-get as root: directly, or by sudo if that asks no password.
///
/// # Errors
/// When it fails, or there is no way to become root; then the message has the command to run by hand.
pub(super) fn apt_get_as_root(arguments: &[&str], log: &Path) -> Result<()> {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = if root {
        tool("apt-get")
    } else {
        let sudo = tool("sudo")
            .args(["-n", "true"])
            .output()
            .is_ok_and(|output| output.status.success());
        ensure!(sudo, "this needs root; run: sudo apt-get {}", arguments.join(" "));
        let mut command = tool("sudo");
        command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    };
    process::run_logged(command.args(APT_OPTIONS).args(arguments), log)
}

/// One of Debian's tools, speaking English and asking nothing.
pub(super) fn tool(name: &str) -> Command {
    let mut command = process::clean(name);
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The version of a package that apt would install, if any.
pub(super) fn candidate(package: &str) -> Result<Option<String>> {
    let policy = process::read(tool("apt-cache").args(["policy", package]))?;
    Ok(apt::parse_candidate(&policy).map(str::to_owned))
}

/// Whether a package is installed.
pub(super) fn installed(package: &str) -> bool {
    let mut query = tool("dpkg-query");
    let status = process::read(query.args(["--show", "--showformat=${db:Status-Status}\\n", package]));
    status.is_ok_and(|status| status.lines().any(|line| line == "installed"))
}

/// Whether a package version is `minimum` or newer, as Debian orders versions.
pub(super) fn at_least(version: &str, minimum: &str) -> bool {
    let mut compare = tool("dpkg");
    compare
        .args(["--compare-versions", version, "ge", minimum])
        .status()
        .is_ok_and(|status| status.success())
}

/// A field of a package file.
pub(super) fn field(deb: &Path, name: &str) -> Result<String> {
    process::read(tool("dpkg-deb").arg("-f").arg(deb).arg(name))
}

/// Unpacks a package file into a directory, installing nothing.
pub(super) fn unpack(deb: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
    process::read(tool("dpkg-deb").arg("-x").arg(deb).arg(into)).map(drop)
}

/// The main archive among the user's apt sources.
pub(super) fn user_source() -> Result<apt::Source> {
    let codename = os_release("VERSION_CODENAME").context("/etc/os-release names no VERSION_CODENAME")?;
    let mut sources = Vec::new();
    let mut files = cache::files_in(Path::new("/etc/apt/sources.list.d")).unwrap_or_default();
    files.insert(0, PathBuf::from("/etc/apt/sources.list"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(apt::parse_list(&text)),
            Some("sources") => sources.extend(apt::parse_sources(&text)),
            _ => {}
        }
    }
    sources.into_iter().find(|source| source.is_main_archive_of(&codename)).with_context(|| {
        format!("no main archive of {codename} among the apt sources, so the mirror of other releases is unknown")
    })
}

fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}
