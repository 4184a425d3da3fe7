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
            handshake_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(120),
            command_time_max: Duration::from_secs(10 * 60),
        }
    }
}
