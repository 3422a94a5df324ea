//! `envoy-auth-tokens keys …` against a running server's admin API.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::harness::server::{BINARY, Ran, run};
use crate::harness::{Server, grpc, sqlite};

const ROOT: &str = "root-token-0123456789";
const PASSWORD: &str = "correct-horse-battery-staple";

const CONFIG: &str = "
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
users: [{username: admin, password: correct-horse-battery-staple, actor: {id: admin, role: Admin}}]
keys: {store: 'sqlite:keys.db', actor_members: [team]}
admin: {listen: '127.0.0.1:0'}
policies: {read: {allow: {role: Viewer}}}
routes: [{path_prefix: /read, policy: read}]
default: {}
";

const NO_SUCH_ID: &str = "error: there is no key with the id 999: digits alone are an id, and `keys list` shows it, with \
                          --expired those of dead keys too\n";

fn start() -> (Server, SocketAddr) {
    start_with(CONFIG)
}

fn start_with(config: &str) -> (Server, SocketAddr) {
    let server = Server::with(config).start();
    let admin = server.admin();
    (server, admin)
}

/// Runs `keys` with a credential on standard input.
fn keys_as(admin: SocketAddr, arguments: &[&str], credential: &[&str], input: &str) -> Ran {
    let mut command = Command::new(BINARY);
    command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{admin}"));
    command.arg("keys").args(arguments).args(credential);
    run(command, input)
}

fn keys(admin: SocketAddr, arguments: &[&str]) -> Ran {
    keys_as(admin, arguments, &["--token-file", "-"], ROOT)
}

/// The HTTP status and message of a denied Check, or nothing when it passes.
fn refused(server: &Server, path: &str, token: &str) -> Option<String> {
    let bearer = format!("Bearer {}", token.trim_end());
    let request = grpc::request("GET", "app.example", path, &[("authorization", &bearer)]);
    let answer = grpc::check(server, request);
    (grpc::code(&answer) != 0).then(|| grpc::refused(&answer).1)
}

#[test]
fn a_key_is_created_piped_listed_rotated_revoked_and_deleted() {
    let (server, admin) = start();
    let none = keys(admin, &["list"]);
    assert_eq!((none.code(), none.stdout.as_str()), (Some(0), "No keys.\n"), "{none:?}");

    // The token alone is on standard output.
    let created = keys(admin, &["create", "ci deploys", "--role", "Editor", "--ttl", "3d"]);
    assert_eq!(created.code(), Some(0), "{created:?}");
    let token = created.stdout.trim_end();
    assert!(token.starts_with("eat_") && !token.contains(char::is_whitespace), "{created:?}");
    assert!(created.stderr.contains("ci deploys") && !created.stderr.contains(token), "{created:?}");
    assert_eq!(refused(&server, "/", token), None);

    // By user and password, too.
    let as_user = ["--user", "admin", "--password-file", "-"];
    let list = keys_as(admin, &["list"], &as_user, &format!("{PASSWORD}\n"));
    assert_eq!(list.code(), Some(0), "{list:?}");
    let line = list.stdout.lines().nth(1).expect("a line for the key");
    for word in ["ci deploys", "Editor", "live", "(in 3 days)", "UTC"] {
        assert!(line.contains(word), "{list:?}");
    }
    let json = keys(admin, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(listed[0]["name"], "ci deploys");
    let id = listed[0]["id"].to_string();

    let rotated = keys(admin, &["rotate", &id, "--overlap", "1h"]);
    assert_eq!(rotated.code(), Some(0), "{rotated:?}");
    assert_ne!(rotated.stdout, created.stdout);
    let note = format!("Key {id}, ci deploys, is rotated.  Its old token works until ");
    assert!(rotated.stderr.starts_with(&note) && rotated.stderr.contains("(in 1 hour)."), "{rotated:?}");
    assert_eq!(refused(&server, "/", token), None, "the old one overlaps");
    assert_eq!(refused(&server, "/", &rotated.stdout), None);

    let revoked = keys(admin, &["revoke", &id]);
    let said = format!("Key {id}, ci deploys, is revoked.\n");
    assert_eq!((revoked.code(), revoked.stdout), (Some(0), said));
    let again = keys(admin, &["revoke", "ci deploys"]);
    let said = format!("Key {id}, ci deploys, was revoked before by root, ");
    assert!(again.code() == Some(0) && again.stdout.starts_with(&said), "{again:?}");
    assert!(refused(&server, "/", &rotated.stdout).is_some_and(|body| body.contains("Revoked API key")));
    assert_eq!(keys(admin, &["list"]).stdout, "No keys.\n");
    assert!(keys(admin, &["list", "--expired"]).stdout.contains("revoked"));

    let deleted = keys(admin, &["delete", &id]);
    let said = format!("Key {id}, ci deploys, is deleted.\n");
    assert_eq!((deleted.code(), deleted.stdout), (Some(0), said));
    assert_eq!(keys(admin, &["list", "--expired"]).stdout, "No keys.\n");
}

#[test]
fn a_key_can_be_bound_to_policies_and_given_members() {
    let (server, admin) = start();
    let arguments =
        ["create", "reader", "--role", "Viewer", "--policy", "read", "--actor", r#"{"team": "a"}"#, "--json"];
    let created = keys(admin, &arguments);
    assert_eq!(created.code(), Some(0), "{created:?}");
    assert!(created.stderr.is_empty(), "{created:?}");
    let created: Value = serde_json::from_str(&created.stdout).expect("JSON");
    assert_eq!(created["name"], "reader");
    let token = created["key"].as_str().expect("a token");
    assert_eq!(refused(&server, "/read", token), None);
    assert!(refused(&server, "/", token).is_some());
}

#[test]
fn every_command_prints_the_answer_as_json_for_programs() {
    let (_server, admin) = start();
    let json = |arguments: &[&str]| {
        let ran = keys(admin, &[arguments, &["--json"]].concat());
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    };
    let created = json(&["create", "a", "--role", "Viewer"]);
    let id = created["id"].to_string();
    let rotated = json(&["rotate", &id]);
    assert_eq!((&rotated["id"], &rotated["name"]), (&created["id"], &created["name"]));
    assert!(rotated["key"].is_string() && rotated["key"] != created["key"]);
    assert_eq!(json(&["list"])[0]["id"], created["id"]);
    assert_eq!(json(&["revoke", &id])["message"], "API key revoked");
    assert_eq!(json(&["list"]), serde_json::json!([]));
    assert_eq!(json(&["list", "--expired"])[0]["isRevoked"], true);
    assert_eq!(json(&["delete", &id])["message"], "API key deleted");
}

#[test]
fn denials_are_printed_in_the_words_of_the_api_with_exit_code_1() {
    let (_server, admin) = start();
    for name in ["taken", "it's taken"] {
        assert_eq!(keys(admin, &["create", name, "--role", "Viewer"]).code(), Some(0));
    }
    for (arguments, message) in [
        (
            &["create", "taken", "--role", "Viewer"][..],
            "error: API key name already exists; name: a live key of the same owner has this name (409): `keys rotate taken` \
             gives that key a new token, `keys revoke taken` ends it and frees the name\n",
        ),
        (
            &["create", "it's taken", "--role", "Viewer"],
            "error: API key name already exists; name: a live key of the same owner has this name (409): \
             `keys rotate 'it'\\''s taken'` gives that key a new token, `keys revoke 'it'\\''s taken'` ends it and frees the \
             name\n",
        ),
        (
            &["audit", "--action", "created"],
            "error: bad request data; --action: `created` is not an action: did you mean `API key created`, \
             `service account created`, `API key not created`, `service account not created`? (400)\n",
        ),
        (
            &["create", "", "--role", "Viewer"],
            "error: bad request data; name: a name is 1 to 190 printable characters of one script without blanks at the ends (400)\n",
        ),
        (
            &["create", "x", "--role", "Viewer", "--policy", "none"],
            "error: bad request data; --policy: expected names that stand under policies in the configuration (400)\n",
        ),
        (&["show", "999"], NO_SUCH_ID),
        (&["rotate", "999"], NO_SUCH_ID),
        (&["revoke", "999"], NO_SUCH_ID),
        (&["delete", "999"], NO_SUCH_ID),
    ] {
        let ran = keys(admin, arguments);
        assert_eq!((ran.code(), ran.stderr.as_str(), ran.stdout.as_str()), (Some(1), message, ""));
    }
    let stranger = keys_as(admin, &["list"], &["--token-file", "-"], "somebody-elses-token");
    assert_eq!(
        (stranger.code(), stranger.stderr.as_str()),
        (
            Some(1),
            "error: Invalid API key (401): the server rejects the token from standard input (--token-file)\n"
        )
    );
    let wrong = keys_as(admin, &["list"], &["--user", "admin", "--password-file", "-"], "wrong");
    assert_eq!(
        (wrong.code(), wrong.stderr.as_str()),
        (
            Some(1),
            "error: Invalid username or password (401): the server rejects the user admin (--user) with the password \
             from standard input (--password-file)\n"
        )
    );
}

#[test]
fn a_command_line_that_makes_no_sense_is_rejected_before_any_request() {
    // Nobody listens there, so whoever asked would say so.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    for (arguments, found) in [
        (&["create", "x"][..], "<--role <ROLE>|--account <ACCOUNT>|--mine>"),
        (&["create", "x", "--role", "Viewer", "--ttl", "-1d"], "is not negative: write one whole number"),
        (
            &["create", "x", "--role", "Viewer", "--ttl", "0d"],
            "1s or more; --no-expiry makes one that never expires",
        ),
        (&["create", "x", "--role", "Viewer", "--ttl", "1d", "--no-expiry"], "--no-expiry"),
        (&["rotate", "x", "--overlap", "-1h"], "is not negative"),
        (&["create", "x", "--role", "Owner"], "Viewer, Editor, Admin"),
        (&["create", "x", "--role", "Viewer", "--ttl", "1d12h"], "one whole number and one of s m h d w M y"),
        (&["create", "x", "--role", "Viewer", "--actor", "[]"], "not a JSON object"),
        (&["create", "x", "--account", "a", "--role", "Viewer"], "--role"),
        (&["rotate"], "<KEY>"),
        (&["edit", "x"], "--description"),
        (&["edit", "x", "--ttl", "1d", "--no-expiry"], "--no-expiry"),
        (&["revoke"], "<KEY|--created-by"),
        (&["revoke", "x", "--unused-for", "90d"], "--unused-for"),
        (&["revoke", "--dry-run"], "<KEY|--created-by"),
        (&["revoke", "--unused-for", "90"], "one whole number and one of s m h d w M y"),
        (&["audit", "--from", "yesterday"], "2026-11-30"),
    ] {
        let ran = keys(nowhere, arguments);
        assert_eq!(ran.code(), Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(found), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.contains("--url"), "nobody has to write it: {ran:?}");
    }
    let dry = keys(nowhere, &["revoke", "x", "--dry-run"]);
    let sentence =
        "error: --dry-run is for criteria such as --created-by: `keys show` shows keys that are named\n";
    assert_eq!((dry.code(), dry.stderr.as_str()), (Some(2), sentence));
    for (url, found) in [
        ("http://a:hunter2@keys.example", "--password-file"),
        ("keys.example/hunter2", "http://127.0.0.1:9192"),
    ] {
        let ran = keys(nowhere, &["list", "--url", url]);
        assert_eq!(ran.code(), Some(1), "{url}: {ran:?}");
        assert!(ran.stderr.contains(found) && !ran.stderr.contains("hunter2"), "{url}: {ran:?}");
        assert!(ran.stderr.starts_with("error: --url: "), "{url}: {ran:?}");
        let ran = list_with(nowhere, &[("ENVOY_AUTH_TOKENS_ADMIN_URL", url)], &["--token-file", "-"], ROOT);
        assert_eq!(ran.code(), Some(1), "{url}: {ran:?}");
        assert!(ran.stderr.contains(found) && !ran.stderr.contains("hunter2"), "{url}: {ran:?}");
        assert!(ran.stderr.starts_with("error: ENVOY_AUTH_TOKENS_ADMIN_URL: "), "{url}: {ran:?}");
    }
    let nobody = keys_as(nowhere, &["list"], &[], "");
    assert_eq!(nobody.code(), Some(2), "{nobody:?}");
    assert!(nobody.stderr.contains("--token-file"), "{nobody:?}");
    let down = keys(nowhere, &["list"]);
    assert_eq!(down.code(), Some(1), "{down:?}");
    assert!(down.stderr.contains("cannot connect to http://127.0.0.1:1"), "{down:?}");
}

#[test]
fn a_key_is_named_by_its_name_and_several_at_once() {
    let (server, admin) = start();
    for name in ["ci deploys", "a/b", "7"] {
        assert_eq!(keys(admin, &["create", name, "--role", "Viewer"]).code(), Some(0), "{name}");
    }
    let shown = keys(admin, &["show", "ci deploys", "a/b", "ci deploys"]);
    assert_eq!(shown.code(), Some(0), "{shown:?}");
    let parts: Vec<_> = shown.stdout.split("\n\n").collect();
    assert!(parts.len() == 2 && parts[0].contains("Name:          ci deploys\n"), "{shown:?}");
    assert!(parts[1].contains("Role:          Viewer\n"), "{shown:?}");
    let json = keys(admin, &["show", "a/b", "--json"]);
    let shown: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(shown["name"], "a/b");

    // Names compare without case, as the server's do, and the key that was found is named.
    for arguments in [
        &["show", "CI Deploys"][..],
        &["update", "CI Deploys", "--description", "x"],
        &["disable", "CI Deploys"],
        &["enable", "CI Deploys"],
    ] {
        let found = keys(admin, arguments);
        assert_eq!(
            (found.code(), found.stderr.as_str()),
            (Some(0), "note: CI Deploys is the key ci deploys, with the id 1\n"),
            "{found:?}"
        );
        assert!(found.stdout.contains("ci deploys"), "{found:?}");
    }

    // A mistyped name stops all.
    let mistyped = keys(admin, &["revoke", "ci deploys", "c1 deploys"]);
    assert_eq!((mistyped.code(), mistyped.stdout.as_str()), (Some(1), ""), "{mistyped:?}");
    assert!(mistyped.stderr.starts_with("error: there is no key \"c1 deploys\""), "{mistyped:?}");
    let rotated = keys(admin, &["rotate", "ci deploys", "a/b"]);
    assert_eq!(rotated.code(), Some(0), "{rotated:?}");
    let tokens: Vec<_> = rotated.stdout.lines().collect();
    assert!(tokens.len() == 2 && tokens.iter().all(|token| token.starts_with("eat_")), "{rotated:?}");

    // Digits alone are an id, and one that is mistyped stops all, too.
    let id = shown["id"].to_string();
    for command in ["revoke", "delete", "disable", "enable", "rotate"] {
        let mistyped = keys(admin, &[command, &id, "999", "ci deploys"]);
        assert_eq!((mistyped.code(), mistyped.stdout.as_str()), (Some(1), ""), "{mistyped:?}");
        let nothing = "No key was changed, because one name or id was not found.\n";
        assert_eq!(mistyped.stderr, format!("{NO_SUCH_ID}{nothing}"));
    }
    assert!(tokens.iter().all(|token| refused(&server, "/", token).is_none()));
    let named = keys(admin, &["show", "7"]);
    assert_eq!((named.code(), named.stdout.as_str()), (Some(1), ""), "{named:?}");
    assert!(
        named
            .stderr
            .starts_with("error: there is no key with the id 7: a name of digits alone is read as an id. "),
        "{named:?}"
    );
    assert!(named.stderr.ends_with("Use the id of the key:\n  3  7, no owner, live\n"), "{named:?}");
    let revoked = keys(admin, &["revoke", &id, "ci deploys"]);
    assert_eq!((revoked.code(), revoked.stderr.as_str()), (Some(0), ""), "{revoked:?}");
    let lines: Vec<_> = revoked.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{revoked:?}");
    assert!(
        lines[0].starts_with(&format!("Key {id}, ")) && lines[0].ends_with(" is revoked."),
        "{revoked:?}"
    );
    assert!(lines[1].starts_with("Key ") && lines[1].ends_with(", ci deploys, is revoked."), "{revoked:?}");
    for token in tokens {
        assert!(refused(&server, "/", token).is_some());
    }

    // A live key goes before dead ones of its name; several dead ones are listed.
    let again = keys(admin, &["create", "ci deploys", "--role", "Admin"]);
    assert_eq!(again.code(), Some(0), "{again:?}");
    assert!(keys(admin, &["show", "ci deploys"]).stdout.contains("Role:          Admin\n"));
    let revoked = keys(admin, &["revoke", "ci deploys"]).stdout;
    assert!(revoked.ends_with(", ci deploys, is revoked.\n"), "{revoked}");
    let several = keys(admin, &["delete", "ci deploys"]);
    assert_eq!((several.code(), several.stdout.as_str()), (Some(1), ""), "{several:?}");
    assert!(
        several.stderr.contains("Use the id of the key:") && several.stderr.lines().count() == 3,
        "{several:?}"
    );
}

#[test]
fn keys_are_edited_disabled_and_enabled() {
    let (server, admin) = start();
    let created = keys(admin, &["create", "ci", "--role", "Viewer", "--description", "deploys"]);
    assert_eq!(created.code(), Some(0), "{created:?}");
    assert_eq!(keys(admin, &["create", "other", "--role", "Viewer"]).code(), Some(0));
    let shown = |name: &str| keys(admin, &["show", name]).stdout;
    assert!(shown("ci").contains("Description:   deploys\n"), "{}", shown("ci"));

    let edit =
        ["edit", "ci", "--role", "Editor", "--policy", "read", "--actor", r#"{"team": "a"}"#, "--ttl", "2d"];
    let edited = keys(admin, &edit);
    assert_eq!(edited.code(), Some(0), "{edited:?}");
    assert!(
        edited.stdout.starts_with("Key ") && edited.stdout.ends_with(", ci, is changed.\n"),
        "{edited:?}"
    );
    let text = shown("ci");
    for part in ["Role:          Editor\n", "Policies:      read\n", "{\"team\":\"a\"}", "(in 2 days)\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let cleared = ["update", "ci", "other", "--no-policies", "--no-actor", "--no-expiry", "--no-description"];
    let cleared = keys(admin, &cleared);
    assert_eq!((cleared.code(), cleared.stdout.lines().count()), (Some(0), 2), "{cleared:?}");
    let text = shown("ci");
    for part in ["Policies:", "Actor:", "Description:"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("No expiration date"), "{text}");
    let renamed = keys(admin, &["edit", "ci", "--name", "ci2", "--json"]);
    let renamed: Value = serde_json::from_str(&renamed.stdout).expect("JSON");
    assert_eq!(renamed["name"], "ci2");
    let several = keys(admin, &["edit", "ci2", "other", "--name", "third"]);
    assert_eq!(several.code(), Some(1), "{several:?}");
    assert!(several.stderr.contains("is for one key:"), "{several:?}");
    let taken = keys(admin, &["edit", "ci2", "--name", "other"]);
    assert!(taken.code() == Some(1) && taken.stderr.contains("API key name already exists"), "{taken:?}");

    assert_eq!(refused(&server, "/", &created.stdout), None);
    let disabled = keys(admin, &["disable", "ci2", "other"]);
    assert_eq!((disabled.code(), disabled.stdout.lines().count()), (Some(0), 2), "{disabled:?}");
    assert!(refused(&server, "/", &created.stdout).is_some());
    let list = keys(admin, &["list"]).stdout;
    assert_eq!(list.matches("disabled").count(), 2, "{list}");
    assert_eq!(keys(admin, &["enable", "ci2"]).code(), Some(0));
    assert_eq!(refused(&server, "/", &created.stdout), None);
}

#[test]
fn a_list_is_filtered_and_sorted() {
    let (server, admin) = start();
    for (name, role, ttl) in [("b", "Viewer", "2d"), ("a", "Admin", "30d"), ("c", "Viewer", "1y")] {
        assert_eq!(keys(admin, &["create", name, "--role", role, "--ttl", ttl]).code(), Some(0), "{name}");
    }
    let as_admin = ["--user", "admin", "--password-file", "-"];
    let mine = keys_as(admin, &["create", "mine", "--mine"], &as_admin, PASSWORD);
    assert_eq!(mine.code(), Some(0), "{mine:?}");
    sqlite::sql(
        &server.folder().join("keys.db"),
        "UPDATE api_keys SET created_at = created_at - 8640000 WHERE name = 'b'",
    );
    let names = |arguments: &[&str]| {
        let ran = keys(admin, &[&["list", "--json"], arguments].concat());
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{arguments:?}: {ran:?}");
        let keys: Vec<Value> = serde_json::from_str(&ran.stdout).expect("JSON");
        let names: Vec<_> = keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
        let table = keys_of_table(&self::keys(admin, &[&["list"], arguments].concat()).stdout);
        assert_eq!(table, names, "{arguments:?}");
        names
    };
    for (arguments, expected) in [
        (&[][..], &["a", "b", "c", "mine"][..]),
        (&["--role", "Viewer"], &["b", "c"]),
        (&["--expiring", "7d"], &["b"]),
        (&["--unused", "90d"], &["b"]),
        (&["--query", "MIN"], &["mine"]),
        (&["--kind", "person"], &["mine"]),
        (&["--kind", "none", "--role", "Admin"], &["a"]),
        (&["--owner", "admin"], &["mine"]),
        (&["--created-by", "admin"], &["mine"]),
        (&["--created-by", "nobody"], &[]),
        (&["--sort", "expiration", "--created-by", "root"], &["b", "a", "c"]),
        (&["--sort", "name", "--reverse"], &["mine", "c", "b", "a"]),
        (&["--reverse"], &["mine", "c", "b", "a"]),
        (&["--sort", "created", "--role", "Viewer"], &["b", "c"]),
        (&["--sort", "role", "--created-by", "nobody"], &[]),
    ] {
        assert_eq!(names(arguments), expected, "{arguments:?}");
    }
    // A person's key is named with its owner, and stands for them.
    assert!(keys(admin, &["list"]).stdout.contains("admin/mine"));
    assert!(
        keys(admin, &["show", "admin/mine"]).stdout.contains("Owner:         the person admin (config)\n")
    );
    assert_eq!(refused(&server, "/", &mine.stdout), None);
}

/// The names in a table of keys, without the names of their owners.
fn keys_of_table(table: &str) -> Vec<String> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap());
    rows.map(|name| name.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn many_keys_are_revoked_at_once_after_a_look() {
    let (server, admin) = start();
    let created: Vec<_> = ["ci-1", "ci-2", "other"]
        .map(|name| keys(admin, &["create", name, "--role", "Viewer"]).stdout)
        .into_iter()
        .collect();
    let look = keys(admin, &["revoke", "--name-pattern", "ci-*", "--created-since", "1d", "--dry-run"]);
    assert_eq!((look.code(), look.stderr.as_str()), (Some(0), "2 keys would be revoked.\n"), "{look:?}");
    assert_eq!(keys_of_table(&look.stdout), ["ci-1", "ci-2"]);
    assert!(created.iter().all(|token| refused(&server, "/", token).is_none()));
    let unused = keys(admin, &["revoke", "--unused-for", "90d"]);
    assert_eq!((unused.stdout.as_str(), unused.stderr.as_str()), ("No keys.\n", "0 keys are revoked.\n"));
    let revoked = keys(admin, &["revoke", "--name-pattern", "ci-*", "--created-by", "root"]);
    assert_eq!((revoked.code(), revoked.stderr.as_str()), (Some(0), "2 keys are revoked.\n"), "{revoked:?}");
    let refused: Vec<_> = created.iter().map(|token| refused(&server, "/", token).is_some()).collect();
    assert_eq!(refused, [true, true, false]);
    let json = keys(admin, &["revoke", "--name-pattern", "*", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json[0]["name"], "other");
}

#[test]
fn a_leaked_token_is_found_and_its_text_stays_here() {
    let (server, admin) = start();
    let created = keys(admin, &["create", "ci", "--role", "Viewer"]);
    let find = |token: &str, more: &[&str]| {
        let file = server.folder().join("root");
        std::fs::write(&file, ROOT).unwrap();
        let credential = [&["--token-file", file.to_str().unwrap()], more].concat();
        keys_as(admin, &["find"], &credential, token)
    };
    let found = find(&created.stdout, &[]);
    assert_eq!(found.code(), Some(0), "{found:?}");
    assert!(found.stdout.contains("Name:          ci\n"), "{found:?}");
    assert!(found.stdout.ends_with("Token:         current\n"), "{found:?}");
    assert_eq!(keys(admin, &["rotate", "ci", "--overlap", "1h"]).code(), Some(0));
    let found = find(&created.stdout, &[]);
    assert!(found.stdout.ends_with("Token:         replaced by a rotation\n"), "{found:?}");
    let json: Value = serde_json::from_str(&find(&created.stdout, &["--json"]).stdout).expect("JSON");
    assert_eq!((&json["key"]["name"], &json["secret"]), (&"ci".into(), &"replaced".into()));
    let unknown = find("somebody-elses-token", &[]);
    assert_eq!((unknown.code(), unknown.stdout.as_str()), (Some(1), ""), "{unknown:?}");
    assert!(unknown.stderr.contains("not the format of issued tokens"), "{unknown:?}");
    assert!(unknown.stderr.ends_with("error: API key not found (404)\n"), "{unknown:?}");
    // A token of our format that is no key, as one of the configuration.
    assert_eq!(keys(admin, &["delete", "ci"]).code(), Some(0));
    let unknown = find(&created.stdout, &[]);
    assert_eq!((unknown.code(), unknown.stdout.as_str()), (Some(1), ""), "{unknown:?}");
    for part in [
        "the store has no key with this token",
        "`envoy-auth-tokens explain --path / --token-file FILE` names it",
    ] {
        assert!(unknown.stderr.contains(part), "{part}: {unknown:?}");
    }
    assert!(unknown.stderr.ends_with("error: API key not found (404)\n"), "{unknown:?}");
    let twice = keys(admin, &["find"]);
    assert!(twice.code() == Some(1) && twice.stderr.contains("standard input cannot be both"), "{twice:?}");
    let wrong = find("two words", &[]);
    assert!(wrong.code() == Some(1) && wrong.stderr.contains("cannot be a token"), "{wrong:?}");
}

#[test]
fn keys_go_from_one_store_to_another_with_the_tokens_that_they_have() {
    let (_old, from) = start();
    let create =
        ["create", "ci", "--role", "Viewer", "--ttl", "30d", "--policy", "read", "--description", "deploys"];
    let token = keys(from, &create).stdout;
    assert_eq!(keys(from, &["create", "gone", "--role", "Viewer"]).code(), Some(0));
    assert_eq!(keys(from, &["revoke", "gone"]).code(), Some(0));
    let exported = keys(from, &["export"]);
    assert_eq!((exported.code(), exported.stdout.lines().count()), (Some(0), 1), "{exported:?}");
    assert!(!exported.stdout.contains(token.trim_end()), "{exported:?}");

    let (server, to) = start();
    let file = server.folder().join("keys.jsonl");
    std::fs::write(&file, &exported.stdout).unwrap();
    let import = |more: &[&str]| keys(to, &[&["import", file.to_str().unwrap()], more].concat());
    let imported = import(&[]);
    assert_eq!(
        (imported.code(), imported.stdout.as_str()),
        (Some(0), "1 key is imported.\n"),
        "{imported:?}"
    );
    assert_eq!(refused(&server, "/read", &token), None);
    assert!(refused(&server, "/", &token).is_some(), "it came with its policies");
    assert!(keys(to, &["show", "ci"]).stdout.contains("Description:   deploys\n"));
    let again = import(&[]);
    assert_eq!((again.code(), again.stdout.as_str()), (Some(1), ""), "{again:?}");
    let at = format!("error: {}, line 1: ", file.display());
    assert!(again.stderr.starts_with(&at) && again.stderr.contains("(409)"), "{again:?}");
    assert!(again.stderr.ends_with("\nNo key is imported.\n"), "{again:?}");

    // More than one request holds: each is taken whole.
    let lines = |count: usize| -> String {
        let line = |index: usize| {
            format!("{{\"name\":\"k{index}\",\"role\":\"Viewer\",\"sha256\":\"{index:064x}\"}}\n")
        };
        (1..=count).map(line).collect()
    };
    std::fs::write(&file, lines(2500)).unwrap();
    let many = import(&["--json"]);
    assert_eq!((many.code(), many.stdout.as_str()), (Some(0), "{\"created\":2500}\n"), "{many:?}");
    // Empty lines count, and the requests before the one that fails are taken.
    let text = lines(4700);
    let (known, new) = text.split_at(text.match_indices('\n').nth(2499).unwrap().0 + 1);
    let first = known.lines().next().unwrap();
    let last = format!("{{\"name\":\"again\",{}\n", first.split_once(',').unwrap().1);
    std::fs::write(&file, format!("\n{new}{last}")).unwrap();
    let late = import(&[]);
    assert_eq!((late.code(), late.stdout.as_str()), (Some(1), ""), "{late:?}");
    let at = format!("error: {}, line 2202: the digest is known already; sha256: ", file.display());
    assert!(late.stderr.starts_with(&at), "{late:?}");
    let rest = "Lines 2002 to 2202, which are one request, and all lines behind them are not imported. \
                The 2000 keys of the lines before are imported.\n";
    assert!(late.stderr.ends_with(rest), "{late:?}");
    std::fs::write(&file, format!("{}[]\n", lines(3))).unwrap();
    let wrong = import(&[]);
    assert!(wrong.code() == Some(1) && wrong.stderr.contains("line 4 is not a JSON object"), "{wrong:?}");
    let nothing = keys(to, &["import", "/nowhere/keys.jsonl"]);
    assert!(nothing.code() == Some(1) && nothing.stderr.contains("/nowhere/keys.jsonl"), "{nothing:?}");
}

/// Runs `keys list` with these variables and nothing that names a credential.
fn list_with(admin: SocketAddr, variables: &[(&str, &str)], arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(BINARY);
    command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{admin}"));
    command.envs(variables.iter().copied()).args(["keys", "list"]).args(arguments);
    run(command, input)
}

#[test]
fn variables_name_the_credential_and_arguments_go_before_them() {
    let (server, admin) = start();
    let file = |name: &str, text: &str| {
        let path = server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (token, password) = (file("token", ROOT), file("password", PASSWORD));
    let wrong = file("wrong", "somebody-elses-token");
    let (by_token, by_user) = ("ENVOY_AUTH_TOKENS_TOKEN_FILE", "ENVOY_AUTH_TOKENS_USER");
    let by_file = "ENVOY_AUTH_TOKENS_PASSWORD_FILE";
    for (variables, arguments, input) in [
        (&[(by_token, token.as_str())][..], &[][..], ""),
        (&[(by_token, "-")], &[], ROOT),
        (&[(by_user, "admin"), (by_file, &password)], &[], ""),
        (&[(by_user, "admin")], &["--password-file", &password], ""),
        (&[(by_user, "admin"), (by_file, &password)], &["--user", "admin"], ""),
        (&[(by_token, &wrong)], &["--token-file", &token], ""),
        (&[(by_token, &wrong), (by_file, &password)], &["--user", "admin"], ""),
        (&[(by_user, "admin"), (by_file, &wrong)], &["--token-file", &token], ""),
        (&[(by_token, &token), (by_user, "")], &[], ""),
    ] {
        let ran = list_with(admin, variables, arguments, input);
        assert_eq!(
            (ran.code(), ran.stdout.as_str()),
            (Some(0), "No keys.\n"),
            "{variables:?} {arguments:?}: {ran:?}"
        );
    }
    // Without one all the ways are named, as a mistake of the command line.
    let nobody = list_with(admin, &[], &[], "");
    assert_eq!(nobody.code(), Some(2), "{nobody:?}");
    for way in
        ["--token-file FILE", "--user NAME", "--password-file FILE", "terminal", by_token, by_user, by_file]
    {
        assert!(nobody.stderr.contains(way), "{way}: {nobody:?}");
    }
    for (variables, arguments, code, part) in [
        (&[(by_token, token.as_str()), (by_user, "admin")][..], &[][..], 2, "are both set"),
        (&[], &["--password-file", &password], 2, "--user"),
        (&[], &["--user", "admin"], 1, "there is no terminal to ask for the password of admin"),
        // A password goes to the server with nobody's name but its user's.
        (&[(by_user, "root"), (by_file, &password)], &["--user", "admin"], 1, "who is another one"),
        (&[(by_token, &wrong)], &[], 1, &format!("the server rejects the token from {wrong} ({by_token})")),
        (
            &[(by_user, "admin"), (by_file, &wrong)],
            &[],
            1,
            &format!("rejects the user admin ({by_user}) with the password from {wrong} ({by_file})"),
        ),
        (&[(by_file, &password)], &[], 2, "--token-file"),
    ] {
        let ran = list_with(admin, variables, arguments, "");
        assert_eq!(ran.code(), Some(code), "{ran:?}");
        assert!(ran.stderr.contains(part) && ran.stdout.is_empty(), "{ran:?}");
    }
}

/// Runs a command at a terminal of its own, and types this when it asks; `|` parts what is typed for several questions.  Gives back a line that says whether the terminal hid
/// what was typed, whether it shows what is typed afterwards, and the exit code; and all that stood on the terminal.
fn at_terminal(admin: SocketAddr, typed: &str, arguments: &[&str]) -> (String, String) {
    let script = r#"
import fcntl, os, pty, select, subprocess, sys, termios, time
master, slave = pty.openpty()
attach = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
child = subprocess.Popen(sys.argv[2:], stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=attach)
echoes = lambda: bool(termios.tcgetattr(slave)[3] & termios.ECHO)
typed, seen, answered, hidden, deadline = sys.argv[1].split('|'), b'', 0, None, time.monotonic() + 60
while time.monotonic() < deadline:
    ended = child.poll() is not None
    if select.select([master], [], [], 0 if ended else 0.05)[0]:
        seen += os.read(master, 65536)
        if seen.endswith(b': ') and len(seen) > answered and typed:
            answered = len(seen)
            hidden = hidden is not False and not echoes()
            os.write(master, typed.pop(0).encode())
    elif ended:
        break
print('hidden', hidden, 'echo', echoes(), 'code', child.poll())
sys.stdout.write(seen.decode())
"#;
    let mut command = Command::new("python3");
    command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{admin}"));
    command.args(["-c", script, typed, BINARY]).args(arguments);
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let (state, seen) = ran.stdout.split_once('\n').expect("a line of the state");
    (state.to_owned(), seen.replace('\r', ""))
}

#[test]
fn a_terminal_is_asked_for_the_password_and_does_not_show_it() {
    let (_server, admin) = start();
    let typed = format!("wrong\u{15}{PASSWORD}x\u{7f}\r");
    let (state, seen) = at_terminal(admin, &typed, &["keys", "list", "--user", "admin"]);
    assert_eq!(state, "hidden True echo True code 0", "{seen}");
    assert_eq!(seen, "Password of admin: \nNo keys.\n");
    let (state, seen) = at_terminal(admin, "wrong\r", &["keys", "list", "--user", "admin"]);
    assert_eq!(state, "hidden True echo True code 1", "{seen}");
    let rejected = "error: Invalid username or password (401): the server rejects the user admin (--user) with the password \
                    typed at the terminal\n";
    assert!(seen.ends_with(rejected) && !seen.contains("wrong"), "{seen}");
    // Ctrl-C gives up, and leaves a terminal that shows what is typed.
    let (state, seen) = at_terminal(admin, "correct\u{3}", &["keys", "list", "--user", "admin"]);
    assert_eq!(state, "hidden True echo True code 1", "{seen}");
    assert!(seen.contains("interrupted") && !seen.contains("correct"), "{seen}");
    // A new password is asked for twice.
    let (state, seen) = at_terminal(admin, "a-new-password\r|a-new-password\r", &["password"]);
    assert_eq!(state, "hidden True echo True code 0", "{seen}");
    assert!(seen.starts_with("Password: \nOnce more: \n$argon2id$") && !seen.contains("a-new"), "{seen}");
    let (state, seen) = at_terminal(admin, "a-new-password\r|another\r", &["password"]);
    assert_eq!(state, "hidden True echo True code 1", "{seen}");
    assert!(seen.contains("the two passwords are not the same") && !seen.contains("argon2id"), "{seen}");
    // A token is asked for in the same way.
    let (state, seen) = at_terminal(admin, "hunter2\r", &["token", "check"]);
    assert_eq!(state, "hidden True echo True code 3", "{seen}");
    assert!(
        seen.starts_with("Token: \nThis is not a token in the format of envoy-auth-tokens")
            && !seen.contains("hunter2"),
        "{seen}"
    );
}

#[test]
fn a_list_of_many_keys_is_printed_whole() {
    let (server, admin) = start();
    sqlite::insert_keys(&server.folder().join("keys.db"), 2500);
    let list = keys(admin, &["list"]);
    assert_eq!(list.code(), Some(0), "{}", list.stderr);
    let lines: Vec<&str> = list.stdout.lines().collect();
    assert_eq!(lines.len(), 2501);
    assert!(lines[0].starts_with("ID") && lines[1..].iter().all(|line| line.contains("stored key ")));
    let json = keys(admin, &["list", "--json"]);
    let listed: Vec<Value> = serde_json::from_str(&json.stdout).expect("JSON");
    assert!(listed.len() == 2500 && json.stdout.ends_with("]\n"));
    // Where standard output is closed early, nothing is wrong.
    let mut command = Command::new("sh");
    command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{admin}"));
    command.args(["-c", "\"$0\" keys list --token-file - | head -n 1", BINARY]);
    assert!(run(command, ROOT).stdout.starts_with("ID"));
}

#[test]
fn an_admin_accepts_the_history_of_the_store() {
    let (server, admin) = start();
    let store = server.folder().join("keys.db");
    let accepted = || sqlite::sql(&store, "SELECT accepted FROM api_revision");
    let before = accepted();
    let ran = keys(admin, &["accept-history"]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.starts_with("History accepted: "), "{ran:?}");
    let first = accepted();
    assert_ne!(first, before);
    let line = server.log().wait_for("the audit line", |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "history of the key store accepted").then_some(line)
    });
    assert_eq!((&line["target"], &line["by"]), (&"audit".into(), &"root".into()), "{line}");

    let editor = keys(admin, &["create", "editor", "--role", "Editor"]);
    let as_editor = keys_as(admin, &["accept-history"], &["--token-file", "-"], &editor.stdout);
    assert_eq!(as_editor.code(), Some(1), "{as_editor:?}");
    assert_eq!(
        as_editor.stderr,
        "error: Permission denied; you may not manage API keys: neither admin.allow nor admin.self_service admits you (403)\n"
    );
    assert_eq!(accepted(), first);
}

#[test]
fn a_key_works_as_long_as_the_server_proposes_unless_the_command_line_says_otherwise() {
    let config =
        |keys: &str| CONFIG.replace("actor_members: [team]", &format!("actor_members: [team], {keys}"));
    let (_server, admin) = start_with(&config("default_seconds_to_live: 864000"));
    let create = |admin: SocketAddr, arguments: &[&str]| {
        let ran = keys(admin, &[&["create"], arguments, &["--role", "Viewer"]].concat());
        assert_eq!((ran.code(), ran.stdout.lines().count()), (Some(0), 1), "{ran:?}");
        (ran.stderr, keys(admin, &["show", arguments[0]]).stdout)
    };
    for (arguments, said, shown) in [
        (&["proposed"][..], "(in 10 days).  The token", "(in 10 days)\n"),
        (&["short", "--ttl", "3d"], "(in 3 days).  The token", "(in 3 days)\n"),
        (&["endless", "--no-expiry"], "It never expires.  The token", "No expiration date\n"),
    ] {
        let (note, details) = create(admin, arguments);
        assert!(note.contains(said) && details.contains(shown), "{arguments:?}: {note}{details}");
    }
    let json = keys(admin, &["create", "json", "--role", "Viewer", "--json"]);
    assert_eq!((json.code(), json.stderr.as_str()), (Some(0), ""), "{json:?}");
    assert!(keys(admin, &["show", "json"]).stdout.contains("(in 10 days)\n"));
    let mine = ["--user", "admin", "--password-file", "-"];
    let mine = keys_as(admin, &["create", "mine", "--mine"], &mine, PASSWORD);
    assert!(mine.code() == Some(0) && mine.stderr.contains("(in 10 days)"), "{mine:?}");

    // Nothing is proposed, and what the server does not allow is said in words of the command line.
    let (_server, admin) = start_with(&config("default_seconds_to_live: 0"));
    assert!(create(admin, &["endless"]).1.contains("No expiration date"));
    let (_server, admin) = start_with(&config("max_seconds_to_live: 432000"));
    assert!(create(admin, &["proposed"]).1.contains("(in 5 days)\n"));
    for (arguments, part) in [
        (
            &["--ttl", "6d"][..],
            "error: the key would expire too late; --ttl: expected at most 432000 seconds (keys.max_seconds_to_live) (400)\n",
        ),
        (
            &["--no-expiry"],
            "error: every key must have an expiry here; --ttl: expected 1 to 432000 seconds (keys.max_seconds_to_live) (400)\n",
        ),
    ] {
        let ran = keys(admin, &[&["create", "x", "--role", "Viewer"], arguments].concat());
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert_eq!(ran.stderr, part, "{ran:?}");
    }
    let (_server, admin) = start_with(&config("max: 1"));
    assert_eq!(keys(admin, &["create", "one", "--role", "Viewer"]).code(), Some(0));
    let full = keys(admin, &["create", "two", "--role", "Viewer"]);
    assert!(full.code() == Some(1) && full.stderr.contains("raise keys.max in"), "{full:?}");
}

#[test]
fn tokens_of_a_rotation_that_fails_for_one_key_are_told_apart() {
    let (_server, admin) = start();
    for name in ["a", "b", "c"] {
        assert_eq!(keys(admin, &["create", name, "--role", "Viewer"]).code(), Some(0));
    }
    assert_eq!(keys(admin, &["disable", "b"]).code(), Some(0));
    let rotated = keys(admin, &["rotate", "a", "b", "c"]);
    assert_eq!((rotated.code(), rotated.stdout.lines().count()), (Some(1), 2), "{rotated:?}");
    assert!(rotated.stdout.lines().all(|line| line.starts_with("eat_")), "{rotated:?}");
    let note =
        "Key 1, a, is rotated.  Its old token is denied from now on.  The new token is shown only once:\n";
    assert!(rotated.stderr.starts_with(note), "{rotated:?}");
    let disabled = "API key is disabled (409): `keys enable 2` enables it\n";
    assert!(rotated.stderr.contains(&format!("error: b: {disabled}")), "{rotated:?}");
    let order = "note: standard output has the new tokens of these keys, in this order: a (id 1), c (id 3)\n";
    assert!(rotated.stderr.ends_with(&format!("{order}error: 1 of 3 failed\n")), "{rotated:?}");

    // What the state of a key does not let is said with the state.
    let one = keys(admin, &["rotate", "b"]);
    assert_eq!((one.code(), one.stderr), (Some(1), format!("error: {disabled}")));
    assert_eq!(keys(admin, &["revoke", "c"]).code(), Some(0));
    let dead = keys(admin, &["edit", "c", "--ttl", "1d"]);
    let revoked = "error: API key is revoked or expired (409): it was revoked, which cannot be undone; `keys create` creates another key\n";
    assert_eq!((dead.code(), dead.stderr.as_str()), (Some(1), revoked));
}

#[test]
fn a_token_that_cannot_be_written_is_said_to_be_lost() {
    let (_server, admin) = start();
    let into_full = |arguments: &str| {
        let mut command = Command::new("sh");
        command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{admin}"));
        command.args(["-c", &format!("\"$0\" {arguments} --token-file - > /dev/full"), BINARY]);
        run(command, ROOT)
    };
    for more in ["", " --json"] {
        let name = format!("lost{}", more.len());
        let lost = into_full(&format!("keys create {name} --role Viewer{more}"));
        assert_eq!(lost.code(), Some(1), "{lost:?}");
        let shown: Value =
            serde_json::from_str(&keys(admin, &["show", &name, "--json"]).stdout).expect("JSON");
        let id = &shown["id"];
        let text = format!(
            "Key {id}, {name}, is created, but its token was not delivered: `keys rotate {id}` replaces it.\n"
        );
        assert!(lost.stderr.ends_with(&text), "{lost:?}");
        assert!(lost.stderr.contains("error: cannot write the token to standard output: "), "{lost:?}");
    }
    // No more tokens are lost than one.
    let lost = into_full("keys rotate lost0 lost7");
    assert_eq!(lost.code(), Some(1), "{lost:?}");
    assert!(lost.stderr.contains("note: not attempted: lost7\n"), "{lost:?}");
    assert!(lost.stderr.contains("is rotated, but its token was not delivered"), "{lost:?}");
}

#[test]
fn tokens_are_written_to_a_new_file_that_only_its_owner_can_read() {
    let (server, admin) = start();
    let file = server.folder().join("token");
    let path = file.to_str().unwrap();
    let text = || std::fs::read_to_string(&file).unwrap();
    let listed = || serde_json::from_str::<Value>(&keys(admin, &["list", "--json"]).stdout).unwrap();
    let created = keys(admin, &["create", "a", "--role", "Viewer", "--output", path]);
    assert_eq!((created.code(), created.stdout.as_str()), (Some(0), ""), "{created:?}");
    assert!(created.stderr.ends_with(&format!("The token is in {path}.\n")), "{created:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((refused(&server, "/", &text()), text().lines().count()), (None, 1));
    // What is there stays, and nothing is created.
    let before = text();
    for arguments in
        [&["create", "b", "--role", "Viewer", "--output", path][..], &["rotate", "a", "--output", path]]
    {
        let again = keys(admin, arguments);
        assert_eq!((again.code(), again.stdout.as_str()), (Some(1), ""), "{again:?}");
        assert!(again.stderr.contains(&format!("{path} exists already: nothing was created")), "{again:?}");
        assert_eq!((text(), refused(&server, "/", &before)), (before.clone(), None));
        assert_eq!(listed().as_array().unwrap().len(), 1);
    }
    // A command that fails leaves no file.
    std::fs::remove_file(&file).unwrap();
    assert_eq!(keys(admin, &["create", "a", "--role", "Viewer", "--output", path]).code(), Some(1));
    assert!(!file.exists());
    // Of several keys, each has a line.
    assert_eq!(keys(admin, &["create", "b", "--role", "Viewer"]).code(), Some(0));
    assert_eq!(keys(admin, &["rotate", "a", "b", "--output", path]).code(), Some(0));
    assert!(text().lines().count() == 2 && text().lines().all(|line| refused(&server, "/", line).is_none()));
    assert!(refused(&server, "/", &before).is_some());
    // Tokens of accounts, and those of no server.
    let accounts = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.arg("accounts").args(arguments).args([
            "--token-file",
            "-",
            "--url",
            &format!("http://{admin}"),
        ]);
        run(command, ROOT)
    };
    std::fs::remove_file(&file).unwrap();
    assert_eq!(accounts(&["create", "robots"]).code(), Some(0));
    assert_eq!(accounts(&["create-token", "robots", "ci", "--output", path]).code(), Some(0));
    assert_eq!(refused(&server, "/", &text()), None);
    std::fs::remove_file(&file).unwrap();
    for expected in [0, 1] {
        let mut command = Command::new(BINARY);
        command.args(["token", "new", "--output", path]);
        let ran = run(command, "");
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(expected), ""), "{ran:?}");
        assert!(text().starts_with("eat_"), "{ran:?}");
    }
}

#[test]
fn a_wrong_url_and_a_missing_credential_are_explained() {
    let (_server, admin) = start();
    let at = |url: &str| {
        let mut command = Command::new(BINARY);
        command.args(["keys", "list", "--token-file", "-", "--url", url]);
        let ran = run(command, ROOT);
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        ran.stderr
    };
    let below = at(&format!("http://{admin}/api"));
    assert!(below.contains("the URL is that of the admin listener, without a path"), "{below}");
    let unknown = at("http://no-such-host.invalid:9192");
    assert!(unknown.contains("the host name no-such-host.invalid in http://no-such-host"), "{unknown}");
    assert!(unknown.contains(" is unknown: ") && !unknown.contains("that the server runs"), "{unknown}");
    let mut command = Command::new(BINARY);
    command.args(["keys", "create", "a", "--role", "Viewer"]);
    let without = run(command, "");
    assert_eq!(without.code(), Some(2), "{without:?}");
    assert!(without.stderr.contains("Usage: envoy-auth-tokens keys create "), "{without:?}");
}

#[test]
fn a_listener_that_is_not_the_admins_is_asked_about() {
    let (server, _) = start();
    let ran = keys(server.tcp(), &["list"]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    for part in ["that of the admin listener", "not of ext_authz", "https://"] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
}
