//! Messages and commands, sent as no driver would send them.

use bson::{Bson, Document, doc};

use crate::client::{Client, bytes, insert, open_to_all, wire};

const MORE_TO_COME: u32 = 2;

#[tokio::test]
async fn a_write_that_wants_no_reply_gets_none() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let rows = ("documents", vec![doc! { "_id": 1 }, doc! { "_id": 2 }]);
    let command = doc! { "insert": "c", "ordered": false, "writeConcern": { "w": 0 }, "$db": "db" };
    client.send(MORE_TO_COME, &command, &[rows]).await;
    // The client checks that the next reply is to its next request.
    let reply = client.ok(doc! { "count": "c", "$db": "db" }).await;
    assert_eq!(reply.get_i32("n").unwrap(), 2);
    // Not even a failure is told.
    client
        .send(MORE_TO_COME, &doc! { "nonsense": 1, "$db": "db" }, &[])
        .await;
    client.ok(doc! { "ping": 1, "$db": "db" }).await;
}

#[tokio::test]
async fn malformed_documents_are_answered_and_malformed_frames_are_not() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    // A document that ends where it says, but not with a zero.
    client.send_raw(2013, &[0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 1]).await;
    assert_eq!(client.reply().await.unwrap().get_i32("code").unwrap(), 22);
    // A string that is longer than the document around it.
    let mut body = bytes(&doc! { "ping": "x", "$db": "db" });
    body[10] = 0xff;
    client.send_raw(2013, &[&[0; 5][..], &body].concat()).await;
    assert_eq!(client.reply().await.unwrap().get_i32("code").unwrap(), 22);
    client.ok(doc! { "ping": 1, "$db": "db" }).await;
    for (opcode, payload) in [
        (2013, &[4, 0, 0, 0, 0, 5, 0, 0, 0, 0][..]),
        (2013, &[0, 0, 0, 0, 9]),
        (2001, &[0; 30]),
        (2012, &[0; 9]),
    ] {
        let mut client = Client::connect(&wire);
        client.send_raw(opcode, payload).await;
        assert_eq!(client.reply().await, None, "{opcode} {payload:?}");
    }
}

#[tokio::test]
async fn deep_documents_are_refused_not_followed() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let mut deep = doc! {};
    for _ in 0..150 {
        deep = doc! { "a": deep };
    }
    let reply = client
        .ok(insert(vec![doc! { "_id": 1, "deep": deep.clone() }]))
        .await;
    assert_eq!(reply.get_array("writeErrors").unwrap().len(), 1);
    assert_eq!(
        client
            .code(doc! { "find": "c", "filter": deep, "$db": "db" })
            .await,
        15
    );
}

#[tokio::test]
async fn the_first_word_may_be_an_op_query() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let mut payload = vec![0; 4];
    payload.extend(b"admin.$cmd\0");
    payload.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let head = payload.clone();
    payload.extend(bytes(&doc! { "isMaster": 1, "helloOk": true }));
    client.send_raw(2004, &payload).await;
    let reply = client.reply().await.unwrap();
    assert!(reply.get_bool("ismaster").unwrap() && reply.get_bool("helloOk").unwrap());
    assert_eq!(reply.get_str("msg").unwrap(), "isdbgrid");
    assert_eq!(reply.get_i32("maxWireVersion").unwrap(), 26);
    client
        .send_raw(2004, &[head, bytes(&doc! { "ping": 1 })].concat())
        .await;
    assert_eq!(client.reply().await.unwrap().get_i32("code").unwrap(), 352);
}

#[tokio::test]
async fn unknown_commands_and_arguments_are_named() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let reply = client.run(doc! { "frobnicate": 1, "$db": "db" }).await;
    assert_eq!(reply.get_str("errmsg").unwrap(), "no such command: 'frobnicate'");
    assert_eq!(reply.get_i32("code").unwrap(), 59);
    let reply = client.run(doc! { "find": "c", "fliter": {}, "$db": "db" }).await;
    assert_eq!(reply.get_i32("code").unwrap(), 40415);
    assert!(reply.get_str("errmsg").unwrap().contains("find.fliter"));
    for (command, code) in [
        (doc! { "find": 5, "$db": "db" }, 73),
        (doc! { "find": "c", "$db": "a/system" }, 73),
        (doc! { "find": "c", "$db": "" }, 73),
        (doc! { "find": "c", "filter": 1, "$db": "db" }, 14),
        (doc! { "find": "c", "limit": -1, "$db": "db" }, 51024),
        (
            doc! { "count": "c", "readConcern": { "level": "snapshot" }, "$db": "db" },
            72,
        ),
        (
            doc! { "find": "c", "collation": { "locale": "xx" }, "$db": "db" },
            2,
        ),
        (
            doc! { "create": "c", "collation": { "locale": "xx" }, "$db": "db" },
            2,
        ),
        (
            doc! { "aggregate": "c", "pipeline": [{ "$project": { "a": { "$setUnion": ["$a", ["b"]] } } }],
            "cursor": {}, "collation": { "locale": "de" }, "$db": "db" },
            115,
        ),
        (doc! { "insert": "c", "documents": [], "$db": "db" }, 16),
        (doc! { "getMore": 7_i64, "collection": "c", "$db": "db" }, 43),
        (
            doc! { "aggregate": "c", "pipeline": [{ "$nope": 1 }], "cursor": {}, "$db": "db" },
            40324,
        ),
        (
            doc! { "configureFailPoint": "failCommand", "mode": "off", "$db": "admin" },
            59,
        ),
        (doc! { "create": "c", "encryptedFields": {}, "$db": "db" }, 115),
        (
            doc! { "insert": "c", "documents": [{}], "startTransaction": true, "autocommit": false, "$db": "db" },
            72,
        ),
    ] {
        assert_eq!(client.code(command.clone()).await, code, "{command}");
    }
    assert_eq!(client.code(doc! { "find": "c" }).await, 9);
}

#[tokio::test]
async fn cursors_live_between_connections_and_end() {
    let wire = wire(open_to_all()).await;
    let mut client = Client::connect(&wire);
    let rows = (0..250).map(|n| doc! { "_id": n }).collect();
    client.ok(insert(rows)).await;
    let first = client.ok(doc! { "find": "c", "$db": "db" }).await;
    let cursor = first.get_document("cursor").unwrap();
    assert_eq!(cursor.get_array("firstBatch").unwrap().len(), 101);
    assert_eq!(cursor.get_str("ns").unwrap(), "db.c");
    let id = cursor.get_i64("id").unwrap();
    assert!(id > 0);
    let more = |id: i64| doc! { "getMore": id, "collection": "c", "batchSize": 100, "$db": "db" };
    let mut other = Client::connect(&wire);
    let second = other.ok(more(id)).await;
    assert_eq!(
        second
            .get_document("cursor")
            .unwrap()
            .get_array("nextBatch")
            .unwrap()
            .len(),
        100
    );
    let wrong = doc! { "getMore": id, "collection": "d", "$db": "db" };
    assert_eq!(other.code(wrong).await, 13);
    let last = client.ok(more(id)).await;
    let last = last.get_document("cursor").unwrap();
    assert_eq!(
        (
            last.get_array("nextBatch").unwrap().len(),
            last.get_i64("id").unwrap()
        ),
        (49, 0)
    );
    assert_eq!(client.code(more(id)).await, 43);

    let empty = client.ok(doc! { "find": "c", "batchSize": 0, "$db": "db" }).await;
    let id = empty.get_document("cursor").unwrap().get_i64("id").unwrap();
    assert_ne!(id, 0, "an empty batch was asked for, and the cursor lives");
    let killed = client
        .ok(doc! { "killCursors": "c", "cursors": [id, 5_i64], "$db": "db" })
        .await;
    assert_eq!(killed.get_array("cursorsKilled").unwrap(), &[Bson::Int64(id)]);
    assert_eq!(killed.get_array("cursorsNotFound").unwrap(), &[Bson::Int64(5)]);
    for options in [doc! { "singleBatch": true, "batchSize": 2 }, doc! { "limit": 2 }] {
        let mut find = doc! { "find": "c" };
        find.extend(options);
        find.insert("$db", "db");
        let reply = client.ok(find).await;
        let cursor = reply.get_document("cursor").unwrap();
        assert_eq!(
            (
                cursor.get_array("firstBatch").unwrap().len(),
                cursor.get_i64("id").unwrap()
            ),
            (2, 0)
        );
    }
}

#[tokio::test]
async fn a_retried_write_is_answered_and_not_repeated() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    let id = |n: u8| {
        Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Uuid,
            bytes: vec![n; 16],
        })
    };
    let increment = |session: u8, number: i64| {
        doc! {
            "findAndModify": "c", "query": { "_id": 1 }, "update": { "$inc": { "n": 1 } }, "upsert": true,
            "new": true, "lsid": { "id": id(session) }, "txnNumber": number, "$db": "db",
        }
    };
    let value = |reply: Document| reply.get_document("value").unwrap().get_i32("n").unwrap();
    assert_eq!(value(client.ok(increment(1, 1)).await), 1);
    assert_eq!(value(client.ok(increment(1, 1)).await), 1, "the retry");
    assert_eq!(value(client.ok(increment(1, 2)).await), 2);
    assert_eq!(value(client.ok(increment(2, 1)).await), 3, "another session");
    assert_eq!(client.code(increment(1, 1)).await, 225);
    let end = doc! { "endSessions": [{ "id": id(1) }], "$db": "admin" };
    client.ok(end).await;
    assert_eq!(
        value(client.ok(increment(1, 1)).await),
        4,
        "the session is a new one"
    );
}

#[tokio::test]
async fn write_concerns_that_one_node_cannot_meet_are_told() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    for (w, code) in [
        (Bson::Int32(2), Some(100)),
        (Bson::from("tag"), Some(79)),
        (Bson::from("majority"), None),
        (Bson::Int32(1), None),
    ] {
        let mut command = insert(vec![doc! { "w": &w }]);
        command.insert("writeConcern", doc! { "w": &w });
        let reply = client.ok(command).await;
        assert_eq!(reply.get_i32("n").unwrap(), 1, "the write happens all the same");
        let error = reply.get_document("writeConcernError").ok();
        assert_eq!(error.map(|error| error.get_i32("code").unwrap()), code, "{w}");
    }
}

#[tokio::test]
async fn tools_leave_out_system_collections() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    for name in ["system.views", "systems", "a"] {
        client.ok(doc! { "create": name, "$db": "db" }).await;
    }
    let regex = Bson::RegularExpression(bson::Regex {
        pattern: bson::raw::cstr!("^(?!system\\.)").to_owned(),
        options: bson::raw::cstr!("").to_owned(),
    });
    for name in [doc! { "$regex": "^(?!system\\.)" }.into(), regex] {
        let list = doc! { "listCollections": 1, "filter": { "name": name }, "nameOnly": true, "$db": "db" };
        let reply = client.ok(list).await;
        let found = reply
            .get_document("cursor")
            .unwrap()
            .get_array("firstBatch")
            .unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|row| row.as_document().unwrap().get_str("name").unwrap())
            .collect();
        assert_eq!(names, ["a", "systems"]);
    }
}

#[tokio::test]
async fn stopping_lets_go_of_idle_connections() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    client.ok(doc! { "ping": 1, "$db": "db" }).await;
    client.stop.send(true).unwrap();
    assert_eq!(client.reply().await, None);
}

#[tokio::test]
async fn aggregations_write_only_where_they_may_be_named() {
    let mut client = Client::connect(&wire(open_to_all()).await);
    client
        .ok(insert((0..5).map(|n| doc! { "_id": n }).collect()))
        .await;
    let aggregate = |target: Bson, pipeline: Vec<Document>| {
        doc! { "aggregate": target, "pipeline": pipeline, "cursor": {}, "$db": "db" }
    };
    for into in ["a/system", "/node", "", "x.y"] {
        let place = doc! { "db": into, "coll": "c" };
        let out = aggregate("c".into(), vec![doc! { "$out": place.clone() }]);
        assert_eq!(client.code(out).await, 73, "{into}");
        let merge = aggregate("c".into(), vec![doc! { "$merge": { "into": place } }]);
        assert_eq!(client.code(merge).await, 73, "{into}");
    }
    let merge = doc! { "$merge": { "into": { "db": "other", "coll": "d" }, "let": {} } };
    client.ok(aggregate("c".into(), vec![merge])).await;
    let count = client.ok(doc! { "count": "d", "$db": "other" }).await;
    assert_eq!(count.get_i32("n").unwrap(), 5);
    let told = aggregate(1.into(), vec![doc! { "$documents": [{ "a": 1 }] }]);
    let told = client.ok(told).await;
    let cursor = told.get_document("cursor").unwrap();
    assert_eq!(cursor.get_str("ns").unwrap(), "db.$cmd.aggregate");
    assert_eq!(cursor.get_array("firstBatch").unwrap(), &[doc! { "a": 1 }.into()]);
    let refused = aggregate(1.into(), vec![doc! { "$match": {} }]);
    assert_eq!(client.code(refused).await, 73);
    let explained = doc! {
        "explain": { "aggregate": "c", "pipeline": [{ "$match": { "_id": 1 } }, { "$group": { "_id": null } }] },
        "verbosity": "queryPlanner", "$db": "db",
    };
    let explained = client.ok(explained).await;
    let stages = explained.get_array("stages").unwrap();
    let names = stages
        .iter()
        .map(|stage| stage.as_document().unwrap().keys().next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["$cursor", "$group"]);
}

#[tokio::test]
async fn a_get_more_may_be_answered_page_after_page() {
    const EXHAUST_ALLOWED: u32 = 1 << 16;
    let mut client = Client::connect(&wire(open_to_all()).await);
    let rows = (0..5).map(|n| doc! { "_id": n }).collect();
    client.ok(insert(rows)).await;
    let first = client.ok(doc! { "find": "c", "batchSize": 1, "$db": "db" }).await;
    let id = first.get_document("cursor").unwrap().get_i64("id").unwrap();
    let command = doc! { "getMore": id, "collection": "c", "batchSize": 2, "$db": "db" };
    client.send(EXHAUST_ALLOWED, &command, &[]).await;
    let mut pages = Vec::new();
    loop {
        let (reply, more) = client.reply_of_many().await;
        let cursor = reply.get_document("cursor").unwrap();
        pages.push(cursor.get_array("nextBatch").unwrap().len());
        assert_eq!(more, cursor.get_i64("id").unwrap() != 0);
        if !more {
            break;
        }
    }
    assert_eq!(pages.iter().sum::<usize>(), 4);
    assert!(pages.len() > 1, "{pages:?}");
    client.ok(doc! { "ping": 1, "$db": "db" }).await;
}
