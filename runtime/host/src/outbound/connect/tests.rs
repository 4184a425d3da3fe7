//! Names that lead where no function may go, and what an origin is greeted with. Nothing here leaves this machine.

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;

fn refused(host: &str, found: &[&str]) -> Option<String> {
    let found = found
        .iter()
        .map(|address| SocketAddr::new(address.parse().unwrap(), 80));
    match public_only(host, found.collect()) {
        Ok(_) => None,
        Err(Refused::Address { address, .. }) => Some(address.to_string()),
        Err(other) => Some(other.to_string()),
    }
}

#[test]
fn a_name_with_one_address_that_is_not_public_is_refused() {
    assert_eq!(refused("a.test", &["8.8.8.8", "2606:4700::1111"]), None);
    for private in [
        "127.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "10.1.2.3",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
    ] {
        let found = ["8.8.8.8", "2606:4700::1111", private];
        assert!(refused("a.test", &found).is_some(), "{private}");
    }
    // Also behind more of them than are tried.
    let mut many = vec!["8.8.8.8"; ADDRESSES_MAX];
    many.push("10.0.0.1");
    assert_eq!(refused("a.test", &many).as_deref(), Some("10.0.0.1"));
    assert!(refused("a.test", &[]).unwrap().contains("no addresses"));
}

#[tokio::test]
async fn an_address_in_disguise_is_a_name_and_checked_as_one() {
    // The system's resolver takes these for 127.0.0.1, so a rule that has them names no loopback address by that.
    for host in ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"] {
        match resolve(host, 80, &Arc::new(Semaphore::new(1))).await {
            Err(Refused::Address { address, .. }) => assert!(!address::is_public(address), "{host}"),
            Err(Refused::Name { .. }) => {}
            other => panic!("{host}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_origin_that_has_http_2_is_spoken_to_in_it() {
    let made = rcgen::generate_simple_self_signed(["origin.localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut server =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    server.alpn_protocols = vec![H2.to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let greeted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        preface
    });
    let rule = OutboundRule {
        https: true,
        host: "origin.localhost".into(),
        port,
    };
    let connector = Connector::new(tls_config_trusting(roots), vec![rule]);
    let client =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector);
    let request = ::http::Request::get(format!("https://origin.localhost:{port}/"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    // The origin goes away after the greeting.
    assert!(client.request(request).await.is_err());
    assert_eq!(&greeted.await.unwrap(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}
