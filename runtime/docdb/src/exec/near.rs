//! Documents in the order of their distance from a point: the index is asked for what lies in a ring around it, which is
//! sorted and shown; then for the next ring. A ring grows when it has few documents and shrinks when it has many, so
//! that who wants the nearest ten looks at little more, and nothing is held but a ring.

use std::ops::ControlFlow;

use bson::RawDocumentBuf;

use super::scan::{MatchVisitor, Meter, Row, scan_one};
use crate::kv::KvRead;
use crate::plan::{NearPlan, Plan};
use crate::query::Filter;
use crate::{Code, Error, Result};

/// A ring with fewer documents is followed by one that is twice as wide.
const RING_DOCUMENTS_MIN: usize = 200;
/// A ring with more documents is tried again with half the width.
const RING_DOCUMENTS_MAX: usize = 1000;
/// So is one with more bytes of documents.
const RING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where a document is among those of a ring: its distance, then its key.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    away: f64,
    id: Vec<u8>,
}

impl Place {
    fn is_after(&self, other: &Place) -> bool {
        self.away
            .total_cmp(&other.away)
            .then_with(|| self.id.cmp(&other.id))
            .is_gt()
    }
}

/// The row key that a cursor goes on after: the distance and the ring's width as doubles, and the document's key.
fn row_key(place: &Place, width: f64) -> Vec<u8> {
    [
        &place.away.to_be_bytes(),
        &width.to_be_bytes(),
        place.id.as_slice(),
    ]
    .concat()
}

fn from_row_key(key: &[u8]) -> Option<(Place, f64)> {
    let (away, rest) = key.split_first_chunk()?;
    let (width, id) = rest.split_first_chunk()?;
    let place = Place {
        away: f64::from_be_bytes(*away),
        id: id.to_vec(),
    };
    Some((place, f64::from_be_bytes(*width)))
}

/// What one look at a ring found.
enum Ring {
    /// All of it, in order.
    Whole(Vec<(Place, RawDocumentBuf)>),
    /// Too much to be held, in a ring that can be narrower.
    TooMuch,
}

/// Shows `visit` the documents that match, the nearest first, beginning after the row whose key is `after`.
///
/// # Errors
/// The meter's, the store's, the visitor's, and when a ring that can't be narrower has more than `sort_bytes_max`.
pub(super) fn scan_near(
    kv: &dyn KvRead,
    plan: &Plan,
    near: &NearPlan,
    filter: &Filter,
    after: Option<&[u8]>,
    meter: &mut Meter<'_>,
    visit: &mut MatchVisitor<'_>,
) -> Result<()> {
    let after = after.and_then(from_row_key);
    let farthest = near.near.farthest(near.grid.as_ref());
    // How wide the first ring is, and the one that is not made narrower.
    let (first_width, width_min) = near.near.widths(near.grid.as_ref());
    let (mut from, mut width) = match &after {
        Some((place, width)) => (place.away, *width),
        None => (near.near.from, first_width),
    };
    let after = after.map(|(place, _)| place);
    loop {
        let to = from + width;
        let is_last = to >= farthest;
        let look = Look {
            kv,
            plan,
            near,
            filter,
            from,
            to: if is_last { farthest } else { to },
            is_last,
        };
        let found = match look.ring(after.as_ref(), width > width_min, meter)? {
            Ring::Whole(found) => found,
            Ring::TooMuch => {
                width /= 2.0;
                continue;
            }
        };
        for (place, document) in &found {
            let row = Row {
                key: &row_key(place, width),
                id: &place.id,
            };
            if visit(row, document)?.is_break() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
        if found.len() < RING_DOCUMENTS_MIN {
            width *= 2.0;
        }
        from = to;
    }
}

/// A look at one ring.
struct Look<'l> {
    kv: &'l dyn KvRead,
    plan: &'l Plan,
    near: &'l NearPlan,
    filter: &'l Filter,
    from: f64,
    to: f64,
    /// The last ring has what is exactly at its outer end.
    is_last: bool,
}

impl Look<'_> {
    fn ring(&self, after: Option<&Place>, may_be_narrower: bool, meter: &mut Meter<'_>) -> Result<Ring> {
        let near = &self.near.near;
        let bytes_max = meter.sort_bytes_max();
        let plan = self.near.in_ring(self.plan, self.from, self.to);
        let mut found: Vec<(Place, RawDocumentBuf)> = Vec::new();
        let mut bytes = 0;
        let mut too_much = false;
        scan_one(self.kv, &plan, self.filter, None, meter, &mut |row, document| {
            let Some((away, _)) = near.nearest(document, &self.near.path) else {
                return Ok(ControlFlow::Continue(()));
            };
            let inside = away >= self.from && (away < self.to || (self.is_last && away <= self.to));
            let place = Place {
                away,
                id: row.id.to_vec(),
            };
            if !inside || after.is_some_and(|after| !place.is_after(after)) {
                return Ok(ControlFlow::Continue(()));
            }
            bytes += document.as_bytes().len();
            found.push((place, document.to_owned()));
            too_much = may_be_narrower && (found.len() > RING_DOCUMENTS_MAX || bytes > RING_BYTES_MAX);
            if too_much {
                return Ok(ControlFlow::Break(()));
            }
            if bytes > bytes_max {
                let message = format!(
                    "the documents at one distance took {bytes} bytes, and sort_bytes_max is {bytes_max}; a narrower query would help"
                );
                return Err(Error::new(
                    Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                    message,
                ));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if too_much {
            return Ok(Ring::TooMuch);
        }
        found.sort_by(|(a, _), (b, _)| a.away.total_cmp(&b.away).then_with(|| a.id.cmp(&b.id)));
        Ok(Ring::Whole(found))
    }
}
