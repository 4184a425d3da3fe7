//! What the store counts; listed in `runtime/docs/metrics.md`.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge, Registry};

pub(crate) struct Metrics {
    /// Contents found in memory.
    pub(crate) cache_hits: IntCounter,
    /// Contents not found in memory.
    pub(crate) cache_misses: IntCounter,
    /// Bytes of content in memory.
    pub(crate) cache_bytes: IntGauge,
    /// Bytes read from the backend.
    pub(crate) read_bytes: IntCounter,
    /// Bytes written to the backend.
    pub(crate) written_bytes: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            cache_hits: counter(
                registry,
                "cloudlet_blob_cache_hits_total",
                "Contents found in the memory cache",
            ),
            cache_misses: counter(
                registry,
                "cloudlet_blob_cache_misses_total",
                "Contents not in the memory cache",
            ),
            cache_bytes: gauge(
                registry,
                "cloudlet_blob_cache_bytes",
                "Bytes of content in the memory cache",
            ),
            read_bytes: counter(
                registry,
                "cloudlet_blob_read_bytes_total",
                "Bytes read from the object backend",
            ),
            written_bytes: counter(
                registry,
                "cloudlet_blob_written_bytes_total",
                "Bytes written to the backend",
            ),
        }
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter =
        IntCounter::new(name, help).expect("the name is a literal in the form that Prometheus wants");
    add(registry, Box::new(counter.clone()), name);
    counter
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::new(name, help).expect("the name is a literal in the form that Prometheus wants");
    add(registry, Box::new(gauge.clone()), name);
    gauge
}

/// Two stores on one registry would count into one set of names; the second's are then not shown.
fn add(registry: &Registry, metric: Box<dyn Collector>, name: &str) {
    if let Err(error) = registry.register(metric) {
        tracing::warn!(metric = name, %error, "metric not registered");
    }
}
