//! Triggers on changes of documents and objects, by the real binary: which changes fire them, in which order their functions
//! are told, and that none is lost or told by half, whatever happens to the node in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{App, Node, Options, until};

pub(crate) fn options() -> Options {
    Options::default().set("database-change-log-bytes", "64MiB")
}

/// An app whose function tells its log what it was told, unless the document's `say` has it fail.
pub(crate) fn app(lines: &str) -> App {
    App::new("hotel")
        .function("calls", "calls", "grants = { functions = [\"calls\"] }")
        .lines(lines)
}

/// A trigger on the collection `stays` with more lines.
pub(crate) fn on_stays(more: &str) -> String {
    format!("[[trigger.database]]\ncollection = \"stays\"\nfunction = \"calls\"\n{more}\n")
}

fn ask(node: &Node, path: &str, body: &Value) -> Value {
    let reply = node.admin(
        "POST",
        &format!("/v1/apps/hotel/{path}"),
        body.to_string().as_bytes(),
    );
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    reply.json()
}

fn insert(node: &Node, documents: Value) {
    ask(node, "documents/stays/insert", &json!({ "documents": documents }));
}

fn update(node: &Node, filter: Value, update: Value) {
    ask(
        node,
        "documents/stays/update",
        &json!({ "filter": filter, "update": update }),
    );
}

pub(crate) fn triggers(node: &Node, rest: &str) -> Value {
    node.admin("GET", &format!("/v1/apps/hotel/triggers{rest}"), b"")
        .json()
}

pub(crate) fn outcome(node: &Node, kind: &str, outcome: &str) -> f64 {
    node.metric(&format!(
        "cloudlet_trigger_deliveries_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"
    ))
}

/// The events that were answered, in their order, as the function told its log.
pub(crate) fn answered(node: &Node) -> Vec<Value> {
    let logs = node
        .admin("GET", "/v1/apps/hotel/logs?function=calls", b"")
        .text();
    let lines = logs
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| serde_json::from_str(line["message"].as_str()?).ok())
        .collect()
}

/// Waits until so many events were answered, and nothing waits.
#[track_caller]
pub(crate) fn all_answered(node: &Node, count: usize) -> Vec<Value> {
    until(&format!("{count} answers"), || answered(node).len() >= count);
    until("the end of the waiting", || triggers(node, "")["waiting"] == 0);
    let events = answered(node);
    assert_eq!(events.len(), count, "{events:#?}");
    events
}

fn millis(after: Duration) -> u128 {
    (SystemTime::now() + after)
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
}

#[test]
fn each_operation_fires_with_the_document_as_it_was_and_became() {
    let app = app(&on_stays("name = \"all\""));
    let node = Node::with_options(&app, options());
    insert(&node, json!([{ "_id": 1, "n": 1 }]));
    update(
        &node,
        json!({ "_id": 1 }),
        json!({ "$set": { "n": 2 }, "$unset": { "x": 1 } }),
    );
    update(&node, json!({ "_id": 1 }), json!({ "m": 3 }));
    ask(
        &node,
        "documents/stays/delete",
        &json!({ "filter": { "_id": 1 } }),
    );
    // Another collection's are nobody's business.
    ask(
        &node,
        "documents/rooms/insert",
        &json!({ "documents": [{ "_id": 1 }] }),
    );
    let events = all_answered(&node, 4);
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event["operationType"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["insert", "update", "replace", "delete"]);
    for event in &events {
        assert_eq!(event["documentKey"], json!({ "_id": 1 }));
        assert_eq!(event["ns"], json!({ "db": "hotel", "coll": "stays" }));
        assert_eq!(event["trigger"], "all");
        assert!(event.get("omitted").is_none() && event["wallTime"]["$date"].is_string());
    }
    assert_eq!(events[0]["fullDocument"], json!({ "_id": 1, "n": 1 }));
    assert_eq!(events[1]["fullDocument"], json!({ "_id": 1, "n": 2 }));
    assert_eq!(events[1]["fullDocumentBeforeChange"], json!({ "_id": 1, "n": 1 }));
    assert_eq!(events[1]["updateDescription"]["updatedFields"], json!({ "n": 2 }));
    assert_eq!(events[2]["fullDocument"], json!({ "_id": 1, "m": 3 }));
    assert_eq!(events[3]["fullDocumentBeforeChange"], json!({ "_id": 1, "m": 3 }));
    let ids: BTreeSet<&str> = events
        .iter()
        .map(|event| event["_id"]["_data"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 4);

    let listed = &triggers(&node, "")["database"][0];
    assert_eq!(
        listed,
        &json!({
            "name": "all", "collection": "stays", "on": ["insert", "update", "replace", "delete"], "filter": {},
            "function": "calls", "retries": 3, "lost": null,
        })
    );
    node.stop();
}

#[test]
fn a_filter_and_the_operations_choose() {
    let lines = on_stays(
        "on = [\"insert\", \"update\"]\nfilter = { \"fullDocument.status\" = { \"$in\" = [\"open\", \"new\"] } }",
    );
    let node = Node::with_options(&app(&lines), options());
    insert(
        &node,
        json!([{ "_id": 1, "status": "closed" }, { "_id": 2, "status": "new" }]),
    );
    // What an update left alone counts as well: the filter sees the whole document.
    update(&node, json!({ "_id": 2 }), json!({ "$set": { "n": 1 } }));
    update(
        &node,
        json!({ "_id": 2 }),
        json!({ "$set": { "status": "closed" } }),
    );
    update(&node, json!({ "_id": 1 }), json!({ "status": "open" }));
    update(&node, json!({ "_id": 1 }), json!({ "$set": { "n": 1 } }));
    let events = all_answered(&node, 3);
    let seen: BTreeSet<(&str, i64)> = events
        .iter()
        .map(|event| {
            (
                event["operationType"].as_str().unwrap(),
                event["documentKey"]["_id"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        BTreeSet::from([("insert", 2), ("update", 2), ("update", 1)])
    );
    node.stop();
}

#[test]
fn a_filter_that_fails_on_a_change_leaves_out_that_one_and_says_so() {
    let lines =
        on_stays("filter = { \"$expr\" = { \"$gt\" = [{ \"$divide\" = [1, \"$fullDocument.n\"] }, 0] } }");
    let node = Node::with_options(&app(&lines), options());
    insert(
        &node,
        json!([{ "_id": "a", "n": 1 }, { "_id": "zero", "n": 0 }, { "_id": "b", "n": 2 }, { "_id": "c", "n": -1 }]),
    );
    let events = all_answered(&node, 2);
    let ids: BTreeSet<&str> = events
        .iter()
        .map(|event| event["documentKey"]["_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, BTreeSet::from(["a", "b"]));
    assert_eq!(outcome(&node, "database", "refused"), 1.0);
    let wrong = app(&on_stays("filter = { \"$expr\" = { \"$divied\" = [1, 2] } }"));
    let refused = node.deploy(&wrong);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(
        refused.text().contains("can't be followed") && refused.text().contains("$divied"),
        "{refused:?}"
    );
    let logs = node.admin("GET", "/v1/apps/hotel/logs?level=error", b"").text();
    assert!(
        logs.contains("its filter fails on that") && logs.contains("zero"),
        "{logs}"
    );
    node.stop();
}

/// As JSON these events are six times as long, so that one commit could not take all of a page's deliveries.
#[test]
fn events_that_grow_on_their_way_are_written_in_several_commits() {
    const COUNT: usize = 40;
    let node = Node::with_options(&app(&on_stays("on = [\"update\"]")), options());
    insert(&node, (0..COUNT).map(|id| json!({ "_id": id })).collect());
    let many = json!({
        "filter": {}, "update": { "$set": { "text": "\u{1}".repeat(250 << 10) } }, "multi": true,
    });
    ask(&node, "documents/stays/update", &many);
    until("the answers", || {
        outcome(&node, "database", "answered") + outcome(&node, "database", "retried") >= COUNT as f64
    });
    assert_eq!(outcome(&node, "database", "answered"), COUNT as f64);
    assert_eq!(node.metric("cloudlet_trigger_failures_total"), 0.0);
    node.stop();
}

#[test]
fn a_large_document_is_left_out_and_said_to_be() {
    let node = Node::with_options(&app(&on_stays("")), options());
    insert(&node, json!([{ "_id": 1, "text": "x".repeat(300 << 10) }]));
    update(&node, json!({ "_id": 1 }), json!({ "$set": { "text": "y" } }));
    let events = all_answered(&node, 2);
    assert_eq!(events[0]["omitted"], json!(["fullDocument"]));
    assert!(events[0].get("fullDocument").is_none());
    assert_eq!(events[1]["omitted"], json!(["fullDocumentBeforeChange"]));
    assert_eq!(events[1]["fullDocument"], json!({ "_id": 1, "text": "y" }));
    node.stop();
}

#[test]
fn changes_of_one_document_come_in_order_under_concurrent_writers_and_failures() {
    const DOCUMENTS: i64 = 6;
    const CHANGES: i64 = 15;
    let node = Node::with_options(&app(&on_stays("retries = 20")), options());
    std::thread::scope(|scope| {
        for id in 0..DOCUMENTS {
            let node = &node;
            scope.spawn(move || {
                // Of two documents the third change fails for a while: what follows it waits, and the others' go on.
                insert(node, json!([{ "_id": id, "n": 0 }]));
                for n in 1..CHANGES {
                    let say = match id < 2 && n == 3 {
                        true => format!("until {}", millis(Duration::from_secs(4))),
                        false => "ok".to_owned(),
                    };
                    update(
                        node,
                        json!({ "_id": id }),
                        json!({ "$set": { "n": n, "say": say } }),
                    );
                }
            });
        }
    });
    let events = all_answered(&node, usize::try_from(DOCUMENTS * CHANGES).unwrap());
    let mut last = BTreeMap::new();
    for event in &events {
        let id = event["documentKey"]["_id"].as_i64().unwrap();
        let n = event["fullDocument"]["n"].as_i64().unwrap();
        let before = last.insert(id, n);
        assert_eq!(n, before.map_or(0, |before| before + 1), "of document {id}");
    }
    assert!(outcome(&node, "database", "retried") >= 2.0);
    assert_eq!(outcome(&node, "database", "answered"), events.len() as f64);
    node.stop();
}

#[test]
fn what_fails_for_the_last_time_is_kept_and_lets_the_next_go_on() {
    let node = Node::with_options(&app(&on_stays("retries = 0")), options());
    insert(&node, json!([{ "_id": 1, "n": 0, "say": "fail" }]));
    update(
        &node,
        json!({ "_id": 1 }),
        json!({ "$set": { "n": 1, "say": "ok" } }),
    );
    let events = all_answered(&node, 1);
    assert_eq!(events[0]["fullDocument"]["n"], 1);
    let failed = &triggers(&node, "/failed")["deliveries"][0];
    assert_eq!(
        (&failed["kind"], &failed["attempts"]),
        (&json!("database"), &json!(1))
    );
    assert_eq!(failed["error"], "told to: fail");
    assert!(failed["payload"].as_str().unwrap().contains("\"insert\""));
    let id = failed["id"].as_str().unwrap();
    assert!(id.starts_with("hotel/calls/"), "{id}");

    // Sent again it has the document as it was, and fails again.
    let replayed = ask(&node, "triggers/replay", &json!({ "id": id }));
    assert_eq!(replayed["changed"], 1);
    until("another failure", || outcome(&node, "database", "failed") >= 2.0);
    until("the end of the waiting", || triggers(&node, "")["waiting"] == 0);
    assert_eq!(ask(&node, "triggers/discard", &json!({}))["changed"], 1);
    assert_eq!(triggers(&node, "")["failed"], 0);
    node.stop();
}

#[test]
fn a_killed_node_loses_no_change_and_goes_on_where_it_was() {
    let node = Node::with_options(&app(&on_stays("retries = 20")), options());
    let later = format!("until {}", millis(Duration::from_secs(3)));
    insert(&node, json!([{ "_id": 0, "n": 0, "say": later }]));
    for n in 1..10 {
        update(
            &node,
            json!({ "_id": 0 }),
            json!({ "$set": { "n": n, "say": "ok" } }),
        );
    }
    let many: Vec<Value> = (1..200)
        .map(|id| json!({ "_id": id, "n": 0, "say": later }))
        .collect();
    insert(&node, many.into());
    // Acknowledged, and at once the node is gone: before, while or after they became deliveries.
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();
    let node = options().on(dir, &key).start();
    // One that was answered when the node died may be told again; here none can have been.
    let events = all_answered(&node, 209);
    let of_first: Vec<i64> = events
        .iter()
        .filter(|event| event["documentKey"]["_id"] == 0)
        .map(|event| event["fullDocument"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(of_first, (0..10).collect::<Vec<_>>());
    let places: BTreeSet<&str> = events
        .iter()
        .map(|event| event["_id"]["_data"].as_str().unwrap())
        .collect();
    assert_eq!(places.len(), 209, "each once");
    // A trigger that is the same goes on; what happened before is not told again.
    insert(&node, json!([{ "_id": "after" }]));
    all_answered(&node, 210);
    node.stop();
}

#[test]
fn the_backlog_is_bounded_and_the_log_keeps_the_rest() {
    let later = format!("until {}", millis(Duration::from_secs(8)));
    let options = options().set("functions-deliveries-max", "20");
    let node = Node::with_options(&app(&on_stays("retries = 20")), options);
    let many: Vec<Value> = (0..150).map(|id| json!({ "_id": id, "say": later })).collect();
    insert(&node, many.into());
    until("standing still", || {
        node.metric("cloudlet_trigger_stalled") >= 1.0
    });
    let waiting = triggers(&node, "")["waiting"].as_u64().unwrap();
    assert!((1..=21).contains(&waiting), "{waiting} wait");
    let logs = node.admin("GET", "/v1/apps/hotel/logs?level=warn", b"").text();
    assert!(logs.contains("stands still"), "{logs}");
    all_answered(&node, 150);
    assert_eq!(node.metric("cloudlet_trigger_stalled"), 0.0);
    node.stop();
}

#[test]
fn a_trigger_past_whose_place_the_log_was_trimmed_tells_so_and_goes_on() {
    let options = Options::default()
        .set("database-change-log-bytes", "256KiB")
        .set("functions-deliveries-max", "5")
        .expect_log("the change log does not have what follows");
    let node = Node::with_options(&app(&on_stays("retries = 20")), options);
    let later = format!("until {}", millis(Duration::from_secs(6)));
    let many: Vec<Value> = (0..5).map(|id| json!({ "_id": id, "say": later })).collect();
    insert(&node, many.into());
    until("standing still", || {
        node.metric("cloudlet_trigger_stalled") >= 1.0
    });
    let text = "x".repeat(2 << 10);
    for tens in 10..50 {
        let ten = (0..10).map(|one| json!({ "_id": tens * 10 + one, "text": text }));
        insert(&node, ten.collect());
    }
    until("the loss", || {
        node.metric("cloudlet_trigger_lost_total{kind=\"database\"}") >= 1.0
    });
    until("the last one", || {
        answered(&node)
            .iter()
            .any(|event| event["documentKey"]["_id"] == 499)
    });
    let seen: BTreeSet<i64> = answered(&node)
        .iter()
        .map(|event| event["documentKey"]["_id"].as_i64().unwrap())
        .collect();
    assert!(
        seen.len() < 300 && (0..5).all(|id| seen.contains(&id)),
        "{seen:?}"
    );
    assert!(triggers(&node, "")["database"][0]["lost"].is_i64());
    let logs = node.admin("GET", "/v1/apps/hotel/logs?level=error", b"").text();
    assert!(logs.contains("is lost to it"), "{logs}");
    node.stop();
}

#[test]
fn a_trigger_begins_at_its_deploy_and_keeps_its_place_while_it_is_the_same() {
    let node = Node::with_options(&app(""), options());
    insert(&node, json!([{ "_id": "before" }]));
    let first = app(&on_stays("name = \"seen\"\non = [\"insert\"]"));
    assert_eq!(node.deploy(&first).status, 200);
    insert(&node, json!([{ "_id": 1 }]));
    all_answered(&node, 1);
    // Another message, other retries: the same trigger, which misses nothing.
    let second = app(&on_stays("name = \"seen\"\non = [\"insert\"]\nretries = 7"));
    std::thread::scope(|scope| {
        scope.spawn(|| (2..12).for_each(|id| insert(&node, json!([{ "_id": id }]))));
        assert_eq!(node.deploy(&second).status, 200);
    });
    all_answered(&node, 11);
    let rolled_back = node.admin("POST", "/v1/apps/hotel/rollback", b"{}");
    assert_eq!(rolled_back.status, 200, "{rolled_back:?}");
    insert(&node, json!([{ "_id": 12 }]));
    let events = all_answered(&node, 12);
    let ids: BTreeSet<String> = events
        .iter()
        .map(|event| event["documentKey"]["_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 12, "each once: {ids:?}");
    // It watches something else: what happened before the deploy is not its business.
    let gone = app("");
    assert_eq!(node.deploy(&gone).status, 200);
    insert(&node, json!([{ "_id": 13 }]));
    assert_eq!(node.deploy(&first).status, 200);
    insert(&node, json!([{ "_id": 14 }]));
    let events = all_answered(&node, 13);
    assert_eq!(events[12]["documentKey"]["_id"], 14);
    node.stop();
}

#[test]
fn a_canarys_trigger_waits_until_it_is_promoted() {
    let old = app(&on_stays("name = \"old\"\non = [\"insert\"]"));
    let new = app(&on_stays("name = \"new\"\non = [\"insert\"]"));
    let node = Node::with_options(&old, options());
    let deployed = node.deploy_as(&new, json!({ "canary": 50 }));
    assert_eq!(deployed.status, 200, "{deployed:?}");
    insert(&node, json!([{ "_id": 1 }]));
    assert_eq!(all_answered(&node, 1)[0]["trigger"], "old");
    let promoted = node.admin("POST", "/v1/apps/hotel/promote", b"{}");
    assert_eq!(promoted.status, 200, "{promoted:?}");
    insert(&node, json!([{ "_id": 2 }]));
    let events = all_answered(&node, 2);
    assert_eq!(
        (&events[1]["trigger"], &events[1]["documentKey"]["_id"]),
        (&json!("new"), &json!(2))
    );
    node.stop();
}

#[test]
fn a_node_without_a_change_log_refuses_what_needs_it() {
    let node = Node::with(&app(""));
    for lines in [
        on_stays(""),
        "[[trigger.storage]]\nprefix = \"photos/\"\nfunction = \"calls\"\n".to_owned(),
    ] {
        let refused = node.deploy(&app(&lines));
        assert_eq!(refused.status, 400, "{refused:?}");
        let text = refused.text();
        assert!(text.contains("database.change_log_bytes"), "{text}");
    }
    node.stop();
    // A node that had a log and has none any more serves the app, and tells.
    let node = Node::with_options(&app(&on_stays("")), options());
    let (dir, key) = (node.dir(), node.key.clone());
    node.stop();
    let node = Options::default()
        .expect_log("keeps no change log")
        .on(dir.clone(), &key)
        .start();
    until("the loss", || triggers(&node, "")["database"][0]["lost"].is_i64());
    insert(&node, json!([{ "_id": 1 }]));
    node.stop();
    let node = options().on(dir, &key).start();
    insert(&node, json!([{ "_id": 2 }]));
    assert_eq!(all_answered(&node, 1)[0]["documentKey"]["_id"], 2);
    node.stop();
}

#[test]
fn a_collection_that_is_dropped_and_made_again_fires_again() {
    let node = Node::with_options(&app(&on_stays("on = [\"insert\", \"update\"]")), options());
    insert(&node, json!([{ "_id": 1 }]));
    all_answered(&node, 1);
    let dropped = node.admin("DELETE", "/v1/apps/hotel/collections/stays", b"");
    assert_eq!(dropped.status, 200, "{dropped:?}");
    insert(&node, json!([{ "_id": 2 }]));
    assert_eq!(all_answered(&node, 2)[1]["documentKey"]["_id"], 2);
    // It keeps images again.
    update(&node, json!({ "_id": 2 }), json!({ "$set": { "n": 1 } }));
    assert_eq!(
        all_answered(&node, 3)[2]["fullDocument"],
        json!({ "_id": 2, "n": 1 })
    );
    node.stop();
}
