//! The document engine beside SQLite, in one process: the same documents, the same index, each measured in turn
//! within each round, so that a slow moment of the machine hits both. Prints one table of medians.
//!
//! What is measured and why is in `bench/README.md`.

#![forbid(unsafe_code)]

mod stores;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;

use crate::stores::{Engine, ROOM, Session, Sqlite, Store, document};

/// The node's. SQLite keeps to the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What to run.
struct Options {
    /// Documents in each store before it is measured: once for each, in a new store.
    documents: Vec<i64>,
    /// Bytes of a document.
    bytes: usize,
    rounds: usize,
    duration: Duration,
    /// How often each thread works in a round, instead of for how long: for a profiler that counts instructions.
    operations: Option<u64>,
    /// Only the work whose name has this in it.
    work: String,
    /// Only the stores whose name has this in it.
    store: String,
    /// Where the stores are made: a directory of the disk to be measured.
    dir: PathBuf,
    /// Where the table goes besides standard output.
    out: Option<PathBuf>,
}

/// One kind of work, done by `threads` threads at once.
struct Scenario {
    name: &'static str,
    threads: usize,
    /// Whether SQLite with grouped writers takes part.
    grouped: bool,
    work: fn(&mut dyn Session, &mut Keys<'_>) -> Result<()>,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "read by _id",
        threads: 1,
        grouped: false,
        work: |session, keys| {
            let id = keys.existing();
            let found = session.read(id)?;
            ensure!(found.get_i64("_id")? == id, "another document came back");
            Ok(())
        },
    },
    Scenario {
        name: "50 documents by an index",
        threads: 1,
        grouped: false,
        work: |session, keys| {
            let room = keys.existing() % (keys.documents / ROOM);
            ensure!(
                session.room(room)?.len() as i64 == ROOM,
                "a room has {ROOM} documents"
            );
            Ok(())
        },
    },
    Scenario {
        name: "durable insert, 1 writer",
        threads: 1,
        grouped: false,
        work: insert,
    },
    Scenario {
        name: "durable insert, 32 writers",
        threads: 32,
        grouped: true,
        work: insert,
    },
];

fn insert(session: &mut dyn Session, keys: &mut Keys<'_>) -> Result<()> {
    let id = keys.fresh();
    // A room of its own, so that the others keep their size.
    session.insert(id, id, document(id, id, keys.bytes))
}

/// Which documents a thread asks for: a fixed sequence for each thread.
struct Keys<'a> {
    state: u64,
    documents: i64,
    next: &'a AtomicI64,
    bytes: usize,
}

impl Keys<'_> {
    fn existing(&mut self) -> i64 {
        // A linear congruential generator (Knuth's MMIX constants); its high bits.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as i64 % self.documents
    }

    fn fresh(&mut self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a store did in one round.
struct Sample {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    let mut text = String::from(
        "| documents | work | store | operations/s | cloudlet / it | p50 us | p99 us |\n|---|---|---|---|---|---|---|\n",
    );
    for documents in &options.documents {
        text.push_str(&measure(&options, *documents)?);
    }
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Fills new stores and runs all scenarios on them; gives the table's rows.
fn measure(options: &Options, documents: i64) -> Result<String> {
    let dir = tempfile::tempdir_in(&options.dir).context("make a directory for the stores")?;
    let engine = Engine::open(dir.path())?;
    let sqlite = Sqlite::open(dir.path())?;
    let grouped = sqlite.grouped()?;
    let wanted = |store: &&dyn Store| store.name().contains(&options.store);
    for store in [&engine as &dyn Store, &sqlite].into_iter().filter(wanted) {
        for from in (0..documents).step_by(1000) {
            let ids = from..(from + 1000).min(documents);
            // Neighbours by `_id` are of different rooms, as what arrives over time is.
            let rooms = documents / ROOM;
            store.load(
                ids.map(|id| (id, id % rooms, document(id, id % rooms, options.bytes)))
                    .collect(),
            )?;
        }
    }
    let mut rows = String::new();
    // One count for all stores: a gap in the ids is nothing to either.
    let next = AtomicI64::new(documents);
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| scenario.name.contains(&options.work))
    {
        let mut stores = vec![&engine as &dyn Store, &sqlite];
        if scenario.grouped {
            stores.push(&grouped);
        }
        stores.retain(wanted);
        let mut samples: Vec<Vec<Sample>> = stores.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            for (store, samples) in stores.iter().zip(&mut samples) {
                let sample = run(options, documents, &next, scenario, *store)?;
                eprintln!(
                    "{documents:>9} documents  {:<27} round {}/{}  {:<24} {:>9.0}/s  p50 {:.1} us  p99 {:.1} us",
                    scenario.name,
                    round + 1,
                    options.rounds,
                    store.name(),
                    sample.per_second,
                    sample.p50_us,
                    sample.p99_us
                );
                samples.push(sample);
            }
        }
        for (store, of_it) in stores.iter().zip(&samples) {
            let ratio = median(
                of_it
                    .iter()
                    .zip(&samples[0])
                    .map(|(it, us)| us.per_second / it.per_second),
            );
            rows.push_str(&format!(
                "| {documents} | {} | {} | {:.0} | {ratio:.2} | {:.1} | {:.1} |\n",
                scenario.name,
                store.name(),
                median(of_it.iter().map(|sample| sample.per_second)),
                median(of_it.iter().map(|sample| sample.p50_us)),
                median(of_it.iter().map(|sample| sample.p99_us)),
            ));
        }
    }
    Ok(rows)
}

/// One store's turn: its threads work until the time is over.
fn run(
    options: &Options,
    documents: i64,
    next: &AtomicI64,
    scenario: &Scenario,
    store: &dyn Store,
) -> Result<Sample> {
    let mut sessions = Vec::new();
    for _ in 0..scenario.threads {
        sessions.push(store.session()?);
    }
    let begin = Instant::now();
    let until = begin + options.duration;
    let operations = options.operations;
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .into_iter()
            .zip(1..)
            .map(|(mut session, seed)| {
                let mut keys = Keys {
                    state: seed,
                    documents,
                    next,
                    bytes: options.bytes,
                };
                scope.spawn(move || -> Result<Histogram<u64>> {
                    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
                    let mut now = Instant::now();
                    while operations.map_or(now < until, |most| latency.len() < most) {
                        (scenario.work)(&mut *session, &mut keys)?;
                        let after = Instant::now();
                        latency.saturating_record((after - now).as_nanos() as u64);
                        now = after;
                    }
                    Ok(latency)
                })
            })
            .collect();
        let mut all: Histogram<u64> = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        for thread in threads {
            match thread.join() {
                Ok(latency) => all.add(latency?)?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(all)
    })?;
    Ok(Sample {
        per_second: all.len() as f64 / begin.elapsed().as_secs_f64(),
        p50_us: all.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: all.value_at_quantile(0.99) as f64 / 1e3,
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        documents: vec![10_000, 100_000],
        bytes: 300,
        rounds: 5,
        duration: Duration::from_secs(2),
        operations: None,
        work: String::new(),
        store: String::new(),
        dir: std::env::temp_dir(),
        out: None,
    };
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--documents" => {
                options.documents = value
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<_, _>>()
                    .context("--documents takes numbers with commas between")?;
                ensure!(
                    options
                        .documents
                        .iter()
                        .all(|count| *count >= ROOM && count % ROOM == 0),
                    "--documents takes multiples of {ROOM}"
                );
            }
            "--bytes" => options.bytes = value.parse().context("--bytes takes a number")?,
            "--rounds" => options.rounds = value.parse().context("--rounds takes a number")?,
            "--seconds" => {
                options.duration =
                    Duration::from_secs_f64(value.parse().context("--seconds takes a number")?);
            }
            "--operations" => {
                options.operations = Some(value.parse().context("--operations takes a number")?);
            }
            "--work" => options.work = value,
            "--store" => options.store = value,
            "--dir" => options.dir = value.into(),
            "--out" => options.out = Some(value.into()),
            _ => bail!(
                "unknown option {flag}; there are --documents --bytes --rounds --seconds --operations --work --store --dir --out"
            ),
        }
    }
    ensure!(options.rounds > 0, "--rounds must be 1 at least");
    Ok(options)
}
