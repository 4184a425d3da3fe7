//! Queries that the entries of an index answer without the documents: when they do, and that the answers are those of
//! the documents, byte for byte.

use bson::{Bson, RawDocumentBuf};
use proptest::prelude::*;

use super::*;
use crate::Code;
use crate::properties::value;

fn projected(filter: Document, projection: Document) -> Find {
    Find {
        projection: Some(raw(projection)),
        ..query(filter)
    }
}

/// Whether a query spares the documents: its stages say so, and it examines none.
#[track_caller]
fn is_covered(docs: &Docs, find: Find) -> bool {
    let (names, _, stats) = explained(docs, find);
    let covered = names.iter().any(|name| name == "PROJECTION_COVERED");
    assert_eq!(
        covered,
        !names.iter().any(|name| name == "FETCH" || name == "COLLSCAN")
    );
    assert_eq!(covered, stats.get_i32("totalDocsExamined").unwrap() == 0);
    covered
}

#[test]
fn what_the_entries_tell_is_not_fetched() {
    let docs = memory();
    insert(
        &docs,
        (0..20).map(
            |i| doc! { "_id": i, "b": i64::from(i % 5), "a": f64::from(i), "text": "x", "in": { "side": i } },
        ),
    );
    make_index(&docs, index(&[("a", 1), ("b", -1)]));
    make_index(&docs, index(&[("in.side", 1)]));
    let covered = |filter: Document, projection: Document| is_covered(&docs, projected(filter, projection));
    let only = || doc! { "_id": 0, "a": 1, "b": 1 };
    assert!(covered(doc! { "a": { "$gt": 3 } }, only()));
    assert!(covered(doc! { "a": 3 }, doc! { "_id": 0, "b": 1 }));
    assert!(covered(
        doc! { "a": { "$gt": 3 }, "b": { "$mod": [2, 0] } },
        only()
    ));
    let sorted = |sort: Document| Find {
        sort: Some(raw(sort)),
        ..projected(doc! { "a": { "$gt": 3 } }, only())
    };
    assert!(is_covered(&docs, sorted(doc! { "a": -1 })));
    assert!(is_covered(&docs, sorted(doc! { "b": 1 })));
    assert!(!is_covered(&docs, sorted(doc! { "text": 1 })));
    // What is not in the index.
    assert!(!covered(doc! { "a": 3 }, doc! { "a": 1 }));
    assert!(!covered(doc! { "a": 3 }, doc! { "_id": 0, "text": 1 }));
    assert!(!covered(doc! { "a": 3, "text": "x" }, only()));
    assert!(!covered(doc! { "a": 3 }, doc! { "text": 0 }));
    assert!(!covered(
        doc! { "a": 3 },
        doc! { "_id": 0, "a": { "$add": ["$a", 1] } }
    ));
    assert!(!covered(doc! { "in.side": 3 }, doc! { "_id": 0, "in.side": 1 }));
    assert_eq!(
        all(&docs, projected(doc! { "a": { "$gte": 17 } }, only())).unwrap(),
        [
            doc! { "b": 2_i64, "a": 17.0 },
            doc! { "b": 3_i64, "a": 18.0 },
            doc! { "b": 4_i64, "a": 19.0 },
        ],
        "in the order of the document"
    );
    // The first array ends it.
    insert(&docs, [doc! { "_id": 20, "a": 17, "b": [1, 2] }]);
    assert!(!covered(doc! { "a": 17 }, only()));
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn an_entry_tells_of_a_change_that_its_key_does_not() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        },
    );
    make_index(&docs, index(&[("a", 1)]));
    insert(
        &docs,
        [doc! { "_id": 1, "a": 1, "u": 1 }, doc! { "_id": 2, "u": 2 }],
    );
    let set = |id: i32, update: Document| {
        let statement = UpdateOne {
            filter: raw(doc! { "_id": id }),
            update: raw(update),
            ..UpdateOne::default()
        };
        let update = Update {
            statements: vec![statement],
            ordered: true,
            ..Update::default()
        };
        let updated = docs.update(&ns(), update, Deadline::NEVER).wait().unwrap();
        assert!(updated.errors.is_empty());
        docs.verify(Deadline::NEVER).wait().unwrap();
    };
    let check = |field: &str, filter: Document, expected: Vec<Document>| {
        let find = projected(filter, doc! { "_id": 0, field: 1 });
        assert!(is_covered(&docs, find.clone()));
        assert_eq!(all(&docs, find).unwrap(), expected);
    };
    for one in [Bson::Int64(1), Bson::Double(1.0), Bson::Int32(1)] {
        set(1, doc! { "$set": { "a": one.clone(), "u": one.clone() } });
        check("a", doc! { "a": 1 }, vec![doc! { "a": one.clone() }]);
        check("u", doc! { "u": 1 }, vec![doc! { "u": one }]);
    }
    check("a", doc! { "a": null }, vec![doc! {}]);
    set(2, doc! { "$set": { "a": null } });
    check("a", doc! { "a": null }, vec![doc! { "a": null }]);
    // A field beside it moves to another place, and takes the other's with it.
    set(2, doc! { "$unset": { "u": 1 } });
    set(2, doc! { "$set": { "u": 7 } });
    check("u", doc! { "u": 7 }, vec![doc! { "u": 7 }]);
}

#[test]
fn counts_and_distinct_values_are_covered_too() {
    let docs = memory();
    insert(
        &docs,
        (0..50).map(|i| doc! { "_id": i, "a": i % 10, "b": format!("n{i}"), "c": 1 }),
    );
    make_index(&docs, index(&[("a", 1), ("b", 1)]));
    let examined = || docs.lanes.engine().metrics.examined.get();
    let before = examined();
    let find = |filter: Document| Find {
        filter: raw(filter),
        ..Find::default()
    };
    let filter = doc! { "a": { "$lt": 5 }, "b": { "$regex": "7$" } };
    let count = docs.count(&ns(), find(filter), Deadline::NEVER).wait().unwrap();
    assert_eq!((count, examined() - before), (0, 25), "entries alone");
    let before = examined();
    let distinct = docs.distinct(&ns(), "b", find(doc! { "a": 3 }), Deadline::NEVER);
    assert_eq!(distinct.wait().unwrap().len(), 5);
    assert_eq!(examined() - before, 5);
    let before = examined();
    let distinct = docs.distinct(&ns(), "c", find(doc! { "a": 3 }), Deadline::NEVER);
    assert_eq!(distinct.wait().unwrap().len(), 1);
    assert_eq!(examined() - before, 10, "not in the index");
}

fn field() -> impl Strategy<Value = Option<Bson>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(Bson::Null)), 6 => value().prop_map(Some)]
}

/// Documents with the fields in any order, few of them with arrays.
fn document() -> impl Strategy<Value = Document> {
    let plain = |value: &Option<Bson>| !matches!(value, Some(Bson::Array(_)));
    let field = move || prop_oneof![12 => field().prop_filter("no array", plain), 1 => field()];
    (field(), field(), 0..6_usize).prop_map(|(a, b, order)| {
        let mut fields = vec![("t", Some(Bson::from("x"))), ("a", a), ("b", b)];
        fields.swap(0, order % 3);
        fields.swap(1, 1 + order / 3);
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    })
}

fn filter() -> impl Strategy<Value = Document> {
    let name = || prop::sample::select(vec!["a", "b"]);
    let operator = prop::sample::select(vec!["$gt", "$gte", "$lt", "$lte", "$eq", "$ne"]);
    prop_oneof![
        Just(doc! {}),
        (
            name(),
            operator,
            value().prop_filter("an argument", |v| !matches!(
                v,
                Bson::RegularExpression(_) | Bson::Undefined
            ))
        )
            .prop_map(|(name, operator, value)| doc! { name: { operator: value } }),
        name().prop_map(|name| doc! { name: { "$exists": true } }),
        name().prop_map(|name| doc! { name: null }),
        name().prop_map(|name| doc! { name: { "$type": "number" } }),
    ]
}

fn bytes(docs: &Docs, find: Find) -> Result<Vec<RawDocumentBuf>> {
    let batch = find.batch;
    let mut page = docs.find(&ns(), find, Deadline::NEVER).wait()?;
    let mut found = std::mem::take(&mut page.documents);
    while let Some(cursor) = page.cursor {
        page = docs.next_page(cursor, batch, Deadline::NEVER).wait()?;
        found.append(&mut page.documents);
    }
    found.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn covered_answers_are_those_of_the_documents(
        documents in prop::collection::vec(document(), 1..12),
        later in prop::collection::vec(document(), 0..4),
        keys in prop::sample::select(vec![vec![("a", 1)], vec![("a", 1), ("b", -1)], vec![("b", -1), ("a", 1)], vec![("a", -1), ("t", 1), ("b", 1)]]),
        sparse in any::<bool>(),
        partial in any::<bool>(),
        filter in filter(),
        shown in prop::sample::select(vec![doc! { "_id": 0, "a": 1 }, doc! { "_id": 0, "b": 1 }, doc! { "_id": 0, "b": 1, "a": 1 }]),
        sort in prop::option::of(prop::sample::select(vec![doc! { "a": 1 }, doc! { "b": -1, "a": 1 }])),
        batch in prop::option::of(1..4_u32),
    ) {
        let docs = memory();
        let numbered = |documents: &[Document]| {
            let mut out = Vec::new();
            for (id, document) in (0_i32..).zip(documents) {
                let mut numbered = doc! { "_id": id };
                numbered.extend(document.clone());
                out.push(numbered);
            }
            out
        };
        let _ = docs.insert(&ns(), Insert { ordered: false, ..inserts(numbered(&documents)) }, Deadline::NEVER).wait();
        let mut spec = index(&keys);
        spec.sparse = sparse && !partial;
        spec.partial_filter = partial.then(|| raw(doc! { "t": { "$exists": true } }));
        let hint = spec.name.clone();
        // Two arrays in one document's keys are refused, and leave no index to try.
        if let Err(error) = docs.create_indexes(&ns(), vec![spec]).wait() {
            prop_assert_eq!(error.code(), Code::CannotIndexParallelArrays);
            return Ok(());
        }
        // Changes keep the entries up.
        for document in numbered(&later) {
            let statement = UpdateOne {
                filter: raw(doc! { "_id": document.get_i32("_id").unwrap() }),
                update: raw(document),
                ..UpdateOne::default()
            };
            let update = Update { statements: vec![statement], ordered: true, ..Update::default() };
            let _ = docs.update(&ns(), update, Deadline::NEVER).wait();
        }
        prop_assert!(docs.verify(Deadline::NEVER).wait().is_ok());
        let mut filter = filter;
        if partial {
            filter.insert("t", doc! { "$exists": true });
        }
        // Of a sparse index a hint leaves out what it lacks: here all that has neither field.
        if sparse && !partial {
            let any = keys.iter().map(|(name, _)| doc! { *name: { "$exists": true } }).collect::<Vec<_>>();
            filter = doc! { "$and": [filter, { "$or": any }] };
        }
        let find = Find { sort: sort.map(raw), batch, ..projected(filter.clone(), shown.clone()) };
        let by_index = bytes(&docs, Find { hint: Some(hint), ..find.clone() });
        let scanned = bytes(&docs, Find { hint: Some("$natural".into()), ..find });
        match (by_index, scanned) {
            (Ok(by_index), Ok(scanned)) => prop_assert_eq!(by_index, scanned),
            (by_index, scanned) => prop_assert_eq!(by_index.is_err(), scanned.is_err()),
        }
    }
}
