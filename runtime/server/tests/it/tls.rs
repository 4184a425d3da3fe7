//! TLS on the public listener: handshakes, protocols, reload.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::harness::{App, Node, Options, serve_fails};
use crate::http::Client;

/// A new certificate for `localhost`, written where the node reads it.
fn certify(dir: &TempDir) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let write = |name: &str, text: String| {
        let fresh = dir.path().join(format!("{name}.new"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, dir.path().join(name)).unwrap();
    };
    write("key.pem", signing_key.serialize_pem());
    write("cert.pem", cert.pem());
    cert.der().clone()
}

fn options(dir: &TempDir) -> Options {
    let path = |name| dir.path().join(name).display().to_string();
    Options::default()
        .set("tls-cert", path("cert.pem"))
        .set("tls-key", path("key.pem"))
}

/// A connection that trusts this certificate and no other.
fn dial(
    node: &Node,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(node.public).unwrap());
    stream
        .conn
        .complete_io(&mut stream.sock)
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

#[test]
fn certificates_are_used_and_replaced() {
    let dir = TempDir::new().unwrap();
    let first = certify(&dir);
    let app = App::new("hotel").file("/index.html", "text/html", "hi");
    let node = Node::with_options(&app, options(&dir).expect_log("can't be used; the old one stays"));

    let stream = dial(&node, &first, &[b"http/1.1"]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut old = Client::over(stream, "localhost");
    assert_eq!(old.get("/").text(), "hi");
    let stream = dial(&node, &first, &[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));

    // A file that is no certificate changes nothing.
    std::fs::write(dir.path().join("cert.pem"), "not a certificate").unwrap();
    while node.metric(r#"cloudlet_tls_reloads_total{outcome="failed"}"#) < 1.0 {
        std::thread::yield_now();
    }
    assert!(dial(&node, &first, &[]).is_ok());

    // A new one is used by new connections; the old connection goes on.
    let second = certify(&dir);
    while node.metric(r#"cloudlet_tls_reloads_total{outcome="ok"}"#) < 1.0 {
        std::thread::yield_now();
    }
    assert!(dial(&node, &first, &[]).is_err());
    let mut new = Client::over(dial(&node, &second, &[]).unwrap(), "localhost");
    assert_eq!(new.get("/").text(), "hi");
    assert_eq!(old.get("/").text(), "hi");
    drop((old, new));

    // Somebody who speaks plainly is not served, and not a problem.
    let mut plain = TcpStream::connect(node.public).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(node.metric(r#"cloudlet_tls_handshakes_total{outcome="failed"}"#) >= 1.0);
    node.stop();
}

#[test]
fn a_key_of_another_certificate_is_refused_at_the_start() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    certify(&dir);
    certify(&other);
    let cert = dir.path().join("cert.pem").display().to_string();
    let key = other.path().join("key.pem").display().to_string();
    let (status, text) = serve_fails(dir.path(), &["--tls-cert", &cert, "--tls-key", &key]);
    assert!(!status.success());
    assert!(text.contains("cert.pem") && text.contains("key.pem"), "{text}");
}
