//! `POST /api/auth/keys/find`: the owner of a leaked token.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::listed::ListedKey;
use crate::admin::auth::KeyManager;
use crate::admin::body::{Json, Members, RequestBody};
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::responses::{BodyErrors, CallerErrors, NotFoundErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::token::TokenDigest;

/// The digest of a token.
#[derive(ToSchema)]
#[schema(as = TokenHash)]
pub(in crate::admin) struct FindBody {
    /// The SHA-256 of the token in hexadecimal digits.
    #[schema(value_type = String, min_length = 64, max_length = 64)]
    sha256: TokenDigest,
}

impl RequestBody for FindBody {
    const MEMBERS: &'static [&'static str] = &["sha256"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        Ok(Self { sha256: read_digest(members)? })
    }
}

/// Reads the digest of a token.
///
/// # Errors
/// 400: it is missing, or none.
pub(super) fn read_digest(members: &mut Members) -> Result<TokenDigest, ApiError> {
    let text = members.required_string("sha256")?;
    let problem = "expected the SHA-256 of the token: 64 hexadecimal digits";
    let invalid = || ApiError::invalid(InvalidKind::Digest, "sha256", problem);
    TokenDigest::from_hex(&text).ok_or_else(invalid)
}

/// A key that was found.
#[derive(Serialize, ToSchema)]
#[schema(as = FoundKey)]
pub(in crate::admin) struct FoundKeyBody {
    key: ListedKey,
    #[schema(inline)]
    secret: WhichSecret,
}

/// Which of the key's tokens it is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum WhichSecret {
    /// The present one.
    Current,
    /// The one before the last rotation.
    Replaced,
}

/// Find the key of a token
///
/// By its digest, so that no token is sent. Live or dead; a token that a rotation replaced earlier is not known any more.
#[utoipa::path(
    post,
    path = "/api/auth/keys/find",
    operation_id = "findKey",
    tag = "keys",
    request_body = FindBody,
    responses(
        (status = OK, description = "The key", body = FoundKeyBody),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
        BodyErrors,
    ),
)]
pub(in crate::admin) async fn find(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    Json(FindBody { sha256 }): Json<FindBody>,
) -> Result<Json<FoundKeyBody>, ApiError> {
    let found = with_store_timeout(admin.keys.find_secret(&sha256)).await??;
    let found = found.filter(|found| manager.sees(&found.key.owner)).ok_or(ApiError::KeyNotFound)?;
    let secret = if found.is_replaced { WhichSecret::Replaced } else { WhichSecret::Current };
    Ok(Json(FoundKeyBody { key: admin.listed(found.key).await?, secret }))
}
