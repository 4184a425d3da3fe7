//! Timers of the real binary: they tick, fail, are tried again, kept and sent again, and outlive the node.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{App, Node, Options, until};

/// An app whose timer ticks each second and tells its function this.
fn ticking(message: &str, more: &str) -> App {
    App::new("clock")
        .function("calls", "calls", "grants = { functions = [\"calls\"] }")
        .lines(&format!(
            "[[trigger.timer]]\nname = \"each-second\"\nschedule = \"* * * * * *\"\nfunction = \"calls\"\n\
         message = \"{message}\"\n{more}"
        ))
}

fn triggers(node: &Node, rest: &str) -> Value {
    node.admin("GET", &format!("/v1/apps/clock/triggers{rest}"), b"")
        .json()
}

fn outcome(node: &Node, outcome: &str) -> f64 {
    node.metric(&format!(
        "cloudlet_trigger_deliveries_total{{kind=\"timer\",outcome=\"{outcome}\"}}"
    ))
}

fn ids(deliveries: &Value) -> Vec<String> {
    let list = deliveries["deliveries"].as_array().unwrap().iter();
    list.map(|delivery| delivery["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_timer_calls_its_function_once_for_each_tick() {
    let node = Node::with(&ticking("echo", ""));
    until("three ticks", || outcome(&node, "answered") >= 3.0);
    let overview = triggers(&node, "");
    let timer = &overview["timers"][0];
    assert_eq!(timer["name"], "each-second");
    assert_eq!(timer["schedule"], "* * * * * * UTC");
    assert!(timer["next"].as_i64().unwrap() > 1_700_000_000_000, "{timer}");
    assert_eq!(overview["failed"], 0);
    // What the function got, as it told its log.
    let logs = node.admin("GET", "/v1/apps/clock/logs", b"").text();
    let events: Vec<Value> = logs
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| serde_json::from_str(line["message"].as_str()?).ok())
        .collect();
    assert!(events.len() >= 3, "{logs}");
    let times: BTreeSet<&str> = events
        .iter()
        .map(|event| event["Time"].as_str().unwrap())
        .collect();
    assert_eq!(times.len(), events.len(), "each tick once: {events:?}");
    assert_eq!(events[0]["TriggerName"], "each-second");
    assert_eq!(events[0]["Message"], "echo");
    node.stop();
}

#[test]
fn what_fails_is_tried_again_then_kept_until_it_is_sent_again_or_forgotten() {
    let node = Node::with(&ticking("fail not today", "retries = 1\n"));
    until("two failures", || outcome(&node, "failed") >= 2.0);
    assert!(outcome(&node, "retried") >= 2.0);
    let failed = triggers(&node, "/failed");
    let first = &failed["deliveries"][0];
    assert_eq!(first["attempts"], 2);
    assert_eq!(first["error"], "not today");
    assert!(
        first["id"].as_str().unwrap().starts_with("clock/each-second/20"),
        "{first}"
    );
    let logs = node.admin("GET", "/v1/apps/clock/logs?level=error", b"").text();
    assert!(logs.contains("cloudlet trigger failed"), "{logs}");

    // The function is mended: what failed before is answered when it is sent again, its event as it was.
    assert_eq!(node.deploy(&ticking("echo", "")).status, 200);
    let all = ids(&triggers(&node, "/failed"));
    let change = |verb: &str, body: Value| {
        let path = format!("/v1/apps/clock/triggers/{verb}");
        node.admin("POST", &path, body.to_string().as_bytes())
    };
    assert_eq!(change("discard", json!({ "id": all[0] })).json()["changed"], 1);
    assert_eq!(change("discard", json!({ "id": all[0] })).status, 404);
    assert!(!ids(&triggers(&node, "/failed")).contains(&all[0]));
    // It has the message of the tick that made it, so it fails again, as it should.
    assert_eq!(change("replay", json!({ "id": all[1] })).json()["changed"], 1);
    until("the one that was sent again", || {
        ids(&triggers(&node, "/failed")).contains(&all[1])
    });
    assert_eq!(change("replay", json!({ "id": "clock/none" })).status, 404);
    assert_eq!(change("replay", json!({ "ids": 1 })).status, 400);
    assert!(change("discard", json!({})).json()["changed"].as_u64().unwrap() >= 1);
    node.stop();
}

#[test]
fn deliveries_outlive_a_node_that_is_killed() {
    // A minute's wait before the second attempt would be long; what waits is due when its time comes, node or no node.
    let node = Node::with(&ticking("fail later", "retries = 20\n"));
    until("a retry", || outcome(&node, "retried") >= 1.0);
    let before = ids(&triggers(&node, "/waiting"));
    assert!(!before.is_empty());
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();
    let node = Options::default().on(dir, &key).start();
    let after = ids(&triggers(&node, "/waiting"));
    assert!(before.iter().all(|id| after.contains(id)), "{before:?} {after:?}");
    until("they are tried again", || outcome(&node, "retried") >= 1.0);
    let after = ids(&triggers(&node, "/waiting"));
    let unique: BTreeSet<&String> = after.iter().collect();
    assert_eq!(unique.len(), after.len());
    node.stop();
}

#[test]
fn a_function_of_http_alone_is_called_by_post() {
    let node = Node::with(
        &App::new("clock")
            .function("echo", "echo", "")
            .lines("[[trigger.timer]]\nschedule = \"* * * * * *\"\nfunction = \"echo\"\n"),
    );
    until("a tick", || outcome(&node, "answered") >= 1.0);
    assert_eq!(triggers(&node, "")["timers"][0]["name"], "echo");
    node.stop();
}
