//! The files under the store: how they are opened, and how their fsyncs are counted. What is in them is redb's and
//! `log.rs`'s.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use ::redb::backends::FileBackend;
use ::redb::{BackendError, StorageBackend};
use prometheus::IntCounter;

/// What is added to the database file's name for its log.
const LOG_SUFFIX: &str = ".log";

/// A file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// redb's database, made if it is not there.
    Database,
    /// The log, if it is there.
    Log,
    /// The log, made if it is not there.
    NewLog,
}

/// Opens a file of the store; nothing when it is not there and not to be made. Called at the start, when the log is
/// made, and again after each failure of the medium.
pub type Opener = Box<dyn Fn(Part) -> io::Result<Option<Box<dyn StorageBackend>>> + Send + Sync>;

/// An opener of the database file at `path` and of the log beside it.
pub(super) fn files(path: &Path) -> Opener {
    let database = path.to_owned();
    let log = log_path(path);
    Box::new(move |part| match part {
        Part::Database => open_file(&database, !database.exists()).map(Some),
        // Its name may be there since a start that ended before the name was durable.
        Part::NewLog => open_file(&log, true).map(Some),
        Part::Log if log.exists() => open_file(&log, false).map(Some),
        Part::Log => Ok(None),
    })
}

/// Where the log of the database file at `path` is.
pub fn log_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(LOG_SUFFIX);
    name.into()
}

/// The file, its name made durable if it is `new`.
fn open_file(path: &Path, new: bool) -> io::Result<Box<dyn StorageBackend>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if new
        && let Some(directory) = path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty())
    {
        File::open(directory)?.sync_all()?;
    }
    let backend = FileBackend::new(file).map_err(io::Error::other)?;
    Ok(Box::new(backend))
}

/// A backend whose fsyncs are counted.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) inner: Box<dyn StorageBackend>,
    pub(super) fsyncs: IntCounter,
}

#[deny(clippy::missing_trait_methods)]
impl StorageBackend for Counted {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fsyncs.inc();
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
