//! Other rules while the server runs: what is seen, what is denied, what lives on, and nobody who notices.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};

use crate::harness::http1::{self, Answer, Request};
use crate::harness::server::Setup;
use crate::harness::{MAX_WAIT, Server, Shape, Stack, grpc};

const LISTENERS: &str = "ext_authz: {listen: \"127.0.0.1:0\"}\nprobes: {listen: \"127.0.0.1:0\"}\n";

const OLD: &str = "old-token-0123456789";
const NEW: &str = "new-token-0123456789";

fn whole(rest: &str) -> String {
    format!("{LISTENERS}{rest}")
}

/// A file in which this token alone passes.
fn one_token(token: &str) -> String {
    whole(&format!("tokens: [{{token: {token}, actor: {{id: alice}}}}]\n"))
}

fn setup(config: &str) -> Setup {
    Server::with(config).own_listeners().arg("--drain=0s")
}

fn write(server: &Server, config: &str) {
    std::fs::write(server.folder().join("config.yaml"), config).unwrap();
}

/// Replaces a file as careful programs do.
fn rename_into(folder: &Path, name: &str, text: &str) {
    let new = folder.join("being-written");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

fn check_with(server: &Server, headers: &[(&str, &str)]) -> CheckResponse {
    grpc::check(server, grpc::request("GET", "app.example", "/", headers))
}

fn passes(server: &Server, token: &str) -> bool {
    grpc::code(&check_with(server, &[("authorization", &format!("Bearer {token}"))])) == 0
}

/// What the answer sets of this header.
fn header(answer: &CheckResponse, name: &str) -> Option<String> {
    let headers = grpc::pass(answer).headers.iter().filter_map(|option| option.header.as_ref());
    headers.into_iter().find(|header| header.key == name).map(|header| header.value.clone())
}

#[track_caller]
fn until(server: &Server, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + MAX_WAIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}; our log:\n{}", server.log().text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.metrics();
    let name = format!("envoy_auth_tokens_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}in {metrics}"))
}

fn reloads(server: &Server) -> u64 {
    metric(server, "config_reload_total{result=\"success\"}") as u64
}

fn refused_reloads(server: &Server) -> u64 {
    metric(server, "config_reload_total{result=\"failure\"}") as u64
}

/// Does something after which there must be another set of rules in force.
#[track_caller]
fn reloaded(server: &Server, change: impl FnOnce()) {
    let before = reloads(server);
    change();
    until(server, "reloaded", || reloads(server) > before);
    until_logged(server, "the configuration was reloaded", reloads(server));
}

/// Waits for the lines that stand in the log up to the end of the last reload.
fn until_logged(server: &Server, ending: &str, times: u64) {
    let times_logged = || server.log().lines().iter().filter(|line| line.contains(ending)).count() as u64;
    until(server, ending, || times_logged() >= times);
}

/// Does something after which a reload must have been denied.
#[track_caller]
fn refused(server: &Server, change: impl FnOnce()) {
    let before = refused_reloads(server);
    change();
    until(server, "refused to reload", || refused_reloads(server) > before);
    until_logged(server, "the configuration was not reloaded", refused_reloads(server));
}

/// The log lines with this level and text in their message.
fn lines(server: &Server, level: &str, message: &str) -> Vec<Value> {
    let lines = server.log().lines();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let fits = |line: &Value| {
        line["level"] == level && line["message"].as_str().is_some_and(|text| text.contains(message))
    };
    lines.filter(fits).collect()
}

#[test]
fn a_changed_file_is_in_force_soon_however_it_was_written() {
    let stack = Stack::shaped(setup(&one_token(OLD)), Shape::plain());
    let status = |token| stack.get("/").bearer(token).send().status;
    assert_eq!((status(OLD), status(NEW)), (200, 401));
    let server = &stack.server;
    reloaded(server, || write(server, &one_token(NEW)));
    assert_eq!((status(OLD), status(NEW)), (401, 200), "a plain write");
    reloaded(server, || rename_into(server.folder(), "config.yaml", &one_token(OLD)));
    assert_eq!((status(OLD), status(NEW)), (200, 401), "a rename");
    refused(server, || std::fs::remove_file(server.folder().join("config.yaml")).unwrap());
    assert_eq!((status(OLD), status(NEW)), (200, 401), "without a file the old rules stay");
    reloaded(server, || write(server, &one_token(NEW)));
    assert_eq!((status(OLD), status(NEW)), (401, 200), "a new file");
    let line = lines(server, "INFO", "the configuration was reloaded").pop().unwrap();
    assert_eq!((line["tokens"].as_u64(), line["users"].as_u64()), (Some(1), Some(0)), "{line}");
    assert_eq!(line["cause"], "a file changed");
}

#[test]
fn what_changes_nothing_is_no_reload() {
    let server = setup(&one_token(OLD)).start();
    // The same bytes in a new file, and a file that nobody asked for.
    rename_into(server.folder(), "config.yaml", &one_token(OLD));
    std::fs::write(server.folder().join("other"), "x").unwrap();
    // What comes after it is seen, so these were, too.  It comes whole: half a file would be denied.
    reloaded(&server, || rename_into(server.folder(), "config.yaml", &one_token(NEW)));
    assert_eq!((reloads(&server), refused_reloads(&server)), (1, 0));
}

#[test]
fn kubernetes_swaps_a_link_two_steps_away() {
    let config = |id: &str| whole(&format!("tokens: [{{token: {{$file: token}}, actor: {{id: {id}}}}}]\n"));
    let setup = setup(&config("first"));
    let volume = setup.folder().to_owned();
    std::fs::create_dir(volume.join("..1")).unwrap();
    std::fs::write(volume.join("..1/token"), OLD).unwrap();
    symlink("..1", volume.join("..data")).unwrap();
    for name in ["config.yaml", "token"] {
        symlink(format!("..data/{name}"), volume.join(name)).unwrap();
    }
    let server = setup.start();
    assert!(passes(&server, OLD));
    for (number, token) in [(2, NEW), (3, OLD), (4, NEW)] {
        let before = reloads(&server);
        let folder = volume.join(format!("..{number}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.yaml"), config(&format!("at-{number}"))).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
        symlink(format!("..{number}"), volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        std::fs::remove_dir_all(volume.join(format!("..{}", number - 1))).unwrap();
        until(&server, "reloaded", || reloads(&server) > before);
        let answer = check_with(&server, &[("authorization", &format!("Bearer {token}"))]);
        assert_eq!(header(&answer, "x-actor-id").unwrap(), format!("at-{number}"));
    }
    assert!(!passes(&server, OLD));
    assert_eq!(refused_reloads(&server), 0);
}

#[test]
fn a_secrets_file_is_watched_like_the_configuration() {
    let config = whole("tokens: [{token: {$file: secrets/token}, actor: {id: alice}}]\n");
    let setup = setup(&config);
    std::fs::create_dir(setup.folder().join("secrets")).unwrap();
    let server = setup.file("secrets/token", OLD).start();
    assert!(passes(&server, OLD));
    let secrets = server.folder().join("secrets");
    reloaded(&server, || std::fs::write(secrets.join("token"), NEW).unwrap());
    assert!(passes(&server, NEW) && !passes(&server, OLD));
    reloaded(&server, || rename_into(&secrets, "token", OLD));
    assert!(passes(&server, OLD) && !passes(&server, NEW));
}

#[test]
fn a_missing_file_that_comes_later_heals_the_configuration() {
    let server = setup(&one_token(OLD)).start();
    let missing = whole("tokens: [{token: {$file: secrets/late/token}, actor: {id: alice}}]\n");
    refused(&server, || write(&server, &missing));
    assert!(passes(&server, OLD));
    let line = lines(&server, "ERROR", "was not reloaded").pop().unwrap();
    assert!(line["diagnostics"].as_str().unwrap().contains("secrets/late/token"), "{line}");
    // Not even its folder was there.
    let folder = server.folder().join("secrets/late");
    reloaded(&server, || {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), NEW).unwrap();
    });
    assert!(passes(&server, NEW) && !passes(&server, OLD));
}

#[test]
fn sighup_reloads_whatever_the_files_say() {
    let mut server = Server::with(&one_token(OLD)).own_listeners().arg("--drain=60s").start();
    for expected in 1..=3 {
        reloaded(&server, || server.hang_up());
        assert_eq!(reloads(&server), expected);
    }
    let line = lines(&server, "INFO", "the configuration was reloaded").pop().unwrap();
    assert_eq!(line["cause"], "SIGHUP");
    // While it leaves, the signal is no reload and no end.
    server.terminate();
    until(&server, "draining", || server.probe("/ready").status == 503);
    server.hang_up();
    until(&server, "saying that it ignores the signal", || {
        !lines(&server, "INFO", "SIGHUP is ignored").is_empty()
    });
    assert!(passes(&server, OLD));
    server.interrupt();
    assert_eq!(server.wait().code(), Some(0));
}

/// The niceness of the server's threads of this name: each of them has its own (proc(5), `stat`).
fn niceness(server: &Server, name: &str) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process())).unwrap();
    let stats =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default());
    let named = stats.filter(|stat| stat.contains(&format!("({name})")));
    named
        .map(|stat| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap())
        .collect()
}

#[test]
fn a_reload_runs_at_a_lower_priority_than_checks() {
    let server = setup(&one_token(OLD)).start();
    reloaded(&server, || write(&server, &one_token(NEW)));
    let answering = niceness(&server, "tokio-rt-worker");
    let reloading = niceness(&server, "reload");
    assert_eq!(reloading.len(), 1);
    assert!(answering.iter().all(|nice| *nice < reloading[0]), "{answering:?} {reloading:?}");
    assert!(!answering.is_empty());
}

#[test]
fn sighup_before_it_serves_does_not_end_the_process() {
    // A database that does not answer is waited for.
    let keys = "keys: {store: \"postgres://nobody@127.0.0.1:1/none\", ready_without_store: 0s}\n";
    let server = setup(&format!("{}{keys}", one_token(OLD))).start_listening();
    server.hang_up();
    server.wait_until_it_serves();
    until(&server, "reloaded", || reloads(&server) == 1);
    assert!(passes(&server, OLD));
}

#[test]
fn a_bad_file_is_refused_whole_and_said_as_check_says_it() {
    let server = setup(&one_token(OLD)).start();
    assert_eq!(metric(&server, "config_last_reload_successful"), 1.0);
    let loaded_at = metric(&server, "config_last_reload_success_timestamp_seconds");
    assert!(loaded_at > 1.7e9, "{loaded_at}");
    let bad = whole(&format!(
        "tokens:\n- {{token: {NEW}, actor: {{id: alice}}}}\n- {{token: super-secret-0123456789, actr: 7}}\nnonsense: true\n"
    ));
    refused(&server, || write(&server, &bad));
    assert!(passes(&server, OLD) && !passes(&server, NEW), "whole or nothing");
    assert_eq!(metric(&server, "config_last_reload_successful"), 0.0);
    assert_eq!(metric(&server, "config_last_reload_success_timestamp_seconds"), loaded_at);
    let path = server.folder().join("config.yaml");
    let mut check = std::process::Command::new(crate::harness::server::BINARY);
    check.arg("check").arg("--config").arg(&path);
    let check = crate::harness::server::run(check, "");
    let line = lines(&server, "ERROR", "was not reloaded").pop().unwrap();
    assert_eq!(line["diagnostics"].as_str().unwrap().trim_end(), check.stderr.trim_end());
    assert!(check.stderr.contains("nonsense") && check.stderr.contains("actr"), "{}", check.stderr);
    for secret in ["super-secret", NEW, OLD] {
        assert!(!server.log().text().contains(secret), "{}", server.log().text());
    }
    // No YAML at all.
    refused(&server, || write(&server, "tokens: [{token: super-secret-0123456789"));
    assert!(!server.log().text().contains("super-secret"), "{}", server.log().text());
    reloaded(&server, || write(&server, &one_token(NEW)));
    assert_eq!(metric(&server, "config_last_reload_successful"), 1.0);
    assert!(passes(&server, NEW) && !passes(&server, OLD));
}

fn held_back_reloads(server: &Server) -> u64 {
    metric(server, "config_reload_total{result=\"held_back\"}") as u64
}

/// Does something after which a reload must have been held back.
#[track_caller]
fn held_back(server: &Server, change: impl FnOnce()) {
    let before = held_back_reloads(server);
    change();
    until(server, "held back", || held_back_reloads(server) > before);
    until_logged(server, "the reload was held back", held_back_reloads(server));
}

const GUARDED: &str = "\
tokens:
- {token: old-token-0123456789, actor: {id: alice, role: Viewer}}
- {token: new-token-0123456789, actor: {id: bob, role: Viewer}}
users:
- {username: carol, password: carols-long-password}
policies:
  read: {allow: {role: Viewer}}
routes:
- {path_prefix: /admin, allow: {role: Admin}}
default: {}
";

fn code_of_admin(server: &Server, headers: &[(&str, &str)]) -> i32 {
    grpc::code(&grpc::check(server, grpc::request("GET", "app.example", "/admin/x", headers)))
}

#[test]
fn a_reload_that_loses_what_narrows_access_is_held_back_until_sighup() {
    let server = setup(&whole(GUARDED)).start();
    let viewer = [("authorization", "Bearer old-token-0123456789")];
    let basic = [("authorization", "Basic Y2Fyb2w6Y2Fyb2xzLWxvbmctcGFzc3dvcmQ=")];
    assert!(passes(&server, OLD));
    // On a busy machine a password may take longer than a Check has.
    until(&server, "the password is verified", || grpc::code(&check_with(&server, &basic)) == 0);
    assert_ne!(code_of_admin(&server, &viewer), 0);
    let cut = |at: &str| whole(&GUARDED[..GUARDED.find(at).unwrap()]);
    let without = |from: &str, to: &str| {
        let end = if to.is_empty() { GUARDED.len() } else { GUARDED.find(to).unwrap() };
        whole(&format!("{}{}", &GUARDED[..GUARDED.find(from).unwrap()], &GUARDED[end..]))
    };
    for (text, why) in [
        (cut("routes:"), "the new file has lost `routes`, `default`"),
        (without("policies:", "routes:"), "the new file has lost `policies`"),
        (without("routes:", "default:"), "the new file has lost `routes`"),
        (
            format!("{}default: {{allow: false}}\n", cut("policies:")),
            "the new file has lost `routes`, `policies`",
        ),
    ] {
        held_back(&server, || rename_into(server.folder(), "config.yaml", &text));
        let line = lines(&server, "ERROR", "was held back").pop().unwrap();
        let expected = format!(
            "the reload was held back: {why}. The current rules stay active. If the file is complete, send SIGHUP to load it"
        );
        assert_eq!(line["message"], expected, "{line}");
        assert!(line["removed_tokens"].is_null() && line["removed_users"].is_null(), "{line}");
        assert_ne!(code_of_admin(&server, &viewer), 0, "{text}");
        assert!(passes(&server, OLD) && passes(&server, NEW));
        assert_eq!(metric(&server, "config_last_reload_successful"), 0.0);
    }
    // A token that is gone is dead at once all the same, and stays so under a later text that is held back.
    let without_bob = without("- {token: new-", "users:").replace("default: {}\n", "");
    let without_bob = without_bob.replace("routes:\n- {path_prefix: /admin, allow: {role: Admin}}\n", "");
    held_back(&server, || write(&server, &without_bob));
    let line = lines(&server, "ERROR", "was held back").pop().unwrap();
    let removed = "stay active, but 1 token that the file no longer has was removed. If";
    assert!(line["message"].as_str().unwrap().contains(removed), "{line}");
    assert_eq!(line["removed_tokens"], 1, "{line}");
    assert!(passes(&server, OLD) && !passes(&server, NEW));
    // So is a user, and one with another password.
    let changed = cut("policies:").replace("carols-long-password", "carols-other-password");
    held_back(&server, || write(&server, &changed));
    assert_ne!(grpc::code(&check_with(&server, &basic)), 0);
    held_back(&server, || write(&server, &cut("users:")));
    let line = lines(&server, "ERROR", "was held back").pop().unwrap();
    assert!(line["message"].as_str().unwrap().contains("`users`"), "judged by what was in force: {line}");
    assert_ne!(code_of_admin(&server, &viewer), 0);
    // The whole file again.
    reloaded(&server, || write(&server, &whole(GUARDED)));
    assert_eq!(metric(&server, "config_last_reload_successful"), 1.0);
    assert!(passes(&server, NEW) && grpc::code(&check_with(&server, &basic)) == 0);
    // Whoever means it says so.
    held_back(&server, || write(&server, &cut("routes:")));
    reloaded(&server, || server.hang_up());
    assert_eq!(code_of_admin(&server, &viewer), 0);
    assert!(!server.log().text().contains("token-0123"), "{}", server.log().text());
}

#[test]
fn a_beginning_of_the_file_in_force_is_held_back_and_an_edited_file_is_not() {
    let text = whole(
        "tokens:\n- {token: old-token-0123456789, actor: {id: alice}}\nallow_cors_preflight: false\nactor_headers:\n  x-actor-id: id\n  x-actor-name: name\n",
    );
    let server = setup(&text).start();
    held_back(&server, || write(&server, &text.replace("  x-actor-name: name\n", "")));
    held_back(&server, || write(&server, &text[..text.len() - "me\n".len()]));
    let line = lines(&server, "ERROR", "was held back").pop().unwrap();
    assert!(
        line["message"].as_str().unwrap().contains("cut off: it is the beginning of the current file."),
        "{line}"
    );
    reloaded(&server, || write(&server, &text.replace("  x-actor-id: id\n", "")));
}

#[test]
fn a_pipe_in_the_place_of_a_file_stops_no_reload_that_comes_later() {
    let server = setup(&one_token(OLD)).start();
    let path = server.folder().join("config.yaml");
    let pipe = server.folder().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&server, || std::fs::rename(&pipe, &path).unwrap());
    // The log is written by a thread of its own.
    until(&server, "said so", || {
        let said = lines(&server, "ERROR", "was not reloaded");
        said.iter().any(|line| line["diagnostics"].as_str().unwrap().contains("a pipe or a device"))
    });
    assert!(passes(&server, OLD));
    reloaded(&server, || rename_into(server.folder(), "config.yaml", &one_token(NEW)));
    assert!(passes(&server, NEW) && !passes(&server, OLD));
    // And what never ends.
    refused(&server, || {
        std::os::unix::fs::symlink("/dev/zero", &pipe).unwrap();
        std::fs::rename(&pipe, &path).unwrap();
    });
    assert!(passes(&server, NEW));
}

#[test]
fn for_people_the_diagnostics_stand_on_lines_of_their_own() {
    let server = setup(&one_token(OLD)).text_log().start();
    refused(&server, || write(&server, &whole("tokens:\n- {token: a-token-0123456789, actr: 7}\n")));
    server.log().wait_for("the hint", |line| line.contains("did you mean").then_some(()));
    let log = server.log().text();
    assert!(log.contains("\nerror: tokens[0].actr: unknown key `actr`; did you mean `actor`?\n"), "{log}");
    assert!(!log.contains("a-token-0123456789"), "{log}");
}

#[test]
fn headers_that_envoy_must_be_configured_for_are_named() {
    let text = one_token(OLD);
    let server = setup(&text).start();
    let warnings = || lines(&server, "WARN", "envoy-auth-tokens envoy");
    reloaded(&server, || write(&server, &format!("{text}realm: api\n")));
    reloaded(&server, || write(&server, &format!("{text}credentials: [bearer, {{header: x-api-key}}]\n")));
    until(&server, "named", || warnings().len() == 1);
    let line = warnings().remove(0);
    assert_eq!(line["headers"], "x-api-key", "{line}");
    reloaded(&server, || {
        write(&server, &format!("{text}actor_headers: {{x-actor-id: id, x-actor-team: team}}\n"));
    });
    until(&server, "named", || warnings().len() == 2);
    let line = warnings().remove(1);
    assert!(line["headers"].as_str().unwrap().contains("x-actor-team"), "{line}");
    // Fewer headers need no change of Envoy.
    reloaded(&server, || write(&server, &text.replace("alice", "bob")));
    reloaded(&server, || write(&server, &text));
    assert!(warnings().iter().all(
        |line| !line["headers"].as_str().unwrap().contains("x-api-key") || line["headers"] == "x-api-key"
    ));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let keys = |name: &str| format!("keys: {{store: \"sqlite:{}\"}}\n", folder.path().join(name).display());
    let config = format!("{}{}admin: {{listen: \"127.0.0.1:0\"}}\n", one_token(OLD), keys("keys.db"));
    let server = setup(&config).start();
    let admin = server.admin();
    let tokens = format!("tokens: [{{token: {NEW}, actor: {{id: alice, role: Admin}}}}]\n");
    let elsewhere = format!(
        "ext_authz: {{listen: \"127.0.0.1:1\", max_request_bytes: 1MiB, max_connections: 9}}\nprobes: {{listen: \"127.0.0.1:2\"}}\n\
         admin: {{listen: \"127.0.0.1:3\"}}\n{}{tokens}",
        keys("other.db")
    );
    reloaded(&server, || write(&server, &elsewhere));
    assert!(passes(&server, NEW) && !passes(&server, OLD));
    let named = |server: &Server| {
        let lines = lines(server, "WARN", "needs a restart");
        lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = [
        "ext_authz.listen",
        "ext_authz.max_request_bytes",
        "ext_authz.max_connections",
        "probes.listen",
        "admin.listen",
        "keys.store",
    ];
    assert_eq!(named(&server), all);
    let line = lines(&server, "WARN", "needs a restart").remove(0);
    assert_eq!((line["from"].as_str(), line["to"].as_str()), (Some("127.0.0.1:0"), Some("127.0.0.1:1")));
    // Without the sections: who manages keys goes on by the old rules.
    reloaded(&server, || write(&server, &whole(&tokens)));
    until(&server, "named", || {
        let line = lines(&server, "WARN", "needs a restart").pop().unwrap();
        (line["key"].as_str(), line["to"].as_str()) == (Some("keys.store"), Some("absent"))
    });
    let made = Request::new(admin, "POST", "/api/auth/keys").bearer(NEW);
    let made = made.header("content-type", "application/json").header("connection", "close");
    let made = made.body(br#"{"name": "k", "role": "Viewer"}"#.to_vec()).send();
    assert_eq!(made.status, 200, "{}", made.text());
    assert!(passes(&server, made.json()["key"].as_str().unwrap()));
    // A file as at the start has nothing to say.
    let before = named(&server).len();
    reloaded(&server, || write(&server, &config));
    assert_eq!(named(&server).len(), before);
}

#[test]
fn what_looks_wrong_is_logged_at_a_reload_too() {
    let server = setup(&one_token(OLD)).start();
    let soon = "tokens: [{token: new-token-0123456789, actor: {id: a}, expires: 2020-01-01T00:00:00Z}]\n";
    assert!(lines(&server, "WARN", "expire").is_empty());
    reloaded(&server, || write(&server, &whole(soon)));
    until(&server, "warning", || !lines(&server, "WARN", "expire").is_empty());
    assert_eq!(metric(&server, "configured_tokens"), 1.0);
}

/// A configuration with keys, an admin listener and two users with plain passwords.
fn with_keys(folder: &Path, keys: &str, rest: &str) -> String {
    let store = folder.join("keys.db");
    whole(&format!(
        "keys: {{store: \"sqlite:{}\"{keys}}}
admin: {{listen: \"127.0.0.1:0\"}}
credentials: [bearer, basic, session]
tokens: [{{token: {OLD}, actor: {{id: root, role: Admin}}}}]
{rest}",
        store.display()
    ))
}

const USERS: &str = "users:
- {username: ann, password: password-of-ann, actor: {id: ann, role: Admin}}
- {username: bob, password: password-of-bob}
";

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap().to_owned()
}

fn post(server: &Server, path: &str, body: Value) -> Answer {
    let request = Request::new(server.admin(), "POST", path).header("connection", "close").bearer(OLD);
    request.header("content-type", "application/json").body(body.to_string().into_bytes()).send()
}

#[track_caller]
fn new_key(server: &Server, name: &str) -> String {
    let answer = post(server, "/api/auth/keys", json!({ "name": name, "role": "Viewer" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["key"].as_str().unwrap().to_owned()
}

/// Logs in; the answer is the `cookie` header of that session.
#[track_caller]
fn log_in(server: &Server, user: &str, password: &str) -> String {
    let request = Request::new(server.admin(), "POST", "/login").header("connection", "close");
    let body = json!({ "user": user, "password": password }).to_string().into_bytes();
    let answer = request.header("content-type", "application/json").body(body).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    // The second one is that of Checks.
    answer.all("set-cookie")[1].split(';').next().unwrap().to_owned()
}

#[test]
fn keys_are_made_by_the_settings_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let server = setup(&with_keys(folder.path(), "", "")).start();
    let first = new_key(&server, "first");
    assert!(first.starts_with("eat_"));
    let settings = ", prefix: acme, max_seconds_to_live: 60, max: 2, actor_members: [team]";
    reloaded(&server, || write(&server, &with_keys(folder.path(), settings, "")));
    let ask = |body| post(&server, "/api/auth/keys", body);
    let answer = ask(json!({ "name": "second", "role": "Viewer" }));
    assert_eq!(
        (answer.status, message(&answer)),
        (400, "Number of seconds before expiration should be set".to_owned())
    );
    let answer =
        ask(json!({ "name": "second", "role": "Viewer", "secondsToLive": 60, "actor": { "team": "x" } }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let second = answer.json()["key"].as_str().unwrap().to_owned();
    assert!(second.starts_with("acme_"));
    let answer = ask(json!({ "name": "third", "role": "Viewer", "secondsToLive": 60 }));
    assert_eq!((answer.status, message(&answer)), (403, "api_key Quota reached".to_owned()));
    assert!(passes(&server, &first) && passes(&server, &second));
    // A name of an actor that the configuration has now.
    let named =
        "policies: {}\nusers: [{username: carl, password: password-of-carl, actor: {id: the-carl}}]\n";
    reloaded(&server, || write(&server, &with_keys(folder.path(), "", named)));
    assert_eq!(ask(json!({ "name": "the-carl", "role": "Viewer" })).status, 409);
}

#[test]
fn changed_actor_headers_apply_to_every_known_actor() {
    let folder = tempfile::tempdir().unwrap();
    let server = setup(&with_keys(folder.path(), "", USERS)).start();
    let key = format!("Bearer {}", new_key(&server, "k"));
    let cookie = log_in(&server, "ann", "password-of-ann");
    let token = format!("Bearer {OLD}");
    let callers =
        [("authorization", &*key, "key:k"), ("cookie", &*cookie, "ann"), ("authorization", &*token, "root")];
    for (name, value, id) in callers {
        let answer = check_with(&server, &[(name, value)]);
        assert_eq!(header(&answer, "x-actor-id").as_deref(), Some(id));
    }
    for (headers, there, gone) in
        [("{x-who: id}", "x-who", "x-actor-id"), ("{x-actor-id: id}", "x-actor-id", "x-who")]
    {
        let rest = format!("{USERS}actor_headers: {headers}\n");
        reloaded(&server, || write(&server, &with_keys(folder.path(), "", &rest)));
        for (name, value, id) in callers {
            let answer = check_with(&server, &[(name, value)]);
            assert_eq!(header(&answer, there).as_deref(), Some(id), "{headers}");
            assert_eq!(header(&answer, gone), None, "{headers} {id}");
        }
    }
}

#[test]
fn a_session_lives_and_dies_with_its_user() {
    let folder = tempfile::tempdir().unwrap();
    let server = setup(&with_keys(folder.path(), "", USERS)).start();
    let ann = log_in(&server, "ann", "password-of-ann");
    let bob = log_in(&server, "bob", "password-of-bob");
    let who = |cookie: &str| {
        let answer = check_with(&server, &[("cookie", cookie)]);
        if grpc::code(&answer) == 0 { header(&answer, "x-actor-id") } else { None }
    };
    assert_eq!((who(&ann).as_deref(), who(&bob).as_deref()), (Some("ann"), Some("bob")));
    // Another actor and nothing else: the session is the same, and its user is who they are now.
    let users = USERS.replace("actor: {id: ann,", "actor: {id: annabel,");
    reloaded(&server, || write(&server, &with_keys(folder.path(), "", &users)));
    assert_eq!((who(&ann).as_deref(), who(&bob).as_deref()), (Some("annabel"), Some("bob")));
    let users = USERS
        .replace("password-of-ann", "another-password")
        .replace("- {username: bob, password: password-of-bob}\n", "");
    reloaded(&server, || write(&server, &with_keys(folder.path(), "", &users)));
    assert_eq!((who(&ann), who(&bob)), (None, None));
}

#[test]
fn sessions_live_on_when_the_file_says_no_more_of_the_listener_that_made_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_keys(folder.path(), "", USERS);
    let admin = "admin: {listen: \"127.0.0.1:0\"}\n";
    let public = "admin: {listen: \"127.0.0.1:0\", public_url: \"https://keys.example\"}\n";
    assert!(config.contains(admin));
    let server = setup(&config.replace(admin, public)).start();
    let cookie = log_in(&server, "ann", "password-of-ann");
    assert!(cookie.starts_with("__Host-"), "{cookie}");
    let who = || header(&check_with(&server, &[("cookie", &cookie)]), "x-actor-id");
    assert_eq!(who().as_deref(), Some("ann"));
    reloaded(&server, || write(&server, &config.replace(admin, "")));
    assert_eq!(who().as_deref(), Some("ann"));
}

#[test]
fn remembered_passwords_and_locks_outlive_a_reload_that_does_not_change_the_user() {
    let server = setup(&whole(USERS)).start();
    let basic = |user: &str, password: &str| {
        let authorization = http1::basic(user, password);
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let answer = check_with(&server, &[("authorization", &authorization)]);
            // Not verified in time: Envoy's client comes again.
            if grpc::code(&answer) != 14 {
                return grpc::code(&answer) == 0;
            }
            assert!(Instant::now() < deadline, "{}", server.log().text());
        }
    };
    assert!(basic("ann", "password-of-ann"));
    for guess in 0..5 {
        assert!(!basic("ann", &format!("guess-{guess}")));
        assert!(!basic("bob", &format!("guess-{guess}")));
    }
    // Both names are locked now, so that only what is remembered passes.
    assert!(basic("ann", "password-of-ann") && !basic("bob", "password-of-bob"));
    reloaded(&server, || write(&server, &whole(&format!("{USERS}realm: other\n"))));
    assert!(basic("ann", "password-of-ann"), "forgotten");
    assert!(!basic("bob", "password-of-bob"), "unlocked");
    // Another password: the old one is wrong, and while the name is locked the new one counts for nothing.
    let users = USERS.replace("password-of-ann", "another-password");
    reloaded(&server, || write(&server, &whole(&users)));
    assert!(!basic("ann", "password-of-ann") && !basic("ann", "another-password"));
    // The first one again is not remembered from before.
    reloaded(&server, || write(&server, &whole(USERS)));
    assert!(!basic("ann", "password-of-ann"));
}

const MANY: usize = 100_000;

/// Many tokens whose actors and whose policy are of one generation: an actor of one passes under the policy of no
/// other.
fn generation(number: u64) -> String {
    let tokens = (0..MANY).map(|token| {
        format!("{{\"token\": \"many-tokens-{token:06}-abcdef\", \"actor\": {{\"id\": \"at-{number}\"}}}}")
    });
    let tokens = tokens.collect::<Vec<_>>().join(",\n");
    format!(
        "{{\"ext_authz\": {{\"listen\": \"127.0.0.1:0\"}}, \"probes\": {{\"listen\": \"127.0.0.1:0\"}},
\"default\": {{\"allow\": {{\"id\": \"at-{number}\"}}}},
\"tokens\": [\n{tokens}\n]}}"
    )
}

#[test]
fn a_hundred_thousand_tokens_are_reloaded_under_load_and_every_check_sees_one_set_of_rules() {
    const LAST: u64 = 5;
    let server = setup(&generation(1)).arg("--log-decisions=none").start();
    let stop = AtomicBool::new(false);
    let newest = AtomicU64::new(1);
    let reloading = AtomicBool::new(false);
    let times: Mutex<[Vec<Duration>; 2]> = Mutex::default();
    let client = |number: usize| {
        grpc::block_on(async {
            let channel = grpc::channel(server.listen_address()).await.expect("a connection");
            let mut client = AuthorizationClient::new(channel);
            let mut seen = 0;
            for turn in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                let bearer = format!("Bearer many-tokens-{:06}-abcdef", (turn * 97 + number * 31) % MANY);
                let request = grpc::request("GET", "app.example", "/", &[("authorization", &bearer)]);
                let confirmed = newest.load(Ordering::SeqCst);
                let begun = Instant::now();
                let during = reloading.load(Ordering::Relaxed);
                let answer = client.check(request).await.expect("no Check fails").into_inner();
                let elapsed = begun.elapsed();
                times.lock().unwrap()[usize::from(during)].push(elapsed);
                let id = header(&answer, "x-actor-id").expect("every token has an id");
                let at: u64 = id.strip_prefix("at-").expect("a generation").parse().unwrap();
                assert!(at >= confirmed && at >= seen && at <= LAST, "{at} after {confirmed} and {seen}");
                seen = at;
            }
        });
    };
    std::thread::scope(|scope| {
        // Whatever fails here, the clients must end.
        let _stop = StopAtTheEnd(&stop);
        for number in 0..4 {
            scope.spawn(move || client(number));
        }
        let answered = |during: bool| times.lock().unwrap()[usize::from(during)].len();
        until(&server, "busy", || answered(false) >= 2_000);
        for number in 2..=LAST {
            let text = generation(number);
            reloading.store(true, Ordering::Relaxed);
            let before = answered(true);
            reloaded(&server, || rename_into(server.folder(), "config.yaml", &text));
            newest.store(number, Ordering::SeqCst);
            until(&server, "answering during the reload", || answered(true) > before);
            reloading.store(false, Ordering::Relaxed);
        }
        let after = answered(false);
        until(&server, "busy again", || answered(false) >= after + 500);
    });
    assert_eq!((reloads(&server), refused_reloads(&server)), (LAST - 1, 0));
    for line in lines(&server, "INFO", "the configuration was reloaded") {
        println!("{} tokens in {} ms", line["tokens"], line["milliseconds"]);
    }
    let mut times = times.into_inner().unwrap();
    for (when, times) in ["without a reload", "during reloads"].iter().zip(&mut times) {
        times.sort_unstable();
        let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
        println!(
            "{when}: {} Checks, p50 {:?}, p99 {:?}, longest {:?}",
            times.len(),
            at(500),
            at(990),
            at(1000)
        );
    }
}

struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
