//! Bad input to a deploy and to the admin API: a clear error, and what runs goes on running.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{App, Node, serve_fails};
use crate::http::Client;

const PATH: &str = "/v1/apps/web/deployments";

fn running() -> Node {
    Node::with(&App::new("web").file("/index.html", "text/html", "as before"))
}

/// The node goes on as before.
fn unharmed(node: Node) {
    assert_eq!(node.client().get("/").text(), "as before");
    assert_eq!(node.admin("GET", PATH, b"").json()["active"], 1);
    node.stop();
}

fn put(node: &Node, bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let stored = node.admin("PUT", &format!("/v1/content/{hash}"), bytes);
    assert_eq!(stored.status, 204, "{stored:?}");
    hash
}

/// Deploys one function made of `bytes`; gives the problems.
fn problems(node: &Node, bytes: &[u8]) -> Vec<String> {
    let manifest = "manifest_version = 1\n[app]\nname = \"web\"\n[function.f]\nsource = \"f.wasm\"\n";
    let request =
        json!({ "manifest": manifest, "components": [{ "function": "f", "hash": put(node, bytes) }] });
    let reply = node.admin("POST", PATH, request.to_string().as_bytes());
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(reply.code(), "DEPLOYMENT_REFUSED");
    let problems = reply.json()["problems"].as_array().unwrap().clone();
    problems
        .iter()
        .map(|problem| problem.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn five_mistakes_in_a_manifest_are_all_told_with_their_lines() {
    let node = running();
    let manifest = r#"manifest_version = 2
[app]
name = "web"
[function.checkin]
source = "a.wasm"
grant = { database = ["rooms"] }
limits = { timeout = "3" }
[[trigger.http]]
route = "/v1/functions/mine"
function = "chekin"
"#;
    let request = json!({ "manifest": manifest, "components": [] });
    let reply = node.admin("POST", PATH, request.to_string().as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (400, "INVALID_MANIFEST"));
    let problems: Vec<String> = serde_json::from_value(reply.json()["problems"].clone()).unwrap();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    for (problem, line) in problems.iter().zip([1, 6, 7, 9, 10]) {
        assert!(
            problem.starts_with(&format!("cloudlet.toml:{line}:")),
            "{problem}"
        );
    }
    unharmed(node);
}

#[test]
fn what_is_not_a_component_is_refused() {
    let node = running();
    let module = b"\0asm\x01\0\0\0";
    for bytes in [
        &b"hello, I am a text"[..],
        b"",
        module,
        b"\0asm\x0d\0\x01\0garbage",
    ] {
        let problems = problems(&node, bytes);
        assert!(problems[0].contains("function \"f\""), "{problems:?}");
    }
    unharmed(node);
}

#[test]
fn an_import_that_is_not_granted_is_named_with_its_remedy() {
    let node = running();
    let refused = node.deploy(&App::new("web").function("f", "capabilities", ""));
    assert_eq!(refused.status, 400, "{refused:?}");
    let text = refused.text();
    assert!(
        text.contains("cloudlet:database") && text.contains("cloudlet:storage"),
        "{text}"
    );
    assert!(text.contains("grants"), "{text}");
    unharmed(node);
}

/// A component that is called, made of this core module beside an allocator and a memory.
fn hostile(fields: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "cloudlet:function/types@0.1.0" (instance $types
                (type (variant (case "invalid" string) (case "denied" string) (case "not-found" string)
                    (case "failed" string) (case "busy" string) (case "deadline")))
                (export "error" (type (eq 0)))))
            (alias export $types "error" (type $error))
            (core module $m {fields} (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
                (func (export "handle") (param i32 i32) (result i32) (i32.const 16)))
            (core instance $i (instantiate $m))
            (type $handle (func (param "payload" (list u8)) (result (result (list u8) (error $error)))))
            (func $f (type $handle) (canon lift (core func $i "handle") (memory $i "memory")
                (realloc (func $i "realloc"))))
            (instance $h (export "handle" (func $f)))
            (export "cloudlet:function/handler@0.1.0" (instance $h)))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn a_component_that_spins_as_it_starts_is_stopped_and_harms_nobody() {
    let spins = hostile("(func $start (loop $l (br $l))) (start $start)");
    let app = App::new("web")
        .component("spins", &spins, "invoke = \"true\"\nlimits = { cpu = \"200ms\" }")
        .function("hello", "hello", "")
        .route("/hello", &[], "hello");
    let node = Node::with(&app);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stopped = node.client().send("POST", "/v1/functions/spins", &[], b"{}");
                assert_eq!(
                    (stopped.status, stopped.code().as_str()),
                    (500, "FUNCTION_TIME_LIMIT_EXCEEDED")
                );
            });
        }
        for _ in 0..20 {
            assert_eq!(node.client().get("/hello").status, 200);
        }
    });
    node.stop();
}

#[test]
fn components_that_want_too_much_are_refused_by_what_they_want() {
    let node = running();
    for (fields, word) in [("(memory 65536)", "memor"), ("(table 200000 funcref)", "table")] {
        let problems = problems(&node, &hostile(fields));
        assert!(problems[0].contains(word), "{problems:?}");
    }
    let imports: String = (0..900)
        .map(|n| format!("(import \"acme:clouds/rain{n}@1.0.0\" (instance))"))
        .collect();
    let many = problems(&node, &wat::parse_str(format!("(component {imports})")).unwrap());
    assert!(many[0].contains("900 imports, over the limit of 500"), "{many:?}");
    unharmed(node);
}

#[test]
fn a_component_of_100_mib_is_refused_by_its_size() {
    let node = running();
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.resize(100 << 20, 0);
    let refused = node.admin("PUT", &format!("/v1/content/{}", "0".repeat(64)), &bytes);
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (413, "BODY_TOO_LARGE"),
        "{refused:?}"
    );
    assert!(refused.text().contains("67108864"), "{refused:?}");
    unharmed(node);
}

#[test]
fn an_import_that_nobody_offers_is_named() {
    let node = running();
    // A component that imports an empty instance and exports nothing.
    let name = b"acme:thing/api@1.0.0";
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    component.extend([7, 3, 1, 0x42, 0]);
    component.extend([
        10,
        u8::try_from(name.len() + 5).unwrap(),
        1,
        0,
        u8::try_from(name.len()).unwrap(),
    ]);
    component.extend(name);
    component.extend([5, 0]);
    let problems = problems(&node, &component);
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("acme:thing/api@1.0.0")),
        "{problems:?}"
    );
    unharmed(node);
}

#[test]
fn content_under_another_hash_is_refused_and_missing_content_is_named() {
    let node = running();
    let hash = "0".repeat(64);
    assert_eq!(
        node.admin("PUT", &format!("/v1/content/{hash}"), b"other").status,
        400
    );
    assert_eq!(node.admin("PUT", "/v1/content/xyz", b"other").status, 400);
    let manifest = "manifest_version = 1\n[app]\nname = \"web\"\n[function.f]\nsource = \"f.wasm\"\n";
    let request = json!({ "manifest": manifest, "components": [{ "function": "f", "hash": hash }] });
    let reply = node.admin("POST", PATH, request.to_string().as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (400, "CONTENT_MISSING"));
    assert!(reply.text().contains(&hash));
    unharmed(node);
}

#[test]
fn the_admin_api_needs_a_key_and_tells_what_is_wrong() {
    let node = running();
    let bare = Client::connect(node.admin).get("/v1/apps");
    assert_eq!(bare.status, 401);
    let forged = [("authorization", "Bearer ck_aaaaaaaaaaaaa_bbbbbbbbbbbb")];
    assert_eq!(
        Client::connect(node.admin)
            .send("GET", "/v1/apps", &forged, b"")
            .status,
        401
    );
    let cases: [(&str, &str, &[u8], u16); 10] = [
        ("GET", "/v1/nothing", b"", 404),
        ("GET", "/other", b"", 404),
        ("DELETE", "/v1/apps", b"", 405),
        ("GET", "/v1/apps/Not-An-App/deployments", b"", 400),
        ("GET", "/v1/apps/unknown/deployments", b"", 404),
        ("POST", PATH, b"{", 400),
        (
            "POST",
            PATH,
            b"{\"manifest\":\"\",\"components\":[],\"extra\":1}",
            400,
        ),
        (
            "POST",
            "/v1/apps/web/documents/notes/find",
            b"{\"filter\":{\"a\":{\"$oid\":\"x\"}}}",
            400,
        ),
        (
            "POST",
            "/v1/apps/web/documents/notes/find",
            b"{\"limit\":5000}",
            413,
        ),
        ("PUT", "/v1/apps/web/secrets/bad%20name", b"x", 400),
    ];
    for (method, path, body, status) in cases {
        let reply = node.admin(method, path, body);
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        let error: Value = reply.json();
        assert!(
            error["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{error}"
        );
        assert_eq!(
            Some(error["requestId"].as_str().unwrap()),
            reply.header("x-request-id")
        );
    }
    unharmed(node);
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let node = running();
    let long = vec![b'x'; (64 << 10) + 1];
    assert_eq!(node.admin("PUT", "/v1/apps/web/secrets/LONG", &long).status, 413);
    unharmed(node);
}

#[test]
fn a_second_node_on_the_same_data_is_refused_with_the_reason() {
    let node = running();
    let (status, text) = serve_fails(node.dir().path(), &[]);
    assert!(!status.success());
    assert!(text.contains("another node"), "{text}");
    unharmed(node);
}
