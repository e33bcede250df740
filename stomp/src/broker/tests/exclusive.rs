//! Exclusive consumers, at several nodes.

use super::*;

const EXCLUSIVE: (&str, &str) = ("activemq.exclusive", "true");
const EACH: (&str, &str) = ("ack", "client-individual");

impl Mesh {
    fn exclusive(&mut self, conn: u64, host: usize, headers: &[(&str, &str)]) -> ConnId {
        let conn = self.connect(conn, host, &[]);
        self.subscribe(conn, "e", "/queue/q", &[&[EXCLUSIVE, EACH], headers].concat());
        conn
    }

    /// A message from each of these senders; who got how many.
    fn send_round(&mut self, senders: &[ConnId], readers: &[ConnId]) -> Vec<usize> {
        senders.iter().for_each(|sender| self.send(*sender, "/queue/q", "x"));
        readers.iter().map(|reader| self.bodies(*reader).len()).collect()
    }
}

#[test]
fn one_consumer_of_all_nodes_gets_everything_and_then_the_next() {
    let mut mesh = Mesh::new(3);
    let senders: Vec<_> = (0..3).map(|host| mesh.connect(host + 1, host as usize, &[])).collect();
    let shared = mesh.connect(10, 0, &[]);
    mesh.subscribe(shared, "s", "/queue/q", &[]);
    assert_eq!(mesh.send_round(&senders, &[shared]), [3], "nobody asks for all of it yet");
    let readers = [mesh.exclusive(11, 2, &[]), mesh.exclusive(12, 1, &[]), mesh.exclusive(13, 1, &[]), shared];
    for _ in 0..3 {
        assert_eq!(mesh.send_round(&senders, &readers), [3, 0, 0, 0]);
    }
    mesh.close(readers[0]);
    assert_eq!(mesh.send_round(&senders, &readers[1..]), [3, 0, 0]);
    mesh.frame(readers[1], Command::Unsubscribe, &[("id", "e")]);
    assert_eq!(mesh.send_round(&senders, &readers[1..]), [0, 3, 0]);
    // With its node.
    mesh.isolate(1);
    mesh.pass(3_000);
    assert_eq!(mesh.send_round(&[senders[0], senders[2]], &[shared]), [2]);
}

#[test]
fn the_highest_priority_counts_more_than_who_came_first_and_a_selector_leaves_the_rest_lying() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let low = mesh.exclusive(2, 0, &[("activemq.priority", "-5")]);
    assert_eq!(mesh.send_round(&[sender], &[low]), [1]);
    let usual = mesh.exclusive(3, 1, &[]);
    assert_eq!(mesh.send_round(&[sender], &[low, usual]), [0, 1]);
    let high = mesh.exclusive(4, 0, &[("activemq.priority", "1"), ("selector", "k = 'mine'")]);
    mesh.send_with(sender, "/queue/q", &[("k", "mine")], "mine");
    mesh.send(sender, "/queue/q", "rest");
    assert_eq!((mesh.bodies(low).len(), mesh.bodies(usual).len(), mesh.bodies(high)), (0, 0, vec!["mine".to_owned()]));
    mesh.close(high);
    assert_eq!((mesh.bodies(low).len(), mesh.bodies(usual)), (0, vec!["rest".to_owned()]));
    mesh.pass(2_000);
    assert_eq!(mesh.hosts[0].broker.status().queues[0].consumers, 2);
}

#[test]
fn who_comes_next_begins_with_what_the_last_one_left_behind() {
    let mut mesh = Mesh::new(3);
    let sender = mesh.connect(1, 0, &[]);
    let first = mesh.exclusive(2, 1, &[("prefetch-count", "4")]);
    let next = mesh.exclusive(3, 1, &[]);
    let third = mesh.exclusive(4, 2, &[]);
    let numbers = |range: std::ops::RangeInclusive<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    numbers(1..=3).iter().for_each(|n| mesh.send(sender, "/queue/q", n));
    assert_eq!(mesh.take(first).len(), 3);
    // One more is on its way when it goes, and its going is told late.
    mesh.held.insert((0, 1));
    mesh.send(sender, "/queue/q", "4");
    mesh.held.insert((1, 0));
    mesh.close(first);
    mesh.held.remove(&(0, 1));
    mesh.settle();
    mesh.send(sender, "/queue/q", "5");
    mesh.held.clear();
    mesh.settle();
    assert_eq!(mesh.bodies(next), numbers(1..=5));
    // The same over a death, to another node.
    numbers(6..=8).iter().for_each(|n| mesh.send(sender, "/queue/q", n));
    assert_eq!(mesh.take(next).len(), 3);
    mesh.isolate(1);
    mesh.send(sender, "/queue/q", "9");
    mesh.pass(2_000);
    assert_eq!(mesh.bodies(third), numbers(6..=9));
}

#[test]
fn each_side_of_a_cut_has_one_and_when_they_meet_the_one_that_came_first_is_left() {
    let mut mesh = Mesh::new(2);
    let senders = [mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[])];
    let readers = [mesh.exclusive(3, 0, &[]), mesh.exclusive(4, 1, &[])];
    assert_eq!(mesh.send_round(&senders, &readers), [2, 0]);
    mesh.cut(0, 1);
    mesh.pass(3_000);
    assert_eq!(mesh.send_round(&senders, &readers), [1, 1]);
    mesh.link(0, 1);
    mesh.pass(3_000);
    assert_eq!(mesh.send_round(&senders, &readers), [2, 0]);
}
