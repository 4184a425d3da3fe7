//! Objects: bytes on an `object_store`, metadata as documents, and the CDN cache in front. Knows nothing of wasm
//! or of serving HTTP; [`validators`] has HTTP's rules for conditional requests and ranges as pure functions.
//!
//! - [`BlobStore`]: the façade, the order of writes, what is garbage when.
//! - `object`, `path`: an object's metadata document; what may be a path.
//! - `upload`, `read`: bodies into the backend, hashed and measured; bytes out of it.
//! - `cache`: contents in memory by their hash, loaded once.
//! - `changes`: what happens to objects, as a change stream of their metadata documents.

#![forbid(unsafe_code)]

mod cache;
mod changes;
mod error;
mod metrics;
mod object;
mod path;
mod read;
mod store;
mod upload;
pub mod validators;

pub use changes::{ObjectChange, ObjectScope, log_changes};
pub use error::Error;
pub use object::ObjectInfo;
pub use store::{BlobConfig, BlobStore, Body, Opened, PutOptions};
