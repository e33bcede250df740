//! A node's identity: an Ed25519 key in the data directory, and the certificate that carries it in TLS.

use std::{fmt, path::Path};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rhizomq_engine::NodeId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::keyfile::{self, KeyFileError};

pub(super) const FILE: &str = "identity.key";
const KIND: &str = "identity";

/// The key pair and certificate of this node. `Debug` shows the node's id only.
pub struct Identity {
    node: NodeId,
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Identity {
    /// The identity in the data directory, created there when there is none.
    ///
    /// # Errors
    /// The file can't be read or written, or is damaged: a node does not change its name because of a bad sector.
    pub fn load_or_create(data: &Path) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(data)? {
            return Ok(identity);
        }
        let identity = Self::generate()?;
        keyfile::write(&data.join(FILE), KIND, identity.key.serialized_der())?;
        Ok(identity)
    }

    /// Whether there is an identity in the data directory, be it one that can't be used.
    pub fn is_in(data: &Path) -> bool {
        data.join(FILE).symlink_metadata().is_ok()
    }

    pub(super) fn load(data: &Path) -> Result<Option<Self>, IdentityError> {
        let path = data.join(FILE);
        let Some(bytes) = keyfile::read(&path, KIND)? else { return Ok(None) };
        let pkcs8 = PrivatePkcs8KeyDer::from(bytes);
        let damaged = |_| KeyFileError::Damaged { path, kind: KIND, what: "it holds no Ed25519 key" };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).map_err(damaged)?;
        Self::new(key).map(Some)
    }

    /// A fresh identity that is kept nowhere.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::new(KeyPair::generate_for(&PKCS_ED25519)?)
    }

    /// The node's name for ever.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The certificate: self-signed, for nothing is asked of it but to carry the key.
    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialized_der().to_vec()).into()
    }

    fn new(key: KeyPair) -> Result<Self, IdentityError> {
        let raw: &[u8; 32] = key.public_key_raw().try_into().map_err(|_| IdentityError::NotEd25519)?;
        let node = NodeId::from_public_key(raw);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { node, key, certificate })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

/// There is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// No key or certificate can be made.
    #[error("can't make this node's key or certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The key is of another kind.
    #[error("the node's key is not an Ed25519 key")]
    NotEd25519,
}

#[cfg(test)]
mod tests {
    use super::{super::tls, *};

    #[test]
    fn the_identity_is_made_once_and_the_certificate_says_the_same_name() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(directory.path()).unwrap();
        let again = Identity::load_or_create(directory.path()).unwrap();
        assert_eq!(identity.node(), again.node());
        assert_eq!(tls::node_of(&identity.certificate()).unwrap(), identity.node());
        assert_ne!(Identity::generate().unwrap().node(), identity.node());
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        Identity::load_or_create(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Identity::load_or_create(directory.path()).unwrap_err();
        assert!(matches!(error, IdentityError::File(KeyFileError::Damaged { .. })), "{error}");
        assert!(error.to_string().contains("identity.key is damaged"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);

        // A file that is whole, but of another kind of key.
        keyfile::write(&path, KIND, b"no key at all").unwrap();
        assert!(Identity::load_or_create(directory.path()).is_err());
    }
}
