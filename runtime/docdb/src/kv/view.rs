//! What bodies see of the store: a committed state, which is redb's last durable one and what was committed since, and
//! that state with a transaction's own changes.

use std::cell::{Cell, OnceCell};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::{
    Database, Durability, ReadOnlyTable, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};

use super::delta::Delta;
use super::failure::{Failure, closed, storage_error, table_failed, transaction_failed};
use super::log::record_bytes;
use super::noted::Noted;
use super::overlay::{Changes, Overlay};
use super::rows::{Changed, Found, Rows, hash};
use super::{Direction, GetVisitor, KvRead, KvWrite, Range, ScanVisitor};
use crate::{Code, Error, Result};

/// The keyspace.
pub(super) const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cloudlet");

/// A committed state.
pub(super) struct Committed {
    /// The table as redb's last durable commit left it.
    pub(super) table: Arc<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    /// What was committed since and is being brought into the table, or is to be.
    pub(super) frozen: Option<Arc<Delta>>,
    /// What was committed since that, and may be later than this state.
    pub(super) delta: Arc<Delta>,
    /// The sequence of this state's newest commit.
    pub(super) sequence: u64,
    /// The state's number among the cached rows.
    pub(super) state: u64,
}

/// A committed state as a view, remembering whether the medium failed under it.
pub(super) struct View {
    pub(super) committed: Arc<Committed>,
    pub(super) rows: Arc<Rows>,
    pub(super) failed: Cell<bool>,
}

/// Notes that the medium failed under a view.
fn fail(failed: &Cell<bool>, error: StorageError) -> Error {
    failed.set(true);
    storage_error(error)
}

/// What a body's result means, whose view tells whether the medium failed under it.
pub(super) fn judge(failed: bool, result: Result<()>) -> Result<(), Failure> {
    match result {
        Ok(()) if !failed => Ok(()),
        // A body that swallows a failure of the medium does not get its changes committed.
        Ok(()) => Err(Failure::Medium(closed())),
        Err(error) if failed => Err(Failure::Medium(error)),
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

impl KvRead for View {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        let committed = &*self.committed;
        let hash = hash(key);
        let found = self.rows.get(committed.state, hash, key);
        if let Found::Hit(value) = found {
            visit(value.bytes());
            return Ok(true);
        }
        let mut keep = |value: &[u8]| {
            if matches!(found, Found::Wanted) {
                self.rows.put(committed.state, hash, key, value);
            }
            visit(value);
        };
        let frozen = || committed.frozen.as_ref()?.get(committed.sequence, key);
        if let Some(value) = committed.delta.get(committed.sequence, key).or_else(frozen) {
            return Ok(value.map(|value| keep(&value)).is_some());
        }
        let value = committed
            .table
            .get(key)
            .map_err(|error| fail(&self.failed, error))?;
        Ok(value.map(|value| keep(value.value())).is_some())
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let Committed {
            table,
            frozen,
            delta,
            sequence,
            ..
        } = &*self.committed;
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = range.as_bounds();
        let rows = table.range::<&[u8]>(bounds);
        let rows = rows.map_err(|error| fail(&self.failed, error))?;
        let mut ahead = delta.ahead_of(frozen.as_deref(), *sequence, range, direction);
        let mut next = ahead.next();
        if next.is_none() {
            return scan_rows(rows, &self.failed, direction, visit);
        }
        let precedes = |a: &[u8], b: &[u8]| match direction {
            Direction::Forward => a < b,
            Direction::Backward => a > b,
        };
        let mut stopped = false;
        scan_rows(rows, &self.failed, direction, &mut |key, value| {
            while let Some((newer, change)) = next.take_if(|(newer, _)| precedes(newer, key)) {
                next = ahead.next();
                if change.is_some_and(|value| visit(&newer, &value).is_break()) {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match next.take_if(|(newer, _)| newer == key) {
                None => visit(key, value),
                Some((_, change)) => {
                    next = ahead.next();
                    change.map_or(ControlFlow::Continue(()), |value| visit(key, &value))
                }
            };
            stopped = flow.is_break();
            flow
        })?;
        while let Some((newer, change)) = next.take_if(|_| !stopped) {
            next = ahead.next();
            stopped = change.is_some_and(|value| visit(&newer, &value).is_break());
        }
        Ok(())
    }
}

/// A transaction of redb's, begun when it is needed, and the turn at the table that goes with it.
pub(super) struct Straight<'s> {
    table: &'s Mutex<Noted>,
    begun: OnceCell<(WriteTransaction, MutexGuard<'s, Noted>)>,
}

impl<'s> Straight<'s> {
    /// One that takes its turn at `table`.
    pub(super) fn new(table: &'s Mutex<Noted>) -> Self {
        Self {
            table,
            begun: OnceCell::new(),
        }
    }

    pub(super) fn into_inner(self) -> Option<(WriteTransaction, MutexGuard<'s, Noted>)> {
        self.begun.into_inner()
    }
}

/// A write transaction. Its changes are held in memory, for the log, until they are too many for it: then they go to
/// redb straight.
pub(super) struct WriteView<'t, 's> {
    view: &'t View,
    database: &'t Database,
    straight: &'t Straight<'s>,
    record_bytes_max: u64,
    held: Overlay<'t>,
    held_rows: usize,
    table: Option<Table<'t, &'static [u8], &'static [u8]>>,
    /// The keys that were changed, if any was.
    changed: Option<Changed>,
    failed: Cell<bool>,
}

/// What a write transaction leaves to be committed.
pub(super) enum Outcome {
    /// It changed nothing.
    Nothing,
    /// It changed these rows.
    Held(Changes, Changed),
    /// Its changes and those that the log has are in redb's transaction.
    Straight(Changed),
}

impl<'t, 's> WriteView<'t, 's> {
    pub(super) fn new(
        view: &'t View,
        database: &'t Database,
        straight: &'t Straight<'s>,
        record_bytes_max: u64,
    ) -> Self {
        Self {
            view,
            database,
            straight,
            record_bytes_max,
            held: Overlay::new(view),
            held_rows: 0,
            table: None,
            changed: None,
            failed: Cell::new(false),
        }
    }

    /// Whether the medium failed under it.
    pub(super) fn failed(&self) -> bool {
        self.failed.get() || self.view.failed.get()
    }

    pub(super) fn finish(self) -> Outcome {
        match (self.changed, self.table) {
            (None, _) => Outcome::Nothing,
            (Some(changed), None) => Outcome::Held(self.held.into_changes(), changed),
            (Some(changed), Some(_)) => Outcome::Straight(changed),
        }
    }

    fn change(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.changed.get_or_insert_default().add(hash(key));
        if self.table.is_none() {
            self.held_rows += 1;
            let bytes = self.held.written_bytes() + key.len() + value.map_or(0, <[u8]>::len);
            if record_bytes(self.held_rows, bytes) <= self.record_bytes_max {
                return match value {
                    Some(value) => self.held.put(key, value),
                    None => self.held.delete(key),
                };
            }
            self.go_straight().map_err(|failure| {
                self.failed.set(true);
                failure.into_error()
            })?;
        }
        let Some(table) = &mut self.table else {
            return Err(Error::new(Code::InternalError, "the store has no table to write"));
        };
        set(table, key, value).map_err(|error| fail(&self.failed, error))
    }

    fn go_straight(&mut self) -> Result<(), Failure> {
        let noted = self.straight.table.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = begin(self.database)?;
        let begun = self.straight.begun.get_or_init(|| (transaction, noted));
        let mut table = begun.0.open_table(TABLE).map_err(table_failed)?;
        let Committed { frozen, delta, .. } = &*self.view.committed;
        for delta in frozen.iter().chain([delta]) {
            apply(delta, &mut table)?;
        }
        let held = std::mem::replace(&mut self.held, Overlay::new(self.view));
        for (key, value) in held.into_changes() {
            set(&mut table, &key, value.as_deref()).map_err(super::failure::storage_failed)?;
        }
        self.table = Some(table);
        Ok(())
    }
}

/// Begins a transaction whose commit is durable, and after which opening takes no walk over the file.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, Failure> {
    let mut transaction = database.begin_write().map_err(transaction_failed)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| Failure::Medium(Error::new(Code::InternalError, error.to_string())))?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Brings the newest of `delta` into the table.
pub(super) fn apply(
    delta: &Delta,
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
) -> Result<(), Failure> {
    delta
        .each(|key, value| set(table, key, value))
        .map_err(super::failure::storage_failed)
}

fn set(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), StorageError> {
    match value {
        Some(value) => table.insert(key, value).map(drop),
        None => table.remove(key).map(drop),
    }
}

impl KvRead for WriteView<'_, '_> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        let Some(table) = &self.table else {
            return self.held.get(key, visit);
        };
        let found = table.get(key).map_err(|error| fail(&self.failed, error))?;
        Ok(found.map(|value| visit(value.value())).is_some())
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        let Some(table) = &self.table else {
            return self.held.scan(range, direction, visit);
        };
        if range.is_empty() {
            return Ok(());
        }
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = range.as_bounds();
        let rows = table.range::<&[u8]>(bounds);
        let rows = rows.map_err(|error| fail(&self.failed, error))?;
        scan_rows(rows, &self.failed, direction, visit)
    }
}

impl KvWrite for WriteView<'_, '_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.change(key, Some(value))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.change(key, None)
    }
}
