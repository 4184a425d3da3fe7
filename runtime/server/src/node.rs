//! The composition root: builds every room in order, hands out clock, entropy and metrics registry, and runs the
//! listeners until the node is told to stop. Called by `cli/serve.rs` and `cli/dev.rs`.

use std::sync::Arc;

use anyhow::Context as _;
use bson::{RawDocumentBuf, rawdoc};
use cloudlet_auth::{Auth, AuthConfig};
use cloudlet_base::{Clock, Deadline, Entropy, OsEntropy, SystemClock};
use cloudlet_blob::{BlobConfig, BlobStore};
use cloudlet_data::{Documents, Embedded, Find, Insert, Namespace};
use cloudlet_docdb::{DirScratch, Docs};
use cloudlet_host::{Host, HostConfig, LogSink};
use cloudlet_wire::{Parts, Settings, Topology, Wire};

use crate::apps::registry::Registry;
use crate::config::{LogInvocations, NodeConfig};
use crate::front;
use crate::front::signer::Signer;
use crate::logs::{LogBounds, Logs};
use crate::maintenance;
use crate::metrics::Metrics;
use crate::telemetry;
use crate::triggers;

/// Everything a running node consists of. Held in an `Arc` by the listeners.
pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) prometheus: prometheus::Registry,
    pub(crate) metrics: Metrics,
    pub(crate) maintenance: maintenance::Metrics,
    pub(crate) triggers: triggers::Metrics,
    pub(crate) bells: triggers::Bells,
    pub(crate) documents: Arc<dyn Documents>,
    /// The engine behind `documents`, for what only its own node asks of it.
    pub(crate) docs: Docs,
    /// The MongoDB wire protocol over the documents; its users are there whether or not it is listened to.
    pub(crate) wire: Wire,
    pub(crate) blobs: BlobStore,
    pub(crate) auth: Auth,
    pub(crate) host: Host,
    pub(crate) apps: Registry,
    pub(crate) logs: Arc<Logs>,
    /// Signs upload and download URLs.
    pub(crate) signer: Signer,
}

impl Node {
    /// Opens the data directory and builds every room; nothing listens yet.
    ///
    /// # Errors
    /// When the directory is in use by another node, can't be written, or holds something that can't be read.
    pub(crate) async fn open(config: NodeConfig) -> anyhow::Result<Arc<Node>> {
        let data_dir = config.data_dir.clone();
        std::fs::create_dir_all(&data_dir)
            .with_context(|| format!("make the data directory {data_dir:?}"))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        let prometheus = prometheus::Registry::new();
        let metrics = Metrics::new(&prometheus)?;
        let maintenance = maintenance::Metrics::new(&prometheus)?;
        let triggers = triggers::Metrics::new(&prometheus)?;

        let docs = Docs::open(
            docdb_config(&config)?,
            clock.clone(),
            entropy.clone(),
            &prometheus,
        )
        .with_context(|| format!("open the database in the data directory {data_dir:?}"))?;
        let documents: Arc<dyn Documents> = Arc::new(Embedded::new(docs.clone()));
        let backend = BlobStore::local_backend(&config.storage.dir)
            .with_context(|| format!("open the object directory {:?}", config.storage.dir))?;
        let blobs = BlobStore::open(
            backend,
            documents.clone(),
            blob_config(&config),
            clock.clone(),
            entropy.clone(),
            &prometheus,
        );
        let auth_config = AuthConfig {
            access_ttl: config.auth.access_ttl,
            refresh_ttl: config.auth.refresh_ttl,
            ..AuthConfig::default()
        };
        let auth = Auth::open(documents.clone(), auth_config, clock.clone(), entropy.clone())
            .await
            .context("open the identity service")?;
        let wire = Wire::open(
            Parts {
                documents: documents.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                registry: prometheus.clone(),
            },
            wire_settings(&config),
        )
        .await
        .context("open the MongoDB protocol")?;
        let logs = Logs::open(
            data_dir.join("logs"),
            log_bounds(&config),
            clock.clone(),
            &prometheus,
        )
        .context("open the logs of functions")?;
        let sink: Arc<dyn LogSink> = logs.clone();
        let host = Host::new(
            host_config(&config),
            clock.clone(),
            entropy.clone(),
            sink,
            &prometheus,
        )
        .context("start the function host")?;
        let signer = Signer::new(
            &node_key(&*documents, &*entropy, "urls")
                .await
                .context("load the URL key")?,
        );

        Ok(Arc::new(Node {
            config,
            clock,
            entropy,
            prometheus,
            metrics,
            maintenance,
            triggers,
            bells: triggers::Bells::default(),
            documents,
            docs,
            wire,
            blobs,
            auth,
            host,
            apps: Registry::default(),
            logs,
            signer,
        }))
    }

    /// The deadline of a request that begins now.
    pub(crate) fn request_deadline(&self) -> Deadline {
        Deadline::after(&*self.clock, self.config.limits.request_timeout)
    }
}

/// Runs a node until it is told to stop by SIGTERM or SIGINT; requests in flight are finished within the grace.
///
/// Prints on standard output `admin key: ck_...` (at the first start only), `listening public URL`, with a MongoDB
/// listener `listening mongo URL`, and `listening admin URL`, one line each.
///
/// # Errors
/// When the node can't be opened or a listener can't be bound.
pub(crate) fn run(config: NodeConfig) -> anyhow::Result<()> {
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("cloudlet-blocking")
        .build()
        .context("start the main runtime")?;
    runtime.block_on(async {
        let signals = front::StopSignals::install()?;
        let node = Node::open(config).await?;
        tracing::info!(config = ?node.config, "configuration");
        crate::apps::deploy::load_active(&node)
            .await
            .context("load the active deployments")?;
        if node.auth.admin_keys().is_empty() {
            let key = node
                .auth
                .create_admin_key("first")
                .await
                .context("make the first admin key")?;
            say(&format!("admin key: {key}"));
        }
        let front = front::Front::start(Arc::clone(&node)).await?;
        let maintenance = [
            tokio::spawn(triggers::run::run(Arc::clone(&node))),
            tokio::spawn(triggers::follow::run(Arc::clone(&node))),
            tokio::spawn(maintenance::run(Arc::clone(&node))),
            tokio::spawn(maintenance::expire(Arc::clone(&node))),
        ];
        say(&format!("listening public {}", front.public_url()));
        if let Some(url) = front.mongo_url() {
            say(&format!("listening mongo {url}"));
        }
        say(&format!("listening admin {}", front.admin_url()));
        signals.wait().await;
        tracing::info!("stopping");
        maintenance.iter().for_each(tokio::task::JoinHandle::abort);
        node.logs.close();
        front.drain().await;
        node.logs.flush();
        tracing::info!("stopped");
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "the lines that people and tests wait for")]
fn say(line: &str) {
    use std::io::Write as _;
    println!("{line}");
    // A closed standard output must not end the node.
    let _ = std::io::stdout().flush();
}

fn docdb_config(config: &NodeConfig) -> anyhow::Result<cloudlet_docdb::Config> {
    let spill_dir = &config.database.spill_dir;
    let scratch = DirScratch::open(spill_dir)
        .with_context(|| format!("open the directory {spill_dir:?} that large sorts spill to"))?;
    Ok(cloudlet_docdb::Config {
        path: Some(config.database_file()),
        cache_bytes: config.database.cache_bytes,
        readers: config.database.readers,
        limits: cloudlet_docdb::Limits {
            feed_bytes_max: config.database.change_log_bytes,
            spill_bytes_max: config.database.spill_bytes_max,
            spill_total_bytes_max: config.database.spill_total_bytes_max,
            ..cloudlet_docdb::Limits::default()
        },
        scratch: Some(Arc::new(scratch)),
        allow_disk_use: config.database.allow_disk_use,
    })
}

fn wire_settings(config: &NodeConfig) -> Settings {
    let mongo = &config.mongo;
    let listens = || mongo.listen.map(|address| address.to_string());
    Settings {
        topology: match (&mongo.replica_set, mongo.advertise.clone().or_else(listens)) {
            (Some(name), Some(address)) => Topology::ReplicaSet {
                name: name.clone(),
                address,
            },
            _ => Topology::Router,
        },
        ..Settings::default()
    }
}

fn blob_config(config: &NodeConfig) -> BlobConfig {
    BlobConfig {
        cache_bytes: config.storage.cache_bytes,
        cached_object_bytes_max: config.storage.cached_object_bytes_max,
        object_bytes_max: config.storage.object_bytes_max,
    }
}

fn log_bounds(config: &NodeConfig) -> LogBounds {
    LogBounds {
        store_bytes: config.log.store_bytes,
        app_bytes: config.log.app_bytes,
        store_age: config.log.store_age,
        lines_per_second: config.log.lines_per_second,
    }
}

fn host_config(config: &NodeConfig) -> HostConfig {
    HostConfig {
        instances_max: config.functions.instances_max,
        app_instances_max: config.functions.app_instances_max,
        queue_max: config.functions.queue_max,
        memory_bytes_max: config.functions.memory_bytes_max,
        component_bytes_max: config.functions.component_bytes_max,
        log_every_invocation: config.log.invocations == LogInvocations::All,
        ..HostConfig::new(config.data_dir.join("artifacts"))
    }
}

/// The node's random key of that name from `/node` `keys`, made at the first start.
async fn node_key(documents: &dyn Documents, entropy: &dyn Entropy, name: &str) -> anyhow::Result<[u8; 32]> {
    let keys = Namespace::new("/node", "keys");
    if let Some(key) = read_key(documents, &keys, name).await? {
        return Ok(key);
    }
    let mut key = [0; 32];
    entropy.fill(&mut key);
    let document = rawdoc! {
        "_id": name,
        "key": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: key.to_vec() },
    };
    let insert = Insert {
        documents: vec![document],
        ordered: true,
        ..Insert::default()
    };
    let inserted = documents.insert(&keys, insert, Deadline::NEVER).await?;
    match inserted.errors.into_iter().next() {
        None => Ok(key),
        Some(failed) => Err(failed.error.into()),
    }
}

async fn read_key(
    documents: &dyn Documents,
    keys: &Namespace,
    name: &str,
) -> anyhow::Result<Option<[u8; 32]>> {
    let find = Find {
        filter: rawdoc! { "_id": name },
        ..Find::default()
    };
    let page = documents.find(keys, find, Deadline::NEVER).await?;
    page.documents.first().map(key_of).transpose()
}

fn key_of(document: &RawDocumentBuf) -> anyhow::Result<[u8; 32]> {
    let binary = document
        .get_binary("key")
        .context("the node's key is not binary")?;
    binary
        .bytes
        .try_into()
        .context("the node's key does not have 32 bytes")
}

#[cfg(test)]
mod tests {
    use bson::RawBson;

    use super::*;

    #[test]
    fn a_key_document_is_checked() {
        let binary = |bytes: Vec<u8>| {
            RawBson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic,
                bytes,
            })
        };
        assert_eq!(
            key_of(&rawdoc! { "_id": "a", "key": binary(vec![7; 32]) }).unwrap(),
            [7; 32]
        );
        assert!(key_of(&rawdoc! { "_id": "a", "key": binary(vec![7; 31]) }).is_err());
        assert!(key_of(&rawdoc! { "_id": "a", "key": "text" }).is_err());
    }
}
