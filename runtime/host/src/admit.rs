//! Permits: how many invocations may run at once, of one function, of one app and on the node. Who finds one of the three
//! taken is refused at once, or waits in line where the function's limits say so (`line.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::line::{Line, Wake};
use crate::metrics::Scope;

/// How many run. Who may take a permit says how many there may be: deployments of one app share the app's permits, and
/// each has a limit of its own.
#[derive(Debug, Default)]
pub(crate) struct Permits(AtomicUsize);

impl Permits {
    /// How many are taken now.
    pub(crate) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes one while fewer than `limit` are taken. It is never one too many, not even for a moment: another one would be
    /// refused for it.
    fn take(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        // Sequentially consistent, here and where it is given back, for the sake of the line: who gives back looks for
        // those who wait afterwards, who begins to wait looks for permits afterwards, and one of them sees the other.
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }
}

/// The right to run; given back on drop.
#[derive(Debug)]
struct Permit(Arc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Permits and how many of them there are.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) permits: Arc<Permits>,
    pub(crate) limit: usize,
}

impl Gate {
    /// A gate of its own.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            permits: Arc::default(),
            limit,
        }
    }

    /// Whether all permits are taken.
    pub(crate) fn is_full(&self) -> bool {
        self.permits.taken() >= self.limit
    }
}

/// What an invocation has to pass.
#[derive(Debug, Clone)]
pub(crate) struct Gates {
    pub(crate) function: Gate,
    pub(crate) app: Gate,
    pub(crate) node: Gate,
}

/// Whose limit refuses an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) scope: Scope,
    pub(crate) limit: usize,
}

impl Gates {
    /// All three permits, or whose are all taken.
    pub(crate) fn take(&self, line: &Arc<Line>) -> Result<Admitted, Full> {
        // Dropped last: permits that were taken in vain may be what somebody waits for.
        let wake = Wake::new(line);
        let permits = self.permits()?;
        Ok(Admitted {
            _permits: permits,
            wake,
        })
    }

    /// The same for the line itself, which looks at those who wait anyway.
    pub(crate) fn take_in_line(&self, line: &Arc<Line>) -> Result<Admitted, Full> {
        Ok(Admitted {
            _permits: self.permits()?,
            wake: Wake::new(line),
        })
    }

    fn permits(&self) -> Result<[Permit; 3], Full> {
        let take = |gate: &Gate, scope: Scope| {
            let limit = gate.limit;
            gate.permits.take(limit).ok_or(Full { scope, limit })
        };
        Ok([
            take(&self.function, Scope::Function)?,
            take(&self.app, Scope::App)?,
            take(&self.node, Scope::Node)?,
        ])
    }
}

/// The permits of one invocation, given back together. Then whoever waits for one of them gets it.
#[derive(Debug)]
pub(crate) struct Admitted {
    _permits: [Permit; 3],
    /// After the permits: fields are dropped in this order.
    wake: Wake,
}

impl Admitted {
    /// Gives back without a look at those who wait: the caller looks.
    pub(crate) fn give_back(mut self) {
        self.wake.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_when_one_of_the_three_is_taken() {
        let line = Line::new(10);
        let (function, app, node) = (Gate::new(2), Gate::new(3), Gate::new(4));
        let gates = |function: &Gate, app: &Gate| Gates {
            function: function.clone(),
            app: app.clone(),
            node: node.clone(),
        };
        let full = |scope, limit| Some(Full { scope, limit });
        let mine = gates(&function, &app);
        let first = mine.take(&line).unwrap();
        let _second = mine.take(&line).unwrap();
        assert_eq!(mine.take(&line).err(), full(Scope::Function, 2));
        let _third = gates(&Gate::new(9), &app).take(&line).unwrap();
        assert_eq!(gates(&Gate::new(9), &app).take(&line).err(), full(Scope::App, 3));
        let _fourth = gates(&Gate::new(9), &Gate::new(9)).take(&line).unwrap();
        let other = gates(&Gate::new(9), &Gate::new(9));
        assert_eq!(other.take(&line).err(), full(Scope::Node, 4));
        // What was refused holds nothing.
        assert_eq!(other.function.permits.taken() + other.app.permits.taken(), 0);
        assert_eq!(
            (
                function.permits.taken(),
                app.permits.taken(),
                node.permits.taken()
            ),
            (2, 3, 4)
        );
        drop(first);
        assert_eq!(
            (
                function.permits.taken(),
                app.permits.taken(),
                node.permits.taken()
            ),
            (1, 2, 3)
        );
        assert!(mine.take(&line).is_ok());
    }
}
