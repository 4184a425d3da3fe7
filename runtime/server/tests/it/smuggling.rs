//! Requests that two readers could read differently: each is refused, or read in one way with nothing behind it.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{App, Node};

fn hotel() -> App {
    App::new("hotel")
        .function("echo", "echo", "")
        .route("/echo/...", &[], "echo")
        .file("/index.html", "text/html", "hi")
        .file("/secret.html", "text/html", "the second request was read")
}

/// What a node says to these bytes until it closes the connection.
fn said(node: &Node, bytes: &str) -> String {
    let mut client = node.client();
    client.write(bytes.as_bytes());
    String::from_utf8_lossy(&client.closed()).into_owned()
}

/// What would be the second request, if there was one.
const SMUGGLED: &str = "GET /secret.html HTTP/1.1\r\nhost: hotel.localhost\r\nconnection: close\r\n\r\n";

#[test]
fn broken_framing_is_refused_and_ends_the_connection() {
    let node = Node::with(&hotel());
    let cases = [
        ("two lengths", "content-length: 3\r\ncontent-length: 4\r\n"),
        ("a list of lengths", "content-length: 3, 4\r\n"),
        ("a sign", "content-length: +3\r\n"),
        ("a negative length", "content-length: -1\r\n"),
        ("hex", "content-length: 0x3\r\n"),
        ("no number", "content-length: three\r\n"),
        ("over 64 bits", "content-length: 99999999999999999999999\r\n"),
        (
            "chunked that is not last",
            "transfer-encoding: chunked, identity\r\n",
        ),
        ("an unknown coding", "transfer-encoding: xchunked\r\n"),
        ("a coding in quotes", "transfer-encoding: \"chunked\"\r\n"),
        ("a space before the colon", "transfer-encoding : chunked\r\n"),
        ("a folded line", "x-folded: a\r\n b\r\n"),
        ("a folded coding", "transfer-encoding:\r\n chunked\r\n"),
        ("a line that begins with a space", " content-length: 3\r\n"),
        ("a line without a colon", "content-length 3\r\n"),
        ("a NUL in a value", "x-nul: a\0b\r\n"),
        ("a bare CR in a value", "x-cr: a\rb\r\n"),
        ("an empty name", ": a\r\n"),
        ("a name with a slash", "a/b: c\r\n"),
    ];
    for (what, line) in cases {
        let reply = said(
            &node,
            &format!("POST /echo/ HTTP/1.1\r\nhost: hotel.localhost\r\n{line}\r\nabc{SMUGGLED}"),
        );
        assert!(reply.starts_with("HTTP/1.1 400 "), "{what}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{what}: {reply}");
    }
    for (what, line) in [
        ("no version", "GET /\r\n"),
        ("another version", "GET / HTTP/1.2\r\n"),
        ("two spaces", "GET  / HTTP/1.1\r\n"),
        ("no target", "GET HTTP/1.1\r\n"),
        ("a bare CR", "GET / HTTP/1.1\rx: y\r\n"),
        ("a tab", "GET\t/ HTTP/1.1\r\n"),
        ("a method that is none", "GE(T / HTTP/1.1\r\n"),
        (
            "a chunked HTTP/1.0",
            "POST /echo/ HTTP/1.0\r\ntransfer-encoding: chunked\r\n",
        ),
    ] {
        let reply = said(&node, &format!("{line}host: hotel.localhost\r\n\r\n{SMUGGLED}"));
        assert!(reply.starts_with("HTTP/1.1 400 "), "{what}: {reply}");
        assert_eq!(reply.matches("HTTP/1.").count(), 1, "{what}: {reply}");
    }
    assert_eq!(node.client().get("/").status, 200);
    node.stop();
}

/// RFC 9112 lets a server take such a request by its chunks, if it closes the connection: what another reader would take for
/// the next request is never read.
#[test]
fn a_length_beside_chunks_counts_for_nothing_and_nothing_is_read_behind_it() {
    let node = Node::with(&hotel());
    for lines in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "Transfer-Encoding: Chunked\r\ncontent-length: 4\r\nconnection: keep-alive\r\n",
    ] {
        let reply = said(
            &node,
            &format!(
                "POST /echo/ HTTP/1.1\r\nhost: hotel.localhost\r\n{lines}\r\n3\r\nabc\r\n0\r\n\r\n{SMUGGLED}"
            ),
        );
        assert!(reply.starts_with("HTTP/1.1 200 "), "{lines}: {reply}");
        assert!(reply.contains("abc"), "{lines}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{lines}: {reply}");
        assert!(!reply.contains("the second request"), "{lines}: {reply}");
    }
    node.stop();
}

#[test]
fn broken_chunks_end_the_connection() {
    let node = Node::with(&hotel());
    let head = "POST /echo/ HTTP/1.1\r\nhost: hotel.localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    for (what, body) in [
        ("no hex", "x\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("over 64 bits", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than it says", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a bare LF after the size", "3\nabc\r\n0\r\n\r\n"),
    ] {
        let reply = said(&node, &format!("{head}{body}{SMUGGLED}"));
        assert!(!reply.contains("the second request"), "{what}: {reply}");
        assert!(reply.matches("HTTP/1.1 ").count() <= 1, "{what}: {reply}");
    }
    assert_eq!(node.client().get("/").status, 200);
    node.stop();
}

#[test]
fn targets_and_hosts_are_read_in_one_way() {
    let node = Node::with(&hotel());
    let status = |request: &str| {
        let mut client = node.client();
        client.write(request.as_bytes());
        client.response_head().status
    };
    let with_host = |line: &str| status(&format!("{line} HTTP/1.1\r\nhost: hotel.localhost\r\n\r\n"));
    for (line, expected) in [
        ("GET http://hotel.localhost/", 200),
        ("GET http://other.localhost/", 400),
        ("GET http://hotel.localhost:81/", 400),
        ("GET http://user@hotel.localhost/", 400),
        ("GET //other.localhost/", 404),
        ("OPTIONS *", 400),
        ("CONNECT hotel.localhost:80", 400),
        ("GET hotel.localhost:80", 400),
        ("GET /%2e%2e/index.html", 400),
        ("GET /a/..%2findex.html", 400),
        ("GET /..;/index.html", 404),
        ("GET /%252e%252e/index.html", 404),
        ("GET /index.html%00.png", 400),
        ("GET /index.html%0d%0aset-cookie:a", 404),
        // Text that is not encoded is read as it is.
        ("GET /\u{e4}", 404),
    ] {
        assert_eq!(with_host(line), expected, "{line}");
    }
    for host in ["a/b", "a b", "a@b", "a:b", "[::1", "a\\b", "a,b", "..", "a..b"] {
        assert_eq!(
            status(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")),
            400,
            "{host:?}"
        );
    }
    // A host that is there and empty is what a target without an authority has; it names the only app.
    assert_eq!(status("GET / HTTP/1.1\r\nhost:\r\n\r\n"), 200);
    node.stop();
}

#[test]
fn http_2_hosts_and_headers_are_held_to_the_same() {
    let node = Node::with(&hotel());
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
        let ask = |uri: &str, headers: &[(&'static str, &str)]| {
            let mut sender = sender.clone();
            let mut request = http::Request::get(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            async move {
                let response = sender.send_request(request).await?;
                let status = response.status().as_u16();
                response.into_body().collect().await?;
                Ok::<_, hyper::Error>(status)
            }
        };
        let at = "http://hotel.localhost";
        let ok = |path: &str, headers: &[(&'static str, &str)]| ask(&format!("{at}{path}"), headers);
        assert_eq!(ok("/", &[]).await.unwrap(), 200);
        assert_eq!(ok("/", &[("host", "hotel.localhost")]).await.unwrap(), 200);
        // :authority and host that differ, and two hosts.
        assert_eq!(ok("/", &[("host", "other.localhost")]).await.unwrap(), 400);
        let twice = [("host", "hotel.localhost"), ("host", "hotel.localhost")];
        assert_eq!(ok("/", &twice).await.unwrap(), 400);
        assert_eq!(ok("/a/%2e%2e/b", &[]).await.unwrap(), 400);
        // A body that was announced and does not come is an error of the stream.
        let outcome = ok("/echo/", &[("content-length", "5")]).await;
        assert!(
            outcome.as_ref().map_or(true, |status| *status != 200),
            "{outcome:?}"
        );
        assert_eq!(ok("/", &[]).await.unwrap(), 200, "the connection goes on");
        drop(sender);
        driver.await.unwrap().unwrap();
    });
    node.stop();
}

/// Frames as they are, for what no client sends: pseudo headers that are repeated, unknown, or after others.
#[test]
fn http_2_pseudo_headers_are_checked() {
    let node = Node::with(&hotel());
    let field = |name: &str, value: &str| {
        // A literal without indexing, with a new name, neither of them in Huffman's code.
        let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
        bytes.extend(name.as_bytes());
        bytes.push(u8::try_from(value.len()).unwrap());
        bytes.extend(value.as_bytes());
        bytes
    };
    let good = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "hotel.localhost"),
    ];
    let ask = |fields: &[(&str, &str)]| {
        let block: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| field(name, value))
            .collect();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend(&u32::try_from(block.len()).unwrap().to_be_bytes()[1..]);
        // Headers of stream 1, all of them, without a body.
        bytes.extend([1, 0x5, 0, 0, 0, 1]);
        bytes.extend(block);
        let mut client = node.client();
        client.write(&bytes);
        client.http2_answer(1)
    };
    assert_eq!(ask(&good), "headers");
    for (what, fields) in [
        ("two methods", [&good[..], &[(":method", "POST")]].concat()),
        ("two paths", [&good[..], &[(":path", "/secret.html")]].concat()),
        ("an unknown one", [&good[..], &[(":protocol2", "x")]].concat()),
        ("a status", [&good[..], &[(":status", "200")]].concat()),
        ("one after a header", [&[("a", "b")], &good[..]].concat()),
        ("no method", good[1..].to_vec()),
        ("no path", [&good[..2], &good[3..]].concat()),
        ("an empty path", [&good[..2], &[(":path", "")]].concat()),
        ("a capital letter", [&good[..], &[("X-A", "b")]].concat()),
        (
            "a connection header",
            [&good[..], &[("connection", "close")]].concat(),
        ),
        (
            "a coding",
            [&good[..], &[("transfer-encoding", "chunked")]].concat(),
        ),
        (
            "a line end in a value",
            [&good[..], &[("a", "b\r\nc: d")]].concat(),
        ),
        ("a line end in a name", [&good[..], &[("a\r\nb", "c")]].concat()),
    ] {
        let answer = ask(&fields);
        assert!(
            matches!(answer.as_str(), "reset" | "goaway" | "closed"),
            "{what}: {answer}"
        );
    }
    assert_eq!(node.client().get("/").status, 200);
    node.stop();
}
