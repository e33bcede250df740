//! Laws for whatever clients, and the dispatch of other nodes, can send: for `fuzz/`, and for tests that hold the seeds
//! against them. See the module of the same name in the engine. Not part of the crate's interface.

mod broker;
mod frames;
mod session;
mod transport;

use bytes::Bytes;
use rhizomq_engine::{
    Dot, Entry, Epoch, RangeSet, Unit,
    fuzzing::{Target, assert_normal, example_block},
};

pub use self::{
    broker::broker,
    frames::frame_decoder,
    session::session,
    transport::{proxy_header, upgrade_request, websocket},
};
use crate::{
    destination::Destination,
    dispatch::{Content, Depth, DispatchMsg, Holding, Name, Place, Return},
    forward::{ForwardMsg, Outcome},
    frame::{Command, Frame, Version, encode},
    lane,
    policies::{Book, Statement, policy_samples, set_of as policies_of},
    schedule::{Cron, Job},
    selector::{MAX_SELECTOR_LEN, Selector, StoredFields},
    users::{Directory, Fact, Member, Permit, Right, set_of, user_samples},
};

/// All of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "frame_decoder", law: frame_decoder, seeds: frames::seeds },
    Target { name: "session", law: session, seeds: session::seeds },
    Target { name: "dispatch_msg", law: dispatch_msg, seeds: dispatch_msg_seeds },
    Target { name: "forward_msg", law: forward_msg, seeds: forward_msg_seeds },
    Target { name: "broker", law: broker, seeds: broker::seeds },
    Target { name: "user_record", law: user_record, seeds: user_record_seeds },
    Target { name: "policy_record", law: policy_record, seeds: policy_record_seeds },
    Target { name: "selector", law: selector, seeds: selector_seeds },
    Target { name: "job", law: job, seeds: job_seeds },
    Target { name: "websocket", law: websocket, seeds: transport::websocket_seeds },
    Target { name: "upgrade_request", law: upgrade_request, seeds: transport::upgrade_seeds },
    Target { name: "proxy_header", law: proxy_header, seeds: transport::proxy_seeds },
];

/// A message between two dispatches: what reads is written as what reads the same, and header section and body are
/// slices of it.
pub fn dispatch_msg(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(message) = DispatchMsg::decode(&bytes) else { return false };
    let written = message.encode();
    assert!(written.len() <= bytes.len());
    assert_eq!(DispatchMsg::decode(&written), Ok(message.clone()));
    match &message {
        DispatchMsg::Deliver { content, .. }
        | DispatchMsg::DeliverAgain { content, .. }
        | DispatchMsg::Browsed { content, .. }
        | DispatchMsg::Topic { content, .. } => {
            assert!(content.len() <= bytes.len());
            for part in [&content.head, &content.body] {
                assert!(part.is_empty() || bytes.as_ptr_range().contains(&part.as_ptr()));
            }
        }
        DispatchMsg::Held { removed, .. } => assert_normal(removed),
        _ => {}
    }
    true
}

/// A message between an observer and a member: what reads is written as what reads the same, nothing is for nobody, and
/// header sections and bodies are slices of it.
pub fn forward_msg(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(message) = ForwardMsg::decode(&bytes) else { return false };
    assert!(ForwardMsg::is_one(&bytes));
    let written = message.encode();
    assert!(written.len() <= bytes.len());
    assert_eq!(ForwardMsg::decode(&written), Ok(message.clone()));
    if let ForwardMsg::Unit { unit, .. } = &message {
        for entry in &unit.entries {
            assert!(!entry.inboxes.is_empty());
            for part in [&entry.head, &entry.body] {
                assert!(part.is_empty() || bytes.as_ptr_range().contains(&part.as_ptr()));
            }
        }
        assert!(unit.entries.iter().map(Entry::size).sum::<usize>() <= bytes.len());
    }
    true
}

/// A fact about a user in the registry, which peers may have put there: what reads is written as what reads the same, is within
/// bounds, and can be asked what it allows; nothing in the set that it is in makes anybody a user but an account.
pub fn user_record(bytes: &[u8]) -> bool {
    let Some(member) = Member::decode(bytes) else { return false };
    let written = member.encode();
    assert!(written.len() <= bytes.len());
    assert_eq!(Member::decode(&written), Some(member.clone()));
    if let Fact::Access(access) = &member.fact {
        let permit = Permit([access.clone()].into());
        for wanted in ["/queue/a.b", "/topic/#.a.*", "a"] {
            let Ok(wanted) = Destination::parse(wanted) else { continue };
            let allowed = permit.allows(Right::Read, &wanted);
            assert!(!allowed || !access.patterns(Right::Read).is_empty());
        }
    }
    let mut directory = Directory::default();
    directory.refresh(&set_of(&member.name), &[bytes.to_vec()]);
    assert_eq!(directory.get(&member.name).is_some(), member.fact == Fact::Account);
    true
}

/// The headers of a job, as a disk or a peer has them, or else the cron entry of a SEND: what reads is written as what reads the same, and
/// each time that comes of it is a later one.
pub fn job(bytes: &[u8]) -> bool {
    let head = Bytes::copy_from_slice(bytes);
    if let Some((job, rest)) = Job::decode(&head) {
        assert!(rest.len() < head.len());
        assert_eq!(Job::decode(&job.encode(&rest)), Some((job.clone(), rest)));
        let (is_sent, follows) = job.fire(job.at);
        assert!(is_sent || !follows.is_empty());
        for next in follows {
            assert!(next.at >= job.at || job.at > lane::MAX_DUE);
            let inbox = lane::job("/queue/a", next.due(job.at), Some(job.at));
            let name = lane::read_job(&inbox).map(|name| (name.destination, name.chain));
            assert_eq!(name, Some(("/queue/a", Some(job.at))));
        }
        return true;
    }
    let Some(cron) = std::str::from_utf8(bytes).ok().and_then(Cron::parse) else { return false };
    assert_eq!(Cron::parse(cron.as_str()), Some(cron.clone()));
    let first = cron.after(1 << 40).expect("there is a time");
    assert!(first > 1 << 40 && first % 60_000 == 0 && cron.after(first - 1) == Some(first));
    true
}

fn job_seeds() -> Vec<Vec<u8>> {
    ["0 0 -", "500 9 -", "1000 - -", "0 0 */5 9-17 * 1,7 1-5"]
        .map(|schedule| format!("scheduled:1 9 1700000000000 10 {schedule}\na:b\n").into_bytes())
        .into_iter()
        .chain([b"0 0 29 2 *".to_vec()])
        .collect()
}

/// The selector of a SUBSCRIBE, and the headers of a message in front of it, up to a NUL: what reads is written out as what says the
/// same of the message, and where it does not read the error tells a place within it.
pub fn selector(bytes: &[u8]) -> bool {
    let (head, text) = bytes.iter().position(|byte| *byte == 0).map_or((&[][..], bytes), |end| bytes.split_at(end));
    let Ok(text) = std::str::from_utf8(text.strip_prefix(b"\0").unwrap_or(text)) else { return false };
    match Selector::parse(text) {
        Ok(Some(selector)) => {
            let fields = StoredFields { head, id: "m-1" };
            let says = selector.matches(&fields);
            let written = selector.to_string();
            match Selector::parse(&written) {
                Ok(again) => {
                    let again = again.expect("what is written out is not empty");
                    assert_eq!((again.matches(&fields), again.to_string()), (says, written));
                }
                // Brackets take room, and are expressions within each other.
                Err(_) => assert!(written.len() > MAX_SELECTOR_LEN || written.matches('(').count() > 32, "{written}"),
            }
            let name = lane::view("/queue/a", &selector);
            assert_eq!(lane::selector_of(&name), Ok(Some(selector)));
            true
        }
        Ok(None) => true,
        Err(_) => false,
    }
}

fn selector_seeds() -> Vec<Vec<u8>> {
    let head = "a:1\nb:2.50\nt:true\ns:it's\ncontent-type:text/plain\npriority:7\n";
    [
        "a = 1 AND b > 2 OR NOT t",
        "s = 'it''s' AND JMSPriority BETWEEN 1 AND 9",
        "\"content-type\" LIKE 'text/_%!%' ESCAPE '!' AND missing IS NULL",
        "convert_string_expressions:hyphenated_props:content-type NOT IN ('x', 'y') AND a IS NOT NULL",
        "-a * (b + 0x1F) / 2 % 3 <> 1.5e3 AND TRUE",
    ]
    .map(|text| format!("{head}\0{text}").into_bytes())
    .into()
}

fn user_record_seeds() -> Vec<Vec<u8>> {
    user_samples::members().iter().map(Member::encode).collect()
}

/// A statement about a policy in the registry, which peers may have put there: what reads is written as what reads the same,
/// and holds for what its pattern means.
pub fn policy_record(bytes: &[u8]) -> bool {
    let Some(statement) = Statement::decode(bytes) else { return false };
    let written = statement.encode();
    assert!(written.len() <= bytes.len());
    assert_eq!(Statement::decode(&written), Some(statement.clone()));
    assert!(statement.policy.check().is_ok());
    let mut book = Book::default();
    let set = policies_of(&statement.pattern);
    book.refresh(&set, &[bytes.to_vec()]);
    for wanted in ["/queue/a.b", "/topic/orders.new", "orders", &*statement.pattern] {
        let Ok(wanted) = Destination::parse(wanted) else { continue };
        let found = book.find(&wanted);
        assert!(found.is_none_or(|(pattern, policy)| pattern == statement.pattern && **policy == statement.policy));
    }
    book.refresh(&set, &[]);
    assert_eq!(book.len(), 0);
    true
}

fn policy_record_seeds() -> Vec<Vec<u8>> {
    policy_samples::statements().iter().map(Statement::encode).collect()
}

/// One message of each kind.
pub(crate) fn forward_messages() -> Vec<ForwardMsg> {
    let segment = example_block().segment();
    let entry = |inbox: &str, persistent| Entry {
        inboxes: vec![inbox.to_owned()],
        head: Bytes::from_static(b"a:b\n"),
        body: Bytes::from_static(b"body"),
        persistent,
    };
    let unit =
        Unit { entries: vec![entry("/queue/a", true), entry("b", false)], removals: vec![Dot { segment, slot: 5 }] };
    vec![
        ForwardMsg::Unit { seq: 7, floor: 3, unit },
        ForwardMsg::Answer { seq: 7, outcome: Outcome::Kept(2) },
        ForwardMsg::Answer { seq: 8, outcome: Outcome::Rejected("full".to_owned()) },
        ForwardMsg::Answer { seq: 9, outcome: Outcome::Refused("draining".to_owned()) },
    ]
}

fn forward_msg_seeds() -> Vec<Vec<u8>> {
    forward_messages().iter().map(|message| message.encode().to_vec()).collect()
}

/// One message of each kind.
pub(crate) fn dispatch_messages() -> Vec<DispatchMsg> {
    let segment = example_block().segment();
    let dot = Dot { segment, slot: 5 };
    let inbox = || Name("/queue/a".into());
    let topic = || Name("/topic/t".into());
    let content = || Content::new(Bytes::from_static(b"a:b\n"), Bytes::from_static(b"body"));
    vec![
        DispatchMsg::Life(Epoch(7)),
        DispatchMsg::Interest(vec![(inbox(), 2), (Name("b".into()), 0)]),
        DispatchMsg::Closed { inbox: inbox() },
        DispatchMsg::Backlog { inbox: inbox(), waiting: 3, round: 1 },
        DispatchMsg::Grant { inbox: inbox(), limit: 1 << 40, round: 1 },
        DispatchMsg::Received { bytes: 1 << 20 },
        DispatchMsg::Deliver { inbox: inbox(), dot, tag: 5, redelivered: true, content: content() },
        DispatchMsg::Release { dot, tag: 5 },
        DispatchMsg::Claim { segments: vec![segment], firm: true },
        DispatchMsg::Held { segment, removed: RangeSet::from_range(1, 4), held: vec![(5, 5)], up_to: 6 },
        DispatchMsg::Denied { segment },
        DispatchMsg::Topics(vec![(topic(), true)]),
        DispatchMsg::Topic { topic: topic(), id: "T-1".to_owned(), content: content() },
        DispatchMsg::Depths(vec![(inbox(), Depth { depth: 4, in_flight: 1 })]),
        DispatchMsg::Adopted(vec![(inbox(), 3)]),
        DispatchMsg::Sync { number: 3, inbox: Some(Name("/durable/name/a/0000000000000007-1".into())) },
        DispatchMsg::Synced { number: 3 },
        DispatchMsg::Ask(vec![Name("/reply-queue/x.1.0".into())]),
        DispatchMsg::Gone(vec![Name("/reply-queue/x.1.0".into())]),
        DispatchMsg::DeliverAgain { inbox: inbox(), dot, tag: 5, redelivered: true, returns: 300, content: content() },
        DispatchMsg::Returned { dot, tag: 5, why: Return::Rejected },
        DispatchMsg::Lacking(300),
        DispatchMsg::Browse { number: 3, inbox: inbox(), after: None, left: u64::MAX },
        DispatchMsg::Browsed { number: 3, dot, content: content() },
        DispatchMsg::PageEnd { number: 3, after: Some(Place { lane: inbox(), dot }), left: 70 },
        DispatchMsg::Grouped { inbox: inbox() },
        DispatchMsg::Holders {
            inbox: inbox(),
            holdings: vec![
                Holding { bucket: 1023, since: 1 << 40, reader: Some(Name("/queue/a\0&0101.7.0".into())) },
                Holding { bucket: 3, since: 7, reader: None },
            ],
        },
    ]
}

fn dispatch_msg_seeds() -> Vec<Vec<u8>> {
    dispatch_messages().iter().map(|message| message.encode().to_vec()).collect()
}

/// A client's side of a conversation, frame by frame.
fn conversation(version: Version) -> Vec<Bytes> {
    let frame = |command, headers: &[(&str, &str)], body: &'static str| {
        encode(&Frame::new(command, headers.iter().copied()).with_body(body), version)
    };
    let one_two = version == Version::V1_2;
    let ack: &[(&str, &str)] = if one_two { &[("id", "0-0")] } else { &[("message-id", "m-0"), ("subscription", "s")] };
    let in_transaction = |first: (&'static str, &'static str)| [first, ("transaction", "t")];
    vec![
        frame(Command::Connect, &[("accept-version", version.as_str()), ("host", "/"), ("heart-beat", "100,100")], ""),
        frame(Command::Subscribe, &[("id", "s"), ("destination", "/queue/a"), ("ack", "client")], ""),
        frame(Command::Subscribe, &[("id", "t"), ("destination", "/topic/t"), ("prefetch-count", "5")], ""),
        frame(Command::Send, &[("destination", "/queue/a"), ("receipt", "1"), ("k:1", "v\n")], "first"),
        frame(Command::Ack, ack, ""),
        frame(Command::Begin, &[("transaction", "t")], ""),
        frame(Command::Send, &in_transaction(("destination", "/queue/a")), "second"),
        frame(Command::Send, &in_transaction(("destination", "/topic/t")), "third"),
        frame(Command::Commit, &[("transaction", "t"), ("receipt", "2")], ""),
        frame(Command::Unsubscribe, &[("id", "s"), ("receipt", "3")], ""),
        frame(Command::Disconnect, &[("receipt", "4")], ""),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_seeds_of_the_fuzz_targets_hold_and_are_up_to_date() {
        let fuzz = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");
        rhizomq_engine::fuzzing::check_seeds(fuzz.as_ref(), super::TARGETS);
    }
}
