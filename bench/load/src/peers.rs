//! The servers under load: how each is started on the server's cores, and what the kernel says they used.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
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

/// A running server; killed when dropped.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    address: SocketAddr,
    _dir: Scratch,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub(crate) async fn start(kind: Kind, options: &Options) -> Result<Server> {
        let dir = Scratch::new(kind.name())?;
        let (child, address) = match kind {
            Kind::Cloudlet => cloudlet(options, dir.path())?,
            Kind::WasmtimeServe => wasmtime_serve(options)?,
            Kind::Workerd => workerd(options, dir.path())?,
            Kind::Nginx => nginx(options, dir.path())?,
        };
        let server = Server {
            kind,
            child,
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
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        Ok(self.processes()?.iter().map(|p| p.ticks as f64).sum::<f64>() / ticks_per_s)
    }

    /// Resident memory of the server and all its descendants.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let page = rustix::param::page_size() as u64;
        Ok(self.processes()?.iter().map(|p| p.resident_pages * page).sum())
    }

    fn processes(&self) -> Result<Vec<Process>> {
        let all = processes()?;
        let mut wanted = vec![self.child.id()];
        let mut at = 0;
        while at < wanted.len() {
            let parent = wanted[at];
            wanted.extend(all.values().filter(|p| p.parent == parent).map(|p| p.id));
            at += 1;
        }
        Ok(wanted.iter().filter_map(|id| all.get(id).copied()).collect())
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.kill();
        Ok(())
    }

    fn kill(&mut self) {
        for process in self.processes().unwrap_or_default().iter().rev() {
            if let Some(pid) = rustix::process::Pid::from_raw(process.id as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Debug, Clone, Copy)]
struct Process {
    id: u32,
    parent: u32,
    ticks: u64,
    resident_pages: u64,
}

/// All processes, from `/proc/*/stat` (proc(5): fields 4, 14, 15 and 24).
fn processes() -> Result<HashMap<u32, Process>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
            continue;
        };
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let process = Process {
            id,
            parent: field(4) as u32,
            ticks: field(14) + field(15),
            resident_pages: field(24),
        };
        all.insert(id, process);
    }
    Ok(all)
}

/// Keeps the generator off the server's cores.
pub(crate) fn pin_self(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("pin the generator to CPU {cpu}"))
}

fn pinned(options: &Options, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command
        .arg("-c")
        .arg(&options.server_cpus)
        .arg(program)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

fn cloudlet(options: &Options, dir: &Path) -> Result<(Child, SocketAddr)> {
    let mut child = pinned(options, &options.cloudlet)
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(dir.join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(std::fs::File::create(dir.join("log"))?))
        .spawn()
        .with_context(|| format!("start {}", options.cloudlet.display()))?;
    let mut lines = BufReader::new(child.stdout.take().context("the node's output is piped")?).lines();
    let (mut public, mut admin, mut key) = (None, None, None);
    while public.is_none() || admin.is_none() || key.is_none() {
        let Some(line) = lines.next().transpose()? else {
            bail!(
                "the node ended early: {}",
                std::fs::read_to_string(dir.join("log")).unwrap_or_default()
            );
        };
        let after = |prefix: &str| line.strip_prefix(prefix).map(str::to_owned);
        public = public.or(after("listening public http://"));
        admin = admin.or(after("listening admin http://"));
        key = key.or(after("admin key: "));
    }
    std::thread::spawn(move || lines.for_each(drop));
    let (public, admin, key) = (
        public.unwrap_or_default(),
        admin.unwrap_or_default(),
        key.unwrap_or_default(),
    );
    let item = format!(r#"{{"_id":1,"name":"item","text":"{}"}}"#, "x".repeat(200));
    for arguments in [&["deploy"][..], &["db", "insert", "items", &item]] {
        let command = Command::new(&options.cloudlet)
            .args(arguments)
            .arg("-C")
            .arg(&options.app)
            .args(["--node", &format!("http://{admin}"), "--key", &key])
            .output()
            .context("run `cloudlet`")?;
        if !command.status.success() {
            let _ = child.kill();
            bail!(
                "`cloudlet {}` failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&command.stderr)
            );
        }
    }
    Ok((child, public.parse().context("parse the node's address")?))
}

fn wasmtime_serve(options: &Options) -> Result<(Child, SocketAddr)> {
    let program = options.peers.join("bin/wasmtime");
    if !program.exists() {
        bail!(
            "{} is not there; `cargo xtask bench --peers` builds it",
            program.display()
        );
    }
    let address = free_address()?;
    let child = pinned(options, &program)
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
    Ok((child, address))
}

fn hello_component(options: &Options) -> PathBuf {
    options
        .app
        .join("../guests/target/wasm32-wasip2/release/bench_hello.wasm")
}

fn workerd(options: &Options, dir: &Path) -> Result<(Child, SocketAddr)> {
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
    let child = pinned(options, &program.canonicalize()?)
        .args(["serve", "config.capnp"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start workerd")?;
    Ok((child, address))
}

fn nginx(options: &Options, dir: &Path) -> Result<(Child, SocketAddr)> {
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
    let child = pinned(options, program)
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start nginx")?;
    Ok((child, address))
}

/// A port that was free a moment ago; for peers that can't be told to choose one and say which.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A directory that goes when its server does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!(
            "cloudlet-bench-{}-{}",
            name.replace(' ', "-"),
            std::process::id()
        ));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
