//! A client of the admin API: one connection, kept while it is good, over TCP or TLS.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for an answer to begin. Long, because a deploy compiles.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// Largest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A body that we send.
pub(super) type SentBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// The node refused or failed.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) problems: Vec<String>,
    pub(super) request_id: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        match self.status {
            StatusCode::UNAUTHORIZED => write!(f, "\n  log in with: cloudlet login, or set CLOUDLET_KEY"),
            status if status.is_server_error() => {
                write!(f, "\n  the node answered {status}, request {}", self.request_id)
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

/// A client of one node.
pub(super) struct Client {
    node: String,
    host: String,
    port: u16,
    tls: Option<tokio_rustls::TlsConnector>,
    authorization: HeaderValue,
    connection: Mutex<Option<SendRequest<SentBody>>>,
}

impl Client {
    /// A client of the node at `node`, `http[s]://host[:port]`.
    ///
    /// # Errors
    /// When `node` is no such address, or the key can't be sent.
    pub(super) fn new(node: &str, key: &str) -> anyhow::Result<Self> {
        let usage = || {
            format!(
                "{node:?} is not a node's address; write e.g. {}",
                super::context::DEFAULT_NODE
            )
        };
        let uri: Uri = node.parse().with_context(usage)?;
        let host = uri.host().with_context(usage)?.to_owned();
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("{}", usage()),
        };
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .context("the admin key has characters that no key has")?;
        authorization.set_sensitive(true);
        Ok(Self {
            node: node.to_owned(),
            host,
            port,
            tls: https.then(tls).transpose()?,
            authorization,
            connection: Mutex::new(None),
        })
    }

    /// The node's address.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Sends a request without a body and reads the JSON that comes back.
    ///
    /// # Errors
    /// [`ApiError`] when the node refuses; others when it can't be reached.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.value(Method::GET, path, None).await
    }

    /// Sends JSON and reads the JSON that comes back.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.value(Method::POST, path, Some(body.to_string().into()))
            .await
    }

    /// Sends bytes and reads the JSON that comes back; null when nothing does.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn value(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Value> {
        let bytes = self.bytes(method, path, body).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} did not answer as a cloudlet node does; is it the admin address?",
                self.node
            )
        })
    }

    /// Sends bytes and reads those that come back.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let body = match body {
            Some(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        };
        let response = self.send(method, path, Some("application/json"), body).await?;
        self.whole(response).await
    }

    /// Posts bytes of a media type and reads those that come back.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn post_bytes(
        &self,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Bytes> {
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let response = self.send(Method::POST, path, Some(content_type), body).await?;
        self.whole(response).await
    }

    /// Posts JSON for a page of documents; reads it, and where the next one begins if the node says it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn post_for_page(
        &self,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(Bytes, Option<String>)> {
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let content_type = Some("application/json");
        let response = self.send(Method::POST, path, content_type, body).await?;
        let place = response.headers().get(crate::admin::transfer::PLACE);
        let place = place.and_then(|place| place.to_str().ok()).map(str::to_owned);
        Ok((self.whole(response).await?, place))
    }

    async fn whole(&self, response: Response<Incoming>) -> anyhow::Result<Bytes> {
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        match body.collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => bail!("the answer of {} ended early: {error}", self.node),
        }
    }

    /// Sends a request; a refusal is an error, anything else a response whose body can be streamed.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: SentBody,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path
            .parse()
            .with_context(|| format!("{path:?} can't be sent as a path"))?;
        let host = HeaderValue::from_str(&format!("{}:{}", self.host, self.port))?;
        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        if let Some(content_type) = content_type {
            request
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_str(content_type)?);
        }
        let mut sender = self.connection().await?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request));
        let response = answer
            .await
            .with_context(|| {
                format!(
                    "{} did not answer within {} s",
                    self.node,
                    ANSWER_TIMEOUT.as_secs()
                )
            })?
            .with_context(|| format!("the connection to {} broke; run the command again", self.node))?;
        *self.connection.lock().await = Some(sender);
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.failure(response).await.into()),
        }
    }

    async fn connection(&self) -> anyhow::Result<SendRequest<SentBody>> {
        if let Some(mut kept) = self.connection.lock().await.take() {
            // An answer that was not read to its end keeps the connection busy; then a new one is made.
            if kept.is_ready()
                || (!kept.is_closed()
                    && tokio::time::timeout(Duration::from_millis(20), kept.ready())
                        .await
                        .is_ok_and(|ready| ready.is_ok()))
            {
                return Ok(kept);
            }
        }
        let address = (self.host.trim_start_matches('[').trim_end_matches(']'), self.port);
        let unreachable = || {
            format!(
                "can't reach the node {}; is it running? start one with: cloudlet dev, or cloudlet serve",
                self.node
            )
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .with_context(unreachable)?
            .with_context(unreachable)?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.handshake(stream).await,
            Some(tls) => {
                let name = rustls::pki_types::ServerName::try_from(self.host.clone())?;
                let stream = tls.connect(name, stream).await.with_context(unreachable)?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> anyhow::Result<SendRequest<SentBody>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection, or with the runtime; its errors come out of the requests.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn failure(&self, response: Response<Incoming>) -> ApiError {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Wire {
            code: String,
            message: String,
            problems: Vec<String>,
            request_id: String,
        }
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let wire: Wire = serde_json::from_slice(&bytes).unwrap_or_default();
        ApiError {
            status,
            message: match wire.message.is_empty() {
                true => format!(
                    "{} answered {status}; is it a cloudlet node's admin address?",
                    self.node
                ),
                false => wire.message,
            },
            code: match wire.code.is_empty() {
                true => status.as_str().to_owned(),
                false => wire.code,
            },
            problems: wire.problems,
            request_id: wire.request_id,
        }
    }
}

fn tls() -> anyhow::Result<tokio_rustls::TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

/// A path segment or query value, percent-encoded.
pub(super) fn encoded(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    utf8_percent_encode(text, KEPT).to_string()
}

/// A path of several segments, percent-encoded but for its slashes.
pub(super) fn encoded_path(text: &str) -> String {
    let segments: Vec<String> = text.split('/').map(encoded).collect();
    segments.join("/")
}
