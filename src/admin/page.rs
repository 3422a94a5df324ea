//! The web page: static files that are compiled into the binary.
//!
//! There is no build step: the script is plain JavaScript in modules, one for each view or dialog, because the browser
//! loads those by itself.  The page loads nothing from another host, and its `Content-Security-Policy` enforces that.

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
/// The script that the page names; it imports the modules.
const SCRIPT: &str = include_str!("page.js");
/// The modules, which are served below `/page/`.
const MODULES: [(&str, &str); 19] = [
    ("/page/accounts.js", include_str!("page/accounts.js")),
    ("/page/api.js", include_str!("page/api.js")),
    ("/page/audit.js", include_str!("page/audit.js")),
    ("/page/created.js", include_str!("page/created.js")),
    ("/page/dialogs.js", include_str!("page/dialogs.js")),
    ("/page/elements.js", include_str!("page/elements.js")),
    ("/page/find.js", include_str!("page/find.js")),
    ("/page/float.js", include_str!("page/float.js")),
    ("/page/key_acts.js", include_str!("page/key_acts.js")),
    ("/page/key_form.js", include_str!("page/key_form.js")),
    ("/page/keys.js", include_str!("page/keys.js")),
    ("/page/pager.js", include_str!("page/pager.js")),
    ("/page/revoke_many.js", include_str!("page/revoke_many.js")),
    ("/page/rights.js", include_str!("page/rights.js")),
    ("/page/rotate.js", include_str!("page/rotate.js")),
    ("/page/route.js", include_str!("page/route.js")),
    ("/page/rows.js", include_str!("page/rows.js")),
    ("/page/session.js", include_str!("page/session.js")),
    ("/page/times.js", include_str!("page/times.js")),
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The routes of the page.  They need no credential: the page holds no data, and the API that it calls checks one.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = Router::new()
        .route("/", get(show))
        .route("/page.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { file(JAVASCRIPT, SCRIPT) }));
    let modules = MODULES.into_iter();
    modules.fold(page, |routes, (path, text)| routes.route(path, get(async move || file(JAVASCRIPT, text))))
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
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::login;
    use super::{HTML, MODULES, SCRIPT, STYLE};

    /// Every script of the page, with the folder that its imports begin at.
    fn scripts() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let modules = MODULES.into_iter().map(|(path, text)| (path, text, "/page/"));
        modules.chain([("/page.js", SCRIPT, "/")])
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_data() {
        let files = [
            ("page.html", HTML),
            ("page.css", STYLE),
            ("login/log_in.html", login::LOG_IN),
            ("login/log_out.html", login::LOG_OUT),
            ("login/page.js", login::SCRIPT),
        ];
        for (name, text) in files.into_iter().chain(scripts().map(|(path, text, _)| (path, text))) {
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
    fn every_module_is_served_and_every_import_is_a_module() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/page");
        let names = std::fs::read_dir(folder).expect("the folder of the modules");
        let names = names.map(|entry| entry.expect("a file").file_name().into_string().expect("UTF-8"));
        let on_disk: BTreeSet<String> = names.map(|name| format!("/page/{name}")).collect();
        let served: BTreeSet<String> = MODULES.into_iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(on_disk, served);
        let mut imported = BTreeSet::new();
        for (path, text, folder) in scripts() {
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let (_, from) = line.split_once("from './").unwrap_or_else(|| panic!("{path}: {line}"));
                let (name, _) = from.split_once('\'').expect("a closing quote");
                imported.insert(format!("{folder}{name}"));
            }
        }
        assert_eq!(imported, served);
    }

    #[test]
    fn every_element_that_a_script_names_is_on_the_page() {
        let mut named = 0;
        for (path, text, _) in scripts() {
            for rest in text.split("$('").skip(1) {
                let (id, _) = rest.split_once('\'').expect("a closing quote");
                assert!(HTML.contains(&format!("id=\"{id}\"")), "{path}: no element {id}");
                named += 1;
            }
        }
        assert!(named > 100, "the scripts name their elements in another way now");
    }

    #[test]
    fn every_field_has_a_label() {
        let mut fields = 0;
        for tag in ["<input id=\"", "<select id=\"", "<textarea id=\""] {
            for rest in HTML.split(tag).skip(1) {
                fields += 1;
                let (id, rest) = rest.split_once('"').expect("a closing quote");
                let (attributes, _) = rest.split_once('>').expect("the end of the tag");
                let labelled =
                    HTML.contains(&format!("for=\"{id}\"")) || attributes.contains("aria-label=\"");
                assert!(labelled, "{id} has no label");
            }
        }
        let all: usize = ["<input", "<select", "<textarea"].iter().map(|tag| HTML.matches(tag).count()).sum();
        assert!(fields == all && all > 30, "{fields} of {all} fields were looked at");
    }
}
