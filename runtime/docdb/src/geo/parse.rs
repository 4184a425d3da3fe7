//! Geometries from documents: GeoJSON objects, and coordinate pairs as they were before there was GeoJSON (`[lng, lat]`,
//! or a document of which the first two fields are numbers). What is wrong is told in words that the caller puts a code
//! to.

use bson::{RawArray, RawBsonRef, RawDocument};
use s2::point::Point;

use super::shape::{Geometry, Part};
use super::sphere::{Edge, Polygon, Ring, TOLERANCE, distance, edges_through, point_at};
use crate::show;
use crate::value::{elements, field, fields};

/// Positions in one geometry, and in all that a document has in one field of an index.
pub(crate) const VERTICES_MAX: usize = 4096;
/// Bytes of a value that an error quotes.
const QUOTE_BYTES_MAX: usize = 400;

type Result<T> = std::result::Result<T, String>;

/// How closely a geometry is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Its rings must not cross, and holes must lie in what they are holes of. For queries, and what enters an index.
    Strict,
    /// Only its form counts. For documents that were not checked when they were stored.
    Form,
}

/// A value, as errors quote it.
pub(super) fn quote(v: RawBsonRef<'_>) -> String {
    let mut text = show::value(v);
    if text.len() > QUOTE_BYTES_MAX {
        let end = (0..=QUOTE_BYTES_MAX)
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

/// The number that a value is, as a double.
pub(crate) fn number(v: RawBsonRef<'_>) -> Option<f64> {
    match v {
        RawBsonRef::Double(number) => Some(number),
        RawBsonRef::Int32(number) => Some(f64::from(number)),
        RawBsonRef::Int64(number) => Some(number as f64),
        RawBsonRef::Decimal128(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// The two numbers that an array or a document begins with.
pub(super) fn pair(v: RawBsonRef<'_>) -> Option<(f64, f64)> {
    let first_two = |values: &mut dyn Iterator<Item = RawBsonRef<'_>>| {
        let mut next = || values.next().and_then(number);
        Some((next()?, next()?))
    };
    match v {
        RawBsonRef::Array(array) => first_two(&mut elements(array)),
        RawBsonRef::Document(document) => first_two(&mut fields(document).map(|(_, v)| v)),
        _ => None,
    }
}

/// The point on a plane that a value is, a pair or a GeoJSON point.
pub(super) fn flat_point(v: RawBsonRef<'_>) -> Option<(f64, f64)> {
    let found = match as_geo_json(v) {
        Some((object, "Point")) => pair(field(object, "coordinates")?),
        Some(_) => None,
        None => pair(v),
    };
    found.filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// The object and its type, if the value looks like GeoJSON.
fn as_geo_json(v: RawBsonRef<'_>) -> Option<(&RawDocument, &str)> {
    let object = v.as_document()?;
    match field(object, "type")? {
        RawBsonRef::String(kind) => Some((object, kind)),
        _ => None,
    }
}

/// The geometry that a value is, GeoJSON or a pair.
///
/// # Errors
/// Why it is none.
pub(super) fn geometry(v: RawBsonRef<'_>, care: Care) -> Result<Geometry> {
    match as_geo_json(v) {
        Some(_) => geo_json(v, care),
        None => point(v).map(Geometry::point),
    }
}

/// The point on the sphere that a pair is.
pub(super) fn point(v: RawBsonRef<'_>) -> Result<Point> {
    let (longitude, latitude) = pair(v).ok_or_else(|| match v {
        RawBsonRef::Array(_) | RawBsonRef::Document(_) => {
            format!("Point must only contain numeric elements, found {}", quote(v))
        }
        _ => format!("Point must be an array or object, found {}", quote(v)),
    })?;
    on_sphere(longitude, latitude)
}

fn on_sphere(longitude: f64, latitude: f64) -> Result<Point> {
    if (-180.0..=180.0).contains(&longitude) && (-90.0..=90.0).contains(&latitude) {
        return Ok(point_at(longitude, latitude));
    }
    Err(format!(
        "longitude/latitude is out of bounds, lng: {longitude} lat: {latitude}"
    ))
}

/// The geometry that a GeoJSON object is.
///
/// # Errors
/// Why it is none.
pub(super) fn geo_json(v: RawBsonRef<'_>, care: Care) -> Result<Geometry> {
    let unknown = || format!("unknown GeoJSON type: {}", quote(v));
    let (object, kind) = as_geo_json(v).ok_or_else(unknown)?;
    check_reference_system(object)?;
    let mut reader = Reader { care, vertices: 0 };
    let mut parts = Vec::new();
    if kind == "GeometryCollection" {
        let members = array(field(object, "geometries")).filter(|members| !members.is_empty());
        let members = members.ok_or("GeometryCollection geometries must be a nonempty array".to_owned())?;
        for member in elements(members) {
            let (object, kind) = as_geo_json(member).ok_or_else(|| {
                format!(
                    "GeometryCollection geometries must be objects with a type, found {}",
                    quote(member)
                )
            })?;
            if kind == "GeometryCollection" {
                return Err(format!("GeometryCollections cannot be nested: {}", quote(v)));
            }
            check_reference_system(object)?;
            reader.read(object, kind, &mut parts)?;
        }
    } else {
        reader.read(object, kind, &mut parts)?;
    }
    Ok(Geometry {
        parts,
        is_area: matches!(kind, "Polygon" | "MultiPolygon"),
        positions: reader.vertices,
    })
}

/// The longitudes and latitudes of WGS 84 are what there is; that is how GeoJSON is meant without a word about it.
fn check_reference_system(object: &RawDocument) -> Result<()> {
    let Some(system) = field(object, "crs") else {
        return Ok(());
    };
    let name = system
        .as_document()
        .and_then(|system| field(system, "properties")?.as_document())
        .and_then(|properties| field(properties, "name")?.as_str())
        .ok_or_else(|| {
            format!(
                "crs must be an object with properties.name, found {}",
                quote(system)
            )
        })?;
    match name {
        "EPSG:4326" | "urn:ogc:def:crs:OGC:1.3:CRS84" => Ok(()),
        "urn:x-mongodb:crs:strictwinding:EPSG:4326" => Err(
            "polygons with a strict winding order are not supported; a polygon is the smaller part of the sphere"
                .to_owned(),
        ),
        name => Err(format!("Unknown CRS name: {name}")),
    }
}

fn array(v: Option<RawBsonRef<'_>>) -> Option<&RawArray> {
    v.and_then(|v| v.as_array())
}

/// Reads one object's coordinates, and counts them.
struct Reader {
    care: Care,
    vertices: usize,
}

impl Reader {
    fn read(&mut self, object: &RawDocument, kind: &str, parts: &mut Vec<Part>) -> Result<()> {
        if !matches!(
            kind,
            "Point" | "LineString" | "Polygon" | "MultiPoint" | "MultiLineString" | "MultiPolygon"
        ) {
            return Err(format!(
                "unknown GeoJSON type: {}",
                quote(RawBsonRef::Document(object))
            ));
        }
        let coordinates = array(field(object, "coordinates"))
            .ok_or_else(|| format!("{kind} coordinates must be an array"))?;
        let mut each = |one: &mut dyn FnMut(&mut Self, &RawArray) -> Result<Part>| -> Result<()> {
            if coordinates.is_empty() {
                return Err(format!("{kind} coordinates must have at least 1 element"));
            }
            for element in elements(coordinates) {
                let element = element
                    .as_array()
                    .ok_or_else(|| format!("{kind} coordinates elements must be arrays"))?;
                parts.push(one(self, element)?);
            }
            Ok(())
        };
        match kind {
            "MultiPoint" => each(&mut |reader, position| reader.position(position).map(Part::Point)),
            "MultiLineString" => each(&mut |reader, line| reader.line(line)),
            "MultiPolygon" => each(&mut |reader, polygon| reader.polygon(polygon)),
            "LineString" => self.line(coordinates).map(|line| parts.push(line)),
            "Polygon" => self.polygon(coordinates).map(|polygon| parts.push(polygon)),
            _ => self
                .position(coordinates)
                .map(|point| parts.push(Part::Point(point))),
        }
    }

    fn position(&mut self, position: &RawArray) -> Result<Point> {
        self.vertices += 1;
        if self.vertices > VERTICES_MAX {
            return Err(format!(
                "the geometry has more than {VERTICES_MAX} positions, which is the most that one may have"
            ));
        }
        point(RawBsonRef::Array(position))
    }

    /// Positions, of which equal neighbours count as one.
    fn positions(&mut self, positions: &RawArray) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        for position in elements(positions) {
            let position = position
                .as_array()
                .ok_or_else(|| format!("Point must be an array or object, found {}", quote(position)))?;
            let point = self.position(position)?;
            if points.last() != Some(&point) {
                points.push(point);
            }
        }
        for (place, pair) in points.windows(2).enumerate() {
            if distance(&pair[0], &pair[1]) > std::f64::consts::PI - TOLERANCE {
                return Err(format!(
                    "vertices {place} and {} are antipodal: between them there is no shortest line",
                    place + 1
                ));
            }
        }
        Ok(points)
    }

    fn line(&mut self, line: &RawArray) -> Result<Part> {
        let points = self.positions(line)?;
        if points.len() < 2 {
            return Err(format!(
                "GeoJSON LineString must have at least 2 vertices: {}",
                quote(RawBsonRef::Array(line))
            ));
        }
        Ok(Part::Line(edges_through(&points)))
    }

    fn polygon(&mut self, rings: &RawArray) -> Result<Part> {
        let mut parsed = Vec::new();
        for ring in elements(rings) {
            let ring = ring
                .as_array()
                .ok_or_else(|| "Polygon coordinates elements must be arrays".to_owned())?;
            parsed.push(self.ring(ring)?);
        }
        if parsed.is_empty() {
            return Err("Polygon has no loops.".to_owned());
        }
        let outer = parsed.remove(0);
        let polygon = Polygon { outer, holes: parsed };
        if self.care == Care::Strict {
            check_holes(&polygon)?;
        }
        Ok(Part::Polygon(polygon))
    }

    fn ring(&mut self, ring: &RawArray) -> Result<Ring> {
        let shown = || quote(RawBsonRef::Array(ring));
        let points = self.positions(ring)?;
        if points.first() != points.last() {
            return Err(format!("Loop is not closed: {}", shown()));
        }
        if points.len() < 4 {
            return Err(format!(
                "Loop must have at least 3 different vertices, {} unique vertices were provided: {}",
                points.len().saturating_sub(1),
                shown()
            ));
        }
        let ring = Ring::new(&points);
        if self.care == Care::Strict {
            check_simple(&ring.edges).map_err(|why| format!("Loop is not valid: {} {why}", shown()))?;
        }
        Ok(ring)
    }
}

/// Checks that a ring neither crosses itself nor comes to a vertex twice.
fn check_simple(edges: &[Edge]) -> Result<()> {
    for (i, edge) in edges.iter().enumerate() {
        for (j, other) in edges.iter().enumerate().skip(i + 1) {
            if edge.crosses(other) {
                return Err(format!("Edges {i} and {j} cross."));
            }
            if edge.from == other.from {
                return Err(format!("Duplicate vertices: {i} and {j}"));
            }
        }
    }
    Ok(())
}

/// Checks that holes lie in the outer ring, and that no rings cross.
fn check_holes(polygon: &Polygon) -> Result<()> {
    let whole = Polygon {
        outer: polygon.outer.clone(),
        holes: Vec::new(),
    };
    for (place, hole) in polygon.holes.iter().enumerate() {
        if !whole.contains_edges(hole.edges.iter()) {
            return Err(
                "Secondary loops not contained by first exterior loop - secondary loops must be holes"
                    .to_owned(),
            );
        }
        for (other_place, other) in polygon.holes.iter().enumerate().skip(place + 1) {
            let cross = hole
                .edges
                .iter()
                .any(|a| other.edges.iter().any(|b| a.crosses(b)));
            if cross {
                return Err(format!(
                    "Polygon isn't valid: loops {} and {} cross",
                    place + 1,
                    other_place + 1
                ));
            }
        }
    }
    Ok(())
}
