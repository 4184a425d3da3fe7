//! From bytes to a loaded app: what is refused and how it is told, and the artifact cache.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cloudlet_host::{Collected, Grants, LoadError};
use support::{Node, fixture, function_spec};
use tempfile::TempDir;

#[test]
fn refuses_what_is_not_a_component_and_says_what_it_is() {
    let node = Node::start();
    for (bytes, expected) in [
        (&b"hello"[..], "does not begin with"),
        (b"\0asm\x01\0\0\0", "core module"),
        (b"\0asm\x0d\0\x01\0garbage", "not a WebAssembly component"),
    ] {
        let error = node.host.compile(bytes).unwrap_err();
        assert!(matches!(error, LoadError::NotAComponent(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn names_each_import_that_is_not_granted_and_the_remedy() {
    let node = Node::start();
    let bare = node.function("capabilities", |spec| spec.grants = Grants::default());
    let other = node.function("calls", |spec| spec.grants = Grants::default());
    let problems = node.try_load(vec![bare, other]).err().unwrap();
    let mut texts: Vec<String> = problems.iter().map(LoadError::to_string).collect();
    texts.sort();
    assert_eq!(
        texts,
        [
            "function \"calls\" imports \"cloudlet:function/invoke@0.1.0\", which its manifest does not grant; add \
             grants = { functions = [\"FUNCTION\"] }",
            "function \"capabilities\" imports \"cloudlet:database/documents@0.1.0\", which its manifest does not \
             grant; add grants = { database = [\"COLLECTION\"] }",
            "function \"capabilities\" imports \"cloudlet:storage/objects@0.1.0\", which its manifest does not grant; \
             add grants = { storage = [\"PREFIX/\"] }",
        ]
    );
}

#[test]
fn names_imports_that_nobody_offers_and_missing_handlers() {
    let node = Node::start();
    // (component (import "acme:clouds/rain@1.0.0" (instance)) (import "wasi:http/types@0.3.0" (instance)))
    let unknown = component_importing(&["acme:clouds/rain@1.0.0", "wasi:http/types@0.3.0"]);
    let component = node.host.compile(&unknown).unwrap();
    let problems = node
        .try_load(vec![function_spec("odd", component)])
        .err()
        .unwrap();
    let texts: Vec<String> = problems.iter().map(LoadError::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts
            .iter()
            .any(|text| text.contains("\"acme:clouds/rain@1.0.0\"")),
        "{texts:?}"
    );

    let empty = node.host.compile(&component_importing(&[])).unwrap();
    let problems = node.try_load(vec![function_spec("empty", empty)]).err().unwrap();
    assert!(
        matches!(&problems[..], [LoadError::NoHandler(name)] if name == "empty"),
        "{problems:?}"
    );
}

#[test]
fn refuses_memory_over_the_limit_and_components_that_were_not_compiled() {
    let node = Node::start();
    let small = node.function("hello", |spec| spec.limits.memory_bytes_max = 1 << 20);
    let problems = node.try_load(vec![small]).err().unwrap();
    assert!(
        matches!(problems[..], [LoadError::TooMuchMemory { .. }]),
        "{problems:?}"
    );

    let missing = function_spec("missing", cloudlet_base::ContentHash::from_bytes([7; 32]));
    let problems = node.try_load(vec![missing]).err().unwrap();
    assert!(
        matches!(problems[..], [LoadError::NotCompiled(_)]),
        "{problems:?}"
    );
}

#[tokio::test]
async fn reuses_artifacts_across_restarts_and_compiles_damaged_ones_again() {
    let dir = Arc::new(TempDir::new().unwrap());
    let hello = fixture("hello");
    let compiles = |node: &Node| node.metric("cloudlet_host_compile_seconds", &[]);

    let first = Node::start_in(Arc::clone(&dir));
    let hash = first.host.compile(&hello).unwrap();
    assert_eq!(first.host.compile(&hello).unwrap(), hash);
    assert_eq!(compiles(&first), 1.0);

    let second = Node::start_in(Arc::clone(&dir));
    second.host.compile(&hello).unwrap();
    assert_eq!(compiles(&second), 0.0);

    let artifact = fs::read_dir(dir.path().join("artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .unwrap();
    let whole = fs::read(&artifact).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], b""] {
        // A fresh file each time: the mapping of a loaded artifact must not change under it.
        fs::remove_file(&artifact).unwrap();
        fs::write(&artifact, damaged).unwrap();
        let node = Node::start_in(Arc::clone(&dir));
        let problems = node.try_load(vec![function_spec("hello", hash)]).err().unwrap();
        assert!(
            matches!(problems[..], [LoadError::NotCompiled(_)]),
            "{problems:?}"
        );
        let app = node.app("hello", |_| {});
        assert_eq!(compiles(&node), 1.0);
        assert_eq!(app.text("/").await, "hello from a fresh instance\n");
    }
}

/// A component that imports empty instances under these names and does nothing, byte by byte.
fn component_importing(names: &[&str]) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for (i, name) in names.iter().enumerate() {
        // Type section: one instance type without declarations.
        bytes.extend([0x07, 3, 1, 0x42, 0]);
        // Import section: one external name, an instance of that type.
        let mut body = vec![1, 0, name.len() as u8];
        body.extend(name.as_bytes());
        body.extend([0x05, i as u8]);
        bytes.extend([0x0a, body.len() as u8]);
        bytes.extend(body);
    }
    bytes
}

#[tokio::test]
async fn unused_artifacts_go_and_what_runs_goes_on() {
    let dir = Arc::new(TempDir::new().unwrap());
    let node = Node::start_in(Arc::clone(&dir));
    let (hello, echo) = (fixture("hello"), fixture("echo"));
    let (used, unused) = (
        node.host.compile(&hello).unwrap(),
        node.host.compile(&echo).unwrap(),
    );
    let artifacts = dir.path().join("artifacts");
    // Left by an interrupted write, by another engine, and by somebody else.
    fs::write(artifacts.join("temp-1-1"), b"half").unwrap();
    fs::write(artifacts.join(format!("{used}-0123456789abcdef.cwasm")), b"old").unwrap();
    fs::write(artifacts.join("README"), b"not ours").unwrap();
    let files = || fs::read_dir(&artifacts).unwrap().count();
    assert_eq!(files(), 7);

    let keep = HashSet::from([used]);
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(node.host.collect(&keep, day).unwrap(), Collected::default());
    let running = node.try_load(vec![function_spec("echo", unused)]).ok().unwrap();
    assert_eq!(node.host.collect(&keep, Duration::ZERO).unwrap().artifacts, 2);
    assert_eq!(files(), 3);
    assert_eq!(
        node.host.collect(&keep, Duration::ZERO).unwrap(),
        Collected::default()
    );

    // A component that runs is shared with another deployment, artifact or not.
    let again = node.try_load(vec![function_spec("echo", unused)]).ok().unwrap();
    drop((running, again));
    let gone = node.try_load(vec![function_spec("echo", unused)]).err().unwrap();
    assert!(matches!(gone[..], [LoadError::NotCompiled(_)]), "{gone:?}");
    assert!(node.try_load(vec![function_spec("hello", used)]).is_ok());
}
