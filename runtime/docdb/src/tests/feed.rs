//! Change streams: what events there are, resuming, trimming, waiting, and that the feed is the collection's history.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Timestamp};
use proptest::prelude::*;

use super::stores::on_disk;
use super::*;
use crate::kv::testing::Disk;
use crate::{BeforeChange, Code, CollectionOptions, FullDocument, Limits, Watch, WatchScope, WatchStart};

pub(super) fn scope() -> WatchScope {
    WatchScope::Collection(ns())
}

pub(super) fn begin() -> WatchStart {
    WatchStart::AtOperationTime(Timestamp {
        time: 0,
        increment: 0,
    })
}

fn stream(docs: &Docs, scope: WatchScope, start: WatchStart) -> Result<ChangeCursor> {
    let watch = Watch {
        start,
        ..Watch::default()
    };
    docs.watch(scope, watch).wait()
}

/// All events that are there, and where the stream stands then.
fn drain(docs: &Docs, mut cursor: ChangeCursor, batch: u32) -> Result<(Vec<Document>, Option<ChangeCursor>)> {
    let mut events = Vec::new();
    loop {
        let changes = docs.next_changes(cursor, Some(batch), Deadline::NEVER).wait()?;
        events.extend(
            changes
                .events
                .iter()
                .map(|event| Document::try_from(event.as_ref()).unwrap()),
        );
        match changes.cursor {
            Some(next) if changes.more => cursor = next,
            cursor => return Ok((events, cursor)),
        }
    }
}

/// All events from the beginning of the log.
pub(super) fn history(docs: &Docs, scope: WatchScope) -> Result<Vec<Document>> {
    Ok(drain(docs, stream(docs, scope, begin())?, 100)?.0)
}

fn kinds(events: &[Document]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event.get_str("operationType").unwrap())
        .collect()
}

fn token(event: &Document) -> RawDocumentBuf {
    raw(event.get_document("_id").unwrap().clone())
}

fn key(event: &Document) -> i32 {
    event.get_document("documentKey").unwrap().get_i32("_id").unwrap()
}

fn update(docs: &Docs, filter: Document, update: Document) {
    let done = docs.update(&ns(), updates(vec![update_one(filter, update)]), Deadline::NEVER);
    assert_eq!(done.wait().unwrap().modified, 1);
}

/// Applies an event to a model of its collection, as a client would that keeps a copy.
pub(super) fn replay(model: &mut BTreeMap<i32, Document>, event: &Document) {
    match event.get_str("operationType").unwrap() {
        "insert" => {
            let document = event.get_document("fullDocument").unwrap().clone();
            assert!(
                model.insert(key(event), document).is_none(),
                "inserted what is there"
            );
        }
        "replace" => {
            let document = event.get_document("fullDocument").unwrap().clone();
            assert!(
                model.insert(key(event), document).is_some(),
                "replaced what is not there"
            );
        }
        "delete" => assert!(model.remove(&key(event)).is_some(), "deleted what is not there"),
        "update" => {
            let document = model.get_mut(&key(event)).expect("updated what is not there");
            let told = event.get_document("updateDescription").unwrap();
            for truncated in told.get_array("truncatedArrays").unwrap() {
                let truncated = truncated.as_document().unwrap();
                let size = truncated.get_i32("newSize").unwrap() as usize;
                match at(document, truncated.get_str("field").unwrap()) {
                    Some(Bson::Array(array)) => array.truncate(size),
                    other => panic!("truncated {other:?}"),
                }
            }
            for (path, value) in told.get_document("updatedFields").unwrap() {
                set(document, path, Some(value.clone()));
            }
            for path in told.get_array("removedFields").unwrap() {
                set(document, path.as_str().unwrap(), None);
            }
        }
        "drop" => model.clear(),
        _ => {}
    }
}

fn at<'d>(document: &'d mut Document, path: &str) -> Option<&'d mut Bson> {
    let mut parts = path.split('.');
    let mut value = document.get_mut(parts.next()?)?;
    for part in parts {
        value = match value {
            Bson::Document(document) => document.get_mut(part)?,
            Bson::Array(array) => array.get_mut(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

fn set(document: &mut Document, path: &str, value: Option<Bson>) {
    let Some((parent, name)) = path.rsplit_once('.') else {
        match value {
            Some(value) => document.insert(path, value),
            None => document.remove(path),
        };
        return;
    };
    match (at(document, parent).expect("a parent"), value) {
        (Bson::Document(document), Some(value)) => drop(document.insert(name, value)),
        (Bson::Document(document), None) => drop(document.remove(name)),
        (Bson::Array(array), Some(value)) => match name.parse::<usize>().unwrap() {
            place if place == array.len() => array.push(value),
            place => array[place] = value,
        },
        (other, _) => panic!("a field of {other:?}"),
    }
}

/// The collection as it is.
fn documents(docs: &Docs) -> BTreeMap<i32, Document> {
    let found = all(docs, query(doc! {})).unwrap();
    found
        .into_iter()
        .map(|document| (document.get_i32("_id").unwrap(), document))
        .collect()
}

#[test]
fn an_event_has_the_shape_that_drivers_know() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1, "a": 1 }]);
    update(&docs, doc! { "_id": 1 }, doc! { "$set": { "a": 2 } });
    let events = history(&docs, scope()).unwrap();
    let fields = |event: &Document| event.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        fields(&events[0]),
        "_id operationType clusterTime wallTime fullDocument ns documentKey"
    );
    assert_eq!(
        fields(&events[1]),
        "_id operationType clusterTime wallTime ns documentKey updateDescription"
    );
    assert_eq!(
        events[1].get_document("updateDescription").expect("a document"),
        &doc! { "updatedFields": { "a": 2 }, "removedFields": [], "truncatedArrays": [] }
    );
    // The third is of the collection that was made, which only who asks for it is told.
    assert_eq!(docs.verify(Deadline::NEVER).wait().unwrap().events, 3);
}

#[test]
fn what_failed_or_changed_nothing_has_no_event() {
    let docs = memory();
    insert(
        &docs,
        [doc! { "_id": 1, "a": 1 }, doc! { "_id": 1 }, doc! { "_id": 2 }],
    );
    let nothing = update_one(doc! { "_id": 1 }, doc! { "$set": { "a": 1 } });
    docs.update(&ns(), updates(vec![nothing]), Deadline::NEVER)
        .wait()
        .unwrap();
    docs.delete(&ns(), deletes(doc! { "_id": 9 }, false), Deadline::NEVER)
        .wait()
        .unwrap();
    let writes = vec![
        Write::Insert(ns(), inserts([doc! { "_id": 5 }])),
        Write::Insert(ns(), inserts([doc! { "_id": 1 }])),
    ];
    docs.transact(writes, Deadline::NEVER).wait().unwrap_err();
    assert_eq!(kinds(&history(&docs, scope()).unwrap()), ["insert"]);
}

#[test]
fn a_stream_ends_when_its_collection_or_database_goes() {
    let docs = memory();
    let (other, database) = (Namespace::new("db", "other"), WatchScope::Database("db".into()));
    insert(&docs, [doc! { "_id": 1 }]);
    docs.rename_collection(&ns(), &other, false).wait().unwrap();
    docs.rename_collection(&other, &ns(), false).wait().unwrap();
    docs.drop_collection(&ns()).wait().unwrap();
    insert(&docs, [doc! { "_id": 2 }]);
    docs.drop_database("db").wait().unwrap();
    insert(&docs, [doc! { "_id": 3 }]);

    let first = history(&docs, scope()).unwrap();
    assert_eq!(kinds(&first), ["insert", "rename", "invalidate"]);
    assert_eq!(
        first[1].get_document("to").expect("a document"),
        &doc! { "db": "db", "coll": "other" }
    );
    let resume = WatchStart::ResumeAfter(token(&first[2]));
    let error = stream(&docs, scope(), resume).unwrap_err();
    assert_eq!(error.code(), Code::InvalidResumeToken);
    // After the event that ends it, only the invalidate is left; after that, the rest of the history.
    let resume = WatchStart::ResumeAfter(token(&first[1]));
    let (left, end) = drain(&docs, stream(&docs, scope(), resume).unwrap(), 1).unwrap();
    assert_eq!((left.len(), end.is_none()), (1, true));
    assert_eq!(left[0], first[2]);
    let start = WatchStart::StartAfter(token(&first[2]));
    let (second, _) = drain(&docs, stream(&docs, scope(), start).unwrap(), 1).unwrap();
    assert_eq!(kinds(&second), ["rename", "invalidate"], "renamed to its name");
    let start = WatchStart::StartAfter(token(&second[1]));
    let (third, _) = drain(&docs, stream(&docs, scope(), start).unwrap(), 1).unwrap();
    assert_eq!(kinds(&third), ["drop", "invalidate"]);

    let of_database = history(&docs, database).unwrap();
    assert_eq!(
        kinds(&of_database),
        [
            "insert",
            "rename",
            "rename",
            "drop",
            "insert",
            "drop",
            "dropDatabase",
            "invalidate"
        ]
    );
    assert_eq!(
        of_database[6].get_document("ns").expect("a document"),
        &doc! { "db": "db" }
    );
    let (rest, end) = (history(&docs, WatchScope::Deployment).unwrap(), of_database.len());
    assert_eq!(
        kinds(&rest)[end - 1..],
        ["insert"],
        "a deployment's stream does not end"
    );
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_scope_shows_its_own_events_and_never_the_platforms() {
    let docs = memory();
    for (database, collection) in [
        ("db", "c"),
        ("db", "d"),
        ("db", "system.x"),
        ("else", "c"),
        ("db/system", "c"),
    ] {
        let ns = Namespace::new(database, collection);
        docs.insert(&ns, inserts([doc! { "_id": 1 }]), Deadline::NEVER)
            .wait()
            .unwrap();
    }
    let count = |scope: WatchScope| history(&docs, scope).unwrap().len();
    assert_eq!(count(scope()), 1);
    assert_eq!(count(WatchScope::Database("db".into())), 2);
    assert_eq!(count(WatchScope::Deployment), 3);
    assert_eq!(
        docs.verify(Deadline::NEVER).wait().unwrap().events,
        8,
        "four collections and their documents; the platform's are not even logged"
    );
    for scope in [
        WatchScope::Database("db/system".into()),
        WatchScope::Collection(Namespace::new("/node", "c")),
        WatchScope::Database("".into()),
        WatchScope::Collection(Namespace::new("db", "")),
    ] {
        let error = stream(&docs, scope, WatchStart::Now).unwrap_err();
        assert_eq!(error.code(), Code::InvalidNamespace);
    }
}

#[test]
fn the_platforms_collections_are_logged_when_they_keep_images_and_for_the_platform_alone() {
    let docs = memory();
    let platforms = Namespace::new("db/system", "objects");
    let insert_there = |id: i32| {
        docs.insert(&platforms, inserts([doc! { "_id": id }]), Deadline::NEVER)
            .wait()
            .unwrap();
    };
    insert_there(1);
    docs.keep_images(&platforms, true).wait().unwrap();
    insert_there(2);
    let replaced = updates(vec![update_one(doc! { "_id": 2 }, doc! { "v": 1 })]);
    docs.update(&platforms, replaced, Deadline::NEVER).wait().unwrap();
    docs.delete(&platforms, deletes(doc! { "_id": 2 }, false), Deadline::NEVER)
        .wait()
        .unwrap();
    let watch = Watch {
        before_change: BeforeChange::WhenAvailable,
        start: WatchStart::Oldest,
        ..Watch::default()
    };
    let cursor = docs
        .watch(WatchScope::Platform(platforms.clone()), watch)
        .wait()
        .unwrap();
    let (events, cursor) = drain(&docs, cursor, 10).unwrap();
    assert_eq!(kinds(&events), ["insert", "replace", "delete"]);
    assert_eq!(
        events[2]
            .get_document("fullDocumentBeforeChange")
            .expect("a document"),
        &doc! { "_id": 2, "v": 1 }
    );
    docs.drop_collection(&platforms).wait().unwrap();
    let (rest, end) = drain(&docs, cursor.expect("it goes on"), 10).unwrap();
    assert!(rest.is_empty() && end.is_some(), "its end is not told");
    for scope in [
        WatchScope::Deployment,
        WatchScope::Database("db".into()),
        WatchScope::Collection(Namespace::new("db", "objects")),
    ] {
        assert!(history(&docs, scope).unwrap().is_empty());
    }
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_stream_begins_with_the_oldest_event_that_is_left() {
    let limits = Limits {
        feed_events_max: 10,
        ..Limits::default()
    };
    let docs = clocked(limits, &Arc::new(ManualClock::at_millis(1_000_000)));
    let oldest = || stream(&docs, scope(), WatchStart::Oldest).unwrap();
    let (none, _) = drain(&docs, oldest(), 100).unwrap();
    assert!(none.is_empty());
    for id in 0..100 {
        insert(&docs, [doc! { "_id": id }]);
    }
    let (left, _) = drain(&docs, oldest(), 100).unwrap();
    let first = key(&left[0]);
    assert!(first > 0 && left.len() <= 20, "the log was trimmed: {first}");
    assert_eq!(
        left.iter().map(key).collect::<Vec<_>>(),
        (first..100).collect::<Vec<_>>()
    );
}

#[test]
fn a_transactions_events_come_together_at_its_commit() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1, "v": 1 }]);
    let transaction = docs.start_transaction().unwrap();
    let bump = updates(vec![update_one(doc! { "_id": 1 }, doc! { "$inc": { "v": 1 } })]);
    transaction.update(&ns(), bump, Deadline::NEVER).wait().unwrap();
    insert(&docs, [doc! { "_id": 2 }]);
    transaction
        .insert(&ns(), inserts([doc! { "_id": 3 }]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(
        history(&docs, scope()).unwrap().len(),
        2,
        "nothing of it before the commit"
    );
    transaction.commit().wait().unwrap();
    insert(&docs, [doc! { "_id": 4 }]);
    let events = history(&docs, scope()).unwrap();
    assert_eq!(events.iter().map(key).collect::<Vec<_>>(), [1, 2, 1, 3, 4]);
    let gone = docs.start_transaction().unwrap();
    gone.insert(&ns(), inserts([doc! { "_id": 5 }]), Deadline::NEVER)
        .wait()
        .unwrap();
    gone.abort();
    assert_eq!(history(&docs, scope()).unwrap().len(), 5);
}

#[test]
fn images_are_there_when_the_collection_keeps_them() {
    let docs = memory();
    let watch = |full_document, before_change| Watch {
        full_document,
        before_change,
        start: begin(),
        ..Watch::default()
    };
    let events = |watch: Watch| {
        let cursor = docs.watch(scope(), watch).wait().unwrap();
        drain(&docs, cursor, 100).map(|(events, _)| events)
    };
    insert(&docs, [doc! { "_id": 1, "v": 1 }]);
    update(&docs, doc! { "_id": 1 }, doc! { "$set": { "v": 2 } });
    let available = || watch(FullDocument::WhenAvailable, BeforeChange::WhenAvailable);
    let seen = events(available()).unwrap();
    assert_eq!(seen[1].get("fullDocument"), Some(&Bson::Null));
    assert_eq!(seen[1].get("fullDocumentBeforeChange"), Some(&Bson::Null));
    for required in [
        watch(FullDocument::Required, BeforeChange::Off),
        watch(FullDocument::Default, BeforeChange::Required),
    ] {
        assert_eq!(events(required).unwrap_err().code(), Code::NoMatchingDocument);
    }
    docs.keep_images(&ns(), true).wait().unwrap();
    assert!(docs.keeps_images(&ns()).wait().unwrap());
    update(&docs, doc! { "_id": 1 }, doc! { "$set": { "v": 3 } });
    update(&docs, doc! { "_id": 1 }, doc! { "$set": { "v": 4 } });
    let seen = events(available()).unwrap();
    assert_eq!(
        seen[2]
            .get_document("fullDocumentBeforeChange")
            .expect("a document"),
        &doc! { "_id": 1, "v": 2 }
    );
    assert_eq!(
        seen[2].get_document("fullDocument").expect("a document"),
        &doc! { "_id": 1, "v": 3 }
    );
    let seen = events(watch(FullDocument::UpdateLookup, BeforeChange::Off)).unwrap();
    assert_eq!(
        seen[2].get_document("fullDocument").expect("a document"),
        &doc! { "_id": 1, "v": 4 }
    );
}

#[test]
fn a_pipeline_may_not_take_the_token() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1 }]);
    for stage in [doc! { "$unset": "_id" }, doc! { "$set": { "_id": 1 } }] {
        let watch = Watch {
            pipeline: vec![raw(stage)],
            start: begin(),
            ..Watch::default()
        };
        let cursor = docs.watch(scope(), watch).wait().unwrap();
        let error = drain(&docs, cursor, 1).unwrap_err();
        assert_eq!(error.code(), Code::ChangeStreamFatalError);
    }
    for (stage, code) in [
        (
            doc! { "$lookup": { "from": "c", "as": "x", "pipeline": [] } },
            Code::IllegalOperation,
        ),
        (doc! { "$out": "c" }, Code::IllegalOperation),
        (doc! { "$nonsense": 1 }, Code::Location(40_324)),
    ] {
        let watch = Watch {
            pipeline: vec![raw(stage)],
            ..Watch::default()
        };
        let error = docs.watch(scope(), watch).wait().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
}

#[test]
fn an_event_that_the_pipeline_fails_on_can_be_told_and_passed() {
    let docs = memory();
    insert(&docs, (0..3).map(|id| doc! { "_id": id, "n": id - 1 }));
    let watch = |tell_failures| Watch {
        pipeline: vec![raw(
            doc! { "$match": { "$expr": { "$gt": [{ "$divide": [1, "$fullDocument.n"] }, 0] } } },
        )],
        tell_failures,
        start: begin(),
        ..Watch::default()
    };
    let stream = |tell| docs.watch(scope(), watch(tell)).wait().unwrap();
    let stuck = drain(&docs, stream(false), 10).unwrap_err();
    assert_eq!(stuck.code(), Code::BadValue);
    let (events, _) = drain(&docs, stream(true), 10).unwrap();
    assert_eq!(events.iter().map(key).collect::<Vec<_>>(), [1, 2]);
    let failure = events[0].get_str("failure").unwrap();
    assert!(failure.contains("by zero"), "{failure}");
    assert!(events[0].get("fullDocument").is_none() && events[1].get("failure").is_none());
    // Its token is a place like any other.
    let after = Watch {
        start: WatchStart::StartAfter(token(&events[0])),
        ..watch(true)
    };
    let after = docs.watch(scope(), after).wait().unwrap();
    let (events, _) = drain(&docs, after, 10).unwrap();
    assert_eq!(events.iter().map(key).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_stream_resumes_after_a_restart() {
    let disk = Disk::new(1);
    let (seen, place) = {
        let docs = open_on(on_disk(&disk).unwrap()).unwrap();
        insert(
            &docs,
            (0..2000).map(|id| doc! { "_id": id, "text": "x".repeat(100) }),
        );
        let seen = history(&docs, scope()).unwrap();
        let now = stream(&docs, scope(), WatchStart::Now).unwrap();
        (seen, now.token())
    };
    let docs = open_on(on_disk(&disk).unwrap()).unwrap();
    let from = |start| {
        drain(&docs, stream(&docs, scope(), start).unwrap(), 700)
            .unwrap()
            .0
    };
    assert_eq!(from(begin()), seen);
    insert(&docs, [doc! { "_id": 5000 }]);
    for at in [0, 1, 999, 1999] {
        let rest = from(WatchStart::ResumeAfter(token(&seen[at])));
        assert_eq!(rest.len(), 2000 - at, "{at}");
        assert_eq!(
            rest.first().map(key),
            Some(if at == 1999 { 5000 } else { at as i32 + 1 })
        );
        let time = seen[at].get_timestamp("clusterTime").unwrap();
        assert_eq!(from(WatchStart::AtOperationTime(time)).len(), 2001 - at);
    }
    assert_eq!(
        from(WatchStart::ResumeAfter(place))
            .iter()
            .map(key)
            .collect::<Vec<_>>(),
        [5000]
    );
    // The same place of another history is not taken for this one's.
    let other = memory();
    insert(&other, (0..10).map(|id| doc! { "_id": id }));
    let error = stream(&other, scope(), WatchStart::ResumeAfter(token(&seen[1999]))).unwrap_err();
    assert_eq!(error.code(), Code::InvalidResumeToken);
}

#[test]
fn what_is_over_the_limits_is_trimmed_and_streams_are_told() {
    let (few, small, young) = (Limits::default(), Limits::default(), Limits::default());
    for limits in [
        Limits {
            feed_events_max: 50,
            ..few
        },
        Limits {
            feed_bytes_max: 5000,
            ..small
        },
        Limits {
            feed_age_max: Duration::from_secs(50),
            ..young
        },
    ] {
        let clock = Arc::new(ManualClock::at_millis(1_000_000));
        let docs = clocked(limits, &clock);
        let slow = stream(&docs, scope(), begin()).unwrap();
        insert(&docs, [doc! { "_id": -1 }]);
        let first = history(&docs, scope()).unwrap();
        for id in 0..200 {
            clock.advance(Duration::from_secs(1));
            insert(&docs, [doc! { "_id": id }]);
        }
        let kept = docs.verify(Deadline::NEVER).wait().unwrap().events;
        assert!((40..=120).contains(&kept), "{kept} events are kept");
        let lost = [
            docs.next_changes(slow, None, Deadline::NEVER).wait().map(drop),
            stream(&docs, scope(), begin()).map(drop),
            stream(&docs, scope(), WatchStart::ResumeAfter(token(&first[0]))).map(drop),
        ];
        for error in lost {
            let error = error.unwrap_err();
            assert_eq!(error.code(), Code::ChangeStreamHistoryLost);
            assert!(error.to_string().contains("feed_bytes_max"));
        }
        let time = Timestamp {
            time: 1200 - 20,
            increment: 1,
        };
        let recent = drain(
            &docs,
            stream(&docs, scope(), WatchStart::AtOperationTime(time)).unwrap(),
            7,
        );
        assert_eq!(
            recent.unwrap().0.iter().map(key).collect::<Vec<_>>(),
            (179..200).collect::<Vec<_>>()
        );
    }
}

#[test]
fn one_large_write_is_trimmed_over_the_commits_after_it() {
    let clock = Arc::new(ManualClock::at_millis(1_000_000));
    let limits = Limits {
        feed_bytes_max: 200_000,
        ..Limits::default()
    };
    let docs = clocked(limits, &clock);
    insert(
        &docs,
        (0..3000).map(|id| doc! { "_id": id, "text": "x".repeat(1000) }),
    );
    for id in 3000..3010 {
        insert(&docs, [doc! { "_id": id }]);
    }
    let kept = docs.verify(Deadline::NEVER).wait().unwrap().events;
    assert!((100..300).contains(&kept), "{kept} events are kept");
}

#[test]
fn a_log_that_is_turned_off_is_empty() {
    let limits = Limits {
        feed_bytes_max: 0,
        ..Limits::default()
    };
    let docs = clocked(limits, &Arc::new(ManualClock::at_millis(1)));
    insert(&docs, [doc! { "_id": 1 }]);
    assert_eq!(docs.verify(Deadline::NEVER).wait().unwrap().events, 0);
    let error = stream(&docs, scope(), WatchStart::Now).unwrap_err();
    assert_eq!(error.code(), Code::CommandNotSupported);
}

#[test]
fn a_stream_that_waits_hears_of_its_own_events() {
    let docs = memory();
    let cursor = stream(&docs, scope(), WatchStart::Now).unwrap();
    let waiting = docs.changed(&cursor);
    let waiter = std::thread::spawn(move || waiting.wait());
    insert(&docs, [doc! { "_id": 1 }]);
    waiter.join().unwrap().unwrap();
    // One that comes late hears of it at once.
    docs.changed(&cursor).wait().unwrap();
    let (events, cursor) = drain(&docs, cursor, 10).unwrap();
    assert_eq!(events.len(), 1);
    // Dropping stops the waiting, and a close ends it.
    drop(docs.changed(cursor.as_ref().unwrap()));
    let waiting = docs.changed(&cursor.unwrap());
    drop(docs);
    assert_eq!(waiting.wait().unwrap_err().code(), Code::ShutdownInProgress);
}

/// A stream about little waited while others wrote, and was told that its place was lost though none of its events
/// was: it has to be woken now and then to move on.
#[test]
fn a_waiting_stream_moves_on_with_the_others_events() {
    let limits = Limits {
        feed_events_max: 3000,
        ..Limits::default()
    };
    let docs = clocked(limits, &Arc::new(ManualClock::at_millis(1)));
    let quiet = WatchScope::Collection(Namespace::new("db", "quiet"));
    let mut cursor = stream(&docs, quiet, WatchStart::Now).unwrap();
    for round in 0..10 {
        let waiting = docs.changed(&cursor);
        insert(&docs, (0..1100).map(|id| doc! { "_id": round * 1100 + id }));
        waiting.wait().unwrap();
        let changes = docs.next_changes(cursor, None, Deadline::NEVER).wait().unwrap();
        assert!(changes.events.is_empty());
        cursor = changes.cursor.unwrap();
    }
}

#[test]
fn waiting_is_bounded() {
    let limits = Limits {
        listeners_max: 1,
        ..Limits::default()
    };
    let docs = clocked(limits, &Arc::new(ManualClock::at_millis(1)));
    let cursor = stream(&docs, scope(), WatchStart::Now).unwrap();
    let first = docs.changed(&cursor);
    assert_eq!(
        docs.changed(&cursor).wait().unwrap_err().code(),
        Code::TooManyRequests
    );
    drop(first);
    insert(&docs, [doc! { "_id": 1 }]);
    docs.changed(&cursor).wait().unwrap();
}

#[test]
fn a_slow_stream_sees_all_that_others_wrote_meanwhile() {
    let docs = memory();
    let cursor = stream(&docs, WatchScope::Deployment, WatchStart::Now).unwrap();
    let mut seen = 0;
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let docs = docs.clone();
            threads.spawn(move || {
                for id in 0..100 {
                    insert(&docs, [doc! { "_id": thread * 100 + id }]);
                }
            });
        }
        let mut cursor = cursor;
        let mut last = String::new();
        while seen < 400 {
            docs.changed(&cursor).wait().unwrap();
            let changes = docs
                .next_changes(cursor, Some(3), Deadline::NEVER)
                .wait()
                .unwrap();
            for event in &changes.events {
                let token = event
                    .get_document("_id")
                    .unwrap()
                    .get_str("_data")
                    .unwrap()
                    .to_owned();
                assert!(token > last, "in order and once");
                last = token;
                seen += 1;
            }
            cursor = changes.cursor.unwrap();
        }
    });
    assert_eq!(seen, 400);
}

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    Insert(i32, Document),
    Update(i32, Document),
    Delete(i32),
    Drop,
}

fn value() -> impl Strategy<Value = Bson> {
    let scalar = prop_oneof![
        (0..4_i32).prop_map(Bson::from),
        Just(Bson::Double(1.0)),
        "[ab]{0,3}".prop_map(Bson::from),
        Just(Bson::Null)
    ];
    scalar.prop_recursive(3, 20, 4, |inner| {
        let name = prop::sample::select(vec!["a", "b", "0", "long_name"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Bson::Array),
            prop::collection::vec((name, inner), 0..4).prop_map(|fields| {
                Bson::Document(
                    fields
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}

fn step() -> impl Strategy<Value = Step> {
    let document = || (value(), value()).prop_map(|(a, b)| doc! { "a": a, "b": b });
    let path = prop::sample::select(vec!["a", "b", "a.a", "a.0", "b.a.b", "c"]);
    let update = prop_oneof![
        4 => (path.clone(), value()).prop_map(|(path, value)| doc! { "$set": { path: value } }),
        2 => path.clone().prop_map(|path| doc! { "$unset": { path: "" } }),
        2 => (path.clone(), value()).prop_map(|(path, value)| doc! { "$push": { path: value } }),
        1 => path.prop_map(|path| doc! { "$pop": { path: -1 } }),
        1 => Just(doc! { "$rename": { "a": "d" } }),
        2 => document(),
        3 => document().prop_map(|new| doc! { "$pipeline": [{ "$replaceWith": { "$mergeObjects": [{ "_id": "$_id" }, { "$literal": new }] } }] }),
        1 => Just(doc! { "$pipeline": [{ "$replaceWith": { "_id": "$_id", "b": "$b", "a": "$a" } }] }),
    ];
    prop_oneof![
        3 => (0..4_i32, document()).prop_map(|(id, document)| Step::Insert(id, document)),
        8 => (0..4_i32, update).prop_map(|(id, update)| Step::Update(id, update)),
        1 => (0..4_i32).prop_map(Step::Delete),
        1 => Just(Step::Drop),
    ]
}

/// The fields of a document in the order of their names: an event does not tell that order.
fn sorted(documents: &BTreeMap<i32, Document>) -> BTreeMap<i32, BTreeMap<String, Bson>> {
    let fields = |document: &Document| document.clone().into_iter().collect();
    documents
        .iter()
        .map(|(id, document)| (*id, fields(document)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replaying_the_feed_gives_the_collection(steps in prop::collection::vec(step(), 1..30)) {
        let docs = memory();
        for step in &steps {
            match step {
                Step::Insert(id, document) => {
                    let mut whole = doc! { "_id": id };
                    whole.extend(document.clone());
                    insert(&docs, [whole]);
                }
                Step::Update(id, update) => {
                    // Some fail, which must leave no event.
                    let statement = update_one(doc! { "_id": id }, update.clone());
                    docs.update(&ns(), updates(vec![statement]), Deadline::NEVER).wait().unwrap();
                }
                Step::Delete(id) => {
                    docs.delete(&ns(), deletes(doc! { "_id": id }, false), Deadline::NEVER).wait().unwrap();
                }
                Step::Drop => drop(docs.drop_collection(&ns()).wait().unwrap()),
            }
        }
        let mut model = BTreeMap::new();
        for event in history(&docs, WatchScope::Deployment).unwrap() {
            replay(&mut model, &event);
        }
        prop_assert_eq!(sorted(&model), sorted(&documents(&docs)));
        docs.verify(Deadline::NEVER).wait().unwrap();
    }
}

/// A stream from the beginning of the log, with whole documents before and after, and with or without fragments.
fn whole(docs: &Docs, split: bool, start: WatchStart) -> Result<ChangeCursor> {
    let stage = doc! { "$changeStreamSplitLargeEvent": {} };
    let watch = Watch {
        pipeline: if split { vec![raw(stage)] } else { Vec::new() },
        before_change: BeforeChange::Required,
        full_document: FullDocument::Required,
        start,
        ..Watch::default()
    };
    docs.watch(scope(), watch).wait()
}

#[test]
fn a_large_event_comes_in_fragments() {
    const MAX: usize = 64 * 1024;
    let docs = limited(Limits {
        document_bytes_max: MAX,
        ..Limits::default()
    });
    let options = CollectionOptions {
        images: true,
        ..CollectionOptions::default()
    };
    docs.create_collection_with(&ns(), options).wait().unwrap();
    insert(&docs, [doc! { "_id": 1, "value": "q".repeat(MAX - 1000) }]);
    update(
        &docs,
        doc! { "_id": 1 },
        doc! { "$set": { "value": "z".repeat(MAX - 1000) } },
    );
    update(&docs, doc! { "_id": 1 }, doc! { "$set": { "value": "short" } });
    let refused = drain(&docs, whole(&docs, false, begin()).unwrap(), 100).unwrap_err();
    assert_eq!(refused.code(), Code::BSONObjectTooLarge);
    let fragments = |events: &[Document]| -> Vec<Option<(i32, i32)>> {
        let numbers = events.iter().map(|event| {
            let number = event.get_document("splitEvent").ok()?;
            Some((number.get_i32("fragment").unwrap(), number.get_i32("of").unwrap()))
        });
        numbers.collect()
    };
    let mut all = Vec::new();
    for batch in [1, 2, 100] {
        let (events, _) = drain(&docs, whole(&docs, true, begin()).unwrap(), batch).unwrap();
        assert_eq!(
            fragments(&events),
            [None, Some((1, 3)), Some((2, 3)), Some((3, 3)), None]
        );
        all = events;
    }
    // Together they are the event.
    let names: Vec<&str> = all[1..4]
        .iter()
        .flat_map(|event| event.keys().map(String::as_str))
        .collect();
    for name in [
        "operationType",
        "ns",
        "documentKey",
        "updateDescription",
        "fullDocument",
        "fullDocumentBeforeChange",
    ] {
        assert_eq!(names.iter().filter(|there| **there == name).count(), 1, "{name}");
    }
    // After each of them the stream goes on with the next.
    for (place, event) in all.iter().enumerate() {
        let start = WatchStart::ResumeAfter(token(event));
        let (rest, _) = drain(&docs, whole(&docs, true, start).unwrap(), 100).unwrap();
        assert_eq!(rest, all[place + 1..], "after {place}");
    }
    let without = whole(&docs, false, WatchStart::ResumeAfter(token(&all[1])));
    assert_eq!(without.unwrap_err().code(), Code::ChangeStreamFatalError);
    let malformed = |pipeline: Vec<Document>| {
        let watch = Watch {
            pipeline: pipeline.into_iter().map(raw).collect(),
            ..Watch::default()
        };
        docs.watch(scope(), watch).wait().unwrap_err().code()
    };
    let stage = || doc! { "$changeStreamSplitLargeEvent": {} };
    assert_eq!(
        malformed(vec![stage(), doc! { "$match": {} }]),
        Code::Location(7_182_802)
    );
    assert_eq!(malformed(vec![stage(), stage()]), Code::Location(7_182_802));
    assert_eq!(
        malformed(vec![doc! { "$changeStreamSplitLargeEvent": { "a": 1 } }]),
        Code::Location(7_182_800)
    );
}
