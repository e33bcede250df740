//! TLS towards clients: versions 1.2 and 1.3, a certificate from files, certificates of clients if they present one.
//!
//! The files are looked at again when a client connects, at most once a second: renewed certificates hold from then on,
//! for new connections. While the new ones can't be used the former stay, and the log says why.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::transport::CertificateNames;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Names of a client's certificate that are kept.
const MAX_NAMES: usize = 64;

/// Where certificates and keys lie, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate, and those between it and one that clients trust.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities for certificates of clients. `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
}

/// TLS can't be had with these files. Each text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The system does not give it.
    #[error("{option} {file}: {source}", file = file.display())]
    Unreadable {
        /// The option that names it.
        option: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not PEM, or without what is wanted.
    #[error("{option} {file} has no {wanted} in PEM form (-----BEGIN ...-----): {detail}", file = file.display())]
    NotPem {
        /// The option that names it.
        option: &'static str,
        /// The file.
        file: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// Certificate and key do not suit each other, or TLS can't use them.
    #[error("--tls-cert {certificate} and --tls-key {key} can't be used together: {source}",
        certificate = certificate.display(), key = key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Not an authority.
    #[error("--tls-client-ca {file} can't be used: {detail}", file = file.display())]
    BadAuthority {
        /// The file.
        file: PathBuf,
        /// Why.
        detail: String,
    },
}

/// What the system says of a file: when it changes, the file may have.
type Stamp = Option<(SystemTime, u64)>;

/// A certificate in use.
pub struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// Of the files as they were when last read, whether they could be used or not.
    stamps: Vec<Stamp>,
    looked_at: Instant,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = files.stamps();
        let config = Arc::new(files.load()?);
        Ok(Self { files, current: Mutex::new(Current { config, stamps, looked_at: Instant::now() }) })
    }

    /// For a new connection. May read files.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        // Nothing panics while the lock is held; were it so, what it guards would still be whole.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked_at.elapsed() >= LOOK_EVERY {
            self.look(&mut current);
        }
        Arc::clone(&current.config)
    }

    fn look(&self, current: &mut Current) {
        current.looked_at = Instant::now();
        let stamps = self.files.stamps();
        if stamps == current.stamps {
            return;
        }
        current.stamps = stamps;
        match self.files.load() {
            Ok(config) => {
                current.config = Arc::new(config);
                tracing::info!("the certificate for clients was read again, for its files have changed");
            }
            Err(error) => {
                tracing::error!(%error, "the files for TLS have changed and can't be used; the former certificate stays")
            }
        }
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().map(stamp).collect()
    }

    fn load(&self) -> Result<ServerConfig, TlsError> {
        let chain = certificates("--tls-cert", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| pem_error("--tls-key", &self.key, "private key", error))?;
        let unusable =
            |source| TlsError::Unusable { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(unusable)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let bad = |detail: String| TlsError::BadAuthority { file: file.clone(), detail };
                let mut roots = RootCertStore::empty();
                for authority in certificates("--tls-client-ca", file)? {
                    roots.add(authority).map_err(|error| bad(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier.allow_unauthenticated().build();
                builder
                    .with_client_cert_verifier(verifier.map_err(|error: VerifierBuilderError| bad(error.to_string()))?)
            }
        };
        builder.with_single_cert(chain, key).map_err(unusable)
    }
}

fn certificates(option: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |error| pem_error(option, file, "certificate", error);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(error)?.collect();
    let found = found.map_err(error)?;
    if found.is_empty() { Err(error(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn pem_error(option: &'static str, file: &Path, wanted: &'static str, error: pem::Error) -> TlsError {
    let file = file.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::Unreadable { option, file, source },
        pem::Error::NoItemsFound => TlsError::NotPem { option, file, wanted, detail: "there is none in it".to_owned() },
        other => TlsError::NotPem { option, file, wanted, detail: other.to_string() },
    }
}

/// The names in a client's certificate, which is verified already. One that can't be parsed has none.
pub(super) fn names(certificate: &CertificateDer<'_>) -> CertificateNames {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return CertificateNames::default() };
    let common_name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    CertificateNames {
        common_name: common_name.map(str::to_owned),
        alternative_names: alternative
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(text)
            .take(MAX_NAMES)
            .collect(),
    }
}

#[cfg(test)]
mod tests;
