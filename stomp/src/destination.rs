//! Destinations: what a SEND or SUBSCRIBE names.
//!
//! `/topic/NAME` is a topic, everything else is a queue; `/queue/NAME` is the usual way to write one. A destination is
//! kept exactly as the client wrote it, since a MESSAGE must show the destination of its SEND: `orders` and
//! `/queue/orders` are two queues.

use std::{fmt, sync::Arc};

/// Bytes of the longest destination.
pub const MAX_DESTINATION_LEN: usize = 255;

const QUEUE: &str = "/queue/";
const TOPIC: &str = "/topic/";

/// What happens to a message sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is stored, and one of the consumers gets it.
    Queue,
    /// Every current subscriber gets it; it is not stored.
    Topic,
}

/// A valid destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    kind: Kind,
    text: Arc<str>,
}

/// The text names no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Nothing at all, or nothing after the prefix.
    #[error("the destination `{text}` has no name; write for example /queue/orders or /topic/prices")]
    Empty {
        /// What was given.
        text: String,
    },
    /// Longer than [`MAX_DESTINATION_LEN`].
    #[error("the destination has {len} bytes; at most {MAX_DESTINATION_LEN} are allowed")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
}

impl Destination {
    /// Reads the `destination` header's value.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        if text.len() > MAX_DESTINATION_LEN {
            return Err(DestinationError::TooLong { len: text.len() });
        }
        let (kind, name) = split(text);
        if name.is_empty() {
            return Err(DestinationError::Empty { text: text.to_owned() });
        }
        Ok(Self { kind, text: text.into() })
    }

    /// Queue or topic.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// As the client wrote it. For a queue this is also the name of the inbox its messages wait in.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same text, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Without the prefix, for people to read.
    pub fn name(&self) -> &str {
        split(&self.text).1
    }
}

/// Kind and name of a destination's text.
fn split(text: &str) -> (Kind, &str) {
    if let Some(name) = text.strip_prefix(TOPIC) {
        (Kind::Topic, name)
    } else {
        (Kind::Queue, text.strip_prefix(QUEUE).unwrap_or(text))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_decide_the_kind_and_the_text_stays() {
        for (text, kind, name) in [
            ("/queue/a", Kind::Queue, "a"),
            ("/topic/a/b", Kind::Topic, "a/b"),
            ("orders", Kind::Queue, "orders"),
            ("/other/x", Kind::Queue, "/other/x"),
            ("/queue/ ", Kind::Queue, " "),
        ] {
            let destination = Destination::parse(text).unwrap();
            assert_eq!((destination.kind(), destination.name(), destination.as_str()), (kind, name, text));
        }
    }

    #[test]
    fn nameless_and_overlong_ones_are_refused() {
        for text in ["", "/queue/", "/topic/"] {
            assert_eq!(Destination::parse(text), Err(DestinationError::Empty { text: text.into() }));
        }
        assert!(Destination::parse(&"x".repeat(255)).is_ok());
        assert_eq!(Destination::parse(&"x".repeat(256)), Err(DestinationError::TooLong { len: 256 }));
    }
}
