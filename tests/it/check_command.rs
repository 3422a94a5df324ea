//! `check` for people and for programs, and what `serve` says of a configuration that it cannot serve.

use serde_json::{Value, json};

use crate::harness::server::{BINARY, Ran, Server, run};
use crate::harness::slapd::{PEOPLE, READER, READER_PASSWORD, Slapd};

const GOOD: &str = "
tokens: [{token: a-token-of-good-length, actor: {id: a}}]
policies: {read: {}, write: {allow: {role: Editor}}}
";
const WEAK: &str = "tokens: [{token: hunter2, actor: {id: a}}]\n";
const BAD: &str = "
tokens: [{token: hunter2, actor: {id: a}, expires: tomorrow}]
realm: 'a\"b'
";

fn report(ran: &Ran) -> Value {
    assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[test]
fn check_counts_what_it_found() {
    let ran = Server::with(GOOD).run(["check"]);
    assert_eq!(ran.code(), Some(0));
    assert!(
        ran.stdout.ends_with("config.yaml is valid: 1 token, 0 users, 2 policies, 0 routes, 0 warnings\n"),
        "{ran:?}"
    );
    assert_eq!(ran.stderr, "");
}

#[test]
fn warnings_are_errors_with_strict() {
    let setup = Server::with(WEAK);
    assert_eq!(setup.run(["check"]).code(), Some(0));
    let ran = setup.run(["check", "--strict"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("warning: tokens[0].token") && ran.stderr.contains("--strict"), "{ran:?}");
    assert_eq!(setup.run(["check", "--strict", "--json"]).code(), Some(1));
    assert_eq!(Server::with(GOOD).run(["check", "--strict"]).code(), Some(0));
}

#[test]
fn check_reports_to_programs() {
    let ran = Server::with(BAD).run(["check", "--json"]);
    assert_eq!(ran.code(), Some(1));
    assert_eq!(ran.stderr, "", "one place to read");
    let found = report(&ran);
    assert_eq!(
        (&found["valid"], &found["errors"], &found["warnings"]),
        (&json!(false), &json!(2), &json!(1))
    );
    assert_eq!(found["configured"], Value::Null);
    let diagnostics = found["diagnostics"].as_array().unwrap();
    let keys: Vec<_> = diagnostics.iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["tokens[0].token", "tokens[0].expires", "realm"], "by line");
    let [weak, ..] = &diagnostics[..] else { panic!("{found}") };
    assert_eq!(weak["severity"], "warning");
    // Two lines of listeners and an empty one stand before it.
    assert_eq!((&weak["line"], &weak["column"]), (&json!(4), &json!(18)));
    assert!(weak["file"].as_str().unwrap().ends_with("config.yaml"));
    assert!(weak["message"].as_str().unwrap().contains("16 characters"));

    let ran = Server::with(GOOD).run(["check", "--json"]);
    assert_eq!(ran.code(), Some(0));
    let found = report(&ran);
    assert_eq!((&found["valid"], &found["diagnostics"]), (&json!(true), &json!([])));
    assert_eq!(found["configured"], json!({"tokens": 1, "users": 0, "policies": 2, "routes": 0}));
}

#[test]
fn check_tries_what_the_configuration_names() {
    // Port 1 is nobody's.
    let directory = "
ldap:
  url: ldap://127.0.0.1:1
  search_base: dc=example
  search_filter: (uid=%s)
  roles: [{group: \"*\", role: Viewer}]
  at_check: false
keys: {store: \"sqlite:keys.db\"}
admin: {listen: \"unix:none/admin.sock\"}
users: [{username: ann, password: \"correct horse battery staple\", actor: {id: ann, role: Admin}}]
";
    let setup = Server::with(directory);
    assert_eq!(setup.run(["check"]).code(), Some(0), "nothing is tried");
    let ran = setup.run(["check", "--connect"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let lines: Vec<_> = ran.stdout.lines().collect();
    let [summary, socket, store, ldap] = lines[..] else { panic!("{ran:?}") };
    assert!(summary.contains(" is valid: "), "{summary}");
    assert!(socket.starts_with("admin.listen: unix:") && socket.contains("error: the folder"), "{socket}");
    assert!(
        store.starts_with("keys.store: sqlite:")
            && store.ends_with(": does not exist yet: the server creates it"),
        "{store}"
    );
    assert!(ldap.starts_with("ldap.url: ldap://127.0.0.1:1: error: cannot be reached: "), "{ldap}");
    assert!(ran.stderr.ends_with("error: --connect: 2 of 3 cannot be used\n"), "{ran:?}");

    let ran = setup.run(["check", "--connect", "--json"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let found = report(&ran);
    let connections = found["connections"].as_array().unwrap();
    let answers: Vec<_> =
        connections.iter().map(|one| (one["key"].as_str().unwrap(), &one["answers"])).collect();
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(answers, [("admin.listen", &no), ("keys.store", &yes), ("ldap.url", &no)]);
    assert_eq!(connections[2]["target"], "ldap://127.0.0.1:1");

    // A store that a server made, and one that is none.
    let setup = Server::with("keys: {store: \"sqlite:keys.db\"}\n");
    let server = setup.start();
    let mut command = std::process::Command::new(BINARY);
    command.args(["check", "--connect", "--config"]).arg(server.folder().join("config.yaml"));
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stdout.contains("keys.store: ") && ran.stdout.ends_with(": can be read\n"), "{ran:?}");
    let setup = Server::with("keys: {store: \"sqlite:keys.db\"}\n").file("keys.db", "no database at all");
    let ran = setup.run(["check", "--connect"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stdout.contains("keys.store: ") && ran.stdout.contains(": error: "), "{ran:?}");

    // What is not valid is not tried.
    let ran = Server::with(BAD).run(["check", "--connect", "--json"]);
    assert_eq!((ran.code(), &report(&ran)["connections"]), (Some(1), &Value::Null));
}

#[test]
fn check_says_what_a_directory_answers() {
    let slapd = Slapd::start();
    let section = |url: &str, password: &str| {
        format!(
            "ldap:
  url: {url}
  ca: {}
  bind_dn: {READER}
  bind_password: {password}
  search_base: {PEOPLE}
  search_filter: (uid=%s)
  roles: [{{group: \"*\", role: Viewer}}]
",
            slapd.ca_file().display()
        )
    };
    let ran = Server::with(&section(&slapd.tls_url(), READER_PASSWORD)).run(["check", "--connect"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let answer = format!("ldap.url: {}: answers (", slapd.tls_url());
    assert!(ran.stdout.contains(&answer) && ran.stdout.contains("1 search base can be read"), "{ran:?}");

    let ran = Server::with(&section(&slapd.tls_url(), "wrong-password")).run(["check", "--connect"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stdout.contains(": error: ") && ran.stdout.contains("invalid credentials (49)"), "{ran:?}");
    // It answered, and that is no use.
    assert!(ran.stderr.ends_with("error: --connect: 1 of 1 cannot be used\n"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("wrong-password"), "{ran:?}");

    // One of two that does not answer is told, too.
    let both = format!("[ldap://127.0.0.1:1, {}]", slapd.tls_url());
    let ran = Server::with(&section(&both, READER_PASSWORD)).run(["check", "--connect"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.ends_with("--connect: 1 of 2 cannot be used\n"), "{ran:?}");
}

/// Every line as the JSON object that a collector expects.
fn lines(ran: &Ran) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    ran.stderr.lines().map(parse).collect()
}

#[test]
fn a_bad_configuration_is_logged_in_the_logs_own_format() {
    let ran = Server::with(BAD).start_in_vain();
    assert_eq!(ran.code(), Some(1));
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    let lines = lines(&ran);
    let seen: Vec<_> = lines.iter().map(|line| (&line["level"], &line["key"])).collect();
    let expected = [["WARN", "tokens[0].token"], ["ERROR", "tokens[0].expires"], ["ERROR", "realm"]];
    assert_eq!(json!(seen), json!(expected), "{}", ran.stderr);
    assert!(lines[2]["place"].as_str().unwrap().contains("config.yaml:5:"), "{lines:?}");

    let ran = Server::with(BAD).text_log().start_in_vain();
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr.contains("error: realm:") && ran.stderr.contains(" --> "), "{}", ran.stderr);
}

#[test]
fn a_server_that_cannot_start_says_so_in_the_logs_own_format() {
    let first = Server::with(GOOD).start();
    let ran = Server::with(GOOD).listen(first.tcp().to_string()).start_in_vain();
    assert_eq!(ran.code(), Some(1));
    let lines = lines(&ran);
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().unwrap().contains("is listening there"), "{last}");
}

#[test]
fn a_folder_that_is_missing_is_named_by_check_and_by_serve() {
    let folder = tempfile::TempDir::new().unwrap();
    let missing = folder.path().join("not/made");
    let message = format!("the folder {} does not exist; make it", missing.display());
    let store = format!("keys: {{store: \"sqlite:{}/keys.db\"}}\n", missing.display());
    let ran = Server::with(&store).run(["check"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stderr.contains("warning: keys.store: ") && ran.stderr.contains(&message), "{ran:?}");
    let ran = Server::with(&store).start_in_vain();
    assert!(ran.stderr.contains(&message) && ran.stderr.contains("cannot be opened"), "{ran:?}");

    let setup = || Server::with(GOOD).listen(format!("unix:{}/a.sock", missing.display()));
    let ran = setup().run(["check"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stderr.contains("warning: ext_authz.listen: ") && ran.stderr.contains(&message), "{ran:?}");
    let ran = setup().start_in_vain();
    assert!(ran.stderr.contains(&message) && ran.stderr.contains("cannot listen on unix:"), "{ran:?}");

    std::fs::create_dir_all(&missing).unwrap();
    assert_eq!(setup().run(["check", "--strict"]).code(), Some(0));
    assert_eq!(Server::with(&store).run(["check", "--strict"]).code(), Some(0));
    // A file in the place of the folder.
    let file = format!("keys: {{store: \"sqlite:{}/file/keys.db\"}}\n", folder.path().display());
    std::fs::write(folder.path().join("file"), "").unwrap();
    let ran = Server::with(&file).run(["check"]);
    assert!(ran.stderr.contains("is no folder"), "{ran:?}");
}

#[test]
fn files_that_everybody_can_write_are_reported() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Server::with("tokens: [{token: {$file: token}, actor: {id: a}}]\n");
    let setup = setup.file("token", "a-token-0123456789\n").own_listeners();
    let config = setup.write();
    let token = config.with_file_name("token");
    let check = || {
        let mut command = setup.command(["check", "--config", config.to_str().unwrap()]);
        command.current_dir(config.parent().unwrap());
        run(command, "").stderr
    };
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&config, 0o664);
    open(&token, 0o600);
    assert_eq!(check(), "");
    open(&token, 0o602);
    assert!(
        check().contains("warning: tokens[0].token: every user of this machine can write"),
        "{}",
        check()
    );
    open(&token, 0o640);
    open(&config, 0o666);
    assert!(check().starts_with("warning: every user of this machine can write this file"), "{}", check());
}
