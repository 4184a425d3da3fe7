//! `logs`: what functions say, kept or as it comes.

use std::io::Write as _;

use bytes::BytesMut;
use http::Method;
use http_body_util::{BodyExt as _, Empty};
use serde_json::Value;

use super::api::{Client, encoded};
use super::context::Context;
use super::{NoMatch, out};

/// Longest line that is shown.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Arguments of `logs`.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Go on with lines as they come
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Of this function alone
    #[arg(long, value_name = "F")]
    pub(super) function: Option<String>,
    /// Of this severity or above: trace, debug, info, warn, error
    #[arg(long, value_name = "L")]
    pub(super) level: Option<String>,
    /// Of failed invocations alone: error
    #[arg(long, value_name = "S")]
    pub(super) status: Option<String>,
    /// Written within this time, e.g. 5m
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let follow = args.follow;
    let shown = show(&client, app.as_str(), &args, context.json).await?;
    match shown {
        0 if !follow => Err(NoMatch(format!("app {app} has said nothing that matches")).into()),
        _ if follow => anyhow::bail!("the node closed the connection; run the command again to go on"),
        _ => Ok(()),
    }
}

/// Prints lines until there are no more. Returns how many there were.
pub(super) async fn show(client: &Client, app: &str, args: &Args, json: bool) -> anyhow::Result<u64> {
    let mut path = format!("/v1/apps/{app}/logs?follow={}", u8::from(args.follow));
    let chosen = [
        ("function", &args.function),
        ("level", &args.level),
        ("status", &args.status),
        ("since", &args.since),
    ];
    for (name, value) in chosen {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut body = client.send(Method::GET, &path, None, empty).await?.into_body();
    let mut pending = BytesMut::new();
    let mut shown = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end + 1);
            shown += u64::from(print(&line, json)?);
        }
        if pending.len() > LINE_BYTES_MAX {
            pending.clear();
        }
    }
    Ok(shown)
}

/// Prints one line; blank ones only keep the connection alive.
fn print(line: &[u8], json: bool) -> anyhow::Result<bool> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if text.is_empty() {
        return Ok(false);
    }
    let mut stdout = std::io::stdout().lock();
    match serde_json::from_str::<Value>(text) {
        Ok(value) if !json => writeln!(stdout, "{}", readable(&value))?,
        _ => writeln!(stdout, "{text}")?,
    }
    stdout.flush()?;
    Ok(true)
}

fn readable(line: &Value) -> String {
    if let Some(dropped) = line["dropped"].as_u64() {
        return format!("... {dropped} lines came too fast and are not shown");
    }
    let text = |name: &str| line[name].as_str().unwrap_or_default();
    let message = harmless(text("message"));
    let at = out::time(line["at"].as_i64().unwrap_or_default());
    format!("{at} {:<5} {} {message}", text("level"), text("function"))
}

/// A guest's text, which must not steer the terminal; further lines of it are set in.
fn harmless(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().map(shown).collect())
        .collect();
    lines.join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_text_can_not_steer_the_terminal() {
        let line = serde_json::json!({
            "at": 0, "function": "f", "level": "error", "message": "a\u{1b}[2Jb\n\tc\r\nd",
        });
        assert_eq!(
            readable(&line),
            "1970-01-01T00:00:00Z error f a\u{fffd}[2Jb\n    \tc\n    d"
        );
        assert_eq!(
            readable(&serde_json::json!({ "dropped": 7 })),
            "... 7 lines came too fast and are not shown"
        );
    }
}
