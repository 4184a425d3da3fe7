//! Commands with arguments that make no sense: each is answered, none ends the connection, none panics.

use bson::{Bson, Decimal128, Document, doc};
use cloudlet_wire::Settings;

use crate::client::{Client, insert, open_to_all, wire};

/// Commands with all their arguments, each to be given every odd value in turn.
fn commands() -> Vec<Document> {
    let db = "db";
    let id = bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: vec![9; 16],
    };
    vec![
        doc! {
            "find": "c", "filter": {}, "sort": { "a": 1 }, "projection": { "a": 1 }, "hint": "_id_", "skip": 0,
            "limit": 0, "batchSize": 1, "singleBatch": false, "let": {}, "min": {}, "collation": {},
            "noCursorTimeout": false, "maxTimeMS": 0, "readConcern": {}, "lsid": { "id": id.clone() },
        },
        doc! { "getMore": 1_i64, "collection": "c", "batchSize": 1 },
        doc! { "killCursors": "c", "cursors": [1_i64] },
        doc! { "count": "c", "query": {}, "limit": 0, "skip": 0, "hint": "_id_" },
        doc! { "distinct": "c", "key": "a", "query": {} },
        doc! { "aggregate": "c", "pipeline": [{ "$match": {} }], "cursor": {}, "hint": "_id_", "explain": false },
        doc! { "explain": { "find": "c" }, "verbosity": "queryPlanner" },
        doc! {
            "insert": "c", "documents": [{}], "ordered": true, "writeConcern": {}, "txnNumber": 1_i64,
            "lsid": { "id": id.clone() },
        },
        doc! {
            "update": "c", "updates": [{ "q": {}, "u": [{ "$set": { "a": "$$x" } }] }], "let": { "x": 1 },
            "lsid": { "id": id.clone() }, "txnNumber": 2_i64, "autocommit": false, "startTransaction": true,
        },
        doc! { "commitTransaction": 1, "lsid": { "id": id.clone() }, "txnNumber": 2_i64, "autocommit": false },
        doc! { "abortTransaction": 1, "lsid": { "id": id }, "txnNumber": 2_i64, "autocommit": false },
        doc! { "update": "c", "updates": [{ "q": {}, "u": { "$set": { "a": 1 } } }], "ordered": true },
        doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 1 }], "ordered": true },
        doc! {
            "findAndModify": "c", "query": {}, "sort": {}, "update": { "a": 1 }, "fields": {}, "upsert": false,
            "new": false, "remove": false, "arrayFilters": [],
        },
        doc! {
            "create": "d", "capped": false, "validator": {}, "validationLevel": "off", "validationAction": "warn",
            "changeStreamPreAndPostImages": { "enabled": true }, "collation": {},
        },
        doc! {
            "collMod": "c", "index": { "name": "z", "keyPattern": {}, "hidden": true, "expireAfterSeconds": 1 },
            "validator": {}, "validationLevel": "off", "validationAction": "warn",
        },
        doc! { "drop": "e" },
        doc! { "listCollections": 1, "filter": {}, "nameOnly": false, "cursor": {} },
        doc! { "createIndexes": "c", "indexes": [{ "key": { "z": 1 }, "name": "z" }] },
        doc! { "listIndexes": "c", "cursor": {} },
        doc! { "dropIndexes": "c", "index": "nope" },
        doc! { "dbStats": 1, "scale": 1 },
        doc! { "collStats": "c", "scale": 1 },
        doc! { "validate": "c", "full": false },
        doc! { "refreshSessions": [] },
        doc! { "endSessions": [] },
        doc! { "killAllSessions": [] },
        doc! { "createUser": "u", "pwd": "p", "roles": [], "mechanisms": ["SCRAM-SHA-256"], "customData": {} },
        doc! { "updateUser": "u", "roles": [], "customData": {} },
        doc! { "dropUser": "v" },
        doc! { "grantRolesToUser": "u", "roles": [] },
        doc! { "usersInfo": 1, "showPrivileges": false },
        doc! { "getParameter": "*" },
        doc! { "setParameter": 1, "quiet": false },
        doc! { "getLog": "global" },
        doc! { "currentOp": 1, "$ownOps": true },
        doc! { "killOp": 1, "op": 1 },
        doc! { "hello": 1, "client": {}, "compression": [], "saslSupportedMechs": "a.b", "speculativeAuthenticate": {} },
        doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": "n,,n=a,r=b", "options": {} },
        doc! { "saslContinue": 1, "conversationId": 1, "payload": "c=biws,r=b,p=" },
        doc! { "configureFailPoint": "failCommand", "mode": "off", "data": {} },
        doc! { "renameCollection": "db.x", "to": "db.y", "dropTarget": false },
        doc! { "listDatabases": 1, "filter": {}, "nameOnly": true },
    ]
    .into_iter()
    .map(|mut command| {
        command.insert("$db", db);
        command
    })
    .collect()
}

fn odd_values() -> Vec<Bson> {
    vec![
        Bson::Null,
        Bson::Undefined,
        Bson::MinKey,
        Bson::Boolean(true),
        Bson::Int32(-1),
        Bson::Int32(i32::MAX),
        Bson::Int64(i64::MIN),
        Bson::Int64(i64::MAX),
        Bson::Double(f64::NAN),
        Bson::Double(-0.5),
        Bson::Double(1e300),
        Bson::Decimal128("1E6000".parse::<Decimal128>().unwrap()),
        Bson::String(String::new()),
        Bson::String("$".to_owned()),
        Bson::String("a.".repeat(200)),
        Bson::Array(Vec::new()),
        Bson::Array(vec![Bson::Null, doc! { "": 1 }.into(), Bson::Array(Vec::new())]),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "": "" }),
        Bson::Document(doc! { "$natural": -1 }),
        Bson::Document(doc! { "batchSize": -1, "id": 1, "level": 1, "w": -1, "$and": [] }),
        Bson::Document(doc! { "a": { "$elemMatch": { "$not": { "$size": 0.5 } } } }),
    ]
}

#[tokio::test]
async fn whatever_the_arguments_there_is_an_answer() {
    let settings = Settings {
        test_commands: true,
        ..open_to_all()
    };
    let wire = wire(settings).await;
    let mut client = Client::connect(&wire);
    client.ok(insert((0..5).map(|n| doc! { "a": n }).collect())).await;
    for command in commands() {
        for argument in command.keys() {
            for odd in odd_values() {
                let mut odd_one = command.clone();
                odd_one.insert(argument, odd);
                client.send(0, &odd_one, &[]).await;
                let reply = client.reply().await;
                let reply = reply.unwrap_or_else(|| panic!("no answer to {odd_one}"));
                let ok = reply.get_f64("ok").unwrap();
                assert!(ok == 1.0 || reply.get_i32("code").is_ok(), "{odd_one}: {reply}");
                assert_ne!(reply.get_i32("code").ok(), Some(1), "{odd_one}: {reply}");
            }
        }
    }
    client.ok(doc! { "ping": 1, "$db": "db" }).await;
}
