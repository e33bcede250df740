//! The rim: the only part of this crate that does IO. Sockets of clients, the store's writer, the clocks; and the loop
//! that feeds all of it to the [`Broker`](crate::Broker) and does what it says.
//!
//! Three kinds of tasks: one core (`driver.rs`) that owns the broker and never waits for anybody; one per client
//! (`client.rs`), which owns the socket's halves; and one thread that writes and syncs the store (`writer.rs`). All
//! queues between them are bounded, by number or by bytes. Connections come in by `listen.rs`, and through `entry.rs`
//! (PROXY header, TLS with `tls.rs`, WebSocket) before they are served; `packing.rs` is what they are written by.
//! Passcodes are checked by `logins.rs`, on threads for what takes long.

mod alarm;
mod client;
mod damage;
mod driver;
mod entry;
mod listen;
mod logins;
mod packing;
mod scrub;
mod tls;
mod writer;

pub use driver::{Driver, DriverConfig, DriverError, Handle};
pub use listen::{Listener, ListenerConfig};
pub use scrub::{MaintenanceError, Verified};
pub use tls::{Tls, TlsError, TlsFiles};
