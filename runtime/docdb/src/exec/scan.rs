//! Walking a plan's keys to the documents that match: range by range, filter applied, each document once, within
//! limits and deadline.

use std::ops::{Bound, ControlFlow};

use bson::{RawDocument, RawDocumentBuf};
use cloudlet_base::Deadline;

use super::near::scan_near;
use crate::catalog::entry_prefix;
use crate::engine::Engine;
use crate::forms;
use crate::index::{Entry, Index, stored};
use crate::kv::{Direction, KvRead, Range};
use crate::plan::{Covered, KeyRange, Plan, Source};
use crate::query::Filter;
use crate::{Code, Error, Result};

/// Rows between two looks at the clock.
const ROWS_PER_CHECK: u64 = 256;

/// Counts what a query looks at, and stops it at its limits.
pub(crate) struct Meter<'e> {
    engine: &'e Engine,
    deadline: &'e Deadline,
    /// Index entries seen.
    pub(crate) keys: u64,
    /// Documents seen.
    pub(crate) documents: u64,
    rows: u64,
    /// Rows after which a read on its caller's thread gives up.
    budget: Option<u64>,
    /// Whether it did.
    pub(crate) over_budget: bool,
    /// Whether a sort went to disk.
    pub(crate) used_disk: bool,
}

impl<'e> Meter<'e> {
    pub(crate) fn new(engine: &'e Engine, deadline: &'e Deadline) -> Self {
        Self {
            engine,
            deadline,
            keys: 0,
            documents: 0,
            rows: 0,
            budget: None,
            over_budget: false,
            used_disk: false,
        }
    }

    /// A meter that lets no more than `rows` be looked at, by an error that sets `over_budget`.
    pub(crate) fn with_budget(engine: &'e Engine, deadline: &'e Deadline, rows: u64) -> Self {
        Self {
            budget: Some(rows),
            ..Self::new(engine, deadline)
        }
    }

    /// By when the query has to be done.
    pub(crate) fn deadline(&self) -> &'e Deadline {
        self.deadline
    }

    /// What may be held to be sorted.
    pub(super) fn sort_bytes_max(&self) -> usize {
        self.engine.limits.sort_bytes_max
    }

    /// Refuses a long read on its caller's thread, by an error that sets `over_budget`.
    pub(crate) fn admit(&mut self, short: bool) -> Result<()> {
        if self.budget.is_some() && !short {
            self.over_budget = true;
            return Err(Error::new(
                Code::InternalError,
                "too long for the caller's thread",
            ));
        }
        Ok(())
    }

    /// Index entries and documents that the scan went by.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// # Errors
    /// The deadline passed.
    pub(crate) fn check_deadline(&self) -> Result<()> {
        let checked = self.deadline.check(self.engine.clock.as_ref());
        checked.map_err(|expired| Error::new(Code::MaxTimeMSExpired, expired.to_string()))
    }

    fn row(&mut self) -> Result<()> {
        self.rows += 1;
        if self.budget.is_some_and(|budget| self.rows > budget) {
            self.over_budget = true;
            return Err(Error::new(
                Code::InternalError,
                "too long for the caller's thread",
            ));
        }
        if self.rows.is_multiple_of(ROWS_PER_CHECK) {
            self.check_deadline()?;
        }
        let max = self.engine.limits.scan_max;
        if self.rows > max {
            let message = format!(
                "the query examined {} index entries or documents, and scan_max is {max}; an index on its fields would help",
                self.rows
            );
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        Ok(())
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.engine.metrics.examined.inc_by(self.keys + self.documents);
    }
}

/// Where a matching document was met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'r> {
    /// The store key of the row that led to it.
    pub(crate) key: &'r [u8],
    /// What the document's own store key has after what those of its collection begin with.
    pub(crate) id: &'r [u8],
}

/// Sees a matching document and where it was met.
pub(crate) type MatchVisitor<'v> = dyn FnMut(Row<'_>, &RawDocument) -> Result<ControlFlow<()>> + 'v;

/// Shows `visit` the documents that match, in the plan's order, beginning after the row whose key is `after`. Of a
/// union a row's key has the number of its branch before it; that of a document which is near to something tells how
/// near.
///
/// # Errors
/// The meter's, the store's, or the visitor's.
pub(crate) fn scan(
    kv: &dyn KvRead,
    plan: &Plan,
    filter: &Filter,
    after: Option<&[u8]>,
    meter: &mut Meter<'_>,
    visit: &mut MatchVisitor<'_>,
) -> Result<()> {
    if let Some(near) = &plan.near {
        return scan_near(kv, plan, near, filter, after, meter, visit);
    }
    let Source::Union(branches) = &plan.source else {
        return scan_one(kv, plan, filter, after, meter, visit);
    };
    let (first, mut after) = match after.and_then(<[u8]>::split_first_chunk) {
        Some((branch, key)) => (usize::from(u16::from_be_bytes(*branch)), Some(key)),
        None => (0, None),
    };
    for (number, branch) in branches.iter().enumerate().skip(first) {
        let mut row = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        let mut stopped = false;
        scan_one(
            kv,
            &branch.plan,
            filter,
            after.take(),
            meter,
            &mut |found, document| {
                // What an earlier branch matches was shown there, and what this one does not will be by a later one.
                for earlier in &branches[..number] {
                    if earlier.filter.accepts(document)? {
                        return Ok(ControlFlow::Continue(()));
                    }
                }
                if !branch.filter.accepts(document)? {
                    return Ok(ControlFlow::Continue(()));
                }
                row.truncate(2);
                row.extend_from_slice(found.key);
                let found = Row { key: &row, ..found };
                let flow = visit(found, document)?;
                stopped = flow.is_break();
                Ok(flow)
            },
        )?;
        if stopped {
            break;
        }
    }
    Ok(())
}

/// How many rows a plan has, up to `most`; of an exact plan that is how many documents match.
///
/// # Errors
/// The meter's or the store's.
pub(crate) fn count_rows(kv: &dyn KvRead, plan: &Plan, most: u64, meter: &mut Meter<'_>) -> Result<u64> {
    meter.check_deadline()?;
    let mut count = 0;
    let mut outcome = Ok(());
    for range in &plan.ranges {
        if count >= most || outcome.is_err() {
            break;
        }
        kv.scan(
            Range::half_open(&range.from, &range.to),
            Direction::Forward,
            &mut |_, _| {
                outcome = meter.row();
                if outcome.is_err() {
                    return ControlFlow::Break(());
                }
                meter.keys += 1;
                count += 1;
                if count < most {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
    }
    outcome.map(|()| count)
}

/// [`scan`] of a plan that is no union, in the order of its keys.
pub(super) fn scan_one(
    kv: &dyn KvRead,
    plan: &Plan,
    filter: &Filter,
    after: Option<&[u8]>,
    meter: &mut Meter<'_>,
    visit: &mut MatchVisitor<'_>,
) -> Result<()> {
    meter.check_deadline()?;
    let mut outcome = Ok(ControlFlow::Continue(()));
    let mut document_key = crate::catalog::document_prefix(plan.collection);
    let prefix_bytes = document_key.len();
    let prefix_of_entry = entry_prefix(0).len();
    // An index may have met its first array after a cursor's plan was made.
    let exact = plan.exact
        && match &plan.source {
            Source::Documents | Source::Times(_) => true,
            Source::Index(index) => index.multikey == 0,
            Source::Union(_) | Source::Order => false,
        };
    let accepts = |document: &RawDocument| Ok::<_, Error>(exact || filter.accepts(document)?);
    let mut on_row = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>> {
        meter.row()?;
        if matches!(plan.source, Source::Order) {
            let place = value;
            document_key.truncate(prefix_bytes);
            document_key.extend_from_slice(place);
            let mut flow = Ok(ControlFlow::Continue(()));
            let found = kv.get(&document_key, &mut |value| {
                meter.documents += 1;
                flow = stored(value).and_then(|document| {
                    if filter.accepts(document)? {
                        visit(Row { key, id: place }, document)
                    } else {
                        Ok(ControlFlow::Continue(()))
                    }
                });
            })?;
            if !found {
                let message = "the order of a capped collection has a document that is not there";
                return Err(Error::new(Code::InternalError, message));
            }
            return flow;
        }
        let Source::Index(index) = &plan.source else {
            meter.documents += 1;
            let document = stored(value)?;
            return if accepts(document)? {
                let id = key.get(prefix_bytes..).unwrap_or_default();
                visit(Row { key, id }, document)
            } else {
                Ok(ControlFlow::Continue(()))
            };
        };
        meter.keys += 1;
        let Entry {
            key: entry,
            id,
            forms,
        } = index.entry(key, value)?;
        // An index may have met its first array after a cursor's plan was made.
        let restored = match &plan.covered {
            Some(_) if index.multikey != 0 => None,
            Some(Covered::Nothing) => exact.then(RawDocumentBuf::new),
            Some(Covered::Fields(names)) => {
                forms::restore(names, &index.fields, &entry[prefix_of_entry..], forms)
            }
            None => None,
        };
        if let Some(document) = restored {
            return if accepts(&document)? {
                visit(Row { key, id }, &document)
            } else {
                Ok(ControlFlow::Continue(()))
            };
        }
        document_key.truncate(prefix_bytes);
        document_key.extend_from_slice(id);
        let mut flow = Ok(ControlFlow::Continue(()));
        let found = kv.get(&document_key, &mut |value| {
            meter.documents += 1;
            flow = stored(value).and_then(|document| {
                if accepts(document)? && is_first(index, plan, entry, document)? {
                    visit(Row { key, id }, document)
                } else {
                    Ok(ControlFlow::Continue(()))
                }
            });
        })?;
        if !found {
            let message = format!("index {:?} has an entry without a document", index.spec.name);
            return Err(Error::new(Code::InternalError, message));
        }
        flow
    };
    let single_rows = plan.is_single_rows();
    let mut each = |range: &KeyRange| -> Result<ControlFlow<()>> {
        if single_rows {
            // Half the price of a scan that would find the same row.
            if !is_past(&range.from, plan.direction, after) {
                kv.get(&range.from, &mut |value| outcome = on_row(&range.from, value))?;
            }
            return std::mem::replace(&mut outcome, Ok(ControlFlow::Continue(())));
        }
        let Some(range) = resumed(range, plan.direction, after) else {
            return Ok(ControlFlow::Continue(()));
        };
        kv.scan(range, plan.direction, &mut |key, value| {
            outcome = on_row(key, value);
            match outcome {
                Ok(flow) => flow,
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        std::mem::replace(&mut outcome, Ok(ControlFlow::Continue(())))
    };
    match plan.direction {
        Direction::Forward => {
            for range in &plan.ranges {
                if each(range)?.is_break() {
                    break;
                }
            }
        }
        Direction::Backward => {
            for range in plan.ranges.iter().rev() {
                if each(range)?.is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Checks that a cursor's place in a capped collection is still there: what was removed at it may have had others
/// after it that are gone as well.
///
/// # Errors
/// `CappedPositionLost`.
pub(crate) fn check_place(kv: &dyn KvRead, plan: &Plan, after: Option<&[u8]>) -> Result<()> {
    let (Source::Order, Some(after)) = (&plan.source, after) else {
        return Ok(());
    };
    if kv.get(after, &mut |_| {})? {
        return Ok(());
    }
    Err(Error::new(
        Code::CappedPositionLost,
        "CollectionScan died due to position in capped collection being deleted",
    ))
}

/// Whether a scan that goes on after the row `after` has seen the row with this key.
fn is_past(key: &[u8], direction: Direction, after: Option<&[u8]>) -> bool {
    after.is_some_and(|after| match direction {
        Direction::Forward => key <= after,
        Direction::Backward => key >= after,
    })
}

/// What of a range lies after the row `after` in the scan's direction.
fn resumed<'r>(range: &'r KeyRange, direction: Direction, after: Option<&'r [u8]>) -> Option<Range<'r>> {
    let mut rest = Range::half_open(&range.from, &range.to);
    if let Some(after) = after {
        match direction {
            Direction::Forward if after >= range.from.as_slice() => rest.from = Bound::Excluded(after),
            Direction::Backward if after < range.to.as_slice() => rest.to = Bound::Excluded(after),
            _ => {}
        }
    }
    (!rest.is_empty()).then_some(rest)
}

/// Whether this entry is the first of the document's entries that the plan comes by. A document with an array has
/// several, and is shown at the first: that needs no memory of what was shown, so a cursor can go on anywhere.
fn is_first(index: &Index, plan: &Plan, entry: &[u8], document: &RawDocument) -> Result<bool> {
    if index.multikey == 0 {
        return Ok(true);
    }
    let keys = index.keys(document)?.keys;
    if keys.len() < 2 {
        return Ok(true);
    }
    // An entry's place is judged by the key before the `_id`; a range holds all or none of the `_id`s of a key,
    // for its ends are ends of whole fields.
    let inside = |key: &&Vec<u8>| {
        let at = plan
            .ranges
            .partition_point(|range| range.to.as_slice() <= key.as_slice());
        plan.ranges
            .get(at)
            .is_some_and(|range| range.from.as_slice() <= key.as_slice())
    };
    let first = match plan.direction {
        Direction::Forward => keys.iter().find(inside),
        Direction::Backward => keys.iter().rev().find(inside),
    };
    Ok(first.is_none_or(|first| first.as_slice() == entry))
}
