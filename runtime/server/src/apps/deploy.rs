//! The life of a deploy: everything that can fail happens before one transaction records the deployment and makes
//! it the active one; then the registry swaps its snapshot and the older deployment drains. A rollback is the same
//! transaction backwards. Called by the admin API, and by the node at its start.
//!
//! Nothing here is cancelled by a client that goes away: the admin API runs it in a task of its own.

use std::sync::Arc;

use cloudlet_base::{AppId, ContentHash, DeploymentId, Fault, Principal};
use cloudlet_data::{Code, Namespace};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::load::{self, Parts};
use super::manifest::Problem;
use super::records::{self, ComponentEntry, Deployment, SiteEntry};
use super::secrets::{self, SecretError, SecretInfo};
use crate::node::Node;

/// Files of one site; the record of a deployment must fit into a document.
const SITE_FILES_MAX: usize = 20_000;

/// What is deployed. The content that it names must have been uploaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeployRequest {
    /// The manifest's text.
    pub(crate) manifest: String,
    /// The environment chosen.
    #[serde(default)]
    pub(crate) env: Option<String>,
    /// A component for every function.
    pub(crate) components: Vec<ComponentEntry>,
    /// The site's files.
    #[serde(default)]
    pub(crate) site: Vec<SiteEntry>,
    /// Check everything, change nothing.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// What a deploy or rollback did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) app: String,
    /// The deployment that is active now (or would be, in a dry run).
    pub(crate) deployment: i64,
    /// The one that was active before.
    pub(crate) previous: Option<i64>,
    /// Whether it was active already, so that nothing was done.
    pub(crate) unchanged: bool,
    /// Whether nothing was done because that was asked for.
    pub(crate) dry_run: bool,
}

/// Why a deploy, a rollback or a change of secrets failed. The running app is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// The manifest has problems.
    #[error("the manifest has {} problem(s)", .0.len())]
    Manifest(Vec<Problem>),
    /// Something does not fit together or is refused, each with a remedy.
    #[error("the deployment was refused")]
    Refused(Vec<String>),
    /// Content was not uploaded.
    #[error("content is missing on the node; upload it first")]
    Missing(Vec<String>),
    /// Another deploy of the app was faster.
    #[error(
        "another deployment of app {app:?} became number {number} meanwhile; look at it, then deploy again"
    )]
    Raced {
        /// The app.
        app: String,
        /// The number that both wanted.
        number: i64,
    },
    /// No such app, deployment or secret.
    #[error("{0}")]
    NotFound(String),
    /// Secrets can't be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cloudlet_data::Error),
    /// The store of content failed.
    #[error(transparent)]
    Content(#[from] cloudlet_blob::Error),
    /// A bug.
    #[error("{0}")]
    Internal(String),
}

impl DeployError {
    /// The platform's kind of failure.
    pub(crate) fn kind(&self) -> Fault {
        match self {
            DeployError::Manifest(_) | DeployError::Refused(_) | DeployError::Missing(_) => Fault::Invalid,
            DeployError::Raced { .. } => Fault::Conflict,
            DeployError::NotFound(_) => Fault::NotFound,
            DeployError::Secret(error) => error.kind(),
            DeployError::Database(error) => error.kind(),
            DeployError::Content(error) => error.kind(),
            DeployError::Internal(_) => Fault::Internal,
        }
    }

    /// Its parts, when there are several things wrong.
    pub(crate) fn problems(&self) -> Vec<String> {
        match self {
            DeployError::Manifest(problems) => problems.iter().map(Problem::to_string).collect(),
            DeployError::Refused(problems) | DeployError::Missing(problems) => problems.clone(),
            _ => Vec::new(),
        }
    }
}

/// Loads and activates the active deployment of every app, at the node's start. An app that can't be loaded is
/// logged and left out: it must not keep the others from running.
///
/// # Errors
/// When the records can't be read at all.
pub(crate) async fn load_active(node: &Node) -> Result<(), DeployError> {
    records::prepare(&*node.documents).await?;
    for record in records::all_apps(&*node.documents).await? {
        let loaded = async {
            let app: AppId = record
                .app
                .parse()
                .map_err(|error| DeployError::Internal(format!("{error}")))?;
            let parts = load::recorded(node, &app, record.active).await?;
            activate(node, &parts).await
        };
        match loaded.await {
            Ok(()) => tracing::info!(app = record.app, deployment = record.active, "app loaded"),
            Err(error) => tracing::error!(
                app = record.app,
                deployment = record.active,
                error = %error,
                problems = ?error.problems(),
                "app can't be loaded and is not served"
            ),
        }
    }
    Ok(())
}

/// Deploys, as described at the top of this file.
pub(crate) async fn deploy(
    node: &Arc<Node>,
    app: &AppId,
    request: DeployRequest,
    by: &Principal,
) -> Result<Outcome, DeployError> {
    if request.site.len() > SITE_FILES_MAX {
        let problem = format!(
            "the site has {} files, over the limit of {SITE_FILES_MAX}; put the large mass into storage",
            request.site.len()
        );
        return Err(DeployError::Refused(vec![problem]));
    }
    let before = records::app(&*node.documents, app).await?;
    let number = before.as_ref().map_or(0, |record| record.latest) + 1;
    let active = before.as_ref().map(|record| record.active);
    let dry_run = request.dry_run;
    let deployment = record(node, app, number, request, by);
    let parts = Parts::parse(app, &deployment)?;
    let outcome = |unchanged| Outcome {
        app: app.to_string(),
        deployment: if unchanged {
            active.unwrap_or(number)
        } else {
            number
        },
        previous: active,
        unchanged,
        dry_run,
    };
    missing_content(node, &parts).await?;
    check_domains(node, &parts)?;
    if is_active(node, app, active, &deployment.hash).await? {
        return Ok(outcome(true));
    }
    // Compiles, and finds everything that is wrong before anything changes.
    drop(load::load(node, &parts).await?);
    if dry_run {
        return Ok(outcome(false));
    }
    create_indexes(node, &parts).await?;

    let _changing = node.apps.changing.lock().await;
    let raced = || DeployError::Raced {
        app: app.to_string(),
        number,
    };
    let now = records::app(&*node.documents, app).await?;
    if now.as_ref().map(|record| record.latest) != before.as_ref().map(|record| record.latest) {
        return Err(raced());
    }
    check_domains(node, &parts)?;
    // Anew, with the secrets as they are now that nobody can change them under us.
    let ready = load::load(node, &parts).await?;
    let kept = now.map(|record| record.active);
    match records::commit(&*node.documents, &deployment, kept).await {
        Ok(()) => {}
        // Another node on the same database.
        Err(error) if error.code() == Code::DuplicateKey => return Err(raced()),
        Err(error) => return Err(error.into()),
    }
    node.apps
        .activate(Arc::new(ready), parts.manifest.domains.clone());
    tracing::info!(app = app.as_str(), deployment = number, "deployed");
    Ok(outcome(false))
}

fn record(node: &Node, app: &AppId, number: i64, request: DeployRequest, by: &Principal) -> Deployment {
    let DeployRequest {
        manifest,
        env,
        mut components,
        mut site,
        dry_run: _,
    } = request;
    components.sort();
    site.sort();
    let mut deployment = Deployment {
        id: format!("{app}/{number}"),
        app: app.to_string(),
        number,
        manifest,
        env,
        components,
        site,
        created: bson::DateTime::from_millis(node.clock.now().millis()),
        hash: String::new(),
        by: match by {
            Principal::Admin { key_id } => key_id.to_string(),
            _ => String::new(),
        },
    };
    deployment.hash = content_hash(&deployment).to_string();
    deployment
}

/// What makes two deployments the same: everything but number, time and author.
fn content_hash(deployment: &Deployment) -> ContentHash {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    add(&deployment.manifest);
    add(deployment.env.as_deref().unwrap_or_default());
    for component in &deployment.components {
        add(&component.function);
        add(&component.hash);
    }
    for file in &deployment.site {
        add(&file.path);
        add(&file.hash);
        add(&file.content_type);
    }
    ContentHash::from_bytes(digest.finalize().into())
}

async fn is_active(node: &Node, app: &AppId, active: Option<i64>, hash: &str) -> Result<bool, DeployError> {
    let Some(number) = active else { return Ok(false) };
    let running = node.apps.snapshot().apps.get(app).map(|app| app.deployment.0);
    if running != Some(number.unsigned_abs()) {
        // Recorded and not running: it failed to load at the start, so deploying it again is worth a try.
        return Ok(false);
    }
    let record = records::deployment(&*node.documents, app, DeploymentId(number.unsigned_abs())).await?;
    Ok(record.is_some_and(|record| record.hash == hash))
}

async fn missing_content(node: &Node, parts: &Parts) -> Result<(), DeployError> {
    let missing = missing(node, parts.hashes()).await?;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(DeployError::Missing(
            missing.iter().map(ToString::to_string).collect(),
        )),
    }
}

/// Those of `hashes` that the node does not have.
pub(crate) async fn missing(
    node: &Node,
    hashes: impl IntoIterator<Item = ContentHash>,
) -> Result<Vec<ContentHash>, DeployError> {
    let mut missing = Vec::new();
    for hash in hashes {
        if !node.blobs.has_content(hash).await? {
            missing.push(hash);
        }
    }
    Ok(missing)
}

fn check_domains(node: &Node, parts: &Parts) -> Result<(), DeployError> {
    let snapshot = node.apps.snapshot();
    let taken: Vec<String> = parts
        .manifest
        .domains
        .iter()
        .filter_map(|domain| snapshot.domains.get(domain).map(|app| (domain, app)))
        .filter(|(_, app)| **app != parts.app)
        .map(|(domain, app)| {
            format!(
                "domain {domain:?} is served by app {:?}; remove it there first",
                app.as_str()
            )
        })
        .collect();
    match taken.is_empty() {
        true => Ok(()),
        false => Err(DeployError::Refused(taken)),
    }
}

async fn create_indexes(node: &Node, parts: &Parts) -> Result<(), DeployError> {
    for (name, collection) in &parts.manifest.collections {
        if collection.indexes.is_empty() {
            continue;
        }
        let ns = Namespace::new(parts.app.as_str(), name.as_str());
        let made = node
            .documents
            .create_indexes(&ns, collection.indexes.clone())
            .await;
        made.map_err(|error| match error.kind() {
            Fault::Invalid | Fault::Conflict | Fault::Limit => DeployError::Refused(vec![format!(
                "the indexes of collection {name:?} can't be made: {error}"
            )]),
            _ => error.into(),
        })?;
    }
    Ok(())
}

async fn activate(node: &Node, parts: &Parts) -> Result<(), DeployError> {
    let _changing = node.apps.changing.lock().await;
    let ready = load::load(node, parts).await?;
    node.apps
        .activate(Arc::new(ready), parts.manifest.domains.clone());
    Ok(())
}

/// Makes an older deployment the active one: `to`, or the newest one before the active one.
pub(crate) async fn rollback(node: &Arc<Node>, app: &AppId, to: Option<i64>) -> Result<Outcome, DeployError> {
    let record = known_app(node, app).await?;
    let number = match to {
        Some(number) => number,
        None => {
            let kept = records::summaries(&*node.documents, app).await?;
            let before = kept
                .iter()
                .map(|kept| kept.number)
                .find(|number| *number < record.active);
            before.ok_or_else(|| {
                DeployError::NotFound(format!(
                    "app {:?} has no deployment before {}, the active one",
                    app.as_str(),
                    record.active
                ))
            })?
        }
    };
    let parts = load::recorded(node, app, number).await?;
    // Outside the lock, for it may have to compile.
    drop(load::load(node, &parts).await?);
    let _changing = node.apps.changing.lock().await;
    check_domains(node, &parts)?;
    let ready = load::load(node, &parts).await?;
    records::point(&*node.documents, app, parts.number).await?;
    node.apps
        .activate(Arc::new(ready), parts.manifest.domains.clone());
    tracing::info!(app = app.as_str(), deployment = number, "rolled back");
    Ok(Outcome {
        app: app.to_string(),
        deployment: number,
        previous: Some(record.active),
        unchanged: number == record.active,
        dry_run: false,
    })
}

async fn known_app(node: &Node, app: &AppId) -> Result<records::AppRecord, DeployError> {
    let record = records::app(&*node.documents, app).await?;
    record.ok_or_else(|| {
        DeployError::NotFound(format!(
            "there is no app {:?} on this node; deploy it first",
            app.as_str()
        ))
    })
}

/// Every app with its pointers.
pub(crate) async fn apps(node: &Node) -> Result<Vec<records::AppRecord>, DeployError> {
    Ok(records::all_apps(&*node.documents).await?)
}

/// The kept deployments of an app, newest first, and the number of the active one.
pub(crate) async fn deployments(
    node: &Node,
    app: &AppId,
) -> Result<(i64, Vec<records::Summary>), DeployError> {
    let record = known_app(node, app).await?;
    Ok((record.active, records::summaries(&*node.documents, app).await?))
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

/// Removes a secret. Refused while the active deployment requires it.
pub(crate) async fn delete_secret(node: &Arc<Node>, app: &AppId, name: &str) -> Result<bool, DeployError> {
    if let Some(record) = records::app(&*node.documents, app).await? {
        let parts = load::recorded(node, app, record.active).await?;
        if parts.manifest.secrets.iter().any(|required| required == name) {
            let problem = format!(
                "the active deployment {} requires secret {name:?}; remove it from secrets.required and deploy first",
                record.active
            );
            return Err(DeployError::Refused(vec![problem]));
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
    let Some(record) = records::app(&*node.documents, app).await? else {
        return Ok(false);
    };
    let parts = load::recorded(node, app, record.active).await?;
    let _changing = node.apps.changing.lock().await;
    // Somebody may have deployed while we waited; then that deployment has read the secret already.
    let current = records::app(&*node.documents, app).await?;
    if current.is_some_and(|current| current.active == record.active) {
        let ready = load::load(node, &parts).await?;
        node.apps
            .activate(Arc::new(ready), parts.manifest.domains.clone());
    }
    Ok(true)
}
