//! Objects over HTTP, as an admin: `GET /v1/apps/APP/objects?prefix=`, and `GET`, `PUT`, `DELETE` of
//! `/v1/apps/APP/objects/PATH`. Bodies are streamed both ways.

use cloudlet_base::AppId;
use cloudlet_blob::{ObjectInfo, Opened, PutOptions};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderValue, Method, Response};
use serde_json::{Value, json};

use super::{Request, functions, invalid, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::Failure;

/// Objects in one answer.
const LISTED_MAX: usize = 1000;

/// Answers for one path, or lists when it is empty.
pub(super) async fn serve(request: Request<'_>, app: &AppId, path: &str) -> Result<Response<Body>, Failure> {
    // Objects of an app that is not there would be nobody's.
    functions::running(&request, app)?;
    match (&request.parts.method, path) {
        (&Method::GET, "") => list(request, app).await,
        (_, "") => Err(Failure::method_not_allowed("GET")),
        (&Method::GET | &Method::HEAD, path) => get(request, app, path).await,
        (&Method::PUT, path) => put(request, app, path).await,
        (&Method::DELETE, path) => match request.cx.node().blobs.delete(app, path).await? {
            true => Ok(ok(&json!({ "deleted": 1 }))),
            false => Err(not_found(format!("no object at {path:?}")).code("STORAGE_FILE_NONEXIST")),
        },
        _ => Err(Failure::method_not_allowed("GET, HEAD, PUT, DELETE")),
    }
}

async fn list(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    let prefix = request.query("prefix")?.unwrap_or_default();
    let after = request.query("after")?;
    let limit = match request.query("limit")? {
        None => LISTED_MAX,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LISTED_MAX).contains(limit))
            .ok_or_else(|| invalid(format!("limit is {text:?}; write 1 to {LISTED_MAX}")))?,
    };
    let mut found = request
        .cx
        .node()
        .blobs
        .list(app, &prefix, after.as_deref(), limit + 1)
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let objects: Vec<Value> = found.iter().map(described).collect();
    Ok(ok(&json!({ "objects": objects, "more": more })))
}

async fn get(request: Request<'_>, app: &AppId, path: &str) -> Result<Response<Body>, Failure> {
    let blobs = &request.cx.node().blobs;
    let info = blobs.head(app, path).await?;
    let body = match request.parts.method == Method::HEAD {
        true => Body::empty(),
        false => match blobs.open_object(app, &info, None).await? {
            Opened::Cached(bytes) => Body::whole(bytes),
            Opened::Streamed(chunks) => Body::object(chunks, info.size),
        },
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(info.size));
    if let Ok(content_type) = HeaderValue::from_str(&info.content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", info.hash)) {
        headers.insert(ETAG, etag);
    }
    let modified = u64::try_from(info.modified.seconds()).unwrap_or_default();
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(modified);
    if let Ok(modified) = HeaderValue::from_str(&httpdate::fmt_http_date(modified)) {
        headers.insert(LAST_MODIFIED, modified);
    }
    Ok(response)
}

async fn put(request: Request<'_>, app: &AppId, path: &str) -> Result<Response<Body>, Failure> {
    let node = request.cx.node().clone();
    let given = request
        .parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let content_type = match given {
        Some(given) => given.to_owned(),
        None => mime_guess::from_path(path).first_or_octet_stream().to_string(),
    };
    let options = PutOptions {
        content_type,
        owner: None,
    };
    let mut body = request.body;
    body.limit(node.config.storage.object_bytes_max);
    body.check_declared()?;
    let info = node.blobs.put(app, path, options, body.into_chunks()).await?;
    Ok(ok(&described(&info)))
}

fn described(info: &ObjectInfo) -> Value {
    json!({
        "path": &*info.path,
        "size": info.size,
        "etag": format!("\"{}\"", info.hash),
        "contentType": &*info.content_type,
        "owner": info.owner.as_deref(),
        "modified": info.modified.millis(),
    })
}
