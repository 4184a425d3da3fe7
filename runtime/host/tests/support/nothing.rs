//! A database that has nothing and can do nothing, for tests that use none.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};
use cloudlet_base::Deadline;
use cloudlet_data::{
    BoxFuture, Code, Cursor, Delete, Deleted, Documents, Error, Find, FindAndModify, IndexSpec, Insert,
    Inserted, Modified, Namespace, Page, Update, Updated, Write, Written,
};

pub(crate) struct Nothing;

macro_rules! refuse {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        impl Documents for Nothing {
            $(
                fn $name<'a>(&'a self, $(_: $ty),*) -> BoxFuture<'a, Result<$out, Error>> {
                    Box::pin(async { Err(Error::new(Code::CommandNotSupported, "no database in this test")) })
                }
            )*

            fn next_page(&self, _: Cursor, _: Option<u32>, _: Deadline) -> BoxFuture<'_, Result<Page, Error>> {
                Box::pin(async { Err(Error::new(Code::CommandNotSupported, "no database in this test")) })
            }

            fn transact(&self, _: Vec<Write>, _: Deadline) -> BoxFuture<'_, Result<Vec<Written>, Error>> {
                Box::pin(async { Err(Error::new(Code::CommandNotSupported, "no database in this test")) })
            }
        }
    };
}

refuse! {
    fn find(ns: &'a Namespace, find: Find, deadline: Deadline) -> Page;
    fn count(ns: &'a Namespace, filter: RawDocumentBuf, skip: u64, limit: Option<u64>, deadline: Deadline) -> u64;
    fn distinct(ns: &'a Namespace, path: &'a str, filter: RawDocumentBuf, deadline: Deadline) -> Vec<RawBson>;
    fn insert(ns: &'a Namespace, insert: Insert, deadline: Deadline) -> Inserted;
    fn update(ns: &'a Namespace, update: Update, deadline: Deadline) -> Updated;
    fn delete(ns: &'a Namespace, delete: Delete, deadline: Deadline) -> Deleted;
    fn find_and_modify(ns: &'a Namespace, modify: FindAndModify, deadline: Deadline) -> Modified;
    fn create_collection(ns: &'a Namespace) -> ();
    fn drop_collection(ns: &'a Namespace) -> bool;
    fn list_collections(database: &'a str) -> Vec<Arc<str>>;
    fn create_indexes(ns: &'a Namespace, indexes: Vec<IndexSpec>) -> usize;
    fn drop_index(ns: &'a Namespace, name: &'a str) -> ();
    fn list_indexes(ns: &'a Namespace) -> Vec<IndexSpec>;
    fn explain(ns: &'a Namespace, find: Find, deadline: Deadline) -> RawDocumentBuf;
}
