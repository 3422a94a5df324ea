//! What goes wrong is told where the reader looks, and nothing that was shown is lost.

use serde_json::{Value, json};

use super::{CONFIG, Page};
use crate::harness::Server;
use crate::harness::browser::{Browser, ENTER};
use crate::harness::postgres::Postgres;

#[test]
fn a_session_that_is_over_leads_to_the_log_in_and_back() {
    let page = Page::logged_in();
    let browser = &page.browser;
    page.show("audit?actor=root");
    browser.see("#audit-view");
    page.show("keys?role=Viewer");
    browser.see("#keys-view");
    browser.devtools("Network.clearBrowserCookies", json!({}));
    browser.click("#add");
    browser.fill("#key-name", "too late");
    browser.press(&[ENTER]);
    browser.read("#login .alert", "Your session has ended.");
    browser.miss("#keys");
    browser.miss("#key-dialog");
    page.is_well("session-over");
    assert_eq!(page.keys(), Vec::<Value>::new());
    page.log_in("admin");
    browser.see("#keys-view");
    assert_eq!(browser.text("#filter-role"), "Viewer");
    for view in ["accounts", "audit"] {
        page.show(view);
        browser.see(&format!("#{view}-view"));
        browser.devtools("Network.clearBrowserCookies", json!({}));
        browser.click(&format!("#{view}-refresh"));
        browser.read("#login .alert", "Your session has ended.");
        page.log_in("admin");
        browser.see(&format!("#{view}-view"));
    }
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn a_server_that_is_gone_is_told_and_what_was_shown_stays() {
    let page = Page::start();
    page.issue("kept in sight", "Viewer", None);
    page.enter("admin");
    page.browser.see("#rows tr");
    let Page { browser, server, admin } = page;
    drop(server);
    browser.click("#refresh");
    browser.read("#problem", "The server does not answer.");
    browser.read("#rows", "kept in sight");
    browser.screenshot("server-down");
    assert_eq!(browser.accessibility_problems(), Vec::<String>::new());
    browser.click("#try-again");
    browser.read("#problem", "The server does not answer.");
    browser.click("#rows .dots");
    browser.click("#menu button:nth-child(2)");
    // A dialog tells it, too, and what was written in it stays.
    browser.fill("#key-name", "written in vain");
    browser.click("#key-form [data-yes]");
    browser.read("#key-form [data-error]", "The server does not answer.");
    assert_eq!(browser.text("#key-name"), "written in vain");
    browser.go("about:blank");
    drop(browser);
    assert_ne!(admin.port(), 0);
}

#[test]
fn a_store_that_is_down_is_told_and_what_was_shown_stays() {
    let postgres = Postgres::start();
    let url = postgres.url(&postgres.database());
    let config = CONFIG.replace("sqlite:keys.db", &url);
    let page = Page::start_with(&config);
    page.issue("kept in sight", "Viewer", None);
    page.enter("admin");
    let browser = &page.browser;
    browser.see("#rows tr");
    postgres.stop();
    browser.click("#refresh");
    browser.see("#problem");
    let problem = browser.text("#problem-text");
    assert!(!problem.contains("postgres"), "{problem}");
    browser.read("#rows", "kept in sight");
    page.is_well("store-down");
    page.act("kept in sight", "Revoke");
    browser.click("#confirm-yes");
    browser.see("#confirm-form [role='alert']");
    browser.screenshot("store-down-revoke");
    page.press("#confirm-form", "Cancel");
    postgres.resume();
    browser.wait(
        "the list again",
        "const again = document.getElementById('try-again');
         if (again.checkVisibility() && !again.disabled) again.click();
         return document.getElementById('problem').hidden",
        json!([]),
    );
    browser.read("#rows", "kept in sight");
}

#[test]
fn a_store_that_is_only_read_offers_no_change() {
    // Who writes it: there one logs in.  A cookie is of a host, whatever the port.
    let page = Page::start();
    let store = page.server.folder().join("keys.db");
    let account = page.call("POST", "/api/serviceaccounts", &json!({"name": "robot"}));
    assert_eq!(account["name"], "robot");
    page.issue("unchanged", "Viewer", None);
    page.enter("admin");
    let Page { browser, server: writer, .. } = page;
    let config = CONFIG.replace("sqlite:keys.db'", &format!("sqlite:{}', read_only: true", store.display()));
    let server = Server::with(&config).start();
    let admin = server.admin();
    let page = Page { browser, admin, server };
    let browser = &page.browser;
    browser.go(&page.url());
    browser.read("#read-only", "This server only reads the key store.");
    page.see_names(&["unchanged"]);
    for hidden in ["#add", "#end-many"] {
        browser.miss(hidden);
    }
    page.is_well("read-only");
    browser.click(&format!("{} .dots", page.row("unchanged")));
    browser.see("#menu");
    assert_eq!(
        browser.script("return document.getElementById('menu').innerText", json!([])),
        json!("Details")
    );
    page.pick("Details");
    browser.see("#details-dialog");
    browser.miss("#details-acts .ends-it");
    browser.click("#details-dialog [data-close]");
    page.show("accounts");
    page.see_names(&["robot"]);
    browser.miss("#add-account");
    browser.click("#logout");
    // Nobody logs in where nothing is written, and the page says where to go.
    browser.see("#login");
    page.log_in("admin");
    browser.read("#login .alert", "Log in and change keys at a server that writes to it.");
    page.is_well("read-only-login");
    drop(writer);
    assert_eq!(page.problems(), Vec::<String>::new());
}

/// A browser that keeps nothing, as some readers want it, is no reason to fail.
#[test]
fn a_browser_that_keeps_nothing_still_shows_the_page() {
    let page = Page::start();
    page.issue("seen", "Viewer", None);
    let browser: &Browser = &page.browser;
    browser.devtools(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({ "source": "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })" }),
    );
    page.enter("admin");
    page.see_names(&["seen"]);
    page.choose("#zone", "UTC");
    page.see_names(&["seen"]);
    assert_eq!(page.problems(), Vec::<String>::new());
}
