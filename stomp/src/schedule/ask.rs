//! What nodes ask each other about the jobs that wait with them, and its bytes: a byte of version and `postcard(JobsMsg)`.

use std::fmt;

use bytes::Bytes;
use rhizomq_engine::Dot;
use serde::{Deserialize, Serialize};

use super::Job;
use crate::{
    lane::{JobName, MAX_PRIORITY},
    spread,
};

/// Versions of forwarding stay below 193: the first byte tells the two apart. With a new one add a fixture
/// (`net/fixtures/README.md`).
pub(crate) const VERSION: u8 = 193;

/// Digits of a whole id.
pub(crate) const ID_DIGITS: usize = 16;

/// What operators call a job by: its chain. So it is the same for all that follow each other, on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct JobId(pub(crate) u64);

impl JobId {
    /// That of the job in this place. The first of a chain does not have it in its name.
    pub(crate) fn of(chain: Option<u64>, dot: Dot) -> Self {
        Self(chain.unwrap_or_else(|| spread::hash_of(&dot.to_string())))
    }

    /// Whether it begins with these digits.
    pub(crate) fn begins(self, digits: &str) -> bool {
        digits.is_empty() || self.to_string().starts_with(digits)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0ID_DIGITS$x}", self.0)
    }
}

/// One message from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobsMsg {
    /// Which jobs wait with you whose ids begin with these digits?
    List { number: u64, prefix: String },
    /// This job is not to come any more, nor what follows it.
    End { number: u64, job: JobId },
    /// The answer to either, to `End` without jobs. `more` are not in it.
    Answer { number: u64, jobs: Vec<Waiting>, more: u64 },
}

/// One job that waits with a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) id: JobId,
    pub(crate) dot: Dot,
    /// In ms since 1970.
    pub(crate) due: u64,
    pub(crate) destination: String,
    /// `None` for what can't be read there.
    pub(crate) plan: Option<Plan>,
}

/// What comes when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) priority: u8,
    /// ms; 0 if it is not repeated.
    pub(crate) period_ms: u64,
    /// Further times; `None`: for ever.
    pub(crate) repeat: Option<u64>,
    pub(crate) cron: Option<String>,
}

impl Waiting {
    pub(crate) fn new(name: JobName<'_>, dot: Dot, job: Option<Job>) -> Self {
        let plan = job.map(|job| Plan {
            priority: job.priority.min(MAX_PRIORITY),
            period_ms: job.schedule.period_ms,
            repeat: job.schedule.repeat,
            cron: job.schedule.cron.map(|cron| cron.as_str().to_owned()),
        });
        let destination = name.destination.to_owned();
        Self { id: JobId::of(name.chain, dot), dot, due: name.due, destination, plan }
    }
}

/// A peer sent something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message about jobs can't be read ({0}); both nodes should run the same version")]
pub(crate) struct BadJobsMsg(&'static str);

impl JobsMsg {
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

    /// Reads what [`JobsMsg::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadJobsMsg> {
        let content = match bytes.split_first() {
            Some((&VERSION, content)) => content,
            Some(_) => return Err(BadJobsMsg("another version")),
            None => return Err(BadJobsMsg("it is empty")),
        };
        match postcard::take_from_bytes(content) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(BadJobsMsg("bytes after the end")),
            Err(_) => Err(BadJobsMsg("not of the layout")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, fs, path::PathBuf};

    use rhizomq_engine::{Epoch, NodeId, SegmentId};

    use super::*;

    fn messages() -> Vec<JobsMsg> {
        let dot = Dot { segment: SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 }, slot: 4 };
        let waiting = |plan| Waiting { id: JobId(0xab), dot, due: 5, destination: "/queue/a".to_owned(), plan };
        let plan = |repeat, cron: Option<&str>| {
            Some(Plan { priority: 4, period_ms: 6, repeat, cron: cron.map(str::to_owned) })
        };
        let jobs = vec![waiting(plan(Some(7), None)), waiting(plan(None, Some("* * * * *"))), waiting(None)];
        vec![
            JobsMsg::List { number: 1, prefix: "0a".to_owned() },
            JobsMsg::End { number: 2, job: JobId(u64::MAX) },
            JobsMsg::Answer { number: 3, jobs, more: 9 },
        ]
    }

    #[test]
    fn messages_survive_and_what_is_cut_or_prolonged_is_refused() {
        for message in messages() {
            let bytes = message.encode();
            assert!(JobsMsg::is_one(&bytes));
            assert_eq!(JobsMsg::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(JobsMsg::decode(&bytes[..end]).is_err(), "{end}");
            }
            assert!(JobsMsg::decode(&[&bytes[..], &[0]].concat()).is_err());
            // Whatever is flipped: what reads is written as what reads the same.
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(message) = JobsMsg::decode(&flipped) {
                    assert_eq!(JobsMsg::decode(&message.encode()), Ok(message));
                }
            }
        }
    }

    #[test]
    fn ids_are_told_by_all_their_digits_or_some() {
        let id = JobId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert!(id.begins("") && id.begins("00") && id.begins("00000000000000ab"));
        assert!(!id.begins("ab") && !id.begins("00000000000000ab0"));
    }

    /// What this version and earlier ones have sent, as `net/fixtures/README.md` tells.
    #[test]
    fn fixtures_are_read_as_what_they_were() {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fixtures", &format!("jobs-{VERSION}.txt")].iter().collect();
        let mut now = String::new();
        for bytes in messages().iter().map(JobsMsg::encode) {
            bytes.iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
            writeln!(now, " {:?}", JobsMsg::decode(&bytes).unwrap()).unwrap();
        }
        if std::env::var_os("RHIZOMQ_WRITE_FIXTURES").is_some() && !path.exists() {
            fs::write(&path, &now).unwrap();
        }
        let text = fs::read_to_string(&path).expect("a fixture of this version: see the README beside it");
        assert!(text == now, "the layout has changed, and its version has not");
    }
}
