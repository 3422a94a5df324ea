//! `make docs`: mdBook takes the pages, no link of the book is dead, and axe-core finds nothing to complain of.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::json;

use crate::harness::browser::Browser;
use crate::harness::server::run;
use crate::harness::tools;

/// The book, built once by the script of `make docs`.
fn book() -> &'static Path {
    static BOOK: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut command = Command::new("python3");
        command.arg("docs/build.py").arg("--mdbook").arg(tools::mdbook()).current_dir(tools::root());
        let ran = run(command, "");
        assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(" pages, "), "{ran:?}");
        tools::root().join("target/book")
    });
    &BOOK
}

/// The pages of docs/, by the names that they have in the book.
fn pages() -> Vec<String> {
    let entries = std::fs::read_dir(tools::root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter_map(|name| Some(format!("{}.html", name.strip_suffix(".md")?)));
    pages.filter(|page| page != "SUMMARY.html").collect()
}

#[test]
fn every_page_is_accessible() {
    let browser = Browser::start();
    browser.set_size(1280, 900);
    let pages = pages();
    assert!(pages.len() > 35, "{pages:?}");
    let mut problems = Vec::new();
    for page in &pages {
        browser.go(&format!("file://{}", book().join(page).display()));
        browser.wait(
            "the table of contents",
            "return document.querySelector('#mdbook-sidebar a, #sidebar a') !== null",
            json!([]),
        );
        problems
            .extend(browser.accessibility_problems().into_iter().map(|problem| format!("{page}: {problem}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Questions of operators, the words that they search for, and the page that answers.
const QUESTIONS: [(&str, &str, &str); 20] = [
    ("Which keys can reach /admin?", "keys reach path", "policies.html"),
    ("Why 403 with an empty body?", "403 empty body", "troubleshooting.html"),
    ("How do I restore?", "restore backup", "backup.html"),
    ("How do I go back to the old version?", "roll back version", "upgrade.html"),
    ("How much memory for 200,000 keys?", "memory keys limit", "sizing.html"),
    ("How many connections to PostgreSQL?", "connections PostgreSQL replicas", "key-store.html"),
    ("How do I rotate a token without an outage?", "rotate token overlap", "rotation.html"),
    ("A key has leaked", "leaked", "keys-commands.html"),
    ("What does user_locked mean?", "user_locked", "troubleshooting.html"),
    (
        "Does a change of max_connections need a restart?",
        "max_connections restart",
        "configuration-reference.html",
    ),
    ("Who revoked the key?", "audit log change", "logs.html"),
    ("How do I publish the page with TLS?", "publish page TLS", "publish-the-page.html"),
    ("Sidecar or shared?", "sidecar shared replicas", "sizing.html"),
    ("Which header tells the application the actor?", "actor_headers", "configuration-reference.html"),
    ("How do I try a rule without denying?", "enforce false", "shadow-mode.html"),
    ("mTLS between Envoy and the server", "client_ca client_names", "tls.html"),
    ("A browser is not sent to the log-in page", "login_redirect", "sessions.html"),
    ("Which metric says the store is down?", "envoy_auth_tokens_keys_store_lag_seconds", "metrics.html"),
    ("Keep my Grafana scripts", "Grafana scripts", "grafana.html"),
    ("The server is not ready", "ready store 503", "health.html"),
];

#[test]
fn the_search_finds_the_answers_to_twenty_questions() {
    let browser = Browser::start();
    browser.set_size(1280, 900);
    for (question, words, page) in QUESTIONS {
        browser.go(&format!(
            "file://{}?search={}",
            book().join("index.html").display(),
            words.replace(' ', "+")
        ));
        let found = browser.wait(
            "results",
            "const links = [...document.querySelectorAll('#mdbook-searchresults a')];
             return links.length > 0 && links.map((link) => link.getAttribute('href').split('?')[0])",
            json!([]),
        );
        let first: Vec<_> = found.as_array().unwrap().iter().take(8).collect();
        assert!(first.iter().any(|link| **link == json!(page)), "{question} {words}: {first:?}");
    }
}
