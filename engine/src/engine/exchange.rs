//! Bringing two engines together in rounds, at a cost that depends on what differs.
//!
//! One begins ([`Engine::exchange`]); from then on each side answers what it receives ([`Engine::answer`]), until there is
//! nothing to answer. Nobody keeps anything in between: each message stands for itself. What is lost, or came twice, does no
//! harm; the next exchange finds what is left. Messages have a form in bytes, to travel by whatever there is.
//!
//! ```text
//! begin     two digests, of the registry and of the segments      ->
//!                                                                 <-  in sync, if both are equal: that is all
//!                                                                 <-  have: what I know of segments; send what I lack
//!                                                                 <-  registry: digests of ranges of keys
//! delta     removals and blocks                                   ->
//! have      what I know of segments                               ->
//! registry  smaller ranges, or entries                            ->
//!                                                                 <-  delta, registry ...
//! ```
//!
//! **Cost.** In sync it is one message each way, 84 bytes and 19. Where registries differ, ranges that differ are cut until they
//! are small (`registry/sync.rs`): d differences among n keys cost O(d log n) bytes. Where segments differ, each side tells
//! all it knows of them without contents, some 20 bytes per segment and 2 or 3 per range of its slots: that grows with segments
//! and ranges, which are few per life, and not with messages.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Engine, EngineError,
    delta::{self, Delta, DeltaError, Summary, WireDelta},
};
use crate::{
    SegmentId, Slot, limits,
    registry::sync::{self, RegistryMsg},
};

const EXCHANGE: u8 = b'x';

/// One message of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange(Content);

/// Numbers of variants are part of the format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Content {
    /// What the sender has, as digests. `both`: it also gives what the other lacks.
    Begin { registry: [u8; 32], segments: [u8; 32], both: bool },
    /// It is the same here.
    InSync,
    /// The segments differ: tell what you have of them.
    Ask,
    /// What the sender has of segments. The receiver answers with what that lacks, from a block on; with `back` it tells what
    /// it has, too.
    Have { summary: Summary, from: Option<(SegmentId, Slot)>, back: bool },
    /// Of segments, what the receiver lacks. If it was too much: the block to go on at.
    Delta { delta: WireDelta, more: Option<(SegmentId, Slot)> },
    /// Of the registry.
    Registry(RegistryMsg),
}

impl Exchange {
    /// The form in bytes.
    pub fn encode(&self) -> Bytes {
        delta::encode(EXCHANGE, self)
    }

    /// Reads what [`Exchange::encode`] wrote. Blocks are checked when they are merged.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        delta::decode(EXCHANGE, bytes)
    }

    fn have(summary: Summary, from: Option<(SegmentId, Slot)>, back: bool) -> Self {
        Self(Content::Have { summary, from, back })
    }
}

impl Engine {
    /// Begins an exchange after which both have all that either had: a message for the other, who calls
    /// [`Engine::answer`].
    pub fn exchange(&self) -> Exchange {
        self.begin(true)
    }

    /// Begins an exchange that only brings what is lacking here.
    pub fn pull(&self) -> Exchange {
        self.begin(false)
    }

    fn begin(&self, both: bool) -> Exchange {
        let (registry, segments) = self.exchange_digests();
        Exchange(Content::Begin { registry, segments, both })
    }

    fn exchange_digests(&self) -> ([u8; 32], [u8; 32]) {
        let segments = blake3::hash(&self.segments_summary().encode());
        (self.registry.digest(), *segments.as_bytes())
    }

    /// Answers a message by what is committed here: what to send back, and what is to be merged ([`Engine::merge`]) and
    /// committed here. No answers: the exchange is over, as far as this message goes. An answer holds some
    /// [`DELTA_BYTES`](limits::DELTA_BYTES) of blocks at most.
    ///
    /// # Errors
    /// As [`Engine::delta_for`].
    pub fn answer(&self, message: Exchange) -> Result<(Vec<Exchange>, Delta), EngineError> {
        self.answer_within(message, limits::DELTA_BYTES)
    }

    pub(crate) fn answer_within(&self, message: Exchange, limit: usize) -> Result<(Vec<Exchange>, Delta), EngineError> {
        let mut news = Delta::default();
        let replies = match message.0 {
            Content::Begin { registry, segments, both } => self.compare(registry, segments, both),
            Content::InSync => Vec::new(),
            Content::Ask => vec![Exchange::have(self.segments_summary(), None, false)],
            Content::Have { summary, from, back } => {
                let mut lacking = Delta::default();
                if from.is_none() {
                    lacking.retired = self.retired.delta(&summary.retired);
                }
                let more = self.segments_delta(&summary, from, limit, &mut 0, &mut lacking)?;
                let mut replies = Vec::new();
                if !lacking.is_empty() {
                    replies.push(Exchange(Content::Delta { delta: lacking.into(), more }));
                }
                if back {
                    replies.push(Exchange::have(self.segments_summary(), None, false));
                }
                replies
            }
            Content::Delta { delta, more } => {
                // The registry has messages of its own.
                news = delta.into();
                let go_on = more.map(|from| Exchange::have(self.segments_summary(), Some(from), false));
                go_on.into_iter().collect()
            }
            Content::Registry(message) => {
                let (replies, entries) = sync::respond(&self.registry, message);
                news.registry = entries;
                replies.into_iter().map(|reply| Exchange(Content::Registry(reply))).collect()
            }
        };
        Ok((replies, news))
    }

    fn compare(&self, registry: [u8; 32], segments: [u8; 32], both: bool) -> Vec<Exchange> {
        let (my_registry, my_segments) = self.exchange_digests();
        let mut replies = Vec::new();
        if segments != my_segments {
            let ask = if both { Exchange::have(self.segments_summary(), None, true) } else { Exchange(Content::Ask) };
            replies.push(ask);
        }
        if registry != my_registry {
            replies.extend(sync::start(&self.registry).into_iter().map(|start| Exchange(Content::Registry(start))));
        }
        if replies.is_empty() {
            replies.push(Exchange(Content::InSync));
        }
        replies
    }
}
