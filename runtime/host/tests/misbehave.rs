//! Guests that do wrong get an error of their own, by kind, and leave their neighbours alone.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudlet_base::Fault;
use cloudlet_host::{InvokeError, LogDetail, LogLevel, LogLine, LogStream, TrapReason};
use http::Request;
use http_body_util::{BodyExt, Full};
use support::{App, Node};

fn app(node: &Node) -> App {
    node.app("misbehave", |spec| {
        spec.limits.cpu = Duration::from_millis(200);
        spec.limits.timeout = Duration::from_secs(2);
        spec.limits.memory_bytes_max = 16 << 20;
    })
}

async fn trap(node: &Node, path: &str) -> (TrapReason, String) {
    let app = app(node);
    let error = app.get(path).await.unwrap_err();
    assert_eq!(error.kind(), Fault::Guest, "{error:?}");
    // The next one is served as if nothing had been.
    assert_eq!(app.text("/").await, "ok");
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
    match error {
        InvokeError::Trapped { reason, message, .. } => (reason, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_loop_ends_with_the_computing_time() {
    let node = Node::start();
    assert_eq!(trap(&node, "/loop").await.0, TrapReason::CpuLimit);
    assert_eq!(
        node.metric("cloudlet_host_traps_total", &[("reason", "cpu_limit")]),
        1.0
    );
}

#[tokio::test]
async fn endless_allocation_ends_at_the_memory_limit() {
    let node = Node::start();
    let (reason, message) = trap(&node, "/alloc").await;
    assert_eq!(reason, TrapReason::MemoryLimit, "{message}");
}

#[tokio::test]
async fn endless_recursion_ends_with_the_stack() {
    let node = Node::start();
    let (reason, message) = trap(&node, "/recurse").await;
    // Rust guests keep a stack of their own in memory, below which there is nothing.
    assert!(
        matches!(reason, TrapReason::StackOverflow | TrapReason::MemoryOutOfBounds),
        "{reason:?} {message}"
    );
}

#[tokio::test]
async fn a_panic_is_logged_with_its_message() {
    let node = Node::start();
    let (reason, message) = trap(&node, "/panic").await;
    assert_eq!(reason, TrapReason::Unreachable, "{message}");
    let stderr = node.logs.texts(LogStream::Stderr).join("\n");
    assert!(stderr.contains("the guest gave up"), "{stderr}");
    let told = end(&node);
    assert!(told.text.contains("the guest gave up"), "{}", told.text);
    // This fixture has no names: the frames are told by number.
    assert!(told.text.contains("<wasm function "), "{}", told.text);
    let LogDetail::End(end) = told.detail else {
        panic!("{told:?}")
    };
    assert_eq!((&*end.outcome, &*end.trigger, end.status), ("trap", "http", None));
    assert!(
        end.memory_bytes >= 1 << 16 && end.duration > Duration::ZERO,
        "{end:?}"
    );
}

/// The one line that tells of an invocation's end.
fn end(node: &Node) -> LogLine {
    let mut lines = node.logs.lines();
    lines.retain(|line| matches!(line.detail, LogDetail::End(_)));
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

#[tokio::test]
async fn a_crash_is_told_with_names_files_and_lines() {
    let node = Node::start();
    let error = node.app("crash", |_| {}).get("/").await.unwrap_err();
    let InvokeError::Trapped { message, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(
        !message.contains("settle_the_bill"),
        "for the log alone: {message}"
    );
    let text = end(&node).text;
    let source = include_str!("../../fixtures/crash/src/lib.rs");
    let line = source.lines().position(|line| line.contains("the bill is empty"));
    let place = format!("src/lib.rs:{}:", line.unwrap() + 1);
    for wanted in [
        "wasm `unreachable` instruction executed",
        "settling a bill of 0 items",
        "the bill is empty",
        "crash::settle_the_bill",
        &place,
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
    assert!(!text.contains("RUST_BACKTRACE"), "{text}");
}

#[tokio::test]
async fn the_end_of_every_invocation_is_told_when_the_node_wants_that() {
    let node = Node::telling_every_end();
    let app = node.app("misbehave", |_| {});
    assert_eq!(app.text("/").await, "ok");
    let told = end(&node);
    let LogDetail::End(end) = &told.detail else {
        panic!("{told:?}")
    };
    assert_eq!(
        (told.level, &*end.outcome, end.status),
        (LogLevel::Info, "ok", Some(200))
    );
    let node = Node::start();
    assert_eq!(node.app("misbehave", |_| {}).text("/").await, "ok");
    assert!(node.logs.lines().is_empty());
}

#[tokio::test]
async fn an_exit_is_told_with_its_status() {
    let node = Node::start();
    let (reason, message) = trap(&node, "/exit").await;
    assert_eq!(reason, TrapReason::Exit);
    assert!(message.contains("status"), "{message}");
}

#[tokio::test]
async fn an_error_instead_of_a_response_is_a_failure() {
    let node = Node::start();
    let (reason, message) = trap(&node, "/error").await;
    assert_eq!(reason, TrapReason::Other);
    assert!(message.contains("on purpose"), "{message}");
}

#[tokio::test]
async fn silence_is_no_response() {
    let node = Node::start();
    let error = app(&node).get("/silent").await.unwrap_err();
    assert!(matches!(error, InvokeError::NoResponse { .. }), "{error:?}");
    assert_eq!(
        node.metric("cloudlet_host_invocations_total", &[("outcome", "no_response")]),
        1.0
    );
}

#[tokio::test]
async fn waiting_too_long_is_a_deadline() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| {
        spec.limits.timeout = Duration::from_millis(50)
    });
    let error = app.get("/sleep?60000").await.unwrap_err();
    assert!(matches!(error, InvokeError::Deadline { .. }), "{error:?}");
    assert_eq!(error.kind(), Fault::Deadline);
    assert_eq!(
        node.metric("cloudlet_host_traps_total", &[("reason", "timeout")]),
        1.0
    );
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
}

#[tokio::test]
async fn a_trap_after_the_head_breaks_the_body() {
    let node = Node::start();
    let app = app(&node);
    // Far more than the buffers hold, so that the head is out before the limit is met.
    let request = Request::get("/endless").body(Full::default()).unwrap();
    let mut body = app.send(request).await.unwrap().into_body();
    let (mut total, mut failure) = (0, None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => total += frame.into_data().unwrap().len(),
            Err(error) => {
                failure = Some(error.to_string());
                break;
            }
        }
    }
    assert!(failure.is_some(), "{total} bytes without an end");
    drop(body);
    // Nothing of this response had been sent when its guest trapped: the error can still be told properly.
    let error = app.get("/trap-after-head").await.unwrap_err();
    assert!(matches!(error, InvokeError::Trapped { .. }), "{error:?}");
    assert_eq!(app.text("/").await, "ok");
}

#[tokio::test]
async fn a_response_over_its_limit_is_cut_with_an_error() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| spec.limits.response_bytes_max = 200_000);
    let request = Request::get("/endless").body(Full::default()).unwrap();
    let error = app
        .send(request)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("200000"), "{error}");
}

#[tokio::test]
async fn a_request_over_its_limit_is_refused_declared_or_not() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| spec.limits.request_bytes_max = 1000);
    let send = |size: usize, declared: bool| {
        let mut request = Request::post("/read");
        if declared {
            request = request.header("content-length", size);
        }
        let request = request.body(Full::new(Bytes::from(vec![0; size]))).unwrap();
        let app = app.clone();
        async move { app.send(request).await }
    };
    assert!(send(1000, true).await.is_ok());
    assert!(send(1000, false).await.is_ok());
    for declared in [true, false] {
        let error = send(1001, declared).await.unwrap_err();
        assert!(
            matches!(error, InvokeError::RequestTooLarge { limit: 1000 }),
            "{error:?}"
        );
        assert_eq!(error.kind(), Fault::Limit);
    }
}

#[tokio::test]
async fn neighbours_on_the_same_thread_are_served_while_one_computes() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| spec.limits.cpu = Duration::from_secs(5));
    let busy = {
        let app = app.clone();
        tokio::spawn(async move { app.text("/spin?1000").await })
    };
    tokio::task::yield_now().await;
    let mut served = 0;
    while !busy.is_finished() {
        assert_eq!(app.text("/").await, "ok");
        served += 1;
    }
    assert_eq!(busy.await.unwrap(), "spun");
    assert!(served > 5, "{served}");
}

#[tokio::test]
async fn more_than_the_permits_are_refused_at_once() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| spec.limits.concurrency = 2);
    let sleeping: Vec<_> = (0..2)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { app.text("/sleep?300").await })
        })
        .collect();
    while node.metric("cloudlet_host_instances", &[]) < 2.0 {
        tokio::task::yield_now().await;
    }
    let error = app.get("/").await.unwrap_err();
    assert!(matches!(error, InvokeError::Busy { limit: 2, .. }), "{error:?}");
    assert_eq!(
        node.metric("cloudlet_host_refused_total", &[("scope", "function")]),
        1.0
    );
    for task in sleeping {
        assert_eq!(task.await.unwrap(), "slept");
    }
    assert_eq!(app.text("/").await, "ok");
}

#[tokio::test]
async fn a_caller_that_goes_away_stops_the_guest() {
    let node = Node::start();
    let app = node.app("misbehave", |_| {});
    let waiting = app.get("/sleep?60000");
    assert!(
        tokio::time::timeout(Duration::from_millis(30), waiting)
            .await
            .is_err()
    );
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
    assert_eq!(
        node.metric("cloudlet_host_invocations_total", &[("outcome", "cancelled")]),
        1.0
    );
    assert_eq!(
        Arc::strong_count(&app.app),
        1,
        "the record of the invocation is gone"
    );
}

#[tokio::test]
async fn what_a_guest_holds_of_the_host_is_bounded() {
    let node = Node::start();
    // Header fields.
    let (reason, message) = trap(&node, "/fields").await;
    assert_eq!(reason, TrapReason::Other, "{message}");
    assert!(message.contains("size of fields exceeds limit"), "{message}");
    // Handles.
    let (reason, message) = trap(&node, "/resources").await;
    assert_eq!(reason, TrapReason::Other, "{message}");
    assert!(message.contains("table"), "{message}");
}

#[tokio::test]
async fn what_a_guest_hands_over_in_one_call_is_bounded() {
    let node = Node::start();
    let app = node.app("misbehave", |spec| {
        spec.limits.memory_bytes_max = 200 << 20;
        spec.limits.cpu = Duration::from_secs(10);
    });
    assert_eq!(app.text("/host-call?1000000").await, "said");
    let error = app.get("/host-call?70000000").await.unwrap_err();
    assert!(matches!(error, InvokeError::Trapped { .. }), "{error:?}");
    assert_eq!(app.text("/").await, "ok");
}
