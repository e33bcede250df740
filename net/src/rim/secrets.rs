//! The secrets of a node that may come to be of another network, when its cluster is split: the one in use, the next one,
//! and by what to know those that were in use before.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    keyfile::{self, KeyFileError},
    secret::{FILE, KIND, NetworkSecret, SecretError},
};

/// The secret that a node is about to have.
const NEXT: &str = "network.secret.next";
/// Hashes of secrets that it had.
const FORMER: &str = "network.secrets.former";
/// Secrets of networks that it left with a part of a cluster, as long as the two parts are two.
const LEFT: &str = "network.secrets.left";
const LEFT_KIND: &str = "left-networks";
const SECRET_BYTES: usize = 32;
const FORMER_KIND: &str = "former-networks";
const HASH_BYTES: usize = 16;
/// So many of the latest are kept.
const MAX_FORMER: usize = 64;

/// A node's secrets on its disk. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Secrets {
    data: Option<PathBuf>,
    current: Arc<Mutex<NetworkSecret>>,
}

impl Secrets {
    /// Those in a data directory, of which `current` is in use.
    pub fn new(data: &Path, current: NetworkSecret) -> Self {
        Self { data: Some(data.to_owned()), current: Arc::new(Mutex::new(current)) }
    }

    /// Those of a node that keeps nothing.
    pub fn in_memory(current: NetworkSecret) -> Self {
        Self { data: None, current: Arc::new(Mutex::new(current)) }
    }

    /// The one in use.
    pub fn current(&self) -> NetworkSecret {
        // Nothing panics while the lock is held.
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that an earlier life was told to keep, if that still matters.
    ///
    /// # Errors
    /// The file can't be read, or is damaged.
    pub fn next(&self) -> Result<Option<NetworkSecret>, SecretError> {
        match &self.data {
            Some(data) => NetworkSecret::read(&data.join(NEXT)),
            None => Ok(None),
        }
    }

    /// Keeps the next one, or nothing any more. Durable when this returns.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keep(&self, next: Option<&NetworkSecret>) -> Result<(), SecretError> {
        let Some(data) = &self.data else { return Ok(()) };
        let path = data.join(NEXT);
        match next {
            Some(secret) => Ok(keyfile::write(&path, KIND, secret.as_bytes())?),
            None => Ok(remove(path)?),
        }
    }

    /// Those that an earlier life was told to keep of networks that it was of before, the latest first.
    ///
    /// # Errors
    /// The file can't be read, or is damaged.
    pub fn former(&self) -> Result<Vec<NetworkSecret>, SecretError> {
        let Some(data) = &self.data else { return Ok(Vec::new()) };
        let bytes = keyfile::read(&data.join(LEFT), LEFT_KIND)?.unwrap_or_default();
        Ok(bytes.as_chunks::<SECRET_BYTES>().0.iter().map(|bytes| NetworkSecret::from_bytes(*bytes)).collect())
    }

    /// Keeps these, in place of those of before. Durable when this returns.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keep_former(&self, former: &[NetworkSecret]) -> Result<(), SecretError> {
        let Some(data) = &self.data else { return Ok(()) };
        let path = data.join(LEFT);
        if former.is_empty() {
            return Ok(remove(path)?);
        }
        let bytes: Vec<u8> = former.iter().flat_map(|secret| *secret.as_bytes()).collect();
        Ok(keyfile::write(&path, LEFT_KIND, &bytes)?)
    }

    /// Puts another secret in the place of the one in use, and remembers that one by its hash. Durable when this returns;
    /// interrupted, it is done again.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn replace(&self, secret: &NetworkSecret) -> Result<(), SecretError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = &self.data {
            let mut former = former(data)?;
            let hash = hash_of(&current);
            if *current != *secret && !former.contains(&hash) {
                former.push(hash);
                let first = former.len().saturating_sub(MAX_FORMER);
                keyfile::write(&data.join(FORMER), FORMER_KIND, &former[first..].concat())?;
            }
            keyfile::write(&data.join(FILE), KIND, secret.as_bytes())?;
            remove(data.join(NEXT))?;
        }
        *current = secret.clone();
        Ok(())
    }
}

/// Whether the node in this directory was of this network before: a ticket of it, which may stand in a service's command
/// line, is no reason not to start.
pub(super) fn was_of(data: &Path, secret: &NetworkSecret) -> Result<bool, SecretError> {
    Ok(former(data)?.contains(&hash_of(secret)))
}

fn former(data: &Path) -> Result<Vec<[u8; HASH_BYTES]>, KeyFileError> {
    let bytes = keyfile::read(&data.join(FORMER), FORMER_KIND)?.unwrap_or_default();
    Ok(bytes.as_chunks::<HASH_BYTES>().0.to_vec())
}

fn hash_of(secret: &NetworkSecret) -> [u8; HASH_BYTES] {
    let hash = blake3::derive_key("rhizomq 2026 memory of a former network secret", secret.as_bytes());
    *hash.first_chunk().unwrap_or(&[0; HASH_BYTES])
}

fn remove(path: PathBuf) -> Result<(), KeyFileError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeyFileError::Io { path, source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(fill: u8) -> NetworkSecret {
        NetworkSecret::from_bytes([fill; 32])
    }

    #[test]
    fn a_secret_that_is_kept_and_replaced_outlives_the_process_and_old_tickets_do_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let first = NetworkSecret::load_or_create(data).unwrap();
        let secrets = Secrets::new(data, first.clone());
        assert_eq!(secrets.next().unwrap(), None);
        secrets.keep(Some(&secret(2))).unwrap();
        assert_eq!(Secrets::new(data, first.clone()).next().unwrap(), Some(secret(2)));
        assert_eq!(NetworkSecret::load_or_create(data).unwrap(), first, "it is not in use yet");
        secrets.keep(None).unwrap();
        secrets.keep(None).unwrap();
        assert_eq!(secrets.next().unwrap(), None);

        secrets.keep(Some(&secret(2))).unwrap();
        for _ in 0..2 {
            secrets.replace(&secret(2)).unwrap();
            assert_eq!((secrets.clone().current(), secrets.next().unwrap()), (secret(2), None));
        }
        assert_eq!(NetworkSecret::load_or_create(data).unwrap(), secret(2));
        assert_eq!(NetworkSecret::join(data, first.clone()).unwrap(), secret(2), "an old ticket");
        assert_eq!(NetworkSecret::join(data, secret(2)).unwrap(), secret(2));
        assert!(matches!(NetworkSecret::join(data, secret(9)), Err(SecretError::OtherNetwork { .. })));
        for fill in 10..10 + 2 * MAX_FORMER as u8 {
            secrets.replace(&secret(fill)).unwrap();
        }
        assert_eq!(former(data).unwrap().len(), MAX_FORMER);
        assert!(was_of(data, &secret(8 + 2 * MAX_FORMER as u8)).unwrap() && !was_of(data, &first).unwrap());
        assert!(!format!("{secrets:?}").contains("137"), "{secrets:?}");
    }

    #[test]
    fn secrets_of_networks_that_were_left_outlive_the_process_until_they_are_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(directory.path(), secret(1));
        assert_eq!(secrets.former().unwrap(), []);
        secrets.keep_former(&[secret(2), secret(3)]).unwrap();
        assert_eq!(Secrets::new(directory.path(), secret(1)).former().unwrap(), [secret(2), secret(3)]);
        for _ in 0..2 {
            secrets.keep_former(&[]).unwrap();
            assert_eq!(secrets.former().unwrap(), []);
        }
        assert!(!directory.path().join(LEFT).exists());
        fs::write(directory.path().join(LEFT), "junk").unwrap();
        assert!(matches!(secrets.former(), Err(SecretError::File(KeyFileError::Damaged { .. }))));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(directory.path(), secret(1));
        fs::write(directory.path().join(NEXT), "rubbish").unwrap();
        assert!(matches!(secrets.next(), Err(SecretError::File(KeyFileError::Damaged { .. }))));
    }
}
