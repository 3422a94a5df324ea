//! Two hosts of one domain, with a real browser.

use serde_json::json;

use super::log_in::{Site, log_in_at_the_provider, with_provider};
use super::{Recipe, secret};
use crate::harness::Upstream;

const HOSTS: [&str; 4] = ["login.example.com", "app.example.com", "other.example.com", "example.org"];

#[test]
fn a_session_of_the_domain_counts_on_its_hosts_and_nowhere_else() {
    let site = Site::of(Recipe::named("domain"), &HOSTS);
    let browser = &site.browser;
    browser.go("https://app.example.com/reports");
    site.arrive("https://login.example.com/login?return_to=");
    site.log_in("alice", secret("ALICE_PASSWORD"));
    site.arrive("https://app.example.com/reports");
    assert_eq!(Site::header(&site.application(), "x-actor-id"), ["alice"]);
    let cookie = site.cookie("__Secure-eat_app").expect("the session");
    assert_eq!(
        (&cookie["domain"], &cookie["secure"], &cookie["httpOnly"]),
        (&json!(".example.com"), &json!(true), &json!(true))
    );
    assert_eq!(site.cookie("__Host-eat_session"), None, "the page's is for its own host");
    browser.go("https://other.example.com/");
    assert_eq!(Site::header(&site.application(), "x-actor-id"), ["alice"]);
    // Outside of the domain there is neither a session nor a way to the log-in page.
    browser.go("https://example.org/");
    let seen = browser.wait("the denial", "return document.body.innerText", json!([]));
    assert!(seen.as_str().is_some_and(|text| text.contains("unauthorized")), "{seen}");
    // Log-out at the one ends it at the other.
    browser.go("https://login.example.com/logout");
    browser.click("#logout");
    browser.see("#logged-out");
    browser.go("https://app.example.com/reports");
    site.arrive("https://login.example.com/login?return_to=");
}

#[test]
fn people_of_a_provider_log_in_for_every_host_of_the_domain() {
    let (_provider, recipe) = with_provider("domain", "login.example.com");
    let site = Site::of(recipe, &HOSTS);
    log_in_at_the_provider(&site, "login.example.com");
}

#[test]
fn an_address_of_somebody_else_is_not_gone_back_to() {
    let site = Site::of(Recipe::named("domain"), &HOSTS);
    let browser = &site.browser;
    for address in [
        "https://example.org/",
        "//example.org/",
        "/\\example.org/",
        "https:example.org",
        "https://app.example.com@example.org/",
        "https://app.example.com.example.org/",
        "https://evilexample.com/",
        "http://app.example.com/",
        "javascript:alert(1)",
    ] {
        browser.go(&format!("https://login.example.com/login?return_to={}", percent(address)));
        browser.see("#login-form");
        browser.miss("#destination");
        site.log_in("alice", secret("ALICE_PASSWORD"));
        site.arrive_exactly("https://login.example.com/");
        browser.go("https://login.example.com/logout");
        browser.click("#logout");
        browser.see("#logged-out");
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    Recipe::named("domain").start_before(&upstream).play();
}
