//! `wasi:logging/logging`: the guest's own log lines.

use super::View;
use crate::bindings::wasi::logging::logging;
use crate::logs::{LogLevel, LogStream};

/// Longest message; the rest is cut off.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

impl logging::Host for View<'_> {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error | logging::Level::Critical => LogLevel::Error,
        };
        let mut text = if context.is_empty() {
            message
        } else {
            format!("{context}: {message}")
        };
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        self.run.line(level, LogStream::Logging, text);
        Ok(())
    }
}
