//! One request, as the list of its phases: id and deadline, version and route, rates, authenticate, serve, finish. Later features are a
//! phase here or they wait. Called by conn.rs for every request; calls what the route says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloudlet_base::{AppId, Deadline, Principal, RequestId};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::admin;
use crate::apps::registry::ActiveApp;
use crate::client_api;
use crate::front::body::{Body, RequestBody};
use crate::front::client_address::client_address;
use crate::front::conn::Conn;
use crate::front::rate::{self, Buckets, By, Rate, Rates};
use crate::front::respond::Failure;
use crate::front::route::{self, Route};
use crate::front::version::{self, Assigned};
use crate::front::{cors, function, static_files};
use crate::metrics::{Kind, Surface};
use crate::node::Node;

/// Carries a request's id in and out.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The circumstances of one request, handed to whatever serves it.
pub(crate) struct Cx {
    pub(crate) conn: Arc<Conn>,
    pub(crate) id: RequestId,
    pub(crate) deadline: Deadline,
    /// Where it comes from, as far as proxies may be believed.
    pub(crate) client: IpAddr,
}

impl Cx {
    /// The node.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.conn.node
    }
}

/// Answers one request.
pub(crate) async fn handle(conn: Arc<Conn>, request: Request<Incoming>) -> Response<Body> {
    // Id, deadline, and what happens at the end however the request ends.
    let (parts, incoming) = request.into_parts();
    let id = request_id(&conn, &parts.headers);
    let mut finish = Finish::begin(conn.clone(), id, &parts);
    let deadline = conn.node.request_deadline();
    let body = RequestBody::new(incoming, conn.clone(), conn.node.config.limits.body_bytes_max);
    let client = client_address(&conn.node.config.trusted_proxies, conn.peer.ip(), &parts.headers);
    finish.client = client;
    let cx = Cx {
        conn,
        id,
        deadline,
        client,
    };

    // The version of the app, route.
    let Routed {
        route,
        split,
        principal,
        buckets,
    } = route(&cx, &parts);
    let secure = cx.conn.secure;
    let mark = |mut response: Response<Body>| {
        if let Some(split) = &split {
            split.mark(response.headers_mut(), secure);
        }
        response
    };
    finish.split = split.as_ref().map(|split| (split.candidate, split.app.clone()));
    let route = match route {
        Ok(route) => route,
        Err(failure) => return finish.answer(mark(failure.into_response(id)), None),
    };
    finish.kind = route.kind();
    let object = route.is_object();
    let origin = route
        .cors(&cx.node().config.cors)
        .then(|| cors::allowed_origin(&cx.node().config.cors, &parts.headers));
    if origin.is_some() && cors::is_preflight(&parts.method, &parts.headers) {
        return finish.answer(cors::preflight(&parts.headers), origin.flatten());
    }

    // Rates, authenticate, serve. A failure is told in the dialect of the route.
    let dialect = route.dialect();
    let served = match admit(&cx, &route, &buckets, &parts.headers, principal) {
        Ok(principal) => serve(&cx, route, principal, parts, body).await,
        Err(failure) => Err(failure),
    };

    // Finish.
    let response = served.unwrap_or_else(|failure| {
        if let Some(cause) = &failure.cause {
            tracing::error!(request_id = %id, kind = finish.kind.label(), error = cause, "a request failed by the node's fault");
        }
        dialect.failed(failure, id)
    });
    // Objects are the same in all deployments: caches may share them as ever.
    let response = if object { response } else { mark(response) };
    finish.answer(response, origin.flatten())
}

/// What answers a request.
struct Routed {
    route: Result<Route, Failure>,
    /// The visitor's place, when the app's requests are split.
    split: Option<Assigned>,
    /// Who asks, when that is known already: it decides the place.
    principal: Option<Principal>,
    /// What the app's clients have left of its rates.
    buckets: Option<Arc<Buckets>>,
}

fn route(cx: &Cx, parts: &Parts) -> Routed {
    let whole = |route| Routed {
        route,
        split: None,
        principal: None,
        buckets: None,
    };
    match cx.conn.surface {
        Surface::Public => match route::target(cx.node(), parts) {
            Ok(target) => {
                let asks = (target.app.split.is_some() && target.takes_principal())
                    .then(|| bearer(cx.node(), &target.app.active.id, &parts.headers).ok());
                let principal = asks.flatten();
                let version::Version { app, split } =
                    version::choose(cx.node(), &target.app, principal.as_ref(), &parts.headers);
                Routed {
                    buckets: Some(target.app.buckets.clone()),
                    route: route::public(cx.node(), target, app, parts),
                    split,
                    principal,
                }
            }
            Err(failure) => whole(Err(failure)),
        },
        Surface::Admin => whole(route::admin(parts)),
        // Its connections go to the wire protocol and never come here.
        Surface::Mongo => whole(Err(Failure::new(
            cloudlet_base::Fault::NotFound,
            "this listener does not speak HTTP",
        ))),
    }
}

/// Who asks, if there were not too many requests. An address is asked first, so that nobody uses up what the app has for
/// all, or has tokens checked, faster than one address may.
fn admit(
    cx: &Cx,
    route: &Route,
    buckets: &Option<Arc<Buckets>>,
    headers: &HeaderMap,
    known: Option<Principal>,
) -> Result<Principal, Failure> {
    let Some(rated) = buckets.as_ref().zip(route.rated()) else {
        return authenticate(cx.node(), route, headers, known);
    };
    let (buckets, (app, function)) = rated;
    let own = app.function_rates.get(function).copied().unwrap_or_default();
    let rates = [("", app.rates), (function, own)];
    let take = |by: By, rate: fn(&Rates) -> Option<Rate>, who: &dyn Fn() -> String| {
        for (function, rates) in &rates {
            if let Some(rate) = rate(rates) {
                let (node, now) = (cx.node(), cx.node().clock.monotonic());
                let slots = node.config.rates.clients_max;
                buckets
                    .take(rate, (by, function, &who()), now, slots)
                    .map_err(|over| {
                        node.metrics.rate_limited(by);
                        Failure::rate_limited(by, function, over)
                    })?;
            }
        }
        Ok::<_, Failure>(())
    };
    take(By::Address, |rates| rates.address, &|| {
        rate::address_name(cx.client)
    })?;
    let principal = authenticate(cx.node(), route, headers, known)?;
    if let Principal::User(user) = &principal {
        take(By::User, |rates| rates.user, &|| user.uid.to_string())?;
    }
    take(By::Total, |rates| rates.total, &String::new)?;
    Ok(principal)
}

/// Who asks: the bearer of an access token or an admin key, or nobody in particular. `known` is who bears a good one.
fn authenticate(
    node: &Node,
    route: &Route,
    headers: &HeaderMap,
    known: Option<Principal>,
) -> Result<Principal, Failure> {
    let bearer = |node: &Node, app: &AppId, headers: &HeaderMap| match known {
        Some(known) => Ok(known),
        None => bearer(node, app, headers),
    };
    match route {
        Route::Probe(_) | Route::Site { .. } | Route::Legacy => Ok(Principal::Public),
        Route::Metrics if node.config.metrics_public => Ok(Principal::Public),
        Route::Metrics | Route::Admin => admin_key(node, headers),
        Route::Client { app, api } if api.takes_principal() => bearer(node, &app.id, headers),
        Route::Client { .. } => Ok(Principal::Public),
        Route::Function { app, .. } => bearer(node, &app.id, headers),
    }
}

fn admin_key(node: &Node, headers: &HeaderMap) -> Result<Principal, Failure> {
    let key = token(headers)?.ok_or_else(|| {
        Failure::new(
            cloudlet_base::Fault::Unauthenticated,
            "an admin key is needed: send authorization: Bearer ck_...",
        )
    })?;
    Ok(node.auth.verify_admin_key(key)?)
}

fn bearer(node: &Node, app: &AppId, headers: &HeaderMap) -> Result<Principal, Failure> {
    match token(headers)? {
        None => Ok(Principal::Public),
        Some(key) if key.starts_with("ck_") => Ok(node.auth.verify_admin_key(key)?),
        Some(token) => Ok(node.auth.verify_access(app, token)?),
    }
}

/// The bearer token, if there is one. Other schemes are the business of functions, which see all headers.
pub(crate) fn token(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Failure::new(
            cloudlet_base::Fault::Invalid,
            "more than one authorization header",
        ));
    }
    let Ok(text) = value.to_str() else {
        return Err(Failure::new(
            cloudlet_base::Fault::Unauthenticated,
            "the authorization header is not text",
        ));
    };
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Ok(None),
    }
}

async fn serve(
    cx: &Cx,
    route: Route,
    principal: Principal,
    parts: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    match route {
        Route::Site { app } => static_files::site(cx, &app, &parts).await,
        Route::Function { app, route } => function::serve(cx, &app, route, principal, parts, body).await,
        Route::Client { app, api } => client_api::serve(cx, app, api, principal, parts, body).await,
        Route::Legacy => Err(client_api::legacy()),
        Route::Admin => admin::serve(cx, principal, parts, body).await,
        Route::Probe(probe) => Ok(probe.answer()),
        Route::Metrics => Ok(route::metrics(cx.node())),
    }
}

/// The client's id for the request, when it sent a usable one (32 hex digits or a UUID), or a fresh one.
fn request_id(conn: &Conn, headers: &HeaderMap) -> RequestId {
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| adopted_id(value.as_bytes()))
        .unwrap_or_else(|| conn.fresh_id())
}

fn adopted_id(text: &[u8]) -> Option<RequestId> {
    if !matches!(text.len(), 32 | 36) {
        return None;
    }
    let mut bits: u128 = 0;
    let mut digits = 0;
    for &byte in text.iter().filter(|b| **b != b'-') {
        let digit = char::from(byte).to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
        digits += 1;
    }
    (digits == 32).then(|| RequestId::from_bits(bits))
}

/// The end of a request, whichever way it comes: the last byte was taken, the connection broke, the handler was
/// dropped. Counts, times and logs it once.
pub(crate) struct Finish {
    conn: Arc<Conn>,
    id: RequestId,
    pub(crate) kind: Kind,
    status: StatusCode,
    began: Duration,
    /// Where it comes from.
    client: IpAddr,
    bytes: u64,
    head: bool,
    /// Whether a candidate answers, and which deployment, when the app's requests are split.
    split: Option<(bool, Arc<ActiveApp>)>,
    /// For the access log; only when somebody listens.
    line: Option<Box<(Method, String)>>,
}

impl Finish {
    fn begin(conn: Arc<Conn>, id: RequestId, parts: &Parts) -> Self {
        conn.pace.request_began(parts.version == Version::HTTP_2);
        let line = tracing::enabled!(target: "access", tracing::Level::DEBUG)
            .then(|| Box::new((parts.method.clone(), parts.uri.path().to_owned())));
        Self {
            id,
            kind: Kind::Unrouted,
            // What stands if the client goes away before there is an answer (nginx's number for it).
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            began: conn.node.clock.monotonic(),
            client: conn.peer.ip(),
            bytes: 0,
            split: None,
            head: parts.method == Method::HEAD,
            line,
            conn,
        }
    }

    /// Completes a response; the request ends with its body.
    fn answer(mut self, mut response: Response<Body>, origin: Option<HeaderValue>) -> Response<Body> {
        self.status = response.status();
        if self.head {
            // HTTP/2 would send the body; HTTP/1 would not, but needs the length told all the same.
            let size = response.body().size_hint().exact().filter(|size| *size > 0);
            *response.body_mut() = Body::empty();
            if let Some(size) = size
                && !response.headers().contains_key(CONTENT_LENGTH)
            {
                response
                    .headers_mut()
                    .insert(CONTENT_LENGTH, HeaderValue::from(size));
            }
        }
        let headers = response.headers_mut();
        // Hex digits are always a header value.
        if let Ok(id) = HeaderValue::from_bytes(&self.id.to_hex()) {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Some(origin) = origin {
            cors::allow(headers, origin);
        }
        response.map(|body| body.finishing(self))
    }

    /// Some of the body went out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The body's source failed after the head was sent: all that is left is to cut the response short.
    pub(crate) fn broke(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::debug!(request_id = %self.id, error = %error, "a response body broke off");
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let node = &self.conn.node;
        let now = node.clock.monotonic();
        let took = now.saturating_sub(self.began);
        node.metrics.answered(self.kind, self.status, took);
        node.metrics.response_body_bytes.inc_by(self.bytes);
        if let Some((candidate, app)) = &self.split {
            app.tally.count(self.status.is_server_error());
            node.metrics.split(*candidate, self.status);
        }
        self.conn
            .pace
            .request_ended(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        if let Some(line) = &self.line {
            let (method, path) = &**line;
            tracing::debug!(
                target: "access",
                request_id = %self.id,
                peer = %self.conn.peer,
                client = %self.client,
                method = %method,
                path,
                kind = self.kind.label(),
                status = self.status.as_u16(),
                bytes = self.bytes,
                took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                "request"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_uuid_ids_are_adopted() {
        let hex = adopted_id(b"0123456789abcdef0011223344556677").unwrap();
        let uuid = adopted_id(b"01234567-89ab-cdef-0011-223344556677").unwrap();
        assert_eq!(hex, uuid);
        for bad in [
            &b"0123"[..],
            b"0123456789abcdef001122334455667g",
            b"----0123456789abcdef00112233445566---",
        ] {
            assert!(adopted_id(bad).is_none());
        }
    }

    #[test]
    fn bearer_tokens_are_found() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, HeaderValue::from_str(text).unwrap());
            headers
        };
        assert_eq!(token(&headers("Bearer abc")).unwrap(), Some("abc"));
        assert_eq!(token(&headers("bearer  abc ")).unwrap(), Some("abc"));
        assert_eq!(token(&headers("Basic abc")).unwrap(), None);
        assert_eq!(token(&HeaderMap::new()).unwrap(), None);
        let mut two = headers("Bearer a");
        two.append(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(token(&two).is_err());
    }
}
