//! The ordered store on disk: one redb table from bytes to bytes. A failed write or read of the file makes redb
//! refuse everything after it; this store then closes and reopens it, so that a disk that was full for a while
//! costs the operations of that while and nothing else.

use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use ::redb::backends::FileBackend;
use ::redb::{
    BackendError, Builder, CommitError, Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase,
    ReadableTable, StorageBackend, StorageError, Table, TableDefinition, TableError, TransactionError,
};
use prometheus::IntCounter;

use super::rows::{Changed, Found, Rows, hash};
use super::{
    Direction, GetVisitor, Kv, KvRead, KvSnapshot, KvWrite, Range, ReadBody, ScanVisitor, WriteBody,
};
use crate::{Code, Error, Result};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cloudlet");

/// The part of the cache that holds single rows rather than pages: one in so many.
const ROWS_SHARE: usize = 4;

/// Opens the bytes that the store lives in; called once at the start and again after each failure of the medium.
pub type Opener = Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// How to run the store.
#[derive(Debug, Clone)]
pub struct RedbOptions {
    /// Bytes of cache, for pages and rows.
    pub cache_bytes: usize,
    /// Save the allocator's state with each commit: opening after a crash is then immediate instead of a walk over
    /// the file, and each commit needs a second fsync.
    pub quick_repair: bool,
    /// Counts the fsyncs.
    pub fsyncs: IntCounter,
}

/// An ordered store in a redb database.
pub struct RedbKv {
    open: Opener,
    options: RedbOptions,
    database: RwLock<Opened>,
}

/// The database, or nothing while the medium can't be opened again.
struct Opened {
    /// How many times it was opened, so that of many who saw it fail one reopens it.
    generation: u64,
    /// The newest committed state, once a read has opened it: reads share it until the next commit, for a
    /// transaction of its own costs a short read more than the rest of it does. It keeps the pages of one commit
    /// from being reused by the next, no more, since nothing newer is committed while it is here. Dropped before the
    /// database.
    newest: RwLock<Option<Arc<Committed>>>,
    /// Rows of that state.
    rows: Arc<Rows>,
    database: Option<Database>,
}

/// The table as some commit left it.
struct Committed {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// The state's number among the cached rows.
    state: u64,
}

impl Opened {
    fn new(database: Database, options: &RedbOptions) -> Self {
        Self {
            generation: 0,
            newest: RwLock::default(),
            rows: Arc::new(Rows::new(options.cache_bytes / ROWS_SHARE)),
            database: Some(database),
        }
    }

    /// The table as the newest commit left it.
    fn newest(&self, database: &Database) -> Result<Arc<Committed>, Failure> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = &*newest {
            return Ok(committed.clone());
        }
        drop(newest);
        // Opened under the lock that `forget` waits for, so that what is older than a commit never stays after it.
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = &*newest {
            return Ok(committed.clone());
        }
        let transaction = database.begin_read().map_err(transaction_failed)?;
        let committed = Arc::new(Committed {
            table: transaction.open_table(TABLE).map_err(table_failed)?,
            state: self.rows.state(),
        });
        *newest = Some(committed.clone());
        Ok(committed)
    }

    /// A view of it for one reader.
    fn view(&self, database: &Database) -> Result<View, Failure> {
        Ok(View {
            committed: self.newest(database)?,
            rows: self.rows.clone(),
            failed: Cell::new(false),
        })
    }

    /// Lets go of the newest state: there is a newer one that differs in these keys, or the database goes.
    fn forget(&self, changed: &Changed) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        self.rows.advance(changed);
        let committed = newest.take();
        drop(newest);
        // The transaction may end here: not under the lock.
        drop(committed);
    }
}

impl RedbKv {
    /// Opens or makes the store in the file at `path`.
    ///
    /// # Errors
    /// When another process or another store has it open, when it is not such a file or a damaged one, or when it
    /// can't be read or written.
    pub fn open(path: &Path, options: RedbOptions) -> Result<Self> {
        let file = path.to_owned();
        let opener = Box::new(move || open_file(&file));
        Self::with_opener(opener, options).map_err(|error| {
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
        let mut opened = self.database.write().unwrap_or_else(PoisonError::into_inner);
        opened.forget(&Changed::all());
        let Some(database) = &mut opened.database else {
            return Err(closed());
        };
        // As at opening: some damage makes a debug build of redb panic.
        let checked = catch_unwind(AssertUnwindSafe(|| database.check_integrity()));
        match checked {
            Ok(Ok(well)) => Ok(well),
            Ok(Err(error)) => match Failure::from(error) {
                Failure::Body(error) | Failure::Medium(error) => Err(error),
            },
            Err(_) => Err(damaged("its pages contradict each other")),
        }
    }

    /// Opens or makes the store in whatever `open` gives.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_opener(open: Opener, options: RedbOptions) -> Result<Self> {
        let opened = Opened::new(open_database(&open, &options)?, &options);
        Ok(Self {
            open,
            options,
            database: RwLock::new(opened),
        })
    }

    /// Runs `body` on the open database and reopens it if that fails by the medium.
    fn with_database(&self, body: impl FnOnce(&Opened, &Database) -> Result<(), Failure>) -> Result<()> {
        let (generation, result) = {
            let opened = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &opened.database {
                Some(database) => body(&opened, database),
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
        let mut opened = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if opened.generation != failed_generation {
            return;
        }
        // The old one must let go of the file before it can be opened again.
        opened.forget(&Changed::all());
        opened.database = None;
        match open_database(&self.open, &self.options) {
            Ok(database) => {
                opened.database = Some(database);
                opened.generation += 1;
                tracing::warn!("the database file was opened again after a failure of the disk");
            }
            Err(error) => {
                tracing::error!(error = %error, "the database file can't be opened again after a failure of the disk");
            }
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
        self.with_database(|opened, database| {
            let view = opened.view(database)?;
            let result = body(&view);
            judge(&view.failed, result)
        })
    }

    fn snapshot(&self) -> Result<Box<KvSnapshot>> {
        let mut snapshot: Option<Box<KvSnapshot>> = None;
        self.with_database(|opened, database| {
            snapshot = Some(Box::new(opened.view(database)?));
            Ok(())
        })?;
        snapshot.ok_or_else(|| Error::new(Code::InternalError, "the store gave no snapshot"))
    }

    fn write(&self, body: &mut WriteBody<'_>) -> Result<()> {
        self.with_database(|opened, database| {
            let mut transaction = database.begin_write().map_err(transaction_failed)?;
            transaction
                .set_durability(Durability::Immediate)
                .map_err(|error| Failure::Medium(Error::new(Code::InternalError, error.to_string())))?;
            if self.options.quick_repair {
                transaction.set_quick_repair(true);
            }
            let changed = {
                let table = transaction.open_table(TABLE).map_err(table_failed)?;
                let mut view = WriteView {
                    table,
                    failed: Cell::new(false),
                    changed: None,
                };
                let result = body(&mut view);
                judge(&view.failed, result)?;
                view.changed
            };
            let Some(changed) = changed else {
                return transaction.abort().map_err(storage_failed);
            };
            // Readers keep to this state until the commit is done and the cached rows that it changed are gone. For
            // redb it is a reader, whose pages wait for the next commit to be free: a pass less over them after this one.
            opened.newest(database)?;
            let committed = transaction.commit();
            opened.forget(&changed);
            committed.map_err(commit_failed)
        })
    }
}

/// Notes that the medium failed under a view.
fn fail(failed: &Cell<bool>, error: StorageError) -> Error {
    failed.set(true);
    storage_error(error)
}

/// What a body's result means, whose view tells whether the medium failed under it.
fn judge(failed: &Cell<bool>, result: Result<()>) -> Result<(), Failure> {
    match result {
        Ok(()) if !failed.get() => Ok(()),
        // A body that swallows a failure of the medium does not get its changes committed.
        Ok(()) => Err(Failure::Medium(closed())),
        Err(error) if failed.get() => Err(Failure::Medium(error)),
        Err(error) => Err(Failure::Body(error)),
    }
}

type Row<'r> = (
    ::redb::AccessGuard<'r, &'static [u8]>,
    ::redb::AccessGuard<'r, &'static [u8]>,
);

fn scan_rows<'r>(
    mut rows: impl DoubleEndedIterator<Item = Result<Row<'r>, StorageError>>,
    failed: &Cell<bool>,
    direction: Direction,
    visit: &mut ScanVisitor<'_>,
) -> Result<()> {
    while let Some(row) = match direction {
        Direction::Forward => rows.next(),
        Direction::Backward => rows.next_back(),
    } {
        let (key, value) = row.map_err(|error| fail(failed, error))?;
        if visit(key.value(), value.value()).is_break() {
            break;
        }
    }
    Ok(())
}

/// A committed state as a view, remembering whether the medium failed under it.
struct View {
    committed: Arc<Committed>,
    rows: Arc<Rows>,
    failed: Cell<bool>,
}

impl KvRead for View {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        let Committed { table, state } = &*self.committed;
        let hash = hash(key);
        let found = self.rows.get(*state, hash, key);
        if let Found::Hit(value) = found {
            visit(value.bytes());
            return Ok(true);
        }
        let Some(value) = table.get(key).map_err(|error| fail(&self.failed, error))? else {
            return Ok(false);
        };
        let value = value.value();
        if matches!(found, Found::Wanted) {
            self.rows.put(*state, hash, key, value);
        }
        visit(value);
        Ok(true)
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = range.as_bounds();
        let rows = self.committed.table.range::<&[u8]>(bounds);
        let rows = rows.map_err(|error| fail(&self.failed, error))?;
        scan_rows(rows, &self.failed, direction, visit)
    }
}

struct WriteView<'t> {
    table: Table<'t, &'static [u8], &'static [u8]>,
    failed: Cell<bool>,
    /// The keys that were changed, if any was.
    changed: Option<Changed>,
}

impl WriteView<'_> {
    fn change(&mut self, key: &[u8]) {
        self.changed.get_or_insert_default().add(hash(key));
    }
}

impl KvRead for WriteView<'_> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        let found = self.table.get(key).map_err(|error| fail(&self.failed, error))?;
        Ok(found.map(|value| visit(value.value())).is_some())
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = range.as_bounds();
        let rows = self.table.range::<&[u8]>(bounds);
        let rows = rows.map_err(|error| fail(&self.failed, error))?;
        scan_rows(rows, &self.failed, direction, visit)
    }
}

impl KvWrite for WriteView<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.change(key);
        let outcome = self.table.insert(key, value).map(drop);
        outcome.map_err(|error| fail(&self.failed, error))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.change(key);
        let outcome = self.table.remove(key).map(drop);
        outcome.map_err(|error| fail(&self.failed, error))
    }
}

/// The file, its name made durable if it is new.
fn open_file(path: &Path) -> io::Result<Box<dyn StorageBackend>> {
    let new = !path.exists();
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

fn open_database(open: &Opener, options: &RedbOptions) -> Result<Database> {
    let inner = open().map_err(|error| storage_error(StorageError::Io(error)))?;
    let backend = Counted {
        inner,
        fsyncs: options.fsyncs.clone(),
    };
    // redb panics rather than erring on some damaged files when it was built with debug assertions.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = Builder::new()
            .set_cache_size(options.cache_bytes - options.cache_bytes / ROWS_SHARE)
            .create_with_backend(backend)?;
        make_table(&database)?;
        Ok(database)
    }));
    opened
        .unwrap_or_else(|_| Err(Failure::Medium(damaged("its pages contradict each other"))))
        .map_err(|failure| match failure {
            Failure::Body(error) | Failure::Medium(error) => error,
        })
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
    let transaction = database.begin_write().map_err(transaction_failed)?;
    transaction.open_table(TABLE).map(drop).map_err(table_failed)?;
    transaction.commit().map_err(commit_failed)
}

/// Why something could not be done: by the body's own doing, or the medium's.
enum Failure {
    Body(Error),
    Medium(Error),
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        Failure::Medium(match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Error::new(
                Code::DBPathInUse,
                "another node or process has it open; stop that one, or give this one a data directory of its own",
            ),
            DatabaseError::UpgradeRequired(version) => Error::new(
                Code::UnsupportedFormat,
                format!("it is in format {version} of an older redb, which this program can't read"),
            ),
            DatabaseError::Storage(error) => storage_error(error),
            other => Error::new(Code::InternalError, other.to_string()),
        })
    }
}

fn storage_failed(error: StorageError) -> Failure {
    Failure::Medium(storage_error(error))
}

fn transaction_failed(error: TransactionError) -> Failure {
    match error {
        TransactionError::Storage(error) => storage_failed(error),
        other => Failure::Medium(Error::new(Code::InternalError, other.to_string())),
    }
}

fn table_failed(error: TableError) -> Failure {
    match error {
        TableError::Storage(error) => storage_failed(error),
        other => Failure::Medium(Error::new(Code::InternalError, other.to_string())),
    }
}

fn commit_failed(error: CommitError) -> Failure {
    match error {
        CommitError::Storage(error) => storage_failed(error),
        other => Failure::Medium(Error::new(Code::InternalError, other.to_string())),
    }
}

fn storage_error(error: StorageError) -> Error {
    match error {
        StorageError::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged(&error.to_string()),
        StorageError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            damaged("it ends too early")
        }
        StorageError::Io(error) => Error::new(
            Code::OutOfDiskSpace,
            format!("the disk is full or failing: {error}"),
        ),
        StorageError::PreviousIo | StorageError::DatabaseClosed => closed(),
        StorageError::Corrupted(what) => damaged(&what),
        other => Error::new(Code::InternalError, format!("the store failed: {other}")),
    }
}

fn damaged(what: &str) -> Error {
    Error::new(
        Code::UnsupportedFormat,
        format!("not a database file of cloudlet, or a damaged one: {what}"),
    )
}

fn closed() -> Error {
    Error::new(
        Code::OutOfDiskSpace,
        "the disk is full or failing: the database file was closed after an i/o error",
    )
}

/// A backend whose fsyncs are counted.
#[derive(Debug)]
struct Counted {
    inner: Box<dyn StorageBackend>,
    fsyncs: IntCounter,
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
