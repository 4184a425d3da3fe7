//! A collection and the operations that begin at it.

use std::borrow::Borrow;
use std::cell::OnceCell;
use std::fmt;
use std::marker::PhantomData;

use bson::Document;
use serde::Serialize;

use super::Error;
use super::operations::*;
use crate::bindings::imports::cloudlet::database::documents as wit;

/// The collection `name` of the app's database, holding documents that are read and written as `T`.
///
/// Does no I/O: a collection that is not granted answers [`Error::Denied`] at its first operation.
pub fn collection<T>(name: impl Into<String>) -> Collection<T> {
    Collection {
        name: name.into(),
        acting: wit::Acting::App,
        handle: OnceCell::new(),
        _documents: PhantomData,
    }
}

/// A collection of documents that are read and written as `T`. Made by [`collection`].
///
/// `T` is usually a struct with serde's derives, or [`Document`]. The name of a field is the name in the document;
/// `#[serde(rename = "_id", skip_serializing_if = "Option::is_none")] id: Option<ObjectId>` names the id.
pub struct Collection<T> {
    name: String,
    acting: wit::Acting,
    handle: OnceCell<wit::Collection>,
    _documents: PhantomData<fn() -> T>,
}

impl<T> Collection<T> {
    /// The same collection as the caller of this invocation: its rule is added to every filter, documents of others
    /// are invisible, and what is inserted belongs to the caller.
    #[must_use]
    pub fn as_caller(self) -> Self {
        Self {
            acting: wit::Acting::Caller,
            handle: OnceCell::new(),
            ..self
        }
    }

    /// The same collection with its documents read and written as `U`.
    pub fn clone_with_type<U>(&self) -> Collection<U> {
        Collection {
            name: self.name.clone(),
            acting: self.acting,
            handle: OnceCell::new(),
            _documents: PhantomData,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's collection, opened when first wanted.
    pub(super) fn handle(&self) -> Result<&wit::Collection, Error> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle);
        }
        let opened = wit::Collection::open(&self.name, self.acting)?;
        Ok(self.handle.get_or_init(|| opened))
    }

    /// Documents that match `filter`; `run` gives a [`Cursor`](super::Cursor).
    pub fn find(&self, filter: Document) -> Find<'_, T> {
        Find::new(self, filter)
    }

    /// The first document that matches `filter`.
    pub fn find_one(&self, filter: Document) -> FindOne<'_, T> {
        FindOne::new(self, filter)
    }

    /// How many documents match `filter`.
    pub fn count_documents(&self, filter: Document) -> CountDocuments<'_, T> {
        CountDocuments::new(self, filter)
    }

    /// Changes the first document that matches `filter` by operators such as `$set`.
    pub fn update_one(&self, filter: Document, update: Document) -> Update<'_, T> {
        Update::new(self, filter, operators(update), false)
    }

    /// Changes all documents that match `filter` by operators such as `$set`.
    pub fn update_many(&self, filter: Document, update: Document) -> Update<'_, T> {
        Update::new(self, filter, operators(update), true)
    }

    /// Removes the first document that matches `filter`.
    pub fn delete_one(&self, filter: Document) -> Delete<'_, T> {
        Delete::new(self, filter, false)
    }

    /// Removes all documents that match `filter`.
    pub fn delete_many(&self, filter: Document) -> Delete<'_, T> {
        Delete::new(self, filter, true)
    }

    /// Changes one document by operators and returns it, in one step.
    pub fn find_one_and_update(&self, filter: Document, update: Document) -> FindOneAnd<'_, T> {
        FindOneAnd::new(self, filter, operators(update).map(Some))
    }

    /// Removes one document and returns it, in one step.
    pub fn find_one_and_delete(&self, filter: Document) -> FindOneAnd<'_, T> {
        FindOneAnd::new(self, filter, Ok(None))
    }
}

impl<T: Serialize> Collection<T> {
    /// Inserts a document. One without `_id` gets an `ObjectId`.
    pub fn insert_one(&self, document: impl Borrow<T>) -> InsertOne<'_, T> {
        InsertOne::new(self, bson::serialize_to_vec(document.borrow()))
    }

    /// Inserts documents in order. When one fails, those before it stay inserted.
    pub fn insert_many(&self, documents: impl IntoIterator<Item = impl Borrow<T>>) -> InsertMany<'_, T> {
        InsertMany::new(
            self,
            documents
                .into_iter()
                .map(|document| bson::serialize_to_vec(document.borrow()))
                .collect(),
        )
    }

    /// Replaces the first document that matches `filter` with a whole new one; its `_id` stays.
    pub fn replace_one(&self, filter: Document, replacement: impl Borrow<T>) -> Update<'_, T> {
        Update::new(self, filter, whole(replacement.borrow()), false)
    }

    /// Replaces one document with a whole new one and returns it, in one step.
    pub fn find_one_and_replace(&self, filter: Document, replacement: impl Borrow<T>) -> FindOneAnd<'_, T> {
        FindOneAnd::new(self, filter, whole(replacement.borrow()).map(Some))
    }
}

/// The bytes of an update by operators. A plain document here would replace what it was meant to change.
fn operators(update: Document) -> Result<Vec<u8>, Error> {
    match update.keys().next() {
        Some(key) if key.starts_with('$') => Ok(update.to_vec()?),
        _ => Err(Error::Invalid {
            code: 9,
            message: "an update consists of operators such as $set; to replace the document use replace_one"
                .to_owned(),
        }),
    }
}

/// The bytes of a replacement.
fn whole<T: Serialize>(replacement: &T) -> Result<Vec<u8>, Error> {
    let bytes = bson::serialize_to_vec(replacement)?;
    let first = bson::RawDocument::from_bytes(&bytes)?.iter().next().transpose()?;
    match first {
        Some((key, _)) if key.as_str().starts_with('$') => Err(Error::Invalid {
            code: 9,
            message: "a replacement has no operators; use update_one".to_owned(),
        }),
        _ => Ok(bytes),
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        self.clone_with_type()
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection")
            .field("name", &self.name)
            .field("acting", &self.acting)
            .finish()
    }
}
