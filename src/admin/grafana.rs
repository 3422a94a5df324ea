//! The calls that clients of Grafana's API make before any other: health, organization, user, log-in state, build.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::Admin;
use super::auth::{self, Caller, TokenOrSession};
use super::body::{Json, Message};
use super::error::ApiError;
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
#[derive(Serialize)]
pub(super) struct Health {
    database: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
}

/// `GET /api/health`: from memory, without authentication.  It names the commit to callers with a credential only.
pub(super) async fn health(
    State(admin): State<Arc<Admin>>,
    TokenOrSession(is_known): TokenOrSession,
) -> (StatusCode, Json<Health>) {
    let is_up = admin.keys.was_read() && admin.keys.lag(admin.clock.now()).is_some_and(|lag| lag <= MAX_LAG);
    let (status, database) =
        if is_up { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "failing") };
    (status, Json(Health { database, version: VERSION, commit: is_known.then_some(COMMIT) }))
}

/// An organization: there is one.
#[derive(Serialize)]
pub(super) struct Organization {
    id: i64,
    name: String,
}

/// `GET /api/org`
pub(super) async fn org(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
) -> Result<Json<Organization>, ApiError> {
    caller.check_unrestricted()?;
    let rules = admin.authorizer.rules();
    let name = rules.admin.as_ref().map_or("Main Org.", |admin| &*admin.org_name);
    Ok(Json(Organization { id: 1, name: name.to_owned() }))
}

/// The caller as a user of Grafana.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
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

/// `GET /api/user`
pub(super) async fn user(caller: Caller) -> Result<Json<User>, ApiError> {
    caller.check_unrestricted()?;
    let principal = caller.principal();
    let member = |name| principal.actor.member(name).and_then(Value::as_str);
    let id = auth::actor_id(principal);
    Ok(Json(User {
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

/// `GET /api/login/ping`
pub(super) async fn ping(caller: Caller) -> Result<Json<Message>, ApiError> {
    caller.check_unrestricted()?;
    Ok(Json(Message { message: "Logged in" }))
}

/// The part of Grafana's settings that clients read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    build_info: BuildInfo,
}

#[derive(Serialize)]
struct BuildInfo {
    version: &'static str,
    commit: &'static str,
    edition: &'static str,
    env: &'static str,
}

/// `GET /api/frontend/settings`
pub(super) async fn settings(caller: Caller) -> Result<Json<Settings>, ApiError> {
    caller.check_unrestricted()?;
    let build_info =
        BuildInfo { version: VERSION, commit: COMMIT, edition: "Open Source", env: "production" };
    Ok(Json(Settings { build_info }))
}
