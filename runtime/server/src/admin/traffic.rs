//! Which deployments serve an app's requests, over HTTP: rollback, promotion, splits; and collecting what is old.

use std::sync::atomic::Ordering;

use cloudlet_base::{AppId, Fault, Principal};
use http::{Method, Response};
use serde::Deserialize;
use serde_json::json;

use super::deployments::{DEPLOY_BYTES_MAX, answer};
use super::{Request, json, ok, refused, to_the_end};
use crate::apps::records::Share;
use crate::apps::traffic::{self, Change};
use crate::front::body::Body;
use crate::front::pipeline::Cx;
use crate::front::respond::Failure;
use crate::maintenance;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    #[serde(default)]
    deployment: Option<i64>,
}

/// `POST /v1/apps/APP/rollback`
pub(super) async fn rollback(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    choose(request, app, Change::Rollback).await
}

/// `POST /v1/apps/APP/promote`
pub(super) async fn promote(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    choose(request, app, Change::Promote).await
}

async fn choose(
    request: Request<'_>,
    app: &AppId,
    change: fn(Option<i64>) -> Change,
) -> Result<Response<Body>, Failure> {
    request.only(&Method::POST)?;
    let Chosen { deployment } = json(request.body, DEPLOY_BYTES_MAX).await?;
    make(request.cx, request.principal, app, change(deployment)).await
}

/// `GET` and `PUT /v1/apps/APP/traffic`
pub(super) async fn serve(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        shares: Vec<Share>,
        #[serde(default)]
        revision: Option<i64>,
    }
    match request.parts.method {
        Method::GET => show(request, app).await,
        Method::PUT => {
            let Wanted { shares, revision } = json(request.body, DEPLOY_BYTES_MAX).await?;
            make(
                request.cx,
                request.principal,
                app,
                Change::Split { shares, revision },
            )
            .await
        }
        _ => Err(Failure::method_not_allowed("GET, PUT")),
    }
}

async fn make(cx: &Cx, principal: Principal, app: &AppId, change: Change) -> Result<Response<Body>, Failure> {
    let (node, app) = (cx.node().clone(), app.clone());
    let work = async move { traffic::change(&node, &app, change, &principal).await };
    answer(cx, to_the_end(work).await)
}

async fn show(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    let (record, running) = match traffic::traffic(request.cx.node(), app).await {
        Ok(found) => found,
        Err(error) => return refused(request.cx, error),
    };
    let shares: Vec<_> = record
        .traffic()
        .into_iter()
        .map(|share| {
            let runs = running
                .as_ref()
                .and_then(|running| running.deployment(share.deployment));
            let tally = |count: fn(&crate::apps::registry::Tally) -> u64| runs.map(|app| count(&app.tally));
            json!({
                "deployment": share.deployment,
                "percent": share.percent,
                "running": runs.is_some(),
                "requests": tally(|tally| tally.requests.load(Ordering::Relaxed)),
                "failures": tally(|tally| tally.failures.load(Ordering::Relaxed)),
            })
        })
        .collect();
    Ok(ok(&json!({
        "app": app.as_str(),
        "active": record.active,
        "revision": record.revision,
        "changed": record.changed.map(bson::DateTime::timestamp_millis),
        "by": record.by,
        "traffic": shares,
    })))
}

/// `POST /v1/collect`
pub(super) async fn collect(request: Request<'_>) -> Result<Response<Body>, Failure> {
    request.only(&Method::POST)?;
    let node = request.cx.node().clone();
    match to_the_end(async move { maintenance::collect(&node).await }).await {
        Ok(Some(collected)) => Ok(ok(&collected)),
        Ok(None) => Err(Failure::new(
            Fault::Busy,
            "deploys were under way all the time; try again when they are done",
        )),
        Err(error) => refused(request.cx, error),
    }
}
