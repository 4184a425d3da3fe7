//! What a function is: its resolved specification, and the loaded app that runs it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudlet_base::{AppId, ContentHash, Deadline, DeploymentId, Principal, RequestId};
use cloudlet_blob::BlobStore;
use cloudlet_data::AppData;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::admit::Gates;
use crate::bindings::CallFunctionPre;
use crate::error::InvokeError;
use crate::host::{Running, Shared};
use crate::instance::State;
use crate::outbound::OutboundPool;
use crate::trace::TraceContext;

/// One app's functions, resolved: everything parsed, nothing left to look up.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// The app.
    pub app: AppId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// Invocations at once, of all its functions and deployments together; the node may allow fewer.
    pub concurrency: usize,
    /// The functions by name.
    pub functions: Vec<FunctionSpec>,
}

/// One function, resolved.
#[derive(Clone)]
pub struct FunctionSpec {
    /// Its name, unique in the app.
    pub name: Arc<str>,
    /// The component's content hash; it must have been compiled.
    pub component: ContentHash,
    /// What it may import and use.
    pub grants: Grants,
    /// What it may use up.
    pub limits: FunctionLimits,
    /// `wasi:config` values: granted vars.
    pub vars: BTreeMap<String, String>,
    /// `wasi:config` values that are secret: granted secrets; never logged.
    pub secrets: BTreeMap<String, String>,
    /// Where it may send HTTP requests; empty refuses the import of `wasi:http/outgoing-handler`'s use at run time.
    pub outbound: Vec<OutboundRule>,
}

/// Of secrets the names alone.
impl fmt::Debug for FunctionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            component,
            grants,
            limits,
            vars,
            secrets,
            outbound,
        } = self;
        f.debug_struct("FunctionSpec")
            .field("name", name)
            .field("component", component)
            .field("grants", grants)
            .field("limits", limits)
            .field("vars", vars)
            .field("secrets", &secrets.keys())
            .field("outbound", outbound)
            .finish()
    }
}

/// What a function may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Collections, exactly; `*` is all. Empty: the import `cloudlet:database` is refused.
    pub database: Vec<String>,
    /// Object path prefixes. Empty: the imports `cloudlet:storage` and `wasi:blobstore` are refused.
    pub storage: Vec<String>,
    /// Labels of key-value stores. Empty: the imports `wasi:keyvalue` and `fermyon:spin/key-value` are refused.
    pub keyvalue: Vec<String>,
    /// Other functions of the app. Empty: the import `cloudlet:function/invoke` is refused.
    pub functions: Vec<String>,
}

/// One origin that a function may reach: `scheme://host[:port]`, where host may begin with `*.`.
/// Loopback, link-local and private addresses are reached only when the rule names such an address or `localhost`
/// (or a name under `.localhost`) itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundRule {
    /// `http` or `https`.
    pub https: bool,
    /// Host name, IP address, or `*.suffix`.
    pub host: String,
    /// Port; the scheme's default when the manifest gives none.
    pub port: u16,
}

/// What one invocation may use up, and how many may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionLimits {
    /// Linear memory, bytes.
    pub memory_bytes_max: usize,
    /// Wall-clock time from admission to the last body byte.
    pub timeout: Duration,
    /// Computing time, by the clock of the thread that runs the guest: waiting, for a core as well, does not count. It is
    /// looked at when the guest has computed for a tick (2 ms), and with every tick from there on.
    pub cpu: Duration,
    /// Invocations at once; more wait, or are refused with busy.
    pub concurrency: usize,
    /// How long one may wait for its turn when too many run, of the function, the app or the node; zero refuses at once.
    pub queue: Duration,
    /// Request body bytes.
    pub request_bytes_max: u64,
    /// Response body bytes.
    pub response_bytes_max: u64,
    /// Outbound HTTP requests.
    pub outbound_requests_max: u32,
    /// Bytes of the bodies of outbound requests and their responses, all together.
    pub outbound_bytes_max: u64,
    /// Log lines; further ones are dropped, and that is said once.
    pub log_lines_max: u32,
    /// Depth of function-to-function calls.
    pub call_depth_max: u32,
}

impl Default for FunctionLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            timeout: Duration::from_secs(10),
            cpu: Duration::from_secs(1),
            concurrency: 200,
            queue: Duration::ZERO,
            request_bytes_max: 6 << 20,
            response_bytes_max: 32 << 20,
            outbound_requests_max: 50,
            outbound_bytes_max: 64 << 20,
            log_lines_max: 1000,
            call_depth_max: 8,
        }
    }
}

/// The node's services that an app's functions reach through their imports.
#[derive(Clone)]
pub struct Services {
    /// The app's documents and rules.
    pub data: AppData,
    /// Objects.
    pub blobs: BlobStore,
    /// Bucket name in `cloud://APP.BUCKET/PATH`.
    pub bucket: Arc<str>,
}

/// What made an invocation happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A request on an HTTP route.
    Http,
    /// A call by a client SDK, another function or the command line.
    Call,
}

/// The circumstances of one invocation.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The request.
    pub request: RequestId,
    /// Who is behind it.
    pub principal: Principal,
    /// By when it must be done; the function's own timeout also holds.
    pub deadline: Deadline,
    /// How deep in function-to-function calls.
    pub depth: u32,
    /// The trace that it belongs to, for the requests that it sends.
    pub trace: TraceContext,
}

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// What the function gets.
    pub payload: Bytes,
}

/// What a call gave: the function's reply, or its own typed error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallReply {
    /// The reply, as it is.
    Ok(Bytes),
    /// `invalid` of `cloudlet:function/types.error`.
    Invalid(String),
    /// `denied`.
    Denied(String),
    /// `not-found`.
    NotFound(String),
    /// `failed`.
    Failed(String),
    /// `busy`.
    Busy(String),
    /// `deadline`.
    Deadline,
}

/// An app's functions, linked and ready. Hold it in an `Arc`; invocations in flight keep it alive, so an older
/// deployment drains by itself.
pub struct LoadedApp {
    pub(crate) shared: Arc<Shared>,
    pub(crate) app: AppId,
    pub(crate) deployment: DeploymentId,
    pub(crate) services: Services,
    pub(crate) functions: HashMap<Arc<str>, Arc<Function>>,
}

/// One function, linked.
pub(crate) struct Function {
    pub(crate) spec: FunctionSpec,
    /// Ready to be instantiated for `wasi:http/incoming-handler`, when the component exports it.
    pub(crate) http: Option<ProxyPre<State>>,
    /// Ready to be instantiated for `cloudlet:function/handler`, when the component exports it.
    pub(crate) call: Option<CallFunctionPre<State>>,
    pub(crate) gates: Gates,
    /// Connections to the origins that this function talks to. Not shared between functions: what one may reach by
    /// its rules, another may not by its own.
    pub(crate) outbound: OutboundPool,
    /// Keeps the component among those that others may share.
    pub(crate) _component: Arc<Running>,
}

impl LoadedApp {
    /// Whether the app has this function and it answers HTTP.
    pub fn serves_http(&self, function: &str) -> bool {
        self.functions.get(function).is_some_and(|f| f.http.is_some())
    }

    /// Whether the app has this function and it answers calls: by a handler for calls or, as any HTTP function can,
    /// by `POST /`.
    pub fn serves_calls(&self, function: &str) -> bool {
        self.functions.contains_key(function)
    }

    pub(crate) fn function(&self, name: &str) -> Result<&Arc<Function>, InvokeError> {
        self.functions
            .get(name)
            .ok_or_else(|| InvokeError::NoSuchFunction(name.to_owned()))
    }
}
