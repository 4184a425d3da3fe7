//! Transactions over the wire: what begins, goes on and ends one, and what a driver is told.

use bson::{Bson, Document, doc};

use crate::client::{Client, insert, open_to_all, wire};

/// A command of session `session`'s transaction `number`.
fn part(mut command: Document, session: u8, number: i64, starts: bool) -> Document {
    let id = bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: vec![session; 16],
    };
    command.insert("lsid", doc! { "id": id });
    command.insert("txnNumber", number);
    command.insert("autocommit", false);
    if starts {
        command.insert("startTransaction", true);
    }
    if !command.contains_key("$db") {
        command.insert("$db", "db");
    }
    command
}

fn commit(session: u8, number: i64) -> Document {
    part(
        doc! { "commitTransaction": 1, "$db": "admin" },
        session,
        number,
        false,
    )
}

fn abort(session: u8, number: i64) -> Document {
    part(
        doc! { "abortTransaction": 1, "$db": "admin" },
        session,
        number,
        false,
    )
}

fn inc(id: i32) -> Document {
    doc! { "update": "c", "updates": [{ "q": { "_id": id }, "u": { "$inc": { "n": 1 } } }] }
}

async fn n(client: &mut Client, id: i32) -> i32 {
    let found = client
        .ok(doc! { "find": "c", "filter": { "_id": id }, "$db": "db" })
        .await;
    let batch = found
        .get_document("cursor")
        .unwrap()
        .get_array("firstBatch")
        .unwrap();
    batch[0].as_document().unwrap().get_i32("n").unwrap()
}

#[track_caller]
fn failed(reply: &Document, code: i32, labels: &[&str]) {
    assert_eq!(reply.get_i32("code").ok(), Some(code), "{reply}");
    let seen = reply.get_array("errorLabels").cloned().unwrap_or_default();
    let labels: Vec<Bson> = labels.iter().map(|label| Bson::from(*label)).collect();
    assert_eq!(seen, labels, "{reply}");
}

const TRANSIENT: &[&str] = &["TransientTransactionError"];

#[tokio::test]
async fn a_transaction_is_seen_when_it_is_committed_and_a_repeated_commit_is_answered() {
    let wire = wire(open_to_all()).await;
    let (mut a, mut b) = (Client::connect(&wire), Client::connect(&wire));
    a.ok(insert(vec![doc! { "_id": 1, "n": 0 }])).await;
    a.ok(part(inc(1), 1, 1, true)).await;
    a.ok(part(inc(1), 1, 1, false)).await;
    assert_eq!(n(&mut b, 1).await, 0);
    a.ok(commit(1, 1)).await;
    assert_eq!(n(&mut b, 1).await, 2);
    // Any connection of the session may ask again.
    b.ok(commit(1, 1)).await;
    failed(&a.run(part(inc(1), 1, 1, false)).await, 256, &[]);
    failed(&a.run(abort(1, 1)).await, 256, &[]);
    failed(&a.run(part(inc(1), 1, 1, true)).await, 117, &[]);
    failed(&a.run(part(inc(1), 1, 0, true)).await, 225, &[]);
    failed(&a.run(commit(1, 2)).await, 251, TRANSIENT);
    a.ok(part(inc(1), 1, 2, true)).await;
    a.ok(abort(1, 2)).await;
    failed(&a.run(commit(1, 2)).await, 251, TRANSIENT);
    assert_eq!(n(&mut b, 1).await, 2);
}

#[tokio::test]
async fn of_two_that_change_a_document_one_is_told_to_try_again() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    client.ok(insert(vec![doc! { "_id": 1, "n": 0 }])).await;
    client.ok(part(inc(1), 1, 1, true)).await;
    failed(&client.run(part(inc(1), 2, 1, true)).await, 112, TRANSIENT);
    failed(&client.run(commit(2, 1)).await, 251, TRANSIENT);
    client.ok(commit(1, 1)).await;
    client.ok(part(inc(1), 2, 2, true)).await;
    client.ok(commit(2, 2)).await;
    assert_eq!(n(&mut client, 1).await, 2);
}

#[tokio::test]
async fn a_failed_statement_ends_it() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    client.ok(insert(vec![doc! { "_id": 1, "n": 0 }])).await;
    let again = doc! { "insert": "c", "documents": [{ "_id": 2 }, { "_id": 1 }] };
    let reply = client.ok(part(again, 1, 1, true)).await;
    assert_eq!(reply.get_array("writeErrors").unwrap().len(), 1);
    failed(&client.run(commit(1, 1)).await, 251, TRANSIENT);
    client.ok(part(inc(1), 1, 2, true)).await;
    failed(
        &client
            .run(part(doc! { "find": "c", "fliter": 1 }, 1, 2, false))
            .await,
        40415,
        &[],
    );
    failed(&client.run(part(inc(1), 1, 2, false)).await, 251, TRANSIENT);
    assert_eq!(n(&mut client, 1).await, 0);
}

#[tokio::test]
async fn cursors_go_on_in_their_transaction_only() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    client
        .ok(insert((0..6).map(|n| doc! { "_id": n, "n": n }).collect()))
        .await;
    client.ok(part(inc(5), 1, 1, true)).await;
    let find = doc! { "find": "c", "filter": { "n": 6 }, "batchSize": 0 };
    let found = client.ok(part(find, 1, 1, false)).await;
    let id = found.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! { "getMore": id, "collection": "c" };
    let mut outside = part(more.clone(), 1, 1, false);
    outside.remove("autocommit");
    outside.remove("txnNumber");
    assert_eq!(client.code(outside).await, 50741);
    let page = client.ok(part(more.clone(), 1, 1, false)).await;
    let page = page
        .get_document("cursor")
        .unwrap()
        .get_array("nextBatch")
        .unwrap();
    assert_eq!(page.len(), 1);
    let find = doc! { "find": "c", "batchSize": 1 };
    let found = client.ok(part(find, 1, 1, false)).await;
    let id = found.get_document("cursor").unwrap().get_i64("id").unwrap();
    client.ok(commit(1, 1)).await;
    // It went with its transaction: nobody has it any more.
    let more = doc! { "getMore": id, "collection": "c", "$db": "db" };
    assert_eq!(client.code(more).await, 43);
}

#[tokio::test]
async fn collections_and_indexes_are_made_in_one() {
    let wire = wire(open_to_all()).await;
    let (mut a, mut b) = (Client::connect(&wire), Client::connect(&wire));
    a.ok(insert(vec![doc! { "_id": 1, "n": 0 }])).await;
    let names = doc! { "listCollections": 1, "nameOnly": true, "$db": "db" };
    let count = |reply: Document| {
        let cursor = reply.get_document("cursor").unwrap();
        cursor.get_array("firstBatch").unwrap().len()
    };
    let index = |collection: &str| {
        let keys = doc! { "key": { "x": 1 }, "name": "x_1", "unique": true };
        doc! { "createIndexes": collection, "indexes": [keys] }
    };
    for (number, end) in [(1, abort(1, 1)), (2, commit(1, 2))] {
        a.ok(part(doc! { "create": "made" }, 1, number, true)).await;
        let made = a.ok(part(index("made"), 1, number, false)).await;
        let seen = ["numIndexesBefore", "numIndexesAfter"].map(|name| made.get_i32(name).unwrap());
        assert_eq!(seen, [1, 2]);
        let made = a.ok(part(index("implied"), 1, number, false)).await;
        assert!(made.get_bool("createdCollectionAutomatically").unwrap());
        let row = doc! { "insert": "made", "documents": [{ "_id": 1, "x": 1 }] };
        a.ok(part(row, 1, number, false)).await;
        assert_eq!(count(b.ok(names.clone()).await), 1);
        a.ok(end).await;
    }
    assert_eq!(count(b.ok(names).await), 3);
    let indexes = b.ok(doc! { "listIndexes": "made", "$db": "db" }).await;
    assert_eq!(count(indexes), 2);
    let again = doc! { "insert": "made", "documents": [{ "_id": 2, "x": 1 }], "$db": "db" };
    assert_eq!(b.ok(again).await.get_array("writeErrors").unwrap().len(), 1);
    // One that is there already may be asked for; another one not.
    a.ok(part(index("made"), 1, 3, true)).await;
    failed(&a.run(part(index("c"), 1, 3, false)).await, 263, &[]);
    failed(&a.run(part(doc! { "create": "c" }, 1, 4, true)).await, 48, &[]);
    // Who makes the same collection meanwhile was faster.
    a.ok(part(doc! { "create": "late" }, 1, 5, true)).await;
    b.ok(doc! { "create": "late", "$db": "db" }).await;
    failed(&a.run(commit(1, 5)).await, 112, TRANSIENT);
}

#[tokio::test]
async fn what_can_not_be_part_of_one_is_refused() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    for (command, code) in [
        (part(doc! { "count": "c" }, 1, 1, true), 263),
        (part(doc! { "drop": "c" }, 1, 1, true), 263),
        (part(doc! { "find": "c", "$db": "admin" }, 1, 1, true), 263),
        (
            part(doc! { "find": "c", "writeConcern": { "w": 1 } }, 1, 1, true),
            72,
        ),
        (part(doc! { "find": "c" }, 1, -1, true), 72),
        (
            part(
                doc! { "aggregate": "c", "pipeline": [{ "$out": "d" }], "cursor": {} },
                1,
                2,
                true,
            ),
            263,
        ),
        (doc! { "find": "c", "startTransaction": true, "$db": "db" }, 72),
        (
            doc! { "find": "c", "autocommit": false, "txnNumber": 1_i64, "$db": "db" },
            72,
        ),
        (doc! { "commitTransaction": 1, "$db": "admin" }, 251),
    ] {
        assert_eq!(client.code(command.clone()).await, code, "{command}");
    }
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_transaction() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    client.ok(insert(vec![doc! { "_id": 1, "n": 0 }])).await;
    client.ok(part(inc(1), 1, 1, true)).await;
    let id = part(doc! {}, 1, 1, false).get("lsid").cloned().unwrap();
    client.ok(doc! { "killSessions": [id], "$db": "admin" }).await;
    // Its claim on the document is gone with it.
    client.ok(part(inc(1), 2, 1, true)).await;
    client.ok(commit(2, 1)).await;
    failed(&client.run(commit(1, 1)).await, 251, TRANSIENT);
    assert_eq!(n(&mut client, 1).await, 1);
}

#[tokio::test]
async fn snapshot_reads_of_a_session_see_one_state() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    client.ok(insert(vec![doc! { "_id": 1, "n": 0 }])).await;
    let read = |at: Option<Bson>| {
        let mut concern = doc! { "level": "snapshot" };
        concern.extend(at.map(|at| ("atClusterTime".to_owned(), at)));
        let mut find = part(doc! { "find": "c", "readConcern": concern }, 1, 1, false);
        find.remove("autocommit");
        find.remove("txnNumber");
        find
    };
    let first = client.ok(read(None)).await;
    let at = first
        .get_document("cursor")
        .unwrap()
        .get("atClusterTime")
        .cloned();
    assert!(matches!(at, Some(Bson::Timestamp(_))));
    client.ok(insert(vec![doc! { "_id": 2, "n": 0 }])).await;
    let again = client.ok(read(at)).await;
    let rows = again
        .get_document("cursor")
        .unwrap()
        .get_array("firstBatch")
        .unwrap();
    assert_eq!(rows.len(), 1);
    let other = Bson::Timestamp(bson::Timestamp {
        time: 1,
        increment: 1,
    });
    assert_eq!(client.code(read(Some(other))).await, 239);
}
