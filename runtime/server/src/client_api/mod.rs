//! The client API: the CloudBase protocols that the SDKs speak, on the reserved paths of the public listener. One
//! parser per dialect over one core: identity is `cloudlet_auth`, data are `cloudlet_data::Session` (rules apply),
//! objects are the blob store under the storage rules. Called by front/pipeline.rs with the app and the principal.

mod auth;
mod database;
mod ejson;
mod functions;
mod storages;

use std::sync::Arc;

use cloudlet_base::{Principal, RequestId};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use crate::apps::registry::ActiveApp;
use crate::front::body::{Body, RequestBody};
use crate::front::pipeline::Cx;
use crate::front::respond::{self, Failure};
use crate::metrics::Kind;

/// What of the client API a path names. Texts are percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Api {
    /// `/auth/v1/REST`
    Auth(String),
    /// `/v1/functions/NAME`
    Function(String),
    /// `/v1/database/...`
    Database(database::Target),
    /// `/v1/storages/VERB`
    Storage(String),
    /// `/_cloudlet/upload/PATH`
    Upload(String),
    /// `/_cloudlet/storage/PATH`
    Object(String),
    /// `/_cloudlet/jwks.json`
    KeySet,
    /// A reserved path that names nothing.
    Unknown,
}

/// The form in which failures are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{code,message,requestId}` with a status.
    Gateway,
    /// `{error,error_code,error_description}` with a status.
    Auth,
    /// `{code,message,requestId}` with status 200.
    Legacy,
}

impl Api {
    /// The part of the client API that a path names; `None` when the path is not reserved.
    ///
    /// # Errors
    /// When the path is reserved and not UTF-8 inside.
    pub(crate) fn parse(path: &str) -> Result<Option<Self>, Failure> {
        let under = |prefix: &str| path.strip_prefix(prefix).map(decoded).transpose();
        if let Some(rest) = under("/auth/v1/")? {
            return Ok(Some(Api::Auth(rest)));
        }
        if let Some(rest) = under("/v1/functions/")? {
            return Ok(Some(if rest.is_empty() {
                Api::Unknown
            } else {
                Api::Function(rest)
            }));
        }
        if let Some(rest) = under("/v1/database/")? {
            return Ok(Some(
                database::Target::parse(&rest).map_or(Api::Unknown, Api::Database),
            ));
        }
        if let Some(rest) = under("/v1/storages/")? {
            return Ok(Some(Api::Storage(rest)));
        }
        if let Some(rest) = under("/_cloudlet/")? {
            return Ok(Some(match rest.split_once('/') {
                Some(("upload", path)) => Api::Upload(path.to_owned()),
                Some(("storage", path)) => Api::Object(path.to_owned()),
                None if rest == "jwks.json" => Api::KeySet,
                _ => Api::Unknown,
            }));
        }
        Ok(None)
    }

    /// The `kind` label of its metrics.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Api::Auth(_) => Kind::Auth,
            Api::Function(_) => Kind::Call,
            Api::Database(_) => Kind::Database,
            Api::Storage(_) => Kind::Storage,
            Api::Upload(_) | Api::Object(_) => Kind::Object,
            Api::KeySet | Api::Unknown => Kind::System,
        }
    }

    /// The form in which it tells failures.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Api::Auth(_) => Dialect::Auth,
            _ => Dialect::Gateway,
        }
    }

    /// Whether the authorization header is a caller's bearer token here. On logins the SDK puts other things into
    /// it, on uploads the upload's own signature.
    pub(crate) fn takes_principal(&self) -> bool {
        match self {
            Api::Auth(rest) => auth::takes_principal(rest),
            Api::Function(_) | Api::Database(_) | Api::Storage(_) | Api::Object(_) => true,
            Api::Upload(_) | Api::KeySet | Api::Unknown => false,
        }
    }
}

fn decoded(text: &str) -> Result<String, Failure> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| {
            Failure::new(cloudlet_base::Fault::Invalid, "the path is not UTF-8").code("INVALID_PATH")
        })
}

impl Dialect {
    /// A failure in this form.
    pub(crate) fn failed(self, failure: Failure, id: RequestId) -> Response<Body> {
        match self {
            Dialect::Gateway => failure.into_response(id),
            Dialect::Auth => auth::failed(failure, id),
            Dialect::Legacy => {
                let mut response = failure.into_response(id);
                *response.status_mut() = StatusCode::OK;
                response
            }
        }
    }
}

/// The answer to the protocols before the gateway's, which are not spoken yet.
pub(crate) fn legacy() -> Failure {
    Failure::unsupported(
        "this node speaks the gateway protocol; in @cloudbase/js-sdk init with endPointMode 'GATEWAY' and registerHost",
    )
}

/// Answers a request of the client API.
pub(crate) async fn serve(
    cx: &Cx,
    app: Arc<ActiveApp>,
    api: Api,
    principal: Principal,
    parts: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    match api {
        Api::Auth(rest) => auth::serve(cx, &app, &rest, principal, &parts, body).await,
        Api::Function(name) => functions::serve(cx, &app, &name, principal, &parts, body).await,
        Api::Database(target) => database::serve(cx, &app, target, principal, &parts, body).await,
        Api::Storage(verb) => storages::serve(cx, &app, &verb, principal, &parts, body).await,
        Api::Upload(path) => storages::upload(cx, &app, &path, &parts, body).await,
        Api::Object(path) => storages::object(cx, &app, &path, principal, &parts).await,
        Api::KeySet if matches!(parts.method, Method::GET | Method::HEAD) => Ok(respond::bytes(
            StatusCode::OK,
            HeaderValue::from_static("application/jwk-set+json"),
            cx.node().auth.jwks(),
        )),
        Api::KeySet => Err(Failure::method_not_allowed("GET, HEAD")),
        Api::Unknown => Err(Failure::new(
            cloudlet_base::Fault::NotFound,
            format!(
                "{:?} is a reserved path and names nothing of the client API",
                parts.uri.path()
            ),
        )),
    }
}

/// A field's value from a query string, percent-decoded. The SDK's URLs end with a stray `&`.
fn query_value(parts: &Parts, name: &str) -> Option<String> {
    let query = parts.uri.query()?;
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let spaced = value.replace('+', " ");
    Some(
        percent_encoding::percent_decode_str(&spaced)
            .decode_utf8_lossy()
            .into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<Api> {
        Api::parse(path).unwrap()
    }

    #[test]
    fn reserved_paths_are_recognised() {
        assert_eq!(parse("/"), None);
        assert_eq!(parse("/v1/functionsx"), None);
        assert_eq!(parse("/v1/functions/f"), Some(Api::Function("f".into())));
        assert_eq!(parse("/v1/functions/"), Some(Api::Unknown));
        assert_eq!(parse("/auth/v1/user/me"), Some(Api::Auth("user/me".into())));
        assert_eq!(
            parse("/_cloudlet/storage/a/%E4%BD%A0.txt"),
            Some(Api::Object("a/你.txt".into()))
        );
        assert_eq!(parse("/_cloudlet/jwks.json"), Some(Api::KeySet));
        assert_eq!(parse("/_cloudlet/x"), Some(Api::Unknown));
        assert!(Api::parse("/v1/functions/%ff").is_err());
    }

    #[test]
    fn query_values_are_decoded() {
        let parts = http::Request::builder()
            .uri("/x?query=%7B%7D&limit=10&")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        assert_eq!(query_value(&parts, "query").as_deref(), Some("{}"));
        assert_eq!(query_value(&parts, "limit").as_deref(), Some("10"));
        assert_eq!(query_value(&parts, "lim"), None);
    }
}
