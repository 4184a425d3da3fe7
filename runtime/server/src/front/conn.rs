//! One connection: handshake with a timeout, then (but for the MongoDB listener) hyper, HTTP/1.1 or HTTP/2 by what the client says first, until the
//! peer is done, falls out of pace, or the node drains. Requests go to pipeline.rs.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use cloudlet_base::RequestId;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use crate::front::pace::{NEVER, Pace};
use crate::front::pipeline;
use crate::front::tls::Certificate;
use crate::metrics::{Closed, Surface};
use crate::node::Node;

/// What every request of a connection shares.
pub(crate) struct Conn {
    pub(crate) node: Arc<Node>,
    pub(crate) surface: Surface,
    pub(crate) peer: SocketAddr,
    /// Whether the connection came by TLS.
    pub(crate) secure: bool,
    pub(crate) pace: Pace,
    /// 128 random bits, and how many ids were made of them.
    seed: u128,
    ids: AtomicU64,
}

impl Conn {
    fn new(node: Arc<Node>, surface: Surface, peer: SocketAddr, secure: bool) -> Self {
        let mut seed = [0; 16];
        node.entropy.fill(&mut seed);
        let now = u64::try_from(node.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        Self {
            node,
            surface,
            peer,
            secure,
            pace: Pace::new(now),
            seed: u128::from_be_bytes(seed),
            ids: AtomicU64::new(0),
        }
    }

    /// A request id: unique, not secret. Drawn from the connection's seed, for asking the system for chance costs more
    /// than the rest of a small request's bookkeeping.
    pub(crate) fn fresh_id(&self) -> RequestId {
        /// Odd, so that no two of 2^64 multiples are equal; spreads the count over all digits (2^128 / golden ratio).
        const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        RequestId::from_bits(self.seed.wrapping_add(STEP.wrapping_mul(u128::from(count))))
    }

    /// Milliseconds on the node's monotonic clock.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.node.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    node: Arc<Node>,
    surface: Surface,
    stream: TcpStream,
    peer: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    stopped: watch::Receiver<bool>,
) {
    // Without it small responses wait for the peer's acknowledgement; a socket that can't is still usable.
    let _ = stream.set_nodelay(true);
    let gauge = node.metrics.connections(surface).clone();
    gauge.inc();
    let stream = match certificate {
        None => Some(Stream::Plain(stream)),
        Some(certificate) => handshake(&node, stream, &certificate).await,
    };
    if surface == Surface::Mongo {
        match stream {
            Some(Stream::Plain(stream)) => node.wire.serve(stream, peer.to_string(), stopped).await,
            Some(Stream::Tls(stream)) => node.wire.serve(stream, peer.to_string(), stopped).await,
            None => {}
        }
    } else if let Some(stream) = stream {
        let secure = matches!(stream, Stream::Tls(_));
        let conn = Arc::new(Conn::new(node, surface, peer, secure));
        if let Some(stream) = drive(&conn, stream, stopped).await {
            linger(stream).await;
        }
    }
    gauge.dec();
}

async fn handshake(node: &Node, stream: TcpStream, certificate: &Certificate) -> Option<Stream> {
    let accept = certificate.acceptor().accept(stream);
    match tokio::time::timeout(node.config.limits.header_timeout, accept).await {
        Ok(Ok(stream)) => {
            node.metrics.tls_ok.inc();
            Some(Stream::Tls(Box::new(stream)))
        }
        outcome => {
            node.metrics.tls_failed.inc();
            tracing::debug!(timed_out = outcome.is_err(), "a handshake failed");
            None
        }
    }
}

/// Runs hyper over the stream beside the two things that end a connection early: the drain and the pace. Gives the
/// stream back when hyper is done with a peer that may still be sending.
async fn drive(conn: &Arc<Conn>, stream: Stream, mut stopped: watch::Receiver<bool>) -> Option<Stream> {
    let limits = &conn.node.config.limits;
    let builder = builder(limits);
    let left = Arc::new(Mutex::new(None));
    let io = TokioIo::new(Paced {
        stream: Some(stream),
        ended: false,
        left: left.clone(),
        conn: conn.clone(),
    });
    let service = service_fn(|request: http::Request<Incoming>| {
        let conn = conn.clone();
        async move { Ok::<_, Infallible>(pipeline::handle(conn, request).await) }
    });
    let mut hyper = Box::pin(builder.serve_connection(io, service));
    let mut stop = pin!(async move {
        // An error means that the node is gone, which is a reason to stop too.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    let mut draining = false;
    let mut timer = pin!(tokio::time::sleep(limits.idle_timeout));
    let mut armed = conn
        .millis()
        .saturating_add(limits.idle_timeout.as_millis() as u64);
    let ended = poll_fn(|cx| {
        if let Poll::Ready(result) = hyper.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        if !draining && stop.as_mut().poll(cx).is_ready() {
            draining = true;
            hyper.as_mut().graceful_shutdown();
            // What the shutdown changed is only seen by polling again; an idle connection ends right here.
            if let Poll::Ready(result) = hyper.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
        }
        loop {
            let (due, reason) = conn.pace.due(limits);
            if due < armed {
                armed = due;
                let left = Duration::from_millis(due.saturating_sub(conn.millis()));
                timer.as_mut().reset(tokio::time::Instant::now() + left);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if conn.millis() >= due {
                return Poll::Ready(Err(reason));
            }
            // The limit that the timer was set for went away: sleep until the next one, or look again later.
            armed = if due == NEVER {
                conn.millis()
                    .saturating_add(limits.idle_timeout.as_millis() as u64)
            } else {
                due
            };
            let left = Duration::from_millis(armed.saturating_sub(conn.millis()));
            timer.as_mut().reset(tokio::time::Instant::now() + left);
        }
    })
    .await;
    match ended {
        Ok(Ok(())) => {}
        // The peer's broken requests and broken connections: counted where they are answered, no news here.
        Ok(Err(error)) => tracing::debug!(error = %error, "a connection ended early"),
        Err(reason) => {
            if reason != Closed::Idle {
                tracing::debug!(reason = reason.label(), "a connection was cut");
            }
            conn.node.metrics.closed(reason);
            return None;
        }
    }
    drop(hyper);
    if draining {
        return None;
    }
    left.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Bytes and time that a peer gets to read an answer that came before it had sent everything: closing on unread bytes
/// resets the connection, and the peer's system throws the answer away.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(1);

async fn linger(mut stream: Stream) {
    let drained = async {
        match &mut stream {
            Stream::Plain(stream) => drain(stream).await,
            Stream::Tls(stream) => drain(&mut **stream).await,
        }
    };
    // Whatever happens here, the connection is over.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

async fn drain(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    let mut scratch = vec![0; 16 * 1024];
    let mut total = 0;
    while total < LINGER_BYTES {
        match stream.read(&mut scratch).await? {
            0 => break,
            read => total += read,
        }
    }
    Ok(())
}

fn builder(limits: &crate::config::Limits) -> Builder<Local> {
    let mut builder = Builder::new(Local);
    builder
        .http1()
        // pace.rs has the timeouts.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes_max)
        // No `pipeline_flush`: with it, hyper's answer to a broken head stays in the buffer.
        .max_headers(limits.headers_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    builder
}

/// Spawns what hyper spawns (HTTP/2 streams) on the worker's own thread.
#[derive(Clone, Copy)]
struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Both kinds of stream as one type, so that hyper is compiled once.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream that keeps its connection's [`Pace`].
struct Paced {
    /// Always there until it is left.
    stream: Option<Stream>,
    /// Whether the peer has sent all that it will.
    ended: bool,
    /// Where the stream is left for [`linger`].
    left: Arc<Mutex<Option<Stream>>>,
    conn: Arc<Conn>,
}

impl Drop for Paced {
    fn drop(&mut self) {
        if !self.ended {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.stream {
            Some(Stream::Plain($stream)) => $call,
            Some(Stream::Tls(stream)) => {
                let $stream = &mut **stream;
                $call
            }
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = each!(self, stream => Pin::new(stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            if self.conn.pace.awaits_head() {
                self.conn.pace.head_began(self.conn.millis());
            }
        } else if outcome.is_ready() && buf.remaining() > 0 {
            // The end, or an error after which nothing comes either.
            self.ended = true;
        }
        outcome
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = each!(self, stream => Pin::new(stream).poll_write(cx, buf));
        self.conn
            .pace
            .write_blocked(outcome.is_pending(), || self.conn.millis());
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs));
        self.conn
            .pace
            .write_blocked(outcome.is_pending(), || self.conn.millis());
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Some(Stream::Plain(stream)) => stream.is_write_vectored(),
            Some(Stream::Tls(stream)) => stream.is_write_vectored(),
            None => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = each!(self, stream => Pin::new(stream).poll_flush(cx));
        self.conn
            .pace
            .write_blocked(outcome.is_pending(), || self.conn.millis());
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
