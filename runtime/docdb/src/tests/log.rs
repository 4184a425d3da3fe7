//! The store's log: whatever the disk does, what was acknowledged is there and what was not is there whole or not at
//! all; and a log that is missing, damaged or not this database's is refused rather than passed over.

use std::collections::BTreeMap;

use cloudlet_base::SeededEntropy;
use redb::ReadableDatabase as _;

use super::stores::{on_disk, options};
use super::*;
use crate::kv::testing::{Disk, make_older_log};
use crate::kv::{Direction, Kv, KvRead, Part, Range, RedbKv, RedbOptions, log_path};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn rows_of(store: &dyn KvRead) -> Result<Rows> {
    let mut rows = Rows::new();
    let everything = Range {
        from: std::ops::Bound::Unbounded,
        to: std::ops::Bound::Unbounded,
    };
    store.scan(everything, Direction::Forward, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(rows)
}

fn rows(store: &dyn Kv) -> Result<Rows> {
    let mut rows = Rows::new();
    store.read(&mut |store| {
        rows = rows_of(store)?;
        Ok(())
    })?;
    Ok(rows)
}

/// Sets `count` rows to `value` in one transaction.
fn put(store: &dyn Kv, count: u8, value: &[u8]) -> Result<()> {
    store.write(&mut |store| (0..count).try_for_each(|key| store.put(&[key], value)))
}

/// A store whose power failed after `commits` commits that the log has.
fn crashed(commits: u8) -> Disk {
    let disk = Disk::new(1);
    let store = on_disk(&disk).unwrap();
    for commit in 0..=commits {
        put(&*store, 3, &[commit; 40]).unwrap();
    }
    disk.crash();
    disk
}

/// Why a store is refused.
fn refusal(disk: &Disk) -> String {
    let error = on_disk(disk).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), Code::UnsupportedFormat, "{error}");
    error.to_string()
}

/// One history of transactions of all sizes, with a power failure, a failed fsync or a full disk now and then.
fn simulate(seed: u64) -> Result<(), String> {
    let disk = Disk::new(seed);
    let chance = SeededEntropy::new(seed ^ 0x10c);
    let next = |below: u64| chance.next_u64() % below;
    let mut model = Rows::new();
    for _ in 0..4 {
        // What ended without an answer, since the store was last looked at.
        let mut maybe: Option<Rows> = None;
        let store = on_disk(&disk).map_err(|error| format!("open: {error}"))?;
        settle(&rows(&*store), &mut model, &mut maybe)?;
        for round in 0..next(60) {
            match next(30) {
                0 => disk.fail_sync_after(next(4) as u32),
                1 => disk.limit(Some(disk.used_bytes() + next(8) * 4096)),
                2 | 3 => disk.limit(None),
                // A checkpoint at another moment than when a commit needs it. It may fail like anything else.
                5..12 => drop(store.tend()),
                4 if !disk.is_crash_pending() => disk.crash_after(next(40) as u32),
                _ => {}
            }
            let mut after = model.clone();
            let (count, bytes) = match next(12) {
                0 => (1 + next(60), 1 + next(1500)),
                1 | 2 => (1 + next(40), 1 + next(300)),
                _ => (1 + next(4), next(120)),
            };
            let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..count)
                .map(|_| {
                    let key = format!("{}", next(200)).into_bytes();
                    let value = vec![round as u8; bytes as usize];
                    (key, (next(4) > 0).then_some(value))
                })
                .collect();
            for (key, value) in &changes {
                match value {
                    Some(value) => after.insert(key.clone(), value.clone()),
                    None => after.remove(key),
                };
            }
            let snapshot = (next(5) == 0).then(|| store.snapshot().ok()).flatten();
            let outcome = store.write(&mut |store| {
                changes.iter().try_for_each(|(key, value)| match value {
                    Some(value) => store.put(key, value),
                    None => store.delete(key),
                })
            });
            if let Some(snapshot) = snapshot
                && let Ok(then) = rows_of(&*snapshot)
                && then != model
            {
                return Err(format!("round {round}: a snapshot changed while it was held"));
            }
            match outcome {
                Ok(()) => model = after,
                Err(_) => maybe = Some(after),
            }
            // A store that can't be read now is looked at when the power is back.
            let found = rows(&*store);
            if found.is_ok() {
                settle(&found, &mut model, &mut maybe).map_err(|error| format!("round {round}: {error}"))?;
            } else if maybe.is_some() {
                break;
            }
        }
        disk.limit(None);
        if next(2) == 0 {
            disk.crash();
        }
        let dead = disk.is_crash_pending();
        drop(store);
        if dead && disk.is_crash_pending() {
            disk.crash();
        }
        let store = on_disk(&disk).map_err(|error| format!("open again: {error}"))?;
        settle(&rows(&*store), &mut model, &mut maybe)?;
    }
    Ok(())
}

/// Compares what is there with what should be, and learns of an unanswered transaction whether it is there.
fn settle(found: &Result<Rows>, model: &mut Rows, maybe: &mut Option<Rows>) -> Result<(), String> {
    let found = found.as_ref().map_err(|error| format!("read: {error}"))?;
    if let Some(maybe) = maybe.take()
        && *found == maybe
    {
        *model = maybe;
    }
    if found == model {
        return Ok(());
    }
    let differing = |(key, value): &(&Vec<u8>, &Vec<u8>)| model.get(*key) != Some(*value);
    Err(format!(
        "{} rows are there and should be {}; {} differ",
        found.len(),
        model.len(),
        found.iter().filter(differing).count()
    ))
}

#[test]
fn acknowledged_commits_survive_whatever_the_disk_does() {
    for seed in 0..300 {
        if let Err(what) = simulate(seed) {
            panic!("SEED={seed}: {what}");
        }
    }
}

#[test]
fn a_log_that_is_missing_or_anothers_is_refused() {
    let disk = crashed(3);
    assert_eq!(rows(&*on_disk(&disk.copy()).unwrap()).unwrap()[&vec![2]], [3; 40]);
    let without = disk.copy();
    without.remove_log();
    let told = refusal(&without);
    assert!(told.contains("its log is not beside it"), "{told}");
    // Of another database: same name, another id.
    let other = Disk::new(2);
    let mut theirs = options();
    theirs.log_id = *b"another log's id";
    let store = RedbKv::with_opener(other.opener(), theirs).unwrap();
    put(&store, 3, b"theirs").unwrap();
    put(&store, 3, b"theirs too").unwrap();
    other.crash();
    drop(store);
    let mut bytes = Vec::new();
    other.edit(Part::Log, |log| bytes.clone_from(log));
    let with_anothers = disk.copy();
    with_anothers.edit(Part::Log, |log| log.clone_from(&bytes));
    let told = refusal(&with_anothers);
    assert!(told.contains("that of another database"), "{told}");
    // Beside a database that needs none, it still has commits that would be written over.
    let closed = Disk::new(3);
    put(&*on_disk(&closed).unwrap(), 3, b"ours").unwrap();
    closed.opener()(Part::NewLog).unwrap();
    closed.edit(Part::Log, |log| log.clone_from(&bytes));
    let told = refusal(&closed);
    assert!(told.contains("it does not know"), "{told}");
    closed.edit(Part::Log, |log| {
        *log = b"somebody's notes, kept under this name by chance, and long enough".to_vec()
    });
    let told = refusal(&closed);
    assert!(told.contains("no log of cloudlet"), "{told}");
    closed.remove_log();
    assert_eq!(rows(&*on_disk(&closed).unwrap()).unwrap().len(), 3);
}

#[test]
fn a_log_of_a_newer_version_is_refused() {
    let disk = crashed(3);
    disk.edit(Part::Log, |log| log[16] = 3);
    let told = refusal(&disk);
    assert!(told.contains("its log is of version 3"), "{told}");
}

/// What a program left that knew logs of one part.
#[test]
fn a_log_of_version_1_is_brought_in_and_replaced() {
    for log_bytes in [options().log_bytes, 64 << 10] {
        let disk = crashed(5);
        disk.edit(Part::Log, |log| make_older_log(log, options().log_id));
        let open = || {
            let options = RedbOptions {
                log_bytes,
                ..options()
            };
            RedbKv::with_opener(disk.opener(), options).unwrap()
        };
        let version = || {
            let mut version = 0;
            disk.edit(Part::Log, |log| version = log[16]);
            version
        };
        let store = open();
        assert_eq!(rows(&store).unwrap()[&vec![2]], [5; 40]);
        assert_eq!(version(), 1);
        // It was brought in: nothing is lost if the power fails before anything is written.
        disk.crash();
        drop(store);
        let store = open();
        assert_eq!(rows(&store).unwrap()[&vec![2]], [5; 40]);
        put(&store, 2, b"newer").unwrap();
        assert_eq!(version(), 2);
        disk.crash();
        drop(store);
        let found = rows(&open()).unwrap();
        assert_eq!(
            (&found[&vec![1]][..], &found[&vec![2]][..]),
            (&b"newer"[..], &[5; 40][..])
        );
    }
}

/// While half of the log waits for its checkpoint, commits go on in the other half, and who reads sees all of them.
#[test]
fn a_checkpoint_comes_beside_commits() {
    let disk = Disk::new(1);
    let store = on_disk(&disk).unwrap();
    let mut commits = 0;
    let mut put_until = |due: bool| {
        while store.is_due() != due {
            commits += 1;
            put(&*store, 20, &[commits; 40]).unwrap();
        }
        commits
    };
    put_until(true);
    let snapshot = store.snapshot().unwrap();
    let then = rows_of(&*snapshot).unwrap();
    put(&*store, 1, b"one more").unwrap();
    let now = rows(&*store).unwrap();
    store.tend().unwrap();
    assert!(!store.is_due());
    assert_eq!(rows(&*store).unwrap(), now);
    assert_eq!(rows_of(&*snapshot).unwrap(), then);
    // Both halves and the table have something now.
    let last = put_until(true);
    disk.crash();
    drop(store);
    let store = on_disk(&disk).unwrap();
    assert!(store.is_due(), "the half is there again");
    assert_eq!(rows(&*store).unwrap()[&vec![19]], [last; 40]);
    store.tend().unwrap();
    assert_eq!(rows(&*store).unwrap()[&vec![19]], [last; 40]);
    disk.crash();
    drop(store);
    assert_eq!(rows(&*on_disk(&disk).unwrap()).unwrap()[&vec![19]], [last; 40]);
}

/// A checkpoint that fails takes nothing with it, neither what it was to bring nor what was committed meanwhile.
#[test]
fn a_checkpoint_that_fails_loses_nothing() {
    for sync in 0.. {
        let disk = Disk::new(u64::from(sync));
        let store = on_disk(&disk).unwrap();
        for commit in 0.. {
            put(&*store, 20, &[commit; 40]).unwrap();
            if store.is_due() {
                break;
            }
        }
        let before = rows(&*store).unwrap();
        disk.fail_sync_after(sync);
        if store.tend().is_ok() {
            assert!(sync > 0, "it has something to sync");
            return;
        }
        assert_eq!(rows(&*store).unwrap(), before, "sync {sync}");
        put(&*store, 3, b"after").unwrap();
        let after = rows(&*store).unwrap();
        assert_eq!(after.len(), before.len());
        disk.crash();
        drop(store);
        assert_eq!(rows(&*on_disk(&disk).unwrap()).unwrap(), after, "sync {sync}");
    }
}

#[test]
fn a_database_file_of_another_time_than_its_log_is_refused() {
    let disk = crashed(1);
    let earlier = disk.copy();
    let store = on_disk(&disk).unwrap();
    // So many that the log starts over.
    for commit in 0..200 {
        put(&*store, 20, &[commit; 40]).unwrap();
    }
    disk.crash();
    drop(store);
    let mut bytes = Vec::new();
    earlier.edit(Part::Database, |file| bytes.clone_from(file));
    disk.edit(Part::Database, |file| file.clone_from(&bytes));
    let told = refusal(&disk);
    assert!(told.contains("of another time"), "{told}");
}

/// The last record may be torn; of one that others follow, somebody was told that it is durable.
#[test]
fn a_damaged_record_is_told_apart_from_a_torn_tail() {
    const RECORDS_AT: usize = 4096;
    let disk = crashed(5);
    let mut whole = Vec::new();
    disk.edit(Part::Log, |log| whole.clone_from(log));
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let record = (used - RECORDS_AT).next_multiple_of(8) / 5;
    for at in (RECORDS_AT..used).step_by(5) {
        let damaged = disk.copy();
        damaged.edit(Part::Log, |log| log[at] ^= 0x20);
        let which = (at - RECORDS_AT) / record;
        if which < 4 {
            let told = refusal(&damaged);
            assert!(
                told.contains(&format!("not the record {}", which + 1)),
                "{at}: {told}"
            );
        } else {
            let found = rows(&*on_disk(&damaged).unwrap()).unwrap();
            assert_eq!(found[&vec![0]], [4; 40], "byte {at}");
        }
    }
    // Cut off anywhere, it has the records before. They end with some zeroes, which are not missed.
    let zeroes = RECORDS_AT + record * 5 - used;
    for to in (RECORDS_AT..used).step_by(7) {
        let torn = disk.copy();
        torn.edit(Part::Log, |log| log[to..].fill(0));
        let found = rows(&*on_disk(&torn).unwrap()).unwrap();
        let which = ((to + zeroes - RECORDS_AT) / record) as u8;
        assert_eq!(found[&vec![0]], [which; 40], "cut at {to}");
    }
}

/// Rows may have the bytes of records in them: of older ones, and of newer ones that nobody wrote.
#[test]
fn bytes_of_records_in_rows_pass_for_none() {
    let disk = crashed(5);
    let mut log = Vec::new();
    disk.edit(Part::Log, |bytes| log.clone_from(bytes));
    let store = on_disk(&disk).unwrap();
    let expected = log[4096..8192].to_vec();
    store.write(&mut |store| store.put(b"copy", &expected)).unwrap();
    disk.crash();
    drop(store);
    let store = on_disk(&disk).unwrap();
    assert_eq!(rows(&*store).unwrap()[&b"copy".to_vec()], expected);
}

/// After a commit that failed, whether it is there is settled once: it neither comes nor goes later.
#[test]
fn an_fsync_that_fails_costs_its_commit_only() {
    for round in 0..40 {
        let disk = Disk::new(round);
        let store = on_disk(&disk).unwrap();
        put(&*store, 3, b"before").unwrap();
        put(&*store, 3, b"before too").unwrap();
        disk.fail_sync_after(0);
        let error = put(&*store, 3, b"failed").unwrap_err();
        assert_eq!(error.code(), Code::OutOfDiskSpace);
        let found = rows(&*store).unwrap();
        let more = round % 3;
        for _ in 0..more {
            store.write(&mut |store| store.put(b"more", b"more")).unwrap();
        }
        disk.crash();
        drop(store);
        let mut later = rows(&*on_disk(&disk).unwrap()).unwrap();
        assert_eq!(later.remove(b"more".as_slice()).is_some(), more > 0);
        assert_eq!(later, found, "round {round}");
    }
}

#[test]
fn a_database_that_was_closed_is_whole_without_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = RedbKv::open(&path, options()).unwrap();
    for value in [b"a", b"b", b"c"] {
        put(&store, 3, value).unwrap();
    }
    assert!(log_path(&path).exists());
    drop(store);
    std::fs::remove_file(log_path(&path)).unwrap();
    let store = RedbKv::open_existing(&path, options()).unwrap();
    assert_eq!(rows(&store).unwrap()[&vec![1]], b"c");
    assert!(!log_path(&path).exists(), "reading makes no log");
    put(&store, 3, b"d").unwrap();
    drop(store);
    let store = RedbKv::open(&path, options()).unwrap();
    assert_eq!(rows(&store).unwrap()[&vec![1]], b"d");
}

#[test]
fn a_database_from_before_logs_gets_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let database = redb::Database::create(&path).unwrap();
    let writing = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("cloudlet");
    writing
        .open_table(table)
        .unwrap()
        .insert(&b"a"[..], &b"1"[..])
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    let store = RedbKv::open(&path, options()).unwrap();
    // The first write goes past the log, so that it can say to older programs that there is one.
    store.write(&mut |store| store.put(b"b", b"2")).unwrap();
    assert!(!log_path(&path).exists());
    store.write(&mut |store| store.put(b"c", b"3")).unwrap();
    assert!(log_path(&path).exists());
    drop(store);
    let store = RedbKv::open(&path, options()).unwrap();
    assert_eq!(rows(&store).unwrap().len(), 3);
    drop(store);
    let database = redb::Database::open(&path).unwrap();
    let table = database.begin_read().unwrap().open_table(table).unwrap();
    assert_eq!(table.get(&b"b"[..]).unwrap().unwrap().value(), b"2");
}
