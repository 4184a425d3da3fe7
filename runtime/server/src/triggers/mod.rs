//! What invokes functions by itself. A trigger that fires makes a [delivery](deliveries): a record on disk of what is to be
//! invoked, which is there until an invocation has answered it. A delivery whose invocation fails is tried again, later each
//! time; after the last time it is kept among the failed ones, for a person to look at and to send again.
//!
//! So an invocation happens at least once, whatever stops in between; what it does it should be able to do twice.
//!
//! [`timers`] fire by the clock ([`schedule`] says when); [`run`] invokes. Both are driven by one task of the node.

pub(crate) mod deliveries;
pub(crate) mod metrics;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod timers;

pub(crate) use metrics::Metrics;
pub(crate) use schedule::Schedule;
