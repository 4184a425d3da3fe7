//! Vocabulary that every room shares: ids, clock, entropy, deadlines, faults, principals.
//!
//! Something enters here only when two rooms already need it and it depends on nothing: no tokio, no files,
//! no sockets, no HTTP, no BSON. Names follow the glossary in `runtime/ARCHITECTURE.md`.

#![forbid(unsafe_code)]

mod clock;
mod deadline;
mod entropy;
mod fault;
mod ids;
mod principal;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use deadline::{CancelFlag, Deadline, Expired};
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use fault::{Blame, Fault};
pub use ids::{AppId, ContentHash, DeploymentId, InvalidId, RequestId};
pub use principal::{LoginType, Principal, User};
