//! `POST /api/auth/keys/revoke`: many keys at once, after an incident.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use utoipa::ToSchema;

use super::listed::ListedKey;
use super::stream;
use crate::admin::audit::ChangeAttempt;
use crate::admin::auth::{Manager, Writable};
use crate::admin::body::{Json, Members, RequestBody};
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::query::parse_time;
use crate::admin::responses::{BodyErrors, CallerErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::Privileges;
use crate::keys::audit::Action;
use crate::keys::store::{BulkRevocation, KeyFilter};

/// After how many lines the audit log is given time to write them.
const LINES_AT_ONCE: usize = 500;

/// Which keys are to be revoked: all conditions must hold, and there is one at least.
#[derive(ToSchema)]
#[schema(as = Revocation, rename_all = "camelCase")]
pub(in crate::admin) struct RevocationBody {
    /// Made by the actor of this id.
    created_by: Option<String>,
    /// Made at this instant or later: RFC 3339, or a day, which begins at midnight UTC.
    #[schema(value_type = Option<String>)]
    created_since: Option<Timestamp>,
    /// Of the service account of this name or id.
    account: Option<String>,
    /// Of people whose name, or id at a directory or a provider, is this.
    owner: Option<String>,
    /// Not used, made or imported within the last so many seconds.
    #[schema(minimum = 0)]
    unused_for_seconds: Option<i64>,
    /// With a name that matches this, ignoring case; `*` stands for any text.
    name_pattern: Option<String>,
    /// Whether they are only shown.
    #[schema(value_type = Option<bool>, default = true)]
    dry_run: bool,
}

impl RequestBody for RevocationBody {
    const MEMBERS: &'static [&'static str] =
        &["createdBy", "createdSince", "account", "owner", "unusedForSeconds", "namePattern", "dryRun"];
    const IS_STRICT: bool = true;

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        // An empty condition may be a variable that a script forgot to set, and would match unintended keys.
        let text = |members: &mut Members, field| {
            let text = members.not_null(field, Members::string)?;
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(ApiError::invalid(InvalidKind::NoCriterion, field, "is empty"));
            }
            Ok(text)
        };
        let created_by = text(members, "createdBy")?;
        let created_since = text(members, "createdSince")?;
        let created_since = created_since.map(|text| parse_time(&text, "createdSince")).transpose()?;
        let account = text(members, "account")?;
        let owner = text(members, "owner")?;
        let unused_for_seconds = members.not_null("unusedForSeconds", Members::integer)?;
        if unused_for_seconds.is_some_and(|seconds| seconds < 0) {
            let problem = "expected a number of seconds, 0 or more";
            return Err(ApiError::invalid(InvalidKind::NegativeSpan, "unusedForSeconds", problem));
        }
        let name_pattern = text(members, "namePattern")?;
        let dry_run = members.not_null("dryRun", Members::boolean)?.unwrap_or(true);
        let has_criterion = created_by.is_some()
            || created_since.is_some()
            || account.is_some()
            || owner.is_some()
            || unused_for_seconds.is_some()
            || name_pattern.is_some();
        if !has_criterion {
            let problem = "say which keys are meant: createdBy, createdSince, account, owner, unusedForSeconds or namePattern \
                 (`*` is all)";
            return Err(ApiError::invalid(InvalidKind::NoCriterion, "namePattern", problem));
        }
        Ok(Self { created_by, created_since, account, owner, unused_for_seconds, name_pattern, dry_run })
    }
}

/// Revoke many keys at once
///
/// Those that are neither revoked nor expired and fit all conditions; they are only shown unless dryRun is false. All of
/// them or none: where one is above the caller's role nothing is done. At most 10,000.
#[utoipa::path(
    post,
    path = "/api/auth/keys/revoke",
    operation_id = "revokeKeys",
    tag = "keys",
    request_body = RevocationBody,
    responses(
        (status = OK, description = "The keys", body = Vec<ListedKey>),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
    ),
)]
pub(in crate::admin) async fn revoke(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    Json(body): Json<RevocationBody>,
) -> Result<Response, ApiError> {
    let account = match &body.account {
        None => None,
        Some(text) => Some(admin.account_of_condition(text).await?),
    };
    let before =
        |seconds| admin.clock.now().checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
    let wanted = BulkRevocation {
        filter: KeyFilter {
            created_by: body.created_by,
            created_since: body.created_since,
            account,
            owner: body.owner,
            unused_since: body.unused_for_seconds.map(before),
            name_pattern: body.name_pattern,
            ..KeyFilter::default()
        },
        is_dry_run: body.dry_run,
    };
    let author = manager.author(&attempt);
    let end_check = |privileges: &Privileges<'_>| manager.check_end(privileges);
    let keys = with_store_timeout(admin.keys.revoke_many(&wanted, &author, &end_check)).await??;
    if !body.dry_run {
        for (index, key) in keys.iter().enumerate() {
            attempt.log_change(Action::KEY_REVOKED, manager.principal(), None, Some(key));
            if index % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
                admin.audit_log.flush().await;
            }
        }
    }
    let context = admin.key_context(&keys).await?;
    let text = stream::write_array(keys, &context).await?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}
