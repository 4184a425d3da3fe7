//! The seam to the ordered store: byte strings to byte strings in `memcmp` order, with atomic durable writes and
//! consistent reads. Nine methods, object-safe and synchronous; everything derived from them lives above, once.
//! [`RedbKv`] is the store on disk, [`MemKv`] the one in memory. Only `catalog`, `index`, `exec`, `lanes`,
//! `transaction`, `feed` and `verify` call it.

mod delta;
mod failure;
mod file;
mod log;
mod mem;
mod noted;
mod overlay;
mod redb;
mod rows;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod view;

use std::ops::{Bound, ControlFlow};

use crate::Result;

pub use file::{Opener, Part, log_path};
pub use mem::MemKv;
pub(crate) use overlay::{Changes, Overlay};
pub use redb::{LOG_BYTES, RedbKv, RedbOptions};

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// An interval of keys. Empty when the ends cross.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    /// The lower end.
    pub from: Bound<&'a [u8]>,
    /// The upper end.
    pub to: Bound<&'a [u8]>,
}

impl<'a> Range<'a> {
    /// `from..to`, the upper end excluded.
    pub fn half_open(from: &'a [u8], to: &'a [u8]) -> Self {
        Self {
            from: Bound::Included(from),
            to: Bound::Excluded(to),
        }
    }

    /// Whether no key can be inside: the ends cross, or touch without both being included.
    pub fn is_empty(&self) -> bool {
        match (self.from, self.to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
                from >= to
            }
        }
    }

    pub(crate) fn as_bounds(&self) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        (self.from, self.to)
    }
}

/// Sees the value of a key. The bytes are borrowed from the store.
pub type GetVisitor<'v> = dyn FnMut(&[u8]) + 'v;

/// Sees the rows of a scan in order, and says whether to go on. The bytes are borrowed from the store.
pub type ScanVisitor<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// A consistent view of the store.
pub trait KvRead {
    /// Shows `visit` the value of `key`. Returns whether there is one.
    ///
    /// # Errors
    /// When the store can't be read.
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool>;

    /// Shows `visit` the rows whose keys are in `range`, in key order or against it, until it breaks.
    ///
    /// # Errors
    /// When the store can't be read. Errors of the visitor's own are for its captures.
    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()>;
}

/// A view of the store with this transaction's own changes in it.
pub trait KvWrite: KvRead {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// When the store can't be written.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes `key`, if it is there.
    ///
    /// # Errors
    /// When the store can't be written.
    fn delete(&mut self, key: &[u8]) -> Result<()>;
}

/// A view that outlives the call that gave it.
pub type KvSnapshot = dyn KvRead + Send;

/// What a read body does with its view.
pub type ReadBody<'b> = dyn FnMut(&dyn KvRead) -> Result<()> + 'b;

/// What a write body does in its transaction.
pub type WriteBody<'b> = dyn FnMut(&mut dyn KvWrite) -> Result<()> + 'b;

/// An ordered store.
///
/// Contract: a read body sees one committed state, unchanged while it runs, and never waits for a writer's commit.
/// Write bodies run one at a time. When `write` returns `Ok`, all changes of the body are durable and visible to
/// every read that begins later; when the body fails, none is there. When the commit itself fails, the changes are
/// there all or not at all, but which of the two is not known; the store is usable afterwards, if the medium is.
/// A body that changed nothing costs no commit. An optimistic store may run a write body more than once, so bodies
/// have no effects but on the transaction and on captures they set anew at each run.
pub trait Kv: Send + Sync + 'static {
    /// Runs `body` on the newest committed state.
    ///
    /// # Errors
    /// The body's own, or the store's.
    fn read(&self, body: &mut ReadBody<'_>) -> Result<()>;

    /// The newest committed state, unchanged while it is held. The store can't reuse the space of what was deleted
    /// since: hold it for a bounded time.
    ///
    /// # Errors
    /// The store's.
    fn snapshot(&self) -> Result<Box<KvSnapshot>>;

    /// Runs `body` in a write transaction and commits it durably.
    ///
    /// # Errors
    /// The body's own, or the store's.
    fn write(&self, body: &mut WriteBody<'_>) -> Result<()>;

    /// Whether [`tend`](Self::tend) has something to do. Asked after each commit.
    fn is_due(&self) -> bool {
        false
    }

    /// Does on the caller's thread, beside readers and writers, what the store put off so that no commit waits for it.
    /// A store that nobody tends makes writers wait now and then.
    ///
    /// # Errors
    /// The store's; nothing is lost by it, and it may be asked again.
    fn tend(&self) -> Result<()> {
        Ok(())
    }
}

/// The value of `key`, copied.
pub(crate) fn get_vec(kv: &(impl KvRead + ?Sized), key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut found = None;
    kv.get(key, &mut |value| found = Some(value.to_vec()))?;
    Ok(found)
}

/// The smallest byte string greater than all that begin with `prefix`; `None` when there is none.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_is_past_all_that_share_the_prefix() {
        assert_eq!(successor(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(successor(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(successor(&[0xff]), None);
        assert_eq!(successor(&[]), None);
    }
}
