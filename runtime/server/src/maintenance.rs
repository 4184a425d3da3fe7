//! What the node does by the clock: for every app expired sessions and the content of interrupted uploads go, and in
//! the database the documents that TTL indexes say are over their time. Started by node.rs beside the front, ended
//! before the drain.

use std::sync::Arc;
use std::time::Duration;

use cloudlet_base::AppId;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::node::Node;

/// Documents that one commit removes for being over their time.
const EXPIRED_PER_COMMIT: usize = 1000;
/// Time between two such commits when there are more, so that other writes have their turn.
const EXPIRE_PAUSE: Duration = Duration::from_millis(10);

/// What maintenance removed and what it failed at.
pub(crate) struct Metrics {
    sessions: IntCounter,
    objects: IntCounter,
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
                "Expired sessions and left-over contents of objects removed.",
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
    }
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
