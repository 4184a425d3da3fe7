//! Views: collections that are pipelines on other ones. What one may be, what it is of, and commands about it as
//! pipelines on that. The catalog keeps them; they have no documents of their own.

use std::collections::BTreeMap;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::catalog::{Catalog, check_namespace};
use crate::collation::Collation;
use crate::pipeline::{Pipeline, Stage, Surroundings};
use crate::value::{elements, field, fields};
use crate::{Aggregate, Code, Error, Find, Namespace, Result, Shown, View};

/// Views on views on views, pipelines inside of theirs counted: MongoDB's 20.
const DEPTH_MAX: usize = 20;
/// Pipelines at work inside of one another, of views and of stages: the bound of what is made of views that were changed
/// under others. A view that a stage brings in counts twice.
pub(crate) const NESTED_MAX: usize = 60;
/// Largest pipeline of a view, bytes: it is in memory for as long as the view is there.
const PIPELINE_BYTES_MAX: usize = 256 * 1024;
/// Documents in documents of a pipeline that are looked at for names; parsing allows no more.
const LOOKED_INTO_MAX: usize = 200;

/// What a view is of in the end, and the stages that make it of that.
pub(crate) struct Resolved {
    pub(crate) ns: Namespace,
    pub(crate) pipeline: Vec<RawDocumentBuf>,
    /// The view's collation; none for the simple one.
    pub(crate) collation: Option<RawDocumentBuf>,
}

impl Resolved {
    /// A pipeline on the view as one on what it is of.
    ///
    /// # Errors
    /// `CommandNotSupportedOnView` for a stage that tells of a collection itself.
    pub(crate) fn aggregate(&self, mut aggregate: Aggregate) -> Result<Aggregate> {
        let first = aggregate.pipeline.first().and_then(|stage| fields(stage).next());
        if let Some((name @ ("$collStats" | "$indexStats"), _)) = first {
            let message = format!("{name} is not supported on a view");
            return Err(Error::new(Code::CommandNotSupportedOnView, message));
        }
        aggregate.collation = Some(self.own_collation(aggregate.collation.as_deref())?);
        let mut stages = self.pipeline.clone();
        stages.append(&mut aggregate.pipeline);
        aggregate.pipeline = stages;
        Ok(aggregate)
    }

    /// The collation of a command on the view, which is the view's own: MongoDB lets no command say otherwise.
    ///
    /// # Errors
    /// `OptionNotSupportedOnView` for another one.
    fn own_collation(&self, asked: Option<&RawDocument>) -> Result<RawDocumentBuf> {
        let own = self
            .collation
            .as_deref()
            .map(Collation::parse)
            .transpose()?
            .flatten();
        if let Some(asked) = asked.filter(|asked| !asked.is_empty())
            && Collation::parse(asked)? != own
        {
            return Err(Error::new(
                Code::OptionNotSupportedOnView,
                "Cannot override a view's default collation",
            ));
        }
        Ok(match own {
            Some(own) => own.document().to_owned(),
            None => rawdoc! { "locale": "simple" },
        })
    }

    /// A query on the view as a pipeline.
    ///
    /// # Errors
    /// `OptionNotSupportedOnView` for what only an index has.
    pub(crate) fn find(&self, find: &Find) -> Result<Aggregate> {
        if find.min.is_some()
            || find.max.is_some()
            || find.after.is_some()
            || find.tailable
            || find.shown != Shown::Documents
        {
            return Err(Error::new(
                Code::OptionNotSupportedOnView,
                "min, max, after, tailable, returnKey and showRecordId are not supported on a view",
            ));
        }
        let mut pipeline = Vec::new();
        if !find.filter.is_empty() {
            pipeline.push(rawdoc! { "$match": find.filter.clone() });
        }
        if let Some(sort) = find.sort.as_ref().filter(|sort| !sort.is_empty()) {
            pipeline.push(rawdoc! { "$sort": sort.clone() });
        }
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if find.skip > 0 {
            pipeline.push(rawdoc! { "$skip": number(find.skip) });
        }
        if let Some(limit) = find.limit.filter(|limit| *limit > 0) {
            pipeline.push(rawdoc! { "$limit": number(limit) });
        }
        if let Some(projection) = find.projection.as_ref().filter(|fields| !fields.is_empty()) {
            pipeline.push(rawdoc! { "$project": projection.clone() });
        }
        self.aggregate(Aggregate {
            pipeline,
            variables: find.variables.clone(),
            collation: find.collation.clone(),
            hint: find.hint.clone(),
            batch: find.batch,
            allow_disk_use: find.allow_disk_use,
            ..Aggregate::default()
        })
    }
}

/// What the view of that name is of; none when it is no view.
///
/// # Errors
/// `ViewDepthLimitExceeded`.
pub(crate) fn resolve(catalog: &Catalog, ns: &Namespace) -> Result<Option<Resolved>> {
    let Some(mut view) = catalog.view(ns) else {
        return Ok(None);
    };
    let collation = view.collation.clone();
    let mut pipelines = Vec::new();
    for _ in 0..DEPTH_MAX {
        pipelines.push(&view.pipeline);
        let on = Namespace::new(ns.database.clone(), view.on.clone());
        match catalog.view(&on) {
            Some(next) => view = next,
            None => {
                return Ok(Some(Resolved {
                    ns: on,
                    pipeline: pipelines.into_iter().rev().flatten().cloned().collect(),
                    collation,
                }));
            }
        }
    }
    Err(too_deep())
}

/// The error for views that go too deep.
pub(crate) fn too_deep() -> Error {
    Error::new(
        Code::ViewDepthLimitExceeded,
        format!("View depth limit exceeded; maximum depth is {DEPTH_MAX}"),
    )
}

/// The error of a command that only a collection can take.
pub(crate) fn not_a_collection(ns: &Namespace) -> Error {
    Error::new(
        Code::CommandNotSupportedOnView,
        format!("Namespace {ns} is a view, not a collection"),
    )
}

/// Checks a view that is to have that name.
///
/// # Errors
/// `InvalidNamespace`, `OptionNotSupportedOnView` for a stage that no view may have, `BSONObjectTooLarge`,
/// `GraphContainsCycle`, `ViewDepthLimitExceeded`, those of a malformed pipeline.
pub(crate) fn check(catalog: &Catalog, ns: &Namespace, view: &View, around: &Surroundings) -> Result<()> {
    check_namespace(&Namespace::new(ns.database.clone(), view.on.clone()))?;
    let bytes: usize = view.pipeline.iter().map(|stage| stage.as_bytes().len()).sum();
    if bytes > PIPELINE_BYTES_MAX {
        let message =
            format!("the view's pipeline has {bytes} bytes, and at most {PIPELINE_BYTES_MAX} are allowed");
        return Err(Error::new(Code::BSONObjectTooLarge, message));
    }
    for stage in &view.pipeline {
        let (name, _) = Stage::split(RawBsonRef::Document(stage))?;
        if matches!(
            name,
            "$out" | "$merge" | "$changeStream" | "$collStats" | "$indexStats" | "$documents"
        ) {
            let message = format!("the stage {name} cannot be used in the view definition of {ns}");
            return Err(Error::new(Code::OptionNotSupportedOnView, message));
        }
    }
    Pipeline::parse(&view.pipeline, around, None)?;
    let on = catalog.view(&Namespace::new(ns.database.clone(), view.on.clone()));
    if on.is_some_and(|on| on.collation != view.collation) {
        return Err(Error::new(
            Code::OptionNotSupportedOnView,
            format!("View {ns} has conflicting collation with view {}", view.on),
        ));
    }
    let mut known = BTreeMap::new();
    let depth = depth(catalog, ns, ns, Some(view), &mut known, 0)?;
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    Ok(())
}

/// How deep the views go that `ns` is made of; 0 for a collection. `root` is the one that is to be, whose definition is
/// in `new` where it is begun with.
fn depth(
    catalog: &Catalog,
    root: &Namespace,
    ns: &Namespace,
    new: Option<&View>,
    known: &mut BTreeMap<Namespace, usize>,
    above: usize,
) -> Result<usize> {
    if new.is_none() && ns == root {
        return Err(Error::new(
            Code::GraphContainsCycle,
            format!("View cycle detected: {root} is made of itself"),
        ));
    }
    let Some(view) = new.or_else(|| catalog.view(ns).map(AsRef::as_ref)) else {
        return Ok(0);
    };
    if let Some(depth) = known.get(ns) {
        return Ok(*depth);
    }
    // Those that are there have no cycle, so this ends; no deeper than may be all the same.
    if above > DEPTH_MAX {
        return Err(too_deep());
    }
    let mut names = vec![(view.on.to_string(), 0)];
    for stage in &view.pipeline {
        mentioned(stage, 0, 0, &mut names);
    }
    let mut deepest = 0;
    for (name, nesting) in names {
        let next = Namespace::new(ns.database.clone(), name);
        let below = depth(catalog, root, &next, None, known, above + 1)?;
        deepest = deepest.max(below + nesting);
    }
    known.insert(ns.clone(), deepest + 1);
    Ok(deepest + 1)
}

/// The collections that stages bring in, with how many pipelines are around each.
fn mentioned(document: &RawDocument, nesting: usize, depth: usize, names: &mut Vec<(String, usize)>) {
    if depth > LOOKED_INTO_MAX {
        return;
    }
    for (name, value) in fields(document) {
        let from = match (name, value) {
            ("$unionWith", RawBsonRef::String(from)) => Some(from),
            ("$unionWith", RawBsonRef::Document(of)) => field(of, "coll").and_then(|v| v.as_str()),
            ("$lookup" | "$graphLookup", RawBsonRef::Document(of)) => {
                field(of, "from").and_then(|v| v.as_str())
            }
            _ => None,
        };
        let inner = nesting + usize::from(matches!(name, "$unionWith" | "$lookup" | "$graphLookup"));
        names.extend(from.map(|from| (from.to_owned(), inner)));
        look_into(value, inner, depth, names);
    }
}

fn look_into(value: RawBsonRef<'_>, nesting: usize, depth: usize, names: &mut Vec<(String, usize)>) {
    match value {
        RawBsonRef::Document(inner) => mentioned(inner, nesting, depth + 1, names),
        RawBsonRef::Array(inner) if depth < LOOKED_INTO_MAX => {
            elements(inner).for_each(|value| look_into(value, nesting, depth + 1, names));
        }
        _ => {}
    }
}

impl View {
    /// `{viewOn, pipeline}`, as `create` takes it and `listCollections` shows it.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut stages = bson::RawArrayBuf::new();
        self.pipeline.iter().for_each(|stage| stages.push(stage.as_ref()));
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("viewOn"), &*self.on);
        document.append(cstr!("pipeline"), stages);
        if let Some(collation) = &self.collation {
            document.append(cstr!("collation"), collation.as_ref());
        }
        document
    }
}
