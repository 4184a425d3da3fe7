//! The command line. Each command is a file; all of them but `serve`, `dev`, `new`, `build`, `validate`,
//! `doctor` and `db check` are thin clients of the admin API. Standard output carries the result and nothing else, so that it can
//! be piped; progress and errors go to standard error. Called by main.rs.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what a command line does"
)]

mod api;
mod auth;
mod build;
mod bundle;
mod check;
mod context;
mod db;
mod deploy;
mod dev;
mod doctor;
mod dump;
mod export;
mod functions;
mod glob;
mod import;
mod inspect;
mod logs;
mod new;
mod out;
mod secret;
mod serve;
mod stale;
mod storage;
mod templates;
mod trigger;
mod versions;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use api::ApiError;
use context::{Context, Global};

/// A self-hosted cloud for mini programs and web apps.
#[derive(Debug, Parser)]
#[command(name = "cloudlet", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a new app in a new directory
    New(new::Args),
    /// Run the build commands of the manifest
    Build(build::Args),
    /// Run the whole stack on this machine, rebuild and redeploy on every change
    Dev(dev::Args),
    /// Run a node
    Serve(Box<serve::Args>),
    /// Remember a node and its admin key
    Login(auth::LoginArgs),
    /// Forget a node and its admin key
    Logout,
    /// Tell which node and key are used
    Whoami,
    /// Check the manifest
    Validate(deploy::ValidateArgs),
    /// Tell what a deploy would change; exit code 3 when anything would
    Diff(deploy::DiffArgs),
    /// Deploy the app to a node
    Deploy(deploy::DeployArgs),
    /// List, show and keep the deployments of the app
    #[command(visible_alias = "deployments")]
    Versions(versions::Args),
    /// Show or change which deployments serve how much of the requests
    #[command(visible_alias = "split")]
    Traffic(versions::TrafficArgs),
    /// Make a deployment the active one that serves a part of the requests, or nothing yet
    Promote(versions::PromoteArgs),
    /// Make an older deployment the active one, or withdraw a canary
    Rollback(versions::RollbackArgs),
    /// List and call functions
    #[command(subcommand)]
    Fn(functions::Command),
    /// See what invokes functions by itself, and send again what failed
    #[command(subcommand)]
    Trigger(trigger::Command),
    /// Show what functions say
    Logs(logs::Args),
    /// Manage secrets
    #[command(subcommand)]
    Secret(secret::Command),
    /// Work with documents
    #[command(subcommand)]
    Db(db::Command),
    /// Work with objects
    #[command(subcommand)]
    Storage(storage::Command),
    /// Manage users and admin keys
    #[command(subcommand)]
    Auth(auth::Command),
    /// Tell what a component imports, exports and must be granted
    Inspect(inspect::Args),
    /// Look for what is wrong with this machine's setup
    Doctor,
}

/// The command failed, and has said so already.
#[derive(Debug, thiserror::Error)]
#[error("the command failed")]
struct Told;

/// Nothing matched: no failure of anything, but not success either.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoMatch(String);

/// `diff` found differences, and has told them: neither success nor failure.
#[derive(Debug, thiserror::Error)]
#[error("a deploy would change something")]
struct Differs;

/// The exit code of [`Differs`].
const EXIT_DIFFERS: u8 = 3;

/// Parses the arguments and runs the command.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Differs>() => ExitCode::from(EXIT_DIFFERS),
        Err(error) => {
            report(&error, json);
            match error.downcast_ref::<crate::config::Problems>() {
                Some(_) => ExitCode::from(crate::config::EXIT_USAGE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        // These need no client and make their own runtimes.
        Command::Serve(args) => return serve::run(*args),
        Command::New(args) => return new::run(&global, args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let context = Context::new(global)?;
        match command {
            Command::Serve(_) | Command::New(_) => Ok(()),
            Command::Build(args) => build::run(&context, args).await,
            Command::Dev(args) => dev::run(&context, args).await,
            Command::Login(args) => auth::login(&context, args).await,
            Command::Logout => auth::logout(&context),
            Command::Whoami => auth::whoami(&context).await,
            Command::Validate(args) => deploy::validate(&context, args),
            Command::Deploy(args) => deploy::deploy(&context, args).await,
            Command::Diff(args) => deploy::diff(&context, args).await,
            Command::Versions(args) => versions::run(&context, args).await,
            Command::Traffic(args) => versions::traffic(&context, args).await,
            Command::Promote(args) => versions::promote(&context, args).await,
            Command::Rollback(args) => versions::rollback(&context, args).await,
            Command::Fn(command) => functions::run(&context, command).await,
            Command::Trigger(command) => trigger::run(&context, command).await,
            Command::Logs(args) => logs::run(&context, args).await,
            Command::Secret(command) => secret::run(&context, command).await,
            Command::Db(command) => db::run(&context, command).await,
            Command::Storage(command) => storage::run(&context, command).await,
            Command::Auth(command) => auth::run(&context, command).await,
            Command::Inspect(args) => inspect::run(&context, &args),
            Command::Doctor => doctor::run(&context).await,
        }
    })
}

fn report(error: &anyhow::Error, json: bool) {
    if error.is::<Told>() {
        return;
    }
    if json {
        let api = error.downcast_ref::<ApiError>();
        let value = serde_json::json!({ "error": {
            "code": api.map_or("COMMAND_FAILED", |api| api.code.as_str()),
            "message": format!("{error:#}"),
            "problems": api.map(|api| api.problems.as_slice()).unwrap_or_default(),
            "requestId": api.map(|api| api.request_id.as_str()),
        } });
        eprintln!("{value}");
    } else {
        eprintln!("error: {error:#}");
    }
}

/// The definition of the whole command line, for tests.
#[allow(dead_code, reason = "tests check it")]
fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::definition().debug_assert();
    }
}
