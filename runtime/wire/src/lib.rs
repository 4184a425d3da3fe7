//! The MongoDB wire protocol over the [`Documents`](cloudlet_data::Documents) seam: what MongoDB's drivers, shells
//! and tools connect to. Whoever accepts the connections (and ends TLS) hands each stream to [`Wire::serve`].
//!
//! Code map, in reading order:
//! - `frame`, `compress`, `crc32c`: messages as bytes.
//! - `conn`: one connection from its first word to its last; `call`: one command from its document to its reply.
//! - `verb`: the commands there are, by name, and what each needs of its caller.
//! - `args`, `error`: arguments to types; failures as drivers see them.
//! - `commands`: what each command does.
//! - `scram`, `throttle`, `users`, `roles`: who may log in, how often they may try, and what they may do.
//! - `operations`: the commands at work. `cursors`, `sessions`, `transactions`, `logical_time`: what outlives one.
//! - `failpoint`: failures on order, for drivers' tests.
//! - `limits`, `metrics`: every bound, and what is counted.
//!
//! What differs from MongoDB is told in `runtime/docs/mongo-wire.md`.

#![forbid(unsafe_code)]

mod frame;

mod compress;
mod crc32c;

mod call;
mod conn;
mod shared;
mod verb;

mod args;
mod error;

mod commands;

mod roles;
mod scram;
mod throttle;
mod users;

mod cursors;
mod failpoint;
mod logical_time;
mod operations;
mod profile;
mod sessions;
mod transactions;

mod limits;
mod metrics;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use limits::Limits;
pub use shared::{OpenError, Parts, Settings, Topology, Wire};
