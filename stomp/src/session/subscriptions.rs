//! The subscriptions of one session, and which deliveries wait for an acknowledgement.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{AckItem, AckMode, Fate, SessionError, SubKey, temps::Temps};
use crate::{durable::DurableName, frame::Version};

/// How the client calls a subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SubName {
    /// By its `id` header.
    Id(String),
    /// By its destination, which 1.0 allows.
    Destination(String),
}

impl SubName {
    fn text(&self) -> String {
        match self {
            Self::Id(text) | Self::Destination(text) => text.clone(),
        }
    }
}

/// How an ACK or NACK names a delivery; it depends on the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryRef<'a> {
    /// 1.2: the value of the MESSAGE's `ack` header.
    Ack(&'a str),
    /// 1.0 and 1.1: the `message-id`, and the `subscription`, which 1.0 may leave out.
    Message { message_id: &'a str, subscription: Option<&'a str> },
}

/// A delivery taken out of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) sub: SubKey,
    /// Its place among the deliveries of the subscription.
    seq: u64,
    pub(super) message_id: Arc<str>,
}

impl Settled {
    pub(super) fn item(self, fate: Fate) -> AckItem {
        AckItem { subscription: self.sub, message_id: self.message_id, fate }
    }
}

/// A subscription that has ended.
pub(super) struct Closed {
    pub(super) key: SubKey,
    /// What the client left unacknowledged.
    pub(super) requeue: Vec<Arc<str>>,
    /// The durable subscription that it took part in.
    pub(super) durable: Option<DurableName>,
}

struct Subscription {
    name: SubName,
    /// As the client knows it.
    destination: Arc<str>,
    durable: Option<DurableName>,
    mode: AckMode,
    /// It only looks: nothing is to be acknowledged.
    browses: bool,
    next_seq: u64,
    /// What the client has to acknowledge, in the order of delivery.
    unacked: BTreeMap<u64, Arc<str>>,
    /// The same by message-id, in the versions that name a delivery so.
    by_message_id: BTreeMap<Arc<str>, u64>,
    /// Deliveries of an `auto` subscription that are not flushed.
    unflushed: usize,
}

/// All of a session.
pub(super) struct Subscriptions {
    version: Version,
    limit: usize,
    next_key: u32,
    open: BTreeMap<SubKey, Subscription>,
    by_name: BTreeMap<SubName, SubKey>,
    /// `auto` deliveries by the position of their end in the stream; their subscription may be closed.
    unflushed: VecDeque<(u64, SubKey, Arc<str>)>,
}

impl Subscriptions {
    pub(super) fn new(version: Version, limit: usize) -> Self {
        Self {
            version,
            limit,
            next_key: 0,
            open: BTreeMap::new(),
            by_name: BTreeMap::new(),
            unflushed: VecDeque::new(),
        }
    }

    pub(super) fn open(
        &mut self,
        name: SubName,
        destination: Arc<str>,
        mode: AckMode,
        browses: bool,
        durable: Option<DurableName>,
    ) -> Result<SubKey, SessionError> {
        if self.by_name.contains_key(&name) {
            return Err(SessionError::DuplicateSubscription { id: name.text() });
        }
        if self.open.len() >= self.limit {
            return Err(SessionError::TooManySubscriptions { limit: self.limit });
        }
        let key = SubKey(self.next_key);
        self.next_key += 1;
        self.by_name.insert(name.clone(), key);
        let subscription = Subscription {
            name,
            destination,
            durable,
            mode,
            browses,
            next_seq: 0,
            unacked: BTreeMap::new(),
            by_message_id: BTreeMap::new(),
            unflushed: 0,
        };
        self.open.insert(key, subscription);
        Ok(key)
    }

    /// Whether any subscription is to this destination.
    pub(super) fn is_read(&self, destination: &str) -> bool {
        self.open.values().any(|subscription| *subscription.destination == *destination)
    }

    /// The destination of a subscription to a temporary queue, as the client calls it: its real name says nothing to it.
    pub(super) fn temp_queue(&self, key: SubKey) -> Option<&str> {
        let destination = &*self.open.get(&key)?.destination;
        Temps::name_in(destination).map(|_| destination)
    }

    /// The destination of a subscription, as the client knows it.
    pub(super) fn destination(&self, key: SubKey) -> Option<&str> {
        self.open.get(&key).map(|subscription| &*subscription.destination)
    }

    /// Whether this is, as far as is known, a delivery to a client that only looks through a queue.
    pub(super) fn is_browsed(&self, delivery: DeliveryRef<'_>) -> bool {
        let key = match delivery {
            DeliveryRef::Ack(id) => id.split_once('-').and_then(|(key, _)| key.parse().ok().map(SubKey)),
            DeliveryRef::Message { subscription, .. } => {
                subscription.and_then(|id| self.by_name.get(&SubName::Id(id.to_owned())).copied())
            }
        };
        key.and_then(|key| self.open.get(&key)).is_some_and(|subscription| subscription.browses)
    }

    /// Takes a subscription out.
    pub(super) fn close(&mut self, name: &SubName) -> Result<Closed, SessionError> {
        let key = match (self.by_name.get(name), name) {
            (Some(key), _) => Some(*key),
            // A 1.0 client may subscribe with an id and then name the destination only.
            (None, SubName::Destination(text)) => {
                self.open.iter().find(|(_, sub)| *sub.destination == **text).map(|(key, _)| *key)
            }
            (None, SubName::Id(_)) => None,
        };
        let unknown = || SessionError::UnknownSubscription { id: name.text() };
        key.and_then(|key| self.close_key(key)).ok_or_else(unknown)
    }

    /// The same by its key; `None` if it is not open.
    pub(super) fn close_key(&mut self, key: SubKey) -> Option<Closed> {
        let Subscription { name, durable, unacked, .. } = self.open.remove(&key)?;
        self.by_name.remove(&name);
        Some(Closed { key, requeue: unacked.into_values().collect(), durable })
    }

    /// Closes all. Returns their keys and what the client left unacknowledged.
    pub(super) fn close_all(&mut self) -> (Vec<SubKey>, Vec<Arc<str>>) {
        self.by_name.clear();
        let open = std::mem::take(&mut self.open);
        let keys = open.keys().copied().collect();
        (keys, open.into_values().flat_map(|subscription| subscription.unacked.into_values()).collect())
    }

    /// `auto` deliveries that are not flushed, those of closed subscriptions among them.
    pub(super) fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// The `subscription` and `ack` headers of the next MESSAGE, or `None` when the subscription is closed.
    pub(super) fn headers(&self, key: SubKey) -> Option<(Option<&str>, Option<String>)> {
        let subscription = self.open.get(&key)?;
        let id = match &subscription.name {
            SubName::Id(id) => Some(id.as_str()),
            SubName::Destination(_) => None,
        };
        let explicit = self.version == Version::V1_2 && subscription.mode != AckMode::Auto;
        Some((id, explicit.then(|| format!("{}-{}", key.0, subscription.next_seq))))
    }

    /// Notes a delivery whose MESSAGE ends at `position` of the stream.
    pub(super) fn delivered(&mut self, key: SubKey, message_id: &str, position: u64) {
        let Some(subscription) = self.open.get_mut(&key) else { return };
        let message_id: Arc<str> = message_id.into();
        let seq = subscription.next_seq;
        subscription.next_seq += 1;
        if subscription.browses {
            return;
        }
        if subscription.mode == AckMode::Auto {
            subscription.unflushed += 1;
            self.unflushed.push_back((position, key, message_id));
            return;
        }
        if self.version < Version::V1_2 {
            subscription.by_message_id.insert(Arc::clone(&message_id), seq);
        }
        subscription.unacked.insert(seq, message_id);
    }

    /// The `auto` deliveries that are wholly among the first `total` bytes of the stream.
    pub(super) fn flushed(&mut self, total: u64) -> Vec<AckItem> {
        let count = self.unflushed.iter().take_while(|(position, ..)| *position <= total).count();
        let mut items = Vec::with_capacity(count);
        for (_, subscription, message_id) in self.unflushed.drain(..count) {
            if let Some(open) = self.open.get_mut(&subscription) {
                open.unflushed -= 1;
            }
            items.push(AckItem { subscription, message_id, fate: Fate::Consumed });
        }
        items
    }

    /// Takes out what an ACK or NACK covers: in `client` mode all up to the named delivery, else that one.
    ///
    /// Nothing, without an error, where the client says again what is settled already: by an earlier ACK, by closing the
    /// subscription, or because it is an `auto` one or only looks. An error for what was never delivered, as far as that is known.
    pub(super) fn settle(&mut self, delivery: DeliveryRef<'_>) -> Result<Vec<Settled>, SessionError> {
        let Some((key, seq)) = self.find(delivery)? else { return Ok(Vec::new()) };
        let Some(subscription) = self.open.get_mut(&key) else { return Ok(Vec::new()) };
        let covered = match subscription.mode {
            AckMode::Client => {
                let later = subscription.unacked.split_off(&(seq + 1));
                std::mem::replace(&mut subscription.unacked, later)
            }
            AckMode::Auto | AckMode::ClientIndividual => subscription.unacked.remove_entry(&seq).into_iter().collect(),
        };
        for message_id in covered.values() {
            subscription.by_message_id.remove(message_id);
        }
        Ok(covered.into_iter().map(|(seq, message_id)| Settled { sub: key, seq, message_id }).collect())
    }

    /// Puts deliveries back that an aborted transaction held. Returns those whose subscription is closed by now.
    pub(super) fn unsettle(&mut self, held: Vec<Settled>) -> Vec<Settled> {
        let mut orphans = Vec::new();
        for settled in held {
            let Some(subscription) = self.open.get_mut(&settled.sub) else {
                orphans.push(settled);
                continue;
            };
            if self.version < Version::V1_2 {
                subscription.by_message_id.insert(Arc::clone(&settled.message_id), settled.seq);
            }
            subscription.unacked.insert(settled.seq, settled.message_id);
        }
        orphans
    }

    pub(super) fn in_flight(&self, key: SubKey) -> usize {
        self.open.get(&key).map_or(0, |subscription| subscription.unacked.len() + subscription.unflushed)
    }

    fn find(&self, delivery: DeliveryRef<'_>) -> Result<Option<(SubKey, u64)>, SessionError> {
        match delivery {
            DeliveryRef::Ack(id) => self.find_ack(id),
            DeliveryRef::Message { message_id, subscription: Some(id) } => {
                let unknown = || SessionError::UnknownSubscription { id: id.to_owned() };
                let key = self.by_name.get(&SubName::Id(id.to_owned())).ok_or_else(unknown)?;
                let subscription = self.open.get(key).ok_or_else(unknown)?;
                find_message([(*key, subscription)], message_id)
            }
            DeliveryRef::Message { message_id, subscription: None } => {
                find_message(self.open.iter().map(|(key, subscription)| (*key, subscription)), message_id)
            }
        }
    }

    /// Reads `<subscription>-<seq>`, as `headers` wrote it.
    fn find_ack(&self, id: &str) -> Result<Option<(SubKey, u64)>, SessionError> {
        let unknown = || SessionError::UnknownDelivery { id: id.to_owned() };
        let (key, seq) = id.split_once('-').ok_or_else(unknown)?;
        let key = SubKey(key.parse().map_err(|_| unknown())?);
        let seq = seq.parse().map_err(|_| unknown())?;
        match self.open.get(&key) {
            Some(subscription) if seq < subscription.next_seq => Ok(Some((key, seq))),
            None if key.0 < self.next_key => Ok(None),
            _ => Err(unknown()),
        }
    }
}

fn find_message<'a>(
    candidates: impl IntoIterator<Item = (SubKey, &'a Subscription)>,
    message_id: &str,
) -> Result<Option<(SubKey, u64)>, SessionError> {
    let mut may_be_settled = false;
    for (key, subscription) in candidates {
        if let Some(seq) = subscription.by_message_id.get(message_id) {
            return Ok(Some((key, *seq)));
        }
        may_be_settled |= subscription.mode != AckMode::ClientIndividual || subscription.browses;
    }
    if may_be_settled { Ok(None) } else { Err(SessionError::UnknownDelivery { id: message_id.to_owned() }) }
}
