//! `validate`, `deploy`, `versions`, `rollback`.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::api::Client;
use super::bundle::Bundle;
use super::context::Context;
use super::{build, out};
use crate::apps::deploy::Outcome;
use crate::apps::manifest;

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
}

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The deployment [default: the one before the active one]
    #[arg(value_name = "VERSION")]
    deployment: Option<i64>,
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

/// Builds, uploads and deploys.
pub(super) async fn deploy(context: &Context, args: DeployArgs) -> anyhow::Result<()> {
    let (text, manifest) = context.manifest(args.env.as_deref())?;
    // Before the build, which may take long, so that a missing key is told at once.
    let client = context.client()?;
    if !args.no_build {
        build::build(&context.dir, &manifest, |_| true).await?;
    }
    let mut bundle = Bundle::read(&context.dir, text, &manifest, args.env.as_deref())?;
    bundle.request.dry_run = args.dry_run;
    let app = match context.app() {
        Ok(app) => app,
        Err(_) => manifest.app.clone(),
    };
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
    } else {
        println!("{app}: deployment {deployment} is active on {node}");
    }
    Ok(())
}

/// Uploads and deploys a bundle.
///
/// # Errors
/// When the node refuses; the running app is as it was.
pub(super) async fn send(client: &Client, app: &str, bundle: &Bundle) -> anyhow::Result<Outcome> {
    bundle.upload(client, app).await?;
    let answer = client
        .post(
            &format!("/v1/apps/{app}/deployments"),
            &serde_json::to_value(&bundle.request)?,
        )
        .await?;
    serde_json::from_value(answer).context("the node's answer to the deploy can't be read")
}

/// Lists the deployments.
pub(super) async fn versions(context: &Context) -> anyhow::Result<()> {
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
            if deployment["active"] == true {
                "active"
            } else {
                ""
            }
            .to_owned(),
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

/// Makes an older deployment the active one.
pub(super) async fn rollback(context: &Context, args: RollbackArgs) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let body = json!({ "deployment": args.deployment });
    let answer = client.post(&format!("/v1/apps/{app}/rollback"), &body).await?;
    match context.json {
        true => println!("{answer}"),
        false if answer["unchanged"] == true => {
            println!("{app}: deployment {} is active already", answer["deployment"])
        }
        false => println!(
            "{app}: deployment {} is active again, was {}",
            answer["deployment"], answer["previous"]
        ),
    }
    Ok(())
}
