//! What can be done with keys: by hand, one after the other, and many at once.

use std::process::Command;

use serde_json::{Value, json};

use super::{CONFIG, DAY, Page};
use crate::harness::browser::{Browser, ENTER};
use crate::harness::pki::{Ca, Pair};
use crate::harness::server::run;
use crate::harness::{Server, grpc, sqlite};

#[test]
fn a_key_is_added_copied_used_rotated_paused_revoked_and_deleted() {
    let page = Page::start();
    let browser = &page.browser;
    browser.devtools(
        "Browser.grantPermissions",
        json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] }),
    );
    let clipboard = || {
        let text = browser.script("return (window.kept ?? navigator.clipboard).readText()", json!([]));
        text.as_str().expect("text").to_owned()
    };

    // A wrong password is denied where it was written, and nothing is shown.
    browser.go(&page.url());
    browser.see("#login-user");
    browser.screenshot("login");
    browser.fill("#login-user", "admin");
    browser.fill("#login-password", "wrong");
    browser.click("#login-form .primary");
    browser.read("#login .alert", "Invalid username or password");
    browser.see_focus("login-password");
    browser.miss("#keys");
    browser.screenshot("login-denied");

    page.log_in("admin");
    browser.read("#who", "Ada");
    browser.read("#nothing", "There are no keys yet");
    browser.screenshot("empty");

    // Add: 90 days are chosen at first, and the time that a life leads to is told before it is sent.
    browser.click("#add");
    browser.fill("#key-name", "deploys");
    browser.read("#key-life-hint", "in 3 months");
    assert_eq!(
        page.options("#key-life"),
        ["In 7 days", "In 30 days", "In 90 days", "After another time…", "Never"]
    );
    page.choose("#key-life", "custom");
    browser.see_focus("key-ttl");
    browser.fill("#key-ttl", "3d");
    browser.read("#key-ttl-hint", "in 3 days");
    browser.screenshot("add");
    browser.click("#key-form [data-yes]");
    browser.read("#created-title", "Created deploys");
    browser.screenshot("created");
    let key = browser.text("#created-key");
    browser.click("#copy-key");
    browser.read("#copied", "Key copied.");
    assert_eq!(clipboard(), key);

    // Where a browser gives no clipboard, which is everywhere but on this machine and under https, the old way.
    browser.script(
        "window.kept = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', {value: undefined})",
        json!([]),
    );
    // The line is what it says: it runs as it stands.
    browser.click("#copy-curl");
    browser.read("#copied", "Command copied.");
    let line = clipboard();
    assert_eq!(line, browser.text("#created-curl"));
    let ran = Command::new("sh").arg("-c").arg(format!("{line} --silent --show-error")).output().expect("sh");
    let actor: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{line}: {ran:?}"));
    assert_eq!(actor["name"], "deploys", "{actor}");

    // Shown once: when the dialog is gone, nothing of the key is on the page.
    browser.click("#created-done");
    browser.miss("#created-dialog");
    // A dialog's close event comes in a task of its own, after the dialog has gone from the screen.
    browser.wait(
        "losing the key",
        "return !document.documentElement.outerHTML.includes(arguments[0])
            && ![...document.querySelectorAll('input, textarea')].some((field) => field.value.includes(arguments[0]))",
        json!([key]),
    );
    browser.read("#rows", "in 3 days");

    // Used through Check, and seen to be used.
    assert_eq!(page.check(&key), Ok("deploys".to_owned()));
    browser.wait(
        "a last use",
        "document.getElementById('refresh').click();
         return document.querySelector('#rows [data-cell=\"Last used\"] time') !== null",
        json!([]),
    );
    // By the line that was copied, and by the Check, which may be written down a minute later.
    let used = page.cell("deploys", "Last used");
    assert!(used.contains("2 uses") || used.contains("1 use"), "{used}");

    // Rotate: a time that is too long is denied in place, an hour is not.
    page.act("deploys", "Rotate");
    browser.read("#rotate-overlap-hint", "Requests with the old secret are denied from now on.");
    page.choose("#rotate-overlap", "custom");
    browser.fill("#rotate-custom", "8d");
    browser.press(&[ENTER]);
    browser.read("#rotate-custom-error", "At most 7 days.");
    browser.fill("#rotate-custom", "90m");
    browser.read("#rotate-custom-hint", "The old secret works until");
    browser.screenshot("rotate");
    // An overlap never outlives the key.
    page.choose("#rotate-overlap", "604800");
    browser.read("#rotate-overlap-hint", "when the key expires.");
    page.choose("#rotate-overlap", "3600");
    browser.read("#rotate-overlap-hint", "in 1 hour");
    browser.click("#rotate-form .primary");
    browser.read("#created-title", "New secret for deploys");
    let second = page.take_key();
    assert_ne!(second, key);
    for works in [&key, &second] {
        assert_eq!(page.check(works), Ok("deploys".to_owned()));
    }
    browser.read(&page.row("deploys"), "Two secrets");
    // And again, at once: both older ones are dead, which was said before.
    page.act("deploys", "Rotate");
    browser.read("#rotate-third", "The secret before this one still works.");
    browser.click("#rotate-form .primary");
    let third = page.take_key();
    assert!(page.check(&key).is_err() && page.check(&second).is_err());
    assert_eq!(page.check(&third), Ok("deploys".to_owned()));

    // Pause and resume.
    page.act("deploys", "Pause");
    browser.read("#confirm-title", "Pause deploys?");
    browser.click("#confirm-yes");
    browser.read("#toast", "deploys is paused.");
    browser.read(&page.row("deploys"), "Paused");
    assert!(page.check(&third).is_err());
    page.act("deploys", "Resume");
    browser.click("#confirm-yes");
    browser.read("#toast", "deploys works again.");
    assert_eq!(page.check(&third), Ok("deploys".to_owned()));

    // Revoke.
    page.act("deploys", "Revoke");
    browser.read("#confirm-title", "Revoke deploys?");
    browser.screenshot("revoke");
    browser.click("#confirm-form [data-close]");
    browser.miss("#confirm-dialog");
    assert_eq!(page.check(&third), Ok("deploys".to_owned()));
    page.act("deploys", "Revoke");
    browser.click("#confirm-yes");
    browser.read("#toast", "deploys is revoked.");
    browser.miss("#rows tr");
    assert_eq!(page.check(&third), Err("Revoked API key".to_owned()));

    // The empty list knows that there are dead keys, and shows them.
    browser.read("#nothing", "There is no live key. One has expired or was revoked.");
    browser.screenshot("only-dead");
    page.press("#nothing", "Show expired and revoked");
    browser.read("#rows tr.dead", "Revoked");
    page.act("deploys", "Delete");
    browser.read("#confirm-title", "Delete deploys?");
    browser.click("#confirm-yes");
    browser.read("#toast", "deploys is deleted.");
    browser.miss("#rows tr");
    assert_eq!(page.keys(), Vec::<Value>::new());

    // Log out: also for whoever reloads or goes back.
    browser.click("#logout");
    browser.see("#login-user");
    browser.go(&page.url());
    browser.see("#login-user");
    browser.miss("#keys");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn over_https_the_session_is_this_hosts_alone_and_never_leaves_it_in_the_clear() {
    let Pair { cert, key } = Ca::new("the CA").issue(&["localhost", "127.0.0.1"]);
    let tls = "admin: {listen: '127.0.0.1:0', tls: {cert: admin.crt, key: admin.key}, ";
    let config = CONFIG.replace("admin: {listen: '127.0.0.1:0', ", tls) + "credentials: [bearer, session]\n";
    let server = Server::with(&config).file("admin.crt", &cert).file("admin.key", &key).start();
    let admin = server.admin();
    let page = Page { browser: Browser::start_trusting_every_certificate(), admin, server };
    let (browser, url) = (&page.browser, page.url().replace("http:", "https:"));
    browser.go(&url);
    page.log_in("admin");
    browser.read("#who", "Ada");
    let cookies = browser.cookies();
    let cookie = |name: &str| {
        let named = cookies.iter().find(|cookie| cookie["name"] == name);
        named.unwrap_or_else(|| panic!("no {name}: {cookies:?}"))
    };
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    for (name, same_site) in [("__Host-eat_session", "Strict"), ("__Host-eat_app", "Lax")] {
        let attributes =
            ["secure", "httpOnly", "sameSite", "path"].map(|attribute| cookie(name)[attribute].clone());
        assert_eq!(attributes, [json!(true), json!(true), json!(same_site), json!("/")], "{name}");
    }
    assert_eq!(browser.script("return document.cookie", json!([])), json!(""));

    // A key is made, works, and is in the list, also of who comes back.
    page.add("over-https", "Viewer", "1d");
    let made = page.take_key();
    assert_eq!(page.check(&made), Ok("over-https".to_owned()));
    browser.go(&url);
    browser.read("#rows", "over-https");

    // The application's session counts in Checks, until its user logs out.
    let session = format!("__Host-eat_app={}", cookie("__Host-eat_app")["value"].as_str().unwrap());
    let passes = || {
        let request = grpc::request("GET", "app.example", "/", &[("cookie", &session)]);
        grpc::code(&grpc::check(&page.server, request)) == 0
    };
    assert!(passes());
    browser.click("#logout");
    browser.see("#login-user");
    assert_eq!(browser.cookies(), Vec::<Value>::new());
    assert!(!passes());
    browser.go(&url);
    browser.see("#login-user");
    browser.miss("#keys");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn all_that_is_known_of_a_key_is_shown_and_can_be_changed() {
    let page = Page::logged_in();
    let browser = &page.browser;
    browser.click("#add");
    browser.fill("#key-name", "reporting");
    browser.fill("#key-description", "Nightly numbers for the board");
    page.choose("#key-role", "Editor");
    page.choose("#key-life", "2592000");
    browser.click("#key-where-some");
    browser.click("#key-policy-0");
    browser.fill("[data-member='team']", "board");
    browser.read("#key-member-0-kind", "A text");
    browser.fill("[data-member='groups']", "[\"ops\", 7]");
    browser.read("#key-member-1-kind", "A list of 2");
    browser.screenshot("add-rights");
    browser.click("#key-form [data-yes]");
    page.take_key();
    let key = page.key("reporting");
    assert_eq!(key["description"], "Nightly numbers for the board");
    assert_eq!((&key["role"], &key["policies"]), (&json!("Editor"), &json!(["reports"])));
    assert_eq!(key["actor"], json!({"team": "board", "groups": ["ops", 7]}));

    // In the table, and all of it in the details.
    browser.read(&page.row("reporting"), "Nightly numbers for the board");
    assert_eq!(page.cell("reporting", "Rights"), "Editor under reports · team: board · groups: [\"ops\",7]");
    assert_eq!(page.cell("reporting", "Belongs to"), "No owner");
    assert!(page.cell("reporting", "Created").ends_with("by admin"), "{}", page.cell("reporting", "Created"));
    browser.click(&format!("{} [data-focus='name']", page.row("reporting")));
    browser.see("#details-dialog");
    browser.screenshot("details");
    for (term, expected) in [
        ("Role", "Editor"),
        ("Valid", "Only under reports"),
        ("Members", "team: board\ngroups: [\"ops\",7]"),
        ("Belongs to", "No owner"),
        ("Last used", "Never"),
    ] {
        assert_eq!(page.fact("#details-list", term), expected, "{term}");
    }
    assert!(page.fact("#details-list", "Created").ends_with(", by admin"));
    assert!(page.fact("#details-list", "Expires").ends_with("in 1 month"));

    // Change: what makes the key stronger is said to be so before it is sent.
    page.press("#details-acts", "Change");
    browser.read("#key-title", "Change reporting");
    browser.miss("#key-stronger");
    page.choose("#key-role", "Viewer");
    browser.miss("#key-stronger");
    page.choose("#key-role", "Admin");
    browser.read("#key-stronger", "Everyone who has this key gets more rights: admin, who created it");
    page.choose("#key-role", "Viewer");
    browser.click("#key-where-all");
    browser.see("#key-stronger");
    browser.screenshot("change");
    browser.fill("#key-name", "numbers");
    browser.fill("[data-member='team']", "");
    browser.fill("#key-description", "");
    page.choose("#key-life", "never");
    browser.read("#key-life-hint", "The key works until it is revoked");
    browser.click("#key-form [data-yes]");
    browser.read("#toast", "numbers is changed.");
    let key = page.key("numbers");
    assert_eq!((&key["role"], &key["actor"]), (&json!("Viewer"), &json!({"groups": ["ops", 7]})));
    for gone in ["policies", "description", "expiration"] {
        assert!(key.get(gone).is_none(), "{gone}: {key}");
    }
    assert_eq!(page.cell("numbers", "Expires"), "No expiration date");

    // Of a dead key the description alone.
    page.act("numbers", "Revoke");
    browser.click("#confirm-yes");
    browser.read("#toast", "numbers is revoked.");
    browser.click("#show-expired");
    page.act("numbers", "Change description");
    browser.see("#key-description");
    browser.miss("#key-name");
    browser.miss("#key-rights");
    browser.miss("#key-life");
    browser.fill("#key-description", "was in a public log");
    browser.click("#key-form [data-yes]");
    browser.read("#toast", "numbers is changed.");
    browser.click(&format!("{} [data-focus='name']", page.row("numbers")));
    assert!(page.fact("#details-list", "Revoked").ends_with(", by admin"));
    browser.read("#details-description", "was in a public log");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn keys_are_filtered_sorted_and_told_apart_by_the_server() {
    let page = Page::start();
    for (name, role, life) in [
        ("alpha", "Viewer", Some(5 * DAY)),
        ("beta", "Editor", Some(20 * DAY)),
        ("gamma", "Admin", None),
        ("delta", "Viewer", None),
    ] {
        page.issue(name, role, life);
    }
    let account = page.call("POST", "/api/serviceaccounts", &json!({"name": "robot", "role": "Editor"}));
    page.create(json!({"name": "omega", "account": account["name"]}));
    let old = "strftime('%s') - 100 * 86400";
    page.sql(&format!("UPDATE api_keys SET created_at = {old} WHERE name IN ('gamma', 'omega')"));
    page.sql("UPDATE api_keys SET created_by = 'mallory' WHERE name = 'delta'");
    page.enter("admin");
    page.see_names(&["alpha", "beta", "delta", "gamma", "omega"]);
    assert_eq!(page.cell("omega", "Rights"), "Editor");
    assert_eq!(page.cell("omega", "Belongs to"), "robot service account");

    let browser = &page.browser;
    browser.click("#filters-toggle");
    browser.screenshot("filters");
    for (field, value, expected) in [
        ("#filter-role", "Editor", &["beta", "omega"][..]),
        ("#filter-expiring", "7", &["alpha"]),
        ("#filter-unused", "90", &["gamma", "omega"]),
        ("#filter-kind", "account", &["omega"]),
        ("#filter-kind", "person", &[]),
        ("#filter-sort", "-name", &["omega", "gamma", "delta", "beta", "alpha"]),
        ("#filter-sort", "expiration", &["alpha", "beta", "gamma", "delta", "omega"]),
    ] {
        page.choose(field, value);
        page.see_names(expected);
        page.choose(field, "");
        page.see_names(&["alpha", "beta", "delta", "gamma", "omega"]);
    }
    browser.fill("#filter-account", "robot");
    page.see_names(&["omega"]);
    browser.read("#filters-toggle", "Filters (1)");
    // A new key is then the account's.
    browser.click("#add");
    assert_eq!(browser.text("#key-account"), "robot");
    page.press("#key-form", "Cancel");
    browser.fill("#filter-account", "robo");
    browser.read("#nothing", "There is no service account of this name or id.");
    page.see_names(&[]);
    browser.fill("#filter-account", "");
    browser.fill("#filter-maker", "mallory");
    page.see_names(&["delta"]);
    page.choose("#filter-role", "Admin");
    browser.read("#nothing", "No key matches all filters.");
    page.press("#nothing", "Clear all filters");
    page.see_names(&["alpha", "beta", "delta", "gamma", "omega"]);
    assert_eq!(browser.text("#filter-maker"), "");

    // By the heads of the columns, which say how it is sorted.
    let sorted = "return [...document.querySelectorAll('#table [aria-sort]')]
        .map((head) => `${head.innerText.trim()} ${head.getAttribute('aria-sort')}`)";
    let head = |column: &str| format!("#table [data-sort='{column}'] button");
    browser.click(&head("expiration"));
    page.see_names(&["alpha", "beta", "gamma", "delta", "omega"]);
    assert_eq!(browser.script(sorted, json!([])), json!(["Expires ascending"]));
    browser.click(&head("name"));
    browser.click(&head("name"));
    page.see_names(&["omega", "gamma", "delta", "beta", "alpha"]);
    assert_eq!(browser.script(sorted, json!([])), json!(["Name descending"]));
    for column in ["role", "created", "lastUsedAt"] {
        browser.click(&head(column));
        browser.wait(
            "sorting",
            "return document.querySelector(`#table [data-sort='${arguments[0]}']`).hasAttribute('aria-sort')",
            json!([column]),
        );
        assert_eq!(page.names().len(), 5, "{column}");
    }

    // Back, and an address that can be sent to a colleague.
    page.show("keys?role=Viewer&sort=-name");
    page.see_names(&["delta", "alpha"]);
    browser.script("history.back()", json!([]));
    browser.wait("all again", "return document.querySelectorAll('#rows tr').length === 5", json!([]));
    browser.fill("#search", "ALPH");
    page.see_names(&["alpha"]);
    browser.fill("#search", "no such thing");
    browser.read("#nothing", "No key has no such thing in its name.");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn ten_thousand_keys_are_shown_a_page_at_a_time() {
    let page = Page::start();
    sqlite::insert_keys(&page.server.folder().join("keys.db"), 10_000);
    page.enter("admin");
    let browser = &page.browser;
    browser.read("#keys-pager", "1–50 of 10,000");
    let size =
        "return [document.querySelectorAll('#rows tr').length, document.querySelectorAll('*').length < 6000]";
    assert_eq!(browser.script(size, json!([])), json!([50, true]));
    let first = page.names();
    page.press("#keys-pager", "Next");
    browser.read("#keys-pager", "51–100 of 10,000");
    assert!(page.names().iter().all(|name| !first.contains(name)));
    // The keyboard stays where it is.
    browser.see_focus("Next");
    page.press("#keys-pager", "Last");
    browser.read("#keys-pager", "9,951–10,000 of 10,000");
    page.press("#keys-pager", "Previous");
    browser.read("#keys-pager", "9,901–9,950 of 10,000");
    page.choose("#keys-pager select", "100");
    browser.read("#keys-pager", "1–100 of 10,000");
    assert_eq!(browser.script(size, json!([])), json!([100, true]));
    browser.screenshot("ten-thousand");
    browser.fill("#search", "stored key 9999");
    browser.read("#keys-pager", "1–1 of 1");
    browser.fill("#search", "");
    browser.read("#keys-pager", "of 10,000");
    // Sorted another way there are no more rows in the document than before.
    browser.click("#table [data-sort='name'] button");
    browser.wait(
        "the other end",
        "return document.querySelector('#rows .name').textContent.includes('9999')",
        json!([]),
    );
    assert_eq!(browser.script(size, json!([])), json!([100, true]));
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn many_keys_are_revoked_after_a_look_at_them() {
    let page = Page::start();
    for name in ["ci-1", "ci-2", "other"] {
        page.issue(name, "Viewer", None);
    }
    page.enter("admin");
    let browser = &page.browser;
    browser.click("#end-many");
    browser.press(&[ENTER]);
    browser.read("#end-form [role='alert']", "Fill in at least one field");
    browser.fill("#end-unused", "soon");
    browser.press(&[ENTER]);
    browser.read("#end-unused-error", "Enter a number of days, such as 90.");
    browser.see_focus("end-unused");
    browser.fill("#end-unused", "");
    browser.fill("#end-pattern", "nothing-*");
    browser.press(&[ENTER]);
    browser.read("#end-count", "No live key matches.");
    browser.miss("#end-yes");
    browser.fill("#end-pattern", "ci-*");
    browser.miss("#end-found");
    browser.press(&[ENTER]);
    browser.read("#end-count", "2 keys will be revoked:");
    browser.read("#end-rows", "ci-1");
    browser.screenshot("revoke-many");
    // Nothing was done, and Enter in a field does nothing either.
    browser.script("document.getElementById('end-pattern').focus()", json!([]));
    browser.press(&[ENTER]);
    assert!(page.keys().iter().all(|key| key.get("isRevoked").is_none()));
    // Other criteria take the button away.
    browser.fill("#end-pattern", "ci-1");
    browser.miss("#end-yes");
    browser.press(&[ENTER]);
    browser.read("#end-yes", "Revoke 1 key");
    browser.fill("#end-pattern", "ci-*");
    browser.press(&[ENTER]);
    browser.read("#end-yes", "Revoke 2 keys");
    browser.click("#end-yes");
    browser.read("#toast", "2 keys are revoked.");
    page.see_names(&["other"]);
    let revoked: Vec<_> = page.keys().into_iter().filter(|key| key["isRevoked"] == true).collect();
    assert_eq!(revoked.len(), 2, "{revoked:?}");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn a_token_is_looked_for_by_a_digest_that_the_browser_makes() {
    let page = Page::start();
    let token = page.issue("leaky", "Viewer", None)["key"].as_str().expect("a token").to_owned();
    page.enter("admin");
    let browser = &page.browser;
    browser.requests();
    browser.click("#find");
    browser.fill("#find-token", "no-token-of-ours");
    browser.press(&[ENTER]);
    browser.read("#find-token-error", "No key of this store has this token.");
    browser.fill("#find-token", &format!(" Bearer {token} "));
    browser.press(&[ENTER]);
    browser.read("#find-found", "It is leaky");
    browser.screenshot("find");
    assert_eq!(page.fact("#find-facts", "Role"), "Viewer");
    // What was sent are two digests.
    let sent = browser.script(
        "return performance.getEntriesByType('resource').map(({ name }) => name).filter((name) => name.endsWith('/find')).length",
        json!([]),
    );
    assert_eq!(sent, json!(2));
    assert!(browser.requests().iter().all(|(_, url)| !url.contains(&token)));
    page.press("#find-dialog", "Close");
    browser.click("#find");
    assert_eq!(browser.text("#find-token"), "");
    page.press("#find-dialog", "Close");

    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn without_https_the_terminal_makes_the_digest_of_a_token() {
    let config = CONFIG.replace("admin: {", "admin: {hosts: [keys.example], ");
    let server = Server::with(&config).start();
    let admin = server.admin();
    let page = Page { browser: Browser::start_with_name("keys.example", "127.0.0.1"), admin, server };
    let token = page.issue("leaky", "Viewer", None)["key"].as_str().expect("a token").to_owned();
    let browser = &page.browser;
    browser.go(&format!("http://keys.example:{}/", admin.port()));
    page.log_in("admin");
    browser.click("#find");
    browser.read("#find-insecure", "not loaded over https");
    page.is_well("find-insecure");
    browser.fill("#find-token", &token);
    browser.press(&[ENTER]);
    browser.read("#find-token-error", "64 digits");
    // The line is what it says: it runs as it stands.
    let mut command = Command::new("bash");
    command.arg("-c").arg(browser.text("#find-command"));
    let ran = run(command, &format!("{token}\n"));
    browser.fill("#find-token", ran.stdout.trim());
    browser.press(&[ENTER]);
    browser.read("#find-found", "It is leaky");
}
