//! A call: a payload goes into a fresh instance, a reply comes out. Components that only answer HTTP are called
//! by `POST /`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use ::http::{Request, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};

use crate::app::{Call, CallReply, Function, Invocation, LoadedApp, Trigger};
use crate::bindings::cloudlet::function::types::Error as GuestError;
use crate::body::{BoxError, ResponseBody};
use crate::error::InvokeError;
use crate::http::respond;
use crate::instance::{Guest, State};
use crate::metrics::Outcome;

/// A call's outcome to come.
pub(crate) type CallFuture = Pin<Box<dyn Future<Output = Result<CallReply, InvokeError>> + Send>>;

impl LoadedApp {
    /// Runs a function's call handler. A component that only answers HTTP is called by `POST /` with the payload
    /// as an `application/json` body, so that any standard component can be called.
    ///
    /// # Errors
    /// When there is no reply of the guest's own; its own typed errors are replies.
    ///
    /// # Cancel safety
    /// Dropping the future stops the guest.
    pub async fn call(
        self: &Arc<Self>,
        function: &str,
        call: Call,
        invocation: Invocation,
    ) -> Result<CallReply, InvokeError> {
        let function = self.function(function)?;
        let limit = function.spec.limits.request_bytes_max;
        if call.payload.len() as u64 > limit {
            self.shared.metrics.invoked(Trigger::Call, Outcome::TooLarge);
            return Err(InvokeError::RequestTooLarge { limit });
        }
        if function.call.is_some() {
            self.call_handler(function, call, invocation).await
        } else {
            self.call_by_http(function, call, invocation).await
        }
    }

    /// The same in a box: a function's call of a function has no static end.
    pub(crate) fn boxed_call(
        self: Arc<Self>,
        function: String,
        call: Call,
        invocation: Invocation,
    ) -> CallFuture {
        Box::pin(async move { self.call(&function, call, invocation).await })
    }

    async fn call_handler(
        self: &Arc<Self>,
        function: &Arc<Function>,
        call: Call,
        invocation: Invocation,
    ) -> Result<CallReply, InvokeError> {
        let pre = function.call.clone().ok_or_else(|| InvokeError::NoHandler {
            function: function.spec.name.to_string(),
            export: "cloudlet:function/handler",
        })?;
        let (admitted, run) = self.admit(function, Trigger::Call, invocation).await?;
        let record = Arc::clone(&run);
        let work = async move {
            let metrics = &record.app.shared.metrics;
            let began = record.now();
            let mut store = State::store(&record);
            let instance = pre.instantiate_async(&mut store).await?;
            let ready = record.now();
            metrics.instantiated(ready.saturating_sub(began));
            let reply = instance
                .cloudlet_function_handler()
                .call_handle(&mut store, &call.payload)
                .await;
            metrics.ran(record.now().saturating_sub(ready));
            reply
        };
        let mut guest = Guest::new(run, admitted, work);
        let reply = poll_fn(|cx| guest.poll(cx)).await;
        let reply = reply.map_err(|stop| stop.into_error(&guest.run))?;
        Ok(match reply {
            Ok(bytes) => within_limit(function, Bytes::from(bytes)),
            Err(error) => error.into(),
        })
    }

    async fn call_by_http(
        self: &Arc<Self>,
        function: &Arc<Function>,
        call: Call,
        invocation: Invocation,
    ) -> Result<CallReply, InvokeError> {
        let request = Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, call.payload.len())
            .body(Full::new(call.payload))
            .map_err(|error| InvokeError::Internal(format!("build the request of a call: {error}")))?;
        let guest = self
            .start_http(function, request, invocation, Trigger::Call)
            .await?;
        let (head, body) = respond(guest).await?.into_parts();
        let body = match gather(body).await {
            Ok(body) => body,
            Err(error) => {
                return match error.downcast::<InvokeError>() {
                    Ok(error) => Err(*error),
                    Err(error) => Ok(CallReply::Failed(error.to_string())),
                };
            }
        };
        let text = || String::from_utf8_lossy(&body).into_owned();
        Ok(match head.status {
            status if status.is_success() => CallReply::Ok(body),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => CallReply::Invalid(text()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CallReply::Denied(text()),
            StatusCode::NOT_FOUND => CallReply::NotFound(text()),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => CallReply::Busy(text()),
            StatusCode::GATEWAY_TIMEOUT => CallReply::Deadline,
            status => CallReply::Failed(format!("status {status}: {}", text())),
        })
    }
}

/// The whole of a response; bodies of guests are within their function's limit.
async fn gather(mut body: ResponseBody) -> Result<Bytes, BoxError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

fn within_limit(function: &Function, reply: Bytes) -> CallReply {
    let limit = function.spec.limits.response_bytes_max;
    if reply.len() as u64 <= limit {
        return CallReply::Ok(reply);
    }
    CallReply::Failed(format!(
        "the reply has {} bytes, over the function's limit of {limit}",
        reply.len()
    ))
}

impl From<GuestError> for CallReply {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Invalid(text) => CallReply::Invalid(text),
            GuestError::Denied(text) => CallReply::Denied(text),
            GuestError::NotFound(text) => CallReply::NotFound(text),
            GuestError::Failed(text) => CallReply::Failed(text),
            GuestError::Busy(text) => CallReply::Busy(text),
            GuestError::Deadline => CallReply::Deadline,
        }
    }
}
