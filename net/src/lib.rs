//! Rhizomq nodes finding, trusting and feeding each other.

mod link;
mod swim;

pub use link::{
    HelloError, LinkId, MAX_HELLO_BYTES, MAX_NAME_BYTES, MAX_VERSION, MIN_VERSION, PeerHello, common_version,
};
pub use swim::{MAX_PACKET_BYTES, Swim, SwimConfig, SwimError, SwimEvent};
