//! The audit log: one line for every change, log-in and log-out, and for every one that was refused.
//!
//! A line says who, what, and how it ended, and never holds a secret.  Who tried and at which key is noted in
//! the request's [`Attempt`] as it becomes known, so that one place can tell of every refusal.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::http::Extensions;
use axum::http::request::Parts;
use axum::response::Response;

use super::auth::{self, Manager};
use super::error::ApiError;
use crate::credential::Known;
use crate::keys::{Key, Role};

/// What is known of a change that somebody tries.
#[derive(Clone)]
pub(super) struct Attempt(Arc<Noted>);

struct Noted {
    /// What the line says when it is refused.
    refused: &'static str,
    key_id: Option<i64>,
    by: OnceLock<Arc<Known>>,
    user: OnceLock<Arc<str>>,
    key: OnceLock<(String, Role)>,
}

impl Attempt {
    /// Begins when a request asks for a change; the handlers find it in the request.
    pub(super) fn begin(request: &mut Request) -> Option<Self> {
        let (refused, id) = change(request.method().as_str(), request.uri().path())?;
        let attempt = Self(Arc::new(Noted {
            refused,
            key_id: id.and_then(|id| id.parse().ok()),
            by: OnceLock::new(),
            user: OnceLock::new(),
            key: OnceLock::new(),
        }));
        request.extensions_mut().insert(attempt.clone());
        Some(attempt)
    }

    /// Writes the line when the answer is a refusal.
    pub(super) fn end(self, response: &Response) {
        let Some(error) = response.extensions().get::<ApiError>() else {
            return;
        };
        let Noted { refused, key_id, by, user, key } = &*self.0;
        tracing::warn!(
            target: "audit",
            by = by.get().map(|known| auth::actor_id(known)),
            credential.kind = by.get().map(|known| known.kind.as_str()),
            user = user.get().map(|user| &**user),
            key.id = key_id,
            key.name = key.get().map(|(name, _)| &**name),
            key.role = key.get().map(|(_, role)| role.as_str()),
            status = error.face().0.as_u16(),
            reason = error.reason(),
            "{refused}"
        );
    }
}

/// What the line says when this is refused, and the id in the path; `None` for what changes nothing.
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
        ("POST", None) if path == "/login" => ("log-in refused", None),
        ("POST", None) if path == "/logout" => ("log-out refused", None),
        _ => return None,
    })
}

fn attempt(extensions: &Extensions) -> Option<&Noted> {
    extensions.get::<Attempt>().map(|attempt| &*attempt.0)
}

/// Notes who asks.
pub(super) fn note_caller(parts: &Parts, known: &Arc<Known>) {
    if let Some(attempt) = attempt(&parts.extensions) {
        let _ = attempt.by.set(Arc::clone(known));
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

/// Writes the line of a change that was made.
pub(super) fn changed(what: &'static str, manager: &Manager, key: &Key) {
    tracing::info!(
        target: "audit",
        by = manager.id(),
        credential.kind = manager.kind(),
        key.id = key.id,
        key.name = key.name,
        key.role = key.role.as_str(),
        key.expires = key.expires_at.map(|at| at.to_string()),
        "{what}"
    );
}
