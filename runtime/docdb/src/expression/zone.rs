//! Time zones: offsets such as `+02:00` and the zones of the IANA database by name, whose rules are in the binary.

use std::sync::OnceLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::{Value, location};
use crate::Result;

/// A time zone.
#[derive(Debug, Clone)]
pub(super) enum Zone {
    /// Milliseconds that its clocks are ahead of UTC.
    Offset(i64),
    Named(TimeZone),
}

impl Zone {
    pub(super) const UTC: Zone = Zone::Offset(0);

    /// The zone of an argument; none if it is null.
    ///
    /// # Errors
    /// For what is no string, and names no zone.
    pub(super) fn of(v: &Value<'_>) -> Result<Option<Zone>> {
        if v.is_nullish() {
            return Ok(None);
        }
        let name = v.as_str();
        let name = name.ok_or_else(|| {
            location(
                40_517,
                format!("timezone must evaluate to a string, found {}", v.type_name()),
            )
        })?;
        Zone::named(name)
            .map(Some)
            .ok_or_else(|| location(40_485, format!("unrecognized time zone identifier: {name:?}")))
    }

    pub(super) fn named(name: &str) -> Option<Zone> {
        static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
        if matches!(name, "UTC" | "GMT" | "Z" | "Etc/UTC") {
            return Some(Zone::UTC);
        }
        if let Some(offset) = offset(name) {
            return Some(Zone::Offset(offset));
        }
        let database = DATABASE.get_or_init(TimeZoneDatabase::bundled);
        database.get(name).ok().map(Zone::Named)
    }

    /// What the zone's clocks show at a moment: milliseconds since 1970, as if they were UTC's.
    pub(super) fn local(&self, utc: i64) -> i64 {
        utc.saturating_add(self.offset_at(utc))
    }

    /// The moment at which the clocks show this. In the hour that is left out in spring they go on as before it; of
    /// the hour that comes twice in autumn it is the first.
    pub(super) fn utc(&self, local: i64) -> i64 {
        const DAY: i64 = super::calendar::DAY;
        match self {
            Zone::Offset(offset) => local.saturating_sub(*offset),
            Zone::Named(_) => {
                let before = self.offset_at(local.saturating_sub(DAY));
                let after = self.offset_at(local.saturating_add(DAY));
                let first = local.saturating_sub(before);
                if before == after || self.offset_at(first) == before {
                    return first;
                }
                let second = local.saturating_sub(after);
                if self.offset_at(second) == after {
                    second
                } else {
                    first
                }
            }
        }
    }

    /// Milliseconds ahead of UTC at a moment.
    pub(super) fn offset_at(&self, utc: i64) -> i64 {
        match self {
            Zone::Offset(offset) => *offset,
            Zone::Named(zone) => {
                // Outside of the years that the rules know those of the end go on.
                let seconds = utc.div_euclid(1000);
                let (least, most) = (jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
                let moment = jiff::Timestamp::from_second(seconds.clamp(least, most));
                moment.map_or(0, |moment| i64::from(zone.to_offset(moment).seconds()) * 1000)
            }
        }
    }
}

/// `+02`, `+0230` or `+02:30`.
fn offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits = match rest.len() {
        2 | 4 => rest.to_owned(),
        5 if rest.as_bytes()[2] == b':' => rest.replacen(':', "", 1),
        _ => return None,
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i64 = digits[..2].parse().ok()?;
    let minutes: i64 = if digits.len() == 4 {
        digits[2..].parse().ok()?
    } else {
        0
    };
    (minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}
