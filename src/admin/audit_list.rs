//! The audit of the store, in pages: who changed what, and who was denied.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::audit::actions;
use super::auth::Manager;
use super::body::{Json, shown};
use super::error::{ApiError, InvalidKind};
use super::keys::list::TOTAL_COUNT;
use super::query::{self, Page};
use super::responses::{CallerErrors, PermissionErrors};
use super::{Admin, with_store_timeout};
use crate::config::nearest;
use crate::keys::Role;
use crate::keys::audit::{AuditFilter, AuditRow, NewAuditRow};

/// What was done or denied.  What is not known, or does not fit the action, is left out.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuditEntry {
    /// Later entries have greater ones
    id: i64,
    #[schema(format = DateTime)]
    at: String,
    /// In the words of the audit log, such as API key created; of a denial such as API key not created
    action: String,
    /// The id of the actor who did it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
    /// The kind of the credential
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    credential_kind: Option<String>,
    /// Their address
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key_id: Option<i64>,
    /// The key's name then
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    account_id: Option<i64>,
    /// The service account's name then
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    account_name: Option<String>,
    /// The person who logged in or out, or whose sessions or key it is
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user: Option<String>,
    /// Where that person comes from: config, ldap, or a provider's name
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    source: Option<String>,
    /// The key or the service account before it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    before: Option<Value>,
    /// The same after it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    after: Option<Value>,
    /// The status of the answer, where it was denied
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    status: Option<u16>,
    /// Why it was denied, one word
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// For a denial: the number of denials that the entry stands for, left out for one. For a deleted service account: the
    /// number of keys that were deleted with it. For ended sessions: the number of log-ins that ended
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    count: Option<i64>,
}

impl From<AuditRow> for AuditEntry {
    fn from(AuditRow { id, row }: AuditRow) -> Self {
        let NewAuditRow {
            at,
            action,
            by,
            credential,
            address,
            key_id,
            key_name,
            account_id,
            account_name,
            user,
            source,
            before,
            after,
            status,
            reason,
            count,
        } = row;
        Self {
            id,
            at: at.to_string(),
            action,
            by,
            credential_kind: credential,
            address,
            key_id,
            key_name,
            account_id,
            account_name,
            user,
            source,
            before,
            after,
            status,
            reason,
            count,
        }
    }
}

/// The query of `GET /api/auth/audit`: all conditions must hold.
#[derive(Debug, PartialEq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// At this instant or later: RFC 3339, or a day such as 2026-11-30, which begins at midnight UTC
    #[param(nullable = false, value_type = String, required = false)]
    from: Option<Timestamp>,
    /// Before this instant, or before this day
    #[param(nullable = false, value_type = String, required = false)]
    to: Option<Timestamp>,
    /// By the actor of this id
    #[param(nullable = false)]
    actor: Option<String>,
    /// About the key of this id, or, where it is no number, of this name
    #[param(nullable = false)]
    key: Option<String>,
    /// About the service account of this id, or, where it is no number, of this name; also about its keys
    #[param(nullable = false)]
    account: Option<String>,
    /// With this action, one of those that entries can have
    #[param(nullable = false)]
    action: Option<String>,
    /// So many at a time; by default 1000
    #[param(rename = "perpage", required = false, minimum = 1, maximum = 1000)]
    per_page: u32,
    /// Which of the pages, from 1 on
    #[param(required = false, minimum = 1)]
    page: u64,
}

/// The parameters of the query.
const PARAMETERS: [&str; 8] = ["from", "to", "actor", "key", "account", "action", "perpage", "page"];

/// How many actions an error suggests.
const MAX_SUGGESTIONS: usize = 5;

/// Checks that a row can have this action.
///
/// # Errors
/// 400: it cannot.  The error names the actions that may be meant, or all.
fn check_action(action: &str) -> Result<(), ApiError> {
    let known: Vec<&str> = actions().collect();
    if known.contains(&action) {
        return Ok(());
    }
    let quoted = |actions: &[&str]| {
        let quoted: Vec<_> = actions.iter().map(|action| format!("`{action}`")).collect();
        quoted.join(", ")
    };
    let wanted = action.trim().to_lowercase();
    let contain: Vec<&str> =
        known.iter().copied().filter(|known| known.to_lowercase().contains(&wanted)).collect();
    let near = match (contain.as_slice(), nearest(&wanted, known.iter().copied())) {
        _ if wanted.is_empty() => Vec::new(),
        ([], near) => near.into_iter().collect(),
        ([..], _) => contain,
    };
    let advice = match near.len() {
        1..=MAX_SUGGESTIONS => format!("did you mean {}?", quoted(&near)),
        _ => format!("the actions are {}", quoted(&known)),
    };
    let problem = format!("`{}` is not an action: {advice}", shown(action));
    Err(ApiError::invalid(InvalidKind::Parameter, "action", problem))
}

impl AuditQuery {
    /// # Errors
    /// 400: a parameter is unknown, a time cannot be read, no row has the action, or `page` or `perpage` is out of range.  A
    /// condition that were passed over would show more than was asked for.
    fn parse(query: &str) -> Result<Self, ApiError> {
        let text = |name| query::text(query, name);
        query::check_names(query, &PARAMETERS)?;
        let page = Page::parse(query, "")?;
        let action = text("action");
        action.as_deref().map_or(Ok(()), check_action)?;
        Ok(Self {
            from: query::time(query, "from")?,
            to: query::time(query, "to")?,
            actor: text("actor"),
            key: text("key"),
            account: text("account"),
            action,
            per_page: page.size(),
            page: page.number,
        })
    }

    fn filter(self) -> AuditFilter {
        let id = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<i64>().ok());
        let (key_id, account_id) = (id(&self.key), id(&self.account));
        AuditFilter {
            from: self.from,
            to: self.to,
            by: self.actor,
            key_id,
            key_name: self.key.filter(|_| key_id.is_none()),
            account_id,
            account_name: self.account.filter(|_| account_id.is_none()),
            action: self.action,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for AuditQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// The entries of the audit, the latest first
///
/// For an Admin. A page of the changes of keys, service accounts and sessions, and of those that were denied to callers
/// who are known. It is kept for 400 days.
#[utoipa::path(
    get,
    path = "/api/auth/audit",
    operation_id = "listAudit",
    tag = "audit",
    params(AuditQuery),
    responses(
        (
            status = OK, description = "The page", body = Vec<AuditEntry>,
            headers(("X-Total-Count" = u64, description = "How many entries all pages have"))
        ),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    query: AuditQuery,
) -> Result<Response, ApiError> {
    manager.check_role(Role::Admin)?;
    let limit = query.per_page;
    let offset = Page { number: query.page, size: Some(limit) }.offset();
    let page = with_store_timeout(admin.keys.audit_rows(&query.filter(), offset, limit)).await??;
    let entries: Vec<AuditEntry> = page.rows.into_iter().map(AuditEntry::from).collect();
    Ok(([(TOTAL_COUNT, page.total)], Json(entries)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_a_filter_or_an_error() {
        let filter = |query: &str| AuditQuery::parse(query).unwrap().filter();
        let all = AuditFilter::default;
        for (query, expected) in [
            ("", all()),
            (
                "from=2026-11-21&to=2026-11-22",
                AuditFilter {
                    from: Some("2026-11-21T00:00:00Z".parse().unwrap()),
                    to: Some("2026-11-22T00:00:00Z".parse().unwrap()),
                    ..all()
                },
            ),
            ("from=&to=&actor=&key=&account=&action=", all()),
            ("key=7", AuditFilter { key_id: Some(7), ..all() }),
            ("key=key%207", AuditFilter { key_name: Some("key 7".into()), ..all() }),
            (
                "account=-3&actor=key%3Aci",
                AuditFilter { account_id: Some(-3), by: Some("key:ci".into()), ..all() },
            ),
            (
                "account=ci&action=logged%20in",
                AuditFilter { account_name: Some("ci".into()), action: Some("logged in".into()), ..all() },
            ),
            (
                "from=2026-11-21T09:00:00%2B01:00&to=2026-11-22T00:00:00Z",
                AuditFilter {
                    from: Some("2026-11-21T08:00:00Z".parse().unwrap()),
                    to: Some("2026-11-22T00:00:00Z".parse().unwrap()),
                    ..all()
                },
            ),
        ] {
            assert_eq!(filter(query), expected, "{query}");
        }
        for (action, expected) in [
            ("logged", "did you mean `logged in`, `logged out`?"),
            ("api key Created", "did you mean `API key created`?"),
            ("API key revokd", "did you mean `API key revoked`?"),
            ("rotated", "did you mean `API key rotated`, `API key not rotated`?"),
        ] {
            let problem = check_action(action).unwrap_err().problem().unwrap();
            assert_eq!(problem, format!("`{action}` is not an action: {expected}"));
        }
        for action in ["key", "x\u{1b}", " "] {
            let problem = check_action(action).unwrap_err().problem().unwrap();
            let is_whole =
                problem.contains("the actions are `API key created`") && problem.contains("`logged in`");
            assert!(is_whole && problem.contains("`further changes denied`"), "{action}: {problem}");
        }
        assert!(actions().all(|action| check_action(action).is_ok()));
        for (query, expected) in [
            ("from=yesterday", "invalid_time"),
            ("to=2026-11-31", "invalid_time"),
            ("to=2026-11-21T08:00:00", "invalid_time"),
            ("acount=x", "invalid_parameter"),
            ("x=", "invalid_parameter"),
            ("action=created", "invalid_parameter"),
            ("page=0", "invalid_parameter"),
            ("perpage=1001", "invalid_perpage"),
        ] {
            assert_eq!(AuditQuery::parse(query).unwrap_err().reason(), expected, "{query}");
        }
    }
}
