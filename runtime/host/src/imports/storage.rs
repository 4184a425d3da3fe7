//! `cloudlet:storage/objects`: checks the path against the grants, then asks the store as the app.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cloudlet_blob::{Body, Error as BlobError, ObjectInfo as Info, Opened, PutOptions as StorePutOptions};
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use wasmtime::component::Resource;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::{Failure, View, storage_error};
use crate::bindings::cloudlet::storage::objects::{self, ObjectInfo, PutOptions};

/// Largest object that `get` returns whole.
const GET_BYTES_MAX: u64 = 16 << 20;
/// Most objects in one listing.
const LIST_MAX: u32 = 1000;
/// Chunks of an upload that may wait for the store.
const UPLOAD_CHUNKS_MAX: usize = 4;
/// Largest chunk of an upload.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// An upload in progress: the store reads from one end what the guest writes into the other.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Upload {
    stored: AbortOnDropJoinHandle<Result<Info, BlobError>>,
    /// Until the guest has taken it.
    sink: Option<mpsc::Sender<Bytes>>,
    /// Says that the content is whole; without it the store gives the upload up.
    finish: oneshot::Sender<()>,
}

impl objects::Host for View<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<objects::Error> {
        storage_error(failure)
    }

    async fn put(
        &mut self,
        path: String,
        content: Vec<u8>,
        options: PutOptions,
    ) -> Result<ObjectInfo, Failure> {
        self.check_path(&path)?;
        let body: Body = Box::pin(stream::iter([Ok(Bytes::from(content))]));
        let app = &self.run.app;
        let info = app
            .services
            .blobs
            .put(&app.app, &path, store_options(&path, options), body)
            .await?;
        Ok(describe(info))
    }

    fn start_upload(&mut self, path: String, options: PutOptions) -> Result<Resource<Upload>, Failure> {
        self.check_path(&path)?;
        let (sink, source) = mpsc::channel(UPLOAD_CHUNKS_MAX);
        let (finish, finished) = oneshot::channel();
        let options = store_options(&path, options);
        let app = Arc::clone(&self.run.app);
        let stored = spawn(async move {
            let body = upload_body(source, finished);
            app.services.blobs.put(&app.app, &path, options, body).await
        });
        Ok(self.table.push(Upload {
            stored,
            sink: Some(sink),
            finish,
        })?)
    }

    async fn get(&mut self, path: String) -> Result<Vec<u8>, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        let info = app.services.blobs.head(&app.app, &path).await?;
        if info.size > GET_BYTES_MAX {
            return Err(Failure::limit(format!(
                "the object has {} bytes, over the limit of {GET_BYTES_MAX} for get; use open",
                info.size
            )));
        }
        match app.services.blobs.open_object(&app.app, &info, None).await? {
            Opened::Cached(bytes) => Ok(bytes.into()),
            Opened::Streamed(mut body) => {
                let mut all = BytesMut::with_capacity(usize::try_from(info.size).unwrap_or(0));
                while let Some(chunk) = body.next().await {
                    all.extend_from_slice(&chunk?);
                }
                Ok(all.into())
            }
        }
    }

    async fn open(
        &mut self,
        path: String,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Resource<DynInputStream>, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        let info = app.services.blobs.head(&app.app, &path).await?;
        if offset > info.size {
            return Err(Failure::invalid(format!(
                "offset {offset} is beyond the object's {} bytes",
                info.size
            )));
        }
        let end = length.map_or(info.size, |length| offset.saturating_add(length).min(info.size));
        let range = (offset > 0 || end < info.size).then_some(offset..end);
        let stream: DynInputStream = match app.services.blobs.open_object(&app.app, &info, range).await? {
            Opened::Cached(bytes) => Box::new(MemoryInputPipe::new(bytes)),
            Opened::Streamed(body) => Box::new(ObjectStream {
                body,
                chunk: Bytes::new(),
                end: None,
            }),
        };
        Ok(self.table.push(stream)?)
    }

    async fn head(&mut self, path: String) -> Result<ObjectInfo, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        Ok(describe(app.services.blobs.head(&app.app, &path).await?))
    }

    async fn delete(&mut self, path: String) -> Result<bool, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        Ok(app.services.blobs.delete(&app.app, &path).await?)
    }

    async fn list(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<ObjectInfo>, Failure> {
        self.check_path(&prefix)?;
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(Failure::invalid(format!("limit {limit} is not 1 to {LIST_MAX}")));
        }
        let app = &self.run.app;
        let found = app
            .services
            .blobs
            .list(&app.app, &prefix, after.as_deref(), limit as usize)
            .await?;
        Ok(found.into_iter().map(describe).collect())
    }

    fn file_id(&mut self, path: String) -> wasmtime::Result<String> {
        let app = &self.run.app;
        Ok(format!("cloud://{}.{}/{path}", app.app, app.services.bucket))
    }
}

impl objects::HostUpload for View<'_> {
    fn body(&mut self, this: Resource<Upload>) -> Result<Resource<DynOutputStream>, Failure> {
        let sink = self.table.get_mut(&this)?.sink.take();
        let sink = sink.ok_or_else(|| Failure::invalid("the body of this upload was taken already"))?;
        let stream: DynOutputStream = Box::new(UploadStream { sink });
        Ok(self.table.push(stream)?)
    }

    async fn finish(&mut self, this: Resource<Upload>) -> Result<ObjectInfo, Failure> {
        let Upload { stored, sink, finish } = self.table.delete(this)?;
        // When the guest never took the body, the object is empty.
        drop(sink);
        // The store may have failed and gone away; its result tells.
        let _ = finish.send(());
        Ok(describe(stored.await?))
    }

    async fn drop(&mut self, this: Resource<Upload>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl View<'_> {
    /// Whether the function's grants cover the path, or everything under the prefix.
    fn check_path(&self, path: &str) -> Result<(), Failure> {
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

fn store_options(path: &str, options: PutOptions) -> StorePutOptions {
    let content_type = if options.content_type.is_empty() {
        mime_guess::from_path(path).first_or_octet_stream().to_string()
    } else {
        options.content_type
    };
    StorePutOptions {
        content_type,
        owner: options.owner.map(Arc::from),
    }
}

fn describe(info: Info) -> ObjectInfo {
    ObjectInfo {
        path: info.path.to_string(),
        size: info.size,
        etag: format!("\"{}\"", info.hash),
        content_type: info.content_type.to_string(),
        owner: info.owner.as_deref().map(str::to_owned),
        modified_ms: info.modified.millis(),
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
}

#[async_trait]
impl Pollable for UploadStream {
    async fn ready(&mut self) {
        // Ready as well when the store has gone away: the next write tells.
        let _ = self.sink.reserve().await;
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
        Ok(if self.sink.capacity() == 0 {
            0
        } else {
            CHUNK_BYTES_MAX
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
