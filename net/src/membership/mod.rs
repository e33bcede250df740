//! Who is a member and who observes, as pure functions: ballots and seats go in, a [`View`] comes out.
//!
//! All nodes vote alike, and nobody counts votes for others: each node computes the same view from the same ballots. What
//! a node does about its own seat, and when, is in `node/members.rs`.
//!
//! - `ballot.rs`: what a node publishes of whom it reaches; what a seat is
//! - `size.rs`: how many members there are to be
//! - `elect.rs`: who they are

mod ballot;
mod elect;
mod size;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    ballot::{Ballot, Seat},
    elect::{Election, elect},
};
pub use self::{
    elect::{View, ViewName},
    size::{MAX_SIZE_CHARS, Preset, Size, SizeError},
};
