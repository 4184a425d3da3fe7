//! Responses, and the one place where a failure becomes an HTTP status. Every room's errors arrive here by `From`;
//! the CloudBase code is chosen where the error is known, the status follows from the [`Fault`] alone.

use std::borrow::Cow;

use bytes::Bytes;
use cloudlet_base::{Fault, RequestId};
use cloudlet_data::AccessError;
use cloudlet_host::{InvokeError, TrapReason};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::front::body::Body;
use crate::front::rate::{By, Over};

/// What a client is told when it is told to come back.
const RETRY_AFTER_S: u64 = 1;

/// A request that was not served, as its client will see it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    /// CloudBase's code where there is one.
    pub(crate) code: &'static str,
    /// For people; says nothing of the node's inside.
    pub(crate) message: Cow<'static, str>,
    status: Option<StatusCode>,
    allow: Option<HeaderValue>,
    retry_after_s: u64,
    /// Why the node itself failed; for its log, never for the client.
    pub(crate) cause: Option<String>,
}

impl Failure {
    /// A failure with the status and the general code of its kind.
    pub(crate) fn new(fault: Fault, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            fault,
            code: general_code(fault),
            message: message.into(),
            status: None,
            allow: None,
            retry_after_s: RETRY_AFTER_S,
            cause: None,
        }
    }

    /// With a more telling code.
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// With a status that no fault has.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Too many requests.
    pub(crate) fn rate_limited(by: By, function: &str, over: Over) -> Self {
        let what = match function {
            "" => "this app".to_owned(),
            function => format!("function {function:?}"),
        };
        let whom = match by {
            By::Address => "one address",
            By::User => "one user",
            By::Total => "all clients together",
        };
        let message = format!("too many requests: {what} takes {} from {whom}", over.rate);
        let mut failure = Self::new(Fault::Busy, message)
            .code("EXCEED_RATELIMIT")
            .status(StatusCode::TOO_MANY_REQUESTS);
        // Whole seconds, rounded up: a client that comes back when it was told to is served.
        failure.retry_after_s = over.wait.as_millis().div_ceil(1000).max(1) as u64;
        failure
    }

    /// A method that the resource does not have.
    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        let mut failure = Self::new(Fault::Invalid, format!("method not allowed; allowed: {allow}"))
            .code("METHOD_NOT_ALLOWED")
            .status(StatusCode::METHOD_NOT_ALLOWED);
        failure.allow = HeaderValue::from_str(allow).ok();
        failure
    }

    /// Something that the protocol has and this node does not, or not yet.
    pub(crate) fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Fault::Invalid, what)
            .code("OPERATION_UNSUPPORTED")
            .status(StatusCode::NOT_IMPLEMENTED)
    }

    /// The status that its response has.
    pub(crate) fn http_status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status_of(self.fault))
    }

    /// The response in the general form, `{code,message,requestId}`.
    pub(crate) fn into_response(self, id: RequestId) -> Response<Body> {
        #[derive(Serialize)]
        struct Wire<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(rename = "requestId")]
            request_id: &'a str,
        }
        let id = id.to_string();
        let wire = Wire {
            code: self.code,
            message: &self.message,
            request_id: &id,
        };
        let response = json(self.http_status(), &wire);
        self.with_hints(response)
    }

    /// Adds what headers say about a failure to its response.
    pub(crate) fn with_hints(self, mut response: Response<Body>) -> Response<Body> {
        if self.fault == Fault::Busy {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        if self.http_status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }

    /// An internal failure: the log gets the reason, the client a request id to ask about.
    pub(crate) fn internal(cause: impl std::fmt::Display) -> Self {
        let mut failure = Self::new(
            Fault::Internal,
            "internal error; the node's log has the reason under this request's id",
        );
        failure.cause = Some(cause.to_string());
        failure
    }
}

/// The status of each kind of failure. Nothing else maps faults to statuses.
pub(crate) const fn status_of(fault: Fault) -> StatusCode {
    match fault {
        Fault::Invalid => StatusCode::BAD_REQUEST,
        Fault::Unauthenticated => StatusCode::UNAUTHORIZED,
        Fault::Denied => StatusCode::FORBIDDEN,
        Fault::NotFound => StatusCode::NOT_FOUND,
        Fault::Conflict => StatusCode::CONFLICT,
        Fault::Limit => StatusCode::PAYLOAD_TOO_LARGE,
        Fault::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Fault::Deadline => StatusCode::GATEWAY_TIMEOUT,
        Fault::Guest => StatusCode::INTERNAL_SERVER_ERROR,
        Fault::Upstream => StatusCode::BAD_GATEWAY,
        Fault::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

const fn general_code(fault: Fault) -> &'static str {
    match fault {
        Fault::Invalid => "INVALID_PARAM",
        Fault::Unauthenticated => "CHECK_LOGIN_FAILED",
        Fault::Denied => "PERMISSION_DENIED",
        Fault::NotFound => "NOT_FOUND",
        Fault::Conflict => "CONFLICT",
        Fault::Limit => "LIMIT_EXCEEDED",
        Fault::Busy => "EXCEED_REQUEST_LIMIT",
        Fault::Deadline => "SERVER_TIMEOUT",
        Fault::Guest => "FUNCTION_INVOCATION_FAILED",
        Fault::Upstream => "UPSTREAM_FAILED",
        Fault::Internal => "SYS_ERR",
    }
}

impl From<cloudlet_auth::Error> for Failure {
    fn from(error: cloudlet_auth::Error) -> Self {
        use cloudlet_auth::Error;
        if error.kind() == Fault::Internal {
            return Self::internal(&error);
        }
        let mut failure = Self::new(error.kind(), error.to_string());
        match error {
            Error::ExpiredToken => failure.code = "ACCESS_TOKEN_EXPIRED",
            Error::Busy { retry_after_s } => failure.retry_after_s = retry_after_s,
            _ => {}
        }
        failure
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Denied(message) => {
                Self::new(Fault::Denied, message).code("DATABASE_PERMISSION_DENIED")
            }
            AccessError::Database(error) => Self::from(error),
        }
    }
}

impl From<cloudlet_data::Error> for Failure {
    fn from(error: cloudlet_data::Error) -> Self {
        let fault = error.kind();
        if error.code() == cloudlet_data::Code::OutOfDiskSpace {
            let mut failure = Self::new(fault, "the node's disk is full or failing; nothing was written")
                .status(StatusCode::INSUFFICIENT_STORAGE);
            failure.cause = Some(error.to_string());
            return failure;
        }
        if fault == Fault::Internal {
            return Self::internal(&error);
        }
        let failure = Self::new(fault, error.to_string());
        match fault {
            Fault::Invalid => failure.code("INVALID_PARAM"),
            Fault::Busy | Fault::Deadline => failure,
            _ => failure.code("DATABASE_REQUEST_FAILED"),
        }
    }
}

impl From<cloudlet_blob::Error> for Failure {
    fn from(error: cloudlet_blob::Error) -> Self {
        let fault = error.kind();
        if matches!(fault, Fault::Internal | Fault::Upstream) {
            return Self {
                fault,
                ..Self::internal(&error)
            }
            .code("STORAGE_REQUEST_FAIL");
        }
        let code = match fault {
            Fault::NotFound => "STORAGE_FILE_NONEXIST",
            Fault::Invalid => "INVALID_PARAM",
            _ => "STORAGE_REQUEST_FAIL",
        };
        Self::new(fault, error.to_string()).code(code)
    }
}

impl From<InvokeError> for Failure {
    fn from(error: InvokeError) -> Self {
        let fault = error.kind();
        match &error {
            InvokeError::Internal(_) => Self::internal(&error),
            InvokeError::NoSuchFunction(_) | InvokeError::NoHandler { .. } => {
                Self::new(fault, error.to_string()).code("FUNCTION_NOT_FOUND")
            }
            InvokeError::Busy { .. } => {
                Self::new(fault, error.to_string()).code("EXCEED_CONCURRENT_REQUEST_LIMIT")
            }
            InvokeError::Deadline { .. } => {
                Self::new(fault, error.to_string()).code("FUNCTION_TIME_LIMIT_EXCEEDED")
            }
            InvokeError::RequestTooLarge { .. } => Self::new(fault, error.to_string()).code("BODY_TOO_LARGE"),
            InvokeError::NoResponse { .. } => {
                Self::new(fault, error.to_string()).code("FUNCTION_INVOCATION_FAILED")
            }
            // The guest's own words are for its author, in the app's log.
            InvokeError::Trapped { function, reason, .. } => {
                let (what, code) = trapped(*reason);
                Self::new(fault, format!("function {function:?} {what}")).code(code)
            }
        }
    }
}

fn trapped(reason: TrapReason) -> (&'static str, &'static str) {
    match reason {
        TrapReason::MemoryLimit => (
            "used more memory than its limit",
            "FUNCTION_MEMORY_LIMIT_EXCEEDED",
        ),
        TrapReason::CpuLimit | TrapReason::Timeout => {
            ("used more time than its limit", "FUNCTION_TIME_LIMIT_EXCEEDED")
        }
        TrapReason::StackOverflow => ("overflowed its stack", "FUNCTION_INVOCATION_FAILED"),
        TrapReason::Unreachable | TrapReason::MemoryOutOfBounds | TrapReason::Exit | TrapReason::Other => (
            "failed; the app's log has the reason",
            "FUNCTION_INVOCATION_FAILED",
        ),
    }
}

/// A JSON response.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // What we serialize are structs and maps with text keys: that can't fail.
    let text = serde_json::to_vec(value).unwrap_or_default();
    bytes(status, APPLICATION_JSON, text)
}

/// Media type of everything that the platform itself says.
pub(crate) const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A response with these bytes.
pub(crate) fn bytes(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_an_error_status() {
        for fault in Fault::ALL {
            assert!(
                status_of(fault).is_client_error() || status_of(fault).is_server_error(),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn busy_tells_when_to_come_back() {
        let failure = Failure::from(cloudlet_auth::Error::Busy { retry_after_s: 7 });
        let response = failure.into_response(RequestId::from_bits(1));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "7");
    }

    #[test]
    fn a_guests_words_stay_inside() {
        let error = InvokeError::Trapped {
            function: "f".into(),
            reason: TrapReason::Unreachable,
            message: "secret".into(),
        };
        let failure = Failure::from(error);
        assert_eq!(failure.http_status(), 500);
        assert_eq!(failure.code, "FUNCTION_INVOCATION_FAILED");
        assert!(!failure.message.contains("secret"));
    }
}
