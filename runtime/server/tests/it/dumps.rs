//! Dumps of every kind of collection, out of one app and into another: options, indexes, documents, names.

use serde_json::{Value, json};

use crate::cli::{Desk, Done};
use crate::harness::{App, Node};

/// Documents of the time series: more than a page of an export, and all of one moment.
const MEASUREMENTS: usize = 2500;

fn two_apps() -> Desk {
    let node = Node::with(&App::new("web"));
    assert_eq!(node.deploy(&App::new("other")).status / 100, 2);
    Desk::new(Some(node))
}

fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

impl Desk {
    fn of(&self, app: &str, args: &[&str]) -> Done {
        self.run(&[&["--app", app, "db"], args].concat())
    }

    fn admin(&self, method: &str, app: &str, rest: &str, body: &Value) -> Value {
        let path = format!("/v1/apps/{app}/{rest}");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.node.as_ref().unwrap().admin(method, &path, body.as_bytes());
        assert_eq!(reply.status, 200, "{method} {path} {body}: {reply:?}");
        serde_json::from_slice(&reply.body).unwrap()
    }

    fn make(&self, name: &str, options: Value, indexes: Value, documents: Value) {
        let collection = format!("collections/{}", encoded(name));
        let made = self.admin("PUT", "web", &collection, &json!({ "options": options }));
        assert_eq!(made, json!({ "created": true }));
        if indexes != json!([]) {
            let rest = format!("{collection}/indexes");
            let made = self.admin("POST", "web", &rest, &json!({ "indexes": indexes }));
            assert_eq!(made["made"], indexes.as_array().unwrap().len(), "{name}");
        }
        if documents != json!([]) {
            let rest = format!("documents/{}/insert", encoded(name));
            self.admin("POST", "web", &rest, &json!({ "documents": documents }));
        }
    }

    /// Everything about a collection but its UUID.
    fn described(&self, app: &str, name: &str) -> Value {
        let rest = format!("collections/{}", encoded(name));
        let mut description = self.admin("GET", app, &rest, &Value::Null);
        description.as_object_mut().unwrap().remove("uuid");
        description
    }

    /// A collection's documents in the order in which they come.
    fn lines_of(&self, app: &str, name: &str) -> String {
        self.of(app, &["export", name]).ok()
    }
}

/// Makes one of each kind; gives the names of the collections, and of those among them that are views.
fn every_kind(desk: &Desk) -> (Vec<String>, Vec<String>) {
    let indexes = json!([
        { "key": { "place": "2dsphere", "kind": -1 }, "name": "sphere" },
        { "key": { "flat": "2d" }, "name": "plane", "bits": 20, "min": -10, "max": 10 },
        { "key": { "h": "hashed" }, "name": "hashed" },
        { "key": { "n": 1 }, "name": "partial", "unique": true, "partialFilterExpression": { "n": { "$gt": 5 } } },
        { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 2_147_483_647 },
        { "key": { "a.b": 1, "c": -1 }, "name": "sparse", "sparse": true, "hidden": true },
        { "key": { "word": 1 }, "name": "words", "collation": { "locale": "de", "strength": 1 } },
    ]);
    let documents = json!([
        { "_id": 1, "n": 1, "place": { "type": "Point", "coordinates": [1, 2] }, "flat": [1, 2], "word": "a" },
        { "_id": "x", "n": 6, "at": { "$date": "2026-01-01T00:00:00Z" }, "a": { "b": [1, 2] } },
    ]);
    desk.make("indexed", json!({}), indexes, documents);
    desk.make(
        "strict",
        json!({ "validator": { "n": { "$gt": 0 } }, "validationLevel": "moderate" }),
        json!([]),
        json!([{ "_id": 1, "n": 1 }]),
    );
    let options = json!({ "validator": { "n": 1 }, "validationAction": "warn" });
    desk.make("warned", options, json!([]), json!([{ "_id": 1, "n": 1 }]));
    let documents: Vec<Value> = (0..7).map(|n| json!({ "_id": 9 - n, "n": n })).collect();
    let options = json!({ "capped": true, "size": 100_000, "max": 5 });
    desk.make(
        "capped",
        options,
        json!([{ "key": { "n": 1 }, "name": "n_1" }]),
        documents.into(),
    );
    desk.make(
        "collated",
        json!({ "collation": { "locale": "en", "strength": 2 } }),
        json!([
            { "key": { "a": 1 }, "name": "own" },
            { "key": { "b": 1 }, "name": "bytes", "collation": { "locale": "simple" } },
        ]),
        json!([{ "_id": "A", "a": "x", "b": "y" }]),
    );
    let clustered = json!({ "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "stored" } });
    desk.make(
        "clustered",
        clustered,
        json!([{ "key": { "a": 1 }, "name": "a_1" }]),
        json!([{ "_id": 1 }]),
    );
    let options = json!({ "changeStreamPreAndPostImages": { "enabled": true } });
    desk.make("imaged", options, json!([]), json!([]));
    desk.make(
        "series",
        json!({ "timeseries": { "timeField": "t", "metaField": "m", "granularity": "minutes" },
            "expireAfterSeconds": 2_000_000_000 }),
        json!([{ "key": { "v": 1 }, "name": "v_1" }]),
        json!([]),
    );
    let line = |n: usize| {
        format!(
            "{{\"_id\":{},\"t\":{{\"$date\":\"2026-01-01T00:00:00Z\"}},\"m\":{},\"v\":{n}}}\n",
            n % 7,
            n % 3
        )
    };
    desk.write("series.jsonl", &(0..MEASUREMENTS).map(line).collect::<String>());
    desk.of("web", &["import", "series.jsonl"]).ok();
    let long = "/".repeat(200);
    for name in ["a/b", "a\\b %2F\u{e9}", "~+&=:@!", "a..b", &long] {
        desk.make(name, json!({}), json!([]), json!([{ "_id": name }]));
    }
    // Views come behind what they are of, whatever they are called.
    desk.make(
        "0view",
        json!({ "viewOn": "a/view", "pipeline": [{ "$match": { "n": { "$gt": 1 } } }] }),
        json!([]),
        json!([]),
    );
    let options = json!({ "viewOn": "indexed", "pipeline": [] });
    desk.make("a/view", options, json!([]), json!([]));
    let options = json!({ "viewOn": "strict", "pipeline": [], "collation": { "locale": "sv" } });
    desk.make("swedish", options, json!([]), json!([]));
    let listed = desk.admin("GET", "web", "collections", &Value::Null);
    let names = |kind: &str| -> Vec<String> {
        let names = listed[kind].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    (names("collections"), names("views"))
}

#[test]
fn every_kind_of_collection_goes_out_and_comes_back_in_another_app() {
    let desk = two_apps();
    let (collections, views) = every_kind(&desk);
    assert_eq!(
        (collections.len(), views.len()),
        (13, 3),
        "{collections:?} {views:?}"
    );
    desk.of("web", &["export", "--dump", "out"]).ok();
    desk.of("web", &["export", "--dump", "packed", "--gzip"]).ok();
    let check = || {
        for name in collections.iter().chain(&views) {
            assert_eq!(
                desk.described("other", name),
                desk.described("web", name),
                "{name}"
            );
        }
        for name in collections.iter().filter(|name| *name != "imaged") {
            assert!(
                desk.lines_of("other", name) == desk.lines_of("web", name),
                "{name}"
            );
        }
        assert_eq!(desk.lines_of("other", "series").lines().count(), MEASUREMENTS);
        let found = desk.of("other", &["find", "0view", "{}"]).ok();
        assert!(found.contains("\"x\"") && found.lines().count() == 1, "{found}");
    };
    desk.of("other", &["import", "out/web"]).ok();
    check();
    desk.of("other", &["import", "packed", "--drop"]).ok();
    check();
    // A collection that is there otherwise keeps what it is, and this is told.
    desk.of("other", &["delete", "indexed", "{}"]).ok();
    desk.admin("DELETE", "other", "collections/capped", &Value::Null);
    desk.admin("PUT", "other", "collections/capped", &Value::Null);
    let done = desk.of("other", &["import", "out/web", "capped"]);
    assert!(
        done.err.contains("capped: it is there with other options"),
        "{done:?}"
    );
    assert_eq!(desk.described("other", "capped")["options"], json!({}));
    desk.stop();
}

#[test]
fn options_hold_for_what_a_dump_brings_and_what_a_file_replaces() {
    let desk = two_apps();
    let options = json!({ "validator": { "n": { "$gt": 0 } } });
    let indexes = json!([{ "key": { "n": 1 }, "name": "n_1", "unique": true }]);
    desk.make("strict", options, indexes, json!([]));
    desk.write("strict.jsonl", "{\"_id\":1,\"n\":1}\n{\"_id\":2,\"n\":-1}\n");
    let before = desk.described("web", "strict");
    let refused = desk.of("web", &["import", "strict.jsonl"]);
    assert!(
        refused.err.contains("line 2: Document failed validation"),
        "{refused:?}"
    );
    // --drop leaves the validator and the index where they were.
    desk.of(
        "web",
        &["import", "strict.jsonl", "--drop", "--bypass-validation"],
    )
    .ok();
    assert_eq!(desk.described("web", "strict"), before);
    desk.of("web", &["export", "--dump", "out"]).ok();
    let refused = desk.of("other", &["import", "out"]);
    assert!(refused.out.contains("1 inserted, 1 refused"), "{refused:?}");
    desk.of("other", &["import", "out", "--drop", "--bypass-validation"])
        .ok();
    desk.of("other", &["import", "out", "--drop", "--no-options"])
        .ok();
    assert_eq!(desk.described("other", "strict")["options"], json!({}));
    // What no collection can be made with ends the import, unless it is to go without.
    desk.write("new/c.bson", "");
    desk.write(
        "new/c.metadata.json",
        r#"{"indexes":[{"key":{"x":"no such kind"},"name":"x_odd"},{"key":{"y":1},"name":"y_1"}],"options":{"capped":true}}"#,
    );
    desk.of("web", &["import", "new"])
        .fails(&["'size' field is required", "--no-options"]);
    let done = desk.of("web", &["import", "new", "--no-options"]);
    assert!(done.out.contains("1 indexes made"), "{done:?}");
    done.fails(&["x_odd"]);
    desk.stop();
}

#[test]
fn measurements_that_the_node_had_acknowledged_are_not_doubled() {
    let desk = two_apps();
    let options = json!({ "timeseries": { "timeField": "t" } });
    desk.make("s", options, json!([]), json!([]));
    // Of 3000 measurements every two are the same, by `_id` and all.
    let text: String = (0..3000)
        .map(|n| {
            format!(
                "{{\"_id\":{},\"t\":{{\"$date\":{}}}}}\n",
                1000 + n / 2,
                5000 + n / 20
            )
        })
        .collect();
    desk.write("s.jsonl", &format!("{text}x"));
    desk.of("web", &["import", "s.jsonl"]).fails(&["line 3001"]);
    let path = desk.dir.path().join("s.jsonl.import-state");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let length = text.len() / 3000;
    assert_eq!(state["place"]["bytes"], text.len() - 1, "{state}");
    // The state of a run that was killed before it kept the place after its second batch.
    for (name, value) in [("documents", 2000), ("lines", 2000), ("bytes", 2000 * length)] {
        state["place"][name] = value.into();
    }
    std::fs::write(&path, state.to_string()).unwrap();
    desk.write("s.jsonl", &text);
    desk.of("web", &["import", "s.jsonl", "--mended"]).ok();
    let count = desk.of("web", &["count", "s"]).ok();
    assert_eq!(count.trim(), "3000");
    desk.of("web", &["import", "s.jsonl", "--mode", "upsert"])
        .fails(&["time series", "mode insert"]);
    desk.stop();
}

#[test]
fn a_deploy_makes_every_kind_of_index_that_a_manifest_names() {
    let indexes = concat!(
        "[database.collection.places]\nindexes = [",
        "{ keys = { at = \"2dsphere\", n = 1 } }, { keys = { flat = \"2d\" }, bits = 20, min = -10, max = 10 }, ",
        "{ keys = { h = \"hashed\" } }, { keys = { seen = 1 }, expire_after_seconds = 60 }, ",
        "{ keys = { n = 1 }, name = \"part\", unique = true, partial_filter = { n = { \"$gt\" = 5 } } }, ",
        "{ keys = { word = -1 }, sparse = true, collation = { locale = \"zh\", strength = 1 } }]",
    );
    let desk = Desk::new(Some(Node::with(&App::new("web").lines(indexes))));
    let described = desk.described("web", "places");
    let listed = described["indexes"].as_array().unwrap();
    let index = |name: &str| listed.iter().find(|index| index["name"] == name).unwrap();
    assert_eq!(listed.len(), 7, "{listed:?}");
    assert_eq!(
        index("at_2dsphere_n_1")["2dsphereIndexVersion"]["$numberInt"],
        "3"
    );
    assert_eq!(index("flat_2d")["bits"]["$numberInt"], "20");
    assert_eq!(index("h_hashed")["key"]["h"], "hashed");
    assert_eq!(index("seen_1")["expireAfterSeconds"]["$numberInt"], "60");
    assert_eq!(
        index("part")["partialFilterExpression"]["n"]["$gt"]["$numberInt"],
        "5"
    );
    assert_eq!(index("part")["unique"], true);
    assert_eq!(index("word_-1")["collation"]["locale"], "zh");
    assert_eq!(index("word_-1")["sparse"], true);
    desk.stop();
}
