//! When a timer fires: a cron expression of six or seven fields, read by the wall clock of a time zone.

use cloudlet_base::Timestamp;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;

/// A parsed schedule.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// As it was written, with its zone: two that differ here are different schedules.
    text: String,
}

impl Schedule {
    /// Parses `second minute hour day month weekday [year]` in the IANA time zone `zone`.
    ///
    /// When both the day and the weekday are given, either is enough, as in every cron. A time that daylight saving leaves
    /// out fires when the clock has jumped; one that it has twice fires once.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub(crate) fn parse(text: &str, zone: &str) -> Result<Self, (String, String)> {
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Optional)
            .build();
        let cron = parser.parse(text).map_err(|error| {
            (
                format!("schedule {text:?} is no cron expression: {error}"),
                "write second minute hour day month weekday [year], e.g. \"0 30 3 * * *\" for 3:30 each day"
                    .to_owned(),
            )
        })?;
        let zone_found = TimeZone::get(zone).map_err(|_| {
            (
                format!("there is no time zone {zone:?}"),
                "write a name of the IANA list, e.g. \"Asia/Shanghai\", or \"UTC\"".to_owned(),
            )
        })?;
        let schedule = Self {
            cron,
            zone: zone_found,
            text: format!("{text} {zone}"),
        };
        Ok(schedule)
    }

    /// The first tick after a moment; none when there is no more.
    pub(crate) fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let tick = self.cron.find_next_occurrence(&self.zoned(moment)?, false);
        tick.ok().map(|tick| Timestamp(tick.timestamp().as_millisecond()))
    }

    /// The last tick up to a moment, that moment included.
    pub(crate) fn last_until(&self, moment: Timestamp) -> Option<Timestamp> {
        let tick = self.cron.find_previous_occurrence(&self.zoned(moment)?, true);
        tick.ok().map(|tick| Timestamp(tick.timestamp().as_millisecond()))
    }

    /// As it was written, with its zone.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn zoned(&self, moment: Timestamp) -> Option<jiff::Zoned> {
        let moment = jiff::Timestamp::from_millisecond(moment.millis()).ok()?;
        Some(moment.to_zoned(self.zone.clone()))
    }
}

/// A moment as text, in UTC: `2026-11-23T03:00:00Z`.
pub(crate) fn text(moment: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(moment.millis()) {
        Ok(moment) => moment.to_string(),
        Err(_) => moment.millis().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn ticks(schedule: &str, zone: &str, from: &str, number: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        let mut moment = at(from);
        let next = || {
            moment = schedule.after(moment)?;
            Some(text(moment))
        };
        std::iter::from_fn(next).take(number).collect()
    }

    #[test]
    fn ticks_follow_the_wall_clock_of_the_zone() {
        for (schedule, zone, from, expected) in [
            (
                "0 30 3 * * *",
                "UTC",
                "2026-11-23T03:30:00Z",
                vec!["2026-11-24T03:30:00Z", "2026-11-25T03:30:00Z"],
            ),
            (
                "0 0 3 * * *",
                "Asia/Shanghai",
                "2026-11-23T00:00:00Z",
                vec!["2026-11-23T19:00:00Z", "2026-11-24T19:00:00Z"],
            ),
            (
                "*/20 * * * * *",
                "UTC",
                "2026-11-23T00:00:01.5Z",
                vec!["2026-11-23T00:00:20Z", "2026-11-23T00:00:40Z"],
            ),
            (
                "0 0 9 * * MON-FRI",
                "UTC",
                "2026-11-20T10:00:00Z",
                vec!["2026-11-23T09:00:00Z", "2026-11-24T09:00:00Z"],
            ),
            // Seven fields, and no more after them.
            (
                "0 0 0 1 1 * 2027",
                "UTC",
                "2026-11-23T00:00:00Z",
                vec!["2027-01-01T00:00:00Z"],
            ),
            // The last of a month; a leap day.
            (
                "0 0 0 L * *",
                "UTC",
                "2026-02-01T00:00:00Z",
                vec!["2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"],
            ),
            (
                "0 0 0 29 2 *",
                "UTC",
                "2026-03-01T00:00:00Z",
                vec!["2028-02-29T00:00:00Z"],
            ),
            // Day or weekday.
            (
                "0 0 0 25 * SUN",
                "UTC",
                "2026-11-23T00:00:00Z",
                vec!["2026-11-25T00:00:00Z", "2026-11-29T00:00:00Z"],
            ),
            // At two in the night of 29 March 2026 it is three in Berlin.
            (
                "0 30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00Z",
                vec!["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            // At three in the night of 25 October it is two again.
            (
                "0 30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00Z",
                vec!["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
        ] {
            let mut found = ticks(schedule, zone, from, 2);
            found.truncate(expected.len());
            assert_eq!(found, expected, "{schedule} {zone}");
        }
        assert_eq!(
            ticks("0 0 0 1 1 * 2027", "UTC", "2026-11-23T00:00:00Z", 5).len(),
            1
        );
    }

    #[test]
    fn the_last_tick_is_the_one_that_was_missed() {
        let hourly = Schedule::parse("0 0 * * * *", "UTC").unwrap();
        let last = |moment: &str| text(hourly.last_until(at(moment)).unwrap());
        assert_eq!(last("2026-11-23T10:59:59Z"), "2026-11-23T10:00:00Z");
        assert_eq!(last("2026-11-23T10:00:00Z"), "2026-11-23T10:00:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_way_out() {
        for wrong in [
            "",
            "* * * * *",
            "* * * * * * * *",
            "61 * * * * *",
            "0 0 25 * * *",
            "0 0 0 32 * *",
            "0 0 0 * 13 *",
            "0 0 0 * * 9",
            "a b c d e f",
            "0 0 0 1 1 * 5001",
            "-1 * * * * *",
            "5-1 * * * * *",
            "*/0 * * * * *",
            "\u{1F980} * * * * *",
        ] {
            let (message, remedy) = Schedule::parse(wrong, "UTC").unwrap_err();
            assert!(
                message.contains("no cron expression") && remedy.contains("second minute"),
                "{wrong}"
            );
        }
        assert!(
            Schedule::parse("0 0 0 * * *", "Mars/Base")
                .unwrap_err()
                .0
                .contains("Mars/Base")
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

        /// Whatever is written: it is refused, or its ticks are after and before what they should be.
        #[test]
        fn any_schedule_is_refused_or_ticks_in_order(
            fields in proptest::collection::vec("[0-9*?LW#,/A-Z-]{1,6}|\\*|[0-9]{1,2}|\\*/[0-9]{1,2}", 5..8),
            zone in proptest::sample::select(vec!["UTC", "Asia/Shanghai", "America/St_Johns", "Pacific/Apia"]),
            now in 0..4_000_000_000_000_i64,
        ) {
            let now = Timestamp(now);
            if let Ok(schedule) = Schedule::parse(&fields.join(" "), zone) {
                let (after, before) = (schedule.after(now), schedule.last_until(now));
                proptest::prop_assert!(after.is_none_or(|tick| tick > now));
                proptest::prop_assert!(before.is_none_or(|tick| tick <= now));
            }
        }
    }

    /// Nothing that a manifest can say makes the search for a tick run away or panic.
    #[test]
    fn a_date_that_never_comes_has_no_tick() {
        let never = Schedule::parse("0 0 0 30 2 *", "UTC").unwrap();
        assert_eq!(never.after(at("2026-11-23T00:00:00Z")), None);
        assert_eq!(never.last_until(at("2026-11-23T00:00:00Z")), None);
    }
}
