//! The engine: from the attributes of a request to a decision.
//!
//! [`Authorizer::authorize`] selects the policies, extracts the credential, authenticates it, and lets the policies
//! admit.  A [`Trace`] records what each step found: `explain` shows that record, so that it cannot differ from
//! what a Check does.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use crate::attributes::{Attributes, Http, count_comparison, trim_blanks};
use crate::credential::{
    self, Credential, CredentialError, CredentialLocation, CredentialLocations, ExtractionTrace, Principal,
};
use crate::decision::{Decision, DecisionContext, DenialDetail, Redirect};
use crate::deny_reason::DenyReason;
use crate::identity::{Identification, Identity, Purpose, Sources};
use crate::policy::{NotAdmitted, Permit, Policy, Selected, SelectionTrace};
use crate::snapshot::{Snapshot, SnapshotStore};

/// Records what each step finds.  `()` records nothing and costs nothing.
pub trait Trace: SelectionTrace + ExtractionTrace {
    /// The request is a CORS preflight, which needs neither policy nor credential.
    fn preflight(&mut self) {}

    /// These policies govern the request.
    fn selected(&mut self, _selected: &Selected<'_>) {}

    /// The request carries this credential.
    fn presented(&mut self, _credential: &Credential) {}

    /// The credential was looked up or verified.
    fn identified(&mut self, _identity: &Result<Identity, DenyReason>) {}

    /// Whether this policy admits the actor, or the lack of one.
    fn admission(&mut self, _policy: &Policy, _admission: &Result<Permit, NotAdmitted>) {}
}

impl Trace for () {}

/// Decides about requests by the current snapshot.
pub struct Authorizer {
    snapshots: SnapshotStore,
    sources: Sources,
}

impl Authorizer {
    /// An authorizer that decides by the current snapshot of this store.
    pub fn new(snapshots: SnapshotStore, sources: Sources) -> Self {
        sources.people.follow(snapshots.clone());
        Self { snapshots, sources }
    }

    /// Where credentials are looked up and verified, beyond the snapshot.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The principal of a request to this server, with its credential in one of these locations.  The code is the same
    /// as for Checks, but an unknown token is always denied, also with `unknown_credentials: anonymous`.
    ///
    /// # Errors
    /// The denial that a Check would get.
    pub async fn authenticate_at(
        &self,
        http: &Http<'_>,
        locations: &CredentialLocations,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        self.authenticate_for(Purpose::Admin, http, locations).await
    }

    /// The same for another purpose: sessions of an application are valid for Checks.
    ///
    /// # Errors
    /// As [`authenticate_at`](Self::authenticate_at).
    pub async fn authenticate_for(
        &self,
        purpose: Purpose,
        http: &Http<'_>,
        locations: &CredentialLocations,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let snapshot = self.snapshots.current();
        let Some(presented) = credential::extract(http, locations, &mut ())? else {
            return Ok(None);
        };
        let identification = self.sources.identify(&presented.credential, &http.client, &snapshot, purpose);
        let identity = match identification {
            Identification::Known(identity) => identity,
            Identification::Waiting(wait) => wait.await,
        };
        match identity? {
            Identity::Authenticated(principal) => Ok(Some(principal)),
            Identity::Unrecognized => Err(DenyReason::UnknownToken),
            Identity::NoSession => Ok(None),
        }
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// Decides whether the request may pass, and as whom.
    ///
    /// `deadline` is how long the client waits for the answer (`grpc-timeout`), where it says so.
    pub fn authorize(
        &self,
        request: &Attributes<'_>,
        deadline: Option<Duration>,
    ) -> impl Future<Output = Decision> {
        self.authorize_traced(request, deadline, ())
    }

    /// The same, with a record of each step.
    pub async fn authorize_traced(
        &self,
        request: &Attributes<'_>,
        deadline: Option<Duration>,
        mut trace: impl Trace,
    ) -> Decision {
        // One snapshot for the whole request, so that a reload cannot mix two sets of rules.
        let snapshot = self.snapshots.current();
        let mut context = DecisionContext::default();
        let verdict = self.decide(request, deadline, &snapshot, &mut context, &mut trace).await;
        if let (Err(DenyReason::NoCredential), Some(redirect), Some(http)) =
            (&verdict, &snapshot.log_in_redirect, &request.http)
        {
            let location = redirect.location(http, &snapshot.locations);
            context.denial = location.map(|location| Box::new(DenialDetail::Redirect(Redirect { location })));
        }
        if let Some(within) = snapshot.keys.as_ref().and_then(|settings| settings.tell_expiry)
            && let Ok(permit) = &verdict
        {
            context.expires_soon = self.expires_soon(permit, within);
        }
        Decision::new(snapshot, verdict, context)
    }

    /// Whether the credential of the permit's actor expires within this time.
    fn expires_soon(&self, permit: &Permit, within: Duration) -> bool {
        let expires_at = permit.principal().and_then(|principal| principal.expires_at);
        let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
        expires_at.is_some_and(|expires_at| expires_at.duration_since(self.sources.clock.now()) <= within)
    }

    /// The steps, in the order of their dependencies.  Each step denies with its reason or passes its result on.
    async fn decide(
        &self,
        request: &Attributes<'_>,
        deadline: Option<Duration>,
        snapshot: &Arc<Snapshot>,
        context: &mut DecisionContext,
        trace: &mut impl Trace,
    ) -> Result<Permit, DenyReason> {
        let http = request.http.as_ref().ok_or(DenyReason::NoHttp)?;

        // A browser sends a preflight without credentials before a request with credentials.
        if snapshot.allow_cors_preflight
            && let Some(permit) = Permit::for_preflight(http)
        {
            trace.preflight();
            return guard_actor_headers(http, snapshot, permit);
        }

        // Envoy's route was meant to name a policy, and does not say which.
        if request.misspelled_policy.is_some() {
            return Err(DenyReason::ContextKey);
        }

        // Selects the policies.  A path that can be read in two ways is denied here.
        let selected = snapshot.policies.select(request, http, trace)?;
        trace.selected(&selected);
        context.policy = Some(Arc::clone(selected.policy));

        // An error here is a denial of every selected policy.  A policy that is not enforced still lets the request
        // pass.
        let authenticated = self.authenticate(http, deadline, snapshot, context, trace).await;

        // Only a policy can turn an actor, or the lack of one, into a permit.  All selected policies must do so.  The
        // request passes with the permit of its own policy, which is the first.
        let mut own_permit = None;
        let mut shadow: Option<(DenyReason, Permit)> = None;
        for policy in selected.iter() {
            let admitted = match &authenticated {
                Ok(()) => {
                    let admission = policy.admit(context.principal.clone());
                    trace.admission(policy, &admission);
                    admission.map_err(DenyReason::from)
                }
                Err(deny_reason) => Err(*deny_reason),
            };
            match admitted {
                Ok(permit) => {
                    own_permit.get_or_insert(permit);
                }
                // Only a policy that is not enforced lets a denied request pass.
                Err(deny_reason) => match policy.shadow_permit() {
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
            let permit = guard_actor_headers(http, snapshot, permit)?;
            context.shadowed = Some(deny_reason);
            context.passed_through = self.foreign_location(http, snapshot).map(Box::new);
            return Ok(permit);
        }
        // The request's own policy comes first; where it does not admit, the denial is above.
        guard_actor_headers(http, snapshot, own_permit.ok_or(DenyReason::NotAdmitted)?)
    }

    /// Extracts the credential, if there is one, and authenticates it.
    async fn authenticate(
        &self,
        http: &Http<'_>,
        deadline: Option<Duration>,
        snapshot: &Arc<Snapshot>,
        context: &mut DecisionContext,
        trace: &mut impl Trace,
    ) -> Result<(), DenyReason> {
        let Some(presented) = credential::extract(http, &snapshot.locations, trace)? else {
            return Ok(());
        };
        trace.presented(&presented.credential);

        // An invalid credential is an error here, unless the rules leave unknown credentials to the upstream.
        let purpose = Purpose::Check { deadline };
        let identity = match self.sources.identify(&presented.credential, &http.client, snapshot, purpose) {
            Identification::Known(identity) => identity,
            Identification::Waiting(wait) => wait.await,
        };
        trace.identified(&identity);
        if let Err(reason) = &identity {
            let rejected = self.sources.rejected(&presented.credential, *reason, snapshot);
            context.denial = rejected.map(|rejected| Box::new(DenialDetail::Rejected(rejected)));
        }
        match identity? {
            Identity::Authenticated(principal) => context.principal = Some(principal),
            Identity::Unrecognized => context.passed_through = Some(Box::new(presented.location.clone())),
            Identity::NoSession => {}
        }
        Ok(())
    }

    /// The location of a credential that is not ours, and stays in a request that passes although it is denied: it
    /// may be the upstream's own.
    fn foreign_location(&self, http: &Http<'_>, snapshot: &Snapshot) -> Option<CredentialLocation> {
        let (location, carried) = credential::extract_unchecked(http, &snapshot.locations)?;
        let is_ours = match carried {
            Ok(credential) => self.sources.recognises(&credential, snapshot),
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
fn guard_actor_headers(http: &Http<'_>, snapshot: &Snapshot, permit: Permit) -> Result<Permit, DenyReason> {
    let mut named = http.headers.all("connection").flat_map(|value| value.split(|&byte| byte == b','));
    let names_actor_header = named.any(|name| {
        count_comparison();
        let name = trim_blanks(name);
        snapshot.actor_headers.find_folded(name).is_some()
    });
    if names_actor_header {
        return Err(DenyReason::ConnectionNamesActorHeader);
    }
    Ok(permit)
}
