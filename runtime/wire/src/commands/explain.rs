//! `explain`: how a command would find its documents.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{Find, Namespace};

use super::aggregate::AggregateArgs;
use super::query::{self, FindArgs};
use crate::args;
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// `explain`.
pub(crate) async fn explain(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let command = match body.iter().next().transpose()? {
        Some((_, value)) => args::document("explain", value)?.to_owned(),
        None => return Err(args::missing("explain", "explain")),
    };
    let verbosity = match body.get("verbosity")? {
        None => "allPlansExecution",
        Some(value) => args::text("verbosity", value)?,
    };
    if !matches!(verbosity, "queryPlanner" | "executionStats" | "allPlansExecution") {
        return Err(CommandError::new(
            Code::FailedToParse,
            "verbosity string must be one of {'queryPlanner', 'executionStats', 'allPlansExecution'}",
        ));
    }
    if let Some((name, _)) = command.iter().next().transpose()?
        && name.as_str() == "aggregate"
    {
        let mut command = command.clone();
        if command.get("cursor")?.is_none() {
            // Needed to run it, not to explain it.
            command.append(cstr!("cursor"), RawDocumentBuf::new());
        }
        let args = AggregateArgs::parse(call, &command).await?;
        return explain_aggregate(call, &command, args, verbosity).await;
    }
    let (ns, find) = reads(call, &command).await?;
    let deadline = call.deadline.clone();
    let explained = call.shared.documents.explain(&ns, find, deadline).await?;
    shown(&command, &explained, verbosity)
}

/// How an aggregation would run.
pub(crate) async fn explain_aggregate(
    call: &Call<'_>,
    command: &RawDocument,
    args: AggregateArgs,
    verbosity: &str,
) -> Result<RawDocumentBuf> {
    let deadline = call.deadline.clone();
    let explained = call
        .shared
        .documents
        .explain_aggregate(&args.ns, args.aggregate, deadline)
        .await?;
    // A pipeline that is a query altogether is explained as one.
    let only = match explained.get("stages")? {
        Some(RawBsonRef::Array(stages)) => {
            let mut stages = stages.into_iter();
            let first = stages.next().transpose()?;
            first.filter(|_| stages.next().is_none())
        }
        _ => None,
    };
    let query = match only {
        Some(RawBsonRef::Document(stage)) => stage.get("$cursor")?,
        _ => None,
    };
    match query {
        Some(RawBsonRef::Document(query)) => shown(command, query, verbosity),
        _ => shown(command, &explained, verbosity),
    }
}

/// An explanation as far as it was asked for, with what all of them tell.
fn shown(command: &RawDocument, explained: &RawDocument, verbosity: &str) -> Result<RawDocumentBuf> {
    let mut reply = RawDocumentBuf::new();
    for (name, value) in explained.iter().flatten() {
        if name.as_str() != "ok" && (name.as_str() != "executionStats" || verbosity != "queryPlanner") {
            reply.append(name, value);
        }
    }
    if reply.get("command")?.is_none() {
        reply.append(cstr!("command"), command);
    }
    if reply.get("serverInfo")?.is_none() {
        reply.append(
            cstr!("serverInfo"),
            rawdoc! { "version": super::diagnostics::VERSION },
        );
    }
    Ok(reply)
}

/// The query by which a command finds its documents.
async fn reads(call: &Call<'_>, command: &RawDocument) -> Result<(Namespace, Find)> {
    let name = command.iter().next().transpose()?.map(|(name, _)| name.as_str());
    let name = name.unwrap_or_default();
    if name == "find" {
        let args = FindArgs::parse(call, command).await?;
        return Ok((args.ns, args.find));
    }
    let ns = || call.namespace(&args::collection(name, command)?);
    let mut find = Find::default();
    match name {
        "count" | "distinct" | "findAndModify" | "findandmodify" => {
            if let Some(filter) = command.get("query")? {
                find.filter = args::maybe_document("query", filter)?.unwrap_or_default();
            }
        }
        "update" | "delete" => {
            let statements = if name == "update" { "updates" } else { "deletes" };
            let first = match command.get(statements)? {
                Some(value) => args::documents(statements, value)?.into_iter().next(),
                None => None,
            };
            if let Some(RawBsonRef::Document(filter)) =
                first.as_ref().map(|first| first.get("q")).transpose()?.flatten()
            {
                find.filter = filter.to_owned();
            }
        }
        name => {
            return Err(CommandError::new(
                Code::CommandNotFound,
                format!("Explain failed due to unknown command: {name}"),
            ));
        }
    }
    let ns = ns()?;
    if let Some(hint) = command.get("hint")? {
        find.hint = query::resolve_hint(call, &ns, hint).await?;
    }
    Ok((ns, find))
}
