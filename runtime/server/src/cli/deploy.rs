//! `validate`, `diff`, `deploy`.

use anyhow::Context as _;
use serde_json::json;

use super::api::{ApiError, Client};
use super::bundle::Bundle;
use super::context::Context;
use super::versions::describe;
use super::{Differs, build};
use crate::apps::deploy::Outcome;
use crate::apps::diff::{Change, Diff, What};
use crate::apps::manifest;

/// Site files of which `diff` tells one by one; of more, the number.
const FILES_TOLD_MAX: usize = 50;

/// Arguments of `validate`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// Check the manifest as this environment has it
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Print the manifest's JSON Schema instead
    #[arg(long)]
    schema: bool,
}

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
pub(super) struct DeployArgs {
    /// Check everything on the node, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Deploy as this environment has it
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Deploy what is built already
    #[arg(long)]
    no_build: bool,
    /// Serve this part of the requests beside the active deployment; then: cloudlet promote, or cloudlet rollback
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99), conflicts_with = "no_activate")]
    canary: Option<u8>,
    /// Keep it ready and serve nothing; then: cloudlet promote VERSION, or cloudlet traffic VERSION=PERCENT
    #[arg(long)]
    no_activate: bool,
    /// Refuse when another deployment is the active one [default: the one that is active when the command begins]
    #[arg(long, value_name = "VERSION", conflicts_with = "force")]
    base: Option<i64>,
    /// Deploy whatever others have deployed meanwhile
    #[arg(long)]
    force: bool,
}

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// Compare as this environment has it
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Compare what is built already
    #[arg(long)]
    no_build: bool,
    /// Compare with this deployment [default: the active one]
    #[arg(long, value_name = "VERSION")]
    against: Option<i64>,
}

/// Checks the manifest.
pub(super) fn validate(context: &Context, args: ValidateArgs) -> anyhow::Result<()> {
    if args.schema {
        println!("{}", serde_json::to_string_pretty(manifest::schema())?);
        return Ok(());
    }
    let (_, manifest) = context.manifest(args.env.as_deref())?;
    let (functions, routes) = (manifest.functions.len(), manifest.routes.len());
    match context.json {
        true => println!(
            "{}",
            json!({ "app": manifest.app.as_str(), "functions": functions, "routes": routes })
        ),
        false => println!(
            "{} is good: app {}, {functions} function(s), {routes} route(s)",
            manifest::FILE,
            manifest.app.as_str()
        ),
    }
    Ok(())
}

/// Tells what a deploy would change; fails with [`Differs`] when it would.
pub(super) async fn diff(context: &Context, args: DiffArgs) -> anyhow::Result<()> {
    let (text, manifest) = context.manifest(args.env.as_deref())?;
    let client = context.client()?;
    if !args.no_build {
        build::build(&context.dir, &manifest, &mut build::all(&manifest)).await?;
    }
    let bundle = Bundle::read(&context.dir, text, &manifest, args.env.as_deref())?;
    let app = context.app().unwrap_or_else(|_| manifest.app.clone());
    let query = args.against.map(|number| format!("?against={number}"));
    let path = format!("/v1/apps/{app}/diff{}", query.unwrap_or_default());
    let answer = client
        .post(&path, &serde_json::to_value(&bundle.request)?)
        .await?;
    let diff: Diff = serde_json::from_value(answer).context("the node's answer to the diff can't be read")?;
    if context.json {
        println!("{}", serde_json::to_string(&diff)?);
    } else {
        tell(&diff);
    }
    match diff.changes.is_empty() {
        true => Ok(()),
        false => Err(Differs.into()),
    }
}

fn tell(diff: &Diff) {
    let app = &diff.app;
    match (diff.against, diff.changes.is_empty()) {
        (Some(number), true) => return println!("{app}: nothing would change against deployment {number}"),
        (None, true) => return println!("{app}: nothing would change"),
        (Some(number), false) => println!("{app}: against deployment {number}"),
        (None, false) => println!("{app}: is not deployed yet"),
    }
    let files = diff
        .changes
        .iter()
        .filter(|change| change.what == What::File)
        .count();
    for change in &diff.changes {
        if change.what != What::File || files <= FILES_TOLD_MAX {
            println!("  {}", line(change));
        }
    }
    if files > FILES_TOLD_MAX {
        println!("  ~ {files} site files; --json tells which");
    }
}

fn line(change: &Change) -> String {
    let what = format!("{:?}", change.what).to_lowercase();
    let name = &change.name;
    // Hashes say no more than that they differ.
    let hashed = matches!(change.what, What::Function | What::File | What::Manifest);
    match (&change.before, &change.after) {
        (None, _) => format!("+ {what} {name}"),
        (_, None) if change.what == What::Index => format!("- {what} {name} (it stays in the database)"),
        (_, None) => format!("- {what} {name}"),
        (Some(_), Some(_)) if hashed => format!("~ {what} {name}"),
        (Some(before), Some(after)) => format!("~ {what} {name}: {before} -> {after}"),
    }
}

/// Builds, uploads and deploys.
pub(super) async fn deploy(context: &Context, args: DeployArgs) -> anyhow::Result<()> {
    let (text, manifest) = context.manifest(args.env.as_deref())?;
    // Before the build, which may take long, so that a missing key is told at once.
    let client = context.client()?;
    let app = context.app().unwrap_or_else(|_| manifest.app.clone());
    // Before the build, too: what others deploy from now on is what this deploy has not seen.
    let seen = match args.base.is_none() && !args.force && !args.no_activate {
        true => revision(&client, app.as_str()).await?,
        false => None,
    };
    if !args.no_build {
        build::build(&context.dir, &manifest, &mut build::all(&manifest)).await?;
    }
    let mut bundle = Bundle::read(&context.dir, text, &manifest, args.env.as_deref())?;
    bundle.request.dry_run = args.dry_run;
    let plan = &mut bundle.request.plan;
    plan.canary = args.canary;
    plan.staged = args.no_activate;
    plan.base = args.base;
    plan.revision = seen;
    plan.force = args.force;
    let outcome = send(&client, app.as_str(), &bundle).await?;
    if context.json {
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(());
    }
    let node = client.node();
    let Outcome { app, deployment, .. } = &outcome;
    if outcome.unchanged {
        println!("{app}: nothing changed, deployment {deployment} is active on {node}");
    } else if outcome.dry_run {
        println!("{app}: would be deployed to {node} as {deployment}");
    } else if args.no_activate {
        println!(
            "{app}: deployment {deployment} is on {node} and serves nothing; cloudlet promote {deployment} activates it"
        );
    } else if args.canary.is_some() {
        println!("{app}: deployment {deployment} serves a part of the requests to {node}");
        println!("  {}", describe(&outcome.traffic));
    } else {
        println!("{app}: deployment {deployment} is active on {node}");
    }
    Ok(())
}

/// The revision of an app's traffic, 0 when the app is not there yet.
async fn revision(client: &Client, app: &str) -> anyhow::Result<Option<i64>> {
    match client.get(&format!("/v1/apps/{app}/traffic")).await {
        Ok(answer) => Ok(answer["revision"].as_i64()),
        Err(error) => match error.downcast_ref::<ApiError>() {
            Some(api) if api.status == http::StatusCode::NOT_FOUND => Ok(Some(0)),
            _ => Err(error),
        },
    }
}

/// Uploads and deploys a bundle.
///
/// # Errors
/// When the node refuses; the running app is as it was.
pub(super) async fn send(client: &Client, app: &str, bundle: &Bundle) -> anyhow::Result<Outcome> {
    let request = serde_json::to_value(&bundle.request)?;
    let path = format!("/v1/apps/{app}/deployments");
    bundle.upload(client, app).await?;
    let mut answer = client.post(&path, &request).await;
    let missing = |error: &anyhow::Error| {
        error
            .downcast_ref::<ApiError>()
            .is_some_and(|api| api.code == "CONTENT_MISSING")
    };
    if answer.as_ref().is_err_and(missing) {
        // What was there when we asked was collected since; once more, and it is new.
        bundle.upload(client, app).await?;
        answer = client.post(&path, &request).await;
    }
    serde_json::from_value(answer?).context("the node's answer to the deploy can't be read")
}
