//! How the document engine's costs grow with the data: a store of each size is filled, its operations are timed, its
//! process is killed (-9) while it writes, and the time to open what it left is taken. Prints one table.
//!
//! Each store has a process of its own, so that resident memory is its own; this program starts itself for that.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{Deadline, OsEntropy, SystemClock};
use cloudlet_docdb::{Config, Docs, Find, IndexSpec, Insert, Limits, Namespace};

/// The node's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Documents that one value of `room` has.
const ROOM: i64 = 50;
/// Documents of one insert while a store is filled.
const BATCH: i64 = 1000;
/// How often each operation is timed.
const READS: i64 = 20_000;
const ROOMS: i64 = 2_000;
const INSERTS: i64 = 3_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["fill", dir, documents, bytes, cache] => {
            fill(Path::new(dir), documents.parse()?, bytes.parse()?, cache.parse()?)
        }
        ["open", dir, documents, cache] => reopen(Path::new(dir), documents.parse()?, cache.parse()?),
        options => run(options),
    }
}

/// Starts itself for each size and prints the table.
fn run(options: &[&str]) -> Result<()> {
    let mut documents = vec![10_000, 100_000, 1_000_000];
    let mut bytes = 1024;
    let mut cache_mib = 64;
    let mut dir = std::env::temp_dir();
    for option in options.chunks(2) {
        match option {
            ["--documents", counts] => {
                documents = counts.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            ["--bytes", count] => bytes = count.parse()?,
            ["--cache", mib] => cache_mib = mib.parse()?,
            ["--dir", path] => dir = PathBuf::from(path),
            _ => bail!("unknown option {option:?}; there are --documents --bytes --cache (MiB) --dir"),
        }
    }
    println!(
        "| documents | file MiB | filled, documents/s | read by _id us | 50 by an index us | insert, 1 writer us (p50, p99) | slowest insert ms | RSS MiB (cache {cache_mib}) | open after kill -9 ms | RSS MiB after |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for documents in documents {
        let dir = tempfile::tempdir_in(&dir)?;
        let cache = (cache_mib << 20).to_string();
        let path = dir.path().to_str().context("a path of text")?;
        let mut child = start(&["fill", path, &documents.to_string(), &bytes.to_string(), &cache])?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let told = lines.next().context("the child ended early")??;
        // It writes on, and is killed while it does.
        let until = lines.next().context("the child ended early")??;
        ensure!(until == "writing", "the child said {until:?}");
        child.kill()?;
        child.wait()?;
        let file = std::fs::metadata(dir.path().join("docs.redb"))?.len() >> 20;
        let mut child = start(&["open", path, &documents.to_string(), &cache])?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let opened = lines.next().context("the child ended early")??;
        ensure!(child.wait()?.success(), "opening failed");
        println!("| {documents} | {file} | {told} | {opened} |");
    }
    Ok(())
}

fn start(args: &[&str]) -> Result<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).args(args).stdout(Stdio::piped()).spawn()?)
}

fn open(dir: &Path, cache_bytes: usize) -> Result<Docs> {
    let config = Config {
        path: Some(dir.join("docs.redb")),
        cache_bytes,
        limits: Limits {
            feed_bytes_max: 0,
            ..Limits::default()
        },
        ..Config::default()
    };
    let registry = prometheus::Registry::new();
    Ok(Docs::open(
        config,
        Arc::new(SystemClock::new()),
        Arc::new(OsEntropy),
        &registry,
    )?)
}

fn document(id: i64, room: i64, bytes: usize) -> RawDocumentBuf {
    let note = "x".repeat(bytes.saturating_sub(80));
    rawdoc! { "_id": id, "room": room, "guest": format!("guest-{id}"), "note": note }
}

fn insert(docs: &Docs, ns: &Namespace, documents: Vec<RawDocumentBuf>) -> Result<()> {
    let insert = Insert {
        documents,
        ordered: true,
        bypass_validation: false,
    };
    let done = docs.insert(ns, insert, Deadline::NEVER).wait()?;
    ensure!(done.errors.is_empty(), "an insert failed");
    Ok(())
}

/// Fills a store, times its operations, and writes on until it is killed.
fn fill(dir: &Path, documents: i64, bytes: usize, cache_bytes: usize) -> Result<()> {
    let docs = open(dir, cache_bytes)?;
    let ns = Namespace::new("bench", "stays");
    let index = IndexSpec::parse(&rawdoc! { "key": { "room": 1 }, "name": "room_1" })?;
    docs.create_indexes(&ns, vec![index]).wait()?;
    let rooms = documents / ROOM;
    let begin = Instant::now();
    for from in (0..documents).step_by(BATCH as usize) {
        let ids = from..(from + BATCH).min(documents);
        insert(
            &docs,
            &ns,
            ids.map(|id| document(id, id % rooms, bytes)).collect(),
        )?;
    }
    let filled = documents as f64 / begin.elapsed().as_secs_f64();
    let mut state = 1_u64;
    let mut random = |below: i64| {
        // A linear congruential generator (Knuth's MMIX constants); its high bits.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64 % below
    };
    let find = |filter: RawDocumentBuf, expected: usize| -> Result<()> {
        let find = Find {
            filter,
            ..Find::default()
        };
        let page = docs.find(&ns, find, Deadline::NEVER).wait()?;
        ensure!(
            page.documents.len() == expected,
            "{} documents",
            page.documents.len()
        );
        Ok(())
    };
    let begin = Instant::now();
    for _ in 0..READS {
        find(rawdoc! { "_id": random(documents) }, 1)?;
    }
    let read = begin.elapsed().as_secs_f64() * 1e6 / READS as f64;
    let begin = Instant::now();
    for _ in 0..ROOMS {
        find(rawdoc! { "room": random(rooms) }, ROOM as usize)?;
    }
    let indexed = begin.elapsed().as_secs_f64() * 1e6 / ROOMS as f64;
    let mut times = Vec::new();
    for id in documents..documents + INSERTS {
        let begin = Instant::now();
        insert(&docs, &ns, vec![document(id, rooms + id, bytes)])?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[(times.len() as f64 * part) as usize];
    // A checkpoint comes once in some thousands of inserts; the slowest of those of other rooms, with one at least.
    let mut slowest: f64 = 0.0;
    let mut next = documents + INSERTS;
    for _ in 0..16 * INSERTS / 10 {
        let begin = Instant::now();
        let batch = next..next + 10;
        insert(
            &docs,
            &ns,
            batch
                .map(|id| document(id, rooms + random(documents), bytes))
                .collect(),
        )?;
        next += 10;
        slowest = slowest.max(begin.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "{filled:.0} | {read:.1} | {indexed:.1} | {:.0}, {:.0} | {slowest:.0} | {}",
        at(0.5),
        at(0.99),
        resident_mib()?
    );
    for n in 0.. {
        insert(&docs, &ns, vec![document(next, rooms + random(documents), bytes)])?;
        next += 1;
        if n == 2000 {
            println!("writing");
        }
    }
    Ok(())
}

/// Opens a store that was killed, looks at it, and says how long the opening took.
fn reopen(dir: &Path, documents: i64, cache_bytes: usize) -> Result<()> {
    let begin = Instant::now();
    let docs = open(dir, cache_bytes)?;
    let opened = begin.elapsed().as_secs_f64() * 1e3;
    let find = Find {
        filter: rawdoc! { "_id": documents + INSERTS },
        ..Find::default()
    };
    let page = docs
        .find(&Namespace::new("bench", "stays"), find, Deadline::NEVER)
        .wait()?;
    ensure!(page.documents.len() == 1, "an acknowledged document is lost");
    println!("{opened:.0} | {}", resident_mib()?);
    Ok(())
}

fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib >> 10)
}
