//! One instance: the store's state and limits, driving the guest within its time, and what became of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use wasmtime::component::ResourceTable;
use wasmtime::{
    PoolConcurrencyLimitError, ResourceLimiter, Store, StoreContextMut, Trap, UpdateDeadline, WasmBacktrace,
};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::admit::Admitted;
use crate::engine::epoch_tick;
use crate::error::{InvokeError, TrapReason};
use crate::imports::{View, wasi};
use crate::logs::LogLine;
use crate::metrics::{Outcome, Scope};
use crate::outbound::Outbound;
use crate::run::{Run, lock};
use crate::turns;

/// Host resources (streams, pollables, headers, cursors) that one guest may hold at once.
const RESOURCES_MAX: usize = 4096;
/// In-memory size of one set of header fields.
const FIELDS_BYTES_MAX: usize = 128 * 1024;
/// Bytes that one call from the guest may hand to the host.
const HOST_CALL_BYTES_MAX: usize = 64 << 20;
/// Elements of all of a guest's tables together; what an interpreter needs, with room.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// A trap's cause and the guest's last words.
const MESSAGE_BYTES_MAX: usize = 2 * 1024;

/// What a store holds besides the guest.
pub(crate) struct State {
    pub(crate) run: Arc<Run>,
    pub(crate) table: ResourceTable,
    /// Made when the guest first asks for something of it; many never do.
    wasi: Option<Box<WasiCtx>>,
    http: WasiHttpCtx,
    outbound: Outbound,
    limiter: Limiter,
}

impl State {
    /// A store for one invocation.
    pub(crate) fn store(run: &Arc<Run>) -> Store<State> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let state = State {
            table,
            wasi: None,
            http,
            outbound: Outbound(Arc::clone(run)),
            limiter: Limiter {
                memory_bytes_max: run.limits().memory_bytes_max,
                memory_bytes: 0,
                run: Arc::clone(run),
            },
            run: Arc::clone(run),
        };
        let mut store = Store::new(&run.app.shared.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(on_tick);
        store
    }

    /// What the imports see.
    pub(crate) fn view(&mut self) -> View<'_> {
        View {
            run: &self.run,
            table: &mut self.table,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: self
                .wasi
                .get_or_insert_with(|| Box::new(wasi::context(&self.run))),
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outbound,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// Keeps memories and tables within the function's limits.
struct Limiter {
    /// Of all the guest's memories together.
    memory_bytes_max: usize,
    memory_bytes: usize,
    run: Arc<Run>,
}

impl Limiter {
    fn allow(&self, allowed: bool) -> wasmtime::Result<bool> {
        if !allowed {
            self.run.meter.growth_denied.store(true, Ordering::Relaxed);
        }
        Ok(allowed)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        let allowed = total <= self.memory_bytes_max && maximum.is_none_or(|max| desired <= max);
        if allowed {
            self.memory_bytes = total;
            self.run.meter.memory_bytes.store(total as u64, Ordering::Relaxed);
        }
        self.allow(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.allow(desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|max| desired <= max))
    }
}

/// A budget that is spent.
#[derive(Debug, Clone, Copy)]
enum Spent {
    Cpu(Duration),
    Time,
}

impl std::fmt::Display for Spent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Spent::Cpu(limit) => write!(f, "the function computed for longer than its limit of {limit:?}"),
            Spent::Time => f.write_str("the invocation's time is over"),
        }
    }
}

impl std::error::Error for Spent {}

/// Called when the epoch has moved on while the guest computes: ends it when a budget is spent, else lets the
/// thread's other connections have their turn.
fn on_tick(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let run = &store.data().run;
    let shared = &run.app.shared;
    let now = run.now();
    let limit = run.limits().cpu;
    if run.meter.tick(&*shared.clock, now) > limit {
        return Err(wasmtime::Error::new(Spent::Cpu(limit)));
    }
    if now >= run.ends_at || run.invocation.deadline.check(&*shared.clock).is_err() {
        return Err(wasmtime::Error::new(Spent::Time));
    }
    if run.meter.in_this_poll(now) < epoch_tick(&shared.computing) / 2 {
        // The tick fell into this poll by chance.
        return Ok(UpdateDeadline::Continue(1));
    }
    let next = turns::next(lock(&run.turn).take(), &shared.computing);
    let run = Arc::clone(run);
    let wait = async move {
        let turn = next.await;
        *lock(&run.turn) = turn;
    };
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(wait)))
}

/// Why a guest did not come to its own end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It trapped, or its computing time was spent.
    Trapped { reason: TrapReason, message: String },
    /// Its time was over.
    Deadline,
    /// The pool had no room: a permit does not cover a component with several memories.
    Busy,
}

impl Stop {
    /// The error that the caller sees.
    pub(crate) fn into_error(self, run: &Run) -> InvokeError {
        let function = run.function.spec.name.to_string();
        match self {
            Stop::Trapped { reason, message } => InvokeError::Trapped {
                function,
                reason,
                message,
            },
            Stop::Deadline => InvokeError::Deadline { function },
            Stop::Busy => InvokeError::Busy {
                function,
                scope: Scope::Node,
                limit: run.app.shared.config.instances_max as usize,
            },
        }
    }
}

/// A guest at work. Whoever polls it drives it; dropping it stops it.
pub(crate) struct Guest<T> {
    work: Option<Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send>>>,
    /// Made when the guest first waits for something; one that never does needs no timer.
    timer: Option<Pin<Box<Sleep>>>,
    admitted: Option<Admitted>,
    /// What is counted when it ends by itself; a caller that knows better sets it.
    pub(crate) outcome: Outcome,
    pub(crate) run: Arc<Run>,
}

impl<T> Guest<T> {
    /// A guest that does `work`: instantiate, call, drop the store.
    pub(crate) fn new(
        run: Arc<Run>,
        admitted: Admitted,
        work: impl Future<Output = wasmtime::Result<T>> + Send + 'static,
    ) -> Self {
        Self {
            work: Some(Box::pin(work)),
            timer: None,
            admitted: Some(admitted),
            outcome: Outcome::Cancelled,
            run,
        }
    }

    /// Drives the guest. Must not be called again once it was ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Stop>> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(Err(Stop::Deadline));
        };
        let clock = &*self.run.app.shared.clock;
        self.run.meter.begin(clock);
        let polled = work.as_mut().poll(cx);
        let now = clock.monotonic();
        self.run.meter.end(clock, now);
        // Whether it is done or waits for something: a slice is for computing. One that waits for its next has none.
        drop(lock(&self.run.turn).take());
        let end = match polled {
            Poll::Ready(Ok(value)) => {
                self.outcome = Outcome::Ok;
                Ok(value)
            }
            Poll::Ready(Err(error)) => Err(self.stopped(&error)),
            Poll::Pending => {
                let left = self.run.ends_at.saturating_sub(now);
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
                if !left.is_zero() && timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                Err(self.stopped(&wasmtime::Error::new(Spent::Time)))
            }
        };
        self.work = None;
        self.admitted = None;
        self.run.flush();
        Poll::Ready(end)
    }

    /// Whether it is still at work.
    pub(crate) fn is_running(&self) -> bool {
        self.work.is_some()
    }

    fn stopped(&mut self, error: &wasmtime::Error) -> Stop {
        // A line without its end may be why the guest stops.
        self.run.flush();
        let stop = classify(error, self.run.meter.growth_denied.load(Ordering::Relaxed));
        let metrics = &self.run.app.shared.metrics;
        match &stop {
            Stop::Trapped { reason, message } => {
                self.outcome = Outcome::Trap;
                metrics.trapped(*reason);
                self.run.fail(crash(message, &self.run.last_words(), error));
            }
            Stop::Deadline => {
                self.outcome = Outcome::Deadline;
                metrics.trapped(TrapReason::Timeout);
                let limit = self.run.limits().timeout;
                let message = format!("stopped: no end within its time ({limit:?} at most)");
                self.run.fail(crash(&message, "", error));
            }
            Stop::Busy => {
                self.outcome = Outcome::Internal;
                self.run
                    .fail("the node's pool of instances is exhausted".to_owned());
            }
        }
        stop
    }
}

impl<T> Drop for Guest<T> {
    fn drop(&mut self) {
        if self.work.take().is_some() {
            self.run.flush();
        }
        self.run.ended(self.outcome);
        self.run
            .app
            .shared
            .metrics
            .invoked(self.run.trigger, self.outcome);
    }
}

/// What a guest's failure means.
fn classify(error: &wasmtime::Error, growth_denied: bool) -> Stop {
    let message = |prefix: &str| cut(format!("{prefix}{}", causes(error)), MESSAGE_BYTES_MAX);
    if let Some(spent) = error.downcast_ref::<Spent>() {
        return match spent {
            Spent::Time => Stop::Deadline,
            Spent::Cpu(_) => Stop::Trapped {
                reason: TrapReason::CpuLimit,
                message: message(""),
            },
        };
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Stop::Busy;
    }
    if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        return Stop::Trapped {
            reason: TrapReason::Exit,
            message: format!("the function exited with status {status} instead of answering"),
        };
    }
    let reason = match error.downcast_ref::<Trap>() {
        // A guest's allocator that was refused memory ends in `unreachable`.
        Some(Trap::UnreachableCodeReached) if growth_denied => TrapReason::MemoryLimit,
        Some(Trap::UnreachableCodeReached) => TrapReason::Unreachable,
        Some(Trap::MemoryOutOfBounds | Trap::HeapMisaligned) => TrapReason::MemoryOutOfBounds,
        Some(Trap::StackOverflow) => TrapReason::StackOverflow,
        _ => TrapReason::Other,
    };
    let prefix = match reason {
        TrapReason::MemoryLimit => "the function wanted more memory than its limit: ",
        _ => "",
    };
    Stop::Trapped {
        reason,
        message: message(prefix),
    }
}

/// The chain of causes without the guest's backtrace, which is one of its links.
fn causes(error: &wasmtime::Error) -> String {
    let backtrace = backtrace(error);
    let links = error.chain().map(ToString::to_string);
    let links = links.filter(|link| backtrace.as_ref() != Some(link));
    links.collect::<Vec<_>>().join(": ")
}

/// Where the guest was: the names of its functions where the component has names, files and lines where it has DWARF.
fn backtrace(error: &wasmtime::Error) -> Option<String> {
    Some(error.downcast_ref::<WasmBacktrace>()?.to_string())
}

/// What the log says of a crash.
fn crash(message: &str, last_words: &str, error: &wasmtime::Error) -> String {
    let mut text = message.to_owned();
    if !last_words.is_empty() {
        text = format!("{text}\nit wrote last to standard error:\n{last_words}");
    }
    text = cut(text, MESSAGE_BYTES_MAX);
    if let Some(backtrace) = backtrace(error) {
        text = format!("{text}\n{backtrace}");
    }
    cut(text, LogLine::TEXT_BYTES_MAX)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = text.floor_char_boundary(bytes_max - '…'.len_utf8());
        text.truncate(end);
        text.push('…');
    }
    text
}
