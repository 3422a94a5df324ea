//! What the API answers when it does not do what was asked: a status and `{"message": …}`.

use axum::Extension;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::decision::Refusal;
use crate::keys::store::{CreateError, RotateError, StoreError};

/// Why a request is not done.  No message holds anything that the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiError {
    /// What a Check would have refused for, with its status and message.
    Refused(Refusal),
    /// There is no body, or none that can be read.
    Malformed,
    /// `role` is none of the three.
    InvalidRole,
    /// `secondsToLive` is below zero.
    NegativeLife,
    /// There is a longest life, and the key would have none.
    LifeNotSet,
    /// There is a longest life, and the key's is longer.
    LifeTooLong,
    /// What stands in the path is no 64-bit number.
    InvalidId,
    /// There is no key of this id.
    KeyNotFound,
    /// A live key has this name, or somebody in the configuration.
    NameTaken,
    /// There are as many keys as there may be.
    QuotaReached,
    /// The key is revoked or expired, and cannot be rotated.
    DeadKey,
    /// Nothing is here.
    NoSuchPath,
    /// Something is here, for another method.
    WrongMethod,
    /// The request took too long to arrive.
    TooSlow,
    /// The body is too large.
    TooLarge,
    /// The body does not say that it is JSON.
    NotJson,
    /// The store cannot be asked.
    Unavailable,
    /// Our own fault.
    Internal,
}

impl ApiError {
    /// The HTTP status and the message, which are Grafana's where Grafana has them.
    pub fn face(self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(refusal) => {
                let (status, message) = refusal.answer();
                (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message)
            }
            Self::Malformed => (StatusCode::BAD_REQUEST, "bad request data"),
            Self::InvalidRole => (StatusCode::BAD_REQUEST, "Invalid role specified"),
            Self::NegativeLife => (StatusCode::BAD_REQUEST, "Negative value for secondsToLive"),
            Self::LifeNotSet => {
                (StatusCode::BAD_REQUEST, "Number of seconds before expiration should be set")
            }
            Self::LifeTooLong => (
                StatusCode::BAD_REQUEST,
                "Number of seconds before expiration is greater than the global limit",
            ),
            Self::InvalidId => (StatusCode::BAD_REQUEST, "id is invalid"),
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "API key not found"),
            Self::NameTaken => (StatusCode::CONFLICT, "API key name already exists"),
            Self::QuotaReached => (StatusCode::FORBIDDEN, "api_key Quota reached"),
            Self::DeadKey => (StatusCode::CONFLICT, "API key is revoked or expired"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "Not found"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "Request took too long"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Keys are unavailable"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        }
    }
}

impl ApiError {
    /// One word for the audit log; of a refusal the word that the decision log has for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Malformed => "malformed",
            Self::InvalidRole => "invalid_role",
            Self::NegativeLife => "negative_life",
            Self::LifeNotSet => "life_not_set",
            Self::LifeTooLong => "life_too_long",
            Self::InvalidId => "invalid_id",
            Self::KeyNotFound => "key_not_found",
            Self::NameTaken => "name_taken",
            Self::QuotaReached => "quota_reached",
            Self::DeadKey => "dead_key",
            Self::NoSuchPath => "no_such_path",
            Self::WrongMethod => "wrong_method",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, message) = self.face();
        let body = json!({ "message": message }).to_string();
        // The audit log reads there why.
        (status, [(CONTENT_TYPE, "application/json")], Extension(self), body).into_response()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
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

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::NotFound => Self::KeyNotFound,
            RotateError::Dead => Self::DeadKey,
            RotateError::Store(error) => error.into(),
        }
    }
}
