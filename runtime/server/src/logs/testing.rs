//! Lines for tests.

use cloudlet_base::{AppId, DeploymentId, RequestId, Timestamp};
use cloudlet_host::{LogDetail, LogLevel, LogLine, LogStream};

pub(crate) fn app() -> AppId {
    "a".parse().unwrap()
}

pub(crate) fn line(at: i64, function: &str, level: LogLevel, text: &str) -> LogLine {
    LogLine {
        at: Timestamp(at),
        app: app(),
        function: function.into(),
        deployment: DeploymentId(1),
        request: RequestId::from_bits(1),
        level,
        stream: LogStream::Stdout,
        text: text.into(),
        detail: LogDetail::None,
    }
}
