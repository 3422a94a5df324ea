//! Service accounts, by Grafana's HTTP API: search, create, show, change and delete them.  Their keys are `tokens`.
//!
//! Paths, statuses, bodies and messages are Grafana's.  What Grafana does not have (`actor`, `policies`, `description`)
//! is beside its members.

mod body;
pub(super) mod tokens;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use self::body::{AccountEdit, NewAccount};
use super::audit::ChangeAttempt;
use super::auth::{Manager, Writable};
use super::body::{Json, Message};
use super::error::{ApiError, InvalidKind};
use super::keys::rules::{self, check_actor, check_policies, role_schema};
use super::query::{self, Page};
use super::responses::{AccountNotFoundErrors, BodyErrors, CallerErrors, PermissionErrors};
use super::{Admin, with_store_timeout};
use crate::actor::Actor;
use crate::keys::audit::Action;
use crate::keys::store::{AccountFilter, AccountRef, KeyFilter, KeyOrder, ListedAccount};
use crate::keys::{Account, Changed, CreateAccount, EditAccount, MAX_NAME, Privileges, Role};
use crate::snapshot::{NameOwner, Snapshot};

/// The only organization, which has all service accounts.
const ORGANIZATION: i64 = 1;

/// A service account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceAccount {
    id: i64,
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    /// The name as Grafana writes it where it is a user's: sa-1- and the name in lower case, without blanks
    login: String,
    org_id: i64,
    is_disabled: bool,
    #[schema(schema_with = role_schema)]
    role: &'static str,
    /// How many live keys it has
    tokens: u64,
    /// Always empty
    avatar_url: &'static str,
    /// Always empty
    teams: [&'static str; 0],
    #[schema(format = DateTime)]
    created_at: String,
    /// The id of the actor who created it
    created_by: String,
    /// Left out when it is not disabled
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    disabled_at: Option<String>,
    /// Left out when it has none
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    description: Option<String>,
    /// Members of its actor beyond id, name, role, key and key_id; left out when it has none
    #[serde(skip_serializing_if = "Map::is_empty")]
    actor: Map<String, Value>,
    /// The only policies under which its keys count; left out when they are not restricted
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    policies: Option<Vec<String>>,
}

impl ServiceAccount {
    fn new(account: Account, live_keys: u64) -> Self {
        let Account { id, name, description, role, actor, policies, created_at, created_by, disabled_at } =
            account;
        Self {
            id,
            login: login(&name),
            name,
            org_id: ORGANIZATION,
            is_disabled: disabled_at.is_some(),
            role: role.as_str(),
            tokens: live_keys,
            avatar_url: "",
            teams: [],
            created_at: created_at.to_string(),
            created_by,
            disabled_at: disabled_at.map(|at| at.to_string()),
            description,
            actor,
            policies,
        }
    }
}

impl From<ListedAccount> for ServiceAccount {
    fn from(ListedAccount { account, live_keys }: ListedAccount) -> Self {
        Self::new(account, live_keys)
    }
}

/// The login name that Grafana gives the account.
fn login(name: &str) -> String {
    format!("sa-{ORGANIZATION}-{}", name.to_lowercase().replace(' ', "-"))
}

/// A page of the service accounts.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccountSearch {
    /// How many there are on all pages
    total_count: u64,
    service_accounts: Vec<ServiceAccount>,
    page: u64,
    per_page: u32,
}

/// The query of the search.  An unreadable parameter counts as missing, as in Grafana.
#[derive(Debug, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchQuery {
    /// With this in their names, whatever its case
    #[param(nullable = false)]
    query: Option<String>,
    /// Disabled ones alone
    #[param(required = false)]
    disabled: bool,
    /// Those with a key that expired
    #[param(rename = "expiredTokens", required = false)]
    expired_tokens: bool,
    /// So many at a time; by default 1000
    #[param(rename = "perpage", required = false, minimum = 1, maximum = 1000)]
    per_page: u32,
    /// Which of the pages, from 1 on
    #[param(required = false, minimum = 1)]
    page: u64,
}

impl SearchQuery {
    /// # Errors
    /// 400: `perpage` is more than a page holds, or the name of a parameter is nearly a known one.
    fn parse(query: &str) -> Result<Self, ApiError> {
        const PARAMETERS: [&str; 6] = ["query", "disabled", "Disabled", "expiredTokens", "perpage", "page"];
        query::check_names_as_grafana(query, &PARAMETERS)?;
        let page = Page::parse_as_grafana(query)?;
        Ok(Self {
            query: query::text(query, "query"),
            // Clients that were made from Grafana's OpenAPI document write it with a capital letter.
            disabled: query::flag(query, "disabled") || query::flag(query, "Disabled"),
            expired_tokens: query::flag(query, "expiredTokens"),
            per_page: page.size(),
            page: page.number,
        })
    }
}

impl<S: Sync> FromRequestParts<S> for SearchQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// The id in the path.
#[derive(Clone, Copy)]
pub(super) struct AccountId(i64);

impl<S: Send + Sync> FromRequestParts<S> for AccountId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|_| ApiError::InvalidAccountId)?;
        Ok(Self(id.parse().map_err(|_| ApiError::InvalidAccountId)?))
    }
}

/// The service accounts, by name
///
/// A page of them: names are compared by their bytes.
#[utoipa::path(
    get,
    path = "/api/serviceaccounts/search",
    operation_id = "searchServiceAccounts",
    tag = "service accounts",
    params(SearchQuery),
    responses(
        (status = OK, description = "The page", body = AccountSearch),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn search(
    State(admin): State<Arc<Admin>>,
    _: Manager,
    SearchQuery { query, disabled, expired_tokens, per_page, page }: SearchQuery,
) -> Result<Json<AccountSearch>, ApiError> {
    let filter = AccountFilter { query, is_disabled: disabled, has_expired_keys: expired_tokens };
    let offset = Page { number: page, size: Some(per_page) }.offset();
    let listed = admin.keys.list_accounts(&filter, offset, per_page);
    let listed = with_store_timeout(listed).await??;
    Ok(Json(AccountSearch {
        total_count: listed.total,
        service_accounts: listed.accounts.into_iter().map(ServiceAccount::from).collect(),
        page,
        per_page,
    }))
}

/// Create a service account
///
/// Its name is never given again, even once it is deleted, as long as the audit remembers it: policies may speak of it.
#[utoipa::path(
    post,
    path = "/api/serviceaccounts",
    operation_id = "createServiceAccount",
    tag = "service accounts",
    request_body = NewAccount,
    responses(
        (status = CREATED, description = "The service account", body = ServiceAccount),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
    ),
)]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    Json(new): Json<NewAccount>,
) -> Result<(StatusCode, Json<ServiceAccount>), ApiError> {
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    let NewAccount { name, role, is_disabled, actor, policies, description } = new;
    attempt.set_account(None, &name, role);
    check_actor(&actor, settings)?;
    check_policies(policies.as_deref().unwrap_or_default(), &snapshot)?;
    manager.check_role(role)?;
    check_name(&name, &manager, &snapshot)?;
    check_headers(&name, role, &actor, &snapshot)?;
    let new = CreateAccount { name, description, role, actor, policies, is_disabled };
    // In the store's transaction: the rules as they are then.
    let grant_check =
        |privileges: &Privileges<'_>| manager.check_grant(privileges, &admin.authorizer.snapshot());
    let author = manager.author(&attempt);
    let created = admin.keys.create_account(&new, &author, &grant_check);
    let account = with_store_timeout(created).await??;
    attempt.log_account_change(Action::ACCOUNT_CREATED, manager.principal(), None, Some(&account));
    Ok((StatusCode::CREATED, Json(ServiceAccount::new(account, 0))))
}

/// One service account
#[utoipa::path(
    get,
    path = "/api/serviceaccounts/{id}",
    operation_id = "getServiceAccount",
    tag = "service accounts",
    params(("id" = i64, Path, description = "The id of the service account")),
    responses(
        (status = OK, description = "The service account", body = ServiceAccount),
        CallerErrors,
        PermissionErrors,
        AccountNotFoundErrors,
    ),
)]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    _: Manager,
    id: AccountId,
) -> Result<Json<ServiceAccount>, ApiError> {
    let account = admin.account(id).await?;
    let live_keys = admin.live_keys(&account).await?;
    Ok(Json(ServiceAccount::new(account, live_keys)))
}

/// A service account that was changed.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangedAccount {
    message: &'static str,
    id: i64,
    name: String,
    serviceaccount: ServiceAccount,
}

/// Change a service account
///
/// The rights of all its keys change at once. A member that is left out stays as it is; null clears description,
/// policies and actor.
#[utoipa::path(
    patch,
    path = "/api/serviceaccounts/{id}",
    operation_id = "updateServiceAccount",
    tag = "service accounts",
    params(("id" = i64, Path, description = "The id of the service account")),
    request_body = AccountEdit,
    responses(
        (status = OK, description = "The service account as it is now", body = ChangedAccount),
        CallerErrors,
        PermissionErrors,
        AccountNotFoundErrors,
        BodyErrors,
    ),
)]
pub(super) async fn update(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    id: AccountId,
    Json(edit): Json<AccountEdit>,
) -> Result<Json<ChangedAccount>, ApiError> {
    let edit = EditAccount::from(edit);
    let account = admin.managed_account(id, &manager, &attempt).await?;
    let snapshot = admin.authorizer.snapshot();
    check_edit(&edit, &account, &manager, &snapshot)?;
    let is_end = is_end(&edit);
    if !is_end {
        let after = edit.apply(&account, admin.clock.now());
        check_headers(&after.name, after.role, &after.actor, &snapshot)?;
    }
    // In the store's transaction: the account's row and the rules as they are then.
    let grant_check = |privileges: &Privileges<'_>| {
        if is_end {
            manager.check_end(privileges)
        } else {
            manager.check_grant(privileges, &admin.authorizer.snapshot())
        }
    };
    let author = manager.author(&attempt);
    let edited = admin.keys.edit_account(account.id, &edit, &author, &grant_check);
    let Changed { before, after } = with_store_timeout(edited).await??;
    attempt.log_account_change(Action::ACCOUNT_CHANGED, manager.principal(), before.as_ref(), after.as_ref());
    let account = after.ok_or(ApiError::Internal)?;
    let live_keys = admin.live_keys(&account).await?;
    Ok(Json(ChangedAccount {
        message: "Service account updated",
        id: account.id,
        name: account.name.clone(),
        serviceaccount: ServiceAccount::new(account, live_keys),
    }))
}

/// Delete a service account, and its keys with it
#[utoipa::path(
    delete,
    path = "/api/serviceaccounts/{id}",
    operation_id = "deleteServiceAccount",
    tag = "service accounts",
    params(("id" = i64, Path, description = "The id of the service account")),
    responses(
        (status = OK, description = "It is deleted", body = Message),
        CallerErrors,
        PermissionErrors,
        AccountNotFoundErrors,
    ),
)]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    id: AccountId,
) -> Result<Json<Message>, ApiError> {
    let account = admin.managed_account(id, &manager, &attempt).await?;
    let end_check = |privileges: &Privileges<'_>| manager.check_end(privileges);
    let author = manager.author(&attempt);
    let deleted = admin.keys.delete_account(account.id, &author, &end_check);
    let (account, keys) = with_store_timeout(deleted).await??;
    attempt.log_deleted_account(manager.principal(), &account, keys);
    Ok(Json(Message { message: "Service account deleted" }))
}

impl Admin {
    async fn account(&self, AccountId(id): AccountId) -> Result<Account, ApiError> {
        with_store_timeout(self.keys.account(id)).await??.ok_or(ApiError::AccountNotFound)
    }

    /// The account that a manager is about to change.
    async fn managed_account(
        &self,
        id: AccountId,
        manager: &Manager,
        attempt: &ChangeAttempt,
    ) -> Result<Account, ApiError> {
        let account = self.account(id).await?;
        attempt.set_account(Some(account.id), &account.name, account.role);
        manager.check_role(account.role)?;
        Ok(account)
    }

    /// How many live keys an account has.
    async fn live_keys(&self, account: &Account) -> Result<u64, ApiError> {
        let account = Some(AccountRef::Id(account.id));
        let filter = KeyFilter { account, live_at: Some(self.clock.now()), ..KeyFilter::default() };
        let page = with_store_timeout(self.keys.list_page(&filter, KeyOrder::default(), 0, 1)).await??;
        Ok(page.total)
    }
}

/// Whether a change does nothing but disable the account: to end is not to give.
fn is_end(edit: &EditAccount) -> bool {
    *edit == EditAccount { is_disabled: Some(true), ..EditAccount::default() }
}

/// Checks a change of an account, except for the rank of its role.
fn check_edit(
    edit: &EditAccount,
    account: &Account,
    manager: &Manager,
    snapshot: &Snapshot,
) -> Result<(), ApiError> {
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    if let Some(actor) = &edit.actor {
        check_actor(actor, settings)?;
    }
    if let Some(Some(policies)) = &edit.policies {
        check_policies(policies, snapshot)?;
    }
    if let Some(role) = edit.role {
        manager.check_role(role)?;
    }
    match &edit.name {
        Some(name) if *name != account.name => check_name(name, manager, snapshot),
        Some(_) | None => Ok(()),
    }
}

/// Checks that the configuration does not use the name, as for a key; an Admin may use the name of a user.
fn check_name(name: &str, manager: &Manager, snapshot: &Snapshot) -> Result<(), ApiError> {
    let problem = match snapshot.name_owner(name) {
        None => return Ok(()),
        Some(NameOwner::User) if manager.role() == Some(Role::Admin) => return Ok(()),
        Some(NameOwner::User) => "a user of the configuration has this name, and an Admin alone may give it",
        Some(NameOwner::Actor) => {
            "a user or a token of the configuration, or one of their actors, has this name"
        }
    };
    Err(ApiError::invalid(InvalidKind::AccountNameReserved, "name", problem))
}

/// Checks that the actor headers fit into the answer to a Check, whatever name a key of the account has: otherwise every
/// Check of such a key would be denied.
fn check_headers(
    name: &str,
    role: Role,
    actor: &Map<String, Value>,
    snapshot: &Snapshot,
) -> Result<(), ApiError> {
    let longest = "\u{10ffff}".repeat(MAX_NAME);
    let field = if actor.is_empty() { "name" } else { "actor" };
    let key = Actor::of_account_key(name, role.as_str(), &longest, i64::MAX, actor);
    rules::check_headers(&key, field, snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_as_grafana_reads_it() {
        let search = |query: &str| SearchQuery::parse(query).unwrap();
        let all =
            || SearchQuery { query: None, disabled: false, expired_tokens: false, per_page: 1000, page: 1 };
        for (query, expected) in [
            ("", all()),
            ("query=&perpage=0&page=0&disabled=0&expiredTokens=no", all()),
            ("perpage=x&page=-1", all()),
            ("query=a%20b", SearchQuery { query: Some("a b".into()), ..all() }),
            ("Disabled=True", SearchQuery { disabled: true, ..all() }),
            ("disabled=true", SearchQuery { disabled: true, ..all() }),
            (
                "expiredTokens=1&perpage=10&page=3",
                SearchQuery { expired_tokens: true, per_page: 10, page: 3, ..all() },
            ),
        ] {
            assert_eq!(search(query), expected, "{query}");
        }
        assert_eq!(SearchQuery::parse("perpage=1001").unwrap_err().reason(), "invalid_perpage");
    }

    #[test]
    fn a_login_is_written_as_grafana_writes_it() {
        assert_eq!(login("CI runner 2"), "sa-1-ci-runner-2");
    }
}
