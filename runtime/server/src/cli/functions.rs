//! `fn`: lists functions and calls them as an admin.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;

use super::api::encoded;
use super::context::Context;
use super::{NoMatch, out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the functions of the running app
    List,
    /// Call a function and print what it returns
    Call {
        /// Its name
        name: String,
        /// What it gets: JSON, @FILE, or - for standard input [default: {}]
        #[arg(value_name = "JSON|@FILE|-")]
        payload: Option<String>,
        /// The same
        #[arg(long, value_name = "JSON|@FILE|-", conflicts_with = "payload")]
        data: Option<String>,
    },
}

/// Runs the command.
pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    match command {
        Command::List => {
            let answer = client.get(&format!("/v1/apps/{app}/functions")).await?;
            let functions = answer["functions"].as_array().cloned().unwrap_or_default();
            if context.json {
                println!("{answer}");
            } else if !functions.is_empty() {
                out::table(
                    &["FUNCTION", "HTTP", "CALL", "INVOKE", "ROUTES"],
                    &rows(&functions),
                );
            }
            if functions.is_empty() {
                return Err(NoMatch(format!("app {app} has no functions")).into());
            }
        }
        Command::Call { name, payload, data } => {
            let payload = data_argument(&payload.or(data).unwrap_or_else(|| "{}".to_owned()))?;
            let path = format!("/v1/apps/{app}/functions/{}/call", encoded(&name));
            let reply = client.bytes(Method::POST, &path, Some(payload.into())).await?;
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&reply)?;
            if !reply.ends_with(b"\n") {
                stdout.write_all(b"\n")?;
            }
        }
    }
    Ok(())
}

fn rows(functions: &[Value]) -> Vec<Vec<String>> {
    let yes = |value: &Value| if value == true { "yes" } else { "-" }.to_owned();
    let row = |function: &Value| {
        let routes = function["routes"].as_array().cloned().unwrap_or_default();
        let routes: Vec<&str> = routes
            .iter()
            .filter_map(|route| route["route"].as_str())
            .collect();
        vec![
            function["function"].as_str().unwrap_or_default().to_owned(),
            yes(&function["http"]),
            yes(&function["call"]),
            function["invoke"].as_str().unwrap_or_default().to_owned(),
            routes.join(" "),
        ]
    };
    functions.iter().map(row).collect()
}

/// Data from the argument itself, a file (`@FILE`) or standard input (`-`). What is written out must be JSON.
///
/// # Errors
/// When it can't be read, or is not JSON.
pub(super) fn data_argument(text: &str) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    /// More than any body that the node takes.
    const BYTES_MAX: u64 = 64 << 20;
    if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(BYTES_MAX)
            .read_to_end(&mut bytes)
            .context("can't read standard input")?;
        return Ok(bytes);
    }
    if let Some(path) = text.strip_prefix('@') {
        return std::fs::read(path).with_context(|| format!("can't read {path}"));
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        bail!(
            "the data are not JSON: {error}; write e.g. '{{\"name\":\"Ada\"}}', @FILE, or - for standard input"
        );
    }
    Ok(text.as_bytes().to_vec())
}
