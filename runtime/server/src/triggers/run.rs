//! The task that drives the triggers of a node: it makes the deliveries of timers, invokes what is due, and sleeps until
//! there is more.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloudlet_base::{AppId, Deadline, Fault, Principal, RequestId, Timestamp};
use cloudlet_data::Error;
use cloudlet_host::{Call, CallReply, Invocation, LogLevel, TraceContext};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::deliveries::{self, Delivery, Turn, Turns};
use super::order;
use super::timers::{Clockwork, say};
use crate::node::Node;

/// Deliveries of all apps that are invoked at once.
const RUNNING_MAX: usize = 16;
/// Deliveries of one app that are invoked at once, so that one with many does not hold up the others.
const RUNNING_PER_APP_MAX: usize = 4;
/// The longest sleep: a new deployment's timers are seen after it, and a clock that was set.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long to wait before a failed invocation is tried again; twice as long each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Bytes of an error that are kept.
const ERROR_BYTES_MAX: usize = 2000;

/// What is being invoked.
#[derive(Default)]
struct Running {
    /// By app, the ids of the deliveries.
    by_app: Mutex<HashMap<AppId, HashSet<String>>>,
    /// One of them is done.
    done: Notify,
}

impl Running {
    /// Counts one more of an app, until it is dropped. None if that one is being invoked: a clock that was set made its lease
    /// end early.
    fn one_more(self: &Arc<Self>, app: &AppId, delivery: &str) -> Option<OneRunning> {
        let is_new = self
            .lock()
            .entry(app.clone())
            .or_default()
            .insert(delivery.to_owned());
        is_new.then(|| OneRunning {
            running: Arc::clone(self),
            app: app.clone(),
            delivery: delivery.to_owned(),
        })
    }

    fn all(&self) -> usize {
        self.lock().values().map(HashSet::len).sum()
    }

    /// Whether an app has as many as it may.
    fn is_busy(&self, app: &str) -> bool {
        self.lock()
            .get(app)
            .is_some_and(|of_app| of_app.len() >= RUNNING_PER_APP_MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AppId, HashSet<String>>> {
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them.
struct OneRunning {
    running: Arc<Running>,
    app: AppId,
    delivery: String,
}

impl Drop for OneRunning {
    fn drop(&mut self) {
        let mut by_app = self.running.lock();
        if let Some(of_app) = by_app.get_mut(&self.app) {
            of_app.remove(&self.delivery);
            if of_app.is_empty() {
                by_app.remove(&self.app);
            }
        }
        drop(by_app);
        self.running.done.notify_one();
    }
}

/// Runs the triggers until it is dropped; what is being invoked then is due again at the next start.
pub(crate) async fn run(node: Arc<Node>) {
    let (mut clockwork, running, mut invocations) =
        (Clockwork::default(), Arc::<Running>::default(), JoinSet::new());
    let (mut turns, mut let_go) = (Turns::default(), false);
    loop {
        let round = round(
            &node,
            &mut clockwork,
            &mut turns,
            &running,
            &mut invocations,
            &mut let_go,
        );
        let sleep = match round.await {
            Ok(next) => {
                let now = node.clock.now();
                next.map_or(SLEEP_MAX, |next| until(now, next)).min(SLEEP_MAX)
            }
            Err(error) => {
                node.triggers.failures.inc();
                tracing::warn!("the triggers' round failed and will be tried again: {error}");
                SLEEP_MAX
            }
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = running.done.notified() => {}
            () = node.bells.due.notified() => {}
        }
        while invocations.try_join_next().is_some() {}
    }
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(then.millis() - now.millis()).unwrap_or(0))
}

/// Ticks, and takes what is due as far as there is room. Returns when there is something to do again, as far as that is
/// known.
async fn round(
    node: &Arc<Node>,
    clockwork: &mut Clockwork,
    turns: &mut Turns,
    running: &Arc<Running>,
    invocations: &mut JoinSet<()>,
    let_go: &mut bool,
) -> Result<Option<Timestamp>, Error> {
    let documents = &*node.documents;
    if !*let_go {
        deliveries::prepare(documents).await?;
        deliveries::let_go(documents, &node.bells.ordering, node.clock.now()).await?;
        *let_go = true;
    }
    if node.bells.unsure.swap(false, Ordering::AcqRel) {
        let looked = order::release_all(documents, &node.bells.ordering).await;
        // Tried again in the next round.
        looked.inspect_err(|_| node.bells.unsure.store(true, Ordering::Release))?;
    }
    let tick = clockwork.round(node).await?;
    // Taking is a turn of the writer; a node at rest only looks.
    let due = deliveries::next_due(documents).await?;
    if due.is_none_or(|due| due > node.clock.now()) {
        return Ok([tick, due].into_iter().flatten().min());
    }
    while running.all() < RUNNING_MAX {
        let turn = turns.next(documents, node.clock.now(), |app| running.is_busy(app));
        let delivery = match turn.await? {
            Turn::Of(delivery) => *delivery,
            // What is due now belongs to an app that is busy; its end wakes this task.
            Turn::Nobodys { until } => return Ok([tick, until].into_iter().flatten().min()),
        };
        let Ok(app) = delivery.app.parse::<AppId>() else {
            deliveries::answered(documents, &delivery).await?;
            continue;
        };
        let Some(one) = running.one_more(&app, &delivery.id) else {
            continue;
        };
        let node = Arc::clone(node);
        invocations.spawn(async move {
            node.triggers.running.inc();
            deliver(&node, &app, &delivery).await;
            node.triggers.running.dec();
            drop(one);
        });
    }
    Ok(tick)
}

/// Why an invocation did not answer.
struct Refused {
    why: String,
    /// Nothing ran: the function has no room now.
    busy: bool,
}

/// Invokes the function once and records what came of it.
async fn deliver(node: &Arc<Node>, app: &AppId, delivery: &Delivery) {
    let documents = &*node.documents;
    let recorded = match invoke(node, app, delivery).await {
        Ok(()) => {
            node.triggers.of(&delivery.kind).answered.inc();
            deliveries::answered(documents, delivery).await
        }
        Err(refused) => {
            let now = node.clock.now();
            let spent = delivery.attempts > delivery.retries;
            if spent && !refused.busy {
                node.triggers.of(&delivery.kind).failed.inc();
                let text = format!(
                    "{} {:?} failed for the last of {} times and is kept; look at it with: cloudlet trigger failed; the failure: {}",
                    delivery.kind, delivery.id, delivery.attempts, refused.why
                );
                say(
                    node,
                    app,
                    &delivery.function.as_str().into(),
                    LogLevel::Error,
                    text,
                );
                deliveries::give_up(documents, delivery, now, &refused.why).await
            } else {
                node.triggers.of(&delivery.kind).retried.inc();
                let due = now.plus(backoff(delivery.attempts));
                deliveries::again(documents, delivery, due, &refused.why, !refused.busy).await
            }
        }
    };
    if let Err(error) = recorded {
        // It is due again after its lease: an invocation too many, never one too few.
        node.triggers.failures.inc();
        tracing::warn!(
            delivery = delivery.id,
            "what came of a delivery can't be recorded: {error}"
        );
    }
}

/// The wait before the next attempt, after so many.
fn backoff(attempts: i32) -> Duration {
    let doubled = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    BACKOFF.saturating_mul(1 << doubled).min(BACKOFF_MAX)
}

async fn invoke(node: &Node, app: &AppId, delivery: &Delivery) -> Result<(), Refused> {
    let failed = |why: String| {
        let mut why = why;
        why.truncate(why.floor_char_boundary(ERROR_BYTES_MAX));
        Refused { why, busy: false }
    };
    let snapshot = node.apps.snapshot();
    let active = snapshot.apps.get(app).map(|running| running.active.clone());
    drop(snapshot);
    let Some(active) = active else {
        return Err(failed(format!("app {:?} is not running", app.as_str())));
    };
    let invocation = Invocation {
        request: RequestId::generate(&*node.entropy),
        // Nobody asked but the app itself.
        principal: Principal::Function {
            app: app.clone(),
            function: delivery.function.as_str().into(),
        },
        deadline: Deadline::after(&*node.clock, Duration::from_millis(delivery.lease.unsigned_abs())),
        depth: 0,
        trace: TraceContext::default(),
    };
    let call = Call {
        payload: delivery.payload.clone().into(),
    };
    match active.functions.call(&delivery.function, call, invocation).await {
        Ok(CallReply::Ok(_)) => Ok(()),
        Ok(CallReply::Busy(why)) => Err(Refused { why, busy: true }),
        Ok(CallReply::Deadline) => Err(failed("the function ran out of time".to_owned())),
        Ok(
            CallReply::Invalid(why)
            | CallReply::Denied(why)
            | CallReply::NotFound(why)
            | CallReply::Failed(why),
        ) => Err(failed(why)),
        Err(error) if error.kind() == Fault::Busy => Err(Refused {
            why: error.to_string(),
            busy: true,
        }),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_later_each_time_up_to_a_limit() {
        let seconds: Vec<u64> = [1, 2, 3, 8, 9, 10, 40, i32::MAX]
            .iter()
            .map(|attempts| backoff(*attempts).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn an_app_has_its_share_of_what_runs() {
        let running = Arc::<Running>::default();
        let (a, b): (AppId, AppId) = ("aaa".parse().unwrap(), "bbb".parse().unwrap());
        let mut of_a: Vec<_> = (0..RUNNING_PER_APP_MAX)
            .map(|number| running.one_more(&a, &number.to_string()).unwrap())
            .collect();
        let of_b = running.one_more(&b, "0");
        assert!(running.one_more(&a, "0").is_none(), "one runs once at a time");
        assert!(running.is_busy("aaa") && !running.is_busy("bbb"));
        assert_eq!(running.all(), RUNNING_PER_APP_MAX + 1);
        drop(of_a.pop());
        assert!(!running.is_busy("aaa"));
        drop((of_a, of_b));
        assert_eq!(running.all(), 0);
        assert!(running.lock().is_empty());
    }
}
