//! Accumulators: values of many documents made one. `$group` and its kin feed them a document at a time; some are
//! expressions too, over the elements of an array.

use std::collections::BTreeSet;

use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::arrays::{key, positive};
use super::compare::order_of;
use super::number::{Number, Sum};
use super::objects::merge_into;
use super::{Arguments, Env, Expr, Operator, Runtime, Scope, Value, location};
use crate::sort::SortSpec;
use crate::value::{compare, fields};
use crate::{Code, Error, Result};

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$sum",
        arguments: Arguments::AtLeast(0),
        run: |e, _, a| over(e, a, State::Sum(Sum::default())),
    },
    Operator {
        name: "$avg",
        arguments: Arguments::AtLeast(0),
        run: |e, _, a| over(e, a, State::Mean(Sum::default())),
    },
    Operator {
        name: "$min",
        arguments: Arguments::AtLeast(0),
        run: |e, _, a| {
            over(
                e,
                a,
                State::Extreme {
                    value: None,
                    largest: false,
                },
            )
        },
    },
    Operator {
        name: "$max",
        arguments: Arguments::AtLeast(0),
        run: |e, _, a| {
            over(
                e,
                a,
                State::Extreme {
                    value: None,
                    largest: true,
                },
            )
        },
    },
    Operator {
        name: "$stdDevPop",
        arguments: Arguments::AtLeast(0),
        run: |e, _, a| over(e, a, State::Deviation(Deviation::new(false))),
    },
    Operator {
        name: "$stdDevSamp",
        arguments: Arguments::AtLeast(0),
        run: |e, _, a| over(e, a, State::Deviation(Deviation::new(true))),
    },
];

/// An accumulator as an expression: over its arguments, or the elements of a single array.
fn over<'d>(env: &mut Env<'d>, arguments: &[Value<'d>], state: State) -> Result<Value<'d>> {
    let mut accumulator = Accumulator { state };
    let values = match arguments {
        [one] => one.elements().unwrap_or_else(|| vec![one.clone()]),
        many => many.to_vec(),
    };
    for v in &values {
        env.step()?;
        accumulator.add(v)?;
    }
    Ok(Value::owned(accumulator.result()))
}

/// An accumulator as it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Accumulation {
    kind: Kind,
    argument: Expr,
}

#[derive(Debug, Clone)]
enum Kind {
    Sum,
    Mean,
    Min,
    Max,
    First,
    Last,
    Push,
    AddToSet,
    Merge,
    Deviation {
        sample: bool,
    },
    Some {
        n: usize,
        which: Which,
    },
    Top {
        n: Option<usize>,
        sort: SortSpec,
        bottom: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Last,
    Least,
    Greatest,
}

impl Accumulation {
    /// The accumulator of that name, if it is one.
    ///
    /// # Errors
    /// When the argument is malformed.
    pub(crate) fn parse(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Option<Accumulation>> {
        const BY_BYTES: [&str; 9] = [
            "$min",
            "$max",
            "$minN",
            "$maxN",
            "$addToSet",
            "$top",
            "$topN",
            "$bottom",
            "$bottomN",
        ];
        if BY_BYTES.contains(&name) {
            scope.needs_simple_collation(name)?;
        }
        let kind = match name {
            "$sum" => Kind::Sum,
            "$avg" => Kind::Mean,
            "$min" => Kind::Min,
            "$max" => Kind::Max,
            "$first" => Kind::First,
            "$last" => Kind::Last,
            "$push" => Kind::Push,
            "$addToSet" => Kind::AddToSet,
            "$mergeObjects" => Kind::Merge,
            "$stdDevPop" => Kind::Deviation { sample: false },
            "$stdDevSamp" => Kind::Deviation { sample: true },
            "$count" => {
                if v.as_document().is_none_or(|doc| !doc.is_empty()) {
                    return Err(Error::new(
                        Code::TypeMismatch,
                        "$count takes no arguments, i.e. $count:{}",
                    ));
                }
                return Ok(Some(Accumulation {
                    kind: Kind::Sum,
                    argument: Expr::Constant(RawBson::Int32(1)),
                }));
            }
            "$firstN" => return some(name, v, Which::First, scope).map(Some),
            "$lastN" => return some(name, v, Which::Last, scope).map(Some),
            "$minN" => return some(name, v, Which::Least, scope).map(Some),
            "$maxN" => return some(name, v, Which::Greatest, scope).map(Some),
            "$top" | "$topN" | "$bottom" | "$bottomN" => return top(name, v, scope).map(Some),
            _ => return Ok(None),
        };
        // `{$sum: [a]}` is the sum of the array's single element, as everywhere with one argument.
        let argument = match v {
            RawBsonRef::Array(array) => {
                let mut parts = crate::value::elements(array);
                match (parts.next(), parts.next()) {
                    (Some(one), None) => one,
                    _ => {
                        return Err(location(
                            40_237,
                            format!("The {name} accumulator is a unary operator"),
                        ));
                    }
                }
            }
            v => v,
        };
        Ok(Some(Accumulation {
            kind,
            argument: Expr::parse(argument, scope)?,
        }))
    }

    /// The state to begin with.
    pub(crate) fn start(&self) -> Accumulator {
        let state = match &self.kind {
            Kind::Sum => State::Sum(Sum::default()),
            Kind::Mean => State::Mean(Sum::default()),
            Kind::Min => State::Extreme {
                value: None,
                largest: false,
            },
            Kind::Max => State::Extreme {
                value: None,
                largest: true,
            },
            Kind::First => State::First(None),
            Kind::Last => State::Last(None),
            Kind::Push => State::Push(RawArrayBuf::new()),
            Kind::AddToSet => State::Set {
                seen: BTreeSet::new(),
                array: RawArrayBuf::new(),
            },
            Kind::Merge => State::Merge(RawDocumentBuf::new()),
            Kind::Deviation { sample } => State::Deviation(Deviation::new(*sample)),
            Kind::Some { n, which } => State::Some {
                n: *n,
                which: *which,
                values: Vec::new(),
            },
            Kind::Top { n, bottom, .. } => State::Top {
                n: *n,
                bottom: *bottom,
                rows: Vec::new(),
            },
        };
        Accumulator { state }
    }

    /// Feeds a document. Returns how many bytes more are held, about.
    ///
    /// # Errors
    /// Those of the expression and of the accumulator.
    pub(crate) fn feed(
        &self,
        to: &mut Accumulator,
        document: &RawDocument,
        runtime: &Runtime,
    ) -> Result<usize> {
        let value = self.argument.eval(&mut Env::new(document, runtime))?;
        match (&self.kind, &mut to.state) {
            (Kind::Top { n, sort, bottom }, State::Top { rows, .. }) => {
                let mut key = sort.sort_key(document);
                if *bottom {
                    // The last become the first; bytes are turned around, and ended so that none is another's start.
                    key.iter_mut().for_each(|byte| *byte = !*byte);
                    key.push(0xff);
                }
                Ok(keep_least(
                    rows,
                    n.unwrap_or(1),
                    key,
                    value.into_raw().unwrap_or(RawBson::Null),
                ))
            }
            _ => to.add(&value),
        }
    }
}

/// Keeps the rows with the least keys, in order; of equal keys the earlier.
fn keep_least(rows: &mut Vec<(Vec<u8>, RawBson)>, n: usize, key: Vec<u8>, value: RawBson) -> usize {
    let place = rows.partition_point(|(other, _)| *other <= key);
    if place >= n {
        return 0;
    }
    let bytes = key.len() + Value::owned(value.clone()).size();
    rows.insert(place, (key, value));
    rows.truncate(n);
    bytes
}

fn named<'v, const N: usize>(name: &str, v: RawBsonRef<'v>, names: [&str; N]) -> Result<[RawBsonRef<'v>; N]> {
    let RawBsonRef::Document(doc) = v else {
        return Err(location(
            5_787_900,
            format!(
                "specification must be an object; found {name}: {}",
                crate::value::shown(v)
            ),
        ));
    };
    if let Some((unknown, _)) = fields(doc).find(|(field, _)| !names.contains(field)) {
        return Err(location(
            5_787_901,
            format!("Unknown argument to {name}: {unknown}"),
        ));
    }
    let mut out = [RawBsonRef::Null; N];
    for (place, field) in out.iter_mut().zip(names) {
        let found = crate::value::field(doc, field);
        *place = found.ok_or_else(|| location(5_787_906, format!("{name}: missing value for '{field}'")))?;
    }
    Ok(out)
}

/// The `n` of an accumulator, which has to be the same for all groups.
fn how_many(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<usize> {
    let parsed = Expr::parse(v, scope)?;
    let Some(n) = parsed.constant() else {
        return Err(Error::new(
            Code::CommandNotSupported,
            format!("{name}: 'n' that is no constant is not supported"),
        ));
    };
    positive(&Value::Borrowed(n.as_raw_bson_ref()), name)
}

fn some(name: &str, v: RawBsonRef<'_>, which: Which, scope: &Scope) -> Result<Accumulation> {
    let [n, input] = named(name, v, ["n", "input"])?;
    let n = how_many(name, n, scope)?;
    Ok(Accumulation {
        kind: Kind::Some { n, which },
        argument: Expr::parse(input, scope)?,
    })
}

fn top(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Accumulation> {
    let (n, sort, output) = if name.ends_with('N') {
        let [n, sort, output] = named(name, v, ["n", "sortBy", "output"])?;
        (Some(how_many(name, n, scope)?), sort, output)
    } else {
        let [sort, output] = named(name, v, ["sortBy", "output"])?;
        (None, sort, output)
    };
    let RawBsonRef::Document(sort) = sort else {
        return Err(location(
            5_788_005,
            format!("{name}: expected 'sortBy' to be an object"),
        ));
    };
    Ok(Accumulation {
        kind: Kind::Top {
            n,
            sort: SortSpec::parse(sort)?,
            bottom: name.starts_with("$bottom"),
        },
        argument: Expr::parse(output, scope)?,
    })
}

/// An accumulator at work.
#[derive(Debug, Clone)]
pub(crate) struct Accumulator {
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Sum(Sum),
    Mean(Sum),
    Extreme {
        value: Option<RawBson>,
        largest: bool,
    },
    First(Option<RawBson>),
    Last(Option<RawBson>),
    Push(RawArrayBuf),
    Set {
        seen: BTreeSet<Vec<u8>>,
        array: RawArrayBuf,
    },
    Merge(RawDocumentBuf),
    Deviation(Deviation),
    Some {
        n: usize,
        which: Which,
        values: Vec<RawBson>,
    },
    Top {
        n: Option<usize>,
        bottom: bool,
        rows: Vec<(Vec<u8>, RawBson)>,
    },
}

/// Mean and squared distance from it, kept up by Welford's method.
#[derive(Debug, Clone)]
struct Deviation {
    sample: bool,
    count: f64,
    mean: f64,
    squares: f64,
}

impl Deviation {
    fn new(sample: bool) -> Self {
        Self {
            sample,
            count: 0.0,
            mean: 0.0,
            squares: 0.0,
        }
    }

    fn add(&mut self, v: f64) {
        self.count += 1.0;
        let distance = v - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (v - self.mean);
    }

    fn result(&self) -> RawBson {
        let by = if self.sample { self.count - 1.0 } else { self.count };
        if by <= 0.0 {
            return RawBson::Null;
        }
        RawBson::Double((self.squares / by).sqrt())
    }
}

impl Accumulator {
    /// Adds a value. Returns how many bytes more are held, about.
    fn add(&mut self, value: &Value<'_>) -> Result<usize> {
        let before = |old: &Option<RawBson>| old.as_ref().map_or(0, |old| size(old.as_raw_bson_ref()));
        match &mut self.state {
            State::Sum(sum) | State::Mean(sum) => {
                if let Some(number) = Number::of_value(value) {
                    sum.add(number);
                }
                Ok(0)
            }
            State::Deviation(deviation) => {
                if let Some(number) = Number::of_value(value) {
                    deviation.add(number.to_f64());
                }
                Ok(0)
            }
            State::Extreme { value: kept, largest } => {
                let Some(new) = value.get().filter(|_| !value.is_nullish()) else {
                    return Ok(0);
                };
                let better = kept.as_ref().is_none_or(|old| {
                    let order = compare(new, old.as_raw_bson_ref());
                    if *largest { order.is_gt() } else { order.is_lt() }
                });
                if !better {
                    return Ok(0);
                }
                let old = before(kept);
                *kept = Some(new.into());
                Ok(size(new).saturating_sub(old))
            }
            State::First(Some(_)) => Ok(0),
            State::First(kept) => {
                *kept = Some(value.or_null().into());
                Ok(value.size())
            }
            State::Last(kept) => {
                let old = before(kept);
                *kept = Some(value.or_null().into());
                Ok(value.size().saturating_sub(old))
            }
            State::Push(array) => {
                if let Some(v) = value.get() {
                    array.push(v);
                }
                Ok(value.size() + 8)
            }
            State::Set { seen, array } => {
                let Some(v) = value.get() else { return Ok(0) };
                let key = key(value);
                let bytes = key.len() + value.size() + 32;
                if !seen.insert(key) {
                    return Ok(0);
                }
                array.push(v);
                Ok(bytes)
            }
            State::Merge(doc) => {
                let old = doc.as_bytes().len();
                merge_into(doc, value)?;
                Ok(doc.as_bytes().len().saturating_sub(old))
            }
            State::Some { n, which, values } => {
                let raw = || value.get().map_or(RawBson::Null, RawBson::from);
                match which {
                    Which::First if values.len() >= *n => return Ok(0),
                    Which::First => values.push(raw()),
                    Which::Last => {
                        if values.len() >= *n {
                            values.remove(0);
                        }
                        values.push(raw());
                    }
                    Which::Least | Which::Greatest => {
                        let Some(new) = value.get().filter(|_| !value.is_nullish()) else {
                            return Ok(0);
                        };
                        let new = Value::Borrowed(new);
                        let place = values.partition_point(|old| {
                            let order = order_of(&Value::Borrowed(old.as_raw_bson_ref()), &new);
                            if *which == Which::Least {
                                order.is_le()
                            } else {
                                order.is_ge()
                            }
                        });
                        if place >= *n {
                            return Ok(0);
                        }
                        values.insert(place, raw());
                        values.truncate(*n);
                    }
                }
                Ok(value.size() + 32)
            }
            State::Top { .. } => Ok(0),
        }
    }

    /// What was accumulated.
    pub(crate) fn result(self) -> RawBson {
        fn array(values: impl IntoIterator<Item = RawBson>) -> RawBson {
            let mut out = RawArrayBuf::new();
            for v in values {
                out.push(v);
            }
            RawBson::Array(out)
        }
        match self.state {
            State::Sum(sum) => sum.total().raw(),
            State::Mean(sum) => sum.mean().map_or(RawBson::Null, Number::raw),
            State::Extreme { value, .. } | State::First(value) | State::Last(value) => {
                value.unwrap_or(RawBson::Null)
            }
            State::Push(array) | State::Set { array, .. } => RawBson::Array(array),
            State::Merge(doc) => RawBson::Document(doc),
            State::Deviation(deviation) => deviation.result(),
            State::Some { values, .. } => array(values),
            State::Top { n: None, rows, .. } => rows.into_iter().next().map_or(RawBson::Null, |(_, v)| v),
            State::Top {
                rows, bottom: false, ..
            } => array(rows.into_iter().map(|(_, v)| v)),
            // The bottom is told in the order of the sort too.
            State::Top { rows, .. } => array(rows.into_iter().rev().map(|(_, v)| v)),
        }
    }
}

fn size(v: RawBsonRef<'_>) -> usize {
    Value::Borrowed(v).size()
}
