//! What guests can call on the host, one WIT interface a file, and the one place where a kind of failure becomes a
//! WIT variant.

pub(crate) mod auth;
pub(crate) mod blobstore;
pub(crate) mod config;
pub(crate) mod content;
pub(crate) mod db;
pub(crate) mod held;
pub(crate) mod invoke;
mod keyvalue;
pub(crate) mod log;
mod spin;
pub(crate) mod storage;
pub(crate) mod wasi;

use std::sync::Arc;

use cloudlet_base::Fault;
use cloudlet_data::{AccessError, Code, WriteError};
use wasmtime::component::{HasData, Linker, ResourceTable, ResourceTableError};

use crate::bindings::cloudlet::auth::identity;
use crate::bindings::cloudlet::database::documents;
use crate::bindings::cloudlet::function::{invoke as function_invoke, types as function_types};
use crate::bindings::cloudlet::storage::objects;
use crate::bindings::standards::fermyon::spin::{key_value, variables};
use crate::bindings::standards::wasi::blobstore::{blobstore as blobs, container, types as blob_types};
use crate::bindings::standards::wasi::{keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
use crate::bindings::wasi::logging::logging;
use crate::instance::State;
use crate::run::Run;

/// What an import sees of its invocation.
pub(crate) struct View<'a> {
    pub(crate) run: &'a Arc<Run>,
    pub(crate) table: &'a mut ResourceTable,
}

struct Imports;

impl HasData for Imports {
    type Data<'a> = View<'a>;
}

/// Defines all of our own interfaces.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    documents::add_to_linker::<_, Imports>(linker, State::view)?;
    objects::add_to_linker::<_, Imports>(linker, State::view)?;
    identity::add_to_linker::<_, Imports>(linker, State::view)?;
    function_types::add_to_linker::<_, Imports>(linker, State::view)?;
    function_invoke::add_to_linker::<_, Imports>(linker, State::view)?;
    logging::add_to_linker::<_, Imports>(linker, State::view)?;
    config::add_to_linker(linker)?;
    draft::store::add_to_linker::<_, Imports>(linker, State::view)?;
    draft::atomics::add_to_linker::<_, Imports>(linker, State::view)?;
    draft::batch::add_to_linker::<_, Imports>(linker, State::view)?;
    draft2::store::add_to_linker::<_, Imports>(linker, State::view)?;
    draft2::atomics::add_to_linker::<_, Imports>(linker, State::view)?;
    draft2::batch::add_to_linker::<_, Imports>(linker, State::view)?;
    blob_types::add_to_linker::<_, Imports>(linker, State::view)?;
    container::add_to_linker::<_, Imports>(linker, State::view)?;
    blobs::add_to_linker::<_, Imports>(linker, State::view)?;
    key_value::add_to_linker::<_, Imports>(linker, State::view)?;
    variables::add_to_linker::<_, Imports>(linker, State::view)?;
    Ok(())
}

/// Why an import fails: a kind with a text for the guest, or a trap.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error for the guest.
    Told {
        kind: Fault,
        /// MongoDB's code, when the database gave one.
        code: Option<Code>,
        message: String,
    },
    /// Ends the guest: it used a handle that is not its own.
    Trap(wasmtime::Error),
}

impl Failure {
    pub(crate) fn new(kind: Fault, message: impl Into<String>) -> Self {
        Failure::Told {
            kind,
            code: None,
            message: message.into(),
        }
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(Fault::Denied, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Fault::Invalid, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(Fault::Limit, message)
    }
}

impl From<cloudlet_data::Error> for Failure {
    fn from(error: cloudlet_data::Error) -> Self {
        Failure::Told {
            kind: error.kind(),
            code: Some(error.code()),
            message: error.to_string(),
        }
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Denied(message) => Failure::denied(message),
            AccessError::Database(error) => error.into(),
        }
    }
}

impl From<cloudlet_blob::Error> for Failure {
    fn from(error: cloudlet_blob::Error) -> Self {
        Failure::new(error.kind(), error.to_string())
    }
}

impl From<ResourceTableError> for Failure {
    fn from(error: ResourceTableError) -> Self {
        match error {
            ResourceTableError::Full => Failure::limit("this invocation holds too many resources at once"),
            other => Failure::Trap(wasmtime::Error::new(other)),
        }
    }
}

/// The first of a statement's errors.
pub(crate) fn first_error(errors: Vec<WriteError>) -> Result<(), Failure> {
    match errors.into_iter().next() {
        Some(failed) => Err(failed.error.into()),
        None => Ok(()),
    }
}

/// A failure as `cloudlet:database` tells it.
pub(crate) fn database_error(failure: Failure) -> wasmtime::Result<documents::Error> {
    use documents::{DatabaseError, Error};
    let (kind, code, message) = match failure {
        Failure::Told { kind, code, message } => (kind, code, message),
        Failure::Trap(error) => return Err(error),
    };
    let detail = |fallback: Code, message| DatabaseError {
        code: code.unwrap_or(fallback).number(),
        message,
    };
    Ok(match kind {
        Fault::Invalid => Error::Invalid(detail(Code::BadValue, message)),
        Fault::Unauthenticated | Fault::Denied => Error::Denied(message),
        Fault::NotFound => Error::NotFound(detail(Code::NamespaceNotFound, message)),
        Fault::Conflict if code == Some(Code::DuplicateKey) => {
            Error::DuplicateKey(detail(Code::DuplicateKey, message))
        }
        Fault::Conflict => Error::Conflict(detail(Code::NamespaceExists, message)),
        Fault::Limit => Error::Limit(detail(Code::Overflow, message)),
        Fault::Busy => Error::Busy(message),
        Fault::Deadline => Error::Deadline,
        Fault::Guest | Fault::Upstream | Fault::Internal => Error::Internal(message),
    })
}

/// A failure as `cloudlet:storage` tells it.
pub(crate) fn storage_error(failure: Failure) -> wasmtime::Result<objects::Error> {
    use objects::Error;
    let (kind, message) = match failure {
        Failure::Told { kind, message, .. } => (kind, message),
        Failure::Trap(error) => return Err(error),
    };
    Ok(match kind {
        Fault::Invalid => Error::Invalid(message),
        Fault::Unauthenticated | Fault::Denied => Error::Denied(message),
        Fault::NotFound => Error::NotFound,
        Fault::Limit => Error::Limit(message),
        Fault::Busy => Error::Busy(message),
        Fault::Deadline => Error::Deadline,
        Fault::Conflict | Fault::Guest | Fault::Upstream | Fault::Internal => Error::Internal(message),
    })
}

/// A failure of a call as `cloudlet:function` tells it.
pub(crate) fn function_error(kind: Fault, message: String) -> function_types::Error {
    use function_types::Error;
    match kind {
        Fault::Invalid | Fault::Limit => Error::Invalid(message),
        Fault::Unauthenticated | Fault::Denied => Error::Denied(message),
        Fault::NotFound => Error::NotFound(message),
        Fault::Busy => Error::Busy(message),
        Fault::Deadline => Error::Deadline,
        Fault::Conflict | Fault::Guest | Fault::Upstream | Fault::Internal => Error::Failed(message),
    }
}
