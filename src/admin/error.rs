//! Errors of the admin API.
//!
//! Every handler and extractor fails with an [`ApiError`].  It defines the response: a status, a body `{"message": …}`
//! and, where a member of the request's body or a missing right of the caller is the cause,
//! `"details": [{"field": …, "problem": …}]`.  Of the request, a text holds at most an escaped name.
//!
//! | error | used for |
//! | --- | --- |
//! | [`ApiError`] | every failed request; the variants say which |
//! | [`InvalidMember`] | a member of the request's body that breaks a rule; it becomes [`ApiError::Invalid`] |
//! | [`MissingRight`] | a known caller who may not do it; it becomes [`ApiError::Forbidden`] |
//! | [`DenyReason`] | a caller who is not authenticated, as in a Check; it becomes [`ApiError::Denied`] |
//! | [`ExceedsGrant`] | a key that can do more than its manager; it becomes one of the two above |
//! | [`ChangeError`], [`StoreError`] | calls of the key store; a [`StoreError`] is kept as the source |

use std::fmt;

use axum::Extension;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::deny_reason::DenyReason;
use crate::keys::edit::EditProblem;
use crate::keys::store::{ChangeError, ImportError, StoreError};
use crate::keys::{ExceedsGrant, Role};

/// Why a request fails.  The text is the response's `message`, which is Grafana's where Grafana has one.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A Check with the same credential would be denied, too: the status and the message are the same.
    #[error("{}", .0.details().message)]
    Denied(DenyReason),
    /// The caller is known, and lacks a right.  The status and the message are those of a Check that is not admitted.
    #[error("{}", DenyReason::NotAdmitted.details().message)]
    Forbidden(#[source] MissingRight),
    /// The body is missing, or is not a JSON object.
    #[error("bad request data")]
    Malformed,
    /// A member of the body is at fault.
    #[error("{}", .0.kind.answer().1)]
    Invalid(Box<InvalidMember>),
    /// The id in the path is not a 64-bit number.
    #[error("id is invalid")]
    InvalidId,
    /// There is no key with this id.
    #[error("API key not found")]
    KeyNotFound,
    /// The id of a service account in the path is not a 64-bit number.
    #[error("Service Account ID is invalid")]
    InvalidAccountId,
    /// The id of a service account's token in the path is not a 64-bit number.
    #[error("Token ID is invalid")]
    InvalidTokenId,
    /// There is no service account with this id or name.
    #[error("service account not found")]
    AccountNotFound,
    /// The service account has no token with this id.
    #[error("service account token not found")]
    TokenNotFound,
    /// A live key of the same owner has this name.
    #[error("API key name already exists")]
    NameTaken,
    /// There are `keys.max` keys.
    #[error("api_key Quota reached")]
    QuotaReached,
    /// The key is revoked or expired, and cannot be changed.
    #[error("API key is revoked or expired")]
    DeadKey,
    /// The key is disabled, and cannot be rotated.
    #[error("API key is disabled")]
    DisabledKey,
    /// The person has as many keys as a person may have.
    #[error("{0}")]
    PersonQuotaReached(String),
    /// More keys are meant than one call revokes.
    #[error("{0}")]
    TooManyKeys(String),
    /// No route has this path.
    #[error("Not found")]
    NoSuchPath,
    /// The route of this path does not have this method.
    #[error("Method not allowed")]
    WrongMethod,
    /// `Host` is not a name of the listener.
    #[error(
        "This listener does not serve this host: add it to admin.hosts, set admin.public_url, or add the host of \
         an application to admin.login_hosts"
    )]
    WrongHost,
    /// `Host` belongs to an application; under it only log-in and log-out are served.
    #[error("Under this host only log-in and log-out are served (admin.login_hosts)")]
    LogInHost,
    /// The client took too long to send the body.
    #[error("Request took too long")]
    BodyTimeout,
    /// The body is too large.
    #[error("Request body is too large")]
    BodyTooLarge,
    /// `Content-Type` is not `application/json`.
    #[error("Content-Type must be application/json")]
    NotJson,
    /// `Content-Type` is not `application/x-ndjson`.
    #[error("Content-Type must be application/x-ndjson")]
    NotJsonLines,
    /// A line of the body is at fault.
    #[error("{error}")]
    Line {
        /// Its number, from 1 on.
        number: usize,
        /// The problem.
        #[source]
        error: Box<ApiError>,
    },
    /// `Content-Type` is not that of a form.
    #[error("Content-Type must be application/x-www-form-urlencoded")]
    NotForm,
    /// The caller asked about too many unknown tokens.
    #[error("Too many unknown tokens: ask again in a second")]
    TooManyUnknown,
    /// The key store is only read (`keys.read_only`), so nothing can be changed.
    #[error("The key store is read only here")]
    ReadOnly,
    /// The key store failed.
    #[error("Keys are unavailable")]
    Store(#[source] StoreError),
    /// The key store did not answer in time.
    #[error("Keys are unavailable")]
    StoreTimeout,
    /// The queue of the audit log is full, so the change was not started.
    #[error("The audit log cannot be written: nothing was changed")]
    AuditUnavailable,
    /// A fault of the server, such as a panic.
    #[error("Internal error")]
    Internal,
}

impl ApiError {
    /// A member of the body is at fault: `problem` says how, for the client.
    pub fn invalid(kind: InvalidKind, field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid(Box::new(InvalidMember { kind, field, problem: problem.into() }))
    }

    /// The HTTP status, and the reason for the audit log; a denial has the reason of the decision log.
    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Denied(deny_reason) => {
                let status = StatusCode::from_u16(deny_reason.details().status);
                (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), deny_reason.as_str())
            }
            Self::Forbidden(_) => Self::Denied(DenyReason::NotAdmitted).answer(),
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Invalid(invalid) => {
                let (status, _, reason) = invalid.kind.answer();
                (status, reason)
            }
            Self::InvalidId | Self::InvalidAccountId | Self::InvalidTokenId => {
                (StatusCode::BAD_REQUEST, "invalid_id")
            }
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "key_not_found"),
            Self::AccountNotFound => (StatusCode::NOT_FOUND, "account_not_found"),
            Self::TokenNotFound => (StatusCode::NOT_FOUND, "key_not_found"),
            Self::NameTaken => (StatusCode::CONFLICT, "name_taken"),
            Self::QuotaReached => (StatusCode::FORBIDDEN, "quota_reached"),
            Self::DeadKey => (StatusCode::CONFLICT, "dead_key"),
            Self::DisabledKey => (StatusCode::CONFLICT, "disabled_key"),
            Self::PersonQuotaReached(_) => (StatusCode::FORBIDDEN, "person_quota_reached"),
            Self::TooManyKeys(_) => (StatusCode::BAD_REQUEST, "too_many_keys"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no_such_path"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "wrong_method"),
            Self::WrongHost => (StatusCode::MISDIRECTED_REQUEST, "wrong_host"),
            Self::LogInHost => (StatusCode::MISDIRECTED_REQUEST, "log_in_host"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::NotJsonLines => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json_lines"),
            Self::Line { error, .. } => error.answer(),
            Self::NotForm => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_form"),
            Self::TooManyUnknown => (StatusCode::TOO_MANY_REQUESTS, "too_many_unknown"),
            Self::ReadOnly => (StatusCode::FORBIDDEN, "read_only"),
            Self::Store(_) | Self::StoreTimeout => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// The message in the audit log.
    pub(super) fn failure(&self) -> Failure {
        let (status, reason) = self.answer();
        Failure { status, reason }
    }

    /// The reason for the audit log, one word.
    #[cfg(test)]
    pub(super) fn reason(&self) -> &'static str {
        self.answer().1
    }

    /// The member of the body that is at fault, or the caller who lacks a right, and the problem.
    fn details(&self) -> Option<Detail> {
        match self {
            Self::Invalid(invalid) => Some(Detail { field: invalid.field, problem: invalid.problem.clone() }),
            Self::Forbidden(right) => Some(Detail { field: "caller", problem: right.to_string() }),
            Self::NameTaken => {
                let problem = "a live key of the same owner has this name".to_owned();
                Some(Detail { field: "name", problem })
            }
            Self::Line { number, error } => {
                let detail = error.details();
                let field = detail.as_ref().map_or("line", |detail| detail.field);
                let problem = detail.map_or_else(|| error.to_string(), |detail| detail.problem);
                Some(Detail { field, problem: format!("line {number}: {problem}") })
            }
            Self::Denied(_)
            | Self::Malformed
            | Self::InvalidId
            | Self::KeyNotFound
            | Self::InvalidAccountId
            | Self::InvalidTokenId
            | Self::AccountNotFound
            | Self::TokenNotFound
            | Self::QuotaReached
            | Self::DeadKey
            | Self::DisabledKey
            | Self::PersonQuotaReached(_)
            | Self::TooManyKeys(_)
            | Self::NoSuchPath
            | Self::WrongMethod
            | Self::WrongHost
            | Self::LogInHost
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::NotJson
            | Self::NotJsonLines
            | Self::NotForm
            | Self::TooManyUnknown
            | Self::ReadOnly
            | Self::Store(_)
            | Self::StoreTimeout
            | Self::AuditUnavailable
            | Self::Internal => None,
        }
    }

    /// The name of the member that is at fault.
    #[cfg(test)]
    pub(super) fn field(&self) -> Option<&'static str> {
        self.details().map(|detail| detail.field)
    }

    /// The problem.
    #[cfg(test)]
    pub(super) fn problem(&self) -> Option<String> {
        self.details().map(|detail| detail.problem)
    }
}

/// The right that a caller lacks.  The texts say only what the caller may know: settings by name but not their values, and
/// the caller's own role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MissingRight {
    /// Neither of the allow blocks that name managers of keys admits the caller.
    #[error("you may not manage API keys: neither admin.allow nor admin.self_service admits you")]
    ManageKeys,
    /// The caller may manage keys of their own alone.
    #[error("you may manage only your own keys: admin.allow does not admit you")]
    ManageAllKeys,
    /// `admin.introspect` does not admit the caller.
    #[error("you may not ask about tokens: admin.introspect does not admit you")]
    Introspect,
    /// The caller's key is restricted to policies.
    #[error("your key is restricted to policies, and such a key cannot use this API")]
    Unrestricted,
    /// The caller's role is too low.
    #[error("this needs the role {needed}, and you have {own}")]
    Role {
        /// The lowest role that suffices.
        needed: &'static str,
        /// The caller's.
        own: OwnRole,
    },
    /// What is granted or ended exceeds what the caller has.
    #[error("{0}")]
    Grant(ExceedsGrant),
}

/// The role of a caller, in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRole(pub Option<Role>);

impl fmt::Display for OwnRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => formatter.write_str("no role"),
            Some(role) => write!(formatter, "the role {}", role.as_str()),
        }
    }
}

impl From<MissingRight> for ApiError {
    fn from(right: MissingRight) -> Self {
        Self::Forbidden(right)
    }
}

/// A member of the body that breaks a rule.
#[derive(Debug)]
pub struct InvalidMember {
    kind: InvalidKind,
    field: &'static str,
    problem: String,
}

/// The rule that a member of the body breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidKind {
    /// The member is in the body twice.
    DuplicateMember,
    /// Its name is the known one only for readers that fold case by Unicode.
    AmbiguousMember,
    /// Its value has the wrong type.
    WrongType,
    /// A required member is missing.
    MissingMember,
    /// `name` cannot be the name of a key.
    Name,
    /// A user or a token of the configuration, or one of their actors, has this name.
    NameReserved,
    /// `source` is not a source of people.
    Source,
    /// `role` is not one of the three roles.
    Role,
    /// `actor` has a member that `keys.actor_members` does not list, or is too large.
    Actor,
    /// The actor headers of the key would be too large for an answer to a Check.
    HeadersTooLarge,
    /// `policies` names a policy that does not exist.
    UnknownPolicy,
    /// `policies` is too long, or names a policy twice.
    Policies,
    /// `secondsToLive` is below zero.
    NegativeLife,
    /// `keys.max_seconds_to_live` is set, and the key would never expire.
    LifeNotSet,
    /// `secondsToLive` is above `keys.max_seconds_to_live`.
    LifeTooLong,
    /// The key would expire after the last instant that can be written.
    LifeOverflow,
    /// `overlapSeconds` is out of range.
    Overlap,
    /// `perpage` is more than a page holds.
    PerPage,
    /// `actor` has a value that the manager's own actor does not have.
    MemberNotOwn,
    /// An allow block names the key or the account.
    NameInPolicy,
    /// The key is another person's.
    NotOwner,
    /// The caller may only have their own keys.
    OwnAlone,
    /// A key would make one that lives longer than itself.
    LongerThanOwn,
    /// A service account has this name.
    AccountNameTaken,
    /// A service account that was deleted or renamed had this name.
    AccountNameWasUsed,
    /// A user or a token of the configuration, or one of their actors, has this name of a service account.
    AccountNameReserved,
    /// A live token of the same service account has this name.
    TokenNameTaken,
    /// A member that an account's key takes from the account, or a person's from the person.
    NotOfKey,
    /// A key, a replaced secret, a session or a configured token has this digest.
    KnownDigest,
    /// `description` is too long, or has invisible characters.
    Description,
    /// `owner` is not a possible owner of a key here.
    Owner,
    /// The caller came by a key or a token, and those own no keys.
    NotAPerson,
    /// A parameter of the query cannot be read.
    Parameter,
    /// The body has an unknown member.
    UnknownMember,
    /// No condition selects the keys.
    NoCriterion,
    /// A number of seconds is below zero.
    NegativeSpan,
    /// A text is not an instant, or not a plausible one.
    Time,
    /// `sha256` is not a digest.
    Digest,
    /// There is no service account of this name.
    UnknownAccount,
    /// The body has too many lines, or none.
    Lines,
}

impl InvalidKind {
    /// The HTTP status, the message for the client, and the reason for the audit log.
    const fn answer(self) -> (StatusCode, &'static str, &'static str) {
        const BAD_REQUEST: StatusCode = StatusCode::BAD_REQUEST;
        const BAD_DATA: &str = "bad request data";
        const DENIED: &str = "Permission denied";
        match self {
            Self::DuplicateMember => (BAD_REQUEST, BAD_DATA, "duplicate_member"),
            Self::AmbiguousMember => (BAD_REQUEST, BAD_DATA, "ambiguous_member"),
            Self::WrongType => (BAD_REQUEST, BAD_DATA, "wrong_type"),
            Self::MissingMember => (BAD_REQUEST, BAD_DATA, "missing_member"),
            Self::Name => (BAD_REQUEST, BAD_DATA, "invalid_name"),
            Self::NameReserved => {
                let message = "API key name belongs to a configured user or token";
                (StatusCode::CONFLICT, message, "name_reserved")
            }
            Self::Source => (BAD_REQUEST, BAD_DATA, "invalid_source"),
            Self::Role => (BAD_REQUEST, "Invalid role specified", "invalid_role"),
            Self::Actor => (BAD_REQUEST, BAD_DATA, "invalid_actor"),
            Self::HeadersTooLarge => (BAD_REQUEST, BAD_DATA, "headers_too_large"),
            Self::UnknownPolicy => (BAD_REQUEST, BAD_DATA, "unknown_policy"),
            Self::Policies => (BAD_REQUEST, BAD_DATA, "invalid_policies"),
            Self::NegativeLife => (BAD_REQUEST, "Negative value for secondsToLive", "negative_life"),
            Self::LifeNotSet => {
                let message = "Number of seconds before expiration should be set";
                (BAD_REQUEST, message, "life_not_set")
            }
            Self::LifeTooLong => {
                let message = "Number of seconds before expiration is greater than the global limit";
                (BAD_REQUEST, message, "life_too_long")
            }
            Self::LifeOverflow => (BAD_REQUEST, BAD_DATA, "life_overflow"),
            Self::Overlap => (BAD_REQUEST, BAD_DATA, "invalid_overlap"),
            Self::PerPage => (BAD_REQUEST, BAD_DATA, "invalid_perpage"),
            Self::MemberNotOwn => (StatusCode::FORBIDDEN, DENIED, "member_not_own"),
            Self::NameInPolicy => (StatusCode::FORBIDDEN, DENIED, "name_in_policy"),
            Self::NotOwner => (StatusCode::FORBIDDEN, DENIED, "not_owner"),
            Self::OwnAlone => (StatusCode::FORBIDDEN, DENIED, "own_alone"),
            Self::LongerThanOwn => (StatusCode::FORBIDDEN, DENIED, "longer_than_own"),
            // As Grafana answers.
            Self::AccountNameTaken => (BAD_REQUEST, "service account already exists", "account_name_taken"),
            Self::AccountNameWasUsed => (BAD_REQUEST, BAD_DATA, "account_name_was_used"),
            Self::AccountNameReserved => {
                let message = "service account name belongs to a configured user or token";
                (StatusCode::CONFLICT, message, "name_reserved")
            }
            Self::TokenNameTaken => {
                let message = "service account token with given name already exists in the organization";
                (BAD_REQUEST, message, "name_taken")
            }
            Self::NotOfKey => (BAD_REQUEST, BAD_DATA, "not_of_key"),
            Self::Description => (BAD_REQUEST, BAD_DATA, "invalid_description"),
            Self::Owner => (BAD_REQUEST, BAD_DATA, "invalid_owner"),
            Self::NotAPerson => (StatusCode::FORBIDDEN, DENIED, "not_a_person"),
            Self::Parameter => (BAD_REQUEST, BAD_DATA, "invalid_parameter"),
            Self::UnknownMember => (BAD_REQUEST, BAD_DATA, "unknown_member"),
            Self::NoCriterion => (BAD_REQUEST, BAD_DATA, "no_criterion"),
            Self::NegativeSpan => (BAD_REQUEST, BAD_DATA, "negative_span"),
            Self::Time => (BAD_REQUEST, BAD_DATA, "invalid_time"),
            Self::Digest => (BAD_REQUEST, BAD_DATA, "invalid_sha256"),
            Self::UnknownAccount => (BAD_REQUEST, BAD_DATA, "unknown_account"),
            Self::Lines => (BAD_REQUEST, BAD_DATA, "invalid_lines"),
            Self::KnownDigest => (StatusCode::CONFLICT, "the digest is known already", "known_digest"),
        }
    }
}

/// The body of every response that is not a success.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody {
    message: String,
    /// The members of the body, or the parameters, that are at fault, or as `caller` the right that the caller lacks; left
    /// out when there is nothing to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

/// What is at fault.
#[derive(Serialize, ToSchema)]
struct Detail {
    field: &'static str,
    problem: String,
}

/// The audit data of a failed request: the extension of every response that is made from an [`ApiError`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub reason: &'static str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::warn!(%error, "a request to the key API fails");
        }
        let (status, reason) = self.answer();
        let details = self.details().into_iter().collect();
        let body = ErrorBody { message: self.to_string(), details };
        let body = serde_json::to_string(&body).expect("strings are written as JSON");
        let failure = Extension(Failure { status, reason });
        (status, [(CONTENT_TYPE, "application/json")], failure, body).into_response()
    }
}

impl From<DenyReason> for ApiError {
    fn from(deny_reason: DenyReason) -> Self {
        Self::Denied(deny_reason)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ExceedsGrant> for ApiError {
    fn from(excess: ExceedsGrant) -> Self {
        let invalid = |kind, field| Self::invalid(kind, field, excess.to_string());
        match excess {
            ExceedsGrant::Role => MissingRight::Grant(excess).into(),
            ExceedsGrant::Member => invalid(InvalidKind::MemberNotOwn, "actor"),
            ExceedsGrant::Name => invalid(InvalidKind::NameInPolicy, "name"),
            ExceedsGrant::Owner => invalid(InvalidKind::NotOwner, "owner"),
            ExceedsGrant::OwnAlone => invalid(InvalidKind::OwnAlone, "owner"),
            ExceedsGrant::Life => invalid(InvalidKind::LongerThanOwn, "secondsToLive"),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let text = error.to_string();
        match error {
            ChangeError::NotFound => Self::KeyNotFound,
            ChangeError::AccountNotFound => Self::AccountNotFound,
            ChangeError::NameTaken => Self::NameTaken,
            ChangeError::AccountNameTaken => Self::invalid(InvalidKind::AccountNameTaken, "name", text),
            ChangeError::AccountNameWasUsed => Self::invalid(InvalidKind::AccountNameWasUsed, "name", text),
            ChangeError::QuotaReached => Self::QuotaReached,
            ChangeError::PersonQuotaReached => Self::PersonQuotaReached(text),
            ChangeError::Disabled => Self::DisabledKey,
            ChangeError::Edit(EditProblem::Dead) => Self::DeadKey,
            ChangeError::Edit(EditProblem::OfAccount(member) | EditProblem::OfPerson(member)) => {
                Self::invalid(InvalidKind::NotOfKey, member, text)
            }
            ChangeError::Edit(EditProblem::NoRole) => Self::invalid(InvalidKind::Role, "role", text),
            ChangeError::ExceedsGrant(excess) => excess.into(),
            ChangeError::KnownDigest => Self::invalid(InvalidKind::KnownDigest, "sha256", text),
            ChangeError::TooManyKeys => Self::TooManyKeys(text),
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl From<ImportError> for ApiError {
    /// Keys and lines have the same numbers, from 0 and from 1 on.
    fn from(ImportError { index, error }: ImportError) -> Self {
        let error = error.into();
        match index {
            None => error,
            Some(index) => Self::Line { number: index + 1, error: Box::new(error) },
        }
    }
}
