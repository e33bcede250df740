//! Peers that get through TLS, as anyone can, and then do not keep to the protocol.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{Connection, ConnectionError, Endpoint};
use rhizomq_engine::Epoch;
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::time::timeout;

use super::{
    frame,
    handshake::{HEAD_BYTES, Handshake, PROOFS_BYTES},
    *,
};
use crate::link::{MAX_HELLO_BYTES, MAX_VERSION, MIN_VERSION};

const PATIENCE: Duration = Duration::from_secs(30);

fn config() -> RimConfig {
    RimConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Epoch(1), "honest")
}

fn secret() -> NetworkSecret {
    NetworkSecret::from_bytes([1; 32])
}

fn honest(config: RimConfig) -> (Rim, RimEvents) {
    Rim::open(config, &Identity::generate().unwrap(), secret()).unwrap()
}

/// An endpoint with valid TLS and nobody in charge.
fn rogue(identity: &Identity) -> Endpoint {
    let server = tls::server_config(identity).unwrap();
    let mut endpoint = Endpoint::server(server, config().listen).unwrap();
    endpoint.set_default_client_config(tls::client_config(identity).unwrap());
    endpoint
}

async fn connect(rogue: &Endpoint, rim: &Rim) -> Connection {
    rogue.connect(rim.local_addr().unwrap(), tls::SERVER_NAME).unwrap().await.unwrap()
}

async fn farewell(connection: &Connection) -> Farewell {
    let error: ConnectionError = timeout(PATIENCE, connection.closed()).await.expect("closed in time");
    Farewell::of_peer(&error).unwrap_or_else(|| panic!("not closed by the peer: {error}"))
}

async fn refused(events: &mut RimEvents) -> Refused {
    match timeout(PATIENCE, events.recv()).await.expect("an event in time") {
        Some(RimEvent::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn garbage_on_the_control_stream_is_refused_and_harms_nobody() {
    let (rim, mut events) = honest(config());
    let rogue_identity = Identity::generate().unwrap();
    let endpoint = rogue(&rogue_identity);
    let mut garbage = vec![0; 10_000];
    blake3::Hasher::new().finalize_xof().fill(&mut garbage);
    let versions = [MIN_VERSION.to_be_bytes(), MAX_VERSION.to_be_bytes()].concat();
    let almost = [b"RHIZOMQ\n".as_slice(), &versions, &[0; PROOFS_BYTES]].concat();
    for (sent, code) in [
        (garbage.as_slice(), CloseCode::Malformed),
        (b"RHIZOMQ\n", CloseCode::Malformed),
        (&almost, CloseCode::WrongSecret),
    ] {
        let connection = connect(&endpoint, &rim).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // It may be refused before all is sent.
        let _ = send.write_all(sent).await;
        let _ = send.finish();
        assert_eq!(farewell(&connection).await.code, code);
        assert_eq!(refused(&mut events).await.farewell.code, code);
    }
    assert_eq!(rim.stats().refused, 3);
}

#[tokio::test]
async fn who_says_nothing_is_shown_the_door() {
    let (rim, mut events) = honest(RimConfig { handshake_timeout: Duration::from_millis(200), ..config() });
    let rogue_identity = Identity::generate().unwrap();
    let endpoint = rogue(&rogue_identity);
    let silent = connect(&endpoint, &rim).await;
    let hesitant = connect(&endpoint, &rim).await;
    let (mut send, _recv) = hesitant.open_bi().await.unwrap();
    send.write_all(b"RHIZ").await.unwrap();
    for connection in [silent, hesitant] {
        assert_eq!(farewell(&connection).await.code, CloseCode::TooSlow);
        assert_eq!(refused(&mut events).await.farewell.code, CloseCode::TooSlow);
    }
}

#[tokio::test]
async fn no_more_handshakes_at_a_time_than_configured() {
    let config = RimConfig { max_handshakes: 2, handshake_timeout: Duration::from_secs(60), ..config() };
    let (rim, _events) = honest(config);
    let rogue_identity = Identity::generate().unwrap();
    let endpoint = rogue(&rogue_identity);
    let _held = [connect(&endpoint, &rim).await, connect(&endpoint, &rim).await];
    let third = endpoint.connect(rim.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let error = timeout(PATIENCE, third).await.unwrap().expect_err("there is no room");
    assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error}");
}

#[tokio::test]
async fn an_older_program_is_told_so_although_its_opening_is_shorter() {
    let (rim, mut events) = honest(config());
    let endpoint = rogue(&Identity::generate().unwrap());
    let connection = connect(&endpoint, &rim).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    // As version 3 opened: one proof, and then it waits for an answer.
    send.write_all(&[b"RHIZOMQ\n".as_slice(), &[0, 3, 0, 3], &[7; 32]].concat()).await.unwrap();
    let told = farewell(&connection).await;
    assert_eq!(told.code, CloseCode::NoCommonVersion);
    assert!(told.text.contains("upgrade the older"), "{told}");
    assert_eq!(refused(&mut events).await.farewell.code, CloseCode::NoCommonVersion);
}

#[tokio::test]
async fn a_dialler_refuses_a_listener_without_the_secret() {
    let (rim, mut events) = honest(config());
    let rogue_identity = Identity::generate().unwrap();
    let endpoint = rogue(&rogue_identity);
    rim.dial([(None, vec![endpoint.local_addr().unwrap()])]);
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    // It has everything but the secret, and sends the dialler's own proof back.
    let mut opening = [0; HEAD_BYTES + PROOFS_BYTES];
    recv.read_exact(&mut opening).await.unwrap();
    send.write_all(&opening).await.unwrap();
    assert_eq!(farewell(&connection).await.code, CloseCode::WrongSecret);
    let refused = refused(&mut events).await;
    assert_eq!((refused.by_peer, refused.farewell.code), (false, CloseCode::WrongSecret));
}

/// The rogue knows the secret, and has the link up to its hello.
async fn proven(endpoint: &Endpoint, identity: &Identity, rim: &Rim) -> (Connection, super::handshake::Established) {
    let connection = connect(endpoint, rim).await;
    let (config, keyring) = (config(), Keyring::from(secret()));
    let handshake = Handshake {
        connection: &connection,
        config: &config,
        keyring: &keyring,
        node: identity.node(),
        peer: rim.node(),
    };
    let established = handshake.dial().await.unwrap();
    (connection, established)
}

#[tokio::test]
async fn even_a_proven_peer_has_limits() {
    let (rim, mut events) = honest(config());
    let identity = Identity::generate().unwrap();
    let endpoint = rogue(&identity);

    let (connection, mut established) = proven(&endpoint, &identity, &rim).await;
    let long = frame::encode([vec![0; MAX_HELLO_BYTES + 1].into()]).concat();
    established.send.write_all(&long).await.unwrap();
    assert_eq!(farewell(&connection).await.code, CloseCode::Malformed);
    assert_eq!(refused(&mut events).await.farewell.code, CloseCode::Malformed);

    let (connection, mut established) = proven(&endpoint, &identity, &rim).await;
    assert!(established.complete().await);
    let up = timeout(PATIENCE, events.recv()).await.unwrap();
    assert!(matches!(up, Some(RimEvent::LinkUp { .. })), "{up:?}");
    established.send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let farewell = farewell(&connection).await;
    assert_eq!(farewell.code, CloseCode::Malformed);
    assert!(farewell.text.contains("4294967295 bytes"), "{farewell}");
    let down = timeout(PATIENCE, events.recv()).await.unwrap();
    assert!(matches!(down, Some(RimEvent::LinkDown { .. })), "{down:?}");
}

#[tokio::test]
async fn a_proof_from_another_session_is_worthless() {
    let (rim, mut events) = honest(config());
    let identity = Identity::generate().unwrap();
    let endpoint = rogue(&identity);
    // Overhear a good opening by being dialled by an honest node, and use it in a session of one's own.
    let (victim, _victim_events) = honest(config());
    victim.dial([(None, vec![endpoint.local_addr().unwrap()])]);
    let overheard = endpoint.accept().await.unwrap().await.unwrap();
    let (_send, mut recv) = overheard.accept_bi().await.unwrap();
    let mut opening = [0; HEAD_BYTES + PROOFS_BYTES];
    recv.read_exact(&mut opening).await.unwrap();

    let connection = connect(&endpoint, &rim).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&opening).await.unwrap();
    assert_eq!(farewell(&connection).await.code, CloseCode::WrongSecret);
    assert_eq!(refused(&mut events).await.farewell.code, CloseCode::WrongSecret);
}

/// Presents someone else's certificate, and signs with the only key it has: its own.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_opens_nothing() {
    let (rim, mut events) = honest(config());
    let (victim, thief) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let key = rustls::crypto::ring::sign::any_supported_type(&thief.private_key()).unwrap();
    let endpoint = rogue(&thief);
    for (certificate, gets_in) in [(victim.certificate(), false), (thief.certificate(), true)] {
        let certified = Arc::new(CertifiedKey::new(vec![certificate], Arc::clone(&key)));
        let config = tls::client_config_presenting(Arc::new(Impostor(certified))).unwrap();
        let connecting = endpoint.connect_with(config, rim.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
        // With TLS 1.3 a client takes itself for connected before the server has looked at its certificate.
        let connection = connecting.await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0; HEAD_BYTES + PROOFS_BYTES]).await.unwrap();
        let error = timeout(PATIENCE, connection.closed()).await.expect("closed in time");
        assert_eq!(matches!(error, ConnectionError::ApplicationClosed(_)), gets_in, "{error}");
    }
    assert_eq!(refused(&mut events).await.farewell.code, CloseCode::Malformed);
    assert_eq!(rim.stats().refused, 1, "the other one did not get beyond TLS");
}
