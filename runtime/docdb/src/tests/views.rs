//! Views: what reads of them give, what else is refused, and what one may be made of.

use bson::{Bson, doc};

use super::*;

fn named(name: &str) -> Namespace {
    Namespace::new("db", name)
}

fn view(on: &str, stages: impl IntoIterator<Item = Document>) -> View {
    View {
        on: on.into(),
        pipeline: stages.into_iter().map(raw).collect(),
        collation: None,
    }
}

fn make(docs: &Docs, name: &str, on: &str, stages: impl IntoIterator<Item = Document>) {
    docs.create_view(&named(name), view(on, stages)).wait().unwrap();
}

/// Why a view can't be made.
fn refused(docs: &Docs, name: &str, on: &str, stages: impl IntoIterator<Item = Document>) -> Code {
    let made = docs.create_view(&named(name), view(on, stages)).wait();
    made.unwrap_err().code()
}

/// Ten documents with a number and its parity, and the view `even` of those that are even.
fn seeded() -> Docs {
    let docs = memory();
    insert(
        &docs,
        (0..10).map(|n| doc! { "_id": n, "odd": n % 2, "third": n % 3 }),
    );
    make(
        &docs,
        "even",
        "c",
        [
            doc! { "$match": { "odd": 0 } },
            doc! { "$set": { "twice": { "$multiply": ["$_id", 2] } } },
        ],
    );
    docs
}

/// All documents of a query on any collection.
fn found(docs: &Docs, name: &str, find: Find) -> Vec<Document> {
    let batch = find.batch;
    let page = docs.find(&named(name), find, Deadline::NEVER).wait().unwrap();
    rest(docs, page, batch).unwrap()
}

fn numbers(documents: &[Document]) -> Vec<i32> {
    documents.iter().map(|one| one.get_i32("_id").unwrap()).collect()
}

fn aggregated(docs: &Docs, name: &str, stages: impl IntoIterator<Item = Document>) -> Vec<Document> {
    let aggregate = Aggregate {
        pipeline: stages.into_iter().map(raw).collect(),
        ..Aggregate::default()
    };
    let page = docs
        .aggregate(&named(name), aggregate, Deadline::NEVER)
        .wait()
        .unwrap();
    rest(docs, page, None).unwrap()
}

#[test]
fn reads_run_the_pipeline_first() {
    let docs = seeded();
    assert_eq!(numbers(&found(&docs, "even", Find::default())), [0, 2, 4, 6, 8]);
    // The short way to one document is not for views.
    let by_id = |id: i32| found(&docs, "even", query(doc! { "_id": id }));
    assert_eq!((numbers(&by_id(4)), by_id(5)), (vec![4], vec![]));
    let find = Find {
        filter: raw(doc! { "twice": { "$gt": 4 } }),
        sort: Some(raw(doc! { "twice": -1 })),
        projection: Some(raw(doc! { "twice": 1 })),
        skip: 1,
        limit: Some(2),
        batch: Some(1),
        ..Find::default()
    };
    assert_eq!(
        found(&docs, "even", find),
        [doc! { "_id": 6, "twice": 12 }, doc! { "_id": 4, "twice": 8 }]
    );
    let count = |filter: Document, skip, limit| {
        docs.count(
            &named("even"),
            Find {
                skip,
                limit,
                ..query(filter)
            },
            Deadline::NEVER,
        )
        .wait()
        .unwrap()
    };
    assert_eq!(count(doc! {}, 0, None), 5);
    assert_eq!(count(doc! { "third": 0 }, 0, None), 2);
    assert_eq!(count(doc! {}, 1, Some(3)), 3);
    assert_eq!(count(doc! {}, 4, Some(3)), 1);
    let distinct = docs
        .distinct(
            &named("even"),
            "third",
            query(doc! { "_id": { "$lt": 3 } }),
            Deadline::NEVER,
        )
        .wait()
        .unwrap();
    let distinct: Vec<Bson> = distinct.into_iter().map(|v| Bson::try_from(v).unwrap()).collect();
    assert_eq!(distinct, [Bson::Int32(0), Bson::Int32(2)]);
    let grouped = aggregated(
        &docs,
        "even",
        [doc! { "$group": { "_id": null, "sum": { "$sum": "$twice" } } }],
    );
    assert_eq!(grouped, [doc! { "_id": null, "sum": 40 }]);
    docs.aggregate(
        &named("even"),
        Aggregate {
            pipeline: vec![raw(doc! { "$out": "copy" })],
            ..Aggregate::default()
        },
        Deadline::NEVER,
    )
    .wait()
    .unwrap();
    assert_eq!(numbers(&found(&docs, "copy", Find::default())), [0, 2, 4, 6, 8]);
}

#[test]
fn a_view_of_a_view_and_of_nothing() {
    let docs = seeded();
    make(&docs, "sixth", "even", [doc! { "$match": { "third": 0 } }]);
    assert_eq!(numbers(&found(&docs, "sixth", Find::default())), [0, 6]);
    make(&docs, "none", "nowhere", []);
    assert_eq!(found(&docs, "none", Find::default()), Vec::<Document>::new());
    let change = view("c", [doc! { "$match": { "_id": 9 } }]);
    docs.modify_view(&named("even"), change).wait().unwrap();
    assert_eq!(numbers(&found(&docs, "sixth", Find::default())), [9]);
    assert!(docs.drop_collection(&named("even")).wait().unwrap());
    assert_eq!(found(&docs, "sixth", Find::default()), Vec::<Document>::new());
}

#[test]
fn stages_bring_views_in() {
    let docs = seeded();
    make(
        &docs,
        "halves",
        "even",
        [doc! { "$project": { "half": { "$divide": ["$_id", 2] } } }],
    );
    let joined = aggregated(
        &docs,
        "c",
        [
            doc! { "$match": { "_id": { "$lt": 3 } } },
            doc! { "$lookup": { "from": "halves", "localField": "_id", "foreignField": "half", "as": "of" } },
            doc! { "$project": { "of": "$of._id" } },
        ],
    );
    let expected = [
        doc! { "_id": 0, "of": [0] },
        doc! { "_id": 1, "of": [2] },
        doc! { "_id": 2, "of": [4] },
    ];
    assert_eq!(joined, expected);
    let inner = doc! { "from": "halves", "let": { "n": "$_id" }, "as": "of", "pipeline": [
        { "$match": { "$expr": { "$eq": ["$half", "$$n"] } } }, { "$sort": { "_id": -1 } }, { "$limit": 1 },
    ] };
    let joined = aggregated(
        &docs,
        "c",
        [
            doc! { "$match": { "_id": { "$lt": 3 } } },
            doc! { "$lookup": inner },
            doc! { "$project": { "of": "$of._id" } },
        ],
    );
    assert_eq!(joined, expected);
    let both = aggregated(
        &docs,
        "halves",
        [
            doc! { "$unionWith": { "coll": "even", "pipeline": [{ "$match": { "_id": 8 } }] } },
            doc! { "$count": "n" },
        ],
    );
    assert_eq!(both, [doc! { "n": 6 }]);
    let reached = aggregated(
        &docs,
        "c",
        [
            doc! { "$match": { "_id": 8 } },
            doc! { "$graphLookup": {
                "from": "halves", "startWith": "$_id", "connectFromField": "half", "connectToField": "_id", "as": "of",
            } },
            doc! { "$project": { "n": { "$size": "$of" } } },
        ],
    );
    assert_eq!(reached, [doc! { "_id": 8, "n": 3 }]);
}

#[test]
fn a_transaction_reads_views() {
    let docs = seeded();
    let transaction = docs.start_transaction().unwrap();
    transaction
        .insert(&ns(), inserts([doc! { "_id": 10, "odd": 0 }]), Deadline::NEVER)
        .wait()
        .unwrap();
    let even = named("even");
    let count = transaction.count(&even, query(doc! {}), Deadline::NEVER);
    assert_eq!(count.wait().unwrap(), 6);
    let page = transaction.find(&even, query(doc! { "_id": 10 }), Deadline::NEVER);
    assert_eq!(page.wait().unwrap().documents.len(), 1);
    let distinct = transaction.distinct(&even, "twice", query(doc! { "_id": 10 }), Deadline::NEVER);
    assert_eq!(distinct.wait().unwrap(), [bson::RawBson::Int32(20)]);
    let refused = transaction.insert(&even, inserts([doc! {}]), Deadline::NEVER);
    assert_eq!(
        refused.wait().unwrap_err().code(),
        Code::CommandNotSupportedOnView
    );
}

#[test]
fn what_changes_a_collection_is_refused() {
    let docs = seeded();
    let even = named("even");
    let is = |error: Error| assert_eq!(error.code(), Code::CommandNotSupportedOnView, "{error}");
    is(docs
        .insert(&even, inserts([doc! {}]), Deadline::NEVER)
        .wait()
        .unwrap_err());
    let update = updates(vec![update_one(doc! {}, doc! { "$set": { "a": 1 } })]);
    is(docs.update(&even, update, Deadline::NEVER).wait().unwrap_err());
    is(docs
        .delete(&even, deletes(doc! {}, true), Deadline::NEVER)
        .wait()
        .unwrap_err());
    let modify = FindAndModify::default();
    is(docs
        .find_and_modify(&even, modify, Deadline::NEVER)
        .wait()
        .unwrap_err());
    is(docs
        .create_indexes(&even, vec![index(&[("a", 1)])])
        .wait()
        .unwrap_err());
    is(docs.list_indexes(&even).wait().unwrap_err());
    is(docs.drop_index(&even, "a_1").wait().unwrap_err());
    is(docs
        .rename_collection(&even, &named("odd"), false)
        .wait()
        .unwrap_err());
    is(docs
        .modify_collection(&even, CollectionChange::default())
        .wait()
        .unwrap_err());
    is(docs
        .watch(WatchScope::Collection(even.clone()), Watch::default())
        .wait()
        .unwrap_err());
    for stage in [doc! { "$collStats": {} }, doc! { "$indexStats": {} }] {
        let aggregate = Aggregate {
            pipeline: vec![raw(stage)],
            ..Aggregate::default()
        };
        is(docs
            .aggregate(&even, aggregate, Deadline::NEVER)
            .wait()
            .unwrap_err());
    }
    let out = Aggregate {
        pipeline: vec![raw(doc! { "$out": "even" })],
        ..Aggregate::default()
    };
    is(docs.aggregate(&ns(), out, Deadline::NEVER).wait().unwrap_err());
    let taken = docs.create_collection(&even).wait().unwrap_err();
    assert_eq!(taken.code(), Code::NamespaceExists);
    let taken = docs.rename_collection(&ns(), &even, true).wait().unwrap_err();
    assert_eq!(taken.code(), Code::NamespaceExists);
    assert_eq!(refused(&docs, "c", "d", []), Code::NamespaceExists);
    let other = docs.modify_view(&ns(), view("d", [])).wait().unwrap_err();
    assert_eq!(other.code(), Code::InvalidOptions);
    let other = docs
        .modify_view(&named("nope"), view("d", []))
        .wait()
        .unwrap_err();
    assert_eq!(other.code(), Code::NamespaceNotFound);
    assert_eq!(docs.list_collections("db").wait().unwrap().len(), 1);
    docs.drop_database("db").wait().unwrap();
    assert_eq!(docs.describe_collections("db").wait().unwrap(), []);
}

#[test]
fn a_view_is_not_made_of_itself_nor_too_deep() {
    let docs = memory();
    assert_eq!(refused(&docs, "a", "a", []), Code::GraphContainsCycle);
    make(&docs, "a", "b", []);
    make(&docs, "b", "c", []);
    assert_eq!(refused(&docs, "c", "a", []), Code::GraphContainsCycle);
    let lookup = doc! { "$lookup": { "from": "a", "pipeline": [], "as": "x" } };
    assert_eq!(
        refused(&docs, "c", "d", [lookup.clone()]),
        Code::GraphContainsCycle
    );
    let facet = doc! { "$facet": { "x": [{ "$unionWith": { "coll": "b" } }] } };
    assert_eq!(refused(&docs, "c", "d", [facet]), Code::GraphContainsCycle);
    let changed = docs
        .modify_view(&named("b"), view("d", [lookup]))
        .wait()
        .unwrap_err();
    assert_eq!(changed.code(), Code::GraphContainsCycle);
    make(&docs, "v1", "c", []);
    for n in 2..=20 {
        make(&docs, &format!("v{n}"), &format!("v{}", n - 1), []);
    }
    insert(&docs, [doc! { "_id": 1 }]);
    assert_eq!(numbers(&found(&docs, "v20", Find::default())), [1]);
    assert_eq!(refused(&docs, "v21", "v20", []), Code::ViewDepthLimitExceeded);
    let union = doc! { "$unionWith": "v20" };
    assert_eq!(refused(&docs, "v21", "c", [union]), Code::ViewDepthLimitExceeded);
    // A view under others may not become deeper than they can bear.
    docs.modify_view(&named("v1"), view("b", [])).wait().unwrap();
    let page = docs.find(&named("v20"), Find::default(), Deadline::NEVER).wait();
    assert_eq!(page.unwrap_err().code(), Code::ViewDepthLimitExceeded);
}

/// Each of these is shallow when it is made, for what is under it is a collection's still.
#[test]
fn views_that_became_too_deep_under_others_end_with_an_error() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1 }]);
    for n in 1..=40 {
        make(&docs, &format!("w{n}"), "c", []);
    }
    for n in (2..=40).rev() {
        let stage = doc! { "$lookup": { "from": format!("w{}", n - 1), "pipeline": [], "as": "x" } };
        docs.modify_view(&named(&format!("w{n}")), view("c", [stage]))
            .wait()
            .unwrap();
    }
    assert_eq!(numbers(&found(&docs, "w20", Find::default())), [1]);
    let page = docs.find(&named("w40"), Find::default(), Deadline::NEVER).wait();
    assert_eq!(page.unwrap_err().code(), Code::ViewDepthLimitExceeded);
}

#[test]
fn what_no_view_may_have() {
    let docs = memory();
    for stage in [
        doc! { "$out": "x" },
        doc! { "$merge": "x" },
        doc! { "$indexStats": {} },
        doc! { "$documents": [] },
        doc! { "$changeStream": {} },
    ] {
        assert_eq!(refused(&docs, "v", "c", [stage]), Code::OptionNotSupportedOnView);
    }
    assert_eq!(
        refused(&docs, "v", "c", [doc! { "$nope": 1 }]),
        Code::Location(40_324)
    );
    assert_eq!(refused(&docs, "v", "", []), Code::InvalidNamespace);
    assert_eq!(refused(&docs, "v$", "c", []), Code::InvalidNamespace);
    let large = doc! { "$match": { "a": "x".repeat(300 << 10) } };
    assert_eq!(refused(&docs, "v", "c", [large]), Code::BSONObjectTooLarge);
}
