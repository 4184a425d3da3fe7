//! Commands under a collation: what is found, in what order, and that no index is used for what it has in another
//! order.

use super::*;
use crate::Shown;

/// A collation that sees neither case nor accents.
fn loose() -> Option<RawDocumentBuf> {
    Some(raw(doc! { "locale": "en", "strength": 1 }))
}

fn find(filter: Document) -> Find {
    Find {
        collation: loose(),
        ..query(filter)
    }
}

fn words() -> Docs {
    let docs = memory();
    insert(
        &docs,
        [
            doc! { "_id": 1, "s": "banana", "n": 1 },
            doc! { "_id": 2, "s": "Äpfel", "n": 2 },
            doc! { "_id": 3, "s": "apfel", "n": 3 },
            doc! { "_id": 4, "s": ["Zebra", "BANANA"], "n": 4 },
            doc! { "_id": 5, "d": { "s": "APFEL" }, "n": 5 },
            doc! { "_id": 6, "s": 7, "n": 6 },
        ],
    );
    docs
}

#[test]
fn filters_see_strings_as_the_collation_does_with_and_without_an_index() {
    let docs = words();
    for round in 0..2 {
        for (filter, expected) in [
            (doc! { "s": "APFEL" }, vec![2, 3]),
            (doc! { "s": { "$in": ["x", "BanAna", 7] } }, vec![1, 4, 6]),
            (doc! { "s": { "$gt": "apfel", "$lt": "BZ" } }, vec![1, 4]),
            (doc! { "s": { "$gte": "zebra" } }, vec![4]),
            (doc! { "s": { "$ne": "apfel" } }, vec![1, 4, 5, 6]),
            (doc! { "s": { "$not": { "$lte": "b" } } }, vec![1, 4, 5, 6]),
            (doc! { "s": { "$elemMatch": { "$eq": "banana" } } }, vec![4]),
            (doc! { "d": { "s": "äpfel" } }, vec![5]),
            (doc! { "d": { "$elemMatch": { "s": "äpfel" } } }, vec![]),
            (doc! { "s": { "$gt": 5 } }, vec![6]),
            (doc! { "$or": [{ "s": "BANANA" }, { "n": 6 }] }, vec![1, 4, 6]),
            (doc! { "$expr": { "$eq": ["$s", "APFEL"] } }, vec![2, 3]),
            (doc! { "$expr": { "$in": ["$s", ["BANANA", "x"]] } }, vec![1]),
            (doc! { "s": { "$regex": "^APF" } }, vec![]),
        ] {
            let mut found = ids(&docs, find(filter.clone()));
            found.sort_unstable();
            assert_eq!(found, expected, "{round} {filter}");
            let count = docs.count(&ns(), find(filter), Deadline::NEVER);
            assert_eq!(count.wait().unwrap(), expected.len() as u64);
        }
        if round == 0 {
            make_index(&docs, index(&[("s", 1)]));
            make_index(&docs, index(&[("d.s", 1)]));
        }
    }
    assert_eq!(explained(&docs, find(doc! { "s": "APFEL" })).0, ["COLLSCAN"]);
    assert_eq!(
        explained(&docs, find(doc! { "s": { "$gt": 5 } })).0,
        ["FETCH", "IXSCAN"]
    );
    let simple = Find {
        collation: Some(raw(doc! { "locale": "simple" })),
        ..query(doc! { "s": "apfel" })
    };
    assert_eq!(explained(&docs, simple.clone()).0, ["FETCH", "IXSCAN"]);
    assert_eq!(ids(&docs, simple), [3]);
}

#[test]
fn an_id_that_is_a_string_is_looked_for_too() {
    let docs = memory();
    insert(
        &docs,
        [doc! { "_id": "a" }, doc! { "_id": "A" }, doc! { "_id": "b" }],
    );
    assert_eq!(all(&docs, find(doc! { "_id": "A" })).unwrap().len(), 2);
    let sorted = Find {
        sort: Some(raw(doc! { "_id": 1 })),
        ..find(doc! {})
    };
    let found = all(&docs, sorted).unwrap();
    // Alike are "A" and "a", which stay in the order they were found in.
    assert_eq!(
        found,
        [doc! { "_id": "A" }, doc! { "_id": "a" }, doc! { "_id": "b" }]
    );
}

#[test]
fn sorts_are_in_the_order_of_the_language() {
    let docs = words();
    make_index(&docs, index(&[("s", 1)]));
    for batch in [1, 100] {
        let sorted = |direction: i32| Find {
            filter: raw(doc! { "s": { "$type": "string" } }),
            collation: Some(raw(doc! { "locale": "de" })),
            sort: Some(raw(doc! { "s": direction })),
            batch: Some(batch),
            ..Find::default()
        };
        assert_eq!(ids(&docs, sorted(1)), [3, 2, 1, 4]);
        assert_eq!(ids(&docs, sorted(-1)), [4, 1, 2, 3]);
    }
}

#[test]
fn distinct_and_group_have_one_of_those_that_are_alike() {
    let docs = words();
    let of = find(doc! { "n": { "$lt": 5 } });
    let found = docs.distinct(&ns(), "s", of, Deadline::NEVER).wait().unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
    let aggregate = |pipeline: Vec<Document>| Aggregate {
        pipeline: pipeline.into_iter().map(raw).collect(),
        collation: Some(raw(doc! { "locale": "en", "strength": 1 })),
        ..Aggregate::default()
    };
    let pipeline = vec![
        doc! { "$match": { "s": { "$in": ["APFEL", "banana"] }, "n": { "$lt": 4 } } },
        doc! { "$sort": { "s": -1, "n": 1 } },
        doc! { "$group": { "_id": "$s", "n": { "$push": "$n" }, "is": { "$first": { "$eq": ["$s", "BANANA"] } } } },
        doc! { "$sort": { "_id": 1 } },
    ];
    let page = docs
        .aggregate(&ns(), aggregate(pipeline), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(
        rest(&docs, page, None).unwrap(),
        [
            doc! { "_id": "Äpfel", "n": [2, 3], "is": false },
            doc! { "_id": "banana", "n": [1], "is": true },
        ]
    );
    for stage in [
        doc! { "$group": { "_id": null, "all": { "$addToSet": "$s" } } },
        doc! { "$project": { "s": { "$setUnion": ["$s", ["x"]] } } },
        doc! { "$bucketAuto": { "groupBy": "$s", "buckets": 2 } },
    ] {
        let refused = docs
            .aggregate(&ns(), aggregate(vec![stage.clone()]), Deadline::NEVER)
            .wait();
        assert_eq!(refused.unwrap_err().code(), Code::CommandNotSupported, "{stage}");
    }
}

#[test]
fn lookups_join_strings_so_too() {
    let docs = words();
    let other = Namespace::new("db", "names");
    let names = [
        doc! { "_id": 1, "n": "BANANA" },
        doc! { "_id": 2, "n": ["x", "apfel"] },
        doc! { "_id": 3, "n": 7 },
    ];
    docs.insert(&other, inserts(names), Deadline::NEVER)
        .wait()
        .unwrap();
    let joined = || {
        let lookup = doc! { "from": "names", "localField": "s", "foreignField": "n", "as": "j" };
        let aggregate = Aggregate {
            pipeline: vec![
                raw(doc! { "$lookup": lookup }),
                raw(doc! { "$sort": { "_id": 1 } }),
            ],
            collation: loose(),
            ..Aggregate::default()
        };
        let page = docs.aggregate(&ns(), aggregate, Deadline::NEVER).wait().unwrap();
        let found = rest(&docs, page, None).unwrap();
        let ids = |row: &Document| -> Vec<i32> {
            let joined = row.get_array("j").unwrap().iter();
            joined
                .map(|one| one.as_document().unwrap().get_i32("_id").unwrap())
                .collect()
        };
        found.iter().map(ids).collect::<Vec<_>>()
    };
    let expected = vec![vec![1], vec![2], vec![2], vec![1], vec![], vec![3]];
    // By a table of the other collection, by an index of another collation beside it, and by one of its own.
    assert_eq!(joined(), expected);
    docs.create_indexes(&other, vec![index(&[("n", 1)])])
        .wait()
        .unwrap();
    assert_eq!(joined(), expected);
    let own = IndexSpec {
        name: "own".into(),
        collation: loose(),
        ..index(&[("n", 1)])
    };
    docs.create_indexes(&other, vec![own]).wait().unwrap();
    assert_eq!(joined(), expected);
}

#[test]
fn writes_find_their_documents_so_too() {
    let docs = words();
    let mut statement = update_one(doc! { "s": "APFEL" }, doc! { "$set": { "hit": true } });
    statement.collation = loose();
    statement.multi = true;
    let mut upsert = update_one(doc! { "s": "Cherry" }, doc! { "$set": { "new": true } });
    upsert.collation = loose();
    upsert.upsert = true;
    let done = docs
        .update(&ns(), updates(vec![statement, upsert]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!((done.matched, done.upserted.len()), (2, 1));
    assert_eq!(done.each, [(2, 2), (0, 0)]);
    assert_eq!(
        all(&docs, query(doc! { "s": "Cherry", "new": true }))
            .unwrap()
            .len(),
        1
    );
    let mut delete = deletes(doc! { "s": "BANANA" }, true);
    delete.statements[0].collation = loose();
    let done = docs.delete(&ns(), delete, Deadline::NEVER).wait().unwrap();
    assert_eq!((done.deleted, done.each), (2, vec![2]));
    let modify = FindAndModify {
        filter: raw(doc! { "s": "ÄPFEL" }),
        collation: loose(),
        sort: Some(raw(doc! { "n": -1 })),
        ..FindAndModify::default()
    };
    let done = docs
        .find_and_modify(&ns(), modify, Deadline::NEVER)
        .wait()
        .unwrap();
    let document = Document::try_from(done.document.unwrap().as_ref()).unwrap();
    assert_eq!(document.get_i32("_id").unwrap(), 3);
}

#[test]
fn updates_compare_strings_so_too() {
    let check = |before: Document, update: Document, filters: &[Document], after: Document| {
        let docs = memory();
        let mut before = before;
        before.insert("_id", 1);
        insert(&docs, [before]);
        let statement = UpdateOne {
            array_filters: filters.iter().cloned().map(raw).collect(),
            collation: loose(),
            ..update_one(doc! {}, update.clone())
        };
        let done = docs
            .update(&ns(), updates(vec![statement]), Deadline::NEVER)
            .wait()
            .unwrap();
        assert!(done.errors.is_empty(), "{update}: {:?}", done.errors);
        let mut found = all(&docs, query(doc! {})).unwrap().remove(0);
        found.remove("_id");
        assert_eq!(found, after, "{update}");
    };
    let list = || doc! { "a": ["B", "a", "Á", 5] };
    check(
        list(),
        doc! { "$pull": { "a": "A" } },
        &[],
        doc! { "a": ["B", 5] },
    );
    check(
        list(),
        doc! { "$pull": { "a": { "$in": ["b"] } } },
        &[],
        doc! { "a": ["a", "Á", 5] },
    );
    check(
        list(),
        doc! { "$pullAll": { "a": ["á", 5] } },
        &[],
        doc! { "a": ["B"] },
    );
    check(
        list(),
        doc! { "$addToSet": { "a": { "$each": ["b", "c", "C"] } } },
        &[],
        doc! { "a": ["B", "a", "Á", 5, "c"] },
    );
    check(
        list(),
        doc! { "$push": { "a": { "$each": [], "$sort": 1 } } },
        &[],
        doc! { "a": [5, "a", "Á", "B"] },
    );
    check(
        list(),
        doc! { "$set": { "a.$[x]": 0 } },
        &[doc! { "x": "A" }],
        doc! { "a": ["B", 0, 0, 5] },
    );
    check(
        doc! { "s": "b" },
        doc! { "$min": { "s": "B" } },
        &[],
        doc! { "s": "b" },
    );
    check(
        doc! { "s": "b" },
        doc! { "$min": { "s": "A" } },
        &[],
        doc! { "s": "A" },
    );
    check(
        doc! { "s": "b" },
        doc! { "$max": { "s": "C" } },
        &[],
        doc! { "s": "C" },
    );
    let rows = doc! { "r": [{ "k": "b" }, { "k": "A" }, { "k": "C" }] };
    check(
        rows.clone(),
        doc! { "$push": { "r": { "$each": [], "$sort": { "k": 1 } } } },
        &[],
        doc! { "r": [{ "k": "A" }, { "k": "b" }, { "k": "C" }] },
    );
    check(
        rows,
        doc! { "$pull": { "r": { "k": "c" } } },
        &[],
        doc! { "r": [{ "k": "b" }, { "k": "A" }] },
    );
}

#[test]
fn a_filter_has_no_room_for_what_goes_with_it() {
    let docs = words();
    for name in ["$sort", "$variables", "$collation"] {
        let filter = || doc! { name: { "n": 1 }, "n": 1 };
        let refused = [
            all(&docs, query(filter())).map(|_| ()).unwrap_err(),
            docs.count(&ns(), query(filter()), Deadline::NEVER)
                .wait()
                .unwrap_err(),
            docs.distinct(&ns(), "s", query(filter()), Deadline::NEVER)
                .wait()
                .unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.code(), Code::BadValue, "{name}");
            assert_eq!(error.to_string(), format!("unknown top level operator: {name}"));
        }
        let statement = update_one(filter(), doc! { "$set": { "hit": true } });
        let done = docs
            .update(&ns(), updates(vec![statement]), Deadline::NEVER)
            .wait()
            .unwrap();
        assert_eq!(done.errors[0].error.code(), Code::BadValue);
        let done = docs
            .delete(&ns(), deletes(filter(), true), Deadline::NEVER)
            .wait()
            .unwrap();
        assert_eq!((done.deleted, done.errors[0].error.code()), (0, Code::BadValue));
        let modify = FindAndModify {
            filter: raw(filter()),
            ..FindAndModify::default()
        };
        let refused = docs
            .find_and_modify(&ns(), modify, Deadline::NEVER)
            .wait()
            .unwrap_err();
        assert_eq!(refused.code(), Code::BadValue);
    }
}

#[test]
fn an_update_of_one_document_may_have_a_sort() {
    let docs = words();
    let mut statement = update_one(doc! { "n": { "$lt": 5 } }, doc! { "$set": { "hit": true } });
    statement.sort = Some(raw(doc! { "n": -1 }));
    let mut wrong = statement.clone();
    wrong.multi = true;
    let done = docs
        .update(&ns(), updates(vec![statement, wrong]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!((done.matched, done.errors.len()), (1, 1));
    assert_eq!(done.errors[0].error.code(), Code::FailedToParse);
    assert_eq!(ids(&docs, query(doc! { "hit": true })), [4]);
}

#[test]
fn keys_and_places_are_shown() {
    let docs = memory();
    insert(
        &docs,
        [
            doc! { "_id": 2, "a": { "b": 1 }, "c": 5 },
            doc! { "_id": 1, "a": { "b": 2 } },
        ],
    );
    make_index(&docs, index(&[("a.b", 1), ("c", 1)]));
    let shown = |filter: Document, sort: Option<Document>, shown: Shown| {
        let find = Find {
            sort: sort.map(raw),
            batch: Some(1),
            shown,
            ..query(filter)
        };
        all(&docs, find)
    };
    let keys = Shown::IndexKeys;
    assert_eq!(
        shown(doc! { "a.b": { "$gt": 0 } }, None, keys).unwrap(),
        [doc! { "a.b": 1, "c": 5 }, doc! { "a.b": 2, "c": null }]
    );
    assert_eq!(
        shown(doc! {}, Some(doc! { "_id": 1 }), keys).unwrap(),
        [doc! { "_id": 1 }, doc! { "_id": 2 }]
    );
    assert_eq!(shown(doc! {}, None, keys).unwrap(), [doc! {}, doc! {}]);
    let places = shown(doc! {}, None, Shown::WithRecordId).unwrap();
    let place = |n: usize| places[n].get_binary_generic("$recordId").unwrap().clone();
    assert!(place(0) < place(1) && places[0].contains_key("a"));
    insert(&docs, [doc! { "_id": 3, "a": { "b": [1, 2] } }]);
    let refused = shown(doc! { "a.b": 1 }, None, keys).unwrap_err();
    assert_eq!(refused.code(), Code::CommandNotSupported);
}
