//! One document of BSON to extended JSON, version 2.

use std::io::{Result, Write};

use base64::Engine as _;
use bson::raw::cstr;
use bson::{DateTime, RawBsonRef, RawDocument, RawDocumentBuf, oid::ObjectId};

/// How values are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JsonStyle {
    /// MongoDB's relaxed form: numbers and dates that people read. Types of numbers are lost.
    #[default]
    Relaxed,
    /// MongoDB's canonical form: every type is kept.
    Canonical,
    /// As CloudBase exports: relaxed, but dates are ISO dates with milliseconds also before 1970.
    CloudBase,
}

/// First and last millisecond of the years that an ISO date of extended JSON may have.
const RELAXED_DATES: std::ops::RangeInclusive<i64> = 0..=253_402_300_799_999;
/// The same for all years of four digits.
const ISO_DATES: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// Writes a document on one line, without the line's end.
///
/// # Errors
/// Those of `out`, and `InvalidData` when the document is malformed.
pub fn print_document(document: &RawDocument, style: JsonStyle, out: &mut impl Write) -> Result<()> {
    out.write_all(b"{")?;
    for (place, field) in document.iter().enumerate() {
        let (name, value) = field.map_err(malformed)?;
        if place > 0 {
            out.write_all(b",")?;
        }
        print_string(name.as_str(), out)?;
        out.write_all(b":")?;
        print_value(value, style, out)?;
    }
    out.write_all(b"}")
}

/// Writes a value.
///
/// # Errors
/// As [`print_document`].
pub fn print_value(value: RawBsonRef<'_>, style: JsonStyle, out: &mut impl Write) -> Result<()> {
    let canonical = style == JsonStyle::Canonical;
    match value {
        RawBsonRef::Double(number) if canonical || !number.is_finite() => {
            write!(out, "{{\"$numberDouble\":\"{}\"}}", double(number))
        }
        RawBsonRef::Double(number) => out.write_all(double(number).as_bytes()),
        RawBsonRef::String(text) => print_string(text, out),
        RawBsonRef::Array(array) => {
            out.write_all(b"[")?;
            for (place, value) in array.into_iter().enumerate() {
                if place > 0 {
                    out.write_all(b",")?;
                }
                print_value(value.map_err(malformed)?, style, out)?;
            }
            out.write_all(b"]")
        }
        RawBsonRef::Document(document) => print_document(document, style, out),
        RawBsonRef::Boolean(flag) => write!(out, "{flag}"),
        RawBsonRef::Null => out.write_all(b"null"),
        RawBsonRef::RegularExpression(regex) => {
            out.write_all(b"{\"$regularExpression\":{\"pattern\":")?;
            print_string(regex.pattern.as_str(), out)?;
            out.write_all(b",\"options\":")?;
            print_string(regex.options.as_str(), out)?;
            out.write_all(b"}}")
        }
        RawBsonRef::JavaScriptCode(code) => {
            out.write_all(b"{\"$code\":")?;
            print_string(code, out)?;
            out.write_all(b"}")
        }
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.write_all(b"{\"$code\":")?;
            print_string(code.code, out)?;
            out.write_all(b",\"$scope\":")?;
            print_document(code.scope, style, out)?;
            out.write_all(b"}")
        }
        RawBsonRef::Int32(number) if canonical => write!(out, "{{\"$numberInt\":\"{number}\"}}"),
        RawBsonRef::Int32(number) => write!(out, "{number}"),
        RawBsonRef::Int64(number) if canonical => write!(out, "{{\"$numberLong\":\"{number}\"}}"),
        RawBsonRef::Int64(number) => write!(out, "{number}"),
        RawBsonRef::Timestamp(stamp) => write!(
            out,
            "{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}",
            stamp.time, stamp.increment
        ),
        RawBsonRef::Binary(binary) => {
            let base64 = base64::engine::general_purpose::STANDARD.encode(binary.bytes);
            let subtype = u8::from(binary.subtype);
            write!(
                out,
                "{{\"$binary\":{{\"base64\":\"{base64}\",\"subType\":\"{subtype:02x}\"}}}}"
            )
        }
        RawBsonRef::ObjectId(id) => write!(out, "{{\"$oid\":\"{id}\"}}"),
        RawBsonRef::DateTime(date) => print_date(date, style, out),
        RawBsonRef::Symbol(text) => {
            out.write_all(b"{\"$symbol\":")?;
            print_string(text, out)?;
            out.write_all(b"}")
        }
        RawBsonRef::Decimal128(number) => write!(out, "{{\"$numberDecimal\":\"{number}\"}}"),
        RawBsonRef::Undefined => out.write_all(b"{\"$undefined\":true}"),
        RawBsonRef::MaxKey => out.write_all(b"{\"$maxKey\":1}"),
        RawBsonRef::MinKey => out.write_all(b"{\"$minKey\":1}"),
        RawBsonRef::DbPointer(_) => {
            let (collection, id) = db_pointer(value).ok_or_else(|| malformed("a pointer that is none"))?;
            out.write_all(b"{\"$dbPointer\":{\"$ref\":")?;
            print_string(&collection, out)?;
            write!(out, ",\"$id\":{{\"$oid\":\"{id}\"}}}}}}")
        }
    }
}

/// The shortest text that reads as the same number, with what makes it a double.
fn double(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        format!("{number:?}")
    }
}

fn print_date(date: DateTime, style: JsonStyle, out: &mut impl Write) -> Result<()> {
    let millis = date.timestamp_millis();
    let iso = match style {
        JsonStyle::Canonical => false,
        JsonStyle::Relaxed => RELAXED_DATES.contains(&millis),
        JsonStyle::CloudBase => ISO_DATES.contains(&millis),
    };
    // Whole seconds are formatted, so that the fraction has always the same form.
    let seconds = iso.then(|| DateTime::from_millis(millis - millis.rem_euclid(1000)));
    match seconds.and_then(|seconds| seconds.try_to_rfc3339_string().ok()) {
        Some(text) => {
            let fraction = millis.rem_euclid(1000);
            let text = text.trim_end_matches('Z');
            match (fraction, style) {
                (0, JsonStyle::Relaxed) => write!(out, "{{\"$date\":\"{text}Z\"}}"),
                _ => write!(out, "{{\"$date\":\"{text}.{fraction:03}Z\"}}"),
            }
        }
        None => write!(out, "{{\"$date\":{{\"$numberLong\":\"{millis}\"}}}}"),
    }
}

/// The parts of a pointer, which are in its bytes only.
fn db_pointer(value: RawBsonRef<'_>) -> Option<(String, ObjectId)> {
    // A document of one field with a name of one byte: length, type, name, then the value's bytes.
    const VALUE_AT: usize = 4 + 1 + 2;
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("p"), value);
    let bytes = document.as_bytes();
    let length = usize::try_from(i32::from_le_bytes(*bytes.get(VALUE_AT..)?.first_chunk::<4>()?)).ok()?;
    let text = bytes.get(VALUE_AT + 4..)?.get(..length.checked_sub(1)?)?;
    let id = bytes.get(VALUE_AT + 4 + length..)?.first_chunk::<12>()?;
    Some((str::from_utf8(text).ok()?.to_owned(), ObjectId::from_bytes(*id)))
}

fn print_string(text: &str, out: &mut impl Write) -> Result<()> {
    out.write_all(b"\"")?;
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..0x20 | 0x7F) {
            continue;
        }
        out.write_all(&bytes[from..at])?;
        from = at + 1;
        match byte {
            b'"' => out.write_all(b"\\\"")?,
            b'\\' => out.write_all(b"\\\\")?,
            b'\n' => out.write_all(b"\\n")?,
            b'\r' => out.write_all(b"\\r")?,
            b'\t' => out.write_all(b"\\t")?,
            byte => write!(out, "\\u{byte:04x}")?,
        }
    }
    out.write_all(&bytes[from..])?;
    out.write_all(b"\"")
}

fn malformed(error: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        format!("malformed BSON: {error}"),
    )
}
