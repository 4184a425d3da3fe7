//! Components that other tools made: a Python one by componentize-py, compiled here from a few lines, knowing
//! nothing of this platform.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{App, Node, Options, PYTHON, run};

/// The version that the test was written against.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

const APP: &str = r#"
from wit_world import exports
from componentize_py_types import Ok
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = request.path_with_query() or "/"
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        stream = body.write()
        stream.blocking_write_and_flush(f"python saw {path}\n".encode())
        stream.__exit__(None, None, None)
        OutgoingBody.finish(body, None)
"#;

const WORLD: &str = "package test:foreign;\nworld proxy { include wasi:http/proxy@0.2.12; }\n";

#[test]
fn a_python_component_runs_unmodified() {
    let component = python_component();
    // An interpreter is a large component: it takes its time to compile, and memory to run.
    let node = Options::default().start();
    let app = App::new("snake")
        .component(
            "serve",
            &component,
            "limits = { memory = \"128MiB\", timeout = \"30s\", cpu = \"20s\" }",
        )
        .route("/...", &[], "serve");
    let deployed = node.deploy(&app);
    assert!(deployed.status / 100 == 2, "{deployed:?}");
    for path in ["/", "/a/b?c=d"] {
        let reply = node.client().get(path);
        assert_eq!(
            (reply.status, reply.text()),
            (200, format!("python saw {path}\n"))
        );
        assert_eq!(reply.header("content-type"), Some("text/plain"));
    }
    node.stop();
}

/// Compiles [`APP`], in a virtual environment that is made once.
fn python_component() -> Vec<u8> {
    let cache = crate::harness::test_cache();
    let env = cache.join("componentize-py");
    if !env.join("bin/componentize-py").exists() {
        run(PYTHON, Command::new("python3").args(["-m", "venv"]).arg(&env));
        run(
            PYTHON,
            Command::new(env.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE_PY]),
        );
    }
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("app.py"), APP).unwrap();
    let wit = dir.path().join("wit");
    std::fs::create_dir_all(wit.join("deps")).unwrap();
    std::fs::write(wit.join("world.wit"), WORLD).unwrap();
    for package in ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"] {
        let name = format!("wasi-{package}-0.2.12");
        copy_package(
            &crate::harness::workspace().join("wit/deps").join(&name),
            &wit.join("deps").join(&name),
        );
    }
    let component: PathBuf = dir.path().join("app.wasm");
    run(
        PYTHON,
        Command::new(env.join("bin/componentize-py"))
            .args(["-d", "wit", "-w", "proxy", "componentize", "app", "-o"])
            .arg(&component)
            .current_dir(dir.path()),
    );
    std::fs::read(&component).unwrap()
}

fn copy_package(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(from.join("package.wit"), to.join("package.wit")).unwrap();
}

#[test]
fn what_the_other_tools_make_is_named_when_it_is_no_component() {
    let node = Node::start();
    for (bytes, what) in [
        (
            b"#!/usr/bin/env python3\n".to_vec(),
            "not a WebAssembly component",
        ),
        (b"\0asm\x01\0\0\0".to_vec(), "not a WebAssembly component"),
        (
            b"\0asm\x0d\0\x01\0\xff\xff\xff".to_vec(),
            "not a WebAssembly component",
        ),
        (Vec::new(), "not a WebAssembly component"),
    ] {
        let refused = node.deploy(&App::new("odd").component("f", &bytes, ""));
        assert!(
            refused.status / 100 == 4 && refused.text().contains(what),
            "{refused:?}"
        );
    }
    node.stop();
}
