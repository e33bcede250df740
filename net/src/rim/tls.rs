//! TLS between nodes: version 1.3 only, certificates both ways, and a certificate means nothing but its Ed25519 key.
//!
//! There is no authority and no name to check: the handshake proves that the peer holds the private key, and the key is
//! the node's name. Whether that node may be here is decided afterwards, by the proof of the network secret.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rhizomq_engine::NodeId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, PeerMisbehaved,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::identity::Identity;

/// What both ends say they speak. Versions are agreed on later, where they can be refused with a reason.
const ALPN: &[u8] = b"rhizomq";

/// The name asked for in the handshake. Nobody checks it, and it is not sent.
pub(super) const SERVER_NAME: &str = "rhizomq";

/// The DER form of an Ed25519 public key is this and the 32 bytes of the key (RFC 8410).
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key or certificate does not suit.
    #[error("TLS can't be set up with this node's identity: {0}")]
    Tls(#[from] Error),
    /// A build without the cipher that QUIC starts with.
    #[error("TLS can't be set up: {0}")]
    NoInitialCipher(#[from] NoInitialCipherSuite),
}

/// The node that a certificate stands for.
///
/// # Errors
/// The certificate can't be parsed, or its key is not an Ed25519 key.
pub(super) fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let key = spki.strip_prefix(&ED25519_SPKI_PREFIX).and_then(|key| <&[u8; 32]>::try_from(key).ok());
    key.map(NodeId::from_public_key).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// The node at the other end of an established connection.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(identity.first()?).ok()
}

/// How to dial.
pub(super) fn client_config(identity: &Identity) -> Result<quinn::ClientConfig, TlsError> {
    let provider = ring::default_provider();
    let key = provider.key_provider.load_private_key(identity.private_key())?;
    let certified = CertifiedKey::new(vec![identity.certificate()], key);
    client_config_presenting(Arc::new(SingleCertAndKey::from(certified)))
}

/// How to dial with whatever certificate and key.
pub(super) fn client_config_presenting(
    certified: Arc<dyn ResolvesClientCert>,
) -> Result<quinn::ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(NodeVerifier::new(&provider))
        .with_client_cert_resolver(certified);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_sni = false;
    // Each connection proves both keys anew.
    tls.resumption = Resumption::disabled();
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

/// How to be dialled.
pub(super) fn server_config(identity: &Identity) -> Result<quinn::ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(NodeVerifier::new(&provider))
        .with_single_cert(vec![identity.certificate()], identity.private_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?)))
}

/// Accepts any certificate with an Ed25519 key, and only if the handshake is signed with that key.
#[derive(Debug)]
struct NodeVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl NodeVerifier {
    fn new(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms })
    }

    fn check_certificate(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        node_of(leaf).map(drop)
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check_certificate(leaf, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check_certificate(leaf, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ed25519_certificate_names_a_node() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&other).unwrap();
        assert!(node_of(certificate.der()).is_err());
        assert!(node_of(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])).is_err());
        assert!(node_of(&CertificateDer::from(Vec::new())).is_err());
    }
}
