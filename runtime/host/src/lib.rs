//! The function host: the only room that knows wasmtime.
//!
//! Life of a component: [`Host::compile`] turns wasm bytes into an artifact in the content-addressed cache, once;
//! [`Host::load`] links an app's functions against their grants and gives a [`LoadedApp`]; each invocation,
//! [`LoadedApp::http`] or [`LoadedApp::call`], runs in a fresh instance under the function's limits.
//!
//! Code map, in reading order:
//! - [`app`](AppSpec): what a function is.  `error`: what can go wrong.  `logs`: the handle for what guests say.
//! - `host`, `engine`, `artifact`, `link`: from bytes to a loaded app. `inspect`: what bytes say of themselves.
//! - `admit`, `line`, `instance`, `http`, `call`: an invocation, from its permit (or its place in the line for one) to its
//!   last body byte. `run`: its record, and what it used. `turns`: who computes when many want to.
//! - `imports`, `keyvalue`, `outbound`, `bindings`: what a guest can reach.  `metrics`.
//!
//! Invariant: nothing compiled is ever accepted from outside; only files this host wrote are deserialized.
//! Invariant: a guest is driven by the task that asked for it; no task is spawned for an invocation, except to let
//! a guest finish its work after its response has gone out, and for requests and uploads that run beside it.

#![deny(unsafe_code)]

mod app;
mod error;
mod logs;

mod artifact;
mod engine;
mod host;
mod inspect;
mod link;

mod admit;
mod body;
mod call;
mod http;
mod instance;
mod line;
mod run;
mod trace;
mod turns;

mod bindings;
mod imports;
mod keyvalue;
mod metrics;
mod outbound;

pub use app::{
    AppSpec, Call, CallReply, FunctionLimits, FunctionSpec, Grants, Invocation, LoadedApp, OutboundRule,
    Services, Trigger,
};
pub use artifact::Collected;
pub use body::ResponseBody;
pub use error::{InvokeError, LoadError, TrapReason};
pub use host::{Host, HostConfig};
pub use inspect::{Inspected, InspectedImport, inspect};
pub use logs::{InvocationEnd, LogDetail, LogLevel, LogLine, LogSink, LogStream};
pub use metrics::Scope;
pub use trace::TraceContext;
