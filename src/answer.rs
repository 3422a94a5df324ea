//! Answers: the result of a decision for the data plane, independent of any wire format.
//!
//! An [`Answer`] says everything that a data plane has to do: headers to set and to remove, or status, headers and
//! body of a denial, and dynamic metadata.  A server encodes it ([`crate::ext_authz::codec::response`] for Envoy's
//! gRPC) and decides nothing.
//!
//! Answers borrow from the decision and the request.  The parts that many answers share are separate, so that a server
//! can encode them once: the part that depends on the actor ([`ActorAnswer`]), and denials ([`Denial`]) except
//! redirects.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::actor::header::{ActorHeaders, folds_onto};
use crate::attributes::browser::FetchMode;
use crate::attributes::{Http, NameLengthFilter};
use crate::config::Unavailable;
use crate::credential::stripping::{CookieChange, CredentialStripping, Forward};
use crate::credential::{CachedActorAnswer, Principal};
use crate::decision::Decision;
use crate::deny_reason::{Challenge, DenialDetails, DenyReason, GrpcCode};
use crate::snapshot::Snapshot;

/// The header by which Envoy tells an upstream that it let a request pass without a decision of ours.
/// A client must not be able to claim that.
const FAILURE_MODE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";

/// The header of a response that says when the credential of its request expires.
pub const TOKEN_EXPIRES: &str = "x-token-expires";

/// The answer to a request.
pub enum Answer<'a> {
    /// The request passes, with these changes.
    Allow(AllowAnswer<'a>),
    /// The request is denied.
    Deny(DenyAnswer<'a>),
}

/// The changes to a request that passes, and its metadata.
pub struct AllowAnswer<'a> {
    /// The actor headers.
    pub actor: ActorAnswer<'a>,
    /// The parts that are removed from this request.
    pub request: RequestChanges<'a>,
    /// The policy that admits it; none for a CORS preflight.
    pub policy: Option<&'a str>,
    /// The denial that is not enforced.
    pub shadow: Option<Shadow<'a>>,
    /// When the credential expires, where the response reports it.
    pub expires: Option<Timestamp>,
}

/// A denial of this request.  The client reads the [`Denial`].
pub struct DenyAnswer<'a> {
    /// Why.
    pub reason: DenyReason,
    /// The form that the client reads.
    pub form: DenialForm,
    /// The `location` of a redirect, where a browser is sent to the log-in page instead.
    pub redirect: Option<&'a str>,
    /// The policy under which it is denied, when one was selected.
    pub policy: Option<&'a str>,
}

/// The denial of a policy that is not enforced.
#[derive(Clone, Copy)]
pub struct Shadow<'a> {
    /// Why the request would be denied.
    pub reason: DenyReason,
    /// The credential that was authenticated.
    pub principal: Option<&'a Principal>,
}

impl<'a> Answer<'a> {
    /// The answer to a request that was decided.
    pub fn new(decision: &'a Decision, http: Option<&'a Http<'a>>) -> Self {
        let policy = decision.context.policy.as_ref().map(|policy| policy.name().as_ref());
        match (&decision.verdict, http) {
            (Ok(permit), Some(http)) => Self::Allow(AllowAnswer {
                actor: ActorAnswer {
                    principal: permit.principal().map(AsRef::as_ref),
                    headers: &decision.snapshot.actor_headers,
                    cache: decision.cached_actor_answer(),
                },
                request: RequestChanges::new(decision, http),
                policy,
                shadow: decision
                    .context
                    .shadowed
                    .map(|reason| Shadow { reason, principal: decision.context.principal.as_deref() }),
                expires: if decision.context.expires_soon {
                    permit.principal().and_then(|principal| principal.expires_at)
                } else {
                    None
                },
            }),
            // The authorizer gives permits only for HTTP requests.
            (Ok(_), None) => {
                let (reason, form) = (DenyReason::NoHttp, DenialForm::Json);
                Self::Deny(DenyAnswer { reason, form, redirect: None, policy })
            }
            (Err(reason), http) => Self::Deny(DenyAnswer {
                reason: *reason,
                form: DenialForm::of_client(*reason, http, &decision.snapshot),
                redirect: decision.context.redirect().map(|redirect| redirect.location.as_str()),
                policy,
            }),
        }
    }

    /// The dynamic metadata: for Envoy's access log, RBAC and rate limits.  It never holds a secret.
    pub fn metadata(&self) -> Vec<(&'static str, MetadataValue<'a>)> {
        let (mut fields, policy) = match self {
            Self::Allow(allow) => {
                let mut fields: Vec<_> = allow.actor.metadata().into_iter().flatten().collect();
                fields.extend(allow.shadow.map(Shadow::metadata));
                (fields, allow.policy)
            }
            Self::Deny(deny) => (vec![("reason", MetadataValue::Text(deny.reason.as_str()))], deny.policy),
        };
        fields.extend(policy.map(|policy| ("policy", MetadataValue::Text(policy))));
        fields
    }
}

impl AllowAnswer<'_> {
    /// Headers that replace those of the same name.
    pub fn set_headers(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let actor = self.actor.headers().filter_map(|(name, value)| Some((name, Cow::Owned(value?))));
        actor.chain(self.request.set_headers().map(|(name, value)| (name, Cow::Borrowed(value))))
    }

    /// Names of headers to remove.
    pub fn remove_headers(&self) -> impl Iterator<Item = &str> {
        let actor = self.actor.headers().filter_map(|(name, value)| value.is_none().then_some(name));
        actor.chain(self.request.remove_headers())
    }

    /// Headers of the response, which replace those of the upstream: [`TOKEN_EXPIRES`], in RFC 3339.
    pub fn response_headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.expires.map(|expires_at| (TOKEN_EXPIRES, expires_at.to_string())).into_iter()
    }

    /// Query parameters to remove, by the raw names they were sent under.
    pub fn remove_query_parameters(&self) -> impl Iterator<Item = &str> {
        self.request.remove_query_parameters()
    }
}

/// The part of an answer that depends on the actor alone: it is the same in each answer under one snapshot.
pub struct ActorAnswer<'a> {
    principal: Option<&'a Principal>,
    headers: &'a ActorHeaders,
    cache: Option<&'a CachedActorAnswer>,
}

impl<'a> ActorAnswer<'a> {
    /// The part of answers to requests that pass without an actor: every actor header is removed.
    pub fn anonymous(headers: &'a ActorHeaders) -> Self {
        Self { principal: None, headers, cache: None }
    }

    /// Each actor header with its value; `None` removes it.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<String>)> {
        self.headers.values(self.principal.map(|principal| &principal.actor))
    }

    /// `actor` and `credential`; nothing for anonymous requests.
    pub fn metadata(&self) -> Option<[(&'static str, MetadataValue<'a>); 2]> {
        self.principal.map(principal_metadata)
    }

    /// Where a server keeps the encoded part; `None` for anonymous requests, whose part is the same for all.
    pub fn cache(&self) -> Option<&'a CachedActorAnswer> {
        self.cache
    }
}

/// The parts that are removed from a request that passes: our credentials, and headers that only this server may set.
///
/// Except for the actor headers, which every configuration of Envoy lets us set, it names only headers that the request
/// has: an Envoy with strict mutation rules would answer 500 otherwise.
pub struct RequestChanges<'a> {
    stripping: CredentialStripping<'a>,
    http: &'a Http<'a>,
    actor_headers: &'a ActorHeaders,
}

impl<'a> RequestChanges<'a> {
    fn new(decision: &'a Decision, http: &'a Http<'a>) -> Self {
        let snapshot = &decision.snapshot;
        let forward = match &decision.context.passed_through {
            _ if snapshot.forward_credentials => Forward::Everything,
            Some(location) => Forward::Only(location),
            None => Forward::Nothing,
        };
        let stripping = CredentialStripping::of(http, &snapshot.locations, forward);
        Self { stripping, http, actor_headers: &snapshot.actor_headers }
    }

    /// Headers that replace those of the same name: what is left of `cookie`.
    pub fn set_headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        match &self.stripping.cookie {
            CookieChange::Set(rest) => Some(("cookie", rest.as_str())),
            CookieChange::None | CookieChange::Remove => None,
        }
        .into_iter()
    }

    /// Names of headers to remove.
    pub fn remove_headers(&self) -> impl Iterator<Item = &'a str> {
        let cookie = match &self.stripping.cookie {
            CookieChange::Remove => Some("cookie"),
            CookieChange::None | CookieChange::Set(_) => None,
        };
        cookie.into_iter().chain(self.stripping.headers.iter().copied()).chain(self.spoofed_headers())
    }

    /// Query parameters to remove, by the raw names they were sent under.
    pub fn remove_query_parameters(&self) -> impl Iterator<Item = &'a str> {
        // A name that is not UTF-8 cannot be ours: names are compared decoded, and raw ones are ASCII in a URL.
        self.stripping.parameters.iter().filter_map(|name| std::str::from_utf8(name).ok())
    }

    /// Headers that an upstream could mistake for an actor header, and the failure-mode header.
    fn spoofed_headers(&self) -> impl Iterator<Item = &'a str> {
        let actor_headers = self.actor_headers;
        let lengths = actor_headers.lengths().and(NameLengthFilter::of([FAILURE_MODE_ALLOWED.as_bytes()]));
        let spoofed_headers = self.http.headers.with_name_lengths(lengths).filter(move |header| {
            // Pseudo headers cannot be removed, and an upstream cannot mistake them for one of ours.
            if header.name.first() == Some(&b':') {
                return false;
            }
            // The actor header itself is set or removed whatever the request shows.
            folds_onto(header.name, FAILURE_MODE_ALLOWED)
                || actor_headers.find_folded(header.name).is_some_and(|actor_header| {
                    !header.name.eq_ignore_ascii_case(actor_header.name.as_bytes())
                })
        });
        spoofed_headers.filter_map(|header| std::str::from_utf8(header.name).ok())
    }
}

/// A value of dynamic metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue<'a> {
    /// Text.
    Text(&'a str),
    /// Text that was put together.
    Composed(String),
    /// A whole number.
    Integer(i64),
    /// The members of an actor.
    Members(&'a Map<String, Value>),
    /// Named values.
    Object(Vec<(&'static str, MetadataValue<'a>)>),
}

impl MetadataValue<'_> {
    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(*text),
            Self::Composed(text) => Value::from(text.as_str()),
            Self::Integer(number) => Value::from(*number),
            Self::Members(members) => Value::Object((*members).clone()),
            Self::Object(fields) => {
                fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_json())).collect()
            }
        }
    }
}

fn principal_metadata(principal: &Principal) -> [(&'static str, MetadataValue<'_>); 2] {
    let mut credential = vec![
        ("kind", MetadataValue::Text(principal.kind.as_str())),
        ("name", MetadataValue::Text(&principal.name)),
    ];
    credential.extend(principal.id.map(|id| ("id", MetadataValue::Integer(id))));
    credential.extend(principal.owner_name().map(|owner| ("owner", MetadataValue::Composed(owner))));
    credential.extend(principal.source().map(|source| ("source", MetadataValue::Text(source.as_str()))));
    let expires_at = principal.expires_at.map(|expires_at| expires_at.to_string());
    credential.extend(expires_at.map(|expires_at| ("expires", MetadataValue::Composed(expires_at))));
    [
        ("actor", MetadataValue::Members(principal.actor.members())),
        ("credential", MetadataValue::Object(credential)),
    ]
}

impl<'a> Shadow<'a> {
    /// `shadow`: why the request would have been denied, and whose credential it carried.
    ///
    /// An actor that the policy does not admit appears only here: rules that read `actor` must not see it.
    pub fn metadata(self) -> (&'static str, MetadataValue<'a>) {
        let mut fields = vec![("reason", MetadataValue::Text(self.reason.as_str()))];
        fields.extend(self.principal.into_iter().flat_map(principal_metadata));
        ("shadow", MetadataValue::Object(fields))
    }
}

/// The form of a denial that a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialForm {
    /// A JSON body.
    Json,
    /// The same without the challenge `Basic`, for scripts in a browser: the browser must not open its password dialog.
    JsonForScript,
    /// A gRPC status, and the message alone as body: Envoy passes it on as `grpc-message`.
    Grpc,
}

impl DenialForm {
    fn of_client(reason: DenyReason, http: Option<&Http<'_>>, snapshot: &Snapshot) -> Self {
        match http {
            Some(http) if http.is_grpc() => Self::Grpc,
            // Only denials with the challenge have two forms.
            Some(http)
                if reason.details().challenge.may_be_basic()
                    && snapshot.locations.reads_basic()
                    && FetchMode::of(&http.headers) == FetchMode::Other =>
            {
                Self::JsonForScript
            }
            Some(_) | None => Self::Json,
        }
    }
}

/// A denial as the client reads it.  Except for a redirect it depends only on the reason, the form and the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status.
    pub code: GrpcCode,
    /// Whether Envoy's `failure_mode_allow` decides instead.
    pub is_error: bool,
    /// Headers, each of another name.
    pub headers: Vec<(&'static str, String)>,
    /// Values of `www-authenticate`, each in a header of its own.
    pub challenges: Vec<String>,
    /// The body.
    pub body: String,
}

impl Denial {
    /// The denial for this reason under this snapshot.
    pub fn new(reason: DenyReason, form: DenialForm, snapshot: &Snapshot) -> Self {
        let DenialDetails { status, code, error, message, challenge, is_outage, .. } = *reason.details();
        let mut headers = vec![("cache-control", "no-store".to_owned())];
        let body = match form {
            DenialForm::Json | DenialForm::JsonForScript => {
                headers.push(("content-type", "application/json".to_owned()));
                format!(r#"{{"error": "{error}", "message": "{message}"}}"#)
            }
            DenialForm::Grpc => {
                // Without a gRPC status Envoy derives one from the HTTP status, and 400 becomes INTERNAL.
                headers.push(("grpc-status", (code as i32).to_string()));
                message.to_owned()
            }
        };
        if status == 503 {
            headers.push(("retry-after", "1".to_owned()));
        }
        let realm = &snapshot.realm;
        let with_error = || Some(format!(r#"Bearer realm="{realm}", error="{error}""#));
        let bearer_alone = || Some(format!(r#"Bearer realm="{realm}""#));
        let asks_directory = || snapshot.ldap.as_ref().is_some_and(|settings| settings.at_check);
        let has_passwords = || !snapshot.users.is_empty() || asks_directory();
        let takes_basic =
            form != DenialForm::JsonForScript && snapshot.locations.reads_basic() && has_passwords();
        let basic = || takes_basic.then(|| format!(r#"Basic realm="{realm}""#));
        let challenges = match challenge {
            Challenge::None => [None, None],
            Challenge::BearerError => [with_error(), None],
            Challenge::BearerErrorAndBasic => [with_error(), basic()],
            Challenge::BearerAndBasic => [bearer_alone(), basic()],
        };
        Self {
            status,
            code,
            is_error: is_outage && snapshot.unavailable == Unavailable::Error,
            headers,
            challenges: challenges.into_iter().flatten().collect(),
            body,
        }
    }

    /// The redirect to this location that a browser without a credential gets instead, with an empty body.
    pub fn redirect(reason: DenyReason, location: &str) -> Self {
        Self {
            status: 302,
            code: reason.details().code,
            is_error: false,
            headers: vec![("cache-control", "no-store".to_owned()), ("location", location.to_owned())],
            challenges: Vec::new(),
            body: String::new(),
        }
    }

    /// Every header.  Headers of the same name (`www-authenticate`) are next to each other.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let headers = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        headers.chain(self.challenges.iter().map(|value| ("www-authenticate", value.as_str())))
    }
}
