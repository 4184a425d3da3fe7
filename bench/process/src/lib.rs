//! The servers that the benchmarks load: how one is started on the server's cores, what the kernel says that it and its
//! descendants used, and how the node itself is brought up with the benchmarks' app.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A running server and its descendants; killed when dropped.
pub struct Running(Child);

impl Running {
    /// Takes over a child that was started.
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// CPU time of the server and all its descendants so far.
    ///
    /// # Errors
    ///
    /// When `/proc` can't be read.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        Ok(self.processes()?.iter().map(|p| p.ticks as f64).sum::<f64>() / ticks_per_s)
    }

    /// Resident memory of the server and all its descendants.
    ///
    /// # Errors
    ///
    /// When `/proc` can't be read.
    pub fn resident_bytes(&self) -> Result<u64> {
        let page = rustix::param::page_size() as u64;
        Ok(self.processes()?.iter().map(|p| p.resident_pages * page).sum())
    }

    fn processes(&self) -> Result<Vec<Process>> {
        let all = processes()?;
        let mut wanted = vec![self.0.id()];
        let mut at = 0;
        while at < wanted.len() {
            let parent = wanted[at];
            wanted.extend(all.values().filter(|p| p.parent == parent).map(|p| p.id));
            at += 1;
        }
        Ok(wanted.iter().filter_map(|id| all.get(id).copied()).collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in self.processes().unwrap_or_default().iter().rev() {
            if let Some(pid) = rustix::process::Pid::from_raw(process.id as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let _ = self.0.wait();
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

/// Keeps the generator off the server's cores: this thread, and those that it starts from now on.
///
/// # Errors
///
/// When the machine has no such CPU.
pub fn pin_self(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("pin the generator to CPU {cpu}"))
}

/// A command that runs `program` on the CPUs of a list, as `taskset -c` takes it.
pub fn pinned(cpus: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command
        .arg("-c")
        .arg(cpus)
        .arg(program)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

/// A port that was free a moment ago; for peers that can't be told to choose one and say which.
///
/// # Errors
///
/// When none can be had.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A directory that goes when its server does.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty one below `parent`.
    ///
    /// # Errors
    ///
    /// When it can't be made.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let dir = parent.join(format!(
            "cloudlet-bench-{}-{}",
            name.replace(' ', "-"),
            std::process::id()
        ));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node with the benchmarks' app on it.
pub struct Node {
    /// The process.
    pub running: Running,
    /// Where the app is served.
    pub public: SocketAddr,
    /// Where MongoDB's protocol is spoken, if the node was told to.
    pub mongo: Option<SocketAddr>,
    program: PathBuf,
    app: PathBuf,
    admin: String,
    key: String,
}

impl Node {
    /// Starts the release binary `program` on `cpus` with further arguments of `serve`, its data and log in `dir`,
    /// and deploys `app`.
    ///
    /// # Errors
    ///
    /// When the node does not come up, with its log, or does not take the app.
    pub fn start(program: &Path, cpus: &str, dir: &Path, app: &Path, arguments: &[&str]) -> Result<Node> {
        let node = Self::serve(program, cpus, dir, app, None, arguments)?;
        node.run(&["deploy"], "")?;
        Ok(node)
    }

    /// As [`start`](Self::start), without a deploy. A node that was there before has its admin key told in `key`.
    ///
    /// # Errors
    ///
    /// When the node does not come up, with its log.
    pub fn serve(
        program: &Path,
        cpus: &str,
        dir: &Path,
        app: &Path,
        mut key: Option<String>,
        arguments: &[&str],
    ) -> Result<Node> {
        let mut child = pinned(cpus, program)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(arguments)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(std::fs::File::create(dir.join("log"))?))
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("the node's output is piped")?).lines();
        let running = Running::new(child);
        let (mut public, mut mongo, mut admin) = (None, None, None);
        while public.is_none() || admin.is_none() || key.is_none() {
            let Some(line) = lines.next().transpose()? else {
                bail!(
                    "the node ended early: {}",
                    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
                );
            };
            let after = |prefix: &str| line.strip_prefix(prefix).map(str::to_owned);
            public = public.or(after("listening public http://"));
            mongo = mongo.or(after("listening mongo mongodb://"));
            admin = admin.or(after("listening admin http://"));
            key = key.or(after("admin key: "));
        }
        std::thread::spawn(move || lines.for_each(drop));
        let parse = |text: Option<String>| -> Result<Option<SocketAddr>> {
            text.map(|text| {
                text.trim_end_matches('/')
                    .parse()
                    .context("parse the node's address")
            })
            .transpose()
        };
        Ok(Node {
            running,
            public: parse(public)?.context("the node said where it listens")?,
            mongo: parse(mongo)?,
            program: program.to_owned(),
            app: app.to_owned(),
            admin: admin.unwrap_or_default(),
            key: key.unwrap_or_default(),
        })
    }

    /// The key of its admin API, for [`serve`](Self::serve) on the same directory.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Runs a command of the binary's command line on this node and app, with `input` as its standard input.
    ///
    /// # Errors
    ///
    /// When it fails, with what it wrote.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<()> {
        self.run_in(&self.app, arguments, input)
    }

    /// The same for the app in another directory.
    ///
    /// # Errors
    ///
    /// When it fails, with what it wrote.
    pub fn run_in(&self, app: &Path, arguments: &[&str], input: &str) -> Result<()> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .arg("-C")
            .arg(app)
            .args(["--node", &format!("http://{}", self.admin), "--key", &self.key])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run `cloudlet`")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "`cloudlet {}` failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}
