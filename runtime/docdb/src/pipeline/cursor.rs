//! An aggregation's pages, and how it is explained.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};
use cloudlet_base::Deadline;

use super::run::{Run, Work, feed};
use super::{Pipeline, Source, Stage};
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::exec::scan::{Meter, check_place};
use crate::exec::{CursorState, FIRST_BATCH, rebind};
use crate::kv::KvRead;
use crate::plan::Plan;
use crate::spill::Spool;
use crate::{Cursor, Namespace, Page, Result};

/// Where an aggregation goes on.
#[derive(Debug)]
pub(crate) struct PipelineState {
    ns: Namespace,
    pipeline: Arc<Pipeline>,
    progress: Progress,
    /// Made already, not yet given out.
    pending: Spool,
}

#[derive(Debug)]
enum Progress {
    /// Not run yet.
    All,
    /// The scan goes on after the row with this key.
    Rows {
        plan: Box<Plan>,
        after: Option<Vec<u8>>,
        skip: u64,
        limit: Option<u64>,
    },
    /// All is pending that there is.
    Done,
}

/// Whether the rest of the result is in memory already.
pub(crate) fn is_pending(state: &PipelineState) -> bool {
    matches!(state.progress, Progress::Done) && !state.pending.in_memory().1
}

/// The first page of an aggregation.
pub(crate) fn first_page(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    pipeline: &Arc<Pipeline>,
    batch: Option<u32>,
    deadline: &Deadline,
) -> Result<Page> {
    let state = PipelineState {
        ns: ns.clone(),
        pipeline: pipeline.clone(),
        progress: start(catalog, ns, pipeline)?,
        pending: Spool::default(),
    };
    page(
        engine,
        kv,
        catalog,
        state,
        Some(batch.unwrap_or(FIRST_BATCH)),
        deadline,
    )
}

/// The next page.
pub(crate) fn next_page(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    mut state: PipelineState,
    batch: Option<u32>,
    deadline: &Deadline,
) -> Result<Page> {
    if let Progress::Rows { plan, after, .. } = &mut state.progress {
        rebind(catalog, &state.ns, plan)?;
        check_place(kv, plan, after.as_deref())?;
    }
    state.pipeline.query.runtime.set_deadline(deadline);
    page(engine, kv, catalog, state, batch, deadline)
}

/// Runs a pipeline to its end and shows what it makes.
pub(crate) fn each(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    pipeline: &Pipeline,
    deadline: &Deadline,
    visit: &mut dyn FnMut(&RawDocument) -> Result<()>,
) -> Result<()> {
    let run = Run {
        engine,
        kv,
        catalog,
        ns,
        runtime: &pipeline.query.runtime,
        deadline,
        work: &Work::default(),
        depth: 0,
    };
    run.execute(pipeline, &mut |doc| {
        visit(&doc)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Row by row, if every stage looks at one document at a time and the scan has the order that is wanted.
fn start(catalog: &Catalog, ns: &Namespace, pipeline: &Pipeline) -> Result<Progress> {
    let query = &pipeline.query;
    let rows =
        matches!(pipeline.source, Source::Collection) && pipeline.stages.iter().all(Stage::is_stateless);
    let Some(collection) = catalog.collection(ns).filter(|_| rows) else {
        return Ok(Progress::All);
    };
    let plan = query.plan(collection)?;
    if query.sort.is_some() && !plan.sorted {
        return Ok(Progress::All);
    }
    Ok(Progress::Rows {
        plan: Box::new(plan),
        after: None,
        skip: query.skip,
        limit: query.limit,
    })
}

fn page(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    mut state: PipelineState,
    batch: Option<u32>,
    deadline: &Deadline,
) -> Result<Page> {
    let batch = batch.map_or(usize::MAX, |batch| usize::try_from(batch).unwrap_or(usize::MAX));
    let pipeline = state.pipeline.clone();
    let run = Run {
        engine,
        kv,
        catalog,
        ns: &state.ns,
        runtime: &pipeline.query.runtime,
        deadline,
        work: &Work::default(),
        depth: 0,
    };
    let bytes_max = engine.limits.page_bytes_max;
    // A first page of no documents is a cursor and costs nothing.
    let (held, more) = state.pending.in_memory();
    if held < batch && !more {
        fill(&run, &pipeline, &mut state.progress, &mut state.pending, batch)?;
    }
    let mut documents = Vec::new();
    let mut bytes = 0;
    while documents.len() < batch
        && let Some(next) = state.pending.pop()?
    {
        bytes += next.as_bytes().len();
        if !documents.is_empty() && bytes > bytes_max {
            state.pending.put_back(next);
            break;
        }
        documents.push(next);
    }
    let done = state.pending.is_empty() && matches!(state.progress, Progress::Done);
    let cursor = (!done).then(|| Cursor {
        state: Box::new(CursorState::Pipeline(state)),
    });
    Ok(Page { documents, cursor })
}

/// Makes more of the result: enough for a page, or all of it.
fn fill(
    run: &Run<'_>,
    pipeline: &Pipeline,
    progress: &mut Progress,
    pending: &mut Spool,
    batch: usize,
) -> Result<()> {
    let max = run.engine.limits.aggregate_bytes_max;
    let page_bytes_max = run.engine.limits.page_bytes_max;
    let mut keep = |doc: Cow<'_, bson::RawDocument>| {
        pending.push(doc.into_owned(), run.runtime, max)?;
        let (held, more) = pending.in_memory();
        Ok(if more || held >= batch || pending.bytes() >= page_bytes_max {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    match progress {
        Progress::Done => {}
        Progress::All => {
            run.execute(pipeline, &mut |doc| keep(doc).map(|_| ControlFlow::Continue(())))?;
            *progress = Progress::Done;
        }
        Progress::Rows {
            plan,
            after,
            skip,
            limit,
        } => {
            let mut steps = run.steps(&pipeline.stages);
            let start = after.take();
            let mut done = true;
            let filter = &pipeline.query.filter;
            if *limit != Some(0) {
                run.scan(plan, filter, start.as_deref(), skip, limit, &mut |row, doc| {
                    // All that a row makes is kept, so that the scan can go on at the next.
                    let mut full = false;
                    let _ = feed(&mut steps, Cow::Borrowed(doc), run, &mut |doc| {
                        full = keep(doc)?.is_break();
                        Ok(ControlFlow::Continue(()))
                    })?;
                    if full {
                        done = false;
                        *after = Some(row.key.to_vec());
                        return Ok(ControlFlow::Break(()));
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            if done || *limit == Some(0) || plan.is_id_lookup() {
                *progress = Progress::Done;
            }
        }
    }
    Ok(())
}

/// How the pipeline runs, in the shape of MongoDB's `explain`: the query that feeds it, and the stages after. One with
/// stages that hold documents is run, and each of them tells whether it went to disk.
pub(crate) fn explain(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    pipeline: &Arc<Pipeline>,
    deadline: &Deadline,
) -> Result<RawDocumentBuf> {
    let mut meter = Meter::new(engine, deadline);
    let mut stages = RawArrayBuf::new();
    if matches!(pipeline.source, Source::Collection) {
        let query = Arc::new(pipeline.query.clone());
        let query = crate::exec::explain::explain(engine, kv, catalog, ns, &query, &mut meter)?;
        let mut cursor = RawDocumentBuf::new();
        for name in [cstr!("queryPlanner"), cstr!("executionStats")] {
            if let Some(part) = crate::value::field(&query, name.as_str()) {
                cursor.append(name, part);
            }
        }
        let mut first = RawDocumentBuf::new();
        first.append(cstr!("$cursor"), cursor);
        stages.push(first);
    }
    let run = Run {
        engine,
        kv,
        catalog,
        ns,
        runtime: &pipeline.query.runtime,
        deadline,
        work: &Work::default(),
        depth: 0,
    };
    let mut steps = run.steps(&pipeline.stages);
    if steps.iter().any(|step| step.used_disk().is_some()) {
        run.execute_steps(pipeline, &mut steps, &mut |_| Ok(ControlFlow::Continue(())))?;
    }
    for (stage, step) in pipeline.stages.iter().zip(&steps) {
        let mut shown = RawDocumentBuf::new();
        crate::catalog::append(
            &mut shown,
            stage.name(),
            RawBsonRef::Document(&RawDocumentBuf::new()),
        );
        if let Some(used_disk) = step.used_disk() {
            shown.append(cstr!("usedDisk"), used_disk);
        }
        stages.push(shown);
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("stages"), stages);
    out.append(cstr!("ok"), 1.0);
    Ok(out)
}
