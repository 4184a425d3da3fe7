//! Sort specifications and the keys that documents sort by.
#![expect(unused_variables, dead_code, reason = "being built")]

use std::cmp::Ordering;

use bson::RawDocument;

use crate::Result;
use crate::path::Path;

/// A parsed sort specification: up to 32 paths with directions.
#[derive(Debug, Clone)]
pub(crate) struct SortSpec {
    keys: Vec<(Path, i32)>,
}

impl SortSpec {
    /// Parses `{a: 1, "b.c": -1}`.
    pub(crate) fn parse(doc: &RawDocument) -> Result<SortSpec> {
        todo!()
    }

    /// The paths with their directions, 1 or -1.
    pub(crate) fn keys(&self) -> &[(Path, i32)] {
        &self.keys
    }

    /// Key bytes whose order is the sort order: of an array the smallest element counts ascending, the largest
    /// descending; an empty array is undefined and comes before null, a missing field is null.
    pub(crate) fn sort_key(&self, doc: &RawDocument) -> Vec<u8> {
        todo!()
    }

    /// The order of two documents by this specification, same as that of their keys.
    pub(crate) fn compare(&self, a: &RawDocument, b: &RawDocument) -> Ordering {
        todo!()
    }
}
