//! The key API: list, show, create, change, rotate, revoke, delete, find, import and export.  Paths, bodies and messages
//! are Grafana's where Grafana has them.
//!
//! Each call is a handler of its own module.  [`listed`] is a key as answers show it, [`stream`] writes lists of any
//! length, [`rules`] has what holds for the members of keys, for every caller.

pub(super) mod bulk;
pub(super) mod changes;
pub(super) mod create;
pub(super) mod export;
pub(super) mod find;
pub(super) mod import;
pub(super) mod list;
pub(super) mod listed;
pub(super) mod rules;
pub(super) mod stream;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::audit::ChangeAttempt;
use super::auth::Manager;
use super::error::{ApiError, InvalidKind};
use super::{Admin, with_store_timeout};
use crate::keys::store::AccountRef;
use crate::keys::{Account, Key, Privileges};
use crate::secret::Secret;

/// A key with its token, which no other response holds.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Created)]
pub(super) struct IssuedKey {
    id: i64,
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    /// The token.
    #[serde(serialize_with = "expose")]
    #[schema(value_type = String)]
    key: Secret,
    /// Of a rotated key: until when the token works that it had before. Left out when that one is denied at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    old_secret_until: Option<String>,
}

impl IssuedKey {
    /// A key and its token.
    pub(super) fn new(key: &Key, secret: Secret) -> Self {
        Self { id: key.id, name: key.name.clone(), key: secret, old_secret_until: None }
    }

    /// The same of a rotation after which the old token works on.
    #[must_use]
    pub(super) fn with_overlap(self, key: &Key) -> Self {
        Self { old_secret_until: key.previous_until.map(|at| at.to_string()), ..self }
    }
}

fn expose<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// The id in the path.
#[derive(Clone, Copy)]
pub(super) struct KeyId(i64);

impl<S: Send + Sync> FromRequestParts<S> for KeyId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|_| ApiError::InvalidId)?;
        Ok(Self(id.parse().map_err(|_| ApiError::InvalidId)?))
    }
}

/// Reads every body and query of these calls, for the fuzzer: none of them panics, whatever it is.
#[cfg(any(test, fuzzing))]
pub(super) fn read_all(bytes: &[u8]) {
    use super::body::read_members;

    let _ = read_members::<create::NewKeyBody>(bytes);
    let _ = read_members::<changes::KeyChangeBody>(bytes);
    let _ = read_members::<changes::Rotation>(bytes);
    let _ = read_members::<bulk::RevocationBody>(bytes);
    let _ = read_members::<find::FindBody>(bytes);
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = read_members::<import::KeyLine>(line);
    }
    if let Ok(query) = std::str::from_utf8(bytes) {
        let _ = list::ListQuery::parse(query);
    }
}

impl Admin {
    /// The key of this id, where it exists for the manager.
    ///
    /// # Errors
    /// 404.
    async fn key(&self, KeyId(id): KeyId, manager: &Manager) -> Result<Key, ApiError> {
        let key = with_store_timeout(self.keys.get(id)).await??;
        key.filter(|key| manager.sees(&key.owner)).ok_or(ApiError::KeyNotFound)
    }

    /// The key that a manager is about to change.  Its owner never changes, and its id is never used again.
    ///
    /// # Errors
    /// 404; 403 where the manager may not even end it.
    async fn managed_key(
        &self,
        id: KeyId,
        manager: &Manager,
        attempt: &ChangeAttempt,
    ) -> Result<Key, ApiError> {
        let key = self.key(id, manager).await?;
        attempt.set_key(&key.name, key.role);
        // That of its account is asked for in the transaction.
        manager.check_end(&Privileges::of_key(&key, None))?;
        Ok(key)
    }

    /// The service account of a name, or of an id where none has it as its name.
    ///
    /// # Errors
    /// The store failed.
    pub(super) async fn account_called(self: &Arc<Self>, text: &str) -> Result<Option<Account>, ApiError> {
        let named = with_store_timeout(self.keys.account_named(text)).await??;
        match text.parse() {
            Ok(id) if named.is_none() => Ok(with_store_timeout(self.keys.account(id)).await??),
            Ok(_) | Err(_) => Ok(named),
        }
    }

    /// The service account that a condition names.
    ///
    /// # Errors
    /// 400: the condition is missing.  A condition that cannot match is a typo.
    async fn account_of_condition(self: &Arc<Self>, text: &str) -> Result<AccountRef, ApiError> {
        let account = self.account_called(text).await?.ok_or_else(|| {
            let problem = "there is no service account of this name or id";
            ApiError::invalid(InvalidKind::UnknownAccount, "account", problem)
        })?;
        Ok(AccountRef::Id(account.id))
    }
}
