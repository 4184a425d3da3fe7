//! Scratch files in memory, on a disk of a given size, for tests.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Scratch, ScratchFile};

/// Files in memory. The disk takes so many bytes and gives so many reads, then both fail.
#[derive(Debug, Clone)]
pub struct MemScratch {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    bytes_left: Mutex<u64>,
    reads_left: AtomicU64,
    files: AtomicU64,
}

impl MemScratch {
    /// A disk that takes `bytes_max` bytes at once.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            state: Arc::new(State {
                bytes_left: Mutex::new(bytes_max),
                reads_left: AtomicU64::new(u64::MAX),
                files: AtomicU64::new(0),
            }),
        }
    }

    /// Lets all reads fail after so many.
    pub fn fail_after_reads(&self, reads: u64) {
        self.state.reads_left.store(reads, Ordering::Relaxed);
    }

    /// Files that are there now.
    pub fn files(&self) -> u64 {
        self.state.files.load(Ordering::Relaxed)
    }
}

impl Scratch for MemScratch {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
        self.state.files.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(MemFile {
            state: self.state.clone(),
            bytes: Vec::new(),
        }))
    }
}

#[derive(Debug)]
struct MemFile {
    state: Arc<State>,
    bytes: Vec<u8>,
}

impl ScratchFile for MemFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(offset, self.bytes.len() as u64, "writes are at the end");
        let mut left = self
            .state
            .bytes_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *left = left
            .checked_sub(bytes.len() as u64)
            .ok_or(io::ErrorKind::StorageFull)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let left = &self.state.reads_left;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .map_err(|_| io::Error::other("the disk does not give it back"))?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let there = self.bytes.get(from..from + into.len());
        into.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        self.state.files.fetch_sub(1, Ordering::Relaxed);
        *self
            .state
            .bytes_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += self.bytes.len() as u64;
    }
}
