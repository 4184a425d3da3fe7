//! What expressions mean for one document.

use std::sync::Arc;

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};

use super::number::Number;
use super::{Expr, Runtime, STEPS_PER_CHECK, Value, location};
use crate::check::check_well_formed;
use crate::collation::Collation;
use crate::query::ARGUMENT_DEPTH_MAX;
use crate::{Code, Error, Result};

/// Bytes of values that one evaluation may hold while it makes others.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One evaluation: the document, the variables, and the work done so far.
pub(crate) struct Env<'d> {
    root: &'d RawDocument,
    variables: Vec<Value<'d>>,
    runtime: &'d Runtime,
    steps: u32,
    /// Bytes of values that wait for others to be evaluated.
    held: usize,
}

impl<'d> Env<'d> {
    pub(crate) fn new(root: &'d RawDocument, runtime: &'d Runtime) -> Self {
        Self {
            root,
            variables: Vec::new(),
            runtime,
            steps: 0,
            held: 0,
        }
    }

    /// How strings are compared, if not by their bytes.
    pub(super) fn collation(&self) -> Option<&'d Arc<Collation>> {
        self.runtime.collation()
    }

    /// One turn of a loop.
    ///
    /// # Errors
    /// The deadline passed.
    pub(super) fn step(&mut self) -> Result<()> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(STEPS_PER_CHECK) {
            self.runtime.check()?;
        }
        Ok(())
    }

    /// # Errors
    /// A value of so many bytes is too large.
    pub(super) fn check_bytes(&self, bytes: usize) -> Result<()> {
        let max = self.runtime.value_bytes_max;
        if bytes > max {
            let message =
                format!("an expression made a value of over {bytes} bytes, at most {max} are allowed");
            return Err(Error::new(Code::BSONObjectTooLarge, message));
        }
        Ok(())
    }

    /// Counts a value that waits for others: each is small enough, but an expression can nest and list many.
    fn hold(&mut self, value: &Value<'_>) -> Result<usize> {
        let Value::Owned(_) = value else { return Ok(0) };
        let bytes = value.size();
        self.held += bytes;
        if self.held > HELD_BYTES_MAX {
            let message = format!(
                "an expression held values of over {} bytes at once, at most {HELD_BYTES_MAX} are allowed",
                self.held
            );
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        Ok(bytes)
    }

    fn release(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Appends to an array that must not become too large.
    pub(super) fn push(&mut self, array: &mut RawArrayBuf, v: RawBsonRef<'_>) -> Result<()> {
        self.step()?;
        array.push(v);
        self.check_bytes(array.as_bytes().len())
    }

    fn set(&mut self, slot: usize, value: Value<'d>) {
        if self.variables.len() <= slot {
            self.variables.resize(slot + 1, Value::Missing);
        }
        self.variables[slot] = value;
    }

    /// Random bits, for `$rand`.
    pub(super) fn random(&self) -> f64 {
        self.runtime.random()
    }
}

impl Expr {
    /// The expression's value for the document of `env`.
    ///
    /// # Errors
    /// What the operators refuse, with MongoDB's codes; `BSONObjectTooLarge` when a value gets too large;
    /// `MaxTimeMSExpired` when the time is over.
    pub(crate) fn eval<'d>(&'d self, env: &mut Env<'d>) -> Result<Value<'d>> {
        match self {
            Expr::Constant(v) => Ok(Value::Borrowed(v.as_raw_bson_ref())),
            Expr::Missing | Expr::Unbound => Ok(Value::Missing),
            Expr::Root => Ok(Value::Borrowed(RawBsonRef::Document(env.root))),
            Expr::Variable(slot) => Ok(env.variables.get(*slot).cloned().unwrap_or(Value::Missing)),
            Expr::Field(base, path) => match **base {
                Expr::Root => Ok(Value::Borrowed(RawBsonRef::Document(env.root)).at_path(path)),
                Expr::Variable(slot) => Ok(env
                    .variables
                    .get(slot)
                    .map_or(Value::Missing, |value| value.at_path(path))),
                ref base => Ok(base.eval(env)?.at_path(path)),
            },
            Expr::Call(operator, arguments) => call(operator.name, operator.run, arguments, env),
            Expr::And(parts) => {
                for part in parts {
                    if !part.eval(env)?.is_true() {
                        return Ok(Value::bool(false));
                    }
                }
                Ok(Value::bool(true))
            }
            Expr::Or(parts) => {
                for part in parts {
                    if part.eval(env)?.is_true() {
                        return Ok(Value::bool(true));
                    }
                }
                Ok(Value::bool(false))
            }
            Expr::IfNull(parts) => {
                let mut last = Value::Missing;
                for part in parts {
                    last = part.eval(env)?;
                    if !last.is_nullish() {
                        break;
                    }
                }
                Ok(last)
            }
            Expr::Switch { branches, otherwise } => {
                for (case, then) in branches {
                    if case.eval(env)?.is_true() {
                        return then.eval(env);
                    }
                }
                match otherwise {
                    Some(otherwise) => otherwise.eval(env),
                    None => Err(location(
                        40_066,
                        "$switch could not find a matching branch for an input, and no default was specified.",
                    )),
                }
            }
            Expr::Let { variables, body } => {
                for (slot, expr) in variables {
                    let value = expr.eval(env)?;
                    env.set(*slot, value);
                }
                body.eval(env)
            }
            Expr::Object(parts) => object(parts, env),
            Expr::Array(parts) => array(parts, env),
            Expr::Map { input, slot, body } => map(input, *slot, body, env),
            Expr::Filter {
                input,
                slot,
                condition,
                limit,
            } => filter(input, *slot, condition, limit.as_deref(), env),
            Expr::Reduce {
                input,
                initial,
                value,
                this,
                body,
            } => reduce(input, initial, (*value, *this), body, env),
            Expr::Convert(convert) => convert.eval(env),
            Expr::SortArray { input, order } => {
                let input = input.eval(env)?;
                order.sorted(&input, env)
            }
            Expr::Random => Ok(Value::Borrowed(RawBsonRef::Double(env.random()))),
        }
    }
}

// Each in a function of its own, so that the one that calls itself keeps a small frame.

fn call<'d>(
    name: &'static str,
    run: super::Run,
    arguments: &'d [Expr],
    env: &mut Env<'d>,
) -> Result<Value<'d>> {
    match arguments {
        [one] => {
            let one = [one.eval(env)?];
            run(env, name, &one)
        }
        [a, b] => {
            let a = a.eval(env)?;
            let bytes = env.hold(&a)?;
            let both = [a, b.eval(env)?];
            env.release(bytes);
            run(env, name, &both)
        }
        arguments => {
            let mut values = Vec::with_capacity(arguments.len());
            let mut bytes = 0;
            for argument in arguments {
                let value = argument.eval(env)?;
                bytes += env.hold(&value)?;
                values.push(value);
            }
            env.release(bytes);
            run(env, name, &values)
        }
    }
}

fn object<'d>(parts: &'d [(bson::raw::CString, Expr)], env: &mut Env<'d>) -> Result<Value<'d>> {
    let mut out = RawDocumentBuf::new();
    for (name, part) in parts {
        if let Some(v) = part.eval(env)?.get() {
            out.append(name, v);
            env.check_bytes(out.as_bytes().len())?;
        }
    }
    Ok(Value::document(out))
}

fn array<'d>(parts: &'d [Expr], env: &mut Env<'d>) -> Result<Value<'d>> {
    let mut out = RawArrayBuf::new();
    for part in parts {
        // Missing elements become null, so that the others keep their places.
        let v = part.eval(env)?;
        env.push(&mut out, v.or_null())?;
    }
    Ok(Value::array(out))
}

/// The elements of an argument that has to be an array, with the bytes to release later; none for null.
fn array_input<'d>(
    input: &'d Expr,
    env: &mut Env<'d>,
    number: i32,
    operator: &str,
) -> Result<Option<(Vec<Value<'d>>, usize)>> {
    let input = input.eval(env)?;
    if input.is_nullish() {
        return Ok(None);
    }
    let held = env.hold(&input)?;
    let found = input.elements();
    found.map(|found| Some((found, held))).ok_or_else(|| {
        location(
            number,
            format!("input to {operator} must be an array not {}", input.type_name()),
        )
    })
}

fn map<'d>(input: &'d Expr, slot: usize, body: &'d Expr, env: &mut Env<'d>) -> Result<Value<'d>> {
    let Some((input, held)) = array_input(input, env, 16_883, "$map")? else {
        return Ok(Value::NULL);
    };
    let mut out = RawArrayBuf::new();
    for element in input {
        env.set(slot, element);
        let v = body.eval(env)?;
        env.push(&mut out, v.or_null())?;
    }
    env.release(held);
    Ok(Value::array(out))
}

fn filter<'d>(
    input: &'d Expr,
    slot: usize,
    condition: &'d Expr,
    limit: Option<&'d Expr>,
    env: &mut Env<'d>,
) -> Result<Value<'d>> {
    let Some((input, held)) = array_input(input, env, 28_651, "$filter")? else {
        return Ok(Value::NULL);
    };
    let mut most = i64::MAX;
    if let Some(limit) = limit {
        let limit = limit.eval(env)?;
        if !limit.is_nullish() {
            let whole = crate::value::as_whole(limit.or_null()).and_then(|v| i32::try_from(v).ok());
            let whole = whole.ok_or_else(|| {
                location(
                    327_391,
                    "$filter: limit must be represented as a 32-bit integral value",
                )
            })?;
            if whole < 1 {
                return Err(location(
                    327_392,
                    format!("$filter: limit must be greater than 0, found {whole}"),
                ));
            }
            most = i64::from(whole);
        }
    }
    let mut out = RawArrayBuf::new();
    let mut count = 0;
    for element in input {
        env.set(slot, element.clone());
        env.step()?;
        if condition.eval(env)?.is_true() {
            env.push(&mut out, element.or_null())?;
            count += 1;
            if count >= most {
                break;
            }
        }
    }
    env.release(held);
    Ok(Value::array(out))
}

fn reduce<'d>(
    input: &'d Expr,
    initial: &'d Expr,
    (value, this): (usize, usize),
    body: &'d Expr,
    env: &mut Env<'d>,
) -> Result<Value<'d>> {
    let Some((input, held)) = array_input(input, env, 40_080, "$reduce")? else {
        return Ok(Value::NULL);
    };
    let mut result = initial.eval(env)?;
    for element in input {
        env.step()?;
        env.set(value, result);
        env.set(this, element);
        result = body.eval(env)?;
        // Only here a value can nest deeper with each turn of a loop, and comparing recurses.
        if let Some(object) = result.get().and_then(crate::value::as_object) {
            check_well_formed(object, ARGUMENT_DEPTH_MAX)?;
        }
    }
    env.release(held);
    Ok(result)
}

/// The whole number of an argument, for operators that take 32-bit ones.
pub(super) fn int32(v: &Value<'_>) -> Option<i32> {
    if !v.is_number() {
        return None;
    }
    let whole = match Number::of_value(v)? {
        Number::Double(d) if d.fract() == 0.0 => d as i64,
        Number::Double(_) => return None,
        _ => crate::value::as_whole(v.or_null())?,
    };
    i32::try_from(whole).ok()
}
