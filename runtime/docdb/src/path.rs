//! Dotted paths and how they reach values in documents, fanning out through arrays of documents.
#![expect(unused_variables, dead_code, reason = "being built")]

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawBsonRef, RawDocument};

use crate::Result;

/// A parsed dotted path. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    text: Arc<str>,
    parts: Arc<[Part]>,
}

/// One step of a path: a field's name, which is also an array position when it is a plain number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) name: Box<str>,
    pub(crate) index: Option<usize>,
}

impl Path {
    /// Parses a path; an error when it has a NUL or too many parts.
    pub(crate) fn parse(text: &str) -> Result<Path> {
        todo!()
    }

    /// The path as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// One value reached by a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaf<'d> {
    /// The value; `None` where the path ends before its last part.
    pub(crate) value: Option<RawBsonRef<'d>>,
    /// Position in the outermost array that the path went through without naming the position.
    pub(crate) array_index: Option<usize>,
}

/// Calls `f` for each value that a query's predicate on `path` is tried on: with `elements`, the elements of an
/// array at the end of the path and then the array; without, the array only.
pub(crate) fn visit<'d>(
    doc: &'d RawDocument,
    path: &Path,
    elements: bool,
    f: &mut dyn FnMut(Leaf<'d>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    todo!()
}

/// What an index holds for one path of a document.
#[derive(Debug, Default)]
pub(crate) struct IndexValues<'d> {
    /// The distinct values in key order, never empty. A missing field is null, an empty array is undefined; a
    /// non-empty array is its elements and never itself, so an index can't answer for equality with an array.
    pub(crate) values: Vec<RawBsonRef<'d>>,
    /// The path goes through or ends at an array.
    pub(crate) multikey: bool,
    /// The path reaches nothing in the document (sparse indexes leave it out).
    pub(crate) missing: bool,
}

/// The values under which an index on `path` has the document: a superset of the values that predicates see.
pub(crate) fn index_values<'d>(doc: &'d RawDocument, path: &Path) -> IndexValues<'d> {
    todo!()
}
