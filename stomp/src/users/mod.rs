//! Users: who may log in, and what they may do where.
//!
//! | module | duty |
//! |---|---|
//! | `secret` | what a client says to prove who it is, and what that is checked against |
//! | `access` | rights by destination pattern |
//! | `record` | the facts about users in the registry, encode beside decode |
//! | `directory` | what a node knows of all users |
//!
//! A user is a handful of *facts* in registry sets, which every node has: an *account*, that is all that makes the user be
//! there; a passcode's verifier; what the user may do. The latter two belong to an account. What is said at two places that do not know
//! of each other comes together so that nobody gets in whom an operator wanted to keep out, as far as that can be:
//!
//! | at the same time | what holds |
//! |---|---|
//! | `remove` and any change of the same user | the user is gone: the account is, and nothing counts without it |
//! | `passwd` and `passwd` | the later one, by the clocks of the nodes that were asked |
//! | `permit` and `permit` | only what both grant, until somebody says it anew |
//! | `add` and `add` of one name | one user, as if there had been a `passwd` and a `permit` on both sides |
//! | `remove` here, `remove` and `add` there | the user who was added: whoever added one knew that the former was gone |

mod access;
mod directory;
mod record;
mod secret;

pub(crate) use access::{Access, Permit};
pub use access::{AccessSpec, PatternError, Right};
pub(crate) use directory::{Directory, User};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use record::samples as user_samples;
pub(crate) use record::{AccountId, Fact, Member, is_set, set_of, sets};
pub use secret::{Cost, HashError, MAX_PASSCODE_LEN, Passcode, PasscodeError, Verifier};

use serde::{Deserialize, Serialize};

/// Users at most; more are not made.
pub const MAX_USERS: usize = 4096;

/// Bytes of the longest name.
pub const MAX_NAME_LEN: usize = 128;

/// What an operator wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UserChange {
    /// Makes a user.
    Add {
        /// What it is called in CONNECT, or in its certificate.
        name: String,
        /// Of its passcode. `None`: it can't log in with one.
        verifier: Option<Verifier>,
        /// What it may do.
        access: AccessSpec,
    },
    /// Sets the passcode. Whoever is connected with the former one is closed.
    Passcode {
        /// Whose.
        name: String,
        /// Of the new passcode.
        verifier: Verifier,
    },
    /// Sets what the user may do, at once.
    Access {
        /// Whose.
        name: String,
        /// All of it; what is left out stays as it is.
        access: AccessSpec,
    },
    /// Takes the user out. Whoever is connected is closed.
    Remove {
        /// Whom.
        name: String,
    },
}

impl UserChange {
    /// Who is changed.
    pub fn name(&self) -> &str {
        match self {
            Self::Add { name, .. }
            | Self::Passcode { name, .. }
            | Self::Access { name, .. }
            | Self::Remove { name } => name,
        }
    }
}

/// A change that was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// Not a name.
    #[error("a user's name has 1 to {MAX_NAME_LEN} bytes and no control characters, nor spaces around it")]
    Name,
    /// There is one already.
    #[error("there is a user `{0}` already; `rhizomq user passwd` and `rhizomq user permit` change it")]
    Exists(String),
    /// There is none.
    #[error("there is no user `{0}`; `rhizomq user list` shows all")]
    Unknown(String),
    /// A pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Nobody could ever log in as this user.
    #[error("the user would have neither a passcode nor a certificate to log in with")]
    NoWayIn,
    /// Permissions were set at two places at once, and what is to stay of them is not clear.
    #[error(
        "the permissions of `{0}` were set at two places at once: say all of them anew, with --read, --write and --manage"
    )]
    Conflict(String),
    /// Too many.
    #[error("there are {MAX_USERS} users, and no more are made; remove some first")]
    TooMany,
    /// A verifier that nobody would want to compute.
    #[error("the hash of the passcode is not one that this program makes")]
    Verifier,
    /// The registry takes no more.
    #[error("the users do not fit into the registry any more; remove some, or some of their permissions: {0}")]
    Full(String),
}

/// Checks what a user is to be called.
pub(crate) fn check_name(name: &str) -> Result<(), UserError> {
    let is_lawful = (1..=MAX_NAME_LEN).contains(&name.len()) && !name.chars().any(char::is_control);
    if is_lawful && name.trim() == name { Ok(()) } else { Err(UserError::Name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_text() {
        for name in ["a", "shop.example", "Ada Lovelace", "\u{e4}", &"x".repeat(MAX_NAME_LEN)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", " a", "a ", "a\nb", "\0", "\u{7f}", &"x".repeat(MAX_NAME_LEN + 1)] {
            assert_eq!(check_name(name), Err(UserError::Name), "{name:?}");
        }
    }
}
