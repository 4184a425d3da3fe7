//! `cloudlet:function/invoke`: a function calls another one of its app.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use cloudlet_base::Fault;

use super::{View, function_error};
use crate::app::{Call, CallReply, Invocation};
use crate::bindings::cloudlet::function::{invoke, types};
use crate::logs::LogLevel;

impl types::Host for View<'_> {}

impl invoke::Host for View<'_> {
    async fn call(
        &mut self,
        function: String,
        payload: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Error>> {
        let run = self.run;
        let granted = &run.function.spec.grants.functions;
        if !granted.iter().any(|name| *name == function || name == "*") {
            let message = format!(
                "function {function:?} is not granted to {:?}; add it to grants.functions",
                run.function.spec.name
            );
            run.platform(LogLevel::Warn, message.clone());
            return Ok(Err(types::Error::Denied(message)));
        }
        let depth = run.invocation.depth + 1;
        let limit = run.limits().call_depth_max;
        if depth > limit {
            return Ok(Err(types::Error::Busy(format!(
                "calls between functions are {depth} deep, over the limit of {limit}"
            ))));
        }
        let invocation = Invocation {
            request: run.invocation.request,
            principal: run.as_function(),
            deadline: run.deadline.clone(),
            depth,
            trace: run.invocation.trace.clone(),
        };
        let call = Call {
            payload: Bytes::from(payload),
        };
        let mut callee = Arc::clone(&run.app).boxed_call(function, call, invocation);
        // The callee runs on this task, within this guest's poll, and pays for itself.
        let clock = &*run.app.shared.clock;
        let reply = poll_fn(|cx| run.meter.excluding(clock, || callee.as_mut().poll(cx))).await;
        Ok(match reply {
            Ok(CallReply::Ok(bytes)) => Ok(bytes.into()),
            Ok(CallReply::Invalid(text)) => Err(types::Error::Invalid(text)),
            Ok(CallReply::Denied(text)) => Err(types::Error::Denied(text)),
            Ok(CallReply::NotFound(text)) => Err(types::Error::NotFound(text)),
            Ok(CallReply::Failed(text)) => Err(types::Error::Failed(text)),
            Ok(CallReply::Busy(text)) => Err(types::Error::Busy(text)),
            Ok(CallReply::Deadline) => Err(types::Error::Deadline),
            Err(error) => Err(match error.kind() {
                // The caller asked for the payload, so its size is the caller's mistake; the rest is the callee's.
                Fault::Guest => types::Error::Failed(error.to_string()),
                kind => function_error(kind, error.to_string()),
            }),
        })
    }
}
