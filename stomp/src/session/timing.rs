//! When a message is to be served: `priority`, and the headers for delays that other brokers have.

use super::{SessionError, commands::bad_header};
use crate::{
    frame::Frame,
    lane::{MAX_PRIORITY, USUAL_PRIORITY},
    limits::MAX_DELAY_MS,
};

/// ActiveMQ Classic's and Artemis's, and that of RabbitMQ's delayed exchanges; the first that is there counts.
const DELAYS: [&str; 2] = ["AMQ_SCHEDULED_DELAY", "x-delay"];

/// 0 to 9; what is beyond counts as 9, since RabbitMQ's may be more.
pub(super) fn priority(frame: &Frame) -> Result<u8, SessionError> {
    let Some(value) = frame.headers.get("priority") else { return Ok(USUAL_PRIORITY) };
    match value.trim().parse::<u64>() {
        // Cut to fit, so the conversion can't fail.
        Ok(priority) => Ok(u8::try_from(priority).unwrap_or(MAX_PRIORITY).min(MAX_PRIORITY)),
        Err(_) => Err(bad_header(frame, "priority", value, "it is a number from 0 to 9, and higher ones come first")),
    }
}

/// How long the message is to wait; less than nothing is nothing.
pub(super) fn delay_ms(frame: &Frame) -> Result<u64, SessionError> {
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
}
