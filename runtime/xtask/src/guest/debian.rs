//! The private guest toolchain from Debian's packages, for machines where rustup must not download.
//!
//! Debian's newest compiler packages (`rustc-web` and its kin) are unpacked into a directory of their own instead of
//! being installed, since they conflict with Debian's rustup. The standard library for the two targets is compiled from
//! `rust-web-src` on wasi-libc of a release that knows wasm32-wasip2. The system gets a linker and shared libraries
//! by `apt-get install`; its apt sources and rustup's default stay as they are.
//!
//! [`build`] reads as the list of steps. A directory becomes visible under its final name only after every check
//! passed, with a stamp in it: the hash of this recipe and the package versions. This file is the recipe: any change
//! to it makes the toolchain anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::packages::{
    self, apt_get, apt_get_as_root, at_least, candidate, installed, tool, unpack, user_source,
};
use super::{TARGETS, apt, archive, has_targets};
use crate::cache;
use crate::process;

/// The first compiler with wasm32-wasip2 among its supported targets.
const RUST_MIN: (u32, u32) = (1, 82);
/// The first wasi-libc with wasm32-wasip2 and stubs for threads, and the release that has it.
const WASI_LIBC_MIN: &str = "0.0~git20241209";
const WASI_LIBC_RELEASE: &str = "trixie";
/// Where wasi-libc's package has each of [`TARGETS`].
const WASI_LIBC_DIRS: [&str; 2] = ["usr/lib/wasm32-wasi", "usr/lib/wasm32-wasip2"];
const STAMP: &str = "cloudlet-stamp";
const STEPS: usize = 7;
/// Whether a directory holds a toolchain that this recipe made and that can still run.
pub(super) fn is_current(sysroot: &Path) -> bool {
    let stamp = stamp(sysroot).unwrap_or_default();
    stamp.lines().next() == Some(recipe_line().as_str())
        && has_targets(sysroot)
        && host_of(sysroot).is_ok_and(|host| {
            sysroot
                .join("lib/rustlib")
                .join(host)
                .join("bin/rust-lld")
                .exists()
        })
}

/// What a toolchain that this recipe made is made of; `None` for others.
pub(super) fn stamp(sysroot: &Path) -> Option<String> {
    fs::read_to_string(sysroot.join(STAMP)).ok()
}

/// A current toolchain that was made in `dir` before, if there is one.
pub(super) fn find_current(dir: &Path) -> Option<PathBuf> {
    toolchains_in(dir).into_iter().find(|sysroot| is_current(sysroot))
}

/// Removes what older recipes left in `dir`, but for the newest: another checkout may still be using that.
pub(super) fn remove_outdated(dir: &Path, current: &Path) -> Result<()> {
    let mut outdated = toolchains_in(dir);
    outdated.retain(|sysroot| fs::canonicalize(sysroot).ok() != fs::canonicalize(current).ok());
    outdated.sort_by_key(|sysroot| {
        fs::metadata(sysroot)
            .and_then(|metadata| metadata.modified())
            .ok()
    });
    outdated.pop();
    outdated
        .iter()
        .try_for_each(|sysroot| cache::remove_tree(sysroot))
}

/// Makes the toolchain in `dir` and returns its directory. The caller holds the lock of `dir`.
///
/// # Errors
/// When a step fails; the message names the step's log, or what to install or run.
pub(super) fn build(dir: &Path) -> Result<PathBuf> {
    println!(
        "no standard library for {} here: making a private toolchain from Debian's packages",
        TARGETS.join(" or ")
    );
    println!(
        "(once; about 4 minutes on two cores; 530 MB stay in {})",
        dir.display()
    );
    let work = dir.join("work");
    cache::remove_tree(&work)?;
    let made = Recipe::begin(dir, &work)?.follow();
    // Half-made files are of no use to a next try, and the logs are elsewhere.
    let removed = cache::remove_tree(&work);
    let sysroot = made?;
    removed?;
    Ok(sysroot)
}

/// One run through the steps.
struct Recipe {
    dir: PathBuf,
    work: PathBuf,
    logs: PathBuf,
    /// The toolchain being laid out.
    sysroot: PathBuf,
    started: Instant,
}

impl Recipe {
    fn begin(dir: &Path, work: &Path) -> Result<Recipe> {
        let logs = dir.join("logs");
        for dir in [work, &logs] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        Ok(Recipe {
            dir: dir.to_path_buf(),
            work: work.to_path_buf(),
            logs,
            sysroot: work.join("toolchain"),
            started: Instant::now(),
        })
    }

    fn follow(&self) -> Result<PathBuf> {
        self.step(1, "find the compiler's packages");
        let version = self.compiler_version()?;
        println!("      rustc-web {version}");

        self.step(2, "download and unpack them (120 MB)");
        let version = self.fetch_compiler(version)?;

        self.step(3, "install the linker and libraries they need");
        let llvm = self.install_libraries()?;

        self.step(4, "download wasi-libc");
        let libc_version = self.fetch_wasi_libc()?;
        println!("      wasi-libc {libc_version}");

        self.step(5, "lay out the toolchain");
        let host = self.lay_out(llvm)?;
        self.place_libc()?;

        self.step(6, "compile the standard library for both targets (3 CPU-minutes)");
        self.compile_std()?;

        self.step(7, "check it");
        let release = self.check_versions()?;
        self.check_smoke(&host)?;

        let stamp = format!(
            "{}\nrustc-web {version}\nwasi-libc {libc_version}\n",
            recipe_line()
        );
        fs::write(self.sysroot.join(STAMP), stamp).context("write the stamp")?;
        let place = self.dir.join(format!("rust-{release}-{:016x}", recipe_hash()));
        cache::remove_tree(&place)?;
        fs::rename(&self.sysroot, &place)
            .with_context(|| format!("move the toolchain to {}", place.display()))?;
        println!(
            "      done in {} s: {}",
            self.started.elapsed().as_secs(),
            place.display()
        );
        Ok(place)
    }

    fn step(&self, number: usize, what: &str) {
        println!(
            "[{number}/{STEPS}] {what} ({} s)",
            self.started.elapsed().as_secs()
        );
    }

    fn apt_update(&self) -> Result<()> {
        println!("      apt-get update");
        apt_get_as_root(&["update"], &self.log("0-update"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The newest version of the compiler that apt knows of, after an update of its lists if it knows none.
    fn compiler_version(&self) -> Result<String> {
        let mut version = candidate("rustc-web")?;
        if version.is_none() {
            self.apt_update()?;
            version = candidate("rustc-web")?;
        }
        let version = version.context(
            "apt offers no package rustc-web; are this release's security updates among the apt sources?",
        )?;
        match apt::rust_release(&version) {
            Some(release) if release >= RUST_MIN => Ok(version),
            _ => bail!(
                "apt offers rustc-web {version}, but {}.{} or newer is needed",
                RUST_MIN.0,
                RUST_MIN.1
            ),
        }
    }

    /// Downloads and unpacks the compiler. Old lists may name files that the archive no longer has: then once more
    /// after an update.
    fn fetch_compiler(&self, version: String) -> Result<String> {
        let debs = self.work.join("debs");
        let version = match self.download_compiler(&version, &debs) {
            Ok(()) => version,
            Err(_) => {
                println!("      not to be had; once more after apt-get update");
                self.apt_update()?;
                let version = self.compiler_version()?;
                cache::remove_tree(&debs)?;
                self.download_compiler(&version, &debs)?;
                version
            }
        };
        for deb in cache::files_in(&debs)? {
            unpack(&deb, &self.work.join("root"))?;
        }
        Ok(version)
    }

    fn download_compiler(&self, version: &str, debs: &Path) -> Result<()> {
        fs::create_dir_all(debs).context("make the download directory")?;
        let (major, minor) = apt::rust_release(version).context("read the compiler's version")?;
        let std_package = format!("libstd-rust-web-{major}.{minor}");
        let names = [
            "rustc-web",
            "cargo-web",
            "libstd-rust-web-dev",
            &std_package,
            "rust-web-src",
            "rust-web-llvm",
        ];
        let mut command = apt_get();
        command
            .arg("download")
            .args(names.map(|name| format!("{name}={version}")));
        process::run_logged(command.current_dir(debs), &self.log("1-download"))
    }

    /// Installs what the unpacked programs are linked to, the linker and patchelf, unless all is there. Returns the
    /// LLVM release in use.
    fn install_libraries(&self) -> Result<u32> {
        let mut wanted = Vec::new();
        for deb in cache::files_in(&self.work.join("debs"))? {
            let depends = packages::field(&deb, "Depends")?;
            wanted.extend(apt::parse_libraries(&depends));
        }
        let llvm = apt::llvm_release(&wanted).context("the compiler's packages name no LLVM library")?;
        wanted.extend([format!("lld-{llvm}"), "patchelf".to_owned()]);
        wanted.sort();
        wanted.dedup();
        wanted.retain(|package| !installed(package));
        if wanted.is_empty() {
            println!("      all there");
            return Ok(llvm);
        }
        println!("      apt-get install {}", wanted.join(" "));
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(wanted.iter().map(String::as_str));
        if let Err(error) = apt_get_as_root(&arguments, &self.log("2-install")) {
            // Old lists name files that are no longer there; if they can't be updated, the first reason counts.
            if self.apt_update().is_err() {
                return Err(error);
            }
            apt_get_as_root(&arguments, &self.log("2-install"))?;
        }
        Ok(llvm)
    }

    /// Downloads and unpacks wasi-libc: the system's own if it is new enough, else that of a newer release, through
    /// lists and a cache of our own.
    fn fetch_wasi_libc(&self) -> Result<String> {
        let apt_dir = self.work.join("apt");
        let options = match candidate("wasi-libc")?.filter(|version| at_least(version, WASI_LIBC_MIN)) {
            Some(_) => Vec::new(),
            None => self.newer_release(&apt_dir)?,
        };
        let debs = self.work.join("libc-debs");
        fs::create_dir_all(&debs).context("make the download directory")?;
        let mut command = apt_get();
        command
            .args(&options)
            .args(["download", "wasi-libc"])
            .current_dir(&debs);
        process::run_logged(&mut command, &self.log("4-libc-download"))?;
        let deb = cache::files_in(&debs)?
            .pop()
            .context("apt-get downloaded no wasi-libc")?;
        unpack(&deb, &self.work.join("libc"))?;
        let version = packages::field(&deb, "Version")?;
        ensure!(
            at_least(&version, WASI_LIBC_MIN),
            "wasi-libc {version} is older than {WASI_LIBC_MIN}"
        );
        Ok(version)
    }

    /// Prepares lists of a newer Debian release in `apt_dir` and returns the options that make apt use them alone.
    fn newer_release(&self, apt_dir: &Path) -> Result<Vec<String>> {
        for part in [
            "sources",
            "lists/partial",
            "cache/archives/partial",
            "preferences",
        ] {
            fs::create_dir_all(apt_dir.join(part)).context("make the private apt directories")?;
        }
        let stanza = user_source()?.stanza(WASI_LIBC_RELEASE);
        fs::write(apt_dir.join("sources/newer.sources"), stanza).context("write the private apt source")?;
        let path = |part: &str| apt_dir.join(part).display().to_string();
        let options: Vec<String> = [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={}", path("sources")),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            format!("Dir::Etc::PreferencesParts={}", path("preferences")),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect();
        let mut command = apt_get();
        command.args(&options).arg("update");
        process::run_logged(&mut command, &self.log("3-libc-lists")).with_context(|| {
            format!("read the package lists of {WASI_LIBC_RELEASE} from the mirror of your apt sources")
        })?;
        Ok(options)
    }

    /// Moves the unpacked files to where a toolchain has them; returns the host's target name.
    fn lay_out(&self, llvm: u32) -> Result<String> {
        let root = self.work.join("root/usr");
        for part in ["bin", "lib/rustlib/src/rust"] {
            fs::create_dir_all(self.sysroot.join(part)).context("make the toolchain's directories")?;
        }
        for program in ["rustc", "rustdoc", "cargo"] {
            take(
                &root.join("bin").join(program),
                &self.sysroot.join("bin").join(program),
            )?;
        }
        let driver = find(&root.join("lib"), |name| {
            name.starts_with("librustc_driver-") && name.ends_with(".so")
        })?;
        take(
            &driver,
            &self
                .sysroot
                .join("lib")
                .join(driver.file_name().context("the driver's name")?),
        )?;
        let host = host_of(&root)?;
        for part in [host.as_str(), "etc"] {
            take(
                &root.join("lib/rustlib").join(part),
                &self.sysroot.join("lib/rustlib").join(part),
            )?;
        }
        let source = find(&root.join("src"), |name| name.starts_with("rustc-"))?;
        take(&source.join("library"), &self.library())?;
        for program in ["rustc", "rustdoc"] {
            let program = self.sysroot.join("bin").join(program);
            process::read(
                tool("patchelf")
                    .args(["--set-rpath", "$ORIGIN/../lib"])
                    .arg(program),
            )?;
        }
        // The package's links lead out of its own tree; the linkers are the system's.
        let bin = self.sysroot.join("lib/rustlib").join(&host).join("bin");
        cache::remove_tree(&bin.join("gcc-ld"))?;
        fs::create_dir(bin.join("gcc-ld")).context("make gcc-ld")?;
        for entry in cache::files_in(&bin)? {
            if entry.is_symlink() {
                fs::remove_file(&entry).with_context(|| format!("remove {}", entry.display()))?;
            }
        }
        let lld = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin"));
        symlink(lld.join("lld"), bin.join("rust-lld")).context("link rust-lld")?;
        for name in ["ld.lld", "ld64.lld", "lld-link", "wasm-ld"] {
            symlink(lld.join(name), bin.join("gcc-ld").join(name)).with_context(|| format!("link {name}"))?;
        }
        Ok(host)
    }

    /// Puts the C library and start files of each target in place. The standard library needs the thread stubs that
    /// wasi-libc keeps in an archive of its own, so they are joined.
    fn place_libc(&self) -> Result<()> {
        for (target, dir) in TARGETS.iter().zip(WASI_LIBC_DIRS) {
            let from = self.work.join("libc").join(dir);
            let to = self.target_lib(target).join("self-contained");
            fs::create_dir_all(&to).context("make the directory for the C library")?;
            for name in ["crt1-command.o", "crt1-reactor.o"] {
                take(&from.join(name), &to.join(name))?;
            }
            let read =
                |name: &str| fs::read(from.join(name)).with_context(|| format!("read {name} of wasi-libc"));
            let libc = archive::join(&read("libc.a")?, &read("libwasi-emulated-pthread.a")?)
                .with_context(|| format!("add the thread stubs to libc.a for {target}"))?;
            let symbols = archive::symbols(&libc)?;
            let needed: &[&str] = match *target {
                "wasm32-wasip2" => &["pthread_create", "pthread_detach", "socket"],
                _ => &["pthread_create", "pthread_detach"],
            };
            for symbol in needed {
                ensure!(
                    symbols.iter().any(|name| name == symbol),
                    "libc.a for {target} does not define {symbol}"
                );
            }
            fs::write(to.join("libc.a"), libc).context("write libc.a")?;
        }
        Ok(())
    }

    fn compile_std(&self) -> Result<()> {
        let target_dir = self.work.join("std");
        let mut command = self.cargo();
        command.args([
            "build",
            "--release",
            "--locked",
            "--features",
            "panic-unwind backtrace",
        ]);
        TARGETS.iter().for_each(|target| {
            command.args(["--target", target]);
        });
        // This is how the Rust project itself builds std: unstable features are its own, and users' link-time
        // optimisation needs the bitcode. Panic messages must not tell where this machine keeps its caches; the flag
        // for it is the same wherever that is, for the flags become part of the libraries' names: so a toolchain made
        // elsewhere by the same recipe goes on where this one stopped.
        let flags = "-Zforce-unstable-if-unmarked -Cembed-bitcode=yes -Zremap-cwd-prefix=/rust";
        command
            .arg("--manifest-path")
            .arg(self.library().join("sysroot/Cargo.toml"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_DEFAULT_LIB_METADATA", "bootstrapstd")
            .env("RUSTFLAGS", flags)
            .env("CARGO_TARGET_DIR", &target_dir)
            .current_dir(self.library());
        process::run_logged(&mut command, &self.log("5-std"))?;
        for target in TARGETS {
            for file in cache::files_in(&target_dir.join(target).join("release/deps"))? {
                if file.extension().is_some_and(|extension| extension == "rlib") {
                    let name = file.file_name().context("a library's name")?;
                    take(&file, &self.target_lib(target).join(name))?;
                }
            }
        }
        ensure!(
            has_targets(&self.sysroot),
            "cargo compiled the sysroot, but left no libstd for each target"
        );
        Ok(())
    }

    /// Compiler, cargo and library source are of one release; returns it.
    fn check_versions(&self) -> Result<String> {
        let said = process::read(process::clean(self.sysroot.join("bin/rustc")).arg("-vV"))?;
        let release = said
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .context("rustc -vV: no release")?;
        let cargo = process::read(process::clean(self.sysroot.join("bin/cargo")).arg("-V"))?;
        ensure!(
            cargo.split(' ').nth(1) == Some(release),
            "rustc is {release}, but cargo is \"{cargo}\""
        );
        let source = find(&self.work.join("root/usr/src"), |name| name.starts_with("rustc-"))?;
        ensure!(
            source.ends_with(format!("rustc-{release}")),
            "rustc is {release}, but the library's source is {}",
            source.display()
        );
        Ok(release.to_owned())
    }

    /// A program that uses a bit of everything compiles for both targets and, with its build script, for the host;
    /// the wasip2 one is a component.
    fn check_smoke(&self, host: &str) -> Result<()> {
        const MANIFEST: &str = "[package]\nname = \"smoke\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
                                [profile.release]\nlto = true\n\n[workspace]\n";
        const PROGRAM: &str = r#"
            use std::{collections::HashMap, env, net::TcpStream, thread, time::SystemTime};
            fn main() {
                let mut args = HashMap::new();
                env::args().for_each(|arg| *args.entry(arg).or_insert(0) += 1);
                println!("{args:?} {:?} {:?}", SystemTime::now(), env::var("HOME"));
                println!("{:?}", TcpStream::connect("127.0.0.1:9").is_ok());
                println!("{:?}", thread::Builder::new().spawn(|| 1).is_ok());
                if args.len() > 3 { panic!("too many arguments"); }
            }"#;
        let dir = self.work.join("smoke");
        fs::create_dir_all(dir.join("src")).context("make the smoke test")?;
        let files = [
            ("Cargo.toml", MANIFEST),
            ("src/main.rs", PROGRAM),
            ("build.rs", "fn main() {}\n"),
        ];
        for (name, text) in files {
            fs::write(dir.join(name), text).context("write the smoke test")?;
        }
        let mut command = self.cargo();
        command
            .args(["build", "--release"])
            .current_dir(&dir)
            .env("CARGO_TARGET_DIR", dir.join("target"));
        TARGETS.iter().for_each(|target| {
            command.args(["--target", target]);
        });
        process::run_logged(&mut command, &self.log("6-smoke"))?;
        for (target, header) in TARGETS.iter().zip([*b"\0asm\x01\0\0\0", *b"\0asm\x0d\0\x01\0"]) {
            let output = dir.join("target").join(target).join("release/smoke.wasm");
            let bytes = fs::read(&output).with_context(|| format!("read {}", output.display()))?;
            ensure!(
                bytes.starts_with(&header),
                "{} is no WebAssembly of the right kind",
                output.display()
            );
        }
        println!(
            "      a program for {host} and both targets compiles; for {} it is a component",
            TARGETS[1]
        );
        Ok(())
    }

    /// The toolchain's own cargo and compiler, before rustup knows of them. No wrapper (a compiler cache) may come
    /// between.
    fn cargo(&self) -> Command {
        let bin = self.sysroot.join("bin");
        let mut command = process::clean(bin.join("cargo"));
        command
            .env("RUSTC", bin.join("rustc"))
            .env("RUSTDOC", bin.join("rustdoc"));
        command
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "");
        command
    }

    fn library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    fn target_lib(&self, target: &str) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(target).join("lib")
    }
}

/// The host's target name: the directory of `lib/rustlib` with compiled libraries that is none of ours.
fn host_of(prefix: &Path) -> Result<String> {
    let dir = find(&prefix.join("lib/rustlib"), |name| name.contains("-linux-"))?;
    Ok(dir
        .file_name()
        .context("the host's name")?
        .to_string_lossy()
        .into_owned())
}

fn toolchains_in(dir: &Path) -> Vec<PathBuf> {
    let mut entries = cache::files_in(dir).unwrap_or_default();
    entries.retain(|entry| entry.join(STAMP).is_file());
    entries
}

/// The first entry in `dir` or one level below whose name fits.
fn find(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let named = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(&fits);
    let entries = cache::files_in(dir)?;
    if let Some(found) = entries.iter().find(|path| named(path)) {
        return Ok(found.clone());
    }
    for entry in entries.iter().filter(|entry| entry.is_dir()) {
        if let Some(found) = cache::files_in(entry)?.into_iter().find(|path| named(path)) {
            return Ok(found);
        }
    }
    bail!(
        "{} has not what was expected; Debian's packages are laid out differently now",
        dir.display()
    )
}

/// Moves a file or directory within the cache.
fn take(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}

fn recipe_line() -> String {
    format!("recipe {:016x}", recipe_hash())
}

/// FNV-1a over the source of the recipe: the same on every machine and compiler.
fn recipe_hash() -> u64 {
    let recipe = [include_str!("debian.rs"), include_str!("archive.rs")].concat();
    recipe.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
