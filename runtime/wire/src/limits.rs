//! Every bound of the listener. Refusals name the limit and what was seen.

use std::time::Duration;

/// Bounds of the listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; one more is answered `connections_max` and closed.
    pub connections_max: usize,
    /// Commands at work at once, over all connections.
    pub commands_max: usize,
    /// Largest message, bytes: MongoDB's 48,000,000. Drivers are told.
    pub message_bytes_max: usize,
    /// Bytes of requests in memory at once, over all connections.
    pub buffered_bytes_max: usize,
    /// Live cursors.
    pub cursors_max: usize,
    /// Live sessions.
    pub sessions_max: usize,
    /// Bytes of replies remembered for retried writes.
    pub remembered_bytes_max: usize,
    /// How long a cursor lives that nobody asks for more: MongoDB's 10 minutes.
    pub cursor_idle: Duration,
    /// How long a session lives unused. Drivers are told in minutes: MongoDB's 30.
    pub session_idle: Duration,
    /// Failed logins of a user from one address that slow nothing down; an address has ten times as many.
    pub login_failures_free: u32,
    /// Failed logins that are remembered, by user and address, and by address.
    pub login_failures_max: usize,
    /// How long they are.
    pub login_failures_idle: Duration,
    /// How long the next login has to wait after the first failure too many; doubled by each further one.
    pub login_delay_first: Duration,
    /// The longest that it becomes.
    pub login_delay_max: Duration,
    /// How long a login may wait; one that would have to longer is refused.
    pub login_wait_max: Duration,
    /// How long a new connection may take to say its first word.
    pub handshake_timeout: Duration,
    /// How long one message may take to come once it began, and a reply to go.
    pub transfer_timeout: Duration,
    /// How long a command may run that gave no shorter `maxTimeMS`.
    pub command_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2000,
            commands_max: 1024,
            message_bytes_max: 48_000_000,
            buffered_bytes_max: 512 * 1024 * 1024,
            cursors_max: 10_000,
            sessions_max: 100_000,
            remembered_bytes_max: 64 * 1024 * 1024,
            cursor_idle: Duration::from_secs(10 * 60),
            session_idle: Duration::from_secs(30 * 60),
            login_failures_free: 5,
            login_failures_max: 10_000,
            login_failures_idle: Duration::from_secs(15 * 60),
            login_delay_first: Duration::from_millis(250),
            login_delay_max: Duration::from_secs(60),
            login_wait_max: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(120),
            command_time_max: Duration::from_secs(10 * 60),
        }
    }
}
