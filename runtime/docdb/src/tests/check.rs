//! The check of a file that nobody has open: it finds what was damaged below the engine, says what and where, and
//! goes on; and it refuses what it can't check.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const TABLE: redb::TableDefinition<'static, &[u8], &[u8]> = redb::TableDefinition::new("cloudlet");

type Rows<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

/// A closed file with a unique and a multikey index, a log, and the number of its documents.
fn store(documents: i32) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let docs = open(Config {
        path: Some(path.clone()),
        cache_bytes: 1 << 20,
        ..Config::default()
    })
    .unwrap();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        },
    );
    make_index(&docs, index(&[("tags", -1)]));
    insert(
        &docs,
        (0..documents).map(|i| doc! { "_id": i, "u": i, "tags": [i % 5, i % 7], "text": "x".repeat(100) }),
    );
    drop(docs);
    (directory, path)
}

fn check(path: &Path) -> Result<(Verified, Vec<Finding>)> {
    let mut findings = Vec::new();
    let mut ticks = 0;
    let verified = check_file(path, 1 << 20, &mut |finding| findings.push(finding), &mut |_| {
        ticks += 1
    })?;
    assert!(ticks > 0, "nobody heard of progress");
    Ok((verified, findings))
}

/// Changes rows below the engine.
fn damage(path: &Path, change: impl FnOnce(&mut Rows<'_>)) {
    let database = redb::Database::create(path).unwrap();
    let writing = database.begin_write().unwrap();
    {
        // The table borrows its transaction, and goes before it.
        let mut table = writing.open_table(TABLE).unwrap();
        change(&mut table);
    }
    writing.commit().unwrap();
}

/// All rows whose keys begin with `kind`.
fn rows(path: &Path, kind: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    use redb::ReadableDatabase as _;
    let database = redb::Database::create(path).unwrap();
    let reading = database.begin_read().unwrap();
    let table = reading.open_table(TABLE).unwrap();
    let rows = table.range(&[kind][..]..&[kind + 1][..]).unwrap();
    rows.map(|row| {
        let (key, value) = row.unwrap();
        (key.value().to_vec(), value.value().to_vec())
    })
    .collect()
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_file_is_good_and_stays_as_it_is() {
    let (_directory, path) = store(1000);
    let (verified, findings) = check(&path).unwrap();
    assert_eq!(texts(&findings), [""; 0]);
    assert_eq!((verified.collections, verified.documents), (1, 1000));
    assert_eq!(verified.format, 6);
    // One unique key each, and one or two tags.
    assert!((2000..=3000).contains(&verified.entries), "{verified:?}");
    // The collection and its two indexes have events too.
    assert_eq!(verified.events, 1003);
    assert_eq!(check(&path).unwrap(), (verified, Vec::new()));
}

#[test]
fn each_damaged_row_is_found_with_its_place() {
    let (_directory, path) = store(300);
    let documents = rows(&path, 2);
    let entries = rows(&path, 3);
    // The unique index was made first: its entries come first, in the order of the keys.
    let unique: Vec<_> = entries
        .iter()
        .filter(|(key, _)| key[..5] == entries[0].0[..5])
        .collect();
    assert_eq!(unique.len(), 300);
    damage(&path, |table| {
        // A document that is gone from under its entries, and one that is no BSON inside.
        table.remove(&documents[10].0[..]).unwrap();
        let mut broken = documents[20].1.clone();
        let at = broken.windows(4).position(|bytes| bytes == b"text").unwrap() + 5;
        broken[at..at + 4].copy_from_slice(&[0xff; 4]);
        table.insert(&documents[20].0[..], &broken[..]).unwrap();
        // An entry that is gone, and one that names another document.
        table.remove(&unique[30].0[..]).unwrap();
        table.insert(&unique[40].0[..], &unique[41].1[..]).unwrap();
        // A document under another one's key.
        table.insert(&documents[50].0[..], &documents[51].1[..]).unwrap();
        // Rows that nobody owns.
        table.insert(&[2, 0, 0, 0, 99, 10][..], &b"lost"[..]).unwrap();
        table.insert(&[9, 9][..], &b"lost"[..]).unwrap();
    });
    let (verified, findings) = check(&path).unwrap();
    let found = texts(&findings);
    assert_eq!(verified.documents, 299);
    for expected in [
        "collection db.c: index \"u_1\": _id 10: an entry has no document",
        "collection db.c: index \"tags_-1\": _id 10: an entry has no document",
        "collection db.c: _id 20: the stored document is damaged: malformed BSON: a length is negative",
        "collection db.c: index \"u_1\": _id 30: the document has no entry",
        "collection db.c: index \"u_1\": _id 40: the unique key of the document is entered for _id 41",
        "collection db.c: index \"u_1\": _id 41: an entry is not its document's",
        "collection db.c: _id 51: the document is not under the key of its _id, but under that of 50",
        "collection db.c: index \"u_1\": _id 51: an entry is not its document's",
        "there are documents of number 00000063, which the catalog does not have",
        "there are rows of an unknown kind",
    ] {
        assert!(
            found.iter().any(|text| text == expected),
            "{expected:?} is not in {found:#?}"
        );
    }
    // Whoever stops at the first gets an error instead.
    let docs = open(Config {
        path: Some(path),
        ..Config::default()
    })
    .unwrap();
    let error = docs.verify(Deadline::NEVER).wait().unwrap_err();
    assert!(
        error.to_string().starts_with("the store is inconsistent: "),
        "{error}"
    );
}

#[test]
fn a_damaged_log_and_catalog_are_found() {
    let (_directory, path) = store(2000);
    let blocks = rows(&path, 4);
    assert!(blocks.len() > 2);
    damage(&path, |table| {
        table.remove(&blocks[1].0[..]).unwrap();
        // The next number to give out is one that is taken.
        table.insert(&b"\0next"[..], &2_u32.to_be_bytes()[..]).unwrap();
    });
    let (_, findings) = check(&path).unwrap();
    let found = texts(&findings);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].contains("has the number 2, which was not given out yet"),
        "{found:#?}"
    );
    assert!(found[2].contains("does not follow the one before"), "{found:#?}");
    damage(&path, |table| {
        let catalog = b"\x01db\0c";
        table.insert(&catalog[..], &b"nothing"[..]).unwrap();
    });
    let error = check(&path).unwrap_err();
    assert!(
        error.to_string().contains("the catalog row of db.c is damaged"),
        "{error}"
    );
}

#[test]
fn an_older_format_is_checked_and_left() {
    let (_directory, path) = store(300);
    damage(&path, |table| {
        table.insert(&b"\0format"[..], &1_u32.to_be_bytes()[..]).unwrap();
    });
    let (verified, findings) = check(&path).unwrap();
    assert_eq!((verified.format, texts(&findings)), (1, Vec::new()));
    assert_eq!(rows(&path, 0)[0].1, 1_u32.to_be_bytes());
    damage(&path, |table| {
        table.insert(&b"\0format"[..], &7_u32.to_be_bytes()[..]).unwrap();
    });
    let error = check(&path).unwrap_err();
    assert!(error.to_string().contains("format version 7"), "{error}");
}

#[test]
fn what_is_dropped_and_not_yet_removed_is_no_damage() {
    let (_directory, path) = store(300);
    damage(&path, |table| {
        table.insert(&[2, 0, 0, 0, 99, 10][..], &b"lost"[..]).unwrap();
        table.insert(&b"\0discard\x02\0\0\0\x63"[..], &b""[..]).unwrap();
    });
    assert_eq!(texts(&check(&path).unwrap().1), [""; 0]);
}

#[test]
fn what_cannot_be_checked_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let refused = |words: &str| {
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    };
    refused("No such file");
    assert!(!path.exists(), "a check made a file");
    std::fs::write(&path, b"").unwrap();
    refused("it is empty");
    std::fs::write(&path, b"somebody's text\n".repeat(1000)).unwrap();
    refused("not a database file of cloudlet");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    refused("it is not a file");

    let (_directory, ours) = store(2000);
    let docs = open(Config {
        path: Some(ours.clone()),
        ..Config::default()
    })
    .unwrap();
    let error = check(&ours).unwrap_err();
    assert_eq!(error.code(), Code::DBPathInUse);
    drop(docs);
    let whole = std::fs::read(&ours).unwrap();
    std::fs::write(&ours, &whole[..whole.len() / 3]).unwrap();
    let error = check(&ours).unwrap_err();
    assert_eq!(error.code(), Code::UnsupportedFormat, "{error}");
    // One byte of a document's text: no row is wrong by itself, but its page is.
    let mut flipped = whole;
    let at = flipped.windows(50).position(|bytes| bytes == [b'x'; 50]).unwrap();
    flipped[at] = b'y';
    std::fs::write(&ours, &flipped).unwrap();
    let outcome = check(&ours);
    assert!(
        !matches!(&outcome, Ok((_, findings)) if findings.is_empty()),
        "{outcome:?}"
    );
}
