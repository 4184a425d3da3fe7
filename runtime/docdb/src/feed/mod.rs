//! The feed: every change of a document or collection as an event in one ordered log, and streams that read it.
//!
//! [`entry`] is an event as bytes, [`log`] the blocks of events in the store and their trimming, [`diff`] what an
//! update changed, [`token`] a place in the log as a string, [`watch`] a stream over a part of the log, [`bell`] how
//! waiting streams hear of new events. `runtime/docs/docdb-format.md` has the bytes.
//!
//! An event is written in the commit of its change, so the two are there together or not at all. Streams pull: they
//! read the log by sequence when they are asked to, so a slow one holds nothing and nobody up, and finds out that
//! the log was trimmed past its place. The platform's own databases (a `/` in the name) are not in the log, but for the
//! documents of collections there that were told to keep images; no stream but one about such a collection shows them.

mod bell;
mod diff;
mod entry;
mod log;
mod split;
mod token;
mod watch;

pub use self::bell::Changed;
pub use self::watch::{BeforeChange, ChangeCursor, Changes, FullDocument, Watch, WatchScope, WatchStart};

pub(crate) use self::bell::Bell;
pub(crate) use self::entry::Pending;
pub(crate) use self::log::{Appended, append, bounds, time_before, verify};
pub(crate) use self::watch::{Stream, next, open};

/// Whether all changes of a database are in the log: those of the platform's own are not.
pub(crate) fn is_logged(database: &str) -> bool {
    !database.contains('/')
}
