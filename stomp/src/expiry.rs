//! When a message expires: by what its sender says, in either of the ways that brokers have for it, and by policy.
//!
//! The stored header section has the time, as `expires` in ms since 1970. From then on the message is not delivered any
//! more: by the clock of the node that dispatches it, and by that of the node that writes it to a client.

use bytes::Bytes;

use crate::frame::{edit_stored_head, stored_header};

/// The header that says it.
pub(crate) const EXPIRES: &str = "expires";
/// The header that says it of each time that a message is sent.
const EXPIRATION: &str = "expiration";

/// What a SEND says about the end of its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// ActiveMQ's `expires`: the time, in ms since 1970.
    pub expires: Option<u64>,
    /// RabbitMQ's `expiration`: ms to live.
    pub ttl_ms: Option<u64>,
}

impl Lifetime {
    /// The time at which a message that is taken in now expires; the earliest of what its sender and the policy say.
    pub(crate) fn end(self, wall_ms: u64, policy_ttl_ms: Option<u64>) -> Option<u64> {
        let after = |ttl_ms: Option<u64>| ttl_ms.map(|ttl_ms| wall_ms.saturating_add(ttl_ms));
        [self.expires, after(self.ttl_ms), after(policy_ttl_ms)].into_iter().flatten().min()
    }
}

/// The section to store for a message that expires then.
pub(crate) fn with_end(stored_head: &Bytes, end: u64) -> Bytes {
    edit_stored_head(stored_head, &[EXPIRES], &[(EXPIRES, &end.to_string())])
}

/// The section to store for a message that lives so long from each time that it is sent: see [`crate::schedule`].
pub(crate) fn with_ttl(stored_head: &Bytes, ttl_ms: Option<u64>) -> Bytes {
    let Some(ttl_ms) = ttl_ms else { return stored_head.clone() };
    edit_stored_head(stored_head, &[EXPIRATION], &[(EXPIRATION, &ttl_ms.to_string())])
}

/// What [`with_ttl`] wrote, and an end that holds whenever the message is sent; and the section without the former.
pub(crate) fn take_lifetime(stored_head: &Bytes) -> (Bytes, Lifetime) {
    let ttl_ms = stored_header(stored_head, EXPIRATION).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let lifetime = Lifetime { expires: end_of(stored_head), ttl_ms };
    (edit_stored_head(stored_head, &[EXPIRATION], &[]), lifetime)
}

/// When a stored message expires.
pub(crate) fn end_of(stored_head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(stored_header(stored_head, EXPIRES)?).ok()?;
    // Messages from before this was understood may say anything; nought is how ActiveMQ says never.
    text.parse().ok().filter(|end| *end > 0)
}

/// Whether a stored message is over.
pub(crate) fn is_over(stored_head: &[u8], wall_ms: u64) -> bool {
    end_of(stored_head).is_some_and(|end| wall_ms >= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_end_counts() {
        let all = Lifetime { expires: Some(5_000), ttl_ms: Some(3_000) };
        assert_eq!(all.end(1_000, Some(2_000)), Some(3_000));
        assert_eq!(all.end(1_000, None), Some(4_000));
        assert_eq!(all.end(3_000, Some(u64::MAX)), Some(5_000));
        assert_eq!(Lifetime::default().end(1_000, None), None);
        assert_eq!(Lifetime { ttl_ms: Some(u64::MAX), ..Lifetime::default() }.end(1_000, None), Some(u64::MAX));
    }

    #[test]
    fn a_time_to_live_is_taken_out_as_it_was_put_in() {
        let head = Bytes::from_static(b"a:b\nexpires:7\n");
        let kept = with_ttl(&head, Some(500));
        assert_eq!(take_lifetime(&kept), (head.clone(), Lifetime { expires: Some(7), ttl_ms: Some(500) }));
        assert_eq!(take_lifetime(&with_ttl(&head, None)).1, Lifetime { expires: Some(7), ttl_ms: None });
    }

    #[test]
    fn a_stored_end_is_read_again_and_what_is_none_is_no_end() {
        let head = with_end(&Bytes::from_static(b"a:b\nexpires:7\n"), 1_234);
        assert_eq!((&head[..], end_of(&head)), (&b"a:b\nexpires:1234\n"[..], Some(1_234)));
        assert!(!is_over(&head, 1_233) && is_over(&head, 1_234));
        for strange in ["expires:\n", "expires:0\n", "expires:-1\n", "expires:soon\n", "a:b\n", ""] {
            assert_eq!(end_of(strange.as_bytes()), None, "{strange}");
        }
    }
}
