//! The ordered store on disk: one redb table from bytes to bytes. A failed write or read of the file makes redb
//! refuse everything after it; this store then closes and reopens it, so that a disk that was full for a while
//! costs the operations of that while and nothing else.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use ::redb::backends::FileBackend;
use ::redb::{
    BackendError, Builder, CommitError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable,
    StorageBackend, StorageError, Table, TableDefinition, TableError, TransactionError,
};
use prometheus::IntCounter;

use super::{
    Direction, GetVisitor, Kv, KvRead, KvSnapshot, KvWrite, Range, ReadBody, ScanVisitor, WriteBody,
};
use crate::{Code, Error, Result};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cloudlet");

/// Opens the bytes that the store lives in; called once at the start and again after each failure of the medium.
pub type Opener = Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// How to run the store.
#[derive(Debug, Clone)]
pub struct RedbOptions {
    /// Bytes of page cache.
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
    database: Option<Database>,
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
        let database = open_database(&open, &options)?;
        Ok(Self {
            open,
            options,
            database: RwLock::new(Opened {
                generation: 0,
                database: Some(database),
            }),
        })
    }

    /// Runs `body` on the open database and reopens it if that fails by the medium.
    fn with_database(&self, body: impl FnOnce(&Database) -> Result<(), Failure>) -> Result<()> {
        let (generation, result) = {
            let opened = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &opened.database {
                Some(database) => body(database),
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
        self.with_database(|database| {
            let transaction = database.begin_read().map_err(transaction_failed)?;
            let table = transaction.open_table(TABLE).map_err(table_failed)?;
            let view = View {
                table,
                failed: false.into(),
            };
            let result = body(&view);
            view.judge(result)
        })
    }

    fn snapshot(&self) -> Result<Box<KvSnapshot>> {
        let mut snapshot: Option<Box<KvSnapshot>> = None;
        self.with_database(|database| {
            let transaction = database.begin_read().map_err(transaction_failed)?;
            let table = transaction.open_table(TABLE).map_err(table_failed)?;
            snapshot = Some(Box::new(View {
                table,
                failed: false.into(),
            }));
            Ok(())
        })?;
        snapshot.ok_or_else(|| Error::new(Code::InternalError, "the store gave no snapshot"))
    }

    fn write(&self, body: &mut WriteBody<'_>) -> Result<()> {
        self.with_database(|database| {
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
                    view: View {
                        table,
                        failed: false.into(),
                    },
                    changed: false,
                };
                let result = body(&mut view);
                view.view.judge(result)?;
                view.changed
            };
            if changed {
                transaction.commit().map_err(commit_failed)
            } else {
                transaction.abort().map_err(storage_failed)
            }
        })
    }
}

/// A table as a view, remembering whether the medium failed under it.
struct View<T> {
    table: T,
    failed: std::cell::Cell<bool>,
}

impl<T> View<T> {
    fn fail(&self, error: StorageError) -> Error {
        self.failed.set(true);
        storage_error(error)
    }

    fn judge(&self, result: Result<()>) -> Result<(), Failure> {
        match result {
            Ok(()) if !self.failed.get() => Ok(()),
            // A body that swallows a failure of the medium does not get its changes committed.
            Ok(()) => Err(Failure::Medium(closed())),
            Err(error) if self.failed.get() => Err(Failure::Medium(error)),
            Err(error) => Err(Failure::Body(error)),
        }
    }
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> KvRead for View<T> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        let found = self.table.get(key).map_err(|error| self.fail(error))?;
        Ok(found.map(|value| visit(value.value())).is_some())
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = range.as_bounds();
        let mut rows = self
            .table
            .range::<&[u8]>(bounds)
            .map_err(|error| self.fail(error))?;
        while let Some(row) = match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        } {
            let (key, value) = row.map_err(|error| self.fail(error))?;
            if visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct WriteView<'t> {
    view: View<Table<'t, &'static [u8], &'static [u8]>>,
    changed: bool,
}

impl KvRead for WriteView<'_> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        self.view.get(key, visit)
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        self.view.scan(range, direction, visit)
    }
}

impl KvWrite for WriteView<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.changed = true;
        let outcome = self.view.table.insert(key, value).map(drop);
        outcome.map_err(|error| self.view.fail(error))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.changed = true;
        let outcome = self.view.table.remove(key).map(drop);
        outcome.map_err(|error| self.view.fail(error))
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
            .set_cache_size(options.cache_bytes)
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
