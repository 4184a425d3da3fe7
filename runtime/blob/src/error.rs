//! What can go wrong with objects.

use cloudlet_base::Fault;

/// Why an object operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object.
    #[error("no object at {path:?}")]
    NotFound {
        /// The path asked for.
        path: String,
    },
    /// The path can't be an object's.
    #[error("invalid object path {path:?}: {reason}")]
    InvalidPath {
        /// The path given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The body is larger than allowed; nothing was stored.
    #[error("the object is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body's sender failed or went away; nothing was stored.
    #[error("the object's body ended early: {0}")]
    Body(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cloudlet_data::Error),
    /// The backend failed: a full disk, an unreachable bucket.
    #[error("the object backend failed: {0}")]
    Backend(String),
}

impl Error {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            Error::NotFound { .. } => Fault::NotFound,
            Error::InvalidPath { .. } | Error::Body(_) => Fault::Invalid,
            Error::TooLarge { .. } => Fault::Limit,
            Error::Database(error) => error.kind(),
            Error::Backend(_) => Fault::Internal,
        }
    }
}
