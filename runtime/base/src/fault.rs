//! The kinds of failure. Every error type of every room answers `kind() -> Fault`; from it follow the metric
//! label, whether to retry and whom to blame, and, at each surface by one exhaustive match, the HTTP status or
//! the WIT variant. No HTTP in here.

/// What kind of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request is malformed or breaks a rule of the interface.
    Invalid,
    /// The caller is not known: no credentials, or forged or expired ones.
    Unauthenticated,
    /// The caller is known and may not do this.
    Denied,
    /// What was asked for does not exist.
    NotFound,
    /// The state of the world forbids it: a duplicate key, a lost race, an existing name.
    Conflict,
    /// A size, count or depth limit would be exceeded.
    Limit,
    /// Too much is going on; the same request may succeed a moment later.
    Busy,
    /// The time allowed is over.
    Deadline,
    /// A guest component failed: trap, panic, no response.
    Guest,
    /// Something this node asked elsewhere failed: an origin, a cluster, a bucket.
    Upstream,
    /// Our own fault: a bug, a failed disk, corrupt data.
    Internal,
}

/// Who has to change something for the failure to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The caller.
    Client,
    /// The function's author.
    Guest,
    /// The operator or the platform.
    Host,
}

impl Fault {
    /// Every kind, for tables and metrics.
    pub const ALL: [Fault; 11] = [
        Fault::Invalid,
        Fault::Unauthenticated,
        Fault::Denied,
        Fault::NotFound,
        Fault::Conflict,
        Fault::Limit,
        Fault::Busy,
        Fault::Deadline,
        Fault::Guest,
        Fault::Upstream,
        Fault::Internal,
    ];

    /// The value of the `kind` label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Fault::Invalid => "invalid",
            Fault::Unauthenticated => "unauthenticated",
            Fault::Denied => "denied",
            Fault::NotFound => "not_found",
            Fault::Conflict => "conflict",
            Fault::Limit => "limit",
            Fault::Busy => "busy",
            Fault::Deadline => "deadline",
            Fault::Guest => "guest",
            Fault::Upstream => "upstream",
            Fault::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub const fn retryable(self) -> bool {
        matches!(self, Fault::Busy | Fault::Deadline | Fault::Upstream)
    }

    /// Whose move it is.
    pub const fn blame(self) -> Blame {
        match self {
            Fault::Invalid
            | Fault::Unauthenticated
            | Fault::Denied
            | Fault::NotFound
            | Fault::Conflict
            | Fault::Limit => Blame::Client,
            Fault::Guest | Fault::Deadline => Blame::Guest,
            Fault::Busy | Fault::Upstream | Fault::Internal => Blame::Host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct() {
        let mut labels: Vec<_> = Fault::ALL.iter().map(|f| f.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Fault::ALL.len());
    }
}
