//! `import grafana` of Grafana's database file: its service accounts and keys are made anew.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::server::{BINARY, Ran, Server, run};
use crate::harness::{grpc, sqlite};

const ROOT: &str = "root-token-0123456789";

const CONFIG: &str = "
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
keys: {store: 'sqlite:keys.db'}
admin: {listen: '127.0.0.1:0'}
";

/// A database of Grafana's, as the fixture makes it.
fn database(folder: &Path) -> PathBuf {
    let path = folder.join("grafana.db");
    let script = "import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.executescript(sys.stdin.read())";
    let mut python = Command::new("python3");
    python.args(["-Ssc", script]).arg(&path);
    let ran = run(python, include_str!("../fixtures/grafana/database.sql"));
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    path
}

fn import(url: &str, file: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(["import", "grafana"]).arg(file).args(["--url", url, "--token-file", "-"]).args(arguments);
    run(command, ROOT)
}

fn status(server: &Server, token: &str) -> Option<String> {
    let bearer = format!("Bearer {token}");
    let answer = grpc::check(server, grpc::request("GET", "h", "/", &[("authorization", &bearer)]));
    (grpc::code(&answer) != 0).then(|| grpc::refused(&answer).1)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn keys_and_accounts_are_made_anew_and_their_tokens_written_for_the_owner_alone() {
    let server = Server::with(CONFIG).start();
    let url = format!("http://{}", server.admin());
    let folder = tempfile::TempDir::new().unwrap();
    let file = database(folder.path());
    let before = std::fs::read(&file).unwrap();

    let dry = import(&url, &file, &["--dry-run"]);
    assert_eq!(dry.code(), Some(0), "{dry:?}");
    let shown: Vec<String> =
        dry.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(shown.len(), 7, "{dry:?}");
    assert_eq!(shown[1], "account robots Editor live");
    assert_eq!(shown[2], "key robots/deploys account's live No expiration date");
    assert!(shown[3].starts_with("key robots/for long account's live 2100-01-01 00:00 UTC"), "{dry:?}");
    assert_eq!(shown[4], "account asleep Viewer disabled");
    assert_eq!(shown[6], "key from before Viewer live No expiration date");
    let notes = "- the service account \"limited\": left out with its tokens, because its role is \"None\"
- the key \"expired\": left out, because it has expired
- the key \"revoked\": left out, because it is revoked
";
    assert_eq!(dry.stderr, notes);

    let output = folder.path().join("tokens.jsonl");
    let ran = import(&url, &file, &["--output", output.to_str().unwrap()]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), notes), "{ran:?}");
    assert!(ran.stdout.starts_with("2 service accounts and 4 keys are made"), "{ran:?}");
    assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
    let made = lines(&output);
    let names: Vec<_> =
        made.iter().map(|line| (line["account"].as_str(), line["name"].as_str().unwrap())).collect();
    assert_eq!(
        names,
        [
            (Some("robots"), "deploys"),
            (Some("robots"), "for long"),
            (Some("asleep"), "of asleep"),
            (None, "from before"),
        ]
    );
    for line in &made {
        let token = line["token"].as_str().unwrap();
        let is_asleep = line["account"] == "asleep";
        assert_eq!(status(&server, token).is_some(), is_asleep, "{}", line["name"]);
        assert!(!format!("{ran:?}").contains(token), "{}", line["name"]);
    }
    assert_eq!(std::fs::read(&file).unwrap(), before, "it was opened for reading alone");

    // A second time nothing is overwritten, and what is there already is said.
    let again = import(&url, &file, &["--output", output.to_str().unwrap()]);
    assert_eq!(again.code(), Some(1), "{again:?}");
    let text = format!("error: {} exists already and is not overwritten", output.display());
    assert!(again.stderr.starts_with(&text) && lines(&output) == made, "{again:?}");
    let other = folder.path().join("other.jsonl");
    let again = import(&url, &file, &["--output", other.to_str().unwrap()]);
    assert_eq!(again.code(), Some(1), "{again:?}");
    assert!(again.stderr.contains("6 of its accounts and keys were not created"), "{again:?}");
    // Nothing is left where there is nothing to tell.
    assert!(again.stdout.contains("there are no new tokens, and no file "), "{again:?}");
    assert!(!other.exists());
}

#[test]
fn a_file_of_an_older_grafana_has_keys_without_accounts() {
    let server = Server::with(CONFIG).start();
    let url = format!("http://{}", server.admin());
    let folder = tempfile::TempDir::new().unwrap();
    let file = database(folder.path());
    sqlite::sql(&file, "DELETE FROM api_key WHERE service_account_id IS NOT NULL");
    sqlite::sql(&file, "DELETE FROM \"user\" WHERE is_service_account = 1");
    for column in ["expires", "service_account_id", "is_revoked"] {
        sqlite::sql(&file, &format!("ALTER TABLE api_key DROP COLUMN {column}"));
    }
    sqlite::sql(&file, "ALTER TABLE \"user\" DROP COLUMN is_service_account");
    let output = folder.path().join("tokens.jsonl");
    let ran = import(&url, &file, &["--output", output.to_str().unwrap(), "--json"]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summary, serde_json::json!({"accounts": 0, "keys": 2, "failed": 0, "notes": []}));
    let made = lines(&output);
    assert_eq!(made.len(), 2);
    for line in &made {
        assert_eq!(status(&server, line["token"].as_str().unwrap()), None);
        let keys = sqlite::sql(
            &server.folder().join("keys.db"),
            &format!("SELECT name, role FROM api_keys WHERE id = {}", line["id"]),
        );
        let role = if line["name"] == "expired" { "Admin" } else { "Viewer" };
        assert_eq!(keys, format!("{}|{role}", line["name"].as_str().unwrap()));
    }
}

#[test]
fn what_is_no_database_of_grafanas_or_cannot_be_told_apart_is_an_error() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = database(folder.path());
    let nowhere = "http://127.0.0.1:1";
    let output = folder.path().join("tokens.jsonl");
    let into = ["--output", output.to_str().unwrap()];
    for (arguments, part) in [
        (&[][..], "give --output FILE"),
        (&["--dry-run", "--org", "7"], "no organization 7"),
        (&into, "cannot connect to http://127.0.0.1:1"),
    ] {
        let ran = import(nowhere, &file, arguments);
        assert_eq!(ran.code(), Some(1), "{ran:?}");
        assert!(ran.stderr.contains(part), "{ran:?}");
        assert!(!output.exists(), "the next try needs it");
    }
    sqlite::sql(
        &file,
        "INSERT INTO org (id, version, name, created, updated) VALUES (2, 0, 'Other', '', '')",
    );
    sqlite::sql(
        &file,
        "INSERT INTO api_key (org_id, name, \"key\", role, created, updated) VALUES (2, 'b', 'c', 'Viewer', '', '')",
    );
    let ran = import(nowhere, &file, &["--dry-run"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("1 (\"Main Org.\"), 2 (\"Other\")"), "{ran:?}");
    let ran = import(nowhere, &file, &["--dry-run", "--org", "2"]);
    assert!(ran.code() == Some(0) && ran.stdout.lines().count() == 2, "{ran:?}");

    sqlite::sql(&file, "DROP TABLE api_key");
    let ran = import(nowhere, &file, &["--dry-run"]);
    assert!(ran.stderr.contains("without Grafana's tables") && ran.code() == Some(1), "{ran:?}");
    std::fs::write(&file, b"SQLite format 3\0and then nothing").unwrap();
    let ran = import(nowhere, &file, &["--dry-run"]);
    assert!(ran.stderr.contains("cannot be read as a database") && ran.code() == Some(1), "{ran:?}");
    std::fs::write(&file, "[auth.google]\nenabled = true\nclient_id = a\n").unwrap();
    let ran = import(nowhere, &file, &["--dry-run"]);
    assert!(ran.stderr.contains("for Grafana's database file") && ran.code() == Some(1), "{ran:?}");
}
