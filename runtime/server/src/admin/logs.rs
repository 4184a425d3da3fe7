//! Log lines over HTTP: `GET /v1/apps/APP/logs`, one JSON object a line; the newest, or those from a cursor on, and with
//! `follow=1` those that come, to the end of the connection. A blank line now and then keeps a quiet connection alive.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use cloudlet_base::{AppId, Fault, Timestamp};
use cloudlet_host::{LogDetail, LogLevel, LogStream};
use futures_util::Stream;
use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{Request, functions, invalid};
use crate::apps::manifest;
use crate::front::body::{Body, BoxError};
use crate::front::respond::{self, Failure};
use crate::logs::{Entry, Follower, LogFilter, StatusFilter};

/// How often a quiet follower gets a blank line; proxies and pace limits cut a connection that says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Lines in an answer that does not say how many.
const LIMIT: usize = 1000;
/// Lines in one answer at most.
const LIMIT_MAX: usize = 10_000;

/// Media type of one JSON object a line.
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson; charset=utf-8");

/// Answers with the lines asked for.
pub(super) async fn serve(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    request.only(&Method::GET)?;
    let logs = &request.cx.node().logs;
    if !logs.knows(app) {
        functions::running(&request, app)?;
    }
    let filter = filter(&request)?;
    let limit = limit(&request)?;
    let (before, after) = (cursor(&request, "before")?, cursor(&request, "after")?);
    let follow = request
        .query("follow")?
        .is_some_and(|value| value == "1" || value == "true");
    if before.is_some() && (after.is_some() || follow) {
        return Err(invalid("before goes neither with after nor with follow"));
    }
    if follow && let Some(after) = after {
        return Ok(streamed(Vec::new(), logs.follow(app, filter, after)));
    }
    let page = match after {
        Some(after) => logs.onward(app, filter.clone(), after, limit).await,
        None => {
            let before = before.unwrap_or(u64::MAX);
            logs.newest(app, filter.clone(), before, limit).await
        }
    };
    let page = page.map_err(unreadable)?;
    let mut text = Vec::new();
    for entry in &page.entries {
        text.extend_from_slice(&encoded(entry));
    }
    if follow {
        // What came since the page was read is above its last line, and so the first that the follower finds.
        let last = page.entries.back().map_or(page.seen_to, |entry| entry.seq);
        return Ok(streamed(text, logs.follow(app, filter, last)));
    }
    if page.more {
        let more = match after {
            Some(_) => json!({ "more": { "after": page.seen_to.to_string() } }),
            None => {
                let first = page.entries.front().map_or(0, |entry| entry.seq);
                json!({ "more": { "before": first.to_string() } })
            }
        };
        text.extend_from_slice(more.to_string().as_bytes());
        text.push(b'\n');
    }
    Ok(respond::bytes(StatusCode::OK, NDJSON, text))
}

fn streamed(begin: Vec<u8>, follower: Follower) -> Response<Body> {
    let mut response = Response::new(Body::stream(followed(begin, follower)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, NDJSON);
    response
}

fn unreadable(error: io::Error) -> Failure {
    tracing::error!(%error, "functions' logs can't be read");
    Failure::new(Fault::Internal, format!("the log can't be read: {error}"))
}

fn limit(request: &Request<'_>) -> Result<usize, Failure> {
    let Some(text) = request.query("limit")? else {
        return Ok(LIMIT);
    };
    match text.parse() {
        Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
        _ => Err(invalid(format!(
            "limit is {text:?}; write a whole number from 1 to {LIMIT_MAX}"
        ))),
    }
}

fn cursor(request: &Request<'_>, name: &str) -> Result<Option<u64>, Failure> {
    let parsed = request.query(name)?.map(|text| match text.parse() {
        Ok(seq) => Ok(seq),
        Err(_) => Err(invalid(format!(
            "{name} is {text:?}; write the cursor of a line, a whole number"
        ))),
    });
    parsed.transpose()
}

fn filter(request: &Request<'_>) -> Result<LogFilter, Failure> {
    let level = request
        .query("level")?
        .map(|text| parse_level(&text))
        .transpose()?;
    let status = request.query("status")?.filter(|text| !text.is_empty());
    let status = status.map(|text| parse_status(&text)).transpose()?;
    let of_request = request.query("request")?;
    let of_request = of_request.map(|text| text.parse().map_err(invalid)).transpose()?;
    Ok(LogFilter {
        function: request.query("function")?,
        level,
        status,
        request: of_request,
        since: moment(request, "since")?,
        until: moment(request, "until")?,
        text: request.query("text")?.filter(|text| !text.is_empty()),
    })
}

/// A time ago, such as `5m`, or milliseconds since 1970.
fn moment(request: &Request<'_>, name: &str) -> Result<Option<Timestamp>, Failure> {
    let now = request.cx.node().clock.now();
    let parsed = request.query(name)?.map(|text| match text.parse::<i64>() {
        Ok(millis) => Ok(Timestamp(millis)),
        Err(_) => manifest::duration(&text)
            .map(|ago| {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp(now.millis().saturating_sub(ago))
            })
            .map_err(|(message, remedy)| invalid(format!("{message}; {remedy}, or milliseconds since 1970"))),
    });
    parsed.transpose()
}

/// `error`, `ok`, a status such as `503`, or a class such as `5xx`.
fn parse_status(text: &str) -> Result<StatusFilter, Failure> {
    let class = text
        .strip_suffix("xx")
        .and_then(|class| class.parse().ok())
        .filter(|class| (1..=5).contains(class))
        .map(|class: u16| StatusFilter::Range(class * 100, class * 100 + 99));
    let status = text
        .parse()
        .ok()
        .filter(|status| (100..=599).contains(status))
        .map(|status| StatusFilter::Range(status, status));
    match text {
        "error" => Ok(StatusFilter::Error),
        "ok" => Ok(StatusFilter::Ok),
        _ => class.or(status).ok_or_else(|| {
            invalid(format!(
                "unknown status {text:?}; known: \"error\", \"ok\", a status such as 503, a class such as 5xx"
            ))
        }),
    }
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

/// A line as JSON. What a function wrote as a JSON object are its fields, with the message among them.
fn encoded(entry: &Entry) -> Vec<u8> {
    let line = &entry.line;
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("cursor", entry.seq.to_string().into());
    put("at", line.at.millis().into());
    put("function", (&*line.function).into());
    put("deployment", line.deployment.0.into());
    put("requestId", line.request.to_string().into());
    put("level", level_name(line.level).into());
    put("stream", stream_name(line.stream).into());
    let fields = fields(line.stream, &line.text);
    let said = fields
        .as_ref()
        .and_then(|fields| fields.get("message").or_else(|| fields.get("msg"))?.as_str());
    put("message", said.unwrap_or(&line.text).into());
    match &line.detail {
        LogDetail::None => {}
        LogDetail::Context(context) => drop(put("context", (&**context).into())),
        LogDetail::LeftOut(count) => drop(put("leftOut", (*count).into())),
        LogDetail::End(end) => {
            let millis = |time: Duration| json!(time.as_micros() as f64 / 1000.0);
            put("outcome", (&*end.outcome).into());
            put("trigger", (&*end.trigger).into());
            if let Some(status) = end.status {
                put("status", status.into());
            }
            put("durationMs", millis(end.duration));
            put("cpuMs", millis(end.cpu));
            put("memoryBytes", end.memory_bytes.into());
        }
    }
    if let Some(fields) = fields {
        put("fields", Value::Object(fields));
    }
    let mut text = Value::Object(object).to_string().into_bytes();
    text.push(b'\n');
    text
}

/// The fields of a structured line: one whose text is a JSON object.
fn fields(stream: LogStream, text: &str) -> Option<Map<String, Value>> {
    let text = text.trim();
    if stream == LogStream::Platform || !(text.starts_with('{') && text.ends_with('}')) {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// What was read, then the lines that come, as text.
fn followed(begin: Vec<u8>, follower: Follower) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let begin = Some(begin).filter(|begin| !begin.is_empty());
    stream::unfold((begin, follower), |(begin, mut follower)| async move {
        if let Some(begin) = begin {
            return Some((Ok(begin.into()), (None, follower)));
        }
        let text = match tokio::time::timeout(KEEP_ALIVE, follower.next()).await {
            Err(_) => Ok(Bytes::from_static(b"\n")),
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(entry))) => Ok(encoded(&entry).into()),
            Ok(Err(error)) => {
                tracing::error!(%error, "functions' logs can't be read");
                Err(error.into())
            }
        };
        Some((text, (None, follower)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::testing::line;

    #[test]
    fn a_json_object_is_told_as_fields() {
        let told = |text: &str| -> Value {
            let entry = Entry {
                seq: 7,
                line: line(5, "f", LogLevel::Info, text),
            };
            serde_json::from_slice(&encoded(&entry)).unwrap()
        };
        let plain = told("{not json}");
        assert_eq!(
            (&plain["message"], &plain["fields"]),
            (&json!("{not json}"), &Value::Null)
        );
        let structured = told(r#"{"message":"paid","amount":3}"#);
        assert_eq!(structured["message"], "paid");
        assert_eq!(structured["fields"]["amount"], 3);
        assert_eq!(structured["cursor"], "7");
        let without = told(r#"{"amount":3}"#);
        assert_eq!(without["message"], r#"{"amount":3}"#);
    }

    #[test]
    fn statuses_are_parsed() {
        assert_eq!(parse_status("error").unwrap(), StatusFilter::Error);
        assert_eq!(parse_status("ok").unwrap(), StatusFilter::Ok);
        assert_eq!(parse_status("5xx").unwrap(), StatusFilter::Range(500, 599));
        assert_eq!(parse_status("404").unwrap(), StatusFilter::Range(404, 404));
        for bad in ["err", "9xx", "99", "600", "xx"] {
            assert!(parse_status(bad).is_err(), "{bad}");
        }
    }
}
