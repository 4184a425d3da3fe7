//! Changes of objects as a change stream: an object is what its metadata document says, and those documents are in the
//! change log of an app that asked for it. A put or delete and its change are of one commit, whoever asked for it.

use bson::{RawDocument, rawdoc};
use cloudlet_base::{AppId, Timestamp};
use cloudlet_data::{
    BeforeChange, Code, CollectionOptions, Documents, Namespace, Watch, WatchScope, WatchStart,
};

use crate::{Error, ObjectInfo, path};

/// Which changes of which objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectScope {
    /// What their paths begin with; empty is all.
    pub prefix: String,
    /// Objects that are stored, also in the place of others.
    pub created: bool,
    /// Objects that are removed.
    pub deleted: bool,
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub struct ObjectChange {
    /// Whether it was stored; otherwise it was removed.
    pub created: bool,
    /// Whether it took the place of another one at its path.
    pub replaced: bool,
    /// The object, as it was stored or as it was before it was removed.
    pub info: ObjectInfo,
    /// When.
    pub at: Timestamp,
}

impl ObjectScope {
    /// The change stream of an app's objects that begins there.
    pub fn watch(&self, app: &AppId, start: WatchStart) -> (WatchScope, Watch) {
        let mut operations = bson::RawArrayBuf::new();
        if self.created {
            ["insert", "replace"]
                .into_iter()
                .for_each(|of| operations.push(of));
        }
        if self.deleted {
            operations.push("delete");
        }
        let mut paths = rawdoc! { "$gte": self.prefix.as_str() };
        if let Some(end) = path::after_prefix(&self.prefix) {
            paths.append(bson::raw::cstr!("$lt"), end);
        }
        let chosen = rawdoc! { "$match": {
            "operationType": { "$in": operations },
            "documentKey._id": paths,
        } };
        let watch = Watch {
            pipeline: vec![chosen],
            before_change: BeforeChange::WhenAvailable,
            start,
            ..Watch::default()
        };
        (WatchScope::Platform(namespace(app)), watch)
    }
}

impl ObjectChange {
    /// Reads an event of [`ObjectScope::watch`].
    ///
    /// # Errors
    /// [`Error::Backend`] when it says something else.
    pub fn read(event: &RawDocument) -> Result<Self, Error> {
        let corrupt = || Error::Backend("the change of an object can't be read".to_owned());
        let operation = event.get_str("operationType").map_err(|_| corrupt())?;
        let document = match operation {
            "delete" => event.get_document("fullDocumentBeforeChange"),
            _ => event.get_document("fullDocument"),
        };
        let at = event.get_datetime("wallTime").map_err(|_| corrupt())?;
        Ok(Self {
            created: operation != "delete",
            replaced: operation == "replace",
            info: ObjectInfo::from_document(document.map_err(|_| corrupt())?)?,
            at: Timestamp(at.timestamp_millis()),
        })
    }
}

/// Has the changes of an app's objects logged from now on, if the database keeps a change log.
///
/// # Errors
/// Those of the database.
pub async fn log_changes(documents: &dyn Documents, app: &AppId) -> Result<(), cloudlet_data::Error> {
    let ns = namespace(app);
    let options = match documents.collection_options(&ns).await {
        Err(error) if error.code() == Code::NamespaceNotFound => {
            match documents.create_collection(&ns).await {
                // Somebody's first upload made it.
                Err(error) if error.code() == Code::NamespaceExists => {}
                done => done?,
            }
            CollectionOptions::default()
        }
        options => options?,
    };
    match options.images {
        true => Ok(()),
        false => documents.keep_images(&ns, true).await,
    }
}

/// Where the metadata of an app's objects are.
pub(crate) fn namespace(app: &AppId) -> Namespace {
    Namespace::new(format!("{app}/system"), "objects")
}
