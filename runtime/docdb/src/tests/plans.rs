//! Which plan is chosen, told by `explain` and by how much is looked at. That all plans answer alike is `model`'s.

use bson::Bson;
use proptest::prelude::*;

use super::*;
use crate::sort::SortSpec;

fn filled() -> Docs {
    let docs = memory();
    insert(
        &docs,
        (0..100).map(|i| {
            doc! {
                "_id": i, "a": i % 10, "b": i, "name": format!("n{i:02}"),
                "tags": [i % 5, 50 + i % 7], "lines": [{ "x": i % 4, "y": i }, { "x": 9, "y": -i }],
            }
        }),
    );
    docs
}

fn sorted(filter: Document, sort: Document) -> Find {
    Find {
        sort: Some(raw(sort)),
        ..query(filter)
    }
}

/// The stages from the top, and what was looked at: keys, documents.
#[track_caller]
fn check(docs: &Docs, find: Find, stages: &[&str], examined: (i32, i32)) {
    let shown = format!("{:?}", find.filter);
    let (names, _, stats) = explained(docs, find);
    assert_eq!(names, stages, "{shown}");
    let of = |name: &str| stats.get_i32(name).unwrap();
    assert_eq!(
        (of("totalKeysExamined"), of("totalDocsExamined")),
        examined,
        "{shown}"
    );
}

const BY_INDEX: [&str; 2] = ["FETCH", "IXSCAN"];

#[test]
fn an_or_is_a_union_when_every_branch_has_an_index() {
    let docs = filled();
    make_index(&docs, index(&[("a", 1), ("b", 1)]));
    make_index(&docs, index(&[("name", 1)]));
    let any = || vec![doc! { "a": 3 }, doc! { "name": { "$in": ["n03", "n04"] } }];
    check(&docs, query(doc! { "$or": any() }), &["FETCH", "OR"], (12, 12));
    let found = ids(&docs, query(doc! { "$or": any() }));
    assert_eq!(found, [3, 13, 23, 33, 43, 53, 63, 73, 83, 93, 4]);
    // In pages of one, each document is still shown once.
    let paged = Find {
        batch: Some(1),
        ..query(doc! { "$or": any() })
    };
    assert_eq!(ids(&docs, paged), found);
    // What else is asked for narrows the branches.
    check(
        &docs,
        query(doc! { "b": { "$gt": 50 }, "$or": any() }),
        &["FETCH", "OR"],
        (7, 7),
    );
    check(
        &docs,
        sorted(doc! { "$or": any() }, doc! { "b": -1 }),
        &["SORT", "FETCH", "OR"],
        (12, 12),
    );
    check(
        &docs,
        query(doc! { "$or": [{ "a": 3 }, { "tags": 2 }] }),
        &["COLLSCAN"],
        (0, 100),
    );
    let (_, or, _) = explained(&docs, query(doc! { "$or": any() }));
    let inputs = or.get_array("inputStages").unwrap();
    let names = inputs
        .iter()
        .map(|stage| stage.as_document().unwrap().get_str("indexName").unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["a_1_b_1", "name_1"]);
    let count = docs.count(&ns(), query(doc! { "$or": any() }), Deadline::NEVER);
    assert_eq!(count.wait().unwrap(), 11);
}

#[test]
fn one_compound_index_gives_values_range_and_order() {
    let docs = filled();
    make_index(&docs, index(&[("a", 1), ("b", -1)]));
    check(
        &docs,
        sorted(doc! { "a": 3 }, doc! { "b": -1 }),
        &BY_INDEX,
        (10, 10),
    );
    check(
        &docs,
        sorted(doc! { "a": 3, "b": { "$gte": 50 } }, doc! { "b": 1 }),
        &BY_INDEX,
        (5, 5),
    );
    check(
        &docs,
        sorted(doc! { "a": 3 }, doc! { "a": -1, "b": 1 }),
        &BY_INDEX,
        (10, 10),
    );
    check(
        &docs,
        sorted(doc! {}, doc! { "a": -1, "b": 1 }),
        &BY_INDEX,
        (100, 100),
    );
    check(
        &docs,
        sorted(doc! { "a": { "$in": [3, 4] } }, doc! { "b": 1 }),
        &["SORT", "FETCH", "IXSCAN"],
        (20, 20),
    );
    let first = Find {
        limit: Some(1),
        ..sorted(doc! {}, doc! { "a": -1 })
    };
    check(&docs, first, &["LIMIT", "FETCH", "IXSCAN"], (1, 1));
    let (_, _, _) = explained(&docs, query(doc! { "a": 1 }));
    let explained = docs
        .explain(&ns(), query(doc! { "a": 1 }), Deadline::NEVER)
        .wait()
        .unwrap();
    let explained = Document::try_from(explained.as_ref()).unwrap();
    let rejected = explained
        .get_document("queryPlanner")
        .unwrap()
        .get_array("rejectedPlans")
        .unwrap();
    assert_eq!(rejected.len(), 1);
}

#[test]
fn arrays_bound_and_sort_as_far_as_their_elements_allow() {
    let docs = filled();
    make_index(&docs, index(&[("tags", 1), ("b", 1)]));
    make_index(&docs, index(&[("lines.x", 1), ("lines.y", 1)]));
    // The field after an array that is fixed to one value is in order.
    check(
        &docs,
        sorted(doc! { "tags": 3 }, doc! { "b": -1 }),
        &BY_INDEX,
        (20, 20),
    );
    check(
        &docs,
        sorted(doc! { "tags": 3 }, doc! { "tags": 1, "b": 1 }),
        &["SORT", "FETCH", "IXSCAN"],
        (20, 20),
    );
    // Two elements may meet two conditions, one element meets those of an $elemMatch.
    check(
        &docs,
        query(doc! { "tags": { "$gt": 1, "$lt": 4 } }),
        &BY_INDEX,
        (160, 160),
    );
    check(
        &docs,
        query(doc! { "tags": { "$elemMatch": { "$gt": 1, "$lt": 4 } } }),
        &BY_INDEX,
        (40, 40),
    );
    check(
        &docs,
        query(doc! { "lines.x": 2, "lines.y": 2 }),
        &BY_INDEX,
        (25, 25),
    );
    check(
        &docs,
        query(doc! { "lines": { "$elemMatch": { "x": 2, "y": 2 } } }),
        &BY_INDEX,
        (1, 1),
    );
    check(
        &docs,
        query(doc! { "lines": { "$elemMatch": { "x": 2, "y": { "$gt": 90 } } } }),
        &BY_INDEX,
        (2, 2),
    );
}

#[test]
fn counting_what_an_index_tells_fetches_nothing() {
    let docs = filled();
    make_index(&docs, index(&[("a", 1), ("b", -1)]));
    make_index(&docs, index(&[("tags", 1)]));
    let mut spec = index(&[("name", 1)]);
    spec.partial_filter = Some(raw(doc! { "a": { "$lt": 5 } }));
    make_index(&docs, spec);
    let examined = || docs.lanes.engine().metrics.examined.get();
    let check = |filter: Document, expected: u64, rows: u64| {
        let before = examined();
        let count = docs.count(&ns(), query(filter.clone()), Deadline::NEVER);
        assert_eq!(
            (count.wait().unwrap(), examined() - before),
            (expected, rows),
            "{filter}"
        );
    };
    check(doc! {}, 100, 100);
    check(doc! { "_id": { "$gte": 90 } }, 10, 10);
    check(doc! { "a": 3, "b": { "$gt": 50, "$lte": 83 } }, 4, 4);
    check(doc! { "a": { "$in": [1, 2, "x"] } }, 20, 20);
    check(doc! { "name": "n52", "a": { "$lt": 5 } }, 1, 1);
    check(doc! { "a": null }, 0, 0);
    // Of these the index does not tell everything.
    check(doc! { "tags": 3 }, 20, 40);
    check(doc! { "a": 3, "name": { "$ne": "n03" } }, 9, 20);
    check(doc! { "a": { "$lt": 5 }, "name": { "$regex": "^n0" } }, 5, 100);
    let count = docs.count(
        &ns(),
        Find {
            skip: 2,
            limit: Some(5),
            ..query(doc! { "a": 3 })
        },
        Deadline::NEVER,
    );
    assert_eq!(count.wait().unwrap(), 5);
}

#[test]
fn a_sort_with_a_limit_keeps_the_first_ones_only() {
    let docs = limited(Limits {
        sort_bytes_max: 200_000,
        ..Limits::default()
    });
    let text = "x".repeat(1000);
    insert(
        &docs,
        (0..800).map(|i| doc! { "_id": i, "b": (i * 7) % 800, "text": &text }),
    );
    let first = Find {
        limit: Some(3),
        ..sorted(doc! {}, doc! { "b": -1 })
    };
    assert_eq!(ids(&docs, first), [457, 114, 571]);
    let error = all(&docs, sorted(doc! {}, doc! { "b": 1 })).unwrap_err();
    assert_eq!(error.code().number(), 292);
    assert!(error.to_string().contains("allowDiskUse"), "{error}");
    make_index(&docs, index(&[("b", 1)]));
    assert_eq!(ids(&docs, sorted(doc! {}, doc! { "b": 1 })).len(), 800);
}

#[test]
fn one_field_with_arrays_sorts_when_nothing_bounds_it() {
    let docs = filled();
    make_index(&docs, index(&[("tags", 1), ("b", 1)]));
    make_index(&docs, index(&[("a", 1), ("tags", -1)]));
    make_index(&docs, index(&[("lines.x", 1), ("lines.y", 1)]));
    let by_tags = || sorted(doc! {}, doc! { "tags": 1, "b": 1 });
    check(&docs, by_tags(), &BY_INDEX, (200, 200));
    let expected: Vec<i32> = (0..5).flat_map(|tag| (0..20).map(move |i| tag + 5 * i)).collect();
    assert_eq!(ids(&docs, by_tags()), expected);
    let paged = Find {
        batch: Some(7),
        ..by_tags()
    };
    assert_eq!(ids(&docs, paged), expected, "each once");
    let first = Find {
        limit: Some(5),
        ..by_tags()
    };
    check(&docs, first, &["LIMIT", "FETCH", "IXSCAN"], (5, 5));
    check(&docs, sorted(doc! {}, doc! { "tags": -1 }), &BY_INDEX, (200, 200));
    check(
        &docs,
        sorted(doc! { "a": 3 }, doc! { "tags": 1 }),
        &BY_INDEX,
        (20, 20),
    );
    // The bound keeps out the element that counts; two fields take theirs from different elements.
    check(
        &docs,
        sorted(doc! { "tags": { "$gt": 50 } }, doc! { "tags": 1 }),
        &["SORT", "FETCH", "IXSCAN"],
        (85, 85),
    );
    check(
        &docs,
        sorted(doc! {}, doc! { "lines.x": 1, "lines.y": 1 }),
        &["SORT", "COLLSCAN"],
        (0, 100),
    );
}

fn with_arrays() -> impl Strategy<Value = Document> {
    let scalar = || prop_oneof![4 => (0..6_i32).prop_map(Bson::from), 1 => Just(Bson::Null), 1 => "[ab]".prop_map(Bson::from)];
    let many =
        move || prop_oneof![2 => scalar(), 3 => prop::collection::vec(scalar(), 0..4).prop_map(Bson::from)];
    let below = prop::collection::vec((scalar(), scalar()), 0..3).prop_map(move |all| {
        let all = all.into_iter().map(|(x, y)| doc! { "x": x, "y": y });
        Bson::from(all.collect::<Vec<_>>())
    });
    (
        prop::option::of(many()),
        prop::option::of(scalar()),
        prop::option::of(many()),
        prop::option::of(below),
    )
        .prop_map(|(a, b, c, l)| {
            let fields = [("a", a), ("b", b), ("c", c), ("l", l)];
            fields
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// By an index, whether it sorts or not, as by sorting all documents.
    #[test]
    fn indexes_with_arrays_sort_as_sorting_does(
        documents in prop::collection::vec(with_arrays(), 1..14),
        keys in prop::sample::select(vec![
            vec![("a", 1)], vec![("a", -1), ("b", 1)], vec![("b", 1), ("a", 1)], vec![("b", 1), ("a", -1), ("_id", 1)],
            vec![("l.x", 1), ("l.y", 1)], vec![("b", 1), ("l.x", 1), ("l.y", -1)], vec![("c", 1), ("b", 1), ("a", 1)],
        ]),
        filter in prop::sample::select(vec![
            doc! {}, doc! { "b": 1 }, doc! { "b": { "$gt": 1 } }, doc! { "a": { "$gt": 2 } }, doc! { "c": 1 },
            doc! { "b": { "$in": [1, 2] } }, doc! { "l.x": 1 }, doc! { "b": 2, "l": { "$elemMatch": { "x": { "$gt": 1 } } } },
        ]),
        sort in prop::sample::select(vec![
            doc! { "a": 1 }, doc! { "a": -1 }, doc! { "a": 1, "b": -1 }, doc! { "b": 1, "a": 1 }, doc! { "b": -1, "a": -1 },
            doc! { "l.x": 1 }, doc! { "l.x": 1, "l.y": 1 }, doc! { "b": 1, "l.x": -1 }, doc! { "c": 1, "a": 1 },
        ]),
        batch in prop::option::of(1..4_u32),
    ) {
        let docs = memory();
        let spec = index(&keys);
        let hint = spec.name.clone();
        make_index(&docs, spec);
        let numbered = (0_i32..).zip(documents).map(|(id, mut document)| {
            document.insert("_id", id);
            document
        });
        // Some have two arrays where the index takes one.
        let _ = docs.insert(&ns(), Insert { ordered: false, ..inserts(numbered) }, Deadline::NEVER).wait();
        let find = Find { batch, ..sorted(filter, sort.clone()) };
        let by_index = all(&docs, Find { hint: Some(hint), ..find.clone() }).unwrap();
        let scanned = all(&docs, Find { hint: Some("$natural".into()), ..find }).unwrap();
        let sort = SortSpec::parse(&raw(sort)).unwrap();
        let order = |found: &[Document]| -> Vec<Vec<u8>> {
            found.iter().map(|document| sort.sort_key(&raw(document.clone()))).collect()
        };
        prop_assert_eq!(order(&by_index), order(&scanned));
        let ids = |found: &[Document]| {
            let mut ids: Vec<i32> = found.iter().map(|document| document.get_i32("_id").unwrap()).collect();
            ids.sort_unstable();
            ids
        };
        prop_assert_eq!(ids(&by_index), ids(&scanned));
    }
}
