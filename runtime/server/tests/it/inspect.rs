//! `inspect`: what a component's file tells, before anything is deployed.

use serde_json::{Value, json};

use crate::cli::Desk;
use crate::harness::guest_bytes;

/// A desk with this file.
fn desk_with(file: &str, bytes: &[u8]) -> Desk {
    let desk = Desk::new(None);
    std::fs::write(desk.dir.path().join(file), bytes).unwrap();
    desk
}

#[test]
fn a_component_tells_what_it_imports_and_needs() {
    let bytes = guest_bytes("capabilities");
    let desk = desk_with("f.wasm", &bytes);
    let told: Value = serde_json::from_str(&desk.run(&["--json", "inspect", "f.wasm"]).ok()).unwrap();
    assert_eq!(
        (&told["bytes"], &told["http"], &told["call"]),
        (&json!(bytes.len()), &json!(false), &json!(true)),
        "{told}"
    );
    let import = |name: &str| {
        let imports = told["imports"].as_array().unwrap();
        let found = imports.iter().find(|import| import["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {told}")).clone()
    };
    let documents = import("cloudlet:database/documents@0.1.0");
    assert!(documents["grant"].as_str().unwrap().contains("database"));
    assert!(
        told["imports"]
            .as_array()
            .unwrap()
            .iter()
            .all(|import| import["offered"] == true)
    );
    let text = desk.run(&["inspect", "f.wasm"]).ok();
    for words in [
        "answers     calls",
        "  cloudlet:function/handler@0.1.0",
        "  cloudlet:database/documents@0.1.0  (needs grants = { database = [\"COLLECTION\"] })",
        "KiB",
        "backtraces",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn a_crash_can_be_told_with_lines_where_there_is_debug_info() {
    let of = |guest: &str| {
        let desk = desk_with("f.wasm", &guest_bytes(guest));
        let told = desk.run(&["--json", "inspect", "f.wasm"]).ok();
        let told: Value = serde_json::from_str(&told).unwrap();
        (told["names"].clone(), told["debugInfo"].clone())
    };
    assert_eq!(of("crash"), (json!(true), json!(true)));
    assert_eq!(of("hello"), (json!(false), json!(false)));
}

#[test]
fn what_can_not_be_deployed_is_told() {
    let unknown = wat::parse_str("(component (import \"wasi:gpu/compute@0.2.0\" (instance)))").unwrap();
    let text = desk_with("f.wasm", &unknown).run(&["inspect", "f.wasm"]).ok();
    assert!(text.contains("wasi:gpu/compute@0.2.0  (not offered"), "{text}");
    assert!(text.contains("answers     nothing"), "{text}");
    for (bytes, said) in [
        (wat::parse_str("(module)").unwrap(), "core module"),
        (b"#!/bin/sh\n".to_vec(), "not a WebAssembly component"),
        (
            unknown[..unknown.len() - 3].to_vec(),
            "not a WebAssembly component",
        ),
    ] {
        desk_with("f.wasm", &bytes)
            .run(&["inspect", "f.wasm"])
            .fails(&["f.wasm", said]);
    }
    desk_with("f.wasm", b"")
        .run(&["inspect", "g.wasm"])
        .fails(&["g.wasm"]);
}
