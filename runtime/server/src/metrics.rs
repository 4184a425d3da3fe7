//! The front's own metrics.

/// Counters and histograms of the HTTP front.
pub(crate) struct Metrics {}
