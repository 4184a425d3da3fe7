//! The line of invocations that wait for a permit: bounded, each for its own time, fair between apps. Whoever gives permits
//! back hands them to those who wait, one app after the other; who waits holds no thread and leaves when its future is
//! dropped. Not here: how many permits there are (`admit.rs`).
//!
//! While nobody waits it costs an invocation one load of a counter. Who asks while somebody waits stands in line, too, if it
//! may, so that it overtakes nobody; who may not wait takes what is free at that moment.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloudlet_base::AppId;
use tokio::sync::oneshot;

use crate::admit::{Admitted, Full, Gates, Permits};
use crate::metrics::Scope;

/// Part of the places that one app may have: the others are left to the others.
const APP_PART: usize = 4;

/// Who waits, on the whole node.
#[derive(Debug)]
pub(crate) struct Line {
    waiting: AtomicUsize,
    places: usize,
    apps: Mutex<Apps>,
}

/// The apps that have somebody waiting, in the order of their turns.
#[derive(Debug, Default)]
struct Apps {
    ring: VecDeque<AppLine>,
    next: u64,
}

#[derive(Debug)]
struct AppLine {
    app: AppId,
    waiting: usize,
    /// In the order of their turns.
    functions: VecDeque<FunctionLine>,
}

/// Of one function, first come first served. Told from others by its permits.
#[derive(Debug)]
struct FunctionLine {
    permits: Arc<Permits>,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    gates: Gates,
    to: oneshot::Sender<Admitted>,
}

impl Line {
    /// A line with so many places.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            places,
            apps: Mutex::default(),
        })
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// The permits, at once or after having waited for `time` at most.
    ///
    /// # Errors
    /// Whose limit stands in the way: that of the gate, or of the line itself.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line; permits that were on their way are given back.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        app: &AppId,
        gates: &Gates,
        time: Duration,
    ) -> Result<Admitted, Full> {
        if time.is_zero() || self.waiting() == 0 {
            let taken = gates.take(self);
            if taken.is_ok() || time.is_zero() {
                return taken;
            }
        }
        let mut place = match self.stand(app, gates) {
            Ok(place) => place,
            // No place in the line, which may be there for others than this one's permits.
            Err(full) => return gates.take(self).map_err(|_| full),
        };
        let in_time = tokio::time::timeout(time, &mut place.from).await;
        match in_time {
            Ok(Ok(admitted)) => Ok(admitted),
            _ => place.from.try_recv().map_err(|_| {
                let gates = [
                    (&gates.function, Scope::Function),
                    (&gates.app, Scope::App),
                    (&gates.node, Scope::Node),
                ];
                let full = gates.iter().find(|(gate, _)| gate.is_full()).unwrap_or(&gates[2]);
                Full {
                    scope: full.1,
                    limit: full.0.limit,
                }
            }),
        }
    }

    /// Takes a place in the line.
    fn stand(self: &Arc<Self>, app: &AppId, gates: &Gates) -> Result<Place, Full> {
        let mut apps = self.lock();
        let at = apps.ring.iter().position(|line| line.app == *app);
        let of_app = at.map_or(0, |at| apps.ring[at].waiting);
        let app_places = self.places.div_ceil(APP_PART);
        let limit = match () {
            () if of_app >= app_places => Some(app_places),
            () if self.waiting() >= self.places => Some(self.places),
            () => None,
        };
        if let Some(limit) = limit {
            return Err(Full {
                scope: Scope::Queue,
                limit,
            });
        }
        let (to, from) = oneshot::channel();
        let number = apps.next;
        apps.next += 1;
        let at = at.unwrap_or_else(|| {
            apps.ring.push_back(AppLine {
                app: app.clone(),
                waiting: 0,
                functions: VecDeque::new(),
            });
            apps.ring.len() - 1
        });
        apps.ring[at].push(Waiter {
            number,
            gates: gates.clone(),
            to,
        });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.hand_out(&mut apps);
        drop(apps);
        Ok(Place {
            line: Arc::clone(self),
            app: app.clone(),
            number,
            from,
        })
    }

    /// Gives permits to whoever can have them: to one of each app, in turn, as long as there are any.
    fn hand_out(self: &Arc<Self>, apps: &mut Apps) {
        let mut stuck = 0;
        while stuck < apps.ring.len() {
            let Some(mut app) = apps.ring.pop_front() else {
                return;
            };
            let left = app.hand_out(self);
            self.waiting.fetch_sub(left, Ordering::SeqCst);
            stuck = if left > 0 { 0 } else { stuck + 1 };
            // Who got nothing keeps its place before the others: its turn is still to come.
            match app.waiting {
                0 => {}
                _ if left == 0 && app.node_is_full() => {
                    apps.ring.push_front(app);
                    return;
                }
                _ => apps.ring.push_back(app),
            }
        }
    }

    fn leave(&self, app: &AppId, number: u64) {
        let mut apps = self.lock();
        let Some(at) = apps.ring.iter().position(|line| line.app == *app) else {
            return;
        };
        let left = apps.ring[at].leave(number);
        self.waiting.fetch_sub(left, Ordering::SeqCst);
        if apps.ring[at].waiting == 0 {
            apps.ring.remove(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Apps> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppLine {
    fn push(&mut self, waiter: Waiter) {
        self.waiting += 1;
        let permits = &waiter.gates.function.permits;
        match self
            .functions
            .iter_mut()
            .find(|function| Arc::ptr_eq(&function.permits, permits))
        {
            Some(function) => function.waiters.push_back(waiter),
            None => self.functions.push_back(FunctionLine {
                permits: Arc::clone(permits),
                waiters: VecDeque::from([waiter]),
            }),
        }
    }

    /// Gives permits to the first of the app's functions that can have them; how many have left the line by that, those
    /// included that are not there any more.
    fn hand_out(&mut self, line: &Arc<Line>) -> usize {
        let mut left = 0;
        for _ in 0..self.functions.len() {
            let Some(mut function) = self.functions.pop_front() else {
                break;
            };
            let mut served = false;
            while let Some(waiter) = function.waiters.front()
                && !served
                && let Ok(admitted) = waiter.gates.take_in_line(line)
            {
                if let Some(waiter) = function.waiters.pop_front() {
                    left += 1;
                    match waiter.to.send(admitted) {
                        Ok(()) => served = true,
                        // It has gone in this moment; the next one may have them.
                        Err(admitted) => admitted.give_back(),
                    }
                }
            }
            if !function.waiters.is_empty() {
                self.functions.push_back(function);
            }
            if served {
                break;
            }
        }
        self.waiting -= left;
        left
    }

    fn node_is_full(&self) -> bool {
        let waiter = self
            .functions
            .front()
            .and_then(|function| function.waiters.front());
        waiter.is_some_and(|waiter| waiter.gates.node.is_full())
    }

    fn leave(&mut self, number: u64) -> usize {
        let before = self.waiting;
        for function in &mut self.functions {
            if let Some(at) = function.waiters.iter().position(|waiter| waiter.number == number) {
                function.waiters.remove(at);
                self.waiting -= 1;
                break;
            }
        }
        self.functions.retain(|function| !function.waiters.is_empty());
        before - self.waiting
    }
}

/// A place in the line, left on drop.
struct Place {
    line: Arc<Line>,
    app: AppId,
    number: u64,
    from: oneshot::Receiver<Admitted>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.leave(&self.app, self.number);
    }
}

/// Looks for those who wait when it is dropped.
#[derive(Debug)]
pub(crate) struct Wake(Option<Arc<Line>>);

impl Wake {
    pub(crate) fn new(line: &Arc<Line>) -> Self {
        Self(Some(Arc::clone(line)))
    }

    /// Somebody else looks.
    pub(crate) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some(line) = &self.0
            && line.waiting() > 0
        {
            line.hand_out(&mut line.lock());
        }
    }
}

#[cfg(test)]
mod tests;
