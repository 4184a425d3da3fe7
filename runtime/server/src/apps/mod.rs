//! Apps: their manifests, their deployments, and the snapshot of what is active right now.

pub(crate) mod deploy;
mod load;
pub(crate) mod manifest;
pub(crate) mod records;
pub(crate) mod registry;
pub(crate) mod secrets;
