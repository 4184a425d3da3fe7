//! How many lines of a function are kept when it says too much: all up to a number a second, of the rest one in a
//! hundred. What is left out is counted and told.

use std::collections::HashMap;
use std::sync::Arc;

use cloudlet_base::{DeploymentId, RequestId, Timestamp};
use cloudlet_host::LogLine;

/// Of so many lines over the rate one is kept.
pub(super) const ONE_IN: u64 = 100;
/// The time over which lines are counted, milliseconds.
const WINDOW_MS: i64 = 1000;
/// Functions of one app that are counted; beyond them counting begins anew. An app with as many is past its limit.
const FUNCTIONS_MAX: usize = 4096;

/// Lines of one app's functions in the second that runs.
#[derive(Default)]
pub(super) struct Sampler {
    functions: HashMap<Arc<str>, Window>,
}

struct Window {
    begins: i64,
    seen: u64,
    left_out: u64,
    deployment: DeploymentId,
}

/// That lines of a function were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) function: Arc<str>,
    pub(super) deployment: DeploymentId,
    pub(super) count: u64,
}

impl Sampler {
    /// Whether a line is kept, and what is to be told before it.
    pub(super) fn admit(&mut self, line: &LogLine, per_second: u64) -> (bool, Option<LeftOut>) {
        if self.functions.len() >= FUNCTIONS_MAX && !self.functions.contains_key(&line.function) {
            self.functions.clear();
        }
        let now = line.at.millis();
        let window = match self.functions.get_mut(&line.function) {
            Some(window) => window,
            None => self
                .functions
                .entry(Arc::clone(&line.function))
                .or_insert(Window::at(now)),
        };
        let mut told = None;
        // The clock may have been set back.
        if !(window.begins..window.begins.saturating_add(WINDOW_MS)).contains(&now) {
            told = window.close(&line.function);
            *window = Window::at(now);
        }
        window.deployment = line.deployment;
        window.seen += 1;
        let over = window.seen.saturating_sub(per_second);
        let kept = over % ONE_IN == 0;
        window.left_out += u64::from(!kept);
        (kept, told)
    }

    /// What is to be told of seconds that are over `now`, of functions that have said nothing since. `false` when
    /// something remains to be told later.
    pub(super) fn settle(&mut self, now: Timestamp) -> (Vec<LeftOut>, bool) {
        let (mut told, mut settled) = (Vec::new(), true);
        for (function, window) in &mut self.functions {
            let open = (0..WINDOW_MS).contains(&now.millis().saturating_sub(window.begins));
            match open {
                true => settled &= window.left_out == 0,
                false => told.extend(window.close(function)),
            }
        }
        (told, settled)
    }
}

impl Window {
    fn at(begins: i64) -> Self {
        Self {
            begins,
            seen: 0,
            left_out: 0,
            deployment: DeploymentId(0),
        }
    }

    fn close(&mut self, function: &Arc<str>) -> Option<LeftOut> {
        let count = std::mem::take(&mut self.left_out);
        (count > 0).then(|| LeftOut {
            function: Arc::clone(function),
            deployment: self.deployment,
            count,
        })
    }
}

/// The request of lines that belong to none.
pub(super) const NO_REQUEST: RequestId = RequestId::from_bits(0);

#[cfg(test)]
mod tests {
    use cloudlet_host::LogLevel;

    use super::*;
    use crate::logs::testing::line;

    #[test]
    fn a_flood_is_sampled_by_function_and_second_and_told_once() {
        let mut sampler = Sampler::default();
        let mut say = |at, function| sampler.admit(&line(at, function, LogLevel::Info, "x"), 10);
        let kept = (0..1010).filter(|i| say(i / 10, "f").0).count();
        assert_eq!(kept, 10 + 1000 / 100);
        assert_eq!(say(500, "g"), (true, None), "another function has its own");
        let (kept, told) = say(1000, "f");
        let told = told.unwrap();
        assert!(kept);
        assert_eq!((&*told.function, told.count), ("f", 990));
        assert_eq!(say(1001, "f"), (true, None));
        // Nothing is told of a second that runs; nor twice.
        for _ in 0..20 {
            say(1002, "f");
        }
        assert_eq!(sampler.settle(Timestamp(1100)), (Vec::new(), false));
        let (told, settled) = sampler.settle(Timestamp(2000));
        assert_eq!((told.len(), told[0].count, settled), (1, 12, true));
        assert_eq!(sampler.settle(Timestamp(3000)), (Vec::new(), true));
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut sampler = Sampler::default();
        let mut say = |at| sampler.admit(&line(at, "f", LogLevel::Info, "x"), 1);
        assert!(say(10_000).0);
        assert!(!say(10_000).0);
        assert!(say(500).0);
    }
}
