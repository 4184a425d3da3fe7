//! createIndexes, listIndexes, dropIndexes.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{IndexSpec, Namespace, default_index_name};

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
                let parsed: Result<Vec<IndexSpec>> = indexes.iter().map(|index| spec(index)).collect();
                specs = Some(parsed?);
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
    let before = count(call, &ns).await?;
    let made = call.shared.documents.create_indexes(&ns, specs).await?;
    let after = count(call, &ns).await?.unwrap_or(0);
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

/// An index as drivers describe it.
fn spec(index: &RawDocument) -> Result<IndexSpec> {
    let mut keys: Option<Vec<(Arc<str>, i32)>> = None;
    let mut name: Option<Arc<str>> = None;
    let (mut unique, mut sparse) = (false, false);
    let refuse = |option: &str| {
        Err(CommandError::new(
            Code::CommandNotSupported,
            format!("indexes with '{option}' are not supported"),
        ))
    };
    for field in index {
        let (option, value) = field?;
        match option.as_str() {
            "key" => keys = Some(parse_keys(args::document("key", value)?)?),
            "name" => name = Some(args::text("name", value)?.into()),
            "unique" => unique = args::flag("unique", value)?,
            "sparse" => sparse = args::flag("sparse", value)?,
            "hidden" | "prepareUnique" => {
                if args::flag(option.as_str(), value)? {
                    return refuse(option.as_str());
                }
            }
            "collation" => args::collation(value)?,
            "v" | "background" | "ns" | "dropDups" | "storageEngine" | "clustered" => {}
            option @ ("expireAfterSeconds"
            | "partialFilterExpression"
            | "weights"
            | "default_language"
            | "language_override"
            | "textIndexVersion"
            | "2dsphereIndexVersion"
            | "bits"
            | "min"
            | "max"
            | "bucketSize"
            | "wildcardProjection") => return refuse(option),
            option => {
                return Err(CommandError::new(
                    Code::InvalidIndexSpecificationOption,
                    format!("The field '{option}' is not valid for an index specification"),
                ));
            }
        }
    }
    let keys = keys.ok_or_else(|| args::missing("createIndexes.indexes", "key"))?;
    let name = name.unwrap_or_else(|| default_index_name(&keys));
    Ok(IndexSpec {
        name,
        keys,
        unique,
        sparse,
    })
}

fn parse_keys(keys: &RawDocument) -> Result<Vec<(Arc<str>, i32)>> {
    let mut parsed = Vec::new();
    for field in keys {
        let (path, value) = field?;
        let path = path.as_str();
        let direction = match value {
            RawBsonRef::Int32(n) => f64::from(n),
            RawBsonRef::Int64(n) => n as f64,
            RawBsonRef::Double(n) => n,
            RawBsonRef::String(kind) => {
                return Err(CommandError::new(
                    Code::CommandNotSupported,
                    format!("indexes of type \"{kind}\" are not supported"),
                ));
            }
            _ => {
                return Err(CommandError::new(
                    Code::CannotCreateIndex,
                    format!("Values in the index key pattern must be numbers; \"{path}\" has another type"),
                ));
            }
        };
        if path.contains("$**") {
            return Err(CommandError::new(
                Code::CommandNotSupported,
                "wildcard indexes are not supported",
            ));
        }
        if direction == 0.0 || direction.is_nan() {
            return Err(CommandError::new(
                Code::CannotCreateIndex,
                "Values in the index key pattern cannot be 0.",
            ));
        }
        parsed.push((path.into(), if direction > 0.0 { 1 } else { -1 }));
    }
    if parsed.is_empty() {
        return Err(CommandError::new(
            Code::CannotCreateIndex,
            "Index keys cannot be an empty object",
        ));
    }
    Ok(parsed)
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
    let rows = indexes.iter().map(shown).collect();
    reply::list(call, &ns, rows, batch)
}

fn shown(index: &IndexSpec) -> RawDocumentBuf {
    let mut key = RawDocumentBuf::new();
    for (path, direction) in &index.keys {
        if let Ok(path) = bson::raw::CString::try_from(path.to_string()) {
            key.append(path, *direction);
        }
    }
    let mut row = rawdoc! { "v": 2, "key": key, "name": &*index.name };
    // The index on _id is unique without saying so.
    if index.unique && &*index.name != "_id_" {
        row.append(cstr!("unique"), true);
    }
    if index.sparse {
        row.append(cstr!("sparse"), true);
    }
    row
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
            let found = there.iter().find(|index| query::same_keys(&index.keys, keys));
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
