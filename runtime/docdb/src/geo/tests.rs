//! The geometry by itself: forms that are read and refused, and what touches, holds and is near what, wherever on the
//! sphere.

use bson::{Bson, Document, RawDocumentBuf, doc};
use proptest::prelude::*;

use super::*;

fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).unwrap()
}

fn parsed(document: Document) -> std::result::Result<Geometry, String> {
    parse::geometry(RawBsonRef::Document(&raw(document)), Care::Strict)
}

fn shape(kind: &str, coordinates: impl Into<Bson>) -> Document {
    doc! { "type": kind, "coordinates": coordinates.into() }
}

fn square(low: f64, high: f64) -> Bson {
    Bson::from(vec![
        vec![low, low],
        vec![high, low],
        vec![high, high],
        vec![low, high],
        vec![low, low],
    ])
}

#[test]
fn reads_all_kinds_of_geometries() {
    let line = || Bson::from(vec![vec![0.0, 0.0], vec![1.0, 1.0]]);
    let hole = Bson::from(vec![square(0.0, 9.0), square(3.0, 4.0)]);
    for document in [
        doc! { "lng": 1, "lat": 2.5 },
        doc! { "x": 1_i64, "y": "2.5".parse::<bson::Decimal128>().unwrap() },
        shape("Point", vec![180, -90]),
        shape("Point", vec![1.0, 2.0, 300.0]),
        shape("MultiPoint", vec![vec![0, 0], vec![1, 1]]),
        shape("LineString", line()),
        shape("MultiLineString", vec![line(), line()]),
        shape("Polygon", vec![square(0.0, 9.0)]),
        shape("Polygon", hole.clone()),
        shape("MultiPolygon", vec![hole, Bson::from(vec![square(20.0, 30.0)])]),
        doc! { "type": "GeometryCollection", "geometries": [shape("Point", vec![1, 1]), shape("LineString", line())] },
        doc! { "crs": { "type": "name", "properties": { "name": "EPSG:4326" } }, "type": "Point", "coordinates": [1, 1] },
    ] {
        parsed(document.clone()).unwrap_or_else(|why| panic!("{document}: {why}"));
    }
}

#[test]
fn tells_why_something_is_no_geometry() {
    let bow = vec![vec![0, 0], vec![2, 2], vec![2, 0], vec![0, 2], vec![0, 0]];
    let many: Vec<Vec<f64>> = (0..5000).map(|i| vec![f64::from(i) / 100.0, 0.0]).collect();
    for (document, why) in [
        (doc! {}, "Point must only contain numeric elements"),
        (
            doc! { "lng": 1, "lat": "2" },
            "Point must only contain numeric elements",
        ),
        (
            doc! { "lng": 181, "lat": 2 },
            "longitude/latitude is out of bounds, lng: 181 lat: 2",
        ),
        (shape("Point", vec![0.0, f64::NAN]), "out of bounds"),
        (
            shape("Point", vec![0]),
            "Point must only contain numeric elements",
        ),
        (shape("Point", "x"), "Point coordinates must be an array"),
        (shape("Circle", vec![0, 0]), "unknown GeoJSON type"),
        (shape("LineString", vec![vec![1, 1]]), "at least 2 vertices"),
        (
            shape("LineString", vec![vec![1, 1], vec![1, 1]]),
            "at least 2 vertices",
        ),
        (shape("LineString", vec![vec![0, 0], vec![180, 0]]), "antipodal"),
        (shape("LineString", many), "more than 4096 positions"),
        (shape("Polygon", Bson::Array(vec![])), "Polygon has no loops"),
        (
            shape("Polygon", vec![vec![vec![0, 0], vec![1, 1], vec![1, 0]]]),
            "Loop is not closed",
        ),
        (
            shape("Polygon", vec![vec![vec![0, 0], vec![1, 1], vec![0, 0]]]),
            "at least 3 different vertices",
        ),
        (shape("Polygon", vec![bow]), "Edges 0 and 2 cross"),
        (
            shape("Polygon", vec![square(0.0, 2.0), square(1.0, 3.0)]),
            "must be holes",
        ),
        (
            shape(
                "Polygon",
                vec![square(0.0, 9.0), square(1.0, 3.0), square(2.0, 4.0)],
            ),
            "loops 1 and 2 cross",
        ),
        (shape("MultiPoint", Bson::Array(vec![])), "at least 1 element"),
        (
            doc! { "type": "GeometryCollection", "geometries": [] },
            "nonempty array",
        ),
        (
            doc! { "type": "GeometryCollection", "geometries": [{ "type": "GeometryCollection", "geometries": [] }] },
            "cannot be nested",
        ),
        (
            doc! { "type": "Point", "coordinates": [1, 1], "crs": { "type": "name", "properties": { "name": "EPSG:1" } } },
            "Unknown CRS name: EPSG:1",
        ),
    ] {
        let found = parsed(document.clone()).expect_err(why);
        assert!(found.contains(why), "{document}: {found}");
    }
}

#[test]
fn a_polygon_holds_its_edges_and_not_its_holes() {
    let area = parsed(shape("Polygon", vec![square(0.0, 9.0), square(3.0, 6.0)])).unwrap();
    let holds = |document: Document| area.contains(&parsed(document).unwrap());
    let point = |x: f64, y: f64| shape("Point", vec![x, y]);
    for (x, y, inside) in [
        (1.0, 1.0, true),
        (0.0, 0.0, true),
        (0.0, 4.0, true),
        (3.0, 4.0, true),
        (4.0, 4.0, false),
        (10.0, 4.0, false),
        (-170.0, -4.0, false),
    ] {
        assert_eq!(holds(point(x, y)), inside, "{x} {y}");
    }
    let line = |points: &[[f64; 2]]| {
        let points: Vec<Vec<f64>> = points.iter().map(|point| point.to_vec()).collect();
        shape("LineString", points)
    };
    assert!(holds(line(&[[1.0, 1.0], [1.0, 8.0]])));
    assert!(
        !holds(line(&[[1.0, 1.0], [8.0, 8.0]])),
        "it leads through the hole"
    );
    assert!(
        !holds(line(&[[1.0, 4.5], [8.0, 4.5]])),
        "it leads through the hole"
    );
    assert!(!holds(line(&[[1.0, 1.0], [1.0, 10.0]])));
    assert!(holds(line(&[[0.0, 1.0], [0.0, 8.0]])), "along an edge");
    assert!(holds(shape("Polygon", vec![square(1.0, 2.0)])));
    assert!(
        holds(shape("Polygon", vec![square(0.0, 9.0), square(3.0, 6.0)])),
        "itself"
    );
    assert!(holds(shape("Polygon", vec![square(0.0, 9.0), square(2.5, 7.0)])));
    assert!(!holds(shape("Polygon", vec![square(0.0, 9.0), square(4.0, 5.0)])));
    assert!(
        !holds(shape("Polygon", vec![square(2.0, 7.0)])),
        "it has the hole in it"
    );
    assert!(!holds(shape("Polygon", vec![square(3.0, 6.0)])), "it is the hole");
    assert!(
        !holds(shape("Polygon", vec![square(4.0, 5.0)])),
        "it is in the hole"
    );
    let touches = |document: Document| area.intersects(&parsed(document).unwrap());
    assert!(touches(shape("Polygon", vec![square(9.0, 12.0)])), "at a corner");
    assert!(
        touches(shape("Polygon", vec![square(-20.0, 20.0)])),
        "it is all inside"
    );
    assert!(!touches(shape("Polygon", vec![square(4.0, 5.0)])));
    assert!(touches(line(&[[4.0, 4.0], [7.0, 7.0]])));
    assert!(!touches(line(&[[4.0, 4.0], [5.0, 5.0]])));
    assert!(touches(line(&[[-1.0, 4.0], [20.0, 4.0]])));
}

/// The place that is reached from one by going so far (an angle) at a bearing.
pub(crate) fn going(from: (f64, f64), bearing: f64, angle: f64) -> (f64, f64) {
    let (longitude, latitude) = (from.0.to_radians(), from.1.to_radians());
    let ((sin_x, cos_x), (sin_y, cos_y)) = (longitude.sin_cos(), latitude.sin_cos());
    let up = [cos_y * cos_x, cos_y * sin_x, sin_y];
    let north = [-sin_y * cos_x, -sin_y * sin_x, cos_y];
    let east = [-sin_x, cos_x, 0.0];
    let [x, y, z]: [f64; 3] = std::array::from_fn(|i| {
        up[i] * angle.cos() + (north[i] * bearing.cos() + east[i] * bearing.sin()) * angle.sin()
    });
    (y.atan2(x).to_degrees(), z.atan2(x.hypot(y)).to_degrees())
}

/// The angle between two places by the haversine formula.
pub(crate) fn haversine(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (x1, y1, x2, y2) = (
        a.0.to_radians(),
        a.1.to_radians(),
        b.0.to_radians(),
        b.1.to_radians(),
    );
    let h = ((y2 - y1) / 2.0).sin().powi(2) + y1.cos() * y2.cos() * ((x2 - x1) / 2.0).sin().powi(2);
    2.0 * h.sqrt().min(1.0).asin()
}

/// Places anywhere, with the odd ones among them.
pub(crate) fn place() -> impl Strategy<Value = (f64, f64)> {
    prop_oneof![
        4 => (-180.0..=180.0, -90.0..=90.0),
        1 => (-180.0..=180.0, prop::sample::select(vec![90.0, -90.0, 89.999, -89.99])),
        1 => (prop::sample::select(vec![180.0, -180.0, 179.9999, -179.999]), -90.0..=90.0),
        1 => (-9..=9_i32, -9..=9_i32).prop_map(|(x, y)| (f64::from(x) * 20.0, f64::from(y) * 10.0)),
    ]
}

/// A polygon around a place, its corners so far away at such bearings.
pub(crate) fn star(center: (f64, f64), corners: &[f64]) -> Document {
    let turn = std::f64::consts::TAU / corners.len() as f64;
    let mut ring: Vec<Vec<f64>> = (0_u32..)
        .zip(corners)
        .map(|(i, away)| going(center, f64::from(i) * turn, *away))
        .map(|(longitude, latitude)| vec![longitude, latitude])
        .collect();
    ring.extend(ring.first().cloned());
    shape("Polygon", vec![ring])
}

proptest! {
    #[test]
    fn distances_are_those_of_the_haversine_formula(a in place(), b in place()) {
        let found = sphere::distance(&sphere::point_at(a.0, a.1), &sphere::point_at(b.0, b.1));
        let naive = haversine(a, b);
        // The formula loses digits where the two are at opposite ends of the world.
        let slack = if naive > 3.1 { 1e-6 } else { 1e-9 };
        prop_assert!((found - naive).abs() < slack, "{} {}", found, naive);
    }

    #[test]
    fn a_polygon_around_a_place_holds_what_is_near_and_not_what_is_far(
        center in place(),
        corners in prop::collection::vec(0.01..0.6_f64, 5..12),
        bearing in 0.0..std::f64::consts::TAU,
    ) {
        let area = parsed(star(center, &corners)).unwrap();
        let (least, most) = corners.iter().fold((9.0_f64, 0.0_f64), |(least, most), a| (least.min(*a), most.max(*a)));
        // Between two corners an edge comes nearer by the cosine of half the angle between them, or less.
        let inner = going(center, bearing, least * 0.5);
        let outer = going(center, bearing, most * 1.01);
        let point = |(x, y): (f64, f64)| Geometry::point(sphere::point_at(x, y));
        prop_assert!(area.contains(&point(center)));
        prop_assert!(area.contains(&point(inner)));
        prop_assert!(!area.contains(&point(outer)));
        let opposite = going(center, bearing, std::f64::consts::PI);
        prop_assert!(!area.contains(&point(opposite)));
        prop_assert!(area.contains(&area));
        prop_assert!(area.intersects(&area));
        // Each corner and the middle of each edge is in it.
        let Some(shape::Part::Polygon(polygon)) = area.parts.first() else { panic!("it is a polygon") };
        for edge in polygon.edges() {
            let middle = Point((edge.from.0 + edge.to.0).normalize());
            for p in [edge.from, middle] {
                prop_assert!(area.contains(&Geometry::point(p)));
                prop_assert!(area.distance(&p) <= 1e-9);
            }
        }
    }

    #[test]
    fn cells_cover_what_they_are_of(center in place(), corners in prop::collection::vec(0.0001..0.6_f64, 3..9), bearing in 0.0..6.2, part in 0.0..1.0) {
        let area = parsed(star(center, &corners)).unwrap();
        let least = corners.iter().fold(9.0_f64, |least, a| least.min(*a));
        let (x, y) = going(center, bearing, least * part);
        let point = Geometry::point(sphere::point_at(x, y));
        prop_assume!(area.contains(&point));
        let cells = cells::of_document(&area);
        prop_assert!(cells.len() <= 20, "{} cells", cells.len());
        let leaf = cells::of_document(&point)[0];
        let inside = |cell: &u64| s2::cellid::CellID(*cell).contains(&s2::cellid::CellID(leaf));
        prop_assert!(cells.iter().any(inside));
        let ranges = cells::of_query(&area, true);
        prop_assert!(ranges.iter().any(|(from, to)| (*from..=*to).contains(&leaf)));
        let ranges = cells::of_query(&area, false);
        prop_assert!(ranges.iter().any(|(from, to)| (*from..=*to).contains(&leaf)));
        prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
}
