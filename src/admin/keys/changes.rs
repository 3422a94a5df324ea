//! Changes of one key: `PATCH`, `DELETE`, revoke and rotate.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::listed::ListedKey;
use super::rules::{
    check_actor, check_headers, check_name, check_policies, check_spelling, expiry, policies_schema,
    read_description, read_role, role_schema,
};
use super::{IssuedKey, KeyId};
use crate::actor::Actor;
use crate::admin::audit::ChangeAttempt;
use crate::admin::auth::{KeyManager, Manager, Writable};
use crate::admin::body::{Json, Members, Message, RequestBody};
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::responses::{BodyErrors, CallerErrors, ConflictErrors, NotFoundErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::audit::Action;
use crate::keys::name::{folded, is_same};
use crate::keys::{Changed, EditKey, Key, KeyOwner, KeySettings, MAX_OVERLAP, Privileges, Role};
use crate::snapshot::Snapshot;

/// The changes of a key: missing members stay as they are.
#[derive(ToSchema)]
#[schema(as = KeyChange, rename_all = "camelCase")]
pub(in crate::admin) struct KeyChangeBody {
    #[schema(value_type = Option<String>, nullable = false, min_length = 1, max_length = 190)]
    name: Option<String>,
    /// null clears it.
    #[schema(value_type = Option<String>, max_length = 500)]
    description: Option<Option<String>>,
    /// null, which is only for a person's key, is the role of its owner.
    #[schema(required = false, schema_with = role_schema)]
    role: Option<Option<Role>>,
    #[schema(required = false, schema_with = policies_schema)]
    policies: Option<Option<Vec<String>>>,
    /// null clears it.
    #[schema(value_type = Option<Object>)]
    actor: Option<Map<String, Value>>,
    /// From now on; 0 and null are never.
    #[schema(value_type = Option<i64>, minimum = 0)]
    seconds_to_live: Option<i64>,
    /// A disabled key keeps its name, its place in the quota and its expiry.
    #[schema(value_type = Option<bool>, nullable = false)]
    disabled: Option<bool>,
    /// The same, by the name that answers have.
    #[schema(value_type = Option<bool>, nullable = false)]
    is_disabled: Option<bool>,
}

impl RequestBody for KeyChangeBody {
    const MEMBERS: &'static [&'static str] =
        &["name", "description", "role", "policies", "actor", "secondsToLive", "disabled", "isDisabled"];
    // What is not done must not be answered as if it were: Grafana has no such call.
    const IS_STRICT: bool = true;

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let name = members.not_null("name", Members::string)?;
        name.as_deref().map_or(Ok(()), check_spelling)?;
        let disabled = members.not_null("disabled", Members::boolean)?;
        let is_disabled = members.not_null("isDisabled", Members::boolean)?;
        if disabled.is_some() && is_disabled.is_some() && disabled != is_disabled {
            let problem = "`disabled` and `isDisabled` are two names of one setting: send one of them";
            return Err(ApiError::invalid(InvalidKind::DuplicateMember, "isDisabled", problem));
        }
        Ok(Self {
            name,
            description: members.given("description", read_description)?,
            role: members.given("role", read_role)?,
            policies: members.given("policies", Members::strings)?,
            actor: members.given("actor", |members, field| Ok(members.object(field)?.unwrap_or_default()))?,
            seconds_to_live: members
                .given("secondsToLive", |members, field| Ok(members.integer(field)?.unwrap_or(0)))?,
            disabled,
            is_disabled,
        })
    }
}

impl KeyChangeBody {
    /// The change, checked against the rules.
    ///
    /// # Errors
    /// 400, 403 and 409.
    fn check(
        self,
        key: &Key,
        manager: &Manager,
        settings: &KeySettings,
        snapshot: &Snapshot,
        now: jiff::Timestamp,
    ) -> Result<EditKey, ApiError> {
        let Self { name, description, role, policies, actor, seconds_to_live, disabled, is_disabled } = self;
        if let Some(actor) = &actor {
            check_actor(actor, settings)?;
        }
        check_policies(policies.as_ref().and_then(Option::as_deref).unwrap_or_default(), snapshot)?;
        if let Some(Some(role)) = role {
            manager.check_role(role)?;
        }
        if let Some(name) = name.as_deref().filter(|name| !is_same(&folded(&key.name), name)) {
            check_name(name, manager, snapshot)?;
        }
        if (name.is_some() || actor.is_some()) && key.owner == KeyOwner::None {
            let role = role.flatten().or(key.role).map_or("", Role::as_str);
            let (name, own) = (name.as_ref().unwrap_or(&key.name), actor.as_ref().unwrap_or(&key.actor));
            let field = if actor.is_some() { "actor" } else { "name" };
            check_headers(&Actor::of_key(name, role, key.id, own), field, snapshot)?;
        }
        let expires_at = seconds_to_live.map(|seconds| expiry(seconds, settings, now)).transpose()?;
        let is_disabled = disabled.or(is_disabled);
        Ok(EditKey { name, description, role, policies, actor, expires_at, is_disabled })
    }
}

/// Whether a change grants nothing.
fn gives_nothing(edit: &EditKey) -> bool {
    let EditKey { name, description: _, role, policies, actor, expires_at, is_disabled } = edit;
    name.is_none()
        && role.is_none()
        && policies.is_none()
        && actor.is_none()
        && expires_at.is_none()
        && *is_disabled != Some(false)
}

/// Change a key
///
/// What is missing stays as it is; of what can be cleared null does so; a member of another name is an error. Role, policies and actor of a service account's key
/// are the account's. To change a key, and to enable it, needs all that it can do, before and after; to disable it, or to
/// describe it, needs its role.
#[utoipa::path(
    patch,
    path = "/api/auth/keys/{id}",
    operation_id = "changeKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    request_body = KeyChangeBody,
    responses(
        (status = OK, description = "The key as it is now", body = ListedKey),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
        BodyErrors,
        ConflictErrors,
    ),
)]
pub(in crate::admin) async fn change(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
    Json(body): Json<KeyChangeBody>,
) -> Result<Json<ListedKey>, ApiError> {
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    let edit = body.check(&key, &manager, settings, &snapshot, admin.clock.now())?;
    if edit == EditKey::default() {
        return Ok(Json(admin.listed(key).await?));
    }
    let author = manager.author(&attempt);
    let ends_alone = gives_nothing(&edit);
    // In the store's transaction: the key's row and the rules as they are then.
    let check = |privileges: &Privileges<'_>| match ends_alone {
        true => manager.check_end(privileges),
        false => manager.check_grant(privileges, &admin.authorizer.snapshot()),
    };
    let Changed { before, after } =
        with_store_timeout(admin.keys.edit(key.id, &edit, &author, &check)).await??;
    attempt.log_change(Action::KEY_CHANGED, manager.principal(), before.as_ref(), after.as_ref());
    let key = after.ok_or(ApiError::Internal)?;
    Ok(Json(admin.listed(key).await?))
}

/// Delete a key
#[utoipa::path(
    delete,
    path = "/api/auth/keys/{id}",
    operation_id = "deleteKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    responses(
        (status = OK, description = "It is deleted", body = Message),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
    ),
)]
pub(in crate::admin) async fn delete(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
) -> Result<Json<Message>, ApiError> {
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let author = manager.author(&attempt);
    let end_check = |privileges: &Privileges<'_>| manager.check_end(privileges);
    let key = with_store_timeout(admin.keys.delete(key.id, &author, &end_check)).await??;
    attempt.log_change(Action::KEY_DELETED, manager.principal(), Some(&key), None);
    Ok(Json(Message { message: "API key deleted" }))
}

/// Revoke a key, which stays in the list of the dead
#[utoipa::path(
    post,
    path = "/api/auth/keys/{id}/revoke",
    operation_id = "revokeKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    responses(
        (status = OK, description = "It is revoked, now or before", body = Message),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
    ),
)]
pub(in crate::admin) async fn revoke(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
) -> Result<Json<Message>, ApiError> {
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let author = manager.author(&attempt);
    let end_check = |privileges: &Privileges<'_>| manager.check_end(privileges);
    let Changed { before, after } =
        with_store_timeout(admin.keys.revoke(key.id, &author, &end_check)).await??;
    attempt.log_change(Action::KEY_REVOKED, manager.principal(), before.as_ref(), after.as_ref());
    Ok(Json(Message { message: "API key revoked" }))
}

/// How a key is rotated; the body may be empty.
#[derive(Default, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::admin) struct Rotation {
    /// How long the replaced token continues to work.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 604_800, default = 0)]
    overlap_seconds: i64,
}

impl RequestBody for Rotation {
    const MEMBERS: &'static [&'static str] = &["overlapSeconds"];
    // With a misspelt overlap the old token would die at once.
    const IS_STRICT: bool = true;

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let overlap_seconds = members.integer("overlapSeconds")?.unwrap_or(0);
        if !(0..=MAX_OVERLAP).contains(&overlap_seconds) {
            let problem = format!("expected 0 to {MAX_OVERLAP} (seven days)");
            return Err(ApiError::invalid(InvalidKind::Overlap, "overlapSeconds", problem));
        }
        Ok(Self { overlap_seconds })
    }
}

/// Give a key another token
///
/// Its expiry stays, unless it is later than keys.max_seconds_to_live from now. The old token works for
/// overlapSeconds more, and no longer than the key. A member of another name is an error.
#[utoipa::path(
    post,
    path = "/api/auth/keys/{id}/rotate",
    operation_id = "rotateKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    request_body = Rotation,
    responses(
        (status = OK, description = "The key, whose new token is shown only once", body = IssuedKey),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
        BodyErrors,
        ConflictErrors,
    ),
)]
pub(in crate::admin) async fn rotate(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
    body: Option<Json<Rotation>>,
) -> Result<Json<IssuedKey>, ApiError> {
    let Rotation { overlap_seconds } = body.map(|Json(body)| body).unwrap_or_default();
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    if settings.max_seconds_to_live == 0 {
        let problem = "keys.max_seconds_to_live is 0: no keys are made here";
        return Err(ApiError::invalid(InvalidKind::LifeTooLong, "secondsToLive", problem));
    }
    // In the store's transaction: the key's row and the rules as they are then.
    let grant_check =
        |privileges: &Privileges<'_>| manager.check_grant(privileges, &admin.authorizer.snapshot());
    let author = manager.author(&attempt);
    let rotation = admin.keys.rotate(settings, key.id, overlap_seconds, &author, &grant_check);
    let (Changed { before, after }, secret) = with_store_timeout(rotation).await??;
    attempt.log_change(Action::KEY_ROTATED, manager.principal(), before.as_ref(), after.as_ref());
    let rotated = after.ok_or(ApiError::Internal)?;
    let issued = IssuedKey::new(&rotated, secret);
    // Without an overlap the old token worked until this moment.
    Ok(Json(if overlap_seconds > 0 { issued.with_overlap(&rotated) } else { issued }))
}
