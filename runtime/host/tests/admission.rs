//! What says that it is a component and is not, or is another than it seems: refused with a reason, or admitted; never
//! a panic, and never more work than a component of its size may make.

use cloudlet_docdb::testing::replay::{Dice, replay_of};
use cloudlet_host::LoadError;

mod support;

use support::{Node, fixture};

/// Changed components that are tried: one that is still valid is compiled, which takes a while.
const CHANGED: usize = 150;

/// Bytes that are others, gone or there again; most often where sections begin and say how long they are.
fn change(dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
    let (head, rest) = seed.split_at(if dice.below(3) == 0 {
        seed.len()
    } else {
        512.min(seed.len())
    });
    let mut head = head.to_vec();
    for _ in 0..dice.changes() {
        head = dice.change_bytes(head, &[0, 1, 0x0a, 0x0d, 0x7f, 0x80, 0xff]);
    }
    [&head, rest].concat()
}

#[test]
fn changed_components_are_admitted_or_refused() {
    let node = Node::start();
    let (mut admitted, mut refused) = (0, 0);
    let admission = |component: &[u8]| match node.host.compile(component) {
        Ok(_) => admitted += 1,
        Err(LoadError::NotAComponent(why)) => {
            assert!(!why.is_empty(), "refused without a reason");
            refused += 1;
        }
        Err(other) => panic!("{other}"),
    };
    replay_of("admission", &[fixture("hello")], CHANGED, admission, change);
    assert!(
        admitted > 0 && refused > CHANGED / 3,
        "{admitted} admitted, {refused} refused"
    );
}
