//! Documents over the embedded engine.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawBson, RawDocumentBuf, Timestamp};
use cloudlet_base::Deadline;
use cloudlet_docdb::{
    Aggregate, ChangeCursor, Changes, CollectionChange, CollectionInfo, CollectionOptions, Cursor, Delete,
    Deleted, Docs, Error, Find, FindAndModify, IndexChange, IndexSpec, Insert, Inserted, Modified, Namespace,
    Page, Update, Updated, View, Watch, WatchScope, Write, Written,
};

use crate::{BoxFuture, Documents, Statements, Transaction};

/// Longest that one call waits for events.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The embedded engine behind the [`Documents`] seam.
pub struct Embedded(Docs);

impl Embedded {
    /// Serves `docs`.
    pub fn new(docs: Docs) -> Self {
        Self(docs)
    }
}

/// A transaction of the embedded engine.
struct EmbeddedTransaction(cloudlet_docdb::Transaction);

/// The engine and its transactions take the same statements.
macro_rules! statements {
    ($($engine:ty),*) => {$(
impl Statements for $engine {
    fn find<'a>(
        &'a self,
        ns: &'a Namespace,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(self.0.find(ns, find, deadline))
    }

    fn next_page(
        &self,
        cursor: Cursor,
        batch: Option<u32>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Page, Error>> {
        Box::pin(self.0.next_page(cursor, batch, deadline))
    }

    fn count<'a>(
        &'a self,
        ns: &'a Namespace,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(self.0.count(ns, find, deadline))
    }

    fn distinct<'a>(
        &'a self,
        ns: &'a Namespace,
        path: &'a str,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<RawBson>, Error>> {
        Box::pin(self.0.distinct(ns, path, find, deadline))
    }

    fn aggregate<'a>(
        &'a self,
        ns: &'a Namespace,
        aggregate: Aggregate,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(self.0.aggregate(ns, aggregate, deadline))
    }

    fn insert<'a>(
        &'a self,
        ns: &'a Namespace,
        insert: Insert,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Inserted, Error>> {
        Box::pin(self.0.insert(ns, insert, deadline))
    }

    fn update<'a>(
        &'a self,
        ns: &'a Namespace,
        update: Update,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Updated, Error>> {
        Box::pin(self.0.update(ns, update, deadline))
    }

    fn delete<'a>(
        &'a self,
        ns: &'a Namespace,
        delete: Delete,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Deleted, Error>> {
        Box::pin(self.0.delete(ns, delete, deadline))
    }

    fn find_and_modify<'a>(
        &'a self,
        ns: &'a Namespace,
        modify: FindAndModify,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Modified, Error>> {
        Box::pin(self.0.find_and_modify(ns, modify, deadline))
    }
}
    )*};
}

statements!(Embedded, EmbeddedTransaction);

impl Transaction for EmbeddedTransaction {
    fn create_collection<'a>(
        &'a self,
        ns: &'a Namespace,
        options: CollectionOptions,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.create_collection_with(ns, options))
    }

    fn create_indexes<'a>(
        &'a self,
        ns: &'a Namespace,
        indexes: Vec<IndexSpec>,
    ) -> BoxFuture<'a, Result<(Option<usize>, usize), Error>> {
        Box::pin(self.0.create_indexes(ns, indexes))
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.0.commit())
    }

    fn abort(&self) {
        self.0.abort();
    }

    fn is_open(&self) -> bool {
        self.0.is_open()
    }
}

impl Documents for Embedded {
    fn start_transaction(&self) -> Result<Arc<dyn Transaction>, Error> {
        Ok(Arc::new(EmbeddedTransaction(self.0.start_transaction()?)))
    }

    fn transact(&self, writes: Vec<Write>, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Written>, Error>> {
        Box::pin(self.0.transact(writes, deadline))
    }

    fn watch(&self, scope: WatchScope, watch: Watch) -> BoxFuture<'_, Result<ChangeCursor, Error>> {
        Box::pin(self.0.watch(scope, watch))
    }

    fn next_changes(
        &self,
        mut cursor: ChangeCursor,
        batch: Option<u32>,
        wait: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Changes, Error>> {
        Box::pin(async move {
            let until = tokio::time::Instant::now() + wait.min(WAIT_MAX);
            loop {
                let changes = self.0.next_changes(cursor, batch, deadline.clone()).await?;
                let next = match &changes.cursor {
                    Some(next) if changes.events.is_empty() && batch != Some(0) => next.clone(),
                    _ => return Ok(changes),
                };
                // Passed over much that is not the stream's: there may be something of its own behind.
                if !changes.more {
                    if wait.is_zero() {
                        return Ok(changes);
                    }
                    match tokio::time::timeout_at(until, self.0.changed(&next)).await {
                        Ok(changed) => changed?,
                        // Once more, for a token past what others wrote meanwhile.
                        Err(_elapsed) => return self.0.next_changes(next, batch, deadline).await,
                    }
                }
                cursor = next;
            }
        })
    }

    fn tail(
        &self,
        mut cursor: Cursor,
        batch: Option<u32>,
        wait: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Page, Error>> {
        Box::pin(async move {
            let until = tokio::time::Instant::now() + wait.min(WAIT_MAX);
            loop {
                // Before the page is read, so that nothing is missed that comes after it.
                let changed = self.0.tailed(&cursor).filter(|_| !wait.is_zero());
                let page = self.0.next_page(cursor, batch, deadline.clone()).await?;
                let (Some(changed), true) = (changed, page.documents.is_empty()) else {
                    return Ok(page);
                };
                let Some(next) = page.cursor else {
                    return Ok(page);
                };
                match tokio::time::timeout_at(until, changed).await {
                    Ok(changed) => changed?,
                    Err(_elapsed) => {
                        return Ok(Page {
                            documents: Vec::new(),
                            cursor: Some(next),
                        });
                    }
                }
                cursor = next;
            }
        })
    }

    fn operation_time(&self) -> BoxFuture<'_, Result<Option<Timestamp>, Error>> {
        Box::pin(std::future::ready(Ok(self.0.operation_time())))
    }

    fn keep_images<'a>(&'a self, ns: &'a Namespace, keep: bool) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.keep_images(ns, keep))
    }

    fn create_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.create_collection(ns))
    }

    fn create_collection_with<'a>(
        &'a self,
        ns: &'a Namespace,
        options: CollectionOptions,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.create_collection_with(ns, options))
    }

    fn modify_collection<'a>(
        &'a self,
        ns: &'a Namespace,
        change: CollectionChange,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.modify_collection(ns, change))
    }

    fn create_view<'a>(&'a self, ns: &'a Namespace, view: View) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.create_view(ns, view))
    }

    fn modify_view<'a>(&'a self, ns: &'a Namespace, view: View) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.modify_view(ns, view))
    }

    fn collection_options<'a>(
        &'a self,
        ns: &'a Namespace,
    ) -> BoxFuture<'a, Result<CollectionOptions, Error>> {
        Box::pin(self.0.collection_options(ns))
    }

    fn describe_collections<'a>(
        &'a self,
        database: &'a str,
    ) -> BoxFuture<'a, Result<Vec<CollectionInfo>, Error>> {
        Box::pin(self.0.describe_collections(database))
    }

    fn drop_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(self.0.drop_collection(ns))
    }

    fn list_collections<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<Vec<Arc<str>>, Error>> {
        Box::pin(self.0.list_collections(database))
    }

    fn list_databases(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(self.0.list_databases())
    }

    fn drop_database<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.drop_database(database))
    }

    fn rename_collection<'a>(
        &'a self,
        from: &'a Namespace,
        to: &'a Namespace,
        drop_target: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.rename_collection(from, to, drop_target))
    }

    fn create_indexes<'a>(
        &'a self,
        ns: &'a Namespace,
        indexes: Vec<IndexSpec>,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(self.0.create_indexes(ns, indexes))
    }

    fn modify_index<'a>(
        &'a self,
        ns: &'a Namespace,
        name: &'a str,
        change: IndexChange,
    ) -> BoxFuture<'a, Result<(IndexSpec, IndexSpec), Error>> {
        Box::pin(self.0.modify_index(ns, name, change))
    }

    fn drop_index<'a>(&'a self, ns: &'a Namespace, name: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.drop_index(ns, name))
    }

    fn list_indexes<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<Vec<IndexSpec>, Error>> {
        Box::pin(self.0.list_indexes(ns))
    }

    fn explain<'a>(
        &'a self,
        ns: &'a Namespace,
        find: Find,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawDocumentBuf, Error>> {
        Box::pin(self.0.explain(ns, find, deadline))
    }

    fn explain_aggregate<'a>(
        &'a self,
        ns: &'a Namespace,
        aggregate: Aggregate,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawDocumentBuf, Error>> {
        Box::pin(self.0.explain_aggregate(ns, aggregate, deadline))
    }
}
