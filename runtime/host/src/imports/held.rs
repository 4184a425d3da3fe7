//! What handles of a guest hold in the node's memory, beside its own: content that waits for the store, values that a swap
//! compares. Bounded for each invocation.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Failure;
use crate::run::Run;

/// Bytes that all handles of one invocation may hold.
const HELD_BYTES_MAX: u64 = 64 << 20;

/// The share of one handle; given back when it goes.
pub(crate) struct Held {
    run: Arc<Run>,
    bytes: u64,
}

impl Held {
    /// Takes so many bytes of what the invocation may hold.
    ///
    /// # Errors
    /// A limit.
    pub(crate) fn take(run: &Arc<Run>, bytes: u64) -> Result<Self, Failure> {
        let before = run.meter.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = Self {
            run: Arc::clone(run),
            bytes,
        };
        match before + bytes {
            0..=HELD_BYTES_MAX => Ok(held),
            all => Err(Failure::limit(format!(
                "the uploads and swaps under way would hold {all} bytes, over the limit of {HELD_BYTES_MAX} for one \
                 invocation; finish some of them"
            ))),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.run.meter.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
