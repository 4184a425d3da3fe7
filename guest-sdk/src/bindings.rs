//! What `guest-sdk/bindgen` makes of `wit/`. Nothing else is here, and nothing outside the crate names it.
//!
//! The imports are bound once. The linker keeps what a function calls, and the component imports only that: a
//! function that never touches `cloudlet::db` does not import `cloudlet:database` and needs no grant for it.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused,
    rust_2018_idioms,
    clippy::all,
    clippy::unwrap_used
)]

/// All that a function may import.
#[rustfmt::skip]
pub mod imports;

/// The export of `#[cloudlet::http]`.
#[rustfmt::skip]
pub mod http_function;

/// The export of `#[cloudlet::call]`.
#[rustfmt::skip]
pub mod call_function;
