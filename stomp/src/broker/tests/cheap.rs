//! Destinations cost nothing once nobody uses them.

use super::*;

/// All books of a broker that name destinations, as far as they are not empty.
fn remembered(broker: &Broker) -> Vec<(&'static str, usize)> {
    let mut books = broker.dispatch.remembered();
    books.push(("durables", broker.durables.remembered()));
    books.push(("totals", broker.dispatch.totals(&broker.node).len()));
    books.push(("inboxes", broker.node.engine().inboxes().count()));
    books.push(("published", broker.published.len()));
    books.retain(|(_, count)| *count > 0);
    books
}

#[test]
fn a_hundred_thousand_short_lived_destinations_leave_nothing_behind() {
    let mut mesh = Mesh::new(1);
    let before = remembered(&mesh.hosts[0].broker);
    let keys = mesh.hosts[0].broker.node().engine().registry().len();
    let conn = mesh.connect(1, 0, &[]);
    // A thousand queues and as many topics at a time, fifty times.
    for batch in 0..50 {
        let names: Vec<_> = (0..1_000).map(|number| format!("short.lived.{batch}.{number}")).collect();
        // All in one packet, as fast clients send them.
        let mut bytes = Vec::new();
        let mut push = |command, headers: &[(&str, &str)]| {
            bytes.extend(encode(&Frame::new(command, headers.iter().copied()), Version::V1_2));
        };
        for name in &names {
            let (queue, topic) = (format!("/queue/{name}"), format!("/topic/{name}"));
            push(Command::Send, &[("destination", &*queue)]);
            push(Command::Subscribe, &[("id", &*queue), ("destination", &*queue)]);
            push(Command::Subscribe, &[("id", &*topic), ("destination", &*topic)]);
            push(Command::Send, &[("destination", &*topic)]);
            if name.ends_with("99") {
                // Few subscriptions at a time.
                continue;
            }
            push(Command::Unsubscribe, &[("id", &*topic)]);
        }
        let now = mesh.now;
        mesh.hosts[0].broker.handle_client_bytes(now, conn, &bytes);
        mesh.settle();
        let messages = mesh.bodies(conn).len();
        assert!(messages >= names.len(), "{messages} messages");
        let mut bytes = Vec::new();
        for name in &names {
            let ids = [format!("/queue/{name}"), format!("/topic/{name}")];
            let is_open = name.ends_with("99");
            for id in &ids[..if is_open { 2 } else { 1 }] {
                bytes.extend(encode(&Frame::new(Command::Unsubscribe, [("id", id)]), Version::V1_2));
            }
        }
        mesh.hosts[0].broker.handle_client_bytes(now, conn, &bytes);
        mesh.settle();
    }
    mesh.close(conn);
    mesh.pass(3_000);
    assert_eq!(remembered(&mesh.hosts[0].broker), before);
    // The lists of holders of some segments; nothing by destination.
    assert!(mesh.hosts[0].broker.node().engine().registry().len() < keys + 10);
    assert!(mesh.hosts[0].broker.status().queues.is_empty());
}
