//! `envoy-auth-tokens accounts …`, and what `keys` has to do with accounts and the audit.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::harness::server::{BINARY, Ran, run};
use crate::harness::{Server, grpc};

const ROOT: &str = "root-token-0123456789";

const CONFIG: &str = "
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
keys: {store: 'sqlite:keys.db', actor_members: [team]}
admin: {listen: '127.0.0.1:0'}
policies: {read: {allow: {role: [Viewer, Editor]}}}
routes: [{path_prefix: /read, policy: read}]
default: {}
";

fn start() -> (Server, SocketAddr) {
    let server = Server::with(CONFIG).start();
    let admin = server.admin();
    (server, admin)
}

fn command(admin: SocketAddr, group: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.arg(group).args(arguments).args(["--token-file", "-", "--url", &format!("http://{admin}")]);
    run(command, ROOT)
}

fn accounts(admin: SocketAddr, arguments: &[&str]) -> Ran {
    command(admin, "accounts", arguments)
}

fn keys(admin: SocketAddr, arguments: &[&str]) -> Ran {
    command(admin, "keys", arguments)
}

/// The words of each line.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

fn passes(server: &Server, path: &str, token: &str) -> bool {
    let bearer = format!("Bearer {}", token.trim_end());
    grpc::code(&grpc::check(server, grpc::request("GET", "h", path, &[("authorization", &bearer)]))) == 0
}

#[test]
fn an_account_and_its_tokens_live_and_end() {
    let (server, admin) = start();
    assert_eq!(accounts(admin, &["list"]).stdout, "No service accounts.\n");
    let created =
        accounts(admin, &["create", "robots", "--role", "Editor", "--description", "of the factory"]);
    assert_eq!((created.code(), created.stderr.as_str()), (Some(0), ""), "{created:?}");
    assert!(created.stdout.ends_with(", robots, is created.\n"), "{created:?}");
    let token = accounts(admin, &["create-token", "robots", "ci", "--ttl", "3d"]);
    assert_eq!(token.code(), Some(0), "{token:?}");
    assert!(token.stdout.starts_with("eat_") && token.stdout.lines().count() == 1, "{token:?}");
    assert!(token.stderr.contains("ci, of robots is created"), "{token:?}");
    assert!(passes(&server, "/", &token.stdout));
    // As a key of the account, too.
    let other = keys(admin, &["create", "nightly", "--account", "robots"]);
    assert_eq!(other.code(), Some(0), "{other:?}");

    let list = accounts(admin, &["list"]).stdout;
    let row = &rows(&list)[0];
    assert_eq!(row[1..5], ["robots", "Editor", "live", "2"], "{list}");
    assert!(list.contains("of the factory"), "{list}");
    let shown = accounts(admin, &["show", "robots"]).stdout;
    for part in ["Role:          Editor\n", "Description:   of the factory\n", "(in 3 days)", "nightly"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let tokens = accounts(admin, &["tokens", "robots"]).stdout;
    assert_eq!(rows(&tokens).iter().map(|row| row[1]).collect::<Vec<_>>(), ["ci", "nightly"], "{tokens}");
    assert!(keys(admin, &["list", "--account", "robots"]).stdout.contains("robots/ci"));

    // One place to change and to disable.
    let edited = accounts(admin, &["edit", "robots", "--policy", "read", "--actor", r#"{"team": "a"}"#]);
    assert_eq!((edited.code(), edited.stdout.as_str()), (Some(0), "Service account robots is changed.\n"));
    assert_eq!((passes(&server, "/read", &token.stdout), passes(&server, "/", &token.stdout)), (true, false));
    assert_eq!(accounts(admin, &["update", "robots", "--no-policies", "--no-actor"]).code(), Some(0));
    let disabled = accounts(admin, &["disable", "robots"]);
    assert_eq!(
        (disabled.code(), disabled.stdout.as_str()),
        (Some(0), "Service account robots is disabled.\n")
    );
    assert!(!passes(&server, "/", &token.stdout) && !passes(&server, "/", &other.stdout));
    assert_eq!(rows(&accounts(admin, &["list", "--disabled"]).stdout).len(), 1);
    for list in [
        accounts(admin, &["tokens", "robots"]),
        keys(admin, &["list", "--account", "robots"]),
        keys(admin, &["list", "--account", "robots", "--sort", "created"]),
    ] {
        assert_eq!(list.stdout.matches("denied: account disabled").count(), 2, "{list:?}");
    }
    assert_eq!(accounts(admin, &["enable", "robots"]).code(), Some(0));
    assert!(passes(&server, "/", &token.stdout));

    let ended = accounts(admin, &["delete-token", "robots", "ci"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(!passes(&server, "/", &token.stdout) && passes(&server, "/", &other.stdout));
    let gone = accounts(admin, &["delete-token", "robots", "never"]);
    assert!(gone.code() == Some(1) && gone.stderr.contains("has no token \"never\""), "{gone:?}");
    let deleted = accounts(admin, &["delete", "robots"]);
    assert_eq!(deleted.code(), Some(0), "{deleted:?}");
    assert!(!passes(&server, "/", &other.stdout));
    let gone = accounts(admin, &["show", "robots"]);
    assert_eq!((gone.code(), gone.stdout.as_str()), (Some(1), ""), "{gone:?}");
    assert!(gone.stderr.contains("there is no service account \"robots\""), "{gone:?}");
}

#[test]
fn accounts_are_named_by_name_or_id_and_several_at_once() {
    let (_server, admin) = start();
    let created = accounts(admin, &["create", "a", "--json"]);
    let id = serde_json::from_str::<Value>(&created.stdout).expect("JSON")["id"].to_string();
    assert_eq!(accounts(admin, &["create", "ab"]).code(), Some(0));
    let taken = accounts(admin, &["create", "a"]);
    assert!(taken.code() == Some(1) && taken.stderr.contains("(400)"), "{taken:?}");
    let changed = accounts(admin, &["disable", &id, "ab"]);
    assert_eq!(changed.code(), Some(0), "{changed:?}");
    assert_eq!(
        changed.stdout,
        format!("Service account {id} is disabled.\nService account ab is disabled.\n")
    );
    let mistyped = accounts(admin, &["enable", "a", "abc"]);
    assert_eq!((mistyped.code(), mistyped.stdout.as_str()), (Some(1), ""), "{mistyped:?}");
    // So does an id that is nobody's.
    for command in ["delete", "enable", "disable", "show"] {
        let some = accounts(admin, &[command, "a", "999"]);
        assert_eq!((some.code(), some.stdout.as_str()), (Some(1), ""), "{some:?}");
        let text = "error: there is no service account with the id 999: digits alone are an id, and `accounts list` shows it\n\
                    Nothing was changed, because one name or id was not found.\n";
        assert_eq!(some.stderr, text);
    }
    assert_eq!(rows(&accounts(admin, &["list", "--disabled"]).stdout).len(), 2);
    let digits = accounts(admin, &["create", "77", "--json"]);
    let id = serde_json::from_str::<Value>(&digits.stdout).expect("JSON")["id"].to_string();
    let shown = accounts(admin, &["show", "77"]);
    let text = format!(
        "error: there is no id 77: a name of digits alone is read as an id. 77 is the name of id {id}\n"
    );
    assert_eq!((shown.code(), shown.stderr), (Some(1), text));

    // The tokens of an account, too.
    let token = accounts(admin, &["create-token", "a", "ci"]);
    assert!(
        token.code() == Some(0) && token.stderr.contains("(in 3 months).  The token is shown"),
        "{token:?}"
    );
    let endless = accounts(admin, &["create-token", "a", "endless", "--no-expiry"]);
    assert!(endless.code() == Some(0) && endless.stderr.contains("It never expires."), "{endless:?}");
    let taken = accounts(admin, &["create-token", "a", "ci"]);
    let advice = "(400): `keys rotate a/ci` gives that key a new token, `keys revoke a/ci` ends it and frees the name\n";
    assert!(taken.code() == Some(1) && taken.stderr.ends_with(advice), "{taken:?}");
    let mistyped = accounts(admin, &["delete-token", "a", "ci", "999"]);
    assert_eq!((mistyped.code(), mistyped.stdout.as_str()), (Some(1), ""), "{mistyped:?}");
    assert!(
        mistyped.stderr.starts_with("error: there is no token of the account with the id 999"),
        "{mistyped:?}"
    );
    assert_eq!(rows(&accounts(admin, &["tokens", "a"]).stdout).len(), 2);

    // Names compare without case, as the server's do, and what was found is named.
    for (arguments, notes) in [
        (&["show", "A"][..], &["note: A is the account a, with the id "][..]),
        (&["update", "A", "--description", "x"], &["note: A is the account a, with the id "]),
        (
            &["delete-token", "A", "CI"],
            &["note: A is the account a, with the id ", "note: CI is the token ci, with the id "],
        ),
    ] {
        let found = accounts(admin, arguments);
        assert_eq!(found.code(), Some(0), "{found:?}");
        for note in notes {
            assert!(found.stderr.contains(note), "{found:?}");
        }
    }
    assert_eq!(accounts(admin, &["show", "AB"]).stderr.lines().count(), 1);
    assert_eq!(accounts(admin, &["show", "ab"]).stderr, "");
}

#[test]
fn a_name_that_fits_several_keys_is_an_error_that_lists_them() {
    let (_server, admin) = start();
    for account in ["a", "b"] {
        assert_eq!(accounts(admin, &["create", account]).code(), Some(0));
        assert_eq!(accounts(admin, &["create-token", account, "ci"]).code(), Some(0));
    }
    assert_eq!(keys(admin, &["create", "ci", "--role", "Viewer"]).code(), Some(0));
    let several = keys(admin, &["revoke", "ci"]);
    assert_eq!((several.code(), several.stdout.as_str()), (Some(1), ""), "{several:?}");
    for part in ["a/ci, of the account a, live", "b/ci, of the account b, live", "ci, no owner, live"] {
        assert!(several.stderr.contains(part), "{part}: {several:?}");
    }
    let taken = keys(admin, &["create", "ci", "--account", "a"]);
    let advice = "`keys rotate a/ci` gives that key a new token, `keys revoke a/ci` ends it";
    assert!(taken.code() == Some(1) && taken.stderr.contains(advice), "{taken:?}");
    let revoked = keys(admin, &["revoke", "b/ci"]).stdout;
    assert!(revoked.ends_with(", b/ci, is revoked.\n"), "{revoked}");
    let left: Vec<Value> = serde_json::from_str(&keys(admin, &["list", "--json"]).stdout).expect("JSON");
    let left: Vec<_> = left.iter().map(|key| key["account"].as_str()).collect();
    assert!(left.len() == 2 && left.contains(&Some("a")) && left.contains(&None), "{left:?}");
}

#[test]
fn the_audit_tells_who_did_what_and_who_tried_to() {
    let (server, admin) = start();
    let editor = keys(admin, &["create", "editor", "--role", "Editor"]);
    assert_eq!(keys(admin, &["edit", "editor", "--description", "for tests"]).code(), Some(0));
    assert_eq!(keys(admin, &["create", "ci", "--role", "Viewer"]).code(), Some(0));
    let mut denied = Command::new(BINARY);
    denied.args([
        "keys",
        "create",
        "x",
        "--role",
        "Admin",
        "--token-file",
        "-",
        "--url",
        &format!("http://{admin}"),
    ]);
    assert_eq!(run(denied, &editor.stdout).code(), Some(1));

    let audit = |arguments: &[&str]| {
        let ran = keys(admin, &[&["audit"], arguments].concat());
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        ran
    };
    let all = audit(&[]).stdout;
    let actions = ["API key not created", "API key created", "API key changed", "API key created"];
    assert_eq!(all.lines().count(), actions.len() + 1, "{all}");
    for (line, action) in all.lines().skip(1).zip(actions) {
        assert!(line.contains(action) && line.contains("127.0.0.1"), "{action}: {all}");
    }
    assert!(all.contains("description: none → for tests"), "{all}");
    assert!(!all.contains("eat_"), "{all}");
    assert_eq!(audit(&["--key", "editor"]).stdout.lines().count(), 3);
    assert_eq!(audit(&["--action", "API key changed"]).stdout.lines().count(), 2);
    assert_eq!(audit(&["--actor", "root", "--from", "1d"]).stdout.lines().count(), 4);
    assert_eq!(audit(&["--to", "1d"]).stdout, "Nothing is recorded.\n");
    let some = audit(&["--limit", "2"]);
    assert_eq!((some.stdout.lines().count(), some.stderr.as_str()), (3, "2 of 4: --limit shows more\n"));
    let json = audit(&["--json"]).stdout;
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).expect("JSON");
    assert_eq!((json.lines().count(), &first["action"]), (4, &"API key not created".into()));

    // The keys of a deleted account are counted in its row.
    assert_eq!(accounts(admin, &["create", "robots"]).code(), Some(0));
    for name in ["one", "two"] {
        assert_eq!(accounts(admin, &["create-token", "robots", name]).code(), Some(0));
    }
    assert_eq!(accounts(admin, &["delete", "robots"]).code(), Some(0));
    let deleted = audit(&["--action", "service account deleted"]).stdout;
    assert!(deleted.contains("2 keys deleted with it") && !deleted.contains("times"), "{deleted}");
    let line = server.log().wait_for("the audit line", |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "service account deleted").then_some(line)
    });
    assert_eq!((&line["account.name"], &line["deleted_keys"]), (&"robots".into(), &2.into()), "{line}");
}
