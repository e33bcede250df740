//! Lanes: the parts of a queue that are served before or after others, or later.
//!
//! A message of the usual priority that may be had at once waits in the inbox that is called like its queue, or like its durable
//! subscription. All others wait in inboxes of the same name with a NUL behind it and what the lane is, which no destination can
//! have: no header of STOMP has a NUL. Inboxes are kept in order, so the lanes of a queue lie next to it, and each lane lies
//! where it is to be served:
//!
//! | behind the NUL | what waits there |
//! |---|---|
//! | `0` to `9`, twelve hex digits | messages of priority 9 down to 0 that may not be had before that time, in ms since 1970 |
//! | `0` to `9`, `~` | messages of these priorities that may be had at once; 4 has no such lane |
//! | `?`, a selector | nothing: it is what a consumer with that selector asks for ("a view"), never an inbox |
//! | `!`, a rank, a reader, perhaps `?` and a selector | nothing: what one exclusive consumer asks for; the first one in order gets all |
//! | `&`, a reader; or `?`, a selector, a NUL, `&`, a reader | nothing: what one consumer asks for besides, for what is meant for it alone |
//! | `@` | nothing: under this name nodes tell each other how many messages of the queue wait for their time |
//!
//! Jobs ([`crate::schedule`]) lie before all queues, in the order of their times: a NUL, twelve hex digits, the destination; and if the
//! job follows another, a NUL and sixteen hex digits, the same for all that come of one SEND.
//!
//! Ids of publishers ([`crate::duplicates`]) lie behind these: a NUL, `~` and twelve hex digits, the time until which they are kept.
//!
//! So what a lane is for is told by its name alone, on every node, after every restart.

use std::sync::Arc;

use crate::selector::Selector;

/// Of messages that name none.
pub(crate) const USUAL_PRIORITY: u8 = 4;
/// The highest.
pub(crate) const MAX_PRIORITY: u8 = 9;

/// The latest time that a lane can have.
pub(crate) const MAX_DUE: u64 = (1 << 48) - 1;

/// Of one of these parts of a delay the next power of two is the step between lanes, or [`LEAST_STEP_MS`]: so that messages of about the
/// same time share one. A delayed message is late by a step at most, which is less than two of the parts.
const PARTS: u64 = 64;
const LEAST_STEP_MS: u64 = 64;

const NUL: char = '\0';
const AT_ONCE: char = '~';
const VIEW: char = '?';
const EXCLUSIVE: char = '!';
const MEMBER: &str = "\0&";
const SCHEDULED: &str = "\0@";

/// One lane. In the order in which they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    /// 9 minus the priority.
    level: u8,
    /// Not before this time; the greatest of all: at once. So what has waited for its time comes first.
    due: u64,
}

impl Lane {
    /// The first of all that there can be.
    pub(crate) const FIRST: Self = Self { level: 0, due: 0 };

    /// That of messages that may be had at once.
    pub(crate) fn of_priority(priority: u8) -> Self {
        Self { level: MAX_PRIORITY - priority.min(MAX_PRIORITY), due: u64::MAX }
    }

    /// That of messages that may be had at `now_ms` and `delay_ms`, not sooner, and not much later.
    pub(crate) fn delayed(priority: u8, now_ms: u64, delay_ms: u64) -> Self {
        if delay_ms == 0 {
            return Self::of_priority(priority);
        }
        let step = (delay_ms / PARTS).max(LEAST_STEP_MS).checked_next_power_of_two().unwrap_or(MAX_DUE + 1);
        let due = now_ms.saturating_add(delay_ms).checked_next_multiple_of(step).unwrap_or(MAX_DUE).min(MAX_DUE);
        Self { due, ..Self::of_priority(priority) }
    }

    /// Of its messages.
    pub(crate) fn priority(self) -> u8 {
        MAX_PRIORITY.saturating_sub(self.level)
    }

    /// When its messages may be had; `None`: at once.
    pub(crate) fn due(self) -> Option<u64> {
        (self.due != u64::MAX).then_some(self.due)
    }

    /// The next one that there can be.
    pub(crate) fn after(self) -> Self {
        match self.due() {
            Some(due) => Self { due: due.saturating_add(1), ..self },
            None => Self { level: self.level.saturating_add(1), due: 0 },
        }
    }

    /// Whether its messages may be had at this time.
    pub(crate) fn is_due(self, now_ms: u64) -> bool {
        self.due().is_none_or(|due| due <= now_ms)
    }

    /// The inbox of this lane of a queue.
    pub(crate) fn inbox(self, queue: &str) -> String {
        match self.due() {
            None if self == Self::of_priority(USUAL_PRIORITY) => queue.to_owned(),
            None => format!("{queue}{NUL}{}{AT_ONCE}", self.level),
            Some(due) => format!("{queue}{NUL}{}{due:012x}", self.level),
        }
    }

    /// Where its inbox would be among others, if each lane had one of the same form.
    fn place(self, queue: &str) -> String {
        match self.due() {
            None => format!("{queue}{NUL}{}{AT_ONCE}", self.level),
            Some(_) => self.inbox(queue),
        }
    }

    /// The lane that an inbox is; `None` if its name is that of none.
    pub(crate) fn of(inbox: &str) -> Option<Self> {
        let Some((queue, lane)) = inbox.split_once(NUL) else { return Some(Self::of_priority(USUAL_PRIORITY)) };
        if queue.is_empty() {
            return None;
        }
        let level = lane.chars().next()?.to_digit(10)? as u8;
        let due = match &lane[1..] {
            "~" => u64::MAX,
            due if due.len() == DUE_DIGITS && due.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => {
                u64::from_str_radix(due, 16).ok()?
            }
            _ => return None,
        };
        Some(Self { level, due })
    }
}

/// The queue, durable subscription, or destination of a job, that an inbox or a view is of. One of ids is of itself.
pub(crate) fn queue_of(name: &str) -> &str {
    match name.split_once(NUL) {
        None => name,
        Some(("", ids)) if ids.starts_with(IDS) => name,
        Some(("", job)) => {
            let rest = job.get(DUE_DIGITS..).unwrap_or_default();
            rest.split_once(NUL).map_or(rest, |(destination, _)| destination)
        }
        Some((queue, _)) => queue,
    }
}

/// What the inboxes of jobs begin with.
pub(crate) const JOBS: &str = "\0";
/// All of them come before this name, and all queues after it.
pub(crate) const AFTER_JOBS: &str = "\0\u{10ffff}";
const DUE_DIGITS: usize = 12;
const CHAIN_DIGITS: usize = 16;

/// The inbox of jobs of a chain that are due at this time; see [`crate::schedule`].
pub(crate) fn job(destination: &str, due: u64, chain: Option<u64>) -> String {
    let chain = chain.map(|chain| format!("{NUL}{chain:016x}")).unwrap_or_default();
    format!("{JOBS}{:012x}{destination}{chain}", due.min(MAX_DUE))
}

/// What the name of an inbox of jobs tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobName<'a> {
    /// In ms since 1970.
    pub(crate) due: u64,
    pub(crate) destination: &'a str,
    pub(crate) chain: Option<u64>,
}

/// `None` if it is no inbox of jobs.
pub(crate) fn read_job(inbox: &str) -> Option<JobName<'_>> {
    let hex = |text: &str, digits| {
        let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    let (due, rest) = inbox.strip_prefix(JOBS)?.split_at_checked(DUE_DIGITS)?;
    let (destination, chain) = rest.split_once(NUL).map_or((rest, None), |(name, chain)| (name, Some(chain)));
    let chain = match chain {
        Some(chain) => Some(hex(chain, CHAIN_DIGITS)?),
        None => None,
    };
    let due = hex(due, DUE_DIGITS)?;
    (!destination.is_empty()).then_some(JobName { due, destination, chain })
}

/// What the inboxes of ids of publishers begin with: behind all jobs.
pub(crate) const REMEMBERED: &str = "\0~";
const IDS: char = '~';

/// The inbox of ids that are kept until then, in ms since 1970.
pub(crate) fn remembered(until: u64) -> String {
    format!("{REMEMBERED}{:012x}", until.min(MAX_DUE))
}

/// Until when what is in an inbox of ids is kept; `None` if it is no such inbox.
pub(crate) fn remembered_until(inbox: &str) -> Option<u64> {
    let until = inbox.strip_prefix(REMEMBERED)?;
    let is_hex = until.len() == DUE_DIGITS && until.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u64::from_str_radix(until, 16).ok()).flatten()
}

/// The same, shared.
pub(crate) fn shared_queue_of(name: &Arc<str>) -> Arc<str> {
    if name.contains(NUL) { queue_of(name).into() } else { Arc::clone(name) }
}

/// What a consumer with a selector asks for.
pub(crate) fn view(queue: &str, selector: &Selector) -> String {
    format!("{queue}{NUL}{VIEW}{}", selector.as_str())
}

/// What all that consumers of a queue ask for, but its own name, begins with.
pub(crate) fn asked_prefix(queue: &str) -> String {
    format!("{queue}{NUL}")
}

/// Whether this is something else that consumers ask for than a queue.
pub(crate) fn is_special(name: &str) -> bool {
    name.contains(NUL)
}

/// What an exclusive consumer of a queue, or of a view of it, asks for. Of several the first one in the order of their names gets all:
/// the one with the highest priority, then the earliest (`since`, ms since 1970), then whichever; `reader` tells it from all others.
pub(crate) fn exclusive(asked: &str, priority: i8, since: u64, reader: &str) -> String {
    let rank = i16::from(i8::MAX) - i16::from(priority);
    let (queue, view) = asked.split_once(NUL).unwrap_or((asked, ""));
    format!("{queue}{NUL}{EXCLUSIVE}{rank:02x}{:012x}{reader}{view}", since.min(MAX_DUE))
}

/// What all that exclusive consumers of a queue ask for begins with.
pub(crate) fn exclusive_prefix(queue: &str) -> String {
    format!("{queue}{NUL}{EXCLUSIVE}")
}

/// Since when an exclusive consumer that asks for this is there, in ms since 1970; `None` if it is no such name.
pub(crate) fn exclusive_since(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once(NUL)?;
    let digits = rest.strip_prefix(EXCLUSIVE)?.get(..2 + DUE_DIGITS)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(&digits[2..], 16).ok()).flatten()
}

/// What one of those who ask for a queue or view asks for besides, where messages are meant for it alone.
pub(crate) fn member(asked: &str, reader: &str) -> String {
    format!("{asked}{MEMBER}{reader}")
}

/// What the names of all of these begin with.
pub(crate) fn member_prefix(asked: &str) -> String {
    format!("{asked}{MEMBER}")
}

/// The queue or view that a member asks for; `None` if it is no such name.
pub(crate) fn asked_by_member(name: &str) -> Option<&str> {
    name.rsplit_once(MEMBER).map(|(asked, _)| asked)
}

/// Whether only one consumer can ask for this.
pub(crate) fn is_of_one(name: &str) -> bool {
    is_special(name) && (exclusive_since(name).is_some() || asked_by_member(name).is_some())
}

/// The selector of what a consumer asks for: `Ok(None)` if it has none, an error for what can't be read.
pub(crate) fn selector_of(name: &str) -> Result<Option<Selector>, Unreadable> {
    let name = asked_by_member(name).unwrap_or(name);
    let Some((_, rest)) = name.split_once(NUL) else { return Ok(None) };
    let text = match rest.strip_prefix(EXCLUSIVE) {
        Some(reader) => match reader.split_once(VIEW) {
            None => return exclusive_since(name).map(|_| None).ok_or(Unreadable),
            Some((_, text)) => text,
        },
        None => rest.strip_prefix(VIEW).ok_or(Unreadable)?,
    };
    Selector::parse(text).map_err(|_| Unreadable)?.map(Some).ok_or(Unreadable)
}

/// Another node asks for what this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The name under which it is told how much of a queue waits for its time.
pub(crate) fn scheduled(queue: &str) -> String {
    format!("{queue}{SCHEDULED}")
}

/// Whether a name is one of these.
pub(crate) fn is_scheduled(name: &str) -> bool {
    name.ends_with(SCHEDULED)
}

/// Finds the first inbox with waiting messages that is called so or comes after it.
pub(crate) trait Inboxes {
    /// See the trait.
    fn inbox_from(&self, name: &str) -> Option<Arc<str>>;
}

impl<T: Fn(&str) -> Option<Arc<str>>> Inboxes for T {
    fn inbox_from(&self, name: &str) -> Option<Arc<str>> {
        self(name)
    }
}

/// Whether a queue has any inbox besides that of its own name.
pub(crate) fn has_lanes(inboxes: &impl Inboxes, queue: &str) -> bool {
    let found = inboxes.inbox_from(&format!("{queue}{NUL}"));
    found.is_some_and(|found| queue_of(&found) == queue && found.len() > queue.len())
}

/// The first lane at or after `from` in which messages wait that may be had now, and its inbox. `has_lanes` as above: a queue without
/// any costs one look.
pub(crate) fn next(
    inboxes: &impl Inboxes,
    queue: &str,
    from: Lane,
    now_ms: u64,
    has_lanes: bool,
) -> Option<(Lane, Arc<str>)> {
    let usual = Lane::of_priority(USUAL_PRIORITY);
    let plain = || {
        let found = inboxes.inbox_from(queue).filter(|found| **found == *queue && from <= usual)?;
        Some((usual, found))
    };
    if !has_lanes {
        return plain();
    }
    let mut from = from;
    loop {
        if from.level > MAX_PRIORITY {
            return None;
        }
        let found = inboxes.inbox_from(&from.place(queue)).filter(|found| queue_of(found) == queue);
        let lane = found.and_then(|found| Some((Lane::of(&found)?, found)));
        // Its own inbox lies before all lanes, and is served among them.
        if from <= usual
            && lane.as_ref().is_none_or(|(lane, _)| *lane > usual)
            && let Some(plain) = plain()
        {
            return Some(plain);
        }
        let (lane, found) = lane?;
        if lane.is_due(now_ms) {
            return Some((lane, found));
        }
        from = Lane { due: u64::MAX, ..lane };
    }
}

/// The inboxes of all lanes in which messages wait that may be had now, the first to be served first.
pub(crate) fn due_lanes(inboxes: &impl Inboxes, queue: &str, now_ms: u64) -> Vec<Arc<str>> {
    let (mut from, mut found) = (Lane::FIRST, Vec::new());
    while let Some((lane, inbox)) = next(inboxes, queue, from, now_ms, true) {
        found.push(inbox);
        from = lane.after();
    }
    found
}

/// The earliest lane with a time after `after_ms`; of several that with the highest priority.
pub(crate) fn next_due(inboxes: &impl Inboxes, queue: &str, after_ms: u64) -> Option<Lane> {
    let of_level = |level| {
        let from = Lane { level, due: after_ms.saturating_add(1).min(MAX_DUE) };
        let found = inboxes.inbox_from(&from.place(queue)).filter(|found| queue_of(found) == queue)?;
        Lane::of(&found).filter(|lane| lane.level == level && lane.due().is_some_and(|due| due > after_ms))
    };
    (0..=MAX_PRIORITY).filter_map(of_level).min_by_key(|lane| (lane.due, lane.level))
}

/// The first lane, in order of service, whose time came after `since_ms`, and not after `now_ms`.
pub(crate) fn became_due(inboxes: &impl Inboxes, queue: &str, since_ms: u64, now_ms: u64) -> Option<Lane> {
    let of_level = |level| {
        let from = Lane { level, due: since_ms.saturating_add(1).min(MAX_DUE) };
        let found = inboxes.inbox_from(&from.place(queue)).filter(|found| queue_of(found) == queue)?;
        Lane::of(&found).filter(|lane| lane.level == level && lane.due().is_some_and(|due| due <= now_ms))
    };
    (0..=MAX_PRIORITY).find_map(of_level)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ops::Bound};

    use proptest::prelude::*;

    use super::*;

    fn names(lanes: &[Lane]) -> BTreeSet<Arc<str>> {
        let others = ["a", "b", "b\u{1}", "b0", "b\0x"].map(Arc::from);
        lanes.iter().map(|lane| lane.inbox("b").into()).chain(others).collect()
    }

    fn lane() -> impl Strategy<Value = Lane> {
        (0..=MAX_PRIORITY, 0..40_u64, 0..8_u64).prop_map(|(priority, due, pick)| {
            if pick < 3 { Lane::of_priority(priority) } else { Lane { due, ..Lane::of_priority(priority) } }
        })
    }

    proptest! {
        #[test]
        fn lanes_come_in_their_order_whatever_inboxes_lie_around(
            lanes in prop::collection::vec(lane(), 0..12),
            from in lane(),
            now in 0..45_u64,
            since in 0..45_u64,
        ) {
            let names = names(&lanes);
            let inboxes = |name: &str| names.range::<str, _>((Bound::Included(name), Bound::Unbounded)).next().cloned();
            let mut all: BTreeSet<Lane> = lanes.into_iter().collect();
            all.insert(Lane::of_priority(USUAL_PRIORITY));
            let has_lanes = has_lanes(&inboxes, "b");
            prop_assert!(has_lanes);
            let expected = all.range(from..).find(|lane| lane.is_due(now)).copied();
            let found = next(&inboxes, "b", from, now, has_lanes);
            prop_assert_eq!(found.as_ref().map(|(lane, _)| *lane), expected);
            prop_assert!(found.is_none_or(|(lane, inbox)| lane.inbox("b") == *inbox));

            let later = all.iter().filter(|lane| lane.due().is_some_and(|due| due > now));
            let expected = later.min_by_key(|lane| (lane.due, lane.level)).copied();
            prop_assert_eq!(next_due(&inboxes, "b", now), expected);
            let between = |lane: &&Lane| lane.due().is_some_and(|due| due > since && due <= now);
            prop_assert_eq!(became_due(&inboxes, "b", since, now), all.iter().find(between).copied());
        }

        #[test]
        fn a_delay_is_never_shorter_and_little_longer(now in 0..1_u64 << 42, delay in 1..1_u64 << 41, priority in 0..=9_u8) {
            let due = Lane::delayed(priority, now, delay).due().unwrap();
            prop_assert!(due >= now + delay);
            prop_assert!(due - now - delay < (delay / 32).max(64), "{} late", due - now - delay);
        }

        #[test]
        fn names_tell_the_lane(lane in lane()) {
            prop_assert_eq!(Lane::of(&lane.inbox("/queue/a")), Some(lane));
            prop_assert_eq!(queue_of(&lane.inbox("/queue/a")).to_owned(), "/queue/a");
        }
    }

    #[test]
    fn a_queue_without_lanes_is_its_inbox() {
        let names: BTreeSet<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
        let inboxes = |name: &str| names.range::<str, _>((Bound::Included(name), Bound::Unbounded)).next().cloned();
        let usual = Lane::of_priority(USUAL_PRIORITY);
        assert!(!has_lanes(&inboxes, "b") && !has_lanes(&inboxes, "bb"));
        assert_eq!(next(&inboxes, "b", Lane::FIRST, 0, false), Some((usual, "b".into())));
        assert_eq!(next(&inboxes, "b", Lane::of_priority(3), 0, false), None);
        assert_eq!(next(&inboxes, "bb", Lane::FIRST, 0, false), None);
    }

    #[test]
    fn times_are_bounded_and_few() {
        assert_eq!(Lane::delayed(4, u64::MAX, 1).due(), Some(MAX_DUE));
        assert_eq!(Lane::delayed(4, 5, u64::MAX).due(), Some(MAX_DUE));
        assert_eq!(Lane::delayed(4, 5, 0), Lane::of_priority(4));
        let dues: BTreeSet<_> = (0..100_000).map(|now| Lane::delayed(4, now, 100_000).due()).collect();
        assert!(dues.len() <= 65, "{}", dues.len());
    }

    #[test]
    fn jobs_lie_in_the_order_of_their_times_and_tell_where_they_go() {
        for chain in [None, Some(0), Some(u64::MAX)] {
            let name = job("/topic/a", 77, chain);
            let read = JobName { due: 77, destination: "/topic/a", chain };
            assert_eq!((read_job(&name), queue_of(&name), Lane::of(&name)), (Some(read), "/topic/a", None));
            assert!(name < job("/queue/a", 78, None) && *job("a", u64::MAX, chain) < *"a" && *name < *AFTER_JOBS);
        }
        assert_eq!(
            Lane::of(&job("f", 1, None)),
            None,
            "nor does a short name make it a lane of a queue without a name"
        );
        for other in
            ["", "\0", "\x0000000000004d", "\x000000000000zza", "\x0000000000004da\0", "a\x0000000000004da", "\0ä"]
        {
            assert_eq!(read_job(other), None, "{other:?}");
        }
    }

    #[test]
    fn views_tell_the_selector_and_what_is_neither_is_refused() {
        let selector = Selector::parse("a = 'x\u{7f}?'").unwrap().unwrap();
        let name = view("/queue/a", &selector);
        assert_eq!(selector_of(&name), Ok(Some(selector)));
        assert_eq!((queue_of(&name), Lane::of(&name)), ("/queue/a", None));
        assert_eq!(selector_of("/queue/a"), Ok(None));
        for other in ["q\0", "q\0?", "q\0?a =", "q\0?  ", "q\x005~", "q\0@"] {
            assert_eq!(selector_of(other), Err(Unreadable), "{other:?}");
        }
        for other in ["q\0", "q\0x~", "q\x005", "q\x005~~", "q\x005+00000000001", "q\x0050000000000FF"] {
            assert_eq!(Lane::of(other), None, "{other:?}");
        }
        assert!(is_scheduled(&scheduled("q")) && !is_scheduled("q"));
    }

    #[test]
    fn exclusive_names_come_in_the_order_in_which_they_are_served_whatever_they_select() {
        let selector = Selector::parse("a = '?!'").unwrap().unwrap();
        let plain = |priority, since, reader| exclusive("/queue/a", priority, since, reader);
        let selective = |priority, since, reader| exclusive(&view("/queue/a", &selector), priority, since, reader);
        let names = [
            plain(127, 9, "x"),
            selective(1, 7, "z"),
            plain(1, 8, "a"),
            selective(1, 8, "b"),
            plain(0, 1, "a"),
            plain(-128, 0, "a"),
        ];
        assert!(names.is_sorted(), "{names:?}");
        assert!(names.iter().all(|name| name.starts_with(&exclusive_prefix("/queue/a")) && is_special(name)));
        assert!(names.iter().all(|name| queue_of(name) == "/queue/a" && Lane::of(name).is_none()));
        assert_eq!((selector_of(&names[1]), selector_of(&names[2])), (Ok(Some(selector.clone())), Ok(None)));
        for asked in ["/queue/a".to_owned(), view("/queue/a", &selector)] {
            let name = member(&asked, "n.1.0");
            assert!(name.starts_with(&member_prefix(&asked)) && is_of_one(&name) && !is_of_one(&asked));
            assert_eq!((asked_by_member(&name), queue_of(&name)), (Some(&*asked), "/queue/a"));
            assert_eq!(selector_of(&name), selector_of(&asked));
        }
        assert!(is_of_one(&names[1]) && asked_by_member(&names[1]).is_none());
        assert_eq!((exclusive_since(&names[1]), exclusive_since("/queue/a")), (Some(7), None));
        for other in ["q\0!", "q\0!00zz", "q\0!00000000000007n?a =", "q\0!ä000000000000000"] {
            assert_eq!(selector_of(other), Err(Unreadable), "{other:?}");
        }
    }
}
