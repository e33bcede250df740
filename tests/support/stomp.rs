//! A small blocking STOMP 1.2 client.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::PATIENCE;

/// Name and passcode of the user that clients log in as, where they are not on the node's own machine.
pub const USER: &str = "tests";

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub command: String,
    /// The first of each name counts, as STOMP says.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Frame {
    /// The value of a header, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("tests send text")
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.command, self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read as frames.
    used: usize,
    /// Frames that came while another kind was waited for.
    waiting: VecDeque<Frame>,
    receipts: u64,
}

impl Client {
    /// Connects and waits for CONNECTED.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_beating(address, "0,0")
    }

    /// The same, with a `heart-beat` header.
    pub fn connect_beating(address: SocketAddr, beats: &str) -> io::Result<Self> {
        let login = [("login", USER), ("passcode", USER)];
        let login = if address.ip().is_loopback() { &[][..] } else { &login };
        let mut client = Self::raw(address)?;
        client.say_hello(&[&[("heart-beat", beats)], login].concat())?;
        Ok(client)
    }

    /// CONNECT with these headers, and the answer; an error tells the ERROR.
    pub fn say_hello(&mut self, headers: &[(&str, &str)]) -> io::Result<Frame> {
        self.write("CONNECT", &[&[("accept-version", "1.2"), ("host", "test")], headers].concat(), b"")?;
        let frame = self.next_frame(PATIENCE)?;
        if frame.command == "CONNECTED" { Ok(frame) } else { Err(io::Error::other(frame.to_string())) }
    }

    /// A TCP connection that has not said anything yet.
    pub fn raw(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new(), used: 0, waiting: VecDeque::new(), receipts: 0 })
    }

    /// Writes bytes as they are.
    pub fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes a frame.
    pub fn write(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(body.len() + 128);
        encode(&mut bytes, command, headers, body);
        self.stream.write_all(&bytes)
    }

    /// The next frame, of any kind. `TimedOut` after `patience`, `UnexpectedEof` when the broker closed.
    pub fn next_frame(&mut self, patience: Duration) -> io::Result<Frame> {
        match self.waiting.pop_front() {
            Some(frame) => Ok(frame),
            None => self.read_frame(patience),
        }
    }

    /// Reads until the broker closes; the frames that came.
    ///
    /// # Panics
    /// When it does not close within [`PATIENCE`].
    pub fn until_closed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.next_frame(PATIENCE) {
                Ok(frame) => frames.push(frame),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("still open; came so far: {frames:?}"),
                Err(_) => return frames,
            }
        }
    }

    /// Subscribes with `ack:client-individual`.
    pub fn subscribe(&mut self, id: &str, destination: &str) -> io::Result<()> {
        let headers = [("id", id), ("destination", destination), ("ack", "client-individual")];
        self.write("SUBSCRIBE", &headers, b"")
    }

    /// Sends one message and waits for its receipt; returns the RECEIPT.
    pub fn send_confirmed(&mut self, destination: &str, body: &[u8]) -> io::Result<Frame> {
        self.receipts += 1;
        let receipt = format!("r{}", self.receipts);
        self.write("SEND", &[("destination", destination), ("receipt", &receipt)], body)?;
        self.await_receipt(&receipt)
    }

    /// Sends one message per text, many under way at once. `confirmed` hears of each text whose receipt came; it is
    /// called for no other one, whatever the outcome.
    pub fn send_all(
        &mut self,
        destination: &str,
        texts: impl IntoIterator<Item = String>,
        mut confirmed: impl FnMut(String),
    ) -> io::Result<()> {
        const UNDER_WAY: usize = 200;
        let mut texts = texts.into_iter().fuse();
        let mut under_way = BTreeMap::new();
        loop {
            let mut bytes = Vec::new();
            for text in texts.by_ref().take(UNDER_WAY - under_way.len()) {
                self.receipts += 1;
                let receipt = format!("r{}", self.receipts);
                encode(&mut bytes, "SEND", &[("destination", destination), ("receipt", &receipt)], text.as_bytes());
                under_way.insert(receipt, text);
            }
            self.stream.write_all(&bytes)?;
            if under_way.is_empty() {
                return Ok(());
            }
            let frame = self.read_frame(PATIENCE)?;
            match frame.command.as_str() {
                "RECEIPT" => {
                    let text = under_way.remove(frame.header("receipt-id"));
                    confirmed(text.ok_or_else(|| io::Error::other(format!("not asked for: {frame}")))?);
                }
                "MESSAGE" => self.waiting.push_back(frame),
                _ => return Err(io::Error::other(frame.to_string())),
            }
        }
    }

    /// Acknowledges a MESSAGE.
    pub fn ack(&mut self, message: &Frame) -> io::Result<()> {
        self.write("ACK", &[("id", message.header("ack"))], b"")
    }

    /// The same with a receipt, which comes among the other frames.
    pub fn ack_with_receipt(&mut self, message: &Frame, receipt: &str) -> io::Result<()> {
        self.write("ACK", &[("id", message.header("ack")), ("receipt", receipt)], b"")
    }

    /// Waits until everything written before has been taken in (for ACKs: is durable at this node).
    pub fn sync(&mut self) -> io::Result<()> {
        self.receipts += 1;
        let receipt = format!("r{}", self.receipts);
        // A transaction of nothing changes nothing and answers in order.
        self.write("BEGIN", &[("transaction", &receipt)], b"")?;
        self.write("ABORT", &[("transaction", &receipt), ("receipt", &receipt)], b"")?;
        self.await_receipt(&receipt).map(|_| ())
    }

    /// DISCONNECT with a receipt, then closes.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.write("DISCONNECT", &[("receipt", "bye")], b"")?;
        self.await_receipt("bye").map(|_| ())
    }

    fn await_receipt(&mut self, receipt: &str) -> io::Result<Frame> {
        loop {
            let frame = self.read_frame(PATIENCE)?;
            match frame.command.as_str() {
                "RECEIPT" if frame.header("receipt-id") == receipt => return Ok(frame),
                "MESSAGE" => self.waiting.push_back(frame),
                _ => return Err(io::Error::other(frame.to_string())),
            }
        }
    }

    fn read_frame(&mut self, patience: Duration) -> io::Result<Frame> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some((frame, used)) = decode(&self.buffer[self.used..])? {
                self.used += used;
                return Ok(frame);
            }
            self.buffer.drain(..std::mem::take(&mut self.used));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn encode(out: &mut Vec<u8>, command: &str, headers: &[(&str, &str)], body: &[u8]) {
    out.extend_from_slice(command.as_bytes());
    out.push(b'\n');
    let length = body.len().to_string();
    let length = (!body.is_empty()).then_some(("content-length", length.as_str()));
    for (name, value) in headers.iter().copied().chain(length) {
        for (text, end) in [(name, b':'), (value, b'\n')] {
            for byte in text.bytes() {
                match byte {
                    // CONNECT frames are not escaped; tests put nothing in them that would need it.
                    b'\\' => out.extend_from_slice(b"\\\\"),
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    b':' => out.extend_from_slice(b"\\c"),
                    other => out.push(other),
                }
            }
            out.push(end);
        }
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
}

/// The frame at the front of `bytes` and how many bytes it takes, or None when more must come.
fn decode(bytes: &[u8]) -> io::Result<Option<(Frame, usize)>> {
    let start = bytes.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let Some(head) = bytes[start..].windows(2).position(|pair| pair == b"\n\n").map(|at| start + at) else {
        return Ok(None);
    };
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let text = std::str::from_utf8(&bytes[start..head]).map_err(|_| bad("a head that is not UTF-8"))?;
    let mut lines = text.split('\n');
    let command = lines.next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.entry(name.to_owned()).or_insert(unescape(value).ok_or_else(|| bad("an unknown escape"))?);
    }
    let body = head + 2;
    let end = match headers.get("content-length") {
        Some(length) => body + length.parse::<usize>().map_err(|_| bad("a strange content-length"))?,
        None => match bytes[body..].iter().position(|byte| *byte == 0) {
            Some(length) => body + length,
            None => return Ok(None),
        },
    };
    match bytes.get(end) {
        None => Ok(None),
        Some(0) => Ok(Some((Frame { command, headers, body: bytes[body..end].to_vec() }, end + 1))),
        Some(_) => Err(bad("a frame that does not end in NUL")),
    }
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                'c' => ':',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}
