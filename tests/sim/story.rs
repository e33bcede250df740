//! Scenarios as data: what the files in `tests/scenarios` may say. `play` lets it happen.
//!
//! A story is a cluster, or several that know nothing of each other, and steps that happen one after the other. Numbers
//! may be drawn by the seed of the run: `[2, 4]` is one of 2, 3 and 4; `{ any = [0, 30, 4000] }` is one of these.

use serde::Deserialize;

use super::rng::Rng;

/// A number, or what it is drawn from.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    Exactly(i64),
    Within(i64, i64),
    OneOf { any: Vec<i64> },
}

impl Amount {
    pub(crate) fn signed(&self, rng: &mut Rng) -> i64 {
        match self {
            Self::Exactly(number) => *number,
            Self::Within(least, most) => *least + rng.within(0, (most - least) as u64) as i64,
            Self::OneOf { any } => rng.pick(any),
        }
    }

    pub(crate) fn draw(&self, rng: &mut Rng) -> u64 {
        self.signed(rng).max(0) as u64
    }
}

const fn one() -> Amount {
    Amount::Exactly(1)
}

const fn none() -> Amount {
    Amount::Exactly(0)
}

const fn two() -> Amount {
    Amount::Exactly(2)
}

const fn three() -> Amount {
    Amount::Exactly(3)
}

/// Which host something happens to: one of those that run, if it is not said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Who {
    #[default]
    Any,
    Member,
    Observer,
    /// An observer that has been elected and has no seat yet; nobody if there is none.
    Applicant,
    /// The one that the last step happened to.
    Same,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Story {
    /// What is told.
    pub(crate) about: String,
    /// Hosts of each cluster.
    pub(crate) clusters: Vec<Amount>,
    /// How many clusters there are of these, the first ones; all, if it is not said.
    pub(crate) count: Option<Amount>,
    /// Members of each.
    pub(crate) size: Amount,
    #[serde(default = "one")]
    pub(crate) sites: Amount,
    /// Disks for each message; receipts wait for two of them, if there are as many.
    #[serde(default = "three")]
    pub(crate) copies: Amount,
    /// Runs, if the command says nothing else.
    pub(crate) seeds: u64,
    pub(crate) step: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    /// Time passes.
    Wait { ms: Amount },
    /// So much time passes that seats must have settled; then every part of the network has as many members as it is to
    /// have, and no seat has changed hands without need.
    Settle {
        /// Changes of seats beyond those that the difference to the last time takes.
        #[serde(default)]
        spare: usize,
        /// How many members the parts must have, the greatest first.
        members: Option<Vec<usize>>,
        /// Since the last merge no message has moved and no client has lost its connection.
        #[serde(default)]
        calm: bool,
        /// The same hosts are seated as when this was last looked at.
        #[serde(default)]
        steady: bool,
    },
    /// Chooses whom the next steps happen to.
    Choose { who: Who },
    /// That host has no seat.
    Unseated { who: Who },
    /// Processes die, so long after each other; they are started again after `back_ms`, or by `boot`.
    Crash {
        #[serde(default)]
        who: Who,
        #[serde(default = "one")]
        count: Amount,
        #[serde(default = "none")]
        apart_ms: Amount,
        back_ms: Option<Amount>,
        /// Of that cluster alone.
        of: Option<usize>,
    },
    /// Whoever is down is started, so long after each other.
    Boot {
        #[serde(default = "none")]
        apart_ms: Amount,
    },
    /// All processes die at once, and come back within that time.
    Blackout { back_ms: Amount },
    /// The network falls into parts of one host at least, until it heals.
    Part {
        #[serde(default = "two")]
        parts: Amount,
        /// How many hosts each part has, if that matters.
        sizes: Option<Vec<usize>>,
    },
    /// Some hosts reach the others over some others alone.
    Bridge { few: usize, over: usize },
    /// Directions between two hosts are cut: one, or both.
    Cut {
        #[serde(default = "one")]
        count: Amount,
        #[serde(default)]
        both: bool,
    },
    /// One host loses all others, again and again.
    Flap {
        #[serde(default)]
        who: Who,
        times: Amount,
        down_ms: Amount,
        up_ms: Amount,
    },
    /// The link of two hosts breaks, again and again.
    Reset { times: Amount, every_ms: Amount },
    /// The way between two hosts is cut and comes back, again and again: in one direction, in the other, or in both.
    Flicker { times: Amount, down_ms: Amount, up_ms: Amount },
    /// Until an observer has been elected and has no seat yet; or until it has just taken one, if `seated` is 1. It must
    /// come to that within a while, and the next steps happen to that host.
    Newcomer {
        #[serde(default = "none")]
        seated: Amount,
    },
    /// All cuts end.
    Heal {},
    /// An operator sets the size, on any host.
    Size { any: Vec<String> },
    /// A wall clock jumps.
    Clock {
        #[serde(default)]
        who: Who,
        by_ms: Amount,
    },
    /// Clusters become one, by a command on a node of each but the first, so long after each other: all of them, or these.
    /// The one that comes of it has the place of the first.
    Merge {
        #[serde(default = "none")]
        apart_ms: Amount,
        these: Option<Vec<usize>>,
        /// The orders are given to the ones that come first, with tickets of the later ones.
        #[serde(default)]
        reversed: bool,
        /// The first of the orders has one of these sizes along.
        size: Option<Vec<String>>,
    },
    /// An operator parts a cluster: some of its hosts that run leave, not all, to have so many members.
    Split {
        #[serde(default)]
        cluster: usize,
        size: Option<Amount>,
    },
    /// So much time passes that a split must have come about; then the two know nothing of each other, and each has
    /// members and copies of its own. The part that left has the place of the cluster, the part that stayed the next one.
    Parted {},
    /// Copies of disks are made.
    Copy {
        #[serde(default = "one")]
        count: Amount,
    },
    /// Hosts whose disks were copied get these back.
    Restore { back_ms: Amount },
    /// A node is to leave for good; or no longer so.
    Drain {
        #[serde(default)]
        who: Who,
        #[serde(default)]
        cancel: bool,
    },
    /// A client somewhere in each cluster sends so many messages.
    Produce { messages: Amount, pace_ms: Amount },
    /// A client somewhere in each cluster consumes, taking so long for each message.
    Consume {
        #[serde(default = "none")]
        work_ms: Amount,
        /// It connects to whichever host runs, not always to the same.
        #[serde(default)]
        roams: bool,
    },
    /// Clients of topics.
    Topics { messages: Amount, pace_ms: Amount },
    /// All that waits has as many copies as it is to have, before long.
    Safe {},
    /// Nothing waits any more of which a host that runs has a copy: whoever died, others have delivered it.
    TakenOver {},
    /// Nothing waits any more.
    Empty {},
    /// A day goes by in which nothing happens.
    Sleep {},
    /// Steps again and again.
    Repeat { times: Amount, step: Vec<Step> },
}

impl Story {
    /// Reads the file of that name.
    ///
    /// # Panics
    /// There is none, or it says what no story can say.
    pub(crate) fn read(name: &str) -> Self {
        let path = format!("{}/tests/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}
