//! Functions for cloudlet, a self-hosted cloud for mini programs and web apps.
//!
//! A function is a WebAssembly component. This crate gives it its entry points, `#[cloudlet::http]` and
//! `#[cloudlet::call]`, and everything the node offers: documents, files, identity, configuration, logs, outbound
//! HTTP and other functions.
//!
//! # A function in three files
//! `Cargo.toml`:
//! ```toml
//! [package]
//! name = "hello"
//! version = "0.1.0"
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! cloudlet-sdk = { path = "../guest-sdk" }   # used as `cloudlet`; do not rename it
//! serde = { version = "1", features = ["derive"] }
//! log = "0.4"
//!
//! [profile.release]
//! opt-level = "s"   # with typed collections half the size of 3
//! lto = true
//! codegen-units = 1
//! panic = "abort"
//! strip = true
//! ```
//! `src/lib.rs`:
//! ```
//! use cloudlet::http::Request;
//! use cloudlet::{Json, Result};
//! # /*
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Greeting { name: String }
//! # */
//! # type Greeting = std::collections::BTreeMap<String, String>;
//!
//! #[cloudlet::http]
//! fn greet(request: Request<Json<Greeting>>) -> Result<String> {
//!     let Json(greeting) = request.into_body();
//!     log::info!("greeting somebody");
//! # /*
//!     Ok(format!("Hello, {}!", greeting.name))
//! # */
//! #   Ok(format!("Hello, {}!", greeting["name"]))
//! }
//! ```
//! `cloudlet.toml` beside them names the component that `cargo build --release --target wasm32-wasip2` makes. `cargo
//! component build --release` makes one as well, without any metadata in `Cargo.toml`.
//!
//! # What a handler takes and returns
//! `#[cloudlet::http]` goes on a function of nothing or of an [`http::Request<B>`](http::Request) whose body `B` is
//! [`Body`] (read as it comes), `Vec<u8>`, `String`, [`Json<T>`] or `()`. It returns anything that
//! [is a response](IntoResponse), or a `Result` of that and [`Error`]. Several routes are a [`Router`].
//!
//! `#[cloudlet::call]` goes on a function of nothing or of a payload: anything serde deserializes from JSON, or
//! [`Raw`]. It returns a [`Result`] of anything serde serializes, or [`Raw`]. A component may have both entry points.
//!
//! Handlers are synchronous. By default an instance serves one invocation and is thrown away, so there is nothing else to
//! do while it waits; the node runs the others. What a `static` remembers is gone with the instance.
//!
//! # Grants
//! A component imports what it uses and nothing else; an import that the manifest does not grant fails the deploy by
//! name. A function that never touches [`db`] needs no database grant.
//!
//! | used | grant in `[function.NAME]` |
//! |---|---|
//! | [`db`] | `grants = { database = ["stays"] }` |
//! | [`storage`] | `grants = { storage = ["photos/"] }` |
//! | [`call()`] | `grants = { functions = ["notify"] }` |
//! | [`var`], [`secret`] | `grants = { vars = ["region"], secrets = ["KEY"] }` |
//! | [`fetch()`] | `outbound = ["https://vision.example.com"]` |
//! | [`auth`], logging | none |
//!
//! # Features
//! All on by default.
//! - `db`: [`db`] with the `bson` crate.
//! - `log`: the `log` crate's macros reach the node's log. A component with it imports `wasi:logging`; without it a
//!   function of HTTP alone runs on any `wasi:http/proxy` host.
//! - `arena`: a global allocator for instances that live short; 512 KiB of initial memory, then the system's. Turn it off to
//!   use an allocator of your own.
//!
//! # Tests
//! The crate compiles for the machine you develop on, so that `cargo test` runs what needs no node: a [`Router`] can be
//! given requests by hand. Calling the node there panics.

#[cfg(any(all(feature = "arena", target_arch = "wasm32"), test))]
mod alloc;
mod bindings;
mod body;
mod changes;
mod stream;

pub mod auth;
mod config;
#[cfg(feature = "db")]
pub mod db;
mod error;
mod fetch;
mod invoke;
mod logging;
mod response;
mod router;
mod serve;
pub mod storage;
mod timer;

// An `extern crate` takes the name as a module only and leaves it free for the attribute.
#[doc(no_inline)]
pub extern crate http;
#[cfg(feature = "log")]
pub use log;
pub use serde_json;

/// Makes a function the handler of calls by client SDKs, other functions, triggers and the command line.
///
/// ```
/// use cloudlet::{Error, Result};
///
/// #[cloudlet::call]
/// fn add(numbers: Vec<i64>) -> Result<i64> {
///     numbers.iter().try_fold(0_i64, |sum, n| sum.checked_add(*n)).ok_or(Error::invalid("the sum is too large"))
/// }
/// ```
///
/// It takes nothing or one payload, JSON unless it is [`Raw`], and returns a `Result` whose error converts into
/// [`Error`]. One such function per component.
pub use cloudlet_sdk_macros::call;
/// Makes a function the handler of HTTP requests.
///
/// ```
/// use cloudlet::http::{Request, StatusCode};
/// use cloudlet::{Body, IntoResponse};
///
/// #[cloudlet::http]
/// fn hello(request: Request<Body>) -> impl IntoResponse {
///     match request.uri().path() {
///         "/hello" => Ok("Hello, world!\n"),
///         _ => Err(StatusCode::NOT_FOUND),
///     }
/// }
/// ```
///
/// It takes nothing or one request, and returns anything that [is a response](IntoResponse). One such function per
/// component.
pub use cloudlet_sdk_macros::http;

pub use body::{Body, FromBody};
#[cfg(feature = "db")]
pub use changes::{DatabaseEvent, Operation, UpdateDescription};
pub use changes::{ObjectChange, StorageEvent};
pub use config::{secret, var, var_or};
pub use error::{Error, Result};
pub use fetch::{FetchError, FetchOptions, fetch};
pub use invoke::{call, call_raw};
pub use response::{IntoResponse, Json};
pub use router::{Calls, Context, Next, Router};
pub use serve::{CallHandler, FromPayload, HttpHandler, IntoPayload, Raw};
pub use timer::TimerEvent;

/// For the macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::call_function;
    pub use crate::bindings::call_function::__export_call_bindings as export_call;
    pub use crate::bindings::http_function;
    pub use crate::bindings::http_function::__export_http_bindings as export_http;
    pub use crate::bindings::imports::cloudlet::function::types::Error as CallError;
    pub use crate::bindings::imports::wasi::http::types::{IncomingRequest, ResponseOutparam};
    pub use crate::serve::{serve_call, serve_http};
}
