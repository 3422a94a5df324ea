//! What the audit log says: one line for every change, log-in and log-out, and for every one that was denied.
//!
//! A line says who, from where, what, before and after, and how it ended, and never holds a secret.  Who tried and at
//! which key is noted in the request's [`Attempt`] as it becomes known, so that one place can tell of every denial.

use std::sync::{Arc, OnceLock};

use axum::http::Extensions;
use axum::http::request::Parts;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Admin;
use super::address::client_address;
use super::auth::{self, Manager};
use super::error::ApiError;
use crate::credential::Principal;
use crate::keys::{Key, Role};
use crate::telemetry::audit_log::{AuditLog, Denial, TARGET};

/// What is known of a change that somebody tries.
#[derive(Clone)]
pub(super) struct Attempt(Arc<Noted>);

struct Noted {
    log: AuditLog,
    /// What the line says when it is denied.
    denied: &'static str,
    address: Arc<str>,
    key_id: Option<i64>,
    by: OnceLock<Arc<Principal>>,
    user: OnceLock<Arc<str>>,
    key: OnceLock<(String, Role)>,
}

impl Attempt {
    /// Begins when a request asks for a change; the handlers find it in the request.
    pub(super) fn from_request(admin: &Admin, parts: &mut Parts) -> Option<Self> {
        let (denied, id) = change(parts.method.as_str(), parts.uri.path())?;
        let attempt = Self(Arc::new(Noted {
            log: admin.audit_log.clone(),
            denied,
            address: client_address(parts, admin.authorizer.rules().admin.as_deref()),
            key_id: id.and_then(|id| id.parse().ok()),
            by: OnceLock::new(),
            user: OnceLock::new(),
            key: OnceLock::new(),
        }));
        parts.extensions.insert(attempt.clone());
        Some(attempt)
    }

    /// Writes the line when the answer is a denial; merged with others when nobody knows whose it is.
    pub(super) fn log_denial(self, response: &Response) {
        let Some(error) = response.extensions().get::<ApiError>() else {
            return;
        };
        let Noted { log, denied, address, key_id, by, user, key } = &*self.0;
        let (status, reason) = (error.face().0.as_u16(), error.reason());
        let Some(by) = by.get() else {
            let denial = Denial { message: denied, status, reason, user: user.get().cloned() };
            return log.log_unauthenticated(&denial, address);
        };
        tracing::warn!(
            target: TARGET,
            by = auth::actor_id(by),
            credential.kind = by.kind.as_str(),
            address = &**address,
            key.id = key_id,
            key.name = key.get().map(|(name, _)| &**name),
            key.role = key.get().map(|(_, role)| role.as_str()),
            status,
            reason,
            "{denied}"
        );
    }
}

/// What the line says when this is denied, and the id in the path; `None` for what changes nothing.
fn change<'p>(method: &str, path: &'p str) -> Option<(&'static str, Option<&'p str>)> {
    Some(match (method, path.strip_prefix("/api/auth/keys")) {
        ("POST", Some("")) => ("API key not created", None),
        (_, Some(rest)) => {
            let mut segments = rest.strip_prefix('/')?.split('/');
            let id = segments.next();
            match (method, segments.next(), segments.next()) {
                ("DELETE", None, None) => ("API key not deleted", id),
                ("POST", Some("revoke"), None) => ("API key not revoked", id),
                ("POST", Some("rotate"), None) => ("API key not rotated", id),
                _ => return None,
            }
        }
        ("POST", None) if path == "/login" => ("log-in denied", None),
        ("POST", None) if path == "/logout" => ("log-out denied", None),
        _ => return None,
    })
}

fn attempt(extensions: &Extensions) -> Option<&Noted> {
    extensions.get::<Attempt>().map(|attempt| &*attempt.0)
}

/// Notes who asks.
pub(super) fn note_caller(parts: &Parts, principal: &Arc<Principal>) {
    if let Some(attempt) = attempt(&parts.extensions) {
        let _ = attempt.by.set(Arc::clone(principal));
    }
}

/// Notes the user who logs in: a name of the configuration, and nothing else that was typed.
pub(super) fn note_user(parts: &Parts, user: &Arc<str>) {
    if let Some(attempt) = attempt(&parts.extensions) {
        let _ = attempt.user.set(Arc::clone(user));
    }
}

/// Notes which key it is about: a legal name, and a role.
pub(super) fn note_key(parts: &Parts, name: &str, role: Role) {
    if let Some(attempt) = attempt(&parts.extensions) {
        let _ = attempt.key.set((name.to_owned(), role));
    }
}

/// Writes the line of a change that was made: of which key, as it was before and as it is now.
pub(super) fn changed(
    parts: &Parts,
    what: &'static str,
    manager: &Manager,
    before: Option<&Key>,
    after: Option<&Key>,
) {
    let Some(key) = after.or(before) else {
        return;
    };
    tracing::info!(
        target: TARGET,
        by = manager.id(),
        credential.kind = manager.kind(),
        address = address_of(parts),
        key.id = key.id,
        key.name = key.name,
        key.role = key.role.as_str(),
        key.expires = key.expires_at.map(|at| at.to_string()),
        before = before.map(|key| state(key).to_string()),
        after = after.map(|key| state(key).to_string()),
        "{what}"
    );
}

/// Writes the line of a log-in, for which so many older sessions of the user ended.
pub(super) fn logged_in(parts: &Parts, user: &str, ended: usize) {
    let ended_sessions = (ended > 0).then_some(ended);
    tracing::info!(target: TARGET, user, address = address_of(parts), ended_sessions, "logged in");
}

/// Writes the line of a log-out.
pub(super) fn logged_out(parts: &Parts, user: &str) {
    tracing::info!(target: TARGET, user, address = address_of(parts), "logged out");
}

fn address_of(parts: &Parts) -> Option<&str> {
    attempt(&parts.extensions).map(|attempt| &*attempt.address)
}

/// What a key may do and for how long.
fn state(key: &Key) -> Value {
    let mut state = json!({"name": key.name, "role": key.role.as_str()});
    let time = |at: Option<Timestamp>| at.map(|at| Value::String(at.to_string()));
    let members = [
        ("actor", (!key.actor.is_empty()).then(|| Value::Object(key.actor.clone()))),
        ("policies", key.policies.as_ref().map(|policies| json!(policies))),
        ("expires", time(key.expires_at)),
        ("revoked", time(key.revoked_at)),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            state[name] = value;
        }
    }
    state
}
