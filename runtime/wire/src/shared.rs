//! What all connections of a listener share, and the handle that the server holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use bson::Timestamp;
use cloudlet_base::{Clock, Entropy};
use cloudlet_data::Documents;
use tokio::sync::Semaphore;

use crate::cursors::Cursors;
use crate::error::CommandError;
use crate::failpoint::FailPoint;
use crate::limits::Limits;
use crate::logical_time::LogicalTime;
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::profile::Profiler;
use crate::roles::Grant;
use crate::sessions::Sessions;
use crate::throttle::Throttle;
use crate::users::{self, User, Users};

/// Seconds between two sweeps of idle cursors and sessions.
const SWEEP_SECONDS: u64 = 10;
/// The unit of the semaphore that bounds buffered bytes.
pub(crate) const BUFFER_UNIT: usize = 1024;

/// What the listener says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Topology {
    /// A router (`mongos`): drivers stay with the address they were given, and still use sessions and retryable
    /// writes. Right behind proxies and port mappings.
    #[default]
    Router,
    /// The one member of a replica set: drivers reconnect to `address`, so it must be reachable for them.
    ReplicaSet {
        /// The set's name.
        name: String,
        /// `host:port` as clients can reach it.
        address: String,
    },
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether commands need a login. Off is for tests and for `dev` on loopback.
    pub authentication: bool,
    /// What the listener says it is.
    pub topology: Topology,
    /// Whether there are commands for drivers' tests (`configureFailPoint`). Never on a node with real data.
    pub test_commands: bool,
    /// Every bound.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authentication: true,
            topology: Topology::default(),
            test_commands: false,
            limits: Limits::default(),
        }
    }
}

/// What a listener is built from.
pub struct Parts {
    /// The database.
    pub documents: Arc<dyn Documents>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness fit for nonces and salts.
    pub entropy: Arc<dyn Entropy>,
    /// Where its metrics are registered.
    pub registry: prometheus::Registry,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// Why a listener can't be opened, or a user can't be set.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The metrics' names are taken.
    #[error("register the metrics of the MongoDB listener: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The users can't be read or written, or the user is not allowed.
    #[error("{0}")]
    Users(String),
}

impl From<CommandError> for OpenError {
    fn from(error: CommandError) -> Self {
        Self::Users(error.to_string())
    }
}

/// The MongoDB wire protocol over a database. Cheap to clone; all clones share cursors, sessions and limits.
#[derive(Clone)]
pub struct Wire {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// Builds the listener's state; nothing is served yet.
    ///
    /// # Errors
    /// When the metrics are registered already or the users can't be read.
    pub async fn open(parts: Parts, settings: Settings) -> Result<Self, OpenError> {
        let metrics = Metrics::register(&parts.registry)?;
        let users = Users::open(parts.documents.clone(), parts.entropy.as_ref()).await?;
        let limits = settings.limits.clone();
        let units = limits.buffered_bytes_max.div_ceil(BUFFER_UNIT);
        let started = parts.clock.monotonic();
        Ok(Self {
            shared: Arc::new(Shared {
                documents: parts.documents,
                clock: parts.clock,
                entropy: parts.entropy,
                connection_permits: Arc::new(Semaphore::new(
                    limits.connections_max.min(Semaphore::MAX_PERMITS),
                )),
                command_permits: Semaphore::new(limits.commands_max.min(Semaphore::MAX_PERMITS)),
                buffer_permits: Semaphore::new(units.min(Semaphore::MAX_PERMITS)),
                settings,
                limits,
                metrics,
                users,
                throttle: Throttle::default(),
                operations: Operations::default(),
                profiler: Profiler::default(),
                cursors: Cursors::default(),
                sessions: Sessions::default(),
                fail_point: FailPoint::default(),
                time: LogicalTime::default(),
                connection_ids: AtomicI32::new(0),
                started,
                swept: AtomicU64::new(0),
            }),
        })
    }

    /// Makes a user with roles on its own database, or gives the one that is there this password and these roles.
    ///
    /// # Errors
    /// When a role is not known, the password is not allowed, or the database fails.
    pub async fn set_user(
        &self,
        database: &str,
        name: &str,
        password: &str,
        roles: &[&str],
    ) -> Result<(), OpenError> {
        let grants = roles
            .iter()
            .map(|role| {
                Grant::parse(role, database)
                    .ok_or_else(|| OpenError::Users(format!("there is no role \"{role}\" on \"{database}\"")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let entropy = self.shared.entropy.as_ref();
        let mechanisms = crate::scram::Mechanism::ALL.to_vec();
        let credentials = users::derive(entropy, name, password, mechanisms).await?;
        let before = self.shared.users.get(database, name).await?;
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let user = User {
            db: database.to_owned(),
            name: name.to_owned(),
            id: before.as_ref().map_or(id, |before| before.id),
            credentials,
            grants,
            custom_data: before.as_ref().and_then(|before| before.custom_data.clone()),
        };
        match before {
            Some(_) => self.shared.users.replace(&user).await?,
            None => self.shared.users.create(&user).await?,
        }
        Ok(())
    }
}

impl Wire {
    /// The users of a database, by name, with their roles on it.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn users(&self, database: &str) -> Result<Vec<(String, Vec<&'static str>)>, OpenError> {
        let users = self.shared.users.list(Some(database)).await?;
        Ok(users
            .into_iter()
            .map(|user| {
                let roles = user.grants.iter().filter(|grant| &*grant.db == database);
                let roles = roles.map(|grant| grant.role.name()).collect();
                (user.name, roles)
            })
            .collect())
    }

    /// Removes a user. Returns whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_user(&self, database: &str, name: &str) -> Result<bool, OpenError> {
        Ok(self.shared.users.remove(database, Some(name)).await? > 0)
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) users: Users,
    pub(crate) throttle: Throttle,
    pub(crate) operations: Operations,
    pub(crate) profiler: Profiler,
    pub(crate) cursors: Cursors,
    pub(crate) sessions: Sessions,
    pub(crate) fail_point: FailPoint,
    pub(crate) time: LogicalTime,
    pub(crate) connection_permits: Arc<Semaphore>,
    pub(crate) command_permits: Semaphore,
    pub(crate) buffer_permits: Semaphore,
    connection_ids: AtomicI32,
    /// When it was opened, on the monotonic clock.
    pub(crate) started: Duration,
    /// When idle cursors and sessions were last swept, in seconds since then.
    swept: AtomicU64,
}

impl Shared {
    /// A number for a new connection: positive, as drivers expect.
    pub(crate) fn next_connection_id(&self) -> i32 {
        self.connection_ids.fetch_add(1, Ordering::Relaxed) & i32::MAX
    }

    /// The time that a reply tells: that of the newest change, where there are change streams, so that one can begin
    /// there. What is written after the reply has a later one.
    pub(crate) async fn operation_time(&self, write: bool) -> Timestamp {
        match self.documents.operation_time().await {
            Ok(Some(newest)) => self.time.at_least(newest),
            Ok(None) | Err(_) => self.time.after(self.clock.now().seconds(), write),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Drops idle cursors and sessions, if that was not done a moment ago. Called with each command, so that no
    /// task is needed; without commands nothing grows either.
    pub(crate) fn sweep(&self) {
        let now = self.now();
        let seconds = now.saturating_sub(self.started).as_secs();
        let last = self.swept.load(Ordering::Relaxed);
        if seconds < last + SWEEP_SECONDS
            || self
                .swept
                .compare_exchange(last, seconds, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        self.cursors.reap(now, self.limits.cursor_idle, &self.metrics);
        self.sessions.reap(now, self.limits.session_idle, &self.metrics);
    }
}
