//! What functions say, kept on disk within bounds, and read and followed. The host hands lines up through [`LogSink`];
//! the admin API reads them. Taking a line is quick and never waits: it goes to those who follow and into a bounded
//! queue, from which a thread writes it to the app's files (writer.rs, segments.rs; the bytes are described in
//! `runtime/docs/logs-format.md`). What does not fit, and what a flood has too much of (sample.rs), is counted and told.

mod query;
mod record;
mod sample;
mod segments;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use cloudlet_base::{AppId, Clock, DeploymentId, Timestamp};
use cloudlet_host::{LogDetail, LogLevel, LogLine, LogSink, LogStream};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{Semaphore, broadcast, watch};

use query::Page;
pub(crate) use query::{LogFilter, StatusFilter};
use sample::{LeftOut, NO_REQUEST, ONE_IN, Sampler};

/// Bytes of lines of all apps that wait to be written; further ones are lost and counted.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Lines that a follower may lag behind in memory before it goes on from the files.
const LAG_MAX: usize = 1024;
/// What a line costs besides its text.
const LINE_BYTES: usize = 160;
/// Questions answered at once; each holds a segment and a page in memory.
const READERS_MAX: usize = 4;
/// Lines in one page of a follower that reads the files.
const FOLLOWED_PAGE: usize = 1000;
/// How long [`Logs::flush`] waits for a disk that does not answer.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// How much is kept, and of how much.
#[derive(Debug, Clone)]
pub(crate) struct LogBounds {
    /// Bytes of all apps' files.
    pub(crate) store_bytes: u64,
    /// Bytes of one app's files.
    pub(crate) app_bytes: u64,
    /// Files with nothing younger than this go.
    pub(crate) store_age: Duration,
    /// Lines of one function a second that are all kept; of those beyond one in a hundred is.
    pub(crate) lines_per_second: u64,
}

/// A line with its number, which grows with every line of the app and is never given twice.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) line: LogLine,
}

impl Entry {
    fn cost(&self) -> usize {
        self.line.text.len() + LINE_BYTES
    }
}

/// The lines of all apps.
pub(crate) struct Logs {
    dir: PathBuf,
    bounds: LogBounds,
    clock: Arc<dyn Clock>,
    apps: RwLock<HashMap<AppId, Arc<AppLogs>>>,
    /// Bytes of entries that are not written yet.
    queued: AtomicUsize,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    /// Something is to be told at the next tick: what was left out or lost.
    owing: AtomicBool,
    readers: Semaphore,
    /// Whether followers are to end.
    closing: watch::Sender<bool>,
    metrics: Metrics,
}

/// What the writer has to do.
#[derive(Default)]
struct Inbox {
    /// Apps with entries to write.
    dirty: Vec<Arc<AppLogs>>,
    /// Somebody waits until everything is written.
    flushing: bool,
}

/// The lines of one app.
struct AppLogs {
    app: AppId,
    state: Mutex<AppState>,
    followers: broadcast::Sender<Arc<Entry>>,
}

#[derive(Default)]
struct AppState {
    /// Those that are not in the files yet, the oldest first.
    unwritten: VecDeque<Arc<Entry>>,
    last_seq: u64,
    /// It is in the inbox.
    dirty: bool,
    /// Lines for which the queue had no room or that could not be written, not told yet.
    lost: u64,
    /// Guests' lines.
    said: Sampler,
    /// The platform's lines.
    platform: Sampler,
}

impl AppLogs {
    fn new(app: AppId, last_seq: u64) -> Arc<Self> {
        Arc::new(Self {
            app,
            state: Mutex::new(AppState {
                last_seq,
                ..AppState::default()
            }),
            followers: broadcast::Sender::new(LAG_MAX),
        })
    }

    fn state(&self) -> MutexGuard<'_, AppState> {
        // A panic while the state was held leaves it usable: each step keeps it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logs {
    /// Opens the files in `dir` and starts their writer.
    ///
    /// # Errors
    /// When they can't be read.
    pub(crate) fn open(
        dir: PathBuf,
        bounds: LogBounds,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> anyhow::Result<Arc<Self>> {
        let files = writer::Files::open(&dir, &bounds)?;
        let apps = files.found.iter().map(|(app, found)| {
            let logs = AppLogs::new(app.clone(), found.last_seq);
            (app.clone(), logs)
        });
        let logs = Arc::new(Self {
            apps: RwLock::new(apps.collect()),
            dir,
            bounds,
            clock,
            queued: AtomicUsize::new(0),
            inbox: Mutex::default(),
            wake: Condvar::new(),
            owing: AtomicBool::new(false),
            readers: Semaphore::new(READERS_MAX),
            closing: watch::Sender::new(false),
            metrics: Metrics::new(registry)?,
        });
        for (app, found) in &files.found {
            if found.torn_bytes > 0 {
                tracing::info!(%app, torn_bytes = found.torn_bytes, "the end of an app's log was torn and is cut off");
                let text =
                    "the node ended without a stop in order; some lines before this one may be missing";
                logs.say(app, LogLevel::Warn, text.to_owned());
            }
        }
        writer::start(&logs, files)?;
        Ok(logs)
    }

    /// Whether there is, or was, a line of this app.
    pub(crate) fn knows(&self, app: &AppId) -> bool {
        self.apps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(app)
    }

    /// The newest lines with numbers below `before` that `filter` admits, at most `limit`, the oldest first.
    ///
    /// # Errors
    /// When the files can't be read.
    pub(crate) async fn newest(
        self: &Arc<Self>,
        app: &AppId,
        filter: LogFilter,
        before: u64,
        limit: usize,
    ) -> io::Result<Page> {
        self.read(app, move |source| query::newest(source, &filter, before, limit))
            .await
    }

    /// The oldest lines with numbers above `after` that `filter` admits, at most `limit`.
    ///
    /// # Errors
    /// When the files can't be read.
    pub(crate) async fn onward(
        self: &Arc<Self>,
        app: &AppId,
        filter: LogFilter,
        after: u64,
        limit: usize,
    ) -> io::Result<Page> {
        self.read(app, move |source| query::onward(source, &filter, after, limit))
            .await
    }

    /// Follows an app's lines from the one with the number `after` on: those that are there already, then those that
    /// come, each once.
    pub(crate) fn follow(self: &Arc<Self>, app: &AppId, filter: LogFilter, after: u64) -> Follower {
        let lines = self.app(app).followers.subscribe();
        Follower {
            logs: Arc::clone(self),
            app: app.clone(),
            filter,
            after,
            read: VecDeque::new(),
            behind: true,
            closing: self.closing.subscribe(),
            lines,
        }
    }

    /// Ends all followers: the node is going down, and their connections would keep it for the whole grace.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    async fn read(
        self: &Arc<Self>,
        app: &AppId,
        question: impl FnOnce(&query::Source<'_>) -> io::Result<Page> + Send + 'static,
    ) -> io::Result<Page> {
        let _permit = self.readers.acquire().await.map_err(io::Error::other)?;
        let (logs, app) = (Arc::clone(self), app.clone());
        let work = move || {
            let (unwritten, unwritten_from) = {
                let logs = logs.app(&app);
                let state = logs.state();
                let from = state
                    .unwritten
                    .front()
                    .map_or(state.last_seq + 1, |entry| entry.seq);
                (state.unwritten.iter().cloned().collect::<Vec<_>>(), from)
            };
            question(&query::Source {
                app: &app,
                dir: &logs.dir.join(app.as_str()),
                unwritten: &unwritten,
                unwritten_from,
            })
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
    }

    fn app(&self, app: &AppId) -> Arc<AppLogs> {
        let found = self
            .apps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(app)
            .cloned();
        found.unwrap_or_else(|| {
            let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
            apps.entry(app.clone())
                .or_insert_with(|| AppLogs::new(app.clone(), 0))
                .clone()
        })
    }

    /// Gives a line its number and hands it on; it counts as lost when the queue is full.
    fn take(&self, logs: &Arc<AppLogs>, state: &mut AppState, line: LogLine) {
        if !self.try_take(logs, state, line) {
            state.lost += 1;
            self.metrics.lost.inc();
            self.owing.store(true, Ordering::Relaxed);
        }
    }

    /// The same, but nothing is counted when the queue is full. Returns whether it was not.
    fn try_take(&self, logs: &Arc<AppLogs>, state: &mut AppState, line: LogLine) -> bool {
        let cost = line.text.len() + LINE_BYTES;
        if self.queued.fetch_add(cost, Ordering::Relaxed) + cost > QUEUE_BYTES_MAX {
            self.queued.fetch_sub(cost, Ordering::Relaxed);
            return false;
        }
        // By the clock, so that a number that was told of but not written before a crash is not given again.
        let by_clock = u64::try_from(line.at.millis()).unwrap_or(0).saturating_mul(1000);
        let seq = by_clock.max(state.last_seq + 1);
        state.last_seq = seq;
        let entry = Arc::new(Entry { seq, line });
        state.unwritten.push_back(Arc::clone(&entry));
        self.metrics.kept.inc();
        // Still under the lock, so that followers hear in order; nobody following is no failure.
        let _ = logs.followers.send(entry);
        if !std::mem::replace(&mut state.dirty, true) {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            inbox.dirty.push(Arc::clone(logs));
            if inbox.dirty.len() == 1 {
                self.wake.notify_all();
            }
        }
        true
    }

    /// A line of the platform's about the app as a whole.
    fn say(&self, app: &AppId, level: LogLevel, text: String) {
        let logs = self.app(app);
        let line = about(app, "", DeploymentId(0), self.clock.now(), level, text);
        self.take(&logs, &mut logs.state(), line);
    }

    /// Tells what was left out or lost in the seconds that are over.
    fn settle(&self, now: Timestamp) {
        if !self.owing.swap(false, Ordering::Relaxed) {
            return;
        }
        let apps: Vec<_> = {
            let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
            apps.values().cloned().collect()
        };
        for logs in apps {
            let mut state = logs.state();
            let mut told = Vec::new();
            let AppState { said, platform, .. } = &mut *state;
            for sampler in [said, platform] {
                let (left_out, settled) = sampler.settle(now);
                told.extend(left_out);
                if !settled {
                    self.owing.store(true, Ordering::Relaxed);
                }
            }
            for left_out in told {
                let line = self.left_out(&logs.app, left_out, now);
                self.take(&logs, &mut state, line);
            }
            let lost = state.lost;
            if lost > 0 {
                let text =
                    format!("{lost} lines are lost: the node's disk did not take them, or not fast enough");
                let mut line = about(&logs.app, "", DeploymentId(0), now, LogLevel::Warn, text);
                line.detail = LogDetail::LeftOut(lost);
                match self.try_take(&logs, &mut state, line) {
                    true => state.lost = 0,
                    false => self.owing.store(true, Ordering::Relaxed),
                }
            }
        }
    }

    fn left_out(&self, app: &AppId, left_out: LeftOut, at: Timestamp) -> LogLine {
        let LeftOut {
            function,
            deployment,
            count,
        } = left_out;
        let limit = self.bounds.lines_per_second;
        let text = format!(
            "{count} lines are left out: the function wrote more than {limit} lines in a second, and of the others one \
             in {ONE_IN} is kept (log.lines_per_second)"
        );
        let mut line = about(app, &function, deployment, at, LogLevel::Warn, text);
        line.detail = LogDetail::LeftOut(count);
        line
    }

    /// Waits until all lines taken so far are in the files. Blocking, for a few seconds at most.
    pub(crate) fn flush(&self) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.flushing = true;
        self.wake.notify_all();
        drop(
            self.wake
                .wait_timeout_while(inbox, FLUSH_MAX, |inbox| inbox.flushing),
        );
    }
}

/// A line of the platform's that belongs to no request.
fn about(
    app: &AppId,
    function: &str,
    deployment: DeploymentId,
    at: Timestamp,
    level: LogLevel,
    text: String,
) -> LogLine {
    LogLine {
        at,
        app: app.clone(),
        function: function.into(),
        deployment,
        request: NO_REQUEST,
        level,
        stream: LogStream::Platform,
        text,
        detail: LogDetail::None,
    }
}

impl LogSink for Logs {
    fn line(&self, line: LogLine) {
        let logs = self.app(&line.app);
        let mut state = logs.state();
        let sampler = match line.stream {
            LogStream::Platform => &mut state.platform,
            _ => &mut state.said,
        };
        let (kept, told) = sampler.admit(&line, self.bounds.lines_per_second);
        if let Some(left_out) = told {
            let line = self.left_out(&line.app, left_out, line.at);
            self.take(&logs, &mut state, line);
        }
        match kept {
            true => self.take(&logs, &mut state, line),
            false => {
                self.metrics.sampled.inc();
                self.owing.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Receives an app's lines, those of the files first.
pub(crate) struct Follower {
    logs: Arc<Logs>,
    app: AppId,
    filter: LogFilter,
    /// Number of the last line that was looked at.
    after: u64,
    /// Lines out of the files, to be given.
    read: VecDeque<Arc<Entry>>,
    /// The files have lines that were not looked at.
    behind: bool,
    closing: watch::Receiver<bool>,
    lines: broadcast::Receiver<Arc<Entry>>,
}

impl Follower {
    /// The next line; `None` when the node is going down.
    ///
    /// # Errors
    /// When the files can't be read.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Arc<Entry>>> {
        loop {
            if let Some(entry) = self.read.pop_front() {
                return Ok(Some(entry));
            }
            if self.behind {
                let filter = self.filter.clone();
                let page = self
                    .logs
                    .onward(&self.app, filter, self.after, FOLLOWED_PAGE)
                    .await?;
                (self.after, self.behind, self.read) = (page.seen_to, page.more, page.entries);
                continue;
            }
            let received = tokio::select! {
                biased;
                received = self.lines.recv() => received,
                _ = self.closing.wait_for(|closing| *closing) => return Ok(None),
            };
            match received {
                Ok(entry) if entry.seq <= self.after => {}
                Ok(entry) => {
                    self.after = entry.seq;
                    if self.filter.admits(&entry.line) {
                        return Ok(Some(entry));
                    }
                }
                // It was slow; the files have what it missed.
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
            }
        }
    }
}

/// What became of lines, and how much is kept.
struct Metrics {
    kept: IntCounter,
    sampled: IntCounter,
    lost: IntCounter,
    write_failures: IntCounter,
    stored_bytes: IntGauge,
    queued_bytes: IntGauge,
}

impl Metrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let lines = IntCounterVec::new(
            Opts::new(
                "cloudlet_logs_lines_total",
                "Functions' log lines, by what became of them.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(lines.clone()))?;
        let write_failures = IntCounter::new(
            "cloudlet_logs_write_failures_total",
            "Writes to functions' logs that failed; their lines are lost.",
        )?;
        registry.register(Box::new(write_failures.clone()))?;
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        Ok(Self {
            kept: lines.with_label_values(&["kept"]),
            sampled: lines.with_label_values(&["left_out"]),
            lost: lines.with_label_values(&["lost"]),
            write_failures,
            stored_bytes: gauge("cloudlet_logs_stored_bytes", "Bytes of functions' log files.")?,
            queued_bytes: gauge(
                "cloudlet_logs_queued_bytes",
                "Bytes of lines that waited to be written when the writer last looked.",
            )?,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
