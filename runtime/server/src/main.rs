//! The `cloudlet` binary: parses the command line and calls it; nothing else.

#![forbid(unsafe_code)]

mod admin;
mod apps;
mod cli;
mod client_api;
mod config;
mod front;
mod logs;
mod maintenance;
mod metrics;
mod node;
mod telemetry;

fn main() -> std::process::ExitCode {
    cli::main()
}
