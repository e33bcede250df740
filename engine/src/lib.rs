//! The CRDT-replicated storage engine of Rhizomq.
//!
//! Everything here is state and its laws: no sockets, no clocks, no tasks. The [`Store`] implementations are the only
//! part with IO; all else takes inputs and `now`, and hands out what is to be written.
//!
//! | module | duty |
//! |---|---|
//! | `id`, `time`, [`hlc`] | names of things; time as a value; stamps for registers |
//! | [`ranges`] | sets of slots in normal form |
//! | [`block`] | the unit of commit, disk and wire |
//! | `segment`, `retired` | one replica's state; what is finished for ever |
//! | [`registry`] | the small state that every node has: OR-sets and LWW registers |
//! | `keys` | the rows of the store |
//! | `engine` | all of it as one state machine: queue, stage, commit, open |
//! | [`store`] | where it lies: commit log and sled, or memory for simulation |

mod engine;
mod id;
mod keys;
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

pub use block::{Block, BlockError, Entry, Message};
pub use engine::{
    BlockRef, Commit, Committed, Engine, EngineError, Loss, NewBlock, OpenReport, PublishError, Ticket, Unit,
};
pub use id::{Dot, Epoch, NodeId, ParseIdError, SegmentId, Slot};
pub use keys::RowError;
pub use mistake::{Mistake, Planted};
pub use ranges::RangeSet;
pub use registry::{Key, Registry, RegistryError, Value};
pub use retired::{Retired, RetiredLife};
pub use segment::SegmentState;
pub use store::{Batch, Op, Read, Store, StoreError};
pub use time::Now;
