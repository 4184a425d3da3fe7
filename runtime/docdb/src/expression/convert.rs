//! Types and their conversion.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Decimal128, RawBson, RawBsonRef};

use super::number::Number;
use super::{Arguments, Env, Expr, Operator, Scope, Value, dates, location};
use crate::value::{is_true, type_name};
use crate::{Code, Error, Result};

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$type",
        arguments: Arguments::Exactly(1),
        run: |_, _, a| Ok(Value::string(a[0].type_name())),
    },
    Operator {
        name: "$isNumber",
        arguments: Arguments::Exactly(1),
        run: |_, _, a| Ok(Value::bool(a[0].is_number())),
    },
    Operator {
        name: "$bsonSize",
        arguments: Arguments::Exactly(1),
        run: bson_size,
    },
    Operator {
        name: "$binarySize",
        arguments: Arguments::Exactly(1),
        run: binary_size,
    },
];

fn bson_size<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    match &arguments[0] {
        v if v.is_nullish() => Ok(Value::NULL),
        v => match v.as_document() {
            Some(doc) => Ok(Value::count(doc.as_bytes().len())),
            None => Err(location(
                31_393,
                format!("{name} requires a document input, found: {}", v.type_name()),
            )),
        },
    }
}

fn binary_size<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    match arguments[0].get() {
        _ if arguments[0].is_nullish() => Ok(Value::NULL),
        Some(RawBsonRef::String(text)) => Ok(Value::count(text.len())),
        Some(RawBsonRef::Binary(binary)) => Ok(Value::count(binary.bytes.len())),
        _ => Err(location(
            51_276,
            format!(
                "{name} requires a string or BinData argument, found: {}",
                arguments[0].type_name()
            ),
        )),
    }
}

/// `$convert`, or a short form such as `$toInt`.
#[derive(Debug, Clone)]
pub(crate) struct Convert {
    input: Expr,
    to: Expr,
    on_error: Option<Expr>,
    on_null: Option<Expr>,
}

/// The types that are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Double,
    String,
    ObjectId,
    Bool,
    Date,
    Int,
    Long,
    Decimal,
}

impl Target {
    fn of(v: &Value<'_>) -> Result<Target> {
        use Target::*;
        let by_name = match v.get() {
            Some(RawBsonRef::String(name)) => match name {
                "double" => Some(Double),
                "string" => Some(String),
                "objectId" => Some(ObjectId),
                "bool" => Some(Bool),
                "date" => Some(Date),
                "int" => Some(Int),
                "long" => Some(Long),
                "decimal" => Some(Decimal),
                name => return Err(Error::new(Code::BadValue, format!("unknown type name: {name}"))),
            },
            Some(number) if v.is_number() => match crate::value::as_whole(number) {
                Some(1) => Some(Double),
                Some(2) => Some(String),
                Some(7) => Some(ObjectId),
                Some(8) => Some(Bool),
                Some(9) => Some(Date),
                Some(16) => Some(Int),
                Some(18) => Some(Long),
                Some(19) => Some(Decimal),
                _ => None,
            },
            _ => None,
        };
        by_name.ok_or_else(|| {
            Error::new(
                Code::FailedToParse,
                format!(
                    "$convert's 'to' argument must name a type to convert to, found {}",
                    crate::value::shown(v.or_null())
                ),
            )
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Target::Double => "double",
            Target::String => "string",
            Target::ObjectId => "objectId",
            Target::Bool => "bool",
            Target::Date => "date",
            Target::Int => "int",
            Target::Long => "long",
            Target::Decimal => "decimal",
        }
    }
}

impl Convert {
    /// The conversion of that name, if it is one.
    pub(super) fn parse(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Option<Convert>> {
        let to = match name {
            "$toInt" => "int",
            "$toLong" => "long",
            "$toDouble" => "double",
            "$toDecimal" => "decimal",
            "$toString" => "string",
            "$toObjectId" => "objectId",
            "$toBool" => "bool",
            "$toDate" => "date",
            "$convert" => return Self::parse_full(v, scope).map(Some),
            _ => return Ok(None),
        };
        let input = match v {
            RawBsonRef::Array(array) => {
                let mut parts = crate::value::elements(array);
                match (parts.next(), parts.next()) {
                    (Some(one), None) => one,
                    _ => {
                        let count = crate::value::elements(array).count();
                        let message =
                            format!("Expression {name} takes exactly 1 arguments. {count} were passed in.");
                        return Err(location(16_020, message));
                    }
                }
            }
            v => v,
        };
        Ok(Some(Convert {
            input: Expr::parse(input, scope)?,
            to: Expr::Constant(RawBson::String(to.to_owned())),
            on_error: None,
            on_null: None,
        }))
    }

    fn parse_full(v: RawBsonRef<'_>, scope: &Scope) -> Result<Convert> {
        let failed = |message: String| Error::new(Code::FailedToParse, message);
        let RawBsonRef::Document(doc) = v else {
            return Err(failed(format!(
                "$convert expects an object of named arguments but found: {}",
                type_name(v)
            )));
        };
        let (mut input, mut to, mut on_error, mut on_null) = (None, None, None, None);
        for (name, v) in crate::value::fields(doc) {
            let place = match name {
                "input" => &mut input,
                "to" => &mut to,
                "onError" => &mut on_error,
                "onNull" => &mut on_null,
                name => return Err(failed(format!("$convert found an unknown argument: {name}"))),
            };
            *place = Some(Expr::parse(v, scope)?);
        }
        Ok(Convert {
            input: input.ok_or_else(|| failed("missing 'input' parameter to $convert".to_owned()))?,
            to: to.ok_or_else(|| failed("missing 'to' parameter to $convert".to_owned()))?,
            on_error,
            on_null,
        })
    }

    pub(super) fn is_constant(&self) -> bool {
        [
            Some(&self.input),
            Some(&self.to),
            self.on_error.as_ref(),
            self.on_null.as_ref(),
        ]
        .into_iter()
        .flatten()
        .all(|part| matches!(part, Expr::Constant(_) | Expr::Missing))
    }

    pub(super) fn eval<'d>(&'d self, env: &mut Env<'d>) -> Result<Value<'d>> {
        let input = self.input.eval(env)?;
        let to = self.to.eval(env)?;
        if input.is_nullish() {
            return match &self.on_null {
                Some(on_null) => on_null.eval(env),
                None => Ok(Value::NULL),
            };
        }
        if to.is_nullish() {
            return Ok(Value::NULL);
        }
        let converted = Target::of(&to).and_then(|to| convert(&input, to));
        match (&self.on_error, converted) {
            (Some(on_error), Err(error)) if error.code() == Code::ConversionFailure => on_error.eval(env),
            (_, converted) => converted,
        }
    }
}

fn failure(message: String) -> Error {
    Error::new(
        Code::ConversionFailure,
        format!("{message} in $convert with no onError value"),
    )
}

fn convert<'d>(v: &Value<'d>, to: Target) -> Result<Value<'d>> {
    let input = v.or_null();
    let unsupported = || {
        failure(format!(
            "Unsupported conversion from {} to {}",
            v.type_name(),
            to.name()
        ))
    };
    let parse_failure = |text: &str| failure(format!("Failed to parse {} '{text}'", to.name()));
    let overflow = || {
        failure(format!(
            "Conversion would overflow target type: {}",
            crate::value::shown(input)
        ))
    };
    Ok(match (input, to) {
        (_, Target::Bool) => Value::bool(is_true(input)),
        (RawBsonRef::String(_), Target::String) | (RawBsonRef::ObjectId(_), Target::ObjectId) => v.clone(),
        (RawBsonRef::DateTime(_), Target::Date) => v.clone(),
        (_, Target::String) => Value::string(text(input).ok_or_else(unsupported)?),
        (RawBsonRef::String(text), Target::ObjectId) => Value::Borrowed(RawBsonRef::ObjectId(
            ObjectId::parse_str(text).map_err(|_| parse_failure(text))?,
        )),
        (RawBsonRef::String(text), Target::Date) => match dates::parse_iso(text, None) {
            Ok(millis) => Value::date(millis),
            Err(_) => return Err(failure(format!("Error parsing date string '{text}'"))),
        },
        (RawBsonRef::ObjectId(id), Target::Date) => Value::date(id.timestamp().timestamp_millis()),
        (RawBsonRef::Timestamp(stamp), Target::Date) => Value::date(i64::from(stamp.time) * 1000),
        // An int32 could only be a date in January 1970.
        (RawBsonRef::Int32(_), Target::Date) => return Err(unsupported()),
        (RawBsonRef::Int64(_) | RawBsonRef::Double(_) | RawBsonRef::Decimal128(_), Target::Date) => {
            let whole = Number::of(input).and_then(Number::truncated);
            Value::date(whole.ok_or_else(overflow)?)
        }
        (_, Target::ObjectId | Target::Date) => return Err(unsupported()),
        (input, to) => number(input, to, &unsupported, &parse_failure, &overflow)?.value(),
    })
}

fn number(
    input: RawBsonRef<'_>,
    to: Target,
    unsupported: &dyn Fn() -> Error,
    parse_failure: &dyn Fn(&str) -> Error,
    overflow: &dyn Fn() -> Error,
) -> Result<Number> {
    let from = match input {
        RawBsonRef::Boolean(v) => Number::Int32(i32::from(v)),
        RawBsonRef::DateTime(_) if to == Target::Int => return Err(unsupported()),
        RawBsonRef::DateTime(v) => Number::Int64(v.timestamp_millis()),
        RawBsonRef::String(text) => parsed(text, to).ok_or_else(|| parse_failure(text))?,
        v => Number::of(v).ok_or_else(unsupported)?,
    };
    let whole = || {
        if from.is_nan() {
            return Err(failure(format!("Attempt to convert NaN value to {}", to.name())));
        }
        from.truncated().ok_or_else(overflow)
    };
    Ok(match to {
        Target::Int => Number::Int32(i32::try_from(whole()?).map_err(|_| overflow())?),
        Target::Long => Number::Int64(whole()?),
        Target::Double => {
            let double = from.to_f64();
            let finite = !matches!(from, Number::Decimal(crate::decimal::Decimal::Infinite { .. }));
            if from.is_decimal() && double.is_infinite() && finite {
                return Err(overflow());
            }
            Number::Double(double)
        }
        _ => Number::Decimal(from.to_decimal()),
    })
}

/// A number's text, all of it, in base ten.
fn parsed(text: &str, to: Target) -> Option<Number> {
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !plain {
        return None;
    }
    match to {
        Target::Int => text.parse().ok().map(Number::Int32),
        Target::Long => text.parse().ok().map(Number::Int64),
        Target::Double => text.parse().ok().map(Number::Double),
        _ => {
            let packed: Decimal128 = text.parse().ok()?;
            Some(Number::Decimal(crate::decimal::Decimal::unpack(packed)))
        }
    }
}

/// A value as `$toString` shows it; none of what it refuses.
pub(super) fn text(v: RawBsonRef<'_>) -> Option<String> {
    Some(match v {
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => text.to_owned(),
        RawBsonRef::Boolean(v) => v.to_string(),
        RawBsonRef::Int32(v) => v.to_string(),
        RawBsonRef::Int64(v) => v.to_string(),
        RawBsonRef::Double(v) => double_text(v),
        RawBsonRef::Decimal128(v) => v.to_string(),
        RawBsonRef::ObjectId(v) => v.to_hex(),
        RawBsonRef::DateTime(v) => dates::iso(v.timestamp_millis()),
        RawBsonRef::Binary(v) if v.subtype == BinarySubtype::Uuid && v.bytes.len() == 16 => {
            let hex: String = v.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
        }
        _ => return None,
    })
}

/// Shortest text that reads back, with an exponent for the very large and small.
fn double_text(v: f64) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v < 0.0 { "-Infinity" } else { "Infinity" }.to_owned();
    }
    let magnitude = v.abs();
    if magnitude != 0.0 && !(1e-5..1e17).contains(&magnitude) {
        let text = format!("{v:e}");
        return match text.split_once('e') {
            Some((mantissa, exponent)) if !exponent.starts_with('-') => format!("{mantissa}e+{exponent:0>2}"),
            Some((mantissa, exponent)) => format!("{mantissa}e-{:0>2}", &exponent[1..]),
            None => text,
        };
    }
    format!("{v}")
}
