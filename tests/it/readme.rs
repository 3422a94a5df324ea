//! The configurations and commands of README and of the quick starts, run as they stand there: only ports and paths are
//! others.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::documents::{self, Block};
use crate::harness::envoy::Program;
use crate::harness::server::{Ran, run};
use crate::harness::{Envoy, Server, Shape, Upstream, grpc, tools};

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
    let blocks = documents::document("docs/quick-start-host.md").blocks_below("Quick start: one host");
    let parts: Vec<_> = blocks.iter().map(Block::parts).collect();
    let [("yaml", config), ("sh", serve), ("console", curl), ("yaml", _filter)] = parts[..] else {
        panic!("{blocks:#?}")
    };
    let server = Server::with(&elsewhere(config)).start_by(serve);
    assert!(passes(&server, &exported(serve, "BOT_TOKEN")));
    assert!(!passes(&server, "another-token"));

    let application = Application::start("deploy/demo/upstream.py");
    let setup = Server::with(config).env("BOT_TOKEN", &exported(serve, "BOT_TOKEN"));
    let upstream = format!("127.0.0.1:{}", application.port);
    let arguments =
        ["envoy", "--address", &server.tcp().to_string(), "--listen", "127.0.0.1:0", "--upstream", &upstream];
    let printed = setup.run(arguments);
    assert_eq!(printed.code(), Some(0), "{printed:?}");
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
    let envoy = Envoy::configured(&format!("{admin}{}", printed.stdout));
    let here = |line: &str| {
        line.replace("127.0.0.1:10000", &envoy.address().to_string()).replace("curl ", "curl --silent ")
    };
    play(curl, here, &[]);
    envoy.assert_no_fault_of(&server);
}

#[test]
fn the_lines_about_api_keys_run_and_so_does_a_script_for_grafana() {
    let blocks = documents::document("docs/api-keys.md").blocks_below("API keys");
    let scripts = documents::document("docs/grafana.md").blocks_below("Coming from Grafana");
    let parts: Vec<_> = blocks.iter().chain(&scripts).map(Block::parts).collect();
    let [("yaml", config), ("sh", serve), ("sh", curl), ("sh", grafana)] = parts[..] else {
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

/// Plays a transcript: each command prints what stands below it.
#[track_caller]
pub fn play(transcript: &str, adapt: impl Fn(&str) -> String, environment: &[(&str, &str)]) {
    let transcript = format!("\n{transcript}");
    assert!(transcript.starts_with("\n$ "), "{transcript}");
    for step in transcript.split("\n$ ").skip(1) {
        let (line, printed) = step.split_once('\n').unwrap_or((step, ""));
        let ran = terminal(&adapt(line), environment);
        assert_eq!(ran.stdout.trim_end(), printed.trim_end(), "$ {line}\n{ran:?}");
    }
}

#[test]
fn the_quick_start_of_the_readme_ends_with_what_it_shows() {
    let blocks = documents::document("README.md").blocks_below("Quick start in 60 seconds");
    let parts: Vec<_> = blocks.iter().map(Block::parts).collect();
    let [("yaml", config), ("sh", serve), ("sh", envoy), ("sh", application), ("console", curl)] = parts[..]
    else {
        panic!("a block that is not run here: {blocks:#?}")
    };
    assert!(config.lines().count() <= 6, "{config}");

    // The application, on a port of its own.
    let (python, port) = application.rsplit_once(' ').unwrap();
    let file = python.strip_prefix("python3 ").unwrap();
    let application = Application::start(file);
    assert_eq!(port, "8080", "the port that `envoy` prints");

    let server = Server::with(config).start_by(serve);
    let (print, start) = envoy.split_once('\n').unwrap();
    assert_eq!(start, "envoy -c envoy.yaml");
    // The second terminal: only the addresses are others than those that it would print.
    let printed = print.replace(" > envoy.yaml", &format!(" --address {} > envoy.yaml", server.tcp()));
    let folder = server.folder().to_str().unwrap();
    let binaries = std::path::Path::new(crate::harness::server::BINARY).parent().unwrap().display();
    let ran = terminal(&format!("cd {folder}; PATH={binaries}:$PATH; {printed}"), &[]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let text = std::fs::read_to_string(server.folder().join("envoy.yaml")).unwrap();
    let envoy = Envoy::configured(&moved(&text, application.port));

    let here = |line: &str| {
        let line = line.replace("127.0.0.1:10000", &envoy.address().to_string());
        format!("cd {folder}; {}", line.replace("curl ", "curl --silent "))
    };
    play(curl, here, &[]);
    envoy.assert_no_fault_of(&server);
}

/// The printed configuration on a port of its own, before the application on that port.
fn moved(config: &str, application: u16) -> String {
    for port in ["port_value: 10000", "port_value: 8080"] {
        assert_eq!(config.matches(port).count(), 1, "{port} in {config}");
    }
    let config = config.replace("port_value: 10000", "port_value: 0");
    let config = config.replace("port_value: 8080", &format!("port_value: {application}"));
    format!("admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\n{config}")
}

#[test]
fn the_quick_start_inside_envoy_ends_with_what_it_shows() {
    let blocks =
        documents::document("docs/quick-start-inside-envoy.md").blocks_below("Quick start: inside Envoy");
    let parts: Vec<_> = blocks.iter().map(Block::parts).collect();
    let [("yaml", config), ("sh", start), ("sh", application), ("console", curl)] = parts[..] else {
        panic!("a block that is not run here: {blocks:#?}")
    };
    let (print, start) = start.split_once("\nexport ").unwrap();
    assert_eq!(start, "ENVOY_AUTH_TOKENS_FOLDER=$PWD\nenvoy -c envoy.yaml");
    assert_eq!(application, "python3 deploy/demo/upstream.py 8080");
    let application = Application::start("deploy/demo/upstream.py");

    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libenvoy_auth_tokens.so");
    std::os::unix::fs::symlink(tools::module(), library).unwrap();
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let binaries = std::path::Path::new(crate::harness::server::BINARY).parent().unwrap().display();
    let folder = folder.path().to_str().unwrap();
    let ran = terminal(&format!("cd {folder}; PATH={binaries}:$PATH; {print}"), &[]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");

    let text = std::fs::read_to_string(format!("{folder}/envoy.yaml")).unwrap();
    let environment = vec![("ENVOY_AUTH_TOKENS_FOLDER".to_owned(), folder.to_owned())];
    let program = Program { environment, ..Program::default() };
    let envoy = Envoy::running(&moved(&text, application.port), &program);
    let here = |line: &str| {
        let line = line.replace("127.0.0.1:10000", &envoy.address().to_string());
        format!("cd {folder}; {}", line.replace("curl ", "curl --silent "))
    };
    play(curl, here, &[]);
}

/// The application of the demo.
struct Application {
    child: std::process::Child,
    port: u16,
}

impl Application {
    fn start(file: &str) -> Self {
        use std::io::BufRead;
        let mut command = Command::new("python3");
        command.arg(tools::root().join(file)).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}")) }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn the_readme_has_at_most_150_lines() {
    let lines = documents::document("README.md").text.lines().count();
    assert!(lines <= 150, "{lines} lines: README is for ten minutes, docs/ for the rest");
}
