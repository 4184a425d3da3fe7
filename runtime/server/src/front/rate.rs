//! Rate limits: how many requests an app, or one of its functions, takes from all its clients together, from one user, from
//! one address. Whoever is over one gets 429 with the time to wait. pipeline.rs asks, before and after it knows the user.
//!
//! Each bucket is one integer, the time at which it is full again (the generic cell rate algorithm): a request moves it on by
//! the time that the rate gives to one, and is refused where that would put it further ahead than the burst.
//!
//! Buckets are in tables of fixed size without locks, those of users and addresses in one, those for all clients together in
//! another, made for each app that has such limits:
//! sets of [`WAYS`] slots, found by a keyed hash, each with its owner's tag. A slot whose bucket is full again says nothing
//! any more and goes to whoever comes. There is no other eviction, for it would hand a fresh bucket to whoever makes enough
//! names to push out the own: when all slots of a set are in use, a newcomer shares the bucket of one of them, always the
//! same one. So a crowd of names can make the limits of one app stricter for some, never looser for anybody, and an app's
//! crowd is no other app's business.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Slots of one set.
const WAYS: usize = 8;
/// Slots for the totals of an app and its functions, of which there are 500 at most.
const TOTAL_SLOTS: usize = 2048;
/// An IPv6 client is told by its network: whoever has one address has all of its /64.
const V6_PREFIX: u32 = 64;

/// So many requests in a time, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Requests in `per`, at least 1.
    count: u32,
    per: Per,
    /// Requests at once, when there were none for a while; at least 1.
    burst: u32,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
}

/// Most requests in a rate or its burst.
const COUNT_MAX: u32 = 1_000_000;

impl Rate {
    /// `20/s`, `100/m`, `1000/h`, each maybe with ` burst 40`. Without it the burst is the number before the slash.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = plain.then(|| text.parse::<u32>().ok())?;
            number.filter(|number| (1..=COUNT_MAX).contains(number))
        };
        let mut words = text.split_ascii_whitespace();
        let (count, unit) = words.next()?.split_once('/')?;
        let count = number(count)?;
        let per = match unit {
            "s" => Per::Second,
            "m" => Per::Minute,
            "h" => Per::Hour,
            _ => return None,
        };
        let burst = match (words.next(), words.next(), words.next()) {
            (None, ..) => count,
            (Some("burst"), Some(burst), None) => number(burst)?,
            _ => return None,
        };
        Some(Self { count, per, burst })
    }

    /// The stricter of both in each respect.
    fn stricter(self, other: Self) -> Self {
        let slower = if self.step() >= other.step() { self } else { other };
        Self {
            burst: self.burst.min(other.burst),
            ..slower
        }
    }

    /// Nanoseconds that it gives to one request.
    fn step(self) -> u64 {
        let per: u64 = match self.per {
            Per::Second => 1_000_000_000,
            Per::Minute => 60 * 1_000_000_000,
            Per::Hour => 3600 * 1_000_000_000,
        };
        per / u64::from(self.count)
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.per {
            Per::Second => "s",
            Per::Minute => "m",
            Per::Hour => "h",
        };
        write!(f, "{}/{unit} burst {}", self.count, self.burst)
    }
}

/// The rates of an app or a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// From all together.
    pub(crate) total: Option<Rate>,
    /// From one user.
    pub(crate) user: Option<Rate>,
    /// From one address.
    pub(crate) address: Option<Rate>,
}

impl Rates {
    /// These, within the bounds that the node sets.
    pub(crate) fn within(self, node: Self) -> Self {
        let both = |own: Option<Rate>, node: Option<Rate>| match (own, node) {
            (Some(own), Some(node)) => Some(own.stricter(node)),
            (one, other) => one.or(other),
        };
        Self {
            total: both(self.total, node.total),
            user: both(self.user, node.user),
            address: both(self.address, node.address),
        }
    }
}

/// Whose requests are counted together; the `by` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The address that a request comes from.
    Address,
    /// The user who makes it.
    User,
    /// Everybody.
    Total,
}

impl By {
    pub(crate) const ALL: [By; 3] = [By::Address, By::User, By::Total];

    /// The value of the label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            By::Address => "address",
            By::User => "user",
            By::Total => "total",
        }
    }
}

/// A request over a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) rate: Rate,
    /// Until there is room for one more.
    pub(crate) wait: Duration,
}

/// The buckets of one app, which all its deployments share. Made as they are needed.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    totals: OnceLock<Table>,
    /// Of users and addresses.
    clients: OnceLock<Table>,
}

#[derive(Debug)]
struct Table {
    keys: RandomState,
    slots: Box<[Slot]>,
}

/// One bucket. Its owner and its time are two words: if two owners meet in the moment in which a slot changes hands, one
/// request is counted in the other's bucket, and nothing worse.
#[derive(Debug, Default)]
struct Slot {
    /// The owner's, never 0 once the slot was used.
    tag: AtomicU64,
    /// When it is full again, in nanoseconds of the monotonic clock.
    full_at: AtomicU64,
}

impl Buckets {
    /// Takes a request out of the bucket that is named by `by`, `function` (empty for the app's own) and `who`. `slots` is
    /// how many buckets of users and addresses there are, when this is the first.
    ///
    /// # Errors
    /// When there is no room: how long it takes until there is.
    pub(crate) fn take(
        &self,
        rate: Rate,
        (by, function, who): (By, &str, &str),
        now: Duration,
        slots: usize,
    ) -> Result<(), Over> {
        let table = match by {
            By::Total => self.totals.get_or_init(|| Table::new(TOTAL_SLOTS)),
            By::User | By::Address => self.clients.get_or_init(|| Table::new(slots)),
        };
        let hash = table.keys.hash_one((by.label(), function, who));
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        take(&table.slot(hash, now).full_at, rate, now)
    }
}

impl Table {
    fn new(slots: usize) -> Self {
        let sets = slots.div_ceil(WAYS).next_power_of_two();
        Self {
            keys: RandomState::new(),
            slots: (0..sets * WAYS).map(|_| Slot::default()).collect(),
        }
    }

    /// The slot of the name with that hash: its own, or one that nobody needs any more, or another's.
    fn slot(&self, hash: u64, now: u64) -> &Slot {
        let tag = hash | 1;
        let sets = self.slots.len() / WAYS;
        let set = (hash >> 32) as usize & (sets - 1);
        let set = &self.slots[set * WAYS..][..WAYS];
        if let Some(own) = set.iter().find(|slot| slot.tag.load(Ordering::Relaxed) == tag) {
            return own;
        }
        for slot in set {
            let owner = slot.tag.load(Ordering::Relaxed);
            let free = owner == 0 || slot.full_at.load(Ordering::Relaxed) <= now;
            if free
                && slot
                    .tag
                    .compare_exchange(owner, tag, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                return slot;
            }
        }
        &set[(hash >> 1) as usize % WAYS]
    }
}

fn take(full_at: &AtomicU64, rate: Rate, now: u64) -> Result<(), Over> {
    let step = rate.step();
    let ahead_max = step.saturating_mul(u64::from(rate.burst - 1));
    full_at
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let from = full_at.max(now);
            (from - now <= ahead_max).then(|| from.saturating_add(step))
        })
        .map(|_| ())
        .map_err(|full_at| Over {
            rate,
            wait: Duration::from_nanos((full_at - now).saturating_sub(ahead_max)),
        })
}

/// The name of an address's bucket.
pub(crate) fn address_name(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & (u128::MAX << (128 - V6_PREFIX));
            Ipv6Addr::from_bits(network).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rates_are_parsed_and_shown() {
        for (text, shown) in [
            ("20/s", "20/s burst 20"),
            ("20/s burst 40", "20/s burst 40"),
            ("100/m  burst 1", "100/m burst 1"),
            ("1000000/h", "1000000/h burst 1000000"),
        ] {
            assert_eq!(rate(text).to_string(), shown);
            assert_eq!(rate(shown), rate(text));
        }
        for bad in [
            "",
            "20",
            "20/",
            "/s",
            "0/s",
            "20/d",
            "20/s 40",
            "20/s burst",
            "20/s burst 0",
            "20/s burst 4 5",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1000001/s",
            "20 /s",
        ] {
            assert_eq!(Rate::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_node_only_lowers() {
        let own = Rates {
            total: Some(rate("10/s burst 100")),
            user: None,
            address: Some(rate("1/s")),
        };
        let node = Rates {
            total: Some(rate("600/m burst 50")),
            user: Some(rate("5/s")),
            address: None,
        };
        let both = own.within(node);
        assert_eq!(
            both.total.map(|rate| (rate.step(), rate.burst)),
            Some((100_000_000, 50))
        );
        assert_eq!((both.user, both.address), (node.user, own.address));
        assert_eq!(own.within(Rates::default()), own);
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let buckets = Buckets::default();
        let take = |ms| buckets.take(rate("10/s burst 3"), (By::User, "", "u"), at(ms), 64);
        for _ in 0..3 {
            assert_eq!(take(1000), Ok(()));
        }
        let over = take(1000).unwrap_err();
        assert_eq!(over.wait, at(100));
        assert_eq!(take(1099).unwrap_err().wait, at(1));
        assert_eq!(take(1100), Ok(()));
        assert!(take(1100).is_err());
        // What was refused costs nothing; after a while the whole burst is there again, and not more.
        for _ in 0..3 {
            assert_eq!(take(9000), Ok(()));
        }
        assert!(take(9000).is_err());
    }

    #[test]
    fn buckets_are_told_apart_by_what_they_count() {
        let buckets = Buckets::default();
        let names = [
            (By::User, "", "a"),
            (By::User, "", "b"),
            (By::User, "f", "a"),
            (By::Address, "", "a"),
            (By::Total, "", ""),
            (By::Total, "f", ""),
        ];
        for name in names {
            assert!(buckets.take(rate("1/h"), name, at(1), 1024).is_ok(), "{name:?}");
        }
        for name in names {
            assert!(buckets.take(rate("1/h"), name, at(2), 1024).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_crowd_of_names_gets_no_fresh_buckets() {
        const SLOTS: usize = 64;
        let buckets = Buckets::default();
        let strict = rate("1/h");
        let take = |who: &str, ms| buckets.take(strict, (By::Address, "", who), at(ms), SLOTS);
        assert!(take("victim", 1).is_ok());
        // Whatever else comes, the one that had its request has no second.
        let passed = (0..10_000).filter(|n| take(&n.to_string(), 2).is_ok()).count();
        assert!(take("victim", 3).is_err());
        assert!((0..10_000).all(|n| take(&n.to_string(), 3).is_err()));
        // And the crowd together has no more than there are buckets.
        assert!(passed < SLOTS, "{passed}");
        // Once they are full again all slots are for whoever comes.
        let hour = 3600 * 1000;
        assert!(take("somebody", hour + 10).is_ok());
    }

    #[test]
    fn threads_share_a_bucket() {
        let buckets = Buckets::default();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let name = (By::Total, "", "");
                        let passes = |_: &usize| buckets.take(rate("1/h burst 100"), name, at(1), 64).is_ok();
                        (0..1000).filter(passes).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 100);
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let name = |text: &str| address_name(text.parse().unwrap());
        assert_eq!(name("192.0.2.7"), "192.0.2.7");
        assert_eq!(name("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(name("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(name("2001:db8:1:2::1"), name("2001:db8:1:2:ffff::"));
        assert_ne!(name("2001:db8:1:2::1"), name("2001:db8:1:3::1"));
    }
}
