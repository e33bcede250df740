//! The thin STOMP layer of Rhizomq.

pub mod destination;
pub mod frame;
pub mod limits;
pub mod session;
