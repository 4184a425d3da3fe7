//! The life of a deploy: activation, rollback, races, restarts, secrets, and nothing dropped on the way.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{App, Node, Options};
use crate::http::{Client, Response};

fn site(text: &str) -> App {
    App::new("web").file("/index.html", "text/html", text)
}

fn page(node: &Node) -> String {
    node.client().get("/").text()
}

fn rollback(node: &Node, body: Value) -> Response {
    node.admin("POST", "/v1/apps/web/rollback", body.to_string().as_bytes())
}

#[test]
fn a_deployment_is_active_at_once_and_can_be_rolled_back() {
    let node = Node::with(&site("one"));
    assert_eq!(page(&node), "one");
    let second = node.deploy(&site("two")).json();
    assert_eq!(
        (&second["deployment"], &second["previous"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(page(&node), "two");
    // The same once more is no new deployment.
    assert_eq!(node.deploy(&site("two")).json()["unchanged"], true);
    assert_eq!(rollback(&node, json!({})).json()["deployment"], 1);
    assert_eq!(page(&node), "one");
    // There is nothing before the first, and what runs goes on.
    assert_eq!(rollback(&node, json!({})).status, 404);
    assert_eq!(rollback(&node, json!({ "deployment": 7 })).status, 404);
    assert_eq!(rollback(&node, json!({ "deployment": 2 })).json()["previous"], 1);
    assert_eq!(page(&node), "two");
    // Numbers are never given out twice.
    assert_eq!(node.deploy(&site("three")).json()["deployment"], 3);
    let listed = node.admin("GET", "/v1/apps/web/deployments", b"").json();
    let numbers: Vec<_> = listed["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["deployment"].clone())
        .collect();
    assert_eq!(json!(numbers), json!([3, 2, 1]));
    assert_eq!(listed["active"], 3);
    node.stop();
}

#[test]
fn old_deployments_go_and_the_active_one_stays() {
    let node = Node::with(&site("0"));
    for number in 1..=12 {
        assert_eq!(node.deploy(&site(&number.to_string())).status, 200);
    }
    let listed = node.admin("GET", "/v1/apps/web/deployments", b"").json();
    let kept = listed["deployments"].as_array().unwrap().len();
    assert!((10..=12).contains(&kept), "{kept}");
    assert_eq!(rollback(&node, json!({ "deployment": 1 })).status, 404);
    node.stop();
}

#[test]
fn a_dry_run_changes_nothing() {
    let node = Node::with(&site("one"));
    let request = json!({
        "manifest": "manifest_version = 1\n[app]\nname = \"web\"\n",
        "components": [],
        "dryRun": true,
    });
    let path = "/v1/apps/web/deployments";
    let answer = node.admin("POST", path, request.to_string().as_bytes()).json();
    assert_eq!(
        (&answer["dryRun"], &answer["deployment"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(page(&node), "one");
    assert_eq!(node.admin("GET", path, b"").json()["active"], 1);
    node.stop();
}

#[test]
fn what_was_active_is_active_after_a_restart_and_after_a_kill() {
    let app = site("here")
        .function("hello", "hello", "")
        .route("/hello", &[], "hello");
    let node = Node::with(&app);
    let (dir, key) = (node.dir(), node.key.clone());
    node.stop();
    let node = Options::default().on(dir.clone(), &key).start();
    assert_eq!(page(&node), "here");
    assert_eq!(node.client().get("/hello").status, 200);
    assert_eq!(node.deploy(&site("there")).status, 200);
    node.kill();
    let node = Options::default().on(dir, &key).start();
    assert_eq!(page(&node), "there");
    node.stop();
}

#[test]
fn a_redeploy_under_load_drops_no_request() {
    const DEPLOYS: usize = 6;
    let version = |number: usize| {
        let label = format!("[vars]\nversion = \"{number}\"");
        App::new("web")
            .function("hello", "hello", "")
            .route("/hello", &[], "hello")
            .lines(&label)
    };
    let node = Node::with(&version(0));
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(node.public);
                while !done.load(Ordering::Relaxed) {
                    let reply = client.get("/hello");
                    assert_eq!(reply.status, 200, "{reply:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 1..=DEPLOYS {
            let before = served.load(Ordering::Relaxed);
            let deployed = node.deploy(&version(number));
            assert_eq!(deployed.status, 200, "{deployed:?}");
            // Each version serves some before the next.
            while served.load(Ordering::Relaxed) < before + 20 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    node.stop();
}

#[test]
fn of_deploys_at_the_same_time_each_wins_or_is_told() {
    let node = Node::with(&site("first"));
    let texts = ["a", "b", "c", "d"];
    let replies: Vec<Response> = std::thread::scope(|scope| {
        let node = &node;
        let deploys: Vec<_> = texts
            .iter()
            .map(|text| scope.spawn(move || node.deploy(&site(text))))
            .collect();
        deploys.into_iter().map(|deploy| deploy.join().unwrap()).collect()
    });
    let won = replies.iter().filter(|reply| reply.status == 200).count();
    assert!(
        won >= 1 && replies.iter().all(|reply| [200, 409].contains(&reply.status)),
        "{replies:?}"
    );
    let listed = node.admin("GET", "/v1/apps/web/deployments", b"").json();
    assert_eq!(listed["deployments"].as_array().unwrap().len(), 1 + won);
    let active = listed["active"].as_u64().unwrap();
    let winner = replies
        .iter()
        .position(|reply| reply.status == 200 && reply.json()["deployment"] == active);
    assert_eq!(page(&node), texts[winner.unwrap()]);
    node.stop();
}

#[test]
fn a_deploy_waits_for_its_secrets_and_never_shows_them() {
    const VALUE: &str = "s3cr3t-value-of-the-test";
    let app = App::new("web")
        .lines("[secrets]\nrequired = [\"VISION_KEY\"]")
        .function("hello", "hello", "grants = { secrets = [\"VISION_KEY\"] }");
    let node = Node::start();
    let refused = node.deploy(&app);
    assert_eq!(refused.status, 400);
    let problem = refused.json()["problems"][0].as_str().unwrap().to_owned();
    assert!(
        problem.contains("VISION_KEY") && problem.contains("cloudlet secret put"),
        "{problem}"
    );

    let path = "/v1/apps/web/secrets/VISION_KEY";
    let put = node.admin("PUT", path, VALUE.as_bytes());
    assert_eq!((put.status, &put.json()["reloaded"]), (200, &json!(false)));
    assert_eq!(node.deploy(&app).status, 200);
    assert_eq!(node.admin("PUT", path, VALUE.as_bytes()).json()["reloaded"], true);
    let listed = node.admin("GET", "/v1/apps/web/secrets", b"");
    assert_eq!(listed.json()["secrets"][0]["name"], "VISION_KEY");
    assert!(!listed.text().contains(VALUE));
    assert_eq!(node.admin("GET", path, b"").status, 405);
    // The active deployment needs it.
    assert_eq!(node.admin("DELETE", path, b"").status, 400);

    let dir = node.dir();
    node.stop();
    assert_nowhere_in(dir.path(), VALUE);
}

/// No file under `dir` has this text.
fn assert_nowhere_in(dir: &Path, value: &str) {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let mut windows = bytes.windows(value.len());
            assert!(!windows.any(|window| window == value.as_bytes()), "{path:?}");
        }
    }
}

#[test]
fn secrets_and_their_key_change_without_a_deploy_and_are_told_nowhere() {
    let app = App::new("web")
        .lines("[vars]\ncolor = \"green\"\n[secrets]\nrequired = [\"KEY\"]")
        .function("granted", "misbehave", "grants = { secrets = [\"KEY\"] }")
        .function("other", "misbehave", "grants = { vars = [\"color\"] }")
        .route("/config", &["GET"], "granted")
        .route("/config", &["POST"], "other");
    let values = ["first-hush-value", "second-hush-value"];
    let path = "/v1/apps/web/secrets/KEY";
    let node = Node::start();
    assert_eq!(node.admin("PUT", path, values[0].as_bytes()).status, 200);
    assert_eq!(node.deploy(&app).status, 200);
    let granted = |node: &Node| node.client().get("/config?KEY").text();
    let other = |node: &Node, name: &str| {
        let reply = node.client().send("POST", &format!("/config?{name}"), &[], b"");
        reply.text()
    };
    assert_eq!(granted(&node), values[0]);
    for value in values {
        assert_eq!(node.admin("PUT", path, value.as_bytes()).json()["reloaded"], true);
        assert_eq!(
            (granted(&node).as_str(), other(&node, "KEY").as_str()),
            (value, "none")
        );
    }
    assert_eq!(other(&node, "color"), "green");
    let rotate = |node: &Node| {
        let rotated = node.admin("POST", "/v1/rotate-secret-key", b"");
        assert_eq!(
            (rotated.status, &rotated.json()["secrets"]),
            (200, &json!(1)),
            "{rotated:?}"
        );
    };
    let key_file = node.dir().path().join("secrets.key");
    let old = std::fs::read(&key_file).unwrap();
    rotate(&node);
    let new = std::fs::read(&key_file).unwrap();
    assert!(new.len() == 32 && new != old);
    assert_eq!(granted(&node), values[1]);
    // Everything that a node tells.
    let told = [
        "/metrics",
        "/v1/apps/web/secrets",
        "/v1/apps/web/logs",
        "/v1/apps/web/functions",
        "/v1/apps/web/deployments",
        "/v1/apps/web/deployments/1",
        "/v1/apps",
    ];
    let mut told: Vec<String> = told
        .iter()
        .map(|path| {
            let reply = node.admin("GET", path, b"");
            assert!(reply.status == 200 || reply.status == 405, "{path}: {reply:?}");
            reply.text()
        })
        .collect();
    let (dir, key) = (node.dir(), node.key.clone());
    told.push(node.log_text());
    node.kill();
    // After a kill the new key opens them.
    let node = Options::default().on(dir.clone(), &key).start();
    assert_eq!(granted(&node), values[1]);
    rotate(&node);
    told.push(node.log_text());
    for value in values {
        assert!(told.iter().all(|text| !text.contains(value)), "{told:#?}");
    }
    node.stop();
    values
        .iter()
        .for_each(|value| assert_nowhere_in(dir.path(), value));
}

#[test]
fn domains_belong_to_one_app() {
    let named = |name| App::new(name).file("/index.html", "text/html", name).lines("");
    let with_domain = |name: &'static str| {
        let request = json!({
            "manifest": format!("manifest_version = 1\n[app]\nname = {name:?}\ndomains = [\"hotel.example.com\"]\n"),
            "components": [],
        });
        request.to_string()
    };
    let node = Node::with(&named("one"));
    let deployed = node.admin("POST", "/v1/apps/one/deployments", with_domain("one").as_bytes());
    assert_eq!(deployed.status, 200, "{deployed:?}");
    let refused = node.admin("POST", "/v1/apps/two/deployments", with_domain("two").as_bytes());
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("served by app"), "{refused:?}");
    node.stop();
}
