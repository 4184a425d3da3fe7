//! `trigger`: what invokes functions by itself, and the deliveries whose invocations failed.

use anyhow::bail;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::context::Context;
use super::{NoMatch, out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the triggers, timers with their next ticks, and how many deliveries wait and failed
    List,
    /// List the deliveries that wait for an invocation, the oldest first
    Waiting,
    /// List the deliveries whose last invocation failed, the oldest first
    Failed,
    /// Send failed deliveries again
    Replay(Which),
    /// Forget failed deliveries
    Discard(Which),
}

/// One or all.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The delivery's id
    id: Option<String>,
    /// All that failed
    #[arg(long)]
    all: bool,
}

/// A moment, if there is one.
fn moment(value: &Value) -> String {
    value.as_i64().map_or_else(|| "-".to_owned(), out::time)
}

/// Runs the command.
pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let path = |rest: &str| format!("/v1/apps/{app}/triggers{rest}");
    match command {
        Command::List => {
            let answer = client.get(&path("")).await?;
            list(context, &answer);
            let has = |kind: &str| answer[kind].as_array().is_some_and(|of| !of.is_empty());
            match ["timers", "database", "storage"].into_iter().any(has) {
                true => Ok(()),
                false => Err(NoMatch(format!("app {app} has no triggers that fire by themselves")).into()),
            }
        }
        Command::Waiting => deliveries(context, &client.get(&path("/waiting")).await?, "waits"),
        Command::Failed => deliveries(context, &client.get(&path("/failed")).await?, "failed"),
        Command::Replay(which) => {
            let answer = client
                .value(Method::POST, &path("/replay"), Some(which.body()?))
                .await?;
            changed(context, &answer, "sent again")
        }
        Command::Discard(which) => {
            let answer = client
                .value(Method::POST, &path("/discard"), Some(which.body()?))
                .await?;
            changed(context, &answer, "forgotten")
        }
    }
}

impl Which {
    fn body(&self) -> anyhow::Result<Bytes> {
        match (&self.id, self.all) {
            (Some(id), false) => Ok(json!({ "id": id }).to_string().into()),
            (None, true) => Ok(Bytes::from_static(b"{}")),
            _ => bail!("which delivery? name one, or all with --all"),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn list(context: &Context, answer: &Value) {
    if context.json {
        println!("{answer}");
        return;
    }
    let timers = answer["timers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |timer: &Value| {
        vec![
            text(&timer["name"]),
            text(&timer["schedule"]),
            text(&timer["function"]),
            moment(&timer["next"]),
            text(&timer["missed"]),
            text(&timer["retries"]),
        ]
    };
    let rows: Vec<Vec<String>> = timers.iter().map(row).collect();
    if !rows.is_empty() {
        out::table(
            &["TIMER", "SCHEDULE", "FUNCTION", "NEXT", "MISSED", "RETRIES"],
            &rows,
        );
    }
    let rows: Vec<Vec<String>> = ["database", "storage"]
        .into_iter()
        .flat_map(|kind| {
            let triggers = answer[kind].as_array().map(Vec::as_slice).unwrap_or_default();
            triggers.iter().map(move |trigger| on_changes(kind, trigger))
        })
        .collect();
    if !rows.is_empty() {
        out::table(&["TRIGGER", "KIND", "ON", "FUNCTION", "RETRIES", "LOST"], &rows);
    }
    println!("{} waiting, {} failed", answer["waiting"], answer["failed"]);
}

fn on_changes(kind: &str, trigger: &Value) -> Vec<String> {
    let on = trigger["on"].as_array().map(Vec::as_slice).unwrap_or_default();
    let on: Vec<&str> = on.iter().filter_map(Value::as_str).collect();
    let of = match kind {
        "database" => format!("of {}", text(&trigger["collection"])),
        _ => format!("under {}", trigger["prefix"]),
    };
    vec![
        text(&trigger["name"]),
        kind.to_owned(),
        format!("{} {of}", on.join(", ")),
        text(&trigger["function"]),
        text(&trigger["retries"]),
        moment(&trigger["lost"]),
    ]
}

fn deliveries(context: &Context, answer: &Value, state: &str) -> anyhow::Result<()> {
    let found = answer["deliveries"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if context.json {
        println!("{answer}");
    } else if !found.is_empty() {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|delivery| {
                let when = match &delivery["failed"] {
                    Value::Null => &delivery["due"],
                    failed => failed,
                };
                vec![
                    text(&delivery["id"]),
                    text(&delivery["function"]),
                    text(&delivery["attempts"]),
                    moment(when),
                    text(&delivery["error"]),
                ]
            })
            .collect();
        out::table(&["DELIVERY", "FUNCTION", "ATTEMPTS", "WHEN", "ERROR"], &rows);
    }
    match found.is_empty() {
        true => Err(NoMatch(format!("no delivery {state}")).into()),
        false => Ok(()),
    }
}

fn changed(context: &Context, answer: &Value, what: &str) -> anyhow::Result<()> {
    match context.json {
        true => println!("{answer}"),
        false => println!("{} {what}", answer["changed"]),
    }
    match answer["changed"].as_u64() {
        Some(0) => Err(NoMatch("there was no failed delivery".to_owned()).into()),
        _ => Ok(()),
    }
}
