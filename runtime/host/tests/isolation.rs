//! Nothing of one invocation is there for another, however few slots they share and whatever ran in them before.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use cloudlet_data::testing::MemoryDocuments;
use cloudlet_host::FunctionSpec;
use support::{App, Node, fixture, function_spec};
use tempfile::TempDir;

/// Slots of the pool, and tasks that fight for them.
const SLOTS: u32 = 3;
/// Invocations of each task.
const ROUNDS: usize = 60;

const CLEAN: &str = "0 marks, 0 dirty words, count 0";

/// A node with few slots, and apps of the misbehaving guest and of a component with another image that does the same.
fn apps() -> (Node, [App; 2], App) {
    let node = Node::with_instances(Arc::new(TempDir::new().unwrap()), MemoryDocuments::new(), SLOTS);
    let mut variant = fixture("misbehave");
    variant.extend_from_slice(&[0, 3, 1, b'v', 1]);
    let variant = node.host.compile(&variant).unwrap();
    // A response may be there a moment before its instance is gone.
    let waits = |spec: &mut FunctionSpec| spec.limits.queue = Duration::from_secs(20);
    let mut variant = function_spec("variant", variant);
    waits(&mut variant);
    let guests = [node.app("misbehave", waits), node.app_of(vec![variant])];
    let other = node.app("hello", waits);
    (node, guests, other)
}

#[tokio::test]
async fn the_scan_finds_what_is_there() {
    let (_node, [app, _], _) = apps();
    let found = app.text("/stain-and-scan").await;
    let marks: usize = found.split(' ').next().unwrap().parse().unwrap();
    // The heap, the pages it grew by, and what is left of the stack.
    assert!(marks > ((6 << 20) + (32 << 16)) / 8, "{found}");
    assert!(found.ends_with("count 1"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_invocation_finds_anything_of_another() {
    let (node, guests, other) = apps();
    let tasks: Vec<_> = (0..SLOTS as usize)
        .map(|task| {
            let (guests, other) = (guests.clone(), other.clone());
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    // Each of them after each of the others, in the same slot and in others.
                    let guest = &guests[(round / 3 + task) % 2];
                    match (round + task) % 3 {
                        0 => assert_eq!(guest.text("/stain").await, "stained"),
                        1 => assert_eq!(guest.text("/scan").await, CLEAN),
                        _ if round % 2 == 0 => assert_eq!(guest.text("/environment").await, "0 0"),
                        _ => assert_eq!(other.text("/").await, "hello from a fresh instance\n"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(node.metric("cloudlet_host_instances", &[]), 0.0);
}

#[tokio::test]
async fn a_guest_that_was_stopped_leaves_nothing_either() {
    let (_node, [app, variant], _) = apps();
    for path in ["/panic", "/alloc", "/recurse", "/trap-after-head"] {
        assert_eq!(app.text("/stain").await, "stained");
        assert!(app.get(path).await.is_err(), "{path}");
        for _ in 0..SLOTS {
            assert_eq!(app.text("/scan").await, CLEAN, "after {path}");
            assert_eq!(variant.text("/scan").await, CLEAN, "after {path}");
        }
    }
}
