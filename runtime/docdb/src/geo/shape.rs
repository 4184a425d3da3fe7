//! Geometries: what GeoJSON can say, as points, lines and polygons on the sphere; how far they are, and whether they
//! touch or hold each other. Edges are the shortest lines on the sphere, and a shape includes its edges.

use s2::point::Point;

use super::sphere::{Edge, Polygon, TOLERANCE, distance, nearest};

/// One or more points, lines and polygons.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    /// Never empty.
    pub(super) parts: Vec<Part>,
    /// Whether GeoJSON called it a `Polygon` or a `MultiPolygon`: what other things may lie in.
    pub(super) is_area: bool,
    /// How many there are in its coordinates.
    pub(super) positions: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Part {
    Point(Point),
    /// At least one edge.
    Line(Vec<Edge>),
    Polygon(Polygon),
}

impl Geometry {
    pub(super) fn point(point: Point) -> Self {
        Self {
            parts: vec![Part::Point(point)],
            is_area: false,
            positions: 1,
        }
    }

    /// The only point that it is.
    pub(super) fn as_point(&self) -> Option<&Point> {
        match self.parts.as_slice() {
            [Part::Point(point)] => Some(point),
            _ => None,
        }
    }

    /// The angle between a point and what is nearest to it of the geometry; 0 inside of polygons.
    pub(crate) fn distance(&self, p: &Point) -> f64 {
        let parts = self.parts.iter().map(|part| part.distance(p));
        parts.fold(f64::INFINITY, f64::min)
    }

    /// Whether all that is within an angle of a point is inside.
    pub(super) fn contains_around(&self, p: &Point, reach: f64) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Polygon(polygon) => polygon.is_within_rings(p) && polygon.distance_to_rings(p) >= reach,
            Part::Point(_) | Part::Line(_) => false,
        })
    }

    /// Whether the two have a point in common.
    pub(super) fn intersects(&self, other: &Geometry) -> bool {
        let mut pairs = self
            .parts
            .iter()
            .flat_map(|a| other.parts.iter().map(move |b| (a, b)));
        pairs.any(|(a, b)| a.intersects(b))
    }

    /// Whether each part of `other` lies in one of the polygons.
    pub(super) fn contains(&self, other: &Geometry) -> bool {
        let within = |other: &Part| self.parts.iter().any(|part| part.contains(other));
        other.parts.iter().all(within)
    }

    /// Whether all of it is within an angle of a point.
    pub(super) fn is_around(&self, center: &Point, reach: f64) -> bool {
        // The farthest point of a shape is as far as the shape is near to the other end of the world.
        let opposite = Point(center.0 * -1.0);
        self.parts.iter().all(|part| match part {
            Part::Point(point) => distance(point, center) <= reach + TOLERANCE,
            part => part.distance(&opposite) >= std::f64::consts::PI - reach - TOLERANCE,
        })
    }
}

impl Part {
    fn distance(&self, p: &Point) -> f64 {
        match self {
            Part::Point(point) => distance(point, p),
            Part::Line(edges) => nearest(edges.iter(), p),
            Part::Polygon(polygon) if polygon.is_within_rings(p) => 0.0,
            Part::Polygon(polygon) => polygon.distance_to_rings(p),
        }
    }

    fn edges(&self) -> Box<dyn Iterator<Item = &Edge> + '_> {
        match self {
            Part::Point(_) => Box::new(std::iter::empty()),
            Part::Line(edges) => Box::new(edges.iter()),
            Part::Polygon(polygon) => Box::new(polygon.edges()),
        }
    }

    fn intersects(&self, other: &Part) -> bool {
        if let Part::Point(point) = self {
            return other.distance(point) <= TOLERANCE;
        }
        if let Part::Point(point) = other {
            return self.distance(point) <= TOLERANCE;
        }
        // Where no edges touch, the one is all inside of the other, or all outside.
        let holds = |outer: &Part, inner: &Part| match (outer, inner.edges().next()) {
            (Part::Polygon(polygon), Some(edge)) => polygon.contains(&edge.from),
            _ => false,
        };
        self.edges().any(|a| other.edges().any(|b| a.touches(b))) || holds(self, other) || holds(other, self)
    }

    fn contains(&self, other: &Part) -> bool {
        let Part::Polygon(polygon) = self else {
            return false;
        };
        match other {
            Part::Point(point) => polygon.contains(point),
            Part::Line(edges) => polygon.contains_edges(edges.iter()),
            Part::Polygon(other) => polygon.contains_polygon(other),
        }
    }
}
