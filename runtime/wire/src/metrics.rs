//! What the listener counts; `runtime/docs/metrics.md` lists the names.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The limit that refused something; the label of `cloudlet_mongo_refused_total`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Connections,
    Commands,
    BufferedBytes,
    Cursors,
    Sessions,
    LoginWait,
}

impl Limit {
    fn label(self) -> &'static str {
        match self {
            Limit::Connections => "connections_max",
            Limit::Commands => "commands_max",
            Limit::BufferedBytes => "buffered_bytes_max",
            Limit::Cursors => "cursors_max",
            Limit::Sessions => "sessions_max",
            Limit::LoginWait => "login_wait_max",
        }
    }
}

pub(crate) struct Metrics {
    pub(crate) connections: IntGauge,
    pub(crate) connections_total: IntCounter,
    pub(crate) commands_running: IntGauge,
    pub(crate) cursors: IntGauge,
    pub(crate) sessions: IntGauge,
    pub(crate) buffered_bytes: IntGauge,
    pub(crate) received_bytes: IntCounter,
    pub(crate) sent_bytes: IntCounter,
    pub(crate) malformed: IntCounter,
    pub(crate) logins_delayed: IntCounter,
    pub(crate) command_seconds: Histogram,
    commands: IntCounterVec,
    authentications: IntCounterVec,
    refused: IntCounterVec,
}

impl Metrics {
    /// # Errors
    /// When the registry has such names already: two listeners must not share one.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let labelled = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let buckets = vec![
            0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
        ];
        let command_seconds = Histogram::with_opts(
            HistogramOpts::new("cloudlet_mongo_command_seconds", "Time to carry out a command")
                .buckets(buckets),
        )?;
        registry.register(Box::new(command_seconds.clone()))?;
        let metrics = Self {
            connections: gauge("cloudlet_mongo_connections", "Open connections")?,
            connections_total: counter("cloudlet_mongo_connections_total", "Connections accepted")?,
            commands_running: gauge("cloudlet_mongo_commands_running", "Commands at work")?,
            cursors: gauge("cloudlet_mongo_cursors", "Live cursors")?,
            sessions: gauge("cloudlet_mongo_sessions", "Live sessions")?,
            buffered_bytes: gauge("cloudlet_mongo_buffered_bytes", "Bytes of requests in memory")?,
            received_bytes: counter(
                "cloudlet_mongo_received_bytes_total",
                "Bytes of messages received, as they came",
            )?,
            sent_bytes: counter(
                "cloudlet_mongo_sent_bytes_total",
                "Bytes of messages sent, as they went",
            )?,
            malformed: counter(
                "cloudlet_mongo_malformed_total",
                "Connections ended for a malformed message",
            )?,
            logins_delayed: counter(
                "cloudlet_mongo_logins_delayed_total",
                "Logins that had to wait after failed ones",
            )?,
            command_seconds,
            commands: labelled(
                "cloudlet_mongo_commands_total",
                "Commands answered, by name and outcome",
                &["command", "outcome"],
            )?,
            authentications: labelled(
                "cloudlet_mongo_authentications_total",
                "Logins tried, by outcome",
                &["outcome"],
            )?,
            refused: labelled(
                "cloudlet_mongo_refused_total",
                "What a limit refused, by limit",
                &["limit"],
            )?,
        };
        // Those with labels show from the start, so that an absent series is never taken for a quiet one.
        for limit in [
            Limit::Connections,
            Limit::Commands,
            Limit::BufferedBytes,
            Limit::Cursors,
            Limit::Sessions,
            Limit::LoginWait,
        ] {
            metrics.refused.with_label_values(&[limit.label()]);
        }
        metrics.authentications.with_label_values(&["ok"]);
        metrics.authentications.with_label_values(&["failed"]);
        metrics.commands.with_label_values(&["hello", "ok"]);
        Ok(metrics)
    }

    pub(crate) fn command(&self, command: &str, ok: bool) {
        let outcome = if ok { "ok" } else { "error" };
        self.commands.with_label_values(&[command, outcome]).inc();
    }

    pub(crate) fn authentication(&self, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.authentications.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn refused(&self, limit: Limit) {
        self.refused.with_label_values(&[limit.label()]).inc();
    }
}

/// A gauge raised for as long as this lives.
pub(crate) struct Raised(IntGauge, i64);

impl Raised {
    pub(crate) fn by(gauge: &IntGauge, amount: usize) -> Self {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        gauge.add(amount);
        Self(gauge.clone(), amount)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.sub(self.1);
    }
}
