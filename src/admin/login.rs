//! Log-in in a browser: the log-in page, log-in at providers (OpenID Connect, OAuth 2), and the page of log-out.
//!
//! A log-in at a provider has two requests.  `GET /login/NAME` begins an [attempt](attempt::Attempt): it sends the browser
//! to the provider, with a sealed cookie that holds what must be the same when it comes back.  The provider sends the
//! browser to `GET /login/NAME/callback` with a code.  The callback redeems the code, makes a person of what the provider
//! says, opens the sessions, and answers with a page that goes on by itself: a redirect would be part of a navigation that
//! another site began, on which browsers send no `SameSite=Strict` cookie.
//!
//! Under `admin.login_hosts` nothing but this and log-out is answered, and a log-in gives the application's session alone.

mod attempt;
mod html;
mod limiter;
mod options;
mod providers;

use axum::response::IntoResponse;

use super::page::{STYLE, file};

pub(super) use limiter::Limiter;
#[cfg(test)]
pub(super) use options::__path_options;
pub(super) use options::options;
#[cfg(test)]
pub(super) use providers::{__path_begin, __path_callback};
pub(super) use providers::{begin, callback};

pub(super) const LOG_IN: &str = include_str!("login/log_in.html");
pub(super) const LOG_OUT: &str = include_str!("login/log_out.html");
pub(super) const SCRIPT: &str = include_str!("login/page.js");

/// The log-in page
///
/// With `return_to` a browser goes back to an application afterwards.
#[utoipa::path(
    get,
    path = "/login",
    operation_id = "getLogInPage",
    tag = "session",
    security(()),
    responses((status = OK, description = "The page", body = String, content_type = "text/html")),
)]
pub(super) async fn log_in_page() -> impl IntoResponse {
    file("text/html; charset=utf-8", LOG_IN)
}

/// The page of log-out
#[utoipa::path(
    get,
    path = "/logout",
    operation_id = "getLogOutPage",
    tag = "session",
    security(()),
    responses((status = OK, description = "A page with one button", body = String, content_type = "text/html")),
)]
pub(super) async fn log_out_page() -> impl IntoResponse {
    file("text/html; charset=utf-8", LOG_OUT)
}

/// What the pages load: it is below `/login`, so that it is there under log-in hosts too.
pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", STYLE)
}

/// The script of the two pages.
pub(super) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", SCRIPT)
}
