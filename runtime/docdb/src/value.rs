//! MongoDB's total order over BSON values, on raw bytes and without copying, and the checks that make a document
//! fit to be stored.
#![expect(unused_variables, dead_code, reason = "being built")]

use std::cmp::Ordering;

use bson::oid::ObjectId;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::{Limits, Result};

/// MongoDB's total order of values of all types. Numbers of different types that are equal compare equal.
pub(crate) fn compare(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    todo!()
}

/// Place of a value's type in the order; types of one class are compared by value (all numbers, string and symbol).
pub(crate) fn canonical_class(v: RawBsonRef<'_>) -> u8 {
    todo!()
}

/// Checks that a document may be stored: well-formed all through (lengths, UTF-8), within size and depth, no
/// `$`-prefixed first-level field, `_id` no array, regex or undefined.
pub(crate) fn validate_document(doc: &RawDocument, limits: &Limits) -> Result<()> {
    todo!()
}

/// Checks only that the bytes are well-formed BSON (lengths, types, UTF-8) nested at most `depth_max` deep; for
/// filters, updates and other arguments.
pub(crate) fn check_well_formed(doc: &RawDocument, depth_max: usize) -> Result<()> {
    todo!()
}

/// The document with `_id` as its first field; `fresh` is used when it has none.
pub(crate) fn ensure_id_first(doc: &RawDocument, fresh: ObjectId) -> RawDocumentBuf {
    todo!()
}
