//! Stores that misbehave on purpose, by seed: a disk that loses, tears and refuses writes under the store; two stores
//! in step; a store that fails and conflicts. For the tests of this crate and of those above it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::StorageBackend;
use cloudlet_base::SeededEntropy;

use super::{
    Direction, GetVisitor, Kv, KvRead, KvSnapshot, KvWrite, Opener, Part, Range, ReadBody, ScanVisitor,
    WriteBody,
};
use crate::{Code, Error, Result};

/// What a disk writes or loses as a whole.
const SECTOR_BYTES: usize = 512;
/// What a file system gives a file at a time.
const BLOCK_BYTES: u64 = 4096;

/// A disk in memory that holds the files of one store, and knows which of their bytes would survive a power failure.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<DiskState>>);

struct DiskState {
    database: FileState,
    log: FileState,
    blocks_max: Option<usize>,
    syncs_until_failure: Option<u32>,
    /// Writes and syncs until the power fails by itself.
    calls_until_crash: Option<u32>,
    /// Syncs are answered and not carried out.
    lying: bool,
    /// Raised by a crash; handles of an older one are dead.
    generation: u64,
    chance: SeededEntropy,
}

#[derive(Default)]
struct FileState {
    /// Whether it was made. Its name is durable from then on.
    there: bool,
    /// What survives.
    durable: Vec<u8>,
    /// What a reader sees now.
    current: Vec<u8>,
    /// Written since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
    /// Blocks that the file system has given the file.
    blocks: BTreeSet<u64>,
}

impl Disk {
    /// An empty disk whose faults follow `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(DiskState {
            database: FileState::default(),
            log: FileState::default(),
            blocks_max: None,
            syncs_until_failure: None,
            calls_until_crash: None,
            lying: false,
            generation: 0,
            chance: SeededEntropy::new(seed),
        })))
    }

    /// Opens the files for [`RedbKv`](super::RedbKv).
    pub fn opener(&self) -> Opener {
        let disk = self.clone();
        Box::new(move |part| {
            let mut state = disk.lock();
            let generation = state.generation;
            let which = Which::of(part);
            let file = state.file(which);
            if part == Part::Log && !file.there {
                return Ok(None);
            }
            file.there = true;
            Ok(Some(Box::new(Handle {
                disk: disk.clone(),
                which,
                generation,
            }) as Box<dyn StorageBackend>))
        })
    }

    /// Cuts the power: of what was not synced, any 512 bytes may be there or not. Open handles die.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// Cuts the power at the write or sync after `more` others.
    pub fn crash_after(&self, more: u32) {
        self.lock().calls_until_crash = Some(more);
    }

    /// Whether a crash that was ordered has not come yet.
    pub fn is_crash_pending(&self) -> bool {
        self.lock().calls_until_crash.is_some()
    }

    /// Answers syncs from now on without carrying them out: the fault that no database survives, by which a test
    /// shows that it would notice.
    pub fn lie(&self) {
        self.lock().lying = true;
    }

    /// Lets the files have no more than `bytes` together from now on; `None` is no limit.
    pub fn limit(&self, bytes: Option<u64>) {
        self.lock().blocks_max =
            bytes.map(|bytes| usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX));
    }

    /// Bytes that the files have now.
    pub fn used_bytes(&self) -> u64 {
        self.lock().blocks() as u64 * BLOCK_BYTES
    }

    /// Lets the sync after `more` others fail, once. Of what it should have made durable, any 512 bytes never are, though
    /// readers see them, unless they are written again: as on a Linux whose disk failed for a moment.
    pub fn fail_sync_after(&self, more: u32) {
        self.lock().syncs_until_failure = Some(more);
    }

    /// Changes a file while nobody has it open.
    pub fn edit(&self, part: Part, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let file = state.file(Which::of(part));
        change(&mut file.current);
        file.durable.clone_from(&file.current);
        file.pending.clear();
    }

    /// Removes the log while nobody has it open.
    pub fn remove_log(&self) {
        self.lock().log = FileState::default();
    }

    /// Another disk with the same files on it.
    pub fn copy(&self) -> Self {
        let state = self.lock();
        let copy = Self::new(0);
        let of = |file: &FileState| FileState {
            there: file.there,
            durable: file.current.clone(),
            current: file.current.clone(),
            ..FileState::default()
        };
        (copy.lock().database, copy.lock().log) = (of(&state.database), of(&state.log));
        copy
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Database,
    Log,
}

impl Which {
    fn of(part: Part) -> Self {
        match part {
            Part::Database => Self::Database,
            Part::Log | Part::NewLog => Self::Log,
        }
    }
}

impl DiskState {
    fn file(&mut self, which: Which) -> &mut FileState {
        match which {
            Which::Database => &mut self.database,
            Which::Log => &mut self.log,
        }
    }

    fn blocks(&self) -> usize {
        self.database.blocks.len() + self.log.blocks.len()
    }

    fn crash(&mut self) {
        for file in [&mut self.database, &mut self.log] {
            file.crash(&self.chance);
        }
        self.syncs_until_failure = None;
        self.calls_until_crash = None;
        self.generation += 1;
    }

    /// Counts a write or sync towards the crash that was ordered.
    fn call(&mut self) -> io::Result<()> {
        match &mut self.calls_until_crash {
            Some(0) => {
                self.crash();
                Err(io::Error::other("the power failed"))
            }
            Some(more) => {
                *more -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl FileState {
    fn crash(&mut self, chance: &SeededEntropy) {
        self.settle(|| chance.next_u64() & 1 == 0);
        self.current.clone_from(&self.durable);
    }

    /// Makes those sectors durable that are `chosen`, and forgets of the others that they were written.
    fn settle(&mut self, mut chosen: impl FnMut() -> bool) {
        self.durable.resize(self.current.len(), 0);
        for (offset, data) in std::mem::take(&mut self.pending) {
            for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                if chosen() {
                    let at = offset + i * SECTOR_BYTES;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    which: Which,
    generation: u64,
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, DiskState>> {
        let state = self.disk.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the power failed"));
        }
        Ok(state)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file(self.which).current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state
            .file(self.which)
            .current
            .get(at..at + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Like ftruncate: it takes no blocks, and journalling keeps the length in order with what is synced.
        let mut state = self.state()?;
        let file = state.file(self.which);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        file.current.resize(len, 0);
        if file.durable.len() > len {
            // Nothing here shrinks a file by bytes that matter; pending writes past the end go with it.
            file.durable.truncate(len);
        }
        file.pending.retain(|(offset, data)| offset + data.len() <= len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.call()?;
        match &mut state.syncs_until_failure {
            Some(0) => {
                state.syncs_until_failure = None;
                let DiskState {
                    database,
                    log,
                    chance,
                    ..
                } = &mut *state;
                let file = match self.which {
                    Which::Database => database,
                    Which::Log => log,
                };
                file.settle(|| chance.next_u64() & 1 == 0);
                return Err(io::Error::other("the disk did not take the data"));
            }
            Some(more) => *more -= 1,
            None => {}
        }
        if !state.lying {
            state.file(self.which).settle(|| true);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.call()?;
        let first = offset / BLOCK_BYTES;
        let last = (offset + data.len() as u64).div_ceil(BLOCK_BYTES);
        let blocks_max = state.blocks_max;
        for block in first..last {
            let is_full = blocks_max.is_some_and(|max| state.blocks() >= max);
            let blocks = &mut state.file(self.which).blocks;
            if !blocks.contains(&block) && is_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            blocks.insert(block);
        }
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let file = state.file(self.which);
        if file.current.len() < at + data.len() {
            file.current.resize(at + data.len(), 0);
        }
        file.current[at..at + data.len()].copy_from_slice(data);
        file.pending.push((at, data.to_vec()));
        Ok(())
    }
}

/// Makes a log one of version 1, as programs before this one left it: one part instead of two halves.
pub fn make_older_log(log: &mut [u8], id: [u8; 16]) {
    let header = super::log::header(id, 1);
    log[..header.len()].copy_from_slice(&header);
}

/// Two stores in step: each answer of the first is compared with the second's, and a difference panics.
pub struct Mirror {
    first: Box<dyn Kv>,
    second: Box<dyn Kv>,
}

impl Mirror {
    /// Runs `first` and `second` in step; both must be empty, or equal.
    pub fn new(first: Box<dyn Kv>, second: Box<dyn Kv>) -> Self {
        Self { first, second }
    }
}

impl Kv for Mirror {
    fn read(&self, body: &mut ReadBody<'_>) -> Result<()> {
        self.first
            .read(&mut |first| self.second.read(&mut |second| body(&Both { first, second })))
    }

    fn snapshot(&self) -> Result<Box<KvSnapshot>> {
        self.first.snapshot()
    }

    fn write(&self, body: &mut WriteBody<'_>) -> Result<()> {
        self.first.write(&mut |first| {
            self.second
                .write(&mut |second| body(&mut BothMut { first, second }))
        })
    }

    fn is_due(&self) -> bool {
        self.first.is_due() || self.second.is_due()
    }

    fn tend(&self) -> Result<()> {
        self.first.tend().and_then(|()| self.second.tend())
    }
}

struct Both<'a> {
    first: &'a dyn KvRead,
    second: &'a dyn KvRead,
}

impl KvRead for Both<'_> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        let mut expected = None;
        self.second
            .get(key, &mut |value| expected = Some(value.to_vec()))?;
        let mut got = None;
        let found = self.first.get(key, &mut |value| {
            got = Some(value.to_vec());
            visit(value);
        })?;
        assert_eq!(got, expected, "the stores differ at {key:?}");
        assert_eq!(found, expected.is_some(), "the stores differ at {key:?}");
        Ok(found)
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        let mut seen = Vec::new();
        let mut stopped = false;
        self.first.scan(range, direction, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        let mut expected = Vec::new();
        self.second.scan(range, direction, &mut |key, value| {
            if stopped && expected.len() == seen.len() {
                return ControlFlow::Break(());
            }
            expected.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        assert_eq!(seen, expected, "the stores differ in {range:?}");
        Ok(())
    }
}

struct BothMut<'a> {
    first: &'a mut dyn KvWrite,
    second: &'a mut dyn KvWrite,
}

impl KvRead for BothMut<'_> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        Both {
            first: &*self.first,
            second: &*self.second,
        }
        .get(key, visit)
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        Both {
            first: &*self.first,
            second: &*self.second,
        }
        .scan(range, direction, visit)
    }
}

impl KvWrite for BothMut<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.first.put(key, value)?;
        self.second.put(key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.first.delete(key)?;
        self.second.delete(key)
    }
}

/// A store that now and then runs a write body twice, as an optimistic one does, fails before a commit, or fails
/// after it with the changes made.
pub struct Shaky {
    inner: Box<dyn Kv>,
    chance: SeededEntropy,
}

impl Shaky {
    /// Shakes `inner` by `seed`.
    pub fn new(inner: Box<dyn Kv>, seed: u64) -> Self {
        Self {
            inner,
            chance: SeededEntropy::new(seed),
        }
    }
}

impl Kv for Shaky {
    fn read(&self, body: &mut ReadBody<'_>) -> Result<()> {
        self.inner.read(body)
    }

    fn snapshot(&self) -> Result<Box<KvSnapshot>> {
        self.inner.snapshot()
    }

    fn write(&self, body: &mut WriteBody<'_>) -> Result<()> {
        let failure = || Error::new(Code::OutOfDiskSpace, "a fault was injected");
        match self.chance.next_u64() % 16 {
            0 => return Err(failure()),
            1 => {
                self.inner.write(body)?;
                return Err(failure());
            }
            2..6 => {
                let mut outcome = Ok(());
                let _ = self.inner.write(&mut |store| {
                    outcome = body(store);
                    Err(failure())
                });
                outcome?;
            }
            _ => {}
        }
        self.inner.write(body)
    }

    fn is_due(&self) -> bool {
        self.inner.is_due()
    }

    fn tend(&self) -> Result<()> {
        self.inner.tend()
    }
}
