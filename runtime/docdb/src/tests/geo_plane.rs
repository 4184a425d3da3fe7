//! Places on a plane: 2d indexes, what they hold and refuse, and that they find what a scan finds.

use bson::{Bson, doc};
use proptest::prelude::*;

use super::*;
use crate::geo::EARTH_RADIUS_METRES;
use crate::geo::tests::haversine;

fn plane_index(docs: &Docs, spec: Document) {
    make_index(docs, IndexSpec::parse(&raw(spec)).unwrap());
}

fn made(spec: Document) -> Docs {
    let docs = memory();
    plane_index(&docs, spec);
    docs
}

fn check(docs: &Docs) {
    docs.verify(Deadline::NEVER).wait().unwrap();
}

/// Shops of a town, by block and street.
fn shops() -> Docs {
    let docs = made(doc! { "key": { "at": "2d", "kind": 1 }, "min": -10, "max": 10.0, "bits": 16 });
    insert(
        &docs,
        [
            doc! { "_id": 1, "at": [0, 0], "kind": "a" },
            doc! { "_id": 2, "at": { "x": 3.0, "y": 4.0 }, "kind": "b" },
            doc! { "_id": 3, "at": [[-1, -1], [9, 9]], "kind": "a" },
            doc! { "_id": 4, "at": [0.0, -10.0], "kind": "b" },
            doc! { "_id": 5, "kind": "a" },
            doc! { "_id": 6, "at": Bson::Null },
            doc! { "_id": 7, "at": [], "kind": "b" },
            doc! { "_id": 8, "at": "nowhere" },
        ],
    );
    docs
}

fn aggregated(docs: &Docs, stages: Vec<Document>) -> Result<Vec<Document>> {
    let aggregate = Aggregate {
        pipeline: stages.into_iter().map(raw).collect(),
        ..Aggregate::default()
    };
    rest(
        docs,
        docs.aggregate(&ns(), aggregate, Deadline::NEVER).wait()?,
        None,
    )
}

#[test]
fn near_measures_on_the_plane() {
    let docs = shops();
    let found = |near: Document| ids(&docs, query(doc! { "at": near }));
    assert_eq!(found(doc! { "$near": [0, 0] }), [1, 3, 2, 4]);
    assert_eq!(found(doc! { "$near": [9, 9] }), [3, 2, 1, 4]);
    assert_eq!(
        found(doc! { "$near": { "x": 0, "y": 0 }, "$maxDistance": 5 }),
        [1, 3, 2]
    );
    assert_eq!(
        found(doc! { "$near": [0, 0], "$minDistance": 5, "$maxDistance": 10 }),
        [2, 4]
    );
    // Far outside of what can be stored.
    assert_eq!(found(doc! { "$near": [0, -1000] }), [4, 3, 1, 2]);
    let paged = Find {
        batch: Some(1),
        skip: 1,
        ..query(doc! { "at": { "$near": [0, 0] }, "kind": "a" })
    };
    assert_eq!(ids(&docs, paged), [3]);
    // Longitudes and latitudes.
    let reach = 500_000.0 / EARTH_RADIUS_METRES;
    assert_eq!(
        found(doc! { "$nearSphere": [0, 0], "$maxDistance": reach }),
        [1, 3]
    );
    let refused = all(
        &docs,
        query(doc! { "at": { "$near": { "$geometry": { "type": "Point", "coordinates": [0, 0] } } } }),
    );
    assert_eq!(refused.unwrap_err().code(), Code::NoQueryExecutionPlans);
    check(&docs);
}

#[test]
fn the_stage_tells_distances_of_the_plane() {
    let docs = shops();
    let near = |spherical: bool| {
        doc! { "$geoNear": { "near": [0, 0], "distanceField": "away", "includeLocs": "where", "spherical": spherical } }
    };
    let told = |spherical: bool| -> Vec<(i32, f64)> {
        let all = aggregated(&docs, vec![near(spherical)]).unwrap();
        all.iter()
            .map(|it| (it.get_i32("_id").unwrap(), it.get_f64("away").unwrap()))
            .collect()
    };
    assert_eq!(told(false), [(1, 0.0), (3, 2.0_f64.sqrt()), (2, 5.0), (4, 10.0)]);
    let spherical = told(true);
    assert_eq!(spherical[2].0, 2);
    assert!((spherical[2].1 - 5.0_f64.to_radians()).abs() < 1e-3);
    let first = aggregated(
        &docs,
        vec![near(false), doc! { "$skip": 1 }, doc! { "$limit": 1 }],
    )
    .unwrap();
    assert_eq!(
        first[0].get_array("where").unwrap(),
        &[Bson::Int32(-1), Bson::Int32(-1)]
    );
    // With an index on the sphere too, the one that can serve it is taken.
    plane_index(&docs, doc! { "key": { "other": "2dsphere" } });
    assert_eq!(told(false).len(), 4);
    assert!(aggregated(&docs, vec![near(true)]).is_err());
}

#[test]
fn plans_use_the_index_and_tell() {
    let docs = shops();
    let stages = |filter: Document| explained(&docs, query(filter));
    for shape in [
        doc! { "$box": [[-2, -2], [4, 4]] },
        doc! { "$center": [[0, 0], 5] },
        doc! { "$polygon": [[-2, -2], [-2, 5], [5, 5]] },
        doc! { "$centerSphere": [[0, 0], 0.1] },
    ] {
        let filter = || doc! { "at": { "$geoWithin": shape.clone() } };
        let (names, scan, _) = stages(filter());
        assert_eq!(names, ["FETCH", "IXSCAN"], "{shape}");
        assert_eq!(scan.get_str("indexName").unwrap(), "at_2d_kind_1");
        assert_eq!(
            scan.get_document("keyPattern").unwrap(),
            &doc! { "at": "2d", "kind": 1 }
        );
        let natural = Find {
            hint: Some("$natural".into()),
            ..query(filter())
        };
        let mut found = ids(&docs, query(filter()));
        found.sort_unstable();
        assert_eq!(found, ids(&docs, natural), "{shape}");
        assert!(!found.is_empty());
    }
    assert_eq!(stages(doc! { "at": { "$near": [0, 0] } }).0, ["GEO_NEAR_2D"]);
    // What has no place is not in it.
    assert_eq!(stages(doc! { "kind": "a" }).0, ["COLLSCAN"]);
    assert_eq!(stages(doc! { "at": [0, 0] }).0, ["COLLSCAN"]);
    let area = doc! { "type": "Polygon", "coordinates": [[[-2, -2], [-2, 5], [5, 5], [-2, -2]]] };
    assert_eq!(
        stages(doc! { "at": { "$geoWithin": { "$geometry": area } } }).0,
        ["COLLSCAN"]
    );
    let hinted = Find {
        hint: Some("at_2d_kind_1".into()),
        ..query(doc! { "kind": "a" })
    };
    assert_eq!(
        all(&docs, hinted).unwrap_err().code(),
        Code::NoQueryExecutionPlans
    );
}

#[test]
fn what_is_no_pair_or_not_in_the_grid_does_not_enter() {
    let docs = shops();
    let cases = [
        (doc! { "at": [10, 0] }, 13_027),
        (doc! { "at": [0, -10.001] }, 13_027),
        (doc! { "at": [f64::NAN, 0] }, 13_027),
        (doc! { "at": [f64::INFINITY, 0] }, 13_027),
        (doc! { "at": [[0, 0], [11, 0]] }, 13_027),
        (doc! { "at": [1] }, 13_026),
        (doc! { "at": [1, "x"] }, 13_026),
        (doc! { "at": ["x", 1] }, 13_026),
        (doc! { "at": { "x": 1 } }, 13_026),
        (doc! { "at": { "type": "Point", "coordinates": [1, 1] } }, 13_026),
        (doc! { "at": [[[1, 2]]] }, 13_026),
    ];
    for (document, code) in cases {
        let done = insert(&docs, [document.clone()]);
        assert_eq!(done.errors[0].error.code(), Code::Location(code), "{document}");
    }
    let statement = update_one(doc! { "_id": 1 }, doc! { "$set": { "at": [20, 20] } });
    let done = docs
        .update(&ns(), updates(vec![statement]), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.errors[0].error.code(), Code::Location(13_027));
    let docs = memory();
    insert(&docs, [doc! { "_id": 1, "at": [500, 0] }]);
    let spec = IndexSpec::parse(&raw(doc! { "key": { "at": "2d" } })).unwrap();
    let refused = docs.create_indexes(&ns(), vec![spec]).wait().unwrap_err();
    assert_eq!(refused.code(), Code::Location(13_027));
    check(&docs);
}

#[test]
fn specifications_say_what_they_are() {
    let shown = |document: Document| {
        let spec = IndexSpec::parse(&raw(document)).unwrap();
        Document::try_from(&*spec.to_document()).unwrap()
    };
    assert_eq!(
        shown(doc! { "key": { "at": "2d" } }),
        doc! { "v": 2, "key": { "at": "2d" }, "name": "at_2d" }
    );
    assert_eq!(
        shown(doc! { "key": { "at": "2d", "n": -1 }, "bits": 20.0, "min": 0, "max": 100_i64, "name": "x" }),
        doc! { "v": 2, "key": { "at": "2d", "n": -1 }, "name": "x", "min": 0.0, "max": 100.0, "bits": 20 }
    );
    let cases = [
        (doc! { "key": { "n": 1, "at": "2d" } }, 16_801),
        (doc! { "key": { "a": "2d", "b": "2d" } }, 16_800),
        (doc! { "key": { "a": "2d", "b": "2dsphere" } }, 67),
        (doc! { "key": { "a": "2d", "b": "hashed" } }, 67),
        (doc! { "key": { "a": "2d" }, "bits": 0 }, 72),
        (doc! { "key": { "a": "2d" }, "bits": 33 }, 72),
        (doc! { "key": { "a": "2d" }, "min": 5, "max": 5 }, 72),
        (doc! { "key": { "a": "2d" }, "max": f64::INFINITY }, 72),
        (doc! { "key": { "a": "2d" }, "min": "x" }, 14),
        (doc! { "key": { "a": "2d" }, "unique": true }, 67),
        (doc! { "key": { "a": "2d" }, "expireAfterSeconds": 5 }, 67),
    ];
    for (document, code) in cases {
        let refused = IndexSpec::parse(&raw(document.clone())).unwrap_err();
        assert_eq!(refused.code().number(), code, "{document}");
    }
    let docs = memory();
    let in_english = CollectionOptions {
        collation: Some(raw(doc! { "locale": "en" })),
        ..CollectionOptions::default()
    };
    docs.create_collection_with(&ns(), in_english).wait().unwrap();
    let make = |document: Document| {
        let spec = IndexSpec::parse(&raw(document)).unwrap();
        docs.create_indexes(&ns(), vec![spec])
            .wait()
            .map_err(|error| error.code())
    };
    assert_eq!(make(doc! { "key": { "a": "2d" } }), Err(Code::CannotCreateIndex));
    assert_eq!(
        make(doc! { "key": { "a": "2d" }, "collation": { "locale": "simple" } }),
        Ok(1)
    );
}

#[test]
fn an_index_keeps_its_grid() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config {
        path: Some(directory.path().join("db")),
        ..Config::default()
    };
    let spec = doc! { "key": { "at": "2d" }, "min": -1.5, "max": 2.5, "bits": 31 };
    let docs = open(config()).unwrap();
    plane_index(&docs, spec.clone());
    insert(&docs, [doc! { "_id": 1, "at": [2.4, -1.4] }]);
    drop(docs);
    let docs = open(config()).unwrap();
    let kept = docs.list_indexes(&ns()).wait().unwrap();
    assert_eq!(kept[1], IndexSpec::parse(&raw(spec.clone())).unwrap());
    let within = doc! { "at": { "$geoWithin": { "$box": [[2.4, -1.4], [2.5, -1.3]] } } };
    assert_eq!(explained(&docs, query(within.clone())).0, ["FETCH", "IXSCAN"]);
    assert_eq!(ids(&docs, query(within)), [1]);
    assert_eq!(insert(&docs, [doc! { "_id": 2, "at": [2.5, 0] }]).errors.len(), 1);
    // It is there already.
    let again = IndexSpec::parse(&raw(spec)).unwrap();
    assert_eq!(docs.create_indexes(&ns(), vec![again]).wait().unwrap(), 0);
    check(&docs);
}

#[test]
fn longitudes_and_latitudes_of_pairs_are_looked_at_ring_by_ring() {
    let docs = made(doc! { "key": { "at": "2d" } });
    let pairs: Vec<(f64, f64)> = (0..3000)
        .map(|n| {
            let n = f64::from(n);
            ((n * 7.3) % 360.0 - 180.0, (n * 1.7) % 178.0 - 89.0)
        })
        .collect();
    let rows = pairs
        .iter()
        .zip(0..)
        .map(|((x, y), id)| doc! { "_id": id, "at": [*x, *y] });
    assert!(insert(&docs, rows).errors.is_empty());
    for center in [(0.0, 0.0), (179.9, 40.0), (-20.0, 88.0)] {
        let near = query(doc! { "at": { "$nearSphere": [center.0, center.1] } });
        let (_, _, stats) = explained(&docs, near.clone());
        let examined = stats.get_i32("totalKeysExamined").unwrap();
        assert!(examined < 8 * 3000, "{examined} keys for 3000 documents");
        let found = ids(&docs, near);
        assert_eq!(found.len(), 3000);
        let away = |id: &i32| haversine(center, pairs[*id as usize]);
        assert!(found.windows(2).all(|two| away(&two[0]) <= away(&two[1]) + 1e-6));
    }
}

/// Coordinates that are often the same, on edges of cells, or next to each other.
fn coordinate() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-16..16_i32).prop_map(|n| f64::from(n) / 2.0),
        2 => -8.0..7.99_f64,
        1 => (-8..8_i32).prop_map(|n| f64::from(n) + f64::EPSILON * 8.0),
    ]
}

fn pair() -> impl Strategy<Value = (f64, f64)> {
    (coordinate(), coordinate())
}

fn places() -> impl Strategy<Value = Bson> {
    let one = || pair().prop_map(|(x, y)| Bson::from(vec![x, y]));
    prop_oneof![
        6 => one(),
        2 => pair().prop_map(|(x, y)| Bson::from(doc! { "x": x, "y": y })),
        2 => prop::collection::vec(one(), 0..4).prop_map(Bson::Array),
        1 => (pair(), one()).prop_map(|((x, y), more)| Bson::Array(vec![x.into(), y.into(), more])),
        1 => Just(Bson::Null),
    ]
}

fn shape() -> impl Strategy<Value = Document> {
    let corner = |(x, y): (f64, f64)| Bson::from(vec![x, y]);
    prop_oneof![
        (pair(), pair()).prop_map(move |(a, b)| doc! { "$box": [corner(a), corner(b)] }),
        (
            pair(),
            prop_oneof![(0..20_i32).prop_map(|n| f64::from(n) / 2.0), 0.0..30.0_f64]
        )
            .prop_map(move |(at, reach)| doc! { "$center": [corner(at), reach] }),
        prop::collection::vec(pair(), 3..7).prop_map(
            move |corners| doc! { "$polygon": corners.into_iter().map(corner).collect::<Vec<_>>() }
        ),
        (pair(), 0.0..0.5_f64).prop_map(move |(at, reach)| doc! { "$centerSphere": [corner(at), reach] }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_finds_what_a_scan_finds(
        all_places in prop::collection::vec(places(), 1..30),
        shapes in prop::collection::vec(shape(), 1..8),
        centers in prop::collection::vec((pair(), 0.0..10.0_f64, 0.0..10.0_f64), 1..4),
        (bits, wide) in (1..=32_i32, prop::bool::ANY),
    ) {
        let grid = if wide { doc! {} } else { doc! { "min": -8, "max": 8 } };
        let mut spec = doc! { "key": { "at": "2d" }, "bits": bits };
        spec.extend(grid);
        let docs = made(spec);
        let done = insert(&docs, all_places.iter().zip(0..).map(|(at, id)| doc! { "_id": id, "at": at.clone() }));
        prop_assert!(done.errors.is_empty(), "{:?}", done.errors);
        for shape in &shapes {
            let find = query(doc! { "at": { "$geoWithin": shape.clone() } });
            let natural = Find { hint: Some("$natural".into()), ..find.clone() };
            let paged = Find { batch: Some(2), ..find.clone() };
            let (stages, ..) = explained(&docs, find);
            prop_assert_eq!(stages, ["FETCH", "IXSCAN"]);
            let mut found = ids(&docs, paged);
            found.sort_unstable();
            prop_assert_eq!(found, ids(&docs, natural), "{}", shape);
        }
        for ((x, y), from, reach) in centers {
            let near = doc! { "$near": [x, y], "$minDistance": from, "$maxDistance": from + reach };
            let found = ids(&docs, Find { batch: Some(3), ..query(doc! { "at": near }) });
            // The nearest of a document's places, by what is stored.
            let away = |place: &Bson| -> Option<f64> {
                let distance = |pair: &Bson| {
                    let numbers: Vec<f64> = match pair {
                        Bson::Array(pair) => pair.iter().take(2).filter_map(Bson::as_f64).collect(),
                        Bson::Document(pair) => pair.values().filter_map(Bson::as_f64).collect(),
                        _ => Vec::new(),
                    };
                    (numbers.len() == 2).then(|| libm::hypot(numbers[0] - x, numbers[1] - y))
                };
                match place {
                    Bson::Array(all) if all.first().is_some_and(|it| it.as_array().is_some()) => {
                        all.iter().filter_map(distance).min_by(f64::total_cmp)
                    }
                    place => distance(place),
                }
            };
            let mut wanted: Vec<(f64, i32)> = all_places.iter().zip(0..)
                .filter_map(|(place, id)| Some((away(place)?, id)))
                .filter(|(away, _)| (from..=from + reach).contains(away))
                .collect();
            wanted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let wanted: Vec<i32> = wanted.into_iter().map(|(_, id)| id).collect();
            prop_assert_eq!(found, wanted);
        }
        check(&docs);
    }
}
