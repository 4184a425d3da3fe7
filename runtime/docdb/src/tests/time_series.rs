//! Time series: how they are stored and read, what may be changed of them, what they refuse, and when they expire.

use bson::{Bson, doc};
use cloudlet_base::Clock as _;
use proptest::prelude::*;
use redb::ReadableTable as _;

use super::*;

fn at(millis: i64) -> bson::DateTime {
    bson::DateTime::from_millis(millis)
}

fn series() -> TimeSeries {
    TimeSeries::parse(&raw(doc! { "timeField": "t", "metaField": "m" })).unwrap()
}

fn options(series: TimeSeries) -> CollectionOptions {
    CollectionOptions {
        time_series: Some(series),
        ..CollectionOptions::default()
    }
}

fn made() -> Docs {
    let docs = memory();
    let made = docs.create_collection_with(&ns(), options(series()));
    made.wait().unwrap();
    docs
}

/// Measurements of the sensors 0 to 2, one each ten milliseconds.
fn filled(count: i32) -> Docs {
    let docs = made();
    let done = insert(
        &docs,
        (0..count).map(|n| doc! { "_id": n, "t": at(i64::from(n) * 10), "m": { "sensor": n % 3 }, "v": n }),
    );
    assert!(done.errors.is_empty());
    docs
}

fn check(docs: &Docs) {
    docs.verify(Deadline::NEVER).wait().unwrap();
}

fn sorted(filter: Document, sort: Document) -> Find {
    Find {
        sort: Some(raw(sort)),
        ..query(filter)
    }
}

fn deleted(docs: &Docs, filter: Document, multi: bool) -> u64 {
    let done = docs
        .delete(&ns(), deletes(filter, multi), Deadline::NEVER)
        .wait()
        .unwrap();
    assert!(done.errors.is_empty());
    done.deleted
}

#[test]
fn measurements_come_by_their_time_and_may_share_an_id() {
    let docs = made();
    let done = insert(
        &docs,
        [
            doc! { "_id": 1, "t": at(30), "m": "a" },
            doc! { "_id": 1, "t": at(10), "m": "b" },
            doc! { "_id": 1, "t": at(10), "m": "b" },
            doc! { "_id": 2, "t": at(-20), "v": 7 },
        ],
    );
    assert!(done.errors.is_empty());
    assert_eq!(ids(&docs, query(doc! {})), [2, 1, 1, 1]);
    assert_eq!(ids(&docs, query(doc! { "_id": 1 })), [1, 1, 1]);
    assert_eq!(ids(&docs, query(doc! { "t": at(10) })), [1, 1]);
    assert_eq!(ids(&docs, sorted(doc! {}, doc! { "t": -1 })), [1, 1, 1, 2]);
    for hint in ["$natural", NATURAL_BACKWARD, "m_1_t_1"] {
        let find = Find {
            hint: Some(hint.into()),
            batch: Some(1),
            ..query(doc! { "t": { "$gte": at(10) } })
        };
        assert_eq!(ids(&docs, find), [1, 1, 1], "{hint}");
    }
    let unknown = Find {
        hint: Some("_id_".into()),
        ..query(doc! {})
    };
    assert_eq!(all(&docs, unknown).unwrap_err().code(), Code::BadValue);
    check(&docs);
}

#[test]
fn a_measurement_without_a_time_is_refused() {
    let docs = made();
    let without = [
        doc! { "_id": 1 },
        doc! { "_id": 2, "t": 5 },
        doc! { "_id": 3, "t": [at(1)] },
        doc! { "_id": 4, "t": Bson::Null },
    ];
    for document in without {
        let done = insert(&docs, [document]);
        assert_eq!(done.errors[0].error.code(), Code::BadValue);
        assert_eq!(
            done.errors[0].error.to_string(),
            "'t' must be present and contain a valid BSON UTC datetime value"
        );
    }
    assert_eq!(ids(&docs, query(doc! {})), Vec::<i32>::new());
}

#[test]
fn a_span_of_time_is_read_without_the_rest() {
    let docs = filled(300);
    let examined = |find: Find, stages: &[&str], documents: i32| {
        let (names, _, stats) = explained(&docs, find);
        assert_eq!(names, stages);
        assert_eq!(stats.get_i32("totalDocsExamined").unwrap(), documents);
    };
    let span = || doc! { "t": { "$gte": at(100), "$lt": at(200) } };
    examined(query(span()), &["CLUSTERED_IXSCAN"], 10);
    examined(query(doc! { "t": at(100) }), &["CLUSTERED_IXSCAN"], 1);
    examined(query(doc! {}), &["COLLSCAN"], 300);
    let last = Find {
        limit: Some(2),
        ..sorted(doc! {}, doc! { "t": -1 })
    };
    assert_eq!(ids(&docs, last.clone()), [299, 298]);
    examined(last, &["LIMIT", "CLUSTERED_IXSCAN"], 2);
    // By what it is of, the index that each series gets has fewer.
    let mut of_one = span();
    of_one.insert("m", doc! { "sensor": 1 });
    examined(query(of_one.clone()), &["FETCH", "IXSCAN"], 4);
    assert_eq!(ids(&docs, query(of_one)), [10, 13, 16, 19]);
    let count = docs.count(&ns(), query(span()), Deadline::NEVER);
    assert_eq!(count.wait().unwrap(), 10);
    let (_, scan, _) = explained(&docs, query(span()));
    let bounds = scan.get_document("indexBounds").unwrap().get_array("t").unwrap();
    assert_eq!(bounds.len(), 1);
    // Both branches are about the time.
    let either = doc! { "$or": [{ "t": at(50) }, { "m": { "sensor": 2 }, "t": at(20) }] };
    assert_eq!(ids(&docs, query(either)), [2, 5]);
    let grouped = Aggregate {
        pipeline: vec![
            raw(doc! { "$match": span() }),
            raw(doc! { "$group": { "_id": "$m.sensor", "sum": { "$sum": "$v" } } }),
            raw(doc! { "$sort": { "_id": 1 } }),
        ],
        ..Aggregate::default()
    };
    let page = docs.aggregate(&ns(), grouped, Deadline::NEVER).wait().unwrap();
    let sums: Vec<i32> = page
        .documents
        .iter()
        .map(|it| it.get_i32("sum").unwrap())
        .collect();
    assert_eq!(sums, [12 + 15 + 18, 10 + 13 + 16 + 19, 11 + 14 + 17]);
}

#[test]
fn a_series_has_an_index_on_what_and_when_and_none_on_its_ids() {
    let names = |docs: &Docs| -> Vec<String> {
        let all = docs.list_indexes(&ns()).wait().unwrap();
        all.iter().map(|index| index.name.to_string()).collect()
    };
    assert_eq!(names(&made()), ["m_1_t_1"]);
    let docs = memory();
    let plain = TimeSeries {
        meta_field: None,
        ..series()
    };
    docs.create_collection_with(&ns(), options(plain)).wait().unwrap();
    assert_eq!(names(&docs), Vec::<String>::new());
    make_index(&docs, index(&[("_id", 1)]));
    make_index(&docs, index(&[("v", 1)]));
    insert(
        &docs,
        [
            doc! { "_id": 1, "t": at(1), "v": 2 },
            doc! { "_id": 1, "t": at(2), "v": 1 },
        ],
    );
    assert_eq!(explained(&docs, query(doc! { "_id": 1 })).0, ["FETCH", "IXSCAN"]);
    assert_eq!(ids(&docs, query(doc! { "_id": 1 })), [1, 1]);
    check(&docs);
    let refused = |spec: IndexSpec| docs.create_indexes(&ns(), vec![spec]).wait().unwrap_err().code();
    let unique = IndexSpec {
        unique: true,
        ..index(&[("v", -1)])
    };
    assert_eq!(refused(unique), Code::InvalidOptions);
    let expiring = IndexSpec {
        expire_after_seconds: Some(5),
        ..index(&[("t", 1)])
    };
    assert_eq!(refused(expiring.clone()), Code::InvalidOptions);
    let partial = IndexSpec {
        partial_filter: Some(raw(doc! { "v": 1 })),
        ..expiring
    };
    make_index(&docs, partial);
}

#[test]
fn updates_are_of_what_is_measured_and_nothing_else() {
    let docs = filled(6);
    let update = |filter: Document, update: Document, multi: bool, upsert: bool| {
        let statement = UpdateOne {
            multi,
            upsert,
            ..update_one(filter, update)
        };
        docs.update(&ns(), updates(vec![statement]), Deadline::NEVER)
            .wait()
            .unwrap()
    };
    let set = || doc! { "$set": { "m.place": "roof" } };
    let refused = [
        update(doc! { "m.sensor": 1 }, set(), false, false),
        update(doc! { "m.sensor": 1 }, set(), true, true),
        update(doc! { "v": 1 }, set(), true, false),
        update(doc! { "m.sensor": 1, "t": at(10) }, set(), true, false),
        update(doc! { "$expr": { "$eq": ["$m.sensor", 1] } }, set(), true, false),
        update(doc! { "m.sensor": 1 }, doc! { "$set": { "v": 5 } }, true, false),
        update(
            doc! { "m.sensor": 1 },
            doc! { "$rename": { "m.sensor": "v" } },
            true,
            false,
        ),
        update(
            doc! { "m.sensor": 1 },
            doc! { "$pipeline": [{ "$set": { "m.x": 1 } }] },
            true,
            false,
        ),
        update(doc! { "m.sensor": 1 }, doc! { "v": 1 }, false, false),
    ];
    for done in refused {
        assert_eq!(
            done.errors[0].error.code(),
            Code::InvalidOptions,
            "{:?}",
            done.errors[0]
        );
    }
    let done = update(doc! { "m.sensor": 1 }, set(), true, false);
    assert_eq!((done.matched, done.modified), (2, 2));
    assert_eq!(
        ids(&docs, query(doc! { "m": { "sensor": 1, "place": "roof" } })),
        [1, 4]
    );
    assert_eq!(
        update(doc! {}, doc! { "$set": { "m": 0 } }, true, false).modified,
        6
    );
    assert_eq!(ids(&docs, query(doc! { "m": 0 })), [0, 1, 2, 3, 4, 5]);
    check(&docs);
    let plain = memory();
    let without = TimeSeries {
        meta_field: None,
        ..series()
    };
    plain
        .create_collection_with(&ns(), options(without))
        .wait()
        .unwrap();
    let statement = UpdateOne {
        multi: true,
        ..update_one(doc! {}, doc! { "$set": { "m": 1 } })
    };
    let done = plain
        .update(&ns(), updates(vec![statement]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.errors[0].error.code(), Code::InvalidOptions);
}

#[test]
fn deletes_take_any_filter_and_each_measurement_once() {
    let docs = filled(10);
    assert_eq!(deleted(&docs, doc! { "v": 3 }, true), 1);
    assert_eq!(deleted(&docs, doc! { "m.sensor": 0 }, false), 1);
    assert_eq!(ids(&docs, query(doc! {})), [1, 2, 4, 5, 6, 7, 8, 9]);
    // Measurements that are the same in every byte are several all the same.
    let same = || doc! { "_id": 50, "t": at(500), "v": 50 };
    insert(&docs, [same(), same(), same(), same()]);
    assert_eq!(deleted(&docs, doc! { "_id": 50 }, false), 1);
    check(&docs);
    assert_eq!(ids(&docs, query(doc! { "v": 50 })), [50, 50, 50]);
    let remove = |sort: Document| {
        let modify = FindAndModify {
            filter: raw(doc! { "v": { "$gte": 8 } }),
            sort: Some(raw(sort)),
            ..FindAndModify::default()
        };
        let done = docs
            .find_and_modify(&ns(), modify, Deadline::NEVER)
            .wait()
            .unwrap();
        done.document.unwrap().get_i32("_id").unwrap()
    };
    assert_eq!(remove(doc! { "v": -1 }), 50);
    assert_eq!(remove(doc! { "v": 1 }), 8);
    assert_eq!(remove(doc! { "t": -1 }), 50);
    assert_eq!(deleted(&docs, doc! { "v": 50 }, true), 1);
    assert_eq!(deleted(&docs, doc! {}, true), 7);
    assert_eq!(ids(&docs, query(doc! {})), Vec::<i32>::new());
    check(&docs);
}

#[test]
fn what_needs_single_documents_is_refused() {
    let docs = filled(3);
    let modify = FindAndModify {
        update: Some(raw(doc! { "$set": { "m": 1 } })),
        ..FindAndModify::default()
    };
    let code = |error: Error| error.code();
    let modified = docs.find_and_modify(&ns(), modify, Deadline::NEVER).wait();
    assert_eq!(modified.map(drop).map_err(code), Err(Code::InvalidOptions));
    let other = Namespace::new("db", "other");
    let renamed = docs.rename_collection(&ns(), &other, false).wait();
    assert_eq!(renamed.map_err(code), Err(Code::InvalidOptions));
    insert(&docs, []);
    docs.insert(&other, inserts([doc! { "_id": 1, "t": at(1) }]), Deadline::NEVER)
        .wait()
        .unwrap();
    for stage in [doc! { "$out": "c" }, doc! { "$merge": "c" }] {
        let writing = Aggregate {
            pipeline: vec![raw(stage)],
            ..Aggregate::default()
        };
        let made = docs.aggregate(&other, writing, Deadline::NEVER).wait();
        assert_eq!(made.map(drop).map_err(code), Err(Code::InvalidOptions));
    }
    let change = |change: CollectionChange| docs.modify_collection(&ns(), change).wait().map_err(code);
    let capped = CollectionChange {
        convert_to_capped: Some(1000),
        ..CollectionChange::default()
    };
    let images = CollectionChange {
        images: Some(true),
        ..CollectionChange::default()
    };
    assert_eq!(change(capped), Err(Code::InvalidOptions));
    assert_eq!(change(images), Err(Code::InvalidOptions));
    let transaction = docs.start_transaction().unwrap();
    let inserted = transaction.insert(&ns(), inserts([doc! { "_id": 1, "t": at(1) }]), Deadline::NEVER);
    let error = inserted.wait().map(|done| done.errors[0].error.code());
    assert_eq!(
        error.unwrap_or_else(code),
        Code::OperationNotSupportedInTransaction
    );
}

#[test]
fn the_options_are_checked_and_kept() {
    let parsed = |document: Document| TimeSeries::parse(&raw(document));
    let cases = [
        (doc! { "metaField": "m" }, 40_414),
        (doc! { "timeField": 5 }, 14),
        (doc! { "timeField": "a.b" }, 72),
        (doc! { "timeField": "" }, 72),
        (doc! { "timeField": "_id" }, 72),
        (doc! { "timeField": "t", "metaField": "_id" }, 72),
        (doc! { "timeField": "t", "metaField": "t" }, 72),
        (doc! { "timeField": "t", "metaField": "m.x" }, 72),
        (doc! { "timeField": "t", "granularity": "days" }, 2),
        (doc! { "timeField": "t", "granularity": 1 }, 14),
        (
            doc! { "timeField": "t", "bucketMaxSpanSeconds": 0, "bucketRoundingSeconds": 0 },
            51_024,
        ),
        (
            doc! { "timeField": "t", "bucketMaxSpanSeconds": 31_536_001, "bucketRoundingSeconds": 1 },
            51_024,
        ),
        (doc! { "timeField": "t", "bucketMaxSpanSeconds": 60 }, 72),
        (doc! { "timeField": "t", "bucketRoundingSeconds": 60 }, 72),
        (
            doc! { "timeField": "t", "bucketMaxSpanSeconds": 60, "bucketRoundingSeconds": 30 },
            72,
        ),
        (
            doc! { "timeField": "t", "granularity": "hours", "bucketMaxSpanSeconds": 60 },
            72,
        ),
        (doc! { "timeField": "t", "wrong": 1 }, 40_415),
    ];
    for (document, code) in cases {
        assert_eq!(
            parsed(document.clone()).unwrap_err().code().number(),
            code,
            "{document}"
        );
    }
    let shown = |series: TimeSeries| Document::try_from(&*options(series).to_document()).unwrap();
    assert_eq!(
        shown(series()),
        doc! { "timeseries": { "timeField": "t", "metaField": "m", "granularity": "seconds", "bucketMaxSpanSeconds": 3600 } }
    );
    let whole = doc! { "timeField": "t", "granularity": "hours", "bucketMaxSpanSeconds": 2_592_000, "bucketRoundingSeconds": 86_400 };
    let series = TimeSeries {
        expire_after_seconds: Some(5),
        ..parsed(whole).unwrap()
    };
    assert_eq!(
        shown(series),
        doc! { "timeseries": { "timeField": "t", "granularity": "hours", "bucketMaxSpanSeconds": 2_592_000 }, "expireAfterSeconds": 5_i64 }
    );
    let custom =
        parsed(doc! { "timeField": "t", "bucketMaxSpanSeconds": 60.0, "bucketRoundingSeconds": 60_i64 });
    let custom = custom.unwrap();
    assert_eq!(
        shown(custom.clone()),
        doc! { "timeseries": { "timeField": "t", "bucketMaxSpanSeconds": 60, "bucketRoundingSeconds": 60 } }
    );
    // What is shown can be given again.
    let again = options(custom.clone()).to_document();
    assert_eq!(
        TimeSeries::parse(again.get_document("timeseries").unwrap()).unwrap(),
        custom
    );
    let with = |change: fn(&mut CollectionOptions)| {
        let mut options = options(custom.clone());
        change(&mut options);
        memory()
            .create_collection_with(&ns(), options)
            .wait()
            .unwrap_err()
            .code()
    };
    assert_eq!(
        with(|it| it.capped = Some(Capped { size: 100, max: None })),
        Code::InvalidOptions
    );
    assert_eq!(with(|it| it.clustered = Some("x".into())), Code::InvalidOptions);
    assert_eq!(
        with(|it| it.validator = Some(raw(doc! { "a": 1 }))),
        Code::InvalidOptions
    );
    assert_eq!(with(|it| it.images = true), Code::InvalidOptions);
    let dying = |it: &mut CollectionOptions| {
        it.time_series.as_mut().unwrap().expire_after_seconds = Some(-1);
    };
    assert_eq!(with(dying), Code::InvalidOptions);
}

#[test]
fn spans_grow_and_lives_change() {
    let docs = made();
    let change = |span: Option<Document>, expires: Option<Option<i64>>| {
        let change = CollectionChange {
            span: span.map(|span| BucketSpan::parse(&raw(span)).unwrap()),
            expire_after_seconds: expires,
            ..CollectionChange::default()
        };
        let done = docs.modify_collection(&ns(), change).wait();
        done.map_err(|error| error.code())?;
        Ok::<_, Code>(
            docs.collection_options(&ns())
                .wait()
                .unwrap()
                .time_series
                .unwrap(),
        )
    };
    let minutes = change(Some(doc! { "granularity": "minutes" }), Some(Some(60))).unwrap();
    assert_eq!(minutes.span, BucketSpan::Granularity(Granularity::Minutes));
    assert_eq!(minutes.expire_after_seconds, Some(60));
    let shorter = change(Some(doc! { "granularity": "seconds" }), None);
    assert_eq!(shorter, Err(Code::InvalidOptions));
    let custom = doc! { "bucketMaxSpanSeconds": 100_000, "bucketRoundingSeconds": 100_000 };
    assert_eq!(
        change(Some(custom), None).unwrap().span,
        BucketSpan::Seconds(100_000)
    );
    assert_eq!(change(None, Some(None)).unwrap().expire_after_seconds, None);
    assert_eq!(change(None, Some(Some(-5))), Err(Code::InvalidOptions));
    assert!(BucketSpan::parse(&raw(doc! {})).is_err());
    assert!(BucketSpan::parse(&raw(doc! { "timeField": "x" })).is_err());
    let other = Namespace::new("db", "other");
    docs.create_collection(&other).wait().unwrap();
    let expiring = CollectionChange {
        expire_after_seconds: Some(Some(5)),
        ..CollectionChange::default()
    };
    let refused = docs.modify_collection(&other, expiring).wait().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidOptions);
}

#[test]
fn measurements_expire_by_their_time() {
    let clock = Arc::new(ManualClock::at_millis(100_000));
    let docs = clocked(Limits::default(), &clock);
    let expiring = TimeSeries {
        expire_after_seconds: Some(10),
        ..series()
    };
    docs.create_collection_with(&ns(), options(expiring))
        .wait()
        .unwrap();
    insert(
        &docs,
        [89_000, 90_001, 90_000, 99_999, 1_000_000]
            .map(|millis| doc! { "_id": i32::try_from(millis).unwrap(), "t": at(millis), "m": 1 }),
    );
    let expire = |budget: usize| docs.expire(clock.now(), budget).wait().unwrap();
    let more = Expired {
        deleted: 1,
        more: true,
    };
    assert_eq!(expire(1), more);
    assert_eq!(expire(5).deleted, 1);
    assert_eq!(ids(&docs, query(doc! {})), [90_001, 99_999, 1_000_000]);
    assert_eq!(expire(5).deleted, 0);
    check(&docs);
}

#[test]
fn a_series_is_as_it_was_left_and_its_damage_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let at_path = || {
        open(Config {
            path: Some(path.clone()),
            ..Config::default()
        })
        .unwrap()
    };
    let docs = at_path();
    let kept = TimeSeries {
        span: BucketSpan::Seconds(7),
        expire_after_seconds: Some(100),
        ..series()
    };
    docs.create_collection_with(&ns(), options(kept.clone()))
        .wait()
        .unwrap();
    insert(
        &docs,
        [
            doc! { "_id": 1, "t": at(5), "m": 1 },
            doc! { "_id": 1, "t": at(5), "m": 2 },
        ],
    );
    drop(docs);
    let docs = at_path();
    assert_eq!(docs.collection_options(&ns()).wait().unwrap(), options(kept));
    assert_eq!(ids(&docs, query(doc! { "t": at(5) })), [1, 1]);
    insert(&docs, [doc! { "_id": 2, "t": at(5), "m": 2 }]);
    assert_eq!(ids(&docs, query(doc! { "m": 2 })), [1, 2]);
    check(&docs);
    drop(docs);
    let database = redb::Database::create(&path).unwrap();
    let writing = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("cloudlet");
    let mut rows = writing.open_table(table).unwrap();
    let (key, value) = {
        let mut documents = rows.range::<&[u8]>(&[2_u8][..]..&[3_u8][..]).unwrap();
        let (key, value) = documents.next().unwrap().unwrap();
        (key.value().to_vec(), value.value().to_vec())
    };
    rows.remove(&*key).unwrap();
    let mut other = key.clone();
    other[10] ^= 1;
    rows.insert(&*other, &*value).unwrap();
    drop(rows);
    writing.commit().unwrap();
    drop(database);
    let mut found = Vec::new();
    check_file(
        &path,
        1 << 20,
        &mut |finding| found.push(finding.to_string()),
        &mut |_| {},
    )
    .unwrap();
    assert!(
        found
            .iter()
            .any(|what| what.contains("not under the key of its time")),
        "{found:?}"
    );
}

#[test]
fn measurements_have_no_events() {
    let docs = made();
    insert(&docs, [doc! { "_id": 1, "t": at(1), "m": 1 }]);
    deleted(&docs, doc! {}, true);
    let events = super::feed::history(&docs, super::feed::scope()).unwrap();
    assert_eq!(events, Vec::<Document>::new());
}

#[test]
fn places_of_measurements_are_found_by_distance_page_by_page() {
    let docs = made();
    let places = IndexSpec::parse(&raw(doc! { "key": { "loc": "2dsphere" } })).unwrap();
    make_index(&docs, places);
    // Two with one _id at one distance.
    insert(
        &docs,
        (0..6).map(|n| doc! { "_id": n / 2, "t": at(i64::from(n)), "loc": [f64::from(n / 2), 0.0] }),
    );
    let near = Find {
        batch: Some(1),
        ..query(doc! { "loc": { "$nearSphere": [0.0, 0.0] } })
    };
    assert_eq!(ids(&docs, near), [0, 0, 1, 1, 2, 2]);
}

fn step() -> impl Strategy<Value = (bool, i64, i32, i32)> {
    (prop::bool::weighted(0.8), 0..6_i64, 0..3_i32, 0..4_i32)
}

fn filter() -> impl Strategy<Value = Document> {
    let time = (0..6_i64, 0..6_i64, "(gt|gte|lt|lte)", "(gt|gte|lt|lte)").prop_map(|(a, b, p, q)| {
        doc! { "$and": [{ "t": { format!("${p}"): at(a) } }, { "t": { format!("${q}"): at(b) } }] }
    });
    let some = prop::collection::vec(0..6_i64, 0..3).prop_map(|times| {
        let times: Vec<Bson> = times.into_iter().map(|time| Bson::DateTime(at(time))).collect();
        doc! { "t": { "$in": times } }
    });
    let one = prop_oneof![
        time,
        some,
        (0..6_i64).prop_map(|time| doc! { "t": at(time) }),
        (0..3_i32).prop_map(|m| doc! { "m": m }),
        (0..4_i32).prop_map(|v| doc! { "_id": v }),
        Just(doc! { "t": { "$exists": true } }),
        Just(doc! { "t": 5 }),
        Just(doc! { "t": { "$ne": at(2) } }),
    ];
    prop_oneof![
        one.clone(),
        (one.clone(), one.clone()).prop_map(|(a, b)| doc! { "$and": [a, b] }),
        (one.clone(), one).prop_map(|(a, b)| doc! { "$or": [a, b] }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every plan gives what a list of measurements gives, page by page, and nothing is left over by deletes.
    #[test]
    fn plans_give_what_the_list_does(steps in prop::collection::vec(step(), 1..40), wanted in filter(), batch in 1..4_u32, backward in any::<bool>()) {
        let docs = made();
        let mut list: Vec<Document> = Vec::new();
        for (inserts, t, m, id) in steps {
            if inserts {
                let document = doc! { "_id": id, "t": at(t), "m": m };
                insert(&docs, [document.clone()]);
                list.push(document);
            } else {
                let done = deleted(&docs, doc! { "t": at(t), "m": m }, true);
                let before = list.len();
                list.retain(|it| it.get_datetime("t").unwrap() != &at(t) || it.get_i32("m").unwrap() != m);
                prop_assert_eq!(usize::try_from(done).unwrap(), before - list.len());
            }
        }
        let parsed = crate::query::Filter::parse(&raw(wanted.clone())).unwrap();
        let mut expected: Vec<String> = list.iter().filter(|it| parsed.matches(&raw((*it).clone()))).map(ToString::to_string).collect();
        expected.sort();
        let sort = doc! { "t": if backward { -1 } else { 1 } };
        for hint in [None, Some("$natural"), Some("m_1_t_1")] {
            for sort in [None, Some(sort.clone())] {
                let find = Find { hint: hint.map(Arc::from), sort: sort.clone().map(raw), batch: Some(batch), ..query(wanted.clone()) };
                let found = all(&docs, find).unwrap();
                if sort.is_some() {
                    let times: Vec<i64> = found.iter().map(|it| it.get_datetime("t").unwrap().timestamp_millis()).collect();
                    let ordered = times.is_sorted_by(|a, b| if backward { a >= b } else { a <= b });
                    prop_assert!(ordered);
                }
                let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
                found.sort();
                prop_assert_eq!(&found, &expected);
            }
        }
        let count = docs.count(&ns(), query(wanted), Deadline::NEVER).wait().unwrap();
        prop_assert_eq!(usize::try_from(count).unwrap(), expected.len());
        check(&docs);
    }
}

#[test]
fn documents_of_one_moment_are_told_apart_by_their_place() {
    let docs = made();
    let done = insert(&docs, (0..5).map(|n| doc! { "_id": 1, "t": at(7), "v": n }));
    assert!(done.errors.is_empty());
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let find = Find {
            hint: Some("$natural".into()),
            after: after.take(),
            batch: Some(2),
            ..Find::default()
        };
        let page = docs.find(&ns(), find, Deadline::NEVER).wait().unwrap();
        seen.extend(
            page.documents
                .iter()
                .map(|document| document.get_i32("v").unwrap()),
        );
        after = page.cursor.and_then(|cursor| cursor.place());
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}
