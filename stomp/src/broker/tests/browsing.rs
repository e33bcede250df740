//! Clients that look through queues, at any node.

use super::*;

impl Mesh {
    /// Looks through a queue: bodies, and whether its end was told.
    fn browse(&mut self, conn: ConnId, queue: &str, headers: &[(&str, &str)]) -> (Vec<String>, bool) {
        self.subscribe(conn, "b", queue, &[&[("browser", "true")], headers].concat());
        let seen = self.seen(conn);
        self.frame(conn, Command::Unsubscribe, &[("id", "b")]);
        seen
    }

    /// What a browser has been shown since the last call.
    fn seen(&mut self, conn: ConnId) -> (Vec<String>, bool) {
        // Only so many pages are looked through in a millisecond.
        let more = || {
            self.pass(5);
            Some(self.take(conn)).filter(|some| !some.is_empty())
        };
        let mut frames: Vec<_> = std::iter::from_fn(more).flatten().collect();
        assert!(frames.iter().all(|frame| frame.command == Command::Message), "{frames:?}");
        let is_end = |frame: &Frame| frame.headers.get("browser") == Some("end");
        let is_over = frames.pop_if(|frame| is_end(frame)).is_some();
        assert!(!frames.iter().any(is_end));
        (frames.into_iter().map(|frame| String::from_utf8(frame.body.to_vec()).unwrap()).collect(), is_over)
    }

    fn owned(texts: &[&str]) -> (Vec<String>, bool) {
        (texts.iter().map(|text| (*text).to_owned()).collect(), true)
    }
}

#[test]
fn a_browser_sees_what_waits_at_all_owners_and_takes_nothing() {
    let mut mesh = Mesh::new(3);
    let senders = [mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[])];
    for (n, text) in ["a", "b", "c"].iter().enumerate() {
        mesh.send_with(senders[0], "/queue/q", &[("n", &n.to_string())], text);
    }
    mesh.send_with(senders[1], "/queue/q", &[("n", "7"), ("priority", "1")], "low");
    mesh.send_with(senders[1], "/queue/q", &[("n", "8"), ("priority", "9")], "high");
    mesh.send_with(senders[1], "/queue/q", &[("x-delay", "60000")], "not yet");
    mesh.send_with(senders[1], "/queue/other", &[], "elsewhere");
    // One is with a consumer, and not consumed.
    let consumer = mesh.connect(3, 2, &[]);
    mesh.subscribe(consumer, "1", "/queue/q", &[("ack", "client"), ("prefetch-count", "1")]);
    assert_eq!(mesh.take(consumer).len(), 1);
    let all = mesh.waiting(0);
    let looker = mesh.connect(4, 2, &[]);
    assert_eq!(mesh.browse(looker, "/queue/q", &[]), Mesh::owned(&["a", "b", "c", "high", "low"]));
    let some = mesh.browse(looker, "/queue/q", &[("selector", "n > 1"), ("ack", "client-individual")]);
    assert_eq!(some, Mesh::owned(&["c", "high", "low"]));
    assert_eq!(mesh.browse(looker, "/queue/nothing", &[]), Mesh::owned(&[]));
    assert_eq!(mesh.waiting(0), all);
    mesh.close(consumer);
    let reader = mesh.connect(5, 0, &[]);
    mesh.subscribe(reader, "1", "/queue/q", &[]);
    assert_eq!(mesh.bodies(reader).len(), 5);
}

#[test]
fn what_a_dead_node_took_is_seen_and_what_is_out_of_reach_is_not() {
    let mut mesh = Mesh::new(3);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send(sender, "/queue/q", "x");
    mesh.isolate(0);
    let looker = mesh.connect(2, 1, &[]);
    mesh.pass(5_000);
    assert_eq!(mesh.browse(looker, "/queue/q", &[]), Mesh::owned(&["x"]), "another has taken it over");
    let other = mesh.connect(3, 0, &[]);
    mesh.send(other, "/queue/q", "alone");
    assert_eq!(mesh.browse(looker, "/queue/q", &[]), Mesh::owned(&["x"]));
    mesh.link_all();
    mesh.pass(5_000);
    assert_eq!(mesh.browse(looker, "/queue/q", &[]), Mesh::owned(&["x", "alone"]));
}

#[test]
fn it_goes_page_by_page_at_the_clients_pace_and_ends_however_much_comes() {
    let mut mesh = Mesh::new(2);
    let (sender, looker) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    let body = "x".repeat(20 << 10);
    (0..200).for_each(|_| mesh.send(sender, "/queue/q", &body));
    mesh.subscribe(looker, "b", "/queue/q", &[("browser", "true")]);
    // Nothing is flushed: what is on its way stays there.
    let first = mesh.clients[&looker].frames.len();
    assert!((10..60).contains(&first), "{first} at once");
    mesh.pass(1_000);
    assert_eq!(mesh.clients[&looker].frames.len(), first);
    let (mut seen, mut rounds) = (0, 0);
    loop {
        mesh.pass(5);
        let frames = mesh.take(looker);
        let is_over = frames.last().is_some_and(|frame| frame.headers.get("browser") == Some("end"));
        seen += frames.len() - usize::from(is_over);
        if is_over {
            break;
        }
        // Faster than the client reads.
        (0..20).for_each(|_| mesh.send(sender, "/queue/q", &body));
        rounds += 1;
        assert!(rounds < 100, "it does not end");
    }
    assert_eq!(seen, 200, "those that waited when it began");
}

#[test]
fn a_browser_whose_owner_dies_goes_on_with_the_next_and_one_that_has_gone_leaves_nothing_behind() {
    let mut mesh = Mesh::new(3);
    let (one, two) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.send(one, "/queue/q", "one");
    mesh.send(two, "/queue/q", "two");
    let looker = mesh.connect(3, 2, &[]);
    mesh.held.insert((0, 2));
    mesh.subscribe(looker, "b", "/queue/q", &[("browser", "true")]);
    assert_eq!(mesh.seen(looker), (vec![], false), "the first one does not answer");
    mesh.isolate(0);
    assert_eq!(mesh.seen(looker), Mesh::owned(&["two"]));

    mesh.held.clear();
    mesh.held.insert((1, 2));
    mesh.subscribe(looker, "c", "/queue/q", &[("browser", "true")]);
    mesh.close(looker);
    mesh.held.clear();
    mesh.settle();
    let books = mesh.hosts[2].broker.dispatch.remembered();
    assert!(books.contains(&("browsers", 0)), "{books:?}");
}

/// A page may show nothing, however long it takes to look through it: meanwhile others have to be served.
#[test]
fn only_so_many_pages_are_looked_through_at_once_and_all_browsers_have_their_turn() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send(sender, "/queue/q", "x");
    let lookers: Vec<_> = (2..14).map(|conn| mesh.connect(conn, 0, &[])).collect();
    lookers
        .iter()
        .for_each(|&conn| mesh.subscribe(conn, "b", "/queue/q", &[("browser", "true"), ("selector", "n = 1")]));
    let ended = |mesh: &mut Mesh| lookers.iter().filter(|&&conn| !mesh.clients[&conn].frames.is_empty()).count();
    assert!(ended(&mut mesh) < 5, "{} have been served at once", ended(&mut mesh));
    mesh.pass(20);
    assert_eq!(ended(&mut mesh), 12);
}
