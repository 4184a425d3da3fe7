//! `cloudlet:database/documents`: checks the grant, then asks the app's data as the function or as its caller.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};
use cloudlet_base::Fault;
use cloudlet_data::{
    Code, Cursor, Delete, DeleteOne, Find, FindAndModify, Insert, Session, Update, UpdateOne,
    is_platform_collection,
};
use wasmtime::component::Resource;

use super::{Failure, View, database_error, first_error};
use crate::bindings::cloudlet::database::documents::{
    self, Acting, Document, FindAndModifyOptions, FindOptions, UpdateOptions, UpdateResult,
};

/// Most documents that a guest can ask for in one batch.
const BATCH_MAX: u32 = 10_000;
/// Most documents in one insert.
const INSERT_MAX: usize = 10_000;
/// Most array filters of one update.
const ARRAY_FILTERS_MAX: usize = 100;

/// A guest's handle of a collection.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Collection {
    name: Arc<str>,
    session: Arc<Session>,
}

/// A guest's handle of a result.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct GuestCursor {
    session: Arc<Session>,
    /// The batch that came with the query, until it is fetched.
    first: Vec<RawDocumentBuf>,
    rest: Option<Cursor>,
    batch: Option<u32>,
}

impl documents::Host for View<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<documents::Error> {
        database_error(failure)
    }
}

impl documents::HostCollection for View<'_> {
    fn open(&mut self, name: String, acting: Acting) -> Result<Resource<Collection>, Failure> {
        let granted = &self.run.function.spec.grants.database;
        // A grant of everything is of the app's own collections.
        let all = |grant: &String| grant == "*" && !is_platform_collection(&name);
        if !granted.iter().any(|grant| *grant == name || all(grant)) {
            return Err(Failure::denied(format!(
                "collection {name:?} is not granted to function {:?}; add it to grants.database",
                self.run.function.spec.name
            )));
        }
        let principal = match acting {
            Acting::App => self.run.as_function(),
            Acting::Caller => self.run.invocation.principal.clone(),
        };
        let session = Arc::new(self.run.app.services.data.session(principal));
        Ok(self.table.push(Collection {
            name: name.into(),
            session,
        })?)
    }

    async fn find(
        &mut self,
        this: Resource<Collection>,
        filter: Document,
        options: FindOptions,
    ) -> Result<Resource<GuestCursor>, Failure> {
        let (name, session) = self.opened(&this)?;
        let find = to_find(filter, options)?;
        let batch = find.batch;
        let page = session.find(&name, find, self.run.deadline.clone()).await?;
        Ok(self.table.push(GuestCursor {
            session,
            first: page.documents,
            rest: page.cursor,
            batch,
        })?)
    }

    async fn find_one(
        &mut self,
        this: Resource<Collection>,
        filter: Document,
        options: FindOptions,
    ) -> Result<Option<Document>, Failure> {
        let (name, session) = self.opened(&this)?;
        let mut find = to_find(filter, options)?;
        find.limit = Some(1);
        find.batch = Some(1);
        let page = session.find(&name, find, self.run.deadline.clone()).await?;
        Ok(page.documents.into_iter().next().map(RawDocumentBuf::into_bytes))
    }

    async fn insert(
        &mut self,
        this: Resource<Collection>,
        documents: Vec<Document>,
    ) -> Result<Vec<Document>, Failure> {
        let (name, session) = self.opened(&this)?;
        if documents.len() > INSERT_MAX {
            return Err(Failure::limit(format!(
                "an insert of {} documents, over the limit of {INSERT_MAX}",
                documents.len()
            )));
        }
        let insert = Insert {
            documents: all_documents("document", documents)?,
            ordered: true,
            ..Insert::default()
        };
        let done = session.insert(&name, insert, self.run.deadline.clone()).await?;
        first_error(done.errors)?;
        Ok(done.ids.into_iter().map(|(_, id)| id_document(id)).collect())
    }

    async fn update(
        &mut self,
        this: Resource<Collection>,
        filter: Document,
        update: Document,
        options: UpdateOptions,
    ) -> Result<UpdateResult, Failure> {
        let (name, session) = self.opened(&this)?;
        let statement = UpdateOne {
            filter: document("filter", filter)?,
            update: document("update", update)?,
            multi: options.multi,
            upsert: options.upsert,
            array_filters: array_filters(options.array_filters)?,
            ..UpdateOne::default()
        };
        let update = Update {
            statements: vec![statement],
            ordered: true,
            ..Update::default()
        };
        let done = session.update(&name, update, self.run.deadline.clone()).await?;
        first_error(done.errors)?;
        Ok(UpdateResult {
            matched: done.matched,
            modified: done.modified,
            upserted: done.upserted.into_iter().next().map(|(_, id)| id_document(id)),
        })
    }

    async fn delete(
        &mut self,
        this: Resource<Collection>,
        filter: Document,
        multi: bool,
    ) -> Result<u64, Failure> {
        let (name, session) = self.opened(&this)?;
        let statement = DeleteOne {
            filter: document("filter", filter)?,
            multi,
            ..DeleteOne::default()
        };
        let delete = Delete {
            statements: vec![statement],
            ordered: true,
        };
        let done = session.delete(&name, delete, self.run.deadline.clone()).await?;
        first_error(done.errors)?;
        Ok(done.deleted)
    }

    async fn find_and_modify(
        &mut self,
        this: Resource<Collection>,
        filter: Document,
        update: Option<Document>,
        options: FindAndModifyOptions,
    ) -> Result<Option<Document>, Failure> {
        let (name, session) = self.opened(&this)?;
        let modify = FindAndModify {
            filter: document("filter", filter)?,
            sort: optional("sort", options.sort)?,
            update: optional("update", update)?,
            projection: optional("projection", options.projection)?,
            upsert: options.upsert,
            return_new: options.return_new,
            array_filters: array_filters(options.array_filters)?,
            ..FindAndModify::default()
        };
        let done = session
            .find_and_modify(&name, modify, self.run.deadline.clone())
            .await?;
        Ok(done.document.map(RawDocumentBuf::into_bytes))
    }

    async fn count(
        &mut self,
        this: Resource<Collection>,
        filter: Document,
        skip: u64,
        limit: Option<u64>,
    ) -> Result<u64, Failure> {
        let (name, session) = self.opened(&this)?;
        let all = session
            .count(&name, document("filter", filter)?, self.run.deadline.clone())
            .await?;
        Ok(all.saturating_sub(skip).min(limit.unwrap_or(u64::MAX)))
    }

    async fn drop(&mut self, this: Resource<Collection>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl documents::HostCursor for View<'_> {
    async fn next(&mut self, this: Resource<GuestCursor>) -> Result<Vec<Document>, Failure> {
        let cursor = self.table.get_mut(&this)?;
        let mut documents = std::mem::take(&mut cursor.first);
        // A page may be empty with more to come: the filter was checked on many documents and matched none.
        while documents.is_empty() {
            let Some(rest) = cursor.rest.take() else { break };
            let session = Arc::clone(&cursor.session);
            let page = session
                .next_page(rest, cursor.batch, self.run.deadline.clone())
                .await?;
            documents = page.documents;
            cursor.rest = page.cursor;
        }
        Ok(documents.into_iter().map(RawDocumentBuf::into_bytes).collect())
    }

    async fn drop(&mut self, this: Resource<GuestCursor>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl View<'_> {
    fn opened(&self, this: &Resource<Collection>) -> Result<(Arc<str>, Arc<Session>), Failure> {
        let collection = self.table.get(this)?;
        Ok((Arc::clone(&collection.name), Arc::clone(&collection.session)))
    }
}

fn to_find(filter: Document, options: FindOptions) -> Result<Find, Failure> {
    Ok(Find {
        filter: document("filter", filter)?,
        sort: optional("sort", options.sort)?,
        projection: optional("projection", options.projection)?,
        skip: options.skip,
        limit: options.limit,
        batch: options
            .batch_size
            .filter(|batch| *batch > 0)
            .map(|batch| batch.min(BATCH_MAX)),
        ..Find::default()
    })
}

fn document(what: &str, bytes: Document) -> Result<RawDocumentBuf, Failure> {
    RawDocumentBuf::from_bytes(bytes).map_err(|error| Failure::Told {
        kind: Fault::Invalid,
        code: Some(Code::FailedToParse),
        message: format!("the {what} is not a BSON document: {error}"),
    })
}

fn optional(what: &str, bytes: Option<Document>) -> Result<Option<RawDocumentBuf>, Failure> {
    bytes.map(|bytes| document(what, bytes)).transpose()
}

fn all_documents(what: &str, all: Vec<Document>) -> Result<Vec<RawDocumentBuf>, Failure> {
    all.into_iter().map(|bytes| document(what, bytes)).collect()
}

fn array_filters(all: Vec<Document>) -> Result<Vec<RawDocumentBuf>, Failure> {
    if all.len() > ARRAY_FILTERS_MAX {
        return Err(Failure::limit(format!(
            "{} array filters, over the limit of {ARRAY_FILTERS_MAX}",
            all.len()
        )));
    }
    all_documents("array filter", all)
}

/// `{_id: ID}`.
fn id_document(id: RawBson) -> Document {
    let mut document = RawDocumentBuf::new();
    document.append(bson::cstr!("_id"), id);
    document.into_bytes()
}
