//! Every bound of the engine, with its default.

use std::time::Duration;

/// What one operation may use at most. Each has a message that names the limit and the value seen.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest document, bytes: MongoDB's 16 MiB.
    pub document_bytes_max: usize,
    /// Deepest nesting: MongoDB's 100.
    pub depth_max: usize,
    /// Documents in one insert, update or delete command: MongoDB's 100,000.
    pub batch_max: usize,
    /// Documents (or index keys) that one query may examine before it is refused.
    pub scan_max: u64,
    /// Bytes that one sort may hold in memory, before it spills or fails: MongoDB's 100 MiB.
    pub sort_bytes_max: usize,
    /// Bytes that one stage of an aggregation may hold in memory, before it spills or fails, and so may the rest of its
    /// result: MongoDB's 100 MiB.
    pub aggregate_bytes_max: usize,
    /// Bytes that one operation may have on disk of what it spilled.
    pub spill_bytes_max: u64,
    /// Bytes that all operations together may have on disk of what they spilled.
    pub spill_total_bytes_max: u64,
    /// Stages in one pipeline: MongoDB's 1000.
    pub stages_max: usize,
    /// Bytes in one page of a result: 16 MiB.
    pub page_bytes_max: usize,
    /// Operations that may wait for the writer.
    pub write_queue_max: usize,
    /// Operations that may wait for the readers.
    pub read_queue_max: usize,
    /// Transactions open at once.
    pub transactions_max: usize,
    /// Bytes of keys and values that one transaction may change.
    pub transaction_bytes_max: usize,
    /// Time from a transaction's first statement to its commit: MongoDB's 60 s.
    pub transaction_lifetime: Duration,
    /// Indexes per collection: MongoDB's 64.
    pub indexes_max: usize,
    /// Collections in one database.
    pub collections_max: usize,
    /// Bytes of events that the change log keeps; the oldest go first. 0 turns the log, and change streams, off.
    pub feed_bytes_max: u64,
    /// Events that the change log keeps.
    pub feed_events_max: u64,
    /// How long the change log keeps events. It is trimmed when something is written.
    pub feed_age_max: Duration,
    /// Change streams and tailable cursors that wait at once.
    pub listeners_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes_max: 16 * 1024 * 1024,
            depth_max: 100,
            batch_max: 100_000,
            scan_max: 10_000_000,
            sort_bytes_max: 100 * 1024 * 1024,
            aggregate_bytes_max: 100 * 1024 * 1024,
            spill_bytes_max: 2 * 1024 * 1024 * 1024,
            spill_total_bytes_max: 8 * 1024 * 1024 * 1024,
            stages_max: 1000,
            page_bytes_max: 16 * 1024 * 1024,
            write_queue_max: 4096,
            read_queue_max: 4096,
            transactions_max: 1000,
            transaction_bytes_max: 64 * 1024 * 1024,
            transaction_lifetime: Duration::from_secs(60),
            indexes_max: 64,
            collections_max: 10_000,
            feed_bytes_max: 256 * 1024 * 1024,
            feed_events_max: 1_000_000,
            feed_age_max: Duration::from_secs(7 * 24 * 3600),
            listeners_max: 10_000,
        }
    }
}
