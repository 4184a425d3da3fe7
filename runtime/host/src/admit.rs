//! Permits: how many invocations may run at once, of one function and on the node. There is no queue: a refusal is
//! immediate, so that a caller can go elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of permits.
#[derive(Debug)]
pub(crate) struct Permits {
    taken: AtomicUsize,
    limit: usize,
}

impl Permits {
    /// `limit` permits.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit,
        })
    }

    /// How many there are.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many are taken now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes one, or nothing when all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // From here on the permit gives back what was added, also when it turns out to be one too many.
        let permit = Permit(Arc::clone(self));
        (before < self.limit).then_some(permit)
    }
}

/// The right to run; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_when_all_are_taken() {
        let permits = Permits::new(2);
        let first = permits.take().unwrap();
        let _second = permits.take().unwrap();
        assert!(permits.take().is_none());
        assert_eq!(permits.taken(), 2);
        drop(first);
        assert!(permits.take().is_some());
    }
}
