//! Results, one document at a time.

use std::collections::VecDeque;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::Error;
use crate::bindings::imports::cloudlet::database::documents as wit;

/// The documents that a query found, fetched in batches as they are wanted. Dropping it ends the query.
///
/// After an error that is not [`Error::Bson`] there are no more.
#[derive(Debug)]
pub struct Cursor<T> {
    cursor: Option<wit::Cursor>,
    batch: VecDeque<Vec<u8>>,
    _documents: PhantomData<fn() -> T>,
}

impl<T> Cursor<T> {
    pub(super) fn new(cursor: wit::Cursor) -> Self {
        Self {
            cursor: Some(cursor),
            batch: VecDeque::new(),
            _documents: PhantomData,
        }
    }

    /// The same results read as another type.
    pub fn with_type<U>(self) -> Cursor<U> {
        Cursor {
            cursor: self.cursor,
            batch: self.batch,
            _documents: PhantomData,
        }
    }

    /// The next document as BSON bytes.
    fn next_bytes(&mut self) -> Option<Result<Vec<u8>, Error>> {
        if self.batch.is_empty() {
            match self.cursor.as_ref()?.next() {
                Ok(batch) => self.batch = batch.into(),
                Err(error) => {
                    self.cursor = None;
                    return Some(Err(error.into()));
                }
            }
            if self.batch.is_empty() {
                self.cursor = None;
            }
        }
        self.batch.pop_front().map(Ok)
    }
}

impl<T: DeserializeOwned> Iterator for Cursor<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.next_bytes()?;
        Some(bytes.and_then(|bytes| Ok(bson::deserialize_from_slice(&bytes)?)))
    }
}
