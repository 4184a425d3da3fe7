//! Transactions of several statements: each runs on a snapshot of the store with the transaction's own changes on
//! top, on a reader thread; the commit replays the changes in the writer's turn, with others in one group commit.
//!
//! Isolation is snapshot isolation; of two transactions that change the same row the first wins. A row changed by a
//! statement is claimed: another transaction that changes it meanwhile gets a write conflict at once. A write outside
//! of any transaction does not wait: it goes through, and the transaction that changed the same row gets its conflict
//! at its next change or its commit. A conflict is found by comparing values: what a changed row holds now against
//! what the snapshot shows, so no history of commits has to be kept.
//!
//! An open transaction holds a snapshot, which keeps the store from reusing space, so its life is bounded
//! (`transaction_lifetime`); one that is over its time, failed a statement or was dropped holds nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bson::RawBson;
use cloudlet_base::Deadline;

use crate::catalog::Catalog;
use crate::collation::Collation;
use crate::docs::{Docs, count_each, distinct_each, on_view};
use crate::engine::Engine;
use crate::exec::build::{self, Progress};
use crate::exec::scan::Meter;
use crate::exec::{self, write};
use crate::feed::Pending;
use crate::kv::{Changes, KvRead, KvSnapshot, Overlay, get_vec};
use crate::lanes::{Reply, Tx, guarded};
use crate::metrics::TransactionEnd;
use crate::ops::*;
use crate::specification::check_index;
use crate::view::Resolved;
use crate::{Code, Error, IndexSpec, Result, pipeline};

/// An open transaction. Cheap to clone; dropping the last clone ends it without effect.
///
/// Statements run one after another; an error of one, also of a single document in it, ends the transaction, as in
/// MongoDB. Nothing is visible to others before the commit, and the commit's reply comes when all of it is durable.
#[derive(Clone)]
pub struct Transaction {
    docs: Docs,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Monotonic time at which it is ended.
    expires: Duration,
}

enum State {
    Open(Box<Open>),
    /// Ended, and why a further statement is refused.
    Ended(&'static str),
}

struct Open {
    snapshot: Box<KvSnapshot>,
    /// The catalog of the snapshot, and the one with the transaction's own changes.
    base: Arc<Catalog>,
    catalog: Arc<Catalog>,
    changes: Changes,
    changed_bytes: usize,
    /// The statements' events, for the commit.
    feed: Pending,
    /// Collections that a statement wrote to.
    written: BTreeSet<Namespace>,
    claims: Claims,
    ends: Ends,
}

/// Counts how a transaction ended, once, when it is let go.
struct Ends {
    how: TransactionEnd,
    engine: Arc<Engine>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.engine.metrics.transaction_ended(self.how);
    }
}

/// The open transactions of an engine: which rows they claim and when they must end.
#[derive(Default)]
pub(crate) struct Transactions {
    inner: Mutex<Table>,
    /// Something began, or the engine closes.
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    next: u64,
    claimed: HashMap<Vec<u8>, u64>,
    open: HashMap<u64, Weak<Shared>>,
    closed: bool,
}

/// The rows that one transaction claims; dropping them lets others have them.
struct Claims {
    table: Arc<Transactions>,
    id: u64,
    rows: Vec<Vec<u8>>,
}

impl Transactions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place among the open ones.
    fn enter(self: &Arc<Self>, max: usize) -> Result<Claims> {
        let mut table = self.lock();
        let open = table.open.len();
        if open >= max {
            let message = format!("{open} transactions are open, and transactions_max is {max}; try again");
            return Err(Error::new(Code::TooManyRequests, message));
        }
        let id = table.next;
        table.next += 1;
        table.open.insert(id, Weak::new());
        Ok(Claims {
            table: self.clone(),
            id,
            rows: Vec::new(),
        })
    }

    /// Ends the transactions whose time is over, whenever there are some, until [`close`](Self::close). Run by a
    /// thread of its own.
    pub(crate) fn sweep(&self, engine: &Engine) {
        let mut table = self.lock();
        while !table.closed {
            let now = engine.clock.monotonic();
            let open: Vec<Arc<Shared>> = table.open.values().filter_map(Weak::upgrade).collect();
            let next = open.iter().map(|shared| shared.expires.saturating_sub(now)).min();
            drop(table);
            // Outside of the lock, for ending one takes its claims out of the table.
            for shared in open {
                if shared.expires <= now {
                    shared.lock().end(TransactionEnd::Expired, EXPIRED);
                }
            }
            table = self.lock();
            table = match next {
                _ if table.closed => table,
                None => self.changed.wait(table).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let waited = self.changed.wait_timeout(table, next.max(SWEEP_MIN));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Shortest time between two looks at the open transactions.
const SWEEP_MIN: Duration = Duration::from_millis(50);

const EXPIRED: &str = "its time was over (transaction_lifetime)";
const FAILED: &str = "a statement of it failed";
const COMMITTED: &str = "its commit was asked for";
const ABORTED: &str = "it was aborted";

impl Claims {
    /// Claims rows that the transaction is the first to change.
    fn take(&mut self, rows: &[Vec<u8>]) -> Result<()> {
        let mut table = self.table.lock();
        for row in rows {
            if table.claimed.get(row).is_some_and(|owner| *owner != self.id) {
                return Err(conflict());
            }
        }
        for row in rows {
            table.claimed.insert(row.clone(), self.id);
            self.rows.push(row.clone());
        }
        Ok(())
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        for row in &self.rows {
            table.claimed.remove(row);
        }
        table.open.remove(&self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The open transaction, unless it has ended or its time is over.
    fn open(&mut self, shared: &Shared, engine: &Engine) -> Result<&mut Open> {
        if engine.clock.monotonic() >= shared.expires {
            self.end(TransactionEnd::Expired, EXPIRED);
        }
        match self {
            State::Open(open) => Ok(open),
            State::Ended(why) => Err(over(why)),
        }
    }

    fn end(&mut self, how: TransactionEnd, why: &'static str) {
        if let State::Open(open) = self {
            open.ends.how = how;
            *self = State::Ended(why);
        }
    }
}

fn over(why: &str) -> Error {
    Error::new(Code::NoSuchTransaction, format!("the transaction is over: {why}"))
}

fn conflict() -> Error {
    Error::new(
        Code::WriteConflict,
        "another operation changed the same document; run the transaction again",
    )
}

impl Open {
    /// Checks the rows that a statement was the first to change: nobody else may have changed them.
    fn accept(&mut self, rows: &[Vec<u8>], now: &dyn KvRead) -> Result<()> {
        self.claims.take(rows)?;
        rows.iter().try_for_each(|row| self.check(row, now))
    }

    /// The row must be now what it was in the snapshot.
    fn check(&self, row: &[u8], now: &dyn KvRead) -> Result<()> {
        let was = get_vec(&*self.snapshot, row)?;
        let mut same = was.is_none();
        now.get(row, &mut |value| same = was.as_deref() == Some(value))?;
        if same { Ok(()) } else { Err(conflict()) }
    }

    /// Replays the changes in the writer's transaction.
    fn apply(&self, tx: &mut Tx<'_>) -> Result<()> {
        for ns in &self.written {
            let (was, is) = (self.base.collection(ns), tx.catalog.collection(ns));
            let same = match (was, is) {
                (Some(was), Some(is)) => Arc::ptr_eq(was, is),
                // It made the collection; the catalog's rows are compared like all others.
                (None, None) => true,
                _ => false,
            };
            if !same {
                return Err(conflict());
            }
        }
        if !Arc::ptr_eq(&self.base, &self.catalog) {
            if !Arc::ptr_eq(&self.base, &tx.catalog) {
                return Err(conflict());
            }
            tx.catalog = self.catalog.clone();
        }
        for row in self.changes.keys() {
            self.check(row, tx.kv)?;
        }
        for (row, change) in &self.changes {
            match change {
                Some(value) => tx.kv.put(row, value)?,
                None => tx.kv.delete(row)?,
            }
        }
        tx.feed.extend(&self.feed);
        Ok(())
    }
}

impl Docs {
    /// Begins a transaction on the newest committed state.
    ///
    /// # Errors
    /// `TooManyRequests` when `transactions_max` are open; the store's.
    pub fn start_transaction(&self) -> Result<Transaction> {
        let engine = self.lanes.engine_shared();
        let claims = engine.transactions.enter(engine.limits.transactions_max)?;
        let (snapshot, catalog) = engine.snapshot()?;
        engine.metrics.transactions.inc();
        let id = claims.id;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Open(Box::new(Open {
                snapshot,
                base: catalog.clone(),
                catalog,
                changes: Changes::new(),
                changed_bytes: 0,
                feed: Pending::new(&engine.limits),
                written: BTreeSet::new(),
                claims,
                ends: Ends {
                    how: TransactionEnd::Aborted,
                    engine: engine.clone(),
                },
            }))),
            expires: engine.clock.monotonic() + engine.limits.transaction_lifetime,
        });
        let transactions = &engine.transactions;
        transactions.lock().open.insert(id, Arc::downgrade(&shared));
        transactions.changed.notify_all();
        Ok(Transaction {
            docs: self.clone(),
            shared,
        })
    }
}

impl Transaction {
    /// As [`Docs::find`], in the transaction. Its cursor goes on with [`next_page`](Self::next_page) of the same
    /// transaction only.
    pub fn find(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<Page> {
        match self.on_view(ns, |of| of.find(&find)) {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => return self.run_aggregate(ns, &aggregate, deadline),
            Err(error) => return self.refused(error),
        }
        let query = match self.docs.prepare_find(&find, self.collation(ns), &deadline) {
            Ok(query) => query,
            Err(error) => return self.refused(error),
        };
        let (ns, batch) = (ns.clone(), find.batch);
        self.read(deadline, move |engine, kv, catalog, meter| {
            exec::find(engine, kv, catalog, &ns, &query, batch, meter)
        })
    }

    /// As [`Docs::next_page`].
    pub fn next_page(&self, cursor: Cursor, batch: Option<u32>, deadline: Deadline) -> Reply<Page> {
        let mut state = Some(*cursor.state);
        self.read(deadline, move |engine, kv, catalog, meter| {
            let state = state
                .take()
                .ok_or_else(|| Error::new(Code::InternalError, "a page was read twice"))?;
            exec::next_page(engine, kv, catalog, state, batch, meter)
        })
    }

    /// As [`Docs::count`].
    pub fn count(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<u64> {
        let find = find.counting();
        match self.on_view(ns, |of| of.find(&find)) {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => {
                let pipeline = match self.docs.prepare_aggregate(&aggregate, None, &deadline) {
                    Ok(pipeline) => pipeline,
                    Err(error) => return self.refused(error),
                };
                let inner = deadline.clone();
                return self.read(deadline, move |engine, kv, catalog, _| {
                    count_each(engine, kv, catalog, &ns, &pipeline, &inner)
                });
            }
            Err(error) => return self.refused(error),
        }
        let query = match self.docs.prepare_find(&find, self.collation(ns), &deadline) {
            Ok(query) => query,
            Err(error) => return self.refused(error),
        };
        let ns = ns.clone();
        self.read(deadline, move |_, kv, catalog, meter| {
            exec::count(kv, catalog, &ns, &query, meter)
        })
    }

    /// As [`Docs::distinct`].
    pub fn distinct(
        &self,
        ns: &Namespace,
        path: &str,
        find: Find,
        deadline: Deadline,
    ) -> Reply<Vec<RawBson>> {
        let find = find.matching();
        let on_view = self.on_view(ns, |of| of.find(&find));
        let (path, query) = match self
            .docs
            .prepare_distinct(path, &find, self.collation(ns), &deadline)
        {
            Ok(parsed) => parsed,
            Err(error) => return self.refused(error),
        };
        match on_view {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => {
                let pipeline = match self.docs.prepare_aggregate(&aggregate, None, &deadline) {
                    Ok(pipeline) => pipeline,
                    Err(error) => return self.refused(error),
                };
                let inner = deadline.clone();
                return self.read(deadline, move |engine, kv, catalog, _| {
                    distinct_each(engine, kv, catalog, &ns, &path, &pipeline, &inner)
                });
            }
            Err(error) => return self.refused(error),
        }
        let ns = ns.clone();
        self.read(deadline, move |engine, kv, catalog, meter| {
            exec::distinct(engine, kv, catalog, &ns, &path, &query, meter)
        })
    }

    /// As [`Docs::aggregate`]; one that ends in `$out` or `$merge` is refused.
    pub fn aggregate(&self, ns: &Namespace, aggregate: Aggregate, deadline: Deadline) -> Reply<Page> {
        match self.on_view(ns, |of| of.aggregate(aggregate.clone())) {
            Ok(None) => self.run_aggregate(ns.clone(), &aggregate, deadline),
            Ok(Some((ns, aggregate))) => self.run_aggregate(ns, &aggregate, deadline),
            Err(error) => self.refused(error),
        }
    }

    /// What a view is of in the transaction's state, with a command on it as a pipeline on that.
    fn on_view(
        &self,
        ns: &Namespace,
        make: impl FnOnce(&Resolved) -> Result<Aggregate>,
    ) -> Result<Option<(Namespace, Aggregate)>> {
        let mut state = self.shared.lock();
        let catalog = state
            .open(&self.shared, self.docs.lanes.engine())?
            .catalog
            .clone();
        drop(state);
        on_view(&catalog, ns, make)
    }

    /// The collation of commands on a collection or view that name none.
    fn collation(&self, ns: &Namespace) -> Option<Arc<Collation>> {
        let mut state = self.shared.lock();
        // That the transaction is over is told to the command when it runs.
        let open = state.open(&self.shared, self.docs.lanes.engine()).ok()?;
        open.catalog.collation(ns)
    }

    /// Runs an aggregation on a collection.
    fn run_aggregate(&self, ns: Namespace, aggregate: &Aggregate, deadline: Deadline) -> Reply<Page> {
        let pipeline = match self
            .docs
            .prepare_aggregate(aggregate, self.collation(&ns), &deadline)
        {
            Ok(pipeline) if pipeline.target.is_some() => {
                return self.refused(Error::new(
                    Code::OperationNotSupportedInTransaction,
                    "$out and $merge cannot be used in a transaction",
                ));
            }
            Ok(pipeline) => pipeline,
            Err(error) => return self.refused(error),
        };
        let (batch, inner) = (aggregate.batch, deadline.clone());
        self.read(deadline, move |engine, kv, catalog, _| {
            pipeline::first_page(engine, kv, catalog, &ns, &pipeline, batch, &inner)
        })
    }

    /// As [`Docs::insert`], but not durable before the commit. A document that fails ends the transaction.
    pub fn insert(&self, ns: &Namespace, insert: Insert, deadline: Deadline) -> Reply<Inserted> {
        let bypass = insert.bypass_validation;
        let (documents, ordered) = match self.docs.prepare_insert(insert) {
            Ok(prepared) => prepared,
            Err(error) => return self.refused(error),
        };
        let (ns, inner) = (ns.clone(), deadline.clone());
        self.write(&ns.clone(), deadline, move |tx| {
            tx.bypass_validation = bypass;
            let done = write::insert(tx, &ns, &documents, ordered, &inner)?;
            let keep = done.errors.is_empty();
            Ok((done, keep))
        })
    }

    /// As [`Docs::update`], but not durable before the commit. A statement that fails ends the transaction.
    pub fn update(&self, ns: &Namespace, update: Update, deadline: Deadline) -> Reply<Updated> {
        let statements = match self.docs.prepare_update(&update, self.collation(ns), &deadline) {
            Ok(statements) => statements,
            Err(error) => return self.refused(error),
        };
        let (ns, inner, ordered) = (ns.clone(), deadline.clone(), update.ordered);
        self.write(&ns.clone(), deadline, move |tx| {
            tx.bypass_validation = update.bypass_validation;
            let done = write::update(tx, &ns, &statements, ordered, &inner)?;
            let keep = done.errors.is_empty();
            Ok((done, keep))
        })
    }

    /// As [`Docs::delete`], but not durable before the commit. A statement that fails ends the transaction.
    pub fn delete(&self, ns: &Namespace, delete: Delete, deadline: Deadline) -> Reply<Deleted> {
        let statements = match self.docs.prepare_delete(&delete, self.collation(ns), &deadline) {
            Ok(statements) => statements,
            Err(error) => return self.refused(error),
        };
        let (ns, inner, ordered) = (ns.clone(), deadline.clone(), delete.ordered);
        self.write(&ns.clone(), deadline, move |tx| {
            let done = write::delete(tx, &ns, &statements, ordered, &inner)?;
            let keep = done.errors.is_empty();
            Ok((done, keep))
        })
    }

    /// As [`Docs::find_and_modify`], but not durable before the commit.
    pub fn find_and_modify(
        &self,
        ns: &Namespace,
        modify: FindAndModify,
        deadline: Deadline,
    ) -> Reply<Modified> {
        let statement = match self.docs.prepare_modify(&modify, self.collation(ns), &deadline) {
            Ok(statement) => statement,
            Err(error) => return self.refused(error),
        };
        let (ns, inner) = (ns.clone(), deadline.clone());
        self.write(&ns.clone(), deadline, move |tx| {
            Ok((write::find_and_modify(tx, &ns, &statement, &inner)?, true))
        })
    }

    /// As [`Docs::create_collection`]. A collection or index that anybody else makes, changes or drops before the
    /// commit is a conflict, whichever it is.
    pub fn create_collection(&self, ns: &Namespace) -> Reply<()> {
        self.create_collection_with(ns, CollectionOptions::default())
    }

    /// As [`Docs::create_collection_with`], and [`create_collection`](Self::create_collection).
    pub fn create_collection_with(&self, ns: &Namespace, options: CollectionOptions) -> Reply<()> {
        let ns = ns.clone();
        self.write(&ns.clone(), Deadline::NEVER, move |tx| {
            write::create_collection(tx, &ns, &options)?;
            Ok(((), true))
        })
    }

    /// As [`Docs::create_indexes`], on a collection that is not there or was made in the transaction. Returns how many
    /// indexes the collection had, that on `_id` among them, or none when it was not there; and how many were made.
    ///
    /// The reply's error besides: `OperationNotSupportedInTransaction` for another collection, unless it has the indexes.
    pub fn create_indexes(&self, ns: &Namespace, indexes: Vec<IndexSpec>) -> Reply<(Option<usize>, usize)> {
        let ns = ns.clone();
        self.write(&ns.clone(), Deadline::NEVER, move |tx| {
            let there = tx.catalog.collection(&ns).cloned();
            let committed = tx.engine.catalog()?;
            let committed = committed.collection(&ns).map(|collection| collection.id);
            if let Some(collection) = there.as_ref().filter(|there| Some(there.id) == committed) {
                for spec in &indexes {
                    if check_index(collection, spec, &tx.engine.limits)?.is_some() {
                        let message = format!(
                            "Cannot create new indexes on existing collection {ns} in a multi-document transaction."
                        );
                        return Err(Error::new(Code::OperationNotSupportedInTransaction, message));
                    }
                }
            }
            let before = there.map(|collection| collection.indexes.len() + 1);
            match build::begin(tx, &ns, &indexes)? {
                Progress::Made(made) => Ok(((before, made), true)),
                Progress::On(_) | Progress::Waiting => Err(Error::new(
                    Code::OperationNotSupportedInTransaction,
                    "the transaction has put too much into the collection for an index to be made in it; make the index first",
                )),
            }
        })
    }

    /// Makes all changes durable and visible, or none.
    ///
    /// The reply's errors: `WriteConflict` when another operation changed one of the rows, `NoSuchTransaction` when
    /// it has ended, the store's. When the store failed, it is not known whether the changes are there.
    pub fn commit(&self) -> Reply<()> {
        let engine = self.docs.lanes.engine();
        let mut state = self.shared.lock();
        if let Err(error) = state.open(&self.shared, engine) {
            return Reply::ready(Err(error));
        }
        let State::Open(mut open) = std::mem::replace(&mut *state, State::Ended(COMMITTED)) else {
            return Reply::ready(Err(over(ABORTED)));
        };
        drop(state);
        open.ends.how = TransactionEnd::Conflicted;
        if open.changes.is_empty() {
            open.ends.how = TransactionEnd::Committed;
            return Reply::ready(Ok(()));
        }
        self.docs.lanes.write(Deadline::NEVER, move |tx| {
            open.apply(tx)?;
            open.ends.how = TransactionEnd::Committed;
            Ok(())
        })
    }

    /// Ends it without effect. Nothing happens if it has ended already.
    pub fn abort(&self) {
        self.shared.lock().end(TransactionEnd::Aborted, ABORTED);
    }

    /// Whether statements can still be given.
    pub fn is_open(&self) -> bool {
        let mut state = self.shared.lock();
        state.open(&self.shared, self.docs.lanes.engine()).is_ok()
    }

    /// A statement that could not be parsed ends the transaction like one that failed.
    fn refused<T: Send + 'static>(&self, error: Error) -> Reply<T> {
        self.shared.lock().end(TransactionEnd::Aborted, FAILED);
        Reply::ready(Err(error))
    }

    fn read<T: Send + 'static>(
        &self,
        deadline: Deadline,
        mut body: impl FnMut(&Engine, &dyn KvRead, &Catalog, &mut Meter<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let inner = deadline.clone();
        self.statement(None, deadline, move |tx| {
            let mut meter = Meter::new(tx.engine, &inner);
            Ok((body(tx.engine, &*tx.kv, &tx.catalog, &mut meter)?, true))
        })
    }

    fn write<T: Send + 'static>(
        &self,
        ns: &Namespace,
        deadline: Deadline,
        body: impl FnMut(&mut Tx<'_>) -> Result<(T, bool)> + Send + 'static,
    ) -> Reply<T> {
        self.statement(Some(ns.clone()), deadline, body)
    }

    /// Runs a statement on a reader thread; what it gives besides its answer is whether the transaction goes on.
    fn statement<T: Send + 'static>(
        &self,
        writes: Option<Namespace>,
        deadline: Deadline,
        mut body: impl FnMut(&mut Tx<'_>) -> Result<(T, bool)> + Send + 'static,
    ) -> Reply<T> {
        let shared = self.shared.clone();
        self.docs.lanes.read(deadline, move |engine| {
            let mut state = shared.lock();
            let open = state.open(&shared, engine)?;
            let outcome = guarded(|| run(engine, open, writes, &mut body));
            if !matches!(outcome, Ok((_, true))) {
                let how = match &outcome {
                    Err(error) if error.code() == Code::WriteConflict => TransactionEnd::Conflicted,
                    _ => TransactionEnd::Aborted,
                };
                state.end(how, FAILED);
            }
            outcome.map(|(answer, _)| answer)
        })
    }
}

fn run<T>(
    engine: &Engine,
    open: &mut Open,
    writes: Option<Namespace>,
    body: &mut impl FnMut(&mut Tx<'_>) -> Result<(T, bool)>,
) -> Result<(T, bool)> {
    let mut overlay = Overlay::resume(&*open.snapshot, std::mem::take(&mut open.changes));
    let mut tx = Tx {
        kv: &mut overlay,
        catalog: open.catalog.clone(),
        engine,
        feed: Pending::new(&engine.limits),
        bypass_validation: false,
        in_transaction: true,
    };
    let answer = body(&mut tx)?;
    open.catalog = tx.catalog;
    open.feed.extend(&tx.feed);
    let fresh = overlay.take_fresh();
    open.changed_bytes += overlay.written_bytes();
    open.changes = overlay.into_changes();
    open.written.extend(writes);
    let max = engine.limits.transaction_bytes_max;
    if open.changed_bytes > max {
        let message = format!(
            "the transaction changed {} bytes, and transaction_bytes_max is {max}",
            open.changed_bytes
        );
        return Err(Error::new(Code::TransactionTooLarge, message));
    }
    if !fresh.is_empty() {
        engine.read(|now, _| open.accept(&fresh, now))?;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
