//! What else clients may connect through than plain TCP: TLS and WebSocket, with clients that others wrote.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::{
    clients::{Foreign, QUEUE},
    support::{
        PATIENCE,
        cluster::{Cluster, publish_all, texts},
        eventually,
        node::{Node, Setup},
    },
};

/// An authority, a certificate of it for loopback, and one for a client, in files.
pub(crate) struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    pub(crate) fn new(dir: &Path) -> Self {
        let files = Self { dir: dir.to_owned() };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        fs::write(files.path("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for (name, names) in [("node", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]), ("client", Vec::new())] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.use_authority_key_identifier_extension = true;
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(files.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(files.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        files
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a path of text").to_owned()
    }

    /// The options for a node that is reached in every way.
    fn options(&self) -> Vec<String> {
        let mut options: Vec<String> = ["--stomp-tls", "--stomp-ws", "--stomp-wss"]
            .iter()
            .flat_map(|flag| [(*flag).to_owned(), "127.0.0.1:0".to_owned()])
            .collect();
        for (flag, file) in [("--tls-cert", "node.pem"), ("--tls-key", "node.key"), ("--tls-client-ca", "ca.pem")] {
            options.extend([flag.to_owned(), self.path(file)]);
        }
        options
    }
}

pub(crate) fn start(dir: &Path, certificates: &Certificates) -> Node {
    let mut setup = Setup::new(dir, "n").with(&["--copies", "1"]);
    setup.args.extend(certificates.options());
    Node::start(setup)
}

/// Theirs over one listener, ours over plain TCP, in both directions.
fn both_ways(client: &Foreign, node: &Node, listener: &str, env: &[(&str, String)]) {
    let at = node.listener(listener);
    let confirmed = client.run_at("publish", at, &["50", "theirs"], env);
    assert_eq!(confirmed, "confirmed 50 1");
    publish_all(node, QUEUE, &texts("ours", 50));
    let bodies = client.run_at("consume", at, &["100"], env);
    let bodies: BTreeSet<String> = bodies.lines().map(str::to_owned).collect();
    assert_eq!(bodies, &texts("theirs", 50) | &texts("ours", 50));
}

#[test]
fn stomp_py_speaks_over_tls_with_and_without_a_certificate_of_its_own_and_over_websocket() {
    let test = "stomp_py_speaks_over_tls_with_and_without_a_certificate_of_its_own_and_over_websocket";
    let Some(client) = Foreign::python(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(dir.path());
    let node = start(dir.path(), &certificates);
    let authority = ("RHIZOMQ_TEST_CA", certificates.path("ca.pem"));
    both_ways(&client, &node, "stomp-tls", std::slice::from_ref(&authority));
    let own = [("RHIZOMQ_TEST_CERT", "client.pem"), ("RHIZOMQ_TEST_KEY", "client.key")];
    let own = own.map(|(name, file)| (name, certificates.path(file)));
    both_ways(&client, &node, "stomp-tls", &[&[authority][..], &own].concat());
    both_ways(&client, &node, "stomp-ws", &[("RHIZOMQ_TEST_WS", "/ws".to_owned())]);
}

#[test]
fn stompjs_speaks_over_websocket_and_secure_websocket() {
    let Some(client) = Foreign::node("stompjs_speaks_over_websocket_and_secure_websocket") else { return };
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(dir.path());
    let node = start(dir.path(), &certificates);
    let env = |scheme: &str, listener: &str| {
        let url = format!("{scheme}://localhost:{}/stomp", node.listener(listener).port());
        vec![
            ("RHIZOMQ_TEST_WS", url),
            ("NODE_OPTIONS", "--experimental-websocket --no-warnings".to_owned()),
            ("NODE_EXTRA_CA_CERTS", certificates.path("ca.pem")),
        ]
    };
    both_ways(&client, &node, "stomp-ws", &env("ws", "stomp-ws"));
    both_ways(&client, &node, "stomp-wss", &env("wss", "stomp-wss"));
}

#[test]
fn what_is_wrong_with_the_files_for_tls_is_said_at_the_start_with_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(dir.path());
    let [cert, key, other] = ["node.pem", "node.key", "client.key"].map(|file| certificates.path(file));
    let absent = certificates.path("absent.pem");
    for (args, word) in [
        (vec!["--stomp-tls", "127.0.0.1:0"], "--tls-cert FILE and --tls-key FILE"),
        (vec!["--stomp-wss", "127.0.0.1:0", "--tls-cert", &cert], "--tls-cert FILE and --tls-key FILE"),
        (vec!["--stomp-tls", "127.0.0.1:0", "--tls-cert", &absent, "--tls-key", &key], "absent.pem: No such file"),
        (vec!["--stomp-tls", "127.0.0.1:0", "--tls-cert", &key, "--tls-key", &key], "has no certificate in PEM form"),
        (vec!["--stomp-tls", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &cert], "has no private key in PEM form"),
        (vec!["--stomp-tls", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &other], "can't be used together"),
        (vec!["--max-body", "1G"], "--max-body is 1G; it must be from 256 to 24117248"),
    ] {
        let failed = Node::try_start(Setup::new(dir.path(), "n").with(&args)).err().expect("it does not start");
        assert_eq!(failed.status.and_then(|status| status.code()), Some(2), "{args:?}: {failed}");
        assert!(failed.log.contains(word), "{args:?}: {failed}");
    }
    assert!(!dir.path().join("n").exists(), "nothing may be created before the settings are known to be good");
}

#[test]
fn an_address_that_others_can_reach_is_said_loudly_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = |name: &str, args: &[&str]| {
        let node = Node::start(Setup::new(dir.path(), name).with(args));
        let _ = node.status();
        node.log()
    };
    assert!(!log("a", &["--stomp-ws", "127.0.0.1:0"]).contains("in the clear"));
    let open = log("b", &["--stomp-ws", "0.0.0.0:0"]);
    assert!(open.contains("cross the network in the clear") && open.contains("--stomp-ws 0.0.0.0:"), "{open}");
}

#[test]
fn limits_can_be_set_and_hold() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--max-body", "1000", "--max-connections-per-address", "2", "--copies", "1", "--connect-timeout", "1"];
    let node = Node::start(Setup::new(dir.path(), "n").with(&args));
    let dial = || {
        let stream = TcpStream::connect(node.stomp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let said = |mut stream: TcpStream| {
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        said
    };
    let connected = || {
        let mut stream = dial();
        stream.write_all(b"CONNECT\naccept-version:1.2\nhost:h\n\n\0").unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
        stream
    };
    let (_other, mut large) = (connected(), connected());
    let third = said(dial());
    assert!(third.starts_with("ERROR\nmessage:too many connections"), "{third}");
    large.write_all(b"SEND\ndestination:/queue/a\ncontent-length:1001\n\n").unwrap();
    let large = said(large);
    assert!(large.contains("the body has more than 1000 bytes"), "{large}");
    eventually("the place of the one that was closed", || {
        let silent = said(dial());
        if silent.contains("no CONNECT frame within 1000 ms") { Ok(()) } else { Err(silent) }
    });
}

#[test]
fn the_largest_body_goes_through_a_cluster_from_members_and_observers() {
    const LARGEST: usize = 23 << 20;
    let cluster = Cluster::start(3);
    cluster.nodes[0].ask("size", &["2"]).expect("two members");
    eventually("one observer", || {
        let status = cluster.nodes[0].status()?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let observers = nodes.iter().filter(|node| node["role"] == "observer").count();
        if observers == 1 { Ok(()) } else { Err(format!("{observers} observers")) }
    });
    let body: Vec<u8> = (0..LARGEST).map(|at| (at % 251) as u8).collect();
    for (number, node) in cluster.nodes.iter().enumerate() {
        let (queue, topic) = (format!("/queue/large-{number}"), format!("/topic/large-{number}"));
        let mut consumer = cluster.nodes[(number + 1) % 3].client();
        consumer.subscribe("t", &topic).unwrap();
        consumer.sync().unwrap();
        let mut producer = node.client();
        // In a transaction too, which holds as much.
        let receipt = producer.send_confirmed(&queue, &body).unwrap();
        assert_eq!(receipt.header("copies"), "2");
        producer.write("BEGIN", &[("transaction", "1")], b"").unwrap();
        let headers = [("destination", &queue[..]), ("transaction", "1"), ("content-type", "application/octet-stream")];
        producer.write("SEND", &headers, &body).unwrap();
        producer.write("COMMIT", &[("transaction", "1"), ("receipt", "c")], b"").unwrap();
        let receipt = producer.next_frame(PATIENCE).unwrap();
        assert_eq!((&receipt.command[..], receipt.header("receipt-id")), ("RECEIPT", "c"), "{receipt}");
        consumer.subscribe("q", &queue).unwrap();
        for _ in 0..2 {
            let message = consumer.next_frame(PATIENCE).unwrap();
            assert_eq!((&message.command[..], message.header("subscription")), ("MESSAGE", "q"));
            assert!(message.body == body, "{} bytes", message.body.len());
            consumer.ack(&message).unwrap();
        }
        // Interest in a topic spreads by itself.
        eventually("the topic's message", || {
            producer.send_confirmed(&topic, &body).map_err(|error| error.to_string())?;
            let message = consumer.next_frame(Duration::from_secs(5)).map_err(|error| error.to_string())?;
            if message.body == body { Ok(()) } else { Err(format!("{} bytes", message.body.len())) }
        });
        // One more byte is too much.
        let head = format!("SEND\ndestination:{queue}\ncontent-length:{}\n\n", LARGEST + 1);
        producer.write_raw(head.as_bytes()).unwrap();
        let error = producer.next_frame(PATIENCE).unwrap();
        assert!(error.header("message").contains("more than 24117248 bytes"), "{error}");
    }
}
