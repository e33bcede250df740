//! Rhizomq nodes finding, trusting and feeding each other.

mod link;
mod membership;
mod node;
mod swim;
mod ticket;
mod wire;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod rim;

pub use rhizomq_engine::registry::sync as registry_sync;

pub use link::{
    HelloError, LinkId, MAX_HELLO_BYTES, MAX_NAME_BYTES, MAX_VERSION, MIN_VERSION, PeerHello, Proven, common_version,
};
pub use membership::{MAX_SIZE_CHARS, Preset, Size, SizeError, View, ViewName};
pub use node::{
    CancelError, CommitError, DamageCount, DrainHindrance, DrainStage, DrainStatus, Event, ForgetError, Forgotten,
    GiveUpPartError, GivenUp, LostPart, MergeError, Merging, Node, NodeConfig, Output, Parted, PublishId, Role,
    RosterEntry, SplitError, SplitOrder, SplitPlan, SplitStatus, Spread, Strayed, Timing, Who, trusted_networks,
};
pub use swim::{MAX_PACKET_BYTES, Swim, SwimConfig, SwimError, SwimEvent};
pub use ticket::{MAX_TICKET_ADDRESSES, MAX_TICKET_CHARS, Ticket, TicketError};
