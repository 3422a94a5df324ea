//! The README's own configurations and commands, run as they stand there: only ports and paths are others.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::server::{Ran, run};
use crate::harness::{Envoy, Server, Shape, Upstream, grpc};

const README: &str = include_str!("../../README.md");

/// The fenced blocks under a heading, each with its language, up to the next heading of that level.
pub fn blocks(heading: &str) -> Vec<(&'static str, &'static str)> {
    let (_, section) = README.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (level, _) = heading.split_once(' ').unwrap();
    let section = section.split_once(&format!("\n{level} ")).map_or(section, |(section, _)| section);
    let fences = section.split("\n```").skip(1).step_by(2);
    fences.map(|fence| fence.split_once('\n').expect("a language and a text")).collect()
}

/// The configuration, less the ports and the place that only one server at a time can have.
fn elsewhere(config: &str) -> String {
    let config = config.replace("127.0.0.1:9192", "127.0.0.1:0");
    config.replace("sqlite:/var/lib/envoy-auth-tokens/keys.db", "sqlite:keys.db")
}

/// Runs a script as in a terminal in which this was exported.
fn terminal(script: &str, environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).envs(environment.iter().copied());
    command.env_remove("http_proxy").env("no_proxy", "127.0.0.1");
    run(command, "")
}

/// The JSON documents that a script printed one after the other.
fn documents(ran: &Ran) -> Vec<Value> {
    let documents = serde_json::Deserializer::from_str(&ran.stdout).into_iter();
    documents.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error} in {ran:?}"))
}

fn passes(server: &Server, token: &str) -> bool {
    let bearer = format!("Bearer {token}");
    grpc::code(&grpc::check(server, grpc::request("GET", "h", "/", &[("authorization", &bearer)]))) == 0
}

/// What a script gives this variable.
fn exported(script: &str, name: &str) -> String {
    let line = script.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
    line.unwrap_or_else(|| panic!("no {name} in {script}")).to_owned()
}

#[test]
fn the_shortest_configuration_runs() {
    let blocks = blocks("## The shortest configuration");
    let [("yaml", config), ("sh", serve), ("yaml", _filter)] = blocks[..] else { panic!("{blocks:#?}") };
    let server = Server::with(&elsewhere(config)).start_by(serve);
    assert!(passes(&server, &exported(serve, "BOT_TOKEN")));
    assert!(!passes(&server, "another-token"));
}

#[test]
fn the_lines_about_api_keys_run_and_so_does_a_script_for_grafana() {
    let blocks = blocks("## API keys");
    let [("yaml", config), ("sh", serve), ("sh", curl), ("sh", grafana)] = blocks[..] else {
        panic!("a block that is not run here: {blocks:#?}")
    };
    let server = Server::with(&elsewhere(config)).start_by(serve);
    let upstream = Upstream::start();
    let envoy = Envoy::start(&Shape::plain(), &server, &upstream);
    let password = exported(serve, "ADMIN_PASSWORD");
    let environment = [("ADMIN_PASSWORD", password.as_str())];
    let here = |script: &str| {
        assert!(script.contains("127.0.0.1:9192"), "{script}");
        let script = script.replace("127.0.0.1:9192", &server.admin().to_string());
        script.replace("127.0.0.1:10000", &envoy.address().to_string())
    };

    // One is created and shown this once, and the list has it.
    let ran = terminal(&here(curl), &environment);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let [created, list] = &documents(&ran)[..] else { panic!("{ran:?}") };
    let key = created["key"].as_str().unwrap_or_else(|| panic!("no key: {ran:?}"));
    assert!(key.starts_with("eat_") && passes(&server, key), "{created}");
    assert_eq!((&created["name"], list.as_array().map(Vec::len)), (&json!("mykey"), Some(1)), "{ran:?}");
    assert_eq!(
        (&list[0]["id"], &list[0]["name"], &list[0]["role"]),
        (&created["id"], &json!("mykey"), &json!("Viewer"))
    );
    assert!(list[0]["expiration"].is_string(), "{list}");

    // The script makes a key, uses it through Envoy, lists and deletes it.
    let script = format!("{}\necho \"\\\"$key\\\"\"", here(grafana));
    let ran = terminal(&script, &environment);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let [seen, list, deleted, key] = &documents(&ran)[..] else { panic!("{ran:?}") };
    assert!(seen.to_string().contains("/api/dashboards/home"), "{seen}");
    assert!(seen.to_string().contains("key:deploy-7"), "{seen}");
    let names: Vec<_> = list.as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["deploy-7", "mykey"]);
    assert_eq!(*deleted, json!({"message": "API key deleted"}));
    assert!(!passes(&server, key.as_str().unwrap()), "it is gone");
}
