//! The host itself: engine, compiling, loading, invoking.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cloudlet_base::{Clock, ContentHash, Entropy, Fault};
use http_body_util::combinators::UnsyncBoxBody;

use crate::app::{AppSpec, Call, CallReply, Invocation, LoadedApp, Services};
use crate::logs::LogSink;

/// How to run functions.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Directory of compiled artifacts; made when it is not there.
    pub artifact_dir: PathBuf,
    /// Instances that may be alive at once on the node: the pool's size.
    pub instances_max: u32,
    /// Largest linear memory that any function may be given.
    pub memory_bytes_max: usize,
    /// Components compiled at once.
    pub compile_permits: usize,
    /// Largest component accepted.
    pub component_bytes_max: usize,
}

impl HostConfig {
    /// The defaults, with artifacts under `artifact_dir`.
    pub fn new(artifact_dir: PathBuf) -> Self {
        Self {
            artifact_dir,
            instances_max: 1000,
            memory_bytes_max: 256 << 20,
            compile_permits: 1,
            component_bytes_max: 64 << 20,
        }
    }
}

/// Why a component can't be compiled or linked. The deploy fails with these.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not a component.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// The component is too large.
    #[error("the component has {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// It imports something that the platform does not offer.
    #[error("function {function:?} imports {import:?}, which this platform does not offer")]
    UnknownImport {
        /// The function.
        function: String,
        /// The import.
        import: String,
    },
    /// It imports something that its manifest does not grant.
    #[error("function {function:?} imports {import:?}, which its manifest does not grant; add {remedy}")]
    NotGranted {
        /// The function.
        function: String,
        /// The import.
        import: String,
        /// What to write into the manifest.
        remedy: String,
    },
    /// It exports neither an HTTP nor a call handler.
    #[error("function {0:?} exports neither wasi:http/incoming-handler nor cloudlet:function/handler")]
    NoHandler(String),
    /// The artifact is missing: compile first.
    #[error("component {0} is not compiled on this node")]
    NotCompiled(ContentHash),
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl LoadError {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            LoadError::TooLarge { .. } => Fault::Limit,
            LoadError::NotCompiled(_) => Fault::NotFound,
            LoadError::Internal(_) => Fault::Internal,
            _ => Fault::Invalid,
        }
    }
}

/// Why a guest was stopped; the `reason` label of the trap metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the labels say it")]
pub enum TrapReason {
    Unreachable,
    MemoryOutOfBounds,
    StackOverflow,
    MemoryLimit,
    CpuLimit,
    Timeout,
    Exit,
    Other,
}

/// Why an invocation gave no response of the guest's own.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The app has no such function.
    #[error("no function {0:?}")]
    NoSuchFunction(String),
    /// The function does not export the handler for this trigger.
    #[error("function {function:?} does not export {export}")]
    NoHandler {
        /// The function.
        function: String,
        /// The interface it would need.
        export: &'static str,
    },
    /// All of the function's or the node's permits are in use.
    #[error("function {function:?} is at its limit of {limit} concurrent invocations")]
    Busy {
        /// The function.
        function: String,
        /// The limit.
        limit: usize,
    },
    /// The guest was stopped.
    #[error("function {function:?} failed: {message}")]
    Trapped {
        /// The function.
        function: String,
        /// Why.
        reason: TrapReason,
        /// The guest's message and backtrace, for the log.
        message: String,
    },
    /// The time was over.
    #[error("function {function:?} did not answer within its time")]
    Deadline {
        /// The function.
        function: String,
    },
    /// The guest returned without answering.
    #[error("function {function:?} returned without a response")]
    NoResponse {
        /// The function.
        function: String,
    },
    /// The request is larger than the function's limit.
    #[error("the request body is larger than the limit of {limit} bytes")]
    RequestTooLarge {
        /// The limit.
        limit: u64,
    },
    /// Our own fault.
    #[error("{0}")]
    Internal(String),
}

impl InvokeError {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            InvokeError::NoSuchFunction(_) | InvokeError::NoHandler { .. } => Fault::NotFound,
            InvokeError::Busy { .. } => Fault::Busy,
            InvokeError::Trapped { .. } | InvokeError::NoResponse { .. } => Fault::Guest,
            InvokeError::Deadline { .. } => Fault::Deadline,
            InvokeError::RequestTooLarge { .. } => Fault::Limit,
            InvokeError::Internal(_) => Fault::Internal,
        }
    }
}

/// A response body of a guest; polling it drives the guest. Dropping it stops the guest.
pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The host of a node's functions. Cheap to clone.
#[derive(Clone)]
pub struct Host;

#[expect(unused_variables, reason = "being built")]
impl Host {
    /// Starts the engine and its epoch ticker.
    ///
    /// # Errors
    /// When the machine can't give the address space or the artifact directory can't be used.
    pub fn new(
        config: HostConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        logs: Arc<dyn LogSink>,
        registry: &prometheus::Registry,
    ) -> Result<Self, LoadError> {
        todo!()
    }

    /// Compiles a component into the artifact cache, if it is not there. Blocking: call it off the async threads.
    pub fn compile(&self, component: &[u8]) -> Result<ContentHash, LoadError> {
        todo!()
    }

    /// Loads and links an app's functions; reports every problem at once. Blocking.
    pub fn load(&self, spec: AppSpec, services: Services) -> Result<Arc<LoadedApp>, Vec<LoadError>> {
        todo!()
    }
}

#[expect(unused_variables, reason = "being built")]
impl LoadedApp {
    /// Whether the app has this function and it answers HTTP.
    pub fn serves_http(&self, function: &str) -> bool {
        todo!()
    }

    /// Whether the app has this function and it answers calls.
    pub fn serves_calls(&self, function: &str) -> bool {
        todo!()
    }

    /// Runs a function on an HTTP request, in a fresh instance driven by the caller's task.
    ///
    /// # Cancel safety
    /// Dropping the future, or the response's body, stops the guest.
    pub async fn http<B>(
        self: &Arc<Self>,
        function: &str,
        request: http::Request<B>,
        invocation: Invocation,
    ) -> Result<http::Response<ResponseBody>, InvokeError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        todo!()
    }

    /// Runs a function's call handler. A component that only answers HTTP is called by `POST /` with the payload
    /// as an `application/json` body, so that any standard component can be called.
    pub async fn call(
        self: &Arc<Self>,
        function: &str,
        call: Call,
        invocation: Invocation,
    ) -> Result<CallReply, InvokeError> {
        todo!()
    }
}
