//! Aggregations through `Docs`: each stage by what comes out of it, cursors, limits, `$out` and `$merge`, `$expr`,
//! computed projections, updates with a pipeline, and random pipelines against a naive reading of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, bson, doc};
use proptest::prelude::*;

use super::*;

fn stages(pipeline: Vec<Document>) -> Aggregate {
    Aggregate {
        pipeline: pipeline.into_iter().map(raw).collect(),
        ..Aggregate::default()
    }
}

fn run_on(docs: &Docs, ns: &Namespace, aggregate: Aggregate) -> Result<Vec<Document>> {
    let batch = aggregate.batch;
    let page = docs.aggregate(ns, aggregate, Deadline::NEVER).wait()?;
    rest(docs, page, batch)
}

fn run(docs: &Docs, pipeline: Vec<Document>) -> Result<Vec<Document>> {
    run_on(docs, &ns(), stages(pipeline))
}

#[track_caller]
fn check(docs: &Docs, pipeline: Vec<Document>, expected: Vec<Document>) {
    assert_eq!(run(docs, pipeline.clone()).unwrap(), expected, "{pipeline:?}");
}

#[track_caller]
fn fails(docs: &Docs, pipeline: Vec<Document>, number: i32) {
    let error = run(docs, pipeline.clone()).unwrap_err();
    assert_eq!(error.code().number(), number, "{pipeline:?}: {error}");
}

fn orders() -> Docs {
    let docs = memory();
    insert(
        &docs,
        [
            doc! { "_id": 1, "item": "a", "qty": 2, "price": 10, "tags": ["x", "y"] },
            doc! { "_id": 2, "item": "b", "qty": 1, "price": 20, "tags": [] },
            doc! { "_id": 3, "item": "a", "qty": 5, "price": 10, "tags": ["y"] },
            doc! { "_id": 4, "item": "c", "qty": 3, "price": 5.5 },
            doc! { "_id": 5, "qty": 4, "price": null, "tags": null },
        ],
    );
    docs
}

#[test]
fn projects_adds_and_removes_fields() {
    let docs = orders();
    let first = doc! { "$match": { "_id": 1 } };
    let one = |stage: Document, expected: Document| check(&docs, vec![first.clone(), stage], vec![expected]);
    one(doc! { "$project": { "item": 1 } }, doc! { "_id": 1, "item": "a" });
    one(
        doc! { "$project": { "_id": 0, "qty": 1, "item": true } },
        doc! { "item": "a", "qty": 2 },
    );
    one(
        doc! { "$project": { "tags": 0, "price": false } },
        doc! { "_id": 1, "item": "a", "qty": 2 },
    );
    one(
        doc! { "$project": { "total": { "$multiply": ["$qty", "$price"] }, "who": "$item", "lit": { "$literal": 1 } } },
        doc! { "_id": 1, "total": 20, "who": "a", "lit": 1 },
    );
    one(doc! { "$project": { "_id": "$item" } }, doc! { "_id": "a" });
    one(
        doc! { "$project": { "a.b": "$qty", "none": "$no" } },
        doc! { "_id": 1, "a": { "b": 2 } },
    );
    one(
        doc! { "$addFields": { "qty": { "$add": ["$qty", 1] }, "n.m": 1, "tags.z": 0 } },
        doc! { "_id": 1, "item": "a", "qty": 3, "price": 10, "tags": [{ "z": 0 }, { "z": 0 }], "n": { "m": 1 } },
    );
    one(
        doc! { "$set": { "tags": "$$REMOVE", "price": "$no" } },
        doc! { "_id": 1, "item": "a", "qty": 2 },
    );
    one(
        doc! { "$unset": ["tags", "price", "item"] },
        doc! { "_id": 1, "qty": 2 },
    );
    one(
        doc! { "$unset": "tags" },
        doc! { "_id": 1, "item": "a", "qty": 2, "price": 10 },
    );
    one(
        doc! { "$replaceRoot": { "newRoot": { "q": "$qty" } } },
        doc! { "q": 2 },
    );
    one(
        doc! { "$replaceWith": { "$mergeObjects": [{ "z": 1 }, { "q": "$qty" }] } },
        doc! { "z": 1, "q": 2 },
    );
    fails(&docs, vec![doc! { "$replaceWith": "$item" }], 40_228);
    fails(&docs, vec![doc! { "$project": { "a": 1, "b": 0 } }], 31_254);
    fails(&docs, vec![doc! { "$project": {} }], 51_272);
    fails(&docs, vec![doc! { "$project": { "a": { "$nope": 1 } } }], 168);
}

#[test]
fn stages_that_are_none_are_told_apart() {
    let docs = orders();
    fails(&docs, vec![doc! { "$nope": {} }], 40_324);
    fails(&docs, vec![doc! { "$match": {}, "$skip": 1 }], 40_323);
    fails(&docs, vec![doc! {}], 40_323);
    fails(&docs, vec![doc! { "$limit": 0 }], 15_958);
    fails(&docs, vec![doc! { "$limit": -1 }], 5_107_201);
    fails(&docs, vec![doc! { "$skip": "x" }], 5_107_200);
    fails(&docs, vec![doc! { "$match": 1 }], 15_959);
    fails(&docs, vec![doc! { "$sort": {} }], 15_976);
    fails(&docs, vec![doc! { "$sort": { "a": 2 } }], 15_975);
    fails(&docs, vec![doc! { "$group": { "a": { "$sum": 1 } } }], 15_955);
    fails(&docs, vec![doc! { "$group": { "_id": 1, "a": 1 } }], 40_234);
    fails(
        &docs,
        vec![doc! { "$group": { "_id": 1, "a": { "$nope": 1 } } }],
        15_952,
    );
    fails(&docs, vec![doc! { "$out": "x" }, doc! { "$match": {} }], 40_601);
    fails(
        &docs,
        vec![doc! { "$match": {} }, doc! { "$collStats": {} }],
        40_602,
    );
    fails(&docs, vec![doc! { "$densify": {} }], 115);
    fails(&docs, vec![doc! { "$count": "" }], 40_157);
    fails(&docs, vec![doc! { "$facet": { "a": [{ "$out": "x" }] } }], 40_600);
    let nested = (0..25).fold(
        doc! { "$match": {} },
        |inner, _| doc! { "$unionWith": { "coll": "c", "pipeline": [inner] } },
    );
    fails(&docs, vec![nested], 232);
    fails(&docs, vec![doc! { "$match": {} }; 1001], 16);
}

#[test]
fn groups_by_value_across_number_types() {
    let docs = orders();
    insert(
        &docs,
        [doc! { "_id": 6, "item": "a", "qty": 2.0, "price": 1_i64 }],
    );
    check(
        &docs,
        vec![
            doc! { "$group": {
                "_id": "$item", "n": { "$sum": 1 }, "count": { "$count": {} }, "total": { "$sum": "$qty" },
                "avg": { "$avg": "$price" }, "min": { "$min": "$price" }, "max": { "$max": "$price" },
                "first": { "$first": "$_id" }, "last": { "$last": "$_id" }, "all": { "$push": "$qty" },
            } },
            doc! { "$sort": { "_id": 1 } },
        ],
        vec![
            doc! { "_id": null, "n": 1, "count": 1, "total": 4, "avg": null, "min": null, "max": null, "first": 5, "last": 5, "all": [4] },
            doc! { "_id": "a", "n": 3, "count": 3, "total": 9.0, "avg": 7.0, "min": 1_i64, "max": 10, "first": 1, "last": 6, "all": [2, 5, 2.0] },
            doc! { "_id": "b", "n": 1, "count": 1, "total": 1, "avg": 20.0, "min": 20, "max": 20, "first": 2, "last": 2, "all": [1] },
            doc! { "_id": "c", "n": 1, "count": 1, "total": 3, "avg": 5.5, "min": 5.5, "max": 5.5, "first": 4, "last": 4, "all": [3] },
        ],
    );
    check(
        &docs,
        vec![
            doc! { "$group": { "_id": { "q": "$qty" }, "n": { "$sum": 1 } } },
            doc! { "$match": { "n": { "$gt": 1 } } },
        ],
        vec![doc! { "_id": { "q": 2 }, "n": 2 }],
    );
    check(
        &docs,
        vec![
            doc! { "$group": {
                "_id": null, "set": { "$addToSet": "$price" }, "dev": { "$stdDevPop": "$qty" },
                "top": { "$top": { "sortBy": { "qty": -1 }, "output": "$_id" } },
                "bottom": { "$bottom": { "sortBy": { "qty": -1, "_id": 1 }, "output": "$_id" } },
                "top2": { "$topN": { "n": 2, "sortBy": { "qty": -1 }, "output": "$qty" } },
                "bottom2": { "$bottomN": { "n": 2, "sortBy": { "qty": -1, "_id": 1 }, "output": ["$qty", "$_id"] } },
                "f": { "$firstN": { "n": 2, "input": "$_id" } }, "l": { "$lastN": { "n": 2, "input": "$_id" } },
                "least": { "$minN": { "n": 2, "input": "$qty" } }, "most": { "$maxN": { "n": 2, "input": "$qty" } },
                "merged": { "$mergeObjects": { "$cond": [{ "$lt": ["$_id", 3] }, { "k": "$_id", "j": "$item" }, null] } },
            } },
            doc! { "$project": { "_id": 0, "dev": { "$round": ["$dev", 3] }, "set": { "$size": "$set" }, "top": 1, "bottom": 1,
            "top2": 1, "bottom2": 1, "f": 1, "l": 1, "least": 1, "most": 1, "merged": 1 } },
        ],
        vec![
            doc! { "top": 3, "bottom": 2, "top2": [5, 4], "bottom2": [[2.0, 6], [1, 2]], "f": [1, 2], "l": [5, 6],
            "least": [1, 2], "most": [5, 4], "merged": { "k": 2, "j": "b" }, "dev": 1.344, "set": 5 },
        ],
    );
    check(
        &docs,
        vec![
            doc! { "$match": { "_id": 99 } },
            doc! { "$group": { "_id": null, "n": { "$sum": 1 } } },
        ],
        vec![],
    );
    check(
        &docs,
        vec![doc! { "$match": { "_id": 99 } }, doc! { "$count": "n" }],
        vec![],
    );
    check(
        &docs,
        vec![doc! { "$match": { "item": "a" } }, doc! { "$count": "n" }],
        vec![doc! { "n": 3 }],
    );
    check(
        &docs,
        vec![
            doc! { "$match": { "item": { "$ne": "c" } } },
            doc! { "$sortByCount": "$item" },
            doc! { "$limit": 1 },
        ],
        vec![doc! { "_id": "a", "count": 3 }],
    );
}

#[test]
fn unwinds_arrays_and_what_is_none() {
    let docs = orders();
    let ids = |pipeline| -> Vec<i32> {
        run(&docs, pipeline)
            .unwrap()
            .iter()
            .map(|d| d.get_i32("_id").unwrap())
            .collect()
    };
    assert_eq!(ids(vec![doc! { "$unwind": "$tags" }]), [1, 1, 3]);
    assert_eq!(
        ids(vec![
            doc! { "$unwind": { "path": "$tags", "preserveNullAndEmptyArrays": true } }
        ]),
        [1, 1, 2, 3, 4, 5]
    );
    assert_eq!(ids(vec![doc! { "$unwind": "$item" }]), [1, 2, 3, 4]);
    check(
        &docs,
        vec![
            doc! { "$match": { "_id": { "$lte": 2 } } },
            doc! { "$unwind": { "path": "$tags", "includeArrayIndex": "at", "preserveNullAndEmptyArrays": true } },
            doc! { "$project": { "tags": 1, "at": 1 } },
        ],
        vec![
            doc! { "_id": 1, "tags": "x", "at": 0_i64 },
            doc! { "_id": 1, "tags": "y", "at": 1_i64 },
            doc! { "_id": 2, "at": null },
        ],
    );
    fails(&docs, vec![doc! { "$unwind": "tags" }], 28_818);
    fails(
        &docs,
        vec![doc! { "$unwind": { "path": "$tags", "x": 1 } }],
        28_811,
    );
}

#[test]
fn sorts_skips_limits_and_samples() {
    let docs = orders();
    let ids = |pipeline| -> Vec<i32> {
        run(&docs, pipeline)
            .unwrap()
            .iter()
            .map(|d| d.get_i32("_id").unwrap())
            .collect()
    };
    let by_qty = doc! { "$sort": { "qty": -1 } };
    assert_eq!(ids(vec![by_qty.clone(), doc! { "$limit": 2 }]), [3, 5]);
    assert_eq!(
        ids(vec![by_qty.clone(), doc! { "$skip": 1 }, doc! { "$limit": 2 }]),
        [5, 4]
    );
    assert_eq!(ids(vec![doc! { "$limit": 3 }, doc! { "$skip": 1 }]), [2, 3]);
    assert_eq!(
        ids(vec![
            doc! { "$skip": 1 },
            doc! { "$skip": 2 },
            doc! { "$limit": 9 }
        ]),
        [4, 5]
    );
    assert_eq!(ids(vec![doc! { "$limit": 3 }, by_qty.clone()]), [3, 1, 2]);
    assert_eq!(
        ids(vec![
            doc! { "$addFields": { "z": 1 } },
            by_qty,
            doc! { "$limit": 2 },
            doc! { "$limit": 1 }
        ]),
        [3]
    );
    assert_eq!(
        run(&docs, vec![doc! { "$sample": { "size": 3 } }]).unwrap().len(),
        3
    );
    let mut all = ids(vec![doc! { "$sample": { "size": 100 } }]);
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4, 5]);
}

#[test]
fn buckets_and_facets() {
    let docs = orders();
    check(
        &docs,
        vec![
            doc! { "$bucket": { "groupBy": "$qty", "boundaries": [0, 2, 4], "default": "more", "output": { "n": { "$sum": 1 }, "ids": { "$push": "$_id" } } } },
        ],
        vec![
            doc! { "_id": 0, "n": 1, "ids": [2] },
            doc! { "_id": 2, "n": 2, "ids": [1, 4] },
            doc! { "_id": "more", "n": 2, "ids": [3, 5] },
        ],
    );
    fails(
        &docs,
        vec![doc! { "$bucket": { "groupBy": "$qty", "boundaries": [0, 2] } }],
        40_066,
    );
    fails(
        &docs,
        vec![doc! { "$bucket": { "groupBy": "$qty", "boundaries": [2, 0] } }],
        40_194,
    );
    check(
        &docs,
        vec![doc! { "$bucketAuto": { "groupBy": "$qty", "buckets": 2 } }],
        vec![
            doc! { "_id": { "min": 1, "max": 4 }, "count": 3 },
            doc! { "_id": { "min": 4, "max": 5 }, "count": 2 },
        ],
    );
    check(
        &docs,
        vec![doc! { "$facet": {
            "n": [{ "$count": "n" }],
            "top": [{ "$sort": { "qty": -1 } }, { "$limit": 1 }, { "$project": { "qty": 1 } }],
            "none": [{ "$match": { "qty": 99 } }],
        } }],
        vec![doc! { "n": [{ "n": 5 }], "top": [{ "_id": 3, "qty": 5 }], "none": [] }],
    );
    check(
        &docs,
        vec![
            doc! { "$match": { "qty": 99 } },
            doc! { "$facet": { "a": [{ "$limit": 1 }] } },
        ],
        vec![doc! { "a": [] }],
    );
}

fn with_people(docs: &Docs) -> Namespace {
    let people = Namespace::new("db", "people");
    let list = [
        doc! { "_id": "a", "name": "Ann", "boss": "b", "items": ["a", "b"] },
        doc! { "_id": "b", "name": "Bob", "boss": "c", "items": ["c"] },
        doc! { "_id": "c", "name": "Cy", "items": [] },
        doc! { "_id": "d", "name": "Di", "boss": "nobody" },
    ];
    docs.insert(&people, inserts(list), Deadline::NEVER)
        .wait()
        .unwrap();
    people
}

#[test]
fn joins_collections() {
    let docs = orders();
    let people = with_people(&docs);
    let join = |more: Document| {
        let mut lookup = doc! { "from": "people", "as": "who" };
        lookup.extend(more);
        vec![
            doc! { "$lookup": lookup },
            doc! { "$project": { "who": "$who._id" } },
        ]
    };
    let expected = |found: [&[&str]; 5]| -> Vec<Document> {
        (1..)
            .zip(found)
            .map(|(id, who)| doc! { "_id": id, "who": who.to_vec() })
            .collect()
    };
    let all = expected([&["a"], &["b"], &["a"], &["c"], &[]]);
    check(
        &docs,
        join(doc! { "localField": "item", "foreignField": "_id" }),
        all.clone(),
    );
    // Missing here is equal to null and missing there.
    check(
        &docs,
        join(doc! { "localField": "item", "foreignField": "boss" }),
        expected([&[], &["a"], &[], &["b"], &["c"]]),
    );
    // An array joins by each of its elements, on both sides.
    check(
        &docs,
        join(doc! { "localField": "item", "foreignField": "items" }),
        expected([&["a"], &["a"], &["a"], &["b"], &["d"]]),
    );
    check(
        &docs,
        join(doc! { "let": { "i": "$item", "q": "$qty" }, "pipeline": [
            { "$match": { "$expr": { "$and": [{ "$eq": ["$_id", "$$i"] }, { "$gt": ["$$q", 1] }] } } },
        ] }),
        expected([&["a"], &[], &["a"], &["c"], &[]]),
    );
    check(
        &docs,
        join(
            doc! { "localField": "item", "foreignField": "_id", "pipeline": [{ "$match": { "boss": { "$exists": true } } }] },
        ),
        expected([&["a"], &["b"], &["a"], &[], &[]]),
    );
    check(
        &docs,
        join(doc! { "pipeline": [{ "$sort": { "_id": -1 } }, { "$limit": 1 }] }),
        expected([&["d"]; 5]),
    );
    check(
        &docs,
        vec![
            doc! { "$match": { "_id": 1 } },
            doc! { "$lookup": { "from": "people", "localField": "tags", "foreignField": "_id", "as": "x.y" } },
            doc! { "$project": { "x": 1 } },
        ],
        vec![doc! { "_id": 1, "x": { "y": [] } }],
    );
    fails(&docs, join(doc! { "localField": "item" }), 9);
    fails(
        &docs,
        vec![doc! { "$lookup": { "from": "people", "as": "x", "pipeline": [{ "$nope": 1 }] } }],
        40_324,
    );

    let graph = doc! { "$graphLookup": { "from": "people", "startWith": "$boss", "connectFromField": "boss", "connectToField": "_id", "as": "up", "depthField": "far" } };
    let found = run_on(
        &docs,
        &people,
        stages(vec![
            graph,
            doc! { "$project": { "up": { "$map": { "input": "$up", "in": ["$$this._id", "$$this.far"] } } } },
        ]),
    )
    .unwrap();
    assert_eq!(
        found,
        [
            doc! { "_id": "a", "up": [["b", 0_i64], ["c", 1_i64]] },
            doc! { "_id": "b", "up": [["c", 0_i64]] },
            doc! { "_id": "c", "up": [] },
            doc! { "_id": "d", "up": [] },
        ]
    );
    check(
        &docs,
        vec![
            doc! { "$match": { "_id": 1 } },
            doc! { "$unionWith": { "coll": "people", "pipeline": [{ "$match": { "_id": "d" } }] } },
            doc! { "$project": { "_id": 1 } },
        ],
        vec![doc! { "_id": 1 }, doc! { "_id": "d" }],
    );
    check(
        &docs,
        vec![
            doc! { "$documents": [{ "a": 1 }, { "a": { "$add": [1, 1] } }] },
            doc! { "$match": { "a": { "$gt": 1 } } },
        ],
        vec![doc! { "a": 2 }],
    );
}

#[test]
fn a_join_uses_the_index_of_the_other_collection() {
    let limits = Limits {
        scan_max: 3000,
        ..Limits::default()
    };
    let docs = limited(limits);
    insert(
        &docs,
        [
            doc! { "_id": 0, "k": 0, "twin": [0] },
            doc! { "_id": 1, "k": 1, "twin": 1.0 },
            doc! { "_id": 2, "k": 2, "twin": [2, 1] },
        ],
    );
    insert(&docs, (3..500).map(|i| doc! { "_id": i, "k": i }));
    make_index(&docs, index(&[("k", 1)]));
    let plain = doc! { "from": "c", "localField": "_id", "foreignField": "k", "as": "x" };
    let by_expr = doc! { "from": "c", "let": { "i": "$_id" }, "pipeline": [{ "$match": { "$expr": { "$eq": ["$k", "$$i"] } } }], "as": "x" };
    for lookup in [plain, by_expr] {
        let found = run(
            &docs,
            vec![
                doc! { "$lookup": lookup },
                doc! { "$unwind": "$x" },
                doc! { "$count": "n" },
            ],
        )
        .unwrap();
        assert_eq!(found, [doc! { "n": 500 }]);
    }
    // Without an index the other collection is read once and held.
    let scanning = |field: &str| doc! { "from": "c", "localField": "_id", "foreignField": field, "as": "x" };
    check(
        &docs,
        vec![
            doc! { "$lookup": scanning("twin") },
            doc! { "$match": { "x": { "$ne": [] } } },
            doc! { "$project": { "x": "$x._id" } },
        ],
        (0..3)
            .map(|i| doc! { "_id": i, "x": if i == 1 { vec![1, 2] } else { vec![i] } })
            .collect(),
    );
    let one_by_one = doc! { "from": "c", "let": { "i": "$_id" }, "pipeline": [{ "$match": { "$expr": { "$eq": ["$twin", "$$i"] } } }], "as": "x" };
    fails(&docs, vec![doc! { "$lookup": one_by_one }], 292);
}

#[test]
fn redacts_by_level() {
    let docs = memory();
    insert(
        &docs,
        [
            doc! { "_id": 1, "level": 1, "a": { "level": 5, "x": 1 }, "b": [{ "level": 1, "y": { "level": 9 } }, { "level": 3 }, 7] },
        ],
    );
    check(
        &docs,
        vec![doc! { "$redact": { "$cond": [{ "$lte": ["$level", 2] }, "$$DESCEND", "$$PRUNE"] } }],
        vec![doc! { "_id": 1, "level": 1, "b": [{ "level": 1 }, 7] }],
    );
    fails(&docs, vec![doc! { "$redact": "x" }], 17_053);
}

#[test]
fn filters_and_sorts_go_to_the_index() {
    let docs = memory();
    insert(&docs, (0..200).map(|i| doc! { "_id": i, "k": i % 20, "n": i }));
    make_index(&docs, index(&[("k", 1), ("n", -1)]));
    let explained = |pipeline| {
        let explained = docs
            .explain_aggregate(&ns(), stages(pipeline), Deadline::NEVER)
            .wait()
            .unwrap();
        let explained = Document::try_from(explained.as_ref()).unwrap();
        let stages = explained.get_array("stages").unwrap().clone();
        let query = stages[0]
            .as_document()
            .unwrap()
            .get_document("$cursor")
            .unwrap()
            .clone();
        let keys = query
            .get_document("executionStats")
            .unwrap()
            .get_i32("totalKeysExamined")
            .unwrap();
        (keys, stages.len())
    };
    let matched = doc! { "$match": { "k": 3 } };
    assert_eq!(
        explained(vec![
            matched.clone(),
            doc! { "$sort": { "n": -1 } },
            doc! { "$limit": 4 }
        ]),
        (4, 1)
    );
    // Behind stages that leave its fields alone, a filter comes first.
    assert_eq!(
        explained(vec![
            doc! { "$addFields": { "z": 1 } },
            doc! { "$sort": { "n": -1 } },
            matched.clone()
        ])
        .0,
        10
    );
    assert_eq!(
        explained(vec![doc! { "$addFields": { "k": 1 } }, matched.clone()]).0,
        0
    );
    assert_eq!(
        explained(vec![doc! { "$match": { "$expr": { "$eq": ["$k", 3] } } }]).0,
        10
    );
    let found = run(
        &docs,
        vec![doc! { "$project": { "k": 1 } }, matched, doc! { "$count": "n" }],
    )
    .unwrap();
    assert_eq!(found, [doc! { "n": 10 }]);
}

#[test]
fn pages_give_the_whole_result_whatever_the_stages() {
    let docs = memory();
    insert(
        &docs,
        (0..100).map(|i| doc! { "_id": i, "n": i % 7, "l": [1, 2, 3] }),
    );
    for pipeline in [
        vec![],
        vec![
            doc! { "$match": { "n": { "$lt": 3 } } },
            doc! { "$project": { "n": 1 } },
        ],
        vec![
            doc! { "$skip": 5 },
            doc! { "$limit": 50 },
            doc! { "$unwind": "$l" },
            doc! { "$match": { "l": { "$ne": 2 } } },
        ],
        vec![doc! { "$sort": { "n": 1, "_id": -1 } }],
        vec![doc! { "$group": { "_id": "$n", "s": { "$sum": "$_id" } } }],
        vec![doc! { "$addFields": { "x": 1 } }, doc! { "$limit": 10 }],
        vec![
            doc! { "$lookup": { "from": "c", "localField": "n", "foreignField": "_id", "as": "l" } },
            doc! { "$unset": "l.l" },
        ],
    ] {
        let whole = run(&docs, pipeline.clone()).unwrap();
        for batch in [1, 3, 7, 1000] {
            let paged = Aggregate {
                batch: Some(batch),
                ..stages(pipeline.clone())
            };
            assert_eq!(
                run_on(&docs, &ns(), paged).unwrap(),
                whole,
                "{pipeline:?} by {batch}"
            );
        }
        let page = docs
            .aggregate(
                &ns(),
                Aggregate {
                    batch: Some(0),
                    ..stages(pipeline)
                },
                Deadline::NEVER,
            )
            .wait()
            .unwrap();
        assert!(
            page.documents.is_empty() && page.cursor.is_some(),
            "a first page of none is a cursor"
        );
    }
}

#[test]
fn a_pages_cursor_goes_on_after_writes_and_has_its_own_deadline() {
    let clock = Arc::new(ManualClock::at_millis(1));
    let docs = clocked(Limits::default(), &clock);
    insert(&docs, (0..10).map(|i| doc! { "_id": i }));
    let soon = Deadline::after(clock.as_ref(), Duration::from_millis(5));
    let aggregate = Aggregate {
        batch: Some(2),
        ..stages(vec![
            doc! { "$addFields": { "x": { "$map": { "input": { "$range": [0, 3000] }, "in": 1 } } } },
        ])
    };
    let page = docs.aggregate(&ns(), aggregate, soon).wait().unwrap();
    clock.advance(Duration::from_secs(1));
    docs.delete(
        &ns(),
        deletes(doc! { "_id": { "$lt": 8 } }, true),
        Deadline::NEVER,
    )
    .wait()
    .unwrap();
    let page = docs
        .next_page(page.cursor.unwrap(), None, Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(page.documents.len(), 2);
    assert!(page.cursor.is_none());
}

#[test]
fn memory_is_bounded_by_a_named_limit() {
    let limits = Limits {
        aggregate_bytes_max: 20_000,
        ..Limits::default()
    };
    let docs = limited(limits);
    insert(
        &docs,
        (0..200).map(|i| doc! { "_id": i, "text": "x".repeat(200) }),
    );
    for pipeline in [
        vec![doc! { "$group": { "_id": null, "all": { "$push": "$text" } } }],
        vec![doc! { "$group": { "_id": "$_id" } }],
        vec![doc! { "$addFields": { "y": 1 } }, doc! { "$sort": { "y": 1 } }],
        vec![doc! { "$bucketAuto": { "groupBy": "$_id", "buckets": 2 } }],
        vec![doc! { "$facet": { "a": [] } }],
        vec![doc! { "$addFields": { "y": 1 } }, doc! { "$skip": 1 }],
    ] {
        let error = run(&docs, pipeline.clone()).unwrap_err();
        assert_eq!(
            error.code(),
            Code::QueryExceededMemoryLimitNoDiskUseAllowed,
            "{pipeline:?}"
        );
        assert!(
            error.to_string().contains("aggregate_bytes_max is 20000"),
            "{error}"
        );
    }
    let streamed = Aggregate {
        batch: Some(20),
        ..stages(vec![doc! { "$project": { "text": 1 } }])
    };
    assert_eq!(run_on(&docs, &ns(), streamed).unwrap().len(), 200, "streamed");
}

#[test]
fn results_go_into_collections() {
    let docs = orders();
    let into = Namespace::new("db", "totals");
    let group = doc! { "$group": { "_id": "$item", "n": { "$sum": "$qty" } } };
    let totals = || run_on(&docs, &into, stages(vec![doc! { "$sort": { "_id": 1 } }])).unwrap();
    assert!(
        run(
            &docs,
            vec![
                doc! { "$match": { "item": { "$in": ["a", "b"] } } },
                group.clone(),
                doc! { "$out": "totals" }
            ]
        )
        .unwrap()
        .is_empty()
    );
    assert_eq!(
        totals(),
        [doc! { "_id": "a", "n": 7 }, doc! { "_id": "b", "n": 1 }]
    );
    run(
        &docs,
        vec![
            doc! { "$match": { "item": "c" } },
            group.clone(),
            doc! { "$out": { "db": "db", "coll": "totals" } },
        ],
    )
    .unwrap();
    assert_eq!(
        totals(),
        [doc! { "_id": "c", "n": 3 }],
        "it replaces what was there"
    );
    run(
        &docs,
        vec![
            doc! { "$match": { "item": { "$ne": null } } },
            group.clone(),
            doc! { "$addFields": { "x": 1 } },
            doc! { "$merge": "totals" },
        ],
    )
    .unwrap();
    assert_eq!(
        totals(),
        [
            doc! { "_id": "a", "n": 7, "x": 1 },
            doc! { "_id": "b", "n": 1, "x": 1 },
            doc! { "_id": "c", "n": 3, "x": 1 }
        ]
    );
    let merge = |matched: Bson, not_matched: &str| {
        vec![
            doc! { "$documents": [{ "_id": "a", "n": 100 }, { "_id": "z", "n": 1 }] },
            doc! { "$merge": { "into": "totals", "whenMatched": matched, "whenNotMatched": not_matched } },
        ]
    };
    run(&docs, merge("keepExisting".into(), "discard")).unwrap();
    assert_eq!(totals()[0], doc! { "_id": "a", "n": 7, "x": 1 });
    run(
        &docs,
        merge(
            bson!([{ "$set": { "n": { "$add": ["$n", "$$new.n"] } } }]),
            "insert",
        ),
    )
    .unwrap();
    assert_eq!(totals()[0], doc! { "_id": "a", "n": 107, "x": 1 });
    assert_eq!(totals()[3], doc! { "_id": "z", "n": 1 });
    run(&docs, merge("replace".into(), "fail")).unwrap();
    assert_eq!(totals()[0], doc! { "_id": "a", "n": 100 });
    fails(&docs, merge("fail".into(), "insert"), 11_000);
    let refused = vec![
        doc! { "$documents": [{ "_id": "new" }, { "_id": "a" }] },
        doc! { "$merge": { "into": "totals", "whenMatched": "fail" } },
    ];
    fails(&docs, refused, 11_000);
    assert_eq!(totals().len(), 4, "a failed write leaves nothing");
    assert!(docs.verify(Deadline::NEVER).wait().is_ok());
}

#[test]
fn collections_and_indexes_have_statistics() {
    let docs = orders();
    make_index(&docs, index(&[("item", 1)]));
    let found = run(
        &docs,
        vec![doc! { "$collStats": { "count": {}, "storageStats": {} } }],
    )
    .unwrap();
    assert_eq!(found[0].get_i32("count").unwrap(), 5);
    assert_eq!(
        found[0]
            .get_document("storageStats")
            .unwrap()
            .get_i32("nindexes")
            .unwrap(),
        2
    );
    let found = run(
        &docs,
        vec![doc! { "$indexStats": {} }, doc! { "$project": { "name": 1 } }],
    )
    .unwrap();
    assert_eq!(found, [doc! { "name": "_id_" }, doc! { "name": "item_1" }]);
}

#[test]
fn variables_come_from_the_command() {
    let docs = orders();
    let variables = Some(raw(doc! { "least": { "$add": [1, 2] }, "who": "a" }));
    let aggregate = Aggregate {
        variables: variables.clone(),
        ..stages(vec![
            doc! { "$match": { "$expr": { "$gte": ["$qty", "$$least"] } } },
            doc! { "$project": { "w": "$$who" } },
        ])
    };
    let found = run_on(&docs, &ns(), aggregate).unwrap();
    assert_eq!(
        found,
        [
            doc! { "_id": 3, "w": "a" },
            doc! { "_id": 4, "w": "a" },
            doc! { "_id": 5, "w": "a" }
        ]
    );
    let find = Find {
        variables,
        projection: Some(raw(
            doc! { "total": { "$multiply": ["$qty", "$price"] }, "item": 1, "_id": 0 },
        )),
        ..query(doc! { "$expr": { "$eq": ["$item", "$$who"] } })
    };
    assert_eq!(
        all(&docs, find).unwrap(),
        [
            doc! { "item": "a", "total": 20 },
            doc! { "item": "a", "total": 50 }
        ]
    );
    let failing = query(doc! { "$expr": { "$divide": [1, "$no.such"] } });
    assert!(all(&docs, failing).unwrap().is_empty(), "null is not true");
    let failing = query(doc! { "$expr": { "$toInt": "$item" } });
    assert_eq!(all(&docs, failing).unwrap_err().code(), Code::ConversionFailure);
    let inside = query(doc! { "tags": { "$elemMatch": { "$expr": true } } });
    assert_eq!(
        all(&docs, inside).unwrap_err().code(),
        Code::QueryFeatureNotAllowed
    );
    assert_eq!(
        ids(
            &docs,
            query(doc! { "$nor": [{ "$expr": { "$lt": ["$qty", 4] } }] })
        ),
        [3, 5]
    );
}

#[test]
fn updates_take_pipelines() {
    let docs = orders();
    let update = |filter: Document, pipeline: Vec<Document>, upsert: bool| {
        let pipeline: Vec<RawDocumentBuf> = pipeline.into_iter().map(raw).collect();
        let statement = UpdateOne {
            filter: raw(filter),
            update: pipeline_update(&pipeline),
            multi: !upsert,
            upsert,
            ..UpdateOne::default()
        };
        docs.update(&ns(), updates(vec![statement]), Deadline::NEVER)
            .wait()
            .unwrap()
    };
    let done = update(
        doc! { "item": "a" },
        vec![
            doc! { "$set": { "total": { "$multiply": ["$qty", "$price"] } } },
            doc! { "$unset": ["qty", "price", "tags"] },
        ],
        false,
    );
    assert_eq!((done.matched, done.modified), (2, 2));
    assert_eq!(
        all(&docs, query(doc! { "item": "a" })).unwrap(),
        [
            doc! { "_id": 1, "item": "a", "total": 20 },
            doc! { "_id": 3, "item": "a", "total": 50 }
        ]
    );
    let done = update(
        doc! { "_id": 2 },
        vec![doc! { "$replaceWith": { "x": "$item" } }],
        false,
    );
    assert_eq!(done.modified, 1);
    assert_eq!(
        all(&docs, query(doc! { "_id": 2 })).unwrap(),
        [doc! { "_id": 2, "x": "b" }],
        "_id stays"
    );
    let done = update(
        doc! { "_id": 9, "k": 1 },
        vec![doc! { "$set": { "made": { "$add": ["$k", 1] } } }],
        true,
    );
    assert_eq!(done.upserted.len(), 1);
    assert_eq!(
        all(&docs, query(doc! { "_id": 9 })).unwrap(),
        [doc! { "_id": 9, "k": 1, "made": 2 }]
    );
    let done = update(doc! { "_id": 4 }, vec![doc! { "$set": { "_id": 7 } }], false);
    assert_eq!(done.errors[0].error.code(), Code::ImmutableField);
    // What is no pipeline is told before any statement is carried out.
    for (pipeline, code) in [
        (vec![doc! { "$match": {} }], Code::InvalidOptions),
        (
            vec![doc! { "$set": { "a": { "$nope": 1 } } }],
            Code::InvalidPipelineOperator,
        ),
    ] {
        let pipeline: Vec<RawDocumentBuf> = pipeline.into_iter().map(raw).collect();
        let first = update_one(doc! { "_id": 4 }, doc! { "$set": { "first": true } });
        let statement = UpdateOne {
            update: pipeline_update(&pipeline),
            ..first.clone()
        };
        let refused = docs
            .update(&ns(), updates(vec![first, statement]), Deadline::NEVER)
            .wait();
        assert_eq!(refused.unwrap_err().code(), code);
    }
    assert_eq!(all(&docs, query(doc! { "first": true })).unwrap().len(), 0);
}

fn row() -> impl Strategy<Value = (i32, i32, Option<i32>)> {
    (0..6_i32, -50..50_i32, proptest::option::of(0..4_i32))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `$match`, `$group`, `$sort`, `$skip` and `$limit` against loops over a vector, with and without an index.
    #[test]
    fn pipelines_do_what_loops_do(
        rows in proptest::collection::vec(row(), 0..60),
        least in -50..50_i32,
        skip in 0..5_usize,
        limit in 1..8_usize,
        indexed in any::<bool>(),
        batch in 1..10_u32,
    ) {
        let docs = memory();
        if indexed {
            make_index(&docs, index(&[("v", 1)]));
        }
        insert(&docs, rows.iter().enumerate().map(|(i, (k, v, m))| {
            let mut doc = doc! { "_id": i as i32, "k": k, "v": v };
            if let Some(m) = m {
                doc.insert("m", m);
            }
            doc
        }));
        let mut groups: BTreeMap<i32, (i32, Option<i32>, Vec<i32>)> = BTreeMap::new();
        for (i, (k, v, m)) in rows.iter().enumerate().filter(|(_, (_, v, _))| *v >= least) {
            let group = groups.entry(*k).or_default();
            group.0 += v;
            group.1 = group.1.max(*m);
            group.2.push(i as i32);
        }
        let expected: Vec<Document> = groups.iter().rev().skip(skip).take(limit)
            .map(|(k, (sum, max, ids))| {
                let mut ids = ids.clone();
                ids.sort_unstable();
                doc! { "_id": k, "sum": sum, "max": max.map_or(Bson::Null, Bson::Int32), "ids": ids }
            })
            .collect();
        let pipeline = vec![
            doc! { "$match": { "v": { "$gte": least } } },
            doc! { "$group": { "_id": "$k", "sum": { "$sum": "$v" }, "max": { "$max": "$m" }, "ids": { "$push": "$_id" } } },
            doc! { "$sort": { "_id": -1 } },
            doc! { "$skip": skip as i32 },
            doc! { "$limit": limit as i32 },
            doc! { "$set": { "ids": { "$sortArray": { "input": "$ids", "sortBy": 1 } } } },
        ];
        let aggregate = Aggregate { batch: Some(batch), ..stages(pipeline) };
        prop_assert_eq!(run_on(&docs, &ns(), aggregate).unwrap(), expected);
    }

    /// Moving a filter never changes the result: the same stages behind one that nothing passes.
    #[test]
    fn moving_stages_changes_nothing(rows in proptest::collection::vec(row(), 0..40), order in proptest::collection::vec(0..7_usize, 1..6)) {
        let docs = memory();
        insert(&docs, rows.iter().enumerate().map(|(i, (k, v, m))| doc! { "_id": i as i32, "k": k, "v": v, "m": m.map_or(Bson::Null, Bson::Int32) }));
        let all = [
            doc! { "$match": { "k": { "$lt": 4 } } },
            doc! { "$match": { "v": { "$gt": -20 } } },
            doc! { "$addFields": { "v": { "$add": ["$v", 1] } } },
            doc! { "$project": { "k": 1, "v": 1 } },
            doc! { "$sort": { "v": 1, "_id": 1 } },
            doc! { "$limit": 15 },
            doc! { "$skip": 2 },
        ];
        let pipeline: Vec<Document> = order.iter().map(|at| all[*at].clone()).collect();
        let mut apart = Vec::new();
        for stage in &pipeline {
            apart.push(stage.clone());
            // Nothing is moved past it or into it.
            apart.push(doc! { "$replaceWith": "$$ROOT" });
        }
        apart.insert(0, doc! { "$replaceWith": "$$ROOT" });
        prop_assert_eq!(run(&docs, pipeline).unwrap(), run(&docs, apart).unwrap());
    }
}

/// Nesting is bounded, and what is within the bound fits the stack of a reader thread and of a test's.
#[test]
fn the_deepest_nesting_fits_the_stack() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1, "n": -1 }]);
    let nested =
        |levels: usize, operator: &str| (0..levels).fold(bson!("$n"), |inner, _| bson!({ operator: inner }));
    let switch = (0..30).fold(
        bson!("$n"),
        |inner, _| bson!({ "$let": { "vars": { "x": inner }, "in": { "$ifNull": ["$$x", 0] } } }),
    );
    for expr in [
        nested(90, "$abs"),
        nested(90, "$not"),
        nested(90, "$literal"),
        switch,
    ] {
        let computed = run(&docs, vec![doc! { "$set": { "m": expr.clone() } }]).unwrap();
        assert_eq!(computed.len(), 1);
        assert!(all(&docs, query(doc! { "$expr": expr })).is_ok());
    }
    fails(&docs, vec![doc! { "$set": { "m": nested(100, "$abs") } }], 15);
    let lookup =
        |inner: Vec<Document>| vec![doc! { "$lookup": { "from": "c", "as": "x", "pipeline": inner } }];
    let joined = (0..18).fold(Vec::new(), |inner, _| lookup(inner));
    assert_eq!(run(&docs, joined).unwrap().len(), 1);
    let unions = (0..18).fold(Vec::new(), |inner, _| {
        vec![doc! { "$unionWith": { "coll": "c", "pipeline": inner } }]
    });
    assert_eq!(run(&docs, unions).unwrap().len(), 19);
}

#[test]
fn statements_that_write_take_variables() {
    let docs = orders();
    let variables = || Some(raw(doc! { "min": { "$add": [1, 1] }, "x": "y" }));
    let at_least = || doc! { "$expr": { "$gte": ["$_id", "$$min"] } };
    let statement = UpdateOne {
        filter: raw(at_least()),
        variables: variables(),
        update: pipeline_update(&[raw(doc! { "$set": { "seen": "$$x" } })]),
        multi: true,
        upsert: false,
        ..UpdateOne::default()
    };
    let done = docs
        .update(&ns(), updates(vec![statement]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert!(done.matched > 0 && done.errors.is_empty());
    let seen = all(&docs, query(doc! { "seen": "y" })).unwrap();
    assert_eq!(seen.len() as u64, done.matched);
    let modify = FindAndModify {
        filter: raw(doc! { "_id": 1 }),
        variables: variables(),
        update: Some(pipeline_update(&[raw(doc! { "$set": { "seen": "$$min" } })])),
        return_new: true,
        ..FindAndModify::default()
    };
    let modified = docs
        .find_and_modify(&ns(), modify, Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(modified.document.unwrap().get_i32("seen").unwrap(), 2);
    let delete = |filter: Document| {
        let statements = vec![DeleteOne {
            filter: raw(filter),
            multi: true,
            variables: variables(),
            ..DeleteOne::default()
        }];
        let delete = Delete {
            statements,
            ordered: true,
        };
        docs.delete(&ns(), delete, Deadline::NEVER).wait().unwrap()
    };
    assert_eq!(delete(at_least()).deleted, done.matched);
    let unknown = delete(doc! { "$expr": "$$other" });
    assert_eq!(unknown.errors[0].error.code(), Code::Location(17_276));
}
