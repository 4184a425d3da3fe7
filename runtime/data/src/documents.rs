//! The contract of a document database.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};
use cloudlet_base::Deadline;
use cloudlet_docdb::{
    Aggregate, Cursor, Delete, Deleted, Error, Find, FindAndModify, IndexSpec, Insert, Inserted, Modified,
    Namespace, Page, Update, Updated, Write, Written,
};

/// A future that a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

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

    /// How many documents match, after `skip` and up to `limit`.
    fn count<'a>(
        &'a self,
        ns: &'a Namespace,
        filter: RawDocumentBuf,
        skip: u64,
        limit: Option<u64>,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64, Error>>;

    /// Distinct values at `path` over the matching documents.
    fn distinct<'a>(
        &'a self,
        ns: &'a Namespace,
        path: &'a str,
        filter: RawDocumentBuf,
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

    /// Makes a collection; `NamespaceExists` when it exists.
    fn create_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes a collection with its documents and indexes. Returns whether there was one.
    fn drop_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<bool, Error>>;

    /// Names of the collections of a database, in order.
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
