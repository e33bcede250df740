//! STOMP over TLS, WebSocket and behind a proxy, with real sockets, and clients that others wrote: rustls and tungstenite.

mod host;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rhizomq_stomp::{
    BrokerConfig,
    rim::{ListenerConfig, Tls, TlsFiles},
    transport::proxy::SIGNATURE,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::{TLS12, TLS13},
};
use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

use crate::host::{Client, Host};

/// An authority, and certificates of it for `localhost` and for a client, in files.
struct Certificates {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority of {}", dir.path().display()));
        let authority = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        let certificates = Self { dir, authority: authority.der().clone(), issuer: Issuer::new(params, key) };
        let (certificate, key) = certificates.issue("localhost");
        fs::write(certificates.path("cert.pem"), certificate.pem()).unwrap();
        fs::write(certificates.path("key.pem"), key.serialize_pem()).unwrap();
        certificates
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.dir.path()).join(name)
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn tls(&self) -> Arc<Tls> {
        let (certificate, key, client_ca) = (self.path("cert.pem"), self.path("key.pem"), Some(self.path("ca.pem")));
        Arc::new(Tls::open(TlsFiles { certificate, key, client_ca }).unwrap())
    }

    /// A client that trusts the authority, and presents a certificate of `issuer`, if any.
    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<(rcgen::Certificate, KeyPair)>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                )
                .unwrap(),
        })
    }
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

fn over_tls(stream: TcpStream, config: Arc<ClientConfig>) -> TlsStream {
    let name = "localhost".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream)
}

fn upgrade<S: Read + Write>(stream: S, path: &str, protocols: &str) -> (WebSocket<S>, Option<String>) {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocols.parse().unwrap());
    }
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (socket, response) = tungstenite::client::client_with_config(request, stream, Some(config)).unwrap();
    let chosen = response.headers().get("Sec-WebSocket-Protocol").map(|value| value.to_str().unwrap().to_owned());
    (socket, chosen)
}

fn open(kinds: &[host::Kind<'_>]) -> Host {
    Host::open(BrokerConfig::default(), ListenerConfig::default(), kinds)
}

const CONNECT: &str = "CONNECT\naccept-version:1.2\nhost:h\n\n\0";

#[test]
fn stomp_is_served_over_tls_of_both_versions_with_and_without_a_client_certificate() {
    let certificates = Certificates::new();
    let tls = certificates.tls();
    let host = open(&[&|listener| listener.over_tls(tls.clone())]);
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        for identity in [None, Some(certificates.issue("orders"))] {
            let stream = over_tls(host.dial(0), certificates.client(&[version], identity));
            let mut client = Client::over(stream, "0,0");
            client.is_served(&format!("q{number}"));
            let large = "\u{e4}".repeat(1 << 20);
            client.publish(&large);
            client.write("SUBSCRIBE\nid:0\ndestination:/queue/q\n\n\0");
            let frame = client.frame().unwrap();
            assert!(frame.ends_with(&large), "{} bytes", frame.len());
            client.write("DISCONNECT\nreceipt:bye\n\n\0");
            assert!(client.frame().unwrap().contains("receipt-id:bye"));
            assert_eq!(client.frame(), None, "closed in order, which TLS would tell otherwise");
        }
    }
}

#[test]
fn a_client_certificate_of_another_authority_is_refused() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let tls = certificates.tls();
    let host = open(&[&|listener| listener.over_tls(tls.clone())]);
    let config = certificates.client(&[&TLS12], Some(others.issue("orders")));
    let mut stream = over_tls(host.dial(0), config);
    let error = stream.write_all(CONNECT.as_bytes()).and_then(|()| stream.read_exact(&mut [0]));
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("UnknownCA"), "{error}");
}

#[test]
fn a_new_certificate_is_shown_once_its_files_have_changed() {
    let certificates = Certificates::new();
    let tls = certificates.tls();
    let host = open(&[&|listener| listener.over_tls(tls.clone())]);
    let shown = || {
        let mut stream = over_tls(host.dial(0), certificates.client(&[&TLS13], None));
        stream.write_all(CONNECT.as_bytes()).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone()
    };
    let before = shown();
    assert_eq!(shown(), before);
    let (certificate, key) = certificates.issue("localhost");
    fs::write(certificates.path("cert.pem"), certificate.pem()).unwrap();
    fs::write(certificates.path("key.pem"), key.serialize_pem()).unwrap();
    let start = std::time::Instant::now();
    // The files are looked at once a second.
    while shown() != *certificate.der() {
        assert!(start.elapsed() < host::PATIENCE, "the former certificate is still shown");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn stomp_is_served_over_websocket_on_any_path_with_and_without_a_subprotocol() {
    let host = open(&[&rhizomq_stomp::rim::Listener::over_websocket]);
    for (path, offered, chosen) in [
        ("/", "", None),
        ("/ws", "v10.stomp, v11.stomp, v12.stomp", Some("v12.stomp")),
        ("/stomp", "v11.stomp,v10.stomp", Some("v11.stomp")),
        ("/a/b?c", "mqtt, v10.stomp", Some("v10.stomp")),
    ] {
        let (mut socket, answer) = upgrade(host.dial(0), path, offered);
        assert_eq!(answer.as_deref(), chosen);
        socket.send(Message::text(CONNECT)).unwrap();
        let Message::Text(text) = socket.read().unwrap() else { panic!("no text") };
        assert!(text.starts_with("CONNECTED\n") && text.ends_with("\0\n"), "{text}");
    }
}

#[test]
fn frames_may_be_split_and_joined_and_pings_are_answered() {
    let certificates = Certificates::new();
    let tls = certificates.tls();
    let host = open(&[&rhizomq_stomp::rim::Listener::over_websocket, &|listener| {
        listener.over_tls(tls.clone()).over_websocket()
    }]);
    let plain = upgrade(host.dial(0), "/", "v12.stomp").0;
    split_and_joined(plain);
    split_and_joined(upgrade(over_tls(host.dial(1), certificates.client(&[&TLS13], None)), "/ws", "v12.stomp").0);
}

fn split_and_joined<S: Read + Write>(mut socket: WebSocket<S>) {
    let (first, second) = CONNECT.split_at(20);
    socket.send(Message::text(first)).unwrap();
    socket.send(Message::Ping("are you there?".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("are you there?".into()));
    let rest = "SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0\nSEND\ndestination:/queue/a\n\ntext\0\
        SEND\ndestination:/queue/a\ncontent-length:3\n\n";
    socket.send(Message::binary([second.as_bytes(), rest.as_bytes(), b"\xff\0\xfe"].concat())).unwrap();
    socket.send(Message::binary(b"\0".to_vec())).unwrap();
    assert!(socket.read().unwrap().into_text().unwrap().starts_with("CONNECTED"));
    let text = socket.read().unwrap();
    assert!(text.is_text() && text.to_text().unwrap().ends_with("\n\ntext\0\n"), "{text}");
    let binary = socket.read().unwrap();
    assert!(binary.is_binary() && binary.into_data().ends_with(b"\n\n\xff\0\xfe\0\n"));
    // A large body is one message, in parts.
    let large = "\u{e4}\u{20ac}".repeat(1 << 20);
    socket.send(Message::text(format!("SEND\ndestination:/queue/a\n\n{large}\0"))).unwrap();
    let message = socket.read().unwrap().into_text().unwrap();
    assert!(message.ends_with(&format!("\n\n{large}\0\n")), "{} bytes", message.len());
}

#[test]
fn the_receipt_of_disconnect_comes_before_the_close_handshake() {
    let host = open(&[&rhizomq_stomp::rim::Listener::over_websocket]);
    let connect = || {
        let mut socket = upgrade(host.dial(0), "/", "v12.stomp").0;
        socket.send(Message::text(CONNECT)).unwrap();
        assert!(socket.read().unwrap().into_text().unwrap().starts_with("CONNECTED"));
        socket
    };
    let said_goodbye = |socket: &mut WebSocket<TcpStream>, receipts: &[&str]| {
        for receipt in receipts {
            let text = socket.read().unwrap().into_text().unwrap();
            assert!(text.starts_with("RECEIPT") && text.contains(&format!("receipt-id:{receipt}\n")), "{text}");
        }
        let close = socket.read().unwrap();
        assert!(matches!(&close, Message::Close(Some(CloseFrame { code: CloseCode::Normal, .. }))), "{close:?}");
    };
    // Whoever waits for the receipt is closed by us.
    let mut socket = connect();
    socket.send(Message::text("DISCONNECT\nreceipt:bye\n\n\0")).unwrap();
    said_goodbye(&mut socket, &["bye"]);
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    // Whoever closes at once still gets it, and what was asked before.
    let mut socket = connect();
    socket.send(Message::text("SEND\ndestination:/queue/a\nreceipt:sent\n\nx\0")).unwrap();
    socket.send(Message::text("DISCONNECT\nreceipt:bye\n\n\0")).unwrap();
    socket.close(None).unwrap();
    said_goodbye(&mut socket, &["sent", "bye"]);
    // Whoever closes without a word is answered too, and what it held goes to others.
    let mut socket = connect();
    socket.send(Message::text("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client\n\n\0")).unwrap();
    assert!(socket.read().unwrap().into_text().unwrap().starts_with("MESSAGE"));
    socket.close(None).unwrap();
    said_goodbye(&mut socket, &[]);
    let mut other = connect();
    other.send(Message::text("SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0")).unwrap();
    let text = other.read().unwrap().into_text().unwrap();
    assert!(text.starts_with("MESSAGE") && text.contains("redelivered:true"), "{text}");
}

/// A PROXY header for a client with this address.
fn proxied(address: [u8; 4]) -> Vec<u8> {
    let head = [&SIGNATURE[..], &[0x21, 0x11, 0, 12]].concat();
    [&head[..], &address, &[127, 0, 0, 1], &[0x9c, 0x41, 0xf0, 0xad]].concat()
}

#[test]
fn behind_a_proxy_clients_count_by_the_address_that_it_names() {
    let certificates = Certificates::new();
    let tls = certificates.tls();
    let clients = ListenerConfig { max_per_address: 2, ..ListenerConfig::default() };
    let host = Host::open(
        BrokerConfig::default(),
        clients,
        &[&|listener| listener.behind_proxy(true), &|listener| {
            listener.over_tls(tls.clone()).over_websocket().behind_proxy(true)
        }],
    );
    let dial = |listener: usize, address| {
        let mut stream = host.dial(listener);
        stream.write_all(&proxied(address)).unwrap();
        stream
    };
    // Without users only the same machine is let in; which of its addresses it is counts all the same.
    let (one, two) = ([127, 0, 0, 11], [127, 0, 0, 12]);
    let mut client = Client::over(dial(0, one), "0,0");
    let stream = over_tls(dial(1, one), certificates.client(&[&TLS13], None));
    let mut socket = upgrade(stream, "/", "").0;
    socket.send(Message::text(CONNECT)).unwrap();
    assert!(socket.read().unwrap().into_text().unwrap().starts_with("CONNECTED"));
    // A third of the same address is one too many, wherever it comes in; one of another address is not.
    let mut third = Client::new(dial(0, one));
    let frame = third.frame().expect("an error");
    assert!(frame.starts_with("ERROR") && frame.contains("too many connections"), "{frame}");
    assert_eq!(third.frame(), None);
    Client::over(dial(0, two), "0,0").is_served("two");
    client.is_served("one");
    drop((client, socket));
    // Their places come back.
    let start = std::time::Instant::now();
    while !Client::new(dial(0, one)).answers() {
        assert!(start.elapsed() < host::PATIENCE, "the places are still taken");
    }
}

impl Client {
    fn answers(&mut self) -> bool {
        let sent = self.stream.write_all(CONNECT.as_bytes());
        sent.is_ok() && self.frame().is_some_and(|frame| frame.starts_with("CONNECTED"))
    }
}

#[test]
fn what_comes_without_a_proxy_header_is_closed() {
    // At once: it does not take the time that is allowed for a good one.
    let clients = ListenerConfig { entry_timeout: host::PATIENCE * 100, ..ListenerConfig::default() };
    let host = Host::open(BrokerConfig::default(), clients, &[&|listener| listener.behind_proxy(true)]);
    for garbage in [CONNECT.as_bytes(), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"GE", &[0; 40]] {
        let mut stream = host.dial(0);
        stream.write_all(garbage).unwrap();
        // Closed, with or without a reset, and nothing is said.
        let ended = stream.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(ended, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{garbage:?}: {ended:?}");
    }
}
