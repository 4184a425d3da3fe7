//! Deliveries on disk: the collection `deliveries` of the database `/node`.
//!
//! `{_id, app, trigger, kind, function, payload, state: "waiting" | "held" | "failed", order?, due, attempts, retries, lease,
//! made, taken?, error?, failed?}`. Whoever takes a waiting one that is due moves `due` on by its `lease`, in one statement:
//! nobody else takes it until then, and if the taker is gone it is due again by itself.
//!
//! Of those with the same `order` one at most is waiting, the others are held; the ids say which is next. When the one is
//! answered or has failed, the next becomes waiting in the same commit. One that is made while others are there is held, and
//! [looked at](super::order) once more when it is on disk: the others may have been answered meanwhile.

use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, Deadline, Timestamp};
use cloudlet_data::{
    Delete, DeleteOne, Documents, Error, Find, FindAndModify, IndexSpec, Insert, Namespace, Update,
    UpdateOne, Write, default_index_name, pipeline_update,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Kind;
use super::order::{release_all, releasing};
use crate::apps::records::{find_all, read, write};

/// Failed deliveries of one app that are kept; the oldest goes when there is one more.
pub(crate) const FAILED_MAX: u64 = 1000;
/// Characters of a payload that lists show.
const SHOWN_CHARS_MAX: i32 = 4096;

/// The index that tells whose turn it is.
const TURNS_INDEX: &str = "state_1_app_1_due_1";

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
    /// What it has in common with those that it must not run beside; they run in the order of their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<String>,
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
    /// An earlier one of the same order.
    Held,
    /// A person.
    Failed,
}

impl State {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Held => "held",
            State::Failed => "failed",
        }
    }
}

/// A moment as a date.
pub(crate) fn date(moment: Timestamp) -> bson::DateTime {
    bson::DateTime::from_millis(moment.millis())
}

pub(super) fn deliveries() -> Namespace {
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
    let turns = index(&["state", "app", "due"]);
    debug_assert_eq!(&*turns.name, TURNS_INDEX);
    let indexes = vec![
        turns,
        index(&["state", "due"]),
        index(&["app", "state", "made"]),
        index(&["app", "kind", "state"]),
        index(&["order", "state", "_id"]),
    ];
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

/// Which states wait.
pub(super) fn unanswered() -> RawDocumentBuf {
    rawdoc! { "$in": [State::Waiting.as_str(), State::Held.as_str()] }
}

/// How many deliveries of an app's triggers of a kind are in a state, counted to one more than `most`; those that are held
/// wait as well.
///
/// # Errors
/// Those of the database.
pub(crate) async fn count(
    documents: &dyn Documents,
    app: &AppId,
    kind: Kind,
    state: State,
    most: u64,
) -> Result<u64, Error> {
    let find = Find {
        filter: rawdoc! { "app": app.as_str(), "kind": kind.as_str(), "state": states(state) },
        limit: Some(most + 1),
        ..Find::default()
    };
    documents.count(&deliveries(), find, Deadline::NEVER).await
}

/// One state, or both that wait.
fn states(state: State) -> RawDocumentBuf {
    match state {
        State::Waiting => unanswered(),
        state => rawdoc! { "$eq": state.as_str() },
    }
}

/// Whose turn it is: apps take turns, so that however much one has waiting, the others wait for one of its deliveries and no
/// more.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// The app that had the last one.
    last: String,
}

/// What is to be invoked.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// This one; it is due again after its lease.
    Of(Box<Delivery>),
    /// Nothing of an app that is not busy, until then.
    Nobodys {
        /// When the next one is due, if there is one.
        until: Option<Timestamp>,
    },
}

impl Turns {
    /// Takes the delivery that has been due for the longest, of the next app that has one and is not busy. What it costs
    /// grows with the apps that have something waiting, not with how much.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn next(
        &mut self,
        documents: &dyn Documents,
        now: Timestamp,
        is_busy: impl Fn(&str) -> bool,
    ) -> Result<Turn, Error> {
        let (mut at, mut around, mut until) = (self.last.clone(), false, None);
        loop {
            let Some(first) = first_after(documents, &at).await? else {
                if around || self.last.is_empty() {
                    return Ok(Turn::Nobodys { until });
                }
                (at, around) = (String::new(), true);
                continue;
            };
            if around && first.app > self.last {
                return Ok(Turn::Nobodys { until });
            }
            at.clone_from(&first.app);
            let due = Timestamp(first.due.timestamp_millis());
            if due > now {
                until = Some(until.map_or(due, |until: Timestamp| until.min(due)));
            } else if !is_busy(&first.app)
                && let Some(delivery) = take(documents, now, &first.id).await?
            {
                self.last = at;
                return Ok(Turn::Of(Box::new(delivery)));
            }
        }
    }
}

/// Which delivery it is.
#[derive(Debug, Deserialize)]
struct First {
    #[serde(rename = "_id")]
    id: String,
    app: String,
    due: bson::DateTime,
}

/// The waiting delivery that is due first, of the first app after this one in the order of their names that has any.
async fn first_after(documents: &dyn Documents, app: &str) -> Result<Option<First>, Error> {
    let find = Find {
        filter: rawdoc! { "state": State::Waiting.as_str(), "app": { "$gt": app } },
        sort: Some(rawdoc! { "state": 1, "app": 1, "due": 1 }),
        projection: Some(rawdoc! { "app": 1, "due": 1 }),
        limit: Some(1),
        // Others would have it look at whatever waits.
        hint: Some(TURNS_INDEX.into()),
        ..Find::default()
    };
    let page = documents.find(&deliveries(), find, Deadline::NEVER).await?;
    page.documents.first().map(read).transpose()
}

/// Takes a delivery if it still waits and is due.
async fn take(documents: &dyn Documents, now: Timestamp, id: &str) -> Result<Option<Delivery>, Error> {
    let filter = rawdoc! {
        "_id": id,
        "state": State::Waiting.as_str(),
        "due": { "$lte": date(now) },
    };
    let change = rawdoc! { "$set": {
        "due": { "$add": [date(now), "$lease"] },
        "attempts": { "$add": ["$attempts", 1] },
        "taken": true,
    } };
    let modify = FindAndModify {
        filter,
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
pub(crate) async fn let_go(
    documents: &dyn Documents,
    ordering: &Mutex<()>,
    now: Timestamp,
) -> Result<(), Error> {
    let filter = rawdoc! {
        "state": State::Waiting.as_str(), "due": { "$gt": date(now) }, "taken": true,
    };
    let change = rawdoc! { "$set": { "due": date(now) }, "$unset": { "taken": 1 } };
    update(documents, filter, change, true).await?;
    release_all(documents, ordering).await
}

/// The delivery is answered.
///
/// # Errors
/// Those of the database.
pub(crate) async fn answered(documents: &dyn Documents, delivery: &Delivery) -> Result<(), Error> {
    let mut writes = vec![Write::Delete(
        deliveries(),
        deleting(rawdoc! { "_id": delivery.id.as_str() }, false),
    )];
    writes.extend(delivery.order.as_deref().map(releasing));
    documents.transact(writes, Deadline::NEVER).await.map(drop)
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
    let mut writes = vec![Write::Update(deliveries(), updating(filter, change, false))];
    writes.extend(delivery.order.as_deref().map(releasing));
    documents.transact(writes, Deadline::NEVER).await?;
    let find = Find {
        filter: failed_of(&delivery.app, None),
        limit: Some(FAILED_MAX + 1),
        ..Find::default()
    };
    let count = documents.count(&deliveries(), find, Deadline::NEVER).await?;
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

/// Deliveries of an app in a state, the oldest first, and those that are held after those that wait. Of a long payload the
/// beginning.
///
/// # Errors
/// Those of the database.
pub(crate) async fn list(
    documents: &dyn Documents,
    app: &AppId,
    state: State,
    most: u64,
) -> Result<Vec<Delivery>, Error> {
    let mut all = Vec::new();
    let held = (state == State::Waiting).then_some(State::Held);
    for state in std::iter::once(state).chain(held) {
        let left = most.saturating_sub(all.len() as u64);
        if left == 0 {
            break;
        }
        let find = Find {
            filter: rawdoc! { "app": app.as_str(), "state": state.as_str() },
            sort: Some(rawdoc! { "made": 1 }),
            projection: Some(shown()),
            limit: Some(left),
            ..Find::default()
        };
        let found = find_all(documents, &deliveries(), find).await?;
        for document in &found {
            all.push(read(document)?);
        }
    }
    Ok(all)
}

/// A delivery with the beginning of its payload.
fn shown() -> RawDocumentBuf {
    rawdoc! {
        "app": 1, "trigger": 1, "kind": 1, "function": 1, "state": 1, "order": 1, "due": 1, "attempts": 1, "retries": 1,
        "lease": 1, "made": 1, "error": 1, "failed": 1,
        "payload": { "$substrCP": ["$payload", 0, SHOWN_CHARS_MAX] },
    }
}

/// Sends failed deliveries of an app again, one or all. One that has an order runs when no other of it does, and before
/// those that are held. Returns how many.
///
/// # Errors
/// Those of the database.
pub(crate) async fn replay(
    documents: &dyn Documents,
    ordering: &Mutex<()>,
    app: &AppId,
    id: Option<&str>,
    now: Timestamp,
) -> Result<u64, Error> {
    let change = |state: State| {
        rawdoc! {
            "$set": { "state": state.as_str(), "due": date(now), "attempts": 0 },
            "$unset": { "error": 1, "failed": 1 },
        }
    };
    let failed = |ordered: bool| {
        let mut filter = failed_of(app.as_str(), id);
        filter.append(bson::raw::cstr!("order"), rawdoc! { "$exists": ordered });
        filter
    };
    let free = update(documents, failed(false), change(State::Waiting), true).await?;
    let ordered = update(documents, failed(true), change(State::Held), true).await?;
    if ordered > 0 {
        release_all(documents, ordering).await?;
    }
    Ok(free + ordered)
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
    let update = updating(filter, change, multi);
    let done = documents.update(&deliveries(), update, Deadline::NEVER).await?;
    match done.errors.into_iter().next() {
        Some(failed) => Err(failed.error),
        None => Ok(done.modified as u64),
    }
}

fn updating(filter: RawDocumentBuf, change: RawDocumentBuf, multi: bool) -> Update {
    Update {
        statements: vec![UpdateOne {
            filter,
            update: change,
            multi,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    }
}

fn deleting(filter: RawDocumentBuf, multi: bool) -> Delete {
    Delete {
        statements: vec![DeleteOne {
            filter,
            multi,
            ..DeleteOne::default()
        }],
        ordered: true,
    }
}

async fn remove(documents: &dyn Documents, filter: RawDocumentBuf, multi: bool) -> Result<u64, Error> {
    let delete = deleting(filter, multi);
    let done = documents.delete(&deliveries(), delete, Deadline::NEVER).await?;
    match done.errors.into_iter().next() {
        Some(failed) => Err(failed.error),
        None => Ok(done.deleted),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cloudlet_base::{OsEntropy, SystemClock};
    use cloudlet_data::Embedded;
    use cloudlet_docdb::{Config, Docs};
    use prometheus::Registry;

    use super::*;

    fn delivery(app: &str, number: i64, due: i64) -> Delivery {
        let now = date(Timestamp(due));
        Delivery {
            id: format!("{app}/t/{number:05}"),
            app: app.to_owned(),
            trigger: "t".to_owned(),
            kind: "timer".to_owned(),
            function: "f".to_owned(),
            payload: "{}".to_owned(),
            state: State::Waiting,
            order: None,
            due: now,
            attempts: 0,
            retries: 3,
            lease: 60_000,
            made: now,
            error: None,
            failed: None,
        }
    }

    async fn make_all(documents: &dyn Documents, all: impl Iterator<Item = Delivery>) {
        let writes: Vec<Write> = all.map(|one| make(&one).unwrap()).collect();
        documents.transact(writes, Deadline::NEVER).await.unwrap();
    }

    #[tokio::test]
    async fn apps_take_turns_however_much_one_has_waiting() {
        let registry = Registry::new();
        let config = Config::default();
        let docs = Docs::open(
            config,
            Arc::new(SystemClock::new()),
            Arc::new(OsEntropy),
            &registry,
        )
        .unwrap();
        let documents: Arc<dyn Documents> = Arc::new(Embedded::new(docs));
        let documents = &*documents;
        prepare(documents).await.unwrap();
        make_all(documents, (0..2000).map(|n| delivery("busy", n, 1))).await;
        make_all(documents, (0..3).map(|n| delivery("aaa", n, 10 - n))).await;
        make_all(
            documents,
            [delivery("zzz", 0, 5), delivery("zzz", 1, 500)].into_iter(),
        )
        .await;
        make_all(documents, [delivery("later", 0, 300)].into_iter()).await;

        let mut turns = Turns::default();
        let mut taken = Vec::new();
        for _ in 0..7 {
            match turns.next(documents, Timestamp(20), |_| false).await.unwrap() {
                Turn::Of(delivery) => taken.push(delivery.id),
                Turn::Nobodys { .. } => panic!("after {taken:?}"),
            }
        }
        let expected = [
            "aaa/t/00002",
            "busy/t/00000",
            "zzz/t/00000",
            "aaa/t/00001",
            "busy/t/00001",
            "aaa/t/00000",
            "busy/t/00002",
        ];
        assert_eq!(taken, expected);

        let examined = || {
            let families = registry.gather();
            let family = families
                .iter()
                .find(|f| f.name() == "cloudlet_docdb_examined_total");
            family.unwrap().get_metric()[0].get_counter().get_value()
        };
        let before = examined();
        let rest = turns
            .next(documents, Timestamp(20), |app| app == "busy")
            .await
            .unwrap();
        assert_eq!(
            rest,
            Turn::Nobodys {
                until: Some(Timestamp(300))
            }
        );
        let examined = examined() - before;
        assert!(examined < 20.0, "{examined} documents for four apps");
        match turns
            .next(documents, Timestamp(300), |app| app == "busy")
            .await
            .unwrap()
        {
            Turn::Of(delivery) => assert_eq!((delivery.app.as_str(), delivery.attempts), ("later", 1)),
            Turn::Nobodys { until } => panic!("{until:?}"),
        }
        // Its lease over, it is due again.
        let again = turns
            .next(documents, Timestamp(300), |app| app == "busy")
            .await
            .unwrap();
        assert_eq!(
            again,
            Turn::Nobodys {
                until: Some(Timestamp(500))
            }
        );
    }
}
