//! Resume tokens: a place in the log as `{_data: "<hex>"}`. Their text sorts as the log does.

use std::fmt::Write as _;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};

use crate::value::field;
use crate::{Code, Error, Result};

/// The first byte of every token.
const VERSION: u8 = 1;
const BYTES: usize = 18;
/// Bytes that the token of a fragment has more.
const FRAGMENT_BYTES: usize = 4;

/// What of a sequence number was given out. In the order in which a stream gives it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// The event itself.
    Event = 0,
    /// The `invalidate` after it.
    Invalidate = 1,
    /// All that belongs to it: the stream stands between two events.
    Past = 2,
}

/// A place in the log. The time makes it known when a token comes from another database's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    pub(super) time: Timestamp,
    pub(super) sequence: u64,
    pub(super) mark: Mark,
    /// The place of the fragment, of an event that is told in several; only with the mark of an event.
    pub(super) fragment: Option<u32>,
}

impl Token {
    pub(super) fn to_document(self) -> RawDocumentBuf {
        let mut bytes = vec![VERSION];
        bytes.extend(self.time.time.to_be_bytes());
        bytes.extend(self.time.increment.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.push(self.mark as u8);
        // Longer than the event's own token, and so after it.
        bytes.extend(self.fragment.into_iter().flat_map(u32::to_be_bytes));
        let text = bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02X}");
            text
        });
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_data"), text);
        document
    }

    /// # Errors
    /// `InvalidResumeToken` when it is none of ours.
    pub(super) fn parse(document: &RawDocument) -> Result<Self> {
        let Some(RawBsonRef::String(text)) = field(document, "_data") else {
            return Err(invalid("a resume token is a document {_data: \"<hex>\"}"));
        };
        from_hex(text)
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or_else(|| invalid(&format!("\"{:.80}\" is no resume token of this database", text)))
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bytes, rest) = bytes.split_at_checked(BYTES)?;
        let mark = match bytes[17] {
            0 => Mark::Event,
            1 => Mark::Invalidate,
            2 => Mark::Past,
            _ => return None,
        };
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let time = Timestamp {
            time: number(1)?,
            increment: number(5)?,
        };
        let sequence = u64::from_be_bytes(bytes[9..17].try_into().ok()?);
        let fragment = match rest {
            [] => None,
            rest if mark == Mark::Event => Some(u32::from_be_bytes(rest.try_into().ok()?)),
            _ => return None,
        };
        (bytes[0] == VERSION).then_some(Token {
            time,
            sequence,
            mark,
            fragment,
        })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let known = [BYTES * 2, (BYTES + FRAGMENT_BYTES) * 2].contains(&text.len());
    if !known || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

pub(super) fn invalid(message: &str) -> Error {
    Error::new(Code::InvalidResumeToken, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(time: u32, increment: u32, sequence: u64, mark: Mark) -> Token {
        Token {
            time: Timestamp { time, increment },
            sequence,
            mark,
            fragment: None,
        }
    }

    #[test]
    fn tokens_come_back_and_sort_as_their_texts() {
        let fragment = |place: u32| Token {
            fragment: Some(place),
            ..token(1, 1, 1, Mark::Event)
        };
        let tokens = [
            token(0, 0, 0, Mark::Past),
            token(1, 1, 1, Mark::Event),
            fragment(0),
            fragment(1),
            fragment(256),
            token(1, 1, 1, Mark::Invalidate),
            token(1, 1, 1, Mark::Past),
            token(1, 2, 2, Mark::Event),
            token(1, 255, 255, Mark::Event),
            token(1, 256, 256, Mark::Event),
            token(u32::MAX, u32::MAX, u64::MAX, Mark::Past),
        ];
        let texts: Vec<String> = tokens
            .iter()
            .map(|token| token.to_document().get_str("_data").unwrap().to_owned())
            .collect();
        assert!(texts.is_sorted());
        for token in tokens {
            assert_eq!(Token::parse(&token.to_document()).unwrap(), token);
        }
    }

    #[test]
    fn refuses_what_is_no_token() {
        for document in [
            bson::rawdoc! {},
            bson::rawdoc! { "_data": 1 },
            bson::rawdoc! { "_data": "" },
            bson::rawdoc! { "_data": "ü".repeat(18) },
            bson::rawdoc! { "_data": "02".repeat(18) },
            bson::rawdoc! { "_data": "01".repeat(17) + "03" },
            bson::rawdoc! { "_data": "01".repeat(17) + "0000" },
            bson::rawdoc! { "_data": "01".repeat(17) + "0200000001" },
            bson::rawdoc! { "_data": "+1".repeat(18) },
        ] {
            assert_eq!(
                Token::parse(&document).unwrap_err().code(),
                Code::InvalidResumeToken
            );
        }
    }
}
