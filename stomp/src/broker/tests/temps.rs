//! Temporary queues, in both styles, over nodes.

use super::*;

/// Serves one request: what its `reply-to` says.
fn serve(mesh: &mut Mesh, worker: ConnId) -> String {
    let request = mesh.take_and_ack(worker).into_iter().next().expect("a request");
    request.headers.get("reply-to").expect("where to").to_owned()
}

#[test]
fn a_request_brings_its_own_subscription_and_the_answer_finds_it_from_every_node() {
    let mut mesh = Mesh::new(2);
    let (client, worker) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(worker, "w", "/queue/work", &[]);
    for round in 0..2 {
        mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
        let to = serve(&mut mesh, worker);
        assert!(to.starts_with("/reply-queue/"), "{to}");
        mesh.send(worker, &to, "answer");
        let got = mesh.take_and_ack(client);
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!(got[0].headers.get("subscription"), Some("/temp-queue/r"));
        assert_eq!(got[0].body, "answer");
    }
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn an_explicit_subscription_comes_first_or_later_and_has_the_answers_to_itself() {
    for later in [false, true] {
        let mut mesh = Mesh::new(2);
        let (client, worker) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
        mesh.subscribe(worker, "w", "/queue/work", &[]);
        if later {
            mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
        }
        mesh.subscribe(client, "mine", "/temp-queue/r", &[("ack", "client"), ("receipt", "s")]);
        assert_eq!(mesh.receipts(client), ["s"]);
        if !later {
            mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
        }
        let to = serve(&mut mesh, worker);
        (0..3).for_each(|_| mesh.send(worker, &to, "answer"));
        let got = mesh.take_and_ack(client);
        assert_eq!(got.len(), 3);
        assert!(got.iter().all(|frame| frame.headers.get("subscription") == Some("mine")));
        assert!(got.iter().all(|frame| frame.headers.get("destination") == Some("/temp-queue/r")));
    }
}

#[test]
fn two_connections_use_the_same_name_for_different_queues() {
    let mut mesh = Mesh::new(2);
    let (one, two) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(one, "1", "/temp-queue/r", &[]);
    mesh.subscribe(two, "1", "/temp-queue/r", &[]);
    mesh.send(one, "/temp-queue/r", "to myself");
    assert_eq!((mesh.bodies(one), mesh.bodies(two)), (vec!["to myself".to_owned()], Vec::new()));
}

#[test]
fn they_vanish_with_the_connection_wherever_answers_wait() {
    let mut mesh = Mesh::new(3);
    let (client, worker) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(worker, "w", "/queue/work", &[]);
    mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
    let to = serve(&mut mesh, worker);
    mesh.send(client, "/temp-queue/other", "for nobody yet");
    mesh.pass(3_000);
    assert_eq!(mesh.waiting(0).len(), 1, "as long as the connection lasts");
    mesh.close(client);
    (0..5).for_each(|_| mesh.send(worker, &to, "too late"));
    assert!(!mesh.waiting(1).is_empty());
    mesh.pass(3_000);
    mesh.nothing_waits();
}

#[test]
fn an_answer_waits_for_a_connection_on_the_other_side_of_a_cut() {
    let mut mesh = Mesh::new(2);
    let (client, worker) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(worker, "w", "/queue/work", &[]);
    mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
    let to = serve(&mut mesh, worker);
    mesh.cut(0, 1);
    mesh.send(worker, &to, "answer");
    mesh.pass(5_000);
    mesh.link(0, 1);
    mesh.pass(3_000);
    assert_eq!(mesh.bodies(client), ["answer"]);
}

#[test]
fn what_waits_for_a_connection_of_an_earlier_life_vanishes_when_its_node_is_back() {
    let mut mesh = Mesh::new(2);
    let (client, worker) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(worker, "w", "/queue/work", &[]);
    mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
    let to = serve(&mut mesh, worker);
    mesh.cut(0, 1);
    mesh.send(worker, &to, "answer");
    mesh.restart(0);
    // A connection of the same number must not be taken for it.
    mesh.connect(1, 0, &[]);
    mesh.pass(3_000);
    mesh.nothing_waits();
}

#[test]
fn names_that_nobody_was_told_lead_nowhere() {
    let mut mesh = Mesh::new(2);
    let (client, eve) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(client, "1", "/temp-queue/r", &[]);
    mesh.subscribe(eve, "w", "/queue/work", &[]);
    mesh.send_with(client, "/queue/work", &[("reply-to", "/temp-queue/r")], "question");
    let told = serve(&mut mesh, eve);
    // Of the next connection all is known but for what can't be guessed.
    let next = mesh.connect(3, 0, &[]);
    mesh.subscribe(next, "1", "/temp-queue/r", &[]);
    let parts: Vec<&str> = told.split('.').collect();
    let [node, life, _, token, index] = parts[..] else { panic!("{told}") };
    for guess in [format!("{node}.{life}.3.{token}.{index}"), format!("{node}.{life}.3.{index}")] {
        mesh.send(eve, &guess, "forged");
    }
    mesh.pass(3_000);
    assert!(mesh.bodies(next).is_empty() && mesh.bodies(client).is_empty());
    mesh.nothing_waits();
    // Of a node that there never was nobody could ever say that it is gone.
    for invented in ["/reply-queue/00112233445566778899aabbccddeeff.1.1.0", "/reply-queue/x"] {
        let one = mesh.connect(10 + invented.len() as u64, 1, &[]);
        mesh.frame(one, Command::Send, &[("destination", invented)]);
        assert!(mesh.error(one).unwrap().contains("no such temporary queue"), "{invented}");
    }
    mesh.nothing_waits();
}

#[test]
fn other_connections_can_send_to_a_reply_queue_but_not_read_it() {
    let mut mesh = Mesh::new(1);
    let one = mesh.connect(1, 0, &[]);
    mesh.subscribe(one, "1", "/reply-queue/x.1.0", &[]);
    let error = mesh.error(one).unwrap();
    assert!(error.contains("/temp-queue/"), "{error}");
}
