//! HTTP triggers: the request to the function as it is, the function's response as it comes, both streamed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cloudlet_base::Principal;
use cloudlet_host::{Invocation, TraceContext};
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};

use crate::apps::registry::ActiveApp;
use crate::front::body::{Body, BodyError, RequestBody};
use crate::front::pipeline::{Cx, X_REQUEST_ID};
use crate::front::respond::Failure;

/// Runs the function of `app.routes[route]` on the request.
pub(crate) async fn serve(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    route: usize,
    principal: Principal,
    mut parts: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    body.check_declared()?;
    prepare(cx, &mut parts);
    let exceeded = body.exceeded();
    let invocation = Invocation {
        request: cx.id,
        principal,
        deadline: cx.deadline.clone(),
        depth: 0,
        trace: TraceContext::of(&parts.headers),
    };
    let request = Request::from_parts(parts, body);
    let outcome = app
        .functions
        .http(&app.routes[route].function, request, invocation)
        .await;
    if exceeded.load(Ordering::Relaxed) {
        let limit = cx.node().config.limits.body_bytes_max;
        return Err(BodyError::TooLarge { limit }.into());
    }
    let mut response = outcome?.map(Body::guest);
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What a function may rely on, whatever the HTTP version: an absolute URI, a host header, the request's id; and no
/// headers about the connection.
fn prepare(cx: &Cx, parts: &mut Parts) {
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE] {
        parts.headers.remove(name);
    }
    if let Ok(id) = HeaderValue::from_bytes(&cx.id.to_hex()) {
        parts.headers.insert(X_REQUEST_ID, id);
    }
    let authority = match parts.uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => parts
            .headers
            .get(HOST)
            .and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok()),
    };
    if let Some(authority) = &authority
        && !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(if cx.conn.secure {
        http::uri::Scheme::HTTPS
    } else {
        http::uri::Scheme::HTTP
    });
    uri.authority = authority.or_else(|| Some(http::uri::Authority::from_static("localhost")));
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    parts.uri = http::Uri::from_parts(uri).unwrap_or_default();
}
