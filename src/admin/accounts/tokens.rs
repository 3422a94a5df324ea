//! The tokens of a service account: its keys, as Grafana calls them.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Map;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::AccountId;
use super::body::NewToken;
use crate::admin::audit::ChangeAttempt;
use crate::admin::auth::{Manager, Writable};
use crate::admin::body::{Json, Message};
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::keys::IssuedKey;
use crate::admin::keys::rules::{check_name, expiry};
use crate::admin::keys::stream::{self, KeyWriter, Pages};
use crate::admin::responses::{AccountNotFoundErrors, BodyErrors, CallerErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::audit::Action;
use crate::keys::store::{AccountRef, ChangeError, KeyFilter, ListPosition};
use crate::keys::{CreateKey, Key, KeyOwner, Privileges, Status, WhyDenied};

/// A token of a service account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ServiceAccountToken)]
pub(in crate::admin) struct AccountToken {
    id: i64,
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    #[schema(format = DateTime)]
    created: String,
    /// Exact to a minute
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    #[schema(format = DateTime)]
    expiration: Option<String>,
    /// 0 when it is expired, or never expires
    seconds_until_expiration: u64,
    has_expired: bool,
    is_revoked: bool,
    /// Left out when it is not
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_disabled: bool,
    /// Why a Check denies it although it is neither revoked nor expired nor disabled: account_disabled or held_back (it was
    /// dead before the store was restored). Left out when a Check does not
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    denied: Option<&'static str>,
    /// Left out when it has none
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    description: Option<String>,
}

impl AccountToken {
    fn new(key: Key, now: Timestamp, why_denied: Option<WhyDenied>) -> Self {
        let status = key.status(now);
        let left = key.expires_at.map_or(0, |at| at.as_second().saturating_sub(now.as_second()));
        Self {
            id: key.id,
            name: key.name,
            created: key.created_at.to_string(),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
            expiration: key.expires_at.map(|at| at.to_string()),
            seconds_until_expiration: u64::try_from(left).unwrap_or(0),
            has_expired: key.expires_at.is_some_and(|at| at <= now),
            is_revoked: status == Status::Revoked,
            is_disabled: key.disabled_at.is_some(),
            denied: why_denied.map(WhyDenied::as_str),
            description: key.description,
        }
    }
}

/// The ids in the path.
#[derive(Clone, Copy)]
pub(in crate::admin) struct TokenPath {
    account: AccountId,
    token: i64,
}

impl<S: Send + Sync> FromRequestParts<S> for TokenPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ids = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((account, token)) = ids.map_err(|_| ApiError::InvalidAccountId)?;
        let account = AccountId(account.parse().map_err(|_| ApiError::InvalidAccountId)?);
        Ok(Self { account, token: token.parse().map_err(|_| ApiError::InvalidTokenId)? })
    }
}

/// The tokens of a service account, by name
///
/// All of them, the dead ones too.
#[utoipa::path(
    get,
    path = "/api/serviceaccounts/{id}/tokens",
    operation_id = "listServiceAccountTokens",
    tag = "service accounts",
    params(("id" = i64, Path, description = "The id of the service account")),
    responses(
        (status = OK, description = "The tokens", body = Vec<AccountToken>),
        CallerErrors,
        PermissionErrors,
        AccountNotFoundErrors,
    ),
)]
pub(in crate::admin) async fn list(
    State(admin): State<Arc<Admin>>,
    _: Manager,
    id: AccountId,
) -> Result<Response, ApiError> {
    let account = admin.account(id).await?;
    let filter = KeyFilter { account: Some(AccountRef::Id(account.id)), ..KeyFilter::default() };
    let (now, permit) = (admin.clock.now(), admin.list_permit().await?);
    let next = Some(ListPosition::START);
    stream::respond(TokenList { admin, filter, now, next, is_first: true, _permit: permit }).await
}

/// The list of all tokens of an account, a JSON array.
struct TokenList {
    admin: Arc<Admin>,
    filter: KeyFilter,
    /// The time of the response, by which expiry was decided.
    now: Timestamp,
    /// Where the next page begins; `None` after the last one.
    next: Option<ListPosition>,
    /// No page was written yet.
    is_first: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pages for TokenList {
    const MEDIA_TYPE: &'static str = "application/json";

    fn is_done(&self) -> bool {
        self.next.is_none()
    }

    async fn next_page(mut self) -> Result<Option<(Vec<u8>, Self)>, ApiError> {
        let Some(position) = &self.next else {
            return Ok(None);
        };
        let page = with_store_timeout(self.admin.keys.list_after(&self.filter, position)).await??;
        let denied_keys = self.admin.denied_keys(&page.keys).await;
        let mut writer = KeyWriter::new();
        for key in page.keys {
            writer.punctuate(if std::mem::take(&mut self.is_first) { b"[" } else { b"," });
            let why_denied = denied_keys.of(&key);
            writer.write(&AccountToken::new(key, self.now, why_denied)).await?;
        }
        self.next = page.next;
        if self.next.is_none() {
            writer.punctuate(if self.is_first { b"[]" } else { b"]" });
        }
        Ok(Some((writer.into_text(), self)))
    }
}

/// Create a token of a service account
///
/// It acts as the account, so the caller must be allowed to grant the rights of the account.
#[utoipa::path(
    post,
    path = "/api/serviceaccounts/{id}/tokens",
    operation_id = "createServiceAccountToken",
    tag = "service accounts",
    params(("id" = i64, Path, description = "The id of the service account")),
    request_body = NewToken,
    responses(
        (status = OK, description = "The token, which is shown only once", body = IssuedKey),
        CallerErrors,
        PermissionErrors,
        AccountNotFoundErrors,
        BodyErrors,
    ),
)]
pub(in crate::admin) async fn create(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    id: AccountId,
    Json(NewToken { name, seconds_to_live, description }): Json<NewToken>,
) -> Result<Json<IssuedKey>, ApiError> {
    attempt.set_key(&name, None);
    let account = admin.managed_account(id, &manager, &attempt).await?;
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    check_name(&name, &manager, &snapshot)?;
    let expires_at = expiry(seconds_to_live.unwrap_or(0), settings, admin.clock.now())?;
    let new = CreateKey {
        name,
        description,
        owner: KeyOwner::Account(account.id),
        role: None,
        expires_at,
        actor: Map::new(),
        policies: None,
    };
    // In the store's transaction: the account's row and the rules as they are then.
    let grant_check =
        |privileges: &Privileges<'_>| manager.check_grant(privileges, &admin.authorizer.snapshot());
    let author = manager.author(&attempt);
    let created = admin.keys.create(settings, new, &author, &grant_check);
    let created = with_store_timeout(created).await?;
    if matches!(created, Err(ChangeError::NameTaken)) {
        let problem = "a live token of the same account has this name";
        return Err(ApiError::invalid(InvalidKind::TokenNameTaken, "name", problem));
    }
    let (key, secret) = created?;
    attempt.log_change(Action::KEY_CREATED, manager.principal(), None, Some(&key));
    Ok(Json(IssuedKey::new(&key, secret)))
}

/// Delete a token of a service account
#[utoipa::path(
    delete,
    path = "/api/serviceaccounts/{id}/tokens/{tokenId}",
    operation_id = "deleteServiceAccountToken",
    tag = "service accounts",
    params(
        ("id" = i64, Path, description = "The id of the service account"),
        ("tokenId" = i64, Path, description = "The id of the token, which is the account's"),
    ),
    responses(
        (status = OK, description = "It is deleted", body = Message),
        CallerErrors,
        PermissionErrors,
        AccountNotFoundErrors,
    ),
)]
pub(in crate::admin) async fn delete(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    TokenPath { account, token }: TokenPath,
) -> Result<Json<Message>, ApiError> {
    let account = admin.managed_account(account, &manager, &attempt).await?;
    let key = with_store_timeout(admin.keys.get(token)).await??;
    // The owner of a key never changes.
    let key = key.filter(|key| key.owner == KeyOwner::Account(account.id)).ok_or(ApiError::TokenNotFound)?;
    attempt.set_key(&key.name, None);
    let end_check = |privileges: &Privileges<'_>| manager.check_end(privileges);
    let author = manager.author(&attempt);
    let deleted = admin.keys.delete(key.id, &author, &end_check);
    let deleted = with_store_timeout(deleted).await?;
    if matches!(deleted, Err(ChangeError::NotFound)) {
        return Err(ApiError::TokenNotFound);
    }
    let key = deleted?;
    attempt.log_change(Action::KEY_DELETED, manager.principal(), Some(&key), None);
    Ok(Json(Message { message: "Service account token deleted" }))
}
