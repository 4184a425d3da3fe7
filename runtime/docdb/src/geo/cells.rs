//! Cells: the squares of a grid on a cube around the sphere, each of them cut into four, thirty times over. `s2` numbers
//! them so that the cells inside of a cell have neighbouring numbers, and the numbers of leaves are between those of no
//! others. A 2dsphere index has the cells that cover a document's shapes; a query looks for the cells that are in its
//! own cells, and for those that its own are in.

use std::collections::BTreeSet;

use s2::cell::Cell;
use s2::cellid::{CellID, MAX_LEVEL};
use s2::point::Point;

use super::shape::Geometry;
use super::sphere::{TOLERANCE, distance};

/// Cells that one geometry of a document is covered with. More make a larger index and fewer documents that are looked
/// at for nothing.
const DOCUMENT_CELLS_MAX: usize = 20;
/// Cells that a query is covered with. Each is a range of keys to look at, and may bring some single keys with it.
const QUERY_CELLS_MAX: usize = 32;
/// The smallest cells that anything but a point is covered with, some 60 cm wide.
const LEVEL_MAX: u64 = 24;

/// What cells can cover.
pub(super) trait Region {
    /// Whether all points within `radius` of `center` are outside, inside, or neither is known.
    fn relation(&self, center: &Point, radius: f64) -> Relation;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Outside,
    Inside,
    Partly,
}

impl Region for Geometry {
    fn relation(&self, center: &Point, radius: f64) -> Relation {
        if self.distance(center) > radius + 2.0 * TOLERANCE {
            Relation::Outside
        } else if self.contains_around(center, radius) {
            Relation::Inside
        } else {
            Relation::Partly
        }
    }
}

/// What is at least `from` and at most `to` away from a point, as angles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    pub(super) center: Point,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Region for Around {
    fn relation(&self, center: &Point, radius: f64) -> Relation {
        let away = distance(&self.center, center);
        if away - radius > self.to + 2.0 * TOLERANCE || away + radius < self.from - 2.0 * TOLERANCE {
            Relation::Outside
        } else if away - radius >= self.from && away + radius <= self.to {
            Relation::Inside
        } else {
            Relation::Partly
        }
    }
}

/// The numbers of the cells of a document's geometry, for the index.
pub(crate) fn of_document(geometry: &Geometry) -> Vec<u64> {
    match geometry.as_point() {
        Some(point) => vec![CellID::from(point).0],
        None => cover(geometry, DOCUMENT_CELLS_MAX)
            .into_iter()
            .map(|cell| cell.0)
            .collect(),
    }
}

/// Numbers from the first to the second, both included.
pub(crate) type CellRange = (u64, u64);

/// The numbers, in order and apart from each other, that a document's cells may have if it touches what a query asks
/// about. With `leaves` all the index's cells are the smallest ones.
pub(super) fn of_query(region: &dyn Region, leaves: bool) -> Vec<CellRange> {
    let cells = cover(region, QUERY_CELLS_MAX);
    let mut ranges: BTreeSet<CellRange> = cells
        .iter()
        .map(|cell| (cell.range_min().0, cell.range_max().0))
        .collect();
    if !leaves {
        for cell in &cells {
            ranges.extend(
                (0..cell.level())
                    .map(|level| cell.parent(level).0)
                    .map(|id| (id, id)),
            );
        }
    }
    let mut joined: Vec<CellRange> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match joined.last_mut() {
            // Numbers of leaves are odd, and of neighbours two apart; what is between is a larger cell's.
            Some(last) if leaves && from <= last.1 + 2 => last.1 = last.1.max(to),
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// Cells, apart from each other, that together hold all of the region: `max` of them, or the few of the coarsest that
/// are needed. The largest of those that are not all inside are cut first.
fn cover(region: &dyn Region, max: usize) -> Vec<CellID> {
    let relation = |id: CellID| {
        let center = Point::from(id);
        let corners = Cell::from(id).vertices();
        let radius = corners.iter().map(|corner| distance(&center, corner));
        region.relation(&center, radius.fold(0.0, f64::max))
    };
    let mut done = Vec::new();
    let mut open: Vec<CellID> = Vec::new();
    let sort_in = |id: CellID, done: &mut Vec<CellID>, open: &mut Vec<CellID>| match relation(id) {
        Relation::Outside => {}
        Relation::Inside => done.push(id),
        Relation::Partly if id.level() >= LEVEL_MAX.min(MAX_LEVEL) => done.push(id),
        Relation::Partly => open.push(id),
    };
    for face in 0..6 {
        sort_in(CellID::from_face(face), &mut done, &mut open);
    }
    // `open` is in the order of sizes, for what a cell is cut into comes after all others.
    let mut at = 0;
    while let Some(cell) = open.get(at).copied() {
        let (mut inside, mut partly) = (Vec::new(), Vec::new());
        for child in cell.children() {
            sort_in(child, &mut inside, &mut partly);
        }
        let count = done.len() + (open.len() - at - 1) + inside.len() + partly.len();
        if count > max {
            done.push(cell);
        } else {
            done.extend(inside);
            open.extend(partly);
        }
        at += 1;
    }
    done.sort();
    done
}
