//! Bodies: the request's, counted, bounded and kept in pace; the response's, one type for all that can answer, which
//! also ends the request when the last byte is gone. Used by everything that serves.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use cloudlet_base::Fault;
use futures_util::{Stream, StreamExt as _};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::front::conn::Conn;
use crate::front::pipeline::Finish;
use crate::front::respond::Failure;

/// An error of a body's source.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body: bounded, counted, and known to its connection's pace while somebody waits for it.
pub(crate) struct RequestBody {
    incoming: Incoming,
    conn: Arc<Conn>,
    bytes_max: u64,
    bytes_left: u64,
    exceeded: Arc<AtomicBool>,
}

/// Why a request's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is larger than allowed.
    #[error("the request body is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The peer went away or broke the framing.
    #[error("the request body ended early: {0}")]
    Broken(#[from] hyper::Error),
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match &error {
            BodyError::TooLarge { .. } => {
                Failure::new(Fault::Limit, error.to_string()).code("BODY_TOO_LARGE")
            }
            BodyError::Broken(_) => Failure::new(Fault::Invalid, "the request body ended early"),
        }
    }
}

impl RequestBody {
    /// Wraps what hyper reads.
    pub(crate) fn new(incoming: Incoming, conn: Arc<Conn>, bytes_max: u64) -> Self {
        Self {
            incoming,
            conn,
            bytes_max,
            bytes_left: bytes_max,
            exceeded: Arc::default(),
        }
    }

    /// Sets another limit; before anything was read.
    pub(crate) fn limit(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.bytes_left = bytes_max;
    }

    /// Tells later, when the body was given away, whether it turned out too large.
    pub(crate) fn exceeded(&self) -> Arc<AtomicBool> {
        self.exceeded.clone()
    }

    /// Refuses a body that says that it is too large before reading any of it.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`].
    pub(crate) fn check_declared(&self) -> Result<(), BodyError> {
        if self.incoming.size_hint().lower() > self.bytes_max {
            return Err(BodyError::TooLarge {
                limit: self.bytes_max,
            });
        }
        Ok(())
    }

    /// The whole body.
    ///
    /// # Errors
    /// When it is too large or breaks off.
    pub(crate) async fn collect(mut self) -> Result<Bytes, BodyError> {
        self.check_declared()?;
        let Some(first) = self.next_data().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.next_data().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::with_capacity(first.len() + second.len());
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(more) = self.next_data().await? {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, BodyError> {
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The body as a stream of chunks for the blob store.
    pub(crate) fn into_chunks(self) -> cloudlet_blob::Body {
        Box::pin(futures_util::stream::unfold(self, |mut body| async move {
            let chunk = match body.next_data().await {
                Ok(None) => return None,
                Ok(Some(data)) => Ok(data),
                Err(BodyError::TooLarge { limit }) => Err(cloudlet_blob::Error::TooLarge { limit }),
                Err(error) => Err(cloudlet_blob::Error::Body(error.to_string())),
            };
            Some((chunk, body))
        }))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.incoming).poll_frame(cx);
        this.conn
            .pace
            .body_awaited(outcome.is_pending(), || this.conn.millis());
        if let Poll::Ready(Some(Ok(frame))) = &outcome
            && let Some(data) = frame.data_ref()
        {
            let size = data.len() as u64;
            this.conn.node.metrics.request_body_bytes.inc_by(size);
            match this.bytes_left.checked_sub(size) {
                Some(left) => this.bytes_left = left,
                None => {
                    this.exceeded.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyError::TooLarge {
                        limit: this.bytes_max,
                    })));
                }
            }
        }
        outcome.map_err(BodyError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.conn.pace.body_awaited(false, || 0);
    }
}

/// A response's body.
pub(crate) struct Body {
    source: Source,
    finish: Option<Finish>,
}

enum Source {
    Empty,
    Whole(Bytes),
    Object {
        chunks: cloudlet_blob::Body,
        bytes_left: u64,
    },
    Guest(cloudlet_host::ResponseBody),
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>),
}

impl Body {
    /// No body.
    pub(crate) const fn empty() -> Self {
        Self {
            source: Source::Empty,
            finish: None,
        }
    }

    /// Bytes that are there.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            source: Source::Whole(bytes.into()),
            finish: None,
        }
    }

    /// `bytes` of an object, as they come from the store.
    pub(crate) fn object(chunks: cloudlet_blob::Body, bytes: u64) -> Self {
        Self {
            source: Source::Object {
                chunks,
                bytes_left: bytes,
            },
            finish: None,
        }
    }

    /// A guest's body; polling it drives the guest.
    pub(crate) fn guest(body: cloudlet_host::ResponseBody) -> Self {
        Self {
            source: Source::Guest(body),
            finish: None,
        }
    }

    /// Chunks of unknown number, e.g. followed logs.
    pub(crate) fn stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self {
            source: Source::Stream(Box::pin(chunks)),
            finish: None,
        }
    }

    /// Ends the request when this body does.
    pub(crate) fn finishing(mut self, finish: Finish) -> Self {
        self.finish = Some(finish);
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let outcome = match &mut this.source {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Object { chunks, bytes_left } => chunks.poll_next_unpin(cx).map(|next| match next? {
                Ok(chunk) => {
                    *bytes_left = bytes_left.saturating_sub(chunk.len() as u64);
                    Some(Ok(Frame::data(chunk)))
                }
                Err(error) => Some(Err(error.into())),
            }),
            Source::Guest(body) => Pin::new(body).poll_frame(cx),
            Source::Stream(chunks) => chunks
                .poll_next_unpin(cx)
                .map(|next| Some(next?.map(Frame::data))),
        };
        if let Some(finish) = &mut this.finish {
            match &outcome {
                Poll::Ready(Some(Ok(frame))) => finish.sent(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(Some(Err(error))) => finish.broke(&**error),
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        outcome
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Object { bytes_left, .. } => *bytes_left == 0,
            Source::Guest(body) => body.is_end_stream(),
            Source::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Object { bytes_left, .. } => SizeHint::with_exact(*bytes_left),
            Source::Guest(body) => body.size_hint(),
            Source::Stream(_) => SizeHint::default(),
        }
    }
}
