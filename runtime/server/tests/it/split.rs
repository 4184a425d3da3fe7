//! Requests split between deployments: who sees which, for how long, and that one user sees one version of everything.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{App, Node, Options};
use crate::http::{Client, Response};

/// A version of an app that says its label in a page and by a function, and whose label decides a rule.
fn version(label: &'static str) -> App {
    let rules = if label == "old" { "PRIVATE" } else { "ADMINONLY" };
    App::new("web")
        .lines(&format!("[vars]\nlabel = {label:?}\n[auth]\nanonymous = true"))
        .function(
            "say",
            "misbehave",
            "grants = { vars = [\"label\"] }\ninvoke = \"true\"",
        )
        .route("/config", &[], "say")
        .lines(&format!("[database.collection.notes]\nrules = {rules:?}"))
        .file("/index.html", "text/html", label)
}

fn site(text: &'static str) -> App {
    App::new("web").file("/index.html", "text/html", text)
}

fn ask(node: &Node, method: &str, path: &str, body: Value) -> Response {
    node.admin(
        method,
        &format!("/v1/apps/web/{path}"),
        body.to_string().as_bytes(),
    )
}

fn get(node: &Node, path: &str, headers: &[(&str, &str)]) -> Response {
    node.client().send("GET", path, headers, b"")
}

/// The cookie that a response sets, as a request says it.
fn cookie(response: &Response) -> Option<String> {
    let set = response.header("set-cookie")?;
    Some(set.split(';').next().unwrap().to_owned())
}

#[test]
fn a_browser_stays_where_its_cookie_says() {
    let node = Node::with(&site("old"));
    let plain = get(&node, "/", &[]);
    assert_eq!((plain.header("set-cookie"), plain.header("vary")), (None, None));
    let deployed = node.deploy_as(&site("new"), json!({ "canary": 50 }));
    assert_eq!(
        deployed.json()["traffic"],
        json!([{ "deployment": 1, "percent": 50 }, { "deployment": 2, "percent": 50 }])
    );
    let mut seen = BTreeSet::new();
    let mut cookies = Vec::new();
    for _ in 0..64 {
        let first = get(&node, "/", &[]);
        let cookie = cookie(&first).unwrap();
        let set = first.header("set-cookie").unwrap();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        // No cache between here and the browser may give this to another visitor.
        assert_eq!(first.header("cache-control"), Some("private, no-cache"));
        assert!(first.header("vary").unwrap().contains("cookie"), "{first:?}");
        for _ in 0..3 {
            let again = get(&node, "/", &[("cookie", &format!("a=b; {cookie}"))]);
            assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
        }
        seen.insert(first.text());
        cookies.push((cookie, first.text()));
    }
    assert_eq!(seen, BTreeSet::from(["new".to_owned(), "old".to_owned()]));
    let of = |path: &str| {
        node.metric(&format!(
            "cloudlet_split_requests_total{{deployment={path:?},status_class=\"2xx\"}}"
        ))
    };
    // A request counts when its response is gone, which a client may see a moment before.
    while of("active") + of("candidate") < 64.0 * 4.0 {
        std::thread::yield_now();
    }
    let traffic = ask(&node, "GET", "traffic", json!({})).json();
    assert_eq!(traffic["traffic"][1]["requests"], of("candidate"));
    assert_eq!(traffic["traffic"][0]["failures"], 0);

    // With a greater share, who was there stays there.
    let grown = ask(
        &node,
        "PUT",
        "traffic",
        json!({ "shares": [{ "deployment": 2, "percent": 80 }] }),
    );
    assert_eq!(grown.status, 200, "{grown:?}");
    for (cookie, text) in &cookies {
        let now = get(&node, "/", &[("cookie", cookie)]).text();
        assert!(now == "new" || text == "old", "{text} became {now}");
    }
    // A restart changes nothing.
    let before: Vec<String> = cookies
        .iter()
        .map(|(cookie, _)| get(&node, "/", &[("cookie", cookie)]).text())
        .collect();
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();
    let node = Options::default().on(dir, &key).start();
    let after: Vec<String> = cookies
        .iter()
        .map(|(cookie, _)| get(&node, "/", &[("cookie", cookie)]).text())
        .collect();
    assert_eq!(before, after);

    // The whole of it ends at the next request.
    assert_eq!(ask(&node, "POST", "promote", json!({})).json()["deployment"], 2);
    for (cookie, _) in &cookies {
        let now = get(&node, "/", &[("cookie", cookie)]);
        assert_eq!((now.text().as_str(), now.header("set-cookie")), ("new", None));
        assert_eq!(now.header("cache-control"), Some("no-cache"));
    }
    node.stop();
}

#[test]
fn a_user_has_one_version_of_everything_on_every_device() {
    let node = Node::with(&version("old"));
    assert_eq!(
        node.deploy_as(&version("new"), json!({ "canary": 50 })).status,
        200
    );
    let mut seen = BTreeSet::new();
    for _ in 0..24 {
        let token = format!("Bearer {}", node.anonymous());
        let label = || {
            let mut client = node.client();
            client.send("GET", "/config?label", &[("authorization", &token)], b"")
        };
        let first = label();
        assert_eq!(first.status, 200, "{first:?}");
        // Another device has no cookie, or a cookie of another visitor.
        assert_eq!(label().text(), first.text());
        let foreign = [
            ("authorization", token.as_str()),
            ("cookie", "cloudlet_visitor=0000000000000000"),
        ];
        let other = get(&node, "/config?label", &foreign);
        assert_eq!(other.text(), first.text());
        assert_eq!(cookie(&other), cookie(&first));
        // The page that the browser asks for afterwards, without a token, is of the same version.
        let cookie = cookie(&first).unwrap();
        assert_eq!(get(&node, "/", &[("cookie", &cookie)]).text(), first.text());
        // So are the rules of the client API.
        let path = "/v1/database/instances/(default)/databases/(default)/collections/notes/documents";
        let insert = node.client().send(
            "POST",
            path,
            &[("authorization", &token), ("content-type", "application/json")],
            br#"{"data":[{"a":1}]}"#,
        );
        assert_eq!(insert.status == 403, first.text() == "new", "{insert:?}");
        seen.insert(first.text());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    // Versions end at the platform's edge: a bad token is refused as ever.
    let refused = get(&node, "/config?label", &[("authorization", "Bearer nonsense")]);
    assert_eq!(refused.status, 401);
    node.stop();
}

#[test]
fn files_of_one_version_are_not_given_to_visitors_of_another() {
    let old = site("old").file("/old.js", "text/javascript", "old");
    let new = site("new").file("/new.js", "text/javascript", "new");
    let node = Node::with(&old);
    node.deploy_as(&new, json!({ "canary": 50 }));
    for _ in 0..16 {
        let page = get(&node, "/", &[]);
        let (cookie, mine) = (cookie(&page).unwrap(), page.text());
        for name in ["old", "new"] {
            let file = get(&node, &format!("/{name}.js"), &[("cookie", &cookie)]);
            assert_eq!(file.status == 200, name == mine, "{file:?}");
        }
        // What one version's page was cached as is no other version's.
        let etag = page.header("etag").unwrap();
        let same = get(&node, "/", &[("cookie", &cookie), ("if-none-match", etag)]);
        assert_eq!(
            (same.status, same.header("cache-control")),
            (304, Some("private, no-cache"))
        );
        let fresh = get(&node, "/", &[("if-none-match", etag)]);
        assert_eq!(fresh.status == 304, fresh.body.is_empty());
        if fresh.status == 200 {
            assert_ne!(fresh.text(), mine);
        }
    }
    node.stop();
}

#[test]
fn a_canary_is_withdrawn_by_a_rollback() {
    let node = Node::with(&site("one"));
    node.deploy(&site("two"));
    assert_eq!(
        node.deploy_as(&site("three"), json!({ "canary": 99 })).status,
        200
    );
    let withdrawn = ask(&node, "POST", "rollback", json!({})).json();
    assert_eq!(
        (&withdrawn["deployment"], &withdrawn["previous"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(withdrawn["traffic"], json!([{ "deployment": 2, "percent": 100 }]));
    assert_eq!(get(&node, "/", &[]).text(), "two");
    // The next one goes where requests came from, never to what was only tried.
    assert_eq!(ask(&node, "POST", "rollback", json!({})).json()["deployment"], 1);
    assert_eq!(node.deploy(&site("four")).json()["deployment"], 4);
    assert_eq!(ask(&node, "POST", "rollback", json!({})).json()["deployment"], 2);
    assert_eq!(
        ask(&node, "POST", "promote", json!({ "deployment": 3 })).json()["deployment"],
        3
    );
    assert_eq!(get(&node, "/", &[]).text(), "three");
    node.stop();
}

#[test]
fn shares_that_make_no_sense_are_refused() {
    let node = Node::with(&site("one"));
    node.deploy(&site("two"));
    let put = |shares: Value| ask(&node, "PUT", "traffic", json!({ "shares": shares }));
    for (shares, status) in [
        (json!([{ "deployment": 1, "percent": 100 }]), 400),
        (json!([{ "deployment": 1, "percent": 300 }]), 400),
        (
            json!([{ "deployment": 1, "percent": 10 }, { "deployment": 1, "percent": 10 }]),
            400,
        ),
        (json!([{ "deployment": 9, "percent": 10 }]), 404),
        (json!([{ "deployment": 2, "percent": 10 }]), 400),
    ] {
        let refused = put(shares.clone());
        assert_eq!(refused.status, status, "{shares}: {refused:?}");
    }
    assert_eq!(ask(&node, "POST", "promote", json!({})).status, 400);
    let first = App::new("other").file("/index.html", "text/html", "x");
    assert_eq!(node.deploy_as(&first, json!({ "canary": 10 })).status, 400);
    assert_eq!(
        node.deploy_as(&site("three"), json!({ "canary": 100 })).status,
        400
    );
    assert_eq!(
        node.deploy_as(&site("three"), json!({ "canary": 10, "staged": true }))
            .status,
        400
    );
    // Three at once, then somebody who has not seen that.
    node.deploy_as(&site("three"), json!({ "staged": true }));
    let shares = json!([{ "deployment": 1, "percent": 33 }, { "deployment": 3, "percent": 33 }]);
    let split = put(shares.clone()).json();
    assert_eq!(split["traffic"][0], json!({ "deployment": 2, "percent": 34 }));
    let stale = ask(
        &node,
        "PUT",
        "traffic",
        json!({ "shares": shares, "revision": 1 }),
    );
    assert_eq!((stale.status, stale.code().as_str()), (409, "CONFLICT"));
    let seen: BTreeSet<String> = (0..64).map(|_| get(&node, "/", &[]).text()).collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
    node.stop();
}

#[test]
fn requests_in_flight_finish_on_the_version_that_they_began_on() {
    let echo = || {
        App::new("web")
            .function("echo", "echo", "")
            .route("/echo/...", &[], "echo")
    };
    let node = Node::with(&echo().file("/index.html", "text/html", "one"));
    let begin = || {
        let mut client = Client::connect(node.public);
        let head = client.head("POST", "/echo/", &[("transfer-encoding", "chunked")]);
        client.write(format!("{head}\r\n").as_bytes());
        client.chunk(b"before");
        client.response_head();
        assert_eq!(client.response_chunk().unwrap(), b"before");
        client
    };
    let end = |mut client: Client| {
        client.chunk(b"after");
        assert_eq!(client.response_chunk().unwrap(), b"after");
        client.chunk(b"");
        assert_eq!(client.response_chunk(), None);
    };
    let first = begin();
    // The next version has no such function.
    node.deploy(&site("two"));
    assert_eq!(get(&node, "/echo/", &[]).status, 404);
    ask(&node, "POST", "rollback", json!({}));
    let second = begin();
    node.deploy_as(&site("three"), json!({ "canary": 99 }));
    ask(&node, "POST", "promote", json!({}));
    assert_eq!(get(&node, "/echo/", &[]).status, 404);
    end(first);
    end(second);
    node.stop();
}
