//! What becomes of recorded deployments: which of them serve an app's requests (rollback, promotion, splits), which
//! are kept for good, and the secrets that those that serve are given. Each change is one transaction on the records,
//! then the registry swaps its snapshot. Called by the admin API; deploys are in deploy.rs.

use std::sync::Arc;

use cloudlet_base::{AppId, DeploymentId, Principal};

use super::deploy::{self, DeployError, Outcome, Raced};
use super::load;
use super::records::{self, AppRecord, Deployment, Pointers, Share, SplitRecord};
use super::registry::{ActiveApp, RunningApp, Split};
use super::secrets::{self, SecretInfo};
use super::split;
use crate::node::Node;
use crate::triggers::changes;

/// Loads what serves an app's requests, at the node's start. A candidate that can't be loaded leaves its part to the
/// active deployment.
pub(super) async fn start(node: &Node, record: &AppRecord) -> Result<(), DeployError> {
    let app: AppId = record
        .app
        .parse()
        .map_err(|error| DeployError::Internal(format!("{error}")))?;
    let _changing = node.apps.changing.lock().await;
    let active = fresh(node, &app, record.active).await?;
    let mut candidates = Vec::new();
    for share in record.split.iter().flat_map(|split| &split.shares) {
        match fresh(node, &app, share.deployment).await {
            Ok(candidate) => candidates.push((share.percent, candidate)),
            Err(error) => tracing::error!(
                app = record.app,
                deployment = share.deployment,
                error = %error,
                problems = ?error.problems(),
                "a deployment that serves part of the requests can't be loaded; the active one serves them"
            ),
        }
    }
    let split = record.split.as_ref().filter(|_| !candidates.is_empty());
    let split = split.map(|split| Split {
        seed: split.seed,
        candidates,
    });
    node.apps.run(RunningApp::new(active, split));
    Ok(())
}

async fn fresh(node: &Node, app: &AppId, number: i64) -> Result<Arc<ActiveApp>, DeployError> {
    let parts = load::recorded(node, app, number).await?;
    Ok(Arc::new(load::load(node, &parts).await?))
}

/// A deployment that runs already, or loaded anew.
async fn loaded(node: &Node, app: &AppId, number: i64) -> Result<Arc<ActiveApp>, DeployError> {
    let running = node.apps.snapshot().apps.get(app).cloned();
    match running.as_ref().and_then(|running| running.deployment(number)) {
        Some(running) => Ok(running.clone()),
        None => {
            let parts = load::recorded(node, app, number).await?;
            deploy::check_domains(node, &parts)?;
            Ok(Arc::new(load::load(node, &parts).await?))
        }
    }
}

/// Everything that pointers point to. Secrets only change under the lock that the caller holds, so what runs has
/// them as they are.
async fn running(node: &Node, app: &AppId, pointers: &Pointers) -> Result<RunningApp, DeployError> {
    let active = loaded(node, app, pointers.active).await?;
    let Some(record) = &pointers.split else {
        return Ok(RunningApp::new(active, None));
    };
    let mut candidates = Vec::new();
    for share in &record.shares {
        candidates.push((share.percent, loaded(node, app, share.deployment).await?));
    }
    let split = Some(Split {
        seed: record.seed,
        candidates,
    });
    Ok(RunningApp::new(active, split))
}

/// What is to run when `ready` was deployed; `None` when nothing changes.
pub(super) fn running_with(
    node: &Node,
    app: &AppId,
    pointers: Option<&Pointers>,
    ready: ActiveApp,
) -> Result<Option<RunningApp>, DeployError> {
    let Some(pointers) = pointers else { return Ok(None) };
    let ready = Arc::new(ready);
    let Some(record) = &pointers.split else {
        return Ok(Some(RunningApp::new(ready, None)));
    };
    let before = node.apps.snapshot().apps.get(app).cloned();
    let active = before
        .as_ref()
        .and_then(|before| before.deployment(pointers.active));
    let Some(active) = active.cloned() else {
        let problem = format!(
            "deployment {}, the active one, does not run on this node; deploy this one as the active one",
            pointers.active
        );
        return Err(DeployError::Refused(vec![problem]));
    };
    let candidates = record
        .shares
        .iter()
        .map(|share| (share.percent, ready.clone()))
        .collect();
    let split = Some(Split {
        seed: record.seed,
        candidates,
    });
    Ok(Some(RunningApp::new(active, split)))
}

/// Lets an app's requests and triggers have what was recorded.
pub(super) async fn activate(node: &Node, running: RunningApp) {
    // Before anybody can change what the new triggers are about and rely on them.
    changes::begin(node, &running.active).await;
    node.apps.run(running);
    node.bells.deployed.notify_one();
}

/// Pointers that follow on what is recorded.
pub(super) fn pointers(
    node: &Node,
    before: Option<&AppRecord>,
    active: i64,
    split: Option<SplitRecord>,
    by: &Principal,
) -> Pointers {
    Pointers {
        active,
        split,
        revision: before.map_or(0, |before| before.revision) + 1,
        changed: bson::DateTime::from_millis(node.clock.now().millis()),
        by: deploy::author(by),
    }
}

/// What is to serve an app's requests.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// That deployment; without a number the active one without its candidates or, when it has none, the newest one
    /// before it that was active.
    Rollback(Option<i64>),
    /// That deployment; without a number the only candidate.
    Promote(Option<i64>),
    /// These parts.
    Split {
        shares: Vec<Share>,
        /// The revision that the author saw; `None` is any.
        revision: Option<i64>,
    },
}

/// Makes recorded deployments serve an app's requests, from the next request on.
pub(crate) async fn change(
    node: &Arc<Node>,
    app: &AppId,
    change: Change,
    by: &Principal,
) -> Result<Outcome, DeployError> {
    let _content = node.apps.content.read().await;
    // Outside the lock, for it may have to compile. What is loaded here makes the second time fast.
    let record = known_app(node, app).await?;
    let target = target(node, app, &record, &change).await?;
    let trial = running(node, app, &pointers(node, None, target.0, target.1.clone(), by)).await?;
    let _changing = node.apps.changing.lock().await;
    let now = known_app(node, app).await?;
    if now.revision != record.revision {
        return Err(Raced::of(app, Some(&now)));
    }
    let pointers = pointers(node, Some(&now), target.0, target.1, by);
    let ready = running(node, app, &pointers).await?;
    drop(trial);
    let unchanged = pointers.active == now.active && pointers.split == now.split;
    if !unchanged {
        records::point(&*node.documents, app, &pointers).await?;
    }
    activate(node, ready).await;
    let traffic = records::traffic(pointers.active, pointers.split.as_ref());
    tracing::info!(
        app = app.as_str(),
        deployment = pointers.active,
        previous = now.active,
        split = pointers.split.is_some(),
        "what serves the app's requests was changed"
    );
    Ok(Outcome {
        app: app.to_string(),
        deployment: pointers.active,
        previous: Some(now.active),
        unchanged,
        dry_run: false,
        traffic,
    })
}

/// The active deployment and the split that a change means.
async fn target(
    node: &Node,
    app: &AppId,
    record: &AppRecord,
    change: &Change,
) -> Result<(i64, Option<SplitRecord>), DeployError> {
    let refused = |problem: String| DeployError::Refused(vec![problem]);
    match change {
        Change::Rollback(Some(number)) | Change::Promote(Some(number)) => Ok((*number, None)),
        Change::Rollback(None) if record.split.is_some() => Ok((record.active, None)),
        Change::Rollback(None) => {
            let kept = records::summaries(&*node.documents, app).await?;
            let before = kept
                .iter()
                .find(|kept| kept.number < record.active && !kept.staged)
                .map(|kept| kept.number);
            let before = before.ok_or_else(|| {
                DeployError::NotFound(format!(
                    "app {:?} has no deployment before {}, the active one",
                    app.as_str(),
                    record.active
                ))
            })?;
            Ok((before, None))
        }
        Change::Promote(None) => match record.split.as_ref().map(|split| split.shares.as_slice()) {
            Some([only]) => Ok((only.deployment, None)),
            Some(_) => Err(refused(
                "several deployments serve part of the requests; say which one to promote".to_owned(),
            )),
            None => Err(refused(format!(
                "deployment {} serves all requests; say which one to promote",
                record.active
            ))),
        },
        Change::Split { revision, .. } if revision.is_some_and(|seen| seen != record.revision) => {
            Err(Raced::of(app, Some(record)))
        }
        Change::Split { shares, .. } => {
            let split = split::split(shares, record.active, record.latest, record.split.as_ref());
            Ok((record.active, split.map_err(refused)?))
        }
    }
}

async fn known_app(node: &Node, app: &AppId) -> Result<AppRecord, DeployError> {
    let record = records::app(&*node.documents, app).await?;
    record.ok_or_else(|| {
        DeployError::NotFound(format!(
            "there is no app {:?} on this node; deploy it first",
            app.as_str()
        ))
    })
}

/// Every app with its pointers.
pub(crate) async fn apps(node: &Node) -> Result<Vec<AppRecord>, DeployError> {
    Ok(records::all_apps(&*node.documents).await?)
}

/// An app's pointers and its kept deployments, newest first.
pub(crate) async fn deployments(
    node: &Node,
    app: &AppId,
) -> Result<(AppRecord, Vec<records::Summary>), DeployError> {
    let record = known_app(node, app).await?;
    Ok((record, records::summaries(&*node.documents, app).await?))
}

/// One deployment, whole, with the app's pointers.
pub(crate) async fn deployment(
    node: &Node,
    app: &AppId,
    number: i64,
) -> Result<(AppRecord, Deployment), DeployError> {
    let record = known_app(node, app).await?;
    let id = DeploymentId(number.unsigned_abs());
    let found = records::deployment(&*node.documents, app, id).await?;
    let found = found
        .ok_or_else(|| DeployError::NotFound(format!("app {:?} has no deployment {id}", app.as_str())))?;
    Ok((record, found))
}

/// An app's pointers and what runs of it.
pub(crate) async fn traffic(
    node: &Node,
    app: &AppId,
) -> Result<(AppRecord, Option<Arc<RunningApp>>), DeployError> {
    let record = known_app(node, app).await?;
    let running = node.apps.snapshot().apps.get(app).cloned();
    Ok((record, running))
}

/// Keeps a deployment however old it is, or no longer.
pub(crate) async fn pin(node: &Node, app: &AppId, number: i64, pinned: bool) -> Result<(), DeployError> {
    let _changing = node.apps.changing.lock().await;
    let (_, kept) = deployments(node, app).await?;
    if !kept.iter().any(|kept| kept.number == number) {
        return Err(DeployError::NotFound(format!(
            "app {:?} has no deployment {number}",
            app.as_str()
        )));
    }
    let others = kept.iter().filter(|kept| kept.pinned && kept.number != number);
    if pinned && others.count() >= records::PINNED_MAX {
        let most = records::PINNED_MAX;
        return Err(DeployError::Refused(vec![format!(
            "{most} deployments are pinned, which is the limit; unpin one first"
        )]));
    }
    Ok(records::pin(&*node.documents, app, number, pinned).await?)
}

/// Stores a secret and gives it to the app's functions. Returns whether a running app was reloaded.
pub(crate) async fn put_secret(
    node: &Arc<Node>,
    app: &AppId,
    name: &str,
    value: &str,
) -> Result<bool, DeployError> {
    let key = load::secret_key(node).await?;
    let now = node.clock.now();
    secrets::put(&*node.documents, key, &*node.entropy, (app, name), value, now).await?;
    reload(node, app).await
}

/// Changes the key that seals all secrets of the node. Returns how many there are.
pub(crate) async fn rotate_secret_key(node: &Arc<Node>) -> Result<usize, DeployError> {
    let keys = load::secret_key(node).await?;
    let count = secrets::rotate(&*node.documents, keys, &*node.entropy).await?;
    tracing::info!(count, "the key of the secrets was changed");
    Ok(count)
}

/// Removes a secret. Refused while the active deployment requires it.
pub(crate) async fn delete_secret(node: &Arc<Node>, app: &AppId, name: &str) -> Result<bool, DeployError> {
    if let Some(record) = records::app(&*node.documents, app).await? {
        for number in record.serving() {
            let parts = load::recorded(node, app, number).await?;
            if parts.manifest.secrets.iter().any(|required| required == name) {
                let problem = format!(
                    "deployment {number}, which serves requests, requires secret {name:?}; remove it from \
                     secrets.required and deploy first"
                );
                return Err(DeployError::Refused(vec![problem]));
            }
        }
    }
    if !secrets::delete(&*node.documents, app, name).await? {
        return Err(DeployError::NotFound(format!(
            "app {:?} has no secret {name:?}",
            app.as_str()
        )));
    }
    reload(node, app).await
}

/// The names of an app's secrets.
pub(crate) async fn list_secrets(node: &Node, app: &AppId) -> Result<Vec<SecretInfo>, DeployError> {
    Ok(secrets::list(&*node.documents, app).await?)
}

async fn reload(node: &Arc<Node>, app: &AppId) -> Result<bool, DeployError> {
    let _content = node.apps.content.read().await;
    let _changing = node.apps.changing.lock().await;
    let Some(record) = records::app(&*node.documents, app).await? else {
        return Ok(false);
    };
    // All anew, with the secrets as they are now.
    let active = fresh(node, app, record.active).await?;
    let mut candidates = Vec::new();
    for share in record.split.iter().flat_map(|split| &split.shares) {
        candidates.push((share.percent, fresh(node, app, share.deployment).await?));
    }
    let split = record.split.map(|split| Split {
        seed: split.seed,
        candidates,
    });
    node.apps.run(RunningApp::new(active, split));
    Ok(true)
}
