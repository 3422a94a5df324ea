//! Examples of each command: below its help, in its manual page and in docs/cli.md.

use clap::{Command, CommandFactory};

use super::Cli;

/// A command without the program's name, and its examples: what each does, and the command line.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

const EXAMPLES: &[Examples] = &[
    (
        "serve",
        &[
            ("Serve with this configuration", "envoy-auth-tokens serve --config config.yaml"),
            (
                "Log only denials, as JSON, and write the audit log to a separate file",
                "envoy-auth-tokens serve --log-decisions denied --log-format json --audit-log /var/log/envoy-auth-tokens/audit.log",
            ),
        ],
    ),
    (
        "init",
        &[
            (
                "Write a first configuration, and save the token in a file",
                "envoy-auth-tokens init /etc/envoy-auth-tokens > first.token",
            ),
            (
                "The same for an application on another port",
                "envoy-auth-tokens init --listen 0.0.0.0:8000 --upstream 127.0.0.1:3000",
            ),
        ],
    ),
    (
        "check",
        &[
            ("Print every error and warning, with its line", "envoy-auth-tokens check --config config.yaml"),
            (
                "In CI: treat warnings as errors, and test the connections to store, directory and providers",
                "envoy-auth-tokens check --config config.yaml --strict --connect",
            ),
        ],
    ),
    (
        "explain",
        &[
            (
                "Explain a request with a token",
                "envoy-auth-tokens explain --config config.yaml --method DELETE --path /reports/7 --token-file bot.token",
            ),
            ("Decide a line of the decision log again", "envoy-auth-tokens explain --log-line line.txt"),
            (
                "Explain the request of a browser that opens a page",
                "envoy-auth-tokens explain --host app.example.com --path / --header 'sec-fetch-mode: navigate'",
            ),
            ("Show a person of the directory", "envoy-auth-tokens explain --user ann --connect"),
            ("Explain a reason of denials", "envoy-auth-tokens explain --reason not_admitted"),
        ],
    ),
    (
        "token new",
        &[
            ("Print a token and its entry for the configuration", "envoy-auth-tokens token new --name ci"),
            (
                "Save the token in a file, and show the entry in the terminal",
                "envoy-auth-tokens token new --name ci > ci.token",
            ),
        ],
    ),
    (
        "token hash",
        &[(
            "Print the entry for a token that clients already use",
            "envoy-auth-tokens token hash --name ci < ci.token",
        )],
    ),
    ("token check", &[("Check a text that a scanner found", "envoy-auth-tokens token check < found.txt")]),
    (
        "password",
        &[("Print a hash for `users[].password_hash`", "envoy-auth-tokens password < admin-password")],
    ),
    (
        "keys list",
        &[
            ("List the live keys", "envoy-auth-tokens keys list --user admin --password-file admin-password"),
            (
                "List all keys, also expired and revoked ones, as JSON",
                "envoy-auth-tokens keys list --expired --json --token-file admin.token",
            ),
        ],
    ),
    (
        "keys show",
        &[(
            "Show two keys with all their details",
            "envoy-auth-tokens keys show deploy robots/nightly --user admin --password-file admin-password",
        )],
    ),
    (
        "keys create",
        &[(
            "Create a key for 90 days, and save its token in a file",
            "envoy-auth-tokens keys create deploy --role Viewer --ttl 90d --user admin --password-file admin-password > deploy.token",
        )],
    ),
    (
        "keys edit",
        &[(
            "Change the role, and let the key expire in 30 days",
            "envoy-auth-tokens keys edit deploy --role Editor --ttl 30d --user admin --password-file admin-password",
        )],
    ),
    (
        "keys disable",
        &[(
            "Disable keys that may have leaked",
            "envoy-auth-tokens keys disable deploy robots/nightly --user admin --password-file admin-password",
        )],
    ),
    (
        "keys enable",
        &[(
            "Enable a key that has not leaked",
            "envoy-auth-tokens keys enable deploy --user admin --password-file admin-password",
        )],
    ),
    (
        "keys rotate",
        &[(
            "Replace the token; the old one works for another hour",
            "envoy-auth-tokens keys rotate 7 --overlap 1h --user admin --password-file admin-password > deploy.token",
        )],
    ),
    (
        "keys revoke",
        &[
            (
                "Revoke a key that has leaked",
                "envoy-auth-tokens keys revoke deploy --user admin --password-file admin-password",
            ),
            (
                "Show which keys were not used for 90 days, and revoke none",
                "envoy-auth-tokens keys revoke --unused-for 90d --dry-run --user admin --password-file admin-password",
            ),
            (
                "Revoke all keys that a person created since a day",
                "envoy-auth-tokens keys revoke --created-by ann --created-since 2026-11-01 --user admin --password-file admin-password",
            ),
        ],
    ),
    (
        "keys delete",
        &[("Delete a key", "envoy-auth-tokens keys delete 7 --user admin --password-file admin-password")],
    ),
    (
        "keys find",
        &[(
            "Find the key of a leaked token",
            "envoy-auth-tokens keys find --token-file admin.token < leaked.token",
        )],
    ),
    (
        "keys import",
        &[(
            "Import the keys of another store",
            "envoy-auth-tokens keys import keys.jsonl --token-file admin.token",
        )],
    ),
    (
        "keys export",
        &[(
            "Export every live key, with the digest of its token",
            "envoy-auth-tokens keys export --token-file admin.token > keys.jsonl",
        )],
    ),
    (
        "keys audit",
        &[
            (
                "Show what a person did within the last week",
                "envoy-auth-tokens keys audit --actor ann --from 7d --user admin --password-file admin-password",
            ),
            (
                "Show who created and changed a key",
                "envoy-auth-tokens keys audit --key deploy --user admin --password-file admin-password",
            ),
        ],
    ),
    (
        "keys accept-history",
        &[(
            "After a restore of the store, once the keys that the log names are revoked again",
            "envoy-auth-tokens keys accept-history --user admin --password-file admin-password",
        )],
    ),
    (
        "keys migrate",
        &[(
            "Migrate with the URL of a role that owns the tables",
            "envoy-auth-tokens keys migrate --store-file owner.url",
        )],
    ),
    (
        "keys backup",
        &[(
            "Copy a SQLite store while a server uses it",
            "envoy-auth-tokens keys backup /var/backups/keys.db",
        )],
    ),
    (
        "accounts list",
        &[(
            "List all service accounts",
            "envoy-auth-tokens accounts list --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts show",
        &[(
            "Show an account and its tokens",
            "envoy-auth-tokens accounts show robots --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts create",
        &[(
            "Create an account for a service",
            "envoy-auth-tokens accounts create robots --role Editor --description 'of the factory' --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts edit",
        &[(
            "Change the role and the policies of all its tokens",
            "envoy-auth-tokens accounts edit robots --role Viewer --policy reports --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts disable",
        &[(
            "Disable all its tokens",
            "envoy-auth-tokens accounts disable robots --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts enable",
        &[(
            "Enable its tokens again",
            "envoy-auth-tokens accounts enable robots --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts delete",
        &[(
            "Delete an account with all its tokens",
            "envoy-auth-tokens accounts delete robots --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts tokens",
        &[(
            "List the tokens of an account",
            "envoy-auth-tokens accounts tokens robots --user admin --password-file admin-password",
        )],
    ),
    (
        "accounts create-token",
        &[(
            "Create a token for 90 days, and save it in a file",
            "envoy-auth-tokens accounts create-token robots nightly --ttl 90d --user admin --password-file admin-password > nightly.token",
        )],
    ),
    (
        "accounts delete-token",
        &[(
            "Delete a token of an account",
            "envoy-auth-tokens accounts delete-token robots nightly --user admin --password-file admin-password",
        )],
    ),
    (
        "health",
        &[
            ("Check the server of this configuration", "envoy-auth-tokens health --config config.yaml"),
            (
                "Check a socket, without the configuration",
                "envoy-auth-tokens health --address unix:/run/envoy-auth-tokens/ext_authz.sock",
            ),
        ],
    ),
    (
        "envoy",
        &[
            (
                "Print a complete configuration of Envoy for an application",
                "envoy-auth-tokens envoy --config config.yaml --upstream 127.0.0.1:8080 > envoy.yaml",
            ),
            (
                "Print only the filter, for an existing configuration",
                "envoy-auth-tokens envoy --config config.yaml --part filter",
            ),
        ],
    ),
    (
        "import datasette",
        &[(
            "Convert a configuration of Datasette",
            "envoy-auth-tokens import datasette metadata.json --output config.yaml",
        )],
    ),
    (
        "import grafana",
        &[
            (
                "Convert the LDAP configuration of Grafana",
                "envoy-auth-tokens import grafana /etc/grafana/ldap.toml --output ldap.yaml",
            ),
            (
                "Create the service accounts and keys of its database, with new tokens",
                "envoy-auth-tokens import grafana /var/lib/grafana/grafana.db --output new-tokens.jsonl --token-file admin.token",
            ),
        ],
    ),
    ("schema", &[("Save the schema for an editor", "envoy-auth-tokens schema > config.schema.json")]),
    (
        "completions",
        &[(
            "Install completion for bash",
            "envoy-auth-tokens completions bash > /etc/bash_completion.d/envoy-auth-tokens",
        )],
    ),
    (
        "man",
        &[
            ("Write one page with all commands", "envoy-auth-tokens man > envoy-auth-tokens.1"),
            ("Write a page for each command", "envoy-auth-tokens man --out-dir man1"),
        ],
    ),
];

/// The program's command line, with the examples below the help of each command.
pub(super) fn command() -> Command {
    EXAMPLES.iter().fold(Cli::command(), |program, (path, examples)| {
        let lines = examples.iter().map(|(what, line)| format!("  # {what}\n  {line}"));
        let text = format!("Examples:\n{}", lines.collect::<Vec<_>>().join("\n"));
        let words: Vec<_> = path.split(' ').collect();
        with_text(program, &words, text)
    })
}

fn with_text(command: Command, path: &[&str], text: String) -> Command {
    match path {
        [] => command.after_help(text),
        [first, rest @ ..] => command.mut_subcommand(first, |inner| with_text(inner, rest, text)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    /// Every command that has none below it.
    fn leaves(command: &Command, path: &str, found: &mut BTreeSet<String>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            if inner.has_subcommands() {
                leaves(inner, &path, found);
            } else {
                found.insert(path);
            }
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let mut commands = BTreeSet::new();
        leaves(&Cli::command(), "", &mut commands);
        let with: BTreeSet<_> = EXAMPLES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(with, commands);
        assert_eq!(with.len(), EXAMPLES.len());
    }

    #[test]
    fn every_example_is_a_command_line_of_its_command() {
        for (path, examples) in EXAMPLES {
            for (_, line) in *examples {
                assert!(line.starts_with(&format!("envoy-auth-tokens {path}")), "{path}: {line}");
                parse(line).unwrap_or_else(|error| panic!("{line}\n{error}"));
            }
        }
    }

    /// The words of a simple command of a shell, up to a redirection, a pipe or a comment.
    fn words(line: &str) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for char in line.chars() {
            match (quote, char) {
                (Some(open), _) if char == open => quote = None,
                (Some(_), _) => word.get_or_insert_default().push(char),
                (None, '\'' | '"') => {
                    quote = Some(char);
                    word.get_or_insert_default();
                }
                (None, ' ') => words.extend(word.take()),
                (None, '>') => {
                    // `2>`: the number is a stream.
                    word = word.filter(|word| !word.bytes().all(|byte| byte.is_ascii_digit()));
                    break;
                }
                (None, '<' | '|' | ';' | ')' | '&') => break,
                (None, '#') if word.is_none() => break,
                (None, _) => word.get_or_insert_default().push(char),
            }
        }
        words.extend(word);
        words
    }

    fn parse(line: &str) -> Result<(), clap::Error> {
        match Cli::try_parse_from(words(line)) {
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                Ok(())
            }
            parsed => parsed.map(drop),
        }
    }

    /// The command lines in the blocks of a document for a shell or of a transcript.
    fn command_lines(text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for block in text.split("\n```").skip(1).step_by(2) {
            let Some((language, block)) = block.split_once('\n') else { continue };
            let is_transcript = block.starts_with("$ ");
            if !["sh", "console"].contains(&language) && !is_transcript {
                continue;
            }
            for line in block.replace("\\\n", " ").lines() {
                let line = if is_transcript { line.strip_prefix("$ ").unwrap_or("#") } else { line };
                // Behind whatever starts it: sudo, kubectl exec … --, docker exec CONTAINER.
                let Some(start) = line.find("envoy-auth-tokens ") else { continue };
                let before = line[..start].trim_end_matches("/usr/bin/");
                let is_program = before.is_empty()
                    || ["sudo ", " -- ", "exec "].iter().any(|end| before.ends_with(end))
                    || before.starts_with("docker exec ");
                if is_program {
                    lines.push(line[start..].to_owned());
                }
            }
        }
        lines
    }

    #[test]
    fn every_command_line_of_the_documents_is_one_of_ours() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let documents = ["README.md", "deploy/recipes/README.md"].map(|name| root.join(name));
        let mut found = 0;
        for path in docs.chain(documents).filter(|path| path.extension().is_some_and(|end| end == "md")) {
            for line in command_lines(&std::fs::read_to_string(&path).unwrap()) {
                parse(&line).unwrap_or_else(|error| panic!("{}: {line}\n{error}", path.display()));
                found += 1;
            }
        }
        assert!(found >= 20, "{found}");
    }
}
