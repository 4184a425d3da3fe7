//! `inspect`: what a component imports, exports and needs to be granted, from its file alone.

use std::path::PathBuf;

use anyhow::Context as _;
use cloudlet_host::{Inspected, InspectedImport};
use serde_json::json;

use super::context::Context;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The component's file
    #[arg(value_name = "COMPONENT")]
    component: PathBuf,
}

/// Runs the command.
pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let path = context.dir.join(&args.component);
    let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    let inspected = cloudlet_host::inspect(&bytes).with_context(|| path.display().to_string())?;
    match context.json {
        true => println!("{}", wire(&inspected, bytes.len())),
        false => print!("{}", readable(&inspected, bytes.len())),
    }
    Ok(())
}

fn wire(inspected: &Inspected, size: usize) -> serde_json::Value {
    let import = |import: &InspectedImport| {
        json!({
            "name": import.name,
            "offered": import.offered,
            "grant": import.grant,
            "openedBy": import.opened_by,
        })
    };
    json!({
        "bytes": size,
        "http": inspected.serves_http,
        "call": inspected.serves_calls,
        "imports": inspected.imports.iter().map(import).collect::<Vec<_>>(),
        "exports": inspected.exports,
        "names": inspected.names,
        "debugInfo": inspected.debug_info,
    })
}

fn readable(inspected: &Inspected, size: usize) -> String {
    let answers = match (inspected.serves_http, inspected.serves_calls) {
        (true, true) => "HTTP requests and calls",
        (true, false) => "HTTP requests; calls reach it as POST /",
        (false, true) => "calls",
        (false, false) => {
            "nothing: it exports neither wasi:http/incoming-handler nor cloudlet:function/handler"
        }
    };
    let backtraces = match (inspected.names, inspected.debug_info) {
        (_, true) => "with files and lines",
        (true, false) => "with names",
        (false, false) => "without names: it is stripped",
    };
    let mut text = format!(
        "size        {:.1} KiB\nanswers     {answers}\nbacktraces  {backtraces}\nexports\n",
        size as f64 / 1024.0
    );
    for export in &inspected.exports {
        text.push_str(&format!("  {export}\n"));
    }
    text.push_str("imports\n");
    for import in &inspected.imports {
        let note = match (import.offered, import.grant, import.opened_by) {
            (false, _, _) => "  (not offered by this platform: a deploy is refused)".to_owned(),
            (true, Some(grant), _) => format!("  (needs {grant})"),
            (true, None, Some(line)) => format!("  (closed without {line})"),
            (true, None, None) => String::new(),
        };
        text.push_str(&format!("  {}{note}\n", import.name));
    }
    text
}
