//! The façade: commands in, replies out. Parses and checks what it is given on the caller's thread, then runs it
//! there (short reads), on a reader thread (scans) or on the writer's (changes).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};
use cloudlet_base::{Clock, Deadline, Entropy, Timestamp};

use crate::catalog::Catalog;
use crate::collation::Collation;
use crate::engine::Engine;
use crate::exec::scan::Meter;
use crate::exec::write::{self, DeleteStatement, ModifyStatement, Prepared, UpdateStatement};
use crate::exec::{self, Query, expire, lookup};
use crate::expression::Scope;
use crate::feed::{self, ChangeCursor, Changed, Changes, Stream, Watch, WatchScope};
use crate::kv::{Kv, KvRead, LOG_BYTES, MemKv, RedbKv, RedbOptions};
use crate::lanes::{Lanes, Reply, Tx, guarded};
use crate::limits::Limits;
use crate::metrics::{Metrics, Op};
use crate::ops::*;
use crate::path::Path;
use crate::pipeline::{self, Pipeline, Surroundings};
use crate::spill::{Scratch, Space};
use crate::verify::{Verified, inconsistent, verify};
use crate::view::{self, Resolved};
use crate::{Code, Error, Result, background, specification};

/// Rows that a read may look at on its caller's thread.
const INLINE_ROWS_MAX: u64 = 128;

/// How to open the database.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store's file, with its log beside it; `None` keeps everything in memory (tests).
    pub path: Option<PathBuf>,
    /// Bytes of cache, for pages and for single documents that were read again.
    pub cache_bytes: usize,
    /// Reader threads.
    pub readers: usize,
    /// Bounds of single operations.
    pub limits: Limits,
    /// Where operations spill to what memory may not hold; without one they fail.
    pub scratch: Option<Arc<dyn Scratch>>,
    /// Whether an operation may spill that does not say: MongoDB's `allowDiskUseByDefault`.
    pub allow_disk_use: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            cache_bytes: 256 * 1024 * 1024,
            readers: 2,
            limits: Limits::default(),
            scratch: None,
            allow_disk_use: true,
        }
    }
}

/// The database. Cheap to clone; the last clone to go stops the threads after they have finished their work.
///
/// A write's reply arrives when the write is durable. Operations of one caller that does not wait for replies are
/// carried out in the order they were given, writes among writes; a read sees every write whose reply has arrived.
#[derive(Clone)]
pub struct Docs {
    pub(crate) lanes: Arc<Lanes>,
}

impl fmt::Debug for Docs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Docs")
    }
}

impl Docs {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// When the file is in use by another process, is not a store, is of a newer format, or can't be read.
    pub fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        registry: &prometheus::Registry,
    ) -> Result<Docs> {
        let metrics = Metrics::register(registry)?;
        let kv: Box<dyn Kv> = match &config.path {
            None => Box::new(MemKv::new()),
            Some(path) => {
                let mut log_id = [0; 16];
                entropy.fill(&mut log_id);
                let options = RedbOptions {
                    cache_bytes: config.cache_bytes,
                    log_bytes: LOG_BYTES,
                    log_id,
                    fsyncs: metrics.fsyncs.clone(),
                    waits: metrics.checkpoint_waits.clone(),
                };
                Box::new(RedbKv::open(path, options)?)
            }
        };
        Self::start(kv, config, clock, entropy, metrics)
    }

    /// Opens the database over a store of the caller's; for tests that bring faults along. `config.path` and
    /// `config.cache_bytes` are not looked at, and fsyncs are not counted.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        kv: Box<dyn Kv>,
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        registry: &prometheus::Registry,
    ) -> Result<Docs> {
        Self::start(kv, config, clock, entropy, Metrics::register(registry)?)
    }

    fn start(
        kv: Box<dyn Kv>,
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        metrics: Metrics,
    ) -> Result<Docs> {
        let space = Space::new(
            config.scratch,
            config.allow_disk_use,
            &config.limits,
            metrics.clone(),
        );
        let engine = Engine::open(kv, config.limits, clock, entropy, metrics, space)?;
        Ok(Docs {
            lanes: Arc::new(Lanes::start(engine, config.readers)?),
        })
    }

    /// Runs a query and returns its first page.
    pub fn find(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<Page> {
        let engine = self.begin(Op::Find);
        if let Some(id) = lookup::wanted_id(&find, &engine.limits) {
            let found = self.lanes.read_now(|engine| {
                engine
                    .read(|kv, catalog| lookup::find(kv, catalog, ns, id, &mut Meter::new(engine, &deadline)))
            });
            if let Some(page) = found.transpose() {
                engine.metrics.inline_reads.inc();
                return Reply::ready(page);
            }
        }
        match self.on_view(ns, |of| of.find(&find)) {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => return self.run_aggregate(ns, &aggregate, deadline),
            Err(error) => return Reply::ready(Err(error)),
        }
        let query = match self.prepare_find(&find, self.collation(ns), &deadline) {
            Ok(query) => query,
            Err(error) => return Reply::ready(Err(error)),
        };
        let (ns, batch) = (ns.clone(), find.batch);
        self.read(
            Some(INLINE_ROWS_MAX),
            deadline,
            move |engine, kv, catalog, meter| exec::find(engine, kv, catalog, &ns, &query, batch, meter),
        )
    }

    /// The next page, of at most `batch` documents.
    pub fn next_page(&self, cursor: Cursor, batch: Option<u32>, deadline: Deadline) -> Reply<Page> {
        self.begin(Op::NextPage);
        let in_memory = exec::is_list(&cursor);
        let mut state = Some(*cursor.state);
        let body = move |engine: &Engine| {
            engine.read(|kv, catalog| {
                let state = state
                    .take()
                    .ok_or_else(|| Error::new(Code::InternalError, "a page was read twice"))?;
                exec::next_page(
                    engine,
                    kv,
                    catalog,
                    state,
                    batch,
                    &mut Meter::new(engine, &deadline),
                )
            })
        };
        if in_memory {
            self.lanes.read_here(body)
        } else {
            self.lanes.read(Deadline::NEVER, body)
        }
    }

    /// Resolves when the collection of a tailable cursor is written to after this call; none for a cursor that is not
    /// tailable. To be called before the page is read after which one waits.
    pub fn tailed(&self, cursor: &Cursor) -> Option<Changed> {
        let engine = self.lanes.engine();
        let scope = WatchScope::Collection(exec::tailed(cursor)?.clone());
        Some(engine.tails.listen(&scope, u64::MAX, engine.limits.listeners_max))
    }

    /// How many documents match, after `skip` and up to `limit`; what else the query has but variables and collation
    /// counts for nothing.
    pub fn count(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<u64> {
        self.begin(Op::Count);
        let find = find.counting();
        match self.on_view(ns, |of| of.find(&find)) {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => {
                let pipeline = match self.prepare_aggregate(&aggregate, None, &deadline) {
                    Ok(pipeline) => pipeline,
                    Err(error) => return Reply::ready(Err(error)),
                };
                let inner = deadline.clone();
                return self.lanes.read(deadline, move |engine| {
                    engine.read(|kv, catalog| count_each(engine, kv, catalog, &ns, &pipeline, &inner))
                });
            }
            Err(error) => return Reply::ready(Err(error)),
        }
        let query = match self.prepare_find(&find, self.collation(ns), &deadline) {
            Ok(query) => query,
            Err(error) => return Reply::ready(Err(error)),
        };
        let ns = ns.clone();
        self.read(Some(INLINE_ROWS_MAX), deadline, move |_, kv, catalog, meter| {
            exec::count(kv, catalog, &ns, &query, meter)
        })
    }

    /// Distinct values at a path over the documents that match; what the query has but filter, variables and collation
    /// counts for nothing.
    pub fn distinct(
        &self,
        ns: &Namespace,
        path: &str,
        find: Find,
        deadline: Deadline,
    ) -> Reply<Vec<RawBson>> {
        self.begin(Op::Distinct);
        let find = find.matching();
        let on_view = self.on_view(ns, |of| of.find(&find));
        let (path, query) = match self.prepare_distinct(path, &find, self.collation(ns), &deadline) {
            Ok(parsed) => parsed,
            Err(error) => return Reply::ready(Err(error)),
        };
        match on_view {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => {
                let pipeline = match self.prepare_aggregate(&aggregate, None, &deadline) {
                    Ok(pipeline) => pipeline,
                    Err(error) => return Reply::ready(Err(error)),
                };
                let inner = deadline.clone();
                return self.lanes.read(deadline, move |engine| {
                    engine
                        .read(|kv, catalog| distinct_each(engine, kv, catalog, &ns, &path, &pipeline, &inner))
                });
            }
            Err(error) => return Reply::ready(Err(error)),
        }
        let ns = ns.clone();
        self.read(None, deadline, move |engine, kv, catalog, meter| {
            exec::distinct(engine, kv, catalog, &ns, &path, &query, meter)
        })
    }

    /// Runs an aggregation and returns its first page. One that ends in `$out` or `$merge` writes all of its result
    /// or nothing, on the writer's thread, and is durable when the (empty) page arrives.
    pub fn aggregate(&self, ns: &Namespace, aggregate: Aggregate, deadline: Deadline) -> Reply<Page> {
        self.begin(Op::Aggregate);
        match self.on_view(ns, |of| of.aggregate(aggregate.clone())) {
            Ok(None) => self.run_aggregate(ns.clone(), &aggregate, deadline),
            Ok(Some((ns, aggregate))) => self.run_aggregate(ns, &aggregate, deadline),
            Err(error) => Reply::ready(Err(error)),
        }
    }

    /// Runs an aggregation on a collection.
    fn run_aggregate(&self, ns: Namespace, aggregate: &Aggregate, deadline: Deadline) -> Reply<Page> {
        let pipeline = match self.prepare_aggregate(aggregate, self.collation(&ns), &deadline) {
            Ok(pipeline) => pipeline,
            Err(error) => return Reply::ready(Err(error)),
        };
        let (batch, inner) = (aggregate.batch, deadline.clone());
        if pipeline.target.is_some() {
            return self.lanes.write_alone(deadline, move |tx| {
                pipeline::write_result(tx, &ns, &pipeline, &inner)?;
                Ok(Page {
                    documents: Vec::new(),
                    cursor: None,
                })
            });
        }
        self.lanes.read(deadline, move |engine| {
            engine
                .read(|kv, catalog| pipeline::first_page(engine, kv, catalog, &ns, &pipeline, batch, &inner))
        })
    }

    /// How an aggregation runs, in MongoDB's shape: the query that feeds it, explained as by
    /// [`explain`](Self::explain), and the names of the stages after it.
    pub fn explain_aggregate(
        &self,
        ns: &Namespace,
        aggregate: Aggregate,
        deadline: Deadline,
    ) -> Reply<RawDocumentBuf> {
        self.begin(Op::Explain);
        match self.on_view(ns, |of| of.aggregate(aggregate.clone())) {
            Ok(None) => self.run_explain(ns.clone(), &aggregate, deadline),
            Ok(Some((ns, aggregate))) => self.run_explain(ns, &aggregate, deadline),
            Err(error) => Reply::ready(Err(error)),
        }
    }

    fn run_explain(&self, ns: Namespace, aggregate: &Aggregate, deadline: Deadline) -> Reply<RawDocumentBuf> {
        let pipeline = match self.prepare_aggregate(aggregate, self.collation(&ns), &deadline) {
            Ok(pipeline) => pipeline,
            Err(error) => return Reply::ready(Err(error)),
        };
        let inner = deadline.clone();
        self.lanes.read(deadline, move |engine| {
            engine.read(|kv, catalog| pipeline::explain(engine, kv, catalog, &ns, &pipeline, &inner))
        })
    }

    /// Inserts documents; durable when the reply arrives. Makes the collection when it is not there.
    pub fn insert(&self, ns: &Namespace, insert: Insert, deadline: Deadline) -> Reply<Inserted> {
        self.begin(Op::Insert);
        let bypass = insert.bypass_validation;
        match self.prepare_insert(insert) {
            Err(error) => Reply::ready(Err(error)),
            Ok((documents, _)) if documents.is_empty() => Reply::ready(Ok(Inserted::default())),
            Ok((documents, ordered)) => {
                let (ns, inner) = (ns.clone(), deadline.clone());
                self.lanes.write(deadline, move |tx| {
                    tx.bypass_validation = bypass;
                    write::insert(tx, &ns, &documents, ordered, &inner)
                })
            }
        }
    }

    /// Updates documents; durable when the reply arrives.
    pub fn update(&self, ns: &Namespace, update: Update, deadline: Deadline) -> Reply<Updated> {
        self.begin(Op::Update);
        match self.prepare_update(&update, self.collation(ns), &deadline) {
            Err(error) => Reply::ready(Err(error)),
            Ok(statements) => {
                let (ns, inner, ordered) = (ns.clone(), deadline.clone(), update.ordered);
                self.lanes.write(deadline, move |tx| {
                    tx.bypass_validation = update.bypass_validation;
                    write::update(tx, &ns, &statements, ordered, &inner)
                })
            }
        }
    }

    /// Deletes documents; durable when the reply arrives.
    pub fn delete(&self, ns: &Namespace, delete: Delete, deadline: Deadline) -> Reply<Deleted> {
        self.begin(Op::Delete);
        match self.prepare_delete(&delete, self.collation(ns), &deadline) {
            Err(error) => Reply::ready(Err(error)),
            Ok(statements) => {
                let (ns, inner, ordered) = (ns.clone(), deadline.clone(), delete.ordered);
                self.lanes.write(deadline, move |tx| {
                    write::delete(tx, &ns, &statements, ordered, &inner)
                })
            }
        }
    }

    /// Changes at most one document and returns it; durable when the reply arrives.
    pub fn find_and_modify(
        &self,
        ns: &Namespace,
        modify: FindAndModify,
        deadline: Deadline,
    ) -> Reply<Modified> {
        self.begin(Op::FindAndModify);
        match self.prepare_modify(&modify, self.collation(ns), &deadline) {
            Err(error) => Reply::ready(Err(error)),
            Ok(statement) => {
                let (ns, inner) = (ns.clone(), deadline.clone());
                self.lanes.write(deadline, move |tx| {
                    write::find_and_modify(tx, &ns, &statement, &inner)
                })
            }
        }
    }

    /// Several writes, all or nothing, in one commit: the first failure undoes the others and is returned.
    pub fn transact(&self, writes: Vec<Write>, deadline: Deadline) -> Reply<Vec<Written>> {
        self.begin(Op::Transact);
        let prepared: Result<Vec<PreparedWrite>> = writes
            .into_iter()
            .map(|write| self.prepare_write(write, &deadline))
            .collect();
        match prepared {
            Err(error) => Reply::ready(Err(error)),
            Ok(writes) => {
                let inner = deadline.clone();
                self.lanes.write(deadline, move |tx| {
                    writes.iter().map(|write| write.run(tx, &inner)).collect()
                })
            }
        }
    }

    /// Makes a collection; an error when it exists.
    pub fn create_collection(&self, ns: &Namespace) -> Reply<()> {
        self.create_collection_with(ns, CollectionOptions::default())
    }

    /// Makes a collection with options; an error when it exists.
    ///
    /// The reply's errors: `NamespaceExists`, `InvalidOptions`, those of a validator that is no filter.
    pub fn create_collection_with(&self, ns: &Namespace, options: CollectionOptions) -> Reply<()> {
        self.begin(Op::Catalog);
        let ns = ns.clone();
        self.lanes.write(Deadline::NEVER, move |tx| {
            write::create_collection(tx, &ns, &options).map(drop)
        })
    }

    /// Changes what can be changed of a collection: MongoDB's `collMod`. Documents that are there are not looked at.
    ///
    /// The reply's errors: `NamespaceNotFound`, `InvalidOptions`, those of a validator that is no filter.
    pub fn modify_collection(&self, ns: &Namespace, change: CollectionChange) -> Reply<()> {
        self.begin(Op::Catalog);
        let ns = ns.clone();
        self.lanes.write(Deadline::NEVER, move |tx| {
            write::modify_collection(tx, &ns, &change)
        })
    }

    /// Makes a view; an error when there is a collection or view of that name.
    ///
    /// The reply's errors: `NamespaceExists`, `InvalidNamespace`, `GraphContainsCycle` and `ViewDepthLimitExceeded`
    /// for what it is of, `OptionNotSupportedOnView` for a stage that no view may have, those of a malformed stage.
    pub fn create_view(&self, ns: &Namespace, view: View) -> Reply<()> {
        self.begin(Op::Catalog);
        let ns = ns.clone();
        self.lanes
            .write(Deadline::NEVER, move |tx| write::create_view(tx, &ns, &view))
    }

    /// Changes what a view is made of.
    ///
    /// The reply's errors: as [`create_view`](Self::create_view)'s, `NamespaceNotFound`, `InvalidOptions` for a
    /// collection.
    pub fn modify_view(&self, ns: &Namespace, view: View) -> Reply<()> {
        self.begin(Op::Catalog);
        let ns = ns.clone();
        self.lanes
            .write(Deadline::NEVER, move |tx| write::modify_view(tx, &ns, &view))
    }

    /// The options of a collection.
    ///
    /// The reply's errors: `NamespaceNotFound`, `CommandNotSupportedOnView`.
    pub fn collection_options(&self, ns: &Namespace) -> Reply<CollectionOptions> {
        let engine = self.begin(Op::Catalog);
        Reply::ready(
            engine
                .catalog()
                .and_then(|catalog| Ok(catalog.only_collection(ns)?.options())),
        )
    }

    /// The collections and views of a database with what they are, in the order of their names.
    pub fn describe_collections(&self, database: &str) -> Reply<Vec<CollectionInfo>> {
        let engine = self.begin(Op::Catalog);
        Reply::ready(engine.catalog().map(|catalog| catalog.describe(database)))
    }

    /// Removes a collection, its documents and indexes, or a view. Returns whether there was one. The reply comes when it is gone
    /// for good; its rows are removed afterwards, step by step between other writes.
    pub fn drop_collection(&self, ns: &Namespace) -> Reply<bool> {
        self.begin(Op::Catalog);
        let ns = ns.clone();
        self.drop_later(move |tx| drop_one(tx, &ns))
    }

    /// Removes all collections of a database.
    pub fn drop_database(&self, database: &str) -> Reply<()> {
        self.begin(Op::Catalog);
        let database: Arc<str> = database.into();
        self.drop_later(move |tx| {
            let names: Vec<Namespace> = tx
                .catalog
                .collections(&database)
                .map(|(ns, _)| ns.clone())
                .chain(tx.catalog.views(&database).map(|(ns, _)| ns.clone()))
                .collect();
            for ns in &names {
                drop_one(tx, ns)?;
            }
            if !names.is_empty() {
                tx.feed.database_dropped(&database);
            }
            Ok(())
        })
    }

    /// Gives a collection another name, maybe in another database. Its documents and indexes stay where they are:
    /// only the catalog changes. With `drop_target` a collection that has the new name goes in the same commit.
    pub fn rename_collection(&self, from: &Namespace, to: &Namespace, drop_target: bool) -> Reply<()> {
        self.begin(Op::Catalog);
        let (from, to) = (from.clone(), to.clone());
        self.drop_later(move |tx| rename_one(tx, &from, &to, drop_target))
    }

    /// Whether the change log keeps a collection's documents as they were before and after each update, replacement
    /// and delete: MongoDB's `changeStreamPreAndPostImages`. It holds for changes from now on.
    ///
    /// The reply's error: `NamespaceNotFound`.
    pub fn keep_images(&self, ns: &Namespace, keep: bool) -> Reply<()> {
        let change = CollectionChange {
            images: Some(keep),
            ..CollectionChange::default()
        };
        self.modify_collection(ns, change)
    }

    /// Whether a collection [keeps images](Self::keep_images).
    ///
    /// The reply's error: `NamespaceNotFound`.
    pub fn keeps_images(&self, ns: &Namespace) -> Reply<bool> {
        let engine = self.begin(Op::Catalog);
        Reply::ready(
            engine
                .catalog()
                .and_then(|catalog| Ok(catalog.only_collection(ns)?.images)),
        )
    }

    /// Opens a change stream. It gives nothing yet; [`next_changes`](Self::next_changes) does.
    ///
    /// The reply's errors: `ChangeStreamHistoryLost` when the log no longer has the place to start from,
    /// `InvalidResumeToken`, `IllegalOperation` for a stage that may not be in its pipeline, those of a malformed
    /// stage, `InvalidNamespace` and `CommandNotSupportedOnView` for what can't be watched, `CommandNotSupported` when the log is turned off.
    pub fn watch(&self, scope: WatchScope, watch: Watch) -> Reply<ChangeCursor> {
        let engine = self.begin(Op::Watch);
        let parsed = guarded(|| {
            if engine.limits.feed_bytes_max == 0 {
                return Err(Error::new(
                    Code::CommandNotSupported,
                    "the change log is turned off (feed_bytes_max is 0)",
                ));
            }
            if let WatchScope::Collection(ns) = &scope {
                engine.catalog()?.check_no_view(ns)?;
            }
            let around = Surroundings::new(&engine.limits, engine.scope(&Deadline::NEVER));
            Stream::parse(scope, &watch, &around)
        });
        let stream = match parsed {
            Ok(stream) => Arc::new(stream),
            Err(error) => return Reply::ready(Err(error)),
        };
        self.lanes
            .read_here(|engine| engine.read(|kv, _| feed::open(kv, stream.clone(), &watch.start)))
    }

    /// The next events of a change stream, at most `batch`, as far as they are there: it does not wait for any. See
    /// [`changed`](Self::changed) for that.
    ///
    /// The reply's errors: `ChangeStreamHistoryLost` when the log was trimmed past the stream's place,
    /// `NoMatchingDocument` when an image is required and not there, `ChangeStreamFatalError` when the pipeline takes
    /// away an event's `_id`, `BSONObjectTooLarge` for an event over 16 MiB, those of the pipeline's expressions.
    pub fn next_changes(
        &self,
        cursor: ChangeCursor,
        batch: Option<u32>,
        deadline: Deadline,
    ) -> Reply<Changes> {
        self.begin(Op::NextChanges);
        let inner = deadline.clone();
        self.lanes.read(deadline, move |engine| {
            engine.read(|kv, catalog| feed::next(engine, kv, catalog, cursor.clone(), batch, &inner))
        })
    }

    /// Resolves when the stream may have events after the cursor's place; at once, when there may be some already.
    pub fn changed(&self, cursor: &ChangeCursor) -> Changed {
        let engine = self.lanes.engine();
        engine
            .bell
            .listen(cursor.scope(), cursor.sequence(), engine.limits.listeners_max)
    }

    /// The cluster time of the newest event, or of the present second if there is none yet: whatever is written from
    /// now on has a later one. What drivers are told as `operationTime`. None when the change log is turned off.
    pub fn operation_time(&self) -> Option<bson::Timestamp> {
        let engine = self.lanes.engine();
        (engine.limits.feed_bytes_max > 0).then(|| {
            let last = engine.bell.last_time();
            last.unwrap_or_else(|| feed::time_before(engine.clock.now()))
        })
    }

    /// Names of the collections of a database, in order.
    pub fn list_collections(&self, database: &str) -> Reply<Vec<Arc<str>>> {
        let engine = self.begin(Op::Catalog);
        let names = |catalog: Arc<Catalog>| {
            catalog
                .collections(database)
                .map(|(ns, _)| ns.collection.clone())
                .collect()
        };
        Reply::ready(engine.catalog().map(names))
    }

    /// Names of all databases, in order.
    pub fn list_databases(&self) -> Reply<Vec<Arc<str>>> {
        let engine = self.begin(Op::Catalog);
        Reply::ready(engine.catalog().map(|catalog| catalog.databases()))
    }

    /// Makes indexes (and the collection, when it is not there), filling them from existing documents. Those that
    /// exist in the same shape are left as they are. Returns how many were made: all or, on an error, none.
    ///
    /// A large collection is entered step by step, between other writes. These keep the new index up meanwhile, and a
    /// unique one refuses their duplicates of what it has already; queries use it when the reply arrives. If the
    /// program ends before that, the index is not there when the store is opened again.
    pub fn create_indexes(&self, ns: &Namespace, indexes: Vec<IndexSpec>) -> Reply<usize> {
        self.begin(Op::Catalog);
        let ns = ns.clone();
        let (sender, reply) = Reply::channel();
        self.lanes.write_then(
            Deadline::NEVER,
            move |tx| exec::build::begin(tx, &ns, &indexes),
            background::answer(self.lanes.background().clone(), sender),
        );
        reply
    }

    /// Removes a secondary index by name.
    pub fn drop_index(&self, ns: &Namespace, name: &str) -> Reply<()> {
        self.begin(Op::Catalog);
        let (ns, name) = (ns.clone(), name.to_owned());
        self.drop_later(move |tx| drop_one_index(tx, &ns, &name))
    }

    /// The indexes of a collection, `_id_` first.
    pub fn list_indexes(&self, ns: &Namespace) -> Reply<Vec<IndexSpec>> {
        let engine = self.begin(Op::Catalog);
        Reply::ready(engine.catalog().and_then(|catalog| {
            let collection = catalog.only_collection(ns)?;
            Ok(specification::of_id_of(collection)
                .into_iter()
                .chain(
                    collection
                        .indexes
                        .iter()
                        .filter(|index| !index.building)
                        .map(|index| index.spec.clone()),
                )
                .collect())
        }))
    }

    /// Changes what can be changed of an index: MongoDB's `collMod`. Returns it as it was and as it is now.
    pub fn modify_index(
        &self,
        ns: &Namespace,
        name: &str,
        change: IndexChange,
    ) -> Reply<(IndexSpec, IndexSpec)> {
        self.begin(Op::Catalog);
        let (ns, name) = (ns.clone(), name.to_owned());
        self.lanes.write(Deadline::NEVER, move |tx| {
            write::modify_index(tx, &ns, &name, &change)
        })
    }

    /// Removes documents that are over their time at `now` (MongoDB's TTL indexes), at most `budget` of them and at
    /// most 1000, in one commit with whatever else is written then. To be called now and then; when the answer says
    /// that there is more, again.
    pub fn expire(&self, now: Timestamp, budget: usize) -> Reply<Expired> {
        let due = self
            .lanes
            .engine()
            .read(|kv, catalog| expire::is_due(kv, catalog, now));
        match due {
            Ok(true) => {
                self.begin(Op::Expire);
                self.lanes
                    .write(Deadline::NEVER, move |tx| expire::expire(tx, now, budget))
            }
            Ok(false) => Reply::ready(Ok(Expired::default())),
            Err(error) => Reply::ready(Err(error)),
        }
    }

    /// How a query would run and did run, in MongoDB's `explain("executionStats")` shape.
    pub fn explain(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<RawDocumentBuf> {
        self.begin(Op::Explain);
        match self.on_view(ns, |of| of.find(&find)) {
            Ok(None) => {}
            Ok(Some((ns, aggregate))) => return self.run_explain(ns, &aggregate, deadline),
            Err(error) => return Reply::ready(Err(error)),
        }
        let query = match self.prepare_find(&find, self.collation(ns), &deadline) {
            Ok(query) => query,
            Err(error) => return Reply::ready(Err(error)),
        };
        let ns = ns.clone();
        self.read(None, deadline, move |engine, kv, catalog, meter| {
            exec::explain::explain(engine, kv, catalog, &ns, &query, meter)
        })
    }

    /// Checks that every index entry has its document, every document its entries, every row its collection or index,
    /// and that the change log is whole, over the whole store; an error tells of the first that is not. Reads
    /// everything: for tests. An operator who doubts the disk has [`check_file`](crate::check_file).
    pub fn verify(&self, deadline: Deadline) -> Reply<Verified> {
        self.lanes.read(deadline.clone(), move |engine| {
            let depth_max = engine.limits.depth_max;
            engine.read(|kv, catalog| {
                let meter = Meter::new(engine, &deadline);
                let mut found = |finding| Err(inconsistent(&finding));
                verify(kv, catalog, depth_max, &mut found, &mut |_| {
                    meter.check_deadline()
                })
            })
        })
    }

    /// Runs a write that drops something, and has its rows removed afterwards.
    fn drop_later<T: Send + 'static>(
        &self,
        body: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::channel();
        let background = self.lanes.background().clone();
        self.lanes.write_then(Deadline::NEVER, body, move |outcome| {
            sender.send(outcome);
            background.dropped();
        });
        reply
    }

    /// What a view is of, with a command on it as a pipeline on that; none when there is no view of that name.
    fn on_view(
        &self,
        ns: &Namespace,
        make: impl FnOnce(&Resolved) -> Result<Aggregate>,
    ) -> Result<Option<(Namespace, Aggregate)>> {
        let catalog = self.lanes.engine().catalog()?;
        on_view(&catalog, ns, make)
    }

    fn begin(&self, op: Op) -> &Engine {
        let engine = self.lanes.engine();
        engine.metrics.count(op);
        engine
    }

    /// Runs a read here if it keeps to the budget, else on a reader thread.
    fn read<T: Send + 'static>(
        &self,
        budget: Option<u64>,
        deadline: Deadline,
        body: impl Fn(&Engine, &dyn KvRead, &Catalog, &mut Meter<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        if let Some(rows) = budget {
            let mut over_budget = false;
            let reply = self.lanes.read_here(|engine| {
                engine.read(|kv, catalog| {
                    let mut meter = Meter::with_budget(engine, &deadline, rows);
                    let answer = body(engine, kv, catalog, &mut meter);
                    over_budget = meter.over_budget;
                    answer
                })
            });
            if !over_budget {
                self.lanes.engine().metrics.inline_reads.inc();
                return reply;
            }
        }
        self.lanes.read(deadline.clone(), move |engine| {
            engine.read(|kv, catalog| body(engine, kv, catalog, &mut Meter::new(engine, &deadline)))
        })
    }

    fn check_batch(&self, count: usize) -> Result<()> {
        let max = self.lanes.engine().limits.batch_max;
        if count > max {
            let message = format!("the batch has {count} documents or statements, and batch_max is {max}");
            return Err(Error::new(Code::InvalidLength, message));
        }
        Ok(())
    }

    /// The collation of commands on a collection or view that name none. It is the collection's that is there now: one
    /// that takes its name before the command runs is read by the collation that the command began with.
    fn collation(&self, ns: &Namespace) -> Option<Arc<Collation>> {
        // Whether the catalog can be read is told to the command when it runs.
        self.lanes.engine().catalog().ok()?.collation(ns)
    }

    pub(crate) fn prepare_find(
        &self,
        find: &Find,
        collation: Option<Arc<Collation>>,
        deadline: &Deadline,
    ) -> Result<Arc<Query>> {
        let engine = self.lanes.engine();
        let scope = engine.spilling_scope(deadline, find.allow_disk_use);
        let scope = scope.collated(collation);
        guarded(|| Query::parse(find, &engine.limits, &scope).map(Arc::new))
    }

    pub(crate) fn prepare_distinct(
        &self,
        path: &str,
        find: &Find,
        collation: Option<Arc<Collation>>,
        deadline: &Deadline,
    ) -> Result<(Path, Query)> {
        let engine = self.lanes.engine();
        let scope = engine.scope(deadline).collated(collation);
        guarded(|| {
            let query = Query::parse(find, &engine.limits, &scope)?;
            Ok((Path::parse(path)?, query))
        })
    }

    pub(crate) fn prepare_aggregate(
        &self,
        aggregate: &Aggregate,
        collation: Option<Arc<Collation>>,
        deadline: &Deadline,
    ) -> Result<Arc<Pipeline>> {
        let engine = self.lanes.engine();
        let scope = engine.spilling_scope(deadline, aggregate.allow_disk_use);
        let scope = scope.collated(collation);
        guarded(|| parse_pipeline(engine, aggregate, &scope).map(Arc::new))
    }

    pub(crate) fn prepare_modify(
        &self,
        modify: &FindAndModify,
        collation: Option<Arc<Collation>>,
        deadline: &Deadline,
    ) -> Result<ModifyStatement> {
        let engine = self.lanes.engine();
        let scope = engine.scope(deadline).collated(collation);
        guarded(|| ModifyStatement::parse(modify, &engine.limits, &scope))
    }

    pub(crate) fn prepare_insert(&self, insert: Insert) -> Result<(Vec<Prepared>, bool)> {
        self.check_batch(insert.documents.len())?;
        let engine = self.lanes.engine();
        guarded(|| {
            let prepare = |document| write::prepare(document, write::fresh_id(engine), &engine.limits);
            Ok((
                insert
                    .documents
                    .iter()
                    .map(|document| prepare(document))
                    .collect(),
                insert.ordered,
            ))
        })
    }

    pub(crate) fn prepare_update(
        &self,
        update: &Update,
        collation: Option<Arc<Collation>>,
        deadline: &Deadline,
    ) -> Result<Vec<Result<UpdateStatement>>> {
        self.check_batch(update.statements.len())?;
        let limits = &self.lanes.engine().limits;
        let scope = self.lanes.engine().scope(deadline).collated(collation);
        let parse = |statement: &UpdateOne| {
            let (variables, collation) = (&statement.variables, &statement.collation);
            let scope = exec::scope_of(&scope, variables.as_deref(), collation.as_deref(), limits)?;
            let filter = exec::parse_filter(&statement.filter, limits, &scope)?;
            let sort = exec::parse_sort(statement.sort.as_deref(), limits, &scope)?;
            let update = write::parse_update(&statement.update, &statement.array_filters, limits, &scope)?;
            if statement.multi && update.is_replacement() {
                return Err(Error::new(
                    Code::FailedToParse,
                    "multi update is not supported for replacement-style update",
                ));
            }
            if statement.multi && sort.is_some() {
                return Err(Error::new(
                    Code::FailedToParse,
                    "Cannot specify sort with multi=true",
                ));
            }
            Ok(UpdateStatement {
                filter,
                sort,
                update,
                multi: statement.multi,
                upsert: statement.upsert,
            })
        };
        // A pipeline that is none fails the command, in MongoDB too: it is read before any statement is carried out.
        let is_pipeline = |statement: &UpdateOne| {
            let first = statement.update.iter().next().and_then(|field| field.ok());
            first.is_some_and(|(name, _)| name.as_str() == crate::ops::PIPELINE_FIELD)
        };
        guarded(|| {
            let parsed = update.statements.iter().map(|statement| match parse(statement) {
                Err(error) if is_pipeline(statement) => Err(error),
                parsed => Ok(parsed),
            });
            parsed.collect()
        })
    }

    pub(crate) fn prepare_delete(
        &self,
        delete: &Delete,
        collation: Option<Arc<Collation>>,
        deadline: &Deadline,
    ) -> Result<Vec<Result<DeleteStatement>>> {
        self.check_batch(delete.statements.len())?;
        let limits = &self.lanes.engine().limits;
        let scope = self.lanes.engine().scope(deadline).collated(collation);
        let parse = |statement: &DeleteOne| {
            let (variables, collation) = (&statement.variables, &statement.collation);
            let scope = exec::scope_of(&scope, variables.as_deref(), collation.as_deref(), limits)?;
            Ok(DeleteStatement {
                filter: exec::parse_filter(&statement.filter, limits, &scope)?,
                multi: statement.multi,
            })
        };
        guarded(|| Ok(delete.statements.iter().map(parse).collect()))
    }

    fn prepare_write(&self, write: Write, deadline: &Deadline) -> Result<PreparedWrite> {
        let (Write::Insert(ns, _) | Write::Update(ns, _) | Write::Delete(ns, _)) = &write;
        let collation = self.collation(ns);
        Ok(match write {
            Write::Insert(ns, insert) => {
                let bypass = insert.bypass_validation;
                PreparedWrite::Insert(ns, self.prepare_insert(insert)?.0, bypass)
            }
            Write::Update(ns, update) => PreparedWrite::Update(
                ns,
                self.prepare_update(&update, collation, deadline)?,
                update.bypass_validation,
            ),
            Write::Delete(ns, delete) => {
                PreparedWrite::Delete(ns, self.prepare_delete(&delete, collation, deadline)?)
            }
        })
    }
}

/// What a view is of, with a command on it as a pipeline on that.
pub(crate) fn on_view(
    catalog: &Catalog,
    ns: &Namespace,
    make: impl FnOnce(&Resolved) -> Result<Aggregate>,
) -> Result<Option<(Namespace, Aggregate)>> {
    let Some(of) = view::resolve(catalog, ns)? else {
        return Ok(None);
    };
    let aggregate = make(&of)?;
    Ok(Some((of.ns, aggregate)))
}

/// How many documents a pipeline makes.
pub(crate) fn count_each(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    pipeline: &Pipeline,
    deadline: &Deadline,
) -> Result<u64> {
    let mut count = 0;
    pipeline::each(engine, kv, catalog, ns, pipeline, deadline, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// The distinct values at a path of the documents that a view's pipeline makes.
pub(crate) fn distinct_each(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    path: &Path,
    pipeline: &Pipeline,
    deadline: &Deadline,
) -> Result<Vec<RawBson>> {
    let mut values = exec::Distinct::new(path, pipeline.collation(), engine);
    pipeline::each(engine, kv, catalog, ns, pipeline, deadline, &mut |document| {
        values.add(document)
    })?;
    Ok(values.in_order())
}

fn parse_pipeline(engine: &Engine, aggregate: &Aggregate, scope: &Scope) -> Result<Pipeline> {
    let (variables, collation) = (&aggregate.variables, &aggregate.collation);
    let scope = exec::scope_of(scope, variables.as_deref(), collation.as_deref(), &engine.limits)?;
    let around = Surroundings::new(&engine.limits, scope);
    let mut pipeline = Pipeline::parse(&aggregate.pipeline, &around, aggregate.hint.clone())?;
    pipeline.bypass_validation = aggregate.bypass_validation;
    Ok(pipeline)
}

/// A write of a transaction, parsed.
enum PreparedWrite {
    /// The last of both: whether validators are passed over.
    Insert(Namespace, Vec<Prepared>, bool),
    Update(Namespace, Vec<Result<UpdateStatement>>, bool),
    Delete(Namespace, Vec<Result<DeleteStatement>>),
}

impl PreparedWrite {
    /// Runs it; the first failure of a statement is the failure of the whole.
    fn run(&self, tx: &mut Tx<'_>, deadline: &Deadline) -> Result<Written> {
        fn first(errors: &mut Vec<WriteError>) -> Result<()> {
            errors.pop().map_or(Ok(()), |failure| Err(failure.error))
        }
        match self {
            PreparedWrite::Insert(ns, documents, bypass) => {
                tx.bypass_validation = *bypass;
                let mut done = write::insert(tx, ns, documents, true, deadline)?;
                first(&mut done.errors).map(|()| Written::Inserted(done))
            }
            PreparedWrite::Update(ns, statements, bypass) => {
                tx.bypass_validation = *bypass;
                let mut done = write::update(tx, ns, statements, true, deadline)?;
                first(&mut done.errors).map(|()| Written::Updated(done))
            }
            PreparedWrite::Delete(ns, statements) => {
                let mut done = write::delete(tx, ns, statements, true, deadline)?;
                first(&mut done.errors).map(|()| Written::Deleted(done))
            }
        }
    }
}

/// Drops a collection; its rows are removed later.
fn drop_one(tx: &mut Tx<'_>, ns: &Namespace) -> Result<bool> {
    let Some(collection) = tx.catalog.collection(ns).cloned() else {
        return tx.catalog.remove_view(tx.kv, ns);
    };
    tx.catalog.remove(tx.kv, ns)?;
    tx.feed.tailed(ns);
    tx.feed.dropped(ns, &collection);
    Ok(true)
}

fn rename_one(tx: &mut Tx<'_>, from: &Namespace, to: &Namespace, drop_target: bool) -> Result<()> {
    crate::catalog::check_namespace(to)?;
    tx.catalog.check_no_view(from)?;
    let collection = tx.catalog.collection(from).ok_or_else(|| {
        Error::new(
            Code::NamespaceNotFound,
            format!("source collection {from} does not exist"),
        )
    })?;
    let collection = collection.clone();
    crate::time_series::refuse(&collection, from, "renameCollection")?;
    if from == to {
        return Err(Error::new(
            Code::IllegalOperation,
            "can't rename a collection to itself",
        ));
    }
    if tx.catalog.view(to).is_some() {
        let message = format!("a view already exists with that name: {to}");
        return Err(Error::new(Code::NamespaceExists, message));
    }
    let target = tx.catalog.collection(to).map(|target| target.id);
    if target.is_some() {
        if !drop_target {
            return Err(Error::new(Code::NamespaceExists, "target namespace exists"));
        }
        drop_one(tx, to)?;
    }
    tx.catalog.check_room(to, &tx.engine.limits)?;
    tx.catalog.take_name(tx.kv, from)?;
    tx.feed.tailed(from);
    let renamed = crate::catalog::Collection::clone(&collection);
    tx.catalog.save(tx.kv, to, renamed)?;
    let dropped = target.map(|id| tx.catalog.uuid(id));
    tx.feed.renamed(from, &collection, to, dropped);
    Ok(())
}

fn drop_one_index(tx: &mut Tx<'_>, ns: &Namespace, name: &str) -> Result<()> {
    let collection = tx.catalog.only_collection(ns)?;
    if collection.is_id_index(name) {
        return Err(Error::new(Code::InvalidOptions, "cannot drop _id index"));
    }
    let mut collection = crate::catalog::Collection::clone(collection);
    let at = collection
        .indexes
        .iter()
        .position(|index| &*index.spec.name == name);
    let at =
        at.ok_or_else(|| Error::new(Code::IndexNotFound, format!("index not found with name [{name}]")))?;
    let index = collection.indexes.remove(at);
    Catalog::discard(tx.kv, &crate::catalog::entry_prefix(index.id))?;
    let collection = tx.catalog.save(tx.kv, ns, collection)?;
    if !index.building {
        tx.feed.index_dropped(ns, &collection, &index.spec);
    }
    Ok(())
}
