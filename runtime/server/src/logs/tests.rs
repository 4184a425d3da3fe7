//! The logs as a whole: what is said is kept across a restart, followed without a gap, bounded and told of.

use cloudlet_base::{AppId, ManualClock};
use tempfile::TempDir;

use super::testing::{app, line};
use super::*;

const BOUNDS: LogBounds = LogBounds {
    store_bytes: 1 << 20,
    app_bytes: 1 << 20,
    store_age: Duration::from_secs(1000),
    lines_per_second: 100_000,
};

/// Room for many lines in small segments.
const BOUNDS_OF_MANY: LogBounds = LogBounds {
    store_bytes: 2 << 20,
    app_bytes: 2 << 20,
    ..BOUNDS
};

struct Desk {
    dir: TempDir,
    clock: Arc<ManualClock>,
    registry: Registry,
}

impl Desk {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at_millis(1_000_000)),
            registry: Registry::new(),
        }
    }

    fn open(&mut self, bounds: LogBounds) -> Arc<Logs> {
        self.registry = Registry::new();
        let dir = self.dir.path().join("logs");
        Logs::open(dir, bounds, self.clock.clone(), &self.registry).unwrap()
    }

    fn say(&self, logs: &Logs, text: &str) {
        logs.line(line(self.clock.now().millis(), "f", LogLevel::Info, text));
    }

    /// Bytes of an app's files.
    fn bytes(&self, app: &AppId) -> u64 {
        let dir = self.dir.path().join("logs").join(app.as_str());
        let numbers = segments::list(&dir).unwrap();
        let sizes = numbers
            .into_iter()
            .map(|number| std::fs::metadata(segments::path(&dir, number)).unwrap().len());
        sizes.sum()
    }
}

async fn texts(logs: &Arc<Logs>) -> Vec<String> {
    let page = logs
        .newest(&app(), LogFilter::default(), u64::MAX, 100_000)
        .await
        .unwrap();
    page.entries.iter().map(|entry| entry.line.text.clone()).collect()
}

async fn next(follower: &mut Follower) -> Arc<Entry> {
    let next = tokio::time::timeout(Duration::from_secs(10), follower.next());
    next.await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn lines_stay_across_a_restart_and_numbers_go_on() {
    let mut desk = Desk::new();
    let logs = desk.open(BOUNDS);
    desk.say(&logs, "before");
    assert_eq!(texts(&logs).await, ["before"], "also when it is not written yet");
    logs.flush();
    let before = logs
        .newest(&app(), LogFilter::default(), u64::MAX, 1)
        .await
        .unwrap();
    drop(logs);
    // A clock that was set back gives no number twice.
    desk.clock = Arc::new(ManualClock::at_millis(10));
    let logs = desk.open(BOUNDS);
    assert!(logs.knows(&app()) && !logs.knows(&"other".parse().unwrap()));
    desk.say(&logs, "after");
    assert_eq!(texts(&logs).await, ["before", "after"]);
    let after = logs
        .onward(&app(), LogFilter::default(), before.entries[0].seq, 10)
        .await
        .unwrap();
    assert_eq!(after.entries.len(), 1);
    assert_eq!(after.entries[0].line.text, "after");
}

#[tokio::test]
async fn a_torn_end_is_skipped_and_told() {
    let mut desk = Desk::new();
    let logs = desk.open(BOUNDS);
    for text in ["one", "two", "three"] {
        desk.say(&logs, text);
    }
    logs.flush();
    drop(logs);
    let dir = desk.dir.path().join("logs/a");
    let last = segments::path(&dir, segments::list(&dir).unwrap()[0]);
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, &bytes[..bytes.len() - 2]).unwrap();
    let logs = desk.open(BOUNDS);
    desk.say(&logs, "four");
    let texts = texts(&logs).await;
    assert_eq!(
        (texts[0].as_str(), texts[1].as_str(), texts.len()),
        ("one", "two", 4)
    );
    assert!(
        texts[2].contains("may be missing") && texts[3] == "four",
        "{texts:?}"
    );
}

#[tokio::test]
async fn a_follower_gets_each_line_once_from_its_cursor_on_however_slow() {
    let mut desk = Desk::new();
    let logs = desk.open(BOUNDS);
    desk.say(&logs, "old");
    logs.flush();
    let mut follower = logs.follow(&app(), LogFilter::default(), 0);
    assert_eq!(next(&mut follower).await.line.text, "old");
    desk.say(&logs, "new");
    let new = next(&mut follower).await;
    assert_eq!(new.line.text, "new");
    // More than it may lag behind, while it does not look.
    let count = LAG_MAX * 2 + 7;
    for i in 0..count {
        desk.say(&logs, &i.to_string());
    }
    for i in 0..count {
        assert_eq!(next(&mut follower).await.line.text, i.to_string());
    }
    // Another goes on exactly where a page ended, with a filter of its own.
    let filter = LogFilter {
        text: Some("1".into()),
        ..LogFilter::default()
    };
    let mut follower = logs.follow(&app(), filter, new.seq);
    assert_eq!(next(&mut follower).await.line.text, "1");
    assert_eq!(next(&mut follower).await.line.text, "10");
    let mut follower = logs.follow(&app(), LogFilter::default(), u64::MAX);
    logs.close();
    assert!(follower.next().await.unwrap().is_none());
}

/// Readers of all kinds get each line once while lines are written, segments fill and others begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nobody_misses_or_doubles_a_line_while_segments_fill() {
    const COUNT: usize = 20_000;
    let mut desk = Desk::new();
    let logs = desk.open(BOUNDS_OF_MANY);
    desk.say(&logs, "0");
    let all: Vec<String> = (0..COUNT).map(|i| i.to_string()).collect();
    let writer = std::thread::spawn({
        let (logs, at) = (Arc::clone(&logs), desk.clock.now().millis());
        move || (1..COUNT).for_each(|i| logs.line(line(at, "f", LogLevel::Info, &i.to_string())))
    });
    let paged = tokio::spawn({
        let logs = Arc::clone(&logs);
        async move {
            let (mut seen, mut after) = (Vec::new(), 0);
            while seen.len() < COUNT {
                let page = logs
                    .onward(&app(), LogFilter::default(), after, 97)
                    .await
                    .unwrap();
                seen.extend(page.entries.iter().map(|entry| entry.line.text.clone()));
                after = page.seen_to;
            }
            seen
        }
    });
    let mut follower = logs.follow(&app(), LogFilter::default(), 0);
    for expected in &all {
        assert_eq!(next(&mut follower).await.line.text, *expected);
    }
    writer.join().unwrap();
    assert!(paged.await.unwrap() == all, "pages onward");
    let (mut back, mut before) = (VecDeque::new(), u64::MAX);
    loop {
        let page = logs
            .newest(&app(), LogFilter::default(), before, 997)
            .await
            .unwrap();
        before = page.entries[0].seq;
        let texts = page.entries.iter().rev().map(|entry| entry.line.text.clone());
        texts.for_each(|text| back.push_front(text));
        if !page.more {
            break;
        }
    }
    assert!(back == all, "pages back");
    logs.flush();
    let segments = segments::list(&desk.dir.path().join("logs/a")).unwrap().len();
    assert!(segments > 4, "{segments}");
}

#[tokio::test]
async fn files_are_bounded_by_app_node_and_age() {
    let mut desk = Desk::new();
    let bounds = LogBounds {
        store_bytes: 300 << 10,
        app_bytes: 200 << 10,
        ..BOUNDS
    };
    let logs = desk.open(bounds);
    let long = "x".repeat(1000);
    for i in 0..400 {
        desk.say(&logs, &format!("{i} {long}"));
    }
    logs.flush();
    let (first, other) = (app(), "b".parse().unwrap());
    assert!((100 << 10..=200 << 10).contains(&desk.bytes(&first)));
    let kept = texts(&logs).await;
    assert!(kept.last().unwrap().starts_with("399 ") && !kept[0].starts_with("0 "));
    // Another app's newer lines take the room of the older ones.
    desk.clock.advance(Duration::from_secs(1));
    for _ in 0..190 {
        let mut line = line(desk.clock.now().millis(), "f", LogLevel::Info, &long);
        line.app = "b".parse().unwrap();
        logs.line(line);
    }
    logs.flush();
    let (a, b) = (desk.bytes(&first), desk.bytes(&other));
    assert!(a + b <= 300 << 10 && b > 180 << 10, "{a} {b}");
    assert_eq!(logs.metrics.stored_bytes.get() as u64, a + b);
    desk.clock.advance(Duration::from_secs(1001));
    logs.flush();
    assert_eq!((desk.bytes(&first), desk.bytes(&other)), (0, 0));
}

#[tokio::test]
async fn what_is_too_much_is_counted_and_told() {
    let mut desk = Desk::new();
    let logs = desk.open(LogBounds {
        lines_per_second: 10,
        ..BOUNDS
    });
    for i in 0..1010 {
        desk.say(&logs, &i.to_string());
    }
    desk.clock.advance(Duration::from_secs(2));
    let mut follower = logs.follow(&app(), LogFilter::default(), 0);
    let told = loop {
        let entry = next(&mut follower).await;
        if let LogDetail::LeftOut(count) = entry.line.detail {
            assert_eq!(&*entry.line.function, "f");
            break count;
        }
    };
    assert_eq!(
        (told, logs.metrics.sampled.get(), logs.metrics.kept.get()),
        (990, 990, 21)
    );
}

#[tokio::test]
async fn lines_that_can_not_be_written_are_lost_and_counted() {
    let mut desk = Desk::new();
    let logs = desk.open(BOUNDS);
    std::fs::write(desk.dir.path().join("logs/a"), "in the way").unwrap();
    desk.say(&logs, "lost");
    while logs.metrics.lost.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(logs.metrics.write_failures.get(), 1);
    std::fs::remove_file(desk.dir.path().join("logs/a")).unwrap();
    desk.say(&logs, "kept");
    logs.flush();
    let mut seen = texts(&logs).await;
    seen.retain(|text| !text.contains("lines are lost"));
    assert_eq!(seen, ["kept"]);
    // More than the queue holds, faster than it is written: what is kept and what is lost is everything.
    let long = "x".repeat(LogLine::TEXT_BYTES_MAX);
    let count = 2 * QUEUE_BYTES_MAX / long.len();
    for _ in 0..count {
        desk.say(&logs, &long);
    }
    logs.flush();
    // What tells of a loss is a line too; older ones may be gone with their segment.
    let all = logs.metrics.kept.get() + logs.metrics.lost.get();
    assert!(
        (count as u64 + 2..count as u64 + 20).contains(&all),
        "{all} of {count}"
    );
    assert_eq!(logs.queued.load(Ordering::Relaxed), 0);
}
