//! The history of the key store: accepting one that was rewritten.

use std::sync::Arc;

use axum::extract::State;

use super::audit::ChangeAttempt;
use super::auth::{Manager, Writable};
use super::body::{Json, Message};
use super::error::ApiError;
use super::responses::{CallerErrors, PermissionErrors};
use super::{Admin, with_store_timeout};
use crate::keys::Role;

/// Accept the history of the key store
///
/// For an Admin, after a restore or a fail-over: keys and sessions that a replica knew to be dead, and that live in the
/// store again, work again on every replica.
#[utoipa::path(
    post,
    path = "/api/auth/keys/accept-history",
    operation_id = "acceptHistory",
    tag = "keys",
    responses(
        (status = OK, description = "It is accepted", body = Message),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn accept(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
) -> Result<Json<Message>, ApiError> {
    manager.check_role(Role::Admin)?;
    with_store_timeout(admin.keys.accept_history(&manager.author(&attempt))).await??;
    attempt.log_accepted_history(manager.principal());
    let message = "History accepted: within a second every replica trusts the key store again, also about keys \
         that were revoked, deleted or rotated before it was restored";
    Ok(Json(Message { message }))
}
