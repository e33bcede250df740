//! The rim: the only part of this crate that does IO. Sockets of clients, the store's writer, the clocks; and the loop
//! that feeds all of it to the [`Broker`](crate::Broker) and does what it says.
//!
//! Three kinds of tasks: one core (`driver.rs`) that owns the broker and never waits for anybody; two per client
//! (`client.rs`), which own the socket's halves; and one thread that writes and syncs the store (`writer.rs`). All
//! queues between them are bounded, by number or by bytes.

mod alarm;
mod client;
mod damage;
mod driver;
mod scrub;
mod writer;

pub use client::ListenerConfig;
pub use driver::{Driver, DriverConfig, DriverError, Handle};
pub use scrub::{MaintenanceError, Verified};
