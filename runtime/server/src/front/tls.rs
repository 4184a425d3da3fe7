//! TLS: a certificate from PEM files, kept fresh. The files are looked at every second (renewals come by rename,
//! symlink swap or copy, which file events tell apart badly); files that can't be used leave the old certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::node::Node;

const POLL: Duration = Duration::from_secs(1);

/// The certificate that new connections get.
pub(crate) struct Certificate {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    stamp: Stamp,
}

/// What the files looked like: times and sizes.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// Loads the certificate for the first time.
    ///
    /// # Errors
    /// When a file can't be read or the key is not the certificate's.
    pub(crate) fn load(files: &TlsFiles) -> anyhow::Result<Self> {
        let stamp = stamp(files);
        Ok(Self {
            files: files.clone(),
            current: ArcSwap::from(load(files)?),
            stamp,
        })
    }

    /// An acceptor with the certificate of this moment.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

/// Loads changed files until told to stop.
pub(crate) async fn keep_fresh(
    certificate: Arc<Certificate>,
    node: Arc<Node>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut seen = certificate.stamp;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(POLL) => {}
        }
        let now = stamp(&certificate.files);
        if now == seen {
            continue;
        }
        seen = now;
        match load(&certificate.files) {
            Ok(fresh) => {
                certificate.current.store(fresh);
                node.metrics.tls_reloads.inc();
                tracing::info!("the certificate was loaded anew");
            }
            Err(error) => {
                node.metrics.tls_reload_failures.inc();
                let error = format!("{error:#}");
                tracing::warn!(error, "the changed certificate can't be used; the old one stays");
            }
        }
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.cert, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = read_chain(&files.cert).with_context(|| format!("read the certificate {:?}", files.cert))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("read the private key {:?}", files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| {
            format!(
                "use the certificate {:?} with the key {:?}",
                files.cert, files.key
            )
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| anyhow::anyhow!("{error}"))? {
        chain.push(certificate.map_err(|error| anyhow::anyhow!("{error}"))?);
    }
    anyhow::ensure!(!chain.is_empty(), "no certificate in the file");
    Ok(chain)
}
