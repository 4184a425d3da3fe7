//! Bytes out of the backend: whole and verified for the cache, or streamed in large steps.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cloudlet_base::ContentHash;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::metrics::Metrics;
use crate::upload::backend_error;
use crate::{Body, Error};

/// Bytes of one step from a local file; the backend's own stream would take 8 KiB a thread hop.
const STEP_BYTES: u64 = 256 * 1024;

/// Contents above this are hashed on a blocking thread.
const HASH_INLINE_BYTES_MAX: usize = 64 * 1024;

/// The whole blob, whose hash must be `hash`: what is cached under a hash is what the hash says.
pub(crate) async fn whole(
    backend: &dyn ObjectStore,
    location: &Path,
    hash: ContentHash,
    metrics: &Metrics,
) -> Result<Bytes, object_store::Error> {
    let bytes = backend.get(location).await?.bytes().await?;
    metrics.read_bytes.inc_by(bytes.len() as u64);
    if digest(bytes.clone()).await != Some(hash) {
        return Err(object_store::Error::Generic {
            store: "blob",
            source: format!("{location} is corrupt: its bytes are not those that were stored").into(),
        });
    }
    Ok(bytes)
}

/// The SHA-256 of `bytes`; `None` only while the runtime is shutting down.
pub(crate) async fn digest(bytes: Bytes) -> Option<ContentHash> {
    let hash = |bytes: &[u8]| ContentHash::from_bytes(Sha256::digest(bytes).into());
    if bytes.len() <= HASH_INLINE_BYTES_MAX {
        return Some(hash(&bytes));
    }
    tokio::task::spawn_blocking(move || hash(&bytes)).await.ok()
}

/// The bytes of `range`, as they come from the backend.
pub(crate) async fn stream(
    backend: &dyn ObjectStore,
    location: &Path,
    range: Range<u64>,
    metrics: Arc<Metrics>,
) -> Result<Body, object_store::Error> {
    if range.is_empty() {
        return Ok(futures_util::stream::empty().boxed());
    }
    let options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        ..GetOptions::default()
    };
    let body = match backend.get_opts(location, options).await?.payload {
        GetResultPayload::File(file, _) => from_file(file, range),
        GetResultPayload::Stream(stream) => stream.map_err(|error| backend_error(&error)).boxed(),
    };
    Ok(body
        .inspect_ok(move |chunk| metrics.read_bytes.inc_by(chunk.len() as u64))
        .boxed())
}

fn from_file(file: File, range: Range<u64>) -> Body {
    futures_util::stream::try_unfold((file, range), |(file, rest)| async move {
        if rest.is_empty() {
            return Ok(None);
        }
        let step = tokio::task::spawn_blocking(move || read_step(file, rest)).await;
        let read = step.map_err(|_| Error::Backend("the node is shutting down".into()))?;
        read.map(Some)
            .map_err(|error| Error::Backend(format!("cannot read a blob: {error}")))
    })
    .boxed()
}

/// Reads the next step of `rest` and returns it with what is needed for the one after.
fn read_step(mut file: File, rest: Range<u64>) -> std::io::Result<(Bytes, (File, Range<u64>))> {
    let end = rest.end.min(rest.start.saturating_add(STEP_BYTES));
    let wanted = end - rest.start;
    file.seek(SeekFrom::Start(rest.start))?;
    let mut buffer = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
    let got = (&mut file).take(wanted).read_to_end(&mut buffer)?;
    if got as u64 != wanted {
        return Err(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the blob is shorter than it was",
        ));
    }
    Ok((buffer.into(), (file, end..rest.end)))
}
