//! Plays the conversations in `tests/conformance/` against a session. Their form is described in the README there.

use std::{collections::VecDeque, fs, path::Path, sync::Arc};

use bytes::Bytes;
use rhizomq_engine::Now;
use rhizomq_stomp::session::{
    AckItem, AckMode, Delivery, Fate, Request, Service, Session, SessionConfig, SubKey, Ticket,
};

/// A case file must not get lost unnoticed.
const LEAST_CASES: usize = 100;

#[test]
fn all_cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();

    let (mut cases, mut failures) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for case in split_cases(&text) {
            cases += 1;
            for cut in [Cut::Whole, Cut::Single, Cut::Random(cases as u64)] {
                if let Err(failure) = Player::new(cut).play(&case) {
                    failures.push(format!("{}:{failure} ({cut:?})", file.file_name().unwrap().display()));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(cases >= LEAST_CASES, "only {cases} cases found");
}

/// Lines with their numbers.
type Case<'a> = Vec<(usize, &'a str)>;

fn split_cases(text: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("case ") {
            cases.push(Vec::new());
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        cases.last_mut().expect("a file begins with a case").push((number, line));
    }
    cases
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Single,
    Random(u64),
}

impl Cut {
    fn next_len(&mut self) -> usize {
        match self {
            Self::Whole => usize::MAX,
            Self::Single => 1,
            Self::Random(state) => {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*state >> 60) as usize + 1
            }
        }
    }
}

/// What the server wrote.
#[derive(Debug)]
enum Written {
    HeartBeat,
    Frame { lines: Vec<String>, body: Vec<u8> },
}

struct Player {
    session: Session,
    cut: Cut,
    now: Now,
    wire: Vec<u8>,
    written: VecDeque<Written>,
    requests: VecDeque<String>,
    tickets: Vec<Ticket>,
    hold: bool,
}

impl Player {
    fn new(cut: Cut) -> Self {
        let now = Now { mono_ms: 1_000, wall_ms: 0 };
        let config = SessionConfig { session: "s1".into(), server: "rhizomq/1".into(), ..SessionConfig::default() };
        Self {
            session: Session::new(now, config),
            cut,
            now,
            wire: Vec::new(),
            written: VecDeque::new(),
            requests: VecDeque::new(),
            tickets: Vec::new(),
            hold: false,
        }
    }

    fn play(mut self, case: &Case<'_>) -> Result<(), String> {
        let (mut closed, mut has_spec) = (false, false);
        let mut steps = case.iter().peekable();
        while let Some(&(number, line)) = steps.next() {
            let fail = |what: String| format!("{number}: {what}");
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "case" => {}
                "spec" => has_spec = true,
                "version" => {
                    self.send(format!("CONNECT\naccept-version:{rest}\nhost:h\n\n\0").as_bytes());
                    match self.written.pop_front() {
                        Some(Written::Frame { lines, .. }) if lines[0] == "CONNECTED" => {}
                        other => return Err(fail(format!("not connected: {other:?}"))),
                    }
                }
                ">" => {
                    let mut bytes = unquote(rest);
                    while let Some((_, more)) = steps.next_if(|(_, next)| next.starts_with('>')) {
                        bytes.extend(unquote(more.strip_prefix("> ").unwrap_or("")));
                    }
                    self.send(&bytes);
                }
                "<" => {
                    let mut expected = vec![rest];
                    // A frame goes on until the line which holds its end.
                    while !expected.last().is_some_and(|line| line.ends_with("^@")) {
                        match steps.next_if(|(_, next)| next.starts_with('<')) {
                            Some((_, more)) => expected.push(more.strip_prefix("< ").unwrap_or("")),
                            None => return Err(fail("an expected frame needs ^@ at its end".into())),
                        }
                    }
                    expect_frame(&expected, self.written.pop_front()).map_err(fail)?;
                }
                "<<" => match self.written.pop_front() {
                    Some(Written::HeartBeat) => {}
                    other => return Err(fail(format!("expected a heart-beat, got {other:?}"))),
                },
                "=" => match self.requests.pop_front() {
                    Some(request) if request == rest => {}
                    other => return Err(fail(format!("expected the request `{rest}`, got {other:?}"))),
                },
                "hold" => self.hold = true,
                "answer" => {
                    let (number, header) = rest.split_once(' ').unwrap_or((rest, ""));
                    let extra: Vec<_> = header.split_once(':').into_iter().collect();
                    self.session.receipt(self.tickets[number.parse::<usize>().unwrap()], &extra);
                }
                "refuse" => {
                    let (number, text) = rest.split_once(' ').unwrap();
                    self.session.error(text, text, Some(self.tickets[number.parse::<usize>().unwrap()]));
                }
                "deliver" | "redeliver" => self.deliver(rest, word == "redeliver"),
                "browsed" => self.session.end_browse(SubKey(rest.parse().unwrap())),
                "flush" => {
                    self.read();
                    self.session.handle_flushed(self.session.emitted());
                }
                "wait" => {
                    self.now.mono_ms += rest.parse::<u64>().unwrap();
                    self.session.handle_timeout(self.now);
                }
                "closed" => closed = true,
                _ => return Err(fail(format!("`{line}` is no step"))),
            }
            self.settle();
        }
        let number = case[0].0;
        if !has_spec {
            return Err(format!("{number}: the case does not say where it comes from"));
        }
        if !self.written.is_empty() || !self.requests.is_empty() || !self.wire.is_empty() {
            return Err(format!("{number}: not expected: {:?} {:?} {:?}", self.written, self.requests, self.wire));
        }
        if closed != self.session.should_close() {
            return Err(format!("{number}: closed is {}", !closed));
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.cut.next_len().min(bytes.len()));
            self.session.handle_bytes(self.now, piece);
            // Whoever it is.
            if self.session.poll_login().is_some() {
                self.session.admit(self.now);
            }
            bytes = rest;
        }
        self.settle();
    }

    /// `SUB ID DESTINATION {HEAD} BODY`
    fn deliver(&mut self, text: &str, redelivered: bool) {
        let (front, back) = text.split_once(" {").unwrap();
        let (head, body) = back.split_once("} ").unwrap();
        let mut front = front.split(' ');
        let sub = SubKey(front.next().unwrap().parse().unwrap());
        let head: Bytes =
            head.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect::<String>().into();
        let delivery = Delivery {
            count: Some(1 + u32::from(redelivered)),
            message_id: front.next().unwrap(),
            redelivered,
            destination: front.next().unwrap(),
            head: &head,
            body: &Bytes::copy_from_slice(body.as_bytes()),
        };
        self.session.deliver(sub, delivery);
    }

    /// Takes all outputs of the session in.
    fn settle(&mut self) {
        while let Some(request) = self.session.poll_request() {
            self.requests.push_back(show(&request));
            self.tickets.push(request.ticket());
            if !self.hold {
                self.session.receipt(request.ticket(), &[]);
            }
        }
        self.read();
    }

    fn read(&mut self) {
        while let Some(bytes) = self.session.poll_bytes() {
            self.wire.extend_from_slice(&bytes);
        }
        while let Some(written) = take_frame(&mut self.wire) {
            self.written.push_back(written);
        }
    }
}

/// A reader of its own, so that a mistake in the decoder can't hide one in the encoder.
fn take_frame(wire: &mut Vec<u8>) -> Option<Written> {
    if wire.first() == Some(&b'\n') {
        wire.remove(0);
        return Some(Written::HeartBeat);
    }
    let head_end = wire.windows(2).position(|pair| pair == b"\n\n")?;
    let lines: Vec<String> = std::str::from_utf8(&wire[..head_end]).unwrap().split('\n').map(str::to_owned).collect();
    let start = head_end + 2;
    let announced = lines.iter().find_map(|line| line.strip_prefix("content-length:"));
    let len = match announced {
        Some(len) => len.parse().unwrap(),
        None => wire[start..].iter().position(|byte| *byte == 0)?,
    };
    // Each frame with the line feed that some clients count on.
    assert_eq!(wire.get(start + len..start + len + 2), Some(&b"\0\n"[..]), "{lines:?} does not end where it says");
    let body = wire[start..start + len].to_vec();
    wire.drain(..start + len + 2);
    Some(Written::Frame { lines, body })
}

fn expect_frame(expected: &[&str], written: Option<Written>) -> Result<(), String> {
    let mismatch = |what: &str| Err(format!("{what} in {written:?}"));
    let Some(Written::Frame { lines, body }) = &written else { return mismatch(&format!("{:?} is not", expected[0])) };
    if lines[0] != expected[0].trim_end_matches("^@") {
        return mismatch(&format!("{} is not", expected[0]));
    }
    let mut rest = expected[1..].iter();
    for line in rest.by_ref() {
        let line = line.trim_end_matches("^@");
        if line.is_empty() {
            break;
        }
        let (wanted, pattern) = line.strip_prefix('!').map_or((true, line), |absent| (false, absent));
        if lines[1..].iter().any(|line| matches(pattern, line)) != wanted {
            return mismatch(&format!("`{line}` does not hold"));
        }
    }
    let rest: Vec<&str> = rest.copied().collect();
    if !rest.is_empty() && unquote_body(&rest) != *body {
        return mismatch(&format!("the body {rest:?} is not"));
    }
    Ok(())
}

/// `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut text) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = "";
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
        last = part;
    }
    text.is_empty() || (pattern.contains('*') && last.is_empty())
}

/// A `>` line with its line feed.
fn unquote(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('^') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, len) = match after.as_bytes()[0] {
            b'@' => (0, 1),
            b'M' => (b'\r', 1),
            b'x' => (u8::from_str_radix(&after[1..3], 16).unwrap(), 3),
            other => panic!("^{} means nothing", other as char),
        };
        bytes.push(byte);
        rest = &after[len..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    if !line.ends_with("^@") {
        bytes.push(b'\n');
    }
    bytes
}

fn unquote_body(lines: &[&str]) -> Vec<u8> {
    let mut body: Vec<u8> = lines.iter().flat_map(|line| unquote(line)).collect();
    assert_eq!(body.pop(), Some(0), "the body of an expected frame ends in ^@");
    body
}

fn show(request: &Request) -> String {
    match request {
        Request::Publish { unit, acks, .. } => {
            let mut parts: Vec<String> = unit
                .iter()
                .map(|send| {
                    let head = String::from_utf8_lossy(&send.head).trim_end_matches('\n').replace('\n', "|");
                    let body = send.body.escape_ascii();
                    let mut marks = String::new();
                    if !send.persistent {
                        marks.push_str(" transient");
                    }
                    if let Some(at) = send.lifetime.expires {
                        marks.push_str(&format!(" until {at}"));
                    }
                    if let Some(ms) = send.lifetime.ttl_ms {
                        marks.push_str(&format!(" for {ms}"));
                    }
                    if send.priority != 4 {
                        marks.push_str(&format!(" priority {}", send.priority));
                    }
                    if send.delay_ms > 0 {
                        marks.push_str(&format!(" delay {}", send.delay_ms));
                    }
                    if let Some(schedule) = &send.schedule {
                        marks.push_str(&format!(" schedule {schedule}"));
                    }
                    format!("{} {{{head}}} {body}{marks}", send.destination)
                })
                .collect();
            parts.extend(acks.iter().map(show_ack));
            format!("publish {}", parts.join("; "))
        }
        Request::Subscribe { destination, ack, prefetch, service, selector, durable, .. } => {
            let ack = match ack {
                AckMode::Auto => "auto",
                AckMode::Client => "client",
                AckMode::ClientIndividual => "client-individual",
            };
            let durable = durable.as_ref().map(|name| format!(" durable {}", name.as_str())).unwrap_or_default();
            let selector = selector.as_ref().map(|one| format!(" where {}", one.as_str())).unwrap_or_default();
            let service = match service {
                Service::Shared => String::new(),
                Service::Exclusive { priority } => format!(" exclusive {priority}"),
                Service::Browse => " browse".to_owned(),
            };
            format!("subscribe {destination} {ack} {prefetch}{service}{durable}{selector}")
        }
        Request::Forget { name, .. } => format!("forget {}", name.as_str()),
        Request::Unsubscribe { sub, requeue, .. } => {
            let ids: Vec<&str> = requeue.iter().map(Arc::as_ref).collect();
            format!("unsubscribe {} {{{}}}", sub.0, ids.join(" "))
        }
        Request::Ack { items, .. } => {
            format!("ack {}", items.iter().map(show_ack).collect::<Vec<_>>().join("; "))
        }
        Request::Disconnect { subs, requeue, .. } => {
            let subs: String = subs.iter().map(|sub| format!(" {}", sub.0)).collect();
            let ids = if requeue.is_empty() { String::new() } else { format!(" {{{}}}", requeue.join(" ")) };
            format!("disconnect{subs}{ids}")
        }
    }
}

fn show_ack(item: &AckItem) -> String {
    let sign = match item.fate {
        Fate::Consumed => "+",
        Fate::Requeued => "-",
        Fate::Rejected => "x",
    };
    format!("{sign}{}/{}", item.subscription.0, item.message_id)
}
