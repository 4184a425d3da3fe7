//! Content, deployments and secrets over HTTP. What they do is the business of `apps`; which deployments serve is in
//! traffic.rs.

use cloudlet_base::{AppId, ContentHash, Fault};
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Request, invalid, json, not_found, ok, refused, to_the_end};
use crate::apps::deploy::{self, DeployError, DeployRequest};
use crate::apps::records::{AppRecord, ComponentEntry};
use crate::apps::secrets::VALUE_BYTES_MAX;
use crate::apps::{diff, traffic};
use crate::front::body::Body;
use crate::front::respond::{self, Failure};

/// Largest manifest with the lists of components and files around it.
pub(super) const DEPLOY_BYTES_MAX: u64 = 12 << 20;
/// Largest site file; what is larger belongs into storage. Components have a limit of their own.
const CONTENT_BYTES_MAX: u64 = 64 << 20;
/// Hashes in one question for what is missing.
const PLAN_MAX: usize = 25_000;

/// `PUT /v1/content/HASH`
pub(super) async fn content(request: Request<'_>, hash: &str) -> Result<Response<Body>, Failure> {
    request.only(&Method::PUT)?;
    let hash: ContentHash = hash.parse().map_err(invalid)?;
    let node = request.cx.node();
    let mut body = request.body;
    body.limit(CONTENT_BYTES_MAX.max(node.config.functions.component_bytes_max as u64));
    let bytes = body.collect().await?;
    match deploy::put_content(node, hash, bytes).await {
        Ok(()) => Ok(respond::empty(StatusCode::NO_CONTENT)),
        Err(error) => refused(request.cx, error),
    }
}

/// `POST /v1/apps/APP/plan`
pub(super) async fn plan(request: Request<'_>) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Plan {
        hashes: Vec<String>,
    }
    request.only(&Method::POST)?;
    let plan: Plan = json(request.body, DEPLOY_BYTES_MAX).await?;
    if plan.hashes.len() > PLAN_MAX {
        let message = format!("{} hashes, over the limit of {PLAN_MAX}", plan.hashes.len());
        return Err(Failure::new(Fault::Limit, message));
    }
    let hashes = plan.hashes.iter().map(|hash| hash.parse::<ContentHash>());
    let hashes = hashes.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    match deploy::plan(request.cx.node(), hashes).await {
        Ok(missing) => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Ok(ok(&json!({ "missing": missing })))
        }
        Err(error) => refused(request.cx, error),
    }
}

/// `GET /v1/apps`
pub(super) async fn apps(request: Request<'_>) -> Result<Response<Body>, Failure> {
    request.only(&Method::GET)?;
    let node = request.cx.node();
    let records = match traffic::apps(node).await {
        Ok(records) => records,
        Err(error) => return refused(request.cx, error),
    };
    let snapshot = node.apps.snapshot();
    let apps: Vec<_> = records
        .iter()
        .map(|record| {
            let running = record
                .app
                .parse::<AppId>()
                .ok()
                .and_then(|id| snapshot.apps.get(&id).cloned());
            json!({
                "app": record.app,
                "active": record.active,
                "latest": record.latest,
                "running": running.is_some_and(|app| app.active.deployment.0 == record.active.unsigned_abs()),
            })
        })
        .collect();
    Ok(ok(&json!({ "apps": apps })))
}

/// `GET` and `POST /v1/apps/APP/deployments`, `GET .../N`, `PUT` and `DELETE .../N/pin`
pub(super) async fn serve(
    request: Request<'_>,
    app: &AppId,
    rest: &[&str],
) -> Result<Response<Body>, Failure> {
    let number = |text: &str| {
        let number = text.parse::<i64>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| invalid(format!("{text:?} is no deployment's number")))
    };
    match (rest, &request.parts.method) {
        ([], &Method::GET) => list(request, app).await,
        ([], &Method::POST) => deploy(request, app).await,
        ([], _) => Err(Failure::method_not_allowed("GET, POST")),
        ([text], _) => show(request, app, number(text)?).await,
        ([text, "pin"], _) => pin(request, app, number(text)?).await,
        _ => Err(not_found("there is only pin under a deployment")),
    }
}

/// What of an app's requests a deployment serves, in percent.
fn percent(record: &AppRecord, number: i64) -> u8 {
    let traffic = record.traffic();
    let share = traffic.iter().find(|share| share.deployment == number);
    share.map_or(0, |share| share.percent)
}

fn by_function(components: &[ComponentEntry]) -> serde_json::Map<String, serde_json::Value> {
    components
        .iter()
        .map(|component| (component.function.clone(), component.hash.clone().into()))
        .collect()
}

async fn list(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    let (record, kept) = match traffic::deployments(request.cx.node(), app).await {
        Ok(listed) => listed,
        Err(error) => return refused(request.cx, error),
    };
    let deployments: Vec<_> = kept
        .iter()
        .map(|kept| {
            json!({
                "deployment": kept.number,
                "active": kept.number == record.active,
                "percent": percent(&record, kept.number),
                "staged": kept.staged,
                "pinned": kept.pinned,
                "created": kept.created.timestamp_millis(),
                "env": kept.env,
                "by": kept.by,
                "hash": kept.hash,
                "components": by_function(&kept.components),
            })
        })
        .collect();
    Ok(ok(&json!({
        "app": app.as_str(),
        "active": record.active,
        "revision": record.revision,
        "deployments": deployments,
    })))
}

async fn show(request: Request<'_>, app: &AppId, number: i64) -> Result<Response<Body>, Failure> {
    request.only(&Method::GET)?;
    let (record, found) = match traffic::deployment(request.cx.node(), app, number).await {
        Ok(found) => found,
        Err(error) => return refused(request.cx, error),
    };
    Ok(ok(&json!({
        "app": app.as_str(),
        "deployment": found.number,
        "active": found.number == record.active,
        "percent": percent(&record, number),
        "staged": found.staged,
        "pinned": found.pinned,
        "created": found.created.timestamp_millis(),
        "env": found.env,
        "by": found.by,
        "hash": found.hash,
        "components": by_function(&found.components),
        "site": found.site,
        "manifest": found.manifest,
    })))
}

async fn pin(request: Request<'_>, app: &AppId, number: i64) -> Result<Response<Body>, Failure> {
    let pinned = match request.parts.method {
        Method::PUT => true,
        Method::DELETE => false,
        _ => return Err(Failure::method_not_allowed("PUT, DELETE")),
    };
    let (node, app) = (request.cx.node().clone(), app.clone());
    let work = async move { traffic::pin(&node, &app, number, pinned).await };
    match to_the_end(work).await {
        Ok(()) => Ok(ok(&json!({ "deployment": number, "pinned": pinned }))),
        Err(error) => refused(request.cx, error),
    }
}

/// `POST /v1/apps/APP/diff`
pub(super) async fn diff(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    request.only(&Method::POST)?;
    let against = match request.query("against")? {
        None => None,
        Some(text) => {
            let number = text.parse().ok().filter(|number| *number > 0);
            Some(number.ok_or_else(|| invalid(format!("{text:?} is no deployment's number")))?)
        }
    };
    let wanted: DeployRequest = json(request.body, DEPLOY_BYTES_MAX).await?;
    let node = request.cx.node();
    match diff::diff(node, app, against, wanted, &request.principal).await {
        Ok(diff) => Ok(ok(&diff)),
        Err(error) => refused(request.cx, error),
    }
}

async fn deploy(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    let wanted: DeployRequest = json(request.body, DEPLOY_BYTES_MAX).await?;
    let (node, app, principal) = (request.cx.node().clone(), app.clone(), request.principal);
    let work = async move { deploy::deploy(&node, &app, wanted, &principal).await };
    answer(request.cx, to_the_end(work).await)
}

pub(super) fn answer(
    cx: &crate::front::pipeline::Cx,
    outcome: Result<deploy::Outcome, DeployError>,
) -> Result<Response<Body>, Failure> {
    match outcome {
        Ok(outcome) => Ok(ok(&outcome)),
        Err(error) => refused(cx, error),
    }
}

/// `POST /v1/rotate-secret-key`
pub(super) async fn rotate_secret_key(request: Request<'_>) -> Result<Response<Body>, Failure> {
    request.only(&Method::POST)?;
    let node = request.cx.node().clone();
    let work = async move { traffic::rotate_secret_key(&node).await };
    match to_the_end(work).await {
        Ok(count) => Ok(ok(&json!({ "secrets": count }))),
        Err(error) => refused(request.cx, error),
    }
}

/// `GET /v1/apps/APP/secrets`, `PUT` and `DELETE /v1/apps/APP/secrets/NAME`. Values go in and never come out.
pub(super) async fn secrets(
    request: Request<'_>,
    app: &AppId,
    rest: &[&str],
) -> Result<Response<Body>, Failure> {
    let (node, app) = (request.cx.node().clone(), app.clone());
    let result = match (rest, &request.parts.method) {
        ([], &Method::GET) => traffic::list_secrets(&node, &app)
            .await
            .map(|secrets| ok(&json!({ "secrets": secrets }))),
        ([name], &Method::PUT) => {
            let mut body = request.body;
            body.limit(VALUE_BYTES_MAX as u64);
            let value = body.collect().await?;
            let value = std::str::from_utf8(&value)
                .map_err(|_| invalid("the secret is not UTF-8"))?
                .to_owned();
            let name = (*name).to_owned();
            let work = async move { traffic::put_secret(&node, &app, &name, &value).await };
            to_the_end(work)
                .await
                .map(|reloaded| ok(&json!({ "reloaded": reloaded })))
        }
        ([name], &Method::DELETE) => {
            let name = (*name).to_owned();
            let work = async move { traffic::delete_secret(&node, &app, &name).await };
            to_the_end(work)
                .await
                .map(|reloaded| ok(&json!({ "reloaded": reloaded })))
        }
        ([], _) => return Err(Failure::method_not_allowed("GET")),
        _ => return Err(Failure::method_not_allowed("PUT, DELETE")),
    };
    result.or_else(|error| refused(request.cx, error))
}
