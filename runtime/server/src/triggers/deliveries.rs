//! Deliveries on disk: the collection `deliveries` of the database `/node`.
//!
//! `{_id, app, trigger, kind, function, payload, state: "waiting" | "failed", due, attempts, retries, lease, made, taken?,
//! error?, failed?}`. Whoever takes a waiting one that is due moves `due` on by its `lease`, in one statement: nobody else takes it
//! until then, and if the taker is gone it is due again by itself.

use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, Deadline, Timestamp};
use cloudlet_data::{
    Delete, DeleteOne, Documents, Error, Find, FindAndModify, IndexSpec, Insert, Namespace, Update,
    UpdateOne, Write, default_index_name, pipeline_update,
};
use serde::{Deserialize, Serialize};

use crate::apps::records::{find_all, read, write};

/// Deliveries of one app that wait; further events are refused.
pub(crate) const WAITING_MAX: u64 = 10_000;
/// Failed deliveries of one app that are kept; the oldest goes when there is one more.
pub(crate) const FAILED_MAX: u64 = 1000;

/// One delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// Tells what made it, e.g. `hotel/nightly/2026-11-23T03:00:00Z`, so that the same event makes one delivery only.
    #[serde(rename = "_id")]
    pub(crate) id: String,
    pub(crate) app: String,
    /// The trigger's name.
    pub(crate) trigger: String,
    /// What kind of trigger, e.g. `timer`.
    pub(crate) kind: String,
    pub(crate) function: String,
    /// What the function gets: JSON.
    pub(crate) payload: String,
    pub(crate) state: State,
    /// When it is to be invoked next, if it waits.
    pub(crate) due: bson::DateTime,
    /// Invocations so far.
    pub(crate) attempts: i32,
    /// Invocations at most, after the first.
    pub(crate) retries: i32,
    /// How long one invocation may take at most, milliseconds.
    pub(crate) lease: i64,
    /// When it was made.
    pub(crate) made: bson::DateTime,
    /// Why the last invocation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// When it failed for the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<bson::DateTime>,
}

/// What a delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its next invocation.
    Waiting,
    /// A person.
    Failed,
}

impl State {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Failed => "failed",
        }
    }
}

/// A moment as a date.
pub(crate) fn date(moment: Timestamp) -> bson::DateTime {
    bson::DateTime::from_millis(moment.millis())
}

fn deliveries() -> Namespace {
    Namespace::new("/node", "deliveries")
}

/// Makes the indexes that the queries here use.
///
/// # Errors
/// Those of the database.
pub(crate) async fn prepare(documents: &dyn Documents) -> Result<(), Error> {
    let index = |keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|key| ((*key).into(), 1)).collect();
        IndexSpec {
            name: default_index_name(&keys),
            keys,
            ..IndexSpec::default()
        }
    };
    let indexes = vec![index(&["state", "due"]), index(&["app", "state", "made"])];
    documents.create_indexes(&deliveries(), indexes).await?;
    Ok(())
}

/// The write that makes a delivery; it fails with `DuplicateKey` when its event has made one already.
///
/// # Errors
/// When it can't be written as a document.
pub(crate) fn make(delivery: &Delivery) -> Result<Write, Error> {
    let insert = Insert {
        documents: vec![write(delivery)?],
        ordered: true,
        ..Insert::default()
    };
    Ok(Write::Insert(deliveries(), insert))
}

/// How many deliveries of an app are in a state, counted to one more than `most`.
///
/// # Errors
/// Those of the database.
pub(crate) async fn count(
    documents: &dyn Documents,
    app: &str,
    state: State,
    most: u64,
) -> Result<u64, Error> {
    let find = Find {
        filter: rawdoc! { "app": app, "state": state.as_str() },
        limit: Some(most + 1),
        ..Find::default()
    };
    documents.count(&deliveries(), find, Deadline::NEVER).await
}

/// Takes the delivery that has been due for the longest, of other apps than these. It is due again after its lease.
///
/// # Errors
/// Those of the database.
pub(crate) async fn take(
    documents: &dyn Documents,
    now: Timestamp,
    others_than: &[AppId],
) -> Result<Option<Delivery>, Error> {
    let mut busy = bson::RawArrayBuf::new();
    others_than.iter().for_each(|app| busy.push(app.as_str()));
    let filter = rawdoc! {
        "state": State::Waiting.as_str(),
        "due": { "$lte": date(now) },
        "app": { "$nin": busy },
    };
    let change = rawdoc! { "$set": {
        "due": { "$add": [date(now), "$lease"] },
        "attempts": { "$add": ["$attempts", 1] },
        "taken": true,
    } };
    let modify = FindAndModify {
        filter,
        sort: Some(rawdoc! { "due": 1 }),
        update: Some(pipeline_update(&[change])),
        return_new: true,
        ..FindAndModify::default()
    };
    let taken = documents
        .find_and_modify(&deliveries(), modify, Deadline::NEVER)
        .await?;
    taken.document.as_ref().map(read).transpose()
}

/// When the next waiting delivery is due.
///
/// # Errors
/// Those of the database.
pub(crate) async fn next_due(documents: &dyn Documents) -> Result<Option<Timestamp>, Error> {
    let find = Find {
        filter: rawdoc! { "state": State::Waiting.as_str() },
        sort: Some(rawdoc! { "due": 1 }),
        limit: Some(1),
        ..Find::default()
    };
    let page = documents.find(&deliveries(), find, Deadline::NEVER).await?;
    let first = page.documents.first().map(read).transpose()?;
    Ok(first.map(|delivery: Delivery| Timestamp(delivery.due.timestamp_millis())))
}

/// Makes every delivery due that somebody has taken: at the start of the only node, nobody has.
///
/// # Errors
/// Those of the database.
pub(crate) async fn let_go(documents: &dyn Documents, now: Timestamp) -> Result<u64, Error> {
    let filter = rawdoc! {
        "state": State::Waiting.as_str(), "due": { "$gt": date(now) }, "taken": true,
    };
    let change = rawdoc! { "$set": { "due": date(now) }, "$unset": { "taken": 1 } };
    update(documents, filter, change, true).await
}

/// The delivery is answered.
///
/// # Errors
/// Those of the database.
pub(crate) async fn answered(documents: &dyn Documents, delivery: &Delivery) -> Result<(), Error> {
    remove(documents, rawdoc! { "_id": delivery.id.as_str() }, false)
        .await
        .map(drop)
}

/// The invocation failed: it is tried again at `due`, which did not count if `counts` is false.
///
/// # Errors
/// Those of the database.
pub(crate) async fn again(
    documents: &dyn Documents,
    delivery: &Delivery,
    due: Timestamp,
    error: &str,
    counts: bool,
) -> Result<(), Error> {
    let attempts = delivery.attempts - i32::from(!counts);
    let change = rawdoc! {
        "$set": { "due": date(due), "attempts": attempts, "error": error }, "$unset": { "taken": 1 },
    };
    let filter = rawdoc! { "_id": delivery.id.as_str() };
    update(documents, filter, change, false).await.map(drop)
}

/// The last invocation failed: the delivery is kept for a person, and the oldest such one goes if there are too many.
///
/// # Errors
/// Those of the database.
pub(crate) async fn give_up(
    documents: &dyn Documents,
    delivery: &Delivery,
    now: Timestamp,
    error: &str,
) -> Result<(), Error> {
    let change = rawdoc! {
        "$set": { "state": State::Failed.as_str(), "error": error, "failed": date(now) },
        "$unset": { "taken": 1 },
    };
    let filter = rawdoc! { "_id": delivery.id.as_str() };
    update(documents, filter, change, false).await?;
    let count = count(documents, &delivery.app, State::Failed, FAILED_MAX).await?;
    if count > FAILED_MAX {
        let oldest = FindAndModify {
            filter: failed_of(&delivery.app, None),
            sort: Some(rawdoc! { "made": 1 }),
            ..FindAndModify::default()
        };
        documents
            .find_and_modify(&deliveries(), oldest, Deadline::NEVER)
            .await?;
    }
    Ok(())
}

/// Deliveries of an app in a state, the oldest first.
///
/// # Errors
/// Those of the database.
pub(crate) async fn list(
    documents: &dyn Documents,
    app: &AppId,
    state: State,
    most: u64,
) -> Result<Vec<Delivery>, Error> {
    let find = Find {
        filter: rawdoc! { "app": app.as_str(), "state": state.as_str() },
        sort: Some(rawdoc! { "made": 1 }),
        limit: Some(most),
        ..Find::default()
    };
    let found = find_all(documents, &deliveries(), find).await?;
    found.iter().map(read).collect()
}

/// Sends failed deliveries of an app again, one or all. Returns how many.
///
/// # Errors
/// Those of the database.
pub(crate) async fn replay(
    documents: &dyn Documents,
    app: &AppId,
    id: Option<&str>,
    now: Timestamp,
) -> Result<u64, Error> {
    let change = rawdoc! {
        "$set": { "state": State::Waiting.as_str(), "due": date(now), "attempts": 0 },
        "$unset": { "error": 1, "failed": 1 },
    };
    update(documents, failed_of(app.as_str(), id), change, true).await
}

/// Removes failed deliveries of an app, one or all. Returns how many.
///
/// # Errors
/// Those of the database.
pub(crate) async fn discard(documents: &dyn Documents, app: &AppId, id: Option<&str>) -> Result<u64, Error> {
    remove(documents, failed_of(app.as_str(), id), true).await
}

fn failed_of(app: &str, id: Option<&str>) -> RawDocumentBuf {
    let mut filter = rawdoc! { "app": app, "state": State::Failed.as_str() };
    if let Some(id) = id {
        filter.append(bson::raw::cstr!("_id"), id);
    }
    filter
}

async fn update(
    documents: &dyn Documents,
    filter: RawDocumentBuf,
    change: RawDocumentBuf,
    multi: bool,
) -> Result<u64, Error> {
    let update = Update {
        statements: vec![UpdateOne {
            filter,
            update: change,
            multi,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    let done = documents.update(&deliveries(), update, Deadline::NEVER).await?;
    match done.errors.into_iter().next() {
        Some(failed) => Err(failed.error),
        None => Ok(done.modified as u64),
    }
}

async fn remove(documents: &dyn Documents, filter: RawDocumentBuf, multi: bool) -> Result<u64, Error> {
    let delete = Delete {
        statements: vec![DeleteOne {
            filter,
            multi,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    let done = documents.delete(&deliveries(), delete, Deadline::NEVER).await?;
    match done.errors.into_iter().next() {
        Some(failed) => Err(failed.error),
        None => Ok(done.deleted),
    }
}
