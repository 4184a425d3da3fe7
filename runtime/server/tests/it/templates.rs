//! Each template goes from `new` by its own build command to an answer. What its build command would install is taken
//! from the test cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::cli::{Desk, command};
use crate::foreign::{COMPONENTIZE_JS, COMPONENTIZE_PY};
use crate::harness::{Node, npm_packages, python_with, test_cache, workspace};
use crate::http::Response;

/// Makes, builds and deploys the app `web` of a template. `prepare` puts what is installed into its directory.
fn deployed(template: &str, prepare: impl FnOnce(&Path)) -> Desk {
    let desk = Desk::new(Some(Node::start()));
    desk.run(&["new", "web", "--template", template]).ok();
    prepare(&desk.dir.path().join("web"));
    desk.run(&["-C", "web", "build"]).ok();
    desk.run(&["-C", "web", "deploy"]).ok();
    desk
}

fn get(desk: &Desk, path: &str) -> Response {
    let reply = desk.node.as_ref().unwrap().client().get(path);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

/// What an interpreter's template answers and says, and what `inspect` tells of it.
fn check_interpreted(desk: Desk, said: &str) {
    let answer = get(&desk, "/x/y").json();
    assert_eq!(
        (&answer["hello"], &answer["method"]),
        (&"/x/y".into(), &"GET".into())
    );
    let told: Value = serde_json::from_str(
        &desk
            .run(&["-C", "web", "--json", "inspect", "dist/api.wasm"])
            .ok(),
    )
    .unwrap();
    assert_eq!(told["http"], true, "{told}");
    assert!(desk.run(&["-C", "web", "logs"]).ok().contains(said));
    desk.stop();
}

#[test]
fn the_template_in_javascript_answers() {
    let packages = npm_packages("componentize-js", &COMPONENTIZE_JS);
    let desk = deployed("js", |dir| {
        let text = fs::read_to_string(dir.join("package.json")).unwrap();
        let package: Value = serde_json::from_str(&text).unwrap();
        let version = package["devDependencies"]["@bytecodealliance/componentize-js"]
            .as_str()
            .unwrap();
        assert!(COMPONENTIZE_JS[0].ends_with(&format!("@{version}")), "{package}");
        symlink(packages.join("node_modules"), dir.join("node_modules")).unwrap();
    });
    check_interpreted(desk, "asked path=\"/x/y\"");
}

#[test]
fn the_template_in_python_answers() {
    let python = python_with("componentize-py", &COMPONENTIZE_PY);
    let desk = deployed("python", |dir| {
        let wanted = fs::read_to_string(dir.join("requirements.txt")).unwrap();
        assert_eq!(wanted.trim(), COMPONENTIZE_PY[0]);
        symlink(python.ancestors().nth(2).unwrap(), dir.join(".venv")).unwrap();
    });
    check_interpreted(desk, "asked for /x/y");
}

/// Gives an app in Rust what others were built of: the same releases, compiled once.
fn with_crates(dir: &Path) {
    let target = test_cache().join("templates-target");
    fs::create_dir_all(&target).unwrap();
    symlink(target, dir.join("target")).unwrap();
    let lock = workspace().join("examples/hotel/Cargo.lock");
    fs::copy(lock, dir.join("Cargo.lock")).unwrap();
}

#[test]
fn the_templates_in_rust_answer() {
    let desk = deployed("rust-http", with_crates);
    let node = desk.node.as_ref().unwrap();
    let added = node
        .client()
        .send("POST", "/api/notes", &[], br#"{"text":"buy milk"}"#);
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(get(&desk, "/api/notes").json()[0]["text"], "buy milk");
    desk.stop();
    // After the other, for both are built in one directory.
    let desk = deployed("rust-call", with_crates);
    desk.write("in.json", r#"{"name":"Li"}"#);
    for data in [r#"{"name":"Li"}"#, "@in.json"] {
        let told = desk.run(&["-C", "web", "fn", "call", "greet", data]).ok();
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["text"], "Hello, Li!");
    }
    desk.stop();
}

#[test]
fn the_template_of_a_site_answers() {
    let desk = deployed("static", |_| {});
    assert!(get(&desk, "/").text().contains("web"));
    desk.stop();
}

#[test]
fn a_build_says_which_program_it_lacks() {
    let desk = Desk::new(None);
    let bin = desk.dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink("/bin/sh", bin.join("sh")).unwrap();
    for (template, missing) in [("js", "there is no npm"), ("python", "there is no python3")] {
        desk.run(&["new", template, "--template", template]).ok();
        let output = command(desk.dir.path(), None)
            .args(["-C", template, "build"])
            .env("PATH", &bin)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && told.contains(missing) && told.contains("function \"api\""),
            "{told}"
        );
    }
}
