//! `$out` and `$merge`: the result goes into a collection, in the transaction in which it was computed.

use std::ops::ControlFlow;
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};
use cloudlet_base::Deadline;

use super::parse::{Surroundings, bound, pipeline_documents, variables};
use super::run::{Run, Work};
use super::{Pipeline, check_held};
use crate::catalog::{ID_INDEX, append};
use crate::exec::write;
use crate::expression::{Env, Expr, Scope, Value, location};
use crate::index::duplicate_key;
use crate::lanes::Tx;
use crate::path::Path;
use crate::query::{Filter, Predicate};
use crate::update::Update;
use crate::value::{elements, ensure_id_first, field, fields, raw_fields, type_name};
use crate::{Code, Error, Namespace, Result};

/// Where a result goes.
#[derive(Debug)]
pub(crate) struct Target {
    /// None: that of the command.
    database: Option<Box<str>>,
    collection: Box<str>,
    how: How,
}

#[derive(Debug)]
enum How {
    /// `$out`: it becomes the collection.
    Replace,
    /// `$merge`.
    Merge {
        on: Vec<Box<str>>,
        matched: Matched,
        not_matched: NotMatched,
    },
}

/// What becomes of a document that is there.
#[derive(Debug)]
enum Matched {
    Replace,
    Keep,
    Merge,
    Fail,
    Pipeline {
        stages: Vec<RawDocumentBuf>,
        variables: Vec<(Box<str>, Expr)>,
        scope: Scope,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotMatched {
    Insert,
    Discard,
    Fail,
}

/// `"c"` or `{db: "d", coll: "c"}`.
fn collection(name: &str, v: RawBsonRef<'_>) -> Result<(Option<Box<str>>, Box<str>)> {
    match v {
        RawBsonRef::String(collection) => Ok((None, collection.into())),
        RawBsonRef::Document(doc) => match (field(doc, "db"), field(doc, "coll")) {
            (db, Some(RawBsonRef::String(collection))) => {
                let database = db.and_then(|db| db.as_str()).map(Box::from);
                Ok((database, collection.into()))
            }
            _ => Err(location(51_178, format!("{name} needs the name of a collection"))),
        },
        v => Err(location(
            16_990,
            format!(
                "{name} only supports a string or object argument, but found {}",
                type_name(v)
            ),
        )),
    }
}

impl Target {
    pub(super) fn parse(name: &str, v: RawBsonRef<'_>, around: &Surroundings) -> Result<Target> {
        if name == "$out" {
            for (option, _) in v.as_document().into_iter().flat_map(fields) {
                match option {
                    "db" | "coll" => {}
                    "timeseries" => {
                        return Err(Error::new(
                            Code::CommandNotSupported,
                            "$out with 'timeseries' is not supported; make the collection with create, and insert into it",
                        ));
                    }
                    option => {
                        let message = format!("BSON field '$out.{option}' is an unknown field.");
                        return Err(location(40_415, message));
                    }
                }
            }
            let (database, collection) = collection(name, v)?;
            return Ok(Target {
                database,
                collection,
                how: How::Replace,
            });
        }
        let RawBsonRef::Document(doc) = v else {
            let (database, collection) = collection(name, v)?;
            let how = How::Merge {
                on: vec!["_id".into()],
                matched: Matched::Merge,
                not_matched: NotMatched::Insert,
            };
            return Ok(Target {
                database,
                collection,
                how,
            });
        };
        for (option, _) in fields(doc) {
            if !matches!(option, "into" | "on" | "let" | "whenMatched" | "whenNotMatched") {
                return Err(location(
                    40_415,
                    format!("BSON field '$merge.{option}' is an unknown field."),
                ));
            }
        }
        let into = field(doc, "into")
            .ok_or_else(|| location(40_414, "BSON field '$merge.into' is missing but a required field"))?;
        let (database, collection) = collection(name, into)?;
        let on = match field(doc, "on") {
            None => vec!["_id".into()],
            Some(RawBsonRef::String(one)) => vec![one.into()],
            Some(RawBsonRef::Array(many)) if !many.is_empty() => elements(many)
                .map(|v| v.as_str().map(Box::from))
                .collect::<Option<Vec<Box<str>>>>()
                .ok_or_else(|| {
                    location(
                        51_186,
                        "the $merge 'on' field must be a string or an array of strings",
                    )
                })?,
            Some(_) => {
                return Err(location(
                    51_186,
                    "the $merge 'on' field must be a string or an array of strings",
                ));
            }
        };
        let bad = |option: &str, v: RawBsonRef<'_>| {
            let message = format!(
                "enumeration value {} for field '$merge.{option}' is not a valid value",
                crate::value::shown(v)
            );
            Err(Error::new(Code::BadValue, message))
        };
        let matched = match field(doc, "whenMatched") {
            None | Some(RawBsonRef::String("merge")) => Matched::Merge,
            Some(RawBsonRef::String("replace")) => Matched::Replace,
            Some(RawBsonRef::String("keepExisting")) => Matched::Keep,
            Some(RawBsonRef::String("fail")) => Matched::Fail,
            Some(v @ RawBsonRef::Array(_)) => {
                let stages = pipeline_documents("$merge", v)?;
                let variables = variables(field(doc, "let"), &around.scope)?;
                let mut scope = around.scope.with_later("new")?;
                for (name, _) in &variables {
                    scope = scope.with_later(name)?;
                }
                Update::parse_in(&crate::pipeline_update(&stages), &[], &scope)?;
                Matched::Pipeline {
                    stages,
                    variables,
                    scope: around.scope.clone(),
                }
            }
            Some(v) => return bad("whenMatched", v),
        };
        let not_matched = match field(doc, "whenNotMatched") {
            None | Some(RawBsonRef::String("insert")) => NotMatched::Insert,
            Some(RawBsonRef::String("discard")) => NotMatched::Discard,
            Some(RawBsonRef::String("fail")) => NotMatched::Fail,
            Some(v) => return bad("whenNotMatched", v),
        };
        Ok(Target {
            database,
            collection,
            how: How::Merge {
                on,
                matched,
                not_matched,
            },
        })
    }
}

/// Runs the pipeline and writes its result to where it asks for: all of it, or, on an error, nothing.
pub(crate) fn write_result(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    pipeline: &Pipeline,
    deadline: &Deadline,
) -> Result<()> {
    let Some(target) = &pipeline.target else {
        return Ok(());
    };
    tx.bypass_validation = pipeline.bypass_validation;
    let database = target.database.as_deref().unwrap_or(&ns.database);
    let into = Namespace::new(database, &*target.collection);
    if let Some(collection) = tx.catalog.collection(&into) {
        crate::time_series::refuse(collection, &into, "writing the result of a pipeline")?;
    }
    let mut documents = Vec::new();
    let mut bytes = 0;
    {
        let run = Run {
            engine: tx.engine,
            kv: &*tx.kv,
            catalog: &tx.catalog,
            ns,
            runtime: &pipeline.query.runtime,
            deadline,
            work: &Work::default(),
            depth: 0,
        };
        let max = tx.engine.limits.aggregate_bytes_max;
        run.execute(pipeline, &mut |doc| {
            bytes += doc.as_bytes().len();
            check_held(bytes, "$out or $merge", max)?;
            documents.push(doc.into_owned());
            Ok(ControlFlow::Continue(()))
        })?;
    }
    match &target.how {
        How::Replace => replace(tx, &into, documents, deadline),
        How::Merge {
            on,
            matched,
            not_matched,
        } => {
            for doc in documents {
                let doc = ensure_id_first(&doc, write::fresh_id(tx.engine));
                merge(tx, &into, &doc, on, matched, *not_matched, deadline)?;
            }
            Ok(())
        }
    }
}

/// The documents become the collection; its indexes stay.
fn replace(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    documents: Vec<RawDocumentBuf>,
    deadline: &Deadline,
) -> Result<()> {
    let collection = write::collection_to_write(tx, ns)?;
    if collection.capped.is_some() {
        let message = format!("namespace '{ns}' is capped so it can't be used for $out");
        return Err(location(17_152, message));
    }
    let everything = write::DeleteStatement {
        filter: Filter::AlwaysTrue,
        multi: true,
    };
    let mut done = write::delete(tx, ns, &[Ok(everything)], true, deadline)?;
    if let Some(failure) = done.errors.pop() {
        return Err(failure.error);
    }
    let prepared: Vec<write::Prepared> = documents
        .iter()
        .map(|doc| write::prepare(doc, write::fresh_id(tx.engine), &tx.engine.limits))
        .collect();
    let mut done = write::insert(tx, ns, &prepared, true, deadline)?;
    match done.errors.pop() {
        Some(failure) => Err(failure.error),
        None => Ok(()),
    }
}

fn merge(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    doc: &RawDocument,
    on: &[Box<str>],
    matched: &Matched,
    not_matched: NotMatched,
    deadline: &Deadline,
) -> Result<()> {
    let mut filters = Vec::with_capacity(on.len());
    let (mut pattern, mut found) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    for name in on {
        let path: Vec<Box<str>> = name.split('.').map(Box::from).collect();
        let value = Value::Borrowed(RawBsonRef::Document(doc)).at_path(&path);
        if value.is_nullish() || value.is_array() {
            let message = "$merge write error: 'on' field cannot be missing, null, undefined or an array";
            return Err(location(51_132, message));
        }
        append(&mut pattern, name, RawBsonRef::Int32(1));
        append(&mut found, name, value.or_null());
        filters.push(Filter::Field {
            path: Path::parse(name)?,
            predicate: Predicate::Eq(value.into_raw().unwrap_or(RawBson::Null)),
        });
    }
    let filter = Filter::And(filters);
    let update = match matched {
        Matched::Keep | Matched::Fail => Update::parse(&bson::rawdoc! { "$setOnInsert": {} }, &[])?,
        Matched::Replace => Update::Replace(without_foreign_id(doc, on)),
        Matched::Merge => {
            let mut stage = RawDocumentBuf::new();
            stage.append(
                cstr!("$replaceWith"),
                bson::rawdoc! { "$mergeObjects": ["$$ROOT", { "$literal": without_id(doc) }] },
            );
            let scope = tx.engine.scope(deadline);
            Update::parse_in(&crate::pipeline_update(&[stage]), &[], &scope)?
        }
        Matched::Pipeline {
            stages,
            variables,
            scope,
        } => {
            let mut values = Vec::with_capacity(variables.len());
            for (_, expr) in variables {
                values.push(expr.eval(&mut Env::new(doc, scope.runtime()))?);
            }
            let scope =
                bound(scope, variables, &values)?.with("new", &Value::Borrowed(RawBsonRef::Document(doc)))?;
            Update::parse_in(&crate::pipeline_update(stages), &[], &scope)?
        }
    };
    let statement = write::UpdateStatement {
        filter,
        sort: None,
        update,
        multi: false,
        upsert: false,
    };
    let mut done = write::update(tx, ns, &[Ok(statement)], true, deadline)?;
    if let Some(failure) = done.errors.pop() {
        return Err(failure.error);
    }
    if done.matched > 0 {
        return match matched {
            Matched::Fail => {
                let keys: Vec<_> = on.iter().map(|name| (Arc::from(&**name), 1)).collect();
                let index = match &keys[..] {
                    [(id, _)] if **id == *"_id" => ID_INDEX.into(),
                    keys => crate::default_index_name(keys),
                };
                Err(duplicate_key(ns, &index, pattern, found))
            }
            _ => Ok(()),
        };
    }
    match not_matched {
        NotMatched::Discard => Ok(()),
        NotMatched::Fail => Err(location(
            13_113,
            "$merge could not find a matching document in the target collection",
        )),
        NotMatched::Insert => {
            let prepared = write::prepare(doc, write::fresh_id(tx.engine), &tx.engine.limits);
            let mut done = write::insert(tx, ns, &[prepared], true, deadline)?;
            match done.errors.pop() {
                Some(failure) => Err(failure.error),
                None => Ok(()),
            }
        }
    }
}

fn without_id(doc: &RawDocument) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    for (name, v) in raw_fields(doc).filter(|(name, _)| name.as_str() != "_id") {
        out.append(name, v);
    }
    out
}

/// A replacement of a document found by other fields keeps that document's `_id`.
fn without_foreign_id(doc: &RawDocument, on: &[Box<str>]) -> RawDocumentBuf {
    if on.iter().any(|name| &**name == "_id") {
        doc.to_owned()
    } else {
        without_id(doc)
    }
}
