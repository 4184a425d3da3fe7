//! Reader threads, one writer thread, group commit.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::Result;

/// The reply to an operation: a future that needs no runtime, or a value to [`wait`](Reply::wait) for.
/// Dropping it does not undo the operation; a write that was accepted is carried out.
#[must_use = "an operation's outcome is only known from its reply"]
pub struct Reply<T> {
    ready: Option<Result<T>>,
}

impl<T> Reply<T> {
    /// Blocks the thread until the reply is there. Not for async code.
    pub fn wait(self) -> Result<T> {
        todo!()
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _ = &self.ready;
        todo!()
    }
}
