//! `aggregate`, as far as a query can express it: leading `$match`, `$sort`, `$skip`, `$limit` and `$project`, and the
//! pipeline by which drivers count documents.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{Find, Namespace};

use super::{query, reply};
use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// MongoDB's stages: those that are not done here are told apart from those that nobody knows.
const KNOWN: &[&str] = &[
    "$addFields",
    "$bucket",
    "$bucketAuto",
    "$changeStream",
    "$changeStreamSplitLargeEvent",
    "$collStats",
    "$count",
    "$currentOp",
    "$densify",
    "$documents",
    "$facet",
    "$fill",
    "$geoNear",
    "$graphLookup",
    "$group",
    "$indexStats",
    "$limit",
    "$listLocalSessions",
    "$listSessions",
    "$lookup",
    "$match",
    "$merge",
    "$out",
    "$planCacheStats",
    "$project",
    "$redact",
    "$replaceRoot",
    "$replaceWith",
    "$sample",
    "$search",
    "$set",
    "$setWindowFields",
    "$skip",
    "$sort",
    "$sortByCount",
    "$unionWith",
    "$unset",
    "$unwind",
];

/// A pipeline as something that a query can do.
pub(crate) enum Plan {
    /// A query.
    Find(Find),
    /// `[{$match}, {$skip}, {$limit}, {$group: {_id: ANY CONSTANT, FIELD: {$sum: 1}}}]`.
    Count {
        find: Find,
        id: bson::RawBson,
        field: String,
    },
}

/// `aggregate`.
pub(crate) async fn aggregate(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = match body.iter().next().transpose()? {
        Some((_, RawBsonRef::String(collection))) => call.namespace(collection)?,
        _ => Namespace::new(call.db.clone(), "$cmd.aggregate"),
    };
    let (mut stages, mut batch, mut cursor) = (None, None, false);
    let mut hint = None;
    let mut args = Args::new("aggregate", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "pipeline" => stages = Some(args::documents("pipeline", value)?),
            "cursor" => {
                cursor = true;
                if let Some(size) = args::document("cursor", value)?.get("batchSize")? {
                    batch = Some(query::batch_size(size)?);
                }
            }
            "hint" => hint = Some(value),
            "collation" => args::collation(value)?,
            "let" => query::no_variables(&args, value)?,
            "explain" => {
                if args::flag("explain", value)? {
                    return Err(args.unsupported("explain"));
                }
            }
            "allowDiskUse" | "bypassDocumentValidation" | "fromMongos" | "needsMerge" => {
                args::flag(name, value)?;
            }
            name => return Err(args.unknown(name)),
        }
    }
    let stages = stages.ok_or_else(|| args::missing("aggregate", "pipeline"))?;
    if !cursor {
        return Err(CommandError::new(
            Code::FailedToParse,
            "The 'cursor' option is required, except for aggregate with the explain argument",
        ));
    }
    let mut plan = plan(&stages)?;
    if ns.collection.starts_with('$') {
        return Err(not_here("aggregate on a database"));
    }
    let (Plan::Find(find) | Plan::Count { find, .. }) = &mut plan;
    if let Some(hint) = hint {
        find.hint = query::resolve_hint(call, &ns, hint).await?;
    }
    match plan {
        Plan::Find(mut find) => {
            find.batch = batch;
            query::find_as(call, ns, find).await
        }
        Plan::Count { find, id, field } => {
            let documents = &call.shared.documents;
            let deadline = call.deadline.clone();
            let n = documents
                .count(&ns, find.filter, find.skip, find.limit, deadline)
                .await?;
            let mut rows = Vec::new();
            if n > 0 {
                let mut row = RawDocumentBuf::new();
                row.append(cstr!("_id"), id);
                if let Ok(field) = bson::raw::CString::try_from(field) {
                    row.append(field, reply::number(n));
                }
                rows.push(row);
            }
            reply::list(
                call,
                &ns,
                rows,
                batch.map(|batch| usize::try_from(batch).unwrap_or(usize::MAX)),
            )
        }
    }
}

/// The query that a pipeline amounts to.
///
/// # Errors
/// 40324 for a stage that nobody knows, `NotImplemented` for what a query can't do.
pub(crate) fn plan(stages: &[RawDocumentBuf]) -> Result<Plan> {
    let mut find = Find::default();
    // How far along match, sort, skip, limit, project the stages have come; a query does them in this order.
    let mut reached = 0;
    for (place, stage) in stages.iter().enumerate() {
        let mut fields = stage.iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return Err(CommandError::new(
                Code::Location40324,
                "A pipeline stage specification object must contain exactly one field.",
            ));
        };
        let (name, value) = field?;
        let name = name.as_str();
        let step = match name {
            "$match" => 0,
            "$sort" => 1,
            "$skip" => 2,
            "$limit" => 3,
            "$project" => 4,
            "$group" => 5,
            name if KNOWN.contains(&name) => return Err(not_here(name)),
            name => {
                let message = format!("Unrecognized pipeline stage name: '{name}'");
                return Err(CommandError::new(Code::Location40324, message));
            }
        };
        if step < reached || (step == reached && step > 0) {
            return Err(not_here(&format!("{name} after the stages before it")));
        }
        reached = step;
        match name {
            "$match" => add_match(&mut find, args::document("$match", value)?),
            "$sort" => find.sort = Some(args::document("$sort", value)?.to_owned()),
            "$skip" => find.skip = args::count("$skip", value)?,
            "$limit" => match args::count("$limit", value)? {
                0 => {
                    return Err(CommandError::new(Code::BadValue, "the limit must be positive"));
                }
                limit => find.limit = Some(limit),
            },
            "$project" => find.projection = Some(args::document("$project", value)?.to_owned()),
            _ => {
                let group = args::document("$group", value)?;
                let last = place + 1 == stages.len() && find.projection.is_none();
                let Some((id, field)) = count_of(group).filter(|_| last) else {
                    return Err(not_here("$group"));
                };
                return Ok(Plan::Count { find, id, field });
            }
        }
    }
    Ok(Plan::Find(find))
}

fn add_match(find: &mut Find, filter: &RawDocument) {
    find.filter = if find.filter.is_empty() {
        filter.to_owned()
    } else {
        rawdoc! { "$and": [find.filter.clone(), filter.to_owned()] }
    };
}

/// The parts of `{_id: CONSTANT, FIELD: {$sum: 1}}`.
fn count_of(group: &RawDocument) -> Option<(bson::RawBson, String)> {
    let mut fields = group.iter().map_while(Result::ok);
    let (first, id) = fields.next()?;
    let (field, sum) = fields.next()?;
    let constant = matches!(id, RawBsonRef::Null | RawBsonRef::Int32(_) | RawBsonRef::Int64(_));
    let one = sum.as_document()?.get("$sum").ok()??;
    let is_count = first.as_str() == "_id"
        && constant
        && fields.next().is_none()
        && args::integer("$sum", one).ok() == Some(1);
    is_count.then(|| (id.into(), field.as_str().to_owned()))
}

fn not_here(what: &str) -> CommandError {
    CommandError::new(Code::NotImplemented, format!("{what} is not supported"))
}
