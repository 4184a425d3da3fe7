//! Deadlines and cancellation as values handed down, cheap to poll from synchronous loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Clock;

/// The work ran out of time or was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

impl std::fmt::Display for Expired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the deadline passed or the request was cancelled")
    }
}

impl std::error::Error for Expired {}

/// A flag that tells work in progress to stop; clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks everything that holds a clone to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// By when an operation must be done. Cheap to clone; the default never expires.
#[derive(Debug, Clone, Default)]
pub struct Deadline {
    at: Option<Duration>,
    cancel: Option<CancelFlag>,
}

impl Deadline {
    /// No limit: for start-up and background work.
    pub const NEVER: Deadline = Deadline {
        at: None,
        cancel: None,
    };

    /// The moment `budget` from now on `clock`'s monotonic time.
    pub fn after(clock: &dyn Clock, budget: Duration) -> Self {
        Self {
            at: Some(clock.monotonic().saturating_add(budget)),
            cancel: None,
        }
    }

    /// This deadline, also ended early by `cancel`.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelFlag) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// The monotonic time at which it passes, if it ever does.
    pub fn at(&self) -> Option<Duration> {
        self.at
    }

    /// Time left on `clock`, or `None` when there is no limit.
    pub fn remaining(&self, clock: &dyn Clock) -> Option<Duration> {
        self.at.map(|at| at.saturating_sub(clock.monotonic()))
    }

    /// # Errors
    /// [`Expired`] when the time is over or the flag is set. Loops call this every few hundred steps.
    pub fn check(&self, clock: &dyn Clock) -> Result<(), Expired> {
        let cancelled = self.cancel.as_ref().is_some_and(CancelFlag::is_cancelled);
        if cancelled || self.at.is_some_and(|at| clock.monotonic() >= at) {
            return Err(Expired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn expires_by_time_and_by_flag() {
        let clock = ManualClock::at_millis(1_000);
        let flag = CancelFlag::default();
        let deadline = Deadline::after(&clock, Duration::from_millis(10)).with_cancel(flag.clone());
        assert_eq!(deadline.check(&clock), Ok(()));
        assert_eq!(deadline.remaining(&clock), Some(Duration::from_millis(10)));
        clock.advance(Duration::from_millis(10));
        assert_eq!(deadline.check(&clock), Err(Expired));
        let cancelled = Deadline::NEVER.with_cancel(flag.clone());
        assert_eq!(cancelled.check(&clock), Ok(()));
        flag.cancel();
        assert_eq!(cancelled.check(&clock), Err(Expired));
    }
}
