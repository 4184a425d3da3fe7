//! Apps: their manifests, their deployments, and the snapshot of what is active right now.

pub(crate) mod deploy;
pub(crate) mod manifest;
mod load;
pub(crate) mod records;
pub(crate) mod registry;
pub(crate) mod secrets;
