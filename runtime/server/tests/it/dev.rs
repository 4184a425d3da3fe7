//! `dev`: what is saved is served, what did not change is not built again, and mistakes take nothing down.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::cli::{Desk, command};
use crate::harness::{guest_bytes, terminate};
use crate::http::{Client, Response};

/// Longest wait for a line.
const LINE_WAIT: Duration = Duration::from_secs(120);

/// `cloudlet dev` in a desk's directory, killed when the test fails.
struct Dev {
    child: Child,
    public: SocketAddr,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// The lines that a program writes, as they come.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut read = BufReader::new(from).lines().map_while(Result::ok);
        // To the end, or until nobody listens.
        read.all(|line| sender.send(line).is_ok())
    });
    lines
}

/// Waits for a line with this text. Gives it.
#[track_caller]
fn wait_for(lines: &Receiver<String>, text: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(LINE_WAIT) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => seen.push(line),
            Err(error) => panic!("{text:?}: {error}; what came: {seen:#?}"),
        }
    }
}

impl Dev {
    fn start(desk: &Desk) -> Self {
        let args = ["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut child = command(desk.dir.path(), None).args(args).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        let listening = wait_for(&out, "listening public ");
        let public = listening.rsplit_once('/').unwrap().1.parse().unwrap();
        Self {
            child,
            public,
            out,
            err,
        }
    }

    /// Waits for a line of its standard output.
    #[track_caller]
    fn says(&self, text: &str) {
        wait_for(&self.out, text);
    }

    /// Waits for a line of its standard error.
    #[track_caller]
    fn complains(&self, text: &str) {
        wait_for(&self.err, text);
    }

    fn get(&self, path: &str) -> Response {
        Client::connect(self.public).get(path)
    }

    fn stop(mut self) {
        terminate(&self.child);
        let status = self.child.wait().unwrap();
        let rest: Vec<String> = self.err.iter().collect();
        assert!(status.success(), "{status}: {rest:#?}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_saved_is_served_and_mistakes_are_survived() {
    let desk = Desk::new(None);
    let manifest = "manifest_version = 1\n[app]\nname = \"web\"\n[hosting]\ndir = \"dist\"\n";
    desk.run(&["dev"]).fails(&["cloudlet.toml"]);
    desk.write("cloudlet.toml", manifest);
    desk.write("dist/index.html", "one");
    let dev = Dev::start(&desk);
    dev.says("deployment 1");
    assert_eq!(dev.get("/").text(), "one");
    desk.write("dist/index.html", "two");
    dev.says("deployment 2");
    assert_eq!(dev.get("/").text(), "two");
    // A mistake is told, and what ran goes on.
    desk.write("cloudlet.toml", &format!("{manifest}spaa = true\n"));
    dev.complains("did you mean \"spa\"?");
    assert_eq!(dev.get("/").text(), "two");
    desk.write("cloudlet.toml", &format!("{manifest}spa = true\n"));
    dev.says("deployment 3");
    assert_eq!(dev.get("/any/where").text(), "two");
    // The site's directory is made anew.
    fs::remove_dir_all(desk.dir.path().join("dist")).unwrap();
    desk.write("dist/index.html", "three");
    dev.says("deployment 4");
    desk.write("dist/index.html", "four");
    dev.says("deployment 5");
    assert_eq!(dev.get("/").text(), "four");
    // Other commands in the directory find the node.
    assert!(desk.run(&["versions"]).ok().contains("active"));
    dev.stop();
}

const TWO_FUNCTIONS: &str = r#"manifest_version = 1
[app]
name = "web"
[function.one]
source = "dist/one.wasm"
build = { command = "sh build.sh one", watch = ["one/**"] }
[function.two]
source = "dist/two.wasm"
build = { command = "sh build.sh two", watch = ["two/**"] }
[[trigger.http]]
route = "/one"
function = "one"
[[trigger.http]]
route = "/..."
function = "two"
"#;

/// Notes that it ran; waits while there is a file `.hold`; fails when the function is broken.
const BUILD: &str = r#"set -eu
mkdir -p dist .builds
echo run >> ".builds/$1"
while test -e .hold; do sleep 0.05; done
if test -e "$1/broken"; then
    echo "no such luck" >&2
    exit 1
fi
cp "$1/guest.wasm" "dist/$1.wasm"
"#;

/// How often the functions were built.
fn builds(desk: &Desk) -> (usize, usize) {
    let of = |function: &str| {
        let text = fs::read_to_string(desk.dir.path().join(".builds").join(function));
        text.map_or(0, |text| text.lines().count())
    };
    (of("one"), of("two"))
}

fn put_guest(desk: &Desk, path: &str, guest: &str) {
    desk.write(path, "");
    fs::write(desk.dir.path().join(path), guest_bytes(guest)).unwrap();
}

#[test]
fn only_what_changed_is_built_and_what_ran_answers_until_it_is() {
    let desk = Desk::new(None);
    desk.write("cloudlet.toml", TWO_FUNCTIONS);
    desk.write("build.sh", BUILD);
    put_guest(&desk, "one/guest.wasm", "hello");
    put_guest(&desk, "two/guest.wasm", "misbehave");
    let dev = Dev::start(&desk);
    dev.says("deployment 1");
    assert_eq!(builds(&desk), (1, 1));
    assert!(dev.get("/one").text().contains("hello"));
    desk.run(&["db", "insert", "notes", r#"{"_id":1,"text":"kept"}"#])
        .ok();
    let notes = || desk.run(&["db", "find", "notes"]).ok();
    // What functions say is shown as it comes.
    assert_eq!(dev.get("/print").status, 200);
    dev.says("by wasi:logging");

    put_guest(&desk, "one/guest.wasm", "echo");
    dev.says("deployment 2");
    assert_eq!(builds(&desk), (2, 1));
    let is_echo = |dev: &Dev| dev.get("/one").header("x-path") == Some("/one");
    assert!(is_echo(&dev));
    assert!(notes().contains("kept"));

    // A build that fails is told; what ran answers.
    desk.write("one/broken", "");
    dev.complains("no such luck");
    dev.complains("the build of function \"one\" failed");
    dev.complains("goes on running");
    assert!(is_echo(&dev) && builds(&desk) == (3, 1));
    // What failed is tried again with the next change, and what changed waits for it.
    desk.write("two/note", "");
    dev.complains("the build of function \"one\" failed");
    assert_eq!(builds(&desk), (4, 1));
    fs::remove_file(desk.dir.path().join("one/broken")).unwrap();
    dev.says("deployment 2, unchanged");
    assert_eq!(builds(&desk), (5, 2));
    dev.stop();

    // The next `dev` begins with what the last one had, while it builds.
    desk.write(".hold", "");
    let dev = Dev::start(&desk);
    for _ in 0..1000 {
        if builds(&desk).0 == 6 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(builds(&desk), (6, 2));
    assert!(is_echo(&dev));
    assert!(notes().contains("kept"));
    assert_eq!(dev.get("/print").status, 200);
    dev.says("by wasi:logging");
    fs::remove_file(desk.dir.path().join(".hold")).unwrap();
    dev.says("deployment 2, unchanged");
    assert_eq!(builds(&desk), (6, 3));
    dev.stop();
}
