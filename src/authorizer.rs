//! The one way through: from the attributes of a request to a decision.

use std::sync::Arc;
use std::time::Duration;

use crate::attributes::{Attributes, Http, count_comparison, trim_blanks};
use crate::credential::{self, CredentialError, CredentialLocation, CredentialLocations, Principal};
use crate::decision::{Decision, DecisionContext};
use crate::deny_reason::DenyReason;
use crate::identity::{Caller, Identity, Sources};
use crate::policy::Permit;
use crate::snapshot::{Snapshot, SnapshotStore};

/// Decides about requests by the rules in force.
pub struct Authorizer {
    snapshots: SnapshotStore,
    sources: Sources,
}

impl Authorizer {
    /// An authorizer that decides by the current snapshot of this store.
    pub fn new(snapshots: SnapshotStore, sources: Sources) -> Self {
        Self { snapshots, sources }
    }

    /// What is asked about credentials, beyond the rules.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Who a request to ourselves comes from: its credential in one of these locations, by the same code that
    /// decides Checks.  A token that nobody here knows is denied, whatever the rules leave to upstreams.
    ///
    /// # Errors
    /// The denial that a Check would meet.
    pub async fn who(
        &self,
        http: &Http<'_>,
        locations: &CredentialLocations,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let rules = self.snapshots.current();
        let Some(found) = credential::find(http, locations)? else {
            return Ok(None);
        };
        match self.sources.identify(&found.credential, &rules, Caller::Admin).await? {
            Identity::Authenticated(principal) => Ok(Some(principal)),
            Identity::NotOurs => Err(DenyReason::UnknownToken),
            Identity::SessionOver => Ok(None),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// Decides whether the request may pass, and as whom.
    ///
    /// `deadline` is how long the asker will wait (`grpc-timeout`), where it says so.
    pub async fn authorize(&self, request: &Attributes<'_>, deadline: Option<Duration>) -> Decision {
        // One snapshot for the whole request, so that a reload cannot mix two sets of rules.
        let rules = self.snapshots.current();
        let mut context = DecisionContext::default();
        let verdict = self.decide(request, deadline, &rules, &mut context).await;
        Decision::new(rules, verdict, context)
    }

    /// The steps run in the order in which a reader would ask them.
    /// Each hands a better-known value to the next, or denies with its reason.
    async fn decide(
        &self,
        request: &Attributes<'_>,
        deadline: Option<Duration>,
        rules: &Snapshot,
        context: &mut DecisionContext,
    ) -> Result<Permit, DenyReason> {
        let http = request.http.as_ref().ok_or(DenyReason::NoHttp)?;

        // A browser asks without credentials whether it may send a request with them.
        if rules.allow_cors_preflight
            && let Some(permit) = Permit::for_preflight(http)
        {
            return guard_actor_headers(http, rules, permit);
        }

        // Envoy's route was meant to name a policy, and nobody knows which.
        if request.misspelled_policy.is_some() {
            return Err(DenyReason::ContextKey);
        }

        // Which policies govern this?  A path that can be read in two ways is denied here.
        let selected = rules.policies.select(request, http)?;
        context.policy = Some(Arc::clone(selected.policy));

        // What is denied about the credential is denied under every policy.
        let recognised = self.recognise(http, deadline, rules, context).await;

        // May they?  Only a policy can turn an actor, or the lack of one, into a permit; all of them must,
        // and the request passes by its own one's permit.
        let mut own_permit = None;
        let mut shadow: Option<(DenyReason, Permit)> = None;
        for policy in selected.iter() {
            let admitted = match &recognised {
                Ok(()) => policy.admit(context.principal.clone()).map_err(DenyReason::from),
                Err(deny_reason) => Err(*deny_reason),
            };
            match admitted {
                Ok(permit) => {
                    own_permit.get_or_insert(permit);
                }
                // Only a policy that is not enforced lets pass what is denied under it.
                Err(deny_reason) => match policy.shadow() {
                    Some(permit) if shadow.is_none() => {
                        context.policy = Some(Arc::clone(policy));
                        shadow = Some((deny_reason, permit));
                    }
                    Some(_) => {}
                    None => {
                        context.policy = Some(Arc::clone(policy));
                        return Err(deny_reason);
                    }
                },
            }
        }
        if let Some((deny_reason, permit)) = shadow {
            let permit = guard_actor_headers(http, rules, permit)?;
            context.shadowed = Some(deny_reason);
            context.passed_through = self.foreign_location(http, rules);
            return Ok(permit);
        }
        // The request's own policy stands first, and denies above where it does not admit.
        guard_actor_headers(http, rules, own_permit.ok_or(DenyReason::NotAdmitted)?)
    }

    /// The steps from the credential to the actor behind it.
    async fn recognise(
        &self,
        http: &Http<'_>,
        deadline: Option<Duration>,
        rules: &Snapshot,
        context: &mut DecisionContext,
    ) -> Result<(), DenyReason> {
        // What does the caller show us?
        let found = credential::find(http, &rules.locations)?;

        // Who is that?  A credential that we do not know is denied here, whatever the policies say.
        if let Some(found) = &found {
            match self.sources.identify(&found.credential, rules, Caller::Check { deadline }).await? {
                Identity::Authenticated(principal) => context.principal = Some(principal),
                Identity::NotOurs => context.passed_through = Some(found.location.clone()),
                Identity::SessionOver => {}
            }
        }
        Ok(())
    }

    /// The location whose credential is none of ours, dead or alive, and stays in a request that is let pass
    /// although it was denied: it may be the upstream's own.
    fn foreign_location(&self, http: &Http<'_>, rules: &Snapshot) -> Option<CredentialLocation> {
        let (location, carried) = credential::look_at_first(http, &rules.locations)?;
        let is_ours = match carried {
            Ok(credential) => self.sources.recognises(&credential, rules),
            // Either of the two may be ours.
            Err(CredentialError::Duplicate) => true,
            Err(
                CredentialError::MalformedToken
                | CredentialError::MalformedBasic
                | CredentialError::CrossSite,
            ) => false,
        };
        (!is_ours).then(|| location.clone())
    }
}

/// A `connection` header makes Envoy drop the headers it names (RFC 9110 section 7.6.1), ours included.
fn guard_actor_headers(http: &Http<'_>, rules: &Snapshot, permit: Permit) -> Result<Permit, DenyReason> {
    let mut named = http.headers.all("connection").flat_map(|value| value.split(|&byte| byte == b','));
    let names_actor_header = named.any(|name| {
        count_comparison();
        let name = trim_blanks(name);
        rules.actor_headers.folded_onto_by(name).is_some()
    });
    if names_actor_header {
        return Err(DenyReason::ConnectionNamesActorHeader);
    }
    Ok(permit)
}
