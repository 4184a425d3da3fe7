//! Order-preserving keys: bytes whose `memcmp` order is the order of values. Self-delimiting, so that the keys of
//! several fields can be written one after another; descending inverts all bytes of a field.
#![expect(unused_variables, dead_code, reason = "being built")]

use bson::RawBsonRef;

/// Appends the key of a value. Values that compare equal (int 42, double 42.0) have the same key.
pub(crate) fn encode(out: &mut Vec<u8>, v: RawBsonRef<'_>, descending: bool) {
    todo!()
}

/// Appends the key of a missing field: that of null.
pub(crate) fn encode_missing(out: &mut Vec<u8>, descending: bool) {
    encode(out, RawBsonRef::Null, descending);
}

/// Appends the key of an empty array in an index: that of undefined, just before null.
pub(crate) fn encode_undefined(out: &mut Vec<u8>, descending: bool) {
    encode(out, RawBsonRef::Undefined, descending);
}

/// The ascending keys of all values of `v`'s class: from the first (inclusive) to the second (exclusive). For
/// MinKey and MaxKey, which compare with all types, the range of everything.
pub(crate) fn class_range(v: RawBsonRef<'_>) -> (Vec<u8>, Vec<u8>) {
    todo!()
}

/// The ascending keys of all strings that start with `prefix`: from the first to the second (exclusive).
pub(crate) fn string_prefix_range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    todo!()
}

/// Inverts key bytes, turning an ascending field's key into a descending one and back. A range `a..b` of ascending
/// keys becomes `invert(b)..invert(a)` with the bounds' inclusiveness swapped too.
pub(crate) fn invert(key: &mut [u8]) {
    for byte in key {
        *byte = !*byte;
    }
}

/// Length of the first field's key in `key`, whose direction is given; `None` when it is cut short or not a key.
pub(crate) fn field_len(key: &[u8], descending: bool) -> Option<usize> {
    todo!()
}
