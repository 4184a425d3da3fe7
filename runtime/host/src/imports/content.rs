//! The content of objects between a guest and the store: uploads and reads, streaming. Shared by every interface on objects.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use cloudlet_blob::{Body, Error as BlobError, ObjectInfo, Opened, PutOptions};
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::held::Held;
use super::{Failure, View};
use crate::app::LoadedApp;
use crate::run::Run;

/// Largest object that is given to a guest whole.
const WHOLE_BYTES_MAX: u64 = 16 << 20;
/// Chunks of an upload that may wait for the store, and the largest chunk.
const CHUNKS: (usize, usize) = (4, 256 * 1024);
/// The same of an upload whose path is told later: it may have to wait for that in small pieces.
const UNSTARTED_CHUNKS: (usize, usize) = (64, 16 * 1024);
/// What an upload of either kind holds at most.
const UPLOAD_BYTES: u64 = 1 << 20;

impl View<'_> {
    /// Whether the function's grants cover the path, or everything under the prefix.
    pub(super) fn check_path(&self, path: &str) -> Result<(), Failure> {
        let grants = &self.run.function.spec.grants.storage;
        // `photos/../secret` begins with `photos/` too; the store refuses such segments, whatever the grants.
        if grants
            .iter()
            .any(|prefix| prefix == "*" || path.starts_with(prefix.as_str()))
        {
            return Ok(());
        }
        Err(Failure::denied(format!(
            "path {path:?} is not granted to function {:?}; add a prefix of it to grants.storage",
            self.run.function.spec.name
        )))
    }
}

/// How the store keeps an object; a media type that is not given is guessed by the path.
pub(super) fn put_options(path: &str, content_type: String, owner: Option<String>) -> PutOptions {
    let content_type = match content_type.is_empty() {
        true => mime_guess::from_path(path).first_or_octet_stream().to_string(),
        false => content_type,
    };
    PutOptions {
        content_type,
        owner: owner.map(Arc::from),
    }
}

/// Whether so many bytes may be given to a guest whole; the error says what to use `instead`.
pub(super) fn check_whole(size: u64, instead: &str) -> Result<(), Failure> {
    match size {
        0..=WHOLE_BYTES_MAX => Ok(()),
        _ => Err(Failure::limit(format!(
            "the content has {size} bytes, over the limit of {WHOLE_BYTES_MAX} for this; use {instead}"
        ))),
    }
}

/// All of an object's content, or of a part of it, of `size` bytes.
pub(super) async fn whole(opened: Opened, size: u64) -> Result<Vec<u8>, Failure> {
    match opened {
        Opened::Cached(bytes) => Ok(bytes.into()),
        Opened::Streamed(mut body) => {
            let mut all = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
            while let Some(chunk) = body.next().await {
                all.extend_from_slice(&chunk?);
            }
            Ok(all.into())
        }
    }
}

/// Opens an object, all of it when the range is.
pub(super) async fn open(app: &LoadedApp, info: &ObjectInfo, range: Range<u64>) -> Result<Opened, BlobError> {
    let part = (range.start > 0 || range.end < info.size).then_some(range);
    app.services.blobs.open_object(&app.app, info, part).await
}

/// The content as the guest reads it.
pub(super) fn stream_of(opened: Opened) -> DynInputStream {
    match opened {
        Opened::Cached(bytes) => Box::new(MemoryInputPipe::new(bytes)),
        Opened::Streamed(body) => Box::new(ObjectStream {
            body,
            chunk: Bytes::new(),
            end: None,
        }),
    }
}

/// The content as the store takes it.
pub(super) fn body_of(opened: Opened) -> Body {
    match opened {
        Opened::Cached(bytes) => Box::pin(stream::iter([Ok(bytes)])),
        Opened::Streamed(body) => body,
    }
}

/// An upload in progress: the store reads from one end what the guest writes into the other.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Upload {
    /// The store's end, until it is known where the content goes.
    source: Option<Body>,
    stored: Option<AbortOnDropJoinHandle<Result<ObjectInfo, BlobError>>>,
    /// Until the guest has taken it.
    sink: Option<UploadStream>,
    /// Says that the content is whole; without it the store gives the upload up.
    finish: oneshot::Sender<()>,
    started: Arc<AtomicBool>,
    _held: Held,
}

impl Upload {
    /// An upload to a path.
    pub(super) fn to(run: &Arc<Run>, path: String, options: PutOptions) -> Result<Self, Failure> {
        let mut upload = Self::new(run, CHUNKS)?;
        upload.start(&run.app, path, options);
        Ok(upload)
    }

    /// An upload whose path is told later. What is written until then waits, within narrow limits.
    pub(super) fn unstarted(run: &Arc<Run>) -> Result<Self, Failure> {
        Self::new(run, UNSTARTED_CHUNKS)
    }

    fn new(run: &Arc<Run>, (chunks_max, chunk_bytes_max): (usize, usize)) -> Result<Self, Failure> {
        let held = Held::take(run, UPLOAD_BYTES)?;
        let (sink, source) = mpsc::channel(chunks_max);
        let (finish, finished) = oneshot::channel();
        let started = Arc::new(AtomicBool::new(false));
        Ok(Self {
            source: Some(upload_body(source, finished)),
            stored: None,
            sink: Some(UploadStream {
                sink,
                chunk_bytes_max,
                started: Arc::clone(&started),
            }),
            finish,
            started,
            _held: held,
        })
    }

    /// Lets the store begin. Returns whether it had not.
    pub(super) fn start(&mut self, app: &Arc<LoadedApp>, path: String, options: PutOptions) -> bool {
        let Some(source) = self.source.take() else {
            return false;
        };
        let app = Arc::clone(app);
        self.stored = Some(spawn(async move {
            app.services.blobs.put(&app.app, &path, options, source).await
        }));
        self.started.store(true, Ordering::Relaxed);
        true
    }

    /// The guest's end; given once.
    pub(super) fn body(&mut self) -> Option<DynOutputStream> {
        Some(Box::new(self.sink.take()?))
    }

    /// Waits until the content is stored; `None` when nobody has told where.
    pub(super) async fn finish(self) -> Result<Option<ObjectInfo>, BlobError> {
        let Self {
            stored, sink, finish, ..
        } = self;
        // When the guest never took the body, the object is empty.
        drop(sink);
        // The store may have failed and gone away; its result tells.
        let _ = finish.send(());
        match stored {
            Some(stored) => stored.await.map(Some),
            None => Ok(None),
        }
    }
}

/// What the guest writes, ending well only when it has said so.
fn upload_body(source: mpsc::Receiver<Bytes>, finished: oneshot::Receiver<()>) -> Body {
    let dropped = || BlobError::Body("the upload was dropped before finish".into());
    let state = Some((source, Some(finished)));
    Box::pin(stream::unfold(state, move |state| async move {
        let (mut source, mut finished) = state?;
        if let Some(finish) = &mut finished {
            let end = tokio::select! {
                biased;
                chunk = source.recv() => match chunk {
                    Some(chunk) => return Some((Ok(chunk), Some((source, finished)))),
                    None => finish.await,
                },
                end = &mut *finish => end,
            };
            if end.is_err() {
                return Some((Err(dropped()), None));
            }
            // Whole: what is still on its way counts, nothing more is taken.
            source.close();
            finished = None;
        }
        let chunk = source.recv().await?;
        Some((Ok(chunk), Some((source, finished))))
    }))
}

/// The guest's end of an upload.
struct UploadStream {
    sink: mpsc::Sender<Bytes>,
    chunk_bytes_max: usize,
    started: Arc<AtomicBool>,
}

impl UploadStream {
    /// Whether nobody will make room: it is full, and the store does not read yet.
    fn is_stuck(&self) -> bool {
        self.sink.capacity() == 0 && !self.started.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Pollable for UploadStream {
    async fn ready(&mut self) {
        // Ready as well when the store has gone away or has not begun: the next write tells.
        if !self.is_stuck() {
            let _ = self.sink.reserve().await;
        }
    }
}

impl OutputStream for UploadStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.sink.try_send(bytes) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StreamError::Closed),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(StreamError::trap("wrote more than check-write allowed"))
            }
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if self.sink.is_closed() {
            return Err(StreamError::Closed);
        }
        if self.is_stuck() {
            return Err(StreamError::LastOperationFailed(wasmtime::Error::msg(format!(
                "{} writes wait already, the limit until the value is given to a container; call \
                 write-data first",
                UNSTARTED_CHUNKS.0
            ))));
        }
        Ok(match self.sink.capacity() {
            0 => 0,
            _ => self.chunk_bytes_max,
        })
    }
}

/// An object read from the backend as the guest asks for it.
struct ObjectStream {
    body: Body,
    chunk: Bytes,
    end: Option<Result<(), BlobError>>,
}

#[async_trait]
impl Pollable for ObjectStream {
    async fn ready(&mut self) {
        while self.chunk.is_empty() && self.end.is_none() {
            match self.body.next().await {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
        }
    }
}

impl InputStream for ObjectStream {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if !self.chunk.is_empty() {
            let size = size.min(self.chunk.len());
            return Ok(self.chunk.split_to(size));
        }
        match self.end.replace(Ok(())) {
            Some(Ok(())) => Err(StreamError::Closed),
            Some(Err(error)) => Err(StreamError::LastOperationFailed(wasmtime::Error::msg(
                error.to_string(),
            ))),
            None => {
                self.end = None;
                Ok(Bytes::new())
            }
        }
    }
}
