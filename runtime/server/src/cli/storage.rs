//! `storage`: objects. Bodies are streamed; nothing that is there is overwritten without being told to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::api::{ApiError, Client, SentBody, encoded, encoded_path};
use super::context::Context;
use super::{NoMatch, out};

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List objects
    Ls {
        /// Whose path begins with this
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Fetch an object into a file, or to standard output with -
    Get {
        /// Its path
        path: String,
        /// The file [default: the last part of the path, here]
        file: Option<PathBuf>,
        /// Replace the file when it is there
        #[arg(long)]
        force: bool,
    },
    /// Store a file as an object
    Put {
        /// The file
        file: PathBuf,
        /// Its path
        path: String,
        /// Media type [default: by the path's ending]
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
        /// Replace the object when it is there
        #[arg(long)]
        force: bool,
    },
    /// Remove an object
    Rm {
        /// Its path
        path: String,
    },
}

/// Runs the command.
pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let url = |path: &str| {
        let path = path.trim_start_matches('/');
        if path.is_empty() {
            bail!("the object's path is empty");
        }
        Ok(format!("/v1/apps/{app}/objects/{}", encoded_path(path)))
    };
    match command {
        Command::Ls { prefix } => list(context, &client, app.as_str(), &prefix).await,
        Command::Get { path, file, force } => get(&client, &url(&path)?, &path, file, force).await,
        Command::Put {
            file,
            path,
            content_type,
            force,
        } => {
            let url = url(&path)?;
            if !force && exists(&client, &url).await? {
                bail!("there is an object at {path:?} already; replace it with --force");
            }
            put(context, &client, &url, &file, content_type.as_deref()).await
        }
        Command::Rm { path } => {
            let answer = client.value(Method::DELETE, &url(&path)?, None).await?;
            match context.json {
                true => println!("{answer}"),
                false => println!("{path} removed"),
            }
            Ok(())
        }
    }
}

fn nothing() -> SentBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

async fn exists(client: &Client, url: &str) -> anyhow::Result<bool> {
    match client.send(Method::HEAD, url, None, nothing()).await {
        Ok(_) => Ok(true),
        Err(error) => match error.downcast_ref::<ApiError>() {
            Some(api) if api.status == http::StatusCode::NOT_FOUND => Ok(false),
            _ => Err(error),
        },
    }
}

async fn list(context: &Context, client: &Client, app: &str, prefix: &str) -> anyhow::Result<()> {
    let mut after = String::new();
    let mut all: Vec<Value> = Vec::new();
    loop {
        let path = format!(
            "/v1/apps/{app}/objects?prefix={}{}",
            encoded(prefix),
            match after.is_empty() {
                true => String::new(),
                false => format!("&after={}", encoded(&after)),
            }
        );
        let answer = client.get(&path).await?;
        let objects = answer["objects"].as_array().cloned().unwrap_or_default();
        after = objects
            .last()
            .and_then(|last| last["path"].as_str())
            .unwrap_or_default()
            .to_owned();
        all.extend(objects);
        if answer["more"] != true || after.is_empty() {
            break;
        }
    }
    if context.json {
        println!("{}", serde_json::json!({ "objects": all }));
    } else if !all.is_empty() {
        let row = |object: &Value| {
            vec![
                object["path"].as_str().unwrap_or_default().to_owned(),
                out::size(object["size"].as_u64().unwrap_or_default()),
                object["contentType"].as_str().unwrap_or_default().to_owned(),
                out::time(object["modified"].as_i64().unwrap_or_default()),
            ]
        };
        out::table(
            &["PATH", "SIZE", "TYPE", "MODIFIED"],
            &all.iter().map(row).collect::<Vec<_>>(),
        );
    }
    match all.is_empty() {
        true => Err(NoMatch(format!("no object's path begins with {prefix:?}")).into()),
        false => Ok(()),
    }
}

async fn get(
    client: &Client,
    url: &str,
    path: &str,
    file: Option<PathBuf>,
    force: bool,
) -> anyhow::Result<()> {
    let file = match file {
        Some(file) => file,
        None => Path::new(path)
            .file_name()
            .map(PathBuf::from)
            .with_context(|| format!("{path:?} ends in no name; name a file"))?,
    };
    let to_stdout = file.as_os_str() == "-";
    if !to_stdout && !force && file.exists() {
        bail!("{} is there already; replace it with --force", file.display());
    }
    let response = client.send(Method::GET, url, None, nothing()).await?;
    let length = http_body::Body::size_hint(response.body())
        .exact()
        .unwrap_or_default();
    let bar = out::byte_bar(length, "fetching");
    let mut body = response.into_body();
    if to_stdout {
        let mut stdout = tokio::io::stdout();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("the object ended early")?.into_data() {
                stdout.write_all(&data).await?;
            }
        }
        return Ok(stdout.flush().await?);
    }
    // Under another name until it is whole, so that what is there is never half of something.
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let partial = file.with_file_name(name);
    let write = async {
        let mut out = tokio::fs::File::create(&partial).await?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("the object ended early")?.into_data() {
                out.write_all(&data).await?;
                bar.inc(data.len() as u64);
            }
        }
        out.flush().await?;
        tokio::fs::rename(&partial, &file).await?;
        anyhow::Ok(())
    };
    let written = write.await;
    bar.finish_and_clear();
    if written.is_err() {
        // Best effort: the first failure is the one to tell.
        let _ = tokio::fs::remove_file(&partial).await;
    }
    written.with_context(|| format!("can't write {}", file.display()))
}

async fn put(
    context: &Context,
    client: &Client,
    url: &str,
    file: &Path,
    content_type: Option<&str>,
) -> anyhow::Result<()> {
    let unreadable = || format!("can't read {}", file.display());
    let source = tokio::fs::File::open(file).await.with_context(unreadable)?;
    let metadata = source.metadata().await.with_context(unreadable)?;
    if !metadata.is_file() {
        bail!("{} is not a file", file.display());
    }
    let bar = out::byte_bar(metadata.len(), "storing");
    let sent = bar.clone();
    let chunks = futures_util::stream::try_unfold(source, |mut source| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = source.read(&mut chunk).await?;
        chunk.truncate(read);
        std::io::Result::Ok((read > 0).then(|| (Bytes::from(chunk), source)))
    });
    let frames = chunks.map_ok(move |chunk| {
        sent.inc(chunk.len() as u64);
        Frame::data(chunk)
    });
    let body = StreamBody::new(frames).boxed_unsync();
    let response = client.send(Method::PUT, url, content_type, body).await;
    bar.finish_and_clear();
    let answer = response?.into_body().collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&answer)?;
    match context.json {
        true => println!("{answer}"),
        false => println!(
            "{} stored, {}, etag {}",
            answer["path"].as_str().unwrap_or_default(),
            out::size(answer["size"].as_u64().unwrap_or_default()),
            answer["etag"].as_str().unwrap_or_default()
        ),
    }
    Ok(())
}
