//! Jobs over real processes: what was sent at one node is listed and ended at others, and that outlasts them.

use serde_json::Value;

use crate::support::{PATIENCE, cluster::Cluster, eventually, node::Node, stomp::Client};

fn send(client: &mut Client, queue: &str, headers: &[(&str, &str)]) {
    let all = [&[("destination", queue), ("receipt", "sent")], headers].concat();
    client.write("SEND", &all, b"x").expect("SEND");
    let frame = client.next_frame(PATIENCE).expect("a receipt");
    assert_eq!((&*frame.command, frame.header("receipt-id")), ("RECEIPT", "sent"), "{frame}");
}

fn jobs(node: &Node) -> Vec<Value> {
    let text = node.ask_in(&["job", "list"], &["--json"]).expect("a list");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["jobs"].as_array().expect("a list").clone()
}

#[test]
fn what_is_repeated_is_listed_and_ended_at_any_node() {
    let mut cluster = Cluster::start(4);
    assert_eq!(cluster.nodes[3].ask_in(&["job", "list"], &[]).as_deref(), Ok("there are no jobs"));
    let mut client = cluster.nodes[0].client();
    send(&mut client, "/queue/often", &[("AMQ_SCHEDULED_PERIOD", "300"), ("AMQ_SCHEDULED_REPEAT", "-1")]);
    send(&mut client, "/queue/daily", &[("AMQ_SCHEDULED_CRON", "30 5 * * *")]);
    let mut reader = cluster.nodes[1].client();
    reader.subscribe("1", "/queue/often").expect("SUBSCRIBE");
    for _ in 0..3 {
        let frame = reader.next_frame(PATIENCE).expect("it comes again and again");
        reader.ack(&frame).expect("ACK");
    }
    for node in &cluster.nodes {
        let text = node.ask_in(&["job", "list"], &[]).expect("a list");
        let has = |what: &[&str]| text.lines().any(|line| what.iter().all(|word| line.contains(word)));
        assert!(has(&["ID", "NEXT", "COPIES"]) && has(&["T05:3", "at 30 5 * * *", "/queue/daily"]), "{text}");
        assert!(has(&["every 300ms", "/queue/often"]), "{text}");
    }
    let ids: Vec<_> = jobs(&cluster.nodes[2]).iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
    let [often, daily] = &ids[..] else { panic!("{ids:?}") };
    for (called, why) in [("nothing", "is no id"), ("", "is no id"), ("0123456789abcdef", "no job's id begins with")] {
        let refused = cluster.nodes[3].ask_in(&["job", "remove"], &[called]).expect_err(called);
        assert!(refused.contains(why), "{called}: {refused}");
    }
    let told = cluster.nodes[3].ask_in(&["job", "remove"], &[&often[..12]]).expect("removed");
    assert!(told.contains(&**often) && told.contains("/queue/often"), "{told}");
    let left: Vec<_> = cluster.nodes.iter().flat_map(jobs).map(|job| job["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(left, vec![daily.clone(); 4]);

    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter_mut().for_each(Node::restart);
    cluster.await_mesh();
    eventually("the list of before", || match &jobs(&cluster.nodes[1])[..] {
        [job] if job["id"] == **daily && job["destination"] == "/queue/daily" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Down to one node, the others are named.
    cluster.nodes[1..].iter_mut().for_each(Node::kill);
    eventually("who was not heard", || match cluster.nodes[0].ask_in(&["job", "list"], &[])? {
        text if text.contains("not heard: ") => Ok(()),
        text => Err(text),
    });
}
