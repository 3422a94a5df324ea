//! Kubernetes resources of `deploy/`, and what the published schemas of their kinds say of them.

use std::process::Command;

use serde_json::{Value, json};

use super::envoy::Envoy;
use super::server::{ListenAddress, Server, Setup, run};
use super::tools;

/// One document of a file.
#[derive(Clone)]
pub struct Resource {
    /// Its file and its number in there.
    pub name: String,
    pub document: Value,
}

/// A file of the project, as it stands.
#[track_caller]
pub fn text(path: &str) -> String {
    std::fs::read_to_string(tools::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Exactly one place of a text, replaced.
#[track_caller]
pub fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "once: {from:?}");
    text.replace(from, to)
}

/// The documents of a YAML file.
#[track_caller]
pub fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Asserts that a folder holds these files and no others, so that none goes unread.
#[track_caller]
pub fn assert_all_files(folder: &str, files: &[&str]) {
    let entries = std::fs::read_dir(tools::root().join(folder)).unwrap_or_else(|error| panic!("{error}"));
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut files = files.to_vec();
    found.sort_unstable();
    files.sort_unstable();
    assert_eq!(found, files, "{folder}");
}

/// The resources of these files of a folder.
#[track_caller]
pub fn resources(folder: &str, files: &[&str]) -> Vec<Resource> {
    let all = files.iter().flat_map(|file| {
        let documents = documents(&format!("{folder}/{file}")).into_iter();
        documents
            .enumerate()
            .map(move |(number, document)| Resource { name: format!("{file}#{}", number + 1), document })
    });
    all.collect()
}

/// The resource of this kind and name.
#[track_caller]
pub fn find<'a>(resources: &'a [Resource], kind: &str, name: &str) -> &'a Value {
    let is_it = |document: &Value| document["kind"] == kind && document["metadata"]["name"] == name;
    let found = resources.iter().map(|resource| &resource.document).find(|document| is_it(document));
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// What the schemas find wrong, one line each that begins with a resource's name and a blank.
pub fn wrong(resources: &[Resource]) -> Vec<String> {
    let folder = tempfile::TempDir::new().expect("a fresh folder");
    let file = folder.path().join("documents.json");
    let documents =
        resources.iter().map(|Resource { name, document }| json!({ "name": name, "document": document }));
    std::fs::write(&file, Value::from_iter(documents).to_string()).expect("a file in a fresh folder");
    let mut command = Command::new("node");
    command.arg(tools::root().join("tests/tools/crds.mjs")).arg(tools::mesh_schemas()).arg(file);
    let ran = run(command, "");
    assert!(ran.stderr.is_empty() && ran.code() == Some(i32::from(!ran.stdout.is_empty())), "{ran:?}");
    ran.stdout.lines().map(str::to_owned).collect()
}

/// The same resources, spoiled in every way: an unknown field in each object, and another type for each
/// scalar.  Where names are the user's to choose, nothing can be unknown.
pub fn spoiled(resources: &[Resource]) -> Vec<Resource> {
    let mut all = Vec::new();
    for Resource { name, document } in resources {
        for pointer in places(document, String::new()) {
            let mut document = document.clone();
            let place = document.pointer_mut(&pointer).expect("a place of this document");
            match place {
                Value::Object(members) => {
                    members.insert("unheardOf".to_owned(), json!(true));
                }
                scalar => *scalar = json!([[]]),
            }
            all.push(Resource { name: format!("{name}:{pointer}"), document });
        }
    }
    all
}

/// Asserts that the schemas find each of [`spoiled`], so that a sound file means something.
#[track_caller]
pub fn assert_the_schemas_bite(resources: &[Resource]) {
    let spoiled = spoiled(resources);
    let found = wrong(&spoiled);
    let is_found = |name: &str| found.iter().any(|line| line.split(' ').next() == Some(name));
    let missed: Vec<_> =
        spoiled.iter().map(|resource| &resource.name).filter(|name| !is_found(name)).collect();
    assert!(missed.is_empty() && spoiled.len() > resources.len(), "not found: {missed:#?}");
}

fn places(value: &Value, at: String) -> Vec<String> {
    const FREE: [&str; 7] =
        ["/labels", "/matchLabels", "/annotations", "/requests", "/limits", "/value", "/data"];
    match value {
        Value::Object(members)
            if FREE.iter().any(|end| at.ends_with(end)) || members.keys().any(|name| name.contains('/')) =>
        {
            Vec::new()
        }
        Value::Object(members) => {
            let inner = members.iter().flat_map(|(name, value)| places(value, format!("{at}/{name}")));
            std::iter::once(at.clone()).chain(inner).collect()
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.flat_map(|(index, item)| places(item, format!("{at}/{index}"))).collect()
        }
        _ => vec![at],
    }
}

/// The token of `BOT_TOKEN` in the configurations of `deploy/`, a Viewer's.
pub const BOT: &str = "this-is-the-secret-token";
/// The token of the file `ci-token` there, an Admin's.
pub const CI: &str = "ci-token-0123456789abc";

/// `config.yaml` of a folder of `deploy/`, with its secrets.
pub fn deployed(config: &str) -> Setup {
    let setup = Server::with(config).own_listeners();
    setup.env("BOT_TOKEN", BOT).file("ci-token", &format!("{CI}\n"))
}

/// What `check --strict` says of it: nothing to complain of.
#[track_caller]
pub fn assert_strictly_good(setup: &Setup) {
    let ran = setup.run(["check", "--strict"]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
}

/// An Envoy configuration of `tests/fixtures`.
#[track_caller]
pub fn fixture(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Every cluster whose name begins so is at this address.
#[track_caller]
pub fn lead(fixture: &mut Value, clusters: &str, listen_address: &ListenAddress) {
    let address = match listen_address {
        ListenAddress::Tcp(at) => {
            json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
        }
        ListenAddress::Unix(path) => json!({ "pipe": { "path": path } }),
        ListenAddress::Abstract(name) => json!({ "pipe": { "path": format!("@{name}") } }),
    };
    let all = fixture["static_resources"]["clusters"].as_array_mut().expect("clusters");
    let mut led = 0;
    for cluster in all.iter_mut().filter(|each| each["name"].as_str().unwrap().starts_with(clusters)) {
        let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        endpoint["address"] = address.clone();
        led += 1;
    }
    assert_ne!(led, 0, "no cluster begins with {clusters:?}");
}

/// The Envoy of a fixture, to which nothing else is added but an admin listener.
pub fn envoy(mut fixture: Value) -> Envoy {
    fixture["admin"] =
        json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } });
    Envoy::configured(&fixture.to_string())
}
