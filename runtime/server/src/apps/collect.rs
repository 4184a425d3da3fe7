//! The end of deployments: old records go by the policy of `deployments.kept` and `kept_for`, and then what no record
//! names: components, their compiled code, site files. Called by maintenance.rs and the admin API.
//!
//! Records go in one transaction. Content goes one by one after them, so a crash in between leaves content that
//! nothing names, for the next round. Deploys and rollbacks wait while content is collected, and it waits for them.

use std::collections::HashSet;
use std::time::Duration;

use cloudlet_base::{AppId, ContentHash};
use serde::Serialize;

use super::deploy::DeployError;
use super::records::{self, Content, Prune};
use crate::config::DEPLOYMENTS_KEPT_MAX;
use crate::node::Node;

/// How often a collection looks whether deploys are done, and the pause between. A queue would hold up new ones.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What a round removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Collected {
    /// Records of deployments.
    pub(crate) deployments: u64,
    /// Components and site files.
    pub(crate) contents: u64,
    /// Compiled components.
    pub(crate) artifacts: u64,
    /// Bytes of both.
    pub(crate) bytes: u64,
}

/// Which deployments of an app are old, by the node's settings.
pub(super) fn old(node: &Node, latest: i64, keep: Vec<i64>) -> Prune {
    let settings = &node.config.deployments;
    let below = |kept: usize| latest.saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX));
    let before = settings.kept_for.map(|age| {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        bson::DateTime::from_millis(node.clock.now().millis().saturating_sub(age))
    });
    Prune {
        below: below(settings.kept),
        before,
        below_any_age: below(DEPLOYMENTS_KEPT_MAX),
        keep,
    }
}

/// Lets contents stay for a deploy that is to come.
pub(super) fn lease(node: &Node, hashes: impl IntoIterator<Item = ContentHash>) {
    let now = node.clock.monotonic();
    let until = now.saturating_add(node.config.deployments.unused_for);
    node.apps.lease(hashes, now, until);
}

/// One round over everything. `None` when deploys were under way all the time.
pub(crate) async fn collect(node: &Node) -> Result<Option<Collected>, DeployError> {
    let mut collected = Collected::default();
    for record in records::all_apps(&*node.documents).await? {
        let Ok(app) = record.app.parse::<AppId>() else {
            continue;
        };
        collected.deployments += prune(node, &app).await?;
    }
    for _ in 0..TRIES {
        if let Ok(_alone) = node.apps.content.try_write() {
            contents(node, &mut collected).await?;
            return Ok(Some(collected));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

async fn prune(node: &Node, app: &AppId) -> Result<u64, DeployError> {
    let _changing = node.apps.changing.lock().await;
    let Some(record) = records::app(&*node.documents, app).await? else {
        return Ok(0);
    };
    let old = old(node, record.latest, record.serving());
    Ok(records::prune(&*node.documents, app, &old).await?)
}

/// Under the lock: no deploy is between finding content and recording itself.
async fn contents(node: &Node, collected: &mut Collected) -> Result<(), DeployError> {
    let Some(mut keep) = node.apps.leased(node.clock.monotonic()) else {
        return Ok(());
    };
    let mut components: HashSet<ContentHash> = keep.clone();
    keep.extend(node.apps.site_files_in_use());
    records::each_content(&*node.documents, |hash, kind| {
        keep.insert(hash);
        if kind == Content::Component {
            components.insert(hash);
        }
    })
    .await?;
    let age = node.config.deployments.unused_for;
    let (contents, bytes) = node.blobs.collect_content(&keep, age).await?;
    collected.contents += contents;
    collected.bytes += bytes;
    let host = node.host.clone();
    let artifacts = tokio::task::spawn_blocking(move || host.collect(&components, age)).await;
    let artifacts = artifacts
        .map_err(|error| DeployError::Internal(format!("the collection ended early: {error}")))?
        .map_err(|error| DeployError::Internal(error.to_string()))?;
    collected.artifacts += artifacts.artifacts;
    collected.bytes += artifacts.bytes;
    Ok(())
}
