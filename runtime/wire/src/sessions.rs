//! Logical sessions, and what is remembered of their retryable writes: the reply to the newest numbered write, so
//! that a driver that lost it gets it again and nothing is written twice. In memory: a retry that comes after a
//! restart is carried out as if it were new. The same numbers are those of transactions (`transactions`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, spec::BinarySubtype};

use crate::cursors::as_gauge;
use crate::error::{Code, CommandError, Result};
use crate::limits::Limits;
use crate::metrics::{Limit, Metrics};
use crate::transactions::{Snapshot, Standing};

/// Names a session: the client's UUID, and the user whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionId {
    pub(crate) uuid: [u8; 16],
    pub(crate) user: Option<Arc<str>>,
}

impl SessionId {
    /// Reads `{id: UUID}`.
    ///
    /// # Errors
    /// When it is not that.
    pub(crate) fn parse(lsid: &RawDocument, user: Option<Arc<str>>) -> Result<Self> {
        let wrong = || CommandError::new(Code::BadValue, "a session is named by {id: UUID}");
        match lsid.get("id")? {
            Some(RawBsonRef::Binary(binary)) if binary.subtype == BinarySubtype::Uuid => Ok(Self {
                uuid: binary.bytes.try_into().map_err(|_| wrong())?,
                user,
            }),
            _ => Err(wrong()),
        }
    }
}

/// What is known of a session's retryable writes and transactions.
#[derive(Default)]
pub(crate) struct Writes {
    /// The newest number seen.
    pub(crate) newest: Option<i64>,
    /// How the transaction of that number stands, if it is one's.
    pub(crate) standing: Standing,
    /// What snapshot reads see.
    pub(crate) snapshot: Option<Snapshot>,
    /// The reply to it; none when it failed or was too large to keep.
    reply: Option<RawDocumentBuf>,
    /// It was carried out, and its reply could not be kept.
    forgotten: bool,
}

/// What to do with a numbered write.
pub(crate) enum Turn {
    /// Carry it out.
    New,
    /// It was carried out: this was the reply.
    Done(RawDocumentBuf),
}

impl Writes {
    /// Decides on the write of that number.
    ///
    /// # Errors
    /// When a newer one was seen, or it was carried out and its reply is not known any more.
    pub(crate) fn begin(&mut self, number: i64) -> Result<Turn> {
        self.check_age(number)?;
        match self.newest {
            Some(newest) if number == newest => {
                if !matches!(self.standing, Standing::None) {
                    return Err(CommandError::new(
                        Code::ConflictingOperationInProgress,
                        format!("the number {number} is that of a transaction, and not of a retryable write"),
                    ));
                }
                if let Some(reply) = &self.reply {
                    return Ok(Turn::Done(reply.clone()));
                }
                if self.forgotten {
                    return Err(CommandError::new(
                        Code::IncompleteTransactionHistory,
                        "the write was carried out, but its reply was too large to be remembered",
                    ));
                }
            }
            _ => {}
        }
        self.advance(number);
        Ok(Turn::New)
    }

    /// # Errors
    /// `TransactionTooOld` when a newer number was seen.
    pub(crate) fn check_age(&self, number: i64) -> Result<()> {
        match self.newest {
            Some(newest) if number < newest => {
                let message = format!(
                    "cannot start transaction {number} because a newer transaction {newest} has already started on this session"
                );
                Err(CommandError::new(Code::TransactionTooOld, message))
            }
            _ => Ok(()),
        }
    }

    /// Goes to a number; a transaction that was open under the one before has no effect.
    pub(crate) fn advance(&mut self, number: i64) {
        self.abort_open();
        self.standing = Standing::None;
        self.newest = Some(number);
        self.reply = None;
        self.forgotten = false;
    }
}

struct Session {
    used: Duration,
    writes: Arc<tokio::sync::Mutex<Writes>>,
    /// Bytes of the remembered reply.
    remembered: Arc<AtomicUsize>,
}

/// All live sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    live: Mutex<HashMap<SessionId, Session>>,
    remembered: AtomicUsize,
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Session>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a session as used, beginning it when it is not there; gives its writes.
    ///
    /// # Errors
    /// `TooManyLogicalSessions` when `sessions_max` are live and none is idle.
    pub(crate) fn touch(
        &self,
        id: &SessionId,
        now: Duration,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Arc<tokio::sync::Mutex<Writes>>> {
        let mut live = self.lock();
        if let Some(session) = live.get_mut(id) {
            session.used = now;
            return Ok(session.writes.clone());
        }
        if live.len() >= limits.sessions_max {
            self.reap_in(&mut live, now, limits.session_idle);
        }
        if live.len() >= limits.sessions_max {
            metrics.refused(Limit::Sessions);
            let message = format!(
                "{} sessions are live, and sessions_max is {}",
                live.len(),
                limits.sessions_max
            );
            return Err(CommandError::new(Code::TooManyLogicalSessions, message));
        }
        let session = Session {
            used: now,
            writes: Arc::default(),
            remembered: Arc::default(),
        };
        let writes = session.writes.clone();
        live.insert(id.clone(), session);
        metrics.sessions.set(as_gauge(live.len()));
        Ok(writes)
    }

    /// Remembers the reply to the newest write of a session.
    pub(crate) fn remember(&self, id: &SessionId, writes: &mut Writes, reply: &RawDocument, limits: &Limits) {
        let bytes = reply.as_bytes().len();
        let live = self.lock();
        let Some(session) = live.get(id) else { return };
        let before = session.remembered.load(Ordering::Relaxed);
        let others = self.remembered.load(Ordering::Relaxed).saturating_sub(before);
        let kept = if others.saturating_add(bytes) <= limits.remembered_bytes_max {
            writes.reply = Some(reply.to_owned());
            bytes
        } else {
            writes.forgotten = true;
            0
        };
        session.remembered.store(kept, Ordering::Relaxed);
        self.remembered
            .store(others.saturating_add(kept), Ordering::Relaxed);
    }

    /// Ends sessions; returns whether any was there.
    pub(crate) fn end(&self, which: impl Fn(&SessionId) -> bool, metrics: &Metrics) {
        let mut live = self.lock();
        self.retain(&mut live, |id, _| !which(id));
        metrics.sessions.set(as_gauge(live.len()));
    }

    /// Ends idle sessions.
    pub(crate) fn reap(&self, now: Duration, idle: Duration, metrics: &Metrics) {
        let mut live = self.lock();
        self.reap_in(&mut live, now, idle);
        metrics.sessions.set(as_gauge(live.len()));
    }

    fn reap_in(&self, live: &mut HashMap<SessionId, Session>, now: Duration, idle: Duration) {
        self.retain(live, |_, session| now.saturating_sub(session.used) < idle);
    }

    fn retain(&self, live: &mut HashMap<SessionId, Session>, keep: impl Fn(&SessionId, &Session) -> bool) {
        let mut freed = 0;
        live.retain(|id, session| {
            let keep = keep(id, session);
            if !keep {
                freed += session.remembered.load(Ordering::Relaxed);
            }
            keep
        });
        let before = self.remembered.load(Ordering::Relaxed);
        self.remembered
            .store(before.saturating_sub(freed), Ordering::Relaxed);
    }

    /// Names of live sessions, at most `max`: those whose user fits.
    pub(crate) fn ids(&self, which: impl Fn(Option<&str>) -> bool, max: usize) -> Vec<SessionId> {
        let live = self.lock();
        let ids = live.keys().filter(|id| which(id.user.as_deref()));
        ids.take(max).cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn metrics() -> Metrics {
        Metrics::register(&prometheus::Registry::new()).unwrap()
    }

    fn id(n: u8) -> SessionId {
        SessionId {
            uuid: [n; 16],
            user: None,
        }
    }

    #[tokio::test]
    async fn a_write_is_carried_out_once() {
        let (sessions, metrics) = (Sessions::default(), metrics());
        let limits = Limits {
            remembered_bytes_max: 64,
            ..Limits::default()
        };
        let writes = sessions.touch(&id(1), Duration::ZERO, &limits, &metrics).unwrap();
        let mut writes = writes.lock().await;
        assert!(matches!(writes.begin(5), Ok(Turn::New)));
        assert!(
            matches!(writes.begin(5), Ok(Turn::New)),
            "it failed the first time"
        );
        let reply = rawdoc! { "n": 1 };
        sessions.remember(&id(1), &mut writes, &reply, &limits);
        assert!(matches!(writes.begin(5), Ok(Turn::Done(seen)) if seen == reply));
        let old = writes.begin(4).map(|_| ()).unwrap_err();
        assert_eq!(old.code(), 225);
        assert!(matches!(writes.begin(6), Ok(Turn::New)));
        let large = rawdoc! { "value": "x".repeat(100) };
        sessions.remember(&id(1), &mut writes, &large, &limits);
        let lost = writes.begin(6).map(|_| ()).unwrap_err();
        assert_eq!(lost.code(), 217);
    }

    #[test]
    fn sessions_are_bounded_and_reaped() {
        let (sessions, metrics) = (Sessions::default(), metrics());
        let limits = Limits {
            sessions_max: 2,
            session_idle: Duration::from_secs(10),
            ..Limits::default()
        };
        let touch = |n, seconds| {
            sessions
                .touch(&id(n), Duration::from_secs(seconds), &limits, &metrics)
                .map(drop)
        };
        touch(1, 0).unwrap();
        touch(2, 5).unwrap();
        let refused = touch(3, 6).unwrap_err();
        assert_eq!(refused.code(), 261);
        assert!(refused.to_string().contains("sessions_max"));
        touch(3, 10).unwrap();
        assert_eq!(metrics.sessions.get(), 2, "the idle one made room");
    }
}
