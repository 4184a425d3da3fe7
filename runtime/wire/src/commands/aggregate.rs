//! `aggregate`: the stages are the engine's business; here are the command's options, who may write where the result
//! goes, and the few stages that tell of the listener itself.

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{Aggregate, Namespace};

use super::{changes, diagnostics, explain, query, search};
use crate::args::{self, Args};
use crate::call::{Call, check_database};
use crate::error::{Code, CommandError, Result};
use crate::roles::Need;
use crate::users::uuid;

/// Most sessions that `$listLocalSessions` tells of.
const LISTED_SESSIONS_MAX: usize = 10_000;

/// An aggregate command taken apart.
pub(crate) struct AggregateArgs {
    pub(crate) ns: Namespace,
    pub(crate) aggregate: Aggregate,
    /// It is sent to the database, and not to a collection.
    pub(crate) on_database: bool,
    explain: bool,
}

impl AggregateArgs {
    /// # Errors
    /// For arguments that are malformed, unknown or not supported, and for a result that may not go where it should.
    pub(crate) async fn parse(call: &Call<'_>, body: &RawDocument) -> Result<Self> {
        // Everything but a name means the database itself; 1 is what drivers send.
        let collection = match body.iter().next().transpose()? {
            Some((_, RawBsonRef::String(collection))) => Some(collection),
            _ => None,
        };
        let ns = match collection {
            Some(collection) => call.namespace(collection)?,
            None => Namespace::new(call.db.clone(), "$cmd.aggregate"),
        };
        let mut aggregate = Aggregate::default();
        let (mut stages, mut cursor, mut explain, mut hint) = (None, false, false, None);
        let mut args = Args::new("aggregate", body);
        while let Some((name, value)) = args.next()? {
            match name {
                "pipeline" => stages = Some(args::documents("pipeline", value)?),
                "cursor" => {
                    cursor = true;
                    if let Some(size) = args::document("cursor", value)?.get("batchSize")? {
                        aggregate.batch = Some(query::batch_size(size)?);
                    }
                }
                "hint" => hint = Some(value),
                "collation" => aggregate.collation = args::collated(value)?,
                "let" => aggregate.variables = args::maybe_document("let", value)?,
                "explain" => explain = args::flag("explain", value)?,
                "allowDiskUse" => aggregate.allow_disk_use = Some(args::flag(name, value)?),
                "bypassDocumentValidation" => aggregate.bypass_validation = args::flag(name, value)?,
                "fromMongos" | "needsMerge" => {
                    args::flag(name, value)?;
                }
                name => return Err(args.unknown(name)),
            }
        }
        let mut stages = stages.ok_or_else(|| args::missing("aggregate", "pipeline"))?;
        if !cursor && !explain {
            return Err(CommandError::new(
                Code::FailedToParse,
                "The 'cursor' option is required, except for aggregate with the explain argument",
            ));
        }
        if collection.is_none() {
            needs_no_collection(call, &mut stages)?;
        }
        if let Some(stage) = stages.first()
            && let Some(("$listSearchIndexes", _)) = stage_of(stage)?
        {
            return Err(search::not_enabled());
        }
        check_target(call, &stages, body)?;
        if let Some(hint) = hint {
            aggregate.hint = query::resolve_hint(call, &ns, hint).await?;
        }
        aggregate.pipeline = stages;
        Ok(Self {
            ns,
            aggregate,
            on_database: collection.is_none(),
            explain,
        })
    }
}

/// `aggregate`.
pub(crate) async fn aggregate(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let args = AggregateArgs::parse(call, &body).await?;
    if args.explain {
        return explain::explain_aggregate(call, &body, args, "queryPlanner").await;
    }
    if changes::is_stream(&args.aggregate.pipeline)? {
        return changes::open(call, args, &body).await;
    }
    let deadline = call.deadline.clone();
    let page = call
        .statements
        .aggregate(&args.ns, args.aggregate, deadline)
        .await?;
    query::first_page(call, &args.ns, page, false)
}

/// The name and argument of a stage.
pub(crate) fn stage_of(stage: &RawDocument) -> Result<Option<(&str, RawBsonRef<'_>)>> {
    let first = stage.iter().next().transpose()?;
    Ok(first.map(|(name, argument)| (name.as_str(), argument)))
}

/// Checks that the pipeline begins with a stage that reads no collection. Stages that tell of the listener become
/// the documents that they tell.
fn needs_no_collection(call: &Call<'_>, stages: &mut [RawDocumentBuf]) -> Result<()> {
    let first = match stages.first() {
        Some(stage) => stage_of(stage)?,
        None => None,
    };
    let told = match first {
        // A change stream is another matter, and one to be explained is refused by the engine.
        Some(("$documents" | "$changeStream", _)) => return Ok(()),
        Some(("$currentOp", options)) => current_op(call, args::document("$currentOp", options)?)?,
        Some(("$listLocalSessions", options)) => {
            local_sessions(call, args::document("$listLocalSessions", options)?)?
        }
        first => {
            let name = first.map_or("an empty pipeline", |(name, _)| name);
            return Err(CommandError::new(
                Code::InvalidNamespace,
                format!("{{aggregate: 1}} is not valid for '{name}'; a collection is required."),
            ));
        }
    };
    if let Some(stage) = stages.first_mut() {
        *stage = rawdoc! { "$documents": { "$literal": told } };
    }
    Ok(())
}

/// What the caller may see of the operations at work: its own, or with the right to it everybody's.
fn current_op(call: &Call<'_>, options: &RawDocument) -> Result<RawArrayBuf> {
    if &*call.db != "admin" {
        return Err(CommandError::new(
            Code::InvalidNamespace,
            "$currentOp must be run against the 'admin' database with {aggregate: 1}",
        ));
    }
    let mut told = RawArrayBuf::new();
    for operation in diagnostics::operations(call, everybody(options)?)? {
        told.push(operation);
    }
    Ok(told)
}

/// The sessions of the caller, or of everybody.
fn local_sessions(call: &Call<'_>, options: &RawDocument) -> Result<RawArrayBuf> {
    let everybody = everybody(options)?;
    if everybody {
        call.require(Need::Monitor, "admin")?;
    }
    let user = call.user();
    let which = |owner: Option<&str>| everybody || owner == user.as_deref();
    let now = bson::DateTime::from_millis(call.shared.clock.now().millis());
    let mut told = RawArrayBuf::new();
    for id in call.shared.sessions.ids(which, LISTED_SESSIONS_MAX) {
        let mut row = rawdoc! { "_id": { "id": uuid(id.uuid) }, "lastUse": now };
        if let Some(user) = &id.user {
            row.append(cstr!("user"), &**user);
        }
        told.push(row);
    }
    Ok(told)
}

fn everybody(options: &RawDocument) -> Result<bool> {
    match options.get("allUsers")? {
        Some(flag) => args::flag("allUsers", flag),
        None => Ok(false),
    }
}

/// Checks that the caller may write where `$out` or `$merge` puts the result, which may be another database. The
/// engine knows nothing of users, and the platform's own databases are only kept from drivers here.
fn check_target(call: &Call<'_>, stages: &[RawDocumentBuf], body: &RawDocument) -> Result<()> {
    // Where one of them stands does not matter: the engine refuses those that are not last.
    for stage in stages {
        let target = match stage_of(stage)? {
            Some(("$out", target)) => Some(target),
            Some(("$merge", RawBsonRef::Document(options))) => options.get("into")?,
            Some(("$merge", target)) => Some(target),
            _ => continue,
        };
        let db = match target {
            Some(RawBsonRef::Document(target)) => match target.get("db")? {
                Some(db) => args::text("db", db)?,
                None => &call.db,
            },
            _ => &call.db,
        };
        check_database(db)?;
        call.require(Need::Write, db)?;
        if let Some(RawBsonRef::Document(concern)) = body.get("readConcern")?
            && let Some(RawBsonRef::String("linearizable")) = concern.get("level")?
        {
            return Err(CommandError::new(
                Code::InvalidOptions,
                "$out and $merge can't be used with read concern level linearizable",
            ));
        }
    }
    Ok(())
}
