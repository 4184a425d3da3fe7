//! The life of a deploy: everything that can fail happens before one transaction records the deployment and makes
//! it the active one (or a candidate, or neither); then the registry swaps its snapshot and the older deployment
//! drains. What happens to recorded deployments is in traffic.rs, what becomes of their content in collect.rs. Called
//! by the admin API, and by the node at its start.
//!
//! Nothing here is cancelled by a client that goes away: the admin API runs it in a task of its own.

use std::sync::Arc;

use cloudlet_base::{AppId, ContentHash, DeploymentId, Fault, Principal};
use cloudlet_data::{Code, Namespace};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::load::{self, Parts};
use super::manifest::Problem;
use super::records::{self, AppRecord, ComponentEntry, Deployment, Pointers, Share, SiteEntry, SplitRecord};
use super::secrets::SecretError;
use super::{collect, traffic};
use crate::node::Node;
use crate::triggers::changes;

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
    /// What becomes of it.
    #[serde(default)]
    pub(crate) plan: Plan,
}

/// What becomes of a new deployment. By default it is the active one from then on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Plan {
    /// Serve this part of the requests, in percent, beside the active deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) canary: Option<u8>,
    /// Record it, serve nothing.
    #[serde(default)]
    pub(crate) staged: bool,
    /// The number of the deployment that the author took for the active one, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<i64>,
    /// The revision of the app's traffic that the author saw, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<i64>,
    /// Whatever others did meanwhile.
    #[serde(default)]
    pub(crate) force: bool,
}

/// What a deploy or rollback did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) app: String,
    /// The deployment that was made or chosen (or would be, in a dry run).
    pub(crate) deployment: i64,
    /// The one that was active before.
    pub(crate) previous: Option<i64>,
    /// Whether it was active already, so that nothing was done.
    pub(crate) unchanged: bool,
    /// Whether nothing was done because that was asked for.
    pub(crate) dry_run: bool,
    /// What serves requests now, the active one first.
    #[serde(default)]
    pub(crate) traffic: Vec<Share>,
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
    /// Somebody else changed what serves the app's requests.
    #[error("{}", .0.message())]
    Raced(Box<Raced>),
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

/// Who was faster.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Raced {
    pub(crate) app: String,
    /// What serves requests now.
    pub(crate) traffic: Vec<Share>,
    pub(crate) revision: i64,
    /// Milliseconds since 1970.
    pub(crate) changed: Option<i64>,
    /// The admin key.
    pub(crate) by: String,
}

impl Raced {
    pub(super) fn of(app: &AppId, now: Option<&AppRecord>) -> DeployError {
        DeployError::Raced(Box::new(Raced {
            app: app.to_string(),
            traffic: now.map(AppRecord::traffic).unwrap_or_default(),
            revision: now.map_or(0, |now| now.revision),
            changed: now
                .and_then(|now| now.changed)
                .map(bson::DateTime::timestamp_millis),
            by: now.map(|now| now.by.clone()).unwrap_or_default(),
        }))
    }

    fn message(&self) -> String {
        let Some(active) = self.traffic.first() else {
            return format!("app {:?} is not there any more", self.app);
        };
        let by = match self.by.is_empty() {
            true => String::new(),
            false => format!(" by admin key {}", self.by),
        };
        let at = self.changed.map(bson::DateTime::from_millis);
        let at = at.and_then(|at| at.try_to_rfc3339_string().ok());
        let at = at.map_or(String::new(), |at| format!(" at {at}"));
        format!(
            "somebody else changed app {:?} meanwhile: deployment {} is the active one{at}{by}; look at it with \
             cloudlet diff, then deploy again, or deploy with --force",
            self.app, active.deployment
        )
    }
}

impl DeployError {
    /// The platform's kind of failure.
    pub(crate) fn kind(&self) -> Fault {
        match self {
            DeployError::Manifest(_) | DeployError::Refused(_) | DeployError::Missing(_) => Fault::Invalid,
            DeployError::Raced(_) => Fault::Conflict,
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

/// Loads and activates what serves requests of every app, at the node's start. An app that can't be loaded is
/// logged and left out: it must not keep the others from running.
///
/// # Errors
/// When the records can't be read at all.
pub(crate) async fn load_active(node: &Node) -> Result<(), DeployError> {
    records::prepare(&*node.documents).await?;
    for record in records::all_apps(&*node.documents).await? {
        match traffic::start(node, &record).await {
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
    let (plan, dry_run) = (request.plan.clone(), request.dry_run);
    check_site(&request.site)?;
    // What the request names must stay until it is recorded.
    let _content = node.apps.content.read().await;
    let before = records::app(&*node.documents, app).await?;
    check_plan(app, &plan, before.as_ref())?;
    let mut deployment = record(node, app, &plan, request, by);
    deployment.renumber(next_number(before.as_ref()));
    let mut parts = Parts::parse(app, &deployment)?;
    missing_content(node, &parts).await?;
    check_domains(node, &parts)?;
    check_triggers(node, app, &parts).await?;
    if let Some(before) = &before
        && is_all(node, app, before, &plan, &deployment.hash).await?
    {
        return Ok(Outcome {
            app: app.to_string(),
            deployment: before.active,
            previous: Some(before.active),
            unchanged: true,
            dry_run,
            traffic: before.traffic(),
        });
    }
    // Compiles, and finds everything that is wrong before anything changes. Kept, so that the second time is fast.
    let trial = load::load(node, &parts).await?;
    if dry_run {
        let pointers = pointers(node, &plan, before.as_ref(), deployment.number, by);
        return Ok(outcome(
            app,
            &deployment,
            before.as_ref(),
            pointers.as_ref(),
            true,
        ));
    }
    create_indexes(node, &parts).await?;

    let _changing = node.apps.changing.lock().await;
    let now = records::app(&*node.documents, app).await?;
    let revision = |record: Option<&AppRecord>| record.map_or(0, |record| record.revision);
    if !plan.force && !plan.staged && revision(now.as_ref()) != revision(before.as_ref()) {
        return Err(Raced::of(app, now.as_ref()));
    }
    deployment.renumber(next_number(now.as_ref()));
    parts.number = DeploymentId(deployment.number.unsigned_abs());
    check_domains(node, &parts)?;
    // Anew, with the secrets as they are now that nobody can change them under us.
    let ready = load::load(node, &parts).await?;
    drop(trial);
    let pointers = pointers(node, &plan, now.as_ref(), deployment.number, by);
    let running = traffic::running_with(node, app, pointers.as_ref(), ready)?;
    let mut keep = now.as_ref().map(AppRecord::serving).unwrap_or_default();
    keep.push(deployment.number);
    let prune = collect::old(node, deployment.number, keep);
    match records::commit(&*node.documents, &deployment, pointers.as_ref(), &prune).await {
        Ok(()) => {}
        // Another node on the same database.
        Err(error) if error.code() == Code::DuplicateKey => {
            let now = records::app(&*node.documents, app).await?;
            return Err(Raced::of(app, now.as_ref()));
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(running) = running {
        traffic::activate(node, running).await;
    }
    tracing::info!(
        app = app.as_str(),
        deployment = deployment.number,
        staged = plan.staged,
        canary = plan.canary,
        "deployed"
    );
    Ok(outcome(app, &deployment, now.as_ref(), pointers.as_ref(), false))
}

/// Refuses triggers that this node can't follow.
async fn check_triggers(node: &Node, app: &AppId, parts: &Parts) -> Result<(), DeployError> {
    let problems = changes::refused(node, app, &parts.manifest.changes).await;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(DeployError::Refused(problems)),
    }
}

fn check_site(site: &[SiteEntry]) -> Result<(), DeployError> {
    if site.len() <= SITE_FILES_MAX {
        return Ok(());
    }
    let problem = format!(
        "the site has {} files, over the limit of {SITE_FILES_MAX}; put the large mass into storage",
        site.len()
    );
    Err(DeployError::Refused(vec![problem]))
}

/// Whether what is asked for fits what is there.
fn check_plan(app: &AppId, plan: &Plan, record: Option<&AppRecord>) -> Result<(), DeployError> {
    let refused = |problem: &str| Err(DeployError::Refused(vec![problem.to_owned()]));
    match plan {
        Plan {
            staged: true,
            canary: Some(_),
            ..
        } => {
            return refused("a canary serves requests: choose between canary and staged");
        }
        Plan {
            canary: Some(percent),
            ..
        } if !(1..=99).contains(percent) => {
            return refused("a canary serves 1 to 99 percent of the requests");
        }
        Plan { canary: Some(_), .. } | Plan { staged: true, .. } if record.is_none() => {
            return refused(
                "nothing is deployed yet that could serve the requests; deploy it as the active one",
            );
        }
        _ => {}
    }
    if plan.force || plan.staged {
        return Ok(());
    }
    let (active, revision) = record.map_or((0, 0), |record| (record.active, record.revision));
    let seen = |seen: Option<i64>, now: i64| seen.is_none_or(|seen| seen == now);
    match seen(plan.base, active) && seen(plan.revision, revision) {
        true => Ok(()),
        false => Err(Raced::of(app, record)),
    }
}

fn next_number(record: Option<&AppRecord>) -> i64 {
    record.map_or(0, |record| record.latest) + 1
}

/// Where requests go once the deployment of that number is there; `None` when nothing changes.
fn pointers(
    node: &Node,
    plan: &Plan,
    now: Option<&AppRecord>,
    number: i64,
    by: &Principal,
) -> Option<Pointers> {
    let (active, split) = match (plan.staged, plan.canary, now) {
        (true, ..) => return None,
        (false, Some(percent), Some(now)) => {
            let share = Share {
                deployment: number,
                percent,
            };
            let split = SplitRecord {
                seed: number,
                shares: vec![share],
            };
            (now.active, Some(split))
        }
        (false, ..) => (number, None),
    };
    Some(traffic::pointers(node, now, active, split, by))
}

fn outcome(
    app: &AppId,
    deployment: &Deployment,
    before: Option<&AppRecord>,
    pointers: Option<&Pointers>,
    dry_run: bool,
) -> Outcome {
    Outcome {
        app: app.to_string(),
        deployment: deployment.number,
        previous: before.map(|before| before.active),
        unchanged: false,
        dry_run,
        traffic: match (pointers, before) {
            (Some(pointers), _) => records::traffic(pointers.active, pointers.split.as_ref()),
            (None, Some(before)) => before.traffic(),
            (None, None) => Vec::new(),
        },
    }
}

/// The record of a deployment that has no number yet.
pub(super) fn record(
    node: &Node,
    app: &AppId,
    plan: &Plan,
    request: DeployRequest,
    by: &Principal,
) -> Deployment {
    let DeployRequest {
        manifest,
        env,
        mut components,
        mut site,
        dry_run: _,
        plan: _,
    } = request;
    components.sort();
    site.sort();
    let mut deployment = Deployment {
        id: String::new(),
        app: app.to_string(),
        number: 0,
        manifest,
        env,
        components,
        site,
        created: bson::DateTime::from_millis(node.clock.now().millis()),
        hash: String::new(),
        by: author(by),
        staged: plan.staged || plan.canary.is_some(),
        pinned: false,
    };
    deployment.hash = content_hash(&deployment).to_string();
    deployment
}

/// The admin key, for the record.
pub(super) fn author(by: &Principal) -> String {
    match by {
        Principal::Admin { key_id } => key_id.to_string(),
        _ => String::new(),
    }
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

/// Whether a deployment of that content would change nothing: the active one is the same and serves everything.
async fn is_all(
    node: &Node,
    app: &AppId,
    now: &AppRecord,
    plan: &Plan,
    hash: &str,
) -> Result<bool, DeployError> {
    if plan.staged || plan.canary.is_some() || now.split.is_some() {
        return Ok(false);
    }
    let running = node.apps.snapshot().apps.get(app).cloned();
    if running.is_none_or(|running| running.active.deployment.0 != now.active.unsigned_abs()) {
        // Recorded and not running: it failed to load at the start, so deploying it again is worth a try.
        return Ok(false);
    }
    let id = DeploymentId(now.active.unsigned_abs());
    let record = records::deployment(&*node.documents, app, id).await?;
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

/// Those of `hashes` that the node does not have. Those that it has stay for a deploy to come.
pub(crate) async fn plan(node: &Node, hashes: Vec<ContentHash>) -> Result<Vec<ContentHash>, DeployError> {
    let _content = node.apps.content.read().await;
    collect::lease(node, hashes.iter().copied());
    missing(node, hashes).await
}

/// Stores content for a deploy to come.
pub(crate) async fn put_content(
    node: &Node,
    hash: ContentHash,
    bytes: bytes::Bytes,
) -> Result<(), DeployError> {
    let _content = node.apps.content.read().await;
    collect::lease(node, [hash]);
    Ok(node.blobs.put_content(hash, bytes).await?)
}

async fn missing(
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

pub(super) fn check_domains(node: &Node, parts: &Parts) -> Result<(), DeployError> {
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
