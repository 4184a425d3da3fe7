//! The protocol as its peers see it: bytes over a stream, and real drivers against the example server.

#[path = "../harness.rs"]
mod harness;

mod client;
mod drivers;
mod durability;
mod limits;
mod metrics;
mod protocol;
