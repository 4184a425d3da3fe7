//! How streams that wait for events hear of them: each waits with the part of the store it is about, and a commit
//! wakes those that it concerns. Needs no runtime.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bson::Timestamp;

use super::WatchScope;
use crate::reply::{Reply, ReplySender};
use crate::{Code, Error, Namespace, Result};

/// Events that may pass a waiting stream by before it is woken for others' sake: it moves its place on, lest the log be
/// trimmed past a stream of which nothing was lost.
const BEHIND_MAX: u64 = 1000;

/// Wakes waiting streams.
#[derive(Default)]
pub(crate) struct Bell(Mutex<Listeners>);

#[derive(Default)]
struct Listeners {
    next: u64,
    waiting: HashMap<u64, Listener>,
    /// The newest event committed, and its time.
    last: u64,
    last_time: Option<Timestamp>,
}

struct Listener {
    scope: WatchScope,
    /// The number of the newest event that it knows of.
    after: u64,
    sender: ReplySender<()>,
}

impl Listener {
    fn is_concerned(&self, last: u64, touched: Option<&BTreeSet<Namespace>>) -> bool {
        touched.is_none_or(|touched| touched.iter().any(|ns| self.scope.hears(ns)))
            || last.saturating_sub(self.after) > BEHIND_MAX
    }
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of events up to the one numbered `last`, which has that time, about those collections; of any, when that
    /// is not known.
    pub(crate) fn ring(&self, last: u64, time: Timestamp, touched: Option<&BTreeSet<Namespace>>) {
        let mut listeners = self.lock();
        listeners.last = last;
        listeners.last_time = (last > 0).then_some(time);
        let concerned: Vec<ReplySender<()>> = listeners
            .waiting
            .extract_if(|_, listener| listener.is_concerned(last, touched))
            .map(|(_, listener)| listener.sender)
            .collect();
        drop(listeners);
        // Outside the lock: waking may run any code.
        for sender in concerned {
            sender.send(Ok(()));
        }
    }

    /// Tells of one more commit to capped collections. Those have no log, so these are counted.
    pub(crate) fn ring_again(&self, touched: &BTreeSet<Namespace>) {
        let (last, time) = {
            let listeners = self.lock();
            (listeners.last + 1, listeners.last_time)
        };
        let zero = Timestamp {
            time: 0,
            increment: 0,
        };
        self.ring(last, time.unwrap_or(zero), Some(touched));
    }

    /// The time of the newest event; none before the first.
    pub(crate) fn last_time(&self) -> Option<Timestamp> {
        self.lock().last_time
    }

    /// Waits for an event of `scope` after the one numbered `after`; at once when there may be one already.
    pub(crate) fn listen(self: &Arc<Self>, scope: &WatchScope, after: u64, max: usize) -> Changed {
        let mut listeners = self.lock();
        let waiting = listeners.waiting.len();
        let mut id = None;
        let reply = if listeners.last > after {
            Reply::ready(Ok(()))
        } else if waiting >= max {
            let message = format!(
                "{waiting} change streams or tailable cursors are waiting, and listeners_max is {max}; try again"
            );
            Reply::ready(Err(Error::new(Code::TooManyRequests, message)))
        } else {
            let (sender, reply) = Reply::channel();
            let place = listeners.next;
            listeners.next += 1;
            let scope = scope.clone();
            listeners.waiting.insert(place, Listener { scope, after, sender });
            id = Some(place);
            reply
        };
        drop(listeners);
        Changed {
            bell: self.clone(),
            id,
            reply,
        }
    }

    /// Ends all waiting: the database is being closed.
    pub(crate) fn close(&self) {
        let waiting: Vec<_> = self.lock().waiting.drain().collect();
        for (_, listener) in waiting {
            listener.sender.send(Err(Error::new(
                Code::ShutdownInProgress,
                "the database is being closed",
            )));
        }
    }
}

/// Resolves when a stream may have new events. A future that needs no runtime; dropping it stops the waiting.
///
/// It may resolve though nothing of the stream's happened. Its errors: `TooManyRequests` when `listeners_max` wait
/// already, `ShutdownInProgress`.
#[must_use = "nothing waits until it is polled or waited for"]
pub struct Changed {
    bell: Arc<Bell>,
    /// Its place among the waiting, if it had to wait.
    id: Option<u64>,
    reply: Reply<()>,
}

impl Changed {
    /// Blocks the thread until there may be new events. Not for async code.
    ///
    /// # Errors
    /// As the future's.
    pub fn wait(mut self) -> Result<()> {
        std::mem::replace(&mut self.reply, Reply::ready(Ok(()))).wait()
    }
}

impl Future for Changed {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(cx)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let waiting = self.id.and_then(|id| self.bell.lock().waiting.remove(&id));
        // Outside the lock, for it holds a waker.
        drop(waiting);
    }
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changed")
    }
}
