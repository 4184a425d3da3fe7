//! The command line against a node: results on standard output, reasons on standard error, exit codes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use cloudlet_docdb::kv::{Kv as _, RedbKv, RedbOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{App, Node, without_settings};
use crate::http::Client;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// It failed, and said all of `words`.
    #[track_caller]
    pub(crate) fn fails(self, words: &[&str]) {
        assert_eq!(self.code, 1, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} not in {self:?}");
        }
    }
}

/// The command line in a directory, for a node.
pub(crate) fn command(dir: &Path, node: Option<&Node>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloudlet"));
    without_settings(&mut command);
    command
        .current_dir(dir)
        .env("CLOUDLET_CONFIG_DIR", dir.join("config"));
    if let Some(node) = node {
        command.env("CLOUDLET_NODE", format!("http://{}", node.admin));
        command.env("CLOUDLET_KEY", &node.key);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A directory and perhaps a node.
pub(crate) struct Desk {
    pub(crate) dir: TempDir,
    pub(crate) node: Option<Node>,
}

impl Desk {
    pub(crate) fn new(node: Option<Node>) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            node,
        }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &str) -> Done {
        let mut child = command(self.dir.path(), self.node.as_ref())
            .args(args)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn stop(self) {
        if let Some(node) = self.node {
            node.stop();
        }
    }
}

#[test]
fn a_site_goes_from_nothing_to_served_and_back() {
    let desk = Desk::new(Some(Node::start()));
    desk.run(&["new", "web", "--template", "static"]).ok();
    desk.run(&["new", "web", "--template", "static"])
        .fails(&["there already"]);
    desk.run(&["new", "Web"]).fails(&["invalid app name"]);
    desk.run(&["new", "x", "--template", "sttic"])
        .fails(&["did you mean \"static\"?"]);
    desk.run(&["-C", "web", "versions"]).fails(&["no app \"web\""]);
    assert!(
        desk.run(&["-C", "web", "deploy"])
            .ok()
            .contains("deployment 1 is active")
    );
    let page = || {
        Client::connect(desk.node.as_ref().unwrap().public)
            .get("/")
            .text()
    };
    let first = page();
    desk.write("web/site/index.html", "second");
    assert!(
        desk.run(&["-C", "web", "deploy", "--dry-run"])
            .ok()
            .contains("would be")
    );
    assert_eq!(page(), first);
    desk.run(&["-C", "web", "deploy"]).ok();
    assert_eq!(page(), "second");
    assert!(
        desk.run(&["-C", "web", "deploy"])
            .ok()
            .contains("nothing changed")
    );
    let versions: Value = serde_json::from_str(&desk.run(&["-C", "web", "--json", "versions"]).ok()).unwrap();
    assert_eq!(versions["active"], 2);
    assert!(
        desk.run(&["--app", "web", "rollback"])
            .ok()
            .contains("deployment 1 is active again")
    );
    assert_eq!(page(), first);
    desk.run(&["--app", "web", "rollback"])
        .fails(&["no deployment before 1"]);
    desk.run(&["-C", "nowhere", "deploy"]).fails(&["not a directory"]);
    desk.run(&["deploy"]).fails(&["cloudlet.toml", "cloudlet new"]);
    desk.stop();
}

#[test]
fn validate_tells_every_problem_and_fails() {
    let desk = Desk::new(None);
    desk.run(&["validate"]).fails(&["cloudlet.toml", "cloudlet new"]);
    desk.write(
        "cloudlet.toml",
        "manifest_version = 1\n[app]\nname = \"a\"\n[env.prod.vars]\nx = \"1\"\n",
    );
    assert!(desk.run(&["validate"]).ok().contains("is good"));
    desk.run(&["validate", "--env", "prod"]).ok();
    desk.run(&["validate", "--env", "prdo"])
        .fails(&["did you mean \"prod\"?"]);
    let mistakes = "manifest_version = 1\n[app]\nname = \"A\"\n[vras]\n[auth]\nanonymous = 1\n[[trigger.database]]\n[hosting]\n";
    desk.write("cloudlet.toml", mistakes);
    let words = [
        "cloudlet.toml:3:",
        "cloudlet.toml:4:",
        "cloudlet.toml:6:",
        "cloudlet.toml:7:",
        "cloudlet.toml:8:",
        "6 problem(s)",
    ];
    desk.run(&["validate"]).fails(&words);
    let done = desk.run(&["--json", "validate"]);
    let told: Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(told["error"]["problems"].as_array().unwrap().len(), 6, "{told}");
    assert_eq!(told["error"]["problems"][1]["line"], 4);
}

#[test]
fn documents_are_found_inserted_updated_and_deleted() {
    let desk = Desk::new(Some(Node::with(&App::new("web"))));
    let db = |args: &[&str]| desk.run(&[&["--app", "web", "db"], args].concat());
    db(&["find", "notes"]).fails(&["no document of \"notes\" matches"]);
    db(&[
        "insert",
        "notes",
        r#"[{"_id":1,"z":1,"a":{"$numberLong":"7"}},{"_id":2,"z":2}]"#,
    ])
    .ok();
    assert_eq!(
        db(&["find", "notes", r#"{"z":1}"#]).ok().trim(),
        r#"{"_id":1,"z":1,"a":7}"#
    );
    let sorted = db(&[
        "find",
        "notes",
        "--sort",
        r#"{"z":-1}"#,
        "--fields",
        r#"{"_id":1}"#,
        "--limit",
        "1",
    ]);
    assert_eq!(sorted.ok().trim(), r#"{"_id":2}"#);
    assert!(
        db(&["find", "notes", "--canonical"])
            .ok()
            .contains(r#"{"$numberLong":"7"}"#)
    );
    assert!(
        db(&["update", "notes", "{}", r#"{"$set":{"seen":true}}"#, "--multi"])
            .ok()
            .contains("matched 2")
    );
    db(&["update", "notes", r#"{"_id":9}"#, r#"{"$set":{"seen":true}}"#]).fails(&["matches"]);
    db(&["insert", "notes", r#"{"_id":1}"#]).fails(&["duplicate key"]);
    db(&["insert", "notes", "{"]).fails(&["not JSON"]);
    db(&["find", "notes", r#"{"$nope":1}"#]).fails(&["$nope"]);
    assert!(
        db(&["delete", "notes", "{}", "--multi"])
            .ok()
            .contains("deleted 2")
    );
    db(&["delete", "notes", "{}"]).fails(&["matches"]);
    desk.stop();
}

#[test]
fn a_database_is_checked_when_its_node_is_stopped() {
    let mut desk = Desk::new(Some(Node::with(&App::new("web"))));
    desk.run(&[
        "--app",
        "web",
        "db",
        "insert",
        "notes",
        r#"[{"_id":1},{"_id":2}]"#,
    ])
    .ok();
    let node = desk.node.take().unwrap();
    let data = node.dir();
    let check = |args: &[&str]| {
        let dir = data.path().to_str().unwrap();
        desk.run(&[&["db", "check", "--data-dir", dir], args].concat())
    };
    check(&[]).fails(&["another node or process has it open; stop that one"]);
    node.stop();
    let told = check(&[]).ok();
    assert!(
        told.contains("is whole: ") && told.contains("format version "),
        "{told}"
    );
    let told: Value = serde_json::from_str(&check(&["--json"]).ok()).unwrap();
    assert!(told["documents"].as_u64().unwrap() > 2, "{told}");
    assert_eq!(told["findingCount"], 0);

    let file = data.path().join("docs.redb");
    // A document's row without its collection, made below the engine.
    let options = RedbOptions {
        cache_bytes: 1 << 20,
        log_bytes: 1 << 20,
        log_id: [7; 16],
        fsyncs: prometheus::IntCounter::new("fsyncs", "not shown").unwrap(),
        waits: prometheus::IntCounter::new("waits", "not shown").unwrap(),
    };
    let store = RedbKv::open(&file, options).unwrap();
    store
        .write(&mut |rows| rows.put(&[2, 0, 1, 0, 0, 10], b"lost"))
        .unwrap();
    drop(store);
    let damaged = check(&[]);
    assert!(
        damaged.out.contains("there are documents of number 00010000"),
        "{damaged:?}"
    );
    damaged.fails(&["is damaged: 1 found"]);
    let damaged = check(&["--json"]);
    assert_eq!(damaged.code, 1);
    let told: Value = serde_json::from_str(&damaged.out).unwrap();
    assert_eq!(told["findings"].as_array().unwrap().len(), 1, "{told}");

    std::fs::write(&file, "somebody's text\n".repeat(1000)).unwrap();
    check(&[]).fails(&["not a database file of cloudlet"]);
    std::fs::remove_file(&file).unwrap();
    check(&[]).fails(&["docs.redb", "No such file"]);
    assert!(!file.exists(), "a check made a file");
}

#[test]
fn objects_come_and_go_and_nothing_is_overwritten_unasked() {
    let desk = Desk::new(Some(Node::with(&App::new("web"))));
    let storage = |args: &[&str]| desk.run(&[&["--app", "web", "storage"], args].concat());
    let bytes = "0123456789".repeat(50_000);
    desk.write("photo.txt", &bytes);
    storage(&["ls"]).fails(&["no object"]);
    storage(&["put", "photo.txt", "photos/a b.txt"]).ok();
    storage(&["put", "photo.txt", "photos/a b.txt"]).fails(&["--force"]);
    storage(&["put", "photo.txt", "photos/a b.txt", "--force"]).ok();
    assert!(storage(&["ls", "photos/"]).ok().contains("photos/a b.txt"));
    storage(&["get", "photos/a b.txt", "photo.txt"]).fails(&["--force"]);
    storage(&["get", "photos/a b.txt", "back.txt"]).ok();
    assert!(std::fs::read_to_string(desk.dir.path().join("back.txt")).unwrap() == bytes);
    assert!(storage(&["get", "photos/a b.txt", "-"]).ok() == bytes);
    storage(&["get", "photos/none", "none"]).fails(&["no object"]);
    assert!(!desk.dir.path().join("none").exists() && !desk.dir.path().join("none.part").exists());
    storage(&["rm", "photos/a b.txt"]).ok();
    storage(&["rm", "photos/a b.txt"]).fails(&["no object"]);
    desk.stop();
}

#[test]
fn functions_are_listed_and_called_and_heard() {
    let app = App::new("web")
        .function(
            "calls",
            "calls",
            "grants = { functions = [\"calls\"] }\ninvoke = \"false\"",
        )
        .route("/x", &[], "hello");
    let app = app.function("hello", "hello", "");
    let desk = Desk::new(Some(Node::with(&app)));
    let run = |args: &[&str]| desk.run(&[&["--app", "web"], args].concat());
    assert!(run(&["fn", "list"]).ok().contains("calls"));
    desk.write("in.txt", "echo from a file");
    assert_eq!(run(&["fn", "call", "calls", "@in.txt"]).ok(), "from a file\n");
    assert_eq!(
        desk.run_with(&["--app", "web", "fn", "call", "calls", "--data", "-"], "echo hi")
            .ok(),
        "hi\n"
    );
    assert!(run(&["fn", "call", "hello"]).ok().contains("hello from"));
    run(&["fn", "call", "calls", "not json"]).fails(&["not JSON", "@FILE"]);
    run(&["fn", "call", "nope"]).fails(&["nope"]);
    run(&["logs", "--since", "soon"]).fails(&["invalid duration"]);

    // A follower hears a panic that comes after it.
    let node = desk.node.as_ref();
    let mut follower = command(desk.dir.path(), node)
        .args(["--app", "web", "logs", "-f"])
        .spawn()
        .unwrap();
    desk.write("panic.txt", "panic boom-heard");
    run(&["fn", "call", "calls", "@panic.txt"]).fails(&["calls"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("boom-heard")));
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(
        run(&["logs", "--function", "calls", "--since", "5m"])
            .ok()
            .contains("boom-heard")
    );
    run(&["logs", "--function", "hello"]).fails(&["nothing that matches"]);
    desk.stop();
}

#[test]
fn secrets_go_in_and_never_come_out() {
    let desk = Desk::new(Some(Node::with(&App::new("web"))));
    let secret = |args: &[&str], stdin| desk.run_with(&[&["--app", "web", "secret"], args].concat(), stdin);
    secret(&["list"], "").fails(&["no secrets"]);
    secret(&["put", "KEY"], "").fails(&["empty"]);
    let put = secret(&["put", "KEY"], "hush-hush\n");
    assert!(!format!("{put:?}").contains("hush"));
    let listed = secret(&["list"], "").ok();
    assert!(listed.contains("KEY") && !listed.contains("hush"));
    secret(&["delete", "KEY"], "").ok();
    secret(&["delete", "KEY"], "").fails(&["no secret"]);
    desk.stop();
}

#[test]
fn login_remembers_a_key_that_works() {
    let node = Node::with(&App::new("web"));
    let (url, key) = (format!("http://{}", node.admin), node.key.clone());
    let mut desk = Desk::new(None);
    desk.run(&["--node", &url, "--app", "web", "versions"])
        .fails(&["no admin key", "cloudlet login"]);
    desk.run_with(&["--node", &url, "login"], "ck_wrong_key\n")
        .fails(&["invalid"]);
    desk.run_with(&["--node", &url, "login"], &format!("{key}\n"))
        .ok();
    assert!(desk.run(&["whoami"]).ok().contains(&url));
    desk.run(&["--app", "web", "versions"]).ok();
    let made = desk.run(&["auth", "key", "create", "ci"]).ok();
    assert!(made.starts_with("ck_"));
    assert!(desk.run(&["auth", "key", "list"]).ok().contains("ci"));
    desk.run(&["logout"]).ok();
    desk.run(&["--node", &url, "whoami"]).fails(&["no admin key"]);
    desk.run(&["--node", "http://127.0.0.1:1", "--key", "ck_a_b", "whoami"])
        .fails(&["can't reach", "cloudlet dev"]);
    desk.node = Some(node);
    desk.stop();
}

#[test]
fn a_failed_build_is_told_and_nothing_is_deployed() {
    let desk = Desk::new(Some(Node::with(&App::new("web"))));
    let manifest = |command: &str| {
        format!(
            "manifest_version = 1\n[app]\nname = \"web\"\n[function.f]\nsource = \"f.wasm\"\nbuild = {{ command = {command:?} }}\n"
        )
    };
    desk.write("cloudlet.toml", &manifest("echo no such luck >&2; exit 3"));
    desk.run(&["build"])
        .fails(&["no such luck", "function \"f\"", "exit"]);
    desk.run(&["deploy"]).fails(&["no such luck"]);
    desk.write("cloudlet.toml", &manifest("true"));
    desk.run(&["build"]).fails(&["there is no", "f.wasm"]);
    desk.write("cloudlet.toml", &manifest("echo text > f.wasm"));
    desk.run(&["build"]).ok();
    desk.run(&["deploy"])
        .fails(&["function \"f\"", "not a WebAssembly component"]);
    assert!(desk.run(&["versions"]).ok().lines().count() == 2);
    desk.stop();
}
