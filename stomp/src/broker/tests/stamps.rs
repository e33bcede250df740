//! When and where messages were taken: what a MESSAGE says of it, whatever happened to the message meanwhile.

use super::*;

const ONE_BY_ONE: [(&str, &str); 2] = [("ack", "client-individual"), ("prefetch-count", "1")];

fn stamps(frame: &Frame) -> (Option<&str>, Option<&str>) {
    (frame.headers.get("timestamp"), frame.headers.get("origin"))
}

impl Mesh {
    fn wall(&self) -> String {
        self.now.wall_ms.to_string()
    }

    fn one(&mut self, conn: ConnId) -> Frame {
        let mut frames = self.take(conn);
        frames.retain(|frame| frame.command == Command::Message);
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }
}

#[test]
fn time_and_node_stay_with_a_message_through_deaths_refusals_and_dead_letter_queues() {
    let mut mesh = Mesh::new(3);
    let sender = mesh.connect(1, 0, &[]);
    let time = mesh.wall();
    let expected = (Some(&*time), Some("h0"));
    mesh.send_with(sender, "/queue/a", &[("priority", "7")], "x");
    mesh.pass(1_000);
    // Its node is gone, and another one in the place of the first that read it.
    mesh.restart(1);
    mesh.isolate(0);
    mesh.pass(5_000);
    let reader = mesh.connect(2, 2, &[]);
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    for _ in 0..2 {
        let frame = mesh.one(reader);
        assert_eq!(stamps(&frame), expected);
        let id = frame.headers.get("ack").unwrap().to_owned();
        mesh.frame(reader, Command::Nack, &[("id", &id)]);
    }
    let id = mesh.one(reader).headers.get("ack").unwrap().to_owned();
    mesh.frame(reader, Command::Nack, &[("id", &id), ("requeue", "false")]);
    mesh.subscribe(reader, "2", "/queue/DLQ.a", &ONE_BY_ONE);
    assert_eq!(stamps(&mesh.one(reader)), expected, "where it came from first");
}

#[test]
fn topics_durable_subscriptions_and_delayed_messages_tell_it_too() {
    let mut mesh = Mesh::new(2);
    let reader = mesh.connect(1, 1, &[("client-id", "app")]);
    mesh.subscribe(reader, "1", "/topic/a", &[]);
    mesh.subscribe(reader, "2", "/topic/a", &[("durable-subscription-name", "s"), ("selector", "JMSTimestamp > 0")]);
    mesh.subscribe(reader, "3", "/queue/a", &[]);
    let sender = mesh.connect(2, 0, &[]);
    let time = mesh.wall();
    mesh.send(sender, "/topic/a", "now");
    mesh.send_with(sender, "/topic/a,/queue/a", &[("x-delay", "5000")], "later");
    let mut frames = mesh.take(reader);
    mesh.pass(6_000);
    frames.extend(mesh.take(reader));
    assert_eq!(frames.len(), 5, "{frames:?}");
    for frame in &frames {
        assert_eq!(stamps(frame), (Some(&*time), Some("h0")), "{frame:?}");
    }
}

#[test]
fn what_is_repeated_is_taken_anew_each_time() {
    let mut mesh = Mesh::new(1);
    let conn = mesh.connect(1, 0, &[]);
    mesh.subscribe(conn, "1", "/queue/a", &[]);
    let before = mesh.now.wall_ms;
    let twice = [("AMQ_SCHEDULED_PERIOD", "2000"), ("AMQ_SCHEDULED_REPEAT", "1")];
    mesh.send_with(conn, "/queue/a", &twice, "x");
    mesh.pass(6_000);
    let times: Vec<u64> = mesh.take(conn).iter().map(|frame| stamps(frame).0.unwrap().parse().unwrap()).collect();
    assert!(times.len() == 2 && times[0] >= before + 2_000 && times[1] >= times[0] + 1_900, "{times:?}");
}

#[test]
fn what_a_client_says_itself_is_not_overwritten() {
    let mut mesh = Mesh::new(1);
    let conn = mesh.connect(1, 0, &[]);
    mesh.subscribe(conn, "1", "/queue/a", &[]);
    mesh.send_with(conn, "/queue/a", &[("timestamp", "1"), ("origin", "Mars")], "x");
    assert_eq!(stamps(&mesh.one(conn)), (Some("1"), Some("Mars")));
}
