//! The MongoDB listener of a node, driven by PyMongo: whose data it serves, and to whom.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{App, Node, Options, PYTHON, python_with, run};

const PYMONGO: [&str; 1] = ["pymongo==4.20.0"];

fn app(name: &'static str) -> App {
    App::new(name)
        .function("hello", "hello", "")
        .lines("[database.collection.notes]\nrules = \"PRIVATE\"")
}

/// Makes a user with the password `secret`, or changes its roles.
pub(crate) fn user(node: &Node, app: &str, name: &str, roles: &[&str]) {
    let body = json!({ "password": "secret", "roles": roles }).to_string();
    let path = format!("/v1/apps/{app}/database-users/{name}");
    let reply = node.admin("PUT", &path, body.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Runs a script of this directory with PyMongo.
pub(crate) fn drive(script: &str, args: &[&str]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(script);
    run(
        PYTHON,
        Command::new(python_with("pymongo", &PYMONGO))
            .arg(file)
            .args(args),
    );
}

#[test]
fn a_driver_sees_its_own_app_and_nothing_else() {
    let node = Options::default()
        .set("mongo-listen", "127.0.0.1:0")
        .set("database-expire-interval", "20ms")
        .start();
    for name in ["hotel", "shop"] {
        assert_eq!(node.deploy(&app(name)).status / 100, 2);
    }
    user(&node, "hotel", "owner", &["dbOwner"]);
    user(&node, "hotel", "reader", &["read"]);
    user(&node, "shop", "owner", &["dbOwner"]);
    let documents = json!({ "documents": [{ "_id": "from-http", "n": 1 }] }).to_string();
    let path = "/v1/apps/hotel/documents/notes";
    let reply = node.admin("POST", &format!("{path}/insert"), documents.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");

    drive("mongo.py", &[&node.mongo.unwrap().to_string()]);

    let reply = node.admin(
        "POST",
        &format!("{path}/find"),
        br#"{"filter":{"_id":"from-driver"}}"#,
    );
    assert_eq!(reply.json()["documents"][0]["n"], 2, "{reply:?}");
    let users = node.admin("GET", "/v1/apps/hotel/database-users", b"").json();
    assert_eq!(users["users"].as_array().unwrap().len(), 2, "{users}");
    let removed = |name: &str| {
        let path = format!("/v1/apps/hotel/database-users/{name}");
        node.admin("DELETE", &path, b"").status
    };
    assert_eq!((removed("reader"), removed("reader")), (200, 404));
    node.stop();
}
