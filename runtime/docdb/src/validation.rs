//! Validators: the filter that a collection's documents have to match, when it is asked, and what is told of a
//! document that does not match. The catalog keeps validators, `exec::write` asks them.

use std::sync::{Arc, OnceLock};

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::capped::SIZE_MAX;
use crate::catalog::append;
use crate::check::check_well_formed;
use crate::collation::Collation;
use crate::expression::Scope;
use crate::ops::CollectionOptions;
use crate::path::{Path, visit};
use crate::query::{ARGUMENT_DEPTH_MAX, Filter, is_value_operators};
use crate::value::{elements, field, fields};
use crate::{Capped, Code, Error, Namespace, Result};

/// Largest validator, bytes: it is in memory for as long as its collection is, and in every error it makes.
const VALIDATOR_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of what is told of one failed document, beyond which the rest is left out.
const DETAILS_BYTES_MAX: usize = 1024 * 1024;
/// Largest value that is told with its failure.
pub(crate) const VALUE_BYTES_MAX: usize = 4096;

/// Most documents that a capped collection is bounded to: MongoDB's.
const DOCUMENTS_MAX: u64 = i32::MAX as u64;

/// A collection's validator.
#[derive(Debug)]
pub(crate) struct Validator {
    document: RawDocumentBuf,
    /// The filter. One with `$expr` is there when the first document came, for which it was parsed; one that asks for
    /// the time never is, for it belongs to its operation's.
    filter: OnceLock<Filter>,
}

impl Validator {
    /// Parses a validator that was checked when it came, or one of the catalog; with the collection's collation.
    pub(crate) fn new(document: RawDocumentBuf, collation: Option<&Arc<Collation>>) -> Arc<Self> {
        let mut filter = Filter::parse(&document).ok();
        if let (Some(filter), Some(collation)) = (&mut filter, collation) {
            filter.collate(collation);
        }
        let filter = filter.map_or_else(OnceLock::new, OnceLock::from);
        Arc::new(Self { document, filter })
    }

    /// The filter as it was given.
    pub(crate) fn document(&self) -> &RawDocument {
        &self.document
    }

    /// Whether the document may be stored. The scope has no deadline.
    ///
    /// # Errors
    /// Those of the expressions in `$expr`.
    pub(crate) fn accepts(&self, document: &RawDocument, scope: impl FnOnce() -> Scope) -> Result<bool> {
        if let Some(filter) = self.filter.get() {
            return filter.accepts(document);
        }
        let filter = Filter::parse_in(&self.document, &scope())?;
        let accepted = filter.accepts(document);
        if !self.tells_time() {
            // Another thread may have come first, with the same.
            let _ = self.filter.set(filter);
        }
        accepted
    }

    #[cfg(test)]
    pub(crate) fn is_parsed(&self) -> bool {
        self.filter.get().is_some()
    }

    /// Whether the filter may have `$$NOW`, which is a constant of the expressions that are parsed.
    fn tells_time(&self) -> bool {
        self.document.as_bytes().windows(3).any(|bytes| bytes == b"NOW")
    }

    /// The error for a document that does not match: `DocumentValidationFailure` with MongoDB's `errInfo`.
    pub(crate) fn failure(&self, document: &RawDocument, scope: &Scope) -> Error {
        let mut info = RawDocumentBuf::new();
        let id = field(document, "_id").unwrap_or(RawBsonRef::Null);
        info.append(cstr!("failingDocumentId"), id);
        info.append(cstr!("details"), all_of(&self.document, document, scope));
        Error::with_info(
            Code::DocumentValidationFailure,
            "Document failed validation",
            info,
        )
    }
}

/// Checks the options of a collection that is being made or changed.
///
/// # Errors
/// `InvalidOptions` where no validator may be, `BSONObjectTooLarge` for one that is too large, those of a filter.
pub(crate) fn check(ns: &Namespace, options: &CollectionOptions, scope: &Scope) -> Result<()> {
    crate::time_series::check_options(ns, options)?;
    if let Some(capped) = &options.capped {
        let refuse = |message: String| Err(Error::new(Code::BadValue, message));
        let Capped { size, max } = *capped;
        if !(1..=SIZE_MAX).contains(&size) {
            return refuse(format!(
                "the size of a capped collection is 1 to {SIZE_MAX} bytes, found {size}"
            ));
        }
        if let Some(max) = max.filter(|max| !(1..=DOCUMENTS_MAX).contains(max)) {
            return refuse(format!(
                "max in a capped collection is 1 to {DOCUMENTS_MAX}, found {max}"
            ));
        }
        if options.clustered.is_some() {
            return Err(Error::new(
                Code::InvalidOptions,
                "a capped collection has no clustered index",
            ));
        }
    }
    if let Some(name) = &options.clustered {
        crate::specification::check_name(name)?;
    }
    if let Some(collation) = &options.collation {
        check_well_formed(collation, ARGUMENT_DEPTH_MAX)?;
        Collation::parse(collation)?;
    }
    let Some(validator) = &options.validator else {
        return Ok(());
    };
    if matches!(&*ns.database, "admin" | "local" | "config") || ns.collection.starts_with("system.") {
        return Err(Error::new(
            Code::InvalidOptions,
            format!("document validators are not allowed on collection {ns}"),
        ));
    }
    let bytes = validator.as_bytes().len();
    if bytes > VALIDATOR_BYTES_MAX {
        let message =
            format!("the validator has {bytes} bytes, and at most {VALIDATOR_BYTES_MAX} are allowed");
        return Err(Error::new(Code::BSONObjectTooLarge, message));
    }
    check_well_formed(validator, ARGUMENT_DEPTH_MAX)?;
    Filter::parse_in(validator, scope).map(drop)
}

/// Why a document does not match all the clauses of a filter document.
fn all_of(clauses: &RawDocument, document: &RawDocument, scope: &Scope) -> RawDocumentBuf {
    let mut parts = fields(clauses);
    match (parts.next(), parts.next()) {
        (Some((name, v)), None) => clause(name, v, document, scope),
        _ => {
            let each = fields(clauses).map(|(name, v)| single(name, v));
            joined("$and", each, document, scope)
        }
    }
}

/// A filter document of one clause.
fn single(name: &str, v: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut one = RawDocumentBuf::new();
    append(&mut one, name, v);
    one
}

fn matches(clause: &RawDocument, document: &RawDocument, scope: &Scope) -> bool {
    Filter::parse_in(clause, scope)
        .and_then(|filter| filter.accepts(document))
        .unwrap_or(false)
}

/// Those of several clauses that are not met.
fn joined(
    operator: &str,
    clauses: impl Iterator<Item = RawDocumentBuf>,
    document: &RawDocument,
    scope: &Scope,
) -> RawDocumentBuf {
    let mut unmet = RawArrayBuf::new();
    for (index, one) in clauses.enumerate() {
        if unmet.as_bytes().len() > DETAILS_BYTES_MAX {
            break;
        }
        if !matches(&one, document, scope) {
            let mut row = RawDocumentBuf::new();
            row.append(cstr!("index"), i32::try_from(index).unwrap_or(i32::MAX));
            row.append(cstr!("details"), all_of(&one, document, scope));
            unmet.push(row);
        }
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("operatorName"), operator);
    out.append(cstr!("clausesNotSatisfied"), unmet);
    out
}

/// Why a document does not match one clause.
fn clause(name: &str, v: RawBsonRef<'_>, document: &RawDocument, scope: &Scope) -> RawDocumentBuf {
    let inner = |v: RawBsonRef<'_>| -> Vec<RawDocumentBuf> {
        v.as_array()
            .into_iter()
            .flat_map(elements)
            .filter_map(|v| v.as_document().map(RawDocument::to_owned))
            .collect()
    };
    let mut out = RawDocumentBuf::new();
    match (name, v) {
        ("$and" | "$or", v) => return joined(name, inner(v).into_iter(), document, scope),
        ("$nor", v) => {
            out.append(cstr!("operatorName"), name);
            let mut met = RawArrayBuf::new();
            for (index, one) in inner(v).iter().enumerate() {
                if matches(one, document, scope) {
                    let mut row = RawDocumentBuf::new();
                    row.append(cstr!("index"), i32::try_from(index).unwrap_or(i32::MAX));
                    row.append(cstr!("specifiedAs"), one.as_ref());
                    met.push(row);
                }
            }
            out.append(cstr!("clausesSatisfied"), met);
        }
        ("$jsonSchema", _) => {
            out.append(cstr!("operatorName"), name);
            if let Ok(Filter::Schema(schema)) = Filter::parse_in(&single(name, v), scope) {
                schema.annotate(&mut out);
                out.append(cstr!("schemaRulesNotSatisfied"), schema.failures(document));
            }
        }
        ("$expr", _) => {
            out.append(cstr!("operatorName"), name);
            out.append(cstr!("specifiedAs"), single(name, v));
            out.append(cstr!("reason"), "expression did not match");
        }
        (path, RawBsonRef::Document(operators)) if is_value_operators(operators) => {
            return on_field(path, operators, document, scope);
        }
        (path, v) => leaf(&mut out, "$eq", path, v, document),
    }
    out
}

/// Why the values at a path do not meet some operators.
fn on_field(path: &str, operators: &RawDocument, document: &RawDocument, scope: &Scope) -> RawDocumentBuf {
    let mut each: Vec<(&str, RawDocumentBuf)> = Vec::new();
    for (operator, v) in fields(operators) {
        let mut one = single(operator, v);
        match operator {
            "$options" => continue,
            "$regex" => {
                if let Some(options) = field(operators, "$options") {
                    one.append(cstr!("$options"), options);
                }
            }
            _ => {}
        }
        each.push((operator, one));
    }
    let shown = |operator: &str, one: &RawDocument| {
        let mut out = RawDocumentBuf::new();
        leaf(&mut out, operator, path, RawBsonRef::Document(one), document);
        out
    };
    if let [(operator, one)] = each.as_slice() {
        return shown(operator, one);
    }
    let mut unmet = RawArrayBuf::new();
    for (index, (operator, one)) in each.iter().enumerate() {
        if !matches(&single(path, RawBsonRef::Document(one)), document, scope) {
            let mut row = RawDocumentBuf::new();
            row.append(cstr!("index"), i32::try_from(index).unwrap_or(i32::MAX));
            row.append(cstr!("details"), shown(operator, one));
            unmet.push(row);
        }
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("operatorName"), "$and");
    out.append(cstr!("clausesNotSatisfied"), unmet);
    out
}

fn leaf(out: &mut RawDocumentBuf, operator: &str, path: &str, v: RawBsonRef<'_>, document: &RawDocument) {
    out.append(cstr!("operatorName"), operator);
    out.append(cstr!("specifiedAs"), single(path, v));
    let mut found = RawArrayBuf::new();
    let mut count = 0;
    if let Ok(path) = Path::parse(path) {
        let _ = visit(document, &path, false, &mut |leaf| {
            if let Some(v) = leaf.value {
                count += 1;
                if found.as_bytes().len() <= VALUE_BYTES_MAX {
                    found.push(v);
                }
            }
            std::ops::ControlFlow::Continue(())
        });
    }
    out.append(cstr!("reason"), reason(operator, count > 0));
    // Large values are known to who sent them.
    if count == 0 || found.as_bytes().len() > VALUE_BYTES_MAX {
        return;
    }
    match elements(&found).next() {
        Some(v) if count == 1 => out.append(cstr!("consideredValue"), v),
        _ => out.append(cstr!("consideredValues"), found.as_ref()),
    }
}

fn reason(operator: &str, found: bool) -> &'static str {
    match operator {
        "$exists" if found => "path does exist",
        "$exists" => "path does not exist",
        "$ne" => "comparison succeeded",
        "$nin" => "matching value found in array",
        "$not" => "child expression matched",
        _ if !found => "field was missing",
        "$eq" | "$gt" | "$gte" | "$lt" | "$lte" => "comparison failed",
        "$in" => "no matching value found in array",
        "$type" => "type did not match",
        "$regex" => "regular expression did not match",
        "$size" => "array length was not equal to given size",
        "$mod" => "$mod did not evaluate to expected remainder",
        "$all" => "array did not contain all specified values",
        "$elemMatch" => "array did not satisfy the child predicate",
        _ => "the value did not match",
    }
}
