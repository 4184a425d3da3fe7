//! Time series over the wire: made, listed, changed, written and read as drivers do it.

use bson::{Bson, DateTime, Document, doc};

use crate::client::{Client, open_to_all, wire};
use crate::collections::{batch, in_db, listed, options};

async fn client() -> Client {
    Client::connect(&wire(open_to_all()).await)
}

fn at(millis: i64) -> DateTime {
    DateTime::from_millis(millis)
}

#[tokio::test]
async fn a_series_is_listed_with_its_options() {
    let mut client = client().await;
    let series = doc! { "timeField": "t", "metaField": "m", "granularity": "minutes" };
    client
        .ok(in_db(
            doc! { "create": "c", "timeseries": series, "expireAfterSeconds": 604_800 },
        ))
        .await;
    let row = listed(&mut client, "c").await;
    assert_eq!(row.get_str("type").unwrap(), "timeseries");
    assert!(!row.contains_key("idIndex"));
    let expected = doc! {
        "timeseries": { "timeField": "t", "metaField": "m", "granularity": "minutes", "bucketMaxSpanSeconds": 86_400 },
        "expireAfterSeconds": 604_800_i64,
    };
    assert_eq!(options(&mut client, "c").await, expected);
    let indexes = batch(&client.ok(in_db(doc! { "listIndexes": "c" })).await);
    assert_eq!(
        indexes,
        [doc! { "v": 2, "key": { "m": 1, "t": 1 }, "name": "m_1_t_1" }]
    );
    let change =
        doc! { "collMod": "c", "timeseries": { "granularity": "hours" }, "expireAfterSeconds": "off" };
    client.ok(in_db(change)).await;
    let expected = doc! {
        "timeseries": { "timeField": "t", "metaField": "m", "granularity": "hours", "bucketMaxSpanSeconds": 2_592_000 },
    };
    assert_eq!(options(&mut client, "c").await, expected);
    let shorter = doc! { "collMod": "c", "timeseries": { "granularity": "seconds" } };
    assert_eq!(client.code(in_db(shorter)).await, 72);
    let refused = [
        (doc! { "create": "d", "timeseries": { "metaField": "m" } }, 40_414),
        (
            doc! { "create": "d", "timeseries": { "timeField": "t" }, "capped": true, "size": 100 },
            72,
        ),
        (
            doc! { "create": "d", "timeseries": { "timeField": "t" }, "validator": { "a": 1 } },
            72,
        ),
        (
            doc! { "create": "d", "timeseries": { "timeField": "t" }, "viewOn": "c" },
            72,
        ),
        (doc! { "create": "d", "expireAfterSeconds": 5 }, 72),
        (
            doc! { "create": "d", "timeseries": { "timeField": "t" }, "expireAfterSeconds": -1 },
            72,
        ),
        (doc! { "create": "c", "timeseries": { "timeField": "t" } }, 48),
        (doc! { "collMod": "c", "timeseries": {} }, 72),
    ];
    for (command, expected) in refused {
        assert_eq!(client.code(in_db(command.clone())).await, expected, "{command}");
    }
}

#[tokio::test]
async fn measurements_are_written_read_and_removed() {
    let mut client = client().await;
    client
        .ok(in_db(
            doc! { "create": "c", "timeseries": { "timeField": "t", "metaField": "m" } },
        ))
        .await;
    let documents: Vec<Bson> = [3, 1, 2, 1]
        .into_iter()
        .map(|n| Bson::from(doc! { "_id": 7, "t": at(n), "m": { "of": n % 2 } }))
        .collect();
    let reply = client
        .ok(in_db(doc! { "insert": "c", "documents": documents }))
        .await;
    assert_eq!(reply.get_i32("n").unwrap(), 4);
    let insert = doc! { "insert": "c", "documents": [{ "_id": 1 }] };
    let reply = client.ok(in_db(insert)).await;
    let failed = reply.get_array("writeErrors").unwrap()[0].as_document().unwrap();
    assert_eq!(failed.get_i32("code").unwrap(), 2);
    let find = doc! { "find": "c", "filter": { "t": { "$lt": at(3) } }, "hint": { "$natural": -1 } };
    let times = |rows: Vec<Document>| -> Vec<i64> {
        rows.iter()
            .map(|row| row.get_datetime("t").unwrap().timestamp_millis())
            .collect()
    };
    assert_eq!(times(batch(&client.ok(in_db(find)).await)), [2, 1, 1]);
    let update = doc! { "update": "c", "updates": [{ "q": { "m.of": 1 }, "u": { "$set": { "m.of": 5 } }, "multi": true }] };
    assert_eq!(client.ok(in_db(update)).await.get_i32("nModified").unwrap(), 3);
    let one = doc! { "update": "c", "updates": [{ "q": { "m.of": 5 }, "u": { "$set": { "m.of": 6 } } }] };
    let reply = client.ok(in_db(one)).await;
    let failed = reply.get_array("writeErrors").unwrap()[0].as_document().unwrap();
    assert_eq!(failed.get_i32("code").unwrap(), 72);
    let delete = doc! { "delete": "c", "deletes": [{ "q": { "t": at(1) }, "limit": 1 }] };
    assert_eq!(client.ok(in_db(delete)).await.get_i32("n").unwrap(), 1);
    let aggregate = doc! { "aggregate": "c", "cursor": {}, "pipeline": [
        { "$group": { "_id": { "$dateTrunc": { "date": "$t", "unit": "hour" } }, "n": { "$sum": 1 } } },
    ] };
    assert_eq!(
        batch(&client.ok(in_db(aggregate)).await),
        [doc! { "_id": at(0), "n": 3 }]
    );
    let rename = doc! { "renameCollection": "db.c", "to": "db.d", "$db": "admin" };
    let reply = client.run(rename).await;
    assert_eq!(reply.get_i32("code").unwrap(), 72);
}
