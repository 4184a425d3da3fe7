//! `wasi:logging/logging`: the guest's own log lines.

use super::View;
use crate::bindings::wasi::logging::logging;
use crate::logs::{LogDetail, LogLevel, LogLine, LogStream};

/// Longest context; the rest is cut off.
const CONTEXT_BYTES_MAX: usize = 256;

impl logging::Host for View<'_> {
    fn log(
        &mut self,
        level: logging::Level,
        mut context: String,
        mut message: String,
    ) -> wasmtime::Result<()> {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error | logging::Level::Critical => LogLevel::Error,
        };
        context.truncate(context.floor_char_boundary(CONTEXT_BYTES_MAX));
        message.truncate(message.floor_char_boundary(LogLine::TEXT_BYTES_MAX));
        let detail = match context.is_empty() {
            true => LogDetail::None,
            false => LogDetail::Context(context.into()),
        };
        self.run.line(level, LogStream::Logging, message, detail);
        Ok(())
    }
}
