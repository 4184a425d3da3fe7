//! Files: hosted sites by content hash, stored objects by path; with conditional requests and ranges as
//! `cloudlet_blob::validators` says. Who may read an object is decided by client_api/storages.rs before it comes here.

use std::sync::Arc;

use bytes::Bytes;
use cloudlet_base::{Fault, Timestamp};
use cloudlet_blob::validators::{self, Conditions, Current, Outcome};
use cloudlet_blob::{ObjectInfo, Opened};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::apps::registry::{ActiveApp, SiteFile};
use crate::front::body::Body;
use crate::front::pipeline::Cx;
use crate::front::respond::{self, Failure};

/// Serves the hosted site of an app.
pub(crate) async fn site(cx: &Cx, app: &ActiveApp, parts: &Parts) -> Result<Response<Body>, Failure> {
    let method = read_method(&parts.method)?;
    let path = parts.uri.path();
    match find(app, path) {
        Found::File(file, status) => {
            let bytes = match cx.node().blobs.cached_content(file.hash) {
                Some(bytes) => bytes,
                None => cx.node().blobs.get_content(file.hash).await?,
            };
            site_file(file, status, method, &parts.headers, bytes)
        }
        Found::Directory => {
            let mut response = respond::empty(StatusCode::PERMANENT_REDIRECT);
            let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
            // Two leading slashes would name another host.
            let location = format!("/{}/{query}", path.trim_start_matches('/'));
            if let Ok(location) = HeaderValue::try_from(location) {
                response.headers_mut().insert(LOCATION, location);
            }
            Ok(response)
        }
        Found::Nothing => Err(Failure::new(Fault::NotFound, format!("nothing is at {path:?}"))),
    }
}

enum Found<'a> {
    File(&'a SiteFile, StatusCode),
    /// The path without its final slash.
    Directory,
    Nothing,
}

fn find<'a>(app: &'a ActiveApp, path: &str) -> Found<'a> {
    let files = &app.site.files;
    if files.is_empty() {
        return Found::Nothing;
    }
    if let Some(file) = files.get(path) {
        return Found::File(file, StatusCode::OK);
    }
    let Ok(decoded) = percent_encoding::percent_decode_str(path).decode_utf8() else { return Found::Nothing };
    if let Some(file) = files.get(&*decoded) {
        return Found::File(file, StatusCode::OK);
    }
    if decoded.ends_with('/') {
        if let Some(file) = files.get(&format!("{decoded}index.html")) {
            return Found::File(file, StatusCode::OK);
        }
    } else if files.contains_key(&format!("{decoded}/index.html")) {
        return Found::Directory;
    }
    if app.site.spa
        && let Some(file) = files.get("/index.html")
    {
        return Found::File(file, StatusCode::OK);
    }
    match files.get("/404.html") {
        Some(file) => Found::File(file, StatusCode::NOT_FOUND),
        None => Found::Nothing,
    }
}

/// The hot path: a file that is in memory.
fn site_file(
    file: &SiteFile,
    status: StatusCode,
    method: validators::Method,
    headers: &HeaderMap,
    bytes: Bytes,
) -> Result<Response<Body>, Failure> {
    let etag = validators::etag(file.hash);
    let conditional = status == StatusCode::OK
        && [RANGE, IF_NONE_MATCH, IF_MATCH].iter().any(|name| headers.contains_key(name));
    let outcome = if conditional {
        // Site files carry no date: a deploy's files are as old as the deploy, and tags say it better.
        let conditions =
            Conditions { if_modified_since: None, if_unmodified_since: None, ..conditions(headers) };
        let current = Current { etag: &etag, modified: Timestamp(0), size: file.size };
        conditions.evaluate(method, Some(current))
    } else {
        Outcome::Full
    };
    let mut response = match outcome {
        Outcome::Full => respond::bytes(status, media_type(&file.content_type), bytes),
        Outcome::Partial(range) => {
            let (start, end) = (range.start as usize, range.end as usize);
            if end > bytes.len() {
                return Err(Failure::new(Fault::Internal, "a site file is shorter than its record"));
            }
            let mut response = respond::bytes(
                StatusCode::PARTIAL_CONTENT,
                media_type(&file.content_type),
                bytes.slice(start..end),
            );
            content_range(&mut response, Some(&range), file.size);
            response
        }
        other => without_body(other, file.size),
    };
    let out = response.headers_mut();
    header(out, ETAG, &etag);
    out.insert(CACHE_CONTROL, HeaderValue::from_static(validators::CACHE_REVALIDATE));
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(response)
}

/// Serves an object that the caller may read. `cache_control` is what caches are told.
pub(crate) async fn object(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    info: &ObjectInfo,
    cache_control: &str,
    parts: &Parts,
) -> Result<Response<Body>, Failure> {
    let method = read_method(&parts.method)?;
    let etag = validators::etag(info.hash);
    let current = Current { etag: &etag, modified: info.modified, size: info.size };
    let outcome = conditions(&parts.headers).evaluate(method, Some(current));
    let mut response = match outcome {
        Outcome::Full | Outcome::Partial(_) => {
            let range = match outcome {
                Outcome::Partial(range) => Some(range),
                _ => None,
            };
            let size = range.as_ref().map_or(info.size, |range| range.end - range.start);
            let body = match method {
                // The length is told, the bytes are not fetched; pipeline.rs empties the body.
                validators::Method::Head => Body::object(Box::pin(futures_util::stream::empty()), size),
                _ => match cx.node().blobs.open_object(&app.id, info, range.clone()).await? {
                    Opened::Cached(bytes) => Body::whole(bytes),
                    Opened::Streamed(chunks) => Body::object(chunks, size),
                },
            };
            let mut response = Response::new(body);
            response.headers_mut().insert(CONTENT_TYPE, media_type(&info.content_type));
            if range.is_some() {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                content_range(&mut response, range.as_ref(), info.size);
            }
            response
        }
        other => without_body(other, info.size),
    };
    let out = response.headers_mut();
    header(out, ETAG, &etag);
    header(out, LAST_MODIFIED, &validators::last_modified(info.modified));
    header(out, CACHE_CONTROL, cache_control);
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Users put these bytes here: no browser shall run them as the app's own pages.
    out.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if ["html", "xml", "svg"].iter().any(|kind| info.content_type.contains(kind)) {
        out.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    }
    Ok(response)
}

fn without_body(outcome: Outcome, size: u64) -> Response<Body> {
    match outcome {
        Outcome::NotModified => respond::empty(StatusCode::NOT_MODIFIED),
        Outcome::PreconditionFailed => respond::empty(StatusCode::PRECONDITION_FAILED),
        Outcome::Unsatisfiable => {
            let mut response = respond::empty(StatusCode::RANGE_NOT_SATISFIABLE);
            content_range(&mut response, None, size);
            response
        }
        Outcome::Full | Outcome::Partial(_) => respond::empty(StatusCode::OK),
    }
}

fn read_method(method: &Method) -> Result<validators::Method, Failure> {
    match *method {
        Method::GET => Ok(validators::Method::Get),
        Method::HEAD => Ok(validators::Method::Head),
        _ => Err(Failure::method_not_allowed("GET, HEAD")),
    }
}

/// The first line of each header that matters; several lines of one are rare and a list in one line is the norm.
fn conditions(headers: &HeaderMap) -> Conditions<'_> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    Conditions {
        if_match: text(IF_MATCH),
        if_none_match: text(IF_NONE_MATCH),
        if_modified_since: text(IF_MODIFIED_SINCE),
        if_unmodified_since: text(IF_UNMODIFIED_SINCE),
        if_range: text(IF_RANGE),
        range: text(RANGE),
    }
}

fn content_range(response: &mut Response<Body>, range: Option<&std::ops::Range<u64>>, size: u64) {
    let text = match range {
        Some(range) => format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)),
        None => format!("bytes */{size}"),
    };
    header(response.headers_mut(), CONTENT_RANGE, &text);
}

/// Sets a header unless its text can't be one.
fn header(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn media_type(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}
