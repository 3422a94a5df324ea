//! Decisions: a permit, or a denial with its reason.

use std::sync::Arc;

use crate::config::Rules;
use crate::credential::{CredentialError, CredentialLocation, Principal};
use crate::policy::{AmbiguousPath, NotAdmitted, Permit, Policy, SelectError};

/// What was decided about one request.
#[derive(Debug)]
pub struct Decision {
    /// The rules that decided: one snapshot from start to end.
    pub rules: Arc<Rules>,
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
        self.deny_reason().map_or("admitted", DenyReason::reason)
    }
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The message is no CheckRequest.
    Undecodable,
    /// The message is longer than `ext_authz.max_request_bytes`.
    RequestTooLarge,
    /// More bytes of messages are arriving than may be held at once.
    Overloaded,
    /// There is no HTTP request in it: the TCP filter asked.
    NoHttp,
    /// The path can be read in two ways.
    AmbiguousPath(AmbiguousPath),
    /// The host is not one.
    IllegalHost,
    /// The method is not in upper case.
    IllegalMethod,
    /// A header asks the upstream to take another method.
    MethodOverride,
    /// A header asks the upstream to take another path.
    PathOverride,
    /// A header asks the upstream to take another host.
    HostOverride,
    /// The target of COPY or MOVE cannot be decided about.
    Destination,
    /// A `connection` header asks Envoy to drop an actor header.
    ConnectionNamesActorHeader,
    /// A location is filled twice.
    DuplicateCredential,
    /// There is no credential, and the policy needs an actor.
    NoCredential,
    /// A token without the form of one.
    MalformedToken,
    /// Basic credentials that cannot be read.
    MalformedBasic,
    /// A token that nobody here knows.
    UnknownToken,
    /// A token that is dead.
    ExpiredToken,
    /// The token of an API key that somebody revoked.
    RevokedToken,
    /// An unknown user or a wrong password: nobody is told which.
    WrongPassword,
    /// A user who is locked after wrong passwords: whoever asks is told the same as for a wrong one.
    UserLocked,
    /// The actor is known and may not.
    NotAdmitted,
    /// `context_extensions` names a policy that does not exist.
    UnknownPolicy,
    /// `context_extensions` has a key that is nearly `policy`: the operator meant to name one.
    ContextKey,
    /// Another site caused the request.
    CrossSite,
    /// Our own fault: a panic.
    Panicked,
    /// Our own fault: an answer that would be too large.
    AnswerTooLarge,
    /// The password could not be verified in time.
    PasswordUnverified,
    /// The token may be an API key, and the store cannot be asked.
    KeysUnavailable,
}

impl DenyReason {
    /// Every denial, one of each.
    pub const ALL: [Self; 39] = [
        Self::Undecodable,
        Self::RequestTooLarge,
        Self::Overloaded,
        Self::NoHttp,
        Self::AmbiguousPath(AmbiguousPath::NotAbsolute),
        Self::AmbiguousPath(AmbiguousPath::EmptySegment),
        Self::AmbiguousPath(AmbiguousPath::DotSegment),
        Self::AmbiguousPath(AmbiguousPath::Parameters),
        Self::AmbiguousPath(AmbiguousPath::EncodedSlash),
        Self::AmbiguousPath(AmbiguousPath::DoubleEncoding),
        Self::AmbiguousPath(AmbiguousPath::InvalidEscape),
        Self::AmbiguousPath(AmbiguousPath::ControlCharacter),
        Self::AmbiguousPath(AmbiguousPath::NotUtf8),
        Self::AmbiguousPath(AmbiguousPath::Fragment),
        Self::AmbiguousPath(AmbiguousPath::EncodedDelimiter),
        Self::IllegalHost,
        Self::IllegalMethod,
        Self::MethodOverride,
        Self::PathOverride,
        Self::HostOverride,
        Self::Destination,
        Self::ConnectionNamesActorHeader,
        Self::DuplicateCredential,
        Self::NoCredential,
        Self::MalformedToken,
        Self::MalformedBasic,
        Self::UnknownToken,
        Self::ExpiredToken,
        Self::RevokedToken,
        Self::WrongPassword,
        Self::UserLocked,
        Self::NotAdmitted,
        Self::UnknownPolicy,
        Self::ContextKey,
        Self::CrossSite,
        Self::Panicked,
        Self::AnswerTooLarge,
        Self::PasswordUnverified,
        Self::KeysUnavailable,
    ];

    /// The HTTP status and the message, which are the same at every door.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Undecodable
            | Self::NoHttp
            | Self::AmbiguousPath(_)
            | Self::IllegalHost
            | Self::IllegalMethod
            | Self::MethodOverride
            | Self::PathOverride
            | Self::HostOverride
            | Self::Destination
            | Self::ConnectionNamesActorHeader
            | Self::DuplicateCredential => (400, "Malformed request"),
            Self::RequestTooLarge => (413, "Request too large"),
            Self::Overloaded => (503, "Too many requests at once"),
            Self::NoCredential => (401, "Unauthorized"),
            Self::MalformedToken => (401, "Malformed credential"),
            Self::MalformedBasic => (401, "Invalid Basic Auth Header"),
            Self::UnknownToken => (401, "Invalid API key"),
            Self::ExpiredToken => (401, "Expired API key"),
            Self::RevokedToken => (401, "Revoked API key"),
            Self::WrongPassword | Self::UserLocked => (401, "Invalid username or password"),
            Self::NotAdmitted | Self::UnknownPolicy | Self::ContextKey | Self::CrossSite => {
                (403, "Permission denied")
            }
            Self::Panicked | Self::AnswerTooLarge => (500, "Internal error"),
            Self::PasswordUnverified | Self::KeysUnavailable => (503, "Keys are unavailable"),
        }
    }

    /// The word for logs, metrics and metadata.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable_request",
            Self::RequestTooLarge => "request_too_large",
            Self::Overloaded => "overloaded",
            Self::NoHttp => "no_http",
            Self::AmbiguousPath(why) => match why {
                AmbiguousPath::NotAbsolute => "path_not_absolute",
                AmbiguousPath::EmptySegment => "path_empty_segment",
                AmbiguousPath::DotSegment => "path_dot_segment",
                AmbiguousPath::Parameters => "path_parameters",
                AmbiguousPath::EncodedSlash => "path_encoded_slash",
                AmbiguousPath::DoubleEncoding => "path_double_encoding",
                AmbiguousPath::InvalidEscape => "path_invalid_escape",
                AmbiguousPath::ControlCharacter => "path_control_character",
                AmbiguousPath::NotUtf8 => "path_not_utf8",
                AmbiguousPath::Fragment => "path_fragment",
                AmbiguousPath::EncodedDelimiter => "path_encoded_delimiter",
            },
            Self::IllegalHost => "illegal_host",
            Self::IllegalMethod => "illegal_method",
            Self::MethodOverride => "method_override",
            Self::PathOverride => "path_override",
            Self::HostOverride => "host_override",
            Self::Destination => "destination",
            Self::ConnectionNamesActorHeader => "connection_names_actor_header",
            Self::DuplicateCredential => "duplicate_credential",
            Self::NoCredential => "no_credential",
            Self::MalformedToken => "malformed_token",
            Self::MalformedBasic => "malformed_basic",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
            Self::RevokedToken => "revoked_token",
            Self::WrongPassword => "wrong_password",
            Self::UserLocked => "user_locked",
            Self::NotAdmitted => "not_admitted",
            Self::UnknownPolicy => "unknown_policy",
            Self::ContextKey => "context_key",
            Self::CrossSite => "cross_site",
            Self::Panicked => "panicked",
            Self::AnswerTooLarge => "answer_too_large",
            Self::PasswordUnverified => "password_unverified",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }
}

impl From<SelectError> for DenyReason {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::AmbiguousPath(why) => Self::AmbiguousPath(why),
            SelectError::IllegalHost => Self::IllegalHost,
            SelectError::IllegalMethod => Self::IllegalMethod,
            SelectError::MethodOverride => Self::MethodOverride,
            SelectError::PathOverride => Self::PathOverride,
            SelectError::HostOverride => Self::HostOverride,
            SelectError::Destination => Self::Destination,
            SelectError::UnknownPolicy => Self::UnknownPolicy,
        }
    }
}

impl From<CredentialError> for DenyReason {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Duplicate => Self::DuplicateCredential,
            CredentialError::MalformedToken => Self::MalformedToken,
            CredentialError::MalformedBasic => Self::MalformedBasic,
            CredentialError::CrossSite => Self::CrossSite,
        }
    }
}

impl From<NotAdmitted> for DenyReason {
    fn from(error: NotAdmitted) -> Self {
        match error {
            NotAdmitted::Anonymous => Self::NoCredential,
            NotAdmitted::Actor => Self::NotAdmitted,
        }
    }
}
