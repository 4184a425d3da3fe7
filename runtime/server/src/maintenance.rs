//! What the node does by the clock: for every app expired sessions and the content of interrupted uploads go, then old
//! deployments with what only they used, and in the database the documents that TTL indexes say are over their time. Started by node.rs beside the front, ended
//! before the drain.

use std::sync::Arc;
use std::time::Duration;

use cloudlet_base::AppId;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::apps::collect::{self, Collected};
use crate::apps::deploy::DeployError;
use crate::node::Node;

/// Documents that one commit removes for being over their time.
const EXPIRED_PER_COMMIT: usize = 1000;
/// Time between two such commits when there are more, so that other writes have their turn.
const EXPIRE_PAUSE: Duration = Duration::from_millis(10);

/// What maintenance removed and what it failed at.
pub(crate) struct Metrics {
    sessions: IntCounter,
    objects: IntCounter,
    deployments: IntCounter,
    contents: IntCounter,
    artifacts: IntCounter,
    failures: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is taken, which is a bug.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let removed = IntCounterVec::new(
            Opts::new(
                "cloudlet_maintenance_removed_total",
                "Expired sessions, left-over contents of objects, old deployments and what only they used removed.",
            ),
            &["what"],
        )?;
        registry.register(Box::new(removed.clone()))?;
        let failures = IntCounter::new(
            "cloudlet_maintenance_failures_total",
            "Rounds that failed; the next one tries again.",
        )?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self {
            sessions: removed.with_label_values(&["sessions"]),
            objects: removed.with_label_values(&["objects"]),
            deployments: removed.with_label_values(&["deployments"]),
            contents: removed.with_label_values(&["contents"]),
            artifacts: removed.with_label_values(&["artifacts"]),
            failures,
        })
    }
}

/// One round after another, the first an interval after the start. Never ends by itself.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(node.config.maintenance_interval).await;
        let apps: Vec<AppId> = node.apps.snapshot().apps.keys().cloned().collect();
        for app in apps {
            if let Err(error) = tidy(&node, &app).await {
                node.maintenance.failures.inc();
                tracing::warn!(%app, "maintenance failed and will be tried again: {error:#}");
            }
        }
        if let Err(error) = collect(&node).await {
            node.maintenance.failures.inc();
            tracing::warn!(%error, "old deployments could not be collected and will be tried again");
        }
    }
}

/// Removes old deployments and what nothing else uses. `None` when deploys were under way all the time.
///
/// # Errors
/// When records or content can't be read; what was removed stays removed, and another round goes on.
pub(crate) async fn collect(node: &Node) -> Result<Option<Collected>, DeployError> {
    let collected = collect::collect(node).await?;
    if let Some(collected) = &collected {
        node.maintenance.deployments.inc_by(collected.deployments);
        node.maintenance.contents.inc_by(collected.contents);
        node.maintenance.artifacts.inc_by(collected.artifacts);
        if *collected != Collected::default() {
            tracing::info!(?collected, "collected old deployments and unused content");
        }
    }
    Ok(collected)
}

/// Removes documents that are over their time, a round an interval. Never ends by itself.
pub(crate) async fn expire(node: Arc<Node>) {
    loop {
        tokio::time::sleep(node.config.database.expire_interval).await;
        loop {
            match node.docs.expire(node.clock.now(), EXPIRED_PER_COMMIT).await {
                Ok(expired) if expired.more => tokio::time::sleep(EXPIRE_PAUSE).await,
                Ok(_) => break,
                Err(error) => {
                    node.maintenance.failures.inc();
                    tracing::warn!("expired documents could not be removed and will be tried again: {error}");
                    break;
                }
            }
        }
    }
}

async fn tidy(node: &Node, app: &AppId) -> anyhow::Result<()> {
    let sessions = node.auth.sweep(app).await?;
    node.maintenance.sessions.inc_by(sessions);
    let objects = node.blobs.collect_garbage(app).await?;
    node.maintenance.objects.inc_by(objects);
    Ok(())
}
