//! Bodies of outbound requests and of their responses, counted against what their invocation may send and receive.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

use super::InFlight;
use crate::logs::LogLevel;
use crate::run::Run;

/// Which way a body goes; the `direction` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the origin.
    Sent,
    /// From it.
    Received,
}

impl Direction {
    pub(crate) const LABELS: [&'static str; 2] = ["sent", "received"];
}

/// A body that fails once its invocation has used up its bytes, or when nothing comes for too long.
pub(super) struct Metered<B> {
    inner: B,
    direction: Direction,
    run: Arc<Run>,
    patience: Option<(Duration, Pin<Box<Sleep>>)>,
    /// Until the body's end.
    _in_flight: Option<InFlight>,
}

impl<B> Metered<B> {
    /// What a guest sends.
    pub(super) fn sent(inner: B, run: &Arc<Run>) -> Self {
        Self {
            inner,
            direction: Direction::Sent,
            run: Arc::clone(run),
            patience: None,
            _in_flight: None,
        }
    }

    /// What an origin answers, with at most `patience` between two parts of it.
    pub(super) fn received(inner: B, run: &Arc<Run>, patience: Duration, in_flight: InFlight) -> Self {
        Self {
            inner,
            direction: Direction::Received,
            run: Arc::clone(run),
            patience: Some((patience, Box::pin(tokio::time::sleep(patience)))),
            _in_flight: Some(in_flight),
        }
    }

    /// Counts; the error when it was too much.
    fn count(&self, bytes: u64) -> Result<(), Error> {
        let limit = self.run.limits().outbound_bytes_max;
        self.run.app.shared.metrics.outbound_bytes(self.direction, bytes);
        let before = self.run.meter.outbound_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= limit {
            return Ok(());
        }
        if before <= limit {
            let text = format!(
                "outbound request broken off: an invocation may send and receive {limit} bytes in all; \
                 raise limits.outbound_bytes of this function to allow more"
            );
            self.run.platform(LogLevel::Warn, text);
        }
        Err(match self.direction {
            Direction::Sent => Error::HttpRequestBodySize(Some(limit)),
            Direction::Received => Error::HttpResponseBodySize(Some(limit)),
        })
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(frame)) => frame.map_err(Into::into),
            Poll::Pending => {
                if let Some((_, sleep)) = &mut this.patience {
                    std::task::ready!(sleep.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
                }
                return Poll::Pending;
            }
        };
        if let Some((patience, sleep)) = &mut this.patience {
            sleep.as_mut().reset(Instant::now() + *patience);
        }
        let counted = frame.and_then(|frame| {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            this.count(bytes).map(|()| frame)
        });
        Poll::Ready(Some(counted))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
