//! Integration tests: the real binary on port 0 with a data directory of its own, over HTTP, stopped by SIGTERM, and
//! failing on any unexpected WARN or ERROR of its log. One module an area; `harness` starts nodes, `http` is a small
//! blocking client that can also misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test, also outside of its functions"
)]

mod harness;
mod http;

mod bad_input;
mod changes;
mod cli;
mod client_api;
mod deploy;
mod dev;
mod drivers;
mod dumps;
mod fairness;
mod foreign;
mod front;
mod full_disk;
mod hotel;
mod inspect;
mod js_sdk;
mod kill;
mod limits;
mod logs;
mod metrics;
mod mongo;
mod object_triggers;
mod routing;
mod smuggling;
mod split;
mod standards;
mod storage;
mod templates;
mod tls;
mod transfer;
mod triggers;
mod versions;
