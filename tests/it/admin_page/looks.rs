//! Every view and dialog, in every width and colour: nothing reaches out of the window, and axe-core finds nothing.

use serde_json::json;

use super::{DAY, Page};
use crate::harness::browser::{ENTER, ESCAPE};

/// Keys and accounts of every kind: living and dead, short and as long as names may be.
fn fill(page: &Page) {
    let account = json!({"name": "grafana", "role": "Editor", "policies": ["reports"], "description": "Dashboards of the platform team"});
    page.call("POST", "/api/serviceaccounts", &account);
    let long = "a-long-name-without-any-blank-".repeat(6);
    for key in [
        json!({"name": "billing-export", "role": "Viewer", "secondsToLive": 90 * DAY, "policies": ["reports"],
               "description": "Nightly export to the data warehouse, which the finance team reads every morning"}),
        json!({"name": "ci deploys", "role": "Editor", "secondsToLive": 2 * DAY, "actor": {"team": "ops", "groups": ["a", "b"]}}),
        json!({"name": "grafana dashboards", "role": "Viewer"}),
        json!({"name": "מפתח לבדיקה", "role": "Viewer", "secondsToLive": 7 * DAY, "description": "לבדיקות בלבד"}),
        json!({"name": "夜間バッチ処理キー", "role": "Admin", "description": "毎晩実行されるバッチ処理"}),
        json!({"name": "<script>alert(1)</script>", "role": "Viewer"}),
        json!({"name": long, "role": "Editor", "secondsToLive": 365 * DAY}),
        json!({"name": "soon gone", "role": "Viewer", "secondsToLive": 1}),
        json!({"name": "taken back", "role": "Editor"}),
        json!({"name": "prod", "account": "grafana"}),
    ] {
        page.create(key);
    }
    let path = |name: &str, act: &str| format!("/api/auth/keys/{}{act}", page.key(name)["id"]);
    page.call("POST", &path("taken back", "/revoke"), &json!({}));
    page.call("PATCH", &path("grafana dashboards", ""), &json!({"disabled": true}));
    page.call("POST", &path("billing-export", "/rotate"), &json!({"overlapSeconds": 3600}));
    page.sql("UPDATE api_keys SET last_used_at = strftime('%s') - 100, uses = 12034, last_address = '2001:db8:85a3::8a2e:370:7334' WHERE name = 'billing-export'");
}

/// Shows every part of the page in turn, from the log-in on.
fn visit(page: &Page, name: &str) {
    let browser = &page.browser;
    let at = |place: &str| page.is_well(&format!("{name}-{place}"));
    browser.go(&page.url());
    browser.see("#login-user");
    browser.click("#login-form .primary");
    browser.read("#login .alert", "Enter your user name.");
    at("login");
    page.log_in("admin");
    browser.see("#rows tr");
    at("keys");
    browser.click("#filters-toggle");
    browser.click("#show-expired");
    browser.see("#rows tr.dead");
    at("keys-filters-and-dead-ones");
    browser.click("#filters-toggle");
    browser.click(&format!("{} .dots", page.row("ci deploys")));
    browser.see("#menu");
    at("menu");
    browser.press(&[ESCAPE]);
    page.act("billing-export", "Details");
    browser.see("#details-dialog");
    at("details");
    browser.press(&[ESCAPE]);

    browser.click("#add");
    page.choose("#key-life", "custom");
    browser.fill("#key-ttl", "soon");
    browser.press(&[ENTER]);
    browser.see("#key-name-error");
    browser.see("#key-ttl-error");
    at("add-denied");
    browser.hover("#key-dialog .help");
    browser.see("#key-ttl-tip");
    at("add-help");
    browser.hover("#key-title");
    browser.fill("#key-name", name);
    browser.click("#key-where-some");
    page.choose("#key-life", "never");
    at("add");
    browser.click("#key-policy-0");
    browser.click("#key-form [data-yes]");
    browser.see("#created-key");
    at("created");
    browser.click("#created-done");
    browser.miss("#created-dialog");
    page.act(name, "Change");
    page.choose("#key-role", "Admin");
    browser.see("#key-stronger");
    at("change");
    browser.press(&[ESCAPE]);
    page.act("billing-export", "Rotate");
    browser.see("#rotate-third");
    at("rotate");
    browser.press(&[ESCAPE]);
    page.act(name, "Delete");
    browser.see("#confirm-dialog");
    at("delete");
    browser.click("#confirm-yes");
    browser.read("#toast", "is deleted");
    at("toast");
    browser.click("#end-many");
    browser.fill("#end-pattern", "*");
    browser.press(&[ENTER]);
    browser.see("#end-yes");
    at("revoke-many");
    browser.press(&[ESCAPE]);
    browser.click("#find");
    browser.fill("#find-token", &"0".repeat(64));
    browser.press(&[ENTER]);
    browser.see("#find-token-error");
    at("find");
    browser.press(&[ESCAPE]);

    page.show("accounts");
    browser.see("#account-rows tr");
    at("accounts");
    page.act("grafana", "Details");
    browser.see("#account-details-dialog");
    at("account-details");
    browser.press(&[ESCAPE]);
    page.act("grafana", "Change");
    browser.see("#account-dialog");
    at("account-change");
    browser.press(&[ESCAPE]);
    page.show("audit");
    browser.see("#audit-rows tr");
    at("audit");
    page.show("audit?key=no-such-key");
    browser.see("#no-audit");
    at("audit-empty");
    page.show("keys?query=no-such-key");
    browser.see("#nothing");
    at("keys-empty");
    browser.click("#logout");
    browser.see("#login-user");
}

/// Visits everything in a window that `arrange` has arranged.
fn visit_in(name: &str, arrange: impl Fn(&Page)) {
    let page = Page::start();
    fill(&page);
    arrange(&page);
    visit(&page, name);
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn it_fits_a_laptop_by_day_and_by_night() {
    visit_in("1280-light", |page| page.browser.set_color_scheme("light"));
    visit_in("1280-dark", |page| {
        page.browser.set_color_scheme("dark");
        page.browser.go(&page.url());
        page.browser.see("#login-user");
        let ground =
            "return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)";
        let ground = page.browser.script(ground, json!([]));
        assert!(ground[0].as_i64().expect("a colour") < 128, "{ground}");
    });
}

#[test]
fn it_fits_the_narrowest_phone_and_a_tablet() {
    visit_in("320-light", |page| page.browser.set_size(320, 700));
    visit_in("768-dark", |page| {
        page.browser.set_size(768, 1024);
        page.browser.set_color_scheme("dark");
    });
}

#[test]
fn it_fits_a_wide_screen_and_one_that_is_zoomed_in() {
    visit_in("1920-light", |page| page.browser.set_size(1920, 1080));
    visit_in("zoomed-light", |page| page.browser.set_zoomed_size(1280, 1024, 2));
}

#[test]
fn it_is_whole_in_forced_colours() {
    visit_in("forced-colors", |page| {
        page.browser.set_preferences(&[("forced-colors", "active"), ("prefers-color-scheme", "dark")]);
    });
}

#[test]
fn rows_are_even_in_every_width() {
    let page = Page::start();
    for number in 0..8 {
        page.create(json!({"name": format!("key {number}"), "role": "Viewer", "secondsToLive": (number + 1) * 40 * DAY}));
    }
    page.enter("admin");
    for width in [320, 480, 768, 1024, 1232, 1233, 1280, 1440, 1920] {
        page.browser.set_size(width, 900);
        let heights = page.browser.script(
            "await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
             const heights = [...document.querySelectorAll('#rows tr')].map((row) => row.getBoundingClientRect().height);
             return [
                 // The line between two rows counts to one of them.
                 Math.max(...heights) - Math.min(...heights) <= 1,
                 Math.max(...[...document.querySelectorAll('#rows time')].map((time) => time.getClientRects().length)),
             ]",
            json!([]),
        );
        assert_eq!(heights, json!([true, 1]), "{width}: heights of rows, lines of a date");
    }
}
