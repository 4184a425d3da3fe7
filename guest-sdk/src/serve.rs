//! The entry points behind `#[cloudlet::http]` and `#[cloudlet::call]`.

use std::io::{self, Read, Write};

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::imports::cloudlet::function::types::Error as CallError;
use crate::bindings::imports::wasi::http::types as wasi;
use crate::body::{FromBody, Message};
use crate::stream::Writer;
use crate::{Body, Error, IntoResponse};

/// Bytes of a streamed body that are held at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// A handler of HTTP requests: a function of nothing or of an `http::Request<B>`, for the `B` that [`FromBody`] makes,
/// which returns something that [is a response](IntoResponse). `A` tells the two kinds apart.
pub trait HttpHandler<A> {
    /// Answers one request.
    #[doc(hidden)]
    fn run(self, request: wasi::IncomingRequest) -> Response<Body>;
}

impl<F: FnOnce() -> R, R: IntoResponse> HttpHandler<()> for F {
    fn run(self, _: wasi::IncomingRequest) -> Response<Body> {
        self().into_response()
    }
}

impl<F, B, R> HttpHandler<(Request<B>,)> for F
where
    F: FnOnce(Request<B>) -> R,
    B: FromBody,
    R: IntoResponse,
{
    fn run(self, request: wasi::IncomingRequest) -> Response<Body> {
        let request = match read_request(request) {
            Ok(request) => request,
            Err(error) => return error.into_response(),
        };
        let (parts, body) = request.into_parts();
        match B::from_body(body) {
            Ok(body) => self(Request::from_parts(parts, body)).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// Runs a handler on a request and sends what it returns.
#[doc(hidden)]
pub fn serve_http<A>(
    handler: impl HttpHandler<A>,
    request: wasi::IncomingRequest,
    out: wasi::ResponseOutparam,
) {
    crate::logging::install();
    let response = handler.run(request);
    if let Err(error) = send_response(response, out) {
        // The status has gone out, or there is nobody to tell.
        eprintln!("the response could not be sent: {error}");
    }
}

/// The request in the `http` crate's terms; the body stays where it is until it is read.
fn read_request(incoming: wasi::IncomingRequest) -> Result<Request<Body>, Error> {
    let malformed = |what: &str| Error::invalid(format!("malformed {what}"));
    let method = match incoming.method() {
        wasi::Method::Get => Method::GET,
        wasi::Method::Head => Method::HEAD,
        wasi::Method::Post => Method::POST,
        wasi::Method::Put => Method::PUT,
        wasi::Method::Delete => Method::DELETE,
        wasi::Method::Connect => Method::CONNECT,
        wasi::Method::Options => Method::OPTIONS,
        wasi::Method::Trace => Method::TRACE,
        wasi::Method::Patch => Method::PATCH,
        wasi::Method::Other(name) => Method::from_bytes(name.as_bytes()).map_err(|_| malformed("method"))?,
    };
    let path = incoming.path_with_query().unwrap_or_else(|| "/".to_owned());
    let path = PathAndQuery::from_maybe_shared(path.into_bytes()).map_err(|_| malformed("path"))?;
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path);
    if let Some(authority) = incoming.authority() {
        uri.authority =
            Some(Authority::from_maybe_shared(authority.into_bytes()).map_err(|_| malformed("authority"))?);
        uri.scheme = Some(match incoming.scheme() {
            Some(wasi::Scheme::Https) => Scheme::HTTPS,
            _ => Scheme::HTTP,
        });
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| malformed("address"))?;
    *request.headers_mut() = read_headers(&incoming.headers());
    *request.body_mut() = Body::incoming(Message::Request(incoming));
    Ok(request)
}

/// Headers in the `http` crate's terms.
pub(crate) fn read_headers(fields: &wasi::Fields) -> HeaderMap {
    let entries = fields.entries();
    let mut headers = HeaderMap::with_capacity(entries.len());
    for (name, value) in entries {
        // The host has checked both; a name or value that only it takes is left out.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_maybe_shared(value),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Headers in the host's terms.
pub(crate) fn write_headers(headers: &HeaderMap) -> Result<wasi::Fields, String> {
    if headers.is_empty() {
        return Ok(wasi::Fields::new());
    }
    let entries: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    wasi::Fields::from_list(&entries).map_err(|error| format!("the node refuses a header: {error}"))
}

/// Sends a response: a small one whole, before it is announced, so that the host has head and body in one piece.
fn send_response(response: Response<Body>, out: wasi::ResponseOutparam) -> io::Result<()> {
    let (mut parts, body) = response.into_parts();
    if let Some(bytes) = body.in_memory() {
        let may_have_length = !parts.status.is_informational()
            && parts.status != StatusCode::NO_CONTENT
            && parts.status != StatusCode::NOT_MODIFIED;
        if may_have_length && !parts.headers.contains_key(CONTENT_LENGTH) {
            parts
                .headers
                .insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
    }
    let fields = match write_headers(&parts.headers) {
        Ok(fields) => fields,
        Err(message) => {
            wasi::ResponseOutparam::set(out, Err(wasi::ErrorCode::InternalError(Some(message.clone()))));
            return Err(io::Error::other(message));
        }
    };
    let response = wasi::OutgoingResponse::new(fields);
    if parts.status != StatusCode::OK {
        response
            .set_status_code(parts.status.as_u16())
            .map_err(|()| io::Error::other("the node refuses the status code"))?;
    }
    let outgoing = response
        .body()
        .map_err(|()| io::Error::other("the response has no body"))?;
    match body.in_memory() {
        Some([]) => {
            wasi::ResponseOutparam::set(out, Ok(response));
        }
        Some(bytes) => {
            let mut writer = Writer::new(outgoing.write().map_err(|()| io::Error::other("no stream"))?);
            let written = writer.write_if_ready(bytes)?;
            wasi::ResponseOutparam::set(out, Ok(response));
            if !written {
                writer.write_all(bytes)?;
            }
        }
        None => {
            wasi::ResponseOutparam::set(out, Ok(response));
            return write_body(&outgoing, body).and_then(|()| finish(outgoing));
        }
    }
    finish(outgoing)
}

/// Streams a body. On an error the message is left unfinished, which the other side sees.
pub(crate) fn write_body(outgoing: &wasi::OutgoingBody, mut body: Body) -> io::Result<()> {
    let mut writer = Writer::new(outgoing.write().map_err(|()| io::Error::other("no stream"))?);
    if let Some(bytes) = body.in_memory() {
        return writer.write_all(bytes);
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => writer.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn finish(outgoing: wasi::OutgoingBody) -> io::Result<()> {
    wasi::OutgoingBody::finish(outgoing, None).map_err(|code| io::Error::other(code.to_string()))
}

/// A payload as it is, JSON or not: for calls whose payload or reply is not JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

/// What a handler of calls may take.
pub trait FromPayload: Sized {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not what the handler takes; the handler does not run then.
    fn from_payload(payload: Vec<u8>) -> Result<Self, Error>;
}

impl FromPayload for Raw {
    fn from_payload(payload: Vec<u8>) -> Result<Self, Error> {
        Ok(Raw(payload))
    }
}

/// JSON; an empty payload is `null`.
impl<T: DeserializeOwned> FromPayload for T {
    fn from_payload(payload: Vec<u8>) -> Result<Self, Error> {
        let text = if payload.is_empty() {
            b"null".as_slice()
        } else {
            &payload
        };
        serde_json::from_slice(text).map_err(|error| Error::invalid(format!("the payload: {error}")))
    }
}

/// What a handler of calls may return in its `Ok`.
pub trait IntoPayload {
    /// The reply.
    ///
    /// # Errors
    /// [`Error::Failed`] when the value has no JSON form.
    fn into_payload(self) -> Result<Vec<u8>, Error>;
}

impl IntoPayload for Raw {
    fn into_payload(self) -> Result<Vec<u8>, Error> {
        Ok(self.0)
    }
}

impl<T: Serialize> IntoPayload for T {
    fn into_payload(self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(&self)?)
    }
}

/// A handler of calls: a function of nothing or of one value that [is made of a payload](FromPayload), which returns
/// a `Result` of something that [is a reply](IntoPayload). `A` tells the two kinds apart.
pub trait CallHandler<A> {
    /// Answers one call.
    #[doc(hidden)]
    fn run(self, payload: Vec<u8>) -> Result<Vec<u8>, Error>;
}

impl<F, U, E> CallHandler<()> for F
where
    F: FnOnce() -> Result<U, E>,
    U: IntoPayload,
    E: Into<Error>,
{
    fn run(self, _: Vec<u8>) -> Result<Vec<u8>, Error> {
        self().map_err(Into::into)?.into_payload()
    }
}

impl<F, T, U, E> CallHandler<(T,)> for F
where
    F: FnOnce(T) -> Result<U, E>,
    T: FromPayload,
    U: IntoPayload,
    E: Into<Error>,
{
    fn run(self, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        self(T::from_payload(payload)?)
            .map_err(Into::into)?
            .into_payload()
    }
}

/// Runs a handler on a payload.
#[doc(hidden)]
pub fn serve_call<A>(handler: impl CallHandler<A>, payload: Vec<u8>) -> Result<Vec<u8>, CallError> {
    crate::logging::install();
    handler.run(payload).map_err(CallError::from)
}

/// Exports a handler. On other targets than wasm the handler is only checked, so that its crate's tests run.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_http {
    ($handler:ident) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            struct Function;
            #[cfg(target_arch = "wasm32")]
            impl $crate::__private::http_function::exports::wasi::http::incoming_handler::Guest for Function {
                fn handle(
                    request: $crate::__private::IncomingRequest,
                    out: $crate::__private::ResponseOutparam,
                ) {
                    $crate::__private::serve_http($handler, request, out)
                }
            }
            #[cfg(target_arch = "wasm32")]
    $crate::__private::export_http!(Function with_types_in $crate::__private::http_function);
            #[cfg(not(target_arch = "wasm32"))]
            let _ = |request, out| $crate::__private::serve_http($handler, request, out);
        };
    };
}

/// As `__export_http`, for calls.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_call {
    ($handler:ident) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            struct Function;
            #[cfg(target_arch = "wasm32")]
            impl $crate::__private::call_function::exports::cloudlet::function::handler::Guest for Function {
                fn handle(payload: Vec<u8>) -> Result<Vec<u8>, $crate::__private::CallError> {
                    $crate::__private::serve_call($handler, payload)
                }
            }
            #[cfg(target_arch = "wasm32")]
    $crate::__private::export_call!(Function with_types_in $crate::__private::call_function);
            #[cfg(not(target_arch = "wasm32"))]
            let _ = |payload| $crate::__private::serve_call($handler, payload);
        };
    };
}
