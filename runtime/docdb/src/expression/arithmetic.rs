//! Arithmetic. The result has the wider type of the arguments: an int32 that does not fit becomes an int64, an int64
//! that does not fit a double. Null and missing arguments make the result null.

use bson::RawBsonRef;

use super::eval::int32;
use super::number::{Number, Sum};
use super::{Arguments, Env, Operator, Value, location};
use crate::decimal::{Decimal, Rounding};
use crate::{Code, Error, Result};

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$add",
        arguments: Arguments::AtLeast(0),
        run: add,
    },
    Operator {
        name: "$subtract",
        arguments: Arguments::Exactly(2),
        run: subtract,
    },
    Operator {
        name: "$multiply",
        arguments: Arguments::AtLeast(0),
        run: multiply,
    },
    Operator {
        name: "$divide",
        arguments: Arguments::Exactly(2),
        run: divide,
    },
    Operator {
        name: "$mod",
        arguments: Arguments::Exactly(2),
        run: modulo,
    },
    Operator {
        name: "$abs",
        arguments: Arguments::Exactly(1),
        run: abs,
    },
    Operator {
        name: "$ceil",
        arguments: Arguments::Exactly(1),
        run: |e, n, a| whole(e, n, a, Rounding::Ceiling),
    },
    Operator {
        name: "$floor",
        arguments: Arguments::Exactly(1),
        run: |e, n, a| whole(e, n, a, Rounding::Floor),
    },
    Operator {
        name: "$round",
        arguments: Arguments::Between(1, 2),
        run: |_, n, a| places(n, a, Rounding::HalfEven),
    },
    Operator {
        name: "$trunc",
        arguments: Arguments::Between(1, 2),
        run: |_, n, a| places(n, a, Rounding::Down),
    },
    Operator {
        name: "$pow",
        arguments: Arguments::Exactly(2),
        run: pow,
    },
    Operator {
        name: "$sqrt",
        arguments: Arguments::Exactly(1),
        run: sqrt,
    },
    Operator {
        name: "$exp",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::exp, |_| true),
    },
    Operator {
        name: "$ln",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| logarithm(n, a, 28_766, f64::ln),
    },
    Operator {
        name: "$log10",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| logarithm(n, a, 28_761, f64::log10),
    },
    Operator {
        name: "$log",
        arguments: Arguments::Exactly(2),
        run: log,
    },
    Operator {
        name: "$sin",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::sin, f64::is_finite),
    },
    Operator {
        name: "$cos",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::cos, f64::is_finite),
    },
    Operator {
        name: "$tan",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::tan, f64::is_finite),
    },
    Operator {
        name: "$asin",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::asin, |v| v.abs() <= 1.0),
    },
    Operator {
        name: "$acos",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::acos, |v| v.abs() <= 1.0),
    },
    Operator {
        name: "$atan",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::atan, |_| true),
    },
    Operator {
        name: "$sinh",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::sinh, |_| true),
    },
    Operator {
        name: "$cosh",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::cosh, |_| true),
    },
    Operator {
        name: "$tanh",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::tanh, |_| true),
    },
    Operator {
        name: "$asinh",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::asinh, |_| true),
    },
    Operator {
        name: "$acosh",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::acosh, |v| v >= 1.0),
    },
    Operator {
        name: "$atanh",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::atanh, |v| v.abs() <= 1.0),
    },
    Operator {
        name: "$degreesToRadians",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::to_radians, |_| true),
    },
    Operator {
        name: "$radiansToDegrees",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| unary(n, a, f64::to_degrees, |_| true),
    },
    Operator {
        name: "$atan2",
        arguments: Arguments::Exactly(2),
        run: atan2,
    },
    Operator {
        name: "$bitAnd",
        arguments: Arguments::AtLeast(0),
        run: |_, n, a| bits(n, a, -1, |x, y| x & y),
    },
    Operator {
        name: "$bitOr",
        arguments: Arguments::AtLeast(0),
        run: |_, n, a| bits(n, a, 0, |x, y| x | y),
    },
    Operator {
        name: "$bitXor",
        arguments: Arguments::AtLeast(0),
        run: |_, n, a| bits(n, a, 0, |x, y| x ^ y),
    },
    Operator {
        name: "$bitNot",
        arguments: Arguments::Exactly(1),
        run: bit_not,
    },
];

fn mismatch(message: String) -> Error {
    Error::new(Code::TypeMismatch, message)
}

/// An argument that has to be a number, or null.
fn number(v: &Value<'_>, name: &str) -> Result<Option<Number>> {
    if v.is_nullish() {
        return Ok(None);
    }
    Number::of_value(v).map(Some).ok_or_else(|| {
        location(
            28_765,
            format!("{name} only supports numeric types, not {}", v.type_name()),
        )
    })
}

fn date_of(v: &Value<'_>) -> Option<i64> {
    match v.get() {
        Some(RawBsonRef::DateTime(v)) => Some(v.timestamp_millis()),
        _ => None,
    }
}

/// Milliseconds as a date's distance: rounded, in range.
fn millis(v: Number) -> Option<i64> {
    match v {
        Number::Double(v) => Number::Double(v.round()).truncated(),
        Number::Decimal(v) => v.to_places(0, Rounding::HalfEven).to_i64(),
        v => v.as_integer(),
    }
}

fn date_overflow() -> Error {
    Error::new(Code::Overflow, "date overflow")
}

fn add<'d>(env: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut sum = Sum::default();
    let mut date = None;
    for v in arguments {
        env.step()?;
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        if let Some(v) = date_of(v) {
            if date.replace(v).is_some() {
                return Err(location(16_612, "only one date allowed in an $add expression"));
            }
            continue;
        }
        let number = Number::of_value(v);
        sum.add(number.ok_or_else(|| {
            mismatch(format!(
                "$add only supports numeric or date types, not {}",
                v.type_name()
            ))
        })?);
    }
    match date {
        None => Ok(sum.total().value()),
        Some(date) => {
            let by = millis(sum.total()).ok_or_else(date_overflow)?;
            date.checked_add(by).map(Value::date).ok_or_else(date_overflow)
        }
    }
}

fn subtract<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (a, b) = (&arguments[0], &arguments[1]);
    if a.is_nullish() || b.is_nullish() {
        return Ok(Value::NULL);
    }
    let refused = || {
        mismatch(format!(
            "can't $subtract {} from {}",
            b.type_name(),
            a.type_name()
        ))
    };
    if let Some(date) = date_of(a) {
        return match (date_of(b), Number::of_value(b)) {
            (Some(other), _) => {
                let apart = date.checked_sub(other).ok_or_else(date_overflow)?;
                Ok(Value::Borrowed(RawBsonRef::Int64(apart)))
            }
            (_, Some(by)) => {
                let by = millis(by).ok_or_else(date_overflow)?;
                date.checked_sub(by).map(Value::date).ok_or_else(date_overflow)
            }
            _ => Err(refused()),
        };
    }
    let (Some(a), Some(b)) = (Number::of_value(a), Number::of_value(b)) else {
        return Err(refused());
    };
    Ok(minus(a, b).value())
}

/// The difference of two numbers.
pub(super) fn minus(a: Number, b: Number) -> Number {
    match (a.as_integer(), b.as_integer()) {
        _ if a.is_decimal() || b.is_decimal() => {
            Number::Decimal(a.to_decimal().add(b.to_decimal().negated()))
        }
        (Some(x), Some(y)) => match x.checked_sub(y) {
            Some(v) => Number::integer(v, a.is_int32() && b.is_int32()),
            None => Number::Double(x as f64 - y as f64),
        },
        _ => Number::Double(a.to_f64() - b.to_f64()),
    }
}

/// The product of two numbers.
pub(super) fn times(a: Number, b: Number) -> Number {
    match (a.as_integer(), b.as_integer()) {
        _ if a.is_decimal() || b.is_decimal() => Number::Decimal(a.to_decimal().multiply(b.to_decimal())),
        (Some(x), Some(y)) => match x.checked_mul(y) {
            Some(v) => Number::integer(v, a.is_int32() && b.is_int32()),
            None => Number::Double(x as f64 * y as f64),
        },
        _ => Number::Double(a.to_f64() * b.to_f64()),
    }
}

fn multiply<'d>(env: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut product = Number::Int32(1);
    for v in arguments {
        env.step()?;
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        let number = Number::of_value(v);
        let number = number.ok_or_else(|| {
            mismatch(format!(
                "$multiply only supports numeric types, not {}",
                v.type_name()
            ))
        })?;
        product = times(product, number);
    }
    Ok(product.value())
}

fn divide<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (a, b) = (&arguments[0], &arguments[1]);
    if a.is_nullish() || b.is_nullish() {
        return Ok(Value::NULL);
    }
    let (Some(x), Some(y)) = (Number::of_value(a), Number::of_value(b)) else {
        let (a, b) = (a.type_name(), b.type_name());
        return Err(mismatch(format!(
            "$divide only supports numeric types, not {a} and {b}"
        )));
    };
    if y.is_zero() {
        return Err(Error::new(Code::BadValue, "can't $divide by zero"));
    }
    Ok(if x.is_decimal() || y.is_decimal() {
        Number::Decimal(x.to_decimal().divide(y.to_decimal())).value()
    } else {
        Number::Double(x.to_f64() / y.to_f64()).value()
    })
}

fn modulo<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (a, b) = (&arguments[0], &arguments[1]);
    if a.is_nullish() || b.is_nullish() {
        return Ok(Value::NULL);
    }
    let (Some(x), Some(y)) = (Number::of_value(a), Number::of_value(b)) else {
        let (a, b) = (a.type_name(), b.type_name());
        return Err(location(
            16_611,
            format!("$mod only supports numeric types, not {a} and {b}"),
        ));
    };
    if y.is_zero() {
        return Err(location(16_610, "can't $mod by zero"));
    }
    Ok(x.remainder(y).value())
}

fn abs<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let Some(v) = number(&arguments[0], name)? else {
        return Ok(Value::NULL);
    };
    Ok(match v {
        Number::Int32(v) => Number::integer(i64::from(v).abs(), true),
        Number::Int64(v) => Number::Int64(
            v.checked_abs()
                .ok_or_else(|| location(28_680, "can't take $abs of long long min"))?,
        ),
        Number::Double(v) => Number::Double(v.abs()),
        Number::Decimal(v) if v.is_negative() => Number::Decimal(v.negated()),
        v => v,
    }
    .value())
}

fn whole<'d>(
    _: &mut Env<'d>,
    name: &'static str,
    arguments: &[Value<'d>],
    rounding: Rounding,
) -> Result<Value<'d>> {
    let Some(v) = number(&arguments[0], name)? else {
        return Ok(Value::NULL);
    };
    Ok(match v {
        Number::Double(v) if rounding == Rounding::Ceiling => Number::Double(v.ceil()),
        Number::Double(v) => Number::Double(v.floor()),
        Number::Decimal(v) => Number::Decimal(v.to_places(0, rounding)),
        v => v,
    }
    .value())
}

fn places<'d>(name: &'static str, arguments: &[Value<'d>], rounding: Rounding) -> Result<Value<'d>> {
    let v = &arguments[0];
    if v.is_nullish() || arguments.get(1).is_some_and(Value::is_nullish) {
        return Ok(Value::NULL);
    }
    let Some(number) = Number::of_value(v) else {
        let message = format!("{name} only supports numeric types, not {}", v.type_name());
        return Err(location(51_081, message));
    };
    let places = match arguments.get(1) {
        None => 0,
        Some(places) => int32(places).ok_or_else(|| {
            location(
                51_082,
                format!("precision argument to {name} must be an integral value"),
            )
        })?,
    };
    if !(-20..=100).contains(&places) {
        let message =
            format!("cannot apply {name} with precision value {places}, which must be in [-20, 100]");
        return Err(location(51_083, message));
    }
    Ok(rounded(number, places, rounding)?.value())
}

fn rounded(v: Number, places: i32, rounding: Rounding) -> Result<Number> {
    let decimal = |v: Decimal| v.to_places(places, rounding);
    Ok(match v {
        Number::Double(v) if !v.is_finite() => Number::Double(v),
        // By the double's exact value, which decimal text of all its digits gives.
        Number::Double(v) => {
            let text = match rounding {
                Rounding::Down if places >= 0 => {
                    let power = 10f64.powi(places);
                    let scaled = (v * power).trunc() / power;
                    return Ok(Number::Double(if places == 0 {
                        v.trunc()
                    } else if scaled.is_finite() {
                        scaled
                    } else {
                        v
                    }));
                }
                _ if places >= 0 => format!("{v:.*}", places as usize),
                _ => return Ok(Number::Double(decimal(Decimal::from_f64(v)).to_f64())),
            };
            Number::Double(text.parse().unwrap_or(v))
        }
        Number::Decimal(v) => Number::Decimal(decimal(v)),
        v if places >= 0 => v,
        v => {
            let narrow = v.is_int32();
            let whole = decimal(v.to_decimal())
                .to_i64()
                .ok_or_else(|| location(51_080, "invalid conversion to long during $round"))?;
            Number::integer(whole, narrow)
        }
    })
}

fn pow<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (a, b) = (&arguments[0], &arguments[1]);
    if a.is_nullish() || b.is_nullish() {
        return Ok(Value::NULL);
    }
    let base = Number::of_value(a).ok_or_else(|| {
        location(
            28_762,
            format!("$pow's base must be numeric, not {}", a.type_name()),
        )
    })?;
    let exponent = Number::of_value(b).ok_or_else(|| {
        location(
            28_763,
            format!("$pow's exponent must be numeric, not {}", b.type_name()),
        )
    })?;
    if base.is_zero() && exponent.to_f64() < 0.0 {
        return Err(location(
            28_764,
            "$pow cannot take a base of 0 and a negative exponent",
        ));
    }
    if base.is_decimal() || exponent.is_decimal() {
        return Ok(Number::Decimal(decimal_power(base.to_decimal(), exponent.to_decimal())).value());
    }
    if let (Some(m), Some(n)) = (base.as_integer(), exponent.as_integer())
        && let Some(power) = u32::try_from(n).ok().and_then(|n| m.checked_pow(n))
    {
        let narrow = base.is_int32() && exponent.is_int32();
        return Ok(Number::integer(power, narrow).value());
    }
    let power = base.to_f64().powf(exponent.to_f64());
    let narrow = base.is_int32() && exponent.is_int32();
    // 1 and -1 to any power, and fractions of integers, which are cut off to integers.
    if let (Some(m), Some(_)) = (base.as_integer(), exponent.as_integer())
        && m.abs() == 1
    {
        return Ok(Number::integer(power as i64, narrow).value());
    }
    Ok(Number::Double(power).value())
}

/// Whole powers by multiplication; others by way of doubles, to 15 digits.
fn decimal_power(base: Decimal, exponent: Decimal) -> Decimal {
    let whole = exponent.to_i64().filter(|whole| {
        crate::decimal::Place::of_decimal(exponent) == crate::decimal::Place::of_i64(*whole)
            && whole.abs() < 100_000
    });
    let Some(whole) = whole else {
        return Decimal::from_f64(base.to_f64().powf(exponent.to_f64()));
    };
    let (mut power, mut square, mut left) = (Decimal::from_i64(1), base, whole.unsigned_abs());
    while left > 0 {
        if left & 1 == 1 {
            power = power.multiply(square);
        }
        left >>= 1;
        if left > 0 {
            square = square.multiply(square);
        }
    }
    if whole < 0 {
        Decimal::from_i64(1).divide(power)
    } else {
        power
    }
}

fn sqrt<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let Some(v) = number(&arguments[0], name)? else {
        return Ok(Value::NULL);
    };
    if !v.is_nan() && v.to_f64() < 0.0 {
        return Err(location(
            28_714,
            "$sqrt's argument must be greater than or equal to 0",
        ));
    }
    Ok(match v {
        Number::Decimal(v) => Number::Decimal(v.square_root()),
        v => Number::Double(v.to_f64().sqrt()),
    }
    .value())
}

/// A function of doubles; a decimal's result is of 15 digits.
fn unary<'d>(
    name: &'static str,
    arguments: &[Value<'d>],
    function: fn(f64) -> f64,
    allowed: fn(f64) -> bool,
) -> Result<Value<'d>> {
    let Some(v) = number(&arguments[0], name)? else {
        return Ok(Value::NULL);
    };
    let argument = v.to_f64();
    if !argument.is_nan() && !allowed(argument) {
        let message = format!("cannot apply {name} to {argument}, which is outside of its range");
        return Err(location(50_989, message));
    }
    let result = function(argument);
    Ok(if v.is_decimal() {
        Number::Decimal(Decimal::from_f64(result)).value()
    } else {
        Number::Double(result).value()
    })
}

fn logarithm<'d>(
    name: &'static str,
    arguments: &[Value<'d>],
    refused: i32,
    function: fn(f64) -> f64,
) -> Result<Value<'d>> {
    if let Some(v) = number(&arguments[0], name)?
        && !v.is_nan()
        && v.to_f64() <= 0.0
    {
        let message = format!(
            "{name}'s argument must be a positive number, but is {}",
            v.to_f64()
        );
        return Err(location(refused, message));
    }
    unary(name, arguments, function, |_| true)
}

fn log<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (a, b) = (&arguments[0], &arguments[1]);
    if a.is_nullish() || b.is_nullish() {
        return Ok(Value::NULL);
    }
    let number = Number::of_value(a).ok_or_else(|| {
        location(
            28_756,
            format!("$log's argument must be numeric, not {}", a.type_name()),
        )
    })?;
    let base = Number::of_value(b).ok_or_else(|| {
        location(
            28_757,
            format!("$log's base must be numeric, not {}", b.type_name()),
        )
    })?;
    let (x, y) = (number.to_f64(), base.to_f64());
    if x <= 0.0 {
        return Err(location(
            28_758,
            format!("$log's argument must be a positive number, but is {x}"),
        ));
    }
    if y <= 0.0 || y == 1.0 {
        return Err(location(
            28_759,
            format!("$log's base must be a positive number not equal to 1, but is {y}"),
        ));
    }
    let result = x.ln() / y.ln();
    Ok(if number.is_decimal() || base.is_decimal() {
        Number::Decimal(Decimal::from_f64(result)).value()
    } else {
        Number::Double(result).value()
    })
}

fn atan2<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (Some(y), Some(x)) = (number(&arguments[0], name)?, number(&arguments[1], name)?) else {
        return Ok(Value::NULL);
    };
    let result = y.to_f64().atan2(x.to_f64());
    Ok(if y.is_decimal() || x.is_decimal() {
        Number::Decimal(Decimal::from_f64(result)).value()
    } else {
        Number::Double(result).value()
    })
}

fn bits<'d>(
    name: &'static str,
    arguments: &[Value<'d>],
    neutral: i32,
    combine: fn(i64, i64) -> i64,
) -> Result<Value<'d>> {
    let mut result = i64::from(neutral);
    let mut narrow = true;
    for v in arguments {
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        let number = Number::of_value(v);
        let integer = number.and_then(Number::as_integer).ok_or_else(|| {
            mismatch(format!(
                "{name} only supports int and long operands, not {}",
                v.type_name()
            ))
        })?;
        narrow &= number.is_some_and(Number::is_int32);
        result = combine(result, integer);
    }
    Ok(Number::integer(result, narrow).value())
}

fn bit_not<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let v = &arguments[0];
    if v.is_nullish() {
        return Ok(Value::NULL);
    }
    let number = Number::of_value(v);
    match number.and_then(Number::as_integer) {
        Some(integer) => Ok(Number::integer(!integer, number.is_some_and(Number::is_int32)).value()),
        None => Err(mismatch(format!(
            "{name} only supports int and long, not {}",
            v.type_name()
        ))),
    }
}
