//! `GET /api/auth/keys/export`: the live keys as an import takes them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use super::import::KeyLine;
use super::stream::{self, KeyWriter, Pages};
use crate::admin::auth::Manager;
use crate::admin::error::ApiError;
use crate::admin::query::NoParameters;
use crate::admin::responses::{CallerErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::store::LIST_PAGE;
use crate::keys::{Role, StoredKey};

/// A key as a line, which [`KeyLine`] reads.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportedKey<'k> {
    name: &'k str,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'k str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'k str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'k str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_source: Option<&'k str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'k Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<&'k [String]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    created: String,
    created_by: &'k str,
}

impl<'k> ExportedKey<'k> {
    fn new(StoredKey { key, digest, .. }: &'k StoredKey, account: Option<&'k str>) -> Self {
        let person = key.owner.person();
        Self {
            name: &key.name,
            sha256: digest.to_hex(),
            role: key.role.filter(|_| key.owner.account().is_none()).map(Role::as_str),
            description: key.description.as_deref(),
            account,
            owner: person.map(|person| &*person.subject),
            owner_source: person.map(|person| person.source.as_str()),
            expiration: key.expires_at.map(|at| at.to_string()),
            actor: (!key.actor.is_empty()).then_some(&key.actor),
            policies: key.policies.as_deref(),
            disabled: key.disabled_at.is_some(),
            created: key.created_at.to_string(),
            created_by: &key.created_by,
        }
    }
}

/// Export keys
///
/// For an Admin: the keys that are neither revoked nor expired, one a line, with the digests of their tokens and without those
/// that a rotation replaced. An export that breaks off on the way ends without its last chunk.
#[utoipa::path(
    get,
    path = "/api/auth/keys/export",
    operation_id = "exportKeys",
    tag = "keys",
    responses(
        (status = OK, description = "The keys", body = KeyLine, content_type = "application/x-ndjson"),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(in crate::admin) async fn export(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: NoParameters,
) -> Result<Response, ApiError> {
    manager.check_role(Role::Admin)?;
    let permit = admin.list_permit().await?;
    stream::respond(Export { admin, after: Some(i64::MIN), _permit: permit }).await
}

/// An export that is being written.
struct Export {
    admin: Arc<Admin>,
    /// The id after which the next page begins; `None` after the last one.
    after: Option<i64>,
    _permit: OwnedSemaphorePermit,
}

impl Pages for Export {
    const MEDIA_TYPE: &'static str = "application/x-ndjson";

    fn is_done(&self) -> bool {
        self.after.is_none()
    }

    async fn next_page(mut self) -> Result<Option<(Vec<u8>, Self)>, ApiError> {
        let Some(after) = self.after else {
            return Ok(None);
        };
        let keys = with_store_timeout(self.admin.keys.export_after(after)).await??;
        let names = self.admin.account_names(keys.iter().map(|stored| &stored.key.owner)).await?;
        let mut writer = KeyWriter::new();
        for stored in &keys {
            let account = match stored.key.owner.account() {
                None => None,
                // It was deleted since, and its keys with it.
                Some(id) => match names.get(id) {
                    None => continue,
                    account => account,
                },
            };
            writer.write(&ExportedKey::new(stored, account)).await?;
            writer.punctuate(b"\n");
        }
        self.after = keys.last().map(|stored| stored.key.id).filter(|_| keys.len() == LIST_PAGE);
        Ok(Some((writer.into_text(), self)))
    }
}
