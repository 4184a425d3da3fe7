//! The cluster time that drivers pass around: that of the newest change in the change log, so that a change stream can
//! begin where a reply was; where there is no log, a clock that never goes back, a little ahead with each write. On a
//! node that is alone every read sees every answered write, so waiting "until this time" is never needed; drivers'
//! causally consistent sessions send the times along.

use std::sync::atomic::{AtomicU64, Ordering};

use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc, spec::BinarySubtype};

/// Seconds in the upper half, a counter within the second in the lower.
#[derive(Default)]
pub(crate) struct LogicalTime(AtomicU64);

impl LogicalTime {
    /// The time after an operation that ended at `seconds` since the epoch; a write gets one of its own.
    pub(crate) fn after(&self, seconds: i64, write: bool) -> Timestamp {
        let floor = (u64::try_from(seconds).unwrap_or(0) << 32) | 1;
        let next = |last: u64| last.saturating_add(u64::from(write)).max(floor);
        let last = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)))
            .unwrap_or_else(|last| last);
        timestamp(next(last))
    }

    /// The time after an operation that saw the change of that time.
    pub(crate) fn at_least(&self, change: Timestamp) -> Timestamp {
        let change = (u64::from(change.time) << 32) | u64::from(change.increment);
        let last = self.0.fetch_max(change, Ordering::AcqRel);
        timestamp(last.max(change))
    }
}

fn timestamp(time: u64) -> Timestamp {
    Timestamp {
        time: u32::try_from(time >> 32).unwrap_or(u32::MAX),
        increment: (time & u64::from(u32::MAX)) as u32,
    }
}

/// `$clusterTime`: unsigned, which drivers take from servers that don't sign.
pub(crate) fn gossip(time: Timestamp) -> RawDocumentBuf {
    let hash = Binary {
        subtype: BinarySubtype::Generic,
        bytes: vec![0; 20],
    };
    rawdoc! { "clusterTime": time, "signature": { "hash": hash, "keyId": 0_i64 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back_and_moves_with_writes() {
        let clock = LogicalTime::default();
        let at = |time, increment| Timestamp { time, increment };
        assert_eq!(clock.after(10, false), at(10, 1));
        assert_eq!(clock.after(10, false), at(10, 1));
        assert_eq!(clock.after(10, true), at(10, 2));
        assert_eq!(clock.after(9, true), at(10, 3));
        assert_eq!(clock.after(-5, false), at(10, 3));
        assert_eq!(clock.after(11, true), at(11, 1));
        assert_eq!(clock.at_least(at(11, 7)), at(11, 7));
        assert_eq!(clock.at_least(at(11, 6)), at(11, 7));
        assert_eq!(clock.after(11, true), at(11, 8));
    }
}
