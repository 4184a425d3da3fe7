//! `versions`, `traffic`, `promote`, `rollback`: what is deployed, and which of it serves requests.

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::{Value, json};

use super::context::Context;
use super::out;
use crate::apps::deploy::Outcome;
use crate::apps::records::Share;

/// Arguments of `versions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the deployments that are kept (the default)
    List,
    /// Show one deployment
    Show {
        /// The deployment
        #[arg(value_name = "VERSION")]
        deployment: i64,
        /// Print its manifest instead
        #[arg(long)]
        manifest: bool,
    },
    /// Keep a deployment however old it gets
    Pin {
        /// The deployment
        #[arg(value_name = "VERSION")]
        deployment: i64,
    },
    /// Let a deployment go when it is old
    Unpin {
        /// The deployment
        #[arg(value_name = "VERSION")]
        deployment: i64,
    },
    /// Remove now, on the whole node, old deployments and what only they used
    Collect,
}

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The deployment [default: the active one without its candidates, else the one that was active before it]
    #[arg(value_name = "VERSION")]
    deployment: Option<i64>,
}

/// Arguments of `promote`.
#[derive(Debug, clap::Args)]
pub(super) struct PromoteArgs {
    /// The deployment [default: the one that serves a part of the requests]
    #[arg(value_name = "VERSION")]
    deployment: Option<i64>,
}

/// Arguments of `traffic`.
#[derive(Debug, clap::Args)]
pub(super) struct TrafficArgs {
    /// Deployments and what they shall serve, in percent; the active one serves the rest
    #[arg(value_name = "VERSION=PERCENT", value_parser = share)]
    shares: Vec<Share>,
}

fn share(text: &str) -> Result<Share, String> {
    let parsed = text.split_once('=').and_then(|(deployment, percent)| {
        Some(Share {
            deployment: deployment.parse().ok().filter(|number| *number > 0)?,
            percent: percent
                .trim_end_matches('%')
                .parse()
                .ok()
                .filter(|percent| *percent <= 100)?,
        })
    });
    parsed.ok_or_else(|| "expected a deployment and what it shall serve in percent, such as 7=10".to_owned())
}

/// `versions`.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.command.unwrap_or(Command::List) {
        Command::List => list(context).await,
        Command::Show { deployment, manifest } => show(context, deployment, manifest).await,
        Command::Pin { deployment } => pin(context, deployment, true).await,
        Command::Unpin { deployment } => pin(context, deployment, false).await,
        Command::Collect => collect(context).await,
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let answer = client.get(&format!("/v1/apps/{app}/deployments")).await?;
    if context.json {
        println!("{answer}");
        return Ok(());
    }
    let deployments = answer["deployments"].as_array().cloned().unwrap_or_default();
    let row = |deployment: &Value| {
        let text = |name: &str| deployment[name].as_str().unwrap_or("-").to_owned();
        vec![
            deployment["deployment"].to_string(),
            state(deployment),
            out::time(deployment["created"].as_i64().unwrap_or_default()),
            text("env"),
            text("by"),
            text("hash").chars().take(12).collect(),
        ]
    };
    let rows: Vec<_> = deployments.iter().map(row).collect();
    out::table(&["VERSION", "", "CREATED", "ENV", "BY", "HASH"], &rows);
    Ok(())
}

/// In a word or two, what a deployment is for.
fn state(deployment: &Value) -> String {
    let percent = deployment["percent"].as_u64().unwrap_or_default();
    let mut words = Vec::new();
    if deployment["active"] == true {
        words.push("active".to_owned());
    }
    if (1..100).contains(&percent) {
        words.push(format!("{percent}%"));
    }
    if deployment["staged"] == true && percent == 0 {
        words.push("staged".to_owned());
    }
    if deployment["pinned"] == true {
        words.push("pinned".to_owned());
    }
    words.join(" ")
}

async fn show(context: &Context, deployment: i64, manifest: bool) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let answer = client
        .get(&format!("/v1/apps/{app}/deployments/{deployment}"))
        .await?;
    if manifest {
        print!("{}", answer["manifest"].as_str().unwrap_or_default());
        return Ok(());
    }
    if context.json {
        println!("{answer}");
        return Ok(());
    }
    println!("{app} {deployment} {}", state(&answer));
    println!(
        "created {}",
        out::time(answer["created"].as_i64().unwrap_or_default())
    );
    for name in ["env", "by", "hash"] {
        if let Some(text) = answer[name].as_str().filter(|text| !text.is_empty()) {
            println!("{name} {text}");
        }
    }
    for (function, hash) in answer["components"].as_object().into_iter().flatten() {
        println!("function {function} {}", hash.as_str().unwrap_or_default());
    }
    let files = answer["site"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bytes: u64 = files.iter().filter_map(|file| file["size"].as_u64()).sum();
    println!("site files {}, {}", files.len(), out::size(bytes));
    Ok(())
}

async fn pin(context: &Context, deployment: i64, pinned: bool) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let method = if pinned { Method::PUT } else { Method::DELETE };
    let path = format!("/v1/apps/{app}/deployments/{deployment}/pin");
    let answer = client.value(method, &path, None).await?;
    match (context.json, pinned) {
        (true, _) => println!("{answer}"),
        (false, true) => println!("{app}: deployment {deployment} is kept however old it gets"),
        (false, false) => println!("{app}: deployment {deployment} goes when it is old"),
    }
    Ok(())
}

async fn collect(context: &Context) -> anyhow::Result<()> {
    let answer = context.client()?.post("/v1/collect", &json!({})).await?;
    match context.json {
        true => println!("{answer}"),
        false => println!(
            "removed {} deployment(s), {} content(s), {} compiled component(s), {}",
            answer["deployments"],
            answer["contents"],
            answer["artifacts"],
            out::size(answer["bytes"].as_u64().unwrap_or_default())
        ),
    }
    Ok(())
}

/// Shows which deployments serve requests, or changes it.
pub(super) async fn traffic(context: &Context, args: TrafficArgs) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let path = format!("/v1/apps/{app}/traffic");
    let now = client.get(&path).await?;
    if args.shares.is_empty() {
        if context.json {
            println!("{now}");
            return Ok(());
        }
        let rows: Vec<_> = now["traffic"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|share| {
                let number = |name: &str| {
                    share[name]
                        .as_u64()
                        .map_or("-".to_owned(), |number| number.to_string())
                };
                let active = share["deployment"] == now["active"];
                vec![
                    number("deployment"),
                    if active { "active" } else { "" }.to_owned(),
                    number("percent"),
                    number("requests"),
                    number("failures"),
                ]
            })
            .collect();
        out::table(&["VERSION", "", "PERCENT", "REQUESTS", "FAILURES"], &rows);
        return Ok(());
    }
    // Based on what is there now: who changes it between is not overwritten.
    let body = json!({ "shares": args.shares, "revision": now["revision"] });
    let answer = client
        .value(Method::PUT, &path, Some(body.to_string().into()))
        .await?;
    if context.json {
        println!("{answer}");
        return Ok(());
    }
    let outcome: Outcome = serde_json::from_value(answer).context("the node's answer can't be read")?;
    println!("{app}: {}", describe(&outcome.traffic));
    Ok(())
}

/// Which deployments serve how much, in words.
pub(super) fn describe(traffic: &[Share]) -> String {
    let part = |share: &Share| format!("deployment {} serves {} %", share.deployment, share.percent);
    traffic.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Makes an older deployment the active one.
pub(super) async fn rollback(context: &Context, args: RollbackArgs) -> anyhow::Result<()> {
    choose(context, "rollback", args.deployment, "again").await
}

/// Makes a deployment the active one.
pub(super) async fn promote(context: &Context, args: PromoteArgs) -> anyhow::Result<()> {
    choose(context, "promote", args.deployment, "now").await
}

async fn choose(context: &Context, verb: &str, deployment: Option<i64>, word: &str) -> anyhow::Result<()> {
    if deployment.is_some_and(|number| number < 1) {
        bail!("deployments are numbered from 1");
    }
    let (client, app) = (context.client()?, context.app()?);
    let body = json!({ "deployment": deployment });
    let answer = client.post(&format!("/v1/apps/{app}/{verb}"), &body).await?;
    let (active, previous) = (&answer["deployment"], &answer["previous"]);
    match context.json {
        true => println!("{answer}"),
        false if answer["unchanged"] == true => println!("{app}: deployment {active} is active already"),
        false if active == previous => println!("{app}: deployment {active} serves all requests {word}"),
        false => println!("{app}: deployment {active} is active {word}, was {previous}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        let check = |text: &str, expected: Option<(i64, u8)>| {
            let found = share(text).ok().map(|share| (share.deployment, share.percent));
            assert_eq!(found, expected, "{text}");
        };
        check("7=10", Some((7, 10)));
        check("7=10%", Some((7, 10)));
        check("7=0", Some((7, 0)));
        for wrong in ["", "7", "=10", "7=", "0=10", "-1=10", "7=101", "7=x", "7=1=2"] {
            check(wrong, None);
        }
    }
}
