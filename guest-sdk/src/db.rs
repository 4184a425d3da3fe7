//! The app's document database, in the shape of the `mongodb` crate's synchronous API.
//!
//! ```no_run
//! use cloudlet::db::{self, doc};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Stay {
//!     guest: String,
//!     room: i32,
//!     nights: i32,
//! }
//!
//! # fn main() -> cloudlet::Result<()> {
//! let stays = db::collection::<Stay>("stays");
//! stays.insert_one(Stay { guest: "Li".into(), room: 12, nights: 2 }).run()?;
//! for stay in stays.find(doc! { "nights": { "$gte": 2 } }).sort(doc! { "room": 1 }).limit(20).run()? {
//!     let stay = stay?;
//!     log::info!("{} in room {}", stay.guest, stay.room);
//! }
//! stays.update_many(doc! { "room": 12 }, doc! { "$inc": { "nights": 1 } }).run()?;
//! # Ok(())
//! # }
//! ```
//!
//! Each operation is built with its options and then `run`. Writes are durable when `run` returns. The function needs
//! the collection in its grants: `grants = { database = ["stays"] }`.
//!
//! A function acts as its app, whom no rule binds. [`Collection::as_caller`] gives the collection as the caller of this
//! invocation may see and change it: the right choice when a filter comes from outside.
//!
//! Not there yet, because the node has none of it: `aggregate`, `distinct`, transactions, change streams, pipelines as
//! updates.

mod collection;
mod cursor;
mod operations;
mod results;

pub use bson::{self, Bson, DateTime, Document, doc, oid::ObjectId};

pub use collection::{Collection, collection};
pub use cursor::Cursor;
pub use operations::*;
pub use results::*;
