//! The files of the page, and what they may load.

use serde_json::json;

use super::Page;
use crate::harness::Request;

#[test]
fn the_parts_of_the_page_need_no_credential_and_say_what_they_are() {
    let page = Page::start();
    let script = "text/javascript; charset=utf-8";
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", script),
        ("/page/keys.js", script),
        ("/page/audit.js", script),
    ] {
        let answer = Request::new(page.admin, "GET", path).header("connection", "close").send();
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.all("content-type"), [content_type], "{path}");
        assert_eq!(answer.all("cache-control"), ["no-store"], "{path}");
        assert_eq!(answer.all("x-content-type-options"), ["nosniff"], "{path}");
        let policy = answer.all("content-security-policy").join(", ");
        for part in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
    }
    for path in ["/page/", "/page/none.js", "/page/page.html"] {
        let answer = Request::new(page.admin, "GET", path).header("connection", "close").send();
        assert_eq!(answer.status, 404, "{path}");
    }
    // A challenge by Basic would make the browser ask for a password before the page can.
    page.browser.go(&page.url());
    page.browser.see("#login-user");
    let challenge = page
        .browser
        .script("return (await fetch('api/auth/actor')).headers.get('www-authenticate') ?? ''", json!([]));
    assert!(!challenge.as_str().expect("text").to_lowercase().contains("basic"), "{challenge}");
}
