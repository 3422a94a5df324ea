//! `deploy/recipes`: each one with a real Envoy and our server, started by the commands of its README.
//!
//! A recipe is a folder with an `envoy.yaml` and a `config.yaml`.  They are run as they stand: only ports
//! are others.  Each has a test module of its own, named in [`RECIPES`].

mod access_log;
mod canary;
mod domain;
mod grafana;
mod grpc;
mod jwt;
mod log_in;
mod radicale;
mod rate_limit;
mod rbac;
mod services;
mod websocket;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::harness::envoy::{self, Envoy};
use crate::harness::http1::Request;
use crate::harness::server::run;
use crate::harness::{Server, Upstream, tools};

pub use self::radicale::Radicale;

/// The recipes' own README.
static README: LazyLock<String> = LazyLock::new(|| read(&folder().join("README.md")));

/// Every recipe, with what its Envoy configuration says otherwise than `deploy/envoy.yaml`.
const RECIPES: [(&str, &[&str]); 12] = [
    ("access-log", &[]),
    ("canary", &["clusters/canary", "filters/envoy.filters.http.ext_authz/clear_route_cache"]),
    ("domain", &["clusters/admin"]),
    (
        "grafana",
        &[
            "clusters/app/load_assignment",
            "filters/envoy.filters.http.ext_authz/decoder_header_mutation_rules",
            "manager/early_header_mutation_extensions",
            "manager/upgrade_configs",
        ],
    ),
    (
        "grpc",
        &[
            "clusters/app/load_assignment",
            "clusters/app/typed_extension_protocol_options",
            "filters/envoy.filters.http.header_mutation",
        ],
    ),
    (
        "jwt",
        &[
            "clusters/idp",
            "filters/envoy.filters.http.ext_authz/filter_enabled_metadata",
            "filters/envoy.filters.http.jwt_authn",
            "filters/envoy.filters.http.rbac",
            "manager/early_header_mutation_extensions",
        ],
    ),
    ("log-in", &["clusters/admin"]),
    (
        "radicale",
        &[
            "clusters/app/load_assignment",
            "filters/envoy.filters.http.ext_authz/decoder_header_mutation_rules",
            "manager/early_header_mutation_extensions",
        ],
    ),
    ("rate-limit", &["filters/envoy.filters.http.local_ratelimit"]),
    ("rbac", &["filters/envoy.filters.http.rbac"]),
    ("services", &["clusters/reports"]),
    ("websocket", &[]),
];

/// Where the recipes are.
fn folder() -> PathBuf {
    tools::root().join("deploy/recipes")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of a secret that the README exports.
fn secret(name: &str) -> &'static str {
    let line = README.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
    line.unwrap_or_else(|| panic!("deploy/recipes/README.md exports no {name}"))
}

/// The fenced blocks of a language, in their order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fences = text.split("\n```").skip(1).step_by(2);
    fences.filter_map(|fence| fence.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// The README's text about a recipe.
fn section(name: &str) -> &'static str {
    let heading = format!("\n## `{name}`");
    let (_, section) = README.split_once(&heading).unwrap_or_else(|| panic!("the README has no{heading}"));
    section.split_once("\n## ").map_or(section, |(section, _)| section)
}

/// A recipe that is about to run.
struct Recipe {
    name: &'static str,
    envoy: String,
    config: String,
}

impl Recipe {
    fn named(name: &'static str) -> Self {
        let file = |file| read(&folder().join(name).join(file));
        Self { name, envoy: file("envoy.yaml"), config: file("config.yaml") }
    }

    /// Who stands behind this port of the recipe.
    #[track_caller]
    fn behind(self, port: u16, address: SocketAddr) -> Self {
        self.envoy(
            &format!("{{ address: 127.0.0.1, port_value: {port} }}"),
            &format!("{{ address: {}, port_value: {} }}", address.ip(), address.port()),
        )
    }

    /// Replaces what Envoy's file says once.
    #[track_caller]
    fn envoy(mut self, from: &str, to: &str) -> Self {
        assert_eq!(self.envoy.matches(from).count(), 1, "{}/envoy.yaml says {from:?} once", self.name);
        self.envoy = self.envoy.replace(from, to);
        self
    }

    /// Replaces what our file says once.
    #[track_caller]
    fn config(mut self, from: &str, to: &str) -> Self {
        assert_eq!(self.config.matches(from).count(), 1, "{}/config.yaml says {from:?} once", self.name);
        self.config = self.config.replace(from, to);
        self
    }

    /// Starts the server by the README's commands, and Envoy.
    #[track_caller]
    fn start(self) -> Running {
        let recipe = if self.envoy.contains("port_value: 9192") {
            self.config("admin:\n", "admin:\n  listen: 127.0.0.1:0\n")
        } else {
            self
        };
        let server = Server::with(&recipe.config).start_by(blocks(&README, "sh")[0]);
        let recipe = if recipe.envoy.contains("port_value: 9192") {
            recipe.behind(9192, server.admin())
        } else {
            recipe
        };
        let recipe = recipe.behind(9191, server.tcp()).envoy("port_value: 10000", "port_value: 0");
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let envoy = Envoy::configured(&format!("{admin}{}", recipe.envoy));
        Running { name: recipe.name, envoy, server, errors_expected: false }
    }

    /// The same with an upstream behind port 8080 that shows what reached it.
    #[track_caller]
    fn start_before(self, upstream: &Upstream) -> Running {
        self.behind(8080, upstream.address()).start()
    }
}

/// A recipe that runs.  When it goes, it holds that Envoy took every answer of ours.
struct Running {
    name: &'static str,
    envoy: Envoy,
    server: Server,
    errors_expected: bool,
}

impl Running {
    fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.envoy.address(), method, target).host("app.example")
    }

    /// Plays what the README shows of this recipe: each command prints what stands below it.
    #[track_caller]
    fn play(&self) {
        let prelude = blocks(&README, "sh").into_iter().find(|block| block.contains("status_as() {"));
        let prelude = prelude.expect("the README's shell functions");
        let exports = README.lines().filter(|line| line.starts_with("export "));
        let exports: String = exports.map(|line| format!("{line}\n")).collect();
        let address = self.envoy.address().to_string();
        let transcripts = blocks(section(self.name), "console");
        assert!(!transcripts.is_empty(), "the README shows nothing of {}", self.name);
        let steps = transcripts.iter().map(|transcript| format!("\n{transcript}")).collect::<String>();
        assert!(transcripts.iter().all(|transcript| transcript.starts_with("$ ")), "{transcripts:?}");
        for step in steps.split("\n$ ").skip(1) {
            let (line, printed) = step.split_once('\n').unwrap_or((step, ""));
            let script = format!("{exports}{prelude}\n{line}").replace("127.0.0.1:10000", &address);
            let mut command = Command::new("sh");
            command.args(["-euc", &script]).env_remove("http_proxy").env("no_proxy", "127.0.0.1");
            let ran = run(command, "");
            assert_eq!(ran.stdout.trim_end(), printed.trim_end(), "{}: $ {line}\n{ran:?}", self.name);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.errors_expected && !std::thread::panicking() {
            self.envoy.assert_no_fault_of(&self.server);
        }
    }
}

#[test]
fn every_recipe_has_a_test_and_a_section_in_the_readme() {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let found: BTreeSet<String> =
        entries.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let expected: BTreeSet<String> = RECIPES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let expected = &expected | &BTreeSet::from(["README.md".to_owned()]);
    assert_eq!(found, expected, "what stands in deploy/recipes has a module in tests/it/recipes");
    for (name, _) in RECIPES {
        assert!(!section(name).trim().is_empty(), "{name}");
        let module = format!("mod {};\n", name.replace('-', "_"));
        assert!(include_str!("recipes.rs").contains(&module), "{name} has no module of its own");
        let files = std::fs::read_dir(folder().join(name)).unwrap();
        for file in files.map(|file| file.unwrap().file_name().into_string().unwrap()) {
            let known = ["envoy.yaml", "config.yaml", "grafana.ini", "radicale.ini"].contains(&file.as_str());
            assert!(known, "{name}/{file} is run by no test");
        }
    }
}

#[test]
fn the_readme_starts_what_is_there() {
    let [serve, envoy, application, _functions] = blocks(&README, "sh")[..] else { panic!("other blocks") };
    assert!(serve.ends_with("\nenvoy-auth-tokens serve --config config.yaml"), "{serve}");
    assert_eq!(envoy, "envoy --config-path envoy.yaml");
    let words: Vec<_> = application.split(' ').collect();
    let ["python3", file, "8080"] = words[..] else { panic!("{application}") };
    for (name, _) in RECIPES {
        assert!(folder().join(name).join(file).exists(), "{name}/{file}");
    }
}

#[test]
fn envoy_and_check_accept_every_file() {
    for (name, _) in RECIPES {
        let folder = folder().join(name);
        envoy::validate(&folder.join("envoy.yaml")).unwrap_or_else(|expected| panic!("{name}: {expected}"));
        let exports = README.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let setup = exports.fold(Server::with(""), |setup, (name, value)| setup.env(name, value));
        let config = folder.join("config.yaml");
        let ran = setup.run(["check", "--strict", "--config", config.to_str().unwrap()]);
        assert_eq!(ran.code(), Some(0), "{name}: {ran:?}");
    }
}

/// An Envoy configuration by its parts: the connection manager's members, its filters, the clusters.
fn parts(text: &str) -> Value {
    let file: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let by_name = |list: &Value| -> Value {
        let list = list.as_array().expect("a list").iter();
        let one = |one: &Value| (one["name"].as_str().expect("a name").to_owned(), one.clone());
        list.map(one).collect::<serde_json::Map<_, _>>().into()
    };
    let resources = &file["static_resources"];
    let mut listener = resources["listeners"][0].clone();
    let chains = listener["filter_chains"].take();
    let mut manager = chains[0]["filters"][0]["typed_config"].clone();
    let mut filters = by_name(&manager["http_filters"].take());
    for filter in filters.as_object_mut().expect("filters").values_mut() {
        *filter = filter["typed_config"].take();
    }
    let members = manager.as_object_mut().expect("a mapping");
    // Routes and the access log are each file's own.
    for own in ["http_filters", "route_config", "access_log"] {
        members.remove(own);
    }
    json!({
        "listener": listener,
        "manager": manager,
        "filters": filters,
        "clusters": by_name(&resources["clusters"]),
    })
}

/// Where two configurations differ: as long a path as both know, of four names at most.
fn differences(ours: &Value, theirs: &Value, path: &[&str], found: &mut BTreeSet<String>) {
    if ours == theirs {
        return;
    }
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) if path.len() < 3 => {
            for name in ours.keys().chain(theirs.keys()) {
                let (ours, theirs) = (ours.get(name), theirs.get(name));
                let (ours, theirs) = (ours.unwrap_or(&Value::Null), theirs.unwrap_or(&Value::Null));
                differences(ours, theirs, &[path, &[name]].concat(), found);
            }
        }
        _ => {
            found.insert(path.join("/"));
        }
    }
}

#[test]
fn but_for_what_it_is_about_a_recipe_is_the_hardened_configuration() {
    let hardened = parts(&read(&tools::root().join("deploy/envoy.yaml")));
    for (name, own) in RECIPES {
        let mut found = BTreeSet::new();
        let recipe = parts(&read(&folder().join(name).join("envoy.yaml")));
        differences(&recipe, &hardened, &[], &mut found);
        let own: BTreeSet<_> = own.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(found, own, "{name}/envoy.yaml differs from deploy/envoy.yaml in these");
    }
}
