//! Operators on the value at a path's end: setting, arithmetic, bits. Those on arrays are in `array`.

use std::sync::Arc;

use bson::{RawBson, RawBsonRef};

use super::Now;
use super::array::{Pull, Push, add_to_set, pop, pull_all};
use super::path::UpdatePath;
use crate::collation::{Collation, compare};
use crate::decimal::Decimal;
use crate::value::{as_integer, is_number, shown, type_name};
use crate::{Code, Error, Result};

/// What is done with a value.
#[derive(Debug, Clone)]
pub(super) enum Operator {
    Set(RawBson),
    SetOnInsert(RawBson),
    Unset,
    /// The argument is a number.
    Inc(RawBson),
    /// The argument is a number.
    Mul(RawBson),
    Min(RawBson),
    Max(RawBson),
    CurrentDate {
        timestamp: bool,
    },
    /// To another path; carried out by the walk.
    Rename(UpdatePath),
    Push(Push),
    AddToSet(Vec<RawBson>),
    Pull(Pull),
    PullAll(Vec<RawBson>),
    Pop {
        first: bool,
    },
    /// The arguments are int32 or int64.
    Bit(Vec<(BitOperation, RawBson)>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum BitOperation {
    And,
    Or,
    Xor,
}

/// What becomes of a value.
#[derive(Debug)]
pub(super) enum Outcome {
    Keep,
    Replace(RawBson),
    /// The field goes; an array element becomes null.
    Remove,
}

impl Operator {
    /// Whether it makes the value when there is none.
    pub(super) fn creates(&self) -> bool {
        !matches!(
            self,
            Operator::Unset
                | Operator::Pull(_)
                | Operator::PullAll(_)
                | Operator::Pop { .. }
                | Operator::Rename(_)
        )
    }

    /// The path that it renames to.
    pub(super) fn renamed_to(&self) -> Option<&UpdatePath> {
        match self {
            Operator::Rename(path) => Some(path),
            _ => None,
        }
    }

    /// The value it makes when there is none.
    pub(super) fn initial(&self, now: Now, by: Option<&Arc<Collation>>) -> Result<Option<RawBson>> {
        Ok(match self {
            Operator::Set(v) | Operator::SetOnInsert(v) | Operator::Inc(v) => Some(v.clone()),
            Operator::Min(v) | Operator::Max(v) => Some(v.clone()),
            Operator::Mul(factor) => Some(product(
                zero_like(factor).as_raw_bson_ref(),
                factor.as_raw_bson_ref(),
            )?),
            Operator::CurrentDate { timestamp: true } => Some(RawBson::Timestamp(now.timestamp)),
            Operator::CurrentDate { timestamp: false } => Some(RawBson::DateTime(now.date)),
            Operator::Push(push) => Some(RawBson::Array(push.apply(&bson::RawArrayBuf::new(), by))),
            Operator::AddToSet(values) => {
                Some(RawBson::Array(add_to_set(&bson::RawArrayBuf::new(), values, by)))
            }
            Operator::Bit(operations) => Some(bits(RawBsonRef::Int32(0), operations)),
            Operator::Unset
            | Operator::Pull(_)
            | Operator::PullAll(_)
            | Operator::Pop { .. }
            | Operator::Rename(_) => None,
        })
    }

    /// What becomes of a value that is there; `path` is for messages.
    pub(super) fn apply(
        &self,
        v: RawBsonRef<'_>,
        path: &str,
        now: Now,
        by: Option<&Arc<Collation>>,
    ) -> Result<Outcome> {
        Ok(match self {
            Operator::Set(new) | Operator::SetOnInsert(new) => Outcome::Replace(new.clone()),
            Operator::Unset => Outcome::Remove,
            Operator::Rename(_) => Outcome::Keep,
            Operator::Inc(operand) => {
                Outcome::Replace(sum(numeric("$inc", v, path)?, operand.as_raw_bson_ref())?)
            }
            Operator::Mul(operand) => {
                Outcome::Replace(product(numeric("$mul", v, path)?, operand.as_raw_bson_ref())?)
            }
            Operator::Min(new) if compare(new.as_raw_bson_ref(), v, by).is_lt() => {
                Outcome::Replace(new.clone())
            }
            Operator::Max(new) if compare(new.as_raw_bson_ref(), v, by).is_gt() => {
                Outcome::Replace(new.clone())
            }
            Operator::Min(_) | Operator::Max(_) => Outcome::Keep,
            Operator::CurrentDate { .. } => self.initial(now, by)?.map_or(Outcome::Keep, Outcome::Replace),
            Operator::Bit(operations) => match v {
                RawBsonRef::Int32(_) | RawBsonRef::Int64(_) => Outcome::Replace(bits(v, operations)),
                v => {
                    let message = format!(
                        "cannot apply $bit to a value of non-integral type: field '{path}' is of type {}",
                        type_name(v)
                    );
                    return Err(Error::new(Code::BadValue, message));
                }
            },
            Operator::Push(_) | Operator::AddToSet(_) | Operator::Pull(_) | Operator::PullAll(_) => {
                self.apply_to_array(v, path, by)?
            }
            Operator::Pop { first } => match v {
                RawBsonRef::Array(array) => Outcome::Replace(RawBson::Array(pop(array, *first))),
                v => {
                    let message = format!(
                        "path '{path}' contains an element of non-array type '{}'",
                        type_name(v)
                    );
                    return Err(Error::new(Code::TypeMismatch, message));
                }
            },
        })
    }

    /// Makes the conditions in it compare strings under a collation.
    pub(super) fn collate(&mut self, collation: &Arc<Collation>) {
        match self {
            Operator::Push(push) => push.collate(collation),
            Operator::Pull(pull) => pull.collate(collation),
            _ => {}
        }
    }

    fn apply_to_array(&self, v: RawBsonRef<'_>, path: &str, by: Option<&Arc<Collation>>) -> Result<Outcome> {
        let RawBsonRef::Array(array) = v else {
            let message = format!(
                "the field '{path}' must be an array but is of type {}",
                type_name(v)
            );
            return Err(Error::new(Code::BadValue, message));
        };
        Ok(Outcome::Replace(RawBson::Array(match self {
            Operator::Push(push) => push.apply(array, by),
            Operator::AddToSet(values) => add_to_set(array, values, by),
            Operator::Pull(pull) => pull.apply(array, by),
            Operator::PullAll(values) => pull_all(array, values, by),
            _ => return Ok(Outcome::Keep),
        })))
    }
}

fn numeric<'v>(operator: &str, v: RawBsonRef<'v>, path: &str) -> Result<RawBsonRef<'v>> {
    if is_number(v) {
        return Ok(v);
    }
    let message = format!(
        "cannot apply {operator} to a value of non-numeric type: field '{path}' is of type {}",
        type_name(v)
    );
    Err(Error::new(Code::TypeMismatch, message))
}

fn zero_like(v: &RawBson) -> RawBson {
    match v {
        RawBson::Int64(_) => RawBson::Int64(0),
        RawBson::Double(_) => RawBson::Double(0.0),
        RawBson::Decimal128(_) => RawBson::Decimal128(Decimal::from_i64(0).pack()),
        _ => RawBson::Int32(0),
    }
}

fn sum(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Result<RawBson> {
    arithmetic(a, b, i64::checked_add, |a, b| a + b, Decimal::add).ok_or_else(|| overflow("$inc", a, b))
}

fn product(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Result<RawBson> {
    arithmetic(a, b, i64::checked_mul, |a, b| a * b, Decimal::multiply).ok_or_else(|| overflow("$mul", a, b))
}

fn overflow(operator: &str, a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Error {
    let message = format!(
        "failed to apply {operator} to {} with {}: the result is no 64-bit integer",
        shown(a),
        shown(b)
    );
    Error::new(Code::BadValue, message)
}

/// Computes in the wider type of the two: decimal, double, int64, int32 (which widens to int64 when it has to).
/// `None` when an int64 overflows.
fn arithmetic(
    a: RawBsonRef<'_>,
    b: RawBsonRef<'_>,
    integers: fn(i64, i64) -> Option<i64>,
    doubles: fn(f64, f64) -> f64,
    decimals: fn(Decimal, Decimal) -> Decimal,
) -> Option<RawBson> {
    Some(match (a, b) {
        (RawBsonRef::Decimal128(_), _) | (_, RawBsonRef::Decimal128(_)) => {
            RawBson::Decimal128(decimals(to_decimal(a), to_decimal(b)).pack())
        }
        (RawBsonRef::Double(_), _) | (_, RawBsonRef::Double(_)) => {
            RawBson::Double(doubles(to_f64(a), to_f64(b)))
        }
        (a, b) => {
            let result = integers(as_integer(a)?, as_integer(b)?)?;
            match (a, b, i32::try_from(result)) {
                (RawBsonRef::Int32(_), RawBsonRef::Int32(_), Ok(result)) => RawBson::Int32(result),
                _ => RawBson::Int64(result),
            }
        }
    })
}

fn to_decimal(v: RawBsonRef<'_>) -> Decimal {
    match v {
        RawBsonRef::Decimal128(d) => Decimal::unpack(d),
        RawBsonRef::Double(d) => Decimal::from_f64(d),
        v => Decimal::from_i64(as_integer(v).unwrap_or(0)),
    }
}

fn to_f64(v: RawBsonRef<'_>) -> f64 {
    match v {
        RawBsonRef::Double(d) => d,
        v => as_integer(v).unwrap_or(0) as f64,
    }
}

fn bits(v: RawBsonRef<'_>, operations: &[(BitOperation, RawBson)]) -> RawBson {
    let mut result: RawBson = v.into();
    for (operation, operand) in operations {
        let operand = operand.as_raw_bson_ref();
        let (Some(a), Some(b)) = (as_integer(result.as_raw_bson_ref()), as_integer(operand)) else {
            continue;
        };
        let bits = match operation {
            BitOperation::And => a & b,
            BitOperation::Or => a | b,
            BitOperation::Xor => a ^ b,
        };
        result = match (&result, operand) {
            (RawBson::Int32(_), RawBsonRef::Int32(_)) => RawBson::Int32(bits as i32),
            _ => RawBson::Int64(bits),
        };
    }
    result
}
