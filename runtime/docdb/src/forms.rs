//! What an index entry's key does not tell of the values in it, so that a query that needs no other fields is answered
//! without the document: which type a number has, strings from symbols, null from a missing field, and the order in
//! which the fields stand in the document. `runtime/docs/docdb-format.md` has it byte by byte.
//!
//! A document that is not told here at all (arrays, documents and other rare values in an indexed field) is fetched, as
//! are those of all indexes whose fields are inside of documents, and of those that an earlier version made.

use bson::oid::ObjectId;
use bson::raw::{CStr, CString};
use bson::spec::BinarySubtype;
use bson::{
    Binary, DateTime, Decimal128, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, Regex, Timestamp,
};

use crate::index::IndexField;
use crate::keycode;
use crate::value::raw_fields;

/// The fields stand in the document in the order of the index.
const IN_ORDER: u8 = 1;
/// They do not, and their ranks follow.
const RANKED: u8 = 2;

/// How a field's value comes from its key.
mod form {
    pub(super) const MISSING: u8 = 0;
    /// As the key's class says.
    pub(super) const PLAIN: u8 = 1;
    pub(super) const INT32: u8 = 2;
    pub(super) const INT64: u8 = 3;
    pub(super) const DOUBLE: u8 = 4;
    pub(super) const SYMBOL: u8 = 5;
    /// Their bytes follow.
    pub(super) const INT64_BYTES: u8 = 6;
    pub(super) const DOUBLE_BYTES: u8 = 7;
    pub(super) const DECIMAL_BYTES: u8 = 8;
}

/// Integers up to this are doubles exactly.
const EXACT_MAX: u64 = 1 << 53;

/// What the document's key in the index leaves open; empty when that is not told.
pub(crate) fn of(document: &RawDocument, fields: &[IndexField]) -> Vec<u8> {
    tell(document, fields).unwrap_or_default()
}

fn tell(document: &RawDocument, fields: &[IndexField]) -> Option<Vec<u8>> {
    let mut found: Vec<Option<(usize, RawBsonRef<'_>)>> = vec![None; fields.len()];
    for (at, (name, value)) in raw_fields(document).enumerate() {
        for (field, found) in fields.iter().zip(&mut found) {
            // Of two fields of one name the index has the first, and a projection shows both.
            if field.path.as_str() == name.as_str() && found.replace((at, value)).is_some() {
                return None;
            }
        }
    }
    let places = || found.iter().flatten().map(|(at, _)| *at);
    let mut out = Vec::with_capacity(1 + fields.len());
    if places().is_sorted() {
        out.push(IN_ORDER);
    } else {
        out.push(RANKED);
        for field in &found {
            let rank = field.map_or(0, |(at, _)| places().filter(|other| *other < at).count());
            out.push(u8::try_from(rank).ok()?);
        }
    }
    for field in found {
        match field {
            None => out.push(form::MISSING),
            Some((_, value)) => tell_value(&mut out, value)?,
        }
    }
    Some(out)
}

fn tell_value(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Option<()> {
    use RawBsonRef as V;
    match value {
        V::MinKey
        | V::MaxKey
        | V::Null
        | V::String(_)
        | V::ObjectId(_)
        | V::Boolean(_)
        | V::DateTime(_)
        | V::Timestamp(_) => out.push(form::PLAIN),
        V::Binary(binary) if binary.subtype != BinarySubtype::BinaryOld => out.push(form::PLAIN),
        V::RegularExpression(_) | V::JavaScriptCode(_) => out.push(form::PLAIN),
        V::Symbol(_) => out.push(form::SYMBOL),
        V::Int32(_) => out.push(form::INT32),
        V::Int64(v) if v.unsigned_abs() <= EXACT_MAX => out.push(form::INT64),
        V::Int64(v) => {
            out.push(form::INT64_BYTES);
            out.extend_from_slice(&v.to_be_bytes());
        }
        V::Double(v) if !v.is_nan() && v.to_bits() != (-0.0_f64).to_bits() => out.push(form::DOUBLE),
        V::Double(v) => {
            out.push(form::DOUBLE_BYTES);
            out.extend_from_slice(&v.to_bits().to_be_bytes());
        }
        V::Decimal128(v) => {
            out.push(form::DECIMAL_BYTES);
            out.extend_from_slice(&v.bytes());
        }
        V::Undefined
        | V::Document(_)
        | V::Array(_)
        | V::Binary(_)
        | V::DbPointer(_)
        | V::JavaScriptCodeWithScope(_) => return None,
    }
    Some(())
}

/// The names of an index's fields, if what its entries tell is enough to make documents of: they stand in no other
/// document.
pub(crate) fn names(fields: &[IndexField]) -> Option<Vec<CString>> {
    let name = |field: &IndexField| {
        let plain = field.path.parts().len() == 1;
        let name = <&CStr>::try_from(field.path.as_str()).ok()?;
        plain.then(|| name.to_owned())
    };
    fields.iter().map(name).collect()
}

/// The indexed fields of the document that has the entry: `key` begins with the first field's key, `forms` is what
/// [`of`] told. None when it did not, or the entry is damaged.
pub(crate) fn restore(
    names: &[CString],
    fields: &[IndexField],
    key: &[u8],
    forms: &[u8],
) -> Option<RawDocumentBuf> {
    let (order, rest) = forms.split_first()?;
    let (ranks, mut forms) = match *order {
        IN_ORDER => (&[][..], rest),
        RANKED => rest.split_at_checked(fields.len())?,
        _ => return None,
    };
    let mut document = RawDocumentBuf::new();
    let mut ranked = Vec::new();
    let mut rest = key;
    for (at, (name, field)) in names.iter().zip(fields).enumerate() {
        let (key, after) = rest.split_at_checked(keycode::field_len(rest, field.descending)?)?;
        rest = after;
        let (form, after) = forms.split_first()?;
        forms = after;
        let mut inverted;
        let key = if field.descending {
            inverted = key.to_vec();
            keycode::invert(&mut inverted);
            inverted.as_slice()
        } else {
            key
        };
        let Some(value) = restore_value(*form, key, &mut forms)? else {
            continue;
        };
        match ranks.get(at) {
            None => document.append(name, value),
            Some(rank) => ranked.push((*rank, name, value)),
        }
    }
    ranked.sort_by_key(|(rank, _, _)| *rank);
    for (_, name, value) in ranked {
        document.append(name, value);
    }
    Some(document)
}

/// A value from its ascending key; the outer none is a damaged entry, the inner one a missing field.
fn restore_value(form: u8, key: &[u8], forms: &mut &[u8]) -> Option<Option<RawBson>> {
    fn take<const N: usize>(forms: &mut &[u8]) -> Option<[u8; N]> {
        let (bytes, rest) = forms.split_first_chunk()?;
        *forms = rest;
        Some(*bytes)
    }
    let payload = key.get(1..)?;
    let value = match form {
        form::MISSING => return Some(None),
        form::PLAIN => plain(*key.first()?, payload)?,
        form::INT32 => RawBson::Int32(keycode::double_of(payload)? as i32),
        form::INT64 => RawBson::Int64(keycode::double_of(payload)? as i64),
        form::DOUBLE => RawBson::Double(keycode::double_of(payload)?),
        form::SYMBOL => RawBson::Symbol(keycode::text_of(payload)?),
        form::INT64_BYTES => RawBson::Int64(i64::from_be_bytes(take(forms)?)),
        form::DOUBLE_BYTES => RawBson::Double(f64::from_bits(u64::from_be_bytes(take(forms)?))),
        form::DECIMAL_BYTES => RawBson::Decimal128(Decimal128::from_bytes(take(forms)?)),
        _ => return None,
    };
    Some(Some(value))
}

/// A value that its key tells wholly.
fn plain(class: u8, payload: &[u8]) -> Option<RawBson> {
    let u32_of = |bytes: &[u8]| Some(u32::from_be_bytes(*bytes.first_chunk()?));
    Some(match class {
        0x01 => RawBson::MinKey,
        0x0A => RawBson::Null,
        0x1E => RawBson::String(keycode::text_of(payload)?),
        0x3C => {
            let subtype = BinarySubtype::from(*payload.get(4)?);
            RawBson::Binary(Binary {
                subtype,
                bytes: payload.get(5..)?.to_vec(),
            })
        }
        0x46 => RawBson::ObjectId(ObjectId::from_bytes(*payload.first_chunk()?)),
        0x50 => RawBson::Boolean(*payload.first()? == 1),
        0x5A => {
            let millis = u64::from_be_bytes(*payload.first_chunk()?) ^ (1 << 63);
            RawBson::DateTime(DateTime::from_millis(millis as i64))
        }
        0x64 => RawBson::Timestamp(Timestamp {
            time: u32_of(payload)?,
            increment: u32_of(payload.get(4..)?)?,
        }),
        0x6E => {
            let mut parts = payload.split(|byte| *byte == 0);
            let mut part = || {
                let text = std::str::from_utf8(parts.next()?).ok()?;
                CString::try_from(text.to_owned()).ok()
            };
            RawBson::RegularExpression(Regex {
                pattern: part()?,
                options: part()?,
            })
        }
        0x82 => RawBson::JavaScriptCode(keycode::text_of(payload)?),
        0xC8 => RawBson::MaxKey,
        _ => return None,
    })
}
