//! Follows the change log for the triggers on changes: each change that one of them is about becomes a delivery, in one
//! commit with the trigger's place, so that a change makes one delivery however often the node stops.
//!
//! Each trigger of each active deployment has a follower of its own, so that one whose deliveries wait holds up no other.
//! A follower reads no further than there is room for deliveries; the log has the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use cloudlet_base::{AppId, Deadline};
use cloudlet_data::{ChangeCursor, Changes, Code, Error, WatchStart};
use cloudlet_host::LogLevel;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::changes::{self, ChangeTrigger};
use super::deliveries::{self, State};
use super::events;
use super::order;
use super::timers::say;
use crate::node::Node;

/// Changes that become deliveries in one commit.
const BATCH: u64 = 100;
/// The longest wait for a change; after it a place that only passed others' changes by is recorded.
const WAIT: Duration = Duration::from_secs(10);
/// How long a follower whose app has no room for deliveries waits before it looks again.
const FULL_WAIT: Duration = Duration::from_millis(200);
/// How long to wait after a failure; twice as long after each that follows at once.
const RETRY: Duration = Duration::from_secs(1);
/// The longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Bytes of payloads that are written in one commit, with one more delivery.
const COMMIT_BYTES_MAX: usize = 8 << 20;
/// The longest wait for a deployment that nobody told of.
const LOOK: Duration = Duration::from_secs(1);

/// A trigger that is being followed.
struct Followed {
    trigger: ChangeTrigger,
    /// Dropped, it tells the follower to end between two commits.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Follows what the active deployments have, until it is dropped.
pub(crate) async fn run(node: Arc<Node>) {
    let mut followed: HashMap<(AppId, String), Followed> = HashMap::new();
    loop {
        let snapshot = node.apps.snapshot().clone();
        // While requests are split, the active deployment alone has triggers.
        let wanted: HashMap<(AppId, String), &ChangeTrigger> = snapshot
            .apps
            .iter()
            .flat_map(|(id, app)| {
                let triggers = app.active.changes.iter();
                triggers.map(|trigger| ((id.clone(), trigger.name.clone()), trigger))
            })
            .collect();
        let gone: Vec<_> = followed
            .extract_if(|key, followed| {
                wanted.get(key).copied() != Some(&followed.trigger) || followed.task.is_finished()
            })
            .collect();
        for (_, Followed { stop, task, .. }) in gone {
            drop(stop);
            // Its last commit is done before another follower goes on from there.
            if let Err(error) = task.await {
                node.triggers.failures.inc();
                tracing::error!("a trigger's follower ended early: {error}");
            }
        }
        for ((app, name), trigger) in wanted {
            followed
                .entry((app.clone(), name))
                .or_insert_with(|| follow(&node, app, trigger.clone()));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = node.bells.deployed.notified() => {}
        }
    }
}

fn follow(node: &Arc<Node>, app: AppId, trigger: ChangeTrigger) -> Followed {
    let (stop, stopped) = oneshot::channel();
    let follower = Follower {
        node: Arc::clone(node),
        app,
        trigger: trigger.clone(),
        stopped,
        stalled: false,
    };
    Followed {
        trigger,
        stop,
        task: tokio::spawn(follower.run()),
    }
}

/// Told to end.
struct Stopped;

struct Follower {
    node: Arc<Node>,
    app: AppId,
    trigger: ChangeTrigger,
    stopped: oneshot::Receiver<()>,
    /// Whether it stands still for want of room.
    stalled: bool,
}

/// Where a follower is.
struct At {
    cursor: ChangeCursor,
    /// The place on disk.
    recorded: RawDocumentBuf,
    /// When that was written, on the monotonic clock.
    recorded_at: Duration,
    /// Whether the log has what events tell.
    prepared: bool,
}

impl Follower {
    async fn run(mut self) {
        let mut retry = RETRY;
        loop {
            let begun = self.node.clock.monotonic();
            let error = match self.go_on().await {
                Ok(Stopped) => break,
                Err(error) => error,
            };
            let lasted = self.node.clock.monotonic().saturating_sub(begun);
            retry = if lasted > RETRY_MAX { RETRY } else { retry };
            let wait = match error.code() {
                Code::CommandNotSupported => {
                    self.no_log().await;
                    Duration::MAX
                }
                _ => {
                    self.node.triggers.failures.inc();
                    tracing::warn!(
                        app = self.app.as_str(),
                        trigger = self.trigger.name,
                        "a trigger can't be followed and will be tried again: {error}"
                    );
                    retry
                }
            };
            tokio::select! {
                _ = &mut self.stopped => break,
                () = tokio::time::sleep(wait) => {}
            }
            retry = (retry * 2).min(RETRY_MAX);
        }
        self.stand_still(false);
    }

    /// Follows from where the trigger is.
    async fn go_on(&mut self) -> Result<Stopped, Error> {
        let documents = self.node.documents.clone();
        let mut at = self.begin().await?;
        loop {
            let Some(room) = self.room().await? else {
                return Ok(Stopped);
            };
            let read = documents.next_changes(at.cursor.clone(), Some(room), WAIT, Deadline::NEVER);
            let read = tokio::select! {
                biased;
                _ = &mut self.stopped => return Ok(Stopped),
                read = read => read,
            };
            let changes = match read {
                Err(error) if is_lost(&error) => {
                    at.cursor = self.lost(&error).await?;
                    continue;
                }
                read => read?,
            };
            self.make(&mut at, &changes).await?;
            at.cursor = match changes.cursor {
                Some(cursor) => cursor,
                // The collection is gone, or another one has its name.
                None => {
                    at.prepared = false;
                    self.open(WatchStart::StartAfter(changes.token)).await?
                }
            };
        }
    }

    async fn begin(&mut self) -> Result<At, Error> {
        let documents = &*self.node.documents;
        let place = match changes::place(documents, &self.app, &self.trigger).await? {
            Some(place) => place,
            None => changes::new_place(&self.node, &self.app, &self.trigger).await?,
        };
        let cursor = match self.open(WatchStart::StartAfter(place.place.clone())).await {
            Err(error) if is_lost(&error) => self.lost(&error).await?,
            opened => opened?,
        };
        Ok(At {
            cursor,
            recorded: place.place,
            recorded_at: self.node.clock.monotonic(),
            prepared: self.trigger.source.prepare(documents, &self.app, false).await?,
        })
    }

    async fn open(&self, start: WatchStart) -> Result<ChangeCursor, Error> {
        let (scope, watch) = self.trigger.source.watch(&self.app, start);
        self.node.documents.watch(scope, watch).await
    }

    /// How many changes there is room for, when there is; `None` when it was told to end.
    async fn room(&mut self) -> Result<Option<u32>, Error> {
        let most = self.node.config.functions.deliveries_max;
        loop {
            let kind = self.trigger.source.kind();
            let waiting =
                deliveries::count(&*self.node.documents, &self.app, kind, State::Waiting, most).await?;
            if let Some(room) = most.checked_sub(waiting).filter(|room| *room > 0) {
                self.stand_still(false);
                return Ok(u32::try_from(room.min(BATCH)).ok());
            }
            if !self.stalled {
                self.stand_still(true);
                self.say(
                    LogLevel::Warn,
                    format!(
                        "trigger {:?} stands still: {most} deliveries of the app's {} triggers wait, the most there may \
                         be; the change log keeps what happens meanwhile, as far as it has room",
                        self.trigger.name,
                        kind.as_str()
                    ),
                );
            }
            tokio::select! {
                _ = &mut self.stopped => return Ok(None),
                () = tokio::time::sleep(FULL_WAIT) => {}
            }
        }
    }

    fn stand_still(&mut self, stalled: bool) {
        if stalled != self.stalled {
            self.stalled = stalled;
            let gauge = &self.node.triggers.stalled;
            if stalled { gauge.inc() } else { gauge.dec() }
        }
    }

    /// Makes the deliveries of what was read, and records the place.
    async fn make(&self, at: &mut At, read: &Changes) -> Result<(), Error> {
        let documents = &*self.node.documents;
        let now = self.node.clock.monotonic();
        if read.events.is_empty() {
            let is_old = now.saturating_sub(at.recorded_at) >= WAIT || read.cursor.is_none();
            if is_old && at.recorded != read.token {
                let moving = changes::moving(&self.app, &self.trigger, &read.token);
                documents.transact(vec![moving], Deadline::NEVER).await?;
                self.recorded(at, &read.token, now);
            }
            return Ok(());
        }
        if !at.prepared {
            at.prepared = self.trigger.source.prepare(documents, &self.app, false).await?;
        }
        let (mut made, mut bytes) = (Vec::new(), 0);
        for event in &read.events {
            if let Ok(failure) = event.get_str("failure") {
                self.refused(event, failure);
                continue;
            }
            let delivery = events::delivery(&self.app, &self.trigger, event, self.node.clock.now())?;
            bytes += delivery.payload.len();
            made.push(delivery);
            if bytes >= COMMIT_BYTES_MAX {
                let token = event.get_document("_id").map_err(|_| events::unreadable())?;
                self.commit(at, std::mem::take(&mut made), token, now).await?;
                bytes = 0;
            }
        }
        self.commit(at, made, &read.token, now).await
    }

    /// Writes deliveries and the place after their events.
    async fn commit(
        &self,
        at: &mut At,
        made: Vec<deliveries::Delivery>,
        token: &RawDocument,
        now: Duration,
    ) -> Result<(), Error> {
        let bells = &self.node.bells;
        let moving = changes::moving(&self.app, &self.trigger, token);
        let written = order::make_in_order(&*self.node.documents, &bells.ordering, made, moving).await;
        // They may be on disk, and nobody has looked who is next.
        written.inspect_err(|_| bells.look_at_orders())?;
        bells.due.notify_one();
        self.recorded(at, token, now);
        Ok(())
    }

    /// Tells that nobody can say whether an event fires the trigger.
    fn refused(&self, event: &RawDocument, failure: &str) {
        let kind = self.trigger.source.kind().as_str();
        self.node.triggers.of(kind).refused.inc();
        let key = event.get_document("documentKey").map(changes::extended);
        let text = format!(
            "trigger {:?} did not fire for a change of {}, for its filter fails on that: {failure}",
            self.trigger.name,
            key.unwrap_or_default()
        );
        self.say(LogLevel::Error, text);
    }

    fn recorded(&self, at: &mut At, token: &RawDocument, now: Duration) {
        at.recorded = token.to_owned();
        at.recorded_at = now;
    }

    /// Tells that the log was trimmed past the trigger's place, and goes on with the oldest that it has.
    async fn lost(&self, error: &Error) -> Result<ChangeCursor, Error> {
        self.tell_lost(&format!(
            "the change log does not have what follows the last change that trigger {:?} has seen; what happened up to the \
             oldest change in the log is lost to it: {error}",
            self.trigger.name
        ))
        .await?;
        self.open(WatchStart::Oldest).await
    }

    /// Tells that nothing is logged that could fire the trigger.
    async fn no_log(&self) {
        let told = self
            .tell_lost(&format!(
                "trigger {:?} does not fire: the node keeps no change log; set database.change_log_bytes and start it again",
                self.trigger.name
            ))
            .await;
        if let Err(error) = told {
            tracing::warn!(
                app = self.app.as_str(),
                "what a trigger lost can't be recorded: {error}"
            );
        }
    }

    async fn tell_lost(&self, text: &str) -> Result<(), Error> {
        let kind = self.trigger.source.kind();
        self.node.triggers.of(kind.as_str()).lost.inc();
        tracing::warn!(app = self.app.as_str(), trigger = self.trigger.name, "{text}");
        self.say(LogLevel::Error, text.to_owned());
        changes::lost(&self.node, &self.app, &self.trigger).await
    }

    fn say(&self, level: LogLevel, text: String) {
        say(&self.node, &self.app, &self.trigger.function, level, text);
    }
}

/// Whether the log does not have the place any more, or never had it.
fn is_lost(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::ChangeStreamHistoryLost | Code::InvalidResumeToken
    )
}
