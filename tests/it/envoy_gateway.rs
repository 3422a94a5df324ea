//! `deploy/envoy-gateway`: its resources against the projects' schemas, and a real Envoy with the configuration that
//! Envoy Gateway makes of them.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::envoy::{Envoy, Program};
use crate::harness::http1::Request;
use crate::harness::manifests::{self, BOT, CI, Resource, replace};
use crate::harness::pki::{Ca, Pair};
use crate::harness::server::{ListenAddress, Setup};
use crate::harness::{Server, Shape, Upstream};

const FOLDER: &str = "deploy/envoy-gateway";
const FIXTURE: &str = "tests/fixtures/envoy-gateway/envoy.yaml";
const FILES: [&str; 4] = ["gateway.yaml", "security-policy.yaml", "tls.yaml", "sidecar.yaml"];
const POLICIES: [&str; 3] = ["tokens", "tokens-admin", "tokens-public"];

fn resources() -> Vec<Resource> {
    manifests::resources(FOLDER, &FILES)
}

/// The certificates that the Secrets would hold.
struct Certificates {
    ca: Ca,
    server: Pair,
    envoy: Pair,
}

impl Certificates {
    fn new() -> Self {
        let ca = Ca::new("the cluster's authority");
        let (server, envoy) = (ca.issue(&["ext-authz.local"]), ca.issue(&["envoy.example.org"]));
        Self { ca, server, envoy }
    }

    /// Beside our configuration, as the Deployment mounts them.
    fn mounted(&self, setup: Setup) -> Setup {
        std::fs::create_dir(setup.folder().join("tls")).unwrap();
        let setup = setup.file("tls/tls.crt", &self.server.cert).file("tls/tls.key", &self.server.key);
        setup.file("tls/ca.crt", &self.ca.pem())
    }

    /// In a folder of Envoy's.
    fn of_envoy(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.crt", &self.ca.pem());
        write("tls.crt", &self.envoy.cert);
        write("tls.key", &self.envoy.key);
        folder
    }
}

/// The configuration of the folder, on free ports.
fn config() -> String {
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    let config = replace(&config, "listen: 0.0.0.0:9191", "listen: 127.0.0.1:0");
    format!("{config}probes: {{listen: \"127.0.0.1:0\"}}\n")
}

struct Gateway {
    envoy: Envoy,
    server: Server,
    upstream: Upstream,
    _certificates: TempDir,
}

impl Gateway {
    fn start() -> Self {
        Self::of(&manifests::text(FIXTURE))
    }

    /// This fixture, with certificates of ours.
    fn of(fixture: &str) -> Self {
        let certificates = Certificates::new();
        let folder = certificates.of_envoy();
        let fixture = fixture.replace("certificates/", &format!("{}/", folder.path().display()));
        let server = certificates.mounted(manifests::deployed(&config())).start();
        Self::before(server, manifests::fixture(&fixture), folder)
    }

    fn before(server: Server, mut fixture: Value, certificates: TempDir) -> Self {
        let upstream = Upstream::start();
        manifests::lead(&mut fixture, "httproute/", &ListenAddress::Tcp(upstream.address()));
        manifests::lead(&mut fixture, "securitypolicy/", server.listen_address());
        Self { envoy: manifests::envoy(fixture), server, upstream, _certificates: certificates }
    }

    fn get(&self, target: &str) -> Request {
        Request::new(self.envoy.address(), "GET", target).host("shop.example")
    }

    /// After any test but that of a dead server.
    fn assert_no_fault(&self) {
        self.envoy.assert_no_fault_of(&self.server);
    }
}

const FORGED: [(&str, &str); 4] = [
    ("x-actor", r#"{"id":"root"}"#),
    ("X-Actor-Id", "root"),
    ("x-actor-role", "Admin"),
    ("x.actor.name", "Root"),
];

#[test]
fn the_resources_are_valid() {
    manifests::assert_all_files(FOLDER, &[&FILES[..], &["config.yaml", "module.yaml"]].concat());
    let wrong = manifests::wrong(&resources());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_unknown_field_and_no_wrong_type_escapes_the_schemas() {
    manifests::assert_the_schemas_bite(&resources());
}

#[test]
fn the_configuration_is_strictly_good() {
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    manifests::assert_strictly_good(&Certificates::new().mounted(manifests::deployed(&config)));
}

#[test]
fn the_files_speak_of_each_other_by_their_right_names() {
    let resources = resources();
    let config: Value = serde_saphyr::from_str(&manifests::text(&format!("{FOLDER}/config.yaml"))).unwrap();
    let mut named = Vec::new();
    for name in POLICIES {
        let spec = &manifests::find(&resources, "SecurityPolicy", name)["spec"];
        let target = &spec["targetRefs"][0];
        manifests::find(&resources, target["kind"].as_str().unwrap(), target["name"].as_str().unwrap());
        assert_eq!(spec["extAuth"]["failOpen"], false);
        if let Some(policy) = spec["extAuth"]["contextExtensions"][0]["value"].as_str() {
            assert!(config["policies"][policy].is_object(), "config.yaml has no policy {policy}");
            named.push(policy.to_owned());
        }
    }
    assert_eq!(named, ["admin", "public"], "the other one takes what the routes say");
    let tls = manifests::find(&resources, "BackendTLSPolicy", "envoy-auth-tokens");
    let service =
        &manifests::find(&resources, "SecurityPolicy", "tokens")["spec"]["extAuth"]["grpc"]["backendRefs"][0];
    assert_eq!(tls["spec"]["targetRefs"][0]["name"], service["name"]);
    assert_eq!(tls["metadata"]["namespace"], service["namespace"]);
}

#[test]
fn we_are_shown_the_headers_that_the_hardened_envoy_shows_us() {
    let envoy = manifests::fixture(&manifests::text("deploy/envoy.yaml"));
    let manager =
        &envoy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let patterns =
        manager["http_filters"][0]["typed_config"]["allowed_headers"]["patterns"].as_array().unwrap();
    // Envoy Gateway knows no patterns here: each stands for the names that it folds.
    let names = |pattern: &serde_json::Value| match pattern["exact"].as_str() {
        Some(name) => vec![name.to_owned()],
        None => {
            let expression = pattern["safe_regex"]["regex"].as_str().expect("an expression");
            expression.replace("[^a-z0-9]", "-").split('|').map(str::to_owned).collect()
        }
    };
    let allowed: Vec<_> = patterns.iter().flat_map(names).collect();
    let resources = resources();
    for name in POLICIES {
        let policy = manifests::find(&resources, "SecurityPolicy", name);
        assert_eq!(policy["spec"]["extAuth"]["headersToExtAuth"], json!(allowed), "{name}");
    }
}

#[test]
fn the_fixture_is_what_envoy_gateway_makes_of_the_files() {
    let fixture = manifests::fixture(&manifests::text(FIXTURE));
    let manager =
        &fixture["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_array().unwrap();
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap();
    let resources = resources();
    for name in POLICIES {
        let policy = manifests::find(&resources, "SecurityPolicy", name);
        let auth = &policy["spec"]["extAuth"];
        let id = format!("securitypolicy/{}/{name}", policy["metadata"]["namespace"].as_str().unwrap());
        let filter_name = format!("envoy.filters.http.ext_authz/{id}");

        let filter = filters.iter().find(|filter| filter["name"] == filter_name).unwrap();
        assert_eq!(filter["disabled"], true, "{name}");
        let service = &auth["grpc"]["backendRefs"][0];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let authority =
            format!("{}.{}:{}", text(&service["name"]), text(&service["namespace"]), service["port"]);
        let retry = &auth["grpc"]["backendSettings"]["retry"];
        let triggers = retry["retryOn"]["triggers"].as_array().unwrap();
        let triggers: Vec<_> = triggers.iter().map(text).collect();
        let seconds = |value: &Value| format!("0.{:0>3}s", text(value).trim_end_matches("ms"));
        let back_off = &retry["perRetry"]["backOff"];
        let headers = auth["headersToExtAuth"].as_array().unwrap();
        let patterns: Vec<_> =
            headers.iter().map(|header| json!({ "exact": header, "ignore_case": true })).collect();
        assert_eq!(
            filter["typed_config"],
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": {
                    "timeout": auth["timeout"],
                    "envoy_grpc": { "cluster_name": format!("{id}/extauth/0"), "authority": authority },
                    "retry_policy": {
                        "num_retries": retry["numRetries"],
                        "retry_on": triggers.join(","),
                        "retry_back_off": {
                            "base_interval": seconds(&back_off["baseInterval"]),
                            "max_interval": seconds(&back_off["maxInterval"]),
                        },
                    },
                },
                "allowed_headers": { "patterns": patterns },
            }),
            "{name}"
        );

        // On again at its own routes, with the policy that it names.
        let settings = match &auth["contextExtensions"] {
            Value::Array(extensions) => {
                let pairs = extensions.iter().map(|each| (text(&each["name"]), each["value"].clone()));
                json!({ "context_extensions": Value::from_iter(pairs) })
            }
            _ => json!({}),
        };
        let own: Vec<_> = routes
            .iter()
            .filter(|route| route["typed_per_filter_config"][&filter_name].is_object())
            .collect();
        assert_eq!(own.len(), 1, "{name}");
        assert_eq!(own[0]["typed_per_filter_config"][&filter_name]["check_settings"], settings, "{name}");
        let target = text(&policy["spec"]["targetRefs"][0]["name"]);
        assert_eq!(own[0]["route"]["cluster"], format!("httproute/shop/{target}/rule/0"));
    }

    let early =
        &manifests::find(&resources, "ClientTrafficPolicy", "shop")["spec"]["headers"]["earlyRequestHeaders"];
    let removals = early["remove"].as_array().unwrap().iter().map(|name| json!({ "remove": name }));
    let matches = early["removeOnMatch"].as_array().unwrap().iter().map(
        |each| json!({ "remove_on_match": { "key_matcher": { "safe_regex": { "regex": each["value"] } } } }),
    );
    let mutations = &manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"];
    assert_eq!(mutations, &Value::from_iter(removals.chain(matches)));

    // TLS as BackendTLSPolicy and EnvoyProxy say.
    let hostname = &manifests::find(&resources, "BackendTLSPolicy", "envoy-auth-tokens")["spec"]["validation"]
        ["hostname"];
    let mut clusters = 0;
    for cluster in fixture["static_resources"]["clusters"].as_array().unwrap() {
        if cluster["name"].as_str().unwrap().starts_with("securitypolicy/") {
            clusters += 1;
            let tls = &cluster["transport_socket_matches"][0]["transport_socket"]["typed_config"];
            assert_eq!(&tls["sni"], hostname);
            assert!(tls["common_tls_context"]["tls_certificates"][0].is_object());
        }
    }
    assert_eq!(clusters, POLICIES.len());
}

#[test]
fn who_has_a_token_passes_as_that_actor_and_nobody_else_does() {
    let gateway = Gateway::start();
    let seen = gateway.get("/orders").headers(&FORGED).bearer(BOT).send().seen();
    assert_eq!(seen.all("x-actor"), [r#"{"id":"my-bot","role":"Viewer"}"#]);
    assert_eq!((seen.all("x-actor-id"), seen.all("x-actor-role")), (vec!["my-bot"], vec!["Viewer"]));
    for gone in ["x.actor.name", "x-actor-name", "authorization"] {
        assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
    }
    assert!(!format!("{seen:?}").contains(BOT), "{seen:?}");

    let refusal = gateway.get("/orders").send();
    assert_eq!(refusal.verdict(), (401, "unauthorized".into()));
    assert_eq!(refusal.all("www-authenticate"), [r#"Bearer realm="api""#]);
    assert_eq!(gateway.get("/orders").bearer("nobody-token").send().verdict(), (401, "invalid_token".into()));
    assert_eq!(gateway.get("/orders").header("x_actor_id", "root").bearer(BOT).send().status, 400);
    gateway.assert_no_fault();
}

#[test]
fn the_security_policy_of_a_route_chooses_our_policy() {
    let gateway = Gateway::start();
    for path in ["/admin", "/admin/users", "//admin", "/orders/../admin", "/public/..//admin/x"] {
        assert_eq!(gateway.get(path).bearer(BOT).send().status, 403, "{path}");
        assert_eq!(gateway.get(path).send().status, 401, "{path}");
        assert_eq!(gateway.get(path).bearer(CI).send().seen().all("x-actor-role"), ["Admin"], "{path}");
    }
    assert_eq!(gateway.get("/public%2f..%2fadmin").bearer(BOT).send().status, 307);

    let seen = gateway.get("/public/x").headers(&FORGED).send().seen();
    let left: Vec<_> = seen.headers.iter().filter(|(name, _)| name.contains("actor")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(gateway.get("/public/x").bearer("nobody-token").send().status, 401);
    for policy in ["admin", "public"] {
        let named = format!(r#""policy":"{policy}""#);
        gateway.server.log().wait_for(&named, |line| line.contains(&named).then_some(()));
    }
    gateway.assert_no_fault();
}

#[test]
fn a_policy_that_we_do_not_know_lets_nobody_pass() {
    let fixture = replace(&manifests::text(FIXTURE), "{ policy: public }", "{ policy: pubic }");
    let gateway = Gateway::of(&fixture);
    assert_eq!(gateway.get("/public/x").bearer(CI).send().verdict(), (403, "insufficient_scope".into()));
    assert_eq!(gateway.upstream.calls(), 0);
}

#[test]
fn a_route_without_a_policy_of_ours_takes_no_actor_header_from_a_client() {
    // As if somebody had added a route to a Gateway that has no SecurityPolicy.
    let fixture = manifests::text(FIXTURE).replace("check_settings: {}", "disabled: true");
    let gateway = Gateway::of(&fixture);
    let seen = gateway.get("/orders").headers(&FORGED).send().seen();
    let left: Vec<_> = seen.headers.iter().filter(|(name, _)| name.contains("actor")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(gateway.server.decisions().is_empty());
}

#[test]
fn credentials_that_envoy_has_joined_or_mended_are_not_taken_for_one() {
    let gateway = Gateway::start();
    let twice = gateway.get("/orders").bearer(BOT).bearer(BOT);
    assert_eq!(twice.send().verdict(), (400, "invalid_request".into()));
    let mended = gateway
        .get("/orders")
        .header("authorization", [b"Bearer ".as_slice(), BOT.as_bytes(), b"\xff"].concat());
    assert_eq!(mended.send().verdict(), (401, "invalid_token".into()));
    gateway.assert_no_fault();
}

#[test]
fn many_and_large_headers_pass_by_us() {
    let gateway = Gateway::start();
    let mut request = gateway.get("/orders").headers(&FORGED).bearer(BOT);
    for number in 0..80 {
        request = request.header(&format!("x-filler-{number}"), "v".repeat(100));
    }
    let seen = request.header("cookie", format!("a={}", "c".repeat(40 * 1024))).send().seen();
    assert_eq!(seen.all("x-actor-id"), ["my-bot"]);
    assert_eq!(seen.headers.iter().filter(|(name, _)| name.starts_with("x-filler-")).count(), 80);
    gateway.assert_no_fault();
}

#[test]
fn when_we_are_gone_nobody_passes_and_since_1_8_the_client_may_retry() {
    let mut gateway = Gateway::start();
    assert_eq!(gateway.get("/orders").bearer(BOT).send().status, 200);
    gateway.server.kill();
    for path in ["/orders", "/admin", "/public/x"] {
        assert_eq!(gateway.get(path).bearer(BOT).send().status, 403, "{path}");
    }
    assert_eq!(gateway.upstream.calls(), 1);

    // Each policy has the line, and Envoy Gateway 1.8 makes this of it.
    let policies = manifests::text(&format!("{FOLDER}/security-policy.yaml"));
    assert_eq!(policies.matches("\n    #statusOnError: 503\n").count(), POLICIES.len());
    let transport = "transport_api_version: V3\n";
    let status = format!("{transport}              status_on_error: {{ code: ServiceUnavailable }}\n");
    let mut gateway = Gateway::of(&manifests::text(FIXTURE).replace(transport, &status));
    gateway.server.kill();
    assert_eq!(gateway.get("/orders").bearer(BOT).send().status, 503);
    assert_eq!(gateway.upstream.calls(), 0);
}

#[test]
fn an_envoy_of_somebody_else_learns_nothing_from_us() {
    let certificates = Certificates::new();
    let stranger = Certificates { envoy: certificates.ca.issue(&["other.example.org"]), ..certificates };
    let folder = stranger.of_envoy();
    let fixture = manifests::text(FIXTURE).replace("certificates/", &format!("{}/", folder.path().display()));
    let server = stranger.mounted(manifests::deployed(&config())).start();
    let gateway = Gateway::before(server, manifests::fixture(&fixture), folder);
    assert_eq!(gateway.get("/orders").bearer(BOT).send().status, 403);
    assert!(gateway.server.decisions().is_empty());
}

#[test]
fn the_unix_socket_of_the_sidecar_form_works() {
    // Envoy Gateway makes a pipe of the Backend, without TLS, and calls us by the Backend's name.
    let resources = resources();
    let backend = manifests::find(&resources, "Backend", "envoy-auth-tokens");
    let socket = &backend["spec"]["endpoints"][0]["unix"]["path"];
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    assert!(config.contains(&format!("`listen: \"unix:{}\"`", socket.as_str().unwrap())));
    let (before, rest) = config.split_once("  listen: 0.0.0.0:9191\n").unwrap();
    let (_, after) = rest.split_once("# In the shared form the kubelet").unwrap();

    let folder = TempDir::new().unwrap();
    let listen = format!("unix:{}", folder.path().join("ext_authz.sock").display());
    let config = format!(
        "{before}  listen: \"{listen}\"\nprobes: {{listen: \"127.0.0.1:0\"}}\n# `check` warns{after}"
    );
    let setup = manifests::deployed(&config);
    manifests::assert_strictly_good(&setup);

    let fixture = manifests::text(FIXTURE)
        .replace("authority: envoy-auth-tokens.envoy-auth-tokens:9191", "authority: envoy-auth-tokens.shop");
    let mut fixture = manifests::fixture(&fixture);
    for cluster in fixture["static_resources"]["clusters"].as_array_mut().unwrap() {
        cluster.as_object_mut().unwrap().remove("transport_socket_matches");
    }
    let gateway = Gateway::before(setup.start(), fixture, folder);
    assert_eq!(gateway.get("/orders").bearer(BOT).send().status, 200);
    assert_eq!(gateway.get("/orders").send().status, 401);
    assert_eq!(gateway.get("/admin").bearer(BOT).send().status, 403);
    gateway.assert_no_fault();
}

#[test]
fn the_module_inside_decides_with_what_envoy_gateway_hands_it() {
    let mut resources = manifests::resources(FOLDER, &["module.yaml"]);
    // The published schemas are older than these two fields: the rest is held against them.
    let [proxy, policy] = &mut resources[..] else { panic!("two resources") };
    let modules = proxy.document["spec"].as_object_mut().unwrap().remove("dynamicModules").unwrap();
    let filters = policy.document["spec"].as_object_mut().unwrap().remove("dynamicModule").unwrap();
    assert_eq!(manifests::wrong(&resources), [""; 0]);

    let [module, filter] = [&modules[0], &filters[0]];
    assert_eq!(module["name"], filter["name"]);
    let path = module["source"]["local"]["path"].as_str().unwrap();
    let mounts = &resources[0].document["spec"]["provider"]["kubernetes"]["envoyDeployment"]["container"];
    let folders: Vec<_> =
        mounts["volumeMounts"].as_array().unwrap().iter().map(|at| &at["mountPath"]).collect();
    assert!(path.starts_with(folders[0].as_str().unwrap()), "{path}");
    let config = filter["config"]["config"].as_str().unwrap();
    assert!(config.starts_with(folders[1].as_str().unwrap()), "{config}");

    // The configuration comes as a Struct, and not as a text.
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    let server = Certificates::new().mounted(manifests::deployed(&config)).start();
    let upstream = Upstream::start();
    let shape = Shape::plain().inside();
    let mut envoy = shape.config(&server, &upstream);
    let settings = json!({ "config": server.folder().join("config.yaml") });
    let found = replace_filter_config(
        &mut envoy,
        &json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": settings }),
    );
    assert_eq!(found, 1, "{envoy:#}");
    let environment = [("ENVOY_AUTH_TOKENS_FOLDER".to_owned(), server.folder().display().to_string())];
    let environment = environment.into_iter().chain(server.environment().iter().cloned()).collect();
    let envoy = Envoy::running(&envoy.to_string(), &Program { environment, ..Program::default() });
    let get = |path: &str| Request::new(envoy.address(), "GET", path).host("shop.example");
    assert_eq!(get("/orders").bearer(BOT).send().seen().all("x-actor-role").len(), 1);
    assert_eq!(get("/orders").send().status, 401);
}

/// Puts this in the place of each `filter_config` of the module, and says how many there are.
fn replace_filter_config(value: &mut Value, config: &Value) -> usize {
    match value {
        Value::Object(members) => {
            let here = usize::from(members.contains_key("filter_config"));
            if here == 1 {
                members.insert("filter_config".to_owned(), config.clone());
            }
            here + members.values_mut().map(|member| replace_filter_config(member, config)).sum::<usize>()
        }
        Value::Array(elements) => {
            elements.iter_mut().map(|element| replace_filter_config(element, config)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[test]
fn a_policy_with_the_backend_of_the_sidecar_form_is_valid() {
    let sidecar = manifests::text(&format!("{FOLDER}/sidecar.yaml"));
    let line = sidecar.lines().find_map(|line| line.strip_prefix("#   - { group: gateway.envoyproxy.io"));
    let backend = format!("- {{ group: gateway.envoyproxy.io{}", line.expect("the line to write instead"));
    let policies = manifests::text(&format!("{FOLDER}/security-policy.yaml"));
    let service = "- { name: envoy-auth-tokens, namespace: envoy-auth-tokens, port: 9191 }";
    assert_eq!(policies.matches(service).count(), POLICIES.len());
    let documents: Vec<Value> = serde_saphyr::from_multiple(&policies.replace(service, &backend)).unwrap();
    let resources = documents.into_iter().enumerate();
    let resources = resources.map(|(number, document)| Resource { name: number.to_string(), document });
    assert_eq!(manifests::wrong(&resources.collect::<Vec<_>>()), [""; 0]);
}
