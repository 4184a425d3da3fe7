//! Extended JSON both ways: JSON text of any of its forms (canonical, relaxed, the SDKs' own `$date` variants and
//! server dates) to BSON with the order of fields kept, and BSON to the relaxed form. Used by the gateway dialect and
//! by the admin API's document commands.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::raw::{CString, RawBsonRef, RawDocument};
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, Regex};
use cloudlet_base::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Integers beyond these lose digits in JavaScript's numbers.
const SAFE_INTEGER: i64 = (1 << 53) - 1;

/// A JSON value that keeps the order of fields, which BSON's meaning depends on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Why a JSON text is not a BSON value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EjsonError {
    /// Not JSON, or nested too deeply.
    #[error("malformed JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but not a document.
    #[error("expected a JSON object")]
    NotADocument,
    /// `{"$oid": 7}` and the like.
    #[error("malformed {0} in extended JSON")]
    Malformed(String),
    /// A document that BSON can't hold.
    #[error("{0}")]
    Bson(#[from] bson::error::Error),
}

impl Json {
    /// Parses a text. Nesting is bounded by serde_json (128).
    pub(crate) fn parse(text: &[u8]) -> Result<Self, EjsonError> {
        Ok(serde_json::from_slice(text)?)
    }

    /// The value of a field of an object.
    pub(crate) fn field(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is `true`.
    pub(crate) fn is_true(&self) -> bool {
        *self == Json::Bool(true)
    }

    /// The document that this object is; server dates become `now`.
    pub(crate) fn to_document(&self, now: Timestamp) -> Result<Document, EjsonError> {
        match self.to_bson(now)? {
            Bson::Document(document) => Ok(document),
            _ => Err(EjsonError::NotADocument),
        }
    }

    /// The BSON value that this is.
    pub(crate) fn to_bson(&self, now: Timestamp) -> Result<Bson, EjsonError> {
        Ok(match self {
            Json::Null => Bson::Null,
            Json::Bool(yes) => Bson::Boolean(*yes),
            Json::Int(number) => match i32::try_from(*number) {
                Ok(number) => Bson::Int32(number),
                Err(_) => Bson::Int64(*number),
            },
            Json::Float(number) => Bson::Double(*number),
            Json::Text(text) => Bson::String(text.clone()),
            Json::List(items) => Bson::Array(
                items
                    .iter()
                    .map(|item| item.to_bson(now))
                    .collect::<Result<_, _>>()?,
            ),
            Json::Object(fields) => {
                if let Some(value) = extended(fields, now)? {
                    return Ok(value);
                }
                let mut document = Document::new();
                for (key, value) in fields {
                    document.insert(key.clone(), value.to_bson(now)?);
                }
                Bson::Document(document)
            }
        })
    }
}

/// The raw form of a document.
pub(crate) fn raw(document: &Document) -> Result<RawDocumentBuf, EjsonError> {
    Ok(RawDocumentBuf::try_from(document)?)
}

/// The value of an object whose first field is one of extended JSON's type names; `None` for other objects, among
/// them operators such as `$set` and `$regex`.
fn extended(fields: &[(String, Json)], now: Timestamp) -> Result<Option<Bson>, EjsonError> {
    let [(name, value)] = fields else { return Ok(None) };
    let malformed = || EjsonError::Malformed(name.clone());
    let text = || value.text().ok_or_else(malformed);
    Ok(Some(match name.as_str() {
        "$oid" => Bson::ObjectId(text()?.parse().map_err(|_| malformed())?),
        "$numberInt" => Bson::Int32(text()?.parse().map_err(|_| malformed())?),
        "$numberLong" => Bson::Int64(text()?.parse().map_err(|_| malformed())?),
        "$numberDouble" => Bson::Double(match text()? {
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            "NaN" => f64::NAN,
            other => other.parse().map_err(|_| malformed())?,
        }),
        "$numberDecimal" => Bson::Decimal128(text()?.parse::<Decimal128>().map_err(|_| malformed())?),
        "$symbol" => Bson::Symbol(text()?.to_owned()),
        "$date" | "$tcb_server_date" => Bson::DateTime(date(value, now).ok_or_else(malformed)?),
        "$binary" => {
            let bytes = value.field("base64").and_then(Json::text).ok_or_else(malformed)?;
            let subtype = value
                .field("subType")
                .and_then(Json::text)
                .ok_or_else(malformed)?;
            Bson::Binary(Binary {
                subtype: BinarySubtype::from(u8::from_str_radix(subtype, 16).map_err(|_| malformed())?),
                bytes: STANDARD.decode(bytes).map_err(|_| malformed())?,
            })
        }
        "$uuid" => {
            let digits: String = text()?.chars().filter(|c| *c != '-').collect();
            let bits = u128::from_str_radix(&digits, 16)
                .ok()
                .filter(|_| digits.len() == 32);
            let bytes = bits.ok_or_else(malformed)?.to_be_bytes().to_vec();
            Bson::Binary(Binary {
                subtype: BinarySubtype::Uuid,
                bytes,
            })
        }
        "$regularExpression" => {
            let part = |name| value.field(name).and_then(Json::text).ok_or_else(malformed);
            let part = |name| part(name).and_then(|text| CString::try_from(text).map_err(|_| malformed()));
            // BSON wants the options in alphabetical order.
            let mut options: Vec<char> = part("options")?.as_str().chars().collect();
            options.sort_unstable();
            let options: String = options.into_iter().collect();
            Bson::RegularExpression(Regex {
                pattern: part("pattern")?,
                options: CString::try_from(options).map_err(|_| malformed())?,
            })
        }
        "$timestamp" => {
            let part = |name| match value.field(name) {
                Some(Json::Int(number)) => u32::try_from(*number).map_err(|_| malformed()),
                _ => Err(malformed()),
            };
            Bson::Timestamp(bson::Timestamp {
                time: part("t")?,
                increment: part("i")?,
            })
        }
        "$minKey" => Bson::MinKey,
        "$maxKey" => Bson::MaxKey,
        "$undefined" => Bson::Undefined,
        _ => return Ok(None),
    }))
}

/// `$date` in all its forms: milliseconds, a canonical long, an ISO text, or `{offset}`: the server's time.
fn date(value: &Json, now: Timestamp) -> Option<DateTime> {
    match value {
        Json::Int(millis) => Some(DateTime::from_millis(*millis)),
        Json::Float(millis) if millis.is_finite() => Some(DateTime::from_millis(*millis as i64)),
        Json::Text(text) => DateTime::parse_rfc3339_str(text).ok(),
        Json::Object(_) => {
            if let Some(long) = value.field("$numberLong") {
                return Some(DateTime::from_millis(long.text()?.parse().ok()?));
            }
            let offset = match value.field("offset")? {
                Json::Int(offset) => *offset,
                Json::Float(offset) => *offset as i64,
                _ => return None,
            };
            Some(DateTime::from_millis(now.millis().saturating_add(offset)))
        }
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JsonVisitor;

        impl<'de> Visitor<'de> for JsonVisitor {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, yes: bool) -> Result<Json, E> {
                Ok(Json::Bool(yes))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Int(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(i64::try_from(number).map_or(Json::Float(number as f64), Json::Int))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
                Ok(Json::Float(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Json, E> {
                Ok(Json::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Json::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }
        }

        deserializer.deserialize_any(JsonVisitor)
    }
}

/// Appends a document in relaxed form. A top-level `_id` that is an ObjectId is written as its hex text: clients name
/// documents by text, and the SDK would take an ObjectId apart.
///
/// # Errors
/// When the bytes are not BSON.
pub(crate) fn write_document(out: &mut String, document: &RawDocument) -> Result<(), EjsonError> {
    write_fields(out, document, true)
}

fn write_fields(out: &mut String, document: &RawDocument, top: bool) -> Result<(), EjsonError> {
    out.push('{');
    for (index, field) in document.iter().enumerate() {
        let (key, value) = field?;
        if index > 0 {
            out.push(',');
        }
        let key = key.as_str();
        write_text(out, key);
        out.push(':');
        match value {
            RawBsonRef::ObjectId(id) if top && key == "_id" => write_text(out, &id.to_hex()),
            value => write_value(out, value)?,
        }
    }
    out.push('}');
    Ok(())
}

/// Appends a value in relaxed form.
///
/// # Errors
/// When the bytes inside are not BSON.
pub(crate) fn write_value(out: &mut String, value: RawBsonRef<'_>) -> Result<(), EjsonError> {
    // Writing to a String does not fail.
    match value {
        RawBsonRef::Null => out.push_str("null"),
        RawBsonRef::Boolean(yes) => out.push_str(if yes { "true" } else { "false" }),
        RawBsonRef::Int32(number) => _ = write!(out, "{number}"),
        RawBsonRef::Int64(number) if (-SAFE_INTEGER..=SAFE_INTEGER).contains(&number) => {
            _ = write!(out, "{number}");
        }
        RawBsonRef::Int64(number) => _ = write!(out, r#"{{"$numberLong":"{number}"}}"#),
        RawBsonRef::Double(number) if number.is_finite() => _ = write!(out, "{number:?}"),
        RawBsonRef::Double(number) => {
            let name = if number.is_nan() {
                "NaN"
            } else if number > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            };
            _ = write!(out, r#"{{"$numberDouble":"{name}"}}"#);
        }
        RawBsonRef::Decimal128(number) => _ = write!(out, r#"{{"$numberDecimal":"{number}"}}"#),
        RawBsonRef::String(text) => write_text(out, text),
        RawBsonRef::Symbol(text) => wrapped(out, "$symbol", text),
        RawBsonRef::ObjectId(id) => wrapped(out, "$oid", &id.to_hex()),
        RawBsonRef::DateTime(date) => match date.try_to_rfc3339_string() {
            Ok(text) if (0..=253_402_300_799_999).contains(&date.timestamp_millis()) => {
                wrapped(out, "$date", &text);
            }
            _ => {
                let millis = date.timestamp_millis();
                _ = write!(out, r#"{{"$date":{{"$numberLong":"{millis}"}}}}"#);
            }
        },
        RawBsonRef::Document(document) => write_fields(out, document, false)?,
        RawBsonRef::Array(items) => {
            out.push('[');
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item?)?;
            }
            out.push(']');
        }
        RawBsonRef::Binary(binary) => {
            let (bytes, subtype) = (STANDARD.encode(binary.bytes), u8::from(binary.subtype));
            _ = write!(
                out,
                r#"{{"$binary":{{"base64":"{bytes}","subType":"{subtype:02x}"}}}}"#
            );
        }
        RawBsonRef::RegularExpression(regex) => {
            out.push_str(r#"{"$regularExpression":{"pattern":"#);
            write_text(out, regex.pattern.as_str());
            out.push_str(r#","options":"#);
            write_text(out, regex.options.as_str());
            out.push_str("}}");
        }
        RawBsonRef::Timestamp(at) => {
            _ = write!(
                out,
                r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#,
                at.time, at.increment
            );
        }
        RawBsonRef::JavaScriptCode(code) => wrapped(out, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.push_str(r#"{"$code":"#);
            write_text(out, code.code);
            out.push_str(r#","$scope":"#);
            write_fields(out, code.scope, false)?;
            out.push('}');
        }
        RawBsonRef::MinKey => out.push_str(r#"{"$minKey":1}"#),
        RawBsonRef::MaxKey => out.push_str(r#"{"$maxKey":1}"#),
        RawBsonRef::Undefined | RawBsonRef::DbPointer(_) => out.push_str(r#"{"$undefined":true}"#),
    }
    Ok(())
}

fn wrapped(out: &mut String, name: &str, text: &str) {
    _ = write!(out, "{{\"{name}\":");
    write_text(out, text);
    out.push('}');
}

fn write_text(out: &mut String, text: &str) {
    // A text always has a JSON form.
    if let Ok(quoted) = serde_json::to_string(text) {
        out.push_str(&quoted);
    }
}

#[cfg(test)]
mod tests {
    use bson::{bson, doc};

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn parse(text: &str) -> Result<Bson, EjsonError> {
        Json::parse(text.as_bytes())?.to_bson(NOW)
    }

    #[test]
    fn every_form_is_read() {
        let check = |text: &str, expected: Bson| assert_eq!(parse(text).unwrap(), expected, "{text}");
        check("1", bson!(1));
        check("5000000000", bson!(5_000_000_000_i64));
        check("1.5", bson!(1.5));
        check(r#"{"$numberInt":"1"}"#, Bson::Int32(1));
        check(r#"{"$numberLong":"1"}"#, Bson::Int64(1));
        check(
            r#"{"$numberDouble":"-Infinity"}"#,
            Bson::Double(f64::NEG_INFINITY),
        );
        check(r#"{"$date":1000}"#, Bson::DateTime(DateTime::from_millis(1000)));
        check(
            r#"{"$date":{"$numberLong":"-5"}}"#,
            Bson::DateTime(DateTime::from_millis(-5)),
        );
        check(
            r#"{"$date":"1970-01-01T00:00:01Z"}"#,
            Bson::DateTime(DateTime::from_millis(1000)),
        );
        check(
            r#"{"$date":{"offset":-1000}}"#,
            Bson::DateTime(DateTime::from_millis(NOW.0 - 1000)),
        );
        check(
            r#"{"$tcb_server_date":{"offset":0}}"#,
            Bson::DateTime(DateTime::from_millis(NOW.0)),
        );
        check(
            r#"{"$regex":"^a","$options":"i"}"#,
            bson!({"$regex": "^a", "$options": "i"}),
        );
        check(
            r#"{"b":1,"a":{"$set":{"z":[1,{"y":null}]}}}"#,
            bson!({"b": 1, "a": {"$set": {"z": [1, {"y": null}]}}}),
        );
        for bad in [
            r#"{"$oid":"x"}"#,
            r#"{"$oid":7}"#,
            r#"{"$date":{}}"#,
            r#"{"$numberInt":"1.5"}"#,
            "{",
            "[1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_keep_their_order() {
        let document = Json::parse(br#"{"z":1,"a":2,"m":{"y":1,"b":2}}"#)
            .unwrap()
            .to_document(NOW)
            .unwrap();
        assert_eq!(document, doc! {"z": 1, "a": 2, "m": {"y": 1, "b": 2}});
        assert_eq!(document.keys().collect::<Vec<_>>(), ["z", "a", "m"]);
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(Json::parse("[".repeat(1000).as_bytes()).is_err());
    }

    #[test]
    fn documents_are_written_relaxed() {
        let id = bson::oid::ObjectId::from_bytes([1; 12]);
        let document = raw(&doc! {
            "_id": id, "ref": id, "n": 1, "l": 2_i64, "big": i64::MAX, "d": 1.0, "t": "a\"b",
            "at": DateTime::from_millis(0), "list": [1, {"_id": id}], "none": null,
        })
        .unwrap();
        let mut out = String::new();
        write_document(&mut out, &document).unwrap();
        let hex = "01".repeat(12);
        assert_eq!(
            out,
            format!(
                r#"{{"_id":"{hex}","ref":{{"$oid":"{hex}"}},"n":1,"l":2,"big":{{"$numberLong":"9223372036854775807"}},"d":1.0,"t":"a\"b","at":{{"$date":"1970-01-01T00:00:00Z"}},"list":[1,{{"_id":{{"$oid":"{hex}"}}}}],"none":null}}"#
            )
        );
        // What is written is read back as it was, but for the top-level id.
        let back = parse(&out).unwrap();
        assert_eq!(back.as_document().unwrap().get("ref"), Some(&Bson::ObjectId(id)));
    }
}
