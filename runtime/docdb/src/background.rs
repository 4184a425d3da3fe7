//! Work that is too much for one turn of the writer, done in bounded steps between other writes by a thread of its
//! own: filling new indexes, and removing the rows of what was dropped. Each step is a write like any other and shares
//! its commit; what is left over by a crash is found again when the store is opened.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloudlet_base::Deadline;

use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::exec::build::{self, Build, Progress};
use crate::lanes::Writer;
use crate::reply::ReplySender;
use crate::{Code, Error, Result, index};

/// Time until another try when the writer's queue is full, the disk is, or another build has to end first.
const RETRY: Duration = Duration::from_millis(20);

/// What the thread has to do.
#[derive(Default)]
pub(crate) struct Background {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    builds: Vec<Task>,
    /// Something was dropped.
    dropped: bool,
    closed: bool,
}

/// A build under way.
struct Task {
    build: Build,
    /// Why it can't go on; what it made is being removed.
    failed: Option<Error>,
    sender: ReplySender<usize>,
}

/// What became of a step.
enum Stepped {
    On(Task),
    /// The same again, after a while.
    Later(Task),
    Ended,
    /// What it made has to be removed.
    Undone,
}

impl Background {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a build that was begun, and answers its caller in the end.
    pub(crate) fn build(&self, build: Build, sender: ReplySender<usize>) {
        let task = Task {
            build,
            failed: None,
            sender,
        };
        let mut state = self.lock();
        if state.closed {
            task.abandon();
            return;
        }
        state.builds.push(task);
        self.changed.notify_all();
    }

    /// Says that something was dropped.
    pub(crate) fn dropped(&self) {
        self.lock().dropped = true;
        self.changed.notify_all();
    }

    /// Ends the thread after the step that it is at.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Runs until [`close`](Self::close).
    pub(crate) fn run(&self, engine: &Engine, writer: &Writer) {
        let mut tasks: Vec<Task> = Vec::new();
        // An earlier run may have left something.
        let mut dropped = true;
        loop {
            {
                let mut state = self.lock();
                while tasks.is_empty()
                    && !dropped
                    && state.builds.is_empty()
                    && !state.dropped
                    && !state.closed
                {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                tasks.append(&mut state.builds);
                dropped |= std::mem::take(&mut state.dropped);
                if state.closed {
                    break;
                }
            }
            engine
                .metrics
                .index_builds
                .set(i64::try_from(tasks.len()).unwrap_or(i64::MAX));
            let mut idle = true;
            for task in std::mem::take(&mut tasks) {
                match task.step(writer) {
                    Stepped::On(task) => {
                        idle = false;
                        tasks.push(task);
                    }
                    Stepped::Later(task) => tasks.push(task),
                    Stepped::Ended => idle = false,
                    Stepped::Undone => dropped = true,
                }
            }
            if dropped {
                match clear(engine, writer) {
                    Ok(more) => {
                        dropped = more;
                        idle &= !more;
                    }
                    // It is tried again with the next drop, or when the store is opened.
                    Err(error) if error.code() != Code::TooManyRequests => {
                        tracing::warn!(%error, "rows of what was dropped could not be removed");
                        dropped = false;
                    }
                    Err(_) => {}
                }
            }
            if idle && (dropped || !tasks.is_empty()) {
                let state = self.lock();
                if !state.closed {
                    // Woken early it only looks once more.
                    let _ = self.changed.wait_timeout(state, RETRY);
                }
            }
        }
        engine.metrics.index_builds.set(0);
        tasks.into_iter().for_each(Task::abandon);
    }
}

impl Task {
    fn step(mut self, writer: &Writer) -> Stepped {
        if let Some(error) = self.failed.take() {
            let build = self.build.clone();
            let undone = writer
                .write(Deadline::NEVER, move |tx| build::undo(tx, &build))
                .wait();
            // As long as it can't be undone nobody else may take the index for one that is being made.
            return match undone {
                Err(undoing) if undoing.code() != Code::ShutdownInProgress => {
                    self.failed = Some(error);
                    Stepped::Later(self)
                }
                _ => {
                    self.sender.send(Err(error));
                    Stepped::Undone
                }
            };
        }
        let build = self.build.clone();
        let stepped = writer
            .write(Deadline::NEVER, move |tx| build::step(tx, &build))
            .wait();
        match stepped {
            Ok(Progress::Made(count)) => {
                self.sender.send(Ok(count));
                Stepped::Ended
            }
            Ok(Progress::On(build)) => {
                self.build = build;
                Stepped::On(self)
            }
            Ok(Progress::Waiting) => Stepped::Later(self),
            Err(error) if error.code() == Code::TooManyRequests => Stepped::Later(self),
            Err(error) => {
                self.failed = Some(error);
                Stepped::On(self)
            }
        }
    }

    fn abandon(self) {
        self.sender.send(Err(Error::new(
            Code::ShutdownInProgress,
            "the database is being closed; the index is not there",
        )));
    }
}

/// Removes some rows of what was dropped. Returns whether there may be more.
fn clear(engine: &Engine, writer: &Writer) -> Result<bool> {
    if engine.read(|kv, _| Catalog::discarded(kv))?.is_none() {
        return Ok(false);
    }
    writer
        .write(Deadline::NEVER, |tx| {
            let Some(prefix) = Catalog::discarded(&*tx.kv)? else {
                return Ok(false);
            };
            if index::clear(tx.kv, &prefix)? {
                Catalog::forget(tx.kv, &prefix)?;
            }
            Ok(true)
        })
        .wait()
}

/// Who answers when a write that begins a build is through.
pub(crate) fn answer(
    background: Arc<Background>,
    sender: ReplySender<usize>,
) -> impl FnOnce(Result<Progress>) + Send {
    move |begun| match begun {
        Ok(Progress::Made(count)) => sender.send(Ok(count)),
        Ok(Progress::On(build)) => background.build(build, sender),
        Ok(Progress::Waiting) => {
            sender.send(Err(Error::new(Code::InternalError, "a build waits for nothing")))
        }
        Err(error) => sender.send(Err(error)),
    }
}
