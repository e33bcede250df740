//! What lies between a socket and the bytes of a session, without IO: the header by which a proxy names its client, and
//! WebSocket frames.
//!
//! | module | duty |
//! |---|---|
//! | [`proxy`] | the header of the PROXY protocol, version 2 |
//! | [`websocket`] | WebSocket frames around STOMP's, RFC 6455 |

use std::net::SocketAddr;

pub mod proxy;
pub mod websocket;

/// Who is at the other end of a connection, as far as the connection itself tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The client's address: the one that a trusted proxy names, or else the socket's. `None` where there is no socket.
    pub address: Option<SocketAddr>,
    /// Names in the client's certificate, which was verified. `None`: it presented none.
    pub certificate: Option<CertificateNames>,
}

/// The names that a verified client certificate carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The common name of its subject, the last one if there are several.
    pub common_name: Option<String>,
    /// Its subject's alternative names: DNS names, mail addresses and URIs, in the certificate's order.
    pub alternative_names: Vec<String>,
}
