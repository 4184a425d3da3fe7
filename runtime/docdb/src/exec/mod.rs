//! Running queries: pages, cursors, counts, distinct values. `scan` walks a plan, `near` one by distance, `sorted` sorts
//! what no index sorts, `lookup` is the short way to one document, `write` changes documents, `expire` removes old ones,
//! `build` makes indexes, `convert` capped collections, `explain` tells what happened.

pub(crate) mod build;
pub(crate) mod convert;
pub(crate) mod expire;
pub(crate) mod explain;
pub(crate) mod lookup;
mod near;
pub(crate) mod scan;
mod sorted;
pub(crate) mod write;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use self::scan::{Meter, check_place, scan};
use crate::capped;
use crate::catalog::{Catalog, Collection, append};
use crate::check::check_well_formed;
use crate::collation::Collation;
use crate::engine::Engine;
use crate::expression::{Runtime, Scope};
use crate::kv::{Direction, KvRead};
use crate::path::{self, Path};
use crate::pipeline::{self, GeoNear, PipelineState};
use crate::plan::{self, Plan, Source, Window};
use crate::projection::Projection;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::spill::Sorted;
use crate::value::field;
use crate::{Code, Cursor, Error, Find, Limits, Namespace, Page, Result, Shown, keycode};

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
    /// A place of the natural order after which it begins.
    pub(crate) after: Option<Vec<u8>>,
    pub(crate) tailable: bool,
    pub(crate) shown: Shown,
    /// What a pipeline's `$geoNear` asks for; `$near` is in the filter.
    pub(crate) near: Option<Arc<GeoNear>>,
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
            after: None,
            tailable: false,
            shown: Shown::Documents,
            near: None,
        }
    }

    /// # Errors
    /// When a part is malformed.
    pub(crate) fn parse(find: &Find, limits: &Limits, scope: &Scope) -> Result<Self> {
        let scope = scope_of(
            scope,
            find.variables.as_deref(),
            find.collation.as_deref(),
            limits,
        )?;
        let filter = parse_filter(&find.filter, limits, &scope)?;
        let sort = parse_sort(find.sort.as_deref(), limits, &scope)?;
        let projection = parse_projection(find.projection.as_deref(), limits, &scope)?;
        // MongoDB: a limit of 0 is none.
        let limit = find.limit.filter(|limit| *limit > 0);
        Ok(Self {
            filter,
            sort,
            projection,
            skip: find.skip,
            limit,
            // What stays at the end of the natural order reads in it.
            hint: find
                .hint
                .clone()
                .or_else(|| find.tailable.then(|| "$natural".into())),
            runtime: scope.runtime().clone(),
            window: Window::parse(find, limits)?,
            after: find.after.clone(),
            tailable: find.tailable,
            shown: find.shown,
            near: None,
        })
    }

    /// The plan of the query.
    pub(crate) fn plan(&self, collection: &Collection) -> Result<Plan> {
        let mut plans = self.plans(collection)?;
        if plans.is_empty() {
            return Err(Error::new(Code::NoQueryExecutionPlans, "no plan for the query"));
        }
        let mut plan = plans.swap_remove(0);
        plan.narrow(&self.window, collection, self.runtime.collation())?;
        Ok(plan)
    }

    /// The plans that come into question, the best one first.
    pub(crate) fn plans(&self, collection: &Collection) -> Result<Vec<Plan>> {
        let (filter, sort, hint) = (&self.filter, self.sort.as_ref(), self.hint.as_deref());
        let mut plans = match &self.near {
            Some(near) => {
                let path = near.path(collection)?;
                plan::by_distance(collection, filter, (&path, &near.near), sort, hint)?
            }
            None => plan::consider(collection, filter, sort, hint)?,
        };
        for plan in &mut plans {
            plan.cover(self.needs(), filter, sort);
        }
        Ok(plans)
    }

    /// The names of the fields that the result is made of; none if it may be any.
    fn needs(&self) -> Option<Vec<&str>> {
        match (&self.projection, self.shown) {
            (Some(projection), Shown::Documents) => projection.needs(),
            _ => None,
        }
    }

    fn project(&self, document: &RawDocument) -> Result<RawDocumentBuf> {
        match &self.projection {
            None => Ok(document.to_owned()),
            Some(projection) => projection.apply(document, &self.filter),
        }
    }

    /// A document as it is shown; `keys` are the fields of the index that was used.
    fn show(&self, document: &RawDocument, keys: &[Path]) -> Result<RawDocumentBuf> {
        match self.shown {
            Shown::Documents => self.project(document),
            Shown::WithRecordId => {
                let mut shown = self.project(document)?;
                let mut id = Vec::new();
                if let Some(value) = field(document, "_id") {
                    keycode::encode(&mut id, value, false);
                }
                let subtype = BinarySubtype::Generic;
                shown.append(cstr!("$recordId"), Binary { subtype, bytes: id });
                Ok(shown)
            }
            Shown::IndexKeys => {
                let mut shown = RawDocumentBuf::new();
                for path in keys {
                    // No array is on the way, so there is one value at most.
                    let value = path::index_values(document, path).values.first().copied();
                    append(&mut shown, path.as_str(), value.unwrap_or(RawBsonRef::Null));
                }
                Ok(shown)
            }
        }
    }
}

pub(crate) fn parse_filter(document: &RawDocument, limits: &Limits, scope: &Scope) -> Result<Filter> {
    if document.is_empty() {
        return Ok(Filter::AlwaysTrue);
    }
    check_well_formed(document, limits.depth_max)?;
    Filter::parse_query(document, scope)
}

/// The scope of a command or of one of its statements: with its variables (MongoDB's `let`) and its collation.
///
/// # Errors
/// When one of these is malformed.
pub(crate) fn scope_of(
    scope: &Scope,
    variables: Option<&RawDocument>,
    collation: Option<&RawDocument>,
    limits: &Limits,
) -> Result<Scope> {
    let mut scope = scope.clone();
    if let Some(variables) = variables {
        check_well_formed(variables, limits.depth_max)?;
        scope = scope.with_let(variables)?;
    }
    if let Some(collation) = collation {
        check_well_formed(collation, limits.depth_max)?;
        scope = scope.with_collation(collation)?;
    }
    Ok(scope)
}

pub(crate) fn parse_sort(
    document: Option<&RawDocument>,
    limits: &Limits,
    scope: &Scope,
) -> Result<Option<SortSpec>> {
    let Some(document) = document.filter(|document| !document.is_empty()) else {
        return Ok(None);
    };
    check_well_formed(document, limits.depth_max)?;
    let sort = SortSpec::parse(document)?;
    Ok(Some(sort.collated(scope.runtime().collation())))
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
    /// The fields of the index that is used, where these are shown.
    keys: Box<[Path]>,
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
    /// The rest of a result that was sorted; not yet projected.
    Sorted(Sorted),
}

/// A page being filled, within its bounds.
struct PageBuilder<'q> {
    query: &'q Query,
    keys: &'q [Path],
    documents: Vec<RawDocumentBuf>,
    bytes: usize,
    batch: usize,
    bytes_max: usize,
}

impl<'q> PageBuilder<'q> {
    fn new(query: &'q Query, keys: &'q [Path], batch: Option<u32>, engine: &Engine) -> Self {
        let batch = batch.map_or(usize::MAX, |batch| usize::try_from(batch).unwrap_or(usize::MAX));
        Self {
            query,
            keys,
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
        let document = self.query.show(document, self.keys)?;
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
    if query.tailable {
        check_tailable(ns, collection, query, &plan)?;
    }
    meter.admit(is_short(&plan, query))?;
    let keys = match query.shown {
        Shown::IndexKeys => index_keys(&plan, query.sort.is_some())?,
        Shown::Documents | Shown::WithRecordId => Box::default(),
    };
    let after = start(kv, &plan, query)?;
    let position = match &query.sort {
        Some(sort) if !plan.sorted => {
            Position::Sorted(sorted_documents(engine, kv, &plan, query, sort, meter)?)
        }
        _ => Position::Scan {
            plan: Box::new(plan),
            after,
            skip: query.skip,
            limit: query.limit,
        },
    };
    let batch = Some(batch.unwrap_or(FIRST_BATCH));
    let state = QueryState {
        ns: ns.clone(),
        query: query.clone(),
        keys,
        position,
    };
    page(engine, kv, state, batch, meter)
}

/// The row after which a scan begins; none for one from the beginning.
///
/// # Errors
/// `BadValue` for a place where the order is another one, `CappedPositionLost`.
fn start(kv: &dyn KvRead, plan: &Plan, query: &Query) -> Result<Option<Vec<u8>>> {
    let Some(place) = &query.after else {
        return Ok(None);
    };
    match plan.natural_prefix() {
        Some(prefix) if query.hint.as_deref() == Some("$natural") && query.sort.is_none() => {
            let after = [prefix, place.clone()].concat();
            check_place(kv, plan, Some(&after))?;
            Ok(Some(after))
        }
        _ => Err(Error::new(
            Code::BadValue,
            "a query goes on after a place in the natural order only, with the hint $natural and no sort",
        )),
    }
}

/// See [`Cursor::place`].
pub(crate) fn place(cursor: &Cursor) -> Option<Vec<u8>> {
    let CursorState::Query(state) = &*cursor.state else {
        return None;
    };
    match &state.position {
        Position::Scan {
            plan,
            after: Some(after),
            skip: 0,
            ..
        } => {
            let prefix = plan.natural_prefix()?;
            after.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

/// A cursor can stay at the end of the natural order of a capped collection only.
fn check_tailable(ns: &Namespace, collection: &Collection, query: &Query, plan: &Plan) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Code::BadValue, why));
    if collection.capped.is_none() {
        return refuse(format!(
            "error processing query: ns={ns} tailable cursor requested on non capped collection"
        ));
    }
    if query.sort.is_some() {
        return refuse("cannot use tailable option with a sort other than {$natural: 1}".to_owned());
    }
    if !matches!(plan.source, Source::Order) || plan.direction == Direction::Backward {
        return refuse("a tailable cursor reads in the natural order, without an index".to_owned());
    }
    Ok(())
}

/// The collection of a tailable cursor.
pub(crate) fn tailed(cursor: &Cursor) -> Option<&Namespace> {
    match &*cursor.state {
        CursorState::Query(state) if state.query.tailable => Some(&state.ns),
        _ => None,
    }
}

/// The fields of the index that a plan uses; none for a collection scan.
///
/// # Errors
/// `CommandNotSupported` for a union of several, and where an array makes several keys of a document.
fn index_keys(plan: &Plan, ordered: bool) -> Result<Box<[Path]>> {
    let refused = |what: &str| {
        let message = format!("the keys of {what} can't be shown");
        Err(Error::new(Code::CommandNotSupported, message))
    };
    match &plan.source {
        Source::Documents if plan.bounded || (ordered && plan.sorted) => Ok([Path::parse("_id")?].into()),
        Source::Times(field) if plan.bounded || (ordered && plan.sorted) => Ok([Path::parse(field)?].into()),
        Source::Documents | Source::Times(_) | Source::Order => Ok(Box::default()),
        Source::Index(index) if index.multikey != 0 => refused("an index with arrays"),
        Source::Index(index) => Ok(index.fields.iter().map(|field| field.path.clone()).collect()),
        Source::Union(_) => refused("several indexes"),
    }
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
    if let Position::Scan { plan, after, .. } = &mut state.position {
        rebind(catalog, &state.ns, plan)?;
        check_place(kv, plan, after.as_deref())?;
    }
    page(engine, kv, state, batch, meter)
}

/// Whether the cursor needs no store: its result is in memory already.
pub(crate) fn is_list(cursor: &Cursor) -> bool {
    match &*cursor.state {
        CursorState::Query(state) => {
            matches!(&state.position, Position::Sorted(rest) if rest.in_memory())
        }
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
        Source::Documents | Source::Times(_) | Source::Order => {}
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
    let keys = std::mem::take(&mut state.keys);
    let mut page = PageBuilder::new(&query, &keys, batch, engine);
    let done = match &mut state.position {
        Position::Sorted(rest) => loop {
            if page.is_full() {
                break rest.is_empty();
            }
            let Some(row) = rest.next()? else {
                break true;
            };
            if !page.push(&row.1)? {
                rest.put_back(row);
                break false;
            }
        },
        Position::Scan {
            plan,
            after,
            skip,
            limit,
        } => {
            let ended = scan_page(kv, plan, after, skip, limit, &mut page, meter)?;
            if ended && query.tailable && *limit != Some(0) {
                // Past what does not match, too. A collection without documents leaves no place to go on from.
                *after = capped::last(kv, plan.collection)?;
                after.is_none()
            } else {
                ended
            }
        }
    };
    let documents = page.documents;
    state.keys = keys;
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
        &mut |row, document| {
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
                last = Some(row.key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            // The key is needed only if this turns out to be the page's last document.
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(row.key);
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
    let mut plan = plan::choose(collection, &query.filter, None, None)?;
    plan.cover(Some(Vec::new()), &query.filter, None);
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
    query: &Query,
    meter: &mut Meter<'_>,
) -> Result<Vec<RawBson>> {
    let Some(collection) = catalog.collection(ns) else {
        return Ok(Vec::new());
    };
    let filter = &query.filter;
    let mut plan = plan::choose(collection, filter, None, None)?;
    plan.cover(Some(vec![&*path.parts()[0].name]), filter, None);
    let mut values = Distinct::new(path, query.runtime.collation(), engine);
    scan(kv, &plan, filter, None, meter, &mut |_, document| {
        values.add(document)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(values.in_order())
}

/// The distinct values at a path of some documents.
pub(crate) struct Distinct<'p> {
    path: &'p Path,
    collation: Option<&'p Arc<Collation>>,
    seen: BTreeSet<Vec<u8>>,
    values: Vec<(Vec<u8>, RawBson)>,
    bytes: usize,
    bytes_max: usize,
}

impl<'p> Distinct<'p> {
    pub(crate) fn new(path: &'p Path, collation: Option<&'p Arc<Collation>>, engine: &Engine) -> Self {
        Self {
            path,
            collation,
            seen: BTreeSet::new(),
            values: Vec::new(),
            bytes: 0,
            bytes_max: engine.limits.page_bytes_max,
        }
    }

    /// # Errors
    /// When the values take more than a page may.
    pub(crate) fn add(&mut self, document: &RawDocument) -> Result<()> {
        let _ = path::visit(document, self.path, false, &mut |leaf| {
            let elements = match leaf.value {
                Some(RawBsonRef::Array(array)) => array.into_iter().flatten().collect(),
                Some(value) => vec![value],
                None => Vec::new(),
            };
            for value in elements {
                let mut key = Vec::new();
                match self.collation {
                    None => keycode::encode(&mut key, value, false),
                    Some(collation) => keycode::encode_text(&mut key, value, false, collation.as_ref()),
                }
                if self.seen.insert(key.clone()) {
                    self.bytes += key.len() * 2;
                    self.values.push((key, RawBson::from(value)));
                }
            }
            ControlFlow::Continue(())
        });
        let (bytes, max) = (self.bytes, self.bytes_max);
        if bytes > max {
            let message = format!("the distinct values take over {bytes} bytes, and page_bytes_max is {max}");
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        Ok(())
    }

    /// The values, in their order.
    pub(crate) fn in_order(mut self) -> Vec<RawBson> {
        self.values.sort_by(|a, b| a.0.cmp(&b.0));
        self.values.into_iter().map(|(_, value)| value).collect()
    }
}

/// Whether a plan is so short that it should run on its caller's thread: a hop to another thread costs more than
/// ten point reads. What turns out longer than the meter's budget is begun again on a reader thread.
fn is_short(plan: &Plan, query: &Query) -> bool {
    const LIMIT_MAX: u64 = 32;
    let few = query
        .limit
        .is_some_and(|limit| limit.saturating_add(query.skip) <= LIMIT_MAX);
    plan.near.is_none()
        && ((plan.bounded && plan.points) || (few && plan.sorted && (plan.bounded || query.is_all())))
}

impl Query {
    /// Whether every document matches.
    fn is_all(&self) -> bool {
        matches!(self.filter, Filter::AlwaysTrue)
    }
}
