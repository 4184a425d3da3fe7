//! `/v1/storages/*`: where to put and get objects, and removing them, under the app's storage rules; and the two
//! places that the answers name: `/_cloudlet/upload/PATH` (a PUT under a short-lived signature) and
//! `/_cloudlet/storage/PATH` (plain when everybody may read, else signed or asked for by a bearer who may).

use std::sync::Arc;

use cloudlet_base::{Fault, Principal};
use cloudlet_blob::{ObjectInfo, PutOptions, validators};
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use crate::apps::registry::{ActiveApp, BUCKET, StorageAccess};
use crate::client_api::ejson::Json;
use crate::client_api::query_value;
use crate::front::body::{Body, RequestBody};
use crate::front::client_address::is_trusted;
use crate::front::pipeline::Cx;
use crate::front::respond::{self, Failure};
use crate::front::signer::Purpose;
use crate::front::static_files;

/// Objects named in one request, at most.
const ITEMS_MAX: usize = 50;

/// How long an upload may begin after it was allowed.
const UPLOAD_TTL_S: i64 = 15 * 60;

/// How long a signed download URL is good.
const DOWNLOAD_TTL_S: i64 = 2 * 3600;

/// Everything in a path segment that can't stand in a URL as it is.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\')
    .add(b'^')
    .add(b'|')
    .add(b'[')
    .add(b']');

/// Answers a request below `/v1/storages/`.
pub(super) async fn serve(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    verb: &str,
    principal: Principal,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    if parts.method != Method::POST {
        return Err(Failure::method_not_allowed("POST"));
    }
    let asked = Json::parse(&body.collect().await?).map_err(Failure::from)?;
    let Json::List(items) = &asked else {
        return Err(Failure::new(Fault::Invalid, "expected a list of objects"));
    };
    if items.len() > ITEMS_MAX {
        let message = format!("{} objects in one request; at most {ITEMS_MAX}", items.len());
        return Err(Failure::new(Fault::Limit, message).code("STORAGE_REQUEST_FAIL"));
    }
    let op = Op {
        cx,
        app,
        principal,
        origin: origin(cx, parts),
    };
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let answer = match verb {
            "get-objects-upload-info" => op.upload_info(item).await,
            "get-objects-download-info" => op.download_info(item).await,
            "delete-objects" => op.delete(item).await,
            _ => {
                return Err(Failure::unsupported(format!(
                    "/v1/storages/{verb} is not offered by this node"
                )));
            }
        };
        answers.push(answer.unwrap_or_else(|failure| Answer::failed(item, failure)));
    }
    Ok(respond::json(StatusCode::OK, &answers))
}

/// The answer for one object.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    object_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_object_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_object_meta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Answer {
    fn failed(item: &Json, failure: Failure) -> Self {
        let text = |name| item.field(name).and_then(Json::text).map(str::to_owned);
        Self {
            object_id: text("objectId"),
            cloud_object_id: text("cloudObjectId"),
            code: Some(failure.code),
            message: Some(failure.message.into_owned()),
            ..Self::default()
        }
    }
}

struct Op<'a> {
    cx: &'a Cx,
    app: &'a Arc<ActiveApp>,
    principal: Principal,
    /// `scheme://host` as the client knows this node.
    origin: String,
}

impl Op<'_> {
    async fn upload_info(&self, item: &Json) -> Result<Answer, Failure> {
        let path = item.field("objectId").and_then(Json::text).unwrap_or_default();
        let path = path.trim_start_matches('/');
        check_path(path)?;
        self.may_write(path).await?;
        let declared = item
            .field("signedHeader")
            .and_then(|headers| headers.field("content-length"))
            .and_then(|values| match values {
                Json::List(values) => values.first(),
                other => Some(other),
            })
            .and_then(Json::text)
            .and_then(|text| text.parse::<u64>().ok());
        let permit = UploadPermit {
            until_s: self.cx.node().clock.now().seconds() + UPLOAD_TTL_S,
            bytes_max: declared.unwrap_or(self.cx.node().config.storage.object_bytes_max),
            owner: self.principal.user().map(|user| user.owner_id().to_owned()),
        };
        let encoded = utf8_percent_encode(path, SEGMENT).to_string();
        Ok(Answer {
            object_id: Some(path.to_owned()),
            cloud_object_id: Some(self.file_id(path)),
            upload_url: Some(format!("{}/_cloudlet/upload/{encoded}", self.origin)),
            authorization: Some(permit.sign(self.cx, self.app, path)),
            // The SDK sends both of these with the upload as headers; the signature alone is what counts.
            token: Some("cloudlet".into()),
            cloud_object_meta: Some(encoded),
            download_url: Some(self.download_url(path)),
            ..Answer::default()
        })
    }

    async fn download_info(&self, item: &Json) -> Result<Answer, Failure> {
        let path = self.path_of(item)?;
        let info = self.cx.node().blobs.head(&self.app.id, &path).await?;
        may_read(self.app, &self.principal, &info)?;
        Ok(Answer {
            cloud_object_id: Some(self.file_id(&path)),
            download_url: Some(self.download_url(&path)),
            ..Answer::default()
        })
    }

    async fn delete(&self, item: &Json) -> Result<Answer, Failure> {
        let path = self.path_of(item)?;
        self.may_write(&path).await?;
        if !self.cx.node().blobs.delete(&self.app.id, &path).await? {
            return Err(cloudlet_blob::Error::NotFound { path }.into());
        }
        Ok(Answer {
            cloud_object_id: Some(self.file_id(&path)),
            ..Answer::default()
        })
    }

    /// The path that a file id of this app names.
    fn path_of(&self, item: &Json) -> Result<String, Failure> {
        let id = item
            .field("cloudObjectId")
            .and_then(Json::text)
            .unwrap_or_default();
        let path = parse_file_id(id, self.app.id.as_str()).ok_or_else(|| {
            let app = &self.app.id;
            Failure::new(
                Fault::Invalid,
                format!("{id:?} is not a file id of this app; expected cloud://{app}.{BUCKET}/PATH"),
            )
        })?;
        check_path(path)?;
        Ok(path.to_owned())
    }

    fn file_id(&self, path: &str) -> String {
        format!("cloud://{}.{BUCKET}/{path}", self.app.id)
    }

    fn download_url(&self, path: &str) -> String {
        let encoded = utf8_percent_encode(path, SEGMENT);
        let url = format!("{}/_cloudlet/storage/{encoded}", self.origin);
        if read_access(self.app, path) == StorageAccess::Anyone {
            return url;
        }
        let until = (self.cx.node().clock.now().seconds() + DOWNLOAD_TTL_S).to_string();
        let parts = [self.app.id.as_str(), path, &until];
        let signature = self.cx.node().signer.sign(Purpose::Download, &parts);
        format!("{url}?until={until}&sign={signature}")
    }

    /// Whether the caller may put an object at `path` or remove the one there.
    async fn may_write(&self, path: &str) -> Result<(), Failure> {
        if !self.principal.bound_by_rules() {
            return Ok(());
        }
        let rule = self
            .app
            .storage
            .iter()
            .find(|rule| path.starts_with(&rule.prefix));
        let user = self.principal.user();
        let allowed = match (rule.map_or(StorageAccess::Nobody, |rule| rule.write), user) {
            (StorageAccess::Anyone, _) | (StorageAccess::LoggedIn, Some(_)) => true,
            (StorageAccess::Owner, Some(user)) => match self.cx.node().blobs.head(&self.app.id, path).await {
                Ok(there) => there.owner.as_deref() == Some(user.owner_id()),
                Err(cloudlet_blob::Error::NotFound { .. }) => true,
                Err(error) => return Err(error.into()),
            },
            (StorageAccess::LoggedIn | StorageAccess::Owner, None) | (StorageAccess::Nobody, _) => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(denied(path, "write"))
        }
    }
}

fn denied(path: &str, what: &str) -> Failure {
    Failure::new(
        Fault::Denied,
        format!("the storage rules do not let this caller {what} {path:?}"),
    )
    .code("STORAGE_EXCEED_AUTHORITY")
}

fn read_access(app: &ActiveApp, path: &str) -> StorageAccess {
    // A path under no rule is closed, except to its owner.
    app.storage
        .iter()
        .find(|rule| path.starts_with(&rule.prefix))
        .map_or(StorageAccess::Owner, |rule| rule.read)
}

fn may_read(app: &ActiveApp, principal: &Principal, info: &ObjectInfo) -> Result<(), Failure> {
    let user = principal.user();
    let owns = || user.is_some_and(|user| info.owner.as_deref() == Some(user.owner_id()));
    let allowed = !principal.bound_by_rules()
        || match read_access(app, &info.path) {
            StorageAccess::Anyone => true,
            StorageAccess::LoggedIn => user.is_some(),
            StorageAccess::Owner => owns(),
            StorageAccess::Nobody => false,
        };
    if allowed {
        Ok(())
    } else {
        Err(denied(&info.path, "read"))
    }
}

fn parse_file_id<'a>(id: &'a str, app: &str) -> Option<&'a str> {
    id.strip_prefix("cloud://")?
        .strip_prefix(app)?
        .strip_prefix('.')?
        .strip_prefix(BUCKET)?
        .strip_prefix('/')
}

/// What the blob store would refuse too, told before anything is signed.
fn check_path(path: &str) -> Result<(), Failure> {
    let ok = !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\\')
        && path.chars().all(|c| !c.is_control())
        && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if ok {
        return Ok(());
    }
    Err(Failure::new(
        Fault::Invalid,
        format!("{path:?} can't be an object's path"),
    ))
}

/// `scheme://host` as the client knows this node. A proxy on the same machine may say that it took TLS off.
fn origin(cx: &Cx, parts: &Parts) -> String {
    let forwarded = is_trusted(&cx.node().config.trusted_proxies, cx.conn.peer.ip())
        && parts
            .headers
            .get("x-forwarded-proto")
            .is_some_and(|value| value.as_bytes() == b"https");
    let scheme = if cx.conn.secure || forwarded {
        "https"
    } else {
        "http"
    };
    let host = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| parts.headers.get(HOST).and_then(|value| value.to_str().ok()));
    format!("{scheme}://{}", host.unwrap_or("localhost"))
}

/// Leave to put one object, as text in the upload's authorization header: `cloudlet-upload UNTIL.BYTES.OWNER.SIGN`.
struct UploadPermit {
    until_s: i64,
    bytes_max: u64,
    owner: Option<String>,
}

const UPLOAD_SCHEME: &str = "cloudlet-upload ";

impl UploadPermit {
    fn sign(&self, cx: &Cx, app: &ActiveApp, path: &str) -> String {
        let (until, bytes) = (self.until_s.to_string(), self.bytes_max.to_string());
        let owner = self.owner.as_deref().unwrap_or_default();
        let parts = [app.id.as_str(), path, &until, &bytes, owner];
        let signature = cx.node().signer.sign(Purpose::Upload, &parts);
        let owner = utf8_percent_encode(owner, percent_encoding::NON_ALPHANUMERIC);
        format!("{UPLOAD_SCHEME}{until}.{bytes}.{owner}.{signature}")
    }

    fn verify(cx: &Cx, app: &ActiveApp, path: &str, text: &str) -> Result<Self, Failure> {
        let refuse = |what| Failure::new(Fault::Denied, what).code("STORAGE_SIGN_PARAM_INVALID");
        let malformed = || refuse("the upload is not signed; ask get-objects-upload-info first");
        let mut fields = text
            .strip_prefix(UPLOAD_SCHEME)
            .ok_or_else(malformed)?
            .splitn(4, '.');
        let mut field = || fields.next().ok_or_else(malformed);
        let (until, bytes, owner, signature) = (field()?, field()?, field()?, field()?);
        let owner = percent_encoding::percent_decode_str(owner)
            .decode_utf8()
            .map_err(|_| malformed())?;
        let parts = [app.id.as_str(), path, until, bytes, &*owner];
        if !cx.node().signer.verify(Purpose::Upload, &parts, signature) {
            return Err(refuse("the upload's signature is not of this path"));
        }
        let permit = Self {
            until_s: until.parse().map_err(|_| malformed())?,
            bytes_max: bytes.parse().map_err(|_| malformed())?,
            owner: (!owner.is_empty()).then(|| owner.into_owned()),
        };
        if permit.until_s < cx.node().clock.now().seconds() {
            return Err(refuse("the upload's signature has expired"));
        }
        Ok(permit)
    }
}

/// `PUT /_cloudlet/upload/PATH`: the bytes of an object that a client was allowed to put.
pub(super) async fn upload(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    path: &str,
    parts: &Parts,
    mut body: RequestBody,
) -> Result<Response<Body>, Failure> {
    if parts.method != Method::PUT {
        return Err(Failure::method_not_allowed("PUT"));
    }
    let text = |name| {
        parts
            .headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let permit = UploadPermit::verify(cx, app, path, text(AUTHORIZATION).unwrap_or_default())?;
    body.limit(permit.bytes_max.min(cx.node().config.storage.object_bytes_max));
    body.check_declared()?;
    let options = PutOptions {
        content_type: text(CONTENT_TYPE).unwrap_or_default().to_owned(),
        owner: permit.owner.map(Arc::from),
    };
    let info = cx
        .node()
        .blobs
        .put(&app.id, path, options, body.into_chunks())
        .await?;
    let mut response = respond::empty(StatusCode::OK);
    if let Ok(etag) = HeaderValue::from_str(&validators::etag(info.hash)) {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

/// `GET /_cloudlet/storage/PATH`: an object, to those who may read it.
pub(super) async fn object(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    path: &str,
    principal: Principal,
    parts: &Parts,
) -> Result<Response<Body>, Failure> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Failure::method_not_allowed("GET, HEAD"));
    }
    let open = read_access(app, path) == StorageAccess::Anyone;
    let signed = match query_value(parts, "sign") {
        Some(signature) if !open => {
            check_signature(
                cx,
                app,
                path,
                &query_value(parts, "until").unwrap_or_default(),
                &signature,
            )?;
            true
        }
        _ => false,
    };
    let info = match cx.node().blobs.head(&app.id, path).await {
        Ok(info) => info,
        // Who may not read here may not learn what is here either.
        Err(cloudlet_blob::Error::NotFound { .. }) if !open && !signed && principal == Principal::Public => {
            return Err(denied(path, "read"));
        }
        Err(error) => return Err(error.into()),
    };
    if !signed {
        may_read(app, &principal, &info)?;
    }
    let configured = app
        .cache_control
        .iter()
        .find(|(prefix, _)| path.starts_with(prefix.as_str()));
    let cache_control = match configured {
        Some((_, value)) if open => value.as_str(),
        None if open => validators::CACHE_REVALIDATE,
        _ => validators::CACHE_PRIVATE,
    };
    static_files::object(cx, app, &info, cache_control, parts).await
}

fn check_signature(
    cx: &Cx,
    app: &ActiveApp,
    path: &str,
    until: &str,
    signature: &str,
) -> Result<(), Failure> {
    let refuse = |what| Err(Failure::new(Fault::Denied, what).code("STORAGE_SIGN_PARAM_INVALID"));
    if !cx
        .node()
        .signer
        .verify(Purpose::Download, &[app.id.as_str(), path, until], signature)
    {
        return refuse("the URL's signature is not of this object");
    }
    if until
        .parse::<i64>()
        .map_or(true, |until| until < cx.node().clock.now().seconds())
    {
        return refuse("the URL has expired; ask for a new one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_ids_name_paths_of_their_app() {
        let id = format!("cloud://hotel.{BUCKET}/a/b.txt");
        assert_eq!(parse_file_id(&id, "hotel"), Some("a/b.txt"));
        assert_eq!(parse_file_id(&id, "hote"), None);
        assert_eq!(parse_file_id(&id, "motel"), None);
        assert_eq!(parse_file_id("a/b.txt", "hotel"), None);
    }

    #[test]
    fn paths_are_plain() {
        for good in ["a", "a/b.txt", "照片/一.jpg", "a b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\\b", "a\0"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
