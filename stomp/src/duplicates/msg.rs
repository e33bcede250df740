//! What nodes say to each other about ids, and its bytes: a byte of version and `postcard(DuplicatesMsg)`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::DuplicateId;

/// Versions of questions about jobs stay below 225: the first byte tells the two apart. With a new one add a fixture
/// (`net/fixtures/README.md`).
pub(crate) const VERSION: u8 = 225;

/// One message from one node to another. Numbers are the asker's, and never used twice in a life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DuplicatesMsg {
    /// Have you, or are you about to have, a message with this id?
    Ask(Vec<(u64, DuplicateId)>),
    /// The answers, and later ones to the same questions.
    Answer(Vec<(u64, Said)>),
}

/// What a node knows of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Nothing, or no longer anything.
    Unknown,
    /// A client of it sends such a message, and it asked first. Another answer follows.
    Asking,
    /// It is here, or on its way to this disk. Another answer follows.
    Here,
    /// It is on so many disks, as a receipt says.
    Kept(u32),
}

/// A peer sent something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message about ids of publishers can't be read ({0}); both nodes should run the same version")]
pub(crate) struct BadDuplicatesMsg(&'static str);

impl DuplicatesMsg {
    /// Whether a payload is one of these.
    pub(crate) fn is_one(payload: &[u8]) -> bool {
        payload.first().is_some_and(|version| *version >= VERSION)
    }

    /// The bytes to send.
    pub(crate) fn encode(&self) -> Bytes {
        // Writing to a growing vector can't fail; a value that could not be serialised would be a bug of this module,
        // and an empty message is refused by every reader.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default().into()
    }

    /// Reads what [`DuplicatesMsg::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadDuplicatesMsg> {
        let content = match bytes.split_first() {
            Some((&VERSION, content)) => content,
            Some(_) => return Err(BadDuplicatesMsg("another version")),
            None => return Err(BadDuplicatesMsg("it is empty")),
        };
        match postcard::take_from_bytes(content) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(BadDuplicatesMsg("bytes after the end")),
            Err(_) => Err(BadDuplicatesMsg("not of the layout")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, fs, path::PathBuf};

    use super::*;

    fn messages() -> Vec<DuplicatesMsg> {
        let id = |byte| DuplicateId::read(&[byte; 16]).unwrap();
        vec![
            DuplicatesMsg::Ask(vec![(1, id(2)), (300, id(4))]),
            DuplicatesMsg::Answer(vec![(1, Said::Unknown), (2, Said::Asking), (3, Said::Here), (300, Said::Kept(5))]),
        ]
    }

    #[test]
    fn messages_survive_and_what_is_cut_or_prolonged_is_refused() {
        for message in messages() {
            let bytes = message.encode();
            assert!(DuplicatesMsg::is_one(&bytes));
            assert_eq!(DuplicatesMsg::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(DuplicatesMsg::decode(&bytes[..end]).is_err(), "{end}");
            }
            assert!(DuplicatesMsg::decode(&[&bytes[..], &[0]].concat()).is_err());
            // Whatever is flipped: what reads is written as what reads the same.
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(message) = DuplicatesMsg::decode(&flipped) {
                    assert_eq!(DuplicatesMsg::decode(&message.encode()), Ok(message));
                }
            }
        }
    }

    /// What this version and earlier ones have sent, as `net/fixtures/README.md` tells.
    #[test]
    fn fixtures_are_read_as_what_they_were() {
        let path: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "fixtures", &format!("duplicates-{VERSION}.txt")].iter().collect();
        let mut now = String::new();
        for bytes in messages().iter().map(DuplicatesMsg::encode) {
            bytes.iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
            writeln!(now, " {:?}", DuplicatesMsg::decode(&bytes).unwrap()).unwrap();
        }
        if std::env::var_os("RHIZOMQ_WRITE_FIXTURES").is_some() && !path.exists() {
            fs::write(&path, &now).unwrap();
        }
        let text = fs::read_to_string(&path).expect("a fixture of this version: see the README beside it");
        assert!(text == now, "the layout has changed, and its version has not");
    }
}
