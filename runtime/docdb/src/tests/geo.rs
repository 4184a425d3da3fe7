//! Places: what the operators find, in which order, through an index and without one, and what is refused.

use bson::Bson;
use proptest::prelude::*;

use super::*;
use crate::geo::EARTH_RADIUS_METRES;
use crate::geo::tests::{going, haversine, place, star};

fn sphere_index(docs: &Docs, keys: Document) {
    make_index(docs, IndexSpec::parse(&raw(doc! { "key": keys })).unwrap());
}

fn point(longitude: f64, latitude: f64) -> Document {
    doc! { "type": "Point", "coordinates": [longitude, latitude] }
}

/// Some cities with their places in all forms there are.
fn cities() -> Docs {
    let docs = memory();
    insert(
        &docs,
        [
            doc! { "_id": 1, "name": "Shenzhen", "loc": point(114.057_9, 22.543_1), "n": 1 },
            doc! { "_id": 2, "name": "Hong Kong", "loc": [114.169_4, 22.319_3], "n": 2 },
            doc! { "_id": 3, "name": "Guangzhou", "loc": { "lng": 113.264_4, "lat": 23.129_1 }, "n": 1 },
            doc! { "_id": 4, "name": "Beijing", "loc": point(116.407_4, 39.904_2), "n": 2 },
            doc! { "_id": 5, "name": "Suva", "loc": point(178.441_9, -18.141_6), "n": 1 },
            doc! { "_id": 6, "name": "Apia", "loc": point(-171.766_6, -13.850_7), "n": 2 },
            doc! { "_id": 7, "name": "nowhere", "n": 1 },
            doc! { "_id": 8, "name": "not known", "loc": Bson::Null, "n": 1 },
        ],
    );
    docs
}

fn near(longitude: f64, latitude: f64) -> Document {
    doc! { "$geometry": point(longitude, latitude) }
}

#[test]
fn near_gives_the_nearest_first() {
    let docs = cities();
    sphere_index(&docs, doc! { "loc": "2dsphere" });
    let found = |filter: Document| ids(&docs, query(filter));
    let shenzhen = || near(114.057_9, 22.543_1);
    assert_eq!(found(doc! { "loc": { "$near": shenzhen() } }), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        found(doc! { "loc": { "$nearSphere": shenzhen() } }),
        [1, 2, 3, 4, 5, 6]
    );
    let limited = Find {
        limit: Some(2),
        skip: 1,
        ..query(doc! { "loc": { "$near": shenzhen() } })
    };
    assert_eq!(ids(&docs, limited), [2, 3]);
    let paged = Find {
        batch: Some(1),
        ..query(doc! { "loc": { "$near": shenzhen() } })
    };
    assert_eq!(ids(&docs, paged), [1, 2, 3, 4, 5, 6]);
    let sorted = Find {
        sort: Some(raw(doc! { "name": 1 })),
        ..query(doc! { "loc": { "$near": shenzhen() } })
    };
    assert_eq!(ids(&docs, sorted), [6, 4, 3, 2, 1, 5]);
    // Hong Kong is 27.5 km away, Guangzhou 105 km.
    let mut within = shenzhen();
    within.insert("$maxDistance", 30_000);
    assert_eq!(found(doc! { "loc": { "$near": within.clone() } }), [1, 2]);
    within.insert("$minDistance", 10_000.0);
    assert_eq!(found(doc! { "loc": { "$near": within } }), [2]);
    assert_eq!(found(doc! { "loc": { "$near": shenzhen() }, "n": 2 }), [2, 4, 6]);
    assert_eq!(
        found(doc! { "$and": [{ "n": { "$gt": 1 } }, { "loc": { "$near": shenzhen() } }] }),
        [2, 4, 6]
    );
    // A pair's distances are angles; across the 180th meridian.
    let suva = doc! { "$nearSphere": [178.4, -18.1], "$maxDistance": 1_300_000.0 / EARTH_RADIUS_METRES };
    assert_eq!(found(doc! { "loc": suva }), [5, 6]);
    let filter = raw(doc! { "loc": { "$near": shenzhen() }, "n": 1 });
    let count = docs
        .count(
            &ns(),
            Find {
                filter,
                ..Find::default()
            },
            Deadline::NEVER,
        )
        .wait()
        .unwrap();
    assert_eq!(count, 3);
}

#[test]
fn a_document_is_as_near_as_the_nearest_of_its_places_and_shown_once() {
    let docs = memory();
    sphere_index(&docs, doc! { "at": "2dsphere" });
    let line = doc! { "type": "LineString", "coordinates": [[0, 0], [0, 50]] };
    insert(
        &docs,
        [
            doc! { "_id": 1, "at": [point(10.0, 10.0), point(1.0, 1.0), point(80.0, 80.0)] },
            doc! { "_id": 2, "at": [[30, 30], [2, 2]] },
            doc! { "_id": 3, "at": line },
            doc! { "_id": 4, "at": star((3.0, 40.0), &[0.02; 9]) },
            doc! { "_id": 5, "at": { "type": "MultiPoint", "coordinates": [[0, 41], [100, 1]] } },
            doc! { "_id": 6, "at": [] },
        ],
    );
    let found = |longitude, latitude| {
        ids(
            &docs,
            query(doc! { "at": { "$near": near(longitude, latitude) } }),
        )
    };
    assert_eq!(found(3.0, 40.0), [4, 3, 5, 2, 1]);
    assert_eq!(found(1.5, 1.0), [1, 2, 3, 4, 5]);
    // How shapes are covered is part of the file's format.
    assert_eq!(docs.verify(Deadline::NEVER).wait().unwrap().entries, 48);
}

fn aggregated(docs: &Docs, pipeline: Vec<Document>, batch: Option<u32>) -> Result<Vec<Document>> {
    let aggregate = Aggregate {
        pipeline: pipeline.into_iter().map(raw).collect(),
        batch,
        ..Aggregate::default()
    };
    rest(
        docs,
        docs.aggregate(&ns(), aggregate, Deadline::NEVER).wait()?,
        batch,
    )
}

#[test]
fn the_stage_tells_the_distance() {
    let docs = cities();
    sphere_index(&docs, doc! { "loc": "2dsphere" });
    let stage = |more: Document| {
        let mut stage = doc! { "near": point(114.057_9, 22.543_1), "distanceField": "at.metres" };
        stage.extend(more);
        doc! { "$geoNear": stage }
    };
    let found = aggregated(
        &docs,
        vec![stage(doc! { "includeLocs": "at.loc", "query": { "n": 2 } })],
        Some(1),
    )
    .unwrap();
    let told: Vec<(i32, i64, &Bson)> = found
        .iter()
        .map(|one| {
            let at = one.get_document("at").unwrap();
            (
                one.get_i32("_id").unwrap(),
                at.get_f64("metres").unwrap() as i64 / 100,
                at.get("loc").unwrap(),
            )
        })
        .collect();
    let naive = |to: (f64, f64)| (haversine((114.057_9, 22.543_1), to) * EARTH_RADIUS_METRES) as i64 / 100;
    assert_eq!(
        told,
        [
            (
                2,
                naive((114.169_4, 22.319_3)),
                &Bson::from(vec![114.169_4, 22.319_3])
            ),
            (
                4,
                naive((116.407_4, 39.904_2)),
                &Bson::from(point(116.407_4, 39.904_2))
            ),
            (
                6,
                naive((-171.766_6, -13.850_7)),
                &Bson::from(point(-171.766_6, -13.850_7))
            ),
        ]
    );
    assert_eq!(told[0].1, 274, "Hong Kong is 27.4 km away");
    let names = |stages: Vec<Document>| -> Vec<String> {
        let found = aggregated(&docs, stages, None).unwrap();
        let name = |one: &Document| one.get_str("name").unwrap().to_owned();
        found.iter().map(name).collect()
    };
    assert_eq!(
        names(vec![
            stage(doc! { "maxDistance": 200_000, "minDistance": 1 }),
            doc! { "$limit": 5 }
        ]),
        ["Hong Kong", "Guangzhou"]
    );
    assert_eq!(
        names(vec![
            stage(doc! {}),
            doc! { "$match": { "n": 1 } },
            doc! { "$sort": { "at.metres": -1 } }
        ]),
        ["Suva", "Guangzhou", "Shenzhen"]
    );
    // A pair's distances are angles.
    let angle = doc! { "near": [114.057_9, 22.543_1], "spherical": true, "distanceMultiplier": 2, "distanceField": "d", "maxDistance": 0.01 };
    let found = aggregated(&docs, vec![doc! { "$geoNear": angle }], None).unwrap();
    assert_eq!(found.len(), 2);
    let twice = found[1].get_f64("d").unwrap();
    assert!((twice - 2.0 * haversine((114.057_9, 22.543_1), (114.169_4, 22.319_3))).abs() < 1e-12);
    // In another collection's pipeline, too.
    let lookup = doc! { "from": "c", "pipeline": [stage(doc! {}), { "$limit": 1 }], "as": "nearest" };
    let found = aggregated(
        &docs,
        vec![doc! { "$match": { "_id": 4 } }, doc! { "$lookup": lookup }],
        None,
    )
    .unwrap();
    assert_eq!(
        found[0].get_array("nearest").unwrap()[0]
            .as_document()
            .unwrap()
            .get_i32("_id")
            .unwrap(),
        1
    );
}

#[test]
fn the_stage_refuses_what_makes_no_sense() {
    let docs = cities();
    let code = |stages: Vec<Document>| aggregated(&docs, stages, None).unwrap_err().code().number();
    let stage = |more: Document| {
        let mut stage = doc! { "near": point(0.0, 0.0), "distanceField": "d" };
        stage.extend(more);
        doc! { "$geoNear": stage }
    };
    assert_eq!(code(vec![stage(doc! {})]), 27);
    assert_eq!(code(vec![stage(doc! { "key": "loc" })]), 291);
    sphere_index(&docs, doc! { "loc": "2dsphere" });
    for (more, wanted) in [
        (doc! { "near": 5 }, 5_860_402),
        (doc! { "near": [0, 0] }, 291),
        (doc! { "near": [0, 100], "spherical": true }, 2),
        (
            doc! { "near": { "type": "LineString", "coordinates": [[0, 0], [1, 1]] } },
            2,
        ),
        (doc! { "distanceField": 5 }, 14),
        (doc! { "maxDistance": "5" }, 14),
        (doc! { "maxDistance": -5 }, 2),
        (doc! { "distanceMultiplier": -5 }, 2),
        (doc! { "query": 5 }, 14),
        (
            doc! { "query": { "loc": { "$near": near(0.0, 0.0) } } },
            5_626_500,
        ),
        (doc! { "key": 5 }, 14),
        (doc! { "key": "" }, 2),
        (doc! { "key": "other" }, 291),
        (doc! { "limit": 5 }, 40_415),
    ] {
        assert_eq!(code(vec![stage(more.clone())]), wanted, "{more}");
    }
    assert_eq!(
        code(vec![doc! { "$geoNear": { "distanceField": "d" } }]),
        5_860_400
    );
    assert_eq!(code(vec![doc! { "$geoNear": { "near": [0, 0] } }]), 16_605);
    assert_eq!(code(vec![doc! { "$geoNear": 1 }]), 14);
    assert_eq!(code(vec![doc! { "$match": {} }, stage(doc! {})]), 40_602);
    assert_eq!(code(vec![doc! { "$facet": { "a": [stage(doc! {})] } }]), 40_600);
    sphere_index(&docs, doc! { "other": "2dsphere" });
    assert_eq!(code(vec![stage(doc! {})]), 27, "there are two");
    assert_eq!(
        aggregated(&docs, vec![stage(doc! { "key": "loc" })], None)
            .unwrap()
            .len(),
        6
    );
}

#[test]
fn near_needs_an_index_for_its_field() {
    let docs = cities();
    let code = |filter: Document| all(&docs, query(filter)).unwrap_err().code().number();
    let wanted = || doc! { "loc": { "$near": near(0.0, 0.0) } };
    assert_eq!(code(wanted()), 291);
    make_index(&docs, index(&[("loc", 1)]));
    assert_eq!(code(wanted()), 291);
    sphere_index(&docs, doc! { "n": 1, "loc": "2dsphere" });
    assert_eq!(code(wanted()), 291, "n is not fixed");
    assert_eq!(
        code(doc! { "loc": { "$near": [0, 0] } }),
        291,
        "that is on a plane"
    );
    let fixed = doc! { "n": 2, "loc": { "$near": near(0.0, 0.0) } };
    assert_eq!(ids(&docs, query(fixed.clone())), [4, 2, 6]);
    let hinted = |hint: &str| Find {
        hint: Some(hint.into()),
        ..query(fixed.clone())
    };
    assert_eq!(all(&docs, hinted("loc_1")).unwrap_err().code().number(), 291);
    assert_eq!(ids(&docs, hinted("n_1_loc_2dsphere")), [4, 2, 6]);
    // No collection, no documents, and no error.
    let nothing = docs
        .find(&Namespace::new("db", "no"), query(wanted()), Deadline::NEVER)
        .wait();
    assert!(nothing.unwrap().documents.is_empty());
}

#[test]
fn refuses_what_makes_no_sense() {
    let docs = cities();
    sphere_index(&docs, doc! { "loc": "2dsphere" });
    let line = || doc! { "type": "LineString", "coordinates": [[0, 0], [1, 1]] };
    let near = || near(0.0, 0.0);
    for (filter, code) in [
        (doc! { "$or": [{ "loc": { "$near": near() } }, { "n": 1 }] }, 2),
        (doc! { "$nor": [{ "loc": { "$near": near() } }] }, 2),
        (doc! { "loc": { "$not": { "$near": near() } } }, 2),
        (doc! { "loc": { "$elemMatch": { "$near": near() } } }, 2),
        (doc! { "a": { "$elemMatch": { "loc": { "$near": near() } } } }, 2),
        (doc! { "loc": { "$near": near() }, "b": { "$near": near() } }, 2),
        (doc! { "loc": { "$near": near(), "$maxDistance": 5 } }, 2),
        (doc! { "loc": { "$near": { "$geometry": line() } } }, 2),
        (
            doc! { "loc": { "$near": { "$geometry": point(0.0, 0.0), "$maxDistance": -1 } } },
            2,
        ),
        (
            doc! { "loc": { "$near": { "$geometry": point(0.0, 0.0), "$maxDistance": "1" } } },
            2,
        ),
        (
            doc! { "loc": { "$near": { "$geometry": point(0.0, 0.0), "$other": 1 } } },
            2,
        ),
        (doc! { "loc": { "$near": { "$maxDistance": 1 } } }, 2),
        (doc! { "loc": { "$near": 5 } }, 2),
        (doc! { "loc": { "$nearSphere": [200, 0] } }, 2),
        (doc! { "loc": { "$maxDistance": 5 } }, 2),
        (doc! { "$near": near() }, 2),
        (doc! { "loc": { "$geoWithin": 1 } }, 2),
        (doc! { "loc": { "$geoWithin": {} } }, 2),
        (doc! { "loc": { "$geoWithin": { "$foo": 1 } } }, 2),
        (doc! { "loc": { "$geoWithin": { "$geometry": line() } } }, 2),
        (
            doc! { "loc": { "$geoWithin": { "$geometry": point(0.0, 0.0) } } },
            2,
        ),
        (
            doc! { "loc": { "$geoWithin": { "$centerSphere": [[0, 0], -1] } } },
            2,
        ),
        (doc! { "loc": { "$geoWithin": { "$centerSphere": [[0, 0]] } } }, 2),
        (doc! { "loc": { "$geoWithin": { "$box": [[0, 0]] } } }, 2),
        (
            doc! { "loc": { "$geoWithin": { "$polygon": [[0, 0], [1, 1]] } } },
            2,
        ),
        (
            doc! { "loc": { "$geoWithin": { "$center": [[0, 0], 1], "$box": [[0, 0], [1, 1]] } } },
            2,
        ),
        (
            doc! { "loc": { "$geoIntersects": { "$geometry": { "type": "Point" } } } },
            2,
        ),
        (
            doc! { "loc": { "$geoIntersects": { "$centerSphere": [[0, 0], 1] } } },
            2,
        ),
        (doc! { "loc": { "$geoIntersects": {} } }, 2),
    ] {
        let refused = all(&docs, query(filter.clone())).expect_err(&filter.to_string());
        assert_eq!(refused.code().number(), code, "{filter}: {refused}");
    }
    let refused = aggregated(
        &docs,
        vec![doc! { "$match": { "loc": { "$near": near() } } }],
        None,
    );
    assert_eq!(refused.unwrap_err().code().number(), 5_626_500);
}

#[test]
fn what_is_no_place_does_not_enter_a_2dsphere_index() {
    let docs = memory();
    sphere_index(&docs, doc! { "loc": "2dsphere" });
    for loc in [
        Bson::Int32(5),
        Bson::from("here"),
        Bson::from(doc! { "type": "Point" }),
        Bson::from(doc! {}),
        Bson::from(vec![200, 0]),
        Bson::from(vec![Bson::from(vec![1, 1]), Bson::from("x")]),
        Bson::from(doc! { "type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]] }),
    ] {
        let inserted = insert(&docs, [doc! { "_id": 1, "loc": loc.clone() }]);
        assert!(inserted.ids.is_empty(), "{loc}");
        let error = &inserted.errors[0].error;
        assert_eq!(error.code().number(), 16_755, "{loc}: {error}");
        assert!(
            error.to_string().starts_with("Can't extract geo keys: { _id: 1"),
            "{error}"
        );
    }
    insert(&docs, [doc! { "_id": 1, "loc": [1, 2] }]);
    let statements = updates(vec![update_one(doc! {}, doc! { "$set": { "loc": 7 } })]);
    let updated = docs.update(&ns(), statements, Deadline::NEVER).wait().unwrap();
    assert_eq!(updated.errors[0].error.code().number(), 16_755);
    // An index can't be made over it either.
    let other = Namespace::new("db", "other");
    docs.insert(&other, inserts([doc! { "loc": 7 }]), Deadline::NEVER)
        .wait()
        .unwrap();
    let spec = IndexSpec::parse(&raw(doc! { "key": { "loc": "2dsphere" } })).unwrap();
    let refused = docs.create_indexes(&other, vec![spec]).wait().unwrap_err();
    assert_eq!(refused.code().number(), 16_755);
    let spread: Vec<Bson> = (0..5000)
        .map(|i| Bson::from(vec![f64::from(i) / 30.0, 1.0]))
        .collect();
    let inserted = insert(&docs, [doc! { "_id": 2, "loc": spread }]);
    assert!(
        inserted.errors[0]
            .error
            .to_string()
            .contains("more than 4096 positions")
    );
}

#[test]
fn index_specifications_say_what_they_are() {
    let parse = |spec: Document| IndexSpec::parse(&raw(spec));
    let spec = parse(doc! { "key": { "kind": -1, "loc": "2dsphere" }, "2dsphereIndexVersion": 3 }).unwrap();
    assert_eq!(
        Document::try_from(&*spec.to_document()).unwrap(),
        doc! { "v": 2, "key": { "kind": -1, "loc": "2dsphere" }, "name": "kind_-1_loc_2dsphere", "2dsphereIndexVersion": 3 }
    );
    for (spec, code) in [
        (doc! { "key": { "loc": "2d" }, "unique": true }, 67),
        (doc! { "key": { "loc": "2dsphere" }, "unique": true }, 67),
        (doc! { "key": { "loc": "2dsphere" }, "expireAfterSeconds": 5 }, 67),
        (
            doc! { "key": { "loc": "2dsphere" }, "2dsphereIndexVersion": 9 },
            67,
        ),
        (doc! { "key": { "a": "hashed", "loc": "2dsphere" } }, 67),
    ] {
        assert_eq!(parse(spec.clone()).unwrap_err().code().number(), code, "{spec}");
    }
    // The catalog keeps it.
    let docs = cities();
    sphere_index(&docs, doc! { "n": 1, "loc": "2dsphere" });
    let kept = docs.list_indexes(&ns()).wait().unwrap();
    assert_eq!(kept.last().unwrap().kind, IndexKind::Sphere { places: 2 });
}

#[test]
fn flat_shapes_take_degrees_for_x_and_y() {
    let docs = memory();
    let grid = (0..25).map(|i| doc! { "_id": i, "at": [i % 5, i / 5] });
    insert(&docs, grid);
    insert(
        &docs,
        [
            doc! { "_id": 90, "at": [1000, 1000] },
            doc! { "_id": 91, "at": point(1.0, 1.0) },
            doc! { "_id": 92, "at": { "type": "LineString", "coordinates": [[1, 1], [1, 2]] } },
        ],
    );
    let found = |shape: Document| ids(&docs, query(doc! { "at": { "$geoWithin": shape } }));
    assert_eq!(found(doc! { "$box": [[0, 0], [1, 1]] }), [0, 1, 5, 6, 91]);
    assert_eq!(found(doc! { "$box": [[1, 1], [0, 0]] }), [0, 1, 5, 6, 91]);
    assert_eq!(found(doc! { "$center": [[2, 2], 1] }), [7, 11, 12, 13, 17]);
    assert_eq!(
        found(doc! { "$polygon": [[0, 0], [4, 0], [0, 4]] }),
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 15, 16, 20, 91]
    );
    assert_eq!(
        found(doc! { "$polygon": { "a": [999, 999], "b": { "x": 1001, "y": 999 }, "c": [1000, 1001] } }),
        [90]
    );
}

#[test]
fn plans_use_the_index_and_tell() {
    let docs = memory();
    sphere_index(&docs, doc! { "at": "2dsphere" });
    sphere_index(&docs, doc! { "kind": 1, "at": "2dsphere" });
    insert(
        &docs,
        (0..4000).map(|i| {
            doc! { "_id": i, "kind": i % 4, "at": [f64::from(i % 80) / 10.0, f64::from(i / 80) / 10.0] }
        }),
    );
    let area = || doc! { "$geoWithin": { "$geometry": star((4.0, 2.5), &[0.01; 8]) } };
    let (names, scan, stats) = explained(&docs, query(doc! { "at": area() }));
    assert_eq!(names, ["FETCH", "IXSCAN"]);
    assert_eq!(scan.get_str("indexName").unwrap(), "at_2dsphere");
    let bounds = scan.get_document("indexBounds").unwrap().get_array("at").unwrap();
    assert!(bounds[0].as_str().unwrap().starts_with('['), "{bounds:?}");
    let (examined, returned) = (
        stats.get_i32("totalDocsExamined").unwrap(),
        stats.get_i32("nReturned").unwrap(),
    );
    assert!(
        returned > 50 && examined < 3 * returned,
        "{returned} of {examined}"
    );
    let (_, scan, stats) = explained(&docs, query(doc! { "at": area(), "kind": 3 }));
    assert_eq!(scan.get_str("indexName").unwrap(), "kind_1_at_2dsphere");
    assert!(stats.get_i32("totalDocsExamined").unwrap() < returned);
    // A 2dsphere index lacks what has no place, so it serves nothing else.
    let (names, _, _) = explained(&docs, query(doc! { "kind": 3 }));
    assert_eq!(names, ["COLLSCAN"]);
    let nearest = Find {
        limit: Some(10),
        ..query(doc! { "at": { "$near": near(4.0, 2.5) } })
    };
    let (names, scan, stats) = explained(&docs, nearest);
    assert_eq!(names, ["LIMIT", "GEO_NEAR_2DSPHERE"]);
    assert_eq!(scan.get_str("indexName").unwrap(), "at_2dsphere");
    let examined = stats.get_i32("totalDocsExamined").unwrap();
    assert!(examined < 200, "{examined} documents for the nearest ten");
    // All of them, in rings and pages.
    let found = ids(&docs, query(doc! { "at": { "$near": near(4.0, 2.5) } }));
    let away = |id: &i32| haversine((4.0, 2.5), (f64::from(id % 80) / 10.0, f64::from(id / 80) / 10.0));
    assert_eq!(found.len(), 4000);
    assert!(
        found
            .windows(2)
            .all(|pair| away(&pair[0]) <= away(&pair[1]) + 1e-12)
    );
}

#[test]
fn near_is_bounded() {
    let docs = limited(Limits {
        sort_bytes_max: 20_000,
        ..Limits::default()
    });
    sphere_index(&docs, doc! { "at": "2dsphere" });
    // A crowd at one place can't be told apart by distance.
    insert(
        &docs,
        (0..100).map(|i| doc! { "_id": i, "at": [1, 1], "text": "x".repeat(500) }),
    );
    let refused = all(&docs, query(doc! { "at": { "$near": near(1.0, 1.0) } })).unwrap_err();
    assert_eq!(refused.code().number(), 292);
    assert!(
        refused.to_string().contains("sort_bytes_max is 20000"),
        "{refused}"
    );
    let docs = limited(Limits {
        scan_max: 50,
        ..Limits::default()
    });
    sphere_index(&docs, doc! { "at": "2dsphere" });
    insert(
        &docs,
        (0..100).map(|i| doc! { "_id": i, "at": [1.0 + f64::from(i) / 1e4, 1.0] }),
    );
    let refused = all(&docs, query(doc! { "at": { "$near": near(1.0, 1.0) } })).unwrap_err();
    assert!(refused.to_string().contains("scan_max is 50"), "{refused}");
}

#[test]
fn writes_find_their_documents_by_place() {
    let docs = cities();
    sphere_index(&docs, doc! { "loc": "2dsphere" });
    // The one nearest to Macau.
    let statement = update_one(
        doc! { "loc": { "$near": near(113.55, 22.2) }, "n": 2 },
        doc! { "$set": { "found": true } },
    );
    docs.update(&ns(), updates(vec![statement]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(ids(&docs, query(doc! { "found": true })), [2]);
    let around = doc! { "loc": { "$geoWithin": { "$centerSphere": [[113.55, 22.2], 0.05] } } };
    docs.delete(&ns(), deletes(around, true), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(ids(&docs, query(doc! {})), [4, 5, 6, 7, 8]);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

/// A geometry about which nothing is known but where about it is.
fn geometry() -> impl Strategy<Value = Bson> {
    let pair = |(x, y): (f64, f64)| Bson::from(vec![x, y]);
    let some = || place().prop_map(|(x, y)| (x, y));
    // Going less than half around the world, so that no two are opposite each other.
    let line =
        (some(), prop::collection::vec((0.0..6.2, 0.001..0.5_f64), 1..5)).prop_map(move |(from, legs)| {
            let mut at = from;
            let mut line = vec![pair(at)];
            for (bearing, away) in legs {
                at = going(at, bearing, away);
                line.push(pair(at));
            }
            doc! { "type": "LineString", "coordinates": line }
        });
    let area =
        || (some(), prop::collection::vec(0.001..0.7_f64, 3..8)).prop_map(|(at, corners)| star(at, &corners));
    let single = prop_oneof![
        4 => some().prop_map(|(x, y)| Bson::from(point(x, y))),
        1 => some().prop_map(pair),
        2 => line.prop_map(Bson::from),
        2 => area().prop_map(Bson::from),
        1 => prop::collection::vec(some(), 1..4).prop_map(move |all| {
            Bson::from(doc! { "type": "MultiPoint", "coordinates": all.into_iter().map(pair).collect::<Vec<_>>() })
        }),
        1 => prop::collection::vec(area(), 1..3).prop_map(|all| {
            let coordinates: Vec<Bson> = all.iter().map(|one| one.get("coordinates").unwrap().clone()).collect();
            Bson::from(doc! { "type": "MultiPolygon", "coordinates": coordinates })
        }),
    ];
    let single = single.boxed();
    prop_oneof![
        8 => single.clone(),
        1 => prop::collection::vec(single.clone(), 0..3).prop_map(Bson::Array),
        1 => prop::collection::vec(single.prop_filter("a collection has objects", |one| one.as_document().is_some()), 1..3)
            .prop_map(|all| Bson::from(doc! { "type": "GeometryCollection", "geometries": all })),
    ]
}

fn asked() -> impl Strategy<Value = Document> {
    let area = || {
        (place(), prop::collection::vec(0.001..1.2_f64, 3..9)).prop_map(|(at, corners)| star(at, &corners))
    };
    let object = geometry().prop_filter_map("a query takes an object", |one| one.as_document().cloned());
    prop_oneof![
        2 => area().prop_map(|area| doc! { "$geoWithin": { "$geometry": area } }),
        2 => (place(), 0.0..3.3_f64).prop_map(|((x, y), reach)| doc! { "$geoWithin": { "$centerSphere": [[x, y], reach] } }),
        1 => (place(), 0.0..0.1_f64).prop_map(|((x, y), reach)| doc! { "$geoWithin": { "$centerSphere": [[x, y], reach] } }),
        4 => object.prop_map(|one| doc! { "$geoIntersects": { "$geometry": one } }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn an_index_finds_what_a_scan_finds(
        places in prop::collection::vec((geometry(), 0..3_i32), 1..25),
        queries in prop::collection::vec((asked(), 0..4_i32), 1..8),
        centers in prop::collection::vec((place(), 0.0..2.0_f64, 0.0..2.0_f64), 1..4),
    ) {
        let documents = places.iter().zip(0..).map(|((at, kind), id)| doc! { "_id": id, "at": at.clone(), "kind": *kind });
        let (plain, indexed) = (memory(), memory());
        sphere_index(&indexed, doc! { "at": "2dsphere" });
        sphere_index(&indexed, doc! { "kind": 1, "at": "2dsphere" });
        for docs in [&plain, &indexed] {
            let inserted = insert(docs, documents.clone());
            prop_assert!(inserted.errors.is_empty(), "{:?}", inserted.errors);
        }
        for (asked, kind) in &queries {
            let mut filter = doc! { "at": asked.clone() };
            if *kind < 3 {
                filter.insert("kind", *kind);
            }
            let scanned = ids(&plain, query(filter.clone()));
            let mut found = ids(&indexed, query(filter.clone()));
            prop_assert_eq!(explained(&indexed, query(filter.clone())).0, ["FETCH", "IXSCAN"]);
            found.sort_unstable();
            prop_assert_eq!(found, scanned, "{}", filter);
        }
        for ((x, y), from, reach) in centers {
            let mut asked = near(x, y);
            asked.insert("$minDistance", from * EARTH_RADIUS_METRES);
            asked.insert("$maxDistance", (from + reach) * EARTH_RADIUS_METRES);
            let find = Find { batch: Some(3), ..query(doc! { "at": { "$near": asked } }) };
            let found = ids(&indexed, find);
            // By the naive formula, where there are points only.
            let away = |id: i32| {
                let one = places[id as usize].0.as_document()?;
                let at = one.get_array("coordinates").ok().filter(|_| one.get_str("type").is_ok_and(|kind| kind == "Point"))?;
                Some(haversine((x, y), (at[0].as_f64()?, at[1].as_f64()?)))
            };
            let mut last = 0.0;
            for id in &found {
                if let Some(away) = away(*id) {
                    prop_assert!(away >= last - 1e-6, "{} comes after {}", away, last);
                    prop_assert!((from - 1e-6..=from + reach + 1e-6).contains(&away));
                    last = away;
                }
            }
            for id in 0..places.len() as i32 {
                if away(id).is_some_and(|away| (from + 1e-6..=from + reach - 1e-6).contains(&away)) {
                    prop_assert_eq!(found.iter().filter(|other| **other == id).count(), 1);
                }
            }
        }
        indexed.verify(Deadline::NEVER).wait().unwrap();
    }
}
