//! What can go wrong with identities.

use cloudlet_base::Fault;

/// Why an identity operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong username or password; which of the two is not told.
    #[error("wrong username or password")]
    WrongPassword,
    /// A token that is malformed, forged, of another app or revoked.
    #[error("invalid token: {0}")]
    InvalidToken(&'static str),
    /// A token whose time is over.
    #[error("the token has expired")]
    ExpiredToken,
    /// A username, password or other value that can't be used.
    #[error("{0}")]
    Invalid(String),
    /// The username is taken.
    #[error("the username {0:?} is taken")]
    UsernameTaken(String),
    /// The app does not offer this way to log in.
    #[error("this app does not offer {0} login")]
    LoginDisabled(&'static str),
    /// Too many logins are being checked at once, or too many failed.
    #[error("too many login attempts; try again in {retry_after_s} s")]
    Busy {
        /// Seconds to wait.
        retry_after_s: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cloudlet_data::Error),
    /// A bug or a broken key store.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            Error::WrongPassword | Error::InvalidToken(_) | Error::ExpiredToken => Fault::Unauthenticated,
            Error::Invalid(_) => Fault::Invalid,
            Error::UsernameTaken(_) => Fault::Conflict,
            Error::LoginDisabled(_) => Fault::Denied,
            Error::Busy { .. } => Fault::Busy,
            Error::Database(error) => error.kind(),
            Error::Internal(_) => Fault::Internal,
        }
    }

    /// A document of ours that is not as we write them.
    pub(crate) fn corrupt(what: &str) -> Self {
        Error::Internal(format!("{what} in the database is corrupt"))
    }
}
