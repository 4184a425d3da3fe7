//! Databases and collections: drop, rename, list. `collection` makes and changes them.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{CollectionInfo, Namespace, retain_matching};

use super::reply;
use crate::args::{self, Args};
use crate::call::{Call, check_database};
use crate::error::{Code, CommandError, Result};
use crate::profile::{self, Level};
use crate::roles::Need;
use crate::users::uuid;

/// `drop`.
pub(crate) async fn drop_collection(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    if &*ns.collection == profile::COLLECTION && call.shared.profiler.of(&call.db).0 != Level::Off {
        return Err(CommandError::new(
            Code::IllegalOperation,
            "turn off profiling before dropping system.profile collection",
        ));
    }
    let documents = &call.shared.documents;
    let indexes = match documents.list_indexes(&ns).await {
        Ok(indexes) => Some(indexes.len()),
        // What is not there, or a view.
        Err(error)
            if matches!(
                error.code(),
                cloudlet_data::Code::NamespaceNotFound | cloudlet_data::Code::CommandNotSupportedOnView
            ) =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    let mut reply = RawDocumentBuf::new();
    if documents.drop_collection(&ns).await? {
        if let Some(indexes) = indexes {
            reply.append(cstr!("nIndexesWas"), i32::try_from(indexes).unwrap_or(i32::MAX));
        }
        reply.append(cstr!("ns"), ns.to_string());
    }
    Ok(reply)
}

/// `dropDatabase`.
pub(crate) async fn drop_database(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    call.shared.profiler.set_level(&call.db, Level::Off)?;
    call.shared.documents.drop_database(&call.db).await?;
    Ok(rawdoc! { "dropped": &*call.db })
}

/// `renameCollection`.
pub(crate) async fn rename(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    if &*call.db != "admin" {
        return Err(CommandError::new(
            Code::Unauthorized,
            "renameCollection may only be run against the admin database.",
        ));
    }
    let from = match body.iter().next().transpose()? {
        Some((_, value)) => full_name("renameCollection", value)?,
        None => return Err(args::missing("renameCollection", "renameCollection")),
    };
    let (mut to, mut drop_target) = (None, false);
    let mut args = Args::new("renameCollection", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "to" => to = Some(full_name("to", value)?),
            "dropTarget" => drop_target = args::flag("dropTarget", value)?,
            "stayTemp" => {}
            name => return Err(args.unknown(name)),
        }
    }
    let to = to.ok_or_else(|| args::missing("renameCollection", "to"))?;
    call.require(Need::Write, &from.database)?;
    call.require(Need::Write, &to.database)?;
    call.shared
        .documents
        .rename_collection(&from, &to, drop_target)
        .await?;
    Ok(RawDocumentBuf::new())
}

fn full_name(name: &str, value: RawBsonRef<'_>) -> Result<Namespace> {
    let text = args::text(name, value)?;
    let (database, collection) = text.split_once('.').unwrap_or((text, ""));
    check_database(database)?;
    if collection.is_empty() {
        let message = format!("Invalid namespace specified '{text}'");
        return Err(CommandError::new(Code::InvalidNamespace, message));
    }
    Ok(Namespace::new(database, collection))
}

/// `listCollections`.
pub(crate) async fn list_collections(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let (mut filter, mut name_only, mut batch) = (None, false, None);
    let mut args = Args::new("listCollections", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "filter" => filter = args::maybe_document("filter", value)?.map(without_lookahead),
            "nameOnly" => name_only = args::flag("nameOnly", value)?,
            "cursor" => batch = batch_of(args::document("cursor", value)?)?,
            "authorizedCollections" => {}
            name => return Err(args.unknown(name)),
        }
    }
    let all = call.shared.documents.describe_collections(&call.db).await?;
    let mut rows: Vec<RawDocumentBuf> = all.iter().map(row).collect();
    if let Some(filter) = filter {
        retain_matching(&filter, &mut rows)?;
    }
    if name_only {
        for row in &mut rows {
            *row = rawdoc! {
                "name": row.get_str("name").unwrap_or_default(),
                "type": row.get_str("type").unwrap_or_default(),
            };
        }
    }
    let ns = Namespace::new(call.db.clone(), "$cmd.listCollections");
    reply::list(call, &ns, rows, batch)
}

/// `checkMetadataConsistency`: what a cluster's members say of collections that does not agree. Here one catalog says
/// it all, so that a sound argument is answered by an empty list.
pub(crate) async fn check_metadata(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let mut batch = None;
    let mut args = Args::new("checkMetadataConsistency", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "cursor" => batch = batch_of(args::document("cursor", value)?)?,
            "checkIndexes" => drop(args::flag("checkIndexes", value)?),
            name => return Err(args.unknown(name)),
        }
    }
    let ns = match body.iter().next().transpose()? {
        Some((_, RawBsonRef::String(collection))) => {
            let ns = call.namespace(collection)?;
            call.shared.documents.collection_options(&ns).await?;
            ns
        }
        _ => Namespace::new(call.db.clone(), "$cmd.aggregate"),
    };
    reply::list(call, &ns, Vec::new(), batch)
}

/// A collection as it is listed.
fn row(collection: &CollectionInfo) -> RawDocumentBuf {
    if let Some(view) = &collection.view {
        return rawdoc! {
            "name": &*collection.name,
            "type": "view",
            "options": view.to_document(),
            "info": { "readOnly": true },
        };
    }
    let mut info = rawdoc! { "readOnly": false };
    if let Some(bytes) = collection.uuid {
        info.append(cstr!("uuid"), uuid(bytes));
    }
    let is_series = collection.options.time_series.is_some();
    let mut row = rawdoc! {
        "name": &*collection.name,
        "type": if is_series { "timeseries" } else { "collection" },
        "options": collection.options.to_document(),
        "info": info,
    };
    // One that has a clustered index says it there, and a time series has none.
    if collection.options.clustered.is_none() && !is_series {
        let mut index = rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
        if let Some(collation) = &collection.options.collation {
            index.append(cstr!("collation"), collation.as_ref());
        }
        row.append(cstr!("idIndex"), index);
    }
    row
}

/// The filter by which tools leave out the system's collections, `{name: /^(?!system\.)/}`, without the lookahead that
/// the engine's regular expressions lack.
fn without_lookahead(filter: RawDocumentBuf) -> RawDocumentBuf {
    const PATTERN: &str = "^(?!system\\.)";
    let mut plain = RawDocumentBuf::new();
    for (name, value) in filter.iter().flatten() {
        let pattern = match value {
            RawBsonRef::RegularExpression(regex) if regex.options.is_empty() => Some(regex.pattern.as_str()),
            RawBsonRef::Document(operators) if operators.iter().count() == 1 => {
                operators.get_str("$regex").ok()
            }
            _ => None,
        };
        if name.as_str() == "name" && pattern == Some(PATTERN) {
            let system = bson::Regex {
                pattern: cstr!("^system\\.").to_owned(),
                options: cstr!("").to_owned(),
            };
            plain.append(name, rawdoc! { "$not": system });
        } else {
            plain.append(name, value);
        }
    }
    plain
}

/// `{batchSize}` of a cursor option.
pub(crate) fn batch_of(cursor: &RawDocument) -> Result<Option<usize>> {
    let Some(size) = cursor.get("batchSize")? else {
        return Ok(None);
    };
    Ok(Some(
        usize::try_from(args::count("batchSize", size)?).unwrap_or(usize::MAX),
    ))
}

/// `listDatabases`: those that the caller may read.
pub(crate) async fn list_databases(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let (mut filter, mut name_only) = (None, false);
    let mut args = Args::new("listDatabases", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "filter" => filter = args::maybe_document("filter", value)?,
            "nameOnly" => name_only = args::flag("nameOnly", value)?,
            "authorizedDatabases" => {}
            name => return Err(args.unknown(name)),
        }
    }
    if &*call.db != "admin" {
        return Err(CommandError::new(
            Code::Unauthorized,
            "listDatabases may only be run against the admin database.",
        ));
    }
    let names = call.shared.documents.list_databases().await?;
    let mut rows = Vec::new();
    let mut total = 0;
    for name in names {
        // The platform's own have names that no driver may use.
        if check_database(&name).is_err() || !call.may(Need::Read, &name) {
            continue;
        }
        let bytes = super::stats::database_bytes(call, &name, name_only).await?;
        total += bytes;
        rows.push(rawdoc! { "name": &*name, "sizeOnDisk": bytes, "empty": false });
    }
    if let Some(filter) = filter {
        retain_matching(&filter, &mut rows)?;
    }
    let mut databases = bson::RawArrayBuf::new();
    for row in rows {
        if name_only {
            databases.push(rawdoc! { "name": row.get_str("name").unwrap_or_default() });
        } else {
            databases.push(row);
        }
    }
    let mut reply = rawdoc! { "databases": databases };
    if !name_only {
        reply.append(cstr!("totalSize"), total);
        reply.append(cstr!("totalSizeMb"), total / 1_048_576);
    }
    Ok(reply)
}
