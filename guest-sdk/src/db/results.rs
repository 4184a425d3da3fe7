//! What operations answer: results by the `mongodb` crate's names, and the error.

use std::collections::BTreeMap;
use std::fmt;

use bson::Bson;

use crate::bindings::imports::cloudlet::database::documents as wit;

/// What [`insert_one`](super::Collection::insert_one) did.
#[derive(Debug, Clone, PartialEq)]
pub struct InsertOneResult {
    /// The document's `_id`.
    pub inserted_id: Bson,
}

/// What [`insert_many`](super::Collection::insert_many) did.
#[derive(Debug, Clone, PartialEq)]
pub struct InsertManyResult {
    /// The `_id` of each document, by its place.
    pub inserted_ids: BTreeMap<usize, Bson>,
}

/// What an update did.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateResult {
    /// Documents that matched.
    pub matched_count: u64,
    /// Documents whose content changed.
    pub modified_count: u64,
    /// The `_id` of the document that was upserted.
    pub upserted_id: Option<Bson>,
}

/// What a deletion did.
#[derive(Debug, Clone, PartialEq)]
pub struct DeleteResult {
    /// Documents removed.
    pub deleted_count: u64,
}

/// Whether `find_one_and_...` returns the document as it was or as it became.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReturnDocument {
    /// As it was.
    #[default]
    Before,
    /// As it became.
    After,
}

/// Why an operation failed. Nothing was changed, but for [`insert_many`](super::Collection::insert_many)'s documents
/// before the one that failed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The collection is not granted to this function, or the app's rules refuse the caller.
    Denied(String),
    /// A malformed document, filter, update or option.
    Invalid {
        /// MongoDB's code.
        code: i32,
        /// What is wrong.
        message: String,
    },
    /// A unique index holds the key already. Code 11000.
    DuplicateKey {
        /// MongoDB's code.
        code: i32,
        /// Which key.
        message: String,
    },
    /// No such collection or index.
    NotFound {
        /// MongoDB's code.
        code: i32,
        /// Which.
        message: String,
    },
    /// The state of the database forbids it, or a lost race.
    Conflict {
        /// MongoDB's code.
        code: i32,
        /// Why.
        message: String,
    },
    /// A size, depth, count or scan limit.
    Limit {
        /// MongoDB's code.
        code: i32,
        /// The limit and the value seen.
        message: String,
    },
    /// The database has too much to do; try again later.
    Busy(String),
    /// The invocation's time is over.
    Deadline,
    /// The node failed.
    Internal(String),
    /// A value has no BSON form, or a document is not a `T`.
    Bson(String),
}

impl Error {
    /// MongoDB's code, where there is one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Error::Invalid { code, .. }
            | Error::DuplicateKey { code, .. }
            | Error::NotFound { code, .. }
            | Error::Conflict { code, .. }
            | Error::Limit { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether a unique index refused it.
    pub fn is_duplicate_key(&self) -> bool {
        matches!(self, Error::DuplicateKey { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Denied(text) | Error::Busy(text) | Error::Internal(text) | Error::Bson(text) => {
                f.write_str(text)
            }
            Error::Invalid { code, message }
            | Error::DuplicateKey { code, message }
            | Error::NotFound { code, message }
            | Error::Conflict { code, message }
            | Error::Limit { code, message } => write!(f, "{message} (code {code})"),
            Error::Deadline => f.write_str("the time allowed is over"),
        }
    }
}

impl std::error::Error for Error {}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::Denied(text) => Error::Denied(text),
            wit::Error::Invalid(wit::DatabaseError { code, message }) => Error::Invalid { code, message },
            wit::Error::DuplicateKey(wit::DatabaseError { code, message }) => {
                Error::DuplicateKey { code, message }
            }
            wit::Error::NotFound(wit::DatabaseError { code, message }) => Error::NotFound { code, message },
            wit::Error::Conflict(wit::DatabaseError { code, message }) => Error::Conflict { code, message },
            wit::Error::Limit(wit::DatabaseError { code, message }) => Error::Limit { code, message },
            wit::Error::Busy(text) => Error::Busy(text),
            wit::Error::Deadline => Error::Deadline,
            wit::Error::Internal(text) => Error::Internal(text),
        }
    }
}

impl From<bson::error::Error> for Error {
    fn from(error: bson::error::Error) -> Self {
        Error::Bson(error.to_string())
    }
}

/// A wrong filter or an unreadable document is the function's own failure; the rest is its caller's to know.
impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Denied(_) => crate::Error::Denied(text),
            Error::DuplicateKey { .. } | Error::Conflict { .. } => crate::Error::Conflict(text),
            Error::NotFound { .. } => crate::Error::NotFound(text),
            Error::Busy(_) => crate::Error::Busy(text),
            Error::Deadline => crate::Error::Deadline,
            Error::Invalid { .. } | Error::Limit { .. } | Error::Internal(_) | Error::Bson(_) => {
                crate::Error::Failed(text)
            }
        }
    }
}
