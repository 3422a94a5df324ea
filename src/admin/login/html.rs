//! The small pages of a log-in at a provider: the log-in continues, or it failed.

use std::fmt::Write;

use axum::Extension;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::admin::error::Failure;

/// The `Content-Security-Policy` of a page without a script.
const CONTENT_SECURITY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                                frame-ancestors 'none'";

/// The depth of a page below `/login`: the number of `../` to `/login/page.css`.
#[derive(Clone, Copy)]
pub(super) enum Depth {
    /// `/login/NAME`
    Begin,
    /// `/login/NAME/callback`
    Callback,
}

impl Depth {
    /// The relative address of resources next to `/login`.
    pub fn root(self) -> &'static str {
        match self {
            Self::Begin => "../",
            Self::Callback => "../../",
        }
    }
}

/// A page that forwards to another address.
pub(super) fn going_on(depth: Depth, address: &str) -> Response {
    let address = escaped(address);
    let refresh = format!("<meta http-equiv=\"refresh\" content=\"0;url={address}\">\n");
    let text = format!("<p class=\"lead\"><a href=\"{address}\">Continue</a></p>");
    page(depth, StatusCode::OK, "Logged in", &refresh, &text).into_response()
}

/// A page with the reason of a failed log-in, and a link to the log-in page.
pub(super) fn failure(depth: Depth, failure: Failure, text: &str, try_again: &str) -> Response {
    let text = paragraphs(text, Some((try_again, "Try again")));
    let page = page(depth, failure.status, "Log-in failed", "", &text);
    (Extension(failure), page).into_response()
}

fn paragraphs(text: &str, link: Option<(&str, &str)>) -> String {
    let mut html = String::new();
    for line in text.lines() {
        let _ = writeln!(html, "<p class=\"lead\">{}</p>", escaped(line));
    }
    if let Some((address, label)) = link {
        let _ = write!(
            html,
            "<p><a class=\"button primary wide\" href=\"{}\">{}</a></p>",
            escaped(address),
            escaped(label)
        );
    }
    html
}

fn page(depth: Depth, status: StatusCode, title: &str, head: &str, body: &str) -> impl IntoResponse {
    let (style, title) = (format!("{}login/page.css", depth.root()), escaped(title));
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"robots\" content=\"noindex\">\n{head}\
         <title>{title}</title>\n<link rel=\"stylesheet\" href=\"{style}\">\n</head>\n<body>\n\
         <main class=\"narrow\"><div class=\"card\">\n<h1>{title}</h1>\n{body}\n</div></main>\n</body>\n</html>\n"
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
    ];
    (status, headers, html)
}

/// Text as it is in HTML, in an attribute too.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_place_where_it_is_put() {
        let hostile = "\"><script>alert('&')</script>";
        assert_eq!(escaped(hostile), "&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;");
        for html in [paragraphs(hostile, Some((hostile, hostile))), paragraphs(hostile, None)] {
            assert!(!html.contains("<script"), "{html}");
        }
    }
}
