//! Rates, queues and neighbours: whoever is over a limit is told so, and nobody else notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{App, Node, Options};
use crate::http::{Client, Response};

/// An app with an echo, a site and users, with these limits.
fn hotel(limits: &str) -> App {
    App::new("hotel")
        .function("echo", "echo", "invoke = \"true\"")
        .function(
            "rare",
            "hello",
            "invoke = \"true\"\nlimits = { rate = { total = \"1/h burst 2\" } }",
        )
        .route("/echo", &[], "echo")
        .route("/rare", &[], "rare")
        .file("/index.html", "text/html", "hi")
        .lines("[auth]\nanonymous = true")
        .lines(limits)
}

fn over_the_rate(reply: &Response) {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "EXCEED_RATELIMIT"),
        "{reply:?}"
    );
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    assert_eq!(reply.json()["requestId"].as_str(), reply.header("x-request-id"));
}

fn limited(node: &Node, by: &str) -> f64 {
    node.metric(&format!("cloudlet_http_rate_limited_total{{by=\"{by}\"}}"))
}

#[test]
fn an_address_has_its_rate_and_says_who_it_is_only_through_a_trusted_proxy() {
    let node = Node::with(&hotel("[limits]\nrate = { address = \"1/h burst 3\" }"));
    let from = |address: &str| {
        node.client()
            .send("GET", "/echo", &[("x-forwarded-for", address)], b"")
    };
    for _ in 0..3 {
        assert_eq!(from("198.51.100.1").status, 200);
    }
    over_the_rate(&from("198.51.100.1"));
    // Writing more in front of it, or in another place of one's network, makes nobody somebody else.
    over_the_rate(&from("203.0.113.9, 198.51.100.1"));
    assert_eq!(from("198.51.100.2").status, 200);
    for n in 1..=3 {
        assert_eq!(from(&format!("2001:db8::{n}")).status, 200);
    }
    over_the_rate(&from("2001:db8::4"));
    // All of the client API counts, in its own form of failures; sites do not.
    let signin = node.client().send(
        "POST",
        "/auth/v1/signin/anonymously",
        &[("x-forwarded-for", "198.51.100.1")],
        b"{}",
    );
    assert_eq!(signin.status, 429, "{signin:?}");
    assert_eq!(signin.json()["error"], "resource_exhausted");
    let page = node
        .client()
        .send("GET", "/", &[("x-forwarded-for", "198.51.100.1")], b"");
    assert_eq!(page.status, 200);
    assert_eq!((limited(&node, "address"), limited(&node, "total")), (4.0, 0.0));
    // A deploy gives nobody a fresh start.
    let again = node.deploy(&hotel(
        "[limits]\nrate = { address = \"1/h burst 3\" }\n[vars]\na = \"1\"",
    ));
    assert_eq!(again.status / 100, 2, "{again:?}");
    over_the_rate(&from("198.51.100.1"));
    node.stop();
}

#[test]
fn without_trust_the_header_is_nothing() {
    let node = Node::with_options(
        &hotel(""),
        Options::default()
            .set("trusted-proxies", "192.0.2.1")
            .set("rates-address", "1/h burst 2"),
    );
    let from = |address: &str| {
        node.client()
            .send("GET", "/echo", &[("x-forwarded-for", address)], b"")
    };
    assert_eq!(from("198.51.100.1").status, 200);
    assert_eq!(from("198.51.100.2").status, 200);
    over_the_rate(&from("198.51.100.3"));
    node.stop();
}

#[test]
fn users_functions_and_apps_have_rates_of_their_own() {
    let limits = "[limits]\nrate = { user = \"1/h burst 2\", total = \"1/h burst 7\" }";
    let node = Node::with_options(
        &hotel(limits),
        Options::default().set("rates-total", "1/h burst 1000"),
    );
    // Two of the seven.
    let (one, other) = (node.anonymous(), node.anonymous());
    let call = |function: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        node.client()
            .send("POST", &format!("/v1/functions/{function}"), &headers, b"{}")
    };
    assert_eq!(call("echo", &one).status, 200);
    assert_eq!(call("echo", &one).status, 200);
    over_the_rate(&call("echo", &one));
    assert_eq!(call("echo", &other).status, 200);
    // The function's own rate, by the route and by calls together.
    assert_eq!(call("rare", &other).status, 200);
    assert_eq!(node.client().get("/rare").status, 200);
    // Seven are through, and what was refused did not count.
    over_the_rate(&node.client().get("/echo"));
    assert_eq!((limited(&node, "user"), limited(&node, "total")), (1.0, 1.0));
    node.stop();

    let node = Node::with(&hotel(""));
    assert_eq!(node.client().get("/rare").status, 200);
    assert_eq!(node.client().get("/rare").status, 200);
    let refused = node.client().get("/rare");
    over_the_rate(&refused);
    assert!(refused.text().contains("rare"), "{refused:?}");
    assert_eq!(node.client().get("/echo").status, 200);
    node.stop();
}

#[test]
fn the_operators_bound_holds_whatever_the_manifest_says() {
    let node = Node::with_options(
        &hotel("[limits]\nrate = { total = \"100000/s\" }"),
        Options::default().set("rates-total", "1/h burst 2"),
    );
    assert_eq!(node.client().get("/echo").status, 200);
    assert_eq!(node.client().get("/echo").status, 200);
    over_the_rate(&node.client().get("/echo"));
    node.stop();
}

/// Waits for a condition.
fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited for {what}");
        std::thread::yield_now();
    }
}

/// A request whose answer is not waited for.
fn ask(node: &Node, path: &str) -> Client {
    let mut client = node.client();
    let head = client.head("GET", path, &[]);
    client.write(format!("{head}\r\n").as_bytes());
    client
}

fn sleeper(limits: &str, app: &str) -> App {
    App::new("hotel")
        .function(
            "slow",
            "misbehave",
            &format!("limits = {{ timeout = \"50s\", concurrency = 1, {limits} }}"),
        )
        .function("hello", "hello", "")
        .route("/hello", &[], "hello")
        .route("/...", &[], "slow")
        .lines(app)
}

#[test]
fn who_finds_no_permit_waits_its_turn_and_who_goes_away_leaves_the_line() {
    let node = Node::with(&sleeper("queue = \"40s\"", ""));
    let waiting = || node.metric("cloudlet_host_waiting_invocations");
    let mut first = ask(&node, "/sleep?400");
    until("the first to run", || {
        node.metric("cloudlet_host_instances") == 1.0
    });
    let gone = ask(&node, "/sleep?1");
    until("one to wait", || waiting() == 1.0);
    let mut second = ask(&node, "/");
    until("two to wait", || waiting() == 2.0);
    drop(gone);
    until("one to leave", || waiting() == 1.0);
    assert_eq!(first.response(false).text(), "slept");
    assert_eq!(second.response(false).text(), "ok");
    assert_eq!(waiting(), 0.0);
    node.stop();
}

#[test]
fn who_waits_in_vain_or_may_not_wait_is_told_whose_limit_it_is() {
    let node = Node::with(&sleeper("queue = \"50ms\"", "[limits]\nconcurrency = 2"));
    let first = ask(&node, "/sleep?60000");
    until("the first to run", || {
        node.metric("cloudlet_host_instances") == 1.0
    });
    let refused = node.client().get("/");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "EXCEED_CONCURRENT_REQUEST_LIMIT")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.text().contains("limit of 1 concurrent"), "{refused:?}");
    assert_eq!(node.client().get("/hello").status, 200);
    node.deploy(&sleeper("queue = \"50ms\"", "[limits]\nconcurrency = 1"));
    // The app's own limit, which what still runs of the older deployment counts for.
    let refused = node.client().get("/hello");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("app is at its limit of 1"), "{refused:?}");
    for scope in ["function", "app"] {
        let series = format!("cloudlet_host_refused_total{{scope=\"{scope}\"}}");
        assert_eq!(node.metric(&series), 1.0, "{scope}");
    }
    drop(first);
    until("the first to stop", || {
        node.metric("cloudlet_host_instances") == 0.0
    });
    assert_eq!(node.client().get("/hello").status, 200);
    node.stop();
}

#[test]
fn none_of_a_neighbours_requests_fails_while_a_function_spins_at_its_limit() {
    let spins = App::new("loud")
        .function(
            "spin",
            "misbehave",
            "limits = { timeout = \"50s\", cpu = \"50s\", concurrency = 8 }",
        )
        .route("/...", &[], "spin");
    let node = Node::with_options(&spins, Options::default().set("functions-instances-max", "20"));
    let deployed = node.deploy(&App::new("quiet").function("hello", "hello", "").route(
        "/hello",
        &[],
        "hello",
    ));
    assert_eq!(deployed.status / 100, 2, "{deployed:?}");
    let stop = AtomicBool::new(false);
    let at = |host: &str| Client::connect(node.public).host(host);
    std::thread::scope(|scope| {
        // Twice as many as may run: some are always refused, the limit is always met.
        let loud: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let (mut spun, mut refused) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        match at("loud.localhost").get("/spin?300").status {
                            200 => spun += 1,
                            503 => refused += 1,
                            status => panic!("{status}"),
                        }
                    }
                    (spun, refused)
                })
            })
            .collect();
        until("all to spin", || node.metric("cloudlet_host_instances") >= 8.0);
        let quiet: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let reply = at("quiet.localhost").get("/hello");
                        assert_eq!(reply.status, 200, "{reply:?}");
                    }
                })
            })
            .collect();
        let failed = quiet
            .into_iter()
            .map(|thread| thread.join())
            .filter(Result::is_err)
            .count();
        stop.store(true, Ordering::Relaxed);
        let loud: Vec<(u32, u32)> = loud.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(failed, 0);
        assert!(loud.iter().any(|(spun, _)| *spun > 0), "{loud:?}");
        assert!(loud.iter().any(|(_, refused)| *refused > 0), "{loud:?}");
    });
    node.stop();
}
