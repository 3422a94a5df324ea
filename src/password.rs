//! Password hashes: argon2id as a PHC string, and bcrypt, which htpasswd and Grafana's importers write.

use std::fmt;
use std::str::FromStr;

use argon2::password_hash::phc;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};

use crate::secret::Secret;
use crate::token::TokenDigest;

/// The memory for making or verifying a hash of our own, in KiB.
pub const NEW_HASH_KIB: u32 = argon2::Params::DEFAULT_M_COST;
/// The memory of bcrypt at any cost, in KiB: Blowfish's S-boxes are 4 KiB.
const BCRYPT_KIB: u32 = 8;
/// The maximum memory of a verification, in KiB: 256 MiB.
const MAX_ARGON2_KIB: u32 = 256 * 1024;
/// The maximum number of passes over that memory.
const MAX_ARGON2_PASSES: u32 = 10;
/// The maximum cost of bcrypt: a few seconds.
const MAX_BCRYPT_COST: u32 = 15;
/// A hash that needs more memory is a warning, in KiB: 64 MiB.
const EXPENSIVE_ARGON2_KIB: u32 = 64 * 1024;
/// A hash of a higher cost is a warning.
const EXPENSIVE_BCRYPT_COST: u32 = 13;

/// The stored hash of a password.  Its form is checked when it is parsed, so that verification cannot fail for it.
#[derive(Clone)]
pub enum PasswordHash {
    /// A PHC string `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    Argon2id(Box<str>),
    /// `$2a$`, `$2b$` or `$2y$`, a cost, salt and hash.  Only the first 72 bytes of a password count.
    Bcrypt(Box<str>),
}

/// Why a text is not a password hash that we can verify, or a password cannot be hashed.  It never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// It begins with no known identifier.
    #[error("a password hash begins with $argon2id$, $2a$, $2b$ or $2y$")]
    UnknownScheme,
    /// It begins with a known identifier, but cannot be parsed.
    #[error("the password hash is damaged: it cannot be parsed")]
    Damaged,
    /// Its verification is so expensive that clients could exhaust the server.
    #[error(
        "the password hash costs too much to verify: the limits are 256 MiB and 10 passes for argon2id, and \
         cost 15 for bcrypt"
    )]
    TooExpensive,
    /// The password is empty.
    #[error("a password has at least one character")]
    Empty,
    /// The operating system has no randomness to give for a salt.
    #[error("the password could not be hashed")]
    NotHashed,
}

impl PasswordHash {
    /// Hashes a password with argon2id and a random salt, with the parameters that OWASP recommends: 19 MiB of memory, two
    /// passes.
    ///
    /// # Errors
    /// The password is empty, or the operating system has no randomness to give.
    pub fn of(password: &Secret) -> Result<Self, PasswordError> {
        if password.expose().is_empty() {
            return Err(PasswordError::Empty);
        }
        let hash: phc::PasswordHash = Argon2::default()
            .hash_password(password.expose().as_bytes())
            .map_err(|_| PasswordError::NotHashed)?;
        Ok(Self::Argon2id(hash.to_string().into()))
    }

    /// Parses a stored hash.
    ///
    /// # Errors
    /// The scheme is not supported (htpasswd's `{SHA}` and `$apr1$` are too weak), the text is damaged, or its verification
    /// is too expensive.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        if text.starts_with("$argon2id$") {
            let hash = phc::PasswordHash::new(text).map_err(|_| PasswordError::Damaged)?;
            let params = argon2::Params::try_from(&hash).map_err(|_| PasswordError::Damaged)?;
            if params.m_cost() > MAX_ARGON2_KIB || params.t_cost() > MAX_ARGON2_PASSES {
                return Err(PasswordError::TooExpensive);
            }
            if hash.salt.is_none() || hash.hash.is_none() {
                return Err(PasswordError::Damaged);
            }
            return Ok(Self::Argon2id(text.into()));
        }
        if ["$2a$", "$2b$", "$2y$"].iter().any(|scheme| text.starts_with(scheme)) {
            bcrypt::HashParts::from_str(text).map_err(|_| PasswordError::Damaged)?;
            // The parts may be parsed and yet not verify, for instance with a cost out of range.
            let cost =
                bcrypt_cost(text).filter(|cost| (4..=31).contains(cost)).ok_or(PasswordError::Damaged)?;
            if cost > MAX_BCRYPT_COST {
                return Err(PasswordError::TooExpensive);
            }
            return Ok(Self::Bcrypt(text.into()));
        }
        Err(PasswordError::UnknownScheme)
    }

    /// A digest of the stored hash.  A session is bound to it, and ends when the hash changes.
    pub fn fingerprint(&self) -> TokenDigest {
        TokenDigest::of(self.as_str().as_bytes())
    }

    /// Whether this is the password.  Takes tens of milliseconds, on purpose.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2id(text) => phc::PasswordHash::new(text)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Self::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
        }
    }

    /// A rough cost of a verification, in KiB written, to find the most expensive of several hashes.
    pub fn cost(&self) -> u64 {
        match self {
            Self::Argon2id(text) => phc::PasswordHash::new(text)
                .ok()
                .and_then(|hash| argon2::Params::try_from(&hash).ok())
                .map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost())),
            // Cost 10 takes about as long as three times argon2's default of 2 × 19 MiB.
            Self::Bcrypt(text) => (3 * 2 * 19 * 1024) << bcrypt_cost(text).unwrap_or(0) >> 10,
        }
    }

    /// The memory of a verification, in KiB.
    pub fn memory_kib(&self) -> u32 {
        match self {
            Self::Argon2id(text) => phc::PasswordHash::new(text)
                .ok()
                .and_then(|hash| argon2::Params::try_from(&hash).ok())
                .map_or(0, |params| params.m_cost()),
            Self::Bcrypt(_) => BCRYPT_KIB,
        }
    }

    /// Whether a verification takes more than is usual: above 64 MiB, or above bcrypt's cost 13.
    pub fn is_expensive(&self) -> bool {
        match self {
            Self::Argon2id(text) => phc::PasswordHash::new(text)
                .ok()
                .and_then(|hash| argon2::Params::try_from(&hash).ok())
                .is_some_and(|params| params.m_cost() > EXPENSIVE_ARGON2_KIB),
            Self::Bcrypt(text) => bcrypt_cost(text).is_some_and(|cost| cost > EXPENSIVE_BCRYPT_COST),
        }
    }

    /// The hash as stored.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Argon2id(text) | Self::Bcrypt(text) => text,
        }
    }
}

/// A digest to which a session is bound when the configuration has the password itself.
///
/// It is the same for the same user and password in every process, where a [`PasswordHash`] has another salt each time.
/// It is kept in a store, so it is derived by argon2, which makes guessing as expensive as from a hash.
///
/// # Errors
/// The password cannot be hashed.
pub fn fingerprint(user: &str, password: &Secret) -> Result<TokenDigest, PasswordError> {
    let salt = TokenDigest::of(format!("envoy-auth-tokens session {user}").as_bytes());
    let mut output = zeroize::Zeroizing::new([0; 32]);
    Argon2::default()
        .hash_password_into(password.expose().as_bytes(), salt.as_bytes(), output.as_mut_slice())
        .map_err(|_| PasswordError::NotHashed)?;
    Ok(TokenDigest::of(output.as_slice()))
}

fn bcrypt_cost(text: &str) -> Option<u32> {
    text.get(4..6)?.parse().ok()
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordHash([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGON2ID: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0$\
        yJKRhPYqj+FOMIqkMSLjSRyrGNcBSvFLJVyuRDsvx6Q";

    #[test]
    fn a_password_verifies_against_its_own_hash_alone() {
        let hash = PasswordHash::of(&Secret::new("hunter2".to_owned())).unwrap();
        assert!(hash.verify(b"hunter2"));
        assert!(!hash.verify(b"hunter3"));
        assert!(PasswordHash::parse(hash.as_str()).unwrap().verify(b"hunter2"));
        assert_eq!(format!("{hash:?}"), "PasswordHash([REDACTED])");
        assert_eq!(hash.cost(), 2 * 19 * 1024);
    }

    #[test]
    fn bcrypt_as_htpasswd_writes_it() {
        let text = bcrypt::hash("hunter2", 4).unwrap().replacen("$2b$", "$2y$", 1);
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.verify(b"hunter2"));
        assert!(!hash.verify(b"hunter3"));
    }

    #[test]
    fn a_hash_of_a_dearer_kind_costs_more() {
        let bcrypt = |cost: &str| PasswordHash::Bcrypt(format!("$2b${cost}$").into());
        assert!(bcrypt("12").cost() > bcrypt("10").cost());
        assert!(bcrypt("10").cost() > PasswordHash::of(&Secret::new("x".to_owned())).unwrap().cost());
    }

    #[test]
    fn what_is_no_hash() {
        let parse = |text: &str| PasswordHash::parse(text).map(|_| ());
        assert_eq!(parse(ARGON2ID), Ok(()));
        for unknown in ["", "hunter2", "{SHA}2aae6c35c94fcfb415dbe95f408b9ce91ee846ed", "$apr1$a$b"] {
            assert_eq!(parse(unknown), Err(PasswordError::UnknownScheme), "{unknown}");
        }
        for damaged in ["$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ", "$2b$12$short", "$2y$"] {
            assert_eq!(parse(damaged), Err(PasswordError::Damaged), "{damaged}");
        }
        let empty = PasswordHash::of(&Secret::new(String::new()));
        assert_eq!(empty.map(|_| ()), Err(PasswordError::Empty));
    }
}
