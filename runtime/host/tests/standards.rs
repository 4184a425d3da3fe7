//! The interfaces of other platforms, on this one's stores: key-value in three dialects, objects, configuration, logs;
//! and HTTP components of any patch release of WASI 0.2.
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

mod support;

use std::time::Duration;

use bson::rawdoc;
use cloudlet_base::Deadline;
use cloudlet_data::{Find, Insert, Namespace};
use cloudlet_host::{Grants, LoadError, LogDetail, LogLevel, LogStream};
use http::Request;
use http_body_util::{BodyExt, Full};
use support::{App, Node, failure, fixture, function_spec, ok};

async fn said(app: &App, payload: &str, expected: &str) {
    assert_eq!(ok(app.call(payload).await), expected, "{payload}");
}

async fn fails(app: &App, payload: &str, parts: &[&str]) {
    let text = failure(app, payload).await;
    assert!(parts.iter().all(|part| text.contains(part)), "{payload}: {text}");
}

#[tokio::test]
async fn both_drafts_and_spin_speak_of_the_same_pairs() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    let dialects = ["draft", "draft2", "spin"];
    for writer in dialects {
        said(&app, &format!("{writer} default set k by-{writer}"), "set").await;
        for reader in dialects {
            said(&app, &format!("{reader} default get k"), &format!("by-{writer}")).await;
            said(&app, &format!("{reader} default exists k"), "true").await;
            said(&app, &format!("{reader} other get k"), "none").await;
        }
        said(&app, &format!("{writer} default delete k"), "deleted").await;
        said(&app, &format!("{writer} default delete k"), "deleted").await;
        said(&app, &format!("{writer} default exists k"), "false").await;
    }
}

#[tokio::test]
async fn values_are_bytes_and_an_empty_name_is_the_default_store() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    said(&app, "draft  set  empty-key", "set").await;
    said(&app, "draft2 default get ", "empty-key").await;
    said(&app, "draft default set big x*3000000", "set").await;
    said(&app, "spin default get big", "3000000 bytes").await;
    said(&app, "draft default set none ", "set").await;
    said(&app, "draft default get none", "").await;
    said(
        &app,
        "draft2 default get-many none gone big none",
        "none=,none,big=3000000 bytes,none=",
    )
    .await;
    said(&app, "draft default delete-many none gone", "deleted").await;
    said(&app, "draft default exists none", "false").await;
}

#[tokio::test]
async fn keys_come_in_pages_that_go_on_where_they_were() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    said(&app, "draft default keys", "0 None").await;
    said(&app, "draft2 default keys", "0 None").await;
    said(&app, "spin default keys", "0").await;
    for from in (0..2000).step_by(1000) {
        said(
            &app,
            &format!("draft default fill k {from} {}", from + 1000),
            "filled",
        )
        .await;
    }
    said(&app, "draft default keys", "1000 k000000 k000999 Some(1000)").await;
    // In another invocation, and in the same one.
    said(&app, "draft default keys 1000", "1000 k001000 k001999 None").await;
    said(&app, "draft default all-keys", "2000 k000000 k001999 in 2").await;
    said(&app, "draft default keys 5000", "0 None").await;
    said(
        &app,
        "draft2 default keys",
        "1000 k000000 k000999 Some(\"k000999\")",
    )
    .await;
    // A key that was the last of its page may be gone.
    said(&app, "draft2 default delete k000999", "deleted").await;
    said(&app, "draft2 default keys k000999", "1000 k001000 k001999 None").await;
    said(&app, "spin default keys", "1999 k000000 k001999").await;
    for from in (2000..11_000).step_by(1000) {
        said(
            &app,
            &format!("draft2 default fill k {from} {}", from + 1000),
            "filled",
        )
        .await;
    }
    fails(&app, "spin default keys", &["more than 10000 keys", "list-keys"]).await;
}

#[tokio::test]
async fn limits_and_grants_are_told() {
    let node = Node::with_database();
    let app = node.app("standards", |spec| spec.grants.keyvalue = vec!["default".into()]);
    let long = "k".repeat(1025);
    for dialect in ["draft", "draft2", "spin"] {
        fails(
            &app,
            &format!("{dialect} default get {long}"),
            &["1025 bytes", "limit of 1024"],
        )
        .await;
        fails(
            &app,
            &format!("{dialect} default set k x*8388609"),
            &["8388609 bytes", "limit of 8388608"],
        )
        .await;
        fails(&app, &format!("{dialect} other get k"), &["AccessDenied"]).await;
    }
    fails(
        &app,
        "draft default fill k 0 1001",
        &["1001 keys", "limit of 1000"],
    )
    .await;
    for key in ["a", "b", "c", "d", "e"] {
        said(&app, &format!("draft default set {key} x*8388608"), "set").await;
    }
    said(
        &app,
        "draft default get-many a b c",
        "a=8388608 bytes,b=8388608 bytes,c=8388608 bytes",
    )
    .await;
    fails(
        &app,
        "draft default get-many a b c d e",
        &["33554432 bytes", "fewer keys"],
    )
    .await;
    fails(&app, "draft default get-many a a a a a", &["33554432 bytes"]).await;
    let told = node.logs.texts(LogStream::Platform);
    assert!(
        told.iter()
            .any(|text| text.contains("\"other\"") && text.contains("grants.keyvalue")),
        "{told:?}"
    );
}

#[tokio::test]
async fn numbers_are_counted_in_one_step_and_read_as_text() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    said(&app, "draft default increment n 5", "5").await;
    said(&app, "draft2 default increment n -7", "-2").await;
    said(&app, "spin default get n", "-2").await;
    fails(&app, "draft default increment n 1", &["is now -1", "draft2"]).await;
    // Text that was set is counted on, and what was counted can be set.
    said(&app, "draft default set n 41", "set").await;
    said(&app, "draft default increment n 1", "42").await;
    said(&app, "spin default get n", "42").await;
    said(&app, "draft2 default get-many n", "n=42").await;
    said(&app, "draft default set n text", "set").await;
    fails(&app, "draft default increment n 1", &["no decimal number"]).await;
    said(&app, "draft default set n 9223372036854775807", "set").await;
    fails(&app, "draft2 default increment n 1", &["64 bits"]).await;
    said(&app, "draft2 default increment n 0", "9223372036854775807").await;
    fails(&app, "draft2 default increment n 1", &["Other"]).await;
    said(&app, "draft2 default get n", "9223372036854775807").await;
    fails(
        &app,
        "draft default increment n 9223372036854775808",
        &["63 bits"],
    )
    .await;
}

#[tokio::test]
async fn a_swap_is_lost_to_whatever_happened_meanwhile() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    said(&app, "draft2 default swap k one", "was none").await;
    said(&app, "draft2 default swap k two", "was one").await;
    said(&app, "draft2 default get k", "two").await;
    for (other, seen) in [("three", "three"), ("delete", "none")] {
        said(
            &app,
            &format!("draft2 default swap-late k {other} mine"),
            &format!("lost to {seen}, then swapped"),
        )
        .await;
        said(&app, "draft2 default get k", "mine").await;
    }
    // The same value again is another state.
    said(
        &app,
        "draft2 default swap-late k again mine",
        "lost to mine, then swapped",
    )
    .await;
    said(
        &app,
        "draft2 default swap-late new first mine",
        "lost to first, then swapped",
    )
    .await;
    said(&app, "draft2 default increment n 1", "1").await;
    said(
        &app,
        "draft2 default swap-late n increment 9",
        "lost to 2, then swapped",
    )
    .await;
    said(&app, "draft2 default increment n 1", "10").await;
}

/// All of many invocations at once count, whichever way they do, and none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_count_at_once_adds_up() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    for (key, words) in [("n", "increment"), ("m", "swap-add")] {
        said(&app, &format!("draft2 default set {key} 100"), "set").await;
        let mut all = Vec::new();
        for _ in 0..8 {
            let app = app.clone();
            let payload = format!("draft2 default {words} {key} 1");
            all.push(tokio::spawn(async move {
                for _ in 0..10 {
                    ok(app.call(&payload).await);
                }
            }));
        }
        for one in all {
            one.await.unwrap();
        }
        said(&app, &format!("draft2 default get {key}"), "180").await;
    }
}

#[tokio::test]
async fn pairs_are_documents_that_no_grant_reaches() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    said(&app, "spin default set k v", "set").await;
    said(&app, "draft default increment n 3", "3").await;
    let pairs = Namespace::new("shop", "cloudlet.keyvalue.default");
    let all = Find {
        sort: Some(rawdoc! { "_id": 1 }),
        ..Find::default()
    };
    let found = node.documents.find(&pairs, all, Deadline::NEVER).await.unwrap();
    let [k, n] = &found.documents[..] else {
        panic!("{:?}", found.documents)
    };
    assert_eq!(k.get_binary("value").unwrap().bytes, b"v");
    assert_eq!(
        (n.get_str("_id").unwrap(), n.get_i64("number").unwrap()),
        ("n", 3)
    );
    let others = node.app("capabilities", |_| {});
    let text = failure(&others, "open cloudlet.keyvalue.default").await;
    assert!(text.contains("Denied"), "{text}");

    // What another program left there is told, and left out of listings.
    let insert = Insert {
        documents: vec![rawdoc! { "_id": "odd", "value": 1 }, rawdoc! { "_id": 7 }],
        ordered: true,
        ..Insert::default()
    };
    node.documents
        .insert(&pairs, insert, Deadline::NEVER)
        .await
        .unwrap();
    fails(&app, "draft default get odd", &["another program"]).await;
    said(&app, "spin default keys", "3 k odd").await;
    said(
        &app,
        "draft2 default swap-late odd v w",
        "lost to v, then swapped",
    )
    .await;
}

#[tokio::test]
async fn containers_are_prefixes_of_the_bucket() {
    let node = Node::with_database();
    let app = node.app("standards", |spec| {
        spec.grants.storage = vec!["photos/".into(), "a/b/".into()]
    });
    for (container, there) in [
        ("photos", "true"),
        ("a/b", "true"),
        ("a", "false"),
        ("other", "false"),
        ("", "false"),
    ] {
        said(&app, &format!("blob exists {container}"), there).await;
    }
    said(&app, "blob create photos", "photos").await;
    fails(&app, "blob create other", &["\"other/\"", "grants.storage"]).await;
    said(&app, "blob in photos info", "photos 0").await;
    said(&app, "blob in photos put x/one.txt abcdefghij", "stored").await;
    said(&app, "blob in photos put-late two x*200000", "stored").await;
    said(&app, "blob in photos has x/one.txt", "true").await;
    said(&app, "blob in photos has one.txt", "false").await;
    said(
        &app,
        "blob in photos object-info x/one.txt",
        "photos x/one.txt 10 true",
    )
    .await;
    said(&app, "blob in photos get x/one.txt 2 4", "3 cde").await;
    said(
        &app,
        "blob in photos get x/one.txt 8 18446744073709551615",
        "2 ij",
    )
    .await;
    fails(
        &app,
        "blob in photos get x/one.txt 10 20",
        &["10 to 20", "10 bytes"],
    )
    .await;
    fails(&app, "blob in photos get none 0 1", &["none"]).await;
    said(&app, "blob in photos put empty ", "stored").await;
    said(&app, "blob in photos get empty 0 0", "0 ").await;
    // The same objects as the platform's own interface has.
    let own = node.app("capabilities", |_| {});
    assert_eq!(ok(own.call("get photos/x/one.txt").await), "abcdefghij");
    assert_eq!(ok(own.call("put photos/own.txt hello").await), "5 text/plain");
    said(
        &app,
        "blob in photos list 0 10",
        "0 [empty,own.txt,two,x/one.txt] true",
    )
    .await;
    said(&app, "blob in photos list 1 2", "1 [own.txt,two] false").await;
    said(&app, "blob in photos list 9 2", "4 [] true").await;
    said(&app, "blob copy photos own.txt a/b copied", "copied").await;
    said(&app, "blob move photos own.txt photos own.txt", "moved").await;
    said(&app, "blob move photos own.txt a/b moved", "moved").await;
    assert_eq!(
        ok(own.call("list photos/").await),
        "photos/empty,photos/two,photos/x/one.txt"
    );
    said(&app, "blob in a/b list 0 10", "0 [copied,moved] true").await;
    fails(&app, "blob copy photos two other two", &["grants.storage"]).await;
    fails(&app, "blob copy other two photos two", &["grants.storage"]).await;
    said(&app, "blob in photos remove two none", "removed").await;
    said(&app, "blob in photos remove empty", "removed").await;
    said(&app, "blob in a/b clear", "cleared").await;
    said(&app, "blob delete photos", "deleted").await;
    assert_eq!(ok(own.call("list ").await), "");
}

#[tokio::test]
async fn content_streams_both_ways_within_limits() {
    let node = Node::with_database();
    let app = node.app("standards", |spec| {
        spec.limits.cpu = Duration::from_secs(10);
    });
    said(&app, "blob in c put big x*20000000", "stored").await;
    said(
        &app,
        "blob in c stream big 0 18446744073709551615",
        "20000000 in true",
    )
    .await;
    said(&app, "blob in c stream big 19999990 19999999", "10 in false").await;
    fails(
        &app,
        "blob in c get big 0 19999999",
        &["20000000 bytes", "limit of 16777216", "consume-async"],
    )
    .await;
    said(&app, "blob in c get big 0 9999999", "10000000 10000000 bytes").await;
    // More than is held for a value that has no container yet.
    fails(&app, "blob in c put-late other x*400000", &["write-data first"]).await;
    fails(&app, "blob in c put-twice other", &["already"]).await;
    fails(&app, "blob in c finish-only", &["write-data before finish"]).await;
    said(&app, "blob in c put-dropped other x*100000", "dropped").await;
    said(&app, "blob in c list 0 10", "0 [big] true").await;
    let names: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    fails(
        &app,
        &format!("blob in c remove {}", names.join(" ")),
        &["1001 objects", "limit of 1000"],
    )
    .await;
    for bad in ["../x", "a//b", "a/"] {
        fails(&app, &format!("blob in c put {bad} x"), &["path"]).await;
    }
}

#[tokio::test]
async fn what_handles_hold_is_bounded() {
    let node = Node::with_database();
    let app = node.app("standards", |_| {});
    said(&app, "draft2 default set k x*8000000", "set").await;
    said(&app, "draft2 default hold k 8", "8").await;
    fails(
        &app,
        "draft2 default hold k 9",
        &["limit of 67108864", "finish some"],
    )
    .await;
    said(&app, "blob in c hold 64", "64").await;
    let stopped = app.call("blob in c hold 65").await.unwrap_err().to_string();
    assert!(stopped.contains("limit of 67108864"), "{stopped}");
}

#[tokio::test]
async fn configuration_and_logs_are_the_same_by_every_name() {
    let node = Node::start();
    let app = node.app("standards", |spec| {
        spec.vars = [("region", "gz"), ("API_URL", "u"), ("both", "var")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        spec.secrets = [("VISION_KEY", "s3"), ("both", "secret")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    });
    for name in ["rc1", "draft"] {
        said(&app, &format!("config {name} region"), "gz").await;
        said(&app, &format!("config {name} VISION_KEY"), "s3").await;
        said(&app, &format!("config {name} both"), "secret").await;
        said(&app, &format!("config {name} vision_key"), "none").await;
        said(
            &app,
            &format!("config {name}"),
            "API_URL=u,VISION_KEY=s3,both=secret,region=gz",
        )
        .await;
    }
    for (variable, value) in [
        ("region", "gz"),
        ("api_url", "u"),
        ("vision_key", "s3"),
        ("both", "secret"),
    ] {
        said(&app, &format!("spin {variable} variable"), value).await;
    }
    fails(&app, "spin VISION_KEY variable", &["InvalidName", "lower-case"]).await;
    fails(&app, "spin missing variable", &["Undefined", "grants.vars"]).await;

    for level in ["trace", "debug", "info", "warn", "error", "critical"] {
        said(&app, &format!("log {level} cart message-{level}"), "logged").await;
    }
    said(&app, "log info  bare", "logged").await;
    let lines = node.logs.lines();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.stream == LogStream::Logging)
        .map(|line| (line.level, &line.detail, line.text.as_str()))
        .collect();
    let cart = &LogDetail::Context("cart".into());
    assert_eq!(
        lines,
        [
            (LogLevel::Trace, cart, "message-trace"),
            (LogLevel::Debug, cart, "message-debug"),
            (LogLevel::Info, cart, "message-info"),
            (LogLevel::Warn, cart, "message-warn"),
            (LogLevel::Error, cart, "message-error"),
            (LogLevel::Error, cart, "message-critical"),
            (LogLevel::Info, &LogDetail::None, "bare"),
        ]
    );
}

#[test]
fn each_import_that_is_not_granted_is_named_with_its_remedy() {
    let node = Node::start();
    let bare = node.function("standards", |spec| spec.grants = Grants::default());
    let problems = node.try_load(vec![bare]).err().unwrap();
    let texts: Vec<String> = problems.iter().map(LoadError::to_string).collect();
    for (import, remedy) in [
        (
            "wasi:keyvalue/store@0.2.0-draft",
            "grants = { keyvalue = [\"default\"] }",
        ),
        (
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "grants = { keyvalue = [\"default\"] }",
        ),
        (
            "fermyon:spin/key-value@2.0.0",
            "grants = { keyvalue = [\"default\"] }",
        ),
        (
            "wasi:blobstore/container@0.2.0-draft",
            "grants = { storage = [\"PREFIX/\"] }",
        ),
    ] {
        let named = format!("\"{import}\"");
        assert!(
            texts
                .iter()
                .any(|text| text.contains(&named) && text.contains(remedy)),
            "{import}: {texts:#?}"
        );
    }
    assert!(
        texts
            .iter()
            .all(|text| text.contains("keyvalue") || text.contains("storage")),
        "{texts:#?}"
    );
}

#[tokio::test]
async fn http_components_of_any_patch_release_run() {
    let node = Node::start();
    let whole = fixture("echo");
    for patch in 0..=12 {
        let component = at_patch(&whole, patch);
        let hash = node.host.compile(&component).unwrap();
        let app = node.app_of(vec![function_spec("echo", hash)]);
        assert!(app.app.serves_http("echo"), "0.2.{patch}");
        let request = Request::post("/up?x=1").body(Full::from("hello")).unwrap();
        let response = app.send(request).await.unwrap();
        assert_eq!(response.headers()["x-path"], "/up?x=1", "0.2.{patch}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "hello", "0.2.{patch}");
    }
}

/// The component as if it had been built against another patch release of WASI: every `@0.2.N` of what it imports and
/// exports is another one. Names inside it are its own and stay.
fn at_patch(component: &[u8], patch: u32) -> Vec<u8> {
    const IMPORTS: u8 = 10;
    const EXPORTS: u8 = 11;
    let (mut out, mut rest) = (component[..8].to_vec(), &component[8..]);
    let mut renamed = 0;
    while let [id, tail @ ..] = rest {
        let (size, tail) = leb(tail);
        let (content, tail) = tail.split_at(size);
        let mut content = content.to_vec();
        if matches!(*id, IMPORTS | EXPORTS) {
            let mut at = 0;
            while let Some(found) = content[at..].windows(5).position(|bytes| bytes == b"wasi:") {
                at += found;
                let length = usize::from(content[at - 1]);
                let name = String::from_utf8(content[at..at + length].to_vec()).unwrap();
                let (head, version) = name.split_once('@').unwrap();
                if version.starts_with("0.2.") && !version.contains('-') {
                    let name = format!("{head}@0.2.{patch}");
                    content[at - 1] = u8::try_from(name.len()).unwrap();
                    content.splice(at..at + length, name.bytes());
                    renamed += 1;
                }
                at += 5;
            }
        }
        out.push(*id);
        let mut size = content.len();
        while size >= 0x80 {
            out.push((size & 0x7f) as u8 | 0x80);
            size >>= 7;
        }
        out.push(size as u8);
        out.extend(content);
        rest = tail;
    }
    assert!(renamed > 3, "{renamed}");
    out
}

/// A number of variable length, and what follows it.
fn leb(bytes: &[u8]) -> (usize, &[u8]) {
    let end = bytes.iter().position(|byte| *byte < 0x80).unwrap();
    let value = bytes[..=end]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (value, &bytes[end + 1..])
}
