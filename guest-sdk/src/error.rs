//! The error that handlers return: what went wrong, and by it what the caller is told.

use std::fmt;

use crate::bindings::imports::cloudlet::function::types;

/// Why a function could not do what it was asked.
///
/// Each variant is an HTTP status for `#[cloudlet::http]` and a typed error for `#[cloudlet::call]`. The text of
/// [`Failed`](Error::Failed) over HTTP goes to the log only; every other text reaches the caller.
/// All errors of this crate convert into it, so that `?` does the right thing:
///
/// ```
/// use cloudlet::{Error, Result};
///
/// fn nights(text: &str) -> Result<u32> {
///     text.parse().map_err(|_| Error::invalid(format!("nights must be a number, not {text:?}")))
/// }
/// # assert!(matches!(nights("two"), Err(Error::Invalid(_))));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request is not what the function takes. 400.
    Invalid(String),
    /// The caller must log in first. 401; `denied` in a call.
    Unauthenticated(String),
    /// The caller may not do this. 403.
    Denied(String),
    /// What the request names does not exist. 404.
    NotFound(String),
    /// It contradicts what is there already. 409; `invalid` in a call.
    Conflict(String),
    /// Larger than allowed. 413; `invalid` in a call.
    TooLarge(String),
    /// Too much is going on; try again later. 503.
    Busy(String),
    /// The time allowed is over. 504.
    Deadline,
    /// The function failed. 500.
    Failed(String),
}

/// What a handler returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// [`Error::Invalid`] of anything that prints.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Error::Invalid(message.to_string())
    }

    /// [`Error::Denied`] of anything that prints.
    pub fn denied(message: impl fmt::Display) -> Self {
        Error::Denied(message.to_string())
    }

    /// [`Error::NotFound`] of anything that prints.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Error::NotFound(message.to_string())
    }

    /// [`Error::Failed`] of anything that prints, for errors of other crates: `.map_err(Error::failed)?`.
    pub fn failed(message: impl fmt::Display) -> Self {
        Error::Failed(message.to_string())
    }

    /// The HTTP status.
    pub fn status(&self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Error::Invalid(_) => StatusCode::BAD_REQUEST,
            Error::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Error::Denied(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Error::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The `code` in the JSON body of an error response.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Invalid(_) => "INVALID_PARAM",
            Error::Unauthenticated(_) => "UNAUTHENTICATED",
            Error::Denied(_) => "PERMISSION_DENIED",
            Error::NotFound(_) => "NOT_FOUND",
            Error::Conflict(_) => "CONFLICT",
            Error::TooLarge(_) => "LIMIT_EXCEEDED",
            Error::Busy(_) => "BUSY",
            Error::Deadline => "DEADLINE_EXCEEDED",
            Error::Failed(_) => "FUNCTION_FAILED",
        }
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        match self {
            Error::Invalid(text)
            | Error::Unauthenticated(text)
            | Error::Denied(text)
            | Error::NotFound(text)
            | Error::Conflict(text)
            | Error::TooLarge(text)
            | Error::Busy(text)
            | Error::Failed(text) => text,
            Error::Deadline => "the time allowed is over",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Error::Failed(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Error::Failed(message.to_owned())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::Failed(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Failed(error.to_string())
    }
}

impl From<http::Error> for Error {
    fn from(error: http::Error) -> Self {
        Error::Failed(error.to_string())
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::Invalid(text) => Error::Invalid(text),
            types::Error::Denied(text) => Error::Denied(text),
            types::Error::NotFound(text) => Error::NotFound(text),
            types::Error::Failed(text) => Error::Failed(text),
            types::Error::Busy(text) => Error::Busy(text),
            types::Error::Deadline => Error::Deadline,
        }
    }
}

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(text) | Error::Conflict(text) | Error::TooLarge(text) => {
                types::Error::Invalid(text)
            }
            Error::Unauthenticated(text) | Error::Denied(text) => types::Error::Denied(text),
            Error::NotFound(text) => types::Error::NotFound(text),
            Error::Busy(text) => types::Error::Busy(text),
            Error::Deadline => types::Error::Deadline,
            Error::Failed(text) => types::Error::Failed(text),
        }
    }
}
