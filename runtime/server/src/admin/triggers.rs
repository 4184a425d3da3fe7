//! Triggers over HTTP: what fires when, the deliveries that wait or failed, and sending the failed ones again.

use cloudlet_base::{AppId, Timestamp};
use http::{Method, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Request, functions, json, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::Failure;
use crate::triggers::deliveries::{self, Delivery, FAILED_MAX, State, WAITING_MAX};

/// Largest body here.
const BYTES_MAX: u64 = 4 << 10;
/// Deliveries in one answer.
const LISTED_MAX: u64 = 200;

/// `GET /v1/apps/APP/triggers[/waiting|/failed]`, `POST /v1/apps/APP/triggers/{replay,discard}`
pub(super) async fn serve(
    request: Request<'_>,
    app: &AppId,
    rest: &[&str],
) -> Result<Response<Body>, Failure> {
    match rest {
        [] => {
            request.only(&Method::GET)?;
            overview(request, app).await
        }
        [state @ ("waiting" | "failed")] => {
            request.only(&Method::GET)?;
            let state = match *state {
                "failed" => State::Failed,
                _ => State::Waiting,
            };
            let found = deliveries::list(&*request.cx.node().documents, app, state, LISTED_MAX).await?;
            let found: Vec<Value> = found.iter().map(shown).collect();
            Ok(ok(&json!({ "deliveries": found })))
        }
        [verb @ ("replay" | "discard")] => {
            request.only(&Method::POST)?;
            change(request, app, verb).await
        }
        _ => Err(not_found(
            "there are only waiting, failed, replay and discard under triggers",
        )),
    }
}

async fn overview(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    let active = functions::running(&request, app)?;
    let node = request.cx.node();
    let now = node.clock.now();
    let timers: Vec<Value> = active
        .timers
        .iter()
        .map(|timer| {
            json!({
                "name": timer.name,
                "schedule": timer.schedule.text(),
                "function": &*timer.function,
                "missed": timer.missed.as_str(),
                "retries": timer.retries,
                "next": timer.schedule.after(now).map(Timestamp::millis),
            })
        })
        .collect();
    let documents = &*node.documents;
    Ok(ok(&json!({
        "timers": timers,
        "waiting": deliveries::count(documents, app.as_str(), State::Waiting, WAITING_MAX).await?,
        "failed": deliveries::count(documents, app.as_str(), State::Failed, FAILED_MAX).await?,
    })))
}

fn shown(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "kind": delivery.kind,
        "trigger": delivery.trigger,
        "function": delivery.function,
        "payload": delivery.payload,
        "attempts": delivery.attempts,
        "made": delivery.made.timestamp_millis(),
        "due": (delivery.state == State::Waiting).then(|| delivery.due.timestamp_millis()),
        "error": delivery.error,
        "failed": delivery.failed.map(bson::DateTime::timestamp_millis),
    })
}

async fn change(request: Request<'_>, app: &AppId, verb: &str) -> Result<Response<Body>, Failure> {
    /// Which of the failed deliveries; all of them when there is no id.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Which {
        id: Option<String>,
    }
    let node = request.cx.node();
    let Which { id } = json(request.body, BYTES_MAX).await?;
    let (documents, id) = (&*node.documents, id.as_deref());
    let changed = match verb {
        "replay" => deliveries::replay(documents, app, id, node.clock.now()).await?,
        _ => deliveries::discard(documents, app, id).await?,
    };
    match id {
        Some(id) if changed == 0 => Err(not_found(format!(
            "app {app} has no failed delivery {id:?}; list them with: cloudlet trigger failed"
        ))),
        _ => Ok(ok(&json!({ "changed": changed }))),
    }
}
