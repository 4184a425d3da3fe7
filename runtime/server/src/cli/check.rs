//! `db check`: is the database of a data directory whole. The one command of `db` that asks no node: it opens the
//! file itself, and so wants the node stopped.

use std::path::PathBuf;

use cloudlet_docdb::{Finding, Verified, check_file};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::Told;
use super::context::Context;
use crate::config::{NodeConfig, ServeArgs};

/// Findings that are shown one by one; of the rest only the number is told.
const FINDINGS_SHOWN_MAX: usize = 1000;

/// Arguments of `db check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of everything that the node keeps [default: as for serve]
    #[arg(long, env = "CLOUDLET_DATA_DIR", value_name = "DIR")]
    data_dir: Option<String>,
    /// The node's configuration file; node.toml when that is there
    #[arg(long, env = "CLOUDLET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = NodeConfig::resolve(&ServeArgs {
        data_dir: args.data_dir,
        config: args.config,
        ..ServeArgs::default()
    })?;
    let path = config.database_file();
    let progress = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let mut shown: Vec<Value> = Vec::new();
    let mut count = 0_usize;
    let verified = check_file(
        &path,
        config.database.cache_bytes,
        &mut |finding| {
            count += 1;
            if count > FINDINGS_SHOWN_MAX {
                return;
            }
            match context.json {
                true => shown.push(written(&finding)),
                false => progress.suspend(|| println!("{finding}")),
            }
        },
        &mut |seen| {
            progress.set_message(format!("{}...", told(seen)));
            progress.tick();
        },
    );
    progress.finish_and_clear();
    let verified = verified?;
    if context.json {
        println!("{}", answer(&verified, &shown, count));
    } else if count > FINDINGS_SHOWN_MAX {
        println!("and {} more", count - FINDINGS_SHOWN_MAX);
    }
    if count > 0 {
        eprintln!(
            "error: {} is damaged: {count} found in {}; restore a backup, or carry over what can be read",
            path.display(),
            told(&verified)
        );
        return Err(Told.into());
    }
    if !context.json {
        println!(
            "{} is whole: {}, format version {}",
            path.display(),
            told(&verified),
            verified.format
        );
    }
    Ok(())
}

fn told(seen: &Verified) -> String {
    format!(
        "{} documents and {} index entries of {} collections, {} events",
        seen.documents, seen.entries, seen.collections, seen.events
    )
}

fn written(finding: &Finding) -> Value {
    json!({
        "namespace": finding.namespace.as_ref().map(ToString::to_string),
        "index": finding.index,
        "id": finding.id,
        "what": finding.what,
    })
}

fn answer(verified: &Verified, shown: &[Value], count: usize) -> Value {
    json!({
        "format": verified.format,
        "collections": verified.collections,
        "documents": verified.documents,
        "entries": verified.entries,
        "events": verified.events,
        "findings": shown,
        "findingCount": count,
    })
}
