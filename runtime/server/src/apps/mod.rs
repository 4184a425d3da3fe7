//! Apps: their manifests, their deployments, and the snapshot of what is active right now.

pub(crate) mod collect;
pub(crate) mod deploy;
pub(crate) mod diff;
mod load;
pub(crate) mod manifest;
pub(crate) mod records;
pub(crate) mod registry;
pub(crate) mod secrets;
pub(crate) mod split;
pub(crate) mod traffic;
