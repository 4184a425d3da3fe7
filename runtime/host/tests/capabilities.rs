//! The database and the storage as guests reach them: grants, batches, typed errors, streams.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use support::{Node, failure, ok};

#[tokio::test]
async fn documents_go_in_and_come_out_in_batches() {
    let node = Node::with_database();
    let app = node.app("capabilities", |_| {});
    assert_eq!(ok(app.call("one rooms").await), "false");
    assert_eq!(ok(app.call("insert rooms 250").await), "250");
    assert_eq!(ok(app.call("count rooms").await), "250");
    assert_eq!(ok(app.call("one rooms").await), "true");
    assert_eq!(ok(app.call("all rooms 100").await), "250 in 3");
    assert_eq!(ok(app.call("update rooms").await), "250 250");
    assert_eq!(ok(app.call("delete rooms").await), "250");
    assert_eq!(ok(app.call("count rooms").await), "0");
}

#[tokio::test]
async fn what_is_not_granted_or_malformed_is_told_by_type() {
    let node = Node::with_database();
    let app = node.app("capabilities", |spec| {
        spec.grants.database = vec!["rooms".into()];
        spec.grants.storage = vec!["photos/".into()];
    });
    assert_eq!(ok(app.call("open rooms").await), "opened");
    let text = failure(&app, "open guests").await;
    assert!(
        text.contains("Denied") && text.contains("grants.database"),
        "{text}"
    );
    let text = failure(&app, "bad-filter rooms").await;
    assert!(
        text.contains("Invalid") && text.contains("the filter is not a BSON document"),
        "{text}"
    );
    // Nobody is logged in and the collection has no rule: admins only.
    let text = failure(&app, "count-as-caller rooms").await;
    assert!(text.contains("Denied"), "{text}");
    assert_eq!(ok(app.call("put photos/a.txt hello").await), "5 text/plain");
    for payload in [
        "put secret.txt x",
        "get other/a",
        "list photo",
        "remove photos",
        "head x",
    ] {
        let text = failure(&app, payload).await;
        assert!(
            text.contains("Denied") && text.contains("grants.storage"),
            "{payload}: {text}"
        );
    }
    // No such segment can be in an object's path, so no prefix leads out of itself.
    assert!(failure(&app, "get photos/../a").await.contains("NotFound"));
    assert!(failure(&app, "put photos/../a x").await.contains("Invalid"));
}

#[tokio::test]
async fn objects_are_stored_whole_or_streamed() {
    let node = Node::with_database();
    let app = node.app("capabilities", |_| {});
    assert_eq!(ok(app.call("put a/one.json {}").await), "2 application/json");
    assert_eq!(ok(app.call("get a/one.json").await), "{}");
    assert!(failure(&app, "get a/none").await.contains("NotFound"));
    assert_eq!(
        ok(app.call("put a/word abcdefghij").await),
        "10 application/octet-stream"
    );
    assert_eq!(ok(app.call("open-object a/word 2 3").await), "cde");
    assert_eq!(ok(app.call("open-object a/word 8 100").await), "ij");
    assert_eq!(ok(app.call("open-object a/word 10 1").await), "");
    assert!(failure(&app, "open-object a/word 11 1").await.contains("Invalid"));
    assert_eq!(ok(app.call("upload a/big 300000").await), "300000");
    assert_eq!(ok(app.call("open-object a/big 299990 20").await), "uuuuuuuuuu");
    let head = ok(app.call("head a/big").await);
    assert!(head.starts_with("300000 \"") && head.len() == 7 + 66, "{head}");
    assert_eq!(ok(app.call("list a/").await), "a/big,a/one.json,a/word");
    assert_eq!(ok(app.call("remove a/word").await), "true");
    assert_eq!(ok(app.call("remove a/word").await), "false");
    assert_eq!(
        ok(app.call("file-id a/big").await),
        "cloud://shop.shop-bucket/a/big"
    );
}

#[tokio::test]
async fn an_upload_without_its_end_leaves_nothing() {
    let node = Node::with_database();
    let app = node.app("capabilities", |_| {});
    assert_eq!(ok(app.call("put a/kept old").await), "3 application/octet-stream");
    for path in ["a/kept", "a/new"] {
        assert_eq!(
            ok(app.call(&format!("upload-dropped {path} 20000")).await),
            "dropped"
        );
    }
    assert_eq!(ok(app.call("get a/kept").await), "old");
    assert!(failure(&app, "get a/new").await.contains("NotFound"));
}
