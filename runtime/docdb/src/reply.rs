//! The reply to an operation: a oneshot channel that needs no runtime. The lanes send, callers await or wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{Code, Error, Result};

/// The reply to an operation: a future that needs no runtime, or a value to [`wait`](Reply::wait) for.
/// Dropping it does not undo the operation; a write that was accepted is carried out.
#[must_use = "an operation's outcome is only known from its reply"]
pub struct Reply<T>(State<T>);

enum State<T> {
    Ready(Result<T>),
    Waiting(Arc<Slot<T>>),
    Taken,
}

/// Where a sender leaves the outcome.
struct Slot<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
}

struct Inner<T> {
    outcome: Option<Result<T>>,
    waker: Option<Waker>,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Reply<T> {
    /// A reply that is there already.
    pub(crate) fn ready(outcome: Result<T>) -> Self {
        Self(State::Ready(outcome))
    }

    /// A reply to come, and the way to send it.
    pub(crate) fn channel() -> (ReplySender<T>, Self) {
        let inner = Mutex::new(Inner {
            outcome: None,
            waker: None,
        });
        let slot = Arc::new(Slot {
            inner,
            filled: Condvar::new(),
        });
        (ReplySender(Some(slot.clone())), Self(State::Waiting(slot)))
    }

    /// Blocks the thread until the reply is there. Not for async code.
    ///
    /// # Errors
    /// The operation's own; `InternalError` when it was abandoned.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            State::Ready(outcome) => outcome,
            State::Taken => Err(taken()),
            State::Waiting(slot) => {
                let mut inner = slot.lock();
                loop {
                    if let Some(outcome) = inner.outcome.take() {
                        return outcome;
                    }
                    inner = slot.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// The outcome moves only when it is handed out, so a reply needs no pinning whatever it carries.
impl<T> Unpin for Reply<T> {}

impl<T> Future for Reply<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.0, State::Taken) {
            State::Ready(outcome) => Poll::Ready(outcome),
            State::Taken => Poll::Ready(Err(taken())),
            State::Waiting(slot) => {
                let mut inner = slot.lock();
                if let Some(outcome) = inner.outcome.take() {
                    return Poll::Ready(outcome);
                }
                let replaced = match &inner.waker {
                    Some(waker) if waker.will_wake(cx.waker()) => None,
                    _ => inner.waker.replace(cx.waker().clone()),
                };
                drop(inner);
                // Outside the lock: dropping a waker may run any code.
                drop(replaced);
                self.0 = State::Waiting(slot);
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "Reply(ready)",
            State::Waiting(_) => "Reply(waiting)",
            State::Taken => "Reply(taken)",
        })
    }
}

/// The sending end. Dropping it unsent answers `InternalError`, so that no caller waits for ever.
pub(crate) struct ReplySender<T>(Option<Arc<Slot<T>>>);

impl<T> ReplySender<T> {
    pub(crate) fn send(mut self, outcome: Result<T>) {
        self.fill(outcome);
    }

    fn fill(&mut self, outcome: Result<T>) {
        let Some(slot) = self.0.take() else { return };
        let waker = {
            let mut inner = slot.lock();
            inner.outcome = Some(outcome);
            inner.waker.take()
        };
        slot.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        self.fill(Err(Error::new(
            Code::InternalError,
            "the operation was abandoned: its thread failed",
        )));
    }
}

fn taken() -> Error {
    Error::new(Code::InternalError, "the reply was taken already")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_crosses_threads() {
        let (sender, reply) = Reply::channel();
        let waiting = std::thread::spawn(move || reply.wait().unwrap());
        sender.send(Ok(7));
        assert_eq!(waiting.join().unwrap(), 7);
    }

    #[test]
    fn a_dropped_sender_answers_an_internal_error() {
        let (sender, reply) = Reply::<u8>::channel();
        drop(sender);
        assert_eq!(reply.wait().unwrap_err().code(), Code::InternalError);
    }

    #[test]
    fn polls_pending_then_wakes() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(false.into()));
        let waker = flag.clone().into();
        let mut context = Context::from_waker(&waker);
        let (sender, mut reply) = Reply::channel();
        assert!(Pin::new(&mut reply).poll(&mut context).is_pending());
        sender.send(Ok(1));
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
        assert!(matches!(
            Pin::new(&mut reply).poll(&mut context),
            Poll::Ready(Ok(1))
        ));
    }
}
