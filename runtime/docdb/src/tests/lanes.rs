//! Threads, queues and group commit.

use std::sync::mpsc;
use std::time::Duration;

use prometheus::Registry;

use super::*;

fn counter(registry: &Registry, name: &str) -> f64 {
    let family = registry
        .gather()
        .into_iter()
        .find(|family| family.name() == name)
        .unwrap();
    family
        .get_metric()
        .iter()
        .map(|metric| metric.get_counter().get_value())
        .sum()
}

#[test]
fn concurrent_durable_inserts_share_commits() {
    const THREADS: i32 = 32;
    const EACH: i32 = 20;
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let config = Config {
        path: Some(directory.path().join("db")),
        ..Config::default()
    };
    let entropy = Arc::new(SeededEntropy::new(1));
    let docs = Docs::open(config, Arc::new(SystemClock::new()), entropy, &registry).unwrap();
    make_index(
        &docs,
        IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        },
    );
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let docs = docs.clone();
            scope.spawn(move || {
                for i in 0..EACH {
                    let id = thread * EACH + i;
                    assert_eq!(insert(&docs, [doc! { "_id": id, "u": id }]).ids.len(), 1);
                    assert_eq!(ids(&docs, query(doc! { "_id": id })), [id]);
                }
            });
        }
    });
    let inserts = f64::from(THREADS * EACH);
    let commits = counter(&registry, "cloudlet_docdb_commits_total");
    assert!(commits < inserts / 2.0, "{commits} commits for {inserts} inserts");
    assert!(counter(&registry, "cloudlet_docdb_fsyncs_total") >= commits);
    assert_eq!(
        counter(&registry, "cloudlet_docdb_operations_total"),
        inserts * 2.0 + 1.0
    );
    assert_eq!(
        docs.verify(Deadline::NEVER).wait().unwrap().documents,
        inserts as u64
    );
}

/// Keeps the writer busy until the sender is dropped.
fn hold(docs: &Docs) -> (mpsc::Sender<()>, Reply<()>) {
    let (sender, receiver) = mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    let (started, running) = mpsc::channel();
    let reply = docs.lanes.write(Deadline::NEVER, move |_| {
        started.send(()).unwrap();
        let _ = receiver.lock().unwrap().recv_timeout(Duration::from_secs(20));
        Ok(())
    });
    running.recv().unwrap();
    (sender, reply)
}

#[test]
fn a_full_queue_refuses_at_once() {
    let limits = Limits {
        write_queue_max: 3,
        ..Limits::default()
    };
    let docs = limited(limits);
    let (release, held) = hold(&docs);
    let send = |i: i32| docs.insert(&ns(), inserts([doc! { "_id": i }]), Deadline::NEVER);
    let waiting: Vec<_> = (0..3).map(send).collect();
    let error = send(3).wait().unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (Code::TooManyRequests, cloudlet_base::Fault::Busy)
    );
    assert!(error.to_string().contains("write_queue_max is 3"), "{error}");
    drop(release);
    held.wait().unwrap();
    waiting.into_iter().for_each(|reply| drop(reply.wait().unwrap()));
    assert_eq!(ids(&docs, query(doc! {})), [0, 1, 2]);
}

#[test]
fn one_operation_failing_or_panicking_leaves_its_neighbours() {
    let docs = memory();
    let (release, held) = hold(&docs);
    let before = docs.insert(&ns(), inserts([doc! { "_id": 1 }]), Deadline::NEVER);
    let panics: Reply<()> = docs.lanes.write(Deadline::NEVER, |tx| {
        tx.kv.put(b"\x09 half done", b"")?;
        panic!("a bug")
    });
    let fails: Reply<()> = docs.lanes.write(Deadline::NEVER, |tx| {
        tx.catalog.create(
            tx.kv,
            &Namespace::new("db", "gone"),
            CollectionOptions::default(),
            &tx.engine.limits,
        )?;
        Err(Error::new(Code::BadValue, "no"))
    });
    let after = docs.insert(&ns(), inserts([doc! { "_id": 2 }]), Deadline::NEVER);
    drop(release);
    held.wait().unwrap();
    before.wait().unwrap();
    let error = panics.wait().unwrap_err();
    assert_eq!(error.code(), Code::InternalError);
    assert!(error.to_string().contains("a bug"), "{error}");
    assert_eq!(fails.wait().unwrap_err().code(), Code::BadValue);
    after.wait().unwrap();
    assert_eq!(ids(&docs, query(doc! {})), [1, 2]);
    assert_eq!(docs.list_collections("db").wait().unwrap(), [Arc::from("c")]);
    let reading: Reply<()> = docs.lanes.read(Deadline::NEVER, |_| panic!("another bug"));
    assert_eq!(reading.wait().unwrap_err().code(), Code::InternalError);
}

#[test]
fn the_last_clone_waits_for_accepted_work() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config {
        path: Some(directory.path().join("db")),
        ..Config::default()
    };
    let docs = open(config()).unwrap();
    let clone = docs.clone();
    // Nobody waits for these replies.
    for i in 0..50 {
        drop(docs.insert(&ns(), inserts([doc! { "_id": i }]), Deadline::NEVER));
    }
    drop(docs);
    drop(clone);
    assert_eq!(ids(&open(config()).unwrap(), query(doc! {})).len(), 50);
}

#[test]
fn readers_see_the_catalog_of_their_state() {
    let docs = memory();
    insert(&docs, (0..200).map(|i| doc! { "_id": i, "n": i % 10 }));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(ids(&docs, query(doc! { "n": 3 })).len(), 20);
                }
            });
        }
        for _ in 0..100 {
            make_index(&docs, index(&[("n", 1)]));
            docs.drop_index(&ns(), "n_1").wait().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
