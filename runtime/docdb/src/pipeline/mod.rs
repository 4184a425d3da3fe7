//! Aggregation pipelines: stages as types, and running them over a collection.
//!
//! [`parse`] makes the stages, [`optimize`] moves what it can into the query that feeds them (filter, sort, limit: so
//! that indexes serve them). [`run`] pushes documents through the stages one by one, so that only those stages hold
//! documents that have to (`$group`, `$sort` and their kin), each within `aggregate_bytes_max`; sorts, groups and
//! samples go on over disk past that, if the command may ([`spill`](crate::spill)).
//! [`group`], [`join`] and [`near`] are stages of their kinds; [`cursor`] makes pages; [`mod@write`] is `$out`
//! and `$merge`.
//!
//! A cursor holds no read transaction. If all stages look at one document at a time, it holds the key after which
//! the scan goes on, and later pages see later states of the store, as those of a query do. Otherwise the pipeline
//! runs to its end at the first page, and the cursor holds the rest of the result, of `aggregate_bytes_max` at most
//! in memory.

mod cursor;
mod group;
mod join;
mod near;
mod optimize;
mod parse;
mod run;
mod write;

use std::sync::Arc;

use bson::raw::CString;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use self::group::{BucketAuto, Group};
use self::join::{GraphLookup, Lookup, UnionWith};
use self::write::Target;
use crate::check::check_well_formed;
use crate::collation::Collation;
use crate::exec::Query;
use crate::expression::{Env, Expr, Runtime, location};
use crate::projection::Projection;
use crate::query::{ARGUMENT_DEPTH_MAX, Filter};
use crate::sort::SortSpec;
use crate::value::{elements, fields};
use crate::{Code, Error, Result};

pub(crate) use self::cursor::{PipelineState, each, explain, first_page, is_pending, next_page};
pub(crate) use self::near::GeoNear;
pub(crate) use self::parse::{Surroundings, event_stages};
pub(crate) use self::write::write_result;

/// A parsed pipeline.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// The collection, or what stands in for it.
    source: Source,
    /// Which documents of the collection, in which order.
    query: Query,
    /// What is done with them.
    stages: Vec<Stage>,
    /// Where the result goes, if not to the caller.
    pub(crate) target: Option<Target>,
    /// Whether the target's validator is passed over.
    pub(crate) bypass_validation: bool,
}

impl Pipeline {
    /// How it compares strings, if not by their bytes.
    pub(crate) fn collation(&self) -> Option<&Arc<Collation>> {
        self.query.runtime.collation()
    }
}

/// Where the first documents come from.
#[derive(Debug)]
enum Source {
    Collection,
    Documents(Vec<RawDocumentBuf>),
    CollectionStats { count: bool, storage: bool },
    IndexStats,
}

/// One stage.
#[derive(Debug)]
pub(crate) enum Stage {
    /// `$geoNear`, whose order and bounds are the query's.
    GeoNear(Arc<GeoNear>),
    /// `$match`.
    Match(Filter),
    /// `$project`, `$addFields`, `$unset`.
    Project(Box<Projection>),
    /// `$replaceRoot`, `$replaceWith`.
    ReplaceRoot(Expr),
    Redact(Expr),
    Unwind(Unwind),
    Sort {
        by: SortSpec,
        limit: Option<u64>,
    },
    Limit(u64),
    Skip(u64),
    Sample(u64),
    Group(Box<Group>),
    BucketAuto(Box<BucketAuto>),
    Lookup(Box<Lookup>),
    GraphLookup(Box<GraphLookup>),
    UnionWith(Box<UnionWith>),
    Facet(Vec<(CString, Vec<Stage>)>),
}

/// `$unwind`.
#[derive(Debug)]
pub(crate) struct Unwind {
    path: Box<[Box<str>]>,
    index: Option<Box<[Box<str>]>>,
    keep_empty: bool,
}

impl Stage {
    /// The name and argument of a stage's document.
    ///
    /// # Errors
    /// When it is no document of one field.
    pub(crate) fn split(stage: RawBsonRef<'_>) -> Result<(&str, RawBsonRef<'_>)> {
        let RawBsonRef::Document(stage) = stage else {
            return Err(Error::new(
                Code::TypeMismatch,
                "each element of the 'pipeline' array must be an object",
            ));
        };
        let mut all = fields(stage);
        match (all.next(), all.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(location(
                40_323,
                "A pipeline stage specification object must contain exactly one field.",
            )),
        }
    }

    /// Whether the stage looks at one document at a time and remembers nothing.
    fn is_stateless(&self) -> bool {
        matches!(
            self,
            Stage::GeoNear(_)
                | Stage::Match(_)
                | Stage::Project(_)
                | Stage::ReplaceRoot(_)
                | Stage::Redact(_)
                | Stage::Unwind(_)
                | Stage::Lookup(_)
                | Stage::GraphLookup(_)
        )
    }

    fn name(&self) -> &'static str {
        match self {
            Stage::GeoNear(_) => "$geoNear",
            Stage::Match(_) => "$match",
            Stage::Project(_) => "$project",
            Stage::ReplaceRoot(_) => "$replaceRoot",
            Stage::Redact(_) => "$redact",
            Stage::Unwind(_) => "$unwind",
            Stage::Sort { .. } => "$sort",
            Stage::Limit(_) => "$limit",
            Stage::Skip(_) => "$skip",
            Stage::Sample(_) => "$sample",
            Stage::Group(_) => "$group",
            Stage::BucketAuto(_) => "$bucketAuto",
            Stage::Lookup(_) => "$lookup",
            Stage::GraphLookup(_) => "$graphLookup",
            Stage::UnionWith(_) => "$unionWith",
            Stage::Facet(_) => "$facet",
        }
    }

    /// What a stage that makes at most one document of one makes of it; for updates, and for `run`.
    ///
    /// # Errors
    /// Those of its expressions, and a result that is no document or too large.
    pub(crate) fn apply_to(&self, doc: &RawDocument, runtime: &Runtime) -> Result<Option<RawDocumentBuf>> {
        match self {
            Stage::GeoNear(near) => near.apply_to(doc),
            Stage::Match(filter) => Ok(filter.accepts(doc)?.then(|| doc.to_owned())),
            Stage::Project(projection) => {
                let made = projection.apply(doc, &Filter::AlwaysTrue)?;
                check_made(&made).map(|()| Some(made))
            }
            Stage::ReplaceRoot(expr) => {
                let value = expr.eval(&mut Env::new(doc, runtime))?;
                let Some(made) = value.as_document() else {
                    let message = format!(
                        "'newRoot' expression must evaluate to an object, but resulting value was of type {}",
                        value.type_name()
                    );
                    return Err(location(40_228, message));
                };
                check_made(made).map(|()| Some(made.to_owned()))
            }
            Stage::Redact(expr) => redact(doc, expr, runtime, 0),
            other => Err(Error::new(
                Code::InternalError,
                format!("{} makes no one document of one", other.name()),
            )),
        }
    }
}

/// Checks a document that expressions made: they may nest values deeper and make them larger than may be stored.
fn check_made(doc: &RawDocument) -> Result<()> {
    check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
    let limits = crate::Limits::default();
    crate::check::check_size(doc, &limits)
}

/// `$redact`: keeps, cuts off, or looks into a document and the documents in it.
fn redact(doc: &RawDocument, expr: &Expr, runtime: &Runtime, depth: usize) -> Result<Option<RawDocumentBuf>> {
    if depth > ARGUMENT_DEPTH_MAX {
        return Err(Error::new(
            Code::Overflow,
            "the document is nested too deep for $redact",
        ));
    }
    let verdict = expr.eval(&mut Env::new(doc, runtime))?;
    match verdict.as_str() {
        Some("keep") => return Ok(Some(doc.to_owned())),
        Some("prune") => return Ok(None),
        Some("descend") => {}
        _ => {
            return Err(location(
                17_053,
                "$redact's expression should not return anything aside from the variables $$KEEP, $$DESCEND, and $$PRUNE",
            ));
        }
    }
    let mut out = RawDocumentBuf::new();
    for (name, value) in crate::value::raw_fields(doc) {
        match value {
            RawBsonRef::Document(inner) => {
                if let Some(inner) = redact(inner, expr, runtime, depth + 1)? {
                    out.append(name, inner);
                }
            }
            RawBsonRef::Array(inner) => out.append(name, redact_array(inner, expr, runtime, depth + 1)?),
            value => out.append(name, value),
        }
    }
    Ok(Some(out))
}

fn redact_array(
    array: &bson::RawArray,
    expr: &Expr,
    runtime: &Runtime,
    depth: usize,
) -> Result<bson::RawArrayBuf> {
    if depth > ARGUMENT_DEPTH_MAX {
        return Err(Error::new(
            Code::Overflow,
            "the document is nested too deep for $redact",
        ));
    }
    let mut out = bson::RawArrayBuf::new();
    for element in elements(array) {
        match element {
            RawBsonRef::Document(inner) => {
                if let Some(inner) = redact(inner, expr, runtime, depth + 1)? {
                    out.push(inner);
                }
            }
            RawBsonRef::Array(inner) => out.push(redact_array(inner, expr, runtime, depth + 1)?),
            element => out.push(element),
        }
    }
    Ok(out)
}

/// The document with a value at a path; what is on the way and no document becomes one. No value removes the field.
fn with_path(doc: &RawDocument, path: &[Box<str>], value: Option<RawBsonRef<'_>>) -> Result<RawDocumentBuf> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(doc.to_owned());
    };
    let key = <&bson::raw::CStr>::try_from(&**name)
        .map_err(|_| Error::new(Code::BadValue, format!("field name {name:?} has a NUL byte")))?;
    let inner = if rest.is_empty() {
        None
    } else {
        let empty = RawDocumentBuf::new();
        let old = crate::value::field(doc, name).and_then(|old| old.as_document());
        Some(with_path(old.unwrap_or(&empty), rest, value)?)
    };
    let value = inner.as_ref().map(|inner| RawBsonRef::Document(inner)).or(value);
    let mut out = RawDocumentBuf::new();
    let mut there = false;
    for (at, old) in crate::value::raw_fields(doc) {
        if at.as_str() != &**name {
            out.append(at, old);
        } else if !std::mem::replace(&mut there, true)
            && let Some(value) = value
        {
            out.append(key, value);
        }
    }
    if let (false, Some(value)) = (there, value) {
        out.append(key, value);
    }
    Ok(out)
}

/// An error when a stage holds more than it may.
pub(crate) fn check_held(bytes: usize, stage: &str, max: usize) -> Result<()> {
    if bytes > max {
        let message = format!(
            "{stage} held over {bytes} bytes, and aggregate_bytes_max is {max}; it does not spill to disk, or is not allowed to (allowDiskUse: true, where the server has a place for it); an earlier $match or $project would help"
        );
        return Err(Error::new(
            Code::QueryExceededMemoryLimitNoDiskUseAllowed,
            message,
        ));
    }
    Ok(())
}
