//! createIndexes, listIndexes, dropIndexes.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{IndexSpec, Namespace};

use super::{catalog, query, reply};
use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// `createIndexes`.
pub(crate) async fn create(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut specs = None;
    let mut args = Args::new("createIndexes", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "indexes" => {
                let indexes = args::documents("createIndexes.indexes", value)?;
                let parsed = indexes.iter().map(|index| IndexSpec::parse(index));
                specs = Some(parsed.collect::<std::result::Result<Vec<_>, _>>()?);
            }
            "commitQuorum" | "ignoreUnknownIndexOptions" => {}
            name => return Err(args.unknown(name)),
        }
    }
    let specs = specs.ok_or_else(|| args::missing("createIndexes", "indexes"))?;
    if specs.is_empty() {
        return Err(CommandError::new(
            Code::BadValue,
            "Must specify at least one index to create",
        ));
    }
    let (before, made, after) = match &call.open {
        Some(transaction) => {
            let (before, made) = transaction.create_indexes(&ns, specs).await?;
            let after = i32::try_from(before.unwrap_or(1) + made).unwrap_or(i32::MAX);
            let before = before.map(|before| i32::try_from(before).unwrap_or(i32::MAX));
            (before, made, after)
        }
        None => {
            let before = count(call, &ns).await?;
            let made = call.shared.documents.create_indexes(&ns, specs).await?;
            (before, made, count(call, &ns).await?.unwrap_or(0))
        }
    };
    let mut reply = rawdoc! {
        // A collection that was made with them had its _id index first.
        "numIndexesBefore": before.unwrap_or(1),
        "numIndexesAfter": after,
        "createdCollectionAutomatically": before.is_none(),
    };
    if made == 0 {
        reply.append(cstr!("note"), "all indexes already exist");
    }
    Ok(reply)
}

/// How many indexes a collection has; none when it is not there.
async fn count(call: &Call<'_>, ns: &Namespace) -> Result<Option<i32>> {
    match call.shared.documents.list_indexes(ns).await {
        Ok(indexes) => Ok(Some(i32::try_from(indexes.len()).unwrap_or(i32::MAX))),
        Err(error) if error.code() == cloudlet_data::Code::NamespaceNotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `listIndexes`.
pub(crate) async fn list(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut batch = None;
    let mut args = Args::new("listIndexes", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "cursor" => batch = catalog::batch_of(args::document("cursor", value)?)?,
            "includeBuildUUIDs" | "includeIndexBuildInfo" => {}
            name => return Err(args.unknown(name)),
        }
    }
    let indexes = call.shared.documents.list_indexes(&ns).await?;
    let rows = indexes.iter().map(IndexSpec::to_document).collect();
    reply::list(call, &ns, rows, batch)
}

/// `dropIndexes`.
pub(crate) async fn drop_indexes(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut which = None;
    let mut args = Args::new("dropIndexes", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "index" => which = Some(value),
            name => return Err(args.unknown(name)),
        }
    }
    let which = which.ok_or_else(|| args::missing("dropIndexes", "index"))?;
    let documents = &call.shared.documents;
    let there = documents.list_indexes(&ns).await?;
    let names: Vec<Arc<str>> = match which {
        RawBsonRef::String("*") => there
            .iter()
            .map(|index| index.name.clone())
            .filter(|name| &**name != "_id_")
            .collect(),
        RawBsonRef::String(name) => vec![name.into()],
        RawBsonRef::Array(names) => names
            .into_iter()
            .map(|name| Ok(args::text("dropIndexes.index", name?)?.into()))
            .collect::<Result<_>>()?,
        RawBsonRef::Document(keys) => {
            let found = there
                .iter()
                .find(|index| query::same_keys(&index.key_pattern(), keys));
            let found = found
                .ok_or_else(|| CommandError::new(Code::IndexNotFound, "can't find index with these keys"))?;
            vec![found.name.clone()]
        }
        value => {
            args::text("dropIndexes.index", value)?;
            Vec::new()
        }
    };
    for name in &names {
        documents.drop_index(&ns, name).await?;
    }
    Ok(rawdoc! { "nIndexesWas": i32::try_from(there.len()).unwrap_or(i32::MAX) })
}
