//! Capped collections: their order, what goes when there is too much, tailable cursors, and what is refused.

use bson::doc;

use super::*;

/// A collection of at most `max` documents.
fn capped(max: u64) -> Docs {
    let docs = memory();
    bounded(&docs, 1 << 20, Some(max)).unwrap();
    docs
}

fn bounded(docs: &Docs, size: u64, max: Option<u64>) -> Result<()> {
    let options = CollectionOptions {
        capped: Some(Capped { size, max }),
        ..CollectionOptions::default()
    };
    docs.create_collection_with(&ns(), options).wait()
}

fn put(docs: &Docs, numbers: impl IntoIterator<Item = i32>) {
    let done = insert(docs, numbers.into_iter().map(|n| doc! { "_id": n, "odd": n % 2 }));
    assert!(done.errors.is_empty());
}

fn check(docs: &Docs) {
    docs.verify(Deadline::NEVER).wait().unwrap();
}

fn backward() -> Find {
    Find {
        hint: Some(NATURAL_BACKWARD.into()),
        ..Find::default()
    }
}

fn tailable(filter: Document) -> Find {
    Find {
        tailable: true,
        ..query(filter)
    }
}

/// The `_id`s of a page, and its cursor.
fn page(page: Page) -> (Vec<i32>, Option<Cursor>) {
    let id = |document: &RawDocumentBuf| document.get_i32("_id").unwrap();
    (page.documents.iter().map(id).collect(), page.cursor)
}

fn next(docs: &Docs, cursor: Cursor) -> Result<(Vec<i32>, Option<Cursor>)> {
    docs.next_page(cursor, None, Deadline::NEVER).wait().map(page)
}

#[test]
fn documents_keep_the_order_in_which_they_came() {
    let docs = capped(100);
    put(&docs, [5, 1, 4, 2]);
    assert_eq!(ids(&docs, query(doc! {})), [5, 1, 4, 2]);
    assert_eq!(ids(&docs, query(doc! { "odd": 0 })), [4, 2]);
    assert_eq!(ids(&docs, backward()), [2, 4, 1, 5]);
    let paged = Find {
        batch: Some(1),
        skip: 1,
        limit: Some(2),
        ..backward()
    };
    assert_eq!(ids(&docs, paged), [4, 1]);
    let sorted = Find {
        sort: Some(raw(doc! { "_id": 1 })),
        ..Find::default()
    };
    assert_eq!(ids(&docs, sorted), [1, 2, 4, 5]);
    assert_eq!(ids(&docs, query(doc! { "_id": { "$gte": 4 } })), [4, 5]);
    let (stages, ..) = explained(&docs, query(doc! {}));
    assert_eq!(stages, ["COLLSCAN"]);
    let count = docs.count(&ns(), query(doc! { "odd": 1 }), Deadline::NEVER);
    assert_eq!(count.wait().unwrap(), 2);
    let grouped = Aggregate {
        pipeline: vec![raw(
            doc! { "$group": { "_id": null, "all": { "$push": "$_id" } } },
        )],
        ..Aggregate::default()
    };
    let made = docs.aggregate(&ns(), grouped, Deadline::NEVER).wait().unwrap();
    assert_eq!(made.documents, [raw(doc! { "_id": null, "all": [5, 1, 4, 2] })]);
    check(&docs);
}

#[test]
fn another_collection_is_read_backward_by_its_ids() {
    let docs = memory();
    put(&docs, [5, 1, 4, 2]);
    assert_eq!(ids(&docs, backward()), [5, 4, 2, 1]);
}

#[test]
fn the_first_go_when_there_is_too_much() {
    let docs = capped(3);
    make_index(&docs, index(&[("odd", 1)]));
    put(&docs, 0..10);
    assert_eq!(ids(&docs, query(doc! {})), [7, 8, 9]);
    assert_eq!(ids(&docs, query(doc! { "odd": 1 })), [7, 9]);
    // One that went may come again.
    put(&docs, [0]);
    assert_eq!(ids(&docs, query(doc! {})), [8, 9, 0]);
    check(&docs);
    let docs = memory();
    bounded(&docs, 500, None).unwrap();
    let text = "x".repeat(150);
    insert(&docs, (0..5).map(|n| doc! { "_id": n, "text": &text }));
    assert_eq!(ids(&docs, query(doc! {})), [3, 4]);
    let large = insert(&docs, [doc! { "_id": 9, "text": "x".repeat(500) }]);
    assert_eq!(large.errors[0].error.code(), Code::BadValue);
    assert_eq!(ids(&docs, query(doc! {})), [3, 4]);
    check(&docs);
    let change = CollectionChange {
        capped_size: Some(10_000),
        capped_max: Some(3),
        ..CollectionChange::default()
    };
    docs.modify_collection(&ns(), change).wait().unwrap();
    insert(&docs, (5..8).map(|n| doc! { "_id": n, "text": &text }));
    assert_eq!(ids(&docs, query(doc! {})), [5, 6, 7]);
    check(&docs);
}

#[test]
fn documents_grow_and_go_as_in_any_collection() {
    let docs = memory();
    bounded(&docs, 400, None).unwrap();
    put(&docs, 0..4);
    let grow = update_one(doc! { "_id": 1 }, doc! { "$set": { "text": "x".repeat(300) } });
    let done = docs
        .update(&ns(), updates(vec![grow]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.modified, 1);
    assert_eq!(ids(&docs, query(doc! {})), [0, 1, 2, 3], "it keeps its place");
    check(&docs);
    put(&docs, [4]);
    assert_eq!(
        ids(&docs, query(doc! {})),
        [2, 3, 4],
        "what is too much goes with the next"
    );
    let gone = docs.delete(&ns(), deletes(doc! { "_id": 3 }, false), Deadline::NEVER);
    assert_eq!(gone.wait().unwrap().deleted, 1);
    assert_eq!(ids(&docs, query(doc! {})), [2, 4]);
    check(&docs);
    docs.drop_collection(&ns()).wait().unwrap();
    check(&docs);
    put(&docs, [3, 2]);
    assert_eq!(ids(&docs, query(doc! {})), [2, 3], "a collection like any other");
}

#[test]
fn a_failed_insert_leaves_the_order_as_it_was() {
    let docs = capped(3);
    put(&docs, 0..3);
    let done = insert(&docs, [doc! { "_id": 3 }, doc! { "_id": 2 }, doc! { "_id": 4 }]);
    assert_eq!((done.ids.len(), done.errors.len()), (1, 1));
    assert_eq!(ids(&docs, query(doc! {})), [1, 2, 3]);
    check(&docs);
}

#[test]
fn a_tailable_cursor_stays_at_the_end() {
    let docs = capped(4);
    let empty = docs
        .find(&ns(), tailable(doc! {}), Deadline::NEVER)
        .wait()
        .unwrap();
    assert!(empty.cursor.is_none(), "there is no place to stay at");
    put(&docs, 0..2);
    let first = docs
        .find(&ns(), tailable(doc! {}), Deadline::NEVER)
        .wait()
        .unwrap();
    let (found, cursor) = page(first);
    assert_eq!(found, [0, 1]);
    let (found, cursor) = next(&docs, cursor.unwrap()).unwrap();
    assert_eq!(found, [0; 0]);
    put(&docs, 2..4);
    let (found, cursor) = next(&docs, cursor.unwrap()).unwrap();
    assert_eq!(found, [2, 3]);
    // The document at which it stands goes, and others after it may have gone, too.
    put(&docs, 4..9);
    let error = next(&docs, cursor.unwrap()).unwrap_err();
    assert_eq!(error.code(), Code::CappedPositionLost);
    let first = docs
        .find(&ns(), tailable(doc! { "odd": 7 }), Deadline::NEVER)
        .wait()
        .unwrap();
    let (found, cursor) = page(first);
    assert_eq!(found, [0; 0]);
    insert(&docs, [doc! { "_id": 10, "odd": 7 }]);
    let (found, cursor) = next(&docs, cursor.unwrap()).unwrap();
    assert_eq!(found, [10], "past what did not match");
    let limited = Find {
        limit: Some(2),
        ..tailable(doc! {})
    };
    let ended = docs.find(&ns(), limited, Deadline::NEVER).wait().unwrap();
    assert!(ended.cursor.is_none() && ended.documents.len() == 2);
    docs.drop_collection(&ns()).wait().unwrap();
    let error = next(&docs, cursor.unwrap()).unwrap_err();
    assert_eq!(error.code(), Code::QueryPlanKilled);
}

#[test]
fn who_tails_is_woken_by_writes_to_the_collection() {
    // Without a change log: waking does not need one.
    let docs = limited(Limits {
        feed_bytes_max: 0,
        ..Limits::default()
    });
    bounded(&docs, 1000, None).unwrap();
    put(&docs, [0]);
    let first = docs
        .find(&ns(), tailable(doc! {}), Deadline::NEVER)
        .wait()
        .unwrap();
    let mut cursor = first.cursor.unwrap();
    for n in 1..4 {
        let changed = docs.tailed(&cursor).unwrap();
        let (found, after) = next(&docs, cursor).unwrap();
        assert_eq!(found, [0; 0]);
        put(&docs, [n]);
        changed.wait().unwrap();
        let (found, after) = next(&docs, after.unwrap()).unwrap();
        assert_eq!(found, [n]);
        cursor = after.unwrap();
    }
    let changed = docs.tailed(&cursor).unwrap();
    docs.drop_collection(&ns()).wait().unwrap();
    changed.wait().unwrap();
    put(&docs, [1, 2]);
    let find = Find {
        batch: Some(1),
        ..Find::default()
    };
    let other = docs.find(&ns(), find, Deadline::NEVER).wait().unwrap();
    assert!(docs.tailed(&other.cursor.unwrap()).is_none());
}

#[test]
fn what_a_capped_collection_can_not_be() {
    let docs = memory();
    let code = |made: Result<()>| made.unwrap_err().code();
    assert_eq!(code(bounded(&docs, 0, None)), Code::BadValue);
    assert_eq!(code(bounded(&docs, u64::MAX, None)), Code::BadValue);
    assert_eq!(code(bounded(&docs, 1, Some(1 << 40))), Code::BadValue);
    put(&docs, [1]);
    let plain = docs.find(&ns(), tailable(doc! {}), Deadline::NEVER).wait();
    assert_eq!(plain.unwrap_err().code(), Code::BadValue);
    let change = CollectionChange {
        capped_size: Some(1),
        ..CollectionChange::default()
    };
    let changed = docs.modify_collection(&ns(), change).wait();
    assert_eq!(code(changed), Code::InvalidOptions);
    let docs = capped(3);
    put(&docs, [1]);
    for refused in [
        Find {
            sort: Some(raw(doc! { "_id": 1 })),
            ..tailable(doc! {})
        },
        Find {
            hint: Some("_id_".into()),
            ..tailable(doc! {})
        },
        Find {
            tailable: true,
            ..backward()
        },
    ] {
        let page = docs.find(&ns(), refused, Deadline::NEVER).wait();
        assert_eq!(page.unwrap_err().code(), Code::BadValue);
    }
    let out = Aggregate {
        pipeline: vec![raw(doc! { "$out": "c" })],
        ..Aggregate::default()
    };
    let out = docs
        .aggregate(&Namespace::new("db", "d"), out, Deadline::NEVER)
        .wait();
    assert_eq!(out.unwrap_err().code(), Code::Location(17_152));
    let transaction = docs.start_transaction().unwrap();
    let inserted = transaction
        .insert(&ns(), inserts([doc! {}]), Deadline::NEVER)
        .wait();
    let error = inserted.unwrap().errors.remove(0).error;
    assert_eq!(error.code(), Code::OperationNotSupportedInTransaction);
}

#[test]
fn a_capped_collection_is_as_it_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config {
        path: Some(directory.path().join("db")),
        cache_bytes: 1 << 20,
        ..Config::default()
    };
    let docs = open(config()).unwrap();
    bounded(&docs, 1000, Some(3)).unwrap();
    put(&docs, [9, 3, 7, 1]);
    let options = docs.collection_options(&ns()).wait().unwrap();
    drop(docs);
    let docs = open(config()).unwrap();
    assert_eq!(docs.collection_options(&ns()).wait().unwrap(), options);
    put(&docs, [2]);
    assert_eq!(ids(&docs, query(doc! {})), [7, 1, 2]);
    check(&docs);
}

#[test]
fn a_collection_becomes_capped() {
    let docs = memory();
    insert(
        &docs,
        (0..20).rev().map(|i| doc! { "_id": i, "text": "x".repeat(100) }),
    );
    make_index(&docs, index(&[("text", 1)]));
    let convert = |size: u64| {
        let change = CollectionChange {
            convert_to_capped: Some(size),
            ..CollectionChange::default()
        };
        docs.modify_collection(&ns(), change)
            .wait()
            .map_err(|error| error.code())
    };
    assert_eq!(convert(0), Err(Code::BadValue));
    assert_eq!(docs.list_indexes(&ns()).wait().unwrap().len(), 2);
    // Ten documents of somewhat over 100 bytes each.
    let bytes = doc! { "_id": 1, "text": "x".repeat(100) };
    let bytes = raw(bytes).as_bytes().len() as u64;
    convert(bytes * 10).unwrap();
    assert_eq!(ids(&docs, query(doc! {})), (10..20).collect::<Vec<_>>());
    assert_eq!(docs.list_indexes(&ns()).wait().unwrap().len(), 1);
    let options = docs.collection_options(&ns()).wait().unwrap();
    assert_eq!(
        options.capped,
        Some(crate::Capped {
            size: bytes * 10,
            max: None
        })
    );
    insert(&docs, [doc! { "_id": 1, "text": "x".repeat(100) }]);
    assert_eq!(
        ids(&docs, query(doc! {})),
        (11..20).chain([1]).collect::<Vec<_>>()
    );
    // One that is capped already gets another size.
    convert(bytes * 2).unwrap();
    assert_eq!(ids(&docs, query(doc! {})), [19, 1]);
    docs.verify(Deadline::NEVER).wait().unwrap();
    docs.drop_collection(&ns()).wait().unwrap();
    assert_eq!(convert(4096), Err(Code::NamespaceNotFound));
}

#[test]
fn a_query_goes_on_after_a_place_that_outlived_its_cursor() {
    let docs = capped(4);
    put(&docs, [5, 1, 4, 2]);
    let natural = |after: Option<Vec<u8>>| Find {
        hint: Some("$natural".into()),
        after,
        batch: Some(2),
        ..Find::default()
    };
    let read = |find: Find| docs.find(&ns(), find, Deadline::NEVER).wait().map(page);
    let (first, cursor) = read(natural(None)).unwrap();
    let place = cursor.and_then(|cursor| cursor.place()).unwrap();
    let (rest, _) = read(natural(Some(place.clone()))).unwrap();
    assert_eq!((first, rest), (vec![5, 1], vec![4, 2]));
    // What has an order of its own has no place in this one.
    for other in [
        Find {
            hint: None,
            ..natural(Some(place.clone()))
        },
        Find {
            hint: Some("_id_".into()),
            ..natural(Some(place.clone()))
        },
        Find {
            sort: Some(raw(doc! { "odd": 1 })),
            ..natural(Some(place.clone()))
        },
    ] {
        assert_eq!(read(other).unwrap_err().code(), Code::BadValue);
    }
    // The document at the place is gone, and maybe others behind it.
    put(&docs, [7, 8]);
    let lost = read(natural(Some(place))).unwrap_err();
    assert_eq!(lost.code(), Code::CappedPositionLost);
}
