//! What the database counts. Registered once in the registry handed in; `runtime/docs/metrics.md` lists the names.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::{Code, Error, Result};

/// An operation, as the `op` label names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Find,
    NextPage,
    Count,
    Distinct,
    Aggregate,
    Explain,
    Insert,
    Update,
    Delete,
    FindAndModify,
    Transact,
    Catalog,
    Watch,
    NextChanges,
    Expire,
}

impl Op {
    const ALL: [Op; 15] = [
        Op::Find,
        Op::NextPage,
        Op::Count,
        Op::Distinct,
        Op::Aggregate,
        Op::Explain,
        Op::Insert,
        Op::Update,
        Op::Delete,
        Op::FindAndModify,
        Op::Transact,
        Op::Catalog,
        Op::Watch,
        Op::NextChanges,
        Op::Expire,
    ];

    const fn label(self) -> &'static str {
        match self {
            Op::Find => "find",
            Op::NextPage => "next_page",
            Op::Count => "count",
            Op::Distinct => "distinct",
            Op::Aggregate => "aggregate",
            Op::Explain => "explain",
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::FindAndModify => "find_and_modify",
            Op::Transact => "transact",
            Op::Catalog => "catalog",
            Op::Watch => "watch",
            Op::NextChanges => "next_changes",
            Op::Expire => "expire",
        }
    }
}

/// How a transaction ended, as the `outcome` label names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionEnd {
    Committed,
    Aborted,
    Conflicted,
    Expired,
}

impl TransactionEnd {
    const ALL: [TransactionEnd; 4] = [
        TransactionEnd::Committed,
        TransactionEnd::Aborted,
        TransactionEnd::Conflicted,
        TransactionEnd::Expired,
    ];

    const fn label(self) -> &'static str {
        match self {
            TransactionEnd::Committed => "committed",
            TransactionEnd::Aborted => "aborted",
            TransactionEnd::Conflicted => "conflict",
            TransactionEnd::Expired => "expired",
        }
    }
}

/// The database's metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Commits that wrote something.
    pub(crate) commits: IntCounter,
    /// Calls of fsync on the database file and its log.
    pub(crate) fsyncs: IntCounter,
    /// Seconds that checkpoints took, beside the commits.
    pub(crate) checkpoint_seconds: Histogram,
    /// Commits that waited for a checkpoint.
    pub(crate) checkpoint_waits: IntCounter,
    /// Seconds from the first operation of a commit to its durability.
    pub(crate) commit_seconds: Histogram,
    /// Operations that shared a commit.
    pub(crate) operations_per_commit: Histogram,
    /// Operations waiting for the writer.
    pub(crate) write_queue: IntGauge,
    /// Operations waiting for a reader.
    pub(crate) read_queue: IntGauge,
    /// Index entries and documents looked at.
    pub(crate) examined: IntCounter,
    /// Reads that ran on the caller's thread.
    pub(crate) inline_reads: IntCounter,
    /// Events written to the change log.
    pub(crate) feed_events: IntCounter,
    /// Events trimmed from the change log.
    pub(crate) feed_trimmed: IntCounter,
    /// Bytes of the change log.
    pub(crate) feed_bytes: IntGauge,
    /// Operations that spilled to disk.
    pub(crate) spills: IntCounter,
    /// Bytes that were spilled.
    pub(crate) spilled_bytes: IntCounter,
    /// Bytes on disk now of what was spilled.
    pub(crate) spill_bytes: IntGauge,
    /// Documents that were removed for their age.
    pub(crate) expired: IntCounter,
    /// Commands whose indexes are being filled.
    pub(crate) index_builds: IntGauge,
    /// Transactions open now.
    pub(crate) transactions: IntGauge,
    /// By outcome; indexed by `TransactionEnd`.
    transactions_ended: [IntCounter; TransactionEnd::ALL.len()],
    /// By operation; indexed by `Op`.
    operations: [IntCounter; Op::ALL.len()],
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When the registry has one of the names: one database a registry.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        Self::try_register(registry).map_err(|error| {
            Error::new(
                Code::InternalError,
                format!("register the database's metrics: {error}"),
            )
        })
    }

    fn try_register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone())).map(|()| histogram)
        };
        let operations = IntCounterVec::new(
            Opts::new("cloudlet_docdb_operations_total", "Operations accepted, by kind."),
            &["op"],
        )?;
        registry.register(Box::new(operations.clone()))?;
        let transactions = IntCounterVec::new(
            Opts::new(
                "cloudlet_docdb_transactions_total",
                "Transactions that ended, by how.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(transactions.clone()))?;
        Ok(Self {
            commits: counter(
                "cloudlet_docdb_commits_total",
                "Commits of the database that wrote something.",
            )?,
            fsyncs: counter(
                "cloudlet_docdb_fsyncs_total",
                "Calls of fsync on the database file and its log.",
            )?,
            checkpoint_seconds: histogram(
                "cloudlet_docdb_checkpoint_seconds",
                "Time to bring a half of the database's log into the database file, beside the commits.",
                prometheus::exponential_buckets(0.001, 2.0, 14)?,
            )?,
            checkpoint_waits: counter(
                "cloudlet_docdb_checkpoint_waits_total",
                "Commits that waited for a checkpoint, or had to make it.",
            )?,
            commit_seconds: histogram(
                "cloudlet_docdb_commit_seconds",
                "Time to run and durably commit one group of operations.",
                prometheus::exponential_buckets(0.000_1, 2.0, 16)?,
            )?,
            operations_per_commit: histogram(
                "cloudlet_docdb_operations_per_commit",
                "Operations that shared one commit.",
                prometheus::exponential_buckets(1.0, 2.0, 11)?,
            )?,
            write_queue: gauge(
                "cloudlet_docdb_write_queue_operations",
                "Operations waiting for the writer.",
            )?,
            read_queue: gauge(
                "cloudlet_docdb_read_queue_operations",
                "Operations waiting for a reader thread.",
            )?,
            examined: counter(
                "cloudlet_docdb_examined_total",
                "Index entries and documents looked at by queries.",
            )?,
            inline_reads: counter(
                "cloudlet_docdb_inline_reads_total",
                "Reads that ran on their caller's thread.",
            )?,
            feed_events: counter(
                "cloudlet_docdb_feed_events_total",
                "Events written to the change log.",
            )?,
            feed_trimmed: counter(
                "cloudlet_docdb_feed_trimmed_total",
                "Events trimmed from the change log.",
            )?,
            feed_bytes: gauge("cloudlet_docdb_feed_bytes", "Bytes of the change log.")?,
            spills: counter(
                "cloudlet_docdb_spills_total",
                "Sorts, groups and results that were more than memory may hold and went to disk, counted once an operation.",
            )?,
            spilled_bytes: counter(
                "cloudlet_docdb_spilled_bytes_total",
                "Bytes that operations wrote to disk because memory may not hold them.",
            )?,
            spill_bytes: gauge(
                "cloudlet_docdb_spill_bytes",
                "Bytes on disk now of what operations spilled.",
            )?,
            expired: counter(
                "cloudlet_docdb_expired_total",
                "Documents removed because a TTL index said so.",
            )?,
            index_builds: gauge(
                "cloudlet_docdb_index_builds",
                "Index builds under way in the background.",
            )?,
            transactions: gauge("cloudlet_docdb_transactions", "Transactions open now.")?,
            transactions_ended: TransactionEnd::ALL.map(|end| transactions.with_label_values(&[end.label()])),
            operations: Op::ALL.map(|op| operations.with_label_values(&[op.label()])),
        })
    }

    pub(crate) fn transaction_ended(&self, how: TransactionEnd) {
        self.transactions.dec();
        self.transactions_ended[how as usize].inc();
    }

    pub(crate) fn count(&self, op: Op) {
        self.operations[op as usize].inc();
    }
}
