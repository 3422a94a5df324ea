//! The responses to failed requests, as the OpenAPI document describes them.

#![cfg_attr(not(test), allow(dead_code, reason = "they describe the API: a test makes the document of them"))]

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::error::ErrorBody;

/// The errors of a call that needs a credential.
pub(super) struct CallerErrors;
/// The error of a call that denies callers who are restricted or not admitted.
pub(super) struct PermissionErrors;
/// The error of a call that names a key which does not exist.
pub(super) struct NotFoundErrors;
/// The error of a call that names a service account, or a key of one, which does not exist.
pub(super) struct AccountNotFoundErrors;
/// The errors of a call that has a body.
pub(super) struct BodyErrors;
/// The error of a call that conflicts with another key, or with the state of this one.
pub(super) struct ConflictErrors;
/// The error of a call with a value that may be unknown.
pub(super) struct TooManyErrors;
/// The errors of a log-out.
pub(super) struct LogOutErrors;

impl IntoResponses for CallerErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE])
    }
}

impl IntoResponses for PermissionErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[StatusCode::FORBIDDEN])
    }
}

impl IntoResponses for NotFoundErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[StatusCode::NOT_FOUND])
    }
}

impl IntoResponses for AccountNotFoundErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = errors(&[StatusCode::NOT_FOUND]);
        for response in responses.values_mut() {
            if let RefOr::T(response) = response {
                response.description = "There is no such service account, or it has no such token".to_owned();
            }
        }
        responses
    }
}

impl IntoResponses for BodyErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            StatusCode::BAD_REQUEST,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ])
    }
}

impl IntoResponses for ConflictErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[StatusCode::CONFLICT])
    }
}

impl IntoResponses for TooManyErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[StatusCode::TOO_MANY_REQUESTS])
    }
}

impl IntoResponses for LogOutErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE])
    }
}

/// Responses of these statuses, each with the body of an error.
fn errors(statuses: &[StatusCode]) -> BTreeMap<String, RefOr<Response>> {
    let response = |&status: &StatusCode| {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
        let response = ResponseBuilder::new().description(describe(status));
        (status.as_u16().to_string(), response.content("application/json", body).build().into())
    };
    statuses.iter().map(response).collect()
}

/// The meaning of an error with this status.
fn describe(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => {
            "The request is invalid: its body, a role, a time to live or an id; or it has two credentials in one location"
        }
        StatusCode::UNAUTHORIZED => "There is no credential, or none that is valid",
        StatusCode::FORBIDDEN => {
            "The caller may not do this; the quota is reached; another site caused the request; the key store is read only here"
        }
        StatusCode::NOT_FOUND => "There is no such key, or none of the caller's own",
        StatusCode::REQUEST_TIMEOUT => "The body did not arrive within 10 seconds",
        StatusCode::CONFLICT => "The name is taken; the key is dead or disabled; the digest is known already",
        StatusCode::PAYLOAD_TOO_LARGE => "The body has more than 64 KiB, or 1 MiB where it is one of lines",
        StatusCode::TOO_MANY_REQUESTS => "The caller asked about too many unknown tokens within a second",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            "The body is not application/json, or what the call takes in its place"
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            "The key store or the audit log does not answer, or too many changes are under way"
        }
        _ => "An error",
    }
}
