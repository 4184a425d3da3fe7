//! What a filter says about one field, as intervals of ascending key bytes: the planner's view of a query. Bounds
//! are never tighter than the filter, and may be wider: the filter itself is always applied to what they give.

use std::sync::Arc;

use bson::{RawBson, RawBsonRef};

use crate::collation::{self, Collation, holds_text};
use crate::geo::{self, CellRange, Geo, Grid};
use crate::keycode;
use crate::kv::successor;
use crate::path::Path;
use crate::query::{Filter, Predicate, Regex};
use crate::show;
use crate::value::{canonical_class, is_nan};

/// The collation of the index whose keys are asked for.
pub(crate) type By<'c> = Option<&'c Arc<Collation>>;

/// Most intervals that one field is searched in; a longer `$in` is filtered instead.
const INTERVALS_MAX: usize = 1000;

/// Keys from `from` (inclusive) to `to` (exclusive), in ascending key bytes of one field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interval {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    /// Whether it holds the keys of one value only.
    pub(crate) point: bool,
    lower: End,
    upper: End,
}

/// An end of an interval as `explain` shows it.
#[derive(Debug, Clone, PartialEq)]
enum End {
    /// The end of the type's values.
    Open,
    /// A value, and whether it is inside.
    Value(RawBson, bool),
    /// Strings that begin so.
    Prefix(String),
}

impl End {
    fn inclusive(&self) -> bool {
        !matches!(self, End::Value(_, false))
    }

    fn show(&self) -> String {
        match self {
            End::Open => "end of type".to_owned(),
            End::Value(value, _) => show::value(value.as_raw_bson_ref()),
            End::Prefix(prefix) => format!("{prefix:?}..."),
        }
    }
}

/// What a filter says about one field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bounds {
    /// In ascending order, apart from each other; none means that nothing matches.
    pub(crate) intervals: Vec<Interval>,
    /// Whether every match has the field, so that a sparse index has it too.
    pub(crate) exists: bool,
}

impl Bounds {
    const NOTHING: Bounds = Bounds {
        intervals: Vec::new(),
        exists: true,
    };

    /// Whether all intervals are single values.
    pub(crate) fn points(&self) -> bool {
        self.intervals.iter().all(|interval| interval.point)
    }

    fn point(value: &RawBson, by: By<'_>) -> Option<Bounds> {
        let interval = Interval::point(value, by)?;
        let exists = !matches!(value, RawBson::Null | RawBson::Undefined);
        Some(Bounds {
            intervals: vec![interval],
            exists,
        })
    }

    /// Where a hashed field has these values; nothing but single values can be found there.
    pub(crate) fn hashed(&self) -> Option<Bounds> {
        if !self.points() {
            return None;
        }
        let intervals: Option<Vec<Interval>> = self.intervals.iter().map(Interval::hashed).collect();
        let mut intervals = intervals?;
        intervals.sort_by(|a, b| a.from.cmp(&b.from));
        intervals.dedup_by(|a, b| a.from == b.from);
        Some(Bounds {
            intervals,
            exists: self.exists,
        })
    }

    /// Where a 2dsphere index has the cells with these numbers, which are in order and apart from each other.
    pub(crate) fn cells(ranges: &[CellRange]) -> Bounds {
        Bounds {
            intervals: ranges.iter().filter_map(Interval::cells).collect(),
            exists: true,
        }
    }

    /// Whether each key of `other` is one of these.
    fn contains(&self, other: &Bounds) -> bool {
        other.intervals.iter().all(|inner| {
            self.intervals
                .iter()
                .any(|outer| outer.from <= inner.from && inner.to <= outer.to)
        })
    }

    fn intersect(&self, other: &Bounds) -> Bounds {
        let mut intervals = Vec::new();
        for a in &self.intervals {
            for b in &other.intervals {
                if a.from < b.to && b.from < a.to {
                    intervals.push(a.intersect(b));
                }
            }
        }
        Bounds {
            intervals,
            exists: self.exists || other.exists,
        }
    }

    fn union(all: Vec<Bounds>) -> Option<Bounds> {
        let exists = all.iter().all(|bounds| bounds.exists);
        let mut intervals: Vec<Interval> = all.into_iter().flat_map(|bounds| bounds.intervals).collect();
        intervals.sort_by(|a, b| a.from.cmp(&b.from).then_with(|| b.to.cmp(&a.to)));
        let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
        for interval in intervals {
            match merged.last_mut() {
                Some(last) if interval.to <= last.to => {}
                Some(last) if interval.from < last.to => *last = last.join(&interval),
                _ => merged.push(interval),
            }
        }
        (merged.len() <= INTERVALS_MAX).then_some(Bounds {
            intervals: merged,
            exists,
        })
    }
}

impl Interval {
    fn point(value: &RawBson, by: By<'_>) -> Option<Interval> {
        // An index has the elements of an array and not the array.
        if matches!(value, RawBson::Array(_)) {
            return None;
        }
        let from = key(value.as_raw_bson_ref(), by);
        let to = successor(&from)?;
        let end = || End::Value(value.clone(), true);
        Some(Interval {
            from,
            to,
            point: true,
            lower: end(),
            upper: end(),
        })
    }

    fn intersect(&self, other: &Interval) -> Interval {
        let low = if self.from >= other.from { self } else { other };
        let high = if self.to <= other.to { self } else { other };
        Interval {
            from: low.from.clone(),
            to: high.to.clone(),
            point: self.point || other.point,
            lower: low.lower.clone(),
            upper: high.upper.clone(),
        }
    }

    fn join(&self, later: &Interval) -> Interval {
        Interval {
            from: self.from.clone(),
            to: later.to.clone(),
            point: false,
            lower: self.lower.clone(),
            upper: later.upper.clone(),
        }
    }

    fn cells((from, to): &CellRange) -> Option<Interval> {
        let end = |cell: u64| End::Value(RawBson::Int64(cell.cast_signed()), true);
        Some(Interval {
            from: key(geo::cell_value(*from), None),
            to: successor(&key(geo::cell_value(*to), None))?,
            point: from == to,
            lower: end(*from),
            upper: end(*to),
        })
    }

    /// Where a hashed field has the one value of this interval.
    fn hashed(&self) -> Option<Interval> {
        Self::point(&RawBson::Int64(crate::index::hash(&self.from)), None)
    }

    /// The interval as `explain` shows it.
    pub(crate) fn show(&self, descending: bool) -> String {
        let (from, to) = if descending {
            (&self.upper, &self.lower)
        } else {
            (&self.lower, &self.upper)
        };
        let open = if from.inclusive() { '[' } else { '(' };
        let close = if to.inclusive() { ']' } else { ')' };
        format!("{open}{}, {}{close}", from.show(), to.show())
    }

    /// The interval in the key bytes of a descending field.
    pub(crate) fn descending(&self) -> (Vec<u8>, Vec<u8>) {
        let turn = |end: &[u8]| {
            let mut turned = end.to_vec();
            keycode::invert(&mut turned);
            // No class's keys begin with 00, so there is always a successor; 255 is past them all anyway.
            successor(&turned).unwrap_or_else(|| vec![0xff])
        };
        (turn(&self.to), turn(&self.from))
    }
}

/// The key bytes of a field's dates up to `last`.
pub(crate) fn dates_until(last: &RawBson, descending: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let interval = range(last, false, true, None)?.intervals.pop()?;
    Some(if descending {
        interval.descending()
    } else {
        (interval.from, interval.to)
    })
}

/// What `filter` says about the field at `path`, in keys of an index of the collation `by`; `None` when nothing that an
/// index could use. In a multikey field two predicates may be met by different elements of an array, so their bounds
/// must not be intersected there.
pub(crate) fn of_filter(filter: &Filter, path: &Path, multikey: bool, by: By<'_>) -> Option<Bounds> {
    match filter {
        Filter::Field { path: at, predicate } if at == path => of_predicate(path, predicate, multikey, by),
        Filter::And(all) => combine(
            all.iter()
                .filter_map(|filter| of_filter(filter, path, multikey, by)),
            multikey,
        ),
        Filter::Or(any) => Bounds::union(
            any.iter()
                .map(|filter| of_filter(filter, path, multikey, by))
                .collect::<Option<_>>()?,
        ),
        Filter::Expr { implied, .. } => of_filter(implied, path, multikey, by),
        Filter::AlwaysFalse => Some(Bounds::NOTHING),
        _ => None,
    }
}

/// Where a 2dsphere index has the places that `filter` asks for at `path`; `None` when it asks for none. With `leaves`
/// all its cells are leaves.
pub(crate) fn of_places(filter: &Filter, path: &Path, leaves: bool) -> Option<Bounds> {
    of_geo(filter, path, &|geo| Some(Bounds::cells(&geo.ranges(leaves)?)))
}

/// Where a 2d index of this grid has them.
pub(crate) fn of_flat_places(filter: &Filter, path: &Path, grid: &Grid) -> Option<Bounds> {
    of_geo(filter, path, &|geo| Some(Bounds::cells(&geo.flat_ranges(grid)?)))
}

fn of_geo(filter: &Filter, path: &Path, bounds: &dyn Fn(&Geo) -> Option<Bounds>) -> Option<Bounds> {
    fn of(predicate: &Predicate, bounds: &dyn Fn(&Geo) -> Option<Bounds>) -> Option<Bounds> {
        match predicate {
            Predicate::Geo(geo) => bounds(geo),
            Predicate::AllOf(all) => all.iter().find_map(|predicate| of(predicate, bounds)),
            _ => None,
        }
    }
    match filter {
        Filter::Field { path: at, predicate } if at == path => of(predicate, bounds),
        Filter::And(all) => all.iter().find_map(|filter| of_geo(filter, path, bounds)),
        _ => None,
    }
}

/// Whether each document that `filter` matches is one that `wanted`, the filter of a partial index, matches: told
/// only as far as it shows in the predicates of single fields.
pub(crate) fn implies(filter: &Filter, wanted: &Filter) -> bool {
    match wanted {
        Filter::AlwaysTrue => return true,
        Filter::And(all) => return all.iter().all(|wanted| implies(filter, wanted)),
        Filter::Or(any) if any.iter().any(|wanted| implies(filter, wanted)) => return true,
        _ => {}
    }
    match (filter, wanted) {
        (Filter::AlwaysFalse, _) => true,
        (Filter::And(all), _) => all.iter().any(|filter| implies(filter, wanted)),
        (Filter::Or(any), _) => any.iter().all(|filter| implies(filter, wanted)),
        (Filter::Expr { implied, .. }, _) => implies(implied, wanted),
        (
            Filter::Field { path, predicate },
            Filter::Field {
                path: at,
                predicate: wanted,
            },
        ) => path == at && predicate_implies(path, predicate, wanted),
        _ => false,
    }
}

fn predicate_implies(path: &Path, predicate: &Predicate, wanted: &Predicate) -> bool {
    if let Predicate::AllOf(all) = wanted {
        return all
            .iter()
            .all(|wanted| predicate_implies(path, predicate, wanted));
    }
    if let Predicate::AllOf(all) = predicate {
        return all
            .iter()
            .any(|predicate| predicate_implies(path, predicate, wanted));
    }
    match (predicate, wanted) {
        (Predicate::Never, _) => true,
        (
            Predicate::Exists(true) | Predicate::Type(_) | Predicate::Size(_) | Predicate::Geo(_),
            Predicate::Exists(true),
        ) => true,
        (_, Predicate::Exists(true)) => {
            of_predicate(path, uncollated(predicate), true, None).is_some_and(|bounds| bounds.exists)
        }
        (
            Predicate::Collated { test, collation },
            Predicate::Collated {
                test: wanted,
                collation: other,
            },
        ) => {
            let by = Some(collation);
            let bounds = of_comparison(test, by).zip(of_comparison(wanted, by));
            collation == other && bounds.is_some_and(|(bounds, wanted)| wanted.contains(&bounds))
        }
        (Predicate::Type(types), Predicate::Type(wanted)) => types.iter().all(|kind| wanted.contains(kind)),
        (Predicate::Eq(value), Predicate::Eq(wanted)) if matches!(value, RawBson::Array(_)) => {
            crate::value::compare(value.as_raw_bson_ref(), wanted.as_raw_bson_ref()).is_eq()
        }
        // Of these the bounds say exactly which values match.
        (
            _,
            Predicate::Eq(_)
            | Predicate::In { .. }
            | Predicate::Lt(_)
            | Predicate::Lte(_)
            | Predicate::Gt(_)
            | Predicate::Gte(_),
        ) => {
            let bounds = of_predicate(path, predicate, true, None);
            let wanted = of_predicate(path, wanted, true, None);
            bounds
                .zip(wanted)
                .is_some_and(|(bounds, wanted)| wanted.contains(&bounds))
        }
        _ => false,
    }
}

/// What the filter of an `$elemMatch` says about the field at `path` below one element. A nested array passes for an
/// element without fields there and for none in an index, so only what needs the field to be there counts.
pub(crate) fn of_element(filter: &Filter, path: &Path, by: By<'_>) -> Option<Bounds> {
    of_filter(filter, path, true, by).filter(|bounds| bounds.exists)
}

/// The `$elemMatch`es on documents that a condition of a filter makes, with their paths.
pub(crate) fn elements(filter: &Filter) -> Vec<(&Path, &Filter)> {
    fn of<'f>(path: &'f Path, predicate: &'f Predicate, found: &mut Vec<(&'f Path, &'f Filter)>) {
        match predicate {
            Predicate::ElemMatchDocument(filter) => found.push((path, filter)),
            Predicate::AllOf(all) => all.iter().for_each(|predicate| of(path, predicate, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    if let Filter::Field { path, predicate } = filter {
        of(path, predicate, &mut found);
    }
    found
}

/// Whether every document that `filter` matches has something at `path`.
pub(crate) fn implies_exists(filter: &Filter, path: &Path) -> bool {
    let wanted = Filter::Field {
        path: path.clone(),
        predicate: Predicate::Exists(true),
    };
    implies(filter, &wanted)
}

/// Whether the bounds that `filter` gives for the fields at `paths`, none of which ever meets an array, are met by the
/// documents that match and by no others.
pub(crate) fn is_exact(filter: &Filter, paths: &[&Path]) -> bool {
    match filter {
        Filter::AlwaysTrue | Filter::AlwaysFalse => true,
        Filter::Field { path, predicate } => paths.contains(&path) && is_exact_predicate(path, predicate),
        Filter::And(all) => all.iter().all(|filter| is_exact(filter, paths)),
        // Bounds of different fields are an intersection.
        Filter::Or(any) => paths.iter().any(|path| {
            any.iter().all(|filter| is_exact(filter, &[path]))
                && of_filter(filter, path, false, None).is_some()
        }),
        Filter::Nor(_) | Filter::Expr { .. } | Filter::Schema(_) => false,
    }
}

/// As [`is_exact`], for documents that `partial` matches.
pub(crate) fn is_exact_in(filter: &Filter, paths: &[&Path], partial: Option<&Filter>) -> bool {
    let within =
        |filter: &Filter| is_exact(filter, paths) || partial.is_some_and(|partial| implies(partial, filter));
    match filter {
        Filter::And(all) => all.iter().all(within),
        filter => within(filter),
    }
}

fn is_exact_predicate(path: &Path, predicate: &Predicate) -> bool {
    match predicate {
        Predicate::Eq(_) | Predicate::Lt(_) | Predicate::Lte(_) | Predicate::Gt(_) | Predicate::Gte(_) => {
            of_predicate(path, predicate, false, None).is_some()
        }
        Predicate::In { regexes, .. } => {
            regexes.is_empty() && of_predicate(path, predicate, false, None).is_some()
        }
        Predicate::AllOf(all) => all.iter().all(|predicate| is_exact_predicate(path, predicate)),
        Predicate::Never => true,
        _ => false,
    }
}

/// The comparison that is made under a collation, or the predicate itself.
fn uncollated(predicate: &Predicate) -> &Predicate {
    match predicate {
        Predicate::Collated { test, .. } => test,
        predicate => predicate,
    }
}

/// Where a comparison with values finds them in keys of the collation `by`, which is the comparison's own, or none of its
/// values has a string.
fn of_comparison(predicate: &Predicate, by: By<'_>) -> Option<Bounds> {
    match predicate {
        Predicate::Eq(value) => Bounds::point(value, by),
        Predicate::Lt(value) => range(value, false, false, by),
        Predicate::Lte(value) => range(value, false, true, by),
        Predicate::Gt(value) => range(value, true, false, by),
        Predicate::Gte(value) => range(value, true, true, by),
        Predicate::In { values, regexes } if values.len() + regexes.len() <= INTERVALS_MAX => {
            let points = values.iter().map(|value| Bounds::point(value, by));
            let prefixes = regexes.iter().map(|regex| match by {
                None => of_regex(regex),
                Some(_) => None,
            });
            Bounds::union(points.chain(prefixes).collect::<Option<_>>()?)
        }
        _ => None,
    }
}

/// Whether a comparison has a string among its values.
fn has_text(predicate: &Predicate) -> bool {
    let text = |value: &RawBson| holds_text(value.as_raw_bson_ref());
    match predicate {
        Predicate::Eq(value)
        | Predicate::Lt(value)
        | Predicate::Lte(value)
        | Predicate::Gt(value)
        | Predicate::Gte(value) => text(value),
        Predicate::In { values, .. } => values.iter().any(text),
        _ => false,
    }
}

fn of_predicate(path: &Path, predicate: &Predicate, multikey: bool, by: By<'_>) -> Option<Bounds> {
    match predicate {
        // Strings are where the comparison looks for them under the index's own collation only.
        Predicate::Collated { test, collation } if by == Some(collation) => of_comparison(test, by),
        Predicate::Eq(_)
        | Predicate::Lt(_)
        | Predicate::Lte(_)
        | Predicate::Gt(_)
        | Predicate::Gte(_)
        | Predicate::In { .. }
            if by.is_none() || !has_text(predicate) =>
        {
            of_comparison(predicate, by)
        }
        Predicate::Regex(regex) if by.is_none() => of_regex(regex),
        // One element meets all of them. An element that the path names by its position may be an array itself, whose
        // elements an index does not always have.
        Predicate::ElemMatchValue(all) if path.parts().iter().all(|part| part.index.is_none()) => combine(
            all.iter()
                .filter_map(|predicate| of_predicate(path, predicate, false, by)),
            false,
        )
        .map(|bounds| Bounds {
            exists: true,
            ..bounds
        }),

        Predicate::AllOf(all) => combine(
            all.iter()
                .filter_map(|predicate| of_predicate(path, predicate, multikey, by)),
            multikey,
        ),
        Predicate::Never => Some(Bounds::NOTHING),
        _ => None,
    }
}

fn of_regex(regex: &Regex) -> Option<Bounds> {
    let prefix = regex.literal_prefix().filter(|prefix| !prefix.is_empty())?;
    let (from, to) = keycode::string_prefix_range(prefix);
    let end = || End::Prefix(prefix.to_owned());
    let strings = Interval {
        from,
        to,
        point: false,
        lower: end(),
        upper: end(),
    };
    // A regex also matches itself as a value.
    let itself = Interval::point(&RawBson::from(regex.as_value()), None)?;
    Some(Bounds {
        intervals: vec![strings, itself],
        exists: true,
    })
}

/// All bounds hold: their intersection, or in a multikey field the best of them.
fn combine(all: impl Iterator<Item = Bounds>, multikey: bool) -> Option<Bounds> {
    if multikey {
        return all.min_by_key(|bounds| (!bounds.points(), bounds.intervals.len()));
    }
    all.reduce(|a, b| a.intersect(&b))
}

fn range(value: &RawBson, greater: bool, inclusive: bool, by: By<'_>) -> Option<Bounds> {
    match value {
        // Null also stands for missing, which only equality means; MinKey and MaxKey compare across types.
        RawBson::Null | RawBson::Undefined | RawBson::MinKey | RawBson::MaxKey | RawBson::Array(_) => {
            return None;
        }
        _ => {}
    }
    let (mut class_from, class_to) = keycode::class_range(value.as_raw_bson_ref());
    let not_a_number = RawBson::Double(f64::NAN);
    if is_nan(value.as_raw_bson_ref()) {
        // It compares with itself only.
        return if inclusive {
            Bounds::point(value, by)
        } else {
            Some(Bounds::NOTHING)
        };
    }
    if canonical_class(value.as_raw_bson_ref()) == canonical_class(not_a_number.as_raw_bson_ref()) {
        class_from = successor(&key(not_a_number.as_raw_bson_ref(), None))?;
    }
    let at = key(value.as_raw_bson_ref(), by);
    let past = successor(&at)?;
    let end = End::Value(value.clone(), inclusive);
    let (from, to, lower, upper) = match (greater, inclusive) {
        (true, true) => (at, class_to, end, End::Open),
        (true, false) => (past, class_to, end, End::Open),
        (false, true) => (class_from, past, End::Open, end),
        (false, false) => (class_from, at, End::Open, end),
    };
    let intervals = if from < to {
        vec![Interval {
            from,
            to,
            point: false,
            lower,
            upper,
        }]
    } else {
        Vec::new()
    };
    Some(Bounds {
        intervals,
        exists: true,
    })
}

fn key(value: RawBsonRef<'_>, by: By<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    collation::encode(&mut key, value, false, by);
    key
}
