//! The node's configuration: the only reader of `node.toml`, environment and flags (flag > env > file > default).

/// The resolved configuration.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {}
