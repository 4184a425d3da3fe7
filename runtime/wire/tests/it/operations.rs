//! The commands at work: listed, and ended.

use bson::{Document, doc};
use cloudlet_wire::Settings;

use crate::client::{Client, open_to_all, wire};

/// Longer than any test takes.
const LONG_MS: i32 = 60_000;

fn settings() -> Settings {
    Settings {
        test_commands: true,
        ..open_to_all()
    }
}

/// Lets a command wait before it is carried out.
async fn block(client: &mut Client, command: &str) {
    let data = doc! { "failCommands": [command], "blockConnection": true, "blockTimeMS": LONG_MS };
    let order =
        doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data, "$db": "admin" };
    client.ok(order).await;
}

/// The operations that a filter matches, as soon as there are some.
async fn listed(client: &mut Client, filter: Document) -> Vec<Document> {
    loop {
        let mut command = doc! { "currentOp": 1, "$db": "admin" };
        command.extend(filter.clone());
        let reply = client.ok(command).await;
        let found = reply.get_array("inprog").unwrap();
        if !found.is_empty() {
            return found
                .iter()
                .map(|row| row.as_document().unwrap().clone())
                .collect();
        }
    }
}

#[tokio::test]
async fn a_command_at_work_is_listed_and_can_be_ended() {
    let wire = wire(settings()).await;
    let (mut slow, mut other) = (Client::connect(&wire), Client::connect(&wire));
    slow.ok(doc! { "hello": 1, "client": { "application": { "name": "reports" } }, "$db": "admin" })
        .await;
    block(&mut other, "find").await;
    let find = doc! { "find": "c", "filter": { "a": 1 }, "$db": "db" };
    slow.send(0, &find, &[]).await;
    let found = listed(&mut other, doc! { "ns": "db.c" }).await;
    let [row] = &found[..] else { panic!("{found:?}") };
    assert_eq!(row.get_str("op").unwrap(), "query");
    assert_eq!(row.get_str("client").unwrap(), "memory:1");
    assert_eq!(row.get_str("appName").unwrap(), "reports");
    assert_eq!(row.get_document("command").unwrap(), &find);
    assert!(row.get_i64("secs_running").unwrap() >= 0 && row.get_bool("active").unwrap());
    let kill = doc! { "killOp": 1, "op": row.get_i32("opid").unwrap(), "$db": "admin" };
    other.ok(kill).await;
    let reply = slow.reply().await.unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 11601);
    let stage = doc! { "aggregate": 1, "pipeline": [{ "$currentOp": { "allUsers": true } }, { "$match": { "ns": "db.c" } }], "cursor": {}, "$db": "admin" };
    let reply = other.ok(stage).await;
    let rows = reply
        .get_document("cursor")
        .unwrap()
        .get_array("firstBatch")
        .unwrap();
    assert!(rows.is_empty(), "{rows:?}");
    assert!(slow.ok(doc! { "ping": 1, "$db": "db" }).await.get("ok").is_some());
}

#[tokio::test]
async fn a_get_more_that_waits_is_ended_too() {
    let wire = wire(settings()).await;
    let (mut waiting, mut other) = (Client::connect(&wire), Client::connect(&wire));
    let create = doc! { "create": "c", "capped": true, "size": 4096, "$db": "db" };
    other.ok(create).await;
    other.ok(crate::client::insert(vec![doc! { "_id": 1 }])).await;
    let find = doc! { "find": "c", "tailable": true, "awaitData": true, "$db": "db" };
    let reply = waiting.ok(find).await;
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! { "getMore": id, "collection": "c", "maxTimeMS": LONG_MS, "$db": "db" };
    waiting.send(0, &more, &[]).await;
    let found = listed(&mut other, doc! { "op": "getmore" }).await;
    other
        .ok(doc! { "killOp": 1, "op": found[0].get_i32("opid").unwrap(), "$db": "admin" })
        .await;
    let reply = waiting.reply().await.unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 11601);
}

#[tokio::test]
async fn what_is_long_or_secret_is_not_listed() {
    let wire = wire(settings()).await;
    let (mut slow, mut other) = (Client::connect(&wire), Client::connect(&wire));
    block(&mut other, "createUser").await;
    let create = doc! { "createUser": "ann", "pwd": "secret", "roles": [], "$db": "db" };
    slow.send(0, &create, &[]).await;
    let found = listed(&mut other, doc! { "command.createUser": "ann" }).await;
    assert_eq!(
        found[0].get_document("command").unwrap(),
        &doc! { "createUser": "ann" }
    );
    let id = found[0].get_i32("opid").unwrap();
    other.ok(doc! { "killOp": 1, "op": id, "$db": "admin" }).await;
    assert_eq!(slow.reply().await.unwrap().get_i32("code").unwrap(), 11601);
    block(&mut other, "find").await;
    let find = doc! { "find": "c", "filter": { "a": "x".repeat(5000) }, "$db": "db" };
    slow.send(0, &find, &[]).await;
    let found = listed(&mut other, doc! { "op": "query" }).await;
    assert_eq!(
        found[0].get_document("command").unwrap(),
        &doc! { "find": "c", "$truncated": true }
    );
    let id = found[0].get_i32("opid").unwrap();
    other.ok(doc! { "killOp": 1, "op": id, "$db": "admin" }).await;
    slow.reply().await.unwrap();
    // One that is over, one that is none, and a wrong database.
    other.ok(doc! { "killOp": 1, "op": id, "$db": "admin" }).await;
    assert_eq!(other.code(doc! { "killOp": 1, "$db": "admin" }).await, 9);
    assert_eq!(
        other
            .code(doc! { "killOp": 1, "op": 1_i64 << 40, "$db": "admin" })
            .await,
        2
    );
    assert_eq!(other.code(doc! { "killOp": 1, "op": 1, "$db": "db" }).await, 13);
}

#[tokio::test]
async fn a_cursors_pages_share_the_time_of_its_command() {
    let wire = wire(settings()).await;
    let (mut client, mut other) = (Client::connect(&wire), Client::connect(&wire));
    let documents = (0..10).map(|i| doc! { "_id": i }).collect();
    client.ok(crate::client::insert(documents)).await;
    let find = |time: Option<i32>| {
        let mut find = doc! { "find": "c", "batchSize": 2, "$db": "db" };
        find.extend(time.map(|time| ("maxTimeMS".to_owned(), time.into())));
        find
    };
    let bounded = client.ok(find(Some(LONG_MS))).await;
    let unbounded = client.ok(find(None)).await;
    let order = doc! { "configureFailPoint": "maxTimeAlwaysTimeOut", "mode": "alwaysOn", "$db": "admin" };
    other.ok(order).await;
    let more = |reply: &Document| {
        let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
        doc! { "getMore": id, "collection": "c", "batchSize": 2, "$db": "db" }
    };
    assert_eq!(client.code(more(&bounded)).await, 50);
    client.ok(more(&unbounded)).await;
    assert_eq!(client.code(find(Some(LONG_MS))).await, 50);
}
