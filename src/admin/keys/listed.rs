//! A key as answers show it: every member but its secret.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::yield_now;
use utoipa::ToSchema;

use super::rules::{policies_schema, role_schema};
use crate::admin::error::ApiError;
use crate::admin::{Admin, with_store_timeout};
use crate::keys::store::LIST_PAGE;
use crate::keys::{Key, KeyOwner, Role, Status, WhyDenied};

/// A key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub(in crate::admin) struct ListedKey {
    id: i64,
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    /// Left out for a service account's key, which has the account's, and for a person's that has the person's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = role_schema)]
    role: Option<&'static str>,
    /// Left out when the key never expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expiration: Option<String>,
    /// Left out when the key was never used; exact to a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    last_used_at: Option<String>,
    #[schema(format = DateTime)]
    created: String,
    /// Left out when it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_revoked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 500)]
    description: Option<String>,
    /// The name of the service account that owns the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    account_id: Option<i64>,
    /// The person who owns the key: the name of a user, or the id that a directory or a provider has for the person.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    owner: Option<String>,
    /// Where that person comes from: config, ldap, or a provider's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    owner_source: Option<String>,
    /// Left out when the key is valid under all policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = policies_schema)]
    policies: Option<Vec<String>>,
    /// Its own members of its actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    actor: Option<Map<String, Value>>,
    /// The id of the actor who created it.
    created_by: String,
    /// Left out when it was made here. Until its first use it is unused since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    imported_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    revoked_at: Option<String>,
    /// The id of the actor who revoked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked_by: Option<String>,
    /// Left out when it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    disabled_at: Option<String>,
    /// Why a Check denies it although it is neither revoked nor expired nor disabled: account_disabled or account_gone (its
    /// service account is), owner_gone (its owner no longer exists) or held_back (it was revoked before the store was
    /// restored). Left out when a Check does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    denied: Option<&'static str>,
    /// Until when the token works that it had before it was rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    old_secret_until: Option<String>,
    /// How often it was used, as far as that was written. Left out when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    uses: Option<u64>,
    /// The address from which it was last used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_address: Option<String>,
}

impl ListedKey {
    /// The key; `account` is the name of the service account whose it is, and `why_denied` why a Check denies it although
    /// it is live.
    pub fn new(key: Key, account: Option<String>, why_denied: Option<WhyDenied>) -> Self {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let (account_id, person) = match key.owner {
            KeyOwner::None => (None, None),
            KeyOwner::Account(id) => (Some(id), None),
            KeyOwner::Person(person) => (None, Some(person)),
        };
        let owner_source = person.as_ref().map(|person| person.source.as_str().to_owned());
        Self {
            id: key.id,
            name: key.name,
            // The values in the record of an account's key are not used.
            role: key.role.filter(|_| account_id.is_none()).map(Role::as_str),
            expiration: time(key.expires_at),
            last_used_at: time(key.last_used_at),
            created: key.created_at.to_string(),
            is_revoked: key.revoked_at.is_some(),
            description: key.description,
            account: account.filter(|_| account_id.is_some()),
            account_id,
            owner: person.map(|person| person.subject.into()),
            owner_source,
            policies: key.policies,
            actor: (!key.actor.is_empty()).then_some(key.actor),
            created_by: key.created_by,
            imported_at: time(key.imported_at),
            revoked_at: time(key.revoked_at),
            revoked_by: key.revoked_by,
            is_disabled: key.disabled_at.is_some(),
            disabled_at: time(key.disabled_at),
            denied: why_denied.map(WhyDenied::as_str),
            old_secret_until: time(key.previous_until),
            uses: (key.uses > 0).then_some(key.uses),
            last_address: key.last_address,
        }
    }
}

/// The names of the service accounts of some keys.
#[derive(Default)]
pub(in crate::admin) struct AccountNames(HashMap<i64, String>);

impl AccountNames {
    /// The name of the account of this id.
    pub fn get(&self, id: i64) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }
}

/// The data about keys in responses, in addition to their records.
pub(in crate::admin) struct KeyContext {
    names: AccountNames,
    denied_keys: DeniedKeys,
}

impl KeyContext {
    /// The key with the name of its account, and whether a Check denies it.
    pub fn listed(&self, key: Key) -> ListedKey {
        let account = key.owner.account().and_then(|id| self.names.get(id).map(str::to_owned));
        let why_denied = self.denied_keys.of(&key);
        ListedKey::new(key, account, why_denied)
    }
}

/// Why Checks deny some keys although they are live.
pub(in crate::admin) struct DeniedKeys(HashMap<i64, WhyDenied>);

impl DeniedKeys {
    /// Why one does; `None` where none does, and where the key's record says why.
    pub fn of(&self, key: &Key) -> Option<WhyDenied> {
        self.0.get(&key.id).copied().filter(|why_denied| *why_denied != WhyDenied::Disabled)
    }
}

impl Admin {
    /// The names of the service accounts that own these keys.
    ///
    /// # Errors
    /// The store failed.
    pub(in crate::admin) async fn account_names<'k>(
        &self,
        owners: impl Iterator<Item = &'k KeyOwner>,
    ) -> Result<AccountNames, ApiError> {
        let mut ids: Vec<i64> = owners.filter_map(KeyOwner::account).collect();
        ids.sort_unstable();
        ids.dedup();
        let accounts = with_store_timeout(self.keys.accounts_of_ids(&ids)).await??;
        Ok(AccountNames(accounts.into_iter().map(|account| (account.id, account.name)).collect()))
    }

    /// Why Checks deny some of these keys although they are live.
    pub(in crate::admin) async fn denied_keys(&self, keys: &[Key]) -> DeniedKeys {
        let (now, snapshot) = (self.clock.now(), self.authorizer.snapshot());
        let mut found = HashMap::new();
        // Checks are answered on the same threads.
        for keys in keys.chunks(LIST_PAGE) {
            let live = keys.iter().filter(|key| key.status(now) == Status::Live);
            let ids: Vec<i64> = live.map(|key| key.id).collect();
            found.extend(self.authorizer.sources().denied_keys(&ids, &snapshot));
            yield_now().await;
        }
        DeniedKeys(found)
    }

    /// The data about these keys in responses, in addition to their records.
    ///
    /// # Errors
    /// The store failed.
    pub(in crate::admin) async fn key_context(&self, keys: &[Key]) -> Result<KeyContext, ApiError> {
        let names = self.account_names(keys.iter().map(|key| &key.owner)).await?;
        Ok(KeyContext { names, denied_keys: self.denied_keys(keys).await })
    }

    /// One key as answers show it.
    ///
    /// # Errors
    /// The store failed.
    pub(in crate::admin) async fn listed(&self, key: Key) -> Result<ListedKey, ApiError> {
        let context = self.key_context(std::slice::from_ref(&key)).await?;
        Ok(context.listed(key))
    }
}
