//! Two pieces of an administrator's work that are done on the page alone; their screenshots are in `target/screenshots`.

use serde_json::json;

use super::{DAY, PASSWORD, Page};
use crate::harness::Request;
use crate::harness::browser::ENTER;

impl Page {
    /// Makes a key as this user, by Basic.
    #[track_caller]
    fn issue_as(&self, user: &str, name: &str, role: &str, seconds_to_live: Option<i64>) -> String {
        let body = json!({ "name": name, "role": role, "secondsToLive": seconds_to_live });
        let request = Request::new(self.admin, "POST", "/api/auth/keys").basic(user, PASSWORD);
        let request = request.header("content-type", "application/json").header("connection", "close");
        let answer = request.body(body.to_string().into_bytes()).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["key"].as_str().expect("a token").to_owned()
    }
}

/// "Which keys may do more than read, who made them, which are unused for 90 days, and when do they end?"
#[test]
fn a_review_of_access_is_done_on_the_page() {
    let page = Page::start();
    page.call("POST", "/api/serviceaccounts", &json!({"name": "deployer", "role": "Editor"}));
    page.create(json!({"name": "deployer prod", "account": "deployer", "secondsToLive": 30 * DAY}));
    page.issue_as("ed", "old migration", "Editor", None);
    page.issue_as("admin", "break glass", "Admin", None);
    page.issue_as("admin", "dashboards", "Viewer", Some(90 * DAY));
    page.issue_as("ed", "release bot", "Editor", Some(60 * DAY));
    let ago = |days: i64| format!("strftime('%s') - {}", days * DAY);
    page.sql(&format!(
        "UPDATE api_keys SET created_at = {} WHERE name IN ('old migration', 'break glass')",
        ago(200)
    ));
    page.sql(&format!(
        "UPDATE api_keys SET last_used_at = {}, uses = 3 WHERE name = 'old migration'",
        ago(150)
    ));
    page.sql(&format!(
        "UPDATE api_keys SET last_used_at = {}, uses = 900 WHERE name = 'release bot'",
        ago(1)
    ));

    page.enter("admin");
    let browser = &page.browser;
    browser.read("#keys-pager", "1–5 of 5");
    browser.screenshot("review-1-all-keys");
    // Which may do more than read: Editors, those of an account among them, and Admins.
    browser.click("#filters-toggle");
    page.choose("#filter-role", "Editor");
    page.see_names(&["deployer prod", "old migration", "release bot"]);
    browser.screenshot("review-2-editors");
    // Who made them, and when do they end?
    for (name, maker, end) in [
        ("deployer prod", "by root", "in 1 month"),
        ("old migration", "by ed", "No expiration date"),
        ("release bot", "by ed", "in 2 months"),
    ] {
        assert!(page.cell(name, "Created").ends_with(maker), "{name}: {}", page.cell(name, "Created"));
        assert!(page.cell(name, "Expires").ends_with(end), "{name}: {}", page.cell(name, "Expires"));
    }
    // Which of them has nobody used for 90 days?
    page.choose("#filter-unused", "90");
    page.see_names(&["old migration"]);
    assert!(page.cell("old migration", "Last used").contains("3 uses"));
    browser.screenshot("review-3-editors-unused");
    page.act("old migration", "Details");
    browser.read("#details-list", "by ed");
    browser.screenshot("review-4-details");
    page.press("#details-acts", "Revoke");
    browser.click("#confirm-yes");
    browser.read("#toast", "old migration is revoked.");
    // And the Admins: it gets an end, since nobody says that it may not be kept.
    page.choose("#filter-role", "Admin");
    page.see_names(&["break glass"]);
    assert_eq!(page.cell("break glass", "Last used"), "Never");
    page.act("break glass", "Change");
    browser.fill("#key-description", "Kept in the safe; reviewed today");
    page.choose("#key-life", "7776000");
    browser.screenshot("review-5-an-end");
    browser.click("#key-form [data-yes]");
    browser.read("#toast", "break glass is changed.");
    assert!(page.cell("break glass", "Expires").ends_with("in 3 months"));
    browser.screenshot("review-6-done");
    assert_eq!(page.key("old migration")["isRevoked"], true);
    assert_eq!(page.problems(), Vec::<String>::new());
}

/// "This token leaked: whose is it?  End all that its maker made since Friday."
#[test]
fn a_leaked_token_is_found_and_what_its_maker_made_is_ended() {
    let page = Page::start();
    page.issue_as("ed", "before friday", "Editor", None);
    let leaked = page.issue_as("ed", "nightly build", "Editor", None);
    page.issue_as("ed", "quick test", "Viewer", None);
    let others = page.issue_as("admin", "billing", "Viewer", None);
    page.sql(&format!(
        "UPDATE api_keys SET created_at = strftime('%s') - {} WHERE name = 'before friday'",
        9 * DAY
    ));
    page.sql(&format!(
        "UPDATE api_keys SET created_at = strftime('%s') - {} WHERE name IN ('nightly build', 'quick test')",
        2 * DAY
    ));
    assert_eq!(page.check(&leaked), Ok("nightly build".to_owned()));

    page.enter("admin");
    let browser = &page.browser;
    page.choose("#zone", "UTC");
    browser.click("#find");
    browser.fill("#find-token", &leaked);
    browser.press(&[ENTER]);
    browser.read("#find-found", "It is nightly build");
    assert!(page.fact("#find-facts", "Created").ends_with(", by ed"));
    assert_eq!(page.fact("#find-facts", "Role"), "Editor");
    browser.screenshot("leak-1-whose-it-is");
    page.press("#find-acts", "Revoke all keys of its creator");
    assert_eq!(browser.text("#end-maker"), "ed");
    // "Since Friday": a moment of the zone that the page shows times in.
    let friday = browser.script(
        "const moment = new Date(Date.now() - 5 * 86400000).toISOString().slice(0, 16);
         const field = document.getElementById('end-since');
         field.value = moment;
         field.dispatchEvent(new Event('input', { bubbles: true }));
         return moment",
        json!([]),
    );
    assert_eq!(json!(browser.text("#end-since")), friday);
    browser.read("#end-since-hint", "In UTC.");
    browser.click("#end-preview");
    browser.read("#end-count", "2 keys will be revoked:");
    for name in ["nightly build", "quick test"] {
        browser.read("#end-rows", name);
    }
    browser.screenshot("leak-2-what-will-end");
    browser.click("#end-yes");
    browser.read("#toast", "2 keys are revoked.");
    page.see_names(&["before friday", "billing"]);
    browser.screenshot("leak-3-ended");
    assert_eq!(page.check(&leaked), Err("Revoked API key".to_owned()));
    assert_eq!(page.check(&others), Ok("billing".to_owned()));
    // What was done is in the audit, for the report.
    page.show("audit?actor=admin");
    browser.read("#audit-rows", "API key revoked");
    browser.read("#audit-rows", "quick test");
    browser.screenshot("leak-4-audit");
    assert_eq!(page.problems(), Vec::<String>::new());
}
