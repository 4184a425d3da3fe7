//! Watching an app's directory: which files changed, in batches. Build output, dependencies and hidden directories
//! are not looked at, but for the components that the manifest names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Quiet time that ends a batch: editors and compilers write several files in one go.
const QUIET: Duration = Duration::from_millis(150);
/// Longest batch.
const BATCH_MAX: Duration = Duration::from_secs(2);
/// Changes that may wait.
const WAITING_MAX: usize = 4096;
/// Directories watched.
const DIRECTORIES_MAX: usize = 5000;
/// Directories that are never an app's own sources.
const IGNORED: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// Watches a directory.
pub(super) struct Watch {
    root: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    sender: mpsc::Sender<PathBuf>,
    changes: mpsc::Receiver<PathBuf>,
}

impl Watch {
    /// Watches `root`.
    ///
    /// # Errors
    /// When the system can't watch.
    pub(super) fn new(root: &Path) -> anyhow::Result<Self> {
        let root = root
            .canonicalize()
            .with_context(|| format!("can't read {}", root.display()))?;
        let (sender, changes) = mpsc::channel(WAITING_MAX);
        let noticed = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            for path in event.paths {
                // When thousands wait, a rebuild is due anyway.
                let _ = noticed.try_send(path);
            }
        })
        .context("can't watch for changes")?;
        let mut watch = Self {
            root,
            watcher,
            watched: BTreeSet::new(),
            sender,
            changes,
        };
        watch.look_again(&[], &[])?;
        Ok(watch)
    }

    /// Watches directories that have come about since, and, wherever they are, those of `files` and under `roots`.
    ///
    /// # Errors
    /// When the system can't watch any more.
    pub(super) fn look_again(&mut self, files: &[PathBuf], roots: &[PathBuf]) -> anyhow::Result<()> {
        let mut directories = vec![self.root.clone()];
        directories.extend(roots.iter().filter_map(|root| root.canonicalize().ok()));
        let mut found = Vec::new();
        while let Some(directory) = directories.pop() {
            if found.len() == DIRECTORIES_MAX {
                break;
            }
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            directories.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path())
                    .filter(|path| !is_ignored_name(path)),
            );
            found.push(directory);
        }
        found.extend(files.iter().filter_map(|file| file.parent()?.canonicalize().ok()));
        let first = self.watched.is_empty();
        for directory in found {
            if self.watched.contains(&directory) || !directory.is_dir() {
                continue;
            }
            self.watcher
                .watch(&directory, RecursiveMode::NonRecursive)
                .with_context(|| format!("can't watch {}", directory.display()))?;
            if let Ok(under) = directory.strip_prefix(&self.root)
                && !first
                && !is_ignored(under)
            {
                self.tell_files(&directory);
            }
            self.watched.insert(directory);
        }
        Ok(())
    }

    /// Has the files of a new directory count as changed: they may have come before it was watched.
    fn tell_files(&self, directory: &Path) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            // As above: when thousands wait, a rebuild is due anyway.
            let _ = self.sender.try_send(entry.path());
        }
    }

    /// The files that changed, relative to the root where they are under it: waits for the first, then until it is
    /// quiet.
    pub(super) async fn batch(&mut self) -> BTreeSet<PathBuf> {
        let mut batch = BTreeSet::new();
        let Some(first) = self.changes.recv().await else {
            return std::future::pending().await;
        };
        batch.insert(self.relative(first));
        let more = async {
            while let Ok(Some(path)) = tokio::time::timeout(QUIET, self.changes.recv()).await {
                batch.insert(relative(&self.root, path));
            }
        };
        // A batch that does not end by itself is ended; what comes later is the next one.
        let _ = tokio::time::timeout(BATCH_MAX, more).await;
        // A directory that was removed and made again is another one; it is watched again at the next look.
        self.watched.retain(|directory| {
            directory.is_dir() && !batch.contains(&relative(&self.root, directory.clone()))
        });
        batch
    }

    fn relative(&self, path: PathBuf) -> PathBuf {
        relative(&self.root, path)
    }
}

fn relative(root: &Path, path: PathBuf) -> PathBuf {
    path.strip_prefix(root).map(Path::to_path_buf).unwrap_or(path)
}

/// Whether a path leads through something that is not an app's own source.
pub(super) fn is_ignored(path: &Path) -> bool {
    path.components().any(|component| match component {
        std::path::Component::Normal(name) => is_ignored_name(Path::new(name)),
        _ => false,
    })
}

fn is_ignored_name(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    (name.starts_with('.') && name != ".dev.secrets") || name.ends_with('~') || IGNORED.contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_come_in_batches_also_from_new_directories() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        std::fs::write(dir.path().join("src/a.rs"), "1").unwrap();
        std::fs::write(dir.path().join("src/b.rs"), "1").unwrap();
        let batch = watch.batch().await;
        assert!(batch.contains(Path::new("src/a.rs")), "{batch:?}");
        std::fs::create_dir(dir.path().join("new")).unwrap();
        let batch = watch.batch().await;
        assert!(batch.contains(Path::new("new")), "{batch:?}");
        watch.look_again(&[], &[]).unwrap();
        std::fs::write(dir.path().join("new/c.rs"), "1").unwrap();
        let batch = watch.batch().await;
        assert!(batch.contains(Path::new("new/c.rs")), "{batch:?}");
    }

    #[tokio::test]
    async fn what_comes_with_a_new_directory_is_told_and_one_that_is_made_again_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let src = dir.path().join("src");
        std::fs::create_dir(&src).unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        std::fs::remove_dir(&src).unwrap();
        std::fs::create_dir(&src).unwrap();
        std::fs::write(src.join("early.rs"), "1").unwrap();
        let batch = watch.batch().await;
        assert!(batch.contains(Path::new("src")), "{batch:?}");
        watch.look_again(&[], &[]).unwrap();
        let batch = watch.batch().await;
        assert!(batch.contains(Path::new("src/early.rs")), "{batch:?}");
        std::fs::write(src.join("late.rs"), "1").unwrap();
        let batch = watch.batch().await;
        assert!(batch.contains(Path::new("src/late.rs")), "{batch:?}");
    }

    #[test]
    fn output_and_hidden_files_are_ignored() {
        for path in [
            "target/x",
            ".git/a",
            ".cloudlet/dev/x",
            "web/node_modules/a",
            "src/a.rs~",
        ] {
            assert!(is_ignored(Path::new(path)), "{path}");
        }
        for path in ["src/a.rs", "cloudlet.toml", ".dev.secrets"] {
            assert!(!is_ignored(Path::new(path)), "{path}");
        }
    }
}
