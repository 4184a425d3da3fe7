//! Worker threads: each a current-thread runtime that owns its connections from handshake to end, so that a request
//! never crosses threads and a guest is driven inline (threads that share a scheduler cost more than wasm does). A
//! new connection goes to the worker with the fewest.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::front::conn;
use crate::front::tls::Certificate;
use crate::metrics::{Closed, Surface};
use crate::node::Node;

/// A connection on its way to a worker.
pub(crate) struct Accepted {
    pub(crate) surface: Surface,
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A connection after it was taken off the acceptor's runtime.
struct Handed {
    surface: Surface,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    permit: OwnedSemaphorePermit,
}

/// The workers of a node.
pub(crate) struct Workers {
    workers: Mutex<Vec<Worker>>,
}

struct Worker {
    /// Bounded by the permits that its messages hold.
    inbox: mpsc::UnboundedSender<Handed>,
    /// Connections handed over and not ended.
    open: Arc<AtomicUsize>,
    done: oneshot::Receiver<()>,
}

impl Workers {
    /// Starts the configured number of threads.
    ///
    /// # Errors
    /// When a thread or its runtime can't be started.
    pub(crate) fn start(node: &Arc<Node>, stopped: &watch::Receiver<bool>) -> anyhow::Result<Self> {
        let workers = (0..node.config.workers)
            .map(|number| Worker::start(number, node.clone(), stopped.clone()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            workers: Mutex::new(workers),
        })
    }

    /// Gives a connection to the worker that has the fewest.
    pub(crate) fn hand(&self, accepted: Accepted) {
        let Accepted {
            surface,
            stream,
            peer,
            certificate,
            permit,
        } = accepted;
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(error = %error, "a connection could not be handed over"),
        };
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(worker) = workers.iter().min_by_key(|w| w.open.load(Ordering::Relaxed)) else {
            return;
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        let handed = Handed {
            surface,
            stream,
            peer,
            certificate,
            permit,
        };
        // A worker ends only when it is told to; then the connection is closed by dropping it.
        let _ = worker.inbox.send(handed);
    }

    /// Waits for the workers, which were told to stop, to finish their connections.
    pub(crate) async fn finish(&self) {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for Worker { inbox, open: _, done } in workers {
            drop(inbox);
            // An error means that the thread is gone, which is what is waited for.
            let _ = done.await;
        }
    }
}

impl Worker {
    fn start(number: usize, node: Arc<Node>, stopped: watch::Receiver<bool>) -> anyhow::Result<Self> {
        let (inbox, queue) = mpsc::unbounded_channel();
        let (finished, done) = oneshot::channel();
        let open = Arc::new(AtomicUsize::new(0));
        let counter = open.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a worker's runtime")?;
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                LocalSet::new().block_on(&runtime, work(node, queue, stopped, counter));
                let _ = finished.send(());
            })
            .context("start a worker thread")?;
        Ok(Self { inbox, open, done })
    }
}

/// A worker's life: run the connections that come; when no more can come, wait for those that are open.
async fn work(
    node: Arc<Node>,
    mut queue: mpsc::UnboundedReceiver<Handed>,
    stopped: watch::Receiver<bool>,
    open: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            handed = queue.recv() => match handed {
                Some(handed) => {
                    connections.spawn_local(serve(node.clone(), handed, stopped.clone(), Open(open.clone())));
                }
                None => break,
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => note(ended),
        }
    }
    let grace = node.config.limits.drain_grace;
    let all = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "the grace is over; connections are cut"
        );
        (0..connections.len()).for_each(|_| node.metrics.closed(Closed::Drain));
        connections.shutdown().await;
    }
}

async fn serve(node: Arc<Node>, handed: Handed, stopped: watch::Receiver<bool>, open: Open) {
    let Handed {
        surface,
        stream,
        peer,
        certificate,
        permit,
    } = handed;
    match TcpStream::from_std(stream) {
        Ok(stream) => conn::serve(node, surface, stream, peer, certificate, stopped).await,
        Err(error) => tracing::warn!(error = %error, "a connection could not be taken over"),
    }
    drop((permit, open));
}

/// A panic in a connection's task is a bug; it ends that connection alone.
fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "a connection's task failed");
    }
}

/// One connection in a worker's count.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
