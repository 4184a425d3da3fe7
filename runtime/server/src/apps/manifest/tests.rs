//! The manifest as a whole.

use std::time::Duration;

use bson::{RawDocumentBuf, doc};
use cloudlet_data::rules::Rule;
use proptest::prelude::*;

use super::*;
use crate::apps::registry::StorageAccess;
use crate::triggers::timers::Missed;

const HEAD: &str = "manifest_version = 1\n[app]\nname = \"hotel\"\n";

fn problems(text: &str) -> Vec<(usize, String)> {
    let problems = parse(FILE, text, None).expect_err("it has problems");
    problems
        .into_iter()
        .map(|problem| (problem.line, problem.to_string()))
        .collect()
}

/// The text, after a good head, has exactly one problem, on `line` after the head, that says all of `words`.
#[track_caller]
fn check(text: &str, line: usize, words: &[&str]) {
    let found = problems(&format!("{HEAD}{text}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].0, line + 3, "{found:#?}");
    for word in words {
        assert!(found[0].1.contains(word), "{word:?} not in {found:#?}");
    }
}

const WHOLE: &str = r#"
manifest_version = 1
[app]
name = "hotel"
domains = ["Hotel.example.com"]
[limits]
concurrency = 50
rate = { total = "1000/s", user = "20/s burst 40" }
[vars]
region = "gz"
[secrets]
required = ["VISION_KEY"]
[function.checkin]
source = "target/wasm32-wasip2/release/checkin.wasm"
build  = { command = "cargo build --release --target wasm32-wasip2", watch = ["src/**/*.rs"] }
grants = { database = ["rooms", "stays"], storage = ["photos/"], keyvalue = ["sessions"], functions = ["notify"], vars = ["region"], secrets = ["VISION_KEY"] }
outbound = ["https://vision.example.com"]
limits = { memory = "32MiB", cpu = "200ms", timeout = "3s", concurrency = 20, queue = "100ms", rate = { address = "100/m" } }
reuse  = { max_requests = 1 }
invoke = "auth != null"
[function.notify]
source = "notify.wasm"
invoke = "false"
[[trigger.http]]
route = "/api/..."
methods = ["GET", "POST"]
function = "checkin"
[[trigger.http]]
route = "/api/..."
methods = ["DELETE"]
function = "notify"
[database.collection.stays]
rules   = "PRIVATE"
indexes = [{ keys = { _openid = 1, createdAt = -1 }, unique = false }, { keys = { z = 1, a = 1 } }]
[storage]
rules = { "" = { read = "false" }, "public/" = { read = "true", write = "auth != null" } }
cache = { "public/" = "public, max-age=3600" }
[auth]
anonymous = true
[hosting]
dir = "dist"
spa = true
[env.prod.vars]
region = "bj"
"#;

#[test]
fn the_whole_manifest_is_understood() {
    let manifest = parse(FILE, WHOLE, Some("prod")).unwrap();
    assert_eq!(manifest.app.as_str(), "hotel");
    assert_eq!(manifest.domains, ["hotel.example.com"]);
    assert_eq!(manifest.concurrency, Some(50));
    assert_eq!(manifest.rates.total.unwrap().to_string(), "1000/s burst 1000");
    assert_eq!(manifest.rates.user.unwrap().to_string(), "20/s burst 40");
    assert_eq!(manifest.rates.address, None);
    assert_eq!(
        manifest.functions["checkin"].limits.queue,
        Duration::from_millis(100)
    );
    assert_eq!(
        manifest.functions["checkin"].rates.address.unwrap().to_string(),
        "100/m burst 100"
    );
    assert_eq!(manifest.vars["region"], "bj");
    assert_eq!(parse(FILE, WHOLE, None).unwrap().vars["region"], "gz");
    let checkin = &manifest.functions["checkin"];
    assert_eq!(checkin.limits.memory_bytes_max, 32 << 20);
    assert_eq!(checkin.limits.timeout, Duration::from_secs(3));
    assert_eq!(checkin.limits.cpu, Duration::from_millis(200));
    assert_eq!(checkin.limits.concurrency, 20);
    assert_eq!(checkin.grants.functions, ["notify"]);
    assert_eq!(checkin.grants.keyvalue, ["sessions"]);
    assert_eq!(manifest.functions["notify"].invoke, InvokeRule::Nobody);
    assert_eq!(manifest.routes.len(), 2);
    let stays = &manifest.collections["stays"];
    assert_eq!(stays.rule, Rule::Private);
    assert_eq!(&*stays.indexes[0].name, "_openid_1_createdAt_-1");
    assert_eq!(&*stays.indexes[1].name, "z_1_a_1");
    assert_eq!(manifest.storage[0].prefix, "public/");
    assert_eq!(manifest.storage[0].write, StorageAccess::LoggedIn);
    assert_eq!(manifest.storage[1].read, StorageAccess::Nobody);
    assert!(manifest.anonymous_login && !manifest.password_signup);
}

#[test]
fn indexes_are_all_that_the_database_has() {
    let text = format!(
        "{HEAD}[database.collection.a]\nindexes = [{}]\n",
        r#"{ keys = { place = "2dsphere", n = -1 } }, { keys = { flat = "2d" }, bits = 20, min = -10.0, max = 10 },
        { keys = { h = "hashed" } }, { keys = { at = 1 }, expire_after_seconds = 60 },
        { keys = { n = 1 }, name = "part", unique = true, partial_filter = { n = { "$gt" = 5 }, at = { "$lt" = { "$date" = "2026-01-01T00:00:00Z" } } } },
        { keys = { word = 1 }, name = "words", sparse = true, collation = { locale = "de", strength = 1 } }"#
    );
    let manifest = parse(FILE, &text, None).unwrap();
    let date = bson::DateTime::from_millis(1_767_225_600_000);
    let expected = [
        doc! { "key": { "place": "2dsphere", "n": -1 }, "name": "place_2dsphere_n_-1" },
        doc! { "key": { "flat": "2d" }, "name": "flat_2d", "bits": 20, "min": -10.0, "max": 10.0 },
        doc! { "key": { "h": "hashed" }, "name": "h_hashed" },
        doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 60 },
        doc! { "key": { "n": 1 }, "name": "part", "unique": true,
        // The fields of a table are in the order of their names.
        "partialFilterExpression": { "at": { "$lt": date }, "n": { "$gt": 5 } } },
        doc! { "key": { "word": 1 }, "name": "words", "sparse": true, "collation": { "locale": "de", "strength": 1 } },
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|document| IndexSpec::parse(&RawDocumentBuf::try_from(document).unwrap()).unwrap())
        .collect();
    assert_eq!(manifest.collections["a"].indexes, expected);
}

#[test]
fn the_least_manifest_is_enough() {
    let manifest = parse(FILE, HEAD, None).unwrap();
    assert!(manifest.functions.is_empty() && manifest.hosting.is_none() && !manifest.anonymous_login);
}

#[test]
fn five_mistakes_are_five_problems_with_their_lines() {
    let text = r#"manifest_version = 1
[app]
name = "Hotel"
[function.checkin]
source = "a.wasm"
grant = { database = ["rooms"] }
limits = { memory = "64MB" }
[[trigger.http]]
route = "/auth/v1/mine"
function = "chekin"
"#;
    let found = problems(text);
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 6, 7, 9, 10], "{found:#?}");
    let expected = [
        ("invalid app name \"Hotel\"", "1 to 40 of a-z"),
        ("unknown key \"grant\"", "did you mean \"grants\"?"),
        ("invalid size \"64MB\"", "64MiB"),
        ("overlaps \"/auth/v1/\"", "choose another path"),
        ("there is no function \"chekin\"", "did you mean \"checkin\"?"),
    ];
    for ((_, text), (what, remedy)) in found.iter().zip(expected) {
        assert!(text.starts_with("cloudlet.toml:"), "{text}");
        assert!(text.contains(what) && text.contains(remedy), "{text}");
    }
}

#[test]
fn unknown_and_missing_keys_are_told() {
    check(
        "[vras]\nregion = \"gz\"\n",
        1,
        &["unknown key \"vras\"", "did you mean \"vars\"?"],
    );
    check(
        "[function.a]\ninvoke = \"true\"\n",
        1,
        &["\"function.a.source\" is missing"],
    );
    check(
        "[[trigger.http]]\nroute = \"/a\"\n",
        1,
        &["function\" is missing"],
    );
    let found = problems("[function.a]\nsource = \"x\"\n");
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn wrong_types_are_told_and_the_rest_is_still_checked() {
    check(
        "[auth]\nanonymous = \"yes\"\n",
        2,
        &["a text in quotes", "true or false"],
    );
    check(
        "[vars]\nn = 1\n",
        2,
        &["\"vars.n\" is a whole number", "a text in quotes"],
    );
    check("[function]\na = 1\n", 2, &["write a table"]);
    check("[hosting]\ndir = [\"a\"]\n", 2, &["a list"]);
    check(
        "[database.collection.a]\nrules = 1\n",
        2,
        &["a text in quotes or a table"],
    );
    check("[secrets]\nrequired = [\"A\", 2]\n", 2, &["secrets.required[1]"]);
    let two = problems(&format!(
        "{HEAD}[auth]\nanonymous = 1\n[function.a]\nsource = \"x\"\ninvoke = \"maybe\"\n"
    ));
    assert_eq!(two.len(), 2, "{two:#?}");
}

#[test]
fn timers_are_read_and_what_is_wrong_with_one_is_told_at_its_place() {
    let function = "[function.a]\nsource = \"x\"\nlimits = { timeout = \"7s\" }\n";
    let text = format!(
        "{HEAD}{function}[[trigger.timer]]\nschedule = \"0 30 3 * * *\"\nfunction = \"a\"\n\
         [[trigger.timer]]\nname = \"b\"\nschedule = \"0 0 0 1 1 * 2030\"\ntime_zone = \"Asia/Shanghai\"\n\
         function = \"a\"\nmessage = \"m\"\nmissed = \"once\"\nretries = 0\n"
    );
    let timers = parse(FILE, &text, None).unwrap().timers;
    assert_eq!(timers.len(), 2);
    assert_eq!((timers[0].name.as_str(), timers[0].retries), ("a", 3));
    assert_eq!(timers[0].missed, Missed::Skip);
    assert_eq!(timers[0].timeout, Duration::from_secs(7));
    assert_eq!(timers[1].schedule.text(), "0 0 0 1 1 * 2030 Asia/Shanghai");
    assert_eq!((timers[1].missed, timers[1].retries), (Missed::Once, 0));
    assert_eq!((&*timers[1].function, timers[1].message.as_str()), ("a", "m"));

    let timer = |line: &str| format!("{function}[[trigger.timer]]\nfunction = \"a\"\n{line}\n");
    for (line, at, words) in [
        (
            "schedule = \"0 0 * * *\"",
            6,
            ["no cron expression", "second minute hour"],
        ),
        (
            "schedule = \"0 0 3 * * *\"\ntime_zone = \"Mars\"",
            7,
            ["time zone \"Mars\"", "IANA"],
        ),
        (
            "schedule = \"0 0 3 * * *\"\nmissed = \"all\"",
            7,
            ["missed is \"all\"", "\"once\""],
        ),
        (
            "schedule = \"0 0 3 * * *\"\nretries = 21",
            7,
            ["retries is 21", "0 to 20"],
        ),
        (
            "schedule = \"0 0 3 * * *\"\nname = \"-\"",
            7,
            ["timer name", "letters"],
        ),
        ("name = \"t\"", 4, ["schedule", "trigger.timer"]),
    ] {
        check(&timer(line), at, &words);
    }
    check(
        "[[trigger.timer]]\nschedule = \"0 0 3 * * *\"\nfunction = \"b\"\n",
        3,
        &["no function \"b\""],
    );
    let twice = "[[trigger.timer]]\nschedule = \"0 0 3 * * *\"\nfunction = \"a\"\n".repeat(2);
    check(&format!("{function}{twice}"), 9, &["a trigger \"a\" already"]);
}

#[test]
fn triggers_on_changes_are_read_and_what_is_wrong_with_one_is_told_at_its_place() {
    let function = "[function.a]\nsource = \"x\"\nlimits = { timeout = \"7s\" }\n";
    let text = format!(
        "{HEAD}{function}[[trigger.database]]\ncollection = \"stays\"\nfunction = \"a\"\n\
         [[trigger.database]]\nname = \"b\"\ncollection = \"stays\"\non = [\"delete\", \"insert\", \"insert\"]\n\
         filter = {{ \"fullDocument.n\" = {{ \"$gt\" = 5 }}, \"$or\" = [{{ \"ns.db\" = \"x\" }}] }}\nfunction = \"a\"\nretries = 0\n\
         [[trigger.storage]]\nname = \"c\"\nfunction = \"a\"\n\
         [[trigger.storage]]\nname = \"d\"\nprefix = \"photos/\"\non = [\"deleted\"]\nfunction = \"a\"\n"
    );
    let changes = parse(FILE, &text, None).unwrap().changes;
    let watches: Vec<String> = changes.iter().map(|trigger| trigger.source.watches()).collect();
    assert_eq!(
        watches,
        [
            "insert, update, replace, delete of stays",
            "insert, delete of stays where {\"$or\":[{\"ns.db\":\"x\"}],\"fullDocument.n\":{\"$gt\":5}}",
            "created, deleted under \"\"",
            "deleted under \"photos/\"",
        ]
    );
    assert_eq!((changes[0].name.as_str(), changes[0].retries), ("a", 3));
    assert_eq!((changes[1].name.as_str(), changes[1].retries), ("b", 0));
    assert_eq!(changes[3].timeout, Duration::from_secs(7));

    let database = |line: &str| {
        format!("{function}[[trigger.database]]\ncollection = \"c\"\nfunction = \"a\"\n{line}\n")
    };
    for (line, words) in [
        ("on = [\"upsert\"]", ["on has \"upsert\"", "\"replace\""]),
        (
            "filter = { status = \"open\" }",
            ["no change event has", "\"fullDocument.status\""],
        ),
        (
            "filter = { fullDocument.status = \"open\" }",
            ["table under \"fullDocument\"", "\"fullDocument.status\""],
        ),
        (
            "filter = { \"fullDocument.n\" = { \"$bad\" = 1 } }",
            ["the filter is none", "extended JSON"],
        ),
        (
            "filter = { \"fullDocument.at\" = 2026-11-23T20:00:00Z }",
            ["has the date", "\"$date\""],
        ),
        ("filtre = {}", ["unknown key \"filtre\"", "\"filter\""]),
        ("retries = 21", ["retries is 21", "0 to 20"]),
    ] {
        check(&database(line), 7, &words);
    }
    check(
        "[[trigger.database]]\nfunction = \"a\"\n[function.a]\nsource = \"x\"\n",
        1,
        &["collection", "missing"],
    );
    let storage = |line: &str| format!("{function}[[trigger.storage]]\nfunction = \"a\"\n{line}\n");
    for (line, words) in [
        ("on = [\"updated\"]", ["on has \"updated\"", "\"created\""]),
        ("prefix = \"/photos\"", ["invalid path prefix", "leading slash"]),
        ("filter = {}", ["unknown key \"filter\"", "known here"]),
    ] {
        check(&storage(line), 6, &words);
    }
    let timer = "[[trigger.timer]]\nschedule = \"0 0 3 * * *\"\nfunction = \"a\"\n";
    check(
        &format!("{function}{timer}[[trigger.storage]]\nfunction = \"a\"\n"),
        8,
        &["a trigger \"a\" already", "name ="],
    );
}

#[test]
fn what_is_not_offered_yet_is_told_never_ignored() {
    check(
        "[auth.wechat]\nappid = \"wx\"\n",
        1,
        &["[auth.wechat] is not offered yet"],
    );
    check(
        "[function.a]\nsource = \"x\"\nreuse = { max_requests = 5 }\n",
        3,
        &["write 1"],
    );
    check(
        "[database.collection.a]\nrules = { read = \"true\" }\n",
        2,
        &["not offered yet"],
    );
}

#[test]
fn contradictions_are_told() {
    let two_functions = "[function.a]\nsource = \"x\"\n";
    check(
        &format!("{two_functions}grants = {{ vars = [\"v\"] }}\n"),
        3,
        &["no var \"v\"", "[vars]"],
    );
    check(
        &format!("{two_functions}grants = {{ secrets = [\"S\"] }}\n"),
        3,
        &["no secret \"S\""],
    );
    check(
        &format!("{two_functions}grants = {{ functions = [\"b\"] }}\n"),
        3,
        &["did you mean \"a\"?"],
    );
    check(
        &format!("{two_functions}grants = {{ keyvalue = [\"a b\"] }}\n"),
        3,
        &["invalid key-value store name \"a b\""],
    );
    check(
        &format!("{two_functions}grants = {{ database = [\"cloudlet.keyvalue.a\"] }}\n"),
        3,
        &["the platform's", "grants.keyvalue"],
    );
    check(
        "[database.collection.\"cloudlet.x\"]\nrules = \"READONLY\"\n",
        1,
        &["the platform's"],
    );
    let route = "[[trigger.http]]\nroute = \"/x\"\nfunction = \"a\"\n";
    check(&format!("{two_functions}{route}{route}"), 7, &["there already"]);
    check(
        "[database.collection.a]\nindexes = [{ keys = { x = 2 } }]\n",
        2,
        &["write 1 or -1"],
    );
    check(
        "[database.collection.a]\nindexes = [{ keys = { } }]\n",
        2,
        &["1 to 32 fields"],
    );
    for (index, what) in [
        ("keys = { x = \"text\" }", "\"2dsphere\", \"2d\" or \"hashed\""),
        ("keys = { x = \"2dsphere\" }, unique = true", "can't be unique"),
        ("keys = { x = 1, y = \"2d\" }", "2d has to be first"),
        (
            "keys = { x = \"hashed\", y = 1 }",
            "hashed index has one field only",
        ),
        (
            "keys = { x = 1, y = 1 }, expire_after_seconds = 5",
            "single-field indexes",
        ),
        ("keys = { x = 1 }, expire_after_seconds = -5", "acceptable range"),
        (
            "keys = { x = 1 }, partial_filter = { \"$nor\" = [{ x = 1 }] }",
            "partial index",
        ),
        (
            "keys = { x = 1 }, partial_filter = { x = 1 }, sparse = true",
            "cannot mix",
        ),
        (
            "keys = { x = 1 }, collation = { locale = \"xx\" }",
            "Field 'locale' is invalid",
        ),
        ("keys = { x = \"2d\" }, bits = 33", "33 bits"),
        ("keys = { x = \"2d\" }, min = 5.0, max = 1.0", "positive area"),
        ("keys = { \"a..b\" = 1 }", "not a field path"),
        ("keys = { x = 1 }, colour = \"red\"", "colour"),
    ] {
        check(
            &format!("[database.collection.a]\nindexes = [{{ {index} }}]\n"),
            2,
            &[what],
        );
    }
    check(
        "[storage]\nrules = { \"/a\" = { read = \"true\" } }\n",
        2,
        &["path prefix"],
    );
    check(
        "[function.a]\nsource = \"x\"\nlimits = { timeout = \"1h\" }\n",
        3,
        &["over the limit"],
    );
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let found = problems("manifest_version = 1\n[app]\nname = \"hotel\nx = 1\n");
    assert!(found.iter().any(|(line, _)| *line == 3), "{found:#?}");
    let found = problems("a = 1\na = 2\n");
    assert!(
        found
            .iter()
            .any(|(line, text)| *line == 2 && text.contains("duplicate key")),
        "{found:#?}"
    );
    assert!(!problems(&"x".repeat(TEXT_BYTES_MAX + 1)).is_empty());
}

#[test]
fn an_unknown_environment_is_told() {
    let problems = parse(FILE, WHOLE, Some("porduction")).expect_err("there is none");
    assert!(
        problems[0].to_string().contains("no environment \"porduction\""),
        "{problems:?}"
    );
    let problems = parse(FILE, WHOLE, Some("prodd")).expect_err("there is none");
    assert!(
        problems[0].to_string().contains("did you mean \"prod\"?"),
        "{problems:?}"
    );
}

/// A manifest with a few small changes, as slips of a hand make them.
fn damaged() -> impl Strategy<Value = String> {
    let change = (
        any::<prop::sample::Index>(),
        prop::sample::select(vec!["", "[", "]", "\"", "=", "x", "{ }", "\n", "é", "1"]),
    );
    prop::collection::vec(change, 1..6).prop_map(|changes| {
        let mut text: Vec<String> = WHOLE.chars().map(String::from).collect();
        for (at, with) in changes {
            let at = at.index(text.len());
            text[at] = with.to_owned();
        }
        text.concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is wrong, there is an answer, and every problem points into the text.
    #[test]
    fn a_damaged_manifest_is_answered(text in damaged()) {
        match parse(FILE, &text, Some("prod")) {
            Ok(manifest) => prop_assert!(!manifest.app.as_str().is_empty()),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                let lines = text.split('\n').count();
                for problem in problems {
                    prop_assert!((1..=lines).contains(&problem.line), "{}", problem);
                    prop_assert!(!problem.message.is_empty() && !problem.remedy.is_empty());
                }
            }
        }
    }

    /// Every schema-shaped key of the manifest that is misspelt is told on its own line.
    #[test]
    fn a_misspelt_key_is_told_where_it_is(at in any::<prop::sample::Index>()) {
        let keys = ["grants = ", "outbound = ", "limits = ", "invoke = \"auth", "route = ", "spa = ", "anonymous = "];
        let key = keys[at.index(keys.len())];
        let place = WHOLE.find(key).unwrap();
        let text = format!("{}x{}", &WHOLE[..place], &WHOLE[place..]);
        let line = WHOLE[..place].matches('\n').count() + 1;
        let problems = parse(FILE, &text, None).expect_err("the key is unknown");
        prop_assert!(problems.iter().any(|p| p.line == line && p.message.contains("unknown key")), "{:?}", problems);
    }
}

#[test]
fn the_shipped_schema_is_current() {
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/manifest.schema.json")).unwrap();
    let current = serde_json::to_string_pretty(schema()).unwrap() + "\n";
    assert!(
        shipped == current,
        "write it anew: cloudlet validate --schema > runtime/server/manifest.schema.json"
    );
}

#[test]
fn limits_out_of_range_and_rates_that_are_none_are_told() {
    check(
        "[limits]\nconcurrency = 0\n",
        2,
        &["concurrency is 0", "write 1 to"],
    );
    check(
        "[limits]\nrate = { total = \"20\" }\n",
        2,
        &["invalid rate", "20/s"],
    );
    check("[limits]\nrate = { ip = \"20/s\" }\n", 2, &["ip"]);
    let function = |line: &str| format!("[function.f]\nsource = \"f.wasm\"\nlimits = {{ {line} }}\n");
    check(
        &function("call_depth = 17"),
        3,
        &["call_depth is 17", "write 1 to 16"],
    );
    check(&function("outbound_requests = 0"), 3, &["outbound_requests is 0"]);
    check(&function("log_lines = -1"), 3, &["log_lines is -1"]);
    check(&function("outbound_bytes = \"2GiB\""), 3, &["over the limit"]);
    check(&function("queue = \"16m\""), 3, &["over the limit"]);
}
