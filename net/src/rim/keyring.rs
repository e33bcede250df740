//! The secrets that a node trusts: its own network's, and those of networks that were merged with it.
//!
//! Two nodes link when they have a secret in common. Each end proves all that it has, since neither knows which one the
//! other will know; the proofs take a fixed number of places, and those that are left over are filled with what looks like
//! proofs, so that nothing has to be parsed before one of them held, and nobody learns how many networks there are.

use std::collections::BTreeSet;

use rhizomq_engine::NodeId;

use super::secret::{NetworkSecret, Role, Session};
use crate::link::Proven;

/// How many networks a node can trust at the same time, its own included. Each costs every handshake a proof.
pub const MAX_TRUSTED: usize = 16;

const BLANK_CONTEXT: &str = "rhizomq 2026 filling in place of a proof of a network secret";

/// Secrets by which a node knows others, its own first. `Debug` hides them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// At least one, at most [`MAX_TRUSTED`], each once.
    secrets: Vec<NetworkSecret>,
    /// How many of these, the last ones, are trusted no more ([`Proven::Former`]), and of whom they are accepted all the same.
    former: usize,
    expected: BTreeSet<NodeId>,
}

/// All that one end proves, in [`MAX_TRUSTED`] places.
pub(super) type Proofs = [blake3::Hash; MAX_TRUSTED];

impl Keyring {
    /// A node's own secret, and others that it trusts; of these the first ones, as far as there is room.
    pub fn new(own: NetworkSecret, others: impl IntoIterator<Item = NetworkSecret>) -> Self {
        let secrets = Self::gather(vec![own], others);
        Self { secrets, former: 0, expected: BTreeSet::new() }
    }

    /// With secrets that were trusted before, as far as there is room: who of those `expected` knows one of these and no other
    /// gets as far as a link, to be told what has become of it.
    #[must_use]
    pub fn with_former(
        self,
        former: impl IntoIterator<Item = NetworkSecret>,
        expected: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let trusted = self.secrets.len();
        let secrets = Self::gather(self.secrets, former);
        Self { former: self.former + secrets.len() - trusted, secrets, expected: expected.into_iter().collect() }
    }

    fn gather(mut secrets: Vec<NetworkSecret>, others: impl IntoIterator<Item = NetworkSecret>) -> Vec<NetworkSecret> {
        for other in others {
            if secrets.len() < MAX_TRUSTED && !secrets.contains(&other) {
                secrets.push(other);
            }
        }
        secrets
    }

    /// What the end of `session` in the given role proves with these secrets.
    pub(super) fn prove(&self, role: Role, session: &Session) -> Proofs {
        std::array::from_fn(|place| match (self.secrets.get(place), self.secrets.first()) {
            (Some(secret), _) => secret.prove(role, session),
            (None, Some(own)) => own.blank(BLANK_CONTEXT, place, role, session),
            (None, None) => unreachable!("a keyring has its own secret"),
        })
    }

    /// Which of the secrets here the end in the given role has proven, if any. Takes the same time whichever.
    pub(super) fn accepts(&self, role: Role, session: &Session, proofs: &Proofs) -> Option<Proven> {
        let knows = |secret: &NetworkSecret| {
            let expected = secret.prove(role, session);
            // Hashes compare in constant time, and no comparison is left out.
            proofs.iter().fold(false, |known, proof| known | (*proof == expected))
        };
        let peer = match role {
            Role::Dialler => session.dialler,
            Role::Listener => session.listener,
        };
        self.proven(peer, knows)
    }

    /// What a node with the other keyring proves to this one; they link if each proves something to the other.
    pub fn proven_by(&self, peer: NodeId, other: &Self) -> Option<Proven> {
        self.proven(peer, |secret| other.secrets.contains(secret))
    }

    /// Asks about every secret, whatever the answers.
    fn proven(&self, peer: NodeId, knows: impl Fn(&NetworkSecret) -> bool) -> Option<Proven> {
        let (trusted, former) = self.secrets.split_at(self.secrets.len() - self.former);
        let any = |secrets: &[NetworkSecret]| secrets.iter().fold(false, |known, secret| known | knows(secret));
        let (own, others) = trusted.split_at(1);
        let is_former = any(former) & self.expected.contains(&peer);
        let known = [(any(own), Proven::Own), (any(others), Proven::Trusted), (is_former, Proven::Former)];
        known.into_iter().find(|(is_known, _)| *is_known).map(|(_, proven)| proven)
    }
}

impl From<NetworkSecret> for Keyring {
    fn from(own: NetworkSecret) -> Self {
        Self::new(own, [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(fill: u8) -> NetworkSecret {
        NetworkSecret::from_bytes([fill; 32])
    }

    fn ring(own: u8, others: &[u8]) -> Keyring {
        Keyring::new(secret(own), others.iter().map(|&fill| secret(fill)))
    }

    const PEER: NodeId = NodeId([3; 16]);

    fn session() -> Session {
        Session { exported: [2; 32], dialler: PEER, listener: NodeId([4; 16]) }
    }

    #[test]
    fn one_secret_in_common_is_enough_in_both_directions_and_none_is_not() {
        let accepts = |here: &Keyring, there: &Keyring| {
            here.accepts(Role::Dialler, &session(), &there.prove(Role::Dialler, &session())).is_some()
        };
        let all: Vec<u8> = (20..20 + MAX_TRUSTED as u8 - 1).collect();
        for (here, there, known) in [
            (ring(1, &[]), ring(1, &[]), true),
            (ring(1, &[]), ring(2, &[]), false),
            (ring(1, &[2]), ring(2, &[]), true),
            (ring(1, &[9]), ring(2, &[9]), true),
            (ring(1, &[8]), ring(2, &[9]), false),
            (ring(1, &all), ring(34, &[]), true),
        ] {
            assert_eq!(accepts(&here, &there), known, "{here:?}");
            assert_eq!(accepts(&there, &here), known, "{there:?}");
            assert_eq!(here.proven_by(PEER, &there).is_some(), known, "{here:?}");
        }
    }

    #[test]
    fn proofs_of_another_role_or_session_and_fillings_count_for_nothing() {
        let here = ring(1, &[2]);
        let theirs = here.prove(Role::Listener, &session());
        assert!(here.accepts(Role::Dialler, &session(), &theirs).is_none());
        let other = Session { exported: [9; 32], ..session() };
        assert!(here.accepts(Role::Listener, &other, &theirs).is_none());
        let mut fillings = theirs;
        fillings[..2].copy_from_slice(&theirs[2..4]);
        assert_eq!(here.accepts(Role::Listener, &session(), &theirs), Some(Proven::Own));
        let of_other = ring(2, &[]).prove(Role::Listener, &session());
        assert_eq!(
            here.accepts(Role::Listener, &session(), &of_other),
            Some(Proven::Trusted),
            "another's, which is trusted too"
        );
        assert!(here.accepts(Role::Listener, &session(), &fillings).is_none());
        let mut all = theirs.map(|proof| *proof.as_bytes()).to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), MAX_TRUSTED, "all differ, so that they can't be told apart");
    }

    #[test]
    fn a_former_secret_counts_for_no_more_than_that_and_takes_no_place_of_one_that_is_trusted() {
        let here = ring(1, &[2]).with_former([secret(3), secret(2)], [PEER]);
        let proven = |there: &Keyring| {
            let by_proof = here.accepts(Role::Dialler, &session(), &there.prove(Role::Dialler, &session()));
            assert_eq!(by_proof, here.proven_by(PEER, there));
            by_proof
        };
        let of = [(ring(3, &[]), Proven::Former), (ring(3, &[2]), Proven::Trusted), (ring(3, &[1]), Proven::Own)];
        of.iter().for_each(|(there, expected)| assert_eq!(proven(there), Some(*expected), "{there:?}"));
        assert_eq!(proven(&ring(4, &[])), None);
        // Both have left: the former secret is proven by who has it as that.
        assert_eq!(proven(&ring(5, &[]).with_former([secret(3)], [])), Some(Proven::Former));
        // Of whom nothing of the kind is expected, it is not accepted.
        let role = Role::Listener;
        assert_eq!(here.accepts(role, &session(), &ring(3, &[]).prove(role, &session())), None);
        assert_eq!(here.accepts(role, &session(), &ring(2, &[]).prove(role, &session())), Some(Proven::Trusted));
        let many: Vec<u8> = (2..=MAX_TRUSTED as u8).collect();
        assert_eq!(ring(1, &many).with_former([secret(99)], []), ring(1, &many));
    }

    #[test]
    fn a_keyring_is_bounded_names_each_secret_once_and_hides_them() {
        let many: Vec<u8> = (1..60).collect();
        let full = ring(1, &many);
        assert_eq!(full.secrets.len(), MAX_TRUSTED);
        assert_eq!(full, ring(1, &[&[2, 2, 1], &many[..]].concat()));
        assert!(!format!("{full:?}").contains("1, 1"), "{full:?}");
    }
}
