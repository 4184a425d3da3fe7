//! What the change log costs: the same writes to two stores on disk, one with the log and one without, in turn.
//! `cargo run --release -p cloudlet-docdb --example feed_cost`

#![allow(clippy::print_stdout, reason = "it is a command")]

use std::sync::Arc;

use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{Clock, Deadline, SeededEntropy, SystemClock};
use cloudlet_docdb::{Config, Docs, Insert, Limits, Namespace, Reply, Update, UpdateOne};
use prometheus::Registry;

/// Rounds of each kind; the best counts, for others use the machine too.
const ROUNDS: usize = 5;

fn main() {
    let directory = std::env::temp_dir().join(format!("feed-cost-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the stores");
    let clock = Arc::new(SystemClock::new());
    let open = |name: &str, feed: bool| {
        let limits = Limits {
            feed_bytes_max: if feed { Limits::default().feed_bytes_max } else { 0 },
            ..Limits::default()
        };
        let path = Some(directory.join(name));
        let config = Config {
            path,
            limits,
            ..Config::default()
        };
        let entropy = Arc::new(SeededEntropy::new(1));
        Docs::open(config, clock.clone(), entropy, &Registry::new()).expect("a store")
    };
    let stores = [open("without", false), open("with", true)];
    for (name, bytes, batch, in_flight, rounds) in [
        ("one document of 200 B at a time", 200, 1, 1, 300),
        ("64 in flight, 200 B", 200, 1, 64, 40),
        ("batches of 1000, 200 B", 200, 1000, 1, 20),
        ("64 in flight, 4 KiB", 4096, 1, 64, 20),
        ("batches of 100, 4 KiB", 4096, 100, 1, 20),
    ] {
        report(
            name,
            &stores,
            clock.as_ref(),
            rounds * batch * in_flight,
            &|docs| {
                for _ in 0..rounds {
                    wait((0..in_flight).map(|_| insert(docs, bytes, batch)));
                }
            },
        );
    }
    report(
        "updates, 64 in flight",
        &stores,
        clock.as_ref(),
        20 * 64,
        &|docs| {
            for _ in 0..20 {
                wait((0..64).map(|_| update(docs)));
            }
        },
    );
    for name in ["without", "with"] {
        let bytes = std::fs::metadata(directory.join(name)).map_or(0, |file| file.len());
        println!("file {name}: {} MiB", bytes >> 20);
    }
    drop(stores);
    std::fs::remove_dir_all(&directory).expect("the directory can go");
}

fn report(name: &str, stores: &[Docs; 2], clock: &dyn Clock, count: usize, run: &dyn Fn(&Docs)) {
    let mut best = [0.0_f64; 2];
    for _ in 0..ROUNDS {
        for (docs, best) in stores.iter().zip(&mut best) {
            let begin = clock.monotonic();
            run(docs);
            let seconds = (clock.monotonic() - begin).as_secs_f64();
            *best = best.max(count as f64 / seconds);
        }
    }
    let [without, with] = best;
    let cost = (1.0 - with / without) * 100.0;
    println!("{name}: {without:.0}/s without, {with:.0}/s with the log ({cost:.1} % less)");
}

fn wait<T>(replies: impl Iterator<Item = Reply<T>>) {
    let replies: Vec<Reply<T>> = replies.collect();
    for reply in replies {
        reply.wait().expect("a write");
    }
}

fn ns() -> Namespace {
    Namespace::new("app", "things")
}

fn insert(docs: &Docs, bytes: usize, batch: usize) -> Reply<cloudlet_docdb::Inserted> {
    let documents: Vec<RawDocumentBuf> = (0..batch)
        .map(|i| rawdoc! { "n": i as i64, "state": "new", "text": "x".repeat(bytes.saturating_sub(50)) })
        .collect();
    let ordered = true;
    docs.insert(
        &ns(),
        Insert {
            documents,
            ordered,
            ..Insert::default()
        },
        Deadline::NEVER,
    )
}

fn update(docs: &Docs) -> Reply<cloudlet_docdb::Updated> {
    let statement = UpdateOne {
        filter: rawdoc! {},
        update: rawdoc! { "$inc": { "n": 1_i64 } },
        multi: false,
        upsert: false,
        ..UpdateOne::default()
    };
    let update = Update {
        statements: vec![statement],
        ordered: true,
        ..Update::default()
    };
    docs.update(&ns(), update, Deadline::NEVER)
}
