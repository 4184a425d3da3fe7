//! A disk that fills up under a running node: the writes of that while fail and say so, nothing else does.
//!
//! The limit on the size of files stands in for the disk: it fails the same calls, needs no privilege, and can be
//! lifted while the node runs.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::harness::{App, Node, Options};
use crate::http::Response;

const DOCUMENTS: &str = "/v1/apps/hotel/documents/notes";
const OBJECTS: &str = "/v1/apps/hotel/objects";
/// More documents than fit.
const ATTEMPTS: usize = 500;

fn limit_files(node: &Node, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Fsize, limit).unwrap();
}

fn insert(node: &Node, id: usize) -> Response {
    let filler = "x".repeat(16 << 10);
    let body = json!({ "documents": [{ "_id": id, "filler": filler }] });
    node.admin(
        "POST",
        &format!("{DOCUMENTS}/insert"),
        body.to_string().as_bytes(),
    )
}

fn count(node: &Node, filter: &Value) -> u64 {
    let body = json!({ "filter": filter }).to_string();
    let reply = node.admin("POST", &format!("{DOCUMENTS}/count"), body.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["count"].as_u64().unwrap()
}

#[test]
fn a_full_disk_fails_the_writes_of_that_while_alone() {
    let app = App::new("hotel")
        .function("hello", "hello", "")
        .route("/hello", &[], "hello")
        .lines("[database.collection.notes]\nrules = \"PRIVATE\"");
    let options = Options::default()
        .surviving_file_limits()
        .expect_log("the disk is full or failing")
        .expect_log("File too large")
        .expect_log("opened again after a failure of the disk");
    let node = Node::with_options(&app, options);
    assert_eq!(insert(&node, 0).status, 200);
    assert_eq!(
        node.admin("PUT", &format!("{OBJECTS}/photos/small"), b"photo")
            .status,
        200
    );

    let used = std::fs::metadata(node.dir().path().join("docs.redb"))
        .unwrap()
        .len();
    limit_files(&node, Some(used));
    let mut acknowledged = vec![0];
    let mut refusal = None;
    for id in 1..ATTEMPTS {
        let reply = insert(&node, id);
        match reply.status {
            200 => acknowledged.push(id),
            _ => refusal = refusal.or(Some(reply)),
        }
    }
    let refusal = refusal.expect("the disk was never full");
    assert_eq!(refusal.status, 507, "{refusal:?}");
    assert!(refusal.text().contains("disk is full or failing"), "{refusal:?}");
    let object = node.admin(
        "PUT",
        &format!("{OBJECTS}/photos/large"),
        &vec![7; usize::try_from(used).unwrap() + 1],
    );
    assert_eq!(object.status / 100, 5, "{object:?}");

    // What does not write goes on, and every acknowledged write is there.
    assert_eq!(node.client().get("/hello").status, 200);
    assert_eq!(
        count(&node, &json!({ "_id": { "$in": acknowledged } })),
        acknowledged.len() as u64
    );
    assert_eq!(
        node.admin("GET", &format!("{OBJECTS}/photos/small"), b"").text(),
        "photo"
    );
    assert_eq!(
        node.admin("GET", &format!("{OBJECTS}/photos/large"), b"").status,
        404
    );

    // With room again, the node that was there all the time writes again.
    limit_files(&node, None);
    let reply = insert(&node, ATTEMPTS);
    assert_eq!(reply.status, 200, "{reply:?}");
    acknowledged.push(ATTEMPTS);
    let (dir, key) = (node.dir(), node.key.clone());
    node.stop();

    let node = Options::default().on(dir, &key).start();
    assert_eq!(
        count(&node, &json!({ "_id": { "$in": acknowledged } })),
        acknowledged.len() as u64
    );
    assert_eq!(node.client().get("/hello").status, 200);
    node.stop();
}
