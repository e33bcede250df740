//! The join ticket: one line of text with all that a new node needs to enter the network.
//!
//! `rhizomq1-` and then, in lower-case base32 without padding: a version byte, the postcard form of the content, and the
//! first four bytes of the blake3 hash of both. Who has the ticket can join: treat it like a password.

use std::{fmt, net::SocketAddr, str::FromStr};

use rhizomq_engine::NodeId;
use serde::{Deserialize, Serialize};

use crate::rim::NetworkSecret;

const PREFIX: &str = "rhizomq";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The most addresses a ticket carries.
pub const MAX_TICKET_ADDRESSES: usize = 16;

/// The longest ticket, in characters.
pub const MAX_TICKET_CHARS: usize = 1024;

/// A way into the network. `Display` gives the whole ticket, secret included; `Debug` hides the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What proves that a node belongs to the network.
    pub secret: NetworkSecret,
    /// The node that issued the ticket: the fingerprint of its key.
    pub node: NodeId,
    /// Where that node can be reached; the first [`MAX_TICKET_ADDRESSES`] are written.
    pub addresses: Vec<SocketAddr>,
}

/// The text is not a ticket that this program can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else entirely.
    #[error(
        "this is not a join ticket: a ticket starts with `rhizomq1-`; print one with `rhizomq ticket` on a running node"
    )]
    NotATicket,
    /// Part of it is missing or changed.
    #[error("the join ticket is damaged ({0}): copy it again, as a whole")]
    Damaged(&'static str),
    /// Made by a newer program.
    #[error("the join ticket has version {0}, this program knows version {VERSION} only: upgrade this node")]
    Newer(u32),
}

#[derive(Serialize, Deserialize)]
struct Content {
    secret: [u8; 32],
    node: NodeId,
    addresses: Vec<SocketAddr>,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().take(MAX_TICKET_ADDRESSES).copied().collect();
        let content = Content { secret: *self.secret.as_bytes(), node: self.node, addresses };
        let mut bytes = postcard::to_extend(&content, vec![VERSION]).map_err(|_| fmt::Error)?;
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{VERSION}-{}", to_base32(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        // Upper case comes from some terminals and from people who read it out.
        let text = text.trim().to_ascii_lowercase();
        let (version, body) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(version, body)| Some((version.parse::<u32>().ok()?, body)))
            .ok_or(TicketError::NotATicket)?;
        if version > u32::from(VERSION) {
            return Err(TicketError::Newer(version));
        }
        if text.len() > MAX_TICKET_CHARS {
            return Err(TicketError::Damaged("it is too long"));
        }
        let bytes = from_base32(body).ok_or(TicketError::Damaged("it has characters that no ticket has"))?;
        let (bytes, check) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Damaged("it is too short"))?;
        if *check != checksum(bytes) {
            return Err(TicketError::Damaged("its checksum does not match"));
        }
        let (version, content) = bytes.split_first().ok_or(TicketError::Damaged("it is too short"))?;
        if *version > VERSION {
            return Err(TicketError::Newer(u32::from(*version)));
        }
        let content: Content =
            postcard::from_bytes(content).map_err(|_| TicketError::Damaged("its content makes no sense"))?;
        if content.addresses.is_empty() || content.addresses.len() > MAX_TICKET_ADDRESSES {
            return Err(TicketError::Damaged("it names no address, or too many"));
        }
        let secret = NetworkSecret::from_bytes(content.secret);
        Ok(Self { secret, node: content.node, addresses: content.addresses })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    let mut check = [0; CHECKSUM_BYTES];
    check.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    check
}

/// Five bits per character, most significant first; the last character is filled up with zeros.
fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(held >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(held << (5 - bits) & 31) as usize]));
    }
    text
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0u32, 0);
    for char in text.bytes() {
        let value = match char {
            b'a'..=b'z' => char - b'a',
            b'2'..=b'7' => char - b'2' + 26,
            _ => return None,
        };
        held = held << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 255) as u8);
        }
    }
    // What is left over is less than a character, and nothing but the zeros it was filled up with.
    (bits < 5 && held & ((1 << bits) - 1) == 0).then_some(bytes)
}

/// A ticket with this content, for tests.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn forge(bytes: &[u8]) -> String {
    format!("rhizomq1-{}", to_base32(&[bytes, &checksum(bytes)].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let addresses = vec!["127.0.0.1:61614".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()];
        Ticket { secret: NetworkSecret::from_bytes([0xa5; 32]), node: NodeId([3; 16]), addresses }
    }

    #[test]
    fn a_ticket_survives_its_text_form() {
        let text = ticket().to_string();
        assert!(text.starts_with("rhizomq1-"));
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(format!("  {}\n", text.to_uppercase()).parse(), Ok(ticket()));
        let mut many = ticket();
        many.addresses = vec!["[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(); 40];
        let text = many.to_string();
        assert!(text.len() <= MAX_TICKET_CHARS, "{}", text.len());
        assert_eq!(text.parse::<Ticket>().unwrap().addresses.len(), MAX_TICKET_ADDRESSES);
    }

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", ticket());
        assert!(shown.contains("hidden") && !shown.contains("a5") && !shown.contains("165"), "{shown}");
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let text = ticket().to_string();
        let body = text.find('-').unwrap() + 1;
        for at in body..text.len() {
            let swapped = if &text[at..at + 1] == "a" { "b" } else { "a" };
            let changed = format!("{}{swapped}{}", &text[..at], &text[at + 1..]);
            assert!(matches!(changed.parse::<Ticket>(), Err(TicketError::Damaged(_))), "{changed}");
            assert!(matches!(text[..at].parse::<Ticket>(), Err(TicketError::Damaged(_))), "cut at {at}");
        }
        assert!(matches!(format!("{text}a").parse::<Ticket>(), Err(TicketError::Damaged(_))));
    }

    #[test]
    fn other_text_newer_tickets_and_nonsense_are_told_apart() {
        for text in ["", "hello", "rhizomq", "rhizomq-abc", "rhizomqx-abc", "{}", "rhizomé1-a"] {
            assert_eq!(text.parse::<Ticket>(), Err(TicketError::NotATicket), "{text}");
        }
        assert_eq!("rhizomq2-zzz".parse::<Ticket>(), Err(TicketError::Newer(2)));
        assert_eq!(forge(&[7, 1, 2]).parse::<Ticket>(), Err(TicketError::Newer(7)));
        assert_eq!(forge(&[1, 1, 2]).parse::<Ticket>(), Err(TicketError::Damaged("its content makes no sense")));
        let nowhere = Ticket { addresses: Vec::new(), ..ticket() }.to_string();
        assert!(matches!(nowhere.parse::<Ticket>(), Err(TicketError::Damaged(_))));
        assert_eq!("rhizomq1-é".parse::<Ticket>(), Err(TicketError::Damaged("it has characters that no ticket has")));
        let endless = format!("rhizomq1-{}", "a".repeat(1 << 20));
        assert_eq!(endless.parse::<Ticket>(), Err(TicketError::Damaged("it is too long")));
    }

    #[test]
    fn base32_is_the_one_of_rfc_4648_without_padding() {
        for (bytes, text) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(to_base32(bytes.as_bytes()), text);
            assert_eq!(from_base32(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base32("mz1"), None);
        assert_eq!(from_base32("mz"), None, "bits left over that are not zero");
    }
}
