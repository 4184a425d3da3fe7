//! Reaching an origin: names are resolved here, every address is checked, then TCP and, for https, TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error as WasiError;

use super::{CONNECT_TIMEOUT, address, matching};
use crate::app::OutboundRule;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Names of one function that are looked up at once: each holds a thread for as long as the system's resolver takes, also
/// when nobody waits for it any more.
const LOOKUPS_MAX: usize = 8;
/// Time for one of several addresses, so that a dead one leaves time for the next.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an origin can't be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The rules do not allow it.
    #[error("no rule allows {0:?}")]
    Rule(String),
    /// The name leads to an address that is not for functions.
    #[error(
        "{host:?} has the address {address}, which is not public; add the address itself to `outbound` to allow it"
    )]
    Address { host: String, address: IpAddr },
    /// The name can't be resolved.
    #[error("can't resolve {host:?}: {cause}")]
    Name { host: String, cause: String },
    /// No address answers.
    #[error("can't connect: {0}")]
    Tcp(io::Error),
    /// The origin does not prove who it is.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// It took too long.
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
}

impl Refused {
    /// The same as `wasi:http` tells it.
    pub(super) fn to_wasi(&self) -> WasiError {
        match self {
            Refused::Rule(_) => WasiError::HttpRequestDenied,
            Refused::Address { .. } => WasiError::DestinationIpProhibited,
            Refused::Name { cause, .. } => WasiError::DnsError {
                rcode: Some(cause.clone()),
                info_code: None,
            },
            Refused::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                WasiError::ConnectionRefused
            }
            Refused::Tcp(_) => WasiError::DestinationUnavailable,
            Refused::Tls(_) => WasiError::TlsProtocolError,
            Refused::Timeout => WasiError::ConnectionTimeout,
        }
    }
}

/// HTTP/2's name in the handshake of TLS.
const H2: &[u8] = b"h2";

/// TLS towards origins, with HTTP/2 where they have it: Mozilla's roots, ring, no client certificate.
pub(super) fn tls_config() -> Arc<rustls::ClientConfig> {
    tls_config_trusting(rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    })
}

fn tls_config_trusting(roots: rustls::RootCertStore) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Makes one function's connections.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Arc<rustls::ClientConfig>,
    rules: Arc<[OutboundRule]>,
    lookups: Arc<Semaphore>,
}

impl Connector {
    pub(super) fn new(tls: Arc<rustls::ClientConfig>, rules: Vec<OutboundRule>) -> Self {
        Self {
            tls,
            rules: rules.into(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, Refused> {
        let rule = matching(&self.rules, &uri).ok_or_else(|| Refused::Rule(uri.to_string()))?;
        let host = address::unbracket(uri.host().unwrap_or_default());
        let stream = reach(host, rule.port, &self.lookups).await?;
        // Requests are small and waited for.
        let _ = stream.set_nodelay(true);
        if !rule.https {
            return Ok(Stream::Plain(TokioIo::new(stream)));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| Refused::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TlsConnector::from(self.tls)
            .connect(name, stream)
            .await
            .map_err(Refused::Tls)?;
        Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
    }
}

/// Opens a connection to one of the addresses of `host` that a function may reach.
async fn reach(host: &str, port: u16, lookups: &Arc<Semaphore>) -> Result<TcpStream, Refused> {
    // What was checked is what is connected to: the name is not looked up again.
    let addresses = resolve(host, port, lookups).await?;
    let attempt = |last: bool| if last { CONNECT_TIMEOUT } else { ATTEMPT_TIMEOUT };
    let mut failure = io::Error::other("the name has no addresses");
    for (i, address) in addresses.iter().enumerate() {
        let time = attempt(i + 1 == addresses.len());
        match tokio::time::timeout(time, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(Refused::Tcp(failure))
}

/// The addresses of `host` that may be reached. The host has matched a rule, so an address written out in it was
/// written out in the rule.
async fn resolve(host: &str, port: u16, lookups: &Arc<Semaphore>) -> Result<Vec<SocketAddr>, Refused> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if address::is_localhost(host) {
        return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    }
    let name_error = |cause: String| Refused::Name {
        host: host.to_owned(),
        cause,
    };
    let permit = Arc::clone(lookups).acquire_owned().await;
    let name = host.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        (name.as_str(), port).to_socket_addrs().map(Vec::from_iter)
    })
    .await
    .map_err(|error| name_error(error.to_string()))?
    .map_err(|error| name_error(error.to_string()))?;
    public_only(host, found)
}

/// All addresses of a name, as far as they are tried, if all are public.
fn public_only(host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
    // One address that is not public refuses the name: picking the others would make it work by chance.
    if let Some(address) = found.iter().find(|address| !address::is_public(address.ip())) {
        return Err(Refused::Address {
            host: host.to_owned(),
            address: address.ip(),
        });
    }
    if found.is_empty() {
        return Err(Refused::Name {
            host: host.to_owned(),
            cause: "no addresses".to_owned(),
        });
    }
    found.truncate(ADDRESSES_MAX);
    Ok(found)
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Refused>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        Box::pin(async move {
            tokio::time::timeout(CONNECT_TIMEOUT, connecting)
                .await
                .map_err(|_| Refused::Timeout)?
        })
    }
}

/// A connection to an origin.
pub(super) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(H2) => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
