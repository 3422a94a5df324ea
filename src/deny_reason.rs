//! The reasons for denials, and the answer of every front end to each: one table.
//!
//! A new reason is a variant of [`DenyReason`], or of an error that it holds, and a row of the table below.

use crate::credential::CredentialError;
use crate::policy::{AmbiguousPath, NotAdmitted, SelectError};

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The message is not a CheckRequest.
    Undecodable,
    /// The message is longer than `ext_authz.max_request_bytes`.
    RequestTooLarge,
    /// Too many bytes of incomplete messages are held, or too many Checks are open.
    Overloaded,
    /// The message does not describe an HTTP request: Envoy's TCP filter sent it.
    NoHttp,
    /// No policy can be selected.
    Selection(SelectError),
    /// A `connection` header tells Envoy to drop an actor header.
    ConnectionNamesActorHeader,
    /// A location carries two credentials.
    DuplicateCredential,
    /// There is no credential, and the policy needs an actor.
    NoCredential,
    /// A malformed token.
    MalformedToken,
    /// Malformed Basic credentials.
    MalformedBasic,
    /// A token that is in neither the configuration nor the key store.
    UnknownToken,
    /// A token that has expired.
    ExpiredToken,
    /// The token of an API key that was revoked, or that this process knows to be dead although a restored key store
    /// shows it as live.
    RevokedToken,
    /// The token of an API key that is disabled, or that belongs to a disabled service account or to an owner who is
    /// gone.
    DisabledKey,
    /// An unknown user or a wrong password: the answer does not say which.  SECURITY.md describes what the response
    /// time reveals about names in a directory.
    WrongPassword,
    /// A user who is locked after wrong passwords: to the client it is a wrong password.
    UserLocked,
    /// The actor is authenticated, and the policy does not admit it.
    NotAdmitted,
    /// `context_extensions` has a key that is nearly `policy`: the operator meant to name one.
    ContextKey,
    /// Another site caused the request.
    CrossSite,
    /// An internal error: a panic.
    Panicked,
    /// An internal error: the answer would be too large.
    AnswerTooLarge,
    /// The password could not be verified in time.
    PasswordUnverified,
    /// The directory has not answered about the password yet.
    DirectoryPending,
    /// The directory does not answer, or the limit of requests to it is reached, or no process has asked it for too
    /// long about the person of a session.
    DirectoryUnavailable,
    /// The token may be an API key, and the key store cannot be read.
    KeysUnavailable,
}

/// The texts and codes of a denial, in logs and for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenialDetails {
    /// The word for logs, metrics and metadata.
    pub reason: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The status of `google.rpc.Status` and of a gRPC client.
    pub code: GrpcCode,
    /// `error` of the JSON body and of the `Bearer` challenge.
    pub error: &'static str,
    /// `message` of the JSON body, and `grpc-message`.
    pub message: &'static str,
    /// The content of `WWW-Authenticate`.
    pub challenge: Challenge,
    /// Whether `keys.unavailable: error` makes it an error, which Envoy's `failure_mode_allow` may let pass.  A client
    /// must not be able to cause such a denial by a flood of requests.
    pub is_outage: bool,
    /// Whether a line of the decision log holds everything of the request that led to the denial.
    pub is_logged_whole: bool,
}

/// The `WWW-Authenticate` headers of a denial (RFC 6750 section 3, RFC 7617 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// There are none.
    None,
    /// `Bearer` with the error.
    BearerError,
    /// `Bearer` with the error, and `Basic` where it is on.
    BearerErrorAndBasic,
    /// `Bearer` without an error, and `Basic` where it is on: the request carried no credential.
    BearerAndBasic,
}

impl Challenge {
    /// Whether `Basic` is among them where it is on.
    pub const fn may_be_basic(self) -> bool {
        match self {
            Self::None | Self::BearerError => false,
            Self::BearerErrorAndBasic | Self::BearerAndBasic => true,
        }
    }
}

/// The status codes of google.rpc.Code that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum GrpcCode {
    InvalidArgument = 3,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Makes [`DenyReason::ALL`] and [`DenyReason::details`] of one table.  The `match` is exhaustive, hence so is the list.
macro_rules! table {
    ($($variant:ident $(($($inner:tt)+))? => $details:expr,)+) => {
        impl DenyReason {
            /// Every reason, one of each.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant $(($($inner)+))?),+];

            /// What is said about the denial, in logs and to the client.
            pub const fn details(self) -> &'static DenialDetails {
                match self {
                    $(Self::$variant $(($($inner)+))? => const { &$details },)+
                }
            }
        }
    };
}

table! {
    Undecodable => malformed("undecodable_request"),
    NoHttp => malformed("no_http"),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::NotAbsolute)) => malformed("path_not_absolute").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::EmptySegment)) => malformed("path_empty_segment").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::DotSegment)) => malformed("path_dot_segment").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::Parameters)) => malformed("path_parameters").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::EncodedSlash)) => malformed("path_encoded_slash").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::DoubleEncoding)) => malformed("path_double_encoding").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::InvalidEscape)) => malformed("path_invalid_escape").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::ControlCharacter)) => malformed("path_control_character").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::NotUtf8)) => malformed("path_not_utf8").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::Fragment)) => malformed("path_fragment").logged_whole(),
    Selection(SelectError::AmbiguousPath(AmbiguousPath::EncodedDelimiter)) => malformed("path_encoded_delimiter").logged_whole(),
    Selection(SelectError::IllegalHost) => malformed("illegal_host").logged_whole(),
    Selection(SelectError::IllegalMethod) => malformed("illegal_method").logged_whole(),
    Selection(SelectError::MethodOverride) => malformed("method_override"),
    Selection(SelectError::PathOverride) => malformed("path_override"),
    Selection(SelectError::HostOverride) => malformed("host_override"),
    Selection(SelectError::Destination) => malformed("destination"),
    ConnectionNamesActorHeader => malformed("connection_names_actor_header"),
    DuplicateCredential => malformed("duplicate_credential"),
    RequestTooLarge => DenialDetails {
        status: 413,
        ..answer("request_too_large", GrpcCode::ResourceExhausted, "request_too_large", "Request too large")
    },
    NoCredential => DenialDetails {
        status: 401,
        challenge: Challenge::BearerAndBasic,
        is_logged_whole: true,
        ..answer("no_credential", GrpcCode::Unauthenticated, "unauthorized", "Unauthorized")
    },
    MalformedToken => invalid_token("malformed_token", "Malformed credential"),
    MalformedBasic => invalid_token("malformed_basic", "Invalid Basic Auth Header"),
    UnknownToken => invalid_token("unknown_token", "Invalid API key").logged_whole(),
    ExpiredToken => invalid_token("expired_token", "Expired API key"),
    RevokedToken => invalid_token("revoked_token", "Revoked API key"),
    DisabledKey => invalid_token("disabled_token", "Disabled API key"),
    WrongPassword => wrong_password("wrong_password"),
    UserLocked => wrong_password("user_locked"),
    NotAdmitted => forbidden("not_admitted").logged_whole(),
    Selection(SelectError::UnknownPolicy) => forbidden("unknown_policy").logged_whole(),
    ContextKey => forbidden("context_key"),
    CrossSite => forbidden("cross_site"),
    Panicked => answer("panicked", GrpcCode::Internal, "internal_error", "Internal error"),
    AnswerTooLarge => answer("answer_too_large", GrpcCode::Internal, "internal_error", "Internal error"),
    Overloaded => unavailable("overloaded", "overloaded", "Too many requests at once"),
    PasswordUnverified => DenialDetails {
        is_outage: true,
        ..unavailable("password_unverified", "unavailable", "Keys are unavailable")
    },
    // Not an outage: any client can cause these with an unknown name.
    DirectoryPending => unavailable("directory_pending", "unavailable", "Keys are unavailable"),
    DirectoryUnavailable => unavailable("directory_unavailable", "unavailable", "Keys are unavailable"),
    KeysUnavailable => DenialDetails {
        is_outage: true,
        ..unavailable("keys_unavailable", "unavailable", "Keys are unavailable")
    },
}

/// 500 without a challenge, before a row says otherwise.
const fn answer(
    reason: &'static str,
    code: GrpcCode,
    error: &'static str,
    message: &'static str,
) -> DenialDetails {
    DenialDetails {
        reason,
        status: 500,
        code,
        error,
        message,
        challenge: Challenge::None,
        is_outage: false,
        is_logged_whole: false,
    }
}

const fn malformed(reason: &'static str) -> DenialDetails {
    DenialDetails {
        status: 400,
        challenge: Challenge::BearerError,
        ..answer(reason, GrpcCode::InvalidArgument, "invalid_request", "Malformed request")
    }
}

const fn invalid_token(reason: &'static str, message: &'static str) -> DenialDetails {
    DenialDetails {
        status: 401,
        challenge: Challenge::BearerError,
        ..answer(reason, GrpcCode::Unauthenticated, "invalid_token", message)
    }
}

const fn wrong_password(reason: &'static str) -> DenialDetails {
    DenialDetails {
        challenge: Challenge::BearerErrorAndBasic,
        ..invalid_token(reason, "Invalid username or password")
    }
}

const fn forbidden(reason: &'static str) -> DenialDetails {
    DenialDetails {
        status: 403,
        challenge: Challenge::BearerError,
        ..answer(reason, GrpcCode::PermissionDenied, "insufficient_scope", "Permission denied")
    }
}

const fn unavailable(reason: &'static str, error: &'static str, message: &'static str) -> DenialDetails {
    DenialDetails { status: 503, ..answer(reason, GrpcCode::Unavailable, error, message) }
}

impl DenialDetails {
    const fn logged_whole(self) -> Self {
        Self { is_logged_whole: true, ..self }
    }
}

impl DenyReason {
    /// The word for logs, metrics and metadata.
    pub const fn as_str(self) -> &'static str {
        self.details().reason
    }
}

impl From<SelectError> for DenyReason {
    fn from(error: SelectError) -> Self {
        Self::Selection(error)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_takes_one_byte() {
        assert_eq!(size_of::<DenyReason>(), 1);
    }

    #[test]
    fn each_reason_has_a_word_of_its_own_and_a_status_that_denies() {
        let words: std::collections::HashSet<_> =
            DenyReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), DenyReason::ALL.len());
        for reason in DenyReason::ALL {
            assert!((400..600).contains(&reason.details().status), "{reason:?}");
        }
    }
}
