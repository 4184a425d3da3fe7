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
        run: |_, _, a| Ok(Value::bool(order(a).is_eq())),
    },
    Operator {
        name: "$ne",
        arguments: Arguments::Exactly(2),
        run: |_, _, a| Ok(Value::bool(order(a).is_ne())),
    },
    Operator {
        name: "$gt",
        arguments: Arguments::Exactly(2),
        run: |_, _, a| Ok(Value::bool(order(a).is_gt())),
    },
    Operator {
        name: "$gte",
        arguments: Arguments::Exactly(2),
        run: |_, _, a| Ok(Value::bool(order(a).is_ge())),
    },
    Operator {
        name: "$lt",
        arguments: Arguments::Exactly(2),
        run: |_, _, a| Ok(Value::bool(order(a).is_lt())),
    },
    Operator {
        name: "$lte",
        arguments: Arguments::Exactly(2),
        run: |_, _, a| Ok(Value::bool(order(a).is_le())),
    },
    Operator {
        name: "$not",
        arguments: Arguments::Exactly(1),
        run: |_, _, a| Ok(Value::bool(!a[0].is_true())),
    },
];

/// The order of two values, either of which may be missing.
pub(super) fn order_of(a: &Value<'_>, b: &Value<'_>) -> Ordering {
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

fn order(arguments: &[Value<'_>]) -> Ordering {
    order_of(&arguments[0], &arguments[1])
}

fn cmp<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    Ok(Value::int(order(arguments) as i32))
}
