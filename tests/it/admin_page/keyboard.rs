//! The keyboard alone.

use serde_json::{Value, json};

use super::{PASSWORD, Page};
use crate::harness::browser::{CONTROL, DOWN, ENTER, ESCAPE, SHIFT, SPACE, TAB};

/// The look of the element that has the focus: something that is not there without it.
const VISIBLE_FOCUS: &str = "const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";

/// Presses Tab until an element has the focus that has this id, or says this.
#[track_caller]
fn tab_to(page: &Page, label: &str) {
    for _ in 0..60 {
        if page.browser.focused().contains(label) {
            let visible = page.browser.script(VISIBLE_FOCUS, json!([]));
            assert_eq!(visible, json!(true), "the focus on {label} cannot be seen");
            return;
        }
        page.browser.press(&[TAB]);
    }
    panic!("no way to {label}: the focus is on {}", page.browser.focused());
}

/// Goes down in the menu that is open, to an entry.
#[track_caller]
fn choose(page: &Page, label: &str) {
    page.browser.see("#menu");
    for _ in 0..10 {
        if page.browser.focused() == label {
            page.browser.press(&[ENTER]);
            return;
        }
        page.browser.press(&[DOWN]);
    }
    panic!("no {label} in the menu");
}

#[test]
fn the_keyboard_alone_is_enough_for_keys() {
    let page = Page::start();
    let browser = &page.browser;
    browser.go(&page.url());
    browser.see("#login-user");

    // Where a page begins, the focus is.
    browser.see_focus("login-user");
    browser.type_text("admin");
    tab_to(&page, "login-password");
    browser.type_text(PASSWORD);
    browser.press(&[ENTER]);
    browser.see("#add");
    browser.see_focus("search");

    browser.press_with(SHIFT, TAB);
    browser.see_focus("add");
    browser.press(&[ENTER]);
    browser.see_focus("key-name");
    browser.type_text("by-hand");
    tab_to(&page, "key-life");
    // As in every list, a letter goes on to the next option that begins with it.
    browser.type_text("I");
    browser.read("#key-life-hint", "in 7 days");
    tab_to(&page, "key-role");
    browser.type_text("E");
    browser.screenshot("keyboard");
    tab_to(&page, "Add key");
    browser.press(&[ENTER]);

    // A key that was not copied is not lost by a slip of the finger.
    browser.see("#created-key");
    browser.see_focus("copy-key");
    browser.press(&[ESCAPE, ESCAPE, ESCAPE]);
    browser.read("#copied", "Press Done");
    browser.press_with(SHIFT, TAB);
    browser.see_focus("created-key");
    browser.press_with(CONTROL, "c");
    tab_to(&page, "created-done");
    browser.press(&[SPACE]);
    browser.miss("#created-dialog");
    browser.see_focus("add");
    let keys = page.keys();
    assert_eq!((&keys[0]["name"], &keys[0]["role"]), (&json!("by-hand"), &json!("Editor")));

    // The menu of a row: Escape leaves it, and a dialog, and the focus goes back to where it came from.
    tab_to(&page, "Actions for by-hand");
    browser.press(&[ENTER]);
    browser.see("#menu");
    browser.see_focus("Details");
    browser.press(&[ESCAPE]);
    browser.miss("#menu");
    browser.see_focus("Actions for by-hand");
    browser.press(&[ENTER]);
    choose(&page, "Revoke");
    browser.see("#confirm-dialog");
    // The harmless answer comes first.
    browser.see_focus("Cancel");
    browser.press(&[ESCAPE]);
    browser.miss("#confirm-dialog");
    browser.see_focus("Actions for by-hand");

    // The Tab key stays inside a dialog.
    browser.press(&[ENTER]);
    choose(&page, "Revoke");
    for _ in 0..6 {
        browser.press(&[TAB]);
        let outside = "return document.hasFocus() && document.activeElement !== document.body
            && !document.querySelector('dialog[open]').contains(document.activeElement)";
        assert_eq!(browser.script(outside, json!([])), json!(false));
    }
    tab_to(&page, "confirm-yes");
    browser.press(&[SPACE]);
    browser.read("#toast", "by-hand is revoked.");
    browser.miss("#rows tr");
    // The row is gone, the focus is not lost.
    browser.see_focus("add");

    tab_to(&page, "show-expired");
    browser.press(&[SPACE]);
    browser.see("#rows tr.dead");
    tab_to(&page, "Actions for by-hand");
    browser.press(&[SPACE]);
    choose(&page, "Delete");
    browser.see("#confirm-dialog");
    tab_to(&page, "confirm-yes");
    browser.press(&[ENTER]);
    browser.read("#toast", "by-hand is deleted.");
    assert_eq!(page.keys(), Vec::<Value>::new());
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn the_keyboard_alone_is_enough_for_the_other_views() {
    let page = Page::start();
    page.issue("one", "Viewer", None);
    page.enter("admin");
    let browser = &page.browser;
    browser.see_focus("search");
    browser.script("document.activeElement.blur(); document.body.focus()", json!([]));
    browser.go(&page.url());
    browser.see("#rows tr");
    browser.see_focus("search");
    for _ in 0..20 {
        if browser.focused() == "Service accounts" {
            break;
        }
        browser.press_with(SHIFT, TAB);
    }
    browser.see_focus("Service accounts");
    browser.press(&[ENTER]);
    browser.read("#no-accounts", "There are no service accounts yet.");
    tab_to(&page, "add-account");
    browser.press(&[ENTER]);
    browser.see_focus("account-name");
    browser.type_text("robot");
    browser.press(&[ENTER]);
    browser.read("#toast", "robot is added.");
    tab_to(&page, "Actions for robot");
    browser.press(&[ENTER]);
    choose(&page, "Add key");
    browser.see_focus("key-name");
    browser.type_text("arm");
    browser.press(&[ENTER]);
    browser.see_focus("copy-key");
    tab_to(&page, "created-done");
    browser.press(&[ENTER]);
    browser.miss("#created-dialog");
    browser.see_focus("Actions for robot");
    browser.press(&[ENTER]);
    choose(&page, "Details");
    browser.read("#account-keys", "arm");
    browser.see_focus("Close");
    browser.press(&[ESCAPE]);
    browser.see_focus("Actions for robot");

    for _ in 0..20 {
        if browser.focused() == "Audit" {
            break;
        }
        browser.press_with(SHIFT, TAB);
    }
    browser.see_focus("Audit");
    browser.press(&[ENTER]);
    browser.read("#audit-rows", "service account created");
    tab_to(&page, "audit-key");
    browser.type_text("one");
    browser.wait("one row", "return document.querySelectorAll('#audit-rows tr').length === 1", json!([]));
    // The skip link passes the head of the page.
    browser.script("document.getElementById('skip').focus()", json!([]));
    browser.see_focus("skip");
    browser.press(&[ENTER]);
    browser.see_focus("main");
    assert_eq!(page.problems(), Vec::<String>::new());
}
