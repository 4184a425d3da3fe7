//! What /metrics shows is what docs/metrics.md lists.

use std::collections::BTreeSet;

use crate::harness::{App, Node, workspace};

#[test]
fn the_list_of_metrics_is_whole() {
    // Metrics with labels appear with their first use: use everything a little.
    let app = App::new("hotel")
        .function("hello", "hello", "")
        .route("/hello", &[], "hello")
        .file("/index.html", "text/html", "hi")
        .lines("[database.collection.notes]\nrules = \"PRIVATE\"")
        .lines("[storage]\nrules = { \"public/\" = { read = \"true\", write = \"auth != null\" } }");
    let node = Node::with(&app);
    assert_eq!(node.client().get("/hello").status, 200);
    assert_eq!(node.client().get("/").status, 200);

    let page = node.admin("GET", "/metrics", b"");
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = page.text();
    let shown: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let doc = std::fs::read_to_string(workspace().join("runtime/docs/metrics.md")).unwrap();
    let listed: BTreeSet<&str> = doc
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .collect();
    let unlisted: Vec<_> = shown.difference(&listed).collect();
    let unseen: Vec<_> = listed.difference(&shown).collect();
    assert!(
        unlisted.is_empty() && unseen.is_empty(),
        "not in metrics.md: {unlisted:?}; only there: {unseen:?}"
    );
    assert!(shown.iter().all(|name| name.starts_with("cloudlet_")));
    node.stop();
}
