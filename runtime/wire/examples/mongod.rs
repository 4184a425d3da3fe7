//! A MongoDB server for tests: docdb behind the wire protocol on a free port of the loopback address, nothing else.
//!
//! `mongod [--dir DIRECTORY] [--user NAME:PASSWORD] [--replica-set NAME] [--test-commands]` prints
//! `listening mongodb://127.0.0.1:PORT/` and serves until its standard input ends. Without a directory everything
//! is in memory; without a user there is no authentication, with one it is root.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use cloudlet_base::{OsEntropy, SystemClock};
use cloudlet_data::Embedded;
use cloudlet_docdb::{Config, DirScratch, Docs, Scratch};
use cloudlet_wire::{Parts, Settings, Topology, Wire};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Options {
    dir: Option<PathBuf>,
    user: Option<(String, String)>,
    replica_set: Option<String>,
    test_commands: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match &*arg {
                "--dir" => options.dir = Some(value()?.into()),
                "--user" => {
                    let value = value()?;
                    let (name, password) = value.split_once(':').ok_or("--user takes NAME:PASSWORD")?;
                    options.user = Some((name.to_owned(), password.to_owned()));
                }
                "--replica-set" => options.replica_set = Some(value()?),
                "--test-commands" => options.test_commands = true,
                arg => return Err(format!("unknown argument {arg}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<(), Error> {
    serve(std::env::args().skip(1))
}

/// Serves until standard input ends; the tests have this file as a module and call it.
pub(crate) fn serve(args: impl Iterator<Item = String>) -> Result<(), Error> {
    let options = Options::parse(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<(), Error> {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
    let registry = prometheus::Registry::new();
    let scratch = match &options.dir {
        Some(dir) => Some(Arc::new(DirScratch::open(dir.join("spill"))?) as Arc<dyn Scratch>),
        None => None,
    };
    let config = Config {
        path: options.dir.map(|dir| dir.join("docs.redb")),
        cache_bytes: 64 << 20,
        scratch,
        ..Config::default()
    };
    let docs = Docs::open(config, clock.clone(), entropy.clone(), &registry)?;
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?;
    let settings = Settings {
        authentication: options.user.is_some(),
        topology: options
            .replica_set
            .map_or(Topology::Router, |name| Topology::ReplicaSet {
                name,
                address: address.to_string(),
            }),
        test_commands: options.test_commands,
        ..Settings::default()
    };
    let parts = Parts {
        documents: Arc::new(Embedded::new(docs)),
        clock,
        entropy,
        registry,
    };
    let wire = Wire::open(parts, settings).await?;
    if let Some((name, password)) = options.user {
        wire.set_user("admin", &name, &password, &["root"]).await?;
    }
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        // Whoever started this holds the other end; when it goes, so does this.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(true);
    });
    say(&format!("listening mongodb://{address}/"))?;
    let mut connections = tokio::task::JoinSet::new();
    let mut stopping = stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let (stream, peer) = accepted?;
        stream.set_nodelay(true)?;
        let (wire, stopped) = (wire.clone(), stopped.clone());
        connections.spawn(async move { wire.serve(stream, peer.to_string(), stopped).await });
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the line that tests wait for")]
fn say(line: &str) -> Result<(), Error> {
    println!("{line}");
    std::io::stdout().flush()?;
    Ok(())
}
