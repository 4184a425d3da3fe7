//! Expressions: MongoDB's aggregation language of values, as a typed tree, and what it means for one document.
//! Used by pipelines, by `$expr` in filters, by projections and by updates with a pipeline.
//!
//! [`parse`] makes the tree from BSON: operators looked up, constants folded, paths split, variables resolved.
//! [`eval`] gives the tree its meaning; the operators that evaluate all their arguments first are plain functions
//! in the modules of their kind, listed there in a table each. `accumulate` has the accumulators, which are
//! expressions too.

mod accumulate;
mod arithmetic;
mod arrays;
mod calendar;
mod compare;
mod convert;
mod dates;
mod eval;
mod number;
mod objects;
mod parse;
mod strings;
mod value;
mod zone;

use std::sync::{Arc, Mutex, PoisonError};

use bson::raw::CString;
use bson::{RawBson, RawDocument};
use cloudlet_base::{Clock, Deadline, Entropy};

use crate::collation::Collation;
use crate::engine::Engine;
use crate::spill::Disk;
use crate::{Code, Error, Result};

pub(crate) use self::accumulate::{Accumulation, Accumulator};
pub(crate) use self::eval::Env;
pub(crate) use self::number::Number;
pub(crate) use self::parse::field_path;
pub(crate) use self::value::Value;

/// Steps of loops between two looks at the clock.
const STEPS_PER_CHECK: u32 = 1024;

/// A parsed expression.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    /// A value, given or computed when it was parsed.
    Constant(RawBson),
    /// No value: `$$REMOVE`, or an argument that was left out.
    Missing,
    /// A variable whose value is not known yet: the expression is only checked, never used.
    Unbound,
    /// The document.
    Root,
    /// A variable of `$let`, `$map` and the like.
    Variable(usize),
    /// A field of another expression's value (mostly of the document), however deep.
    Field(Box<Expr>, Box<[Box<str>]>),
    /// `{a: .., b: ..}`.
    Object(Vec<(CString, Expr)>),
    /// `[.., ..]`.
    Array(Vec<Expr>),
    /// True when all are.
    And(Vec<Expr>),
    /// True when any is.
    Or(Vec<Expr>),
    /// The first that is neither null nor missing, else the last.
    IfNull(Vec<Expr>),
    /// `$cond` and `$switch`: the value of the first branch whose condition holds, else the other.
    Switch {
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    /// `$let`.
    Let {
        variables: Vec<(usize, Expr)>,
        body: Box<Expr>,
    },
    /// `$map`.
    Map {
        input: Box<Expr>,
        slot: usize,
        body: Box<Expr>,
    },
    /// `$filter`.
    Filter {
        input: Box<Expr>,
        slot: usize,
        condition: Box<Expr>,
        limit: Option<Box<Expr>>,
    },
    /// `$reduce`.
    Reduce {
        input: Box<Expr>,
        initial: Box<Expr>,
        value: usize,
        this: usize,
        body: Box<Expr>,
    },
    /// `$convert` and its short forms.
    Convert(Box<convert::Convert>),
    /// `$sortArray`.
    SortArray { input: Box<Expr>, order: arrays::Order },
    /// `$rand`.
    Random,
    /// An operator that takes its arguments evaluated.
    Call(&'static Operator, Vec<Expr>),
}

/// An operator that takes its arguments evaluated.
pub(crate) struct Operator {
    name: &'static str,
    arguments: Arguments,
    run: Run,
}

/// Gets the operator's name, for messages, and its arguments.
type Run = for<'d> fn(&mut Env<'d>, &'static str, &[Value<'d>]) -> Result<Value<'d>>;

/// How an operator's arguments are written.
enum Arguments {
    /// `[a, b]`, or one that is no array by itself.
    Exactly(usize),
    Between(usize, usize),
    AtLeast(usize),
    /// `{name: a, other: b}`; unknown names are the error with this number.
    Named(i32, &'static [Named]),
}

/// A named argument.
struct Named {
    name: &'static str,
    otherwise: Otherwise,
}

/// What an argument is that is not there.
enum Otherwise {
    /// It has to be there, says the error with this number.
    Required(i32),
    Null,
    Text(&'static str),
    Flag(bool),
    Int(i32),
    /// Missing, so that the operator can tell.
    Absent,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What expressions get from outside: time, chance, a deadline, and how large a value may become.
pub(crate) struct Runtime {
    /// `$$NOW`: one moment for the whole command.
    pub(crate) now: bson::DateTime,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// A cursor's later pages each have their own.
    deadline: Mutex<Deadline>,
    value_bytes_max: usize,
    /// How strings are compared, if not by their bytes.
    collation: Option<Arc<Collation>>,
    /// Where the command may spill to.
    disk: Option<Arc<Disk>>,
    /// For fuzzing: checks that are left until one fails.
    #[cfg(any(test, feature = "testing"))]
    checks_left: std::sync::atomic::AtomicU32,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}

impl Runtime {
    /// For a command that begins now.
    pub(crate) fn new(engine: &Engine, deadline: &Deadline, disk: Option<Arc<Disk>>) -> Arc<Self> {
        Arc::new(Self {
            now: bson::DateTime::from_millis(engine.clock.now().millis()),
            clock: engine.clock.clone(),
            entropy: engine.entropy.clone(),
            deadline: Mutex::new(deadline.clone()),
            value_bytes_max: engine.limits.document_bytes_max,
            collation: None,
            disk,
            #[cfg(any(test, feature = "testing"))]
            checks_left: u32::MAX.into(),
        })
    }

    /// For tests and fuzzing: a still clock and seeded chance.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn fixed() -> Arc<Self> {
        Arc::new(Self {
            now: bson::DateTime::from_millis(1_700_000_000_000),
            clock: Arc::new(cloudlet_base::ManualClock::at_millis(1_700_000_000_000)),
            entropy: Arc::new(cloudlet_base::SeededEntropy::new(1)),
            deadline: Mutex::new(Deadline::NEVER),
            value_bytes_max: 16 * 1024 * 1024,
            collation: None,
            disk: None,
            checks_left: u32::MAX.into(),
        })
    }

    /// This one with a collation, or without.
    fn collated(&self, collation: Option<Arc<Collation>>) -> Arc<Self> {
        let deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::new(Self {
            now: self.now,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            deadline: Mutex::new(deadline.clone()),
            value_bytes_max: self.value_bytes_max,
            collation,
            disk: self.disk.clone(),
            #[cfg(any(test, feature = "testing"))]
            checks_left: u32::MAX.into(),
        })
    }

    /// How strings are compared, if not by their bytes.
    pub(crate) fn collation(&self) -> Option<&Arc<Collation>> {
        self.collation.as_ref()
    }

    /// Where the command may spill to what memory may not hold.
    pub(crate) fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.as_ref()
    }

    /// Acts as if the deadline passed after it was looked at so often.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn cancel_after_checks(&self, count: u32) {
        self.checks_left
            .store(count, std::sync::atomic::Ordering::Relaxed);
    }

    /// Another page begins, which has a deadline of its own.
    pub(crate) fn set_deadline(&self, deadline: &Deadline) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline.clone();
    }

    /// # Errors
    /// The deadline passed.
    pub(crate) fn check(&self) -> Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if self
            .checks_left
            .fetch_sub(1, std::sync::atomic::Ordering::Relaxed)
            == 0
        {
            return Err(Error::new(
                Code::MaxTimeMSExpired,
                "the fuzzer's patience is over",
            ));
        }
        let deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline
            .check(self.clock.as_ref())
            .map_err(|expired| Error::new(Code::MaxTimeMSExpired, expired.to_string()))
    }

    /// A random number, 0 to 1, the latter excluded.
    pub(crate) fn random(&self) -> f64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What names mean where an expression stands.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    runtime: Arc<Runtime>,
    variables: Vec<(Arc<str>, Binding)>,
    /// Variables of `$let` and the like around; the next takes this slot.
    slots: usize,
}

#[derive(Debug, Clone)]
enum Binding {
    Slot(usize),
    Constant(RawBson),
    Missing,
    Later,
}

impl Scope {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            variables: Vec::new(),
            slots: 0,
        }
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// This scope with a command's own collation for strings, which may be the simple one; `{}` changes nothing.
    ///
    /// # Errors
    /// When it is not a collation.
    pub(crate) fn with_collation(&self, document: &RawDocument) -> Result<Scope> {
        if document.is_empty() {
            return Ok(self.clone());
        }
        Ok(self.clone().collated(Collation::parse(document)?))
    }

    /// This scope with the collation for strings that a collection or index has, or the simple one.
    pub(crate) fn collated(mut self, collation: Option<Arc<Collation>>) -> Scope {
        if collation.is_some() || self.runtime.collation.is_some() {
            self.runtime = self.runtime.collated(collation);
        }
        self
    }

    /// Refuses what compares strings by their bytes only, where they have another collation.
    ///
    /// # Errors
    /// `CommandNotSupported` under a collation.
    pub(crate) fn needs_simple_collation(&self, what: &str) -> Result<()> {
        if self.runtime.collation.is_none() {
            return Ok(());
        }
        Err(Error::new(
            Code::CommandNotSupported,
            format!("{what} with a collation is not supported"),
        ))
    }

    /// This scope with variables that have values: `let` of a command, or of `$lookup` for one document.
    ///
    /// # Errors
    /// When a name is not that of a variable.
    pub(crate) fn with(&self, name: &str, value: &Value<'_>) -> Result<Scope> {
        let binding = value
            .get()
            .map_or(Binding::Missing, |value| Binding::Constant(value.into()));
        self.bound(name, binding)
    }

    /// This scope with a variable whose value is not known yet.
    ///
    /// # Errors
    /// When the name is not that of a variable.
    pub(crate) fn with_later(&self, name: &str) -> Result<Scope> {
        self.bound(name, Binding::Later)
    }

    /// This scope with the `let` of a command: expressions without fields.
    ///
    /// # Errors
    /// When a name is not that of a variable, or an expression is none or fails.
    pub(crate) fn with_let(&self, variables: &RawDocument) -> Result<Scope> {
        let empty = bson::RawDocumentBuf::new();
        let mut scope = self.clone();
        for (name, value) in crate::value::fields(variables) {
            let expr = Expr::parse(value, self)?;
            let value = expr.eval(&mut Env::new(&empty, &self.runtime))?;
            scope = scope.with(name, &value)?;
        }
        Ok(scope)
    }

    /// `$redact`'s own variables.
    pub(crate) fn with_redact(&self) -> Scope {
        let mut scope = self.clone();
        for (name, value) in [("DESCEND", "descend"), ("PRUNE", "prune"), ("KEEP", "keep")] {
            let value = RawBson::String(value.to_owned());
            scope.variables.push((name.into(), Binding::Constant(value)));
        }
        scope
    }

    fn bound(&self, name: &str, binding: Binding) -> Result<Scope> {
        parse::check_variable(name)?;
        let mut scope = self.clone();
        scope.variables.push((name.into(), binding));
        Ok(scope)
    }

    /// This scope with a variable that gets its value when the expression runs, and the variable's slot.
    fn with_slot(&self, name: &str) -> Result<(Scope, usize)> {
        let slot = self.slots;
        let mut scope = self.bound(name, Binding::Slot(slot))?;
        scope.slots += 1;
        Ok((scope, slot))
    }
}

pub(crate) fn location(number: i32, message: impl Into<String>) -> Error {
    Error::new(Code::Location(number), message)
}

#[cfg(test)]
mod tests;
