//! A whole node in this process, with real sockets: clients that don't read, and a process that does not run for a while.

mod host;

use std::{
    collections::BTreeSet,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use rhizomq_stomp::session::SessionConfig;

use crate::host::{Client, Host, PATIENCE};

#[test]
fn who_never_reads_is_cut_off_and_others_get_what_it_had() {
    let mut session = SessionConfig::default();
    session.limits.unread_ms = 500;
    let host = Host::start(session);
    let mut deaf = Client::connect_narrowly(&host);
    deaf.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nack:client\nprefetch-count:0\n\n\0");
    let mut client = Client::connect(&host, "0,0");
    let bodies: BTreeSet<_> = (0..150).map(|number| format!("{number} {}", "x".repeat(64 << 10))).collect();
    bodies.iter().for_each(|body| client.publish(body));

    client.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nprefetch-count:0\n\n\0");
    let (mut got, mut again) = (BTreeSet::new(), 0);
    while got.len() < bodies.len() {
        let frame = client.frame().expect("still connected");
        let (head, body) = frame.split_once("\n\n").unwrap();
        assert!(bodies.contains(body), "{head}");
        again += u32::from(head.contains("redelivered:true"));
        got.insert(body.to_owned());
    }
    assert!(again > 0, "some were with the one who did not read");
    // It does not read even now, and yet its connection ends.
    let start = Instant::now();
    while deaf.stream.write_all(b"\n").is_ok() {
        assert!(start.elapsed() < PATIENCE, "the connection is still there");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_sent_heart_beats_while_the_node_was_suspended_is_still_served() {
    let host = Host::start(SessionConfig { heart_beat_want_ms: 300, ..SessionConfig::default() });
    let stream = host.dial(0);
    let mut beats = stream.try_clone().unwrap();
    let mut client = Client::over(stream, "300,0");
    let mut silent = Client::connect(&host, "300,0");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let beating = thread::spawn(move || {
        while stopped
            .recv_timeout(Duration::from_millis(50))
            .is_err_and(|why| why == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            if beats.write_all(b"\n").is_err() {
                return;
            }
        }
    });
    host.suspend(Duration::from_secs(2));
    client.publish("after the pause");
    let frame = silent.frame().expect("a last word");
    assert!(frame.starts_with("ERROR") && frame.contains("nothing received"), "{frame}");
    client.publish("and later");
    drop(stop);
    beating.join().unwrap();
}

#[test]
fn who_leaves_in_the_middle_of_a_stream_has_what_it_was_sent_and_others_get_the_rest() {
    let host = Host::start(SessionConfig::default());
    let mut client = Client::connect(&host, "0,0");
    let bodies: BTreeSet<_> = (0..500).map(|number| format!("{number} {}", "x".repeat(64 << 10))).collect();
    bodies.iter().for_each(|body| client.publish(body));
    let mut leaving = Client::connect_narrowly(&host);
    leaving.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nprefetch-count:0\n\n\0");
    let mut own = BTreeSet::new();
    let body_of = |frame: &str| frame.split_once("\n\n").map(|(_, body)| body.to_owned());
    own.extend(body_of(&leaving.frame().expect("a message")));
    // By now more is on its way than the socket takes.
    leaving.write("DISCONNECT\nreceipt:bye\n\n\0");
    loop {
        let frame = leaving.frame().expect("a receipt before the end");
        if frame.starts_with("RECEIPT") {
            break;
        }
        own.extend(body_of(&frame));
    }
    assert!(own.len() < bodies.len(), "it left before it had everything");

    client.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nprefetch-count:0\n\n\0");
    let mut rest = BTreeSet::new();
    while own.len() + rest.len() < bodies.len() {
        let body = body_of(&client.frame().expect("still connected")).unwrap();
        assert!(!own.contains(&body) && rest.insert(body), "a message came twice");
    }
}
