//! The Documents seam: the database as functions, client SDKs, the platform's own services and (later) drivers
//! see it, whichever engine is behind; and the permission rules that bind clients.
//!
//! - [`Documents`]: the contract.  `embedded`: the contract over docdb.
//! - [`rules`]: presets and expressions to a filter to add or a verdict on a document.
//! - [`Session`]: an app's data as one principal may see them; what functions and the client API hold.
//! - [`formats`]: documents as they are in files: extended JSON, BSON dumps. No I/O to any database.
//! - `conformance`: what every implementation must do, as one suite.
//! - `client`: a client's statements made safe, as pure functions.

#![forbid(unsafe_code)]

mod client;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod documents;
mod embedded;
pub mod formats;
pub mod rules;
mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cloudlet_docdb::{
    Aggregate, BeforeChange, BucketSpan, Capped, ChangeCursor, Changes, Code, CollectionChange,
    CollectionInfo, CollectionOptions, Creation, Cursor, Delete, DeleteOne, Deleted, Error, Expired, Find,
    FindAndModify, FullDocument, IndexChange, IndexKind, IndexSpec, Insert, Inserted, Limits, Modified,
    NATURAL_BACKWARD, Namespace, Page, Shown, TimeSeries, Update, UpdateOne, Updated, ValidationAction,
    ValidationLevel, View, Watch, WatchScope, WatchStart, Write, WriteError, Written, check_well_formed,
    compare_values, default_index_name, parse_images, pipeline_update, retain_matching,
};
pub use documents::{BoxFuture, Documents, PLATFORM_PREFIX, Statements, Transaction, is_platform_collection};
pub use embedded::Embedded;
pub use session::{AccessError, AppData, Session};
