//! `GET /api/auth/keys` and `GET /api/auth/keys/:id`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use utoipa::IntoParams;

use super::KeyId;
use super::listed::ListedKey;
use super::rules::{parse_role, role_schema};
use super::stream::{self, KeyList};
use crate::admin::auth::{KeyManager, Manager};
use crate::admin::body::Json;
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::query::{self, Page};
use crate::admin::responses::{CallerErrors, NotFoundErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::Role;
use crate::keys::store::{AccountRef, KeyFilter, KeyOrder, OwnerKind, SortKey};

/// How many keys a list has of which the response is one page.
pub(in crate::admin) const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// The query of `GET /api/auth/keys`.  Of the parameters that Grafana has, a value that cannot be read counts as missing,
/// as there.
#[derive(Debug, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct ListQuery {
    /// The expired and the revoked ones, too.
    #[param(rename = "includeExpired", required = false)]
    include_expired: bool,
    /// With this in their names, whatever its case.
    #[param(nullable = false)]
    query: Option<String>,
    /// With this role. A service account's keys have the account's; those of people with the role that the person has are left
    /// out.
    #[param(required = false, schema_with = role_schema)]
    role: Option<Role>,
    /// Of the service account of this name or id. Where there is none it is an error.
    #[param(nullable = false)]
    account: Option<String>,
    /// Of people whose name, or id at a directory or a provider, is this.
    #[param(nullable = false)]
    owner: Option<String>,
    /// Of this kind of owner: none, account or person.
    #[param(value_type = Option<String>, nullable = false)]
    kind: Option<OwnerKind>,
    /// Made by the actor of this id.
    #[param(rename = "createdBy", nullable = false)]
    created_by: Option<String>,
    /// That expire within this number of seconds.
    #[param(rename = "expiringSeconds", minimum = 0, nullable = false)]
    expiring_seconds: Option<i64>,
    /// Not used, made or imported within the last so many seconds.
    #[param(rename = "unusedSeconds", minimum = 0, nullable = false)]
    unused_seconds: Option<i64>,
    /// With perpage: name, created, expiration, lastUsedAt or role; a minus before it turns the order round.
    #[param(value_type = Option<String>, nullable = false)]
    sort: Option<KeyOrder>,
    /// So many at a time.
    #[param(rename = "perpage", minimum = 1, maximum = 1000, nullable = false)]
    per_page: Option<u32>,
    /// Which of the pages, from 1 on.
    #[param(required = false, minimum = 1)]
    page: u64,
}

/// The parameters of the query.
const PARAMETERS: [&str; 12] = [
    "includeExpired",
    "query",
    "role",
    "account",
    "owner",
    "kind",
    "createdBy",
    "expiringSeconds",
    "unusedSeconds",
    "sort",
    "perpage",
    "page",
];

impl ListQuery {
    /// # Errors
    /// 400: `perpage` is no size of a page, a parameter that Grafana does not have cannot be read, or the name of one is
    /// nearly a known one.
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        query::check_names_as_grafana(query, &PARAMETERS)?;
        let text = |name| query::text(query, name);
        let page = Page::parse(query, "; without it the list is whole")?;
        let seconds = |name| {
            let value = text(name).map(|value| value.parse::<i64>().ok().filter(|&seconds| seconds >= 0));
            let problem = "expected a whole number of seconds";
            value.map(|value| value.ok_or_else(|| invalid(name, problem))).transpose()
        };
        let sort = text("sort").map(|text| parse_order(&text)).transpose()?;
        if page.size.is_none() && sort.is_some_and(|order| order != KeyOrder::default()) {
            return Err(invalid("sort", "needs perpage: without it the list is whole, and by name"));
        }
        Ok(Self {
            include_expired: query::flag(query, "includeExpired"),
            query: text("query"),
            role: text("role").map(|text| parse_role(&text)).transpose()?,
            account: text("account"),
            owner: text("owner"),
            kind: text("kind").map(|text| parse_kind(&text)).transpose()?,
            created_by: text("createdBy"),
            expiring_seconds: seconds("expiringSeconds")?,
            unused_seconds: seconds("unusedSeconds")?,
            sort,
            per_page: page.size,
            page: page.number,
        })
    }

    /// The page that is asked for: how many keys come before it, and how many it has at most.  `None` is the whole list.
    fn page(&self) -> Option<(u64, u32)> {
        let per_page = self.per_page?;
        Some((Page { number: self.page, size: self.per_page }.offset(), per_page))
    }

    /// Which keys are wanted of those that exist for the manager.
    ///
    /// # Errors
    /// 400: there is no such service account; the store failed.
    async fn filter(&self, admin: &Arc<Admin>, manager: &Manager) -> Result<KeyFilter, ApiError> {
        let now = admin.clock.now();
        let account = match &self.account {
            None => None,
            // Its keys do not exist for a caller who only sees their own keys, and the response does not reveal whether
            // there is one.
            Some(text) if manager.sees_only().is_some() => Some(AccountRef::Name(text.clone())),
            Some(text) => Some(admin.account_of_condition(text).await?),
        };
        let after = |seconds| now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        let before = |seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        Ok(KeyFilter {
            live_at: (!self.include_expired).then_some(now),
            query: self.query.clone(),
            name_pattern: None,
            role: self.role,
            kind: self.kind,
            account,
            owner: self.owner.clone(),
            person: manager.sees_only().cloned(),
            created_by: self.created_by.clone(),
            created_since: None,
            expires_by: self.expiring_seconds.map(after),
            unused_since: self.unused_seconds.map(before),
        })
    }
}

fn invalid(name: &'static str, problem: &str) -> ApiError {
    ApiError::invalid(InvalidKind::Parameter, name, problem)
}

fn parse_kind(text: &str) -> Result<OwnerKind, ApiError> {
    match text {
        "none" => Ok(OwnerKind::None),
        "account" => Ok(OwnerKind::Account),
        "person" => Ok(OwnerKind::Person),
        _ => Err(invalid("kind", "expected none, account or person")),
    }
}

fn parse_order(text: &str) -> Result<KeyOrder, ApiError> {
    let (text, is_descending) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
    let by = match text {
        "name" => SortKey::Name,
        "created" => SortKey::Created,
        "expiration" => SortKey::Expiration,
        "lastUsedAt" => SortKey::LastUsed,
        "role" => SortKey::Role,
        _ => {
            let problem = "expected name, created, expiration, lastUsedAt or role, or one of these with a minus before it";
            return Err(invalid("sort", problem));
        }
    };
    Ok(KeyOrder { by, is_descending })
}

impl<S: Sync> FromRequestParts<S> for ListQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// The keys, by name
///
/// All live ones, disabled ones too, or a page of them when perpage asks for one. Of several conditions all must hold. Names
/// are compared by their bytes. People who may only have keys of their own see those alone. A list that breaks off on the
/// way ends without its closing bracket and last chunk.
#[utoipa::path(
    get,
    path = "/api/auth/keys",
    operation_id = "listKeys",
    tag = "keys",
    params(ListQuery),
    responses(
        (
            status = OK, description = "The keys", body = Vec<ListedKey>,
            headers(("X-Total-Count" = u64, description = "With perpage: how many keys the whole list has"))
        ),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(in crate::admin) async fn list(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let filter = query.filter(&admin, &manager).await?;
    let Some((offset, limit)) = query.page() else {
        let permit = admin.list_permit().await?;
        return stream::respond(KeyList::new(admin, filter, permit)).await;
    };
    let order = query.sort.unwrap_or_default();
    let page = with_store_timeout(admin.keys.list_page(&filter, order, offset, limit)).await??;
    let context = admin.key_context(&page.keys).await?;
    let text = stream::write_array(page.keys, &context).await?;
    Ok(([(TOTAL_COUNT, page.total)], [(CONTENT_TYPE, "application/json")], text).into_response())
}

/// One key, live or dead
#[utoipa::path(
    get,
    path = "/api/auth/keys/{id}",
    operation_id = "getKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    responses(
        (status = OK, description = "The key", body = ListedKey),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
    ),
)]
pub(in crate::admin) async fn show(
    State(admin): State<Arc<Admin>>,
    KeyManager(manager): KeyManager,
    id: KeyId,
) -> Result<Json<ListedKey>, ApiError> {
    let key = admin.key(id, &manager).await?;
    Ok(Json(admin.listed(key).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_range_of_the_list() {
        for (query, expected) in [
            ("", None),
            ("perpage=100", Some((0, 100))),
            ("perpage=100&page=3", Some((200, 100))),
            ("page=3", None),
            ("perpage=&page=2", None),
            ("perpage=1000", Some((0, 1000))),
            ("perpage=2&page=18446744073709551615", Some((u64::MAX, 2))),
        ] {
            let query_ = ListQuery::parse(query).unwrap();
            assert_eq!(query_.page(), expected, "{query}");
        }
        for query in
            ["perpage=1001", "perpage=18446744073709551615", "perpage=0", "perpage=-1", "perpage=x&page=2"]
        {
            assert_eq!(ListQuery::parse(query).unwrap_err().reason(), "invalid_perpage", "{query}");
        }
    }

    #[test]
    fn a_parameter_that_cannot_be_read_is_named() {
        for (query, field) in [
            ("includeexpired=true", "unknown parameter"),
            ("acount=ci", "unknown parameter"),
            ("page=0", "page"),
            ("kind=nobody", "kind"),
            ("role=viewer", "role"),
            ("expiringSeconds=1d", "expiringSeconds"),
            ("unusedSeconds=-1", "unusedSeconds"),
            ("sort=id&perpage=10", "sort"),
            ("sort=--name&perpage=10", "sort"),
            ("sort=created", "sort"),
            ("sort=-name", "sort"),
        ] {
            assert_eq!(ListQuery::parse(query).unwrap_err().field(), Some(field), "{query}");
        }
        let query =
            ListQuery::parse("sort=-lastUsedAt&perpage=5&kind=none&role=Admin&query=&owner=a%20b").unwrap();
        assert_eq!(query.sort, Some(KeyOrder { by: SortKey::LastUsed, is_descending: true }));
        assert_eq!((query.kind, query.role, query.query), (Some(OwnerKind::None), Some(Role::Admin), None));
        assert_eq!(query.owner.as_deref(), Some("a b"));
        assert!(ListQuery::parse("sort=name").is_ok());
        assert!(ListQuery::parse("accesscontrol=true&limit=10").is_ok(), "as clients of Grafana send");
    }
}
