//! What triggers did.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::Kind;

/// Counters of the node's triggers.
pub(crate) struct Metrics {
    timer: OfKind,
    database: OfKind,
    storage: OfKind,
    /// Ticks of timers that came too late and were left out.
    pub(super) missed: IntCounter,
    /// Deliveries that are being invoked.
    pub(super) running: IntGauge,
    /// Triggers on changes that stand still.
    pub(super) stalled: IntGauge,
    /// Rounds that failed.
    pub(super) failures: IntCounter,
}

/// Counters of the triggers of one kind.
pub(super) struct OfKind {
    /// Deliveries answered.
    pub(super) answered: IntCounter,
    /// Invocations that failed and will be tried again.
    pub(super) retried: IntCounter,
    /// Deliveries whose last invocation failed.
    pub(super) failed: IntCounter,
    /// Ticks that made no delivery, for the app has too many; changes that made none, for the filter failed on them.
    pub(super) refused: IntCounter,
    /// Times that changes were gone from the log before a trigger saw them.
    pub(super) lost: IntCounter,
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
                "Deliveries of triggers, by the kind of trigger and what became of them.",
            ),
            &["kind", "outcome"],
        )?;
        registry.register(Box::new(outcomes.clone()))?;
        let lost = IntCounterVec::new(
            Opts::new(
                "cloudlet_trigger_lost_total",
                "Times that changes were gone from the change log before a trigger saw them.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(lost.clone()))?;
        let running = IntGauge::new("cloudlet_trigger_running", "Deliveries that are being invoked.")?;
        registry.register(Box::new(running.clone()))?;
        let stalled = IntGauge::new(
            "cloudlet_trigger_stalled",
            "Triggers on changes that stand still, for as many deliveries wait as may.",
        )?;
        registry.register(Box::new(stalled.clone()))?;
        let failures = IntCounter::new(
            "cloudlet_trigger_failures_total",
            "Rounds of the triggers' tasks that failed; the next one tries again.",
        )?;
        registry.register(Box::new(failures.clone()))?;
        let of = |kind: Kind| {
            let outcome = |outcome| outcomes.with_label_values(&[kind.as_str(), outcome]);
            OfKind {
                answered: outcome("answered"),
                retried: outcome("retried"),
                failed: outcome("failed"),
                refused: outcome("refused"),
                lost: lost.with_label_values(&[kind.as_str()]),
            }
        };
        Ok(Self {
            timer: of(Kind::Timer),
            database: of(Kind::Database),
            storage: of(Kind::Storage),
            missed: outcomes.with_label_values(&[Kind::Timer.as_str(), "missed"]),
            running,
            stalled,
            failures,
        })
    }

    /// Those of the kind of that name, which a delivery has on disk.
    pub(super) fn of(&self, kind: &str) -> &OfKind {
        match Kind::ALL.into_iter().find(|known| known.as_str() == kind) {
            Some(Kind::Database) => &self.database,
            Some(Kind::Storage) => &self.storage,
            Some(Kind::Timer) | None => &self.timer,
        }
    }
}
