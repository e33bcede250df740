//! Who is let in, what users may do, and what becomes of both when operators change their minds at several places.

use super::*;
use crate::{
    status::UserStatus,
    transport::{CertificateNames, Peer},
    users::{self, AccessSpec, Cost, Passcode, Right, UserChange, UserError, Verifier},
};

const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
const ADA: [(&str, &str); 2] = [("login", "ada"), ("passcode", "lovelace")];

fn verifier(passcode: &str) -> Verifier {
    Verifier::new(&Passcode::claimed(passcode), [3; 16], CHEAP).unwrap()
}

/// Patterns by right: `read /queue/a`.
fn spec(lines: &[&str]) -> AccessSpec {
    let mut all: BTreeMap<Right, Vec<String>> = BTreeMap::new();
    for line in lines {
        let (right, pattern) = line.split_once(' ').unwrap();
        let right = match right {
            "read" => Right::Read,
            "write" => Right::Write,
            _ => Right::Manage,
        };
        all.entry(right).or_default().push(pattern.to_owned());
    }
    AccessSpec { lines: Some(all), certificate: None }
}

fn add(name: &str, passcode: &str, access: AccessSpec) -> UserChange {
    UserChange::Add { name: name.to_owned(), verifier: Some(verifier(passcode)), access }
}

fn passwd(name: &str, passcode: &str) -> UserChange {
    UserChange::Passcode { name: name.to_owned(), verifier: verifier(passcode) }
}

fn permit(name: &str, lines: &[&str]) -> UserChange {
    UserChange::Access { name: name.to_owned(), access: spec(lines) }
}

fn remove(name: &str) -> UserChange {
    UserChange::Remove { name: name.to_owned() }
}

fn peer(address: &str) -> Peer {
    Peer { address: Some(address.parse().unwrap()), certificate: None }
}

fn certified(common_name: &str, others: &[&str]) -> Peer {
    let alternative_names = others.iter().map(|name| (*name).to_owned()).collect();
    let certificate = Some(CertificateNames { common_name: Some(common_name.to_owned()), alternative_names });
    Peer { certificate, ..peer("192.0.2.1:1") }
}

impl Mesh {
    fn try_change(&mut self, host: usize, change: &UserChange) -> Result<ChangeId, UserError> {
        let id = self.hosts[host].broker.change_user(self.now, change);
        self.settle();
        id
    }

    /// Changes a user, and sees that it is done.
    fn change(&mut self, host: usize, change: &UserChange) {
        let id = self.try_change(host, change).unwrap();
        assert_eq!(self.changes.get(&(host, id)), Some(&true));
    }

    fn users(&self, host: usize) -> Vec<UserStatus> {
        self.hosts[host].broker.users()
    }

    fn names(&self, host: usize) -> Vec<String> {
        self.users(host).into_iter().map(|user| user.name).collect()
    }

    /// A connection from there, which says so of itself; what it is told.
    fn dial(&mut self, conn: u64, host: usize, peer: Peer, headers: &[(&str, &str)]) -> Vec<Frame> {
        let conn = ConnId(conn);
        let decoder = Decoder::new(Limits::default());
        self.clients.insert(conn, Client { host, decoder, written: 0, frames: Vec::new(), closed: false });
        self.hosts[host].broker.handle_client_open_from(self.now, conn, peer);
        let all = [("accept-version", "1.2"), ("host", "/")].into_iter().chain(headers.iter().copied());
        self.send_frame(conn, Frame::new(Command::Connect, all));
        self.take(conn)
    }

    /// What becomes of a login: nothing, or the text of the ERROR.
    fn login(&mut self, conn: u64, host: usize, peer: Peer, headers: &[(&str, &str)]) -> Result<ConnId, String> {
        let frames = self.dial(conn, host, peer, headers);
        assert_eq!(frames.len(), 1, "{frames:?}");
        match frames[0].command {
            Command::Connected => Ok(ConnId(conn)),
            Command::Error => {
                assert!(self.clients[&ConnId(conn)].closed);
                let body = String::from_utf8(frames[0].body.to_vec()).unwrap();
                Err(format!("{}. {body}", frames[0].headers.get("message").unwrap_or_default()))
            }
            _ => panic!("{frames:?}"),
        }
    }

    /// What becomes of a frame that a client of this user sends: a receipt, or the text of the ERROR.
    fn tries(
        &mut self,
        conn: u64,
        login: &[(&str, &str)],
        command: Command,
        headers: &[(&str, &str)],
    ) -> Result<(), String> {
        let conn = self.login(conn, 0, peer("192.0.2.1:1"), login).unwrap();
        self.asks(conn, command, headers)
    }

    fn asks(&mut self, conn: ConnId, command: Command, headers: &[(&str, &str)]) -> Result<(), String> {
        let all = headers.iter().copied().chain([("receipt", "r")]);
        self.send_frame(conn, Frame::new(command, all));
        let frames = self.take(conn);
        let last = frames.iter().find(|frame| frame.command != Command::Message).expect("an answer");
        match last.command {
            Command::Receipt => Ok(()),
            _ => Err(last.headers.get("message").unwrap_or_default().to_owned()),
        }
    }
}

#[test]
fn without_users_only_this_machine_is_let_in_and_others_are_told_what_to_do() {
    let mut mesh = Mesh::new(1);
    for (conn, address) in (1..).zip(["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"]) {
        assert_eq!(mesh.login(conn, 0, peer(address), &ADA), Ok(ConnId(conn)), "{address}");
    }
    for (conn, address) in
        (11..).zip(["192.0.2.1:1", "10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1", "0.0.0.0:1"])
    {
        let refused = mesh.login(conn, 0, peer(address), &ADA).unwrap_err();
        assert!(refused.contains("there are no users") && refused.contains("`rhizomq user add NAME`"), "{refused}");
    }
    mesh.require_login = true;
    mesh.restart(0);
    let refused = mesh.login(21, 0, peer("127.0.0.1:1"), &[]).unwrap_err();
    assert!(
        refused.contains("lets nobody in without a login") && refused.contains("`rhizomq user add NAME`"),
        "{refused}"
    );
    mesh.change(0, &add("ada", "lovelace", AccessSpec::default()));
    assert!(mesh.login(22, 0, peer("127.0.0.1:1"), &ADA).is_ok());
}

#[test]
fn a_user_logs_in_at_every_node_and_nobody_else_does_whatever_is_wrong() {
    let mut mesh = Mesh::new(3);
    let own = mesh.login(1, 2, peer("127.0.0.1:1"), &[]).unwrap();
    mesh.change(0, &add("ada", "lovelace", AccessSpec::default()));
    let certified_only = AccessSpec { certificate: Some(true), ..AccessSpec::default() };
    mesh.change(1, &UserChange::Add { name: "card".to_owned(), verifier: None, access: certified_only });
    assert!(mesh.error(own).unwrap().contains("there are users now"), "also at a node that nobody told");
    for host in 0..3 {
        let conn = 10 * (host as u64 + 1);
        assert!(mesh.login(conn, host, peer("192.0.2.1:1"), &ADA).is_ok());
        let mut told = BTreeSet::new();
        for (number, (name, passcode)) in
            [("ada", "Lovelace"), ("ada", "lovelace "), ("bob", "lovelace"), ("card", "lovelace"), ("Ada", "lovelace")]
                .into_iter()
                .enumerate()
        {
            let headers = [("login", name), ("passcode", passcode)];
            told.insert(mesh.login(conn + 1 + number as u64, host, peer("127.0.0.1:1"), &headers).unwrap_err());
        }
        assert_eq!(told.len(), 1, "nobody learns what was wrong: {told:?}");
        assert!(told.first().unwrap().starts_with("the login failed"));
    }
    for (conn, headers) in
        (50..).zip([&[][..], &[("login", "ada")], &[("passcode", "lovelace")], &[("login", ""), ("passcode", "")]])
    {
        let refused = mesh.login(conn, 0, peer("127.0.0.1:1"), headers).unwrap_err();
        assert!(refused.starts_with("a login is needed") && refused.contains("`passcode`"), "{refused}");
    }
    mesh.restart(0);
    assert!(mesh.login(60, 0, peer("192.0.2.1:1"), &ADA).is_ok(), "it is on the disk");
}

#[test]
fn while_a_passcode_is_checked_nothing_is_done_and_nothing_is_read() {
    let mut mesh = Mesh::new(1);
    mesh.change(0, &add("ada", "lovelace", AccessSpec::default()));
    mesh.holds_checks = true;
    let one = ConnId(1);
    assert_eq!(mesh.dial(1, 0, peer("192.0.2.1:1"), &ADA), []);
    assert!(mesh.paused.contains(&one));
    mesh.frame(one, Command::Send, &[("destination", "/queue/a"), ("receipt", "1")]);
    assert_eq!((mesh.take(one), mesh.waiting(0)), (vec![], BTreeMap::new()));
    mesh.check_all();
    mesh.settle();
    let commands: Vec<_> = mesh.take(one).iter().map(|frame| frame.command).collect();
    assert_eq!(commands, [Command::Connected, Command::Receipt]);
    assert!(!mesh.paused.contains(&one) && mesh.waiting(0).len() == 1);
    // Verdicts about nobody.
    for conn in [one, ConnId(99)] {
        mesh.hosts[0].broker.handle_login_checked(mesh.now, conn, Verdict::Wrong);
    }
    mesh.settle();
    assert!(mesh.asks(one, Command::Send, &[("destination", "/queue/a")]).is_ok());
}

#[test]
fn a_verdict_about_a_user_who_was_changed_meanwhile_lets_nobody_in() {
    let access = || spec(&["read /queue/a"]);
    for (change, word) in [
        (remove("ada"), "your user was removed"),
        (passwd("ada", "byron"), "the passcode of your user was changed"),
        (permit("ada", &[]), ""),
    ] {
        let mut mesh = Mesh::new(2);
        mesh.change(0, &add("ada", "lovelace", access()));
        mesh.holds_checks = true;
        assert_eq!(mesh.dial(1, 0, peer("192.0.2.1:1"), &ADA), []);
        mesh.change(1, &change);
        mesh.check_all();
        mesh.settle();
        if word.is_empty() {
            assert_eq!(mesh.take(ConnId(1))[0].command, Command::Connected);
            let denied = mesh.asks(ConnId(1), Command::Subscribe, &[("id", "1"), ("destination", "/queue/a")]);
            assert!(denied.unwrap_err().contains("no read permission"), "it has the permissions of now");
        } else {
            assert!(mesh.error(ConnId(1)).unwrap().contains(word), "{word}");
        }
    }
    // Removed, and made anew: another account.
    let mut mesh = Mesh::new(1);
    mesh.change(0, &add("ada", "lovelace", access()));
    mesh.holds_checks = true;
    assert_eq!(mesh.dial(1, 0, peer("192.0.2.1:1"), &ADA), []);
    mesh.change(0, &remove("ada"));
    mesh.change(0, &add("ada", "lovelace", access()));
    mesh.check_all();
    mesh.settle();
    assert!(mesh.error(ConnId(1)).unwrap().contains("your user was removed"));
}

#[test]
fn a_certificate_is_a_login_for_users_who_may_log_in_so() {
    let mut mesh = Mesh::new(2);
    let with_certificate = AccessSpec { certificate: Some(true), ..AccessSpec::default() };
    mesh.change(0, &UserChange::Add { name: "card".to_owned(), verifier: None, access: with_certificate });
    mesh.change(0, &add("ada", "lovelace", AccessSpec::default()));
    assert!(mesh.login(1, 1, certified("card", &[]), &[]).is_ok());
    assert!(mesh.login(2, 1, certified("x", &["y", "card"]), &[]).is_ok());
    assert!(mesh.login(3, 1, certified("x", &["card"]), &[("login", "card")]).is_ok());
    for (conn, peer, headers) in [
        (10, certified("ada", &[]), &[][..]),
        (11, certified("Card", &[]), &[]),
        (12, certified("card", &[]), &[("login", "ada")]),
        (13, peer("127.0.0.1:1"), &[("login", "card")]),
    ] {
        assert!(mesh.login(conn, 1, peer, headers).unwrap_err().starts_with("a login is needed"), "{conn}");
    }
    assert!(mesh.login(14, 1, certified("card", &[]), &ADA).is_ok(), "who sends a passcode means it");
    let wrong = [("login", "ada"), ("passcode", "x")];
    assert!(mesh.login(15, 1, certified("card", &[]), &wrong).unwrap_err().starts_with("the login failed"));
    // Taken back.
    mesh.change(0, &passwd("card", "pin"));
    assert!(
        mesh.asks(ConnId(1), Command::Send, &[("destination", "/queue/a")]).is_ok(),
        "it has no passcode to be changed"
    );
    let without = AccessSpec { lines: None, certificate: Some(false) };
    mesh.change(0, &UserChange::Access { name: "card".to_owned(), access: without });
    for conn in 1..=3 {
        assert!(mesh.error(ConnId(conn)).unwrap().contains("may not log in by certificate any more"));
    }
    assert!(mesh.asks(ConnId(14), Command::Send, &[("destination", "/queue/a")]).is_ok());
    assert!(mesh.login(16, 1, certified("card", &[]), &[]).is_err());
}

#[test]
fn each_frame_needs_its_permission_for_every_destination_it_names() {
    use Command::{Send, Subscribe};
    let mut mesh = Mesh::new(1);
    let lines = ["read /queue/r.*", "read /topic/t.#", "write /queue/w", "write /topic/t.out", "manage /topic/t.*"];
    mesh.change(0, &add("ada", "lovelace", spec(&lines)));
    let node = mesh.hosts[0].broker.node().id();
    let reply = format!("/reply-queue/{node}.1.1.0");
    let mut conn = 0;
    let mut tries = |command, headers: &[(&str, &str)]| {
        conn += 1;
        mesh.tries(conn, &ADA, command, headers)
    };
    for destination in ["/queue/w", "/amq/queue/w", "/topic/t.out", "/queue/w,/topic/t.out", "/temp-queue/x", &reply] {
        assert_eq!(tries(Send, &[("destination", destination)]), Ok(()), "{destination}");
    }
    for (destination, named) in [
        ("/queue/r.a", "/queue/r.a"),
        ("w", "w"),
        ("/topic/t.x", "/topic/t.x"),
        ("/queue/w,/queue/x", "/queue/x"),
        ("/queue/x,/queue/w", "/queue/x"),
        ("/exchange/amq.topic/t.x", "/topic/t.x"),
    ] {
        let denied = tries(Send, &[("destination", destination)]).unwrap_err();
        assert_eq!(denied, format!("your user has no write permission for {named}"));
    }
    for destination in ["/queue/r.a", "/topic/t.x", "/topic/t.*.>", "/temp-queue/x"] {
        assert_eq!(tries(Subscribe, &[("id", "1"), ("destination", destination)]), Ok(()), "{destination}");
    }
    for destination in ["/queue/w", "/queue/r.a.b", "/topic/#", "/topic/*.x"] {
        let denied = tries(Subscribe, &[("id", "1"), ("destination", destination)]).unwrap_err();
        assert_eq!(denied, format!("your user has no read permission for {destination}"));
    }
    // A reply-to of one's own subscribes by itself.
    assert_eq!(tries(Send, &[("destination", "/queue/w"), ("reply-to", "/temp-queue/x")]), Ok(()));
    // A transaction is looked at when it is committed: nothing of it happens.
    let before = mesh.waiting(0);
    let one = mesh.login(100, 0, peer("192.0.2.1:1"), &ADA).unwrap();
    mesh.frame(one, Command::Begin, &[("transaction", "t")]);
    mesh.frame(one, Send, &[("transaction", "t"), ("destination", "/queue/w")]);
    mesh.frame(one, Send, &[("transaction", "t"), ("destination", "/queue/x")]);
    let denied = mesh.asks(one, Command::Commit, &[("transaction", "t")]).unwrap_err();
    assert!(denied.contains("write permission for /queue/x"), "{denied}");
    assert_eq!(mesh.waiting(0), before);
}

#[test]
fn what_comes_behind_a_denied_frame_in_the_same_packet_is_not_done() {
    let mut mesh = Mesh::new(1);
    mesh.change(0, &add("ada", "lovelace", spec(&["write /queue/a"])));
    let one = mesh.login(1, 0, peer("192.0.2.1:1"), &ADA).unwrap();
    let send = |queue: &str| format!("SEND\ndestination:/queue/{queue}\n\nx\0");
    let now = mesh.now;
    let packet = [send("a"), send("b"), send("a")].concat();
    mesh.hosts[0].broker.handle_client_bytes(now, one, packet.as_bytes());
    mesh.settle();
    assert!(mesh.error(one).unwrap().contains("write permission for /queue/b"));
    assert_eq!(mesh.waiting(0).values().sum::<u64>(), 1);
}

#[test]
fn another_topic_for_a_shared_subscription_needs_the_right_to_manage_all_that_it_has() {
    let mut mesh = Mesh::new(1);
    mesh.change(0, &add("ada", "lovelace", spec(&["read /topic/#", "manage /topic/a"])));
    mesh.change(0, &add("eve", "e", spec(&["read /topic/#", "manage /topic/m"])));
    let eve = [("login", "eve"), ("passcode", "e")];
    let durable = [("durable", "true"), ("auto-delete", "false"), ("x-queue-name", "shared")];
    let subscribe = |topic| [&[("id", "1"), ("destination", topic)], &durable[..]].concat();
    assert_eq!(mesh.tries(1, &ADA, Command::Subscribe, &subscribe("/topic/a")), Ok(()));
    let denied = mesh.tries(2, &eve, Command::Subscribe, &subscribe("/topic/m")).unwrap_err();
    assert_eq!(denied, "your user has no manage permission for /topic/a");
    assert_eq!(mesh.tries(3, &eve, Command::Subscribe, &subscribe("/topic/a")), Ok(()), "whoever may read it");
}

#[test]
fn a_denied_acknowledgement_in_a_transaction_gives_the_message_back() {
    let mut mesh = Mesh::new(1);
    mesh.change(0, &add("ada", "lovelace", spec(&["read /queue/a", "write /queue/a"])));
    let one = mesh.login(1, 0, peer("192.0.2.1:1"), &ADA).unwrap();
    mesh.send(one, "/queue/a", "kept");
    mesh.subscribe(one, "1", "/queue/a", &[("ack", "client")]);
    let message = mesh.take(one).into_iter().find(|frame| frame.command == Command::Message).unwrap();
    mesh.frame(one, Command::Begin, &[("transaction", "t")]);
    mesh.frame(one, Command::Ack, &[("transaction", "t"), ("id", message.headers.get("ack").unwrap())]);
    mesh.frame(one, Command::Send, &[("transaction", "t"), ("destination", "/queue/b")]);
    assert!(mesh.asks(one, Command::Commit, &[("transaction", "t")]).is_err());
    let two = mesh.login(2, 0, peer("192.0.2.1:1"), &ADA).unwrap();
    mesh.subscribe(two, "1", "/queue/a", &[]);
    assert_eq!(mesh.bodies(two), ["kept"]);
}

#[test]
fn durable_subscriptions_need_manage_to_be_made_and_deleted_and_read_for_all_their_topics() {
    use Command::{Subscribe, Unsubscribe};
    let mut mesh = Mesh::new(2);
    let reader = [("login", "reader"), ("passcode", "r")];
    let boss = [("login", "boss"), ("passcode", "b")];
    mesh.change(0, &add("reader", "r", spec(&["read /topic/open.#"])));
    mesh.change(0, &add("boss", "b", AccessSpec::default()));
    let durable = |topic| {
        [("id", "1"), ("destination", topic), ("durable", "true"), ("auto-delete", "false"), ("x-queue-name", "q")]
    };
    let denied = mesh.tries(1, &reader, Subscribe, &durable("/topic/open.a")).unwrap_err();
    assert_eq!(denied, "your user has no manage permission for /topic/open.a");
    assert!(mesh.tries(2, &boss, Subscribe, &durable("/topic/open.a")).is_ok());
    assert_eq!(mesh.tries(3, &reader, Subscribe, &durable("/topic/open.a")), Ok(()), "it is there");
    // Whoever reads it would get what is sent to the other topic.
    // At whichever node it is bound.
    let boss_is = mesh.login(4, 1, peer("192.0.2.1:1"), &boss).unwrap();
    assert!(mesh.asks(boss_is, Subscribe, &durable("/topic/closed")).is_ok());
    assert!(mesh.error(ConnId(3)).unwrap().contains("no read permission for /topic/closed"));
    let denied = mesh.tries(5, &reader, Subscribe, &durable("/topic/open.a")).unwrap_err();
    assert_eq!(denied, "your user has no read permission for /topic/closed");
    let delete = [("id", "1"), ("durable", "true"), ("x-queue-name", "q")];
    let denied = mesh.tries(6, &reader, Unsubscribe, &delete).unwrap_err();
    assert!(denied.contains("no manage permission for /topic/"), "{denied}");
    assert_eq!(mesh.tries(7, &boss, Unsubscribe, &delete), Ok(()));
    assert!(mesh.hosts[0].broker.subscriptions().is_empty());
    // One that has one topic at a time: another one takes the place of the first, which is as good as deleting.
    let classic = |topic| [("id", "1"), ("destination", topic), ("activemq.subscriptionName", "s")];
    let with_client = |login: [(&'static str, &'static str); 2]| [login[0], login[1], ("client-id", "app")];
    mesh.change(0, &permit("reader", &["read /topic/#", "manage /topic/mine"]));
    assert!(mesh.tries(8, &with_client(boss), Subscribe, &classic("/topic/theirs")).is_ok());
    let denied = mesh.tries(9, &with_client(reader), Subscribe, &classic("/topic/mine")).unwrap_err();
    assert_eq!(denied, "your user has no manage permission for /topic/theirs");
}

#[test]
fn what_operators_change_takes_effect_at_once_on_all_nodes() {
    let mut mesh = Mesh::new(3);
    let lines = ["read /queue/a", "read /queue/b", "write /queue/a"];
    mesh.change(0, &add("ada", "lovelace", spec(&lines)));
    mesh.change(0, &add("bob", "b", AccessSpec::default()));
    let bob = mesh.login(1, 2, peer("192.0.2.1:1"), &[("login", "bob"), ("passcode", "b")]).unwrap();
    let ada = mesh.login(2, 2, peer("192.0.2.1:1"), &ADA).unwrap();
    mesh.subscribe(ada, "1", "/queue/a", &[("ack", "client")]);
    let gone = mesh.login(3, 2, peer("192.0.2.1:1"), &ADA).unwrap();
    mesh.subscribe(gone, "1", "/queue/b", &[]);
    mesh.change(1, &permit("ada", &["read /queue/a"]));
    assert!(mesh.error(gone).unwrap().contains("no read permission for /queue/b"), "it had subscribed to it");
    assert!(mesh.asks(ada, Command::Send, &[("destination", "/queue/a")]).unwrap_err().contains("no write permission"));
    // One that has unsubscribed before stays.
    let ada = mesh.login(4, 2, peer("192.0.2.1:1"), &ADA).unwrap();
    mesh.subscribe(ada, "1", "/queue/a", &[]);
    assert!(mesh.asks(ada, Command::Unsubscribe, &[("id", "1")]).is_ok());
    mesh.change(1, &permit("ada", &["write /queue/a"]));
    assert!(mesh.asks(ada, Command::Send, &[("destination", "/queue/a")]).is_ok());
    mesh.change(0, &passwd("ada", "byron"));
    assert!(mesh.error(ada).unwrap().contains("the passcode of your user was changed"));
    assert!(mesh.login(5, 2, peer("192.0.2.1:1"), &ADA).is_err());
    let ada = mesh.login(6, 2, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", "byron")]).unwrap();
    mesh.change(0, &remove("ada"));
    assert!(mesh.error(ada).unwrap().contains("your user was removed"));
    assert!(mesh.asks(bob, Command::Send, &[("destination", "/queue/a")]).is_ok(), "all that was nothing to others");
    // Without the last one all is as it was in the beginning.
    mesh.change(0, &remove("bob"));
    assert!(mesh.error(bob).unwrap().contains("your user was removed"));
    assert!(mesh.login(7, 2, peer("127.0.0.1:1"), &[]).is_ok() && mesh.login(8, 2, peer("192.0.2.1:1"), &ADA).is_err());
    for host in 0..3 {
        let left: Vec<_> = users::sets().flat_map(|set| mesh.hosts[host].broker.node().shared(&set)).collect();
        assert!(left.is_empty(), "nothing is left of them: {left:?}");
    }
}

/// Both change their mind while they do not hear of each other; then they do.
fn apart(mesh: &mut Mesh, one: &[UserChange], other: &[UserChange]) {
    mesh.cut(0, 1);
    one.iter().for_each(|change| mesh.change(0, change));
    // The other one's clock is a little ahead.
    mesh.pass(1_000);
    other.iter().for_each(|change| mesh.change(1, change));
    mesh.link_all();
    mesh.pass(5_000);
    assert_eq!(mesh.users(0), mesh.users(1));
    assert_eq!(mesh.hosts[0].broker.status().digest, mesh.hosts[1].broker.status().digest);
}

fn pair_with_ada() -> Mesh {
    let mut mesh = Mesh::new(2);
    mesh.change(0, &add("root", "r", AccessSpec::default()));
    mesh.change(0, &add("ada", "lovelace", spec(&["read /queue/#", "write /queue/#"])));
    mesh
}

#[test]
fn removing_outweighs_whatever_else_is_done_to_a_user_at_the_same_time() {
    for changed in [passwd("ada", "byron"), permit("ada", &["manage #"])] {
        for removes_late in [false, true] {
            let mut mesh = pair_with_ada();
            let (removed, changed) = ([remove("ada")], [changed.clone()]);
            let (one, other) = if removes_late { (&changed, &removed) } else { (&removed, &changed) };
            apart(&mut mesh, one, other);
            assert_eq!(mesh.names(0), ["root"]);
            for (conn, passcode) in (1..).zip(["lovelace", "byron"]) {
                assert!(mesh.login(conn, 0, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", passcode)]).is_err());
            }
            let facts = |host: usize| mesh.hosts[host].broker.node().shared(&users::set_of("ada")).len();
            let of_root = if users::set_of("ada") == users::set_of("root") { 3 } else { 0 };
            assert_eq!((facts(0), facts(1)), (of_root, of_root), "what was said of the removed one is swept up");
        }
    }
    // Who was removed and made anew is there, as made anew.
    let mut mesh = pair_with_ada();
    apart(&mut mesh, &[remove("ada"), add("ada", "new", spec(&["read /queue/a"]))], &[remove("ada")]);
    assert!(mesh.login(1, 1, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", "new")]).is_ok());
    let mut mesh = pair_with_ada();
    apart(
        &mut mesh,
        &[remove("ada"), add("ada", "new", spec(&["read /queue/a"]))],
        &[passwd("ada", "byron"), permit("ada", &["write #"])],
    );
    assert!(mesh.login(1, 1, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", "byron")]).is_err());
    assert_eq!(mesh.users(0)[0].permissions.len(), 1);
    assert_eq!(mesh.users(0)[0].permissions[0].read, ["/queue/a"]);
}

#[test]
fn of_two_passcodes_the_later_one_holds_and_of_two_permissions_what_both_grant() {
    let mut mesh = pair_with_ada();
    let old = mesh.login(1, 0, peer("192.0.2.1:1"), &ADA).unwrap();
    apart(&mut mesh, &[passwd("ada", "early")], &[passwd("ada", "late")]);
    assert!(mesh.error(old).is_some());
    for (conn, passcode, is_in) in [(2, "late", true), (3, "early", false), (4, "lovelace", false)] {
        let login = mesh.login(conn, 0, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", passcode)]);
        assert_eq!(login.is_ok(), is_in, "{passcode}");
    }
    // An operator says it once more, and it is one again; also if the clock was set back meanwhile.
    mesh.now.wall_ms -= 500_000;
    mesh.change(0, &passwd("ada", "last"));
    assert!(mesh.error(ConnId(2)).is_some());
    assert!(mesh.login(5, 1, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", "last")]).is_ok());

    let mut mesh = pair_with_ada();
    apart(
        &mut mesh,
        &[permit("ada", &["read /queue/a", "read /queue/b"])],
        &[permit("ada", &["read /queue/b", "write #"])],
    );
    assert_eq!(mesh.users(0)[0].permissions.len(), 2, "both are shown");
    for (conn, command, destination, may) in [
        (1, Command::Subscribe, "/queue/a", false),
        (2, Command::Subscribe, "/queue/b", true),
        (3, Command::Send, "/queue/b", false),
    ] {
        let done = mesh.tries(conn, &ADA, command, &[("id", "1"), ("destination", destination)]);
        assert_eq!(done.is_ok(), may, "{command} {destination}");
    }
    let unclear =
        UserChange::Access { name: "ada".to_owned(), access: AccessSpec { lines: None, certificate: Some(true) } };
    assert_eq!(mesh.try_change(1, &unclear), Err(UserError::Conflict("ada".to_owned())));
    mesh.change(1, &permit("ada", &["write /queue/a"]));
    assert_eq!(mesh.users(0)[0].permissions.len(), 1);
    assert!(mesh.tries(4, &ADA, Command::Send, &[("destination", "/queue/a")]).is_ok());
}

#[test]
fn a_name_that_is_given_on_both_sides_is_one_user_with_the_lesser_of_both_permissions() {
    let mut mesh = Mesh::new(2);
    let both = [("early", "read /queue/a"), ("late", "read /queue/#")]
        .map(|(passcode, line)| [add("ada", passcode, spec(&[line]))]);
    apart(&mut mesh, &both[0], &both[1]);
    assert_eq!(mesh.names(1), ["ada"]);
    let late = [("login", "ada"), ("passcode", "late")];
    assert!(mesh.tries(1, &late, Command::Subscribe, &[("id", "1"), ("destination", "/queue/a")]).is_ok());
    assert!(mesh.tries(2, &late, Command::Subscribe, &[("id", "1"), ("destination", "/queue/b")]).is_err());
    mesh.change(0, &permit("ada", &["read #"]));
    assert!(mesh.tries(3, &late, Command::Subscribe, &[("id", "1"), ("destination", "/queue/b")]).is_ok());
    mesh.change(0, &remove("ada"));
    assert_eq!(mesh.names(1), Vec::<String>::new(), "all of it");
}

#[test]
fn whoever_has_logged_in_with_one_of_two_passcodes_stays_while_nobody_has_chosen() {
    let mut mesh = Mesh::new(2);
    mesh.cut(0, 1);
    mesh.change(0, &add("ada", "lovelace", AccessSpec::default()));
    mesh.change(1, &add("ada", "byron", AccessSpec::default()));
    let one = mesh.login(1, 0, peer("192.0.2.1:1"), &ADA).unwrap();
    let other = mesh.login(2, 1, peer("192.0.2.1:1"), &[("login", "ada"), ("passcode", "byron")]).unwrap();
    mesh.link_all();
    mesh.pass(5_000);
    for conn in [one, other] {
        assert!(
            mesh.asks(conn, Command::Send, &[("destination", "/queue/a")]).is_ok(),
            "two clusters became one, and it noticed nothing"
        );
    }
    mesh.change(0, &passwd("ada", "chosen"));
    assert!(mesh.error(one).is_some() && mesh.error(other).is_some());
}

#[test]
fn changes_that_make_no_sense_are_refused_and_those_that_do_are_told_once_they_are_on_disk() {
    let mut mesh = Mesh::new(1);
    let nobody = UserError::Unknown("bob".to_owned());
    for change in [remove("bob"), passwd("bob", "x"), permit("bob", &[])] {
        assert_eq!(mesh.try_change(0, &change), Err(nobody.clone()));
    }
    mesh.change(0, &add("ada", "lovelace", AccessSpec::default()));
    assert_eq!(mesh.try_change(0, &add("ada", "x", AccessSpec::default())), Err(UserError::Exists("ada".to_owned())));
    assert_eq!(mesh.try_change(0, &add(" ", "x", AccessSpec::default())), Err(UserError::Name));
    let without = UserChange::Add { name: "bob".to_owned(), verifier: None, access: AccessSpec::default() };
    assert_eq!(mesh.try_change(0, &without), Err(UserError::NoWayIn));
    assert!(matches!(mesh.try_change(0, &permit("ada", &["read /topic/>.x"])), Err(UserError::Pattern(_))));
    assert_eq!(mesh.names(0), ["ada"]);
    mesh.slow_disk = Some(0);
    let id = mesh.try_change(0, &add("bob", "b", AccessSpec::default())).unwrap();
    assert_eq!(mesh.try_change(0, &add("bob", "x", AccessSpec::default())), Err(UserError::Exists("bob".to_owned())));
    let removed = mesh.try_change(0, &remove("ada")).unwrap();
    assert!(!mesh.changes.contains_key(&(0, id)) && mesh.names(0) == ["ada"]);
    mesh.let_write();
    assert_eq!((mesh.changes.get(&(0, id)), mesh.changes.get(&(0, removed))), (Some(&true), Some(&true)));
    assert_eq!(mesh.names(0), ["bob"]);
    mesh.slow_disk = Some(0);
    let id = mesh.try_change(0, &remove("bob")).unwrap();
    mesh.pass(11_000);
    assert_eq!(mesh.changes.get(&(0, id)), Some(&false), "it may come about later");
}

#[test]
fn members_that_come_and_go_together_do_so_or_not_at_all() {
    let mut mesh = Mesh::new(1);
    let (small, large) = (|byte: u8| vec![byte; 10], |byte: u8| vec![byte; 600 << 10]);
    let now = mesh.now;
    let mut reshare = |add, remove: &[Vec<u8>]| {
        let done = mesh.hosts[0].broker.node.reshare(now, "x", add, remove);
        mesh.settle();
        (done.is_ok(), mesh.hosts[0].broker.node.shared("x"))
    };
    assert_eq!(reshare(vec![small(1), small(2)], &[]), (true, vec![small(1), small(2)]));
    assert_eq!(reshare(vec![small(3)], &[small(1), small(9)]), (true, vec![small(2), small(3)]));
    let unchanged = vec![small(2), small(3)];
    assert_eq!(reshare(vec![small(2), large(4), large(5)], &[small(3)]), (false, unchanged));
}

#[test]
fn so_many_users_and_no_more() {
    let mut mesh = Mesh::new(1);
    for number in 0..users::MAX_USERS {
        mesh.hosts[0].broker.change_user(mesh.now, &add(&format!("u{number}"), "x", AccessSpec::default())).unwrap();
        mesh.settle();
    }
    assert_eq!(mesh.try_change(0, &add("ada", "x", AccessSpec::default())), Err(UserError::TooMany));
    mesh.change(0, &remove("u0"));
    mesh.change(0, &add("ada", "x", AccessSpec::default()));
}
