//! What the node remembers of apps: the collections `apps` and `deployments` of the database `/node`.
//!
//! `apps`: `{_id: APP, app, active, latest, split: {seed, shares: [{deployment, percent}]} or null, revision, changed,
//! by}`. `deployments`: `{_id: "APP/N", app, number, manifest, env, components: [{function, hash}], site: [{path, hash,
//! size, contentType}], created, hash, by, staged, pinned}`. Lists of pairs instead of tables, because paths and names
//! have dots, which field names may not. Records of earlier builds lack `split` and what comes after it, `staged` and
//! `pinned`.

use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, ContentHash, Deadline, DeploymentId};
use cloudlet_data::{
    Code, Delete, DeleteOne, Documents, Error, Find, IndexSpec, Insert, Namespace, Update, UpdateOne, Write,
};
use serde::{Deserialize, Serialize};

/// Documents in one page of what is read here.
const PAGE: u32 = 1000;
/// Whole deployments in one page: each may have megabytes.
const DEPLOYMENTS_PAGE: u32 = 8;
/// Pinned deployments of one app.
pub(crate) const PINNED_MAX: usize = 100;

/// An app's pointers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AppRecord {
    pub(crate) app: String,
    /// The number of the active deployment.
    pub(crate) active: i64,
    /// The highest number given out.
    pub(crate) latest: i64,
    /// What other deployments serve beside the active one.
    #[serde(default)]
    pub(crate) split: Option<SplitRecord>,
    /// Counts the changes of `active` and `split`.
    #[serde(default)]
    pub(crate) revision: i64,
    /// When the last of them was.
    #[serde(default)]
    pub(crate) changed: Option<bson::DateTime>,
    /// The admin key that made it.
    #[serde(default)]
    pub(crate) by: String,
}

impl AppRecord {
    /// The numbers of the deployments that serve requests, the active one first.
    pub(crate) fn serving(&self) -> Vec<i64> {
        let shares = self.split.iter().flat_map(|split| &split.shares);
        std::iter::once(self.active)
            .chain(shares.map(|share| share.deployment))
            .collect()
    }

    /// What each of them serves, in percent, the active one first.
    pub(crate) fn traffic(&self) -> Vec<Share> {
        traffic(self.active, self.split.as_ref())
    }
}

/// What each deployment serves, in percent, the active one first.
pub(crate) fn traffic(active: i64, split: Option<&SplitRecord>) -> Vec<Share> {
    let shares = split.map(|split| split.shares.clone()).unwrap_or_default();
    let rest = shares
        .iter()
        .fold(100_u8, |rest, share| rest.saturating_sub(share.percent));
    let active = Share {
        deployment: active,
        percent: rest,
    };
    std::iter::once(active).chain(shares).collect()
}

/// The deployments that serve part of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SplitRecord {
    /// Chosen when the split begins and kept while its shares change, so that users stay where they are.
    pub(crate) seed: i64,
    /// Highest number first.
    pub(crate) shares: Vec<Share>,
}

/// A deployment's part of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    pub(crate) deployment: i64,
    pub(crate) percent: u8,
}

/// Where an app's requests are to go from now on.
#[derive(Debug, Clone)]
pub(crate) struct Pointers {
    pub(crate) active: i64,
    pub(crate) split: Option<SplitRecord>,
    /// The revision that this makes.
    pub(crate) revision: i64,
    pub(crate) changed: bson::DateTime,
    pub(crate) by: String,
}

impl Pointers {
    fn fields(&self) -> Result<RawDocumentBuf, Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            active: i64,
            split: &'a Option<SplitRecord>,
            revision: i64,
            changed: bson::DateTime,
            by: &'a str,
        }
        write(&Fields {
            active: self.active,
            split: &self.split,
            revision: self.revision,
            changed: self.changed,
            by: &self.by,
        })
    }
}

/// Which old deployments go.
#[derive(Debug, Clone)]
pub(crate) struct Prune {
    /// Numbers below this one go, if they are also older than `before`.
    pub(crate) below: i64,
    /// Creation; without it the number alone decides.
    pub(crate) before: Option<bson::DateTime>,
    /// Numbers below this one go, whatever their age.
    pub(crate) below_any_age: i64,
    /// These stay; so do pinned ones.
    pub(crate) keep: Vec<i64>,
}

impl Prune {
    fn delete(&self, app: &str) -> Delete {
        let old = match self.before {
            None => rawdoc! { "number": { "$lt": self.below } },
            Some(before) => rawdoc! { "number": { "$lt": self.below }, "created": { "$lt": before } },
        };
        let keep = self.keep.iter().copied().map(bson::RawBson::Int64);
        let filter = rawdoc! {
            "app": app,
            "number": { "$nin": bson::RawArrayBuf::from_iter(keep) },
            "pinned": { "$ne": true },
            "$or": [old, { "number": { "$lt": self.below_any_age } }],
        };
        Delete {
            statements: vec![DeleteOne {
                filter,
                multi: true,
                ..DeleteOne::default()
            }],
            ordered: true,
        }
    }
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
    /// Whether it never was the active one.
    #[serde(default)]
    pub(crate) staged: bool,
    /// Whether it is kept however old it is.
    #[serde(default)]
    pub(crate) pinned: bool,
}

impl Deployment {
    /// Gives it its number.
    pub(crate) fn renumber(&mut self, number: i64) {
        self.number = number;
        self.id = format!("{}/{number}", self.app);
    }
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
    #[serde(default)]
    pub(crate) staged: bool,
    #[serde(default)]
    pub(crate) pinned: bool,
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

/// What a document of the node's own collections says.
///
/// # Errors
/// When it says something else.
pub(crate) fn read<T: serde::de::DeserializeOwned>(document: &RawDocumentBuf) -> Result<T, Error> {
    bson::deserialize_from_slice(document.as_bytes()).map_err(|error| {
        Error::new(
            Code::InternalError,
            format!("a record of the node can't be read: {error}"),
        )
    })
}

/// The document of a record.
///
/// # Errors
/// When it can't be one.
pub(crate) fn write<T: Serialize>(value: &T) -> Result<RawDocumentBuf, Error> {
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

/// Calls `visit` with every content that a recorded deployment of any app needs.
pub(crate) async fn each_content(
    documents: &dyn Documents,
    mut visit: impl FnMut(ContentHash, Content),
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Hashed {
        hash: String,
    }
    #[derive(Deserialize)]
    struct Contents {
        components: Vec<Hashed>,
        site: Vec<Hashed>,
    }
    let find = Find {
        projection: Some(rawdoc! { "components.hash": 1, "site.hash": 1 }),
        batch: Some(DEPLOYMENTS_PAGE),
        ..Find::default()
    };
    let mut page = documents.find(&deployments(), find, Deadline::NEVER).await?;
    loop {
        for document in &page.documents {
            let contents: Contents = read(document)?;
            let components = contents.components.iter().map(|c| (&c.hash, Content::Component));
            let files = contents.site.iter().map(|f| (&f.hash, Content::File));
            for (hash, kind) in components.chain(files) {
                if let Ok(hash) = hash.parse() {
                    visit(hash, kind);
                }
            }
        }
        let Some(cursor) = page.cursor else { return Ok(()) };
        page = documents
            .next_page(cursor, Some(DEPLOYMENTS_PAGE), Deadline::NEVER)
            .await?;
    }
}

/// What a content is to a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A function's component.
    Component,
    /// A file of a site.
    File,
}

/// Records a deployment, in one transaction with where requests go from then on (nothing changes there without) and
/// with the end of old deployments.
///
/// # Errors
/// `DuplicateKey` when another deployment took the number in the meantime; nothing was written then.
pub(crate) async fn commit(
    documents: &dyn Documents,
    deployment: &Deployment,
    pointers: Option<&Pointers>,
    prune: &Prune,
) -> Result<(), Error> {
    let app = deployment.app.as_str();
    let mut set = rawdoc! { "app": app, "latest": deployment.number };
    if let Some(pointers) = pointers {
        append(&mut set, &pointers.fields()?)?;
    }
    let insert = Insert {
        documents: vec![write(deployment)?],
        ordered: true,
        ..Insert::default()
    };
    let writes = vec![
        Write::Insert(deployments(), insert),
        Write::Update(apps(), set_one(app, set, true)),
        Write::Delete(deployments(), prune.delete(app)),
    ];
    documents.transact(writes, Deadline::NEVER).await?;
    Ok(())
}

/// Changes where an app's requests go. The deployment that becomes the active one is not `staged` any more.
pub(crate) async fn point(documents: &dyn Documents, app: &AppId, pointers: &Pointers) -> Result<(), Error> {
    let active = format!("{app}/{}", pointers.active);
    let writes = vec![
        Write::Update(apps(), set_one(app.as_str(), pointers.fields()?, false)),
        Write::Update(
            deployments(),
            set_one(&active, rawdoc! { "staged": false }, false),
        ),
    ];
    documents.transact(writes, Deadline::NEVER).await?;
    Ok(())
}

/// Keeps a deployment however old it is, or no longer.
pub(crate) async fn pin(
    documents: &dyn Documents,
    app: &AppId,
    number: i64,
    pinned: bool,
) -> Result<(), Error> {
    let update = set_one(&format!("{app}/{number}"), rawdoc! { "pinned": pinned }, false);
    let writes = vec![Write::Update(deployments(), update)];
    documents.transact(writes, Deadline::NEVER).await?;
    Ok(())
}

/// Removes old deployments; gives their number.
pub(crate) async fn prune(documents: &dyn Documents, app: &AppId, prune: &Prune) -> Result<u64, Error> {
    let before = summaries(documents, app).await?.len();
    let writes = vec![Write::Delete(deployments(), prune.delete(app.as_str()))];
    documents.transact(writes, Deadline::NEVER).await?;
    let after = summaries(documents, app).await?.len();
    Ok(before.saturating_sub(after) as u64)
}

fn append(into: &mut RawDocumentBuf, from: &RawDocumentBuf) -> Result<(), Error> {
    for field in from.iter() {
        let (name, value) = field.map_err(|error| {
            Error::new(
                Code::InternalError,
                format!("a record of the node can't be written: {error}"),
            )
        })?;
        into.append(name, bson::RawBson::from(value));
    }
    Ok(())
}

fn set_one(id: &str, set: RawDocumentBuf, upsert: bool) -> Update {
    Update {
        statements: vec![UpdateOne {
            filter: rawdoc! { "_id": id },
            update: rawdoc! { "$set": set },
            multi: false,
            upsert,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    }
}
