//! Cron entries: five fields for minute, hour, day of the month, month and day of the week, in UTC.
//!
//! A field is `*`, a number, a range `a-b`, any of these with a step `/n`, or several with commas between them. Days of the week go
//! from 0 (Sunday) to 7 (Sunday, too). As in crontab(5), where both kinds of days are restricted either is enough.

/// Days that are looked through for the next time: every pattern of leap years comes up within them.
const DAYS: u64 = 41 * 366;
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    text: String,
    /// Allowed values as bits.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    has_days: bool,
    has_weekdays: bool,
}

impl Cron {
    /// Reads one; `None` if it can't be read, or no time fits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace();
        let mut field = |least, most| fields.next().and_then(|field| read_field(field, least, most));
        let (minutes, hours, days) = (field(0, 59)?, field(0, 23)?, field(1, 31)?);
        let (months, mut weekdays) = (field(1, 12)?, field(0, 7)?);
        if weekdays >> 7 & 1 == 1 {
            weekdays |= 1;
        }
        let (has_days, has_weekdays) = {
            let mut stars = text.split_whitespace().map(|field| field == "*");
            (!stars.nth(2)?, !stars.nth(1)?)
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let cron = Self { text, minutes, hours, days, months, weekdays, has_days, has_weekdays };
        (fields.next().is_none() && cron.after(0).is_some()).then_some(cron)
    }

    /// As it is written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The first time that fits after this one, in ms since 1970.
    pub(crate) fn after(&self, wall_ms: u64) -> Option<u64> {
        let first = (wall_ms / MINUTE_MS + 1).checked_mul(MINUTE_MS)?;
        let day = first / DAY_MS;
        let is_in = |set: u64, value: u64| set >> value & 1 == 1;
        for day in day..day.saturating_add(DAYS) {
            let (month, of_month) = month_and_day(day);
            // 1970 began with a Thursday.
            let (by_date, by_weekday) = (is_in(self.days, of_month), is_in(self.weekdays, (day + 4) % 7));
            let fits = match (self.has_days, self.has_weekdays) {
                (true, true) => by_date || by_weekday,
                _ => by_date && by_weekday,
            };
            if !fits || !is_in(self.months, month) {
                continue;
            }
            let from = (first / MINUTE_MS).saturating_sub(day * 24 * 60);
            let fits = |minute: &u64| is_in(self.hours, minute / 60) && is_in(self.minutes, minute % 60);
            if let Some(minute) = (from..24 * 60).find(fits) {
                return Some(day * DAY_MS + minute * MINUTE_MS);
            }
        }
        None
    }
}

fn read_field(text: &str, least: u64, most: u64) -> Option<u64> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    text.split(',').try_fold(0, |set, part| {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<usize>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((first, last)) => (number(first)?, number(last)?),
            // From there on, where there is a step.
            None if part != range => (number(range)?, most),
            None => (number(range)?, number(range)?),
        };
        let values = (first <= last).then(|| (first..=last).step_by(step))?;
        Some(values.fold(set, |set, value| set | 1 << value))
    })
}

/// Of the day of that number since 1970, by the Gregorian calendar; years begin with March in between, so that leap days come last.
fn month_and_day(day: u64) -> (u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    let day_of_era = (day + DAYS_TO_1970) % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-28 23:58:30 UTC, a Wednesday.
    const NOW: u64 = 1_709_164_710_000;

    fn after(text: &str) -> Option<u64> {
        Cron::parse(text)?.after(NOW)
    }

    #[test]
    fn the_next_time_is_the_first_that_fits() {
        for (text, expected) in [
            ("* * * * *", 1_709_164_740_000),
            ("0 * * * *", 1_709_164_800_000),
            ("58 23 * * *", 1_709_251_080_000),
            ("*/15 * * * *", 1_709_164_800_000),
            ("5/20 0 * * *", 1_709_165_100_000),
            // The leap day, and the next one.
            ("30 12 29 2 *", 1_709_209_800_000),
            ("0 0 1 3 *", 1_709_251_200_000),
            // Fridays; Sundays by both names; weekdays from nine to five.
            ("0 0 * * 5", 1_709_251_200_000),
            ("0 0 * * 0", 1_709_424_000_000),
            ("0 0 * * 7", 1_709_424_000_000),
            ("0 9-17 * * 1-5", 1_709_197_200_000),
            // Either kind of day.
            ("0 0 15 * 5", 1_709_251_200_000),
            ("0 0 1,15 1,7 *", 1_719_792_000_000),
        ] {
            assert_eq!(after(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_entry_or_never_comes_is_refused() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-2 * * * *",
            "a * * * *",
            "*/0 * * * *",
            "1, * * * *",
            "-1 * * * *",
            "0 0 30 2 *",
            "@hourly",
        ] {
            assert_eq!(Cron::parse(text), None, "{text}");
        }
        assert_eq!(Cron::parse(" 1  2 3 4 * ").unwrap().as_str(), "1 2 3 4 *");
    }

    #[test]
    fn days_have_the_dates_of_the_calendar() {
        for (day, expected) in
            [(0, (1, 1)), (58, (2, 28)), (59, (3, 1)), (11_016, (2, 29)), (19_782, (2, 29)), (47_540, (2, 28))]
        {
            assert_eq!(month_and_day(day), expected, "{day}");
        }
        assert_eq!(month_and_day(47_541), (3, 1), "2100 is no leap year");
    }
}
