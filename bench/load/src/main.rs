//! The load benchmark: starts the node and its peers one after the other on the server's cores, loads each with
//! keep-alive connections from the generator's core, in interleaved rounds, and writes one table of medians.
//!
//! What is measured and why is in `bench/README.md`.

#![forbid(unsafe_code)]

mod peers;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cloudlet_bench_load::client;

use crate::peers::{Kind, Server};
use crate::table::{Cell, Sample, Table};

/// What to run.
pub(crate) struct Options {
    /// The release binary of the node.
    pub(crate) cloudlet: PathBuf,
    /// The benchmark's app, deployed on the node; its built components are the peers' too.
    pub(crate) app: PathBuf,
    /// Directory with the peers' programs (`wasmtime`, `node_modules/workerd`); missing ones are left out and named.
    pub(crate) peers: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) connections: Vec<usize>,
    /// CPU list of the servers, as for `taskset -c`.
    pub(crate) server_cpus: String,
    /// The generator's CPU.
    pub(crate) generator_cpu: usize,
    /// Only scenarios whose name contains this.
    pub(crate) only: Option<String>,
    /// Where the table goes besides standard output.
    pub(crate) out: Option<PathBuf>,
}

/// One thing to load: a name, a path, and the servers that offer it. The first is the node.
struct Scenario {
    name: &'static str,
    path: &'static str,
    method: &'static str,
    /// What loads the server meanwhile.
    neighbour: Option<Neighbour>,
    servers: &'static [Kind],
}

/// Requests beside those that are measured.
struct Neighbour {
    path: &'static str,
    connections: usize,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hello, fresh instance",
        path: "/hello",
        method: "GET",
        neighbour: None,
        servers: &[Kind::Cloudlet, Kind::WasmtimeServe, Kind::Workerd],
    },
    Scenario {
        name: "hello beside 32 that spin",
        path: "/hello",
        method: "GET",
        // More than the function's limit, so that as many as it allows compute all the time.
        neighbour: Some(Neighbour {
            path: "/spin",
            connections: 34,
        }),
        servers: &[Kind::Cloudlet],
    },
    Scenario {
        name: "read one document",
        path: "/read-one",
        method: "GET",
        neighbour: None,
        servers: &[Kind::Cloudlet],
    },
    Scenario {
        name: "insert one document",
        path: "/insert-one",
        method: "POST",
        neighbour: None,
        servers: &[Kind::Cloudlet],
    },
    Scenario {
        name: "object, 1 KiB",
        path: "/1k.bin",
        method: "GET",
        neighbour: None,
        servers: &[Kind::Cloudlet, Kind::Nginx],
    },
    Scenario {
        name: "object, 1 MiB",
        path: "/1m.bin",
        method: "GET",
        neighbour: None,
        servers: &[Kind::Cloudlet, Kind::Nginx],
    },
];

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    cloudlet_bench_process::pin_self(options.generator_cpu)?;
    write_site(&options.app.join("site"))?;
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

/// Runs every scenario: for each round, connection count and server in turn, so that a slow moment of the machine
/// hits all servers alike.
async fn run(options: &Options) -> Result<Table> {
    let mut table = Table::default();
    for scenario in SCENARIOS
        .iter()
        .filter(|s| options.only.as_ref().is_none_or(|o| s.name.contains(o.as_str())))
    {
        let mut servers = Vec::new();
        for kind in scenario.servers {
            match Server::start(*kind, options).await {
                Ok(server) => servers.push(server),
                Err(error) if *kind != Kind::Cloudlet => {
                    eprintln!("left out: {}: {error:#}", kind.name());
                    table.left_out(kind.name(), format!("{error:#}"));
                }
                Err(error) => return Err(error.context("start the node")),
            }
        }
        let request =
            |server: &Server| client::request(scenario.method, &server.address().to_string(), scenario.path);
        for &connections in &options.connections {
            for server in &servers {
                client::load(server.address(), &request(server), connections, options.warm_up).await?;
            }
            for round in 0..options.rounds {
                for server in &servers {
                    let before = server.cpu_seconds()?;
                    let request = request(server);
                    let measured = client::load(server.address(), &request, connections, options.duration);
                    let outcome = match &scenario.neighbour {
                        None => measured.await,
                        Some(neighbour) => beside(server.address(), neighbour, options, measured).await,
                    }
                    .with_context(|| format!("{} on {}", scenario.name, server.kind().name()))?;
                    let cpu = server.cpu_seconds()? - before;
                    let sample = Sample::new(&outcome, cpu, server.resident_bytes()?);
                    eprintln!(
                        "{:<24} {:>4} connections  round {}/{}  {:<16} {sample}",
                        scenario.name,
                        connections,
                        round + 1,
                        options.rounds,
                        server.kind().name()
                    );
                    table.add(
                        Cell {
                            scenario: scenario.name,
                            connections,
                            server: server.kind().name(),
                        },
                        sample,
                    );
                }
            }
        }
    }
    Ok(table)
}

/// What is measured, while a neighbour loads the server.
async fn beside(
    address: std::net::SocketAddr,
    neighbour: &Neighbour,
    options: &Options,
    measured: impl Future<Output = Result<client::Outcome>>,
) -> Result<client::Outcome> {
    // It begins when it is at work, and is over before the neighbour stops asking.
    let time = options.warm_up + options.duration + options.warm_up;
    let request = client::request("GET", &address.to_string(), neighbour.path);
    let load = client::load(address, &request, neighbour.connections, time);
    let (noise, outcome) = tokio::join!(load, async {
        tokio::time::sleep(options.warm_up).await;
        measured.await
    });
    let noise = noise.context("the neighbour")?;
    eprintln!(
        "the neighbour: {} requests, {} refused",
        noise.requests, noise.errors
    );
    outcome
}

/// The files of the object scenarios: bytes that don't compress away.
fn write_site(dir: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for (name, size) in [("1k.bin", 1 << 10), ("1m.bin", 1 << 20)] {
        let mut state = 1u32;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(size)
        .collect();
        std::fs::write(dir.join(name), bytes).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        cloudlet: "target/release/cloudlet".into(),
        app: "bench/app".into(),
        peers: ".cache/peers".into(),
        rounds: 3,
        duration: Duration::from_secs(4),
        warm_up: Duration::from_secs(1),
        connections: vec![1, 32, 128],
        server_cpus: "1".into(),
        generator_cpu: 0,
        only: None,
        out: None,
    };
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--cloudlet" => options.cloudlet = value()?.into(),
            "--app" => options.app = value()?.into(),
            "--peers" => options.peers = value()?.into(),
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
            "--only" => options.only = Some(value()?),
            "--out" => options.out = Some(value()?.into()),
            other => bail!("unknown option {other:?}; see bench/README.md"),
        }
    }
    Ok(options)
}
