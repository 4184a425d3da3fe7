//! Components that mean harm: each is refused when it is loaded, with a reason, or stopped when it runs, and the others go on.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::time::Duration;

use cloudlet_base::Fault;
use cloudlet_host::{InvokeError, LoadError, TrapReason};
use support::{App, Node, fixture, function_spec};

/// A component whose call handler is made of this core module, beside which there is a memory and an allocator that gives the
/// same place to everybody.
fn component(fields: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "cloudlet:function/types@0.1.0" (instance $types
                (type (variant (case "invalid" string) (case "denied" string) (case "not-found" string)
                    (case "failed" string) (case "busy" string) (case "deadline")))
                (export "error" (type (eq 0)))))
            (alias export $types "error" (type $error))
            (core module $m {fields}
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $i (instantiate $m))
            (type $handle (func (param "payload" (list u8)) (result (result (list u8) (error $error)))))
            (func $f (type $handle) (canon lift (core func $i "handle") (memory $i "memory")
                (realloc (func $i "realloc"))))
            (instance $h (export "handle" (func $f)))
            (export "cloudlet:function/handler@0.1.0" (instance $h)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Answers with an empty reply.
const ANSWER: &str = r#"(func (export "handle") (param i32 i32) (result i32) (i32.const 16))"#;
const MEMORY: &str = r#"(memory (export "memory") 1)"#;

fn load(node: &Node, bytes: &[u8]) -> Result<App, String> {
    let hash = node.host.compile(bytes).map_err(|error| error.to_string())?;
    let mut spec = function_spec("f", hash);
    spec.limits.cpu = Duration::from_millis(200);
    spec.limits.memory_bytes_max = 16 << 20;
    match node.try_load(vec![spec]) {
        Ok(app) => Ok(App {
            app,
            function: "f".into(),
            clock: node.clock.clone(),
        }),
        Err(problems) => Err(problems
            .iter()
            .map(LoadError::to_string)
            .collect::<Vec<_>>()
            .join("; ")),
    }
}

/// What becomes of a call.
async fn call(node: &Node, fields: &str) -> Result<String, (TrapReason, String)> {
    let app = load(node, &component(fields)).unwrap();
    let reply = app.call("").await;
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
    match reply {
        Ok(reply) => Ok(format!("{reply:?}")),
        Err(InvokeError::Trapped { reason, message, .. }) => Err((reason, message)),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_scaffold_itself_is_fine() {
    let node = Node::start();
    assert_eq!(
        call(&node, &format!("{MEMORY} {ANSWER}")).await.unwrap(),
        "Ok(b\"\")"
    );
}

#[tokio::test]
async fn start_functions_are_bound_like_everything_that_runs() {
    let node = Node::start();
    let start = |body: &str| format!("{MEMORY} {ANSWER} (func $start {body}) (start $start)");
    let spun = call(&node, &start("(loop $l (br $l))")).await.unwrap_err();
    assert_eq!(spun.0, TrapReason::CpuLimit, "{spun:?}");
    let trapped = call(&node, &start("unreachable")).await.unwrap_err();
    assert_eq!(trapped.0, TrapReason::Unreachable, "{trapped:?}");
    let deep = call(&node, &start("(call $start)")).await.unwrap_err();
    assert_eq!(deep.0, TrapReason::StackOverflow, "{deep:?}");
    // What takes all memory there is finds that there is not more.
    let greedy = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    assert!(call(&node, &start(greedy)).await.is_ok());
    let hello = node.app("hello", |_| {});
    assert_eq!(hello.text("/").await, "hello from a fresh instance\n");
}

#[tokio::test]
async fn tables_end_at_their_limit() {
    let node = Node::start();
    let grows = format!(
        r#"{MEMORY} (table $t 1 funcref)
        (func (export "handle") (param i32 i32) (result i32)
            (loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
            (if (i32.gt_u (table.size $t) (i32.const 100000)) (then unreachable))
            (i32.const 16))"#
    );
    assert_eq!(call(&node, &grows).await.unwrap(), "Ok(b\"\")");
}

#[test]
fn what_begins_too_large_is_refused_when_it_is_loaded() {
    let node = Node::start();
    let many = |what: &str, count: usize| what.repeat(count);
    let cases = [
        (format!(r#"(memory (export "memory") 4000) {ANSWER}"#), "memory"),
        (format!(r#"(memory (export "memory") 65536) {ANSWER}"#), "memory"),
        (format!("{MEMORY} (table 200000 funcref) {ANSWER}"), "table"),
        (
            format!("{MEMORY} {} {ANSWER}", many("(table 1 funcref)", 50)),
            "table",
        ),
        (
            format!("{MEMORY} {} {ANSWER}", many("(memory 1)", 50)),
            "memories",
        ),
    ];
    for (fields, word) in cases {
        let refused = load(&node, &component(&fields)).err().unwrap();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn thousands_of_imports_are_refused_by_their_number() {
    let node = Node::start();
    for (count, word) in [
        (501, "501 imports, over the limit of 500"),
        // The parser's own limit comes before ours.
        (5000, "instances count exceeds limit of 1000"),
    ] {
        let imports: String = (0..count)
            .map(|n| format!("(import \"acme:clouds/rain{n}@1.0.0\" (instance))"))
            .collect();
        let bytes = wat::parse_str(format!("(component {imports})")).unwrap();
        let refused = load(&node, &bytes).err().unwrap();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn many_instances_in_one_component_are_refused() {
    let node = Node::start();
    let instances = "(core instance (instantiate $m))".repeat(100);
    let text = format!(
        r#"(component (core module $m (memory 1)) {instances}
            (core module $n (func (export "f"))) (core instance $j (instantiate $n))
            (func $f (canon lift (core func $j "f"))) (export "f" (func $f)))"#
    );
    let refused = load(&node, &wat::parse_str(text).unwrap()).err().unwrap();
    assert!(!refused.is_empty(), "{refused}");
}

#[test]
fn a_component_over_its_size_is_refused_before_it_is_read() {
    let node = Node::start();
    let large = vec![0; 100 << 20];
    let error = node.host.compile(&large).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error:?}");
    assert_eq!(error.kind(), Fault::Limit);
}

/// A component cut off anywhere, or with any byte changed, is refused or another component, and nothing worse.
#[test]
fn malformed_components_are_refused() {
    let node = Node::start();
    let whole = component(&format!("{MEMORY} {ANSWER}"));
    for end in 0..whole.len() {
        let refused = node.host.compile(&whole[..end]);
        // Cut between two sections it is a component, which then has no handler; the names at the end nobody needs.
        if let Ok(hash) = refused {
            let loaded = node.try_load(vec![function_spec("f", hash)]);
            assert!(loaded.is_err() || whole[end] == 0, "cut at {end}");
        }
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        // Whatever it says, it says it without a panic.
        let _ = load(&node, &changed);
    }
    for (bytes, what) in [
        // A section that claims to be 4 GiB long; one with a length that never ends.
        (&b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\x0f"[..], "long section"),
        (
            b"\0asm\x0d\0\x01\0\x07\xff\xff\xff\xff\xff\xff\xff",
            "endless length",
        ),
        (b"\0asm\x0d\0\x02\0", "another version"),
        (b"\0asm\x0d\0\x01\0\x63\x00", "unknown section"),
    ] {
        let error = node.host.compile(bytes).unwrap_err();
        assert!(matches!(error, LoadError::NotAComponent(_)), "{what}: {error:?}");
    }
    assert!(node.host.compile(&fixture("hello")).is_ok());
}
