//! `deploy/Dockerfile` as far as it can be held without building it; `shipped::image` builds and runs the image.

use std::path::Path;
use std::process::Command;

use crate::harness::documents::{self, Block};
use crate::harness::server::BINARY;
use crate::harness::tools;

const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");
const IGNORE: &str = include_str!("../../.dockerignore");
const CARGO: &str = include_str!("../../Cargo.toml");

/// What follows this in the only line of the text that begins with it.
#[track_caller]
fn after<'t>(text: &'t str, start: &str) -> &'t str {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(start));
    let rest = found.next().unwrap_or_else(|| panic!("no line begins with {start:?}"));
    assert_eq!(found.next(), None, "several lines begin with {start:?}");
    rest
}

#[test]
fn hadolint_finds_nothing() {
    let mut command = Command::new(tools::hadolint());
    command.args(["deploy/Dockerfile", "deploy/module/Dockerfile", "deploy/module/Dockerfile.envoy"]);
    let ran = command.current_dir(tools::root()).output().unwrap();
    let output = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
    assert!(ran.status.success() && output.is_empty(), "hadolint: {output}");
}

#[test]
fn the_versions_are_the_crates() {
    assert_eq!(after(DOCKERFILE, "ARG VERSION="), env!("CARGO_PKG_VERSION"));
    let label = "org.opencontainers.image.description=";
    let (_, description) = DOCKERFILE.split_once(label).unwrap();
    let ours = after(CARGO, "description = ");
    assert!(description.starts_with(ours), "{label}{ours} as in Cargo.toml");

    // The base image's Rust is new enough for the crate.
    let number = |text: &str| -> Vec<u32> {
        text.trim_matches('"').split('.').map(|part| part.parse().expect("a number")).collect()
    };
    let base = after(DOCKERFILE, "FROM docker.io/library/rust:").split('-').next().unwrap();
    assert!(number(base) >= number(after(CARGO, "rust-version = ")), "rust:{base}");
}

/// What rustc read of ours to compile the library that these tests are of, as it noted for cargo.
fn sources() -> Vec<String> {
    let folder = Path::new(BINARY).with_file_name("deps");
    let mut noted = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let library = file.strip_prefix("libenvoy_auth_tokens-").and_then(|rest| rest.strip_suffix(".rlib"));
        if let Some(hash) = library {
            let note = std::fs::read_to_string(folder.join(format!("envoy_auth_tokens-{hash}.d"))).unwrap();
            let (_, read) = note.split_once(": ").unwrap();
            noted.extend(read.lines().next().unwrap().split(' ').map(str::to_owned));
        }
    }
    // Older builds may have read what is gone; what build.rs made is no file of ours.
    noted.retain(|file| Path::new(file).is_relative() && tools::root().join(file).exists());
    noted
}

#[test]
fn all_that_the_build_reads_is_sent_to_it() {
    // What .dockerignore lets through: all is shut out, and then some is let in again.
    let mut rules = IGNORE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(rules.next(), Some("*"));
    let let_in: Vec<_> = rules.map(|rule| rule.strip_prefix('!').expect("one exception a line")).collect();
    let is_sent = |file: &str| {
        let_in.iter().any(|rule| match rule.split_once('*') {
            Some((start, end)) => file.starts_with(start) && file.ends_with(end),
            None => Path::new(file).starts_with(rule),
        })
    };

    let read = sources();
    let mut needed: Vec<_> = read.iter().map(String::as_str).collect();
    assert!(needed.len() > 50, "{needed:?}");
    // What cargo itself reads, and the scripts that the build runs.
    let targets = CARGO.split("[[bench]]\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let benches: Vec<_> = targets.map(|name| format!("benches/{name}.rs")).collect();
    needed.extend(benches.iter().map(String::as_str));
    needed.extend(["Cargo.toml", "Cargo.lock", "build.rs", "deploy/image-files.sh"]);
    needed.extend(["deploy/dist.sh", "deploy/compilers.sh"]);
    needed.push("proto/ext_authz.proto");
    // cargo reads the manifest of every member of the workspace.
    needed.extend(["envoy-module/Cargo.toml", "envoy-module/src/lib.rs"]);
    let lacking: Vec<_> = needed.iter().filter(|file| !is_sent(file)).collect();
    assert!(lacking.is_empty(), ".dockerignore keeps these from the build: {lacking:#?}");

    for secret in [".git/config", "target/debug/envoy-auth-tokens", ".env", "deploy/demo/demo.py"] {
        assert!(!is_sent(secret), "{secret} is nothing that the build needs");
    }
}

#[test]
fn the_docker_run_of_the_documents_fits_the_image() {
    let blocks = documents::document("docs/install.md").blocks_below("The image");
    let parts: Vec<_> = blocks.iter().map(Block::parts).collect();
    let [("sh", make), ("sh", run)] = parts[..] else { panic!("{blocks:#?}") };
    let image = concat!("envoy-auth-tokens:", env!("CARGO_PKG_VERSION"));
    assert!(make.starts_with("make image #") && make.contains(image), "{make}");
    let run = run.replace("\\\n", " ");
    let words: Vec<_> = run.split_whitespace().collect();
    assert_eq!(words.last(), Some(&image), "{run}");
    let given = |flag: &str| -> Vec<&str> {
        words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].trim_matches('"')).collect()
    };
    // `shipped::image` mounts the same at the same places.
    let volumes = ["$PWD/config:/etc/envoy-auth-tokens:ro", "keys:/var/lib/envoy-auth-tokens"];
    assert_eq!(given("--volume"), volumes);
    let published = given("--publish")[0].rsplit(':').next().unwrap();
    assert!(after(DOCKERFILE, "EXPOSE ").split(' ').any(|port| port == published), "{published}");
}
