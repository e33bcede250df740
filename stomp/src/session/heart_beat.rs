//! Heart-beats in both directions.

use crate::frame::{Command, Headers};

use super::{SessionConfig, SessionError};

/// Silence of so many negotiated intervals is taken for death: clients' timers are not exact, and networks pause.
const TOLERANCE: u64 = 2;

/// What one side offers: the shortest interval at which it can send, and the one at which it wants to receive, in ms;
/// 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) send_ms: u64,
    pub(super) want_ms: u64,
}

impl Offer {
    /// The `heart-beat` header of a CONNECT frame; without one, neither is offered.
    pub(super) fn of_client(command: Command, headers: &Headers) -> Result<Self, SessionError> {
        let Some(value) = headers.get("heart-beat") else { return Ok(Self::default()) };
        let number = |text: &str| text.trim().parse::<u32>().ok().map(u64::from);
        value
            .split_once(',')
            .and_then(|(send, want)| Some(Self { send_ms: number(send)?, want_ms: number(want)? }))
            .ok_or_else(|| SessionError::BadHeader {
                command,
                header: "heart-beat",
                value: value.chars().take(48).collect(),
                expected: "it is two numbers of milliseconds, such as `10000,10000`",
            })
    }

    pub(super) fn of_server(config: &SessionConfig) -> Self {
        Self { send_ms: config.heart_beat_send_ms.into(), want_ms: config.heart_beat_want_ms.into() }
    }
}

/// The beats of one session. Times are ms of the monotonic clock.
pub(super) struct HeartBeat {
    /// The negotiated interval of incoming data.
    expect_every: Option<u64>,
    received_at: u64,
    /// The client is not read from: its silence says nothing.
    paused: bool,
    /// How often outgoing data is looked for: half the negotiated interval, so that a pause that begins right after one
    /// look is ended by the look after the next, within the interval.
    look_every: Option<u64>,
    look_at: u64,
    /// All bytes written at the last look.
    written: u64,
}

impl HeartBeat {
    /// None in either direction.
    pub(super) fn none() -> Self {
        Self { expect_every: None, received_at: 0, paused: false, look_every: None, look_at: u64::MAX, written: 0 }
    }

    /// The slower of offer and wish counts, in each direction.
    pub(super) fn negotiate(now_ms: u64, server: Offer, client: Offer) -> Self {
        let interval = |can: u64, want: u64| (can > 0 && want > 0).then_some(can.max(want));
        let look_every = interval(server.send_ms, client.want_ms).map(|every| (every / 2).max(1));
        Self {
            expect_every: interval(client.send_ms, server.want_ms),
            received_at: now_ms,
            paused: false,
            look_every,
            look_at: look_every.map_or(u64::MAX, |every| now_ms + every),
            written: 0,
        }
    }

    /// Any byte is a sign of life.
    pub(super) fn received(&mut self, now_ms: u64) {
        self.received_at = now_ms;
    }

    /// The client is not read from until it is told otherwise; then the count begins anew.
    pub(super) fn pause(&mut self, now_ms: u64, paused: bool) {
        self.paused = paused;
        self.received_at = now_ms;
    }

    /// The client is not expected to send any more.
    pub(super) fn expect_nothing(&mut self) {
        self.expect_every = None;
    }

    /// The error to end with when nothing came for too long.
    pub(super) fn check(&self, now_ms: u64) -> Result<(), SessionError> {
        let silent_ms = now_ms.saturating_sub(self.received_at);
        match self.expect_every {
            Some(interval_ms) if !self.paused && silent_ms >= interval_ms * TOLERANCE => {
                Err(SessionError::HeartBeatTimeout { silent_ms, interval_ms })
            }
            _ => Ok(()),
        }
    }

    /// Whether to send a beat now, given the count of all bytes written and how many of them wait for the socket. While
    /// some wait, a beat would only queue up behind them.
    pub(super) fn is_due(&mut self, now_ms: u64, written: u64, waiting: u64) -> bool {
        let Some(every) = self.look_every.filter(|_| now_ms >= self.look_at) else { return false };
        self.look_at = now_ms + every;
        let idle = written == self.written && waiting == 0;
        self.written = written + u64::from(idle);
        idle
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> u64 {
        let expect_every = self.expect_every.filter(|_| !self.paused);
        let dead_at = expect_every.map_or(u64::MAX, |every| self.received_at.saturating_add(every * TOLERANCE));
        dead_at.min(self.look_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(send_ms: u64, want_ms: u64) -> Offer {
        Offer { send_ms, want_ms }
    }

    #[test]
    fn either_side_can_rule_a_direction_out() {
        let beat = HeartBeat::negotiate(0, offer(1000, 10_000), offer(0, 0));
        assert_eq!(beat.deadline(), u64::MAX);
        let beat = HeartBeat::negotiate(0, offer(0, 0), offer(1000, 1000));
        assert_eq!(beat.deadline(), u64::MAX);
    }

    #[test]
    fn incoming_silence_is_tolerated_for_two_intervals_of_the_slower_wish() {
        let mut beat = HeartBeat::negotiate(100, offer(0, 10_000), offer(500, 0));
        assert_eq!(beat.deadline(), 20_100);
        assert!(beat.check(20_099).is_ok());
        assert_eq!(beat.check(20_100), Err(SessionError::HeartBeatTimeout { silent_ms: 20_000, interval_ms: 10_000 }));
        beat.received(5_000);
        assert!(beat.check(20_100).is_ok());
        beat.expect_nothing();
        assert_eq!((beat.deadline(), beat.check(u64::MAX)), (u64::MAX, Ok(())));
    }

    #[test]
    fn who_is_not_read_from_is_not_silent_and_the_count_begins_anew_after_that() {
        let mut beat = HeartBeat::negotiate(0, offer(0, 10_000), offer(500, 0));
        beat.pause(15_000, true);
        assert_eq!((beat.deadline(), beat.check(90_000)), (u64::MAX, Ok(())));
        beat.pause(90_000, false);
        assert_eq!((beat.deadline(), beat.check(109_999)), (110_000, Ok(())));
        assert!(beat.check(110_000).is_err());
    }

    #[test]
    fn no_pause_between_writes_is_longer_than_the_interval() {
        // Data at every possible moment after the start, then silence: the first beat comes within one interval of it.
        for data_at in 0..=100 {
            let mut beat = HeartBeat::negotiate(0, offer(10, 0), offer(0, 100));
            let (mut written, mut last) = (0, 0);
            for now in 1..=400 {
                if now == data_at {
                    written += 50;
                    last = now;
                }
                if now == beat.deadline() && beat.is_due(now, written, 0) {
                    written += 1;
                    last = now;
                }
                assert!(now - last <= 100, "data at {data_at}, silent from {last} to {now}");
            }
        }
    }

    #[test]
    fn a_client_that_does_not_read_gets_no_beats_piled_up() {
        let mut beat = HeartBeat::negotiate(0, offer(10, 0), offer(0, 100));
        assert!(!beat.is_due(50, 0, 1));
        assert!(beat.is_due(100, 0, 0));
        assert!(!beat.is_due(149, 1, 0));
    }

    #[test]
    fn the_header_is_two_numbers() {
        let parse = |value: &str| {
            Offer::of_client(Command::Connect, &[("heart-beat", value)].into_iter().collect()).map_err(drop)
        };
        assert_eq!(parse("0,0"), Ok(offer(0, 0)));
        assert_eq!(parse("4294967295, 7"), Ok(offer(4_294_967_295, 7)));
        for bad in ["", "1", "1,", "a,b", "-1,5", "1,2,3", "4294967296,0"] {
            assert_eq!(parse(bad), Err(()), "{bad}");
        }
    }
}
