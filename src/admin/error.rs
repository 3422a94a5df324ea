//! What the API answers when it does not do what was asked: a status, `{"message": …}` and, where a member of the
//! body is at fault, `"details": [{"field": …, "problem": …}]`.

use axum::Extension;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::deny_reason::DenyReason;
use crate::keys::ExceedsGrant;
use crate::keys::store::{CreateError, RotateError, StoreError};

/// Why a request is not done.  No text of it holds anything that the client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// What a Check would have denied for, with its status and message.
    Denied(DenyReason),
    /// There is no body, or none that can be read.
    Malformed,
    /// A member of the body is at fault.
    Invalid(Box<InvalidMember>),
    /// What stands in the path is no 64-bit number.
    InvalidId,
    /// There is no key of this id.
    KeyNotFound,
    /// A live key has this name.
    NameTaken,
    /// There are as many keys as there may be.
    QuotaReached,
    /// The key is revoked or expired, and cannot be rotated.
    DeadKey,
    /// Nothing is here.
    NoSuchPath,
    /// Something is here, for another method.
    WrongMethod,
    /// `Host` is no name of this listener.
    WrongHost,
    /// The request took too long to arrive.
    BodyTimeout,
    /// The body is too large.
    BodyTooLarge,
    /// The body does not say that it is JSON.
    NotJson,
    /// The store cannot be asked.
    Unavailable,
    /// Too many lines of the audit log wait to be written: nothing was begun.
    AuditUnavailable,
    /// Our own fault.
    Internal,
}

/// The member of a body that is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidMember {
    kind: InvalidKind,
    field: &'static str,
    problem: String,
}

/// What is wrong with a member of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidKind {
    /// It stands there twice.
    DuplicateMember,
    /// Its name is one that we know to readers who fold case by Unicode, and another one to all others.
    AmbiguousMember,
    /// It has another type.
    WrongType,
    /// It is not there.
    MissingMember,
    /// It is no name of a key.
    Name,
    /// A user, a token or one of their actors has this name.
    NameReserved,
    /// `role` is none of the three.
    Role,
    /// A member of the actor that nobody may add, or more of them than fit.
    Actor,
    /// It would make actor headers that are too large for an answer.
    HeadersTooLarge,
    /// No policy of the configuration has this name.
    UnknownPolicy,
    /// `policies` is too long, or names one twice.
    Policies,
    /// `secondsToLive` is below zero.
    NegativeLife,
    /// There is a longest life, and the key would have none.
    LifeNotSet,
    /// There is a longest life, and the key's is longer.
    LifeTooLong,
    /// The life ends after the last instant that there is.
    LifeOverflow,
    /// `overlapSeconds` is out of its range.
    Overlap,
    /// A member of the actor that its giver has not.
    MemberNotOwn,
    /// A name that an allow block gives power to.
    NameInPolicy,
}

impl InvalidKind {
    /// The HTTP status, the message, and one word for the audit log.
    fn face(self) -> (StatusCode, &'static str, &'static str) {
        let bad = |reason| (StatusCode::BAD_REQUEST, "bad request data", reason);
        match self {
            Self::DuplicateMember => bad("duplicate_member"),
            Self::AmbiguousMember => bad("ambiguous_member"),
            Self::WrongType => bad("wrong_type"),
            Self::MissingMember => bad("missing_member"),
            Self::Name => bad("invalid_name"),
            Self::NameReserved => {
                let message = "API key name belongs to a configured user or token";
                (StatusCode::CONFLICT, message, "name_reserved")
            }
            Self::Role => (StatusCode::BAD_REQUEST, "Invalid role specified", "invalid_role"),
            Self::Actor => bad("invalid_actor"),
            Self::HeadersTooLarge => bad("headers_too_large"),
            Self::UnknownPolicy => bad("unknown_policy"),
            Self::Policies => bad("invalid_policies"),
            Self::NegativeLife => {
                (StatusCode::BAD_REQUEST, "Negative value for secondsToLive", "negative_life")
            }
            Self::LifeNotSet => {
                let message = "Number of seconds before expiration should be set";
                (StatusCode::BAD_REQUEST, message, "life_not_set")
            }
            Self::LifeTooLong => {
                let message = "Number of seconds before expiration is greater than the global limit";
                (StatusCode::BAD_REQUEST, message, "life_too_long")
            }
            Self::LifeOverflow => bad("life_overflow"),
            Self::Overlap => bad("invalid_overlap"),
            Self::MemberNotOwn => (StatusCode::FORBIDDEN, "Permission denied", "member_not_own"),
            Self::NameInPolicy => (StatusCode::FORBIDDEN, "Permission denied", "name_in_policy"),
        }
    }
}

impl ApiError {
    /// A member of the body is at fault.
    pub fn invalid(kind: InvalidKind, field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid(Box::new(InvalidMember { kind, field, problem: problem.into() }))
    }

    /// The member at fault, if it is one.
    pub fn field(&self) -> Option<&'static str> {
        self.details().map(|(field, _)| field)
    }

    /// The member at fault, and what is wrong with it.
    fn details(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Invalid(invalid) => Some((invalid.field, &invalid.problem)),
            Self::NameTaken => Some(("name", "a key that is neither revoked nor expired has this name")),
            Self::Denied(_)
            | Self::Malformed
            | Self::InvalidId
            | Self::KeyNotFound
            | Self::QuotaReached
            | Self::DeadKey
            | Self::NoSuchPath
            | Self::WrongMethod
            | Self::WrongHost
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::NotJson
            | Self::Unavailable
            | Self::AuditUnavailable
            | Self::Internal => None,
        }
    }

    /// The HTTP status and the message, which are Grafana's where Grafana has them.
    pub fn face(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Denied(deny_reason) => {
                let details = deny_reason.details();
                let status = StatusCode::from_u16(details.status);
                (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), details.message)
            }
            Self::Malformed => (StatusCode::BAD_REQUEST, "bad request data"),
            Self::Invalid(invalid) => {
                let (status, message, _) = invalid.kind.face();
                (status, message)
            }
            Self::InvalidId => (StatusCode::BAD_REQUEST, "id is invalid"),
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "API key not found"),
            Self::NameTaken => (StatusCode::CONFLICT, "API key name already exists"),
            Self::QuotaReached => (StatusCode::FORBIDDEN, "api_key Quota reached"),
            Self::DeadKey => (StatusCode::CONFLICT, "API key is revoked or expired"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "Not found"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::WrongHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "Host is no name of this listener: add it to admin.hosts, or set admin.public_url",
            ),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "Request took too long"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Keys are unavailable"),
            Self::AuditUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "The audit log cannot be written: nothing was changed")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        }
    }
}

impl ApiError {
    /// One word for the audit log; of a denial the word that the decision log has for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Denied(deny_reason) => deny_reason.as_str(),
            Self::Malformed => "malformed",
            Self::Invalid(invalid) => invalid.kind.face().2,
            Self::InvalidId => "invalid_id",
            Self::KeyNotFound => "key_not_found",
            Self::NameTaken => "name_taken",
            Self::QuotaReached => "quota_reached",
            Self::DeadKey => "dead_key",
            Self::NoSuchPath => "no_such_path",
            Self::WrongMethod => "wrong_method",
            Self::WrongHost => "wrong_host",
            Self::BodyTimeout => "too_slow",
            Self::BodyTooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::Unavailable => "unavailable",
            Self::AuditUnavailable => "audit_unavailable",
            Self::Internal => "internal",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, message) = self.face();
        let mut body = json!({ "message": message });
        if let Some((field, problem)) = self.details() {
            body["details"] = json!([{"field": field, "problem": problem}]);
        }
        let body = body.to_string();
        // The audit log reads there why.
        (status, [(CONTENT_TYPE, "application/json")], Extension(self), body).into_response()
    }
}

impl From<DenyReason> for ApiError {
    fn from(deny_reason: DenyReason) -> Self {
        Self::Denied(deny_reason)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request to the key API fails");
        Self::Unavailable
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::NameTaken => Self::NameTaken,
            CreateError::QuotaReached => Self::QuotaReached,
            CreateError::Store(error) => error.into(),
        }
    }
}

impl From<ExceedsGrant> for ApiError {
    fn from(excess: ExceedsGrant) -> Self {
        match excess {
            ExceedsGrant::Role => DenyReason::NotAdmitted.into(),
            ExceedsGrant::Member => Self::invalid(InvalidKind::MemberNotOwn, "actor", excess.to_string()),
            ExceedsGrant::Name => Self::invalid(InvalidKind::NameInPolicy, "name", excess.to_string()),
        }
    }
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::NotFound => Self::KeyNotFound,
            RotateError::Dead => Self::DeadKey,
            RotateError::ExceedsGrant(excess) => excess.into(),
            RotateError::Store(error) => error.into(),
        }
    }
}
