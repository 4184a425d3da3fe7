//! The `cloudlet` binary: parses the command line and calls it; nothing else.

#![forbid(unsafe_code)]

mod admin;
mod apps;
mod cli;
mod client_api;
mod config;
mod front;
#[cfg(test)]
mod fuzz;
mod logs;
mod maintenance;
mod metrics;
mod node;
mod telemetry;
mod triggers;

/// A fresh instance for each request makes many short-lived allocations, some freed by another thread: with the C
/// library's allocator a request costs a tenth more CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
