//! Gives a fuzz target its seeds and changes of them in an ordinary test run, the same ones each time: no fuzzer is
//! needed. For the targets of every crate above this one, too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use cloudlet_base::{Entropy as _, SeededEntropy};

/// Changed inputs for each seed.
const CHANGED_PER_SEED: usize = 1000;
/// Changes to one input, at most one more than this.
const CHANGES_MAX: usize = 4;

/// Numbers that look random.
#[derive(Debug)]
pub struct Dice(SeededEntropy);

impl Dice {
    /// A number below `bound`; 0 for the bound 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % bound.max(1) as u64) as usize
    }

    /// How many changes the next input gets.
    pub fn changes(&mut self) -> usize {
        self.below(CHANGES_MAX) + 1
    }

    /// One change: a byte that is another (maybe one of `telling`), or some that are gone or there again.
    pub fn change_bytes(&mut self, mut input: Vec<u8>, telling: &[u8]) -> Vec<u8> {
        let at = self.below(input.len());
        let end = (at + self.below(9)).min(input.len());
        match self.below(4) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = telling[self.below(telling.len())],
            2 => drop(input.drain(at..end)),
            _ => {
                let again = input[at..end].to_vec();
                drop(input.splice(at..at, again));
            }
        }
        input
    }
}

/// Runs a target on each of its seeds in `runtime/fuzz/seeds/NAME`, and on a thousand that `change` makes of each.
///
/// # Panics
/// When the target does, telling the input; and when there are no seeds.
pub fn replay(name: &str, target: fn(&[u8]), change: impl FnMut(&mut Dice, &[u8]) -> Vec<u8>) {
    replay_of(name, &seeds(name), CHANGED_PER_SEED, target, change);
}

/// The same with seeds of the caller's and so many changes of each.
///
/// # Panics
/// As [`replay`].
pub fn replay_of(
    name: &str,
    seeds: &[Vec<u8>],
    changed: usize,
    mut target: impl FnMut(&[u8]),
    mut change: impl FnMut(&mut Dice, &[u8]) -> Vec<u8>,
) {
    assert!(!seeds.is_empty(), "the target {name} has no seeds");
    let mut dice = Dice(SeededEntropy::new(1));
    for seed in seeds {
        run(name, &mut target, seed);
        for _ in 0..changed {
            run(name, &mut target, &change(&mut dice, seed));
        }
    }
}

fn run(name: &str, target: &mut impl FnMut(&[u8]), input: &[u8]) {
    // The target is not called again after a panic.
    let survived = catch_unwind(AssertUnwindSafe(|| target(input)));
    if survived.is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target {name} fails with the bytes {hex}");
    }
}

/// The seeds of a target, in the order of their names: a directory's differs from machine to machine.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../fuzz/seeds", name]
        .iter()
        .collect();
    let read = || -> std::io::Result<Vec<Vec<u8>>> {
        let files = std::fs::read_dir(&dir)?.map(|file| Ok(file?.path()));
        let mut files: Vec<PathBuf> = files.collect::<std::io::Result<_>>()?;
        files.sort();
        files.iter().map(std::fs::read).collect()
    };
    read().unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}
