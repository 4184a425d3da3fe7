//! `db import` and `db export` against a node: every format and type there and back, going on after a kill, dumps
//! of other programs, bad input, bounded memory.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;

use crate::cli::{Desk, Done, command};
use crate::harness::{App, Node};
use crate::mongo::drive;

/// What an importer or exporter may hold at most, whatever the file's size: a batch or a page, with what the program
/// needs anyhow.
const MEMORY_KIB_MAX: u64 = 64 << 10;

fn desk() -> Desk {
    Desk::new(Some(Node::with(&App::new("web"))))
}

impl Desk {
    fn db(&self, args: &[&str]) -> Done {
        self.run(&[&["--app", "web", "db"], args].concat())
    }

    fn db_json(&self, args: &[&str]) -> Value {
        let out = self.run(&[&["--app", "web", "--json", "db"], args].concat()).ok();
        serde_json::from_str(&out).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&self, args: &[&str]) -> Child {
        command(self.dir.path(), self.node.as_ref())
            .args(["--app", "web", "--json", "db"])
            .args(args)
            .spawn()
            .unwrap()
    }

    fn count(&self, collection: &str) -> u64 {
        let out = self.db(&["count", collection]).out;
        out.trim().parse().unwrap()
    }

    /// A collection's documents as bytes.
    fn bytes_of(&self, collection: &str) -> Vec<u8> {
        self.db(&["export", collection, "all.bson", "--force"]).ok();
        std::fs::read(self.path("all.bson")).unwrap()
    }
}

/// Lines of documents, of which every other one has no `_id`.
fn lines(count: usize) -> String {
    let filling = "x".repeat(150);
    let mut text = String::new();
    for n in 0..count {
        let id = if n % 2 == 0 {
            format!("\"_id\":{n},")
        } else {
            String::new()
        };
        writeln!(text, "{{{id}\"n\":{n},\"filling\":\"{filling}\"}}").unwrap();
    }
    text
}

#[test]
fn every_type_goes_out_and_comes_back_in_every_format() {
    let desk = desk();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    std::fs::copy(seeds.join("bson/types"), desk.path("types.bson")).unwrap();
    desk.db(&["import", "types.bson"]).ok();
    let ids = r#"[{"_id":1},{"_id":{"$numberLong":"2"}},{"_id":2.5},{"_id":"a"},{"_id":{"a":1}},{"_id":null},
        {"_id":{"$date":"2024-01-01T00:00:00Z"}},{"_id":{"$minKey":1}},{"_id":true},{"_id":{"$numberDecimal":"7.0"}},
        {"_id":{"$binary":{"base64":"AQ==","subType":"00"}}},{"_id":{"$timestamp":{"t":1,"i":1}}},{"_id":{"$maxKey":1}}]"#;
    desk.write("ids.json", ids);
    let told = desk.db_json(&["import", "ids.json", "types"]);
    assert_eq!(told["collections"][0]["inserted"], 13, "{told}");
    let bytes = desk.bytes_of("types");
    for (nth, (name, exact, args)) in [
        ("a.jsonl", true, &["--canonical"][..]),
        ("a.json", true, &["--canonical"]),
        ("a.json.gz", true, &["--canonical"]),
        ("a.bson", true, &[]),
        ("a.bson.gz", true, &[]),
        ("a.txt", true, &["--format", "bson", "--gzip"]),
        ("a.ndjson", false, &[]),
        ("b.json", false, &[]),
        ("b.jsonl", false, &["--format", "cloudbase"]),
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("to{nth}");
        desk.db(&[&["export", "types", name], args].concat()).ok();
        let format: &[&str] = if name == "a.txt" {
            &["--format", "bson"]
        } else {
            &[]
        };
        desk.db(&[&["import", name, &to], format].concat()).ok();
        if exact {
            assert!(desk.bytes_of(&to) == bytes, "{name} {args:?}");
        } else {
            let text = |collection: &str| desk.db(&["export", collection]).ok();
            assert_eq!(text(&to), text("types"), "{name} {args:?}");
        }
        desk.db(&["export", "types", name]).fails(&["--force"]);
        assert!(!desk.path(&format!("{name}.import-state")).exists());
        assert!(!desk.path(&format!("{name}.part.state")).exists());
    }
    // Standard output and input, and a part of the documents.
    let some = desk
        .db(&["export", "types", "--filter", r#"{"_id":{"$in":[1,"a"]}}"#])
        .ok();
    assert_eq!(some, "{\"_id\":1}\n{\"_id\":\"a\"}\n");
    desk.run_with(&["--app", "web", "db", "import", "-", "some"], &some)
        .ok();
    assert_eq!(desk.count("some"), 2);
    desk.db(&["export", "types", "--filter", r#"{"_id":"none"}"#])
        .fails(&["no document of \"types\" matches"]);
    desk.db(&["export", "nothing"])
        .fails(&["no collection \"nothing\""]);
    desk.db(&["import", "nothing.bson"]).fails(&["nothing.bson"]);
    desk.db(&["import", "types.unknown"]).fails(&["--format"]);
    desk.run_with(&["--app", "web", "db", "import", "-", "some"], "")
        .fails(&["no document"]);
    desk.stop();
}

#[test]
fn documents_that_are_there_are_refused_replaced_or_merged() {
    let desk = desk();
    desk.db(&["insert", "c", r#"[{"_id":1,"a":1,"b":1},{"_id":4,"a":1}]"#])
        .ok();
    desk.write(
        "new.jsonl",
        "{\"_id\":0}\n{\"_id\":1,\"a\":2,\"$c\":{\"$add\":1}}\n{\"_id\":2}\n\n{\"_id\":4,\"d\":4}\n",
    );
    let refused = desk.db(&["import", "new.jsonl", "c"]);
    for word in [
        "new.jsonl: line 2: E11000",
        "new.jsonl: line 5: E11000",
        "2 documents were refused",
        "--mode upsert",
    ] {
        assert!(refused.err.contains(word), "{word}: {refused:?}");
    }
    assert!(
        refused.out.contains("c: 4 documents: 2 inserted, 2 refused"),
        "{refused:?}"
    );
    assert_eq!((refused.code, desk.count("c")), (1, 4));

    let told = desk.db_json(&["import", "new.jsonl", "c", "--mode", "merge"]);
    assert_eq!(told["collections"][0]["matched"], 4, "{told}");
    let found = |id: &str| desk.db(&["find", "c", &format!("{{\"_id\":{id}}}")]).ok();
    assert_eq!(found("1"), "{\"_id\":1,\"a\":2,\"b\":1,\"$c\":{\"$add\":1}}\n");
    assert_eq!(found("4"), "{\"_id\":4,\"a\":1,\"d\":4}\n");
    desk.db(&["delete", "c", r#"{"_id":2}"#]).ok();
    let told = desk.db_json(&["import", "new.jsonl", "c", "--mode", "upsert"]);
    assert_eq!(told["collections"][0]["inserted"], 1, "{told}");
    assert_eq!(found("1"), "{\"_id\":1,\"a\":2,\"$c\":{\"$add\":1}}\n");
    assert_eq!(found("4"), "{\"_id\":4,\"d\":4}\n");

    // With --drop the documents go and the indexes stay.
    desk.write("metadata/c.bson", "");
    desk.write(
        "metadata/c.metadata.json",
        r#"{"indexes":[{"key":{"u":1},"name":"u_1","unique":true,"sparse":true}]}"#,
    );
    desk.db(&["import", "metadata"]).ok();
    desk.write("two.jsonl", "{\"u\":1}\n{\"u\":1}\n{\"u\":2}\n");
    let stopped = desk.db(&["import", "two.jsonl", "c", "--drop", "--stop-on-error"]);
    assert_eq!(desk.count("c"), 1);
    stopped.fails(&[
        "two.jsonl: line 2: E11000",
        "u_1",
        "the 1 documents before it are imported",
    ]);
    // What stood against it is removed; the import goes on, and drops nothing again.
    desk.db(&["delete", "c", "{}"]).ok();
    desk.db(&["insert", "c", r#"{"_id":"kept"}"#]).ok();
    desk.db(&["import", "two.jsonl", "c", "--drop", "--stop-on-error"])
        .ok();
    assert_eq!(desk.count("c"), 3);
    desk.stop();
}

#[test]
fn bad_input_is_told_with_its_place_and_what_was_before_it_is_kept() {
    let desk = desk();
    let document = |n: u8| [b"\x0E\0\0\0\x10_id\0".as_slice(), &[n, 0, 0, 0, 0]].concat();
    let mut deep = vec![5, 0, 0, 0, 0];
    for _ in 0..150 {
        let length = u32::try_from(deep.len() + 8).unwrap().to_le_bytes();
        deep = [&length[..], &[3, b'a', 0], &deep, &[0]].concat();
    }
    let at = format!("byte {}: ", document(1).len() * 2);
    let nested = format!("{{\"a\":{}1{}}}", "[".repeat(150), "]".repeat(150));
    let bson = |tail: &[u8]| [document(1), document(2), tail.to_vec()].concat();
    let json = |tail: &[u8]| [b"{\"_id\":1}\n{\"_id\":2}\n", tail].concat();
    for (nth, (name, bytes, place, what)) in [
        (
            "a.bson",
            bson(&document(3)[..9]),
            at.as_str(),
            "ends inside of a document",
        ),
        (
            "b.bson",
            bson(&[0xFF, 0xFF, 0xFF, 0x7F, 0]),
            &at,
            "says that it has 2147483647 bytes",
        ),
        (
            "c.bson",
            bson(b"\x10\0\0\0\x02a\0\x04\0\0\0x\xFFy\0\0"),
            &at,
            "UTF-8",
        ),
        ("d.bson", bson(&deep), &at, "nested deeper than 100"),
        (
            "e.json",
            json(b"{\"_id\":3,}\n"),
            "line 3: ",
            "a name in double quotes",
        ),
        ("f.json", json(b"{\"_id\":\"\xFF\"}\n"), "line 3: ", "not UTF-8"),
        (
            "g.json",
            json(nested.as_bytes()),
            "line 3: ",
            "nested deeper than 100",
        ),
        ("h.json", json(b"{\"_id\":3"), "line 3: ", "ends"),
        (
            "i.json",
            json(b"{\"_id\":{\"$oid\":\"7\"}}\n"),
            "line 3: ",
            "$oid",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let collection = format!("c{nth}");
        std::fs::write(desk.path(name), bytes).unwrap();
        let done = desk.db(&["import", name, &collection]);
        let place = format!("{name}: {place}");
        done.fails(&[
            place.as_str(),
            what,
            "the 2 documents before it are imported",
            "--mended",
        ]);
        assert_eq!(desk.count(&collection), 2);
        // The file is mended there: the import goes on, when it is told that this is so.
        let tail = if name.ends_with("bson") {
            document(3)
        } else {
            b"{\"_id\":3}\n".to_vec()
        };
        let mended = if name.ends_with("bson") {
            bson(&tail)
        } else {
            json(&tail)
        };
        std::fs::write(desk.path(name), mended).unwrap();
        desk.db(&["import", name, &collection])
            .fails(&["has changed since", "--mended", "--restart"]);
        let told = desk.db_json(&["import", name, &collection, "--mended"]);
        assert_eq!(told["collections"][0]["resumedAfter"], 2, "{told}");
        assert_eq!(
            (desk.count(&collection), &told["collections"][0]["documents"]),
            (3, &Value::from(3))
        );
    }
    desk.write("c.jsonl", "{\"_id\":[1]}\n{\"_id\":1}\n");
    desk.db(&["import", "c.jsonl"])
        .fails(&["c.jsonl: line 1: ", "_id", "1 documents were refused"]);
    desk.db(&["import", "c.jsonl", "a$b"]).fails(&["a$b"]);
    desk.stop();
}

#[test]
fn a_killed_import_goes_on_without_losing_or_doubling_anything() {
    const COUNT: usize = 40_000;
    let desk = desk();
    desk.write("many.jsonl", &lines(COUNT));
    let mut child = desk.spawn(&["import", "many.jsonl"]);
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert!(line.contains(" %"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    let state = desk.path("many.jsonl.import-state");
    assert!(state.exists());
    let seen = desk.count("many");
    assert!(seen > 0 && seen < COUNT as u64, "{seen}");
    desk.db(&["import", "many.jsonl", "other"])
        .fails(&["another node, app or collection"]);
    let told = desk.db_json(&["import", "many.jsonl"]);
    let resumed = told["collections"][0]["resumedAfter"].as_u64().unwrap();
    assert!(resumed > 0 && resumed <= seen, "{told}");
    assert_eq!(told["collections"][0]["documents"], COUNT, "{told}");
    assert_eq!(told["collections"][0]["failed"], 0, "{told}");
    assert!(!state.exists());
    // Each n is there, and once.
    assert_eq!(desk.count("many"), COUNT as u64);
    let text = desk.db(&["export", "many"]).ok();
    let mut numbers: Vec<u64> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["n"]
                .as_u64()
                .unwrap()
        })
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..COUNT as u64));
    desk.stop();
}

#[test]
fn a_batch_that_the_node_had_acknowledged_already_is_not_doubled() {
    let desk = desk();
    // The state of a run that was killed after the answer to its second batch and before it kept the place.
    let text: String = (1000..3500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let length = text.lines().next().unwrap().len() + 1;
    assert_eq!(text.len(), 2500 * length);
    desk.write("c.jsonl", &format!("{text}x"));
    desk.db(&["import", "c.jsonl"])
        .fails(&["line 2501", "the 2500 documents before it"]);
    let path = desk.path("c.jsonl.import-state");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(state["place"]["bytes"], text.len() - 1, "{state}");
    for (name, value) in [("documents", 2000), ("lines", 2000), ("bytes", 2000 * length)] {
        state["place"][name] = value.into();
    }
    std::fs::write(&path, state.to_string()).unwrap();
    desk.write("c.jsonl", &text);
    let told = desk.db_json(&["import", "c.jsonl", "--mended"]);
    assert_eq!(told["collections"][0]["already"], 500, "{told}");
    assert_eq!(
        (desk.count("c"), &told["collections"][0]["failed"]),
        (2500, &Value::from(0))
    );
    desk.stop();
}

#[test]
fn a_killed_export_goes_on_and_writes_the_same() {
    const COUNT: usize = 40_000;
    let desk = desk();
    desk.write("many.jsonl", &lines(COUNT));
    desk.db(&["import", "many.jsonl"]).ok();
    for name in ["out.json", "out.bson.gz"] {
        let mut child = desk.spawn(&["export", "many", name]);
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.contains(" %"), "{line}");
        child.kill().unwrap();
        child.wait().unwrap();
        let part = desk.path(&format!("{name}.part"));
        assert!(part.exists() && !desk.path(name).exists());
        desk.db(&["export", "many", name, "--filter", "{\"n\":1}"])
            .fails(&["another export", "--force"]);
        let told = desk.db_json(&["export", "many", name]);
        assert!(
            told["collections"][0]["resumedAfter"].as_u64().unwrap() > 0,
            "{told}"
        );
        assert_eq!(told["collections"][0]["documents"], COUNT);
        assert!(!part.exists());
        let whole = format!("whole-{name}");
        desk.db(&["export", "many", &whole]).ok();
        assert!(std::fs::read(desk.path(name)).unwrap() == std::fs::read(desk.path(&whole)).unwrap());
        // What was changed meanwhile is not continued.
        std::fs::write(&part, "something").unwrap();
        desk.db(&["export", "many", name, "--force"]).ok();
        std::fs::write(&part, "something").unwrap();
        std::fs::remove_file(desk.path(name)).unwrap();
        desk.db(&["export", "many", name])
            .fails(&["nothing tells what of it is good", "--force"]);
    }
    desk.db(&["import", "out.bson.gz", "back"])
        .fails(&["out.bson.gz"]);
    desk.db(&["import", "whole-out.bson.gz", "back"]).ok();
    assert!(desk.bytes_of("back") == desk.bytes_of("many"));
    desk.stop();
}

/// Follows a child to its end; gives the most memory that it had while it told of its progress.
fn memory_kib(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        assert!(line.unwrap().contains(" %"));
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(kib.unwrap_or(0));
    }
    assert!(child.wait().unwrap().success());
    most
}

#[test]
fn memory_does_not_grow_with_the_file() {
    const COUNT: usize = 100_000;
    let desk = desk();
    desk.write("many.jsonl", &lines(COUNT));
    let imported = memory_kib(&mut desk.spawn(&["import", "many.jsonl"]));
    assert!(imported > 0 && imported < MEMORY_KIB_MAX, "{imported} KiB");
    assert_eq!(desk.count("many"), COUNT as u64);
    for name in ["many.bson", "many.json"] {
        let exported = memory_kib(&mut desk.spawn(&["export", "many", name]));
        assert!(exported > 0 && exported < MEMORY_KIB_MAX, "{exported} KiB");
    }
    desk.stop();
}

#[test]
fn a_dump_of_another_program_is_imported_and_one_of_ours_is_read_by_it() {
    let desk = desk();
    let path = |name: &str| desk.path(name).to_str().unwrap().to_owned();
    drive("dump.py", &["write", &path("dump/elsewhere")]);
    let told = desk.db_json(&["import", "dump"]);
    let collections = told["collections"].as_array().unwrap();
    let told: Vec<_> = collections
        .iter()
        .map(|told| {
            (
                told["collection"].as_str().unwrap(),
                &told["inserted"],
                &told["indexes"],
            )
        })
        .collect();
    let number = |number: u64| Value::from(number);
    assert_eq!(
        told,
        [
            ("a b", &number(1), &number(0)),
            ("empty", &number(0), &number(1)),
            ("notes", &number(4), &number(3)),
        ]
    );
    desk.db(&["insert", "notes", r#"{"string":"b"}"#])
        .fails(&["duplicate key", "string_1"]);
    desk.db(&["export", "--dump", "out"]).ok();
    drive("dump.py", &["check", &path("out/web")]);
    desk.db(&["export", "--dump", "out"])
        .fails(&["there already", "--force"]);
    desk.db(&["export", "--dump", "out-gz", "--gzip"]).ok();
    drive("dump.py", &["check-gzip", &path("out-gz/web")]);
    // Again, over what is there: nothing is doubled.
    desk.db(&["import", "out-gz", "--drop"]).ok();
    desk.db(&["import", "out", "notes", "--mode", "upsert"]).ok();
    desk.db(&["export", "--dump", "again"]).ok();
    drive("dump.py", &["check", &path("again/web")]);
    desk.db(&["import", "out/web", "nothing"])
        .fails(&["no collection"]);
    desk.stop();
}
