//! The `log` crate's records, sent to the node's log.
//!
//! `log::info!` and its sisters work in every handler; nothing has to be set up. Levels below the node's are dropped
//! by the node. Standard output and error reach the log as well, line by line.

/// Makes the node's log the target of the `log` crate. The entry points call it.
#[cfg(feature = "log")]
pub(crate) fn install() {
    struct NodeLog;

    impl log::Log for NodeLog {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            use crate::bindings::imports::wasi::logging::logging::{self as wit, Level};
            let level = match record.level() {
                log::Level::Error => Level::Error,
                log::Level::Warn => Level::Warn,
                log::Level::Info => Level::Info,
                log::Level::Debug => Level::Debug,
                log::Level::Trace => Level::Trace,
            };
            match record.args().as_str() {
                Some(message) => wit::log(level, record.target(), message),
                None => wit::log(level, record.target(), &record.args().to_string()),
            }
        }

        fn flush(&self) {}
    }

    // It fails when the function has installed a logger of its own, which then stays, or on the next request of an
    // instance that is used again.
    if log::set_logger(&NodeLog).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}

/// Without the feature `log` nothing is installed.
#[cfg(not(feature = "log"))]
pub(crate) fn install() {}
