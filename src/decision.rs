//! Decisions: a permit, or a denial with its reason.

use std::sync::Arc;

use crate::credential::{CredentialLocation, Principal};
use crate::deny_reason::DenyReason;
use crate::policy::{Permit, Policy};
use crate::snapshot::Snapshot;

/// What was decided about one request.
#[derive(Debug)]
pub struct Decision {
    /// The rules that decided: one snapshot from start to end.
    pub rules: Arc<Snapshot>,
    /// The answer.
    pub verdict: Result<Permit, DenyReason>,
    /// What was learned on the way.
    pub context: DecisionContext,
}

/// What was learned of a request before it was decided: for the log, the metadata and the answer.
#[derive(Debug, Default)]
pub struct DecisionContext {
    /// The policy that governs, when one could be selected.
    pub policy: Option<Arc<Policy>>,
    /// The credential that was recognised, even when it did not suffice.
    pub principal: Option<Arc<Principal>>,
    /// Where a credential stood that nobody here knows and that is left to the upstream
    /// (`unknown_credentials: anonymous`, or a policy that is not enforced).
    pub passed_through: Option<CredentialLocation>,
    /// The denial that would have been, when the policy is not enforced and the request passes all the same.
    pub shadowed: Option<DenyReason>,
}

/// What a decision comes to, once there is an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The policy admits the request.
    Allowed,
    /// The policy is not enforced: the request passes, and this is why it would not.
    Shadowed(DenyReason),
    /// The request is denied.
    Denied(DenyReason),
}

impl Decision {
    /// What it comes to, unless the answer cannot be built.
    pub fn outcome(&self) -> Outcome {
        match (&self.verdict, self.context.shadowed) {
            (Err(deny_reason), _) => Outcome::Denied(*deny_reason),
            (Ok(_), Some(deny_reason)) => Outcome::Shadowed(deny_reason),
            (Ok(_), None) => Outcome::Allowed,
        }
    }
}

impl Outcome {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Shadowed(_) => "shadowed",
            Self::Denied(_) => "denied",
        }
    }

    /// The denial, also one that was not enforced.
    pub fn deny_reason(self) -> Option<DenyReason> {
        match self {
            Self::Allowed => None,
            Self::Shadowed(deny_reason) | Self::Denied(deny_reason) => Some(deny_reason),
        }
    }

    /// Why, as a word for logs and metrics.
    pub fn reason(self) -> &'static str {
        self.deny_reason().map_or("admitted", DenyReason::as_str)
    }
}
