//! Changes held in memory over a view of the store: what lets one operation of a group commit fail without
//! disturbing the others.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::{Direction, GetVisitor, KvRead, KvWrite, Range, ScanVisitor};
use crate::Result;

/// Changed keys in order; `None` is a removal.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A view with changes on top that reads see and the view below does not.
pub(crate) struct Overlay<'a> {
    base: &'a dyn KvRead,
    changes: Changes,
    /// The keys changed for the first time since it was resumed, when that is asked for.
    fresh: Option<Vec<Vec<u8>>>,
    written_bytes: usize,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(base: &'a dyn KvRead) -> Self {
        Self {
            base,
            changes: Changes::new(),
            fresh: None,
            written_bytes: 0,
        }
    }

    /// One that goes on from earlier changes, and keeps account of what is added to them.
    pub(crate) fn resume(base: &'a dyn KvRead, changes: Changes) -> Self {
        Self {
            base,
            changes,
            fresh: Some(Vec::new()),
            written_bytes: 0,
        }
    }

    /// The keys that were not among the changes when it was resumed.
    pub(crate) fn take_fresh(&mut self) -> Vec<Vec<u8>> {
        self.fresh.take().unwrap_or_default()
    }

    /// Bytes of keys and values changed.
    pub(crate) fn written_bytes(&self) -> usize {
        self.written_bytes
    }

    fn change(&mut self, key: &[u8], change: Option<Vec<u8>>) {
        self.written_bytes += key.len() + change.as_ref().map_or(0, Vec::len);
        let before = self.changes.insert(key.to_vec(), change);
        if let (None, Some(fresh)) = (before, &mut self.fresh) {
            fresh.push(key.to_vec());
        }
    }

    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        match self.changes.get(key) {
            Some(change) => Ok(change.as_ref().map(|value| visit(value)).is_some()),
            None => self.base.get(key, visit),
        }
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut changed = self.changes.range::<[u8], _>(range.as_bounds());
        let mut step = || match direction {
            Direction::Forward => changed.next(),
            Direction::Backward => changed.next_back(),
        };
        let mut next = step();
        if next.is_none() {
            return self.base.scan(range, direction, visit);
        }
        let mut stopped = false;
        let precedes = |a: &[u8], b: &[u8]| match direction {
            Direction::Forward => a < b,
            Direction::Backward => a > b,
        };
        self.base.scan(range, direction, &mut |key, value| {
            while let Some((changed_key, change)) = next.filter(|(changed_key, _)| precedes(changed_key, key))
            {
                next = step();
                if let Some(value) = change
                    && visit(changed_key, value).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match next.filter(|(changed_key, _)| changed_key.as_slice() == key) {
                None => visit(key, value),
                Some((_, change)) => {
                    next = step();
                    change
                        .as_ref()
                        .map_or(ControlFlow::Continue(()), |value| visit(key, value))
                }
            };
            stopped = flow.is_break();
            flow
        })?;
        while let Some((key, change)) = next.filter(|_| !stopped) {
            next = step();
            if let Some(value) = change {
                stopped = visit(key, value).is_break();
            }
        }
        Ok(())
    }
}

impl KvWrite for Overlay<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.change(key, Some(value.to_vec()));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.change(key, None);
        Ok(())
    }
}

/// Shows `visit` the rows of `map` within `range`.
pub(super) fn scan_map<V>(
    map: &BTreeMap<Vec<u8>, V>,
    range: Range<'_>,
    direction: Direction,
    visit: &mut dyn FnMut(&[u8], &V) -> ControlFlow<()>,
) {
    // `BTreeMap::range` panics on crossing ends.
    if range.is_empty() {
        return;
    }
    let bounds: (Bound<&[u8]>, Bound<&[u8]>) = range.as_bounds();
    let mut rows = map.range::<[u8], _>(bounds);
    while let Some((key, value)) = match direction {
        Direction::Forward => rows.next(),
        Direction::Backward => rows.next_back(),
    } {
        if visit(key, value).is_break() {
            return;
        }
    }
}
