//! `GET /api/auth/actor`: the caller's actor and permissions.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Admin;
use super::auth::{Caller, Manager};
use super::body::Json;
use super::error::ApiError;
use super::responses::CallerErrors;
use crate::keys::{MAX_KEYS_OF_PERSON, Role};
use crate::snapshot::Snapshot;

/// The permissions of the caller, so that a client does not offer actions that are denied.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Permissions {
    #[schema(inline)]
    manages: ManagedKeys,
    /// Whether they may make keys of their own.
    own_keys: bool,
    /// The most live keys of their own.
    max_own_keys: u32,
    /// The roles that they may give.
    #[schema(value_type = Vec<String>)]
    roles: Vec<&'static str>,
    /// The maximum life of a key in seconds; left out without a limit, 0 if keys cannot be created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    max_seconds_to_live: Option<i64>,
    /// The life to propose; left out where none is proposed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    default_seconds_to_live: Option<i64>,
    /// The latest expiry of a key that they may give: that of their own key or token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    latest_expiration: Option<String>,
    /// The policies to which they may restrict a key.
    policies: Vec<String>,
    /// The members that the caller may add to a key's actor; a caller without the role Admin may only give values of
    /// the caller's own actor.
    actor_members: Vec<String>,
    /// Whether they may manage service accounts.
    accounts: bool,
    /// Whether they may revoke many keys at once.
    bulk: bool,
    /// Whether they are an Admin here: import, export, the audit, and ending sessions.
    admin: bool,
    /// The same: whether they may read the audit.
    audit: bool,
    /// Nothing can be changed here: the key store is read only.
    read_only: bool,
}

/// Which keys the caller manages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ManagedKeys {
    All,
    Own,
    None,
}

impl Permissions {
    fn new(manager: Option<&Manager>, snapshot: &Snapshot, read_only: bool) -> Self {
        let manages = match manager {
            None => ManagedKeys::None,
            Some(manager) if manager.sees_only().is_some() => ManagedKeys::Own,
            Some(_) => ManagedKeys::All,
        };
        let role = manager.and_then(Manager::role);
        let is_manager = manages == ManagedKeys::All;
        let is_admin = is_manager && role == Some(Role::Admin);
        let roles =
            [Role::Viewer, Role::Editor, Role::Admin].into_iter().filter(|given| role >= Some(*given));
        let settings = snapshot.keys.as_ref();
        let actor = manager.map(|manager| &manager.principal().actor);
        let listed = settings.map_or(&[][..], |settings| &settings.actor_members);
        let can_give = |member: &str| is_admin || actor.is_some_and(|actor| actor.member(member).is_some());
        let members = listed.iter().filter(|member| is_manager && can_give(member));
        let policies = if manager.is_some() { snapshot.policies.names() } else { Vec::new() };
        Self {
            manages,
            own_keys: manager.is_some_and(|manager| manager.principal().person.is_some()),
            max_own_keys: MAX_KEYS_OF_PERSON,
            roles: roles.map(Role::as_str).collect(),
            max_seconds_to_live: settings.map(|keys| keys.max_seconds_to_live).filter(|&max| max >= 0),
            default_seconds_to_live: settings
                .map(|keys| keys.default_seconds_to_live)
                .filter(|&life| life > 0),
            latest_expiration: manager
                .and_then(|manager| manager.principal().expires_at)
                .map(|at| at.to_string()),
            policies: policies.into_iter().map(str::to_owned).collect(),
            actor_members: members.map(std::string::ToString::to_string).collect(),
            accounts: is_manager,
            bulk: is_manager,
            admin: is_admin,
            audit: is_admin,
            read_only,
        }
    }
}

/// An actor with its permissions.
#[derive(Serialize, ToSchema)]
#[schema(as = Caller)]
pub(super) struct CallerBody {
    /// The actor's own members, as the upstream sees them; one that is called `permissions` is left out.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    actor: Map<String, Value>,
    #[schema(inline)]
    permissions: Permissions,
}

/// The caller's actor and permissions
///
/// Also for a key that is restricted to policies, and for a caller who manages no keys.
#[utoipa::path(
    get,
    path = "/api/auth/actor",
    operation_id = "getActor",
    tag = "session",
    responses(
        (status = OK, description = "The caller's own actor, and in addition to its members `permissions`", body = CallerBody),
        CallerErrors,
    ),
)]
pub(super) async fn show_actor(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
) -> Result<Json<CallerBody>, ApiError> {
    let mut actor = caller.principal().actor.members().clone();
    actor.remove("permissions");
    let snapshot = admin.authorizer.snapshot();
    let manager = Manager::admitted(caller, &snapshot).ok();
    let permissions = Permissions::new(manager.as_ref(), &snapshot, admin.keys.is_read_only());
    Ok(Json(CallerBody { actor, permissions }))
}
