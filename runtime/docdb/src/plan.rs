//! Choosing how to reach a query's documents: which index, over which keys, in which direction, and whether the
//! result still has to be sorted. Reads nothing but the catalog; running the plan is `exec`'s business.
//!
//! There are no statistics: of two plans the better one is told by what the filter fixes. A unique index of which all
//! fields are fixed to values beats all; then more leading fields fixed to values beat fewer, and one with a range
//! after them beats one without; then an index that gives the order asked for beats one that does not. An `$or` is a
//! union of plans, as good as its worst, and is taken when no single plan is as good.

use std::sync::{Arc, LazyLock};

use bson::raw::CString;
use bson::{RawDocument, RawDocumentBuf};

use crate::bounds::{self, Bounds, By};
use crate::capped;
use crate::catalog::{Collection, document_prefix, entry_prefix};
use crate::check::check_well_formed;
use crate::collation::{self, holds_text};
use crate::forms;
use crate::geo::{Grid, Near};
use crate::index::{Entered, Index, IndexField};
use crate::kv::{Direction, successor};
use crate::path::Path;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::{Code, Error, Find, IndexKind, Limits, NATURAL_BACKWARD, Result, value};

/// Most key ranges of one plan: the product of the fields' intervals.
const RANGES_MAX: usize = 1000;
/// Most combinations of values for the fields before a place in a plan by distance: each is a prefix for all the ranges
/// of a ring.
const PREFIXES_MAX: usize = 10;
/// Most plans in a union; an `$or` of more is a filter.
const BRANCHES_MAX: usize = 100;

/// What the documents are ordered by.
static ID_PATH: LazyLock<Result<Path>> = LazyLock::new(|| Path::parse("_id"));

/// Where the rows come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The documents themselves, in the order of `_id`.
    Documents,
    /// The documents of a time series themselves, in the order of the dates in this field.
    Times(Arc<str>),
    /// The documents of a capped collection, in the order in which they came.
    Order,
    /// An index.
    Index(Arc<Index>),
    /// Several plans, one after the other: the branches of an `$or`.
    Union(Vec<Branch>),
}

/// A branch of a union. A document is shown by the first branch whose filter it matches, so that it is shown once and
/// nothing has to be remembered.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) plan: Plan,
    /// The branch of the `$or`.
    pub(crate) filter: Filter,
}

/// What a plan has of the documents without fetching them.
#[derive(Debug, Clone)]
pub(crate) enum Covered {
    /// That they match: nothing of them is wanted.
    Nothing,
    /// The fields of these names, from the entries of its index, where they tell enough.
    Fields(Arc<[CString]>),
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
    /// Whether the rows are exactly the documents that match, one each, so that counting needs no document.
    pub(crate) exact: bool,
    /// The bounds of each field, as far as they are used; for `explain`.
    pub(crate) fields: Vec<Bounds>,
    /// The documents come in the order of their distance: `ranges` and `fields` are those of the fields before the
    /// place, and each ring has its own.
    pub(crate) near: Option<Arc<NearPlan>>,
    /// The documents need not be fetched.
    pub(crate) covered: Option<Covered>,
}

/// What is needed to look into the rings around a point.
#[derive(Debug)]
pub(crate) struct NearPlan {
    pub(crate) near: Near,
    pub(crate) path: Path,
    /// What the keys begin with, and the fields' directions.
    prefix: Vec<u8>,
    descending: Vec<bool>,
    /// Whether all cells of the index are leaves.
    leaves: bool,
    /// The index's grid, if it is one on a plane.
    pub(crate) grid: Option<Grid>,
}

impl NearPlan {
    /// The plan for the documents of which something lies between two distances.
    pub(crate) fn in_ring(&self, plan: &Plan, from: f64, to: f64) -> Plan {
        let mut fields = plan.fields.clone();
        let ring = match &self.grid {
            Some(grid) => self.near.flat_ring(from, to, grid),
            None => self.near.ring(from, to, self.leaves),
        };
        fields.push(Bounds::cells(&ring));
        build(
            plan.collection,
            plan.source.clone(),
            self.prefix.clone(),
            &self.descending,
            fields,
        )
    }
}

/// Ends of a query given as keys of its index: MongoDB's `min` and `max`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    min: Option<RawDocumentBuf>,
    max: Option<RawDocumentBuf>,
}

impl Window {
    /// # Errors
    /// When an end is not BSON, or there is no hint that says of which index it is a key.
    pub(crate) fn parse(find: &Find, limits: &Limits) -> Result<Self> {
        let end = |end: &Option<RawDocumentBuf>| {
            let end = end.clone().filter(|end| !end.is_empty());
            match &end {
                None => {}
                Some(_) if find.hint.is_none() => {
                    return Err(Error::new(
                        Code::BadValue,
                        "min and max need a hint of which index to use",
                    ));
                }
                Some(end) => check_well_formed(end, limits.depth_max)?,
            }
            Ok(end)
        };
        Ok(Self {
            min: end(&find.min)?,
            max: end(&find.max)?,
        })
    }
}

impl Plan {
    /// Spares the documents, if all that is `needed` of them, names of their own fields, is in the entries of the
    /// plan's index, and what filter and sort have to look at is too. None is all of them.
    pub(crate) fn cover<'n>(
        &mut self,
        needed: Option<Vec<&'n str>>,
        filter: &'n Filter,
        sort: Option<&'n SortSpec>,
    ) {
        let (Some(mut needed), Source::Index(index), None) = (needed, &self.source, &self.near) else {
            return;
        };
        if index.multikey != 0 || (!self.exact && !filter.fields(&mut needed)) {
            return;
        }
        if let Some(sort) = sort.filter(|_| !self.sorted) {
            needed.extend(sort.keys().iter().map(|(path, _)| &*path.parts()[0].name));
        }
        if needed.is_empty() {
            self.covered = Some(Covered::Nothing);
            return;
        }
        let Some(names) = forms::names(&index.fields).filter(|_| index.typed) else {
            return;
        };
        if needed
            .iter()
            .all(|needed| names.iter().any(|name| name.as_str() == *needed))
        {
            self.covered = Some(Covered::Fields(names.into()));
        }
    }

    /// Leaves of the plan's ranges what lies from the window's minimum on and before its maximum. `by` is the query's
    /// collation.
    ///
    /// # Errors
    /// When an end is not a whole key of the plan's index, or has strings under another collation.
    pub(crate) fn narrow(&mut self, window: &Window, collection: &Collection, by: By<'_>) -> Result<()> {
        let end = |end: &Option<RawDocumentBuf>| {
            let key = end.as_ref().map(|end| self.key(end, collection, by));
            key.transpose()
        };
        let (min, max) = (end(&window.min)?, end(&window.max)?);
        for range in &mut self.ranges {
            if let Some(min) = min.as_ref().filter(|min| **min > range.from) {
                range.from.clone_from(min);
            }
            if let Some(max) = max.as_ref().filter(|max| **max < range.to) {
                range.to.clone_from(max);
            }
        }
        self.ranges.retain(|range| range.from < range.to);
        Ok(())
    }

    /// The store key of a key of the plan's index, given with the names of its fields.
    fn key(&self, named: &RawDocument, collection: &Collection, by: By<'_>) -> Result<Vec<u8>> {
        let own = match &self.source {
            Source::Index(index) => index.collation.as_ref(),
            _ => collection.collation.as_ref(),
        };
        let (mut key, fields): (_, Vec<(&str, bool)>) = match &self.source {
            Source::Union(_) => {
                return Err(Error::new(
                    Code::BadValue,
                    "min and max take the hint of the index whose keys they are",
                ));
            }
            Source::Order => {
                return Err(Error::new(
                    Code::BadValue,
                    "min and max take the hint of an index, not of the natural order",
                ));
            }
            Source::Index(index) if index.spec.kind != IndexKind::Ordered => {
                return Err(Error::new(
                    Code::BadValue,
                    format!(
                        "min and max have no meaning for the index {:?}, which does not have the values themselves",
                        index.spec.name
                    ),
                ));
            }
            Source::Documents => (document_prefix(self.collection), vec![("_id", false)]),
            Source::Times(field) => (document_prefix(self.collection), vec![(&**field, false)]),
            Source::Index(index) => (
                entry_prefix(index.id),
                index
                    .fields
                    .iter()
                    .map(|field| (field.path.as_str(), field.descending))
                    .collect(),
            ),
        };
        let same = value::fields(named)
            .map(|(name, _)| name)
            .eq(fields.iter().map(|(path, _)| *path));
        if !same {
            return Err(Error::new(
                Code::BadValue,
                "min and max must have the fields of the hinted index, in its order",
            ));
        }
        for ((_, value), (_, descending)) in value::fields(named).zip(&fields) {
            if own != by && holds_text(value) {
                return Err(Error::new(
                    Code::BadValue,
                    "min and max have strings, and the hinted index has another collation than the query",
                ));
            }
            collation::encode(&mut key, value, *descending, own);
        }
        Ok(key)
    }

    /// Whether this is a lookup by `_id`.
    pub(crate) fn is_id_lookup(&self) -> bool {
        matches!(self.source, Source::Documents) && self.points && self.ranges.len() == 1
    }

    /// Whether each range has one key, the one it begins with.
    pub(crate) fn is_single_rows(&self) -> bool {
        self.points
            && match &self.source {
                Source::Documents => true,
                Source::Union(_) | Source::Order | Source::Times(_) => false,
                // The begin of a descending field's range may be short of its key.
                Source::Index(index) => {
                    let whole = self.fields.len() == index.fields.len();
                    index.spec.unique && whole && index.fields.iter().all(|field| !field.descending)
                }
            }
    }

    /// Whether this reads all documents in the natural order for want of anything better.
    pub(crate) fn is_collection_scan(&self) -> bool {
        matches!(self.source, Source::Documents | Source::Times(_) | Source::Order) && !self.bounded
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
    let plans = consider(collection, filter, sort, hint)?;
    let none = || Error::new(Code::NoQueryExecutionPlans, "no plan for the query");
    plans.into_iter().next().ok_or_else(none)
}

/// The plans for `filter` and `sort` that come into question, the best one first.
///
/// # Errors
/// As [`choose`].
pub(crate) fn consider(
    collection: &Collection,
    filter: &Filter,
    sort: Option<&SortSpec>,
    hint: Option<&str>,
) -> Result<Vec<Plan>> {
    if let Some((path, near)) = filter.near() {
        return by_distance(collection, filter, (path, near), sort, hint);
    }
    match hint {
        Some("$natural") => return Ok(vec![scan(collection, sort)]),
        Some(NATURAL_BACKWARD) => {
            let mut plan = scan(collection, sort);
            plan.direction = Direction::Backward;
            return Ok(vec![plan]);
        }
        Some(name) if collection.is_id_index(name) => return Ok(vec![by_id(collection, filter, sort).0]),
        Some(name) => {
            let index = collection.index(name).filter(|index| index.is_visible());
            let index = index.ok_or_else(|| {
                let message = format!("hint provided does not correspond to an existing index: {name:?}");
                Error::new(Code::BadValue, message)
            })?;
            if !has_places(index, filter) {
                let message = format!(
                    "the hint names the index {name:?} of places, and the filter asks for no place that it could have"
                );
                return Err(Error::new(Code::NoQueryExecutionPlans, message));
            }
            if !holds_all(index, filter) {
                let message = format!(
                    "the hint names the partial index {name:?}, and the filter does not imply its partialFilterExpression"
                );
                return Err(Error::new(Code::NoQueryExecutionPlans, message));
            }
            return Ok(vec![by_index(collection, index, filter, sort).0]);
        }
        None => {}
    }
    let mut plans = singles(collection, filter, sort);
    let best = plans.first().map(|(_, score)| *score);
    if let Some((plan, weight)) = union(collection, filter, sort)
        && best.is_none_or(|(whole, best, _, _)| !whole && weight > best)
    {
        plans.insert(0, (plan, (false, weight, false, true)));
    }
    let natural = |plan: Plan| {
        // For want of anything better a capped collection is read as its documents came.
        if collection.capped.is_some() && plan.is_collection_scan() && !(plan.sorted && sort.is_some()) {
            return scan(collection, sort);
        }
        plan
    };
    Ok(plans.into_iter().map(|(plan, _)| natural(plan)).collect())
}

/// The plans by one index, the best one first; among equals the collection itself and older indexes come first.
fn singles(collection: &Collection, filter: &Filter, sort: Option<&SortSpec>) -> Vec<(Plan, Score)> {
    let by_id = by_id(collection, filter, sort);
    if by_id.0.points && by_id.0.bounded && collection.time_series.is_none() {
        return vec![by_id];
    }
    let mut plans = vec![by_id];
    let usable = |index: &&Arc<Index>| index.is_visible() && holds_all(index, filter);
    for index in collection.indexes.iter().filter(usable) {
        let (plan, score) = by_index(collection, index, filter, sort);
        let has_any = || {
            plan.fields.iter().any(|bounds| bounds.exists)
                || index
                    .fields
                    .iter()
                    .any(|field| bounds::implies_exists(filter, &field.path))
        };
        let complete = if index.is_of_places() {
            has_places(index, filter)
        } else {
            !index.spec.sparse || has_any()
        };
        if complete && (plan.bounded || (plan.sorted && sort.is_some())) {
            plans.push((plan, score));
        }
    }
    plans.sort_by(|(_, a), (_, b)| b.cmp(a));
    plans
}

/// The union of plans for an `$or` that the filter is or has, and how good its worst is.
fn union(collection: &Collection, filter: &Filter, sort: Option<&SortSpec>) -> Option<(Plan, usize)> {
    let whole = std::slice::from_ref(filter);
    let parts = match filter {
        Filter::And(parts) => parts.as_slice(),
        _ => whole,
    };
    let unions = parts.iter().enumerate().filter_map(|(at, part)| {
        let Filter::Or(any) = part else { return None };
        if any.len() > BRANCHES_MAX {
            return None;
        }
        let mut weight = usize::MAX;
        let mut branches = Vec::with_capacity(any.len());
        for branch in any {
            // What else the filter asks for narrows each branch.
            let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
            let both = others.map(|(_, part)| part).chain([branch]).cloned().collect();
            let (plan, score) = singles(collection, &Filter::And(both), None).into_iter().next()?;
            if !plan.bounded {
                return None;
            }
            weight = weight.min(score.1);
            branches.push(Branch {
                plan,
                filter: branch.clone(),
            });
        }
        let plan = Plan {
            collection: collection.id,
            ranges: Vec::new(),
            direction: Direction::Forward,
            sorted: sort.is_none(),
            bounded: true,
            points: branches.iter().all(|branch| branch.plan.points),
            exact: false,
            fields: Vec::new(),
            near: None,
            covered: None,
            source: Source::Union(branches),
        };
        Some((plan, weight))
    });
    unions.max_by_key(|(_, weight)| *weight)
}

/// Whether all documents that the filter matches have a place in one of the index's fields for places, or it has none:
/// a 2dsphere or 2d index lacks the others.
fn has_places(index: &Index, filter: &Filter) -> bool {
    let mut places = index.fields.iter().filter(|field| field.entered == Entered::Cell);
    !index.is_of_places() || places.any(|field| bounds_of(index, field, filter, true).is_some())
}

/// The plans that give documents in the order of their distance: of 2dsphere and 2d indexes that have the place after fields
/// that the filter fixes to values, the one with most of these first.
///
/// # Errors
/// `NoQueryExecutionPlans` when there is none.
pub(crate) fn by_distance(
    collection: &Collection,
    filter: &Filter,
    (path, near): (&Path, &Near),
    sort: Option<&SortSpec>,
    hint: Option<&str>,
) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for index in &collection.indexes {
        let wanted = hint.is_none_or(|hint| &*index.spec.name == hint);
        let is_place = |field: &IndexField| field.entered == Entered::Cell && field.path == *path;
        let place = index.fields.iter().position(is_place);
        let Some(place) = place.filter(|_| wanted && index.is_visible() && holds_all(index, filter)) else {
            continue;
        };
        let grid = index.grid();
        let can_serve = match grid {
            Some(_) => near.is_of_pair(),
            None => near.is_on_sphere(),
        };
        if !can_serve {
            continue;
        }
        let before = index.fields.iter().take(place).enumerate().map(|(at, field)| {
            let multikey = index.multikey >> at & 1 == 1;
            bounds_of(index, field, filter, multikey).filter(Bounds::points)
        });
        let Some(fields) = before.collect::<Option<Vec<Bounds>>>() else {
            continue;
        };
        let ranges: usize = fields.iter().map(|bounds| bounds.intervals.len()).product();
        if ranges > PREFIXES_MAX {
            continue;
        }
        let descending: Vec<bool> = index.fields.iter().map(|field| field.descending).collect();
        let prefix = entry_prefix(index.id);
        let source = Source::Index(index.clone());
        let mut plan = build(collection.id, source, prefix.clone(), &descending, fields);
        plan.sorted = sort.is_none();
        plan.bounded = true;
        plan.points = false;
        plan.near = Some(Arc::new(NearPlan {
            near: near.clone(),
            path: path.clone(),
            prefix,
            descending,
            leaves: index.multikey >> place & 1 == 0,
            grid,
        }));
        plans.push(plan);
    }
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.fields.len()));
    if plans.is_empty() {
        return Err(Error::new(
            Code::NoQueryExecutionPlans,
            "error processing query: unable to find index for $geoNear query",
        ));
    }
    Ok(plans)
}

/// What the filter says about a field of an index.
fn bounds_of(index: &Index, field: &IndexField, filter: &Filter, multikey: bool) -> Option<Bounds> {
    let by = index.collation.as_ref();
    match field.entered {
        Entered::Value => bounds::of_filter(filter, &field.path, multikey, by),
        Entered::Hash => bounds::of_filter(filter, &field.path, multikey, by)?.hashed(),
        // The bit of a place is also set by shapes that take several cells, or one that is no leaf.
        Entered::Cell => match index.grid() {
            Some(grid) => bounds::of_flat_places(filter, &field.path, &grid),
            None => bounds::of_places(filter, &field.path, !multikey),
        },
    }
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
    let mut plan = build(
        collection.id,
        natural_source(collection),
        prefix,
        &[false],
        Vec::new(),
    );
    if collection.capped.is_some() {
        let (from, to) = capped::places(collection.id);
        plan.source = Source::Order;
        plan.ranges = vec![KeyRange { from, to }];
    }
    plan.sorted = sort.is_none();
    plan.exact = false;
    plan
}

impl Plan {
    /// What the keys of its rows begin with, before the row's place in the natural order; none for another order.
    pub(crate) fn natural_prefix(&self) -> Option<Vec<u8>> {
        match self.source {
            Source::Order => Some(capped::places(self.collection).0),
            Source::Documents | Source::Times(_) => Some(crate::catalog::document_prefix(self.collection)),
            Source::Index(_) | Source::Union(_) => None,
        }
    }
}

/// Where the documents of a collection that is not capped are.
fn natural_source(collection: &Collection) -> Source {
    match &collection.time_series {
        Some(series) => Source::Times(series.time_field.clone()),
        None => Source::Documents,
    }
}

/// The plan by what the documents are stored by: their `_id`, or the time of a time series.
fn by_id(collection: &Collection, filter: &Filter, sort: Option<&SortSpec>) -> (Plan, Score) {
    let time = collection
        .time_series
        .as_ref()
        .map(|series| Path::parse(&series.time_field));
    let Ok(path) = time.as_ref().unwrap_or(&ID_PATH) else {
        return (scan(collection, sort), (false, 0, false, false));
    };
    let by = collection.collation.as_ref();
    let fields: Vec<Bounds> = bounds::of_filter(filter, path, false, by).into_iter().collect();
    let direction = sort_direction(&[(path, false)], 0, &fields, sort, by);
    let exact = by.is_none() && bounds::is_exact(filter, &[path][..fields.len()]);
    let mut plan = build(
        collection.id,
        natural_source(collection),
        collection.prefix(),
        &[false],
        fields,
    );
    plan.set_direction(direction, sort);
    plan.exact = exact;
    let score = score(&plan, collection.time_series.is_none(), sort, 1);
    (plan, score)
}

/// The best plan by one index. Conditions that one `$elemMatch` makes are about one element, and so are the values of
/// one entry: they may be used together where others may not, so each `$elemMatch` is a plan of its own to try.
fn by_index(
    collection: &Collection,
    index: &Arc<Index>,
    filter: &Filter,
    sort: Option<&SortSpec>,
) -> (Plan, Score) {
    let mut best = by_index_with(collection, index, filter, sort, None);
    let whole = std::slice::from_ref(filter);
    let parts = match filter {
        Filter::And(parts) => parts.as_slice(),
        _ => whole,
    };
    for part in parts.iter().filter(|_| index.multikey != 0) {
        for element in bounds::elements(part) {
            let other = by_index_with(collection, index, filter, sort, Some(element));
            if other.1 > best.1 {
                best = other;
            }
        }
    }
    best
}

fn by_index_with(
    collection: &Collection,
    index: &Arc<Index>,
    filter: &Filter,
    sort: Option<&SortSpec>,
    element: Option<(&Path, &Filter)>,
) -> (Plan, Score) {
    let mut fields = Vec::new();
    let mut ranges = 1;
    // Of a field with arrays: whether it was bound by what `element` says.
    let mut multikey_used: Option<bool> = None;
    for (i, field) in index.fields.iter().enumerate() {
        let multikey = index.multikey >> i & 1 == 1;
        let within = element.filter(|_| multikey && multikey_used != Some(false));
        let within = within.filter(|_| field.entered != Entered::Cell);
        let within = within.and_then(|(path, filter)| {
            bounds::of_element(filter, field.tail_below(path)?, index.collation.as_ref())
        });
        let from_element = within.is_some();
        // Otherwise two such fields may be met by different elements; an entry holds one element's values. An index of
        // places has all combinations.
        if multikey && !from_element && multikey_used.is_some() && !index.is_of_places() {
            break;
        }
        let bounds = within.or_else(|| bounds_of(index, field, filter, multikey));
        let Some(bounds) = bounds else {
            break;
        };
        ranges *= bounds.intervals.len();
        if ranges > RANGES_MAX {
            break;
        }
        if multikey {
            multikey_used = Some(from_element);
        }
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
    let ordered = index.spec.kind == IndexKind::Ordered;
    let direction = if ordered {
        sort_direction(&keys, index.multikey, &fields, sort, index.collation.as_ref())
    } else {
        None
    };
    let used: Vec<&Path> = keys.iter().take(fields.len()).map(|(path, _)| *path).collect();
    let exact = ordered
        && index.multikey == 0
        && index.collation.is_none()
        && bounds::is_exact_in(filter, &used, index.partial.as_ref());
    let descending: Vec<bool> = keys.iter().map(|(_, descending)| *descending).collect();
    let source = Source::Index(index.clone());
    let mut plan = build(collection.id, source, entry_prefix(index.id), &descending, fields);
    plan.set_direction(direction, sort);
    plan.exact = exact;
    let score = score(&plan, index.spec.unique, sort, index.fields.len());
    (plan, score)
}

impl Plan {
    fn set_direction(&mut self, sorted: Option<Direction>, sort: Option<&SortSpec>) {
        self.sorted = sort.is_none() || sorted.is_some();
        self.direction = sorted.unwrap_or(Direction::Forward);
    }
}

/// The direction in which the keys come in the order of `sort`, if they do in one. Of an array the sort takes the
/// smallest element, or the largest backwards, and the index has them all: a document is met first at the one that
/// counts, if all of them are in the scan and no other array decides which are. So one field with arrays sorts when the
/// filter does not bound it and nothing before it has arrays; where such a field is fixed to one value, the fields after
/// it sort.
fn sort_direction(
    keys: &[(&Path, bool)],
    multikey: u32,
    fields: &[Bounds],
    sort: Option<&SortSpec>,
    by: By<'_>,
) -> Option<Direction> {
    let arrays = |place: usize| multikey >> place & 1 == 1;
    let single = |place: usize| {
        fields
            .get(place)
            .is_some_and(|bounds| bounds.intervals.len() == 1 && bounds.points())
    };
    let mut place = 0;
    let mut direction = None;
    // An index has strings in the order of its own collation.
    for (path, sign) in sort.filter(|sort| sort.collation() == by)?.keys() {
        // Fields with one value only do not count, in the index nor in the sort.
        while place < keys.len() && single(place) && keys[place].0 != path {
            place += 1;
        }
        match keys.get(place) {
            Some((at, _))
                if at == &path && arrays(place) && (place < fields.len() || (0..place).any(arrays)) =>
            {
                return None;
            }
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
                .any(|(i, (at, _))| at == &path && single(i) && !arrays(i)) => {}
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
        exact: false,
        fields,
        near: None,
        covered: None,
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
