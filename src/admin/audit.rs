//! The lines of the audit log: one for every change, log-in and log-out, and one for every denied one.
//!
//! A line has the actor, the action, the address, the key, and the result.  It never holds a secret.  What is known of
//! a change is collected in its [`ChangeAttempt`], so that the middleware can log every denial, whatever its cause.
//! Rows of the same are in the store: a change's is written in its transaction, a denial's after it ([`denials`]).

mod denials;

use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::Value;

pub(super) use self::denials::Denials;
use self::denials::FURTHER_DENIALS;
use super::Admin;
use super::error::{ApiError, Failure};
use crate::clock::Clock;
use crate::credential::Principal;
use crate::keys::audit::{Action, NewAuditRow, account_state, key_state};
use crate::keys::{Account, Key, Role};
use crate::person::{PersonId, ProviderName};
use crate::telemetry::audit_log::{AuditLog, TARGET, UnauthenticatedAttempt};

/// A change that is attempted, and what is known of it so far.  The middleware puts it into the request's extensions;
/// as an extractor it gives a handler access to it.
#[derive(Clone)]
pub(super) struct ChangeAttempt(Arc<AttemptDetails>);

struct AttemptDetails {
    log: AuditLog,
    /// Where rows of denials go; `None` where the store is only read.
    denials: Option<Arc<Denials>>,
    clock: Clock,
    /// The message of the line when the change is denied.
    denial_message: &'static str,
    address: Arc<str>,
    key_id: Option<i64>,
    /// That of the service account in the path.
    account_in_path: Option<i64>,
    caller: OnceLock<Arc<Principal>>,
    user: OnceLock<Arc<str>>,
    source: OnceLock<ProviderName>,
    key: OnceLock<(String, Option<Role>)>,
    account: OnceLock<AttemptedAccount>,
}

/// The service account that a change is about, or whose key it is about.
struct AttemptedAccount {
    /// `None` where it does not exist yet.
    id: Option<i64>,
    name: String,
    role: Role,
}

impl AttemptDetails {
    fn account_id(&self) -> Option<i64> {
        self.account.get().and_then(|account| account.id).or(self.account_in_path)
    }
}

impl<S: Sync> FromRequestParts<S> for ChangeAttempt {
    type Rejection = ApiError;

    /// # Errors
    /// 500 on a route that [`denial_message`] does not know: nothing is changed without a line in the audit log.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::Internal)
    }
}

impl ChangeAttempt {
    /// The attempt of this request, which is put into its extensions too; `None` when the request changes nothing.
    pub(super) fn from_request(admin: &Admin, address: Arc<str>, parts: &mut Parts) -> Option<Self> {
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        let of_account = account_denial_message(method, path);
        let of_account = of_account.map(|(message, account, key)| (message, key, account));
        let of_key = || denial_message(method, path).map(|(message, key)| (message, key, None));
        let (denial_message, id, account) = of_account.or_else(of_key)?;
        let attempt = Self(Arc::new(AttemptDetails {
            log: admin.audit_log.clone(),
            denials: (!admin.keys.is_read_only()).then(|| Arc::clone(&admin.denials)),
            clock: admin.clock.clone(),
            denial_message,
            address,
            key_id: id.and_then(|id| id.parse().ok()),
            account_in_path: account.and_then(|id| id.parse().ok()),
            caller: OnceLock::new(),
            user: OnceLock::new(),
            source: OnceLock::new(),
            key: OnceLock::new(),
            account: OnceLock::new(),
        }));
        parts.extensions.insert(attempt.clone());
        Some(attempt)
    }

    /// The address of the client.
    pub(super) fn address(&self) -> &str {
        &self.0.address
    }

    /// Sets the authenticated caller.
    pub(super) fn set_caller(&self, principal: &Arc<Principal>) {
        let _ = self.0.caller.set(Arc::clone(principal));
    }

    /// Sets the user who logs in: a name of the configuration, or of a person with a right password; never another text
    /// that was typed.
    pub(super) fn set_user(&self, user: &Arc<str>) {
        let _ = self.0.user.set(Arc::clone(user));
    }

    /// Sets the provider of a log-in.
    pub(super) fn set_source(&self, provider: &ProviderName) {
        let _ = self.0.source.set(provider.clone());
    }

    /// Sets the name, which is a valid one, and the role of the key.
    pub(super) fn set_key(&self, name: &str, role: Option<Role>) {
        let _ = self.0.key.set((name.to_owned(), role));
    }

    /// Sets the service account: its id, where it exists, its name, which is a valid one, and its role.
    pub(super) fn set_account(&self, id: Option<i64>, name: &str, role: Role) {
        let _ = self.0.account.set(AttemptedAccount { id, name: name.to_owned(), role });
    }

    /// Logs the denial when the response is one.  Denials of unauthenticated callers are merged.
    pub(super) fn log_denial(self, response: &Response) {
        let Some(Failure { status, reason }) = response.extensions().get::<Failure>() else {
            return;
        };
        let AttemptDetails {
            log,
            denial_message: message,
            address,
            key_id,
            caller,
            user,
            source,
            key,
            account,
            ..
        } = &*self.0;
        let status = status.as_u16();
        self.store_denial(status, reason);
        let Some(caller) = caller.get() else {
            let denial = UnauthenticatedAttempt {
                message,
                status,
                reason,
                user: user.get().cloned(),
                source: source.get().cloned(),
            };
            return log.log_unauthenticated(&denial, address);
        };
        tracing::warn!(
            target: TARGET,
            by = actor_id(caller),
            credential.kind = caller.kind.as_str(),
            address = &**address,
            key.id = key_id,
            key.name = key.get().map(|(name, _)| &**name),
            key.role = key.get().and_then(|(_, role)| role.map(Role::as_str)),
            account.id = self.0.account_id(),
            account.name = account.get().map(|account| &*account.name),
            account.role = account.get().map(|account| account.role.as_str()),
            status,
            reason,
            "{message}"
        );
    }

    /// Has the denial written into the store.
    fn store_denial(&self, status: u16, reason: &str) {
        let details = &*self.0;
        let Some(denials) = &details.denials else {
            return;
        };
        let caller = details.caller.get();
        // Neither a name nor an id from elsewhere may hold what PostgreSQL does not store.
        let text = |text: &str| text.replace('\0', "\u{fffd}");
        let row = NewAuditRow {
            at: details.clock.now(),
            action: details.denial_message.to_owned(),
            by: caller.map(|caller| text(&actor_id(caller))),
            credential: caller.map(|caller| caller.kind.as_str().to_owned()),
            address: Some(details.address.to_string()),
            key_id: details.key_id,
            key_name: details.key.get().map(|(name, _)| text(name)),
            account_id: details.account_id(),
            account_name: details.account.get().map(|account| text(&account.name)),
            user: details.user.get().map(|user| text(user)),
            source: details.source.get().map(|source| source.as_str().to_owned()),
            status: Some(status),
            reason: Some(reason.to_owned()),
            ..NewAuditRow::default()
        };
        denials.add(row, &details.log);
    }

    /// Logs a change: the key as it was before, and as it is after it.
    pub(super) fn log_change(
        &self,
        Action(message): Action,
        manager: &Principal,
        before: Option<&Key>,
        after: Option<&Key>,
    ) {
        let Some(key) = after.or(before) else {
            return;
        };
        let account = self.0.account.get();
        tracing::info!(
            target: TARGET,
            by = actor_id(manager),
            credential.kind = manager.kind.as_str(),
            address = &*self.0.address,
            key.id = key.id,
            key.name = key.name,
            key.role = key.role.map(Role::as_str),
            key.expires = key.expires_at.map(|at| at.to_string()),
            account.id = key.owner.account(),
            account.name = account.map(|account| &*account.name),
            owner = key.owner.person().map(|person| &*person.subject),
            owner_source = key.owner.person().map(|person| person.source.as_str()),
            before = before.map(|key| key_state(key).to_string()),
            after = after.map(|key| key_state(key).to_string()),
            "{message}"
        );
    }

    /// Logs a change of a service account: as it was before, and as it is after it.
    pub(super) fn log_account_change(
        &self,
        action: Action,
        manager: &Principal,
        before: Option<&Account>,
        after: Option<&Account>,
    ) {
        self.log_account(action, manager, before, after, None);
    }

    /// Logs that a service account was deleted, and how many keys with it.
    pub(super) fn log_deleted_account(&self, manager: &Principal, account: &Account, keys: usize) {
        self.log_account(Action::ACCOUNT_DELETED, manager, Some(account), None, Some(keys));
    }

    fn log_account(
        &self,
        Action(message): Action,
        manager: &Principal,
        before: Option<&Account>,
        after: Option<&Account>,
        deleted_keys: Option<usize>,
    ) {
        let Some(account) = after.or(before) else {
            return;
        };
        tracing::info!(
            target: TARGET,
            by = actor_id(manager),
            credential.kind = manager.kind.as_str(),
            address = &*self.0.address,
            account.id = account.id,
            account.name = account.name,
            account.role = account.role.as_str(),
            before = before.map(|account| account_state(account).to_string()),
            after = after.map(|account| account_state(account).to_string()),
            deleted_keys,
            "{message}"
        );
    }

    /// Logs that the history of the store was accepted.
    pub(super) fn log_accepted_history(&self, manager: &Principal) {
        tracing::info!(
            target: TARGET,
            by = actor_id(manager),
            credential.kind = manager.kind.as_str(),
            address = &*self.0.address,
            "history of the key store accepted"
        );
    }

    /// The row in the store about a log-in or log-out.
    pub(super) fn session_row(&self, action: Action, person: &PersonId, at: Timestamp) -> NewAuditRow {
        let row = NewAuditRow {
            at,
            action: action.0.to_owned(),
            address: Some(self.0.address.to_string()),
            ..NewAuditRow::default()
        };
        row.person(person)
    }

    /// Logs a log-in, and how many older ones of the person it ended.
    pub(super) fn log_login(&self, PersonId { source, subject }: &PersonId, ended: usize) {
        let ended_sessions = (ended > 0).then_some(ended);
        tracing::info!(
            target: TARGET,
            user = &**subject,
            source = source.as_str(),
            address = &*self.0.address,
            ended_sessions,
            "logged in"
        );
    }

    /// Logs a log-out.
    pub(super) fn log_logout(&self, PersonId { source, subject }: &PersonId) {
        tracing::info!(
            target: TARGET,
            user = &**subject,
            source = source.as_str(),
            address = &*self.0.address,
            "logged out"
        );
    }

    /// Logs that the sessions of a person ended.
    pub(super) fn log_ended_sessions(&self, manager: &Principal, person: &PersonId, ended: usize) {
        tracing::info!(
            target: TARGET,
            by = actor_id(manager),
            credential.kind = manager.kind.as_str(),
            address = &*self.0.address,
            user = &*person.subject,
            source = person.source.as_str(),
            ended_sessions = ended,
            "sessions ended"
        );
    }
}

/// The actions of rows about denied changes, in the order of the documents.
const DENIALS: [&str; 14] = [
    "API key not created",
    "API key not changed",
    "API key not rotated",
    "API key not revoked",
    "API key not deleted",
    "API keys not imported",
    "API keys not revoked",
    "service account not created",
    "service account not changed",
    "service account not deleted",
    "history of the key store not accepted",
    "sessions not ended",
    "log-in denied",
    "log-out denied",
];

/// Every action that a row of the audit can have.
pub(super) fn actions() -> impl Iterator<Item = &'static str> {
    Action::ALL.map(|Action(text)| text).into_iter().chain(DENIALS).chain([FURTHER_DENIALS])
}

/// The message of an audit line when a change below `/api/serviceaccounts` is denied, and the ids of the account and of
/// its key in the path; `None` when the request changes nothing.
fn account_denial_message<'p>(
    method: &str,
    path: &'p str,
) -> Option<(&'static str, Option<&'p str>, Option<&'p str>)> {
    let rest = path.strip_prefix("/api/serviceaccounts")?;
    let mut segments = rest.trim_matches('/').split('/').filter(|segment| !segment.is_empty());
    let (account, what, key) = (segments.next(), segments.next(), segments.next());
    let message = match (method, account, what, key, segments.next()) {
        ("POST", None, None, None, None) => "service account not created",
        ("PATCH", Some(_), None, None, None) => "service account not changed",
        ("DELETE", Some(_), None, None, None) => "service account not deleted",
        ("POST", Some(_), Some("tokens"), None, None) => "API key not created",
        ("DELETE", Some(_), Some("tokens"), Some(_), None) => "API key not deleted",
        _ => return None,
    };
    Some((message, account, key))
}

/// The message of the line when this change is denied, and the id in its path; `None` when the request changes nothing.
fn denial_message<'p>(method: &str, path: &'p str) -> Option<(&'static str, Option<&'p str>)> {
    Some(match (method, path.strip_prefix("/api/auth/keys")) {
        ("POST", Some("")) => ("API key not created", None),
        ("POST", Some("/import")) => ("API keys not imported", None),
        ("POST", Some("/revoke")) => ("API keys not revoked", None),
        ("POST", Some("/accept-history")) => ("history of the key store not accepted", None),
        (_, Some(rest)) => {
            let mut segments = rest.strip_prefix('/')?.split('/');
            let id = segments.next();
            match (method, segments.next(), segments.next()) {
                ("DELETE", None, None) => ("API key not deleted", id),
                ("PATCH", None, None) => ("API key not changed", id),
                ("POST", Some("revoke"), None) => ("API key not revoked", id),
                ("POST", Some("rotate"), None) => ("API key not rotated", id),
                _ => return None,
            }
        }
        ("DELETE", None) if path == "/api/auth/sessions" => ("sessions not ended", None),
        ("POST", None) if path == "/login" => ("log-in denied", None),
        ("POST", None) if path == "/logout" => ("log-out denied", None),
        // A log-in at a provider.  What is there else begins none.
        ("GET" | "HEAD", None)
            if path.starts_with("/login/")
                && !["/login/options", "/login/page.css", "/login/page.js"].contains(&path) =>
        {
            ("log-in denied", None)
        }
        _ => return None,
    })
}

/// The id of a principal's actor, for the record.
pub(super) fn actor_id(principal: &Principal) -> String {
    match principal.actor.member("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => principal.name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_change_of_accounts_has_a_line() {
        for (method, path, expected) in [
            ("POST", "/api/serviceaccounts", Some(("service account not created", None, None))),
            ("POST", "/api/serviceaccounts/", Some(("service account not created", None, None))),
            ("PATCH", "/api/serviceaccounts/7", Some(("service account not changed", Some("7"), None))),
            ("DELETE", "/api/serviceaccounts/7", Some(("service account not deleted", Some("7"), None))),
            ("POST", "/api/serviceaccounts/7/tokens", Some(("API key not created", Some("7"), None))),
            (
                "DELETE",
                "/api/serviceaccounts/7/tokens/9",
                Some(("API key not deleted", Some("7"), Some("9"))),
            ),
            ("GET", "/api/serviceaccounts/7", None),
            ("GET", "/api/serviceaccounts/search", None),
            ("DELETE", "/api/serviceaccounts/7/tokens", None),
            ("DELETE", "/api/serviceaccounts/7/tokens/9/x", None),
            ("POST", "/api/auth/keys", None),
        ] {
            assert_eq!(account_denial_message(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn every_denial_is_an_action_of_the_audit() {
        let all: HashSet<_> = actions().collect();
        assert_eq!(all.len(), actions().count(), "each once");
        let of_accounts = [
            ("POST", ""),
            ("PATCH", "/7"),
            ("DELETE", "/7"),
            ("POST", "/7/tokens"),
            ("DELETE", "/7/tokens/9"),
        ];
        let of_accounts = of_accounts.map(|(method, below)| {
            account_denial_message(method, &format!("/api/serviceaccounts{below}")).unwrap().0
        });
        let others = [
            ("POST", "/api/auth/keys"),
            ("POST", "/api/auth/keys/import"),
            ("POST", "/api/auth/keys/revoke"),
            ("POST", "/api/auth/keys/accept-history"),
            ("DELETE", "/api/auth/keys/7"),
            ("PATCH", "/api/auth/keys/7"),
            ("POST", "/api/auth/keys/7/revoke"),
            ("POST", "/api/auth/keys/7/rotate"),
            ("DELETE", "/api/auth/sessions"),
            ("POST", "/login"),
            ("POST", "/logout"),
            ("GET", "/login/google"),
        ];
        let others = others.map(|(method, path)| denial_message(method, path).unwrap().0);
        let denials: HashSet<_> = of_accounts.into_iter().chain(others).collect();
        assert_eq!(denials, HashSet::from(DENIALS));
    }
}
