//! Slows down who guesses passwords. Each failed login is remembered by its address and by user and address together;
//! the next attempts of either have to wait, longer with each failure, and one that would have to wait too long is
//! refused without a look at its proof. A user who logs in from elsewhere notices nothing, so that nobody can lock
//! others out by guessing at their names. In memory, bounded, forgotten after a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::limits::Limits;

/// Longest part of a user's name that is told apart, bytes.
const NAME_BYTES_MAX: usize = 256;

/// Whom failures are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    address: String,
    /// `db.user`; none for the address as a whole.
    user: Option<String>,
}

impl Key {
    /// The keys of an attempt: the user from that peer (`address:port`), and the address.
    pub(crate) fn of(peer: &str, db: &str, user: &str) -> [Key; 2] {
        let address = peer.rsplit_once(':').map_or(peer, |(address, _)| address);
        let mut name = format!("{db}.{user}");
        let end = (0..=NAME_BYTES_MAX.min(name.len())).rev();
        let end = end.into_iter().find(|at| name.is_char_boundary(*at));
        name.truncate(end.unwrap_or(0));
        let address = address.to_owned();
        [
            Key {
                address: address.clone(),
                user: Some(name),
            },
            Key { address, user: None },
        ]
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    /// When the next attempt may be looked at.
    next: Duration,
    /// When it last failed.
    last: Duration,
}

/// The failures that are remembered.
#[derive(Default)]
pub(crate) struct Throttle {
    entries: Mutex<HashMap<Key, Entry>>,
}

/// The attempt would have to wait longer than any may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Throttle {
    /// Takes a place for an attempt; says how long it has to wait. Attempts at the same time wait one after another.
    ///
    /// # Errors
    /// When that is longer than `login_wait_max`; no place is taken then.
    pub(crate) fn admit(&self, keys: &[Key; 2], now: Duration, limits: &Limits) -> Result<Duration, TooMany> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = keys
            .iter()
            .filter_map(|key| entries.get(key))
            .map(|entry| entry.next)
            .fold(now, Duration::max);
        let wait = at.saturating_sub(now);
        if wait > limits.login_wait_max {
            return Err(TooMany);
        }
        for key in keys {
            if let Some(entry) = entries.get_mut(key) {
                let delay = delay(key, entry.failures, limits);
                // The one whose failures are still free is nobody's to wait for.
                if !delay.is_zero() {
                    entry.next = at.saturating_add(delay);
                }
            }
        }
        Ok(wait)
    }

    /// Remembers a failed attempt.
    pub(crate) fn failed(&self, keys: &[Key; 2], now: Duration, limits: &Limits) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if !entries.contains_key(key) && entries.len() >= limits.login_failures_max {
                make_room(&mut entries, now, limits);
            }
            let entry = entries.entry(key.clone()).or_insert(Entry {
                failures: 0,
                next: now,
                last: now,
            });
            if now.saturating_sub(entry.last) >= limits.login_failures_idle {
                entry.failures = 0;
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
            entry.next = entry
                .next
                .max(now.saturating_add(delay(key, entry.failures, limits)));
        }
    }

    /// Forgets the failures of a user who got in. Those of the address stand: the user may be the guesser's own.
    pub(crate) fn succeeded(&self, [user, _]: &[Key; 2]) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(user);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Drops what is idle, and if nothing is, what is oldest: of the same age a user before an address.
fn make_room(entries: &mut HashMap<Key, Entry>, now: Duration, limits: &Limits) {
    entries.retain(|_, entry| now.saturating_sub(entry.last) < limits.login_failures_idle);
    if entries.len() < limits.login_failures_max {
        return;
    }
    let oldest = entries
        .iter()
        .min_by_key(|(key, entry)| (entry.last, key.user.is_none()));
    if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
        entries.remove(&oldest);
    }
}

/// The time between attempts after so many failures: none for the first few, then twice as long each time.
fn delay(key: &Key, failures: u32, limits: &Limits) -> Duration {
    // Behind one address there may be many who mistype.
    let free = match key.user {
        Some(_) => limits.login_failures_free,
        None => limits.login_failures_free.saturating_mul(ADDRESS_FACTOR),
    };
    let Some(over) = failures.checked_sub(free).filter(|over| *over > 0) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(over - 1).unwrap_or(u32::MAX);
    limits
        .login_delay_first
        .saturating_mul(factor)
        .min(limits.login_delay_max)
}

/// How many users' free failures an address has.
const ADDRESS_FACTOR: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limits() -> Limits {
        Limits {
            login_failures_free: 2,
            login_failures_max: 4,
            login_failures_idle: seconds(100),
            login_delay_first: seconds(1),
            login_delay_max: seconds(8),
            login_wait_max: seconds(4),
            ..Limits::default()
        }
    }

    #[test]
    fn each_failure_makes_the_next_attempt_wait_longer() {
        let (throttle, limits) = (Throttle::default(), limits());
        let keys = Key::of("10.0.0.1:5000", "app", "ann");
        let mut waits = Vec::new();
        let mut now = seconds(1000);
        for _ in 0..5 {
            let wait = throttle.admit(&keys, now, &limits);
            waits.push(wait);
            now += wait.unwrap_or_default();
            throttle.failed(&keys, now, &limits);
        }
        let (none, some) = (Ok(Duration::ZERO), |n| Ok(seconds(n)));
        assert_eq!(waits, [none, none, none, some(1), some(2)]);
        // The next is four seconds away; one more at the same time would be eight behind it.
        assert_eq!(throttle.admit(&keys, now, &limits), some(4));
        assert_eq!(throttle.admit(&keys, now, &limits), Err(TooMany));
        // From another port it is the same; from another address, or as another user, it is not.
        let [other_port, other_address, other_user] = [
            ("10.0.0.1:6000", "ann"),
            ("10.0.0.2:5000", "ann"),
            ("10.0.0.1:5000", "bob"),
        ]
        .map(|(peer, user)| throttle.admit(&Key::of(peer, "app", user), now, &limits));
        assert_eq!(
            (other_port, other_address, other_user),
            (Err(TooMany), none, none)
        );
        throttle.succeeded(&keys);
        assert_eq!(throttle.admit(&keys, now, &limits), none);
    }

    #[test]
    fn many_users_from_one_address_are_slowed_too() {
        let (throttle, limits) = (Throttle::default(), limits());
        let key = |n: u32| Key::of("10.0.0.1:5000", "app", &format!("user{n}"));
        let now = seconds(1000);
        for n in 0..21 {
            assert_eq!(throttle.admit(&key(n), now, &limits), Ok(Duration::ZERO), "{n}");
            throttle.failed(&key(n), now, &limits);
        }
        assert_eq!(throttle.admit(&key(99), now, &limits), Ok(seconds(1)));
        assert!(throttle.len() <= limits.login_failures_max);
    }

    #[test]
    fn failures_are_forgotten_and_bounded() {
        let (throttle, limits) = (Throttle::default(), limits());
        let keys = Key::of("[::1]:5000", "app", &"é".repeat(1000));
        for _ in 0..3 {
            throttle.failed(&keys, seconds(1000), &limits);
        }
        assert_eq!(throttle.admit(&keys, seconds(1000), &limits), Ok(seconds(1)));
        throttle.failed(&keys, seconds(1100), &limits);
        assert_eq!(throttle.admit(&keys, seconds(1100), &limits), Ok(Duration::ZERO));
        for n in 0..50 {
            let keys = Key::of(&format!("10.0.0.{n}:1"), "app", "ann");
            throttle.failed(&keys, seconds(1101), &limits);
            assert!(throttle.len() <= limits.login_failures_max);
        }
    }
}
