//! Calls: handlers, their errors, HTTP components as a fallback, functions that call functions.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use cloudlet_base::Principal;
use cloudlet_host::{CallReply, Invocation, InvokeError};
use support::{Node, ok};

#[tokio::test]
async fn replies_and_typed_errors_come_through() {
    let node = Node::start();
    let app = node.app("calls", |_| {});
    assert!(!app.app.serves_http("calls") && app.app.serves_calls("calls"));
    assert_eq!(ok(app.call("echo hi there").await), "hi there");
    assert_eq!(
        app.call("invalid a").await.unwrap(),
        CallReply::Invalid("a".into())
    );
    assert_eq!(app.call("denied b").await.unwrap(), CallReply::Denied("b".into()));
    assert_eq!(
        app.call("not-found c").await.unwrap(),
        CallReply::NotFound("c".into())
    );
    assert_eq!(app.call("fail d").await.unwrap(), CallReply::Failed("d".into()));
    let error = app.call("panic e").await.unwrap_err();
    assert!(matches!(error, InvokeError::Trapped { .. }), "{error:?}");
    assert_eq!(
        node.metric(
            "cloudlet_host_invocations_total",
            &[("trigger", "call"), ("outcome", "ok")]
        ),
        5.0
    );
    let error = app.get("/").await.unwrap_err();
    assert!(matches!(error, InvokeError::NoHandler { .. }), "{error:?}");
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused() {
    let node = Node::start();
    let app = node.app("calls", |spec| spec.limits.request_bytes_max = 10);
    let error = app.call("echo 1234567").await.unwrap_err();
    assert!(
        matches!(error, InvokeError::RequestTooLarge { limit: 10 }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_component_that_only_answers_http_is_called_by_post() {
    let node = Node::start();
    let app = node.app("echo", |_| {});
    assert_eq!(ok(app.call(r#"{"a":1}"#).await), r#"{"a":1}"#);
    assert_eq!(
        node.metric(
            "cloudlet_host_invocations_total",
            &[("trigger", "call"), ("outcome", "ok")]
        ),
        1.0
    );
}

#[tokio::test]
async fn functions_call_functions_as_themselves() {
    let node = Node::start();
    let outer = node.function("calls", |spec| spec.name = "outer".into());
    let inner = node.function("calls", |spec| spec.name = "inner".into());
    let shy = node.function("calls", |spec| {
        spec.name = "shy".into();
        spec.grants.functions = vec!["outer".into()];
    });
    let http = node.function("echo", |spec| spec.name = "http".into());
    let mut app = node.app_of(vec![outer, inner, shy, http]);
    assert_eq!(ok(app.call("call inner echo hi").await), "hi");
    assert_eq!(ok(app.call("call http hello").await), "hello");
    assert_eq!(
        ok(app.call("call inner caller").await),
        "Principal::Function(\"outer\")"
    );
    assert_eq!(
        app.call("call inner fail x").await.unwrap(),
        CallReply::Failed("x".into())
    );
    let CallReply::Failed(text) = app.call("call inner panic").await.unwrap() else {
        panic!()
    };
    assert!(text.contains("\"inner\" failed"), "{text}");
    let CallReply::NotFound(text) = app.call("call nobody x").await.unwrap() else {
        panic!()
    };
    assert!(text.contains("nobody"), "{text}");
    app.function = "shy".into();
    let CallReply::Denied(text) = app.call("call inner echo x").await.unwrap() else {
        panic!()
    };
    assert!(text.contains("grants.functions"), "{text}");
}

#[tokio::test]
async fn depth_is_limited() {
    let node = Node::start();
    // The second is as deep as a manifest may say.
    for limit in [3, 16] {
        let app = node.app("calls", |spec| spec.limits.call_depth_max = limit);
        let reply = ok(app.call("deep calls").await);
        assert!(reply.contains(&format!("over the limit of {limit}")), "{reply}");
        assert!(reply.ends_with(&"+".repeat(limit as usize)), "{reply}");
    }
}

#[tokio::test]
async fn the_caller_is_who_the_platform_says() {
    let node = Node::start();
    let app = node.app("calls", |_| {});
    let invocation = Invocation {
        principal: Principal::Admin { key_id: "k1".into() },
        ..app.invocation()
    };
    assert_eq!(
        ok(app.call_as("caller", invocation).await),
        "Principal::Admin(\"k1\")"
    );
}
