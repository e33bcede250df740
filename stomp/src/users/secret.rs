//! What a client says to prove who it is, and what that is checked against: argon2id, so that whoever reads the registry,
//! or a disk, has to work hard for each guess. Neither is ever shown.

use std::{fmt, str};

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of the longest passcode.
pub const MAX_PASSCODE_LEN: usize = 1024;

/// KiB of memory that checking a passcode may take: what the registry says must not use up a node's memory.
const MAX_MEMORY_KIB: u32 = 128 << 10;
/// Passes over it.
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

/// A passcode; its memory is overwritten when it is dropped, and it is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Passcode(Zeroizing<Vec<u8>>);

/// Text that can't be a passcode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasscodeError {
    /// Nothing at all.
    #[error("the passcode is empty")]
    Empty,
    /// More than [`MAX_PASSCODE_LEN`].
    #[error("the passcode is longer than {MAX_PASSCODE_LEN} bytes")]
    TooLong,
    /// A CONNECT frame could not carry it.
    #[error(
        "the passcode has to be one line of text (UTF-8) without control characters, or STOMP clients could not send it"
    )]
    Unsendable,
}

impl Passcode {
    /// One for a user to be: such as a client can send.
    ///
    /// # Errors
    /// See [`PasscodeError`].
    pub fn new(text: Zeroizing<Vec<u8>>) -> Result<Self, PasscodeError> {
        match str::from_utf8(&text) {
            Ok("") => Err(PasscodeError::Empty),
            _ if text.len() > MAX_PASSCODE_LEN => Err(PasscodeError::TooLong),
            Ok(text) if text.chars().any(char::is_control) => Err(PasscodeError::Unsendable),
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(PasscodeError::Unsendable),
        }
    }

    /// What a client has sent.
    pub(crate) fn claimed(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passcode(..)")
    }
}

/// How much work a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Independent parts of it.
    pub lanes: u32,
}

impl Default for Cost {
    /// What OWASP names first for argon2id: 19 MiB, two passes.
    fn default() -> Self {
        Self { memory_kib: 19 << 10, passes: 2, lanes: 1 }
    }
}

impl Cost {
    fn params(self) -> Option<Params> {
        let is_bounded = self.memory_kib <= MAX_MEMORY_KIB && self.passes <= MAX_PASSES && self.lanes <= MAX_LANES;
        is_bounded.then(|| Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()).flatten()
    }
}

/// What a passcode is checked against: cost, salt and hash of argon2id, version 1.3. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verifier {
    cost: Cost,
    salt: [u8; 16],
    hash: [u8; 32],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// A hash can't be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no memory to hash a passcode with")]
pub struct HashError;

impl Verifier {
    /// For a new passcode, with random salt.
    ///
    /// # Errors
    /// There is no memory for it, or the cost is beyond all bounds.
    pub fn new(passcode: &Passcode, salt: [u8; 16], cost: Cost) -> Result<Self, HashError> {
        Ok(Self { cost, salt, hash: *hash(passcode, &salt, cost)? })
    }

    /// One that no passcode fits, and that costs as much to check as others do.
    pub(crate) fn of_nobody() -> Self {
        Self { cost: Cost::default(), salt: [0; 16], hash: [0; 32] }
    }

    /// Whether it is the passcode. Takes its time, and [`Cost::memory_kib`].
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn check(&self, passcode: &Passcode) -> Result<bool, HashError> {
        let hash = hash(passcode, &self.salt, self.cost)?;
        Ok(bool::from(hash[..].ct_eq(&self.hash[..])))
    }

    /// Whether checking it is within bounds.
    pub(crate) fn is_lawful(&self) -> bool {
        self.cost.params().is_some()
    }

    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    pub(crate) fn salt(&self) -> &[u8; 16] {
        &self.salt
    }
}

fn hash(passcode: &Passcode, salt: &[u8; 16], cost: Cost) -> Result<Zeroizing<[u8; 32]>, HashError> {
    let params = cost.params().ok_or(HashError)?;
    let mut hash = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(passcode.as_bytes(), salt, &mut hash[..]).map_err(|_| HashError)?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passcode(text: &str) -> Passcode {
        Passcode::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn the_passcode_and_no_other_one_fits() {
        let verifier = Verifier::new(&passcode("secret"), [7; 16], Cost::default()).unwrap();
        assert_eq!(verifier.check(&passcode("secret")), Ok(true));
        assert_eq!(verifier.check(&passcode("Secret")), Ok(false));
        assert_eq!(verifier.check(&Passcode::claimed("")), Ok(false));
        assert_eq!(Verifier::of_nobody().check(&passcode("secret")), Ok(false));
        // As the reference implementation has it (argon2-cffi: `hash_secret_raw`, the same cost and salt).
        let hex: String = verifier.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5de0010158e62f94ddc214ec9d8f2046f03bc3fc085debf8eaa9cc6ec54cf2b8");
        assert_ne!(verifier, Verifier::new(&passcode("secret"), [8; 16], Cost::default()).unwrap());
    }

    #[test]
    fn neither_passcodes_nor_hashes_are_shown() {
        let verifier =
            Verifier::new(&passcode("secret"), [7; 16], Cost { memory_kib: 8, passes: 1, lanes: 1 }).unwrap();
        let shown = format!("{:?} {:?}", passcode("secret"), verifier);
        assert_eq!(shown, "Passcode(..) Verifier(..)");
    }

    #[test]
    fn what_no_client_could_send_is_no_passcode() {
        let new = |bytes: &[u8]| Passcode::new(Zeroizing::new(bytes.to_vec())).map(drop);
        assert_eq!(new(b""), Err(PasscodeError::Empty));
        assert_eq!(new(&[b'x'; MAX_PASSCODE_LEN]), Ok(()));
        assert_eq!(new(&[b'x'; MAX_PASSCODE_LEN + 1]), Err(PasscodeError::TooLong));
        for bytes in [&b"a\nb"[..], b"a\0", &[0xff], b"a\r"] {
            assert_eq!(new(bytes), Err(PasscodeError::Unsendable), "{bytes:?}");
        }
        assert_eq!(new("p\u{e4}ss: w\\ord".as_bytes()), Ok(()));
    }

    #[test]
    fn a_verifier_that_would_use_up_the_memory_is_none() {
        let of = |memory_kib, passes, lanes| {
            let cost = Cost { memory_kib, passes, lanes };
            (Verifier { cost, ..Verifier::of_nobody() }).is_lawful()
        };
        assert!(of(8, 1, 1) && of(MAX_MEMORY_KIB, MAX_PASSES, MAX_LANES));
        assert!(!of(MAX_MEMORY_KIB + 1, 1, 1) && !of(8, MAX_PASSES + 1, 1) && !of(1024, 1, MAX_LANES + 1));
        assert!(!of(7, 1, 1) && !of(8, 0, 1) && !of(8, 1, 0) && !of(8, 1, 2));
    }
}
