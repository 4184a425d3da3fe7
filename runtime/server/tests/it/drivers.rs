//! A node's MongoDB listener under programs that nobody here wrote: the Rust driver, the shell, and an object mapper
//! each of Node.js and Python, all unmodified, through what an application does. Packages are kept in the test cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt as _;
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::{ClientOptions, IndexOptions, ReturnDocument};
use mongodb::{Client, IndexModel};
use serde::{Deserialize, Serialize};

use crate::harness::{App, NODE_JS, Node, Options, PYTHON, npm_packages, python_with, run};
use crate::mongo::user;

const MONGOOSE: [&str; 1] = ["mongoose@9.12.1"];
const MONGOSH: [&str; 1] = ["mongosh@2.12.0"];
const MONGOENGINE: [&str; 2] = ["mongoengine==0.29.3", "pymongo==4.20.0"];

/// A node with an app, the owner of its database, and a change log; and where a driver reaches it.
fn hotel() -> (Node, String) {
    let node = Options::default()
        .set("mongo-listen", "127.0.0.1:0")
        .set("database-change-log-bytes", "16MiB")
        .start();
    assert_eq!(
        node.deploy(&App::new("hotel").function("hello", "hello", ""))
            .status
            / 100,
        2
    );
    user(&node, "hotel", "owner", &["dbOwner"]);
    let uri = format!("mongodb://owner:secret@{}/hotel", node.mongo.unwrap());
    (node, uri)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name)
}

#[test]
fn mongoose_works_unmodified() {
    let (node, uri) = hotel();
    let mut app = Command::new("node");
    app.arg(script("mongoose.cjs"))
        .arg(npm_packages("mongoose", &MONGOOSE))
        .arg(uri);
    let out = run(NODE_JS, &mut app);
    assert!(out.contains("all well"), "{out}");
    node.stop();
}

#[test]
fn mongoengine_works_unmodified() {
    let (node, uri) = hotel();
    let mut app = Command::new(python_with("mongoengine", &MONGOENGINE));
    let out = run(PYTHON, app.arg(script("mongoengine.py")).arg(uri));
    assert!(out.contains("all well"), "{out}");
    node.stop();
}

#[test]
fn the_shell_works_unmodified() {
    let (node, uri) = hotel();
    let packages = npm_packages("mongosh", &MONGOSH);
    // The shell keeps a history and its settings in the home directory.
    let home = tempfile::tempdir().unwrap();
    let mut shell = Command::new(packages.join("node_modules/.bin/mongosh"));
    shell
        .args([&uri, "--quiet", "--file"])
        .arg(script("mongosh.js"))
        .env("HOME", home.path());
    let out = run(NODE_JS, &mut shell);
    assert!(out.contains("all well"), "{out}");
    node.stop();
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stay {
    #[serde(rename = "_id")]
    id: ObjectId,
    guest: String,
    room: i32,
    nights: Vec<i32>,
}

impl Stay {
    fn new(guest: &str, room: i32, nights: &[i32]) -> Self {
        Self {
            id: ObjectId::new(),
            guest: guest.to_owned(),
            room,
            nights: nights.to_vec(),
        }
    }
}

#[test]
fn the_rust_driver_works_unmodified() {
    let (node, uri) = hotel();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(book(&uri));
    node.stop();
}

#[test]
fn a_time_series_of_a_driver_is_exported_and_imported() {
    let (node, uri) = hotel();
    let measure = async {
        let client = Client::with_uri_str(&uri).await.unwrap();
        let hotel = client.database("hotel");
        let series = doc! { "timeField": "at", "metaField": "room", "granularity": "minutes" };
        hotel
            .run_command(doc! { "create": "warmth", "timeseries": series, "expireAfterSeconds": 3600 })
            .await
            .unwrap();
        let warmth = hotel.collection::<Document>("warmth");
        let now = bson::DateTime::now();
        let measured = [20, 21].map(|degrees| doc! { "_id": 1, "at": now, "room": 7, "degrees": degrees });
        warmth.insert_many(measured).await.unwrap();
        let found = warmth.find(doc! { "at": now, "room": 7 }).await.unwrap();
        assert_eq!(found.try_collect::<Vec<_>>().await.unwrap().len(), 2);
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(measure);
    let path = "/v1/apps/hotel/documents/warmth";
    let exported = node.admin("POST", &format!("{path}/export"), b"");
    assert_eq!(exported.status, 200, "{exported:?}");
    // The two are the same to nobody, and come again when they are imported.
    let imported = node.admin("POST", &format!("{path}/import?mode=insert"), &exported.body);
    assert_eq!(imported.json()["inserted"], 2, "{}", imported.text());
    let refused = node.admin("POST", &format!("{path}/import?mode=merge"), &exported.body);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text().contains("is a time series"), "{}", refused.text());
    let watching = App::new("hotel")
        .function("calls", "calls", "grants = { functions = [\"calls\"] }")
        .lines("[[trigger.database]]\ncollection = \"warmth\"\nfunction = \"calls\"");
    let refused = node.deploy(&watching);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text().contains("is a time series"), "{}", refused.text());
    node.stop();
}

/// An application's day: typed documents, indexes, cursors, changes in place, aggregation, transactions, a change
/// stream, files.
async fn book(uri: &str) {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(10));
    let client = Client::with_options(options).unwrap();
    let hotel = client.database("hotel");
    let stays = hotel.collection::<Stay>("stays");

    let unique = IndexOptions::builder()
        .unique(true)
        .name("one_each".to_owned())
        .build();
    let index = IndexModel::builder()
        .keys(doc! { "guest": 1, "room": -1 })
        .options(unique)
        .build();
    assert_eq!(stays.create_index(index).await.unwrap().index_name, "one_each");
    let mei = Stay::new("mei", 101, &[3, 4, 9]);
    stays.insert_one(&mei).await.unwrap();
    let taken = stays.insert_one(Stay::new("mei", 101, &[])).await.unwrap_err();
    let ErrorKind::Write(WriteFailure::WriteError(error)) = *taken.kind else {
        panic!("{taken}");
    };
    assert_eq!(error.code, 11000);
    assert!(error.message.contains("one_each"), "{}", error.message);
    // More than a batch, so that the cursor comes back for the rest.
    let many = (0..500).map(|n| Stay::new(&format!("guest {n:03}"), n % 7, &[n]));
    assert_eq!(stays.insert_many(many).await.unwrap().inserted_ids.len(), 500);
    let found = stays.find_one(doc! { "guest": "mei" }).await.unwrap();
    assert_eq!(found.as_ref(), Some(&mei));

    let in_room: Vec<Stay> = stays
        .find(doc! { "room": 3, "nights": { "$elemMatch": { "$gte": 100, "$lt": 400 } } })
        .sort(doc! { "guest": -1 })
        .skip(1)
        .batch_size(10)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let expected: Vec<i32> = (100..400).rev().filter(|n| n % 7 == 3).skip(1).collect();
    let nights: Vec<i32> = in_room.iter().map(|stay| stay.nights[0]).collect();
    assert_eq!(nights, expected);

    let changed = stays
        .update_one(
            doc! { "_id": mei.id },
            doc! { "$inc": { "nights.$[late]": 1 }, "$push": { "nights": { "$each": [1], "$position": 0 } } },
        )
        .array_filters(vec![doc! { "late": { "$gte": 4 } }])
        .await;
    // The two paths touch the same array: refused, and nothing is changed.
    let ErrorKind::Write(WriteFailure::WriteError(error)) = *changed.unwrap_err().kind else {
        panic!("another error");
    };
    assert_eq!(error.code, 40);
    let after = stays
        .find_one_and_update(doc! { "_id": mei.id }, doc! { "$inc": { "nights.$[late]": 1 } })
        .array_filters(vec![doc! { "late": { "$gte": 4 } }])
        .return_document(ReturnDocument::After)
        .await
        .unwrap();
    assert_eq!(after.unwrap().nights, [3, 5, 10]);
    let upserted = stays
        .update_one(
            doc! { "guest": "tom", "room": 5 },
            doc! { "$set": { "nights": [1] } },
        )
        .upsert(true)
        .await
        .unwrap();
    assert!(matches!(upserted.upserted_id, Some(Bson::ObjectId(_))));
    assert_eq!(
        stays.delete_many(doc! { "room": 6 }).await.unwrap().deleted_count,
        71
    );
    assert_eq!(
        stays
            .count_documents(doc! { "room": { "$lt": 6 } })
            .await
            .unwrap(),
        430
    );

    let per_room: Vec<Document> = stays
        .aggregate([
            doc! { "$match": { "room": { "$lt": 2 } } },
            doc! { "$group": { "_id": "$room", "stays": { "$sum": 1 } } },
            doc! { "$sort": { "_id": 1 } },
        ])
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(
        per_room,
        [doc! { "_id": 0, "stays": 72 }, doc! { "_id": 1, "stays": 72 }]
    );

    transactions(&client).await;
    changes(&client).await;
    files(&client).await;
    stays.drop().await.unwrap();
    assert!(
        !hotel
            .list_collection_names()
            .await
            .unwrap()
            .contains(&"stays".to_owned())
    );
}

/// Two transactions that change the same document: one goes through, the other is told to begin again.
async fn transactions(client: &Client) {
    let rooms = client.database("hotel").collection::<Document>("rooms");
    rooms.insert_one(doc! { "_id": 1, "free": 2 }).await.unwrap();
    let mut first = client.start_session().await.unwrap();
    let mut second = client.start_session().await.unwrap();
    let take = doc! { "$inc": { "free": -1 } };
    first.start_transaction().await.unwrap();
    second.start_transaction().await.unwrap();
    rooms
        .update_one(doc! { "_id": 1 }, take.clone())
        .session(&mut first)
        .await
        .unwrap();
    let refused = rooms
        .update_one(doc! { "_id": 1 }, take.clone())
        .session(&mut second)
        .await
        .unwrap_err();
    assert!(
        refused.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR),
        "{refused}"
    );
    // What is not committed is seen inside only.
    let seen = rooms.find_one(doc! { "_id": 1 }).await.unwrap().unwrap();
    assert_eq!(seen, doc! { "_id": 1, "free": 2 });
    first.commit_transaction().await.unwrap();
    second.abort_transaction().await.unwrap();

    // The driver's own loop.
    second
        .start_transaction()
        .and_run2(async |session| {
            rooms
                .update_one(doc! { "_id": 1 }, take.clone())
                .session(session)
                .await
                .map(drop)
        })
        .await
        .unwrap();
    let seen = rooms.find_one(doc! { "_id": 1 }).await.unwrap().unwrap();
    assert_eq!(seen, doc! { "_id": 1, "free": 0 });
}

async fn changes(client: &Client) {
    let notes = client.database("hotel").collection::<Document>("notes");
    let mut stream = notes.watch().await.unwrap();
    notes
        .insert_one(doc! { "_id": 1, "text": "sea view" })
        .await
        .unwrap();
    let event = stream.try_next().await.unwrap().unwrap();
    assert_eq!(event.full_document, Some(doc! { "_id": 1, "text": "sea view" }));
    let token = event.id;
    notes.delete_one(doc! { "_id": 1 }).await.unwrap();
    notes.insert_one(doc! { "_id": 2 }).await.unwrap();
    drop(stream);
    // A stream that goes on after the token tells of what came since.
    let mut stream = notes.watch().resume_after(token).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let event = stream.try_next().await.unwrap().unwrap();
        kinds.push((event.operation_type, event.document_key.unwrap()));
    }
    use mongodb::change_stream::event::OperationType;
    assert_eq!(
        kinds,
        [
            (OperationType::Delete, doc! { "_id": 1 }),
            (OperationType::Insert, doc! { "_id": 2 })
        ]
    );
}

/// GridFS: a file in chunks, read back.
async fn files(client: &Client) {
    use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bucket = client.database("hotel").gridfs_bucket(None);
    let photo: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    let mut upload = bucket.open_upload_stream("photo.jpg").await.unwrap();
    upload.write_all(&photo).await.unwrap();
    upload.close().await.unwrap();
    let mut download = bucket.open_download_stream_by_name("photo.jpg").await.unwrap();
    let mut read = Vec::new();
    download.read_to_end(&mut read).await.unwrap();
    assert!(read == photo, "the file came back changed");
}
