//! Accepting: under a permit, never handshaking in line, never ending on an accept error. Which worker gets a
//! connection is workers.rs' business.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::front::tls::Certificate;
use crate::front::workers::{Accepted, Workers};
use crate::metrics::Surface;
use crate::node::Node;

/// First and longest wait after an accept error that the system, not the peer, is to blame for.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One listening socket.
pub(crate) struct Listener {
    pub(crate) surface: Surface,
    pub(crate) socket: TcpListener,
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) node: Arc<Node>,
}

impl Listener {
    /// Accepts until told to stop; closing the socket tells clients to go elsewhere.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => {}
            () = self.accept_all() => {}
        }
    }

    async fn accept_all(&self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            // The semaphore is never closed.
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                return;
            };
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    backoff = BACKOFF_MIN;
                    self.node.metrics.connections_total(self.surface).inc();
                    self.workers.hand(Accepted {
                        surface: self.surface,
                        stream,
                        peer,
                        certificate: self.certificate.clone(),
                        permit,
                    });
                }
                Err(error) => {
                    self.node.metrics.accept_errors.inc();
                    if peers_fault(error.kind()) {
                        continue;
                    }
                    tracing::warn!(error = %error, listener = self.surface.label(), "accept failed");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }
}

/// Errors of the connection that was to be accepted, not of the listener.
fn peers_fault(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
