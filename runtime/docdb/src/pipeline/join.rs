//! Stages that bring in another collection: `$lookup`, `$graphLookup`, `$unionWith`.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::parse::{Surroundings, bound, pipeline_documents, variables};
use super::run::Run;
use super::{Pipeline, check_held, with_path};
use crate::collation::{self, Collation};
use crate::exec::Query;
use crate::expression::{Env, Expr, Value, field_path, location};
use crate::path::{Path, index_values};
use crate::plan;
use crate::query::{Filter, Predicate};
use crate::value::{as_whole, compare, elements, field, fields, is_number, type_name};
use crate::{Code, Error, Namespace, Result};

fn failed(message: impl Into<String>) -> Error {
    Error::new(Code::FailedToParse, message)
}

fn text<'v>(stage: &str, option: &str, v: RawBsonRef<'v>) -> Result<&'v str> {
    match v {
        RawBsonRef::String(text) => Ok(text),
        v => Err(failed(format!(
            "{stage} argument '{option}' must be a string, found {}",
            type_name(v)
        ))),
    }
}

/// `$lookup`.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// None when the inner pipeline begins with `$documents`.
    from: Option<Box<str>>,
    into: Box<[Box<str>]>,
    /// The path in the document and the path in the other collection.
    on: Option<(Box<[Box<str>]>, Path)>,
    variables: Vec<(Box<str>, Expr)>,
    stages: Vec<RawDocumentBuf>,
    around: Surroundings,
}

impl Lookup {
    pub(super) fn parse(v: RawBsonRef<'_>, around: &Surroundings) -> Result<Lookup> {
        let RawBsonRef::Document(doc) = v else {
            return Err(failed(format!(
                "the $lookup specification must be an object, found {}",
                type_name(v)
            )));
        };
        let (mut from, mut into, mut local, mut foreign) = (None, None, None, None);
        let mut stages = None;
        for (option, v) in fields(doc) {
            match option {
                "from" => from = Some(Box::from(text("$lookup", option, v)?)),
                "as" => into = Some(field_path(text("$lookup", option, v)?)?),
                "localField" => local = Some(field_path(text("$lookup", option, v)?)?),
                "foreignField" => {
                    let name = text("$lookup", option, v)?;
                    field_path(name)?;
                    foreign = Some(Path::parse(name)?);
                }
                "let" => {}
                "pipeline" => stages = Some(pipeline_documents("$lookup", v)?),
                other => return Err(failed(format!("unknown argument to $lookup: {other}"))),
            }
        }
        let into = into.ok_or_else(|| failed("must specify 'as' field for a $lookup"))?;
        let on = match (local, foreign) {
            (Some(local), Some(foreign)) => Some((local, foreign)),
            (None, None) if stages.is_some() => None,
            (None, None) => {
                return Err(failed(
                    "$lookup requires either 'pipeline' or both 'localField' and 'foreignField' to be specified",
                ));
            }
            _ => {
                return Err(failed(
                    "$lookup requires both or neither of 'localField' and 'foreignField' to be specified",
                ));
            }
        };
        let variables = variables(field(doc, "let"), &around.scope)?;
        if !variables.is_empty() && stages.is_none() {
            return Err(failed(
                "$lookup with a 'let' argument must also specify 'pipeline'",
            ));
        }
        let stages = stages.unwrap_or_default();
        if from.is_none() && !starts_with_documents(&stages) {
            return Err(failed("must specify 'from' field for a $lookup"));
        }
        let lookup = Lookup {
            from,
            into,
            on,
            variables,
            stages,
            around: around.inside(around.scope.clone()),
        };
        // Checked now, though the variables have no values yet.
        let mut scope = around.scope.clone();
        for (name, _) in &lookup.variables {
            scope = scope.with_later(name)?;
        }
        Pipeline::parse(&lookup.stages, &around.inside(scope), None)?;
        Ok(lookup)
    }

    /// Whether it finds the same for every document.
    fn is_uncorrelated(&self) -> bool {
        self.on.is_none() && self.variables.is_empty()
    }

    /// The document with what was found. `kept` is what the stage keeps from one document to the next.
    pub(super) fn join(&self, doc: &RawDocument, run: &Run<'_>, kept: &mut Kept) -> Result<RawDocumentBuf> {
        if let Kept::Nothing = kept {
            *kept = self.prepare(doc, run)?;
        }
        let here;
        let array = match kept {
            Kept::Result(array) => &*array,
            Kept::Table(table) => {
                here = match self.on.as_ref().and_then(|on| table.find(doc, on)) {
                    Some(array) => array,
                    None => self.find(doc, run)?,
                };
                &here
            }
            Kept::Nothing | Kept::Useless => {
                here = self.find(doc, run)?;
                &here
            }
        };
        let joined = with_path(doc, &self.into, Some(RawBsonRef::Array(array)))?;
        super::check_made(&joined)?;
        Ok(joined)
    }

    /// What is worth keeping: a result that is the same for all, or a table when no index serves the join.
    fn prepare(&self, doc: &RawDocument, run: &Run<'_>) -> Result<Kept> {
        if self.is_uncorrelated() {
            return self.find(doc, run).map(Kept::Result);
        }
        let (Some((_, foreign)), Some(from), true) = (&self.on, &self.from, self.stages.is_empty()) else {
            return Ok(Kept::Useless);
        };
        let ns = Namespace::new(run.ns.database.clone(), &**from);
        let collation = self.around.scope.runtime().collation();
        // Under a collation only an index of that one is of use for strings.
        let mut predicate = Predicate::Eq(match collation {
            None => RawBson::Int32(0),
            Some(_) => RawBson::String(String::new()),
        });
        if let Some(collation) = collation {
            predicate.collate(collation);
        }
        let any = Filter::Field {
            path: foreign.clone(),
            predicate,
        };
        let indexed = match run.catalog.collection(&ns) {
            // What a view makes is worth keeping.
            None => run.catalog.view(&ns).is_none(),
            Some(collection) => plan::choose(collection, &any, None, None)?.bounded,
        };
        if indexed {
            return Ok(Kept::Useless);
        }
        let table = Table::build(&run.inside(&ns), foreign, collation)?;
        Ok(table.map_or(Kept::Useless, Kept::Table))
    }

    fn find(&self, doc: &RawDocument, run: &Run<'_>) -> Result<RawArrayBuf> {
        let runtime = self.around.scope.runtime();
        let mut values = Vec::with_capacity(self.variables.len());
        for (_, expr) in &self.variables {
            values.push(expr.eval(&mut Env::new(doc, runtime))?);
        }
        let scope = bound(&self.around.scope, &self.variables, &values)?;
        let mut around = self.around.clone();
        around.scope = scope;
        let mut pipeline = Pipeline::parse(&self.stages, &around, None)?;
        if let Some((local, foreign)) = &self.on {
            let mut predicate = equal_to(&Value::Borrowed(RawBsonRef::Document(doc)).at_path(local));
            if let Some(collation) = runtime.collation() {
                predicate.collate(collation);
            }
            pipeline.narrow(Filter::Field {
                path: foreign.clone(),
                predicate,
            });
        }
        collect(run, self.from.as_deref(), &pipeline, "$lookup")
    }
}

/// What `$lookup` keeps from one document to the next.
pub(super) enum Kept {
    /// Nothing yet.
    Nothing,
    /// Nothing ever: an index serves the join, or each document asks for something else.
    Useless,
    /// What is found for every document.
    Result(RawArrayBuf),
    Table(Table),
}

/// The other collection by the values of the foreign field, so that it is read once and not for every document.
pub(super) struct Table {
    documents: Vec<RawDocumentBuf>,
    places: HashMap<Vec<u8>, Vec<usize>>,
    /// How the keys have strings, if not by their bytes.
    collation: Option<Arc<Collation>>,
}

impl Table {
    /// None when the collection is too large to be held.
    fn build(run: &Run<'_>, foreign: &Path, collation: Option<&Arc<Collation>>) -> Result<Option<Table>> {
        let max = run.engine.limits.aggregate_bytes_max;
        let pipeline = Query::all(None, run.engine.scope(run.deadline).runtime().clone());
        let (mut documents, mut places) = (Vec::new(), HashMap::<Vec<u8>, Vec<usize>>::new());
        let mut bytes = 0;
        run.find(&pipeline, &mut |doc| {
            bytes += doc.as_bytes().len();
            for value in index_values(&doc, foreign).values {
                let key = key(value, collation);
                bytes += key.len() + 64;
                places.entry(key).or_default().push(documents.len());
            }
            documents.push(doc.into_owned());
            Ok(if bytes > max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok((bytes <= max).then(|| Table {
            documents,
            places,
            collation: collation.cloned(),
        }))
    }

    /// What a document joins with; none if the table can't tell, as of arrays, of which it has the elements only.
    fn find(&self, doc: &RawDocument, (local, foreign): &(Box<[Box<str>]>, Path)) -> Option<RawArrayBuf> {
        let mut predicate = equal_to(&Value::Borrowed(RawBsonRef::Document(doc)).at_path(local));
        let wanted = match &predicate {
            Predicate::Eq(value) => std::slice::from_ref(value),
            Predicate::In { values, .. } => values,
            _ => return None,
        };
        let mut found = Vec::new();
        for value in wanted {
            if let RawBson::Array(_) = value {
                return None;
            }
            found.extend(
                self.places
                    .get(&key(value.as_raw_bson_ref(), self.collation.as_ref()))
                    .into_iter()
                    .flatten()
                    .copied(),
            );
        }
        found.sort_unstable();
        found.dedup();
        if let Some(collation) = &self.collation {
            predicate.collate(collation);
        }
        let filter = Filter::Field {
            path: foreign.clone(),
            predicate,
        };
        let mut out = RawArrayBuf::new();
        for place in found {
            let doc = &self.documents[place];
            if filter.matches(doc) {
                out.push(doc.as_ref());
            }
        }
        Some(out)
    }
}

fn starts_with_documents(stages: &[RawDocumentBuf]) -> bool {
    let first = stages.first().and_then(|stage| fields(stage).next());
    first.is_some_and(|(name, _)| name == "$documents")
}

/// Equality with a value, or with any element of an array. What is missing is equal to null.
fn equal_to(v: &Value<'_>) -> Predicate {
    match v.or_null() {
        RawBsonRef::Array(array) => any_of(elements(array).map(RawBson::from).collect()),
        RawBsonRef::Undefined => Predicate::Eq(RawBson::Null),
        v => Predicate::Eq(v.into()),
    }
}

fn any_of(mut values: Vec<RawBson>) -> Predicate {
    values.retain(|v| !matches!(v, RawBson::Undefined));
    values.sort_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()));
    values.dedup_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()).is_eq());
    Predicate::In {
        values,
        regexes: Vec::new(),
    }
}

/// Runs a pipeline on a collection of the same database and gathers its result.
fn collect(run: &Run<'_>, from: Option<&str>, pipeline: &Pipeline, stage: &str) -> Result<RawArrayBuf> {
    let ns = Namespace::new(run.ns.database.clone(), from.unwrap_or(&*run.ns.collection));
    let mut out = RawArrayBuf::new();
    run.inside(&ns).execute(pipeline, &mut |doc| {
        out.push(doc.as_ref());
        check_held(out.as_bytes().len(), stage, run.engine.limits.aggregate_bytes_max)?;
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// `$unionWith`.
#[derive(Debug)]
pub(crate) struct UnionWith {
    from: Option<Box<str>>,
    pub(super) pipeline: Pipeline,
}

impl UnionWith {
    pub(super) fn parse(v: RawBsonRef<'_>, around: &Surroundings) -> Result<UnionWith> {
        let (mut from, mut stages) = (None, Vec::new());
        match v {
            RawBsonRef::String(name) => from = Some(Box::from(name)),
            RawBsonRef::Document(doc) => {
                for (option, v) in fields(doc) {
                    match option {
                        "coll" => from = Some(Box::from(text("$unionWith", option, v)?)),
                        "pipeline" => stages = pipeline_documents("$unionWith", v)?,
                        other => {
                            return Err(location(
                                40_415,
                                format!("BSON field '$unionWith.{other}' is an unknown field."),
                            ));
                        }
                    }
                }
            }
            v => {
                return Err(failed(format!(
                    "the $unionWith stage specification must be an object or string, found {}",
                    type_name(v)
                )));
            }
        }
        if from.is_none() && !starts_with_documents(&stages) {
            return Err(failed(
                "$unionWith needs 'coll', or a pipeline that begins with $documents",
            ));
        }
        let pipeline = Pipeline::parse(&stages, &around.inside(around.scope.clone()), None)?;
        Ok(UnionWith { from, pipeline })
    }

    /// The collection that is added.
    pub(super) fn namespace(&self, run: &Run<'_>) -> Namespace {
        Namespace::new(
            run.ns.database.clone(),
            self.from.as_deref().unwrap_or(&*run.ns.collection),
        )
    }
}

/// `$graphLookup`.
#[derive(Debug)]
pub(crate) struct GraphLookup {
    from: Box<str>,
    start_with: Expr,
    connect_from: Box<[Box<str>]>,
    connect_to: Path,
    into: Box<[Box<str>]>,
    depth_max: Option<u64>,
    depth_field: Option<Box<[Box<str>]>>,
    restrict: Option<Filter>,
    around: Surroundings,
}

impl GraphLookup {
    pub(super) fn parse(v: RawBsonRef<'_>, around: &Surroundings) -> Result<GraphLookup> {
        let RawBsonRef::Document(doc) = v else {
            return Err(failed(format!(
                "the $graphLookup stage specification must be an object, found {}",
                type_name(v)
            )));
        };
        for (option, _) in fields(doc) {
            const KNOWN: [&str; 8] = [
                "from",
                "startWith",
                "connectFromField",
                "connectToField",
                "as",
                "maxDepth",
                "depthField",
                "restrictSearchWithMatch",
            ];
            if !KNOWN.contains(&option) {
                return Err(location(
                    40_104,
                    format!("unknown argument to $graphLookup: {option}"),
                ));
            }
        }
        let needed = |option: &str| {
            field(doc, option).ok_or_else(|| {
                location(
                    40_105,
                    format!("$graphLookup requires '{option}' to be specified"),
                )
            })
        };
        let name = |option: &'static str| text("$graphLookup", option, needed(option)?);
        let depth_max = field(doc, "maxDepth").map(|v| {
            let whole = as_whole(v)
                .filter(|_| is_number(v))
                .and_then(|v| u64::try_from(v).ok());
            whole.ok_or_else(|| location(40_101, "maxDepth requires a whole number, not negative"))
        });
        let depth_field =
            field(doc, "depthField").map(|v| field_path(text("$graphLookup", "depthField", v)?));
        let restrict = field(doc, "restrictSearchWithMatch").map(|v| {
            let filter = v
                .as_document()
                .ok_or_else(|| location(40_185, "restrictSearchWithMatch must be an object"))?;
            Filter::parse_in(filter, &around.scope)
        });
        let connect_to = name("connectToField")?;
        field_path(connect_to)?;
        Ok(GraphLookup {
            from: name("from")?.into(),
            start_with: Expr::parse(needed("startWith")?, &around.scope)?,
            connect_from: field_path(name("connectFromField")?)?,
            connect_to: Path::parse(connect_to)?,
            into: field_path(name("as")?)?,
            depth_max: depth_max.transpose()?,
            depth_field: depth_field.transpose()?,
            restrict: restrict.transpose()?,
            around: around.inside(around.scope.clone()),
        })
    }

    /// The document with all that can be reached from it, each once, the nearest first.
    pub(super) fn join(&self, doc: &RawDocument, run: &Run<'_>) -> Result<RawDocumentBuf> {
        let max = run.engine.limits.aggregate_bytes_max;
        let runtime = self.around.scope.runtime();
        let start = self.start_with.eval(&mut Env::new(doc, runtime))?;
        let mut asked = BTreeSet::new();
        let mut frontier = Vec::new();
        let mut bytes = 0;
        let mut ask = |v: &Value<'_>, frontier: &mut Vec<RawBson>| {
            let values = v.elements().unwrap_or_else(|| vec![v.clone()]);
            for v in values.into_iter().filter_map(Value::into_raw) {
                if asked.insert(key(v.as_raw_bson_ref(), None)) {
                    frontier.push(v);
                }
            }
        };
        ask(&start, &mut frontier);
        let mut seen = BTreeSet::new();
        let mut out = RawArrayBuf::new();
        let mut depth = 0;
        while !frontier.is_empty() && self.depth_max.is_none_or(|max| depth <= max) {
            run.check()?;
            let mut pipeline = Pipeline::parse(&[], &self.around, None)?;
            let wanted = Filter::Field {
                path: self.connect_to.clone(),
                predicate: any_of(std::mem::take(&mut frontier)),
            };
            pipeline.narrow(match &self.restrict {
                None => wanted,
                Some(restrict) => Filter::And(vec![wanted, restrict.clone()]),
            });
            let found = collect(run, Some(&self.from), &pipeline, "$graphLookup")?;
            for found in elements(&found).filter_map(|v| v.as_document()) {
                let id = key(field(found, "_id").unwrap_or(RawBsonRef::Null), None);
                bytes += id.len() + 32;
                if !seen.insert(id) {
                    continue;
                }
                ask(
                    &Value::Borrowed(RawBsonRef::Document(found)).at_path(&self.connect_from),
                    &mut frontier,
                );
                match &self.depth_field {
                    None => out.push(found),
                    Some(path) => {
                        let depth = RawBsonRef::Int64(i64::try_from(depth).unwrap_or(i64::MAX));
                        out.push(with_path(found, path, Some(depth))?);
                    }
                }
                check_held(bytes + out.as_bytes().len(), "$graphLookup", max)?;
            }
            depth += 1;
        }
        let joined = with_path(doc, &self.into, Some(RawBsonRef::Array(&out)))?;
        super::check_made(&joined)?;
        Ok(joined)
    }
}

fn key(v: RawBsonRef<'_>, collation: Option<&Arc<Collation>>) -> Vec<u8> {
    let mut key = Vec::new();
    collation::encode(&mut key, v, false, collation);
    key
}
