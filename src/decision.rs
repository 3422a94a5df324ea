//! Decisions: a permit, or a denial with its reason.

use std::sync::Arc;

use arc_swap::Guard;

use crate::credential::{CachedActorAnswer, CredentialLocation, Principal};
use crate::deny_reason::DenyReason;
use crate::identity::RejectedCredential;
use crate::policy::{Permit, Policy};
use crate::snapshot::Snapshot;

/// The decision about one request.
#[derive(Debug)]
pub struct Decision {
    /// The snapshot that decided, from start to end.
    pub snapshot: Arc<Snapshot>,
    /// The permit, or why there is none.
    pub verdict: Result<Permit, DenyReason>,
    /// The context of the decision.
    pub context: DecisionContext,
    /// The encoded part of the answer that depends on the permit's actor, which was checked to be possible.
    actor_answer: Option<CachedActorAnswerGuard>,
}

/// A guard costs less than a clone, and most decisions are dropped at once.
type CachedActorAnswerGuard = Guard<Option<Arc<CachedActorAnswer>>>;

/// The results of the engine's steps, whatever the decision: for the log, the metadata and the answer.
#[derive(Debug, Default)]
pub struct DecisionContext {
    /// The policy that decides, if one could be selected.  Of several policies it is the one that denies, otherwise the
    /// request's own.
    pub policy: Option<Arc<Policy>>,
    /// The credential that was authenticated, even when its actor is not admitted.
    pub principal: Option<Arc<Principal>>,
    /// The location of a credential that is not ours and is left to the upstream
    /// (`unknown_credentials: anonymous`, or a policy that is not enforced).
    pub passed_through: Option<Box<CredentialLocation>>,
    /// The denial of a policy that is not enforced: the request passes all the same.
    pub shadowed: Option<DenyReason>,
    /// Whether the credential of a request that passes expires so soon that the response reports it
    /// (`keys.tell_expiry`).
    pub expires_soon: bool,
    /// Details of a denial beyond its reason.  They are boxed because few Checks have them.
    pub denial: Option<Box<DenialDetail>>,
}

/// Details of a denial beyond its reason.
#[derive(Debug)]
pub enum DenialDetail {
    /// The redirect of a browser that is denied because it has no credential: the log-in page, with the return address.
    Redirect(Redirect),
    /// The credential that was denied, if it is known.  Only the log shows it.
    Rejected(RejectedCredential),
}

impl DecisionContext {
    /// The redirect of a browser that is denied because it has no credential.
    pub fn redirect(&self) -> Option<&Redirect> {
        match self.denial.as_deref()? {
            DenialDetail::Redirect(redirect) => Some(redirect),
            DenialDetail::Rejected(_) => None,
        }
    }

    /// The credential that was denied, if it is known.
    pub fn rejected(&self) -> Option<&RejectedCredential> {
        match self.denial.as_deref()? {
            DenialDetail::Redirect(_) => None,
            DenialDetail::Rejected(rejected) => Some(rejected),
        }
    }
}

/// A redirect of a browser.
#[derive(Debug)]
pub struct Redirect {
    /// The value of `location`.
    pub location: String,
}

/// The outcome of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The policy admits the request.
    Allowed,
    /// The policy does not admit the request for this reason, is not enforced, and lets it pass.
    Shadowed(DenyReason),
    /// The request is denied.
    Denied(DenyReason),
}

impl Decision {
    /// A decision.  A permit whose answer cannot be built is a denial.
    pub fn new(
        snapshot: Arc<Snapshot>,
        verdict: Result<Permit, DenyReason>,
        context: DecisionContext,
    ) -> Self {
        let checked = verdict.and_then(|permit| {
            let actor_answer = check_actor_answer(&permit, &context, &snapshot)?;
            Ok((permit, actor_answer))
        });
        let (verdict, actor_answer) = match checked {
            Ok((permit, actor_answer)) => (Ok(permit), actor_answer),
            Err(deny_reason) => (Err(deny_reason), None),
        };
        Self { snapshot, verdict, context, actor_answer }
    }

    /// A denial before the request was read.
    pub fn deny(snapshot: Arc<Snapshot>, deny_reason: DenyReason) -> Self {
        Self { snapshot, verdict: Err(deny_reason), context: DecisionContext::default(), actor_answer: None }
    }

    /// The outcome.
    pub fn outcome(&self) -> Outcome {
        match (&self.verdict, self.context.shadowed) {
            (Err(deny_reason), _) => Outcome::Denied(*deny_reason),
            (Ok(_), Some(deny_reason)) => Outcome::Shadowed(deny_reason),
            (Ok(_), None) => Outcome::Allowed,
        }
    }

    /// The cache for the encoded part of the permit's actor; `None` for a permit without an actor.
    pub fn cached_actor_answer(&self) -> Option<&CachedActorAnswer> {
        self.actor_answer.as_ref().and_then(|guard| guard.as_deref())
    }
}

/// Checks that the answer can be built.  The headers of an actor have a common limit.  Envoy treats an answer that
/// nests deeper than protobuf allows as an error, which it may let pass.
///
/// The check is done once for an actor under the same snapshot.
fn check_actor_answer(
    permit: &Permit,
    context: &DecisionContext,
    snapshot: &Snapshot,
) -> Result<Option<CachedActorAnswerGuard>, DenyReason> {
    // The metadata of a denial that is not enforced shows the actor, too.
    if context.shadowed.is_some()
        && context.principal.as_ref().is_some_and(|principal| principal.actor.nests_too_deep())
    {
        return Err(DenyReason::AnswerTooLarge);
    }
    let Some(principal) = permit.principal() else {
        return Ok(None);
    };
    let cached = principal.actor_answer.load();
    if cached.as_ref().is_some_and(|cached| cached.snapshot_version() == snapshot.version) {
        return Ok(Some(cached));
    }
    if principal.actor.nests_too_deep() || !snapshot.actor_headers.fit(&principal.actor) {
        return Err(DenyReason::AnswerTooLarge);
    }
    let checked = Some(Arc::new(CachedActorAnswer::new(snapshot.version)));
    principal.actor_answer.store(checked.clone());
    // Returns this value and does not load it again: a Check under another snapshot may store its own meanwhile.
    Ok(Some(Guard::from_inner(checked)))
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

    /// The reason as a word for logs and metrics.
    pub fn reason(self) -> &'static str {
        self.deny_reason().map_or("admitted", DenyReason::as_str)
    }
}
