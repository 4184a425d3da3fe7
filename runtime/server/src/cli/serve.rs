//! `serve`: runs a node until it is told to stop.

use crate::config::{NodeConfig, ServeArgs};
use crate::node;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: ServeArgs,
}

/// Runs the node.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    node::run(NodeConfig::resolve(&args.settings)?)
}
