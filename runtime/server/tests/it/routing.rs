//! Which app and what of it answers: hosts, paths, triggers, sites.

use crate::harness::{App, Node};
use crate::http::Client;

fn site(name: &'static str, text: &'static str) -> App {
    App::new(name).file("/index.html", "text/html; charset=utf-8", text)
}

#[test]
fn one_app_is_served_on_any_host_and_two_by_name() {
    let node = Node::with(&site("one", "the first"));
    assert_eq!(
        node.client().host("anything.example").get("/").text(),
        "the first"
    );
    assert_eq!(node.deploy(&site("two", "the second").lines("")).status / 100, 2);
    let at = |host: &str| node.client().host(host).get("/");
    assert_eq!(at("one.localhost").text(), "the first");
    assert_eq!(at("TWO.localhost:1234").text(), "the second");
    for host in [
        "anything.example",
        "three.localhost",
        "127.0.0.1",
        "localhost",
        "x.one.localhost",
    ] {
        assert_eq!(at(host).status, 404, "{host}");
    }
    node.stop();
}

#[test]
fn ambiguous_requests_are_refused() {
    let node = Node::with(&site("hotel", "hi"));
    let status = |request: &str| {
        let mut client = node.client();
        client.write(request.as_bytes());
        client.response_head().status
    };
    assert_eq!(status("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), 200);
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nhost: a b\r\n\r\n"), 400);
    assert_eq!(status("GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n"), 400);
    assert_eq!(status("GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n"), 200);
    assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
    for path in ["/../x", "/a/%2e%2e/x", "/a%2fb", "/a%5cb", "/%00", "/%zz", "/./"] {
        assert_eq!(
            status(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")),
            400,
            "{path}"
        );
    }
    assert_eq!(
        status("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"),
        400
    );
    assert_eq!(status("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n"), 405);
    node.stop();
}

#[test]
fn triggers_come_before_the_site_and_the_longest_wins() {
    let app = App::new("hotel")
        .function("hello", "hello", "")
        .function("echo", "echo", "")
        .route("/api/...", &[], "hello")
        .route("/api/echo/...", &["POST"], "echo")
        .file("/index.html", "text/html", "site")
        .file("/api/page.html", "text/html", "never seen")
        .file("/docs/index.html", "text/html", "docs");
    let node = Node::with(&app);
    let mut client = node.client();
    assert_eq!(client.get("/").text(), "site");
    assert_eq!(
        client.get("/api/page.html").text(),
        "hello from a fresh instance\n"
    );
    assert_eq!(client.send("POST", "/api/echo/1", &[], b"body").text(), "body");
    let refused = client.get("/api/echo/1");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    assert_eq!(client.get("/docs/").text(), "docs");
    let moved = client.get("/docs?a=1");
    assert_eq!(
        (moved.status, moved.header("location")),
        (308, Some("/docs/?a=1"))
    );
    assert_eq!(client.send("POST", "/", &[], b"x").status, 405);
    assert_eq!(client.get("/missing").status, 404);
    // Reserved paths are the platform's, whatever an app has.
    assert_eq!(client.get("/v1/functions/").status, 404);
    assert_eq!(
        client.get("/_cloudlet/jwks.json").json()["keys"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let legacy = client.send("POST", "/web?env=hotel", &[], b"{}");
    assert_eq!(
        (legacy.status, legacy.code().as_str()),
        (200, "OPERATION_UNSUPPORTED")
    );
    node.stop();
}

#[test]
fn sites_answer_conditions_and_ranges() {
    let node = Node::with(&site("hotel", "0123456789"));
    let mut client = node.client();
    let whole = client.get("/index.html");
    assert_eq!(whole.header("content-type"), Some("text/html; charset=utf-8"));
    let etag = whole.header("etag").unwrap().to_owned();
    let known = client.send("GET", "/", &[("if-none-match", &etag)], b"");
    assert_eq!((known.status, known.header("etag")), (304, Some(etag.as_str())));
    let part = client.send("GET", "/", &[("range", "bytes=2-4")], b"");
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let beyond = client.send("GET", "/", &[("range", "bytes=10-")], b"");
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some("bytes */10"))
    );
    let head = client.send("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    assert_eq!(client.get("/").text(), "0123456789");
    node.stop();
}

#[test]
fn a_node_without_apps_says_so() {
    let node = Node::start();
    let reply = Client::connect(node.public).get("/");
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("no app"), "{reply:?}");
    node.stop();
}

#[test]
fn guests_that_misbehave_fail_their_own_request_alone() {
    let app = App::new("hotel")
        .function(
            "bad",
            "misbehave",
            "limits = { memory = \"8MiB\", timeout = \"10s\", cpu = \"1s\" }",
        )
        .function("hello", "hello", "")
        .route("/hello", &[], "hello")
        .route("/...", &[], "bad");
    let node = Node::with(&app);
    for (path, status, code) in [
        ("/panic", 500, "FUNCTION_INVOCATION_FAILED"),
        ("/silent", 500, "FUNCTION_INVOCATION_FAILED"),
        ("/recurse", 500, "FUNCTION_INVOCATION_FAILED"),
        ("/alloc", 500, "FUNCTION_MEMORY_LIMIT_EXCEEDED"),
    ] {
        let reply = node.client().get(path);
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path}");
        assert_eq!(node.client().get("/hello").status, 200, "after {path}");
    }
    let looped = node.client().get("/loop");
    assert!(matches!(looped.status, 500 | 504), "{looped:?}");
    assert_eq!(looped.code(), "FUNCTION_TIME_LIMIT_EXCEEDED");
    assert_eq!(node.client().get("/hello").status, 200);
    node.stop();
}
