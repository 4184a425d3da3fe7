//! The hotel example, whole: fifty guests check in at once, each sees exactly their own stays, photos come back byte
//! for byte, and a node killed in the middle of it has lost nothing that it acknowledged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};

use crate::harness::{Node, Options, until, workspace};
use crate::http::{Client, Response};

const GUESTS: usize = 50;
const CHECK_INS_EACH: usize = 4;
const STAYS: &str = "/v1/database/instances/(default)/databases/(default)/collections/stays/documents";

/// A logged-in guest with a connection of their own.
struct Guest {
    client: Client,
    token: String,
}

/// A check-in that the node acknowledged.
struct CheckIn {
    token: String,
    id: String,
    photo: String,
    bytes: Vec<u8>,
}

impl Guest {
    fn log_in(node: SocketAddr) -> Self {
        let mut client = hotel(node);
        let reply = client.send("POST", "/auth/v1/signin/anonymously", &[], b"{}");
        assert_eq!(reply.status, 200, "{reply:?}");
        Self {
            client,
            token: reply.json()["access_token"].as_str().unwrap().to_owned(),
        }
    }

    fn known(node: SocketAddr, token: &str) -> Self {
        Self {
            client: hotel(node),
            token: token.to_owned(),
        }
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Response {
        let bearer = format!("Bearer {}", self.token);
        self.client
            .send(method, path, &[("authorization", &bearer)], body)
    }

    fn check_in(&mut self, name: &str, photo: Vec<u8>) -> CheckIn {
        let reply = self.send("POST", &format!("/api/checkin?guest={name}"), &photo);
        assert_eq!(reply.status, 201, "{reply:?}");
        let stay = reply.json();
        CheckIn {
            token: self.token.clone(),
            id: stay["id"].as_str().unwrap().to_owned(),
            photo: stay["photo"].as_str().unwrap().to_owned(),
            bytes: photo,
        }
    }

    /// The `_id`s of the stays that this guest sees, in order.
    fn stays(&mut self) -> Vec<String> {
        let reply = self.send("GET", &format!("{STAYS}?offset=0&limit=1000"), b"");
        assert_eq!(reply.status, 200, "{reply:?}");
        let list = reply.json()["list"].as_array().unwrap().clone();
        let mut ids: Vec<String> = list.iter().map(|stay| object_id(&stay["_id"])).collect();
        ids.sort();
        ids
    }

    /// Path and query where a photo may be downloaded, or the refusal.
    fn download_path(&mut self, file_id: &str) -> Result<String, Value> {
        let ask = json!([{ "cloudObjectId": file_id }]).to_string();
        let reply = self.send("POST", "/v1/storages/get-objects-download-info", ask.as_bytes());
        let Ok(info) = serde_json::from_slice::<Value>(&reply.body) else {
            panic!("{reply:?}")
        };
        match info[0]["downloadUrl"].as_str() {
            Some(url) => {
                let after_scheme = url.split_once("://").unwrap().1;
                Ok(after_scheme[after_scheme.find('/').unwrap()..].to_owned())
            }
            None => Err(info),
        }
    }
}

fn object_id(value: &Value) -> String {
    value["$oid"].as_str().or(value.as_str()).unwrap().to_owned()
}

fn hotel(node: SocketAddr) -> Client {
    Client::connect(node).host("hotel.localhost")
}

/// A node that can serve the hotel, whose triggers need the change log.
fn options() -> Options {
    Options::default().set("database-change-log-bytes", "64MiB")
}

/// The hotel and the recognition service that it calls, on one node.
fn open_hotel() -> Node {
    // Every check-in that waits for the recognition service holds an instance while that needs one, too.
    let node = options().set("functions-instances-max", "150").start();
    for app in ["vision", "hotel"] {
        let deployed = node.deploy_example(app);
        assert!(deployed.status / 100 == 2, "{deployed:?}");
    }
    node
}

/// A JPEG of the example's, made unlike all others by a comment segment (ITU-T T.81, B.2.4.5) behind its first marker.
fn photo(guest: usize, stay: usize) -> Vec<u8> {
    let name = ["wang", "li", "zhang"][(guest + stay) % 3];
    let original = std::fs::read(workspace().join(format!("examples/hotel/photos/{name}.jpg"))).unwrap();
    let comment = format!("guest {guest}, stay {stay}");
    let mut photo = original[..2].to_vec();
    photo.extend([0xff, 0xfe]);
    photo.extend(u16::try_from(comment.len() + 2).unwrap().to_be_bytes());
    photo.extend(comment.as_bytes());
    photo.extend(&original[2..]);
    photo
}

/// Every guest, each on a thread, checks in again and again; what is acknowledged goes to `acknowledged`.
fn check_in_guests(
    node: SocketAddr,
    each: usize,
    acknowledged: &Sender<CheckIn>,
) -> Vec<std::thread::JoinHandle<()>> {
    (0..GUESTS)
        .map(|guest| {
            let acknowledged = acknowledged.clone();
            std::thread::spawn(move || {
                let mut desk = Guest::log_in(node);
                for stay in 0..each {
                    let done = desk.check_in(&format!("guest-{guest}"), photo(guest, stay));
                    acknowledged.send(done).unwrap();
                }
            })
        })
        .collect()
}

#[test]
fn two_hundred_check_ins_of_fifty_guests_stay_apart() {
    let node = open_hotel();
    let (acknowledged, received) = channel();
    for guest in check_in_guests(node.public, CHECK_INS_EACH, &acknowledged) {
        guest.join().unwrap();
    }
    drop(acknowledged);
    let all: Vec<CheckIn> = received.into_iter().collect();
    assert_eq!(all.len(), GUESTS * CHECK_INS_EACH);

    let mut tokens: Vec<&str> = all.iter().map(|stay| stay.token.as_str()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), GUESTS);
    for token in tokens {
        let mut own: Vec<&str> = all
            .iter()
            .filter(|stay| stay.token == token)
            .map(|stay| stay.id.as_str())
            .collect();
        own.sort_unstable();
        assert_eq!(Guest::known(node.public, token).stays(), own);
    }
    for stay in all.iter().step_by(7) {
        photo_comes_back(node.public, stay);
    }
    // Somebody else's photo is refused.
    let stranger = all.iter().find(|stay| stay.token != all[0].token).unwrap();
    assert!(
        Guest::known(node.public, &stranger.token)
            .download_path(&all[0].photo)
            .is_err()
    );
    // Without credentials, nothing.
    let reply = hotel(node.public).get(&format!("{STAYS}?offset=0&limit=10"));
    assert!(reply.status == 401 || reply.status == 403, "{reply:?}");
    let reply = hotel(node.public).send("POST", "/api/checkin", &[], &photo(0, 0));
    assert!(reply.status == 401 || reply.status == 403, "{reply:?}");
    node.stop();
}

/// The whole photo, a range of it, and a 304 for who has it.
fn photo_comes_back(node: SocketAddr, stay: &CheckIn) {
    let path = Guest::known(node, &stay.token)
        .download_path(&stay.photo)
        .unwrap();
    let mut client = hotel(node);
    let whole = client.get(&path);
    assert_eq!((whole.status, &whole.body), (200, &stay.bytes));
    assert_eq!(whole.header("content-type"), Some("image/jpeg"));
    let etag = whole.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");

    let part = client.send("GET", &path, &[("range", "bytes=2-101")], b"");
    assert_eq!((part.status, &part.body[..]), (206, &stay.bytes[2..102]));
    assert_eq!(
        part.header("content-range"),
        Some(format!("bytes 2-101/{}", stay.bytes.len()).as_str())
    );
    let beyond = client.send("GET", &path, &[("range", "bytes=999999999-")], b"");
    assert_eq!(beyond.status, 416);
    let known = client.send("GET", &path, &[("if-none-match", &etag)], b"");
    assert_eq!((known.status, known.body.len()), (304, 0));
    let changed = client.send(
        "GET",
        &path,
        &[("range", "bytes=0-1"), ("if-range", "\"another\"")],
        b"",
    );
    assert_eq!((changed.status, changed.body.len()), (200, stay.bytes.len()));
}

#[test]
fn a_killed_node_has_every_acknowledged_check_in() {
    let node = open_hotel();
    let (acknowledged, received) = channel();
    let guests = check_in_guests(node.public, 1000, &acknowledged);
    drop(acknowledged);
    let mut all: Vec<CheckIn> = received.iter().take(120).collect();
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();
    for guest in guests {
        // Their connections broke, which their client tells by a panic.
        assert!(guest.join().is_err());
    }
    all.extend(received);

    let node = options().on(Arc::clone(&dir), &key).start();
    for stay in &all {
        let mut guest = Guest::known(node.public, &stay.token);
        assert!(
            guest.stays().contains(&stay.id),
            "stay {} was acknowledged and is gone",
            stay.id
        );
        let path = guest.download_path(&stay.photo).unwrap();
        assert_eq!(hotel(node.public).get(&path).body, stay.bytes);
    }
    // What their triggers owe is made good as well, though the node is killed in the middle of that again.
    let recorded = |node: &Node| {
        let (rooms, photos) = (found(node, "rooms"), found(node, "photos"));
        let (rooms, photos) = (format!("{rooms:?}"), format!("{photos:?}"));
        let is_there = |stay: &&CheckIn| {
            let (_, path) = stay.photo.split_once("/photos/").unwrap();
            rooms.contains(&stay.id) && photos.contains(path)
        };
        all.iter().filter(is_there).count()
    };
    let done = recorded(&node);
    until("another one", || recorded(&node) > done || done == all.len());
    node.kill();
    let node = options().on(Arc::clone(&dir), &key).start();
    until("all of them", || recorded(&node) == all.len());
    let triggers = node.admin("GET", "/v1/apps/hotel/triggers", b"").json();
    assert_eq!(triggers["failed"], 0, "{triggers}");
    node.stop();
}

#[test]
fn only_an_admin_cleans_up() {
    let node = open_hotel();
    let mut guest = Guest::log_in(node.public);
    let stay = guest.check_in("wang", photo(1, 1));
    let refused = guest.send("POST", "/v1/functions/cleanup", br#"{"days":0}"#);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(guest.stays(), [stay.id.as_str()]);

    let timers = node.admin("GET", "/v1/apps/hotel/triggers", b"").json();
    assert_eq!(timers["timers"][0]["schedule"], "0 0 4 * * * Asia/Shanghai");
    assert_eq!(timers["timers"][0]["function"], "cleanup");
    let done = node.admin("POST", "/v1/apps/hotel/functions/cleanup/call", br#"{"days":0}"#);
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(done.json(), json!({ "stays": 1, "photos": 1, "more": false }));
    assert_eq!(guest.stays(), Vec::<String>::new());
    assert!(guest.download_path(&stay.photo).is_err());
    node.stop();
}

/// What the admin finds in a collection of the hotel's.
fn found(node: &Node, collection: &str) -> Vec<Value> {
    let path = format!("/v1/apps/hotel/documents/{collection}/find");
    let reply = node.admin("POST", &path, b"{\"limit\":1000}");
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["documents"].as_array().unwrap().clone()
}

#[test]
fn rooms_and_photos_are_recorded_as_they_come_and_go() {
    let node = open_hotel();
    let mut guest = Guest::log_in(node.public);
    let stays = [1, 2, 3].map(|stay| guest.check_in("wang", photo(1, stay)));
    let taken = |node: &Node| -> usize {
        let rooms = found(node, "rooms");
        rooms
            .iter()
            .map(|room| room["stays"].as_array().unwrap().len())
            .sum()
    };
    let recorded = |stays: usize| {
        until("the records", || {
            taken(&node) == stays && found(&node, "photos").len() == stays
        });
    };
    recorded(3);
    for photo in found(&node, "photos") {
        let of_stay = |stay: &&CheckIn| stay.photo.ends_with(photo["_id"].as_str().unwrap());
        let stay = stays.iter().find(of_stay).unwrap();
        assert_eq!(photo["size"].as_u64().unwrap(), stay.bytes.len() as u64);
    }
    let done = node.admin("POST", "/v1/apps/hotel/functions/cleanup/call", br#"{"days":0}"#);
    assert_eq!(done.json(), json!({ "stays": 3, "photos": 3, "more": false }));
    recorded(0);
    assert_eq!(
        node.admin("GET", "/v1/apps/hotel/triggers", b"").json()["failed"],
        0
    );
    node.stop();
}

#[test]
fn a_photo_that_is_none_is_refused_and_nothing_is_kept() {
    let node = open_hotel();
    let mut guest = Guest::log_in(node.public);
    let reply = guest.send("POST", "/api/checkin?guest=x", b"not a photo");
    assert_eq!(reply.status, 400, "{reply:?}");
    let reply = guest.send("POST", "/api/checkin?guest=x", &vec![0xff; 3 << 20]);
    assert_eq!(reply.status, 413, "{reply:?}");
    assert_eq!(
        Guest::known(node.public, &guest.token).stays(),
        Vec::<String>::new()
    );
    node.stop();
}
