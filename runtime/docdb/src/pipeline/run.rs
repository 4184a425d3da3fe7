//! Running stages: documents are pushed in at the front, one by one, and what comes out at the end is handed on at
//! once. A stage that needs all documents first keeps them, and hands its result on when told that there are no more.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::ControlFlow;

use bson::raw::{CString, cstr};
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};
use cloudlet_base::Deadline;

use super::group::{BucketAuto, Groups};
use super::join::Kept;
use super::{Pipeline, Source, Stage, Surroundings, Unwind, check_held, with_path};
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::exec::scan::{MatchVisitor, Meter, scan};
use crate::exec::{Query, scope_of, sorted_documents};
use crate::expression::{Runtime, Scope, Value};
use crate::kv::KvRead;
use crate::plan::{self, Plan};
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::spill::{Bounds, Sorted, Sorter};
use crate::view::{self, NESTED_MAX, Resolved};
use crate::{Code, Error, Namespace, Result};

/// Documents handed on between two looks at the clock.
pub(super) const DOCUMENTS_PER_CHECK: u64 = 256;

/// What a pipeline runs in.
pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    pub(super) kv: &'a dyn KvRead,
    pub(super) catalog: &'a Catalog,
    pub(super) ns: &'a Namespace,
    pub(super) runtime: &'a Runtime,
    pub(super) deadline: &'a Deadline,
    /// Rows looked at by all pipelines of the command, and documents handed on.
    pub(super) work: &'a Work,
    /// How many pipelines are around it at work.
    pub(super) depth: usize,
}

/// What all pipelines of a command have done.
#[derive(Debug, Default)]
pub(super) struct Work {
    rows: Cell<u64>,
    handed: Cell<u64>,
}

/// Gets a document of the result; breaks when it wants no more.
pub(super) type Out<'o> = dyn FnMut(Cow<'_, RawDocument>) -> Result<ControlFlow<()>> + 'o;

impl<'a> Run<'a> {
    /// The same command at work on another collection.
    pub(super) fn inside<'b>(&'b self, ns: &'b Namespace) -> Run<'b> {
        Run {
            ns,
            depth: self.depth + 1,
            ..*self
        }
    }

    /// # Errors
    /// The deadline passed.
    pub(super) fn check(&self) -> Result<()> {
        self.deadline
            .check(self.engine.clock.as_ref())
            .map_err(|expired| Error::new(Code::MaxTimeMSExpired, expired.to_string()))
    }

    /// Runs a pipeline to its end.
    pub(super) fn execute(&self, pipeline: &Pipeline, out: &mut Out<'_>) -> Result<()> {
        self.execute_steps(pipeline, &mut self.steps(&pipeline.stages), out)
    }

    /// Stages about to begin.
    pub(super) fn steps<'p>(&self, stages: &'p [Stage]) -> Vec<Step<'p>> {
        let bytes_max = self.engine.limits.aggregate_bytes_max;
        stages.iter().map(|stage| Step::start(stage, bytes_max)).collect()
    }

    /// Runs a pipeline to its end, whose stages are about to begin.
    pub(super) fn execute_steps(
        &self,
        pipeline: &Pipeline,
        steps: &mut [Step<'_>],
        out: &mut Out<'_>,
    ) -> Result<()> {
        let mut push = |doc: Cow<'_, RawDocument>| feed(steps, doc, self, out);
        match &pipeline.source {
            Source::Collection => {
                self.find(&pipeline.query, &mut push)?;
            }
            Source::Documents(documents) => {
                for doc in documents {
                    if push(Cow::Borrowed(doc))?.is_break() {
                        break;
                    }
                }
            }
            Source::CollectionStats { count, storage } => {
                let _ = push(Cow::Owned(self.collection_stats(*count, *storage)?))?;
            }
            Source::IndexStats => {
                for doc in self.index_stats()? {
                    if push(Cow::Owned(doc))?.is_break() {
                        break;
                    }
                }
            }
        }
        finish(steps, self, out)
    }

    /// The documents of the collection that the pipeline's query asks for.
    pub(super) fn find(&self, query: &Query, push: &mut Out<'_>) -> Result<()> {
        if let Some(of) = view::resolve(self.catalog, self.ns)? {
            return self.find_in_view(&of, query, push);
        }
        let Some(collection) = self.catalog.collection(self.ns) else {
            return Ok(());
        };
        let plan = query.plan(collection)?;
        let mut meter = Meter::new(self.engine, self.deadline);
        if let Some(sort) = query.sort.as_ref().filter(|_| !plan.sorted) {
            let mut sorted = sorted_documents(self.engine, self.kv, &plan, query, sort, &mut meter)?;
            self.spend(&meter)?;
            while let Some((_, doc)) = sorted.next()? {
                if push(Cow::Owned(doc))?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let (mut skip, mut limit) = (query.skip, query.limit);
        self.scan(
            &plan,
            &query.filter,
            None,
            &mut skip,
            &mut limit,
            &mut |_, doc| push(Cow::Borrowed(doc)),
        )
    }

    /// The documents of a view that another pipeline brings in.
    fn find_in_view(&self, of: &Resolved, query: &Query, push: &mut Out<'_>) -> Result<()> {
        self.check()?;
        if self.depth > NESTED_MAX {
            return Err(view::too_deep());
        }
        let runtime = Runtime::new(self.engine, self.deadline, self.runtime.disk().cloned());
        let scope = scope_of(
            &Scope::new(runtime),
            None,
            of.collation.as_deref(),
            &self.engine.limits,
        )?;
        let around = Surroundings::new(&self.engine.limits, scope);
        let mut pipeline = Pipeline::parse(&of.pipeline, &around, None)?;
        let inner = &pipeline.query;
        let filters_only =
            pipeline.stages.is_empty() && inner.sort.is_none() && inner.skip == 0 && inner.limit.is_none();
        match &query.filter {
            Filter::AlwaysTrue => {}
            filter if filters_only => pipeline.narrow(filter.clone()),
            filter => pipeline.stages.push(Stage::Match(filter.clone())),
        }
        if let Some(by) = &query.sort {
            let by = by.clone();
            pipeline.stages.push(Stage::Sort { by, limit: None });
        }
        if query.skip > 0 {
            pipeline.stages.push(Stage::Skip(query.skip));
        }
        if let Some(limit) = query.limit {
            pipeline.stages.push(Stage::Limit(limit));
        }
        let runtime = pipeline.query.runtime.clone();
        let inside = Run {
            runtime: &runtime,
            ..self.inside(&of.ns)
        };
        inside.execute(&pipeline, push)
    }

    /// Walks a plan's documents after the row `after`, passing over `skip` and stopping after `limit` of them. The
    /// visitor gets the row's key too.
    pub(super) fn scan(
        &self,
        plan: &Plan,
        filter: &Filter,
        after: Option<&[u8]>,
        skip: &mut u64,
        limit: &mut Option<u64>,
        visit: &mut MatchVisitor<'_>,
    ) -> Result<()> {
        let mut meter = Meter::new(self.engine, self.deadline);
        let scanned = scan(self.kv, plan, filter, after, &mut meter, &mut |row, doc| {
            if *skip > 0 {
                *skip -= 1;
                return Ok(ControlFlow::Continue(()));
            }
            let flow = visit(row, doc)?;
            if let Some(limit) = limit {
                *limit = limit.saturating_sub(1);
                if *limit == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(flow)
        });
        self.spend(&meter)?;
        scanned
    }

    /// Adds a scan's rows to those of the command, which has one limit for all its scans.
    fn spend(&self, meter: &Meter<'_>) -> Result<()> {
        let rows = self.work.rows.get() + meter.rows();
        self.work.rows.set(rows);
        let max = self.engine.limits.scan_max;
        if rows > max {
            let message = format!(
                "the pipeline examined {rows} index entries or documents, and scan_max is {max}; an index on the joined fields would help"
            );
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        Ok(())
    }

    fn collection_stats(&self, with_count: bool, with_storage: bool) -> Result<RawDocumentBuf> {
        let Some(collection) = self.catalog.collection(self.ns) else {
            return Err(Error::new(
                Code::NamespaceNotFound,
                format!(
                    "unable to retrieve storageStats in $collStats stage: collection [{}] not found",
                    self.ns
                ),
            ));
        };
        let (mut count, mut bytes) = (0_i64, 0_i64);
        let plan = plan::choose(collection, &Filter::AlwaysTrue, None, Some("$natural"))?;
        self.scan(
            &plan,
            &Filter::AlwaysTrue,
            None,
            &mut 0,
            &mut None,
            &mut |_, doc| {
                count += 1;
                bytes += doc.as_bytes().len() as i64;
                Ok(ControlFlow::Continue(()))
            },
        )?;
        let indexes = collection.indexes.len() + 1;
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("ns"), self.ns.to_string());
        out.append(cstr!("localTime"), self.runtime.now);
        if with_storage {
            let mut storage = RawDocumentBuf::new();
            storage.append(cstr!("size"), Value::count(bytes as usize).or_null());
            storage.append(cstr!("count"), Value::count(count as usize).or_null());
            if count > 0 {
                storage.append(
                    cstr!("avgObjSize"),
                    Value::count((bytes / count) as usize).or_null(),
                );
            }
            storage.append(cstr!("storageSize"), Value::count(bytes as usize).or_null());
            storage.append(cstr!("nindexes"), Value::count(indexes).or_null());
            storage.append(cstr!("capped"), collection.capped.is_some());
            out.append(cstr!("storageStats"), storage);
        }
        if with_count {
            out.append(cstr!("count"), Value::count(count as usize).or_null());
        }
        Ok(out)
    }

    fn index_stats(&self) -> Result<Vec<RawDocumentBuf>> {
        let Some(collection) = self.catalog.collection(self.ns) else {
            return Ok(Vec::new());
        };
        let specs = collection.indexes.iter().map(|index| index.spec.clone());
        let all = crate::specification::of_id_of(collection)
            .into_iter()
            .chain(specs)
            .map(|spec| {
                let mut accesses = RawDocumentBuf::new();
                // Uses of single indexes are not counted.
                accesses.append(cstr!("ops"), 0_i64);
                accesses.append(cstr!("since"), self.runtime.now);
                let mut out = RawDocumentBuf::new();
                out.append(cstr!("name"), &*spec.name);
                out.append(cstr!("key"), spec.key_pattern());
                out.append(cstr!("accesses"), accesses);
                out.append(cstr!("spec"), spec.to_document());
                out
            });
        Ok(all.collect())
    }
}

/// A stage at work.
pub(super) enum Step<'p> {
    /// One document in, at most one out.
    Each(&'p Stage),
    Unwind(&'p Unwind),
    Lookup(&'p super::Lookup, Kept),
    GraphLookup(&'p super::GraphLookup),
    Skip(u64),
    Limit(u64),
    Sort(&'p SortSpec, Sorter),
    Sample(Sorter),
    Group(Groups<'p>),
    BucketAuto(&'p BucketAuto, Sorter),
    UnionWith(&'p super::UnionWith),
    Facet {
        facets: Vec<FacetAtWork<'p>>,
        bytes: usize,
    },
}

/// One pipeline of `$facet`.
pub(super) struct FacetAtWork<'p> {
    name: &'p CString,
    steps: Vec<Step<'p>>,
    result: RawArrayBuf,
    done: bool,
}

impl<'p> Step<'p> {
    fn start(stage: &'p Stage, bytes_max: usize) -> Step<'p> {
        let wanted = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let sorter = |wanted: Option<usize>| {
            let bounds = Bounds {
                bytes_max,
                limit: "aggregate_bytes_max",
                holder: stage.name(),
            };
            Sorter::new(bounds, wanted)
        };
        match stage {
            Stage::GeoNear(_)
            | Stage::Match(_)
            | Stage::Project(_)
            | Stage::ReplaceRoot(_)
            | Stage::Redact(_) => Step::Each(stage),
            Stage::Unwind(unwind) => Step::Unwind(unwind),
            Stage::Lookup(lookup) => Step::Lookup(lookup, Kept::Nothing),
            Stage::GraphLookup(lookup) => Step::GraphLookup(lookup),
            Stage::Skip(skip) => Step::Skip(*skip),
            Stage::Limit(limit) => Step::Limit(*limit),
            Stage::Sort { by, limit } => Step::Sort(by, sorter(limit.map(wanted))),
            Stage::Sample(size) => Step::Sample(sorter(Some(wanted(*size)))),
            Stage::Group(group) => Step::Group(group.start(bytes_max)),
            Stage::BucketAuto(buckets) => Step::BucketAuto(buckets, sorter(None)),
            Stage::UnionWith(union) => Step::UnionWith(union),
            Stage::Facet(facets) => Step::Facet {
                facets: facets
                    .iter()
                    .map(|(name, stages)| FacetAtWork {
                        name,
                        steps: stages.iter().map(|stage| Step::start(stage, bytes_max)).collect(),
                        result: RawArrayBuf::new(),
                        done: false,
                    })
                    .collect(),
                bytes: 0,
            },
        }
    }

    /// Whether it held more than memory may; none for stages that hold nothing that could be spilled.
    pub(super) fn used_disk(&self) -> Option<bool> {
        match self {
            Step::Sort(_, sorter) | Step::Sample(sorter) | Step::BucketAuto(_, sorter) => {
                Some(sorter.used_disk())
            }
            Step::Group(groups) => Some(groups.used_disk()),
            _ => None,
        }
    }
}

/// Pushes a document into the first of `steps`. Breaks when no more are wanted.
pub(super) fn feed(
    steps: &mut [Step<'_>],
    doc: Cow<'_, RawDocument>,
    run: &Run<'_>,
    out: &mut Out<'_>,
) -> Result<ControlFlow<()>> {
    let handed = run.work.handed.get() + 1;
    run.work.handed.set(handed);
    if handed.is_multiple_of(DOCUMENTS_PER_CHECK) {
        run.check()?;
    }
    let Some((step, rest)) = steps.split_first_mut() else {
        return out(doc);
    };
    let more = Ok(ControlFlow::Continue(()));
    let max = run.engine.limits.aggregate_bytes_max;
    match step {
        Step::Each(Stage::Match(filter)) => {
            if filter.accepts(&doc)? {
                return feed(rest, doc, run, out);
            }
            more
        }
        Step::Each(stage) => match stage.apply_to(&doc, run.runtime)? {
            Some(made) => feed(rest, Cow::Owned(made), run, out),
            None => more,
        },
        Step::Unwind(unwind) => unwound(unwind, doc, &mut |doc| feed(rest, doc, run, out)),
        Step::Lookup(lookup, kept) => {
            let joined = lookup.join(&doc, run, kept)?;
            feed(rest, Cow::Owned(joined), run, out)
        }
        Step::GraphLookup(lookup) => {
            let joined = lookup.join(&doc, run)?;
            feed(rest, Cow::Owned(joined), run, out)
        }
        Step::Skip(left) if *left > 0 => {
            *left -= 1;
            more
        }
        Step::Skip(_) | Step::UnionWith(_) => feed(rest, doc, run, out),
        Step::Limit(0) => Ok(ControlFlow::Break(())),
        Step::Limit(left) => {
            *left -= 1;
            let flow = feed(rest, doc, run, out)?;
            Ok(if *left == 0 { ControlFlow::Break(()) } else { flow })
        }
        Step::Sort(by, sorter) => {
            sorter.push(by.sort_key(&doc), doc.into_owned(), run.runtime)?;
            more
        }
        Step::Sample(sorter) => {
            // The bits of numbers from 0 to 1 order as the numbers do.
            let key = run.runtime.random().to_bits().to_be_bytes();
            sorter.push(key.to_vec(), doc.into_owned(), run.runtime)?;
            more
        }
        Step::Group(groups) => {
            groups.add(doc, run.runtime)?;
            more
        }
        Step::BucketAuto(buckets, sorter) => {
            let key = buckets.key_of(&doc, run.runtime)?;
            sorter.push(key, doc.into_owned(), run.runtime)?;
            more
        }
        Step::Facet { facets, bytes } => {
            for facet in facets.iter_mut().filter(|facet| !facet.done) {
                let FacetAtWork {
                    steps, result, done, ..
                } = facet;
                let flow = feed(steps, Cow::Borrowed(&doc), run, &mut |doc| {
                    *bytes += doc.as_bytes().len();
                    result.push(doc.as_ref());
                    check_held(*bytes, "$facet", max).map(|()| ControlFlow::Continue(()))
                })?;
                *done = flow.is_break();
            }
            Ok(if facets.iter().all(|facet| facet.done) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        }
    }
}

/// Tells all of `steps` that there are no more documents, so that they hand on what they kept.
pub(super) fn finish(steps: &mut [Step<'_>], run: &Run<'_>, out: &mut Out<'_>) -> Result<()> {
    let Some((step, rest)) = steps.split_first_mut() else {
        return Ok(());
    };
    let mut hand_on = |documents: &mut dyn Iterator<Item = Result<RawDocumentBuf>>| -> Result<()> {
        for doc in documents {
            if feed(rest, Cow::Owned(doc?), run, out)?.is_break() {
                break;
            }
        }
        Ok(())
    };
    match step {
        Step::Sort(_, sorter) | Step::Sample(sorter) => {
            let mut sorted = sorter.finish(run.runtime)?;
            let next = |sorted: &mut Sorted| Ok(sorted.next()?.map(|(_, doc)| doc));
            hand_on(&mut std::iter::from_fn(|| next(&mut sorted).transpose()))?;
        }
        Step::Group(groups) => {
            let mut made = groups.finish(run.runtime)?;
            hand_on(&mut std::iter::from_fn(|| made.next(run.runtime).transpose()))?;
        }
        Step::BucketAuto(buckets, sorter) => {
            let count = sorter.count();
            let buckets = buckets.divide(sorter.finish(run.runtime)?, count, run.runtime)?;
            hand_on(&mut buckets.into_iter().map(Ok))?;
        }
        Step::UnionWith(union) => {
            let ns = union.namespace(run);
            run.inside(&ns)
                .execute(&union.pipeline, &mut |doc| feed(rest, doc, run, out))?;
        }
        Step::Facet { facets, bytes } => {
            let max = run.engine.limits.aggregate_bytes_max;
            let mut made = RawDocumentBuf::new();
            for facet in facets {
                let FacetAtWork {
                    name, steps, result, ..
                } = facet;
                finish(steps, run, &mut |doc| {
                    *bytes += doc.as_bytes().len();
                    result.push(doc.as_ref());
                    check_held(*bytes, "$facet", max).map(|()| ControlFlow::Continue(()))
                })?;
                made.append(*name, RawBsonRef::Array(result));
            }
            super::check_made(&made)?;
            hand_on(&mut std::iter::once(Ok(made)))?;
        }
        Step::Each(_)
        | Step::Unwind(_)
        | Step::Lookup(..)
        | Step::GraphLookup(_)
        | Step::Skip(_)
        | Step::Limit(_) => {}
    }
    finish(rest, run, out)
}

/// A document for each element of the array at the path.
fn unwound(unwind: &Unwind, doc: Cow<'_, RawDocument>, out: &mut Out<'_>) -> Result<ControlFlow<()>> {
    let value = straight(&doc, &unwind.path);
    let with_index = |doc: RawDocumentBuf, index: Option<usize>| match &unwind.index {
        None => Ok(doc),
        Some(path) => {
            let index = index.map_or(RawBsonRef::Null, |index| RawBsonRef::Int64(index as i64));
            with_path(&doc, path, Some(index))
        }
    };
    match value {
        Some(RawBsonRef::Array(array)) if !array.is_empty() => {
            for (place, element) in crate::value::elements(array).enumerate() {
                let one = with_path(&doc, &unwind.path, Some(element))?;
                if out(Cow::Owned(with_index(one, Some(place))?))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        Some(RawBsonRef::Array(_)) if unwind.keep_empty => {
            let without = with_path(&doc, &unwind.path, None)?;
            out(Cow::Owned(with_index(without, None)?))
        }
        None | Some(RawBsonRef::Null | RawBsonRef::Undefined) if unwind.keep_empty => {
            out(Cow::Owned(with_index(doc.into_owned(), None)?))
        }
        None | Some(RawBsonRef::Null | RawBsonRef::Undefined | RawBsonRef::Array(_)) => {
            Ok(ControlFlow::Continue(()))
        }
        // What is no array is its own only element.
        Some(_) => out(Cow::Owned(with_index(doc.into_owned(), None)?)),
    }
}

/// The value at a path that leads through documents only.
fn straight<'d>(doc: &'d RawDocument, path: &[Box<str>]) -> Option<RawBsonRef<'d>> {
    let (last, path) = path.split_last()?;
    let mut doc = doc;
    for name in path {
        doc = crate::value::field(doc, name)?.as_document()?;
    }
    crate::value::field(doc, last)
}
