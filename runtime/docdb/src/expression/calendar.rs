//! The proleptic Gregorian calendar: days since 1970-01-01 to dates and back, weeks, and dates moved by months.
//! Pure arithmetic over all 64-bit milliseconds; the algorithms are Howard Hinnant's, published for free use.

/// Milliseconds of a day.
pub(super) const DAY: i64 = 86_400_000;

/// A moment in some time zone, in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: i64,
    /// 1 to 31.
    pub(super) day: i64,
    /// Milliseconds since midnight.
    pub(super) millis: i64,
}

impl Civil {
    /// The parts of milliseconds since 1970 of a clock on the wall.
    pub(super) fn of(millis: i64) -> Civil {
        let (year, month, day) = date_of(millis.div_euclid(DAY));
        Civil {
            year,
            month,
            day,
            millis: millis.rem_euclid(DAY),
        }
    }

    /// Days since 1970-01-01.
    pub(super) fn days(self) -> i64 {
        days_of(self.year, self.month, self.day)
    }

    /// Milliseconds since 1970, if there are such.
    pub(super) fn to_millis(self) -> Option<i64> {
        self.days().checked_mul(DAY)?.checked_add(self.millis)
    }

    /// 1 to 366.
    pub(super) fn day_of_year(self) -> i64 {
        self.days() - days_of(self.year, 1, 1) + 1
    }

    /// 1 (Monday) to 7.
    pub(super) fn iso_weekday(self) -> i64 {
        iso_weekday(self.days())
    }

    /// Year and week of ISO 8601: week 1 has the year's first Thursday.
    pub(super) fn iso_week(self) -> (i64, i64) {
        let thursday = self.days() - self.iso_weekday() + 4;
        let (year, _, _) = date_of(thursday);
        (year, (thursday - days_of(year, 1, 1)) / 7 + 1)
    }

    /// 0 to 53: weeks begin on Sunday, days before the year's first Sunday are in week 0.
    pub(super) fn week(self) -> i64 {
        (self.day_of_year() + 6 - self.iso_weekday() % 7) / 7
    }

    /// Moved by months; the day is the month's last if it has no such day.
    pub(super) fn plus_months(self, months: i64) -> Option<Civil> {
        let month = self
            .year
            .checked_mul(12)?
            .checked_add(self.month - 1)?
            .checked_add(months)?;
        let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
        // Beyond what milliseconds reach, and a bound for the arithmetic on days.
        if year.abs() > 300_000_000 {
            return None;
        }
        Some(Civil {
            year,
            month,
            day: self.day.min(month_days(year, month)),
            millis: self.millis,
        })
    }
}

/// 1 (Monday) to 7, of a day since 1970-01-01, a Thursday.
pub(super) fn iso_weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// The first day of ISO week 1 of a year.
pub(super) fn iso_year_start(year: i64) -> i64 {
    let fourth = days_of(year, 1, 4);
    fourth - iso_weekday(fourth) + 1
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

pub(super) fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date; `day` may be outside of its month.
pub(super) fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (-800_000..800_000)
            .step_by(37)
            .chain([i64::MIN / DAY, i64::MAX / DAY])
        {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
            assert!((1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day));
        }
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(date_of(-1), (1969, 12, 31));
        assert_eq!(days_of(2024, 2, 29), 19_782);
    }

    #[test]
    fn weeks_are_those_of_the_standards() {
        let at = |year, month, day| Civil {
            year,
            month,
            day,
            millis: 0,
        };
        assert_eq!(at(2021, 1, 3).iso_week(), (2020, 53));
        assert_eq!(at(2018, 12, 31).iso_week(), (2019, 1));
        assert_eq!(at(2016, 1, 1).week(), 0);
        assert_eq!(at(2016, 1, 3).week(), 1);
        assert_eq!(at(2017, 1, 1).week(), 1);
        assert_eq!(iso_year_start(2021), days_of(2021, 1, 4));
        assert_eq!(at(2024, 1, 31).plus_months(1), Some(at(2024, 2, 29)));
        assert_eq!(at(2024, 1, 31).plus_months(-2), Some(at(2023, 11, 30)));
    }
}
