//! Whole clusters in one thread, under a virtual clock: every schedule follows from a seed.
//!
//! A run has two halves. First, clients work while hosts crash, disks fill up, backups come back and the network is cut
//! to pieces; then all heals, and the cluster must come to rest. An oracle that sees what clients and disks see checks the
//! promises of the design throughout: what was confirmed is kept and delivered, what was consumed stays so, duplicates
//! are marked, order holds, equal states in the end.
//!
//! `RHIZOMQ_SIM_SEEDS=n` runs more seeds of mixed faults, `RHIZOMQ_STORY_SEEDS=n` of each story; `RHIZOMQ_SIM_SEED=x` with
//! the name of one test runs that seed alone and prints its trace.
//!
//! - the world: `world` (the loop), `agenda` (what comes next), `host`, `disk`, `network`, `rng`
//! - its clients: `sessions` (connections), `clients`, `consumers`, `topics`
//! - what goes wrong in it: `faults`
//! - who judges: `ledger` (what was seen), `oracle` (what must not be), `second` (what may come twice), `trace`
//! - the tests: `mixed` (random), `scenarios` (by hand), `story` and `play` (those that `tests/scenarios` tells as data),
//!   `members` (who sits where), `places` (sites), `drains` (leaving for good), `durables` (durable subscriptions), `users` (who is let in),
//!   `forwards` (clients of observers), `letters` (policies, expiry, dead letters), `sharing` (message groups, exclusive
//!   consumers, browsers), `repeats` (producers that send again), `lanes` (priorities, delays, selectors),
//!   `merging` (clusters that become one), `parting` (one that becomes two), `mistakes` (planted ones must be noticed); `runs` runs them

mod agenda;
mod clients;
mod consumers;
mod disk;
mod drains;
mod durables;
mod faults;
mod forwards;
mod host;
mod lanes;
mod ledger;
mod letters;
mod members;
mod merging;
mod mistakes;
mod mixed;
mod network;
mod oracle;
mod parting;
mod places;
mod play;
mod repeats;
mod rng;
mod runs;
mod scenarios;
mod second;
mod sessions;
mod sharing;
mod story;
mod topics;
mod trace;
mod users;
mod world;
