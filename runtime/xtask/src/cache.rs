//! Where things are: the repository, cargo's target directory, and the cache of what takes long to make.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The repository's root directory, known since this crate was compiled in it.
pub(crate) fn repo_root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir
        .ancestors()
        .nth(2)
        .expect("this crate lies two directories below the root")
        .to_path_buf()
}

/// Cargo's target directory for the main workspace: `CARGO_TARGET_DIR` or `target/`.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => repo_root().join(dir),
        None => repo_root().join("target"),
    }
}

/// The cache directory: `CLOUDLET_CACHE_DIR`, else `$XDG_CACHE_HOME/cloudlet`, else `~/.cache/cloudlet`.
///
/// It may be deleted at any time when nothing runs; all in it is made again when needed.
///
/// # Errors
/// When none of the three variables is set, or the directory cannot be made.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = match (set("CLOUDLET_CACHE_DIR"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(dir), _, _) => env::current_dir()
            .context("read the working directory")?
            .join(dir),
        (None, Some(xdg), _) => xdg.join("cloudlet"),
        (None, None, Some(home)) => home.join(".cache/cloudlet"),
        (None, None, None) => {
            bail!("no place for the cache: set CLOUDLET_CACHE_DIR to a directory you can write to")
        }
    };
    fs::create_dir_all(&dir).with_context(|| {
        format!(
            "make the cache directory {} (CLOUDLET_CACHE_DIR names another place)",
            dir.display()
        )
    })?;
    Ok(dir)
}

/// Takes the lock `path` for this process, waiting for another that has it. Dropping the file lets it go, as does
/// the end of the process, however it comes.
///
/// # Errors
/// When the file cannot be made or the file system knows no locks.
pub(crate) fn lock(path: &Path, what: &str) -> Result<File> {
    let file = File::create(path).with_context(|| format!("make the lock file {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            println!(
                "waiting: another process is busy with {what} (lock file {})",
                path.display()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", path.display()));
        }
    }
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Removes a directory tree if it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The entries of a directory, sorted.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| format!("list {}", dir.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}
