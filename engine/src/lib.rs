//! The CRDT-replicated storage engine of Rhizomq.
//!
//! Everything here is state and its laws: no sockets, no clocks, no tasks. The [`Store`] implementations are the only
//! part with IO; all else takes inputs and `now`, and hands out what is to be written.

mod id;
mod time;

pub mod store;

pub use id::{Dot, Epoch, NodeId, ParseIdError, SegmentId, Slot};
pub use store::{Batch, Op, Read, Store, StoreError};
pub use time::Now;
