//! Objects through the client API: permits, uploads, downloads, rules.

use serde_json::{Value, json};

use crate::harness::{App, Node};
use crate::http::Response;

fn app() -> App {
    App::new("hotel").lines(
        r#"[storage]
rules = { "public/" = { read = "true", write = "auth != null" }, "mine/" = { read = "auth != null && resource.openid == auth.openid", write = "auth != null && resource.openid == auth.openid" } }
cache = { "public/" = "public, max-age=3600" }
[auth]
anonymous = true"#,
    )
}

fn ask(node: &Node, token: Option<&str>, verb: &str, items: &Value) -> Value {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|text| ("authorization", text.as_str())).collect();
    let path = format!("/v1/storages/{verb}");
    let reply = node.client().send("POST", &path, &headers, items.to_string().as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()[0].clone()
}

fn permit(node: &Node, token: &str, path: &str) -> Value {
    ask(node, Some(token), "get-objects-upload-info", &json!([{ "objectId": path }]))
}

/// The path and query of a URL of this node.
fn local(url: &Value) -> String {
    let url = url.as_str().unwrap_or_else(|| panic!("not a URL: {url}"));
    format!("/{}", url.splitn(4, '/').nth(3).unwrap())
}

fn put(node: &Node, permit: &Value, bytes: &[u8]) -> Response {
    let headers = [
        ("authorization", permit["authorization"].as_str().unwrap()),
        ("x-cos-security-token", permit["token"].as_str().unwrap()),
        ("content-type", "image/jpeg"),
    ];
    node.client().send("PUT", &local(&permit["uploadUrl"]), &headers, bytes)
}

#[test]
fn objects_go_up_and_down() {
    let node = Node::with(&app());
    let token = node.anonymous();
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 % 251) as u8).collect();
    for path in ["public/a b.jpg", "public/照片.jpg", "mine/deep/er/x.jpg"] {
        let permit = permit(&node, &token, path);
        assert_eq!(permit["cloudObjectId"], format!("cloud://hotel.files/{path}"));
        let stored = put(&node, &permit, &bytes);
        assert_eq!(stored.status, 200, "{stored:?}");

        let items = json!([{ "cloudObjectId": permit["cloudObjectId"] }]);
        let url = local(&ask(&node, Some(&token), "get-objects-download-info", &items)["downloadUrl"]);
        let mut client = node.client();
        let whole = client.get(&url);
        assert_eq!(whole.status, 200, "{path}");
        assert_eq!(whole.body, bytes);
        assert_eq!(whole.header("content-type"), Some("image/jpeg"));
        assert_eq!(whole.header("etag"), stored.header("etag"));
        let open = path.starts_with("public/");
        let cache = if open { "public, max-age=3600" } else { "private, no-cache" };
        assert_eq!(whole.header("cache-control"), Some(cache));
        assert_eq!(url.contains("sign="), !open);

        let part = client.send("GET", &url, &[("range", "bytes=10-19")], b"");
        assert_eq!((part.status, part.body.as_slice()), (206, &bytes[10..20]));
        let etag = whole.header("etag").unwrap();
        assert_eq!(client.send("GET", &url, &[("if-none-match", etag)], b"").status, 304);
        let head = client.send("HEAD", &url, &[], b"");
        assert_eq!((head.status, head.header("content-length")), (200, Some("100000")));

        assert!(ask(&node, Some(&token), "delete-objects", &items).get("code").is_none());
        assert_eq!(client.get(&url).status, 404);
        assert_eq!(ask(&node, Some(&token), "delete-objects", &items)["code"], "STORAGE_FILE_NONEXIST");
    }
    node.stop();
}

#[test]
fn rules_keep_foreign_objects_apart() {
    let node = Node::with(&app());
    let (ann, ben) = (node.anonymous(), node.anonymous());
    assert_eq!(put(&node, &permit(&node, &ann, "mine/a.txt"), b"ann's").status, 200);
    let items = json!([{ "cloudObjectId": "cloud://hotel.files/mine/a.txt" }]);
    for token in [Some(ben.as_str()), None] {
        for verb in ["get-objects-download-info", "delete-objects"] {
            assert_eq!(ask(&node, token, verb, &items)["code"], "STORAGE_EXCEED_AUTHORITY");
        }
        let upload = ask(&node, token, "get-objects-upload-info", &json!([{ "objectId": "mine/a.txt" }]));
        assert_eq!(upload["code"], "STORAGE_EXCEED_AUTHORITY");
    }
    // No rule, no entry; and nobody learns what is there.
    assert_eq!(permit(&node, &ann, "elsewhere/a")["code"], "STORAGE_EXCEED_AUTHORITY");
    assert_eq!(node.client().get("/_cloudlet/storage/mine/a.txt").status, 403);
    assert_eq!(node.client().get("/_cloudlet/storage/mine/none.txt").status, 403);
    let bearer = format!("Bearer {ann}");
    let own = node.client().send("GET", "/_cloudlet/storage/mine/a.txt", &[("authorization", &bearer)], b"");
    assert_eq!(own.text(), "ann's");
    node.stop();
}

#[test]
fn permits_hold_for_what_they_say() {
    let node = Node::with(&app());
    let token = node.anonymous();
    let small = ask(
        &node,
        Some(&token),
        "get-objects-upload-info",
        &json!([{ "objectId": "public/a", "signedHeader": { "content-length": ["4"] } }]),
    );
    assert_eq!(put(&node, &small, b"12345").status, 413);
    assert_eq!(put(&node, &small, b"1234").status, 200);

    let mut elsewhere = small.clone();
    elsewhere["uploadUrl"] = json!("http://x/_cloudlet/upload/public/b");
    assert_eq!(put(&node, &elsewhere, b"1234").code(), "STORAGE_SIGN_PARAM_INVALID");
    let mut forged = small.clone();
    let text = small["authorization"].as_str().unwrap();
    forged["authorization"] = json!(text.replacen(".4.", ".9.", 1));
    assert_eq!(put(&node, &forged, b"1234").code(), "STORAGE_SIGN_PARAM_INVALID");
    forged["authorization"] = json!("");
    assert_eq!(put(&node, &forged, b"1234").status, 403);
    for path in ["", "../x", "public//x", "public/"] {
        assert_eq!(permit(&node, &token, path)["code"], "INVALID_PARAM", "{path}");
    }
    let foreign = json!([{ "cloudObjectId": "cloud://other.files/public/a" }]);
    assert_eq!(ask(&node, Some(&token), "get-objects-download-info", &foreign)["code"], "INVALID_PARAM");
    node.stop();
}
