//! What guests say, handed up through a small handle given at construction.

use std::sync::Arc;

use cloudlet_base::{AppId, DeploymentId, RequestId, Timestamp};

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// The guest's calls of `wasi:logging`.
    Logging,
    /// The platform, about an invocation: a trap, a limit.
    Platform,
}

/// One line.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// The app.
    pub app: AppId,
    /// The function.
    pub function: Arc<str>,
    /// The deployment that ran.
    pub deployment: DeploymentId,
    /// The request.
    pub request: RequestId,
    /// Severity: stdout is info, stderr is warn.
    pub level: LogLevel,
    /// Where it came from.
    pub stream: LogStream,
    /// The text, without a line end, cut at the function's limit.
    pub text: String,
}

/// Receives lines. Called on the request path: must be quick and never block.
pub trait LogSink: Send + Sync + 'static {
    /// Takes one line.
    fn line(&self, line: LogLine);
}
