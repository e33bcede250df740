//! What an observer and a member say to each other, and its bytes: a byte of version, `postcard` of the message, then the
//! header sections and bodies as they are.

use bytes::{Bytes, BytesMut};
use rhizomq_engine::{Dot, Entry, Unit};
use serde::{Deserialize, Serialize};

/// Versions of dispatch stay below 128, those of forwarding begin at 129, and those of [questions about
/// jobs](crate::schedule::ask) at 193: the first byte tells them apart. With a new one, raise the version of the protocol between nodes and add a fixture (`net/fixtures/README.md`).
pub(crate) const VERSION: u8 = 129;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForwardMsg {
    /// Observer to member: keep this. All with lower numbers than `floor` are answered.
    Unit { seq: u64, floor: u64, unit: Unit },
    /// Member to observer.
    Answer { seq: u64, outcome: Outcome },
}

/// What became of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It is on so many disks.
    Kept(u32),
    /// It was not kept, and why.
    Rejected(String),
    /// It was not looked at: the node takes no messages any more.
    Refused(String),
}

/// The part that is encoded.
#[derive(Serialize, Deserialize)]
enum Wire {
    Unit { seq: u64, floor: u64, entries: Vec<WireEntry>, removals: Vec<Dot> },
    Answer { seq: u64, outcome: Outcome },
}

#[derive(Serialize, Deserialize)]
struct WireEntry {
    inboxes: Vec<String>,
    persistent: bool,
    head_len: u32,
    body_len: u32,
}

/// A peer sent something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a forwarded message can't be read ({0}); both nodes should run the same version")]
pub(crate) struct BadForward(&'static str);

impl ForwardMsg {
    /// Whether a payload is one of these.
    pub(crate) fn is_one(payload: &[u8]) -> bool {
        payload.first().is_some_and(|version| *version >= VERSION)
    }

    /// The bytes to send.
    pub(crate) fn encode(&self) -> Bytes {
        let (wire, entries) = match self {
            Self::Answer { seq, outcome } => (Wire::Answer { seq: *seq, outcome: outcome.clone() }, &[][..]),
            Self::Unit { seq, floor, unit } => {
                // Both parts are bounded by the limits on frames, far below 4 GiB.
                let entry = |entry: &Entry| WireEntry {
                    inboxes: entry.inboxes.clone(),
                    persistent: entry.persistent,
                    head_len: entry.head.len() as u32,
                    body_len: entry.body.len() as u32,
                };
                let entries = unit.entries.iter().map(entry).collect();
                (Wire::Unit { seq: *seq, floor: *floor, entries, removals: unit.removals.clone() }, &unit.entries[..])
            }
        };
        // Writing to a growing vector can't fail; a value that could not be serialised would be a bug of this module,
        // and an empty message is refused by every reader.
        let head = postcard::to_extend(&wire, vec![VERSION]).unwrap_or_default();
        let rest: usize = entries.iter().map(|entry| entry.head.len() + entry.body.len()).sum();
        let mut bytes = BytesMut::with_capacity(head.len() + rest);
        bytes.extend_from_slice(&head);
        for entry in entries {
            bytes.extend_from_slice(&entry.head);
            bytes.extend_from_slice(&entry.body);
        }
        bytes.freeze()
    }

    /// Reads what [`ForwardMsg::encode`] wrote; header sections and bodies are slices of `bytes`.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, BadForward> {
        let content = match bytes.split_first() {
            Some((&VERSION, content)) => content,
            Some(_) => return Err(BadForward("another version")),
            None => return Err(BadForward("it is empty")),
        };
        let (wire, rest) = postcard::take_from_bytes::<Wire>(content).map_err(|_| BadForward("not of the layout"))?;
        let mut at = bytes.len() - rest.len();
        let message = match wire {
            Wire::Answer { seq, outcome } => Self::Answer { seq, outcome },
            Wire::Unit { seq, floor, entries, removals } => {
                let mut part = |len: u32| {
                    let end = at.checked_add(len as usize).filter(|end| *end <= bytes.len());
                    let end = end.ok_or(BadForward("cut short"))?;
                    Ok(bytes.slice(std::mem::replace(&mut at, end)..end))
                };
                let mut read = Vec::new();
                for WireEntry { inboxes, persistent, head_len, body_len } in entries {
                    if inboxes.is_empty() {
                        return Err(BadForward("a message for nobody"));
                    }
                    let (head, body) = (part(head_len)?, part(body_len)?);
                    read.push(Entry { inboxes, head, body, persistent });
                }
                Self::Unit { seq, floor, unit: Unit { entries: read, removals } }
            }
        };
        if at != bytes.len() {
            return Err(BadForward("bytes after the end"));
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, fs, path::PathBuf};

    use super::*;
    use crate::fuzzing::forward_messages;

    #[test]
    fn messages_survive_and_what_is_cut_or_prolonged_is_refused() {
        for message in forward_messages() {
            let bytes = message.encode();
            assert!(ForwardMsg::is_one(&bytes));
            assert_eq!(ForwardMsg::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(ForwardMsg::decode(&bytes.slice(..end)).is_err(), "{end}");
            }
            let long = [&bytes[..], &[0]].concat();
            assert!(ForwardMsg::decode(&long.into()).is_err());
            // Whatever is flipped: what reads is written as what reads the same.
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(message) = ForwardMsg::decode(&flipped.into()) {
                    assert_eq!(ForwardMsg::decode(&message.encode()), Ok(message));
                }
            }
        }
    }

    /// What this version and earlier ones have sent, as `net/fixtures/README.md` tells.
    #[test]
    fn fixtures_are_read_as_what_they_were() {
        let path: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "fixtures", &format!("forward-{VERSION}.txt")].iter().collect();
        let mut now = String::new();
        for bytes in forward_messages().iter().map(ForwardMsg::encode) {
            bytes.iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
            writeln!(now, " {:?}", ForwardMsg::decode(&bytes).unwrap()).unwrap();
        }
        if std::env::var_os("RHIZOMQ_WRITE_FIXTURES").is_some() && !path.exists() {
            fs::write(&path, &now).unwrap();
        }
        let text = fs::read_to_string(&path).expect("a fixture of this version: see the README beside it");
        assert!(text == now, "the layout has changed, and its version has not");
    }
}
