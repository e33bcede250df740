//! When a message is to be served: `priority`, and the headers for delays that other brokers have.

use super::{SessionError, commands::bad_header};
use crate::{
    frame::Frame,
    lane::{MAX_PRIORITY, USUAL_PRIORITY},
    limits::{MAX_DELAY_MS, MIN_PERIOD_MS},
    schedule::{Cron, Schedule},
};

/// ActiveMQ Classic's and Artemis's, and that of RabbitMQ's delayed exchanges; the first that is there counts.
const DELAYS: [&str; 2] = ["AMQ_SCHEDULED_DELAY", "x-delay"];

/// Classic's alone.
const PERIOD: &str = "AMQ_SCHEDULED_PERIOD";
const REPEAT: &str = "AMQ_SCHEDULED_REPEAT";
const CRON: &str = "AMQ_SCHEDULED_CRON";
/// Bytes of a cron entry.
const MAX_CRON_LEN: usize = 255;

/// 0 to 9; what is beyond counts as 9, since RabbitMQ's may be more.
pub(super) fn priority(frame: &Frame) -> Result<u8, SessionError> {
    let Some(value) = frame.headers.get("priority") else { return Ok(USUAL_PRIORITY) };
    match value.trim().parse::<u64>() {
        // Cut to fit, so the conversion can't fail.
        Ok(priority) => Ok(u8::try_from(priority).unwrap_or(MAX_PRIORITY).min(MAX_PRIORITY)),
        Err(_) => Err(bad_header(frame, "priority", value, "it is a number from 0 to 9, and higher ones come first")),
    }
}

/// How long the message is to wait, and whether it comes again.
pub(super) fn schedule(frame: &Frame) -> Result<(u64, Option<Schedule>), SessionError> {
    let delay_ms = delay_ms(frame)?;
    let number = |header| match frame.headers.get(header) {
        None => Ok(0),
        Some(value) => {
            value.trim().parse::<i64>().map_err(|_| bad_header(frame, header, value, "it is a whole number"))
        }
    };
    let (period_ms, repeat) = (u64::try_from(number(PERIOD)?).unwrap_or(0), number(REPEAT)?);
    let bad = |header, expected| {
        let value = frame.headers.get(header).unwrap_or_default();
        Err(bad_header(frame, header, value, expected))
    };
    if (1..MIN_PERIOD_MS).contains(&period_ms) || period_ms > MAX_DELAY_MS {
        return bad(PERIOD, "it is a number of milliseconds, at least 100 and at most ten years");
    }
    if repeat != 0 && period_ms == 0 {
        return bad(REPEAT, "there is no AMQ_SCHEDULED_PERIOD between one time and the next");
    }
    let cron = match frame.headers.get(CRON).map(str::trim).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match Cron::parse(text).filter(|_| text.len() <= MAX_CRON_LEN) {
            Some(cron) => Some(cron),
            None => return bad(CRON, "it is `minute hour day month weekday` in UTC, and must come at some time"),
        },
    };
    if cron.is_none() && repeat == 0 {
        return Ok((if delay_ms > 0 { delay_ms } else { period_ms }, None));
    }
    // Less than nothing is for ever.
    Ok((delay_ms, Some(Schedule { period_ms, repeat: u64::try_from(repeat).ok(), cron })))
}

/// Less than nothing is nothing.
fn delay_ms(frame: &Frame) -> Result<u64, SessionError> {
    for header in DELAYS {
        let Some(value) = frame.headers.get(header) else { continue };
        let fail = |expected| Err(bad_header(frame, header, value, expected));
        return match value.trim().parse::<i64>() {
            Ok(delay) if delay.unsigned_abs() > MAX_DELAY_MS && delay > 0 => fail("it is ten years at most"),
            Ok(delay) => Ok(u64::try_from(delay).unwrap_or(0)),
            Err(_) => fail("it is a number of milliseconds"),
        };
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Command;

    fn frame(headers: &[(&str, &str)]) -> Frame {
        Frame::new(Command::Send, headers.iter().copied())
    }

    #[test]
    fn priorities_are_numbers_and_end_at_9() {
        for (value, expected) in [("0", 0), (" 4 ", 4), ("9", 9), ("10", 9), ("255", 9), ("99999999999", 9)] {
            assert_eq!(priority(&frame(&[("priority", value)])), Ok(expected));
        }
        assert_eq!(priority(&frame(&[])), Ok(4));
        for value in ["", "high", "-1", "4.5"] {
            assert!(priority(&frame(&[("priority", value)])).is_err(), "{value}");
        }
    }

    #[test]
    fn delays_are_whole_milliseconds_within_bounds() {
        assert_eq!(delay_ms(&frame(&[])), Ok(0));
        assert_eq!(delay_ms(&frame(&[("x-delay", "5000")])), Ok(5000));
        assert_eq!(delay_ms(&frame(&[("x-delay", "5"), ("AMQ_SCHEDULED_DELAY", "7")])), Ok(7));
        assert_eq!(delay_ms(&frame(&[("x-delay", "-5")])), Ok(0));
        assert_eq!(delay_ms(&frame(&[("x-delay", &MAX_DELAY_MS.to_string())])), Ok(MAX_DELAY_MS));
        for value in ["", "1s", "1.5", &(MAX_DELAY_MS + 1).to_string(), "99999999999999999999"] {
            assert!(delay_ms(&frame(&[("x-delay", value)])).is_err(), "{value}");
        }
    }

    #[test]
    fn repetitions_need_a_period_and_cron_entries_a_time() {
        let read = |headers: &[(&str, &str)]| {
            schedule(&frame(headers)).map(|(delay, again)| (delay, again.map(|one| one.to_string())))
        };
        let again = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[(PERIOD, "500")]), Ok((500, None)), "it comes once, after the period");
        assert_eq!(read(&[(PERIOD, "500"), ("x-delay", "7")]), Ok((7, None)));
        assert_eq!(read(&[(PERIOD, "500"), (REPEAT, "9")]), Ok((0, again("500 9 -"))));
        assert_eq!(read(&[(PERIOD, "500"), (REPEAT, "-1"), ("x-delay", "7")]), Ok((7, again("500 - -"))));
        assert_eq!(read(&[(CRON, "0 * * * *")]), Ok((0, again("0 0 0 * * * *"))));
        assert_eq!(read(&[(CRON, " "), (REPEAT, "0"), (PERIOD, "-5")]), Ok((0, None)));
        for headers in [
            &[(REPEAT, "3")][..],
            &[(PERIOD, "99")],
            &[(PERIOD, "315360000001")],
            &[(PERIOD, "1s")],
            &[(PERIOD, "500"), (REPEAT, "often")],
            &[(CRON, "hourly")],
            &[(CRON, "0 0 31 2 *")],
            &[(CRON, &format!("{} * * * *", ["0"; 200].join(",")))],
        ] {
            assert!(read(headers).is_err(), "{headers:?}");
        }
    }
}
