//! The calls that clients of Grafana's API make before any other: health, organization, user, log-in state, build.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Admin;
use super::audit::actor_id;
use super::auth::{Caller, TokenOrSession};
use super::body::{Json, Message};
use super::error::ApiError;
use super::responses::{CallerErrors, PermissionErrors};
use crate::keys::Role;

/// The store counts as failing when it was last read longer ago than this.  It is read every half second.
const MAX_LAG: Duration = Duration::from_secs(5);
/// The commit that the binary was built from, where the build says so.
const COMMIT: &str = match option_env!("ENVOY_AUTH_TOKENS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The state of the key store.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(super) struct GrafanaHealth {
    #[schema(inline)]
    database: Database,
    version: &'static str,
    /// For callers with a token, a key or a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    commit: Option<&'static str>,
}

/// Whether the store was read lately.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Database {
    Ok,
    Failing,
}

/// Whether the key store can be read
///
/// Answered from memory, without a credential.
#[utoipa::path(
    get,
    path = "/api/health",
    operation_id = "getHealth",
    tag = "grafana",
    security(()),
    responses(
        (status = OK, description = "It is up", body = GrafanaHealth),
        (status = SERVICE_UNAVAILABLE, description = "It is down", body = GrafanaHealth),
    ),
)]
pub(super) async fn health(
    State(admin): State<Arc<Admin>>,
    TokenOrSession(is_known): TokenOrSession,
) -> (StatusCode, Json<GrafanaHealth>) {
    let is_up = admin.keys.was_read() && admin.keys.lag().is_some_and(|lag| lag <= MAX_LAG);
    let (status, database) = if is_up {
        (StatusCode::OK, Database::Ok)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Database::Failing)
    };
    (status, Json(GrafanaHealth { database, version: VERSION, commit: is_known.then_some(COMMIT) }))
}

/// The only organization.
#[derive(Serialize, ToSchema)]
pub(super) struct Organization {
    id: i64,
    name: String,
}

/// The organization, for clients of Grafana
#[utoipa::path(
    get,
    path = "/api/org",
    operation_id = "getOrganization",
    tag = "grafana",
    responses(
        (status = OK, description = "The organization", body = Organization),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn org(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
) -> Result<Json<Organization>, ApiError> {
    caller.check_unrestricted()?;
    let snapshot = admin.authorizer.snapshot();
    let name = snapshot.admin.as_ref().map_or("Main Org.", |admin| &*admin.org_name);
    Ok(Json(Organization { id: 1, name: name.to_owned() }))
}

/// The caller as a user of Grafana.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub(super) struct GrafanaUser {
    id: i64,
    uid: String,
    email: String,
    name: String,
    login: String,
    org_id: i64,
    is_grafana_admin: bool,
    is_disabled: bool,
    is_external: bool,
}

/// The caller, for clients of Grafana
#[utoipa::path(
    get,
    path = "/api/user",
    operation_id = "getUser",
    tag = "grafana",
    responses(
        (status = OK, description = "The caller", body = GrafanaUser),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn user(caller: Caller) -> Result<Json<GrafanaUser>, ApiError> {
    caller.check_unrestricted()?;
    let principal = caller.principal();
    let member = |name| principal.actor.member(name).and_then(Value::as_str);
    let id = actor_id(principal);
    Ok(Json(GrafanaUser {
        id: 0,
        email: member("email").unwrap_or_default().to_owned(),
        name: member("name").unwrap_or(&id).to_owned(),
        login: principal.name.to_string(),
        org_id: 1,
        is_grafana_admin: member("role") == Some(Role::Admin.as_str()),
        is_disabled: false,
        is_external: false,
        uid: id,
    }))
}

/// Whether the caller is logged in, for clients of Grafana
#[utoipa::path(
    get,
    path = "/api/login/ping",
    operation_id = "pingLogin",
    tag = "grafana",
    responses(
        (status = OK, description = "The caller is logged in", body = Message),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn ping(caller: Caller) -> Result<Json<Message>, ApiError> {
    caller.check_unrestricted()?;
    Ok(Json(Message { message: "Logged in" }))
}

/// The part of Grafana's settings that clients read.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Settings)]
pub(super) struct GrafanaSettings {
    #[schema(inline)]
    build_info: BuildInfo,
}

#[derive(Serialize, ToSchema)]
struct BuildInfo {
    version: &'static str,
    commit: &'static str,
    edition: &'static str,
    env: &'static str,
}

/// The build, for clients of Grafana
#[utoipa::path(
    get,
    path = "/api/frontend/settings",
    operation_id = "getFrontendSettings",
    tag = "grafana",
    responses(
        (status = OK, description = "The build", body = GrafanaSettings),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn settings(caller: Caller) -> Result<Json<GrafanaSettings>, ApiError> {
    caller.check_unrestricted()?;
    let build_info =
        BuildInfo { version: VERSION, commit: COMMIT, edition: "Open Source", env: "production" };
    Ok(Json(GrafanaSettings { build_info }))
}
