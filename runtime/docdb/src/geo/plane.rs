//! The grid of a `2d` index: a square part of the plane, cut into four, again and again, as many times as the index has
//! bits. A point has the number of the smallest cell that it is in, so that the points of a larger cell have numbers that
//! follow each other. A query looks for the numbers of the cells that may have something of what it asks for.

use std::collections::BTreeSet;

use s2::point::Point;

use super::cells::{CellRange, Relation};
use super::flat::Flat;
use super::sphere::{TOLERANCE, distance, point_at};

/// Cells that a query is covered with, as with those of a sphere.
const QUERY_CELLS_MAX: usize = 32;

/// Where the points of an index on a plane may be, and how closely it tells them apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// The least value of both coordinates.
    pub min: f64,
    /// What both coordinates are less than.
    pub max: f64,
    /// How often the plane is cut, 1 to 32.
    pub bits: u32,
}

impl Default for Grid {
    /// MongoDB's: degrees, in squares of about 60 cm.
    fn default() -> Self {
        Self {
            min: -180.0,
            max: 180.0,
            bits: 26,
        }
    }
}

/// Places of the plane, told from those that they are not by a square.
pub(super) trait FlatRegion {
    /// Whether all points of the square are outside, inside, or neither is known.
    fn relation(&self, square: &Square) -> Relation;
}

/// A square with its edges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Square {
    pub(super) low: (f64, f64),
    pub(super) high: (f64, f64),
}

impl Square {
    /// The least and the largest distance of its points from one.
    pub(super) fn distances(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let nearest = |at: f64, low: f64, high: f64| (low - at).max(at - high).max(0.0);
        let farthest = |at: f64, low: f64, high: f64| (at - low).abs().max((high - at).abs());
        let (low, high) = (self.low, self.high);
        (
            libm::hypot(nearest(x, low.0, high.0), nearest(y, low.1, high.1)),
            libm::hypot(farthest(x, low.0, high.0), farthest(y, low.1, high.1)),
        )
    }

    /// Whether it may have a point in common with the line between two: by the axes and by the line's own side.
    fn may_touch(&self, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> bool {
        let (low, high) = (self.low, self.high);
        if x1.max(x2) < low.0 || x1.min(x2) > high.0 || y1.max(y2) < low.1 || y1.min(y2) > high.1 {
            return false;
        }
        let side = |x: f64, y: f64| (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1);
        let corners = [
            side(low.0, low.1),
            side(low.0, high.1),
            side(high.0, low.1),
            side(high.0, high.1),
        ];
        // What is as good as on the line touches.
        let size = (x2 - x1).abs().max((y2 - y1).abs());
        let reach = [x1, y1, low.0, low.1, high.0, high.1]
            .map(f64::abs)
            .into_iter()
            .fold(0.0, f64::max);
        let doubt = size * reach * 64.0 * f64::EPSILON;
        !(corners.iter().all(|side| *side > doubt) || corners.iter().all(|side| *side < -doubt))
    }
}

/// A cell: the level and its place in the rows and columns there.
#[derive(Debug, Clone, Copy)]
struct Cell {
    level: u32,
    x: u64,
    y: u64,
}

impl Grid {
    /// The number of the cell that a point is in; none for one outside of the grid.
    pub(super) fn cell(&self, (x, y): (f64, f64)) -> Option<u64> {
        let inside = |at: f64| at >= self.min && at < self.max;
        (inside(x) && inside(y)).then(|| interleaved(self.column(x), self.column(y)))
    }

    /// How far the points of the grid may be from one.
    pub(super) fn farthest(&self, center: (f64, f64)) -> f64 {
        let cell = Cell { level: 0, x: 0, y: 0 };
        self.square(cell, 0.0).distances(center).1
    }

    /// The row or column of a coordinate; it grows with the coordinate.
    fn column(&self, at: f64) -> u64 {
        let columns = 1_u64 << self.bits;
        let part = (at - self.min) / (self.max - self.min);
        ((part * columns as f64) as u64).min(columns - 1)
    }

    /// The square of a cell, wider by what numbers may be off.
    fn square(&self, cell: Cell, doubt: f64) -> Square {
        let size = (self.max - self.min) / (1_u64 << cell.level) as f64;
        let at = |n: u64| self.min + size * n as f64;
        Square {
            low: (at(cell.x) - doubt, at(cell.y) - doubt),
            high: (at(cell.x + 1) + doubt, at(cell.y + 1) + doubt),
        }
    }

    /// The numbers, in order and apart from each other, that points of the region may have. `reach` is the largest of the
    /// numbers that the region is made of.
    pub(super) fn cover(&self, region: &dyn FlatRegion, reach: f64) -> Vec<CellRange> {
        let doubt = reach.abs().max(self.min.abs()).max(self.max.abs()) * 64.0 * f64::EPSILON;
        let mut done: Vec<Cell> = Vec::new();
        let mut open: Vec<Cell> = Vec::new();
        let sort_in = |cell: Cell, done: &mut Vec<Cell>, open: &mut Vec<Cell>| match region
            .relation(&self.square(cell, doubt))
        {
            Relation::Outside => {}
            Relation::Inside => done.push(cell),
            Relation::Partly if cell.level >= self.bits => done.push(cell),
            Relation::Partly => open.push(cell),
        };
        let whole = Cell { level: 0, x: 0, y: 0 };
        sort_in(whole, &mut done, &mut open);
        // In the order of sizes, as on the sphere.
        let mut at = 0;
        while let Some(cell) = open.get(at).copied() {
            let (mut inside, mut partly) = (Vec::new(), Vec::new());
            for (right, up) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let child = Cell {
                    level: cell.level + 1,
                    x: cell.x << 1 | right,
                    y: cell.y << 1 | up,
                };
                sort_in(child, &mut inside, &mut partly);
            }
            let count = done.len() + (open.len() - at - 1) + inside.len() + partly.len();
            if count > QUERY_CELLS_MAX {
                done.push(cell);
            } else {
                done.extend(inside);
                open.extend(partly);
            }
            at += 1;
        }
        self.ranges(&done)
    }

    /// The numbers of what is in the cells.
    fn ranges(&self, cells: &[Cell]) -> Vec<CellRange> {
        let ranges: BTreeSet<CellRange> = cells
            .iter()
            .map(|cell| {
                let below = 2 * (self.bits - cell.level);
                let first = interleaved(cell.x, cell.y);
                // Of the whole grid all 64 bits are below.
                let first = first.checked_shl(below).unwrap_or(0);
                (first, first | u64::MAX.checked_shr(64 - below).unwrap_or(0))
            })
            .collect();
        let mut joined: Vec<CellRange> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match joined.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        joined
    }
}

/// The bits of two numbers in turn, the first number's first.
fn interleaved(x: u64, y: u64) -> u64 {
    let spread = |n: u64| {
        let mut n = n & 0xffff_ffff;
        n = (n | n << 16) & 0x0000_ffff_0000_ffff;
        n = (n | n << 8) & 0x00ff_00ff_00ff_00ff;
        n = (n | n << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        n = (n | n << 2) & 0x3333_3333_3333_3333;
        (n | n << 1) & 0x5555_5555_5555_5555
    };
    spread(x) << 1 | spread(y)
}

impl FlatRegion for Flat {
    fn relation(&self, square: &Square) -> Relation {
        match self {
            Flat::Box { low, high } => boxed(square, *low, *high),
            Flat::Circle { center, radius } => {
                let (nearest, farthest) = square.distances(*center);
                by_distance(nearest, farthest, 0.0, *radius)
            }
            Flat::Polygon(corners) => {
                let mut last = corners.last().copied().unwrap_or_default();
                for corner in corners.iter().copied() {
                    if square.may_touch(last, corner) {
                        return Relation::Partly;
                    }
                    last = corner;
                }
                // No edge is near: one point speaks for all.
                if self.contains(square.low) {
                    Relation::Inside
                } else {
                    Relation::Outside
                }
            }
        }
    }
}

/// Boxes that together have all that is asked for, and more.
pub(super) struct Boxes(pub(super) Vec<Square>);

impl FlatRegion for Boxes {
    fn relation(&self, square: &Square) -> Relation {
        let mut relation = Relation::Outside;
        for one in &self.0 {
            match boxed(square, one.low, one.high) {
                Relation::Outside => {}
                Relation::Inside => return Relation::Inside,
                Relation::Partly => relation = Relation::Partly,
            }
        }
        relation
    }
}

/// The plane of longitudes and latitudes around a point of the sphere, without what is nearer than an angle.
pub(super) struct Beyond {
    pub(super) boxes: Boxes,
    pub(super) center: Point,
    pub(super) from: f64,
}

impl FlatRegion for Beyond {
    fn relation(&self, square: &Square) -> Relation {
        let (low, high) = (square.low, square.high);
        let on_sphere = low.0 >= -180.5 && high.0 <= 180.5 && low.1 >= -90.0 && high.1 <= 90.0;
        if on_sphere {
            let middle = point_at((low.0 + high.0) / 2.0, (low.1 + high.1) / 2.0);
            // A degree of longitude is never wider than one of latitude.
            let corner = libm::hypot(high.0 - low.0, high.1 - low.1).to_radians() / 2.0;
            if distance(&middle, &self.center) + corner < self.from - 2.0 * TOLERANCE {
                return Relation::Outside;
            }
        }
        match self.boxes.relation(square) {
            // It may have something that is too near.
            Relation::Inside if self.from > 0.0 => Relation::Partly,
            relation => relation,
        }
    }
}

/// What is at least `from` and at most `to` away from a point.
pub(super) struct FlatRing {
    pub(super) center: (f64, f64),
    pub(super) from: f64,
    pub(super) to: f64,
}

impl FlatRegion for FlatRing {
    fn relation(&self, square: &Square) -> Relation {
        let (nearest, farthest) = square.distances(self.center);
        by_distance(nearest, farthest, self.from, self.to)
    }
}

fn by_distance(nearest: f64, farthest: f64, from: f64, to: f64) -> Relation {
    if nearest > to || farthest < from {
        Relation::Outside
    } else if nearest >= from && farthest <= to {
        Relation::Inside
    } else {
        Relation::Partly
    }
}

fn boxed(square: &Square, low: (f64, f64), high: (f64, f64)) -> Relation {
    let (l, h) = (square.low, square.high);
    if h.0 < low.0 || l.0 > high.0 || h.1 < low.1 || l.1 > high.1 {
        Relation::Outside
    } else if l.0 >= low.0 && h.0 <= high.0 && l.1 >= low.1 && h.1 <= high.1 {
        Relation::Inside
    } else {
        Relation::Partly
    }
}

/// Where on the plane of longitudes and latitudes, in degrees, is what is within an angle of a point: more than that.
pub(super) fn around((longitude, latitude): (f64, f64), reach: f64) -> Boxes {
    /// More than the sphere's geometry takes for nothing, in degrees.
    const DOUBT: f64 = 1e-6;
    let reach_degrees = reach.to_degrees() + DOUBT;
    let (south, north) = (latitude - reach_degrees, latitude + reach_degrees);
    let whole = |south: f64, north: f64| Square {
        low: (-180.0, south.max(-90.0)),
        high: (180.0, north.min(90.0)),
    };
    if south <= -90.0 || north >= 90.0 {
        return Boxes(vec![whole(south, north)]);
    }
    // How far east and west a cap goes that has no pole.
    let wide =
        (libm::sin(reach.min(std::f64::consts::FRAC_PI_2)) / libm::cos(latitude.to_radians())).min(1.0);
    let wide = libm::asin(wide).to_degrees() * (1.0 + 1e-9) + DOUBT;
    if wide >= 180.0 {
        return Boxes(vec![whole(south, north)]);
    }
    let strip = |west: f64, east: f64| Square {
        low: (west, south),
        high: (east, north),
    };
    // On the other side of the 180th meridian it goes on with other numbers.
    Boxes(
        [0.0, 360.0, -360.0]
            .map(|turn| strip(longitude - wide + turn, longitude + wide + turn))
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_each_other_within_larger_ones() {
        let grid = Grid {
            min: 0.0,
            max: 4.0,
            bits: 2,
        };
        let cell = |x: f64, y: f64| grid.cell((x, y));
        assert_eq!(cell(0.5, 0.5), Some(0));
        assert_eq!(cell(0.5, 1.5), Some(1));
        assert_eq!(cell(1.5, 0.5), Some(2));
        assert_eq!(cell(1.5, 1.5), Some(3));
        assert_eq!(cell(0.0, 2.0), Some(4));
        assert_eq!(cell(3.999, 3.999), Some(15));
        for outside in [(4.0, 0.0), (-0.001, 0.0), (0.0, f64::NAN), (f64::INFINITY, 1.0)] {
            assert_eq!(grid.cell(outside), None);
        }
    }

    #[test]
    fn what_is_asked_for_is_covered() {
        let all = Boxes(vec![Square {
            low: (-1e9, -1e9),
            high: (1e9, 1e9),
        }]);
        for bits in [1, 26, 32] {
            let grid = Grid {
                bits,
                ..Grid::default()
            };
            let last = u64::MAX.checked_shr(64 - 2 * bits).unwrap_or(0);
            assert_eq!(grid.cover(&all, 1e9), [(0, last)]);
        }
        let grid = Grid {
            min: 0.0,
            max: 4.0,
            bits: 2,
        };
        let quarter = Flat::Box {
            low: (0.0, 0.0),
            high: (1.9, 1.9),
        };
        assert_eq!(grid.cover(&quarter, 2.0), [(0, 3)]);
        let nothing = Flat::Box {
            low: (9.0, 9.0),
            high: (10.0, 10.0),
        };
        assert_eq!(grid.cover(&nothing, 10.0), []);
    }

    #[test]
    fn a_cap_over_the_meridian_is_on_both_sides() {
        let grid = Grid::default();
        let ranges = grid.cover(&around((179.9, 10.0), 0.01), 180.0);
        let has = |point: (f64, f64)| {
            let cell = grid.cell(point).unwrap();
            ranges.iter().any(|(from, to)| (from..=to).contains(&&cell))
        };
        assert!(has((179.95, 10.1)) && has((-179.95, 9.9)));
        assert!(!has((0.0, 10.0)) && !has((179.9, 20.0)));
    }
}
