//! Choosing how to reach a query's documents: which index, over which keys, in which direction, and whether the
//! result still has to be sorted. Reads nothing but the catalog; running the plan is `exec`'s business.

use std::sync::Arc;

use crate::bounds::{self, Bounds};
use crate::catalog::{Collection, ID_INDEX, entry_prefix};
use crate::index::Index;
use crate::kv::{Direction, successor};
use crate::path::Path;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::{Code, Error, IndexKind, Result};

/// Most key ranges of one plan: the product of the fields' intervals.
const RANGES_MAX: usize = 1000;

/// Where the rows come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The documents themselves, in the order of `_id`.
    Documents,
    /// An index.
    Index(Arc<Index>),
}

/// Whole store keys from `from` to `to`, the latter excluded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyRange {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

/// How to reach the documents.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) collection: u32,
    pub(crate) source: Source,
    /// Ascending and apart from each other.
    pub(crate) ranges: Vec<KeyRange>,
    pub(crate) direction: Direction,
    /// Whether the rows come in the order that was asked for.
    pub(crate) sorted: bool,
    /// Whether the filter narrows the keys at all.
    pub(crate) bounded: bool,
    /// Whether each range is one value of every field.
    pub(crate) points: bool,
    /// The bounds of each field, as far as they are used; for `explain`.
    pub(crate) fields: Vec<Bounds>,
}

impl Plan {
    /// Whether this is a lookup by `_id`.
    pub(crate) fn is_id_lookup(&self) -> bool {
        matches!(self.source, Source::Documents) && self.points && self.ranges.len() == 1
    }

    /// Whether each range has one key, the one it begins with.
    pub(crate) fn is_single_rows(&self) -> bool {
        self.points
            && match &self.source {
                Source::Documents => true,
                // The begin of a descending field's range may be short of its key.
                Source::Index(index) => {
                    let whole = self.fields.len() == index.fields.len();
                    index.spec.unique && whole && index.fields.iter().all(|field| !field.descending)
                }
            }
    }

    /// Whether this reads all documents in `_id` order for want of anything better.
    pub(crate) fn is_collection_scan(&self) -> bool {
        matches!(self.source, Source::Documents) && !self.bounded
    }
}

/// The best plan for `filter` and `sort`.
///
/// # Errors
/// When `hint` names no index of the collection.
pub(crate) fn choose(
    collection: &Collection,
    filter: &Filter,
    sort: Option<&SortSpec>,
    hint: Option<&str>,
) -> Result<Plan> {
    match hint {
        Some("$natural") => return Ok(scan(collection, sort)),
        Some(ID_INDEX) => return Ok(by_id(collection, filter, sort).0),
        Some(name) => {
            let index = collection.index(name).filter(|index| index.is_visible());
            let index = index.ok_or_else(|| {
                let message = format!("hint provided does not correspond to an existing index: {name:?}");
                Error::new(Code::BadValue, message)
            })?;
            if !holds_all(index, filter) {
                let message = format!(
                    "the hint names the partial index {name:?}, and the filter does not imply its partialFilterExpression"
                );
                return Err(Error::new(Code::NoQueryExecutionPlans, message));
            }
            return Ok(by_index(collection, index, filter, sort).0);
        }
        None => {}
    }
    let (mut best, mut best_score) = by_id(collection, filter, sort);
    if best.points && best.bounded {
        return Ok(best);
    }
    let usable = |index: &&Arc<Index>| index.is_visible() && holds_all(index, filter);
    for index in collection.indexes.iter().filter(usable) {
        let (plan, score) = by_index(collection, index, filter, sort);
        let complete = !index.spec.sparse || plan.fields.iter().any(|bounds| bounds.exists);
        if complete && score > best_score {
            (best, best_score) = (plan, score);
        }
    }
    Ok(best)
}

/// Whether a partial index has all documents that the filter matches.
fn holds_all(index: &Index, filter: &Filter) -> bool {
    let partial = index.partial.as_ref();
    partial.is_none_or(|partial| bounds::implies(filter, partial))
}

/// How good a plan is: fields fixed to values, then a range, then a sort saved.
type Score = (bool, usize, bool, bool);

fn score(plan: &Plan, unique: bool, sort: Option<&SortSpec>, field_count: usize) -> Score {
    let fixed = plan.fields.iter().filter(|bounds| bounds.points()).count();
    let whole = unique && plan.bounded && fixed == field_count;
    let ranged = plan.fields.len() > fixed;
    (
        whole,
        fixed * 2 + usize::from(ranged),
        plan.sorted && sort.is_some(),
        plan.bounded,
    )
}

fn scan(collection: &Collection, sort: Option<&SortSpec>) -> Plan {
    let prefix = collection.prefix();
    let mut plan = build(collection.id, Source::Documents, prefix, &[false], Vec::new());
    plan.sorted = sort.is_none();
    plan
}

fn by_id(collection: &Collection, filter: &Filter, sort: Option<&SortSpec>) -> (Plan, Score) {
    let path = match Path::parse("_id") {
        Ok(path) => path,
        Err(_) => return (scan(collection, sort), (false, 0, false, false)),
    };
    let fields: Vec<Bounds> = bounds::of_filter(filter, &path, false).into_iter().collect();
    let direction = sort_direction(&[(&path, false)], &fields, sort);
    let mut plan = build(
        collection.id,
        Source::Documents,
        collection.prefix(),
        &[false],
        fields,
    );
    plan.set_direction(direction, sort);
    let score = score(&plan, true, sort, 1);
    (plan, score)
}

fn by_index(
    collection: &Collection,
    index: &Arc<Index>,
    filter: &Filter,
    sort: Option<&SortSpec>,
) -> (Plan, Score) {
    let mut fields = Vec::new();
    let mut ranges = 1;
    let mut multikey_used = false;
    for (i, field) in index.fields.iter().enumerate() {
        let multikey = index.multikey >> i & 1 == 1;
        // Two multikey fields may be met by different elements; an entry holds one element's values.
        if multikey && multikey_used {
            break;
        }
        let bounds = bounds::of_filter(filter, &field.path, multikey);
        let bounds = if field.hashed {
            bounds.and_then(|bounds| bounds.hashed())
        } else {
            bounds
        };
        let Some(bounds) = bounds else {
            break;
        };
        ranges *= bounds.intervals.len();
        if ranges > RANGES_MAX {
            break;
        }
        multikey_used |= multikey;
        let points = bounds.points();
        fields.push(bounds);
        if !points {
            break;
        }
    }
    let keys: Vec<(&Path, bool)> = index
        .fields
        .iter()
        .map(|field| (&field.path, field.descending))
        .collect();
    // Of an array the sort takes the smallest or largest element, the index has them all.
    let direction = if index.multikey == 0 && index.spec.kind == IndexKind::Ordered {
        sort_direction(&keys, &fields, sort)
    } else {
        None
    };
    let descending: Vec<bool> = keys.iter().map(|(_, descending)| *descending).collect();
    let source = Source::Index(index.clone());
    let mut plan = build(collection.id, source, entry_prefix(index.id), &descending, fields);
    plan.set_direction(direction, sort);
    let score = score(&plan, index.spec.unique, sort, index.fields.len());
    (plan, score)
}

impl Plan {
    fn set_direction(&mut self, sorted: Option<Direction>, sort: Option<&SortSpec>) {
        self.sorted = sort.is_none() || sorted.is_some();
        self.direction = sorted.unwrap_or(Direction::Forward);
    }
}

/// The direction in which the keys come in the order of `sort`, if they do in one.
fn sort_direction(keys: &[(&Path, bool)], fields: &[Bounds], sort: Option<&SortSpec>) -> Option<Direction> {
    let single = |place: usize| {
        fields
            .get(place)
            .is_some_and(|bounds| bounds.intervals.len() == 1 && bounds.points())
    };
    let mut place = 0;
    let mut direction = None;
    for (path, sign) in sort?.keys() {
        // Fields with one value only do not count, in the index nor in the sort.
        while place < keys.len() && single(place) && keys[place].0 != path {
            place += 1;
        }
        match keys.get(place) {
            Some((at, descending)) if at == &path => {
                let wanted = if *descending == (*sign < 0) {
                    Direction::Forward
                } else {
                    Direction::Backward
                };
                if !single(place) && *direction.get_or_insert(wanted) != wanted {
                    return None;
                }
                place += 1;
            }
            _ if keys
                .iter()
                .take(place)
                .enumerate()
                .any(|(i, (at, _))| at == &path && single(i)) => {}
            _ => return None,
        }
    }
    Some(direction.unwrap_or(Direction::Forward))
}

/// Makes the key ranges of the fields' bounds below `prefix`.
fn build(collection: u32, source: Source, prefix: Vec<u8>, descending: &[bool], fields: Vec<Bounds>) -> Plan {
    let mut prefixes = vec![prefix];
    let mut ranges = Vec::new();
    let last = fields.iter().rposition(|_| true);
    for (i, bounds) in fields.iter().enumerate() {
        let mut next = Vec::with_capacity(prefixes.len() * bounds.intervals.len());
        for prefix in &prefixes {
            for interval in &bounds.intervals {
                if interval.point && Some(i) != last {
                    next.push(extended(prefix, &interval.from, descending[i]));
                    continue;
                }
                let turned = descending[i].then(|| interval.descending());
                let (from, to) = turned
                    .as_ref()
                    .map_or((&interval.from, &interval.to), |(from, to)| (from, to));
                ranges.push(KeyRange {
                    from: [prefix.as_slice(), from].concat(),
                    to: [prefix.as_slice(), to].concat(),
                });
            }
        }
        prefixes = next;
    }
    if fields.is_empty() {
        ranges.extend(prefixes.into_iter().filter_map(|from| {
            let to = successor(&from)?;
            Some(KeyRange { from, to })
        }));
    }
    ranges.sort();
    Plan {
        collection,
        source,
        ranges,
        direction: Direction::Forward,
        sorted: false,
        bounded: !fields.is_empty(),
        points: !fields.is_empty() && fields.iter().all(Bounds::points),
        fields,
    }
}

fn extended(prefix: &[u8], key: &[u8], descending: bool) -> Vec<u8> {
    let mut out = prefix.to_vec();
    let at = out.len();
    out.extend_from_slice(key);
    if descending {
        crate::keycode::invert(&mut out[at..]);
    }
    out
}
