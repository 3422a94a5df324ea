//! The web page: three static files that are compiled into the binary.
//!
//! There is no build step.  The page loads nothing from another host, and its `Content-Security-Policy` enforces that.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

/// The `Content-Security-Policy` of the page, and of those of log-in and log-out.
///
/// Scripts and styles come from the page's own files alone, so injected markup runs nothing.  The only image is the
/// icon inside the page.  `form-action 'none'`: when the script fails, no form sends a password in a URL.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = include_str!("page.html");
pub(super) const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The routes of the page.  They need no credential: the page holds no data, and the API that it calls checks one.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(show))
        .route("/page.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
}

/// The page for people
#[utoipa::path(
    get,
    path = "/",
    operation_id = "getPage",
    tag = "documents",
    security(()),
    responses((status = OK, description = "The page", body = String, content_type = "text/html")),
)]
pub(super) async fn show() -> impl IntoResponse {
    file("text/html; charset=utf-8", HTML)
}

/// One file.  With `no-store` the Back button shows nothing of the page after a log-out.
pub(super) fn file(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    use super::super::login;
    use super::{HTML, SCRIPT, STYLE};

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_data() {
        for (name, text) in [
            ("page.html", HTML),
            ("page.css", STYLE),
            ("page.js", SCRIPT),
            ("login/log_in.html", login::LOG_IN),
            ("login/log_out.html", login::LOG_OUT),
            ("login/page.js", login::SCRIPT),
        ] {
            // An XML namespace, which is not loaded.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "http:",
                "https:",
                "url(",
                "@import",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "document.write",
                "style=",
                "onclick=",
                "javascript:",
            ] {
                assert!(!text.contains(forbidden), "{forbidden} in {name}");
            }
        }
    }

    #[test]
    fn every_element_that_the_script_names_is_on_the_page() {
        let mut named = 0;
        for rest in SCRIPT.split("$('").skip(1) {
            let (id, _) = rest.split_once('\'').expect("a closing quote");
            assert!(HTML.contains(&format!("id=\"{id}\"")), "no element {id}");
            named += 1;
        }
        assert!(named > 20, "the script names its elements in another way now");
    }

    #[test]
    fn every_field_has_a_label() {
        let mut fields = 0;
        for tag in ["<input id=\"", "<select id=\"", "<textarea id=\""] {
            for rest in HTML.split(tag).skip(1) {
                fields += 1;
                let (id, _) = rest.split_once('"').expect("a closing quote");
                let labelled = HTML.contains(&format!("for=\"{id}\"")) || id == "show-expired";
                assert!(labelled, "{id} has no label");
            }
        }
        let all: usize = ["<input", "<select", "<textarea"].iter().map(|tag| HTML.matches(tag).count()).sum();
        assert!(fields == all && all > 5, "{fields} of {all} fields were looked at");
    }
}
