//! Change streams: `aggregate` with `$changeStream` first, and the getMores that wait for its events. What the events
//! are is the engine's business; here are the stage's options, who may watch what, and what ends the waiting.

use std::time::Duration;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};
use cloudlet_base::Deadline;
use cloudlet_data::{BeforeChange, ChangeCursor, Changes, FullDocument, Watch, WatchScope, WatchStart};

use super::aggregate::{AggregateArgs, stage_of};
use super::{query, reply};
use crate::args;
use crate::call::{Call, interrupted};
use crate::cursors::Rest;
use crate::error::{Code, CommandError, Result};
use crate::roles::Need;

/// How long a getMore waits for events that says nothing of it: MongoDB's second.
const WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// MongoDB's own databases, which have no change streams.
const OWN_DATABASES: [&str; 3] = ["admin", "config", "local"];

/// Whether a pipeline is a change stream's.
///
/// # Errors
/// `Location40602` when `$changeStream` is there and not the first; when a stage is damaged.
pub(crate) fn is_stream(pipeline: &[RawDocumentBuf]) -> Result<bool> {
    let mut first = false;
    for (place, stage) in pipeline.iter().enumerate() {
        if !matches!(stage_of(stage)?, Some(("$changeStream", _))) {
            continue;
        }
        if place > 0 {
            return Err(CommandError::new(
                Code::Location40602,
                "$changeStream is only valid as the first stage in a pipeline",
            ));
        }
        first = true;
    }
    Ok(first)
}

/// Opens a change stream.
pub(crate) async fn open(call: &Call<'_>, args: AggregateArgs, body: &RawDocument) -> Result<RawDocumentBuf> {
    let AggregateArgs { ns, aggregate, .. } = args;
    let mut stages = aggregate.pipeline.into_iter();
    let first = stages.next().unwrap_or_default();
    let mut options = match stage_of(&first)? {
        Some((_, options)) => Options::parse(args::document("$changeStream", options)?)?,
        None => Options::default(),
    };
    options.watch.pipeline = stages.collect();
    let scope = options.scope(call, &ns, args.on_database)?;
    if call.transaction.is_some() {
        return Err(CommandError::new(
            Code::OperationNotSupportedInTransaction,
            "$changeStream cannot be used in a transaction",
        ));
    }
    check_read_concern(body)?;
    if aggregate.variables.is_some_and(|variables| !variables.is_empty()) {
        return Err(CommandError::new(
            Code::CommandNotSupported,
            "$changeStream with 'let' is not supported",
        ));
    }
    may_watch(call, &scope)?;
    let documents = &call.shared.documents;
    if documents.operation_time().await?.is_none() {
        return Err(CommandError::new(
            Code::Location40573,
            "the $changeStream stage is not available: the change log is turned off; the node's setting database.change_log_bytes, above 0, turns it on",
        ));
    }
    let failed = |error| CommandError::from(error).of_change_stream();
    let cursor = documents.watch(scope, options.watch).await.map_err(failed)?;
    let batch = aggregate.batch.unwrap_or(reply::FIRST_BATCH as u32);
    let mut changes = documents
        .next_changes(cursor, Some(batch), Duration::ZERO, call.deadline.clone())
        .await
        .map_err(failed)?;
    let id = match changes.cursor.take() {
        Some(cursor) => reply::keep(call, &ns, Rest::Changes(cursor), false)?,
        None => 0,
    };
    Ok(reply::changes(true, id, &ns.to_string(), changes))
}

/// The next events of a stream, waited for as long as the command says. The command makes room for another while it
/// waits.
///
/// # Errors
/// The stream's; `Unauthorized` when the caller may not watch any more; that something else ended the waiting.
///
/// # Cancel safety
/// Dropping the future loses the stream's place: the cursor is to be forgotten.
pub(crate) async fn next(
    call: &mut Call<'_>,
    id: i64,
    cursor: ChangeCursor,
    batch: Option<u32>,
    killed: tokio::sync::oneshot::Receiver<()>,
) -> Result<Changes> {
    may_watch(call, cursor.scope())?;
    let (wait, deadline) = waiting(call);
    let changes = call.shared.documents.next_changes(cursor, batch, wait, deadline);
    let changes = unless_ended(call, id, killed, changes).await;
    changes.map_err(CommandError::of_change_stream)
}

/// How long a getMore waits, and by when what it reads then has to be there. The command makes room for another.
pub(super) fn waiting(call: &mut Call<'_>) -> (Duration, Deadline) {
    let shared = call.shared;
    let longest = shared.limits.command_time_max;
    let wait = call.max_time.unwrap_or(WAIT_DEFAULT).min(longest);
    // What is read after the waiting has a time of its own.
    let deadline =
        Deadline::after(shared.clock.as_ref(), wait.saturating_add(longest)).with_cancel(call.cancel.clone());
    call.permit = None;
    (wait, deadline)
}

/// What is waited for, or what ended the waiting: `killOp`, the cursor, the connection or the node.
pub(super) async fn unless_ended<T>(
    call: &Call<'_>,
    id: i64,
    killed: tokio::sync::oneshot::Receiver<()>,
    answer: impl Future<Output = std::result::Result<T, cloudlet_data::Error>>,
) -> Result<T> {
    let gone = call.conn.gone.clone();
    let mut stopped = call.conn.stopped.clone();
    tokio::select! {
        biased;
        answer = answer => Ok(answer?),
        _ = killed => Err(query::killed(id)),
        () = call.operation.ended() => Err(interrupted()),
        () = gone.notified() => Err(CommandError::new(Code::Interrupted, "the client went away")),
        _ = stopped.wait_for(|stop| *stop) => Err(CommandError::new(
            Code::InterruptedAtShutdown,
            "the node is being stopped",
        )),
    }
}

/// A stream tells of what is committed for good, so it takes no other read concern than that.
fn check_read_concern(body: &RawDocument) -> Result<()> {
    let Some(concern) = body.get("readConcern")? else {
        return Ok(());
    };
    let level = match args::document("readConcern", concern)?.get("level")? {
        Some(level) => args::text("readConcern.level", level)?,
        None => return Ok(()),
    };
    if level == "majority" {
        return Ok(());
    }
    Err(CommandError::new(
        Code::InvalidOptions,
        format!("$changeStream takes the read concern level 'majority' only, not '{level}'"),
    ))
}

/// Checks that the caller may see what a stream is about; asked again with each getMore, for a stream lives long.
fn may_watch(call: &Call<'_>, scope: &WatchScope) -> Result<()> {
    match scope {
        WatchScope::Collection(ns) => call.require(Need::Read, &ns.database),
        WatchScope::Database(database) => call.require(Need::Read, database),
        // None of the platform's is opened here.
        WatchScope::Deployment | WatchScope::Platform(_) => call.require_everywhere(Need::Read),
    }
}

/// The argument of `$changeStream`.
#[derive(Default)]
struct Options {
    watch: Watch,
    whole_cluster: bool,
}

impl Options {
    fn parse(options: &RawDocument) -> Result<Self> {
        let mut parsed = Self::default();
        let watch = &mut parsed.watch;
        let (mut resume, mut after, mut time) = (None, None, None);
        for field in options {
            let (name, value) = field?;
            match name.as_str() {
                "fullDocument" => watch.full_document = full_document(value)?,
                "fullDocumentBeforeChange" => watch.before_change = before_change(value)?,
                "resumeAfter" => resume = args::maybe_document("$changeStream.resumeAfter", value)?,
                "startAfter" => after = args::maybe_document("$changeStream.startAfter", value)?,
                "startAtOperationTime" => time = Some(timestamp(value)?),
                "allChangesForCluster" => {
                    parsed.whole_cluster = args::flag("$changeStream.allChangesForCluster", value)?;
                }
                "showExpandedEvents" => {
                    watch.expanded = args::flag("$changeStream.showExpandedEvents", value)?;
                }
                "showMigrationEvents"
                | "allowToRunOnConfigDB"
                | "allowToRunOnSystemNS"
                | "showSystemEvents" => {
                    if args::flag(name.as_str(), value)? {
                        return Err(CommandError::new(
                            Code::CommandNotSupported,
                            format!("$changeStream with '{name}' is not supported"),
                        ));
                    }
                }
                name => {
                    return Err(CommandError::new(
                        Code::Location40415,
                        format!("BSON field '$changeStream.{name}' is an unknown field."),
                    ));
                }
            }
        }
        watch.start = match (resume, after, time) {
            (None, None, None) => WatchStart::Now,
            (Some(token), None, None) => WatchStart::ResumeAfter(token),
            (None, Some(token), None) => WatchStart::StartAfter(token),
            (None, None, Some(time)) => WatchStart::AtOperationTime(time),
            (Some(_), Some(_), _) => {
                return Err(CommandError::new(
                    Code::Location50865,
                    "Do not specify both 'resumeAfter' and 'startAfter' in a $changeStream stage",
                ));
            }
            (_, _, Some(_)) => {
                return Err(CommandError::new(
                    Code::Location40674,
                    "Only one type of resume option is allowed, but multiple were found",
                ));
            }
        };
        Ok(parsed)
    }

    fn scope(&self, call: &Call<'_>, ns: &cloudlet_data::Namespace, on_database: bool) -> Result<WatchScope> {
        if self.whole_cluster {
            return if on_database && &*call.db == "admin" {
                Ok(WatchScope::Deployment)
            } else {
                Err(CommandError::new(
                    Code::InvalidOptions,
                    "A $changeStream with 'allChangesForCluster:true' may only be opened on the 'admin' database, and with no collection name; found "
                        .to_owned()
                        + &ns.to_string(),
                ))
            };
        }
        if OWN_DATABASES.contains(&&*call.db) {
            return Err(CommandError::new(
                Code::InvalidNamespace,
                format!(
                    "$changeStream may not be opened on the internal {} database",
                    call.db
                ),
            ));
        }
        Ok(if on_database {
            WatchScope::Database(ns.database.clone())
        } else {
            WatchScope::Collection(ns.clone())
        })
    }
}

fn full_document(value: RawBsonRef<'_>) -> Result<FullDocument> {
    match args::text("$changeStream.fullDocument", value)? {
        "default" => Ok(FullDocument::Default),
        "updateLookup" => Ok(FullDocument::UpdateLookup),
        "whenAvailable" => Ok(FullDocument::WhenAvailable),
        "required" => Ok(FullDocument::Required),
        other => Err(not_one_of("fullDocument", other)),
    }
}

fn before_change(value: RawBsonRef<'_>) -> Result<BeforeChange> {
    match args::text("$changeStream.fullDocumentBeforeChange", value)? {
        "off" => Ok(BeforeChange::Off),
        "whenAvailable" => Ok(BeforeChange::WhenAvailable),
        "required" => Ok(BeforeChange::Required),
        other => Err(not_one_of("fullDocumentBeforeChange", other)),
    }
}

fn not_one_of(name: &str, value: &str) -> CommandError {
    CommandError::new(
        Code::BadValue,
        format!("Enumeration value '{value}' for field '$changeStream.{name}' is not a valid value."),
    )
}

fn timestamp(value: RawBsonRef<'_>) -> Result<bson::Timestamp> {
    match value {
        RawBsonRef::Timestamp(time) => Ok(time),
        value => Err(CommandError::new(
            Code::TypeMismatch,
            format!(
                "BSON field '$changeStream.startAtOperationTime' is the wrong type '{}', expected type 'timestamp'",
                args::type_name(value)
            ),
        )),
    }
}
