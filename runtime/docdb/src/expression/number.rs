//! Numbers in arithmetic: the four types, how one becomes another, and sums that lose nothing they need not.

use bson::{RawBson, RawBsonRef};

use super::value::Value;
use crate::decimal::Decimal;

/// A number of one of BSON's four types.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Int32(i32),
    Int64(i64),
    Double(f64),
    Decimal(Decimal),
}

impl Number {
    pub(crate) fn of(v: RawBsonRef<'_>) -> Option<Number> {
        match v {
            RawBsonRef::Int32(v) => Some(Number::Int32(v)),
            RawBsonRef::Int64(v) => Some(Number::Int64(v)),
            RawBsonRef::Double(v) => Some(Number::Double(v)),
            RawBsonRef::Decimal128(v) => Some(Number::Decimal(Decimal::unpack(v))),
            _ => None,
        }
    }

    pub(crate) fn of_value(v: &Value<'_>) -> Option<Number> {
        v.get().and_then(Number::of)
    }

    pub(crate) fn raw(self) -> RawBson {
        match self {
            Number::Int32(v) => RawBson::Int32(v),
            Number::Int64(v) => RawBson::Int64(v),
            Number::Double(v) => RawBson::Double(v),
            Number::Decimal(v) => RawBson::Decimal128(v.pack()),
        }
    }

    pub(crate) fn value<'d>(self) -> Value<'d> {
        Value::Borrowed(match self {
            Number::Int32(v) => RawBsonRef::Int32(v),
            Number::Int64(v) => RawBsonRef::Int64(v),
            Number::Double(v) => RawBsonRef::Double(v),
            Number::Decimal(v) => RawBsonRef::Decimal128(v.pack()),
        })
    }

    /// An int32 if it was made of such and fits, else an int64.
    pub(crate) fn integer(v: i64, narrow: bool) -> Number {
        match i32::try_from(v) {
            Ok(v) if narrow => Number::Int32(v),
            _ => Number::Int64(v),
        }
    }

    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Number::Int32(v) => f64::from(v),
            Number::Int64(v) => v as f64,
            Number::Double(v) => v,
            Number::Decimal(v) => v.to_f64(),
        }
    }

    pub(crate) fn to_decimal(self) -> Decimal {
        match self {
            Number::Int32(v) => Decimal::from_i64(v.into()),
            Number::Int64(v) => Decimal::from_i64(v),
            Number::Double(v) => Decimal::from_f64(v),
            Number::Decimal(v) => v,
        }
    }

    pub(crate) fn as_integer(self) -> Option<i64> {
        match self {
            Number::Int32(v) => Some(v.into()),
            Number::Int64(v) => Some(v),
            _ => None,
        }
    }

    pub(crate) fn is_decimal(self) -> bool {
        matches!(self, Number::Decimal(_))
    }

    pub(crate) fn is_int32(self) -> bool {
        matches!(self, Number::Int32(_))
    }

    pub(crate) fn is_nan(self) -> bool {
        match self {
            Number::Double(v) => v.is_nan(),
            Number::Decimal(v) => v == Decimal::Nan,
            _ => false,
        }
    }

    pub(crate) fn is_zero(self) -> bool {
        match self {
            Number::Int32(v) => v == 0,
            Number::Int64(v) => v == 0,
            Number::Double(v) => v == 0.0,
            Number::Decimal(v) => v.is_zero(),
        }
    }

    pub(crate) fn is_positive(self) -> bool {
        match self {
            Number::Decimal(v) => v != Decimal::Nan && !v.is_zero() && !v.is_negative(),
            v => v.to_f64() > 0.0,
        }
    }

    /// What is left of a division by a number that is not zero, with the sign of this one.
    pub(crate) fn remainder(self, by: Number) -> Number {
        match (self.as_integer(), by.as_integer()) {
            _ if self.is_decimal() || by.is_decimal() => {
                Number::Decimal(self.to_decimal().remainder(by.to_decimal()))
            }
            (Some(m), Some(n)) => Number::integer(m.wrapping_rem(n), self.is_int32() && by.is_int32()),
            _ => Number::Double(self.to_f64() % by.to_f64()),
        }
    }

    /// The number without its fraction, if that is a number of 64 bits.
    pub(crate) fn truncated(self) -> Option<i64> {
        match self {
            Number::Int32(v) => Some(v.into()),
            Number::Int64(v) => Some(v),
            Number::Double(v) => (v.abs() < 9_223_372_036_854_775_808.0 || v == -9_223_372_036_854_775_808.0)
                .then_some(v as i64),
            Number::Decimal(v) => v.to_i64(),
        }
    }
}

/// A sum in the making: integers exactly, doubles with the error of each step carried along, so that the order of
/// the numbers matters little; the result has the widest type that was added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sum {
    integers: i128,
    doubles: f64,
    /// What `doubles` lost to rounding.
    lost: f64,
    /// Whether NaN or an infinity was added, after which nothing is lost.
    special: bool,
    decimals: Option<Decimal>,
    has_int64: bool,
    has_double: bool,
    pub(crate) count: i64,
}

impl Sum {
    pub(crate) fn add(&mut self, v: Number) {
        self.count += 1;
        match v {
            Number::Int32(v) => self.integers += i128::from(v),
            Number::Int64(v) => {
                self.has_int64 = true;
                self.integers += i128::from(v);
            }
            Number::Double(v) => {
                self.has_double = true;
                self.add_double(v);
            }
            Number::Decimal(v) => {
                self.decimals = Some(match self.decimals {
                    None => v,
                    Some(sum) => sum.add(v),
                });
            }
        }
    }

    fn add_double(&mut self, v: f64) {
        self.special |= !v.is_finite();
        let sum = self.doubles + v;
        // Knuth's two-sum: what the addition rounded off, exactly.
        let virtual_part = sum - self.doubles;
        self.lost += (self.doubles - (sum - virtual_part)) + (v - virtual_part);
        self.doubles = sum;
    }

    /// The sum of integers and doubles as a double.
    fn double(&self) -> f64 {
        let mut total = self.clone();
        // In two parts that doubles hold exactly, as long as there are fewer than 2^43 int64s.
        let low = self.integers & 0xffff_ffff;
        total.add_double((self.integers - low) as f64);
        total.add_double(low as f64);
        if total.special || !total.doubles.is_finite() {
            total.doubles
        } else {
            total.doubles + total.lost
        }
    }

    fn decimal(&self) -> Option<Decimal> {
        let mut total = self.decimals?;
        if self.integers != 0 {
            let integers = match i64::try_from(self.integers) {
                Ok(v) => Decimal::from_i64(v),
                Err(_) => Decimal::from_f64(self.integers as f64),
            };
            total = total.add(integers);
        }
        if self.has_double {
            let doubles = if self.special {
                self.doubles
            } else {
                self.doubles + self.lost
            };
            total = total.add(Decimal::from_f64(doubles));
        }
        Some(total)
    }

    /// The sum: int32 or int64 if nothing else was added and it fits, else a double; a decimal if one was added.
    pub(crate) fn total(&self) -> Number {
        if let Some(total) = self.decimal() {
            return Number::Decimal(total);
        }
        if self.has_double {
            return Number::Double(self.double());
        }
        match i64::try_from(self.integers) {
            Ok(v) => Number::integer(v, !self.has_int64),
            Err(_) => Number::Double(self.integers as f64),
        }
    }

    /// The mean, a double or a decimal; nothing of no numbers.
    pub(crate) fn mean(&self) -> Option<Number> {
        if self.count == 0 {
            return None;
        }
        Some(match self.decimal() {
            Some(total) => Number::Decimal(total.divide(Decimal::from_i64(self.count))),
            None => Number::Double(self.double() / self.count as f64),
        })
    }
}
