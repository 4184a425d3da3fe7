//! Comparison and logic. Comparison is of all types with all, by the order of values; missing comes before null.

use std::cmp::Ordering;

use bson::RawBsonRef;

use super::{Arguments, Env, Operator, Value};
use crate::Result;
use crate::value::compare;

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$cmp",
        arguments: Arguments::Exactly(2),
        run: cmp,
    },
    Operator {
        name: "$eq",
        arguments: Arguments::Exactly(2),
        run: |env, _, a| Ok(Value::bool(order(env, a).is_eq())),
    },
    Operator {
        name: "$ne",
        arguments: Arguments::Exactly(2),
        run: |env, _, a| Ok(Value::bool(order(env, a).is_ne())),
    },
    Operator {
        name: "$gt",
        arguments: Arguments::Exactly(2),
        run: |env, _, a| Ok(Value::bool(order(env, a).is_gt())),
    },
    Operator {
        name: "$gte",
        arguments: Arguments::Exactly(2),
        run: |env, _, a| Ok(Value::bool(order(env, a).is_ge())),
    },
    Operator {
        name: "$lt",
        arguments: Arguments::Exactly(2),
        run: |env, _, a| Ok(Value::bool(order(env, a).is_lt())),
    },
    Operator {
        name: "$lte",
        arguments: Arguments::Exactly(2),
        run: |env, _, a| Ok(Value::bool(order(env, a).is_le())),
    },
    Operator {
        name: "$not",
        arguments: Arguments::Exactly(1),
        run: |_, _, a| Ok(Value::bool(!a[0].is_true())),
    },
];

/// The order of two values, either of which may be missing; strings by their bytes.
pub(super) fn order_of(a: &Value<'_>, b: &Value<'_>) -> Ordering {
    order_by(a, b, compare)
}

/// The order of two values, either of which may be missing, under the collation there is.
pub(super) fn collated_order(env: &Env<'_>, a: &Value<'_>, b: &Value<'_>) -> Ordering {
    match env.collation() {
        None => order_by(a, b, compare),
        Some(collation) => order_by(a, b, |a, b| collation.compare(a, b)),
    }
}

fn order_by(
    a: &Value<'_>,
    b: &Value<'_>,
    compare: impl Fn(RawBsonRef<'_>, RawBsonRef<'_>) -> Ordering,
) -> Ordering {
    match (a.get(), b.get()) {
        (Some(a), Some(b)) => compare(a, b),
        (None, None) => Ordering::Equal,
        (None, Some(b)) => missing_with(b),
        (Some(a), None) => missing_with(a).reverse(),
    }
}

/// Missing is before everything but MinKey, and not equal to undefined.
fn missing_with(other: RawBsonRef<'_>) -> Ordering {
    match other {
        RawBsonRef::MinKey => Ordering::Greater,
        _ => Ordering::Less,
    }
}

fn order(env: &Env<'_>, arguments: &[Value<'_>]) -> Ordering {
    collated_order(env, &arguments[0], &arguments[1])
}

fn cmp<'d>(env: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    Ok(Value::int(order(env, arguments) as i32))
}
