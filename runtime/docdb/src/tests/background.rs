//! What goes on beside other writes: filling indexes and removing what was dropped, also across crashes.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use cloudlet_base::SeededEntropy;

use super::stores::on_disk;
use super::*;
use crate::kv::testing::Disk;
use crate::kv::{Direction, Range};

/// Several steps' worth.
const MANY: i32 = 4500;

fn fill(docs: &Docs, count: i32) {
    insert(
        docs,
        (0..count).map(|i| doc! { "_id": i, "u": i, "tags": [i % 7, i % 3] }),
    );
}

fn unique() -> IndexSpec {
    IndexSpec {
        unique: true,
        ..index(&[("u", 1)])
    }
}

/// The rows of documents and index entries, and those that say what is to be removed.
fn rows(docs: &Docs) -> usize {
    let engine = docs.lanes.engine();
    let read = engine.read(|kv, _| {
        let mut rows = 0;
        kv.scan(
            Range::half_open(&[0], &[0xff]),
            Direction::Forward,
            &mut |key, _| {
                rows += usize::from(matches!(key[0], 2 | 3) || key.starts_with(b"\0discard"));
                ControlFlow::Continue(())
            },
        )?;
        Ok(rows)
    });
    read.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the test waits for another thread")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn indexes_are_filled_beside_other_writes() {
    let docs = memory();
    fill(&docs, MANY);
    let specs = vec![unique(), index(&[("tags", 1), ("u", -1)])];
    let built = docs.create_indexes(&ns(), specs);
    // Before, at and behind the place where the filling is: new ones, changed ones, removed ones.
    let mut replies = Vec::new();
    for i in 0..300 {
        let id = i * 15 % MANY;
        replies.push(docs.insert(
            &ns(),
            inserts([doc! { "_id": MANY + i, "u": MANY + i }]),
            Deadline::NEVER,
        ));
        let change = update_one(doc! { "_id": id }, doc! { "$set": { "u": -1 - i, "tags": i } });
        drop(docs.update(&ns(), updates(vec![change]), Deadline::NEVER));
        drop(docs.delete(&ns(), deletes(doc! { "_id": id + 1 }, false), Deadline::NEVER));
    }
    assert_eq!(built.wait().unwrap(), 2);
    assert!(
        replies
            .into_iter()
            .all(|reply| reply.wait().unwrap().errors.is_empty())
    );
    let verified = docs.verify(Deadline::NEVER).wait().unwrap();
    assert_eq!(verified.documents, (MANY + 300 - 300) as u64);
    assert_eq!(explained(&docs, query(doc! { "u": 77 })).0, ["FETCH", "IXSCAN"]);
    assert_eq!(ids(&docs, query(doc! { "u": -1 })), [0]);
}

#[test]
fn a_duplicate_met_late_undoes_the_whole_build() {
    let docs = memory();
    fill(&docs, MANY);
    insert(&docs, [doc! { "_id": MANY, "u": 0 }]);
    let before = rows(&docs);
    let error = docs
        .create_indexes(&ns(), vec![index(&[("tags", 1)]), unique()])
        .wait()
        .unwrap_err();
    assert_eq!(error.code(), Code::DuplicateKey);
    assert!(error.to_string().contains("dup key: { u: 0 }"), "{error}");
    assert_eq!(docs.list_indexes(&ns()).wait().unwrap().len(), 1);
    eventually("entries of the build are left", || rows(&docs) == before);
    docs.delete(&ns(), deletes(doc! { "_id": MANY }, false), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(docs.create_indexes(&ns(), vec![unique()]).wait().unwrap(), 1);
    docs.verify(Deadline::NEVER).wait().unwrap();
}

#[test]
fn a_build_ends_with_its_collection_and_is_waited_for_by_its_twin() {
    let docs = memory();
    fill(&docs, MANY);
    let (first, second) = (
        docs.create_indexes(&ns(), vec![unique()]),
        docs.create_indexes(&ns(), vec![unique()]),
    );
    assert_eq!((first.wait().unwrap(), second.wait().unwrap()), (1, 0));
    assert_eq!(explained(&docs, query(doc! { "u": 77 })).0, ["FETCH", "IXSCAN"]);
    let build = docs.create_indexes(&ns(), vec![index(&[("tags", 1)])]);
    assert!(docs.drop_collection(&ns()).wait().unwrap());
    // Whichever came first.
    let outcome = build.wait().map_err(|error| error.code());
    assert!(
        matches!(outcome, Ok(1) | Err(Code::IndexBuildAborted)),
        "{outcome:?}"
    );
    eventually("rows of the collection are left", || rows(&docs) == 0);
}

#[test]
fn dropping_is_done_at_once_and_its_rows_go_later() {
    let docs = memory();
    fill(&docs, MANY);
    make_index(&docs, unique());
    docs.drop_index(&ns(), "u_1").wait().unwrap();
    assert_eq!(docs.list_indexes(&ns()).wait().unwrap().len(), 1);
    eventually("entries are left", || rows(&docs) == MANY as usize);
    docs.drop_database("db").wait().unwrap();
    assert_eq!(ids(&docs, query(doc! {})), Vec::<i32>::new());
    insert(&docs, [doc! { "_id": 1 }]);
    eventually("documents are left", || rows(&docs) == 1);
}

#[test]
fn a_crash_leaves_whole_indexes_or_none_and_no_rows() {
    for seed in 0..12 {
        let disk = Disk::new(seed);
        let chance = SeededEntropy::new(seed ^ 0xb01d);
        {
            let docs = open_on(on_disk(&disk).unwrap()).unwrap();
            fill(&docs, MANY);
        }
        let (built, dropped) = {
            let docs = open_on(on_disk(&disk).unwrap()).unwrap();
            disk.crash_after((chance.next_u64() % 60) as u32);
            let built = docs
                .create_indexes(&ns(), vec![unique(), index(&[("tags", 1)])])
                .wait();
            let dropped = built
                .is_ok()
                .then(|| docs.drop_index(&ns(), "u_1").wait().is_ok());
            (built.is_ok(), dropped == Some(true))
        };
        if disk.is_crash_pending() {
            disk.crash();
        }
        let docs = open_on(on_disk(&disk).unwrap()).unwrap();
        let names: Vec<_> = docs.list_indexes(&ns()).wait().unwrap();
        let count = names.len();
        assert!(!built || count >= 2, "SEED={seed}: {count} indexes");
        assert!(!dropped || count == 2, "SEED={seed}: {count} indexes");
        let seen = docs.verify(Deadline::NEVER).wait().unwrap();
        assert_eq!(seen.documents, MANY as u64, "SEED={seed}");
        eventually("rows of nothing are left", || {
            rows(&docs) as u64 == seen.documents + seen.entries
        });
    }
}
