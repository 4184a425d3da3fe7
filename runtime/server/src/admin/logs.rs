//! Log lines over HTTP: `GET /v1/apps/APP/logs`, one JSON object a line, followed to the end of the connection with
//! `follow=1`. A blank line now and then keeps a quiet connection alive.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use cloudlet_base::{AppId, Timestamp};
use cloudlet_host::{LogLevel, LogLine, LogStream};
use futures_util::stream;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use super::{Request, functions, invalid};
use crate::apps::manifest;
use crate::front::body::Body;
use crate::front::respond::{self, Failure};
use crate::logs::{Followed, Follower, LogFilter};

/// How often a quiet follower gets a blank line; proxies and pace limits cut a connection that says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Media type of one JSON object a line.
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson; charset=utf-8");

/// Answers with the lines asked for.
pub(super) fn serve(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    request.only(&Method::GET)?;
    let app = functions::running(&request, app)?.id.clone();
    let filter = filter(&request)?;
    let logs = &request.cx.node().logs;
    let follow = request
        .query("follow")?
        .is_some_and(|value| value == "1" || value == "true");
    if !follow {
        let mut text = Vec::new();
        for line in logs.recent(&app, &filter) {
            text.extend_from_slice(&encoded(&line));
        }
        return Ok(respond::bytes(StatusCode::OK, NDJSON, text));
    }
    let (kept, follower) = logs.follow(&app, filter);
    let kept = stream::iter(kept.into_iter().map(|line| encoded(&line)));
    let lines = kept
        .chain(followed(follower))
        .map(|line| Ok::<_, Infallible>(Bytes::from(line)));
    let mut response = Response::new(Body::stream(
        lines.map(|line| line.map_err(|never| match never {})),
    ));
    response.headers_mut().insert(http::header::CONTENT_TYPE, NDJSON);
    Ok(response)
}

fn filter(request: &Request<'_>) -> Result<LogFilter, Failure> {
    let level = request
        .query("level")?
        .map(|text| parse_level(&text))
        .transpose()?;
    let failures = match request.query("status")?.as_deref() {
        None | Some("") => false,
        Some("error") => true,
        Some(other) => return Err(invalid(format!("unknown status {other:?}; known: \"error\""))),
    };
    let now = request.cx.node().clock.now();
    let since = request
        .query("since")?
        .map(|text| match text.parse::<i64>() {
            Ok(millis) => Ok(Timestamp(millis)),
            Err(_) => manifest::duration(&text)
                .map(|ago| {
                    Timestamp(
                        now.millis()
                            .saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
                    )
                })
                .map_err(|(message, remedy)| {
                    invalid(format!("{message}; {remedy}, or milliseconds since 1970"))
                }),
        })
        .transpose()?;
    Ok(LogFilter {
        function: request.query("function")?,
        level,
        failures,
        since,
    })
}

fn parse_level(text: &str) -> Result<LogLevel, Failure> {
    const LEVELS: [LogLevel; 5] = [
        LogLevel::Trace,
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
    ];
    let found = LEVELS
        .into_iter()
        .find(|level| level_name(*level) == text.to_lowercase());
    found.ok_or_else(|| {
        invalid(format!(
            "unknown level {text:?}; known: trace, debug, info, warn, error"
        ))
    })
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

fn stream_name(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Logging => "logging",
        LogStream::Platform => "platform",
    }
}

fn encoded(line: &LogLine) -> Vec<u8> {
    let value = json!({
        "at": line.at.millis(),
        "function": &*line.function,
        "deployment": line.deployment.0,
        "requestId": line.request.to_string(),
        "level": level_name(line.level),
        "stream": stream_name(line.stream),
        "message": line.text,
    });
    let mut text = value.to_string().into_bytes();
    text.push(b'\n');
    text
}

/// The lines that come, as text.
fn followed(follower: Follower) -> impl Stream<Item = Vec<u8>> + Send {
    stream::unfold(follower, |mut follower| async move {
        let text = match tokio::time::timeout(KEEP_ALIVE, follower.next()).await {
            Err(_) => b"\n".to_vec(),
            Ok(None) => return None,
            Ok(Some(Followed::Line(line))) => encoded(&line),
            Ok(Some(Followed::Dropped(count))) => {
                let mut text = json!({ "dropped": count }).to_string().into_bytes();
                text.push(b'\n');
                text
            }
        };
        Some((text, follower))
    })
}
