//! What operators do about policies, following what the registry says of them, and what of them holds where.

use std::{collections::BTreeMap, sync::Arc};

use rhizomq_engine::Now;

use super::{Broker, ChangeId, book::Book as Bindings};
use crate::{
    destination::{DURABLE, Destination, Kind},
    dispatch::{Rulebook, Rules},
    expiry,
    lane::Lane,
    policies::{self, Book, MAX_POLICIES, Overflow, Policy, PolicyChange, PolicyError, Statement},
    session::Send,
    status::PolicyStatus,
};

/// Where dispatch looks the rules of inboxes up.
pub(super) struct Sight<'a> {
    pub(super) policies: &'a Book,
    pub(super) bindings: &'a Bindings,
}

impl Sight<'_> {
    /// What holds for an inbox, and the pattern of it. For that of a durable subscription it is what holds for its topic; a pattern
    /// that is subscribed to is looked up as if it were a name.
    pub(super) fn policy_of(&self, inbox: &str) -> Option<(Arc<str>, &Arc<Policy>)> {
        if self.policies.len() == 0 {
            return None;
        }
        let destination = if inbox.starts_with(DURABLE) { &*self.bindings.binding(inbox)?.topic } else { inbox };
        self.policies.find(&Destination::parse(destination).ok()?)
    }
}

impl Rulebook for Sight<'_> {
    fn rules_of(&self, inbox: &str) -> Rules {
        let default = Rules::default();
        let Some((_, policy)) = self.policy_of(inbox) else { return default };
        let max_deliveries = policy.max_deliveries.map_or(default.max_deliveries, |max| (max > 0).then_some(max));
        Rules {
            max_deliveries,
            delay_ms: policy.redelivery_delay_ms.unwrap_or(default.delay_ms),
            backoff_percent: policy.redelivery_backoff_percent.unwrap_or(default.backoff_percent),
            max_delay_ms: policy.redelivery_max_delay_ms.unwrap_or(policies::MAX_DELAY_MS),
            keeps: policy.max_length.filter(|_| policy.overflow.unwrap_or_default() != Overflow::Reject),
        }
    }
}

impl Broker {
    /// Changes a policy, on all nodes that hear of it: [`Output::Changed`](super::Output::Changed) follows when it is on this
    /// one's disk.
    ///
    /// # Errors
    /// See [`PolicyError`]; then nothing changes.
    pub fn change_policy(&mut self, now: Now, change: &PolicyChange) -> Result<ChangeId, PolicyError> {
        let pattern = policies::normal(change.pattern())?;
        let set = policies::set_of(&pattern);
        if !self.changes.has_room() {
            return Err(PolicyError::Full("too many changes wait for the disk".to_owned()));
        }
        let members = self.node.soon_shared(&set).into_iter();
        let members = members.filter_map(|bytes| Some((Statement::decode(&bytes)?, bytes)));
        let known: Vec<_> = members.filter(|(statement, _)| *statement.pattern == *pattern).collect();
        let former: Vec<_> = known.iter().map(|(_, bytes)| bytes.clone()).collect();
        let new = match change {
            PolicyChange::Remove { .. } if known.is_empty() => return Err(PolicyError::Unknown(pattern)),
            PolicyChange::Remove { .. } => Vec::new(),
            PolicyChange::Set { policy, .. } => {
                let policy = policy.normal()?;
                if known.is_empty() && self.policies.len() >= MAX_POLICIES {
                    return Err(PolicyError::TooMany);
                }
                let later = known.iter().map(|(statement, _)| statement.at.saturating_add(1)).max().unwrap_or(0);
                vec![Statement { pattern: pattern.into(), at: later.max(now.wall_ms), policy }.encode()]
            }
        };
        self.node.reshare(now, &set, new, &former).map_err(|error| PolicyError::Full(error.to_string()))?;
        let id = self.changes.begin(now, set);
        self.complete_changes(now);
        self.turn(now);
        Ok(id)
    }

    /// All policies.
    pub fn policies(&self) -> Vec<PolicyStatus> {
        let all = self.policies.iter();
        all.map(|(pattern, policy)| PolicyStatus { pattern: pattern.to_string(), policy: (**policy).clone() }).collect()
    }

    /// At the start of a life.
    pub(super) fn read_policies(&mut self) {
        for set in policies::sets() {
            let members = self.node.shared(&set);
            self.policies.refresh(&set, &members);
        }
    }

    /// A registry set has changed.
    pub(super) fn follow_policies(&mut self, now: Now, set: &str) {
        if policies::is_set(set) {
            let members = self.node.shared(set);
            self.policies.refresh(set, &members);
            self.complete_changes(now);
        }
    }

    /// What holds for an inbox, and its pattern.
    pub(super) fn policy_of(&self, inbox: &str) -> Option<(Arc<str>, Arc<Policy>)> {
        let sight = Sight { policies: &self.policies, bindings: &self.durables.book };
        sight.policy_of(inbox).map(|(pattern, policy)| (pattern, Arc::clone(policy)))
    }

    /// What a client is told who sends to a queue that takes no more: the number is that of the reachable cluster, as far as
    /// its nodes have told each other.
    pub(super) fn refusal(&self, unit: &[Send]) -> Option<String> {
        if self.policies.len() == 0 {
            return None;
        }
        let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for send in unit {
            let inboxes: Vec<Arc<str>> = match send.destination.kind() {
                Kind::Queue => vec![send.destination.to_shared()],
                Kind::Topic => {
                    self.durables.book.targets(&send.destination, &send.head).into_iter().map(Arc::from).collect()
                }
            };
            inboxes.into_iter().for_each(|inbox| *counts.entry(inbox).or_insert(0) += 1);
        }
        counts.into_iter().find_map(|(inbox, count)| {
            let (pattern, policy) = self.policy_of(&inbox)?;
            let max = policy.max_length.filter(|_| policy.overflow.unwrap_or_default() == Overflow::Reject)?;
            let depth = self.dispatch.depth(&self.node, &inbox, max.saturating_add(1));
            (depth.saturating_add(count) > max).then(|| {
                format!(
                    "There would be more than {max} messages in {inbox}, and by the policy for `{pattern}` there may be no more. \
                     Send again when some are consumed."
                )
            })
        })
    }

    /// Writes into the header sections when the messages expire. One that is delayed lives from the time at which it may be
    /// had, and each repetition from its own; that is seen to when it is sent.
    pub(super) fn set_ends(&self, now: Now, unit: &mut [Send]) {
        // The destinations of one SEND share one header section, and go on doing so where they can.
        let mut last = None;
        for send in unit {
            let end = if send.is_job() {
                send.lifetime.expires
            } else {
                let ttl_ms = self.policies.find(&send.destination).and_then(|(_, policy)| policy.ttl_ms);
                // Which is that of its lane: a little later than it asked for.
                let had_from = Lane::delayed(send.priority, now.wall_ms, send.delay_ms).due().unwrap_or(now.wall_ms);
                send.lifetime.end(had_from, ttl_ms)
            };
            let Some(end) = end else { continue };
            let made = last.take().filter(|(head, of, _): &(bytes::Bytes, u64, bytes::Bytes)| {
                *of == end && head.as_ptr() == send.head.as_ptr() && head.len() == send.head.len()
            });
            let (head, _, new) = made.unwrap_or_else(|| (send.head.clone(), end, expiry::with_end(&send.head, end)));
            send.head = new.clone();
            last = Some((head, end, new));
        }
    }
}
