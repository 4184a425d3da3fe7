//! Guests' requests to the world: allowed origins, refused ones, loopback only when named, counts.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cloudlet_host::{LogStream, OutboundRule};
use support::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An origin that answers every request on a connection, counting connections.
async fn origin() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, connections) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 {
                        return;
                    }
                    let head = String::from_utf8_lossy(&buffer[..read]);
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    let reply = if line.contains("/redirect") {
                        "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned()
                    } else {
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len())
                    };
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, connections)
}

fn rule(host: &str, port: u16) -> OutboundRule {
    OutboundRule {
        https: false,
        host: host.into(),
        port,
    }
}

#[tokio::test]
async fn reaches_origins_that_a_rule_names_and_keeps_connections() {
    let node = Node::start();
    let (port, connections) = origin().await;
    let app = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", port), rule("api.localhost", port)];
    });
    for _ in 0..3 {
        assert_eq!(
            app.text(&format!("/fetch?http://127.0.0.1:{port}/a/b")).await,
            "200 GET /a/b HTTP/1.1"
        );
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    assert_eq!(
        app.text(&format!("/fetch?http://api.localhost:{port}/")).await,
        "200 GET / HTTP/1.1"
    );
    // Redirects are the guest's to follow, each hop under the rules.
    assert!(
        app.text(&format!("/fetch?http://127.0.0.1:{port}/redirect"))
            .await
            .starts_with("302")
    );
    assert_eq!(
        node.metric("cloudlet_host_outbound_total", &[("outcome", "ok")]),
        5.0
    );
}

#[tokio::test]
async fn denies_what_no_rule_names_and_says_what_to_add() {
    let node = Node::start();
    let (port, connections) = origin().await;
    let app = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("*.example.com", port)]
    });
    for host in ["127.0.0.1", "localhost", "[::1]", "example.org"] {
        let reply = app.text(&format!("/fetch?http://{host}:{port}/")).await;
        assert_eq!(reply, "error ErrorCode::HttpRequestDenied", "{host}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    assert_eq!(
        node.metric("cloudlet_host_outbound_total", &[("outcome", "denied")]),
        4.0
    );
    let said = node.logs.texts(LogStream::Platform);
    assert!(
        said.iter()
            .any(|line| line.contains(&format!("\"http://127.0.0.1:{port}\"")) && line.contains("outbound")),
        "{said:?}"
    );
}

#[tokio::test]
async fn counts_requests_and_tells_failures_apart() {
    let node = Node::start();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let app = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", closed)]
    });
    assert_eq!(
        app.text(&format!("/fetch?http://127.0.0.1:{closed}/")).await,
        "error ErrorCode::ConnectionRefused"
    );
    let limited = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", closed)];
        spec.limits.outbound_requests_max = 0;
    });
    assert_eq!(
        limited.text(&format!("/fetch?http://127.0.0.1:{closed}/")).await,
        "error ErrorCode::ConnectionLimitReached"
    );
    for outcome in ["failed", "limit"] {
        assert_eq!(
            node.metric("cloudlet_host_outbound_total", &[("outcome", outcome)]),
            1.0,
            "{outcome}"
        );
    }
}
