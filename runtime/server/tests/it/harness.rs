//! Starting, driving and stopping nodes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::http::{Client, Response};

/// A running node.
pub(crate) struct Node {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The MongoDB listener, where there is one.
    pub(crate) mongo: Option<SocketAddr>,
    /// The admin key, printed at the first start.
    pub(crate) key: String,
    dir: Arc<TempDir>,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    expected: Vec<&'static str>,
}

/// Sends SIGTERM to a program that was started here.
pub(crate) fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// How to start a node.
#[derive(Default)]
pub(crate) struct Options {
    args: Vec<String>,
    dir: Option<(Arc<TempDir>, String)>,
    expected: Vec<&'static str>,
    survives_file_limits: bool,
}

impl Options {
    /// With this setting, e.g. `("limits-header-timeout", "300ms")`.
    pub(crate) fn set(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.args.extend([format!("--{flag}"), value.into()]);
        self
    }

    /// A WARN or ERROR line with this text is what the test wants to see.
    pub(crate) fn expect_log(mut self, text: &'static str) -> Self {
        self.expected.push(text);
        self
    }

    /// A write over the limit on the size of files fails like one on a full disk; by default it would end the node.
    pub(crate) fn surviving_file_limits(mut self) -> Self {
        self.survives_file_limits = true;
        self
    }

    /// On the data directory of an earlier node, whose admin key is known.
    pub(crate) fn on(mut self, dir: Arc<TempDir>, key: &str) -> Self {
        self.dir = Some((dir, key.to_owned()));
        self
    }

    /// Starts the node and waits until it listens.
    pub(crate) fn start(self) -> Node {
        let (dir, mut key) = match self.dir {
            Some((dir, key)) => (dir, key),
            None => (Arc::new(TempDir::new().unwrap()), String::new()),
        };
        let mut command = command(dir.path(), &self.args);
        if self.survives_file_limits {
            command = ignoring_xfsz(&command);
        }
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut readers = vec![follow(BufReader::new(child.stderr.take().unwrap()), log.clone())];
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut public, mut admin, mut mongo) = (None, None, None);
        let mut line = String::new();
        while public.is_none() || admin.is_none() {
            line.clear();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let status = child.wait().unwrap();
                panic!(
                    "the node ended with {status} instead of listening:\n{}",
                    log.lock().unwrap().join("\n")
                );
            }
            if let Some(text) = line.trim().strip_prefix("admin key: ") {
                key = text.to_owned();
            } else if let Some(url) = line.trim().strip_prefix("listening public ") {
                public = Some(address(url));
            } else if let Some(url) = line.trim().strip_prefix("listening mongo ") {
                mongo = Some(address(url.trim_end_matches('/')));
            } else if let Some(url) = line.trim().strip_prefix("listening admin ") {
                admin = Some(address(url));
            }
        }
        readers.push(follow(stdout, Arc::default()));
        Node {
            child,
            public: public.unwrap(),
            admin: admin.unwrap(),
            mongo,
            key,
            dir,
            log,
            readers,
            expected: self.expected,
        }
    }
}

/// Longest wait for something to happen; only a node that does nothing sees it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something happens.
#[track_caller]
pub(crate) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
    }
}

fn address(url: &str) -> SocketAddr {
    url.split_once("//").unwrap().1.parse().unwrap()
}

fn follow(mut from: impl std::io::BufRead + Send + 'static, into: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut line = String::new();
        while from.read_line(&mut line).is_ok_and(|read| read > 0) {
            into.lock()
                .unwrap()
                .push(std::mem::take(&mut line).trim_end().to_owned());
        }
    })
}

fn command(dir: &Path, args: &[String]) -> Command {
    // The caches and the pool are small enough that many nodes fit beside each other on a small machine.
    let defaults = [
        ("--listen", "127.0.0.1:0"),
        ("--admin-listen", "127.0.0.1:0"),
        ("--workers", "2"),
        ("--database-cache-bytes", "16MiB"),
        ("--storage-cache-bytes", "16MiB"),
        ("--functions-instances-max", "50"),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloudlet"));
    command.arg("serve");
    for (flag, value) in defaults {
        if !args.iter().any(|arg| arg == flag) {
            command.args([flag, value]);
        }
    }
    command
        .args(["--data-dir", dir.to_str().unwrap()])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    without_settings(&mut command);
    command
}

/// The program as it is without any settings in the environment of the tests.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLOUDLET_") {
            command.env_remove(name);
        }
    }
}

/// The same command, started by a shell that ignores the signal; what it becomes does then, too.
fn ignoring_xfsz(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        assert!(value.is_none());
        shell.env_remove(name);
    }
    shell
}

/// Runs `cloudlet serve` where it should fail; gives its exit status and standard error.
pub(crate) fn serve_fails(dir: &Path, args: &[&str]) -> (ExitStatus, String) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let mut child = command(dir, &args).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap(), text)
}

impl Node {
    /// A node with the defaults.
    pub(crate) fn start() -> Self {
        Options::default().start()
    }

    /// The node's data directory.
    pub(crate) fn dir(&self) -> Arc<TempDir> {
        self.dir.clone()
    }

    /// The node's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to the public listener.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.public)
    }

    /// One request on the admin listener under the admin key.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &[u8]) -> Response {
        let bearer = format!("Bearer {}", self.key);
        Client::connect(self.admin).send(method, path, &[("authorization", &bearer)], body)
    }

    /// The value of one line of /metrics, e.g. `cloudlet_http_connections{listener="public"}`; 0 when it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.admin("GET", "/metrics", b"").text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// What the node has written to its own log so far.
    pub(crate) fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Sends SIGTERM without waiting.
    pub(crate) fn terminate(&self) {
        terminate(&self.child);
    }

    /// Stops the node gracefully and checks that it ended well and logged nothing unexpected.
    pub(crate) fn stop(self) {
        self.terminate();
        self.ended();
    }

    /// Waits for the end of a node that was told to stop.
    pub(crate) fn ended(mut self) {
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let log = self.log.lock().unwrap().clone();
        assert!(
            status.success(),
            "the node ended with {status}:\n{}",
            log.join("\n")
        );
        let odd: Vec<&String> = log
            .iter()
            .filter(|line| {
                [" WARN ", " ERROR ", "panicked"]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .filter(|line| !self.expected.iter().any(|text| line.contains(text)))
            .collect();
        assert!(odd.is_empty(), "unexpected in the log: {odd:#?}");
    }

    /// Kills the node as a power failure would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Deploys an app through the admin API.
    pub(crate) fn deploy(&self, app: &App) -> Response {
        self.deploy_as(app, json!({}))
    }

    /// Deploys an app as `plan` has it: as a canary, staged, based on what was seen.
    pub(crate) fn deploy_as(&self, app: &App, plan: Value) -> Response {
        let request = self.upload(app, plan);
        let path = format!("/v1/apps/{}/deployments", app.name);
        self.admin("POST", &path, request.to_string().as_bytes())
    }

    /// Sends an app's content; gives the request that deploys it.
    pub(crate) fn upload(&self, app: &App, plan: Value) -> Value {
        let mut components = Vec::new();
        for (function, guest) in &app.functions {
            let hash = self.put_content(guest);
            components.push(json!({ "function": function, "hash": hash }));
        }
        let mut site = Vec::new();
        for (path, content_type, bytes) in &app.site {
            let hash = self.put_content(bytes);
            site.push(
                json!({ "path": path, "hash": hash, "size": bytes.len(), "contentType": content_type }),
            );
        }
        json!({ "manifest": app.manifest(), "components": components, "site": site, "plan": plan })
    }

    /// Deploys an example as it stands in the repository, but for the port at which it finds other apps.
    pub(crate) fn deploy_example(&self, name: &'static str) -> Response {
        let dir = workspace().join("examples").join(name);
        let manifest = std::fs::read_to_string(dir.join("cloudlet.toml")).unwrap();
        let manifest = manifest.replace(":8080", &format!(":{}", self.public.port()));
        let parsed: toml::Table = manifest.parse().unwrap();
        let mut components = Vec::new();
        for (function, settings) in parsed["function"].as_table().unwrap() {
            let source = dir.join(settings["source"].as_str().unwrap());
            let bytes = std::fs::read(&source).unwrap_or_else(|error| {
                panic!("can't read {source:?}: {error}; `cargo xtask test` builds it")
            });
            components.push(json!({ "function": function, "hash": self.put_content(&bytes) }));
        }
        let mut site = Vec::new();
        if let Some(hosting) = parsed.get("hosting") {
            for entry in std::fs::read_dir(dir.join(hosting["dir"].as_str().unwrap())).unwrap() {
                let entry = entry.unwrap();
                let (bytes, path) = (std::fs::read(entry.path()).unwrap(), entry.file_name());
                let path = format!("/{}", path.to_str().unwrap());
                let content_type = mime_guess::from_path(&path).first_or_octet_stream().to_string();
                let hash = self.put_content(&bytes);
                site.push(
                    json!({ "path": path, "hash": hash, "size": bytes.len(), "contentType": content_type }),
                );
            }
        }
        let request = json!({ "manifest": manifest, "components": components, "site": site });
        self.admin(
            "POST",
            &format!("/v1/apps/{name}/deployments"),
            request.to_string().as_bytes(),
        )
    }

    pub(crate) fn put_content(&self, bytes: &[u8]) -> String {
        let hash: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let stored = self.admin("PUT", &format!("/v1/content/{hash}"), bytes);
        assert!(stored.status / 100 == 2, "{stored:?}");
        hash
    }

    /// A node with one app deployed.
    pub(crate) fn with(app: &App) -> Self {
        Self::with_options(app, Options::default())
    }

    /// A node started like this, with one app deployed.
    pub(crate) fn with_options(app: &App, options: Options) -> Self {
        let node = options.start();
        let deployed = node.deploy(app);
        assert!(deployed.status / 100 == 2, "{deployed:?}");
        node
    }

    /// The JSON of an auth request that must succeed.
    pub(crate) fn log_in(&self, path: &str, body: &Value) -> Value {
        let reply = self.client().send(
            "POST",
            &format!("/auth/v1/{path}"),
            &[],
            body.to_string().as_bytes(),
        );
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// The access token of a new anonymous user.
    pub(crate) fn anonymous(&self) -> String {
        self.log_in("signin/anonymously", &json!({}))["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Only after a failed test is it still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the node's log:\n{}", self.log.lock().unwrap().join("\n"));
        }
    }
}

/// An app to deploy: fixture guests by function name, a site, and the rest of the manifest.
#[derive(Default)]
pub(crate) struct App {
    pub(crate) name: &'static str,
    functions: Vec<(&'static str, Vec<u8>)>,
    site: Vec<(&'static str, &'static str, Vec<u8>)>,
    manifest: String,
}

impl App {
    /// An app with nothing in it.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// A function made of a fixture, with the lines of its manifest section.
    pub(crate) fn function(mut self, name: &'static str, guest: &'static str, lines: &str) -> Self {
        self.functions.push((name, guest_bytes(guest)));
        self.manifest += &format!("[function.{name}]\nsource = \"{guest}.wasm\"\n{lines}\n");
        self
    }

    /// A function made of these bytes.
    pub(crate) fn component(mut self, name: &'static str, bytes: &[u8], lines: &str) -> Self {
        self.functions.push((name, bytes.to_vec()));
        self.manifest += &format!("[function.{name}]\nsource = \"{name}.wasm\"\n{lines}\n");
        self
    }

    /// An HTTP trigger.
    pub(crate) fn route(mut self, route: &str, methods: &[&str], function: &str) -> Self {
        self.manifest += &format!("[[trigger.http]]\nroute = {route:?}\nfunction = {function:?}\n");
        if !methods.is_empty() {
            self.manifest += &format!("methods = {methods:?}\n");
        }
        self
    }

    /// A file of its site.
    pub(crate) fn file(
        mut self,
        path: &'static str,
        content_type: &'static str,
        bytes: impl Into<Vec<u8>>,
    ) -> Self {
        self.site.push((path, content_type, bytes.into()));
        self
    }

    /// More of the manifest.
    pub(crate) fn lines(mut self, lines: &str) -> Self {
        self.manifest += lines;
        self.manifest.push('\n');
        self
    }

    fn manifest(&self) -> String {
        let hosting = if self.site.is_empty() {
            ""
        } else {
            "[hosting]\ndir = \"dist\"\n"
        };
        format!(
            "manifest_version = 1\n[app]\nname = {:?}\n{}{hosting}",
            self.name, self.manifest
        )
    }
}

/// A fixture component with another hash, which does the same: it has a custom section more.
pub(crate) fn variant(guest: &str, number: u8) -> Vec<u8> {
    let mut bytes = guest_bytes(guest);
    bytes.extend_from_slice(&[0, 3, 1, b'v', number]);
    bytes
}

/// A fixture component, as `cargo xtask test` builds it before the tests.
pub(crate) fn guest_bytes(name: &str) -> Vec<u8> {
    let path = workspace().join(format!("target/guests/wasm32-wasip2/release/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("can't read {path:?}: {error}; `cargo xtask test` builds the fixtures")
    })
}

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_path_buf()
}

/// Where tests keep what they install, between runs.
pub(crate) fn test_cache() -> PathBuf {
    let dir = std::env::var_os("CLOUDLET_TEST_CACHE")
        .map_or_else(|| workspace().join("target/test-cache"), PathBuf::from);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// What [`run`] says is missing when a program of Python's can't be started.
pub(crate) const PYTHON: &str = "Python 3 with venv";
/// The same of Node.js' programs.
pub(crate) const NODE_JS: &str = "Node.js 20 or newer with npm";

/// A Python with these packages of PyPI (`name==version`), made once in the cache; gives its interpreter.
pub(crate) fn python_with(name: &str, packages: &[&str]) -> PathBuf {
    let env = installed(name, packages, |env| {
        run(
            PYTHON,
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(env),
        );
        run(
            PYTHON,
            Command::new(env.join("bin/pip"))
                .args(["install", "--quiet"])
                .args(packages),
        );
    });
    env.join("bin/python")
}

/// A directory whose `node_modules` has these packages of npm (`name@version`), made once in the cache.
pub(crate) fn npm_packages(name: &str, packages: &[&str]) -> PathBuf {
    installed(name, packages, |dir| {
        // Over an older installation npm leaves out some of what the packages need.
        if dir.exists() {
            std::fs::remove_dir_all(dir).unwrap();
        }
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("package.json"), r#"{"private":true}"#).unwrap();
        let install = [
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--ignore-scripts",
        ];
        run(
            NODE_JS,
            Command::new("npm").args(install).args(packages).current_dir(dir),
        );
    })
}

/// A directory of the cache that `install` fills, unless it was filled for the same packages.
fn installed(name: &str, packages: &[&str], install: impl FnOnce(&Path)) -> PathBuf {
    // Several tests want the same.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = test_cache().join(name);
    let (stamp, wanted) = (dir.join("installed"), packages.join("\n"));
    if !std::fs::read_to_string(&stamp).is_ok_and(|seen| seen == wanted) {
        install(&dir);
        std::fs::write(stamp, wanted).unwrap();
    }
    dir
}

/// Runs a program that has to succeed; gives its standard output. `needs` is what to install when it can't be started.
pub(crate) fn run(needs: &str, command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("this test needs {needs}: can't start {command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    // A Python without venv starts, and then fails.
    assert!(
        output.status.success(),
        "{command:?} failed (it needs {needs}):\n{out}{err}"
    );
    out.into_owned()
}
