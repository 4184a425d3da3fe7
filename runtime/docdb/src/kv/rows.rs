//! Rows that were read more than once, kept by their keys: a lookup here takes no walk from the root of redb's tree.
//! Rows of the newest committed state only. Which state that is, is a number that the store raises with each commit,
//! before anybody can see that commit's rows; who reads an older state goes by the cache.
//!
//! A set of a few places for each hash, each set under a lock of its own: nothing is ever moved, a row that finds no
//! place takes another's. A row is admitted when it is asked for again soon after a miss, so that a scan over all
//! documents does not sweep the cache and costs no copies.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows that one hash has room for.
const WAYS: usize = 4;
/// Bytes of the budget for one place: a small row and what keeping it takes.
const BYTES_PER_WAY: usize = 256;
/// Longest row, key and value, that is kept: a longer one costs more to copy than to find.
const ROW_BYTES_MAX: usize = 4096;
/// Changed keys that are remembered one by one; a commit of more empties the cache.
const CHANGED_MAX: usize = 65_536;

/// The rows.
pub(super) struct Rows {
    sets: Box<[Mutex<Set>]>,
    /// The number of the newest committed state.
    state: AtomicU64,
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// The rows whose hashes lead to one place.
#[derive(Default)]
struct Set {
    ways: [Option<Row>; WAYS],
    /// Hashes of keys that were missed last; none is 0.
    missed: [u32; WAYS],
    /// Whose turn it is to give way.
    turn: u8,
}

struct Row {
    /// Some bits of the key's hash.
    tag: u32,
    key_bytes: u32,
    /// The key, then the value.
    bytes: Arc<[u8]>,
}

/// What a lookup found.
pub(super) enum Found {
    Hit(Value),
    /// Not there, and not to be put there.
    Miss,
    /// Not there, and wanted the second time.
    Wanted,
}

/// A value that was found, no lock held.
pub(super) struct Value {
    bytes: Arc<[u8]>,
    from: usize,
}

impl Value {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }
}

/// The keys that a transaction changed, as hashes.
#[derive(Default)]
pub(super) struct Changed {
    hashes: Vec<u64>,
    /// There were too many.
    all: bool,
}

impl Changed {
    pub(super) fn add(&mut self, hash: u64) {
        if self.hashes.len() < CHANGED_MAX {
            self.hashes.push(hash);
        } else {
            self.all = true;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.hashes.is_empty()
    }

    /// Everything may have changed.
    #[cfg(test)]
    fn all() -> Self {
        Self {
            hashes: Vec::new(),
            all: true,
        }
    }
}

impl Rows {
    /// An empty cache that takes about `bytes_max` bytes when it is full.
    pub(super) fn new(bytes_max: usize) -> Self {
        let sets = (bytes_max / (WAYS * BYTES_PER_WAY)).max(1);
        let table_bytes = sets * size_of::<Mutex<Set>>();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            state: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            bytes_max: bytes_max.saturating_sub(table_bytes),
        }
    }

    /// The number of the newest committed state, to be read when that state is opened.
    pub(super) fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// The row of `key`, whose hash is `hash`, for a reader of the state `state`.
    pub(super) fn get(&self, state: u64, hash: u64, key: &[u8]) -> Found {
        let mut set = self.set(hash);
        if self.state() != state {
            return Found::Miss;
        }
        let tag = tag(hash);
        for row in set.ways.iter().flatten() {
            if row.tag == tag && row.key() == Some(key) {
                let from = key.len();
                let bytes = row.bytes.clone();
                return Found::Hit(Value { bytes, from });
            }
        }
        if set.missed.contains(&tag) {
            return Found::Wanted;
        }
        set.missed.rotate_right(1);
        set.missed[0] = tag;
        Found::Miss
    }

    /// Keeps a row that a reader of the state `state` read there.
    pub(super) fn put(&self, state: u64, hash: u64, key: &[u8], value: &[u8]) {
        let len = key.len() + value.len();
        let Ok(key_bytes) = u32::try_from(key.len()) else {
            return;
        };
        if len > ROW_BYTES_MAX {
            return;
        }
        let bytes: Arc<[u8]> = [key, value].concat().into();
        let tag = tag(hash);
        let mut set = self.set(hash);
        // The commit that raised it takes away what it changed after that: what is put before is found by it.
        if self.state() != state {
            return;
        }
        if set.ways.iter().flatten().any(|row| row.key() == Some(key)) {
            return;
        }
        let free = set.ways.iter().position(Option::is_none);
        let way = free.unwrap_or_else(|| {
            set.turn = (set.turn + 1) % WAYS as u8;
            usize::from(set.turn)
        });
        let before = set.ways[way].take().map_or(0, |row| row.bytes.len());
        let held = self.bytes.fetch_sub(before, Ordering::Relaxed) - before;
        if held + len > self.bytes_max {
            // All of its bytes are taken: this set makes room for whoever comes next.
            self.clear(&mut set, |_| true);
            return;
        }
        self.bytes.fetch_add(len, Ordering::Relaxed);
        set.ways[way] = Some(Row {
            tag,
            key_bytes,
            bytes,
        });
    }

    /// A commit made a newer state: takes away the rows that it changed. To be called when the commit is done and
    /// nobody can have opened the new state yet.
    pub(super) fn advance(&self, changed: &Changed) {
        self.state.fetch_add(1, Ordering::AcqRel);
        if changed.all {
            for set in &self.sets {
                self.clear(&mut lock(set), |_| true);
            }
        }
        for hash in &changed.hashes {
            let tag = tag(*hash);
            self.clear(&mut self.set(*hash), |row| row.tag == tag);
        }
    }

    fn clear(&self, set: &mut Set, which: impl Fn(&Row) -> bool) {
        for way in &mut set.ways {
            if let Some(row) = way.take_if(|row| which(row)) {
                self.bytes.fetch_sub(row.bytes.len(), Ordering::Relaxed);
            }
        }
    }

    fn set(&self, hash: u64) -> MutexGuard<'_, Set> {
        // The upper half chooses the set, the lower one is the tag. The product is below the number of sets.
        let at = ((hash >> 32) * self.sets.len() as u64) >> 32;
        lock(&self.sets[at as usize])
    }
}

/// A key's hash. It has no secret: keys that are made to collide keep each other out of the cache, and that is all.
pub(super) fn hash(key: &[u8]) -> u64 {
    let (words, rest) = key.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(key.len() as u64, |hash, word| {
        mix(hash ^ u64::from_le_bytes(*word))
    })
}

/// Spreads each bit over all (MurmurHash3's finalizer).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

impl Row {
    fn key(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::try_from(self.key_bytes).ok()?)
    }
}

fn tag(hash: u64) -> u32 {
    // Never 0, which stands for none.
    (hash as u32) | 1
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(rows: &Rows, state: u64, key: &[u8]) -> Found {
        rows.get(state, hash(key), key)
    }

    fn put(rows: &Rows, state: u64, key: &[u8], value: &[u8]) {
        rows.put(state, hash(key), key, value);
    }

    fn changed(keys: &[&[u8]]) -> Changed {
        let mut changed = Changed::default();
        keys.iter().for_each(|key| changed.add(hash(key)));
        changed
    }

    #[track_caller]
    fn check(rows: &Rows, state: u64, key: &[u8], wanted: Option<&[u8]>) {
        let found = match get(rows, state, key) {
            Found::Hit(value) => Some(value.bytes().to_vec()),
            Found::Miss | Found::Wanted => None,
        };
        assert_eq!(found.as_deref(), wanted);
    }

    #[test]
    fn a_row_is_wanted_at_its_second_miss() {
        let rows = Rows::new(1 << 20);
        assert!(matches!(get(&rows, 0, b"a"), Found::Miss));
        assert!(matches!(get(&rows, 0, b"a"), Found::Wanted));
        put(&rows, 0, b"a", b"1");
        check(&rows, 0, b"a", Some(b"1"));
        check(&rows, 0, b"b", None);
    }

    #[test]
    fn a_commit_takes_away_what_it_changed_and_nothing_else() {
        let rows = Rows::new(1 << 20);
        put(&rows, 0, b"a", b"1");
        put(&rows, 0, b"b", b"2");
        rows.advance(&changed(&[b"a", b"c"]));
        check(&rows, 1, b"a", None);
        check(&rows, 1, b"b", Some(b"2"));
        rows.advance(&Changed::all());
        check(&rows, 2, b"b", None);
        assert_eq!(rows.bytes.load(Ordering::Relaxed), 0);
    }

    /// A reader that began before a commit has the rows of before: it may neither leave them for the readers of the
    /// new state nor get theirs.
    #[test]
    fn a_reader_of_an_older_state_goes_by_the_cache() {
        let rows = Rows::new(1 << 20);
        rows.advance(&changed(&[b"a"]));
        put(&rows, 0, b"a", b"old");
        check(&rows, 1, b"a", None);
        put(&rows, 1, b"a", b"new");
        check(&rows, 0, b"a", None);
        check(&rows, 1, b"a", Some(b"new"));
    }

    #[test]
    fn its_bytes_stay_within_the_bound() {
        let bytes_max = 64 * 1024;
        let rows = Rows::new(bytes_max);
        for n in 0..10_000_u32 {
            put(&rows, 0, &n.to_be_bytes(), &[7; 500]);
            let held: usize = rows
                .sets
                .iter()
                .flat_map(|set| {
                    lock(set)
                        .ways
                        .iter()
                        .flatten()
                        .map(|row| row.bytes.len())
                        .collect::<Vec<_>>()
                })
                .sum();
            if n % 1000 == 0 {
                assert_eq!(held, rows.bytes.load(Ordering::Relaxed));
            }
        }
        assert!(rows.bytes.load(Ordering::Relaxed) <= bytes_max);
        put(&rows, 0, b"long", &[7; ROW_BYTES_MAX]);
        check(&rows, 0, b"long", None);
    }

    #[test]
    fn a_commit_of_very_many_keys_empties_it() {
        let rows = Rows::new(1 << 20);
        put(&rows, 0, b"a", b"1");
        let mut changed = Changed::default();
        (0..=CHANGED_MAX as u64).for_each(|hash| changed.add(hash));
        rows.advance(&changed);
        check(&rows, 1, b"a", None);
    }
}
