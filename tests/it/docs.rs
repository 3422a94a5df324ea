//! What README and docs/ promise exists, and what exists stands there.

use std::collections::BTreeSet;
use std::process::Command;

use regex::Regex;

use crate::harness::documents::{self, document};
use crate::harness::envoy;
use crate::harness::server::{BINARY, Server, run};
use crate::harness::{grpc, tools};

const EXAMPLE: &str = include_str!("../../deploy/config.yaml");

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--help");
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    ran.stdout
}

/// The words of a help text that begin a line below this heading.
fn listed(help: &str, heading: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let words = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    words
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|word| word != "help")
        .collect()
}

#[test]
fn every_command_and_every_flag_stands_in_the_page_about_commands() {
    let page = document("docs/cli.md").text;
    let mut commands: Vec<Vec<String>> = Vec::new();
    for command in listed(&help(&[]), "Commands:") {
        let inner = listed(&help(&[&command]), "Commands:");
        if inner.is_empty() {
            commands.push(vec![command]);
        } else {
            commands.extend(inner.into_iter().map(|inner| vec![command.clone(), inner]));
        }
    }
    assert!(commands.len() >= 7, "{commands:?}");
    for command in commands {
        assert!(page.contains(&format!("| `{}` |", command.join(" "))), "{command:?}");
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = help(&arguments);
        let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
        let flags = flags
            .map(|word| word.split(|char: char| !char.is_ascii_lowercase() && char != '-').next().unwrap());
        for flag in flags.filter(|flag| !["help", "version", ""].contains(flag)) {
            assert!(page.contains(&format!("--{flag}")), "{command:?} --{flag}");
        }
    }
}

#[test]
fn every_section_of_the_example_stands_in_the_page_about_configuration_and_the_other_way_round() {
    let page = document("docs/configuration.md").text;
    let is_key = |line: &&str| line.starts_with(|char: char| char.is_ascii_lowercase());
    let sections = EXAMPLE.lines().filter(is_key).map(|line| line.split(':').next().unwrap());
    let mut found = 0;
    for section in sections {
        assert!(page.contains(&format!("| `{section}` |")), "{section}");
        found += 1;
    }
    let table = page.lines().skip_while(|line| !line.starts_with("| section |")).skip(2);
    let table: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
    // `plugins` stands instead of all the others.
    assert_eq!(found, table.len() - 1, "{table:#?}");
}

/// A server of whom every metric has something to tell.
pub fn server_with_every_metric() -> Server {
    let certificates = tools::root().join("tests/fixtures/config/tls");
    let setup = Server::with(&format!(
        "tokens: [{{token: a-token-0123456789, actor: {{id: a}}}}]
keys: {{store: \"sqlite:keys.db\"}}
ldap: {{url: 'ldapi://%2Fnowhere', search_base: 'dc=example', search_filter: '(uid=%s)', roles: [{{group: '*', role: Viewer}}]}}
admin: {{listen: 127.0.0.1:0, tls: {{cert: {0}/server.crt, key: {0}/server.key}}}}
",
        certificates.display()
    ));
    let server = setup.start();
    grpc::check(&server, grpc::request("GET", "h", "/", &[("authorization", "Bearer a-token-0123456789")]));
    server
}

#[test]
fn every_metric_stands_in_the_page_about_metrics_and_the_other_way_round() {
    let page = document("docs/metrics.md").text;
    let metrics = server_with_every_metric().metrics();
    let samples = metrics.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let name = line.split(['{', ' ']).next().unwrap();
        ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
    });
    let mut samples: Vec<_> = samples.collect();
    samples.sort_unstable();
    samples.dedup();
    assert!(samples.len() >= 6, "{metrics}");
    for name in &samples {
        assert!(page.contains(&format!("`{name}")), "{name} is not documented");
    }
    let documents = documents::all();
    let words = documents.iter().flat_map(|document| document.text.split('`'));
    let documented = words.filter(|word| word.starts_with("envoy_auth_tokens_"));
    for name in documented.map(|word| word.split('{').next().unwrap()) {
        // The counter of what never happened has no sample, but its name is there.
        let family = name.trim_end_matches("_total");
        assert!(metrics.contains(family), "{name} does not exist");
    }
}

/// The bodies of the functions of this name in a source file.
fn bodies(path: &str, function: &str) -> Vec<String> {
    let source = source(path);
    let start = format!("fn {function}(");
    let parts = source.split(&start).skip(1);
    let bodies: Vec<_> = parts.map(|part| part.split("\n    }\n").next().unwrap().to_owned()).collect();
    assert!(!bodies.is_empty(), "{path} has no function {function}");
    bodies
}

/// A source file without its tests.
fn source(path: &str) -> String {
    let text = std::fs::read_to_string(tools::root().join(path));
    let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned()
}

/// The words in quotes that a text has outside of patterns: a pattern of a `match` ends with an arrow.
fn quoted_words(text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(r"(?s)Self::[^=]*?=>").unwrap();
    let word = Regex::new(r#""([a-z][a-z0-9]*(?:_[a-z0-9]+)*)""#).unwrap();
    let text = pattern.replace_all(text, "");
    word.captures_iter(&text).map(|found| found[1].to_owned()).collect()
}

/// What stands in backquotes in the first column of the table below this heading.
fn first_words(page: &str, heading: &str) -> BTreeSet<String> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    let section = section.split("\n## ").next().unwrap();
    let code = Regex::new("`([^`]+)`").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let columns = rows.map(|row| row.split(" | ").next().unwrap());
    columns.flat_map(|column| code.captures_iter(column).map(|found| found[1].to_owned())).collect()
}

#[test]
fn every_action_and_reason_of_the_audit_stands_in_its_page_and_the_other_way_round() {
    let page = document("docs/audit.md").text;
    let mut reasons = BTreeSet::new();
    for body in bodies("src/admin/error.rs", "answer") {
        reasons.extend(quoted_words(&body));
    }
    assert!(
        reasons.len() > 50 && reasons.contains("name_taken") && reasons.contains("dead_key"),
        "{reasons:?}"
    );
    assert_eq!(first_words(&page, "## Reasons"), reasons);

    // Those of people stand where people are explained.
    let of_people = ["src/identity/people/principal.rs"];
    let both = of_people.iter().flat_map(|path| bodies(path, "as_str"));
    let both: BTreeSet<String> = both.flat_map(|body| quoted_words(&body)).collect();
    assert!(both.contains("no_role"), "{both:?}");
    let mut of_provider = both.clone();
    for (path, function) in [("src/admin/login/providers.rs", "answer"), ("src/provider/error.rs", "reason")]
    {
        of_provider.extend(bodies(path, function).iter().flat_map(|body| quoted_words(body)));
    }
    let directory_alone: BTreeSet<String> =
        bodies("src/directory.rs", "as_str").iter().flat_map(|body| quoted_words(body)).collect();
    for (path, reasons) in [
        ("docs/openid-connect.md", of_provider),
        (
            "docs/ldap.md",
            &directory_alone
                | &(&both - &BTreeSet::from(["email_not_verified".into(), "other_domain".into()])),
        ),
    ] {
        let text = document(path).text;
        assert!(reasons.len() > 15, "{reasons:?}");
        let missing: Vec<_> =
            reasons.iter().filter(|reason| !text.contains(&format!("`{reason}`"))).collect();
        assert!(missing.is_empty(), "{path} lacks {missing:?}");
    }

    // The actions are constants, messages of denials, and the last text of each line with the target `audit`.
    let text = Regex::new(r#""([^"\\]*)""#).unwrap();
    let texts =
        |source: &str| text.captures_iter(source).map(|found| found[1].to_owned()).collect::<Vec<_>>();
    let constant = Regex::new(r#"(?:Self\(|FURTHER_DENIALS: &str = )"([^"]+)""#).unwrap();
    let mut actions: BTreeSet<String> = ["src/keys/audit.rs", "src/admin/audit/denials.rs"]
        .iter()
        .flat_map(|path| {
            let source = source(path);
            constant.captures_iter(&source).map(|found| found[1].to_owned()).collect::<Vec<_>>()
        })
        .collect();
    assert!(actions.contains("API key created") && actions.contains("further changes denied"), "{actions:?}");
    let source_of_denials = source("src/admin/audit.rs");
    let denial_starts = Regex::new(r"fn (?:account_)?denial_message").unwrap();
    for start in denial_starts.find_iter(&source_of_denials) {
        let body = source_of_denials[start.start()..].split("\n}\n").next().unwrap();
        actions.extend(
            texts(body).into_iter().filter(|text| text.contains(" not ") || text.contains(" denied")),
        );
    }
    let line =
        Regex::new(r#"(?s)tracing::\w+!\(\s*target: (?:"audit"|(?:audit_log::)?TARGET),(.*?)\);\n"#).unwrap();
    for path in sources() {
        let source = source(&path);
        for found in line.captures_iter(&source) {
            let message = texts(&found[1]).pop().unwrap_or_else(|| panic!("{path}: {}", &found[1]));
            // The message of a change or a denial is one of those above.
            if message != "{message}" {
                actions.insert(message);
            }
        }
    }
    assert!(
        actions.contains("user locked after wrong passwords") && actions.contains("audit: migrated"),
        "{actions:?}"
    );
    assert_eq!(first_words(&page, "## Actions"), actions);
}

/// Every file of the source.
fn sources() -> Vec<String> {
    let (root, mut found) = (tools::root(), Vec::new());
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn the_memory_that_the_documents_and_the_manifests_give_follows_from_the_number_of_keys() {
    const MIB: u64 = 1024 * 1024;
    let number = |text: &str| -> u64 { text.replace([',', ' '], "").parse().unwrap() };
    let page = document("docs/sizing.md").text;
    let (_, table) = page.split_once("| keys | request | limit |\n| --- | --- | --- |\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with("| "));
    let rows: Vec<[u64; 3]> = rows
        .map(|line| {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_end_matches(" MiB"));
            let numbers: Vec<_> = cells.map(number).collect();
            numbers.try_into().unwrap_or_else(|_| panic!("{line}"))
        })
        .collect();
    assert!(rows.len() >= 4, "{rows:?}");
    for [keys, request, limit] in &rows {
        assert!(request * MIB >= 64 * MIB + 600 * keys, "{keys} keys, request {request}");
        assert!(*limit >= 128 && limit * MIB >= 64 * MIB + 1200 * keys, "{keys} keys, limit {limit}");
    }
    // What the manifests have is a row of the table, and they say of which.
    for (keys, limit, file) in [
        (160_000, 256, "kubernetes/shared/deployment.yaml"),
        (160_000, 256, "helm/envoy-auth-tokens/values.yaml"),
        (50_000, 128, "kubernetes/sidecar/patch.yaml"),
    ] {
        assert!(rows.iter().any(|row| (row[0], row[2]) == (keys, limit)), "{file}");
        let text = std::fs::read_to_string(tools::root().join("deploy").join(file)).unwrap();
        assert!(text.contains(&format!("limits: {{ memory: {limit}Mi }}")), "{file}");
        assert!(text.contains(&format!("{},000", keys / 1000)), "{file}");
    }
}

#[test]
fn the_diagnostic_in_the_documents_is_what_check_prints() {
    let page = document("docs/configuration.md").text;
    let (_, after) = page.split_once("$ envoy-auth-tokens check --config config.yaml\n").unwrap();
    let (shown, _) = after.split_once("```").unwrap();
    let setup = Server::with("tokens:\n- token: {$env: BOT_TOKEN}\n  actr: {bot_id: my-bot}\n");
    let setup = setup.env("BOT_TOKEN", "this-is-the-secret-token").own_listeners();
    let path = setup.write();
    let mut command = setup.command(["check", "--config", "config.yaml"]);
    command.current_dir(path.parent().unwrap());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(1));
    assert_eq!(ran.stderr.trim_end(), shown.trim_end());
}

#[test]
fn the_explanation_in_the_documents_is_what_explain_prints() {
    let page = document("docs/explain.md").text;
    let (before, after) = page.split_once("$ envoy-auth-tokens explain ").unwrap();
    let (arguments, after) = after.split_once('\n').unwrap();
    let (shown, _) = after.split_once("```").unwrap();
    let (_, config) = before.rsplit_once("```yaml\n").unwrap();
    let (config, _) = config.split_once("```").unwrap();
    let setup = Server::with(config).env("BOT_TOKEN", "this-is-the-secret-token").own_listeners();
    let setup = setup.file("bot.token", "this-is-the-secret-token\n");
    let mut command = setup.command(["explain"].into_iter().chain(arguments.split(' ')));
    command.current_dir(setup.folder());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_eq!(ran.stdout, shown);
}

#[test]
fn every_configuration_in_the_documents_is_valid() {
    const SECTION: &str = "ldap:\n  url: ldaps://ldap.example.com\n  search_base: dc=example\n  search_filter: (uid=%s)\n  \
                           roles: [{group: \"*\", role: Viewer}]\n";
    let certificate =
        std::fs::read_to_string(tools::root().join("tests/fixtures/config/tls/ca.crt")).unwrap();
    // What a provider needs besides, where a block shows the provider alone.
    const ADMIN: &str = "keys: {store: 'sqlite:keys.db'}\nadmin: {public_url: 'https://keys.example.com'}\ncredentials: [bearer, session]\n";
    let mut found = 0;
    for text in documents::all().into_iter().map(|document| document.text) {
        for block in text.split("\n```yaml\n").skip(1) {
            let (block, _) = block.split_once("\n```").unwrap();
            let is_whole = block.contains("keys:");
            let config = if block.starts_with("oauth:") && !is_whole {
                format!("{ADMIN}{block}\n")
            } else if block.starts_with("session:") {
                format!("keys: {{store: 'sqlite:keys.db'}}\ncredentials: [bearer, session]\n{block}\n")
            } else if is_whole && (block.contains("oauth:") || block.contains("login_redirect"))
                || block.starts_with("ldap:")
            {
                format!("{block}\n")
            } else if block.starts_with("  group_search:") || block.starts_with("  bind_dn:") {
                // A part of the section, with the indentation that it has there.
                format!("{SECTION}{block}\n")
            } else if block.starts_with("- name: envoy.filters") || block.starts_with("static_resources:") {
                // Envoy's: `every_configuration_of_envoy_in_the_documents_is_one` loads it.
                continue;
            } else if block.starts_with("policies:") || block.starts_with("ext_authz:") {
                // Who is there at all does not matter to it.
                let rest = "tokens: [{token: a-token-0123456789, actor: {role: Admin}}]\nkeys: {store: 'sqlite:keys.db'}\n";
                format!("{rest}{block}\n")
            } else {
                format!("{block}\n")
            };
            let setup = Server::with(&config.replace("/run/secrets/", "")).own_listeners();
            let setup = setup.file("ldap-password", "a-long-password").file("corp-ca.pem", &certificate);
            let file = |name: &str| {
                std::fs::read_to_string(tools::root().join("tests/fixtures/config/tls").join(name)).unwrap()
            };
            let setup = setup.file("server.crt", &file("server.crt")).file("server.key", &file("server.key"));
            let setup = setup.file("admin.crt", &file("server.crt")).file("admin.key", &file("server.key"));
            let setup = setup.file("ca.crt", &certificate).file("bot.token", "this-is-the-secret-token");
            let setup = setup.file("bot-2026-12.token", "the-secret-token-of-december");
            let setup = setup.file("bot-2026-06.token", "the-secret-token-of-june");
            let setup =
                setup.env("BOT_TOKEN", "this-is-the-secret-token").env("BILLING_KEY", "the-key-of-billing");
            let setup = setup.env("ADMIN_PASSWORD", "a-long-password");
            let setup = setup.env("LDAP_PASSWORD", "a-long-password").env("OAUTH_SECRET", "a-long-secret");
            let setup = setup.env("ANN_PASSWORD", "a-long-password");
            let ran = setup.run(["check"]);
            assert_eq!(ran.code(), Some(0), "{config}\n{ran:?}");
            found += 1;
        }
    }
    assert!(found >= 26, "{found}");
}

#[test]
fn every_configuration_of_envoy_in_the_documents_is_one() {
    let folder = tempfile::TempDir::new().unwrap();
    let certificates = tools::root().join("tests/fixtures/config/tls");
    let mut found = 0;
    for document in documents::all() {
        for block in document.blocks().iter().filter(|block| block.language == "yaml") {
            let text = if block.text.starts_with("static_resources:") {
                let place = certificates.display();
                let text =
                    block.text.replace("/etc/envoy/keys.example.com.crt", &format!("{place}/server.crt"));
                text.replace("/etc/envoy/keys.example.com.key", &format!("{place}/server.key"))
            } else if let Some(filter) = block.text.strip_prefix("- name: envoy.filters.http.ext_authz\n") {
                // In place of the printed one, in the configuration that `envoy` prints.
                let setup = Server::with("tokens: [{token: a-token-0123456789, actor: {}}]\n");
                let printed = setup.run(["envoy", "--address", "127.0.0.1:9191"]).stdout;
                let (before, after) = printed.split_once("- name: envoy.filters.http.ext_authz\n").unwrap();
                let indentation = before.rsplit('\n').next().unwrap().len();
                let next = format!("\n{}- name: ", " ".repeat(indentation));
                let (_, after) = after.split_once(&next).expect("the router behind it");
                let filter: String =
                    filter.lines().map(|line| format!("{}{line}\n", " ".repeat(indentation))).collect();
                format!("{before}- name: envoy.filters.http.ext_authz\n{}{next}{after}", filter.trim_end())
            } else {
                continue;
            };
            let file = folder.path().join("envoy.yaml");
            std::fs::write(&file, &text).unwrap();
            envoy::validate(&file).unwrap_or_else(|error| panic!("{}: {error}\n{text}", document.path));
            found += 1;
        }
    }
    assert!(found >= 2, "{found}");
}

#[test]
fn every_module_of_these_tests_stands_in_their_readme_once() {
    let readme = include_str!("../README.md");
    let modules = include_str!("main.rs").lines().filter_map(|line| line.strip_prefix("mod "));
    let modules = modules.map(|line| line.trim_end_matches(';')).filter(|module| *module != "harness");
    let (_, table) = readme.split_once("\n## Integration tests\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut listed: Vec<_> =
        table.lines().flat_map(|row| first_column(row).split('`').skip(1).step_by(2)).collect();
    listed.sort_unstable();
    let mut modules: Vec<_> = modules.collect();
    modules.sort_unstable();
    assert!(modules.len() > 50);
    assert_eq!(listed, modules);
}

fn first_column(row: &str) -> &str {
    row.strip_prefix("| ").and_then(|row| row.split(" |").next()).unwrap_or_default()
}
