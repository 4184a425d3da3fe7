//! Order-preserving keys: bytes whose `memcmp` order is the order of values. Self-delimiting, so that the keys of
//! several fields can be written one after another; descending inverts all bytes of a field.
//!
//! A key is the value's class (one byte, see `value::canonical_class`) and a payload:
//! - MinKey, undefined, null, MaxKey: nothing.
//! - Numbers: the double next to the number towards zero, 8 bytes big-endian, positive ones with the sign bit set,
//!   negative ones inverted (NaN is zero); then 00 when the number is that double, else 01, the decimal exponent of
//!   its magnitude plus 7000 (2 bytes) and its digits as 34-digit integer (15 bytes). The part after the double is
//!   inverted when the sign bit is not set.
//! - Strings, symbols, code: the bytes with 00 as 01 01 and 01 as 01 02; then 00.
//! - Documents: for each field its class, its name and 00, its payload; then 00. Arrays: the keys of the elements;
//!   then 00.
//! - Binary data: length as stored (4 bytes), subtype, bytes. DBPointers: length (4 bytes), bytes as stored.
//! - ObjectIds: 12 bytes. Booleans: one byte. Dates: 8 bytes with the sign bit flipped. Timestamps: 8 bytes.
//! - Regular expressions: pattern, 00, options, 00. Code with scope: as code, then as a document.

use bson::{RawBsonRef, RawDocument};

use crate::value::{binary_parts, canonical_class, db_pointer_bytes, elements, fields, place};

/// Largest class plus one.
const CLASS_END: u8 = 0xFF;
/// Bytes after the double of a number that is none: marker, exponent, digits.
const REST_LEN: usize = 1 + 2 + 15;
/// Set in the first bit of a number's payload when it is positive.
const SIGN: u64 = 1 << 63;
/// Deepest nesting that is followed in key bytes: more than any stored document has.
const DEPTH_MAX: usize = 250;

/// Appends the key of a value. Values that compare equal (int 42, double 42.0) have the same key.
pub(crate) fn encode(out: &mut Vec<u8>, v: RawBsonRef<'_>, descending: bool) {
    encode_text(out, v, descending, &Plain);
}

/// How strings are written in keys.
pub(crate) trait Text {
    /// Appends bytes that order the text, ended as [`escape`] does.
    fn write(&self, out: &mut Vec<u8>, text: &str);
}

/// Their own bytes.
struct Plain;

impl Text for Plain {
    fn write(&self, out: &mut Vec<u8>, text: &str) {
        escape(out, text.as_bytes());
    }
}

/// [`encode`] with strings written in another way.
pub(crate) fn encode_text(out: &mut Vec<u8>, v: RawBsonRef<'_>, descending: bool, text: &impl Text) {
    let start = out.len();
    out.push(canonical_class(v));
    payload(out, v, text);
    if descending {
        invert(&mut out[start..]);
    }
}

/// The ascending keys of all values of `v`'s class: from the first (inclusive) to the second (exclusive). For
/// MinKey and MaxKey, which compare with all types, the range of everything.
pub(crate) fn class_range(v: RawBsonRef<'_>) -> (Vec<u8>, Vec<u8>) {
    match v {
        RawBsonRef::MinKey | RawBsonRef::MaxKey => (vec![0], vec![CLASS_END]),
        v => (vec![canonical_class(v)], vec![canonical_class(v) + 1]),
    }
}

/// The ascending keys of all strings that start with `prefix`: from the first to the second (exclusive).
pub(crate) fn string_prefix_range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let mut low = vec![canonical_class(RawBsonRef::String(""))];
    escape(&mut low, prefix.as_bytes());
    low.pop();
    let mut high = low.clone();
    // No byte of a key's text is FF, nor is the class, so the last byte can go up by one.
    if let Some(last) = high.last_mut() {
        *last += 1;
    }
    (low, high)
}

/// Inverts key bytes, turning an ascending field's key into a descending one and back. A range `a..b` of ascending
/// keys becomes `invert(b)..invert(a)` with the bounds' inclusiveness swapped too.
pub(crate) fn invert(key: &mut [u8]) {
    for byte in key {
        *byte = !*byte;
    }
}

fn payload(out: &mut Vec<u8>, v: RawBsonRef<'_>, text: &impl Text) {
    use RawBsonRef as V;
    match v {
        V::MinKey | V::Undefined | V::Null | V::MaxKey => {}
        V::Int32(_) | V::Int64(_) | V::Double(_) | V::Decimal128(_) => number(out, v),
        V::String(s) | V::Symbol(s) => text.write(out, s),
        V::JavaScriptCode(s) => escape(out, s.as_bytes()),
        V::Document(d) => document(out, d, text),
        V::Array(a) => {
            for element in elements(a) {
                out.push(canonical_class(element));
                payload(out, element, text);
            }
            out.push(0);
        }
        V::Binary(b) => {
            let (len, subtype, bytes) = binary_parts(b);
            out.extend_from_slice(&(len as u32).to_be_bytes());
            out.push(subtype);
            out.extend_from_slice(bytes);
        }
        V::ObjectId(id) => out.extend_from_slice(&id.bytes()),
        V::Boolean(b) => out.push(b.into()),
        V::DateTime(t) => {
            out.extend_from_slice(&((t.timestamp_millis() as u64) ^ (1 << 63)).to_be_bytes());
        }
        V::Timestamp(t) => {
            out.extend_from_slice(&t.time.to_be_bytes());
            out.extend_from_slice(&t.increment.to_be_bytes());
        }
        V::RegularExpression(r) => {
            name(out, r.pattern.as_str());
            name(out, r.options.as_str());
        }
        V::DbPointer(p) => {
            let bytes = db_pointer_bytes(p);
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(&bytes);
        }
        V::JavaScriptCodeWithScope(c) => {
            escape(out, c.code.as_bytes());
            document(out, c.scope, text);
        }
    }
}

fn number(out: &mut Vec<u8>, v: RawBsonRef<'_>) {
    let place = place(v);
    out.extend_from_slice(&place.head.to_be_bytes());
    let start = out.len();
    match place.rest {
        None => out.push(0),
        Some((exponent, digits)) => {
            out.push(1);
            out.extend_from_slice(&exponent.to_be_bytes());
            out.extend_from_slice(&digits.to_be_bytes()[1..]);
        }
    }
    if place.is_negative() {
        invert(&mut out[start..]);
    }
}

fn document(out: &mut Vec<u8>, doc: &RawDocument, text: &impl Text) {
    for (key, value) in fields(doc) {
        out.push(canonical_class(value));
        name(out, key);
        payload(out, value, text);
    }
    out.push(0);
}

/// Appends bytes so that what follows them does not change their order.
pub(crate) fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes.iter().copied() {
        match byte {
            0 => out.extend_from_slice(&[1, 1]),
            1 => out.extend_from_slice(&[1, 2]),
            byte => out.push(byte),
        }
    }
    out.push(0);
}

/// Text that has no NUL.
fn name(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// The double in the ascending payload of a number that is one.
pub(crate) fn double_of(payload: &[u8]) -> Option<f64> {
    let head = u64::from_be_bytes(*payload.first_chunk()?);
    let positive = head & SIGN != 0;
    Some(f64::from_bits(if positive { head ^ SIGN } else { !head }))
}

/// The text in the ascending payload of a string, a symbol or code.
pub(crate) fn text_of(payload: &[u8]) -> Option<String> {
    let mut text = Vec::with_capacity(payload.len());
    let mut bytes = payload.iter();
    loop {
        match *bytes.next()? {
            0 => return String::from_utf8(text).ok(),
            1 => text.push(bytes.next()?.checked_sub(1)?),
            byte => text.push(byte),
        }
    }
}

/// Length of the first field's key in `key`, whose direction is given; `None` when it is cut short or not a key.
pub(crate) fn field_len(key: &[u8], descending: bool) -> Option<usize> {
    let mut walk = Walk {
        key,
        at: 0,
        mask: if descending { 0xFF } else { 0 },
        depth: 0,
    };
    let class = walk.byte()?;
    walk.payload(class)?;
    Some(walk.at)
}

/// A position in a key while its parts are passed over.
struct Walk<'k> {
    key: &'k [u8],
    at: usize,
    mask: u8,
    depth: usize,
}

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.key.get(self.at)? ^ self.mask;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.at = self.at.checked_add(len).filter(|at| *at <= self.key.len())?;
        Some(())
    }

    fn text(&mut self) -> Option<()> {
        while self.byte()? != 0 {}
        Some(())
    }

    fn length(&mut self) -> Option<usize> {
        let bytes = [self.byte()?, self.byte()?, self.byte()?, self.byte()?];
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    }

    fn document(&mut self) -> Option<()> {
        loop {
            match self.byte()? {
                0 => return Some(()),
                class => {
                    self.text()?;
                    self.payload(class)?;
                }
            }
        }
    }

    fn payload(&mut self, class: u8) -> Option<()> {
        if self.depth > DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let passed = self.payload_inside(class);
        self.depth -= 1;
        passed
    }

    fn payload_inside(&mut self, class: u8) -> Option<()> {
        match class {
            1 | 5 | 10 | 200 => Some(()),
            20 => {
                let negative = *self.key.get(self.at)? ^ self.mask < 0x80;
                self.skip(8)?;
                let marker = self.byte()? ^ if negative { 0xFF } else { 0 };
                if marker == 0 {
                    Some(())
                } else {
                    self.skip(REST_LEN - 1)
                }
            }
            30 | 130 => self.text(),
            40 => self.document(),
            50 => loop {
                match self.byte()? {
                    0 => return Some(()),
                    class => self.payload(class)?,
                }
            },
            60 => {
                let len = self.length()?;
                let inner_length = if self.byte()? == 2 { 4 } else { 0 };
                self.skip(len.checked_sub(inner_length)?)
            }
            70 => self.skip(12),
            80 => self.skip(1),
            90 | 100 => self.skip(8),
            110 => {
                self.text()?;
                self.text()
            }
            120 => {
                let len = self.length()?;
                self.skip(len)
            }
            140 => {
                self.text()?;
                self.document()
            }
            _ => None,
        }
    }
}
