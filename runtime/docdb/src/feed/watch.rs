//! A stream of events over a part of the log: where it begins, which events it is about, how they look, and reading
//! on from a place. Everything runs in one read of the store, bounded by what it looks at.

use std::ops::ControlFlow;
use std::sync::Arc;

use bson::raw::cstr;
use bson::{DateTime, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use cloudlet_base::{Deadline, Fault};

use super::entry::{Entry, Kind, binary, key_of};
use super::log::{self, Bounds, bounds};
use super::token::{Mark, Token, invalid};
use super::{diff, is_logged, split};
use crate::catalog::{Catalog, check_namespace};
use crate::engine::Engine;
use crate::exec::scan::Meter;
use crate::expression::Runtime;
use crate::kv::{KvRead, get_vec};
use crate::pipeline::{self, Stage, Surroundings};
use crate::value::field;
use crate::{Code, Error, Namespace, Result};

/// Events of the log that one read looks at; a stream about little gets an empty batch and a newer token.
const EXAMINED_MAX: u64 = 20_000;
/// Events between two looks at the clock.
const EVENTS_PER_CHECK: u64 = 256;
/// What MongoDB lets an event be longer than a document.
pub(super) const EVENT_BYTES_EXTRA: usize = 16 * 1024;

/// What a change stream is about. Collections named `system.` something are only seen by their own streams, and the
/// platform's databases (a `/` in the name) by none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// One collection, which need not be there yet. The stream ends with an `invalidate` event when the collection
    /// is dropped, or renamed from or to.
    Collection(Namespace),
    /// All collections of a database. The stream ends with an `invalidate` event when the database is dropped.
    Database(Arc<str>),
    /// All databases of the deployment.
    Deployment,
    /// One collection of the platform's own databases, for the platform alone. Its documents are in the log from when it
    /// is told to keep images. The stream does not end.
    Platform(Namespace),
}

impl WatchScope {
    fn check(&self) -> Result<()> {
        let database = match self {
            WatchScope::Deployment | WatchScope::Platform(_) => return Ok(()),
            WatchScope::Collection(ns) => {
                check_namespace(ns)?;
                &ns.database
            }
            WatchScope::Database(database) => {
                check_namespace(&Namespace::new(database.clone(), "c"))?;
                database
            }
        };
        if is_logged(database) {
            return Ok(());
        }
        let message = format!("the database {database:?} is the platform's own and has no change streams");
        Err(Error::new(Code::InvalidNamespace, message))
    }

    /// Whether a commit that touched a collection, or with an empty name the database, may be of interest.
    pub(super) fn hears(&self, touched: &Namespace) -> bool {
        match self {
            WatchScope::Deployment => true,
            WatchScope::Database(database) => touched.database == *database,
            WatchScope::Collection(ns) | WatchScope::Platform(ns) => {
                touched.database == ns.database
                    && (touched.collection == ns.collection || touched.collection.is_empty())
            }
        }
    }

    fn names(&self, database: &str, collection: &str) -> bool {
        match self {
            WatchScope::Deployment => is_logged(database) && !collection.starts_with("system."),
            WatchScope::Database(own) => **own == *database && !collection.starts_with("system."),
            WatchScope::Collection(ns) | WatchScope::Platform(ns) => {
                *ns.database == *database && *ns.collection == *collection
            }
        }
    }

    fn shows(&self, entry: &Entry<'_>) -> bool {
        self.names(entry.database, entry.collection)
            || entry
                .to
                .is_some_and(|(database, collection)| self.names(database, collection))
    }

    /// Whether the stream ends after an event that it shows.
    fn ends_with(&self, kind: Kind) -> bool {
        match self {
            WatchScope::Deployment | WatchScope::Platform(_) => false,
            WatchScope::Database(_) => kind == Kind::DropDatabase,
            WatchScope::Collection(_) => matches!(kind, Kind::Drop | Kind::Rename | Kind::DropDatabase),
        }
    }
}

/// MongoDB's `fullDocument`: whether the event of an update has the whole document. Inserts and replacements always
/// have theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FullDocument {
    /// It has not.
    #[default]
    Default,
    /// As it is when the event is read, which may be later than the update; null when it is gone.
    UpdateLookup,
    /// As the update left it, if the collection keeps images, otherwise null.
    WhenAvailable,
    /// As the update left it, or the stream fails with `NoMatchingDocument`.
    Required,
}

/// MongoDB's `fullDocumentBeforeChange`: whether updates, replacements and deletes have the document as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BeforeChange {
    /// They have not.
    #[default]
    Off,
    /// If the collection keeps images, otherwise null.
    WhenAvailable,
    /// Or the stream fails with `NoMatchingDocument`.
    Required,
}

/// Where a change stream begins.
#[derive(Debug, Clone, Default)]
pub enum WatchStart {
    /// With the next event.
    #[default]
    Now,
    /// With the oldest event that the log still has.
    Oldest,
    /// After the event with this resume token, or where the stream stood that gave this one between events. The
    /// token of an `invalidate` is refused.
    ResumeAfter(RawDocumentBuf),
    /// As [`ResumeAfter`](Self::ResumeAfter), and past an `invalidate`.
    StartAfter(RawDocumentBuf),
    /// With the first event at this cluster time or later.
    AtOperationTime(Timestamp),
}

/// A change stream to open.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// MongoDB's stages that each event goes through: `$match`, `$project`, `$addFields`, `$set`, `$unset`,
    /// `$replaceRoot`, `$replaceWith`, `$redact`, and last `$changeStreamSplitLargeEvent`. An event must keep its `_id`.
    pub pipeline: Vec<RawDocumentBuf>,
    /// Whole documents with updates.
    pub full_document: FullDocument,
    /// Documents as they were before.
    pub before_change: BeforeChange,
    /// MongoDB's `showExpandedEvents`: also tells of collections and indexes that are made or changed and of indexes
    /// that are dropped, and what else a rename and an update did.
    pub expanded: bool,
    /// An event that an expression of the pipeline fails on is told as `{_id, operationType, clusterTime, wallTime, ns,
    /// documentKey, failure: MESSAGE}`, and the stream goes on; without, the stream can't be read past it.
    pub tell_failures: bool,
    /// Where it begins.
    pub start: WatchStart,
}

/// A parsed stream.
#[derive(Debug)]
pub(crate) struct Stream {
    scope: WatchScope,
    stages: Vec<Stage>,
    runtime: Arc<Runtime>,
    full_document: FullDocument,
    before_change: BeforeChange,
    expanded: bool,
    tell_failures: bool,
    /// Whether events that are too large are told in fragments.
    split: bool,
}

impl Stream {
    /// # Errors
    /// When a stage is malformed or may not be there, or the scope can't be watched.
    pub(crate) fn parse(scope: WatchScope, watch: &Watch, around: &Surroundings) -> Result<Self> {
        scope.check()?;
        let (stages, split) = split::stage_of(&watch.pipeline)?;
        Ok(Self {
            scope,
            split,
            stages: pipeline::event_stages(stages, around)?,
            runtime: around.scope.runtime().clone(),
            full_document: watch.full_document,
            before_change: watch.before_change,
            expanded: watch.expanded,
            tell_failures: watch.tell_failures,
        })
    }
}

/// The place where a change stream goes on: a plain value, which holds nothing of the store. Cheap to clone;
/// dropping it costs nothing.
#[derive(Debug, Clone)]
pub struct ChangeCursor {
    stream: Arc<Stream>,
    at: Token,
    /// The event there ends the stream, and that is still to be said.
    ends: bool,
    /// How many fragments of the event there were given, if there may be more of them.
    given: u32,
}

impl ChangeCursor {
    /// The resume token of the place, for a stream that has given no event: MongoDB's `postBatchResumeToken`.
    pub fn token(&self) -> RawDocumentBuf {
        self.at.to_document()
    }

    /// What the stream is about.
    pub fn scope(&self) -> &WatchScope {
        &self.stream.scope
    }

    /// The number of the newest event that it is past.
    pub(crate) fn sequence(&self) -> u64 {
        // One that is to end has something to say already.
        if self.ends {
            return 0;
        }
        self.at.sequence - u64::from(self.given > 0)
    }
}

/// Events of a change stream, in order.
#[derive(Debug)]
pub struct Changes {
    /// The events, in MongoDB's shape.
    pub events: Vec<RawDocumentBuf>,
    /// The place after them and after what was passed over: MongoDB's `postBatchResumeToken`.
    pub token: RawDocumentBuf,
    /// Where to go on; `None` when the stream ended with an `invalidate`.
    pub cursor: Option<ChangeCursor>,
    /// Whether the log may have more already.
    pub more: bool,
}

fn history_lost() -> Error {
    Error::new(
        Code::ChangeStreamHistoryLost,
        "the place to go on from is no longer in the change log, which was trimmed (feed_bytes_max, feed_events_max, feed_age_max); start a new stream",
    )
}

/// Finds the place where a stream begins.
///
/// # Errors
/// `ChangeStreamHistoryLost` when the log was trimmed past it, `InvalidResumeToken`, the store's.
pub(crate) fn open(kv: &dyn KvRead, stream: Arc<Stream>, start: &WatchStart) -> Result<ChangeCursor> {
    let bounds = bounds(kv)?;
    let between = |sequence: u64| -> Result<Token> {
        let time = match sequence {
            sequence if sequence == bounds.last => bounds.last_time,
            // One that was trimmed, just before the first that is there.
            sequence => log::time_of(kv, sequence)?.unwrap_or(bounds.first_time),
        };
        Ok(Token {
            time,
            sequence,
            mark: Mark::Past,
            fragment: None,
        })
    };
    let mut ends = false;
    let at = match start {
        WatchStart::Now => between(bounds.last)?,
        WatchStart::Oldest => between(bounds.first - 1)?,
        WatchStart::AtOperationTime(time) => {
            if bounds.first > 1 && *time < bounds.first_time {
                return Err(history_lost());
            }
            between(log::first_at(kv, &bounds, *time)? - 1)?
        }
        WatchStart::ResumeAfter(token) => {
            let token = Token::parse(token)?;
            if token.mark == Mark::Invalidate {
                return Err(invalid(
                    "a stream can't resume after an invalidate; startAfter can go on from there",
                ));
            }
            ends = check_token(kv, &bounds, token, &stream.scope)?;
            token
        }
        WatchStart::StartAfter(token) => {
            let token = Token::parse(token)?;
            ends = check_token(kv, &bounds, token, &stream.scope)?;
            token
        }
    };
    let given = match at.fragment {
        None => 0,
        Some(_) if !stream.split => {
            return Err(Error::new(
                Code::ChangeStreamFatalError,
                "the resume token is of a fragment of an event, so the pipeline must end with $changeStreamSplitLargeEvent",
            ));
        }
        Some(_) if at.sequence < bounds.first => return Err(history_lost()),
        Some(place) => place.saturating_add(1),
    };
    Ok(ChangeCursor {
        stream,
        at,
        ends: ends && given == 0,
        given,
    })
}

/// Checks that a token is of this log and what follows it is there. True when its event ends the stream.
fn check_token(kv: &dyn KvRead, bounds: &Bounds, token: Token, scope: &WatchScope) -> Result<bool> {
    if token.sequence > bounds.last {
        return Err(invalid(
            "the resume token is of no event that this database knows",
        ));
    }
    if token.sequence + 1 < bounds.first {
        return Err(history_lost());
    }
    if token.sequence < bounds.first {
        // The event itself is gone, and all after it is there.
        return Ok(false);
    }
    if log::time_of(kv, token.sequence)? != Some(token.time) {
        return Err(invalid(
            "the resume token is of another database, or of another copy of it",
        ));
    }
    let mut ends = false;
    if token.mark == Mark::Event {
        log::scan(kv, token.sequence - 1, &mut |entry| {
            ends = scope.shows(entry) && scope.ends_with(entry.kind);
            Ok(ControlFlow::Break(()))
        })?;
    }
    Ok(ends)
}

/// Reads on from a place: at most `batch` events (and an `invalidate` after them), and what one read may look at.
///
/// # Errors
/// `ChangeStreamHistoryLost` when the log was trimmed past the place; those of the pipeline; `NoMatchingDocument`
/// for an image that is required and not there; `ChangeStreamFatalError` when the pipeline takes an event's `_id`.
pub(crate) fn next(
    engine: &Engine,
    kv: &dyn KvRead,
    catalog: &Catalog,
    mut cursor: ChangeCursor,
    batch: Option<u32>,
    deadline: &Deadline,
) -> Result<Changes> {
    let bounds = bounds(kv)?;
    // Of an event that was given in part the rest is still to be read.
    let from = cursor.at.sequence - u64::from(cursor.given > 0);
    if from + 1 < bounds.first {
        return Err(history_lost());
    }
    let batch = batch.map_or(usize::MAX, |batch| usize::try_from(batch).unwrap_or(usize::MAX));
    let stream = cursor.stream.clone();
    stream.runtime.set_deadline(deadline);
    let meter = Meter::new(engine, deadline);
    let mut events = Vec::new();
    let (mut bytes, mut examined, mut log_bytes) = (0, 0_u64, 0);
    let bytes_max = engine.limits.page_bytes_max;
    if !cursor.ends && batch > 0 {
        log::scan(kv, from, &mut |entry| {
            examined += 1;
            if examined.is_multiple_of(EVENTS_PER_CHECK) {
                meter.check_deadline()?;
            }
            let token = Token {
                time: entry.time,
                sequence: entry.sequence,
                mark: Mark::Event,
                fragment: None,
            };
            let given = std::mem::take(&mut cursor.given);
            let shown = stream.shows(entry);
            let made = if shown {
                stream.make(engine, kv, catalog, entry, token)?
            } else {
                None
            };
            let parts = split::parts_of(made, token, given, engine.limits.document_bytes_max)?;
            let mut last = token;
            for (event, part) in parts {
                bytes += event.as_bytes().len();
                if !events.is_empty() && (bytes > bytes_max || events.len() >= batch) {
                    if let Some(place) = part.fragment.filter(|place| *place > 0) {
                        cursor.at = Token {
                            fragment: Some(place - 1),
                            ..token
                        };
                        cursor.given = place;
                    }
                    return Ok(ControlFlow::Break(()));
                }
                events.push(event);
                last = part;
            }
            cursor.at = last;
            cursor.ends = shown && stream.scope.ends_with(entry.kind);
            log_bytes += entry.document.map_or(0, |document| document.as_bytes().len());
            let full = events.len() >= batch || bytes >= bytes_max;
            let enough = full || examined >= EXAMINED_MAX || log_bytes >= bytes_max;
            Ok(if enough || cursor.ends {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        cursor.at.mark = match events.last() {
            // The token of the last event, if nothing was passed over since: clients may compare the two.
            Some(event) if field(event, "_id") == Some(RawBsonRef::Document(&cursor.token())) => Mark::Event,
            _ if cursor.ends || cursor.given > 0 => Mark::Event,
            _ => Mark::Past,
        };
        if cursor.at.mark == Mark::Past {
            cursor.at.fragment = None;
        }
    }
    if cursor.ends && batch > 0 {
        cursor.at.mark = Mark::Invalidate;
        cursor.at.fragment = None;
        events.extend(stream.invalidate(engine, kv, cursor.at)?);
        return Ok(Changes {
            events,
            token: cursor.token(),
            cursor: None,
            more: false,
        });
    }
    Ok(Changes {
        events,
        token: cursor.token(),
        more: cursor.ends || cursor.given > 0 || cursor.at.sequence < bounds.last,
        cursor: Some(cursor),
    })
}

impl Stream {
    fn shows(&self, entry: &Entry<'_>) -> bool {
        self.scope.shows(entry) && (self.expanded || !entry.kind.is_expanded())
    }

    /// The event of an entry, if the pipeline lets it through.
    fn make(
        &self,
        engine: &Engine,
        kv: &dyn KvRead,
        catalog: &Catalog,
        entry: &Entry<'_>,
        token: Token,
    ) -> Result<Option<RawDocumentBuf>> {
        let mut event = head(token, entry.kind.name(), entry.wall);
        if self.expanded && entry.collection_id > 0 {
            event.append(cstr!("collectionUUID"), binary(catalog.uuid(entry.collection_id)));
        }
        self.full_document(kv, catalog, entry, &mut event)?;
        event.append(cstr!("ns"), names(entry.database, entry.collection));
        if entry.kind == Kind::Create {
            event.append(cstr!("nsType"), kind_of_namespace(entry.description));
        }
        if let Some((database, collection)) = entry.to {
            event.append(cstr!("to"), names(database, collection));
        }
        if let Some(key) = key(entry) {
            event.append(cstr!("documentKey"), key);
        }
        match entry.description {
            Some(description) if entry.kind.is_expanded() => {
                event.append(cstr!("operationDescription"), description.to_owned());
            }
            Some(description) if entry.kind == Kind::Update => {
                event.append(
                    cstr!("updateDescription"),
                    diff::shown(description, self.expanded),
                );
            }
            _ => {}
        }
        if let (true, Some((database, collection))) = (self.expanded, entry.to) {
            let mut description = RawDocumentBuf::new();
            description.append(cstr!("to"), names(database, collection));
            if let Some(dropped) = entry.description.and_then(|told| field(told, "dropTarget")) {
                description.append(cstr!("dropTarget"), dropped);
            }
            event.append(cstr!("operationDescription"), description);
        }
        self.before_change(entry, &mut event)?;
        match self.through(engine, event, token) {
            Err(error) if self.tell_failures && matches!(error.kind(), Fault::Invalid | Fault::Limit) => {
                Ok(Some(failure(entry, token, &error)))
            }
            made => made,
        }
    }

    fn full_document(
        &self,
        kv: &dyn KvRead,
        catalog: &Catalog,
        entry: &Entry<'_>,
        event: &mut RawDocumentBuf,
    ) -> Result<()> {
        let name = cstr!("fullDocument");
        if entry.kind != Kind::Update {
            if let Some(document) = entry.document {
                event.append(name, document.to_owned());
            }
            return Ok(());
        }
        match (self.full_document, entry.document) {
            (FullDocument::Default, _) => {}
            (FullDocument::UpdateLookup, _) => match lookup(kv, catalog, entry)? {
                Some(document) => append_bytes(event, &document)?,
                None => event.append(name, RawBsonRef::Null),
            },
            (_, Some(document)) => event.append(name, document.to_owned()),
            (FullDocument::WhenAvailable, None) => event.append(name, RawBsonRef::Null),
            (FullDocument::Required, None) => return Err(no_image("fullDocument", entry)),
        }
        Ok(())
    }

    fn before_change(&self, entry: &Entry<'_>, event: &mut RawDocumentBuf) -> Result<()> {
        let changes = matches!(entry.kind, Kind::Update | Kind::Replace | Kind::Delete);
        if !changes || self.before_change == BeforeChange::Off {
            return Ok(());
        }
        let name = cstr!("fullDocumentBeforeChange");
        match entry.before {
            Some(document) => event.append(name, document.to_owned()),
            None if self.before_change == BeforeChange::Required => {
                return Err(no_image("fullDocumentBeforeChange", entry));
            }
            None => event.append(name, RawBsonRef::Null),
        }
        Ok(())
    }

    fn invalidate(&self, engine: &Engine, kv: &dyn KvRead, token: Token) -> Result<Option<RawDocumentBuf>> {
        let mut wall = engine.clock.now().millis();
        if token.sequence > 0 {
            log::scan(kv, token.sequence - 1, &mut |entry| {
                wall = entry.wall;
                Ok(ControlFlow::Break(()))
            })?;
        }
        self.through(engine, head(token, "invalidate", wall), token)
    }

    /// Sends an event through the pipeline.
    fn through(
        &self,
        engine: &Engine,
        event: RawDocumentBuf,
        token: Token,
    ) -> Result<Option<RawDocumentBuf>> {
        let mut event = event;
        for stage in &self.stages {
            match stage.apply_to(&event, &self.runtime)? {
                Some(made) => event = made,
                None => return Ok(None),
            }
        }
        let id = token.to_document();
        if !self.stages.is_empty() && field(&event, "_id") != Some(RawBsonRef::Document(&id)) {
            return Err(Error::new(
                Code::ChangeStreamFatalError,
                "the pipeline changed or removed the _id of an event, which is its resume token",
            ));
        }
        let (bytes, max) = (
            event.as_bytes().len(),
            engine.limits.document_bytes_max + EVENT_BYTES_EXTRA,
        );
        if bytes > max && !self.split {
            let message = format!(
                "a change event has {bytes} bytes, and {max} are allowed; a $project or $changeStreamSplitLargeEvent would help"
            );
            return Err(Error::new(Code::BSONObjectTooLarge, message));
        }
        Ok(Some(event))
    }
}

/// What every event begins with.
fn head(token: Token, operation: &str, wall: i64) -> RawDocumentBuf {
    let mut event = RawDocumentBuf::new();
    event.append(cstr!("_id"), token.to_document());
    event.append(cstr!("operationType"), operation);
    event.append(cstr!("clusterTime"), token.time);
    event.append(cstr!("wallTime"), DateTime::from_millis(wall));
    event
}

/// An event of which the pipeline can't tell what becomes of it.
fn failure(entry: &Entry<'_>, token: Token, error: &Error) -> RawDocumentBuf {
    let mut event = head(token, entry.kind.name(), entry.wall);
    event.append(cstr!("ns"), names(entry.database, entry.collection));
    if let Some(key) = key(entry) {
        event.append(cstr!("documentKey"), key);
    }
    event.append(cstr!("failure"), error.to_string());
    event
}

fn names(database: &str, collection: &str) -> RawDocumentBuf {
    let mut names = RawDocumentBuf::new();
    names.append(cstr!("db"), database);
    if !collection.is_empty() {
        names.append(cstr!("coll"), collection);
    }
    names
}

fn key(entry: &Entry<'_>) -> Option<RawDocumentBuf> {
    match (entry.key, entry.document) {
        (Some(key), _) => Some(key.to_owned()),
        (None, Some(document)) => Some(key_of(document)),
        (None, None) => None,
    }
}

/// The document of an event as it is now, if its collection is there and has it.
fn lookup(kv: &dyn KvRead, catalog: &Catalog, entry: &Entry<'_>) -> Result<Option<Vec<u8>>> {
    let Some(key) = key(entry) else {
        return Ok(None);
    };
    let Some(id) = field(&key, "_id") else {
        return Ok(None);
    };
    // By the collection's number: one that was dropped has no documents, also if its name was given again.
    let Some(collection) = catalog.numbered(entry.collection_id) else {
        return Ok(None);
    };
    get_vec(kv, &[collection.prefix(), collection.id_bytes(id)].concat())
}

fn append_bytes(event: &mut RawDocumentBuf, document: &[u8]) -> Result<()> {
    let document: &RawDocument = crate::index::stored(document)?;
    event.append(cstr!("fullDocument"), document.to_owned());
    Ok(())
}

fn no_image(what: &str, entry: &Entry<'_>) -> Error {
    let message = format!(
        "{what} is required, and the change log has no image of a document of {}.{}; its collection did not keep them",
        entry.database, entry.collection
    );
    Error::new(Code::NoMatchingDocument, message)
}

/// What was made, by what is told of it.
fn kind_of_namespace(description: Option<&RawDocument>) -> &'static str {
    let told = |name: &str| description.is_some_and(|description| field(description, name).is_some());
    if told("viewOn") {
        "view"
    } else if told("timeseries") {
        "timeseries"
    } else {
        "collection"
    }
}
