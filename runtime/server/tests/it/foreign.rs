//! Components that other tools made, knowing nothing of this platform: a Python one by componentize-py and a JavaScript one
//! by componentize-js, each made here of a few lines, in the same conversation as one in Rust. Tools and what they made are
//! kept in the test cache.

use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::harness::{
    App, NODE_JS, Node, Options, PYTHON, guest_bytes, npm_packages, python_with, run, test_cache, workspace,
};

/// What makes components of Python.
pub(crate) const COMPONENTIZE_PY: [&str; 1] = ["componentize-py==0.25.1"];
/// What makes components of JavaScript.
pub(crate) const COMPONENTIZE_JS: [&str; 1] = ["@bytecodealliance/componentize-js@0.23.0"];

/// Interpreters compute for long at their start, on a busy machine above all, and need memory.
const LIMITS: &str = "limits = { memory = \"128MiB\", timeout = \"60s\", cpu = \"20s\" }";

const PYTHON_APP: &str = r#"
from wit_world import exports
from componentize_py_types import Err, Ok
from wit_world.imports.types import Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam
from wit_world.imports.streams import StreamError_Closed

class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = request.path_with_query() or "/"
        response = OutgoingResponse(Fields.from_list([("x-path", path.encode())]))
        outgoing = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        sink = outgoing.write()
        incoming = request.consume()
        source = incoming.stream()
        while True:
            try:
                chunk = source.blocking_read(16 * 1024)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    break
                raise
            for start in range(0, len(chunk), 4096):
                sink.blocking_write_and_flush(chunk[start : start + 4096])
        sink.__exit__(None, None, None)
        source.__exit__(None, None, None)
        OutgoingBody.finish(outgoing, None)
"#;

const JAVASCRIPT_APP: &str = r#"
addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  const headers = { 'x-path': url.pathname + url.search };
  event.respondWith(new Response(event.request.body, { headers }));
});
"#;

#[test]
fn a_rust_component_holds_the_conversation() {
    converse(&guest_bytes("echo"), "");
}

#[test]
fn a_python_component_runs_unmodified() {
    let made = component("python", &[PYTHON_APP, COMPONENTIZE_PY[0]], |dir| {
        std::fs::write(dir.join("app.py"), PYTHON_APP).unwrap();
        wit(dir, "0.2.12");
        let python = python_with("componentize-py", &COMPONENTIZE_PY);
        run(
            PYTHON,
            Command::new(python.with_file_name("componentize-py"))
                .args([
                    "-d",
                    "wit",
                    "-w",
                    "proxy",
                    "componentize",
                    "app",
                    "-o",
                    "app.wasm",
                ])
                .current_dir(dir),
        );
    });
    converse(&made, LIMITS);
}

#[test]
fn a_javascript_component_runs_unmodified() {
    let made = component("javascript", &[JAVASCRIPT_APP, COMPONENTIZE_JS[0]], |dir| {
        std::fs::write(dir.join("app.js"), JAVASCRIPT_APP).unwrap();
        // The tool's own parts are of this release and don't go together with a later one.
        wit(dir, "0.2.10");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/componentize.mjs");
        run(
            NODE_JS,
            Command::new("node")
                .arg(script)
                .arg(npm_packages("componentize-js", &COMPONENTIZE_JS))
                .args(["app.js", "wit", "proxy", "app.wasm"])
                .current_dir(dir),
        );
    });
    converse(&made, LIMITS);
}

/// What every echo answers, whoever made it: its path in a header, and the body as it comes, small, none and large.
fn converse(component: &[u8], limits: &str) {
    let node = Options::default().start();
    let app = App::new("foreign")
        .component("serve", component, limits)
        .route("/...", &[], "serve");
    let deployed = node.deploy(&app);
    assert!(deployed.status / 100 == 2, "{deployed:?}");
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = node.client();
    for (method, path, body) in [
        ("POST", "/up?x=1", &b"hello"[..]),
        ("GET", "/", b""),
        ("PUT", "/a/b%20c", &large),
        ("DELETE", "/last?", b"end"),
    ] {
        let reply = client.send(method, path, &[], body);
        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
        assert!(
            reply.body == body,
            "{method} {path}: {} bytes came back",
            reply.body.len()
        );
        let seen = reply.header("x-path").unwrap();
        assert_eq!(seen.trim_end_matches('?'), path.trim_end_matches('?'));
    }
    node.stop();
}

/// What `make` makes of these parts: `app.wasm` in a directory of its own. Kept in the cache, for it takes minutes.
fn component(name: &str, parts: &[&str], make: impl FnOnce(&Path)) -> Vec<u8> {
    let hash = Sha256::digest(parts.join("\0"));
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let kept = test_cache().join(format!("{name}-{hash}.wasm"));
    if !kept.exists() {
        let dir = tempfile::TempDir::new_in(test_cache()).unwrap();
        make(dir.path());
        // Whole or not at all.
        std::fs::rename(dir.path().join("app.wasm"), &kept).unwrap();
    }
    std::fs::read(kept).unwrap()
}

/// The world of wasi:http's proxies, in `dir/wit`, with WASI as of one release.
fn wit(dir: &Path, release: &str) {
    let deps = dir.join("wit/deps");
    for package in ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"] {
        let from = workspace().join(format!("wit/deps/wasi-{package}-0.2.12/package.wit"));
        let text = std::fs::read_to_string(from).unwrap().replace("0.2.12", release);
        let to = deps.join(format!("wasi-{package}"));
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(to.join("package.wit"), text).unwrap();
    }
    let world = format!("package test:foreign;\nworld proxy {{ include wasi:http/proxy@{release}; }}\n");
    std::fs::write(dir.join("wit/world.wit"), world).unwrap();
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
