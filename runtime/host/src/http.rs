//! An HTTP invocation: the request goes into a fresh instance that the caller's task drives; the response comes
//! out as soon as the guest has set it and either returned or begun to wait.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use ::http::header::{CONTENT_LENGTH, HOST};
use ::http::{HeaderValue, Request, Response};
use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};

use crate::admit::{Admitted, Full};
use crate::app::{Function, Invocation, LoadedApp, Trigger};
use crate::body::{BoxError, Counted, Live, ResponseBody, Whole};
use crate::error::{InvokeError, TrapReason};
use crate::instance::{Guest, State, Stop};
use crate::metrics::Outcome;
use crate::run::{Run, lock};

/// What a component that lacks the handler would need.
const HTTP_EXPORT: &str = "wasi:http/incoming-handler";

impl LoadedApp {
    /// Runs a function on an HTTP request, in a fresh instance driven by the caller's task.
    ///
    /// # Errors
    /// When there is no response of the guest's own; see [`InvokeError`]. What goes wrong after the response's head
    /// breaks its body instead.
    ///
    /// # Cancel safety
    /// Dropping the future, or the response's body, stops the guest. When the response is whole and only the guest
    /// has more to do, it is left to finish.
    pub async fn http<B>(
        self: &Arc<Self>,
        function: &str,
        request: Request<B>,
        invocation: Invocation,
    ) -> Result<Response<ResponseBody>, InvokeError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let function = self.function(function)?;
        let guest = self
            .start_http(function, request, invocation, Trigger::Http)
            .await?;
        respond(guest).await
    }

    /// Admits the request and builds its guest; nothing of it runs yet.
    pub(crate) async fn start_http<B>(
        self: &Arc<Self>,
        function: &Arc<Function>,
        mut request: Request<B>,
        invocation: Invocation,
        trigger: Trigger,
    ) -> Result<Guest<()>, InvokeError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let pre = function.http.as_ref().ok_or_else(|| InvokeError::NoHandler {
            function: function.spec.name.to_string(),
            export: HTTP_EXPORT,
        })?;
        let limit = function.spec.limits.request_bytes_max;
        let declared = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|size| size > limit) {
            self.shared.metrics.invoked(trigger, Outcome::TooLarge);
            return Err(InvokeError::RequestTooLarge { limit });
        }
        let (admitted, run) = self.admit(function, trigger, invocation).await?;
        name_authority(&mut request, self);
        let scheme = match request.uri().scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        let request = request.map(|body| Counted::new(Box::pin(body), Arc::clone(&run)));
        let pre = pre.clone();
        let record = Arc::clone(&run);
        let work = async move {
            let began = record.now();
            let mut store = State::store(&record);
            let request = store.data_mut().http().new_incoming_request(scheme, request)?;
            let answered = Arc::clone(&record);
            let out = store
                .data_mut()
                .http()
                .new_response_outparam_from_callback(move |answer| {
                    *lock(&answered.answer) = Some(answer);
                })?;
            handle(&record, &pre, store, request, out, began).await
        };
        Ok(Guest::new(run, admitted, work))
    }

    /// Takes the permits, or waits for them as long as the function's limits allow, and opens the record of an invocation.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        function: &Arc<Function>,
        trigger: Trigger,
        invocation: Invocation,
    ) -> Result<(Admitted, Arc<Run>), InvokeError> {
        let shared = &self.shared;
        let entered = shared.clock.monotonic();
        let left = invocation.deadline.at().map(|at| at.saturating_sub(entered));
        let time = function.spec.limits.queue.min(left.unwrap_or(Duration::MAX));
        let admitted = shared.line.admit(&self.app, &function.gates, time).await;
        let admitted = admitted.map_err(|Full { scope, limit }| {
            shared.metrics.refused(scope);
            InvokeError::Busy {
                function: function.spec.name.to_string(),
                scope,
                limit,
            }
        })?;
        let now = shared.clock.monotonic();
        let run = Run::new(Arc::clone(self), Arc::clone(function), trigger, invocation, now);
        shared.metrics.queued(now.saturating_sub(entered));
        Ok((admitted, run))
    }
}

async fn handle(
    run: &Run,
    pre: &ProxyPre<State>,
    mut store: Store<State>,
    request: Resource<HostIncomingRequest>,
    out: Resource<HostResponseOutparam>,
    began: Duration,
) -> wasmtime::Result<()> {
    let metrics = &run.app.shared.metrics;
    let proxy = pre.instantiate_async(&mut store).await?;
    let ready = run.now();
    metrics.instantiated(ready.saturating_sub(began));
    let result = proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut store, request, out)
        .await;
    metrics.ran(run.now().saturating_sub(ready));
    result
}

/// Drives the guest to its response.
pub(crate) async fn respond(mut guest: Guest<()>) -> Result<Response<ResponseBody>, InvokeError> {
    let (answer, end) = poll_fn(|cx| {
        let polled = guest.poll(cx);
        match (guest.run.take_answer(), polled) {
            (None, Poll::Pending) => Poll::Pending,
            (answer, Poll::Pending) => Poll::Ready((answer, None)),
            (answer, Poll::Ready(end)) => Poll::Ready((answer, Some(end))),
        }
    })
    .await;
    let run = Arc::clone(&guest.run);
    if run.meter.request_too_large.load(Ordering::Relaxed) {
        guest.outcome = Outcome::TooLarge;
        return Err(InvokeError::RequestTooLarge {
            limit: run.limits().request_bytes_max,
        });
    }
    match (answer, end) {
        // Nothing has been sent yet, so a guest that fails now still gets an honest answer.
        (_, Some(Err(stop))) => Err(stop.into_error(&run)),
        (Some(Ok(response)), None) => {
            run.answered(response.status().as_u16());
            let (head, body) = response.into_parts();
            let live = Live::new(body, &head.headers, guest);
            Ok(Response::from_parts(head, live.boxed_unsync()))
        }
        (Some(Ok(response)), Some(Ok(()))) => {
            run.answered(response.status().as_u16());
            let (head, body) = response.into_parts();
            match Whole::drain(body, &run) {
                Ok(whole) => Ok(Response::from_parts(head, whole.boxed_unsync())),
                Err(error) => Err(broken(&mut guest, error.to_string())),
            }
        }
        (Some(Err(code)), _) => Err(broken(
            &mut guest,
            format!("the function answered with the error {code:?}"),
        )),
        (None, _) => {
            guest.outcome = Outcome::NoResponse;
            run.fail("returned without a response".to_owned());
            Err(InvokeError::NoResponse {
                function: run.function.spec.name.to_string(),
            })
        }
    }
}

/// The guest has answered with something that can't be sent.
fn broken(guest: &mut Guest<()>, message: String) -> InvokeError {
    guest.outcome = Outcome::Trap;
    guest.run.fail(message.clone());
    let stop = Stop::Trapped {
        reason: TrapReason::Other,
        message,
    };
    stop.into_error(&guest.run)
}

/// Every request that a guest sees names its host; HTTP/1.0 and our own calls may come without.
fn name_authority<B>(request: &mut Request<B>, app: &LoadedApp) {
    let named = request.uri().authority().is_some()
        || request
            .headers()
            .get(HOST)
            .is_some_and(|host| host.to_str().is_ok());
    if !named {
        let name = HeaderValue::from_str(app.app.as_str()).expect("app names are host labels");
        request.headers_mut().insert(HOST, name);
    }
}
