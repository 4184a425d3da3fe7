//! Filter documents to filters.

use std::sync::Arc;

use bson::spec::{BinarySubtype, ElementType};
use bson::{RawArray, RawBson, RawBsonRef, RawDocument};

use super::regex::from_value;
use super::schema::Schema;
use super::{BitTest, Filter, Predicate, Regex};
use crate::expression::{Expr, Scope};
use crate::geo::{self, Geo};
use crate::path::Path;
use crate::value::{as_whole, compare, elements, fields, is_number, is_true, shown, type_name};
use crate::{Code, Error, Result};

/// Deepest nesting of filters, updates and other arguments: a stored document and the operators around it.
pub(crate) const ARGUMENT_DEPTH_MAX: usize = 180;
/// Highest bit that `$bits*` can ask for.
const BIT_MAX: i64 = 16 * 1024 * 1024 * 8;

/// Operators that MongoDB has and this engine has not.
const NOT_SUPPORTED: [&str; 4] = ["$where", "$text", "$sampleRate", "$encStrLen"];

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadValue, message)
}

fn unknown(kind: &str, name: &str) -> Error {
    if name == "$expr" {
        return Error::new(
            Code::QueryFeatureNotAllowed,
            "$expr can only be applied to the top-level document of a query",
        );
    }
    if NOT_SUPPORTED.contains(&name) {
        return Error::new(
            Code::CommandNotSupported,
            format!("operator {name} is not supported"),
        );
    }
    bad(format!("unknown {kind}: {name}"))
}

/// Parses a whole filter, or one inside of another. The document is well-formed and not too deep.
pub(super) fn filter(doc: &RawDocument, scope: Option<&Scope>) -> Result<Filter> {
    let mut parts = Vec::new();
    for (name, value) in fields(doc) {
        match name {
            "$and" => match filters(name, value, scope)?.as_mut_slice() {
                [one] => parts.push(std::mem::replace(one, Filter::AlwaysTrue)),
                all => parts.push(Filter::And(all.iter_mut().map(take).collect())),
            },
            "$or" => parts.push(Filter::Or(filters(name, value, scope)?)),
            "$nor" => parts.push(Filter::Nor(filters(name, value, scope)?)),
            "$expr" if let Some(scope) = scope => parts.push(expr(value, scope)?),
            "$jsonSchema" => parts.push(schema(value)?),
            "$comment" => {}
            "$alwaysTrue" => parts.push(Filter::AlwaysTrue),
            "$alwaysFalse" => parts.push(Filter::AlwaysFalse),
            name if name.starts_with('$') => return Err(unknown("top level operator", name)),
            name => parts.push(Filter::Field {
                path: Path::parse(name)?,
                predicate: field_predicate(name, value)?,
            }),
        }
    }
    Ok(match parts.len() {
        0 => Filter::AlwaysTrue,
        1 => parts.remove(0),
        _ => Filter::And(parts),
    })
}

fn schema(v: RawBsonRef<'_>) -> Result<Filter> {
    let doc = v.as_document().ok_or_else(|| {
        let message = format!("$jsonSchema must be an object, but found {}", type_name(v));
        Error::new(Code::TypeMismatch, message)
    })?;
    Ok(Filter::Schema(Arc::new(Schema::parse(doc)?)))
}

fn take(filter: &mut Filter) -> Filter {
    std::mem::replace(filter, Filter::AlwaysTrue)
}

/// `$expr`, with the conditions that it implies and an index can serve: equality of a field with a constant.
fn expr(v: RawBsonRef<'_>, scope: &Scope) -> Result<Filter> {
    let expr = Expr::parse(v, scope)?;
    let implied = Box::new(implied(&expr));
    Ok(Filter::Expr {
        expr: Arc::new(expr),
        runtime: scope.runtime().clone(),
        implied,
    })
}

fn implied(expr: &Expr) -> Filter {
    if let Expr::And(parts) = expr {
        let parts: Vec<Filter> = parts
            .iter()
            .map(implied)
            .filter(|part| !matches!(part, Filter::AlwaysTrue))
            .collect();
        return if parts.is_empty() {
            Filter::AlwaysTrue
        } else {
            Filter::And(parts)
        };
    }
    let (field, predicate) = match expr.as_call() {
        Some(("$eq", [a, b])) => {
            let (field, constant) = if a.constant().is_some() { (b, a) } else { (a, b) };
            let value = constant.constant().filter(|v| is_plain(v));
            (field, value.map(|v| Predicate::Eq(v.clone())))
        }
        Some(("$in", [field, list])) => {
            let values = list.constant().and_then(|list| match list {
                RawBson::Array(list) => Some(elements(list).map(RawBson::from).collect::<Vec<_>>()),
                _ => None,
            });
            let values = values
                .filter(|values| values.iter().all(is_plain))
                .map(|mut values| {
                    values.sort_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()));
                    values.dedup_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()).is_eq());
                    Predicate::In {
                        values,
                        regexes: Vec::new(),
                    }
                });
            (field, values)
        }
        _ => return Filter::AlwaysTrue,
    };
    let path = field
        .field_path()
        .and_then(|path| Path::parse(&path.join(".")).ok());
    match (path, predicate) {
        (Some(path), Some(predicate)) => Filter::Field { path, predicate },
        _ => Filter::AlwaysTrue,
    }
}

/// Whether equality with the value means the same to an expression and to a filter: arrays, regular expressions and
/// what stands for no value are compared in other ways.
fn is_plain(v: &RawBson) -> bool {
    !matches!(
        v,
        RawBson::Array(_) | RawBson::RegularExpression(_) | RawBson::Undefined | RawBson::Null
    )
}

fn filters(operator: &str, v: RawBsonRef<'_>, scope: Option<&Scope>) -> Result<Vec<Filter>> {
    let array = v.as_array().filter(|array| !array.is_empty());
    let array = array.ok_or_else(|| bad(format!("{operator} argument must be a non-empty array")))?;
    let one = |v: RawBsonRef<'_>| match v {
        RawBsonRef::Document(doc) => filter(doc, scope),
        _ => Err(bad(format!("{operator} argument's entries must be objects"))),
    };
    elements(array).map(one).collect()
}

/// What a field is asked for: operators, a regex, or equality with anything else.
fn field_predicate(name: &str, v: RawBsonRef<'_>) -> Result<Predicate> {
    match v {
        RawBsonRef::Document(doc) if is_operators(doc) => operators(name, doc),
        RawBsonRef::Undefined => Err(bad("cannot compare to undefined")),
        v => Ok(from_value(v)
            .transpose()?
            .map_or_else(|| Predicate::Eq(v.into()), Predicate::Regex)),
    }
}

/// Whether the document is made of operators; `{$ref, $id}`, a reference to another document, is a value.
fn is_operators(doc: &RawDocument) -> bool {
    fields(doc)
        .next()
        .is_some_and(|(name, _)| name.starts_with('$') && !matches!(name, "$ref" | "$id" | "$db"))
}

/// Whether the document is made of operators on a value, rather than of fields and logic on documents.
pub(crate) fn is_value_operators(doc: &RawDocument) -> bool {
    let first = fields(doc).next().map(|(name, _)| name);
    is_operators(doc)
        && !matches!(
            first,
            Some("$and" | "$or" | "$nor" | "$where" | "$expr" | "$jsonSchema")
        )
}

pub(super) fn operators(name: &str, doc: &RawDocument) -> Result<Predicate> {
    let mut parts = predicates(name, doc)?;
    Ok(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Predicate::AllOf(parts)
    })
}

fn predicates(name: &str, doc: &RawDocument) -> Result<Vec<Predicate>> {
    let mut parts = Vec::new();
    for (operator, value) in fields(doc) {
        match operator {
            "$options" if fields(doc).any(|(name, _)| name == "$regex") => {}
            "$options" => return Err(bad("$options needs a $regex")),
            "$regex" => parts.push(Predicate::Regex(regex_with_options(doc, value)?)),
            operator if geo::is_operator(operator) => {
                parts.push(Predicate::Geo(Arc::new(Geo::parse(operator, value, doc)?)));
            }
            operator if geo::is_distance(operator) && fields(doc).any(|(name, _)| is_near(name)) => {}
            operator => parts.push(predicate(name, operator, value)?),
        }
    }
    Ok(parts)
}

/// Whether the operator asks for documents in the order of their distance.
fn is_near(name: &str) -> bool {
    matches!(name, "$near" | "$nearSphere" | "$geoNear")
}

fn predicate(name: &str, operator: &str, v: RawBsonRef<'_>) -> Result<Predicate> {
    Ok(match operator {
        "$eq" => Predicate::Eq(comparable(v)?),
        "$ne" if v.as_regex().is_some() => return Err(bad("can't have regex as arg to $ne")),
        "$ne" => Predicate::Not(Box::new(Predicate::Eq(comparable(v)?))),
        "$gt" => Predicate::Gt(bound(name, v)?),
        "$gte" => Predicate::Gte(bound(name, v)?),
        "$lt" => Predicate::Lt(bound(name, v)?),
        "$lte" => Predicate::Lte(bound(name, v)?),
        "$in" => any_of(operator, v)?,
        "$nin" => Predicate::Not(Box::new(any_of(operator, v)?)),
        "$not" => Predicate::Not(Box::new(negated(name, v)?)),
        "$exists" => Predicate::Exists(is_true(v)),
        "$type" => Predicate::Type(types(v)?),
        "$all" => all(name, v)?,
        "$elemMatch" => elem_match(name, v)?,
        "$size" => Predicate::Size(size(v)?),
        "$mod" => modulo(v)?,
        "$bitsAllSet" => bits(operator, BitTest::AllSet, v)?,
        "$bitsAnySet" => bits(operator, BitTest::AnySet, v)?,
        "$bitsAllClear" => bits(operator, BitTest::AllClear, v)?,
        "$bitsAnyClear" => bits(operator, BitTest::AnyClear, v)?,
        operator => return Err(unknown("operator", operator)),
    })
}

fn comparable(v: RawBsonRef<'_>) -> Result<RawBson> {
    if v == RawBsonRef::Undefined {
        return Err(bad("cannot compare to undefined"));
    }
    Ok(v.into())
}

fn bound(name: &str, v: RawBsonRef<'_>) -> Result<RawBson> {
    if v.as_regex().is_some() {
        return Err(bad(format!(
            "can't have regex as arg to predicate over field '{name}'"
        )));
    }
    comparable(v)
}

fn array<'a>(operator: &str, v: RawBsonRef<'a>) -> Result<&'a RawArray> {
    v.as_array()
        .ok_or_else(|| bad(format!("{operator} needs an array")))
}

fn any_of(operator: &str, v: RawBsonRef<'_>) -> Result<Predicate> {
    let (mut values, mut regexes) = (Vec::new(), Vec::new());
    for element in elements(array(operator, v)?) {
        if element.as_document().is_some_and(is_operators) {
            return Err(bad(format!("cannot nest $ under {operator}")));
        }
        match from_value(element) {
            Some(regex) => regexes.push(regex?),
            None => values.push(comparable(element)?),
        }
    }
    values.sort_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()));
    values.dedup_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()).is_eq());
    Ok(Predicate::In { values, regexes })
}

fn negated(name: &str, v: RawBsonRef<'_>) -> Result<Predicate> {
    if let Some(regex) = from_value(v) {
        return Ok(Predicate::Regex(regex?));
    }
    match v {
        RawBsonRef::Document(doc) if doc.is_empty() => Err(bad("$not cannot be empty")),
        RawBsonRef::Document(doc) => operators(name, doc),
        _ => Err(bad("$not needs a regex or a document")),
    }
}

fn regex_with_options(doc: &RawDocument, v: RawBsonRef<'_>) -> Result<Regex> {
    let options = match fields(doc).find(|(name, _)| *name == "$options") {
        None => None,
        Some((_, RawBsonRef::String(options))) => Some(options),
        Some(_) => return Err(bad("$options has to be a string")),
    };
    match v {
        RawBsonRef::String(pattern) => Regex::new(pattern, options.unwrap_or("")),
        RawBsonRef::RegularExpression(r) => match options {
            Some(_) if !r.options.is_empty() => Err(bad("options set in both $regex and $options")),
            options => Regex::new(r.pattern.as_str(), options.unwrap_or(r.options.as_str())),
        },
        _ => Err(bad("$regex has to be a string")),
    }
}

fn types(v: RawBsonRef<'_>) -> Result<Vec<ElementType>> {
    let mut types = Vec::new();
    match v {
        RawBsonRef::Array(array) if array.is_empty() => {
            return Err(Error::new(
                Code::FailedToParse,
                "$type must match at least one type",
            ));
        }
        RawBsonRef::Array(array) => {
            for element in elements(array) {
                add_type(&mut types, element)?;
            }
        }
        v => add_type(&mut types, v)?,
    }
    Ok(types)
}

pub(super) fn add_type(types: &mut Vec<ElementType>, v: RawBsonRef<'_>) -> Result<()> {
    use ElementType as T;
    let found = match v {
        RawBsonRef::String(name) => match name {
            "number" => {
                types.extend([T::Double, T::Int32, T::Int64, T::Decimal128]);
                return Ok(());
            }
            "double" => Some(T::Double),
            "string" => Some(T::String),
            "object" => Some(T::EmbeddedDocument),
            "array" => Some(T::Array),
            "binData" => Some(T::Binary),
            "undefined" => Some(T::Undefined),
            "objectId" => Some(T::ObjectId),
            "bool" => Some(T::Boolean),
            "date" => Some(T::DateTime),
            "null" => Some(T::Null),
            "regex" => Some(T::RegularExpression),
            "dbPointer" => Some(T::DbPointer),
            "javascript" => Some(T::JavaScriptCode),
            "symbol" => Some(T::Symbol),
            "javascriptWithScope" => Some(T::JavaScriptCodeWithScope),
            "int" => Some(T::Int32),
            "timestamp" => Some(T::Timestamp),
            "long" => Some(T::Int64),
            "decimal" => Some(T::Decimal128),
            "minKey" => Some(T::MinKey),
            "maxKey" => Some(T::MaxKey),
            _ => return Err(bad(format!("unknown type name alias: {name}"))),
        },
        v => match as_whole(v).filter(|_| is_number(v)) {
            Some(-1) => Some(T::MinKey),
            // 255 is MinKey's byte, not its number.
            Some(code @ 1..=127) => u8::try_from(code).ok().and_then(T::from),
            _ if !is_number(v) => {
                let message = format!(
                    "type must be represented as a number or a string, not {}",
                    type_name(v)
                );
                return Err(Error::new(Code::TypeMismatch, message));
            }
            _ => None,
        },
    };
    types.push(found.ok_or_else(|| bad(format!("invalid numerical type code: {}", shown(v))))?);
    Ok(())
}

fn all(name: &str, v: RawBsonRef<'_>) -> Result<Predicate> {
    let array = array("$all", v)?;
    let elem_match = |v: RawBsonRef<'_>| {
        v.as_document()
            .and_then(|doc| fields(doc).next())
            .is_some_and(|(name, _)| name == "$elemMatch")
    };
    let all_elem_match = elements(array).next().is_some_and(elem_match);
    let mut parts = Vec::new();
    for element in elements(array) {
        let operators = element.as_document().filter(|doc| is_operators(doc));
        parts.push(match operators {
            Some(doc) if all_elem_match && elem_match(element) => self::operators(name, doc)?,
            _ if all_elem_match => return Err(bad("$all/$elemMatch has to be consistent")),
            Some(_) => return Err(bad("no $ expressions in $all")),
            None => from_value(element).transpose()?.map_or_else(
                || comparable(element).map(Predicate::Eq),
                |regex| Ok(Predicate::Regex(regex)),
            )?,
        });
    }
    Ok(match parts.len() {
        0 => Predicate::Never,
        1 => parts.remove(0),
        _ => Predicate::AllOf(parts),
    })
}

fn elem_match(name: &str, v: RawBsonRef<'_>) -> Result<Predicate> {
    let doc = v.as_document().ok_or_else(|| bad("$elemMatch needs an Object"))?;
    if is_value_operators(doc) {
        return Ok(Predicate::ElemMatchValue(predicates(name, doc)?));
    }
    Ok(Predicate::ElemMatchDocument(Box::new(filter(doc, None)?)))
}

fn size(v: RawBsonRef<'_>) -> Result<u64> {
    let parsed = as_whole(v).filter(|_| is_number(v));
    let parsed = parsed.ok_or_else(|| {
        bad(format!(
            "failed to parse $size: expected a whole number, found {}",
            shown(v)
        ))
    })?;
    u64::try_from(parsed).map_err(|_| {
        bad(format!(
            "failed to parse $size: expected a non-negative number, found {parsed}"
        ))
    })
}

fn modulo(v: RawBsonRef<'_>) -> Result<Predicate> {
    let array = v
        .as_array()
        .ok_or_else(|| bad("malformed mod, needs to be an array"))?;
    let numbers: Vec<_> = elements(array).collect();
    let [divisor, remainder] = numbers[..] else {
        let problem = if numbers.len() < 2 {
            "not enough elements"
        } else {
            "too many elements"
        };
        return Err(bad(format!("malformed mod, {problem}")));
    };
    let whole = |v: RawBsonRef<'_>, what: &str| {
        let number = match v {
            RawBsonRef::Double(d) => as_whole(RawBsonRef::Double(d.trunc())),
            v => as_whole(v),
        };
        number.ok_or_else(|| bad(format!("malformed mod, {what} is not a 64-bit number")))
    };
    let (divisor, remainder) = (whole(divisor, "divisor")?, whole(remainder, "remainder")?);
    if divisor == 0 {
        return Err(bad("divisor cannot be 0"));
    }
    Ok(Predicate::Mod { divisor, remainder })
}

fn bits(operator: &str, test: BitTest, v: RawBsonRef<'_>) -> Result<Predicate> {
    let whole = |v: RawBsonRef<'_>| {
        as_whole(v).filter(|v| *v >= 0).ok_or_else(|| {
            bad(format!(
                "{operator} expected a non-negative whole number, found {}",
                shown(v)
            ))
        })
    };
    let positions = match v {
        RawBsonRef::Array(array) => elements(array)
            .map(|v| match whole(v)? {
                position if position <= BIT_MAX => Ok(position as u32),
                position => Err(bad(format!(
                    "{operator} bit position {position} is over {BIT_MAX}"
                ))),
            })
            .collect::<Result<Vec<u32>>>()?,
        RawBsonRef::Binary(mask) if mask.subtype != BinarySubtype::BinaryOld => (0u32..)
            .zip(mask.bytes)
            .flat_map(|(i, byte)| {
                (0..8)
                    .filter(move |bit| byte >> bit & 1 == 1)
                    .map(move |bit| i * 8 + bit)
            })
            .collect(),
        v if is_number(v) => {
            let mask = whole(v)?;
            (0..63).filter(|bit| mask >> bit & 1 == 1).collect()
        }
        _ => {
            return Err(bad(format!(
                "{operator} takes an array, a number or binary data, found {}",
                type_name(v)
            )));
        }
    };
    Ok(Predicate::Bits { test, positions })
}
