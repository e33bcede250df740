//! The secrets that a node trusts: its own network's, and those of networks that were merged with it.
//!
//! Two nodes link when they have a secret in common. Each end proves all that it has, since neither knows which one the
//! other will know; the proofs take a fixed number of places, and those that are left over are filled with what looks like
//! proofs, so that nothing has to be parsed before one of them held, and nobody learns how many networks there are.

use super::secret::{NetworkSecret, Role, Session};

/// How many networks a node can trust at the same time, its own included. Each costs every handshake a proof.
pub const MAX_TRUSTED: usize = 16;

const BLANK_CONTEXT: &str = "rhizomq 2026 filling in place of a proof of a network secret";

/// Secrets by which a node knows others, its own first. `Debug` hides them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// At least one, at most [`MAX_TRUSTED`], each once.
    secrets: Vec<NetworkSecret>,
}

/// All that one end proves, in [`MAX_TRUSTED`] places.
pub(super) type Proofs = [blake3::Hash; MAX_TRUSTED];

impl Keyring {
    /// A node's own secret, and others that it trusts; of these the first ones, as far as there is room.
    pub fn new(own: NetworkSecret, others: impl IntoIterator<Item = NetworkSecret>) -> Self {
        let mut secrets = vec![own];
        for other in others {
            if secrets.len() < MAX_TRUSTED && !secrets.contains(&other) {
                secrets.push(other);
            }
        }
        Self { secrets }
    }

    /// Whether nodes with these two keyrings link: what a handshake between them comes to.
    pub fn meets(&self, other: &Self) -> bool {
        self.secrets.iter().any(|secret| other.secrets.contains(secret))
    }

    /// What the end of `session` in the given role proves with these secrets.
    pub(super) fn prove(&self, role: Role, session: &Session) -> Proofs {
        std::array::from_fn(|place| match (self.secrets.get(place), self.secrets.first()) {
            (Some(secret), _) => secret.prove(role, session),
            (None, Some(own)) => own.blank(BLANK_CONTEXT, place, role, session),
            (None, None) => unreachable!("a keyring has its own secret"),
        })
    }

    /// Whether the end in the given role has proven any secret that is trusted here, and if so, whether it has proven this
    /// node's own. Takes the same time whichever.
    pub(super) fn accepts(&self, role: Role, session: &Session, proofs: &Proofs) -> Option<bool> {
        let knows = |secret: &NetworkSecret| {
            let expected = secret.prove(role, session);
            // Hashes compare in constant time, and no comparison is left out.
            proofs.iter().fold(false, |known, proof| known | (*proof == expected))
        };
        let knows_own = self.secrets.first().is_some_and(knows);
        let knows_other = self.secrets.iter().skip(1).fold(false, |known, secret| known | knows(secret));
        (knows_own | knows_other).then_some(knows_own)
    }

    /// Whether a node with the other keyring proves this node's own secret.
    pub fn is_own_known_by(&self, other: &Self) -> bool {
        self.secrets.first().is_some_and(|own| other.secrets.contains(own))
    }
}

impl From<NetworkSecret> for Keyring {
    fn from(own: NetworkSecret) -> Self {
        Self::new(own, [])
    }
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::NodeId;

    use super::*;

    fn secret(fill: u8) -> NetworkSecret {
        NetworkSecret::from_bytes([fill; 32])
    }

    fn ring(own: u8, others: &[u8]) -> Keyring {
        Keyring::new(secret(own), others.iter().map(|&fill| secret(fill)))
    }

    fn session() -> Session {
        Session { exported: [2; 32], dialler: NodeId([3; 16]), listener: NodeId([4; 16]) }
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
            assert_eq!(here.meets(&there), known, "{here:?}");
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
        assert_eq!(here.accepts(Role::Listener, &session(), &theirs), Some(true));
        let of_other = ring(2, &[]).prove(Role::Listener, &session());
        assert_eq!(here.accepts(Role::Listener, &session(), &of_other), Some(false), "another's, which is trusted too");
        assert!(here.accepts(Role::Listener, &session(), &fillings).is_none());
        let mut all = theirs.map(|proof| *proof.as_bytes()).to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), MAX_TRUSTED, "all differ, so that they can't be told apart");
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
