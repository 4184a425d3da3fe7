//! The composition root: builds every room in order and hands out clock, entropy, metrics registry and shutdown.

use std::sync::Arc;

use cloudlet_auth::Auth;
use cloudlet_base::{Clock, Entropy};
use cloudlet_blob::BlobStore;
use cloudlet_data::Documents;
use cloudlet_host::Host;

use crate::apps::registry::Registry;
use crate::config::NodeConfig;
use crate::logs::Logs;
use crate::metrics::Metrics;

/// Everything a running node consists of. Held in an `Arc` by the listeners.
pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) prometheus: prometheus::Registry,
    pub(crate) metrics: Metrics,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) blobs: BlobStore,
    pub(crate) auth: Auth,
    pub(crate) host: Host,
    pub(crate) apps: Registry,
    pub(crate) logs: Arc<Logs>,
}
