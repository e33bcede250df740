//! The thin STOMP layer of Rhizomq: clients' sessions, and who gets which message.
//!
//! | module | duty |
//! |---|---|
//! | [`frame`] | STOMP frames to and from bytes |
//! | [`session`] | one client, from CONNECT to DISCONNECT |
//! | [`destination`], [`topic`], [`durable`] | what clients name: queues, topics and patterns over them, durable subscriptions |
//! | `duplicates` | messages that a publisher sends again |
//! | `expiry` | when a message expires |
//! | `stamp` | when and where it was taken |
//! | [`selector`] | conditions on headers, as a SUBSCRIBE may set |
//! | [`users`] | who may log in, and what they may do |
//! | [`policies`] | what operators decide about the messages of destinations |
//! | [`limits`] | what they are held to |
//! | `dispatch` | owners and edges: who gets which message, and who takes over from whom |
//! | `lane` | parts of a queue that are served before or after others, or later |
//! | `schedule` | messages that are sent again, at times of their own |
//! | `forward` | messages of an observer's clients on their way to a member |
//! | [`broker`] | one whole node without IO: the node beneath, dispatch, sessions |
//! | `status` | what a node tells of itself |
//! | [`transport`] | what lies between a socket and a session: WebSocket frames, the PROXY header |
//! | [`rim`] | sockets, the store's writer, the clocks: the only part with IO |

mod dispatch;
mod duplicates;
mod expiry;
mod forward;
mod lane;
mod schedule;
mod spread;
mod stamp;
mod status;

pub mod broker;
pub mod destination;
pub mod durable;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod policies;
pub mod rim;
pub mod selector;
pub mod session;
pub mod topic;
pub mod transport;
pub mod users;

pub use broker::{
    Backlog, Backlogs, Broker, BrokerConfig, ChangeId, ConnId, JobAskId, JobError, JobQuestion, LoginCheck, Output,
    Verdict,
};
pub use dispatch::TakeoverTiming;
pub use duplicates::{DuplicateId, DuplicateWindow};
pub use status::{
    DamageStatus, DrainingStatus, JobStatus, JobsStatus, MemoryStatus, MergingStatus, NodeStatus, PolicyStatus,
    QueueStatus, SplittingStatus, Status, StoreStatus, StrayedStatus, SubscriptionStatus, UnaccountedStatus,
    UserAccess, UserStatus,
};
