//! Change streams over the wire: how one is opened, goes on, waits, and ends.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use cloudlet_base::{OsEntropy, SystemClock};
use cloudlet_data::{Documents, Embedded};
use cloudlet_docdb::{Config, Docs};
use cloudlet_wire::{Limits, Settings, Wire};
use tokio::time::timeout;

use crate::client::{Client, insert, open_to_all, wire, wire_over};

/// Longer than a test may take: who waits so long was not woken.
const LONG_MS: i32 = 120_000;

fn watch(options: Document) -> Document {
    doc! { "aggregate": "c", "pipeline": [{ "$changeStream": options }], "cursor": {}, "$db": "db" }
}

fn more(id: i64, wait_ms: i32) -> Document {
    doc! { "getMore": id, "collection": "c", "maxTimeMS": wait_ms, "$db": "db" }
}

fn cursor(reply: &Document) -> (i64, Vec<Document>, Document) {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = cursor
        .get_array("firstBatch")
        .or_else(|_| cursor.get_array("nextBatch"))
        .unwrap();
    let events = batch.iter().map(|event| event.as_document().unwrap().clone());
    let token = cursor.get_document("postBatchResumeToken").unwrap();
    (cursor.get_i64("id").unwrap(), events.collect(), token.clone())
}

fn kinds(events: &[Document]) -> Vec<&str> {
    let kind = |event| Document::get_str(event, "operationType").unwrap();
    events.iter().map(kind).collect()
}

fn ids(events: &[Document]) -> Vec<i32> {
    let id = |event: &Document| event.get_document("documentKey")?.get_i32("_id");
    events.iter().map(|event| id(event).unwrap()).collect()
}

/// Opens a stream; gives its cursor.
async fn open(client: &mut Client, options: Document) -> i64 {
    let (id, events, _) = cursor(&client.ok(watch(options)).await);
    assert!(id != 0 && events.is_empty(), "{events:?}");
    id
}

/// Sends a getMore that waits, and returns when it does: another one finds the cursor in use.
async fn wait(waiting: &mut Client, other: &mut Client, id: i64) {
    waiting.send(0, &more(id, LONG_MS), &[]).await;
    while other.run(more(id, 1)).await.get_i32("code").ok() != Some(12051) {}
}

#[tokio::test]
async fn a_stream_tells_of_changes_and_ends_with_its_collection() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    let id = open(&mut client, doc! { "fullDocument": "updateLookup" }).await;
    let (same, events, before) = cursor(&client.ok(more(id, 1)).await);
    assert!(same == id && events.is_empty());
    client
        .ok(insert(vec![doc! { "_id": 1, "n": 1 }, doc! { "_id": 2 }]))
        .await;
    let update = doc! { "q": { "_id": 1 }, "u": { "$set": { "n": 2 } } };
    client
        .ok(doc! { "update": "c", "updates": [update], "$db": "db" })
        .await;
    let mut bounded = more(id, LONG_MS);
    bounded.insert("batchSize", 2);
    let (_, events, token) = cursor(&client.ok(bounded).await);
    assert_eq!(kinds(&events), ["insert", "insert"]);
    assert_eq!(&token, events[1].get_document("_id").unwrap());
    assert!(token.get_str("_data").unwrap() > before.get_str("_data").unwrap());
    let (_, events, _) = cursor(&client.ok(more(id, LONG_MS)).await);
    assert_eq!(kinds(&events), ["update"]);
    assert_eq!(
        events[0].get_document("fullDocument").unwrap(),
        &doc! { "_id": 1, "n": 2 }
    );
    client.ok(doc! { "drop": "c", "$db": "db" }).await;
    let (end, events, token) = cursor(&client.ok(more(id, LONG_MS)).await);
    assert_eq!(kinds(&events), ["drop", "invalidate"]);
    assert_eq!(end, 0);
    assert_eq!(client.code(more(id, 1)).await, 43);
    assert_eq!(
        client.code(watch(doc! { "resumeAfter": token.clone() })).await,
        260
    );
    client.ok(watch(doc! { "startAfter": token })).await;
}

#[tokio::test]
async fn databases_and_the_whole_deployment_are_watched() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    let all = |db: &str, options: Document| doc! { "aggregate": 1, "pipeline": [{ "$changeStream": options }], "cursor": {}, "$db": db };
    let (one, _, _) = cursor(&client.ok(all("db", doc! {})).await);
    let reply = client
        .ok(all("admin", doc! { "allChangesForCluster": true }))
        .await;
    assert_eq!(
        reply.get_document("cursor").unwrap().get_str("ns").unwrap(),
        "admin.$cmd.aggregate"
    );
    let (every, _, _) = cursor(&reply);
    client.ok(insert(vec![doc! { "_id": 1 }])).await;
    client
        .ok(doc! { "insert": "d", "documents": [{ "_id": 2 }], "$db": "other" })
        .await;
    for (id, db, seen) in [(one, "db", &[1][..]), (every, "admin", &[1, 2])] {
        let more = doc! { "getMore": id, "collection": "$cmd.aggregate", "maxTimeMS": LONG_MS, "$db": db };
        let (_, events, _) = cursor(&client.ok(more).await);
        assert_eq!(ids(&events), seen);
    }
    assert_eq!(client.code(all("admin", doc! {})).await, 73);
    assert_eq!(
        client
            .code(all("db", doc! { "allChangesForCluster": true }))
            .await,
        72
    );
    assert_eq!(
        client.code(watch(doc! { "allChangesForCluster": true })).await,
        72
    );
}

#[tokio::test]
async fn a_waiting_get_more_wakes_at_an_event_and_takes_no_command_s_place() {
    let limits = Limits {
        commands_max: 1,
        ..Limits::default()
    };
    let settings = Settings {
        limits,
        ..open_to_all()
    };
    let wire = wire(settings).await;
    let (mut a, mut b) = (Client::connect(&wire), Client::connect(&wire));
    let id = open(&mut a, doc! {}).await;
    wait(&mut a, &mut b, id).await;
    b.ok(insert(vec![doc! { "_id": 7 }])).await;
    let (_, events, _) = cursor(&a.reply().await.unwrap());
    assert_eq!(ids(&events), [7]);
}

#[tokio::test]
async fn waiting_ends_when_the_cursor_is_killed_the_peer_goes_or_the_node_stops() {
    let wire = wire(open_to_all()).await;
    let mut other = Client::connect(&wire);
    let mut killed = Client::connect(&wire);
    let id = open(&mut killed, doc! {}).await;
    wait(&mut killed, &mut other, id).await;
    other
        .ok(doc! { "killCursors": "c", "cursors": [id], "$db": "db" })
        .await;
    let reply = killed.reply().await.unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 237);
    assert_eq!(reply.get("errorLabels"), None);

    let mut leaving = Client::connect(&wire);
    let id = open(&mut leaving, doc! {}).await;
    wait(&mut leaving, &mut other, id).await;
    drop(leaving);
    timeout(Duration::from_secs(20), async {
        while other.code(more(id, 1)).await != 43 {}
    })
    .await
    .expect("the cursor goes with the peer");

    let mut stopped = Client::connect(&wire);
    let id = open(&mut stopped, doc! {}).await;
    wait(&mut stopped, &mut other, id).await;
    stopped.stop.send(true).unwrap();
    let reply = stopped.reply().await.unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 11600);
    let labels = vec![Bson::from("ResumableChangeStreamError")];
    assert_eq!(reply.get_array("errorLabels").unwrap(), &labels);
}

#[tokio::test]
async fn a_stream_begins_where_it_is_told() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    let id = open(&mut client, doc! {}).await;
    client.ok(insert(vec![doc! { "_id": 1 }])).await;
    let time = client
        .ok(doc! { "ping": 1, "$db": "db" })
        .await
        .get_timestamp("operationTime")
        .unwrap();
    client
        .ok(insert((2..5).map(|id| doc! { "_id": id }).collect()))
        .await;
    let (_, events, _) = cursor(&client.ok(more(id, LONG_MS)).await);
    assert_eq!(ids(&events), [1, 2, 3, 4]);
    let token = events[1].get_document("_id").unwrap();
    assert_eq!(events[0].get_timestamp("clusterTime").unwrap(), time);
    let after = bson::Timestamp {
        increment: time.increment + 1,
        ..time
    };
    for (start, seen) in [
        (doc! { "resumeAfter": token }, &[3, 4][..]),
        (doc! { "startAfter": token }, &[3, 4]),
        (doc! { "startAtOperationTime": time }, &[1, 2, 3, 4]),
        (doc! { "startAtOperationTime": after }, &[2, 3, 4]),
    ] {
        let (id, events, _) = cursor(&client.ok(watch(start.clone())).await);
        assert_eq!(ids(&events), seen, "{start}");
        // A batch of none looks at nothing, and loses nothing.
        let mut empty = watch(start);
        empty.insert("cursor", doc! { "batchSize": 0 });
        let (other, none, _) = cursor(&client.ok(empty).await);
        assert!(none.is_empty() && other != id);
        let (_, events, _) = cursor(&client.ok(more(other, LONG_MS)).await);
        assert_eq!(ids(&events), seen);
    }
    for (options, code) in [
        (doc! { "resumeAfter": token, "startAfter": token }, 50865),
        (doc! { "resumeAfter": token, "startAtOperationTime": time }, 40674),
        (doc! { "resumeAfter": { "_data": "00" } }, 260),
        (doc! { "startAtOperationTime": 1 }, 14),
        (doc! { "fullDocument": "sometimes" }, 2),
        (doc! { "showMigrationEvents": true }, 115),
        (doc! { "nonsense": 1 }, 40415),
    ] {
        assert_eq!(client.code(watch(options.clone())).await, code, "{options}");
    }
    let late = doc! { "aggregate": "c", "pipeline": [{ "$match": {} }, { "$changeStream": {} }], "cursor": {}, "$db": "db" };
    assert_eq!(client.code(late).await, 40602);
    let mut local = watch(doc! {});
    local.insert("readConcern", doc! { "level": "local" });
    assert_eq!(client.code(local).await, 72);
    let no_id = doc! { "aggregate": "c", "pipeline": [{ "$changeStream": {} }, { "$unset": "_id" }], "cursor": {}, "$db": "db" };
    let (id, _, _) = cursor(&client.ok(no_id).await);
    client.ok(insert(vec![doc! { "_id": 5 }])).await;
    assert_eq!(client.code(more(id, LONG_MS)).await, 280);
    assert_eq!(client.code(more(id, LONG_MS)).await, 43);
}

#[tokio::test]
async fn collections_and_indexes_are_told_of_when_asked_for() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    let plain = open(&mut client, doc! {}).await;
    let all = open(&mut client, doc! { "showExpandedEvents": true }).await;
    client.ok(doc! { "create": "c", "$db": "db" }).await;
    let keys = doc! { "key": { "x": 1 }, "name": "x_1" };
    let index = doc! { "createIndexes": "c", "indexes": [keys], "$db": "db" };
    client.ok(index.clone()).await;
    client.ok(index).await;
    client
        .ok(doc! { "dropIndexes": "c", "index": "x_1", "$db": "db" })
        .await;
    let row = doc! { "_id": 1, "a": { "1": 1, "b": "x".repeat(50) } };
    client.ok(insert(vec![row])).await;
    let update = doc! { "q": { "_id": 1 }, "u": { "$set": { "a.1": 2 } } };
    client
        .ok(doc! { "update": "c", "updates": [update], "$db": "db" })
        .await;
    client
        .ok(doc! { "renameCollection": "db.c", "to": "db.d", "$db": "admin" })
        .await;
    let (_, events, _) = cursor(&client.ok(more(plain, LONG_MS)).await);
    assert_eq!(kinds(&events), ["insert", "update", "rename", "invalidate"]);
    assert_eq!(events[2].get("operationDescription"), None);
    let (_, events, _) = cursor(&client.ok(more(all, LONG_MS)).await);
    let seen = [
        "create",
        "createIndexes",
        "dropIndexes",
        "insert",
        "update",
        "rename",
        "invalidate",
    ];
    assert_eq!(kinds(&events), seen);
    let described = |at: usize| events[at].get_document("operationDescription").unwrap();
    assert_eq!(
        described(1),
        &doc! { "indexes": [{ "v": 2, "key": { "x": 1 }, "name": "x_1" }] }
    );
    assert_eq!(described(2), described(1));
    assert_eq!(described(5), &doc! { "to": { "db": "db", "coll": "d" } });
    let update = events[4].get_document("updateDescription").unwrap();
    assert_eq!(
        update.get_document("disambiguatedPaths").unwrap(),
        &doc! { "a.1": ["a", "1"] }
    );
}

#[tokio::test]
async fn what_was_made_is_told_by_its_kind() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let stream = doc! { "$changeStream": { "showExpandedEvents": true } };
    let watch = doc! { "aggregate": 1, "pipeline": [stream], "cursor": {}, "$db": "db" };
    let (id, _, _) = cursor(&client.ok(watch).await);
    for command in [
        doc! { "create": "c", "$db": "db" },
        doc! { "create": "v", "viewOn": "c", "$db": "db" },
        doc! { "create": "t", "timeseries": { "timeField": "at" }, "$db": "db" },
    ] {
        client.ok(command).await;
    }
    let more = doc! { "getMore": id, "collection": "$cmd.aggregate", "$db": "db" };
    let (_, events, _) = cursor(&client.ok(more).await);
    let told: Vec<_> = events
        .iter()
        .map(|event| event.get_str("nsType").unwrap())
        .collect();
    assert_eq!(told, ["collection", "view", "timeseries"]);
}

async fn wire_with(limits: cloudlet_docdb::Limits) -> Wire {
    let config = Config {
        cache_bytes: 4 << 20,
        readers: 1,
        limits,
        ..Config::default()
    };
    let clock = Arc::new(SystemClock::new());
    let docs = Docs::open(config, clock, Arc::new(OsEntropy), &prometheus::Registry::new());
    let documents: Arc<dyn Documents> = Arc::new(Embedded::new(docs.unwrap()));
    wire_over(documents, open_to_all(), prometheus::Registry::new()).await
}

#[tokio::test]
async fn without_a_change_log_the_setting_is_named() {
    let limits = cloudlet_docdb::Limits {
        feed_bytes_max: 0,
        ..cloudlet_docdb::Limits::default()
    };
    let mut client = Client::connect(&wire_with(limits).await);
    let reply = client.run(watch(doc! {})).await;
    assert_eq!(reply.get_i32("code").unwrap(), 40573);
    assert!(
        reply
            .get_str("errmsg")
            .unwrap()
            .contains("database.change_log_bytes")
    );
}

#[tokio::test]
async fn history_that_is_gone_is_told() {
    let limits = cloudlet_docdb::Limits {
        feed_events_max: 1,
        ..cloudlet_docdb::Limits::default()
    };
    let mut client = Client::connect(&wire_with(limits).await);
    let (id, _, token) = cursor(&client.ok(watch(doc! {})).await);
    for n in 0..5 {
        client.ok(insert(vec![doc! { "_id": n }])).await;
    }
    let reply = client.run(more(id, LONG_MS)).await;
    assert_eq!(reply.get_i32("code").unwrap(), 286);
    let labels = vec![Bson::from("NonResumableChangeStreamError")];
    assert_eq!(reply.get_array("errorLabels").unwrap(), &labels);
    assert_eq!(client.code(watch(doc! { "resumeAfter": token })).await, 286);
}
