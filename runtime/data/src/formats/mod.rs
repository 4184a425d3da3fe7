//! Documents as they are in files: extended JSON as lines or as one array, BSON as mongodump writes it, and the
//! metadata beside a dump. Readers and writers over [`BufRead`](std::io::BufRead) and [`Write`](std::io::Write), a
//! document at a time; nothing here knows of a node, a collection or a checkpoint. `server/cli` imports and exports
//! with it, the admin API reads its batches.
//!
//! - [`DocumentReader`], [`DocumentWriter`]: a file's documents, one after the other, and the place in it.
//! - `parse`, `print`: one document's extended JSON to BSON and back.
//! - [`Metadata`]: what mongodump knows of a collection beside its documents.

#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
mod metadata;
mod parse;
mod print;
mod read;
mod write;

pub use metadata::Metadata;
pub use parse::{JsonError, parse_document};
pub use print::{JsonStyle, print_document, print_value};
pub use read::{DocumentReader, Encoding, Place, ReadError, Stored};
pub use write::{DocumentWriter, Shape};

/// Largest document, in bytes of BSON: MongoDB's 16 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Largest document as JSON text: what the largest document may take when every type is written out.
pub const DOCUMENT_TEXT_BYTES_MAX: usize = 48 << 20;
/// Deepest nesting of a document: MongoDB's 100.
pub const DEPTH_MAX: usize = 100;

#[cfg(test)]
mod tests;
