//! Objects and their fields.

use bson::raw::{CStr, cstr};
use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf};

use super::{Arguments, Env, Named, Operator, Otherwise, Value, location};
use crate::value::{elements, field, raw_fields};
use crate::{Code, Error, Result};

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$objectToArray",
        arguments: Arguments::Exactly(1),
        run: object_to_array,
    },
    Operator {
        name: "$arrayToObject",
        arguments: Arguments::Exactly(1),
        run: array_to_object,
    },
    Operator {
        name: "$mergeObjects",
        arguments: Arguments::AtLeast(0),
        run: merge,
    },
    Operator {
        name: "$getField",
        arguments: Arguments::Named(
            3_041_701,
            &[required("field", 3_041_702), required("input", 3_041_703)],
        ),
        run: get_field,
    },
    Operator {
        name: "$setField",
        arguments: Arguments::Named(4_161_101, &[OF_FIELD, OF_INPUT, required("value", 4_161_103)]),
        run: set_field,
    },
    Operator {
        name: "$unsetField",
        arguments: Arguments::Named(4_161_101, &[OF_FIELD, OF_INPUT]),
        run: set_field,
    },
];

/// What `$setField` and `$unsetField` both need.
const OF_FIELD: Named = required("field", 4_161_102);
const OF_INPUT: Named = required("input", 4_161_109);

const fn required(name: &'static str, missing: i32) -> Named {
    Named {
        name,
        otherwise: Otherwise::Required(missing),
    }
}

/// A name that a field can have.
fn field_name(name: &str) -> Result<&CStr> {
    <&CStr>::try_from(name)
        .map_err(|_| Error::new(Code::BadValue, format!("field name {name:?} has a NUL byte")))
}

fn object_to_array<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let v = &arguments[0];
    if v.is_nullish() {
        return Ok(Value::NULL);
    }
    let doc = v.as_document().ok_or_else(|| {
        location(
            40_390,
            format!("{name} requires a document input, found: {}", v.type_name()),
        )
    })?;
    let mut out = RawArrayBuf::new();
    for (name, v) in raw_fields(doc) {
        let mut pair = RawDocumentBuf::new();
        pair.append(cstr!("k"), name.as_str());
        pair.append(cstr!("v"), v);
        env.push(&mut out, RawBsonRef::Document(&pair))?;
    }
    Ok(Value::array(out))
}

/// Sets a field in the place where it is, or at the end.
pub(super) fn with_field(doc: &bson::RawDocument, name: &CStr, v: Option<RawBsonRef<'_>>) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    let mut there = false;
    for (at, old) in raw_fields(doc) {
        if at.as_str() != name.as_str() {
            out.append(at, old);
        } else if !std::mem::replace(&mut there, true)
            && let Some(v) = v
        {
            out.append(name, v);
        }
    }
    if let (false, Some(v)) = (there, v) {
        out.append(name, v);
    }
    out
}

fn array_to_object<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let v = &arguments[0];
    if v.is_nullish() {
        return Ok(Value::NULL);
    }
    let Some(RawBsonRef::Array(array)) = v.get() else {
        return Err(location(
            40_386,
            format!("{name} requires an array input, found: {}", v.type_name()),
        ));
    };
    // By name, with the place of its first appearance; a later pair overwrites an earlier one.
    let mut places = std::collections::HashMap::new();
    let mut pairs: Vec<(&str, RawBsonRef<'_>)> = Vec::new();
    for element in elements(array) {
        env.step()?;
        let (name, v) = pair(element)?;
        match places.entry(name) {
            std::collections::hash_map::Entry::Occupied(at) => {
                let at: &usize = at.get();
                pairs[*at].1 = v;
            }
            std::collections::hash_map::Entry::Vacant(at) => {
                at.insert(pairs.len());
                pairs.push((name, v));
            }
        }
    }
    let mut out = RawDocumentBuf::new();
    for (name, v) in pairs {
        out.append(field_name(name)?, v);
    }
    env.check_bytes(out.as_bytes().len())?;
    Ok(Value::document(out))
}

/// `[name, value]` or `{k: name, v: value}`.
fn pair(element: RawBsonRef<'_>) -> Result<(&str, RawBsonRef<'_>)> {
    let (name, v) = match element {
        RawBsonRef::Array(pair) => {
            let mut parts = elements(pair);
            match (parts.next(), parts.next(), parts.next()) {
                (Some(name), Some(v), None) => (name, v),
                _ => {
                    return Err(location(
                        40_397,
                        "$arrayToObject requires an array of size 2 arrays",
                    ));
                }
            }
        }
        RawBsonRef::Document(pair) => match (field(pair, "k"), field(pair, "v"), raw_fields(pair).count()) {
            (Some(name), Some(v), 2) => (name, v),
            (_, _, 2) => {
                return Err(location(
                    40_393,
                    "$arrayToObject requires an object with keys 'k' and 'v'",
                ));
            }
            (_, _, count) => {
                let message =
                    format!("$arrayToObject requires an object keys of 'k' and 'v', found {count} keys");
                return Err(location(40_392, message));
            }
        },
        other => {
            let message = format!(
                "unrecognised input type format for $arrayToObject: {}",
                crate::value::type_name(other)
            );
            return Err(location(40_398, message));
        }
    };
    match name {
        RawBsonRef::String(name) if name.contains('\0') => Err(location(
            4_940_400,
            "key field cannot contain an embedded null byte",
        )),
        RawBsonRef::String(name) => Ok((name, v)),
        other => {
            let number = if element.as_document().is_some() {
                40_394
            } else {
                40_395
            };
            let message = format!(
                "$arrayToObject requires keys of type string, found {}",
                crate::value::type_name(other)
            );
            Err(location(number, message))
        }
    }
}

fn merge<'d>(env: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let parts = match arguments {
        [one] => one.elements().unwrap_or_else(|| vec![one.clone()]),
        many => many.to_vec(),
    };
    let mut out = RawDocumentBuf::new();
    for v in &parts {
        env.step()?;
        merge_into(&mut out, v)?;
        env.check_bytes(out.as_bytes().len())?;
    }
    Ok(Value::document(out))
}

/// Adds an object's fields, over those that are there; null adds nothing.
pub(super) fn merge_into(out: &mut RawDocumentBuf, v: &Value<'_>) -> Result<()> {
    if v.is_nullish() {
        return Ok(());
    }
    let doc = v.as_document().ok_or_else(|| {
        location(
            40_400,
            format!(
                "$mergeObjects requires object inputs, but input is of type {}",
                v.type_name()
            ),
        )
    })?;
    if out.is_empty() {
        *out = doc.to_owned();
        return Ok(());
    }
    let mut merged = RawDocumentBuf::new();
    for (name, old) in raw_fields(out) {
        merged.append(name, field(doc, name.as_str()).unwrap_or(old));
    }
    for (name, new) in raw_fields(doc) {
        if field(out, name.as_str()).is_none() {
            merged.append(name, new);
        }
    }
    *out = merged;
    Ok(())
}

fn wanted<'v>(v: &'v Value<'_>, operator: &str) -> Result<&'v str> {
    v.as_str().ok_or_else(|| {
        let message = format!(
            "{operator} requires 'field' to evaluate to type string, but got {}",
            v.type_name()
        );
        location(5_654_602, message)
    })
}

fn get_field<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let path = [Box::from(wanted(&arguments[0], name)?)];
    match &arguments[1] {
        v if v.as_document().is_some() => Ok(v.at_path(&path)),
        Value::Missing => Ok(Value::Missing),
        v if v.is_nullish() => Ok(Value::NULL),
        _ => Ok(Value::Missing),
    }
}

fn set_field<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let wanted = field_name(wanted(&arguments[0], name)?)?;
    let v = &arguments[1];
    if v.is_nullish() {
        return Ok(Value::NULL);
    }
    let doc = v.as_document().ok_or_else(|| {
        location(
            4_161_105,
            format!(
                "{name} requires 'input' to evaluate to type Object, found {}",
                v.type_name()
            ),
        )
    })?;
    let out = with_field(doc, wanted, arguments.get(2).and_then(Value::get));
    env.check_bytes(out.as_bytes().len())?;
    Ok(Value::document(out))
}
