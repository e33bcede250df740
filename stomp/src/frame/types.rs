//! What a frame is made of: version, command, headers, body.

use std::fmt;

use bytes::Bytes;

/// A version of the protocol, in the order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Without escapes: line breaks can't be in a header.
    V1_0,
    /// Escapes line feed, colon and backslash.
    V1_1,
    /// Escapes carriage return as well; lines may end in CR LF; ACK names a delivery by one `id`.
    V1_2,
}

impl Version {
    /// All that are spoken, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_0, Self::V1_1, Self::V1_2];

    /// As the `version` header has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// The newest version in an `accept-version` list which is spoken here, if any.
    pub fn best_of(accepted: &str) -> Option<Self> {
        accepted
            .split(',')
            .filter_map(|item| Self::ALL.into_iter().find(|version| version.as_str() == item.trim()))
            .max()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The first line of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Command {
            $($(#[$doc])* $name,)*
        }

        impl Command {
            /// Every command of the three versions.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The command of a line; case matters.
            pub fn from_line(line: &[u8]) -> Option<Self> {
                $(if line == $text.as_bytes() { return Some(Self::$name); })*
                None
            }
        }
    };
}

commands! {
    /// A message for a destination.
    Send = "SEND",
    /// This delivery is consumed.
    Ack = "ACK",
    /// This delivery is not consumed.
    Nack = "NACK",
    /// Start of a subscription.
    Subscribe = "SUBSCRIBE",
    /// End of a subscription.
    Unsubscribe = "UNSUBSCRIBE",
    /// Start of a transaction.
    Begin = "BEGIN",
    /// End of a transaction: do it all.
    Commit = "COMMIT",
    /// End of a transaction: do nothing of it.
    Abort = "ABORT",
    /// Start of a session.
    Connect = "CONNECT",
    /// Start of a session, for clients of 1.1 and later.
    Stomp = "STOMP",
    /// End of a session.
    Disconnect = "DISCONNECT",
    /// Answer to CONNECT.
    Connected = "CONNECTED",
    /// A delivery.
    Message = "MESSAGE",
    /// What asked for a receipt is done.
    Receipt = "RECEIPT",
    /// Something went wrong; the connection closes.
    Error = "ERROR",
}

impl Command {
    /// Whether frames of this command may have a body.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Send | Self::Message | Self::Error)
    }

    /// Whether header texts are escaped in frames of this command. Those which start a session are not, since both
    /// sides learn the version from them.
    pub fn escapes(self) -> bool {
        !matches!(self, Self::Connect | Self::Stomp | Self::Connected)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Header entries in the order received, unescaped. A repeated name is dropped on entry: the first one counts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// All names and values, one after the other: one allocation for all of them.
    text: String,
    /// Where each name and value ends in `text`; each begins where the one before ends.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry unless the name is there already. Returns whether it was added.
    pub fn push(&mut self, name: &str, value: &str) -> bool {
        if self.get(name).is_some() {
            return false;
        }
        self.text.push_str(name);
        let middle = self.text.len();
        self.text.push_str(value);
        self.ends.push((middle, self.text.len()));
        true
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|entry| entry.0 == name).map(|entry| entry.1)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |&(middle, end)| {
            let entry = (&self.text[start..middle], &self.text[middle..end]);
            start = end;
            entry
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in entries {
            headers.push(name.as_ref(), value.as_ref());
        }
        headers
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its first line.
    pub command: Command,
    /// Its header entries, unescaped.
    pub headers: Headers,
    /// Its body; a slice of the receive buffer when it was decoded.
    pub body: Bytes,
}

impl Frame {
    /// A frame without a body.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(command: Command, headers: impl IntoIterator<Item = (N, V)>) -> Self {
        Self { command, headers: headers.into_iter().collect(), body: Bytes::new() }
    }

    /// The same frame with this body.
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}
