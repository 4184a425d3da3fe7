//! A node that is killed again and again under load, at moments that a seed picks. What it acknowledged is there
//! after the next start, what it had not answered is there whole or not at all, unique keys are unique, and
//! `cloudlet db check` finds nothing, on the file as the kill left it and at the end.
//!
//! `CLOUDLET_KILL_ROUNDS` and `CLOUDLET_KILL_SEED` make it longer or another one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, Node, Options, without_settings};

const ROUNDS: u64 = 25;
const SEED: u64 = 1;
const WORKERS: u64 = 4;
/// Writes that a node acknowledges before it is killed, at most.
const ACKNOWLEDGED_MAX: u64 = 120;
/// How long after the last of them the kill comes, at most.
const LATER_MICROS_MAX: u64 = 5000;
/// Unique keys that the workers fight for; few enough that they meet.
const CONTESTED_MAX: u64 = 500;
/// Longest wait for an answer; only a hanging node sees it.
const PATIENCE: Duration = Duration::from_secs(60);
const PAGE: usize = 1000;

/// Numbers that follow from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A document as far as the model knows it: `n` and `u`.
type State = (u64, String);

/// What one worker knows of its own documents.
#[derive(Default)]
struct Model {
    /// The documents that are there.
    documents: BTreeMap<String, State>,
    /// The one whose last change was not answered, as it was and as it may be.
    open: Option<(String, Option<State>, Option<State>)>,
    made: u64,
}

/// One request on a connection that is kept; `None` when the node answered that the key is taken.
fn request(stream: &mut TcpStream, key: &str, verb: &str, body: &Value) -> io::Result<Option<Value>> {
    let body = body.to_string();
    let head = format!(
        "POST /v1/apps/web/documents/load/{verb} HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap_or_else(|| panic!("no length in {head:?}"));
            if rest.len() >= length.parse().unwrap() {
                return match head.split(' ').nth(1) {
                    Some("200") => Ok(Some(serde_json::from_str(rest).unwrap())),
                    Some("409") => Ok(None),
                    _ => panic!("{verb} {body}: {text}"),
                };
            }
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..read]);
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes until the node is gone; tells of each acknowledgement.
fn work(
    worker: u64,
    mut numbers: Numbers,
    model: &mut Model,
    address: SocketAddr,
    key: &str,
    told: &Sender<()>,
) {
    let Ok(mut stream) = connect(address) else {
        return;
    };
    loop {
        let picked = match model.documents.len() {
            0 => None,
            there => {
                let nth = usize::try_from(numbers.below(there as u64)).unwrap();
                model
                    .documents
                    .iter()
                    .nth(nth)
                    .map(|(id, state)| (id.clone(), state.clone()))
            }
        };
        let (verb, body, id, before, after) = match (numbers.below(8), picked) {
            // Contested documents have no update and stay, so that the winner of a key is known.
            (0..=2, Some((id, (n, u)))) if !u.starts_with("contested") => {
                let after = (n + 1, format!("{id}/{}", n + 1));
                let set = json!({ "$set": { "n": after.0, "u": after.1, "tags": [after.0 % 5, "a"] } });
                (
                    "update",
                    json!({ "filter": { "_id": id }, "update": set }),
                    id,
                    Some((n, u)),
                    Some(after),
                )
            }
            (3, Some((id, (n, u)))) if !u.starts_with("contested") => (
                "delete",
                json!({ "filter": { "_id": id } }),
                id,
                Some((n, u)),
                None,
            ),
            (kind, _) => {
                model.made += 1;
                let id = format!("{worker}-{}", model.made);
                let u = match kind {
                    4 | 5 => format!("contested {}", numbers.below(CONTESTED_MAX)),
                    _ => format!("{id}/0"),
                };
                let text = "x".repeat(usize::try_from(numbers.below(2000)).unwrap());
                let document = json!({ "_id": id, "n": 0, "u": u, "tags": [0, "a", "b"], "text": text });
                (
                    "insert",
                    json!({ "documents": [document] }),
                    id,
                    None,
                    Some((0, u)),
                )
            }
        };
        let Ok(answer) = request(&mut stream, key, verb, &body) else {
            model.open = Some((id, before, after));
            return;
        };
        match (answer, &after) {
            (Some(answer), _) => {
                let done = match verb {
                    "insert" => &answer["inserted"],
                    "update" => &answer["modified"],
                    _ => &answer["deleted"],
                };
                assert_eq!(done, 1, "{verb} {body}: {answer}");
                match after {
                    Some(after) => drop(model.documents.insert(id, after)),
                    None => drop(model.documents.remove(&id)),
                }
                // Nobody listens any more when the kill is on its way.
                let _ = told.send(());
            }
            (None, Some((_, u))) if verb == "insert" && u.starts_with("contested") => {}
            (None, _) => panic!("{verb} {body}: somebody else has the key"),
        }
    }
}

/// What is there, by `_id`; the node must be up.
fn read_all(node: &Node) -> BTreeMap<String, State> {
    let mut stream = connect(node.admin).unwrap();
    let mut found = BTreeMap::new();
    loop {
        let body = json!({ "filter": {}, "sort": { "_id": 1 }, "projection": { "n": 1, "u": 1 }, "skip": found.len(), "limit": PAGE });
        let answer = request(&mut stream, &node.key, "find", &body).unwrap().unwrap();
        for document in answer["documents"].as_array().unwrap() {
            let text = |name: &str| document[name].as_str().unwrap().to_owned();
            found.insert(text("_id"), (document["n"].as_u64().unwrap(), text("u")));
        }
        if answer["more"] != true {
            return found;
        }
    }
}

/// The node's documents are those that the workers know of; settles what was open.
fn compare(found: &BTreeMap<String, State>, models: &mut [Model]) {
    let keys: BTreeSet<&String> = found.values().map(|(_, u)| u).collect();
    assert_eq!(keys.len(), found.len(), "a unique key is there twice");
    let mut known = BTreeMap::new();
    for model in models {
        if let Some((id, before, after)) = model.open.take() {
            let there = found.get(&id).cloned();
            assert!(
                there == before || there == after,
                "{id}: {there:?} is neither {before:?} nor {after:?}"
            );
            match there {
                Some(there) => drop(model.documents.insert(id, there)),
                None => drop(model.documents.remove(&id)),
            }
        }
        known.extend(model.documents.clone());
    }
    for (id, state) in &known {
        assert_eq!(found.get(id), Some(state), "{id} was acknowledged");
    }
    assert_eq!(found.len(), known.len(), "documents that nobody wrote");
}

/// `cloudlet db check` finds nothing.
fn check(dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloudlet"));
    without_settings(&mut command);
    let output = command
        .args(["db", "check", "--data-dir"])
        .arg(dir)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Says how to see a failure again.
struct Again(u64);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("CLOUDLET_KILL_SEED={} picked these moments", self.0);
        }
    }
}

#[test]
fn a_killed_node_keeps_what_it_acknowledged() {
    let (rounds, seed) = (
        setting("CLOUDLET_KILL_ROUNDS", ROUNDS),
        setting("CLOUDLET_KILL_SEED", SEED),
    );
    let _again = Again(seed);
    let mut numbers = Numbers(seed);
    let app = App::new("web").lines(
        "[database.collection.load]\nindexes = [{ keys = { u = 1 }, unique = true }, { keys = { tags = 1, n = -1 } }]",
    );
    let options = || Options::default().set("database-change-log-bytes", "64KiB");
    let mut node = Node::with_options(&app, options());
    let (dir, key) = (node.dir(), node.key.clone());
    let mut models: Vec<Model> = (0..WORKERS).map(|_| Model::default()).collect();
    for round in 0..rounds {
        let (told, heard) = channel();
        let address = node.admin;
        let after = 1 + numbers.below(ACKNOWLEDGED_MAX);
        let later = Duration::from_micros(numbers.below(LATER_MICROS_MAX));
        let seeds: Vec<u64> = (0..WORKERS).map(|_| numbers.below(u64::MAX)).collect();
        std::thread::scope(|scope| {
            for ((worker, model), seed) in (0..).zip(&mut models).zip(seeds) {
                let (told, key) = (told.clone(), &key);
                scope.spawn(move || work(worker, Numbers(seed), model, address, key, &told));
            }
            drop(told);
            for _ in 0..after {
                heard.recv().unwrap();
            }
            let end = Instant::now() + later;
            while heard
                .recv_timeout(end.saturating_duration_since(Instant::now()))
                .is_ok()
            {}
            node.kill();
        });
        // The check itself brings the file to its last commit in one round, the node's start in the other.
        if round % 2 == 0 {
            check(dir.path());
        }
        node = options().on(dir.clone(), &key).start();
        compare(&read_all(&node), &mut models);
    }
    let kept: usize = models.iter().map(|model| model.documents.len()).sum();
    assert!(kept > 0, "nothing was written");
    node.stop();
    check(dir.path());
}
