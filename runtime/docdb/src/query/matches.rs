//! What filters and predicates mean for a document.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bson::spec::ElementType;
use bson::{RawArray, RawBson, RawBsonRef, RawDocument};

use super::{BitTest, Filter, Predicate};
use crate::Result;
use crate::collation::Collation;
use crate::decimal::Decimal;
use crate::expression::Env;
use crate::path::{Path, visit};
use crate::value::{as_object, as_whole, canonical_class, compare, elements, is_nan};

impl Filter {
    /// Whether the document matches; `position` becomes where in an array, if through one.
    pub(super) fn matches_at(&self, doc: &RawDocument, position: &mut Option<usize>) -> Result<bool> {
        let any = |parts: &[Filter]| {
            for part in parts {
                if part.matches_at(doc, &mut None)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match self {
            Filter::And(parts) => {
                for part in parts {
                    if !part.matches_at(doc, position)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Filter::Or(parts) => any(parts),
            Filter::Nor(parts) => any(parts).map(|any| !any),
            Filter::Field { path, predicate } => Ok(predicate.matches_path(doc, path, position)),
            Filter::Expr { expr, runtime, .. } => Ok(expr.eval(&mut Env::new(doc, runtime))?.is_true()),
            Filter::Schema(schema) => Ok(schema.accepts(doc)),
            Filter::AlwaysTrue => Ok(true),
            Filter::AlwaysFalse => Ok(false),
        }
    }
}

impl Predicate {
    fn matches_path(&self, doc: &RawDocument, path: &Path, position: &mut Option<usize>) -> bool {
        match self {
            Predicate::Not(inner) => !inner.matches_path(doc, path, &mut None),
            Predicate::AllOf(parts) => parts.iter().all(|part| part.matches_path(doc, path, position)),
            Predicate::Exists(false) => !Predicate::Exists(true).matches_path(doc, path, &mut None),
            Predicate::Never => false,
            _ => {
                let whole_arrays = matches!(
                    self,
                    Self::ElemMatchDocument(_) | Self::ElemMatchValue(_) | Self::Size(_)
                );
                let found = visit(doc, path, !whole_arrays, &mut |leaf| {
                    let mut inner = None;
                    if !self.matches_leaf(leaf.value, &mut inner) {
                        return ControlFlow::Continue(());
                    }
                    *position = leaf.array_index.or(inner).or(*position);
                    ControlFlow::Break(())
                });
                found.is_break()
            }
        }
    }

    /// Whether one value meets the predicate by itself, its elements not tried.
    pub(crate) fn matches_value(&self, v: RawBsonRef<'_>) -> bool {
        self.matches_leaf(Some(v), &mut None)
    }

    fn matches_leaf(&self, v: Option<RawBsonRef<'_>>, position: &mut Option<usize>) -> bool {
        let Some(value) = v else {
            return self.matches_missing();
        };
        match self {
            Predicate::Eq(wanted) => compare(value, wanted.as_raw_bson_ref()).is_eq(),
            Predicate::Lt(bound) => in_bracket(value, bound, |o| o.is_lt(), false),
            Predicate::Lte(bound) => in_bracket(value, bound, |o| o.is_le(), true),
            Predicate::Gt(bound) => in_bracket(value, bound, |o| o.is_gt(), false),
            Predicate::Gte(bound) => in_bracket(value, bound, |o| o.is_ge(), true),
            Predicate::In { values, regexes } => {
                values
                    .binary_search_by(|wanted| compare(wanted.as_raw_bson_ref(), value))
                    .is_ok()
                    || regexes.iter().any(|regex| regex.matches(value))
            }
            Predicate::Not(inner) => !inner.matches_leaf(v, &mut None),
            Predicate::Exists(wanted) => *wanted,
            Predicate::Type(types) => types.contains(&value.element_type()),
            Predicate::Regex(regex) => regex.matches(value),
            Predicate::ElemMatchDocument(filter) => first_element(value, position, |element| {
                as_object(element).is_some_and(|object| filter.matches(object))
            }),
            Predicate::ElemMatchValue(parts) => first_element(value, position, |element| {
                parts.iter().all(|part| part.matches_value(element))
            }),
            Predicate::Size(wanted) => value
                .as_array()
                .is_some_and(|array| elements(array).count() as u64 == *wanted),
            Predicate::Mod { divisor, remainder } => {
                whole_part(value).is_some_and(|whole| whole.wrapping_rem(*divisor) == *remainder)
            }
            Predicate::Bits { test, positions } => bits_match(value, *test, positions),
            Predicate::Geo(geo) => geo.matches(value),
            Predicate::AllOf(parts) => parts.iter().all(|part| part.matches_leaf(v, &mut None)),
            Predicate::Never => false,
            Predicate::Collated { test, collation } => test.matches_collated(value, collation),
        }
    }

    /// Whether a value meets a comparison with what is or holds strings.
    fn matches_collated(&self, value: RawBsonRef<'_>, collation: &Collation) -> bool {
        let order = |bound: &RawBson| {
            let bound = bound.as_raw_bson_ref();
            (canonical_class(value) == canonical_class(bound)).then(|| collation.compare(value, bound))
        };
        match self {
            Predicate::Eq(wanted) => order(wanted).is_some_and(Ordering::is_eq),
            Predicate::Lt(bound) => order(bound).is_some_and(Ordering::is_lt),
            Predicate::Lte(bound) => order(bound).is_some_and(Ordering::is_le),
            Predicate::Gt(bound) => order(bound).is_some_and(Ordering::is_gt),
            Predicate::Gte(bound) => order(bound).is_some_and(Ordering::is_ge),
            Predicate::In { values, regexes } => {
                values
                    .binary_search_by(|wanted| collation.compare(wanted.as_raw_bson_ref(), value))
                    .is_ok()
                    || regexes.iter().any(|regex| regex.matches(value))
            }
            _ => false,
        }
    }

    fn matches_missing(&self) -> bool {
        match self {
            Predicate::Eq(v) | Predicate::Lte(v) | Predicate::Gte(v) if *v == RawBson::Null => true,
            Predicate::Lt(v) | Predicate::Lte(v) => *v == RawBson::MaxKey,
            Predicate::Gt(v) | Predicate::Gte(v) => *v == RawBson::MinKey,
            Predicate::In { values, .. } => values.contains(&RawBson::Null),
            Predicate::Not(inner) => !inner.matches_missing(),
            Predicate::Exists(wanted) => !*wanted,
            Predicate::AllOf(parts) => parts.iter().all(Predicate::matches_missing),
            Predicate::Collated { test, .. } => test.matches_missing(),
            _ => false,
        }
    }
}

/// Compares within the bound's class; MinKey and MaxKey compare with all classes. NaN is only ever equal to NaN.
fn in_bracket(v: RawBsonRef<'_>, bound: &RawBson, wanted: fn(Ordering) -> bool, or_equal: bool) -> bool {
    let bound = bound.as_raw_bson_ref();
    let everything = matches!(bound, RawBsonRef::MinKey | RawBsonRef::MaxKey);
    if !everything && canonical_class(v) != canonical_class(bound) {
        return false;
    }
    match (is_nan(v), is_nan(bound)) {
        (true, true) => or_equal,
        (true, false) if everything => wanted(compare(v, bound)),
        (false, false) => wanted(compare(v, bound)),
        _ => false,
    }
}

fn first_element(
    v: RawBsonRef<'_>,
    position: &mut Option<usize>,
    wanted: impl Fn(RawBsonRef<'_>) -> bool,
) -> bool {
    let found = v
        .as_array()
        .and_then(|array: &RawArray| elements(array).position(wanted));
    if found.is_some() {
        *position = found;
    }
    found.is_some()
}

/// A number without its fraction, when that is a 64-bit number.
fn whole_part(v: RawBsonRef<'_>) -> Option<i64> {
    match v {
        RawBsonRef::Double(d) => as_whole(RawBsonRef::Double(d.trunc())),
        RawBsonRef::Decimal128(d) => match Decimal::unpack(d) {
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            } if exponent < 0 => {
                let power = 10u128.checked_pow(exponent.unsigned_abs());
                let whole = i128::try_from(power.map_or(0, |power| coefficient / power)).ok()?;
                i64::try_from(if negative { -whole } else { whole }).ok()
            }
            _ => as_whole(v),
        },
        v => as_whole(v),
    }
}

fn bits_match(v: RawBsonRef<'_>, test: BitTest, positions: &[u32]) -> bool {
    let is_set = |position: u32| -> Option<bool> {
        if let RawBsonRef::Binary(binary) = v {
            let byte = binary.bytes.get(position as usize / 8).copied().unwrap_or(0);
            return Some(byte >> (position % 8) & 1 == 1);
        }
        // Numbers are two's complement, their sign going on for ever.
        Some(as_whole(v)? >> position.min(63) & 1 == 1)
    };
    if is_set(0).is_none() || v.element_type() == ElementType::Array {
        return false;
    }
    let set = |position: &u32| is_set(*position) == Some(true);
    match test {
        BitTest::AllSet => positions.iter().all(set),
        BitTest::AnySet => positions.iter().any(set),
        BitTest::AllClear => !positions.iter().any(set),
        BitTest::AnyClear => !positions.iter().all(set),
    }
}
