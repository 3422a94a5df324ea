//! The page for people: three files that stand in the binary as they are written.
//!
//! Nothing is built, nothing is fetched from another host, and the policy below holds the browser to it.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

/// What the page may do.  Scripts and styles are its own files alone: text that got into the markup runs nowhere.
/// The only image is the icon in the page itself.
/// No form is ever sent by the browser: should the script fail, a password does not end up in an address.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page and its parts, for whoever asks: they hold no data, and the API that they call is guarded.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| async { part("text/html; charset=utf-8", HTML) }))
        .route("/page.css", get(|| async { part("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { part("text/javascript; charset=utf-8", SCRIPT) }))
}

/// One file.  `no-store` also keeps the page, and what it shows, out of reach of the Back button after a log-out.
fn part(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    use super::{HTML, SCRIPT, STYLE};

    #[test]
    fn the_page_asks_nobody_else_and_makes_no_markup_of_data() {
        for (name, text) in [("page.html", HTML), ("page.css", STYLE), ("page.js", SCRIPT)] {
            // The name of a vocabulary, which nobody fetches.
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
        for tag in ["<input id=\"", "<select id=\"", "<textarea id=\""] {
            for rest in HTML.split(tag).skip(1) {
                let (id, _) = rest.split_once('"').expect("a closing quote");
                let labelled = HTML.contains(&format!("for=\"{id}\"")) || id == "show-expired";
                assert!(labelled, "{id} has no label");
            }
        }
    }
}
