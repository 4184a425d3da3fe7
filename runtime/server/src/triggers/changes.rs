//! Triggers on changes: of documents of a collection, of objects under a prefix. What they fire for stands in the change
//! log; [`follow`](super::follow) reads it.
//!
//! How far each of them is, is on disk: the collection `changes` of the database `/node`, `{_id: "APP/NAME", app, watches,
//! place, lost?}`. `watches` says what the place belongs to: a trigger that watches something else begins anew, with what
//! happens from then on. One that is the same goes on where it was, whatever else a deployment changes.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, Deadline};
use cloudlet_blob::ObjectScope;
use cloudlet_data::{
    BeforeChange, Code, Delete, DeleteOne, Documents, Error, Find, FullDocument, Namespace, Update,
    UpdateOne, Watch, WatchScope, WatchStart, Write,
};
use serde::Deserialize;

use super::Kind;
use super::deliveries::date;
use crate::apps::records::{find_all, read};
use crate::apps::registry::ActiveApp;
use crate::node::Node;

/// Bytes that a document may have to be told with its event, and what an update did to it; the function is told what was
/// left out.
pub(super) const PART_BYTES_MAX: i32 = 256 << 10;
/// Parts of an event that may be large.
const PARTS: [&str; 3] = ["fullDocument", "fullDocumentBeforeChange", "updateDescription"];

/// A trigger of an active app that fires on changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChangeTrigger {
    /// Unique in the app.
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) function: Arc<str>,
    /// Invocations at most, after the first.
    pub(crate) retries: u32,
    /// The function's own time limit.
    pub(crate) timeout: Duration,
}

/// What fires it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// Changes of a collection's documents.
    Documents(DocumentScope),
    /// Changes of objects.
    Objects(ObjectScope),
}

/// Which changes of which documents.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DocumentScope {
    pub(crate) collection: String,
    /// In the order of the kinds, each once.
    pub(crate) on: Vec<Operation>,
    /// A filter of MongoDB's for the event; empty lets all through.
    pub(crate) filter: RawDocumentBuf,
}

/// What may happen to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Insert,
    Update,
    Replace,
    Delete,
}

impl Operation {
    pub(crate) const ALL: [Operation; 4] = [
        Operation::Insert,
        Operation::Update,
        Operation::Replace,
        Operation::Delete,
    ];

    /// As manifests and events have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Replace => "replace",
            Operation::Delete => "delete",
        }
    }
}

impl DocumentScope {
    /// Whether events tell what the change log knows only of a collection that keeps images: a document as an update left
    /// it, and as it was before.
    fn needs_images(&self) -> bool {
        self.on.iter().any(|on| *on != Operation::Insert)
    }

    fn watch(&self, app: &AppId, start: WatchStart) -> (WatchScope, Watch) {
        let mut operations = RawArrayBuf::new();
        self.on
            .iter()
            .for_each(|operation| operations.push(operation.as_str()));
        let mut pipeline = vec![rawdoc! { "$match": { "operationType": { "$in": operations } } }];
        if !self.filter.is_empty() {
            pipeline.push(rawdoc! { "$match": self.filter.clone() });
        }
        pipeline.extend(without_what_is_large());
        let (full_document, before_change) = match self.needs_images() {
            true => (FullDocument::WhenAvailable, BeforeChange::WhenAvailable),
            false => (FullDocument::Default, BeforeChange::Off),
        };
        let watch = Watch {
            pipeline,
            full_document,
            before_change,
            // A filter's expression may fail on a document; those after it are told all the same.
            tell_failures: true,
            start,
            ..Watch::default()
        };
        (WatchScope::Collection(self.namespace(app)), watch)
    }

    fn namespace(&self, app: &AppId) -> Namespace {
        Namespace::new(app.as_str(), self.collection.as_str())
    }

    /// Has the collection keep images, if it is there; `make` makes it. Whether it keeps them now.
    async fn keep_images(&self, documents: &dyn Documents, app: &AppId, make: bool) -> Result<bool, Error> {
        let ns = self.namespace(app);
        let keeps = match documents.collection_options(&ns).await {
            Err(error) if error.code() == Code::NamespaceNotFound && !make => return Ok(false),
            Err(error) if error.code() == Code::NamespaceNotFound => {
                match documents.create_collection(&ns).await {
                    // Somebody's first write made it.
                    Err(error) if error.code() == Code::NamespaceExists => {}
                    done => done?,
                }
                false
            }
            options => options?.images,
        };
        if !keeps {
            documents.keep_images(&ns, true).await?;
        }
        Ok(true)
    }
}

/// Stages that take large parts out of an event, and leave their names in it.
fn without_what_is_large() -> [RawDocumentBuf; 2] {
    let path = |part: &str| format!("${part}");
    let large = |part: &str| rawdoc! { "$gt": [{ "$bsonSize": path(part) }, PART_BYTES_MAX] };
    let mut names = RawArrayBuf::new();
    let mut rest = RawDocumentBuf::new();
    for part in PARTS {
        names.push(rawdoc! { "$cond": [large(part), [part], []] });
        // A name without zero bytes.
        if let Ok(name) = <&bson::raw::CStr>::try_from(part) {
            rest.append(name, rawdoc! { "$cond": [large(part), "$$REMOVE", path(part)] });
        }
    }
    [
        rawdoc! { "$set": { "omitted": { "$concatArrays": names } } },
        rawdoc! { "$set": rest },
    ]
}

impl Source {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Source::Documents(_) => Kind::Database,
            Source::Objects(_) => Kind::Storage,
        }
    }

    /// The change stream that begins there.
    pub(super) fn watch(&self, app: &AppId, start: WatchStart) -> (WatchScope, Watch) {
        match self {
            Source::Documents(scope) => scope.watch(app, start),
            Source::Objects(scope) => scope.watch(app, start),
        }
    }

    /// Sees to it that the change log has what the events tell. False when there is no collection yet of which it could.
    pub(super) async fn prepare(
        &self,
        documents: &dyn Documents,
        app: &AppId,
        make: bool,
    ) -> Result<bool, Error> {
        match self {
            Source::Documents(scope) if scope.needs_images() => scope.keep_images(documents, app, make).await,
            Source::Documents(_) => Ok(true),
            Source::Objects(_) => cloudlet_blob::log_changes(documents, app).await.map(|()| true),
        }
    }

    /// What its collection is, if that is something whose changes never are in the change log.
    async fn unlogged(&self, documents: &dyn Documents, app: &AppId) -> Option<&'static str> {
        let Source::Documents(scope) = self else {
            return None;
        };
        match documents.collection_options(&scope.namespace(app)).await {
            Ok(options) => options.time_series.map(|_| "a time series"),
            Err(error) => (error.code() == Code::CommandNotSupportedOnView).then_some("a view"),
        }
    }

    /// What it watches, in words that are the same for the same.
    pub(crate) fn watches(&self) -> String {
        match self {
            Source::Documents(DocumentScope {
                collection,
                on,
                filter,
            }) => {
                let on: Vec<_> = on.iter().map(|operation| operation.as_str()).collect();
                let filter = match filter.is_empty() {
                    true => String::new(),
                    false => format!(" where {}", extended(filter)),
                };
                format!("{} of {collection}{filter}", on.join(", "))
            }
            Source::Objects(ObjectScope {
                prefix,
                created,
                deleted,
            }) => {
                let on = [(created, "created"), (deleted, "deleted")];
                let on: Vec<_> = on.iter().filter(|(on, _)| **on).map(|(_, word)| *word).collect();
                format!("{} under {prefix:?}", on.join(", "))
            }
        }
    }
}

/// A document as extended JSON.
pub(super) fn extended(document: &RawDocument) -> String {
    match bson::Document::try_from(document) {
        Ok(document) => bson::Bson::Document(document).into_relaxed_extjson().to_string(),
        Err(_) => String::new(),
    }
}

/// How far a trigger is.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Place {
    #[serde(rename = "_id")]
    id: String,
    watches: String,
    /// A resume token.
    pub(super) place: RawDocumentBuf,
    /// When it was found last that changes are gone from the log that it had not seen.
    #[serde(default)]
    pub(crate) lost: Option<bson::DateTime>,
}

fn places() -> Namespace {
    Namespace::new("/node", "changes")
}

fn id(app: &AppId, trigger: &ChangeTrigger) -> String {
    format!("{app}/{}", trigger.name)
}

/// The place of a trigger, if it has one.
///
/// # Errors
/// Those of the database.
pub(crate) async fn place(
    documents: &dyn Documents,
    app: &AppId,
    trigger: &ChangeTrigger,
) -> Result<Option<Place>, Error> {
    let find = Find {
        filter: rawdoc! { "_id": id(app, trigger) },
        ..Find::default()
    };
    let found = find_all(documents, &places(), find).await?;
    let found: Option<Place> = found.first().map(read).transpose()?;
    Ok(found.filter(|found| found.watches == trigger.source.watches()))
}

/// The write that moves a trigger on; nothing, if it watches something else by now.
pub(super) fn moving(app: &AppId, trigger: &ChangeTrigger, place: &RawDocument) -> Write {
    let change = rawdoc! { "$set": { "place": place.to_owned() } };
    update(app, trigger, change)
}

/// Records that changes are gone which the trigger has not seen.
///
/// # Errors
/// Those of the database.
pub(super) async fn lost(node: &Node, app: &AppId, trigger: &ChangeTrigger) -> Result<(), Error> {
    let change = rawdoc! { "$set": { "lost": date(node.clock.now()) } };
    let write = update(app, trigger, change);
    node.documents
        .transact(vec![write], Deadline::NEVER)
        .await
        .map(drop)
}

fn update(app: &AppId, trigger: &ChangeTrigger, change: RawDocumentBuf) -> Write {
    let filter = rawdoc! { "_id": id(app, trigger), "watches": trigger.source.watches() };
    let update = Update {
        statements: vec![UpdateOne {
            filter,
            update: change,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    Write::Update(places(), update)
}

/// What of an app's triggers this node can't follow.
pub(crate) async fn refused(node: &Node, app: &AppId, triggers: &[ChangeTrigger]) -> Vec<String> {
    let mut problems = Vec::new();
    for trigger in triggers {
        let (kind, name) = (trigger.source.kind().as_str(), &trigger.name);
        if node.config.database.change_log_bytes == 0 {
            problems.push(format!(
                "{kind} trigger {name:?} needs the change log, which this node does not keep; set \
                 database.change_log_bytes, e.g. --database-change-log-bytes 256MiB, and start the node again"
            ));
            continue;
        }
        let (scope, watch) = trigger.source.watch(app, WatchStart::Now);
        if let Err(error) = node.documents.watch(scope, watch).await {
            problems.push(format!("{kind} trigger {name:?} can't be followed: {error}"));
        }
        if let Some(what) = trigger.source.unlogged(&*node.documents, app).await {
            problems.push(format!(
                "{kind} trigger {name:?} would never fire: its collection is {what}, whose changes are not logged; watch \
                 the collection that is written to"
            ));
        }
    }
    problems
}

/// Gives each trigger of an app that is about to become active its place, from which on it misses nothing, and forgets
/// those of triggers that the app does not have any more. What fails here is made good when the trigger is followed, with
/// what happens from then on.
pub(crate) async fn begin(node: &Node, app: &ActiveApp) {
    let begun = async {
        for trigger in &app.changes {
            if place(&*node.documents, &app.id, trigger).await?.is_none() {
                new_place(node, &app.id, trigger).await?;
            }
        }
        forget_others(&*node.documents, app).await
    };
    match begun.await {
        Ok(()) => {}
        // The node has no log any more; each trigger tells so when it is followed.
        Err(error) if error.code() == Code::CommandNotSupported => {}
        Err(error) => {
            node.triggers.failures.inc();
            tracing::warn!(
                app = app.id.as_str(),
                "the app's triggers could not be prepared: {error}"
            );
        }
    }
}

/// Begins a trigger with what happens from now on.
///
/// # Errors
/// Those of the database; `CommandNotSupported` without a change log.
pub(super) async fn new_place(node: &Node, app: &AppId, trigger: &ChangeTrigger) -> Result<Place, Error> {
    let documents = &*node.documents;
    trigger.source.prepare(documents, app, true).await?;
    let (scope, watch) = trigger.source.watch(app, WatchStart::Now);
    let begun = Place {
        id: id(app, trigger),
        watches: trigger.source.watches(),
        place: documents.watch(scope, watch).await?.token(),
        lost: None,
    };
    let change = rawdoc! {
        "app": app.as_str(), "watches": begun.watches.as_str(), "place": begun.place.clone(),
    };
    let update = Update {
        statements: vec![UpdateOne {
            filter: rawdoc! { "_id": begun.id.as_str() },
            update: change,
            upsert: true,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    let write = Write::Update(places(), update);
    documents.transact(vec![write], Deadline::NEVER).await?;
    Ok(begun)
}

async fn forget_others(documents: &dyn Documents, app: &ActiveApp) -> Result<(), Error> {
    let kept = app.changes.iter().map(|trigger| id(&app.id, trigger));
    let kept = RawArrayBuf::from_iter(kept.map(bson::RawBson::String));
    let delete = Delete {
        statements: vec![DeleteOne {
            filter: rawdoc! { "app": app.id.as_str(), "_id": { "$nin": kept } },
            multi: true,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    let write = Write::Delete(places(), delete);
    documents.transact(vec![write], Deadline::NEVER).await.map(drop)
}
