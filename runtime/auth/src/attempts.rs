//! Waiting after failed logins, by username: the first few failures are free, then each doubles the wait. Held in
//! memory and bounded; a restart forgives. Usernames that do not exist are counted like those that do.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cloudlet_base::AppId;

use crate::Error;

/// Failures before the first wait.
const FREE_FAILURES: u32 = 5;

/// The longest wait; also how long a failure is remembered after the last one's wait. Short enough that somebody
/// who fails on purpose under another's name locks them out for a minute, no more.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Usernames remembered at most.
const NAMES_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// Monotonic time from which the next attempt is let through.
    open_at: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Attempts {
    by_name: Mutex<HashMap<(AppId, String), Failures>>,
}

impl Attempts {
    /// # Errors
    /// [`Error::Busy`] while the name has to wait.
    pub(crate) fn check(&self, app: &AppId, name: &str, now: Duration) -> Result<(), Error> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = by_name
            .get(&(app.clone(), name.to_owned()))
            .map(|failures| failures.open_at.saturating_sub(now));
        match wait {
            Some(wait) if !wait.is_zero() => Err(Error::Busy {
                retry_after_s: wait.as_secs() + 1,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn failed(&self, app: &AppId, name: &str, now: Duration) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if by_name.len() >= NAMES_MAX {
            make_room(&mut by_name, now);
        }
        let failures = by_name.entry((app.clone(), name.to_owned())).or_insert(Failures {
            count: 0,
            open_at: now,
        });
        if failures.open_at.saturating_add(WAIT_MAX) < now {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        let doublings = failures.count.saturating_sub(FREE_FAILURES).min(16);
        let wait = if doublings == 0 {
            Duration::ZERO
        } else {
            Duration::from_secs(1 << (doublings - 1))
        };
        failures.open_at = now.saturating_add(wait.min(WAIT_MAX));
    }

    pub(crate) fn succeeded(&self, app: &AppId, name: &str) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.remove(&(app.clone(), name.to_owned()));
    }
}

/// Forgets what is over, and if that is nothing, half of the rest: those whose wait ends first.
fn make_room(by_name: &mut HashMap<(AppId, String), Failures>, now: Duration) {
    by_name.retain(|_, failures| failures.open_at.saturating_add(WAIT_MAX) >= now);
    if by_name.len() >= NAMES_MAX {
        let mut ends: Vec<Duration> = by_name.values().map(|failures| failures.open_at).collect();
        let middle = ends.len() / 2;
        let (_, median, _) = ends.select_nth_unstable(middle);
        let (median, mut surplus) = (*median, middle);
        by_name.retain(|_, failures| {
            let goes = surplus > 0 && failures.open_at <= median;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_success_clears() {
        let (attempts, app) = (Attempts::default(), "a".parse().unwrap());
        let mut now = Duration::from_secs(1000);
        let wait = |now| match attempts.check(&app, "n", now) {
            Err(Error::Busy { retry_after_s }) => retry_after_s - 1,
            Ok(()) => 0,
            Err(other) => panic!("{other}"),
        };
        for expected in [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60] {
            attempts.failed(&app, "n", now);
            assert_eq!(wait(now), expected);
            assert!(attempts.check(&app, "other", now).is_ok());
            now += Duration::from_secs(expected);
            assert_eq!(wait(now), 0);
        }
        attempts.succeeded(&app, "n");
        attempts.failed(&app, "n", now);
        assert_eq!(wait(now), 0);
    }

    #[test]
    fn a_quiet_minute_forgives_and_memory_is_bounded() {
        let (attempts, app) = (Attempts::default(), "a".parse().unwrap());
        let mut now = Duration::from_secs(1000);
        for _ in 0..8 {
            attempts.failed(&app, "n", now);
        }
        now += Duration::from_secs(100);
        attempts.failed(&app, "n", now);
        assert!(attempts.check(&app, "n", now).is_ok());
        for n in 0..2 * NAMES_MAX {
            attempts.failed(&app, &n.to_string(), now);
        }
        assert!(attempts.by_name.lock().unwrap().len() <= NAMES_MAX);
    }
}
