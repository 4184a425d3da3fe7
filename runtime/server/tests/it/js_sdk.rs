//! The unmodified npm package @cloudbase/js-sdk, in its browser build over jsdom, against a node: the only change to
//! an app's code is `app.registerHost(host)`. Needs Node.js with npm; packages are kept in `$CLOUDLET_TEST_CACHE`.

use std::path::Path;
use std::process::Command;

use crate::harness::{App, NODE_JS, Node, npm_packages, run};

const PACKAGES: [&str; 2] = ["@cloudbase/js-sdk@3.7.0", "jsdom@29.1.1"];

#[test]
fn the_js_sdk_works_unmodified() {
    let app = App::new("hotel")
        .function("echo", "echo", "")
        .function("closed", "hello", "invoke = \"false\"")
        .lines("[database.collection.stays]\nrules = \"PRIVATE\"")
        .lines("[storage]\nrules = { \"photos/\" = { read = \"auth != null && resource.openid == auth.openid\", write = \"auth != null && resource.openid == auth.openid\" } }")
        .lines("[auth]\nanonymous = true\npassword = true");
    let node = Node::with(&app);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/js_sdk.cjs");
    let out = run(
        NODE_JS,
        Command::new("node")
            .arg(script)
            .arg(npm_packages("js-sdk", &PACKAGES))
            .arg(node.public.to_string()),
    );
    assert!(out.contains("all well"), "{out}");
    node.stop();
}
