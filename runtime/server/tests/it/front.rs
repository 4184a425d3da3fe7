//! The front: connections, HTTP versions, streaming, request ids, draining, the node's own life.

use std::net::TcpStream;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{App, Node, Options, serve_fails};
use crate::http::Client;

fn hello() -> App {
    App::new("hotel")
        .function("hello", "hello", "")
        .route("/hello", &[], "hello")
}

fn echo() -> App {
    App::new("hotel")
        .function("echo", "echo", "limits = { timeout = \"60s\", cpu = \"60s\" }")
        .route("/echo/...", &[], "echo")
}

#[test]
fn one_connection_serves_many_requests() {
    let node = Node::with(&hello());
    let mut client = node.client();
    for _ in 0..5 {
        let reply = client.get("/hello");
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "hello from a fresh instance\n")
        );
    }
    // Two at once on the same connection are answered in order.
    let twice = (client.head("GET", "/hello", &[]) + "\r\n").repeat(2);
    client.write(twice.as_bytes());
    assert_eq!(client.response(false).status, 200);
    assert_eq!(client.response(false).status, 200);
    assert!(node.metric(r#"cloudlet_http_requests_total{kind="function",status_class="2xx"}"#) >= 7.0);
    node.stop();
}

#[test]
fn http2_is_spoken_to_those_who_begin_with_it() {
    let node = Node::with(&hello().file("/index.html", "text/html", "<h1>site</h1>"));
    let public = node.public;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let stream = tokio::net::TcpStream::connect(public).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let driver = tokio::spawn(connection);
        let ask = |method: &str, path: &str| {
            let mut sender = sender.clone();
            let request = http::Request::builder()
                .method(method)
                .uri(format!("http://{public}{path}"))
                .body(Full::new(Bytes::new()))
                .unwrap();
            async move {
                let response = sender.send_request(request).await.unwrap();
                let (parts, body) = response.into_parts();
                (parts, body.collect().await.unwrap().to_bytes())
            }
        };
        let (one, two, three) = tokio::join!(ask("GET", "/hello"), ask("GET", "/"), ask("HEAD", "/"));
        assert_eq!(one.1, "hello from a fresh instance\n");
        assert_eq!(two.1, "<h1>site</h1>");
        assert_eq!(three.0.headers["content-length"], "13");
        assert!(three.1.is_empty());
        drop(sender);
        driver.await.unwrap().unwrap();
    });
    node.stop();
}

#[test]
fn bodies_stream_both_ways() {
    let node = Node::with(&echo());
    let mut client = node.client();
    let head = client.head("POST", "/echo/x?y=1", &[("transfer-encoding", "chunked")]);
    client.write(format!("{head}\r\n").as_bytes());
    client.chunk(b"first");
    let reply = client.response_head();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-path"), Some("/echo/x?y=1"));
    // The first part is back before the second is sent.
    assert_eq!(client.response_chunk().unwrap(), b"first");
    client.chunk(b"second");
    assert_eq!(client.response_chunk().unwrap(), b"second");
    client.chunk(b"");
    assert_eq!(client.response_chunk(), None);
    node.stop();
}

#[test]
fn request_ids_are_adopted_and_passed_on() {
    let node = Node::with(&echo());
    let mut client = node.client();
    let id = "0123456789abcdef0123456789abcdef";
    let reply = client.send("GET", "/echo/", &[("x-request-id", id)], b"");
    assert_eq!(reply.header("x-request-id"), Some(id));
    assert_eq!(reply.header("x-seen-request-id"), Some(id));
    let fresh = client.send("GET", "/echo/", &[("x-request-id", "<script>")], b"");
    assert_eq!(fresh.header("x-request-id").unwrap().len(), 32);
    assert_eq!(fresh.header("x-request-id"), fresh.header("x-seen-request-id"));
    let failed = client.get("/nothing");
    assert_eq!(failed.status, 404);
    assert_eq!(failed.json()["requestId"].as_str(), failed.header("x-request-id"));
    node.stop();
}

#[test]
fn requests_in_flight_finish_when_the_node_is_stopped() {
    let node = Node::with(&echo());
    let mut idle = node.client();
    assert_eq!(idle.get("/echo/").status, 200);
    let mut client = node.client();
    let head = client.head("POST", "/echo/", &[("transfer-encoding", "chunked")]);
    client.write(format!("{head}\r\n").as_bytes());
    client.chunk(b"before");
    client.response_head();
    assert_eq!(client.response_chunk().unwrap(), b"before");

    node.terminate();
    // The idle connection is closed, and no new one is taken; the busy one goes on.
    assert_eq!(idle.closed(), b"");
    while TcpStream::connect(node.public).is_ok() {
        std::thread::yield_now();
    }
    client.chunk(b"after");
    assert_eq!(client.response_chunk().unwrap(), b"after");
    client.chunk(b"");
    assert_eq!(client.response_chunk(), None);
    assert_eq!(client.closed(), b"");
    node.ended();
}

#[test]
fn requests_that_never_end_are_cut_after_the_grace() {
    let node = Node::with_options(
        &echo(),
        Options::default()
            .set("limits-drain-grace", "200ms")
            .expect_log("the grace is over"),
    );
    let mut client = node.client();
    let head = client.head("POST", "/echo/", &[("transfer-encoding", "chunked")]);
    client.write(format!("{head}\r\n").as_bytes());
    client.chunk(b"before");
    client.response_head();
    assert_eq!(client.response_chunk().unwrap(), b"before");
    node.terminate();
    client.closed();
    node.ended();
}

#[test]
fn a_second_node_on_the_same_data_is_refused() {
    let node = Node::start();
    let (status, text) = serve_fails(node.dir().path(), &[]);
    assert!(!status.success());
    assert!(text.contains("data directory"), "{text}");
    assert_eq!(Client::connect(node.admin).get("/healthz").status, 200);
    node.stop();
}

#[test]
fn a_restarted_node_serves_what_was_deployed() {
    let node = Node::with(&hello());
    let (dir, key) = (node.dir(), node.key.clone());
    node.stop();
    let node = Options::default().on(dir, &key).start();
    assert_eq!(node.client().get("/hello").status, 200);
    assert_eq!(node.admin("GET", "/v1/whoami", b"").status, 200);
    node.stop();
}

#[test]
fn a_bad_configuration_is_told_whole() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(
        dir.path().join("node.toml"),
        "colour = 1\n[limits]\nheader_timeout = \"soon\"\n",
    )
    .unwrap();
    let (status, text) = serve_fails(dir.path(), &["--limits-streams-max", "0"]);
    assert_eq!(status.code(), Some(64));
    for wanted in ["colour", "limits.header_timeout", "limits.streams_max"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn health_needs_no_key_and_the_rest_of_the_admin_listener_does() {
    let node = Options::default().set("metrics-public", "false").start();
    let mut client = Client::connect(node.admin);
    assert_eq!(client.get("/healthz").json()["status"], "ok");
    assert_eq!(client.get("/readyz").json()["status"], "ready");
    for path in ["/metrics", "/v1/apps"] {
        assert_eq!(client.get(path).status, 401, "{path}");
        let forged = client.send("GET", path, &[("authorization", "Bearer ck_0000_0000")], b"");
        assert_eq!(forged.status, 401, "{path}");
        assert_eq!(node.admin("GET", path, b"").status, 200, "{path}");
    }
    node.stop();
}
