//! Updates: operators or a replacement as a type, and what they make of one document.
#![expect(unused_variables, dead_code, reason = "being built")]

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};

use crate::Result;
use crate::query::Filter;

/// The moment of an update, for `$currentDate`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For dates.
    pub(crate) date: bson::DateTime,
    /// For timestamps.
    pub(crate) timestamp: bson::Timestamp,
}

/// A parsed update.
#[derive(Debug, Clone)]
pub(crate) enum Update {
    /// A whole new document; `_id` stays.
    Replace(RawDocumentBuf),
    /// Operators.
    Operators(Operators),
}

/// The operators of an update, in path order.
#[derive(Debug, Clone)]
pub(crate) struct Operators {}

impl Update {
    /// Parses an update; what is wrong with it by itself is told here, whether or not any document matches.
    pub(crate) fn parse(doc: &RawDocument, array_filters: &[RawDocumentBuf]) -> Result<Update> {
        todo!()
    }

    /// Whether this is a replacement (which can't be `multi`).
    pub(crate) fn is_replacement(&self) -> bool {
        matches!(self, Update::Replace(_))
    }

    /// The updated document; `None` when nothing changed. `filter` is for positional `$`; the result is within
    /// the default limits of size and depth and has the same `_id`.
    pub(crate) fn apply(
        &self,
        doc: &RawDocument,
        filter: &Filter,
        now: Now,
        is_upsert_insert: bool,
    ) -> Result<Option<RawDocumentBuf>> {
        todo!()
    }

    /// The document that an upsert inserts when nothing matches, `_id` first.
    pub(crate) fn upsert_document(
        &self,
        filter: &Filter,
        now: Now,
        fresh_id: ObjectId,
    ) -> Result<RawDocumentBuf> {
        todo!()
    }
}
