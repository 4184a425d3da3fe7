//! What is active right now: an immutable snapshot, swapped whole when a deployment is activated. A request takes
//! the snapshot once and sees one state of the world to its end.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use cloudlet_base::{AppId, ContentHash, DeploymentId};
use cloudlet_data::AppData;
use cloudlet_host::LoadedApp;
use http::Method;
use tokio::sync::{Mutex, OnceCell, RwLock, Semaphore};

use super::secrets::SecretKeys;
use super::split;
use crate::front::rate::{Buckets, Rates};
use crate::triggers::changes::ChangeTrigger;
use crate::triggers::timers::Timer;

/// The name of an app's one bucket, in `cloud://APP.BUCKET/PATH`.
pub(crate) const BUCKET: &str = "files";

/// Components compiled at once, on all apps together; each takes a core for seconds.
const COMPILES_MAX: usize = 1;

/// Contents that were promised to stay for deploys to come; with more, all contents stay as long.
const LEASES_MAX: usize = 100_000;

/// The apps of a node.
pub(crate) struct Registry {
    snapshot: ArcSwap<Snapshot>,
    /// Deployments that were replaced; requests that began on them keep them.
    replaced: std::sync::Mutex<Vec<Weak<ActiveApp>>>,
    /// Read by those who rely on stored content that nothing names yet, written by the collection of it.
    pub(super) content: RwLock<()>,
    leases: std::sync::Mutex<Leases>,
    /// Held from reading what an app is made of to activating it, so that snapshots follow each other as the
    /// records do.
    pub(super) changing: Mutex<()>,
    /// Bounds compilation.
    pub(super) compiling: Semaphore,
    /// Opens secrets; read or made at first use.
    pub(super) secret_key: OnceCell<SecretKeys>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            snapshot: ArcSwap::default(),
            replaced: std::sync::Mutex::default(),
            content: RwLock::default(),
            leases: std::sync::Mutex::default(),
            changing: Mutex::default(),
            compiling: Semaphore::new(COMPILES_MAX),
            secret_key: OnceCell::new(),
        }
    }
}

/// One state of the world.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// Running apps by name.
    pub(crate) apps: HashMap<AppId, Arc<RunningApp>>,
    /// Custom domains (lower-case, without port) to apps.
    pub(crate) domains: HashMap<String, AppId>,
}

/// An app's deployments that serve requests.
pub(crate) struct RunningApp {
    pub(crate) active: Arc<ActiveApp>,
    /// Others beside the active one.
    pub(crate) split: Option<Split>,
    /// What its clients have left of its rates. Kept from one deployment to the next.
    pub(crate) buckets: Arc<Buckets>,
}

impl RunningApp {
    /// An app whose requests all go to one deployment, but for those that are split off.
    pub(crate) fn new(active: Arc<ActiveApp>, split: Option<Split>) -> Self {
        Self {
            active,
            split,
            buckets: Arc::default(),
        }
    }

    /// All of them, the active one first.
    pub(crate) fn deployments(&self) -> impl Iterator<Item = &Arc<ActiveApp>> {
        let candidates = self.split.iter().flat_map(|split| &split.candidates);
        std::iter::once(&self.active).chain(candidates.map(|(_, app)| app))
    }

    /// The one of that number.
    pub(crate) fn deployment(&self, number: i64) -> Option<&Arc<ActiveApp>> {
        self.deployments()
            .find(|app| app.deployment.0 == number.unsigned_abs())
    }
}

/// The deployments that serve part of an app's requests, each with its part in percent. The rest is the active one's.
pub(crate) struct Split {
    pub(crate) seed: i64,
    pub(crate) candidates: Vec<(u8, Arc<ActiveApp>)>,
}

impl Split {
    /// The candidate that serves a visitor; without one the active deployment does.
    pub(crate) fn candidate(&self, visitor: u64) -> Option<&Arc<ActiveApp>> {
        let percents = self.candidates.iter().map(|(percent, _)| *percent);
        split::choose(self.seed, visitor, percents).map(|at| &self.candidates[at].1)
    }
}

/// Contents that stay although no deployment names them: a client was told that they are there.
#[derive(Default)]
struct Leases {
    /// Until when, on the monotonic clock.
    until: HashMap<ContentHash, Duration>,
    /// Until when everything stays, because there were too many to remember.
    all_until: Duration,
}

/// What a deployment served while the app's requests were split.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) requests: AtomicU64,
    /// Those that ended with a status of 500 or above.
    pub(crate) failures: AtomicU64,
}

impl Tally {
    /// Counts a request.
    pub(crate) fn count(&self, failed: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One deployment of an app with everything that a request needs.
pub(crate) struct ActiveApp {
    pub(crate) id: AppId,
    pub(crate) deployment: DeploymentId,
    /// Host names of its own.
    pub(crate) domains: Vec<String>,
    /// Requests of clients that it takes, within the node's bounds.
    pub(crate) rates: Rates,
    /// The same for functions that have their own.
    pub(crate) function_rates: HashMap<String, Rates>,
    pub(crate) tally: Tally,
    /// HTTP triggers, longest route first.
    pub(crate) routes: Vec<HttpRoute>,
    /// Timer triggers.
    pub(crate) timers: Vec<Timer>,
    /// Database and storage triggers.
    pub(crate) changes: Vec<ChangeTrigger>,
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

    /// Puts `app` in the place of what ran before; what was running finishes there.
    pub(crate) fn run(&self, mut app: RunningApp) {
        let id = app.active.id.clone();
        if let Some(before) = self.snapshot().apps.get(&id) {
            app.buckets = before.buckets.clone();
            let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
            replaced.retain(|older| older.strong_count() > 0);
            replaced.extend(before.deployments().map(Arc::downgrade));
        }
        let app = Arc::new(app);
        self.snapshot.rcu(|old| {
            let mut apps = old.apps.clone();
            apps.insert(id.clone(), app.clone());
            let mut all: HashMap<_, _> = old
                .domains
                .iter()
                .filter(|(_, owner)| **owner != id)
                .map(|(domain, owner)| (domain.clone(), owner.clone()))
                .collect();
            let domains = app.deployments().flat_map(|deployment| &deployment.domains);
            all.extend(domains.map(|domain| (domain.clone(), id.clone())));
            Snapshot { apps, domains: all }
        });
    }

    /// The site files that running deployments may still read, those included that only finish requests.
    pub(super) fn site_files_in_use(&self) -> HashSet<ContentHash> {
        let files = |app: &ActiveApp| app.site.files.values().map(|file| file.hash).collect::<Vec<_>>();
        let mut used = HashSet::new();
        for app in self.snapshot().apps.values() {
            used.extend(app.deployments().flat_map(|deployment| files(deployment)));
        }
        let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        used.extend(
            replaced
                .iter()
                .filter_map(Weak::upgrade)
                .flat_map(|app| files(&app)),
        );
        used
    }

    /// Lets contents stay until then, for a deploy that is to come.
    pub(super) fn lease(
        &self,
        hashes: impl IntoIterator<Item = ContentHash>,
        now: Duration,
        until: Duration,
    ) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in hashes {
            if leases.until.len() >= LEASES_MAX && !leases.until.contains_key(&hash) {
                leases.until.retain(|_, end| *end > now);
            }
            if leases.until.len() >= LEASES_MAX && !leases.until.contains_key(&hash) {
                leases.all_until = leases.all_until.max(until);
                return;
            }
            leases.until.insert(hash, until);
        }
    }

    /// The contents that are to stay; `None` when all are.
    pub(super) fn leased(&self, now: Duration) -> Option<HashSet<ContentHash>> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.until.retain(|_, end| *end > now);
        (leases.all_until <= now).then(|| leases.until.keys().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: usize) -> ContentHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        ContentHash::from_bytes(bytes)
    }

    #[test]
    fn promised_contents_stay_until_their_time() {
        let registry = Registry::default();
        let at = Duration::from_secs;
        registry.lease([hash(1), hash(2)], at(0), at(10));
        registry.lease([hash(2)], at(5), at(15));
        assert_eq!(registry.leased(at(9)), Some(HashSet::from([hash(1), hash(2)])));
        assert_eq!(registry.leased(at(10)), Some(HashSet::from([hash(2)])));
        assert_eq!(registry.leased(at(15)), Some(HashSet::new()));
    }

    #[test]
    fn more_promises_than_can_be_remembered_keep_everything() {
        let registry = Registry::default();
        let at = Duration::from_secs;
        registry.lease((0..LEASES_MAX).map(hash), at(0), at(10));
        assert_eq!(registry.leased(at(0)).map(|kept| kept.len()), Some(LEASES_MAX));
        registry.lease([hash(0), hash(LEASES_MAX)], at(1), at(11));
        assert_eq!(registry.leased(at(10)), None);
        assert_eq!(registry.leased(at(11)), Some(HashSet::new()));
        // Those that are over make room.
        registry.lease((0..LEASES_MAX).map(hash), at(20), at(30));
        registry.lease([hash(LEASES_MAX)], at(30), at(40));
        assert_eq!(registry.leased(at(30)), Some(HashSet::from([hash(LEASES_MAX)])));
    }
}
