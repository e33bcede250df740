//! What operators ask about jobs ([`crate::schedule`]): which ones wait, and that one is not to come any more.
//!
//! Jobs are on the disks of their holders alone, so all linked nodes are asked, and each tells what it has. Of what several have
//! the later job of a chain counts, as when it is carried out. To remove one takes two questions: who is meant by these digits,
//! and then its end.
//!
//! Every node consumes what it has of a chain that is to end, whoever dispatches it. While one is just being carried out the next
//! one may come in after that, so for a minute all that comes in of the chain is consumed too, and a peer whose link comes up is
//! told. Who is out of reach for longer goes on with a job that it has carried out meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Dot, NodeId, Now, RangeSet, SegmentId};

use super::{Broker, Output};
use crate::{
    lane::{self, JobName},
    schedule::{
        Job,
        ask::{ID_DIGITS, JobId, JobsMsg, Waiting},
    },
    status::{JobStatus, JobsStatus},
};

/// A linked node that does not answer within so many ms is not waited for.
const PATIENCE_MS: u64 = 3_000;
/// Questions of operators at a time.
const MAX_ASKS: usize = 64;
/// Jobs that one node tells of, the first ones that are due.
const MAX_TOLD: usize = 1_000;
/// Jobs of all nodes in one answer.
const MAX_LISTED: usize = 10_000;
/// For so many ms what comes in of an ended chain is consumed.
const ENDED_MS: u64 = 60_000;
/// Chains of which that is remembered; of more the first is forgotten.
const MAX_ENDED: usize = 1_024;
/// Between two looks at what has come in meanwhile, ms.
const LOOK_MS: u64 = 500;

/// A question of an operator; never used twice in a process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobAskId(pub u64);

/// What operators ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobQuestion {
    /// Which jobs wait?
    List,
    /// The one whose id begins with these hex digits is not to come any more.
    Remove(String),
}

/// Why nothing came of a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// It can't be one.
    #[error(
        "`{0}` is no id of a job: {ID_DIGITS} hex digits, or as many of the first as fit no other; `rhizomq job list` shows them"
    )]
    NoId(String),
    /// Nobody knows it.
    #[error("no job's id begins with {called}; `rhizomq job list` shows those that wait{}", not_heard(.unheard))]
    Unknown {
        /// What it was called.
        called: String,
        /// Nodes that were not heard, by id.
        unheard: Vec<String>,
    },
    /// Several are called so.
    #[error("the ids of {} jobs begin with {called}, {} among them: give more digits", .ids.len(), .ids.iter().take(3).cloned().collect::<Vec<_>>().join(", "))]
    Several {
        /// What they were called.
        called: String,
        /// Their whole ids.
        ids: Vec<String>,
    },
    /// Too many ask.
    #[error("{MAX_ASKS} questions about jobs wait for their answers: ask again in some seconds")]
    Busy,
}

fn not_heard(nodes: &[String]) -> String {
    if nodes.is_empty() { String::new() } else { format!(" (not heard: {})", nodes.join(", ")) }
}

/// See the module docs.
#[derive(Default)]
pub(super) struct JobAsks {
    last: u64,
    /// By the number that nodes answer to.
    open: BTreeMap<u64, Ask>,
    /// Chains that have ended here, and until when that is remembered.
    ended: BTreeMap<JobId, u64>,
    /// Something has come in since: when to look whether it is of these.
    look_at: Option<u64>,
}

/// A question that nodes are to answer.
struct Ask {
    id: JobAskId,
    step: Step,
    missing: BTreeSet<NodeId>,
    unheard: BTreeSet<NodeId>,
    until: u64,
    /// The latest of each chain, and who has it.
    found: BTreeMap<JobId, (Waiting, BTreeSet<NodeId>)>,
    more: u64,
}

enum Step {
    List,
    /// Which one is called so?
    Find(String),
    /// This is to end.
    End(Box<JobStatus>),
}

impl JobAsks {
    /// When the broker is to look at this.
    pub(super) fn deadline(&self) -> u64 {
        let open = self.open.values().map(|ask| ask.until).min();
        open.unwrap_or(u64::MAX).min(self.look_at.unwrap_or(u64::MAX))
    }

    /// Whether the job in this place is of a chain that has ended.
    pub(super) fn has_ended(&self, chain: Option<u64>, dot: Dot) -> bool {
        !self.ended.is_empty() && self.ended.contains_key(&JobId::of(chain, dot))
    }

    /// Messages have come in.
    pub(super) fn arrived(&mut self, now: Now) {
        self.ended.retain(|_, until| *until > now.mono_ms);
        if !self.ended.is_empty() {
            self.look_at.get_or_insert(now.mono_ms.saturating_add(LOOK_MS));
        }
    }

    fn note_ended(&mut self, now: Now, job: JobId) {
        if self.ended.len() >= MAX_ENDED {
            let first = self.ended.iter().min_by_key(|(_, until)| **until).map(|(job, _)| *job);
            first.into_iter().for_each(|job| _ = self.ended.remove(&job));
        }
        self.ended.insert(job, now.mono_ms.saturating_add(ENDED_MS));
    }
}

impl Ask {
    fn note(&mut self, from: NodeId, jobs: Vec<Waiting>, more: u64) {
        self.more = self.more.max(more);
        for job in jobs {
            if matches!(&self.step, Step::Find(digits) if !job.id.begins(digits)) {
                continue;
            }
            let is_room = self.found.len() < MAX_LISTED;
            match self.found.get_mut(&job.id) {
                Some((known, holders)) if known.dot == job.dot => {
                    holders.insert(from);
                    known.plan = known.plan.take().or(job.plan);
                }
                Some((known, holders)) if (known.due, known.dot) < (job.due, job.dot) => {
                    (*known, *holders) = (job, BTreeSet::from([from]));
                }
                Some(_) => {}
                None if is_room => _ = self.found.insert(job.id, (job, BTreeSet::from([from]))),
                None => self.more += 1,
            }
        }
    }

    fn jobs(&self) -> Vec<JobStatus> {
        let mut jobs: Vec<_> = self.found.values().map(|(job, holders)| status(job, holders)).collect();
        jobs.sort_by(|a, b| (a.next_ms, &a.id).cmp(&(b.next_ms, &b.id)));
        jobs
    }
}

fn status(job: &Waiting, holders: &BTreeSet<NodeId>) -> JobStatus {
    let plan = job.plan.as_ref();
    JobStatus {
        id: job.id.to_string(),
        destination: job.destination.clone(),
        next_ms: job.due,
        readable: plan.is_some(),
        priority: plan.map(|plan| plan.priority),
        period_ms: plan.map(|plan| plan.period_ms).filter(|period| *period > 0),
        repeat: plan.and_then(|plan| plan.repeat),
        cron: plan.and_then(|plan| plan.cron.clone()),
        holders: names(holders),
    }
}

fn names(nodes: &BTreeSet<NodeId>) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

impl Broker {
    /// Asks all nodes within reach about jobs: [`Output::Jobs`] follows.
    ///
    /// # Errors
    /// [`JobError::NoId`] and [`JobError::Busy`]; others come with the output.
    pub fn ask_jobs(&mut self, now: Now, question: JobQuestion) -> Result<JobAskId, JobError> {
        let step = match question {
            JobQuestion::List => Step::List,
            JobQuestion::Remove(called) => {
                let digits = called.to_ascii_lowercase();
                let is_id =
                    (1..=ID_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                if !is_id {
                    return Err(JobError::NoId(called));
                }
                Step::Find(digits)
            }
        };
        if self.job_asks.open.len() >= MAX_ASKS {
            return Err(JobError::Busy);
        }
        let id = JobAskId(self.job_asks.last + 1);
        self.begin_ask(now, id, step, BTreeSet::new());
        self.turn(now);
        Ok(id)
    }

    fn begin_ask(&mut self, now: Now, id: JobAskId, step: Step, mut unheard: BTreeSet<NodeId>) {
        self.job_asks.last += 1;
        let number = self.job_asks.last;
        let prefix = if let Step::Find(digits) = &step { digits.clone() } else { String::new() };
        let ending = match &step {
            Step::End(job) => u64::from_str_radix(&job.id, 16).ok().map(JobId),
            _ => None,
        };
        let question = match ending {
            Some(job) => JobsMsg::End { number, job },
            None => JobsMsg::List { number, prefix: prefix.clone() },
        };
        let missing: BTreeSet<_> = self.node.linked().into_iter().collect();
        missing.iter().for_each(|peer| self.node.send(*peer, &question.encode()));
        let (me, roster) = (self.node.id(), self.node.roster());
        unheard.extend(roster.iter().map(|node| node.id).filter(|node| *node != me && !missing.contains(node)));
        let until = now.mono_ms.saturating_add(PATIENCE_MS);
        let mut ask = Ask { id, step, missing, unheard, until, found: BTreeMap::new(), more: 0 };
        match ending {
            Some(job) => self.end_job(now, job),
            None => {
                let (jobs, more) = self.jobs_here(&prefix);
                ask.note(me, jobs, more);
            }
        }
        self.job_asks.open.insert(number, ask);
        self.finish_ask(now, number);
    }

    /// A peer asks, or answers.
    pub(super) fn handle_jobs_msg(&mut self, now: Now, from: NodeId, payload: &[u8]) {
        match JobsMsg::decode(payload) {
            Ok(JobsMsg::List { number, prefix }) => {
                let (jobs, more) = self.jobs_here(&prefix);
                self.node.send(from, &JobsMsg::Answer { number, jobs, more }.encode());
            }
            Ok(JobsMsg::End { number, job }) => {
                self.end_job(now, job);
                self.node.send(from, &JobsMsg::Answer { number, jobs: Vec::new(), more: 0 }.encode());
            }
            Ok(JobsMsg::Answer { number, jobs, more }) => {
                let ask = self.job_asks.open.get_mut(&number);
                if let Some(ask) = ask.filter(|ask| ask.missing.contains(&from)) {
                    ask.missing.remove(&from);
                    ask.note(from, jobs, more);
                    self.finish_ask(now, number);
                }
            }
            Err(error) => tracing::warn!(peer = %from, "{error}"),
        }
    }

    pub(super) fn job_asks_link_up(&mut self, now: Now, peer: NodeId) {
        let ended = self.job_asks.ended.iter().filter(|(_, until)| **until > now.mono_ms);
        // No question has this number: the answer is passed over.
        let told: Vec<_> = ended.map(|(job, _)| JobsMsg::End { number: 0, job: *job }).collect();
        told.iter().for_each(|message| self.node.send(peer, &message.encode()));
    }

    pub(super) fn job_asks_link_down(&mut self, now: Now, peer: NodeId) {
        let numbers: Vec<_> = self.job_asks.open.keys().copied().collect();
        for number in numbers {
            if let Some(ask) = self.job_asks.open.get_mut(&number)
                && ask.missing.remove(&peer)
            {
                ask.unheard.insert(peer);
                self.finish_ask(now, number);
            }
        }
    }

    /// Who has not answered by now is not waited for; and what has come in of ended chains is consumed.
    pub(super) fn proceed_with_job_asks(&mut self, now: Now) {
        let due = self.job_asks.open.iter().filter(|(_, ask)| ask.until <= now.mono_ms);
        let numbers: Vec<_> = due.map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(ask) = self.job_asks.open.get_mut(&number) {
                ask.unheard.append(&mut ask.missing);
            }
            self.finish_ask(now, number);
        }
        if self.job_asks.look_at.is_some_and(|at| at <= now.mono_ms) {
            self.job_asks.look_at = None;
            self.remove_ended(now);
        }
    }

    /// Goes on once all have answered.
    fn finish_ask(&mut self, now: Now, number: u64) {
        if !self.job_asks.open.get(&number).is_some_and(|ask| ask.missing.is_empty()) {
            return;
        }
        let Some(ask) = self.job_asks.open.remove(&number) else { return };
        let mut jobs = ask.jobs();
        let unheard = names(&ask.unheard);
        let answer = match ask.step {
            Step::List => Ok(JobsStatus { jobs, more: ask.more, unheard }),
            Step::End(job) => Ok(JobsStatus { jobs: vec![*job], more: 0, unheard }),
            Step::Find(called) => match jobs.len() {
                0 => Err(JobError::Unknown { called, unheard }),
                1 => return self.begin_ask(now, ask.id, Step::End(Box::new(jobs.remove(0))), ask.unheard),
                _ => Err(JobError::Several { called, ids: jobs.into_iter().map(|job| job.id).collect() }),
            },
        };
        self.outputs.push_back(Output::Jobs { ask: ask.id, answer });
    }

    /// The first ones that wait on this node's disk whose ids begin so, and how many there are besides.
    fn jobs_here(&self, prefix: &str) -> (Vec<Waiting>, u64) {
        let (mut jobs, mut more) = (Vec::new(), 0);
        for (name, segment, slots) in self.waiting_jobs() {
            for dot in slots.iter().map(|slot| Dot { segment, slot }) {
                if !JobId::of(name.chain, dot).begins(prefix) {
                    continue;
                }
                if jobs.len() == MAX_TOLD {
                    more += 1;
                    continue;
                }
                // What is damaged is reported when it is to be carried out.
                let message = self.node.engine().message(dot).ok().flatten();
                let job = message.and_then(|message| Job::decode(&message.head)).map(|(job, _)| job);
                jobs.push(Waiting::new(name, dot, job));
            }
        }
        (jobs, more)
    }

    /// In the order in which they are due. What a part that left has taken is not this cluster's.
    fn waiting_jobs(&self) -> impl Iterator<Item = (JobName<'_>, SegmentId, RangeSet)> {
        let engine = self.node.engine();
        let gone: BTreeSet<_> = self.node.gone().collect();
        let named = engine.inboxes_from(lane::JOBS).filter_map(|inbox| Some((inbox, lane::read_job(inbox)?)));
        named.flat_map(move |(inbox, name)| {
            let segments: Vec<_> = engine.inbox_segments(inbox).map(|(segment, _)| segment).collect();
            let ours = segments.into_iter().filter(|segment| !gone.contains(&segment.node));
            let waiting = ours.map(|segment| {
                (name, segment, engine.waiting_of(inbox, segment).difference(&engine.removed_slots(segment)))
            });
            waiting.collect::<Vec<_>>()
        })
    }

    fn end_job(&mut self, now: Now, job: JobId) {
        self.job_asks.note_ended(now, job);
        self.remove_ended(now);
    }

    /// Consumes all that is here of chains that have ended.
    fn remove_ended(&mut self, now: Now) {
        let mut all: BTreeMap<SegmentId, RangeSet> = BTreeMap::new();
        for (name, segment, slots) in self.waiting_jobs() {
            for slot in slots.iter().filter(|slot| self.job_asks.has_ended(name.chain, Dot { segment, slot: *slot })) {
                all.entry(segment).or_default().insert(slot);
            }
        }
        all.iter().for_each(|(segment, slots)| self.node.remove_all(now, *segment, slots));
    }
}
