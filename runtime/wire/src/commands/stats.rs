//! dbStats, collStats, validate. Sizes are those of the documents as BSON, counted by reading them: nothing keeps a
//! running total, so these commands take as long as a scan.

use bson::{RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{Find, Namespace};

use crate::args;
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// Documents and bytes of a collection.
#[derive(Default, Clone, Copy)]
struct Sizes {
    documents: i64,
    bytes: i64,
    indexes: i64,
}

impl Sizes {
    fn average(self) -> f64 {
        if self.documents == 0 {
            return 0.0;
        }
        self.bytes as f64 / self.documents as f64
    }
}

async fn sizes(call: &Call<'_>, ns: &Namespace) -> Result<Sizes> {
    let documents = &call.shared.documents;
    let indexes = match documents.list_indexes(ns).await {
        Ok(indexes) => i64::try_from(indexes.len()).unwrap_or(i64::MAX),
        Err(error) if error.code() == cloudlet_data::Code::NamespaceNotFound => return Ok(Sizes::default()),
        Err(error) => return Err(error.into()),
    };
    let mut sizes = Sizes {
        indexes,
        ..Sizes::default()
    };
    let find = Find {
        batch: Some(10_000),
        ..Find::default()
    };
    let mut page = documents.find(ns, find, call.deadline.clone()).await?;
    loop {
        for document in &page.documents {
            sizes.documents += 1;
            sizes.bytes += i64::try_from(document.as_bytes().len()).unwrap_or(i64::MAX);
        }
        let Some(cursor) = page.cursor else {
            return Ok(sizes);
        };
        page = documents
            .next_page(cursor, Some(10_000), call.deadline.clone())
            .await?;
    }
}

/// Bytes of a database's documents; 0 unread when only names are asked for.
pub(crate) async fn database_bytes(call: &Call<'_>, db: &str, name_only: bool) -> Result<i64> {
    let mut bytes = 0;
    if !name_only {
        for name in call.shared.documents.list_collections(db).await? {
            bytes += sizes(call, &Namespace::new(db, name)).await?.bytes;
        }
    }
    Ok(bytes)
}

fn scale(body: &bson::RawDocument) -> Result<i64> {
    let scale = body
        .get("scale")?
        .map_or(Ok(1), |value| args::integer("scale", value))?;
    if scale < 1 {
        return Err(CommandError::new(Code::BadValue, "scale has to be >= 1"));
    }
    Ok(scale)
}

/// `dbStats`.
pub(crate) async fn db_stats(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let scale = scale(&body)?;
    let names = call.shared.documents.list_collections(&call.db).await?;
    let described = call.shared.documents.describe_collections(&call.db).await?;
    let views = described.iter().filter(|one| one.view.is_some()).count();
    let views = i64::try_from(views).unwrap_or(i64::MAX);
    let mut all = Sizes::default();
    for name in &names {
        let one = sizes(call, &Namespace::new(call.db.clone(), name.clone())).await?;
        all.documents += one.documents;
        all.bytes += one.bytes;
        all.indexes += one.indexes;
    }
    Ok(rawdoc! {
        "db": &*call.db,
        "collections": i64::try_from(names.len()).unwrap_or(i64::MAX),
        "views": views,
        "objects": all.documents,
        "avgObjSize": all.average(),
        "dataSize": (all.bytes / scale) as f64,
        "storageSize": (all.bytes / scale) as f64,
        "indexes": all.indexes,
        "indexSize": 0.0,
        "totalSize": (all.bytes / scale) as f64,
        "scaleFactor": scale as f64,
    })
}

/// `collStats`.
pub(crate) async fn coll_stats(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let scale = scale(&body)?;
    let found = sizes(call, &ns).await?;
    let capped = match call.shared.documents.collection_options(&ns).await {
        Ok(options) => options.capped,
        Err(error) if error.code() == cloudlet_data::Code::NamespaceNotFound => None,
        Err(error) => return Err(error.into()),
    };
    let mut reply = rawdoc! {
        "ns": ns.to_string(),
        "size": found.bytes / scale,
        "count": found.documents,
        "storageSize": found.bytes / scale,
        "totalIndexSize": 0_i64,
        "totalSize": found.bytes / scale,
        "nindexes": i32::try_from(found.indexes).unwrap_or(i32::MAX),
        "indexDetails": {},
        "indexSizes": {},
        "capped": capped.is_some(),
        "scaleFactor": scale,
    };
    if let Some(capped) = capped {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        reply.append(cstr!("max"), number(capped.max.unwrap_or(0)));
        reply.append(cstr!("maxSize"), number(capped.size) / scale);
    }
    if found.documents > 0 {
        reply.append(cstr!("avgObjSize"), found.bytes / found.documents);
    }
    Ok(reply)
}

/// `fsync`: every write that was answered is on disk already. Locking is another matter.
pub(crate) fn fsync(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let lock = body
        .get("lock")?
        .map_or(Ok(false), |flag| args::flag("lock", flag))?;
    if lock {
        return Err(CommandError::new(
            Code::CommandNotSupported,
            "'fsync' with 'lock' is not supported",
        ));
    }
    Ok(rawdoc! { "numFiles": 1 })
}

/// `validate`: reads the collection whole. That documents and indexes agree is checked by `cloudlet doctor`.
pub(crate) async fn validate(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let flag = |name: &str| body.get(name)?.map_or(Ok(false), |flag| args::flag(name, flag));
    if flag("full")? && flag("background")? {
        return Err(CommandError::new(
            Code::InvalidOptions,
            "Running the validate command with both { background: true } and { full: true } is not supported.",
        ));
    }
    // Unlike the others it is an error on a collection that is not there.
    let indexes = call.shared.documents.list_indexes(&ns).await.map_err(|error| {
        if error.code() == cloudlet_data::Code::NamespaceNotFound {
            let message = format!("Collection '{ns}' does not exist to validate.");
            return CommandError::new(Code::NamespaceNotFound, message);
        }
        error.into()
    })?;
    let found = sizes(call, &ns).await?;
    let mut keys = RawDocumentBuf::new();
    for index in &indexes {
        if let Ok(name) = bson::raw::CString::try_from(index.name.to_string()) {
            keys.append(name, found.documents);
        }
    }
    Ok(rawdoc! {
        "ns": ns.to_string(),
        "nInvalidDocuments": 0,
        "nrecords": found.documents,
        "nIndexes": i32::try_from(indexes.len()).unwrap_or(i32::MAX),
        "keysPerIndex": keys,
        "valid": true,
        "warnings": [],
        "errors": [],
    })
}
