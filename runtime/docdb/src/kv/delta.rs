//! What was committed since redb's last durable commit: rows in memory, in the log too, with the sequences of their
//! commits. A reader of an older state goes by what is newer than it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::iter::Peekable;
use std::sync::atomic::{self, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::overlay::Changes;
use super::{Direction, Range};

/// Bytes that a row takes in memory beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 160;
/// Rows that a scan takes at first, and at most, at a time.
const AHEAD_ROWS: (usize, usize) = (4, 256);

/// A row's value, or none when it was removed. (The bytes are those of the transaction: not copied once more.)
pub(super) type Value = Option<Arc<Vec<u8>>>;

/// The rows.
#[derive(Default)]
pub(super) struct Delta {
    rows: RwLock<BTreeMap<Vec<u8>, Versions>>,
    /// Bytes of memory, about. Nothing has none, and is passed by without a lock.
    bytes: AtomicUsize,
}

/// A row's values, each with the sequence of the commit that set it.
struct Versions {
    newest: (u64, Value),
    /// Ascending.
    older: Vec<(u64, Value)>,
}

impl Versions {
    /// The value in the state of `sequence`, if that state has the row from here.
    fn at(&self, sequence: u64) -> Option<&Value> {
        if self.newest.0 <= sequence {
            return Some(&self.newest.1);
        }
        let older = self.older.iter().rev();
        older
            .map(|(of, value)| (*of, value))
            .find(|(of, _)| *of <= sequence)
            .map(|(_, value)| value)
    }
}

impl Delta {
    /// Bytes of memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(atomic::Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Adds what the commit of `sequence`, newer than all before it, changed.
    pub(super) fn add(&self, sequence: u64, changes: Changes) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        for (key, value) in changes {
            bytes += ROW_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Vec::len);
            let newest = (sequence, value.map(Arc::new));
            match rows.entry(key) {
                Entry::Occupied(mut row) => {
                    let versions = row.get_mut();
                    let before = std::mem::replace(&mut versions.newest, newest);
                    versions.older.push(before);
                }
                Entry::Vacant(row) => {
                    let older = Vec::new();
                    row.insert(Versions { newest, older });
                }
            }
        }
        self.bytes.fetch_add(bytes, atomic::Ordering::Release);
    }

    /// The value of `key` in the state of `sequence`, if that state has the row from here.
    pub(super) fn get(&self, sequence: u64, key: &[u8]) -> Option<Value> {
        if self.is_empty() {
            return None;
        }
        self.lock().get(key)?.at(sequence).cloned()
    }

    /// Shows `visit` the newest value of each row in order, until it fails.
    pub(super) fn each<E>(
        &self,
        mut visit: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let rows = self.lock();
        rows.iter()
            .try_for_each(|(key, versions)| visit(key, versions.newest.1.as_deref().map(Vec::as_slice)))
    }

    /// The rows in `range` as the state of `sequence` has them from here, removals among them.
    fn ahead<'a>(&'a self, sequence: u64, range: Range<'a>, direction: Direction) -> Ahead<'a> {
        Ahead {
            delta: self,
            sequence,
            range,
            direction,
            rows: Vec::new(),
            next_rows: AHEAD_ROWS.0,
            ended: self.is_empty(),
        }
    }

    /// The same with the rows of `older`, an older delta, where this one has none.
    pub(super) fn ahead_of<'a>(
        &'a self,
        older: Option<&'a Delta>,
        sequence: u64,
        range: Range<'a>,
        direction: Direction,
    ) -> AheadOf<'a> {
        let ahead = |delta: &'a Delta| delta.ahead(sequence, range, direction).peekable();
        AheadOf {
            newer: ahead(self),
            older: older.map(ahead),
            direction,
        }
    }

    fn lock(&self) -> RwLockReadGuard<'_, BTreeMap<Vec<u8>, Versions>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An iterator over rows of a delta that holds no lock between them: some are taken at a time.
struct Ahead<'a> {
    delta: &'a Delta,
    sequence: u64,
    range: Range<'a>,
    direction: Direction,
    /// Those taken that were not given yet, in reverse.
    rows: Vec<(Vec<u8>, Value)>,
    next_rows: usize,
    ended: bool,
}

impl Ahead<'_> {
    /// Takes more rows, those after `last`.
    fn refill(&mut self, last: Option<&[u8]>) {
        use std::ops::Bound;
        let (mut from, mut to): (Bound<&[u8]>, Bound<&[u8]>) = self.range.as_bounds();
        if let Some(last) = last {
            match self.direction {
                Direction::Forward => from = Bound::Excluded(last),
                Direction::Backward => to = Bound::Excluded(last),
            }
        }
        // `BTreeMap::range` panics on crossing ends.
        let rest = Range { from, to };
        if rest.is_empty() {
            self.ended = true;
            return;
        }
        let rows = self.delta.lock();
        let found = rows.range::<[u8], _>((from, to));
        let row =
            |(key, versions): (&Vec<u8>, &Versions)| Some((key.clone(), versions.at(self.sequence)?.clone()));
        match self.direction {
            Direction::Forward => self.rows.extend(found.filter_map(row).take(self.next_rows)),
            Direction::Backward => self.rows.extend(found.rev().filter_map(row).take(self.next_rows)),
        }
        self.ended = self.rows.len() < self.next_rows;
        self.next_rows = (self.next_rows * 2).min(AHEAD_ROWS.1);
        self.rows.reverse();
    }
}

impl Iterator for Ahead<'_> {
    type Item = (Vec<u8>, Value);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rows.is_empty() && !self.ended {
            self.refill(None);
        }
        let row = self.rows.pop()?;
        if self.rows.is_empty() && !self.ended {
            self.refill(Some(&row.0));
        }
        Some(row)
    }
}

/// An iterator over the rows of two deltas.
pub(super) struct AheadOf<'a> {
    newer: Peekable<Ahead<'a>>,
    older: Option<Peekable<Ahead<'a>>>,
    direction: Direction,
}

impl Iterator for AheadOf<'_> {
    type Item = (Vec<u8>, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let Some(older) = &mut self.older else {
            return self.newer.next();
        };
        let (Some((newer_key, _)), Some((older_key, _))) = (self.newer.peek(), older.peek()) else {
            return self.newer.next().or_else(|| older.next());
        };
        let order = match self.direction {
            Direction::Forward => newer_key.cmp(older_key),
            Direction::Backward => older_key.cmp(newer_key),
        };
        match order {
            Ordering::Less => self.newer.next(),
            Ordering::Equal => {
                older.next();
                self.newer.next()
            }
            Ordering::Greater => older.next(),
        }
    }
}
