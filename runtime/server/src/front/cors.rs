//! Cross-origin requests: which origins may call, and the headers that tell a browser so. Credentials are bearer
//! tokens, never cookies, so `Access-Control-Allow-Credentials` is not sent.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::config::Cors;
use crate::front::body::Body;
use crate::front::respond;

/// What the SDKs send; a preflight's own wishes are granted besides.
const ALLOWED_HEADERS: &str = "authorization, content-type, x-request-id, x-device-id, x-seqid, x-sdk-version, \
     x-tcb-region, x-tcb-trace, accept-language, x-cos-meta-fileid, x-cos-security-token, signature, key, range";
const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const EXPOSED_HEADERS: &str = "x-request-id, etag, content-range, accept-ranges, retry-after";

/// The origin that a response is readable by, when the request came from one that may.
pub(crate) fn allowed_origin(config: &Cors, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let allowed = config
        .origins
        .iter()
        .any(|o| o == "*" || o.as_bytes() == origin.as_bytes());
    allowed.then(|| origin.clone())
}

/// Whether this is a browser's question before the request itself.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight; [`allow`] adds the origin.
pub(crate) fn preflight(headers: &HeaderMap) -> Response<Body> {
    let mut response = respond::empty(StatusCode::NO_CONTENT);
    let out = response.headers_mut();
    out.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(ALLOWED_METHODS),
    );
    let wanted = headers
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .and_then(|h| h.to_str().ok());
    let granted = match wanted {
        None => HeaderValue::from_static(ALLOWED_HEADERS),
        Some(wanted) => HeaderValue::try_from(format!("{ALLOWED_HEADERS}, {wanted}"))
            .unwrap_or(HeaderValue::from_static(ALLOWED_HEADERS)),
    };
    out.insert(ACCESS_CONTROL_ALLOW_HEADERS, granted);
    out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Makes a response readable by `origin`.
pub(crate) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED_HEADERS),
    );
    headers.append(VARY, HeaderValue::from_static("origin"));
}
