//! Real `rhizomq serve` processes, killed, cut apart, starved and fed with nonsense.
//!
//! One program for all of these, so that they are linked once. Every wait is for a state, with [`support::PATIENCE`] as
//! its bound; what could not run here says `SKIPPED` on standard error.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod bench_stomp;
mod cli;
mod clients;
mod death;
mod disk;
mod drain;
mod durable;
mod foreign;
mod jobs;
mod lanes;
mod merge;
mod observers;
mod parting;
mod policies;
mod repeats;
mod special_files;
mod split;
mod spring;
mod suspended;
mod transports;
mod users;
