//! Who runs operations: reader threads for scans, one writer thread with group commit for writes, one that makes
//! the store's checkpoints meanwhile, and the caller's own thread for reads so short that a hop would cost more than they do. Both queues are bounded. Threads end,
//! their work done, when the lanes are dropped.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use cloudlet_base::Deadline;
use prometheus::IntGauge;

use crate::background::Background;
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::feed::{self, Pending};
use crate::kv::{KvWrite, Overlay};
use crate::{Code, Error, Result};

use crate::tender::Tender;

pub use crate::reply::Reply;

/// Most operations that share one commit.
const OPERATIONS_PER_COMMIT_MAX: usize = 1024;

/// An operation's view of the transaction it runs in.
pub(crate) struct Tx<'a> {
    /// The store with the operation's own changes.
    pub(crate) kv: &'a mut dyn KvWrite,
    /// The catalog with the operation's own changes.
    pub(crate) catalog: Arc<Catalog>,
    /// Limits, time, chance, metrics.
    pub(crate) engine: &'a Engine,
    /// The operation's events, for the change log.
    pub(crate) feed: Pending,
    /// Whether the statement passes validators over.
    pub(crate) bypass_validation: bool,
    /// Whether it is a statement of a transaction that commits later.
    pub(crate) in_transaction: bool,
}

type ReadJob = Box<dyn FnOnce(&Engine) + Send>;

/// The threads and their queues.
pub(crate) struct Lanes {
    engine: Arc<Engine>,
    reads: Arc<Queue<ReadJob>>,
    writes: Writer,
    background: Arc<Background>,
    tender: Arc<Tender>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to the writer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer(Arc<Queue<Box<dyn WriteJob>>>);

impl Lanes {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(engine: Engine, readers: usize) -> Result<Self> {
        let engine = Arc::new(engine);
        let metrics = &engine.metrics;
        let reads = Arc::new(Queue::new(
            "read_queue_max",
            engine.limits.read_queue_max,
            metrics.read_queue.clone(),
        ));
        let writes = Writer(Arc::new(Queue::new(
            "write_queue_max",
            engine.limits.write_queue_max,
            metrics.write_queue.clone(),
        )));
        // Built first, so that an error half-way stops the threads that were started.
        let mut lanes = Self {
            engine: engine.clone(),
            reads,
            writes,
            background: Arc::default(),
            tender: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..readers.max(1) {
            let (queue, engine) = (lanes.reads.clone(), engine.clone());
            lanes.spawn("docdb-reader", move || read_loop(&queue, &engine))?;
        }
        let sweeper = engine.clone();
        lanes.spawn("docdb-sweeper", move || sweeper.transactions.sweep(&sweeper))?;
        let (writer, background, shared) = (lanes.writes.clone(), lanes.background.clone(), engine.clone());
        lanes.spawn("docdb-background", move || background.run(&shared, &writer))?;
        let (tender, tended) = (lanes.tender.clone(), engine.clone());
        lanes.spawn("docdb-tender", move || tender.run(&tended))?;
        let (queue, tender) = (lanes.writes.0.clone(), lanes.tender.clone());
        lanes.spawn("docdb-writer", move || write_loop(&queue, &engine, &tender))?;
        Ok(lanes)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn engine_shared(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The work that is done step by step.
    pub(crate) fn background(&self) -> &Arc<Background> {
        &self.background
    }

    /// Runs a short read now, on this thread.
    pub(crate) fn read_here<T>(&self, body: impl FnOnce(&Engine) -> Result<T>) -> Reply<T> {
        Reply::ready(self.read_now(body))
    }

    /// Runs a read on the caller's thread, whose outcome the caller looks at.
    pub(crate) fn read_now<T>(&self, body: impl FnOnce(&Engine) -> Result<T>) -> Result<T> {
        guarded(|| body(&self.engine))
    }

    /// Runs a read on a reader thread.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        deadline: Deadline,
        body: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::channel();
        let job: ReadJob = Box::new(move |engine| {
            let outcome = check(&deadline, engine).and_then(|()| guarded(|| body(engine)));
            sender.send(outcome);
        });
        match self.reads.push(job) {
            Ok(()) => reply,
            Err((error, _)) => Reply::ready(Err(error)),
        }
    }

    /// Runs a write with others in one commit. Its changes are dropped when it fails.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        deadline: Deadline,
        body: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.writes.write(deadline, body)
    }

    /// As [`write`](Self::write), with what is to be done with its outcome, on the writer's thread.
    pub(crate) fn write_then<T: Send + 'static>(
        &self,
        deadline: Deadline,
        body: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
        finish: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        self.writes.push(deadline, false, body, finish);
    }

    /// Runs a write in a commit of its own: for those that change so much that it should not be held in memory.
    pub(crate) fn write_alone<T: Send + 'static>(
        &self,
        deadline: Deadline,
        body: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::channel();
        self.writes
            .push(deadline, true, body, move |outcome| sender.send(outcome));
        reply
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|error| {
                Error::new(Code::InternalError, format!("start the thread {name:?}: {error}"))
            })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Writer {
    /// As [`Lanes::write`].
    pub(crate) fn write<T: Send + 'static>(
        &self,
        deadline: Deadline,
        body: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::channel();
        self.push(deadline, false, body, move |outcome| sender.send(outcome));
        reply
    }

    fn push<T: Send + 'static>(
        &self,
        deadline: Deadline,
        alone: bool,
        body: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
        finish: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let job = Box::new(Job {
            body,
            deadline,
            alone,
            outcome: None,
            finish,
        });
        if let Err((error, job)) = self.0.push(job) {
            job.finish(Err(error));
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.reads.close();
        self.background.close();
        self.tender.close();
        self.writes.0.close();
        self.engine.transactions.close();
        self.engine.bell.close();
        self.engine.tails.close();
        for thread in self.threads.drain(..) {
            // The last handle may go on a lane, inside a waker that it woke; a thread can't wait for itself.
            if thread.thread().id() != thread::current().id() {
                // Its panics were answered to the operations' callers.
                let _ = thread.join();
            }
        }
    }
}

/// A bounded queue between callers and a lane.
struct Queue<J> {
    name: &'static str,
    max: usize,
    depth: IntGauge,
    state: Mutex<QueueState<J>>,
    filled: Condvar,
}

struct QueueState<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl<J> Queue<J> {
    fn new(name: &'static str, max: usize, depth: IntGauge) -> Self {
        let state = Mutex::new(QueueState {
            jobs: VecDeque::new(),
            closed: false,
        });
        Self {
            name,
            max,
            depth,
            state,
            filled: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job, or gives it back with the reason.
    fn push(&self, job: J) -> Result<(), (Error, J)> {
        let mut state = self.lock();
        if state.closed {
            let error = Error::new(Code::ShutdownInProgress, "the database is being closed");
            return Err((error, job));
        }
        let waiting = state.jobs.len();
        if waiting >= self.max {
            let message = format!(
                "{waiting} operations are waiting, and {} is {}; try again",
                self.name, self.max
            );
            return Err((Error::new(Code::TooManyRequests, message), job));
        }
        state.jobs.push_back(job);
        self.depth.inc();
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Up to `max` jobs, waiting for the first; nothing when the queue is closed and empty.
    fn take(&self, max: usize) -> Vec<J> {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.closed {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = state.jobs.len().min(max);
        self.depth.sub(i64::try_from(count).unwrap_or(i64::MAX));
        state.jobs.drain(..count).collect()
    }

    fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

/// A write as the writer sees it, whatever it answers.
trait WriteJob: Send {
    /// Runs it; true when its changes are to be kept. May be called again when the store asks for it.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;

    /// Whether it takes a commit of its own.
    fn alone(&self) -> bool;

    /// Answers the caller, after the commit.
    fn finish(self: Box<Self>, committed: Result<()>);
}

struct Job<T, F, S> {
    body: F,
    deadline: Deadline,
    alone: bool,
    outcome: Option<Result<T>>,
    /// What is done with the outcome.
    finish: S,
}

impl<T, F, S> WriteJob for Job<T, F, S>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> Result<T> + Send,
    S: FnOnce(Result<T>) + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let outcome = check(&self.deadline, tx.engine).and_then(|()| guarded(|| (self.body)(tx)));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn alone(&self) -> bool {
        self.alone
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        let Self {
            body,
            outcome,
            finish,
            ..
        } = *self;
        // What it holds is free when its caller hears of it.
        drop(body);
        finish(match (outcome, committed) {
            // Its own failure has nothing to do with the commit of the others.
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(outcome), Ok(())) => outcome,
            (None, Ok(())) => Err(Error::new(Code::InternalError, "the store did not run a write")),
        });
    }
}

fn read_loop(queue: &Queue<ReadJob>, engine: &Engine) {
    while let Some(job) = queue.take(1).pop() {
        // The body is guarded already; this is for a waker that panics.
        let _ = catch_unwind(AssertUnwindSafe(|| job(engine)));
    }
}

fn write_loop(queue: &Queue<Box<dyn WriteJob>>, engine: &Engine, tender: &Tender) {
    loop {
        let mut jobs = queue.take(OPERATIONS_PER_COMMIT_MAX);
        if jobs.is_empty() {
            return;
        }
        while !jobs.is_empty() {
            let together = jobs.iter().take_while(|job| !job.alone()).count();
            let rest = jobs.split_off(together.max(1));
            let group = std::mem::replace(&mut jobs, rest);
            let _ = catch_unwind(AssertUnwindSafe(|| run_group(engine, group)));
            if engine.is_due() {
                tender.wake();
            }
        }
    }
}

/// Runs a group of writes in one transaction, commits it, and answers all of them.
fn run_group(engine: &Engine, mut jobs: Vec<Box<dyn WriteJob>>) {
    let started = engine.clock.monotonic();
    let mut changed = false;
    let mut appended = None;
    let mut tailed = BTreeSet::new();
    let committed = guarded(|| {
        engine.commit(&mut |store, catalog| {
            appended = None;
            tailed.clear();
            let mut feed = Pending::new(&engine.limits);
            let catalog = if let [job] = jobs.as_mut_slice()
                && job.alone()
            {
                let mut tx = Tx {
                    kv: &mut *store,
                    catalog,
                    engine,
                    feed,
                    bypass_validation: false,
                    in_transaction: false,
                };
                changed = job.run(&mut tx);
                if !changed {
                    return Err(Error::new(Code::InternalError, "the write failed"));
                }
                feed = tx.feed;
                tx.catalog
            } else {
                let mut merged = false;
                let catalog = run_overlaid(engine, store, catalog, &mut jobs, &mut merged, &mut feed);
                changed = merged;
                catalog?
            };
            tailed.append(&mut feed.take_tailed());
            if !feed.is_empty() {
                appended = Some(feed::append(store, &feed, engine.clock.now(), &engine.limits)?);
            }
            Ok(catalog)
        })
    });
    match (appended, &committed) {
        (Some(appended), Ok(())) => engine.tell(&appended),
        // Whether its events are there is not known.
        (Some(_), Err(_)) => engine.look_at_log(),
        (None, _) => {}
    }
    // Also when it is not known whether the commit is there: they look for themselves.
    if !tailed.is_empty() {
        engine.tails.ring_again(&tailed);
    }
    if changed && committed.is_ok() {
        let metrics = &engine.metrics;
        metrics.commits.inc();
        metrics.operations_per_commit.observe(jobs.len() as f64);
        metrics
            .commit_seconds
            .observe(engine.clock.monotonic().saturating_sub(started).as_secs_f64());
    }
    for job in jobs {
        let committed = committed.clone();
        // A waker that panics must not keep the others from their answers.
        let _ = catch_unwind(AssertUnwindSafe(|| job.finish(committed)));
    }
}

/// Runs each write on an overlay and merges those that succeed. (redb refuses savepoints once a table was opened.)
fn run_overlaid(
    engine: &Engine,
    store: &mut dyn KvWrite,
    mut catalog: Arc<Catalog>,
    jobs: &mut [Box<dyn WriteJob>],
    merged: &mut bool,
    feed: &mut Pending,
) -> Result<Arc<Catalog>> {
    for job in jobs {
        let mut overlay = Overlay::new(&*store);
        let mut tx = Tx {
            kv: &mut overlay,
            catalog: catalog.clone(),
            engine,
            feed: Pending::new(&engine.limits),
            bypass_validation: false,
            in_transaction: false,
        };
        if !job.run(&mut tx) {
            continue;
        }
        catalog = tx.catalog;
        feed.extend(&tx.feed);
        for (key, change) in overlay.into_changes() {
            *merged = true;
            match change {
                Some(value) => store.put(&key, &value)?,
                None => store.delete(&key)?,
            }
        }
    }
    Ok(catalog)
}

fn check(deadline: &Deadline, engine: &Engine) -> Result<()> {
    deadline
        .check(engine.clock.as_ref())
        .map_err(|expired| Error::new(Code::MaxTimeMSExpired, expired.to_string()))
}

/// Runs `body`, answering a panic as an error: it is our bug, and costs only the operation that hit it.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(panic = %what, "a database operation panicked");
        Err(Error::new(
            Code::InternalError,
            format!("the database operation panicked: {what}"),
        ))
    })
}
