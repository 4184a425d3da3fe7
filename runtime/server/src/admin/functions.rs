//! Functions over HTTP: what there is, and calls as an admin.

use std::sync::Arc;

use cloudlet_base::{AppId, Fault};
use cloudlet_host::{Call, CallReply, Invocation, TraceContext};
use http::{Method, Response};
use serde_json::json;

use super::{Request, not_found, ok};
use crate::apps::registry::{ActiveApp, InvokeRule};
use crate::front::body::Body;
use crate::front::respond::{self, Failure};

/// The running app: its active deployment.
///
/// # Errors
/// When there is none of that name.
pub(super) fn running(request: &Request<'_>, app: &AppId) -> Result<Arc<ActiveApp>, Failure> {
    let snapshot = request.cx.node().apps.snapshot();
    let found = snapshot.apps.get(app).map(|running| running.active.clone());
    found.ok_or_else(|| {
        not_found(format!(
            "no app {:?} is running on this node; deploy it first",
            app.as_str()
        ))
    })
}

/// `GET /v1/apps/APP/functions`, `POST /v1/apps/APP/functions/NAME/call`
pub(super) async fn serve(
    request: Request<'_>,
    app: &AppId,
    rest: &[&str],
) -> Result<Response<Body>, Failure> {
    let app = running(&request, app)?;
    match rest {
        [] => {
            request.only(&Method::GET)?;
            Ok(list(&app))
        }
        [name, "call"] => {
            request.only(&Method::POST)?;
            call(request, &app, name).await
        }
        _ => Err(not_found("there is only NAME/call under functions")),
    }
}

fn list(app: &ActiveApp) -> Response<Body> {
    let mut names: Vec<_> = app.invoke.iter().collect();
    names.sort_by_key(|(name, _)| name.as_str());
    let functions: Vec<_> = names
        .into_iter()
        .map(|(name, rule)| {
            let routes = app.routes.iter().filter(|route| *route.function == **name);
            json!({
                "function": name,
                "http": app.functions.serves_http(name),
                "call": app.functions.serves_calls(name),
                "invoke": match rule {
                    InvokeRule::Anyone => "true",
                    InvokeRule::LoggedIn => "auth != null",
                    InvokeRule::Nobody => "false",
                },
                "routes": routes.map(|route| json!({
                    "route": format!("{}{}", route.path, if route.prefix { "..." } else { "" }),
                    "methods": route.methods.iter().map(Method::as_str).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    ok(&json!({ "app": app.id.as_str(), "deployment": app.deployment.0, "functions": functions }))
}

async fn call(request: Request<'_>, app: &Arc<ActiveApp>, name: &str) -> Result<Response<Body>, Failure> {
    let payload = request.body.collect().await?;
    let invocation = Invocation {
        request: request.cx.id,
        principal: request.principal,
        deadline: request.cx.deadline.clone(),
        depth: 0,
        trace: TraceContext::of(&request.parts.headers),
    };
    let failed = |fault, code: &'static str, message: String| Err(Failure::new(fault, message).code(code));
    match app.functions.call(name, Call { payload }, invocation).await? {
        CallReply::Ok(reply) => {
            let json = serde_json::from_slice::<serde::de::IgnoredAny>(&reply).is_ok();
            let content_type = match json {
                true => respond::APPLICATION_JSON,
                false => http::HeaderValue::from_static("application/octet-stream"),
            };
            Ok(respond::bytes(http::StatusCode::OK, content_type, reply))
        }
        CallReply::Invalid(message) => failed(Fault::Invalid, "FUNCTION_PARAM_INVALID", message),
        CallReply::Denied(message) => failed(Fault::Denied, "PERMISSION_DENIED", message),
        CallReply::NotFound(message) => failed(Fault::NotFound, "NOT_FOUND", message),
        CallReply::Failed(message) => failed(Fault::Guest, "FUNCTIONS_EXECUTE_FAIL", message),
        CallReply::Busy(message) => failed(Fault::Busy, "EXCEED_REQUEST_LIMIT", message),
        CallReply::Deadline => {
            let message = format!("function {name:?} ran out of time");
            failed(Fault::Deadline, "FUNCTION_TIME_LIMIT_EXCEEDED", message)
        }
    }
}
