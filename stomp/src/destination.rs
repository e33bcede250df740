//! Destinations: what a SEND or SUBSCRIBE names.
//!
//! | written | what it is |
//! |---|---|
//! | `/topic/NAME` | a topic; on SUBSCRIBE a pattern, see [`crate::topic`] |
//! | `/exchange/amq.topic/KEY` | the topic `/topic/KEY`; other exchanges are refused |
//! | `/amq/queue/NAME` | the queue `/queue/NAME` |
//! | `/temp-queue/NAME` | a queue of the connection's own: the session knows its real name |
//! | `/reply-queue/ID` | that real name; it can be sent to, from everywhere |
//! | `/temp-topic/`, `/remote-temp-queue/`, `/remote-temp-topic/`, `/dsub/` and `/durable/` | refused |
//! | everything else | a queue; `/queue/NAME` is the usual way to write one |
//!
//! Names are opaque. Apart from the aliases above a destination is kept exactly as the client wrote it, since a MESSAGE must
//! show the destination of its SEND: `orders` and `/queue/orders` are two queues.
//!
//! A SEND may name several, see [`parts`].

use std::{fmt, sync::Arc};

use crate::topic::{PatternError, check_pattern, has_wildcard};

/// Bytes of the longest destination.
pub const MAX_DESTINATION_LEN: usize = 255;

/// Destinations that one SEND may name.
pub const MAX_PARTS: usize = 64;

const QUEUE: &str = "/queue/";
pub(crate) const TOPIC: &str = "/topic/";
const AMQ_QUEUE: &str = "/amq/queue/";
const EXCHANGE: &str = "/exchange/";
const AMQ_TOPIC: &str = "/exchange/amq.topic/";
pub(crate) const TEMP_QUEUE: &str = "/temp-queue/";
pub(crate) const REPLY_QUEUE: &str = "/reply-queue/";
/// What the inboxes of durable subscriptions begin with.
pub(crate) const DURABLE: &str = "/durable/";

/// Where a comma may end one destination of several: before any of these.
const PREFIXES: [&str; 6] = [QUEUE, TOPIC, AMQ_QUEUE, EXCHANGE, TEMP_QUEUE, REPLY_QUEUE];

/// What begins so is neither a queue nor anything else here.
const REFUSED: [&str; 5] = ["/temp-topic/", "/remote-temp-queue/", "/remote-temp-topic/", "/dsub/", DURABLE];

/// What happens to a message sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is stored, and one of the consumers gets it.
    Queue,
    /// Every current subscriber gets it; it is stored for durable subscriptions alone.
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
    /// A prefix that means nothing here.
    #[error(
        "there are no destinations that begin with {prefix} here; write /queue/NAME, /topic/NAME or /temp-queue/NAME"
    )]
    Refused {
        /// The prefix.
        prefix: &'static str,
    },
    /// An exchange other than `amq.topic`.
    #[error(
        "there are no exchanges here but amq.topic: /exchange/amq.topic/KEY is the topic /topic/KEY; for one consumer each \
         send to /queue/NAME"
    )]
    Exchange,
    /// A SEND to a pattern.
    #[error("a message can't be sent to a wildcard; SEND to one topic, SUBSCRIBE to many")]
    SendToWildcard,
    /// See [`PatternError`].
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A SUBSCRIBE to several.
    #[error("SUBSCRIBE takes one destination, not several with commas between them; send a SUBSCRIBE for each")]
    SubscribeToSeveral,
    /// A SUBSCRIBE to the real name of a temporary queue.
    #[error("a reply queue is read by the connection that made it; SUBSCRIBE to /temp-queue/NAME for one of your own")]
    SubscribeToReplies,
    /// More than [`MAX_PARTS`].
    #[error("a SEND may name at most {MAX_PARTS} destinations, this one names {parts}; use a transaction for more")]
    TooMany {
        /// How many it names.
        parts: usize,
    },
}

impl Destination {
    /// Reads one destination, without looking at wildcards.
    ///
    /// # Errors
    /// See [`DestinationError`]. `/temp-queue/` is refused: what it stands for depends on the connection.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        if text.len() > MAX_DESTINATION_LEN {
            return Err(DestinationError::TooLong { len: text.len() });
        }
        if let Some(prefix) = REFUSED.into_iter().chain([TEMP_QUEUE]).find(|prefix| text.starts_with(prefix)) {
            return Err(DestinationError::Refused { prefix });
        }
        let (kind, prefix, name) = split(text);
        if name.is_empty() {
            return Err(DestinationError::Empty { text: text.to_owned() });
        }
        if prefix == EXCHANGE {
            return Err(DestinationError::Exchange);
        }
        let text = match prefix {
            AMQ_QUEUE => [QUEUE, name].concat().into(),
            AMQ_TOPIC => [TOPIC, name].concat().into(),
            _ => text.into(),
        };
        Ok(Self { kind, text })
    }

    /// Reads what a SEND names.
    ///
    /// # Errors
    /// As [`Destination::parse`], and for wildcards.
    pub fn target(text: &str) -> Result<Self, DestinationError> {
        let destination = Self::parse(text)?;
        if destination.kind == Kind::Topic && has_wildcard(destination.name()) {
            return Err(DestinationError::SendToWildcard);
        }
        Ok(destination)
    }

    /// Reads what a SUBSCRIBE names.
    ///
    /// # Errors
    /// As [`Destination::parse`], for patterns that are none, for several, and for reply queues.
    pub fn source(text: &str) -> Result<Self, DestinationError> {
        if parts(text).nth(1).is_some() {
            return Err(DestinationError::SubscribeToSeveral);
        }
        let destination = Self::parse(text)?;
        if destination.text.starts_with(REPLY_QUEUE) {
            return Err(DestinationError::SubscribeToReplies);
        }
        if destination.kind == Kind::Topic {
            check_pattern(destination.name())?;
        }
        Ok(destination)
    }

    /// A temporary queue by its real name, which the broker chose.
    pub(crate) fn reply_queue(text: Arc<str>) -> Self {
        Self { kind: Kind::Queue, text }
    }

    /// Queue or topic.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// As the client wrote it, or as its alias stands for. For a queue this is also the name of the inbox its messages wait
    /// in.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same text, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// What comes before the name: `/queue/`, `/topic/`, `/reply-queue/` or nothing.
    pub(crate) fn prefix(&self) -> &'static str {
        split(&self.text).1
    }

    /// Without the prefix, for people to read.
    pub fn name(&self) -> &str {
        split(&self.text).2
    }
}

/// The destinations that a SEND names. A comma lies between two of them only where another prefix follows, after spaces or
/// not: `/queue/a,/topic/b` are two, `/queue/a,b` is one queue with a comma in its name.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let whole = rest.take()?;
        let is_end = |(at, _): &(usize, char)| {
            let next = whole[at + 1..].trim_start_matches(' ');
            PREFIXES.iter().chain(&REFUSED).any(|prefix| next.starts_with(prefix))
        };
        match whole.char_indices().filter(|(_, char)| *char == ',').find(is_end) {
            Some((at, _)) => {
                rest = Some(whole[at + 1..].trim_start_matches(' '));
                Some(whole[..at].trim_end_matches(' '))
            }
            None => Some(whole),
        }
    })
}

/// Kind, prefix and name of a destination's text.
fn split(text: &str) -> (Kind, &'static str, &str) {
    let known = [
        (Kind::Topic, TOPIC),
        (Kind::Queue, QUEUE),
        (Kind::Queue, AMQ_QUEUE),
        (Kind::Topic, AMQ_TOPIC),
        (Kind::Queue, EXCHANGE),
        (Kind::Queue, REPLY_QUEUE),
    ];
    let found = known.into_iter().find_map(|(kind, prefix)| Some((kind, prefix, text.strip_prefix(prefix)?)));
    found.unwrap_or((Kind::Queue, "", text))
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
            ("/queue/../../etc/passwd", Kind::Queue, "../../etc/passwd"),
            ("/reply-queue/1", Kind::Queue, "1"),
            ("queue://a", Kind::Queue, "queue://a"),
        ] {
            let destination = Destination::parse(text).unwrap();
            assert_eq!((destination.kind(), destination.name(), destination.as_str()), (kind, name, text));
        }
    }

    #[test]
    fn nameless_and_overlong_ones_are_refused() {
        for text in ["", "/queue/", "/topic/", "/amq/queue/", "/exchange/amq.topic/", "/exchange/"] {
            assert_eq!(Destination::parse(text), Err(DestinationError::Empty { text: text.into() }));
        }
        assert!(Destination::parse(&"x".repeat(255)).is_ok());
        assert_eq!(Destination::parse(&"x".repeat(256)), Err(DestinationError::TooLong { len: 256 }));
    }

    #[test]
    fn aliases_are_what_they_stand_for() {
        let parsed = |text| Destination::parse(text).unwrap();
        assert_eq!(parsed("/amq/queue/a/b"), parsed("/queue/a/b"));
        assert_eq!(parsed("/exchange/amq.topic/a.*"), parsed("/topic/a.*"));
    }

    #[test]
    fn what_means_nothing_here_is_refused_and_says_what_to_write() {
        for text in ["/exchange/amq.direct/k", "/exchange/logs", "/exchange/amq.fanout", "/exchange/amq.topic"] {
            assert_eq!(Destination::parse(text), Err(DestinationError::Exchange), "{text}");
        }
        for prefix in
            ["/temp-topic/", "/remote-temp-queue/", "/remote-temp-topic/", "/dsub/", "/durable/", "/temp-queue/"]
        {
            let error = Destination::parse(&format!("{prefix}x")).unwrap_err();
            assert_eq!(error, DestinationError::Refused { prefix });
            assert!(error.to_string().contains("/queue/NAME"));
        }
    }

    #[test]
    fn wildcards_are_for_subscribers() {
        for topic in ["/topic/a.*", "/topic/#", "/topic/a.>", "/exchange/amq.topic/*"] {
            assert_eq!(Destination::target(topic), Err(DestinationError::SendToWildcard), "{topic}");
            assert!(Destination::source(topic).is_ok(), "{topic}");
        }
        assert!(Destination::target("/queue/a.*").is_ok() && Destination::target("/topic/a*").is_ok());
        assert_eq!(Destination::source("/topic/a.>.b"), Err(PatternError::NotLast.into()));
        assert_eq!(Destination::source("/queue/a,/queue/b"), Err(DestinationError::SubscribeToSeveral));
        assert_eq!(Destination::source("/reply-queue/1"), Err(DestinationError::SubscribeToReplies));
    }

    #[test]
    fn commas_part_destinations_only_where_another_one_follows() {
        for (text, expected) in [
            ("/queue/a,/topic/b", &["/queue/a", "/topic/b"][..]),
            ("/queue/a, /queue/b ,/queue/c", &["/queue/a", "/queue/b", "/queue/c"]),
            ("/queue/a,b", &["/queue/a,b"]),
            ("a,b", &["a,b"]),
            ("a,/queue/b", &["a", "/queue/b"]),
            ("/queue/a,", &["/queue/a,"]),
            (",/queue/a", &["", "/queue/a"]),
            ("/queue/ä,/dsub/x", &["/queue/ä", "/dsub/x"]),
        ] {
            assert_eq!(parts(text).collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
