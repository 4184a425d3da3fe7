//! A guest's HTTP requests to the world: the allow list, the addresses that no name may lead to, connections,
//! timeouts and counts. Redirects are the guest's own business: each hop is a request that is checked.

use std::sync::atomic::Ordering;
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
use crate::run::Run;

mod address;
mod connect;

/// Time to find, reach and greet an origin.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until an origin's response begins.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
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
pub(crate) struct OutboundPool(OnceLock<HttpClient>);

impl OutboundPool {
    fn client(&self, run: &Run) -> &HttpClient {
        self.0.get_or_init(|| {
            let connector = Connector::new(
                Arc::clone(&run.app.shared.origins.tls),
                run.function.spec.outbound.clone(),
            );
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(IDLE_PER_ORIGIN_MAX)
                .build(connector)
        })
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

/// Whether a rule's host covers `host`: the same, or below the suffix of a `*.` rule.
fn host_matches(rule: &str, host: &str) -> bool {
    match rule.strip_prefix("*.") {
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
    fn admit(&self, uri: &Uri) -> Result<(), (OutboundOutcome, Error)> {
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
        Ok(())
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
        if let Err((outcome, error)) = self.admit(request.uri()) {
            run.app.shared.metrics.outbound(outcome);
            return Box::new(std::future::ready(Err(error)));
        }
        Box::new(async move {
            let sent = send(&run, request, options).await;
            let outcome = match &sent {
                Ok(_) => OutboundOutcome::Ok,
                Err(Error::DestinationIpProhibited) => OutboundOutcome::Denied,
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
    run: &Run,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<SentResponse, Error> {
    let left = run.ends_at.saturating_sub(run.now());
    let wait = options
        .and_then(|options| options.first_byte_timeout)
        .unwrap_or(RESPONSE_TIMEOUT)
        .min(RESPONSE_TIMEOUT)
        .min(left);
    let client = run.function.outbound.client(run).clone();
    let response = tokio::time::timeout(wait, client.request(request))
        .await
        .map_err(|_| Error::HttpResponseTimeout)?
        .map_err(|error| explain(run, &error))?;
    // hyper-util drives the connection on a task of its own, so there is nothing left to drive here.
    Ok((
        response.map(|body| body.map_err(Error::from).boxed_unsync()),
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
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
