//! The stores behind `Kv`: redb and memory answer alike, and a store that conflicts and fails changes nothing it
//! should not.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use cloudlet_base::SeededEntropy;
use prometheus::IntCounter;

use super::feed::{history, replay};
use super::*;
use crate::kv::testing::{Disk, Mirror, Shaky};
use crate::kv::{Direction, MemKv, Range, RedbKv, RedbOptions};

pub(super) fn options() -> RedbOptions {
    let fsyncs = IntCounter::new("fsyncs", "Test.").unwrap();
    RedbOptions {
        cache_bytes: 1 << 20,
        quick_repair: false,
        fsyncs,
    }
}

pub(super) fn on_disk(disk: &Disk) -> Result<Box<dyn Kv>> {
    RedbKv::with_opener(disk.opener(), options()).map(|kv| Box::new(kv) as Box<dyn Kv>)
}

#[test]
fn redb_and_memory_agree_over_random_histories() {
    for seed in 0..30 {
        let chance = SeededEntropy::new(seed);
        let mirror = Mirror::new(on_disk(&Disk::new(seed)).unwrap(), Box::new(MemKv::new()));
        for _ in 0..20 {
            let steps: Vec<[u8; 8]> = (0..20).map(|_| chance.next_u64().to_le_bytes()).collect();
            let fails = chance.next_u64().is_multiple_of(4);
            let _ = mirror.write(&mut |store| {
                for [what, a, b, value, ..] in &steps {
                    let (low, high) = ([a % 16], [b % 16, b % 3]);
                    match what % 4 {
                        0 | 1 => store.put(&high, &[*value])?,
                        2 => store.delete(&high)?,
                        _ => scan_some(store, &low, &high, *value)?,
                    }
                }
                if fails {
                    Err(Error::new(Code::BadValue, "on purpose"))
                } else {
                    Ok(())
                }
            });
            mirror
                .read(&mut |store| scan_some(store, &[], &[255], 0))
                .unwrap();
        }
    }
}

/// Scans both ways, some of it or all; the mirror compares.
fn scan_some(store: &(impl crate::kv::KvRead + ?Sized), low: &[u8], high: &[u8], most: u8) -> Result<()> {
    for direction in [Direction::Forward, Direction::Backward] {
        let mut left = most % 8;
        store.scan(Range::half_open(low, high), direction, &mut |_, _| {
            left = left.wrapping_sub(1);
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
    }
    store.get(high, &mut |_| {}).map(drop)
}

#[test]
fn a_store_that_conflicts_and_fails_leaves_indexes_whole() {
    for seed in 0..20 {
        let Ok(docs) = open_on(Box::new(Shaky::new(Box::new(MemKv::new()), seed))) else {
            continue;
        };
        let spec = IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        };
        let _ = docs
            .create_indexes(&ns(), vec![spec, index(&[("tags", -1)])])
            .wait();
        let mut certain = Vec::new();
        for i in 0..60 {
            let document = doc! { "_id": i, "u": i, "tags": [i % 5, i % 7] };
            match docs.insert(&ns(), inserts([document]), Deadline::NEVER).wait() {
                Ok(done) => {
                    assert!(done.errors.is_empty());
                    certain.push(i);
                }
                Err(error) => assert_eq!(error.code(), Code::OutOfDiskSpace),
            }
        }
        let found = ids(&docs, query(doc! {}));
        assert!(certain.iter().all(|id| found.contains(id)));
        let verified = docs.verify(Deadline::NEVER).wait().unwrap();
        assert_eq!(verified.documents, found.len() as u64);
        let events = history(&docs, WatchScope::Deployment).unwrap();
        assert_eq!(events.len(), found.len());
        let others = verified.events - found.len() as u64;
        assert!(others <= 2, "the collection and its indexes are told of once");
        let mut model = BTreeMap::new();
        events.iter().for_each(|event| replay(&mut model, event));
        assert!(model.keys().eq(found.iter()), "the log is the history");
    }
}
