//! What the node remembers of apps: the collections `apps` and `deployments` of the database `/node`.
//!
//! `apps`: `{_id: APP, app, active, latest}`. `deployments`: `{_id: "APP/N", app, number, manifest, env, components:
//! [{function, hash}], site: [{path, hash, size, contentType}], created, hash, by}`. Lists of pairs instead of
//! tables, because paths and names have dots, which field names may not.

use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, Deadline, DeploymentId};
use cloudlet_data::{
    Code, Delete, DeleteOne, Documents, Error, Find, IndexSpec, Insert, Namespace, Update, UpdateOne, Write,
};
use serde::{Deserialize, Serialize};

/// Deployments kept for each app, besides the active one.
pub(crate) const KEPT: u64 = 10;
/// Documents in one page of what is read here.
const PAGE: u32 = 1000;

/// An app's pointers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AppRecord {
    pub(crate) app: String,
    /// The number of the active deployment.
    pub(crate) active: i64,
    /// The highest number given out.
    pub(crate) latest: i64,
}

/// An immutable, numbered version of a whole app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Deployment {
    /// `APP/NUMBER`.
    #[serde(rename = "_id")]
    pub(crate) id: String,
    pub(crate) app: String,
    pub(crate) number: i64,
    pub(crate) manifest: String,
    pub(crate) env: Option<String>,
    pub(crate) components: Vec<ComponentEntry>,
    pub(crate) site: Vec<SiteEntry>,
    pub(crate) created: bson::DateTime,
    /// Hash of everything above but number and time: equal for equal deployments.
    pub(crate) hash: String,
    /// The admin key that deployed it.
    pub(crate) by: String,
}

/// A function's component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ComponentEntry {
    pub(crate) function: String,
    pub(crate) hash: String,
}

/// A file of a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SiteEntry {
    /// Absolute, e.g. `/index.html`.
    pub(crate) path: String,
    pub(crate) hash: String,
    pub(crate) size: i64,
    pub(crate) content_type: String,
}

/// A deployment as listed.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) number: i64,
    pub(crate) env: Option<String>,
    pub(crate) components: Vec<ComponentEntry>,
    pub(crate) created: bson::DateTime,
    pub(crate) hash: String,
    pub(crate) by: String,
}

fn apps() -> Namespace {
    Namespace::new("/node", "apps")
}

fn deployments() -> Namespace {
    Namespace::new("/node", "deployments")
}

/// All documents of a query, page by page. For the node's own collections, which are small.
pub(crate) async fn find_all(
    documents: &dyn Documents,
    ns: &Namespace,
    find: Find,
) -> Result<Vec<RawDocumentBuf>, Error> {
    let mut page = documents
        .find(
            ns,
            Find {
                batch: Some(PAGE),
                ..find
            },
            Deadline::NEVER,
        )
        .await?;
    let mut all = page.documents;
    while let Some(cursor) = page.cursor {
        page = documents.next_page(cursor, Some(PAGE), Deadline::NEVER).await?;
        all.append(&mut page.documents);
    }
    Ok(all)
}

fn read<T: serde::de::DeserializeOwned>(document: &RawDocumentBuf) -> Result<T, Error> {
    bson::deserialize_from_slice(document.as_bytes()).map_err(|error| {
        Error::new(
            Code::InternalError,
            format!("a record of the node can't be read: {error}"),
        )
    })
}

fn write<T: Serialize>(value: &T) -> Result<RawDocumentBuf, Error> {
    bson::serialize_to_raw_document_buf(value).map_err(|error| {
        Error::new(
            Code::InternalError,
            format!("a record of the node can't be written: {error}"),
        )
    })
}

/// Makes the indexes that the queries here use.
pub(crate) async fn prepare(documents: &dyn Documents) -> Result<(), Error> {
    let keys = vec![("app".into(), 1), ("number".into(), -1)];
    let index = IndexSpec {
        name: cloudlet_data::default_index_name(&keys),
        keys,
        unique: false,
        sparse: false,
        ..IndexSpec::default()
    };
    documents.create_indexes(&deployments(), vec![index]).await?;
    Ok(())
}

/// The record of every app, by name.
pub(crate) async fn all_apps(documents: &dyn Documents) -> Result<Vec<AppRecord>, Error> {
    let find = Find {
        sort: Some(rawdoc! { "_id": 1 }),
        ..Find::default()
    };
    let found = find_all(documents, &apps(), find).await?;
    found.iter().map(read).collect()
}

/// The record of one app.
pub(crate) async fn app(documents: &dyn Documents, app: &AppId) -> Result<Option<AppRecord>, Error> {
    let find = Find {
        filter: rawdoc! { "_id": app.as_str() },
        limit: Some(1),
        ..Find::default()
    };
    let found = find_all(documents, &apps(), find).await?;
    found.first().map(read).transpose()
}

/// One deployment, whole.
pub(crate) async fn deployment(
    documents: &dyn Documents,
    app: &AppId,
    number: DeploymentId,
) -> Result<Option<Deployment>, Error> {
    let find = Find {
        filter: rawdoc! { "_id": format!("{app}/{number}") },
        limit: Some(1),
        ..Find::default()
    };
    let found = find_all(documents, &deployments(), find).await?;
    found.first().map(read).transpose()
}

/// The kept deployments of an app, newest first.
pub(crate) async fn summaries(documents: &dyn Documents, app: &AppId) -> Result<Vec<Summary>, Error> {
    let find = Find {
        filter: rawdoc! { "app": app.as_str() },
        sort: Some(rawdoc! { "number": -1 }),
        projection: Some(rawdoc! { "manifest": 0, "site": 0 }),
        ..Find::default()
    };
    let found = find_all(documents, &deployments(), find).await?;
    found.iter().map(read).collect()
}

/// Records a deployment and makes it the active one, in one transaction; old ones go in the same. `active` is the
/// number that was active until now, which is kept.
///
/// # Errors
/// `DuplicateKey` when another deployment took the number in the meantime; nothing was written then.
pub(crate) async fn commit(
    documents: &dyn Documents,
    deployment: &Deployment,
    active: Option<i64>,
) -> Result<(), Error> {
    let number = deployment.number;
    let record = write(deployment)?;
    let oldest = number - i64::try_from(KEPT).unwrap_or(i64::MAX);
    let mut prune = rawdoc! { "app": deployment.app.as_str() };
    let kept = active.unwrap_or(number);
    prune.append(bson::raw::cstr!("number"), rawdoc! { "$lt": oldest, "$ne": kept });
    let writes = vec![
        Write::Insert(
            deployments(),
            Insert {
                documents: vec![record],
                ordered: true,
                ..Insert::default()
            },
        ),
        Write::Update(
            apps(),
            set_app(
                &deployment.app,
                rawdoc! { "app": deployment.app.as_str(), "active": number, "latest": number },
                true,
            ),
        ),
        Write::Delete(
            deployments(),
            Delete {
                statements: vec![DeleteOne {
                    filter: prune,
                    multi: true,
                    ..DeleteOne::default()
                }],
                ordered: true,
            },
        ),
    ];
    documents.transact(writes, Deadline::NEVER).await?;
    Ok(())
}

/// Makes a recorded deployment the active one.
pub(crate) async fn point(documents: &dyn Documents, app: &AppId, number: DeploymentId) -> Result<(), Error> {
    let number = i64::try_from(number.0).unwrap_or(i64::MAX);
    let update = set_app(app.as_str(), rawdoc! { "active": number }, false);
    documents
        .transact(vec![Write::Update(apps(), update)], Deadline::NEVER)
        .await?;
    Ok(())
}

fn set_app(app: &str, set: RawDocumentBuf, upsert: bool) -> Update {
    Update {
        statements: vec![UpdateOne {
            filter: rawdoc! { "_id": app },
            update: rawdoc! { "$set": set },
            multi: false,
            upsert,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    }
}
