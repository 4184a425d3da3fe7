//! Index kinds and options: what they hold, what they refuse, and when documents expire.

use cloudlet_base::Clock;

use super::*;

fn partial(keys: &[(&str, i32)], filter: Document) -> IndexSpec {
    let mut spec = index(keys);
    spec.name = format!("{}_partial", spec.name).into();
    spec.partial_filter = Some(raw(filter));
    spec
}

fn made(docs: &Docs, spec: IndexSpec) -> std::result::Result<usize, Code> {
    let made = docs.create_indexes(&ns(), vec![spec]).wait();
    made.map_err(|error| error.code())
}

fn verify(docs: &Docs) -> Verified {
    docs.verify(Deadline::NEVER).wait().unwrap()
}

#[track_caller]
fn stages(docs: &Docs, filter: Document, expected: &[&str]) {
    let shown = format!("{filter}");
    assert_eq!(explained(docs, query(filter)).0, expected, "{shown}");
}

#[test]
fn a_partial_index_has_and_serves_what_its_filter_matches() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..partial(&[("email", 1)], doc! { "active": true, "age": { "$gte": 18 } })
        },
    );
    let done = insert(
        &docs,
        [
            doc! { "_id": 1, "email": "a", "active": true, "age": 20 },
            doc! { "_id": 2, "email": "a", "active": false, "age": 20 },
            doc! { "_id": 3, "email": "a", "active": true, "age": 3 },
            doc! { "_id": 4, "email": "b", "active": true, "age": 18 },
        ],
    );
    assert_eq!(done.errors.len(), 0);
    assert_eq!(verify(&docs).entries, 2);
    let used = ["FETCH", "IXSCAN"];
    stages(
        &docs,
        doc! { "email": "a", "active": true, "age": { "$gt": 18 } },
        &used,
    );
    stages(&docs, doc! { "email": "a", "active": true, "age": 20 }, &used);
    stages(
        &docs,
        doc! { "email": "a", "active": true, "age": { "$in": [18, 19] } },
        &used,
    );
    stages(
        &docs,
        doc! { "email": "a", "active": true, "age": { "$gte": 17 } },
        &["COLLSCAN"],
    );
    stages(&docs, doc! { "email": "a", "active": true }, &["COLLSCAN"]);
    stages(
        &docs,
        doc! { "email": "a", "active": { "$in": [true, false] }, "age": 20 },
        &["COLLSCAN"],
    );
    assert_eq!(ids(&docs, query(doc! { "email": "a" })), [1, 2, 3]);
    // A document enters the index by a change of another field than the indexed one.
    let done = docs
        .update(
            &ns(),
            updates(vec![update_one(
                doc! { "_id": 2 },
                doc! { "$set": { "active": true } },
            )]),
            Deadline::NEVER,
        )
        .wait()
        .unwrap();
    assert_eq!(done.errors[0].error.code(), Code::DuplicateKey);
    let hinted = Find {
        hint: Some("email_1_partial".into()),
        ..query(doc! { "email": "a" })
    };
    assert_eq!(
        all(&docs, hinted).unwrap_err().code(),
        Code::NoQueryExecutionPlans
    );
    verify(&docs);
}

#[test]
fn nan_is_outside_of_every_range() {
    let docs = memory();
    make_index(&docs, partial(&[("a", 1)], doc! { "a": { "$lt": 5 } }));
    insert(
        &docs,
        [doc! { "_id": 1, "a": f64::NAN }, doc! { "_id": 2, "a": 1 }],
    );
    assert_eq!(verify(&docs).entries, 1);
    assert_eq!(ids(&docs, query(doc! { "a": f64::NAN })), [1]);
    assert_eq!(ids(&docs, query(doc! { "a": { "$lte": f64::NAN } })), [1]);
    assert_eq!(ids(&docs, query(doc! { "a": { "$lt": 3 } })), [2]);
}

#[test]
fn options_are_checked_as_mongodb_does() {
    let docs = memory();
    let refused = |spec: IndexSpec, code: Code| assert_eq!(made(&docs, spec.clone()), Err(code), "{spec:?}");
    let one = || index(&[("a", 1)]);
    let parsed = |document: Document| IndexSpec::parse(&raw(document)).map_err(|error| error.code().number());
    refused(
        IndexSpec {
            sparse: true,
            ..partial(&[("a", 1)], doc! { "a": 1 })
        },
        Code::CannotCreateIndex,
    );
    for filter in [
        doc! { "a": { "$ne": 1 } },
        doc! { "a": { "$exists": false } },
        doc! { "a": { "$regex": "x" } },
        doc! { "$nor": [{ "a": 1 }] },
        doc! { "$expr": true },
        doc! { "a": { "$what": 1 } },
    ] {
        refused(partial(&[("a", 1)], filter), Code::CannotCreateIndex);
    }
    for seconds in [-1, 1 << 31] {
        refused(
            IndexSpec {
                expire_after_seconds: Some(seconds),
                ..one()
            },
            Code::CannotCreateIndex,
        );
    }
    let compound = index(&[("a", 1), ("b", 1)]);
    refused(
        IndexSpec {
            expire_after_seconds: Some(1),
            ..compound.clone()
        },
        Code::CannotCreateIndex,
    );
    let hashed = IndexSpec {
        kind: IndexKind::Hashed,
        ..one()
    };
    refused(
        IndexSpec {
            unique: true,
            ..hashed
        },
        Code::Location(16_764),
    );
    refused(
        IndexSpec {
            kind: IndexKind::Hashed,
            ..compound
        },
        Code::CannotCreateIndex,
    );
    refused(
        IndexSpec {
            hidden: true,
            ..index(&[("_id", 1)])
        },
        Code::CannotCreateIndex,
    );
    assert_eq!(made(&docs, one()), Ok(1));
    refused(
        IndexSpec {
            unique: true,
            ..one()
        },
        Code::IndexKeySpecsConflict,
    );
    refused(
        IndexSpec {
            expire_after_seconds: Some(1),
            ..one()
        },
        Code::IndexOptionsConflict,
    );
    refused(
        IndexSpec {
            name: "other".into(),
            ..one()
        },
        Code::IndexOptionsConflict,
    );
    assert_eq!(
        made(
            &docs,
            IndexSpec {
                name: "sparse".into(),
                sparse: true,
                ..one()
            }
        ),
        Ok(1)
    );

    let spec = parsed(doc! { "key": { "a": "hashed" }, "v": 2, "background": true }).unwrap();
    assert_eq!((&*spec.name, spec.kind), ("a_hashed", IndexKind::Hashed));
    assert_eq!(
        spec.to_document(),
        raw(doc! { "v": 2, "key": { "a": "hashed" }, "name": "a_hashed", "background": true })
    );
    let spec = parsed(doc! { "key": { "a": 1.0, "b": -1_i64 }, "expireAfterSeconds": 5.0 });
    assert_eq!(spec, Err(67));
    let full = doc! {
        "v": 2, "key": { "a": -1 }, "name": "n", "unique": true, "hidden": true,
        "partialFilterExpression": { "a": { "$gt": 1 } }, "expireAfterSeconds": 60,
    };
    assert_eq!(parsed(full.clone()).unwrap().to_document(), raw(full));
    assert_eq!(parsed(doc! { "key": { "a": 0 } }), Err(67));
    assert_eq!(parsed(doc! { "key": { "a": "text" } }), Err(67));
    assert_eq!(parsed(doc! { "key": { "a": 1 }, "bogus": 1 }), Err(197));
    assert_eq!(parsed(doc! { "key": 1 }), Err(14));
}

#[test]
fn a_hidden_index_is_passed_over_and_enforced() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            hidden: true,
            ..index(&[("a", 1)])
        },
    );
    let done = insert(&docs, [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 1 }]);
    assert_eq!(done.errors[0].error.code(), Code::DuplicateKey);
    stages(&docs, doc! { "a": 1 }, &["COLLSCAN"]);
    let hinted = Find {
        hint: Some("a_1".into()),
        ..query(doc! { "a": 1 })
    };
    assert_eq!(all(&docs, hinted).unwrap_err().code(), Code::BadValue);
    let shown = IndexChange {
        hidden: Some(false),
        ..IndexChange::default()
    };
    let (before, after) = docs.modify_index(&ns(), "a_1", shown).wait().unwrap();
    assert!(before.hidden && !after.hidden);
    stages(&docs, doc! { "a": 1 }, &["FETCH", "IXSCAN"]);
    let missing = docs.modify_index(&ns(), "b_1", shown).wait().unwrap_err();
    assert_eq!(missing.code(), Code::IndexNotFound);
}

#[test]
fn a_hashed_index_serves_equality_only() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec::parse(&raw(doc! { "key": { "a": "hashed" } })).unwrap(),
    );
    insert(&docs, (0..20).map(|i| doc! { "_id": i, "a": { "n": i % 5 } }));
    insert(
        &docs,
        [
            doc! { "_id": 30 },
            doc! { "_id": 31, "a": 7 },
            doc! { "_id": 32, "a": 7.0 },
        ],
    );
    stages(&docs, doc! { "a": 7 }, &["FETCH", "IXSCAN"]);
    stages(&docs, doc! { "a": { "$gt": 7 } }, &["COLLSCAN"]);
    assert_eq!(ids(&docs, query(doc! { "a": 7 })), [31, 32]);
    assert_eq!(ids(&docs, query(doc! { "a": null })), [30]);
    let mut found = ids(&docs, query(doc! { "a": { "$in": [{ "n": 1 }, 7] } }));
    found.sort_unstable();
    assert_eq!(found, [1, 6, 11, 16, 31, 32]);
    let done = insert(&docs, [doc! { "_id": 40, "a": [1] }]);
    assert_eq!(done.errors[0].error.code(), Code::Location(16_766));
    verify(&docs);
}

#[test]
fn documents_expire_in_batches_by_their_earliest_date() {
    let clock = Arc::new(ManualClock::at_millis(1_000_000));
    let docs = clocked(Limits::default(), &clock);
    let date = |millis: i64| bson::DateTime::from_millis(millis);
    make_index(
        &docs,
        IndexSpec {
            expire_after_seconds: Some(10),
            ..index(&[("at", -1)])
        },
    );
    make_index(
        &docs,
        IndexSpec {
            expire_after_seconds: Some(0),
            ..partial(&[("until", 1)], doc! { "kind": "x" })
        },
    );
    insert(
        &docs,
        [
            doc! { "_id": 1, "at": date(990_000) },
            doc! { "_id": 2, "at": date(990_001) },
            doc! { "_id": 3, "at": [date(999_000), date(5)] },
            doc! { "_id": 4, "at": 5 },
            doc! { "_id": 5, "at": bson::Timestamp { time: 1, increment: 1 } },
            doc! { "_id": 6 },
            doc! { "_id": 7, "until": date(-5), "kind": "x" },
            doc! { "_id": 8, "until": date(-5), "kind": "y" },
            doc! { "_id": 9, "at": [date(2_000_000), "x"] },
        ],
    );
    let expire = |budget: usize| docs.expire(clock.now(), budget).wait().unwrap();
    assert_eq!(expire(0).deleted, 0);
    assert_eq!(
        expire(2),
        Expired {
            deleted: 2,
            more: true
        }
    );
    assert_eq!(
        expire(2),
        Expired {
            deleted: 1,
            more: false
        }
    );
    assert_eq!(expire(100), Expired::default());
    assert_eq!(ids(&docs, query(doc! {})), [2, 4, 5, 6, 8, 9]);
    clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(expire(100).deleted, 1);
    let longer = IndexChange {
        expire_after_seconds: Some(2000),
        ..IndexChange::default()
    };
    docs.modify_index(&ns(), "at_-1", longer).wait().unwrap();
    clock.advance(std::time::Duration::from_secs(1500));
    assert_eq!(expire(100).deleted, 0);
    let never = IndexChange {
        expire_after_seconds: Some(-1),
        ..IndexChange::default()
    };
    assert_eq!(
        docs.modify_index(&ns(), "at_-1", never)
            .wait()
            .unwrap_err()
            .code(),
        Code::InvalidOptions
    );
    clock.advance(std::time::Duration::from_secs(2000));
    assert_eq!(expire(100).deleted, 1);
    verify(&docs);
}
