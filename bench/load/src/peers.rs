//! The servers under load, and how each is started on the server's cores.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cloudlet_bench_process::{Node, Running, Scratch, free_address, pinned};
use tokio::net::TcpStream;

use crate::Options;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cloudlet,
    WasmtimeServe,
    Workerd,
    Nginx,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Cloudlet => "cloudlet",
            Kind::WasmtimeServe => "wasmtime serve",
            Kind::Workerd => "workerd",
            Kind::Nginx => "nginx",
        }
    }
}

/// A running server; ends when dropped.
pub(crate) struct Server {
    kind: Kind,
    running: Running,
    address: SocketAddr,
    _dir: Scratch,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub(crate) async fn start(kind: Kind, options: &Options) -> Result<Server> {
        let dir = Scratch::new(&std::env::temp_dir(), kind.name())?;
        let (running, address) = match kind {
            Kind::Cloudlet => cloudlet(options, dir.path())?,
            Kind::WasmtimeServe => wasmtime_serve(options)?,
            Kind::Workerd => workerd(options, dir.path())?,
            Kind::Nginx => nginx(options, dir.path())?,
        };
        let server = Server {
            kind,
            running,
            address,
            _dir: dir,
        };
        for _ in 0..200 {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "{} did not accept a connection on {address} within 10 s",
            kind.name()
        )
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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

fn cloudlet(options: &Options, dir: &Path) -> Result<(Running, SocketAddr)> {
    let node = Node::start(&options.cloudlet, &options.server_cpus, dir, &options.app, &[])?;
    let item = format!(r#"{{"_id":1,"name":"item","text":"{}"}}"#, "x".repeat(200));
    node.run(&["db", "insert", "items", &item], "")?;
    Ok((node.running, node.public))
}

fn wasmtime_serve(options: &Options) -> Result<(Running, SocketAddr)> {
    let program = options.peers.join("bin/wasmtime");
    if !program.exists() {
        bail!(
            "{} is not there; `cargo xtask bench --peers` builds it",
            program.display()
        );
    }
    let address = free_address()?;
    let child = pinned(&options.server_cpus, &program)
        .args([
            "serve",
            "-O",
            "pooling-allocator=y",
            "-S",
            "cli",
            "--addr",
            &address.to_string(),
        ])
        .arg(hello_component(options))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start wasmtime")?;
    Ok((Running::new(child), address))
}

fn hello_component(options: &Options) -> PathBuf {
    options
        .app
        .join("../guests/target/wasm32-wasip2/release/bench_hello.wasm")
}

fn workerd(options: &Options, dir: &Path) -> Result<(Running, SocketAddr)> {
    let program = options.peers.join("node_modules/workerd/bin/workerd");
    if !program.exists() {
        bail!(
            "{} is not there; `cargo xtask bench --peers` installs it",
            program.display()
        );
    }
    let address = free_address()?;
    std::fs::write(
        dir.join("hello.js"),
        "export default { async fetch(request) { return new Response('Hello, world!\\n'); } };\n",
    )?;
    std::fs::write(
        dir.join("config.capnp"),
        format!(
            "using Workerd = import \"/workerd/workerd.capnp\";\n\
             const config :Workerd.Config = (\n\
               services = [(name = \"main\", worker = .hello)],\n\
               sockets = [(name = \"http\", address = \"{address}\", http = (), service = \"main\")]\n\
             );\n\
             const hello :Workerd.Worker = (\n\
               modules = [(name = \"hello\", esModule = embed \"hello.js\")],\n\
               compatibilityDate = \"2025-01-01\"\n\
             );\n"
        ),
    )?;
    let child = pinned(&options.server_cpus, &program.canonicalize()?)
        .args(["serve", "config.capnp"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start workerd")?;
    Ok((Running::new(child), address))
}

fn nginx(options: &Options, dir: &Path) -> Result<(Running, SocketAddr)> {
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx"]
        .iter()
        .map(Path::new)
        .find(|p| p.exists());
    let Some(program) = program else {
        bail!("nginx is not installed; `apt-get install nginx-light` has it")
    };
    let address = free_address()?;
    let site = options
        .app
        .join("site")
        .canonicalize()
        .context("the benchmark app's site")?;
    let dir_text = dir.display();
    std::fs::write(
        dir.join("nginx.conf"),
        format!(
            "daemon off; worker_processes 1; pid {dir_text}/pid; error_log {dir_text}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; etag on;\n\
             open_file_cache max=1000; client_body_temp_path {dir_text}/b; proxy_temp_path {dir_text}/p;\n\
             fastcgi_temp_path {dir_text}/f; uwsgi_temp_path {dir_text}/u; scgi_temp_path {dir_text}/s;\n\
             server {{ listen {address}; root {}; }} }}\n",
            site.display()
        ),
    )?;
    let child = pinned(&options.server_cpus, program)
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start nginx")?;
    Ok((Running::new(child), address))
}
