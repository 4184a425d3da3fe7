//! What the load benchmarks share: the generator.

#![forbid(unsafe_code)]

pub mod client;
