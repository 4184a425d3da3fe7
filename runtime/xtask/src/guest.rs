//! `cargo xtask guest`: a toolchain that compiles functions, found or made.
//!
//! The order: the active toolchain when it has both targets; the project's own linked toolchain when it is there and
//! current; `rustup target add`, unless `RUSTUP_AUTO_INSTALL=0` forbids downloads through rustup; on Debian a private
//! toolchain made from Debian's packages ([`debian`]). Both targets are wanted because `cargo component` asks for
//! wasm32-wasip1 whatever it builds. The user's default toolchain is never changed.
//! runtime/docs/guest-toolchain.md explains it to people.

mod apt;
mod archive;
mod debian;
mod packages;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::process;

/// The targets a guest toolchain must have.
pub(crate) const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];
/// The name of the project's own toolchain in rustup.
const LINK_NAME: &str = "cloudlet-guest";

/// A toolchain with a standard library for both [`TARGETS`].
#[derive(Debug, Clone)]
pub(crate) struct GuestToolchain {
    /// The name in rustup, if it is not the active toolchain.
    linked: Option<&'static str>,
    sysroot: PathBuf,
}

impl GuestToolchain {
    /// What goes between `cargo` and the subcommand: `+NAME`, or nothing.
    pub(crate) fn cargo_arg(&self) -> Option<String> {
        self.linked.map(|name| format!("+{name}"))
    }

    /// The variable that makes every cargo and rustc below choose this toolchain, for programs that run `cargo build`
    /// themselves.
    pub(crate) fn env(&self) -> Option<(&'static str, &'static str)> {
        self.linked.map(|name| ("RUSTUP_TOOLCHAIN", name))
    }

    /// Tells this toolchain from others, also from those that call themselves the same version.
    pub(crate) fn identity(&self) -> String {
        debian::stamp(&self.sysroot).unwrap_or_else(|| self.sysroot.display().to_string())
    }

    /// A `cargo` that compiles guests, with nothing in its environment that would choose another compiler or other
    /// flags, nor a target directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match (&self.linked, env::var_os("CARGO")) {
            (None, Some(active)) => process::clean(active),
            _ => process::clean(process::rustup_proxy("cargo")),
        };
        match (self.cargo_arg(), env::var_os("RUSTUP_TOOLCHAIN")) {
            (Some(arg), _) => command.arg(arg),
            (None, Some(active)) => command.env("RUSTUP_TOOLCHAIN", active),
            (None, None) => &mut command,
        };
        command
    }
}

/// Runs the command: makes the toolchain ready and tells how to use it.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    match rest {
        [] => {
            let guest = guest_toolchain()?;
            let arg = guest.cargo_arg().map_or(String::new(), |arg| format!("{arg} "));
            println!("guest targets ready: cargo {arg}build --target wasm32-wasip2");
            println!("  toolchain: {}", guest.sysroot.display());
        }
        [flag] if flag == "--arg" => println!("{}", guest_toolchain()?.cargo_arg().unwrap_or_default()),
        [unknown, ..] => bail!("unknown argument \"{unknown}\"; `cargo xtask guest` takes --arg or nothing"),
    }
    Ok(())
}

/// Finds a guest toolchain, or makes one.
///
/// # Errors
/// When there is none and none can be made here; the message names the command to run.
pub(crate) fn guest_toolchain() -> Result<GuestToolchain> {
    if let Some(sysroot) = active_sysroot().filter(|sysroot| has_targets(sysroot)) {
        return Ok(GuestToolchain {
            linked: None,
            sysroot,
        });
    }
    if let Some(sysroot) = linked_sysroot().filter(|sysroot| debian::is_current(sysroot)) {
        return Ok(GuestToolchain {
            linked: Some(LINK_NAME),
            sysroot,
        });
    }
    if !rustup_answers() {
        bail!(
            "no standard library for {} in the active toolchain, and no rustup to add it; \
             install rustup, then run: rustup target add {}",
            TARGETS.join(" and "),
            TARGETS.join(" ")
        );
    }
    if env::var_os("RUSTUP_AUTO_INSTALL").is_none_or(|value| value != "0") {
        return add_targets();
    }
    if packages::is_debian() {
        return make_private();
    }
    bail!(
        "no standard library for {}; RUSTUP_AUTO_INSTALL=0 forbids to fetch it through rustup, and this is not a Debian \
         from whose packages it could be made; run: RUSTUP_AUTO_INSTALL=1 rustup target add {}",
        TARGETS.join(" and "),
        TARGETS.join(" ")
    )
}

/// Lets rustup download the targets into the active toolchain.
fn add_targets() -> Result<GuestToolchain> {
    println!(
        "adding {} to the active toolchain with rustup",
        TARGETS.join(" and ")
    );
    let mut command = Command::new(process::rustup_proxy("rustup"));
    process::run(command.args(["target", "add"]).args(TARGETS)).with_context(|| {
        format!(
            "add the guest targets; to try by hand: rustup target add {}",
            TARGETS.join(" ")
        )
    })?;
    match active_sysroot() {
        Some(sysroot) if has_targets(&sysroot) => Ok(GuestToolchain {
            linked: None,
            sysroot,
        }),
        Some(sysroot) => bail!(
            "rustup added the targets, but {} has none of them",
            sysroot.display()
        ),
        None => bail!("rustup added the targets, but no rustc answers; is there a default toolchain?"),
    }
}

/// Makes Debian's private toolchain, or links one that was made before, under a lock.
fn make_private() -> Result<GuestToolchain> {
    let dir = cache::cache_dir()?.join("guest-toolchain");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let _lock = cache::lock(&dir.join("lock"), "the guest toolchain")?;
    let sysroot = match linked_sysroot().filter(|sysroot| debian::is_current(sysroot)) {
        Some(sysroot) => sysroot,
        None => {
            let sysroot = match debian::find_current(&dir) {
                Some(sysroot) => sysroot,
                None => debian::build(&dir)?,
            };
            link(&sysroot)?;
            debian::remove_outdated(&dir, &sysroot)?;
            sysroot
        }
    };
    Ok(GuestToolchain {
        linked: Some(LINK_NAME),
        sysroot,
    })
}

/// Gives a toolchain directory its name in rustup. It never becomes the default.
fn link(sysroot: &Path) -> Result<()> {
    let mut rustup = process::clean(process::rustup_proxy("rustup"));
    process::read(rustup.args(["toolchain", "link", LINK_NAME]).arg(sysroot))
        .context("give the private toolchain its name in rustup")?;
    let version = process::read(
        process::clean(process::rustup_proxy("rustup")).args(["run", LINK_NAME, "rustc", "-V"]),
    )
    .context("run the private toolchain through rustup")?;
    println!("linked as \"{LINK_NAME}\": {version}");
    Ok(())
}

/// The sysroot of the toolchain that runs us: above the cargo that started this program, or what rustc says.
fn active_sysroot() -> Option<PathBuf> {
    let above_cargo = env::var_os("CARGO")
        .map(PathBuf::from)
        .and_then(|cargo| Some(cargo.parent()?.parent()?.to_path_buf()))
        .filter(|sysroot| sysroot.join("lib/rustlib").is_dir());
    above_cargo.or_else(|| {
        process::read(Command::new("rustc").args(["--print", "sysroot"]))
            .ok()
            .map(PathBuf::from)
    })
}

/// Where the project's own toolchain is, when rustup knows one.
fn linked_sysroot() -> Option<PathBuf> {
    fs::canonicalize(process::rustup_home()?.join("toolchains").join(LINK_NAME)).ok()
}

fn rustup_answers() -> bool {
    let mut rustup = Command::new(process::rustup_proxy("rustup"));
    rustup
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a sysroot has a standard library for both targets.
fn has_targets(sysroot: &Path) -> bool {
    TARGETS.iter().all(|target| {
        let names = fs::read_dir(sysroot.join("lib/rustlib").join(target).join("lib"))
            .into_iter()
            .flatten();
        has_std(
            names
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned()),
        )
    })
}

/// Whether the files of a target's library directory are a standard library (an interrupted or other install may have
/// left the directory alone).
fn has_std(names: impl IntoIterator<Item = String>) -> bool {
    names
        .into_iter()
        .any(|name| name.starts_with("libstd-") && name.ends_with(".rlib"))
}

#[cfg(test)]
mod tests {
    use super::has_std;

    #[test]
    fn a_directory_without_std_is_no_target() {
        let check = |names: &[&str], expected| {
            assert_eq!(
                has_std(names.iter().map(|n| (*n).to_owned())),
                expected,
                "{names:?}"
            )
        };
        check(&[], false);
        check(&["self-contained"], false);
        check(
            &[
                "libcore-23a0907cb39f8498.rlib",
                "libstd_detect-84103e0ef175896c.rlib",
            ],
            false,
        );
        check(&["libstd-e539a04aaee5b687.rmeta"], false);
        check(
            &["libcore-23a0907cb39f8498.rlib", "libstd-e539a04aaee5b687.rlib"],
            true,
        );
    }
}
