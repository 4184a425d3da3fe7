//! MongoDB's total order over BSON values, on raw bytes and without copying, and the document checks and helpers
//! that every reader of raw BSON here shares. Bytes are checked once, on the way in (`check`); readers then pass
//! over what can't be read.

use std::cmp::Ordering;

use bson::oid::ObjectId;
use bson::raw::{CStr, cstr};
use bson::spec::BinarySubtype;
use bson::{RawArray, RawBinaryRef, RawBson, RawBsonRef, RawDbPointerRef, RawDocument, RawDocumentBuf};

use crate::decimal::{Decimal, Place};

/// MongoDB's total order of values of all types. Numbers of different types that are equal compare equal.
pub fn compare(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    canonical_class(a)
        .cmp(&canonical_class(b))
        .then_with(|| compare_in_class(a, b))
}

/// Place of a value's type in the order; types of one class are compared by value (all numbers, string and symbol).
pub(crate) fn canonical_class(v: RawBsonRef<'_>) -> u8 {
    match v {
        RawBsonRef::MinKey => 1,
        RawBsonRef::Undefined => 5,
        RawBsonRef::Null => 10,
        RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_) | RawBsonRef::Decimal128(_) => 20,
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) => 30,
        RawBsonRef::Document(_) => 40,
        RawBsonRef::Array(_) => 50,
        RawBsonRef::Binary(_) => 60,
        RawBsonRef::ObjectId(_) => 70,
        RawBsonRef::Boolean(_) => 80,
        RawBsonRef::DateTime(_) => 90,
        RawBsonRef::Timestamp(_) => 100,
        RawBsonRef::RegularExpression(_) => 110,
        RawBsonRef::DbPointer(_) => 120,
        RawBsonRef::JavaScriptCode(_) => 130,
        RawBsonRef::JavaScriptCodeWithScope(_) => 140,
        RawBsonRef::MaxKey => 200,
    }
}

fn compare_in_class(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    use RawBsonRef as V;
    match (a, b) {
        (V::String(a) | V::Symbol(a), V::String(b) | V::Symbol(b)) => a.cmp(b),
        (V::Document(a), V::Document(b)) => compare_documents(a, b),
        (V::Array(a), V::Array(b)) => compare_arrays(a, b),
        (V::Binary(a), V::Binary(b)) => binary_parts(a).cmp(&binary_parts(b)),
        (V::ObjectId(a), V::ObjectId(b)) => a.cmp(&b),
        (V::Boolean(a), V::Boolean(b)) => a.cmp(&b),
        (V::DateTime(a), V::DateTime(b)) => a.cmp(&b),
        (V::Timestamp(a), V::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (V::RegularExpression(a), V::RegularExpression(b)) => {
            a.pattern.cmp(b.pattern).then_with(|| a.options.cmp(b.options))
        }
        (V::DbPointer(a), V::DbPointer(b)) => {
            let (a, b) = (db_pointer_bytes(a), db_pointer_bytes(b));
            a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
        }
        (V::JavaScriptCode(a), V::JavaScriptCode(b)) => a.cmp(b),
        (V::JavaScriptCodeWithScope(a), V::JavaScriptCodeWithScope(b)) => a
            .code
            .cmp(b.code)
            .then_with(|| compare_documents(a.scope, b.scope)),
        _ => compare_numbers(a, b),
    }
}

fn compare_numbers(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    match (a, b) {
        (RawBsonRef::Double(a), RawBsonRef::Double(b)) => {
            a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
        }
        (RawBsonRef::Double(a), b) if as_integer(b).is_some() => {
            compare_integer_double(as_integer(b).unwrap_or(0), a).reverse()
        }
        (a, RawBsonRef::Double(b)) if as_integer(a).is_some() => {
            compare_integer_double(as_integer(a).unwrap_or(0), b)
        }
        (a, b) => match (as_integer(a), as_integer(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => place(a).cmp(&place(b)),
        },
    }
}

fn compare_integer_double(integer: i64, double: f64) -> Ordering {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() || double < -END {
        Ordering::Greater
    } else if double >= END {
        Ordering::Less
    } else {
        integer
            .cmp(&(double as i64))
            .then_with(|| 0.0f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal))
    }
}

/// The value of an int32 or int64.
pub(crate) fn as_integer(v: RawBsonRef<'_>) -> Option<i64> {
    match v {
        RawBsonRef::Int32(v) => Some(v.into()),
        RawBsonRef::Int64(v) => Some(v),
        _ => None,
    }
}

/// The value of any number that is a whole number of 64 bits, for operator arguments such as `$size: 2.0`.
pub(crate) fn as_whole(v: RawBsonRef<'_>) -> Option<i64> {
    match v {
        RawBsonRef::Double(d) => {
            (d.fract() == 0.0 && d.abs() < 9_223_372_036_854_775_808.0).then_some(d as i64)
        }
        RawBsonRef::Decimal128(d) => match Decimal::unpack(d) {
            Decimal::Finite {
                negative,
                mut coefficient,
                mut exponent,
            } => {
                while exponent < 0 && coefficient.is_multiple_of(10) && coefficient != 0 {
                    coefficient /= 10;
                    exponent += 1;
                }
                if coefficient == 0 {
                    return Some(0);
                }
                let power = 10i128.checked_pow(u32::try_from(exponent).ok()?)?;
                let magnitude = i128::try_from(coefficient).ok()?.checked_mul(power)?;
                i64::try_from(if negative { -magnitude } else { magnitude }).ok()
            }
            _ => None,
        },
        v => as_integer(v),
    }
}

pub(crate) fn is_number(v: RawBsonRef<'_>) -> bool {
    canonical_class(v) == canonical_class(RawBsonRef::Int32(0))
}

pub(crate) fn is_nan(v: RawBsonRef<'_>) -> bool {
    match v {
        RawBsonRef::Double(d) => d.is_nan(),
        RawBsonRef::Decimal128(d) => Decimal::unpack(d) == Decimal::Nan,
        _ => false,
    }
}

/// Place of a number among all numbers; of what is no number, that of NaN.
pub(crate) fn place(v: RawBsonRef<'_>) -> Place {
    match v {
        RawBsonRef::Int32(v) => Place::of_i64(v.into()),
        RawBsonRef::Int64(v) => Place::of_i64(v),
        RawBsonRef::Double(v) => Place::of_f64(v),
        RawBsonRef::Decimal128(v) => Place::of_decimal(Decimal::unpack(v)),
        _ => Place::of_f64(f64::NAN),
    }
}

/// What binary data are ordered by: length as stored, subtype, bytes.
pub(crate) fn binary_parts(v: RawBinaryRef<'_>) -> (usize, u8, &[u8]) {
    let inner_length = if v.subtype == BinarySubtype::BinaryOld {
        4
    } else {
        0
    };
    (v.bytes.len() + inner_length, v.subtype.into(), v.bytes)
}

/// The bytes of a DBPointer as stored; the `bson` crate keeps its parts to itself.
pub(crate) fn db_pointer_bytes(v: RawDbPointerRef<'_>) -> Vec<u8> {
    let mut holder = RawDocumentBuf::new();
    holder.append(cstr!(""), RawBsonRef::DbPointer(v));
    let bytes = holder.into_bytes();
    bytes[6..bytes.len() - 1].to_vec()
}

fn compare_documents(a: &RawDocument, b: &RawDocument) -> Ordering {
    let (mut a, mut b) = (fields(a), fields(b));
    loop {
        let ((name_a, a), (name_b, b)) = match (a.next(), b.next()) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        };
        let order = canonical_class(a)
            .cmp(&canonical_class(b))
            .then_with(|| name_a.cmp(name_b))
            .then_with(|| compare_in_class(a, b));
        if order.is_ne() {
            return order;
        }
    }
}

fn compare_arrays(a: &RawArray, b: &RawArray) -> Ordering {
    let (mut a, mut b) = (elements(a), elements(b));
    loop {
        let order = match (a.next(), b.next()) {
            (Some(a), Some(b)) => compare(a, b),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The fields of a document with their names.
pub(crate) fn fields(doc: &RawDocument) -> impl Iterator<Item = (&str, RawBsonRef<'_>)> {
    doc.iter()
        .map_while(Result::ok)
        .map(|(name, value)| (name.as_str(), value))
}

/// The fields of a document with their names in the form that documents are built from.
pub(crate) fn raw_fields(doc: &RawDocument) -> impl Iterator<Item = (&CStr, RawBsonRef<'_>)> {
    doc.iter().map_while(Result::ok)
}

/// The elements of an array.
pub(crate) fn elements(array: &RawArray) -> impl Iterator<Item = RawBsonRef<'_>> {
    array.into_iter().map_while(Result::ok)
}

/// A field of a document.
pub(crate) fn field<'d>(doc: &'d RawDocument, name: &str) -> Option<RawBsonRef<'d>> {
    doc.get(name).ok().flatten()
}

/// A document or array as a document; array positions are its names.
pub(crate) fn as_object(v: RawBsonRef<'_>) -> Option<&RawDocument> {
    match v {
        RawBsonRef::Document(d) => Some(d),
        RawBsonRef::Array(a) => RawDocument::from_bytes(a.as_bytes()).ok(),
        _ => None,
    }
}

/// MongoDB's idea of true: everything but false, zero, null and undefined.
pub(crate) fn is_true(v: RawBsonRef<'_>) -> bool {
    match v {
        RawBsonRef::Boolean(b) => b,
        RawBsonRef::Null | RawBsonRef::Undefined => false,
        v if is_number(v) => place(v) != Place::of_f64(0.0),
        _ => true,
    }
}

/// A value with its name and type for messages, cut short.
pub(crate) fn shown(v: RawBsonRef<'_>) -> String {
    const CHARS_MAX: usize = 200;
    let text = match bson::Bson::try_from(RawBson::from(v)) {
        Ok(v) => v.to_string(),
        Err(_) => "(unreadable)".to_owned(),
    };
    if text.chars().count() > CHARS_MAX {
        text.chars().take(CHARS_MAX).chain("...".chars()).collect()
    } else {
        text
    }
}

/// MongoDB's name of a value's type, as `$type` takes it.
pub(crate) fn type_name(v: RawBsonRef<'_>) -> &'static str {
    match v {
        RawBsonRef::Double(_) => "double",
        RawBsonRef::String(_) => "string",
        RawBsonRef::Array(_) => "array",
        RawBsonRef::Document(_) => "object",
        RawBsonRef::Boolean(_) => "bool",
        RawBsonRef::Null => "null",
        RawBsonRef::RegularExpression(_) => "regex",
        RawBsonRef::JavaScriptCode(_) => "javascript",
        RawBsonRef::JavaScriptCodeWithScope(_) => "javascriptWithScope",
        RawBsonRef::Int32(_) => "int",
        RawBsonRef::Int64(_) => "long",
        RawBsonRef::Timestamp(_) => "timestamp",
        RawBsonRef::Binary(_) => "binData",
        RawBsonRef::ObjectId(_) => "objectId",
        RawBsonRef::DateTime(_) => "date",
        RawBsonRef::Symbol(_) => "symbol",
        RawBsonRef::Decimal128(_) => "decimal",
        RawBsonRef::Undefined => "undefined",
        RawBsonRef::MaxKey => "maxKey",
        RawBsonRef::MinKey => "minKey",
        RawBsonRef::DbPointer(_) => "dbPointer",
    }
}

/// The document with `_id` as its first field; `fresh` is used when it has none.
pub(crate) fn ensure_id_first(doc: &RawDocument, fresh: ObjectId) -> RawDocumentBuf {
    if raw_fields(doc).next().is_some_and(|(name, _)| name == "_id") {
        return doc.to_owned();
    }
    let mut out = RawDocumentBuf::new();
    out.append(
        cstr!("_id"),
        field(doc, "_id").unwrap_or(RawBsonRef::ObjectId(fresh)),
    );
    for (name, value) in raw_fields(doc).filter(|(name, _)| name.as_str() != "_id") {
        out.append(name, value);
    }
    out
}
