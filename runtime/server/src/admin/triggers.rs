//! Triggers over HTTP: what fires when, the deliveries that wait or failed, and sending the failed ones again.

use cloudlet_base::{AppId, Timestamp};
use cloudlet_blob::ObjectScope;
use http::{Method, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Request, functions, json, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::Failure;
use crate::triggers::Kind;
use crate::triggers::changes::{self, ChangeTrigger, DocumentScope, Source};
use crate::triggers::deliveries::{self, Delivery, FAILED_MAX, State};

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
    let (mut database, mut storage) = (Vec::new(), Vec::new());
    for trigger in &active.changes {
        let place = changes::place(documents, app, trigger).await?;
        let lost = place
            .and_then(|place| place.lost)
            .map(bson::DateTime::timestamp_millis);
        match trigger.source {
            Source::Documents(_) => database.push(on_changes(trigger, lost)),
            Source::Objects(_) => storage.push(on_changes(trigger, lost)),
        }
    }
    let (mut waiting, mut failed) = (0, 0);
    for kind in Kind::ALL {
        let most = node.config.functions.deliveries_max;
        waiting += deliveries::count(documents, app, kind, State::Waiting, most).await?;
        failed += deliveries::count(documents, app, kind, State::Failed, FAILED_MAX).await?;
    }
    Ok(ok(&json!({
        "timers": timers,
        "database": database,
        "storage": storage,
        "waiting": waiting,
        "failed": failed,
    })))
}

/// A trigger on changes; `lost` is when it was found last that some were gone.
fn on_changes(trigger: &ChangeTrigger, lost: Option<i64>) -> Value {
    let (name, function, retries) = (&trigger.name, &*trigger.function, trigger.retries);
    match &trigger.source {
        Source::Documents(DocumentScope {
            collection,
            on,
            filter,
        }) => {
            let filter = bson::Document::try_from(&**filter).unwrap_or_default();
            json!({
                "name": name, "collection": collection, "function": function, "retries": retries, "lost": lost,
                "on": on.iter().map(|operation| operation.as_str()).collect::<Vec<_>>(),
                "filter": bson::Bson::Document(filter).into_relaxed_extjson(),
            })
        }
        Source::Objects(ObjectScope {
            prefix,
            created,
            deleted,
        }) => {
            let on = [("created", created), ("deleted", deleted)];
            let on: Vec<&str> = on.iter().filter(|(_, on)| **on).map(|(word, _)| *word).collect();
            json!({
                "name": name, "prefix": prefix, "on": on, "function": function, "retries": retries, "lost": lost,
            })
        }
    }
}

fn shown(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "kind": delivery.kind,
        "trigger": delivery.trigger,
        "function": delivery.function,
        "payload": delivery.payload,
        "held": delivery.state == State::Held,
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
        "replay" => {
            let ordering = &node.bells.ordering;
            let replayed = deliveries::replay(documents, ordering, app, id, node.clock.now()).await;
            let changed = replayed.inspect_err(|_| node.bells.look_at_orders())?;
            node.bells.due.notify_one();
            changed
        }
        _ => deliveries::discard(documents, app, id).await?,
    };
    match id {
        Some(id) if changed == 0 => Err(not_found(format!(
            "app {app} has no failed delivery {id:?}; list them with: cloudlet trigger failed"
        ))),
        _ => Ok(ok(&json!({ "changed": changed }))),
    }
}
