//! Strings and regular expressions.

use std::cmp::Ordering;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocumentBuf};

use super::eval::int32;
use super::{Arguments, Env, Named, Operator, Otherwise, Value, location};
use crate::query::Regex;
use crate::{Code, Error, Result};

const TRIM: Arguments = Arguments::Named(
    50_694,
    &[
        Named {
            name: "input",
            otherwise: Otherwise::Required(50_695),
        },
        Named {
            name: "chars",
            otherwise: Otherwise::Absent,
        },
    ],
);
const REGEX: Arguments = Arguments::Named(
    31_024,
    &[
        Named {
            name: "input",
            otherwise: Otherwise::Required(31_022),
        },
        Named {
            name: "regex",
            otherwise: Otherwise::Required(31_023),
        },
        Named {
            name: "options",
            otherwise: Otherwise::Null,
        },
    ],
);
const REPLACE: Arguments = Arguments::Named(
    51_750,
    &[
        Named {
            name: "input",
            otherwise: Otherwise::Required(51_749),
        },
        Named {
            name: "find",
            otherwise: Otherwise::Required(51_748),
        },
        Named {
            name: "replacement",
            otherwise: Otherwise::Required(51_747),
        },
    ],
);

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$concat",
        arguments: Arguments::AtLeast(0),
        run: concat,
    },
    Operator {
        name: "$toLower",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| Ok(Value::string(text_of(n, &a[0])?.to_ascii_lowercase())),
    },
    Operator {
        name: "$toUpper",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| Ok(Value::string(text_of(n, &a[0])?.to_ascii_uppercase())),
    },
    Operator {
        name: "$substr",
        arguments: Arguments::Exactly(3),
        run: substr_bytes,
    },
    Operator {
        name: "$substrBytes",
        arguments: Arguments::Exactly(3),
        run: substr_bytes,
    },
    Operator {
        name: "$substrCP",
        arguments: Arguments::Exactly(3),
        run: substr_points,
    },
    Operator {
        name: "$split",
        arguments: Arguments::Exactly(2),
        run: split,
    },
    Operator {
        name: "$trim",
        arguments: TRIM,
        run: |_, n, a| trim(n, a, true, true),
    },
    Operator {
        name: "$ltrim",
        arguments: TRIM,
        run: |_, n, a| trim(n, a, true, false),
    },
    Operator {
        name: "$rtrim",
        arguments: TRIM,
        run: |_, n, a| trim(n, a, false, true),
    },
    Operator {
        name: "$strLenBytes",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| Ok(Value::count(only_string(n, &a[0], 34_473)?.len())),
    },
    Operator {
        name: "$strLenCP",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| Ok(Value::count(only_string(n, &a[0], 34_471)?.chars().count())),
    },
    Operator {
        name: "$indexOfBytes",
        arguments: Arguments::Between(2, 4),
        run: index_of_bytes,
    },
    Operator {
        name: "$indexOfCP",
        arguments: Arguments::Between(2, 4),
        run: index_of_points,
    },
    Operator {
        name: "$strcasecmp",
        arguments: Arguments::Exactly(2),
        run: strcasecmp,
    },
    Operator {
        name: "$regexMatch",
        arguments: REGEX,
        run: regex_match,
    },
    Operator {
        name: "$regexFind",
        arguments: REGEX,
        run: regex_find,
    },
    Operator {
        name: "$regexFindAll",
        arguments: REGEX,
        run: regex_find_all,
    },
    Operator {
        name: "$replaceOne",
        arguments: REPLACE,
        run: |e, n, a| replace(e, n, a, 1),
    },
    Operator {
        name: "$replaceAll",
        arguments: REPLACE,
        run: |e, n, a| replace(e, n, a, usize::MAX),
    },
];

/// The string of a value for operators that also take numbers and dates; the empty one for null.
fn text_of(name: &str, v: &Value<'_>) -> Result<String> {
    if v.is_nullish() {
        return Ok(String::new());
    }
    match v.get() {
        Some(RawBsonRef::String(text) | RawBsonRef::Symbol(text)) => Ok(text.to_owned()),
        Some(v) => super::convert::text(v).ok_or_else(|| {
            let message = format!(
                "{name}: can't convert from BSON type {} to String",
                crate::value::type_name(v)
            );
            location(16_007, message)
        }),
        None => Ok(String::new()),
    }
}

fn only_string<'v>(name: &str, v: &'v Value<'_>, number: i32) -> Result<&'v str> {
    v.as_str().ok_or_else(|| {
        location(
            number,
            format!("{name} requires a string argument, found: {}", v.type_name()),
        )
    })
}

fn concat<'d>(env: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut out = String::new();
    for v in arguments {
        env.step()?;
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        let text = v.as_str();
        out.push_str(text.ok_or_else(|| {
            location(
                16_702,
                format!("$concat only supports strings, not {}", v.type_name()),
            )
        })?);
        env.check_bytes(out.len())?;
    }
    Ok(Value::string(out))
}

/// A number argument cut to a whole one, as `$substr` takes them.
fn whole(v: &Value<'_>, number: i32, what: &str) -> Result<i64> {
    let found = super::number::Number::of_value(v);
    let found = found.ok_or_else(|| {
        location(
            number,
            format!("{what} must be a numeric type, found {}", v.type_name()),
        )
    })?;
    Ok(found.truncated().unwrap_or(i64::MAX))
}

fn substr_bytes<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let text = text_of(name, &arguments[0])?;
    let start = whole(&arguments[1], 16_034, &format!("{name}: starting index"))?;
    let length = whole(&arguments[2], 16_035, &format!("{name}: length"))?;
    let Ok(start) = usize::try_from(start) else {
        return Err(location(
            50_752,
            format!("{name}: starting index must be non-negative, found {start}"),
        ));
    };
    if start >= text.len() {
        return Ok(Value::string(""));
    }
    if !text.is_char_boundary(start) {
        return Err(location(
            28_656,
            format!("{name}: invalid range, starting index is a UTF-8 continuation byte"),
        ));
    }
    // A negative length is the rest.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let end = start.saturating_add(length).min(text.len());
    if !text.is_char_boundary(end) {
        return Err(location(
            28_657,
            format!("{name}: invalid range, ending index is in the middle of a UTF-8 character"),
        ));
    }
    Ok(Value::string(&text[start..end]))
}

fn substr_points<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let text = text_of(name, &arguments[0])?;
    let argument = |v: &Value<'_>, type_error: i32, range_error: i32, sign_error: i32, what: &str| {
        if !v.is_number() {
            return Err(location(
                type_error,
                format!("{name}: {what} must be a numeric type, found {}", v.type_name()),
            ));
        }
        let v = int32(v)
            .ok_or_else(|| location(range_error, format!("{name}: {what} must be a 32-bit integer")))?;
        usize::try_from(v).map_err(|_| {
            location(
                sign_error,
                format!("{name}: {what} must be non-negative, found {v}"),
            )
        })
    };
    let start = argument(&arguments[1], 34_450, 34_451, 34_455, "starting index")?;
    let length = argument(&arguments[2], 34_452, 34_453, 34_454, "length")?;
    Ok(Value::string(
        text.chars().skip(start).take(length).collect::<String>(),
    ))
}

fn split<'d>(env: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (text, separator) = (&arguments[0], &arguments[1]);
    if text.is_nullish() || separator.is_nullish() {
        return Ok(Value::NULL);
    }
    let text = text.as_str().ok_or_else(|| {
        location(
            40_085,
            format!(
                "$split requires an expression that evaluates to a string as a first argument, found: {}",
                text.type_name()
            ),
        )
    })?;
    let separator = separator.as_str().ok_or_else(|| {
        location(
            40_086,
            format!(
                "$split requires an expression that evaluates to a string as a second argument, found: {}",
                separator.type_name()
            ),
        )
    })?;
    if separator.is_empty() {
        return Err(location(40_087, "$split requires a non-empty separator"));
    }
    let mut out = RawArrayBuf::new();
    for part in text.split(separator) {
        env.push(&mut out, RawBsonRef::String(part))?;
    }
    Ok(Value::array(out))
}

/// What `$trim` takes off when it is not told: Unicode's spaces and NUL.
fn is_space(c: char) -> bool {
    matches!(c, '\0' | '\t'..='\r' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}')
}

fn trim<'d>(name: &'static str, arguments: &[Value<'d>], left: bool, right: bool) -> Result<Value<'d>> {
    let (input, chars) = (&arguments[0], &arguments[1]);
    if input.is_nullish() {
        return Ok(Value::NULL);
    }
    let text = input.as_str().ok_or_else(|| {
        location(
            50_699,
            format!(
                "{name} requires its input to be a string, got {}",
                input.type_name()
            ),
        )
    })?;
    let set: Option<Vec<char>> = match chars {
        Value::Missing => None,
        chars if chars.is_nullish() => return Ok(Value::NULL),
        chars => {
            let set = chars.as_str().ok_or_else(|| {
                location(
                    50_700,
                    format!(
                        "{name} requires 'chars' to be a string, got {}",
                        chars.type_name()
                    ),
                )
            })?;
            Some(set.chars().collect())
        }
    };
    let off = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
    let mut text = text;
    if left {
        text = text.trim_start_matches(off);
    }
    if right {
        text = text.trim_end_matches(off);
    }
    Ok(Value::string(text))
}

/// The optional bounds of a search, which are whole and not negative.
pub(super) fn search_bounds(name: &str, arguments: &[Value<'_>]) -> Result<(usize, usize)> {
    let bound = |v: Option<&Value<'_>>, absent: usize, what: &str| match v {
        None => Ok(absent),
        Some(v) => {
            let whole = int32(v).ok_or_else(|| {
                location(
                    40_096,
                    format!(
                        "{name} requires an integral {what} index, found {}",
                        v.type_name()
                    ),
                )
            })?;
            usize::try_from(whole).map_err(|_| {
                location(
                    40_097,
                    format!("{name} requires a non-negative {what} index, found {whole}"),
                )
            })
        }
    };
    Ok((
        bound(arguments.get(2), 0, "starting")?,
        bound(arguments.get(3), usize::MAX, "ending")?,
    ))
}

fn index_of_bytes<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments[0].is_nullish() {
        return Ok(Value::NULL);
    }
    let (text, wanted) = (
        only_string(name, &arguments[0], 40_091)?,
        only_string(name, &arguments[1], 40_092)?,
    );
    let (start, end) = search_bounds(name, arguments)?;
    let end = end.min(text.len());
    if start > end {
        return Ok(Value::int(-1));
    }
    let (text, wanted) = (&text.as_bytes()[start..end], wanted.as_bytes());
    let found = if wanted.is_empty() {
        Some(0)
    } else {
        text.windows(wanted.len()).position(|window| window == wanted)
    };
    Ok(found.map_or(Value::int(-1), |at| Value::count(at + start)))
}

fn index_of_points<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    if arguments[0].is_nullish() {
        return Ok(Value::NULL);
    }
    let (text, wanted) = (
        only_string(name, &arguments[0], 40_093)?,
        only_string(name, &arguments[1], 40_094)?,
    );
    let (start, end) = search_bounds(name, arguments)?;
    let mut places = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let Some(from) = places.by_ref().nth(start) else {
        return Ok(Value::int(-1));
    };
    if end < start {
        return Ok(Value::int(-1));
    }
    let to = if end == start {
        from
    } else {
        places.nth(end - start - 1).unwrap_or(text.len())
    };
    let found = text[from..to].find(wanted);
    Ok(found.map_or(Value::int(-1), |at| {
        Value::count(start + text[from..from + at].chars().count())
    }))
}

fn strcasecmp<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let a = text_of(name, &arguments[0])?.to_ascii_uppercase();
    let b = text_of(name, &arguments[1])?.to_ascii_uppercase();
    Ok(Value::int(match a.cmp(&b) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }))
}

/// The input and the compiled expression of a `$regex..` operator; none when either is null.
fn regex_arguments(name: &str, arguments: &[Value<'_>]) -> Result<Option<(String, Regex)>> {
    let (input, regex, options) = (&arguments[0], &arguments[1], &arguments[2]);
    if !input.is_nullish() && input.as_str().is_none() {
        return Err(location(
            51_104,
            format!("{name} needs 'input' to be of type string"),
        ));
    }
    let given = match options {
        v if v.is_nullish() => None,
        v => Some(
            v.as_str()
                .ok_or_else(|| location(51_106, format!("{name} needs 'options' to be of type string")))?,
        ),
    };
    let (pattern, options) = match regex.get() {
        _ if regex.is_nullish() => return Ok(None),
        Some(RawBsonRef::RegularExpression(regex)) => {
            let own = regex.options.as_str();
            if given.is_some() && !own.is_empty() {
                return Err(location(
                    51_107,
                    format!("{name}: found regex option(s) specified in both 'regex' and 'options' fields"),
                ));
            }
            (regex.pattern.as_str(), given.unwrap_or(own))
        }
        Some(RawBsonRef::String(pattern)) => (pattern, given.unwrap_or("")),
        _ => {
            return Err(location(
                51_105,
                format!("{name} needs 'regex' to be of type string or regex"),
            ));
        }
    };
    let compiled =
        Regex::new(pattern, options).map_err(|error| location(51_111, format!("{name}: {error}")))?;
    Ok(input.as_str().map(|input| (input.to_owned(), compiled)))
}

fn regex_match<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let found = regex_arguments(name, arguments)?.is_some_and(|(input, regex)| regex.matches_text(&input));
    Ok(Value::bool(found))
}

/// `{match, idx, captures}` of a match that begins at the code point `idx`.
fn described(captures: &regex::Captures<'_>, idx: usize) -> RawDocumentBuf {
    let mut groups = RawArrayBuf::new();
    for group in captures.iter().skip(1) {
        groups.push(group.map_or(RawBson::Null, |group| RawBson::String(group.as_str().to_owned())));
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("match"), &captures[0]);
    out.append(cstr!("idx"), i32::try_from(idx).unwrap_or(i32::MAX));
    out.append(cstr!("captures"), groups);
    out
}

fn regex_find<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let Some((input, regex)) = regex_arguments(name, arguments)? else {
        return Ok(Value::NULL);
    };
    Ok(match regex.compiled().captures(&input) {
        None => Value::NULL,
        Some(captures) => {
            let at = captures.get(0).map_or(0, |found| found.start());
            Value::document(described(&captures, input[..at].chars().count()))
        }
    })
}

fn regex_find_all<'d>(env: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let mut out = RawArrayBuf::new();
    let Some((input, regex)) = regex_arguments(name, arguments)? else {
        return Ok(Value::array(out));
    };
    let (mut bytes, mut points) = (0, 0);
    for captures in regex.compiled().captures_iter(&input) {
        let at = captures.get(0).map_or(0, |found| found.start());
        points += input[bytes..at].chars().count();
        bytes = at;
        env.push(&mut out, RawBsonRef::Document(&described(&captures, points)))?;
    }
    Ok(Value::array(out))
}

fn replace<'d>(
    env: &mut Env<'d>,
    name: &'static str,
    arguments: &[Value<'d>],
    most: usize,
) -> Result<Value<'d>> {
    let mut texts = Vec::with_capacity(3);
    for (v, (what, number)) in
        arguments
            .iter()
            .zip([("input", 51_746), ("find", 51_745), ("replacement", 51_744)])
    {
        if !v.is_nullish() && v.as_str().is_none() {
            let message = format!(
                "{name} requires that '{what}' be a string, found: {}",
                v.type_name()
            );
            return Err(location(number, message));
        }
        texts.push(v.as_str());
    }
    let [Some(input), Some(find), Some(replacement)] = texts[..] else {
        return Ok(Value::NULL);
    };
    // An empty text is found before each character and at the end.
    let count = input.matches(find).take(most).count();
    let grown = count
        .checked_mul(replacement.len())
        .and_then(|grown| grown.checked_add(input.len()));
    env.check_bytes(
        grown.ok_or_else(|| Error::new(Code::BSONObjectTooLarge, "the replaced text is too large"))?,
    )?;
    Ok(Value::string(input.replacen(find, replacement, most)))
}
