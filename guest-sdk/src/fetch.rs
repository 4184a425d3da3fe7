//! Outbound HTTP.

use std::fmt;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::Body;
use crate::bindings::imports::wasi::http::outgoing_handler;
use crate::bindings::imports::wasi::http::types::{self as wasi, ErrorCode};
use crate::body::Message;
use crate::serve::{finish, read_headers, write_body, write_headers};

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// The request itself is wrong: an address without a host, a header that may not be set.
    Invalid(String),
    /// The address is not in the function's `outbound` list, or the function has sent its share.
    Denied(String),
    /// The other side did not answer in time.
    Timeout(String),
    /// No connection, or it broke.
    Connection(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Invalid(text)
            | FetchError::Denied(text)
            | FetchError::Timeout(text)
            | FetchError::Connection(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for FetchError {}

impl From<FetchError> for crate::Error {
    fn from(error: FetchError) -> Self {
        crate::Error::Failed(error.to_string())
    }
}

/// Options of one request, set in its extensions: `request.extensions_mut().insert(FetchOptions { .. })`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// How long the connection may take; the node's limit otherwise.
    pub connect_timeout: Option<Duration>,
    /// How long the response's first byte may take; the node's limit otherwise.
    pub first_byte_timeout: Option<Duration>,
    /// How long there may be nothing between two pieces of the body; the node's limit otherwise.
    pub between_bytes_timeout: Option<Duration>,
}

/// Sends a request and waits for the head of the response; its [`Body`] is read when wanted. The origin must be in the
/// function's `outbound = ["https://vision.example.com"]`. Redirects are not followed.
///
/// ```no_run
/// # fn main() -> cloudlet::Result<()> {
/// use cloudlet::http::Request;
///
/// let request = Request::post("https://vision.example.com/recognize")
///     .header("content-type", "image/jpeg")
///     .body(vec![0xff, 0xd8])?;
/// let response = cloudlet::fetch(request)?;
/// if response.status().is_success() {
///     let label: serde_json::Value = response.into_body().json()?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A [`FetchError`] when there is no response. A response with an error status is a response.
pub fn fetch<B: Into<Body>>(request: Request<B>) -> Result<Response<Body>, FetchError> {
    let (parts, body) = request.into_parts();
    let body = body.into();
    let mut headers = parts.headers;
    if let Some(bytes) = body.in_memory() {
        let has_body =
            !bytes.is_empty() || matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
        if has_body {
            headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
    }
    // The authority says it; the host refuses a second opinion.
    headers.remove(http::header::HOST);
    let invalid = |what: &str| FetchError::Invalid(format!("{what} of {:?}", parts.uri));
    let request = wasi::OutgoingRequest::new(write_headers(&headers).map_err(FetchError::Invalid)?);
    let authority = parts
        .uri
        .authority()
        .ok_or_else(|| invalid("no host in the address"))?;
    let scheme = match parts.uri.scheme_str() {
        Some("https") => wasi::Scheme::Https,
        Some("http") => wasi::Scheme::Http,
        _ => return Err(invalid("the scheme must be http or https")),
    };
    request
        .set_method(&method(&parts.method))
        .map_err(|()| invalid("the node refuses the method"))?;
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| invalid("the node refuses the scheme"))?;
    request
        .set_authority(Some(authority.as_str()))
        .map_err(|()| invalid("the node refuses the host"))?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    request
        .set_path_with_query(Some(path))
        .map_err(|()| invalid("the node refuses the path"))?;

    let outgoing = request.body().map_err(|()| invalid("no body"))?;
    let options = parts.extensions.get::<FetchOptions>().map(options);
    let pending = outgoing_handler::handle(request, options)?;
    // A side that answers early may stop listening; its response is worth more than the error.
    if write_body(&outgoing, body).is_ok() {
        let _ = finish(outgoing);
    } else {
        drop(outgoing);
    }
    let response = loop {
        match pending.get() {
            Some(Ok(result)) => break result?,
            Some(Err(())) => {
                return Err(FetchError::Connection(
                    "the response was taken already".to_owned(),
                ));
            }
            None => pending.subscribe().block(),
        }
    };
    drop(pending);

    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::from_u16(response.status())
        .map_err(|_| FetchError::Connection(format!("the status {} is none", response.status())))?;
    *answer.headers_mut() = read_headers(&response.headers());
    *answer.body_mut() = Body::incoming(Message::Response(response));
    Ok(answer)
}

fn options(options: &FetchOptions) -> wasi::RequestOptions {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let request = wasi::RequestOptions::new();
    // A host that does not support one of these keeps its own limit.
    if let Some(timeout) = options.connect_timeout {
        let _ = request.set_connect_timeout(Some(nanoseconds(timeout)));
    }
    if let Some(timeout) = options.first_byte_timeout {
        let _ = request.set_first_byte_timeout(Some(nanoseconds(timeout)));
    }
    if let Some(timeout) = options.between_bytes_timeout {
        let _ = request.set_between_bytes_timeout(Some(nanoseconds(timeout)));
    }
    request
}

fn method(method: &Method) -> wasi::Method {
    match *method {
        Method::GET => wasi::Method::Get,
        Method::HEAD => wasi::Method::Head,
        Method::POST => wasi::Method::Post,
        Method::PUT => wasi::Method::Put,
        Method::DELETE => wasi::Method::Delete,
        Method::CONNECT => wasi::Method::Connect,
        Method::OPTIONS => wasi::Method::Options,
        Method::TRACE => wasi::Method::Trace,
        Method::PATCH => wasi::Method::Patch,
        ref other => wasi::Method::Other(other.as_str().to_owned()),
    }
}

impl From<ErrorCode> for FetchError {
    fn from(code: ErrorCode) -> Self {
        let text = format!("the request was not answered: {code}");
        match code {
            ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => FetchError::Denied(text),
            ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::DnsTimeout
            | ErrorCode::HttpResponseTimeout => FetchError::Timeout(text),
            ErrorCode::HttpRequestMethodInvalid
            | ErrorCode::HttpRequestUriInvalid
            | ErrorCode::HttpRequestUriTooLong
            | ErrorCode::HttpRequestLengthRequired => FetchError::Invalid(text),
            _ => FetchError::Connection(text),
        }
    }
}
