//! Running queries: pages, cursors, counts, distinct values. `scan` walks a plan, `sorted` sorts what no index
//! sorts, `lookup` is the short way to one document, `write` changes documents, `expire` removes old ones, `build` makes
//! indexes, `explain` tells what happened.

pub(crate) mod build;
pub(crate) mod expire;
pub(crate) mod explain;
pub(crate) mod lookup;
pub(crate) mod scan;
mod sorted;
pub(crate) mod write;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use self::scan::{Meter, scan};
use crate::catalog::{Catalog, Collection};
use crate::check::check_well_formed;
use crate::engine::Engine;
use crate::expression::{Runtime, Scope};
use crate::kv::KvRead;
use crate::ops::VARIABLES_FIELD;
use crate::path::{self, Path};
use crate::pipeline::{self, PipelineState};
use crate::plan::{self, Plan, Source, Window};
use crate::projection::Projection;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::value::{fields, raw_fields};
use crate::{Code, Cursor, Error, Find, Limits, Namespace, Page, Result, keycode};

pub(crate) use self::sorted::sorted_documents;

/// Documents in a first page when the caller does not say: MongoDB's 101.
pub(crate) const FIRST_BATCH: u32 = 101;

/// A parsed query.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    pub(crate) sort: Option<SortSpec>,
    pub(crate) projection: Option<Projection>,
    pub(crate) skip: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) hint: Option<Arc<str>>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) window: Window,
}

impl Query {
    /// All documents, in any order.
    pub(crate) fn all(hint: Option<Arc<str>>, runtime: Arc<Runtime>) -> Self {
        Self {
            filter: Filter::AlwaysTrue,
            sort: None,
            projection: None,
            skip: 0,
            limit: None,
            hint,
            runtime,
            window: Window::default(),
        }
    }

    /// # Errors
    /// When a part is malformed.
    pub(crate) fn parse(find: &Find, limits: &Limits, scope: &Scope) -> Result<Self> {
        let with_let;
        let scope = match find.variables.as_deref() {
            None => scope,
            Some(variables) => {
                check_well_formed(variables, limits.depth_max)?;
                with_let = scope.with_let(variables)?;
                &with_let
            }
        };
        let filter = parse_filter(&find.filter, limits, scope)?;
        let sort = parse_sort(find.sort.as_deref(), limits)?;
        let projection = parse_projection(find.projection.as_deref(), limits, scope)?;
        // MongoDB: a limit of 0 is none.
        let limit = find.limit.filter(|limit| *limit > 0);
        Ok(Self {
            filter,
            sort,
            projection,
            skip: find.skip,
            limit,
            hint: find.hint.clone(),
            runtime: scope.runtime().clone(),
            window: Window::parse(find, limits)?,
        })
    }

    /// The plan of the query.
    pub(crate) fn plan(&self, collection: &Collection) -> Result<Plan> {
        let mut plan = plan::choose(collection, &self.filter, self.sort.as_ref(), self.hint.as_deref())?;
        plan.narrow(&self.window)?;
        Ok(plan)
    }

    fn project(&self, document: &RawDocument) -> Result<RawDocumentBuf> {
        match &self.projection {
            None => Ok(document.to_owned()),
            Some(projection) => projection.apply(document, &self.filter),
        }
    }
}

pub(crate) fn parse_filter(document: &RawDocument, limits: &Limits, scope: &Scope) -> Result<Filter> {
    if document.is_empty() {
        return Ok(Filter::AlwaysTrue);
    }
    check_well_formed(document, limits.depth_max)?;
    Filter::parse_in(document, scope)
}

/// The filter of a statement that writes, with the scope of its variables
/// ([`with_variables`](crate::with_variables)).
pub(crate) fn parse_write_filter(
    document: &RawDocument,
    limits: &Limits,
    scope: &Scope,
) -> Result<(Filter, Scope)> {
    let Some((VARIABLES_FIELD, variables)) = fields(document).next() else {
        return Ok((parse_filter(document, limits, scope)?, scope.clone()));
    };
    check_well_formed(document, limits.depth_max)?;
    let Some(variables) = variables.as_document() else {
        return Err(Error::new(Code::TypeMismatch, "variables are a document"));
    };
    let scope = scope.with_let(variables)?;
    let mut plain = RawDocumentBuf::new();
    for (name, value) in raw_fields(document).skip(1) {
        plain.append(name, value);
    }
    Ok((parse_filter(&plain, limits, &scope)?, scope))
}

pub(crate) fn parse_sort(document: Option<&RawDocument>, limits: &Limits) -> Result<Option<SortSpec>> {
    let Some(document) = document.filter(|document| !document.is_empty()) else {
        return Ok(None);
    };
    check_well_formed(document, limits.depth_max)?;
    SortSpec::parse(document).map(Some)
}

pub(crate) fn parse_projection(
    document: Option<&RawDocument>,
    limits: &Limits,
    scope: &Scope,
) -> Result<Option<Projection>> {
    let Some(document) = document.filter(|document| !document.is_empty()) else {
        return Ok(None);
    };
    check_well_formed(document, limits.depth_max)?;
    Projection::parse_in(document, scope).map(Some)
}

/// Where a result goes on.
#[derive(Debug)]
pub(crate) enum CursorState {
    Query(QueryState),
    Pipeline(PipelineState),
}

/// Where a query's result goes on.
#[derive(Debug)]
pub(crate) struct QueryState {
    ns: Namespace,
    query: Arc<Query>,
    position: Position,
}

#[derive(Debug)]
enum Position {
    /// The scan goes on after the row with this key.
    Scan {
        plan: Box<Plan>,
        after: Option<Vec<u8>>,
        skip: u64,
        limit: Option<u64>,
    },
    /// The rest of a result that was sorted in memory; not yet projected.
    List(std::vec::IntoIter<RawDocumentBuf>),
}

/// A page being filled, within its bounds.
struct PageBuilder<'q> {
    query: &'q Query,
    documents: Vec<RawDocumentBuf>,
    bytes: usize,
    batch: usize,
    bytes_max: usize,
}

impl<'q> PageBuilder<'q> {
    fn new(query: &'q Query, batch: Option<u32>, engine: &Engine) -> Self {
        let batch = batch.map_or(usize::MAX, |batch| usize::try_from(batch).unwrap_or(usize::MAX));
        Self {
            query,
            documents: Vec::new(),
            bytes: 0,
            batch,
            bytes_max: engine.limits.page_bytes_max,
        }
    }

    fn is_full(&self) -> bool {
        self.documents.len() >= self.batch
    }

    /// Adds a document; false when it does not fit any more. One document always fits.
    fn push(&mut self, document: &RawDocument) -> Result<bool> {
        let document = self.query.project(document)?;
        let bytes = document.as_bytes().len();
        if !self.documents.is_empty() && self.bytes + bytes > self.bytes_max {
            return Ok(false);
        }
        self.bytes += bytes;
        self.documents.push(document);
        Ok(true)
    }
}

/// The first page of a query. With a budget, an error that sets `over_budget` may mean "too long for here".
pub(crate) fn find(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    query: &Arc<Query>,
    batch: Option<u32>,
    meter: &mut Meter<'_>,
) -> Result<Page> {
    let Some(collection) = catalog.collection(ns) else {
        return Ok(Page {
            documents: Vec::new(),
            cursor: None,
        });
    };
    let plan = query.plan(collection)?;
    meter.admit(is_short(&plan, query))?;
    let position = match &query.sort {
        Some(sort) if !plan.sorted => {
            let documents = sorted_documents(engine, kv, &plan, query, sort, meter)?;
            Position::List(documents.into_iter())
        }
        _ => Position::Scan {
            plan: Box::new(plan),
            after: None,
            skip: query.skip,
            limit: query.limit,
        },
    };
    let batch = Some(batch.unwrap_or(FIRST_BATCH));
    let state = QueryState {
        ns: ns.clone(),
        query: query.clone(),
        position,
    };
    page(engine, kv, state, batch, meter)
}

/// The next page of a cursor.
pub(crate) fn next_page(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    state: CursorState,
    batch: Option<u32>,
    meter: &mut Meter<'_>,
) -> Result<Page> {
    let mut state = match state {
        CursorState::Query(state) => state,
        CursorState::Pipeline(state) => {
            return pipeline::next_page(engine, kv, catalog, state, batch, meter.deadline());
        }
    };
    state.query.runtime.set_deadline(meter.deadline());
    if let Position::Scan { plan, .. } = &mut state.position {
        rebind(catalog, &state.ns, plan)?;
    }
    page(engine, kv, state, batch, meter)
}

/// Whether the cursor needs no store: its result is in memory already.
pub(crate) fn is_list(cursor: &Cursor) -> bool {
    match &*cursor.state {
        CursorState::Query(state) => matches!(state.position, Position::List(_)),
        CursorState::Pipeline(state) => pipeline::is_pending(state),
    }
}

/// Checks that the plan's collection and index are still there, and takes the index as it is now.
pub(crate) fn rebind(catalog: &Catalog, ns: &Namespace, plan: &mut Plan) -> Result<()> {
    let gone = |what: String| {
        Error::new(
            Code::QueryPlanKilled,
            format!("the cursor can't go on: {what} was dropped"),
        )
    };
    let collection = catalog
        .collection(ns)
        .filter(|collection| collection.id == plan.collection);
    let collection = collection.ok_or_else(|| gone(format!("collection {ns}")))?;
    match &mut plan.source {
        Source::Documents => {}
        Source::Index(index) => {
            let now = collection.indexes.iter().find(|now| now.id == index.id);
            *index = now
                .ok_or_else(|| gone(format!("index {:?}", index.spec.name)))?
                .clone();
        }
        Source::Union(branches) => {
            for branch in branches {
                rebind(catalog, ns, &mut branch.plan)?;
            }
        }
    }
    Ok(())
}

fn page(
    engine: &Engine,
    kv: &dyn KvRead,
    mut state: QueryState,
    batch: Option<u32>,
    meter: &mut Meter<'_>,
) -> Result<Page> {
    let query = state.query.clone();
    let mut page = PageBuilder::new(&query, batch, engine);
    let done = match &mut state.position {
        Position::List(rest) => loop {
            if page.is_full() {
                break rest.as_slice().is_empty();
            }
            let Some(document) = rest.as_slice().first() else {
                break true;
            };
            if !page.push(document)? {
                break false;
            }
            rest.next();
        },
        Position::Scan {
            plan,
            after,
            skip,
            limit,
        } => scan_page(kv, plan, after, skip, limit, &mut page, meter)?,
    };
    let documents = page.documents;
    let cursor = (!done).then(|| Cursor {
        state: Box::new(CursorState::Query(state)),
    });
    Ok(Page { documents, cursor })
}

/// Fills the page from a scan. Returns whether the result is at its end.
fn scan_page(
    kv: &dyn KvRead,
    plan: &Plan,
    after: &mut Option<Vec<u8>>,
    skip: &mut u64,
    limit: &mut Option<u64>,
    page: &mut PageBuilder<'_>,
    meter: &mut Meter<'_>,
) -> Result<bool> {
    if page.is_full() {
        return Ok(*limit == Some(0));
    }
    let start = after.take();
    let mut last: Option<Vec<u8>> = start.clone();
    let mut done = true;
    let query = page.query;
    scan(
        kv,
        plan,
        &query.filter,
        start.as_deref(),
        meter,
        &mut |key, document| {
            if *skip > 0 {
                *skip -= 1;
                return Ok(ControlFlow::Continue(()));
            }
            if !page.push(document)? {
                done = false;
                return Ok(ControlFlow::Break(()));
            }
            if let Some(limit) = limit {
                *limit -= 1;
                if *limit == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if page.is_full() {
                done = false;
                last = Some(key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            // The key is needed only if this turns out to be the page's last document.
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    // A lookup by _id can't have another document, so its full page is also its last.
    done |= plan.is_id_lookup();
    *after = last;
    Ok(done)
}

/// How many documents match.
pub(crate) fn count(
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    query: &Query,
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let Some(collection) = catalog.collection(ns) else {
        return Ok(0);
    };
    let plan = plan::choose(collection, &query.filter, None, None)?;
    meter.admit(is_short(&plan, query))?;
    let most = query
        .limit
        .map_or(u64::MAX, |limit| limit.saturating_add(query.skip));
    if plan.exact {
        let count = scan::count_rows(kv, &plan, most, meter)?;
        return Ok(count.saturating_sub(query.skip));
    }
    let mut count = 0;
    scan(kv, &plan, &query.filter, None, meter, &mut |_, _| {
        count += 1;
        Ok(if count < most {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(count.saturating_sub(query.skip))
}

/// Distinct values at a path over the matching documents, in value order; arrays count by their elements.
pub(crate) fn distinct(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    path: &Path,
    filter: &Filter,
    meter: &mut Meter<'_>,
) -> Result<Vec<RawBson>> {
    let Some(collection) = catalog.collection(ns) else {
        return Ok(Vec::new());
    };
    let plan = plan::choose(collection, filter, None, None)?;
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut values: Vec<(Vec<u8>, RawBson)> = Vec::new();
    let mut bytes = 0;
    let max = engine.limits.page_bytes_max;
    scan(kv, &plan, filter, None, meter, &mut |_, document| {
        let _ = path::visit(document, path, false, &mut |leaf| {
            let elements = match leaf.value {
                Some(RawBsonRef::Array(array)) => array.into_iter().flatten().collect(),
                Some(value) => vec![value],
                None => Vec::new(),
            };
            for value in elements {
                let mut key = Vec::new();
                keycode::encode(&mut key, value, false);
                if seen.insert(key.clone()) {
                    bytes += key.len() * 2;
                    values.push((key, RawBson::from(value)));
                }
            }
            ControlFlow::Continue(())
        });
        if bytes > max {
            let message = format!("the distinct values take over {bytes} bytes, and page_bytes_max is {max}");
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    values.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(values.into_iter().map(|(_, value)| value).collect())
}

/// Whether a plan is so short that it should run on its caller's thread: a hop to another thread costs more than
/// ten point reads. What turns out longer than the meter's budget is begun again on a reader thread.
fn is_short(plan: &Plan, query: &Query) -> bool {
    const LIMIT_MAX: u64 = 32;
    let few = query
        .limit
        .is_some_and(|limit| limit.saturating_add(query.skip) <= LIMIT_MAX);
    (plan.bounded && plan.points) || (few && plan.sorted && (plan.bounded || query.is_all()))
}

impl Query {
    /// Whether every document matches.
    fn is_all(&self) -> bool {
        matches!(self.filter, Filter::AlwaysTrue)
    }
}
