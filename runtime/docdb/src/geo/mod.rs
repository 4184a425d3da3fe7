//! Places on the Earth: what `$geoWithin`, `$geoIntersects`, `$near` and `$geoNear` ask, what it means for a document,
//! and which keys of a 2dsphere or 2d index it comes to.
//!
//! [`parse`] reads GeoJSON and coordinate pairs; [`sphere`] and [`shape`] are the geometry of the sphere, [`flat`] that of
//! the plane; [`cells`] cuts the sphere into squares for the index, and [`plane`] the plane. The sphere is the unit sphere: distances are angles,
//! and metres are theirs on a sphere of MongoDB's radius.

mod cells;
mod flat;
mod parse;
mod plane;
mod shape;
mod sphere;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use bson::{RawBsonRef, RawDocument};
use s2::point::Point;

use self::cells::Around;
use self::flat::Flat;
use self::parse::{Care, quote};
use self::plane::{Beyond, FlatRing};
use crate::path::{Path, visit};
use crate::value::{elements, fields, is_number};
use crate::{Code, Error, Result};

pub(crate) use self::cells::CellRange;
pub(crate) use self::parse::number;
pub use self::plane::Grid;
pub(crate) use self::shape::Geometry;

/// MongoDB's radius of the Earth.
pub(crate) const EARTH_RADIUS_METRES: f64 = 6_378_100.0;

/// What a query asks of the geometries at a path.
#[derive(Debug, Clone)]
pub(crate) struct Geo {
    kind: Kind,
    /// The index's keys to look at, once they were asked for: when all cells are leaves, and otherwise.
    ranges: [OnceLock<Arc<[CellRange]>>; 2],
}

#[derive(Debug, Clone)]
enum Kind {
    /// All of it lies in the polygons.
    WithinArea(Geometry),
    /// All of it is so near to a point, whose longitude and latitude are `at`.
    WithinReach {
        center: Point,
        at: (f64, f64),
        reach: f64,
    },
    /// A point of the plane lies in the shape.
    WithinFlat(Flat),
    Intersects(Geometry),
    /// In the order of the distance to a point.
    Near(Near),
}

/// What `$near` asks.
#[derive(Debug, Clone)]
pub(crate) struct Near {
    center: Point,
    /// The coordinates of the point, if it was a pair.
    pair: Option<(f64, f64)>,
    /// The least and the largest distance, as angles; on a plane as they are.
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// On a plane.
    flat: bool,
    /// What an angle of 1 is called.
    unit: f64,
}

fn bad(why: impl Into<String>) -> Error {
    Error::new(Code::BadValue, why)
}

/// Whether the operator asks about places.
pub(crate) fn is_operator(name: &str) -> bool {
    matches!(
        name,
        "$geoWithin" | "$within" | "$geoIntersects" | "$near" | "$nearSphere" | "$geoNear"
    )
}

impl Geo {
    /// What an operator of a field asks; `all` are the field's operators, of which `$maxDistance` and `$minDistance`
    /// belong to `$near` with a coordinate pair.
    ///
    /// # Errors
    /// `BadValue`.
    pub(crate) fn parse(operator: &str, v: RawBsonRef<'_>, all: &RawDocument) -> Result<Geo> {
        let kind = match operator {
            "$geoWithin" | "$within" => within(operator, v)?,
            "$geoIntersects" => intersects(v)?,
            _ => Kind::Near(Near::parse(operator, v, all)?),
        };
        Ok(kind.into())
    }

    /// What `$near` asks, if this is it.
    pub(crate) fn as_near(&self) -> Option<&Near> {
        match &self.kind {
            Kind::Near(near) => Some(near),
            _ => None,
        }
    }

    /// Whether one value meets it. How near something has to be is not asked here: the index gives the documents in
    /// the order of their distance, and knows.
    pub(crate) fn matches(&self, v: RawBsonRef<'_>) -> bool {
        match &self.kind {
            Kind::WithinFlat(flat) => {
                return parse::flat_point(v).is_some_and(|point| flat.contains(point));
            }
            Kind::Near(near) if near.flat => return parse::flat_point(v).is_some(),
            _ => {}
        }
        let Ok(stored) = parse::geometry(v, Care::Form) else {
            return false;
        };
        match &self.kind {
            Kind::WithinArea(area) => area.contains(&stored),
            Kind::WithinReach { center, reach, .. } => stored.is_around(center, *reach),
            Kind::WithinFlat(_) => false,
            Kind::Intersects(geometry) => geometry.intersects(&stored),
            Kind::Near(_) => true,
        }
    }

    /// The keys of a 2dsphere index under which a match has at least one entry, unless it is `$near` or flat. With
    /// `leaves` the index has cells of points only.
    pub(crate) fn ranges(&self, leaves: bool) -> Option<Arc<[CellRange]>> {
        let region: &dyn cells::Region = match &self.kind {
            Kind::WithinArea(geometry) | Kind::Intersects(geometry) => geometry,
            Kind::WithinReach { center, reach, .. } => &Around {
                center: *center,
                from: 0.0,
                to: *reach,
            },
            Kind::WithinFlat(_) | Kind::Near(_) => return None,
        };
        let made = self.ranges[usize::from(leaves)].get_or_init(|| cells::of_query(region, leaves).into());
        Some(made.clone())
    }

    /// The keys of a 2d index under which a match has at least one entry; none if such an index can't serve it.
    pub(crate) fn flat_ranges(&self, grid: &Grid) -> Option<Vec<CellRange>> {
        match &self.kind {
            Kind::WithinFlat(flat) => Some(grid.cover(flat, flat.reach())),
            Kind::WithinReach { at, reach, .. } => Some(grid.cover(&plane::around(*at, *reach), 360.0)),
            Kind::WithinArea(_) | Kind::Intersects(_) | Kind::Near(_) => None,
        }
    }
}

impl From<Kind> for Geo {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            ranges: Default::default(),
        }
    }
}

fn within(operator: &str, v: RawBsonRef<'_>) -> Result<Kind> {
    let shape = v
        .as_document()
        .ok_or_else(|| bad(format!("{operator} needs an object, found {}", quote(v))))?;
    let mut found = None;
    for (name, v) in fields(shape) {
        let kind = match name {
            // It has meant nothing since MongoDB 2.6.
            "$uniqueDocs" => continue,
            "$geometry" => {
                let area = parse::geo_json(v, Care::Strict).map_err(bad)?;
                if !area.is_area {
                    return Err(bad(format!(
                        "{operator} not supported with provided geometry: {}",
                        quote(v)
                    )));
                }
                Kind::WithinArea(area)
            }
            "$centerSphere" => {
                let (center, reach) = flat::circle(name, v).map_err(bad)?;
                let at = parse::pair(center).unwrap_or_default();
                let center = parse::point(center).map_err(bad)?;
                Kind::WithinReach { center, at, reach }
            }
            "$center" | "$box" | "$polygon" => Kind::WithinFlat(Flat::parse(name, v).map_err(bad)?),
            name => return Err(bad(format!("unknown geo specifier: {name}: {}", quote(v)))),
        };
        if found.replace(kind).is_some() {
            return Err(bad(format!("{operator} takes one shape, found {}", quote(v))));
        }
    }
    found.ok_or_else(|| bad(format!("{operator} has no shape: {}", quote(v))))
}

fn intersects(v: RawBsonRef<'_>) -> Result<Kind> {
    let shape = v
        .as_document()
        .ok_or_else(|| bad(format!("$geoIntersects needs an object, found {}", quote(v))))?;
    let mut all = fields(shape).filter(|(name, _)| *name != "$uniqueDocs");
    match (all.next(), all.next()) {
        (Some(("$geometry", v)), None) => parse::geo_json(v, Care::Strict)
            .map(Kind::Intersects)
            .map_err(bad),
        (Some((name @ ("$centerSphere" | "$center" | "$box" | "$polygon"), _)), None) => Err(bad(format!(
            "$geoIntersects not supported with provided geometry: {name}"
        ))),
        (Some((name, v)), None) => Err(bad(format!("unknown geo specifier: {name}: {}", quote(v)))),
        _ => Err(bad(format!(
            "$geoIntersects takes one $geometry, found {}",
            quote(v)
        ))),
    }
}

impl Near {
    fn parse(operator: &str, v: RawBsonRef<'_>, all: &RawDocument) -> Result<Near> {
        let geo_json = v.as_document().filter(|near| {
            let first = fields(near).next();
            first.is_some_and(|(name, _)| name.starts_with('$'))
        });
        let Some(near) = geo_json else {
            return Self::of_pair(operator, v, all);
        };
        if let Some((name, v)) = fields(all).find(|(name, _)| is_distance(name)) {
            return Err(bad(format!(
                "geo near accepts just one argument when querying for a GeoJSON point. Extra field found: {name}: {}",
                quote(v)
            )));
        }
        let (mut at, mut from, mut to) = (None, 0.0, f64::INFINITY);
        for (name, v) in fields(near) {
            match name {
                "$geometry" => at = Some(geo_json_point(v)?),
                "$minDistance" => from = length(name, v)? / EARTH_RADIUS_METRES,
                "$maxDistance" => to = length(name, v)? / EARTH_RADIUS_METRES,
                name => return Err(bad(format!("invalid argument in geo near query: {name}"))),
            }
        }
        let center = at.ok_or_else(|| bad(format!("{operator} has no $geometry: {}", quote(v))))?;
        Ok(Near {
            center,
            pair: None,
            from,
            to,
            flat: false,
            unit: EARTH_RADIUS_METRES,
        })
    }

    /// With a coordinate pair distances are angles, in fields beside it.
    fn of_pair(operator: &str, v: RawBsonRef<'_>, all: &RawDocument) -> Result<Near> {
        let flat = operator != "$nearSphere";
        let near = |why: String| bad(format!("invalid point in geo near query: {why}"));
        let pair = parse::pair(v).filter(|(x, y)| x.is_finite() && y.is_finite());
        let center = match pair {
            // What is on a plane may be anywhere.
            Some(_) if flat => sphere::point_at(0.0, 0.0),
            _ => parse::point(v).map_err(near)?,
        };
        let (mut from, mut to) = (0.0, f64::INFINITY);
        for (name, v) in fields(all) {
            match name {
                "$minDistance" => from = length(name, v)?,
                "$maxDistance" => to = length(name, v)?,
                _ => {}
            }
        }
        Ok(Near {
            center,
            pair,
            from,
            to,
            flat,
            unit: 1.0,
        })
    }

    /// What the stage `$geoNear` asks: a GeoJSON point with distances in metres, or a pair with angles.
    ///
    /// # Errors
    /// `BadValue` when it is neither.
    pub(crate) fn of_stage(
        at: RawBsonRef<'_>,
        spherical: bool,
        from: Option<f64>,
        to: Option<f64>,
    ) -> Result<Near> {
        let is_pair = at
            .as_document()
            .is_none_or(|at| fields(at).next().is_some_and(|(_, v)| is_number(v)));
        let pair = parse::pair(at).filter(|(x, y)| is_pair && x.is_finite() && y.is_finite());
        let (center, unit, flat) = match pair {
            Some(_) if !spherical => (sphere::point_at(0.0, 0.0), 1.0, true),
            _ if is_pair => (parse::point(at).map_err(bad)?, 1.0, !spherical),
            _ => (geo_json_point(at)?, EARTH_RADIUS_METRES, false),
        };
        Ok(Near {
            center,
            pair,
            from: from.unwrap_or(0.0) / unit,
            to: to.unwrap_or(f64::INFINITY) / unit,
            flat,
            unit,
        })
    }

    /// Whether a 2dsphere index can serve it.
    pub(crate) fn is_on_sphere(&self) -> bool {
        !self.flat
    }

    /// Whether a 2d index can serve it: a pair is asked about, maybe as longitude and latitude.
    pub(crate) fn is_of_pair(&self) -> bool {
        self.pair.is_some()
    }

    /// How wide the rings are in which an index is looked at: the first one, and the narrowest.
    pub(crate) fn widths(&self, grid: Option<&Grid>) -> (f64, f64) {
        match grid {
            Some(grid) if self.flat => {
                let extent = grid.max - grid.min;
                (extent / 4096.0, extent * 1e-9)
            }
            // A kilometre; two centimetres.
            _ => (1000.0 / EARTH_RADIUS_METRES, 0.02 / EARTH_RADIUS_METRES),
        }
    }

    /// The largest distance that anything in an index can have.
    pub(crate) fn farthest(&self, grid: Option<&Grid>) -> f64 {
        match (grid, self.pair) {
            (Some(grid), Some(center)) if self.flat => self.to.min(grid.farthest(center)),
            _ => self.to.min(std::f64::consts::PI),
        }
    }

    /// How near a document is, as an angle, by the nearest of the geometries at a path, and that geometry.
    pub(crate) fn nearest<'d>(
        &self,
        document: &'d RawDocument,
        path: &Path,
    ) -> Option<(f64, RawBsonRef<'d>)> {
        let mut nearest: Option<(f64, RawBsonRef<'d>)> = None;
        geometries_at(document, path, &mut |v| {
            let away = match self.pair.filter(|_| self.flat) {
                Some((x, y)) => parse::flat_point(v).map(|at| libm::hypot(at.0 - x, at.1 - y)),
                None => parse::geometry(v, Care::Form)
                    .ok()
                    .map(|geometry| geometry.distance(&self.center)),
            };
            let Some(away) = away else {
                return;
            };
            if nearest.is_none_or(|(least, _)| away < least) {
                nearest = Some((away, v));
            }
        });
        nearest
    }

    /// The distance in the query's unit: metres, or an angle.
    pub(crate) fn in_unit(&self, angle: f64) -> f64 {
        angle * self.unit
    }

    /// The keys of a 2dsphere index that documents at such a distance have.
    pub(crate) fn ring(&self, from: f64, to: f64, leaves: bool) -> Vec<CellRange> {
        let ring = Around {
            center: self.center,
            from,
            to,
        };
        cells::of_query(&ring, leaves)
    }

    /// The keys of a 2d index that documents at such a distance have.
    pub(crate) fn flat_ring(&self, from: f64, to: f64, grid: &Grid) -> Vec<CellRange> {
        let center = self.pair.unwrap_or_default();
        if self.flat {
            let reach = center.0.abs().max(center.1.abs()) + to.min(grid.farthest(center));
            grid.cover(&FlatRing { center, from, to }, reach)
        } else {
            let ring = Beyond {
                boxes: plane::around(center, to),
                center: self.center,
                from,
            };
            grid.cover(&ring, 360.0)
        }
    }
}

/// Whether the name is a distance that belongs to `$near`.
pub(crate) fn is_distance(name: &str) -> bool {
    matches!(name, "$maxDistance" | "$minDistance")
}

fn geo_json_point(v: RawBsonRef<'_>) -> Result<Point> {
    let point = parse::geometry(v, Care::Strict).map_err(|why| {
        bad(format!(
            "invalid point in geo near query $geometry argument: {why}"
        ))
    })?;
    point
        .as_point()
        .copied()
        .ok_or_else(|| bad(format!("geo near needs a Point, found {}", quote(v))))
}

/// # Errors
/// When it is no distance.
pub(crate) fn length(name: &str, v: RawBsonRef<'_>) -> Result<f64> {
    let length = number(v).ok_or_else(|| bad(format!("{name} must be a number, found {}", quote(v))))?;
    if length >= 0.0 {
        Ok(length)
    } else {
        Err(bad(format!("{name} must be non-negative, found {length}")))
    }
}

/// Shows `visit` each value at a path that may be a geometry: a pair or an object, or the elements of an array of them.
fn geometries_at<'d>(document: &'d RawDocument, path: &Path, visit_one: &mut dyn FnMut(RawBsonRef<'d>)) {
    let _ = visit(document, path, false, &mut |leaf| {
        match leaf.value {
            Some(RawBsonRef::Array(array)) if !elements(array).next().is_some_and(is_number) => {
                elements(array).for_each(&mut *visit_one);
            }
            Some(v) => visit_one(v),
            None => {}
        }
        ControlFlow::Continue(())
    });
}

/// The cells that an index has of a document's field.
#[derive(Debug, Default)]
pub(crate) struct FieldCells {
    /// In order, each once; empty when the document has no geometry there.
    pub(crate) cells: Vec<u64>,
    /// Whether it is not a single point: there are several cells, or one that is no leaf.
    pub(crate) wide: bool,
}

/// The cells of the geometries at a path.
///
/// # Errors
/// 16755 when there is something that is no geometry.
pub(crate) fn index_cells(document: &RawDocument, path: &Path) -> Result<FieldCells> {
    let refuse = |why: String| {
        let shown = quote(RawBsonRef::Document(document));
        Error::new(
            Code::Location(16_755),
            format!("Can't extract geo keys: {shown}  {why}"),
        )
    };
    let mut found = FieldCells::default();
    let mut positions = 0;
    let mut outcome = Ok(());
    geometries_at(document, path, &mut |v| {
        if outcome.is_err() || matches!(v, RawBsonRef::Null | RawBsonRef::Undefined) {
            return;
        }
        match parse::geometry(v, Care::Strict) {
            // Refused before they are covered, which takes time on the writer's thread.
            Ok(geometry) if positions + geometry.positions > parse::VERTICES_MAX => {
                outcome = Err(refuse(format!(
                    "the field has more than {} positions, which is the most that one may have",
                    parse::VERTICES_MAX
                )));
            }
            Ok(geometry) => {
                positions += geometry.positions;
                found.wide |= geometry.as_point().is_none();
                found.cells.extend(cells::of_document(&geometry));
            }
            Err(why) => outcome = Err(refuse(why)),
        }
    });
    outcome?;
    found.cells.sort_unstable();
    found.cells.dedup();
    found.wide |= found.cells.len() > 1;
    Ok(found)
}

/// The cells of a grid that have the points at a path: pairs, or arrays of them. What is neither array nor object is
/// no place, and no error.
///
/// # Errors
/// MongoDB's numbers for what is no pair, or is not in the grid.
pub(crate) fn index_points(document: &RawDocument, path: &Path, grid: &Grid) -> Result<FieldCells> {
    let refuse = |code: i32, why: String| Err(Error::new(Code::Location(code), why));
    let mut found = FieldCells::default();
    let mut points = 0;
    let mut outcome = Ok(());
    let mut add = |v: RawBsonRef<'_>, needed: bool| {
        let pair = match v {
            RawBsonRef::Array(_) | RawBsonRef::Document(_) => parse::pair(v),
            _ => None,
        };
        let cell = pair.map(|pair| (pair, grid.cell(pair)));
        points += 1;
        if points > parse::VERTICES_MAX {
            let max = parse::VERTICES_MAX;
            return refuse(
                16_755,
                format!("the field has more than {max} points, which is the most that one may have"),
            );
        }
        match cell {
            Some((_, Some(cell))) => found.cells.push(cell),
            Some(((x, y), None)) => {
                return refuse(
                    13_027,
                    format!(
                        "point not in interval of [ {}, {} ) :: caused by :: {{ : {x}, : {y} }}",
                        grid.min, grid.max
                    ),
                );
            }
            None if needed => {
                return refuse(
                    13_026,
                    format!(
                        "geo values must be 'legacy coordinate pairs' for 2d indexes, found {}",
                        quote(v)
                    ),
                );
            }
            None => {}
        }
        Ok(())
    };
    let _ = visit(document, path, false, &mut |leaf| {
        let outcome_of_leaf = match leaf.value {
            Some(v @ RawBsonRef::Array(array)) => match elements(array).next() {
                None => Ok(()),
                // Queries look at the elements of a pair, too.
                Some(first) if is_number(first) => {
                    add(v, true).and_then(|()| elements(array).try_for_each(|v| add(v, false)))
                }
                Some(_) => elements(array).try_for_each(|v| add(v, true)),
            },
            Some(v @ RawBsonRef::Document(pair)) if !pair.is_empty() => add(v, true),
            _ => Ok(()),
        };
        outcome = outcome_of_leaf;
        if outcome.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    outcome?;
    found.cells.sort_unstable();
    found.cells.dedup();
    found.wide = found.cells.len() > 1;
    Ok(found)
}

/// A cell as the value whose key the index has: a timestamp has the 8 bytes of its number and nothing else.
pub(crate) fn cell_value<'d>(cell: u64) -> RawBsonRef<'d> {
    let [a, b, c, d, e, f, g, h] = cell.to_be_bytes();
    RawBsonRef::Timestamp(bson::Timestamp {
        time: u32::from_be_bytes([a, b, c, d]),
        increment: u32::from_be_bytes([e, f, g, h]),
    })
}

/// What holds for any shape on the plane and anything that may be a pair or several: what is found has a cell among those
/// that are looked at. Checked by assertions: for tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_flat_laws(asked: &RawDocument, stored: &RawDocument) {
    let Ok(asked) = Geo::parse(
        "$geoWithin",
        RawBsonRef::Document(asked),
        RawDocument::from_bytes(&[5, 0, 0, 0, 0]).expect("an empty document"),
    ) else {
        return;
    };
    let mut document = bson::RawDocumentBuf::new();
    let at = crate::value::field(stored, "at").unwrap_or(RawBsonRef::Document(stored));
    document.append(bson::raw::cstr!("at"), at);
    let path = Path::parse("at").expect("a path");
    for bits in [1, 7, 26, 32] {
        let grid = Grid {
            bits,
            ..Grid::default()
        };
        let (Some(ranges), Ok(found)) = (asked.flat_ranges(&grid), index_points(&document, &path, &grid))
        else {
            continue;
        };
        let matches = visit(&document, &path, true, &mut |leaf| {
            if leaf.value.is_some_and(|v| asked.matches(v)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let has = |cell: &u64| ranges.iter().any(|(from, to)| (from..=to).contains(&cell));
        assert!(
            matches.is_continue() || found.cells.iter().any(has),
            "the index has no entry of what is inside"
        );
    }
}

/// What holds for any two geometries, checked by assertions: for tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_laws(asked: RawBsonRef<'_>, stored: RawBsonRef<'_>) {
    let Ok(asked) = parse::geometry(asked, Care::Strict) else {
        return;
    };
    let strict = parse::geometry(stored, Care::Strict);
    let Ok(stored) = parse::geometry(stored, Care::Form) else {
        assert!(strict.is_err(), "what is a good geometry has the form of one");
        return;
    };
    let touches = asked.intersects(&stored);
    assert_eq!(touches, stored.intersects(&asked));
    if asked.is_area && asked.contains(&stored) {
        assert!(touches, "what is inside has points in common");
    }
    let Ok(indexed) = strict else { return };
    let cells = cells::of_document(&indexed);
    assert!(!cells.is_empty());
    let leaves = indexed.as_point().is_some();
    for leaves in [false, leaves] {
        let ranges = cells::of_query(&asked, leaves);
        let found = cells
            .iter()
            .any(|cell| ranges.iter().any(|(from, to)| (from..=to).contains(&cell)));
        assert!(found || !touches, "the index has no entry of what touches");
    }
}
