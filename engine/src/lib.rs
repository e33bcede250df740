//! The CRDT-replicated storage engine of Rhizomq, usable by itself.
//!
//! A replica holds sets, registers and messages under names. Every replica takes changes at any time, alone or not; two
//! that have exchanged what each lacked hold the same, in whatever order changes and exchanges happened, and nothing that
//! was removed or consumed comes back. Changes are gathered into commits: all or nothing, on disk before they show.
//!
//! # Two replicas
//!
//! ```
//! use rhizomq_engine::{Local, LocalError, NodeId};
//!
//! # fn main() -> Result<(), LocalError> {
//! let mut here = Local::in_memory(NodeId::from_name("here"))?;
//! let mut there = Local::in_memory(NodeId::from_name("there"))?;
//!
//! here.set("colours").add("red")?;
//! here.register("motto").set("grow")?;
//! here.publish("letters", "first words")?;
//! here.commit()?; // on "disk"; only now it shows
//!
//! there.set("colours").add("green")?;
//! there.commit()?;
//!
//! // One begins, and each answers until nobody has anything to say. Send the bytes by whatever there is.
//! let mut to_there = vec![here.begin()];
//! while !to_there.is_empty() {
//!     let mut to_here = Vec::new();
//!     for bytes in std::mem::take(&mut to_there) {
//!         to_here.extend(there.answer(&bytes)?); // it takes over, commits, and says what to send back
//!     }
//!     for bytes in to_here {
//!         to_there.extend(here.answer(&bytes)?);
//!     }
//! }
//!
//! assert_eq!(here.set("colours").members(), [&b"green"[..], b"red"]);
//! assert_eq!(there.register("motto").get(), Some(&b"grow"[..]));
//! let (dot, message) = there.waiting("letters").next().expect("it came along")?;
//! assert_eq!(message.body, "first words");
//!
//! // Consumed there, it is consumed for ever.
//! there.consume(dot);
//! there.commit()?;
//! here.pull_from(&there)?; // the same in one call and one direction, for replicas in one process
//! assert_eq!(here.waiting("letters").count(), 0);
//! there.pull_from(&here)?;
//!
//! // Equal digests are equal states.
//! assert_eq!(here.engine_mut().digest(|_| true), there.engine_mut().digest(|_| true));
//! # Ok(())
//! # }
//! ```
//!
//! In sync an exchange is one small message each way; d differences among n sets and registers cost O(d log n) bytes.
//!
//! On a disk it is `Local::open_dir(dir, node)`. The programs in `examples/` do so: `cargo run --example set`, `register`,
//! `log`.
//!
//! What is consumed gives its space back along with the commits that consume it, at a cost that depends on how much they do;
//! lives that end without [`Local::close`] leave some tens of bytes each for ever, and nothing else once their messages are
//! consumed. There is nothing to call for that; [`Local::compact`] does all of it at once. There is no thread of its own
//! either: a program that commits nothing gets nothing back.
//!
//! # Driving it yourself
//!
//! [`Local`] commits on the calling thread. An [`Engine`] alone is a state machine: commands queue, [`Engine::poll_commit`]
//! hands out one batch of rows at a time, the caller has a [`Store`] write it wherever he likes, and says
//! [`Engine::handle_committed`] or [`Engine::handle_commit_failed`]. What is queued meanwhile is the next commit, so commits
//! grow with the load. No runtime, no threads of its own, no clock: `now` comes in with each call that needs it.
//!
//! # What is in it
//!
//! Everything here is state and its laws: no sockets, no tasks. The [`Store`] implementations and [`Local`] are the only
//! parts with IO or a clock; all else takes inputs and `now`, and hands out what is to be written.
//!
//! | module | duty |
//! |---|---|
//! | `id`, `time`, [`hlc`] | names of things; time as a value; stamps for registers |
//! | [`ranges`] | sets of slots in normal form |
//! | [`block`] | the unit of commit, disk and wire |
//! | `segment`, `retired` | one replica's state; what is finished for ever |
//! | [`registry`] | the small state that every node has: OR-sets and LWW registers |
//! | `keys` | the rows of the store |
//! | `engine` | all of it as one state machine: queue, stage, commit, open; sets, registers and deltas for library users |
//! | [`store`] | where it lies: commit log and sled, or memory for simulation |
//! | `local` | an engine and its store in one, for library users |

mod engine;
mod id;
mod keys;
mod local;
mod mistake;
mod retired;
mod segment;
mod time;

pub mod block;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hlc;
pub mod limits;
pub mod ranges;
pub mod registry;
pub mod store;

pub use block::{Block, BlockError, Entry, Message, MessageRef};
pub use engine::{
    BlockRef, Commit, Committed, Delta, DeltaError, Engine, EngineError, Exchange, Loss, MergeError, NewBlock,
    OpenReport, Position, PublishError, Register, SegmentDelta, Set, Summary, Ticket, Unaccounted, Unit,
};
pub use id::{Dot, Epoch, NodeId, ParseIdError, SegmentId, Slot};
pub use keys::RowError;
pub use local::{Local, LocalError, LocalRegister};
pub use mistake::{Mistake, Planted};
pub use ranges::RangeSet;
pub use registry::{Key, Registry, RegistryError, Value};
pub use retired::{Retired, RetiredLife};
pub use segment::SegmentState;
pub use store::{Batch, Op, Read, Store, StoreError};
pub use time::Now;
