//! Messages as bytes: OP_MSG, OP_COMPRESSED, and OP_QUERY with its OP_REPLY for a driver's very first word.
//!
//! A frame whose lengths, flags or checksum don't fit together is [`FrameError::Malformed`]: nothing after it on
//! the connection can be trusted, so the connection ends. A frame that is sound but holds documents that are not
//! BSON is [`FrameError::Document`], and is answered. What is in the documents is others' business.

use bson::{RawDocument, RawDocumentBuf};

use crate::compress::Compressor;
use crate::crc32c::crc32c;

/// Bytes of a message's header.
pub(crate) const HEADER_BYTES: usize = 16;

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_COMPRESSED: i32 = 2012;
const OP_MSG: i32 = 2013;

const CHECKSUM_PRESENT: u32 = 1;
const MORE_TO_COME: u32 = 1 << 1;
const EXHAUST_ALLOWED: u32 = 1 << 16;
/// Bits that a receiver must know; the upper half may be ignored.
const REQUIRED_BITS: u32 = 0xffff;

/// Most sections of an OP_MSG. Commands have one or two, bulkWrite three.
const SECTIONS_MAX: usize = 16;

/// What a message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole message, this header among them.
    pub(crate) length: usize,
    /// The sender's number of the message.
    pub(crate) request_id: i32,
    response_to: i32,
    opcode: i32,
}

/// Why a frame is not a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection has to end.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The request has to be refused.
    #[error("malformed document: {what}")]
    Document {
        /// What is wrong with it.
        what: String,
        /// Whether nobody waits for the reply.
        silent: bool,
    },
}

/// A document sequence: many documents for one argument of a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sequence {
    pub(crate) name: String,
    pub(crate) documents: Vec<RawDocumentBuf>,
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    /// The sender's number of it.
    pub(crate) id: i32,
    /// How it is to be answered.
    pub(crate) reply: ReplyForm,
    /// Whether the sender takes several replies to a getMore.
    pub(crate) exhaust: bool,
    /// The command.
    pub(crate) body: RawDocumentBuf,
    /// Arguments sent apart from the body.
    pub(crate) sequences: Vec<Sequence>,
}

/// How a request wants its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyForm {
    /// OP_MSG, compressed as the request was.
    Msg(Option<Compressor>),
    /// The same, and another reply comes after it unasked.
    More(Option<Compressor>),
    /// OP_REPLY, to an OP_QUERY.
    Legacy,
    /// Not at all.
    Silent,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// When the message is shorter than its header or longer than `bytes_max`.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES], bytes_max: usize) -> Result<Self, FrameError> {
        let word = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = usize::try_from(word(0))
            .ok()
            .filter(|length| (HEADER_BYTES..=bytes_max).contains(length))
            .ok_or(FrameError::Malformed("length out of bounds"))?;
        Ok(Self {
            length,
            request_id: word(4),
            response_to: word(8),
            opcode: word(12),
        })
    }

    fn write(&self, into: &mut Vec<u8>) {
        let length = i32::try_from(self.length).unwrap_or(i32::MAX);
        for word in [length, self.request_id, self.response_to, self.opcode] {
            into.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// Parses the message after its header.
///
/// # Errors
/// As the types of [`FrameError`] say.
pub(crate) fn parse(header: &Header, payload: &[u8], bytes_max: usize) -> Result<Request, FrameError> {
    match header.opcode {
        OP_MSG => parse_msg(header, payload, None),
        OP_QUERY => parse_query(header, payload),
        OP_COMPRESSED => {
            let mut bytes = Bytes(payload);
            let opcode = bytes.int()?;
            let size = usize::try_from(bytes.int()?).ok();
            let size = size
                .filter(|size| size.checked_add(HEADER_BYTES).is_some_and(|all| all <= bytes_max))
                .ok_or(FrameError::Malformed("uncompressed size out of bounds"))?;
            let id = bytes.take(1)?[0];
            let compressor = Compressor::from_id(id).ok_or(FrameError::Malformed("unknown compressor"))?;
            let inner = compressor
                .decompress(bytes.0, size)
                .ok_or(FrameError::Malformed("compressed data are damaged"))?;
            let header = Header {
                length: size + HEADER_BYTES,
                opcode,
                ..*header
            };
            match opcode {
                OP_MSG => parse_msg(&header, &inner, Some(compressor)),
                _ => Err(FrameError::Malformed("only OP_MSG may be compressed")),
            }
        }
        _ => Err(FrameError::Malformed("unknown opcode")),
    }
}

/// A reply as bytes.
#[derive(Debug)]
pub(crate) struct Encoded<'r> {
    /// The header and what comes before the document.
    pub(crate) head: Vec<u8>,
    /// The document, which is sent from where it is; empty when the head has all of it.
    pub(crate) document: &'r [u8],
}

impl Encoded<'_> {
    /// Bytes of both.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.document.len()
    }

    /// All bytes in one.
    pub(crate) fn whole(mut self) -> Vec<u8> {
        self.head.extend_from_slice(self.document);
        self.head
    }
}

/// A reply as bytes, header included.
pub(crate) fn encode_reply(
    reply: &RawDocument,
    form: ReplyForm,
    request_id: i32,
    response_to: i32,
) -> Option<Encoded<'_>> {
    let document = reply.as_bytes();
    let mut header = Header {
        length: 0,
        request_id,
        response_to,
        opcode: OP_MSG,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + 32);
    let mut apart = document;
    match form {
        ReplyForm::Silent => return None,
        ReplyForm::Legacy => {
            header.opcode = OP_REPLY;
            header.length = HEADER_BYTES + 20 + document.len();
            header.write(&mut out);
            // Flags (AwaitCapable), cursor id, starting from, number returned.
            out.extend_from_slice(&8_i32.to_le_bytes());
            out.extend_from_slice(&0_i64.to_le_bytes());
            out.extend_from_slice(&0_i32.to_le_bytes());
            out.extend_from_slice(&1_i32.to_le_bytes());
        }
        ReplyForm::Msg(None) | ReplyForm::More(None) => {
            header.length = HEADER_BYTES + 5 + document.len();
            header.write(&mut out);
            out.extend_from_slice(&flags(form).to_le_bytes());
            out.push(0);
        }
        ReplyForm::Msg(Some(compressor)) | ReplyForm::More(Some(compressor)) => {
            let mut inner = Vec::with_capacity(5 + document.len());
            inner.extend_from_slice(&flags(form).to_le_bytes());
            inner.push(0);
            inner.extend_from_slice(document);
            let Some(small) = compressor.compress(&inner) else {
                let plain = match form {
                    ReplyForm::More(_) => ReplyForm::More(None),
                    _ => ReplyForm::Msg(None),
                };
                return encode_reply(reply, plain, request_id, response_to);
            };
            header.opcode = OP_COMPRESSED;
            header.length = HEADER_BYTES + 9 + small.len();
            header.write(&mut out);
            out.extend_from_slice(&OP_MSG.to_le_bytes());
            out.extend_from_slice(&i32::try_from(inner.len()).unwrap_or(i32::MAX).to_le_bytes());
            out.push(compressor.id());
            out.extend_from_slice(&small);
            apart = &[];
        }
    }
    Some(Encoded {
        head: out,
        document: apart,
    })
}

/// The flags of an OP_MSG of this form.
fn flags(form: ReplyForm) -> u32 {
    match form {
        ReplyForm::More(_) => MORE_TO_COME,
        ReplyForm::Msg(_) | ReplyForm::Legacy | ReplyForm::Silent => 0,
    }
}

/// The bytes of a message that are still to be read.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], FrameError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(FrameError::Malformed("a part is longer than the message"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn int(&mut self) -> Result<i32, FrameError> {
        let bytes = self.take(4)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A length that counts its own four bytes.
    fn counted(&mut self) -> Result<Bytes<'b>, FrameError> {
        let whole = self.0;
        let length = usize::try_from(self.int()?).map_err(|_| FrameError::Malformed("a negative length"))?;
        let (part, rest) = whole
            .split_at_checked(length)
            .filter(|(part, _)| part.len() >= 4)
            .ok_or(FrameError::Malformed("a part is longer than the message"))?;
        self.0 = rest;
        Ok(Bytes(part))
    }

    fn text(&mut self) -> Result<&'b str, FrameError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or(FrameError::Malformed("a name without an end"))?;
        let text = std::str::from_utf8(self.take(end)?);
        self.take(1)?;
        text.map_err(|_| FrameError::Malformed("a name that is not UTF-8"))
    }
}

fn parse_msg(header: &Header, payload: &[u8], compressor: Option<Compressor>) -> Result<Request, FrameError> {
    let mut bytes = Bytes(payload);
    let flags = bytes.int()? as u32;
    if flags & REQUIRED_BITS & !(CHECKSUM_PRESENT | MORE_TO_COME) != 0 {
        return Err(FrameError::Malformed("an unknown flag that must be known"));
    }
    if flags & CHECKSUM_PRESENT != 0 {
        let end = payload.len().checked_sub(4).filter(|end| *end >= 4);
        let end = end.ok_or(FrameError::Malformed("no room for the checksum"))?;
        let mut head = Vec::with_capacity(HEADER_BYTES);
        header.write(&mut head);
        let mut sum = Bytes(&payload[end..]);
        if sum.int()? as u32 != crc32c(&[&head, &payload[..end]]) {
            return Err(FrameError::Malformed("the checksum is wrong"));
        }
        bytes = Bytes(&payload[4..end]);
    }
    let silent = flags & MORE_TO_COME != 0;
    let mut body = None;
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut problem = None;
    for sections in 0.. {
        if bytes.0.is_empty() {
            break;
        }
        if sections == SECTIONS_MAX {
            return Err(FrameError::Malformed("too many sections"));
        }
        match bytes.take(1)?[0] {
            0 => {
                if body.is_some() {
                    return Err(FrameError::Malformed("two bodies"));
                }
                body = Some(document(&mut bytes)?);
            }
            1 => {
                let mut section = bytes.counted()?;
                section.take(4)?;
                let name = section.text()?.to_owned();
                if sequences.iter().any(|sequence| sequence.name == name) {
                    return Err(FrameError::Malformed("two sequences of one name"));
                }
                let mut documents = Vec::new();
                while !section.0.is_empty() {
                    match document(&mut section)? {
                        Ok(document) => documents.push(document),
                        Err(what) => problem = Some(what),
                    }
                }
                sequences.push(Sequence { name, documents });
            }
            _ => return Err(FrameError::Malformed("unknown kind of section")),
        }
    }
    let body = body.ok_or(FrameError::Malformed("no body"))?;
    match (body, problem) {
        (Ok(body), None) => Ok(Request {
            id: header.request_id,
            reply: if silent {
                ReplyForm::Silent
            } else {
                ReplyForm::Msg(compressor)
            },
            exhaust: flags & EXHAUST_ALLOWED != 0 && !silent,
            body,
            sequences,
        }),
        (Err(what), _) | (_, Some(what)) => Err(FrameError::Document { what, silent }),
    }
}

fn parse_query(header: &Header, payload: &[u8]) -> Result<Request, FrameError> {
    let mut bytes = Bytes(payload);
    let _flags = bytes.int()?;
    let namespace = bytes.text()?;
    let _skip_and_limit = bytes.take(8)?;
    let database = namespace
        .strip_suffix(".$cmd")
        .ok_or(FrameError::Malformed("OP_QUERY carries commands only"))?;
    let query = document(&mut bytes)?.map_err(|_| FrameError::Malformed("OP_QUERY without a document"))?;
    // Old drivers wrap the command to send a read preference along.
    let inner = match query.get("$query") {
        Ok(Some(bson::RawBsonRef::Document(inner))) => inner.to_owned(),
        _ => query,
    };
    let mut body = RawDocumentBuf::new();
    for field in inner.iter() {
        let (name, value) = field.map_err(|_| FrameError::Malformed("OP_QUERY without a document"))?;
        if name.as_str() != "$db" {
            body.append(name, value);
        }
    }
    body.append(bson::raw::cstr!("$db"), database);
    Ok(Request {
        id: header.request_id,
        reply: ReplyForm::Legacy,
        exhaust: false,
        body,
        sequences: Vec::new(),
    })
}

/// Takes a document; the inner error is of a document that has a place in the frame but is none.
fn document(bytes: &mut Bytes<'_>) -> Result<Result<RawDocumentBuf, String>, FrameError> {
    let part = bytes.counted()?.0;
    Ok(RawDocumentBuf::from_bytes(part.to_vec()).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests;
