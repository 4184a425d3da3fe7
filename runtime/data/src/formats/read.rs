//! The documents of a file, one after the other.

use std::io::{self, BufRead, Read as _};

use bson::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use super::{DEPTH_MAX, DOCUMENT_BYTES_MAX, DOCUMENT_TEXT_BYTES_MAX, JsonError, parse_document};

/// Smallest document: its length and its end.
const DOCUMENT_BYTES_MIN: usize = 5;

/// What a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Extended JSON: documents one after the other (on lines of their own or not), or one array of them. The first
    /// character tells.
    Json,
    /// BSON documents one after the other, as mongodump writes them.
    Bson,
}

/// A place between two documents: where to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Bytes before it.
    pub bytes: u64,
    /// Ends of lines before it; JSON alone has them.
    pub lines: u64,
    /// Documents before it.
    pub documents: u64,
    form: Form,
}

/// What has been seen of the form of JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Form {
    /// Nothing.
    #[default]
    Unknown,
    /// A document that is in no array.
    Lines,
    /// The beginning of an array.
    ArrayOpen,
    /// A document of an array.
    ArrayNext,
    /// The end of an array.
    ArrayEnd,
}

/// A document and where it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The document.
    pub document: RawDocumentBuf,
    /// Bytes before it.
    pub byte: u64,
    /// The line that it begins on, counted from one; JSON alone has them.
    pub line: Option<u64>,
}

/// Why the next document can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source failed.
    #[error("can't read on: {0}")]
    Io(#[from] io::Error),
    /// The source has something that is no document.
    #[error("{}: {what}", shown(*line, *byte))]
    Malformed {
        /// The line of the mistake, counted from one; JSON alone has them.
        line: Option<u64>,
        /// Bytes before the mistake.
        byte: u64,
        /// What is wrong.
        what: String,
    },
}

fn shown(line: Option<u64>, byte: u64) -> String {
    match line {
        Some(line) => format!("line {line}"),
        None => format!("byte {byte}"),
    }
}

/// Reads documents, and holds one at a time.
#[derive(Debug)]
pub struct DocumentReader<R> {
    source: R,
    encoding: Encoding,
    /// How far the source was read.
    at: Place,
    /// The same after the last document.
    place: Place,
    text: Vec<u8>,
}

impl<R: BufRead> DocumentReader<R> {
    /// Reads from the beginning.
    pub fn new(source: R, encoding: Encoding) -> Self {
        Self::resume(source, encoding, Place::default())
    }

    /// Goes on at a place, to which `source` has been brought.
    pub fn resume(source: R, encoding: Encoding, place: Place) -> Self {
        Self {
            source,
            encoding,
            at: place,
            place,
            text: Vec::new(),
        }
    }

    /// The place after the last document, also when there was a mistake after it.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The next document; none at the end. After an error there is nothing more to be had.
    ///
    /// # Errors
    /// When the source fails, ends inside of a document, or has something that is none.
    pub fn read(&mut self) -> Result<Option<Stored>, ReadError> {
        let stored = match self.encoding {
            Encoding::Json => self.json(),
            Encoding::Bson => self.bson(),
        }?;
        if stored.is_some() {
            self.place = self.at;
        }
        Ok(stored)
    }

    fn json(&mut self) -> Result<Option<Stored>, ReadError> {
        loop {
            self.space()?;
            let Some(byte) = self.source.fill_buf()?.first().copied() else {
                return match self.at.form {
                    Form::ArrayOpen | Form::ArrayNext => {
                        Err(self.mistake("the source ends inside of the array".to_owned()))
                    }
                    Form::Unknown | Form::Lines | Form::ArrayEnd => Ok(None),
                };
            };
            let next = match (self.at.form, byte) {
                (Form::Unknown, b'[') => Form::ArrayOpen,
                (Form::ArrayOpen | Form::ArrayNext, b']') => Form::ArrayEnd,
                (Form::Unknown | Form::Lines, b'{') => return self.object(Form::Lines).map(Some),
                (Form::ArrayOpen, b'{') => return self.object(Form::ArrayNext).map(Some),
                (Form::ArrayNext, b',') => {
                    self.take(1);
                    self.space()?;
                    return match self.source.fill_buf()?.first() {
                        Some(b'{') => self.object(Form::ArrayNext).map(Some),
                        _ => Err(self.mistake("a document was expected after \",\"".to_owned())),
                    };
                }
                (form, byte) => {
                    let wanted = match form {
                        Form::Unknown => "a document or an array of documents",
                        Form::Lines => "a document",
                        Form::ArrayOpen => "a document or \"]\"",
                        Form::ArrayNext => "\",\" or \"]\"",
                        Form::ArrayEnd => "nothing after the array",
                    };
                    return Err(self.mistake(format!("found {:?}, expected {wanted}", char::from(byte))));
                }
            };
            self.take(1);
            self.at.form = next;
        }
    }

    fn mistake(&self, what: String) -> ReadError {
        ReadError::Malformed {
            line: (self.encoding == Encoding::Json).then_some(self.at.lines + 1),
            byte: self.at.bytes,
            what,
        }
    }

    fn take(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.at.bytes += bytes as u64;
    }

    /// Passes over white space, and over the mark that some editors put at the beginning.
    fn space(&mut self) -> Result<(), ReadError> {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        if self.at.bytes == 0 && self.source.fill_buf()?.starts_with(MARK) {
            self.take(MARK.len());
        }
        loop {
            let buffer = self.source.fill_buf()?;
            let length = buffer.len();
            let space = buffer
                .iter()
                .position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
            let space = space.unwrap_or(length);
            let lines = newlines(&buffer[..space]);
            self.take(space);
            self.at.lines += lines;
            if space < length || length == 0 {
                return Ok(());
            }
        }
    }

    /// Reads an object to its end and makes a document of it.
    fn object(&mut self, then: Form) -> Result<Stored, ReadError> {
        let begin = self.at;
        self.text.clear();
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        let mut ended = false;
        while !ended {
            let buffer = self.source.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let mut taken = 0;
            for byte in buffer {
                taken += 1;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    _ if quoted => {}
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            ended = true;
                            break;
                        }
                    }
                    _ => {}
                }
            }
            if self.text.len() + taken > DOCUMENT_TEXT_BYTES_MAX {
                return Err(ReadError::Malformed {
                    line: Some(begin.lines + 1),
                    byte: begin.bytes,
                    what: format!(
                        "the document that begins here is longer than {DOCUMENT_TEXT_BYTES_MAX} bytes, or does not end"
                    ),
                });
            }
            self.text.extend_from_slice(&buffer[..taken]);
            self.take(taken);
        }
        self.at.lines += newlines(&self.text);
        let malformed = |error: JsonError| ReadError::Malformed {
            line: Some(begin.lines + newlines(&self.text[..error.at.min(self.text.len())]) + 1),
            byte: begin.bytes + error.at as u64,
            what: error.what,
        };
        let document = parse_document(&self.text).map_err(malformed)?;
        self.at.documents += 1;
        self.at.form = then;
        Ok(Stored {
            document,
            byte: begin.bytes,
            line: Some(begin.lines + 1),
        })
    }

    fn bson(&mut self) -> Result<Option<Stored>, ReadError> {
        let mut bytes = Vec::new();
        self.source.by_ref().take(4).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Some(length) = bytes.first_chunk::<4>() else {
            return Err(self.mistake(format!(
                "the source ends inside of a document: {} bytes are left",
                bytes.len()
            )));
        };
        let says = i32::from_le_bytes(*length);
        let length = usize::try_from(says)
            .ok()
            .filter(|length| (DOCUMENT_BYTES_MIN..=DOCUMENT_BYTES_MAX).contains(length));
        let Some(length) = length else {
            return Err(self.mistake(format!(
                "a document says that it has {says} bytes; {DOCUMENT_BYTES_MIN} to {DOCUMENT_BYTES_MAX} are allowed"
            )));
        };
        // Memory grows with what comes, not with what the length says.
        let rest = (length - bytes.len()) as u64;
        self.source.by_ref().take(rest).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(self.mistake(format!(
                "the source ends inside of a document: {} of its {length} bytes are there",
                bytes.len()
            )));
        }
        let document = RawDocumentBuf::from_bytes(bytes).map_err(|error| self.mistake(error.to_string()))?;
        crate::check_well_formed(&document, DEPTH_MAX).map_err(|error| self.mistake(error.to_string()))?;
        let byte = self.at.bytes;
        self.at.bytes += length as u64;
        self.at.documents += 1;
        Ok(Some(Stored {
            document,
            byte,
            line: None,
        }))
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
