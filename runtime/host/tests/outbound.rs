//! Guests' requests to the world: allowed origins, refused ones, loopback only when named, counts.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
                let mut swallows = false;
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 {
                        return;
                    }
                    let head = String::from_utf8_lossy(&buffer[..read]);
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    // Takes everything and never answers.
                    swallows |= line.contains("/swallow");
                    if swallows {
                        continue;
                    }
                    let reply = if line.contains("/redirect") {
                        "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned()
                    } else if let Some((_, to)) = line.split_once("/to?") {
                        let to = to.split(' ').next().unwrap_or_default();
                        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
                    } else if line.contains("/large") {
                        format!("HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n{:50000}", "")
                    } else if line.contains("/stall") {
                        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nonly this".to_owned()
                    } else if line.contains("/head") {
                        let many = "x-many: 0123456789\r\n".repeat(10_000);
                        format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n")
                    } else if line.contains("/trace") {
                        let traces = head.lines().filter(|line| line.starts_with("trace"));
                        let text = traces.collect::<Vec<_>>().join(", ");
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
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

#[tokio::test]
async fn a_redirect_opens_no_door() {
    let node = Node::start();
    let (port, _) = origin().await;
    let (inside, reached) = origin().await;
    let app = node.app("misbehave", |spec| {
        // The last is what the manifest refuses: the resolver takes it for 127.0.0.1.
        spec.outbound = vec![
            rule("127.0.0.1", port),
            rule("*.254.169.254", 80),
            rule("2130706433", inside),
        ];
    });
    let follow = |to: String| {
        let app = app.clone();
        async move {
            app.text(&format!("/follow?http://127.0.0.1:{port}/to?{to}"))
                .await
        }
    };
    assert_eq!(
        follow(format!("http://127.0.0.1:{port}/there")).await,
        "200 GET /there HTTP/1.1"
    );
    for to in [
        format!("http://127.0.0.1:{inside}/"),
        format!("http://localhost:{inside}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
    ] {
        assert_eq!(
            follow(to.clone()).await,
            "error ErrorCode::HttpRequestDenied",
            "{to}"
        );
    }
    // A rule with the name of an address is no rule with the address.
    assert_eq!(
        follow(format!("http://2130706433:{inside}/")).await,
        "error ErrorCode::DestinationIpProhibited"
    );
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_goes_out_and_comes_in_is_counted_together() {
    let node = Node::start();
    let (port, _) = origin().await;
    let app = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", port)];
        spec.limits.outbound_bytes_max = 60_000;
    });
    let large = app.text(&format!("/fetch?http://127.0.0.1:{port}/large")).await;
    assert_eq!(large, "200 50000 bytes");
    // An invocation's, not the function's: the next one has all of them again.
    let large = app.text(&format!("/fetch?http://127.0.0.1:{port}/large")).await;
    assert_eq!(large, "200 50000 bytes");
    let sent = app
        .text(&format!("/send?60001,http://127.0.0.1:{port}/swallow"))
        .await;
    assert_eq!(sent, "error ErrorCode::HttpRequestBodySize(Some(60000))");
    let small = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", port)];
        spec.limits.outbound_bytes_max = 20_000;
    });
    let large = small.text(&format!("/fetch?http://127.0.0.1:{port}/large")).await;
    assert!(large.contains(" then ") && large.contains("20000"), "{large}");
    let said = node.logs.texts(LogStream::Platform);
    let told = said.iter().filter(|line| line.contains("limits.outbound_bytes"));
    assert_eq!(told.count(), 2, "{said:?}");
    let bytes = |direction| {
        node.metric(
            "cloudlet_host_outbound_body_bytes_total",
            &[("direction", direction)],
        )
    };
    assert!(bytes("received") > 100_000.0 && bytes("sent") > 50_000.0);
}

#[tokio::test]
async fn an_origin_that_stops_in_the_middle_or_says_too_much_is_an_error() {
    let node = Node::start();
    let (port, _) = origin().await;
    let app = node.app("misbehave", |spec| spec.outbound = vec![rule("127.0.0.1", port)]);
    let stalled = app
        .text(&format!("/impatient?http://127.0.0.1:{port}/stall"))
        .await;
    assert!(stalled.starts_with("200 only this then "), "{stalled}");
    assert!(stalled.to_lowercase().contains("timeout"), "{stalled}");
    let head = app.text(&format!("/fetch?http://127.0.0.1:{port}/head")).await;
    assert!(head.starts_with("error "), "{head}");
}

#[tokio::test]
async fn a_function_has_so_many_requests_on_their_way_and_no_more() {
    let node = Node::start();
    let (port, _) = origin().await;
    let app = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", port)];
        spec.limits.outbound_requests_max = 10_000;
        spec.limits.concurrency = 200;
    });
    let many = app.text(&format!("/many?http://127.0.0.1:{port}/swallow")).await;
    assert_eq!(many, "256");
    assert_eq!(
        node.metric("cloudlet_host_outbound_total", &[("outcome", "limit")]),
        44.0
    );
    // They go with their invocation, whose tasks end a moment after it.
    let fetch = format!("/fetch?http://127.0.0.1:{port}/");
    let answered = async {
        while app.text(&fetch).await != "200 GET / HTTP/1.1" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered)
        .await
        .unwrap();
    // Who may run more often at once may have one on its way for each.
    let wide = node.app("misbehave", |spec| {
        spec.outbound = vec![rule("127.0.0.1", port)];
        spec.limits.outbound_requests_max = 10_000;
        spec.limits.concurrency = 280;
    });
    let many = wide.text(&format!("/many?http://127.0.0.1:{port}/swallow")).await;
    assert_eq!(many, "280");
}

#[tokio::test]
async fn the_callers_trace_goes_on() {
    let node = Node::start();
    let (port, _) = origin().await;
    let app = node.app("misbehave", |spec| spec.outbound = vec![rule("127.0.0.1", port)]);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = http::Request::get(format!("/fetch?http://127.0.0.1:{port}/trace"))
        .header("traceparent", parent)
        .header("tracestate", "shop=1")
        .body(http_body_util::Full::<bytes::Bytes>::default())
        .unwrap();
    let invocation = cloudlet_host::Invocation {
        trace: cloudlet_host::TraceContext::of(request.headers()),
        ..app.invocation()
    };
    let response = app.app.http("misbehave", request, invocation).await.unwrap();
    let text = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(text, format!("200 traceparent: {parent}, tracestate: shop=1"));
    assert_eq!(
        app.text(&format!("/fetch?http://127.0.0.1:{port}/trace")).await,
        "200 "
    );
}
