//! What guests say, handed up through a small handle given at construction.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

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
    /// The text, without a line end, at most [`LogLine::TEXT_BYTES_MAX`] bytes.
    pub text: String,
    /// What the line has beside its text.
    pub detail: LogDetail,
}

impl LogLine {
    /// Longest text; what a guest writes beyond it becomes the next line, or is cut off where it is one message.
    pub const TEXT_BYTES_MAX: usize = 8 * 1024;
}

/// What a line has beside its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LogDetail {
    /// Nothing.
    #[default]
    None,
    /// The context that the guest gave to `wasi:logging`, at most 256 bytes.
    Context(Box<str>),
    /// The line is of the end of an invocation: what it came to and what it used.
    End(Box<InvocationEnd>),
    /// The line tells that so many lines are left out.
    LeftOut(u64),
}

/// What an invocation came to and what it used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationEnd {
    /// The `outcome` label of `cloudlet_host_invocations_total`.
    pub outcome: Cow<'static, str>,
    /// Its `trigger` label.
    pub trigger: Cow<'static, str>,
    /// The status of the response, when the guest gave one.
    pub status: Option<u16>,
    /// From admission to the end.
    pub duration: Duration,
    /// What the guest computed; of one that never computed for a tick, the time its polls took.
    pub cpu: Duration,
    /// The most linear memory that it had, bytes.
    pub memory_bytes: u64,
}

/// Receives lines. Called on the request path: must be quick and never block.
pub trait LogSink: Send + Sync + 'static {
    /// Takes one line.
    fn line(&self, line: LogLine);
}
