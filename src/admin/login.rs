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

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;

pub(super) use limiter::Limiter;
pub(super) use options::{__path_options, options};
pub(super) use providers::{__path_begin, __path_callback, begin, callback};

/// The `Content-Security-Policy` of the pages of log-in and log-out, whose one script calls this server alone.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                                require-trusted-types-for 'script'; trusted-types 'none'";

const LOG_IN: &str = include_str!("login/log_in.html");
const LOG_OUT: &str = include_str!("login/log_out.html");
const SCRIPT: &str = include_str!("login/page.js");

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

/// What the pages load: it stands below `/login`, so that it is there under log-in hosts too.
pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", super::page::STYLE)
}

/// The script of the two pages.
pub(super) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", SCRIPT)
}

fn file(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    use super::{LOG_IN, LOG_OUT, SCRIPT};

    #[test]
    fn the_pages_load_nothing_from_elsewhere_and_make_no_markup_of_data() {
        for (name, text) in [("log_in.html", LOG_IN), ("log_out.html", LOG_OUT), ("page.js", SCRIPT)] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "http:",
                "https:",
                "url(",
                "innerHTML",
                "outerHTML",
                "eval(",
                "style=",
                "onclick=",
                "javascript:",
            ] {
                assert!(!text.contains(forbidden), "{forbidden} in {name}");
            }
        }
    }
}
