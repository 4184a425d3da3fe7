//! Collections with options over the wire: made, changed, listed, and what they do to writes and reads.

use bson::{Bson, Document, doc};

use crate::client::{Client, open_to_all, wire};

async fn client() -> Client {
    Client::connect(&wire(open_to_all()).await)
}

pub(crate) fn in_db(mut command: Document) -> Document {
    command.insert("$db", "db");
    command
}

/// The documents of a first batch.
pub(crate) fn batch(reply: &Document) -> Vec<Document> {
    let batch = reply.get_document("cursor").unwrap();
    let batch = batch
        .get_array("firstBatch")
        .or_else(|_| batch.get_array("nextBatch"));
    let document = |row: &Bson| row.as_document().unwrap().clone();
    batch.unwrap().iter().map(document).collect()
}

/// A reply without what all replies have.
fn outcome(mut reply: Document) -> Document {
    for name in ["ok", "operationTime", "$clusterTime"] {
        reply.remove(name);
    }
    reply
}

/// A collection as it is listed.
pub(crate) async fn listed(client: &mut Client, name: &str) -> Document {
    let command = doc! { "listCollections": 1, "filter": { "name": name } };
    batch(&client.ok(in_db(command)).await).remove(0)
}

pub(crate) async fn options(client: &mut Client, name: &str) -> Document {
    listed(client, name)
        .await
        .get_document("options")
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_validator_refuses_documents_and_says_why() {
    let mut client = client().await;
    let validator = doc! { "n": { "$gt": 0 } };
    client
        .ok(in_db(doc! { "create": "c", "validator": validator.clone() }))
        .await;
    let expected = doc! { "validator": validator, "validationLevel": "strict", "validationAction": "error" };
    assert_eq!(options(&mut client, "c").await, expected);
    let insert = doc! { "insert": "c", "documents": [{ "_id": 1, "n": 1 }, { "_id": 2, "n": 0 }] };
    let reply = client.ok(in_db(insert.clone())).await;
    assert_eq!(reply.get_i32("n").unwrap(), 1);
    let failed = reply.get_array("writeErrors").unwrap()[0].as_document().unwrap();
    assert_eq!(failed.get_i32("code").unwrap(), 121);
    let info = failed.get_document("errInfo").unwrap();
    assert_eq!(info.get_i32("failingDocumentId").unwrap(), 2);
    let details = info.get_document("details").unwrap();
    assert_eq!(details.get_str("operatorName").unwrap(), "$gt");
    // A command that fails whole has it, too.
    let modify = doc! { "findAndModify": "c", "query": { "_id": 1 }, "update": { "$set": { "n": -1 } } };
    let reply = client.run(in_db(modify.clone())).await;
    assert_eq!(reply.get_i32("code").unwrap(), 121);
    assert_eq!(reply.get_str("codeName").unwrap(), "DocumentValidationFailure");
    assert!(reply.get_document("errInfo").is_ok(), "{reply}");
    let update = doc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "n": -1 } } }] };
    let reply = client.ok(in_db(update.clone())).await;
    assert_eq!(reply.get_array("writeErrors").unwrap().len(), 1);
    let out = doc! { "aggregate": "d", "pipeline": [{ "$out": "c" }], "cursor": {} };
    client
        .ok(in_db(doc! { "insert": "d", "documents": [{ "_id": 9 }] }))
        .await;
    assert_eq!(client.code(in_db(out.clone())).await, 121);
    for mut passing in [
        doc! { "insert": "c", "documents": [{ "_id": 3, "n": 0 }] },
        update,
        modify,
        out,
    ] {
        passing.insert("bypassDocumentValidation", true);
        let reply = client.ok(in_db(passing)).await;
        assert!(!reply.contains_key("writeErrors"), "{reply}");
    }
}

#[tokio::test]
async fn a_view_is_read_and_not_written() {
    let mut client = client().await;
    let documents: Vec<Document> = (0..6).map(|n| doc! { "_id": n, "odd": n % 2 }).collect();
    client
        .ok(in_db(doc! { "insert": "c", "documents": documents }))
        .await;
    let pipeline = vec![doc! { "$match": { "odd": 0 } }];
    client
        .ok(in_db(
            doc! { "create": "v", "viewOn": "c", "pipeline": pipeline.clone() },
        ))
        .await;
    let shown = listed(&mut client, "v").await;
    let expected = doc! {
        "name": "v", "type": "view", "options": { "viewOn": "c", "pipeline": pipeline },
        "info": { "readOnly": true },
    };
    assert_eq!(shown, expected);
    let uuid = listed(&mut client, "c")
        .await
        .get_document("info")
        .unwrap()
        .get("uuid")
        .cloned();
    assert!(matches!(uuid, Some(Bson::Binary(uuid)) if uuid.bytes.len() == 16));
    let names = doc! { "listCollections": 1, "nameOnly": true, "filter": { "type": "view" } };
    let names = batch(&client.ok(in_db(names)).await);
    assert_eq!(names, [doc! { "name": "v", "type": "view" }]);
    let reply = client.ok(in_db(doc! { "find": "v", "batchSize": 2 })).await;
    assert_eq!(batch(&reply).len(), 2);
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = client.ok(in_db(doc! { "getMore": id, "collection": "v" })).await;
    assert_eq!(batch(&more), [doc! { "_id": 4, "odd": 0 }]);
    let counted = client.ok(in_db(doc! { "count": "v" })).await;
    assert_eq!(counted.get_i32("n").unwrap(), 3);
    let explained = client.ok(in_db(doc! { "explain": { "find": "v" } })).await;
    assert!(explained.contains_key("stages"), "{explained}");
    let refused = [
        (doc! { "insert": "v", "documents": [{}] }, 166),
        (doc! { "delete": "v", "deletes": [{ "q": {}, "limit": 0 }] }, 166),
        (
            doc! { "update": "v", "updates": [{ "q": {}, "u": { "a": 1 } }] },
            166,
        ),
        (doc! { "findAndModify": "v", "remove": true }, 166),
        (
            doc! { "createIndexes": "v", "indexes": [{ "key": { "a": 1 }, "name": "a" }] },
            166,
        ),
        (doc! { "listIndexes": "v" }, 166),
        (doc! { "collStats": "v" }, 166),
        (doc! { "validate": "v" }, 166),
        (
            doc! { "aggregate": "v", "pipeline": [{ "$changeStream": {} }], "cursor": {} },
            166,
        ),
        (doc! { "collMod": "v", "validator": {} }, 166),
        (doc! { "collMod": "v", "viewOn": "c" }, 72),
        (doc! { "collMod": "c", "viewOn": "d", "pipeline": [] }, 72),
        (doc! { "create": "w", "pipeline": [] }, 72),
        (doc! { "create": "w", "viewOn": "c", "validator": { "a": 1 } }, 72),
        (doc! { "create": "w", "viewOn": "w" }, 5),
        (doc! { "create": "v", "viewOn": "c" }, 48),
    ];
    for (command, code) in refused {
        assert_eq!(client.code(in_db(command.clone())).await, code, "{command}");
    }
    client
        .ok(in_db(doc! { "collMod": "v", "viewOn": "c", "pipeline": [] }))
        .await;
    let counted = client.ok(in_db(doc! { "count": "v" })).await;
    assert_eq!(counted.get_i32("n").unwrap(), 6);
    client.ok(in_db(doc! { "drop": "v" })).await;
    let counted = client.ok(in_db(doc! { "count": "v" })).await;
    assert_eq!(counted.get_i32("n").unwrap(), 0);
}

#[tokio::test]
async fn coll_mod_changes_a_collection() {
    let mut client = client().await;
    client.ok(in_db(doc! { "create": "c" })).await;
    assert_eq!(options(&mut client, "c").await, doc! {});
    let change = doc! {
        "collMod": "c", "validator": { "n": 1 }, "validationLevel": "moderate", "validationAction": "warn",
        "changeStreamPreAndPostImages": { "enabled": true },
    };
    client.ok(in_db(change)).await;
    let expected = doc! {
        "validator": { "n": 1 }, "validationLevel": "moderate", "validationAction": "warn",
        "changeStreamPreAndPostImages": { "enabled": true },
    };
    assert_eq!(options(&mut client, "c").await, expected);
    client.ok(in_db(doc! { "collMod": "c", "validator": {} })).await;
    assert!(!options(&mut client, "c").await.contains_key("validator"));
    let refused = [
        (doc! { "collMod": "nowhere" }, 26),
        (doc! { "collMod": "c", "nope": 1 }, 40415),
        (doc! { "collMod": "c", "validator": { "$nope": 1 } }, 2),
        (doc! { "collMod": "c", "validationLevel": "hard" }, 2),
        (doc! { "collMod": "c", "changeStreamPreAndPostImages": {} }, 9),
        (doc! { "create": "d", "validationAction": "shout" }, 2),
        (doc! { "create": "d", "validator": { "$nope": 1 } }, 2),
        (
            doc! { "create": "d", "changeStreamPreAndPostImages": { "on": true } },
            40415,
        ),
        (doc! { "create": "c", "validator": {} }, 48),
    ];
    for (command, code) in refused {
        assert_eq!(client.code(in_db(command.clone())).await, code, "{command}");
    }
}

#[tokio::test]
async fn coll_mod_changes_an_index() {
    let mut client = client().await;
    let index = doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 60 };
    client
        .ok(in_db(
            doc! { "createIndexes": "c", "indexes": [index, { "key": { "n": 1 }, "name": "n_1" }] },
        ))
        .await;
    let change = doc! { "keyPattern": { "at": 1 }, "expireAfterSeconds": 90, "hidden": true };
    let reply = outcome(client.ok(in_db(doc! { "collMod": "c", "index": change })).await);
    let expected = doc! {
        "expireAfterSeconds_old": 60_i64, "expireAfterSeconds_new": 90_i64,
        "hidden_old": false, "hidden_new": true,
    };
    assert_eq!(reply, expected);
    let change = doc! { "name": "n_1", "hidden": false, "expireAfterSeconds": 5 };
    let reply = outcome(client.ok(in_db(doc! { "collMod": "c", "index": change })).await);
    assert_eq!(reply, doc! { "expireAfterSeconds_new": 5_i64 });
    let shown = batch(&client.ok(in_db(doc! { "listIndexes": "c" })).await);
    assert_eq!(shown[1].get_i32("expireAfterSeconds").unwrap(), 90);
    assert!(shown[1].get_bool("hidden").unwrap());
    let refused = [
        (doc! { "hidden": true }, 72),
        (doc! { "name": "at_1" }, 72),
        (
            doc! { "name": "at_1", "keyPattern": { "at": 1 }, "hidden": true },
            72,
        ),
        (doc! { "name": "nope", "hidden": true }, 27),
        (doc! { "name": "_id_", "hidden": true }, 2),
        (doc! { "name": "at_1", "expireAfterSeconds": -1 }, 72),
        (doc! { "name": "at_1", "nope": 1 }, 40415),
    ];
    for (index, code) in refused {
        let command = in_db(doc! { "collMod": "c", "index": index.clone() });
        assert_eq!(client.code(command).await, code, "{index}");
    }
}

#[tokio::test]
async fn a_stream_has_the_images_that_a_collection_was_told_to_keep() {
    let mut client = client().await;
    let images = doc! { "enabled": true };
    client
        .ok(in_db(
            doc! { "create": "c", "changeStreamPreAndPostImages": images },
        ))
        .await;
    let stage = doc! { "fullDocument": "required", "fullDocumentBeforeChange": "required", "showExpandedEvents": true };
    let open = doc! { "aggregate": "c", "pipeline": [{ "$changeStream": stage }], "cursor": {} };
    let reply = client.ok(in_db(open)).await;
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    client
        .ok(in_db(doc! { "insert": "c", "documents": [{ "_id": 1, "n": 1 }] }))
        .await;
    let update = doc! { "q": {}, "u": { "$set": { "n": 2 } } };
    client
        .ok(in_db(doc! { "update": "c", "updates": [update.clone()] }))
        .await;
    let images = doc! { "enabled": false };
    client
        .ok(in_db(
            doc! { "collMod": "c", "changeStreamPreAndPostImages": images.clone() },
        ))
        .await;
    let more = in_db(doc! { "getMore": id, "collection": "c", "maxTimeMS": 60_000 });
    let events = batch(&client.ok(more.clone()).await);
    let update_event = &events[1];
    assert_eq!(
        update_event.get_document("fullDocument").unwrap(),
        &doc! { "_id": 1, "n": 2 }
    );
    assert_eq!(
        update_event.get_document("fullDocumentBeforeChange").unwrap(),
        &doc! { "_id": 1, "n": 1 }
    );
    assert_eq!(events[2].get_str("operationType").unwrap(), "modify");
    assert_eq!(
        events[2].get_document("operationDescription").unwrap(),
        &doc! { "changeStreamPreAndPostImages": images }
    );
    let update = doc! { "q": {}, "u": { "$set": { "n": 3 } } };
    client
        .ok(in_db(doc! { "update": "c", "updates": [update] }))
        .await;
    let reply = client.run(more).await;
    assert_eq!(reply.get_i32("code").unwrap(), 47, "{reply}");
}

#[tokio::test]
async fn a_capped_collection_keeps_its_order_and_its_bounds() {
    let mut client = client().await;
    client
        .ok(in_db(
            doc! { "create": "c", "capped": true, "size": 4096, "max": 3 },
        ))
        .await;
    let expected = doc! { "capped": true, "size": 4096, "max": 3 };
    assert_eq!(options(&mut client, "c").await, expected);
    let documents: Vec<Document> = [5, 1, 4, 2].map(|n| doc! { "_id": n }).to_vec();
    client
        .ok(in_db(doc! { "insert": "c", "documents": documents }))
        .await;
    let forward = vec![doc! { "_id": 1 }, doc! { "_id": 4 }, doc! { "_id": 2 }];
    let backward: Vec<Document> = forward.iter().rev().cloned().collect();
    assert_eq!(batch(&client.ok(in_db(doc! { "find": "c" })).await), forward);
    for reversed in [
        doc! { "find": "c", "sort": { "$natural": -1 } },
        doc! { "find": "c", "hint": { "$natural": -1 } },
        doc! { "aggregate": "c", "pipeline": [], "cursor": {}, "hint": { "$natural": -1 } },
    ] {
        assert_eq!(batch(&client.ok(in_db(reversed)).await), backward);
    }
    let stats = client.ok(in_db(doc! { "collStats": "c" })).await;
    assert!(stats.get_bool("capped").unwrap());
    assert_eq!(
        (stats.get_i64("max").unwrap(), stats.get_i64("maxSize").unwrap()),
        (3, 4096)
    );
    client
        .ok(in_db(doc! { "collMod": "c", "cappedSize": 8192, "cappedMax": 2 }))
        .await;
    client
        .ok(in_db(doc! { "insert": "c", "documents": [{ "_id": 9 }] }))
        .await;
    let left = batch(&client.ok(in_db(doc! { "find": "c" })).await);
    assert_eq!(left, [doc! { "_id": 2 }, doc! { "_id": 9 }]);
    let refused = [
        (doc! { "create": "d", "capped": true }, 72),
        (doc! { "create": "d", "size": 4096 }, 72),
        (doc! { "create": "d", "max": 1 }, 72),
        (doc! { "create": "d", "capped": true, "size": -1 }, 2),
        (doc! { "collMod": "nowhere", "cappedSize": 1 }, 26),
        (doc! { "find": "c", "awaitData": true }, 9),
        (doc! { "find": "c", "tailable": true, "singleBatch": true }, 9),
        (doc! { "find": "c", "tailable": true, "sort": { "_id": 1 } }, 2),
        (doc! { "find": "c", "sort": { "$natural": 2 } }, 2),
    ];
    for (command, code) in refused {
        assert_eq!(client.code(in_db(command.clone())).await, code, "{command}");
    }
}

/// Opens a cursor that awaits data; gives it.
async fn tail(client: &mut Client, filter: Document) -> i64 {
    let find = doc! { "find": "c", "filter": filter, "tailable": true, "awaitData": true };
    let reply = client.ok(in_db(find)).await;
    reply.get_document("cursor").unwrap().get_i64("id").unwrap()
}

fn more(id: i64, wait_ms: i32) -> Document {
    in_db(doc! { "getMore": id, "collection": "c", "maxTimeMS": wait_ms })
}

/// Longer than a test may take: who waits so long was not woken.
const LONG_MS: i32 = 120_000;

#[tokio::test]
async fn a_tailable_cursor_awaits_documents() {
    let wire = wire(open_to_all()).await;
    let (mut client, mut other) = (Client::connect(&wire), Client::connect(&wire));
    client
        .ok(in_db(doc! { "create": "c", "capped": true, "size": 4096 }))
        .await;
    assert_eq!(tail(&mut client, doc! {}).await, 0, "nothing to stay at");
    client
        .ok(in_db(doc! { "insert": "c", "documents": [{ "_id": 1 }] }))
        .await;
    let id = tail(&mut client, doc! { "_id": { "$gt": 1 } }).await;
    assert_ne!(id, 0);
    let reply = client.ok(more(id, 1)).await;
    assert!(batch(&reply).is_empty());
    client.send(0, &more(id, LONG_MS), &[]).await;
    // The getMore has the cursor, so it waits, or is about to.
    while other.run(more(id, 1)).await.get_i32("code").ok() != Some(12051) {}
    other
        .ok(in_db(
            doc! { "insert": "c", "documents": [{ "_id": 0 }, { "_id": 2 }] },
        ))
        .await;
    let reply = client.reply().await.unwrap();
    assert_eq!(batch(&reply), [doc! { "_id": 2 }]);
    assert_eq!(reply.get_document("cursor").unwrap().get_i64("id").unwrap(), id);
    client.send(0, &more(id, LONG_MS), &[]).await;
    while other.run(more(id, 1)).await.get_i32("code").ok() != Some(12051) {}
    other
        .ok(in_db(doc! { "killCursors": "c", "cursors": [id] }))
        .await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 237, "{reply}");
    let id = tail(&mut client, doc! {}).await;
    client.ok(more(id, 1)).await;
    client.send(0, &more(id, LONG_MS), &[]).await;
    while other.run(more(id, 1)).await.get_i32("code").ok() != Some(12051) {}
    other.ok(in_db(doc! { "drop": "c" })).await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 175, "{reply}");
}

#[tokio::test]
async fn a_tailable_cursor_that_awaits_nothing_answers_at_once() {
    let mut client = client().await;
    client
        .ok(in_db(
            doc! { "create": "c", "capped": true, "size": 4096, "max": 2 },
        ))
        .await;
    let insert = |n: i32| in_db(doc! { "insert": "c", "documents": [{ "_id": n }] });
    client.ok(insert(1)).await;
    let reply = client.ok(in_db(doc! { "find": "c", "tailable": true })).await;
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let plain = in_db(doc! { "getMore": id, "collection": "c" });
    assert!(batch(&client.ok(plain.clone()).await).is_empty());
    client.ok(insert(2)).await;
    assert_eq!(batch(&client.ok(plain.clone()).await), [doc! { "_id": 2 }]);
    for n in 3..6 {
        client.ok(insert(n)).await;
    }
    assert_eq!(client.code(plain).await, 136);
}

#[tokio::test]
async fn a_collection_says_that_it_is_clustered() {
    let mut client = client().await;
    let index = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
    client
        .ok(in_db(doc! { "create": "c", "clusteredIndex": index.clone() }))
        .await;
    let shown = listed(&mut client, "c").await;
    assert!(!shown.contains_key("idIndex"));
    let expected =
        doc! { "clusteredIndex": { "v": 2, "key": { "_id": 1 }, "name": "by id", "unique": true } };
    assert_eq!(shown.get_document("options").unwrap(), &expected);
    let indexes = batch(&client.ok(in_db(doc! { "listIndexes": "c" })).await);
    let expected = doc! { "v": 2, "key": { "_id": 1 }, "name": "by id", "unique": true, "clustered": true };
    assert_eq!(indexes, [expected]);
    client
        .ok(in_db(
            doc! { "insert": "c", "documents": [{ "_id": 2 }, { "_id": 1 }] },
        ))
        .await;
    for hint in [Bson::from("by id"), doc! { "_id": 1 }.into()] {
        let found = batch(&client.ok(in_db(doc! { "find": "c", "hint": hint })).await);
        assert_eq!(found, [doc! { "_id": 1 }, doc! { "_id": 2 }]);
    }
    let refused = [
        (doc! { "dropIndexes": "c", "index": "by id" }, 72),
        (
            doc! { "createIndexes": "c", "indexes": [{ "key": { "a": 1 }, "name": "by id" }] },
            67,
        ),
        (
            doc! { "collMod": "c", "index": { "name": "by id", "hidden": true } },
            2,
        ),
        (
            doc! { "create": "d", "clusteredIndex": { "key": { "a": 1 }, "unique": true } },
            2,
        ),
        (
            doc! { "create": "d", "clusteredIndex": { "key": { "_id": 1 }, "unique": false } },
            2,
        ),
        (
            doc! { "create": "d", "clusteredIndex": index, "capped": true, "size": 1 },
            72,
        ),
        (doc! { "create": "d", "encryptedFields": {} }, 115),
        (doc! { "createSearchIndexes": "c", "indexes": [] }, 31082),
        (
            doc! { "aggregate": "c", "pipeline": [{ "$listSearchIndexes": {} }], "cursor": {} },
            31082,
        ),
    ];
    for (command, code) in refused {
        assert_eq!(client.code(in_db(command.clone())).await, code, "{command}");
    }
}
