//! Bounds of the front: sizes and times.

use crate::harness::{App, Node, Options};

fn echo() -> App {
    App::new("hotel").function("echo", "echo", "").route("/echo", &[], "echo").file("/index.html", "text/html", "hi")
        .lines("[auth]\nanonymous = true")
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let node = Node::with_options(&echo(), Options::default().set("limits-body-bytes-max", "64KiB"));
    // One that says so is refused before it is read.
    let mut client = node.client();
    let head = client.head("POST", "/echo", &[("content-length", "65537")]);
    client.write(format!("{head}\r\n").as_bytes());
    let reply = client.response(false);
    assert_eq!((reply.status, reply.code().as_str()), (413, "BODY_TOO_LARGE"));
    // One that doesn't is read up to the limit.
    let mut client = node.client();
    let reply = client.send("POST", "/v1/functions/echo", &[], &vec![b' '; 65537]);
    assert_eq!(reply.status, 401, "the rule comes first: {reply:?}");
    let token = format!("Bearer {}", node.anonymous());
    let mut client = node.client();
    let headers = [("transfer-encoding", "chunked"), ("authorization", token.as_str())];
    let head = client.head("POST", "/v1/functions/echo", &headers);
    client.write(format!("{head}\r\n").as_bytes());
    for _ in 0..5 {
        client.chunk(&[b' '; 16 * 1024]);
    }
    let reply = client.response(false);
    assert_eq!((reply.status, reply.code().as_str()), (413, "BODY_TOO_LARGE"));
    assert_eq!(node.client().get("/").status, 200);
    node.stop();
}

#[test]
fn heads_over_the_limit_are_refused() {
    let node = Node::with(&echo());
    let mut client = node.client();
    let long = "x".repeat(20_000);
    let head = client.head("GET", "/", &[("x-long", &long)]);
    client.write(format!("{head}\r\n").as_bytes());
    assert_eq!(client.response_head().status, 431);
    node.stop();
}

#[test]
fn a_head_that_does_not_arrive_closes_the_connection() {
    let node = Node::with_options(&echo(), Options::default().set("limits-header-timeout", "150ms"));
    let mut client = node.client();
    assert_eq!(client.get("/").status, 200);
    client.write(b"GET / HTTP/1.1\r\nhost: a");
    assert_eq!(client.closed(), b"");
    assert_eq!(node.metric(r#"cloudlet_http_connections_closed_total{reason="header"}"#), 1.0);
    node.stop();
}

#[test]
fn an_idle_connection_is_closed() {
    let node = Node::with_options(&echo(), Options::default().set("limits-idle-timeout", "150ms"));
    let mut client = node.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.closed(), b"");
    assert_eq!(node.client().closed(), b"");
    assert!(node.metric(r#"cloudlet_http_connections_closed_total{reason="idle"}"#) >= 2.0);
    node.stop();
}

#[test]
fn a_body_that_stalls_closes_the_connection() {
    let node = Node::with_options(&echo(), Options::default().set("limits-stall-timeout", "150ms"));
    let token = format!("Bearer {}", node.anonymous());
    let mut client = node.client();
    let headers = [("content-length", "100"), ("authorization", token.as_str())];
    let head = client.head("POST", "/v1/functions/echo", &headers);
    client.write(format!("{head}\r\nonly a part").as_bytes());
    assert_eq!(client.closed(), b"");
    assert_eq!(node.metric(r#"cloudlet_http_connections_closed_total{reason="stall"}"#), 1.0);
    node.stop();
}

#[test]
fn more_connections_than_allowed_wait_their_turn() {
    let node = Node::with_options(&echo(), Options::default().set("limits-connections-max", "2"));
    let mut one = node.client();
    assert_eq!(one.get("/").status, 200);
    let mut two = node.client();
    assert_eq!(two.get("/").status, 200);
    let mut three = node.client();
    let head = three.head("GET", "/", &[]);
    three.write(format!("{head}\r\n").as_bytes());
    drop(one);
    drop(two);
    assert_eq!(three.response(false).status, 200);
    node.stop();
}
