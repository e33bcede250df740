//! Asking others before a message is taken whose id is not known here.
//!
//! A node that takes such a message asks all that are linked, and waits until each has said that it knows nothing of it, for so
//! long at most. Whoever has the id, or is writing it down, answers at once, and again when it can say on how many disks it is. Whoever is asking for the same id
//! itself goes first if it asked first; if the questions cross, the node with the lower id does.
//!
//! Whoever is out of reach, or does not answer, does not count: when in doubt a message is taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rhizomq_engine::NodeId;

use super::{
    DuplicateId,
    msg::{DuplicatesMsg, Said},
};
use crate::broker::ConnId;

/// A node that does not answer for so many ms is not waited for, and not again until it has answered something.
pub(crate) const PATIENCE_MS: u64 = 2_000;
/// Questions that wait for answers at a time; more wait for these.
const MAX_ASKED: usize = 4_096;
/// Questions or answers in one message.
const CHUNK: usize = 1_024;
/// Questions of other nodes that wait for a second answer; of more the first one is that nothing is known.
const MAX_WAITERS: usize = 65_536;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody knows the id.
    New,
    /// Such a message is on so many disks, or was.
    Known(u32),
}

/// What this node itself knows of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// It is on its disk, or on its way there.
    Here,
    /// Nothing, but messages have come in that are not on its disk: it will be said when they are.
    Unsure,
    /// Nothing.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Asked,
    Decided(Verdict),
}

/// One id of one message. Of the three sets each node is in one at most.
struct Ask {
    conn: ConnId,
    id: DuplicateId,
    stage: Stage,
    /// They have not answered.
    asked: BTreeSet<NodeId>,
    /// They ask, too, and asked first.
    first: BTreeSet<NodeId>,
    /// They have it.
    here: BTreeSet<NodeId>,
}

/// See the module docs.
pub(crate) struct Asks {
    me: NodeId,
    last: u64,
    open: BTreeMap<u64, Ask>,
    by_id: BTreeMap<DuplicateId, BTreeSet<u64>>,
    to_ask: VecDeque<u64>,
    asked: usize,
    /// When patience ends, in that order; some are decided by now.
    timers: VecDeque<(u64, u64)>,
    /// Other nodes that were told that there is more to come, and their numbers.
    waiters: BTreeMap<DuplicateId, BTreeSet<(NodeId, u64)>>,
    waiting: usize,
    /// They have let a question pass.
    silent: BTreeSet<NodeId>,
    questions: BTreeMap<NodeId, Vec<(u64, DuplicateId)>>,
    answers: BTreeMap<NodeId, Vec<(u64, Said)>>,
    /// Connections of which something is decided.
    decided: BTreeSet<ConnId>,
}

impl Asks {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            last: 0,
            open: BTreeMap::new(),
            by_id: BTreeMap::new(),
            to_ask: VecDeque::new(),
            asked: 0,
            timers: VecDeque::new(),
            waiters: BTreeMap::new(),
            waiting: 0,
            silent: BTreeSet::new(),
            questions: BTreeMap::new(),
            answers: BTreeMap::new(),
            decided: BTreeSet::new(),
        }
    }

    /// A connection has sent a message with this id. Its turn to be asked for comes with [`Asks::next`].
    pub(crate) fn begin(&mut self, conn: ConnId, id: DuplicateId) -> u64 {
        self.last += 1;
        let nobody = BTreeSet::new;
        let ask = Ask { conn, id, stage: Stage::Waiting, asked: nobody(), first: nobody(), here: nobody() };
        self.open.insert(self.last, ask);
        self.by_id.entry(id).or_default().insert(self.last);
        self.to_ask.push_back(self.last);
        self.last
    }

    /// The next one to be asked for, if there is room: [`Asks::ask`] is to follow.
    pub(crate) fn next(&mut self) -> Option<(u64, DuplicateId)> {
        while self.asked < MAX_ASKED {
            let number = self.to_ask.pop_front()?;
            if let Some(ask) = self.open.get(&number) {
                return Some((number, ask.id));
            }
        }
        None
    }

    /// Asks for it.
    pub(crate) fn ask(&mut self, now_ms: u64, number: u64, local: Local, peers: &[NodeId]) {
        let Some(ask) = self.open.get_mut(&number) else { return };
        ask.stage = Stage::Asked;
        self.asked += 1;
        match local {
            Local::Here => _ = ask.here.insert(self.me),
            Local::Unsure => _ = ask.asked.insert(self.me),
            Local::Unknown => {}
        }
        if local != Local::Here {
            for peer in peers {
                self.questions.entry(*peer).or_default().push((number, ask.id));
            }
            ask.asked.extend(peers.iter().filter(|peer| !self.silent.contains(peer)));
            self.timers.push_back((now_ms.saturating_add(PATIENCE_MS), number));
        }
        self.settle(number);
    }

    /// It was decided that the id is new, and meanwhile it has come here.
    pub(crate) fn wait_for_own(&mut self, number: u64) {
        let Some(ask) = self.open.get_mut(&number) else { return };
        if ask.stage == Stage::Decided(Verdict::New) {
            ask.stage = Stage::Asked;
            ask.here.insert(self.me);
            self.asked += 1;
        }
    }

    /// A node answers; this one as well.
    pub(crate) fn said(&mut self, from: NodeId, number: u64, said: Said) {
        self.silent.remove(&from);
        let Some(ask) = self.open.get_mut(&number).filter(|ask| ask.stage == Stage::Asked) else { return };
        match said {
            Said::Asking => {
                if ask.asked.remove(&from) {
                    ask.first.insert(from);
                }
            }
            Said::Here => {
                ask.leave_out(from);
                ask.here.insert(from);
            }
            Said::Unknown => ask.leave_out(from),
            Said::Kept(copies) => return self.decide(number, Verdict::Known(copies)),
        }
        self.settle(number);
    }

    /// A node is out of reach: it neither answers nor asks any more.
    pub(crate) fn link_down(&mut self, node: NodeId) {
        self.silent.remove(&node);
        self.questions.remove(&node);
        self.answers.remove(&node);
        let mut gone = 0;
        self.waiters.retain(|_, waiters| {
            let before = waiters.len();
            waiters.retain(|(waiter, _)| *waiter != node);
            gone += before - waiters.len();
            !waiters.is_empty()
        });
        self.waiting -= gone;
        let numbers: Vec<_> = self.open.keys().copied().collect();
        for number in numbers {
            self.open.get_mut(&number).into_iter().for_each(|ask| ask.leave_out(node));
            self.settle(number);
        }
    }

    /// When [`Asks::expire`] is wanted.
    pub(crate) fn deadline(&self) -> u64 {
        self.timers.front().map_or(u64::MAX, |(at, _)| *at)
    }

    /// Whoever has not answered by now is not waited for.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some((_, number)) = self.timers.front().copied().filter(|(at, _)| *at <= now_ms) {
            self.timers.pop_front();
            let Some(ask) = self.open.get_mut(&number) else { continue };
            self.silent.extend(ask.asked.iter().filter(|node| **node != self.me));
            ask.asked.clear();
            ask.first.clear();
            self.settle(number);
        }
    }

    /// What came of it, as far as is known.
    pub(crate) fn verdict(&self, number: u64) -> Option<Verdict> {
        match self.open.get(&number)?.stage {
            Stage::Decided(verdict) => Some(verdict),
            Stage::Waiting | Stage::Asked => None,
        }
    }

    /// Its message is done with.
    pub(crate) fn end(&mut self, number: u64) {
        let Some(ask) = self.open.remove(&number) else { return };
        self.asked -= usize::from(ask.stage == Stage::Asked);
        if let Some(numbers) = self.by_id.get_mut(&ask.id) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_id.remove(&ask.id);
            }
        }
    }

    /// Another node asks for what is not known here. Whether this one asks, too, and goes first.
    pub(crate) fn goes_first(&self, before: NodeId, id: DuplicateId) -> bool {
        let numbers = self.by_id.get(&id).into_iter().flatten();
        numbers.filter_map(|number| self.open.get(number)).any(|ask| match ask.stage {
            Stage::Waiting => false,
            Stage::Decided(verdict) => verdict == Verdict::New,
            Stage::Asked if ask.first.contains(&before) || ask.here.contains(&before) => false,
            Stage::Asked => !ask.asked.contains(&before) || self.me < before,
        })
    }

    /// Answers a question, for good or for now.
    pub(crate) fn answer(&mut self, to: NodeId, number: u64, id: DuplicateId, said: Said) {
        let is_for_now = matches!(said, Said::Asking | Said::Here);
        if is_for_now && self.waiting >= MAX_WAITERS {
            return self.answers.entry(to).or_default().push((number, Said::Unknown));
        }
        if is_for_now && self.waiters.entry(id).or_default().insert((to, number)) {
            self.waiting += 1;
        }
        self.answers.entry(to).or_default().push((number, said));
    }

    /// The id is on its way to this node's disk now.
    pub(crate) fn coming(&mut self, id: DuplicateId) {
        for (node, number) in self.waiters.get(&id).into_iter().flatten() {
            self.answers.entry(*node).or_default().push((*number, Said::Here));
        }
    }

    /// What became of an id that was here, or was to be: it is on so many disks, or not here.
    pub(crate) fn fate(&mut self, id: DuplicateId, copies: Option<u32>) {
        let said = copies.map_or(Said::Unknown, Said::Kept);
        self.tell_waiters(id, said);
        let numbers: Vec<_> = self.by_id.get(&id).into_iter().flatten().copied().collect();
        for number in numbers {
            if self.open.get(&number).is_some_and(|ask| ask.here.contains(&self.me)) {
                self.said(self.me, number, said);
            }
        }
    }

    /// A connection is to be looked at with those of which something is decided.
    pub(crate) fn look_at(&mut self, conn: ConnId) {
        self.decided.insert(conn);
    }

    /// Connections of which something has been decided since the last call.
    pub(crate) fn take_decided(&mut self) -> BTreeSet<ConnId> {
        std::mem::take(&mut self.decided)
    }

    /// What is to be sent next.
    pub(crate) fn poll_message(&mut self) -> Option<(NodeId, DuplicatesMsg)> {
        if let Some((to, questions)) = pop_chunk(&mut self.questions) {
            return Some((to, DuplicatesMsg::Ask(questions)));
        }
        pop_chunk(&mut self.answers).map(|(to, answers)| (to, DuplicatesMsg::Answer(answers)))
    }

    fn tell_waiters(&mut self, id: DuplicateId, said: Said) {
        let waiters = self.waiters.remove(&id).unwrap_or_default();
        self.waiting -= waiters.len();
        for (node, number) in waiters {
            self.answers.entry(node).or_default().push((number, said));
        }
    }

    fn settle(&mut self, number: u64) {
        let is_new = |ask: &Ask| ask.asked.is_empty() && ask.first.is_empty() && ask.here.is_empty();
        if self.open.get(&number).is_some_and(|ask| ask.stage == Stage::Asked && is_new(ask)) {
            self.decide(number, Verdict::New);
        }
    }

    fn decide(&mut self, number: u64, verdict: Verdict) {
        let Some(ask) = self.open.get_mut(&number) else { return };
        ask.stage = Stage::Decided(verdict);
        let id = ask.id;
        self.asked -= 1;
        self.decided.insert(ask.conn);
        if let Verdict::Known(copies) = verdict {
            self.tell_waiters(id, Said::Kept(copies));
        }
    }

    /// How much is remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.open.len() + self.by_id.len() + self.asked + self.waiters.len() + self.waiting
    }
}

impl Ask {
    fn leave_out(&mut self, node: NodeId) {
        self.asked.remove(&node);
        self.first.remove(&node);
        self.here.remove(&node);
    }
}

fn pop_chunk<T>(all: &mut BTreeMap<NodeId, Vec<T>>) -> Option<(NodeId, Vec<T>)> {
    let mut first = all.first_entry()?;
    let to = *first.key();
    if first.get().len() <= CHUNK {
        return Some((to, first.remove()));
    }
    let rest = first.get_mut().split_off(CHUNK);
    Some((to, std::mem::replace(first.get_mut(), rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);
    const C: NodeId = NodeId([3; 16]);
    const ID: fn() -> DuplicateId = || DuplicateId::read(&[7; 16]).unwrap();

    /// Asks of a node in the middle, with a question for the id under way to these.
    fn asking(peers: &[NodeId]) -> (Asks, u64) {
        let mut asks = Asks::new(B);
        let number = asks.begin(ConnId(1), ID());
        assert_eq!(asks.next(), Some((number, ID())));
        asks.ask(1_000, number, Local::Unknown, peers);
        (asks, number)
    }

    fn messages(asks: &mut Asks) -> Vec<(NodeId, DuplicatesMsg)> {
        std::iter::from_fn(|| asks.poll_message()).collect()
    }

    #[test]
    fn all_are_asked_and_all_must_know_nothing() {
        let (mut asks, number) = asking(&[A, C]);
        let question = DuplicatesMsg::Ask(vec![(number, ID())]);
        assert_eq!(messages(&mut asks), [(A, question.clone()), (C, question)]);
        asks.said(A, number, Said::Unknown);
        assert_eq!(asks.verdict(number), None);
        asks.said(C, number, Said::Unknown);
        assert_eq!(asks.verdict(number), Some(Verdict::New));
        assert_eq!(asks.take_decided(), [ConnId(1)].into());
        asks.end(number);
        assert_eq!(asks.remembered(), 0);
    }

    #[test]
    fn one_that_has_it_is_waited_for_however_long_it_takes() {
        let (mut asks, number) = asking(&[A, C]);
        asks.said(A, number, Said::Here);
        asks.said(C, number, Said::Unknown);
        asks.expire(1_000 + PATIENCE_MS);
        assert_eq!(asks.verdict(number), None);
        asks.said(A, number, Said::Kept(2));
        assert_eq!(asks.verdict(number), Some(Verdict::Known(2)));
        asks.said(C, number, Said::Unknown);
        assert_eq!(asks.verdict(number), Some(Verdict::Known(2)), "what comes late changes nothing");
    }

    #[test]
    fn who_had_it_and_is_gone_does_not_count() {
        let (mut asks, number) = asking(&[A, C]);
        asks.said(A, number, Said::Here);
        asks.said(C, number, Said::Unknown);
        asks.link_down(A);
        assert_eq!(asks.verdict(number), Some(Verdict::New));
    }

    #[test]
    fn who_does_not_answer_is_waited_for_once() {
        let (mut asks, number) = asking(&[A]);
        assert_eq!(asks.deadline(), 1_000 + PATIENCE_MS);
        asks.expire(999 + PATIENCE_MS);
        assert_eq!(asks.verdict(number), None);
        asks.expire(1_000 + PATIENCE_MS);
        assert_eq!(asks.verdict(number), Some(Verdict::New));
        asks.end(number);
        let mut again = |local| {
            let number = asks.begin(ConnId(1), ID());
            asks.next();
            asks.ask(5_000, number, local, &[A]);
            (asks.verdict(number), number)
        };
        assert_eq!(again(Local::Unknown).0, Some(Verdict::New), "it is asked, and not waited for");
        let (verdict, number) = again(Local::Unsure);
        assert_eq!(verdict, None, "this node itself always is");
        asks.said(B, number, Said::Unknown);
        assert_eq!(asks.verdict(number), Some(Verdict::New));
        asks.said(A, number, Said::Unknown);
        let number = asks.begin(ConnId(1), ID());
        asks.next();
        asks.ask(6_000, number, Local::Unknown, &[A]);
        assert_eq!(asks.verdict(number), None, "it has answered again");
    }

    #[test]
    fn of_two_that_ask_the_first_goes_first_and_if_they_cross_the_lower_one() {
        let (mut asks, number) = asking(&[A, C]);
        assert!(!asks.goes_first(A, ID()), "crossing, and A is lower");
        assert!(asks.goes_first(C, ID()), "crossing, and C is higher");
        asks.said(A, number, Said::Asking);
        assert!(!asks.goes_first(A, ID()));
        asks.said(C, number, Said::Unknown);
        assert!(asks.goes_first(C, ID()), "it has begun since");
        assert_eq!(asks.verdict(number), None, "A goes first");
        asks.said(A, number, Said::Unknown);
        assert!(asks.goes_first(A, ID()), "about to be taken here");
        asks.end(number);
        assert!(!asks.goes_first(A, ID()) && !asks.goes_first(C, ID()));
    }

    #[test]
    fn who_goes_first_and_comes_to_nothing_is_not_waited_for_for_ever() {
        let (mut asks, number) = asking(&[A]);
        asks.said(A, number, Said::Asking);
        asks.expire(1_000 + PATIENCE_MS);
        assert_eq!(asks.verdict(number), Some(Verdict::New));
    }

    #[test]
    fn whoever_was_told_to_wait_hears_what_became_of_it() {
        let (mut asks, number) = asking(&[]);
        asks.answer(C, 9, ID(), Said::Asking);
        asks.end(number);
        asks.coming(ID());
        asks.fate(ID(), Some(2));
        asks.fate(ID(), None);
        let answers = [(9, Said::Asking), (9, Said::Here), (9, Said::Kept(2))];
        assert_eq!(messages(&mut asks), [(C, DuplicatesMsg::Answer(answers.into()))]);
        assert_eq!(asks.remembered(), 0);
    }

    #[test]
    fn what_is_here_already_waits_for_its_fate() {
        let mut asks = Asks::new(B);
        for fate in [Some(3), None] {
            let number = asks.begin(ConnId(1), ID());
            asks.next();
            asks.ask(0, number, Local::Here, &[A]);
            assert_eq!(messages(&mut asks), [], "nobody else is asked");
            asks.fate(ID(), fate);
            assert_eq!(asks.verdict(number), Some(fate.map_or(Verdict::New, Verdict::Known)));
            asks.end(number);
        }
    }

    #[test]
    fn questions_are_bounded_and_so_is_who_waits_here() {
        let mut asks = Asks::new(B);
        let numbers: Vec<_> = (0..=MAX_ASKED).map(|_| asks.begin(ConnId(1), ID())).collect();
        while let Some((number, _)) = asks.next() {
            asks.ask(0, number, Local::Unknown, &[A]);
        }
        let asked: usize = messages(&mut asks).iter().map(|(_, message)| len(message)).sum();
        assert_eq!(asked, MAX_ASKED);
        asks.said(A, numbers[0], Said::Unknown);
        assert_eq!(asks.next(), Some((numbers[MAX_ASKED], ID())));
        for number in 0..=MAX_WAITERS as u64 {
            asks.answer(C, number, ID(), Said::Here);
        }
        assert_eq!(asks.waiting, MAX_WAITERS);
        asks.link_down(C);
        assert_eq!((asks.waiting, asks.waiters.len()), (0, 0));
    }

    fn len(message: &DuplicatesMsg) -> usize {
        match message {
            DuplicatesMsg::Ask(some) => some.len(),
            DuplicatesMsg::Answer(some) => some.len(),
        }
    }
}
