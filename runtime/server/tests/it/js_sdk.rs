//! The unmodified npm package @cloudbase/js-sdk, in its browser build over jsdom, against a node: the only change to
//! an app's code is `app.registerHost(host)`. Needs Node.js with npm; packages are kept in `$CLOUDLET_TEST_CACHE`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{App, Node, test_cache};

const PACKAGES: [&str; 2] = ["@cloudbase/js-sdk@3.7.0", "jsdom@29.1.1"];

/// Installs the packages once into the cache; gives the directory that has `node_modules`.
fn packages() -> PathBuf {
    let cache = test_cache().join("js-sdk");
    let stamp = cache.join("installed");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|seen| seen == wanted) {
        return cache;
    }
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join("package.json"), r#"{"private":true}"#).unwrap();
    let output = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--ignore-scripts",
        ])
        .args(PACKAGES)
        .current_dir(&cache)
        .output()
        .expect("npm is needed to test the SDK: install Node.js 20 or newer with npm");
    assert!(
        output.status.success(),
        "npm install failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(stamp, wanted).unwrap();
    cache
}

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
    let output = Command::new("node")
        .arg(script)
        .arg(packages())
        .arg(node.public.to_string())
        .output()
        .expect("Node.js is needed to test the SDK: install Node.js 20 or newer with npm");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("all well"),
        "{out}\n{err}"
    );
    node.stop();
}
