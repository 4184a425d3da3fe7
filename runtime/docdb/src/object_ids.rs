//! ObjectIds for documents that come without `_id`: seconds, five bytes that tell this process from others, and a
//! counter that begins anywhere, as MongoDB's drivers make them.

use std::sync::atomic::{AtomicU32, Ordering};

use bson::oid::ObjectId;
use cloudlet_base::{Clock, Entropy};

/// Makes ObjectIds.
#[derive(Debug)]
pub(crate) struct ObjectIds {
    process: [u8; 5],
    counter: AtomicU32,
}

impl ObjectIds {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut process = [0; 5];
        entropy.fill(&mut process);
        let mut start = [0; 4];
        entropy.fill(&mut start);
        Self {
            process,
            counter: AtomicU32::new(u32::from_be_bytes(start)),
        }
    }

    /// An id that this process has not given out, up to 2^24 of them a second.
    pub(crate) fn next(&self, clock: &dyn Clock) -> ObjectId {
        // The format has the low 32 bits of the seconds.
        let seconds = clock.now().seconds() as u32;
        let counter = self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&seconds.to_be_bytes());
        bytes[4..9].copy_from_slice(&self.process);
        bytes[9..].copy_from_slice(&counter[1..]);
        ObjectId::from_bytes(bytes)
    }

    /// A number that tells timestamps of one second apart.
    pub(crate) fn increment(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}
