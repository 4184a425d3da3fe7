//! The function host: the only room that knows wasmtime.
//!
//! Life of a component: [`Host::compile`] turns wasm bytes into an artifact in the content-addressed cache, once;
//! [`Host::load`] links an app's functions against their grants and gives a [`LoadedApp`]; each invocation,
//! [`LoadedApp::http`] or [`LoadedApp::call`], runs in a fresh instance under the function's limits.
//!
//! Invariant: nothing compiled is ever accepted from outside; only files this host wrote are deserialized.

#![deny(unsafe_code)]

mod app;
mod host;
mod logs;

pub use app::{
    AppSpec, Call, CallReply, FunctionLimits, FunctionSpec, Grants, Invocation, LoadedApp, OutboundRule,
    Services, Trigger,
};
pub use host::{Host, HostConfig, InvokeError, LoadError, ResponseBody, TrapReason};
pub use logs::{LogLevel, LogLine, LogSink, LogStream};
