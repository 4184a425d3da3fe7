//! What functions are told of a change: MongoDB's change event as extended JSON, or an object as JSON.

use bson::{Bson, Document, RawDocument};
use cloudlet_base::AppId;
use cloudlet_blob::{ObjectChange, ObjectInfo};
use cloudlet_data::{Code, Error};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::changes::{ChangeTrigger, Source};
use super::deliveries::{Delivery, State, date};
use super::timers::lease;
use crate::apps::registry::BUCKET;
use cloudlet_base::Timestamp;

/// The delivery of an event. The same event makes the same one.
///
/// # Errors
/// When the event is none, which is a bug.
pub(super) fn delivery(
    app: &AppId,
    trigger: &ChangeTrigger,
    event: &RawDocument,
    now: Timestamp,
) -> Result<Delivery, Error> {
    // Resume tokens sort as the events do, and so do the deliveries of one trigger.
    let place = event
        .get_document("_id")
        .and_then(|id| id.get_str("_data"))
        .map_err(|_| unreadable())?;
    let key = event.get_document("documentKey").map_err(|_| unreadable())?;
    let payload = match &trigger.source {
        Source::Documents(_) => of_document(event, &trigger.name).ok_or_else(unreadable)?,
        Source::Objects(_) => {
            let change = ObjectChange::read(event)
                .map_err(|error| Error::new(Code::InternalError, error.to_string()))?;
            of_object(&change, app, &trigger.name, place)
        }
    };
    Ok(Delivery {
        id: format!("{app}/{}/{place}", trigger.name),
        app: app.to_string(),
        trigger: trigger.name.clone(),
        kind: trigger.source.kind().as_str().to_owned(),
        function: trigger.function.to_string(),
        payload: payload.to_string(),
        state: State::Waiting,
        order: Some(order(app, trigger, key)),
        due: date(now),
        attempts: 0,
        retries: i32::try_from(trigger.retries).unwrap_or(i32::MAX),
        lease: lease(trigger.timeout),
        made: date(now),
        error: None,
        failed: None,
    })
}

/// The error of an event that is none.
pub(super) fn unreadable() -> Error {
    Error::new(Code::InternalError, "a change event can't be read")
}

/// What the deliveries have in common that run one after another. Keys may be long, so it is a hash.
fn order(app: &AppId, trigger: &ChangeTrigger, key: &RawDocument) -> String {
    let hash = Sha256::digest(key.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{app}/{}/{hash}", trigger.name)
}

fn of_document(event: &RawDocument, trigger: &str) -> Option<Value> {
    let mut event = Document::try_from(event).ok()?;
    if event.get_array("omitted").is_ok_and(|omitted| omitted.is_empty()) {
        event.remove("omitted");
    }
    event.insert("trigger", trigger);
    Some(Bson::Document(event).into_relaxed_extjson())
}

fn of_object(change: &ObjectChange, app: &AppId, trigger: &str, place: &str) -> Value {
    let ObjectInfo {
        path,
        size,
        hash,
        content_type,
        owner,
        ..
    } = &change.info;
    let at = bson::DateTime::from_millis(change.at.millis());
    json!({
        "id": place,
        "trigger": trigger,
        "type": if change.created { "created" } else { "deleted" },
        "path": &**path,
        "fileId": format!("cloud://{app}.{BUCKET}/{path}"),
        "size": size,
        "contentType": &**content_type,
        "etag": format!("\"{hash}\""),
        "owner": owner.as_deref(),
        "replaced": change.replaced,
        "time": at.try_to_rfc3339_string().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bson::{RawDocumentBuf, oid::ObjectId, rawdoc};
    use cloudlet_blob::ObjectScope;

    use super::super::changes::{DocumentScope, Operation};
    use super::*;

    fn app() -> AppId {
        "hotel".parse().unwrap()
    }

    fn made(source: Source, event: &RawDocumentBuf) -> (Delivery, Value) {
        let trigger = ChangeTrigger {
            name: "seen".to_owned(),
            source,
            function: "f".into(),
            retries: 3,
            timeout: Duration::from_secs(10),
        };
        let delivery = delivery(&app(), &trigger, event, Timestamp(1000)).unwrap();
        let payload = serde_json::from_str(&delivery.payload).unwrap();
        (delivery, payload)
    }

    fn documents() -> Source {
        Source::Documents(DocumentScope {
            collection: "stays".to_owned(),
            on: Operation::ALL.to_vec(),
            filter: RawDocumentBuf::new(),
        })
    }

    #[test]
    fn a_document_is_told_as_mongodb_tells_it() {
        let id = ObjectId::parse_str("65f000000000000000000001").unwrap();
        let event = |token: &str, omitted: bson::RawArrayBuf| {
            rawdoc! {
                "_id": { "_data": token },
                "operationType": "insert",
                "clusterTime": bson::Timestamp { time: 1, increment: 2 },
                "wallTime": bson::DateTime::from_millis(1000),
                "fullDocument": { "_id": id, "n": 5 },
                "ns": { "db": "hotel", "coll": "stays" },
                "documentKey": { "_id": id },
                "omitted": omitted,
            }
        };
        let (first, payload) = made(documents(), &event("01AA", bson::RawArrayBuf::new()));
        assert_eq!(first.id, "hotel/seen/01AA");
        assert_eq!(
            payload,
            json!({
                "_id": { "_data": "01AA" },
                "operationType": "insert",
                "clusterTime": { "$timestamp": { "t": 1, "i": 2 } },
                "wallTime": { "$date": "1970-01-01T00:00:01Z" },
                "fullDocument": { "_id": { "$oid": "65f000000000000000000001" }, "n": 5 },
                "ns": { "db": "hotel", "coll": "stays" },
                "documentKey": { "_id": { "$oid": "65f000000000000000000001" } },
                "trigger": "seen",
            })
        );
        let mut omitted = bson::RawArrayBuf::new();
        omitted.push("fullDocument");
        let (second, payload) = made(documents(), &event("01AB", omitted));
        assert_eq!(payload["omitted"], json!(["fullDocument"]));
        assert_eq!(first.order, second.order, "one document, one after another");
        assert!(first.id < second.id);
    }

    #[test]
    fn an_object_is_told_as_it_was_stored_or_before_it_went() {
        let object = rawdoc! {
            "_id": "photos/a.jpg", "blob": "00", "size": 3_i64, "hash": "11".repeat(32),
            "type": "image/jpeg", "modified": bson::DateTime::from_millis(1),
        };
        let event = |operation: &str, part: &str| {
            let mut event = rawdoc! {
                "_id": { "_data": "01AA" },
                "operationType": operation,
                "wallTime": bson::DateTime::from_millis(1000),
                "documentKey": { "_id": "photos/a.jpg" },
            };
            event.append(<&bson::raw::CStr>::try_from(part).unwrap(), object.clone());
            event
        };
        let source = || {
            Source::Objects(ObjectScope {
                prefix: "photos/".to_owned(),
                created: true,
                deleted: true,
            })
        };
        let (_, payload) = made(source(), &event("replace", "fullDocument"));
        assert_eq!(
            payload,
            json!({
                "id": "01AA", "trigger": "seen", "type": "created", "path": "photos/a.jpg",
                "fileId": "cloud://hotel.files/photos/a.jpg", "size": 3, "contentType": "image/jpeg",
                "etag": format!("\"{}\"", "11".repeat(32)), "owner": null, "replaced": true,
                "time": "1970-01-01T00:00:01Z",
            })
        );
        let (_, payload) = made(source(), &event("delete", "fullDocumentBeforeChange"));
        assert_eq!(
            (&payload["type"], &payload["size"]),
            (&json!("deleted"), &json!(3))
        );
    }
}
