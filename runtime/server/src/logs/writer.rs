//! The thread that writes lines to the apps' files and keeps these within their bounds. It gathers for a moment, so
//! that a busy app costs one write for many lines.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context as _;
use cloudlet_base::AppId;

use super::segments::{AppFiles, Found};
use super::{AppLogs, Entry, LogBounds, Logs};

/// How long lines are gathered before they are written: what a kill may lose.
const GATHER: Duration = Duration::from_millis(20);
/// Time between two looks for what is to be told or is over its age.
const TICK: Duration = Duration::from_secs(1);
/// An app's bytes are in so many segments, or they are of the smallest size.
const SEGMENTS_PER_APP: u64 = 16;
/// Sizes of segments.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=4 << 20;
/// A segment takes lines for this part of the age, so that what is removed as one is about as old.
const SEGMENT_AGE_PART: u32 = 8;

/// The files of all apps.
pub(super) struct Files {
    dir: PathBuf,
    segment_bytes: u64,
    apps: HashMap<AppId, AppFiles>,
    /// What was there when the node started.
    pub(super) found: Vec<(AppId, Found)>,
    /// Monotonic time of the next look at all bounds.
    look_at: Duration,
    /// A failed write was told of, and none has succeeded since.
    failing: bool,
}

impl Files {
    /// Opens what is in `dir`.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn open(dir: &Path, bounds: &LogBounds) -> anyhow::Result<Self> {
        let part = bounds.app_bytes.min(bounds.store_bytes) / SEGMENTS_PER_APP;
        let mut files = Self {
            dir: dir.to_path_buf(),
            segment_bytes: part.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
            apps: HashMap::new(),
            found: Vec::new(),
            look_at: Duration::ZERO,
            failing: false,
        };
        std::fs::create_dir_all(dir).with_context(|| format!("make the log directory {dir:?}"))?;
        for entry in std::fs::read_dir(dir).with_context(|| format!("read the log directory {dir:?}"))? {
            let entry = entry?;
            // What is not named like an app, or is no directory, is not ours.
            let name = entry.file_name();
            let Some(app) = (name.to_str())
                .filter(|_| entry.path().is_dir())
                .and_then(|name| name.parse::<AppId>().ok())
            else {
                continue;
            };
            let (app_files, found) = AppFiles::open(entry.path(), files.segment_bytes)
                .with_context(|| format!("open the log of app {app} in {:?}", entry.path()))?;
            files.apps.insert(app.clone(), app_files);
            files.found.push((app, found));
        }
        Ok(files)
    }

    fn append(&mut self, app: &AppId, entries: &[Arc<Entry>], bounds: &LogBounds) -> io::Result<()> {
        let files = match self.apps.get_mut(app) {
            Some(files) => files,
            None => {
                let (files, _) = AppFiles::open(self.dir.join(app.as_str()), self.segment_bytes)?;
                self.apps.entry(app.clone()).or_insert(files)
            }
        };
        let appended = files.append(entries.iter().map(AsRef::as_ref));
        while files.bytes() > bounds.app_bytes {
            removed(files.remove_oldest());
        }
        appended
    }

    /// Removes what is over the bounds, the oldest first. Returns the bytes that stay.
    fn bound(&mut self, logs: &Logs) -> u64 {
        let (bounds, now) = (&logs.bounds, logs.clock.now());
        for files in self.apps.values_mut() {
            files.end_older_than(bounds.store_age / SEGMENT_AGE_PART, now);
            let old = |files: &AppFiles| {
                files
                    .oldest_ends_at()
                    .is_some_and(|at| at.plus(bounds.store_age) < now)
            };
            while files.bytes() > bounds.app_bytes || old(files) {
                removed(files.remove_oldest());
            }
        }
        loop {
            let total = self.apps.values().map(AppFiles::bytes).sum::<u64>();
            let oldest = self
                .apps
                .values_mut()
                .filter_map(|files| Some((files.oldest_ends_at()?, files)))
                .min_by_key(|(at, _)| *at);
            match oldest {
                Some((_, files)) if total > bounds.store_bytes => removed(files.remove_oldest()),
                _ => return total,
            }
        }
    }
}

fn removed(result: io::Result<u64>) {
    if let Err(error) = result {
        tracing::warn!(%error, "an old log file can't be removed");
    }
}

/// Starts the thread. It ends when the logs are dropped.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(logs: &Arc<Logs>, mut files: Files) -> anyhow::Result<()> {
    let total = files.bound(logs);
    logs.metrics
        .stored_bytes
        .set(i64::try_from(total).unwrap_or(i64::MAX));
    let logs = Arc::downgrade(logs);
    std::thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || run(&logs, files))
        .context("start the thread that writes logs")?;
    Ok(())
}

fn run(logs: &Weak<Logs>, mut files: Files) {
    // What is held across a wait is a reference for the time of the wait only: dropping the last other one ends it.
    while let Some(logs) = logs.upgrade() {
        round(&logs, &mut files);
    }
}

/// Waits for something to do, and does it.
fn round(logs: &Logs, files: &mut Files) {
    let inbox = logs.inbox.lock().unwrap_or_else(PoisonError::into_inner);
    let (inbox, _) = logs
        .wake
        .wait_timeout_while(inbox, TICK, |inbox| inbox.dirty.is_empty() && !inbox.flushing)
        .unwrap_or_else(PoisonError::into_inner);
    let (mut inbox, _) = logs
        .wake
        .wait_timeout_while(inbox, GATHER, |inbox| !inbox.dirty.is_empty() && !inbox.flushing)
        .unwrap_or_else(PoisonError::into_inner);
    let dirty = std::mem::take(&mut inbox.dirty);
    let flushing = inbox.flushing;
    drop(inbox);
    let queued = logs.queued.load(Ordering::Relaxed);
    logs.metrics
        .queued_bytes
        .set(i64::try_from(queued).unwrap_or(i64::MAX));
    for app in dirty {
        write(logs, files, &app);
    }
    logs.settle(logs.clock.now());
    let now = logs.clock.monotonic();
    if flushing || now >= files.look_at {
        files.look_at = now.saturating_add(TICK);
        let total = files.bound(logs);
        logs.metrics
            .stored_bytes
            .set(i64::try_from(total).unwrap_or(i64::MAX));
    }
    if flushing {
        let mut inbox = logs.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.dirty.is_empty() {
            inbox.flushing = false;
            logs.wake.notify_all();
        }
    }
}

/// Writes what an app has said.
fn write(logs: &Logs, files: &mut Files, app: &AppLogs) {
    let entries: Vec<Arc<Entry>> = {
        let mut state = app.state();
        state.dirty = false;
        state.unwritten.iter().cloned().collect()
    };
    let written = files.append(&app.app, &entries, &logs.bounds);
    let mut state = app.state();
    // New ones were only added behind these.
    drop(state.unwritten.drain(..entries.len()));
    let freed: usize = entries.iter().map(|entry| entry.cost()).sum();
    logs.queued.fetch_sub(freed, Ordering::Relaxed);
    match written {
        Ok(()) => files.failing = false,
        Err(error) => {
            let lost = entries.len() as u64;
            logs.metrics.write_failures.inc();
            logs.metrics.lost.inc_by(lost);
            state.lost += lost;
            logs.owing.store(true, Ordering::Relaxed);
            if !std::mem::replace(&mut files.failing, true) {
                tracing::warn!(app = %app.app, %error, "functions' log lines can't be written; they are lost");
            }
        }
    }
}
