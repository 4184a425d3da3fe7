//! HTTP invocations that go well: bodies both ways, isolation, what a guest sees and says.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use cloudlet_host::{LogDetail, LogLevel, LogStream};
use futures_util::StreamExt;
use http::Request;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use support::Node;

#[tokio::test]
async fn a_standard_component_answers() {
    let node = Node::start();
    let app = node.app("hello", |_| {});
    assert!(app.app.serves_http("hello") && app.app.serves_calls("hello"));
    assert!(!app.app.serves_http("nobody"));
    let request = Request::get("/").body(Full::default()).unwrap();
    let response = app.send(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain");
    // Whole in memory: the connection can send it with its length, in one write.
    assert_eq!(response.body().size_hint().exact(), Some(28));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "hello from a fresh instance\n");
    assert_eq!(
        node.metric(
            "cloudlet_host_invocations_total",
            &[("trigger", "http"), ("outcome", "ok")]
        ),
        1.0
    );
    for phase in ["queue", "instantiate", "run"] {
        assert_eq!(
            node.metric("cloudlet_host_phase_seconds", &[("phase", phase)]),
            1.0
        );
    }
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    let node = Node::start();
    let app = node.app("echo", |spec| {
        spec.limits.request_bytes_max = 64 << 20;
        spec.limits.cpu = Duration::from_secs(10);
    });
    let chunk = Bytes::from(vec![b'a'; 100_000]);
    let sent = 20 << 20;
    let count = sent / chunk.len();
    let body = StreamBody::new(
        futures_util::stream::iter(0..count).map(move |_| Ok::<_, Infallible>(Frame::data(chunk.clone()))),
    );
    let request = Request::post("/up?x=1")
        .header("host", "shop.test")
        .body(body)
        .unwrap();
    let response = app.app.http("echo", request, app.invocation()).await.unwrap();
    assert_eq!(response.headers()["x-method"], "Method::Post");
    assert_eq!(response.headers()["x-path"], "/up?x=1");
    assert_eq!(response.headers()["x-authority"], "shop.test");
    let mut body = response.into_body();
    let (mut total, mut frames) = (0, 0);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().all(|byte| *byte == b'a'));
        total += data.len();
        frames += 1;
    }
    assert_eq!(total, count * 100_000);
    assert!(frames > 100, "{frames}");
}

#[tokio::test]
async fn chunks_come_back_while_the_request_is_still_open() {
    let node = Node::start();
    let app = node.app("echo", |_| {});
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = StreamBody::new(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move {
            let chunk = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(chunk)), receiver))
        },
    ));
    let request = Request::post("/").body(body).unwrap();
    let mut response = app
        .app
        .http("echo", request, app.invocation())
        .await
        .unwrap()
        .into_body();
    for word in ["one", "two", "three"] {
        sender.send(word.into()).await.unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(sender);
    assert!(response.frame().await.is_none());
}

#[tokio::test]
async fn each_invocation_begins_afresh() {
    let node = Node::start();
    let app = node.app("misbehave", |_| {});
    for _ in 0..3 {
        assert_eq!(app.text("/count").await, "0");
    }
}

#[tokio::test]
async fn the_guest_sees_its_caller_configuration_and_no_files_or_sockets() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| {
        spec.vars.insert("color".into(), "green".into());
        spec.secrets.insert("key".into(), "s3cret".into());
    });
    assert_eq!(
        app.text("/caller").await,
        "Principal::Public 00000000000000000000000000000abc shop"
    );
    assert_eq!(app.text("/config?color").await, "green");
    assert_eq!(app.text("/config?key").await, "s3cret");
    assert_eq!(app.text("/config?other").await, "none");
    assert_eq!(app.text("/files").await, "true");
    assert_eq!(app.text("/connect").await, "true");
    assert_eq!(app.text("/random").await, "0");
    assert_eq!(app.text("/sleep?20").await, "slept");
}

#[tokio::test]
async fn what_the_guest_prints_and_logs_is_captured_by_line() {
    let node = Node::start();
    let app = node.app("misbehave", |_| {});
    app.text("/print").await;
    assert_eq!(
        node.logs.texts(LogStream::Stdout),
        ["one line", "half and half", "no line end"]
    );
    assert_eq!(node.logs.texts(LogStream::Stderr), ["to stderr"]);
    assert_eq!(node.logs.texts(LogStream::Logging), ["by wasi:logging"]);
    let lines = node.logs.lines();
    let warning = lines
        .iter()
        .find(|line| line.stream == LogStream::Logging)
        .unwrap();
    assert_eq!(warning.level, LogLevel::Warn);
    assert_eq!(warning.detail, LogDetail::Context("shop".into()));
    assert_eq!((warning.app.as_str(), &*warning.function), ("shop", "misbehave"));
    assert_eq!(warning.deployment.0, 7);
}

#[tokio::test]
async fn a_flood_of_lines_is_cut_and_that_is_said_once() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| spec.limits.log_lines_max = 100);
    assert_eq!(app.text("/flood").await, "flooded");
    assert_eq!(node.logs.texts(LogStream::Stdout).len(), 100);
    let said = node.logs.texts(LogStream::Platform);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("limit of 100 log lines"), "{said:?}");
}

#[tokio::test]
async fn work_after_a_whole_response_is_finished() {
    let node = Node::start();
    let app = node.app("misbehave", |_| {});
    assert_eq!(app.text("/after").await, "answered");
    assert!(node.logs.texts(LogStream::Stdout).is_empty());
    while node.metric("cloudlet_host_invocations_total", &[("outcome", "ok")]) == 0.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.logs.texts(LogStream::Stdout), ["done after the answer"]);
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
}

/// Failed by an empty body now and then: a task that has done much is made to wait by tokio when it next reads from
/// a channel, and the host took that for the end of the response.
#[tokio::test]
async fn many_requests_of_one_task_all_get_their_body() {
    let node = Node::start();
    let app = node.app("hello", |_| {});
    for _ in 0..300 {
        assert_eq!(app.text("/").await, "hello from a fresh instance\n");
    }
}
