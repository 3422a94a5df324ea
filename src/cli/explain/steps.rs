//! From a decision and the engine's record of its steps to an explanation.

use serde_json::{Value, json};

use super::explanation::{
    ComparedRoute, ExplainedAnswer, ExplainedCredential, ExplainedRequest, Explanation, KeyPosition,
    LocationContent, SelectedBy, Selection, Step,
};
use super::log_line::STAND_IN;
use super::trace::{DecisionTrace, Presented};
use crate::attributes::{Attributes, Http};
use crate::config::Positions;
use crate::credential::{CredentialLocation, Kind, Principal};
use crate::decision::{Decision, Outcome};
use crate::deny_reason::DenyReason;
use crate::ext_authz::wire::check_response::HttpResponse;
use crate::ext_authz::wire::{CheckResponse, HeaderValueOption};
use crate::identity::RejectedCredential;
use crate::keys::WhyDenied;
use crate::policy::{Allow, Mismatch, SelectError};
use crate::snapshot::Snapshot;

/// The request that is explained.
pub(super) struct ExplainedDecision<'e> {
    pub file: String,
    pub positions: &'e Positions,
    pub request: &'e Attributes<'e>,
    pub http: &'e Http<'e>,
    pub decision: &'e Decision,
    /// The trace of the engine.
    pub trace: &'e DecisionTrace,
    pub answer: &'e CheckResponse,
    pub keys: KeyStoreUse,
    pub directory: DirectoryUse,
}

/// Whether the key store was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyStoreUse {
    /// There is none.
    None,
    /// There is one, and it was read.
    Read,
    /// There is one, and it was not read.
    NotRead,
}

/// Whether the directory was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirectoryUse {
    /// There is none.
    None,
    /// There is one, and Checks do not ask it (`at_check`).
    NotAtCheck {
        /// Whether the directory can be asked about a person without the password.
        can_be_asked: bool,
    },
    /// It was asked about the people of these requests.
    Asked,
    /// It was not asked.
    NotAsked,
}

/// The position of a key.
pub(super) fn key_position(positions: &Positions, key: String) -> KeyPosition {
    let position = positions.at(&key);
    KeyPosition {
        line: position.map(|position| position.line),
        column: position.map(|position| position.column),
        key,
    }
}

impl ExplainedDecision<'_> {
    pub(super) fn explanation(&self) -> Explanation {
        let context = &self.decision.context;
        let principal = context.principal.as_deref();
        let (decision, reason, passes_as) = self.verdict();
        Explanation {
            configuration: self.file.clone(),
            request: self.request_shown(),
            selection: self.selection(),
            locations: self.locations(),
            identity: self.identity(),
            admission: self.admission(),
            decision,
            reason,
            policy: context.policy.as_ref().map(|policy| policy.name().to_string()),
            credential: principal.map(|principal| self.credential(principal)),
            actor: principal.map(|principal| json!(principal.actor.members())),
            allow: context.policy.as_ref().map(|policy| match policy.allow() {
                Some(allow) => allow.to_json(),
                None => json!("any actor"),
            }),
            passes_as,
            redirect: self.redirect(),
            answer: answer_shown(self.answer),
            notes: self.notes(),
            logged: None,
        }
    }

    /// The words for the verdict.
    fn verdict(&self) -> (&'static str, &'static str, Option<Value>) {
        let outcome = self.decision.outcome();
        let passes_as = self.decision.verdict.as_ref().ok().map(|permit| match permit.principal() {
            Some(principal) => json!(principal.actor.members()),
            None => json!("anonymous"),
        });
        (outcome.as_str(), outcome.reason(), passes_as)
    }

    fn snapshot(&self) -> &Snapshot {
        &self.decision.snapshot
    }

    fn request_shown(&self) -> ExplainedRequest {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let names = self.http.headers.iter().map(|header| text(header.name));
        ExplainedRequest {
            method: text(self.http.method),
            host: text(self.http.host),
            path: text(self.http.path_without_query()),
            headers: names.filter(|name| name != STAND_IN).collect(),
            policy: self.request.policy.map(text),
        }
    }

    fn at(&self, key: impl Into<String>) -> KeyPosition {
        key_position(self.positions, key.into())
    }

    fn selection(&self) -> Selection {
        let nothing = Selection { by: SelectedBy::Nothing, host: None, path: None, routes: vec![], at: None };
        if self.trace.preflight {
            let at = Some(self.at("allow_cors_preflight"));
            return Selection { by: SelectedBy::Preflight, at, ..nothing };
        }
        if let Some(named) = &self.trace.named {
            let at = Some(self.at(format!("policies.{named}")));
            return Selection { by: SelectedBy::ContextExtensions, at, ..nothing };
        }
        let Some((host, path)) = &self.trace.compared else {
            return nothing;
        };
        let routes = self.trace.routes.iter().enumerate().map(|(index, mismatch)| ComparedRoute {
            at: self.at(format!("routes[{index}]")),
            matches: mismatch.is_none(),
            differs: mismatch.map(differs),
        });
        let by = match self.trace.routes.last() {
            Some(None) => SelectedBy::Route,
            Some(Some(_)) | None => SelectedBy::Default,
        };
        let shown = |text: &String| (!text.is_empty()).then(|| text.clone());
        let at = self.trace.selected.first().map(|policy| self.policy_at(policy));
        Selection { by, host: shown(host), path: shown(path), routes: routes.collect(), at }
    }

    fn policy_at(&self, name: &str) -> KeyPosition {
        let number = name.strip_prefix("route-").and_then(|number| number.parse::<usize>().ok());
        match number.and_then(|number| number.checked_sub(1)) {
            Some(index) => self.at(format!("routes[{index}]")),
            None if name == "default" => self.at("default"),
            None => self.at(format!("policies.{name}")),
        }
    }

    fn locations(&self) -> Vec<LocationContent> {
        let mut read = self.trace.locations.iter();
        let order = self.snapshot().locations.order().iter();
        let read = order.map(|location| (location, *read.next().unwrap_or(&"not_asked")));
        // The stand-in is no location of the configuration, and comes before all of them.
        let read = read.filter(|(location, _)| !is_stand_in(location)).enumerate();
        read.map(|(index, (location, carries))| {
            let written = self.at(format!("credentials[{index}]"));
            let at = if written.line.is_some() { written } else { self.at("credentials") };
            LocationContent { location: location.to_string(), carries, at }
        })
        .collect()
    }

    fn credential(&self, principal: &Principal) -> ExplainedCredential {
        let policies = principal.policies.as_ref();
        ExplainedCredential {
            kind: principal.kind.as_str(),
            name: principal.name.to_string(),
            id: principal.id,
            policies: policies.map(|names| names.iter().map(ToString::to_string).collect()),
            expires: principal.expires_at.map(|expires_at| expires_at.to_string()),
            at: self.principal_at(principal),
        }
    }

    fn principal_at(&self, principal: &Principal) -> Option<KeyPosition> {
        let key = match principal.kind {
            Kind::Token => self.positions.token(&principal.name),
            Kind::User | Kind::Session => self.positions.user(&principal.name),
            Kind::Key => None,
        };
        key.map(|key| self.at(key))
    }

    fn identity(&self) -> Step {
        let step = |says: String, at| Step { says, at };
        if let Some(principal) = self.decision.context.principal.as_deref() {
            return step(principal_shown(principal), self.principal_at(principal));
        }
        if self.trace.selected.is_empty() {
            return step("the request was denied before a credential was read".to_owned(), None);
        }
        match &self.trace.presented {
            None if self.trace.denied.is_some() => {
                step("the content of the location is denied before any lookup".to_owned(), None)
            }
            None => {
                step("anonymous: there is no credential in the locations of `credentials`".to_owned(), None)
            }
            Some(Presented::Token { digest, issued_format }) => {
                if let Some(principal) = self.snapshot().tokens.get(digest) {
                    return step(principal_shown(principal), self.principal_at(principal));
                }
                self.unknown_token(*issued_format)
            }
            Some(Presented::Password { user }) => match self.snapshot().users.get(user) {
                Some(user) => step(
                    format!("{}, with a wrong password", principal_shown(&user.principal)),
                    self.principal_at(&user.principal),
                ),
                None => step(self.unknown_user().to_owned(), None),
            },
            Some(Presented::Session) => step(
                match self.keys {
                    KeyStoreUse::NotRead => {
                        "a session: sessions are in the key store, which was not read".to_owned()
                    }
                    KeyStoreUse::Read | KeyStoreUse::None => {
                        "anonymous: a session that has ended or never existed".to_owned()
                    }
                },
                None,
            ),
        }
    }

    /// A user with a password who is not in the configuration.
    fn unknown_user(&self) -> &'static str {
        match (self.directory, self.trace.denied) {
            (DirectoryUse::None, _) => "a user who is not in the configuration",
            (DirectoryUse::NotAtCheck { .. }, _) => {
                "a user who is not in the configuration; the directory was not asked, since with `ldap.at_check: \
                 false` no Check asks it about a password"
            }
            (DirectoryUse::NotAsked, _) => {
                "a user who is not in the configuration; the directory was not asked"
            }
            (DirectoryUse::Asked, Some(DenyReason::DirectoryUnavailable | DenyReason::DirectoryPending)) => {
                "a user who is not in the configuration; the directory did not answer"
            }
            (DirectoryUse::Asked, _) => {
                "a user who is not in the configuration; the directory does not know the user with this password, or \
                 gives no role"
            }
        }
    }

    /// The key that was denied, with its name and id where they are known.
    fn rejected_key(&self) -> String {
        match self.decision.context.rejected() {
            Some(RejectedCredential { name, id: Some(id), .. }) => {
                format!("an API key (`{}`, id {id})", name.escape_debug())
            }
            Some(RejectedCredential { id: None, .. }) | None => "an API key".to_owned(),
        }
    }

    /// The cause that disables the denied key.
    fn why_disabled(&self) -> &'static str {
        match self.decision.context.rejected().and_then(|rejected| rejected.why_denied) {
            Some(WhyDenied::Disabled) => "that is disabled",
            Some(WhyDenied::AccountDisabled) => "whose service account is disabled",
            Some(WhyDenied::AccountGone) => "whose service account is gone",
            Some(WhyDenied::OwnerGone) => "whose owner is gone, disabled, or was not seen for too long",
            Some(WhyDenied::HeldBack) | None => {
                "that is disabled, or whose service account is, or whose owner is gone"
            }
        }
    }

    fn unknown_token(&self, issued_format: bool) -> Step {
        let form = if issued_format { ", in the format of issued keys with a correct checksum" } else { "" };
        let token = format!("a token that the configuration does not have{form}");
        let which = self.rejected_key();
        let says = match (self.trace.denied, self.keys) {
            (Some(DenyReason::ExpiredToken), _) => format!("{which} that has expired, or was replaced"),
            (Some(DenyReason::RevokedToken), _) => format!("{which} that was revoked"),
            (Some(DenyReason::DisabledKey), _) => format!("{which} {}", self.why_disabled()),
            (_, KeyStoreUse::NotRead) => format!("{token}; the key store was not read"),
            (_, KeyStoreUse::Read) => format!("{token}, and neither has the key store"),
            (_, KeyStoreUse::None) => token,
        };
        let context = &self.decision.context;
        let passed_through = context.passed_through.is_some() && context.shadowed.is_none();
        let says =
            if passed_through { format!("anonymous: {says}; it is left to the upstream") } else { says };
        Step { says, at: passed_through.then(|| self.at("unknown_credentials")) }
    }

    fn admission(&self) -> Option<Step> {
        let policy = self.decision.context.policy.as_deref()?;
        if !self.trace.admissions.iter().any(|name| **name == **policy.name()) {
            return None;
        }
        let principal = self.decision.context.principal.as_deref();
        let restricted = principal.is_some_and(|principal| !principal.counts_under(policy.name()));
        let actor = principal.filter(|_| !restricted).map(|principal| &principal.actor);
        let (says, member) = match (policy.allow(), actor) {
            (None, Some(_)) => ("without an allow block any actor is admitted".to_owned(), None),
            (None, None) => ("without an allow block an actor is needed".to_owned(), None),
            (Some(Allow::Everyone), _) => ("the allow block is true: everyone is admitted".to_owned(), None),
            (Some(Allow::NoOne), _) => ("the allow block is false: no one is admitted".to_owned(), None),
            (Some(allow @ Allow::Members { .. }), Some(actor)) => match allow.admitting_member(actor) {
                Some(member) => (format!("the allow block's `{member}` admits the actor"), Some(member)),
                None => ("no member of the allow block is the actor's".to_owned(), None),
            },
            (Some(allow @ Allow::Members { .. }), None) if allow.admits_anonymous() => (
                "the allow block's `unauthenticated` admits the anonymous".to_owned(),
                Some("unauthenticated"),
            ),
            (Some(Allow::Members { .. }), None) => ("the allow block needs an actor".to_owned(), None),
        };
        let says = match restricted {
            true => {
                format!("the credential is valid only under its own `policies`, here it is anonymous: {says}")
            }
            false => says,
        };
        let at = self.policy_at(policy.name());
        let allow = self.at(format!("{}.allow", at.key));
        let member = member.map(|member| self.at(format!("{}.{member}", allow.key)));
        let written = |at: &KeyPosition| at.line.is_some();
        Some(Step { says, at: Some(member.filter(written).or(Some(allow).filter(written)).unwrap_or(at)) })
    }

    /// The redirect of a browser without a credential.
    fn redirect(&self) -> Option<Step> {
        let snapshot = self.snapshot();
        let redirect = snapshot.log_in_redirect.as_ref()?;
        if self.decision.outcome() != Outcome::Denied(DenyReason::NoCredential) {
            return None;
        }
        let says = match redirect.try_location(self.http, &snapshot.locations) {
            Ok(_) => "a browser that navigates: it is sent to the log-in page".to_owned(),
            Err(reason) => format!("not sent to the log-in page: {reason}"),
        };
        let keys = ["admin.login_redirect", "session.log_in_url"];
        let written = keys.into_iter().map(|key| self.at(key)).find(|at| at.line.is_some());
        Some(Step { says, at: written })
    }

    /// The facts about a user that are not known because the directory was not asked.
    fn directory_note(&self) -> Option<String> {
        let note = match self.directory {
            DirectoryUse::None | DirectoryUse::Asked => return None,
            DirectoryUse::NotAsked => {
                "a running server may decide otherwise: it asks the directory.  --connect asks it here"
            }
            DirectoryUse::NotAtCheck { can_be_asked: true } => {
                "a running server decides the same: people of the directory log in at `admin`, and pass by their session.  \
                 --user NAME --connect without a request looks up the person in the directory"
            }
            DirectoryUse::NotAtCheck { can_be_asked: false } => {
                "a running server decides the same: people of the directory log in at `admin`, and pass by their session"
            }
        };
        Some(note.to_owned())
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(named) = self.request.policy
            && self.decision.outcome().deny_reason()
                == Some(DenyReason::Selection(SelectError::UnknownPolicy))
        {
            let named = String::from_utf8_lossy(named);
            let names = self.snapshot().policies.names();
            let known = match &names[..] {
                [] => "there is no section `policies`, or it is empty".to_owned(),
                names => format!("those of `policies` are {}", names.join(", ")),
            };
            notes.push(format!(
                "Envoy's route names the policy {named:?}, which the configuration does not have: {known}; the route cannot \
                 name the policies of `routes` and `default`"
            ));
        }
        notes.extend(self.trace.selected.iter().skip(1).map(|policy| {
            let at = self.policy_at(policy).key;
            format!(
                "policy `{policy}` ({at}) must admit as well: another spelling of the path, or the target of COPY \
                 or MOVE, is its own"
            )
        }));
        // The stand-in for a logged credential is no key.
        let is_stand_in = self.http.headers.has(STAND_IN);
        let may_be_key = match &self.trace.presented {
            Some(Presented::Token { digest, .. }) => self.snapshot().tokens.get(digest).is_none(),
            Some(Presented::Session) => true,
            Some(Presented::Password { .. }) | None => false,
        };
        let is_unknown_user = match &self.trace.presented {
            Some(Presented::Password { user }) => self.snapshot().users.get(user).is_none(),
            Some(Presented::Token { .. } | Presented::Session) | None => false,
        };
        if is_unknown_user {
            notes.extend(self.directory_note());
        }
        if self.keys == KeyStoreUse::NotRead && may_be_key && !is_stand_in {
            notes.push(
                "a running server may decide otherwise: it knows the keys and the sessions of the store. \
                 --keys reads the store, without changing anything there"
                    .to_owned(),
            );
        }
        notes
    }
}

fn differs(mismatch: Mismatch) -> &'static str {
    match mismatch {
        Mismatch::Host => "host",
        Mismatch::Path => "path",
        Mismatch::Method => "method",
    }
}

fn is_stand_in(location: &CredentialLocation) -> bool {
    matches!(location, CredentialLocation::Header { name } if **name == *STAND_IN)
}

/// Such as "token `reporting`, dead since …".
fn principal_shown(principal: &Principal) -> String {
    let kind = match principal.kind {
        Kind::Token => "token",
        Kind::User => "user",
        Kind::Key => "API key",
        Kind::Session => "session of user",
    };
    let expiry = match principal.expires_at {
        None => String::new(),
        Some(expires_at) if principal.is_expired(jiff::Timestamp::now()) => {
            format!(", dead since {expires_at}")
        }
        Some(expires_at) => format!(", good until {expires_at}"),
    };
    format!("{kind} `{}`{expiry}", principal.name)
}

fn answer_shown(answer: &CheckResponse) -> ExplainedAnswer {
    let code = answer.status.as_ref().map_or(0, |status| status.code);
    let metadata = answer.dynamic_metadata.as_ref().map_or(Value::Null, metadata);
    let mut shown = ExplainedAnswer {
        code,
        status: None,
        headers: Vec::new(),
        body: None,
        set_headers: Vec::new(),
        remove_headers: Vec::new(),
        remove_query_parameters: Vec::new(),
        set_response_headers: Vec::new(),
        metadata,
    };
    match &answer.http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            shown.set_headers = headers_shown(&ok.headers);
            shown.remove_headers = ok.headers_to_remove.clone();
            shown.remove_headers.retain(|name| name != STAND_IN);
            shown.set_response_headers = headers_shown(&ok.response_headers_to_add);
            shown.remove_query_parameters = ok.query_parameters_to_remove.clone();
        }
        Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) => {
            shown.status = denied.status.as_ref().map(|status| status.code);
            shown.headers = headers_shown(&denied.headers);
            shown.body = Some(denied.body.clone());
        }
        None => {}
    }
    shown
}

fn headers_shown(headers: &[HeaderValueOption]) -> Vec<String> {
    let headers = headers.iter().filter_map(|option| option.header.as_ref());
    headers.map(|header| header_shown(&header.key, &header.value)).collect()
}

/// What remains of a `cookie` header may hold other secrets of the caller.
fn header_shown(name: &str, value: &str) -> String {
    if name == "cookie" { format!("{name}: (the rest of it)") } else { format!("{name}: {value}") }
}

fn metadata(fields: &prost_types::Struct) -> Value {
    fields.fields.iter().map(|(name, value)| (name.clone(), metadata_value(value))).collect()
}

fn metadata_value(value: &prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        // The only number there is a double; whole ones are written as what they are.
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 2_f64.powi(53) => {
            json!(*number as i64)
        }
        Some(Kind::NumberValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::StructValue(fields)) => metadata(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(metadata_value).collect(),
    }
}
