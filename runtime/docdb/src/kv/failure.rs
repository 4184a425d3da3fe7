//! Why the store could not do something, and how that is told: redb's errors and the system's as ours.

use std::io;

use ::redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};

use crate::{Code, Error};

/// Why something could not be done: by the body's own doing, or the medium's.
pub(super) enum Failure {
    Body(Error),
    Medium(Error),
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Failure::Body(error) | Failure::Medium(error) => error,
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        Failure::Medium(match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Error::new(
                Code::DBPathInUse,
                "another node or process has it open; stop that one, or give this one a data directory of its own",
            ),
            DatabaseError::UpgradeRequired(version) => Error::new(
                Code::UnsupportedFormat,
                format!("it is in format {version} of an older redb, which this program can't read"),
            ),
            DatabaseError::Storage(error) => storage_error(error),
            other => Error::new(Code::InternalError, other.to_string()),
        })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        storage_failed(StorageError::Io(error))
    }
}

pub(super) fn storage_failed(error: StorageError) -> Failure {
    Failure::Medium(storage_error(error))
}

pub(super) fn transaction_failed(error: TransactionError) -> Failure {
    match error {
        TransactionError::Storage(error) => storage_failed(error),
        other => Failure::Medium(Error::new(Code::InternalError, other.to_string())),
    }
}

pub(super) fn table_failed(error: TableError) -> Failure {
    match error {
        TableError::Storage(error) => storage_failed(error),
        other => Failure::Medium(Error::new(Code::InternalError, other.to_string())),
    }
}

pub(super) fn commit_failed(error: CommitError) -> Failure {
    match error {
        CommitError::Storage(error) => storage_failed(error),
        other => Failure::Medium(Error::new(Code::InternalError, other.to_string())),
    }
}

pub(super) fn storage_error(error: StorageError) -> Error {
    match error {
        StorageError::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged(&error.to_string()),
        StorageError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            damaged("it ends too early")
        }
        StorageError::Io(error) => Error::new(
            Code::OutOfDiskSpace,
            format!("the disk is full or failing: {error}"),
        ),
        StorageError::PreviousIo | StorageError::DatabaseClosed => closed(),
        StorageError::Corrupted(what) => damaged(&what),
        other => Error::new(Code::InternalError, format!("the store failed: {other}")),
    }
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(
        Code::UnsupportedFormat,
        format!("not a database file of cloudlet, or a damaged one: {what}"),
    )
}

pub(super) fn closed() -> Error {
    Error::new(
        Code::OutOfDiskSpace,
        "the disk is full or failing: the database file was closed after an i/o error",
    )
}
