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
        browser.wait("the table of contents", "return document.querySelector('#mdbook-sidebar a, #sidebar a') !== null", json!([]));
        problems.extend(browser.accessibility_problems().into_iter().map(|problem| format!("{page}: {problem}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn what_is_searched_for_is_found() {
    let browser = Browser::start();
    browser.set_size(1280, 900);
    for (words, page) in [
        ("user_locked", "troubleshooting.html"),
        ("max_staleness", "configuration-reference.html"),
        ("restore backup", "backup.html"),
        ("accept-history", "cli.html"),
    ] {
        browser.go(&format!("file://{}?search={}", book().join("index.html").display(), words.replace(' ', "+")));
        let found = browser.wait(
            "results",
            "const links = [...document.querySelectorAll('#mdbook-searchresults a, #searchresults a')];
             return links.length > 0 && links.map((link) => link.getAttribute('href'))",
            json!([]),
        );
        assert!(found.to_string().contains(page), "{words}: {found}");
    }
}
