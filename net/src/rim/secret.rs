//! The network secret: who knows it belongs to the network.

use std::{fmt, path::Path};

use rhizomq_engine::NodeId;

use super::{
    keyfile::{self, KeyFileError},
    secrets::was_of,
};

pub(super) const FILE: &str = "network.secret";
pub(super) const KIND: &str = "network-secret";
const PROOF_CONTEXT: &str = "rhizomq 2026 proof of the network secret";

/// 32 random bytes that all nodes of a network share. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkSecret([u8; 32]);

/// Which end of a connection proves something.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// The end that dialled.
    Dialler = 1,
    /// The end that was dialled.
    Listener = 2,
}

/// What a proof is bound to, so that it is good for one end of one TLS session only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    /// Keying material exported from the TLS session: equal at both ends, and known to nobody else.
    pub(super) exported: [u8; 32],
    /// Who dialled.
    pub(super) dialler: NodeId,
    /// Who was dialled.
    pub(super) listener: NodeId,
}

impl NetworkSecret {
    /// A secret with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes: for a ticket, and nothing else.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the network is called where its secret must not be told: a hash of that.
    pub(crate) fn name(&self) -> u64 {
        let hash = blake3::derive_key("rhizomq name of a split by its secret", &self.0);
        u64::from_le_bytes(hash[..8].try_into().unwrap_or_default())
    }

    /// A number that only those can tell who know the secret, for each text another one.
    pub(crate) fn token(&self, of: &str) -> u128 {
        let key = blake3::derive_key("rhizomq 2026 parts of names that nobody else can guess", &self.0);
        let hash = blake3::keyed_hash(&key, of.as_bytes());
        u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap_or_default())
    }

    /// A fresh secret for a new network.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| SecretError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The secret in the data directory, created there when there is none.
    ///
    /// # Errors
    /// The file can't be read or written, or is damaged.
    pub fn load_or_create(data: &Path) -> Result<Self, SecretError> {
        if let Some(secret) = Self::load(data)? {
            return Ok(secret);
        }
        let secret = Self::generate()?;
        keyfile::write(&data.join(FILE), KIND, &secret.0)?;
        Ok(secret)
    }

    /// Takes the secret of a network to join from a ticket, and keeps it in the data directory.
    ///
    /// # Errors
    /// The directory belongs to another network already: joining would silently merge two networks. Or the file can't
    /// be read or written, or is damaged.
    pub fn join(data: &Path, secret: NetworkSecret) -> Result<Self, SecretError> {
        match Self::load(data)? {
            // A part of a network that was split off has another secret now, and its nodes may be started as before.
            Some(kept) if kept == secret || was_of(data, &secret)? => Ok(kept),
            Some(_) => Err(SecretError::OtherNetwork { path: data.join(FILE).display().to_string() }),
            None => {
                keyfile::write(&data.join(FILE), KIND, &secret.0)?;
                Ok(secret)
            }
        }
    }

    pub(super) fn load(data: &Path) -> Result<Option<Self>, SecretError> {
        Self::read(&data.join(FILE))
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, SecretError> {
        let Some(bytes) = keyfile::read(path, KIND)? else { return Ok(None) };
        let path = path.to_owned();
        let bytes = bytes.try_into().map_err(|_| KeyFileError::Damaged { path, kind: KIND, what: "not 32 bytes" })?;
        Ok(Some(Self(bytes)))
    }

    /// Proof that the end of `session` in the given role knows the secret. Comparing two proofs takes constant time.
    pub(super) fn prove(&self, role: Role, session: &Session) -> blake3::Hash {
        let key = blake3::derive_key(PROOF_CONTEXT, &self.0);
        blake3::Hasher::new_keyed(&key)
            .update(&[role as u8])
            .update(&session.exported)
            .update(&session.dialler.0)
            .update(&session.listener.0)
            .finalize()
    }
}

impl NetworkSecret {
    /// What stands in place of a proof of another secret: nobody without this one can tell.
    pub(super) fn blank(&self, context: &str, place: usize, role: Role, session: &Session) -> blake3::Hash {
        Self(blake3::derive_key(context, &[&self.0[..], &place.to_be_bytes()].concat())).prove(role, session)
    }
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSecret(hidden)")
    }
}

/// There is no usable network secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// No secret can be made.
    #[error("the system gives no random bytes, so no network secret can be made")]
    NoRandomness,
    /// The ticket is for another network than the one this node is in.
    #[error(
        "this node belongs to another network than the ticket ({path}): start it without the ticket and merge \
         the two networks with `rhizomq merge`, or join with an empty data directory"
    )]
    OtherNetwork {
        /// The file with the secret that the node has.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_made_once_kept_and_not_replaced_by_a_ticket() {
        let directory = tempfile::tempdir().unwrap();
        let secret = NetworkSecret::load_or_create(directory.path()).unwrap();
        assert_eq!(NetworkSecret::load_or_create(directory.path()).unwrap(), secret);
        assert_eq!(NetworkSecret::join(directory.path(), secret.clone()).unwrap(), secret);
        let other = NetworkSecret::generate().unwrap();
        assert!(matches!(NetworkSecret::join(directory.path(), other), Err(SecretError::OtherNetwork { .. })));
        assert_eq!(NetworkSecret::load_or_create(directory.path()).unwrap(), secret);

        let joining = tempfile::tempdir().unwrap();
        NetworkSecret::join(joining.path(), secret.clone()).unwrap();
        assert_eq!(NetworkSecret::load_or_create(joining.path()).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "NetworkSecret(hidden)");
    }

    #[test]
    fn a_proof_is_good_for_one_role_in_one_session_under_one_secret() {
        let secret = NetworkSecret::from_bytes([1; 32]);
        let session = Session { exported: [2; 32], dialler: NodeId([3; 16]), listener: NodeId([4; 16]) };
        let proof = secret.prove(Role::Dialler, &session);
        assert_eq!(proof, secret.prove(Role::Dialler, &session));
        assert_ne!(proof, secret.prove(Role::Listener, &session));
        assert_ne!(proof, NetworkSecret::from_bytes([9; 32]).prove(Role::Dialler, &session));
        assert_ne!(proof, secret.prove(Role::Dialler, &Session { exported: [9; 32], ..session }));
        assert_ne!(proof, secret.prove(Role::Dialler, &Session { dialler: NodeId([9; 16]), ..session }));
        assert_ne!(proof, secret.prove(Role::Dialler, &Session { listener: NodeId([9; 16]), ..session }));
    }
}
