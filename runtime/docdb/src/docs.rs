//! The façade.
use std::path::PathBuf;
use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};
use cloudlet_base::{Clock, Deadline, Entropy};

use crate::Result;
use crate::lanes::Reply;
use crate::limits::Limits;
use crate::ops::*;

/// How to open the database.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store's file; `None` keeps everything in memory (tests).
    pub path: Option<PathBuf>,
    /// Bytes of page cache.
    pub cache_bytes: usize,
    /// Reader threads.
    pub readers: usize,
    /// Bounds of single operations.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            cache_bytes: 256 * 1024 * 1024,
            readers: 2,
            limits: Limits::default(),
        }
    }
}

/// The database. Cheap to clone; the last clone to go stops the threads after they have finished their work.
#[derive(Clone)]
pub struct Docs;

#[expect(unused_variables, reason = "being built")]
impl Docs {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// When the file is in use by another process, is not a store, is of a newer format, or can't be read.
    pub fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        registry: &prometheus::Registry,
    ) -> Result<Docs> {
        todo!()
    }

    /// Runs a query and returns its first page.
    pub fn find(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<Page> {
        todo!()
    }

    /// The next page, of at most `batch` documents.
    pub fn next_page(&self, cursor: Cursor, batch: Option<u32>, deadline: Deadline) -> Reply<Page> {
        todo!()
    }

    /// How many documents match, after `skip` and up to `limit`.
    pub fn count(
        &self,
        ns: &Namespace,
        filter: RawDocumentBuf,
        skip: u64,
        limit: Option<u64>,
        deadline: Deadline,
    ) -> Reply<u64> {
        todo!()
    }

    /// Distinct values at a path over the matching documents.
    pub fn distinct(
        &self,
        ns: &Namespace,
        path: &str,
        filter: RawDocumentBuf,
        deadline: Deadline,
    ) -> Reply<Vec<RawBson>> {
        todo!()
    }

    /// Inserts documents; durable when the reply arrives. Makes the collection when it is not there.
    pub fn insert(&self, ns: &Namespace, insert: Insert, deadline: Deadline) -> Reply<Inserted> {
        todo!()
    }

    /// Updates documents; durable when the reply arrives.
    pub fn update(&self, ns: &Namespace, update: Update, deadline: Deadline) -> Reply<Updated> {
        todo!()
    }

    /// Deletes documents; durable when the reply arrives.
    pub fn delete(&self, ns: &Namespace, delete: Delete, deadline: Deadline) -> Reply<Deleted> {
        todo!()
    }

    /// Changes at most one document and returns it; durable when the reply arrives.
    pub fn find_and_modify(
        &self,
        ns: &Namespace,
        modify: FindAndModify,
        deadline: Deadline,
    ) -> Reply<Modified> {
        todo!()
    }

    /// Several writes, all or nothing, in one commit: the first failure undoes the others and is returned.
    pub fn transact(&self, writes: Vec<Write>, deadline: Deadline) -> Reply<Vec<Written>> {
        todo!()
    }

    /// Makes a collection; an error when it exists.
    pub fn create_collection(&self, ns: &Namespace) -> Reply<()> {
        todo!()
    }

    /// Removes a collection, its documents and indexes. Returns whether there was one.
    pub fn drop_collection(&self, ns: &Namespace) -> Reply<bool> {
        todo!()
    }

    /// Removes all collections of a database.
    pub fn drop_database(&self, database: &str) -> Reply<()> {
        todo!()
    }

    /// Names of the collections of a database, in order.
    pub fn list_collections(&self, database: &str) -> Reply<Vec<Arc<str>>> {
        todo!()
    }

    /// Names of all databases, in order.
    pub fn list_databases(&self) -> Reply<Vec<Arc<str>>> {
        todo!()
    }

    /// Makes indexes (and the collection, when it is not there), filling them from existing documents. Those that
    /// exist in the same shape are left as they are. Returns how many were made.
    pub fn create_indexes(&self, ns: &Namespace, indexes: Vec<IndexSpec>) -> Reply<usize> {
        todo!()
    }

    /// Removes a secondary index by name.
    pub fn drop_index(&self, ns: &Namespace, name: &str) -> Reply<()> {
        todo!()
    }

    /// The indexes of a collection, `_id_` first.
    pub fn list_indexes(&self, ns: &Namespace) -> Reply<Vec<IndexSpec>> {
        todo!()
    }

    /// How a query would run and did run, in MongoDB's `explain("executionStats")` shape.
    pub fn explain(&self, ns: &Namespace, find: Find, deadline: Deadline) -> Reply<RawDocumentBuf> {
        todo!()
    }
}
