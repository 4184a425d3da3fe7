//! Points, great-circle edges and polygons on the unit sphere. Whether edges cross and on which side of an edge a point
//! lies is told exactly by `s2`; whether something touches is told with a tolerance, for positions in degrees are
//! rounded when they become vectors. Sines come from `libm`, in Rust: index keys depend on them, and have to be the
//! same on every machine.

use s2::edge_crossings::{Crossing, EdgeCrosser, crossing_sign, get_intersection, robust_cross_prod};
use s2::point::{Point, ordered_ccw};
use s2::r3::vector::Vector;

/// What counts as touching, in radians: 6 mm on the Earth.
pub(crate) const TOLERANCE: f64 = 1e-9;

/// The point at a longitude and latitude in degrees. A pole is one point, whatever its longitude.
pub(super) fn point_at(longitude: f64, latitude: f64) -> Point {
    if latitude.abs() >= 90.0 {
        return Point(Vector::new(0.0, 0.0, latitude.signum()));
    }
    let longitude = if longitude == -180.0 { 180.0 } else { longitude };
    let (longitude, latitude) = (longitude.to_radians(), latitude.to_radians());
    let across = libm::cos(latitude);
    let vector = Vector::new(
        across * libm::cos(longitude),
        across * libm::sin(longitude),
        libm::sin(latitude),
    );
    Point(vector.normalize())
}

/// The angle between two points, 0 to pi.
pub(super) fn distance(a: &Point, b: &Point) -> f64 {
    let cross = (a.0 - b.0).cross(&(a.0 + b.0));
    libm::atan2(cross.norm(), 2.0 * a.0.dot(&b.0))
}

/// The shorter part of the great circle between two points.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) from: Point,
    pub(super) to: Point,
    /// Of unit length, on the left of who goes along the edge; nothing for an edge of no length.
    normal: Vector,
    /// A box in space that the edge is in, with the tolerance.
    low: [f64; 3],
    high: [f64; 3],
}

impl Edge {
    pub(super) fn new(from: Point, to: Point) -> Self {
        let normal = if from == to {
            Vector::new(0.0, 0.0, 0.0)
        } else {
            robust_cross_prod(&from, &to).0.normalize()
        };
        // The edge bulges out of the chord between its ends by this at most.
        let half = (from.0 - to.0).norm() / 2.0;
        let bulge = 1.0 - (1.0 - half * half).max(0.0).sqrt() + 2.0 * TOLERANCE;
        let (a, b) = ([from.0.x, from.0.y, from.0.z], [to.0.x, to.0.y, to.0.z]);
        Self {
            from,
            to,
            normal,
            low: std::array::from_fn(|i| a[i].min(b[i]) - bulge),
            high: std::array::from_fn(|i| a[i].max(b[i]) + bulge),
        }
    }

    fn is_near(&self, other: &Edge) -> bool {
        (0..3).all(|i| self.low[i] <= other.high[i] && other.low[i] <= self.high[i])
    }

    /// The angle between a point and what is nearest to it of the edge.
    pub(super) fn distance(&self, p: &Point) -> f64 {
        let beside = self.normal.norm2() > 0.0
            && self.normal.cross(&self.from.0).dot(&p.0) >= 0.0
            && self.to.0.cross(&self.normal).dot(&p.0) >= 0.0;
        let is_first = (p.0 - self.from.0).norm2() <= (p.0 - self.to.0).norm2();
        let end = if is_first { &self.from } else { &self.to };
        if !beside {
            return distance(p, end);
        }
        // Taken from an end, so that small distances are precise.
        let height = (p.0 - end.0).dot(&self.normal).abs();
        libm::asin(height.min(1.0))
    }

    /// Whether the edges cross or touch.
    pub(super) fn touches(&self, other: &Edge) -> bool {
        self.is_near(other)
            && (self.distance(&other.from) <= TOLERANCE
                || self.distance(&other.to) <= TOLERANCE
                || other.distance(&self.from) <= TOLERANCE
                || other.distance(&self.to) <= TOLERANCE
                || self.crosses(other))
    }

    /// Whether the edges cross at a point that is an end of neither.
    pub(super) fn crosses(&self, other: &Edge) -> bool {
        self.is_near(other) && crossing_sign(&self.from, &self.to, &other.from, &other.to) == Crossing::Cross
    }

    /// The point at an angle after the edge's beginning.
    fn along(&self, angle: f64) -> Point {
        let ahead = self.normal.cross(&self.from.0);
        Point((self.from.0 * libm::cos(angle) + ahead * libm::sin(angle)).normalize())
    }

    /// A point on each of the pieces that `others` cut the edge into.
    fn pieces<'e>(&self, others: impl Iterator<Item = &'e Edge>) -> Vec<Point> {
        let length = distance(&self.from, &self.to);
        let mut cuts = vec![0.0, length];
        for other in others.filter(|other| self.is_near(other)) {
            for end in [&other.from, &other.to] {
                if self.distance(end) <= TOLERANCE {
                    cuts.push(distance(&self.from, end).min(length));
                }
            }
            if self.crosses(other) {
                let at = get_intersection(&self.from, &self.to, &other.from, &other.to);
                cuts.push(distance(&self.from, &at).min(length));
            }
        }
        cuts.sort_by(f64::total_cmp);
        let pieces = cuts.iter().zip(cuts.iter().skip(1));
        let pieces = pieces.filter(|(from, to)| *to - *from > 4.0 * TOLERANCE);
        pieces.map(|(from, to)| self.along((from + to) / 2.0)).collect()
    }
}

/// The edges that lead through points one after the other.
pub(super) fn edges_through(points: &[Point]) -> Vec<Edge> {
    let pairs = points.iter().zip(points.iter().skip(1));
    pairs.map(|(from, to)| Edge::new(*from, *to)).collect()
}

/// A closed line with an inside: the smaller of the two parts that it cuts the sphere into.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    pub(super) edges: Vec<Edge>,
    holds_origin: bool,
}

/// A point of which each ring knows on which side it is; somewhere in the southern Indian Ocean.
fn origin() -> Point {
    Point(Vector::new(0.182_3, 0.571_7, -0.731_9).normalize())
}

impl Ring {
    /// The ring through points of which the first is also the last, and no neighbours are equal: at least three.
    pub(super) fn new(points: &[Point]) -> Self {
        let mut ring = Self {
            edges: edges_through(points),
            holds_origin: false,
        };
        let [first, second, third, ..] = points else {
            return ring;
        };
        // What is on the left at the second point tells what is at the origin.
        let left = ordered_ccw(&second.ortho(), first, third, second);
        ring.holds_origin = left != ring.contains(second);
        if ring.area_on_left() > 2.0 * std::f64::consts::PI {
            ring.holds_origin = !ring.holds_origin;
        }
        ring
    }

    /// Whether a point is inside. Of the points on the ring itself some are and some are not.
    pub(super) fn contains(&self, p: &Point) -> bool {
        let mut crosser = EdgeCrosser::new(&origin(), p);
        let mut inside = self.holds_origin;
        for edge in &self.edges {
            inside ^= crosser.edge_or_vertex_crossing(&edge.from, &edge.to);
        }
        inside
    }

    /// The area on the left of who goes along the ring, 0 to 4 pi: the sum of triangles with the first point, turned
    /// the one way or the other.
    fn area_on_left(&self) -> f64 {
        let whole = 4.0 * std::f64::consts::PI;
        let Some(corner) = self.edges.first().map(|edge| edge.from.0) else {
            return 0.0;
        };
        let area = |edge: &Edge| {
            let (b, c) = (edge.from.0, edge.to.0);
            let triple = corner.dot(&b.cross(&c));
            let sides = 1.0 + corner.dot(&b) + b.dot(&c) + c.dot(&corner);
            2.0 * libm::atan2(triple, sides)
        };
        let sum: f64 = self.edges.iter().map(area).sum();
        sum.rem_euclid(whole)
    }
}

/// An outer ring and the holes in it.
#[derive(Debug, Clone)]
pub(super) struct Polygon {
    pub(super) outer: Ring,
    pub(super) holes: Vec<Ring>,
}

/// How many edges of a polygon are tried to find a point inside of it.
const INTERIOR_TRIES_MAX: usize = 64;

impl Polygon {
    /// The edges of all rings.
    pub(super) fn edges(&self) -> impl Iterator<Item = &Edge> {
        let holes = self.holes.iter().flat_map(|hole| &hole.edges);
        self.outer.edges.iter().chain(holes)
    }

    /// The angle between a point and what is nearest to it of the rings.
    pub(super) fn distance_to_rings(&self, p: &Point) -> f64 {
        nearest(self.edges(), p)
    }

    /// Whether a point is inside or touches a ring.
    pub(super) fn contains(&self, p: &Point) -> bool {
        self.is_within_rings(p) || self.distance_to_rings(p) <= TOLERANCE
    }

    /// Whether a point is inside and touches no ring.
    fn contains_strictly(&self, p: &Point) -> bool {
        self.is_within_rings(p) && self.distance_to_rings(p) > TOLERANCE
    }

    /// Whether a point is inside; those on the rings may be or not.
    pub(super) fn is_within_rings(&self, p: &Point) -> bool {
        self.outer.contains(p) && !self.holes.iter().any(|hole| hole.contains(p))
    }

    /// Whether all of some edges is inside or on a ring.
    pub(super) fn contains_edges<'e>(&self, mut edges: impl Iterator<Item = &'e Edge>) -> bool {
        edges.all(|edge| {
            self.contains(&edge.from)
                && self.contains(&edge.to)
                && edge.pieces(self.edges()).iter().all(|piece| self.contains(piece))
        })
    }

    /// Whether all of another polygon is inside, its rings maybe on those of this one.
    pub(super) fn contains_polygon(&self, other: &Polygon) -> bool {
        // With the other's rings inside, what is outside of this one could only be within the other as a whole part of
        // it: then a ring of this one runs through the other, or nothing of the other's inside is in this one.
        self.contains_edges(other.edges())
            && !self.edges().any(|edge| {
                edge.pieces(other.edges())
                    .iter()
                    .any(|piece| other.contains_strictly(piece))
            })
            && other.interior().is_none_or(|inside| self.contains(&inside))
    }

    /// Some point that is inside and on no ring; none if it is thinner than the tolerance.
    fn interior(&self) -> Option<Point> {
        for edge in self.outer.edges.iter().take(INTERIOR_TRIES_MAX) {
            let middle = edge.along(distance(&edge.from, &edge.to) / 2.0);
            for step in [1e-2, 1e-4, 1e-6, 1e-8, -1e-2, -1e-4, -1e-6, -1e-8] {
                let beside = Point((middle.0 + edge.normal * step).normalize());
                if self.contains_strictly(&beside) {
                    return Some(beside);
                }
            }
        }
        None
    }
}

/// The angle between a point and what is nearest to it of some edges.
pub(super) fn nearest<'e>(edges: impl Iterator<Item = &'e Edge>, p: &Point) -> f64 {
    edges.map(|edge| edge.distance(p)).fold(f64::INFINITY, f64::min)
}
