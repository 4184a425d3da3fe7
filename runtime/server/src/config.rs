//! The node's configuration, and the only reader of `node.toml`, environment and flags (flag > env > file >
//! default). Every setting has one name, e.g. `limits.header_timeout`; it is `[limits] header_timeout` in the file,
//! `--limits-header-timeout` on the command line and `CLOUDLET_LIMITS_HEADER_TIMEOUT` in the environment, and one
//! parser from text serves all three. Called by `cli/serve.rs` and `cli/dev.rs`; `runtime/docs/config.md` lists the
//! settings with their defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::apps::secrets::KEY_FILE;
use crate::front::client_address::Network;
use crate::front::rate::{Rate, Rates};

/// The exit code for a configuration that can't be used (`EX_USAGE` of sysexits).
pub(crate) const EXIT_USAGE: u8 = 64;

/// The file that is read when none is named and it is there.
const DEFAULT_FILE: &str = "node.toml";

/// The resolved configuration.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    /// Where everything that the node keeps lives.
    pub(crate) data_dir: PathBuf,
    /// The file of the key that seals secrets.
    pub(crate) secret_key_file: PathBuf,
    /// Address of the public listener.
    pub(crate) listen: SocketAddr,
    /// Address of the admin listener.
    pub(crate) admin_listen: SocketAddr,
    /// TLS on the public listener.
    pub(crate) tls: Option<TlsFiles>,
    /// Base domains: app `hotel` is served at `hotel.DOMAIN` of each. `localhost` is always one.
    pub(crate) domains: Vec<String>,
    /// Proxies that are believed when they say whom they speak for.
    pub(crate) trusted_proxies: Vec<Network>,
    /// Worker threads, each with its own runtime.
    pub(crate) workers: usize,
    /// Bounds of the front.
    pub(crate) limits: Limits,
    /// How many requests each app takes.
    pub(crate) rates: RateLimits,
    /// The embedded database.
    pub(crate) database: Database,
    /// The MongoDB listener.
    pub(crate) mongo: Mongo,
    /// Objects and their cache.
    pub(crate) storage: Storage,
    /// The function host.
    pub(crate) functions: Functions,
    /// How long deployments stay.
    pub(crate) deployments: Deployments,
    /// Lifetimes of tokens.
    pub(crate) auth: AuthTimes,
    /// Cross-origin requests.
    pub(crate) cors: Cors,
    /// The node's own log, and those of functions.
    pub(crate) log: Log,
    /// Time between two rounds of maintenance.
    pub(crate) maintenance_interval: Duration,
    /// Whether `/metrics` on the admin listener needs no key.
    pub(crate) metrics_public: bool,
}

/// PEM files of a certificate chain and its key; read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Bounds of the front.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of a request's head.
    pub(crate) header_bytes_max: usize,
    /// Header fields of a request.
    pub(crate) headers_max: usize,
    /// Time for a request's head to arrive once its first byte did, and for a TLS handshake.
    pub(crate) header_timeout: Duration,
    /// Time that a connection may be open without a request.
    pub(crate) idle_timeout: Duration,
    /// Time that a peer may leave a body waiting, in either direction.
    pub(crate) stall_timeout: Duration,
    /// Time for a request as a whole; a function's own timeout also holds. Uploads and downloads are not bound by it.
    pub(crate) request_timeout: Duration,
    /// Bytes of a request's body, but for uploads of objects.
    pub(crate) body_bytes_max: u64,
    /// Connections open at once on each listener.
    pub(crate) connections_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub(crate) streams_max: u32,
    /// Time that requests in flight get to finish when the node is told to stop.
    pub(crate) drain_grace: Duration,
}

/// How many requests each app takes from its clients.
#[derive(Debug, Clone)]
pub(crate) struct RateLimits {
    /// A manifest may only lower them.
    pub(crate) bounds: Rates,
    /// Users and addresses of one app that are told apart.
    pub(crate) clients_max: usize,
}

/// The embedded database.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    /// Bytes of page cache.
    pub(crate) cache_bytes: usize,
    /// Reader threads.
    pub(crate) readers: usize,
    /// Bytes of history that the change log keeps; 0 turns it off.
    pub(crate) change_log_bytes: u64,
    /// Time between two looks for documents that TTL indexes say are over their time.
    pub(crate) expire_interval: Duration,
    /// Whether a sort or group may spill to disk that does not say whether.
    pub(crate) allow_disk_use: bool,
    /// Directory of what is spilled.
    pub(crate) spill_dir: PathBuf,
    /// Bytes that one operation may have there.
    pub(crate) spill_bytes_max: u64,
    /// Bytes that all operations together may have there.
    pub(crate) spill_total_bytes_max: u64,
}

/// The MongoDB listener.
#[derive(Debug, Clone)]
pub(crate) struct Mongo {
    /// Its address; without one there is no such listener.
    pub(crate) listen: Option<SocketAddr>,
    /// Name of the replica set whose one member it says it is; otherwise it says that it is a router.
    pub(crate) replica_set: Option<String>,
    /// `host:port` at which clients reach it, for a replica set; otherwise the listener's address.
    pub(crate) advertise: Option<String>,
}

/// Objects and their cache.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    /// Bytes of the memory cache.
    pub(crate) cache_bytes: u64,
    /// Largest object kept in the memory cache.
    pub(crate) cached_object_bytes_max: u64,
    /// Largest object.
    pub(crate) object_bytes_max: u64,
    /// Directory of the objects.
    pub(crate) dir: PathBuf,
}

/// The function host.
#[derive(Debug, Clone)]
pub(crate) struct Functions {
    /// Instances alive at once.
    pub(crate) instances_max: u32,
    /// Those of one app.
    pub(crate) app_instances_max: usize,
    /// Invocations that wait at once.
    pub(crate) queue_max: usize,
    /// Largest memory that a function may be given.
    pub(crate) memory_bytes_max: usize,
    /// Largest component accepted at a deploy.
    pub(crate) component_bytes_max: usize,
    /// Deliveries of an app's triggers of one kind that wait at once.
    pub(crate) deliveries_max: u64,
}

/// Which deployments of an app are kept. Those that serve requests and pinned ones always are.
#[derive(Debug, Clone)]
pub(crate) struct Deployments {
    /// The last ones, besides the active one.
    pub(crate) kept: usize,
    /// Also those that are younger than this.
    pub(crate) kept_for: Option<Duration>,
    /// How long components, their compiled code and site files stay that no deployment uses.
    pub(crate) unused_for: Duration,
}

/// Lifetimes of tokens.
#[derive(Debug, Clone)]
pub(crate) struct AuthTimes {
    pub(crate) access_ttl: Duration,
    pub(crate) refresh_ttl: Duration,
}

/// Cross-origin requests.
#[derive(Debug, Clone)]
pub(crate) struct Cors {
    /// Origins that may use the client API from a browser; `*` is any.
    pub(crate) origins: Vec<String>,
    /// Whether the platform also answers for HTTP triggers; otherwise functions see preflights themselves.
    pub(crate) triggers: bool,
}

/// The node's own log, on standard error, and what is kept of functions' logs.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    /// A level, or a `tracing` filter such as `info,cloudlet_server=debug`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
    /// Bytes of all apps' log files.
    pub(crate) store_bytes: u64,
    /// Bytes of one app's log files.
    pub(crate) app_bytes: u64,
    /// How long functions' log lines are kept.
    pub(crate) store_age: Duration,
    /// Lines of one function a second that are all kept.
    pub(crate) lines_per_second: u64,
    /// Which invocations get a line when they end.
    pub(crate) invocations: LogInvocations,
}

/// Which invocations get a line of the platform's when they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogInvocations {
    /// Those that fail.
    Failed,
    /// All.
    All,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Everything that is wrong with a configuration. The process exits with [`EXIT_USAGE`].
#[derive(Debug)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $field:ident, $name:literal, $env:literal;)*) => {
        /// The settings as flags and environment variables, all as text; [`NodeConfig::resolve`] reads them.
        #[derive(Debug, Clone, Default, clap::Args)]
        pub(crate) struct ServeArgs {
            /// Base domains; app `hotel` is served at `hotel.DOMAIN` of each.
            #[arg(value_name = "DOMAIN")]
            pub(crate) domains: Vec<String>,
            /// The configuration file; `node.toml` when that is there.
            #[arg(long, env = "CLOUDLET_CONFIG", value_name = "FILE")]
            pub(crate) config: Option<PathBuf>,
            $($(#[doc = $doc])* #[arg(long, env = $env, value_name = "VALUE")] pub(crate) $field: Option<String>,)*
        }

        /// The names of all settings.
        const NAMES: &[&str] = &["domains", $($name),*];

        impl ServeArgs {
            /// The settings given, by name.
            fn texts(&self) -> BTreeMap<&'static str, &str> {
                let mut texts = BTreeMap::new();
                $(if let Some(text) = &self.$field { texts.insert($name, text.as_str()); })*
                texts
            }
        }
    };
}

settings! {
    /// Directory of everything that the node keeps [default: cloudlet-data]
    data_dir, "data_dir", "CLOUDLET_DATA_DIR";
    /// File of the key that seals secrets [default: secrets.key in data_dir]
    secrets_key_file, "secrets.key_file", "CLOUDLET_SECRETS_KEY_FILE";
    /// Address of the public listener [default: 127.0.0.1:8080]
    listen, "listen", "CLOUDLET_LISTEN";
    /// Address of the admin listener [default: 127.0.0.1:8081]
    admin_listen, "admin_listen", "CLOUDLET_ADMIN_LISTEN";
    /// Addresses of proxies that are believed about whom they speak for [default: 127.0.0.0/8,::1]
    trusted_proxies, "trusted_proxies", "CLOUDLET_TRUSTED_PROXIES";
    /// Worker threads [default: one a core]
    workers, "workers", "CLOUDLET_WORKERS";
    /// Whether /metrics needs no key [default: true on a loopback admin listener, else false]
    metrics_public, "metrics_public", "CLOUDLET_METRICS_PUBLIC";
    /// Time between two rounds of maintenance [default: 1h]
    maintenance_interval, "maintenance_interval", "CLOUDLET_MAINTENANCE_INTERVAL";
    /// PEM file of the certificate chain of the public listener
    tls_cert, "tls.cert", "CLOUDLET_TLS_CERT";
    /// PEM file of its private key
    tls_key, "tls.key", "CLOUDLET_TLS_KEY";
    /// Bytes of a request's head [default: 16KiB]
    limits_header_bytes_max, "limits.header_bytes_max", "CLOUDLET_LIMITS_HEADER_BYTES_MAX";
    /// Header fields of a request [default: 100]
    limits_headers_max, "limits.headers_max", "CLOUDLET_LIMITS_HEADERS_MAX";
    /// Time for a request's head to arrive [default: 10s]
    limits_header_timeout, "limits.header_timeout", "CLOUDLET_LIMITS_HEADER_TIMEOUT";
    /// Time that a connection may be open without a request [default: 75s]
    limits_idle_timeout, "limits.idle_timeout", "CLOUDLET_LIMITS_IDLE_TIMEOUT";
    /// Time that a peer may leave a body waiting [default: 30s]
    limits_stall_timeout, "limits.stall_timeout", "CLOUDLET_LIMITS_STALL_TIMEOUT";
    /// Time for a request as a whole [default: 60s]
    limits_request_timeout, "limits.request_timeout", "CLOUDLET_LIMITS_REQUEST_TIMEOUT";
    /// Bytes of a request's body, but for uploads [default: 16MiB]
    limits_body_bytes_max, "limits.body_bytes_max", "CLOUDLET_LIMITS_BODY_BYTES_MAX";
    /// Connections open at once on each listener [default: 10000]
    limits_connections_max, "limits.connections_max", "CLOUDLET_LIMITS_CONNECTIONS_MAX";
    /// Requests at once on one HTTP/2 connection [default: 200]
    limits_streams_max, "limits.streams_max", "CLOUDLET_LIMITS_STREAMS_MAX";
    /// Time that requests in flight get to finish at the end [default: 30s]
    limits_drain_grace, "limits.drain_grace", "CLOUDLET_LIMITS_DRAIN_GRACE";
    /// Requests that each app takes from all its clients, e.g. "1000/s burst 2000" [default: any]
    rates_total, "rates.total", "CLOUDLET_RATES_TOTAL";
    /// The same from one user [default: any]
    rates_user, "rates.user", "CLOUDLET_RATES_USER";
    /// The same from one address [default: any]
    rates_address, "rates.address", "CLOUDLET_RATES_ADDRESS";
    /// Users and addresses of one app that are told apart [default: 16384]
    rates_clients_max, "rates.clients_max", "CLOUDLET_RATES_CLIENTS_MAX";
    /// Bytes of the database's page cache [default: 256MiB]
    database_cache_bytes, "database.cache_bytes", "CLOUDLET_DATABASE_CACHE_BYTES";
    /// Threads that read the database [default: one a core]
    database_readers, "database.readers", "CLOUDLET_DATABASE_READERS";
    /// Bytes of history that the change log keeps [default: 0, no log]
    database_change_log_bytes, "database.change_log_bytes", "CLOUDLET_DATABASE_CHANGE_LOG_BYTES";
    /// Time between two looks for documents that are over their time [default: 60s]
    database_expire_interval, "database.expire_interval", "CLOUDLET_DATABASE_EXPIRE_INTERVAL";
    /// Whether a sort or group may spill to disk that does not say whether [default: true]
    database_allow_disk_use, "database.allow_disk_use", "CLOUDLET_DATABASE_ALLOW_DISK_USE";
    /// Directory of what is spilled [default: spill in data_dir]
    database_spill_dir, "database.spill_dir", "CLOUDLET_DATABASE_SPILL_DIR";
    /// Bytes that one operation may spill [default: 2GiB]
    database_spill_bytes_max, "database.spill_bytes_max", "CLOUDLET_DATABASE_SPILL_BYTES_MAX";
    /// Bytes that all operations together may have spilled [default: 8GiB]
    database_spill_total_bytes_max, "database.spill_total_bytes_max", "CLOUDLET_DATABASE_SPILL_TOTAL_BYTES_MAX";
    /// Address of the MongoDB listener [default: none]
    mongo_listen, "mongo.listen", "CLOUDLET_MONGO_LISTEN";
    /// Name of the replica set that it says it is [default: none, a router]
    mongo_replica_set, "mongo.replica_set", "CLOUDLET_MONGO_REPLICA_SET";
    /// host:port at which clients reach it, for a replica set [default: mongo.listen]
    mongo_advertise, "mongo.advertise", "CLOUDLET_MONGO_ADVERTISE";
    /// Directory of the objects [default: objects in data_dir]
    storage_dir, "storage.dir", "CLOUDLET_STORAGE_DIR";
    /// Bytes of the memory cache of objects [default: 128MiB]
    storage_cache_bytes, "storage.cache_bytes", "CLOUDLET_STORAGE_CACHE_BYTES";
    /// Largest object kept in the memory cache [default: 4MiB]
    storage_cached_object_bytes_max, "storage.cached_object_bytes_max", "CLOUDLET_STORAGE_CACHED_OBJECT_BYTES_MAX";
    /// Largest object [default: 5GiB]
    storage_object_bytes_max, "storage.object_bytes_max", "CLOUDLET_STORAGE_OBJECT_BYTES_MAX";
    /// Function instances alive at once [default: 1000]
    functions_instances_max, "functions.instances_max", "CLOUDLET_FUNCTIONS_INSTANCES_MAX";
    /// Function instances of one app alive at once [default: functions.instances_max]
    functions_app_instances_max, "functions.app_instances_max", "CLOUDLET_FUNCTIONS_APP_INSTANCES_MAX";
    /// Invocations that may wait for their turn at once [default: 1000]
    functions_queue_max, "functions.queue_max", "CLOUDLET_FUNCTIONS_QUEUE_MAX";
    /// Largest memory that a function may be given [default: 256MiB]
    functions_memory_bytes_max, "functions.memory_bytes_max", "CLOUDLET_FUNCTIONS_MEMORY_BYTES_MAX";
    /// Largest component accepted at a deploy [default: 64MiB]
    functions_component_bytes_max, "functions.component_bytes_max", "CLOUDLET_FUNCTIONS_COMPONENT_BYTES_MAX";
    /// Deliveries of an app's triggers of one kind that wait at once [default: 10000]
    functions_deliveries_max, "functions.deliveries_max", "CLOUDLET_FUNCTIONS_DELIVERIES_MAX";
    /// Deployments of an app that are kept besides the active one [default: 10]
    deployments_kept, "deployments.kept", "CLOUDLET_DEPLOYMENTS_KEPT";
    /// Keep also deployments that are younger than this [default: by number only]
    deployments_kept_for, "deployments.kept_for", "CLOUDLET_DEPLOYMENTS_KEPT_FOR";
    /// How long deployed content stays that no deployment uses [default: 1h]
    deployments_unused_for, "deployments.unused_for", "CLOUDLET_DEPLOYMENTS_UNUSED_FOR";
    /// How long an access token is good [default: 2h]
    auth_access_ttl, "auth.access_ttl", "CLOUDLET_AUTH_ACCESS_TTL";
    /// How long a refresh token is good after its last use [default: 30d]
    auth_refresh_ttl, "auth.refresh_ttl", "CLOUDLET_AUTH_REFRESH_TTL";
    /// Origins that may use the client API from a browser, comma-separated [default: *]
    cors_origins, "cors.origins", "CLOUDLET_CORS_ORIGINS";
    /// Whether the platform answers preflights for HTTP triggers too [default: false]
    cors_triggers, "cors.triggers", "CLOUDLET_CORS_TRIGGERS";
    /// Level or filter of the node's log [default: info]
    log_level, "log.level", "CLOUDLET_LOG_LEVEL";
    /// Format of the node's log, text or json [default: text]
    log_format, "log.format", "CLOUDLET_LOG_FORMAT";
    /// Bytes of all apps' log files [default: 1GiB]
    log_store_bytes, "log.store_bytes", "CLOUDLET_LOG_STORE_BYTES";
    /// Bytes of one app's log files [default: 64MiB]
    log_app_bytes, "log.app_bytes", "CLOUDLET_LOG_APP_BYTES";
    /// How long functions' log lines are kept [default: 14d]
    log_store_age, "log.store_age", "CLOUDLET_LOG_STORE_AGE";
    /// Lines of one function a second that are all kept; of the others one in 100 is [default: 1000]
    log_lines_per_second, "log.lines_per_second", "CLOUDLET_LOG_LINES_PER_SECOND";
    /// Which invocations get a line when they end, failed or all [default: failed]
    log_invocations, "log.invocations", "CLOUDLET_LOG_INVOCATIONS";
}

impl NodeConfig {
    /// Reads the file that `args` names (or `node.toml`, when that is there) and resolves everything.
    ///
    /// # Errors
    /// All problems of file, environment and flags together.
    pub(crate) fn resolve(args: &ServeArgs) -> Result<Self, Problems> {
        let (path, required) = match &args.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        let mut settings = Settings::new(args);
        match std::fs::read_to_string(&path) {
            Ok(text) => settings.read_file(&path, &text),
            Err(error) if required || error.kind() != std::io::ErrorKind::NotFound => {
                settings.problem(format!("can't read {}: {error}", path.display()));
            }
            Err(_) => {}
        }
        settings.resolve(args)
    }

    /// The file of the embedded database.
    pub(crate) fn database_file(&self) -> PathBuf {
        self.data_dir.join("docs.redb")
    }

    /// The defaults with everything under `data_dir` and both listeners on free loopback ports: for tests and `dev`.
    pub(crate) fn ephemeral(data_dir: &Path) -> Result<Self, Problems> {
        let args = ServeArgs {
            data_dir: Some(data_dir.display().to_string()),
            listen: Some("127.0.0.1:0".into()),
            admin_listen: Some("127.0.0.1:0".into()),
            ..ServeArgs::default()
        };
        Settings::new(&args).resolve(&args)
    }
}

/// What was given, and what is wrong with it so far.
struct Settings<'a> {
    args: BTreeMap<&'static str, &'a str>,
    file: BTreeMap<String, String>,
    file_dir: PathBuf,
    problems: Vec<String>,
}

impl<'a> Settings<'a> {
    fn new(args: &'a ServeArgs) -> Self {
        Self {
            args: args.texts(),
            file: BTreeMap::new(),
            file_dir: PathBuf::new(),
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Takes the file's settings as text by full name; unknown ones are problems.
    fn read_file(&mut self, path: &Path, text: &str) {
        self.file_dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                return self.problem(format!("{}: {}", path.display(), error.to_string().trim_end()));
            }
        };
        for (key, value) in table {
            match value {
                Value::Table(section) => {
                    for (inner, value) in section {
                        self.read_value(path, format!("{key}.{inner}"), &value);
                    }
                }
                value => self.read_value(path, key, &value),
            }
        }
    }

    fn read_value(&mut self, path: &Path, name: String, value: &Value) {
        if !NAMES.contains(&name.as_str()) {
            let near = nearest(&name)
                .map(|n| format!("; did you mean {n:?}?"))
                .unwrap_or_default();
            return self.problem(format!("{}: unknown setting {name:?}{near}", path.display()));
        }
        match text_of(value) {
            Some(text) => {
                self.file.insert(name, text);
            }
            None => self.problem(format!(
                "{}: {name} is a {}; expected a text, a number, a boolean or a list of texts",
                path.display(),
                value.type_str()
            )),
        }
    }

    /// The value of one setting: what was given, parsed, or the default.
    fn get<T>(&mut self, name: &'static str, default: T, parse: fn(&str) -> Result<T, String>) -> T {
        debug_assert!(NAMES.contains(&name), "{name} is not declared");
        let text = match (self.args.get(name), self.file.get(name)) {
            (Some(text), _) => *text,
            (None, Some(text)) => text.as_str(),
            (None, None) => return default,
        };
        match parse(text) {
            Ok(value) => value,
            Err(why) => {
                let problem = format!("{name} = {text:?}: {why}");
                self.problem(problem);
                default
            }
        }
    }

    /// A path: from the file relative to the file, from a flag relative to the working directory.
    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        match (self.args.get(name), self.file.get(name)) {
            (Some(text), _) => Some(PathBuf::from(text)),
            (None, Some(text)) => Some(self.file_dir.join(text)),
            (None, None) => None,
        }
    }

    fn resolve(mut self, args: &ServeArgs) -> Result<NodeConfig, Problems> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let data_dir = self.path("data_dir").unwrap_or_else(|| "cloudlet-data".into());
        let admin_listen = self.get("admin_listen", loopback(8081), address);
        let mut domains = self.get("domains", Vec::new(), list);
        domains.extend(args.domains.iter().cloned());
        let config = NodeConfig {
            listen: self.get("listen", loopback(8080), address),
            admin_listen,
            tls: self.tls(),
            domains: self.domains(domains),
            trusted_proxies: self.get("trusted_proxies", loopback_networks(), networks),
            workers: self.get("workers", cores, count),
            limits: self.limits(),
            rates: RateLimits {
                bounds: Rates {
                    total: self.get("rates.total", None, some_rate),
                    user: self.get("rates.user", None, some_rate),
                    address: self.get("rates.address", None, some_rate),
                },
                clients_max: self.get("rates.clients_max", 16 << 10, count),
            },
            database: Database {
                cache_bytes: self.get("database.cache_bytes", 256 << 20, bytes_usize),
                readers: self.get("database.readers", cores, count),
                change_log_bytes: self.get("database.change_log_bytes", 0, |text| match text.trim() {
                    "0" => Ok(0),
                    text => bytes(text),
                }),
                expire_interval: self.get("database.expire_interval", Duration::from_secs(60), duration),
                allow_disk_use: self.get("database.allow_disk_use", true, boolean),
                spill_dir: self
                    .path("database.spill_dir")
                    .unwrap_or_else(|| data_dir.join("spill")),
                spill_bytes_max: self.get("database.spill_bytes_max", 2 << 30, bytes),
                spill_total_bytes_max: self.get("database.spill_total_bytes_max", 8 << 30, bytes),
            },
            mongo: Mongo {
                listen: self.get("mongo.listen", None, |text| address(text).map(Some)),
                replica_set: self.get("mongo.replica_set", None, some_text),
                advertise: self.get("mongo.advertise", None, some_text),
            },
            storage: Storage {
                cache_bytes: self.get("storage.cache_bytes", 128 << 20, bytes),
                cached_object_bytes_max: self.get("storage.cached_object_bytes_max", 4 << 20, bytes),
                object_bytes_max: self.get("storage.object_bytes_max", 5 << 30, bytes),
                dir: self
                    .path("storage.dir")
                    .unwrap_or_else(|| data_dir.join("objects")),
            },
            functions: Functions {
                instances_max: self.get("functions.instances_max", 1000, count_u32),
                app_instances_max: self.get("functions.app_instances_max", usize::MAX, count),
                queue_max: self.get("functions.queue_max", 1000, count),
                memory_bytes_max: self.get("functions.memory_bytes_max", 256 << 20, bytes_usize),
                component_bytes_max: self.get("functions.component_bytes_max", 64 << 20, bytes_usize),
                deliveries_max: self.get("functions.deliveries_max", 10_000, count_u32).into(),
            },
            deployments: Deployments {
                kept: self.get("deployments.kept", 10, kept),
                kept_for: self.get("deployments.kept_for", None, |text| duration(text).map(Some)),
                unused_for: self.get("deployments.unused_for", Duration::from_secs(3600), duration),
            },
            auth: AuthTimes {
                access_ttl: self.get("auth.access_ttl", Duration::from_secs(2 * 3600), duration),
                refresh_ttl: self.get("auth.refresh_ttl", Duration::from_secs(30 * 24 * 3600), duration),
            },
            cors: Cors {
                origins: self.get("cors.origins", vec!["*".into()], list),
                triggers: self.get("cors.triggers", false, boolean),
            },
            log: Log {
                level: self.get("log.level", "info".into(), |text| Ok(text.to_owned())),
                format: self.get("log.format", LogFormat::Text, log_format),
                store_bytes: self.get("log.store_bytes", 1 << 30, bytes),
                app_bytes: self.get("log.app_bytes", 64 << 20, bytes),
                store_age: self.get("log.store_age", Duration::from_secs(14 * 24 * 3600), duration),
                lines_per_second: self.get("log.lines_per_second", 1000, |text| Ok(count(text)? as u64)),
                invocations: self.get("log.invocations", LogInvocations::Failed, log_invocations),
            },
            secret_key_file: self
                .path("secrets.key_file")
                .unwrap_or_else(|| data_dir.join(KEY_FILE)),
            maintenance_interval: self.get("maintenance_interval", Duration::from_secs(3600), duration),
            metrics_public: self.get("metrics_public", admin_listen.ip().is_loopback(), boolean),
            data_dir,
        };
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(self.problems))
        }
    }

    fn limits(&mut self) -> Limits {
        let limits = Limits {
            header_bytes_max: self.get("limits.header_bytes_max", 16 << 10, bytes_usize),
            headers_max: self.get("limits.headers_max", 100, count),
            header_timeout: self.get("limits.header_timeout", Duration::from_secs(10), duration),
            idle_timeout: self.get("limits.idle_timeout", Duration::from_secs(75), duration),
            stall_timeout: self.get("limits.stall_timeout", Duration::from_secs(30), duration),
            request_timeout: self.get("limits.request_timeout", Duration::from_secs(60), duration),
            body_bytes_max: self.get("limits.body_bytes_max", 16 << 20, bytes),
            connections_max: self.get("limits.connections_max", 10_000, count),
            streams_max: self.get("limits.streams_max", 200, count_u32),
            drain_grace: self.get("limits.drain_grace", Duration::from_secs(30), duration),
        };
        if limits.header_bytes_max < HEADER_BYTES_MIN {
            let seen = limits.header_bytes_max;
            self.problem(format!(
                "limits.header_bytes_max = {seen}: must be at least {HEADER_BYTES_MIN}"
            ));
        }
        limits
    }

    fn tls(&mut self) -> Option<TlsFiles> {
        match (self.path("tls.cert"), self.path("tls.key")) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => {
                self.problem("tls.cert and tls.key must be given together".into());
                None
            }
        }
    }

    /// Checked, lower-case, with `localhost` first.
    fn domains(&mut self, given: Vec<String>) -> Vec<String> {
        let mut domains = vec!["localhost".to_owned()];
        for domain in given {
            let domain = domain.trim_end_matches('.').to_ascii_lowercase();
            let ok = !domain.is_empty()
                && domain.len() <= 253
                && domain.split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                });
            if !ok {
                self.problem(format!(
                    "domain {domain:?} is not a host name, such as apps.example.com"
                ));
            } else if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        domains
    }
}

/// hyper's smallest read buffer for HTTP/1.
const HEADER_BYTES_MIN: usize = 8192;

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// The setting whose last part is the same, or whose name begins alike.
fn nearest(name: &str) -> Option<&'static str> {
    let last = |n: &str| n.rsplit('.').next().map(str::to_owned);
    NAMES
        .iter()
        .find(|known| last(known) == last(name))
        .or_else(|| {
            NAMES
                .iter()
                .find(|known| known.len() > 4 && name.starts_with(&known[..known.len() - 2]))
        })
        .copied()
}

fn some_text(text: &str) -> Result<Option<String>, String> {
    match text.trim() {
        "" => Err("expected a text that is not empty".into()),
        text => Ok(Some(text.to_owned())),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an address and a port, such as 127.0.0.1:8080".into())
}

/// More of anything that is counted is a mistake.
const COUNT_MAX: usize = 1_000_000;

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=COUNT_MAX) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {COUNT_MAX}")),
    }
}

/// How many deployments of an app are kept at most, whatever their age.
pub(crate) const DEPLOYMENTS_KEPT_MAX: usize = 1000;

fn kept(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=DEPLOYMENTS_KEPT_MAX) => Ok(number),
        _ => Err(format!(
            "expected a whole number from 1 to {DEPLOYMENTS_KEPT_MAX}"
        )),
    }
}

fn count_u32(text: &str) -> Result<u32, String> {
    u32::try_from(count(text)?).map_err(|_| "too large".into())
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".into())
}

fn list(text: &str) -> Result<Vec<String>, String> {
    Ok(text
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .map(str::to_owned)
        .collect())
}

fn some_rate(text: &str) -> Result<Option<Rate>, String> {
    let rate = Rate::parse(text)
        .ok_or("expected requests in a second, minute or hour, such as 20/s or 100/m burst 200")?;
    Ok(Some(rate))
}

fn networks(text: &str) -> Result<Vec<Network>, String> {
    let parse = |text: &String| {
        Network::parse(text)
            .ok_or_else(|| format!("{text:?} is neither an address nor a network, such as 10.0.0.0/8"))
    };
    list(text)?.iter().map(parse).collect()
}

/// Whoever is on this machine may say whom it speaks for.
fn loopback_networks() -> Vec<Network> {
    ["127.0.0.0/8", "::1"]
        .iter()
        .filter_map(|text| Network::parse(text))
        .collect()
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected text or json".into()),
    }
}

fn log_invocations(text: &str) -> Result<LogInvocations, String> {
    match text {
        "failed" => Ok(LogInvocations::Failed),
        "all" => Ok(LogInvocations::All),
        _ => Err("expected failed or all".into()),
    }
}

/// A size: `65536`, `64KiB`, `16MiB`, `1GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => 64,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|n| n.checked_mul(1u64.checked_shl(shift)?))
        .filter(|n| *n > 0)
        .ok_or_else(|| "expected a size such as 65536, 64KiB, 16MiB or 1GiB".into())
}

fn bytes_usize(text: &str) -> Result<usize, String> {
    usize::try_from(bytes(text)?).map_err(|_| "too large".into())
}

/// A time: `250ms`, `10s`, `5m`, `2h`, `30d`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|n| n.checked_mul(millis))
        .filter(|n| *n > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time such as 250ms, 10s, 5m, 2h or 30d".into())
}

#[cfg(test)]
mod tests;
