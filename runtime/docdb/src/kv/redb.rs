//! The ordered store on disk: one redb table from bytes to bytes, and a log. A commit is a record in the log and rows
//! in memory; a checkpoint brings those rows into the table by one durable commit of redb's, and the log starts over.
//! A failed write or read of a file makes redb or the log refuse everything after it; this store then closes and
//! reopens both, so that a disk that was full for a while costs the operations of that while and nothing else.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ::redb::{Builder, Database, ReadableDatabase, TableDefinition, TableError, WriteTransaction};
use prometheus::IntCounter;

use super::delta::Delta;
use super::failure::{
    Failure, closed, commit_failed, damaged, storage_failed, table_failed, transaction_failed,
};
use super::file::{Counted, Opener, Part, files};
use super::log::{Contents, Log, LogId, record_bytes};
use super::overlay::Changes;
use super::rows::{Changed, Rows};
use super::view::{Committed, Outcome, Straight, TABLE, View, WriteView, apply, begin, judge};
use super::{Kv, KvSnapshot, ReadBody, WriteBody};
use crate::{Code, Error, Result};

/// What is known of the log, out of the keyspace's sight.
const LOG_TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cloudlet-log");
/// Its only row: id (16 bytes), sequence (8, little-endian), 1 when the log is in use.
const LOG_KEY: &[u8] = b"log";
const NOTED_BYTES: usize = 25;

/// The part of the cache that holds single rows rather than pages: one in so many.
const ROWS_SHARE: usize = 4;

/// Bytes of the log when nobody says otherwise. It bounds the memory for what no checkpoint has yet, the time of a
/// checkpoint, which writers wait for, and that of opening after a crash.
pub const LOG_BYTES: u64 = 8 << 20;

/// Bytes of memory for each byte of the log that rows may take until a checkpoint: small rows take more there.
const DELTA_BYTES_PER_LOG_BYTE: u64 = 2;

/// How to run the store.
#[derive(Debug, Clone)]
pub struct RedbOptions {
    /// Bytes of cache, for pages and rows.
    pub cache_bytes: usize,
    /// Bytes of the log, 16 KiB at least: a checkpoint comes when it is full.
    pub log_bytes: u64,
    /// What the log is named by if it is made: random bytes, so that no log passes for that of another database.
    pub log_id: [u8; 16],
    /// Counts the fsyncs.
    pub fsyncs: IntCounter,
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

/// The open files. What refers to the database is dropped before it.
struct Store {
    newest: RwLock<Newest>,
    /// Rows of the newest committed state.
    rows: Arc<Rows>,
    /// Held by whoever writes.
    writing: Mutex<Writing>,
    database: Database,
}

/// The newest committed state.
struct Newest {
    /// Opened by the first read after each checkpoint. Reads share it until the next commit, for a transaction of
    /// redb's costs a short read more than the rest of it does. It keeps the pages of one checkpoint from being reused
    /// by the next, no more, since nothing newer is in the table while it is here.
    committed: Option<Arc<Committed>>,
    delta: Arc<Delta>,
    sequence: u64,
}

/// What writing takes.
struct Writing {
    /// The log, once something was written.
    log: Option<Log>,
    /// What redb knows of it.
    noted: Noted,
    /// The length of the log that is there from before, if it can be used again.
    reusable_bytes: Option<u64>,
    /// Whether the log was taken into use since the files were opened.
    begun: bool,
    /// What a write or fsync left is not known: nothing may follow it before the files were opened again, also not by
    /// another thread that comes before that.
    uncertain: bool,
}

/// What the database notes of its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Noted {
    id: Option<LogId>,
    /// The sequence of the newest commit that is in the table.
    sequence: u64,
    /// Whether there may be later ones in the log: it was not closed since.
    in_use: bool,
}

impl Store {
    fn open(open: &Opener, options: &RedbOptions, acknowledged: u64) -> Result<Self, Failure> {
        let backend = open_part(open, Part::Database, options)?;
        let backend = backend.ok_or_else(|| Failure::Medium(damaged("it is not there")))?;
        let database = Builder::new()
            .set_cache_size(options.cache_bytes - options.cache_bytes / ROWS_SHARE)
            .create_with_backend(backend)?;
        make_table(&database)?;
        let noted = Noted::read(&database)?;
        let delta = Delta::default();
        let writing = Writing::open(open, options, noted, acknowledged, &delta)?;
        let sequence = writing.log.as_ref().map_or(noted.sequence, Log::sequence);
        Ok(Self {
            newest: RwLock::new(Newest {
                committed: None,
                delta: Arc::new(delta),
                sequence,
            }),
            rows: Arc::new(Rows::new(options.cache_bytes / ROWS_SHARE)),
            writing: Mutex::new(writing),
            database,
        })
    }

    /// The newest committed state.
    fn newest(&self) -> Result<Arc<Committed>, Failure> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = &newest.committed {
            return Ok(committed.clone());
        }
        drop(newest);
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = &newest.committed {
            return Ok(committed.clone());
        }
        let transaction = self.database.begin_read().map_err(transaction_failed)?;
        let committed = Arc::new(Committed {
            table: Arc::new(transaction.open_table(TABLE).map_err(table_failed)?),
            delta: newest.delta.clone(),
            sequence: newest.sequence,
            state: self.rows.state(),
        });
        newest.committed = Some(committed.clone());
        Ok(committed)
    }

    /// A view of it for one reader.
    fn view(&self) -> Result<View, Failure> {
        Ok(View {
            committed: self.newest()?,
            rows: self.rows.clone(),
            failed: Cell::new(false),
        })
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, open: &Opener, options: &RedbOptions, body: &mut WriteBody<'_>) -> Result<(), Failure> {
        let mut writing = self.writing();
        if writing.uncertain {
            return Err(Failure::Medium(closed()));
        }
        let view = self.view()?;
        let transaction = Straight::new();
        // The first write of a database goes to redb straight: by it the engine raises the version of the format, which
        // has to keep out programs that know of no log before there is anything in one.
        let record_bytes_max = match writing.noted.id {
            Some(_) => Log::record_bytes_max(options.log_bytes),
            None => 0,
        };
        let mut tx = WriteView::new(&view, &self.database, &transaction, record_bytes_max);
        let result = body(&mut tx);
        judge(tx.failed(), result)?;
        match tx.finish() {
            Outcome::Nothing => Ok(()),
            Outcome::Held(changes, changed) => {
                writing.begin(&self.database, open, options)?;
                let bytes = changes
                    .iter()
                    .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
                let record_bytes = record_bytes(changes.len(), bytes.sum());
                let delta_bytes_max = options.log_bytes.saturating_mul(DELTA_BYTES_PER_LOG_BYTE);
                let delta_is_full = view.committed.delta.bytes() as u64 > delta_bytes_max;
                if delta_is_full || !writing.log()?.has_room(record_bytes) {
                    self.checkpoint(&mut writing, true)?;
                }
                writing.uncertain = true;
                let sequence = writing.log()?.append(&changes)?;
                writing.uncertain = false;
                self.publish(sequence, changes, &changed)
            }
            Outcome::Straight(changed) => {
                let transaction = transaction.into_inner();
                let transaction = transaction.ok_or_else(|| Failure::Medium(closed()))?;
                let in_use = writing.log.is_some();
                writing.noted.id.get_or_insert(options.log_id);
                self.commit(&mut writing, transaction, in_use, &changed)
            }
        }
    }

    /// Shows readers what the commit of `sequence` changed, which is on disk.
    fn publish(&self, sequence: u64, changes: Changes, changed: &Changed) -> Result<(), Failure> {
        let before = self.newest()?;
        // Nobody sees it before there is a state of its sequence.
        before.delta.add(sequence, changes);
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        self.rows.advance(changed);
        newest.sequence = sequence;
        newest.committed = Some(Arc::new(Committed {
            table: before.table.clone(),
            delta: before.delta.clone(),
            sequence,
            state: self.rows.state(),
        }));
        Ok(())
    }

    /// Brings what the log has into the table, durably, and lets the log start over, or go out of use.
    fn checkpoint(&self, writing: &mut Writing, in_use: bool) -> Result<(), Failure> {
        let delta = self.newest()?.delta.clone();
        let transaction = begin(&self.database)?;
        let mut table = transaction.open_table(TABLE).map_err(table_failed)?;
        apply(&delta, &mut table)?;
        drop(table);
        self.commit(writing, transaction, in_use, &Changed::default())
    }

    /// Commits a transaction that has everything that the log has, and changed rows beyond that or none.
    fn commit(
        &self,
        writing: &mut Writing,
        transaction: WriteTransaction,
        in_use: bool,
        changed: &Changed,
    ) -> Result<(), Failure> {
        let sequence = writing.log.as_ref().map_or(writing.noted.sequence, Log::sequence);
        let noted = Noted {
            id: writing.noted.id,
            sequence,
            in_use,
        };
        noted.write(&transaction)?;
        writing.uncertain = true;
        transaction.commit().map_err(commit_failed)?;
        writing.uncertain = false;
        writing.noted = noted;
        if let Some(log) = &mut writing.log {
            log.start_over();
        }
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if !changed.is_empty() {
            self.rows.advance(changed);
        }
        let before = newest.committed.take();
        newest.delta = Arc::default();
        drop(newest);
        // The transaction may end here: not under the lock.
        drop(before);
        Ok(())
    }
}

impl Writing {
    /// Opens the log, if there is one, and brings into `delta` what redb has not.
    /// Those up to `acknowledged` need not be made durable once more, which a full disk might refuse.
    fn open(
        open: &Opener,
        options: &RedbOptions,
        noted: Noted,
        acknowledged: u64,
        delta: &Delta,
    ) -> Result<Self, Failure> {
        let mut writing = Self {
            log: None,
            noted,
            reusable_bytes: None,
            begun: false,
            uncertain: false,
        };
        let refused = |what: &str| Err(Failure::Medium(damaged(what)));
        let file = open_part(open, Part::Log, options)?;
        let contents = match &file {
            Some(file) => Contents::read(file)?,
            None => None,
        };
        let (Some(file), Some(contents)) = (file, contents) else {
            if noted.in_use {
                return refused(
                    "it was not closed, and its log is not beside it, which has the newest commits; put both files \
                     where they were together",
                );
            }
            return Ok(writing);
        };
        if noted.in_use {
            if noted.id != Some(contents.id) {
                return refused("the log beside it is that of another database");
            }
            let (end, sequence) = contents.replay(noted.sequence, &mut |record| {
                delta.add(record.sequence, record.changes);
                Ok(())
            })?;
            let log = Log::resume(file, &contents, end, sequence, sequence <= acknowledged)?;
            writing.log = Some(log);
            return Ok(writing);
        }
        // Closed in order, or older than logs. What another log has must not be lost by writing over it.
        let after = if noted.id == Some(contents.id) {
            noted.sequence
        } else {
            0
        };
        if contents.has_newer(after) {
            return refused(
                "the log beside it has commits that it does not know: one of the two is a copy of another time, or \
                 of another database. If the log is not needed, move it away",
            );
        }
        if noted.id == Some(contents.id) {
            writing.reusable_bytes = Some(contents.len());
        }
        Ok(writing)
    }

    fn log(&mut self) -> Result<&mut Log, Failure> {
        self.log.as_mut().ok_or_else(|| Failure::Medium(closed()))
    }

    /// Takes the log into use: makes it where there is none, and notes that there may be commits in it that the database
    /// has not. Of a log that is in use since before, too: if an fsync had failed, the last commit of redb's may be what
    /// is read and not what is on the disk, and records would be written over that it needs.
    fn begin(&mut self, database: &Database, open: &Opener, options: &RedbOptions) -> Result<(), Failure> {
        if self.begun {
            return Ok(());
        }
        let id = *self.noted.id.get_or_insert(options.log_id);
        let log = match self.log.take() {
            Some(log) => log,
            None => {
                let file = open_part(open, Part::NewLog, options)?;
                let file = file.ok_or_else(|| Failure::Medium(closed()))?;
                let sequence = self.noted.sequence;
                match self.reusable_bytes.take() {
                    Some(len) if len == Log::len_of(options.log_bytes) => Log::take(file, id, len, sequence)?,
                    _ => Log::make(file, id, options.log_bytes, sequence)?,
                }
            }
        };
        let noted = Noted {
            id: Some(id),
            sequence: self.noted.sequence,
            in_use: true,
        };
        let transaction = begin(database)?;
        noted.write(&transaction)?;
        self.uncertain = true;
        transaction.commit().map_err(commit_failed)?;
        self.uncertain = false;
        self.noted = noted;
        self.log = Some(log);
        self.begun = true;
        Ok(())
    }
}

impl Noted {
    fn read(database: &Database) -> Result<Self, Failure> {
        let reading = database.begin_read().map_err(transaction_failed)?;
        let table = match reading.open_table(LOG_TABLE) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Self::default()),
            Err(error) => return Err(table_failed(error)),
        };
        let Some(row) = table.get(LOG_KEY).map_err(storage_failed)? else {
            return Ok(Self::default());
        };
        let row: &[u8; NOTED_BYTES] = row
            .value()
            .try_into()
            .map_err(|_| Failure::Medium(damaged("what it notes of its log is of an unknown form")))?;
        let [id @ .., _, _, _, _, _, _, _, _, in_use] = row;
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&row[16..24]);
        Ok(Self {
            id: Some(*id),
            sequence: u64::from_le_bytes(sequence),
            in_use: *in_use != 0,
        })
    }

    fn write(&self, transaction: &WriteTransaction) -> Result<(), Failure> {
        let Some(id) = self.id else {
            return Ok(());
        };
        let mut row = Vec::with_capacity(NOTED_BYTES);
        row.extend_from_slice(&id);
        row.extend_from_slice(&self.sequence.to_le_bytes());
        row.push(u8::from(self.in_use));
        let mut table = transaction.open_table(LOG_TABLE).map_err(table_failed)?;
        table.insert(LOG_KEY, row.as_slice()).map_err(storage_failed)?;
        Ok(())
    }
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
        let newest = store.newest.get_mut().unwrap_or_else(PoisonError::into_inner);
        newest.committed = None;
        // As at opening: some damage makes a debug build of redb panic.
        let checked = catch_unwind(AssertUnwindSafe(|| store.database.check_integrity()));
        match checked {
            Ok(Ok(well)) => Ok(well),
            Ok(Err(error)) => Err(Failure::from(error).into_error()),
            Err(_) => Err(damaged("its pages contradict each other")),
        }
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
            let sequence = store.writing().log.as_ref().map_or(0, Log::sequence);
            opened.acknowledged = opened.acknowledged.max(sequence);
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
        let mut writing = store.writing();
        if writing.log.is_some()
            && !writing.uncertain
            && let Err(failure) = store.checkpoint(&mut writing, false)
        {
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
}

/// Opens a file and has its fsyncs counted.
fn open_part(open: &Opener, part: Part, options: &RedbOptions) -> Result<Option<Counted>, Failure> {
    Ok(open(part)?.map(|inner| Counted {
        inner,
        fsyncs: options.fsyncs.clone(),
    }))
}

fn open_store(open: &Opener, options: &RedbOptions, acknowledged: u64) -> Result<Store> {
    // redb panics rather than erring on some damaged files when it was built with debug assertions.
    let opened = catch_unwind(AssertUnwindSafe(|| Store::open(open, options, acknowledged)));
    opened
        .unwrap_or_else(|_| Err(Failure::Medium(damaged("its pages contradict each other"))))
        .map_err(Failure::into_error)
}

/// Makes the table in a new database: reads refuse one that is not there.
fn make_table(database: &Database) -> Result<(), Failure> {
    let reading = database.begin_read().map_err(transaction_failed)?;
    match reading.open_table(TABLE) {
        Ok(_) => return Ok(()),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(table_failed(error)),
    }
    if reading.list_tables().map_err(storage_failed)?.next().is_some() {
        return Err(Failure::Medium(Error::new(
            Code::UnsupportedFormat,
            "this is a redb database of some other program; give cloudlet a file of its own",
        )));
    }
    let transaction = begin(database)?;
    transaction.open_table(TABLE).map(drop).map_err(table_failed)?;
    transaction.commit().map_err(commit_failed)
}
