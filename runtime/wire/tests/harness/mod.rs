//! What the integration tests share: the example server as a process, and other people's packages in a cache.

#[path = "../../examples/mongod.rs"]
#[allow(dead_code, reason = "an example has a main function, which nobody calls here")]
mod mongod;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// PyMongo and what its tests need.
const PYTHON_PACKAGES: [&str; 6] = [
    "pymongo==4.20.0",
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "pytest-asyncio==1.5.0",
    "python-snappy==0.7.3",
    "backports.zstd==1.8.0",
];

/// Installing is done by one test at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Set in the environment of a server: its arguments, one a line.
const SERVE: &str = "CLOUDLET_TEST_SERVE";

/// No test but the server of the others: it serves in the process that [`Mongod::start`] makes.
#[test]
fn serves_when_told_to() {
    if let Ok(args) = std::env::var(SERVE) {
        mongod::serve(args.lines().map(str::to_owned)).unwrap();
    }
}

/// A running example server; killed when dropped.
pub(crate) struct Mongod {
    child: Child,
    stdin: Option<ChildStdin>,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Mongod {
    /// Starts one with these arguments and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        // This very program, so that the server is never older than the test.
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "harness::serves_when_told_to", "--nocapture"])
            .env(SERVE, args.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.split_once("listening mongodb://")?.1;
                rest.strip_suffix('/').map(str::to_owned)
            })
            .expect("the server says where it listens");
        // What the test program says at its end must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            address,
        }
    }

    /// The port alone.
    #[allow(
        dead_code,
        reason = "one of the two test programs connects by the whole address only"
    )]
    pub(crate) fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }

    /// Stops it gracefully.
    #[allow(
        dead_code,
        reason = "one of the two test programs stops servers by dropping them only"
    )]
    pub(crate) fn stop(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where downloaded packages stay between runs.
pub(crate) fn cache() -> PathBuf {
    let dir = std::env::var_os("CLOUDLET_TEST_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-cache"),
        PathBuf::from,
    );
    std::fs::create_dir_all(&dir).unwrap();
    dir.canonicalize().unwrap()
}

/// Makes something in the cache once: `make` fills an empty directory of that name, and runs again when `wanted`
/// is not what it was made from.
pub(crate) fn cached(name: &str, wanted: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = cache().join(name);
    let stamp = dir.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|seen| seen == wanted) {
        return dir;
    }
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    make(&dir);
    std::fs::write(stamp, wanted).unwrap();
    dir
}

/// A Python with PyMongo.
pub(crate) fn python() -> PathBuf {
    let env = cached("wire-python", &PYTHON_PACKAGES.join("\n"), |dir| {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir));
        run(Command::new(dir.join("bin/pip"))
            .args(["install", "--quiet"])
            .args(PYTHON_PACKAGES));
    });
    env.join("bin/python")
}

/// Runs a command to its end; gives what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("can't run {command:?}: {error}"));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    out
}
