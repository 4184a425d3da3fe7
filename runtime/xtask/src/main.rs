//! `cargo xtask COMMAND`: the two commands of the README (`up`, `test`) and the project's chores.
//!
//! This file parses the command line and dispatches; each command is a module of its own. It depends on nothing
//! but std and anyhow, so that it starts in seconds on a clean clone. Nothing here is part of the product.
//!
//! Reading order: [`guest`] makes sure that functions can be compiled at all, [`fixtures`] compiles them,
//! [`up`] and [`test`] are what a person runs, [`bench`] and [`component_check`] are run now and then.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command-line chore: it talks to a terminal, reads cargo's environment and times itself"
)]

mod bench;
mod cache;
mod component_check;
mod fixtures;
mod fuzz;
mod guest;
mod process;
mod tally;
mod test;
mod up;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  up               build everything, start a node with the example app deployed, print what to try
                   [--listen ADDR] [--admin-listen ADDR] [--fresh]
  test             run every check and test there is; the last line counts them
                   [--fuzz SECONDS: run each fuzz target for so long, too]
  fuzz             run the fuzz targets [--seconds N, default 60] [TARGET ..]
  guest            make sure that functions can be compiled (targets wasm32-wasip1 and wasm32-wasip2)
                   [--arg: print only what to put after `cargo`, for scripts]
  fixtures         compile the test components and the examples
  bench            compare against peers: bench [micro|documents|wire|load|crowd] [arguments of the benchmark]
  component-check  prove that the examples also build with `cargo component build` (20 minutes the first time)

What takes long to make is kept under $CLOUDLET_CACHE_DIR (default: $XDG_CACHE_HOME/cloudlet or ~/.cache/cloudlet).
RUSTUP_AUTO_INSTALL=0 is honoured: no toolchain is downloaded through rustup then.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    match command.as_str() {
        "up" => up::run(rest)?,
        "test" => return test::run(rest),
        "guest" => guest::run(rest)?,
        "fixtures" => fixtures::run(rest)?,
        "fuzz" => fuzz::run(rest)?,
        "bench" => bench::run(rest)?,
        "component-check" => component_check::run(rest)?,
        "help" | "--help" | "-h" => println!("{HELP}"),
        "__announce" => up::announce(rest)?,
        unknown => bail!("unknown command \"{unknown}\"; `cargo xtask` alone lists the commands"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses arguments of a command that takes none.
fn no_arguments(command: &str, rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(unknown) => bail!("`cargo xtask {command}` takes no argument, but was given \"{unknown}\""),
    }
}
