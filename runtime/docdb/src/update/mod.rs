//! Updates: operators or a replacement as a type, and what they make of one document.
//!
//! [`parse`] makes the types from documents; [`apply`] walks the paths through a document opened as a [`tree`];
//! [`operators`] and [`array`] say what becomes of the value at a path's end.

mod apply;
mod array;
mod operators;
mod parse;
mod path;
mod tree;

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use self::operators::Operator;
use self::path::UpdatePath;
use crate::check::{check_id, check_no_operators, check_size, check_well_formed, validate_document};
use crate::collation::Collation;
use crate::expression::{Runtime, Scope};
use crate::path::Path;
use crate::pipeline::Stage;
use crate::query::{ARGUMENT_DEPTH_MAX, Filter};
use crate::value::{compare, elements, ensure_id_first, field, fields, raw_fields};
use crate::{Code, Error, Limits, Result};

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
    /// Stages of a pipeline, applied in order.
    Pipeline(Arc<PipelineUpdate>),
}

/// The stages of an update, each of which makes one document of one.
#[derive(Debug)]
pub(crate) struct PipelineUpdate {
    stages: Vec<Stage>,
    runtime: Arc<Runtime>,
}

impl PipelineUpdate {
    /// # Errors
    /// For stages that are malformed or don't make one document of one.
    fn parse(stages: RawBsonRef<'_>, scope: &Scope) -> Result<Self> {
        const ALLOWED: [&str; 6] = [
            "$addFields",
            "$set",
            "$project",
            "$unset",
            "$replaceRoot",
            "$replaceWith",
        ];
        let RawBsonRef::Array(stages) = stages else {
            return Err(Error::new(
                Code::FailedToParse,
                "a pipeline must be an array of stages",
            ));
        };
        let mut parsed = Vec::new();
        for stage in elements(stages) {
            let (name, argument) = Stage::split(stage)?;
            if !ALLOWED.contains(&name) {
                let message = format!("{name} is not allowed to be used within an update");
                return Err(Error::new(Code::InvalidOptions, message));
            }
            parsed.push(Stage::per_document(name, argument, scope)?);
        }
        Ok(Self {
            stages: parsed.into_iter().flatten().collect(),
            runtime: scope.runtime().clone(),
        })
    }

    /// The updated document, `_id` first.
    fn apply(&self, doc: &RawDocument) -> Result<RawDocumentBuf> {
        let mut updated = doc.to_owned();
        for stage in &self.stages {
            if let Some(next) = stage.apply_to(&updated, &self.runtime)? {
                updated = next;
            }
        }
        let Some(id) = field(doc, "_id") else {
            return Ok(updated);
        };
        // A stage that leaves `_id` out keeps it; one that changes it is refused by the caller.
        let id = field(&updated, "_id").unwrap_or(id);
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("_id"), id);
        for (name, value) in raw_fields(&updated).filter(|(name, _)| name.as_str() != "_id") {
            out.append(name, value);
        }
        Ok(out)
    }
}

/// The operators of an update.
#[derive(Debug, Clone)]
pub(crate) struct Operators {
    /// In the order of their paths, none of which is or leads to another.
    changes: Vec<Change>,
    /// By the place that `$[name]` steps refer to.
    array_filters: Vec<ArrayFilter>,
    /// How they compare strings, if not by their bytes.
    collation: Option<Arc<Collation>>,
}

impl Operators {
    /// Makes them compare strings under a collation.
    fn collate(&mut self, collation: &Arc<Collation>) {
        for filter in &mut self.array_filters {
            filter.filter.collate(collation);
        }
        for change in &mut self.changes {
            change.operator.collate(collation);
        }
        self.collation = Some(collation.clone());
    }
}

/// One operator on one path.
#[derive(Debug, Clone)]
struct Change {
    path: UpdatePath,
    operator: Operator,
}

/// Which elements `$[name]` stands for: those that match as field `name` of a document.
#[derive(Debug, Clone)]
struct ArrayFilter {
    name: bson::raw::CString,
    filter: Filter,
}

impl Update {
    /// Parses an update; what is wrong with it by itself is told here, whether or not any document matches.
    ///
    /// # Errors
    /// `FailedToParse`, `BadValue`, `TypeMismatch` for bad operators and arguments; `ConflictingUpdateOperators`,
    /// `EmptyFieldName`, `DollarPrefixedFieldName` for bad paths.
    pub(crate) fn parse(doc: &RawDocument, array_filters: &[RawDocumentBuf]) -> Result<Update> {
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        Self::parse_plain(doc, array_filters)
    }

    /// The names of the document's own fields that its operators change; none if it has no operators.
    pub(crate) fn fields(&self) -> Option<Vec<&str>> {
        let Update::Operators(operators) = self else {
            return None;
        };
        let of_paths = operators.changes.iter().map(|change| change.path.first());
        let renamed = operators
            .changes
            .iter()
            .filter_map(|change| change.operator.renamed_to());
        Some(of_paths.chain(renamed.map(UpdatePath::first)).collect())
    }

    /// Whether one of its operators is on something inside of what is at `path`, a dotted path of a document.
    pub(crate) fn reaches_below(&self, path: &str) -> bool {
        let Update::Operators(operators) = self else {
            return false;
        };
        operators.changes.iter().any(|change| change.path.is_below(path))
    }

    /// Parses an update that may be a pipeline, as [`pipeline_update`](crate::pipeline_update) writes it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and those of stages.
    pub(crate) fn parse_in(
        doc: &RawDocument,
        array_filters: &[RawDocumentBuf],
        scope: &Scope,
    ) -> Result<Update> {
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        match fields(doc).next() {
            Some((crate::ops::PIPELINE_FIELD, stages)) if array_filters.is_empty() => {
                Ok(Update::Pipeline(Arc::new(PipelineUpdate::parse(stages, scope)?)))
            }
            Some((crate::ops::PIPELINE_FIELD, _)) => Err(Error::new(
                Code::FailedToParse,
                "arrayFilters may not be specified for pipeline-style updates",
            )),
            _ => {
                let mut update = Self::parse_plain(doc, array_filters)?;
                if let (Update::Operators(operators), Some(collation)) =
                    (&mut update, scope.runtime().collation())
                {
                    operators.collate(collation);
                }
                Ok(update)
            }
        }
    }

    fn parse_plain(doc: &RawDocument, array_filters: &[RawDocumentBuf]) -> Result<Update> {
        if fields(doc).next().is_some_and(|(name, _)| name.starts_with('$')) {
            return Ok(Update::Operators(parse::operators(doc, array_filters)?));
        }
        if !array_filters.is_empty() {
            return Err(Error::new(
                Code::FailedToParse,
                "a replacement takes no array filters",
            ));
        }
        check_no_operators(doc)?;
        validate_document(doc, &Limits::default())?;
        Ok(Update::Replace(doc.to_owned()))
    }

    /// Whether this is a replacement (which can't be `multi`).
    pub(crate) fn is_replacement(&self) -> bool {
        matches!(self, Update::Replace(_))
    }

    /// The updated document; `None` when nothing changed. `filter` is for positional `$`; the result is within
    /// the default limits of size and depth and has the same `_id`.
    ///
    /// # Errors
    /// `TypeMismatch`, `BadValue`, `PathNotViable` when an operator does not fit the document; `ImmutableField`
    /// when `_id` would change; `ConflictingUpdateOperators` when positional paths meet.
    pub(crate) fn apply(
        &self,
        doc: &RawDocument,
        filter: &Filter,
        now: Now,
        is_upsert_insert: bool,
    ) -> Result<Option<RawDocumentBuf>> {
        let updated = match self {
            Update::Replace(replacement) => replace(doc, replacement)?,
            Update::Operators(operators) => apply::apply(operators, doc, filter, now, is_upsert_insert)?,
            Update::Pipeline(pipeline) => pipeline.apply(doc)?,
        };
        if updated.as_bytes() == doc.as_bytes() {
            return Ok(None);
        }
        if let Some(old) = field(doc, "_id") {
            check_same_id(old, field(&updated, "_id"))?;
        }
        let limits = Limits::default();
        check_size(&updated, &limits)?;
        check_well_formed(&updated, limits.depth_max)?;
        Ok(Some(updated))
    }

    /// The document that an upsert inserts when nothing matches, `_id` first.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply); `NotSingleValueField` when the filter gives a field two values.
    pub(crate) fn upsert_document(
        &self,
        filter: &Filter,
        now: Now,
        fresh_id: ObjectId,
    ) -> Result<RawDocumentBuf> {
        if filter.has_expr() {
            let message = "$expr is not allowed in the query predicate for an upsert";
            return Err(Error::new(Code::QueryFeatureNotAllowed, message));
        }
        let seeds = filter.equality_fields();
        let updated = match self {
            Update::Replace(replacement) => {
                let mut seed = RawDocumentBuf::new();
                if let Some((_, id)) = seeds.iter().find(|(path, _)| path.as_str() == "_id") {
                    seed.append(cstr!("_id"), id.as_raw_bson_ref());
                }
                replace(&seed, replacement)?
            }
            Update::Pipeline(pipeline) => {
                let seed = seed_document(&seeds)?;
                let updated = pipeline.apply(&seed)?;
                if let Some(id) = field(&seed, "_id") {
                    check_same_id(id, field(&updated, "_id"))?;
                }
                updated
            }
            Update::Operators(operators) => {
                let seed = seed_document(&seeds)?;
                let updated = apply::apply(operators, &seed, &Filter::AlwaysTrue, now, true)?;
                if let Some(id) = field(&seed, "_id") {
                    check_same_id(id, field(&updated, "_id"))?;
                }
                updated
            }
        };
        let updated = ensure_id_first(&updated, fresh_id);
        validate_document(&updated, &Limits::default())?;
        Ok(updated)
    }
}

fn replace(doc: &RawDocument, replacement: &RawDocument) -> Result<RawDocumentBuf> {
    let Some(id) = field(doc, "_id") else {
        return Ok(replacement.to_owned());
    };
    if let Some(other) = field(replacement, "_id") {
        check_same_id(id, Some(other))?;
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("_id"), id);
    for (name, value) in raw_fields(replacement).filter(|(name, _)| name.as_str() != "_id") {
        out.append(name, value);
    }
    Ok(out)
}

fn check_same_id(old: RawBsonRef<'_>, new: Option<RawBsonRef<'_>>) -> Result<()> {
    if new.is_some_and(|new| compare(old, new).is_eq()) {
        return Ok(());
    }
    let message = "performing an update on the path '_id' would modify the immutable field '_id'";
    Err(Error::new(Code::ImmutableField, message))
}

/// The document made of what a filter says by equality.
fn seed_document(seeds: &[(Path, RawBson)]) -> Result<RawDocumentBuf> {
    let mut no_filters = |_: &str| None;
    let mut changes = Vec::with_capacity(seeds.len());
    for (path, value) in seeds {
        if path.as_str() == "_id" {
            check_id(value.as_raw_bson_ref())?;
        } else if path.parts()[0].name.as_ref() == "_id" {
            let message = format!(
                "an upsert needs '_id' as a whole, not its field '{}'",
                path.as_str()
            );
            return Err(Error::new(Code::NotSingleValueField, message));
        }
        let path = UpdatePath::parse(path.as_str(), &mut no_filters)?;
        changes.push(Change {
            path,
            operator: Operator::Set(value.clone()),
        });
    }
    changes.sort_by(|a, b| a.path.compare(&b.path));
    for pair in changes.windows(2) {
        if pair[0].path.conflicts(&pair[1].path) {
            let (a, b) = (&pair[0].path.text, &pair[1].path.text);
            let message = format!("cannot infer query fields to set, both '{a}' and '{b}' are given");
            return Err(Error::new(Code::NotSingleValueField, message));
        }
    }
    let operators = Operators {
        changes,
        array_filters: Vec::new(),
        collation: None,
    };
    let now = Now {
        date: bson::DateTime::MIN,
        timestamp: bson::Timestamp {
            time: 0,
            increment: 0,
        },
    };
    apply::apply(&operators, &RawDocumentBuf::new(), &Filter::AlwaysTrue, now, true)
}

#[cfg(test)]
mod tests;
