//! What clients of Grafana's API ask before they do anything: is it up, which version, which organization, who am I.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Admin;
use super::auth;
use super::error::ApiError;
use crate::credential::Principal;
use crate::deny_reason::DenyReason;
use crate::keys::Role;

/// A store that was not read for so long is down: it is read every half second.
const LONGEST_LAG: Duration = Duration::from_secs(5);
/// The commit that this was built from, where the build says so.
const COMMIT: &str = match option_env!("ENVOY_AUTH_TOKENS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /api/health`: from memory, for whoever asks.  The commit is for callers with a credential; a password is
/// not verified for it.
pub(super) async fn health(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let is_up =
        admin.keys.was_read() && admin.keys.lag(admin.clock.now()).is_some_and(|lag| lag <= LONGEST_LAG);
    let mut health = json!({"database": if is_up { "ok" } else { "failing" }, "version": VERSION});
    if admin.has_token_or_session(&parts).await {
        health["commit"] = COMMIT.into();
    }
    let status = if is_up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, auth::json(&health)).into_response()
}

/// `GET /api/org`
pub(super) async fn org(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    admin.unrestricted_caller(&parts).await?;
    let rules = admin.authorizer.rules();
    let name = rules.admin.as_ref().map_or("Main Org.", |admin| &*admin.org_name);
    Ok(auth::json(&json!({"id": 1, "name": name})))
}

/// `GET /api/user`
pub(super) async fn user(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let principal = admin.unrestricted_caller(&parts).await?;
    let text = |member| principal.actor.member(member).and_then(Value::as_str);
    let id = auth::actor_id(&principal);
    Ok(auth::json(&json!({
        "id": 0,
        "uid": &id,
        "email": text("email").unwrap_or_default(),
        "name": text("name").unwrap_or(&id),
        "login": &*principal.name,
        "orgId": 1,
        "isGrafanaAdmin": text("role") == Some(Role::Admin.as_str()),
        "isDisabled": false,
        "isExternal": false,
    })))
}

/// `GET /api/login/ping`
pub(super) async fn ping(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    admin.unrestricted_caller(&parts).await?;
    Ok(auth::json(&json!({"message": "Logged in"})))
}

/// `GET /api/frontend/settings`: what clients read of it.
pub(super) async fn settings(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    admin.unrestricted_caller(&parts).await?;
    Ok(auth::json(&json!({"buildInfo": {
        "version": VERSION,
        "commit": COMMIT,
        "edition": "Open Source",
        "env": "production",
    }})))
}

impl Admin {
    /// Who calls, whether or not they may manage keys.
    async fn unrestricted_caller(&self, parts: &Parts) -> Result<Arc<Principal>, ApiError> {
        let principal = self.caller(parts).await?;
        if principal.policies.is_some() { Err(DenyReason::NotAdmitted.into()) } else { Ok(principal) }
    }
}
