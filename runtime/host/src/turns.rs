//! Turns of computing. A guest that computes for longer than a tick shares its thread with everything else that lives
//! there: the connections of other functions, their timers, their sockets. So of all such guests on a thread one computes
//! at a time, for one slice; then the thread looks at its sockets and runs whatever else is ready, and the next
//! in line has its slice. However many of them there are, the others wait for one slice, not for all.

use std::cell::OnceCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

thread_local! {
    /// The line of this thread's guests, first come first served: one of them computes.
    static LINE: OnceCell<Arc<Semaphore>> = const { OnceCell::new() };
}

/// How many guests compute for long, on all threads. While there is one, slices are short.
#[derive(Debug, Clone, Default)]
pub(crate) struct Computing(Arc<AtomicUsize>);

impl Computing {
    /// Whether there is one.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

/// A guest in that count.
#[derive(Debug)]
struct Counted(Computing);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A slice of computing, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    counted: Counted,
}

/// Gives up the slice that is over, if there was one, and waits for the next.
pub(crate) fn next(
    over: Option<Turn>,
    computing: &Computing,
) -> Pin<Box<dyn Future<Output = Option<Turn>> + Send>> {
    let counted = match over {
        // The permit goes back here, before this guest stands in line again.
        Some(turn) => turn.counted,
        None => computing.one(),
    };
    let line = LINE.with(|line| line.get_or_init(|| Arc::new(Semaphore::new(1))).clone());
    Box::pin(async move {
        // The line is never closed; without a permit the guest would compute as one that has not been noticed yet.
        let permit = line.acquire_owned().await.ok()?;
        // With the slice in hand, so that nobody else computes before the thread has looked at its sockets: the runtime
        // wakes what yields this way after that.
        tokio::task::yield_now().await;
        Some(Turn {
            _permit: permit,
            counted,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Many that compute, and one that talks to itself over a socket: it gets on with every slice, as if there was
    /// one that computes.
    #[test]
    fn between_two_slices_sockets_are_served_however_many_compute() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let slices_per_ping = |guests: usize| {
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let computing = Computing::default();
                let slices = Rc::new(Cell::new(0));
                for _ in 0..guests {
                    let (computing, slices) = (computing.clone(), slices.clone());
                    tokio::task::spawn_local(async move {
                        let mut turn = None;
                        loop {
                            turn = next(turn, &computing).await;
                            slices.set(slices.get() + 1);
                        }
                    });
                }
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (mut far, _) = listener.accept().await.unwrap();
                const PINGS: usize = 50;
                let before = slices.get();
                for _ in 0..PINGS {
                    near.write_all(b"!").await.unwrap();
                    // More room than there is to read: then the runtime asks the system before the next.
                    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
                }
                assert!(computing.any());
                (slices.get() - before) as f64 / PINGS as f64
            })
        };
        let (one, many) = (slices_per_ping(1), slices_per_ping(40));
        assert!(
            one > 0.0 && many < one + 2.0,
            "{one} slices between pings, with many {many}"
        );
    }

    #[tokio::test]
    async fn slices_go_round() {
        let computing = Computing::default();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let guests: Vec<_> = (0..3)
            .map(|number| {
                let (computing, order) = (computing.clone(), order.clone());
                tokio::spawn(async move {
                    let mut turn = None;
                    for _ in 0..4 {
                        turn = next(turn, &computing).await;
                        order.lock().unwrap().push(number);
                    }
                })
            })
            .collect();
        for guest in guests {
            guest.await.unwrap();
        }
        assert!(!computing.any(), "each is counted until it is done");
        assert_eq!(*order.lock().unwrap(), [0, 1, 2].repeat(4));
    }
}
