//! The record of one invocation that everything of it shares: who asked, by when, what it has used, what it has
//! said, and the response it has set. One allocation, made when the invocation is admitted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloudlet_base::{Clock, Deadline, Principal};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::app::{Function, FunctionLimits, Invocation, LoadedApp, Trigger};
use crate::engine::EPOCH_TICK;
use crate::logs::{InvocationEnd, LogDetail, LogLevel, LogLine, LogStream};
use crate::metrics::Outcome;
use crate::turns::Turn;

/// Lines of standard error that are kept for the case that the guest crashes: a panic's message is among the last.
const LAST_WORDS_MAX: usize = 8;
/// Bytes that are kept of each of them.
const LAST_WORD_BYTES_MAX: usize = 512;

/// What a guest hands to `response-outparam.set`.
pub(crate) type Answer = Result<hyper::Response<HyperOutgoingBody>, ErrorCode>;

/// One invocation.
pub(crate) struct Run {
    pub(crate) app: Arc<LoadedApp>,
    pub(crate) function: Arc<Function>,
    pub(crate) trigger: Trigger,
    pub(crate) invocation: Invocation,
    /// The earlier of the caller's deadline and the function's timeout.
    pub(crate) deadline: Deadline,
    /// Its monotonic time, for comparing without going through an `Option`.
    pub(crate) ends_at: Duration,
    pub(crate) meter: Meter,
    /// Its slice, while it computes for long.
    pub(crate) turn: Mutex<Option<Turn>>,
    pub(crate) answer: Mutex<Option<Answer>>,
    /// Monotonic time at which it was admitted.
    began_at: Duration,
    /// Status of the guest's response; 0 before there is one.
    status: AtomicU16,
    /// Why it failed, for the line about its end.
    failure: Mutex<Option<String>>,
    lines: Lines,
}

/// What an invocation has used and run into. Written by the one task that drives it; atomics because the record is
/// shared.
///
/// What a guest computes is told by the thread's own clock, so that a busy machine is not charged to it. That clock is a
/// system call, and most guests answer long before a tick: it is read from the first tick on that finds the guest computing.
/// What came before in that poll counts as the time that went by, but for a tick at most, for more would be time in which
/// the thread had no core.
#[derive(Default)]
pub(crate) struct Meter {
    /// When the poll that runs now began, nanoseconds of monotonic time.
    poll_began: AtomicU64,
    /// What the thread had computed when the poll began or a tick first came, nanoseconds; [`UNREAD`] before.
    cpu_began: AtomicU64,
    /// A tick has come while it computed.
    computes: AtomicBool,
    /// Computing time of earlier polls, less what was not the guest's own.
    used: AtomicU64,
    /// A memory or table could not grow to what the guest asked for.
    pub(crate) growth_denied: AtomicBool,
    /// The request body went over its limit.
    pub(crate) request_too_large: AtomicBool,
    /// What its handles hold in the node's memory.
    pub(crate) held_bytes: AtomicU64,
    /// Outbound requests sent.
    pub(crate) outbound_sent: AtomicU32,
    /// Linear memory, bytes; it never shrinks.
    pub(crate) memory_bytes: AtomicU64,
    /// Bytes of their bodies and of those of their responses.
    pub(crate) outbound_bytes: AtomicU64,
}

/// The thread's clock was not read.
const UNREAD: u64 = u64::MAX;

#[derive(Default)]
struct Lines {
    written: AtomicU32,
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
    last_words: Mutex<VecDeque<String>>,
}

/// What counts at most of a poll that the thread's clock does not tell of.
const TICK_NANOS: u64 = EPOCH_TICK.as_nanos() as u64;

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    /// A poll of the guest begins.
    pub(crate) fn begin(&self, clock: &dyn Clock) {
        let cpu = match self.computes.load(Ordering::Relaxed) {
            true => nanos(clock.thread_cpu()),
            false => UNREAD,
        };
        self.cpu_began.store(cpu, Ordering::Relaxed);
        self.poll_began.store(nanos(clock.monotonic()), Ordering::Relaxed);
    }

    /// The poll has ended, `now`.
    pub(crate) fn end(&self, clock: &dyn Clock, now: Duration) {
        let used = match self.cpu_began.load(Ordering::Relaxed) {
            UNREAD => nanos(self.in_this_poll(now)).min(TICK_NANOS),
            began => nanos(clock.thread_cpu()).saturating_sub(began),
        };
        self.used.fetch_add(used, Ordering::Relaxed);
    }

    /// What the guest has computed in the polls that have ended.
    fn computed(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// A tick finds the guest computing, `now`: what it has computed in all.
    pub(crate) fn tick(&self, clock: &dyn Clock, now: Duration) -> Duration {
        let cpu = nanos(clock.thread_cpu());
        let in_this_poll = match self.cpu_began.load(Ordering::Relaxed) {
            UNREAD => {
                self.computes.store(true, Ordering::Relaxed);
                let before = nanos(self.in_this_poll(now)).min(TICK_NANOS);
                self.cpu_began
                    .store(cpu.saturating_sub(before), Ordering::Relaxed);
                before
            }
            began => cpu.saturating_sub(began),
        };
        Duration::from_nanos(self.used.load(Ordering::Relaxed).saturating_add(in_this_poll))
    }

    /// Time since the poll that runs now began.
    pub(crate) fn in_this_poll(&self, now: Duration) -> Duration {
        let began = self.poll_began.load(Ordering::Relaxed);
        Duration::from_nanos(nanos(now).saturating_sub(began))
    }

    /// Runs another function within this guest's poll, and takes that off its account.
    pub(crate) fn excluding<T>(&self, clock: &dyn Clock, other: impl FnOnce() -> T) -> T {
        let reads_cpu = self.cpu_began.load(Ordering::Relaxed) != UNREAD;
        let (began, cpu_began) = (clock.monotonic(), reads_cpu.then(|| clock.thread_cpu()));
        let result = other();
        let took = clock.monotonic().saturating_sub(began);
        self.poll_began.fetch_add(nanos(took), Ordering::Relaxed);
        if let Some(cpu_began) = cpu_began {
            let computed = clock.thread_cpu().saturating_sub(cpu_began);
            self.cpu_began.fetch_add(nanos(computed), Ordering::Relaxed);
        }
        result
    }
}

impl Run {
    /// The record of an invocation that begins `now`.
    pub(crate) fn new(
        app: Arc<LoadedApp>,
        function: Arc<Function>,
        trigger: Trigger,
        invocation: Invocation,
        now: Duration,
    ) -> Arc<Self> {
        let own = now.saturating_add(function.spec.limits.timeout);
        let (deadline, ends_at) = match invocation.deadline.at() {
            Some(at) if at <= own => (invocation.deadline.clone(), at),
            _ => (
                Deadline::after(&*app.shared.clock, function.spec.limits.timeout),
                own,
            ),
        };
        Arc::new(Self {
            app,
            function,
            trigger,
            invocation,
            deadline,
            ends_at,
            meter: Meter::default(),
            turn: Mutex::new(None),
            answer: Mutex::new(None),
            began_at: now,
            status: AtomicU16::new(0),
            failure: Mutex::new(None),
            lines: Lines::default(),
        })
    }

    pub(crate) fn limits(&self) -> &FunctionLimits {
        &self.function.spec.limits
    }

    pub(crate) fn now(&self) -> Duration {
        self.app.shared.clock.monotonic()
    }

    /// The function acting for itself.
    pub(crate) fn as_function(&self) -> Principal {
        Principal::Function {
            app: self.app.app.clone(),
            function: Arc::clone(&self.function.spec.name),
        }
    }

    /// The response that the guest has set since the last time, if any.
    pub(crate) fn take_answer(&self) -> Option<Answer> {
        lock(&self.answer).take()
    }

    /// Something the platform has to say about this invocation.
    pub(crate) fn platform(&self, level: LogLevel, text: String) {
        self.emit(level, LogStream::Platform, text, LogDetail::None);
    }

    /// Notes why the invocation fails; the line about its end says it. The first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        lock(&self.failure).get_or_insert(reason);
    }

    /// Notes the status of the guest's response.
    pub(crate) fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// The invocation is over: a failed one is told of, with what it used; any other when the node wants that.
    pub(crate) fn ended(&self, outcome: Outcome) {
        let failure = lock(&self.failure).take();
        let status = Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0);
        let gave_error = status.is_some_and(|status| status >= 500);
        let failed = failure.is_some() || !matches!(outcome, Outcome::Ok | Outcome::Cancelled);
        if !failed && !gave_error && !self.app.shared.config.log_every_invocation {
            return;
        }
        let level = match (failed, gave_error) {
            (true, _) => LogLevel::Error,
            (false, true) => LogLevel::Warn,
            (false, false) => LogLevel::Info,
        };
        let text = failure.unwrap_or_else(|| match (outcome, status) {
            (Outcome::Ok, Some(status)) => format!("answered with status {status}"),
            (Outcome::Ok, None) => "answered".to_owned(),
            (Outcome::Cancelled, _) => "stopped: the caller went away".to_owned(),
            (Outcome::TooLarge, _) => {
                let limit = self.limits().request_bytes_max;
                format!("stopped: the request body is larger than the limit of {limit} bytes")
            }
            (outcome, _) => format!("failed: {}", outcome.label()),
        });
        let end = InvocationEnd {
            outcome: outcome.label().into(),
            trigger: self.trigger.label().into(),
            status,
            duration: self.now().saturating_sub(self.began_at),
            cpu: self.meter.computed(),
            memory_bytes: self.meter.memory_bytes.load(Ordering::Relaxed),
        };
        self.emit(level, LogStream::Platform, text, LogDetail::End(Box::new(end)));
    }

    /// The last lines that the guest wrote to standard error, without what is of no use in a log.
    pub(crate) fn last_words(&self) -> String {
        let words = lock(&self.lines.last_words);
        let said = words
            .iter()
            .filter(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE"));
        said.cloned().collect::<Vec<_>>().join("\n")
    }

    /// A line of the guest's, as far as it may say more.
    pub(crate) fn line(&self, level: LogLevel, stream: LogStream, text: String, detail: LogDetail) {
        let limit = self.limits().log_lines_max;
        let before = self.lines.written.fetch_add(1, Ordering::Relaxed);
        if before < limit {
            self.emit(level, stream, text, detail);
        } else if before == limit {
            self.platform(
                LogLevel::Warn,
                format!("the limit of {limit} log lines is reached; further lines are dropped"),
            );
        } else {
            // Keeps the count from wrapping around.
            self.lines.written.store(limit + 1, Ordering::Relaxed);
        }
    }

    /// Bytes that the guest wrote to stdout or stderr; whole lines go out, the rest waits for its end.
    pub(crate) fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut pending = lock(self.pending(stream));
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    pending.extend_from_slice(end);
                    self.flush_line(stream, &mut pending);
                }
                None => pending.extend_from_slice(part),
            }
            while pending.len() > LogLine::TEXT_BYTES_MAX {
                let rest = pending.split_off(LogLine::TEXT_BYTES_MAX);
                self.flush_line(stream, &mut pending);
                *pending = rest;
            }
        }
    }

    /// The invocation is over: unfinished lines go out as they are.
    pub(crate) fn flush(&self) {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let mut pending = lock(self.pending(stream));
            if !pending.is_empty() {
                self.flush_line(stream, &mut pending);
            }
        }
    }

    fn pending(&self, stream: LogStream) -> &Mutex<Vec<u8>> {
        match stream {
            LogStream::Stderr => &self.lines.stderr,
            _ => &self.lines.stdout,
        }
    }

    fn flush_line(&self, stream: LogStream, pending: &mut Vec<u8>) {
        let level = match stream {
            LogStream::Stderr => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        let text = String::from_utf8_lossy(pending).into_owned();
        pending.clear();
        if stream == LogStream::Stderr {
            let mut words = lock(&self.lines.last_words);
            if words.len() == LAST_WORDS_MAX {
                words.pop_front();
            }
            words.push_back(text[..text.floor_char_boundary(LAST_WORD_BYTES_MAX)].to_owned());
        }
        self.line(level, stream, text, LogDetail::None);
    }

    fn emit(&self, level: LogLevel, stream: LogStream, text: String, detail: LogDetail) {
        let shared = &self.app.shared;
        shared.logs.line(LogLine {
            at: shared.clock.now(),
            app: self.app.app.clone(),
            function: Arc::clone(&self.function.spec.name),
            deployment: self.app.deployment,
            request: self.invocation.request,
            level,
            stream,
            text,
            detail,
        });
    }
}

/// Locks a mutex whose data stay whole whatever panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both clocks in milliseconds, to be set.
    #[derive(Default)]
    struct Clocks {
        wall: AtomicU64,
        cpu: AtomicU64,
    }

    impl Clocks {
        /// Time goes by, in part of which the thread computes.
        fn pass(&self, wall: u64, cpu: u64) {
            self.wall.fetch_add(wall, Ordering::Relaxed);
            self.cpu.fetch_add(cpu, Ordering::Relaxed);
        }
    }

    impl Clock for Clocks {
        fn now(&self) -> cloudlet_base::Timestamp {
            cloudlet_base::Timestamp::default()
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.wall.load(Ordering::Relaxed))
        }

        fn thread_cpu(&self) -> Duration {
            Duration::from_millis(self.cpu.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_guest_is_charged_what_its_thread_computes_and_not_what_it_waits() {
        let (meter, clocks) = (Meter::default(), Clocks::default());
        let used = || meter.tick(&clocks, clocks.monotonic()).as_millis();
        clocks.pass(100, 50);
        meter.begin(&clocks);
        // Before the first tick there is only the time that went by to go by, and most of this was no computing.
        clocks.pass(40, 3);
        assert_eq!(used(), 2);
        clocks.pass(30, 20);
        assert_eq!(used(), 22);
        meter.end(&clocks, clocks.monotonic());
        // Other guests on the thread.
        clocks.pass(100, 100);
        meter.begin(&clocks);
        clocks.pass(9, 5);
        assert_eq!(used(), 27);
        // A function that it calls.
        meter.excluding(&clocks, || clocks.pass(50, 40));
        assert_eq!(used(), 27);
        assert_eq!(meter.in_this_poll(clocks.monotonic()).as_millis(), 9);
        meter.end(&clocks, clocks.monotonic());
        meter.begin(&clocks);
        assert_eq!(used(), 27);
    }

    #[test]
    fn a_guest_that_never_meets_a_tick_is_charged_a_tick_for_each_poll_at_most() {
        let (meter, clocks) = (Meter::default(), Clocks::default());
        for (wall, callee) in [(1, 0), (40, 0), (41, 40)] {
            meter.begin(&clocks);
            clocks.pass(wall - callee, 1);
            meter.excluding(&clocks, || clocks.pass(callee, callee));
            meter.end(&clocks, clocks.monotonic());
        }
        meter.begin(&clocks);
        assert_eq!(meter.tick(&clocks, clocks.monotonic()).as_millis(), 1 + 2 + 1);
    }
}
