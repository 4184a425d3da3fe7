//! Collections and indexes that have a collation: who inherits it, what is found by it, what is one and the same.

use bson::Bson;
use proptest::prelude::*;

use super::*;
use crate::{CollectionOptions, IndexKind, View};

/// Sees no case.
fn loose() -> Document {
    doc! { "locale": "en", "strength": 2 }
}

fn collated(spec: IndexSpec, collation: Document) -> IndexSpec {
    IndexSpec {
        collation: Some(raw(collation)),
        ..spec
    }
}

/// A collection that sees no case.
fn loosely() -> Docs {
    let docs = memory();
    let options = CollectionOptions {
        collation: Some(raw(loose())),
        ..CollectionOptions::default()
    };
    docs.create_collection_with(&ns(), options).wait().unwrap();
    docs
}

fn locale(collation: Option<&RawDocumentBuf>) -> Option<(String, i32)> {
    collation.map(|collation| {
        let locale = collation.get_str("locale").unwrap().to_owned();
        (locale, collation.get_i32("strength").unwrap())
    })
}

fn modify(docs: &Docs, filter: Document, update: Document) -> Option<i32> {
    let modify = FindAndModify {
        filter: raw(filter),
        update: Some(raw(update)),
        ..FindAndModify::default()
    };
    let done = docs.find_and_modify(&ns(), modify, Deadline::NEVER).wait();
    let document = done.unwrap().document?;
    Some(document.get_i32("_id").unwrap())
}

#[test]
fn commands_have_their_collections_collation_unless_they_name_one() {
    let docs = loosely();
    insert(
        &docs,
        [
            doc! { "_id": 1, "s": "a" },
            doc! { "_id": 2, "s": "A" },
            doc! { "_id": 3, "s": "b" },
        ],
    );
    let simple = |filter: Document| Find {
        collation: Some(raw(doc! { "locale": "simple" })),
        ..query(filter)
    };
    assert_eq!(ids(&docs, query(doc! { "s": "A" })), [1, 2]);
    assert_eq!(ids(&docs, simple(doc! { "s": "A" })), [2]);
    let count = |find: Find| docs.count(&ns(), find, Deadline::NEVER).wait().unwrap();
    assert_eq!(
        (count(query(doc! { "s": "B" })), count(simple(doc! { "s": "B" }))),
        (1, 0)
    );
    let distinct = |find: Find| {
        docs.distinct(&ns(), "s", find, Deadline::NEVER)
            .wait()
            .unwrap()
            .len()
    };
    assert_eq!((distinct(query(doc! {})), distinct(simple(doc! {}))), (2, 3));
    let groups = |collation: Option<Document>| {
        let aggregate = Aggregate {
            pipeline: vec![raw(doc! { "$group": { "_id": "$s" } })],
            collation: collation.map(raw),
            ..Aggregate::default()
        };
        let page = docs.aggregate(&ns(), aggregate, Deadline::NEVER).wait().unwrap();
        rest(&docs, page, None).unwrap().len()
    };
    assert_eq!((groups(None), groups(Some(doc! { "locale": "simple" }))), (2, 3));
    let one = update_one(doc! { "s": "B" }, doc! { "$set": { "hit": 1 } });
    let mut other = one.clone();
    other.collation = Some(raw(doc! { "locale": "simple" }));
    let done = docs
        .update(&ns(), updates(vec![one, other]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.each, [(1, 1), (0, 0)]);
    assert_eq!(
        modify(&docs, doc! { "s": "B" }, doc! { "$set": { "hit": 2 } }),
        Some(3)
    );
    let transaction = docs.start_transaction().unwrap();
    let found = transaction
        .count(&ns(), query(doc! { "s": "A" }), Deadline::NEVER)
        .wait();
    assert_eq!(found.unwrap(), 2);
    let done = transaction
        .delete(&ns(), deletes(doc! { "s": "B" }, true), Deadline::NEVER)
        .wait();
    assert_eq!(done.unwrap().deleted, 1);
    transaction.commit().wait().unwrap();
    assert_eq!(ids(&docs, query(doc! {})), [1, 2]);
}

#[test]
fn its_ids_are_one_when_the_collation_sees_them_so() {
    let docs = loosely();
    insert(&docs, [doc! { "_id": "Key", "n": 1 }, doc! { "_id": 5, "n": 2 }]);
    let again = insert(&docs, [doc! { "_id": "KEY" }]);
    assert_eq!(again.errors[0].error.code(), Code::DuplicateKey);
    let find = query(doc! { "_id": "kEy" });
    assert_eq!(explained(&docs, find.clone()).0.last().unwrap(), "IDHACK");
    assert_eq!(all(&docs, find).unwrap(), [doc! { "_id": "Key", "n": 1 }]);
    assert_eq!(all(&docs, query(doc! { "_id": 5.0 })).unwrap().len(), 1);
    let simple = Find {
        collation: Some(raw(doc! { "locale": "simple" })),
        ..query(doc! { "_id": "key" })
    };
    assert_eq!(all(&docs, simple).unwrap().len(), 0);
    let update = update_one(doc! { "_id": "key" }, doc! { "$inc": { "n": 1 } });
    let done = docs
        .update(&ns(), updates(vec![update]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.modified, 1);
    let replace = update_one(doc! { "_id": "KEY" }, doc! { "n": 7 });
    let done = docs
        .update(&ns(), updates(vec![replace]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.modified, 1);
    assert_eq!(
        all(&docs, query(doc! { "n": 7 })).unwrap(),
        [doc! { "_id": "Key", "n": 7 }]
    );
    let sorted = Find {
        sort: Some(raw(doc! { "_id": 1 })),
        ..Find::default()
    };
    assert_eq!(all(&docs, sorted).unwrap().len(), 2);
    let done = docs
        .delete(&ns(), deletes(doc! { "_id": "KEY" }, false), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.deleted, 1);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn indexes_have_the_collections_collation_or_their_own() {
    let docs = loosely();
    make_index(&docs, index(&[("a", 1)]));
    make_index(&docs, collated(index(&[("b", 1)]), doc! { "locale": "de" }));
    make_index(&docs, collated(index(&[("c", 1)]), doc! { "locale": "simple" }));
    let indexes = docs.list_indexes(&ns()).wait().unwrap();
    let of: Vec<_> = indexes
        .iter()
        .map(|index| locale(index.collation.as_ref()))
        .collect();
    let loosely = || Some(("en".to_owned(), 2));
    assert_eq!(of, [loosely(), loosely(), Some(("de".to_owned(), 3)), None]);
    let options = docs.collection_options(&ns()).wait().unwrap();
    assert_eq!(locale(options.collation.as_ref()), loosely());
    let asked = |spec: IndexSpec| {
        docs.create_indexes(&ns(), vec![spec])
            .wait()
            .map_err(|error| error.code())
    };
    let named = |name: &str, spec: IndexSpec| IndexSpec {
        name: name.into(),
        ..spec
    };
    for (spec, expected) in [
        // There already, under the full name of its collation.
        (index(&[("a", 1)]), Ok(0)),
        (
            collated(
                index(&[("a", 1)]),
                doc! { "locale": "en", "strength": 2, "caseLevel": false },
            ),
            Ok(0),
        ),
        // The same keys under another collation are another index, which needs another name.
        (
            collated(index(&[("a", 1)]), doc! { "locale": "fr" }),
            Err(Code::IndexKeySpecsConflict),
        ),
        (
            named("french", collated(index(&[("a", 1)]), doc! { "locale": "fr" })),
            Ok(1),
        ),
        (
            named("again", index(&[("a", 1)])),
            Err(Code::IndexOptionsConflict),
        ),
        (index(&[("_id", 1)]), Ok(0)),
        (
            collated(index(&[("_id", 1)]), doc! { "locale": "fr" }),
            Err(Code::BadValue),
        ),
        (
            collated(index(&[("d", 1)]), doc! { "locale": "xx" }),
            Err(Code::BadValue),
        ),
    ] {
        assert_eq!(asked(spec.clone()), expected, "{spec:?}");
    }
}

#[test]
fn an_index_serves_strings_of_its_own_collation_only() {
    let docs = memory();
    insert(
        &docs,
        (0..20).map(|i| doc! { "_id": i, "s": if i % 2 == 0 { "a" } else { "A" }, "n": i }),
    );
    let unique = IndexSpec {
        unique: true,
        ..collated(index(&[("n", 1), ("s", 1)]), loose())
    };
    make_index(&docs, unique);
    make_index(&docs, collated(index(&[("s", 1)]), loose()));
    let under = |collation: Option<Document>, filter: Document| Find {
        collation: collation.map(raw),
        ..query(filter)
    };
    let scans = |find: Find| explained(&docs, find).0.last().unwrap().clone();
    assert_eq!(scans(under(Some(loose()), doc! { "s": "A" })), "IXSCAN");
    assert_eq!(
        scans(under(Some(loose()), doc! { "s": { "$gte": "A" } })),
        "IXSCAN"
    );
    assert_eq!(
        scans(under(Some(loose()), doc! { "s": { "$in": ["A", 5] } })),
        "IXSCAN"
    );
    assert_eq!(scans(under(None, doc! { "s": "A" })), "COLLSCAN");
    assert_eq!(scans(under(None, doc! { "s": { "$regex": "^A" } })), "COLLSCAN");
    assert_eq!(
        scans(under(Some(doc! { "locale": "en" }), doc! { "s": "A" })),
        "COLLSCAN"
    );
    // What is no string is in the same place under all of them.
    assert_eq!(scans(under(None, doc! { "n": 5 })), "IXSCAN");
    assert_eq!(scans(under(None, doc! { "s": { "$lt": 5 } })), "IXSCAN");
    let sorted = |collation: Option<Document>| Find {
        sort: Some(raw(doc! { "s": 1 })),
        ..under(collation, doc! {})
    };
    assert_eq!(scans(sorted(Some(loose()))), "IXSCAN");
    assert_eq!(scans(sorted(None)), "COLLSCAN");
    let again = insert(&docs, [doc! { "n": 3, "s": "a" }]);
    assert_eq!(again.errors[0].error.code(), Code::DuplicateKey);
    let window = |collation: Option<Document>| Find {
        hint: Some("s_1".into()),
        min: Some(raw(doc! { "s": "A" })),
        ..under(collation, doc! {})
    };
    assert_eq!(ids(&docs, window(Some(loose()))).len(), 20);
    assert_eq!(all(&docs, window(None)).unwrap_err().code(), Code::BadValue);
}

#[test]
fn a_view_has_a_collation_of_its_own() {
    let docs = loosely();
    insert(&docs, [doc! { "_id": 1, "s": "a" }, doc! { "_id": 2, "s": "A" }]);
    let make = |name: &str, on: &str, collation: Option<Document>| {
        let view = View {
            on: on.into(),
            pipeline: vec![raw(doc! { "$match": { "s": { "$lte": "a" } } })],
            collation: collation.map(raw),
        };
        let ns = Namespace::new("db", name);
        docs.create_view(&ns, view).wait().map_err(|error| error.code())
    };
    make("strict", "c", None).unwrap();
    make("loose", "c", Some(loose())).unwrap();
    let found = |name: &str, collation: Option<Document>| {
        let find = Find {
            collation: collation.map(raw),
            ..query(doc! { "s": "A" })
        };
        let page = docs
            .find(&Namespace::new("db", name), find, Deadline::NEVER)
            .wait();
        page.map(|page| page.documents.len())
            .map_err(|error| error.code())
    };
    assert_eq!((found("strict", None), found("loose", None)), (Ok(1), Ok(2)));
    assert_eq!(found("loose", Some(loose())), Ok(2));
    assert_eq!(
        found("loose", Some(doc! { "locale": "de" })),
        Err(Code::OptionNotSupportedOnView)
    );
    assert_eq!(
        found("strict", Some(loose())),
        Err(Code::OptionNotSupportedOnView)
    );
    assert_eq!(make("above", "loose", None), Err(Code::OptionNotSupportedOnView));
    make("above", "loose", Some(loose())).unwrap();
}

#[test]
fn a_validator_sees_strings_as_its_collection_does() {
    let docs = memory();
    let options = CollectionOptions {
        collation: Some(raw(loose())),
        validator: Some(raw(doc! { "s": { "$in": ["yes", "no"] } })),
        ..CollectionOptions::default()
    };
    docs.create_collection_with(&ns(), options).wait().unwrap();
    let done = insert(&docs, [doc! { "s": "YES" }, doc! { "s": "maybe" }]);
    assert_eq!((done.ids.len(), done.errors.len()), (1, 1));
}

fn text() -> impl Strategy<Value = Bson> {
    prop::sample::select(vec![
        "", "a", "A", "ab", "aB", "á", "b", "B", "ß", "ss", "10", "9",
    ])
    .prop_map(|text| Bson::String(text.to_owned()))
}

fn scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![4 => text(), 1 => (0..3_i32).prop_map(Bson::Int32), 1 => Just(Bson::Null)]
}

fn value() -> impl Strategy<Value = Bson> {
    prop_oneof![
        4 => scalar(),
        1 => scalar().prop_map(|b| Bson::Document(doc! { "b": b })),
        2 => prop::collection::vec(scalar(), 0..3).prop_map(Bson::Array),
        1 => prop::collection::vec(scalar().prop_map(|b| Bson::Document(doc! { "b": b })), 0..3).prop_map(Bson::Array),
    ]
}

fn condition() -> impl Strategy<Value = Document> {
    let path = || prop::sample::select(vec!["a", "a.b", "c", "_id"]);
    prop_oneof![
        4 => (path(), value()).prop_map(|(path, value)| doc! { path: value }),
        3 => (path(), prop::sample::select(vec!["$gt", "$gte", "$lt", "$lte", "$ne"]), scalar())
            .prop_map(|(path, operator, value)| doc! { path: { operator: value } }),
        2 => (path(), prop::collection::vec(value(), 0..3)).prop_map(|(path, values)| doc! { path: { "$in": values } }),
        1 => (scalar(), scalar()).prop_map(|(low, high)| doc! { "a": { "$gte": low, "$lt": high } }),
        1 => scalar().prop_map(|b| doc! { "a": { "$elemMatch": { "b": b } } }),
        1 => Just(doc! { "a": { "$regex": "^a" } }),
    ]
}

fn collation() -> impl Strategy<Value = Option<Document>> {
    prop::sample::select(vec![
        None,
        Some(doc! { "locale": "simple" }),
        Some(loose()),
        Some(doc! { "locale": "en", "strength": 1 }),
        Some(doc! { "locale": "de", "numericOrdering": true }),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn an_index_finds_what_a_scan_finds(
        documents in prop::collection::vec((scalar(), value(), value()), 1..16),
        of_collection in collation(),
        indexes in prop::collection::vec((collation(), 0..5_usize), 1..4),
        queries in prop::collection::vec((condition(), condition(), collation(), any::<bool>()), 1..8),
    ) {
        let docs = memory();
        let options = CollectionOptions { collation: of_collection.map(raw), ..CollectionOptions::default() };
        docs.create_collection_with(&ns(), options).wait().unwrap();
        for (n, (of_index, kind)) in indexes.into_iter().enumerate() {
            let keys: &[(&str, i32)] = match kind {
                0 => &[("a", 1)],
                1 => &[("a", -1), ("c", 1)],
                2 => &[("a.b", 1)],
                3 => &[("c", 1), ("_id", -1)],
                _ => &[("c", 1)],
            };
            let spec = IndexSpec {
                name: format!("i{n}").into(),
                kind: if kind == 4 { IndexKind::Hashed } else { IndexKind::Ordered },
                collation: of_index.map(raw),
                ..index(keys)
            };
            // Two may be the same.
            let _ = docs.create_indexes(&ns(), vec![spec]).wait();
        }
        let documents = documents.into_iter().map(|(id, a, c)| doc! { "_id": id, "a": a, "c": c });
        // Some have an _id that is there, some arrays that no hashed index takes.
        docs.insert(&ns(), Insert { ordered: false, ..inserts(documents) }, Deadline::NEVER).wait().unwrap();
        for (one, other, collation, sorted) in queries {
            let find = Find {
                collation: collation.map(raw),
                sort: sorted.then(|| raw(doc! { "c": 1, "a": -1 })),
                ..query(doc! { "$and": [one, other] })
            };
            let scan = Find { hint: Some("$natural".into()), ..find.clone() };
            let (mut found, mut scanned) = (all(&docs, find.clone()).unwrap(), all(&docs, scan).unwrap());
            prop_assert_eq!(docs.count(&ns(), find.clone(), Deadline::NEVER).wait().unwrap(), scanned.len() as u64);
            // Documents that sort alike come in any order.
            let by = |document: &Document| format!("{document:?}");
            found.sort_by_key(by);
            scanned.sort_by_key(by);
            prop_assert_eq!(found, scanned, "{:?}", find);
        }
        docs.verify(Deadline::NEVER).wait().unwrap();
    }
}
