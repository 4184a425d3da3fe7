//! Parts that replies share: cursors and write errors.

use bson::{RawArrayBuf, RawBson, RawDocumentBuf, Timestamp, raw::cstr};
use cloudlet_data::{Changes, Namespace, WriteError};

use crate::call::Call;
use crate::cursors::{Owner, Rest};
use crate::error::{CommandError, Result};

/// Documents in a first batch when the caller does not say.
pub(crate) const FIRST_BATCH: usize = 101;

/// `{cursor: {firstBatch, id, ns, atClusterTime}}`, the last for snapshot reads.
pub(crate) fn first_batch(
    id: i64,
    ns: &str,
    documents: &[RawDocumentBuf],
    at: Option<Timestamp>,
) -> RawDocumentBuf {
    let at = at.map(|at| (cstr!("atClusterTime"), at.into()));
    cursor(cstr!("firstBatch"), id, ns, documents, at)
}

/// `{cursor: {nextBatch, id, ns}}`.
pub(crate) fn next_batch(id: i64, ns: &str, documents: &[RawDocumentBuf]) -> RawDocumentBuf {
    cursor(cstr!("nextBatch"), id, ns, documents, None)
}

/// `{cursor: {firstBatch or nextBatch, id, ns, postBatchResumeToken}}`, of a change stream.
pub(crate) fn changes(first: bool, id: i64, ns: &str, changes: Changes) -> RawDocumentBuf {
    let batch = if first {
        cstr!("firstBatch")
    } else {
        cstr!("nextBatch")
    };
    let token = (cstr!("postBatchResumeToken"), changes.token.into());
    cursor(batch, id, ns, &changes.events, Some(token))
}

fn cursor(
    batch: &bson::raw::CStr,
    id: i64,
    ns: &str,
    documents: &[RawDocumentBuf],
    more: Option<(&bson::raw::CStr, RawBson)>,
) -> RawDocumentBuf {
    let mut rows = RawArrayBuf::new();
    documents.iter().for_each(|document| rows.push(document));
    let mut cursor = RawDocumentBuf::new();
    cursor.append(batch, rows);
    cursor.append(cstr!("id"), id);
    cursor.append(cstr!("ns"), ns);
    if let Some((name, value)) = more {
        cursor.append(name, value);
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("cursor"), cursor);
    reply
}

/// Keeps the rest of a result as a cursor of the caller; returns its id.
pub(crate) fn keep(call: &Call<'_>, ns: &Namespace, rest: Rest, no_timeout: bool) -> Result<i64> {
    let shared = call.shared;
    shared.cursors.keep(
        owner(call, ns, no_timeout),
        rest,
        shared.now(),
        &shared.limits,
        shared.entropy.as_ref(),
        &shared.metrics,
    )
}

/// The caller as the owner of a cursor.
pub(crate) fn owner(call: &Call<'_>, ns: &Namespace, no_timeout: bool) -> Owner {
    Owner {
        ns: ns.clone(),
        user: call.user(),
        session: call.session.clone(),
        transaction: call.transaction,
        no_timeout: no_timeout && call.session.is_some(),
        time_left: call
            .max_time
            .and_then(|_| call.deadline.remaining(call.shared.clock.as_ref())),
    }
}

/// A first batch of a result that is all there.
pub(crate) fn list(
    call: &Call<'_>,
    ns: &Namespace,
    documents: Vec<RawDocumentBuf>,
    batch: Option<usize>,
) -> Result<RawDocumentBuf> {
    let mut rest = documents.into_iter();
    let first = take(&mut rest, batch.unwrap_or(FIRST_BATCH));
    let id = if rest.as_slice().is_empty() {
        0
    } else {
        keep(call, ns, Rest::List(rest), false)?
    };
    Ok(first_batch(id, &ns.to_string(), &first, None))
}

/// The next documents of a list: at most `count`, and no more than fit a reply.
pub(crate) fn take(rest: &mut std::vec::IntoIter<RawDocumentBuf>, count: usize) -> Vec<RawDocumentBuf> {
    const BYTES_MAX: usize = 16 * 1024 * 1024;
    let mut taken = Vec::new();
    let mut bytes = 0;
    while taken.len() < count {
        let Some(next) = rest.as_slice().first() else {
            break;
        };
        bytes += next.as_bytes().len();
        if !taken.is_empty() && bytes > BYTES_MAX {
            break;
        }
        taken.extend(rest.next());
    }
    taken
}

/// Appends `writeErrors` when there are any.
pub(crate) fn append_write_errors(reply: &mut RawDocumentBuf, errors: Vec<WriteError>) {
    if errors.is_empty() {
        return;
    }
    let mut shown = RawArrayBuf::new();
    for failed in errors {
        let index = failed.index;
        shown.push(CommandError::from(failed.error).write_error(index));
    }
    reply.append(cstr!("writeErrors"), shown);
}

/// A count as drivers expect one: 32 bits where it fits.
pub(crate) fn number(count: u64) -> bson::RawBson {
    i32::try_from(count).map_or_else(
        |_| bson::RawBson::Int64(i64::try_from(count).unwrap_or(i64::MAX)),
        bson::RawBson::Int32,
    )
}
