//! Anti-entropy: by request, both directions the same.
//!
//! Every so often each node sends each peer a *summary*: digests of the registry, of the retired set, and of every
//! replica that the peer should hold too. In sync, one digest over all of these is enough, whatever waits; who finds that it
//! differs answers with a summary of its own. Where a digest differs the receiver *pulls*: it says what
//! it has on disk, and gets consumed slots first, then missing blocks in bounded chunks, each asked for after the last
//! is durable. A new or long-gone replica is the same pull from zero. What a push lost, the next summary finds.

use std::collections::BTreeSet;

use rhizomq_engine::{Mistake, NodeId, Now, RangeSet, Retired, SegmentId, SegmentState};

use super::{Node, Output, peer::Peer};
use crate::{
    registry_sync,
    rim::NetworkSecret,
    wire::{self, Control},
};

/// Bytes of blocks in one answer to a pull.
const PULL_CHUNK_BYTES: usize = 1 << 20;

/// Delay of the summary to a peer that was left behind and has caught up.
const DIRTY_SYNC_MS: u64 = 50;

/// With more peers than this, those that are in sync hear less often: a node sends about so many summaries in the time between
/// two to one peer that is not. News still reach everybody soon, since those who heard tell others.
const SUMMARY_FANOUT: u64 = 16;

/// Exchanges of registries, or of retired sets, that a node begins in the time between two summaries. When a node or half a
/// cluster comes, all of its peers differ from it in the same way, and after the first exchange few differ still.
const EXCHANGES: u32 = 4;

impl Node {
    pub(super) fn handle_control(&mut self, now: Now, from: NodeId, message: Control) {
        match message {
            Control::Removed { .. } if self.is_frozen() => {}
            Control::Removed { segment, slots } => self.take_removed(from, segment, &slots),
            Control::Stored { segment, slots } => self.take_stored(now, from, segment, &slots),
            Control::Summary { registry, retired, segments } => {
                self.compare(now, from, registry, retired, segments);
                self.start_pulls(now);
            }
            Control::InStep(theirs) => self.compare_all(now, from, theirs),
            Control::Storing(storing) => self.take_storing(from, storing),
            Control::Registry(message) => self.take_registry(from, message),
            Control::Retired(retired) => self.engine.merge_retired(&retired),
            Control::AllRetired(retired) => self.take_all_retired(from, &retired),
            Control::Pull { segment, have } => self.answer_pull(now, from, segment, &have),
            Control::Pulled { segment, length, more } => self.end_pull(from, segment, length, more),
            Control::Prove { segment, nonce, state } => self.answer_prove(from, segment, nonce, &state),
            Control::Proof { segment, nonce } => self.take_proof(from, segment, nonce),
            Control::Parted(order) => self.take_parted(now, from, &order),
            Control::Healed(split) => self.take_healed(from, split),
            Control::Readmitted { orders, secret } => {
                self.take_readmission(now, from, &orders, NetworkSecret::from_bytes(secret.0));
            }
            Control::Secret(secret) => self.take_secret(NetworkSecret::from_bytes(secret.0)),
        }
    }

    /// Sends the summaries that are due and gives up pulls that nobody answers.
    pub(super) fn sync_peers(&mut self, now: Now) {
        if now.mono_ms < self.sync_due {
            return self.start_pulls(now);
        }
        let timing = self.config.timing;
        for peer in self.peers.values_mut() {
            if peer.pulling.is_some_and(|(_, since)| now.mono_ms >= since + timing.pull_ms) {
                peer.pulling = None;
            }
        }
        let due = self.peers.iter().filter(|(_, peer)| now.mono_ms >= peer.sync_at);
        for node in due.map(|(node, _)| *node).collect::<Vec<_>>() {
            let is_in_step = self.peers.get(&node).is_some_and(|peer| peer.in_sync && !peer.dirty);
            let message = if is_in_step { Control::InStep(self.digest_for(node)) } else { self.summary_for(node) };
            self.send_control(node, &message);
            let rounds = (self.peers.len() as u64).div_ceil(SUMMARY_FANOUT);
            if let Some(peer) = self.peers.get_mut(&node) {
                let rounds = if peer.in_sync && !peer.dirty { rounds } else { 1 };
                peer.sync_at = now.mono_ms + rounds * timing.sync_ms;
            }
        }
        self.sync_due = self.peers.values().map(|peer| peer.sync_at).min().unwrap_or(u64::MAX);
        self.start_pulls(now);
    }

    /// A peer is to get a summary at that time, if not before.
    pub(super) fn sync_soon(&mut self, node: NodeId, at_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.sync_at = peer.sync_at.min(at_ms);
            self.sync_due = self.sync_due.min(at_ms);
        }
    }

    /// The replicas here that the peer should hold too, in order.
    fn shared_with(&self, peer: NodeId) -> impl Iterator<Item = SegmentId> {
        self.engine.segments().filter(move |id| id.node == peer || self.holds(*id, peer))
    }

    /// Digests of the registry, the retired set, and the replicas here that the peer should hold too; where these are too many
    /// for one message, of those whose turn it is.
    fn summary_for(&mut self, peer: NodeId) -> Control {
        let mut ids: Vec<_> = self.shared_with(peer).collect();
        if ids.len() > wire::SUMMARY_SEGMENTS
            && let Some(state) = self.peers.get_mut(&peer)
        {
            let start = state.summary_from.map_or(0, |from| ids.partition_point(|id| *id < from));
            ids.rotate_left(start);
            state.summary_from = ids.get(wire::SUMMARY_SEGMENTS).copied();
            ids.truncate(wire::SUMMARY_SEGMENTS);
        }
        let digest = |id| self.engine.segment_digest(id).map(|digest| (id, digest));
        let segments = ids.into_iter().filter_map(digest).collect();
        let (registry, retired) = (self.engine.registry().digest(), self.engine.retired().digest());
        Control::Summary { registry, retired, segments }
    }

    /// One digest of all that summaries would tell the peer.
    pub(super) fn digest_for(&mut self, peer: NodeId) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.engine.registry().digest()).update(&self.engine.retired().digest());
        for id in self.shared_with(peer).collect::<Vec<_>>() {
            if let Some(digest) = self.engine.segment_digest(id) {
                hasher.update(&id.node.0).update(&id.epoch.0.to_le_bytes()).update(&id.number.to_le_bytes());
                hasher.update(&digest);
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// A peer that found itself in step with this node tells where it is.
    fn compare_all(&mut self, now: Now, from: NodeId, theirs: [u8; 32]) {
        let is_in_step = self.digest_for(from) == theirs;
        if is_in_step {
            self.set_size_of_merge(now, from);
            for segment in self.shared_with(from).collect::<Vec<_>>() {
                let waiting = self.engine.waiting_in(segment);
                self.note_stored(from, segment, &waiting);
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            (peer.in_sync, peer.synced_at) = (is_in_step, now.mono_ms);
            peer.summarised |= is_in_step;
        }
        if !is_in_step {
            // It finds out where the two differ from this node's summary, and then sends one as well.
            self.sync_soon(from, now.mono_ms);
        }
    }

    /// Whether an exchange with some peer may begin now; what is not begun is, if the next summary differs too.
    fn may_exchange(&mut self, now: Now) -> bool {
        let (since, begun) = self.exchanges;
        let begun = if now.mono_ms >= since + self.config.timing.sync_ms { 0 } else { begun };
        if begun < EXCHANGES {
            self.exchanges = (if begun == 0 { now.mono_ms } else { since }, begun + 1);
        }
        begun < EXCHANGES
    }

    fn compare(
        &mut self,
        now: Now,
        from: NodeId,
        registry: [u8; 32],
        retired: [u8; 32],
        segments: Vec<(SegmentId, [u8; 32])>,
    ) {
        let (is_registry_news, is_retired_news) =
            (registry != self.engine.registry().digest(), retired != self.engine.retired().digest());
        if (is_registry_news || is_retired_news) && self.may_exchange(now) {
            if is_registry_news {
                for message in registry_sync::start(self.engine.registry()) {
                    self.send_control(from, &Control::Registry(message));
                }
            }
            if is_retired_news {
                let mine = self.engine.retired().clone();
                self.send_control(from, &Control::AllRetired(mine));
            }
        }
        if !is_registry_news {
            self.set_size_of_merge(now, from);
        }
        let told: BTreeSet<_> = segments.iter().map(|(segment, _)| *segment).collect();
        let mut in_sync = registry == self.engine.registry().digest()
            && retired == self.engine.retired().digest()
            && self.shared_with(from).all(|segment| told.contains(&segment));
        let me = self.id();
        for (segment, digest) in segments.into_iter().take(wire::SUMMARY_SEGMENTS) {
            let left = (self.goes(segment, me) || self.is_off()) && !self.engine.has_replica(segment);
            let left = left || self.declines(segment);
            if self.engine.is_finished(segment) || left {
                continue;
            }
            if self.engine.segment_digest(segment) == Some(digest) {
                // What it summarises is on its disk: after a restart this is how its copies are known again.
                let waiting = self.engine.waiting_in(segment);
                self.note_stored(from, segment, &waiting);
                continue;
            }
            in_sync = false;
            self.want(from, segment);
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let was_in_sync = peer.in_sync;
        (peer.summarised, peer.in_sync, peer.synced_at) = (true, in_sync, now.mono_ms);
        if was_in_sync && !in_sync {
            // It may have been told the one digest of all, and has to see where the two differ.
            self.sync_soon(from, now.mono_ms);
        }
    }

    fn take_registry(&mut self, from: NodeId, message: registry_sync::RegistryMsg) {
        let (replies, mut news) = registry_sync::respond(self.engine.registry(), message);
        // Sets first, the roster among them: it decides whose records are taken in.
        news.sort_by_key(|(key, _)| !key.is_set());
        for (key, value) in news {
            if !self.is_forgotten(&key) {
                self.engine.merge_registry(key, &value);
            }
        }
        for reply in replies {
            self.send_control(from, &Control::Registry(reply));
        }
    }

    fn take_all_retired(&mut self, from: NodeId, theirs: &Retired) {
        self.engine.merge_retired(theirs);
        let missing = self.engine.retired().delta(theirs);
        if !missing.is_empty() {
            self.send_control(from, &Control::Retired(missing));
        }
    }

    /// Tells what is over of a segment that a peer asks about; true if that is all there is to say of it.
    pub(super) fn tell_if_retired(&mut self, to: NodeId, segment: SegmentId) -> bool {
        let over = self.engine.retired().only(segment);
        if !over.is_empty() {
            self.send_control(to, &Control::Retired(over));
        }
        self.engine.is_retired(segment)
    }

    fn take_removed(&mut self, _from: NodeId, segment: SegmentId, slots: &RangeSet) {
        self.engine.merge_removed(segment, slots);
    }

    fn take_stored(&mut self, now: Now, from: NodeId, segment: SegmentId, slots: &RangeSet) {
        self.note_stored(from, segment, slots);
        if let Some(peer) = self.peers.get_mut(&from)
            && peer.note_stored(segment, slots)
            && std::mem::take(&mut peer.dirty)
        {
            self.sync_soon(from, now.mono_ms + DIRTY_SYNC_MS);
        }
        self.confirm_ready();
    }

    /// A segment is to be pulled from a peer.
    pub(super) fn want(&mut self, from: NodeId, segment: SegmentId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.wants.insert(segment);
            self.wants_pulls = true;
        }
    }

    /// One pull per peer at a time, each segment from one peer at a time, and only when the disk has what came before.
    pub(super) fn start_pulls(&mut self, now: Now) {
        if self.is_frozen() || !self.wants_pulls {
            return;
        }
        self.wants_pulls = self.peers.values().any(|peer| !peer.wants.is_empty());
        let asks =
            |peer: &Peer| !peer.wants.is_empty() && peer.pulling.is_none() && peer.pull_after <= self.committed_seq;
        let asking: Vec<_> = self.peers.iter().filter(|(_, peer)| asks(peer)).map(|(node, _)| *node).collect();
        if asking.is_empty() {
            return;
        }
        let mut busy: BTreeSet<_> =
            self.peers.values().filter_map(|peer| peer.pulling.map(|(segment, _)| segment)).collect();
        for node in asking {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            let Some(segment) = peer.wants.iter().find(|segment| !busy.contains(segment)).copied() else { continue };
            busy.insert(segment);
            peer.wants.remove(&segment);
            peer.pulling = Some((segment, now.mono_ms));
            let have = self.engine.state_of(segment);
            self.send_control(node, &Control::Pull { segment, have });
        }
    }

    fn answer_pull(&mut self, now: Now, from: NodeId, segment: SegmentId, have: &SegmentState) {
        self.note_stored(from, segment, &have.known.difference(&have.removed));
        self.tell_if_retired(from, segment);
        let Some(mine) = self.engine.segment(segment).cloned() else {
            self.send_control(from, &Control::Pulled { segment, length: None, more: false });
            return;
        };
        if self.config.planted.is(Mistake::RemovalFromAbsence) && from == segment.node {
            self.engine.merge_removed(segment, &mine.known.difference(&have.known));
        }
        let news = mine.delta(have);
        if !news.removed.is_empty() {
            self.send_control(from, &Control::Removed { segment, slots: news.removed.clone() });
        }
        let more = self.send_blocks(now, from, segment, &news.known.difference(&mine.removed));
        self.send_control(from, &Control::Pulled { segment, length: news.length, more });
        if self.config.planted.is(Mistake::KnowledgeAheadOfBlocks) {
            self.engine.adopt_known(segment, have);
        }
    }

    /// Sends blocks with any of the slots, up to a chunk, but for those that travel already. Whether some are left.
    fn send_blocks(&mut self, now: Now, to: NodeId, segment: SegmentId, slots: &RangeSet) -> bool {
        let Some(peer) = self.peers.get(&to) else { return false };
        let link = peer.link;
        let since_ms = now.mono_ms.saturating_sub(self.config.timing.pull_ms);
        let missing = slots.difference(&peer.travelling(segment, since_ms));
        let mut bytes = 0;
        for first in self.engine.blocks_with(segment, &missing) {
            if bytes >= PULL_CHUNK_BYTES {
                return true;
            }
            let block = match self.engine.block(segment, first) {
                Ok(Some(block)) => block,
                Ok(None) => continue,
                Err(error) => {
                    let dot = rhizomq_engine::Dot { segment, slot: first };
                    let slots = self.engine.forget_damaged(dot);
                    self.note_damage(segment, &slots, &error.to_string());
                    continue;
                }
            };
            bytes += block.bytes().len();
            self.outputs.push_back(Output::Send { link, bytes: wire::block(block.bytes()) });
        }
        false
    }

    fn end_pull(&mut self, from: NodeId, segment: SegmentId, length: Option<u32>, more: bool) {
        if let Some(length) = length {
            self.engine.merge_length(segment, length);
        }
        let after = self.engine.barrier();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.pulling.is_some_and(|(pulled, _)| pulled == segment) {
            peer.pulling = None;
        }
        peer.pull_after = after;
        if more {
            self.want(from, segment);
        }
    }
}
