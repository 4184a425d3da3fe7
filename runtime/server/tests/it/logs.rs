//! What functions say: kept across a kill, filtered, paged, followed, sampled; and what a crash looks like.

use std::io::{BufRead as _, BufReader};

use serde_json::Value;

use crate::cli::{Desk, command};
use crate::harness::{App, Node, Options};

fn app() -> App {
    App::new("web")
        .function("misbehave", "misbehave", "")
        .function("crash", "crash", "")
        .route("/...", &[], "misbehave")
        .route("/crash", &[], "crash")
}

/// The lines that the admin API tells for these parameters.
fn lines(node: &Node, query: &str) -> Vec<Value> {
    let reply = node.admin("GET", &format!("/v1/apps/web/logs?{query}"), b"");
    assert_eq!(reply.status, 200, "{reply:?}");
    let text = reply.text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect()
}

/// Waits until a question has an answer of so many lines.
fn lines_when(node: &Node, query: &str, count: usize) -> Vec<Value> {
    for _ in 0..1000 {
        let found = lines(node, query);
        if found.len() >= count {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{query}: {:#?}", lines(node, query))
}

#[test]
fn lines_survive_a_kill_and_a_crash_can_be_read_in_the_log_alone() {
    let node = Node::with(&app());
    assert_eq!(node.client().get("/print").status, 200);
    let crashed = node.client().get("/crash");
    assert_eq!(crashed.status, 500, "{crashed:?}");
    let request = crashed.header("x-request-id").unwrap().to_owned();
    let told = crashed.text();
    for inside in ["settle_the_bill", "lib.rs", "the bill is empty", "backtrace"] {
        assert!(!told.contains(inside), "{told}");
    }
    let crash = lines_when(&node, "status=error", 1);
    // What the writer has taken is in the system's hands, and no kill takes it back.
    let written = || {
        let dir = node.dir().path().join("logs/web");
        std::fs::read_dir(dir).is_ok_and(|entries| {
            entries
                .filter_map(|entry| std::fs::read(entry.unwrap().path()).ok())
                .any(|bytes| bytes.windows(17).any(|window| window == b"the bill is empty"))
        })
    };
    while !written() {
        std::thread::yield_now();
    }
    let (dir, key) = (node.dir(), node.key.clone());
    node.kill();
    let node = Options::default().on(dir, &key).start();
    assert_eq!(lines(&node, "status=error"), crash);
    let crash = &crash[0];
    assert_eq!(
        (&crash["requestId"], &crash["function"]),
        (&request.as_str().into(), &"crash".into())
    );
    assert_eq!(
        (&crash["outcome"], &crash["level"]),
        (&"trap".into(), &"error".into())
    );
    let text = crash["message"].as_str().unwrap();
    for inside in [
        "crash::settle_the_bill",
        "lib.rs:",
        "the bill is empty",
        "settling a bill of 0 items",
    ] {
        assert!(text.contains(inside), "{text}");
    }
    let printed = lines(&node, "function=misbehave");
    assert_eq!(
        messages(&printed),
        [
            "one line",
            "half and half",
            "to stderr",
            "by wasi:logging",
            "no line end"
        ]
    );
    assert_eq!(printed[3]["context"], "shop");
    // By request: what the guest said, and its end.
    let of_request = lines(&node, &format!("request={request}"));
    assert!(of_request.len() > 2 && of_request.iter().all(|line| line["function"] == "crash"));
    // What comes goes on behind it.
    assert_eq!(node.client().get("/print").status, 200);
    let last = of_request.last().unwrap()["cursor"].as_str().unwrap();
    assert_eq!(
        messages(&lines_when(&node, &format!("after={last}"), 5)),
        messages(&printed)
    );
    for (query, said) in [
        ("status=bad", "unknown status"),
        ("limit=0", "limit"),
        ("limit=10001", "10000"),
        ("before=1&after=2", "before"),
        ("after=x", "cursor"),
        ("request=x", "request id"),
        ("until=soon", "duration"),
    ] {
        let reply = node.admin("GET", &format!("/v1/apps/web/logs?{query}"), b"");
        assert!(
            reply.status == 400 && reply.text().contains(said),
            "{query}: {reply:?}"
        );
    }
    node.stop();
}

#[test]
fn a_flood_is_sampled_and_that_is_told() {
    let options = Options::default().set("log-lines-per-second", "50");
    let node = Node::with_options(&app(), options);
    assert_eq!(node.client().get("/flood").status, 200);
    let told = lines_when(&node, "text=lines+are+left+out", 1);
    assert!(told.iter().all(|line| line["leftOut"].as_u64().unwrap() > 0));
    let all = lines(&node, "function=misbehave&limit=10000");
    // The function's own limit is 1000 lines; they come within two seconds.
    let kept = all.iter().filter(|line| line["stream"] == "stdout").count();
    assert!((50..=150).contains(&kept), "{kept}");
    let left_out = node.metric("cloudlet_logs_lines_total{outcome=\"left_out\"}");
    assert!((kept as f64 + left_out - 1000.0).abs() < 0.5, "{kept} {left_out}");
    node.stop();
}

#[test]
fn the_command_pages_filters_and_goes_on_following_after_a_restart() {
    let options = Options::default().set("log-invocations", "all");
    let mut desk = Desk::new(Some(Node::with_options(&app(), options)));
    let node = desk.node.as_ref().unwrap();
    for _ in 0..3 {
        assert_eq!(node.client().get("/print").status, 200);
    }
    assert_eq!(lines_when(node, "", 18).len(), 18);
    let run = |desk: &Desk, args: &[&str]| desk.run(&[&["--app", "web", "logs"], args].concat());
    let ends = run(&desk, &["--status", "ok"]).ok();
    assert_eq!(ends.lines().count(), 3);
    assert!(
        ends.contains("answered with status 200 (ok, status 200, "),
        "{ends}"
    );
    assert!(
        run(&desk, &["--text", "WASI", "-n", "1"])
            .ok()
            .contains("shop: by wasi:logging")
    );
    run(&desk, &["--status", "error"]).fails(&["nothing that matches"]);
    // Back from the newest, page by page.
    let (mut before, mut pages): (Option<String>, _) = (None, Vec::new());
    loop {
        let mut args = vec!["-n", "5"];
        if let Some(before) = &before {
            args.extend(["--before", before.as_str()]);
        }
        let done = run(&desk, &args);
        assert_eq!(done.code, 0, "{done:?}");
        pages.push(done.out.lines().count());
        match done.err.trim().rsplit_once("--before ") {
            Some((_, cursor)) => before = Some(cursor.to_owned()),
            None => break,
        }
    }
    assert_eq!(pages, [5, 5, 5, 3]);
    // A follower goes on when the node comes back.
    let mut follower = command(desk.dir.path(), desk.node.as_ref())
        .args(["--app", "web", "logs", "-f", "-n", "1", "--text", "stderr"])
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(heard.next().unwrap().unwrap().contains("to stderr"));
    let node = desk.node.take().unwrap();
    let (dir, key, admin) = (node.dir(), node.key.clone(), node.admin);
    node.stop();
    let options = Options::default().on(dir, &key);
    let node = options.set("admin-listen", admin.to_string()).start();
    assert_eq!(node.client().get("/print").status, 200);
    assert!(heard.next().unwrap().unwrap().contains("to stderr"));
    follower.kill().unwrap();
    follower.wait().unwrap();
    desk.node = Some(node);
    desk.stop();
}
