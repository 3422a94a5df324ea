//! The configuration of datasette-auth-tokens as it is, in front of a real Datasette.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::datasette::Datasette;
use crate::harness::server::{ListenAddress, Ran, run};
use crate::harness::{Envoy, Server, Shape, Upstream};

const BOT_TOKEN: &str = "this-is-the-bots-secret-token";

/// The seed's own configuration, as it is.
const SEED: &str = r#"{
    "plugins": {
        "datasette-auth-tokens": [
            {
                "token": {
                    "$env": "BOT_TOKEN"
                },
                "actor": {
                    "bot_id": "my-bot"
                }
            }
        ]
    }
}
"#;

const METADATA: &str =
    r#"{"databases": {"_memory": {"queries": {"show_version": {"sql": "select sqlite_version()"}}}}}"#;

/// The seed's file names no listeners: whoever runs it has the default ports for the while.
fn default_ports() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shell(line: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("BOT_TOKEN", BOT_TOKEN);
    run(command, "")
}

#[test]
fn the_seeds_curl_gets_the_sqlite_version_with_the_token_and_401_without() {
    assert!(shell("curl --version").status.success(), "this test needs curl: install it");
    let _ports = default_ports();
    let datasette = Datasette::start(METADATA);
    let server = Server::with(SEED).own_listeners().env("BOT_TOKEN", BOT_TOKEN).start();
    let default = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9191)));
    assert_eq!(*server.listen_address(), default, "the default");
    assert_eq!(server.probes(), SocketAddr::from(([127, 0, 0, 1], 9193)), "the default");
    let envoy = Envoy::start(&Shape::plain(), &server, &Upstream::at(datasette.address()));

    let url = format!("http://{}/:memory:/show_version.json?_shape=array", envoy.address());
    let version = shell("python3 -c 'import sqlite3; print(sqlite3.sqlite_version)'");
    let ran = shell(&format!("curl -L -H \"Authorization: Bearer $BOT_TOKEN\" '{url}'"));
    assert!(ran.status.success(), "{ran:?}");
    let rows: serde_json::Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!(rows, serde_json::json!([{ "sqlite_version()": version.stdout.trim() }]));

    let status = "curl -s -o /dev/null -w '%{http_code}' -L";
    assert_eq!(shell(&format!("{status} '{url}'")).stdout, "401");
    assert_eq!(shell(&format!("{status} -H 'Authorization: Bearer wrong' '{url}'")).stdout, "401");
    let ran = shell(&format!("curl -s -L '{url}'"));
    assert_eq!(ran.stdout, r#"{"error": "unauthorized", "message": "Unauthorized"}"#);
    envoy.assert_no_fault_of(&server);
}

#[test]
fn the_later_form_of_the_seed_reads_the_token_from_the_query_too() {
    let config = r#"{"title": "ours to ignore", "plugins": {"datasette-auth-tokens": {
        "tokens": [{"token": {"$env": "BOT_TOKEN"}, "actor": {"bot_id": "my-bot"}}],
        "param": "_auth_token"
    }}}"#;
    let _ports = default_ports();
    let server = Server::with(config).own_listeners().env("BOT_TOKEN", BOT_TOKEN).start();
    let upstream = Upstream::start();
    let envoy = Envoy::start(&Shape::plain(), &server, &upstream);
    let get = |target: &str| crate::harness::Request::new(envoy.address(), "GET", target);
    let seen = get(&format!("/x?_auth_token={BOT_TOKEN}&a=1")).send().seen();
    assert_eq!(seen.all("x-actor"), [r#"{"bot_id":"my-bot"}"#]);
    assert_eq!(seen.path, "/x?a=1");
    assert_eq!(get("/x").bearer(BOT_TOKEN).send().status, 200);
    assert_eq!(get("/x?_auth_token=wrong").send().status, 401);
    assert_eq!(get("/x").send().status, 401);
}

#[test]
fn an_allow_block_in_the_seeds_file_is_not_ignored() {
    let config = r#"{"databases": {"_memory": {"allow": {"bot_id": "my-bot"}}}, "plugins": {"datasette-auth-tokens": [
        {"token": {"$env": "BOT_TOKEN"}, "actor": {"bot_id": "my-bot"}}
    ]}}"#;
    let ran = Server::with(config).own_listeners().env("BOT_TOKEN", BOT_TOKEN).start_in_vain();
    assert!(ran.code().is_some_and(|code| code != 0), "{ran:?}");
    assert!(ran.stderr.contains("import datasette"), "{}", ran.stderr);
}
