//! The operations, each with its options by builder and a `run` that does it.

use bson::{Bson, Document};
use serde::de::DeserializeOwned;

use super::{
    Collection, Cursor, DeleteResult, Error, InsertManyResult, InsertOneResult, ReturnDocument, UpdateResult,
};
use crate::bindings::imports::cloudlet::database::documents as wit;

/// The bytes of an optional document.
fn bytes(document: Option<Document>) -> Result<Option<Vec<u8>>, Error> {
    Ok(document.map(|document| document.to_vec()).transpose()?)
}

/// The `_id` in the host's `{_id: ..}`.
fn id(document: &[u8]) -> Result<Bson, Error> {
    let mut document: Document = bson::deserialize_from_slice(document)?;
    document
        .remove("_id")
        .ok_or_else(|| Error::Internal("the node answered without an _id".to_owned()))
}

fn documents(filters: Vec<Document>) -> Result<Vec<Vec<u8>>, Error> {
    Ok(filters.iter().map(Document::to_vec).collect::<Result<_, _>>()?)
}

/// See [`Collection::find`].
#[must_use = "a query does nothing before `run`"]
#[derive(Debug)]
pub struct Find<'a, T> {
    collection: &'a Collection<T>,
    filter: Document,
    sort: Option<Document>,
    projection: Option<Document>,
    skip: u64,
    limit: Option<u64>,
    batch_size: Option<u32>,
}

impl<'a, T> Find<'a, T> {
    pub(super) fn new(collection: &'a Collection<T>, filter: Document) -> Self {
        Self {
            collection,
            filter,
            sort: None,
            projection: None,
            skip: 0,
            limit: None,
            batch_size: None,
        }
    }

    /// In which order, e.g. `doc! { "createdAt": -1 }`.
    pub fn sort(mut self, sort: Document) -> Self {
        self.sort = Some(sort);
        self
    }

    /// Which fields, e.g. `doc! { "room": 1, "_id": 0 }`. What is left must still be a `T`.
    pub fn projection(mut self, projection: Document) -> Self {
        self.projection = Some(projection);
        self
    }

    /// How many documents to pass over first.
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Most documents in all; as in MongoDB 0 is no limit, and a negative number counts as a positive one.
    pub fn limit(mut self, limit: i64) -> Self {
        self.limit = (limit != 0).then_some(limit.unsigned_abs());
        self
    }

    /// Most documents fetched at a time; the engine's choice otherwise.
    pub fn batch_size(mut self, batch_size: u32) -> Self {
        self.batch_size = Some(batch_size);
        self
    }

    /// Starts the query; the first batch is fetched at once.
    ///
    /// # Errors
    /// Any [`Error`] that applies to reading.
    pub fn run(self) -> Result<Cursor<T>, Error> {
        let options = wit::FindOptions {
            sort: bytes(self.sort)?,
            projection: bytes(self.projection)?,
            skip: self.skip,
            limit: self.limit,
            batch_size: self.batch_size,
        };
        Ok(Cursor::new(
            self.collection.handle()?.find(&self.filter.to_vec()?, &options)?,
        ))
    }
}

/// See [`Collection::find_one`].
#[must_use = "a query does nothing before `run`"]
#[derive(Debug)]
pub struct FindOne<'a, T> {
    collection: &'a Collection<T>,
    filter: Document,
    sort: Option<Document>,
    projection: Option<Document>,
    skip: u64,
}

impl<'a, T> FindOne<'a, T> {
    pub(super) fn new(collection: &'a Collection<T>, filter: Document) -> Self {
        Self {
            collection,
            filter,
            sort: None,
            projection: None,
            skip: 0,
        }
    }

    /// Which is the first, when several match.
    pub fn sort(mut self, sort: Document) -> Self {
        self.sort = Some(sort);
        self
    }

    /// Which fields. What is left must still be a `T`.
    pub fn projection(mut self, projection: Document) -> Self {
        self.projection = Some(projection);
        self
    }

    /// How many documents to pass over first.
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }
}

impl<T: DeserializeOwned> FindOne<'_, T> {
    /// Fetches the document.
    ///
    /// # Errors
    /// Any [`Error`] that applies to reading.
    pub fn run(self) -> Result<Option<T>, Error> {
        let options = wit::FindOptions {
            sort: bytes(self.sort)?,
            projection: bytes(self.projection)?,
            skip: self.skip,
            limit: None,
            batch_size: None,
        };
        let found = self
            .collection
            .handle()?
            .find_one(&self.filter.to_vec()?, &options)?;
        Ok(found
            .map(|document| bson::deserialize_from_slice(&document))
            .transpose()?)
    }
}

/// See [`Collection::count_documents`].
#[must_use = "a query does nothing before `run`"]
#[derive(Debug)]
pub struct CountDocuments<'a, T> {
    collection: &'a Collection<T>,
    filter: Document,
    skip: u64,
    limit: Option<u64>,
}

impl<'a, T> CountDocuments<'a, T> {
    pub(super) fn new(collection: &'a Collection<T>, filter: Document) -> Self {
        Self {
            collection,
            filter,
            skip: 0,
            limit: None,
        }
    }

    /// How many documents to pass over first.
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Where to stop counting.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Counts.
    ///
    /// # Errors
    /// Any [`Error`] that applies to reading.
    pub fn run(self) -> Result<u64, Error> {
        Ok(self
            .collection
            .handle()?
            .count(&self.filter.to_vec()?, self.skip, self.limit)?)
    }
}

/// See [`Collection::insert_one`].
#[must_use = "nothing is inserted before `run`"]
#[derive(Debug)]
pub struct InsertOne<'a, T> {
    collection: &'a Collection<T>,
    document: bson::error::Result<Vec<u8>>,
}

impl<'a, T> InsertOne<'a, T> {
    pub(super) fn new(collection: &'a Collection<T>, document: bson::error::Result<Vec<u8>>) -> Self {
        Self { collection, document }
    }

    /// Inserts. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::DuplicateKey`] when a unique index, or the `_id`, is taken; any other that applies to writing.
    pub fn run(self) -> Result<InsertOneResult, Error> {
        let ids = self.collection.handle()?.insert(&[self.document?])?;
        let first = ids
            .first()
            .ok_or_else(|| Error::Internal("the node answered without an _id".to_owned()))?;
        Ok(InsertOneResult {
            inserted_id: id(first)?,
        })
    }
}

/// See [`Collection::insert_many`].
#[must_use = "nothing is inserted before `run`"]
#[derive(Debug)]
pub struct InsertMany<'a, T> {
    collection: &'a Collection<T>,
    documents: bson::error::Result<Vec<Vec<u8>>>,
}

impl<'a, T> InsertMany<'a, T> {
    pub(super) fn new(collection: &'a Collection<T>, documents: bson::error::Result<Vec<Vec<u8>>>) -> Self {
        Self {
            collection,
            documents,
        }
    }

    /// Inserts. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::DuplicateKey`] when a unique index, or an `_id`, is taken; any other that applies to writing. The
    /// documents before the one that failed stay inserted.
    pub fn run(self) -> Result<InsertManyResult, Error> {
        let ids = self.collection.handle()?.insert(&self.documents?)?;
        let inserted_ids = ids
            .iter()
            .enumerate()
            .map(|(at, document)| Ok((at, id(document)?)))
            .collect::<Result<_, Error>>()?;
        Ok(InsertManyResult { inserted_ids })
    }
}

/// See [`Collection::update_one`], [`update_many`](Collection::update_many) and
/// [`replace_one`](Collection::replace_one).
#[must_use = "nothing is updated before `run`"]
#[derive(Debug)]
pub struct Update<'a, T> {
    collection: &'a Collection<T>,
    filter: Document,
    update: Result<Vec<u8>, Error>,
    multi: bool,
    upsert: bool,
    array_filters: Vec<Document>,
}

impl<'a, T> Update<'a, T> {
    pub(super) fn new(
        collection: &'a Collection<T>,
        filter: Document,
        update: Result<Vec<u8>, Error>,
        multi: bool,
    ) -> Self {
        Self {
            collection,
            filter,
            update,
            multi,
            upsert: false,
            array_filters: Vec::new(),
        }
    }

    /// Whether to insert a document made of filter and update when nothing matches.
    pub fn upsert(mut self, upsert: bool) -> Self {
        self.upsert = upsert;
        self
    }

    /// Filters for `$[name]` in the update's paths.
    pub fn array_filters(mut self, filters: impl Into<Vec<Document>>) -> Self {
        self.array_filters = filters.into();
        self
    }

    /// Updates. Durable when it returns.
    ///
    /// # Errors
    /// Any [`Error`] that applies to writing.
    pub fn run(self) -> Result<UpdateResult, Error> {
        let options = wit::UpdateOptions {
            multi: self.multi,
            upsert: self.upsert,
            array_filters: documents(self.array_filters)?,
        };
        let result = self
            .collection
            .handle()?
            .update(&self.filter.to_vec()?, &self.update?, &options)?;
        Ok(UpdateResult {
            matched_count: result.matched,
            modified_count: result.modified,
            upserted_id: result.upserted.map(|document| id(&document)).transpose()?,
        })
    }
}

/// See [`Collection::delete_one`] and [`delete_many`](Collection::delete_many).
#[must_use = "nothing is deleted before `run`"]
#[derive(Debug)]
pub struct Delete<'a, T> {
    collection: &'a Collection<T>,
    filter: Document,
    multi: bool,
}

impl<'a, T> Delete<'a, T> {
    pub(super) fn new(collection: &'a Collection<T>, filter: Document, multi: bool) -> Self {
        Self {
            collection,
            filter,
            multi,
        }
    }

    /// Deletes. Durable when it returns.
    ///
    /// # Errors
    /// Any [`Error`] that applies to writing.
    pub fn run(self) -> Result<DeleteResult, Error> {
        let deleted_count = self
            .collection
            .handle()?
            .delete(&self.filter.to_vec()?, self.multi)?;
        Ok(DeleteResult { deleted_count })
    }
}

/// See [`Collection::find_one_and_update`], [`find_one_and_replace`](Collection::find_one_and_replace) and
/// [`find_one_and_delete`](Collection::find_one_and_delete).
#[must_use = "nothing is changed before `run`"]
#[derive(Debug)]
pub struct FindOneAnd<'a, T> {
    collection: &'a Collection<T>,
    filter: Document,
    update: Result<Option<Vec<u8>>, Error>,
    sort: Option<Document>,
    projection: Option<Document>,
    upsert: bool,
    return_document: ReturnDocument,
    array_filters: Vec<Document>,
}

impl<'a, T> FindOneAnd<'a, T> {
    pub(super) fn new(
        collection: &'a Collection<T>,
        filter: Document,
        update: Result<Option<Vec<u8>>, Error>,
    ) -> Self {
        Self {
            collection,
            filter,
            update,
            sort: None,
            projection: None,
            upsert: false,
            return_document: ReturnDocument::Before,
            array_filters: Vec::new(),
        }
    }

    /// Which document, when several match.
    pub fn sort(mut self, sort: Document) -> Self {
        self.sort = Some(sort);
        self
    }

    /// Which fields to return. What is left must still be a `T`.
    pub fn projection(mut self, projection: Document) -> Self {
        self.projection = Some(projection);
        self
    }

    /// Whether to insert when nothing matches; not for deletions.
    pub fn upsert(mut self, upsert: bool) -> Self {
        self.upsert = upsert;
        self
    }

    /// Whether to return the document as it was (the default) or as it became.
    pub fn return_document(mut self, which: ReturnDocument) -> Self {
        self.return_document = which;
        self
    }

    /// Filters for `$[name]` in the update's paths.
    pub fn array_filters(mut self, filters: impl Into<Vec<Document>>) -> Self {
        self.array_filters = filters.into();
        self
    }
}

impl<T: DeserializeOwned> FindOneAnd<'_, T> {
    /// Changes the document and returns it; none when nothing matched, or when it was inserted and is asked for as it
    /// was. Durable when it returns.
    ///
    /// # Errors
    /// Any [`Error`] that applies to writing.
    pub fn run(self) -> Result<Option<T>, Error> {
        let options = wit::FindAndModifyOptions {
            sort: bytes(self.sort)?,
            projection: bytes(self.projection)?,
            upsert: self.upsert,
            return_new: self.return_document == ReturnDocument::After,
            array_filters: documents(self.array_filters)?,
        };
        let update = self.update?;
        let found =
            self.collection
                .handle()?
                .find_and_modify(&self.filter.to_vec()?, update.as_deref(), &options)?;
        Ok(found
            .map(|document| bson::deserialize_from_slice(&document))
            .transpose()?)
    }
}
