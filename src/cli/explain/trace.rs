//! What the engine found at each step of one decision.

use crate::authorizer::Trace;
use crate::credential::{Credential, CredentialError, Extraction, ExtractionTrace};
use crate::deny_reason::DenyReason;
use crate::identity::Identity;
use crate::policy::{Mismatch, NotAdmitted, Permit, Policy, Selected, SelectionTrace};
use crate::token::TokenDigest;

/// A record of each step.  What was not reached is empty.
#[derive(Default)]
pub(super) struct DecisionTrace {
    /// Whether it is a CORS preflight that needs no policy.
    pub preflight: bool,
    /// The policy that Envoy's route names.
    pub named: Option<String>,
    /// The host and the path as routes compare them.
    pub compared: Option<(String, String)>,
    /// What each route that was compared does not match.
    pub routes: Vec<Option<Mismatch>>,
    /// The policies that govern the request, its own first; none when the request was denied before.
    pub selected: Vec<String>,
    /// What each location carries that was read.
    pub locations: Vec<&'static str>,
    /// The credential that decides.
    pub presented: Option<Presented>,
    /// Why the credential does not stand for an actor.
    pub denied: Option<DenyReason>,
    /// The policies that admitted, or did not.
    pub admissions: Vec<String>,
}

/// A credential, less its secret.
pub(super) enum Presented {
    Token { digest: TokenDigest, issued_format: bool },
    Password { user: String },
    Session,
}

impl SelectionTrace for &mut DecisionTrace {
    fn named(&mut self, policy: &Policy) {
        self.named = Some(policy.name().to_string());
    }

    fn compared(&mut self, host: &str, path: &str) {
        self.compared = Some((host.to_owned(), path.to_owned()));
    }

    fn route(&mut self, mismatch: Option<Mismatch>) {
        self.routes.push(mismatch);
    }
}

impl ExtractionTrace for &mut DecisionTrace {
    fn extracted(&mut self, extraction: &Result<Extraction, CredentialError>) {
        self.locations.push(match extraction {
            Ok(Extraction::Nothing) => "nothing",
            Ok(Extraction::OtherScheme) => "not_ours",
            Ok(Extraction::Credential(Credential::Token { .. })) => "token",
            Ok(Extraction::Credential(Credential::Password { .. })) => "password",
            Ok(Extraction::Credential(Credential::Sessions(_))) => "session",
            Err(error) => DenyReason::from(*error).as_str(),
        });
        self.denied = extraction.as_ref().err().map(|error| DenyReason::from(*error));
    }
}

impl Trace for &mut DecisionTrace {
    fn preflight(&mut self) {
        self.preflight = true;
    }

    fn selected(&mut self, selected: &Selected<'_>) {
        self.selected = selected.iter().map(|policy| policy.name().to_string()).collect();
    }

    fn presented(&mut self, credential: &Credential) {
        self.presented = Some(match credential {
            Credential::Token { digest, issued_format } => {
                Presented::Token { digest: *digest, issued_format: *issued_format }
            }
            Credential::Password { user, .. } => Presented::Password { user: user.clone() },
            Credential::Sessions(_) => Presented::Session,
        });
    }

    fn identified(&mut self, identity: &Result<Identity, DenyReason>) {
        self.denied = identity.as_ref().err().copied();
    }

    fn admission(&mut self, policy: &Policy, _admission: &Result<Permit, NotAdmitted>) {
        self.admissions.push(policy.name().to_string());
    }
}
