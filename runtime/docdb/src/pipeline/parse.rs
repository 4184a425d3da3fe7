//! Stages from their documents.

use std::sync::Arc;

use bson::raw::{CString, cstr};
use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::group::{BucketAuto, Group};
use super::join::{GraphLookup, Lookup, UnionWith};
use super::near::GeoNear;
use super::write::Target;
use super::{Pipeline, Source, Stage, Unwind, optimize};
use crate::check::check_well_formed;
use crate::exec::Query;
use crate::expression::{Env, Expr, Scope, Value, field_path, location};
use crate::projection::Projection;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::value::{as_whole, elements, field, fields, is_number, shown, type_name};
use crate::{Code, Error, Limits, Result};

/// Pipelines in pipelines: MongoDB's 20.
const NESTING_MAX: usize = 20;

/// Stages that MongoDB has and this engine has not.
const NOT_SUPPORTED: [&str; 16] = [
    "$changeStream",
    "$changeStreamSplitLargeEvent",
    "$currentOp",
    "$densify",
    "$fill",
    "$listLocalSessions",
    "$listSessions",
    "$listSampledQueries",
    "$planCacheStats",
    "$queryStats",
    "$search",
    "$searchMeta",
    "$setWindowFields",
    "$shardedDataDistribution",
    "$vectorSearch",
    "$querySettings",
];

/// What a pipeline is parsed in.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) limits: Arc<Limits>,
    pub(crate) scope: Scope,
    /// How many pipelines are around it.
    pub(crate) nesting: usize,
}

impl Surroundings {
    pub(crate) fn new(limits: &Limits, scope: Scope) -> Self {
        Self {
            limits: Arc::new(limits.clone()),
            scope,
            nesting: 0,
        }
    }

    /// # Errors
    /// `InvalidLength` for a pipeline of more stages than `stages_max`.
    fn check_stages(&self, count: usize) -> Result<()> {
        let max = self.limits.stages_max;
        if count > max {
            let message = format!("the pipeline has {count} stages, and stages_max is {max}");
            return Err(Error::new(Code::InvalidLength, message));
        }
        Ok(())
    }

    /// The surroundings of a pipeline inside.
    pub(super) fn inside(&self, scope: Scope) -> Self {
        Self {
            limits: self.limits.clone(),
            scope,
            nesting: self.nesting + 1,
        }
    }
}

impl Pipeline {
    /// Parses a pipeline.
    ///
    /// # Errors
    /// 40324 for unknown stages, otherwise the code of what is wrong with a stage.
    pub(crate) fn parse(
        stages: &[RawDocumentBuf],
        around: &Surroundings,
        hint: Option<Arc<str>>,
    ) -> Result<Pipeline> {
        if around.nesting > NESTING_MAX {
            let message = format!("pipelines may be nested {NESTING_MAX} levels deep at most");
            return Err(Error::new(Code::MaxSubPipelineDepthExceeded, message));
        }
        around.check_stages(stages.len())?;
        let mut source = Source::Collection;
        let mut target = None;
        let mut near = None;
        let mut parsed = Vec::new();
        for (place, stage) in stages.iter().enumerate() {
            check_well_formed(stage, around.limits.depth_max)?;
            let (name, argument) = Stage::split(RawBsonRef::Document(stage))?;
            if matches!(name, "$documents" | "$collStats" | "$indexStats") {
                if place > 0 {
                    let message = format!("{name} is only valid as the first stage in a pipeline");
                    return Err(location(40_602, message));
                }
                source = first(name, argument, &around.scope)?;
                continue;
            }
            if name == "$geoNear" && place == 0 {
                let (stage, filter) = GeoNear::parse(argument, &around.scope)?;
                let stage = Arc::new(stage);
                near = Some((stage.clone(), filter));
                parsed.push(Stage::GeoNear(stage));
                continue;
            }
            if matches!(name, "$out" | "$merge") {
                if place + 1 < stages.len() {
                    return Err(location(
                        40_601,
                        format!("{name} can only be the final stage in the pipeline"),
                    ));
                }
                if around.nesting > 0 {
                    return Err(location(
                        51_047,
                        format!("{name} is not allowed within a pipeline inside of another"),
                    ));
                }
                target = Some(Target::parse(name, argument, around)?);
                continue;
            }
            parsed.extend(Stage::parse(name, argument, around)?);
        }
        let query = Query::all(hint, around.scope.runtime().clone());
        let mut pipeline = Pipeline {
            source,
            query,
            stages: parsed,
            target,
            bypass_validation: false,
        };
        optimize::optimize(&mut pipeline);
        // No later filter was moved before the stage, so the query has only what the stage says.
        if let Some((near, filter)) = near {
            pipeline.query.near = Some(near);
            pipeline.query.filter = filter;
        }
        Ok(pipeline)
    }

    /// Narrows the collection's documents further; for `$lookup`.
    pub(super) fn narrow(&mut self, filter: Filter) {
        let old = std::mem::replace(&mut self.query.filter, Filter::AlwaysTrue);
        self.query.filter = match old {
            Filter::AlwaysTrue => filter,
            old => Filter::And(vec![filter, old]),
        };
    }
}

/// Parses the stages that a change stream sends its events through.
///
/// # Errors
/// `IllegalOperation` for a stage that looks at more than one event or makes several of one; otherwise the code of
/// what is wrong with a stage.
pub(crate) fn event_stages(stages: &[RawDocumentBuf], around: &Surroundings) -> Result<Vec<Stage>> {
    around.check_stages(stages.len())?;
    let mut parsed = Vec::new();
    for stage in stages {
        check_well_formed(stage, around.limits.depth_max)?;
        let (name, argument) = Stage::split(RawBsonRef::Document(stage))?;
        let made = Stage::parse(name, argument, around);
        let allowed = matches!(
            name,
            "$match"
                | "$project"
                | "$addFields"
                | "$set"
                | "$unset"
                | "$replaceRoot"
                | "$replaceWith"
                | "$redact"
        );
        // A name that is no stage at all is told as such; these are stages of whole pipelines only.
        let whole = matches!(
            name,
            "$out" | "$merge" | "$documents" | "$collStats" | "$indexStats" | "$geoNear"
        );
        let known = whole || !matches!(&made, Err(error) if error.code() == Code::Location(40_324));
        if known && !allowed {
            let message = format!("{name} is not permitted in a $changeStream pipeline");
            return Err(Error::new(Code::IllegalOperation, message));
        }
        parsed.extend(made?);
    }
    Ok(parsed)
}

/// A stage that stands in for the collection.
fn first(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Source> {
    match name {
        "$documents" => {
            let expr = Expr::parse(v, scope)?;
            let empty = RawDocumentBuf::new();
            let list = expr.eval(&mut Env::new(&empty, scope.runtime()))?;
            let documents = list.elements().and_then(|list| {
                let document = |v: &Value<'_>| v.as_document().map(ToOwned::to_owned);
                list.iter().map(document).collect::<Option<Vec<RawDocumentBuf>>>()
            });
            documents.map(Source::Documents).ok_or_else(|| {
                location(
                    5_858_203,
                    "an array of objects is expected as the argument of $documents",
                )
            })
        }
        "$collStats" => {
            let doc = v
                .as_document()
                .ok_or_else(|| Error::new(Code::FailedToParse, "$collStats must take a nested object"))?;
            for (option, _) in fields(doc) {
                if !matches!(option, "count" | "storageStats" | "latencyStats") {
                    return Err(location(
                        40_168,
                        format!("unrecognized option to $collStats: {option}"),
                    ));
                }
            }
            Ok(Source::CollectionStats {
                count: field(doc, "count").is_some(),
                storage: field(doc, "storageStats").is_some(),
            })
        }
        _ => match v.as_document() {
            Some(doc) if doc.is_empty() => Ok(Source::IndexStats),
            _ => Err(location(
                28_803,
                "the $indexStats stage specification must be an empty object",
            )),
        },
    }
}

fn object<'v>(name: &str, v: RawBsonRef<'v>, number: i32) -> Result<&'v RawDocument> {
    v.as_document().ok_or_else(|| {
        location(
            number,
            format!(
                "the {name} specification must be an object, found {}",
                type_name(v)
            ),
        )
    })
}

impl Stage {
    /// Parses a stage. Some are made of several.
    pub(super) fn parse(name: &str, v: RawBsonRef<'_>, around: &Surroundings) -> Result<Vec<Stage>> {
        let scope = &around.scope;
        if matches!(name, "$bucketAuto" | "$graphLookup") {
            scope.needs_simple_collation(name)?;
        }
        Ok(vec![match name {
            "$match" => {
                let doc = v
                    .as_document()
                    .ok_or_else(|| location(15_959, "the match filter must be an expression in an object"))?;
                Stage::Match(Filter::parse_in(doc, scope)?)
            }
            "$project" | "$addFields" | "$set" | "$unset" | "$replaceRoot" | "$replaceWith" => {
                return Self::per_document(name, v, scope);
            }
            "$redact" => Stage::Redact(Expr::parse(v, &scope.with_redact())?),
            "$group" => Stage::Group(Box::new(Group::parse(v, scope)?)),
            "$sort" => {
                let doc = object(name, v, 15_973)?;
                if doc.is_empty() {
                    return Err(location(15_976, "$sort stage must have at least one sort key"));
                }
                let by = SortSpec::parse(doc).map_err(|error| match error.code() {
                    Code::BadValue => location(15_975, error.to_string()),
                    _ => error,
                })?;
                let by = by.collated(scope.runtime().collation());
                Stage::Sort { by, limit: None }
            }
            "$limit" => match whole(name, v)? {
                0 => return Err(location(15_958, "the limit must be positive")),
                limit => Stage::Limit(limit),
            },
            "$skip" => Stage::Skip(whole(name, v)?),
            "$unwind" => Stage::Unwind(unwind(v)?),
            "$count" => return count(v, scope),
            "$sortByCount" => return sort_by_count(v, scope),
            "$sample" => Stage::Sample(sample(v)?),
            "$bucket" => return bucket(v, scope),
            "$bucketAuto" => Stage::BucketAuto(Box::new(BucketAuto::parse(v, scope)?)),
            "$lookup" => Stage::Lookup(Box::new(Lookup::parse(v, around)?)),
            "$graphLookup" => Stage::GraphLookup(Box::new(GraphLookup::parse(v, around)?)),
            "$unionWith" => Stage::UnionWith(Box::new(UnionWith::parse(v, around)?)),
            "$facet" => Stage::Facet(facet(v, around)?),
            "$geoNear" => {
                let message = "$geoNear is only valid as the first stage in a pipeline";
                return Err(location(40_602, message));
            }
            name if NOT_SUPPORTED.contains(&name) => {
                let message = format!("pipeline stage {name} is not supported");
                return Err(Error::new(Code::CommandNotSupported, message));
            }
            name => {
                let message = format!("Unrecognized pipeline stage name: '{name}'");
                return Err(location(40_324, message));
            }
        }])
    }

    /// Parses one of the stages that an update may have.
    ///
    /// # Errors
    /// When the argument is malformed.
    pub(crate) fn per_document(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Vec<Stage>> {
        let project = |projection: Projection| Stage::Project(Box::new(projection));
        Ok(vec![match name {
            "$project" => project(Projection::parse_project(object(name, v, 15_969)?, scope)?),
            "$addFields" | "$set" => project(Projection::parse_add_fields(object(name, v, 40_272)?, scope)?),
            "$unset" => project(unset(v, scope)?),
            "$replaceWith" => Stage::ReplaceRoot(Expr::parse(v, scope)?),
            _ => {
                let doc = object(name, v, 40_229)?;
                if let Some((option, _)) = fields(doc).find(|(option, _)| *option != "newRoot") {
                    return Err(location(
                        40_230,
                        format!("unrecognized option to $replaceRoot: {option}"),
                    ));
                }
                let root = field(doc, "newRoot");
                let root =
                    root.ok_or_else(|| location(40_231, "no newRoot specified for the $replaceRoot stage"))?;
                Stage::ReplaceRoot(Expr::parse(root, scope)?)
            }
        }])
    }
}

/// A number that is whole and not negative.
fn whole(name: &str, v: RawBsonRef<'_>) -> Result<u64> {
    let number = if name == "$limit" { 5_107_201 } else { 5_107_200 };
    let found = as_whole(v)
        .filter(|_| is_number(v))
        .and_then(|v| u64::try_from(v).ok());
    found.ok_or_else(|| {
        location(
            number,
            format!(
                "invalid argument to {name} stage: expected a non-negative number, found {}",
                shown(v)
            ),
        )
    })
}

fn unset(v: RawBsonRef<'_>, scope: &Scope) -> Result<Projection> {
    let refused = || {
        location(
            31_002,
            "$unset specification must be a string or an array of strings",
        )
    };
    let mut out = RawDocumentBuf::new();
    let mut add = |v: RawBsonRef<'_>| match v {
        RawBsonRef::String(name) => {
            field_path(name)?;
            crate::catalog::append(&mut out, name, RawBsonRef::Boolean(false));
            Ok(())
        }
        _ => Err(refused()),
    };
    match v {
        RawBsonRef::Array(names) if names.is_empty() => {
            return Err(location(
                31_119,
                "$unset specification must be a string or an array with at least one field",
            ));
        }
        RawBsonRef::Array(names) => elements(names).try_for_each(&mut add)?,
        v => add(v)?,
    }
    Projection::parse_project(&out, scope)
}

fn unwind(v: RawBsonRef<'_>) -> Result<Unwind> {
    let mut index = None;
    let mut keep_empty = false;
    let mut path = None;
    match v {
        RawBsonRef::String(text) => path = Some(text),
        RawBsonRef::Document(doc) => {
            for (option, v) in fields(doc) {
                match (option, v) {
                    ("path", RawBsonRef::String(text)) => path = Some(text),
                    ("path", v) => {
                        return Err(location(
                            28_808,
                            format!(
                                "expected a string as the path for $unwind stage, got {}",
                                type_name(v)
                            ),
                        ));
                    }
                    ("preserveNullAndEmptyArrays", RawBsonRef::Boolean(keep)) => keep_empty = keep,
                    ("preserveNullAndEmptyArrays", v) => {
                        return Err(location(
                            28_809,
                            format!(
                                "expected a boolean for the preserveNullAndEmptyArrays option to $unwind stage, got {}",
                                type_name(v)
                            ),
                        ));
                    }
                    ("includeArrayIndex", RawBsonRef::String(text)) if !text.is_empty() => {
                        if text.starts_with('$') {
                            return Err(location(
                                28_822,
                                format!(
                                    "includeArrayIndex option to $unwind stage should not be prefixed with a '$': {text}"
                                ),
                            ));
                        }
                        index = Some(field_path(text)?);
                    }
                    ("includeArrayIndex", v) => {
                        return Err(location(
                            28_810,
                            format!(
                                "expected a non-empty string for the includeArrayIndex option to $unwind stage, got {}",
                                type_name(v)
                            ),
                        ));
                    }
                    (other, _) => {
                        return Err(location(
                            28_811,
                            format!("unrecognized option to $unwind stage: {other}"),
                        ));
                    }
                }
            }
        }
        v => {
            return Err(location(
                15_981,
                format!(
                    "expected either a string or an object as specification for $unwind stage, got {}",
                    type_name(v)
                ),
            ));
        }
    }
    let path = path.ok_or_else(|| location(28_812, "no path specified to $unwind stage"))?;
    let path = path.strip_prefix('$').ok_or_else(|| {
        location(
            28_818,
            format!("path option to $unwind stage should be prefixed with a '$': {path}"),
        )
    })?;
    Ok(Unwind {
        path: field_path(path)?,
        index,
        keep_empty,
    })
}

/// `$count` is a group and a projection.
fn count(v: RawBsonRef<'_>, scope: &Scope) -> Result<Vec<Stage>> {
    let name = match v {
        RawBsonRef::String(name) if !name.is_empty() => name,
        RawBsonRef::String(_) => return Err(location(40_157, "the count field must be a non-empty string")),
        _ => return Err(location(40_156, "the count field must be a non-empty string")),
    };
    if name.starts_with('$') {
        return Err(location(40_158, "the count field cannot be a $-prefixed path"));
    }
    if name.contains('.') {
        return Err(location(40_160, "the count field cannot contain '.'"));
    }
    let mut group = rawdoc! { "_id": null };
    crate::catalog::append(&mut group, name, RawBsonRef::Document(&rawdoc! { "$sum": 1 }));
    let shape = rawdoc! { "_id": 0 };
    Ok(vec![
        Stage::Group(Box::new(Group::parse(RawBsonRef::Document(&group), scope)?)),
        Stage::Project(Box::new(Projection::parse_project(&shape, scope)?)),
    ])
}

fn sort_by_count(v: RawBsonRef<'_>, scope: &Scope) -> Result<Vec<Stage>> {
    match v {
        RawBsonRef::String(text) if text.starts_with('$') => {}
        RawBsonRef::Document(doc) if fields(doc).next().is_some_and(|(name, _)| name.starts_with('$')) => {}
        RawBsonRef::Document(_) => {
            return Err(location(
                40_147,
                "the sortByCount field must be defined as a $-prefixed path or an expression inside an object",
            ));
        }
        _ => {
            return Err(location(
                40_149,
                "the sortByCount field must be specified as a string or as an object",
            ));
        }
    }
    let mut group = RawDocumentBuf::new();
    group.append(cstr!("_id"), v);
    group.append(cstr!("count"), rawdoc! { "$sum": 1 });
    Ok(vec![
        Stage::Group(Box::new(Group::parse(RawBsonRef::Document(&group), scope)?)),
        Stage::Sort {
            by: SortSpec::parse(&rawdoc! { "count": -1 })?,
            limit: None,
        },
    ])
}

fn sample(v: RawBsonRef<'_>) -> Result<u64> {
    let doc = object("$sample", v, 28_745)?;
    if let Some((option, _)) = fields(doc).find(|(option, _)| *option != "size") {
        return Err(location(
            28_748,
            format!("unrecognized option to $sample: {option}"),
        ));
    }
    let size = field(doc, "size").ok_or_else(|| location(28_749, "$sample stage must specify a size"))?;
    if !is_number(size) {
        return Err(location(28_746, "size argument to $sample must be a number"));
    }
    let whole = as_whole(size).and_then(|size| u64::try_from(size).ok());
    whole.ok_or_else(|| {
        location(
            28_747,
            "size argument to $sample must be a whole number, not negative",
        )
    })
}

/// `$bucket` is a group by a switch over the boundaries, sorted.
fn bucket(v: RawBsonRef<'_>, scope: &Scope) -> Result<Vec<Stage>> {
    let doc = object("$bucket", v, 40_201)?;
    for (option, _) in fields(doc) {
        if !matches!(option, "groupBy" | "boundaries" | "default" | "output") {
            return Err(location(
                40_197,
                format!("unrecognized option to $bucket: {option}"),
            ));
        }
    }
    let (Some(by), Some(boundaries)) = (field(doc, "groupBy"), field(doc, "boundaries")) else {
        return Err(location(
            40_198,
            "$bucket requires 'groupBy' and 'boundaries' to be specified.",
        ));
    };
    // A bare field or an expression; anything else would put all documents into one bucket.
    if !matches!(by, RawBsonRef::String(text) if text.starts_with('$')) && by.as_document().is_none() {
        return Err(location(
            40_202,
            "the $bucket 'groupBy' field must be defined as a $-prefixed path or an expression",
        ));
    }
    let RawBsonRef::Array(boundaries) = boundaries else {
        return Err(location(
            40_200,
            "the $bucket 'boundaries' field must be an array",
        ));
    };
    let mut bounds: Vec<RawBson> = Vec::new();
    for v in elements(boundaries) {
        let expr = Expr::parse(v, scope)?;
        let bound = expr.constant().ok_or_else(|| {
            location(
                40_191,
                "the $bucket 'boundaries' field must be an array of constant values",
            )
        })?;
        if let Some(last) = bounds.last() {
            let (last, bound) = (last.as_raw_bson_ref(), bound.as_raw_bson_ref());
            if crate::value::canonical_class(last) != crate::value::canonical_class(bound) {
                return Err(location(
                    40_193,
                    "all values in the 'boundaries' option to $bucket must have the same type",
                ));
            }
            if crate::value::compare(last, bound).is_ge() {
                return Err(location(
                    40_194,
                    "the 'boundaries' option to $bucket must be sorted, without duplicates",
                ));
            }
        }
        bounds.push(bound.clone());
    }
    if bounds.len() < 2 {
        return Err(location(
            40_192,
            "the $bucket 'boundaries' field must have at least 2 values",
        ));
    }
    let mut branches = RawArrayBuf::new();
    for pair in bounds.windows(2) {
        let literal = |v: &RawBson| {
            let mut doc = RawDocumentBuf::new();
            doc.append(cstr!("$literal"), v.as_raw_bson_ref());
            doc
        };
        let mut low = RawArrayBuf::new();
        low.push(by);
        low.push(literal(&pair[0]));
        let mut high = RawArrayBuf::new();
        high.push(by);
        high.push(literal(&pair[1]));
        branches.push(rawdoc! {
            "case": { "$and": [{ "$gte": low }, { "$lt": high }] },
            "then": literal(&pair[0]),
        });
    }
    let mut switch = rawdoc! { "branches": branches };
    if let Some(other) = field(doc, "default") {
        let expr = Expr::parse(other, scope)?;
        let Some(value) = expr.constant() else {
            return Err(location(40_195, "the $bucket 'default' field must be a constant"));
        };
        let mut literal = RawDocumentBuf::new();
        literal.append(cstr!("$literal"), value.as_raw_bson_ref());
        switch.append(cstr!("default"), literal);
    }
    let mut group = RawDocumentBuf::new();
    group.append(cstr!("_id"), rawdoc! { "$switch": switch });
    match field(doc, "output") {
        None => group.append(cstr!("count"), rawdoc! { "$sum": 1 }),
        Some(RawBsonRef::Document(output)) => {
            for (name, v) in crate::value::raw_fields(output) {
                group.append(name, v);
            }
        }
        Some(_) => return Err(location(40_196, "the $bucket 'output' field must be an object")),
    }
    Ok(vec![
        Stage::Group(Box::new(Group::parse(RawBsonRef::Document(&group), scope)?)),
        Stage::Sort {
            by: SortSpec::parse(&rawdoc! { "_id": 1 })?,
            limit: None,
        },
    ])
}

fn facet(v: RawBsonRef<'_>, around: &Surroundings) -> Result<Vec<(CString, Vec<Stage>)>> {
    const REFUSED: [&str; 7] = [
        "$facet",
        "$out",
        "$merge",
        "$geoNear",
        "$indexStats",
        "$collStats",
        "$documents",
    ];
    let doc = v.as_document().filter(|doc| !doc.is_empty());
    let doc = doc.ok_or_else(|| location(40_169, "the $facet specification must be a non-empty object"))?;
    let inside = around.inside(around.scope.clone());
    if inside.nesting > NESTING_MAX {
        let message = format!("pipelines may be nested {NESTING_MAX} levels deep at most");
        return Err(Error::new(Code::MaxSubPipelineDepthExceeded, message));
    }
    let mut facets: Vec<(CString, Vec<Stage>)> = Vec::new();
    for (name, stages) in crate::value::raw_fields(doc) {
        if name.as_str().starts_with('$') || name.as_str().contains('.') || name.as_str().is_empty() {
            return Err(location(
                16_410,
                format!("{:?} is not the name of a facet's field", name.as_str()),
            ));
        }
        let mut parsed = Vec::new();
        for stage in pipeline_elements("$facet", stages)? {
            let (stage, argument) = Stage::split(stage)?;
            if REFUSED.contains(&stage) {
                return Err(location(
                    40_600,
                    format!("{stage} is not allowed to be used within a $facet stage"),
                ));
            }
            parsed.extend(Stage::parse(stage, argument, &inside)?);
        }
        optimize::fuse(&mut parsed);
        facets.push((name.to_owned(), parsed));
    }
    Ok(facets)
}

/// The stages of a pipeline in a stage.
pub(super) fn pipeline_elements<'v>(name: &str, v: RawBsonRef<'v>) -> Result<Vec<RawBsonRef<'v>>> {
    match v {
        RawBsonRef::Array(stages) => Ok(elements(stages).collect()),
        v => Err(location(
            40_170,
            format!(
                "arguments to {name} must be arrays of stages, found {}",
                type_name(v)
            ),
        )),
    }
}

/// The stages of a pipeline in a stage, as documents of their own.
pub(super) fn pipeline_documents(name: &str, v: RawBsonRef<'_>) -> Result<Vec<RawDocumentBuf>> {
    pipeline_elements(name, v)?
        .into_iter()
        .map(|stage| match stage {
            RawBsonRef::Document(stage) => Ok(stage.to_owned()),
            _ => Err(Error::new(
                Code::TypeMismatch,
                "each element of the 'pipeline' array must be an object",
            )),
        })
        .collect()
}

/// Variables of a stage's `let`.
pub(super) fn variables(v: Option<RawBsonRef<'_>>, scope: &Scope) -> Result<Vec<(Box<str>, Expr)>> {
    match v {
        None => Ok(Vec::new()),
        Some(RawBsonRef::Document(doc)) => fields(doc)
            .map(|(name, v)| Ok((Box::from(name), Expr::parse(v, scope)?)))
            .collect(),
        Some(v) => Err(Error::new(
            Code::FailedToParse,
            format!("'let' must be an object, found {}", type_name(v)),
        )),
    }
}

/// The scope of a pipeline whose variables have these values for one document.
pub(super) fn bound(scope: &Scope, variables: &[(Box<str>, Expr)], values: &[Value<'_>]) -> Result<Scope> {
    let mut scope = scope.clone();
    for ((name, _), value) in variables.iter().zip(values) {
        scope = scope.with(name, value)?;
    }
    Ok(scope)
}
