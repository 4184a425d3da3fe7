//! Objects: bytes on an `object_store`, metadata as documents, and the CDN cache in front. Knows nothing of wasm
//! or of serving HTTP; [`validators`] has HTTP's rules for conditional requests and ranges as pure functions.

#![forbid(unsafe_code)]

mod store;
pub mod validators;

pub use store::{BlobConfig, BlobStore, Body, Error, ObjectInfo, Opened, PutOptions};
