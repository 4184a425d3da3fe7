//! What invokes functions by itself. A trigger that fires makes a [delivery](deliveries): a record on disk of what is to be
//! invoked, which is there until an invocation has answered it. A delivery whose invocation fails is tried again, later each
//! time; after the last time it is kept among the failed ones, for a person to look at and to send again.
//!
//! So an invocation happens at least once, whatever stops in between; what it does it should be able to do twice.
//!
//! [`timers`] fire by the clock ([`schedule`] says when); [`run`] drives them, and invokes. [`changes`] are triggers that
//! fire for documents and objects; [`follow`] drives those, [`events`] is what their functions are told, and [`order`] that
//! they are told one after another. `run` and `follow` are each a task of the node.

pub(crate) mod changes;
pub(crate) mod deliveries;
mod events;
pub(crate) mod follow;
pub(crate) mod metrics;
mod order;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod timers;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, Notify};

pub(crate) use metrics::Metrics;
pub(crate) use schedule::Schedule;

/// What kinds of triggers make deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The clock.
    Timer,
    /// Changes of documents.
    Database,
    /// Changes of objects.
    Storage,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Timer, Kind::Database, Kind::Storage];

    /// As manifests, deliveries and metrics have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Timer => "timer",
            Kind::Database => "database",
            Kind::Storage => "storage",
        }
    }
}

/// How the tasks hear of each other and of deployments.
#[derive(Default)]
pub(crate) struct Bells {
    /// There are new deliveries.
    pub(crate) due: Notify,
    /// Another deployment is the active one.
    pub(crate) deployed: Notify,
    /// Held while one looks at which delivery of an order is next.
    pub(crate) ordering: Mutex<()>,
    /// Looking at that failed: deliveries may be held that none goes before.
    pub(crate) unsure: AtomicBool,
}

impl Bells {
    /// Has the next round look at every order of which something is held.
    pub(crate) fn look_at_orders(&self) {
        self.unsure.store(true, Ordering::Release);
        self.due.notify_one();
    }
}
