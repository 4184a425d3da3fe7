//! Bodies: a request's, counted on its way into the guest, and a response's, driven by whoever reads it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use wasmtime_wasi_http::Error as WasiError;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::instance::Guest;
use crate::run::Run;

/// Any error, as bodies carry it.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// A response body of a guest; polling it drives the guest. Dropping it stops the guest, unless the response was
/// already whole: then the guest is left to finish its work within its time.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// A request body that fails once it is over the function's limit.
pub(crate) struct Counted<B> {
    inner: B,
    left: u64,
    run: Arc<Run>,
}

impl<B> Counted<B> {
    pub(crate) fn new(inner: B, run: Arc<Run>) -> Self {
        Self {
            inner,
            left: run.limits().request_bytes_max,
            run,
        }
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = WasiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WasiError>>> {
        let this = &mut *self;
        let frame = match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                let text = error.into().to_string();
                return Poll::Ready(Some(Err(WasiError::InternalError(Some(text)))));
            }
            Some(Ok(frame)) => frame,
        };
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(size) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                this.left = 0;
                this.run.meter.request_too_large.store(true, Ordering::Relaxed);
                let limit = this.run.limits().request_bytes_max;
                Poll::Ready(Some(Err(WasiError::HttpRequestBodySize(Some(limit)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body over its limit.
#[derive(Debug)]
struct ResponseTooLarge {
    limit: u64,
}

impl std::fmt::Display for ResponseTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the response body is larger than the function's limit of {} bytes",
            self.limit
        )
    }
}

impl StdError for ResponseTooLarge {}

/// A response that is whole: its guest has returned, everything it wrote waits in memory.
pub(crate) struct Whole {
    frames: VecDeque<Frame<Bytes>>,
    data_bytes: u64,
    trailers: bool,
}

impl Whole {
    /// Takes what a guest that has returned left in its body.
    ///
    /// # Errors
    /// When the guest broke the body off or it is over the limit.
    pub(crate) fn drain(mut body: HyperOutgoingBody, run: &Run) -> Result<Self, BoxError> {
        let limit = run.limits().response_bytes_max;
        let mut whole = Whole {
            frames: VecDeque::new(),
            data_bytes: 0,
            trailers: false,
        };
        // The guest's store is gone and with it the sending end, so everything is there: nothing is pending, unless
        // tokio makes a task that has done much wait its turn. Here that would look like the end of the body.
        let mut frames = pin!(tokio::task::unconstrained(async {
            let mut frames = VecDeque::new();
            while let Some(frame) = body.frame().await {
                frames.push_back(frame);
            }
            frames
        }));
        let Poll::Ready(frames) = frames.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            return Err("the function left the response's body unfinished".into());
        };
        for frame in frames {
            let frame = frame?;
            whole.data_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            whole.trailers |= frame.is_trailers();
            if whole.data_bytes > limit {
                return Err(Box::new(ResponseTooLarge { limit }));
            }
            whole.frames.push_back(frame);
        }
        whole.join();
        Ok(whole)
    }

    /// Several chunks into one: the connection writes them at once, with the head.
    fn join(&mut self) {
        if self.frames.len() < 2 || self.trailers {
            return;
        }
        let mut all = BytesMut::with_capacity(usize::try_from(self.data_bytes).unwrap_or(0));
        for frame in self.frames.drain(..) {
            if let Ok(data) = frame.into_data() {
                all.extend_from_slice(&data);
            }
        }
        self.frames.push_back(Frame::data(all.freeze()));
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.frames.pop_front();
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            self.data_bytes -= data.len() as u64;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers {
            SizeHint::default()
        } else {
            SizeHint::with_exact(self.data_bytes)
        }
    }
}

/// A response whose guest is still at work on it.
pub(crate) struct Live {
    body: HyperOutgoingBody,
    guest: Option<Guest<()>>,
    sent: u64,
    /// What the guest's `content-length` promises.
    declared: Option<u64>,
    /// The guest has finished the body.
    ended: bool,
    run: Arc<Run>,
}

impl Live {
    pub(crate) fn new(body: HyperOutgoingBody, headers: &HeaderMap, guest: Guest<()>) -> Self {
        let declared = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            run: Arc::clone(&guest.run),
            guest: Some(guest),
            sent: 0,
            ended: false,
            declared,
            body,
        }
    }

    /// Passes one frame on, within the limit.
    fn pass(&mut self, frame: Result<Frame<Bytes>, WasiError>) -> Result<Frame<Bytes>, BoxError> {
        let frame = frame?;
        self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        let limit = self.run.limits().response_bytes_max;
        if self.sent > limit {
            let error = ResponseTooLarge { limit };
            self.run.fail(error.to_string());
            self.guest = None;
            return Err(Box::new(error));
        }
        Ok(frame)
    }

    fn is_whole(&self) -> bool {
        self.ended || self.declared == Some(self.sent)
    }
}

impl Body for Live {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(frame)) => return Poll::Ready(Some(this.pass(frame))),
                Poll::Ready(None) => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => {}
            }
            let Some(guest) = &mut this.guest else {
                return Poll::Pending;
            };
            match guest.poll(cx) {
                // It may have written since the body was polled; the body's waker tells when it writes next.
                Poll::Pending => {
                    return match Pin::new(&mut this.body).poll_frame(cx) {
                        Poll::Ready(Some(frame)) => Poll::Ready(Some(this.pass(frame))),
                        Poll::Ready(None) => {
                            this.ended = true;
                            Poll::Ready(None)
                        }
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(Ok(())) => this.guest = None,
                Poll::Ready(Err(stop)) => {
                    this.guest = None;
                    this.ended = true;
                    let error = stop.into_error(&this.run);
                    return Poll::Ready(Some(Err(Box::new(error))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for Live {
    /// Lets a guest whose response has gone out whole finish what it does after it.
    fn drop(&mut self) {
        let Some(mut guest) = self.guest.take().filter(Guest::is_running) else {
            return;
        };
        if !self.is_whole() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Bounded by the guest's own time; stopping the runtime stops it.
            runtime.spawn(async move {
                // What becomes of it is logged and counted; nobody waits for it.
                let _ = std::future::poll_fn(|cx| guest.poll(cx)).await;
            });
        }
    }
}
