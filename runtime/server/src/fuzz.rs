//! Parsers of this crate under seeds and changes of them, the same ones in each test run: the manifest, schedules, hosts
//! and paths of requests. (The other crates' targets are in `runtime/fuzz`, too; this crate is a program, which a fuzzer
//! can't link.)

use cloudlet_base::Timestamp;
use cloudlet_docdb::testing::replay::replay;

use crate::apps::manifest;
use crate::front::route;
use crate::triggers::schedule::Schedule;

/// A manifest is understood, or every problem is told at a place that it has.
fn fuzz_manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines = text.lines().count() + 1;
    match manifest::parse(manifest::FILE, text, None) {
        Ok(manifest) => assert!(!manifest.app.as_str().is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in problems {
                assert!((1..=lines).contains(&problem.line), "{problem}: no such line");
                assert!(problem.column > 0 && !problem.message.is_empty(), "{problem}");
            }
        }
    }
}

/// A schedule, a line break, a time zone: ticks go forward, and each is found again from behind.
fn fuzz_schedule(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (schedule, zone) = text.split_once('\n').unwrap_or((text, "UTC"));
    let Ok(schedule) = Schedule::parse(schedule, zone) else {
        return;
    };
    // 2026-11-23, and a day with a jump of the clock in half of the world.
    for mut moment in [Timestamp(1_795_392_000_000), Timestamp(1_774_742_400_000)] {
        for _ in 0..3 {
            let Some(tick) = schedule.after(moment) else { break };
            assert!(tick > moment, "{tick:?} is not after {moment:?}");
            assert_eq!(
                schedule.last_until(tick),
                Some(tick),
                "the tick is not found again"
            );
            moment = tick;
        }
    }
}

/// A host header, a line break, a method, a space, the target of a request.
fn fuzz_route(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let (host, line) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let request = http::Request::builder()
        .method(method)
        .uri(target)
        .header("host", host);
    let Ok(request) = request.body(()) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    route::fuzz(&parts);
}

fn replay_text(name: &str, target: fn(&[u8]), telling: &[u8]) {
    replay(name, target, |dice, seed| {
        let mut input = seed.to_vec();
        for _ in 0..dice.changes() {
            input = dice.change_bytes(input, telling);
        }
        input
    });
}

#[test]
fn manifests_survive_changes() {
    replay_text("manifest", fuzz_manifest, b"[]{}=\".,#\n-_0 \\");
}

#[test]
fn schedules_survive_changes() {
    replay_text("schedule", fuzz_schedule, b"*/-,?LW#@+09 \n");
}

#[test]
fn hosts_and_paths_survive_changes() {
    replay_text("route", fuzz_route, b"/.%\\:@[]?#*25eE \n\0");
}
