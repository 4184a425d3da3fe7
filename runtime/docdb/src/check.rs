//! Whether bytes from outside are BSON, and whether a document may be stored. After this check reading a document
//! can't fail.

use bson::{RawBsonRef, RawDocument};

use crate::value::{field, fields, type_name};
use crate::{Code, Error, Limits, Result};

/// Checks that a document may be stored: well-formed all through (lengths, UTF-8), within size and depth, `_id` no
/// array, regex or undefined. Fields may begin with `$`, as in MongoDB since 5.0.
pub(crate) fn validate_document(doc: &RawDocument, limits: &Limits) -> Result<()> {
    check_size(doc, limits)?;
    check_well_formed(doc, limits.depth_max)?;
    field(doc, "_id").map_or(Ok(()), check_id)
}

/// What [`validate_document`] asks for besides, of a document that is known to be well-formed.
pub(crate) fn validate_well_formed(doc: &RawDocument, limits: &Limits) -> Result<()> {
    check_size(doc, limits)?;
    field(doc, "_id").map_or(Ok(()), check_id)
}

/// Checks that no first-level field begins with `$`: in a replacement that is an operator out of place.
pub(crate) fn check_no_operators(doc: &RawDocument) -> Result<()> {
    match fields(doc).find(|(name, _)| name.starts_with('$')) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!(
                "the dollar ($) prefixed field '{name}' in '{name}' is not allowed in the context of an update's replacement document. Consider using an aggregation pipeline with $replaceWith"
            );
            Err(Error::new(Code::DollarPrefixedFieldName, message))
        }
    }
}

/// Checks that a document is not larger than allowed.
pub(crate) fn check_size(doc: &RawDocument, limits: &Limits) -> Result<()> {
    let (size, max) = (doc.as_bytes().len(), limits.document_bytes_max);
    if size > max {
        let message = format!("document too large: {size} bytes, at most {max} are allowed");
        return Err(Error::new(Code::BSONObjectTooLarge, message));
    }
    Ok(())
}

/// Checks that a value can be an `_id`.
pub(crate) fn check_id(id: RawBsonRef<'_>) -> Result<()> {
    match id {
        RawBsonRef::Array(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Undefined => {
            let message = format!("the '_id' value cannot be of type {}", type_name(id));
            Err(Error::new(Code::InvalidIdField, message))
        }
        RawBsonRef::Document(d) => match fields(d).find(|(name, _)| name.starts_with('$')) {
            Some((name, _)) => {
                let message = format!("field \"{name}\" in an '_id' document must not start with '$'");
                Err(Error::new(Code::DollarPrefixedFieldName, message))
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Checks only that the bytes are well-formed BSON (lengths, types, UTF-8) nested at most `depth_max` deep, the
/// document itself counted; for filters, updates, other arguments, and documents that are not stored yet.
///
/// # Errors
/// `InvalidBSON`; `Overflow` when it is nested too deep.
pub fn check_well_formed(doc: &RawDocument, depth_max: usize) -> Result<()> {
    let mut reader = Reader {
        bytes: doc.as_bytes(),
        depth_max,
    };
    reader.document(0).map_err(|problem| match problem {
        Problem::Malformed(what) => Error::new(Code::InvalidBSON, format!("malformed BSON: {what}")),
        Problem::TooDeep => Error::new(
            Code::Overflow,
            format!("document nested deeper than {depth_max} levels"),
        ),
    })
}

enum Problem {
    Malformed(&'static str),
    TooDeep,
}

/// The bytes that are still to be read.
struct Reader<'a> {
    bytes: &'a [u8],
    depth_max: usize,
}

impl<'a> Reader<'a> {
    /// Reads a document from the front; `depth` documents are around it.
    fn document(&mut self, depth: usize) -> Result<(), Problem> {
        if depth >= self.depth_max {
            return Err(Problem::TooDeep);
        }
        let len = self.peek_len()?;
        if len < 5 {
            return Err(Problem::Malformed("a document's length is less than 5"));
        }
        let body = self.take(len)?;
        if body[len - 1] != 0 {
            return Err(Problem::Malformed("a document is not terminated"));
        }
        let mut body = Reader {
            bytes: &body[4..len - 1],
            depth_max: self.depth_max,
        };
        while !body.bytes.is_empty() {
            body.element(depth)?;
        }
        Ok(())
    }

    fn element(&mut self, depth: usize) -> Result<(), Problem> {
        let kind = self.take(1)?[0];
        self.cstring()?;
        match kind {
            0x06 | 0x0A | 0x7F | 0xFF => {}
            0x08 => {
                if self.take(1)?[0] > 1 {
                    return Err(Problem::Malformed("a boolean is neither 0 nor 1"));
                }
            }
            0x10 => drop(self.take(4)?),
            0x01 | 0x09 | 0x11 | 0x12 => drop(self.take(8)?),
            0x07 => drop(self.take(12)?),
            0x13 => drop(self.take(16)?),
            0x02 | 0x0D | 0x0E => self.string()?,
            0x03 | 0x04 => self.document(depth + 1)?,
            0x05 => self.binary()?,
            0x0B => {
                self.cstring()?;
                self.cstring()?;
            }
            0x0C => {
                self.string()?;
                self.take(12)?;
            }
            0x0F => {
                let len = self.peek_len()?;
                let mut code = Reader {
                    bytes: self.take(len)?,
                    depth_max: self.depth_max,
                };
                code.take(4)?;
                code.string()?;
                code.document(depth + 1)?;
                if !code.bytes.is_empty() {
                    return Err(Problem::Malformed("code with scope has bytes left over"));
                }
            }
            _ => return Err(Problem::Malformed("unknown element type")),
        }
        Ok(())
    }

    fn binary(&mut self) -> Result<(), Problem> {
        let len = self.peek_len()?;
        self.take(4)?;
        let subtype = self.take(1)?[0];
        let mut data = Reader {
            bytes: self.take(len)?,
            depth_max: self.depth_max,
        };
        if subtype == 2 && data.peek_len()? + 4 != len {
            return Err(Problem::Malformed("old binary data have a wrong inner length"));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Problem> {
        let len = self.peek_len()?;
        self.take(4)?;
        match self.take(len)?.split_last() {
            Some((0, text)) => utf8(text),
            _ => Err(Problem::Malformed("a string is not terminated")),
        }
    }

    fn cstring(&mut self) -> Result<(), Problem> {
        let len = self
            .bytes
            .iter()
            .position(|b| *b == 0)
            .ok_or(Problem::Malformed("a name is not terminated"))?;
        utf8(&self.take(len + 1)?[..len])
    }

    /// The length at the front, which stays there.
    fn peek_len(&mut self) -> Result<usize, Problem> {
        let bytes = self
            .bytes
            .first_chunk::<4>()
            .ok_or(Problem::Malformed("cut short"))?;
        usize::try_from(i32::from_le_bytes(*bytes)).map_err(|_| Problem::Malformed("a length is negative"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(Problem::Malformed("a length exceeds what is there"))?;
        self.bytes = rest;
        Ok(taken)
    }
}

fn utf8(bytes: &[u8]) -> Result<(), Problem> {
    std::str::from_utf8(bytes)
        .map(drop)
        .map_err(|_| Problem::Malformed("text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc, rawdoc};

    use super::*;

    fn code(doc: &bson::Document) -> Option<Code> {
        let doc = bson::RawDocumentBuf::try_from(doc).unwrap();
        validate_document(&doc, &Limits::default())
            .err()
            .map(|e| e.code())
    }

    #[test]
    fn refuses_what_may_not_be_stored() {
        assert_eq!(code(&doc! { "a": { "$b": 1 }, "": 2 }), None);
        assert_eq!(code(&doc! { "$a": 1 }), None);
        assert_eq!(code(&doc! { "_id": [1] }), Some(Code::InvalidIdField));
        assert_eq!(code(&doc! { "_id": Bson::Undefined }), Some(Code::InvalidIdField));
        assert_eq!(
            code(&doc! { "_id": { "$x": 1 } }),
            Some(Code::DollarPrefixedFieldName)
        );
        assert_eq!(code(&doc! { "_id": { "x": [1] } }), None);
        let nested = |levels: usize| (1..levels).fold(doc! {}, |inner, _| doc! { "a": inner });
        assert_eq!(code(&nested(100)), None);
        assert_eq!(code(&nested(101)), Some(Code::Overflow));
        let large = doc! { "a": "x".repeat(16 * 1024 * 1024) };
        assert_eq!(code(&large), Some(Code::BSONObjectTooLarge));
    }

    #[test]
    fn refuses_each_cut_and_changed_document_or_reads_it_to_the_end() {
        let whole = rawdoc! {
            "s": "text", "d": { "a": [1, 2.5, true, null] }, "r": bson::Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() },
            "b": bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![1, 2] },
            "c": bson::RawJavaScriptCodeWithScope { code: "f".into(), scope: rawdoc! { "x": 1 } },
            "z": bson::RawBson::Symbol("q".into()), "t": bson::Timestamp { time: 1, increment: 2 },
        };
        assert!(check_well_formed(&whole, 100).is_ok());
        let bytes = whole.into_bytes();
        for at in 4..bytes.len() - 1 {
            for change in [0, 1, 2, 5, 0x0F, 0x7F, 0x80, 0xFF] {
                let mut bytes = bytes.clone();
                bytes[at] = change;
                let doc = RawDocument::from_bytes(&bytes).unwrap();
                if check_well_formed(doc, 100).is_ok() {
                    bson::Document::try_from(doc).expect("checked documents can be read");
                }
            }
        }
    }
}
