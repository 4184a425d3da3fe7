//! What triggers did.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of the node's triggers.
pub(crate) struct Metrics {
    /// Deliveries answered.
    pub(super) answered: IntCounter,
    /// Invocations that failed and will be tried again.
    pub(super) retried: IntCounter,
    /// Deliveries whose last invocation failed.
    pub(super) failed: IntCounter,
    /// Events that made no delivery, for the app has too many.
    pub(super) refused: IntCounter,
    /// Ticks of timers that came too late and were left out.
    pub(super) missed: IntCounter,
    /// Deliveries that are being invoked.
    pub(super) running: IntGauge,
    /// Rounds that failed.
    pub(super) failures: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is taken, which is a bug.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let outcomes = IntCounterVec::new(
            Opts::new(
                "cloudlet_trigger_deliveries_total",
                "Deliveries of triggers, by what became of them.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(outcomes.clone()))?;
        let running = IntGauge::new("cloudlet_trigger_running", "Deliveries that are being invoked.")?;
        registry.register(Box::new(running.clone()))?;
        let failures = IntCounter::new(
            "cloudlet_trigger_failures_total",
            "Rounds of the triggers' task that failed; the next one tries again.",
        )?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self {
            answered: outcomes.with_label_values(&["answered"]),
            retried: outcomes.with_label_values(&["retried"]),
            failed: outcomes.with_label_values(&["failed"]),
            refused: outcomes.with_label_values(&["refused"]),
            missed: outcomes.with_label_values(&["missed"]),
            running,
            failures,
        })
    }
}
