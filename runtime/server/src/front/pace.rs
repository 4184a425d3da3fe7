//! How a connection's peer keeps pace: since when a request's head is incomplete, the connection idle, a body
//! stalled. Kept as a few numbers that the connection's task looks at after each poll, so that a request sets no
//! timer of its own; one timer per connection is moved only when a nearer limit appears.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::Limits;
use crate::metrics::Closed;

/// A moment on the node's monotonic clock, milliseconds; 0 is never.
type Millis = u64;

/// No limit is running.
pub(crate) const NEVER: Millis = Millis::MAX;

/// The state of one connection. Shared by its task, its stream and its bodies, all on one thread.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    in_flight: AtomicU32,
    /// On HTTP/2 frames come between requests too; only idleness counts there.
    framed: AtomicBool,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    write_blocked_since: AtomicU64,
    body_awaited_since: AtomicU64,
}

impl Pace {
    /// A connection that was just accepted.
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            idle_since: AtomicU64::new(now.max(1)),
            ..Self::default()
        }
    }

    /// Whether a byte that arrives now begins a request's head.
    pub(crate) fn awaits_head(&self) -> bool {
        self.in_flight.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 && !self.framed.load(Relaxed)
    }

    /// The first byte of a head arrived.
    pub(crate) fn head_began(&self, now: Millis) {
        self.head_since.store(now.max(1), Relaxed);
    }

    /// A request's head is complete.
    pub(crate) fn request_began(&self, http2: bool) {
        if http2 {
            self.framed.store(true, Relaxed);
        }
        self.head_since.store(0, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A response was sent to its end, or given up.
    pub(crate) fn request_ended(&self, now: Millis) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.idle_since.store(now.max(1), Relaxed);
        self.body_awaited_since.store(0, Relaxed);
    }

    /// Whether the stream takes no more bytes.
    pub(crate) fn write_blocked(&self, blocked: bool, now: impl FnOnce() -> Millis) {
        mark(&self.write_blocked_since, blocked, now);
    }

    /// Whether somebody waits for more of a request's body.
    pub(crate) fn body_awaited(&self, awaited: bool, now: impl FnOnce() -> Millis) {
        mark(&self.body_awaited_since, awaited, now);
    }

    /// When the connection is to be closed if nothing changes, and why.
    pub(crate) fn due(&self, limits: &Limits) -> (Millis, Closed) {
        let after = |since: &AtomicU64, timeout: std::time::Duration| match since.load(Relaxed) {
            0 => NEVER,
            since => since.saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(NEVER)),
        };
        let stalled = after(&self.write_blocked_since, limits.stall_timeout)
            .min(after(&self.body_awaited_since, limits.stall_timeout));
        if self.in_flight.load(Relaxed) > 0 {
            return (stalled, Closed::Stall);
        }
        let head = after(&self.head_since, limits.header_timeout);
        if head != NEVER {
            return (head, Closed::Header);
        }
        (
            after(&self.idle_since, limits.idle_timeout).min(stalled),
            Closed::Idle,
        )
    }
}

fn mark(since: &AtomicU64, on: bool, now: impl FnOnce() -> Millis) {
    let was = since.load(Relaxed);
    if on && was == 0 {
        since.store(now().max(1), Relaxed);
    } else if !on && was != 0 {
        since.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::NodeConfig;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_millis(10),
            idle_timeout: Duration::from_millis(100),
            stall_timeout: Duration::from_millis(50),
            ..NodeConfig::ephemeral(std::path::Path::new("x")).unwrap().limits
        }
    }

    #[test]
    fn each_state_has_its_limit() {
        let (pace, limits) = (Pace::new(1000), limits());
        assert_eq!(pace.due(&limits), (1100, Closed::Idle));
        assert!(pace.awaits_head());
        pace.head_began(1005);
        assert_eq!(pace.due(&limits), (1015, Closed::Header));
        pace.request_began(false);
        assert_eq!(pace.due(&limits).0, NEVER);
        pace.body_awaited(true, || 1020);
        pace.body_awaited(true, || 1030);
        assert_eq!(pace.due(&limits), (1070, Closed::Stall));
        pace.body_awaited(false, || 1040);
        pace.write_blocked(true, || 1041);
        assert_eq!(pace.due(&limits), (1091, Closed::Stall));
        pace.write_blocked(false, || 1050);
        pace.request_ended(1060);
        assert_eq!(pace.due(&limits), (1160, Closed::Idle));
    }

    #[test]
    fn frames_between_requests_are_no_heads() {
        let (pace, limits) = (Pace::new(1), limits());
        pace.request_began(true);
        pace.request_ended(50);
        assert!(!pace.awaits_head());
        assert_eq!(pace.due(&limits), (150, Closed::Idle));
    }
}
