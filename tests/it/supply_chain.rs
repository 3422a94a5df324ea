//! What comes into the binary, and what is told of it: `deny.toml`, `Cargo.lock`, the scripts of a release.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::server::{BINARY, Ran, run};
use crate::harness::tools;

const CHANGELOG: &str = include_str!("../../CHANGELOG.md");
const LOCK: &str = include_str!("../../Cargo.lock");
const MANIFEST: &str = include_str!("../../Cargo.toml");
const README: &str = include_str!("../../README.md");

#[test]
fn no_licence_crate_or_source_comes_in_that_deny_toml_does_not_let_in() {
    let mut command = Command::new(tools::cargo_deny());
    command.args(["--locked", "check", "-D", "warnings", "bans", "licenses", "sources"]);
    command.current_dir(tools::root());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn every_package_comes_from_the_registry_and_has_a_checksum() {
    let packages: Vec<_> = LOCK.split("[[package]]\n").skip(1).collect();
    assert!(packages.len() > 200, "{}", packages.len());
    for package in packages {
        let value = |key: &str| package.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        if matches!(value("name"), Some("\"envoy-auth-tokens\"" | "\"envoy-auth-tokens-module\"")) {
            assert_eq!(value("source"), None, "{package}");
            continue;
        }
        let registry = "\"registry+https://github.com/rust-lang/crates.io-index\"";
        assert_eq!(value("source"), Some(registry), "{package}");
        assert_eq!(value("checksum").map(str::len), Some(64 + 2), "{package}");
    }
}

/// What cargo tells of every package that we may be built with.
fn packages() -> Vec<Value> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--format-version", "1"]).current_dir(tools::root());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let metadata: Value = serde_json::from_str(&ran.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn the_rust_that_we_ask_for_is_new_enough_for_every_package() {
    let numbers = |version: &str| -> Vec<u32> {
        version.split('.').map(|number| number.parse().unwrap()).chain([0]).take(3).collect()
    };
    let ours =
        MANIFEST.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    for package in packages() {
        if let Some(theirs) = package["rust_version"].as_str() {
            let (name, version) = (&package["name"], &package["version"]);
            assert!(
                numbers(ours) >= numbers(theirs),
                "{name} {version} needs Rust {theirs}, we ask for {ours}"
            );
        }
    }
    assert!(
        README.contains(&format!("Rust {ours} or newer")),
        "the README asks for another Rust than {ours}"
    );
}

#[test]
fn ci_the_image_and_contributors_build_with_one_version_of_rust() {
    let toolchain = fs::read_to_string(tools::root().join("rust-toolchain.toml")).unwrap();
    let channel =
        toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    let dockerfile = fs::read_to_string(tools::root().join("deploy/Dockerfile")).unwrap();
    assert!(
        dockerfile.contains(&format!("\nFROM docker.io/library/rust:{channel}-")),
        "the image is not built with Rust {channel}"
    );
}

#[test]
fn the_engine_alone_links_no_server_and_no_command_line() {
    let linked = |features: &[&str]| -> BTreeSet<String> {
        let mut command = Command::new(env!("CARGO"));
        command
            .args([
                "tree",
                "--package=envoy-auth-tokens",
                "--locked",
                "--edges=normal",
                "--prefix=none",
                "--format={lib}",
            ])
            .args(features);
        command.current_dir(tools::root());
        let ran = run(command, "");
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        ran.stdout.lines().map(str::to_owned).collect()
    };
    let (all, engine) = (linked(&[]), linked(&["--no-default-features"]));
    for name in [
        "axum",
        "clap",
        "h2",
        "hyper",
        "opentelemetry",
        "prometheus_client",
        "prost",
        "sqlx_postgres",
        "tonic",
    ] {
        assert!(all.contains(name), "{all:?}");
        assert!(!engine.contains(name), "the library without features links {name}");
    }
    assert!(engine.contains("sqlx_sqlite") && engine.contains("regex"), "{engine:?}");
}

#[test]
fn a_source_package_holds_what_builds_tests_and_ships_us() {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["package", "--package=envoy-auth-tokens", "--list", "--allow-dirty", "--locked"])
        .current_dir(tools::root());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let files: Vec<_> = ran.stdout.lines().collect();
    for needed in [
        "Cargo.lock",
        "Makefile",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "build.rs",
        "deny.toml",
        "proto/ext_authz.proto",
        "rust-toolchain.toml",
        "src/admin/page.html",
        "deploy/dist.sh",
        "tests/corpus/check_request/envoy_raw",
        "tests/tools/fetch.py",
    ] {
        assert!(files.contains(&needed), "{needed} is missing: {files:#?}");
    }
    for folder in ["target/", ".ci/", ".git/"] {
        assert!(!files.iter().any(|file| file.starts_with(folder)), "{folder} came along");
    }
}

#[test]
fn the_changelog_tells_of_this_version() {
    let version =
        MANIFEST.lines().find_map(|line| line.strip_prefix("version = ")).unwrap().trim_matches('"');
    assert!(CHANGELOG.contains(&format!("\n## [{version}]")), "CHANGELOG.md has nothing on {version}");
}

#[test]
fn the_bill_of_materials_and_the_notices_name_what_is_linked_and_nothing_else() {
    tools::cyclonedx();
    let mut command = Command::new("python3");
    command.arg("deploy/sbom.py").current_dir(tools::root());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let bill: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(bill["metadata"]["component"]["name"], "envoy-auth-tokens");

    let components = bill["components"].as_array().unwrap();
    for component in components {
        for member in ["name", "version", "purl"] {
            assert!(!component[member].as_str().unwrap().is_empty(), "{component}");
        }
        assert!(!component["licenses"].as_array().unwrap().is_empty(), "{component}");
    }
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    for linked in ["tokio", "rustls", "sqlx-postgres", "sqlite", "aws-lc", "mimalloc", "glibc", "rust-std"] {
        assert!(has(linked), "{linked} is linked and not listed");
    }
    for not_linked in
        ["cc", "prost-build", "protox", "serde_derive", "syn", "proptest", "rcgen", "sqlx-mysql"]
    {
        assert!(!has(not_linked), "{not_linked} is listed and not linked");
    }

    let notices = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("python3");
    command.args(["deploy/notices.py", "--output"]).arg(notices.path()).current_dir(tools::root());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let notices = fs::read_to_string(notices.path()).unwrap();
    for component in components.iter().filter(|it| it["purl"].as_str().unwrap().starts_with("pkg:cargo/")) {
        let package =
            format!("\n{} {}", component["name"].as_str().unwrap(), component["version"].as_str().unwrap());
        assert!(notices.contains(&package), "no licence of {package}");
    }

    // Where and when it was written is no part of it: another run elsewhere writes the same.
    assert!(!ran.stdout.contains(tools::root().to_str().unwrap()), "a path of this machine");
    assert_eq!((&bill["serialNumber"], &bill["metadata"]["timestamp"]), (&Value::Null, &Value::Null));
}

const WORKFLOWS: [&str; 2] = [".github/workflows/ci.yaml", ".github/workflows/release.yaml"];

/// What actionlint says of these files.
fn actionlint(files: &[&Path]) -> Ran {
    let mut command = Command::new(tools::actionlint());
    // What it would do beside, with programs that this machine may or may not have.
    command.args(["-no-color", "-shellcheck=", "-pyflakes="]).args(files).current_dir(tools::root());
    run(command, "")
}

#[test]
fn actionlint_finds_nothing_in_the_workflows_and_something_in_a_wrong_one() {
    let ran = actionlint(&WORKFLOWS.map(Path::new));
    assert_eq!((ran.code(), ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    let text = fs::read_to_string(tools::root().join(WORKFLOWS[1])).unwrap();
    fs::write(&wrong, text.replace("needs: [build", "needs: [bild")).unwrap();
    let ran = actionlint(&[&wrong]);
    assert!(ran.code() == Some(1) && ran.stdout.contains("bild"), "{ran:?}");
    let found = fs::read_dir(tools::root().join(".github/workflows")).unwrap().count();
    assert_eq!(found, WORKFLOWS.len());
}

#[test]
fn every_action_is_named_by_a_commit_and_by_the_release_that_this_is() {
    let mut commits = BTreeMap::new();
    for file in WORKFLOWS {
        let text = fs::read_to_string(tools::root().join(file)).unwrap();
        for line in text.lines().filter_map(|line| line.split_once("uses:").map(|(_, used)| used.trim())) {
            let parts: Vec<_> = line.split(['@', ' ']).collect();
            let [action, commit, "#", release] = parts[..] else { panic!("{file}: {line}") };
            assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{file}: {line}");
            let numbers: Vec<_> = release.strip_prefix('v').unwrap_or("").split('.').collect();
            let whole = numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok());
            assert!(whole, "{file}: `# v1.2.3` is missing: {line}");
            // One release of it in all workflows.
            let named = (commit.to_owned(), release.to_owned());
            let known = commits.entry(action.to_owned()).or_insert_with(|| named.clone());
            assert_eq!(*known, named, "{file}: {action}");
        }
    }
    assert!(commits.len() >= 6, "{commits:?}");
    // Somebody hears of newer ones.
    let dependabot = fs::read_to_string(tools::root().join(".github/dependabot.yml")).unwrap();
    let dependabot: Value = serde_saphyr::from_str(&dependabot).unwrap();
    assert_eq!(dependabot["updates"][0]["package-ecosystem"], "github-actions");
}

#[test]
fn every_step_of_a_workflow_is_a_target_of_make_that_is_there() {
    let makefile = fs::read_to_string(tools::root().join("Makefile")).unwrap();
    let rules: BTreeSet<_> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', ' ']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(targets, _)| targets.split(' '))
        .collect();
    let mut targets = BTreeSet::new();
    for file in WORKFLOWS {
        let text = fs::read_to_string(tools::root().join(file)).unwrap();
        // Whoever reads it hears that nobody has seen it run.
        assert!(text.lines().take(5).any(|line| line.contains("never ran")), "{file}");
        let workflow: Value = serde_saphyr::from_str(&text).unwrap();
        let jobs = workflow["jobs"].as_object().unwrap().values();
        for step in jobs.flat_map(|job| job["steps"].as_array().unwrap()) {
            let Some(command) = step["run"].as_str() else {
                assert!(step["uses"].is_string(), "{file}: {step}");
                continue;
            };
            match command.split(' ').collect::<Vec<_>>()[..] {
                ["make", target] => {
                    assert!(rules.contains(target), "{file}: the Makefile has no {target}");
                    targets.insert(target.to_owned());
                }
                _ => assert!(command.ends_with(" .ci/run"), "{file}: {command}"),
            }
        }
    }
    assert!(targets.len() > 8, "{targets:?}");
    // Those that publish say what they lack before they do anything.
    for target in ["push-image", "join-images", "push-chart", "sign"] {
        let mut command = Command::new(tools::root().join("deploy/release.sh"));
        command.arg(target).env_remove("REGISTRY").env("OUTPUT", "/nonexistent");
        let ran = run(command, "");
        let lacks = ["REGISTRY is empty", "run make chart-package"];
        assert!(
            ran.code() == Some(1) && lacks.iter().any(|word| ran.stderr.contains(word)),
            "{target}: {ran:?}"
        );
    }
    let mut command = Command::new(tools::root().join("deploy/release.sh"));
    command.arg("github-release").env("TAG", "v9.9.9");
    let ran = run(command, "");
    let expected = format!("the tag v9.9.9 is not of version {}", env!("CARGO_PKG_VERSION"));
    assert!(ran.code() == Some(1) && ran.stderr.contains(&expected), "{ran:?}");
}

#[test]
fn the_archives_of_a_release_have_the_program_and_the_module_and_are_the_same_each_time() {
    let checkout = checkout();
    let dist = checkout.path().join("target/dist");
    fs::create_dir_all(&dist).unwrap();
    // By another process: a file that this one has open for writing could not be started.
    let copied = Command::new("cp").arg(BINARY).arg(dist.join("envoy-auth-tokens")).status();
    assert!(copied.unwrap().success());
    fs::write(dist.join("libenvoy_auth_tokens.so"), "what `make module` builds").unwrap();
    fs::write(dist.join("THIRD-PARTY-NOTICES"), "licences").unwrap();
    let archive = |part: &str| {
        let mut command = Command::new(checkout.path().join("deploy/release.sh"));
        command.arg(part);
        let ran = run_in(checkout.path(), command);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        checkout.path().join(ran.stdout.trim())
    };
    let file = archive("archive");
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let start = format!("envoy-auth-tokens-{}-linux-", env!("CARGO_PKG_VERSION"));
    assert!(name.starts_with(&start), "{name}");
    let first = fs::read(&file).unwrap();
    assert!(first == fs::read(archive("archive")).unwrap(), "two archives of the same files differ");
    let mut command = Command::new("sha256sum");
    command.args(["--check", "--strict", &format!("{name}.sha256")]);
    let ran = run_in(&dist, command);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let unpacked = tempfile::tempdir().unwrap();
    let mut command = Command::new("tar");
    command.arg("--extract").arg("--file").arg(&file);
    assert_eq!(run_in(unpacked.path(), command).code(), Some(0));
    let folder = unpacked.path().join(name.trim_end_matches(".tar.gz"));
    assert!(folder.join("THIRD-PARTY-NOTICES").is_file());
    let mut command = Command::new(folder.join("envoy-auth-tokens"));
    command.arg("--version");
    let ran = run(command, "");
    assert!(ran.stdout.contains(env!("CARGO_PKG_VERSION")), "{ran:?}");

    let module = archive("module-archive");
    let mut command = Command::new("tar");
    command.arg("--list").arg("--file").arg(&module);
    let listed = run(command, "").stdout;
    let name = module.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
    for file in ["libenvoy_auth_tokens.so", "THIRD-PARTY-NOTICES"] {
        assert!(listed.contains(&format!("{name}/{file}\n")), "{file}: {listed}");
    }
}

#[test]
fn the_chart_of_a_release_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(tools::root().join("deploy/release.sh"));
    command.arg("chart-package").env("OUTPUT", folder.path());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let package = ran.stdout.trim().to_owned();
    let mut command = Command::new(tools::helm());
    command.arg("template").arg("mine").arg(&package);
    command.args(["--set", "prometheusRule.enabled=true,dashboards.enabled=true"]);
    let ran = run(command, "");
    assert!(ran.code() == Some(0) && ran.stdout.contains("EnvoyAuthTokensAbsent"), "{ran:?}");
    // It is read on its own, so nothing in it leads out of it.
    let mut command = Command::new("tar");
    command.arg("--extract").arg("--file").arg(&package);
    assert_eq!(run_in(folder.path(), command).code(), Some(0));
    let file = |name: &str| fs::read_to_string(folder.path().join("envoy-auth-tokens").join(name)).unwrap();
    assert_eq!(file("LICENSE"), fs::read_to_string(tools::root().join("LICENSE")).unwrap());
    let readme = file("README.md");
    let links: Vec<_> = readme.split("](").skip(1).filter(|link| !link.starts_with("https://")).collect();
    assert!(links.is_empty(), "{links:?}");
    // The icon is that of the page.
    let chart: Value = serde_saphyr::from_str(&file("Chart.yaml")).unwrap();
    let icon = chart["icon"].as_str().unwrap().strip_prefix("data:image/svg+xml;base64,").unwrap();
    let icon = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(icon).unwrap()).unwrap();
    let page = fs::read_to_string(tools::root().join("src/admin/page.html")).unwrap();
    assert!(page.contains(&icon.replace('<', "%3C").replace('>', "%3E").replace('#', "%23")), "{icon}");
}

/// A copy of what the scripts of a release read, in a folder and a git repository of its own.
fn checkout() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for path in ["deploy", "src", "benches", "envoy-module/src", "tests/tools", "target"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    let files = ["Cargo.toml", "Cargo.lock", "deny.toml", "envoy-module/Cargo.toml", "tests/tools/fetch.py"];
    for path in files.into_iter().chain(SCRIPTS) {
        fs::copy(tools::root().join(path), at(path)).unwrap();
    }
    for path in ["build.rs", "src/lib.rs", "src/main.rs", "benches/load.rs", "envoy-module/src/lib.rs"] {
        fs::write(at(path), "").unwrap();
    }
    fs::write(at(".gitignore"), "/target\n").unwrap();
    tools::cargo_deny();
    tools::cyclonedx();
    symlink(tools::root().join("target/tools"), at("target/tools")).unwrap();
    commit(folder.path());
    folder
}

const SCRIPTS: [&str; 7] = [
    "deploy/advisories.sh",
    "deploy/compilers.sh",
    "deploy/dist.sh",
    "deploy/notices.py",
    "deploy/release-check.sh",
    "deploy/release.sh",
    "deploy/sbom.py",
];

fn commit(folder: &Path) {
    for arguments in [
        &["init", "--quiet", "--initial-branch=main"][..],
        &["add", "--all"],
        &["commit", "--quiet", "--message=all"],
    ] {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]).args(arguments);
        let ran = run_in(folder, command);
        assert_eq!(ran.code(), Some(0), "git {arguments:?}: {ran:?}");
    }
}

fn run_in(folder: &Path, mut command: Command) -> Ran {
    command.current_dir(folder);
    run(command, "")
}

/// Runs a script for which git finds RustSec's database in this folder.
fn run_with_advisories(script: &str, checkout: &Path, database: &Path) -> Ran {
    let mut command = Command::new(checkout.join(script));
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_VALUE_0", "https://github.com/RustSec/advisory-db");
    command.env("GIT_CONFIG_KEY_0", format!("url.{}.insteadOf", database.display()));
    run_in(checkout, command)
}

/// A database of advisories with one against a package.
fn database(package: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let of_package = folder.path().join("crates").join(package);
    fs::create_dir_all(&of_package).unwrap();
    let advisory = format!(
        "```toml\n[advisory]\nid = \"RUSTSEC-2026-9999\"\npackage = \"{package}\"\ndate = \"2026-11-01\"\n\n\
         [versions]\npatched = []\n```\n\n# Grants what nobody asked for\n\nAll of it.\n"
    );
    fs::write(of_package.join("RUSTSEC-2026-9999.md"), advisory).unwrap();
    commit(folder.path());
    folder
}

#[test]
fn advisories_are_found_or_are_none_or_are_said_to_be_unknown() {
    let checkout = checkout();
    let advisories = |database: &Path| run_with_advisories("deploy/advisories.sh", checkout.path(), database);

    let ran = advisories(&checkout.path().join("nowhere"));
    assert_eq!(ran.code(), Some(3), "{ran:?}");
    assert!(ran.stderr.contains("NOT CHECKED"), "{ran:?}");

    let ran = advisories(database("a-package-that-we-do-not-have").path());
    assert_eq!(ran.code(), Some(0), "{ran:?}");

    // Another database, which the one that was fetched for the last is not a part of.
    fs::remove_dir_all(checkout.path().join("target/advisory-db")).unwrap();
    let ran = advisories(database("tokio").path());
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("RUSTSEC-2026-9999") && ran.stderr.contains("tokio"), "{ran:?}");
}

#[test]
fn a_release_that_differs_from_build_to_build_or_that_nobody_could_check_is_not_good() {
    let checkout = checkout();
    // A compiler that writes down where it runs.
    let dist = "#!/bin/sh\ncd \"$(dirname \"$0\")/..\" && mkdir -p target/dist\npwd >target/dist/envoy-auth-tokens\n";
    fs::write(checkout.path().join("deploy/dist.sh"), dist).unwrap();
    let ran = run_with_advisories("deploy/release-check.sh", checkout.path(), Path::new("/nowhere"));
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let verdicts: Vec<_> = ran.stdout.lines().rev().take(8).collect();
    let verdict = |what: &str| {
        let line = verdicts.iter().find(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("no verdict on {what:?}: {ran:?}")).split("  ").next().unwrap()
    };
    assert_eq!(verdict("licences, bans and sources"), "ok");
    assert_eq!(verdict("no advisory"), "NOT CHECKED");
    assert_eq!(verdict("a static release build"), "ok");
    assert_eq!(verdict("no path of this machine"), "FAILED");
    assert_eq!(verdict("a second build elsewhere"), "FAILED");
    assert_eq!(verdict("a bill of materials"), "FAILED");
    assert_eq!(verdict("the licences of all"), "ok");
    assert_eq!(verdict("the digests"), "ok");
    assert!(ran.stderr.contains("no build has left libraries"), "{ran:?}");
}
