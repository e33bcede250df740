//! When timeouts are judged, on a machine that may have stopped the process for a while.
//!
//! A loop that wakes up long after its time was not running: the process was suspended, or something kept it busy. What
//! clients and peers sent meanwhile waits in sockets and queues, and their tasks need a moment to bring it here. Judged at
//! once, all of them would be taken for silent. So the judgement is put off once, for that moment.

/// Lateness, ms, that an ordinary busy machine does not explain.
const LATE_MS: u64 = 1_000;

/// The moment that inputs get to arrive, ms.
const CATCH_UP_MS: u64 = 500;

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// Inputs are let in first until then.
    until: Option<u64>,
}

impl Alarm {
    /// When to wake up for a deadline.
    pub(super) fn wake_at(&self, deadline: u64) -> u64 {
        self.until.map_or(deadline, |until| deadline.max(until))
    }

    /// Whether the time has come to judge who missed the deadline.
    pub(super) fn rings(&mut self, now: u64, deadline: u64) -> bool {
        match self.until {
            _ if now < deadline => {
                self.until = None;
                false
            }
            None if now - deadline >= LATE_MS => {
                self.until = Some(now + CATCH_UP_MS);
                false
            }
            Some(until) if now < until => false,
            _ => {
                self.until = None;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_in_time_when_the_loop_is_in_time() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.wake_at(100), 100);
        assert!(!alarm.rings(99, 100));
        assert!(alarm.rings(100, 100) && alarm.rings(100 + LATE_MS - 1, 100));
        assert_eq!(alarm.wake_at(100), 100);
    }

    #[test]
    fn after_a_long_absence_inputs_come_first_but_not_for_ever() {
        let mut alarm = Alarm::default();
        let back = 100 + LATE_MS;
        assert!(!alarm.rings(back, 100));
        assert_eq!(alarm.wake_at(100), back + CATCH_UP_MS);
        assert!(!alarm.rings(back + CATCH_UP_MS - 1, 100));
        assert!(alarm.rings(back + CATCH_UP_MS, 100), "who is silent even now is judged");
        // Late again at once: a loop that is always late must judge now and then.
        assert!(!alarm.rings(back + 10_000, 100));
        assert!(alarm.rings(back + 10_000 + CATCH_UP_MS, 100));
    }

    #[test]
    fn inputs_that_move_the_deadline_end_the_delay() {
        let mut alarm = Alarm::default();
        assert!(!alarm.rings(100 + LATE_MS, 100));
        assert!(!alarm.rings(110 + LATE_MS, 50_000));
        assert_eq!(alarm.wake_at(50_000), 50_000);
    }
}
