//! The node's own log: `tracing` to standard error, as text or JSON lines. Guests' output is not here (logs.rs).

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging; a second call in one process changes nothing.
///
/// # Errors
/// When `log.level` is not a filter.
pub(crate) fn init(config: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&config.level)
        .map_err(|error| anyhow::anyhow!("log.level = {:?}: {error}", config.level))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // An error means that a log is already set, by a test or an earlier node.
    let _ = match config.format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    Ok(())
}
