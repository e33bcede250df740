//! Who is let in, with real sockets and processes: from elsewhere (as a PROXY header says it), with passcodes, with certificates,
//! on all nodes, and after restarts.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Instant,
};

use serde_json::json;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    support::{
        PATIENCE,
        cluster::Cluster,
        eventually,
        node::{Node, Setup},
        stomp::Client,
    },
    transports::{self, Certificates},
};

const PASSCODE: &str = "correct horse: battery\\staple";
const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [192, 0, 2, 7];

fn ada(passcode: &str) -> [(&str, &str); 2] {
    [("login", "ada"), ("passcode", passcode)]
}

/// A connection through a proxy that says where it comes from.
fn from(node: &Node, source: [u8; 4]) -> Client {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source);
    header.extend([10, 0, 0, 1, 0x12, 0x34, 0xf0, 0xad]);
    let mut client = Client::raw(node.stomp).expect("a connection");
    client.write_raw(&header).expect("the header");
    client
}

/// CONNECT is written as it is: nothing is escaped in it.
fn hello(client: &mut Client, login: &[(&str, &str)]) -> Result<(), String> {
    let headers: String = login.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let connect = format!("CONNECT\naccept-version:1.2\nhost:h\n{headers}\n\0");
    client.write_raw(connect.as_bytes()).map_err(|error| error.to_string())?;
    let frame = client.next_frame(PATIENCE).map_err(|error| error.to_string())?;
    if frame.command == "CONNECTED" { Ok(()) } else { Err(format!("{}. {}", frame.header("message"), frame.text())) }
}

/// Nothing that anybody can see of the node has the passcode, or what it is checked against.
fn tells_no_secret(node: &Node) {
    let status = node.status().expect("a status").to_string();
    let list = node.ask_in(&["user", "list"], &["--json"]).expect("a list");
    for (what, text) in [("the status", &status), ("the list", &list), ("the log", &node.log())] {
        for secret in [PASSCODE, "battery", "hash", "salt", "argon2", "verifier"] {
            assert!(!text.contains(secret), "{what} has `{secret}`: {text}");
        }
    }
}

#[test]
fn without_users_only_clients_of_the_same_machine_are_let_in_and_with_them_who_logs_in() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--proxy-protocol", "--copies", "1", "--log", "debug"];
    let mut node = Node::start(Setup::new(dir.path(), "n").with(&args));
    let mut local = from(&node, HERE);
    assert_eq!(hello(&mut local, &[]), Ok(()));
    let refused = hello(&mut from(&node, ELSEWHERE), &ada(PASSCODE)).unwrap_err();
    assert!(refused.contains("there are no users") && refused.contains("`rhizomq user add NAME`"), "{refused}");
    assert!(node.log().contains("no users are known here: clients of this machine are let in without a login"));

    let told = node.tell(&["user", "add"], &["ada", "--passcode-stdin"], &format!("{PASSCODE}\n")).unwrap();
    assert!(told.starts_with("ada is a user now") && told.contains("all clients have to log in"), "{told}");
    let frames = local.until_closed();
    assert!(frames.iter().any(|frame| frame.header("message").contains("there are users now")), "{frames:?}");
    for kill in [false, true] {
        if kill {
            node.kill();
            node.restart();
        }
        let mut client = from(&node, ELSEWHERE);
        assert_eq!(hello(&mut client, &ada(PASSCODE)), Ok(()));
        client.send_confirmed("/queue/a", b"from elsewhere").expect("a receipt");
        let wrong = hello(&mut from(&node, ELSEWHERE), &ada("wrong")).unwrap_err();
        let unknown = hello(&mut from(&node, HERE), &[("login", "bob"), ("passcode", PASSCODE)]).unwrap_err();
        assert!(wrong == unknown && wrong.starts_with("the login failed"), "{wrong} {unknown}");
        let none = hello(&mut from(&node, HERE), &[]).unwrap_err();
        assert!(none.starts_with("a login is needed"), "{none}");
        tells_no_secret(&node);
    }
    let log = node.log();
    assert!(log.contains("an operator makes a user") && log.contains("a login failed"), "{log}");
    assert_eq!(log.matches("no users are known here").count(), 1, "after the restart there is one");
    let list = node.ask_in(&["user", "list"], &[]).unwrap();
    let row: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["ada", "passcode", "everything"]);
    assert!(node.ask_in(&["user", "remove"], &["bob"]).unwrap_err().contains("there is no user `bob`"));
    let told = node.ask_in(&["user", "remove"], &["ada"]).unwrap();
    assert!(told.contains("There are no users any more"), "{told}");
    assert_eq!(hello(&mut from(&node, HERE), &[]), Ok(()));
}

#[test]
fn a_node_can_let_nobody_in_without_a_login_even_without_users() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n").with(&["--require-login", "--copies", "1"]));
    let refused = hello(&mut Client::raw(node.stomp).unwrap(), &ada(PASSCODE)).unwrap_err();
    assert!(refused.contains("lets nobody in without a login"), "{refused}");
    assert!(node.log().contains("nobody is let in until there is one"));
    let file = dir.path().join("passcode");
    fs::write(&file, format!("{PASSCODE}\r\nsecond line")).unwrap();
    node.ask_in(&["user", "add"], &["ada", "--passcode-file", file.to_str().unwrap()]).unwrap();
    assert_eq!(hello(&mut Client::raw(node.stomp).unwrap(), &ada(PASSCODE)), Ok(()));
    for (input, word) in [("", "empty"), ("a\tb", "control characters"), (&"x".repeat(2000), "longer than 1024 bytes")]
    {
        let refused = node.tell(&["user", "passwd"], &["ada", "--passcode-stdin"], input).unwrap_err();
        assert!(refused.contains(word) && !refused.contains("xxx"), "{refused}");
    }
    assert_eq!(hello(&mut Client::raw(node.stomp).unwrap(), &ada(PASSCODE)), Ok(()), "nothing was changed");
}

#[test]
fn what_comes_with_connect_counts_although_a_websocket_closes_while_the_client_is_being_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n").with(&["--copies", "1", "--stomp-ws", "127.0.0.1:0"]));
    node.add_user("ada", PASSCODE, &[]);
    let mut stream = TcpStream::connect(node.listener("stomp-ws")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).unwrap() > 0 && head.starts_with(b"HTTP/1.1 101"));
    let frames = format!(
        "CONNECT\naccept-version:1.2\nhost:h\nlogin:ada\npasscode:{PASSCODE}\n\n\0\
         SEND\ndestination:/queue/once\nreceipt:sent\n\nx\0DISCONNECT\nreceipt:bye\n\n\0"
    );
    // A text frame and a close frame, masked with zeros.
    let mut bytes = vec![0x81, 0x80 | 126];
    bytes.extend((frames.len() as u16).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(frames.as_bytes());
    bytes.extend([0x88, 0x80, 0, 0, 0, 0]);
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    for part in ["CONNECTED", "receipt-id:sent", "receipt-id:bye"] {
        assert!(answer.contains(part), "{answer}");
    }
}

#[test]
fn what_is_said_of_a_user_at_one_node_holds_at_all_and_at_once() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    a.add_user("ada", PASSCODE, &["--read", "/queue/in.#", "--write", "/queue/out"]);
    let connected = |passcode: &str| {
        let mut client = Client::raw(c.stomp).map_err(|error| error.to_string())?;
        hello(&mut client, &ada(passcode)).map(|()| client)
    };
    // Until it has heard of one, it lets its own machine in without a look at the login.
    eventually("the user at another node", || match c.ask_in(&["user", "list"], &[])? {
        list if list.contains("ada") => Ok(()),
        list => Err(list),
    });
    let mut client = connected(PASSCODE).unwrap();
    client.send_confirmed("/queue/out", b"allowed").expect("a receipt");
    client.subscribe("1", "/queue/in.x").expect("SUBSCRIBE");
    client.sync().expect("allowed");
    let error = client.send_confirmed("/queue/in.x", b"not allowed").unwrap_err().to_string();
    assert!(error.contains("your user has no write permission for /queue/in.x"), "{error}");
    let error = client.until_closed();
    assert!(error.is_empty(), "it is closed: {error:?}");

    let mut client = connected(PASSCODE).unwrap();
    client.subscribe("1", "/queue/in.x").expect("SUBSCRIBE");
    client.sync().expect("allowed");
    b.ask_in(&["user", "permit"], &["ada", "--write", "#", "--certificate", "no"]).unwrap();
    let frames = client.until_closed();
    let denied = frames.iter().any(|frame| frame.header("message").contains("no read permission for /queue/in.x"));
    assert!(denied, "{frames:?}");
    let list = c.ask_in(&["user", "list"], &["--json"]).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let permissions = [json!({ "read": [], "write": ["#"], "manage": [] })];
    let expected = json!([{ "name": "ada", "passcode": true, "certificate": false, "permissions": permissions }]);
    assert_eq!(list["users"], expected);

    // Nobody ever sees something between the two.
    let mut client = connected(PASSCODE).unwrap();
    b.tell(&["user", "passwd"], &["ada", "--passcode-stdin"], "another").unwrap();
    let frames = client.until_closed();
    assert!(
        frames.iter().any(|frame| frame.header("message").contains("passcode of your user was changed")),
        "{frames:?}"
    );
    assert!(connected(PASSCODE).is_err_and(|error| error.starts_with("the login failed")));
    let mut client = connected("another").unwrap();
    a.ask_in(&["user", "remove"], &["ada"]).unwrap();
    let frames = client.until_closed();
    assert!(frames.iter().any(|frame| frame.header("message").contains("your user was removed")), "{frames:?}");
    cluster.await_convergence();
    cluster.nodes.iter().for_each(tells_no_secret);
}

#[test]
fn many_clients_of_one_user_get_in_at_a_time_while_somebody_guesses() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n").with(&["--proxy-protocol", "--copies", "1"]));
    node.add_user("ada", PASSCODE, &[]);
    node.terminate();
    node.restart();
    let say = |source, passcode: &str| {
        let mut client = from(&node, source);
        let connect = format!("CONNECT\naccept-version:1.2\nhost:h\nlogin:ada\npasscode:{passcode}\n\n\0");
        client.write_raw(connect.as_bytes()).unwrap();
        client
    };
    let begun = Instant::now();
    let guesses: Vec<_> = (0..150).map(|guess| say(ELSEWHERE, &format!("guess {guess}"))).collect();
    let clients: Vec<_> = (0..150).map(|_| say(HERE, PASSCODE)).collect();
    for mut client in clients {
        assert_eq!(client.next_frame(PATIENCE).unwrap().command, "CONNECTED");
    }
    let all_in = begun.elapsed();
    for mut guess in guesses {
        let frame = guess.next_frame(PATIENCE).unwrap();
        let message = frame.header("message");
        let is_out = ["the login failed", "the login was not checked"].iter().any(|word| message.starts_with(word));
        assert!(frame.command == "ERROR" && is_out, "{frame}");
    }
    println!("150 clients were in after {all_in:?}, all guesses out after {:?}", begun.elapsed());
}

/// What is said to a client with this certificate, over TLS.
fn over_tls(address: SocketAddr, certificates: &Certificates, own: Option<&str>, login: &str) -> String {
    let read = |name: &str| CertificateDer::from_pem_file(certificates.path(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(read("ca.pem")).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(certificates.path(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![read(&format!("{name}.pem"))], key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(format!("CONNECT\naccept-version:1.2\nhost:h\n{login}\n\0").as_bytes()).unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|count| count == 1) && byte != [0] {
        said.extend(byte);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn a_certificate_of_a_users_name_is_a_login_for_who_may_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(Path::new(dir.path()));
    let node = transports::start(dir.path(), &certificates);
    let at = node.listener("stomp-tls");
    node.ask_in(&["user", "add"], &["client", "--certificate"]).unwrap();
    node.add_user("node", PASSCODE, &[]);
    assert!(over_tls(at, &certificates, Some("client"), "").starts_with("CONNECTED"));
    assert!(over_tls(at, &certificates, Some("client"), "login:client\n").starts_with("CONNECTED"));
    for (own, login) in [(None, ""), (Some("node"), ""), (Some("client"), "login:node\n"), (None, "login:client\n")] {
        let said = over_tls(at, &certificates, own, login);
        assert!(said.contains("message:a login is needed"), "{own:?} {login}: {said}");
    }
    let said = over_tls(at, &certificates, None, &format!("login:node\npasscode:{PASSCODE}\n"));
    assert!(said.starts_with("CONNECTED"), "{said}");
    let list = node.ask_in(&["user", "list"], &[]).unwrap();
    assert!(list.contains("client  certificate  everything") && list.contains("node    passcode"), "{list}");
    node.ask_in(&["user", "permit"], &["client", "--certificate", "no"]).expect_err("it has no passcode");
    node.tell(&["user", "passwd"], &["client", "--passcode-stdin"], "x").unwrap();
    node.ask_in(&["user", "permit"], &["client", "--certificate", "no"]).unwrap();
    assert!(over_tls(at, &certificates, Some("client"), "").contains("message:a login is needed"));
}
