//! The admin API, `/v1/...` on the admin listener: what the command line and the console use, and all that they
//! use. Called by front/pipeline.rs, which has checked the admin key. `runtime/docs/admin-api.md` lists the routes.

mod collections;
mod database_users;
mod deployments;
mod documents;
mod functions;
mod keys;
mod logs;
mod objects;
mod traffic;
pub(crate) mod transfer;
mod triggers;

use cloudlet_base::{AppId, Fault, Principal};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::apps::deploy::{DeployError, Raced};
use crate::apps::secrets::SecretError;
use crate::front::body::{Body, RequestBody};
use crate::front::pipeline::Cx;
use crate::front::respond::{self, Failure};

/// Answers one request of an admin.
pub(crate) async fn serve(
    cx: &Cx,
    principal: Principal,
    parts: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    let path = parts.uri.path().to_owned();
    let Some(rest) = path.strip_prefix("/v1/") else {
        return Err(no_such_route(&path));
    };
    let segments = rest.split('/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let request = Request {
        cx,
        principal,
        parts,
        body,
    };
    match segments.as_slice() {
        ["whoami"] => keys::whoami(request),
        ["keys", rest @ ..] => keys::serve(request, rest).await,
        ["content", hash] => deployments::content(request, hash).await,
        ["rotate-secret-key"] => deployments::rotate_secret_key(request).await,
        ["collect"] => traffic::collect(request).await,
        ["apps"] => deployments::apps(request).await,
        ["apps", app, rest @ ..] => {
            let app = app.parse::<AppId>().map_err(invalid)?;
            of_app(request, &app, rest).await
        }
        _ => Err(no_such_route(&path)),
    }
}

async fn of_app(request: Request<'_>, app: &AppId, rest: &[&str]) -> Result<Response<Body>, Failure> {
    match rest {
        ["plan"] => deployments::plan(request).await,
        ["diff"] => deployments::diff(request, app).await,
        ["deployments", rest @ ..] => deployments::serve(request, app, rest).await,
        ["traffic"] => traffic::serve(request, app).await,
        ["promote"] => traffic::promote(request, app).await,
        ["rollback"] => traffic::rollback(request, app).await,
        ["secrets", rest @ ..] => deployments::secrets(request, app, rest).await,
        ["functions", rest @ ..] => functions::serve(request, app, rest).await,
        ["logs"] => logs::serve(request, app).await,
        ["triggers", rest @ ..] => triggers::serve(request, app, rest).await,
        ["collections", rest @ ..] => collections::serve(request, app, rest).await,
        ["documents", collection, verb] => documents::serve(request, app, collection, verb).await,
        ["objects", path @ ..] => objects::serve(request, app, &path.join("/")).await,
        ["users"] => keys::create_user(request, app).await,
        ["database-users", rest @ ..] => database_users::serve(request, app, rest).await,
        _ => {
            let path = request.parts.uri.path().to_owned();
            Err(no_such_route(&path))
        }
    }
}

/// One request of an admin.
struct Request<'c> {
    cx: &'c Cx,
    principal: Principal,
    parts: Parts,
    body: RequestBody,
}

impl Request<'_> {
    /// The value of a query parameter.
    ///
    /// # Errors
    /// When it is not UTF-8.
    fn query(&self, name: &str) -> Result<Option<String>, Failure> {
        let pairs = self.parts.uri.query().unwrap_or_default().split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let found = pairs.find(|(key, _)| *key == name);
        found
            .map(|(_, value)| decoded(&value.replace('+', " ")))
            .transpose()
    }

    /// Refuses a method that the resource does not have.
    fn only(&self, method: &Method) -> Result<(), Failure> {
        match self.parts.method == *method {
            true => Ok(()),
            false => Err(Failure::method_not_allowed(method.as_str())),
        }
    }
}

/// A body of JSON; an empty one is `{}`.
///
/// # Errors
/// When it is too large, is not JSON, or has other fields.
async fn json<T: DeserializeOwned>(mut body: RequestBody, bytes_max: u64) -> Result<T, Failure> {
    body.limit(bytes_max);
    let bytes = body.collect().await?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|error| invalid(format!("the body is not the JSON expected: {error}")))
}

fn ok(value: &impl Serialize) -> Response<Body> {
    respond::json(StatusCode::OK, value)
}

fn invalid(message: impl ToString) -> Failure {
    Failure::new(Fault::Invalid, message.to_string())
}

fn not_found(message: impl ToString) -> Failure {
    Failure::new(Fault::NotFound, message.to_string())
}

fn no_such_route(path: &str) -> Failure {
    not_found(format!(
        "the admin API has nothing at {path:?}; its routes begin with /v1/"
    ))
}

fn decoded(text: &str) -> Result<String, Failure> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_| invalid("the path or query is not UTF-8"))
}

/// Runs `work` to its end even when the client goes away: what it does is not to be half done.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, DeployError>> + Send + 'static,
) -> Result<T, DeployError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(DeployError::Internal(format!("the work ended early: {error}"))),
    }
}

/// The answer to a failed deploy, with all its problems.
fn refused(cx: &Cx, error: DeployError) -> Result<Response<Body>, Failure> {
    /// The general form of a failure with its parts.
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        code: &'a str,
        message: &'a str,
        request_id: String,
        problems: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        now: Option<&'a Raced>,
    }
    let problems = error.problems();
    if !problems.is_empty() {
        let code = match error {
            DeployError::Manifest(_) => "INVALID_MANIFEST",
            DeployError::Missing(_) => "CONTENT_MISSING",
            _ => "DEPLOYMENT_REFUSED",
        };
        let wire = Wire {
            code,
            message: &error.to_string(),
            request_id: cx.id.to_string(),
            problems: &problems,
            now: None,
        };
        return Ok(respond::json(respond::status_of(error.kind()), &wire));
    }
    if let DeployError::Raced(now) = &error {
        let wire = Wire {
            code: "CONFLICT",
            message: &error.to_string(),
            request_id: cx.id.to_string(),
            problems: &problems,
            now: Some(now),
        };
        return Ok(respond::json(respond::status_of(error.kind()), &wire));
    }
    Err(match error {
        DeployError::Database(error) | DeployError::Secret(SecretError::Database(error)) => error.into(),
        DeployError::Content(error) => error.into(),
        error => {
            let fault = error.kind();
            if fault == Fault::Internal {
                tracing::error!(error = %error, request_id = %cx.id, "a deploy failed by our own fault");
            }
            Failure::new(fault, error.to_string())
        }
    })
}
