//! The database's commands and their replies as plain values: what crosses from callers to the engine.
//! Parsing what is inside them (filters, updates, projections) is the engine's business.

use std::fmt;
use std::sync::Arc;

use bson::{RawArrayBuf, RawBson, RawDocumentBuf};

use crate::{Error, Grid};

/// A collection of a database. An app's own data live in the database named as the app; the platform's data
/// about an app in `APP/system`, which no client, function or driver can name, and the node's in `/node`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    /// The database's name.
    pub database: Arc<str>,
    /// The collection's name: 1 to 200 bytes, no NUL, no `$`, not beginning or ending with a dot.
    pub collection: Arc<str>,
}

impl Namespace {
    /// The collection `collection` of `database`. Names are checked by the engine when it first sees them.
    pub fn new(database: impl Into<Arc<str>>, collection: impl Into<Arc<str>>) -> Self {
        Self {
            database: database.into(),
            collection: collection.into(),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}

/// A query.
#[derive(Debug, Clone, Default)]
pub struct Find {
    /// MongoDB filter; empty matches everything.
    pub filter: RawDocumentBuf,
    /// MongoDB sort specification, e.g. `{a: 1, b: -1}`.
    pub sort: Option<RawDocumentBuf>,
    /// MongoDB projection.
    pub projection: Option<RawDocumentBuf>,
    /// MongoDB's `let`: variables for the expressions of filter and projection, made of constants.
    pub variables: Option<RawDocumentBuf>,
    /// MongoDB's collation for the strings that filter and sort compare.
    pub collation: Option<RawDocumentBuf>,
    /// Documents to pass over first.
    pub skip: u64,
    /// Most documents to return in all; `None` is no limit.
    pub limit: Option<u64>,
    /// Name of the index to use, or `$natural` for a collection scan, or [`NATURAL_BACKWARD`] for one from the end; the
    /// planner chooses when absent.
    pub hint: Option<Arc<str>>,
    /// Whether the cursor stays at the end of a capped collection and gives what is inserted later. One on an empty
    /// collection does not.
    pub tailable: bool,
    /// Only what lies from this key of the hinted index on, e.g. `{a: 1, b: 2}`; needs `hint`.
    pub min: Option<RawDocumentBuf>,
    /// Only what lies before this key of the hinted index; needs `hint`.
    pub max: Option<RawDocumentBuf>,
    /// Only what comes after this [place](Cursor::place) of the natural order; needs the `hint` `$natural`.
    pub after: Option<Vec<u8>>,
    /// Most documents in the first page; `None` is the engine's default (101).
    pub batch: Option<u32>,
    /// What is shown of the documents found.
    pub shown: Shown,
    /// Whether a sort may spill to disk what memory may not hold; `None` is what the server was told
    /// ([`Config::allow_disk_use`](crate::Config::allow_disk_use)).
    pub allow_disk_use: Option<bool>,
}

impl Find {
    /// What of it says how many documents match.
    pub(crate) fn counting(self) -> Find {
        let (skip, limit) = (self.skip, self.limit);
        Find {
            skip,
            limit,
            ..self.matching()
        }
    }

    /// What of it says which documents match.
    pub(crate) fn matching(self) -> Find {
        Find {
            filter: self.filter,
            variables: self.variables,
            collation: self.collation,
            ..Find::default()
        }
    }
}

/// What a query shows of the documents that it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shown {
    /// The documents, projected.
    #[default]
    Documents,
    /// The same with their place in the collection: `$recordId`, binary data that order as the documents do.
    WithRecordId,
    /// Only the fields of the index that the query used, or nothing of them when it used none.
    IndexKeys,
}

/// The hint of a collection scan in the natural order backwards: the newest documents of a capped collection first,
/// of another one the order of `_id` from its end.
pub const NATURAL_BACKWARD: &str = "$natural:-1";

/// An aggregation.
#[derive(Debug, Clone, Default)]
pub struct Aggregate {
    /// MongoDB's stages, `{$match: ..}` and so on.
    pub pipeline: Vec<RawDocumentBuf>,
    /// MongoDB's `let`: variables for the stages, made of constants.
    pub variables: Option<RawDocumentBuf>,
    /// MongoDB's collation for the strings that the stages compare.
    pub collation: Option<RawDocumentBuf>,
    /// Name of the index to use for the collection, or `$natural`; the planner chooses when absent.
    pub hint: Option<Arc<str>>,
    /// Most documents in the first page; `None` is the engine's default (101).
    pub batch: Option<u32>,
    /// Whether stages that hold documents may spill to disk what memory may not hold; `None` is what the server was
    /// told ([`Config::allow_disk_use`](crate::Config::allow_disk_use)).
    pub allow_disk_use: Option<bool>,
    /// Whether `$out` and `$merge` pass over the validator of the collection that they write to.
    pub bypass_validation: bool,
}

/// Some documents of a result, in order, and the way to the rest.
#[derive(Debug)]
pub struct Page {
    /// The documents.
    pub documents: Vec<RawDocumentBuf>,
    /// Where to go on; `None` when the result is at its end.
    pub cursor: Option<Cursor>,
}

/// The place where a result goes on: a plain value holding a resume key (or the rest of a sorted result), never
/// an open read transaction. Dropping it costs nothing.
#[derive(Debug)]
pub struct Cursor {
    pub(crate) state: Box<crate::exec::CursorState>,
}

impl Cursor {
    /// The place in the natural order at which it stands, by which [`Find::after`] goes on when the cursor is gone, also
    /// after a restart. None for a result in another order.
    pub fn place(&self) -> Option<Vec<u8>> {
        crate::exec::place(self)
    }
}

/// Documents to insert.
#[derive(Debug, Clone, Default)]
pub struct Insert {
    /// The documents; each without `_id` gets a fresh ObjectId as its first field.
    pub documents: Vec<RawDocumentBuf>,
    /// Stop at the first failure (true, MongoDB's default) or go on with the others.
    pub ordered: bool,
    /// Whether the collection's validator is passed over.
    pub bypass_validation: bool,
}

/// What an insert did.
#[derive(Debug, Default)]
pub struct Inserted {
    /// `_id`s of the documents that were inserted, with their places in the request, in order.
    pub ids: Vec<(usize, RawBson)>,
    /// Failures by place in the request.
    pub errors: Vec<WriteError>,
}

/// One update statement.
#[derive(Debug, Clone, Default)]
pub struct UpdateOne {
    /// Which documents.
    pub filter: RawDocumentBuf,
    /// Operators (`{$set: ..}`), a whole replacement document, or a [`pipeline_update`].
    pub update: RawDocumentBuf,
    /// All matching documents rather than the first; only with operators.
    pub multi: bool,
    /// Insert a document made from filter and update when nothing matches.
    pub upsert: bool,
    /// Filters for `$[name]` in update paths.
    pub array_filters: Vec<RawDocumentBuf>,
    /// Which of several documents, when one is changed: MongoDB sort specification.
    pub sort: Option<RawDocumentBuf>,
    /// MongoDB's `let`: variables made of constants, for the expressions of the filter and of an update with a pipeline.
    pub variables: Option<RawDocumentBuf>,
    /// MongoDB's collation for the strings that the filter compares.
    pub collation: Option<RawDocumentBuf>,
}

/// The field of an update document that makes it a pipeline; no operator and no stored field has that name.
pub(crate) const PIPELINE_FIELD: &str = "$pipeline";

/// The update document for an update with an aggregation pipeline: `{$pipeline: [stage, ..]}`. Its stages may be
/// `$addFields`/`$set`, `$project`/`$unset` and `$replaceRoot`/`$replaceWith`.
pub fn pipeline_update(stages: &[RawDocumentBuf]) -> RawDocumentBuf {
    let mut list = RawArrayBuf::new();
    for stage in stages {
        list.push(stage.as_ref());
    }
    let mut update = RawDocumentBuf::new();
    update.append(bson::raw::cstr!("$pipeline"), list);
    update
}

/// Update statements.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// The statements, applied in order.
    pub statements: Vec<UpdateOne>,
    /// Stop at the first failure or go on.
    pub ordered: bool,
    /// Whether the collection's validator is passed over.
    pub bypass_validation: bool,
}

/// What updates did.
#[derive(Debug, Default)]
pub struct Updated {
    /// Documents that matched, upserts not counted.
    pub matched: u64,
    /// Documents whose bytes changed.
    pub modified: u64,
    /// `_id`s of upserted documents by statement.
    pub upserted: Vec<(usize, RawBson)>,
    /// `matched` and `modified` of each statement that was come to, in order.
    pub each: Vec<(u64, u64)>,
    /// Failures by statement.
    pub errors: Vec<WriteError>,
}

/// One delete statement.
#[derive(Debug, Clone, Default)]
pub struct DeleteOne {
    /// Which documents.
    pub filter: RawDocumentBuf,
    /// All matching documents rather than the first.
    pub multi: bool,
    /// MongoDB's `let`: variables made of constants, for the expressions of the filter.
    pub variables: Option<RawDocumentBuf>,
    /// MongoDB's collation for the strings that the filter compares.
    pub collation: Option<RawDocumentBuf>,
}

/// Delete statements.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    /// The statements, applied in order.
    pub statements: Vec<DeleteOne>,
    /// Stop at the first failure or go on.
    pub ordered: bool,
}

/// What deletes did.
#[derive(Debug, Default)]
pub struct Deleted {
    /// Documents removed.
    pub deleted: u64,
    /// `deleted` of each statement that was come to, in order.
    pub each: Vec<u64>,
    /// Failures by statement.
    pub errors: Vec<WriteError>,
}

/// MongoDB's findAndModify: change at most one document and return it as it was or as it became.
#[derive(Debug, Clone, Default)]
pub struct FindAndModify {
    /// Which documents.
    pub filter: RawDocumentBuf,
    /// Which of them, when several match.
    pub sort: Option<RawDocumentBuf>,
    /// The change; `None` removes the document.
    pub update: Option<RawDocumentBuf>,
    /// What of the document to return.
    pub projection: Option<RawDocumentBuf>,
    /// Insert when nothing matches.
    pub upsert: bool,
    /// Return the document as it became instead of as it was.
    pub return_new: bool,
    /// Filters for `$[name]` in update paths.
    pub array_filters: Vec<RawDocumentBuf>,
    /// MongoDB's `let`: variables made of constants, for the expressions of the filter and of an update with a pipeline.
    pub variables: Option<RawDocumentBuf>,
    /// MongoDB's collation for the strings that filter and sort compare.
    pub collation: Option<RawDocumentBuf>,
    /// Whether the collection's validator is passed over.
    pub bypass_validation: bool,
}

/// What findAndModify did.
#[derive(Debug, Default)]
pub struct Modified {
    /// The document asked for, if there is one.
    pub document: Option<RawDocumentBuf>,
    /// Whether an existing document was changed or removed.
    pub matched: bool,
    /// `_id` of the upserted document.
    pub upserted: Option<RawBson>,
}

/// A write for [`Docs::transact`](crate::Docs::transact).
#[derive(Debug, Clone)]
pub enum Write {
    /// Insert into the collection.
    Insert(Namespace, Insert),
    /// Update in the collection.
    Update(Namespace, Update),
    /// Delete from the collection.
    Delete(Namespace, Delete),
}

/// The reply to one [`Write`].
#[derive(Debug)]
pub enum Written {
    /// To an insert.
    Inserted(Inserted),
    /// To an update.
    Updated(Updated),
    /// To a delete.
    Deleted(Deleted),
}

/// One failed statement or document of a write that otherwise went on.
#[derive(Debug)]
pub struct WriteError {
    /// Its place in the request.
    pub index: usize,
    /// What happened.
    pub error: Error,
}

/// What a collection was made or changed to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CollectionOptions {
    /// A filter that documents have to match to be stored. An empty one is none.
    pub validator: Option<RawDocumentBuf>,
    /// Which documents the validator is asked of.
    pub validation_level: ValidationLevel,
    /// What becomes of a document that it does not match.
    pub validation_action: ValidationAction,
    /// Whether the change log gets documents as they were before and after each change: MongoDB's
    /// `changeStreamPreAndPostImages`.
    pub images: bool,
    /// How much it holds at most, if it is capped: its documents keep the order in which they came, and the first
    /// go when there is more.
    pub capped: Option<Capped>,
    /// The name of the index that its documents are stored in, that on `_id`: MongoDB's `clusteredIndex`. Every
    /// collection is stored so; this one says it.
    pub clustered: Option<Arc<str>>,
    /// MongoDB's collation that its commands and indexes have when they name none; `None` is the simple one. It holds for
    /// its `_id`s too, and never changes.
    pub collation: Option<RawDocumentBuf>,
    /// What its documents measure, if it is a time series: they are stored by their time and may share an `_id`.
    pub time_series: Option<TimeSeries>,
}

/// What a time series is of: MongoDB's `timeseries`, and the `expireAfterSeconds` that stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeSeries {
    /// The name of the field that has each document's date. It is never that of another one.
    pub time_field: Arc<str>,
    /// The name of the field that tells what is measured; updates ask about and change nothing else.
    pub meta_field: Option<Arc<str>>,
    /// What MongoDB's buckets span. It is shown and does nothing: documents are stored one by one.
    pub span: BucketSpan,
    /// After how many seconds, 0 to 2^31 - 1, documents expire by their date.
    pub expire_after_seconds: Option<i64>,
}

/// How long MongoDB's buckets of measurements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketSpan {
    /// As goes with how far measurements are apart.
    Granularity(Granularity),
    /// So many seconds, `bucketMaxSpanSeconds` and `bucketRoundingSeconds`: 1 to 31,536,000.
    Seconds(u32),
}

impl Default for BucketSpan {
    fn default() -> Self {
        Self::Granularity(Granularity::Seconds)
    }
}

/// How far measurements of one thing are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
}

/// The bounds of a capped collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capped {
    /// Most bytes of documents.
    pub size: u64,
    /// Most documents.
    pub max: Option<u64>,
}

/// A collection as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectionInfo {
    /// Its name.
    pub name: Arc<str>,
    /// What it was made or changed to be.
    pub options: CollectionOptions,
    /// Its UUID, which a rename leaves as it is; a view has none.
    pub uuid: Option<[u8; 16]>,
    /// What it is made of, if it is a view.
    pub view: Option<View>,
}

/// A collection that is a pipeline on another one: reads of it run that first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The collection or view of the same database that it is of; it need not be there.
    pub on: Arc<str>,
    /// MongoDB's stages.
    pub pipeline: Vec<RawDocumentBuf>,
    /// MongoDB's collation for the strings that its stages and commands on it compare; `None` is the simple one.
    pub collation: Option<RawDocumentBuf>,
}

/// What [`Docs::modify_collection`](crate::Docs::modify_collection) changes; `None` leaves things as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CollectionChange {
    /// The new validator; an empty one is none.
    pub validator: Option<RawDocumentBuf>,
    /// The new level.
    pub validation_level: Option<ValidationLevel>,
    /// The new action.
    pub validation_action: Option<ValidationAction>,
    /// Whether the change log gets images, for changes from now on.
    pub images: Option<bool>,
    /// The new size of a capped collection. What is too much goes with the next insert.
    pub capped_size: Option<u64>,
    /// The new number of documents of a capped collection; 0 is no limit.
    pub capped_max: Option<u64>,
    /// Makes it a capped collection of this size, bytes, without its indexes: MongoDB's `convertToCapped`. Nothing else is
    /// changed then. It may have 100,000 documents.
    pub convert_to_capped: Option<u64>,
    /// The new span of a time series' buckets, no shorter than the old one.
    pub span: Option<BucketSpan>,
    /// After how many seconds a time series' documents expire; `Some(None)` is never.
    pub expire_after_seconds: Option<Option<i64>>,
}

/// Which documents a validator is asked of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ValidationLevel {
    /// None.
    Off,
    /// Those that are inserted, and updated ones that matched before.
    Moderate,
    /// All that are inserted or updated.
    #[default]
    Strict,
}

/// What becomes of a document that a validator does not match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ValidationAction {
    /// It is stored, and the log says so.
    Warn,
    /// It is refused.
    #[default]
    Error,
}

/// A secondary index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IndexSpec {
    /// Its name, unique within the collection; [`default_index_name`] when the caller has none.
    pub name: Arc<str>,
    /// The fields with their directions (1 or -1), at most 32.
    pub keys: Vec<(Arc<str>, i32)>,
    /// What is entered for the fields.
    pub kind: IndexKind,
    /// Whether two documents may not have the same key.
    pub unique: bool,
    /// Whether documents without any of the fields are left out.
    pub sparse: bool,
    /// Whether the planner passes it over; it is kept up and enforced all the same.
    pub hidden: bool,
    /// Only documents that this filter matches are entered: equality, `$exists: true`, comparisons, `$in`, `$type`,
    /// `$and` and `$or` of these.
    pub partial_filter: Option<RawDocumentBuf>,
    /// Documents whose date in the (only) field is older than this expire: 0 to 2^31 - 1.
    pub expire_after_seconds: Option<i64>,
    /// Whether it is the index on `_id` of a collection that says that it is stored in it.
    pub clustered: bool,
    /// Whether it was asked for in the background, if that was said. Every index is made so; this one shows it.
    pub background: Option<bool>,
    /// MongoDB's collation of the strings in it. Of one that is to be made `None` is the collection's; of one that is
    /// there it has all options, and `None` is the simple one.
    pub collation: Option<RawDocumentBuf>,
}

/// What an index enters for its fields.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum IndexKind {
    /// The values, in order.
    #[default]
    Ordered,
    /// MongoDB's `hashed`: a hash of the value of the only field. Serves equality.
    Hashed,
    /// MongoDB's `2dsphere`: of the fields of which bit i of `places` is set the cells that cover the places on the
    /// Earth that they have, of the others the values. Documents without any place are left out.
    Sphere {
        /// At least one bit, below 2 to the number of fields; these fields have the direction 1.
        places: u32,
    },
    /// MongoDB's `2d`: of the first field, whose direction is 1, the cells of a grid that its coordinate pairs are in, of
    /// the others the values. Documents without such a pair are left out.
    Plane(Grid),
}

/// What [`Docs::modify_index`](crate::Docs::modify_index) changes; `None` leaves things as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexChange {
    /// The new life of documents, in seconds.
    pub expire_after_seconds: Option<i64>,
    /// Whether the planner passes the index over.
    pub hidden: Option<bool>,
}

/// What [`Docs::expire`](crate::Docs::expire) did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Documents removed.
    pub deleted: u64,
    /// Whether the budget was used up, so that there may be more.
    pub more: bool,
}

/// MongoDB's name for an index that was given none: `a_1_b_-1`.
pub fn default_index_name(keys: &[(Arc<str>, i32)]) -> Arc<str> {
    let parts: Vec<String> = keys.iter().map(|(path, dir)| format!("{path}_{dir}")).collect();
    parts.join("_").into()
}
