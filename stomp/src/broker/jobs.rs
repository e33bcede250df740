//! Jobs whose time has come are carried out by whoever dispatches them: see [`crate::schedule`].
//!
//! A job's message and what follows are published first; once they are kept, the job is removed. Meanwhile it is noted as being
//! carried out, so this node does not do it twice; another one that takes over in between does.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Dot, Entry, Now, RangeSet, Unit};
use rhizomq_net::PublishId;

use super::Broker;
use crate::{
    destination::Destination,
    expiry,
    lane::{self, JobName},
    schedule::{Job, ask::JobId},
    session::Send,
};

/// Jobs that are carried out at a time.
const MAX_FIRING: usize = 64;
/// Between two looks at jobs that are due and that others are to carry out, or that could not be, ms.
const LOOK_MS: u64 = 500;
/// The clock on the wall may be set: it is looked at this often, ms.
const CLOCK_MS: u64 = 10_000;

/// See the module docs.
#[derive(Default)]
pub(super) struct Jobs {
    firing: BTreeMap<PublishId, (Dot, Vec<Send>)>,
    busy: BTreeSet<Dot>,
    /// What can't be carried out: damaged, or of another version. Left alone until something arrives.
    left_alone: BTreeSet<Dot>,
    /// When to look, on the monotonic clock.
    at: u64,
}

impl Jobs {
    pub(super) fn deadline(&self) -> u64 {
        self.at
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.firing.len() + self.busy.len() + self.left_alone.len()
    }
}

impl Broker {
    /// What is kept of a job that begins or goes on.
    pub(super) fn job_entry(&self, now: Now, job: &Job, send: &Send) -> Entry {
        let inbox = lane::job(send.destination.as_str(), job.due(now.wall_ms), job.chain);
        let head = expiry::with_ttl(&send.head, send.lifetime.ttl_ms);
        let (head, body) = (job.encode(&head), send.body.clone());
        Entry { inboxes: vec![inbox], head, body, persistent: send.persistent }
    }

    /// Messages have come in: there may be a job among them that is due before the others.
    pub(super) fn jobs_arrived(&mut self, now: Now) {
        self.jobs.left_alone.clear();
        let first = self.node.engine().inbox_from(lane::JOBS).and_then(|inbox| lane::read_job(inbox));
        if let Some(name) = first {
            self.jobs.at = self.jobs.at.min(now.mono_ms.saturating_add(name.due.saturating_sub(now.wall_ms)));
        }
    }

    /// Carries out what is due.
    pub(super) fn fire_jobs(&mut self, now: Now) {
        let mut next = now.mono_ms.saturating_add(CLOCK_MS);
        let mut due = Vec::new();
        for inbox in self.node.engine().inboxes_from(lane::JOBS) {
            let Some(name) = lane::read_job(inbox) else { continue };
            if name.due > now.wall_ms {
                next = next.min(now.mono_ms.saturating_add(name.due - now.wall_ms));
                break;
            }
            next = next.min(now.mono_ms.saturating_add(LOOK_MS));
            due.push(inbox.to_owned());
        }
        self.jobs.at = next;
        // Who has strayed from its part does not know what has been fired there.
        if self.drain.is_on() || self.is_retired() || !self.stop.takes_clients() {
            return;
        }
        for inbox in due {
            let Some(name) = lane::read_job(&inbox) else { continue };
            let Ok(destination) = Destination::parse(name.destination) else { continue };
            for segment in self.dispatch.owned_with(&self.node, &inbox) {
                let mut from = 1;
                while self.jobs.firing.len() < MAX_FIRING
                    && let Some(slot) = self.node.engine().next_waiting(&inbox, segment, from)
                {
                    let dot = Dot { segment, slot };
                    let is_taken = self.jobs.busy.contains(&dot) || self.jobs.left_alone.contains(&dot);
                    if !is_taken && !self.node.engine().is_removed(dot) {
                        if self.is_superseded(&inbox, name, dot) || self.job_asks.has_ended(name.chain, dot) {
                            self.fired(now, dot, &[]);
                        } else {
                            self.fire(now, dot, name.chain, &destination);
                        }
                    }
                    let Some(after) = slot.checked_add(1) else { break };
                    from = after;
                }
            }
        }
    }

    /// Whether another job of the same chain waits that comes later, or at the same time and is the greater one. Looks at names
    /// alone.
    fn is_superseded(&self, inbox: &str, name: JobName<'_>, dot: Dot) -> bool {
        if name.chain.is_none() {
            return false;
        }
        let engine = self.node.engine();
        let is_same = |other: &str| {
            let other = lane::read_job(other);
            other.is_some_and(|other| (other.destination, other.chain) == (name.destination, name.chain))
        };
        let later = engine.inboxes_from(lane::JOBS).filter(|other| *other > inbox);
        let waits = |inbox: &str, than: Option<Dot>| {
            engine.inbox_segments(inbox).any(|(segment, _)| {
                let slots = engine.waiting_of(inbox, segment).difference(&engine.removed_slots(segment));
                slots.last().is_some_and(|slot| than.is_none_or(|than| Dot { segment, slot } > than))
            })
        };
        later.filter(|other| is_same(other)).any(|other| waits(other, None)) || waits(inbox, Some(dot))
    }

    fn fire(&mut self, now: Now, dot: Dot, chain: Option<u64>, destination: &Destination) {
        let message = match self.node.engine().message(dot) {
            Ok(message) => message,
            Err(error) => {
                self.jobs.left_alone.insert(dot);
                return self.node.report_damage(now, dot, &error.to_string());
            }
        };
        let read = message.and_then(|message| Some((Job::decode(&message.head)?, message)));
        let Some(((mut job, head), message)) = read else {
            self.jobs.left_alone.insert(dot);
            return;
        };
        job.chain = Some(JobId::of(chain, dot).0);
        // What is over for good is not repeated any more.
        if expiry::is_over(&head, now.wall_ms) {
            return self.fired(now, dot, &[]);
        }
        let (is_sent, follows) = job.fire(now.wall_ms);
        let (destination, persistent) = (destination.clone(), message.persistent);
        let (body, priority) = (message.body, job.priority);
        let (head, lifetime) = expiry::take_lifetime(&head);
        // Each time it is a message of its own, that nobody has sent before.
        let (delay_ms, schedule, duplicate) = (0, None, None);
        let send = Send { destination, head, body, persistent, lifetime, priority, delay_ms, schedule, duplicate };
        let mut entries: Vec<_> = follows.iter().map(|next| self.job_entry(now, next, &send)).collect();
        let mut topics = Vec::new();
        if is_sent {
            let mut unit = vec![send];
            self.stamp(now, &mut unit);
            self.set_ends(now, &mut unit);
            let (sent, to_topics) = self.route(now, unit);
            entries.extend(sent);
            topics = to_topics;
        }
        if entries.is_empty() {
            return self.fired(now, dot, &topics);
        }
        // What is refused is tried again at the next look.
        if let Ok(publish) = self.node.publish(now, Unit { entries, removals: Vec::new() }) {
            self.jobs.busy.insert(dot);
            self.jobs.firing.insert(publish, (dot, topics));
        }
    }

    /// A unit is kept, or refused, perhaps that of a job.
    pub(super) fn settle_job(&mut self, now: Now, publish: PublishId, is_kept: bool) {
        let Some((dot, topics)) = self.jobs.firing.remove(&publish) else { return };
        self.jobs.busy.remove(&dot);
        if is_kept {
            self.fired(now, dot, &topics);
            self.jobs.at = now.mono_ms;
        }
    }

    fn fired(&mut self, now: Now, dot: Dot, topics: &[Send]) {
        self.node.remove_all(now, dot.segment, &RangeSet::from_range(dot.slot, dot.slot));
        topics.iter().for_each(|send| self.fan_out(send));
    }
}
