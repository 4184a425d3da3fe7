//! Reading: find, getMore, killCursors, count, distinct.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_base::Deadline;
use cloudlet_data::{Find, NATURAL_BACKWARD, Namespace, Page, Shown};

use super::{changes, reply, tail};
use crate::args::{self, Args};
use crate::call::Call;
use crate::cursors::{Rest, Taken};
use crate::error::{Code, CommandError, Result};
use crate::shared::Shared;
use crate::transactions::too_old;

/// The hint of the natural order.
const NATURAL: &str = "$natural";

/// A find command taken apart.
pub(crate) struct FindArgs {
    pub(crate) ns: Namespace,
    pub(crate) find: Find,
    single_batch: bool,
    no_timeout: bool,
    await_data: bool,
}

impl FindArgs {
    /// # Errors
    /// For arguments that are malformed, unknown or not supported.
    pub(crate) async fn parse(call: &Call<'_>, body: &RawDocument) -> Result<Self> {
        let ns = call.namespace(&args::collection("find", body)?)?;
        let mut find = Find::default();
        let (mut single_batch, mut no_timeout, mut await_data) = (false, false, false);
        let mut hint = None;
        let (mut return_key, mut record_id) = (false, false);
        let mut args = Args::new("find", body);
        while let Some((name, value)) = args.next()? {
            match name {
                "filter" => find.filter = args::maybe_document("find.filter", value)?.unwrap_or_default(),
                "sort" => find.sort = args::maybe_document("find.sort", value)?,
                "projection" => find.projection = args::maybe_document("find.projection", value)?,
                "hint" => hint = Some(value),
                "skip" => find.skip = args::count("skip", value)?,
                "limit" => find.limit = Some(args::count("limit", value)?).filter(|limit| *limit > 0),
                "batchSize" => find.batch = Some(batch_size(value)?),
                "singleBatch" => single_batch = args::flag("find.singleBatch", value)?,
                "noCursorTimeout" => no_timeout = args::flag("find.noCursorTimeout", value)?,
                "collation" => find.collation = args::collated(value)?,
                "let" => find.variables = args::maybe_document("let", value)?,
                "min" => find.min = args::maybe_document("find.min", value)?,
                "max" => find.max = args::maybe_document("find.max", value)?,
                "tailable" => find.tailable = args::flag("find.tailable", value)?,
                "awaitData" => await_data = args::flag("find.awaitData", value)?,
                "returnKey" => return_key = args::flag("find.returnKey", value)?,
                "showRecordId" => record_id = args::flag("find.showRecordId", value)?,
                "allowDiskUse" => find.allow_disk_use = Some(args::flag(name, value)?),
                "allowPartialResults" | "oplogReplay" => {
                    args::flag(name, value)?;
                }
                "options" | "ntoreturn" | "term" | "readOnce" | "snapshot" | "maxScan" => {}
                name => return Err(args.unknown(name)),
            }
        }
        find.hint = match hint {
            None => None,
            Some(hint) => resolve_hint(call, &ns, hint).await?,
        };
        find.shown = match (return_key, record_id) {
            (true, _) => Shown::IndexKeys,
            (false, true) => Shown::WithRecordId,
            (false, false) => Shown::Documents,
        };
        natural_order(&mut find)?;
        let refuse = |message: &str| Err(CommandError::new(Code::FailedToParse, message));
        if await_data && !find.tailable {
            return refuse("Cannot set 'awaitData' without also setting 'tailable'");
        }
        if find.tailable && single_batch {
            return refuse("Cannot use tailable option with the 'singleBatch' option");
        }
        Ok(Self {
            ns,
            find,
            single_batch,
            no_timeout,
            await_data,
        })
    }
}

/// The natural order is that in which documents came for a capped collection, and that of `_id` for another one;
/// nothing needs sorting to get it.
fn natural_order(find: &mut Find) -> Result<()> {
    let Some(direction) = find
        .sort
        .as_ref()
        .and_then(|sort| sort.get("$natural").ok().flatten())
    else {
        return Ok(());
    };
    find.hint = Some(natural_hint(direction)?);
    find.sort = None;
    Ok(())
}

/// The hint of the natural order in a direction.
fn natural_hint(direction: RawBsonRef<'_>) -> Result<Arc<str>> {
    match args::integer("$natural", direction)? {
        1 => Ok(NATURAL.into()),
        -1 => Ok(NATURAL_BACKWARD.into()),
        other => Err(CommandError::new(
            Code::BadValue,
            format!("$natural must be 1 or -1, found {other}"),
        )),
    }
}

/// The name of the index that a hint means: a name, or the keys of an index.
///
/// # Errors
/// `BadValue` when there is no such index.
pub(crate) async fn resolve_hint(
    call: &Call<'_>,
    ns: &Namespace,
    hint: RawBsonRef<'_>,
) -> Result<Option<Arc<str>>> {
    let keys = match hint {
        RawBsonRef::Null => return Ok(None),
        RawBsonRef::String(name) => return Ok(Some(name.into())),
        RawBsonRef::Document(keys) if keys.is_empty() => return Ok(None),
        RawBsonRef::Document(keys) => keys,
        _ => {
            return Err(CommandError::new(
                Code::FailedToParse,
                "Hint must be a string or an object",
            ));
        }
    };
    if let Some(direction) = keys.get("$natural")? {
        return natural_hint(direction).map(Some);
    }
    let indexes = match call.shared.documents.list_indexes(ns).await {
        Ok(indexes) => indexes,
        // A missing collection is an empty one, whatever the hint.
        Err(error) if error.code() == cloudlet_data::Code::NamespaceNotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = indexes
        .into_iter()
        .find(|index| same_keys(&index.key_pattern(), keys));
    found.map(|index| Some(index.name)).ok_or_else(|| {
        CommandError::new(
            Code::BadValue,
            "hint provided does not correspond to an existing index",
        )
    })
}

/// Whether a document names the keys of an index, given as [`IndexSpec::key_pattern`](cloudlet_data::IndexSpec), in
/// their order, with their directions or kinds.
pub(crate) fn same_keys(pattern: &RawDocument, document: &RawDocument) -> bool {
    let mut fields = document.iter();
    let all = pattern.iter().all(|key| {
        let (Ok((path, kind)), Some(Ok((name, value)))) = (key, fields.next()) else {
            return false;
        };
        let same = match kind {
            RawBsonRef::String(_) => kind == value,
            kind => args::integer("", value).ok() == args::integer("", kind).ok(),
        };
        path == name && same
    });
    all && fields.next().is_none()
}

/// Checks that a hint names an index, for commands that read no more than the check: the result does not depend on
/// which index is used.
pub(crate) async fn check_hint(call: &Call<'_>, ns: &Namespace, hint: RawBsonRef<'_>) -> Result<()> {
    let Some(name) = resolve_hint(call, ns, hint).await? else {
        return Ok(());
    };
    if [NATURAL, NATURAL_BACKWARD].contains(&&*name) {
        return Ok(());
    }
    let known = match call.shared.documents.list_indexes(ns).await {
        Ok(indexes) => indexes.iter().any(|index| index.name == name),
        Err(error) if error.code() == cloudlet_data::Code::NamespaceNotFound => true,
        Err(error) => return Err(error.into()),
    };
    if known {
        return Ok(());
    }
    Err(CommandError::new(
        Code::BadValue,
        "hint provided does not correspond to an existing index",
    ))
}

pub(crate) fn batch_size(value: RawBsonRef<'_>) -> Result<u32> {
    Ok(u32::try_from(args::count("batchSize", value)?).unwrap_or(u32::MAX))
}

/// `find`.
pub(crate) async fn find(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let args = FindArgs::parse(call, &body).await?;
    let deadline = call.deadline.clone();
    let mut page = call.statements.find(&args.ns, args.find, deadline).await?;
    if args.single_batch {
        page.cursor = None;
    }
    if args.await_data {
        return tail::first_page(call, &args.ns, page);
    }
    first_page(call, &args.ns, page, args.no_timeout)
}

/// Replies with a first page, and keeps the rest as a cursor of the caller.
pub(crate) fn first_page(
    call: &Call<'_>,
    ns: &Namespace,
    page: Page,
    no_timeout: bool,
) -> Result<RawDocumentBuf> {
    let id = match page.cursor {
        Some(cursor) => {
            let rest = Rest::Documents(cursor, call.statements.clone());
            reply::keep(call, ns, rest, no_timeout)?
        }
        None => 0,
    };
    Ok(reply::first_batch(
        id,
        &ns.to_string(),
        &page.documents,
        call.snapshot_time,
    ))
}

/// `getMore`.
pub(crate) async fn get_more(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let id = match body.iter().next().transpose()? {
        Some((_, RawBsonRef::Int64(id))) => id,
        Some((_, value)) => args::integer("getMore.getMore", value)?,
        None => return Err(args::missing("getMore", "getMore")),
    };
    let (mut collection, mut batch) = (None, None);
    let mut args = Args::new("getMore", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "collection" => collection = Some(args::text("getMore.collection", value)?),
            "batchSize" => batch = Some(batch_size(value)?).filter(|batch| *batch > 0),
            "term" | "lastKnownCommittedOpTime" => {}
            name => return Err(args.unknown(name)),
        }
    }
    let collection = collection.ok_or_else(|| args::missing("getMore", "collection"))?;
    let ns = call.namespace(collection)?;
    let shared = call.shared;
    let idle = shared.limits.cursor_idle;
    let by = reply::owner(call, &ns, false);
    let Taken {
        rest,
        time_left,
        killed,
    } = shared.cursors.take(id, &by, idle, shared.now())?;
    // A getMore that fails or is dropped has lost the cursor's place: the cursor goes.
    let mut guard = FinishOnDrop {
        call_shared: shared,
        id,
        armed: true,
    };
    if shared.settings.test_commands
        && let Some(error) = shared.fail_point.strike_get_more()
    {
        return Err(match rest {
            Rest::Changes(_) => error.of_change_stream(),
            _ => error,
        });
    }
    let (documents, rest) = match rest {
        Rest::Changes(cursor) => {
            let mut changes = changes::next(call, id, cursor, batch, killed).await?;
            let Some(cursor) = changes.cursor.take() else {
                return Ok(reply::changes(false, 0, &ns.to_string(), changes));
            };
            guard.armed = false;
            give_back(shared, id, Rest::Changes(cursor), None)?;
            return Ok(reply::changes(false, id, &ns.to_string(), changes));
        }
        Rest::Tail(cursor) => {
            let page = tail::next(call, id, cursor, batch, killed).await?;
            (page.documents, page.cursor.map(Rest::Tail))
        }
        Rest::Documents(cursor, statements) => {
            if let Some(left) = time_left {
                let deadline =
                    Deadline::after(shared.clock.as_ref(), left.min(shared.limits.command_time_max));
                call.deadline = deadline.with_cancel(call.cancel.clone());
                if shared.settings.test_commands
                    && let Some(error) = shared.fail_point.strike_max_time()
                {
                    return Err(error);
                }
            }
            let page = statements.next_page(cursor, batch, call.deadline.clone()).await;
            let page = page.map_err(|error| match error.code() {
                // Outside of a transaction only a snapshot can have gone.
                cloudlet_data::Code::NoSuchTransaction if call.transaction.is_none() => too_old(),
                _ => error.into(),
            })?;
            let rest = page.cursor.map(|cursor| Rest::Documents(cursor, statements));
            (page.documents, rest)
        }
        Rest::List(mut rest) => {
            let count = batch.map_or(usize::MAX, |batch| usize::try_from(batch).unwrap_or(usize::MAX));
            let documents = reply::take(&mut rest, count);
            let more = !rest.as_slice().is_empty();
            (documents, more.then_some(Rest::List(rest)))
        }
    };
    let Some(rest) = rest else {
        return Ok(reply::next_batch(0, &ns.to_string(), &documents));
    };
    guard.armed = false;
    let time_left = time_left.and_then(|_| call.deadline.remaining(shared.clock.as_ref()));
    give_back(shared, id, rest, time_left)?;
    Ok(reply::next_batch(id, &ns.to_string(), &documents))
}

/// Puts the rest of a cursor back.
///
/// # Errors
/// `CursorKilled` when it was killed meanwhile.
fn give_back(shared: &Shared, id: i64, rest: Rest, time_left: Option<Duration>) -> Result<()> {
    if shared.cursors.give_back(id, rest, time_left, shared.now()) {
        return Ok(());
    }
    Err(killed(id))
}

/// What a getMore answers whose cursor was killed meanwhile.
pub(super) fn killed(id: i64) -> CommandError {
    CommandError::new(Code::CursorKilled, format!("cursor id {id} was killed"))
}

/// Forgets a cursor unless told otherwise.
struct FinishOnDrop<'s> {
    call_shared: &'s Shared,
    id: i64,
    armed: bool,
}

impl Drop for FinishOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.call_shared
                .cursors
                .finish(self.id, &self.call_shared.metrics);
        }
    }
}

/// `killCursors`.
pub(crate) fn kill_cursors(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let ids = match body.get("cursors")? {
        Some(ids) => args::array("killCursors.cursors", ids)?,
        None => return Err(args::missing("killCursors", "cursors")),
    };
    let (mut killed, mut unknown) = (RawArrayBuf::new(), RawArrayBuf::new());
    let user = call.user();
    for id in ids {
        let id = args::integer("killCursors.cursors", id?)?;
        let metrics = &call.shared.metrics;
        if call.shared.cursors.kill(id, &ns, user.as_ref(), metrics) {
            killed.push(id);
        } else {
            unknown.push(id);
        }
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("cursorsKilled"), killed);
    reply.append(cstr!("cursorsNotFound"), unknown);
    reply.append(cstr!("cursorsAlive"), RawArrayBuf::new());
    reply.append(cstr!("cursorsUnknown"), RawArrayBuf::new());
    Ok(reply)
}

/// `count`.
pub(crate) async fn count(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut find = Find::default();
    let mut args = Args::new("count", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "query" => find.filter = args::maybe_document("count.query", value)?.unwrap_or_default(),
            "skip" => find.skip = args::count("skip", value)?,
            // A negative limit is an old way to write a positive one.
            "limit" => {
                find.limit = Some(args::integer("limit", value)?.unsigned_abs()).filter(|limit| *limit > 0)
            }
            "hint" => check_hint(call, &ns, value).await?,
            "collation" => find.collation = args::collated(value)?,
            "fields" => {}
            name => return Err(args.unknown(name)),
        }
    }
    let deadline = call.deadline.clone();
    let n = call.statements.count(&ns, find, deadline).await?;
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("n"), reply::number(n));
    Ok(reply)
}

/// `distinct`.
pub(crate) async fn distinct(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut find = Find::default();
    let mut key = None;
    let mut args = Args::new("distinct", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "key" => key = Some(args::text("distinct.key", value)?),
            "query" => find.filter = args::maybe_document("distinct.query", value)?.unwrap_or_default(),
            "hint" => check_hint(call, &ns, value).await?,
            "collation" => find.collation = args::collated(value)?,
            name => return Err(args.unknown(name)),
        }
    }
    let key = key.ok_or_else(|| args::missing("distinct", "key"))?;
    let deadline = call.deadline.clone();
    let found = call.statements.distinct(&ns, key, find, deadline).await?;
    let mut values = RawArrayBuf::new();
    found.into_iter().for_each(|value| values.push(value));
    let mut reply = rawdoc! { "values": values };
    if let Some(at) = call.snapshot_time {
        reply.append(cstr!("atClusterTime"), at);
    }
    Ok(reply)
}
