//! What does not fit into memory goes to files: rows to be sorted, documents to be grouped, the rest of a result.
//!
//! Files come from a [`Scratch`], given at construction; a command has a [`Disk`] when it may use them. What is in them
//! is read once by the process that wrote it and has no format that anybody else could rely on. [`sorter`] sorts, also
//! more than memory takes; [`spool`] is a queue with its end on disk; `dir` is the scratch of a node, a directory.

mod dir;
#[cfg(any(test, feature = "testing"))]
mod mem;
mod sorter;
mod spool;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::metrics::Metrics;
use crate::{Code, Error, Limits, Result};

pub use self::dir::DirScratch;
#[cfg(any(test, feature = "testing"))]
pub use self::mem::MemScratch;
pub(crate) use self::sorter::{Bounds, Sorted, Sorter};
pub(crate) use self::spool::Spool;

/// Makes the files that hold what does not fit into memory.
pub trait Scratch: Send + Sync + fmt::Debug {
    /// A new empty file. Nothing is left of it when it is dropped, or the process ends in whatever way.
    ///
    /// # Errors
    /// The medium's own.
    fn file(&self) -> io::Result<Box<dyn ScratchFile>>;
}

/// A file that only its maker sees.
pub trait ScratchFile: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`, which is the file's end.
    ///
    /// # Errors
    /// The medium's own; what was written of `bytes` is not known then.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `into` with what was written at `offset`.
    ///
    /// # Errors
    /// The medium's own; `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// All that is spilled, whoever does.
#[derive(Debug)]
pub(crate) struct Space {
    scratch: Option<Arc<dyn Scratch>>,
    /// Whether a command may spill that does not say.
    by_default: bool,
    bytes_max: u64,
    total_bytes_max: u64,
    used: AtomicU64,
    metrics: Metrics,
}

impl Space {
    pub(crate) fn new(
        scratch: Option<Arc<dyn Scratch>>,
        by_default: bool,
        limits: &Limits,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            scratch,
            by_default,
            bytes_max: limits.spill_bytes_max,
            total_bytes_max: limits.spill_total_bytes_max,
            used: AtomicU64::new(0),
            metrics,
        })
    }

    /// The disk of a command that says, or does not, whether it may use it.
    pub(crate) fn disk(self: &Arc<Self>, allowed: Option<bool>) -> Option<Arc<Disk>> {
        if self.scratch.is_none() || !allowed.unwrap_or(self.by_default) {
            return None;
        }
        Some(Arc::new(Disk {
            space: self.clone(),
            used: AtomicU64::new(0),
            touched: AtomicBool::new(false),
        }))
    }
}

/// What one command has on disk.
#[derive(Debug)]
pub(crate) struct Disk {
    space: Arc<Space>,
    used: AtomicU64,
    touched: AtomicBool,
}

impl Disk {
    /// # Errors
    /// `OutOfDiskSpace` when the medium makes none.
    fn file(self: &Arc<Self>) -> Result<SpillFile> {
        let scratch = self.space.scratch.as_ref();
        let scratch =
            scratch.ok_or_else(|| Error::new(Code::InternalError, "there is no place to spill to"))?;
        if !self.touched.swap(true, Ordering::Relaxed) {
            self.space.metrics.spills.inc();
        }
        Ok(SpillFile {
            file: scratch.file().map_err(failed)?,
            disk: self.clone(),
            bytes: 0,
        })
    }

    /// Sets `bytes` apart.
    ///
    /// # Errors
    /// `QueryExceededMemoryLimitNoDiskUseAllowed` when this command or all together would have more than they may.
    fn take(&self, bytes: u64) -> Result<()> {
        let grow = |used: &AtomicU64, name: &str, max: u64| {
            let grown = used.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if grown <= max {
                return Ok(());
            }
            used.fetch_sub(bytes, Ordering::Relaxed);
            let message = format!(
                "spilling to disk would take {grown} bytes there, and {name} is {max}; an index on the sort's or group's fields or an earlier $match or $project would help"
            );
            Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ))
        };
        grow(&self.used, "spill_bytes_max", self.space.bytes_max)?;
        grow(
            &self.space.used,
            "spill_total_bytes_max (of all operations together)",
            self.space.total_bytes_max,
        )
        .inspect_err(|_| {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        })?;
        let counted = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.space.metrics.spill_bytes.add(counted);
        self.space.metrics.spilled_bytes.inc_by(bytes);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.space.used.fetch_sub(bytes, Ordering::Relaxed);
        let counted = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.space.metrics.spill_bytes.sub(counted);
    }
}

/// A file of a command, counted while it is there.
#[derive(Debug)]
struct SpillFile {
    file: Box<dyn ScratchFile>,
    disk: Arc<Disk>,
    bytes: u64,
}

impl SpillFile {
    /// # Errors
    /// Those of [`Disk::take`], and `OutOfDiskSpace` for the medium's own.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        self.disk.take(len)?;
        // Counted also when it fails: how much of it is there is not known.
        let at = self.bytes;
        self.bytes += len;
        self.file.write_at(at, bytes).map_err(failed)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, into).map_err(failed)
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.disk.give_back(self.bytes);
    }
}

fn failed(error: io::Error) -> Error {
    Error::new(
        Code::OutOfDiskSpace,
        format!("spilling to disk failed, the disk is full or failing: {error}"),
    )
}

/// Reads a stretch of a file from its begin to its end, some at a time.
#[derive(Debug)]
struct Reader {
    /// What was read, from the offset `at` on.
    buffer: Vec<u8>,
    at: u64,
    end: u64,
}

/// Bytes that a [`Reader`] reads at once.
const READ_BYTES: usize = 64 * 1024;

impl Reader {
    fn new(end: u64) -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            end,
        }
    }

    /// The `len` bytes at `offset`.
    ///
    /// # Errors
    /// The medium's own.
    fn get(&mut self, file: &SpillFile, offset: u64, len: usize) -> Result<&[u8]> {
        let inside = offset
            .checked_sub(self.at)
            .and_then(|from| usize::try_from(from).ok())
            .filter(|from| from + len <= self.buffer.len());
        let from = match inside {
            Some(from) => from,
            None => {
                let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
                // A large row takes its room only while it is read.
                self.buffer.clear();
                self.buffer.shrink_to(READ_BYTES);
                self.buffer.resize(len.max(READ_BYTES.min(left)), 0);
                self.at = offset;
                file.read(offset, &mut self.buffer)
                    .inspect_err(|_| self.buffer.clear())?;
                0
            }
        };
        Ok(&self.buffer[from..from + len])
    }
}

/// What a row takes beside its bytes: two lengths.
const HEAD_BYTES: usize = 8;

fn length(bytes: usize) -> Result<[u8; 4]> {
    let len =
        u32::try_from(bytes).map_err(|_| Error::new(Code::Overflow, "a row is too large to be spilled"))?;
    Ok(len.to_le_bytes())
}

fn length_of(bytes: &[u8]) -> usize {
    let bytes = bytes.first_chunk().copied().unwrap_or_default();
    u32::from_le_bytes(bytes) as usize
}
