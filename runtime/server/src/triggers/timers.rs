//! Timers: each tick of a schedule makes a delivery, in one commit with the record of when the timer ticked last, so that a
//! tick makes one delivery however often the node stops, and however many look at the clock.
//!
//! The records are the collection `timers` of the database `/node`: `{_id: "APP/NAME", schedule, last}`. A schedule that was
//! changed begins anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::rawdoc;
use cloudlet_base::{AppId, Deadline, Timestamp};
use cloudlet_data::{Code, Documents, Error, Find, Namespace, Update, UpdateOne, Write};
use cloudlet_host::{LogDetail, LogLevel, LogLine, LogSink as _, LogStream};
use serde::Deserialize;
use serde_json::json;

use super::Kind;
use super::deliveries::{self, Delivery, State, date};
use super::schedule::{self, Schedule};
use crate::node::Node;

/// A tick that is noticed later than this was missed, for the node was not there.
const LATE: Duration = Duration::from_secs(10);
/// What an invocation's lease has over the function's own time.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// A timer of an active app.
#[derive(Debug, Clone)]
pub(crate) struct Timer {
    /// Unique in the app.
    pub(crate) name: String,
    pub(crate) schedule: Schedule,
    pub(crate) function: Arc<str>,
    /// A text that the function gets.
    pub(crate) message: String,
    pub(crate) missed: Missed,
    /// Invocations at most, after the first.
    pub(crate) retries: u32,
    /// The function's own time limit.
    pub(crate) timeout: Duration,
}

/// What becomes of ticks that the node was not there for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// The last of them is made up for.
    Once,
}

impl Missed {
    /// As the manifest has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Missed::Skip => "skip",
            Missed::Once => "once",
        }
    }
}

/// What is to be done about a timer that ticked last at some time.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing before that time, if ever.
    Wait(Option<Timestamp>),
    /// The tick is to be delivered.
    Fire(Timestamp),
    /// The ticks up to this one were missed, and stay so.
    Skip(Timestamp),
}

impl Timer {
    fn step(&self, last: Timestamp, now: Timestamp) -> Step {
        let Some(tick) = self.schedule.after(last) else {
            return Step::Wait(None);
        };
        if tick > now {
            return Step::Wait(Some(tick));
        }
        if tick.plus(LATE) >= now {
            return Step::Fire(tick);
        }
        let newest = self.schedule.last_until(now).unwrap_or(tick);
        match self.missed {
            Missed::Once => Step::Fire(newest),
            // The newest is not late.
            Missed::Skip if newest.plus(LATE) >= now => Step::Fire(newest),
            Missed::Skip => Step::Skip(newest),
        }
    }

    /// CloudBase's event of a timer.
    fn payload(&self, tick: Timestamp) -> String {
        json!({
            "Type": "Timer",
            "TriggerName": self.name,
            "Time": schedule::text(tick),
            "Message": self.message,
        })
        .to_string()
    }

    fn delivery(&self, app: &AppId, tick: Timestamp, now: Timestamp) -> Delivery {
        Delivery {
            id: format!("{app}/{}/{}", self.name, schedule::text(tick)),
            app: app.to_string(),
            trigger: self.name.clone(),
            kind: Kind::Timer.as_str().to_owned(),
            function: self.function.to_string(),
            payload: self.payload(tick),
            state: State::Waiting,
            order: None,
            due: date(now),
            attempts: 0,
            retries: i32::try_from(self.retries).unwrap_or(i32::MAX),
            lease: lease(self.timeout),
            made: date(now),
            error: None,
            failed: None,
        }
    }
}

/// How long an invocation has to be answered, in milliseconds, of a function with that time limit.
pub(super) fn lease(timeout: Duration) -> i64 {
    i64::try_from((timeout + LEASE_MARGIN).as_millis()).unwrap_or(i64::MAX)
}

/// When each timer ticked last, as far as it was looked at. The records on disk are what counts.
#[derive(Default)]
pub(crate) struct Clockwork {
    last: HashMap<(AppId, String), Known>,
}

struct Known {
    schedule: String,
    last: Timestamp,
}

#[derive(Deserialize)]
struct Record {
    schedule: String,
    last: bson::DateTime,
}

fn timers() -> Namespace {
    Namespace::new("/node", "timers")
}

impl Clockwork {
    /// Makes the deliveries of all ticks that have come. Returns when the next one comes.
    ///
    /// # Errors
    /// Those of the database; the next round tries again.
    pub(crate) async fn round(&mut self, node: &Node) -> Result<Option<Timestamp>, Error> {
        // While requests are split, the active deployment alone has timers.
        let snapshot = node.apps.snapshot();
        let apps: Vec<_> = snapshot.apps.values().map(|app| app.active.clone()).collect();
        drop(snapshot);
        self.last.retain(|(app, name), _| {
            let of_app = apps.iter().find(|active| active.id == *app);
            of_app.is_some_and(|active| active.timers.iter().any(|timer| timer.name == *name))
        });
        let mut next: Option<Timestamp> = None;
        for app in &apps {
            for timer in &app.timers {
                let tick = self.look_at(node, &app.id, timer).await?;
                next = [next, tick].into_iter().flatten().min();
            }
        }
        Ok(next)
    }

    async fn look_at(&mut self, node: &Node, app: &AppId, timer: &Timer) -> Result<Option<Timestamp>, Error> {
        let key = (app.clone(), timer.name.clone());
        let known = self.last.get(&key);
        let mut last = match known.filter(|known| known.schedule == timer.schedule.text()) {
            Some(known) => known.last,
            None => begin(&*node.documents, app, timer, node.clock.now()).await?,
        };
        let next = loop {
            let now = node.clock.now();
            match timer.step(last, now) {
                Step::Wait(next) => break next,
                Step::Fire(tick) => {
                    fire(node, app, timer, tick, now).await?;
                    last = tick;
                }
                Step::Skip(tick) => {
                    node.triggers.missed.inc();
                    let text = format!(
                        "timer {:?} missed its ticks up to {}: the node was not there; missed = \"once\" makes up for the last",
                        timer.name,
                        schedule::text(tick)
                    );
                    say(node, app, &timer.function, LogLevel::Warn, text);
                    record(&*node.documents, app, timer, tick).await?;
                    last = tick;
                }
            }
        };
        let schedule = timer.schedule.text().to_owned();
        self.last.insert(key, Known { schedule, last });
        Ok(next)
    }
}

/// When the timer ticked last, by its record; now, if it has none of this schedule.
async fn begin(
    documents: &dyn Documents,
    app: &AppId,
    timer: &Timer,
    now: Timestamp,
) -> Result<Timestamp, Error> {
    let find = Find {
        filter: rawdoc! { "_id": format!("{app}/{}", timer.name) },
        ..Find::default()
    };
    let page = documents.find(&timers(), find, Deadline::NEVER).await?;
    let found: Option<Record> = match page.documents.first() {
        // One that can't be read is as good as none.
        Some(document) => bson::deserialize_from_slice(document.as_bytes()).ok(),
        None => None,
    };
    match found.filter(|record| record.schedule == timer.schedule.text()) {
        Some(record) => Ok(Timestamp(record.last.timestamp_millis())),
        None => {
            record(documents, app, timer, now).await?;
            Ok(now)
        }
    }
}

fn recording(app: &AppId, timer: &Timer, last: Timestamp) -> Write {
    let update = Update {
        statements: vec![UpdateOne {
            filter: rawdoc! { "_id": format!("{app}/{}", timer.name) },
            update: rawdoc! { "$set": { "schedule": timer.schedule.text(), "last": date(last) } },
            upsert: true,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    Write::Update(timers(), update)
}

async fn record(documents: &dyn Documents, app: &AppId, timer: &Timer, last: Timestamp) -> Result<(), Error> {
    let write = recording(app, timer, last);
    documents.transact(vec![write], Deadline::NEVER).await.map(drop)
}

/// Makes the delivery of a tick and records the tick, both or none.
async fn fire(node: &Node, app: &AppId, timer: &Timer, tick: Timestamp, now: Timestamp) -> Result<(), Error> {
    let documents = &*node.documents;
    let most = node.config.functions.deliveries_max;
    let waiting = deliveries::count(documents, app, Kind::Timer, State::Waiting, most).await?;
    if waiting >= most {
        node.triggers.of(Kind::Timer.as_str()).refused.inc();
        let text = format!(
            "timer {:?} ticked for nothing: {most} deliveries of the app's timers wait already, the most there may be",
            timer.name
        );
        say(node, app, &timer.function, LogLevel::Error, text);
        return record(documents, app, timer, tick).await;
    }
    let delivery = deliveries::make(&timer.delivery(app, tick, now))?;
    let writes = vec![delivery, recording(app, timer, tick)];
    match documents.transact(writes, Deadline::NEVER).await {
        // This tick has its delivery, or had it: the record was lost between the two.
        Err(error) if error.code() == Code::DuplicateKey => record(documents, app, timer, tick).await,
        done => done.map(drop),
    }
}

/// Something about a trigger, in the app's log.
pub(super) fn say(node: &Node, app: &AppId, function: &Arc<str>, level: LogLevel, text: String) {
    let snapshot = node.apps.snapshot();
    let Some(running) = snapshot.apps.get(app) else {
        return;
    };
    node.logs.line(LogLine {
        at: node.clock.now(),
        app: app.clone(),
        function: function.clone(),
        deployment: running.active.deployment,
        request: cloudlet_base::RequestId::generate(&*node.entropy),
        level,
        stream: LogStream::Platform,
        text,
        detail: LogDetail::None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(schedule: &str, missed: Missed) -> Timer {
        Timer {
            name: "t".to_owned(),
            schedule: Schedule::parse(schedule, "UTC").unwrap(),
            function: "f".into(),
            message: "hello \"you\"".to_owned(),
            missed,
            retries: 3,
            timeout: Duration::from_secs(10),
        }
    }

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_tick_fires_when_its_time_comes_and_a_missed_one_as_the_manifest_says() {
        let at = |hours: i64, millis: i64| Timestamp(hours * HOUR + millis);
        let (skip, once) = (
            timer("0 0 * * * *", Missed::Skip),
            timer("0 0 * * * *", Missed::Once),
        );
        for timer in [&skip, &once] {
            assert_eq!(timer.step(at(10, 0), at(10, 1)), Step::Wait(Some(at(11, 0))));
            assert_eq!(timer.step(at(10, 0), at(11, 0)), Step::Fire(at(11, 0)));
            assert_eq!(timer.step(at(10, 0), at(11, 10_000)), Step::Fire(at(11, 0)));
            // Some were missed, and the newest is on time.
            assert_eq!(timer.step(at(10, 0), at(15, 5_000)), Step::Fire(at(15, 0)));
            assert_eq!(timer.step(at(15, 0), at(15, 5_000)), Step::Wait(Some(at(16, 0))));
        }
        assert_eq!(skip.step(at(10, 0), at(15, 60_000)), Step::Skip(at(15, 0)));
        assert_eq!(once.step(at(10, 0), at(15, 60_000)), Step::Fire(at(15, 0)));
        assert_eq!(
            timer("0 0 0 1 1 * 1970", Missed::Once).step(at(10, 0), at(11, 0)),
            Step::Wait(None)
        );
    }

    #[test]
    fn the_event_is_cloudbases() {
        let payload = timer("0 0 * * * *", Missed::Skip).payload(Timestamp(HOUR));
        let payload: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(
            payload,
            json!({ "Type": "Timer", "TriggerName": "t", "Time": "1970-01-01T01:00:00Z", "Message": "hello \"you\"" })
        );
    }
}
