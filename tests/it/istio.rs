//! `deploy/istio`: its resources against Istio's schemas, and a real Envoy with the filters that istiod makes of them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::envoy::Envoy;
use crate::harness::http1::Request;
use crate::harness::manifests::{self, BOT, CI, Resource, replace};
use crate::harness::server::ListenAddress;
use crate::harness::upstream::Seen;
use crate::harness::{Server, Upstream};

const FOLDER: &str = "deploy/istio";
const FIXTURE: &str = "tests/fixtures/istio/envoy.yaml";
const FILES: [&str; 5] =
    ["sidecar.yaml", "app.yaml", "authorization-policy.yaml", "strip-actor-headers.yaml", "shared.yaml"];

fn resources() -> Vec<Resource> {
    manifests::resources(FOLDER, &FILES)
}

/// The values for istiod's chart, held against the fields of istio/api 1.31, mesh/v1alpha1/config.proto, since
/// nobody publishes a schema of them: of what we use, all that there is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Values {
    mesh_config: MeshConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MeshConfig {
    extension_providers: Vec<Provider>,
    path_normalization: PathNormalization,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathNormalization {
    normalization: Normalization,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Normalization {
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    envoy_ext_authz_grpc: Grpc,
}

/// EnvoyExternalAuthorizationGrpcProvider, less `includeRequestBodyInCheck` and `clearRouteCache`, which stay out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Grpc {
    service: String,
    port: u16,
    timeout: String,
    fail_open: bool,
    /// A text in the API, also where it is a number.
    status_on_error: String,
}

impl Grpc {
    /// `[namespace/]host`.
    fn namespace_and_host(&self) -> (&str, &str) {
        self.service.split_once('/').expect("a namespace, so that no other service of this name is meant")
    }
}

fn mesh_config() -> MeshConfig {
    let text = manifests::text(&format!("{FOLDER}/mesh-config.yaml"));
    let values: Values = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}"));
    values.mesh_config
}

fn provider(name: &str) -> Grpc {
    let providers = mesh_config().extension_providers;
    let found = providers.into_iter().find(|provider| provider.name == name);
    found.unwrap_or_else(|| panic!("no provider {name}")).envoy_ext_authz_grpc
}

struct Mesh {
    envoy: Envoy,
    server: Server,
    upstream: Upstream,
}

/// The configuration of the folder, listening here.
fn config(listen: &str) -> String {
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    let config = replace(&config, "{listen: \"127.0.0.1:9191\"}", &format!("{{listen: \"{listen}\"}}"));
    format!("{config}probes: {{listen: \"127.0.0.1:0\"}}\n")
}

impl Mesh {
    fn start() -> Self {
        Self::of(&manifests::text(FIXTURE), "127.0.0.1:0")
    }

    /// This fixture, with us listening there.
    fn of(fixture: &str, listen: &str) -> Self {
        let mut fixture = manifests::fixture(fixture);
        let server = manifests::deployed(&config(listen)).start();
        let upstream = Upstream::start();
        manifests::lead(&mut fixture, "inbound|8080||", &ListenAddress::Tcp(upstream.address()));
        manifests::lead(&mut fixture, "outbound|9191||", server.listen_address());
        Self { envoy: manifests::envoy(fixture), server, upstream }
    }

    fn get(&self, target: &str) -> Request {
        Request::new(self.envoy.address(), "GET", target).host("shop.example")
    }

    /// After any test but that of a dead server.
    fn assert_no_fault(&self) {
        self.envoy.assert_no_fault_of(&self.server);
    }
}

const FORGED: [(&str, &str); 5] = [
    ("x-actor", r#"{"id":"root"}"#),
    ("X-Actor-Id", "root"),
    ("x-actor-role", "Admin"),
    ("X_Actor_Role", "Admin"),
    ("x.actor.name", "Root"),
];

#[test]
fn the_resources_are_valid() {
    manifests::assert_all_files(FOLDER, &[&FILES[..], &["config.yaml", "mesh-config.yaml"]].concat());
    let wrong = manifests::wrong(&resources());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_unknown_field_and_no_wrong_type_escapes_the_schemas() {
    manifests::assert_the_schemas_bite(&resources());
}

#[test]
fn the_files_speak_of_each_other_by_their_right_names() {
    let resources = resources();
    let (sidecar, shared) = (provider("envoy-auth-tokens"), provider("envoy-auth-tokens-shared"));

    let entry = manifests::find(&resources, "ServiceEntry", "envoy-auth-tokens");
    let (namespace, host) = sidecar.namespace_and_host();
    assert_eq!(entry["metadata"]["namespace"], namespace);
    assert_eq!(entry["spec"]["hosts"], json!([host]));
    assert_eq!(entry["spec"]["ports"][0]["number"], sidecar.port);

    let rule = manifests::find(&resources, "DestinationRule", "envoy-auth-tokens");
    let (namespace, host) = shared.namespace_and_host();
    assert_eq!(rule["metadata"]["namespace"], namespace);
    assert_eq!(rule["spec"]["host"], host);
    let ingress = &manifests::find(&resources, "Sidecar", "envoy-auth-tokens")["spec"]["ingress"][0];
    assert_eq!(ingress["port"]["number"], shared.port);
    let listen: Value = serde_saphyr::from_str(&manifests::text("deploy/istio/config.yaml")).unwrap();
    assert_eq!(ingress["defaultEndpoint"], listen["ext_authz"]["listen"]);

    let policy = manifests::find(&resources, "AuthorizationPolicy", "tokens");
    let extension = policy["spec"]["provider"]["name"].as_str().unwrap();
    assert!(!provider(extension).fail_open && !shared.fail_open);
    let labels = &manifests::find(&resources, "Deployment", "shop")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&policy["spec"]["selector"]["matchLabels"], labels);
    let filter = manifests::find(&resources, "EnvoyFilter", "strip-actor-headers");
    assert_eq!(&filter["spec"]["workloadSelector"]["labels"], labels);
}

#[test]
fn the_fixture_is_what_istiod_makes_of_the_files() {
    let fixture = manifests::fixture(&manifests::text(FIXTURE));
    let manager =
        &fixture["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let resources = resources();
    let policy = manifests::find(&resources, "AuthorizationPolicy", "tokens");
    let metadata = &policy["metadata"];
    let name = policy["spec"]["provider"]["name"].as_str().unwrap();
    let provider = provider(name);
    let (_, host) = provider.namespace_and_host();

    // The rule becomes one that only leaves its name.
    let rule = format!(
        "istio-ext-authz-{name}-ns[{}]-policy[{}]-rule[0]",
        metadata["namespace"].as_str().unwrap(),
        metadata["name"].as_str().unwrap()
    );
    let paths = policy["spec"]["rules"][0]["to"][0]["operation"]["notPaths"].as_array().unwrap();
    let exceptions: Vec<_> =
        paths.iter().map(|path| json!({ "url_path": { "path": { "exact": path } } })).collect();
    let shadow = &manager["http_filters"][0]["typed_config"]["shadow_rules"];
    assert_eq!(shadow["policies"].as_object().unwrap().len(), 1);
    assert_eq!(
        shadow["policies"][&rule]["permissions"],
        json!([{ "and_rules": { "rules": [{ "not_rule": { "or_rules": { "rules": exceptions } } }] } }])
    );

    // And the provider becomes the filter that goes by it.
    let cluster = format!("outbound|{}||{host}", provider.port);
    assert_eq!(
        manager["http_filters"][1]["typed_config"],
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {
                "timeout": provider.timeout,
                "envoy_grpc": { "cluster_name": cluster, "authority": host },
            },
            "status_on_error": { "code": provider.status_on_error.parse::<u16>().unwrap() },
            "filter_enabled_metadata": {
                "filter": "envoy.filters.http.rbac",
                "path": [{ "key": "istio_ext_authz_shadow_effective_policy_id" }],
                "value": { "string_match": { "prefix": format!("istio-ext-authz-{name}") } },
            },
        })
    );
    assert_eq!(fixture["static_resources"]["clusters"][1]["name"], cluster);

    let normalization = mesh_config().path_normalization.normalization;
    assert_eq!(normalization, Normalization::DecodeAndMergeSlashes);
    assert_eq!(manager["merge_slashes"], true);
    assert_eq!(manager["path_with_escaped_slashes_action"], "UNESCAPE_AND_FORWARD");
}

#[test]
fn the_configuration_is_strictly_good() {
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    manifests::assert_strictly_good(&manifests::deployed(&config));
}

#[test]
fn who_has_a_token_passes_as_that_actor_and_nobody_else_does() {
    let mesh = Mesh::start();
    let seen = mesh.get("/orders").headers(&FORGED).bearer(BOT).send().seen();
    assert_eq!(seen.all("x-actor"), [r#"{"id":"my-bot","role":"Viewer"}"#]);
    assert_eq!(seen.all("x-actor-id"), ["my-bot"]);
    assert_eq!(seen.all("x-actor-role"), ["Viewer"]);
    // All headers come to us, so names that fold onto an actor header are found without Envoy's help.
    for gone in ["x_actor_role", "x.actor.name", "x-actor-name", "authorization"] {
        assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
    }
    assert!(!format!("{seen:?}").contains(BOT), "{seen:?}");

    assert_eq!(mesh.get("/orders").send().verdict(), (401, "unauthorized".into()));
    assert_eq!(mesh.get("/orders").bearer("nobody-token").send().verdict(), (401, "invalid_token".into()));
    let refusal = mesh.get("/orders").send();
    assert_eq!(refusal.all("www-authenticate"), [r#"Bearer realm="api""#]);
    mesh.assert_no_fault();
}

#[test]
fn our_routes_choose_the_policy_by_host_and_path() {
    let mesh = Mesh::start();
    // However the path is written: what we judge is what the application gets.
    for path in ["/admin", "/admin/users", "//admin", "/orders/../admin", "/public%2f..%2fadmin", "/%61dmin"]
    {
        assert_eq!(mesh.get(path).bearer(BOT).send().status, 403, "{path}");
        assert_eq!(mesh.get(path).send().status, 401, "{path}");
        assert_eq!(mesh.get(path).bearer(CI).send().status, 200, "{path}");
    }
    let admin = || mesh.get("/orders").host("admin.shop.example:8080");
    assert_eq!(admin().bearer(BOT).send().status, 403);
    assert_eq!(admin().bearer(CI).send().seen().all("x-actor-role"), ["Admin"]);

    let seen = mesh.get("/public/x").headers(&FORGED).send().seen();
    let left: Vec<_> = seen.headers.iter().filter(|(name, _)| name.contains("actor")).collect();
    assert!(left.is_empty(), "{left:?}");
    mesh.assert_no_fault();
}

#[test]
fn with_the_paths_of_istios_default_what_can_be_read_in_two_ways_is_refused() {
    let fixture = manifests::text(FIXTURE);
    let fixture = replace(&fixture, "          merge_slashes: true\n", "");
    let fixture = replace(&fixture, "UNESCAPE_AND_FORWARD\n", "KEEP_UNCHANGED\n");
    let mesh = Mesh::of(&fixture, "127.0.0.1:0");
    for path in ["//admin", "/public/..%2fadmin", "/public%5cx"] {
        assert_eq!(mesh.get(path).bearer(CI).send().verdict(), (400, "invalid_request".into()), "{path}");
    }
    assert_eq!(mesh.get("/orders/../admin").bearer(BOT).send().status, 403);
    mesh.assert_no_fault();
}

#[test]
fn credentials_that_envoy_has_joined_or_mended_are_not_taken_for_one() {
    let mesh = Mesh::start();
    let twice = || mesh.get("/orders").bearer(BOT).bearer(BOT);
    assert_eq!(twice().send().verdict(), (400, "invalid_request".into()));
    // A byte that is no UTF-8 comes as `!`.
    let mended = mesh
        .get("/orders")
        .header("authorization", [b"Bearer ".as_slice(), BOT.as_bytes(), b"\xff"].concat());
    assert_eq!(mended.send().verdict(), (401, "invalid_token".into()));
    let other = mesh.get("/orders").header("x-note", b"caf\xe9".as_slice()).bearer(BOT);
    assert_eq!(other.send().status, 200);
    mesh.assert_no_fault();
}

#[test]
fn all_the_headers_that_envoy_lets_in_come_to_us() {
    let mesh = Mesh::start();
    let mut request = mesh.get("/orders").headers(&FORGED).bearer(BOT);
    for number in 0..80 {
        request = request.header(&format!("x-filler-{number}"), "v".repeat(100));
    }
    let seen = request.header("cookie", format!("a={}", "c".repeat(40 * 1024))).send().seen();
    assert_eq!(seen.all("x-actor-id"), ["my-bot"]);
    assert_eq!(seen.headers.iter().filter(|(name, _)| name.starts_with("x-filler-")).count(), 80);
    mesh.assert_no_fault();
}

#[test]
fn where_istio_does_not_ask_the_envoy_filter_takes_away_what_the_client_says_of_itself() {
    let probe = |mesh: &Mesh| mesh.get("/healthz").headers(&FORGED).send().seen();
    let actors = |seen: &Seen| seen.headers.iter().filter(|(name, _)| name.contains("actor")).count();
    // The reason for the file.
    let mesh = Mesh::start();
    assert_eq!(actors(&probe(&mesh)), FORGED.len());
    assert!(mesh.server.decisions().is_empty());

    // Istio merges the patch into every connection manager of the application.
    let resources = resources();
    let filter = manifests::find(&resources, "EnvoyFilter", "strip-actor-headers");
    let patch = &filter["spec"]["configPatches"][0]["patch"]["value"]["typed_config"];
    let mut fixture = manifests::fixture(&manifests::text(FIXTURE));
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let manager = fixture.pointer_mut(manager).unwrap();
    assert_eq!(manager["@type"], patch["@type"]);
    manager.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    let mesh = Mesh::of(&fixture.to_string(), "127.0.0.1:0");
    assert_eq!(actors(&probe(&mesh)), 0);
    let seen = mesh.get("/orders").headers(&FORGED).bearer(BOT).send().seen();
    assert_eq!(seen.all("x-actor-id"), ["my-bot"]);
    mesh.assert_no_fault();
}

#[test]
fn when_we_are_gone_nobody_passes_and_the_client_may_retry() {
    let mut mesh = Mesh::start();
    assert_eq!(mesh.get("/orders").bearer(BOT).send().status, 200);
    mesh.server.kill();
    assert_eq!(mesh.get("/orders").bearer(BOT).send().status, 503);
    assert_eq!(mesh.upstream.calls(), 1);
}

#[test]
fn the_unix_socket_of_the_comment_works() {
    let comment = "  #- address: unix:///run/envoy-auth-tokens/ext_authz.sock\n";
    let entry = manifests::text(&format!("{FOLDER}/sidecar.yaml"));
    let entry = replace(&entry, "  - address: 127.0.0.1\n", "");
    let entry = replace(&entry, comment, &comment.replacen('#', "", 1));
    let document: Value = serde_saphyr::from_str(&entry).unwrap();
    assert_eq!(document["spec"]["endpoints"].as_array().unwrap().len(), 1);
    let resource = Resource { name: "sidecar.yaml".to_owned(), document };
    assert_eq!(manifests::wrong(&[resource]), [""; 0]);

    // Istio makes a pipe of it.
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("ext_authz.sock");
    let mesh = Mesh::of(&manifests::text(FIXTURE), &format!("unix:{}", socket.display()));
    assert_eq!(mesh.get("/orders").bearer(BOT).send().status, 200);
    assert_eq!(mesh.get("/orders").send().status, 401);
    mesh.assert_no_fault();
}

#[test]
fn the_shared_form_is_called_by_its_service_name() {
    let shared = provider("envoy-auth-tokens-shared");
    let (_, host) = shared.namespace_and_host();
    let fixture = manifests::text(FIXTURE).replace("ext-authz.local", host);
    assert!(fixture.contains(&format!("cluster_name: outbound|{}||{host}", shared.port)));
    let mesh = Mesh::of(&fixture, "127.0.0.1:0");
    assert_eq!(mesh.get("/orders").bearer(BOT).send().status, 200);
    assert_eq!(mesh.get("/orders").send().status, 401);
    mesh.assert_no_fault();
}
