//! What excuses a second delivery. Whatever else happened in a run: only what was in flight over a link that broke, or what
//! its consumer gave back, may come again, and once for each time that it happened.

use std::collections::BTreeSet;

use super::{
    clients::Role,
    ledger::{Holder, Kind, MsgId},
    world::World,
};

/// Of two owners that did not see each other the lower rank gives in when it next repeats to all what it owns, so many
/// milliseconds after a link came up that joins them.
const GIVEN_IN_MS: u64 = 6_000;

/// A consumption is known to all who keep the message within so many milliseconds of their links' coming up.
const TOLD_MS: u64 = 6_000;

impl World {
    /// Who takes over asks what is held: no second delivery while the first one's client and broker live on, and that is
    /// linked with all who may dispatch the message, as it was when it was delivered. Nor when it was an `auto` client that
    /// left in order: what was written to it before is its own.
    pub(crate) fn check_holder(&mut self, id: MsgId, host: usize) {
        let (held_by, left_at) = (self.ledger.msg(id).held_by, self.ledger.msg(id).left_at);
        let Some(Holder { conn, subscription, since, settled }) = held_by else { return };
        let client = self.conns.get(&conn).map(|connection| connection.client);
        let client = client.filter(|&client| self.clients[client].conn == Some(conn));
        let (edge, owner) = match client {
            Some(client) if self.gives_back(client, subscription) => return,
            Some(client) => {
                let edge = self.conns[&conn].host;
                // All its clients are about to be told to go.
                if self.hosts[edge].stopping.is_some() || self.hosts[edge].draining {
                    return;
                }
                (edge, format!("c{client} still holds it"))
            }
            None => match left_at {
                Some((edge, life)) if self.hosts[edge].is_up() && self.hosts[edge].life == life => {
                    (edge, "the client that had it left in order".to_owned())
                }
                _ => return,
            },
        };
        // A cut is a cut, whoever makes it: the owner does not see the other any more.
        let owners = self.may_dispatch(id);
        if self.is_parted_from(edge, &owners) {
            return;
        }
        let was_meshed = self.living().all(|host| self.hosts[host].meshed_at < since);
        // One of two owners may have died since; the other gives in no later than this.
        let is_alone = settled || self.now >= since + GIVEN_IN_MS;
        // What was on its way over a link that broke is nobody's fault: it comes while this end has not noticed yet. Over the
        // next link nothing comes that somebody else has.
        let has_links = owners.iter().all(|&other| other == host || self.has_link(host, other));
        if is_alone && has_links && (was_meshed && self.is_meshed() || self.is_linked_with_owners(id, edge, since)) {
            self.violate(Kind::NeedlessDuplicate, format!("m{id} again, at h{host}, although {owner} at h{edge}"));
        }
    }

    /// A consumption that was confirmed is told by the one that did: nobody delivers the message who has been linked with it
    /// long enough, whatever happens elsewhere.
    pub(crate) fn check_acknowledged(&mut self, id: MsgId, host: usize) {
        let Some((at, edge)) = self.ledger.msg(id).acked else { return };
        let long_ago = self.now.saturating_sub(TOLD_MS);
        // Who is no holder forgets it when holders have proven to know: an older copy of such a holder's disk does not.
        if self.replaced_at.is_some_and(|replaced| replaced >= at) {
            return;
        }
        let hinders = |host: &super::host::Host| host.disk.slowness_ms > 0 || host.disk.full_for > 0;
        if at >= long_ago || self.hindered_at >= long_ago || !self.hosts[edge].is_up() || self.hosts.iter().any(hinders)
        {
            return;
        }
        let owners = self.may_dispatch(id);
        if self.is_parted_from(edge, &owners) {
            return;
        }
        if owners.iter().all(|&other| other == edge || self.net.joined_since(edge, other, long_ago)) {
            let text =
                format!("m{id} at h{host}, and h{edge}, which confirmed its consumption, is linked with {owners:?}");
            self.violate(Kind::Resurrected, text);
        }
    }

    /// Whether the host that first wrote a message to a client, and the one that does it again, are linked with all that run and may dispatch it, as these are
    /// with each other, since that time, whatever happens elsewhere.
    pub(crate) fn is_first_known(&self, id: MsgId, host: usize, since: u64) -> bool {
        let Some((_, msg)) = self.ledger.msgs().nth(id as usize) else { return false };
        let Some((first, _)) = msg.first_by.filter(|&(host, life)| self.hosts[host].life == life) else {
            return false;
        };
        let group: BTreeSet<_> = self.may_dispatch(id).into_iter().chain([first, host]).collect();
        let joined = |a: usize| group.iter().all(|&b| a == b || self.net.joined_since(a, b, since));
        self.hosts[first].is_up() && !self.is_parted_from(first, &group) && group.iter().all(|&host| joined(host))
    }

    fn living(&self) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(|&host| self.hosts[host].is_up())
    }

    /// Whether all hosts that run are linked with each other.
    pub(crate) fn is_meshed(&self) -> bool {
        self.living().all(|a| self.living().all(|b| a == b || self.net.joined(a, b)))
    }

    /// Whether a broker is linked with all that run and may dispatch the message, and has been for so long before a time that
    /// of two owners one has given in.
    pub(crate) fn is_linked_with_owners(&self, id: MsgId, edge: usize, at: u64) -> bool {
        let since = at.saturating_sub(GIVEN_IN_MS);
        self.may_dispatch(id).iter().all(|&other| other == edge || self.net.joined_since(edge, other, since))
    }

    /// Hosts that run and may have a message to dispatch: who took it, and on whose disks it ever lay.
    fn may_dispatch(&self, id: MsgId) -> BTreeSet<usize> {
        let Some((_, msg)) = self.ledger.msgs().nth(id as usize) else { return BTreeSet::new() };
        let origin = msg.dot.and_then(|dot| self.origin(dot));
        msg.ever.iter().copied().chain(origin).filter(|&host| self.hosts[host].is_up()).collect()
    }

    /// Whether a host is gone for anybody, or one of these for it: also if that is healed meanwhile, until they have another link.
    fn is_parted_from(&self, host: usize, others: &BTreeSet<usize>) -> bool {
        let identity = self.hosts[host].identity;
        let has_told = |other: usize| other != host && self.net.joined(host, other) && !self.has_link(host, other);
        self.hosts.iter().filter_map(|host| host.broker.as_ref()).any(|broker| broker.node().is_gone(identity))
            || others.iter().any(|&other| has_told(other))
    }

    /// Whether two hosts are linked. Where operators split clusters their nodes have to say so, too: whoever has cut drops the link
    /// at once, and there is a tunnel as long as the other one may have to read why; nothing else comes over that any more.
    fn has_link(&self, a: usize, b: usize) -> bool {
        self.net.joined(a, b) && (!self.splits_at_random() || self.is_linked(a, b) && self.is_linked(b, a))
    }

    /// Whether a client has said that it gives back what a subscription left unanswered.
    fn gives_back(&self, client: usize, subscription: u64) -> bool {
        match &self.clients[client].role {
            Role::Consumer(consumer) if consumer.mode == "auto" => false,
            Role::Consumer(consumer) if !consumer.at_work.subscriptions.contains_key(&subscription) => true,
            _ => self.clients[client].is_leaving(),
        }
    }
}
