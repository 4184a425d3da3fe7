//! Guests' log lines: a bounded ring per app in memory, and followers. The host hands lines up through
//! [`LogSink`]; the admin API reads them. Nothing here waits: a follower that is slow loses lines and is told how
//! many.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cloudlet_base::{AppId, Timestamp};
use cloudlet_host::{LogLevel, LogLine, LogSink, LogStream};
use tokio::sync::broadcast;

/// Lines kept for each app.
const LINES_MAX: usize = 10_000;
/// Bytes of text kept for each app.
const BYTES_MAX: usize = 4 << 20;
/// Lines that a follower may lag behind before it loses some.
const LAG_MAX: usize = 1024;
/// What a line costs besides its text.
const LINE_BYTES: usize = 128;

/// The lines of all apps.
#[derive(Default)]
pub(crate) struct Logs {
    apps: RwLock<HashMap<AppId, Arc<AppLogs>>>,
}

/// Which lines somebody wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFilter {
    /// Of this function alone.
    pub(crate) function: Option<String>,
    /// Of this severity or above.
    pub(crate) level: Option<LogLevel>,
    /// The platform's lines on failed invocations alone.
    pub(crate) failures: bool,
    /// Written at this time or later.
    pub(crate) since: Option<Timestamp>,
}

impl LogFilter {
    fn admits(&self, line: &LogLine) -> bool {
        self.function
            .as_deref()
            .is_none_or(|function| *function == *line.function)
            && self.level.is_none_or(|level| line.level >= level)
            && (!self.failures || (line.stream == LogStream::Platform && line.level >= LogLevel::Error))
            && self.since.is_none_or(|since| line.at >= since)
    }
}

/// The lines of one app.
struct AppLogs {
    ring: Mutex<Ring>,
    followers: broadcast::Sender<Arc<LogLine>>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Arc<LogLine>>,
    bytes: usize,
}

impl AppLogs {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic while the ring was held leaves it usable: each step keeps it whole.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logs {
    /// The kept lines of `app` that `filter` admits, oldest first.
    pub(crate) fn recent(&self, app: &AppId, filter: &LogFilter) -> Vec<Arc<LogLine>> {
        let logs = self.app(app);
        let ring = logs.ring();
        ring.lines
            .iter()
            .filter(|line| filter.admits(line))
            .cloned()
            .collect()
    }

    /// The kept lines, and a follower that goes on exactly where they end.
    pub(crate) fn follow(&self, app: &AppId, filter: LogFilter) -> (Vec<Arc<LogLine>>, Follower) {
        let logs = self.app(app);
        let ring = logs.ring();
        let kept = ring
            .lines
            .iter()
            .filter(|line| filter.admits(line))
            .cloned()
            .collect();
        let lines = logs.followers.subscribe();
        (kept, Follower { lines, filter })
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
            let new = || {
                Arc::new(AppLogs {
                    ring: Mutex::default(),
                    followers: broadcast::Sender::new(LAG_MAX),
                })
            };
            apps.entry(app.clone()).or_insert_with(new).clone()
        })
    }
}

impl LogSink for Logs {
    fn line(&self, line: LogLine) {
        let logs = self.app(&line.app);
        let line = Arc::new(line);
        let mut ring = logs.ring();
        ring.bytes += line.text.len() + LINE_BYTES;
        ring.lines.push_back(line.clone());
        while ring.lines.len() > LINES_MAX || ring.bytes > BYTES_MAX {
            let Some(old) = ring.lines.pop_front() else { break };
            ring.bytes -= old.text.len() + LINE_BYTES;
        }
        // Still under the lock, so that a new follower gets each line once; nobody following is no failure.
        let _ = logs.followers.send(line);
    }
}

/// Receives an app's lines as they come.
pub(crate) struct Follower {
    lines: broadcast::Receiver<Arc<LogLine>>,
    filter: LogFilter,
}

/// What a follower sees.
pub(crate) enum Followed {
    /// A line.
    Line(Arc<LogLine>),
    /// So many lines came faster than they were taken, and are lost to this follower.
    Dropped(u64),
}

impl Follower {
    /// The next line; `None` when the node is going down.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Followed> {
        loop {
            match self.lines.recv().await {
                Ok(line) if self.filter.admits(&line) => return Some(Followed::Line(line)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(count)) => return Some(Followed::Dropped(count)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cloudlet_base::{DeploymentId, RequestId};

    use super::*;

    fn line(at: i64, function: &str, level: LogLevel, text: &str) -> LogLine {
        LogLine {
            at: Timestamp(at),
            app: "a".parse().unwrap(),
            function: function.into(),
            deployment: DeploymentId(1),
            request: RequestId::from_bits(1),
            level,
            stream: LogStream::Stdout,
            text: text.into(),
        }
    }

    #[test]
    fn the_ring_is_bounded_by_lines_and_bytes() {
        let logs = Logs::default();
        let app = "a".parse().unwrap();
        for at in 0..LINES_MAX + 5 {
            logs.line(line(at as i64, "f", LogLevel::Info, "x"));
        }
        let kept = logs.recent(&app, &LogFilter::default());
        assert_eq!(kept.len(), LINES_MAX);
        assert_eq!(kept[0].at, Timestamp(5));
        logs.line(line(0, "f", LogLevel::Info, &"y".repeat(BYTES_MAX - LINE_BYTES)));
        assert_eq!(logs.recent(&app, &LogFilter::default()).len(), 1);
    }

    #[test]
    fn filters_choose() {
        let logs = Logs::default();
        let app = "a".parse().unwrap();
        logs.line(line(1, "f", LogLevel::Info, "one"));
        logs.line(line(2, "g", LogLevel::Warn, "two"));
        let texts = |filter: LogFilter| -> Vec<String> {
            logs.recent(&app, &filter)
                .iter()
                .map(|line| line.text.clone())
                .collect()
        };
        let all = LogFilter::default;
        assert_eq!(texts(all()), ["one", "two"]);
        assert_eq!(
            texts(LogFilter {
                function: Some("f".into()),
                ..all()
            }),
            ["one"]
        );
        assert_eq!(
            texts(LogFilter {
                level: Some(LogLevel::Warn),
                ..all()
            }),
            ["two"]
        );
        assert_eq!(
            texts(LogFilter {
                since: Some(Timestamp(2)),
                ..all()
            }),
            ["two"]
        );
        assert!(
            texts(LogFilter {
                failures: true,
                ..all()
            })
            .is_empty()
        );
        assert!(logs.recent(&"b".parse().unwrap(), &all()).is_empty());
    }

    #[tokio::test]
    async fn a_follower_sees_each_line_once_and_is_told_of_lost_ones() {
        let logs = Logs::default();
        let app = "a".parse().unwrap();
        logs.line(line(1, "f", LogLevel::Info, "kept"));
        let (kept, mut follower) = logs.follow(&app, LogFilter::default());
        assert_eq!(kept.len(), 1);
        logs.line(line(2, "f", LogLevel::Info, "new"));
        assert!(matches!(follower.next().await, Some(Followed::Line(line)) if line.text == "new"));
        for at in 0..LAG_MAX + 7 {
            logs.line(line(at as i64, "f", LogLevel::Info, "fast"));
        }
        assert!(matches!(follower.next().await, Some(Followed::Dropped(7))));
        assert!(matches!(follower.next().await, Some(Followed::Line(_))));
    }
}
