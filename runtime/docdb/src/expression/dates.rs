//! Dates: their parts, texts, and moving and comparing them by units of the calendar, in a time zone.

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocumentBuf};

use super::calendar::{Civil, DAY, days_of, iso_weekday, iso_year_start, month_days};
use super::number::Number;
use super::zone::Zone;
use super::{Arguments, Env, Named, Operator, Otherwise, Value, location};
use crate::value::type_name;
use crate::{Code, Error, Result};

const fn required(name: &'static str, number: i32) -> Named {
    Named {
        name,
        otherwise: Otherwise::Required(number),
    }
}

const fn absent(name: &'static str) -> Named {
    Named {
        name,
        otherwise: Otherwise::Absent,
    }
}

const TIMEZONE: Named = Named {
    name: "timezone",
    otherwise: Otherwise::Text("UTC"),
};
const PART: Arguments = Arguments::Named(40_535, &[required("date", 40_539), TIMEZONE]);
const MOVE: Arguments = Arguments::Named(
    5_166_401,
    &[
        required("startDate", 5_166_402),
        required("unit", 5_166_402),
        required("amount", 5_166_402),
        TIMEZONE,
    ],
);

pub(super) const OPERATORS: &[Operator] = &[
    Operator {
        name: "$year",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.year),
    },
    Operator {
        name: "$month",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.month),
    },
    Operator {
        name: "$dayOfMonth",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.day),
    },
    Operator {
        name: "$dayOfWeek",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.iso_weekday() % 7 + 1),
    },
    Operator {
        name: "$dayOfYear",
        arguments: PART,
        run: |_, _, a| part(a, Civil::day_of_year),
    },
    Operator {
        name: "$hour",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.millis / 3_600_000),
    },
    Operator {
        name: "$minute",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.millis / 60_000 % 60),
    },
    Operator {
        name: "$second",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.millis / 1000 % 60),
    },
    Operator {
        name: "$millisecond",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.millis % 1000),
    },
    Operator {
        name: "$week",
        arguments: PART,
        run: |_, _, a| part(a, Civil::week),
    },
    Operator {
        name: "$isoWeek",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.iso_week().1),
    },
    Operator {
        name: "$isoWeekYear",
        arguments: PART,
        run: |_, _, a| part(a, |c| c.iso_week().0),
    },
    Operator {
        name: "$isoDayOfWeek",
        arguments: PART,
        run: |_, _, a| part(a, Civil::iso_weekday),
    },
    Operator {
        name: "$dateToParts",
        arguments: Arguments::Named(
            40_520,
            &[
                required("date", 40_522),
                TIMEZONE,
                Named {
                    name: "iso8601",
                    otherwise: Otherwise::Flag(false),
                },
            ],
        ),
        run: to_parts,
    },
    Operator {
        name: "$dateFromParts",
        arguments: Arguments::Named(
            40_518,
            &[
                absent("year"),
                absent("isoWeekYear"),
                absent("month"),
                absent("isoWeek"),
                absent("day"),
                absent("isoDayOfWeek"),
                absent("hour"),
                absent("minute"),
                absent("second"),
                absent("millisecond"),
                TIMEZONE,
            ],
        ),
        run: from_parts,
    },
    Operator {
        name: "$dateToString",
        arguments: Arguments::Named(
            18_534,
            &[
                required("date", 18_628),
                absent("format"),
                TIMEZONE,
                Named {
                    name: "onNull",
                    otherwise: Otherwise::Null,
                },
            ],
        ),
        run: to_string,
    },
    Operator {
        name: "$dateFromString",
        arguments: Arguments::Named(
            40_541,
            &[
                required("dateString", 40_542),
                absent("format"),
                absent("timezone"),
                absent("onError"),
                Named {
                    name: "onNull",
                    otherwise: Otherwise::Null,
                },
            ],
        ),
        run: from_string,
    },
    Operator {
        name: "$dateTrunc",
        arguments: Arguments::Named(
            5_439_008,
            &[
                required("date", 5_439_009),
                required("unit", 5_439_010),
                Named {
                    name: "binSize",
                    otherwise: Otherwise::Int(1),
                },
                TIMEZONE,
                Named {
                    name: "startOfWeek",
                    otherwise: Otherwise::Text("sunday"),
                },
            ],
        ),
        run: trunc,
    },
    Operator {
        name: "$dateAdd",
        arguments: MOVE,
        run: |_, n, a| moved(n, a, 1),
    },
    Operator {
        name: "$dateSubtract",
        arguments: MOVE,
        run: |_, n, a| moved(n, a, -1),
    },
    Operator {
        name: "$dateDiff",
        arguments: Arguments::Named(
            5_166_302,
            &[
                required("startDate", 5_166_303),
                required("endDate", 5_166_304),
                required("unit", 5_166_305),
                TIMEZONE,
                Named {
                    name: "startOfWeek",
                    otherwise: Otherwise::Text("sunday"),
                },
            ],
        ),
        run: diff,
    },
    Operator {
        name: "$tsSecond",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| stamp(n, a, |t| t.time),
    },
    Operator {
        name: "$tsIncrement",
        arguments: Arguments::Exactly(1),
        run: |_, n, a| stamp(n, a, |t| t.increment),
    },
];

fn stamp<'d>(name: &str, arguments: &[Value<'d>], field: fn(bson::Timestamp) -> u32) -> Result<Value<'d>> {
    match arguments[0].get() {
        _ if arguments[0].is_nullish() => Ok(Value::NULL),
        Some(RawBsonRef::Timestamp(v)) => Ok(Value::Borrowed(RawBsonRef::Int64(field(v).into()))),
        _ => Err(location(
            5_687_301,
            format!(
                "{name} requires a timestamp argument, found: {}",
                arguments[0].type_name()
            ),
        )),
    }
}

/// The milliseconds of what stands for a moment: a date, a timestamp, an ObjectId. None of null.
fn moment(v: &Value<'_>) -> Result<Option<i64>> {
    match v.get() {
        _ if v.is_nullish() => Ok(None),
        Some(RawBsonRef::DateTime(v)) => Ok(Some(v.timestamp_millis())),
        Some(RawBsonRef::Timestamp(v)) => Ok(Some(i64::from(v.time) * 1000)),
        Some(RawBsonRef::ObjectId(v)) => Ok(Some(v.timestamp().timestamp_millis())),
        Some(v) => Err(location(
            16_006,
            format!("can't convert from BSON type {} to Date", type_name(v)),
        )),
        None => Ok(None),
    }
}

fn overflow() -> Error {
    Error::new(Code::Overflow, "date overflow")
}

fn long<'d>(v: i64) -> Value<'d> {
    Number::integer(v, true).value()
}

fn part<'d>(arguments: &[Value<'d>], pick: fn(Civil) -> i64) -> Result<Value<'d>> {
    let (Some(at), Some(zone)) = (moment(&arguments[0])?, Zone::of(&arguments[1])?) else {
        return Ok(Value::NULL);
    };
    Ok(long(pick(Civil::of(zone.local(at)))))
}

fn to_parts<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (Some(at), Some(zone)) = (moment(&arguments[0])?, Zone::of(&arguments[1])?) else {
        return Ok(Value::NULL);
    };
    let iso = match arguments[2].get() {
        Some(RawBsonRef::Boolean(iso)) => iso,
        _ if arguments[2].is_nullish() => return Ok(Value::NULL),
        _ => return Err(location(40_521, "iso8601 must evaluate to a bool")),
    };
    let civil = Civil::of(zone.local(at));
    let mut out = RawDocumentBuf::new();
    // All of them fit: years of 64-bit milliseconds have nine digits.
    let int = |v: i64| i32::try_from(v).unwrap_or(i32::MAX);
    if iso {
        let (year, week) = civil.iso_week();
        out.append(cstr!("isoWeekYear"), int(year));
        out.append(cstr!("isoWeek"), int(week));
        out.append(cstr!("isoDayOfWeek"), int(civil.iso_weekday()));
    } else {
        out.append(cstr!("year"), int(civil.year));
        out.append(cstr!("month"), int(civil.month));
        out.append(cstr!("day"), int(civil.day));
    }
    out.append(cstr!("hour"), int(civil.millis / 3_600_000));
    out.append(cstr!("minute"), int(civil.millis / 60_000 % 60));
    out.append(cstr!("second"), int(civil.millis / 1000 % 60));
    out.append(cstr!("millisecond"), int(civil.millis % 1000));
    Ok(Value::document(out))
}

fn from_parts<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    const NAMES: [&str; 10] = [
        "year",
        "isoWeekYear",
        "month",
        "isoWeek",
        "day",
        "isoDayOfWeek",
        "hour",
        "minute",
        "second",
        "millisecond",
    ];
    let mut parts = [None; 10];
    for ((v, name), part) in arguments.iter().zip(NAMES).zip(&mut parts) {
        if v.is_missing() {
            continue;
        }
        if v.is_nullish() {
            return Ok(Value::NULL);
        }
        let whole = crate::value::as_whole(v.or_null()).filter(|_| v.is_number());
        *part = Some(whole.ok_or_else(|| {
            location(
                40_515,
                format!("'{name}' must evaluate to an integer, found {}", v.type_name()),
            )
        })?);
    }
    let Some(zone) = Zone::of(&arguments[10])? else {
        return Ok(Value::NULL);
    };
    let [
        year,
        iso_year,
        month,
        iso_week,
        day,
        iso_day,
        hour,
        minute,
        second,
        millis,
    ] = parts;
    let within = |v: Option<i64>, name: &str, default: i64| match v.unwrap_or(default) {
        v if (-32_768..=32_767).contains(&v) => Ok(v),
        v => Err(location(
            31_034,
            format!("'{name}' must evaluate to a value in the range [-32768, 32767], found {v}"),
        )),
    };
    let in_years = |v: i64, name: &str| match v {
        1..=9999 => Ok(v),
        v => Err(location(
            40_523,
            format!("'{name}' must evaluate to an integer in the range 1 to 9999, found {v}"),
        )),
    };
    let days = match (year, iso_year) {
        (Some(year), None) => {
            if iso_week.is_some() || iso_day.is_some() {
                return Err(location(
                    40_489,
                    "$dateFromParts does not allow mixing natural dates with ISO dates",
                ));
            }
            let months = within(month, "month", 1)? - 1;
            let year = in_years(year, "year")? + months.div_euclid(12);
            days_of(year, months.rem_euclid(12) + 1, 1) + within(day, "day", 1)? - 1
        }
        (None, Some(year)) => {
            if month.is_some() || day.is_some() {
                return Err(location(
                    40_525,
                    "$dateFromParts does not allow mixing ISO dates with natural dates",
                ));
            }
            let weeks = within(iso_week, "isoWeek", 1)? - 1;
            iso_year_start(in_years(year, "isoWeekYear")?) + weeks * 7 + within(iso_day, "isoDayOfWeek", 1)?
                - 1
        }
        _ => {
            return Err(location(
                40_516,
                "$dateFromParts requires either 'year' or 'isoWeekYear' to be present",
            ));
        }
    };
    let of_day = within(hour, "hour", 0)? * 3_600_000 + within(minute, "minute", 0)? * 60_000;
    let seconds = second.unwrap_or(0).checked_mul(1000).ok_or_else(overflow)?;
    let local = days
        .checked_mul(DAY)
        .and_then(|v| v.checked_add(of_day))
        .and_then(|v| v.checked_add(seconds))
        .and_then(|v| v.checked_add(millis.unwrap_or(0)))
        .ok_or_else(overflow)?;
    Ok(Value::date(zone.utc(local)))
}

/// A date as `2024-05-06T07:08:09.010Z`.
pub(super) fn iso(millis: i64) -> String {
    let mut out = String::new();
    write(&mut out, "%Y-%m-%dT%H:%M:%S.%LZ", millis, &Zone::UTC).map_or_else(|_| millis.to_string(), |()| out)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn write(out: &mut String, format: &str, utc: i64, zone: &Zone) -> Result<()> {
    let civil = Civil::of(zone.local(utc));
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let Some(specifier) = chars.next() else {
            return Err(location(18_535, "unmatched '%' at end of format string"));
        };
        if matches!(specifier, 'Y' | 'G') && !(0..=9999).contains(&civil.year) {
            return Err(location(
                18_537,
                format!(
                    "$dateToString is only defined on years 0 to 9999, found {}",
                    civil.year
                ),
            ));
        }
        let month = MONTHS[(civil.month - 1) as usize];
        let text = match specifier {
            '%' => "%".to_owned(),
            'Y' => format!("{:04}", civil.year),
            'G' => format!("{:04}", civil.iso_week().0),
            'm' => format!("{:02}", civil.month),
            'b' => month[..3].to_owned(),
            'B' => month.to_owned(),
            'd' => format!("{:02}", civil.day),
            'H' => format!("{:02}", civil.millis / 3_600_000),
            'M' => format!("{:02}", civil.millis / 60_000 % 60),
            'S' => format!("{:02}", civil.millis / 1000 % 60),
            'L' => format!("{:03}", civil.millis % 1000),
            'j' => format!("{:03}", civil.day_of_year()),
            'u' => civil.iso_weekday().to_string(),
            'w' => (civil.iso_weekday() % 7 + 1).to_string(),
            'U' => format!("{:02}", civil.week()),
            'V' => format!("{:02}", civil.iso_week().1),
            'z' | 'Z' => {
                let minutes = zone.offset_at(utc) / 60_000;
                if specifier == 'Z' {
                    minutes.to_string()
                } else {
                    let sign = if minutes < 0 { '-' } else { '+' };
                    format!("{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
                }
            }
            other => {
                let message = format!("invalid format character '%{other}' in format string");
                return Err(location(18_536, message));
            }
        };
        out.push_str(&text);
    }
    Ok(())
}

fn to_string<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let zone = Zone::of(&arguments[2])?;
    let utc = matches!(zone, Some(Zone::Offset(0)));
    let format = match &arguments[1] {
        Value::Missing if utc => "%Y-%m-%dT%H:%M:%S.%LZ",
        Value::Missing => "%Y-%m-%dT%H:%M:%S.%L",
        v if v.is_nullish() => return Ok(Value::NULL),
        v => v.as_str().ok_or_else(|| {
            location(
                18_533,
                format!(
                    "$dateToString requires that 'format' be a string, found: {}",
                    v.type_name()
                ),
            )
        })?,
    };
    let Some(at) = moment(&arguments[0])? else {
        return Ok(arguments[3].clone());
    };
    let Some(zone) = zone else {
        return Ok(Value::NULL);
    };
    let mut out = String::new();
    write(&mut out, format, at, &zone)?;
    Ok(Value::string(out))
}

/// Parts of a date that is being read.
#[derive(Default)]
struct Read<'t> {
    rest: &'t str,
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    iso_year: Option<i64>,
    iso_week: Option<i64>,
    iso_day: Option<i64>,
    millis: i64,
    offset: Option<i64>,
}

impl Read<'_> {
    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let digits = self
            .rest
            .bytes()
            .take(most)
            .take_while(u8::is_ascii_digit)
            .count();
        if digits < least {
            return None;
        }
        let (digits, rest) = self.rest.split_at(digits);
        self.rest = rest;
        digits.parse().ok()
    }

    fn literal(&mut self, c: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(c)?;
        Some(())
    }

    fn fraction(&mut self) -> Option<()> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let (digits, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let three: String = digits.chars().chain("000".chars()).take(3).collect();
        self.millis += three.parse::<i64>().ok()?;
        Some(())
    }

    fn zone(&mut self) -> Option<()> {
        if self.rest.starts_with(['Z', 'z']) {
            self.rest = &self.rest[1..];
            self.offset = Some(0);
            return Some(());
        }
        let len = self
            .rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b':'))
            .count();
        let (text, rest) = self.rest.split_at(len);
        let Some(Zone::Offset(offset)) = Zone::named(text) else {
            return None;
        };
        self.offset = Some(offset);
        self.rest = rest;
        Some(())
    }

    /// A value of the time of day, in `unit` milliseconds.
    fn time(&mut self, least: usize, most: i64, unit: i64) -> Option<()> {
        let v = self.number(least, 2).filter(|v| *v <= most)?;
        self.millis += v * unit;
        Some(())
    }

    /// The moment, once all is read.
    fn finish(self, zone: Option<&Zone>) -> Option<i64> {
        if !self.rest.is_empty() || (self.offset.is_some() && zone.is_some()) {
            return None;
        }
        let days = if let Some(year) = self.iso_year {
            iso_year_start(year) + (self.iso_week.unwrap_or(1) - 1) * 7 + self.iso_day.unwrap_or(1) - 1
        } else if let Some(day) = self.day_of_year {
            days_of(self.year?, 1, 1) + day - 1
        } else {
            let (year, month, day) = (self.year?, self.month.unwrap_or(1), self.day.unwrap_or(1));
            if !(1..=12).contains(&month) || !(1..=month_days(year, month)).contains(&day) {
                return None;
            }
            days_of(year, month, day)
        };
        let local = days.checked_mul(DAY)?.checked_add(self.millis)?;
        match (self.offset, zone) {
            (Some(offset), _) => local.checked_sub(offset),
            (None, Some(zone)) => Some(zone.utc(local)),
            (None, None) => Some(local),
        }
    }
}

/// Reads `2024-05-06T07:08:09.010Z` with less or more of the time and an offset; in `zone` if it says none.
pub(super) fn parse_iso(text: &str, zone: Option<&Zone>) -> Result<i64, ()> {
    let mut read = Read {
        rest: text.trim(),
        ..Read::default()
    };
    let mut parse = || {
        read.year = Some(read.number(4, 4)?);
        read.literal('-')?;
        read.month = Some(read.number(1, 2)?);
        if read.literal('-').is_some() {
            read.day = Some(read.number(1, 2)?);
        }
        if read.rest.starts_with(['T', 't', ' ']) && read.rest.len() > 1 {
            read.rest = read.rest[1..].trim_start();
            read.time(1, 23, 3_600_000)?;
            read.literal(':')?;
            read.time(2, 59, 60_000)?;
            if read.literal(':').is_some() {
                read.time(2, 59, 1000)?;
                if read.literal('.').is_some() {
                    read.fraction()?;
                }
            }
        }
        read.rest = read.rest.trim_start();
        if !read.rest.is_empty() {
            read.zone()?;
        }
        Some(())
    };
    parse().and_then(|()| read.finish(zone)).ok_or(())
}

fn parse_format(text: &str, format: &str, zone: Option<&Zone>) -> Result<Option<i64>> {
    let mut read = Read {
        rest: text,
        ..Read::default()
    };
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        let fine = if c != '%' {
            read.literal(c)
        } else {
            match chars.next() {
                Some('%') => read.literal('%'),
                Some('Y') => read.number(4, 4).map(|v| read.year = Some(v)),
                Some('m') => read.number(1, 2).map(|v| read.month = Some(v)),
                Some('d') => read.number(1, 2).map(|v| read.day = Some(v)),
                Some('j') => read
                    .number(1, 3)
                    .filter(|v| (1..=366).contains(v))
                    .map(|v| read.day_of_year = Some(v)),
                Some('G') => read.number(4, 4).map(|v| read.iso_year = Some(v)),
                Some('V') => read
                    .number(1, 2)
                    .filter(|v| (1..=53).contains(v))
                    .map(|v| read.iso_week = Some(v)),
                Some('u') => read
                    .number(1, 1)
                    .filter(|v| (1..=7).contains(v))
                    .map(|v| read.iso_day = Some(v)),
                Some('H') => read.time(1, 23, 3_600_000),
                Some('M') => read.time(1, 59, 60_000),
                Some('S') => read.time(1, 59, 1000),
                Some('L') => read.number(1, 3).map(|v| read.millis += v),
                Some('z' | 'Z') => read.zone(),
                Some(specifier @ ('b' | 'B')) => {
                    let found = MONTHS.iter().position(|name| {
                        let name = if specifier == 'b' { &name[..3] } else { name };
                        read.rest
                            .get(..name.len())
                            .is_some_and(|head| head.eq_ignore_ascii_case(name))
                    });
                    found.map(|place| {
                        let len = if specifier == 'b' { 3 } else { MONTHS[place].len() };
                        read.rest = &read.rest[len..];
                        read.month = Some(place as i64 + 1);
                    })
                }
                Some(other) => {
                    return Err(location(
                        18_536,
                        format!("invalid format character '%{other}' in format string"),
                    ));
                }
                None => return Err(location(18_535, "unmatched '%' at end of format string")),
            }
        };
        if fine.is_none() {
            return Ok(None);
        }
    }
    Ok(read.finish(zone))
}

fn from_string<'d>(_: &mut Env<'d>, _: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let [text, format, zone, on_error, on_null] = arguments else {
        return Ok(Value::NULL);
    };
    let zone = match zone {
        Value::Missing => None,
        zone => match Zone::of(zone)? {
            None => return Ok(Value::NULL),
            zone => zone,
        },
    };
    if text.is_nullish() {
        return Ok(on_null.clone());
    }
    let failed = |message: String| match on_error {
        Value::Missing => Err(Error::new(Code::ConversionFailure, message)),
        on_error => Ok(on_error.clone()),
    };
    let Some(text) = text.as_str() else {
        return failed(format!(
            "$dateFromString requires that 'dateString' be a string, found: {}",
            text.type_name()
        ));
    };
    let parsed = match format {
        Value::Missing => parse_iso(text, zone.as_ref()).ok(),
        format if format.is_nullish() => return Ok(Value::NULL),
        format => {
            let format = format.as_str().ok_or_else(|| {
                location(
                    40_684,
                    format!(
                        "$dateFromString requires that 'format' be a string, found: {}",
                        format.type_name()
                    ),
                )
            })?;
            parse_format(text, format, zone.as_ref())?
        }
    };
    match parsed {
        Some(millis) => Ok(Value::date(millis)),
        None => failed(format!("Error parsing date string '{text}'")),
    }
}

/// A unit of the calendar or the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// So many months.
    Months(i64),
    /// So many days.
    Days(i64),
    /// So many milliseconds.
    Millis(i64),
}

impl Unit {
    fn of(v: &Value<'_>, operator: &str) -> Result<Option<Unit>> {
        if v.is_nullish() {
            return Ok(None);
        }
        let name = v.as_str().ok_or_else(|| {
            location(
                5_439_013,
                format!(
                    "{operator} requires 'unit' to be a string, but got {}",
                    v.type_name()
                ),
            )
        })?;
        Ok(Some(match name {
            "year" => Unit::Months(12),
            "quarter" => Unit::Months(3),
            "month" => Unit::Months(1),
            "week" => Unit::Days(7),
            "day" => Unit::Days(1),
            "hour" => Unit::Millis(3_600_000),
            "minute" => Unit::Millis(60_000),
            "second" => Unit::Millis(1000),
            "millisecond" => Unit::Millis(1),
            name => {
                return Err(Error::new(
                    Code::FailedToParse,
                    format!("{operator}: unknown time unit value: {name}"),
                ));
            }
        }))
    }
}

/// 1 (Monday) to 7, of the first day of weeks.
fn week_start(v: &Value<'_>, operator: &str) -> Result<Option<i64>> {
    const NAMES: [&str; 7] = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    if v.is_nullish() {
        return Ok(None);
    }
    let name = v.as_str().unwrap_or_default().to_ascii_lowercase();
    let place = NAMES
        .iter()
        .position(|day| *day == name || (name.len() >= 3 && day[..3] == *name));
    let place = place.ok_or_else(|| {
        location(
            5_439_016,
            format!(
                "{operator}: unknown startOfWeek value: {}",
                crate::value::shown(v.or_null())
            ),
        )
    })?;
    Ok(Some(place as i64 + 1))
}

fn trunc<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (Some(at), Some(unit), Some(zone), Some(start), false) = (
        moment(&arguments[0])?,
        Unit::of(&arguments[1], name)?,
        Zone::of(&arguments[3])?,
        week_start(&arguments[4], name)?,
        arguments[2].is_nullish(),
    ) else {
        return Ok(Value::NULL);
    };
    let bin =
        crate::value::as_whole(arguments[2].or_null()).filter(|bin| *bin > 0 && arguments[2].is_number());
    let bin = bin.ok_or_else(|| {
        location(
            5_439_017,
            format!(
                "{name} requires 'binSize' to be a positive integer, found {}",
                crate::value::shown(arguments[2].or_null())
            ),
        )
    })?;
    // Bins are counted from the beginning of the year 2000.
    let epoch = days_of(2000, 1, 1);
    let civil = Civil::of(zone.local(at));
    let size = |unit: i64| unit.checked_mul(bin).ok_or_else(overflow);
    let floored = |v: i64, unit: i64| v.checked_sub(v.rem_euclid(unit)).ok_or_else(overflow);
    let midnight = Civil {
        year: 2000,
        month: 1,
        day: 1,
        millis: 0,
    };
    let local = match unit {
        Unit::Months(unit) => {
            let months = (civil.year - 2000) * 12 + civil.month - 1;
            let start = midnight.plus_months(floored(months, size(unit)?)?);
            start.and_then(Civil::to_millis).ok_or_else(overflow)?
        }
        Unit::Days(unit) => {
            let first = if unit == 7 {
                epoch + (start - iso_weekday(epoch)).rem_euclid(7)
            } else {
                epoch
            };
            let days = floored(civil.days() - first, size(unit)?)? + first;
            days.checked_mul(DAY).ok_or_else(overflow)?
        }
        Unit::Millis(unit) => {
            let offset = zone.offset_at(at);
            let since = at
                .checked_add(offset)
                .and_then(|local| local.checked_sub(epoch * DAY))
                .ok_or_else(overflow)?;
            return Ok(Value::date(floored(since, size(unit)?)? + epoch * DAY - offset));
        }
    };
    Ok(Value::date(zone.utc(local)))
}

fn moved<'d>(name: &'static str, arguments: &[Value<'d>], sign: i64) -> Result<Value<'d>> {
    let (Some(at), Some(unit), Some(zone), false) = (
        moment(&arguments[0])?,
        Unit::of(&arguments[1], name)?,
        Zone::of(&arguments[3])?,
        arguments[2].is_nullish(),
    ) else {
        return Ok(Value::NULL);
    };
    let amount = crate::value::as_whole(arguments[2].or_null()).filter(|_| arguments[2].is_number());
    let amount = amount
        .and_then(|amount| amount.checked_mul(sign))
        .ok_or_else(|| {
            location(
                5_166_405,
                format!(
                    "{name} expects integer amount of time units, found {}",
                    crate::value::shown(arguments[2].or_null())
                ),
            )
        })?;
    let by = |unit: i64| amount.checked_mul(unit).ok_or_else(overflow);
    let local = match unit {
        Unit::Millis(unit) => return at.checked_add(by(unit)?).map(Value::date).ok_or_else(overflow),
        Unit::Days(unit) => by(unit)?
            .checked_mul(DAY)
            .and_then(|by| zone.local(at).checked_add(by)),
        Unit::Months(unit) => Civil::of(zone.local(at))
            .plus_months(by(unit)?)
            .and_then(Civil::to_millis),
    };
    Ok(Value::date(zone.utc(local.ok_or_else(overflow)?)))
}

/// How many beginnings of the unit are between two dates.
fn diff<'d>(_: &mut Env<'d>, name: &'static str, arguments: &[Value<'d>]) -> Result<Value<'d>> {
    let (Some(from), Some(to), Some(unit), Some(zone), Some(start)) = (
        moment(&arguments[0])?,
        moment(&arguments[1])?,
        Unit::of(&arguments[2], name)?,
        Zone::of(&arguments[3])?,
        week_start(&arguments[4], name)?,
    ) else {
        return Ok(Value::NULL);
    };
    let (a, b) = (Civil::of(zone.local(from)), Civil::of(zone.local(to)));
    let apart = match unit {
        Unit::Months(unit) => {
            let of = |civil: Civil| (civil.year * 12 + civil.month - 1).div_euclid(unit);
            of(b) - of(a)
        }
        Unit::Days(1) => b.days() - a.days(),
        Unit::Days(unit) => {
            let of = |civil: Civil| (civil.days() - (start - 4)).div_euclid(unit);
            of(b) - of(a)
        }
        Unit::Millis(unit) => {
            // By the first date's offset for both, so that a change of clocks is no hour.
            let offset = zone.offset_at(from);
            let of = |at: i64| at.saturating_add(offset).div_euclid(unit);
            of(to).checked_sub(of(from)).ok_or_else(overflow)?
        }
    };
    Ok(Value::Borrowed(RawBsonRef::Int64(apart)))
}
