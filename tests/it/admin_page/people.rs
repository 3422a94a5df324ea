//! Whose keys they are: service accounts, people with keys of their own, and what each of them may do.

use serde_json::json;

use super::Page;
use crate::harness::browser::ENTER;

#[test]
fn a_service_account_is_added_given_keys_changed_disabled_and_deleted() {
    let page = Page::logged_in();
    let browser = &page.browser;
    page.press("#views", "Service accounts");
    browser.read("#no-accounts", "There are no service accounts yet. Add the first one.");
    browser.click("#add-account");
    browser.press(&[ENTER]);
    browser.read("#account-name-error", "Give the account a name.");
    browser.fill("#account-name", "grafana");
    browser.fill("#account-description", "Dashboards");
    page.choose("#account-role", "Editor");
    browser.fill("#account-rights [data-member='team']", "platform");
    browser.screenshot("account-add");
    browser.click("#account-form [data-yes]");
    browser.read("#toast", "grafana is added.");
    assert_eq!(page.cell("grafana", "Rights"), "Editor team: platform");
    assert_eq!(page.cell("grafana", "Keys"), "0 keys");

    page.act("grafana", "Add key");
    browser.fill("#key-name", "prod");
    browser.miss("#key-rights");
    browser.read("#key-owner-hint", "It has the rights of the account.");
    browser.screenshot("account-key");
    browser.click("#key-form [data-yes]");
    browser.read("#created-title", "Created prod");
    let token = page.take_key();
    browser.read(&page.row("grafana"), "1 key");
    page.act("grafana", "Details");
    browser.read("#account-keys", "prod");
    browser.read("#account-keys", "never used");
    assert_eq!(page.check(&token), Ok("grafana".to_owned()));
    assert_eq!(page.fact("#account-details-list", "Members"), "team: platform");
    page.is_well("account-details");
    page.press("#account-details-acts", "Show its keys");
    page.see_names(&["prod"]);
    assert_eq!(page.cell("prod", "Rights"), "Editor team: platform");
    // Its rights are the account's: they are not changed here.
    page.act("prod", "Change");
    browser.see("#key-name");
    browser.miss("#key-rights");
    page.press("#key-form", "Cancel");
    page.act("prod", "Details");
    assert_eq!(page.fact("#details-list", "Role"), "Editor from its service account");
    assert_eq!(page.fact("#details-list", "Belongs to"), "Service account grafana");
    page.press("#details-list", "grafana");
    browser.see("#accounts-view");
    page.see_names(&["grafana"]);

    page.act("grafana", "Change");
    page.choose("#account-role", "Admin");
    browser.read("#account-stronger", "It has 1 key.");
    page.choose("#account-role", "Viewer");
    browser.miss("#account-stronger");
    browser.fill("#account-name", "grafana-2");
    browser.click("#account-form [data-yes]");
    browser.read("#toast", "grafana-2 is changed.");
    assert_eq!(page.cell("grafana-2", "Rights"), "Viewer team: platform");
    // Another account of this name is denied at the name.
    browser.click("#add-account");
    browser.fill("#account-name", "grafana-2");
    browser.press(&[ENTER]);
    browser.wait(
        "a denial",
        "return ['account-name-error'].some((id) => document.getElementById(id).checkVisibility())
            || document.querySelector('#account-form > [data-error]').checkVisibility()",
        json!([]),
    );
    browser.screenshot("account-taken");
    page.press("#account-form", "Cancel");

    page.act("grafana-2", "Disable");
    browser.read("#confirm-text", "All its keys are denied until the account is enabled again");
    browser.click("#confirm-yes");
    browser.read("#toast", "grafana-2 is disabled.");
    browser.read(&page.row("grafana-2"), "Disabled");
    assert!(page.check(&token).is_err());
    page.act("grafana-2", "Enable");
    browser.click("#confirm-yes");
    browser.read("#toast", "grafana-2 works again.");
    assert_eq!(page.check(&token), Ok("grafana-2".to_owned()));
    page.act("grafana-2", "Delete");
    browser.read("#confirm-text", "1 key stops working at once, and this cannot be undone.");
    browser.screenshot("account-delete");
    browser.click("#confirm-yes");
    browser.read("#toast", "grafana-2 is deleted.");
    browser.miss("#account-rows tr");
    assert!(page.check(&token).is_err());
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn people_who_may_have_keys_of_their_own_see_those_alone() {
    let page = Page::start();
    page.issue("of nobody", "Viewer", None);
    page.enter("vic");
    let browser = &page.browser;
    browser.read("#keys-title", "Your keys");
    browser.read("#nothing", "There are no keys yet.");
    for hidden in ["#views", "#end-many"] {
        browser.miss(hidden);
    }
    browser.click("#add");
    browser.miss("#key-owner");
    assert_eq!(page.options("#key-role"), ["Always my own role", "Viewer"]);
    browser.fill("#key-name", "laptop");
    browser.screenshot("own-add");
    browser.click("#key-form [data-yes]");
    let token = page.take_key();
    assert_eq!(page.check(&token), Ok("Vic".to_owned()));
    page.see_names(&["laptop"]);
    assert_eq!(page.cell("laptop", "Rights"), "Its owner’s");
    browser.click("#filters-toggle");
    browser.see("#filter-role");
    browser.miss("#filter-owner");
    page.is_well("own-keys");
    // Who looks for other views by their addresses gets their own keys.
    page.show("audit");
    browser.see("#keys-view");
    page.act("laptop", "Revoke");
    browser.click("#confirm-yes");
    browser.read("#toast", "laptop is revoked.");
    assert!(page.check(&token).is_err());
    browser.click("#logout");

    // An administrator sees both, and whose they are.
    page.log_in("admin");
    browser.click("#show-expired");
    page.see_names(&["laptop", "of nobody"]);
    assert_eq!(page.cell("laptop", "Belongs to"), "vic person");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn nobody_is_offered_what_they_may_not_give() {
    let page = Page::start();
    page.issue("strong", "Admin", None);
    page.enter("ed");
    let browser = &page.browser;
    browser.click("#add");
    assert_eq!(page.options("#key-role"), ["Viewer", "Editor"]);
    // What the list cannot know is denied by the server, at the field.
    browser.fill("#key-name", "greedy");
    browser.fill("[data-member='team']", "board");
    browser.press(&[ENTER]);
    browser.wait(
        "a denial",
        "return [...document.querySelectorAll('#key-form .wrong, #key-form > [data-error]')]
            .some((element) => element.checkVisibility() && element.textContent !== '')",
        json!([]),
    );
    browser.screenshot("not-theirs-to-give");
    browser.fill("[data-member='team']", "ops");
    browser.click("#key-form [data-yes]");
    page.take_key();
    // A key above their role cannot be made theirs.
    page.act("strong", "Rotate");
    browser.click("#rotate-form .primary");
    browser.see("#rotate-form [role='alert']");
    page.press("#rotate-form", "Cancel");
    browser.click("#logout");

    // Who may nothing is told so.
    page.log_in("nil");
    browser.read("#no-rights", "You may not manage API keys");
    browser.miss("#keys-view");
    page.is_well("no-rights");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn the_audit_tells_who_changed_what_and_finds_it_by_time_actor_and_key() {
    let page = Page::logged_in();
    let browser = &page.browser;
    page.add("watched", "Viewer", "7d");
    page.take_key();
    page.issue("other", "Viewer", None);
    page.act("watched", "Change");
    page.choose("#key-role", "Editor");
    browser.click("#key-form [data-yes]");
    browser.read("#toast", "watched is changed.");
    page.act("watched", "Details");
    page.press("#details-acts", "History");
    browser.see("#audit-view");
    page.browser.wait(
        "two rows",
        "return document.querySelectorAll('#audit-rows tr').length === 2",
        json!([]),
    );
    browser.read("#audit-rows tr:first-child", "API key changed");
    browser.read("#audit-rows tr:first-child", "Viewer → Editor");
    browser.read("#audit-rows tr:first-child", "admin");
    browser.read("#audit-rows tr:first-child", "from 127.0.0.1");
    page.is_well("audit");
    browser.click("#audit-clear");
    browser.read("#audit-rows", "other");
    browser.fill("#audit-actor", "root");
    browser.wait("one row", "return document.querySelectorAll('#audit-rows tr').length === 1", json!([]));
    browser.read("#audit-rows", "other");
    browser.click("#audit-clear");
    browser.read("#audit-rows", "watched");
    let fill_time = |field: &str, value: &str| {
        browser.script(
            "const field = document.querySelector(arguments[0]);
             field.value = arguments[1];
             field.dispatchEvent(new Event('input', { bubbles: true }))",
            json!([field, value]),
        );
    };
    fill_time("#audit-to", "2020-01-01T00:00");
    browser.read("#no-audit", "Nothing matches all filters.");
    page.press("#no-audit", "Clear all filters");
    browser.read("#audit-rows", "watched");
    fill_time("#audit-from", "2020-01-01T00:00");
    browser.wait("the filter", "return location.hash.includes('from=2020-01-01T')", json!([]));
    browser.read("#audit-rows", "watched");
    assert_eq!(page.problems(), Vec::<String>::new());
}
