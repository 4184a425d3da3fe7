//! A guest's HTTP requests to the world: the allow list, the addresses that no name may lead to, connections,
//! timeouts and counts. Redirects are the guest's own business: each hop is a request that is checked. A request that names
//! no trace goes on with the one that its invocation came with.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use ::http::uri::Authority;
use ::http::{HeaderName, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use crate::app::OutboundRule;
use crate::logs::LogLevel;
use crate::metrics::OutboundOutcome;
use crate::outbound::connect::{Connector, Refused};
use crate::outbound::metered::Metered;
use crate::run::Run;

mod address;
mod connect;
mod metered;

pub(crate) use metered::Direction;

/// Time to find, reach and greet an origin.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until an origin's response begins.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two parts of an origin's response.
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of one function on their way at once, from their beginning to the end of their responses' bodies; of one that
/// may run more often at once, as many as that. Each has a connection, or a part of one.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes of the head of an origin's response.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Header fields of the same.
const HEADERS_MAX: usize = 200;
/// How long an idle connection to an origin is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections kept to one origin by one function.
const IDLE_PER_ORIGIN_MAX: usize = 16;

type SentResponse = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);
type HttpClient = Client<Connector, WasiBody>;

/// What all functions' connections have in common.
pub(crate) struct Origins {
    tls: LazyLock<Arc<rustls::ClientConfig>>,
}

impl Origins {
    pub(crate) fn new() -> Self {
        Self {
            tls: LazyLock::new(connect::tls_config),
        }
    }
}

/// One function's connections, made when it sends its first request.
#[derive(Default)]
pub(crate) struct OutboundPool {
    client: OnceLock<HttpClient>,
    in_flight: Arc<AtomicUsize>,
}

/// A request on its way, in its function's count.
struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OutboundPool {
    fn client(&self, run: &Run) -> &HttpClient {
        self.client.get_or_init(|| {
            let connector = Connector::new(
                Arc::clone(&run.app.shared.origins.tls),
                run.function.spec.outbound.clone(),
            );
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(IDLE_PER_ORIGIN_MAX)
                .http1_max_buf_size(HEAD_BYTES_MAX as usize)
                .http1_max_headers(HEADERS_MAX)
                .http2_max_header_list_size(HEAD_BYTES_MAX)
                .build(connector)
        })
    }

    /// One more on its way, unless there are `limit` of them.
    fn begin(&self, limit: usize) -> Option<InFlight> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        // From here on it is taken off again, also when it turns out to be one too many.
        let one = InFlight(Arc::clone(&self.in_flight));
        (before < limit).then_some(one)
    }
}

/// The rule that lets a request through.
pub(crate) fn matching<'a>(rules: &'a [OutboundRule], uri: &Uri) -> Option<&'a OutboundRule> {
    let https = uri.scheme_str() == Some("https");
    let host = address::unbracket(uri.host()?);
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    rules
        .iter()
        .find(|rule| rule.https == https && rule.port == port && host_matches(&rule.host, host))
}

/// Whether a rule's host covers `host`: the same, or below the suffix of a `*.` rule. An address has nothing below it, for
/// all that it has dots.
fn host_matches(rule: &str, host: &str) -> bool {
    match rule.strip_prefix("*.") {
        Some(_) if host.parse::<IpAddr>().is_ok() => false,
        Some(suffix) => host.len().checked_sub(suffix.len() + 1).is_some_and(|at| {
            at > 0
                && host.as_bytes()[at] == b'.'
                && host.as_bytes()[at + 1..].eq_ignore_ascii_case(suffix.as_bytes())
        }),
        None => address::unbracket(rule).eq_ignore_ascii_case(host),
    }
}

/// One invocation's hooks into `wasi:http`.
pub(crate) struct Outbound(pub(crate) Arc<Run>);

impl Outbound {
    /// Counts the request and checks it against the rules.
    fn admit(&self, uri: &Uri) -> Result<InFlight, (OutboundOutcome, Error)> {
        let run = &self.0;
        if uri.authority().is_none_or(has_userinfo) {
            return Err((OutboundOutcome::Failed, Error::HttpRequestUriInvalid));
        }
        if matching(&run.function.spec.outbound, uri).is_none() {
            let origin = format!(
                "{}://{}",
                uri.scheme_str().unwrap_or("https"),
                uri.authority().map_or("", Authority::as_str)
            );
            run.platform(
                LogLevel::Warn,
                format!("outbound request denied: add {origin:?} to `outbound` of this function to allow it"),
            );
            return Err((OutboundOutcome::Denied, Error::HttpRequestDenied));
        }
        let limit = run.limits().outbound_requests_max;
        if run.meter.outbound_sent.fetch_add(1, Ordering::Relaxed) >= limit {
            run.platform(
                LogLevel::Warn,
                format!("outbound request refused: an invocation may send {limit}"),
            );
            return Err((OutboundOutcome::Limit, Error::ConnectionLimitReached));
        }
        let limit = run.limits().concurrency.max(IN_FLIGHT_MAX);
        run.function.outbound.begin(limit).ok_or_else(|| {
            run.platform(
                LogLevel::Warn,
                format!("outbound request refused: the function may have {limit} on their way at once"),
            );
            (OutboundOutcome::Limit, Error::ConnectionLimitReached)
        })
    }
}

fn has_userinfo(authority: &Authority) -> bool {
    authority.as_str().contains('@')
}

impl WasiHttpHooks for Outbound {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> =
            LazyLock::new(|| Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name)));
        Arc::clone(&FILTER)
    }

    fn set_host_header(&mut self) -> bool {
        // The client does where the protocol has one: HTTP/2 does not.
        false
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        // A guest's library writes 4 KiB at a time; with room for 16 such writes it rarely waits for the connection.
        16
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        64 * 1024
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<SentResponse, Error>> + Send> {
        let run = Arc::clone(&self.0);
        let in_flight = match self.admit(request.uri()) {
            Ok(in_flight) => in_flight,
            Err((outcome, error)) => {
                run.app.shared.metrics.outbound(outcome);
                return Box::new(std::future::ready(Err(error)));
            }
        };
        Box::new(async move {
            let began = run.now();
            let sent = send(&run, request, options, in_flight).await;
            run.app
                .shared
                .metrics
                .outbound_answered(run.now().saturating_sub(began));
            let outcome = match &sent {
                Ok(_) => OutboundOutcome::Ok,
                Err(Error::DestinationIpProhibited) => OutboundOutcome::Denied,
                Err(Error::HttpRequestBodySize(_)) => OutboundOutcome::Limit,
                Err(Error::ConnectionTimeout | Error::HttpResponseTimeout | Error::DnsTimeout) => {
                    OutboundOutcome::Timeout
                }
                Err(_) => OutboundOutcome::Failed,
            };
            run.app.shared.metrics.outbound(outcome);
            sent
        })
    }
}

async fn send(
    run: &Arc<Run>,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
    in_flight: InFlight,
) -> Result<SentResponse, Error> {
    let left = run.ends_at.saturating_sub(run.now());
    let shorter = |asked: Option<Duration>, most: Duration| asked.unwrap_or(most).min(most);
    let (first, between) = options.map_or((None, None), |options| {
        (options.first_byte_timeout, options.between_bytes_timeout)
    });
    let wait = shorter(first, RESPONSE_TIMEOUT).min(left);
    let patience = shorter(between, BETWEEN_BYTES_TIMEOUT);
    run.invocation.trace.pass_on(request.headers_mut());
    let request = request.map(|body| Metered::sent(body, run).boxed_unsync());
    let client = run.function.outbound.client(run).clone();
    let response = tokio::time::timeout(wait, client.request(request))
        .await
        .map_err(|_| Error::HttpResponseTimeout)?
        .map_err(|error| explain(run, &error))?;
    // hyper-util drives the connection on a task of its own, so there is nothing left to drive here.
    Ok((
        response.map(|body| Metered::received(body, run, patience, in_flight).boxed_unsync()),
        Box::new(std::future::ready(Ok(()))),
    ))
}

/// A client's failure as `wasi:http` tells it.
fn explain(run: &Run, error: &hyper_util::client::legacy::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            if let Refused::Address { .. } = refused {
                run.platform(LogLevel::Warn, format!("outbound request denied: {refused}"));
            }
            return refused.to_wasi();
        }
        // The request's own body, which was broken off.
        if let Some(Error::HttpRequestBodySize(limit)) = error.downcast_ref::<Error>() {
            return Error::HttpRequestBodySize(*limit);
        }
        cause = error.source();
    }
    if error.is_connect() {
        return Error::ConnectionRefused;
    }
    Error::InternalError(Some(format!("the request failed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(https: bool, host: &str, port: u16) -> OutboundRule {
        OutboundRule {
            https,
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn rules_match_scheme_host_and_port() {
        let rules = [
            rule(true, "api.example.com", 443),
            rule(true, "*.example.org", 443),
            rule(false, "127.0.0.1", 8080),
            rule(false, "[::1]", 80),
        ];
        let allowed = |uri: &str| matching(&rules, &uri.parse().unwrap()).is_some();
        for good in [
            "https://api.example.com/x",
            "https://API.example.com:443/",
            "https://a.example.org/",
            "https://a.b.example.org/",
            "http://127.0.0.1:8080/",
            "http://[::1]/",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "http://api.example.com/",
            "https://api.example.com:444/",
            "https://example.org/",
            "https://.example.org/",
            "https://evilexample.org/",
            "https://example.org.evil.com/",
            "http://127.0.0.1/",
            "http://localhost:8080/",
            // Other ways to write an address that a rule names.
            "http://127.1:8080/",
            "http://2130706433:8080/",
            "http://0x7f000001:8080/",
            "http://0177.0.0.1:8080/",
            "http://[::ffff:127.0.0.1]:8080/",
            "http://127.0.0.1.:8080/",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_covers_no_address() {
        let rules = [rule(false, "*.254.169.254", 80), rule(false, "*.0.0.1", 80)];
        for uri in ["http://169.254.169.254/", "http://127.0.0.1/"] {
            assert!(matching(&rules, &uri.parse().unwrap()).is_none(), "{uri}");
        }
    }
}
