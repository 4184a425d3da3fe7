//! The store of objects.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cloudlet_base::{AppId, Clock, ContentHash, Entropy, Fault, Timestamp};
use cloudlet_data::Documents;
use futures_util::Stream;

/// Why an object operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object.
    #[error("no object at {path:?}")]
    NotFound {
        /// The path asked for.
        path: String,
    },
    /// The path can't be an object's.
    #[error("invalid object path {path:?}: {reason}")]
    InvalidPath {
        /// The path given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The body is larger than allowed; nothing was stored.
    #[error("the object is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body's sender failed or went away; nothing was stored.
    #[error("the object's body ended early: {0}")]
    Body(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cloudlet_data::Error),
    /// The backend failed: a full disk, an unreachable bucket.
    #[error("the object backend failed: {0}")]
    Backend(String),
}

impl Error {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            Error::NotFound { .. } => Fault::NotFound,
            Error::InvalidPath { .. } | Error::Body(_) => Fault::Invalid,
            Error::TooLarge { .. } => Fault::Limit,
            Error::Database(error) => error.kind(),
            Error::Backend(_) => Fault::Internal,
        }
    }
}

/// Limits and sizes.
#[derive(Debug, Clone)]
pub struct BlobConfig {
    /// Bytes of the in-memory cache.
    pub cache_bytes: u64,
    /// Objects up to this size are cached whole; larger ones are streamed from the backend.
    pub cached_object_bytes_max: u64,
    /// Largest object.
    pub object_bytes_max: u64,
}

impl Default for BlobConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 128 * 1024 * 1024,
            cached_object_bytes_max: 4 * 1024 * 1024,
            object_bytes_max: 5 * 1024 * 1024 * 1024,
        }
    }
}

/// What is known of an object.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Path within the app's bucket, e.g. `photos/a.jpg`; no leading slash.
    pub path: Arc<str>,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content; the strong ETag is its hex in quotes.
    pub hash: ContentHash,
    /// Media type.
    pub content_type: Arc<str>,
    /// Owner id (openid or uid) of the user who stored it; `None` for functions and admins.
    pub owner: Option<Arc<str>>,
    /// When it was stored.
    pub modified: Timestamp,
}

/// How to store an object.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Media type; guessed by the caller, `application/octet-stream` when empty.
    pub content_type: String,
    /// Owner id, see [`ObjectInfo::owner`].
    pub owner: Option<Arc<str>>,
}

/// A stream of body chunks.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// An object opened for reading.
pub enum Opened {
    /// Whole in memory: serve slices of it.
    Cached(Bytes),
    /// The range asked for, streamed from the backend.
    Streamed(Body),
}

/// Objects of all apps. Cheap to clone.
#[derive(Clone)]
pub struct BlobStore;

#[expect(unused_variables, reason = "being built")]
impl BlobStore {
    /// Opens the store over `backend`; metadata go to the collection `objects` of `APP/system`.
    pub fn open(
        backend: Arc<dyn object_store::ObjectStore>,
        documents: Arc<dyn Documents>,
        config: BlobConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        registry: &prometheus::Registry,
    ) -> Self {
        todo!()
    }

    /// A local directory as backend, made when it is not there.
    ///
    /// # Errors
    /// When the directory can't be made or used.
    pub fn local_backend(dir: &std::path::Path) -> Result<Arc<dyn object_store::ObjectStore>, Error> {
        todo!()
    }

    /// Streams an object in. Durable and visible when it returns; an older object at the path is replaced in one
    /// step, and a failure leaves it untouched.
    pub async fn put(
        &self,
        app: &AppId,
        path: &str,
        options: PutOptions,
        body: Body,
    ) -> Result<ObjectInfo, Error> {
        todo!()
    }

    /// What is known of the object at `path`.
    pub async fn head(&self, app: &AppId, path: &str) -> Result<ObjectInfo, Error> {
        todo!()
    }

    /// Opens the bytes of an object that `head` described; through the cache when small enough.
    /// `range` is a checked byte range `start..end` within the size.
    pub async fn open_object(
        &self,
        app: &AppId,
        info: &ObjectInfo,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Opened, Error> {
        todo!()
    }

    /// Removes the object. Returns whether there was one.
    pub async fn delete(&self, app: &AppId, path: &str) -> Result<bool, Error> {
        todo!()
    }

    /// Objects whose path begins with `prefix`, in path order, after `after`, at most `limit`.
    pub async fn list(
        &self,
        app: &AppId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, Error> {
        todo!()
    }

    /// Stores content under its hash (components, site files); a no-op when it is there. The hash is checked.
    pub async fn put_content(&self, hash: ContentHash, bytes: Bytes) -> Result<(), Error> {
        todo!()
    }

    /// Content by its hash, through the cache when small enough.
    pub async fn get_content(&self, hash: ContentHash) -> Result<Bytes, Error> {
        todo!()
    }

    /// The content if it is in the memory cache right now; never waits. The fast path of hosted sites.
    pub fn cached_content(&self, hash: ContentHash) -> Option<Bytes> {
        todo!()
    }

    /// Whether content with this hash is stored.
    pub async fn has_content(&self, hash: ContentHash) -> Result<bool, Error> {
        todo!()
    }
}
