//! The contract of a document database.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bson::{RawBson, RawDocumentBuf, Timestamp};
use cloudlet_base::Deadline;
use cloudlet_docdb::{
    Aggregate, ChangeCursor, Changes, CollectionChange, CollectionInfo, CollectionOptions, Cursor, Delete,
    Deleted, Error, Find, FindAndModify, IndexChange, IndexSpec, Insert, Inserted, Modified, Namespace, Page,
    Update, Updated, View, Watch, WatchScope, Write, Written,
};

/// A future that a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the names of collections begin with that the platform keeps in an app's own database, such as those of its
/// key-value stores. Whoever acts as the app's operator sees them as any other collection, and dumps have them; no grant
/// or rule of a manifest names one, and clients reach none.
pub const PLATFORM_PREFIX: &str = "cloudlet.";

/// Whether the collection is the platform's.
pub fn is_platform_collection(name: &str) -> bool {
    name.starts_with(PLATFORM_PREFIX)
}

/// What can be asked of a database and, in the same words, of a transaction on it.
pub trait Statements: Send + Sync + 'static {
    /// Runs a query and returns its first page. A missing collection is an empty one.
    fn find<'a>(
        &'a self,
        ns: &'a Namespace,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// The next page of a result, of at most `batch` documents.
    fn next_page(
        &self,
        cursor: Cursor,
        batch: Option<u32>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Page, Error>>;

    /// How many documents match, after `skip` and up to `limit`; what else the query has but variables and collation
    /// counts for nothing.
    fn count<'a>(
        &'a self,
        ns: &'a Namespace,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64, Error>>;

    /// Distinct values at `path` over the documents that match; what the query has but filter, variables and collation
    /// counts for nothing.
    fn distinct<'a>(
        &'a self,
        ns: &'a Namespace,
        path: &'a str,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<RawBson>, Error>>;

    /// Runs an aggregation and returns its first page; [`next_page`](Self::next_page) gives the others. One that
    /// ends in `$out` or `$merge` returns an empty page when its result is durable where it went, all of it or
    /// nothing. A missing collection is an empty one.
    fn aggregate<'a>(
        &'a self,
        ns: &'a Namespace,
        aggregate: Aggregate,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// Inserts documents, making the collection when it is not there.
    fn insert<'a>(
        &'a self,
        ns: &'a Namespace,
        insert: Insert,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Inserted, Error>>;

    /// Updates documents.
    fn update<'a>(
        &'a self,
        ns: &'a Namespace,
        update: Update,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Updated, Error>>;

    /// Deletes documents.
    fn delete<'a>(
        &'a self,
        ns: &'a Namespace,
        delete: Delete,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Deleted, Error>>;

    /// Changes at most one document and returns it.
    fn find_and_modify<'a>(
        &'a self,
        ns: &'a Namespace,
        modify: FindAndModify,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Modified, Error>>;
}

/// A transaction of several statements, under snapshot isolation: it sees the state in which it began and its own
/// changes, and of two that change the same document one gets `WriteConflict`. Any error of a statement, also of a
/// single document in it, ends it; so do its time and the drop of the last handle, and nothing is changed then.
/// Statements of one transaction run one after another; a cursor of it goes on in it only.
pub trait Transaction: Statements {
    /// As [`Documents::create_collection_with`]. A collection or index that anybody else makes, changes or drops before the
    /// commit is a conflict.
    fn create_collection<'a>(
        &'a self,
        ns: &'a Namespace,
        options: CollectionOptions,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// As [`Documents::create_indexes`], on a collection that is not there or was made in the transaction;
    /// `OperationNotSupportedInTransaction` for another one, unless it has them. Returns how many indexes the collection
    /// had, that on `_id` among them, or none when it was not there; and how many were made.
    fn create_indexes<'a>(
        &'a self,
        ns: &'a Namespace,
        indexes: Vec<IndexSpec>,
    ) -> BoxFuture<'a, Result<(Option<usize>, usize), Error>>;

    /// Makes all changes durable and visible, or none. `WriteConflict`: run the whole transaction again.
    /// `NoSuchTransaction`: it has ended already.
    fn commit(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Ends it without effect; nothing happens when it has ended already.
    fn abort(&self);

    /// Whether it takes statements.
    fn is_open(&self) -> bool;
}

/// A document database with MongoDB's semantics.
///
/// Contract of every implementation: a write's reply arrives when the write is durable; each statement is atomic
/// on one document; [`transact`](Self::transact) is atomic over all its writes; a reader sees only committed
/// states; errors carry MongoDB's codes. Dropping a returned future does not undo a write that was accepted.
pub trait Documents: Statements {
    /// Begins a transaction on the newest committed state. Short and without I/O to wait for.
    ///
    /// # Errors
    /// `TooManyRequests` when too many are open, `IllegalOperation` when the database has none.
    fn start_transaction(&self) -> Result<Arc<dyn Transaction>, Error>;

    /// Several writes, all or nothing: the first failure undoes the others and is returned.
    fn transact(&self, writes: Vec<Write>, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Written>, Error>>;

    /// Opens a change stream on a collection, a database or the deployment: MongoDB's events, in the order of the
    /// changes. It gives no event yet.
    ///
    /// The events of one commit (a statement's, a transaction's) follow one another and are visible together. The
    /// history is kept for a bounded time; what is resumed from a place that is no longer in it is answered with
    /// `ChangeStreamHistoryLost`. Resume tokens outlive a restart, and their texts sort as the events do. Writers
    /// never wait for a stream.
    ///
    /// # Errors
    /// `ChangeStreamHistoryLost`, `InvalidResumeToken`, `IllegalOperation` for a stage that may not be in the
    /// pipeline, `InvalidNamespace` for the platform's own databases, those of a malformed stage.
    fn watch(&self, scope: WatchScope, watch: Watch) -> BoxFuture<'_, Result<ChangeCursor, Error>>;

    /// The next events of a change stream, at most `batch` (and an `invalidate` after them). When there are none it
    /// waits for some, for `wait` at most (an hour at the longest), and then answers with none and a newer token.
    /// Without a cursor in the answer the stream is at its end. The cursor is a plain value: to try again after an
    /// error, keep a clone.
    ///
    /// # Errors
    /// `ChangeStreamHistoryLost` when the history was trimmed past the stream's place, `NoMatchingDocument` when an
    /// image is required and was not kept, `ChangeStreamFatalError` when the pipeline takes away an event's `_id`,
    /// those of the pipeline's expressions.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event: the place is in the cursor.
    fn next_changes(
        &self,
        cursor: ChangeCursor,
        batch: Option<u32>,
        wait: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Changes, Error>>;

    /// The next page of a [tailable](Find::tailable) query. When there is nothing it waits for something, for `wait` at
    /// most (an hour at the longest), and then answers with an empty page. Any other cursor goes on at once.
    ///
    /// # Errors
    /// `CappedPositionLost` when the document is gone at which the cursor stood, `QueryPlanKilled` when the collection
    /// is.
    ///
    /// # Cancel safety
    /// Dropping the future loses the cursor's place.
    fn tail(
        &self,
        cursor: Cursor,
        batch: Option<u32>,
        wait: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Page, Error>>;

    /// The cluster time of the newest event: whatever is written after the answer has a later one. None when there
    /// are no change streams.
    fn operation_time(&self) -> BoxFuture<'_, Result<Option<Timestamp>, Error>>;

    /// Whether change streams can have a collection's documents as they were before and after each change, for
    /// changes from now on; `NamespaceNotFound` when there is no such collection.
    fn keep_images<'a>(&'a self, ns: &'a Namespace, keep: bool) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes a collection; `NamespaceExists` when it exists.
    fn create_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes a collection with options; `NamespaceExists` when it exists, `InvalidOptions` for options that do not go
    /// together or not there, the errors of a filter for a validator that is none.
    ///
    /// A document that the validator refuses fails its statement with `DocumentValidationFailure`, whose
    /// [`info`](Error::info) tells why, unless the statement passes validators over.
    fn create_collection_with<'a>(
        &'a self,
        ns: &'a Namespace,
        options: CollectionOptions,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Changes what can be changed of a collection: MongoDB's `collMod`. Documents that are there are not looked at.
    /// `NamespaceNotFound`, `InvalidOptions`, the errors of a filter.
    fn modify_collection<'a>(
        &'a self,
        ns: &'a Namespace,
        change: CollectionChange,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes a view: a collection that is a pipeline on another one, which all reads of it run first and which no
    /// write takes (`CommandNotSupportedOnView`). `NamespaceExists`, `InvalidNamespace`, `GraphContainsCycle`,
    /// `ViewDepthLimitExceeded`, `OptionNotSupportedOnView` for a stage that no view may have, the errors of a
    /// malformed stage.
    fn create_view<'a>(&'a self, ns: &'a Namespace, view: View) -> BoxFuture<'a, Result<(), Error>>;

    /// Changes what a view is made of. As [`create_view`](Self::create_view); `NamespaceNotFound`, `InvalidOptions`
    /// for a collection.
    fn modify_view<'a>(&'a self, ns: &'a Namespace, view: View) -> BoxFuture<'a, Result<(), Error>>;

    /// The options of a collection; `CommandNotSupportedOnView` for a view, `NamespaceNotFound` when there is no such collection.
    fn collection_options<'a>(&'a self, ns: &'a Namespace)
    -> BoxFuture<'a, Result<CollectionOptions, Error>>;

    /// The collections and views of a database with what they are, in the order of their names.
    fn describe_collections<'a>(
        &'a self,
        database: &'a str,
    ) -> BoxFuture<'a, Result<Vec<CollectionInfo>, Error>>;

    /// Removes a collection with its documents and indexes, or a view. Returns whether there was one.
    fn drop_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<bool, Error>>;

    /// Names of the collections of a database, in order; views are not among them.
    fn list_collections<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<Vec<Arc<str>>, Error>>;

    /// Names of all databases that have a collection, in order, the platform's own (which have a `/`) among them.
    fn list_databases(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>>;

    /// Removes all collections of a database. No error when there are none.
    fn drop_database<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Gives a collection another name, maybe in another database. `NamespaceNotFound` when it is not there,
    /// `NamespaceExists` when the name is taken and `drop_target` is false.
    fn rename_collection<'a>(
        &'a self,
        from: &'a Namespace,
        to: &'a Namespace,
        drop_target: bool,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes the indexes that are not there yet, and the collection. Returns how many were made.
    fn create_indexes<'a>(
        &'a self,
        ns: &'a Namespace,
        indexes: Vec<IndexSpec>,
    ) -> BoxFuture<'a, Result<usize, Error>>;

    /// Changes what can be changed of an index: MongoDB's `collMod`. Returns it as it was and as it is now.
    /// `NamespaceNotFound`, `IndexNotFound`, `InvalidOptions` for a life that documents can't have.
    fn modify_index<'a>(
        &'a self,
        ns: &'a Namespace,
        name: &'a str,
        change: IndexChange,
    ) -> BoxFuture<'a, Result<(IndexSpec, IndexSpec), Error>>;

    /// Removes a secondary index by name.
    fn drop_index<'a>(&'a self, ns: &'a Namespace, name: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The indexes of a collection, `_id_` first.
    fn list_indexes<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<Vec<IndexSpec>, Error>>;

    /// How a query runs, in MongoDB's `explain("executionStats")` shape.
    fn explain<'a>(
        &'a self,
        ns: &'a Namespace,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawDocumentBuf, Error>>;

    /// How an aggregation runs, in MongoDB's shape: the query that feeds it, and the names of the stages after it.
    fn explain_aggregate<'a>(
        &'a self,
        ns: &'a Namespace,
        aggregate: Aggregate,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawDocumentBuf, Error>>;
}
