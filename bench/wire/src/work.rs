//! What the callers do: single operations, as MongoDB's drivers benchmark them, and the workloads A to F of YCSB
//! (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010): documents of ten fields of 100 bytes,
//! keys that are drawn by Zipf's law with the exponent 0.99.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

use crate::servers::{DATABASE, Server};

/// Bytes of a document's ten fields.
pub(crate) const DOCUMENT_BYTES: u64 = FIELDS * FIELD_BYTES as u64;
const FIELDS: u64 = 10;
const FIELD_BYTES: usize = 100;
/// Documents that one call sends while loading, and in the bulk insert.
const BATCH: u64 = 1000;
/// Documents that the find of many reads.
const MANY: i64 = 1000;
/// The most documents of one scan of workload E.
const SCAN_MAX: i64 = 100;
/// YCSB's skew.
const EXPONENT: f64 = 0.99;
/// Connections of the driver: no more callers than these make sense.
const POOL: u32 = 256;

/// One kind of work: `step` does one call, or a few, and says how many operations (bulk work: documents) it did.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) step: for<'a> fn(&'a mut Worker<'_>) -> BoxFuture<'a, Result<u64>>,
}

pub(crate) const WORK: &[Work] = &[
    Work {
        name: "find one by _id",
        step: |worker| Box::pin(worker.read_uniform()),
    },
    Work {
        name: "find 1000",
        step: |worker| Box::pin(worker.find_many()),
    },
    Work {
        name: "insert one, small",
        step: |worker| Box::pin(worker.insert_small()),
    },
    Work {
        name: "insert 1000 of 1 KiB",
        step: |worker| Box::pin(worker.insert_bulk()),
    },
    Work {
        name: "YCSB A: half updates",
        step: |worker| Box::pin(worker.read_or_update(50)),
    },
    Work {
        name: "YCSB B: 5 % updates",
        step: |worker| Box::pin(worker.read_or_update(5)),
    },
    Work {
        name: "YCSB C: reads",
        step: |worker| Box::pin(worker.read_or_update(0)),
    },
    Work {
        name: "YCSB D: reads of the newest",
        step: |worker| Box::pin(worker.read_newest_or_insert()),
    },
    Work {
        name: "YCSB E: short scans",
        step: |worker| Box::pin(worker.scan_or_insert()),
    },
    Work {
        name: "YCSB F: half read, change, write",
        step: |worker| Box::pin(worker.read_or_modify()),
    },
];

/// The documents of one server, and how many there are by now.
pub(crate) struct Data {
    documents: Collection<Document>,
    small: Collection<Document>,
    count: AtomicU64,
    loaded: u64,
    scattered: Zipf<f64>,
}

impl Data {
    /// Fills a server with `count` documents.
    pub(crate) async fn load(server: &Server, count: u64) -> Result<Data> {
        let database = server.client(POOL).await?.database(DATABASE);
        let data = Data {
            documents: database.collection("usertable"),
            small: database.collection("small"),
            count: AtomicU64::new(count),
            loaded: count,
            scattered: Zipf::new(count as f64, EXPONENT)?,
        };
        let mut random = StdRng::seed_from_u64(count);
        for first in (0..count).step_by(BATCH as usize) {
            let batch = (first..count.min(first + BATCH)).map(|n| document(n, &mut random));
            data.documents.insert_many(batch).await?;
        }
        Ok(data)
    }
}

/// The key of the `n`th document: hashed, so that neighbours in time are none in order (YCSB's `insertorder=hashed`).
fn key(n: u64) -> String {
    // FNV-1a, 64 bits, over the number's bytes.
    let hash = n
        .to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("user{hash:020}")
}

fn document(n: u64, random: &mut StdRng) -> Document {
    let mut document = doc! { "_id": key(n) };
    for field in 0..FIELDS {
        document.insert(format!("field{field}"), text(random));
    }
    document
}

fn text(random: &mut StdRng) -> String {
    random
        .sample_iter(Alphanumeric)
        .take(FIELD_BYTES)
        .map(char::from)
        .collect()
}

/// One caller.
pub(crate) struct Worker<'a> {
    data: &'a Data,
    random: StdRng,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(data: &'a Data, at: u64) -> Self {
        Self {
            data,
            random: StdRng::seed_from_u64(at),
        }
    }

    fn percent(&mut self) -> u32 {
        self.random.random_range(0..100)
    }

    /// A key by Zipf's law: the popular ones lie anywhere, for keys are hashes.
    fn popular(&mut self) -> String {
        key(self.data.scattered.sample(&mut self.random) as u64 - 1)
    }

    async fn read(&mut self, key: String) -> Result<Document> {
        let found = self.data.documents.find_one(doc! { "_id": &key }).await?;
        let Some(found) = found else {
            anyhow::bail!("{key} is not there");
        };
        ensure!(found.get_str("_id")? == key, "another document came back");
        Ok(found)
    }

    async fn read_uniform(&mut self) -> Result<u64> {
        let n = self.random.random_range(0..self.data.loaded);
        self.read(key(n)).await?;
        Ok(1)
    }

    async fn find_many(&mut self) -> Result<u64> {
        let mut found = self.data.documents.find(doc! {}).limit(MANY).await?;
        let mut count = 0;
        while found.advance().await? {
            // As a program that looks at each document.
            ensure!(!found.current().is_empty(), "a document without fields");
            count += 1;
        }
        ensure!(count == MANY as u64, "{count} of {MANY} documents came back");
        Ok(count)
    }

    async fn insert_small(&mut self) -> Result<u64> {
        let document =
            doc! { "name": "a small one", "n": self.random.random::<i32>(), "text": text(&mut self.random) };
        self.data.small.insert_one(document).await?;
        Ok(1)
    }

    async fn insert_bulk(&mut self) -> Result<u64> {
        let batch: Vec<Document> = (0..BATCH)
            .map(|_| {
                let mut new = document(0, &mut self.random);
                new.remove("_id");
                new
            })
            .collect();
        self.data.small.insert_many(batch).await?;
        Ok(BATCH)
    }

    async fn insert(&mut self) -> Result<u64> {
        let n = self.data.count.fetch_add(1, Ordering::Relaxed);
        self.data
            .documents
            .insert_one(document(n, &mut self.random))
            .await?;
        Ok(1)
    }

    async fn update(&mut self, key: String) -> Result<u64> {
        let field = format!("field{}", self.random.random_range(0..FIELDS));
        let change = doc! { "$set": { field: text(&mut self.random) } };
        let done = self
            .data
            .documents
            .update_one(doc! { "_id": &key }, change)
            .await?;
        ensure!(done.matched_count == 1, "{key} is not there");
        Ok(1)
    }

    async fn read_or_update(&mut self, updates_percent: u32) -> Result<u64> {
        let key = self.popular();
        if self.percent() < updates_percent {
            return self.update(key).await;
        }
        self.read(key).await?;
        Ok(1)
    }

    async fn read_newest_or_insert(&mut self) -> Result<u64> {
        if self.percent() < 5 {
            return self.insert().await;
        }
        let back = self.data.scattered.sample(&mut self.random) as u64;
        let newest = self.data.count.load(Ordering::Relaxed);
        // One of another caller may still be under way.
        let wanted = key(newest - back.min(newest));
        self.data.documents.find_one(doc! { "_id": wanted }).await?;
        Ok(1)
    }

    async fn scan_or_insert(&mut self) -> Result<u64> {
        if self.percent() < 5 {
            return self.insert().await;
        }
        let from = doc! { "_id": { "$gte": self.popular() } };
        let length = self.random.random_range(1..=SCAN_MAX);
        let found = self.data.documents.find(from).sort(doc! { "_id": 1 });
        let found: Vec<Document> = found.limit(length).await?.try_collect().await?;
        let sorted = found.is_sorted_by_key(|d| d.get_str("_id").unwrap_or_default().to_owned());
        ensure!(sorted && !found.is_empty(), "the scan came back out of order");
        Ok(1)
    }

    async fn read_or_modify(&mut self) -> Result<u64> {
        let key = self.popular();
        self.read(key.clone()).await?;
        if self.percent() < 50 {
            self.update(key).await?;
        }
        Ok(1)
    }
}
