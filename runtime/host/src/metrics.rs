//! The host's metrics, with every labelled child looked up once at construction.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use wasmtime::{Engine, EngineWeak};

use crate::admit::Permits;
use crate::app::Trigger;
use crate::error::{LoadError, TrapReason};
use crate::line::Line;
use crate::outbound::Direction;

/// Phases last from a microsecond (admission) to the longest timeout.
const PHASE_BUCKETS: [f64; 19] = [
    1e-6, 2e-6, 5e-6, 1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5,
    1.0, 10.0,
];

/// Compiling takes from a fraction of a second to a minute.
const COMPILE_BUCKETS: [f64; 9] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 120.0];

/// Origins answer from within this machine's network to the longest wait for them.
const OUTBOUND_BUCKETS: [f64; 11] = [1e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// How an invocation ended; the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With a response or reply of the guest's own.
    Ok,
    /// The guest was stopped, or stopped itself.
    Trap,
    /// The time was over.
    Deadline,
    /// The guest returned without a response.
    NoResponse,
    /// The request was over its limit.
    TooLarge,
    /// The caller went away.
    Cancelled,
    /// Our own fault.
    Internal,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 7] = [
        (Outcome::Ok, "ok"),
        (Outcome::Trap, "trap"),
        (Outcome::Deadline, "deadline"),
        (Outcome::NoResponse, "no_response"),
        (Outcome::TooLarge, "too_large"),
        (Outcome::Cancelled, "cancelled"),
        (Outcome::Internal, "internal"),
    ];

    /// The value of the label.
    pub(crate) fn label(self) -> &'static str {
        let known = Self::ALL.iter().find(|(outcome, _)| *outcome == self);
        known.map_or("internal", |(_, label)| label)
    }
}

impl Trigger {
    /// The value of the `trigger` label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Trigger::Http => "http",
            Trigger::Call => "call",
        }
    }
}

/// Whose limit on invocations at once was met; the `scope` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The function's.
    Function,
    /// The app's, all its functions together.
    App,
    /// The node's.
    Node,
    /// That of those who wait for a permit.
    Queue,
}

impl Scope {
    const LABELS: [&'static str; 4] = ["function", "app", "node", "queue"];
}

/// How an outbound request ended; the `outcome` label.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OutboundOutcome {
    /// A response came, whatever its status.
    Ok,
    /// No rule allows it, or the address is not for functions.
    Denied,
    /// The invocation has sent as many as it may.
    Limit,
    /// The origin did not answer in time.
    Timeout,
    /// No connection, no name, no TLS, a broken response.
    Failed,
}

impl OutboundOutcome {
    const LABELS: [&'static str; 5] = ["ok", "denied", "limit", "timeout", "failed"];
}

impl TrapReason {
    const ALL: [(TrapReason, &'static str); 8] = [
        (TrapReason::Unreachable, "unreachable"),
        (TrapReason::MemoryOutOfBounds, "memory_out_of_bounds"),
        (TrapReason::StackOverflow, "stack_overflow"),
        (TrapReason::MemoryLimit, "memory_limit"),
        (TrapReason::CpuLimit, "cpu_limit"),
        (TrapReason::Timeout, "timeout"),
        (TrapReason::Exit, "exit"),
        (TrapReason::Other, "other"),
    ];
}

/// The metrics.
pub(crate) struct Metrics {
    invocations: [Vec<IntCounter>; 2],
    traps: Vec<IntCounter>,
    refused: [IntCounter; 4],
    outbound: Vec<IntCounter>,
    outbound_bytes: [IntCounter; 2],
    outbound_seconds: Histogram,
    queue: Histogram,
    instantiate: Histogram,
    run: Histogram,
    compile: Histogram,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn register(
        registry: &Registry,
        engine: &Engine,
        permits: &Arc<Permits>,
        line: &Arc<Line>,
    ) -> Result<Arc<Self>, LoadError> {
        let all = Self::build(registry).and_then(|metrics| {
            let pool = PoolCollector::new(engine, Arc::clone(permits), Arc::clone(line))?;
            registry.register(Box::new(pool))?;
            Ok(metrics)
        });
        all.map(Arc::new)
            .map_err(|error| LoadError::Internal(format!("register the host's metrics: {error}")))
    }

    fn build(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            prometheus::Result::Ok(vec)
        };
        let invocations = counters(
            "cloudlet_host_invocations_total",
            "Function invocations that ended, by what triggered them and how they ended",
            &["trigger", "outcome"],
        )?;
        let traps = counters(
            "cloudlet_host_traps_total",
            "Guests stopped, by reason",
            &["reason"],
        )?;
        let refused = counters(
            "cloudlet_host_refused_total",
            "Invocations refused for want of a permit, by whose limit was met",
            &["scope"],
        )?;
        let outbound = counters(
            "cloudlet_host_outbound_total",
            "HTTP requests that functions sent, by how they ended",
            &["outcome"],
        )?;
        let outbound_bytes = counters(
            "cloudlet_host_outbound_body_bytes_total",
            "Bytes of bodies that functions sent to origins and received from them",
            &["direction"],
        )?;
        let outbound_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "cloudlet_host_outbound_seconds",
                "Time from a function's HTTP request to the head of its response",
            )
            .buckets(OUTBOUND_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(outbound_seconds.clone()))?;
        let phases = HistogramVec::new(
            HistogramOpts::new(
                "cloudlet_host_phase_seconds",
                "Time of an invocation's phases: queue (admission), instantiate, run",
            )
            .buckets(PHASE_BUCKETS.to_vec()),
            &["phase"],
        )?;
        registry.register(Box::new(phases.clone()))?;
        let compile = Histogram::with_opts(
            HistogramOpts::new("cloudlet_host_compile_seconds", "Time to compile a component")
                .buckets(COMPILE_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(compile.clone()))?;
        let by_outcome = |trigger: &str| {
            Outcome::ALL
                .iter()
                .map(|(_, outcome)| invocations.with_label_values(&[trigger, outcome]))
                .collect::<Vec<_>>()
        };
        Ok(Self {
            invocations: [by_outcome("http"), by_outcome("call")],
            traps: TrapReason::ALL
                .iter()
                .map(|(_, label)| traps.with_label_values(&[label]))
                .collect(),
            refused: Scope::LABELS.map(|scope| refused.with_label_values(&[scope])),
            outbound: OutboundOutcome::LABELS
                .iter()
                .map(|label| outbound.with_label_values(&[label]))
                .collect(),
            outbound_bytes: Direction::LABELS.map(|label| outbound_bytes.with_label_values(&[label])),
            outbound_seconds,
            queue: phases.with_label_values(&["queue"]),
            instantiate: phases.with_label_values(&["instantiate"]),
            run: phases.with_label_values(&["run"]),
            compile,
        })
    }

    pub(crate) fn invoked(&self, trigger: Trigger, outcome: Outcome) {
        let by_outcome = match trigger {
            Trigger::Http => &self.invocations[0],
            Trigger::Call => &self.invocations[1],
        };
        by_outcome[outcome as usize].inc();
    }

    pub(crate) fn trapped(&self, reason: TrapReason) {
        self.traps[reason as usize].inc();
    }

    pub(crate) fn refused(&self, scope: Scope) {
        self.refused[scope as usize].inc();
    }

    pub(crate) fn outbound(&self, outcome: OutboundOutcome) {
        self.outbound[outcome as usize].inc();
    }

    pub(crate) fn outbound_bytes(&self, direction: Direction, bytes: u64) {
        self.outbound_bytes[direction as usize].inc_by(bytes);
    }

    pub(crate) fn outbound_answered(&self, time: Duration) {
        self.outbound_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn queued(&self, time: Duration) {
        self.queue.observe(time.as_secs_f64());
    }

    pub(crate) fn instantiated(&self, time: Duration) {
        self.instantiate.observe(time.as_secs_f64());
    }

    pub(crate) fn ran(&self, time: Duration) {
        self.run.observe(time.as_secs_f64());
    }

    pub(crate) fn compiled(&self, time: Duration) {
        self.compile.observe(time.as_secs_f64());
    }
}

/// Gauges that are read when they are scraped, so that invocations need not keep them up.
struct PoolCollector {
    engine: EngineWeak,
    permits: Arc<Permits>,
    line: Arc<Line>,
    instances: IntGauge,
    waiting: IntGauge,
    memories: IntGauge,
    tables: IntGauge,
    stacks: IntGauge,
    warm_memories: IntGauge,
    resident_bytes: IntGauge,
}

impl PoolCollector {
    fn new(engine: &Engine, permits: Arc<Permits>, line: Arc<Line>) -> prometheus::Result<Self> {
        Ok(Self {
            engine: engine.weak(),
            permits,
            line,
            waiting: IntGauge::new(
                "cloudlet_host_waiting_invocations",
                "Invocations waiting for a permit now",
            )?,
            instances: IntGauge::new("cloudlet_host_instances", "Invocations running now")?,
            memories: IntGauge::new("cloudlet_host_pool_memories", "Linear memories in use")?,
            tables: IntGauge::new("cloudlet_host_pool_tables", "Tables in use")?,
            stacks: IntGauge::new("cloudlet_host_pool_stacks", "Guest stacks in use")?,
            warm_memories: IntGauge::new(
                "cloudlet_host_pool_warm_memories",
                "Unused memories that still hold the image of the component that used them last",
            )?,
            resident_bytes: IntGauge::new(
                "cloudlet_host_pool_resident_bytes",
                "Bytes that unused memories and tables keep resident for the next instance",
            )?,
        })
    }

    fn gauges(&self) -> [&IntGauge; 7] {
        [
            &self.instances,
            &self.waiting,
            &self.memories,
            &self.tables,
            &self.stacks,
            &self.warm_memories,
            &self.resident_bytes,
        ]
    }
}

impl Collector for PoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.instances, self.permits.taken());
        set(&self.waiting, self.line.waiting());
        let engine = self.engine.upgrade();
        if let Some(pool) = engine.as_ref().and_then(Engine::pooling_allocator_metrics) {
            set(&self.memories, pool.memories());
            set(&self.tables, pool.tables());
            set(&self.stacks, pool.stacks());
            set(&self.warm_memories, pool.unused_warm_memories() as usize);
            set(
                &self.resident_bytes,
                pool.unused_memory_bytes_resident() + pool.unused_table_bytes_resident(),
            );
        }
        self.gauges().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_the_enums_point() {
        for (i, (outcome, _)) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, i);
        }
        for (i, (reason, _)) in TrapReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
        assert_eq!(
            OutboundOutcome::Failed as usize,
            OutboundOutcome::LABELS.len() - 1
        );
    }
}
