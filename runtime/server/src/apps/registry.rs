//! What is active right now: an immutable snapshot, swapped whole when a deployment is activated. A request takes
//! the snapshot once and sees one state of the world to its end.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cloudlet_base::{AppId, ContentHash, DeploymentId};
use cloudlet_data::AppData;
use cloudlet_host::LoadedApp;
use http::Method;
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::secrets::SecretKey;
use crate::triggers::timers::Timer;

/// The name of an app's one bucket, in `cloud://APP.BUCKET/PATH`.
pub(crate) const BUCKET: &str = "files";

/// Components compiled at once, on all apps together; each takes a core for seconds.
const COMPILES_MAX: usize = 1;

/// The apps of a node.
pub(crate) struct Registry {
    snapshot: ArcSwap<Snapshot>,
    /// Held from reading what an app is made of to activating it, so that snapshots follow each other as the
    /// records do.
    pub(super) changing: Mutex<()>,
    /// Bounds compilation.
    pub(super) compiling: Semaphore,
    /// Opens secrets; read or made at first use.
    pub(super) secret_key: OnceCell<SecretKey>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            snapshot: ArcSwap::default(),
            changing: Mutex::default(),
            compiling: Semaphore::new(COMPILES_MAX),
            secret_key: OnceCell::new(),
        }
    }
}

/// One state of the world.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// Active apps by name.
    pub(crate) apps: HashMap<AppId, Arc<ActiveApp>>,
    /// Custom domains (lower-case, without port) to apps.
    pub(crate) domains: HashMap<String, AppId>,
}

/// One app's active deployment with everything that a request needs.
pub(crate) struct ActiveApp {
    pub(crate) id: AppId,
    pub(crate) deployment: DeploymentId,
    /// HTTP triggers, longest route first.
    pub(crate) routes: Vec<HttpRoute>,
    /// Timer triggers.
    pub(crate) timers: Vec<Timer>,
    /// The hosted site.
    pub(crate) site: Site,
    /// The functions.
    pub(crate) functions: Arc<LoadedApp>,
    /// The app's documents and rules.
    pub(crate) data: AppData,
    /// Who may call each function from a client; a function that is not here: [`InvokeRule::LoggedIn`].
    pub(crate) invoke: HashMap<String, InvokeRule>,
    /// Rules of path prefixes, longest first; a path under none is closed to clients, except its owner's.
    pub(crate) storage: Vec<StorageRule>,
    /// Cache-Control of path prefixes, longest first.
    pub(crate) cache_control: Vec<(String, String)>,
    /// Whether anonymous login is offered.
    pub(crate) anonymous_login: bool,
    /// Whether username and password registration (`signup`) by clients is offered.
    pub(crate) password_signup: bool,
}

/// An HTTP trigger.
pub(crate) struct HttpRoute {
    /// The path, for a prefix route without its `...`, e.g. `/api/` or `/hello`.
    pub(crate) path: String,
    /// Whether everything under `path` belongs to it.
    pub(crate) prefix: bool,
    /// Methods; empty is all.
    pub(crate) methods: Vec<Method>,
    /// The function.
    pub(crate) function: Arc<str>,
}

/// Who may call a function from a client SDK. Admin keys always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvokeRule {
    /// Anybody: `true`.
    Anyone,
    /// Any logged-in user: `auth != null`.
    LoggedIn,
    /// No client: `false`.
    Nobody,
}

/// Who may read and write objects under a prefix from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageRule {
    pub(crate) prefix: String,
    pub(crate) read: StorageAccess,
    pub(crate) write: StorageAccess,
}

/// One side of a storage rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageAccess {
    /// `true`
    Anyone,
    /// `auth != null`
    LoggedIn,
    /// `auth != null && resource.openid == auth.openid`; on write also for new objects, which the writer then owns.
    Owner,
    /// `false`
    Nobody,
}

/// A hosted site: files by path, content-addressed.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// Files by absolute path (`/index.html`).
    pub(crate) files: HashMap<String, SiteFile>,
    /// Whether paths that name no file get `/index.html` (single page applications).
    pub(crate) spa: bool,
}

/// One file of a site.
#[derive(Debug, Clone)]
pub(crate) struct SiteFile {
    pub(crate) hash: ContentHash,
    pub(crate) size: u64,
    pub(crate) content_type: Arc<str>,
}

impl Registry {
    /// The state of the world now.
    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Puts `app` in the place of its older deployment; what was running finishes on the old one.
    pub(crate) fn activate(&self, app: Arc<ActiveApp>, domains: Vec<String>) {
        self.snapshot.rcu(|old| {
            let mut apps = old.apps.clone();
            apps.insert(app.id.clone(), app.clone());
            let mut all: HashMap<_, _> = old
                .domains
                .iter()
                .filter(|(_, id)| **id != app.id)
                .map(|(d, id)| (d.clone(), id.clone()))
                .collect();
            all.extend(domains.iter().map(|domain| (domain.clone(), app.id.clone())));
            Snapshot { apps, domains: all }
        });
    }
}
