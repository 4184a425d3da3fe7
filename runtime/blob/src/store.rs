//! The store of objects.
//!
//! Bytes live in blobs whose names are never reused (`objects/APP/xx/RANDOM`); which blob an object is now, its
//! metadata document says. A put writes the blob, then the document, in that order, each durable before the next:
//! so a crash at any moment leaves the old object or the new one, and at worst a blob that nothing names. A replaced
//! blob stays for [`RETIRED_BLOB_GRACE`], for readers that looked up the document just before.
//!
//! Content (components, site files) lives under its hash (`content/HASH`), without a document.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};
use bytes::Bytes;
use cloudlet_base::{AppId, Clock, ContentHash, Deadline, Entropy, RequestId};
use cloudlet_data::{Documents, Find, FindAndModify};
use futures_util::{Stream, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::upload::backend_error;
use crate::{Error, ObjectInfo, changes, path, read, upload};

/// How long a replaced or deleted object's blob stays, so that a reader who has looked it up can open it.
const RETIRED_BLOB_GRACE: Duration = Duration::from_secs(60);

/// Most retired blobs that wait; beyond, the oldest goes at once.
const RETIRED_BLOBS_MAX: usize = 4096;

/// How old a blob that no document names must be before it is garbage rather than an upload under way.
const GARBAGE_AGE: Duration = Duration::from_secs(24 * 3600);

/// Blobs that one round of garbage collection holds in memory.
const GARBAGE_ROUND: usize = 50_000;

/// Most objects in one listing.
const LIST_MAX: usize = 1000;

/// How long looking up metadata may take.
const LOOKUP_BUDGET: Duration = Duration::from_secs(10);

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
    /// In memory: exactly the bytes of the range.
    Cached(Bytes),
    /// The range asked for, streamed from the backend.
    Streamed(Body),
}

/// Objects of all apps. Cheap to clone.
#[derive(Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn ObjectStore>,
    documents: Arc<dyn Documents>,
    config: BlobConfig,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    cache: Cache,
    /// Blobs that nothing names any more, with the monotonic time at which they may go.
    retired: Mutex<VecDeque<(Duration, Path)>>,
}

impl BlobStore {
    /// Opens the store over `backend`; metadata go to the collection `objects` of `APP/system`.
    pub fn open(
        backend: Arc<dyn ObjectStore>,
        documents: Arc<dyn Documents>,
        config: BlobConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        registry: &prometheus::Registry,
    ) -> Self {
        let metrics = Arc::new(Metrics::register(registry));
        let cache = Cache::new(config.cache_bytes, metrics.clone());
        let retired = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                backend,
                documents,
                config,
                clock,
                entropy,
                metrics,
                cache,
                retired,
            }),
        }
    }

    /// A local directory as backend, made when it is not there. Files and their directories are synced before a
    /// put returns. What interrupted puts of content left there is removed, so only one process may use it.
    ///
    /// # Errors
    /// When the directory can't be made or used.
    pub fn local_backend(dir: &std::path::Path) -> Result<Arc<dyn ObjectStore>, Error> {
        let failed =
            |error: &dyn std::fmt::Display| Error::Backend(format!("directory {}: {error}", dir.display()));
        std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        remove_staged(&dir.join("content")).map_err(|error| failed(&error))?;
        let local =
            object_store::local::LocalFileSystem::new_with_prefix(dir).map_err(|error| failed(&error))?;
        Ok(Arc::new(local.with_fsync(true)))
    }

    /// Streams an object in. Durable and visible when it returns; an older object at the path is replaced in one
    /// step, and a failure leaves it untouched.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::TooLarge`], [`Error::Body`] or what `body` gave, [`Error::Database`],
    /// [`Error::Backend`].
    ///
    /// # Cancel safety
    /// Dropped at any moment, the object at the path is the old one or the new one; a blob may be left as garbage.
    pub async fn put(
        &self,
        app: &AppId,
        path: &str,
        options: PutOptions,
        body: Body,
    ) -> Result<ObjectInfo, Error> {
        path::check(path)?;
        let inner = &*self.inner;
        let blob = String::from_utf8_lossy(&RequestId::generate(&*inner.entropy).to_hex()).into_owned();
        let location = blob_location(app, &blob);
        let stored = upload::upload(&*inner.backend, &location, body, inner.config.object_bytes_max).await?;
        inner.metrics.written_bytes.inc_by(stored.size);
        let content_type = match options.content_type {
            given if given.is_empty() => "application/octet-stream".into(),
            given => given.into(),
        };
        let info = ObjectInfo {
            path: path.into(),
            size: stored.size,
            hash: stored.hash,
            content_type,
            owner: options.owner,
            modified: inner.clock.now(),
            blob: blob.into(),
        };
        match self.record(app, &info).await {
            Ok(Some(old)) => self.retire(blob_location(app, &old.blob)).await,
            Ok(None) => {}
            Err(error) => {
                self.discard_unless_named(app, &info).await;
                return Err(error);
            }
        }
        Ok(info)
    }

    /// What is known of the object at `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for what can't be a path; [`Error::Database`].
    pub async fn head(&self, app: &AppId, path: &str) -> Result<ObjectInfo, Error> {
        self.lookup(app, path).await?.ok_or_else(|| not_found(path))
    }

    /// Opens the bytes of an object that `head` described; through the cache when small enough.
    /// `range` is a checked byte range `start..end` within the size; of a cached object the slice is returned.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the object was replaced or removed more than a minute ago; [`Error::Backend`],
    /// also when the bytes are not those that were stored.
    pub async fn open_object(
        &self,
        app: &AppId,
        info: &ObjectInfo,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Opened, Error> {
        let inner = &*self.inner;
        let location = blob_location(app, &info.blob);
        let range = range.unwrap_or(0..info.size);
        if range.start > range.end || range.end > info.size {
            return Err(Error::Backend(format!(
                "range {range:?} is not within the object's {} bytes",
                info.size
            )));
        }
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => not_found(&info.path),
            error => backend_error(&error),
        };
        if info.size > inner.config.cached_object_bytes_max {
            let body = read::stream(&*inner.backend, &location, range, inner.metrics.clone()).await;
            return body.map(Opened::Streamed).map_err(failed);
        }
        let load = || async {
            read::whole(&*inner.backend, &location, info.hash, &inner.metrics)
                .await
                .map_err(failed)
        };
        let bytes = inner.cache.get_or_load(info.hash, load).await?;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Opened::Cached(bytes.slice(place(range.start)..place(range.end))))
    }

    /// Removes the object. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn delete(&self, app: &AppId, path: &str) -> Result<bool, Error> {
        if path::check(path).is_err() {
            return Ok(false);
        }
        let modify = FindAndModify {
            filter: rawdoc! { "_id": path },
            ..FindAndModify::default()
        };
        let removed = self
            .inner
            .documents
            .find_and_modify(&changes::namespace(app), modify, Deadline::NEVER)
            .await?;
        let Some(document) = removed.document else {
            return Ok(false);
        };
        if let Ok(old) = ObjectInfo::from_document(&document) {
            self.retire(blob_location(app, &old.blob)).await;
        }
        Ok(true)
    }

    /// Objects whose path begins with `prefix`, in path order, after `after`, at most `limit` (and 1000).
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::Database`].
    pub async fn list(
        &self,
        app: &AppId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, Error> {
        path::check_prefix(prefix)?;
        let mut bounds = rawdoc! { "$gte": prefix };
        if let Some(after) = after.filter(|after| *after >= prefix) {
            bounds = rawdoc! { "$gt": after };
        }
        if let Some(end) = path::after_prefix(prefix) {
            bounds.append(bson::raw::cstr!("$lt"), end);
        }
        let limit = limit.min(LIST_MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let find = Find {
            filter: rawdoc! { "_id": bounds },
            sort: Some(rawdoc! { "_id": 1 }),
            limit: Some(limit as u64),
            batch: u32::try_from(limit).ok(),
            ..Find::default()
        };
        let mut found = Vec::new();
        self.for_each(app, find, |document| {
            found.push(ObjectInfo::from_document(document)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Stores content under its hash (components, site files); a no-op when it is there. The hash is checked.
    ///
    /// # Errors
    /// [`Error::Body`] when the bytes have another hash; [`Error::Backend`].
    pub async fn put_content(&self, hash: ContentHash, bytes: Bytes) -> Result<(), Error> {
        let actual = read::digest(bytes.clone()).await;
        if actual != Some(hash) {
            return Err(Error::Body(format!(
                "content was announced as {hash} and hashes to {actual:?}"
            )));
        }
        if self.has_content(hash).await? {
            return Ok(());
        }
        let size = bytes.len() as u64;
        let put = self
            .inner
            .backend
            .put(&content_location(hash), bytes.into())
            .await;
        put.map_err(|error| backend_error(&error))?;
        self.inner.metrics.written_bytes.inc_by(size);
        Ok(())
    }

    /// Content by its hash, through the cache when small enough. It is verified when it comes from the backend.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Backend`].
    pub async fn get_content(&self, hash: ContentHash) -> Result<Bytes, Error> {
        let inner = &*self.inner;
        let location = content_location(hash);
        if let Some(bytes) = inner.cache.get(&hash) {
            return Ok(bytes);
        }
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => not_found(location.as_ref()),
            error => backend_error(&error),
        };
        let size = inner.backend.head(&location).await.map_err(failed)?.size;
        let load = || async {
            read::whole(&*inner.backend, &location, hash, &inner.metrics)
                .await
                .map_err(failed)
        };
        if size > inner.config.cached_object_bytes_max {
            return load().await;
        }
        inner.cache.load(hash, load).await
    }

    /// The content if it is in the memory cache right now; never waits. The fast path of hosted sites.
    pub fn cached_content(&self, hash: ContentHash) -> Option<Bytes> {
        self.inner.cache.get(&hash)
    }

    /// Whether content with this hash is stored.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub async fn has_content(&self, hash: ContentHash) -> Result<bool, Error> {
        match self.inner.backend.head(&content_location(hash)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(backend_error(&error)),
        }
    }

    /// Removes the blobs of `app` that no object names and that are more than a day old: what crashes and
    /// abandoned requests left. Returns how many went. For a timer; safe while the app is in use.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Backend`].
    pub async fn collect_garbage(&self, app: &AppId) -> Result<u64, Error> {
        let prefix = Path::from_iter(["objects", app.as_str()]);
        let now = self.inner.clock.now();
        let mut blobs = self.inner.backend.list(Some(&prefix));
        let mut removed = 0;
        loop {
            let mut round = HashSet::new();
            while round.len() < GARBAGE_ROUND {
                let Some(meta) = blobs.try_next().await.map_err(|error| backend_error(&error))? else {
                    break;
                };
                let age_ms = now.millis().saturating_sub(meta.last_modified.timestamp_millis());
                if age_ms > i64::try_from(GARBAGE_AGE.as_millis()).unwrap_or(i64::MAX) {
                    round.insert(meta.location);
                }
            }
            if round.is_empty() {
                return Ok(removed);
            }
            let find = Find {
                projection: Some(rawdoc! { "blob": 1 }),
                ..Find::default()
            };
            self.for_each(app, find, |document| {
                round.remove(&blob_location(app, document.get_str("blob").unwrap_or_default()));
                Ok(())
            })
            .await?;
            for location in round {
                self.remove_blob(&location).await;
                removed += 1;
            }
        }
    }

    /// Removes content that `keep` does not have and that was stored at least `age` ago. Returns how many contents
    /// went and their bytes. The caller sees to it that nobody begins to use one meanwhile.
    ///
    /// # Errors
    /// [`Error::Backend`] when the contents can't be listed. One that can't be removed is logged and stays.
    pub async fn collect_content(
        &self,
        keep: &HashSet<ContentHash>,
        age: Duration,
    ) -> Result<(u64, u64), Error> {
        let prefix = Path::from_iter(["content"]);
        let now = self.inner.clock.now();
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let mut contents = self.inner.backend.list(Some(&prefix));
        let (mut removed, mut bytes) = (0, 0);
        loop {
            let mut round = Vec::new();
            let mut more = false;
            while let Some(meta) = contents.try_next().await.map_err(|error| backend_error(&error))? {
                let hash = meta.location.filename().and_then(|name| name.parse().ok());
                let unused = hash.is_some_and(|hash: ContentHash| !keep.contains(&hash));
                let old = now.millis().saturating_sub(meta.last_modified.timestamp_millis()) >= age_ms;
                if unused && old {
                    round.push(meta);
                }
                if round.len() >= GARBAGE_ROUND {
                    more = true;
                    break;
                }
            }
            for meta in round {
                self.remove_blob(&meta.location).await;
                removed += 1;
                bytes += meta.size;
            }
            if !more {
                return Ok((removed, bytes));
            }
        }
    }

    async fn lookup(&self, app: &AppId, path: &str) -> Result<Option<ObjectInfo>, Error> {
        if path::check(path).is_err() {
            return Ok(None);
        }
        let find = Find {
            filter: rawdoc! { "_id": path },
            limit: Some(1),
            ..Find::default()
        };
        let page = self
            .inner
            .documents
            .find(&changes::namespace(app), find, self.lookup_deadline())
            .await?;
        page.documents
            .first()
            .map(|document| ObjectInfo::from_document(document))
            .transpose()
    }

    /// Calls `visit` with every document of a query, page by page.
    async fn for_each(
        &self,
        app: &AppId,
        find: Find,
        mut visit: impl FnMut(&RawDocumentBuf) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let batch = find.batch;
        let mut page = self
            .inner
            .documents
            .find(&changes::namespace(app), find, self.lookup_deadline())
            .await?;
        loop {
            page.documents.iter().try_for_each(&mut visit)?;
            let Some(cursor) = page.cursor else { return Ok(()) };
            page = self
                .inner
                .documents
                .next_page(cursor, batch, self.lookup_deadline())
                .await?;
        }
    }

    /// Makes `info` the object at its path; returns the one that was there.
    async fn record(&self, app: &AppId, info: &ObjectInfo) -> Result<Option<ObjectInfo>, Error> {
        let modify = FindAndModify {
            filter: rawdoc! { "_id": &*info.path },
            update: Some(info.to_document()),
            upsert: true,
            ..FindAndModify::default()
        };
        // No deadline: once the blob is there, only a definite answer tells whether it is garbage.
        let modified = self
            .inner
            .documents
            .find_and_modify(&changes::namespace(app), modify, Deadline::NEVER)
            .await?;
        Ok(modified
            .document
            .and_then(|document| ObjectInfo::from_document(&document).ok()))
    }

    /// After a failed commit: removes the new blob if it is certain that no document names it.
    async fn discard_unless_named(&self, app: &AppId, info: &ObjectInfo) {
        match self.lookup(app, &info.path).await {
            Ok(Some(current)) if current.blob == info.blob => {}
            Ok(_) => self.remove_blob(&blob_location(app, &info.blob)).await,
            Err(error) => tracing::warn!(%error, "blob of a failed put left as garbage"),
        }
    }

    /// Lets a blob that nothing names go after the grace, and removes those whose time has come.
    async fn retire(&self, location: Path) {
        let now = self.inner.clock.monotonic();
        let mut due = Vec::new();
        {
            let mut retired = self.inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.push_back((now.saturating_add(RETIRED_BLOB_GRACE), location));
            while retired.front().is_some_and(|(at, _)| *at <= now) || retired.len() > RETIRED_BLOBS_MAX {
                due.extend(retired.pop_front().map(|(_, location)| location));
            }
        }
        for location in due {
            self.remove_blob(&location).await;
        }
    }

    async fn remove_blob(&self, location: &Path) {
        match self.inner.backend.delete(location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, "blob not removed"),
        }
    }

    fn lookup_deadline(&self) -> Deadline {
        Deadline::after(&*self.inner.clock, LOOKUP_BUDGET)
    }
}

fn blob_location(app: &AppId, blob: &str) -> Path {
    let fan = blob.get(..2).unwrap_or_default();
    Path::from_iter(["objects", app.as_str(), fan, blob])
}

fn content_location(hash: ContentHash) -> Path {
    Path::from_iter(["content".to_owned(), hash.to_string()])
}

/// Removes what puts of content that were cut off by the end of a process left: `HASH#NUMBER`, which no listing shows.
fn remove_staged(dir: &std::path::Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let staged = name.to_str().and_then(|name| name.split_once('#'));
        if staged.is_some_and(|(hash, number)| {
            hash.parse::<ContentHash>().is_ok() && number.bytes().all(|byte| byte.is_ascii_digit())
        }) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn not_found(path: &str) -> Error {
    Error::NotFound {
        path: path.chars().take(80).collect(),
    }
}

#[cfg(test)]
mod tests;
