//! What an expression evaluates to: a value of the document, a value made anew, or none.

use std::rc::Rc;

use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::value::{as_object, elements, field, is_number, is_true, type_name};

/// The value of an expression. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Value<'d> {
    /// None: a field that is not there.
    Missing,
    /// Part of the document, or of the expression.
    Borrowed(RawBsonRef<'d>),
    /// Made by the expression.
    Owned(Rc<RawBson>),
}

impl<'d> Value<'d> {
    pub(crate) const NULL: Value<'d> = Value::Borrowed(RawBsonRef::Null);

    pub(crate) fn bool(v: bool) -> Value<'d> {
        Value::Borrowed(RawBsonRef::Boolean(v))
    }

    pub(crate) fn int(v: i32) -> Value<'d> {
        Value::Borrowed(RawBsonRef::Int32(v))
    }

    /// An int32 if it is one, else an int64.
    pub(crate) fn count(v: usize) -> Value<'d> {
        match i32::try_from(v) {
            Ok(v) => Value::int(v),
            Err(_) => Value::Borrowed(RawBsonRef::Int64(v as i64)),
        }
    }

    pub(crate) fn date(millis: i64) -> Value<'d> {
        Value::Borrowed(RawBsonRef::DateTime(bson::DateTime::from_millis(millis)))
    }

    pub(crate) fn string(v: impl Into<String>) -> Value<'d> {
        Value::owned(RawBson::String(v.into()))
    }

    pub(crate) fn array(v: RawArrayBuf) -> Value<'d> {
        Value::owned(RawBson::Array(v))
    }

    pub(crate) fn document(v: RawDocumentBuf) -> Value<'d> {
        Value::owned(RawBson::Document(v))
    }

    pub(crate) fn owned(v: RawBson) -> Value<'d> {
        Value::Owned(Rc::new(v))
    }

    /// The value, if there is one.
    pub(crate) fn get(&self) -> Option<RawBsonRef<'_>> {
        match self {
            Value::Missing => None,
            Value::Borrowed(v) => Some(*v),
            Value::Owned(v) => Some(v.as_raw_bson_ref()),
        }
    }

    /// The value; null if there is none.
    pub(crate) fn or_null(&self) -> RawBsonRef<'_> {
        self.get().unwrap_or(RawBsonRef::Null)
    }

    pub(crate) fn into_raw(self) -> Option<RawBson> {
        match self {
            Value::Missing => None,
            Value::Borrowed(v) => Some(v.into()),
            Value::Owned(v) => Some(Rc::try_unwrap(v).unwrap_or_else(|v| (*v).clone())),
        }
    }

    /// Null, undefined, or none.
    pub(crate) fn is_nullish(&self) -> bool {
        matches!(self.or_null(), RawBsonRef::Null | RawBsonRef::Undefined)
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Value::Missing)
    }

    pub(crate) fn is_true(&self) -> bool {
        self.get().is_some_and(is_true)
    }

    pub(crate) fn is_number(&self) -> bool {
        self.get().is_some_and(is_number)
    }

    pub(crate) fn is_array(&self) -> bool {
        matches!(self.get(), Some(RawBsonRef::Array(_)))
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self.get() {
            Some(RawBsonRef::String(v) | RawBsonRef::Symbol(v)) => Some(v),
            _ => None,
        }
    }

    pub(crate) fn as_document(&self) -> Option<&RawDocument> {
        match self.get() {
            Some(RawBsonRef::Document(v)) => Some(v),
            _ => None,
        }
    }

    /// Bytes it takes in a document, about.
    pub(crate) fn size(&self) -> usize {
        match self.get() {
            None => 0,
            Some(RawBsonRef::String(v) | RawBsonRef::Symbol(v)) => v.len() + 5,
            Some(RawBsonRef::Binary(v)) => v.bytes.len() + 5,
            Some(v) => as_object(v).map_or(16, |v| v.as_bytes().len()),
        }
    }

    /// The type's name for messages; "missing" if there is no value.
    pub(crate) fn type_name(&self) -> &'static str {
        self.get().map_or("missing", type_name)
    }

    /// The elements, if this is an array.
    pub(crate) fn elements(&self) -> Option<Vec<Value<'d>>> {
        match self {
            Value::Borrowed(RawBsonRef::Array(v)) => Some(elements(v).map(Value::Borrowed).collect()),
            Value::Owned(v) => match &**v {
                RawBson::Array(v) => Some(elements(v).map(|v| Value::owned(v.into())).collect()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the path leads to: of an array, what it leads to in each of its documents.
    pub(crate) fn at_path(&self, path: &[Box<str>]) -> Value<'d> {
        match self {
            Value::Missing => Value::Missing,
            Value::Borrowed(v) => at_path(*v, path),
            // What is found in a value made anew can't outlive it, so it is copied.
            Value::Owned(v) => match at_path(v.as_raw_bson_ref(), path) {
                Value::Missing => Value::Missing,
                Value::Borrowed(v) => Value::owned(v.into()),
                Value::Owned(v) => Value::Owned(v),
            },
        }
    }
}

fn at_path<'v>(mut v: RawBsonRef<'v>, mut path: &[Box<str>]) -> Value<'v> {
    while let Some((name, rest)) = path.split_first() {
        match v {
            RawBsonRef::Document(doc) => match field(doc, name) {
                Some(inner) => (v, path) = (inner, rest),
                None => return Value::Missing,
            },
            RawBsonRef::Array(array) => {
                let mut out = RawArrayBuf::new();
                for element in elements(array) {
                    // Arrays in arrays are not gone into.
                    if matches!(element, RawBsonRef::Document(_))
                        && let Some(found) = at_path(element, path).get()
                    {
                        out.push(found);
                    }
                }
                return Value::array(out);
            }
            _ => return Value::Missing,
        }
    }
    Value::Borrowed(v)
}
