//! The front's own metrics: registered into the registry handed in, with every label value resolved beforehand so
//! that a request only touches counters. `runtime/docs/metrics.md` lists the metrics of all rooms.

use std::time::Duration;

use http::StatusCode;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::front::rate::By;

/// What answered a request: the `kind` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An HTTP trigger's function.
    Function,
    /// A file of a hosted site.
    Site,
    /// A stored object, up or down.
    Object,
    /// `/auth/v1/`.
    Auth,
    /// `/v1/functions/`.
    Call,
    /// `/v1/database/`.
    Database,
    /// `/v1/storages/`.
    Storage,
    /// The admin API.
    Admin,
    /// Health, readiness, metrics, key sets.
    System,
    /// Nothing: the request was refused before it was routed.
    Unrouted,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Function,
        Kind::Site,
        Kind::Object,
        Kind::Auth,
        Kind::Call,
        Kind::Database,
        Kind::Storage,
        Kind::Admin,
        Kind::System,
        Kind::Unrouted,
    ];

    /// The value of the label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Kind::Function => "function",
            Kind::Site => "site",
            Kind::Object => "object",
            Kind::Auth => "auth",
            Kind::Call => "call",
            Kind::Database => "database",
            Kind::Storage => "storage",
            Kind::Admin => "admin",
            Kind::System => "system",
            Kind::Unrouted => "unrouted",
        }
    }
}

/// Which listener: the `listener` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// Sites, triggers, the client API.
    Public,
    /// The admin API, health, metrics.
    Admin,
    /// The MongoDB wire protocol.
    Mongo,
}

impl Surface {
    const ALL: [Surface; 3] = [Surface::Public, Surface::Admin, Surface::Mongo];

    /// The value of the label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Surface::Public => "public",
            Surface::Admin => "admin",
            Surface::Mongo => "mongo",
        }
    }
}

/// Why the front closed a connection: the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// A request's head did not arrive in time.
    Header,
    /// No request came for too long.
    Idle,
    /// The peer left a body waiting.
    Stall,
    /// The drain's grace was over.
    Drain,
}

impl Closed {
    const ALL: [Closed; 4] = [Closed::Header, Closed::Idle, Closed::Stall, Closed::Drain];

    /// The value of the label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Closed::Header => "header",
            Closed::Idle => "idle",
            Closed::Stall => "stall",
            Closed::Drain => "drain",
        }
    }
}

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Fine enough for a cached file's microseconds, wide enough for a slow function.
const SECONDS: &[f64] = &[
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
    1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Counters and histograms of the HTTP front.
pub(crate) struct Metrics {
    requests: Vec<[IntCounter; 5]>,
    seconds: Vec<Histogram>,
    connections: [IntGauge; 3],
    connections_total: [IntCounter; 3],
    closed: Vec<IntCounter>,
    /// By the active deployment, by candidates.
    split: [[IntCounter; 5]; 2],
    rate_limited: [IntCounter; 3],
    /// Bytes of request bodies received.
    pub(crate) request_body_bytes: IntCounter,
    /// Bytes of response bodies handed to connections.
    pub(crate) response_body_bytes: IntCounter,
    /// Failed accepts.
    pub(crate) accept_errors: IntCounter,
    /// Completed TLS handshakes.
    pub(crate) tls_ok: IntCounter,
    /// Failed or too slow TLS handshakes.
    pub(crate) tls_failed: IntCounter,
    /// Certificates loaded anew.
    pub(crate) tls_reloads: IntCounter,
    /// Certificates that could not be loaded; the old ones stayed.
    pub(crate) tls_reload_failures: IntCounter,
}

impl Metrics {
    /// Registers the front's metrics.
    ///
    /// # Errors
    /// When a name is taken, which is a bug.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let requests = counters(
            "cloudlet_http_requests_total",
            "Requests answered, by what answered and status class.",
            &["kind", "status_class"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "cloudlet_http_request_seconds",
                "Time from a request's head to the last byte of its response.",
            )
            .buckets(SECONDS.to_vec()),
            &["kind"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let open = IntGaugeVec::new(
            Opts::new("cloudlet_http_connections", "Open connections."),
            &["listener"],
        )?;
        registry.register(Box::new(open.clone()))?;
        let accepted = counters(
            "cloudlet_http_connections_total",
            "Connections accepted.",
            &["listener"],
        )?;
        let closed = counters(
            "cloudlet_http_connections_closed_total",
            "Connections that the node closed for a reason of its own.",
            &["reason"],
        )?;
        let split = counters(
            "cloudlet_split_requests_total",
            "Requests of apps whose requests are split between deployments, by which answered and status class.",
            &["deployment", "status_class"],
        )?;
        let rate_limited = counters(
            "cloudlet_http_rate_limited_total",
            "Requests refused because there were too many, by whose requests were counted together.",
            &["by"],
        )?;
        let handshakes = counters(
            "cloudlet_tls_handshakes_total",
            "TLS handshakes, by outcome.",
            &["outcome"],
        )?;
        let reloads = counters(
            "cloudlet_tls_reloads_total",
            "Changed certificates, by outcome.",
            &["outcome"],
        )?;
        Ok(Self {
            requests: Kind::ALL
                .map(|kind| STATUS_CLASSES.map(|class| requests.with_label_values(&[kind.label(), class])))
                .into(),
            seconds: Kind::ALL
                .map(|kind| seconds.with_label_values(&[kind.label()]))
                .into(),
            connections: Surface::ALL.map(|s| open.with_label_values(&[s.label()])),
            connections_total: Surface::ALL.map(|s| accepted.with_label_values(&[s.label()])),
            closed: Closed::ALL
                .map(|reason| closed.with_label_values(&[reason.label()]))
                .into(),
            split: ["active", "candidate"]
                .map(|deployment| STATUS_CLASSES.map(|class| split.with_label_values(&[deployment, class]))),
            rate_limited: By::ALL.map(|by| rate_limited.with_label_values(&[by.label()])),
            request_body_bytes: counter(
                "cloudlet_http_request_body_bytes_total",
                "Bytes of request bodies received.",
            )?,
            response_body_bytes: counter(
                "cloudlet_http_response_body_bytes_total",
                "Bytes of response bodies sent.",
            )?,
            accept_errors: counter("cloudlet_http_accept_errors_total", "Failed accepts.")?,
            tls_ok: handshakes.with_label_values(&["ok"]),
            tls_failed: handshakes.with_label_values(&["failed"]),
            tls_reloads: reloads.with_label_values(&["ok"]),
            tls_reload_failures: reloads.with_label_values(&["failed"]),
        })
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, kind: Kind, status: StatusCode, took: Duration) {
        self.requests[kind as usize][class(status)].inc();
        self.seconds[kind as usize].observe(took.as_secs_f64());
    }

    /// Counts one answered request of an app whose requests are split.
    pub(crate) fn split(&self, candidate: bool, status: StatusCode) {
        self.split[usize::from(candidate)][class(status)].inc();
    }

    /// Counts a request that was refused for a rate.
    pub(crate) fn rate_limited(&self, by: By) {
        self.rate_limited[by as usize].inc();
    }

    /// The gauge of open connections.
    pub(crate) fn connections(&self, surface: Surface) -> &IntGauge {
        &self.connections[surface as usize]
    }

    /// The counter of accepted connections.
    pub(crate) fn connections_total(&self, surface: Surface) -> &IntCounter {
        &self.connections_total[surface as usize]
    }

    /// Counts a connection that the node closed.
    pub(crate) fn closed(&self, reason: Closed) {
        self.closed[reason as usize].inc();
    }
}

/// The place of a status among [`STATUS_CLASSES`].
fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, 5) - 1
}

/// Everything in `registry` in Prometheus' text form.
pub(crate) fn render(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::with_capacity(32 * 1024);
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        tracing::error!(error = %error, "metrics could not be written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind_and_class() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.answered(Kind::Site, StatusCode::NOT_MODIFIED, Duration::from_micros(30));
        let text = String::from_utf8(render(&registry)).unwrap();
        assert!(
            text.contains(r#"cloudlet_http_requests_total{kind="site",status_class="3xx"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"cloudlet_http_request_seconds_bucket{kind="site",le="0.00005"} 1"#),
            "{text}"
        );
    }
}
