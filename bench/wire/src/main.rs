//! MongoDB's protocol under load: the official Rust driver, from the generator's core, does single operations and the
//! YCSB workloads on the node and on a peer, each on the server's cores, in interleaved rounds. Prints one table of
//! medians.
//!
//! What is measured and why is in `bench/README.md`.

#![forbid(unsafe_code)]

mod servers;
mod table;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use crate::servers::{Kind, Server};
use crate::table::{Cell, Sample, Table};
use crate::work::{Data, WORK, Work, Worker};

/// What to run.
pub(crate) struct Options {
    /// The release binary of the node.
    pub(crate) cloudlet: PathBuf,
    /// The benchmarks' app, which gives the database its name.
    pub(crate) app: PathBuf,
    /// Directory with the peer's programs; a missing one is left out and named.
    pub(crate) peers: PathBuf,
    /// Documents of 1 KiB that are loaded before the work begins.
    documents: u64,
    rounds: usize,
    duration: Duration,
    warm_up: Duration,
    connections: Vec<usize>,
    /// CPU list of the servers, as for `taskset -c`.
    pub(crate) server_cpus: String,
    /// The generator's CPU.
    generator_cpu: usize,
    /// Where the stores are made: a directory of the disk to be measured.
    pub(crate) dir: PathBuf,
    /// Only work whose name contains this.
    only: Option<String>,
    /// Where the table goes besides standard output.
    out: Option<PathBuf>,
}

/// An operation that takes longer than this ends the work of its server: a server that hangs is told as one.
const STUCK: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    cloudlet_bench_process::pin_self(options.generator_cpu)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let table = runtime.block_on(run(&options))?;
    let text = table.to_markdown();
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

async fn run(options: &Options) -> Result<Table> {
    let mut table = Table::default();
    let mut servers = Vec::new();
    for kind in [Kind::Cloudlet, Kind::Secantus] {
        match Server::start(kind, options).await {
            Ok(server) => servers.push(Some(server)),
            Err(error) if kind != Kind::Cloudlet => {
                eprintln!("left out: {}: {error:#}", kind.name());
                table.left_out(kind.name(), format!("{error:#}"));
            }
            Err(error) => return Err(error.context("start the node")),
        }
    }
    let mut loaded = Vec::new();
    for server in servers.iter().flatten() {
        let started = Instant::now();
        let data = Data::load(server, options.documents).await?;
        let seconds = started.elapsed().as_secs_f64();
        let mib = options.documents as f64 * work::DOCUMENT_BYTES as f64 / f64::from(1 << 20);
        eprintln!(
            "{:<10} {} documents in {seconds:.1} s, {:.1} MiB/s, resident {} MiB",
            server.kind().name(),
            options.documents,
            mib / seconds,
            server.resident_bytes()? >> 20,
        );
        table.loaded(server.kind().name(), mib / seconds);
        loaded.push(Arc::new(data));
    }
    let chosen = |work: &&Work| {
        options
            .only
            .as_ref()
            .is_none_or(|only| work.name.contains(only.as_str()))
    };
    for work in WORK.iter().filter(chosen) {
        for &connections in &options.connections {
            for round in 0..=options.rounds {
                for (slot, data) in servers.iter_mut().zip(&loaded) {
                    let Some(server) = slot else { continue };
                    let name = server.kind().name();
                    // The round before the first only warms up.
                    let duration = if round == 0 {
                        options.warm_up
                    } else {
                        options.duration
                    };
                    let before = server.cpu_seconds()?;
                    let outcome = match load(work, data, connections, duration).await {
                        Ok(outcome) => outcome,
                        Err(error) if server.kind() != Kind::Cloudlet => {
                            let why = format!("{} with {connections} connections: {error:#}", work.name);
                            eprintln!("left out from here on: {name}: {why}");
                            table.left_out(name, why);
                            *slot = None;
                            continue;
                        }
                        Err(error) => return Err(error.context(format!("{} on {name}", work.name))),
                    };
                    if round == 0 {
                        continue;
                    }
                    let cpu_s = server.cpu_seconds()? - before;
                    let sample = Sample::new(&outcome, cpu_s, server.resident_bytes()?);
                    eprintln!(
                        "{:<28} {connections:>4} connections  round {round}/{}  {name:<10} {sample}",
                        work.name, options.rounds,
                    );
                    let cell = Cell {
                        work: work.name,
                        connections,
                        server: name,
                    };
                    table.add(cell, sample);
                }
            }
        }
    }
    Ok(table)
}

/// What one round did.
pub(crate) struct Outcome {
    /// Operations: for bulk work, documents.
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// Of each call of the driver, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Keeps `connections` callers busy for `duration`.
async fn load(work: &Work, data: &Arc<Data>, connections: usize, duration: Duration) -> Result<Outcome> {
    let end = Instant::now() + duration;
    let started = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for at in 0..connections {
        let (data, step) = (Arc::clone(data), work.step);
        callers.spawn(async move {
            let mut worker = Worker::new(&data, at as u64);
            let mut latency = Histogram::<u64>::new(3)?;
            let mut operations = 0;
            while Instant::now() < end {
                let called = Instant::now();
                let done = tokio::time::timeout(STUCK, step(&mut worker)).await;
                operations += done.with_context(|| format!("no answer within {STUCK:?}"))??;
                latency.record(called.elapsed().as_nanos() as u64)?;
            }
            anyhow::Ok((operations, latency))
        });
    }
    let mut outcome = Outcome {
        operations: 0,
        elapsed: Duration::ZERO,
        latency: Histogram::new(3)?,
    };
    while let Some(caller) = callers.join_next().await {
        let (operations, latency) = caller??;
        outcome.operations += operations;
        outcome.latency.add(&latency)?;
    }
    outcome.elapsed = started.elapsed();
    Ok(outcome)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        cloudlet: "target/release/cloudlet".into(),
        app: "bench/app".into(),
        peers: ".cache/peers".into(),
        documents: 100_000,
        rounds: 3,
        duration: Duration::from_secs(3),
        warm_up: Duration::from_secs(1),
        connections: vec![1, 32],
        server_cpus: "1".into(),
        generator_cpu: 0,
        dir: std::env::temp_dir(),
        only: None,
        out: None,
    };
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--cloudlet" => options.cloudlet = value()?.into(),
            "--app" => options.app = value()?.into(),
            "--peers" => options.peers = value()?.into(),
            "--documents" => options.documents = value()?.parse().context("--documents takes a number")?,
            "--rounds" => options.rounds = value()?.parse().context("--rounds takes a number")?,
            "--seconds" => {
                options.duration =
                    Duration::from_secs_f64(value()?.parse().context("--seconds takes a number")?);
            }
            "--connections" => {
                options.connections = value()?
                    .split(',')
                    .map(|n| {
                        n.parse()
                            .context("--connections takes numbers separated by commas")
                    })
                    .collect::<Result<_>>()?;
            }
            "--server-cpus" => options.server_cpus = value()?,
            "--generator-cpu" => {
                options.generator_cpu = value()?.parse().context("--generator-cpu takes a number")?
            }
            "--dir" => options.dir = value()?.into(),
            "--only" => options.only = Some(value()?),
            "--out" => options.out = Some(value()?.into()),
            other => bail!("unknown option {other:?}; see bench/README.md"),
        }
    }
    Ok(options)
}
