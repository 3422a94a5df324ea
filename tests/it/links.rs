//! Every link of a document leads to a file of the repository, and to a heading that it has.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::harness::tools;

/// Every Markdown file that somebody reads in the repository, by its path there.
fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "benches", "fuzz", "tests", "deploy/recipes"];
    let mut found = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(tools::root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(tools::root()).unwrap().to_owned());
            }
        }
    }
    found
}

/// The text without fenced blocks and without `code`.
fn prose(text: &str) -> String {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n\n");
    outside.split('`').step_by(2).collect()
}

/// The anchor that GitHub, GitLab, Forgejo and mdBook give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|char| char.is_alphanumeric() || [' ', '-', '_'].contains(char));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// Where a relative path leads from a folder, both below the root.
fn resolved(folder: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for component in folder.join(target).components() {
        match component {
            Component::ParentDir => assert!(path.pop(), "{target} leads out of the repository"),
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut found = 0;
    for document in documents() {
        let text = std::fs::read_to_string(tools::root().join(&document)).unwrap();
        for link in prose(&text).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let link: String = link.split_whitespace().collect();
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            found += 1;
            let (target, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let path = match target {
                "" => document.clone(),
                target => resolved(document.parent().unwrap(), target),
            };
            let whole = tools::root().join(&path);
            if !whole.exists() {
                wrong.push(format!("{}: {link}: no such file", document.display()));
            } else if !fragment.is_empty()
                && !anchors(&std::fs::read_to_string(&whole).unwrap()).contains(fragment)
            {
                wrong.push(format!("{}: {link}: no such heading", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 150, "{found}");
}

#[test]
fn every_page_stands_in_the_table_of_contents_once() {
    let summary = std::fs::read_to_string(tools::root().join("docs/SUMMARY.md")).unwrap();
    let mut listed: Vec<_> =
        summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect();
    listed.sort_unstable();
    let pages = documents().into_iter().filter(|path| path.starts_with("docs"));
    let names = pages.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<_> = names.filter(|name| name != "SUMMARY.md").collect();
    names.sort_unstable();
    assert_eq!(listed, names);
}

/// What the source and what we ship say about documents.
#[test]
fn every_document_that_the_source_or_a_shipped_file_names_exists() {
    let mut folders: Vec<_> = ["src", "deploy", "benches"].map(|name| tools::root().join(name)).to_vec();
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            for after in text.split("docs/").skip(1) {
                let name =
                    after.split(|char: char| !char.is_ascii_lowercase() && char != '-').next().unwrap();
                if after[name.len()..].starts_with(".md") {
                    let page = format!("docs/{name}.md");
                    assert!(tools::root().join(&page).exists(), "{}: {page}", entry.path().display());
                    found += 1;
                }
            }
        }
    }
    assert!(found >= 10, "{found}");
}
