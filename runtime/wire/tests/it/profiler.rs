//! The profiler: what it writes down, and when.

use bson::{Document, doc};
use cloudlet_wire::Settings;

use crate::client::{Client, open_to_all, wire};
use crate::collections::{batch, in_db, listed};

async fn client() -> Client {
    Client::connect(&wire(open_to_all()).await)
}

async fn profiled(client: &mut Client, filter: Document) -> Vec<Document> {
    batch(
        &client
            .ok(in_db(doc! { "find": "system.profile", "filter": filter }))
            .await,
    )
}

#[tokio::test]
async fn commands_are_written_down_while_it_is_told_to() {
    let mut client = client().await;
    client
        .ok(in_db(
            doc! { "insert": "c", "documents": [{ "_id": 1 }, { "_id": 2 }] },
        ))
        .await;
    let reply = client.ok(in_db(doc! { "profile": 2 })).await;
    assert_eq!(reply.get_i32("was").unwrap(), 0);
    assert_eq!(reply.get_i32("slowms").unwrap(), 100);
    client.ok(in_db(doc! { "find": "c", "comment": "seen" })).await;
    client.ok(in_db(doc! { "distinct": "c", "key": "_id" })).await;
    client
        .code(in_db(doc! { "find": "c", "filter": { "$nope": 1 } }))
        .await;
    // Of another database, and what keeps a connection up, nothing is written.
    client.ok(doc! { "find": "c", "$db": "other" }).await;
    client.ok(in_db(doc! { "ping": 1 })).await;
    let reply = client.ok(in_db(doc! { "profile": -1 })).await;
    assert_eq!(reply.get_i32("was").unwrap(), 2);
    let found = profiled(&mut client, doc! {}).await;
    let [find, distinct, failed] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(find.get_str("op").unwrap(), "query");
    assert_eq!(find.get_str("ns").unwrap(), "db.c");
    assert_eq!(
        find.get_document("command").unwrap().get_str("comment").unwrap(),
        "seen"
    );
    assert_eq!(find.get_i32("nreturned").unwrap(), 2);
    assert!(find.get_i64("millis").unwrap() >= 0 && find.get_datetime("ts").is_ok());
    assert_eq!(distinct.get_str("op").unwrap(), "command");
    assert_eq!(
        distinct
            .get_document("command")
            .unwrap()
            .get_str("distinct")
            .unwrap(),
        "c"
    );
    assert_eq!(failed.get_i32("errCode").unwrap(), 2);
    let row = listed(&mut client, "system.profile").await;
    assert_eq!(
        row.get_document("options").unwrap(),
        &doc! { "capped": true, "size": 1024 * 1024 }
    );
    assert_eq!(client.code(in_db(doc! { "drop": "system.profile" })).await, 20);
    client.ok(in_db(doc! { "profile": 0 })).await;
    let count = profiled(&mut client, doc! {}).await.len();
    client.ok(in_db(doc! { "find": "c" })).await;
    assert_eq!(profiled(&mut client, doc! {}).await.len(), count);
    client.ok(in_db(doc! { "drop": "system.profile" })).await;
}

#[tokio::test]
async fn only_slow_ones_are_if_that_is_wanted() {
    let mut client = client().await;
    client.ok(in_db(doc! { "profile": 1, "slowms": 60_000 })).await;
    client.ok(in_db(doc! { "find": "c" })).await;
    assert!(profiled(&mut client, doc! {}).await.is_empty());
    // Everything takes that long.
    client.ok(in_db(doc! { "profile": 1, "slowms": 0 })).await;
    client.ok(in_db(doc! { "find": "c" })).await;
    assert_eq!(profiled(&mut client, doc! { "ns": "db.c" }).await.len(), 1);
    client.ok(in_db(doc! { "profile": 1, "sampleRate": 0.0 })).await;
    client.ok(in_db(doc! { "find": "c" })).await;
    assert_eq!(profiled(&mut client, doc! { "ns": "db.c" }).await.len(), 1);
    for (command, code) in [
        (doc! { "profile": "on" }, 14),
        (doc! { "profile": 1, "sampleRate": 2 }, 2),
        (doc! { "profile": 1, "filter": {} }, 115),
        (doc! { "profile": 1, "wrong": 1 }, 40_415),
    ] {
        assert_eq!(client.code(in_db(command.clone())).await, code, "{command}");
    }
    // It ends with its database.
    client.ok(in_db(doc! { "profile": 2 })).await;
    client.ok(in_db(doc! { "dropDatabase": 1 })).await;
    let reply = client.ok(in_db(doc! { "profile": -1 })).await;
    assert_eq!(reply.get_i32("was").unwrap(), 0);
}

#[tokio::test]
async fn it_needs_the_right_to_manage_the_database() {
    let mut stranger = Client::connect(&wire(Settings::default()).await);
    assert_eq!(stranger.code(in_db(doc! { "profile": 2 })).await, 13);
}
