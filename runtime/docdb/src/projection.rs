//! Projections: which parts of a matching document are returned.
#![expect(unused_variables, dead_code, reason = "being built")]

use bson::{RawDocument, RawDocumentBuf};

use crate::Result;
use crate::query::Filter;

/// A parsed projection.
#[derive(Debug, Clone)]
pub(crate) struct Projection {}

impl Projection {
    /// Parses `{a: 1, "b.c": 1, _id: 0}` and the operators `$slice`, `$elemMatch` and positional `$`.
    pub(crate) fn parse(doc: &RawDocument) -> Result<Projection> {
        todo!()
    }

    /// The projected document; `filter` is the query's, for the positional operator.
    pub(crate) fn apply(&self, doc: &RawDocument, filter: &Filter) -> Result<RawDocumentBuf> {
        todo!()
    }
}
