//! The protocol as its peers see it: bytes over a stream, and real drivers against the example server.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test program: it may fail loudly, and reads where its cache is"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod bulk;
mod changes;
mod client;
mod collections;
mod drivers;
mod durability;
mod limits;
mod metrics;
mod oddities;
mod operations;
mod profiler;
mod protocol;
mod time_series;
mod transactions;
