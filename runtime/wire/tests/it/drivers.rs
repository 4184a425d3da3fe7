//! Real drivers, unmodified, against the example server: PyMongo and the Node.js driver, each through what an
//! application does. Packages are kept in the test cache.

use std::path::Path;
use std::process::Command;

use crate::harness::{Mongod, cached, python, run};

/// The Node.js driver that the test was written against.
const NODE_PACKAGES: [&str; 1] = ["mongodb@6.20.0"];

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name)
}

#[test]
fn pymongo_works_unmodified() {
    let server = Mongod::start(&["--user", "root:se cret"]);
    let out = run(Command::new(python()).arg(script("app.py")).arg(&server.address));
    assert!(out.contains("all well"), "{out}");
    server.stop();
}

#[test]
fn the_node_driver_works_unmodified() {
    let packages = cached("wire-node", &NODE_PACKAGES.join("\n"), |dir| {
        std::fs::write(dir.join("package.json"), r#"{"private":true}"#).unwrap();
        run(Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--no-save",
                "--ignore-scripts",
            ])
            .args(NODE_PACKAGES)
            .current_dir(dir));
    });
    for args in [
        &["--user", "root:se cret"][..],
        &["--user", "root:se cret", "--replica-set", "rs0"],
    ] {
        let server = Mongod::start(args);
        let mut node = Command::new("node");
        node.arg(script("app.cjs")).arg(&packages).arg(&server.address);
        let out = run(&mut node);
        assert!(out.contains("all well"), "{out}");
        server.stop();
    }
}
