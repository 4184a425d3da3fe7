//! The thread that tends the store: what a store puts off so that no commit waits for it, its checkpoints, is done here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::Engine;

/// Time until another try when the store could not be tended: each try costs everybody that it is opened again.
const RETRY: Duration = Duration::from_secs(1);

/// Wakes the thread.
#[derive(Default)]
pub(crate) struct Tender {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    due: bool,
    closed: bool,
}

impl Tender {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there may be something to do.
    pub(crate) fn wake(&self) {
        self.lock().due = true;
        self.changed.notify_all();
    }

    /// Ends the thread after what it is at.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Runs until [`close`](Self::close).
    pub(crate) fn run(&self, engine: &Engine) {
        // An earlier run may have left something.
        let mut due = true;
        loop {
            if due && let Err(error) = engine.tend() {
                tracing::warn!(error = %error, "a checkpoint of the database failed, and is tried again");
                let open = |state: &mut State| !state.closed;
                let waited = self.changed.wait_timeout_while(self.lock(), RETRY, open);
                if waited.unwrap_or_else(PoisonError::into_inner).0.closed {
                    return;
                }
                continue;
            }
            let idle = |state: &mut State| !state.due && !state.closed;
            let waited = self.changed.wait_while(self.lock(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return;
            }
            due = std::mem::take(&mut state.due);
        }
    }
}
