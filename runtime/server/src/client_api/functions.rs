//! `/v1/functions/NAME`: calls by client SDKs. The body is the data, the reply is the function's result as it is.

use std::sync::Arc;

use bytes::Bytes;
use cloudlet_base::{Fault, Principal};
use cloudlet_host::{Call, CallReply, Invocation, TraceContext};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::de::IgnoredAny;

use crate::apps::registry::{ActiveApp, InvokeRule};
use crate::front::body::{Body, RequestBody};
use crate::front::pipeline::Cx;
use crate::front::respond::{self, Failure};

/// Calls a function for a client.
pub(crate) async fn serve(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    name: &str,
    principal: Principal,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    if parts.method != Method::POST {
        return Err(Failure::method_not_allowed("POST"));
    }
    check_rule(
        app.invoke.get(name).copied().unwrap_or(InvokeRule::LoggedIn),
        &principal,
        name,
    )?;
    let mut payload = body.collect().await?;
    if payload.is_empty() {
        // A call without data; functions get an object, as in CloudBase.
        payload = Bytes::from_static(b"{}");
    }
    let invocation = Invocation {
        request: cx.id,
        principal,
        deadline: cx.deadline.clone(),
        depth: 0,
        trace: TraceContext::of(&parts.headers),
    };
    match app.functions.call(name, Call { payload }, invocation).await? {
        CallReply::Ok(result) => Ok(raw(result)),
        CallReply::Invalid(message) => {
            Err(Failure::new(Fault::Invalid, message).code("FUNCTION_PARAM_INVALID"))
        }
        CallReply::Denied(message) => Err(Failure::new(Fault::Denied, message)),
        CallReply::NotFound(message) => Err(Failure::new(Fault::NotFound, message)),
        CallReply::Failed(message) => Err(Failure::new(Fault::Guest, message).code("FUNCTIONS_EXECUTE_FAIL")),
        CallReply::Busy(message) => Err(Failure::new(Fault::Busy, message)),
        CallReply::Deadline => Err(Failure::new(
            Fault::Deadline,
            format!("function {name:?} ran out of time"),
        )
        .code("FUNCTION_TIME_LIMIT_EXCEEDED")),
    }
}

fn check_rule(rule: InvokeRule, principal: &Principal, name: &str) -> Result<(), Failure> {
    if !principal.bound_by_rules() {
        return Ok(());
    }
    match (rule, principal) {
        (InvokeRule::Anyone, _) | (InvokeRule::LoggedIn, Principal::User(_)) => Ok(()),
        (InvokeRule::LoggedIn, _) => Err(Failure::new(
            Fault::Unauthenticated,
            format!("function {name:?} may only be called by a logged-in user"),
        )),
        (InvokeRule::Nobody, _) => Err(Failure::new(
            Fault::Denied,
            format!("function {name:?} may not be called by clients"),
        )),
    }
}

/// The result with the type that makes the SDK read it rightly: JSON when it is JSON, else text or bytes.
fn raw(result: Bytes) -> Response<Body> {
    let content_type = if serde_json::from_slice::<IgnoredAny>(&result).is_ok() {
        respond::APPLICATION_JSON
    } else if std::str::from_utf8(&result).is_ok() {
        HeaderValue::from_static("text/plain; charset=utf-8")
    } else {
        HeaderValue::from_static("application/octet-stream")
    };
    respond::bytes(StatusCode::OK, content_type, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_typed_by_what_they_are() {
        let kind = |bytes: &'static [u8]| {
            raw(Bytes::from_static(bytes)).headers()["content-type"]
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert!(kind(b"{\"a\":1}").starts_with("application/json"));
        assert!(kind(b"12").starts_with("application/json"));
        assert!(kind(b"hello").starts_with("text/plain"));
        assert!(kind(b"").starts_with("text/plain"));
        assert_eq!(kind(b"\xff\xfe"), "application/octet-stream");
    }

    #[test]
    fn rules_bind_clients_only() {
        let admin = Principal::Admin { key_id: "k".into() };
        assert!(check_rule(InvokeRule::Nobody, &admin, "f").is_ok());
        assert_eq!(
            check_rule(InvokeRule::LoggedIn, &Principal::Public, "f")
                .unwrap_err()
                .fault,
            Fault::Unauthenticated
        );
        assert!(check_rule(InvokeRule::Anyone, &Principal::Public, "f").is_ok());
    }
}
