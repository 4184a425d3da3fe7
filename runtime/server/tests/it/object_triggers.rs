//! Triggers on objects, by the real binary: whichever way an object comes or goes, its trigger fires.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::changes::{all_answered, answered, app, options, triggers};
use crate::cli::Desk;
use crate::harness::{Node, until};
use crate::http::Response;

/// What storage triggers told: type, path, size and whether another object was replaced, in their order.
fn objects(events: &[Value]) -> Vec<(String, String, u64, bool)> {
    let fields = events.iter().map(|event| {
        (
            event["type"].as_str().unwrap().to_owned(),
            event["path"].as_str().unwrap().to_owned(),
            event["size"].as_u64().unwrap(),
            event["replaced"].as_bool().unwrap(),
        )
    });
    fields.collect()
}

fn object(kind: &str, path: &str, size: u64, replaced: bool) -> (String, String, u64, bool) {
    (kind.to_owned(), path.to_owned(), size, replaced)
}

#[test]
fn objects_fire_by_whichever_way_they_come_and_go() {
    let app = app("[[trigger.storage]]\nprefix = \"photos/\"\nfunction = \"calls\"\nretries = 0\n")
        .function(
            "capabilities",
            "capabilities",
            "grants = { storage = [\"photos/\"], database = [\"x\"] }",
        )
        .lines(
            "[storage]\nrules = { \"photos/\" = { read = \"auth != null\", write = \"auth != null\" } }\n\
             [auth]\nanonymous = true",
        );
    let node = Node::with_options(&app, options());
    // An admin, also the command line.
    let put = |path: &str, bytes: &[u8]| -> Response {
        node.admin("PUT", &format!("/v1/apps/hotel/objects/{path}"), bytes)
    };
    assert_eq!(put("other/a", b"1").status, 200);
    let stored = put("photos/a.jpg", b"12");
    assert_eq!(put("photos/a.jpg", b"123").status, 200);
    let gone = node.admin("DELETE", "/v1/apps/hotel/objects/photos/a.jpg", b"");
    assert_eq!(gone.status, 200, "{gone:?}");
    let events = all_answered(&node, 3);
    assert_eq!(
        objects(&events),
        [
            object("created", "photos/a.jpg", 2, false),
            object("created", "photos/a.jpg", 3, true),
            object("deleted", "photos/a.jpg", 3, false),
        ]
    );
    assert_eq!(events[0]["etag"], stored.json()["etag"]);
    assert_eq!(events[0]["contentType"], "image/jpeg");
    assert_eq!(events[0]["fileId"], "cloud://hotel.files/photos/a.jpg");
    assert!(events[0]["time"].as_str().unwrap().ends_with('Z'));

    // A function.
    let call = |words: &str| {
        let path = "/v1/apps/hotel/functions/capabilities/call";
        let reply = node.admin("POST", path, words.as_bytes());
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    call("put photos/f.txt hello");
    call("upload photos/g.bin 100000");
    call("remove photos/f.txt");
    let events = all_answered(&node, 6);
    let of_function: BTreeSet<_> = objects(&events[3..]).into_iter().collect();
    assert_eq!(
        of_function,
        BTreeSet::from([
            object("created", "photos/f.txt", 5, false),
            object("created", "photos/g.bin", 100_000, false),
            object("deleted", "photos/f.txt", 5, false),
        ])
    );

    // A client.
    let token = node.anonymous();
    let bearer = format!("Bearer {token}");
    let ask = |verb: &str, items: Value| {
        let path = format!("/v1/storages/{verb}");
        let headers = [("authorization", bearer.as_str())];
        let reply = node
            .client()
            .send("POST", &path, &headers, items.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()[0].clone()
    };
    let permit = ask("get-objects-upload-info", json!([{ "objectId": "photos/c.jpg" }]));
    let url = permit["uploadUrl"]
        .as_str()
        .unwrap()
        .splitn(4, '/')
        .nth(3)
        .unwrap();
    let headers = [
        ("authorization", permit["authorization"].as_str().unwrap()),
        ("x-cos-security-token", permit["token"].as_str().unwrap()),
        ("content-type", "image/jpeg"),
    ];
    let stored = node.client().send("PUT", &format!("/{url}"), &headers, b"1234");
    assert_eq!(stored.status, 200, "{stored:?}");
    ask(
        "delete-objects",
        json!([{ "cloudObjectId": permit["cloudObjectId"] }]),
    );
    let events = all_answered(&node, 8);
    assert_eq!(
        objects(&events[6..]),
        [
            object("created", "photos/c.jpg", 4, false),
            object("deleted", "photos/c.jpg", 4, false),
        ]
    );
    assert!(events[6]["owner"].is_string(), "{}", events[6]);
    let listed = &triggers(&node, "")["storage"][0];
    assert_eq!(
        listed,
        &json!({
            "name": "calls", "prefix": "photos/", "on": ["created", "deleted"], "function": "calls", "retries": 0,
            "lost": null,
        })
    );
    node.stop();
}

#[test]
fn an_upload_that_was_acknowledged_fires_after_a_kill_and_a_failed_one_is_kept() {
    let app = app("[[trigger.storage]]\non = [\"created\"]\nfunction = \"calls\"\nretries = 0\n");
    let node = Node::with_options(&app, options());
    let put = |node: &Node, path: &str| {
        let stored = node.admin("PUT", &format!("/v1/apps/hotel/objects/{path}"), b"x");
        assert_eq!(stored.status, 200, "{stored:?}");
    };
    for number in 0..10 {
        put(&node, &format!("a/{number}"));
    }
    put(&node, "fail/1");
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();
    let node = options().on(dir, &key).start();
    until("a failure", || {
        triggers(&node, "/failed")["deliveries"][0]["kind"] == "storage"
    });
    until("the end of the waiting", || triggers(&node, "")["waiting"] == 0);
    // What was answered before the kill was told to a log that went with the node.
    let failed = triggers(&node, "/failed")["deliveries"].as_array().unwrap().len();
    assert_eq!(failed, 1);
    put(&node, "b");
    until("the next one", || {
        answered(&node).iter().any(|event| event["path"] == "b")
    });
    node.stop();
}

#[test]
fn the_command_line_and_standard_components_fire_as_well() {
    let app = app("[[trigger.storage]]\nprefix = \"photos/\"\nfunction = \"calls\"\n").function(
        "standard",
        "standards",
        "grants = { keyvalue = [\"default\"], storage = [\"photos/\"], vars = [\"region\"], secrets = [] }",
    );
    let app = app.lines("[vars]\nregion = \"gz\"");
    let desk = Desk::new(Some(Node::with_options(&app, options())));
    let node = desk.node.as_ref().unwrap();
    let said = |words: &str, expected: &str| {
        let reply = node.admin("POST", "/v1/apps/hotel/functions/standard/call", words.as_bytes());
        assert_eq!((reply.status, &*reply.text()), (200, expected), "{words}");
    };
    // Told before the next one happens: changes of different objects come in no order.
    let mut seen = 0;
    let mut told = |expected: &[(String, String, u64, bool)]| {
        let events = all_answered(node, seen + expected.len());
        assert_eq!(objects(&events[seen..]), expected);
        seen += expected.len();
    };
    said("blob in photos put x.txt hello", "stored");
    told(&[object("created", "photos/x.txt", 5, false)]);
    said("blob in photos put-late x.txt bye", "stored");
    told(&[object("created", "photos/x.txt", 3, true)]);
    said("blob copy photos x.txt photos y.txt", "copied");
    told(&[object("created", "photos/y.txt", 3, false)]);
    said("blob in photos remove x.txt", "removed");
    told(&[object("deleted", "photos/x.txt", 3, false)]);
    said("blob in photos clear", "cleared");
    told(&[object("deleted", "photos/y.txt", 3, false)]);

    desk.write("photo.txt", "1234");
    let storage = |args: &[&str]| desk.run(&[&["--app", "hotel", "storage"], args].concat());
    storage(&["put", "photo.txt", "photos/z.txt"]).ok();
    told(&[object("created", "photos/z.txt", 4, false)]);
    storage(&["rm", "photos/z.txt"]).ok();
    told(&[object("deleted", "photos/z.txt", 4, false)]);
    let listed = desk.run(&["--app", "hotel", "trigger", "list"]).ok();
    assert!(listed.contains("photos/"), "{listed}");
    desk.stop();
}
