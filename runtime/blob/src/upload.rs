//! A body on its way into the backend: hashed and measured as it streams, so that nothing is read twice and an
//! oversized body stops at the limit.
//!
//! Up to [`PART_BYTES`] is collected and written in one put; what is longer goes up in parts. A backend shows a
//! blob only when it is complete, so a sender that goes away leaves nothing visible; the local backend removes its
//! staging file when the upload is dropped, and buckets have a life-cycle rule for parts of abandoned uploads.

use bytes::{Bytes, BytesMut};
use cloudlet_base::ContentHash;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};

use crate::{Body, Error};

/// Bytes of one part; S3 takes no smaller ones. Also the most that one upload holds in memory.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// Chunks smaller than this are copied together.
const SMALL_CHUNK_BYTES: usize = 8 * 1024;

/// What was stored.
pub(crate) struct Stored {
    pub(crate) size: u64,
    pub(crate) hash: ContentHash,
}

/// Streams `body` to `location`. Durable on return; on an error nothing is stored there.
pub(crate) async fn upload(
    backend: &dyn ObjectStore,
    location: &Path,
    mut body: Body,
    bytes_max: u64,
) -> Result<Stored, Error> {
    let mut hasher = Sha256::new();
    let mut size: u64 = 0;
    let mut part = Part::default();
    let mut multipart: Option<Box<dyn MultipartUpload>> = None;
    loop {
        let step = match body.next().await {
            None => break,
            Some(Err(error)) => Err(error),
            Some(Ok(chunk)) => {
                size = size.saturating_add(chunk.len() as u64);
                if size > bytes_max {
                    Err(Error::TooLarge { limit: bytes_max })
                } else {
                    hasher.update(&chunk);
                    part.push(chunk);
                    send_full_parts(backend, location, &mut part, &mut multipart).await
                }
            }
        };
        if let Err(error) = step {
            abort(multipart).await;
            return Err(error);
        }
    }
    let finished = match &mut multipart {
        None => backend.put(location, part.take()).await.map(drop),
        Some(upload) => finish(upload.as_mut(), part.take()).await,
    };
    if let Err(error) = finished {
        abort(multipart).await;
        return Err(backend_error(&error));
    }
    Ok(Stored {
        size,
        hash: ContentHash::from_bytes(hasher.finalize().into()),
    })
}

/// Sends what has come together as soon as it fills a part; waiting for the backend holds the sender back.
async fn send_full_parts(
    backend: &dyn ObjectStore,
    location: &Path,
    part: &mut Part,
    multipart: &mut Option<Box<dyn MultipartUpload>>,
) -> Result<(), Error> {
    if part.bytes < PART_BYTES {
        return Ok(());
    }
    let upload = match multipart {
        Some(upload) => upload,
        None => multipart.insert(
            backend
                .put_multipart(location)
                .await
                .map_err(|e| backend_error(&e))?,
        ),
    };
    upload.put_part(part.take()).await.map_err(|e| backend_error(&e))
}

async fn finish(upload: &mut dyn MultipartUpload, rest: PutPayload) -> Result<(), object_store::Error> {
    if rest.content_length() > 0 {
        upload.put_part(rest).await?;
    }
    upload.complete().await.map(drop)
}

async fn abort(multipart: Option<Box<dyn MultipartUpload>>) {
    if let Some(mut upload) = multipart
        && let Err(error) = upload.abort().await
    {
        tracing::warn!(%error, "abandoned upload not cleaned up");
    }
}

/// Chunks waiting to fill a part. Large ones are kept as they came; small ones are copied together, so that a
/// sender of single bytes costs no more memory than the bytes.
#[derive(Default)]
struct Part {
    chunks: Vec<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Part {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        if chunk.len() < SMALL_CHUNK_BYTES {
            self.small.extend_from_slice(&chunk);
        } else {
            self.seal();
            self.chunks.push(chunk);
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(std::mem::take(&mut self.small).freeze());
        }
    }

    fn take(&mut self) -> PutPayload {
        self.seal();
        self.bytes = 0;
        std::mem::take(&mut self.chunks).into_iter().collect()
    }
}

/// A backend's failure with the causes it wraps.
pub(crate) fn backend_error(error: &object_store::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    Error::Backend(text)
}
