//! The embedded document database: MongoDB's data model over an ordered key-value store. Synchronous and
//! deterministic inside: time, chance and I/O come in as arguments; nothing here knows of wasm, HTTP or tokio.
//!
//! Code map, in reading order:
//! - [`ops`]: the commands and replies as plain values.
//! - `value`, `path`: the total order of BSON values; dotted paths and how they fan out through arrays.
//! - `query`, `update`, `projection`, `sort`, `expression`: texts to types, and the types' meaning on one document.
//! - `collation`: strings in the order of a language, for the queries that ask for it.
//! - `geo`: places on the Earth, their shapes and the cells that an index has of them.
//! - `keycode`: bytes whose order is the value order; `runtime/docs/docdb-format.md` has them byte by byte.
//! - [`kv`]: the seam to the ordered store, with redb and an in-memory model behind it.
//! - `catalog`, `specification`, `index`: collections, what indexes may be, what they hold and their upkeep.
//! - `forms`: what entries tell beside their keys, so that queries of their fields need no documents.
//! - `options`: what collections and views are made with.
//! - `validation`: the filters that collections ask their documents to match.  `view`: collections that are pipelines.
//! - `capped`: the order and the bounds of capped collections.  `time_series`: collections that are stored by time.
//! - `bounds`, `plan`, `exec`: what a filter says about keys; choosing an index; running a plan within limits.
//! - `pipeline`: aggregation: stages, moving them into the query, running them, their cursors.
//! - `spill`: what does not fit into memory: sorting and queueing with files.
//! - `engine`: the store with the catalog in force.  `lanes`, `reply`: threads, group commit, answers.
//! - `background`: filling indexes and removing what was dropped, step by step.
//! - `transaction`: several statements on a snapshot, committed as one.
//! - `feed`: the log of changes and the streams that read it.
//! - `verify`: do indexes and documents agree, also in a file that nobody has open.  `metrics`, `object_ids`, `show`: as they say.
//! - [`Docs`]: the façade that callers hold.

#![forbid(unsafe_code)]

pub mod ops;

pub mod kv;

mod background;
mod bounds;
mod capped;
mod catalog;
mod collation;
mod docs;
mod engine;
mod error;
mod exec;
mod feed;
mod forms;
mod index;
mod lanes;
mod limits;
mod metrics;
mod object_ids;
mod options;
mod plan;
mod reply;
mod show;
mod spill;
mod transaction;
mod validation;
mod verify;
mod view;

mod check;
mod decimal;
mod expression;
mod geo;
mod keycode;
mod path;
mod pipeline;
mod projection;
#[cfg(test)]
mod properties;
mod query;
mod sort;
mod specification;
mod tender;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time_series;
mod update;
mod value;

#[cfg(test)]
mod tests;

pub use check::check_well_formed;
pub use docs::{Config, Docs};
pub use error::{Code, Error, Result};
pub use feed::{BeforeChange, ChangeCursor, Changed, Changes, FullDocument, Watch, WatchScope, WatchStart};
pub use geo::Grid;
pub use lanes::Reply;
pub use limits::Limits;
pub use ops::*;
pub use options::{Creation, parse_images};
pub use query::retain_matching;
pub use spill::{DirScratch, Scratch, ScratchFile};
pub use transaction::Transaction;
pub use value::compare as compare_values;
pub use verify::{Finding, Verified, check_file};
