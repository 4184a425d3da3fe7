//! The manifest as written: one struct per table of `cloudlet.toml`, whose doc comments become the JSON Schema
//! that we ship and that `structure.rs` checks documents against. What the values mean is `resolve.rs`'s business.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use toml::Spanned;

/// A value and where it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// The value.
    pub(super) fn value(&self) -> &T {
        self.0.get_ref()
    }

    /// Its place, in bytes.
    pub(super) fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Text with its place.
pub(super) type Text = At<String>;
/// Something that the platform has a name for and does not offer yet.
pub(super) type Later = At<toml::Value>;
/// Tables by a name that the author chose.
pub(super) type Named<T> = BTreeMap<Spanned<String>, T>;

/// The manifest of a cloudlet app, `cloudlet.toml`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "cloudlet.toml")]
#[schemars(extend("required" = ["manifest_version", "app"]))]
pub(super) struct RawManifest {
    /// Version of this format: 1.
    pub(super) manifest_version: Option<At<i64>>,
    /// The app.
    pub(super) app: Option<RawApp>,
    /// What all its functions and clients together may use up.
    pub(super) limits: RawAppLimits,
    /// Values that functions may be granted to read.
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) vars: Named<Text>,
    /// Secret values that functions may be granted to read.
    pub(super) secrets: RawSecrets,
    /// The functions by name.
    #[schemars(with = "BTreeMap<String, RawFunction>")]
    pub(super) function: Named<RawFunction>,
    /// What invokes functions.
    pub(super) trigger: RawTriggers,
    /// Collections that need a rule or indexes.
    pub(super) database: RawDatabase,
    /// Who may reach objects.
    pub(super) storage: RawStorage,
    /// How users log in.
    pub(super) auth: RawAuth,
    /// The site that the node hosts.
    pub(super) hosting: Option<RawHosting>,
    /// What differs by environment, chosen with `--env NAME`.
    #[schemars(with = "BTreeMap<String, RawEnv>")]
    pub(super) env: Named<RawEnv>,
}

/// The app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
#[schemars(rename = "App")]
pub(super) struct RawApp {
    /// Its name: 1 to 40 of a-z, 0-9 and '-', beginning with a letter.
    pub(super) name: Option<Text>,
    /// Host names of its own, besides `NAME.localhost` and `NAME.` before the node's domains.
    pub(super) domains: Vec<Text>,
}

/// What all functions and clients of the app together may use up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "AppLimits")]
pub(super) struct RawAppLimits {
    /// Invocations of all functions at once; the node may allow fewer.
    pub(super) concurrency: Option<At<i64>>,
    /// Requests of clients to functions and to the client API.
    pub(super) rate: RawRates,
}

/// How many requests are taken: "20/s", "100/m" or "1000/h", maybe with " burst 40".
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Rates")]
pub(super) struct RawRates {
    /// From all clients together.
    pub(super) total: Option<Text>,
    /// From one logged-in user.
    pub(super) user: Option<Text>,
    /// From one address.
    pub(super) address: Option<Text>,
}

/// Secret values.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Secrets")]
pub(super) struct RawSecrets {
    /// Names of secrets that must have a value before the app can be deployed.
    pub(super) required: Vec<Text>,
}

/// A function.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["source"]))]
#[schemars(rename = "Function")]
pub(super) struct RawFunction {
    /// The component's file, relative to the manifest.
    pub(super) source: Option<Text>,
    /// How the component is built.
    pub(super) build: Option<RawBuild>,
    /// What it may use; what is not named is refused.
    pub(super) grants: RawGrants,
    /// Origins it may send HTTP requests to: `https://host[:port]`, the host may begin with `*.`.
    pub(super) outbound: Vec<Text>,
    /// What one invocation may use up.
    pub(super) limits: RawLimits,
    /// Whether an instance serves more than one request.
    pub(super) reuse: RawReuse,
    /// Which clients may call it: "true", "false" or "auth != null" (the default).
    pub(super) invoke: Option<Text>,
}

/// How a component is built.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["command"]))]
#[schemars(rename = "Build")]
pub(super) struct RawBuild {
    /// The command, run by the shell.
    pub(super) command: Option<Text>,
    /// Where it runs, relative to the manifest.
    pub(super) dir: Option<Text>,
    /// Patterns of files whose change calls for a new build in `cloudlet dev`; `**` is any directories.
    pub(super) watch: Vec<Text>,
}

/// What a function may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Grants")]
pub(super) struct RawGrants {
    /// Collections; "*" is all of the app's.
    pub(super) database: Vec<Text>,
    /// Prefixes of object paths.
    pub(super) storage: Vec<Text>,
    /// Key-value stores, by their labels; a store is there as soon as it is granted.
    pub(super) keyvalue: Vec<Text>,
    /// Functions of this app that it may call.
    pub(super) functions: Vec<Text>,
    /// Names from [vars].
    pub(super) vars: Vec<Text>,
    /// Names from secrets.required.
    pub(super) secrets: Vec<Text>,
}

/// What one invocation may use up, and how many may run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub(super) struct RawLimits {
    /// Linear memory, e.g. "64MiB".
    pub(super) memory: Option<Text>,
    /// Computing time, e.g. "200ms".
    pub(super) cpu: Option<Text>,
    /// Time from admission to the last byte, e.g. "3s".
    pub(super) timeout: Option<Text>,
    /// Invocations at once.
    pub(super) concurrency: Option<At<i64>>,
    /// Request body, e.g. "6MiB".
    pub(super) request_body: Option<Text>,
    /// Response body, e.g. "32MiB".
    pub(super) response_body: Option<Text>,
    /// How long one may wait for its turn when too many run, e.g. "100ms"; absent is not at all.
    pub(super) queue: Option<Text>,
    /// HTTP requests that one invocation may send.
    pub(super) outbound_requests: Option<At<i64>>,
    /// Bytes of the bodies of those and of their responses together, e.g. "64MiB".
    pub(super) outbound_bytes: Option<Text>,
    /// Log lines of one invocation.
    pub(super) log_lines: Option<At<i64>>,
    /// Depth of calls from function to function.
    pub(super) call_depth: Option<At<i64>>,
    /// Requests of clients to this function, beside those of the app.
    pub(super) rate: RawRates,
}

/// Whether an instance serves more than one request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Reuse")]
pub(super) struct RawReuse {
    /// Requests that one instance serves; 1 is a fresh instance for each, the only value for now.
    pub(super) max_requests: Option<At<i64>>,
}

/// What invokes functions.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Triggers")]
pub(super) struct RawTriggers {
    /// HTTP requests on a route.
    pub(super) http: Vec<At<RawHttpTrigger>>,
    /// Times.
    pub(super) timer: Vec<At<RawTimerTrigger>>,
    /// Changes of documents.
    pub(super) database: Vec<At<RawDatabaseTrigger>>,
    /// Changes of objects.
    pub(super) storage: Vec<At<RawStorageTrigger>>,
}

/// HTTP requests on a route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["route", "function"]))]
#[schemars(rename = "HttpTrigger")]
pub(super) struct RawHttpTrigger {
    /// A path, or with "..." at its end everything under it.
    pub(super) route: Option<Text>,
    /// Methods; none named is all.
    pub(super) methods: Vec<Text>,
    /// The function.
    pub(super) function: Option<Text>,
}

/// Times at which a function is invoked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["schedule", "function"]))]
#[schemars(rename = "TimerTrigger")]
pub(super) struct RawTimerTrigger {
    /// Its name, unique among the app's triggers; the function's when absent.
    pub(super) name: Option<Text>,
    /// `second minute hour day month weekday [year]`, e.g. "0 30 3 * * *".
    pub(super) schedule: Option<Text>,
    /// The time zone that the schedule is read in, e.g. "Asia/Shanghai"; "UTC" when absent.
    pub(super) time_zone: Option<Text>,
    /// The function.
    pub(super) function: Option<Text>,
    /// A text that the function gets.
    pub(super) message: Option<Text>,
    /// What becomes of ticks that the node was not there for: "skip" (the default), or "once" to make up for the last.
    pub(super) missed: Option<Text>,
    /// How often a failed invocation is tried again, 0 to 20; 3 when absent.
    pub(super) retries: Option<At<i64>>,
}

/// Changes of a collection's documents.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["collection", "function"]))]
#[schemars(rename = "DatabaseTrigger")]
pub(super) struct RawDatabaseTrigger {
    /// Its name, unique among the app's triggers; the function's when absent.
    pub(super) name: Option<Text>,
    /// The collection.
    pub(super) collection: Option<Text>,
    /// What happens to a document: "insert", "update", "replace", "delete"; all of it when absent.
    pub(super) on: Vec<Text>,
    /// A MongoDB filter for the change event, in extended JSON, e.g. `{ "fullDocument.status" = "open" }`.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) filter: Option<At<toml::Table>>,
    /// The function.
    pub(super) function: Option<Text>,
    /// How often a failed invocation is tried again, 0 to 20; 3 when absent.
    pub(super) retries: Option<At<i64>>,
}

/// Changes of objects under a prefix.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["function"]))]
#[schemars(rename = "StorageTrigger")]
pub(super) struct RawStorageTrigger {
    /// Its name, unique among the app's triggers; the function's when absent.
    pub(super) name: Option<Text>,
    /// What the objects' paths begin with, e.g. "photos/"; all objects when absent.
    pub(super) prefix: Option<Text>,
    /// What happens to an object: "created" (also in the place of another), "deleted"; both when absent.
    pub(super) on: Vec<Text>,
    /// The function.
    pub(super) function: Option<Text>,
    /// How often a failed invocation is tried again, 0 to 20; 3 when absent.
    pub(super) retries: Option<At<i64>>,
}

/// Collections that need a rule or indexes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Database")]
pub(super) struct RawDatabase {
    /// Collections by name.
    #[schemars(with = "BTreeMap<String, RawCollection>")]
    pub(super) collection: Named<RawCollection>,
}

/// A collection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Collection")]
pub(super) struct RawCollection {
    /// Who may read and write: "READONLY", "PRIVATE", "ADMINWRITE" or "ADMINONLY" (the default).
    #[schemars(with = "Option<RawRules>")]
    pub(super) rules: Option<At<toml::Value>>,
    /// Indexes, made at deploy when they are not there.
    pub(super) indexes: Vec<At<RawIndex>>,
}

/// A preset, or an expression for each operation.
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
#[schemars(rename = "Rules")]
enum RawRules {
    /// A preset.
    Preset(String),
    /// Not offered yet.
    Expressions(BTreeMap<String, String>),
}

/// An index.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["keys"]))]
#[schemars(rename = "Index")]
pub(super) struct RawIndex {
    /// Fields, each with 1, -1, "2dsphere", "2d" or "hashed", in the order written.
    #[schemars(with = "BTreeMap<String, RawKey>")]
    pub(super) keys: Named<At<toml::Value>>,
    /// Its name; made of the keys when absent.
    pub(super) name: Option<Text>,
    /// Whether no two documents may have the same key.
    pub(super) unique: bool,
    /// Whether documents without any of the fields are left out.
    pub(super) sparse: bool,
    /// Only documents that this MongoDB filter matches are entered, in extended JSON, e.g. `{ status = "open" }`.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) partial_filter: Option<At<toml::Table>>,
    /// Documents whose date in the only field is older than this expire, 0 to 2147483647.
    pub(super) expire_after_seconds: Option<At<i64>>,
    /// MongoDB's collation for its strings, e.g. `{ locale = "zh" }`.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) collation: Option<At<toml::Table>>,
    /// The bits of each coordinate in a "2d" index, 1 to 32; 26 when absent.
    pub(super) bits: Option<At<i64>>,
    /// The least coordinate of a "2d" index; -180 when absent.
    pub(super) min: Option<At<f64>>,
    /// What the coordinates of a "2d" index are below; 180 when absent.
    pub(super) max: Option<At<f64>>,
}

/// A direction, or a kind of index.
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
#[schemars(rename = "Key")]
enum RawKey {
    /// 1 or -1.
    Direction(i64),
    /// "2dsphere", "2d" or "hashed".
    Kind(String),
}

/// Who may reach objects.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Storage")]
pub(super) struct RawStorage {
    /// Rules by path prefix; the longest that fits counts.
    #[schemars(with = "BTreeMap<String, RawStorageRule>")]
    pub(super) rules: Named<RawStorageRule>,
    /// Cache-Control by path prefix.
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) cache: Named<Text>,
}

/// Who may read and write under a prefix: "true", "false", "auth != null", or
/// "auth != null && resource.openid == auth.openid" for the owner. Absent is "false".
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "StorageRule")]
pub(super) struct RawStorageRule {
    /// Who may read.
    pub(super) read: Option<Text>,
    /// Who may write.
    pub(super) write: Option<Text>,
}

/// How users log in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Auth")]
pub(super) struct RawAuth {
    /// Whether anybody may have an anonymous account.
    pub(super) anonymous: bool,
    /// Whether clients may register with username and password.
    pub(super) password: bool,
    /// Not offered yet.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) wechat: Option<Later>,
    /// Not offered yet.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) oidc: Option<Later>,
}

/// The site that the node hosts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["dir"]))]
#[schemars(rename = "Hosting")]
pub(super) struct RawHosting {
    /// Directory of its files, relative to the manifest.
    pub(super) dir: Option<Text>,
    /// Whether a path that names no file gets `/index.html`.
    pub(super) spa: bool,
}

/// What differs in one environment.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Env")]
pub(super) struct RawEnv {
    /// Values that take the place of those in [vars].
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) vars: Named<Text>,
}
