//! The database file: it comes back as it was left, one process at a time has it, what is not one is refused, and
//! a full or failing disk costs only the operations of that while.

use std::fs;

use redb::ReadableDatabase;

use super::stores::on_disk;
use super::*;
use crate::kv::testing::Disk;

fn at(path: &std::path::Path) -> Result<Docs> {
    open(Config {
        path: Some(path.to_owned()),
        cache_bytes: 1 << 20,
        ..Config::default()
    })
}

#[test]
fn a_file_is_as_it_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let docs = at(&path).unwrap();
    make_index(
        &docs,
        IndexSpec {
            sparse: true,
            ..index(&[("a", 1), ("b", -1)])
        },
    );
    insert(&docs, [doc! { "_id": 1, "a": [1, 2], "b": 1 }]);
    let before = docs.list_indexes(&ns()).wait().unwrap();
    drop(docs);
    let docs = at(&path).unwrap();
    assert_eq!(docs.list_indexes(&ns()).wait().unwrap(), before);
    assert_eq!(
        all(&docs, query(doc! { "a": 2 })).unwrap(),
        [doc! { "_id": 1, "a": [1, 2], "b": 1 }]
    );
    assert!(
        explained(&docs, query(doc! { "a": 2 }))
            .1
            .get_bool("isMultiKey")
            .unwrap()
    );
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_second_opening_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let first = at(&path).unwrap();
    let error = at(&path).unwrap_err();
    assert_eq!(error.code(), Code::DBPathInUse);
    assert!(
        error.to_string().contains("another node or process has it open"),
        "{error}"
    );
    insert(&first, [doc! { "_id": 1 }]);
    drop(first);
    assert_eq!(ids(&at(&path).unwrap(), query(doc! {})), [1]);
}

#[test]
fn what_is_not_a_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let refused = |what: &str| {
        let before = fs::read(&path).unwrap();
        let error = at(&path).unwrap_err();
        assert_eq!(error.code(), Code::UnsupportedFormat, "{what}: {error}");
        before
    };
    let text = b"not a database, but somebody's precious text\n".repeat(1000);
    fs::write(&path, &text).unwrap();
    assert_eq!(refused("text"), text);
    assert_eq!(fs::read(&path).unwrap(), text);
    // A store of another program.
    fs::remove_file(&path).unwrap();
    let foreign = redb::Database::create(&path).unwrap();
    let writing = foreign.begin_write().unwrap();
    writing
        .open_table(redb::TableDefinition::<u64, u64>::new("theirs"))
        .unwrap();
    writing.commit().unwrap();
    drop(foreign);
    refused("foreign");
    // A torn file of ours.
    fs::remove_file(&path).unwrap();
    let docs = at(&path).unwrap();
    insert(
        &docs,
        (0..2000).map(|i| doc! { "_id": i, "text": "x".repeat(200) }),
    );
    drop(docs);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 3]).unwrap();
    refused("torn");
}

/// Makes a store and gives its file another format version, without what older ones had not.
fn of_version(path: &std::path::Path, version: u32) {
    let docs = at(path).unwrap();
    insert(&docs, [doc! { "_id": 1 }]);
    drop(docs);
    let database = redb::Database::create(path).unwrap();
    let writing = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("cloudlet");
    let mut rows = writing.open_table(table).unwrap();
    rows.insert(&b"\0format"[..], &version.to_be_bytes()[..]).unwrap();
    if version < 4 {
        rows.remove(&b"\0uuid"[..]).unwrap();
    }
    drop(rows);
    writing.commit().unwrap();
}

/// The UUID of the only collection.
fn uuid(docs: &Docs) -> [u8; 16] {
    let all = docs.describe_collections("db").wait().unwrap();
    all[0].uuid.unwrap()
}

#[test]
fn a_collection_keeps_its_uuid() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    of_version(&path, 3);
    let docs = at(&path).unwrap();
    let first = uuid(&docs);
    assert_eq!((first[6] >> 4, first[8] >> 6), (4, 2), "a random UUID");
    let to = Namespace::new("db", "d");
    docs.rename_collection(&ns(), &to, false).wait().unwrap();
    drop(docs);
    let docs = at(&path).unwrap();
    assert_eq!(uuid(&docs), first);
    docs.drop_collection(&to).wait().unwrap();
    docs.create_collection(&to).wait().unwrap();
    assert_ne!(uuid(&docs), first);
}

#[test]
fn a_view_is_as_it_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let docs = at(&path).unwrap();
    insert(&docs, [doc! { "_id": 1 }, doc! { "_id": 2 }]);
    let view = View {
        on: "c".into(),
        pipeline: vec![raw(doc! { "$match": { "_id": 2 } })],
    };
    let v = Namespace::new("db", "v");
    docs.create_view(&v, view.clone()).wait().unwrap();
    drop(docs);
    let docs = at(&path).unwrap();
    let all = docs.describe_collections("db").wait().unwrap();
    assert_eq!(all[1].view, Some(view));
    let page = docs.find(&v, Find::default(), Deadline::NEVER).wait().unwrap();
    assert_eq!(page.documents, [raw(doc! { "_id": 2 })]);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    of_version(&path, 6);
    let error = at(&path).unwrap_err();
    assert!(error.to_string().contains("format version 6"), "{error}");
}

/// Catalog rows without options are those of the versions before 3. Those before 4 have no place in an index.
#[test]
fn an_older_format_is_raised_so_that_no_older_program_passes_validators_over() {
    for version in [1, 2, 3, 4] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        of_version(&path, version);
        let docs = at(&path).unwrap();
        assert_eq!(
            docs.collection_options(&ns()).wait().unwrap(),
            CollectionOptions::default()
        );
        assert_eq!(ids(&docs, query(doc! {})), [1]);
        drop(docs);
        let database = redb::Database::open(&path).unwrap();
        let reading = database.begin_read().unwrap();
        let table = redb::TableDefinition::<&[u8], &[u8]>::new("cloudlet");
        let table = reading.open_table(table).unwrap();
        let found = table.get(&b"\0format"[..]).unwrap().unwrap();
        assert_eq!(found.value(), 5_u32.to_be_bytes());
    }
}

#[test]
fn a_full_disk_costs_the_writes_of_that_while_only() {
    let disk = Disk::new(1);
    let docs = open_on(on_disk(&disk).unwrap()).unwrap();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        },
    );
    let text = "x".repeat(3000);
    let mut stored = Vec::new();
    let mut put = |from: i32, to: i32| {
        let mut failed = 0;
        for i in from..to {
            let document = doc! { "_id": i, "u": i, "text": &text };
            match docs.insert(&ns(), inserts([document]), Deadline::NEVER).wait() {
                Ok(_) => stored.push(i),
                Err(error) => {
                    assert_eq!(error.code(), Code::OutOfDiskSpace, "{error}");
                    failed += 1;
                }
            }
        }
        (failed, stored.clone())
    };
    assert_eq!(put(0, 20).0, 0);
    disk.limit(Some(disk.used_bytes() + 100_000));
    let (failed, stored) = put(100, 200);
    assert!(failed > 0, "the disk was never full");
    // While it is full, what is there can be read.
    assert_eq!(ids(&docs, query(doc! {})), stored);
    docs.verify(Deadline::NEVER).wait().unwrap();
    disk.limit(None);
    let (failed, stored) = put(200, 220);
    assert_eq!(failed, 0);
    assert_eq!(ids(&docs, query(doc! {})), stored);
    drop(docs);
    let docs = open_on(on_disk(&disk).unwrap()).unwrap();
    assert_eq!(ids(&docs, query(doc! {})), stored);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_failed_sync_is_told_and_survived() {
    for after in 0..6 {
        let disk = Disk::new(2);
        let docs = open_on(on_disk(&disk).unwrap()).unwrap();
        insert(&docs, [doc! { "_id": 1 }]);
        disk.fail_sync_after(after);
        let mut failed = 0;
        for i in 2..10 {
            let new = Namespace::new("db", format!("c{i}"));
            failed += i32::from(
                docs.insert(&new, inserts([doc! { "_id": i }]), Deadline::NEVER)
                    .wait()
                    .is_err(),
            );
        }
        assert_eq!(failed, 1);
        insert(&docs, [doc! { "_id": 20 }]);
        assert_eq!(ids(&docs, query(doc! {})), [1, 20]);
        // The failed commit may have reached the file all the same: then its collection is there, and its id taken.
        let look = |docs: &Docs| {
            let names = docs.list_collections("db").wait().unwrap();
            (names, docs.verify(Deadline::NEVER).wait().unwrap())
        };
        let before = look(&docs);
        drop(docs);
        let docs = open_on(on_disk(&disk).unwrap()).unwrap();
        assert_eq!(look(&docs), before);
        assert_eq!(before.1.collections, before.1.documents - 1);
    }
}
