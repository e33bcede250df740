//! A STOMP 1.2 connection, as the generator uses it: frames are queued, and each turn writes and reads what can be.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, BytesMut};
use rhizomq_stomp::{
    frame::{Command, Decoder, Frame, HeadWriter, Version, encode},
    limits::Limits,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use zeroize::Zeroizing;

use super::args::Header;

/// What is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// While so many bytes wait to be written, nothing more is queued.
const ENOUGH: usize = 64 << 10;

/// The subscription's id: there is one per connection.
const ID: &str = "bench";

/// How to get into a broker.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// The `host` header of CONNECT.
    pub(super) host: String,
    pub(super) login: Option<(String, Zeroizing<Vec<u8>>)>,
    /// Counts what is read, over all connections: while it grows, nothing is stuck.
    pub(super) pulse: Arc<AtomicU64>,
}

/// An open session.
pub(super) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
    out: BytesMut,
    pulse: Arc<AtomicU64>,
}

impl Connection {
    /// Connects and waits for CONNECTED.
    ///
    /// # Errors
    /// Nobody listens there, or the broker refuses, or it does not speak STOMP 1.2.
    pub(super) async fn open(address: &str, door: &Door) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("no broker at {address}"))?;
        stream.set_nodelay(true)?;
        let (input, out) = (BytesMut::with_capacity(CHUNK), BytesMut::new());
        let decoder = Decoder::new(Limits { header_section: 256 << 10, ..Limits::default() });
        let mut connection = Self { stream, decoder, input, out, pulse: Arc::clone(&door.pulse) };
        let mut head = HeadWriter::new(&mut connection.out, Command::Connect, Version::V1_2)
            .header("accept-version", "1.2")
            .header("host", &door.host)
            .header("heart-beat", "0,0");
        if let Some((login, passcode)) = &door.login {
            let passcode = std::str::from_utf8(passcode).context("the passcode is not UTF-8")?;
            head = head.header("login", login).header("passcode", passcode);
        }
        head.end(None);
        connection.out.put_u8(0);
        let answer = connection.wait().await.with_context(|| format!("the broker at {address}"))?;
        ensure!(answer.command == Command::Connected, "the broker at {address} answers CONNECT with {answer:?}");
        let version = answer.headers.get("version");
        ensure!(version == Some("1.2"), "the broker at {address} speaks STOMP {version:?}, not 1.2");
        connection.decoder.start_session(Version::V1_2);
        Ok(connection)
    }

    /// Queues a frame without a body.
    pub(super) fn put(&mut self, command: Command, headers: &[(&str, &str)]) {
        self.out.put_slice(&encode(&Frame::new(command, headers.iter().copied()), Version::V1_2));
    }

    /// Queues a SEND, whose body `body` writes.
    pub(super) fn put_send(
        &mut self,
        destination: &str,
        receipt: &str,
        headers: &[Header],
        (size, body): (u32, impl FnOnce(&mut BytesMut)),
    ) {
        let mut head = HeadWriter::new(&mut self.out, Command::Send, Version::V1_2)
            .header("destination", destination)
            .header("receipt", receipt);
        for Header(name, value) in headers {
            head = head.header(name, value);
        }
        head.end(Some(size as usize));
        body(&mut self.out);
        self.out.put_u8(0);
    }

    /// Queues a SUBSCRIBE that asks for a receipt.
    pub(super) fn put_subscribe(&mut self, destination: &str, ack: &str, prefetch: u32, headers: &[Header]) {
        let prefetch = prefetch.to_string();
        let mut all = vec![("id", ID), ("destination", destination), ("ack", ack), ("receipt", "subscribed")];
        all.extend([("prefetch-count", prefetch.as_str()), ("activemq.prefetchSize", prefetch.as_str())]);
        all.extend(headers.iter().map(|Header(name, value)| (name.as_str(), value.as_str())));
        self.put(Command::Subscribe, &all);
    }

    /// Queues an UNSUBSCRIBE that asks for the receipt `unsubscribed`.
    pub(super) fn put_unsubscribe(&mut self) {
        self.put(Command::Unsubscribe, &[("id", ID), ("receipt", "unsubscribed")]);
    }

    /// Whether enough waits to be written for now.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= ENOUGH
    }

    /// The next frame of those that have been read. An ERROR is one.
    pub(super) fn frame(&mut self) -> anyhow::Result<Option<Frame>> {
        match self.decoder.poll().context("what the broker says is no STOMP")? {
            Some(frame) if frame.command == Command::Error => {
                let body = String::from_utf8_lossy(&frame.body).into_owned();
                bail!("the broker says ERROR: {} {body}", frame.headers.get("message").unwrap_or_default());
            }
            frame => Ok(frame),
        }
    }

    /// Writes and reads until some of either is done. May be dropped at any time: nothing is lost by that.
    pub(super) async fn turn(&mut self) -> anyhow::Result<()> {
        self.input.reserve(CHUNK);
        let (mut read, mut write) = self.stream.split();
        tokio::select! {
            count = read.read_buf(&mut self.input) => {
                let count = count.context("the connection broke")?;
                ensure!(count > 0, "the broker closed the connection");
                self.pulse.fetch_add(count as u64, Ordering::Relaxed);
                self.decoder.feed(&self.input);
                self.input.clear();
            }
            count = write.write(&self.out), if !self.out.is_empty() => {
                let count = count.context("the connection broke")?;
                self.out.advance(count);
            }
        }
        Ok(())
    }

    /// Writes what is queued, and waits for a frame.
    pub(super) async fn wait(&mut self) -> anyhow::Result<Frame> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(frame);
            }
            self.turn().await?;
        }
    }

    /// Takes leave. What comes meanwhile is dropped: nothing is to come.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        self.put(Command::Disconnect, &[("receipt", "bye")]);
        loop {
            let frame = self.wait().await?;
            match frame.command {
                Command::Receipt if frame.headers.get("receipt-id") == Some("bye") => return Ok(()),
                Command::Receipt => bail!("a second receipt came: {frame:?}"),
                _ => {}
            }
        }
    }
}
