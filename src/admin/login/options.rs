//! The data of the log-in page: the ways to log in, the logged-in person, and the return address.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::admin::audit::actor_id;
use crate::admin::body::{Json, parameter};
use crate::admin::host::RequestHost;
use crate::credential::Principal;

/// How to log in here
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::admin) struct LogInOptions {
    /// Whether `POST /login` can open a session: there are users or a directory, and the store is not only read
    passwords: bool,
    /// Providers, in the order of the configuration
    providers: Vec<ProviderOption>,
    /// The name of the person who is logged in here; left out if no person is logged in
    #[serde(skip_serializing_if = "Option::is_none")]
    logged_in: Option<String>,
    /// The address after log-in; left out when it is the page
    #[serde(skip_serializing_if = "Option::is_none")]
    return_to: Option<ReturnOption>,
    /// Whether this is the host of an application, where people do not use the page
    is_application: bool,
}

/// A provider
#[derive(Serialize, ToSchema)]
struct ProviderOption {
    name: String,
    /// The text of its button
    label: String,
}

/// A return address
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReturnOption {
    address: String,
    /// Whether browsers send the session of a log-in here to it
    receives_session: bool,
}

/// The query of the log-in page.
pub(in crate::admin) struct ReturnQuery(pub(in crate::admin) Option<String>);

impl<S: Sync> FromRequestParts<S> for ReturnQuery {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parameter(parts.uri.query().unwrap_or_default(), "return_to")))
    }
}

/// How to log in here
///
/// For the log-in page.  It needs no credential.
#[utoipa::path(
    get,
    path = "/login/options",
    operation_id = "getLogInOptions",
    tag = "session",
    security(()),
    params(("return_to" = Option<String>, Query, description = "Where the browser wants to go on to")),
    responses((status = OK, description = "The ways to log in", body = LogInOptions)),
)]
pub(in crate::admin) async fn options(
    State(admin): State<Arc<Admin>>,
    RequestHost(host): RequestHost,
    ReturnQuery(return_to): ReturnQuery,
    parts: Parts,
) -> Json<LogInOptions> {
    let snapshot = admin.authorizer.snapshot();
    let is_writable = !admin.keys.is_read_only();
    let providers = snapshot.providers.iter().filter(|_| is_writable).map(|settings| ProviderOption {
        name: settings.name.to_string(),
        label: settings.label.to_string(),
    });
    // A session that cannot be checked counts as none: the page then offers to log in.
    let logged_in = admin.logged_in(&parts, host.as_ref()).await.ok().flatten();
    let return_hosts = admin.return_hosts();
    let return_to = return_to.and_then(|address| return_hosts.parse(&address, host.as_ref()));
    let return_to = return_to.map(|address| ReturnOption {
        receives_session: return_hosts.receives_cookie(&address, host.as_ref()),
        address,
    });
    Json(LogInOptions {
        passwords: is_writable && (!snapshot.users.is_empty() || snapshot.ldap.is_some()),
        providers: providers.collect(),
        logged_in: logged_in.as_deref().map(shown_name),
        return_to,
        is_application: host.is_some(),
    })
}

/// The name that people read.
fn shown_name(principal: &Principal) -> String {
    let name = principal.actor.member("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    name.map_or_else(|| actor_id(principal), str::to_owned)
}
