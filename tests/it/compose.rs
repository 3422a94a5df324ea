//! `deploy/compose.yaml`: Docker's own Compose reads it, and what it would start works together.
//!
//! There is no container here.  The configurations that are mounted run in our server and a real Envoy; what names
//! a place inside a container or a host of its networks is replaced, and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::documents::{self, Block};
use crate::harness::envoy::Envoy;
use crate::harness::http1::Request;
use crate::harness::postgres::{PASSWORD, Postgres};
use crate::harness::server::{Ran, Setup, run};
use crate::harness::{Server, Upstream, tools};

const FILE: &str = "deploy/compose.yaml";
const BOT: &str = "this-is-the-secret-token";
const ADMIN: &str = "correct-horse-battery-staple";
/// Where the images that we do not build keep to themselves.
const SERVER: &str = "envoy-auth-tokens";

/// `docker compose config` with nothing but these variables.
fn config(arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(tools::docker_compose());
    command.current_dir(tools::root()).env_clear().env("HOME", "/nonexistent");
    command.envs(environment.iter().copied()).args(arguments);
    run(command, "")
}

/// The file as Compose understands it.
struct Resolved {
    file: Value,
    /// Holds the file with the administrator's password.
    folder: tempfile::TempDir,
}

impl Resolved {
    /// Keys in SQLite, as nobody has to ask for.
    fn with_sqlite() -> Self {
        Self::of(&["--file", FILE], &[])
    }

    /// Keys in PostgreSQL, whose password is this.
    fn with_postgresql(password: &str) -> Self {
        let env_file = "deploy/compose/postgres.env";
        Self::of(&["--file", FILE, "--env-file", env_file], &[("POSTGRES_PASSWORD", password)])
    }

    fn of(arguments: &[&str], more: &[(&str, &str)]) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let password = folder.path().join("admin-password");
        std::fs::write(&password, format!("{ADMIN}\n")).unwrap();
        let password = password.to_str().unwrap();
        let environment = [&[("BOT_TOKEN", BOT), ("ADMIN_PASSWORD_FILE", password)], more].concat();
        let ran = config(&[arguments, &["config", "--format", "json"]].concat(), &environment);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        Self { file: serde_json::from_str(&ran.stdout).unwrap(), folder }
    }

    fn services(&self) -> impl Iterator<Item = (&str, &Value)> {
        let services = self.file["services"].as_object().expect("services");
        services.iter().map(|(name, service)| (name.as_str(), service))
    }

    fn service(&self, name: &str) -> &Value {
        &self.file["services"][name]
    }

    /// The folder of this machine that a service sees at this path.
    #[track_caller]
    fn mounted(&self, service: &str, target: &str) -> PathBuf {
        let mounts = self.service(service)["volumes"].as_array().expect("volumes");
        let mount = mounts.iter().find(|mount| mount["target"] == target && mount["type"] == "bind");
        let mount = mount.unwrap_or_else(|| panic!("{service} has nothing at {target}: {mounts:?}"));
        assert_eq!(mount["read_only"], true, "{mount}");
        PathBuf::from(mount["source"].as_str().unwrap())
    }

    /// The volume that a service sees at this path.
    fn volume(&self, service: &str, target: &str) -> &Value {
        let mounts = self.service(service)["volumes"].as_array().expect("volumes");
        let mount = mounts.iter().find(|mount| mount["target"] == target && mount["type"] == "volume");
        &mount.unwrap_or_else(|| panic!("{service} has no volume at {target}: {mounts:?}"))["source"]
    }
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|text| text.as_str().expect("a text")).collect()
}

/// Replaces what must be there once.
#[track_caller]
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} stands once in:\n{text}");
    text.replace(from, to)
}

#[test]
fn docker_compose_takes_the_file_and_nothing_that_is_wrong() {
    Resolved::with_sqlite();
    // It would say so if a key were none of the specification's.
    let text = std::fs::read_to_string(tools::root().join(FILE)).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let broken = folder.path().join("compose.yaml");
    std::fs::write(&broken, replace(&text, "stop_grace_period: 20s", "stop_grace_periode: 20s")).unwrap();
    let known = [("BOT_TOKEN", BOT), ("ADMIN_PASSWORD_FILE", "/dev/null")];
    let ran = config(&["--file", broken.to_str().unwrap(), "config"], &known);
    assert_ne!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stderr.contains("stop_grace_periode"), "{ran:?}");
}

#[test]
fn a_secret_that_is_missing_stops_it_and_is_named() {
    let postgresql = ["--file", FILE, "--env-file", "deploy/compose/postgres.env", "config"];
    let cases: [(&[&str], _, _); 3] = [
        (&["--file", FILE, "config"], vec![("ADMIN_PASSWORD_FILE", "/dev/null")], "BOT_TOKEN"),
        (&["--file", FILE, "config"], vec![("BOT_TOKEN", BOT)], "ADMIN_PASSWORD_FILE"),
        (&postgresql, vec![("BOT_TOKEN", BOT), ("ADMIN_PASSWORD_FILE", "/dev/null")], "POSTGRES_PASSWORD"),
    ];
    for (arguments, environment, missing) in cases {
        let ran = config(arguments, &environment);
        assert_ne!(ran.code(), Some(0), "{missing}: {ran:?}");
        assert!(ran.stderr.contains(missing) && ran.stderr.contains("export the"), "{ran:?}");
    }
}

#[test]
fn every_service_has_no_more_than_it_needs() {
    let resolved = Resolved::with_postgresql("secret");
    let names: Vec<_> = resolved.services().map(|(name, _)| name).collect();
    assert_eq!(names, ["app", "envoy", SERVER, "postgres"]);
    for (name, service) in resolved.services() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        let (user, group) = service["user"].as_str().and_then(|user| user.split_once(':')).unwrap();
        assert!(user.parse::<u32>().unwrap() > 0 && group.parse::<u32>().unwrap() > 0, "{name}: {user}");
        let (_, tag) = service["image"].as_str().unwrap().split_once(':').expect("a pinned image");
        assert!(tag.contains(|char: char| char.is_ascii_digit()), "{name}: {tag}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name} is this machine's alone");
        }
    }
    assert_eq!(resolved.service(SERVER)["image"], concat!("envoy-auth-tokens:", env!("CARGO_PKG_VERSION")));
    // It is built where it is not there: no registry has it.
    let build = &resolved.service(SERVER)["build"];
    let context = Path::new(build["context"].as_str().unwrap());
    assert_eq!(context.canonicalize().unwrap(), tools::root().canonicalize().unwrap());
    assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file(), "{build}");
    for (name, service) in resolved.services().filter(|(name, _)| *name != SERVER) {
        assert!(service["build"].is_null(), "{name}");
    }
    // Envoy may use the socket of another user because of its group.
    let group =
        |service: &str| resolved.service(service)["user"].as_str().unwrap().split_once(':').unwrap().1;
    assert_eq!(group("envoy"), group(SERVER));
    let sockets = "/run/envoy-auth-tokens";
    assert_eq!(resolved.volume("envoy", sockets), resolved.volume(SERVER, sockets));

    // Nobody but its store shares a network with the server.
    let networks = |service: &str| {
        let networks = resolved.service(service)["networks"].as_object().unwrap();
        networks.keys().map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!((networks("envoy"), networks("app")), (vec!["edge"], vec!["edge"]));
    assert_eq!((networks(SERVER), networks("postgres")), (vec!["keys"], vec!["keys"]));

    let awaited = &resolved.service("envoy")["depends_on"][SERVER]["condition"];
    assert_eq!(awaited, "service_healthy");
    // PostgreSQL is there for those alone who ask for it, and then awaited.
    let sqlite = Resolved::with_sqlite();
    assert!(sqlite.services().all(|(name, _)| name != "postgres"));
    let awaited = &resolved.service(SERVER)["depends_on"]["postgres"];
    assert_eq!(*awaited, json!({"condition": "service_healthy", "required": false}));
}

/// What `services` starts, but for the containers around them.
struct Stack {
    resolved: Resolved,
    /// Stands for the volumes, and for /run/secrets.
    volumes: tempfile::TempDir,
    envoy: Envoy,
    server: Server,
    upstream: Upstream,
}

impl Stack {
    /// Starts it with this in the place of the store's host and database.
    fn start(resolved: Resolved, store: impl Fn(&str, &Path) -> String) -> Self {
        let volumes = tempfile::TempDir::new().unwrap();
        let server = Self::setup(&resolved, volumes.path(), &store).start();
        let upstream = Upstream::start();
        let envoy = Envoy::configured(&Self::envoy(&resolved, volumes.path(), &upstream));
        Self { resolved, volumes, envoy, server, upstream }
    }

    /// Our service: its configuration, its environment.
    fn setup(resolved: &Resolved, volumes: &Path, store: &dyn Fn(&str, &Path) -> String) -> Setup {
        // Where `serve` and `health` look when nobody tells them.
        let folder = resolved.mounted(SERVER, "/etc/envoy-auth-tokens");
        let text = std::fs::read_to_string(folder.join("config.yaml")).unwrap();
        let text = replace(&text, "/run/envoy-auth-tokens/", &format!("{}/", volumes.display()));
        let text = replace(&text, "listen: \"127.0.0.1:9193\"", "listen: \"127.0.0.1:0\"");
        let text = replace(&text, "listen: \"0.0.0.0:9192\"", "listen: \"127.0.0.1:0\"");
        let service = resolved.service(SERVER);
        let secret = &service["secrets"][0];
        let file = resolved.file["secrets"][secret["source"].as_str().unwrap()]["file"].as_str().unwrap();
        let text = replace(&text, secret["target"].as_str().unwrap(), file);

        let environment = service["environment"].as_object().expect("an environment");
        environment.iter().fold(Server::with(&text).own_listeners(), |setup, (name, value)| {
            let value = value.as_str().unwrap();
            match name.as_str() {
                "KEYS_STORE" => setup.env(name, &store(value, volumes)),
                _ => setup.env(name, value),
            }
        })
    }

    /// Envoy's configuration, as its command names it.
    fn envoy(resolved: &Resolved, volumes: &Path, upstream: &Upstream) -> String {
        let command = texts(&resolved.service("envoy")["command"]);
        let at = command.iter().position(|word| *word == "--config-path").unwrap();
        let folder = resolved.mounted("envoy", "/etc/envoy");
        let file =
            Path::new(command[at + 1]).strip_prefix("/etc/envoy").expect("a file in the mounted folder");
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let published = &resolved.service("envoy")["ports"][0]["target"];
        let listener = format!("address: \"0.0.0.0\", port_value: {published}");
        let text = replace(&text, &listener, "address: 127.0.0.1, port_value: 0");
        let app = texts(&resolved.service("app")["command"]);
        let port = app.iter().find_map(|word| word.strip_prefix("--port=")).unwrap();
        let there = format!("address: 127.0.0.1, port_value: {}", upstream.address().port());
        let text = replace(&text, &format!("address: \"app\", port_value: {port}"), &there);
        let text = replace(&text, "/run/envoy-auth-tokens/", &format!("{}/", volumes.display()));
        format!("admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\n{text}")
    }

    /// The service's health check.
    fn health(&self) -> Option<i32> {
        let test = texts(&self.resolved.service(SERVER)["healthcheck"]["test"]);
        assert_eq!(test[..2], ["CMD", "/usr/bin/envoy-auth-tokens"], "the program of the image");
        let setup = Self::setup(&self.resolved, self.volumes.path(), &|store, _| store.to_owned());
        setup.run(&test[2..]).code()
    }

    fn get(&self, path: &str) -> Request {
        Request::new(self.envoy.address(), "GET", path).host("app.example")
    }

    /// What docs/quick-start-compose.md promises of it.
    fn test(&mut self) {
        assert_eq!(self.health(), Some(0));
        let seen = self.get("/reports").bearer(BOT).send().seen();
        assert_eq!(seen.all("x-actor"), [r#"{"bot_id":"my-bot","role":"Viewer"}"#]);
        assert!(seen.all("authorization").is_empty(), "{seen:?}");
        assert_eq!(self.get("/reports").send().verdict(), (401, "unauthorized".to_owned()));
        assert_eq!(self.get("/reports").bearer("another-token").send().status, 401);
        assert_eq!(self.get("/admin").bearer(BOT).send().status, 403);
        assert_eq!(self.get("/public").send().status, 200);
        assert_eq!(self.upstream.calls(), 2);

        let key = Request::new(self.server.admin(), "POST", "/api/auth/keys").basic("admin", ADMIN);
        let key = key.header("content-type", "application/json").header("connection", "close");
        let key = key.body(json!({"name": "mykey", "role": "Admin"}).to_string().into_bytes()).send();
        assert_eq!(key.status, 200, "{}", key.text());
        let key = key.json()["key"].as_str().unwrap().to_owned();
        assert_eq!(self.get("/admin").bearer(&key).send().seen().all("x-actor-id"), ["key:mykey"]);

        self.envoy.assert_no_fault_of(&self.server);
    }
}

#[test]
fn they_work_together_with_keys_in_sqlite() {
    let mut stack = Stack::start(Resolved::with_sqlite(), |store, volumes| {
        replace(store, "/var/lib/envoy-auth-tokens", volumes.to_str().unwrap())
    });
    stack.test();
    assert!(stack.volumes.path().join("keys.db").is_file(), "the volume keeps the keys");

    // It has gone: the container is unhealthy, and nobody passes.
    stack.server.terminate();
    assert_eq!(stack.server.wait().code(), Some(0));
    assert_ne!(stack.health(), Some(0));
    assert_eq!(stack.get("/reports").bearer(BOT).send().status, 503);
}

#[test]
fn they_work_together_with_keys_in_postgresql() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let resolved = Resolved::with_postgresql(PASSWORD);
    let variables = resolved.service("postgres")["environment"].clone();
    assert_eq!(variables["POSTGRES_PASSWORD"], PASSWORD);
    let (user, name) =
        (variables["POSTGRES_USER"].as_str().unwrap(), variables["POSTGRES_DB"].as_str().unwrap());
    let address = postgres.address();
    let mut stack = Stack::start(resolved, |store, _| {
        let url = replace(store, &format!("@postgres:5432/{name}"), &format!("@{address}/{database}"));
        assert!(url.starts_with(&format!("postgres://{user}:")), "{url}");
        url
    });
    stack.test();
    assert_eq!(postgres.psql(&database, "SELECT name FROM api_keys"), "mykey");
}

#[test]
fn the_commands_of_the_documents_run() {
    let blocks = documents::document("docs/quick-start-compose.md").blocks_below("Quick start: Compose");
    let parts: Vec<_> = blocks.iter().map(Block::parts).collect();
    let [("sh", up), ("sh", with_postgresql)] = parts[..] else { panic!("{blocks:#?}") };
    let stack = Stack::start(Resolved::with_sqlite(), |store, volumes| {
        replace(store, "/var/lib/envoy-auth-tokens", volumes.to_str().unwrap())
    });
    // Without an engine nothing goes up: what would is read instead, and curl asks the Envoy that runs here.
    let script = format!("{up}\n{with_postgresql}");
    assert_eq!(script.matches(" up --detach --wait").count(), 2, "{script}");
    let script = script.replace(" up --detach --wait", " config --quiet");
    let script = script.replace("docker compose", tools::docker_compose().to_str().unwrap());
    let script = script.replace("127.0.0.1:10000", &stack.envoy.address().to_string());
    let folder = tempfile::TempDir::new().unwrap();
    std::os::unix::fs::symlink(tools::root().join("deploy"), folder.path().join("deploy")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-euc", &script]).current_dir(folder.path()).env("no_proxy", "127.0.0.1");
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stdout.contains("my-bot"), "{ran:?}");
    assert!(ran.stdout.contains(r#"{"error": "unauthorized", "message": "Unauthorized"}"#), "{ran:?}");
    let password = std::fs::read_to_string(folder.path().join("admin-password")).unwrap();
    assert_eq!(password.trim_end(), ADMIN);
}

#[test]
fn envoys_file_is_what_our_own_command_prints() {
    let resolved = Resolved::with_sqlite();
    let file = resolved.mounted("envoy", "/etc/envoy").join("envoy.yaml");
    let config = "deploy/compose/envoy-auth-tokens/config.yaml";
    // The password is a file of the container: for this it lies elsewhere, and the head names the original.
    let text = std::fs::read_to_string(tools::root().join(config)).unwrap();
    let password = resolved.folder.path().join("admin-password");
    let text = replace(&text, "/run/secrets/admin-password", password.to_str().unwrap());
    let setup =
        Server::with(&text).own_listeners().env("BOT_TOKEN", BOT).env("KEYS_STORE", "sqlite:/keys.db");
    let here = setup.folder().join("config.yaml");
    let ran = setup.run(["envoy", "--listen", "0.0.0.0:10000", "--upstream", "app:8080"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let printed = replace(&ran.stdout, here.to_str().unwrap(), config);
    let written = std::fs::read_to_string(&file).unwrap();
    let how = "envoy-auth-tokens envoy --listen 0.0.0.0:10000 --upstream app:8080";
    assert!(text.contains(how), "the head of {config} says how to print it anew");
    assert_eq!(written, printed, "print {} anew by `{how}`", file.display());
}
