//! Message groups, over several owners and consumers at several nodes.

use super::*;

const EACH: (&str, &str) = ("ack", "client-individual");
/// Those of the test, in different buckets as far as it matters.
const GROUPS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

impl Mesh {
    fn send_to_group(&mut self, sender: ConnId, group: &str, text: &str) {
        self.send_with(sender, "/queue/q", &[("JMSXGroupID", group)], &format!("{group}{text}"));
    }

    fn member(&mut self, conn: u64, host: usize, headers: &[(&str, &str)]) -> ConnId {
        let conn = self.connect(conn, host, &[]);
        self.subscribe(conn, "m", "/queue/q", &[&[EACH], headers].concat());
        conn
    }

    /// A message of each group from each of these senders; by group, who got something.
    fn send_groups(&mut self, senders: &[ConnId], readers: &[ConnId]) -> BTreeMap<String, BTreeSet<usize>> {
        for group in GROUPS {
            senders.iter().for_each(|sender| self.send_to_group(*sender, group, ""));
        }
        let mut got: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut count = 0;
        for (place, reader) in readers.iter().enumerate() {
            for group in self.bodies(*reader) {
                got.entry(group).or_default().insert(place);
                count += 1;
            }
        }
        assert_eq!(count, senders.len() * GROUPS.len(), "all of it, and once");
        got
    }
}

/// The one consumer of each group.
fn ones(got: BTreeMap<String, BTreeSet<usize>>) -> BTreeMap<String, usize> {
    let one = |(group, readers): (String, BTreeSet<usize>)| {
        assert_eq!(readers.len(), 1, "{group} went to {readers:?}");
        (group, readers.into_iter().next().unwrap())
    };
    got.into_iter().map(one).collect()
}

#[test]
fn each_group_goes_to_one_consumer_whoever_sends_and_stays_there_while_others_come_and_go() {
    let mut mesh = Mesh::new(3);
    let senders: Vec<_> = (0..3).map(|host| mesh.connect(host + 1, host as usize, &[])).collect();
    let mut readers = vec![mesh.member(10, 0, &[]), mesh.member(11, 1, &[]), mesh.member(12, 2, &[])];
    let first = ones(mesh.send_groups(&senders, &readers));
    assert_eq!(first.values().collect::<BTreeSet<_>>().len(), 3, "shared out among all: {first:?}");
    readers.push(mesh.member(13, 1, &[]));
    assert_eq!(ones(mesh.send_groups(&senders, &readers)), first, "who comes gets groups that are new");
    // One goes; what it had is shared out, and nothing else moves.
    mesh.close(readers.remove(0));
    let then = ones(mesh.send_groups(&senders, &readers));
    for (group, before) in &first {
        assert!(*before == 0 || then[group] == before - 1, "{group}: {first:?} {then:?}");
    }
    assert_eq!(ones(mesh.send_groups(&senders, &readers)), then);
    // With a node that owns messages, too.
    mesh.isolate(2);
    mesh.pass(3_000);
    readers.remove(1);
    let last = ones(mesh.send_groups(&senders[..2], &readers));
    for (group, before) in &then {
        assert!(*before == 1 || last[group] == before / 2, "{group}: {then:?} {last:?}");
    }
}

#[test]
fn what_one_node_has_chosen_holds_at_nodes_that_come_to_it_later_and_choose_among_others() {
    let mut mesh = Mesh::new(3);
    let senders: Vec<_> = (0..2).map(|host| mesh.connect(host + 1, host as usize, &[])).collect();
    let mut readers = vec![mesh.member(10, 2, &[])];
    mesh.send_groups(&senders[..1], &readers);
    readers.extend((11..16).map(|conn| mesh.member(conn, (conn % 3) as usize, &[])));
    let got = ones(mesh.send_groups(&senders[1..], &readers));
    assert!(got.values().all(|reader| *reader == 0), "{got:?}");
}

#[test]
fn what_a_consumer_leaves_behind_comes_before_later_messages_of_its_groups() {
    for dies_with_node in [false, true] {
        let mut mesh = Mesh::new(3);
        let sender = mesh.connect(1, 0, &[]);
        let one = mesh.member(2, 1, &[("prefetch-count", "3")]);
        // The first message makes it a queue with groups; no other one is there to get any.
        (1..=2).for_each(|n| mesh.send_to_group(sender, "a", &n.to_string()));
        assert_eq!(mesh.take(one).len(), 2);
        let others = [mesh.member(3, 2, &[]), mesh.member(4, if dies_with_node { 0 } else { 1 }, &[])];
        mesh.held.extend([(0, 1), (1, 0)]);
        (3..=6).for_each(|n| mesh.send_to_group(sender, "a", &n.to_string()));
        if dies_with_node {
            mesh.held.clear();
            mesh.isolate(1);
            mesh.pass(2_000);
        } else {
            mesh.close(one);
            mesh.held.remove(&(0, 1));
            mesh.settle();
            mesh.send_to_group(sender, "a", "7");
            mesh.held.clear();
            mesh.settle();
        }
        let got: Vec<_> = others.iter().map(|conn| mesh.bodies(*conn)).filter(|got| !got.is_empty()).collect();
        let count = if dies_with_node { 6 } else { 7 };
        assert_eq!(got, [(1..=count).map(|n| format!("a{n}")).collect::<Vec<_>>()], "dies: {dies_with_node}");
    }
}

#[test]
fn what_comes_back_goes_first_in_its_group_though_something_else_before_it_finds_no_place() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    let one = mesh.member(2, 0, &[("prefetch-count", "2")]);
    mesh.send_with(sender, "/queue/q", &[], "u1");
    mesh.send_to_group(sender, "a", "1");
    assert_eq!(mesh.take(one).len(), 2);
    let two = mesh.member(3, 0, &[("prefetch-count", "1")]);
    mesh.send_with(sender, "/queue/q", &[], "u2");
    (2..=4).for_each(|n| mesh.send_to_group(sender, "a", &n.to_string()));
    mesh.close(one);
    let all = mesh.bodies(two);
    let group: Vec<_> = all.iter().filter(|text| text.starts_with('a')).map(String::as_str).collect();
    assert_eq!((all.len(), group), (6, vec!["a1", "a2", "a3", "a4"]), "{all:?}");
}

#[test]
fn others_go_ahead_of_a_group_whose_consumer_is_full_and_nothing_is_left() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let one = mesh.member(2, 1, &[("prefetch-count", "1")]);
    mesh.send_to_group(sender, "a", "1");
    assert_eq!(mesh.clients[&one].frames.len(), 1);
    let two = mesh.member(3, 1, &[("prefetch-count", "2")]);
    let three = mesh.member(4, 0, &[]);
    // Far more than may be parked, and one of another kind behind them.
    (0..1_200).for_each(|n| mesh.send_to_group(sender, "a", &n.to_string()));
    let mut others = 0;
    for n in 0..50 {
        mesh.send_with(sender, "/queue/q", &[], &n.to_string());
        others += mesh.bodies(two).len() + mesh.bodies(three).len();
    }
    assert_eq!(others, 0, "as many are parked as may be: so much is said in the manual");
    let mut got = 0;
    for _ in 0..1_300 {
        let some = mesh.take_and_ack(one);
        assert!(some.len() <= 1, "no more than it has places");
        got += some.len();
        others += mesh.bodies(two).len() + mesh.bodies(three).len();
    }
    assert!(got >= 1_201 && got + others == 1_251, "{got} and {others}");
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn a_message_without_a_group_goes_to_whoever_has_a_place() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let (one, two) = (mesh.member(2, 1, &[("prefetch-count", "2")]), mesh.member(3, 1, &[("prefetch-count", "2")]));
    let mut got = [0, 0];
    for n in 0..60 {
        mesh.send_to_group(sender, "a", &n.to_string());
        mesh.send_with(sender, "/queue/q", &[], "x");
        mesh.send_with(sender, "/queue/q", &[], "x");
        for (place, conn) in [one, two].into_iter().enumerate() {
            let some = mesh.take_and_ack(conn);
            assert!(some.len() <= 2);
            assert!(some.iter().all(|frame| frame.headers.get("redelivered").is_none()), "no place was given twice");
            got[place] += some.len();
        }
    }
    got[0] += mesh.bodies(one).len();
    got[1] += mesh.bodies(two).len();
    assert!(got[0] + got[1] == 180 && got.iter().all(|got| *got > 50), "{got:?}");
}

#[test]
fn a_group_that_is_closed_is_given_out_anew() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    let mut readers = vec![mesh.member(10, 0, &[])];
    assert!(ones(mesh.send_groups(&[sender], &readers)).values().all(|reader| *reader == 0));
    readers.extend((11..15).map(|conn| mesh.member(conn, 0, &[])));
    assert!(ones(mesh.send_groups(&[sender], &readers)).values().all(|reader| *reader == 0));
    for group in GROUPS {
        let last = [("JMSXGroupID", group), ("JMSXGroupSeq", "-1")];
        mesh.send_with(sender, "/queue/q", &last, "last");
    }
    assert_eq!(mesh.bodies(readers[0]).len(), GROUPS.len(), "the last ones go where the others went");
    let after = ones(mesh.send_groups(&[sender], &readers));
    assert!(after.values().collect::<BTreeSet<_>>().len() > 1, "{after:?}");
    assert_eq!(ones(mesh.send_groups(&[sender], &readers)), after);
}

#[test]
fn both_sides_of_a_cut_go_on_and_come_to_the_same_when_they_meet() {
    let mut mesh = Mesh::new(2);
    let senders = [mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[])];
    let readers = [mesh.member(3, 0, &[]), mesh.member(4, 1, &[])];
    let before = ones(mesh.send_groups(&senders, &readers));
    mesh.cut(0, 1);
    mesh.pass(3_000);
    let apart = mesh.send_groups(&senders, &readers);
    assert!(apart.values().all(|readers| readers.len() == 2), "each side has all groups: {apart:?}");
    mesh.link(0, 1);
    mesh.pass(3_000);
    let after = ones(mesh.send_groups(&senders, &readers));
    // What was held before the cut, and where its consumer was, is the earlier choice.
    assert_eq!(after, before);
}

#[test]
fn selectors_and_exclusive_consumers_count_more_than_groups() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let select = ("selector", "JMSXGroupID IN ('a', 'b', 'c')");
    let readers = [mesh.member(2, 0, &[select]), mesh.member(3, 1, &[select])];
    for _ in 0..3 {
        GROUPS.iter().for_each(|group| mesh.send_to_group(sender, group, ""));
    }
    let got: Vec<BTreeSet<_>> = readers.iter().map(|conn| mesh.bodies(*conn).into_iter().collect()).collect();
    assert!(got[0].is_disjoint(&got[1]) && got[0].len() + got[1].len() == 3, "{got:?}");
    let all = mesh.connect(4, 1, &[]);
    mesh.subscribe(all, "x", "/queue/q", &[EACH, ("activemq.exclusive", "true")]);
    assert_eq!(mesh.bodies(all).len(), 27);
    mesh.send_to_group(sender, "a", "");
    assert_eq!((mesh.bodies(all).len(), mesh.bodies(readers[0]).len() + mesh.bodies(readers[1]).len()), (1, 0));
    mesh.pass(2_000);
    let queues = mesh.hosts[0].broker.status().queues;
    assert_eq!((queues.len(), queues[0].consumers, queues[0].depth), (1, 3, 0), "each consumer counts once");
}

/// Steps that all nodes take while messages, with groups and without, are sent to a queue and consumed.
fn steps_of_a_message(mesh: &mut Mesh, sender: ConnId, readers: &[ConnId]) -> u64 {
    let steps = |mesh: &Mesh| mesh.hosts.iter().map(|host| host.broker.dispatch.steps()).sum::<u64>();
    let (before, mut got) = (steps(mesh), 0);
    for n in 0..120 {
        if n % 3 == 0 {
            mesh.send_with(sender, "/queue/q", &[], "x");
        } else {
            mesh.send_to_group(sender, &format!("{}", n % 40), "x");
        }
        if n % 10 == 9 {
            got += readers.iter().map(|reader| mesh.bodies(*reader).len()).sum::<usize>();
        }
    }
    assert_eq!(got, 120);
    (steps(mesh) - before) / 120
}

#[test]
fn what_a_message_costs_does_not_grow_with_the_number_of_consumers() {
    let [few, many] = [8_u64, 240].map(|count| {
        let mut mesh = Mesh::new(2);
        let sender = mesh.connect(1, 0, &[]);
        let prefetch = [("prefetch-count", "4")];
        let readers: Vec<_> = (0..count).map(|n| mesh.member(10 + n, (n % 2) as usize, &prefetch)).collect();
        // From the first message of a group on all of them ask for what is meant for them alone.
        mesh.send_to_group(sender, "first", "");
        readers.iter().for_each(|reader| drop(mesh.bodies(*reader)));
        steps_of_a_message(&mut mesh, sender, &readers)
    });
    assert!(few > 0 && many <= 2 * few, "{few} steps with few, {many} with many");
}

#[test]
fn what_a_message_costs_does_not_grow_with_the_number_of_queues_that_have_groups() {
    let [few, many] = [1_u64, 100].map(|count| {
        let mut mesh = Mesh::new(2);
        let sender = mesh.connect(1, 0, &[]);
        let readers = [mesh.member(2, 0, &[]), mesh.member(3, 1, &[])];
        for n in 0..count {
            let (reader, queue) = (mesh.connect(10 + n, 1, &[]), format!("/queue/other{n}"));
            mesh.subscribe(reader, "m", &queue, &[EACH, ("prefetch-count", "1")]);
            // The second one waits for its consumer.
            (0..2).for_each(|_| mesh.send_with(sender, &queue, &[("JMSXGroupID", "a")], ""));
        }
        steps_of_a_message(&mut mesh, sender, &readers)
    });
    assert!(few > 0 && many <= 2 * few, "{few} steps with few, {many} with many");
}

#[test]
fn neither_what_is_for_all_nor_what_is_for_one_waits_for_ever_where_places_are_few() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let readers = [0, 1, 2].map(|n| mesh.member(2 + n, 1, &[("prefetch-count", "1")]));
    for _ in 0..60 {
        GROUPS.iter().for_each(|group| mesh.send_to_group(sender, group, ""));
        (0..12).for_each(|_| mesh.send_with(sender, "/queue/q", &[], "x"));
    }
    let (mut plain, mut of_groups) = (0, 0);
    for n in 0..720 {
        for frame in mesh.take_and_ack(readers[n % 3]) {
            *(if &*frame.body == b"x" { &mut plain } else { &mut of_groups }) += 1;
        }
    }
    assert!(plain > 100 && of_groups > 100, "{plain} and {of_groups}");
}
