//! Tokens by their digests.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::config;
use crate::credential::Principal;
use crate::token::TokenDigest;

/// The configured tokens by their digests.  No plain token is kept.
#[derive(Default, Clone)]
pub struct Tokens {
    by_digest: HashMap<TokenDigest, Arc<Principal>, foldhash::fast::RandomState>,
}

impl Tokens {
    pub(super) fn build(tokens: &[config::ConfiguredToken]) -> Self {
        let entry = |token: &config::ConfiguredToken| (token.digest, Arc::clone(&token.principal));
        Self { by_digest: tokens.iter().map(entry).collect() }
    }

    /// The token with this digest.
    pub fn get(&self, digest: &TokenDigest) -> Option<&Arc<Principal>> {
        self.by_digest.get(digest)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Adds a token for an existing principal.
    pub fn add(&mut self, digest: TokenDigest, principal: Arc<Principal>) {
        self.by_digest.insert(digest, principal);
    }

    /// Removes the tokens that the others do not have, and limits each expiry to that of the others.
    pub fn retain_present_in(&mut self, others: &Self) {
        self.by_digest.retain(|digest, principal| {
            let Some(other) = others.get(digest) else {
                return false;
            };
            let ends_sooner =
                other.expires_at.is_some_and(|end| principal.expires_at.is_none_or(|own| end < own));
            if ends_sooner {
                let mut shortened =
                    Principal::new(principal.kind, Arc::clone(&principal.name), principal.actor.clone());
                shortened.policies.clone_from(&principal.policies);
                shortened.expires_at = other.expires_at;
                *principal = Arc::new(shortened);
            }
            true
        });
    }

    /// Every token, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TokenDigest, &Arc<Principal>)> {
        self.by_digest.iter()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tokens({})", self.len())
    }
}
