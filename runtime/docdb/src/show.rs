//! Values as people read them in messages and plans, in the shell's notation: `{ u: "x", n: 2 }`.

use std::fmt::Write as _;

use bson::{RawBsonRef, RawDocument};

/// Longest text of one value in a message; the rest is cut off.
const TEXT_BYTES_MAX: usize = 256;

/// A value in the shell's notation, shortened when it is long.
pub(crate) fn value(value: RawBsonRef<'_>) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    shorten(text)
}

/// A document in the shell's notation, shortened when it is long.
pub(crate) fn document(document: &RawDocument) -> String {
    let mut text = String::new();
    write_fields(&mut text, document);
    shorten(text)
}

fn shorten(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn write_value(out: &mut String, value: RawBsonRef<'_>) {
    if out.len() > TEXT_BYTES_MAX {
        return;
    }
    // Writing to a string can't fail.
    let _ = match value {
        RawBsonRef::Double(number) => write!(out, "{number:?}"),
        RawBsonRef::Int32(number) => write!(out, "{number}"),
        RawBsonRef::Int64(number) => write!(out, "{number}"),
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => {
            let end = text
                .char_indices()
                .nth(TEXT_BYTES_MAX)
                .map_or(text.len(), |(end, _)| end);
            write!(out, "{:?}", &text[..end])
        }
        RawBsonRef::Boolean(flag) => write!(out, "{flag}"),
        RawBsonRef::Null => out.write_str("null"),
        RawBsonRef::Undefined => out.write_str("undefined"),
        RawBsonRef::MinKey => out.write_str("MinKey"),
        RawBsonRef::MaxKey => out.write_str("MaxKey"),
        RawBsonRef::ObjectId(id) => write!(out, "ObjectId('{id}')"),
        RawBsonRef::DateTime(date) => write!(out, "new Date({})", date.timestamp_millis()),
        RawBsonRef::Document(document) => {
            write_fields(out, document);
            Ok(())
        }
        RawBsonRef::Array(array) => {
            out.push_str("[ ");
            for (place, element) in array.into_iter().flatten().enumerate() {
                if place > 0 {
                    out.push_str(", ");
                }
                write_value(out, element);
            }
            out.write_str(" ]")
        }
        RawBsonRef::Binary(binary) => write!(
            out,
            "BinData({}, {} bytes)",
            u8::from(binary.subtype),
            binary.bytes.len()
        ),
        RawBsonRef::RegularExpression(regex) => {
            write!(out, "/{}/{}", regex.pattern.as_str(), regex.options.as_str())
        }
        RawBsonRef::Decimal128(number) => write!(out, "{number}"),
        RawBsonRef::Timestamp(stamp) => write!(out, "Timestamp({}, {})", stamp.time, stamp.increment),
        other => write!(out, "{other:?}"),
    };
}

fn write_fields(out: &mut String, document: &RawDocument) {
    out.push('{');
    for (place, (name, value)) in document.into_iter().flatten().enumerate() {
        out.push_str(if place == 0 { " " } else { ", " });
        out.push_str(name.as_str());
        out.push_str(": ");
        write_value(out, value);
    }
    out.push_str(" }");
}
