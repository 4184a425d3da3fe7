//! The ordered store on disk: one redb table from bytes to bytes, and a log (`store.rs`). A failed write or read of a file makes redb or the log refuse everything after it; this store then closes and
//! reopens both, so that a disk that was full for a while costs the operations of that while and nothing else.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use prometheus::IntCounter;

use super::failure::{Failure, closed, damaged};
use super::file::{Opener, files};
use super::store::Store;
use super::view::judge;
use super::{Kv, KvSnapshot, ReadBody, WriteBody};
use crate::{Code, Error, Result};

/// Bytes of the log when nobody says otherwise. It bounds the memory for what no checkpoint has yet, the time of a
/// checkpoint, and that of opening after a crash.
pub const LOG_BYTES: u64 = 12 << 20;

/// How to run the store.
#[derive(Debug, Clone)]
pub struct RedbOptions {
    /// Bytes of cache, for pages and rows.
    pub cache_bytes: usize,
    /// Bytes of the log, 16 KiB at least: a checkpoint comes when half of it is full.
    pub log_bytes: u64,
    /// What the log is named by if it is made: random bytes, so that no log passes for that of another database.
    pub log_id: [u8; 16],
    /// Counts the fsyncs.
    pub fsyncs: IntCounter,
    /// Counts the commits that waited for a checkpoint, or had to make it.
    pub waits: IntCounter,
}

/// An ordered store in a redb database with a log beside it.
pub struct RedbKv {
    open: Opener,
    options: RedbOptions,
    opened: RwLock<Opened>,
}

/// The files, or nothing while the medium can't be opened again.
struct Opened {
    /// How many times it was opened, so that of many who saw it fail one reopens it.
    generation: u64,
    /// The sequence up to which all commits were acknowledged by this process, so that they are on disk for certain.
    acknowledged: u64,
    store: Option<Store>,
}

impl RedbKv {
    /// Opens or makes the store in the file at `path`, and the log beside it.
    ///
    /// # Errors
    /// When another process or another store has it open, when it is not such a file or a damaged one, when its log is
    /// missing, damaged or another's, or when it can't be read or written.
    pub fn open(path: &Path, options: RedbOptions) -> Result<Self> {
        Self::with_opener(files(path), options).map_err(|error| {
            Error::new(
                error.code(),
                format!("open the database file {:?}: {error}", path.display().to_string()),
            )
        })
    }

    /// Opens the store in the file at `path`, which has to be there.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when there is no file or an empty one.
    pub fn open_existing(path: &Path, options: RedbOptions) -> Result<Self> {
        let refuse = |what: &str| {
            let message = format!("open the database file {:?}: {what}", path.display().to_string());
            Err(Error::new(Code::UnsupportedFormat, message))
        };
        match std::fs::metadata(path) {
            Ok(file) if !file.is_file() => refuse("it is not a file"),
            Ok(file) if file.len() == 0 => refuse("it is empty"),
            Ok(_) => Self::open(path, options),
            Err(error) => refuse(&error.to_string()),
        }
    }

    /// Checks the checksums of all pages, as they are on the disk. False when the records of which pages are in use
    /// were wrong, and are put right.
    ///
    /// # Errors
    /// When a page is damaged, or can't be read.
    pub fn check_pages(&self) -> Result<bool> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let Some(store) = &mut opened.store else {
            return Err(closed());
        };
        // As at opening: some damage makes a debug build of redb panic.
        let checked = catch_unwind(AssertUnwindSafe(|| store.check_pages()));
        checked
            .unwrap_or_else(|_| Err(Failure::Medium(damaged("its pages contradict each other"))))
            .map_err(Failure::into_error)
    }

    /// Opens or makes the store in whatever `open` gives.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_opener(open: Opener, options: RedbOptions) -> Result<Self> {
        let store = Some(open_store(&open, &options, 0)?);
        Ok(Self {
            open,
            options,
            opened: RwLock::new(Opened {
                generation: 0,
                acknowledged: 0,
                store,
            }),
        })
    }

    /// Runs `body` on the open store and reopens it if that fails by the medium.
    fn with_store(&self, body: impl FnOnce(&Store) -> Result<(), Failure>) -> Result<()> {
        let (generation, result) = {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &opened.store {
                Some(store) => body(store),
                None => Err(Failure::Medium(closed())),
            };
            (opened.generation, result)
        };
        match result {
            Ok(()) => Ok(()),
            Err(Failure::Body(error)) => Err(error),
            Err(Failure::Medium(error)) => {
                self.reopen(generation);
                Err(error)
            }
        }
    }

    fn reopen(&self, failed_generation: u64) {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.generation != failed_generation {
            return;
        }
        // The old one must let go of the files before they can be opened again.
        if let Some(store) = opened.store.take() {
            opened.acknowledged = opened.acknowledged.max(store.acknowledged());
        }
        match open_store(&self.open, &self.options, opened.acknowledged) {
            Ok(store) => {
                opened.store = Some(store);
                opened.generation += 1;
                tracing::warn!("the database file was opened again after a failure of the disk");
            }
            Err(error) => {
                tracing::error!(error = %error, "the database file can't be opened again after a failure of the disk");
            }
        }
    }
}

impl Drop for RedbKv {
    /// Leaves a database that is whole without its log.
    fn drop(&mut self) {
        let opened = self.opened.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(store) = &opened.store else {
            return;
        };
        if let Err(failure) = store.close() {
            // The next start reads the log.
            let error = failure.into_error();
            tracing::warn!(error = %error, "the database could not be closed in order");
        }
    }
}

impl fmt::Debug for RedbKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbKv")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Kv for RedbKv {
    fn read(&self, body: &mut ReadBody<'_>) -> Result<()> {
        self.with_store(|store| {
            let view = store.view()?;
            let result = body(&view);
            judge(view.failed.get(), result)
        })
    }

    fn snapshot(&self) -> Result<Box<KvSnapshot>> {
        let mut snapshot: Option<Box<KvSnapshot>> = None;
        self.with_store(|store| {
            snapshot = Some(Box::new(store.view()?));
            Ok(())
        })?;
        snapshot.ok_or_else(|| Error::new(Code::InternalError, "the store gave no snapshot"))
    }

    fn write(&self, body: &mut WriteBody<'_>) -> Result<()> {
        self.with_store(|store| store.write(&self.open, &self.options, body))
    }

    fn is_due(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.store.as_ref().is_some_and(Store::is_due)
    }

    fn tend(&self) -> Result<()> {
        self.with_store(Store::checkpoint)
    }
}

fn open_store(open: &Opener, options: &RedbOptions, acknowledged: u64) -> Result<Store> {
    // redb panics rather than erring on some damaged files when it was built with debug assertions.
    let opened = catch_unwind(AssertUnwindSafe(|| Store::open(open, options, acknowledged)));
    opened
        .unwrap_or_else(|_| Err(Failure::Medium(damaged("its pages contradict each other"))))
        .map_err(Failure::into_error)
}
