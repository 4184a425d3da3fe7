//! One command at a time, and what it answers.

use super::*;

fn n(range: std::ops::Range<i32>) -> Vec<Document> {
    range
        .map(|i| doc! { "_id": i, "n": i, "m": i % 3, "tags": [i, i + 1], "s": format!("s{i:03}") })
        .collect()
}

#[test]
fn inserts_make_the_collection_and_the_id() {
    let docs = memory();
    let done = insert(&docs, [doc! { "a": 1 }, doc! { "a": 2, "_id": "x" }]);
    assert_eq!(done.ids.len(), 2);
    assert!(matches!(done.ids[0].1, bson::RawBson::ObjectId(_)));
    let found = all(&docs, query(doc! { "_id": "x" })).unwrap();
    assert_eq!(found, [doc! { "_id": "x", "a": 2 }]);
    assert_eq!(found[0].keys().next().unwrap(), "_id");
    assert_eq!(docs.list_collections("db").wait().unwrap(), [Arc::from("c")]);
}

#[test]
fn a_duplicate_id_is_told_as_mongodb_tells_it() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1 }]);
    let documents = || inserts([doc! { "_id": 2 }, doc! { "_id": 1.0 }, doc! { "_id": 3 }]);
    let done = docs.insert(&ns(), documents(), Deadline::NEVER).wait().unwrap();
    assert_eq!((done.ids.len(), done.errors.len()), (1, 1));
    let error = &done.errors[0];
    assert_eq!((error.index, error.error.code()), (1, Code::DuplicateKey));
    assert_eq!(
        error.error.to_string(),
        "E11000 duplicate key error collection: db.c index: _id_ dup key: { _id: 1.0 }"
    );
    let unordered = Insert {
        ordered: false,
        ..documents()
    };
    let done = docs.insert(&ns(), unordered, Deadline::NEVER).wait().unwrap();
    assert_eq!((done.ids.len(), done.errors.len()), (1, 2));
    assert_eq!(ids(&docs, query(doc! {})), [1, 2, 3]);
}

#[test]
fn a_unique_index_refuses_and_names_the_key() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        },
    );
    let done = insert(&docs, [doc! { "_id": 1, "u": 2 }, doc! { "_id": 2, "u": 2 }]);
    let error = &done.errors[0].error;
    assert_eq!(
        error.to_string(),
        "E11000 duplicate key error collection: db.c index: u_1 dup key: { u: 2 }"
    );
    let (pattern, value) = error.duplicate().unwrap();
    assert_eq!(
        (pattern.to_owned(), value.to_owned()),
        (raw(doc! { "u": 1 }), raw(doc! { "u": 2 }))
    );
    // A missing field is null, and null is a value like others.
    let done = insert(&docs, [doc! { "_id": 3 }, doc! { "_id": 4 }]);
    assert_eq!(
        done.errors[0].error.to_string(),
        "E11000 duplicate key error collection: db.c index: u_1 dup key: { u: null }"
    );
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_sparse_unique_index_leaves_out_what_has_no_field() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            sparse: true,
            ..index(&[("u", 1)])
        },
    );
    insert(
        &docs,
        [doc! { "_id": 1 }, doc! { "_id": 2 }, doc! { "_id": 3, "u": 1 }],
    );
    assert_eq!(ids(&docs, query(doc! { "u": null })), [1, 2]);
    assert_eq!(ids(&docs, query(doc! { "u": 1 })), [3]);
    assert_eq!(explained(&docs, query(doc! { "u": null })).0, ["COLLSCAN"]);
    assert_eq!(explained(&docs, query(doc! { "u": 1 })).0, ["FETCH", "IXSCAN"]);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn plans_use_the_indexes() {
    let docs = memory();
    insert(&docs, n(0..50));
    for keys in [
        &[("n", 1)][..],
        &[("m", 1), ("n", -1)],
        &[("tags", 1)],
        &[("s", -1)],
    ] {
        make_index(&docs, index(keys));
    }
    let check = |filter: Document,
                 sort: Option<Document>,
                 stages: &[&str],
                 index: &str,
                 bounds: Document,
                 keys: i32| {
        let find = Find {
            sort: sort.map(raw),
            ..query(filter.clone())
        };
        let (names, scan, stats) = explained(&docs, find);
        assert_eq!(names, stages, "{filter}");
        if !index.is_empty() {
            assert_eq!(scan.get_str("indexName").unwrap(), index, "{filter}");
            assert_eq!(scan.get_document("indexBounds").unwrap(), &bounds, "{filter}");
        }
        assert_eq!(stats.get_i32("totalKeysExamined").unwrap(), keys, "{filter}");
    };
    let ixscan = &["FETCH", "IXSCAN"];
    check(doc! { "_id": 3 }, None, &["IDHACK"], "", doc! {}, 0);
    check(doc! { "x": 3 }, None, &["COLLSCAN"], "", doc! {}, 0);
    check(doc! { "n": 3 }, None, ixscan, "n_1", doc! { "n": ["[3, 3]"] }, 1);
    check(
        doc! { "n": { "$gt": 3, "$lte": 6 } },
        None,
        ixscan,
        "n_1",
        doc! { "n": ["(3, 6]"] },
        3,
    );
    check(
        doc! { "n": { "$in": [1, 4, 60] } },
        None,
        ixscan,
        "n_1",
        doc! { "n": ["[1, 1]", "[4, 4]", "[60, 60]"] },
        2,
    );
    check(
        doc! { "m": 1, "n": { "$gte": 10, "$lt": 20 } },
        None,
        ixscan,
        "m_1_n_-1",
        doc! { "m": ["[1, 1]"], "n": ["(20, 10]"] },
        4,
    );
    check(
        doc! { "m": 1 },
        Some(doc! { "n": 1 }),
        ixscan,
        "m_1_n_-1",
        doc! { "m": ["[1, 1]"], "n": ["[MaxKey, MinKey]"] },
        17,
    );
    check(
        doc! { "tags": 7 },
        None,
        ixscan,
        "tags_1",
        doc! { "tags": ["[7, 7]"] },
        2,
    );
    check(
        doc! { "m": 1 },
        Some(doc! { "s": 1 }),
        &["SORT", "FETCH", "IXSCAN"],
        "m_1_n_-1",
        doc! { "m": ["[1, 1]"], "n": ["[MaxKey, MinKey]"] },
        17,
    );
    let (names, scan, _) = explained(&docs, query(doc! { "s": { "$regex": "^s00" } }));
    assert_eq!(
        (names, scan.get_str("indexName").unwrap()),
        (vec!["FETCH".to_owned(), "IXSCAN".to_owned()], "s_-1")
    );
    assert_eq!(ids(&docs, query(doc! { "s": { "$regex": "^s00" } })).len(), 10);
    assert_eq!(
        ids(
            &docs,
            Find {
                sort: Some(raw(doc! { "n": 1 })),
                ..query(doc! { "m": 1 })
            }
        )[..3],
        [1, 4, 7]
    );
    assert_eq!(
        ids(
            &docs,
            Find {
                sort: Some(raw(doc! { "_id": -1 })),
                limit: Some(2),
                ..query(doc! {})
            }
        ),
        [49, 48]
    );
    assert_eq!(
        ids(&docs, query(doc! { "tags": { "$gte": 10, "$lte": 12 } })),
        [9, 10, 11, 12]
    );
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn hints_are_followed_or_refused() {
    let docs = memory();
    insert(&docs, n(0..5));
    make_index(&docs, index(&[("n", 1)]));
    let hinted = |hint: &str| Find {
        hint: Some(hint.into()),
        ..query(doc! { "n": 3 })
    };
    assert_eq!(explained(&docs, hinted("$natural")).0, ["COLLSCAN"]);
    assert_eq!(explained(&docs, hinted("_id_")).0, ["COLLSCAN"]);
    assert_eq!(all(&docs, hinted("nope")).unwrap_err().code(), Code::BadValue);
}

#[test]
fn min_and_max_are_keys_of_the_hinted_index() {
    let docs = memory();
    insert(
        &docs,
        (0..10).map(|n| doc! { "_id": n, "j": n / 2, "k": [n, n + 100] }),
    );
    make_index(&docs, index(&[("j", 1), ("_id", -1)]));
    make_index(&docs, index(&[("k", 1)]));
    let within = |hint: &str, min: Option<Document>, max: Option<Document>| Find {
        hint: Some(hint.into()),
        min: min.map(raw),
        max: max.map(raw),
        ..Find::default()
    };
    let check = |find: Find, expected: &[i32]| {
        for batch in [1, 100] {
            let batch = Some(batch);
            assert_eq!(
                ids(
                    &docs,
                    Find {
                        batch,
                        ..find.clone()
                    }
                ),
                expected,
                "{find:?}"
            );
        }
    };
    check(within("_id_", Some(doc! { "_id": 7 }), None), &[7, 8, 9]);
    check(
        within("_id_", Some(doc! { "_id": 2 }), Some(doc! { "_id": 4.0 })),
        &[2, 3],
    );
    let compound = |j: i32, id: i32| Some(doc! { "j": j, "_id": id });
    check(within("j_1__id_-1", compound(1, 2), compound(2, 4)), &[2, 5]);
    check(within("j_1__id_-1", compound(3, 0), compound(1, 0)), &[]);
    // Each document is in the index twice, and shown once.
    check(
        within("k_1", Some(doc! { "k": 8 }), Some(doc! { "k": 102 })),
        &[8, 9, 0, 1],
    );
    let filtered = Find {
        filter: raw(doc! { "j": { "$in": [1, 3] } }),
        ..within("j_1__id_-1", compound(1, 2), None)
    };
    check(filtered, &[2, 7, 6]);
    for find in [
        within("j_1__id_-1", Some(doc! { "_id": 1, "j": 1 }), None),
        within("j_1__id_-1", None, Some(doc! { "j": 1 })),
        within("$natural", None, Some(doc! { "j": 1 })),
        Find {
            hint: None,
            ..within("", None, Some(doc! { "_id": 1 }))
        },
    ] {
        assert_eq!(all(&docs, find).unwrap_err().code(), Code::BadValue);
    }
}

#[test]
fn pages_go_on_where_they_stopped() {
    let docs = memory();
    insert(&docs, n(0..30));
    make_index(&docs, index(&[("tags", 1)]));
    let check = |find: Find, expected: Vec<i32>| {
        for batch in [1, 2, 7, 100] {
            assert_eq!(
                ids(
                    &docs,
                    Find {
                        batch: Some(batch),
                        ..find.clone()
                    }
                ),
                expected
            );
        }
    };
    check(query(doc! {}), (0..30).collect());
    check(
        Find {
            skip: 3,
            limit: Some(10),
            ..query(doc! {})
        },
        (3..13).collect(),
    );
    check(
        Find {
            sort: Some(raw(doc! { "n": -1 })),
            skip: 1,
            limit: Some(10),
            ..query(doc! {})
        },
        (19..29).rev().collect(),
    );
    check(
        Find {
            sort: Some(raw(doc! { "_id": -1 })),
            skip: 1,
            limit: Some(10),
            ..query(doc! {})
        },
        (19..29).rev().collect(),
    );
    check(query(doc! { "tags": { "$gte": 5 } }), (4..30).collect());
    let page = docs
        .find(
            &ns(),
            Find {
                batch: Some(0),
                ..query(doc! {})
            },
            Deadline::NEVER,
        )
        .wait()
        .unwrap();
    assert!(page.documents.is_empty() && page.cursor.is_some());
}

#[test]
fn a_cursor_ends_with_its_collection() {
    let docs = memory();
    insert(&docs, n(0..10));
    let page = docs
        .find(
            &ns(),
            Find {
                batch: Some(2),
                ..query(doc! {})
            },
            Deadline::NEVER,
        )
        .wait()
        .unwrap();
    assert!(docs.drop_collection(&ns()).wait().unwrap());
    assert!(!docs.drop_collection(&ns()).wait().unwrap());
    let error = docs
        .next_page(page.cursor.unwrap(), None, Deadline::NEVER)
        .wait()
        .unwrap_err();
    assert_eq!(error.code(), Code::QueryPlanKilled);
}

#[test]
fn counts_and_distinct_values() {
    let docs = memory();
    insert(&docs, n(0..10));
    let count = |filter, skip, limit| {
        docs.count(
            &ns(),
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
    assert_eq!(count(doc! {}, 0, None), 10);
    assert_eq!(count(doc! { "m": 0 }, 1, None), 3);
    assert_eq!(count(doc! {}, 4, Some(3)), 3);
    assert_eq!(count(doc! {}, 9, Some(3)), 1);
    let distinct = docs
        .distinct(&ns(), "tags", query(doc! { "n": { "$lt": 3 } }), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(distinct, [0, 1, 2, 3].map(bson::RawBson::Int32));
}

#[test]
fn updates_keep_the_indexes() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("n", 1)])
        },
    );
    make_index(&docs, index(&[("tags", 1)]));
    insert(&docs, n(0..10));
    let run = |statement: UpdateOne| {
        docs.update(&ns(), updates(vec![statement]), Deadline::NEVER)
            .wait()
            .unwrap()
    };
    let done = run(UpdateOne {
        multi: true,
        ..update_one(doc! { "m": 0 }, doc! { "$inc": { "n": 100 } })
    });
    assert_eq!((done.matched, done.modified), (4, 4));
    assert_eq!(ids(&docs, query(doc! { "n": { "$gte": 100 } })), [0, 3, 6, 9]);
    let done = run(update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 1 } }));
    assert_eq!((done.matched, done.modified), (1, 0));
    let done = run(update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 2 } }));
    assert_eq!(done.errors[0].error.code(), Code::DuplicateKey);
    let done = run(UpdateOne {
        upsert: true,
        ..update_one(doc! { "_id": 77, "n": 77 }, doc! { "$set": { "m": 5 } })
    });
    assert_eq!(done.upserted, [(0, bson::RawBson::Int32(77))]);
    assert_eq!(
        all(&docs, query(doc! { "_id": 77 })).unwrap(),
        [doc! { "_id": 77, "n": 77, "m": 5 }]
    );
    let done = run(update_one(doc! { "_id": 77 }, doc! { "n": 78 }));
    assert_eq!((done.matched, done.modified), (1, 1));
    assert_eq!(
        all(&docs, query(doc! { "n": 78 })).unwrap(),
        [doc! { "_id": 77, "n": 78 }]
    );
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn deletes_remove_documents_and_entries() {
    let docs = memory();
    make_index(&docs, index(&[("tags", 1)]));
    insert(&docs, n(0..10));
    let run = |filter, multi| {
        docs.delete(&ns(), deletes(filter, multi), Deadline::NEVER)
            .wait()
            .unwrap()
            .deleted
    };
    assert_eq!(run(doc! { "m": 0 }, false), 1);
    assert_eq!(run(doc! { "m": 0 }, true), 3);
    assert_eq!(run(doc! { "m": 0 }, true), 0);
    let verified = docs.verify(Deadline::NEVER).wait().unwrap();
    assert_eq!((verified.documents, verified.entries), (6, 12));
}

#[test]
fn find_and_modify_returns_what_was_or_became() {
    let docs = memory();
    insert(&docs, n(0..3));
    let run = |modify| {
        docs.find_and_modify(&ns(), modify, Deadline::NEVER)
            .wait()
            .unwrap()
    };
    let base = || FindAndModify {
        sort: Some(raw(doc! { "n": -1 })),
        update: Some(raw(doc! { "$set": { "n": 50 } })),
        projection: Some(raw(doc! { "n": 1 })),
        ..FindAndModify::default()
    };
    assert_eq!(run(base()).document, Some(raw(doc! { "_id": 2, "n": 2 })));
    assert_eq!(
        run(FindAndModify {
            return_new: true,
            ..base()
        })
        .document,
        Some(raw(doc! { "_id": 2, "n": 50 }))
    );
    let removed = run(FindAndModify {
        update: None,
        filter: raw(doc! { "_id": 0 }),
        ..base()
    });
    assert!(removed.matched);
    let upsert = FindAndModify {
        filter: raw(doc! { "_id": 9 }),
        upsert: true,
        return_new: true,
        ..base()
    };
    let done = run(upsert);
    assert_eq!(
        (done.matched, done.upserted),
        (false, Some(bson::RawBson::Int32(9)))
    );
    assert_eq!(done.document, Some(raw(doc! { "_id": 9, "n": 50 })));
    assert_eq!(ids(&docs, query(doc! {})), [1, 2, 9]);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let docs = memory();
    insert(&docs, n(0..3));
    let other = Namespace::new("db", "other");
    let writes = |id: i32| {
        vec![
            Write::Insert(other.clone(), inserts([doc! { "_id": 1 }])),
            Write::Update(
                ns(),
                updates(vec![update_one(doc! { "_id": 0 }, doc! { "$set": { "n": 9 } })]),
            ),
            Write::Insert(ns(), inserts([doc! { "_id": id }])),
        ]
    };
    let error = docs.transact(writes(2), Deadline::NEVER).wait().unwrap_err();
    assert_eq!(error.code(), Code::DuplicateKey);
    assert_eq!(docs.list_collections("db").wait().unwrap(), [Arc::from("c")]);
    assert_eq!(ids(&docs, query(doc! { "n": 9 })), Vec::<i32>::new());
    assert_eq!(docs.transact(writes(7), Deadline::NEVER).wait().unwrap().len(), 3);
    assert_eq!(ids(&docs, query(doc! { "n": 9 })), [0]);
}

#[test]
fn compound_keys_take_one_array() {
    let docs = memory();
    make_index(&docs, index(&[("a", 1), ("b", 1)]));
    let done = insert(
        &docs,
        [
            doc! { "_id": 1, "a": [1, 2], "b": 1 },
            doc! { "_id": 2, "a": [1], "b": [2] },
        ],
    );
    assert_eq!(done.errors[0].error.code(), Code::CannotIndexParallelArrays);
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("l.x", 1), ("l.y", 1)])
        },
    );
    // Two paths through one array go by element: (1, 1) and (2, 2), not (1, 2).
    let lines = |pairs: &[(i32, i32)]| {
        pairs
            .iter()
            .map(|(x, y)| doc! { "x": x, "y": y })
            .collect::<Vec<_>>()
    };
    let done = insert(
        &docs,
        [
            doc! { "_id": 3, "l": lines(&[(1, 1), (2, 2)]) },
            doc! { "_id": 4, "l": lines(&[(1, 2), (2, 1)]) },
            doc! { "_id": 5, "l": lines(&[(5, 5), (2, 1)]) },
        ],
    );
    assert_eq!((done.ids.len(), done.errors.len()), (2, 1));
    assert_eq!(
        done.errors[0].error.to_string(),
        "E11000 duplicate key error collection: db.c index: l.x_1_l.y_1 dup key: { l.x: 2, l.y: 1 }"
    );
    assert_eq!(ids(&docs, query(doc! { "l.x": 1, "l.y": 1 })), [3, 4]);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn index_specifications_are_checked() {
    let docs = memory();
    insert(&docs, [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 1 }]);
    let make = |spec: IndexSpec| {
        docs.create_indexes(&ns(), vec![spec])
            .wait()
            .map_err(|error| error.code())
    };
    assert_eq!(make(index(&[("a", 1)])), Ok(1));
    assert_eq!(make(index(&[("a", 1)])), Ok(0));
    assert_eq!(make(index(&[("_id", 1)])), Ok(0));
    assert_eq!(
        make(IndexSpec {
            unique: true,
            ..index(&[("a", 1)])
        }),
        Err(Code::IndexKeySpecsConflict)
    );
    assert_eq!(
        make(IndexSpec {
            name: "a_1".into(),
            ..index(&[("b", 1)])
        }),
        Err(Code::IndexKeySpecsConflict)
    );
    assert_eq!(
        make(IndexSpec {
            name: "other".into(),
            ..index(&[("a", 1)])
        }),
        Err(Code::IndexOptionsConflict)
    );
    assert_eq!(
        make(IndexSpec {
            unique: true,
            ..index(&[("a", -1)])
        }),
        Err(Code::DuplicateKey)
    );
    for bad in [
        &[("", 1)][..],
        &[("a", 2)],
        &[("a..b", 1)],
        &[("$a", 1)],
        &[],
        &[("a", 1), ("a", -1)],
    ] {
        assert_eq!(make(index(bad)), Err(Code::CannotCreateIndex), "{bad:?}");
    }
    let names = || {
        docs.list_indexes(&ns())
            .wait()
            .unwrap()
            .iter()
            .map(|spec| spec.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), ["_id_", "a_1"]);
    assert_eq!(
        docs.drop_index(&ns(), "nope").wait().unwrap_err().code(),
        Code::IndexNotFound
    );
    assert_eq!(
        docs.drop_index(&ns(), "_id_").wait().unwrap_err().code(),
        Code::InvalidOptions
    );
    docs.drop_index(&ns(), "a_1").wait().unwrap();
    assert_eq!(names(), ["_id_"]);
    assert_eq!(docs.verify(Deadline::NEVER).wait().unwrap().entries, 0);
}

#[test]
fn collections_are_made_listed_and_dropped() {
    let docs = memory();
    docs.create_collection(&ns()).wait().unwrap();
    assert_eq!(
        docs.create_collection(&ns()).wait().unwrap_err().code(),
        Code::NamespaceExists
    );
    for (database, collection) in [
        ("", "c"),
        ("db", ""),
        ("db", "a$b"),
        ("d.b", "c"),
        ("db", ".c"),
        ("db", "c\0"),
    ] {
        let error = docs
            .create_collection(&Namespace::new(database, collection))
            .wait()
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidNamespace, "{database} {collection}");
    }
    docs.create_collection(&Namespace::new("app/system", "users"))
        .wait()
        .unwrap();
    assert_eq!(
        docs.list_databases().wait().unwrap(),
        [Arc::from("app/system"), Arc::from("db")]
    );
    docs.drop_database("db").wait().unwrap();
    assert_eq!(docs.list_databases().wait().unwrap(), [Arc::from("app/system")]);
}

#[test]
fn limits_name_themselves_and_the_value() {
    let limits = Limits {
        scan_max: 20,
        sort_bytes_max: 500,
        batch_max: 60,
        ..Limits::default()
    };
    let docs = limited(limits);
    insert(&docs, n(0..50));
    let error = all(
        &docs,
        Find {
            limit: Some(1),
            ..query(doc! { "x": 1 })
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("scan_max is 20"), "{error}");
    assert!(error.to_string().contains("examined 21"), "{error}");
    let error = all(
        &docs,
        Find {
            sort: Some(raw(doc! { "m": 1 })),
            ..query(doc! { "_id": { "$lt": 15 } })
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("sort_bytes_max is 500"), "{error}");
    let error = docs
        .insert(&ns(), inserts(n(100..161)), Deadline::NEVER)
        .wait()
        .unwrap_err();
    assert!(
        error.to_string().contains("has 61") && error.to_string().contains("batch_max is 60"),
        "{error}"
    );
    assert_eq!(error.kind(), cloudlet_base::Fault::Limit);
}

#[test]
fn malformed_bson_is_an_error_not_a_panic() {
    let docs = memory();
    let mut bytes = raw(doc! { "_id": 1, "s": "text", "d": { "x": 1 } }).into_bytes();
    bytes[20] ^= 0xff;
    let broken = RawDocumentBuf::from_bytes(bytes).unwrap();
    let insert = Insert {
        documents: vec![broken.clone()],
        ordered: true,
        ..Insert::default()
    };
    let done = docs.insert(&ns(), insert, Deadline::NEVER).wait().unwrap();
    assert_eq!(done.errors[0].error.kind(), cloudlet_base::Fault::Invalid);
    let error = docs
        .find(
            &ns(),
            Find {
                filter: broken,
                ..Find::default()
            },
            Deadline::NEVER,
        )
        .wait()
        .unwrap_err();
    assert_eq!(error.kind(), cloudlet_base::Fault::Invalid);
}

#[test]
fn an_expired_deadline_stops_reads_and_writes() {
    let docs = memory();
    insert(&docs, n(0..3));
    let flag = cloudlet_base::CancelFlag::default();
    flag.cancel();
    let deadline = || Deadline::NEVER.with_cancel(flag.clone());
    let error = docs
        .find(&ns(), query(doc! { "x": 1 }), deadline())
        .wait()
        .unwrap_err();
    assert_eq!(error.code(), Code::MaxTimeMSExpired);
    let error = docs
        .insert(&ns(), inserts(n(5..6)), deadline())
        .wait()
        .unwrap_err();
    assert_eq!(error.code(), Code::MaxTimeMSExpired);
    assert_eq!(ids(&docs, query(doc! {})), [0, 1, 2]);
}

#[test]
fn elements_of_an_array_meet_predicates_each_on_its_own() {
    let docs = memory();
    make_index(&docs, index(&[("a", 1), ("b", 1)]));
    make_index(&docs, index(&[("b", 1)]));
    insert(
        &docs,
        [
            doc! { "_id": 1, "a": [1, 9] },
            doc! { "_id": 2, "a": [4, 5] },
            doc! { "_id": 3, "b": [1, 9] },
        ],
    );
    assert_eq!(ids(&docs, query(doc! { "a": { "$gt": 6, "$lt": 3 } })), [1]);
    assert_eq!(ids(&docs, query(doc! { "a": 1, "$and": [{ "a": 9 }] })), [1]);
    assert_eq!(ids(&docs, query(doc! { "b": { "$gt": 6, "$lt": 3 } })), [3]);
    // Two arrays under one: sku p has n 1, and n 2 is q's; both are in the document.
    make_index(&docs, index(&[("l.sku", 1), ("l.n", 1)]));
    insert(
        &docs,
        [doc! { "_id": 4, "l": [{ "sku": "p", "n": 1 }, { "sku": "q", "n": 2 }] }],
    );
    assert_eq!(ids(&docs, query(doc! { "l.sku": "p", "l.n": 2 })), [4]);
}

#[test]
fn an_array_sorts_by_its_extreme_element_whatever_the_bounds() {
    let docs = memory();
    insert(
        &docs,
        [
            doc! { "_id": 1, "a": [1, 9] },
            doc! { "_id": 2, "a": 5 },
            doc! { "_id": 3, "a": [4, 7] },
        ],
    );
    make_index(&docs, index(&[("a", 1)]));
    let sorted = |filter: Document, sign: i32| {
        ids(
            &docs,
            Find {
                sort: Some(raw(doc! { "a": sign })),
                ..query(filter)
            },
        )
    };
    assert_eq!(sorted(doc! {}, 1), [1, 3, 2]);
    assert_eq!(sorted(doc! {}, -1), [1, 3, 2]);
    // Within the bounds, the first of 1 is 9 and the first of 3 is 7; they sort by 1 and 4.
    assert_eq!(sorted(doc! { "a": { "$gte": 5 } }, 1), [1, 3, 2]);
    assert_eq!(sorted(doc! { "a": { "$lte": 5 } }, -1), [1, 3, 2]);
}

#[test]
fn lookups_of_single_keys_page_and_sort_like_scans() {
    let docs = memory();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("n", 1)])
        },
    );
    insert(&docs, n(0..10));
    for field in ["_id", "n"] {
        let find = query(doc! { field: { "$in": [7, 3, 99, 5] } });
        for batch in [1, 2, 9] {
            assert_eq!(
                ids(
                    &docs,
                    Find {
                        batch: Some(batch),
                        ..find.clone()
                    }
                ),
                [3, 5, 7]
            );
            let backward = Find {
                sort: Some(raw(doc! { field: -1 })),
                batch: Some(batch),
                ..find.clone()
            };
            assert_eq!(ids(&docs, backward), [7, 5, 3]);
        }
    }
}
