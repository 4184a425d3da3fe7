//! A node under components of other platforms: their stores are the node's own, durable and in the operator's sight; an app
//! on Spin's own SDK runs as it is.

use crate::harness::{App, Node, Options, guest_bytes};

fn shop() -> App {
    App::new("shop")
        .function(
            "stores",
            "standards",
            "grants = { keyvalue = [\"default\"], storage = [\"photos/\"], vars = [\"region\"], secrets = [] }",
        )
        .lines("[vars]\nregion = \"gz\"")
        .lines("[auth]\nanonymous = true")
}

fn said(node: &Node, words: &str, expected: &str) {
    let reply = node.admin("POST", "/v1/apps/shop/functions/stores/call", words.as_bytes());
    assert_eq!((reply.status, &*reply.text()), (200, expected), "{words}");
}

#[test]
fn what_other_platforms_components_store_is_durable_and_in_sight() {
    let node = Node::with(&shop());
    said(&node, "draft default set k v", "set");
    said(&node, "draft2 default increment n 41", "41");
    said(&node, "draft2 default swap k w", "was v");
    said(&node, "blob in photos put x.txt hello", "stored");
    said(&node, "config draft region", "gz");
    said(&node, "spin region variable", "gz");
    said(&node, "log warn cart not-much-left", "logged");
    let logs = node.admin("GET", "/v1/apps/shop/logs", b"").text();
    assert!(
        logs.contains("\"message\":\"not-much-left\",\"context\":\"cart\""),
        "{logs}"
    );
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();

    let node = Options::default().on(dir, &key).start();
    said(&node, "spin default get k", "w");
    said(&node, "draft default increment n 1", "42");
    said(&node, "spin default keys", "2 k n");
    said(&node, "blob in photos get x.txt 0 3", "4 hell");

    let collections = node.admin("GET", "/v1/apps/shop/collections", b"").text();
    assert!(collections.contains("cloudlet.keyvalue.default"), "{collections}");
    let path = "/v1/apps/shop/documents/cloudlet.keyvalue.default/find";
    let found = node.admin("POST", path, br#"{"filter":{"_id":"k"}}"#).text();
    assert!(found.contains("\"$binary\"") && found.contains("dw=="), "{found}");
    let object = node.admin("GET", "/v1/apps/shop/objects/photos/x.txt", b"");
    assert_eq!(object.text(), "hello");

    // A client of the app has no way to the store.
    let bearer = format!("Bearer {}", node.anonymous());
    let query = "/v1/database/instances/(default)/databases/(default)/collections/cloudlet.keyvalue.default/documents";
    let refused = node
        .client()
        .send("GET", query, &[("authorization", &bearer)], b"");
    assert_ne!(refused.status / 100, 2, "{refused:?}");
    assert!(!refused.text().contains("dw=="), "{refused:?}");
    node.stop();
}

#[test]
fn an_app_on_spins_own_sdk_runs_unmodified() {
    let app = App::new("spin")
        .function(
            "serve",
            "spin",
            "grants = { keyvalue = [\"default\"], vars = [\"GREETING\"] }",
        )
        .lines("[vars]\nGREETING = \"hello from a variable\"")
        .route("/...", &[], "serve");
    let node = Node::with(&app);
    let mut client = node.client();
    let mut ask = |method: &str, path: &str, body: &[u8]| {
        let reply = client.send(method, path, &[], body);
        (reply.status, reply.text())
    };
    assert_eq!(
        ask("GET", "/greeting", b""),
        (200, "hello from a variable".into())
    );
    assert_eq!(ask("GET", "/rooms/1", b"").0, 404);
    assert_eq!(ask("PUT", "/rooms/1", b"sea view").0, 201);
    assert_eq!(ask("PUT", "/rooms/2", b"garden").0, 201);
    assert_eq!(ask("GET", "/rooms/1", b""), (200, "sea view".into()));
    assert_eq!(ask("GET", "/", b""), (200, "/rooms/1,/rooms/2".into()));
    assert_eq!(ask("DELETE", "/rooms/1", b"").0, 204);
    assert_eq!(ask("DELETE", "/rooms/1", b"").0, 404);
    assert_eq!(ask("GET", "/", b""), (200, "/rooms/2".into()));
    node.stop();
}

#[test]
fn what_is_not_granted_fails_the_deploy_with_the_line_to_add() {
    let node = Node::start();
    let bare = App::new("shop").component("stores", &guest_bytes("standards"), "");
    let refused = node.deploy(&bare);
    assert_eq!(refused.status / 100, 4, "{refused:?}");
    let text = refused.json().to_string();
    for part in [
        "wasi:keyvalue/store@0.2.0-draft2",
        "fermyon:spin/key-value@2.0.0",
        "wasi:blobstore/container@0.2.0-draft",
        "keyvalue = [\\\"default\\\"]",
        "storage = [\\\"PREFIX/\\\"]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The collection behind a store can't be had by its name.
    let taken = App::new("shop").function(
        "f",
        "capabilities",
        "grants = { database = [\"cloudlet.keyvalue.default\"], storage = [\"\"] }",
    );
    let refused = node.deploy(&taken);
    assert!(
        refused.status / 100 == 4 && refused.text().contains("the platform's"),
        "{refused:?}"
    );
    node.stop();
}
