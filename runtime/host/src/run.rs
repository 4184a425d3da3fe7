//! The record of one invocation that everything of it shares: who asked, by when, what it has used, what it has
//! said, and the response it has set. One allocation, made when the invocation is admitted.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloudlet_base::{Deadline, Principal};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::app::{Function, FunctionLimits, Invocation, LoadedApp, Trigger};
use crate::logs::{LogLevel, LogLine, LogStream};

/// Longest log line; what a guest writes beyond it becomes the next line.
const LINE_BYTES_MAX: usize = 8 * 1024;

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
    pub(crate) answer: Mutex<Option<Answer>>,
    lines: Lines,
}

/// What an invocation has used and run into. Written by the one task that drives it; atomics because the record is
/// shared.
#[derive(Default)]
pub(crate) struct Meter {
    /// When the poll that runs now began, nanoseconds of monotonic time.
    poll_began: AtomicU64,
    /// Time of earlier polls, less what was not the guest's own.
    used: AtomicU64,
    /// A memory or table could not grow to what the guest asked for.
    pub(crate) growth_denied: AtomicBool,
    /// The request body went over its limit.
    pub(crate) request_too_large: AtomicBool,
    /// Outbound requests sent.
    pub(crate) outbound_sent: AtomicU32,
}

#[derive(Default)]
struct Lines {
    written: AtomicU32,
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    /// A poll of the guest begins.
    pub(crate) fn begin(&self, now: Duration) {
        self.poll_began.store(nanos(now), Ordering::Relaxed);
    }

    /// The poll has ended.
    pub(crate) fn end(&self, now: Duration) {
        let began = self.poll_began.load(Ordering::Relaxed);
        self.used
            .fetch_add(nanos(now).saturating_sub(began), Ordering::Relaxed);
    }

    /// Computing time up to `now`, within a poll.
    pub(crate) fn used(&self, now: Duration) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed)) + self.in_this_poll(now)
    }

    /// Time since the poll that runs now began.
    pub(crate) fn in_this_poll(&self, now: Duration) -> Duration {
        let began = self.poll_began.load(Ordering::Relaxed);
        Duration::from_nanos(nanos(now).saturating_sub(began))
    }

    /// Takes `time` of the poll that runs now off the guest's account: another function ran in it.
    pub(crate) fn exclude(&self, time: Duration) {
        self.poll_began.fetch_add(nanos(time), Ordering::Relaxed);
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
            answer: Mutex::new(None),
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
        self.emit(level, LogStream::Platform, text);
    }

    /// A line of the guest's, as far as it may say more.
    pub(crate) fn line(&self, level: LogLevel, stream: LogStream, text: String) {
        let limit = self.limits().log_lines_max;
        let before = self.lines.written.fetch_add(1, Ordering::Relaxed);
        if before < limit {
            self.emit(level, stream, text);
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
            while pending.len() > LINE_BYTES_MAX {
                let rest = pending.split_off(LINE_BYTES_MAX);
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
        self.line(level, stream, text);
    }

    fn emit(&self, level: LogLevel, stream: LogStream, text: String) {
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

    #[test]
    fn counts_polls_and_leaves_out_what_was_excluded() {
        let ms = Duration::from_millis;
        let meter = Meter::default();
        meter.begin(ms(100));
        meter.end(ms(130));
        meter.begin(ms(200));
        assert_eq!(meter.used(ms(205)), ms(35));
        meter.exclude(ms(4));
        assert_eq!(meter.used(ms(205)), ms(31));
        assert_eq!(meter.in_this_poll(ms(205)), ms(1));
        meter.end(ms(210));
        meter.begin(ms(300));
        assert_eq!(meter.used(ms(300)), ms(36));
    }
}
