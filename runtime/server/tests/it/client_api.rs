//! The gateway dialect over the wire: identity, functions, documents under rules.

use serde_json::{Value, json};

use crate::harness::{App, Node, Options};
use crate::http::Response;

const DB: &str = "/v1/database/instances/(default)/databases/(default)/collections";

fn app() -> App {
    App::new("hotel")
        .function(
            "open",
            "calls",
            "invoke = \"true\"\ngrants = { functions = [\"open\"] }",
        )
        .function("members", "calls", "grants = { functions = [\"open\"] }")
        .function(
            "closed",
            "calls",
            "invoke = \"false\"\ngrants = { functions = [\"open\"] }",
        )
        .function("hello", "hello", "")
        .route("/hello", &[], "hello")
        .lines("[database.collection.stays]\nrules = \"PRIVATE\"")
        .lines("[database.collection.posts]\nrules = \"READONLY\"")
        .lines("[database.collection.prices]\nrules = \"ADMINWRITE\"")
        .lines("[auth]\nanonymous = true\npassword = true")
}

/// A caller with a token, or nobody in particular.
struct Caller<'a> {
    node: &'a Node,
    token: Option<String>,
}

impl Caller<'_> {
    fn send(&self, method: &str, path: &str, body: &str) -> Response {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer
            .iter()
            .map(|text| ("authorization", text.as_str()))
            .collect();
        self.node.client().send(method, path, &headers, body.as_bytes())
    }

    fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.send(method, path, &body);
        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
        reply.json()
    }

    fn find(&self, collection: &str, query: &Value) -> Vec<Value> {
        let query =
            percent_encoding::utf8_percent_encode(&query.to_string(), percent_encoding::NON_ALPHANUMERIC)
                .to_string();
        let reply = self.ok(
            "GET",
            &format!("{DB}/{collection}/documents?query={query}&"),
            Value::Null,
        );
        reply["list"].as_array().unwrap().clone()
    }
}

fn anonymous(node: &Node) -> Caller<'_> {
    Caller {
        node,
        token: Some(node.anonymous()),
    }
}

#[test]
fn users_come_go_and_come_back() {
    let node = Node::with_options(&app(), Options::default().expect_log("refresh token used twice"));
    let password = json!({ "username": "bob", "password": "correct horse" });
    let new = node.log_in("signup", &password);
    assert_eq!(
        (&new["token_type"], &new["scope"]),
        (&json!("Bearer"), &json!("user"))
    );
    let again = node.log_in("signin", &password);
    assert_eq!(again["sub"], new["sub"]);

    let auth = |path: &str, body: &Value| {
        node.client().send(
            "POST",
            &format!("/auth/v1/{path}"),
            &[],
            body.to_string().as_bytes(),
        )
    };
    let wrong = auth("signin", &json!({ "username": "bob", "password": "wrong horse" }));
    assert_eq!(wrong.json()["error"], "invalid_username_or_password");
    assert_eq!(auth("signup", &password).json()["error"], "already_exists");
    assert_eq!(
        auth("verification", &json!({ "phone_number": "+86 1" })).json()["error_code"],
        12
    );
    assert_eq!(
        auth("signin", &json!({ "username": 7 })).json()["error"],
        "invalid_argument"
    );
    assert_eq!(
        node.client().send("POST", "/auth/v1/signin", &[], b"{").status,
        400
    );

    let caller = Caller {
        node: &node,
        token: Some(again["access_token"].as_str().unwrap().into()),
    };
    let me = caller.ok("GET", "/auth/v1/user/me", Value::Null);
    assert_eq!((&me["sub"], &me["username"]), (&new["sub"], &json!("bob")));

    // Refresh tokens follow each other; one from further back means that there are copies, and ends the session.
    let refresh =
        |tokens: &Value| json!({ "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"] });
    let second = node.log_in("token", &refresh(&again));
    assert_eq!(second["sub"], new["sub"]);
    let third = node.log_in("token", &refresh(&second));
    assert_eq!(auth("token", &refresh(&again)).json()["error"], "invalid_grant");
    assert_eq!(auth("token", &refresh(&third)).json()["error"], "invalid_grant");
    assert_eq!(caller.send("GET", "/auth/v1/user/me", "").status, 401);

    // Revocation ends a session at once.
    let token = new["access_token"].as_str().unwrap();
    assert_eq!(auth("revoke", &json!({ "token": token })).status, 200);
    let gone = Caller {
        node: &node,
        token: Some(token.into()),
    };
    assert_eq!(gone.send("GET", "/auth/v1/user/me", "").status, 401);
    node.stop();
}

#[test]
fn forged_foreign_and_expired_tokens_are_refused() {
    let node = Node::with_options(&app(), Options::default().set("auth-access-ttl", "1s"));
    let token = node.anonymous();
    let status = |token: &str, path: &str| {
        let caller = Caller {
            node: &node,
            token: Some(token.into()),
        };
        caller.send("GET", path, "")
    };
    let (head, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let forged = format!("{head}.{payload}.{}", signature.chars().rev().collect::<String>());
    for bad in ["nonsense", "a.b.c", &forged] {
        for path in ["/hello", &format!("{DB}/stays/documents")] {
            let reply = status(bad, path);
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (401, "CHECK_LOGIN_FAILED"),
                "{bad} {path}"
            );
        }
    }
    // The SDK refreshes on exactly this code. Waiting is asking until the second is over.
    let expired = loop {
        let reply = status(&token, "/hello");
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!(
        (expired.status, expired.code().as_str()),
        (401, "ACCESS_TOKEN_EXPIRED")
    );
    node.stop();
}

#[test]
fn expired_sessions_are_removed() {
    let options = Options::default()
        .set("auth-refresh-ttl", "1s")
        .set("maintenance-interval", "20ms");
    let node = Node::with_options(&app(), options);
    anonymous(&node);
    // Waiting is asking until a round has come after the second is over.
    while node.metric("cloudlet_maintenance_removed_total{what=\"sessions\"}") < 1.0 {}
    assert_eq!(node.metric("cloudlet_maintenance_failures_total"), 0.0);
    node.stop();
}

#[test]
fn functions_are_called_under_their_rules() {
    let node = Node::with(&app());
    let nobody = Caller {
        node: &node,
        token: None,
    };
    let user = anonymous(&node);
    let admin = Caller {
        node: &node,
        token: Some(node.key.clone()),
    };
    let call = |caller: &Caller<'_>, name: &str, data: &str| {
        caller.send("POST", &format!("/v1/functions/{name}"), data)
    };

    let reply = call(&nobody, "open", "echo {\"a\":1}");
    assert_eq!((reply.status, reply.json()["a"].clone()), (200, json!(1)));
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("application/json")
    );
    assert!(
        call(&nobody, "open", "echo plain")
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert_eq!(call(&nobody, "members", "echo 1").status, 401);
    assert_eq!(call(&user, "members", "echo 1").text(), "1");
    assert_eq!(call(&user, "closed", "echo 1").code(), "PERMISSION_DENIED");
    assert_eq!(call(&admin, "closed", "echo 1").text(), "1");
    assert!(
        call(&user, "members", "caller")
            .text()
            .to_lowercase()
            .contains("anonymous")
    );
    assert_eq!(call(&user, "missing", "{}").code(), "FUNCTION_NOT_FOUND");
    for (data, status) in [
        ("invalid x", 400),
        ("denied x", 403),
        ("not-found x", 404),
        ("fail x", 500),
    ] {
        assert_eq!(call(&user, "members", data).status, status, "{data}");
    }
    let panicked = call(&user, "members", "panic secret");
    assert_eq!(
        (panicked.status, panicked.code().as_str()),
        (500, "FUNCTION_INVOCATION_FAILED")
    );
    assert!(!panicked.text().contains("secret"));
    assert_eq!(user.send("GET", "/v1/functions/members", "").status, 405);
    node.stop();
}

#[test]
fn documents_are_added_found_changed_and_removed() {
    let node = Node::with(&app());
    let user = anonymous(&node);
    let stays = format!("{DB}/stays/documents");
    let added = user.ok(
        "POST",
        &stays,
        json!({ "data": [
        { "_id": "d1", "a": 1, "when": { "$date": { "offset": 0 } } },
        { "a": 2, "b": { "c": "x" } },
        { "a": { "$numberLong": "3" } },
    ] }),
    );
    let ids = added["insertedIds"].as_array().unwrap();
    assert_eq!((ids.len(), &ids[0]), (3, &json!("d1")));
    assert_eq!(ids[1].as_str().unwrap().len(), 32);

    let all = user.find("stays", &json!({ "a": { "$gte": { "$numberInt": "1" } } }));
    assert_eq!(all.len(), 3);
    let first = all.iter().find(|document| document["_id"] == "d1").unwrap();
    assert!(first["when"]["$date"].is_string(), "{first}");
    assert!(first["_openid"].is_string());
    assert_eq!(user.find("stays", &json!({ "b.c": "x" })).len(), 1);
    let one = user.ok("GET", &format!("{stays}/d1?"), Value::Null);
    assert_eq!(one["a"], 1);
    assert_eq!(user.send("GET", &format!("{stays}/none"), "").status, 404);
    let page = user.ok("GET", &format!("{stays}?offset=1&limit=1&order=%5B%7B%22field%22%3A%22a%22%2C%22direction%22%3A%22desc%22%7D%5D&projection=%7B%22a%22%3A1%7D&"), Value::Null);
    assert_eq!(
        (&page["list"][0]["a"], &page["offset"], &page["limit"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert!(page["list"][0].get("b").is_none());
    assert_eq!(
        user.ok("GET", &format!("{stays}?count=true&query=%7B%7D&"), Value::Null)["total"],
        3
    );

    let change = |query: Value, data: Value, upsert: bool, multi: bool| {
        user.ok(
            "PATCH",
            &stays,
            json!({ "query": query, "data": data, "multi": multi, "upsert": upsert, "replaceMode": false }),
        )
    };
    let updated = change(
        json!({ "_id": "d1" }),
        json!({ "$inc": { "a": 10 }, "$set": { "b.c": 2 } }),
        false,
        false,
    );
    assert_eq!(
        (&updated["matched"], &updated["updated"], &updated["upsert_id"]),
        (&json!(1), &json!(1), &Value::Null)
    );
    assert_eq!(user.find("stays", &json!({ "_id": "d1" }))[0]["b"]["c"], 2);
    change(json!({ "_id": "d1" }), json!({ "only": true }), true, false);
    let replaced = &user.find("stays", &json!({ "_id": "d1" }))[0];
    assert_eq!((&replaced["only"], replaced.get("a")), (&json!(true), None));
    assert!(replaced["_openid"].is_string(), "a replacement keeps its owner");
    assert_eq!(
        change(json!({ "_id": "d9" }), json!({ "a": 9 }), true, false)["upsert_id"],
        "d9"
    );
    assert_eq!(
        change(json!({}), json!({ "$set": { "seen": true } }), false, true)["matched"],
        4
    );

    assert_eq!(
        user.ok(
            "POST",
            &format!("{stays}/remove"),
            json!({ "query": { "_id": "d9" }, "multi": false })
        )["deleted"],
        1
    );
    assert_eq!(
        user.ok(
            "POST",
            &format!("{stays}/remove"),
            json!({ "query": { "seen": true }, "multi": true })
        )["deleted"],
        3
    );
    assert_eq!(user.find("stays", &json!({})).len(), 0);
    node.stop();
}

#[test]
fn rules_keep_foreign_documents_apart() {
    let node = Node::with(&app());
    let (ann, ben) = (anonymous(&node), anonymous(&node));
    let nobody = Caller {
        node: &node,
        token: None,
    };
    for (collection, caller) in [("stays", &ann), ("posts", &ann)] {
        caller.ok(
            "POST",
            &format!("{DB}/{collection}/documents"),
            json!({ "data": { "_id": "anns", "n": 1 } }),
        );
    }
    assert_eq!(ann.find("stays", &json!({})).len(), 1);
    assert_eq!(ben.find("stays", &json!({})).len(), 0);
    assert_eq!(ben.find("posts", &json!({})).len(), 1);
    for collection in ["stays", "posts"] {
        let documents = format!("{DB}/{collection}/documents");
        let change = json!({ "query": { "_id": "anns" }, "data": { "$set": { "n": 2 } } });
        assert_eq!(ben.ok("PATCH", &documents, change)["updated"], 0);
        let remove = json!({ "query": { "_id": "anns" } });
        assert_eq!(
            ben.ok("POST", &format!("{documents}/remove"), remove)["deleted"],
            0
        );
        // Nobody writes in somebody else's name.
        let forged = json!({ "data": { "_openid": "ann" } }).to_string();
        assert_eq!(ben.send("POST", &documents, &forged).status, 403);
        let stolen =
            json!({ "query": {}, "data": { "$set": { "_openid": "ben" } }, "multi": true }).to_string();
        assert!(matches!(ann.send("PATCH", &documents, &stolen).status, 400 | 403));
    }
    let refused = ann.send(
        "POST",
        &format!("{DB}/prices/documents"),
        &json!({ "data": { "n": 1 } }).to_string(),
    );
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "DATABASE_PERMISSION_DENIED")
    );
    for caller in [&ann, &nobody] {
        assert_eq!(
            caller
                .send("GET", &format!("{DB}/undeclared/documents"), "")
                .status,
            403
        );
    }
    // An admin key is bound by no rule.
    let admin = Caller {
        node: &node,
        token: Some(node.key.clone()),
    };
    assert_eq!(admin.find("stays", &json!({})).len(), 1);
    node.stop();
}

#[test]
fn malformed_requests_lose_nothing() {
    let node = Node::with(&app());
    let user = anonymous(&node);
    let stays = format!("{DB}/stays/documents");
    user.ok("POST", &stays, json!({ "data": { "_id": "d1", "n": 1 } }));
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    for (method, path, body) in [
        ("POST", stays.as_str(), "{"),
        ("POST", &stays, "[]"),
        ("POST", &stays, r#"{"data":7}"#),
        ("POST", &stays, r#"{"data":[]}"#),
        ("POST", &stays, r#"{"data":{"x":{"$oid":"short"}}}"#),
        ("POST", &stays, &format!(r#"{{"data":{deep}}}"#)),
        ("PATCH", &stays, r#"{"query":{}}"#),
        (
            "PATCH",
            &stays,
            r#"{"query":{"_id":"d1"},"data":{"$nonsense":{"n":2}}}"#,
        ),
        ("GET", &format!("{stays}?query=%7B"), ""),
        ("GET", &format!("{stays}?limit=many"), ""),
        ("GET", &format!("{stays}?order=%7B%7D"), ""),
        (
            "GET",
            &format!("{stays}?query=%7B%22a%22%3A%7B%22%24nonsense%22%3A1%7D%7D"),
            "",
        ),
    ] {
        let reply = user.send(method, path, body);
        assert_eq!(reply.status, 400, "{method} {path} {body}: {reply:?}");
    }
    let duplicate = user.send("POST", &stays, &json!({ "data": { "_id": "d1" } }).to_string());
    assert_eq!(duplicate.status, 409);
    for (method, path) in [
        ("POST", format!("{stays}/aggregations")),
        (
            "POST",
            "/v1/database/instances/(default)/databases/(default)/transactions".to_owned(),
        ),
    ] {
        assert_eq!(user.send(method, &path, "{}").code(), "OPERATION_UNSUPPORTED");
    }
    let encoded = stays.replace('(', "%28").replace(')', "%29");
    assert_eq!(user.ok("GET", &encoded, Value::Null)["list"][0]["n"], 1);
    node.stop();
}

#[test]
fn browsers_of_other_origins_may_call() {
    let node = Node::with_options(
        &app(),
        Options::default().set("cors-origins", "https://a.example"),
    );
    let ask = |origin: &str| {
        node.client().send(
            "OPTIONS",
            "/v1/functions/open",
            &[
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "x-mine"),
            ],
            b"",
        )
    };
    let allowed = ask("https://a.example");
    assert_eq!(
        (allowed.status, allowed.header("access-control-allow-origin")),
        (204, Some("https://a.example"))
    );
    let headers = allowed.header("access-control-allow-headers").unwrap();
    for wanted in ["authorization", "x-device-id", "x-mine"] {
        assert!(headers.contains(wanted), "{headers}");
    }
    assert_eq!(
        ask("https://b.example").header("access-control-allow-origin"),
        None
    );
    let call = node.client().send(
        "POST",
        "/v1/functions/open",
        &[("origin", "https://a.example")],
        b"echo 1",
    );
    assert_eq!(
        call.header("access-control-allow-origin"),
        Some("https://a.example")
    );
    // Functions behind triggers speak for themselves.
    let trigger = node
        .client()
        .send("GET", "/hello", &[("origin", "https://a.example")], b"");
    assert_eq!(trigger.header("access-control-allow-origin"), None);
    node.stop();
}
