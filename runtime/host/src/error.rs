//! What can go wrong when a component is loaded, and when it runs.

use cloudlet_base::{ContentHash, Fault};

use crate::metrics::Scope;

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
    /// Its memory does not fit.
    #[error("function {function:?} begins with {needed} bytes of memory, over its limit of {limit}")]
    TooMuchMemory {
        /// The function.
        function: String,
        /// What it needs at its start.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// It imports something under a name that is offered, in another shape.
    #[error("function {function:?} can't be linked: {message}")]
    Mismatch {
        /// The function.
        function: String,
        /// What does not fit.
        message: String,
    },
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl LoadError {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            LoadError::TooLarge { .. } | LoadError::TooMuchMemory { .. } => Fault::Limit,
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

fn busy(scope: Scope, limit: usize) -> String {
    match scope {
        Scope::Function => format!("it is at its limit of {limit} concurrent invocations"),
        Scope::App => format!("its app is at its limit of {limit} concurrent invocations"),
        Scope::Node => format!("the node is at its limit of {limit} concurrent invocations"),
        Scope::Queue => format!("{limit} wait already, as many as may"),
    }
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
    /// All permits are in use, and there is no waiting, or it was for nothing.
    #[error("function {function:?} can't run now: {}", busy(*scope, *limit))]
    Busy {
        /// The function.
        function: String,
        /// Whose limit it is.
        scope: Scope,
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
