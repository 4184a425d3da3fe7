//! Deployments that a team lives on: what would change, who was faster, what is kept, what a crash leaves.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::Desk;
use crate::harness::{App, Node, Options, guest_bytes, variant};
use crate::http::Response;

fn site(text: &str) -> App {
    App::new("web").file("/index.html", "text/html", text)
}

fn page(node: &Node) -> String {
    node.client().get("/").text()
}

fn ask(node: &Node, method: &str, path: &str, body: Value) -> Response {
    node.admin(
        method,
        &format!("/v1/apps/web/{path}"),
        body.to_string().as_bytes(),
    )
}

fn numbers(node: &Node) -> Vec<i64> {
    let listed = ask(node, "GET", "deployments", json!({})).json();
    let deployments = listed["deployments"].as_array().unwrap().clone();
    deployments
        .iter()
        .map(|one| one["deployment"].as_i64().unwrap())
        .collect()
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

fn compiled(node: &Node) -> f64 {
    node.metric("cloudlet_host_compile_seconds_count")
}

const FUNCTIONS: usize = 20;

#[test]
fn an_app_of_many_functions_costs_what_changed_of_it() {
    let desk = Desk::new(Some(Node::start()));
    let node = desk.node.as_ref().unwrap();
    let mut manifest = "manifest_version = 1\n[app]\nname = \"web\"\n".to_owned();
    for number in 0..FUNCTIONS {
        manifest += &format!("[function.f{number}]\nsource = \"f{number}.wasm\"\n");
        // Few different ones, for each is compiled at first.
        let bytes = variant("hello", u8::try_from(number % 3).unwrap());
        std::fs::write(desk.dir.path().join(format!("f{number}.wasm")), bytes).unwrap();
    }
    desk.write("cloudlet.toml", &manifest);
    desk.run(&["deploy"]).ok();
    assert_eq!(compiled(node), 3.0);

    let changed = variant("hello", 7);
    std::fs::write(desk.dir.path().join("f11.wasm"), &changed).unwrap();
    let written = || node.metric("cloudlet_blob_written_bytes_total");
    let before = written();
    let told = desk.run(&["diff"]);
    assert_eq!(told.code, 3, "{told:?}");
    assert!(
        told.out.contains("~ function f11") && told.out.lines().count() == 2,
        "{told:?}"
    );
    assert_eq!(written(), before, "a diff sends nothing");
    desk.run(&["deploy"]).ok();
    assert_eq!(written() - before, changed.len() as f64, "one component is sent");
    assert_eq!(compiled(node), 4.0, "one component is compiled");
    let told = desk.run(&["diff"]);
    assert_eq!(
        (told.code, told.out.contains("nothing would change")),
        (0, true),
        "{told:?}"
    );

    // Back and forth without compiling.
    desk.run(&["rollback"]).ok();
    desk.run(&["promote", "2"]).ok();
    assert_eq!(compiled(node), 4.0);
    desk.stop();
}

#[test]
fn a_diff_tells_all_that_would_change_and_changes_nothing() {
    let desk = Desk::new(Some(Node::start()));
    let head = "manifest_version = 1\n[app]\nname = \"web\"\n";
    desk.write("cloudlet.toml", &format!("{head}[hosting]\ndir = \"dist\"\n"));
    desk.write("dist/a.txt", "a");
    desk.write("dist/b.txt", "b");
    let told = desk.run(&["diff"]);
    assert_eq!(told.code, 3);
    assert!(
        told.out.contains("is not deployed yet") && told.out.contains("+ file /a.txt"),
        "{told:?}"
    );
    desk.run(&["deploy"]).ok();

    desk.write(
        "cloudlet.toml",
        &format!("{head}# later\n[vars]\nregion = \"gz\"\n[hosting]\ndir = \"dist\"\n[database.collection.a]\nrules = \"PRIVATE\"\nindexes = [{{ keys = {{ x = 1 }} }}]\n"),
    );
    desk.write("dist/b.txt", "c");
    std::fs::remove_file(desk.dir.path().join("dist/a.txt")).unwrap();
    let told = desk.run(&["--json", "diff"]);
    let diff: Value = serde_json::from_str(&told.out).unwrap();
    let changes: Vec<String> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            format!(
                "{} {}",
                change["what"].as_str().unwrap(),
                change["name"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            "var region",
            "rule collection a",
            "index a x_1",
            "file /a.txt",
            "file /b.txt"
        ]
    );
    assert_eq!(
        (told.code, &diff["against"], &diff["revision"]),
        (3, &json!(1), &json!(1))
    );
    let node = desk.node.as_ref().unwrap();
    assert_eq!(numbers(node), [1]);
    desk.run(&["deploy"]).ok();
    assert_eq!(desk.run(&["diff"]).code, 0);
    assert_eq!(desk.run(&["diff", "--against", "1"]).code, 3);
    desk.run(&["diff", "--against", "9"]).fails(&["no deployment 9"]);

    // The index of the newer deployment stays when it is rolled back.
    desk.run(&["rollback"]).ok();
    let indexes = || ask(node, "GET", "collections/a/indexes", json!({})).text();
    assert!(indexes().contains("x_1"), "{}", indexes());
    let shown = desk.run(&["versions", "show", "1"]).ok();
    assert!(
        shown.contains("active") && shown.contains("site files 2"),
        "{shown}"
    );
    assert!(
        desk.run(&["deployments", "show", "2", "--manifest"])
            .ok()
            .contains("# later")
    );
    desk.run(&["versions", "show", "9"]).fails(&["no deployment 9"]);
    desk.stop();
}

#[test]
fn what_serves_is_chosen_from_the_command_line() {
    let desk = Desk::new(Some(Node::with(&site("one"))));
    desk.write(
        "cloudlet.toml",
        "manifest_version = 1\n[app]\nname = \"web\"\n[hosting]\ndir = \"dist\"\n",
    );
    desk.write("dist/index.html", "two");
    let node = desk.node.as_ref().unwrap();
    let said = desk.run(&["deploy", "--no-activate"]).ok();
    assert!(
        said.contains("deployment 2 is on") && said.contains("promote 2"),
        "{said}"
    );
    assert_eq!(page(node), "one");
    assert!(desk.run(&["versions"]).ok().contains("staged"));
    assert_eq!(
        desk.run(&["split", "2=99"]).ok().trim(),
        "web: deployment 1 serves 1 %, deployment 2 serves 99 %"
    );
    assert!(desk.run(&["traffic"]).ok().contains("99"));
    desk.run(&["traffic", "2=100"]).fails(&["promote"]);
    assert_eq!(desk.run(&["traffic", "x"]).code, 2);
    desk.run(&["promote"]).ok();
    assert_eq!(page(node), "two");
    assert!(
        desk.run(&["rollback"])
            .ok()
            .contains("deployment 1 is active again, was 2")
    );
    assert_eq!(page(node), "one");
    desk.write("dist/index.html", "three");
    let said = desk.run(&["deploy", "--canary", "25"]).ok();
    assert!(
        said.contains("deployment 1 serves 75 %, deployment 3 serves 25 %"),
        "{said}"
    );
    assert_eq!(desk.run(&["deploy", "--canary", "100"]).code, 2);
    desk.run(&["traffic", "1=100"]).ok();
    assert_eq!(page(node), "one");

    desk.run(&["versions", "pin", "1"]).ok();
    assert!(desk.run(&["versions", "list"]).ok().contains("active pinned"));
    desk.run(&["versions", "unpin", "1"]).ok();
    assert!(!desk.run(&["versions"]).ok().contains("pinned"));
    desk.run(&["versions", "pin", "9"]).fails(&["no deployment 9"]);
    assert!(
        desk.run(&["versions", "collect"])
            .ok()
            .contains("removed 0 deployment(s)")
    );
    desk.stop();
}

#[test]
fn who_deploys_on_something_else_than_was_seen_is_told() {
    let desk = Desk::new(Some(Node::with(&site("one"))));
    desk.write(
        "cloudlet.toml",
        "manifest_version = 1\n[app]\nname = \"web\"\n[hosting]\ndir = \"dist\"\n",
    );
    desk.write("dist/index.html", "mine");
    let node = desk.node.as_ref().unwrap();
    node.deploy(&site("theirs"));
    desk.run(&["deploy", "--base", "1"]).fails(&[
        "deployment 2 is the active one",
        "by admin key",
        "cloudlet diff",
        "--force",
    ]);
    assert_eq!(page(node), "theirs");
    let told = desk.run(&["--json", "deploy", "--base", "1"]);
    assert!(told.err.contains("CONFLICT"), "{told:?}");
    desk.run(&["deploy", "--force"]).ok();
    assert_eq!(page(node), "mine");
    desk.write("dist/index.html", "again");
    desk.run(&["deploy", "--base", "3"]).ok();

    // What was seen when the command began counts.
    let refused = ask(
        node,
        "POST",
        "deployments",
        json!({ "manifest": "manifest_version = 1\n[app]\nname = \"web\"\n", "components": [], "plan": { "revision": 2 } }),
    );
    let now = &refused.json()["now"];
    assert_eq!((refused.status, refused.code().as_str()), (409, "CONFLICT"));
    assert_eq!(
        (&now["traffic"][0]["deployment"], &now["revision"]),
        (&json!(4), &json!(4))
    );
    assert!(now["changed"].is_i64() && now["by"].is_string(), "{now}");
    // What serves nothing is in nobody's way.
    let staged = node.deploy_as(&site("staged"), json!({ "revision": 2, "staged": true }));
    assert_eq!(staged.status, 200, "{staged:?}");
    desk.stop();
}

#[test]
fn of_two_deploys_on_the_same_base_one_wins() {
    let node = Node::with(&site("0"));
    for round in 1..=5_i64 {
        let replies: Vec<Response> = std::thread::scope(|scope| {
            let node = &node;
            let deploy = |text: String| move || node.deploy_as(&site(&text), json!({ "base": round }));
            let both = ["a", "b"].map(|name| scope.spawn(deploy(format!("{name}{round}"))));
            both.into_iter().map(|deploy| deploy.join().unwrap()).collect()
        });
        let mut statuses = [replies[0].status, replies[1].status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{replies:?}");
        let winner = if replies[0].status == 200 { "a" } else { "b" };
        assert_eq!(page(&node), format!("{winner}{round}"));
    }
    assert_eq!(numbers(&node), [6, 5, 4, 3, 2, 1]);
    node.stop();
}

#[test]
fn what_is_old_goes_with_all_that_only_it_used() {
    let version = |number: u8| {
        App::new("web")
            .component("f", &variant("hello", number), "")
            .route("/f", &[], "f")
            .file("/index.html", "text/html", format!("page {number}"))
            .file("/same.txt", "text/plain", "the same in all")
    };
    let options = || {
        Options::default()
            .set("deployments-kept", "2")
            .set("deployments-unused-for", "1ms")
    };
    let node = Node::with_options(&version(1), options());
    let (dir, key) = (node.dir(), node.key.clone());
    let (content, artifacts) = (dir.path().join("objects/content"), dir.path().join("artifacts"));
    assert_eq!(ask(&node, "PUT", "deployments/1/pin", json!({})).status, 200);
    assert_eq!(ask(&node, "PUT", "deployments/9/pin", json!({})).status, 404);
    for number in 2..=5 {
        assert_eq!(node.deploy(&version(number)).status, 200);
    }
    // One is pinned, the last two besides the active one are kept.
    assert_eq!(numbers(&node), [5, 4, 3, 1]);
    // An upload that no deploy followed, and one whose deploy was refused.
    node.put_content(b"nobody wants this");
    let broken = App::new("web").component("f", &variant("capabilities", 9), "");
    assert_eq!(node.deploy(&broken).status, 400);
    assert_eq!((files(&content), files(&artifacts)), (5 * 2 + 1 + 2, 6 * 2));

    // Of an interrupted write, of another engine, and of somebody else.
    let component = node.put_content(&variant("hello", 5));
    let odd = |name: &str| artifacts.join(name);
    let old_engine = format!("{component}-0123456789abcdef.cwasm");
    for name in ["temp-1-1", &old_engine, "README", "x.cwasm"] {
        std::fs::write(odd(name), b"odd").unwrap();
    }

    let collected = node.admin("POST", "/v1/collect", b"").json();
    for (name, stays) in [
        ("temp-1-1", false),
        (&old_engine, false),
        ("README", true),
        ("x.cwasm", true),
    ] {
        assert_eq!(odd(name).exists(), stays, "{name}");
    }
    std::fs::remove_file(odd("README")).unwrap();
    std::fs::remove_file(odd("x.cwasm")).unwrap();
    assert_eq!(
        (
            &collected["deployments"],
            &collected["contents"],
            &collected["artifacts"]
        ),
        (&json!(0), &json!(4), &json!(3)),
        "{collected}"
    );
    assert_eq!((files(&content), files(&artifacts)), (4 * 2 + 1, 4 * 2));
    assert_eq!(node.admin("POST", "/v1/collect", b"").json()["contents"], 0);
    assert_eq!(
        node.metric("cloudlet_maintenance_removed_total{what=\"artifacts\"}"),
        3.0
    );

    // What is kept still works, without compiling.
    let before = compiled(&node);
    for number in [1, 3, 4, 5] {
        let back = ask(&node, "POST", "rollback", json!({ "deployment": number }));
        assert_eq!(back.status, 200, "{back:?}");
        assert_eq!(page(&node), format!("page {number}"));
        assert_eq!(node.client().get("/f").status, 200);
    }
    assert_eq!(compiled(&node), before);
    assert_eq!(
        ask(&node, "POST", "rollback", json!({ "deployment": 2 })).status,
        404
    );
    node.stop();

    // Without its compiled code it is compiled again, and nothing else is different.
    std::fs::remove_dir_all(&artifacts).unwrap();
    let node = options().on(dir, &key).start();
    assert_eq!(compiled(&node), 1.0);
    assert_eq!(
        ask(&node, "POST", "rollback", json!({ "deployment": 1 })).status,
        200
    );
    assert_eq!((page(&node).as_str(), compiled(&node)), ("page 1", 2.0));
    // Not pinned any more, it goes when another is the active one.
    assert_eq!(ask(&node, "DELETE", "deployments/1/pin", json!({})).status, 200);
    assert_eq!(
        ask(&node, "POST", "promote", json!({ "deployment": 5 })).status,
        200
    );
    assert_eq!(node.admin("POST", "/v1/collect", b"").json()["deployments"], 1);
    assert_eq!(numbers(&node), [5, 4, 3]);
    node.stop();
}

#[test]
fn deployments_that_serve_are_kept_however_old() {
    let node = Node::with_options(&site("1"), Options::default().set("deployments-kept", "1"));
    node.deploy_as(&site("2"), json!({ "staged": true }));
    let split = ask(
        &node,
        "PUT",
        "traffic",
        json!({ "shares": [{ "deployment": 2, "percent": 50 }] }),
    );
    assert_eq!(split.status, 200, "{split:?}");
    for text in ["3", "4", "5", "6"] {
        node.deploy_as(&site(text), json!({ "staged": true }));
    }
    node.admin("POST", "/v1/collect", b"");
    assert_eq!(numbers(&node), [6, 5, 2, 1]);
    let seen: BTreeSet<String> = (0..64).map(|_| page(&node)).collect();
    assert_eq!(seen, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    node.stop();
}

#[test]
fn young_deployments_may_be_kept_whatever_their_number() {
    let options = Options::default()
        .set("deployments-kept", "1")
        .set("deployments-kept-for", "1h");
    let node = Node::with_options(&site("1"), options);
    for text in ["2", "3", "4"] {
        node.deploy(&site(text));
    }
    assert_eq!(numbers(&node), [4, 3, 2, 1]);
    node.stop();
}

#[test]
fn a_node_killed_in_a_deploy_has_the_old_or_the_new_version() {
    const ROUNDS: u8 = 8;
    let version = |number: u8| {
        App::new("web")
            .component("f", &variant("calls", number), "grants = { functions = [\"f\"] }")
            .file("/index.html", "text/html", format!("page {number}"))
    };
    let options = || {
        Options::default()
            .set("deployments-unused-for", "1ms")
            .set("deployments-kept", "1")
    };
    let mut node = Node::with_options(&version(0), options());
    let (dir, key) = (node.dir(), node.key.clone());
    // How long a deploy takes here, so that the kills fall all over it.
    let begun = Instant::now();
    assert_eq!(node.deploy(&version(1)).status, 200);
    let whole = begun.elapsed();
    let mut last = 1;
    for round in 0..ROUNDS {
        let number = round + 2;
        let request = node.upload(&version(number), json!({})).to_string();
        let (admin, bearer) = (node.admin, format!("Bearer {}", node.key));
        let deploying = std::thread::spawn(move || {
            // It breaks off; what became of it is looked at after the restart.
            std::panic::catch_unwind(|| {
                crate::http::Client::connect(admin).send(
                    "POST",
                    "/v1/apps/web/deployments",
                    &[("authorization", &bearer)],
                    request.as_bytes(),
                )
            })
            .is_ok_and(|reply| reply.status == 200)
        });
        let until =
            Instant::now() + whole * u32::from(round) / u32::from(ROUNDS - 1) + Duration::from_millis(1);
        while Instant::now() < until && !deploying.is_finished() {
            std::thread::yield_now();
        }
        node.kill();
        let acknowledged = deploying.join().unwrap();
        node = options().on(dir.clone(), &key).start();
        let now = page(&node);
        let (old, new) = (format!("page {last}"), format!("page {number}"));
        assert!(
            now == new || (now == old && !acknowledged),
            "{now} after {last}, {number}"
        );
        if now == new {
            last = number;
        }
        // What the crash left is collected, and what serves is whole.
        assert_eq!(node.admin("POST", "/v1/collect", b"").status, 200);
        let kept = numbers(&node).len();
        assert_eq!(files(&dir.path().join("artifacts")), 2 * kept);
        assert_eq!(files(&dir.path().join("objects/content")), 2 * kept);
        let call = node.admin("POST", "/v1/apps/web/functions/f/call", b"echo here");
        assert_eq!((call.status, call.text().as_str()), (200, "here"));
    }
    assert_eq!(node.deploy(&version(100)).status, 200);
    assert_eq!(page(&node), "page 100");
    node.stop();
}

#[test]
fn variants_of_a_component_are_components() {
    assert_ne!(variant("hello", 1), guest_bytes("hello"));
    assert_ne!(variant("hello", 1), variant("hello", 2));
}
