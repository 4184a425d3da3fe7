//! The embedded document database: MongoDB's data model over an ordered key-value store. Synchronous and
//! deterministic inside: time, chance and I/O come in as arguments; nothing here knows of wasm, HTTP or tokio.
//!
//! Code map, in reading order:
//! - [`ops`]: the commands and replies as plain values.
//! - `value`, `path`: the total order of BSON values; dotted paths and how they fan out through arrays.
//! - `query`, `update`, `projection`, `sort`: texts to types, and the types' meaning on one document.
//! - `keycode`: bytes whose order is the value order; `runtime/docs/docdb-format.md` has them byte by byte.
//! - [`kv`]: the seam to the ordered store, with redb and an in-memory model behind it.
//! - `catalog`, `index`: collections, index definitions, index maintenance.
//! - `plan`, `exec`: choosing an index; running a plan within limits.
//! - `lanes`: reader threads, one writer thread, group commit, replies.
//! - [`Docs`]: the façade that callers hold.

#![forbid(unsafe_code)]

pub mod ops;

mod docs;
mod error;
mod exec;
mod lanes;
mod limits;

mod check;
mod decimal;
mod keycode;
mod path;
mod projection;
#[cfg(test)]
mod properties;
mod query;
mod sort;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod update;
mod value;

pub use docs::{Config, Docs};
pub use error::{Code, Error, Result};
pub use lanes::Reply;
pub use limits::Limits;
pub use ops::*;
