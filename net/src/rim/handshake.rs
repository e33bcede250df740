//! From a TLS connection to a link: versions, proofs of network secrets, hello.
//!
//! On the one stream, which the dialler opens:
//!
//! ```text
//! dialler                                   listener
//! opening: magic, versions, proofs ------>  checks: magic, versions, proofs
//!                                  <------  opening, hello
//! checks, enters its table, hello  ------>
//!                                  <------  enters its table, welcome
//! link up                                   link up
//! ```
//!
//! An opening has a fixed size and holds nothing to be parsed. Magic and versions are looked at before more is waited for:
//! the openings of older programs are shorter. Hellos are read only after a proof of the other end held. A proof is bound to the TLS session and to the end it comes from, so passing it on is of no use. The dialler
//! enters its table *before* its hello, and neither end takes the link for up before both have entered it: so two nodes
//! that dial each other at once agree on one link without ever having had the other (`table.rs`).

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use rhizomq_engine::NodeId;

use super::{
    config::RimConfig,
    frame::FrameReader,
    keyring::{Keyring, MAX_TRUSTED, Proofs},
    refusal::{CloseCode, HandshakeError},
    secret::{Role, Session},
    tls,
};
use crate::link::{MAX_HELLO_BYTES, PeerHello, Proven, common_version};

pub(super) const MAGIC: [u8; 8] = *b"RHIZOMQ\n";
pub(super) const HEAD_BYTES: usize = MAGIC.len() + 2 + 2;
const PROOF_BYTES: usize = 32;
pub(super) const PROOFS_BYTES: usize = MAX_TRUSTED * PROOF_BYTES;
const EXPORT_LABEL: &[u8] = b"EXPORTER-rhizomq-network-proof";

/// Ends the handshake: the listener has entered the link into its table.
const WELCOME: u8 = 1;

/// The stream of a connection whose peer is proven. What is left of the handshake is [`Established::complete`].
pub(super) struct Established {
    pub(super) hello: PeerHello,
    pub(super) dialler: NodeId,
    pub(super) send: SendStream,
    pub(super) recv: FrameReader,
    /// Our last word in the handshake.
    last_word: Bytes,
    awaits_welcome: bool,
}

impl Established {
    /// The rest of the handshake, after this end has entered the link into its table. False when the connection broke,
    /// or the peer thought better of it.
    pub(super) async fn complete(&mut self) -> bool {
        if self.send.write_chunk(self.last_word.clone()).await.is_err() {
            return false;
        }
        !self.awaits_welcome || matches!(self.recv.body(1).await.as_deref(), Ok([WELCOME]))
    }
}

/// One end's view of a handshake.
pub(super) struct Handshake<'a> {
    pub(super) connection: &'a Connection,
    pub(super) config: &'a RimConfig,
    pub(super) keyring: &'a Keyring,
    /// This node.
    pub(super) node: NodeId,
    /// The other one, by its certificate.
    pub(super) peer: NodeId,
}

/// The node at the other end, and not this one.
pub(super) fn peer_of(connection: &Connection, node: NodeId) -> Result<NodeId, HandshakeError> {
    let peer = tls::peer_of(connection)
        .ok_or_else(|| HandshakeError::refuse(CloseCode::Malformed, "the certificate names no node"))?;
    if peer == node {
        return Err(HandshakeError::refuse(CloseCode::SelfConnection, "this node has dialled itself"));
    }
    Ok(peer)
}

impl Handshake<'_> {
    /// The end that dialled.
    pub(super) async fn dial(&self) -> Result<Established, HandshakeError> {
        let session = self.session(self.node, self.peer)?;
        let (mut send, recv) = self.connection.open_bi().await?;
        let mut recv = FrameReader::new(recv);
        self.write(&mut send, self.opening(Role::Dialler, &session)).await?;
        let proven = self.check_opening(&mut recv, Role::Listener, &session).await?;
        let hello = self.read_hello(&mut recv, proven).await?;
        self.connection.set_receive_window(RimConfig::proven_window());
        Ok(Established { hello, dialler: self.node, send, recv, last_word: self.hello()?, awaits_welcome: true })
    }

    /// The end that was dialled.
    pub(super) async fn listen(&self) -> Result<Established, HandshakeError> {
        let session = self.session(self.peer, self.node)?;
        let (mut send, recv): (SendStream, RecvStream) = self.connection.accept_bi().await?;
        let mut recv = FrameReader::new(recv);
        let proven = self.check_opening(&mut recv, Role::Dialler, &session).await?;
        self.write(&mut send, self.opening(Role::Listener, &session)).await?;
        self.write(&mut send, self.hello()?).await?;
        let hello = self.read_hello(&mut recv, proven).await?;
        self.connection.set_receive_window(RimConfig::proven_window());
        let last_word = Bytes::from_static(&[WELCOME]);
        Ok(Established { hello, dialler: self.peer, send, recv, last_word, awaits_welcome: false })
    }

    fn session(&self, dialler: NodeId, listener: NodeId) -> Result<Session, HandshakeError> {
        let mut exported = [0; 32];
        self.connection
            .export_keying_material(&mut exported, EXPORT_LABEL, b"")
            .map_err(|_| HandshakeError::Lost("TLS gives no keying material".into()))?;
        Ok(Session { exported, dialler, listener })
    }

    fn opening(&self, role: Role, session: &Session) -> Bytes {
        let mut opening = BytesMut::with_capacity(HEAD_BYTES + PROOFS_BYTES);
        opening.put_slice(&MAGIC);
        opening.put_u16(self.config.versions.0);
        opening.put_u16(self.config.versions.1);
        self.keyring.prove(role, session).iter().for_each(|proof| opening.put_slice(proof.as_bytes()));
        opening.freeze()
    }

    /// Which secret the other end knows: one that is known here, or it is refused.
    async fn check_opening(
        &self,
        recv: &mut FrameReader,
        role: Role,
        session: &Session,
    ) -> Result<Proven, HandshakeError> {
        let head = recv.body(HEAD_BYTES).await.map_err(|error| self.broken(error))?;
        check_head(head, self.config.versions)?;
        let proofs = recv.body(PROOFS_BYTES).await.map_err(|error| self.broken(error))?;
        check_proofs(&proofs, |proofs| self.keyring.accepts(role, session, proofs))
    }

    fn hello(&self) -> Result<Bytes, HandshakeError> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let hello = PeerHello {
            node: self.node,
            epoch: self.config.epoch,
            name: self.config.name.clone(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            proven: Proven::Own,
        };
        let body = hello.encode().map_err(|error| HandshakeError::Lost(error.to_string()))?;
        Ok(super::frame::encode([body]).concat().into())
    }

    async fn read_hello(&self, recv: &mut FrameReader, proven: Proven) -> Result<PeerHello, HandshakeError> {
        let body = match recv.next(MAX_HELLO_BYTES).await {
            Ok(Some(body)) => body,
            Ok(None) => return Err(HandshakeError::refuse(CloseCode::Malformed, "the stream ended before the hello")),
            Err(error) => return Err(self.broken(error)),
        };
        PeerHello::decode(self.peer, proven, &body)
            .map_err(|error| HandshakeError::refuse(CloseCode::Malformed, error.to_string()))
    }

    async fn write(&self, send: &mut SendStream, bytes: Bytes) -> Result<(), HandshakeError> {
        send.write_chunk(bytes).await.map_err(|error| self.broken(error))
    }

    /// Why a stream broke: mostly because the connection did, and that knows more.
    fn broken(&self, error: impl std::fmt::Display) -> HandshakeError {
        match self.connection.close_reason() {
            Some(reason) => reason.into(),
            None => HandshakeError::refuse(CloseCode::Malformed, error.to_string()),
        }
    }
}

/// Whether the head of the other end's opening, [`HEAD_BYTES`] long, is that of a node which speaks a version of ours.
pub(super) fn check_head(mut head: Bytes, ours: (u16, u16)) -> Result<(), HandshakeError> {
    if head.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err(HandshakeError::refuse(CloseCode::Malformed, "this is not the protocol between Rhizomq nodes"));
    }
    let theirs = (head.get_u16(), head.get_u16());
    if common_version(ours, theirs).is_none() {
        let text = format!(
            "no common protocol version: the refusing node speaks {} to {}, the other {} to {}; upgrade the older",
            ours.0, ours.1, theirs.0, theirs.1
        );
        return Err(HandshakeError::refuse(CloseCode::NoCommonVersion, text));
    }
    Ok(())
}

/// Whether any of the proofs, [`PROOFS_BYTES`] in all, is of a network that is trusted here; what [`Keyring::accepts`] says.
pub(super) fn check_proofs(
    bytes: &[u8],
    accepts: impl Fn(&Proofs) -> Option<Proven>,
) -> Result<Proven, HandshakeError> {
    let mut proofs = [blake3::Hash::from_bytes([0; PROOF_BYTES]); MAX_TRUSTED];
    for (proof, bytes) in proofs.iter_mut().zip(bytes.as_chunks::<PROOF_BYTES>().0) {
        *proof = blake3::Hash::from_bytes(*bytes);
    }
    accepts(&proofs).ok_or_else(|| {
        let text = "wrong network secret: the two nodes belong to different networks; join with a ticket of this one, or \
                    merge the two";
        HandshakeError::refuse(CloseCode::WrongSecret, text)
    })
}
