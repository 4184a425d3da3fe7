//! The store over a model database and, for the bytes, a local directory or memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use cloudlet_base::{ManualClock, OsEntropy};
use cloudlet_data::testing::{MemoryDocuments, embedded};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::*;

struct Bench {
    store: BlobStore,
    clock: Arc<ManualClock>,
    registry: prometheus::Registry,
    dir: tempfile::TempDir,
}

/// One over the model, one over the engine.
fn both() -> [Bench; 2] {
    [bench(MemoryDocuments::new()), bench(embedded())]
}

fn bench(documents: Arc<dyn Documents>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_millis(1_000_000));
    let registry = prometheus::Registry::new();
    let config = BlobConfig {
        cached_object_bytes_max: 100_000,
        object_bytes_max: 12 << 20,
        ..BlobConfig::default()
    };
    let backend = BlobStore::local_backend(dir.path()).unwrap();
    let store = BlobStore::open(
        backend,
        documents,
        config,
        clock.clone(),
        Arc::new(OsEntropy),
        &registry,
    );
    Bench {
        store,
        clock,
        registry,
        dir,
    }
}

fn app() -> AppId {
    "hotel".parse().unwrap()
}

fn body(chunks: Vec<Bytes>) -> Body {
    futures_util::stream::iter(chunks.into_iter().map(Ok)).boxed()
}

fn once(bytes: &[u8]) -> Body {
    body(vec![Bytes::copy_from_slice(bytes)])
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    cloudlet_base::SeededEntropy::new(len as u64).fill(&mut bytes);
    bytes
}

fn options(content_type: &str) -> PutOptions {
    PutOptions {
        content_type: content_type.into(),
        owner: Some("me".into()),
    }
}

/// Names of all files below the directory.
fn files(dir: &std::path::Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path))
        } else {
            out.push(path.display().to_string())
        }
    }
    out
}

async fn read(opened: Opened) -> Vec<u8> {
    match opened {
        Opened::Cached(bytes) => bytes.to_vec(),
        Opened::Streamed(body) => body.try_concat_to_vec().await,
    }
}

trait Concat {
    async fn try_concat_to_vec(self) -> Vec<u8>;
}

impl Concat for Body {
    async fn try_concat_to_vec(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(chunk) = self.next().await {
            out.extend_from_slice(&chunk.unwrap());
        }
        out
    }
}

fn metric(registry: &prometheus::Registry, name: &str) -> f64 {
    let families = registry.gather();
    let metric = &families
        .iter()
        .find(|family| family.name() == name)
        .unwrap()
        .get_metric()[0];
    if metric.get_gauge().get_value() != 0.0 {
        metric.get_gauge().get_value()
    } else {
        metric.get_counter().get_value()
    }
}

#[tokio::test]
async fn objects_come_back_byte_for_byte_whole_and_in_ranges() {
    for t in both() {
        for len in [0, 1, 99_999, 100_000, 100_001, 700_000, 6 << 20] {
            let bytes = noise(len);
            let path = format!("photos/{len}.jpg");
            let chunks = bytes.chunks(60_000).map(Bytes::copy_from_slice).collect();
            let put = t
                .store
                .put(&app(), &path, options("image/jpeg"), body(chunks))
                .await
                .unwrap();
            let info = t.store.head(&app(), &path).await.unwrap();
            assert_eq!(info.hash, ContentHash::from_bytes(Sha256::digest(&bytes).into()));
            assert_eq!(
                (info.size, &*info.content_type, info.owner.as_deref()),
                (len as u64, "image/jpeg", Some("me"))
            );
            assert_eq!(
                (put.hash, put.modified, info.modified),
                (info.hash, info.modified, t.clock.now())
            );
            assert_eq!(
                read(t.store.open_object(&app(), &info, None).await.unwrap()).await,
                bytes
            );
            let size = len as u64;
            for range in [0..size, 0..size.min(1), size / 3..size / 2, size..size] {
                let part = read(
                    t.store
                        .open_object(&app(), &info, Some(range.clone()))
                        .await
                        .unwrap(),
                )
                .await;
                assert_eq!(
                    part,
                    bytes[range.start as usize..range.end as usize],
                    "{range:?} of {len}"
                );
            }
            assert!(
                t.store
                    .open_object(&app(), &info, Some(0..size + 1))
                    .await
                    .is_err()
            );
        }
        assert!(metric(&t.registry, "cloudlet_blob_cache_hits_total") > 0.0);
        assert!(metric(&t.registry, "cloudlet_blob_cache_misses_total") > 0.0);
        assert!(metric(&t.registry, "cloudlet_blob_cache_bytes") > 0.0);
        assert!(metric(&t.registry, "cloudlet_blob_read_bytes_total") > 700_000.0);
        assert!(metric(&t.registry, "cloudlet_blob_written_bytes_total") > 6e6);
    }
}

#[tokio::test]
async fn a_replaced_object_is_swapped_in_one_step_and_its_blob_goes_later() {
    for t in both() {
        t.store.put(&app(), "a", options(""), once(b"old")).await.unwrap();
        let old = t.store.head(&app(), "a").await.unwrap();
        assert_eq!(&*old.content_type, "application/octet-stream");
        t.store.put(&app(), "a", options(""), once(b"new")).await.unwrap();
        // A reader that looked it up before still reads what it looked up.
        assert_eq!(
            read(t.store.open_object(&app(), &old, None).await.unwrap()).await,
            b"old"
        );
        let new = t.store.head(&app(), "a").await.unwrap();
        assert_eq!(
            read(t.store.open_object(&app(), &new, None).await.unwrap()).await,
            b"new"
        );
        assert_eq!(files(t.dir.path()).len(), 2);
        t.clock.advance(Duration::from_secs(61));
        assert!(t.store.delete(&app(), "a").await.unwrap());
        assert!(!t.store.delete(&app(), "a").await.unwrap());
        assert!(matches!(
            t.store.head(&app(), "a").await,
            Err(Error::NotFound { .. })
        ));
        assert_eq!(files(t.dir.path()).len(), 1);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_or_cut_off_stores_nothing() {
    for t in both() {
        t.store.put(&app(), "a", options(""), once(b"old")).await.unwrap();
        let chunk = Bytes::from(noise(1 << 20));
        let endless = futures_util::stream::repeat_with({
            let chunk = chunk.clone();
            move || Ok(chunk.clone())
        });
        let error = t
            .store
            .put(&app(), "a", options(""), endless.boxed())
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { limit } if limit == 12 << 20),
            "{error}"
        );
        for before_break in [1, 7] {
            let chunks = std::iter::repeat_n(chunk.clone(), before_break).map(Ok);
            let broken = chunks.chain([Err(Error::Body("gone".into()))]);
            let error = t
                .store
                .put(
                    &app(),
                    "a",
                    options(""),
                    futures_util::stream::iter(broken).boxed(),
                )
                .await;
            assert!(matches!(error, Err(Error::Body(_))));
        }
        assert_eq!(files(t.dir.path()).len(), 1);
        let info = t.store.head(&app(), "a").await.unwrap();
        assert_eq!(
            read(t.store.open_object(&app(), &info, None).await.unwrap()).await,
            b"old"
        );
    }
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_leaves_nothing() {
    for t in both() {
        let sent = Arc::new(AtomicUsize::new(0));
        let chunk = Bytes::from(noise(1 << 20));
        let counter = sent.clone();
        let stalling = futures_util::stream::poll_fn(move |_| {
            if counter.fetch_add(1, Ordering::SeqCst) < 7 {
                return std::task::Poll::Ready(Some(Ok(chunk.clone())));
            }
            std::task::Poll::Pending
        });
        let app = app();
        let put = t.store.put(&app, "a", options(""), stalling.boxed());
        let stalled = async {
            while sent.load(Ordering::SeqCst) < 8 {
                tokio::task::yield_now().await;
            }
        };
        drop(futures_util::future::select(Box::pin(put), Box::pin(stalled)).await);
        assert!(matches!(
            t.store.head(&app, "a").await,
            Err(Error::NotFound { .. })
        ));
        // The backend removes its staging file on a blocking thread; wait for it by running one more.
        while !files(t.dir.path()).is_empty() {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_failed_commit_keeps_the_old_object_and_no_new_blob() {
    let model = MemoryDocuments::new();
    let t = bench(model.clone());
    t.store.put(&app(), "a", options(""), once(b"old")).await.unwrap();
    model.set_writes_fail(true);
    assert!(matches!(
        t.store.put(&app(), "a", options(""), once(b"new")).await,
        Err(Error::Database(_))
    ));
    assert!(t.store.delete(&app(), "a").await.is_err());
    model.set_writes_fail(false);
    assert_eq!(files(t.dir.path()).len(), 1);
    let info = t.store.head(&app(), "a").await.unwrap();
    assert_eq!(
        read(t.store.open_object(&app(), &info, None).await.unwrap()).await,
        b"old"
    );
}

#[tokio::test]
async fn apps_do_not_see_each_other() {
    for t in both() {
        t.store.put(&app(), "a", options(""), once(b"x")).await.unwrap();
        let other: AppId = "other".parse().unwrap();
        assert!(t.store.head(&other, "a").await.is_err());
        assert!(!t.store.delete(&other, "a").await.unwrap());
        assert!(t.store.list(&other, "", None, 10).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn listings_are_in_path_order_and_go_on() {
    for t in both() {
        for path in ["b", "a/2", "a/1", "a-", "a0", "a/照"] {
            t.store.put(&app(), path, options(""), once(b"x")).await.unwrap();
        }
        let list = async |prefix: &str, after: Option<&str>, limit| {
            let found = t.store.list(&app(), prefix, after, limit).await.unwrap();
            found.iter().map(|info| info.path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(list("", None, 10).await, ["a-", "a/1", "a/2", "a/照", "a0", "b"]);
        assert_eq!(list("a/", None, 10).await, ["a/1", "a/2", "a/照"]);
        assert_eq!(list("a/", Some("a/1"), 1).await, ["a/2"]);
        assert_eq!(list("a/", Some("a"), 1).await, ["a/1"]);
        assert!(list("a/", Some("z"), 9).await.is_empty() && list("", None, 0).await.is_empty());
        assert!(t.store.list(&app(), "a\0", None, 1).await.is_err());
    }
}

#[tokio::test]
async fn bad_paths_are_refused() {
    for t in both() {
        for path in ["", "/a", "a/../../b", "a\0b"] {
            let error = t
                .store
                .put(&app(), path, options(""), once(b"x"))
                .await
                .unwrap_err();
            assert!(matches!(error, Error::InvalidPath { .. }), "{path:?}");
            assert!(matches!(
                t.store.head(&app(), path).await,
                Err(Error::NotFound { .. })
            ));
        }
        assert!(files(t.dir.path()).is_empty());
    }
}

#[tokio::test]
async fn content_is_addressed_by_its_hash_and_verified() {
    for t in both() {
        for len in [10, 200_000] {
            let bytes = Bytes::from(noise(len));
            let hash = ContentHash::from_bytes(Sha256::digest(&bytes).into());
            assert!(!t.store.has_content(hash).await.unwrap());
            assert!(matches!(
                t.store.get_content(hash).await,
                Err(Error::NotFound { .. })
            ));
            let wrong = t.store.put_content(hash, Bytes::from_static(b"other")).await;
            assert!(matches!(wrong, Err(Error::Body(_))));
            t.store.put_content(hash, bytes.clone()).await.unwrap();
            t.store.put_content(hash, bytes.clone()).await.unwrap();
            assert!(t.store.has_content(hash).await.unwrap());
            assert!(t.store.cached_content(hash).is_none());
            assert_eq!(t.store.get_content(hash).await.unwrap(), bytes);
            assert_eq!(t.store.cached_content(hash).is_some(), len == 10);
        }
    }
}

#[tokio::test]
async fn rotten_bytes_are_an_error_not_an_answer() {
    for t in both() {
        t.store
            .put(&app(), "a", options(""), once(b"good"))
            .await
            .unwrap();
        std::fs::write(&files(t.dir.path())[0], b"evil").unwrap();
        let info = t.store.head(&app(), "a").await.unwrap();
        let Err(error) = t.store.open_object(&app(), &info, None).await else {
            panic!("served rotten bytes")
        };
        assert!(error.to_string().contains("corrupt"), "{error}");
        assert!(t.store.cached_content(info.hash).is_none());
    }
}

#[tokio::test]
async fn garbage_goes_after_a_day_and_live_blobs_stay() {
    for t in both() {
        t.store
            .put(&app(), "a", options(""), once(b"live"))
            .await
            .unwrap();
        let dead = t.dir.path().join("objects/hotel/00");
        std::fs::create_dir_all(&dead).unwrap();
        std::fs::write(dead.join("00000000000000000000000000000000"), b"dead").unwrap();
        // The manual clock stands in 1970: nothing is old yet.
        assert_eq!(t.store.collect_garbage(&app()).await.unwrap(), 0);
        t.clock.advance(Duration::from_secs(200 * 365 * 24 * 3600));
        assert_eq!(t.store.collect_garbage(&app()).await.unwrap(), 1);
        let info = t.store.head(&app(), "a").await.unwrap();
        assert_eq!(
            read(t.store.open_object(&app(), &info, None).await.unwrap()).await,
            b"live"
        );
    }
}

#[tokio::test]
async fn unused_content_goes_when_it_is_old_enough() {
    for t in both() {
        let put = async |text: &'static [u8]| {
            let hash = ContentHash::from_bytes(Sha256::digest(text).into());
            t.store.put_content(hash, Bytes::from_static(text)).await.unwrap();
            hash
        };
        let (kept, unused) = (put(b"kept").await, put(b"unused").await);
        std::fs::write(t.dir.path().join("content/README"), b"not ours").unwrap();
        let keep = HashSet::from([kept]);
        let age = Duration::from_secs(3600);
        // The manual clock stands in 1970: nothing is old yet.
        assert_eq!(t.store.collect_content(&keep, age).await.unwrap(), (0, 0));
        t.clock.advance(Duration::from_secs(200 * 365 * 24 * 3600));
        assert_eq!(t.store.collect_content(&keep, age).await.unwrap(), (1, 6));
        assert_eq!(t.store.collect_content(&keep, age).await.unwrap(), (0, 0));
        assert!(t.store.has_content(kept).await.unwrap());
        assert!(!t.store.has_content(unused).await.unwrap());
        assert!(t.dir.path().join("content/README").exists());
        put(b"unused").await;
        assert!(t.store.has_content(unused).await.unwrap());
    }
}

#[test]
fn what_cut_off_puts_of_content_left_goes_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    std::fs::create_dir_all(&content).unwrap();
    let hash = "ab".repeat(32);
    let names = [hash.clone(), format!("{hash}#12"), "other#1".to_owned()];
    for name in &names {
        std::fs::write(content.join(name), b"").unwrap();
    }
    BlobStore::local_backend(dir.path()).unwrap();
    let there: Vec<bool> = names.iter().map(|name| content.join(name).exists()).collect();
    assert_eq!(there, [true, false, true]);
}
