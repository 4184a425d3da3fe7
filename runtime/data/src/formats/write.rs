//! Documents to a file, one after the other.

use std::io::{Result, Write};

use bson::RawDocument;

use super::{JsonStyle, print_document};

/// How documents follow one another in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One document of extended JSON a line.
    Lines(JsonStyle),
    /// One array of extended JSON, a document a line.
    Array(JsonStyle),
    /// BSON, one after the other, as mongodump writes it.
    Bson,
}

/// Writes documents. It holds none: what was written is wherever `out` puts it.
#[derive(Debug)]
pub struct DocumentWriter {
    shape: Shape,
    documents: u64,
}

impl DocumentWriter {
    /// Goes on after `documents` that are there; with none it begins.
    pub fn new(shape: Shape, documents: u64) -> Self {
        Self { shape, documents }
    }

    /// How many documents are written.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Writes one more.
    ///
    /// # Errors
    /// Those of `out`; `InvalidData` when the document is malformed.
    pub fn write(&mut self, document: &RawDocument, out: &mut impl Write) -> Result<()> {
        match self.shape {
            Shape::Bson => out.write_all(document.as_bytes())?,
            Shape::Lines(style) => {
                print_document(document, style, out)?;
                out.write_all(b"\n")?;
            }
            Shape::Array(style) => {
                out.write_all(if self.documents == 0 { b"[\n" } else { b",\n" })?;
                print_document(document, style, out)?;
            }
        }
        self.documents += 1;
        Ok(())
    }

    /// Writes what comes after the last one.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(self, out: &mut impl Write) -> Result<()> {
        match (self.shape, self.documents) {
            (Shape::Array(_), 0) => out.write_all(b"[]\n"),
            (Shape::Array(_), _) => out.write_all(b"\n]\n"),
            (Shape::Lines(_) | Shape::Bson, _) => Ok(()),
        }
    }
}
