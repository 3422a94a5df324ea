//! The one way through: from the attributes of a request to a decision.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::attributes::{Attributes, Http, count_comparison, trim_blanks};
use crate::config::Rules;
use crate::credential::{self, CredentialError, Known, Place, Places};
use crate::decision::{Decision, Learned, Refusal};
use crate::identity::passwords::Asker;
use crate::identity::{Identity, Sources};
use crate::policy::Permit;

/// Decides about requests by the rules in force.
pub struct Authorizer {
    rules: ArcSwap<Rules>,
    sources: Sources,
}

impl Authorizer {
    /// An authorizer that starts with these rules.
    pub fn new(rules: Rules, sources: Sources) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), sources }
    }

    /// What is asked about credentials, beyond the rules.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Who a request to ourselves comes from: its credential in one of these places, by the same code that
    /// decides Checks.  A token that nobody here knows is denied, whatever the rules leave to upstreams.
    ///
    /// # Errors
    /// The denial that a Check would meet.
    pub async fn who(&self, http: &Http<'_>, places: &Places) -> Result<Option<Arc<Known>>, Refusal> {
        let rules = self.rules.load_full();
        let Some(found) = credential::find(http, places)? else {
            return Ok(None);
        };
        match self.sources.identify(&found.credential, &rules, Asker::Admin).await? {
            Identity::Known(known) => Ok(Some(known)),
            Identity::LeftAlone => Err(Refusal::UnknownToken),
            Identity::SessionOver => Ok(None),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Puts other rules into force, all at once, and gives back those that were.  Whoever decides by these
    /// still holds them.
    pub fn replace(&self, rules: Rules) -> Arc<Rules> {
        self.rules.swap(Arc::new(rules))
    }

    /// Decides whether the request may pass, and as whom.
    ///
    /// `deadline` is how long the asker will wait (`grpc-timeout`), where it says so.
    pub async fn authorize(&self, request: &Attributes<'_>, deadline: Option<Duration>) -> Decision {
        // One snapshot for the whole request, so that a reload cannot mix two sets of rules.
        let rules = self.rules.load_full();
        let mut learned = Learned::default();
        let verdict = self.decide(request, deadline, &rules, &mut learned).await;
        Decision { rules, verdict, learned }
    }

    /// The steps run in the order in which a reader would ask them.
    /// Each hands a better-known value to the next, or denies with its reason.
    async fn decide(
        &self,
        request: &Attributes<'_>,
        deadline: Option<Duration>,
        rules: &Rules,
        learned: &mut Learned,
    ) -> Result<Permit, Refusal> {
        let http = request.http.as_ref().ok_or(Refusal::NoHttp)?;

        // A browser asks without credentials whether it may send a request with them.
        if rules.allow_cors_preflight
            && let Some(permit) = Permit::for_preflight(http)
        {
            return guard_actor_headers(http, rules, permit);
        }

        // Envoy's route was meant to name a policy, and nobody knows which.
        if request.misspelled_policy.is_some() {
            return Err(Refusal::ContextKey);
        }

        // Which policies govern this?  A path that can be read in two ways is denied here.
        let selected = rules.policies.select(request, http)?;
        learned.policy = Some(Arc::clone(selected.policy));

        // What is denied about the credential is denied under every policy.
        let recognised = self.recognise(http, deadline, rules, learned).await;

        // May they?  Only a policy can turn an actor, or the lack of one, into a permit; all of them must,
        // and the request passes by its own one's permit.
        let mut own_permit = None;
        let mut shadow: Option<(Refusal, Permit)> = None;
        for policy in selected.iter() {
            let admitted = match &recognised {
                Ok(()) => policy.admit(learned.known.clone()).map_err(Refusal::from),
                Err(refusal) => Err(*refusal),
            };
            match admitted {
                Ok(permit) => {
                    own_permit.get_or_insert(permit);
                }
                // Only a policy that is not enforced lets pass what is denied under it.
                Err(refusal) => match policy.shadow() {
                    Some(permit) if shadow.is_none() => {
                        learned.policy = Some(Arc::clone(policy));
                        shadow = Some((refusal, permit));
                    }
                    Some(_) => {}
                    None => {
                        learned.policy = Some(Arc::clone(policy));
                        return Err(refusal);
                    }
                },
            }
        }
        if let Some((refusal, permit)) = shadow {
            let permit = guard_actor_headers(http, rules, permit)?;
            learned.shadowed = Some(refusal);
            learned.left_alone = self.foreign_place(http, rules);
            return Ok(permit);
        }
        // The request's own policy stands first, and denies above where it does not admit.
        guard_actor_headers(http, rules, own_permit.ok_or(Refusal::NotAdmitted)?)
    }

    /// The steps from the credential to the actor behind it.
    async fn recognise(
        &self,
        http: &Http<'_>,
        deadline: Option<Duration>,
        rules: &Rules,
        learned: &mut Learned,
    ) -> Result<(), Refusal> {
        // What does the caller show us?
        let found = credential::find(http, &rules.places)?;

        // Who is that?  A credential that we do not know is denied here, whatever the policies say.
        if let Some(found) = &found {
            match self.sources.identify(&found.credential, rules, Asker::Check { deadline }).await? {
                Identity::Known(known) => learned.known = Some(known),
                Identity::LeftAlone => learned.left_alone = Some(found.place.clone()),
                Identity::SessionOver => {}
            }
        }
        Ok(())
    }

    /// The place whose credential is none of ours, dead or alive, and stays in a request that is let pass
    /// although it was denied: it may be the upstream's own.
    fn foreign_place(&self, http: &Http<'_>, rules: &Rules) -> Option<Place> {
        let (place, carried) = credential::look_at_first(http, &rules.places)?;
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
        (!is_ours).then(|| place.clone())
    }
}

/// A `connection` header makes Envoy drop the headers it names (RFC 9110 section 7.6.1), ours included.
fn guard_actor_headers(http: &Http<'_>, rules: &Rules, permit: Permit) -> Result<Permit, Refusal> {
    let mut named = http.headers.all("connection").flat_map(|value| value.split(|&byte| byte == b','));
    let names_actor_header = named.any(|name| {
        count_comparison();
        let name = trim_blanks(name);
        rules.actor_headers.folded_onto_by(name).is_some()
    });
    if names_actor_header {
        return Err(Refusal::ConnectionNamesActorHeader);
    }
    Ok(permit)
}
