//! The commands beside `serve`, through the real binary, with right and wrong input.

use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::Stack;
use crate::harness::server::{BINARY, Ran, Server, run};

const TOKEN: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice, role: Viewer}}
- {token: late-token-0123456789a, actor: {id: late}, expires: '2020-01-01T00:00:00Z'}
users: [{username: rob, password: a-long-password}]
credentials: [bearer, basic, {header: x-api-key}]
policies: {admin: {allow: {role: Admin}}}
routes:
- {path_prefix: /admin, policy: admin}
- {path_prefix: /open, allow: true}
default: {}
";

/// What `printf TEXT | sha256sum` prints.
pub fn sha256_of(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn binary(arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    run(command, input)
}

/// The first word of a text that looks like a token with this prefix.
fn issued(text: &str, prefix: &str) -> String {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let mut tokens = words.filter(|word| word.starts_with(&format!("{prefix}_")));
    tokens.next().unwrap_or_else(|| panic!("no token in {text:?}")).to_owned()
}

#[test]
fn check_says_that_a_good_configuration_is_valid() {
    let setup = Server::with("tokens: [{token: {$env: A_TOKEN}, actor: {id: a}}]\n");
    let setup = setup.env("A_TOKEN", "token-from-the-environment-0");
    let path = setup.write();
    let ran = setup.run(["check", "--config", path.to_str().unwrap()]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stdout.contains("is valid") && ran.stdout.contains("config.yaml"), "{ran:?}");
    // By the environment variable, too.
    assert_eq!(setup.run(["check"]).code(), Some(0));
}

#[test]
fn check_shows_every_error_of_a_bad_configuration_and_no_secret() {
    let setup = Server::with(
        "
tokens:
- {token: a-real-secret-0123456, actor: {id: a}, expires: tomorrow}
- {token: a-real-secret-0123456, actor: {id: b}}
actor_headers: {x_actor: id}
realm: 'a\"b'
unknown_key: 1
",
    );
    let ran = setup.run(["check"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    for found in ["expires", "x_actor", "realm", "unknown_key", "config.yaml:"] {
        assert!(ran.stderr.contains(found), "nothing about {found}:\n{}", ran.stderr);
    }
    assert!(!format!("{ran:?}").contains("a-real-secret"), "{ran:?}");
}

#[test]
fn check_warns_of_what_works_but_should_not_stay() {
    let setup = Server::with("tokens: [{token: short, actor: {id: a}}]\n");
    let ran = setup.run(["check"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stderr.contains("warning"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("short,"), "{ran:?}");
}

#[test]
fn check_says_which_file_is_missing() {
    let ran = binary(&["check", "--config", "/nowhere/config.yaml"], "");
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("/nowhere/config.yaml"), "{ran:?}");
}

#[test]
fn an_error_about_a_file_names_it_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let put = "No such file or directory (os error 2); correct the path, or put the file there";
    let make = "No such file or directory (os error 2); make the folder first, or correct the path";
    let within = "Is a directory (os error 21); name a file in it";
    let (none, here, token) = (at("none"), at("."), at("token"));
    std::fs::write(&token, TOKEN).unwrap();
    let deep = at("none/file");
    let config = at("config.yaml");
    std::fs::write(
        &config,
        "tokens: [{token: alice-token-0123456789, actor: {id: a}}]\nkeys: {store: 'sqlite:.'}\n",
    )
    .unwrap();
    let ca_file =
        ["keys", "list", "--url", "https://localhost:1", "--token-file", &token, "--ca-file", &none];
    for (arguments, path, expected) in [
        (&["check", "--config", &none][..], &none, put),
        (&["check", "--config", &here], &here, within),
        (&["keys", "list", "--token-file", &none], &none, put),
        (&["keys", "list", "--user", "a", "--password-file", &here], &here, within),
        (&["keys", "migrate", "--store-file", &none], &none, put),
        (&["keys", "import", "--token-file", &token, &none], &none, put),
        (&ca_file, &none, put),
        (&["import", "datasette", &none], &none, put),
        (&["import", "grafana", &none], &none, put),
        (&["keys", "migrate", "--config", &config, "--audit-log", &deep], &deep, make),
        (&["keys", "migrate", "--config", &config], &"sqlite:".to_owned(), within),
    ] {
        let ran = binary(arguments, "");
        assert_eq!(ran.code(), Some(1), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(path.as_str()), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(expected), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn explain_tells_the_same_as_a_running_server() {
    let setup =
        Server::with(CONFIG).file("token", &format!("{TOKEN}\n")).file("late", "late-token-0123456789a");
    let setup = setup.file("password", "a-long-password\n").file("wrong", "another-password");
    let file = |name: &str| setup.folder().join(name).to_str().unwrap().to_owned();
    let (token, late) = (file("token"), file("late"));
    let (password, wrong) = (file("password"), file("wrong"));
    let cases: &[(&[&str], u64, &str)] = &[
        (&["--path", "/x", "--token-file", &token], 200, "default"),
        (&["--path", "/x"], 401, "default"),
        (&["--path", "/open/x"], 200, "route-2"),
        (&["--path", "/admin/x", "--token-file", &token], 403, "admin"),
        (&["--path", "/x", "--policy", "admin", "--token-file", &token], 403, "admin"),
        (&["--path", "/x", "--token-file", &late], 401, "default"),
        (&["--path", "/x", "--user", "rob", "--password-file", &password], 200, "default"),
        (&["--path", "/x", "--user", "rob", "--password-file", &wrong], 401, "default"),
        (&["--path", "/x", "--method", "POST", "--host", "h", "--token-file", &token], 200, "default"),
    ];
    for (arguments, status, policy) in cases {
        let ran = setup.run(["explain", "--json"].iter().chain(*arguments));
        let explanation: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let decision = if *status == 200 { "allowed" } else { "denied" };
        assert_eq!(explanation["decision"], decision, "{arguments:?}: {explanation}");
        assert_eq!(explanation["policy"], *policy, "{arguments:?}: {explanation}");
        if *status != 200 {
            assert!(ran.stdout.contains(&status.to_string()), "{arguments:?}: {explanation}");
        }
        let ran = setup.run(["explain"].iter().chain(*arguments));
        assert!(ran.stdout.contains(policy), "{arguments:?}: {ran:?}");
        for secret in [TOKEN, "late-token", "a-long-password", "another-password"] {
            assert!(!format!("{ran:?}{explanation}").contains(secret), "{arguments:?}: {ran:?}");
        }
    }
}

#[test]
fn explain_reads_a_token_from_its_input_and_refuses_what_it_cannot_read() {
    let setup = Server::with(CONFIG);
    let ran = run(setup.command(["explain", "--path", "/x", "--json", "--token-file", "-"]), TOKEN);
    let explanation: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!(explanation["decision"], "allowed");
    assert!(ran.stdout.contains("alice"), "{ran:?}");
    let ran = setup.run(["explain", "--path", "/x", "--token-file", "/nowhere/token"]);
    assert_ne!(ran.code(), Some(0));
    assert!(ran.stderr.contains("/nowhere/token"), "{ran:?}");
    assert_ne!(setup.run(["explain"]).code(), Some(0), "a path is needed");
    let ran = setup.run(["explain", "--path", "/x", "--header", "no colon"]);
    assert_ne!(ran.code(), Some(0), "{ran:?}");
}

#[test]
fn a_new_token_works_from_its_printed_entry() {
    let ran = binary(&["token", "new", "--name", "reporting"], "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let printed = format!("{}\n{}", ran.stdout, ran.stderr);
    let token = issued(&printed, "eat");
    assert_eq!(token.len(), "eat_".len() + 38, "{token}");
    assert!(token["eat_".len()..].chars().all(|char| char.is_ascii_alphanumeric()), "{token}");
    assert_eq!(printed.matches(&token).count(), 1, "printed once: {printed}");
    assert!(printed.contains(&sha256_of(&token)), "{printed}");
    assert!(printed.contains("reporting"), "{printed}");
    assert_eq!(ran.stdout, format!("{token}\n"), "a file that takes it holds nothing else");
    let other = issued(&binary(&["token", "new"], "").stdout, "eat");
    assert_ne!(token, other);
    let named = binary(&["token", "new", "--prefix", "shop"], "");
    assert_eq!(issued(&format!("{}\n{}", named.stdout, named.stderr), "shop").len(), "shop_".len() + 38);

    let config = format!("tokens: [{{sha256: {}, actor: {{id: issued}}}}]\n", sha256_of(&token));
    let stack = Stack::start(&config);
    assert_eq!(stack.get("/").bearer(&token).send().seen().all("x-actor-id"), ["issued"]);
}

#[test]
fn a_tokens_hash_is_the_one_that_sha256sum_prints() {
    for input in [TOKEN.to_owned(), format!("{TOKEN}\n")] {
        let ran = binary(&["token", "hash"], &input);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.contains(&sha256_of(TOKEN)), "{ran:?}");
        assert!(!format!("{ran:?}").contains(TOKEN), "{ran:?}");
    }
    for input in ["", "\n", "two words", "semi;colon", "com,ma", &"x".repeat(4097)] {
        let ran = binary(&["token", "hash"], input);
        assert_ne!(ran.code(), Some(0), "{input:.20}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
}

#[test]
fn a_hashed_password_lets_its_user_in() {
    let ran = binary(&["password"], "the-password-0123\n");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let start = ran.stdout.find("$argon2id$").unwrap_or_else(|| panic!("{ran:?}"));
    let hash: String = ran.stdout[start..].chars().take_while(|char| !"\"' \n".contains(*char)).collect();
    assert!(!format!("{ran:?}").contains("the-password"), "{ran:?}");
    let stack = Stack::start(&format!("users: [{{username: rob, password_hash: '{hash}'}}]\n"));
    let login = |password: &str| crate::users::settle(|| stack.get("/").basic("rob", password).send());
    assert_eq!(login("the-password-0123").seen().all("x-actor-id"), ["rob"]);
    assert_eq!(login("the-password-0124").status, 401);
    assert_ne!(binary(&["password"], "").code(), Some(0));
}

#[test]
fn health_succeeds_when_the_server_serves() {
    let folder = tempfile::TempDir::new().unwrap();
    let listen = format!("unix:{}", folder.path().join("ext_authz.sock").display());
    let asking = Server::with(CONFIG).listen(&listen);
    let path = asking.write();
    let path = path.to_str().unwrap();
    let ran = asking.run(["health", "--config", path]);
    assert_ne!(ran.code(), Some(0), "nobody is there: {ran:?}");
    assert!(ran.stderr.contains("ext_authz.sock"), "{ran:?}");
    let mut server = Server::with(CONFIG).listen(&listen).arg("--drain=5s").start();
    for arguments in [vec!["health"], vec!["health", "--config", path], vec!["health", "--address", &listen]]
    {
        assert_eq!(asking.run(&arguments).code(), Some(0), "{arguments:?}");
    }
    // One that is leaving is not well, although it still answers.
    server.terminate();
    server.log().wait_for("a line about the drain", |line| line.contains("draining").then_some(()));
    let ran = asking.run(["health"]);
    assert_ne!(ran.code(), Some(0), "{ran:?}");
    assert_eq!(server.wait().code(), Some(0));
    assert_ne!(asking.run(["health"]).code(), Some(0));

    let tcp = Server::with(CONFIG).start();
    let address = tcp.tcp().to_string();
    assert_eq!(binary(&["health", "--address", &address], "").code(), Some(0));
    drop(tcp);
    let ran = binary(&["health", "--address", &address], "");
    assert_ne!(ran.code(), Some(0));
    assert!(ran.stderr.contains(&address), "{ran:?}");
}

#[test]
fn health_asks_a_server_whose_file_is_being_mended() {
    let folder = tempfile::TempDir::new().unwrap();
    let listen = format!("unix:{}", folder.path().join("ext_authz.sock").display());
    let _server = Server::with(CONFIG).listen(&listen).start();
    let broken = "users: [{username: admin, password: {$env: NOT_SET}}]\nroutes: [{path: 7}]\n";
    let ran = Server::with(broken).listen(&listen).run(["health"]);
    assert_eq!(ran.code(), Some(0), "it serves on under its old rules: {ran:?}");

    // Where it listens must be said all the same.
    let ran = Server::with(broken).listen("unix:").run(["health"]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr.contains("ext_authz.listen"), "{ran:?}");
}

#[test]
fn check_refuses_every_actor_header_that_would_do_harm() {
    let names = [
        "",
        "x_actor",
        "X-Actor",
        "x actor",
        "x-actor:",
        ":path",
        ":method",
        "host",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-authorization",
        "proxy-x",
        "transfer-encoding",
        "content-length",
        "content-type",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "x-forwarded-user",
        "x-envoy-original-path",
        "x-envoy-anything",
        "x-request-id",
        "x-akt\u{f6}r",
        "x-actor\\r\\nx-evil",
        "x-api-key",
    ];
    for name in names {
        let config = format!(
            "tokens: [{{token: alice-token-0123456789, actor: {{id: a}}}}]
credentials: [bearer, {{header: x-api-key}}]
actor_headers: {{\"{name}\": id}}
"
        );
        let ran = Server::with(&config).run(["check"]);
        assert_eq!(ran.code(), Some(1), "{name:?}: {ran:?}");
        assert!(ran.stderr.contains("actor_headers"), "{name:?}: {ran:?}");
    }
    let many = |count: usize| {
        let headers: Vec<_> = (0..count).map(|number| format!("x-h-{number}: id")).collect();
        let tokens = "tokens: [{token: alice-token-0123456789, actor: {id: a}}]";
        Server::with(&format!("{tokens}\nactor_headers: {{{}}}\n", headers.join(", "))).run(["check"])
    };
    assert_eq!(many(32).code(), Some(0), "{:?}", many(32));
    assert_eq!(many(33).code(), Some(1));
    let big = format!("tokens: [{{token: alice-token-0123456789, actor: {{id: {}}}}}]\n", "x".repeat(9000));
    let ran = Server::with(&big).run(["check"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
}

#[test]
fn an_unknown_command_is_a_mistake_and_help_is_not() {
    assert_eq!(binary(&["no-such-command"], "").code(), Some(2));
    let help = binary(&["--help"], "");
    assert_eq!(help.code(), Some(0));
    for command in ["serve", "check", "explain", "token", "password", "health"] {
        assert!(help.stdout.contains(command), "{}", help.stdout);
        assert_eq!(binary(&[command, "--help"], "").code(), Some(0), "{command}");
    }
    let version = binary(&["--version"], "");
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
}

#[test]
fn the_log_has_no_colours_where_nobody_wants_them() {
    let setup = Server::with(
        "tokens: [{token: hunter2, actor: {id: a}}]\next_authz: {listen: \"unix:no/folder/a.sock\"}\n",
    );
    let setup = setup.own_listeners();
    let config = setup.write();
    // It warns, and ends: there is no such folder.
    let run_with = |no_color: &str| {
        let mut command = Command::new("python3");
        command
            .args(["-c", "import pty, sys; pty.spawn(sys.argv[1:])", BINARY, "serve", "--config"])
            .arg(&config);
        let ran = on_terminal(command.env("NO_COLOR", no_color));
        assert!(ran.contains("WARN") && ran.contains("can be guessed"), "{ran}");
        ran
    };
    assert!(run_with("").contains("\u{1b}["), "a terminal has colours");
    let plain = run_with("1");
    assert!(!plain.contains("\u{1b}["), "{plain}");
}

/// What the command writes to its terminal.
fn on_terminal(command: &mut Command) -> String {
    let output = command.stdin(std::process::Stdio::null()).output().expect("python3 starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
