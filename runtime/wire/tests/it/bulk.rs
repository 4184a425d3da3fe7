//! `bulkWrite` over the wire: what each operation is told, what stops it, and what a retry is answered.

use bson::{Document, doc};

use crate::client::{Client, open_to_all, wire};

fn command(ops: Vec<Document>) -> Document {
    doc! { "bulkWrite": 1, "ops": ops, "nsInfo": [{ "ns": "db.a" }, { "ns": "db.b" }], "$db": "admin" }
}

fn rows(reply: &Document) -> Vec<Document> {
    let cursor = reply.get_document("cursor").unwrap();
    let rows = cursor.get_array("firstBatch").unwrap();
    rows.iter()
        .map(|row| row.as_document().unwrap().clone())
        .collect()
}

async fn all(client: &mut Client, collection: &str) -> Vec<Document> {
    let reply = client
        .ok(doc! { "find": collection, "sort": { "_id": 1 }, "$db": "db" })
        .await;
    rows(&reply)
}

#[tokio::test]
async fn each_operation_is_told_of() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let reply = client
        .ok(command(vec![
            doc! { "insert": 0, "document": { "_id": 1, "n": 1 } },
            doc! { "insert": 0, "document": { "_id": 2, "n": 2 } },
            doc! { "update": 0, "filter": { "n": { "$gt": 0 } }, "updateMods": { "$inc": { "n": 10 } }, "multi": true },
            doc! { "update": 0, "filter": {}, "updateMods": { "$set": { "last": true } }, "sort": { "_id": -1 } },
            doc! { "update": 0, "filter": { "_id": 1 }, "updateMods": [{ "$set": { "c": "$$k" } }], "constants": { "k": "x" } },
            doc! { "update": 1, "filter": { "_id": 9 }, "updateMods": { "$set": { "up": 1 } }, "upsert": true },
            doc! { "delete": 1, "filter": { "_id": 9 } },
            doc! { "delete": 1, "filter": {}, "multi": true },
        ]))
        .await;
    for (sum, wanted) in [
        ("nErrors", 0),
        ("nInserted", 2),
        ("nMatched", 4),
        ("nModified", 4),
        ("nUpserted", 1),
        ("nDeleted", 1),
    ] {
        assert_eq!(reply.get_i32(sum).unwrap(), wanted, "{sum}");
    }
    assert_eq!(
        rows(&reply),
        [
            doc! { "ok": 1.0, "idx": 0, "n": 1 },
            doc! { "ok": 1.0, "idx": 1, "n": 1 },
            doc! { "ok": 1.0, "idx": 2, "n": 2, "nModified": 2 },
            doc! { "ok": 1.0, "idx": 3, "n": 1, "nModified": 1 },
            doc! { "ok": 1.0, "idx": 4, "n": 1, "nModified": 1 },
            doc! { "ok": 1.0, "idx": 5, "n": 1, "nModified": 0, "upserted": { "_id": 9 } },
            doc! { "ok": 1.0, "idx": 6, "n": 1 },
            doc! { "ok": 1.0, "idx": 7, "n": 0 },
        ]
    );
    assert_eq!(
        all(&mut client, "a").await,
        [
            doc! { "_id": 1, "n": 11, "c": "x" },
            doc! { "_id": 2, "n": 12, "last": true },
        ]
    );
}

#[tokio::test]
async fn failures_stop_what_is_ordered_and_nothing_else() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let ops = |first: i32| {
        vec![
            doc! { "insert": 0, "document": { "_id": first } },
            doc! { "insert": 0, "document": { "_id": first } },
            doc! { "insert": 1, "document": { "_id": first } },
        ]
    };
    let mut ordered = command(ops(1));
    ordered.insert("errorsOnly", true);
    let reply = client.ok(ordered).await;
    let told = rows(&reply);
    assert_eq!(
        (
            reply.get_i32("nErrors").unwrap(),
            reply.get_i32("nInserted").unwrap()
        ),
        (1, 1)
    );
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].get_i32("idx").unwrap(), told[0].get_i32("code").unwrap()),
        (1, 11000)
    );
    assert!(told[0].contains_key("keyValue"));
    let mut unordered = command(ops(2));
    unordered.insert("ordered", false);
    unordered.insert("cursor", doc! { "batchSize": 2 });
    let reply = client.ok(unordered).await;
    assert_eq!(
        (
            reply.get_i32("nErrors").unwrap(),
            reply.get_i32("nInserted").unwrap()
        ),
        (1, 2)
    );
    assert_eq!(rows(&reply).len(), 2);
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let rest = client
        .ok(doc! { "getMore": id, "collection": "$cmd.bulkWrite", "$db": "admin" })
        .await;
    let rest = rest.get_document("cursor").unwrap();
    assert_eq!(rest.get_array("nextBatch").unwrap().len(), 1);
    assert_eq!(all(&mut client, "b").await, [doc! { "_id": 2 }]);
}

#[tokio::test]
async fn a_retry_is_answered_and_not_carried_out() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let id = bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: vec![7; 16],
    };
    let mut numbered = command(vec![
        doc! { "update": 0, "filter": { "_id": 1 }, "updateMods": { "$inc": { "n": 1 } }, "upsert": true },
    ]);
    numbered.insert("lsid", doc! { "id": id });
    numbered.insert("txnNumber", 1_i64);
    let first = client.ok(numbered.clone()).await;
    let again = client.ok(numbered).await;
    assert_eq!(first.get_i32("nUpserted").unwrap(), 1);
    assert_eq!(rows(&first), rows(&again));
    assert_eq!(all(&mut client, "a").await, [doc! { "_id": 1, "n": 1 }]);
}

#[tokio::test]
async fn what_is_no_bulk_write_is_refused_and_nothing_is_written() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let fine = doc! { "insert": 0, "document": { "_id": 1 } };
    for (bad, code) in [
        (doc! { "insert": 2, "document": {} }, 2),
        (doc! { "insert": 0 }, 9),
        (doc! { "upsert": 0, "document": {} }, 9),
        (doc! { "insert": 0, "document": {}, "color": 1 }, 40415),
        (doc! { "update": 0, "filter": {} }, 9),
        (
            doc! { "update": 0, "filter": {}, "updateMods": { "$set": { "a": 1 } }, "constants": { "a": 1 } },
            9,
        ),
        (doc! { "delete": 0 }, 9),
    ] {
        assert_eq!(
            client.code(command(vec![fine.clone(), bad.clone()])).await,
            code,
            "{bad}"
        );
    }
    assert_eq!(client.code(command(Vec::new())).await, 16);
    let mut elsewhere = command(vec![fine.clone()]);
    elsewhere.insert("$db", "db");
    assert_eq!(client.code(elsewhere).await, 13);
    let mut platform = command(vec![fine]);
    platform.insert("nsInfo", vec![doc! { "ns": "db/system.a" }]);
    assert_eq!(client.code(platform).await, 73);
    assert_eq!(all(&mut client, "a").await, Vec::<Document>::new());
}
