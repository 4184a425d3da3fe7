//! Apps: their manifests, their deployments, and the snapshot of what is active right now.

pub(crate) mod manifest;
pub(crate) mod registry;
