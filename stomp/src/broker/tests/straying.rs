//! A node that has missed how its part left: what it holds may be settled there long since, so it decides nothing about that
//! before it has met its part.

use rhizomq_engine::Key;

use super::*;

/// A split that is over: its node lacks no secret, and has yet to meet its part.
const SPLIT: [u8; 8] = [7; 8];

impl Mesh {
    /// The process of a host is started again, on its disk and with the mark there that a host has strayed. It has no links.
    fn restart_with_mark(&mut self, host: usize, strayed: usize) {
        self.isolate(host);
        let store = std::mem::take(&mut self.hosts[host].store);
        let marks = [("split/over", SPLIT.to_vec()), ("split/strayed", [&SPLIT[..], &id_of(strayed).0].concat())];
        let add = |engine: &mut Engine| {
            marks.into_iter().for_each(|(set, mark)| engine.set_add(Key::set(set), mark).unwrap());
        };
        let (broker, epoch) = self.open_with(host, &store, add);
        self.hosts[host] = Host { broker, store, epoch };
    }

    fn has_strayed(&self, host: usize) -> bool {
        self.hosts[host].broker.node().has_strayed()
    }
}

#[test]
fn who_has_strayed_carries_out_no_job_until_it_has_met_its_part() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send_with(sender, "/queue/a", &[("AMQ_SCHEDULED_PERIOD", "60000"), ("AMQ_SCHEDULED_REPEAT", "-1")], "a");
    mesh.close(sender);
    mesh.restart_with_mark(0, 0);
    mesh.pass(65_000);
    assert!(mesh.has_strayed(0));
    let came = |mesh: &Mesh| [0, 1].map(|host| mesh.waiting(host).get("/queue/a").copied().unwrap_or_default());
    assert_eq!(came(&mesh), [0, 1], "its part has carried it out");
    mesh.link_all();
    mesh.pass(3_000);
    assert!(!mesh.has_strayed(0));
    assert_eq!(came(&mesh), [1, 1], "once");
    mesh.pass(60_000);
    assert_eq!(came(&mesh), [2, 2], "it goes on");
}

#[test]
fn who_has_strayed_moves_no_dead_letter_until_it_has_met_its_part() {
    let mut mesh = Mesh::new(2);
    let reader = mesh.connect(1, 0, &[]);
    mesh.subscribe(reader, "1", "/queue/a", &[("ack", "client-individual")]);
    mesh.send(reader, "/queue/a", "bad");
    let frame = mesh.take(reader).pop().expect("a delivery");
    // It hears of it from another one, which has its mark.
    mesh.restart_with_mark(1, 0);
    mesh.link_all();
    let has_heard = |mesh: &mut Mesh| {
        mesh.pass(20);
        mesh.has_strayed(0)
    };
    assert!((0..500).any(|_| has_heard(&mut mesh)));
    let id = frame.headers.get("ack").expect("it wants an answer");
    mesh.frame(reader, Command::Nack, &[("id", id), ("requeue", "false")]);
    mesh.pass(500);
    assert!(mesh.has_strayed(0));
    assert_eq!(mesh.waiting(0), [("/queue/a".to_owned(), 1)].into(), "it stays where it is");
    mesh.pass(2_000);
    assert!(!mesh.has_strayed(0));
    assert_eq!(mesh.waiting(0), [("/queue/DLQ.a".to_owned(), 1)].into());
    assert_eq!(mesh.hosts[0].broker.moves.remembered(), 0);
}
