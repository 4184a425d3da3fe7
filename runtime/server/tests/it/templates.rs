//! Each template with a function goes from `new` by its own build command to an answer.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::cli::Desk;
use crate::harness::{Node, npm_packages, python_with};

/// Makes, builds and deploys an app of a template; gives what a request of `path` answers.
fn answer_of(template: &str, path: &str, installed: impl FnOnce(&Path)) -> Value {
    let desk = Desk::new(Some(Node::start()));
    desk.run(&["new", "web", "--template", template]).ok();
    installed(&desk.dir.path().join("web"));
    let built = desk.run(&["-C", "web", "build"]);
    assert_eq!(built.code, 0, "{built:?}");
    let told = desk.run(&["-C", "web", "--json", "inspect", "dist/api.wasm"]);
    if told.code == 0 {
        let told: Value = serde_json::from_str(&told.out).unwrap();
        assert_eq!(told["http"], true, "{told}");
    }
    desk.run(&["-C", "web", "deploy"]).ok();
    let node = desk.node.as_ref().unwrap();
    let reply = node.client().get(path);
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer = reply.json();
    desk.stop();
    answer
}

#[test]
fn the_template_in_javascript_answers() {
    let packages = npm_packages("componentize-js", &["@bytecodealliance/componentize-js@0.23.0"]);
    let answer = answer_of("js", "/x/y", |dir| {
        symlink(packages.join("node_modules"), dir.join("node_modules")).unwrap();
    });
    assert_eq!(answer["hello"], "/x/y");
}

#[test]
fn the_template_in_python_answers() {
    let python = python_with("componentize-py", &["componentize-py==0.25.1"]);
    let env = python.ancestors().nth(2).unwrap().to_path_buf();
    let answer = answer_of("python", "/x/y", |dir| {
        symlink(env, dir.join(".venv")).unwrap();
    });
    assert_eq!(answer["hello"], "/x/y");
}

#[test]
fn the_template_in_rust_answers() {
    let answer = answer_of("rust-http", "/api/notes", |_| {});
    assert_eq!(answer.as_array().map(Vec::len), Some(0), "{answer}");
}
