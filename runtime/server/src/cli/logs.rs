//! `logs`: what functions say, kept or as it comes.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
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
    /// How invocations ended that did so: error, ok, a status such as 503, a class such as 5xx
    #[arg(long, value_name = "S")]
    pub(super) status: Option<String>,
    /// Of this request alone, the x-request-id of its response
    #[arg(long, value_name = "ID")]
    pub(super) request: Option<String>,
    /// With this text in it, in any case
    #[arg(long, value_name = "TEXT")]
    pub(super) text: Option<String>,
    /// Written within this time, e.g. 5m
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Written before this time ago, e.g. 1m
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// So many lines, the newest of them unless --after is given [default: 1000, with -f 100]
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) limit: Option<u32>,
    /// Those before the line with this cursor (see --json)
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["after", "follow"])]
    pub(super) before: Option<String>,
    /// Those after the line with this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
}

/// Lines that a follower is shown of what was before, unless it says since when.
const FOLLOWED_LIMIT: u32 = 100;
/// How long to wait before following again when the line broke.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts to follow again before giving up.
const RETRIES_MAX: u32 = 10;

/// Runs the command.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let mut reader = Reader::new(args, context.json);
    if reader.args.follow {
        return reader.follow(&client, app.as_str()).await;
    }
    match reader.read(&client, app.as_str()).await? {
        0 => Err(NoMatch(format!("app {app} has said nothing that matches")).into()),
        _ => Ok(()),
    }
}

/// Reads lines and prints them; knows the last one it has seen.
pub(super) struct Reader {
    args: Args,
    json: bool,
}

impl Reader {
    pub(super) fn new(mut args: Args, json: bool) -> Self {
        if args.follow && args.limit.is_none() && args.since.is_none() {
            args.limit = Some(FOLLOWED_LIMIT);
        }
        Self { args, json }
    }

    /// Prints lines as they come; goes on after the last one when the node was away.
    async fn follow(&mut self, client: &Client, app: &str) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            match self.read(client, app).await {
                Ok(0) => failures += 1,
                Ok(_) => failures = 0,
                Err(error) if failures == 0 && self.args.after.is_none() => return Err(error),
                Err(error) if failures >= RETRIES_MAX => return Err(error),
                Err(_) => failures += 1,
            }
            if failures > RETRIES_MAX {
                anyhow::bail!("the node closes the connection; run the command again to go on");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Prints lines until there are no more. Returns how many there were.
    pub(super) async fn read(&mut self, client: &Client, app: &str) -> anyhow::Result<u64> {
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let path = path(app, &self.args);
        let mut body = client.send(Method::GET, &path, None, empty).await?.into_body();
        let mut pending = BytesMut::new();
        let mut shown = 0;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // The next attempt goes on after the last whole line.
                Err(_) if self.args.follow => break,
                Err(error) => return Err(error).context("the answer broke off; ask again for the rest"),
            };
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end + 1);
                shown += u64::from(self.line(&line)?);
            }
            if pending.len() > LINE_BYTES_MAX {
                pending.clear();
            }
        }
        Ok(shown)
    }

    /// Prints one line; blank ones only keep the connection alive.
    fn line(&mut self, line: &[u8]) -> anyhow::Result<bool> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        if text.is_empty() {
            return Ok(false);
        }
        let value = serde_json::from_str::<Value>(text).unwrap_or_default();
        if let Some(more) = value["more"].as_object() {
            for (flag, cursor) in more {
                let cursor = cursor.as_str().unwrap_or_default();
                eprintln!("there are more lines; go on with: --{flag} {cursor}");
            }
            return Ok(false);
        }
        if self.args.follow
            && let Some(cursor) = value["cursor"].as_str()
        {
            self.args.after = Some(cursor.to_owned());
            // A time ago is another time when the node is asked again, and lines in between would be left out.
            self.args.since = None;
        }
        let mut stdout = std::io::stdout().lock();
        match value.is_object() && !self.json {
            true => writeln!(stdout, "{}", readable(&value))?,
            false => writeln!(stdout, "{text}")?,
        }
        stdout.flush()?;
        Ok(true)
    }
}

fn path(app: &str, args: &Args) -> String {
    let mut path = format!("/v1/apps/{app}/logs?follow={}", u8::from(args.follow));
    let limit = args.limit.map(|limit| limit.to_string());
    let chosen = [
        ("function", &args.function),
        ("level", &args.level),
        ("status", &args.status),
        ("request", &args.request),
        ("text", &args.text),
        ("since", &args.since),
        ("until", &args.until),
        ("limit", &limit),
        ("before", &args.before),
        ("after", &args.after),
    ];
    for (name, value) in chosen {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    path
}

fn readable(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default();
    let mut message = harmless(text("message"));
    if let Some(context) = line["context"].as_str() {
        message = format!("{}: {message}", harmless(context));
    }
    if let Some(fields) = line["fields"].as_object() {
        let fields = fields
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "message" | "msg"));
        for (name, value) in fields {
            message.push_str(&harmless(&format!(" {name}={value}")));
        }
    }
    if let Some(outcome) = line["outcome"].as_str() {
        let (head, rest) = message.split_at(message.find('\n').unwrap_or(message.len()));
        message = format!("{head} ({}){rest}", used(outcome, line));
    }
    let at = out::time(line["at"].as_i64().unwrap_or_default());
    let mut who = text("function").to_owned();
    if let Some(deployment) = line["deployment"].as_u64().filter(|number| *number > 0) {
        who.push_str(&format!("@{deployment}"));
    }
    // Enough of the request's id to tell requests apart; --json has the whole.
    let request: String = text("requestId").chars().take(REQUEST_SHOWN).collect();
    format!("{at} {:<5} {who} {request} {message}", text("level"))
}

/// Digits of a request's id that are shown.
const REQUEST_SHOWN: usize = 8;

/// What an invocation came to and what it used.
fn used(outcome: &str, line: &Value) -> String {
    let number = |name: &str| line[name].as_f64().unwrap_or_default();
    let status = line["status"].as_u64().map(|status| format!("status {status}, "));
    format!(
        "{outcome}, {}{:.1} ms, {:.1} ms computing, {:.1} MiB",
        status.unwrap_or_default(),
        number("durationMs"),
        number("cpuMs"),
        number("memoryBytes") / f64::from(1 << 20)
    )
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
            "at": 0, "function": "f", "deployment": 3, "level": "error", "requestId": "0123456789abcdef",
            "message": "a\u{1b}[2Jb\n\tc\r\nd",
        });
        assert_eq!(
            readable(&line),
            "1970-01-01T00:00:00Z error f@3 01234567 a\u{fffd}[2Jb\n    \tc\n    d"
        );
    }

    #[test]
    fn what_an_invocation_used_follows_its_first_line() {
        let line = serde_json::json!({
            "at": 0, "function": "f", "level": "error", "message": "trapped\nat x", "outcome": "trap",
            "durationMs": 12.34, "cpuMs": 1.0, "memoryBytes": 1_572_864,
        });
        assert!(
            readable(&line).ends_with("trapped (trap, 12.3 ms, 1.0 ms computing, 1.5 MiB)\n    at x"),
            "{}",
            readable(&line)
        );
        let line = serde_json::json!({
            "at": 0, "function": "f", "level": "info", "message": "paid", "context": "shop",
            "fields": { "message": "paid", "amount": 3, "by": "a\u{1b}" },
        });
        assert!(
            readable(&line).contains("shop: paid amount=3 by=\"a"),
            "{}",
            readable(&line)
        );
        assert!(!readable(&line).contains('\u{1b}'));
    }
}
