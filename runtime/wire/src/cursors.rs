//! Live cursors: where results wait for the next getMore. Any connection of the same user (and session) may ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::RawDocumentBuf;
use cloudlet_base::Entropy;
use cloudlet_data::{ChangeCursor, Cursor, Namespace, Statements};
use tokio::sync::oneshot;

use crate::error::{Code, CommandError, Result};
use crate::limits::Limits;
use crate::metrics::{Limit, Metrics};
use crate::sessions::SessionId;

/// The rest of a result.
pub(crate) enum Rest {
    /// In the database, or in the transaction that began it.
    Documents(Cursor, Arc<dyn Statements>),
    /// Here: results of commands that are small by nature.
    List(std::vec::IntoIter<RawDocumentBuf>),
    /// At the end of a capped collection, where documents may be yet to come: what awaits them.
    Tail(Cursor),
    /// The events of a change stream, which may be yet to come.
    Changes(ChangeCursor),
}

/// A cursor that a getMore has.
pub(crate) struct Taken {
    pub(crate) rest: Rest,
    /// What is left of its time, if that is bounded.
    pub(crate) time_left: Option<Duration>,
    /// Ends when the cursor is killed meanwhile.
    pub(crate) killed: oneshot::Receiver<()>,
}

/// Whose a cursor is and how it lives.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) ns: Namespace,
    /// `db.user`; none when authentication is off.
    pub(crate) user: Option<Arc<str>>,
    pub(crate) session: Option<SessionId>,
    /// The number of the transaction that it goes on in.
    pub(crate) transaction: Option<i64>,
    /// Lives until its session ends.
    pub(crate) no_timeout: bool,
    /// What is left of the time that the command gave itself and its getMores.
    pub(crate) time_left: Option<Duration>,
}

struct Entry {
    owner: Owner,
    /// None while a getMore has it.
    rest: Option<Rest>,
    /// Dropped with the cursor, which the getMore that has it hears.
    taken: Option<oneshot::Sender<()>>,
    used: Duration,
}

/// All live cursors.
#[derive(Default)]
pub(crate) struct Cursors {
    live: Mutex<HashMap<i64, Entry>>,
}

impl Cursors {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Entry>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the rest of a result; returns its id, never 0.
    ///
    /// # Errors
    /// `TooManyRequests` when `cursors_max` are live and none is idle.
    pub(crate) fn keep(
        &self,
        owner: Owner,
        rest: Rest,
        now: Duration,
        limits: &Limits,
        entropy: &dyn Entropy,
        metrics: &Metrics,
    ) -> Result<i64> {
        let mut live = self.lock();
        if live.len() >= limits.cursors_max {
            reap(&mut live, now, limits.cursor_idle);
        }
        if live.len() >= limits.cursors_max {
            metrics.refused(Limit::Cursors);
            return Err(CommandError::new(
                Code::TooManyRequests,
                format!(
                    "{} cursors are live, and cursors_max is {}",
                    live.len(),
                    limits.cursors_max
                ),
            ));
        }
        let id = loop {
            let mut bytes = [0; 8];
            entropy.fill(&mut bytes);
            let id = i64::from_le_bytes(bytes) & i64::MAX;
            if id != 0 && !live.contains_key(&id) {
                break id;
            }
        };
        let entry = Entry {
            owner,
            rest: Some(rest),
            taken: None,
            used: now,
        };
        live.insert(id, entry);
        metrics.cursors.set(as_gauge(live.len()));
        Ok(id)
    }

    /// Takes a cursor to read from it; [`give_back`](Self::give_back) or [`finish`](Self::finish) must follow.
    ///
    /// # Errors
    /// When it is not there, is another's, or is being read.
    pub(crate) fn take(&self, id: i64, by: &Owner, idle: Duration, now: Duration) -> Result<Taken> {
        let mut live = self.lock();
        let gone = || CommandError::new(Code::CursorNotFound, format!("cursor id {id} not found"));
        let entry = live.get_mut(&id).ok_or_else(gone)?;
        if !entry.owner.no_timeout && now.saturating_sub(entry.used) >= idle {
            live.remove(&id);
            return Err(gone());
        }
        if entry.owner.user != by.user {
            return Err(CommandError::new(
                Code::Unauthorized,
                format!("cursor id {id} belongs to another user"),
            ));
        }
        if entry.owner.ns != by.ns {
            let message = format!(
                "Requested getMore on namespace '{}', but cursor belongs to a different namespace {}",
                by.ns, entry.owner.ns
            );
            return Err(CommandError::new(Code::Unauthorized, message));
        }
        if entry.owner.session != by.session {
            return Err(CommandError::new(
                Code::Unauthorized,
                format!("cursor id {id} was made in another session"),
            ));
        }
        if entry.owner.transaction != by.transaction {
            return Err(CommandError::new(
                Code::Location50741,
                format!("cursor id {id} was made in another transaction, or in none, and goes on there only"),
            ));
        }
        let Some(rest) = entry.rest.take() else {
            let message = format!("cursor id {id} is already in use");
            return Err(CommandError::new(Code::CursorInUse, message));
        };
        let (taken, killed) = oneshot::channel();
        entry.used = now;
        entry.taken = Some(taken);
        Ok(Taken {
            rest,
            time_left: entry.owner.time_left,
            killed,
        })
    }

    /// Puts the rest of a cursor back, with what is left of its time; false when it was killed meanwhile.
    pub(crate) fn give_back(&self, id: i64, rest: Rest, time_left: Option<Duration>, now: Duration) -> bool {
        match self.lock().get_mut(&id) {
            Some(entry) => {
                entry.owner.time_left = time_left;
                entry.rest = Some(rest);
                entry.taken = None;
                entry.used = now;
                true
            }
            None => false,
        }
    }

    /// Forgets a cursor that is at its end or failed.
    pub(crate) fn finish(&self, id: i64, metrics: &Metrics) {
        let mut live = self.lock();
        live.remove(&id);
        metrics.cursors.set(as_gauge(live.len()));
    }

    /// Kills a cursor of that namespace and user; false when there is none.
    pub(crate) fn kill(&self, id: i64, ns: &Namespace, user: Option<&Arc<str>>, metrics: &Metrics) -> bool {
        let mut live = self.lock();
        let found = live
            .get(&id)
            .is_some_and(|entry| entry.owner.ns == *ns && entry.owner.user.as_ref() == user);
        if found {
            live.remove(&id);
            metrics.cursors.set(as_gauge(live.len()));
        }
        found
    }

    /// Kills the cursors of sessions.
    pub(crate) fn kill_of_sessions(&self, of: impl Fn(&SessionId) -> bool, metrics: &Metrics) {
        self.kill_of(|owner| owner.session.as_ref().is_some_and(&of), metrics);
    }

    /// Kills the cursors of owners.
    pub(crate) fn kill_of(&self, of: impl Fn(&Owner) -> bool, metrics: &Metrics) {
        let mut live = self.lock();
        live.retain(|_, entry| !of(&entry.owner));
        metrics.cursors.set(as_gauge(live.len()));
    }

    /// Forgets idle cursors.
    pub(crate) fn reap(&self, now: Duration, idle: Duration, metrics: &Metrics) {
        let mut live = self.lock();
        reap(&mut live, now, idle);
        metrics.cursors.set(as_gauge(live.len()));
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }
}

fn reap(live: &mut HashMap<i64, Entry>, now: Duration, idle: Duration) {
    live.retain(|_, entry| {
        entry.rest.is_none() || entry.owner.no_timeout || now.saturating_sub(entry.used) < idle
    });
}

pub(crate) fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
