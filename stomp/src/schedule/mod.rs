//! Jobs: messages that are sent again, at times of their own, and messages to topics that are to wait.
//!
//! A job waits in an inbox whose name begins with a NUL and tells when it is due and where its message goes ([`crate::lane::job`]).
//! In front of its stored headers stands a line that says what comes after. Who dispatches it when it is due sends its message as
//! if it had just come in, with the next job, and removes the job once both are kept: so at least once, whatever dies in between.
//!
//! As ActiveMQ Classic has it:
//! - `AMQ_SCHEDULED_PERIOD` ms pass between one time and the next, `AMQ_SCHEDULED_REPEAT` further times (-1: for ever). The
//!   first is after `AMQ_SCHEDULED_DELAY`, and if there is none after the period.
//! - `AMQ_SCHEDULED_CRON` says when; each time delay, period and repeat follow from there if they are given.
//!
//! Times that were missed, for all nodes were down, are not made up for at once: the next is at least a period later.
//!
//! Both sides of a cut, or one who takes over from one who died, may each carry out a job and write the next one: then its message comes
//! twice that time. What follows each other is a *chain*; where two jobs of one are known, the earlier one is dropped when its time comes,
//! and so the two chains become one.

pub(crate) mod ask;
mod cron;

use std::fmt;

use bytes::Bytes;

pub(crate) use cron::Cron;

use crate::{
    frame::{prefix_head, take_prefix},
    lane::Lane,
    spread,
};

/// The name of the line in front.
const LINE: &str = "scheduled";

/// What a SEND asks for besides its delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// ms; 0 if it is not repeated.
    pub(crate) period_ms: u64,
    /// Further times; `None`: for ever.
    pub(crate) repeat: Option<u64>,
    pub(crate) cron: Option<Cron>,
}

/// Once, and not by the calendar.
impl Default for Schedule {
    fn default() -> Self {
        Self { period_ms: 0, repeat: Some(0), cron: None }
    }
}

/// Period, repetitions (`-` for ever) and cron entry.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repeat = self.repeat.map_or_else(|| "-".to_owned(), |left| left.to_string());
        write!(f, "{} {repeat} {}", self.period_ms, self.cron.as_ref().map_or("-", Cron::as_str))
    }
}

/// One that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Which ones follow each other; the first is not told yet. The name of its inbox has it, and its headers do not.
    pub(crate) chain: Option<u64>,
    pub(crate) priority: u8,
    /// When it is due, in ms since 1970; its inbox may be a little later.
    pub(crate) at: u64,
    /// For what follows a time of the cron entry.
    pub(crate) delay_ms: u64,
    pub(crate) schedule: Schedule,
}

impl Job {
    /// The first of a message that came in at `now_ms`. `None` if the cron entry has no time any more.
    pub(crate) fn first(priority: u8, now_ms: u64, delay_ms: u64, schedule: Schedule) -> Option<Self> {
        let wait = if delay_ms > 0 { delay_ms } else { schedule.period_ms };
        let at = match &schedule.cron {
            Some(cron) => cron.after(now_ms)?,
            None => now_ms.saturating_add(wait),
        };
        Some(Self { chain: None, priority, at, delay_ms, schedule })
    }

    /// What happens when it is due: whether its message is sent now, and which jobs follow.
    pub(crate) fn fire(&self, now_ms: u64) -> (bool, Vec<Self>) {
        let Schedule { period_ms, repeat, cron } = &self.schedule;
        if let Some(cron) = cron {
            // From the time that it was meant for, unless that is long ago.
            let next = cron.after(self.at.max(now_ms.saturating_sub(60_000))).map(|at| Self { at, ..self.clone() });
            let is_plain = self.delay_ms == 0 && *repeat == Some(0);
            let schedule = Schedule { cron: None, ..self.schedule.clone() };
            // Of each time of the cron entry comes a chain of its own, the same whoever begins it.
            let chain = self.chain.map(|chain| spread::hash_of(&format!("{chain:x} {}", self.at)));
            let follows = Self { chain, at: self.at.saturating_add(self.delay_ms), schedule, ..self.clone() };
            let follows = if is_plain { None } else { Some(follows) };
            return (is_plain, next.into_iter().chain(follows).collect());
        }
        let left = match repeat {
            None => None,
            Some(0) => return (true, Vec::new()),
            Some(left) => Some(left - 1),
        };
        let due = self.at.saturating_add(*period_ms);
        let at = if due > now_ms { due } else { now_ms.saturating_add(*period_ms) };
        (true, vec![Self { at, schedule: Schedule { repeat: left, ..self.schedule.clone() }, ..self.clone() }])
    }

    /// The time by which its inbox is called: with those of about the same time it shares one.
    pub(crate) fn due(&self, now_ms: u64) -> u64 {
        Lane::delayed(self.priority, now_ms, self.at.saturating_sub(now_ms)).due().unwrap_or(self.at)
    }

    /// Puts it in front of the headers of its message.
    pub(crate) fn encode(&self, stored_head: &[u8]) -> Bytes {
        let line = format!("1 {} {} {} {}", self.priority, self.at, self.delay_ms, self.schedule);
        prefix_head(LINE, &line, stored_head)
    }

    /// The job and the headers of its message; `None` for what no version that this program knows has written.
    pub(crate) fn decode(head: &Bytes) -> Option<(Self, Bytes)> {
        let (line, head) = take_prefix(LINE, head)?;
        let mut words = line.strip_prefix("1 ")?.splitn(6, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (priority, at, delay_ms, period_ms) = (u8::try_from(number()?).ok()?, number()?, number()?, number()?);
        let repeat = match words.next()? {
            "-" => None,
            left => Some(left.parse().ok()?),
        };
        let cron = match words.next()? {
            "-" => None,
            text => Some(Cron::parse(text)?),
        };
        Some((Self { chain: None, priority, at, delay_ms, schedule: Schedule { period_ms, repeat, cron } }, head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(period_ms: u64, repeat: Option<u64>) -> Schedule {
        Schedule { period_ms, repeat, cron: None }
    }

    /// When a message is sent, as long as each job is looked at `late` ms after it is due.
    fn times(first: Job, late: u64, most: usize) -> Vec<u64> {
        let (mut jobs, mut times) = (vec![first], Vec::new());
        while let Some(place) = (0..jobs.len()).min_by_key(|place| jobs[*place].at) {
            let job = jobs.swap_remove(place);
            let (is_sent, next) = job.fire(job.at + late);
            jobs.extend(next);
            times.extend(is_sent.then_some(job.at));
            if times.len() == most {
                break;
            }
        }
        times
    }

    #[test]
    fn a_message_comes_again_as_often_as_it_is_to_and_then_no_more() {
        let job = Job::first(4, 1_000, 500, schedule(200, Some(3))).unwrap();
        assert_eq!(times(job, 10, 99), [1_500, 1_700, 1_900, 2_100]);
        let job = Job::first(4, 1_000, 0, schedule(200, Some(1))).unwrap();
        assert_eq!(times(job, 0, 99), [1_200, 1_400], "the first after a period, if nothing else is said");
        let job = Job::first(4, 1_000, 0, schedule(200, None)).unwrap();
        assert_eq!(times(job.clone(), 0, 50).len(), 50);
        assert_eq!(times(job, 1_000, 3), [1_200, 2_400, 3_600], "what was missed does not come all at once");
        let job = Job::first(4, 1_000, 700, schedule(0, Some(0))).unwrap();
        assert_eq!(times(job, 0, 99), [1_700]);
    }

    #[test]
    fn cron_says_when_and_the_others_what_follows_each_time() {
        const HOUR: u64 = 3_600_000;
        let hourly = |period_ms, repeat| Schedule { cron: Cron::parse("0 * * * *"), ..schedule(period_ms, repeat) };
        let job = Job::first(4, 10, 0, hourly(0, Some(0))).unwrap();
        assert_eq!(times(job, 30, 3), [HOUR, 2 * HOUR, 3 * HOUR]);
        let job = Job::first(4, 10, 100, hourly(1_000, Some(2))).unwrap();
        let each = |hour: u64| [100, 1_100, 2_100].map(|after| hour * HOUR + after);
        assert_eq!(times(job, 0, 6), [each(1), each(2)].concat());
        // After a long time nobody was there: on time again.
        let job = Job::first(4, 10, 0, hourly(0, Some(0))).unwrap();
        assert_eq!(job.fire(10 * HOUR + HOUR / 2).1[0].at, 11 * HOUR);
    }

    #[test]
    fn a_job_survives_in_the_headers_of_its_message() {
        let head = Bytes::from_static(b"a:b\n");
        for schedule in [
            schedule(5, Some(7)),
            schedule(1, None),
            Schedule { cron: Cron::parse("*/5 1,2 3-4 * 5"), ..schedule(0, Some(0)) },
        ] {
            let job = Job { chain: None, priority: 9, at: 1 << 40, delay_ms: 3, schedule };
            assert_eq!(Job::decode(&job.encode(&head)), Some((job, head.clone())));
        }
        for line in ["", "2 4 1 1 1 1 -", "1 4 1 1 1 1", "1 4 1 1 x 1 -", "1 400 1 1 1 1 -", "1 4 1 1 1 1 * *"] {
            assert_eq!(Job::decode(&prefix_head(LINE, line, &head)), None, "{line}");
        }
        assert_eq!(Job::decode(&head), None);
    }
}
