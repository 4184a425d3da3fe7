//! The artifact cache: compiled components on disk, named by the component's hash and the engine's. The one module
//! with `unsafe`: loading what this host has compiled.
//!
//! `HASH-ENGINE.cwasm` is wasmtime's own format, mapped as it is; `HASH-ENGINE.sum` beside it holds the artifact's
//! SHA-256 in hex and a line end, and is written last. An artifact without its sum, or with another one, does not
//! count as there: it is compiled again. Invariant: nothing in this directory comes from outside.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use cloudlet_base::{ContentHash, Timestamp};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::LoadError;

/// What is at the beginning of every WebAssembly file.
const MAGIC: &[u8; 4] = b"\0asm";
/// Version and layer of a component's binary format.
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];
/// Version and layer of a core module's.
const MODULE_VERSION: [u8; 4] = [1, 0, 0, 0];

/// The directory of artifacts.
pub(crate) struct ArtifactCache {
    dir: PathBuf,
    engine_hash: String,
    /// Makes names of temporary files distinct.
    temp_count: AtomicU64,
}

/// The name of a component's content.
pub(crate) fn content_hash(bytes: &[u8]) -> ContentHash {
    ContentHash::from_bytes(Sha256::digest(bytes).into())
}

/// Refuses what is not a component, saying what it is instead.
pub(crate) fn check_is_component(bytes: &[u8]) -> Result<(), LoadError> {
    let not = |what: &str| Err(LoadError::NotAComponent(what.to_owned()));
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return not("it does not begin with the bytes of a WebAssembly file, \\0asm");
    };
    match rest.first_chunk::<4>() {
        Some(&COMPONENT_VERSION) => Ok(()),
        Some(&MODULE_VERSION) => not(
            "it is a core module; build for the target wasm32-wasip2 (cargo build --target wasm32-wasip2) or turn \
             it into a component with `wasm-tools component new`",
        ),
        Some(other) => not(&format!("its format version {other:?} is not known")),
        None => not("it ends after four bytes"),
    }
}

impl ArtifactCache {
    /// Opens the directory, making it when it is not there.
    pub(crate) fn open(dir: PathBuf, engine: &Engine) -> Result<Self, LoadError> {
        make_private_dir(&dir).map_err(|error| {
            LoadError::Internal(format!("make the artifact directory {}: {error}", dir.display()))
        })?;
        let mut hasher = Sha256Hasher::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            dir,
            engine_hash: hasher.hex(),
            temp_count: AtomicU64::new(0),
        })
    }

    /// Whether the component is compiled and its artifact whole.
    pub(crate) fn contains(&self, component: ContentHash) -> bool {
        self.checked(component).is_ok()
    }

    /// Stores a compiled component. A crash at any point leaves either no artifact or a whole one.
    pub(crate) fn store(&self, component: ContentHash, compiled: &[u8]) -> Result<(), LoadError> {
        let sum = format!("{}\n", content_hash(compiled));
        self.write(&self.path(component, "cwasm"), compiled)
            .and_then(|()| self.write(&self.path(component, "sum"), sum.as_bytes()))
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|error| LoadError::Internal(format!("write the artifact of {component}: {error}")))
    }

    /// Maps a compiled component into memory.
    ///
    /// # Errors
    /// `NotCompiled` when there is no whole artifact of this engine.
    pub(crate) fn load(&self, engine: &Engine, component: ContentHash) -> Result<Component, LoadError> {
        let path = self.checked(component).map_err(|problem| {
            if let Problem::Damaged = problem {
                tracing::warn!(%component, "a compiled component is damaged and has to be compiled again");
            }
            LoadError::NotCompiled(component)
        })?;
        deserialize(engine, &path)
            .map_err(|error| LoadError::Internal(format!("load the artifact of {component}: {error:#}")))
    }

    /// Removes artifacts of components that are not in `keep`, those of other engines, and what interrupted writes
    /// left; nothing that is younger than `age` at `now`. A crash at any point leaves whole artifacts or ones that do
    /// not count as there. Code that is loaded stays mapped.
    pub(crate) fn collect(
        &self,
        keep: &HashSet<ContentHash>,
        age: Duration,
        now: Timestamp,
    ) -> io::Result<Collected> {
        let mut collected = Collected::default();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if !self.is_garbage(name, keep) || !is_older(&entry, age, now) {
                continue;
            }
            if let Some(stem) = name.strip_suffix(".cwasm") {
                // First: without its sum the artifact is not there.
                remove(&self.dir.join(format!("{stem}.sum")))?;
                collected.artifacts += 1;
                collected.bytes += entry.metadata().map_or(0, |found| found.len());
            }
            remove(&entry.path())?;
        }
        Ok(collected)
    }

    fn is_garbage(&self, name: &str, keep: &HashSet<ContentHash>) -> bool {
        if name.starts_with("temp-") {
            return true;
        }
        let stem = name.strip_suffix(".cwasm").or_else(|| name.strip_suffix(".sum"));
        // What is not named as an artifact is not ours to remove.
        let Some((hash, engine)) = stem.and_then(|stem| stem.split_once('-')) else {
            return false;
        };
        hash.parse()
            .is_ok_and(|hash: ContentHash| engine != self.engine_hash || !keep.contains(&hash))
    }

    /// The path of the artifact, after comparing its bytes with the sum that was recorded when it was written.
    fn checked(&self, component: ContentHash) -> Result<PathBuf, Problem> {
        let path = self.path(component, "cwasm");
        let recorded = fs::read_to_string(self.path(component, "sum")).map_err(|_| Problem::Missing)?;
        let mut file = File::open(&path).map_err(|_| Problem::Missing)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match io::Read::read(&mut file, &mut buffer) {
                Ok(0) => break,
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Problem::Damaged),
            }
        }
        let seen = ContentHash::from_bytes(hasher.finalize().into());
        if recorded.trim_end().parse() == Ok(seen) {
            Ok(path)
        } else {
            Err(Problem::Damaged)
        }
    }

    fn path(&self, component: ContentHash, extension: &str) -> PathBuf {
        self.dir
            .join(format!("{component}-{}.{extension}", self.engine_hash))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let count = self.temp_count.fetch_add(1, Ordering::Relaxed);
        let temp = self.dir.join(format!("temp-{}-{count}", std::process::id()));
        let written = File::create(&temp)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temp, path));
        if written.is_err() {
            // Best effort: a left-over costs space only, and the first error is the one to tell.
            let _ = fs::remove_file(&temp);
        }
        written
    }
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Compiled components.
    pub artifacts: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn is_older(entry: &fs::DirEntry, age: Duration, now: Timestamp) -> bool {
    let modified = entry.metadata().and_then(|found| found.modified());
    let written = modified.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let Some(written) = written else { return false };
    let now = Duration::from_millis(u64::try_from(now.millis()).unwrap_or(0));
    now.saturating_sub(written) >= age
}

/// Removes a file; it may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Why an artifact can't be used.
#[derive(Debug)]
enum Problem {
    Missing,
    Damaged,
}

#[cfg(unix)]
fn make_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Compiled code is trusted when loaded: nobody else may write here, also when the directory was there before.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

/// Maps an artifact that [`ArtifactCache::checked`] has just found whole.
#[allow(unsafe_code, reason = "loading our own compiled artifacts; see SAFETY")]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: deserialize_file runs whatever machine code the file holds, so the file must be the unchanged output of
    // this wasmtime's compiler. The one caller passes a path that `checked` returned: the bytes there have the
    // SHA-256 that `store` recorded, and `store` is given nothing but the output of `precompile_component`. The
    // directory is private to this user (mode 0700), nothing rewrites an artifact in place (new ones are renamed
    // over it), and its name carries the hash of the engine's version and settings, which wasmtime checks again.
    unsafe { Component::deserialize_file(engine, path) }
}

/// SHA-256 as a `Hasher`, for a name that does not change with the standard library's hashing.
#[derive(Default)]
struct Sha256Hasher(Sha256);

impl Sha256Hasher {
    /// The first 16 hex digits.
    fn hex(self) -> String {
        let digest: [u8; 32] = self.0.finalize().into();
        let mut text = ContentHash::from_bytes(digest).to_string();
        text.truncate(16);
        text
    }
}

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        let error = check_is_component(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn tells_what_a_file_is_instead_of_a_component() {
        check(b"", "does not begin with");
        check(b"(component)", "does not begin with");
        check(b"\0asm", "ends after four bytes");
        check(b"\0asm\x01\0\0\0", "core module");
        check(b"\0asm\x02\0\0\0", "not known");
        assert!(check_is_component(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
