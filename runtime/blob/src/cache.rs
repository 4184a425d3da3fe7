//! The memory cache: whole contents by their hash, bounded by bytes, loaded once however many ask. Because the key
//! is the hash of the bytes there is nothing to invalidate; the store verifies what it loads before it comes here.
//!
//! moka's synchronous cache rather than its future one: a hit must not need an executor. Loads in flight are kept
//! beside it, a cell for each hash, so that a miss asks the backend once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cloudlet_base::ContentHash;
use tokio::sync::OnceCell;

use crate::Error;
use crate::metrics::Metrics;

/// What an entry costs beside its bytes: key, bookkeeping, list nodes.
const ENTRY_OVERHEAD_BYTES: u32 = 200;

type Flight = Arc<OnceCell<Bytes>>;

pub(crate) struct Cache {
    entries: moka::sync::Cache<ContentHash, Bytes>,
    flights: Mutex<HashMap<ContentHash, Flight>>,
    metrics: Arc<Metrics>,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64, metrics: Arc<Metrics>) -> Self {
        let gauge = metrics.cache_bytes.clone();
        let entries = moka::sync::Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, bytes: &Bytes| {
                u32::try_from(bytes.len())
                    .unwrap_or(u32::MAX)
                    .saturating_add(ENTRY_OVERHEAD_BYTES)
            })
            .eviction_listener(move |_, bytes: Bytes, _| gauge.sub(gauge_bytes(&bytes)))
            .build();
        Self {
            entries,
            flights: Mutex::default(),
            metrics,
        }
    }

    /// The content, if it is here. A count and a hash table look-up; the bytes are shared, not copied.
    pub(crate) fn get(&self, hash: &ContentHash) -> Option<Bytes> {
        let found = self.entries.get(hash);
        match found {
            Some(_) => self.metrics.cache_hits.inc(),
            None => self.metrics.cache_misses.inc(),
        }
        found
    }

    /// The content, from here or by `load`, which runs once for all who ask at the same time. When the one that
    /// runs it goes away, the next takes over; when it fails, each of the others tries for itself.
    pub(crate) async fn get_or_load<F>(
        &self,
        hash: ContentHash,
        load: impl FnOnce() -> F,
    ) -> Result<Bytes, Error>
    where
        F: Future<Output = Result<Bytes, Error>>,
    {
        match self.get(&hash) {
            Some(bytes) => Ok(bytes),
            None => self.load(hash, load).await,
        }
    }

    /// As [`get_or_load`](Self::get_or_load) after a miss that was counted.
    pub(crate) async fn load<F>(&self, hash: ContentHash, load: impl FnOnce() -> F) -> Result<Bytes, Error>
    where
        F: Future<Output = Result<Bytes, Error>>,
    {
        let flight = self.join(hash);
        let Some(cell) = &flight.cell else {
            return load().await;
        };
        let loaded = cell.get_or_try_init(|| async {
            // Somebody else's load may have landed between our miss and our joining.
            if let Some(bytes) = self.entries.get(&hash) {
                return Ok(bytes);
            }
            let bytes = load().await?;
            self.insert(hash, bytes.clone());
            Ok(bytes)
        });
        loaded.await.cloned()
    }

    fn insert(&self, hash: ContentHash, bytes: Bytes) {
        self.metrics.cache_bytes.add(gauge_bytes(&bytes));
        self.entries.insert(hash, bytes);
    }

    fn join(&self, hash: ContentHash) -> InFlight<'_> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        InFlight {
            cache: self,
            hash,
            cell: Some(flights.entry(hash).or_default().clone()),
        }
    }
}

fn gauge_bytes(bytes: &Bytes) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// A place in a load in flight; the last to leave takes it off the table.
struct InFlight<'a> {
    cache: &'a Cache,
    hash: ContentHash,
    /// There until the drop.
    cell: Option<Flight>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut flights = self.cache.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Joining and leaving both happen under the lock, so the count is exact here.
        drop(self.cell.take());
        if flights
            .get(&self.hash)
            .is_some_and(|cell| Arc::strong_count(cell) == 1)
        {
            flights.remove(&self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn cache(bytes_max: u64) -> Cache {
        Cache::new(
            bytes_max,
            Arc::new(Metrics::register(&prometheus::Registry::new())),
        )
    }

    fn hash(n: u8) -> ContentHash {
        ContentHash::from_bytes([n; 32])
    }

    #[tokio::test]
    async fn a_miss_is_loaded_once_for_all_who_wait() {
        let cache = cache(1 << 20);
        let loads = AtomicUsize::new(0);
        let load = || async {
            loads.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(Bytes::from_static(b"x"))
        };
        let all = futures_util::future::join_all((0..50).map(|_| cache.get_or_load(hash(1), load))).await;
        assert!(all.into_iter().all(|bytes| bytes.unwrap() == "x"));
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        assert_eq!(cache.metrics.cache_misses.get(), 50);
        assert_eq!(cache.get(&hash(1)).unwrap(), "x");
        assert_eq!(cache.metrics.cache_hits.get(), 1);
        assert!(cache.flights.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_failed_or_dropped_load_leaves_nothing_behind() {
        let cache = cache(1 << 20);
        let failed = cache
            .get_or_load(hash(1), || async { Err(Error::Backend("down".into())) })
            .await;
        assert!(matches!(failed, Err(Error::Backend(_))));
        let never = cache.get_or_load(hash(1), std::future::pending);
        drop(futures_util::future::select(Box::pin(never), std::future::ready(())).await);
        assert!(cache.flights.lock().unwrap().is_empty());
        let bytes = cache
            .get_or_load(hash(1), || async { Ok(Bytes::from_static(b"y")) })
            .await
            .unwrap();
        assert_eq!(bytes, "y");
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_gauge_follows() {
        let cache = cache(100 * 1024);
        for n in 0..100 {
            let load = || async { Ok(Bytes::from(vec![n; 8 * 1024])) };
            cache.get_or_load(hash(n), load).await.unwrap();
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() <= 100 * 1024);
        let held: usize = cache.entries.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(cache.metrics.cache_bytes.get(), i64::try_from(held).unwrap());
        assert!(held > 0);
    }
}
