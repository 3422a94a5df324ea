//! What is written wrongly is told at its field, with the limit; and what explains a field.

use serde_json::json;

use super::{CONFIG, Page};
use crate::harness::browser::{ENTER, ESCAPE};

#[test]
fn a_time_to_live_that_is_none_is_denied_in_place_without_a_request() {
    let page = Page::logged_in();
    let browser = &page.browser;
    browser.click("#add");
    browser.fill("#key-name", "timely");
    page.choose("#key-life", "custom");
    browser.requests();
    for wrong in
        ["1", "d", "0d", "-1d", "+1d", "1.5d", "1e3s", "1 d", "1d12h", "1D", "1w ago", "\u{661}d", "tomorrow"]
    {
        browser.fill("#key-ttl", wrong);
        browser.press(&[ENTER]);
        browser.read("#key-ttl-error", "Enter one whole number and one of s m h d w M y");
        browser.see_focus("key-ttl");
        let invalid = "return document.getElementById('key-ttl').getAttribute('aria-invalid')";
        assert_eq!(browser.script(invalid, json!([])), json!("true"), "{wrong}");
    }
    browser.screenshot("ttl-denied");
    browser.fill("#key-ttl", "99999999999y");
    browser.press(&[ENTER]);
    browser.read("#key-ttl-error", "That is too long.");
    browser.fill("#key-ttl", "");
    browser.press(&[ENTER]);
    browser.read("#key-ttl-error", "Write a time to live, such as 12h.");
    assert_eq!(browser.requests(), [], "nothing was asked of the server");

    // What is right takes the complaint away and says where it leads.
    for (right, leads) in [
        ("45s", "in 45 seconds"),
        ("30m", "in 30 minutes"),
        ("12h", "in 12 hours"),
        ("1d", "in 1 day"),
        ("2w", "in 14 days"),
        ("3M", "in 3 months"),
        ("2y", "in 2 years"),
        (" 7d ", "in 7 days"),
    ] {
        browser.fill("#key-ttl", right);
        browser.read("#key-ttl-hint", leads);
        browser.miss("#key-ttl-error");
    }
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn a_tooltip_is_shown_to_mouse_and_keyboard_until_escape_closes_it_alone() {
    let page = Page::logged_in();
    let browser = &page.browser;
    browser.click("#add");
    page.choose("#key-life", "custom");
    let tip = "#key-ttl-tip";
    browser.miss(tip);
    browser.hover("#key-dialog .help");
    browser.read(tip, "12h");
    browser.screenshot("tooltip");
    // The mouse may go to the tip, to read or copy it.
    browser.hover(tip);
    browser.script("return new Promise((done) => setTimeout(done, 400))", json!([]));
    browser.see(tip);
    browser.hover("#key-title");
    browser.miss(tip);
    browser.script("document.querySelector('#key-dialog .help').focus()", json!([]));
    browser.see(tip);
    browser.press(&[ESCAPE]);
    browser.miss(tip);
    browser.see("#key-dialog");
    browser.see_focus("?");
    browser.press(&[ESCAPE]);
    browser.miss("#key-dialog");
    browser.see_focus("add");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn names_and_descriptions_that_are_none_are_told_at_their_fields() {
    let page = Page::logged_in();
    let browser = &page.browser;
    page.issue("taken", "Viewer", None);
    browser.click("#add");
    browser.press(&[ENTER]);
    browser.read("#key-name-error", "Give the key a name.");
    for (wrong, message) in [
        ("taken".to_owned(), "Another live key of the same owner has this name."),
        ("x".repeat(191), "A name is 1 to 190 printable characters, and this one has 191."),
        (
            "bell\u{7}".to_owned(),
            "A name is 1 to 190 printable characters of one script without blanks at the ends.",
        ),
    ] {
        browser.fill("#key-name", &wrong);
        browser.press(&[ENTER]);
        browser.wait(
            message,
            "return document.getElementById('key-name-error').innerText.toLowerCase().includes(arguments[0].toLowerCase())",
            json!([message]),
        );
        browser.see_focus("key-name");
    }
    browser.fill("#key-name", "right");
    browser.fill("#key-description", &"d".repeat(501));
    browser.press(&[ENTER]);
    browser.read("#key-description-error", "A description has at most 500 characters, and this one has 501.");
    browser.see_focus("key-description");
    browser.fill("#key-description", "");
    page.choose("#key-owner", "account");
    browser.click("#key-form [data-yes]");
    browser.read("#key-account-error", "Enter the name of a service account.");
    browser.fill("#key-account", "nobody knows");
    browser.press(&[ENTER]);
    browser.see("#key-account-error");
    browser.screenshot("no-account");
    assert_eq!(page.keys().len(), 1);
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn the_longest_life_is_known_before_it_is_exceeded() {
    let config = CONFIG.replace("keys: {", "keys: {max_seconds_to_live: 1209600, ");
    let page = Page::start_with(&config);
    page.enter("admin");
    let browser = &page.browser;
    browser.click("#add");
    assert_eq!(
        page.options("#key-life"),
        ["In 7 days", "In 14 days, the longest here", "After another time…"]
    );
    browser.read("#key-life-hint", "in 14 days");
    browser.fill("#key-name", "short");
    page.choose("#key-life", "custom");
    browser.fill("#key-ttl", "15d");
    browser.press(&[ENTER]);
    browser.read("#key-ttl-error", "14 days at most.");
    browser.screenshot("life-limit");
    browser.fill("#key-ttl", "14d");
    browser.press(&[ENTER]);
    page.take_key();
    browser.read("#rows", "in 14 days");
    assert_eq!(page.problems(), Vec::<String>::new());
}
