//! Spring's STOMP broker relay, replayed: the very bytes that its encoder writes for the system session and for the sessions of
//! browsers, header by header in its order, against three nodes of which one dies.
//!
//! Spring itself would need a repository of Java packages to be fetched from. What it sends is public, and is this: CONNECT
//! without `host` and with the relay's own login, heart-beats of 10 s, SUBSCRIBE and UNSUBSCRIBE without a receipt, SEND with
//! `content-length` last, destinations of users as `/queue/NAME-userSESSION` with `simpOrigDestination`, and DISCONNECT as
//! the browser said it, with a receipt or without.

use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE,
    cluster::Cluster,
    eventually,
    node::Node,
    stomp::{Client, Frame},
};

/// Of the system session; `login` and `passcode` are what they are if nobody sets them.
const SYSTEM: &str = "CONNECT\naccept-version:1.1,1.2\nlogin:guest\npasscode:guest\nheart-beat:10000,10000\n\n\0";
/// Of a browser that speaks stompjs: its own headers, then the relay's login.
const BROWSER: &str = "CONNECT\naccept-version:1.2,1.1,1.0\nheart-beat:10000,10000\nlogin:guest\npasscode:guest\n\n\0";
/// The relay gives up when it hears nothing for three intervals; this is one, and a little.
const BEAT: Duration = Duration::from_millis(10_500);

fn session(node: &Node, connect: &str) -> Client {
    let mut client = Client::raw(node.stomp).expect("a connection");
    let connected = say(&mut client, connect, "CONNECTED");
    // What the relay reads of it.
    assert_eq!(connected.header("version"), "1.2");
    let beats = connected.header("heart-beat").split_once(',').expect("two numbers");
    assert!(
        beats.0.parse::<u32>().is_ok_and(|ms| ms > 0) && beats.1.parse::<u32>().is_ok_and(|ms| ms > 0),
        "{connected}"
    );
    client
}

/// Says something, and takes the answer.
fn say(client: &mut Client, bytes: &str, answer: &str) -> Frame {
    client.write_raw(bytes.as_bytes()).expect("the node reads");
    let frame = client.next_frame(PATIENCE).expect("an answer");
    assert_eq!(frame.command, answer, "{frame}");
    frame
}

/// What the application sends over the system session; it asks for no receipts.
fn send(headers: &str, body: &str) -> String {
    format!("SEND\n{headers}content-type:application/json\ncontent-length:{}\n\n{body}\0", body.len())
}

/// Sends until a subscriber has got it: the relay has no receipt that would say when a subscription is there.
fn until_it_comes(system: &mut Client, frame: &str, browser: &mut Client) -> Frame {
    eventually("a MESSAGE for the browser", || {
        system.write_raw(frame.as_bytes()).expect("the node reads");
        browser.next_frame(Duration::from_millis(200))
    })
}

/// The next message of a subscription; what had been sent to others more than once is left behind.
fn next_of(client: &mut Client, subscription: &str) -> Frame {
    loop {
        let frame = client.next_frame(PATIENCE).expect("a MESSAGE");
        assert_eq!(frame.command, "MESSAGE", "{frame}");
        if frame.header("subscription") == subscription {
            return frame;
        }
    }
}

#[test]
fn the_broker_relay_of_spring_is_served() {
    let mut cluster = Cluster::start(3);
    let mut system = session(&cluster.nodes[0], SYSTEM);
    // For several instances of the application: each hears of users that another one has.
    for (id, topic) in [("0", "/topic/unresolved-user-destination"), ("1", "/topic/simp-user-registry")] {
        system.write_raw(format!("SUBSCRIBE\nid:{id}\ndestination:{topic}\n\n\0").as_bytes()).expect("the node reads");
    }
    let mut other = session(&cluster.nodes[1], SYSTEM);
    let registry = send("destination:/topic/simp-user-registry\n", r#"{"id":"other","users":[]}"#);
    let heard = until_it_comes(&mut other, &registry, &mut system);
    assert_eq!((heard.header("subscription"), heard.header("content-type")), ("1", "application/json"));

    // A topic: every browser gets it.
    let mut browsers = [session(&cluster.nodes[0], BROWSER), session(&cluster.nodes[2], BROWSER)];
    for (number, browser) in browsers.iter_mut().enumerate() {
        let subscribe = format!("SUBSCRIBE\nid:sub-{number}\ndestination:/topic/price.stock.*\n\n\0");
        browser.write_raw(subscribe.as_bytes()).expect("the node reads");
        let price =
            until_it_comes(&mut system, &send("destination:/topic/price.stock.IBM\n", r#"{"price":1}"#), browser);
        assert_eq!(price.header("subscription"), format!("sub-{number}"));
        assert_eq!((price.header("destination"), &*price.text()), ("/topic/price.stock.IBM", r#"{"price":1}"#));
    }

    // A user: the relay has put the session's name into the destination, and looks for the header when it comes back.
    let user = "simpOrigDestination:/user/queue/position-updates\ndestination:/queue/position-updates-userz3x8q1\n";
    let [browser, _] = &mut browsers;
    let subscribe = "SUBSCRIBE\nid:sub-2\ndestination:/queue/position-updates-userz3x8q1\n\n\0";
    browser.write_raw(subscribe.as_bytes()).expect("the node reads");
    other.write_raw(send(user, r#"{"quote":"a:b"}"#).as_bytes()).expect("the node reads");
    let update = next_of(browser, "sub-2");
    assert_eq!(update.header("simpOrigDestination"), "/user/queue/position-updates");
    assert_eq!((update.header("subscription"), &*update.text()), ("sub-2", r#"{"quote":"a:b"}"#));

    // One browser leaves with a receipt, and the node closes; the other one's connection is closed behind its DISCONNECT.
    browser.write_raw(b"UNSUBSCRIBE\nid:sub-2\n\n\0").expect("the node reads");
    let [mut polite, mut hasty] = browsers;
    polite.write_raw(b"DISCONNECT\nreceipt:close-1\n\n\0").expect("the node reads");
    let rest = polite.until_closed();
    let goodbye = rest.last().expect("a RECEIPT before the end");
    assert_eq!((&*goodbye.command, goodbye.header("receipt-id")), ("RECEIPT", "close-1"));
    hasty.write_raw(b"DISCONNECT\n\n\0").expect("the node reads");
    drop(hasty);

    // What the application sends is kept while the relay's next try reaches another node.
    // Over a connection without subscriptions, so that nothing else comes.
    drop(system);
    let mut system = session(&cluster.nodes[0], SYSTEM);
    let confirmed = send("destination:/queue/orders\nreceipt:r1\n", r#"{"order":1}"#);
    assert_eq!(say(&mut system, &confirmed, "RECEIPT").header("receipt-id"), "r1");
    cluster.nodes[0].kill();
    assert!(system.next_frame(PATIENCE).is_err(), "it is gone");
    let mut worker = session(&cluster.nodes[2], SYSTEM);
    worker.write_raw(b"SUBSCRIBE\nid:0\ndestination:/queue/orders\n\n\0").expect("the node reads");
    assert_eq!(next_of(&mut worker, "0").text(), r#"{"order":1}"#);
    // The other instance was not touched by it.
    let goodbye = say(&mut other, "DISCONNECT\nreceipt:bye\n\n\0", "RECEIPT");
    assert_eq!(goodbye.header("receipt-id"), "bye");
}

#[test]
fn a_relay_that_only_beats_stays_connected() {
    let cluster = Cluster::start(1);
    let mut system = session(&cluster.nodes[0], SYSTEM);
    let begin = Instant::now();
    // Two of them are more than the silence that a node bears.
    while begin.elapsed() < 2 * BEAT {
        std::thread::sleep(BEAT);
        system.write_raw(b"\n").expect("the node is there");
    }
    let confirmed = send("destination:/topic/none\nreceipt:r1\n", "{}");
    assert_eq!(say(&mut system, &confirmed, "RECEIPT").header("receipt-id"), "r1");
}
