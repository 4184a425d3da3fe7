//! Arrays, and arrays as sets.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bson::{RawArrayBuf, RawBsonRef};

use super::compare::{collated_order, order_of};
use super::eval::int32;
use super::strings::search_bounds;
use super::{Arguments, Env, Named, Operator, Otherwise, Value, location};
use crate::sort::SortSpec;
use crate::value::is_number;
use crate::{Code, Error, Result, keycode};

const FIRST_N: Arguments = Arguments::Named(
    5_787_901,
    &[
        Named {
            name: "n",
            otherwise: Otherwise::Required(5_787_906),
        },
        Named {
            name: "input",
            otherwise: Otherwise::Required(5_787_907),
        },
    ],
);

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$arrayElemAt",
        arguments: Arguments::Exactly(2),
        run: element_at,
    },
    Operator {
        name: "$first",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| end(n, a, |v| v.first()),
    },
    Operator {
        name: "$last",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| end(n, a, |v| v.last()),
    },
    Operator {
        name: "$size",
        arguments: Arguments::Exactly(1),
        run: size,
    },
    Operator {
        name: "$in",
        arguments: Arguments::Exactly(2),
        run: is_in,
    },
    Operator {
        name: "$slice",
        arguments: Arguments::Between(2, 3),
        run: slice,
    },
    Operator {
        name: "$concatArrays",
        arguments: Arguments::AtLeast(0),
        run: concat,
    },
    Operator {
        name: "$isArray",
        arguments: Arguments::Exactly(1),
        run: |_, _, a| Ok(Value::bool(a[0].is_array())),
    },
    Operator {
        name: "$range",
        arguments: Arguments::Between(2, 3),
        run: range,
    },
    Operator {
        name: "$reverseArray",
        arguments: Arguments::Exactly(1),
        run: reverse,
    },
    Operator {
        name: "$indexOfArray",
        arguments: Arguments::Between(2, 4),
        run: index_of,
    },
    Operator {
        name: "$zip",
        arguments: Arguments::Named(
            34_464,
            &[
                Named {
                    name: "inputs",
                    otherwise: Otherwise::Required(34_465),
                },
                Named {
                    name: "useLongestLength",
                    otherwise: Otherwise::Flag(false),
                },
                Named {
                    name: "defaults",
                    otherwise: Otherwise::Absent,
                },
            ],
        ),
        run: zip,
    },
    Operator {
        name: "$firstN",
        arguments: FIRST_N,
        run: |e, n, a| some(e, n, a, Which::First),
    },
    Operator {
        name: "$lastN",
        arguments: FIRST_N,
        run: |e, n, a| some(e, n, a, Which::Last),
    },
    Operator {
        name: "$maxN",
        arguments: FIRST_N,
        run: |e, n, a| some(e, n, a, Which::Largest),
    },
    Operator {
        name: "$minN",
        arguments: FIRST_N,
        run: |e, n, a| some(e, n, a, Which::Smallest),
    },
    Operator {
        name: "$setUnion",
        arguments: Arguments::AtLeast(0),
        run: union,
    },
    Operator {
        name: "$setIntersection",
        arguments: Arguments::AtLeast(0),
        run: intersection,
    },
    Operator {
        name: "$setDifference",
        arguments: Arguments::Exactly(2),
        run: difference,
    },
    Operator {
        name: "$setEquals",
        arguments: Arguments::AtLeast(2),
        run: set_equals,
    },
    Operator {
        name: "$setIsSubset",
        arguments: Arguments::Exactly(2),
        run: is_subset,
    },
    Operator {
        name: "$allElementsTrue",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| {
            Ok(Value::bool(
                array_of(&a[0], n, 17_040)?.iter().all(Value::is_true),
            ))
        },
    },
    Operator {
        name: "$anyElementTrue",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| {
            Ok(Value::bool(
                array_of(&a[0], n, 17_041)?.iter().any(Value::is_true),
            ))
        },
    },
];

/// The elements of an argument that has to be an array.
fn array_of<'d>(v: &Value<'d>, name: &str, number: i32) -> Result<Vec<Value<'d>>> {
    v.elements().ok_or_else(|| {
        location(
            number,
            format!(
                "the argument to {name} must be an array, but was of type: {}",
                v.type_name()
            ),
        )
    })
}

fn made<'d>(env: &mut Env<'d>, values: &[Value<'d>]) -> Result<Value<'d>> {
    let mut out = RawArrayBuf::new();
    for v in values {
        env.push(&mut out, v.or_null())?;
    }
    Ok(Value::array(out))
}

fn element_at<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (array, place) = (&arguments[0], &arguments[1]);
    if array.is_nullish() || place.is_nullish() {
        return Ok(Value::NULL);
    }
    if !array.is_array() {
        return Err(location(
            28_689,
            format!(
                "{name}'s first argument must be an array, but is {}",
                array.type_name()
            ),
        ));
    }
    if !place.is_number() {
        return Err(location(
            28_690,
            format!(
                "{name}'s second argument must be a numeric value, but is {}",
                place.type_name()
            ),
        ));
    }
    let place = int32(place).ok_or_else(|| {
        location(
            28_691,
            format!("{name}'s second argument must be representable as a 32-bit integer"),
        )
    })?;
    Ok(nth(array, place))
}

/// The element at a place, from the end if it is negative. Without a copy of the array.
fn nth<'d>(array: &Value<'d>, place: i32) -> Value<'d> {
    fn pick(array: &bson::RawArray, place: i32) -> Option<RawBsonRef<'_>> {
        let mut found = crate::value::elements(array);
        match usize::try_from(place) {
            Ok(place) => found.nth(place),
            Err(_) => {
                let count = crate::value::elements(array).count();
                found.nth(count.checked_sub(place.unsigned_abs() as usize)?)
            }
        }
    }
    match array {
        Value::Borrowed(RawBsonRef::Array(array)) => {
            pick(array, place).map_or(Value::Missing, Value::Borrowed)
        }
        other => match other.get() {
            Some(RawBsonRef::Array(array)) => {
                pick(array, place).map_or(Value::Missing, |v| Value::owned(v.into()))
            }
            _ => Value::Missing,
        },
    }
}

fn end<'d>(
    name: &'static str,
    arguments: &[Value<'d>],
    pick: for<'v> fn(&'v [Value<'d>]) -> Option<&'v Value<'d>>,
) -> Result<Value<'d>> {
    if arguments[0].is_nullish() {
        return Ok(Value::NULL);
    }
    let array = array_of(&arguments[0], name, 28_689)?;
    Ok(pick(&array).cloned().unwrap_or(Value::Missing))
}

fn size<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    match arguments[0].get() {
        Some(RawBsonRef::Array(array)) => Ok(Value::count(crate::value::elements(array).count())),
        _ => {
            let message = format!(
                "The argument to {name} must be an array, but was of type: {}",
                arguments[0].type_name()
            );
            Err(location(17_124, message))
        }
    }
}

fn is_in<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let Some(RawBsonRef::Array(array)) = arguments[1].get() else {
        let message = format!(
            "{name} requires an array as a second argument, found: {}",
            arguments[1].type_name()
        );
        return Err(location(40_081, message));
    };
    if arguments[0].get().is_none() {
        return Ok(Value::bool(false));
    }
    for element in crate::value::elements(array) {
        env.step()?;
        if collated_order(env, &Value::Borrowed(element), &arguments[0]).is_eq() {
            return Ok(Value::bool(true));
        }
    }
    Ok(Value::bool(false))
}

fn slice<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments.iter().any(Value::is_nullish) {
        return Ok(Value::NULL);
    }
    let array = array_of(&arguments[0], name, 28_724)?;
    let number = |place: usize, type_error: i32, range_error: i32| {
        let v = &arguments[place];
        if !v.is_number() {
            return Err(location(
                type_error,
                format!(
                    "argument {} to {name} must be numeric, but is of type: {}",
                    place + 1,
                    v.type_name()
                ),
            ));
        }
        int32(v).map(i64::from).ok_or_else(|| {
            location(
                range_error,
                format!(
                    "argument {} to {name} can't be represented as a 32-bit integer",
                    place + 1
                ),
            )
        })
    };
    let second = number(1, 28_725, 28_726)?;
    let len = array.len() as i64;
    let (from, count) = if arguments.len() == 3 {
        let count = number(2, 28_727, 28_728)?;
        if count <= 0 {
            return Err(location(
                28_729,
                format!("third argument to {name} must be positive: {count}"),
            ));
        }
        let from = if second < 0 { (len + second).max(0) } else { second };
        (from, count)
    } else if second < 0 {
        ((len + second).max(0), -second)
    } else {
        (0, second)
    };
    let from = from.min(len) as usize;
    let to = (from + count as usize).min(array.len());
    made(env, &array[from..to])
}

fn concat<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut out = RawArrayBuf::new();
    for v in arguments {
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        let Some(RawBsonRef::Array(array)) = v.get() else {
            return Err(location(
                28_664,
                format!("{name} only supports arrays, not {}", v.type_name()),
            ));
        };
        for element in crate::value::elements(array) {
            env.push(&mut out, element)?;
        }
    }
    Ok(Value::array(out))
}

fn range<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let number = |place: usize, type_error: i32, what: &str| {
        let v = &arguments[place];
        if !v.is_number() {
            return Err(location(
                type_error,
                format!(
                    "{name} requires a numeric {what} value, found value of type: {}",
                    v.type_name()
                ),
            ));
        }
        int32(v).map(i64::from).ok_or_else(|| {
            location(
                type_error + 1,
                format!("{name} requires a {what} value that can be represented as a 32-bit integer"),
            )
        })
    };
    let (start, end) = (number(0, 34_443, "starting")?, number(1, 34_445, "ending")?);
    let step = if arguments.len() == 3 {
        number(2, 34_447, "step")?
    } else {
        1
    };
    if step == 0 {
        return Err(location(34_449, format!("{name} requires a non-zero step value")));
    }
    let mut out = RawArrayBuf::new();
    let mut at = start;
    while if step > 0 { at < end } else { at > end } {
        env.push(&mut out, RawBsonRef::Int32(at as i32))?;
        at += step;
    }
    Ok(Value::array(out))
}

fn reverse<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments[0].is_nullish() {
        return Ok(Value::NULL);
    }
    let mut array = array_of(&arguments[0], name, 34_435)?;
    array.reverse();
    made(env, &array)
}

fn index_of<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments[0].is_nullish() {
        return Ok(Value::NULL);
    }
    let array = array_of(&arguments[0], name, 40_090)?;
    let (start, end) = search_bounds(name, arguments)?;
    for (place, v) in array.iter().enumerate().take(end).skip(start) {
        env.step()?;
        if collated_order(env, v, &arguments[1]).is_eq() {
            return Ok(Value::count(place));
        }
    }
    Ok(Value::int(-1))
}

fn zip<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let inputs = array_of(&arguments[0], name, 34_461)?;
    if inputs.is_empty() {
        return Err(location(
            34_465,
            format!("{name} requires at least one input array"),
        ));
    }
    let Some(RawBsonRef::Boolean(longest)) = arguments[1].get() else {
        return Err(location(
            34_463,
            format!("{name}: useLongestLength must be a bool"),
        ));
    };
    let defaults = match &arguments[2] {
        Value::Missing => Vec::new(),
        v => array_of(v, name, 34_462)?,
    };
    if !defaults.is_empty() && !longest {
        return Err(location(
            34_466,
            format!("{name}: cannot specify defaults unless useLongestLength is true"),
        ));
    }
    if !defaults.is_empty() && defaults.len() != inputs.len() {
        return Err(location(
            34_467,
            format!("{name}: defaults and inputs must have the same length"),
        ));
    }
    if inputs.iter().any(Value::is_nullish) {
        return Ok(Value::NULL);
    }
    let arrays: Vec<Vec<Value<'d>>> = inputs
        .iter()
        .map(|v| array_of(v, name, 34_468))
        .collect::<Result<_>>()?;
    let lengths = arrays.iter().map(Vec::len);
    let length = if longest { lengths.max() } else { lengths.min() }.unwrap_or(0);
    let mut out = RawArrayBuf::new();
    for row in 0..length {
        let mut tuple = RawArrayBuf::new();
        for (place, array) in arrays.iter().enumerate() {
            let v = array.get(row).or_else(|| defaults.get(place));
            tuple.push(v.map_or(RawBsonRef::Null, Value::or_null));
        }
        env.push(&mut out, RawBsonRef::Array(&tuple))?;
    }
    Ok(Value::array(out))
}

enum Which {
    First,
    Last,
    Largest,
    Smallest,
}

/// The `n` of `$firstN` and its like.
pub(super) fn positive(v: &Value<'_>, name: &str) -> Result<usize> {
    let whole = crate::value::as_whole(v.or_null()).filter(|_| v.is_number());
    let whole = whole.ok_or_else(|| {
        location(
            5_787_902,
            format!(
                "{name}: value for 'n' must be of integral type, found {}",
                v.type_name()
            ),
        )
    })?;
    usize::try_from(whole).ok().filter(|n| *n > 0).ok_or_else(|| {
        location(
            5_787_908,
            format!("{name}: 'n' must be greater than 0, found {whole}"),
        )
    })
}

fn some<'d>(
    env: &mut Env<'d>,
    name: &'static str,
    arguments: &[Value<'d>],
    which: Which,
) -> Result<Value<'d>> {
    let n = positive(&arguments[0], name)?;
    let mut array = array_of(&arguments[1], name, 5_788_200)?;
    match which {
        Which::First => array.truncate(n),
        Which::Last => drop(array.drain(..array.len().saturating_sub(n))),
        Which::Largest | Which::Smallest => {
            array.retain(|v| !v.is_nullish());
            array.sort_by(order_of);
            if matches!(which, Which::Largest) {
                array.reverse();
            }
            array.truncate(n);
        }
    }
    made(env, &array)
}

/// The elements as sorted keys with the values, each once.
fn set<'d>(array: Vec<Value<'d>>) -> std::collections::BTreeMap<Vec<u8>, Value<'d>> {
    array.into_iter().map(|v| (key(&v), v)).collect()
}

/// Bytes that are equal for equal values.
pub(super) fn key(v: &Value<'_>) -> Vec<u8> {
    let mut key = Vec::new();
    keycode::encode(&mut key, v.or_null(), false);
    key
}

fn union<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut seen = BTreeSet::new();
    let mut out = RawArrayBuf::new();
    if arguments.iter().any(Value::is_nullish) {
        return Ok(Value::NULL);
    }
    for v in arguments {
        for element in array_of(v, name, 17_043)? {
            if seen.insert(key(&element)) {
                env.push(&mut out, element.or_null())?;
            }
        }
    }
    Ok(Value::array(out))
}

fn intersection<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments.iter().any(Value::is_nullish) {
        return Ok(Value::NULL);
    }
    let mut common = None;
    for v in arguments {
        let next = set(array_of(v, name, 17_047)?);
        common = Some(match common {
            None => next,
            Some(common) => {
                let mut common: std::collections::BTreeMap<Vec<u8>, Value<'d>> = common;
                common.retain(|key, _| next.contains_key(key));
                common
            }
        });
    }
    let values: Vec<Value<'d>> = common.into_iter().flatten().map(|(_, v)| v).collect();
    made(env, &values)
}

fn difference<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments.iter().any(Value::is_nullish) {
        return Ok(Value::NULL);
    }
    let left = array_of(&arguments[0], name, 17_048)?;
    let mut seen: BTreeSet<Vec<u8>> = array_of(&arguments[1], name, 17_049)?.iter().map(key).collect();
    let rest: Vec<Value<'d>> = left.into_iter().filter(|v| seen.insert(key(v))).collect();
    made(env, &rest)
}

fn set_equals<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut sets = Vec::with_capacity(arguments.len());
    for v in arguments {
        let keys: BTreeSet<Vec<u8>> = array_of(v, name, 17_044)?.iter().map(key).collect();
        sets.push(keys);
    }
    Ok(Value::bool(sets.windows(2).all(|pair| pair[0] == pair[1])))
}

fn is_subset<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let left = array_of(&arguments[0], name, 17_046)?;
    let right = set(array_of(&arguments[1], name, 17_042)?);
    Ok(Value::bool(left.iter().all(|v| right.contains_key(&key(v)))))
}

/// By what `$sortArray` sorts.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    Ascending,
    Descending,
    ByFields(SortSpec),
}

impl Order {
    /// # Errors
    /// For what is neither 1, -1 nor a sort.
    pub(super) fn parse(v: RawBsonRef<'_>) -> Result<Order> {
        match v {
            RawBsonRef::Document(doc) => Ok(Order::ByFields(SortSpec::parse(doc)?)),
            v if is_number(v) && crate::value::as_whole(v) == Some(1) => Ok(Order::Ascending),
            v if is_number(v) && crate::value::as_whole(v) == Some(-1) => Ok(Order::Descending),
            v => Err(Error::new(
                Code::BadValue,
                format!(
                    "$sortArray: sortBy must be 1, -1 or an object, found {}",
                    crate::value::shown(v)
                ),
            )),
        }
    }

    pub(super) fn sorted<'d>(&self, v: &Value<'d>, env: &mut Env<'d>) -> Result<Value<'d>> {
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        let mut array = v.elements().ok_or_else(|| {
            location(
                2_942_504,
                format!(
                    "the input argument to $sortArray must be an array, but was of type: {}",
                    v.type_name()
                ),
            )
        })?;
        match self {
            Order::Ascending => array.sort_by(order_of),
            Order::Descending => array.sort_by(|a, b| order_of(b, a)),
            Order::ByFields(sort) => array.sort_by(|a, b| match (a.as_document(), b.as_document()) {
                (Some(a), Some(b)) => sort.compare(a, b),
                (None, None) => Ordering::Equal,
                // What has no fields sorts as if they were missing.
                (a, b) => {
                    let empty = bson::RawDocumentBuf::new();
                    sort.compare(a.unwrap_or(&empty), b.unwrap_or(&empty))
                }
            }),
        }
        made(env, &array)
    }
}
