//! `login`, `logout`, `whoami`, and `auth`: users of the app and the node's admin keys.

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::json;

use super::api::{Client, encoded};
use super::context::Context;
use super::secret::from_stdin;
use super::{NoMatch, out};

/// Arguments of `login`. The key comes by `--key`, `CLOUDLET_KEY` or standard input.
#[derive(Debug, clap::Args)]
pub(super) struct LoginArgs {}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Users of the app
    #[command(subcommand)]
    User(UserCommand),
    /// Admin keys of the node
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum UserCommand {
    /// Register a user; the password is read from standard input
    Add {
        /// The username
        username: String,
        /// Display name
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key; it is shown once
    Create {
        /// What it is for
        label: String,
    },
    /// List the keys, without their secrets
    List,
    /// Remove a key
    Delete {
        /// Its id
        id: String,
    },
}

/// Remembers a node and its key, after trying them.
pub(super) async fn login(context: &Context, _args: LoginArgs) -> anyhow::Result<()> {
    let node = context.node()?;
    let key = match context.given_key() {
        Some(key) => key.to_owned(),
        None => from_stdin("admin key")?,
    };
    Client::new(&node, &key)?.get("/v1/whoami").await?;
    let mut credentials = context.credentials()?;
    credentials.nodes.insert(node.clone(), key.trim().to_owned());
    credentials.current = Some(node.clone());
    let path = context.remember(&credentials)?;
    match context.json {
        true => println!("{}", json!({ "node": node, "file": path })),
        false => println!("logged in to {node}; the key is in {}", path.display()),
    }
    Ok(())
}

/// Forgets the node's key.
pub(super) fn logout(context: &Context) -> anyhow::Result<()> {
    let node = context.node()?;
    let mut credentials = context.credentials()?;
    if credentials.nodes.remove(&node).is_none() {
        return Err(NoMatch(format!("no key is remembered for {node}")).into());
    }
    if credentials.current.as_ref() == Some(&node) {
        credentials.current = None;
    }
    context.remember(&credentials)?;
    match context.json {
        true => println!("{}", json!({ "node": node })),
        false => println!("the key for {node} is forgotten here; it is good until: cloudlet auth key delete"),
    }
    Ok(())
}

/// Tells node, key and version.
pub(super) async fn whoami(context: &Context) -> anyhow::Result<()> {
    let client = context.client()?;
    let answer = client.get("/v1/whoami").await?;
    let (key, version) = (
        answer["key"].as_str().unwrap_or_default(),
        answer["version"].as_str().unwrap_or_default(),
    );
    match context.json {
        true => println!(
            "{}",
            json!({ "node": client.node(), "key": key, "version": version })
        ),
        false => println!("node {}, key {key}, version {version}", client.node()),
    }
    Ok(())
}

/// Runs the command.
pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let client = context.client()?;
    match command {
        Command::User(UserCommand::Add { username, name }) => {
            let app = context.app()?;
            let password = from_stdin(&format!("password of {username}"))?;
            let body = json!({ "username": username, "password": password, "name": name });
            let answer = client.post(&format!("/v1/apps/{app}/users"), &body).await?;
            match context.json {
                true => println!("{answer}"),
                false => println!(
                    "{username} registered, uid {}",
                    answer["uid"].as_str().unwrap_or_default()
                ),
            }
            Ok(())
        }
        Command::Key(command) => keys(context, &client, command).await,
    }
}

async fn keys(context: &Context, client: &Client, command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { label } => {
            let answer = client.post("/v1/keys", &json!({ "label": label })).await?;
            if context.json {
                println!("{answer}");
            } else {
                println!("{}", answer["secret"].as_str().context("the node sent no key")?);
                eprintln!("this is the only time that the key is shown");
            }
        }
        KeyCommand::List => {
            let answer = client.get("/v1/keys").await?;
            let keys = answer["keys"].as_array().cloned().unwrap_or_default();
            if context.json {
                println!("{answer}");
            } else {
                let rows: Vec<_> = keys
                    .iter()
                    .map(|key| {
                        vec![
                            key["key"].as_str().unwrap_or_default().to_owned(),
                            key["label"].as_str().unwrap_or_default().to_owned(),
                            out::time(key["created"].as_i64().unwrap_or_default()),
                        ]
                    })
                    .collect();
                out::table(&["KEY", "LABEL", "CREATED"], &rows);
            }
        }
        KeyCommand::Delete { id } => {
            let own = client.get("/v1/whoami").await?;
            if own["key"] == id.as_str() {
                bail!("{id} is the key that you are using; delete it with another one");
            }
            let answer = client
                .value(Method::DELETE, &format!("/v1/keys/{}", encoded(&id)), None)
                .await?;
            match context.json {
                true => println!("{answer}"),
                false => println!("{id} deleted"),
            }
        }
    }
    Ok(())
}
