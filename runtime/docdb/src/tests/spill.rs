//! What memory may not hold goes to disk, and the answers stay the same.

use std::sync::Arc;

use bson::{Bson, Document, doc};
use cloudlet_base::{Deadline, SeededEntropy, SystemClock};
use prometheus::Registry;
use proptest::prelude::*;

use super::{all, insert, memory, ns, query, raw, rest};
use crate::spill::MemScratch;
use crate::*;

/// Bytes that a sort or stage of these tests may hold in memory.
const HELD_MAX: usize = 8_000;

fn spilling(scratch: &MemScratch, limits: Limits) -> (Docs, Registry) {
    let registry = Registry::new();
    let config = Config {
        readers: 1,
        limits,
        scratch: Some(Arc::new(scratch.clone())),
        ..Config::default()
    };
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SeededEntropy::new(1)));
    (Docs::open(config, clock, entropy, &registry).unwrap(), registry)
}

fn tight() -> Limits {
    Limits {
        sort_bytes_max: HELD_MAX,
        aggregate_bytes_max: HELD_MAX,
        ..Limits::default()
    }
}

fn some() -> Vec<Document> {
    let text = "x".repeat(100);
    (0..500)
        .map(|i| doc! { "_id": i, "a": (i * 7) % 500, "g": i % 50, "text": &text })
        .collect()
}

fn aggregate(docs: &Docs, pipeline: &[Document], batch: Option<u32>) -> Result<Vec<Document>> {
    let aggregate = Aggregate {
        pipeline: pipeline.iter().cloned().map(raw).collect(),
        batch,
        ..Aggregate::default()
    };
    let page = docs.aggregate(&ns(), aggregate, Deadline::NEVER).wait()?;
    rest(docs, page, batch)
}

fn metric(registry: &Registry, name: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    let metric = &family.get_metric()[0];
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

fn sorted(sort: Document) -> Find {
    Find {
        sort: Some(raw(sort)),
        ..query(doc! {})
    }
}

#[test]
fn a_sort_goes_to_disk_and_leaves_nothing_there() {
    let scratch = MemScratch::new(u64::MAX);
    let (docs, registry) = spilling(&scratch, tight());
    insert(&docs, some());
    let find = Find {
        batch: Some(20),
        ..sorted(doc! { "a": -1 })
    };
    let page = docs.find(&ns(), find.clone(), Deadline::NEVER).wait().unwrap();
    assert!(scratch.files() > 0, "the cursor reads from there");
    assert!(metric(&registry, "cloudlet_docdb_spill_bytes") > 50_000.0);
    let found = rest(&docs, page, Some(20)).unwrap();
    let expected: Vec<i32> = (0..500).rev().collect();
    let by: Vec<i32> = found
        .iter()
        .map(|document| document.get_i32("a").unwrap())
        .collect();
    assert_eq!(by, expected);
    assert_eq!(scratch.files(), 0);
    assert_eq!(metric(&registry, "cloudlet_docdb_spill_bytes"), 0.0);
    assert_eq!(metric(&registry, "cloudlet_docdb_spills_total"), 1.0);
    assert!(metric(&registry, "cloudlet_docdb_spilled_bytes_total") > 50_000.0);
    // A cursor that is dropped leaves nothing either.
    drop(docs.find(&ns(), find.clone(), Deadline::NEVER).wait().unwrap());
    assert_eq!(scratch.files(), 0);
    let first = Find {
        skip: 100,
        limit: Some(300),
        ..find
    };
    let by: Vec<i32> = all(&docs, first)
        .unwrap()
        .iter()
        .map(|document| document.get_i32("a").unwrap())
        .collect();
    assert_eq!(by, expected[100..400]);
}

#[test]
fn a_command_or_the_server_may_forbid_it() {
    let scratch = MemScratch::new(u64::MAX);
    let (docs, _) = spilling(&scratch, tight());
    insert(&docs, some());
    let forbidden = Find {
        allow_disk_use: Some(false),
        ..sorted(doc! { "a": 1 })
    };
    let error = all(&docs, forbidden).unwrap_err();
    assert_eq!(error.code(), Code::QueryExceededMemoryLimitNoDiskUseAllowed);
    assert!(error.to_string().contains("allowDiskUse"), "{error}");
    let config = Config {
        limits: tight(),
        scratch: Some(Arc::new(scratch.clone())),
        allow_disk_use: false,
        ..Config::default()
    };
    let docs = super::open(config).unwrap();
    insert(&docs, some());
    let error = all(&docs, sorted(doc! { "a": 1 })).unwrap_err();
    assert_eq!(error.code(), Code::QueryExceededMemoryLimitNoDiskUseAllowed);
    let allowed = Find {
        allow_disk_use: Some(true),
        ..sorted(doc! { "a": 1 })
    };
    assert_eq!(all(&docs, allowed).unwrap().len(), 500);
}

#[test]
fn the_disk_has_named_limits() {
    let check = |limits: Limits, named: &str| {
        let scratch = MemScratch::new(u64::MAX);
        let (docs, registry) = spilling(&scratch, limits);
        insert(&docs, some());
        let error = all(&docs, sorted(doc! { "a": 1 })).unwrap_err();
        assert_eq!(error.code(), Code::QueryExceededMemoryLimitNoDiskUseAllowed);
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(scratch.files(), 0);
        assert_eq!(metric(&registry, "cloudlet_docdb_spill_bytes"), 0.0);
    };
    check(
        Limits {
            spill_bytes_max: 20_000,
            ..tight()
        },
        "spill_bytes_max is 20000",
    );
    check(
        Limits {
            spill_total_bytes_max: 20_000,
            ..tight()
        },
        "spill_total_bytes_max (of all operations together) is 20000",
    );
    let scratch = MemScratch::new(20_000);
    let (docs, _) = spilling(&scratch, tight());
    insert(&docs, some());
    let error = all(&docs, sorted(doc! { "a": 1 })).unwrap_err();
    assert_eq!(error.code(), Code::OutOfDiskSpace);
    assert!(
        error.to_string().contains("the disk is full or failing"),
        "{error}"
    );
}

#[test]
fn a_disk_that_does_not_give_back_is_an_error() {
    let scratch = MemScratch::new(u64::MAX);
    let (docs, _) = spilling(&scratch, tight());
    insert(&docs, some());
    for reads in 0..3 {
        scratch.fail_after_reads(reads);
        let error = all(&docs, sorted(doc! { "a": 1 })).unwrap_err();
        assert_eq!(error.code(), Code::OutOfDiskSpace, "{error}");
        assert_eq!(scratch.files(), 0);
    }
}

#[test]
fn pipelines_go_to_disk() {
    let scratch = MemScratch::new(u64::MAX);
    let (docs, _) = spilling(&scratch, tight());
    let plain = memory();
    insert(&docs, some());
    insert(&plain, some());
    let check = |pipeline: &[Document]| {
        assert_eq!(
            aggregate(&docs, pipeline, Some(30)).unwrap(),
            aggregate(&plain, pipeline, None).unwrap(),
            "{pipeline:?}"
        );
        assert_eq!(scratch.files(), 0);
    };
    let made = doc! { "$addFields": { "y": { "$mod": ["$a", 100] } } };
    check(&[made.clone(), doc! { "$sort": { "y": -1 } }]);
    check(&[
        made.clone(),
        doc! { "$sort": { "y": -1 } },
        doc! { "$limit": 200 },
    ]);
    check(&[doc! { "$bucketAuto": { "groupBy": "$a", "buckets": 7, "output": { "n": { "$sum": "$g" } } } }]);
    check(&[doc! { "$bucketAuto": { "groupBy": "$g", "buckets": 60 } }]);
    // The rest of the result.
    check(&[made, doc! { "$skip": 1 }]);
    // Groups come in another order, each made the same.
    check(&[
        doc! { "$group": { "_id": "$a", "n": { "$sum": 1 }, "texts": { "$push": "$text" } } },
        doc! { "$sort": { "_id": 1 } },
    ]);
    check(&[
        doc! { "$group": {
            "_id": "$g",
            "first": { "$first": "$a" },
            "last": { "$last": "$a" },
            "all": { "$push": { "a": "$a", "text": "$text" } },
            "sum": { "$sum": "$a" },
        } },
        doc! { "$sort": { "_id": 1 } },
    ]);
    let sample = aggregate(&docs, &[doc! { "$sample": { "size": 400 } }], None).unwrap();
    assert_eq!(sample.len(), 400);
    let one = [doc! { "$group": { "_id": null, "all": { "$push": "$text" } } }];
    let error = aggregate(&docs, &one, None).unwrap_err();
    assert!(error.to_string().contains("one group of $group"), "{error}");
    assert!(
        error.to_string().contains("aggregate_bytes_max is 8000"),
        "{error}"
    );
}

#[test]
fn explain_tells_of_the_disk() {
    let scratch = MemScratch::new(u64::MAX);
    let (docs, _) = spilling(&scratch, tight());
    insert(&docs, some());
    let used = |limit: Option<u64>| {
        let find = Find {
            limit,
            ..sorted(doc! { "a": 1 })
        };
        let told = docs.explain(&ns(), find, Deadline::NEVER).wait().unwrap();
        let told = Document::try_from(told.as_ref()).unwrap();
        let mut stage = told.get_document("executionStats").unwrap();
        stage = stage.get_document("executionStages").unwrap();
        while stage.get_str("stage").unwrap() != "SORT" {
            stage = stage.get_document("inputStage").unwrap();
        }
        stage.get_bool("usedDisk").unwrap()
    };
    assert!(used(None));
    assert!(!used(Some(3)));
    let stages = |pipeline: Vec<Document>| {
        let aggregate = Aggregate {
            pipeline: pipeline.into_iter().map(raw).collect(),
            ..Aggregate::default()
        };
        let told = docs.explain_aggregate(&ns(), aggregate, Deadline::NEVER).wait();
        let told = Document::try_from(told.unwrap().as_ref()).unwrap();
        told.get_array("stages").unwrap()[1..].to_vec()
    };
    assert_eq!(
        stages(vec![
            doc! { "$group": { "_id": "$_id" } },
            doc! { "$sort": { "_id": 1 } },
            doc! { "$skip": 1 }
        ]),
        [
            Bson::from(doc! { "$group": {}, "usedDisk": true }),
            doc! { "$sort": {}, "usedDisk": true }.into(),
            doc! { "$skip": {} }.into(),
        ]
    );
    assert_eq!(
        stages(vec![doc! { "$group": { "_id": "$g", "n": { "$sum": 1 } } }]),
        [Bson::from(doc! { "$group": {}, "usedDisk": true })],
    );
    assert_eq!(
        stages(vec![doc! { "$group": { "_id": null, "n": { "$sum": 1 } } }]),
        [Bson::from(doc! { "$group": {}, "usedDisk": false })],
    );
}

fn value() -> impl Strategy<Value = Bson> {
    prop_oneof![
        (0..6_i32).prop_map(Bson::from),
        (0..4_i64).prop_map(Bson::from),
        (0..4_i32).prop_map(|i| Bson::from(f64::from(i) / 2.0)),
        "[a-c]{0,20}".prop_map(Bson::from),
        Just(Bson::Null),
        prop::collection::vec(0..5_i32, 0..3).prop_map(Bson::from),
    ]
}

fn document() -> impl Strategy<Value = Document> {
    let field = || prop::option::of(value());
    (field(), field(), "x{0,300}").prop_map(|(a, b, text)| {
        let mut document = doc! { "text": text };
        document.extend(a.map(|a| ("a".to_owned(), a)));
        document.extend(b.map(|b| ("b".to_owned(), b)));
        document
    })
}

fn pipeline() -> impl Strategy<Value = Vec<Document>> {
    let field = || prop::sample::select(vec!["a", "b", "text"]);
    let sort = (field(), prop::sample::select(vec![1, -1]))
        .prop_map(|(field, way)| vec![doc! { "$sort": { field: way } }]);
    let group = (field(), field()).prop_map(|(by, of)| {
        let of = format!("${of}");
        vec![
            doc! { "$group": {
                "_id": format!("${by}"),
                "count": { "$sum": 1 },
                "sum": { "$sum": &of },
                "first": { "$first": &of },
                "last": { "$last": &of },
                "least": { "$min": &of },
                "set": { "$addToSet": &of },
                "ids": { "$push": "$_id" },
                "top": { "$topN": { "n": 2, "sortBy": { "b": -1 }, "output": "$_id" } },
            } },
            // Of groups by arrays, several may stand at one place by their ids.
            doc! { "$sort": { "_id": 1, "ids": 1 } },
        ]
    });
    let buckets = (field(), 1..8_i32).prop_map(|(by, buckets)| {
        let output = doc! { "ids": { "$push": "$_id" } };
        vec![doc! { "$bucketAuto": { "groupBy": format!("${by}"), "buckets": buckets, "output": output } }]
    });
    let stage = prop_oneof![3 => sort, 3 => group, 1 => buckets];
    let first = prop_oneof![
        Just(vec![]),
        Just(vec![doc! { "$addFields": { "made": 1 } }]),
        Just(vec![
            doc! { "$unwind": { "path": "$a", "preserveNullAndEmptyArrays": true } }
        ]),
    ];
    let last = prop_oneof![
        Just(vec![]),
        (1..50_i32).prop_map(|limit| vec![doc! { "$limit": limit }]),
        (1..9_i32).prop_map(|skip| vec![doc! { "$skip": skip }]),
    ];
    (first, stage, last).prop_map(|(first, stage, last)| [first, stage, last].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over a disk, also one that fills up, as in memory, but for errors that say so.
    #[test]
    fn spilled_answers_are_those_of_memory(
        documents in prop::collection::vec(document(), 0..120),
        pipeline in pipeline(),
        held in 200..6_000_usize,
        room in prop_oneof![Just(u64::MAX), 0..20_000_u64],
        batch in prop::option::of(1..40_u32),
        skip in 0..5_u64,
        limit in prop::option::of(1..60_u64),
    ) {
        let scratch = MemScratch::new(room);
        let limits = Limits { sort_bytes_max: held, aggregate_bytes_max: held, ..Limits::default() };
        let (docs, registry) = spilling(&scratch, limits);
        let plain = memory();
        let numbered = || documents.iter().enumerate().map(|(id, document)| {
            let mut numbered = doc! { "_id": i32::try_from(id).unwrap() };
            numbered.extend(document.clone());
            numbered
        });
        insert(&docs, numbered());
        insert(&plain, numbered());
        let find = Find { skip, limit, batch, ..sorted(doc! { "a": 1, "b": -1 }) };
        match all(&docs, find.clone()) {
            Ok(found) => prop_assert_eq!(found, all(&plain, find).unwrap()),
            Err(error) => {
                prop_assert_eq!(error.code(), Code::OutOfDiskSpace);
                prop_assert!(room < u64::MAX);
            }
        }
        let expected = aggregate(&plain, &pipeline, None);
        match aggregate(&docs, &pipeline, batch) {
            Ok(found) => prop_assert_eq!(found, expected.unwrap()),
            Err(error) if error.code() == Code::OutOfDiskSpace => prop_assert!(room < u64::MAX),
            Err(error) => prop_assert!(error.to_string().contains("one group of $group"), "{}", error),
        }
        prop_assert_eq!(scratch.files(), 0);
        prop_assert_eq!(metric(&registry, "cloudlet_docdb_spill_bytes"), 0.0);
    }
}
