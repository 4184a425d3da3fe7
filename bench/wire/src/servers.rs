//! The servers under load, and how each is started on the server's cores.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cloudlet_bench_process::{Node, Running, Scratch, free_address, pinned};
use mongodb::Client;
use mongodb::bson::doc;
use mongodb::options::ClientOptions;

use crate::Options;

/// The database of all work: the name of the benchmarks' app.
pub(crate) const DATABASE: &str = "bench";

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cloudlet,
    Secantus,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Cloudlet => "cloudlet",
            Kind::Secantus => "SecantusDB",
        }
    }
}

/// A running server; ends when dropped.
pub(crate) struct Server {
    kind: Kind,
    running: Running,
    uri: String,
    _dir: Scratch,
}

impl Server {
    /// Starts a server and waits until it answers a ping.
    pub(crate) async fn start(kind: Kind, options: &Options) -> Result<Server> {
        let dir = Scratch::new(&options.dir, kind.name())?;
        let (running, uri) = match kind {
            Kind::Cloudlet => cloudlet(options, &dir)?,
            Kind::Secantus => secantus(options, &dir)?,
        };
        let server = Server {
            kind,
            running,
            uri,
            _dir: dir,
        };
        let database = server.client(1).await?.database(DATABASE);
        database
            .run_command(doc! { "ping": 1 })
            .await
            .with_context(|| format!("{} did not answer a ping", kind.name()))?;
        Ok(server)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// A driver with at most `connections` connections.
    pub(crate) async fn client(&self, connections: u32) -> Result<Client> {
        let mut options = ClientOptions::parse(&self.uri).await?;
        options.max_pool_size = Some(connections);
        options.server_selection_timeout = Some(Duration::from_secs(20));
        Ok(Client::with_options(options)?)
    }

    /// CPU time of the server and all its descendants so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.running.cpu_seconds()
    }

    /// Resident memory of the server and all its descendants.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.running.resident_bytes()
    }
}

fn cloudlet(options: &Options, dir: &Scratch) -> Result<(Running, String)> {
    let node = Node::start(
        &options.cloudlet,
        &options.server_cpus,
        dir.path(),
        &options.app,
        &["--mongo-listen", "127.0.0.1:0"],
    )?;
    node.run(&["db", "user", "set", "bench", "--role", "readWrite"], "secret\n")?;
    let address = node
        .mongo
        .context("the node said where it speaks MongoDB's protocol")?;
    Ok((
        node.running,
        format!("mongodb://bench:secret@{address}/{DATABASE}"),
    ))
}

/// SecantusDB as it is started by default: without logins, and without a sync at each commit.
fn secantus(options: &Options, dir: &Scratch) -> Result<(Running, String)> {
    let program = options.peers.join("secantus/bin/secantusd-py");
    if !program.exists() {
        bail!(
            "{} is not there; `cargo xtask bench --peers` installs it",
            program.display()
        );
    }
    let address = free_address()?;
    let child = pinned(&options.server_cpus, &program.canonicalize()?)
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--log-level", "ERROR", "--storage-path"])
        .arg(dir.path().join("data"))
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start SecantusDB")?;
    Ok((
        Running::new(child),
        format!("mongodb://{address}/?directConnection=true"),
    ))
}
