//! Who is behind a credential.

pub mod passwords;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Rules, UnknownCredentials};
use crate::credential::{Credential, Known};
use crate::decision::Refusal;
use passwords::{Passwords, Verdict};

/// Who a credential stands for.
#[derive(Debug)]
pub enum Identity {
    /// Somebody we know.
    Known(Arc<Known>),
    /// Nobody we know, and the rules leave such tokens to the upstream: the request is anonymous.
    LeftAlone,
}

/// Finds out who is behind the credential: one look-up by digest, or the verification of a password.
///
/// # Errors
/// Unknown, expired or wrong is a [`Refusal`], and so is a password that takes longer than the asker waits.
pub async fn identify(
    credential: &Credential,
    rules: &Rules,
    passwords: &Passwords,
    clock: &Clock,
    deadline: Option<Duration>,
) -> Result<Identity, Refusal> {
    match credential {
        Credential::Token(digest) => match rules.tokens.get(digest) {
            Some(known) if known.expires_at.is_some() && known.is_expired(clock.now()) => {
                Err(Refusal::ExpiredToken)
            }
            Some(known) => Ok(Identity::Known(Arc::clone(known))),
            None => match rules.unknown_credentials {
                UnknownCredentials::Refuse => Err(Refusal::UnknownToken),
                UnknownCredentials::Anonymous => Ok(Identity::LeftAlone),
            },
        },
        Credential::Password { user, password } => {
            // Boxed: the task of every Check need not be as large as that of the few that wait.
            match Box::pin(passwords.verify(user, password, &rules.users, deadline)).await {
                Verdict::Right(known) => Ok(Identity::Known(known)),
                Verdict::Wrong => Err(Refusal::WrongPassword),
                Verdict::Unfinished => Err(Refusal::PasswordUnverified),
            }
        }
    }
}
