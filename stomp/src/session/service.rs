//! How a client wants a subscription to be served.

use super::{Service, SessionError, commands::bad_header};
use crate::{destination::Kind, frame::Frame, limits::Limits};

/// RabbitMQ's, and ActiveMQ Classic's; the first that is there counts.
const PREFETCH: &str = "prefetch-count";
const CLASSIC_PREFETCH: &str = "activemq.prefetchSize";

/// Classic's, of a consumer that only looks.
const BROWSER: &str = "browser";

/// Classic's, of a consumer that wants all.
const EXCLUSIVE: &str = "activemq.exclusive";
/// Classic's, of consumers; here only of exclusive ones.
const PRIORITY: &str = "activemq.priority";

/// What a client asks for that subscribes to a destination of this kind.
pub(super) fn service(frame: &Frame, kind: Kind) -> Result<Service, SessionError> {
    let is_set = |header| frame.headers.get(header).filter(|value| value.trim().eq_ignore_ascii_case("true"));
    match (is_set(BROWSER), kind) {
        (None, Kind::Queue) if is_set(EXCLUSIVE).is_some() => Ok(Service::Exclusive { priority: priority(frame)? }),
        (None, _) => Ok(Service::Shared),
        (Some(_), Kind::Queue) => Ok(Service::Browse),
        (Some(value), Kind::Topic) => {
            Err(bad_header(frame, BROWSER, value, "there is nothing in a topic to look through, only in a queue"))
        }
    }
}

fn priority(frame: &Frame) -> Result<i8, SessionError> {
    let Some(value) = frame.headers.get(PRIORITY) else { return Ok(0) };
    let expected = "it is a number from -128 to 127, and the consumer with the highest comes first";
    value.trim().parse().map_err(|_| bad_header(frame, PRIORITY, value, expected))
}

/// How many deliveries may be unacknowledged at a time, if the client says. RabbitMQ's 0 is "no limit": the largest there is.
/// Classic's 0 is for clients that pull, for which STOMP has no frame.
pub(super) fn prefetch(frame: &Frame, limits: &Limits) -> Result<Option<u32>, SessionError> {
    let max = limits.max_prefetch;
    let read = |header, least, expected| {
        let Some(value) = frame.headers.get(header) else { return Ok(None) };
        let digits = value.trim();
        match digits.parse::<u64>() {
            // More than fits is more than there may be.
            Err(_) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(max)),
            Ok(count) if count < least => Err(bad_header(frame, header, value, expected)),
            Ok(0) => Ok(Some(max)),
            // Cut to fit, so the conversion can't fail.
            Ok(count) => Ok(Some(u32::try_from(count).unwrap_or(max).min(max))),
            Err(_) => Err(bad_header(frame, header, value, expected)),
        }
    };
    match read(PREFETCH, 0, "it is a number of messages")? {
        None => read(CLASSIC_PREFETCH, 1, "it is a number of messages, 1 or more: nobody can pull over STOMP"),
        given => Ok(given),
    }
}
