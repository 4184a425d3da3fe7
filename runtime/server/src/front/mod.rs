//! The HTTP front: listeners, TLS, connections, the phases of a request. What is behind a route lives elsewhere:
//! client_api/, admin/, the host, the blob store. Called by node.rs.
//!
//! In reading order: [`listener`] accepts; [`workers`] run connections, one runtime per core; [`conn`] is one
//! connection; [`pipeline`] is one request; [`client_address`] says where it comes from, [`rate`] whether there were too
//! many; [`route`] finds what answers; [`static_files`] and [`function`] are two
//! of the answers; [`respond`] makes responses and maps faults.

pub(crate) mod body;
pub(crate) mod client_address;
mod conn;
mod cors;
mod function;
mod listener;
mod pace;
pub(crate) mod pipeline;
pub(crate) mod rate;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod signer;
pub(crate) mod static_files;
mod tls;
mod version;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::metrics::Surface;
use crate::node::Node;
use workers::Workers;

/// A node's listeners and workers while they run.
pub(crate) struct Front {
    public: SocketAddr,
    public_scheme: &'static str,
    admin: SocketAddr,
    mongo: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    workers: Arc<Workers>,
}

impl Front {
    /// Binds the listeners and starts the workers.
    ///
    /// # Errors
    /// When an address can't be bound or the certificate can't be used.
    pub(crate) async fn start(node: Arc<Node>) -> anyhow::Result<Self> {
        let config = &node.config;
        let certificate = config
            .tls
            .as_ref()
            .map(tls::Certificate::load)
            .transpose()?
            .map(Arc::new);
        let public = bind(config.listen, "public").await?;
        let admin = bind(config.admin_listen, "admin").await?;
        let (public_address, admin_address) = (public.local_addr()?, admin.local_addr()?);
        let mongo = match config.mongo.listen {
            Some(address) => Some(bind(address, "MongoDB").await?),
            None => None,
        };
        let mongo_address = mongo.as_ref().map(TcpListener::local_addr).transpose()?;

        let (stop, stopped) = watch::channel(false);
        let workers = Arc::new(Workers::start(&node, &stopped)?);
        let mut tasks = Vec::new();
        let mut sockets = vec![
            (Surface::Public, public, certificate.clone()),
            (Surface::Admin, admin, None),
        ];
        sockets.extend(mongo.map(|mongo| (Surface::Mongo, mongo, certificate.clone())));
        for (surface, socket, certificate) in sockets {
            let listener = listener::Listener {
                surface,
                socket,
                certificate,
                // Each its own: a crowd on the public listener does not lock the operator out.
                permits: Arc::new(Semaphore::new(config.limits.connections_max)),
                workers: workers.clone(),
                node: node.clone(),
            };
            tasks.push(tokio::spawn(listener.run(stopped.clone())));
        }
        let public_scheme = if certificate.is_some() { "https" } else { "http" };
        if let Some(certificate) = certificate {
            tasks.push(tokio::spawn(tls::keep_fresh(certificate, node.clone(), stopped)));
        }
        Ok(Self {
            public: public_address,
            public_scheme,
            admin: admin_address,
            mongo: mongo_address,
            stop,
            tasks,
            workers,
        })
    }

    /// Where the public listener is.
    pub(crate) fn public_url(&self) -> String {
        format!("{}://{}", self.public_scheme, self.public)
    }

    /// Where the admin listener is.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Where the MongoDB listener is, if there is one.
    pub(crate) fn mongo_url(&self) -> Option<String> {
        let address = self.mongo?;
        let tls = if self.public_scheme == "https" {
            "?tls=true"
        } else {
            ""
        };
        Some(format!("mongodb://{address}/{tls}"))
    }

    /// Stops accepting, lets requests in flight finish within the configured grace, then ends the workers.
    pub(crate) async fn drain(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "a listener task failed");
            }
        }
        self.workers.finish().await;
    }
}

async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("bind the {what} listener to {address}; choose another with --listen, --admin-listen or --mongo-listen")
    })
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers can't be installed.
pub(crate) async fn shutdown_signal() -> anyhow::Result<()> {
    StopSignals::install()?.wait().await;
    Ok(())
}

/// The signals that stop a node. From its making on they do not end the process any more.
pub(crate) struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    /// Takes SIGTERM and SIGINT over.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub(crate) fn install() -> anyhow::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate()).context("handle SIGTERM")?,
            int: signal(SignalKind::interrupt()).context("handle SIGINT")?,
        })
    }

    /// Waits for either.
    pub(crate) async fn wait(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
