//! `POST /api/auth/keys`.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::IssuedKey;
use super::rules::{
    check_actor, check_headers, check_name, check_policies, expiry, policies_schema, read_description,
    read_name, read_role, role_schema,
};
use crate::actor::Actor;
use crate::admin::audit::ChangeAttempt;
use crate::admin::auth::{KeyManager, Manager, Writable};
use crate::admin::body::{Json, Members, RequestBody};
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::responses::{BodyErrors, CallerErrors, ConflictErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::audit::Action;
use crate::keys::edit::EditProblem;
use crate::keys::store::ChangeError;
use crate::keys::{Account, CreateKey, ExceedsGrant, KeyOwner, Privileges, Role};

/// The key to create.
#[derive(ToSchema)]
#[schema(as = NewKey, rename_all = "camelCase")]
pub(in crate::admin) struct NewKeyBody {
    /// Printable, of one script, without blanks at the ends, and no name of a live key of the same owner, or of a configured
    /// user, token or actor.
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    /// Required for a key without an owner. Not allowed for the key of a service account, which has the account's
    /// role. Without it a key of one's own has the role that its owner has.
    #[schema(required = false, schema_with = role_schema)]
    role: Option<Role>,
    /// Without it, or with 0, the key never expires, where keys.max_seconds_to_live lets it.
    #[schema(minimum = 0)]
    seconds_to_live: Option<i64>,
    /// More members of the key's actor, of those that keys.actor_members lists.
    #[schema(value_type = Option<Object>)]
    actor: Option<Map<String, Value>>,
    #[schema(schema_with = policies_schema)]
    policies: Option<Vec<String>>,
    #[schema(max_length = 500)]
    description: Option<String>,
    /// The name of the service account that owns the key.
    account: Option<String>,
    /// Only "me": the key is the caller's own.
    owner: Option<String>,
}

impl RequestBody for NewKeyBody {
    const MEMBERS: &'static [&'static str] =
        &["name", "role", "secondsToLive", "actor", "policies", "description", "account", "owner"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        Ok(Self {
            name: read_name(members)?,
            role: read_role(members, "role")?,
            seconds_to_live: members.integer("secondsToLive")?,
            actor: members.object("actor")?,
            policies: members.strings("policies")?,
            description: read_description(members, "description")?,
            account: members.string("account")?,
            owner: members.string("owner")?,
        })
    }
}

/// Create a key
///
/// Creates a key without an owner; with `account` a key of a service account; with `owner` a key of the caller.
/// Callers who may only have their own keys always create those.
#[utoipa::path(
    post,
    path = "/api/auth/keys",
    operation_id = "createKey",
    tag = "keys",
    request_body = NewKeyBody,
    responses(
        (status = OK, description = "The key, whose token is shown only once", body = IssuedKey),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
        ConflictErrors,
    ),
)]
pub(in crate::admin) async fn create(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    _: Writable,
    attempt: ChangeAttempt,
    Json(new): Json<NewKeyBody>,
) -> Result<Json<IssuedKey>, ApiError> {
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    attempt.set_key(&new.name, new.role);
    let (owner, account) = admin.owner_of(&new, &manager).await?;
    let NewKeyBody { name, role, seconds_to_live, actor, policies, description, .. } = new;
    let actor = actor.unwrap_or_default();
    check_actor(&actor, settings)?;
    check_policies(policies.as_deref().unwrap_or_default(), &snapshot)?;
    if let Some(role) = role {
        manager.check_role(role)?;
    }
    let field = if actor.is_empty() { "name" } else { "actor" };
    if let Some(actor) = actor_of_new(&name, role, &actor, account.as_ref(), &manager, &owner) {
        check_headers(&actor, field, &snapshot)?;
    }
    let expires_at = expiry(seconds_to_live.unwrap_or(0), settings, admin.clock.now())?;
    check_name(&name, &manager, &snapshot)?;
    let new = CreateKey { name, description, owner, role, expires_at, actor, policies };
    let author = manager.author(&attempt);
    let grant_check =
        |privileges: &Privileges<'_>| manager.check_grant(privileges, &admin.authorizer.snapshot());
    let created = with_store_timeout(admin.keys.create(settings, new, &author, &grant_check)).await?;
    let (key, secret) = created.map_err(|error| match error {
        // It was deleted a moment ago.
        ChangeError::AccountNotFound => unknown_account(),
        error => error.into(),
    })?;
    attempt.log_change(Action::KEY_CREATED, manager.principal(), None, Some(&key));
    Ok(Json(IssuedKey::new(&key, secret)))
}

impl Admin {
    /// The owner of the new key, with the account if it is one.
    ///
    /// # Errors
    /// 400: it cannot be so, or has members that its owner decides; 403: the caller may not.
    async fn owner_of(
        self: &Arc<Self>,
        new: &NewKeyBody,
        manager: &Manager,
    ) -> Result<(KeyOwner, Option<Account>), ApiError> {
        let owner = match new.owner.as_deref() {
            None => manager.sees_only().map(|_| ()),
            Some("me") => Some(()),
            Some(_) => {
                let problem = "expected \"me\": a person's key is made by that person alone";
                return Err(ApiError::invalid(InvalidKind::Owner, "owner", problem));
            }
        };
        let Some(account) = &new.account else {
            let owner = if owner.is_some() { manager.owner()? } else { KeyOwner::None };
            check_members(new, &owner)?;
            return Ok((owner, None));
        };
        if new.owner.is_some() {
            let problem = "a key is a service account's or one's own, not both";
            return Err(ApiError::invalid(InvalidKind::Owner, "owner", problem));
        }
        if manager.sees_only().is_some() {
            return Err(ExceedsGrant::OwnAlone.into());
        }
        let account = self.account_called(account).await?.ok_or_else(|| {
            ApiError::invalid(
                InvalidKind::UnknownAccount,
                "account",
                "there is no service account of this name",
            )
        })?;
        let owner = KeyOwner::Account(account.id);
        check_members(new, &owner)?;
        Ok((owner, Some(account)))
    }
}

/// The body names a service account that is not there.
pub(super) fn unknown_account() -> ApiError {
    ApiError::invalid(InvalidKind::UnknownAccount, "account", "there is no service account of this name")
}

/// Checks that the body has the members which a key of this owner needs, and none that its owner decides.
///
/// # Errors
/// 400.
fn check_members(new: &NewKeyBody, owner: &KeyOwner) -> Result<(), ApiError> {
    let not_of_key = |problem: EditProblem, member| {
        Err(ApiError::invalid(InvalidKind::NotOfKey, member, problem.to_string()))
    };
    match owner {
        KeyOwner::None if new.role.is_none() => {
            Err(ApiError::invalid(InvalidKind::MissingMember, "role", "is missing"))
        }
        KeyOwner::None => Ok(()),
        KeyOwner::Account(_) => {
            let given = [
                ("role", new.role.is_some()),
                ("policies", new.policies.is_some()),
                ("actor", new.actor.is_some()),
            ];
            match given.into_iter().find(|(_, is_given)| *is_given) {
                Some((member, _)) => not_of_key(EditProblem::OfAccount(member), member),
                None => Ok(()),
            }
        }
        KeyOwner::Person(_) if new.actor.as_ref().is_some_and(|actor| !actor.is_empty()) => {
            not_of_key(EditProblem::OfPerson("actor"), "actor")
        }
        KeyOwner::Person(_) => Ok(()),
    }
}

/// The maximum actor of a key with these members; `None` if no key can have it.
pub(super) fn actor_of_new(
    name: &str,
    role: Option<Role>,
    own: &Map<String, Value>,
    account: Option<&Account>,
    manager: &Manager,
    owner: &KeyOwner,
) -> Option<Actor> {
    // No id is longer.
    let id = i64::MAX;
    match (account, owner) {
        (Some(account), _) => {
            Some(Actor::of_account_key(&account.name, account.role.as_str(), name, id, &account.actor))
        }
        (None, KeyOwner::Person(_)) => manager.principal().actor.of_own_key(role.map(Role::as_str), name, id),
        (None, KeyOwner::None | KeyOwner::Account(_)) => {
            Some(Actor::of_key(name, role.map_or("", Role::as_str), id, own))
        }
    }
}
