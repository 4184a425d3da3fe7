//! How a query would run and did run, in the shape of MongoDB's `explain("executionStats")`.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf};

use super::Query;
use super::scan::Meter;
use crate::bounds::Bounds;
use crate::catalog::{Catalog, append};
use crate::engine::Engine;
use crate::kv::{Direction, KvRead};
use crate::plan::{Plan, Source};
use crate::{IndexSpec, Namespace, Result, specification};

/// Runs the query to its end and tells how.
pub(crate) fn explain(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    query: &Arc<Query>,
    meter: &mut Meter<'_>,
) -> Result<RawDocumentBuf> {
    let started = engine.clock.monotonic();
    let mut rejected = RawArrayBuf::new();
    let (winner, ran, returned) = match catalog.collection(ns) {
        None => (stage("EOF"), stage("EOF"), 0),
        Some(collection) => {
            let mut plans = query.plans(collection)?;
            if let Some(winner) = plans.first_mut() {
                winner.narrow(&query.window, collection, query.runtime.collation())?;
            }
            let mut shown = plans.iter().map(|plan| shown_plan(plan, query, None));
            let winner = shown.next().unwrap_or_else(|| stage("EOF"));
            shown.for_each(|plan| rejected.push(plan));
            let returned = run(engine, kv, catalog, ns, query, meter)?;
            let ran = plans
                .first()
                .map(|plan| shown_plan(plan, query, Some(meter.used_disk)));
            (winner, ran.unwrap_or_else(|| stage("EOF")), returned)
        }
    };
    let millis = engine.clock.monotonic().saturating_sub(started).as_millis();
    let mut planner = RawDocumentBuf::new();
    planner.append(cstr!("namespace"), ns.to_string());
    planner.append(cstr!("winningPlan"), winner);
    planner.append(cstr!("rejectedPlans"), rejected);
    let mut stats = RawDocumentBuf::new();
    stats.append(cstr!("executionSuccess"), true);
    stats.append(cstr!("nReturned"), number(returned));
    stats.append(
        cstr!("executionTimeMillis"),
        number(u64::try_from(millis).unwrap_or(u64::MAX)),
    );
    stats.append(cstr!("totalKeysExamined"), number(meter.keys));
    stats.append(cstr!("totalDocsExamined"), number(meter.documents));
    stats.append(cstr!("executionStages"), ran);
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("queryPlanner"), planner);
    out.append(cstr!("executionStats"), stats);
    out.append(cstr!("ok"), 1.0);
    Ok(out)
}

/// Drains the query; returns how many documents it has.
fn run(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    query: &Arc<Query>,
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let mut page = super::find(engine, kv, catalog, ns, query, None, meter)?;
    let mut returned = page.documents.len() as u64;
    while let Some(cursor) = page.cursor {
        page = super::next_page(engine, kv, catalog, *cursor.state, None, meter)?;
        returned += page.documents.len() as u64;
    }
    Ok(returned)
}

/// A count as drivers expect it: int32 while it fits.
fn number(count: u64) -> bson::RawBson {
    match i32::try_from(count) {
        Ok(count) => bson::RawBson::Int32(count),
        Err(_) => bson::RawBson::Int64(i64::try_from(count).unwrap_or(i64::MAX)),
    }
}

fn stage(name: &str) -> RawDocumentBuf {
    let mut stage = RawDocumentBuf::new();
    stage.append(cstr!("stage"), name);
    stage
}

fn above(name: &str, input: RawDocumentBuf) -> RawDocumentBuf {
    let mut stage = stage(name);
    stage.append(cstr!("inputStage"), input);
    stage
}

/// The scan of an index or of the documents, without what is done to the rows.
fn scan_stage(plan: &Plan) -> RawDocumentBuf {
    let direction = match plan.direction {
        Direction::Forward => "forward",
        Direction::Backward => "backward",
    };
    match &plan.source {
        Source::Documents | Source::Order => index_scan(plan, &specification::of_id(), false, direction),
        Source::Times(field) => by_time(plan, field, direction),
        Source::Index(index) if plan.near.is_some() => {
            let mut near = stage(match index.grid() {
                Some(_) => "GEO_NEAR_2D",
                None => "GEO_NEAR_2DSPHERE",
            });
            near.append(cstr!("keyPattern"), index.spec.key_pattern());
            near.append(cstr!("indexName"), &*index.spec.name);
            near
        }
        Source::Index(index) => index_scan(plan, &index.spec, index.multikey != 0, direction),
        Source::Union(branches) => {
            let mut inputs = RawArrayBuf::new();
            branches
                .iter()
                .for_each(|branch| inputs.push(scan_stage(&branch.plan)));
            let mut or = stage("OR");
            or.append(cstr!("inputStages"), inputs);
            or
        }
    }
}

/// A plan's stages; once it has run, whether its sort went to disk.
fn shown_plan(plan: &Plan, query: &Query, used_disk: Option<bool>) -> RawDocumentBuf {
    let direction = match plan.direction {
        Direction::Forward => "forward",
        Direction::Backward => "backward",
    };
    let mut at = match &plan.source {
        Source::Documents if plan.is_id_lookup() => stage("IDHACK"),
        // MongoDB's name for reading a part of what is stored in that order.
        Source::Times(field) if !plan.is_collection_scan() || (plan.sorted && query.sort.is_some()) => {
            by_time(plan, field, direction)
        }
        Source::Times(_) | Source::Documents | Source::Order
            if plan.is_collection_scan() && !(plan.sorted && query.sort.is_some()) =>
        {
            let mut scan = stage("COLLSCAN");
            scan.append(cstr!("direction"), direction);
            scan
        }
        _ if plan.near.is_some() => scan_stage(plan),
        _ if plan.covered.is_some() => scan_stage(plan),
        _ => above("FETCH", scan_stage(plan)),
    };
    if query.sort.is_some() && !plan.sorted {
        at = above("SORT", at);
        if let Some(used_disk) = used_disk {
            at.append(cstr!("usedDisk"), used_disk);
        }
    }
    if query.skip > 0 {
        at = above("SKIP", at);
        at.append(cstr!("skipAmount"), number(query.skip));
    }
    if let Some(limit) = query.limit {
        at = above("LIMIT", at);
        at.append(cstr!("limitAmount"), number(limit));
    }
    if query.projection.is_some() {
        at = match plan.covered {
            Some(_) => above("PROJECTION_COVERED", at),
            None => above("PROJECTION_DEFAULT", at),
        };
    }
    at
}

/// A scan of a time series by its own order.
fn by_time(plan: &Plan, field: &str, direction: &str) -> RawDocumentBuf {
    let mut scan = stage("CLUSTERED_IXSCAN");
    scan.append(cstr!("direction"), direction);
    let mut bounds = RawDocumentBuf::new();
    append(
        &mut bounds,
        field,
        RawBsonRef::Array(&shown_bounds(plan.fields.first(), false)),
    );
    scan.append(cstr!("indexBounds"), bounds);
    scan
}

/// The intervals of a field.
fn shown_bounds(bounds: Option<&Bounds>, descending: bool) -> RawArrayBuf {
    let mut intervals = RawArrayBuf::new();
    match bounds {
        Some(field) => {
            let shown = field.intervals.iter().map(|interval| interval.show(descending));
            let mut shown: Vec<String> = shown.collect();
            if descending {
                shown.reverse();
            }
            shown.into_iter().for_each(|text| intervals.push(text));
        }
        None if descending => intervals.push("[MaxKey, MinKey]"),
        None => intervals.push("[MinKey, MaxKey]"),
    }
    intervals
}

fn index_scan(plan: &Plan, spec: &IndexSpec, multikey: bool, direction: &str) -> RawDocumentBuf {
    let mut scan = stage("IXSCAN");
    scan.append(cstr!("keyPattern"), spec.key_pattern());
    scan.append(cstr!("indexName"), &*spec.name);
    scan.append(cstr!("isMultiKey"), multikey);
    scan.append(cstr!("isUnique"), spec.unique);
    scan.append(cstr!("isSparse"), spec.sparse);
    scan.append(cstr!("isPartial"), spec.partial_filter.is_some());
    scan.append(cstr!("direction"), direction);
    let mut bounds = RawDocumentBuf::new();
    for (place, (path, sign)) in spec.keys.iter().enumerate() {
        let intervals = shown_bounds(plan.fields.get(place), *sign < 0);
        append(&mut bounds, path, RawBsonRef::Array(&intervals));
    }
    scan.append(cstr!("indexBounds"), bounds);
    scan
}
