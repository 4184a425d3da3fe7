//! `secret`: values go in on standard input and never come out.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use http::Method;

use super::api::{Client, encoded};
use super::context::Context;
use super::{NoMatch, out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Store a secret; its value is read from standard input
    Put {
        /// Its name
        name: String,
    },
    /// List the names of the app's secrets
    List,
    /// Remove a secret
    Delete {
        /// Its name
        name: String,
    },
    /// Change the key with which the node seals the secrets of all apps
    RotateKey,
}

/// Runs the command.
pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let client = context.client()?;
    if let Command::RotateKey = command {
        return rotate_key(context, &client).await;
    }
    let app = context.app()?;
    match command {
        Command::RotateKey => {}
        Command::Put { name } => {
            let value = from_stdin(&format!("value of {name}"))?;
            let path = format!("/v1/apps/{app}/secrets/{}", encoded(&name));
            let answer = client.value(Method::PUT, &path, Some(value.into())).await?;
            if context.json {
                println!("{answer}");
            } else if answer["reloaded"] == true {
                println!("{name} stored; the running functions of {app} have it now");
            } else {
                println!("{name} stored; {app} is not deployed yet");
            }
        }
        Command::List => {
            let answer = client.get(&format!("/v1/apps/{app}/secrets")).await?;
            let secrets = answer["secrets"].as_array().cloned().unwrap_or_default();
            if context.json {
                println!("{answer}");
            } else if !secrets.is_empty() {
                let rows: Vec<_> = secrets
                    .iter()
                    .map(|secret| {
                        let name = secret["name"].as_str().unwrap_or_default().to_owned();
                        vec![name, out::time(secret["updated"].as_i64().unwrap_or_default())]
                    })
                    .collect();
                out::table(&["NAME", "UPDATED"], &rows);
            }
            if secrets.is_empty() {
                return Err(NoMatch(format!(
                    "app {app} has no secrets; add one with: cloudlet secret put NAME"
                ))
                .into());
            }
        }
        Command::Delete { name } => {
            let path = format!("/v1/apps/{app}/secrets/{}", encoded(&name));
            let answer = client.value(Method::DELETE, &path, None).await?;
            match context.json {
                true => println!("{answer}"),
                false => println!("{name} deleted"),
            }
        }
    }
    Ok(())
}

async fn rotate_key(context: &Context, client: &Client) -> anyhow::Result<()> {
    let answer = client.value(Method::POST, "/v1/rotate-secret-key", None).await?;
    match context.json {
        true => println!("{answer}"),
        false => println!(
            "{} secret(s) are sealed with a new key; the old one is of use for older backups only",
            answer["secrets"]
        ),
    }
    Ok(())
}

/// A value from standard input, without the line end that shells and editors add.
///
/// # Errors
/// When there is none.
pub(super) fn from_stdin(what: &str) -> anyhow::Result<String> {
    /// More than any value that is read this way.
    const BYTES_MAX: u64 = 1 << 20;
    let stdin = std::io::stdin();
    let mut value = String::new();
    if stdin.is_terminal() {
        eprint!("{what}: ");
        stdin.read_line(&mut value)?;
    } else {
        stdin
            .take(BYTES_MAX)
            .read_to_string(&mut value)
            .with_context(|| format!("can't read the {what} from standard input"))?;
    }
    let end = value.strip_suffix("\r\n").or_else(|| value.strip_suffix('\n'));
    let value = end.map(str::to_owned).unwrap_or(value);
    if value.is_empty() {
        bail!("the {what} is empty; send it on standard input");
    }
    Ok(value)
}
