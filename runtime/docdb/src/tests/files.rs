//! The database file: it comes back as it was left, one process at a time has it, what is not one is refused, and
//! a full or failing disk costs only the operations of that while.

use std::fs;

use redb::{ReadableDatabase, ReadableTable as _};

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
        ..View::default()
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
    of_version(&path, 7);
    let error = at(&path).unwrap_err();
    assert!(error.to_string().contains("format version 7"), "{error}");
}

/// Catalog rows without options are those of the versions before 3. Those before 4 have no place in an index.
#[test]
fn an_older_format_is_raised_so_that_no_older_program_passes_validators_over() {
    for version in [1, 2, 3, 4, 5] {
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
        assert_eq!(found.value(), 6_u32.to_be_bytes());
    }
}

/// Entries of versions before 5 have the `_id` alone, and the catalog does not say that they tell more.
#[test]
fn an_index_of_an_older_version_is_used_and_does_not_cover() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let docs = at(&path).unwrap();
    make_index(&docs, index(&[("a", 1)]));
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        },
    );
    insert(&docs, (0..9).map(|i| doc! { "_id": i, "a": i % 3, "u": i }));
    drop(docs);
    let database = redb::Database::create(&path).unwrap();
    let writing = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("cloudlet");
    let mut table = writing.open_table(table).unwrap();
    table.insert(&b"\0format"[..], &4_u32.to_be_bytes()[..]).unwrap();
    let rows: Vec<(Vec<u8>, Vec<u8>)> = redb::ReadableTable::iter(&table)
        .unwrap()
        .map(|row| {
            let (key, value) = row.unwrap();
            (key.value().to_vec(), value.value().to_vec())
        })
        .collect();
    let mut entries = 0;
    for (key, value) in rows {
        let older = match key[0] {
            1 => {
                let mut row = Document::try_from(bson::RawDocument::from_bytes(&value).unwrap()).unwrap();
                for index in row.get_array_mut("indexes").unwrap() {
                    let typed = index.as_document_mut().unwrap().remove("typed");
                    assert_eq!(typed, Some(true.into()));
                }
                raw(row).into_bytes()
            }
            3 => {
                entries += 1;
                let id_bytes = usize::try_from(u32::from_be_bytes(value[..4].try_into().unwrap())).unwrap();
                // The unique one was made last.
                let unique = value.len() > 4 + 2;
                if unique {
                    value[4..4 + id_bytes].to_vec()
                } else {
                    value[..4].to_vec()
                }
            }
            _ => continue,
        };
        table.insert(&key[..], &older[..]).unwrap();
    }
    assert_eq!(entries, 18);
    drop(table);
    writing.commit().unwrap();
    drop(database);
    let docs = at(&path).unwrap();
    let check = |field: &str, covered: bool| {
        let find = Find {
            projection: Some(raw(doc! { "_id": 0, field: 1 })),
            ..query(doc! { field: { "$gte": 2 } })
        };
        let (stages, _, _) = explained(&docs, find.clone());
        let expected = if covered {
            vec!["PROJECTION_COVERED", "IXSCAN"]
        } else {
            vec!["PROJECTION_DEFAULT", "FETCH", "IXSCAN"]
        };
        assert_eq!(stages, expected, "{field}");
        all(&docs, find).unwrap()
    };
    docs.verify(Deadline::NEVER).wait().unwrap();
    assert_eq!(check("a", false), vec![doc! { "a": 2 }; 3]);
    assert_eq!(check("u", false).len(), 7);
    insert(&docs, [doc! { "_id": 9, "a": 2, "u": 9 }]);
    let twice = insert(&docs, [doc! { "_id": 10, "u": 9 }]);
    assert_eq!(twice.errors[0].error.code(), Code::DuplicateKey);
    docs.verify(Deadline::NEVER).wait().unwrap();
    assert_eq!(check("a", false).len(), 4);
    docs.drop_index(&ns(), "a_1").wait().unwrap();
    make_index(&docs, index(&[("a", 1)]));
    assert_eq!(check("a", true), vec![doc! { "a": 2 }; 4]);
    docs.verify(Deadline::NEVER).wait().unwrap();
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

/// Keys under a collation are those of one version of the tables, for a collection and for an index.
#[test]
fn keys_of_other_collation_tables_are_refused() {
    let english = || Some(raw(doc! { "locale": "en" }));
    for of_index in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let docs = at(&path).unwrap();
        let options = CollectionOptions {
            collation: english().filter(|_| !of_index),
            ..CollectionOptions::default()
        };
        docs.create_collection_with(&ns(), options).wait().unwrap();
        let spec = IndexSpec {
            collation: english(),
            ..index(&[("a", 1)])
        };
        if of_index {
            make_index(&docs, spec);
        }
        insert(&docs, [doc! { "_id": "x", "a": "y" }]);
        drop(docs);
        drop(at(&path).unwrap());
        let database = redb::Database::create(&path).unwrap();
        let writing = database.begin_write().unwrap();
        let table = redb::TableDefinition::<&[u8], &[u8]>::new("cloudlet");
        let mut rows = writing.open_table(table).unwrap();
        let key = b"\x01db\0c";
        let mut row = rows.get(&key[..]).unwrap().unwrap().value().to_vec();
        let tables = crate::collation::TABLES.as_bytes();
        let place = row
            .windows(tables.len())
            .position(|bytes| bytes == tables)
            .unwrap();
        row[place] = b'x';
        rows.insert(&key[..], &row[..]).unwrap();
        drop(rows);
        writing.commit().unwrap();
        drop(database);
        let error = at(&path).unwrap_err();
        assert_eq!(error.code(), Code::UnsupportedFormat);
        assert!(
            error.to_string().contains("collection db.c is ordered by"),
            "{error}"
        );
    }
}
