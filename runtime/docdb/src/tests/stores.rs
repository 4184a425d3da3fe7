//! The stores behind `Kv`: redb and memory answer alike, and a store that conflicts and fails changes nothing it
//! should not.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use cloudlet_base::SeededEntropy;
use prometheus::IntCounter;

use super::feed::{history, replay};
use super::*;
use crate::kv::testing::{Disk, Mirror, Shaky};
use crate::kv::{Direction, KvRead, MemKv, Range, RedbKv, RedbOptions};

pub(super) fn options() -> RedbOptions {
    let uncounted = || IntCounter::new("uncounted", "Test.").unwrap();
    RedbOptions {
        cache_bytes: 1 << 20,
        log_bytes: 32 << 10,
        log_id: *b"a log for a test",
        fsyncs: uncounted(),
        waits: uncounted(),
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
                .read(&mut |store| {
                    get_all(store)?;
                    scan_some(store, &[], &[255], 0)
                })
                .unwrap();
        }
    }
}

/// Gets each key that there may be so often that it is kept, and once more; the mirror compares.
fn get_all(store: &dyn KvRead) -> Result<()> {
    for key in (0..16).flat_map(|a| (0..3).map(move |b| [a, b])) {
        for _ in 0..3 {
            store.get(&key, &mut |_| {})?;
        }
    }
    Ok(())
}

/// Rows that are kept in memory from one read to the next must go in time, and not too early: a reader beside a
/// writer sees both rows of one commit, and never goes back.
#[test]
fn a_reader_beside_commits_sees_rows_of_one_state() {
    const COMMITS: u64 = 1000;
    const KEYS: [&[u8]; 2] = [b"a", b"b"];
    let kv = on_disk(&Disk::new(1)).unwrap();
    let write =
        |n: u64| kv.write(&mut |store| KEYS.iter().try_for_each(|key| store.put(key, &n.to_be_bytes())));
    let read = |store: &dyn KvRead| {
        KEYS.map(|key| {
            let mut found = None;
            store
                .get(key, &mut |value| found = value.try_into().ok())
                .unwrap();
            u64::from_be_bytes(found.unwrap())
        })
    };
    write(0).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..=COMMITS).for_each(|n| write(n).unwrap());
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                kv.tend().unwrap();
                std::thread::yield_now();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                loop {
                    let was_done = done.load(Ordering::Acquire);
                    let snapshot = kv.snapshot().unwrap();
                    let before = read(&*snapshot);
                    kv.read(&mut |store| {
                        let [a, b] = read(store);
                        assert_eq!(a, b);
                        assert!(before[0] >= last && a >= before[0]);
                        last = a;
                        Ok(())
                    })
                    .unwrap();
                    assert_eq!(before[0], before[1]);
                    assert_eq!(read(&*snapshot), before);
                    if was_done {
                        break assert_eq!(last, COMMITS);
                    }
                }
            });
        }
    });
}

/// Scans both ways, some of it or all; the mirror compares.
fn scan_some(store: &(impl KvRead + ?Sized), low: &[u8], high: &[u8], most: u8) -> Result<()> {
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
